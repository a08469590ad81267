//! Sessions: who a token stands for.

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use model::{Kind, Millis, Refusal};
use quick_cache::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use store::{
    Write,
    devices::{OfApplication, insert_device},
    tokens::{
        Descent, Refreshed, insert_access_token, insert_refresh_token, refresh, remove_tokens_of_device,
        retire_predecessor,
    },
};

use crate::{
    LoginError, PublicTokenKey, SecurityEvent, Users,
    jwt::Claims,
    millis,
    secrets::{digest_of, hash_of, new_token, random_text},
};

/// How long a session is believed without asking the database: another node may have ended it.
const BELIEVED_FOR: Millis = 60_000;
/// The same for one that an application has opened: switching the application off ends many at once, and not for nothing.
const OF_APPLICATION_BELIEVED_FOR: Millis = 5_000;

/// By what kind of tokens a session is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenStyle {
    /// An access token that lasts until logout.
    #[default]
    Lasting,
    /// An access token that expires, and a refresh token that gets another.
    Refreshed,
    /// As [`Self::Refreshed`], where the access token is a JWT that other programs can verify.
    Signed,
}

/// Who asks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session(Arc<SessionData>);

/// What a session is.
#[derive(Debug)]
pub struct SessionData {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The user administrates this server, and has opened the session.
    pub is_admin: bool,
    /// The application that has opened the session for the user, or acts as the user. It never does what only staff may.
    pub app_key: Option<String>,
    is_locked: bool,
    expires_at: Option<Millis>,
    loaded_at: Millis,
    seen_at: AtomicI64,
}

impl Deref for Session {
    type Target = SessionData;

    fn deref(&self) -> &SessionData {
        &self.0
    }
}

impl Session {
    pub(crate) fn new(user_id: OwnedUserId, device_id: OwnedDeviceId, is_admin: bool, loaded_at: Millis) -> Self {
        Self(Arc::new(SessionData {
            user_id,
            device_id,
            is_admin,
            app_key: None,
            is_locked: false,
            expires_at: None,
            loaded_at,
            seen_at: AtomicI64::new(0),
        }))
    }

    /// As [`Self::new`], for an application that stands in for the user, who is nobody's staff meanwhile.
    pub(crate) fn of_application(
        user_id: OwnedUserId,
        device_id: OwnedDeviceId,
        app_key: String,
        loaded_at: Millis,
    ) -> Self {
        Self(Arc::new(SessionData {
            user_id,
            device_id,
            is_admin: false,
            app_key: Some(app_key),
            is_locked: false,
            expires_at: None,
            loaded_at,
            seen_at: AtomicI64::new(0),
        }))
    }

    /// A session out of nothing, for tests of those who take one.
    #[doc(hidden)]
    pub fn for_tests(user_id: OwnedUserId, device_id: OwnedDeviceId) -> Self {
        Self::new(user_id, device_id, false, 0)
    }

    /// How long it is believed without asking the database.
    fn believed_for(&self) -> Millis {
        if self.app_key.is_some() { OF_APPLICATION_BELIEVED_FOR } else { BELIEVED_FOR }
    }

    /// Whether so much time has passed since it was last seen that it should be noted.
    pub(crate) fn is_seen_again(&self, now: Millis, after: Millis) -> bool {
        let seen_at = self.seen_at.load(Ordering::Relaxed);
        now - seen_at >= after
            && self.seen_at.compare_exchange(seen_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Why a token opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There was none.
    #[error("an access token is needed")]
    Missing,
    /// It was never given out, or has been taken back.
    #[error("the access token is not known")]
    Unknown,
    /// It has expired, and can be refreshed: the client keeps its data.
    #[error("the access token has expired")]
    Expired,
    /// Its user may do nothing but log out. The session goes on when that is over.
    #[error("this account is locked: ask those who run this server")]
    Locked,
    /// The store could not be asked.
    #[error("the session could not be looked up")]
    Store(#[from] store::Error),
}

impl TokenError {
    /// Whether the client may keep what it knows, and log in again.
    pub fn soft_logout(&self) -> bool {
        matches!(self, Self::Expired | Self::Locked)
    }
}

impl Refusal for TokenError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing | Self::Unknown | Self::Expired | Self::Locked => Kind::Unauthenticated,
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("M_MISSING_TOKEN"),
            Self::Unknown | Self::Expired => Some("M_UNKNOWN_TOKEN"),
            Self::Locked => Some("M_USER_LOCKED"),
            Self::Store(_) => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::Locked).then_some("user_locked")
    }
}

