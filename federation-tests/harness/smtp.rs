//! A mail relay that keeps what it is handed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{Leaf, eventually};

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

/// A mail relay on loopback. Dropped, it is gone.
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
    logins: Vec<String>,
}

/// How the line to it is kept secret.
#[derive(Clone)]
enum Way {
    Plain,
    StartTls(TlsAcceptor),
    Tls(TlsAcceptor),
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
    /// Takes everything until it is told otherwise, without TLS.
    pub async fn start() -> Self {
        Self::start_by(Way::Plain).await
    }

    /// The same in TLS, as `leaf`: from the first byte, or once it is asked to.
    pub async fn start_tls(leaf: &Leaf, from_the_first_byte: bool) -> Self {
        let acceptor = leaf.acceptor_for(&[]);
        Self::start_by(if from_the_first_byte { Way::Tls(acceptor) } else { Way::StartTls(acceptor) }).await
    }

    async fn start_by(way: Way) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = kept.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, way) = (shared.clone(), way.clone());
                // Who breaks off has had enough.
                tokio::spawn(async move { take(stream, &way, &kept).await.ok() });
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

    /// Who has logged in, as `user:password`.
    pub fn logins(&self) -> Vec<String> {
        lock(&self.kept).logins.clone()
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

async fn take(stream: TcpStream, way: &Way, kept: &Mutex<Kept>) -> std::io::Result<()> {
    match way {
        Way::Plain => converse(&mut BufReader::new(stream), kept, false, true).await.map(drop),
        Way::Tls(acceptor) => {
            let stream = acceptor.accept(stream).await?;
            converse(&mut BufReader::new(stream), kept, false, true).await.map(drop)
        }
        Way::StartTls(acceptor) => {
            let mut line = BufReader::new(stream);
            if !converse(&mut line, kept, true, true).await? {
                return Ok(());
            }
            let stream = acceptor.accept(line.into_inner()).await?;
            converse(&mut BufReader::new(stream), kept, false, false).await.map(drop)
        }
    }
}

/// Answers whether the line is to become TLS now. Where that is offered, nothing else is taken.
///
/// Spec: <https://www.rfc-editor.org/rfc/rfc5321>, <https://www.rfc-editor.org/rfc/rfc3207>
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    line: &mut BufReader<S>,
    kept: &Mutex<Kept>,
    offers_tls: bool,
    greets: bool,
) -> std::io::Result<bool> {
    let mut to = Vec::new();
    if greets {
        line.write_all(b"220 sink.test\r\n").await?;
    }
    loop {
        line.flush().await?;
        let Some(said) = next(line).await? else { return Ok(false) };
        let verb = said.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" if offers_tls => "250-sink.test\r\n250 STARTTLS",
            "EHLO" | "HELO" => "250-sink.test\r\n250 AUTH PLAIN",
            "STARTTLS" if offers_tls => {
                line.write_all(b"220 go on\r\n").await?;
                line.flush().await?;
                return Ok(true);
            }
            "NOOP" => "250 ok",
            "QUIT" => {
                line.write_all(b"221 bye\r\n").await?;
                line.flush().await?;
                return Ok(false);
            }
            _ if offers_tls => "530 not in the open",
            "AUTH" => {
                let secret = said.rsplit(' ').next().unwrap_or_default();
                let secret = STANDARD.decode(secret).unwrap_or_default();
                lock(kept).logins.push(String::from_utf8_lossy(&secret).trim_matches('\0').replace('\0', ":"));
                "235 ok"
            }
            "MAIL" | "RSET" => {
                to.clear();
                "250 ok"
            }
            "RCPT" => {
                let answer = lock(kept).answer();
                if answer.starts_with('2') {
                    to.extend(said.split(['<', '>']).nth(1).map(str::to_owned));
                }
                answer
            }
            "DATA" => {
                line.write_all(b"354 go on\r\n").await?;
                line.flush().await?;
                let mut text = String::new();
                while let Some(said) = next(line).await?.filter(|said| said != ".") {
                    text.push_str(said.strip_prefix('.').unwrap_or(&said));
                    text.push_str("\r\n");
                }
                lock(kept).letters.push(Posted { to: to.clone(), text: decoded(&text) });
                "250 kept"
            }
            _ => "502 what?",
        };
        line.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

/// A line without its end; `None`: there are no more.
async fn next<S: AsyncRead + Unpin>(line: &mut BufReader<S>) -> std::io::Result<Option<String>> {
    let mut said = String::new();
    if line.read_line(&mut said).await? == 0 {
        return Ok(None);
    }
    Ok(Some(said.trim_end_matches(['\r', '\n']).to_owned()))
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
