//! Signed requests: who sends one, that it came as it was signed, and that it comes once.
//!
//! Whoever can't sign learns nothing about an application: a key that there isn't and a signature that is wrong are one refusal, and that an
//! application is switched off, or must come from elsewhere, is told who has its secret.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicI64, Ordering},
};

use fabric::Cache as SharedCache;
use hmac::{Hmac, KeyInit as _, Mac as _};
use metrics::counter;
use model::{Kind, Millis, Refusal};
use peers::vault::VaultError;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use store::{Write, applications::SecretRow, used_tokens};
use tracing::info;

use super::{AppScope, Application, manage::SEALED_FOR};
use crate::{Limited, Users, limits::OwnSizes, millis};

/// What is signed begins so, so that it can't be taken for anything else that is signed by the same secret.
const PURPOSE: &str = "COMITY-HMAC-SHA256";
/// How many used requests are remembered in memory, so that most replays cost no write.
const REMEMBERED: usize = 50_000;
/// How often those that are too old are forgotten, in milliseconds.
const FORGET_EVERY: Millis = 60_000;
/// How long a nonce is, in bytes.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 8..=64;
/// The longest key that is looked up, in bytes.
const LONGEST_KEY: usize = 100;

/// What is remembered of the requests of applications.
pub(crate) struct Signed {
    used: Cache<String, Millis>,
    forgot_at: AtomicI64,
    rates: OwnSizes,
}

impl Signed {
    pub(crate) fn new(cache: &SharedCache) -> Self {
        Self { used: Cache::new(REMEMBERED), forgot_at: AtomicI64::new(0), rates: OwnSizes::new("application", cache) }
    }

