//! Second factors: codes that an app computes, so that a password alone opens nothing; and recovery codes for who has lost the app.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc6238>

use futures_util::FutureExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::{Kind, Millis, Refusal};
use peers::{
    trust::{Audited, Author, ChangeError},
    vault::VaultError,
};
use rand::Rng as _;
use ruma::UserId;
use serde_json::json;
use sha1::Sha1;
use store::{
    Write,
    second_factors::{self, SecondFactorRow, confirm, offer, use_recovery_code, use_step},
};
use subtle::ConstantTimeEq as _;
use tracing::info;
use zeroize::Zeroizing;

use crate::{
    LoginError, Session, Users,
    secrets::{hash_of, random_text},
};

/// For what the secret is sealed.
const SEALED_FOR: &str = "second factor";
/// How long a code is shown, in milliseconds.
const STEP: Millis = 30_000;
/// How many codes before and after that of now are taken: clocks differ.
const SKEW: i64 = 1;
/// In bytes, as RFC 4226 recommends.
const SECRET: usize = 20;
const RECOVERY_CODES: usize = 10;
/// In bytes, of each of them.
const RECOVERY_CODE: usize = 10;

/// What an app is to be told, which is said once.
#[derive(Clone)]
pub struct Enrolment {
    /// In base32, to be typed.
    pub secret: String,
    /// `otpauth://totp/…`, to be shown as a QR code.
    pub uri: String,
}

/// Whether somebody has a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondFactor {
    /// Logging in needs it.
    pub is_on: bool,
    /// How many recovery codes are left.
    pub recovery_codes: i64,
}

