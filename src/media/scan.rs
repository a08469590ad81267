//! Asks ClamAV's daemon whether there is a virus in a file, as its protocol has it: `zINSTREAM`, the file in pieces, an answer.
//!
//! Own code, because what is out there reads an answer of any length and, where clamd answers before it has read everything, as it
//! does about a file that is too large for it, reports a broken connection instead of the answer.
//!
//! Spec: `INSTREAM` in clamd(8).

use std::{fmt, io, path::PathBuf, pin::pin, str::FromStr, time::Duration};

use metrics::counter;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, split},
    net::{TcpStream, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::{error, warn};

use crate::MediaError;

/// How many bytes go to it at once.
const PIECE: usize = 64 << 10;
/// No honest answer is longer.
const LONGEST_ANSWER: u64 = 4 << 10;
/// How long one waits for the last words of somebody who has hung up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where clamd listens: `127.0.0.1:3310`, or `unix:/run/clamav/clamd.ctl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ClamdAddress {
    /// A host and a port.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// It says nowhere where clamd could listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}; expected an address such as \"127.0.0.1:3310\" or \"unix:/run/clamav/clamd.ctl\"")]
pub struct ClamdAddressError(String);

impl FromStr for ClamdAddress {
    type Err = ClamdAddressError;

    fn from_str(text: &str) -> Result<Self, ClamdAddressError> {
        let wrong = || ClamdAddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        let is_host = !host.is_empty() && !host.contains(char::is_whitespace) && !host.contains('/');
        if is_host && is_port { Ok(Self::Tcp(text.to_owned())) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for ClamdAddress {
    type Error = ClamdAddressError;

    fn try_from(text: String) -> Result<Self, ClamdAddressError> {
        text.parse()
    }
}

impl From<ClamdAddress> for String {
    fn from(address: ClamdAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ClamdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How files are looked at for viruses.
#[derive(Clone, Debug)]
pub struct ScanConfig {
    /// Where clamd listens.
    pub address: ClamdAddress,
    /// How long one file may take, with the wait for its turn.
    pub timeout: Duration,
    /// How many files are looked at, at once.
    pub concurrent: usize,
    /// Whether a file that could not be looked at is refused.
    pub is_required: bool,
}

/// Looks at files for viruses.
pub(crate) struct Scanner {
    config: ScanConfig,
    turns: Semaphore,
}

/// What was found in a file.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Clean,
    /// A virus, by the name that ClamAV has for it.
    Infected(String),
}

/// Why clamd has not said what is in a file.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    #[error("clamd could not be reached, or hung up")]
    Connection(#[source] io::Error),
    #[error("the file could not be read")]
    File(#[source] io::Error),
    #[error("clamd took too long")]
    TooSlow,
    #[error("the file is larger than the StreamMaxLength of clamd.conf")]
    TooLarge,
    #[error("clamd answered {0:?}")]
    Answer(String),
}

impl Scanner {
    pub(crate) fn new(config: ScanConfig) -> Self {
        let turns = Semaphore::new(config.concurrent);
        Self { config, turns }
    }

    /// Refuses a file with a virus in it, and one that could not be looked at unless that is allowed. `sender`, `sha256`: for the
    /// log.
    pub(crate) async fn check(
        &self,
        sender: &str,
        sha256: &str,
        file: impl AsyncRead + Send + Unpin,
    ) -> Result<(), MediaError> {
        let scanned = timeout(self.config.timeout, self.scan_in_turn(file)).await;
        let failure = match scanned.unwrap_or(Err(ScanError::TooSlow)) {
            Ok(Verdict::Clean) => {
                count("clean");
                return Ok(());
            }
            Ok(Verdict::Infected(signature)) => {
                count("infected");
                warn!(sender, signature, sha256, "refused a file in which ClamAV found {signature}");
                return Err(MediaError::Infected);
            }
            Err(failure) => failure,
        };
        let is_too_large = matches!(failure, ScanError::TooLarge);
        count(if is_too_large { "too_large" } else { "failed" });
        let cause = &failure as &dyn std::error::Error;
        if !self.config.is_required {
            warn!(
                error = cause,
                sender,
                sha256,
                "took a file that could not be looked at for viruses, since media.clamd_required is false"
            );
            return Ok(());
        }
        error!(error = cause, sender, sha256, address = %self.config.address, "refused a file that could not be looked at for viruses");
        Err(if is_too_large { MediaError::TooLargeToScan } else { MediaError::NotScanned })
    }

    async fn scan_in_turn(&self, file: impl AsyncRead + Send + Unpin) -> Result<Verdict, ScanError> {
        let Ok(_turn) = self.turns.acquire().await else { return Err(ScanError::TooSlow) };
        match &self.config.address {
            ClamdAddress::Tcp(address) => {
                scan(TcpStream::connect(address).await.map_err(ScanError::Connection)?, file).await
            }
            ClamdAddress::Unix(path) => {
                scan(UnixStream::connect(path).await.map_err(ScanError::Connection)?, file).await
            }
        }
    }
}

fn count(outcome: &'static str) {
    counter!("comity_media_scans_total", "outcome" => outcome).increment(1);
}

async fn scan(
    clamd: impl AsyncRead + AsyncWrite + Send,
    file: impl AsyncRead + Send + Unpin,
) -> Result<Verdict, ScanError> {
    let (from, to) = split(clamd);
    let mut answering = pin!(answer(from));
    tokio::select! {
        biased;
        // It need not read to the end to know, and then reads no more.
        early = &mut answering => early,
        sent = send(to, file) => match sent {
            Ok(()) => answering.await,
            // Who hangs up may have said why.
            Err(error @ ScanError::Connection(_)) => match timeout(LAST_WORDS, answering).await {
                Ok(Err(ScanError::Connection(_))) | Err(_) => Err(error),
                Ok(answer) => answer,
            },
            Err(error) => Err(error),
        },
    }
}

async fn send(
    mut to: impl AsyncWrite + Send + Unpin,
    mut file: impl AsyncRead + Send + Unpin,
) -> Result<(), ScanError> {
    to.write_all(b"zINSTREAM\0").await.map_err(ScanError::Connection)?;
    // A piece and its length go out together.
    let mut piece = vec![0; 4 + PIECE];
    loop {
        let count = file.read(&mut piece[4..]).await.map_err(ScanError::File)?;
        let length = u32::try_from(count).unwrap_or_default();
        piece[..4].copy_from_slice(&length.to_be_bytes());
        to.write_all(&piece[..4 + count]).await.map_err(ScanError::Connection)?;
        // A piece without bytes is the end.
        if count == 0 {
            return to.flush().await.map_err(ScanError::Connection);
        }
    }
}

async fn answer(from: impl AsyncRead + Send + Unpin) -> Result<Verdict, ScanError> {
    let mut answer = Vec::new();
    // With `z` it ends with a NUL; the connection need not end.
    let mut from = BufReader::new(from.take(LONGEST_ANSWER));
    from.read_until(0, &mut answer).await.map_err(ScanError::Connection)?;
    if answer.is_empty() {
        return Err(ScanError::Connection(io::ErrorKind::UnexpectedEof.into()));
    }
    understood(String::from_utf8_lossy(&answer).trim_end_matches('\0'))
}

/// `stream: OK`, `stream: NAME FOUND`, `INSTREAM size limit exceeded. ERROR`, `… ERROR`.
fn understood(answer: &str) -> Result<Verdict, ScanError> {
    let answer = answer.trim();
    if answer == "stream: OK" {
        return Ok(Verdict::Clean);
    }
    let signature = answer.strip_prefix("stream: ").and_then(|rest| rest.strip_suffix(" FOUND"));
    if let Some(signature) = signature.filter(|signature| !signature.is_empty()) {
        return Ok(Verdict::Infected(signature.to_owned()));
    }
    if answer.starts_with("INSTREAM size limit exceeded") {
        return Err(ScanError::TooLarge);
    }
    Err(ScanError::Answer(answer.chars().take(200).collect()))
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn an_address_is_a_host_with_a_port_or_a_path() {
        for right in ["127.0.0.1:3310", "clamav:3310", "[::1]:3310", "unix:/run/clamav/clamd.ctl"] {
            assert_eq!(right.parse::<ClamdAddress>().map(|address| address.to_string()), Ok(right.to_owned()));
        }
        for wrong in ["", "clamav", ":3310", "clamav:0", "clamav:x", "unix:clamd.ctl", "tcp://clamav:3310"] {
            assert!(wrong.parse::<ClamdAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_clamd_says_of_a_clean_file_is_clean() {
        assert!(matches!(understood("stream: OK"), Ok(Verdict::Clean)));
        let found = understood("stream: Win.Test.EICAR_HDB-1 FOUND");
        assert!(matches!(found, Ok(Verdict::Infected(name)) if name == "Win.Test.EICAR_HDB-1"));
        assert!(matches!(understood("INSTREAM size limit exceeded. ERROR"), Err(ScanError::TooLarge)));
        for nonsense in
            ["", "OK", "stream: ", "stream:  FOUND", "HTTP/1.1 200 OK", "stream: Can't allocate memory ERROR"]
        {
            assert!(matches!(understood(nonsense), Err(ScanError::Answer(_))), "{nonsense}");
        }
    }

    #[tokio::test]
    async fn what_clamd_says_before_it_hangs_up_is_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("clamd.ctl");
        let listener = tokio::net::UnixListener::bind(&path).expect("it listens");
        let hanging_up = async {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            stream.read_exact(&mut [0; 100]).await.expect("it sends");
            stream.write_all(b"INSTREAM size limit exceeded. ERROR\0").await.expect("it listens");
        };
        let file = vec![7; 4 << 20];
        let asking = async { scan(UnixStream::connect(&path).await.expect("it is there"), &file[..]).await };
        let (scanned, ()) = tokio::join!(asking, hanging_up);
        assert!(matches!(scanned, Err(ScanError::TooLarge)), "{scanned:?}");
    }

    /// Plays clamd on a connection: reads until the end, or until `limit`, and says what it was told, and what it read.
    async fn clamd(connection: tokio::io::DuplexStream, limit: usize, says: &'static [u8]) -> Vec<u8> {
        let (mut from, mut to) = split(connection);
        let mut command = [0; 10];
        from.read_exact(&mut command).await.expect("a command");
        assert_eq!(&command, b"zINSTREAM\0");
        let mut read = Vec::new();
        loop {
            let length = from.read_u32().await.expect("a length") as usize;
            if length == 0 || read.len() + length > limit {
                break;
            }
            let start = read.len();
            read.resize(start + length, 0);
            from.read_exact(&mut read[start..]).await.expect("a piece");
        }
        to.write_all(says).await.expect("it listens");
        read
    }

    #[tokio::test]
    async fn a_file_goes_to_clamd_in_pieces_and_its_answer_counts() {
        let file = vec![7; 3 * PIECE + 5];
        let (ours, theirs) = duplex(1000);
        let (scanned, read) = tokio::join!(scan(ours, &file[..]), clamd(theirs, usize::MAX, b"stream: OK\0"));
        assert_eq!(scanned.expect("it was looked at"), Verdict::Clean);
        assert!(read == file);
        let (ours, theirs) = duplex(1000);
        let (scanned, _) =
            tokio::join!(scan(ours, &file[..]), clamd(theirs, PIECE, b"INSTREAM size limit exceeded. ERROR\0"));
        assert!(matches!(scanned, Err(ScanError::TooLarge)), "{scanned:?}");
        let (ours, theirs) = duplex(1000);
        let (scanned, _) =
            tokio::join!(scan(ours, &file[..]), clamd(theirs, usize::MAX, b"stream: OK but not quite\0"));
        assert!(matches!(scanned, Err(ScanError::Answer(_))), "{scanned:?}");
        let (ours, theirs) = duplex(1000);
        drop(theirs);
        assert!(matches!(scan(ours, &file[..]).await, Err(ScanError::Connection(_))));
    }
}