    fn is_time_to_forget(&self, now: Millis) -> bool {
        let forgot_at = self.forgot_at.load(Ordering::Relaxed);
        now - forgot_at >= FORGET_EVERY
            && self.forgot_at.compare_exchange(forgot_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A request that an application is said to have signed; everything as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// `POST`.
    pub method: &'a str,
    /// Percent-encoded, without the query.
    pub path: &'a str,
    /// Percent-encoded, without the question mark; empty: none.
    pub query: &'a str,
    /// Which application.
    pub app_key: &'a str,
    /// When it was signed, milliseconds since 1970.
    pub timestamp: &'a str,
    /// What makes it another one than all others.
    pub nonce: &'a str,
    /// As which user the application acts; empty: as none.
    pub user: &'a str,
    /// In hex.
    pub signature: &'a str,
}

impl SignedRequest<'_> {
    /// What is signed: a line for each part, and at last the SHA-256 of the body, in hex. No part holds a line feed.
    pub fn text(&self, body: &[u8]) -> String {
        let Self { method, path, app_key, timestamp, nonce, user, .. } = self;
        let mut query: Vec<&str> = self.query.split('&').collect();
        query.sort_unstable();
        let (query, digest) = (query.join("&"), hex(&Sha256::digest(body)));
        [PURPOSE, method, path, &query, app_key, timestamp, nonce, user, &digest].join("\n")
    }

    /// What an application signs it with, in hex.
    pub fn signature_by(&self, secret: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(self.text(body).as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    /// Whether it was signed with one of `secrets`. Takes as long whichever it is.
    pub(super) fn is_signed_with<'s>(&self, body: &[u8], secrets: impl Iterator<Item = &'s str>) -> bool {
        let Some(signature) = from_hex(self.signature) else { return false };
        let text = self.text(body);
        secrets.fold(false, |found, secret| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
            mac.update(text.as_bytes());
            // Compares in constant time.
            mac.verify_slice(&signature).is_ok() | found
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes, in small letters or capitals.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// An application that a request says it is of, before that has been shown.
pub struct Claimed {
    application: Application,
    secrets: Vec<SecretRow>,
    timestamp: Millis,
}

/// Why a signed request does nothing.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Something that it needs is not there.
    #[error("a signed request needs the header {0}")]
    Missing(&'static str),
    /// Something in it can't be read.
    #[error("`{header}` {wrong}")]
    Malformed {
        /// Which header.
        header: &'static str,
        /// What is wrong.
        wrong: &'static str,
    },
    /// It was signed too long ago, or is from the future.
    #[error("the request was signed more than {window_s} seconds before or after the time of this server")]
    Stale {
        /// How far away it may be, in seconds.
        window_s: u64,
        /// Now.
        now: Millis,
    },
    /// There is no such application, or it hasn't signed that. Which of them, nobody is told.
    #[error("the application is not known, or the signature is not of it")]
    Wrong,
    /// The application is switched off.
    #[error("this application has been disabled")]
    Disabled,
    /// The application's time is over.
    #[error("this application has expired")]
    Expired,
    /// It doesn't come from where the application may.
    #[error("this application may not send requests from your address")]
    Address,
    /// Its nonce was used.
    #[error("the nonce was used already: each request needs another one")]
    Replayed,
    /// The application may not do that.
    #[error("this application may not do that: it needs the scope {0}")]
    Scope(AppScope),
    /// No application may do that.
    #[error("this is not for applications, but for users and their sessions")]
    NotForApplications,
    /// Too often.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// Secrets can't be opened.
    #[error("the application's secret could not be read")]
    Vault(#[from] VaultError),
    /// The store failed.
    #[error("the application could not be looked up")]
    Store(#[from] store::Error),
}

impl Refusal for SignatureError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing(_) | Self::Malformed { .. } | Self::Stale { .. } | Self::Wrong | Self::Replayed => {
                Kind::Unauthenticated
            }
            Self::Disabled | Self::Expired | Self::Address | Self::Scope(_) | Self::NotForApplications => {
                Kind::Forbidden
            }
            Self::Limited(limited) => limited.kind(),
            Self::Vault(_) => Kind::Internal,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing(_) => "signature_needed",
            Self::Malformed { .. } => "signature_malformed",
            Self::Stale { .. } => "signature_stale",
            Self::Wrong => "signature_wrong",
            Self::Disabled => "application_disabled",
            Self::Expired => "application_expired",
            Self::Address => "address_not_allowed",
            Self::Replayed => "nonce_used",
            Self::Scope(_) => "missing_scope",
            Self::NotForApplications => "not_for_applications",
            Self::Limited(_) | Self::Vault(_) | Self::Store(_) => return None,
        })
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Limited(limited) => limited.retry_after_ms(),
            _ => None,
        }
    }
}

impl Users {
    /// What is known of who a request says it is of. To be asked before its body is read: what no body could make right is refused here.
    pub async fn claimed(&self, request: &SignedRequest<'_>, from: IpAddr) -> Result<Claimed, SignatureError> {
        let claimed = self.look_up_claimed(request, from).await;
        claimed.inspect_err(|error| note_refusal(request.app_key, error))
    }

    /// The application that has signed a request. Answers when it is durable that the request was used.
    pub async fn admit(
        &self,
        claimed: Claimed,
        request: &SignedRequest<'_>,
        body: &[u8],
        from: IpAddr,
    ) -> Result<Application, SignatureError> {
        let admitted = self.check_claimed(claimed, request, body, from).await;
        match &admitted {
            Ok(_) => counter!("comity_application_requests_total", "outcome" => "accepted").increment(1),
            Err(error) => note_refusal(request.app_key, error),
        }
        admitted
    }

    async fn look_up_claimed(&self, request: &SignedRequest<'_>, from: IpAddr) -> Result<Claimed, SignatureError> {
        let timestamp = self.check_form(request)?;
        self.failures.check(&guesser(request.app_key, from), self.now()).await?;
        if request.app_key.len() > LONGEST_KEY {
            return Err(SignatureError::Wrong);
        }
        let reads = self.store.applications();
        let Some(row) = reads.find(request.app_key).await? else { return Err(SignatureError::Wrong) };
        let secrets = reads.secrets(request.app_key, self.now()).await?;
        Ok(Claimed { application: row.try_into()?, secrets, timestamp })
    }

    /// When it was signed, if it can be read at all and wasn't long ago.
    fn check_form(&self, request: &SignedRequest<'_>) -> Result<Millis, SignatureError> {
        let malformed = |header, wrong| SignatureError::Malformed { header, wrong };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if !NONCE_BYTES.contains(&request.nonce.len()) || !request.nonce.bytes().all(is_plain) {
            return Err(malformed("X-App-Nonce", "is 8 to 64 letters, digits and - . _ ~ + / ="));
        }
        if from_hex(request.signature).is_none() {
            return Err(malformed("X-App-Signature", "is an HMAC-SHA256 in hex, 64 digits"));
        }
        let is_number = request.timestamp.len() <= 15 && request.timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let timestamp: Option<Millis> = request.timestamp.parse().ok().filter(|_| is_number);
        let timestamp = timestamp.ok_or(malformed("X-App-Timestamp", "is the milliseconds since 1970"))?;
        let (now, window) = (self.now(), self.config.applications.signature_window);
        if (now - timestamp).abs() > millis(window) {
            return Err(SignatureError::Stale { window_s: window.as_secs(), now });
        }
        Ok(timestamp)
    }

    async fn check_claimed(
        &self,
        claimed: Claimed,
        request: &SignedRequest<'_>,
        body: &[u8],
        from: IpAddr,
    ) -> Result<Application, SignatureError> {
        let Claimed { application, secrets, timestamp } = claimed;
        let open = |row: &SecretRow| self.vault.unseal(&application.app_key, SEALED_FOR, &row.secret);
        let secrets = secrets.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let guesser = guesser(request.app_key, from);
        if !request.is_signed_with(body, secrets.iter().map(|secret| secret.as_str())) {
            self.failures.note(&guesser, self.now()).await;
            return Err(SignatureError::Wrong);
        }
        self.failures.forget(&guesser).await;
        if application.disabled_at.is_some() {
            return Err(SignatureError::Disabled);
        }
        if application.is_expired(self.now()) {
            return Err(SignatureError::Expired);
        }
        let networks = &application.addresses;
        if !networks.is_empty() && !networks.iter().any(|network| network.contains(&from.to_canonical())) {
            return Err(SignatureError::Address);
        }
        let nonce = format!("app:{}:{}", application.app_key, request.nonce);
        // Before it is counted, so that nobody uses the application's rate up by what it once sent.
        if self.signed.used.get(&nonce).is_some_and(|until| until > self.now()) {
            return Err(SignatureError::Replayed);
        }
        self.signed.rates.take(&application.app_key, application.rate()).await?;
        self.use_nonce(nonce, timestamp).await?;
        Ok(application)
    }

    /// Uses a nonce up, at whichever node.
    async fn use_nonce(&self, nonce: String, timestamp: Millis) -> Result<(), SignatureError> {
        let now = self.now();
        // Until then the timestamp is good; and as long again, for a node whose clock is behind.
        let until = timestamp + 2 * millis(self.config.applications.signature_window) + 1;
        let mut write = Write::new();
        used_tokens::insert(&mut write, &self.server_name, &nonce, until);
        if self.signed.is_time_to_forget(now) {
            used_tokens::forget(&mut write, now);
        }
        let used = self.store.commit(write).await;
        if matches!(used, Ok(_) | Err(store::Error::Duplicate)) {
            self.signed.used.insert(nonce, until);
        }
        match used {
            Ok(_) => Ok(()),
            Err(store::Error::Duplicate) => Err(SignatureError::Replayed),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whose wrong signatures are counted together: so nobody can make an application wait from elsewhere.
fn guesser(app_key: &str, from: IpAddr) -> String {
    format!("application {app_key} from {from}")
}

fn note_refusal(app_key: &str, error: &SignatureError) {
    let outcome = error.code().unwrap_or(match error {
        SignatureError::Limited(_) => "rate_limited",
        _ => "failed",
    });
    counter!("comity_application_requests_total", "outcome" => outcome).increment(1);
    // Anybody can write anything there.
    let app_key: String = app_key.chars().filter(|c| c.is_ascii_graphic()).take(LONGEST_KEY).collect();
    info!(app_key, outcome, "a request signed for {app_key} was refused: {error}");
}