/// A session that was just opened, with the tokens that open it again.
pub struct NewSession {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The access token.
    pub access_token: String,
    /// The token that gets another access token.
    pub refresh_token: Option<String>,
    /// How long the access token lasts.
    pub expires_in: Option<std::time::Duration>,
}

/// The sessions that are remembered, by the digest of their tokens.
pub(crate) struct Sessions {
    known: Cache<[u8; 32], Session>,
    /// How often a session was ended: who looked one up meanwhile doesn't remember it.
    endings: AtomicU64,
    /// Hears whose sessions were ended here.
    pub(crate) on_end: OnceLock<OnSessionEnd>,
}

/// Hears of a user whose sessions, or some of them, were ended. Must not block.
pub type OnSessionEnd = Box<dyn Fn(&UserId) + Send + Sync>;

impl Sessions {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { known: Cache::new(capacity.max(1)), endings: AtomicU64::new(0), on_end: OnceLock::new() }
    }

    /// Forgets the sessions of a user, or of one device: they were ended.
    pub(crate) fn end(&self, user_id: &UserId, device_id: Option<&DeviceId>) {
        self.forget(|session| {
            session.user_id == user_id && device_id.is_none_or(|device_id| session.device_id == device_id)
        });
        if let Some(tell) = self.on_end.get() {
            tell(user_id);
        }
    }

    fn forget(&self, which: impl Fn(&Session) -> bool) {
        self.endings.fetch_add(1, Ordering::SeqCst);
        self.known.retain(|_, session| !which(session));
    }

    fn remember(&self, digest: [u8; 32], session: &Session, endings_before: u64) {
        self.known.insert(digest, session.clone());
        if self.endings.load(Ordering::SeqCst) != endings_before {
            self.known.remove(&digest);
        }
    }
}

impl Users {
    /// Tells `listener` whose sessions are ended here. Only the first who wants that is told.
    pub fn on_session_end(&self, listener: OnSessionEnd) {
        self.sessions.on_end.get_or_init(|| listener);
    }

    /// Somebody else may have ended sessions of a user, or of anybody: they are looked up again.
    pub fn forget_sessions(&self, user_id: Option<&UserId>) {
        self.sessions.forget(|session| user_id.is_none_or(|user_id| session.user_id == user_id));
    }

    /// Who `token` stands for. A session that was active of late is answered from memory.
    pub async fn authenticate(&self, token: &str) -> Result<Session, TokenError> {
        let session = self.authenticate_to_leave(token).await?;
        if session.is_locked { Err(TokenError::Locked) } else { Ok(session) }
    }

    /// As [`Self::authenticate`], for who wants to log out: that a locked account may too.
    pub async fn authenticate_to_leave(&self, token: &str) -> Result<Session, TokenError> {
        let now = self.now();
        let digest = digest_of(token);
        if let Some(session) = self.sessions.known.get(&digest)
            && now - session.loaded_at < session.believed_for()
        {
            return match session.expires_at {
                Some(expires_at) if expires_at <= now => Err(TokenError::Expired),
                _ => Ok(session),
            };
        }
        self.look_up(token, digest, now).await
    }

