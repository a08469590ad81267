//! E-mail addresses: showing that one has one, by a code that is sent there, to register or to set a forgotten password anew.
//!
//! Who asks for a code learns nothing of whose address it is: the answer is the same for everybody's, and what is said is said in the letter.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fabric::{Letter, MailError};
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::{Kind, Millis, Refusal};
use rand::RngExt as _;
use ruma::UserId;
use sha2::Sha256;
use store::{
    Write,
    verification::{Attempt, put_code, try_code},
};
use tracing::{info, warn};

use crate::{AccountError, Limited, LoginError, Users, millis, secrets::random_text};

/// What the key is for under which codes are hashed: they are short, so who has the database alone must not be able to try them all.
const PURPOSE: &str = "comity: verification codes, 1";
/// How often somebody may try one.
const MOST_ATTEMPTS: i64 = 5;
/// How long to wait for the next one.
const BETWEEN: Millis = 60_000;

/// What a code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodePurpose {
    /// To make an account with the address.
    Register,
    /// To set another password for the account that has the address.
    Reset,
    /// To have the address with the account that one has.
    Change,
}

impl CodePurpose {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Reset => "reset",
            Self::Change => "change",
        }
    }
}

/// What shows that an address is one's own.
#[derive(Clone, Copy)]
pub struct EmailProof<'a> {
    /// The address.
    pub email: &'a str,
    /// The code that was sent there.
    pub code: &'a str,
}

/// Addresses and codes are nobody's to see.
impl std::fmt::Debug for EmailProof<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmailProof").finish_non_exhaustive()
    }
}

/// Why nothing came of an address.
#[derive(Debug, thiserror::Error)]
pub enum EmailError {
    /// This server sends no letters.
    #[error("this server sends no e-mail")]
    NoMail,
    /// It takes no registrations.
    #[error("registration is not open on this server")]
    Closed,
    /// It can't be one.
    #[error("`email` is no e-mail address")]
    Address,
    /// The code is another one, has expired, was used, or was tried too often. Which, nobody is told.
    #[error("the code is wrong or has expired: ask for another")]
    WrongCode,
    /// An account has the address.
    #[error("there is an account with this e-mail address already")]
    Taken,
    /// Too often.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// Too many letters wait to be sent.
    #[error("too many letters wait to be sent")]
    Mail(#[from] MailError),
    /// Accounts of this server must have one.
    #[error("this server wants an e-mail address for every account: set another one instead")]
    Needed,
    /// The password is another one, or was tried too often.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The password was not changed.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The store failed.
    #[error("the e-mail addresses could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for EmailError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoMail => Kind::Unsupported,
            Self::Closed | Self::WrongCode | Self::Needed => Kind::Forbidden,
            Self::Address => Kind::Invalid,
            Self::Taken => Kind::Conflict,
            Self::Login(error) => error.kind(),
            Self::Limited(limited) => limited.kind(),
            Self::Mail(_) => Kind::Unavailable,
            Self::Account(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::NoMail => Some("no_email"),
            Self::Closed => Some("registration_closed"),
            Self::Address => Some("invalid_email"),
            Self::WrongCode => Some("wrong_code"),
            Self::Taken => Some("email_taken"),
            Self::Needed => Some("email_needed"),
            Self::Login(error) => error.code(),
            Self::Account(error) => error.code(),
            _ => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        matches!(self, Self::Mail(_)).then(|| "too many letters wait to be sent; try again in a minute".to_owned())
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Limited(limited) => limited.retry_after_ms(),
            Self::Login(error) => error.retry_after_ms(),
            _ => None,
        }
    }
}

impl Users {
    /// Sends a code to an address. Answers how long it is good.
    pub async fn send_code(&self, email: &str, purpose: CodePurpose, address: IpAddr) -> Result<Duration, EmailError> {
        if self.mailer.is_none() {
            return Err(EmailError::NoMail);
        }
        if purpose == CodePurpose::Register && !self.is_registration_open() {
            return Err(EmailError::Closed);
        }
        self.limits.check_registration_from(address).await?;
        let email = normal(email)?;
        let now = self.now();
        if let Some(last) = self.store.verification().code(&email, purpose.as_str()).await? {
            let wait = last.sent_at + BETWEEN - now;
            if let Ok(wait @ 1..) = u64::try_from(wait) {
                return Err(Limited { retry_after: Duration::from_millis(wait) }.into());
            }
        }
        let owner = self.store.verification().owner_of(&email).await?;
        let code = format!("{:08}", rand::rng().random_range(0..100_000_000_u32));
        let lifetime = self.config.accounts.code_lifetime;
        let (subject, text) = self.letter(purpose, owner.as_deref(), &code, lifetime);
        // Kept for everybody, so that who asks twice is answered alike; where it is of no use it is told nobody.
        let mut write = Write::new();
        let hash = self.code_hash(&email, purpose, &code);
        put_code(&mut write, &email, purpose.as_str(), &hash, now, now + millis(lifetime));
        self.store.commit(write).await?;
        if let (Some(text), Some(mailer)) = (text, &self.mailer) {
            mailer.send(Letter { to: email, subject, text, unsubscribe: None })?;
        }
        Ok(lifetime)
    }

