//! Letters: handed to a relay over SMTP, one after the other, and again where it didn't take them.
//!
//! What waits is in memory: a letter that is lost at a restart is one of those that people ask for again, such as a code. The queue has a
//! bound, and who finds it full is told so.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};
use metrics::counter;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::file::{FileError, read};

/// How many letters wait at most.
const WAITING: usize = 1_000;
/// How many are handed over at once.
const AT_ONCE: usize = 4;
/// How long the relay has for one of them.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait before each further try.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// How the line to the relay is kept secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// It isn't: for a relay on the same machine.
    None,
    /// It begins plain, and must become TLS.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

/// The relay, and by whom letters are.
#[derive(Clone)]
pub struct MailConfig {
    /// The relay's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the line is kept secret.
    pub tls: MailTls,
    /// PEM: authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// `Comity <no-reply@chat.example.org>`.
    pub from: String,
    /// User and password, if it asks for them.
    pub login: Option<(String, String)>,
}

/// Passwords are nobody's to see.
impl std::fmt::Debug for MailConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailConfig").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// What is written to somebody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Letter {
    /// An address: see [`is_address`].
    pub to: String,
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// Of letters that come again and again: the URL to which a POST ends that, without another question.
    ///
    /// Spec: <https://www.rfc-editor.org/rfc/rfc8058>
    pub unsubscribe: Option<String>,
}

/// Addresses and codes are nobody's to see.
impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letter").finish_non_exhaustive()
    }
}

/// Why no letters can be sent, or one isn't.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Too many wait.
    #[error("too many letters wait to be sent")]
    Full,
    /// The sender can't be one.
    #[error("`{0}` is no e-mail address to write from")]
    From(String),
    /// A file can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// TLS can't be set up.
    #[error("TLS towards the mail relay can't be set up")]
    Tls(#[source] lettre::transport::smtp::Error),
}

/// Whether `text` is an e-mail address, as letters are sent to.
pub fn is_address(text: &str) -> bool {
    text.len() <= 254 && text.parse::<Address>().is_ok()
}

/// Where letters are handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailer(mpsc::Sender<Letter>);

impl Mailer {
    /// Where letters are handed in, and where they come out: see [`Courier`].
    pub fn channel() -> (Self, mpsc::Receiver<Letter>) {
        let (sender, letters) = mpsc::channel(WAITING);
        (Self(sender), letters)
    }

    /// Hands a letter in; doesn't wait until it is sent.
    pub fn send(&self, letter: Letter) -> Result<(), MailError> {
        self.0.try_send(letter).map_err(|_| MailError::Full)
    }
}

/// Takes letters to the relay.
pub struct Courier {
    relay: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    letters: mpsc::Receiver<Letter>,
    pauses: Arc<[Duration]>,
}

impl Courier {
    /// Takes what comes out of [`Mailer::channel`] to the relay that is configured.
    pub fn new(config: &MailConfig, letters: mpsc::Receiver<Letter>) -> Result<Self, MailError> {
        let from = config.from.parse().map_err(|_| MailError::From(config.from.clone()))?;
        let mut relay = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
            .port(config.port)
            .tls(tls_of(config)?)
            .timeout(Some(DEADLINE));
        if let Some((user, password)) = &config.login {
            relay = relay.credentials(Credentials::new(user.clone(), password.clone()));
        }
        Ok(Self { relay: relay.build(), from, letters, pauses: PAUSES.into() })
    }

    /// Takes letters to the relay until `stop` is cancelled. What waits then is lost.
    pub async fn run(self, stop: CancellationToken) {
        let Self { relay, from, letters, pauses } = self;
        let letters = stream::unfold(letters, |mut letters| async move { Some((letters.recv().await?, letters)) });
        let office = Arc::new((relay, from, pauses));
        let delivered = letters.for_each_concurrent(AT_ONCE, move |letter| {
            let office = office.clone();
            async move { deliver(&office.0, &office.1, letter, &office.2).await }
        });
        if stop.run_until_cancelled(delivered).await.is_none() {
            debug!("no more letters are sent");
        }
    }
}

fn tls_of(config: &MailConfig) -> Result<Tls, MailError> {
    let parameters = || {
        let mut builder = TlsParameters::builder(config.host.clone());
        if let Some(path) = &config.ca_file {
            let authority = Certificate::from_pem(&read(path)?).map_err(MailError::Tls)?;
            builder = builder.add_root_certificate(authority);
        }
        builder.build().map_err(MailError::Tls)
    };
    Ok(match config.tls {
        MailTls::None => Tls::None,
        MailTls::StartTls => Tls::Required(parameters()?),
        MailTls::Tls => Tls::Wrapper(parameters()?),
    })
}

