//! ClamAV's daemon, as far as a server that hands it files can tell.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// How a [`Clamd`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It looks at files, and says what is in them.
    Well,
    /// It says something else.
    Confused,
    /// It hangs up in the middle.
    Abrupt,
    /// It listens, and says nothing at all.
    Silent,
}

/// It speaks the real protocol, and has one signature: [`Clamd::VIRUS`]. Dropped, it is gone.
pub struct Clamd {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

struct Shared {
    mood: Mood,
    /// Of each file that was read to its end, how many bytes it had.
    looked_at: Vec<usize>,
}

impl Clamd {
    /// A file with this in it is infected.
    pub const VIRUS: &str = "comity-infected-marker";
    /// What that is called.
    pub const SIGNATURE: &str = "Comity.Test.Marker.UNOFFICIAL";
    /// The longest file that it takes.
    pub const MOST: usize = 1 << 20;

    /// It listens, and is well.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Mutex::new(Shared { mood: Mood::Well, looked_at: Vec::new() }));
        let kept = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                // Who breaks off has had enough.
                tokio::spawn(async move { answer(stream, &kept).await.ok() });
            }
        });
        Self { address, shared, task }
    }

    /// `127.0.0.1:3310`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on it is like that.
    pub fn be(&self, mood: Mood) {
        lock(&self.shared).mood = mood;
    }

    /// How long the files were that it has looked at.
    pub fn looked_at(&self) -> Vec<usize> {
        lock(&self.shared).looked_at.clone()
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(mut stream: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut command = [0; 10];
    stream.read_exact(&mut command).await?;
    if &command != b"zINSTREAM\0" {
        return stream.write_all(b"UNKNOWN COMMAND\0").await;
    }
    let mood = lock(shared).mood;
    let mut file = Vec::new();
    loop {
        let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        if length == 0 {
            break;
        }
        if file.len() + length > Clamd::MOST {
            // As the real one: it says so, reads no more and hangs up.
            return stream.write_all(b"INSTREAM size limit exceeded. ERROR\0").await;
        }
        let begin = file.len();
        file.resize(begin + length, 0);
        stream.read_exact(&mut file[begin..]).await?;
        if mood == Mood::Abrupt {
            return Ok(());
        }
    }
    lock(shared).looked_at.push(file.len());
    let is_infected = file.windows(Clamd::VIRUS.len()).any(|window| window == Clamd::VIRUS.as_bytes());
    match mood {
        Mood::Silent => std::future::pending().await,
        Mood::Confused => stream.write_all(b"stream: OK, or so I think\0").await,
        _ if is_infected => stream.write_all(format!("stream: {} FOUND\0", Clamd::SIGNATURE).as_bytes()).await,
        _ => stream.write_all(b"stream: OK\0").await,
    }
}