    /// What is written to an address; `None`: nothing.
    fn letter(
        &self,
        purpose: CodePurpose,
        owner: Option<&UserId>,
        code: &str,
        lifetime: Duration,
    ) -> (String, Option<String>) {
        let us = &self.server_name;
        let minutes = lifetime.as_secs().div_ceil(60);
        let unasked = "If you did not ask for this, somebody has mistyped an address: do nothing.";
        let text = match (purpose, owner) {
            (CodePurpose::Register, None) => Some(format!(
                "Your code to register at {us} is {code}.\n\nIt is good for {minutes} minutes. {unasked}\n"
            )),
            (CodePurpose::Register, Some(owner)) => Some(format!(
                "Somebody, perhaps you, wants to register at {us} with this address. It belongs to the account {owner} \
                 already: log in there, or set another password for it.\n"
            )),
            (CodePurpose::Change, None) => Some(format!(
                "Your code to have this address with your account at {us} is {code}.\n\nIt is good for {minutes} minutes. {unasked}\n"
            )),
            (CodePurpose::Change, Some(owner)) => Some(format!(
                "Somebody, perhaps you, wants to have this address with an account at {us}. It belongs to the account {owner}, \
                 from which it would have to be taken away first.\n"
            )),
            (CodePurpose::Reset, Some(owner)) => Some(format!(
                "Your code to set another password for {owner} is {code}.\n\nIt is good for {minutes} minutes. {unasked}\n"
            )),
            (CodePurpose::Reset, None) => None,
        };
        (format!("Your code for {us}"), text)
    }

    /// Uses a code, and answers the address as it is kept, if no account has it.
    pub(crate) async fn prove_new_email(
        &self,
        proof: EmailProof<'_>,
        purpose: CodePurpose,
    ) -> Result<String, EmailError> {
        let email = self.use_email_code(proof, purpose).await?;
        match self.store.verification().owner_of(&email).await? {
            Some(_) => Err(EmailError::Taken),
            None => Ok(email),
        }
    }

    /// Sets another password for the account that has an address, and ends its sessions.
    pub async fn reset_password(
        &self,
        proof: EmailProof<'_>,
        password: &str,
        address: IpAddr,
    ) -> Result<(), EmailError> {
        self.limits.check_login_from(address).await?;
        // What won't do uses no code up.
        self.check_password_rules(password).map_err(AccountError::Password)?;
        let email = self.use_email_code(proof, CodePurpose::Reset).await?;
        let owner = self.store.verification().owner_of(&email).await?.ok_or(EmailError::WrongCode)?;
        self.set_password(&owner, password, true).await?;
        info!(user.id = %owner, "the password of {owner} was set anew by a code");
        Ok(())
    }

    async fn use_email_code(&self, proof: EmailProof<'_>, purpose: CodePurpose) -> Result<String, EmailError> {
        let email = normal(proof.email)?;
        let hash = self.code_hash(&email, purpose, proof.code.trim());
        let claim = random_text();
        let attempt = Attempt {
            email: &email,
            purpose: purpose.as_str(),
            hash: &hash,
            claim: &claim,
            most: MOST_ATTEMPTS,
            now: self.now(),
        };
        let mut write = Write::new();
        try_code(&mut write, &attempt);
        self.store.commit(write).await?;
        match self.store.verification().is_claimed(&email, purpose.as_str(), &claim).await? {
            true => Ok(email),
            false => Err(EmailError::WrongCode),
        }
    }

    fn code_hash(&self, email: &str, purpose: CodePurpose, code: &str) -> String {
        let key = self.vault.derive(PURPOSE);
        let mut mac = Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes keys of any length");
        mac.update([email, purpose.as_str(), code].join("\0").as_bytes());
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }

    /// Writes to somebody who need not have it to go on.
    pub(crate) fn write_to(&self, email: &str, subject: &str, text: String) {
        let Some(mailer) = &self.mailer else { return };
        let letter = Letter { to: email.to_owned(), subject: subject.to_owned(), text, unsubscribe: None };
        if let Err(error) = mailer.send(letter) {
            warn!(error = &error as &dyn std::error::Error, "a letter was not sent");
        }
    }
}

