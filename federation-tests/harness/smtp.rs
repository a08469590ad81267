//! A mail relay that keeps what it is handed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::eventually;

/// A letter that a [`MailSink`] was handed.
#[derive(Clone, Debug)]
pub struct Posted {
    /// To whom.
    pub to: Vec<String>,
    /// The headers as they came, an empty line, and the text, decoded.
    pub text: String,
}

impl Posted {
    /// The first number of eight digits in it.
    #[track_caller]
    pub fn code(&self) -> String {
        let body = self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let word = body.split(|c: char| !c.is_ascii_digit()).find(|word| word.len() == 8);
        word.unwrap_or_else(|| panic!("no code in {body:?}")).to_owned()
    }
}

/// A mail relay on loopback, without TLS. Dropped, it is gone.
pub struct MailSink {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Kept {
    letters: Vec<Posted>,
    /// How many it will say 451 to, and how many 550.
    to_put_off: usize,
    to_refuse: usize,
    turned_away: usize,
}

impl Kept {
    /// What it says to who names somebody to write to.
    fn answer(&mut self) -> &'static str {
        if self.to_put_off > 0 {
            self.to_put_off -= 1;
            self.turned_away += 1;
            return "451 later";
        }
        if self.to_refuse > 0 {
            self.to_refuse -= 1;
            self.turned_away += 1;
            return "550 nobody here";
        }
        "250 ok"
    }
}

impl MailSink {
    /// Takes everything until it is told otherwise.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = kept.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = shared.clone();
                // Who breaks off has had enough.
                tokio::spawn(async move { converse(stream, &kept).await.ok() });
            }
        });
        Self { address, kept, task }
    }

    /// Where it is, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Says to the next so many that they may come later.
    pub fn put_off(&self, count: usize) {
        lock(&self.kept).to_put_off = count;
    }

    /// Says to the next so many that they need not come again.
    pub fn refuse(&self, count: usize) {
        lock(&self.kept).to_refuse = count;
    }

    /// How many it has put off or refused.
    pub fn turned_away(&self) -> usize {
        lock(&self.kept).turned_away
    }

    /// What it was handed so far.
    pub fn letters(&self) -> Vec<Posted> {
        lock(&self.kept).letters.clone()
    }

    /// The first letter to `to` that nobody has taken yet; waits for it.
    pub async fn next_to(&self, to: &str) -> Posted {
        eventually("a letter comes", async || {
            let mut kept = lock(&self.kept);
            let at = kept.letters.iter().position(|letter| letter.to.iter().any(|name| name == to))?;
            Some(kept.letters.remove(at))
        })
        .await
    }
}

impl Drop for MailSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spec: <https://www.rfc-editor.org/rfc/rfc5321>
async fn converse(stream: TcpStream, kept: &Mutex<Kept>) -> std::io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    let mut to = Vec::new();
    writing.write_all(b"220 sink.test\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" | "HELO" => "250 sink.test",
            "MAIL" | "RSET" => {
                to.clear();
                "250 ok"
            }
            "RCPT" => {
                let answer = lock(kept).answer();
                if answer.starts_with('2') {
                    to.extend(line.split(['<', '>']).nth(1).map(str::to_owned));
                }
                answer
            }
            "DATA" => {
                writing.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    text.push_str("\r\n");
                }
                lock(kept).letters.push(Posted { to: to.clone(), text: decoded(&text) });
                "250 kept"
            }
            "NOOP" => "250 ok",
            "QUIT" => {
                writing.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 what?",
        };
        writing.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// The letter with its text as it was before it was encoded for the way.
fn decoded(letter: &str) -> String {
    let (head, body) = letter.split_once("\r\n\r\n").unwrap_or((letter, ""));
    let encoding = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-transfer-encoding").then(|| value.trim().to_ascii_lowercase())
    });
    let bytes = match encoding.as_deref() {
        Some("quoted-printable") => quoted_printable(body),
        Some("base64") => STANDARD.decode(body.replace("\r\n", "")).unwrap_or_default(),
        _ => body.as_bytes().to_vec(),
    };
    format!("{head}\r\n\r\n{}", String::from_utf8_lossy(&bytes))
}

fn quoted_printable(body: &str) -> Vec<u8> {
    let joined = body.replace("=\r\n", "");
    let mut bytes = joined.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'=' {
            decoded.push(byte);
            continue;
        }
        let digits = [bytes.next().unwrap_or_default(), bytes.next().unwrap_or_default()];
        let digits = std::str::from_utf8(&digits).unwrap_or_default();
        decoded.extend(u8::from_str_radix(digits, 16));
    }
    decoded
}