/// Why a second factor was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SecondFactorError {
    /// There is one already.
    #[error("there is a second factor already: switch it off first")]
    On,
    /// There is none to confirm, or to switch off.
    #[error("there is no second factor")]
    Off,
    /// The password, or the code, was not right.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// It can't be sealed.
    #[error("the second factor could not be sealed")]
    Vault(#[from] VaultError),
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("the second factor could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for SecondFactorError {
    fn kind(&self) -> Kind {
        match self {
            Self::On | Self::Off => Kind::Conflict,
            Self::Login(error) => error.kind(),
            Self::Vault(_) => Kind::Internal,
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::On => Some("second_factor_on"),
            Self::Off => Some("second_factor_off"),
            Self::Login(error) => error.code(),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Login(error) => error.retry_after_ms(),
            _ => None,
        }
    }
}

impl Users {
    /// Whether a user has a second factor.
    pub async fn second_factor(&self, user_id: &UserId) -> Result<SecondFactor, SecondFactorError> {
        let row = self.store.second_factors().find(user_id).await?;
        let is_on = row.is_some_and(|row| row.confirmed_at.is_some());
        Ok(SecondFactor { is_on, recovery_codes: self.store.second_factors().count_recovery_codes(user_id).await? })
    }

    /// Begins to give whoever asks a second factor. It counts once [`Self::confirm_second_factor`] has shown that the app has it.
    pub async fn enrol(&self, session: &Session, password: &str) -> Result<Enrolment, SecondFactorError> {
        let user_id = &session.user_id;
        self.check_password(user_id, password).await?;
        if self.second_factor(user_id).await?.is_on {
            return Err(SecondFactorError::On);
        }
        let secret = Zeroizing::new(random::<SECRET>());
        let text = Zeroizing::new(base32(&*secret));
        let sealed = self.vault.seal(user_id.as_str(), SEALED_FOR, &text)?;
        let mut write = Write::new();
        offer(&mut write, user_id, &sealed, self.now());
        self.store.commit(write).await?;
        let (us, name) = (&self.server_name, user_id.localpart());
        // A colon parts the issuer from the name, and neither has one that isn't written as %3A.
        let part = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let (us, name) = (part(us.as_str()), part(name));
        let uri = format!("otpauth://totp/{us}:{name}?secret={}&issuer={us}&algorithm=SHA1&digits=6&period=30", *text);
        Ok(Enrolment { secret: (*text).clone(), uri })
    }

    /// From now on whoever asks logs in by a code, too. Answers the recovery codes, which are said once.
    pub async fn confirm_second_factor(&self, session: &Session, code: &str) -> Result<Vec<String>, SecondFactorError> {
        let user_id = &session.user_id;
        let row = self.store.second_factors().find(user_id).await?.ok_or(SecondFactorError::Off)?;
        if row.confirmed_at.is_some() {
            return Err(SecondFactorError::On);
        }
        self.use_any_code(user_id, &row, code).await?;
        let codes: Vec<String> = (0..RECOVERY_CODES).map(|_| recovery_code()).collect();
        let hashes: Vec<String> = codes.iter().map(|code| recovery_hash(user_id, code)).collect();
        let mut write = Write::new();
        confirm(&mut write, user_id, self.now(), &hashes);
        self.store.commit(write).await?;
        info!(user.id = %user_id, "{user_id} has a second factor now");
        Ok(codes)
    }

    /// From now on the password of whoever asks is enough again.
    pub async fn remove_second_factor(
        &self,
        session: &Session,
        password: &str,
        code: &str,
    ) -> Result<(), SecondFactorError> {
        let user_id = &session.user_id;
        self.check_password(user_id, password).await?;
        if !self.second_factor(user_id).await?.is_on {
            return Err(SecondFactorError::Off);
        }
        self.check_code(user_id, Some(code)).await?;
        let mut write = Write::new();
        second_factors::remove(&mut write, user_id);
        self.store.commit(write).await?;
        info!(user.id = %user_id, "{user_id} has no second factor any more");
        Ok(())
    }

    /// Takes a user's second factor away on behalf of an administrator: for who has lost the app and the recovery codes. It is in the audit
    /// log.
    pub async fn reset_second_factor(&self, user_id: &UserId, author: &Author) -> Result<(), SecondFactorError> {
        let step = |_| {
            async move {
                let row = self.store.second_factors().find(user_id).await?.ok_or(SecondFactorError::Off)?;
                let before = json!({ "created_at": row.created_at, "confirmed_at": row.confirmed_at }).to_string();
                let mut write = Write::new();
                second_factors::remove(&mut write, user_id);
                Ok::<_, SecondFactorError>(Audited { write, before: Some(before), after: None, outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("account.second_factor_reset", user_id.as_str(), author, step).await?;
        info!(user.id = %user_id, actor = author.actor, "the second factor of {user_id} was taken away");
        Ok(())
    }

    /// Checks the code of who has shown the right password, if the account needs one.
    pub(crate) async fn check_code(&self, user_id: &UserId, code: Option<&str>) -> Result<(), LoginError> {
        let row = self.store.second_factors().find(user_id).await?;
        let Some(row) = row.filter(|row| row.confirmed_at.is_some()) else { return Ok(()) };
        self.use_any_code(user_id, &row, code.ok_or(LoginError::CodeNeeded)?).await
    }

    /// Uses a code, slowly for those who guess.
    async fn use_any_code(&self, user_id: &UserId, row: &SecondFactorRow, code: &str) -> Result<(), LoginError> {
        let name = format!("code of {user_id}");
        self.failures.check(&name, self.now()).await?;
        let code: String = code.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        let is_right = match code.len() {
            6 => self.use_code(user_id, row, &code).await?,
            _ => self.use_recovery(user_id, &code).await?,
        };
        if is_right {
            self.failures.forget(&name).await;
            return Ok(());
        }
        self.failures.note(&name, self.now()).await;
        Err(LoginError::WrongCode)
    }

    async fn use_code(&self, user_id: &UserId, row: &SecondFactorRow, code: &str) -> Result<bool, LoginError> {
        let text = self.vault.unseal(user_id.as_str(), SEALED_FOR, &row.secret)?;
        let Some(secret) = from_base32(&text).map(Zeroizing::new) else { return Ok(false) };
        let now = self.now() / STEP;
        let is_of = |step: &i64| bool::from(code_of(&secret, *step).as_bytes().ct_eq(code.as_bytes()));
        let Some(step) = (now - SKEW..=now + SKEW).find(is_of) else { return Ok(false) };
        let claim = random_text();
        let mut write = Write::new();
        use_step(&mut write, user_id, step, &claim);
        self.store.commit(write).await?;
        Ok(self.store.second_factors().is_claimed(user_id, &claim).await?)
    }

    async fn use_recovery(&self, user_id: &UserId, code: &str) -> Result<bool, LoginError> {
        let (hash, claim) = (recovery_hash(user_id, code), random_text());
        let mut write = Write::new();
        use_recovery_code(&mut write, &hash, &claim);
        self.store.commit(write).await?;
        Ok(self.store.second_factors().is_recovery_claimed(&hash, &claim).await?)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// `abcd-efgh-ijkl-mnop`.
fn recovery_code() -> String {
    let text = base32(&random::<RECOVERY_CODE>()).to_lowercase();
    let parts: Vec<&str> = text.as_bytes().chunks(4).filter_map(|part| std::str::from_utf8(part).ok()).collect();
    parts.join("-")
}

/// A recovery code has 80 random bits, so it needs no slow hash.
fn recovery_hash(user_id: &UserId, code: &str) -> String {
    hash_of(&format!("{user_id} {}", code.replace('-', "").to_lowercase()))
}

/// The code of six digits that is shown in the half minute `step`.
fn code_of(secret: &[u8], step: i64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let at = usize::from(digest[19] & 0x0f);
    let number = u32::from_be_bytes([digest[at] & 0x7f, digest[at + 1], digest[at + 2], digest[at + 3]]);
    format!("{:06}", number % 1_000_000)
}

const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Spec: <https://www.rfc-editor.org/rfc/rfc4648#section-6>, without padding.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(5) {
        let mut word = [0; 8];
        word[3..3 + group.len()].copy_from_slice(group);
        let word = u64::from_be_bytes(word);
        let letters = (group.len() * 8).div_ceil(5);
        text.extend((0..letters).map(|at| char::from(LETTERS[(word >> (35 - 5 * at) & 31) as usize])));
    }
    text
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(8) {
        let mut word = 0;
        for at in 0..8 {
            let value = match group.get(at) {
                Some(letter) => LETTERS.iter().position(|known| known == letter)?,
                None => 0,
            };
            word = word << 5 | value as u64;
        }
        bytes.extend_from_slice(&word.to_be_bytes()[3..3 + group.len() * 5 / 8]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use ruma::api::client::uiaa::{MatrixUserIdentifier, UserIdentifier};

    use super::*;
    use crate::{
        Credentials, LoginRequest, NewSession, TokenStyle,
        testing::{HOME, config, with_users_of},
    };

    #[test]
    fn codes_are_those_of_the_specification() {
        // RFC 6238, appendix B, the last six of its eight digits.
        let secret = b"12345678901234567890";
        for (seconds, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")]
        {
            assert_eq!(code_of(secret, seconds / 30), code);
        }
        // RFC 4648, section 10.
        for (bytes, text) in [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foobar", "MZXW6YTBOI")] {
            assert_eq!(base32(bytes.as_bytes()), text);
            assert_eq!(from_base32(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base32("M1"), None);
        assert_eq!(recovery_code().len(), 19);
    }

    async fn login(users: &Users, code: Option<&str>) -> Result<NewSession, LoginError> {
        let identifier = UserIdentifier::Matrix(MatrixUserIdentifier::new("alice".to_owned()));
        let credentials = Credentials::Password { identifier: &identifier, password: "a password", code };
        let wish = LoginRequest { credentials, device_id: None, device_name: None, tokens: TokenStyle::Signed };
        users.login(wish, HOME).await
    }

    #[tokio::test]
    async fn a_password_alone_opens_nothing_once_there_is_a_second_factor() {
        let mut config = config();
        config.accounts.failed_logins_allowed = 3;
        with_users_of(config, async |users, clock| {
            let opened = users.register_for_tests("alice").await;
            let session = users.authenticate(&opened.access_token).await.expect("the token is good");
            assert!(matches!(
                users.enrol(&session, "a guess").await,
                Err(SecondFactorError::Login(LoginError::WrongPassword))
            ));
            let enrolment = users.enrol(&session, "a password").await.expect("the password is right");
            assert!(enrolment.uri.starts_with("otpauth://totp/a.test:alice?secret="), "{}", enrolment.uri);
            let secret = from_base32(&enrolment.secret).expect("it is base32");
            let code = |ago: i64| code_of(&secret, users.now() / STEP - ago);
            let stored =
                users.store.second_factors().find(&session.user_id).await.expect("it reads").expect("it is there");
            assert!(!stored.secret.contains(&enrolment.secret), "it is sealed");
            login(&users, None).await.expect("it isn't confirmed yet");

            assert!(matches!(
                users.confirm_second_factor(&session, "000000").await,
                Err(SecondFactorError::Login(LoginError::WrongCode))
            ));
            let recovery = users.confirm_second_factor(&session, &code(1)).await.expect("clocks differ");
            assert_eq!(recovery.len(), RECOVERY_CODES);
            assert!(matches!(login(&users, None).await, Err(LoginError::CodeNeeded)));
            assert!(matches!(login(&users, Some(&code(1))).await, Err(LoginError::WrongCode)), "it was used");
            login(&users, Some(&code(0))).await.expect("the code is right");
            let typed = recovery[0].to_uppercase().replace('-', " ");
            login(&users, Some(&typed)).await.expect("the app is lost");
            assert!(matches!(login(&users, Some(&recovery[0])).await, Err(LoginError::WrongCode)), "it was used");
            let state = users.second_factor(&session.user_id).await.expect("it reads");
            assert_eq!(state, SecondFactor { is_on: true, recovery_codes: 9 });

            for _ in 0..2 {
                assert!(matches!(login(&users, Some("000000")).await, Err(LoginError::WrongCode)));
            }
            clock.advance(STEP / 60);
            assert!(matches!(login(&users, Some("000000")).await, Err(LoginError::Limited(_))), "guessing is slow");
            clock.advance(STEP);
            let code = code(0);
            users.remove_second_factor(&session, "a password", &code).await.expect("both are right");
            login(&users, None).await.expect("the password is enough");

            users.enrol(&session, "a password").await.expect("the password is right");
            let author = Author { actor: "@root:a.test".into(), reason: "the phone is lost".into() };
            users.reset_second_factor(&session.user_id, &author).await.expect("there is one");
            let refused = users.reset_second_factor(&session.user_id, &author).await;
            assert!(matches!(refused, Err(SecondFactorError::Off)));
        })
        .await;
    }
}