/// An address as it is kept: what people tell apart by capitals alone isn't told apart.
fn normal(email: &str) -> Result<String, EmailError> {
    let email = email.trim().to_lowercase();
    if fabric::mail::is_address(&email) { Ok(email) } else { Err(EmailError::Address) }
}

#[cfg(test)]
mod tests {
    use ruma::api::client::uiaa::{AuthData, Dummy};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        Registration,
        testing::{HOME, TestClock, config, with_letters},
    };

    fn code_in(letters: &mut mpsc::Receiver<Letter>) -> String {
        let letter = letters.try_recv().expect("a letter was written");
        let word = letter.text.split(|c: char| !c.is_ascii_digit()).find(|word| word.len() == 8);
        word.expect("there is a code in it").to_owned()
    }

    async fn register(users: &Users, name: &str, proof: Option<EmailProof<'_>>) -> Result<(), String> {
        let auth = AuthData::Dummy(Dummy::new());
        let wish = Registration {
            username: Some(name),
            password: Some("a password"),
            auth: Some(&auth),
            email: proof,
            ..Registration::default()
        };
        match users.register(wish, HOME).await {
            Ok(_) => Ok(()),
            Err(crate::Refused::Refusal(error)) => Err(error.code().unwrap_or_default().to_owned()),
            Err(crate::Refused::Challenge(_)) => Err("challenge".into()),
        }
    }

    #[tokio::test]
    async fn a_code_shows_whose_an_address_is_and_sets_a_forgotten_password() {
        let mut config = config();
        config.registration.require_email = true;
        with_letters(config, async |users, clock: TestClock, mut letters| {
            assert_eq!(register(&users, "alice", None).await, Err("email_needed".into()));
            let email = "Alice@Example.org ";
            users.send_code(email, CodePurpose::Register, HOME).await.expect("it is sent");
            let code = code_in(&mut letters);
            let again = users.send_code(email, CodePurpose::Register, HOME).await.expect_err("too soon");
            assert!(again.retry_after_ms().is_some_and(|wait| wait <= 60_000), "{again}");
            let proof = |code| Some(EmailProof { email: "alice@example.org", code });
            assert_eq!(register(&users, "alice", proof("12")).await, Err("wrong_code".into()));
            register(&users, "alice", proof(&code)).await.expect("the code is right");
            assert_eq!(register(&users, "alice2", proof(&code)).await, Err("wrong_code".into()), "it was used");

            // Who has the address is told that, and gets no code.
            clock.advance(BETWEEN);
            users.send_code(email, CodePurpose::Register, HOME).await.expect("it is answered alike");
            assert!(letters.try_recv().expect("a letter was written").text.contains("@alice:a.test"));

            users.send_code("nobody@example.org", CodePurpose::Reset, HOME).await.expect("it is answered alike");
            assert!(letters.try_recv().is_err(), "there is nobody to write to");
            users.send_code(email, CodePurpose::Reset, HOME).await.expect("it is sent");
            let code = code_in(&mut letters);
            let proof = EmailProof { email: "alice@example.org", code: &code };
            let empty = users.reset_password(proof, "", HOME).await.expect_err("it is no password");
            assert_eq!(empty.code(), Some("weak_password"));
            users.reset_password(proof, "another password", HOME).await.expect("the code is still good");
            assert!(users.try_login_for_tests("alice", "a password").await.is_err());
            users.try_login_for_tests("alice", "another password").await.expect("the new one opens");
        })
        .await;
    }

    #[tokio::test]
    async fn a_code_expires_and_is_not_guessed() {
        with_letters(config(), async |users, clock: TestClock, mut letters| {
            let send = async || {
                users.send_code("a@b.example", CodePurpose::Register, HOME).await.expect("it is sent");
            };
            let check = async |code: &str| {
                users.use_email_code(EmailProof { email: "a@b.example", code }, CodePurpose::Register).await.is_ok()
            };
            send().await;
            let code = code_in(&mut letters);
            clock.advance(millis(users.config.accounts.code_lifetime));
            assert!(!check(&code).await, "it has expired");
            send().await;
            let code = code_in(&mut letters);
            for _ in 0..MOST_ATTEMPTS {
                assert!(!check("guess").await);
            }
            assert!(!check(&code).await, "it was guessed too often");
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused_and_without_a_mailer_nothing_is_sent() {
        for wrong in ["", "alice", "a@b@c", "a b@c.example", "a@b.example\r\nBcc: c@d.example", "@b.example"] {
            assert!(normal(wrong).is_err(), "{wrong}");
        }
        crate::testing::with_users(async |users, _| {
            let refused =
                users.send_code("a@b.example", CodePurpose::Reset, HOME).await.expect_err("there is no mailer");
            assert_eq!(refused.code(), Some("no_email"));
        })
        .await;
    }
}