    async fn look_up(&self, token: &str, digest: [u8; 32], now: Millis) -> Result<Session, TokenError> {
        let endings = self.sessions.endings.load(Ordering::SeqCst);
        let found = self.store.tokens().find_access_token(&hash_of(token)).await?;
        let Some(row) = found else {
            self.sessions.known.remove(&digest);
            return Err(TokenError::Unknown);
        };
        if row.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(TokenError::Expired);
        }
        if let Some(refresh_hash) = &row.refresh_hash {
            self.retire_predecessor_of(&row.user_id, &row.device_id, refresh_hash).await?;
        }
        let session = Session(Arc::new(SessionData {
            user_id: row.user_id,
            device_id: row.device_id,
            is_admin: row.is_admin && row.app_key.is_none(),
            app_key: row.app_key,
            is_locked: row.is_locked,
            expires_at: row.expires_at,
            loaded_at: now,
            seen_at: AtomicI64::new(0),
        }));
        self.sessions.remember(digest, &session, endings);
        Ok(session)
    }

    /// Spec: "the old refresh token remains valid until the new access token or refresh token is used, at which point
    /// the old refresh token is revoked."
    async fn retire_predecessor_of(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        refresh_hash: &str,
    ) -> Result<(), store::Error> {
        if self.store.tokens().has_predecessor(refresh_hash).await? {
            let mut write = Write::new();
            retire_predecessor(&mut write, refresh_hash);
            self.store.commit(write).await?;
            self.sessions.end(user_id, Some(device_id));
        }
        Ok(())
    }

    /// Gives out another access token, and another refresh token, for a refresh token.
    ///
    /// One that was replaced, and comes again after its successor was used, is in two hands: the session ends for both.
    pub async fn refresh(&self, refresh_token: &str, style: TokenStyle) -> Result<NewSession, LoginError> {
        let old = hash_of(refresh_token);
        let Some(row) = self.store.tokens().find_refresh_token(&old).await? else {
            return Err(self.doubt(refresh_token).await?);
        };
        self.retire_predecessor_of(&row.user_id, &row.device_id, &old).await?;

        let lifetime = self.lifetime_of(style).unwrap_or(self.config.accounts.access_token_lifetime);
        let now = self.now();
        let lifetime = until_end(lifetime, now, row.ends_at).ok_or(LoginError::UnknownRefreshToken)?;
        let expires_at = now + millis(lifetime);
        let access_token = self.new_access_token(style, &row.user_id, &row.device_id, now, Some(expires_at));
        let next = RefreshToken::after(refresh_token, row.generation);
        let (next_token, family) = (next.to_string(), hash_of(&next.family));
        let (access, next_hash) = (hash_of(&access_token), hash_of(&next_token));
        let descent = Descent { family: &family, generation: next.generation };
        let mut write = Write::new();
        let pair = Refreshed { old: &old, refresh: &next_hash, descent, access: &access, now, expires_at };
        refresh(&mut write, &pair);
        self.store.commit(write).await?;
        // What was issued for this token before and never used is gone, and so may be the token itself.
        self.sessions.end(&row.user_id, Some(&row.device_id));
        if self.store.tokens().find_refresh_token(&next_hash).await?.is_none() {
            return Err(LoginError::UnknownRefreshToken);
        }
        Ok(NewSession {
            user_id: row.user_id,
            device_id: row.device_id,
            access_token,
            refresh_token: Some(next_token),
            expires_in: Some(lifetime),
        })
    }

    /// Why a refresh token that isn't there is refused. If it is one that a session of today had before, two have it, and the session ends.
    async fn doubt(&self, refresh_token: &str) -> Result<LoginError, store::Error> {
        let Some(shown) = RefreshToken::read(refresh_token) else { return Ok(LoginError::UnknownRefreshToken) };
        let youngest = self.store.tokens().youngest_of(&hash_of(&shown.family)).await?;
        // One that is as young was issued twice, because an answer was lost, and never counted.
        let Some(row) = youngest.filter(|youngest| shown.generation < youngest.generation) else {
            return Ok(LoginError::UnknownRefreshToken);
        };
        self.remove_devices(&row.user_id, &[&row.device_id]).await?;
        self.alarm(&SecurityEvent::RefreshTokenReused { user_id: row.user_id, device_id: row.device_id });
        Ok(LoginError::RefreshTokenReused)
    }

    /// How long an access token lasts; `None`: until logout.
    fn lifetime_of(&self, style: TokenStyle) -> Option<std::time::Duration> {
        match style {
            TokenStyle::Lasting => None,
            TokenStyle::Refreshed => Some(self.config.accounts.access_token_lifetime),
            TokenStyle::Signed => Some(self.config.accounts.signed_token_lifetime),
        }
    }

    fn new_access_token(
        &self,
        style: TokenStyle,
        user_id: &UserId,
        device_id: &DeviceId,
        now: Millis,
        expires_at: Option<Millis>,
    ) -> String {
        match (style, expires_at) {
            (TokenStyle::Signed, Some(expires_at)) => {
                let issuer = &self.server_name;
                self.token_key.issue(&Claims { issuer, user_id, device_id, issued_at: now, expires_at })
            }
            _ => new_token("cat"),
        }
    }

    /// By what others verify the access tokens that are [`TokenStyle::Signed`].
    pub fn public_token_key(&self) -> PublicTokenKey {
        self.token_key.public()
    }

    /// Adds to `write` a device of `user_id` and the tokens that open a session on it. Whoever commits it calls
    /// [`Self::opened`].
    pub(crate) fn open_session(&self, write: &mut Write, user_id: &UserId, device: NewDevice<'_>) -> NewSession {
        let now = self.now();
        let device_id = device.device_id.map_or_else(DeviceId::new, ToOwned::to_owned);
        let ends_at = device.application.map(|of| of.ends_at);
        let lifetime =
            self.lifetime_of(device.tokens).map(|lifetime| until_end(lifetime, now, ends_at).unwrap_or_default());
        let expires_at = lifetime.map(|lifetime| now + millis(lifetime));
        let access_token = self.new_access_token(device.tokens, user_id, &device_id, now, expires_at);
        let first = lifetime.is_some().then(RefreshToken::first);
        let refresh_token = first.as_ref().map(ToString::to_string);
        let refresh_hash = refresh_token.as_deref().map(hash_of);

        // A device that logs in anew loses its old tokens.
        remove_tokens_of_device(write, user_id, &device_id);
        insert_device(write, user_id, &device_id, device.display_name, now, device.application);
        let hash = hash_of(&access_token);
        insert_access_token(write, &hash, user_id, &device_id, now, expires_at, refresh_hash.as_deref());
        if let (Some(refresh_hash), Some(first)) = (&refresh_hash, &first) {
            let descent = Descent { family: &hash_of(&first.family), generation: first.generation };
            insert_refresh_token(write, refresh_hash, user_id, &device_id, now, descent);
        }
        NewSession { user_id: user_id.to_owned(), device_id, access_token, refresh_token, expires_in: lifetime }
    }

    /// A new session has been committed: older ones of its device have ended.
    pub(crate) fn opened(&self, session: &NewSession) {
        self.sessions.end(&session.user_id, Some(&session.device_id));
    }
}