/// Hands one letter over; tries again where the relay can't be reached or says that it may later.
async fn deliver(relay: &AsyncSmtpTransport<Tokio1Executor>, from: &Mailbox, letter: Letter, pauses: &[Duration]) {
    let Some(message) = written(from, letter) else {
        counter!("comity_letters_total", "outcome" => "failed").increment(1);
        error!("a letter can't be written: its address or its subject is none");
        return;
    };
    let mut pauses = pauses.iter();
    loop {
        let why = match timeout(DEADLINE, relay.send(message.clone())).await {
            Ok(Ok(_)) => {
                counter!("comity_letters_total", "outcome" => "sent").increment(1);
                info!("a letter was handed over to the mail relay");
                return;
            }
            Ok(Err(refused)) if refused.is_permanent() => {
                counter!("comity_letters_total", "outcome" => "refused").increment(1);
                // What the relay says may name the address.
                warn!(status = refused.status().map(|code| code.to_string()), "the mail relay has refused a letter");
                return;
            }
            Ok(Err(error)) if error.is_response() || error.is_transient() => "it put it off",
            Ok(Err(_)) => "it can't be reached, or makes no sense",
            Err(_) => "it took too long",
        };
        let Some(pause) = pauses.next() else {
            counter!("comity_letters_total", "outcome" => "failed").increment(1);
            error!(why, "a letter is given up: the mail relay did not take it");
            return;
        };
        warn!(
            why,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "the mail relay did not take a letter"
        );
        tokio::time::sleep(*pause).await;
    }
}

fn written(from: &Mailbox, letter: Letter) -> Option<Message> {
    let id = format!("<{:032x}@{}>", rand::random::<u128>(), from.email.domain());
    let mut message = Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, letter.to.parse().ok()?))
        .subject(letter.subject)
        .message_id(Some(id))
        .header(ContentType::TEXT_PLAIN);
    if let Some(url) = letter.unsubscribe {
        let raw = |name, value| HeaderValue::new(HeaderName::new_from_ascii_str(name), value);
        message = message.raw_header(raw("List-Unsubscribe", format!("<{url}>")));
        message = message.raw_header(raw("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".into()));
    }
    message.body(letter.text).ok()
}

#[cfg(test)]
mod tests {
    use federation_tests::{Authority, MailSink};

    use super::*;

    fn letter(to: &str) -> Letter {
        Letter { to: to.into(), subject: "Grüße".into(), text: "Your code is 12345678.\n".into(), unsubscribe: None }
    }

    fn courier(sink: &MailSink, letters: mpsc::Receiver<Letter>) -> Courier {
        let config = MailConfig {
            host: "127.0.0.1".into(),
            port: sink.port(),
            tls: MailTls::None,
            ca_file: None,
            from: "Comity <no-reply@a.test>".into(),
            login: None,
        };
        let courier = Courier::new(&config, letters).expect("it is configured well");
        Courier { pauses: [Duration::from_millis(1), Duration::from_millis(1)].into(), ..courier }
    }

    #[tokio::test]
    async fn a_letter_reaches_the_relay_and_again_when_it_was_put_off() {
        let sink = MailSink::start().await;
        sink.put_off(2);
        let (mailer, letters) = Mailer::channel();
        let stop = CancellationToken::new();
        let running = tokio::spawn(courier(&sink, letters).run(stop.clone()));
        mailer.send(letter("alice@b.example")).expect("there is room");
        let got = sink.next_to("alice@b.example").await;
        assert!(got.text.contains("Your code is 12345678."), "{}", got.text);
        assert!(
            got.text.contains("From: Comity <no-reply@a.test>") || got.text.contains("From: \"Comity\""),
            "{}",
            got.text
        );
        assert_eq!(sink.turned_away(), 2);
        stop.cancel();
        running.await.expect("it ends");
    }

    #[tokio::test]
    async fn what_the_relay_refuses_is_not_tried_again() {
        let sink = MailSink::start().await;
        sink.refuse(1);
        let (mailer, letters) = Mailer::channel();
        let stop = CancellationToken::new();
        let running = tokio::spawn(courier(&sink, letters).run(stop.clone()));
        mailer.send(letter("nobody@b.example")).expect("there is room");
        federation_tests::eventually("it is refused", async || (sink.turned_away() == 1).then_some(())).await;
        mailer.send(letter("alice@b.example")).expect("there is room");
        sink.next_to("alice@b.example").await;
        assert_eq!(sink.turned_away(), 1);
        assert!(sink.letters().iter().all(|letter| letter.to != ["nobody@b.example"]));
        stop.cancel();
        running.await.expect("it ends");
    }

    #[tokio::test]
    async fn the_line_is_kept_secret_and_a_relay_that_cannot_show_who_it_is_gets_nothing() {
        let authority = Authority::new();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).expect("the folder is ours");
        for (tls, is_trusted) in [(MailTls::Tls, true), (MailTls::StartTls, true), (MailTls::Tls, false)] {
            let sink = MailSink::start_tls(&authority.leaf(&["127.0.0.1"]), tls == MailTls::Tls).await;
            let config = MailConfig {
                host: "127.0.0.1".into(),
                port: sink.port(),
                tls,
                ca_file: is_trusted.then(|| ca_file.clone()),
                from: "no-reply@a.test".into(),
                login: Some(("comity".into(), "secret".into())),
            };
            let (mailer, letters) = Mailer::channel();
            let courier =
                Courier { pauses: [].into(), ..Courier::new(&config, letters).expect("it is configured well") };
            mailer.send(letter("alice@b.example")).expect("there is room");
            drop(mailer);
            // It ends when all is done that was handed in.
            courier.run(CancellationToken::new()).await;
            assert_eq!(sink.letters().len(), usize::from(is_trusted), "{tls:?}");
            assert_eq!(sink.logins().contains(&"comity:secret".to_owned()), is_trusted, "{tls:?}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_says_so() {
        let (mailer, _letters) = Mailer::channel();
        for _ in 0..WAITING {
            mailer.send(letter("alice@b.example")).expect("there is room");
        }
        assert!(matches!(mailer.send(letter("alice@b.example")), Err(MailError::Full)));
    }
}