/// The device that a session is opened on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewDevice<'a> {
    /// Its id; `None`: a new one.
    pub(crate) device_id: Option<&'a DeviceId>,
    /// What to call it if it is new.
    pub(crate) display_name: Option<&'a str>,
    /// By what it is opened.
    pub(crate) tokens: TokenStyle,
    /// It is opened by an application.
    pub(crate) application: Option<OfApplication<'a>>,
}

/// As long as `lifetime`, and no longer than until `ends_at`; `None`: it is over.
fn until_end(lifetime: std::time::Duration, now: Millis, ends_at: Option<Millis>) -> Option<std::time::Duration> {
    let Some(ends_at) = ends_at else { return Some(lifetime) };
    let left = u64::try_from(ends_at - now).ok().filter(|left| *left > 0)?;
    Some(lifetime.min(std::time::Duration::from_millis(left)))
}

/// What a refresh token says: of which family it is, and the how-manieth of it. What nobody can guess is the family's name, and the rest
/// that makes it this one; of both only hashes are kept.
struct RefreshToken {
    family: String,
    generation: i64,
    own: String,
}

impl RefreshToken {
    /// The first of a session.
    fn first() -> Self {
        Self { family: random_text(), generation: 1, own: random_text() }
    }

    /// The one after `text`, which is of this generation; 0: it is from before there were families, and is followed by the first of one.
    fn after(text: &str, generation: i64) -> Self {
        match Self::read(text) {
            Some(Self { family, .. }) if generation > 0 => {
                Self { family, generation: generation + 1, own: random_text() }
            }
            _ => Self::first(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("crt_")?.split('.');
        let (family, generation, own) = (parts.next()?, parts.next()?, parts.next()?);
        let generation = generation.parse().ok().filter(|generation| *generation > 0)?;
        parts.next().is_none().then(|| Self { family: family.to_owned(), generation, own: own.to_owned() })
    }
}

impl std::fmt::Display for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { family, generation, own } = self;
        write!(f, "crt_{family}.{generation}.{own}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_users;

    #[tokio::test]
    async fn a_session_is_answered_from_memory_until_it_is_logged_out() {
        with_users(async |users, _| {
            let session = users.register_for_tests("alice").await;
            let found = users.authenticate(&session.access_token).await.expect("the token is good");
            assert_eq!((found.user_id.as_str(), &found.device_id), ("@alice:a.test", &session.device_id));
            let again = users.authenticate(&session.access_token).await.expect("the token is still good");
            assert!(Arc::ptr_eq(&found.0, &again.0));

            users.logout(&found).await.expect("logging out works");
            let refused = users.authenticate(&session.access_token).await.expect_err("the session is over");
            assert!(matches!(refused, TokenError::Unknown) && !refused.soft_logout());
            assert!(matches!(users.authenticate("").await, Err(TokenError::Unknown)));
        })
        .await;
    }

    #[tokio::test]
    async fn an_expired_token_says_that_it_can_be_refreshed() {
        with_users(async |users, clock| {
            users.register_for_tests("alice").await;
            let first = users.login_for_tests("alice", TokenStyle::Refreshed).await;
            clock.advance(first.expires_in.expect("it expires").as_millis() as i64);
            let refused = users.authenticate(&first.access_token).await.expect_err("it has expired");
            assert!(refused.soft_logout());

            let refresh_token = first.refresh_token.expect("it can be refreshed");
            let refresh = async |token: &str| users.refresh(token, TokenStyle::Refreshed).await;
            let second = refresh(&refresh_token).await.expect("refreshing works");
            let third = refresh(&refresh_token).await.expect("it works again while the answer is unused");
            assert!(users.authenticate(&second.access_token).await.is_err());
            users.authenticate(&third.access_token).await.expect("the last one issued works");
            // What was issued for an answer that got lost says nothing of who has the others.
            let lost = second.refresh_token.expect("it had a successor");
            assert!(matches!(refresh(&lost).await, Err(LoginError::UnknownRefreshToken)));
            refresh(&third.refresh_token.expect("it has a successor")).await.expect("the chain goes on");
        })
        .await;
    }

    #[tokio::test]
    async fn a_refresh_token_that_two_have_ends_the_session_for_both() {
        with_users(async |users, _| {
            let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
            let ear = heard.clone();
            users.on_security_event(Box::new(move |event| ear.lock().expect("nobody panics").push(event.clone())));
            let other = users.register_for_tests("alice").await;
            let first = users.login_for_tests("alice", TokenStyle::Signed).await;
            let stolen = first.refresh_token.expect("it can be refreshed");
            let refresh = async |token: &str| users.refresh(token, TokenStyle::Signed).await;
            let second = refresh(&stolen).await.expect("the first of the two");
            let third = refresh(second.refresh_token.as_deref().expect("there is one")).await.expect("and on");
            assert!(heard.lock().expect("nobody panics").is_empty());

            assert!(matches!(refresh(&stolen).await, Err(LoginError::RefreshTokenReused)));
            assert!(users.authenticate(&third.access_token).await.is_err());
            assert!(refresh(third.refresh_token.as_deref().expect("there is one")).await.is_err());
            users.authenticate(&other.access_token).await.expect("the user's other sessions go on");
            let event = SecurityEvent::RefreshTokenReused {
                user_id: first.user_id.clone(),
                device_id: first.device_id.clone(),
            };
            assert_eq!(*heard.lock().expect("nobody panics"), [event]);
            assert!(matches!(refresh(&stolen).await, Err(LoginError::UnknownRefreshToken)), "it is over, and no news");
        })
        .await;
    }

    #[tokio::test]
    async fn a_refresh_token_from_before_there_were_families_begins_one() {
        with_users(async |users, _| {
            let opened = users.register_for_tests("alice").await;
            let mut write = Write::new();
            let insert = "INSERT INTO refresh_tokens (hash, user_id, device_id, created_at) VALUES ($1, $2, $3, $4)";
            let (hash, user_id, device_id) = (hash_of("crt_old"), opened.user_id.as_str(), opened.device_id.as_str());
            write.run(insert, store::args![hash, user_id, device_id, 1_i64]);
            users.store.commit(write).await.expect("it is stored");
            let second = users.refresh("crt_old", TokenStyle::Refreshed).await.expect("it is good");
            let token = second.refresh_token.expect("it has a successor");
            assert!(RefreshToken::read(&token).is_some_and(|token| token.generation == 1));
            users.refresh(&token, TokenStyle::Refreshed).await.expect("the chain goes on");
            assert!(matches!(
                users.refresh("crt_old", TokenStyle::Refreshed).await,
                Err(LoginError::UnknownRefreshToken)
            ));
        })
        .await;
    }

    #[tokio::test]
    async fn a_device_that_logs_in_anew_loses_its_old_token() {
        with_users(async |users, _| {
            users.register_for_tests("alice").await;
            let first = users.login_for_tests("alice", TokenStyle::Lasting).await;
            users.authenticate(&first.access_token).await.expect("the token is good");
            let second = users.login_on_for_tests("alice", &first.device_id).await;
            assert!(users.authenticate(&first.access_token).await.is_err());
            users.authenticate(&second.access_token).await.expect("the new token is good");
        })
        .await;
    }
}
