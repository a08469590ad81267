//! Opening and ending sessions.

use std::net::IpAddr;

use metrics::counter;
use model::{Kind, Refusal};
use peers::vault::VaultError;
use ruma::{
    DeviceId, OwnedUserId, UserId,
    api::client::uiaa::{AuthData, UserIdentifier},
};
use store::{
    Write,
    accounts::{AccountRow, replace_password_hash},
    browser_sessions::remove_browsers_of,
    devices::remove_device,
    tokens::{claim_login_token, insert_login_token},
};
use tracing::warn;

use crate::{
    Act, DeviceError, Limited, NewSession, Refused, Session, TokenStyle, Users,
    accounts::check_device_id,
    key_updates::KeysChanged,
    millis,
    passwords::{Busy, Verdict},
    secrets::{hash_of, new_token, random_text},
    tokens::NewDevice,
};

/// By what somebody says who they are.
#[derive(Clone, Debug)]
pub enum Credentials<'a> {
    /// A user and the password.
    Password {
        /// Who: the specification's identifier.
        identifier: &'a UserIdentifier,
        /// The password.
        password: &'a str,
        /// A code of the second factor, or one for who has lost it; needed where the account has one.
        code: Option<&'a str>,
    },
    /// A token that another device of the user made.
    Token(&'a str),
}

/// What somebody who logs in says.
#[derive(Clone, Debug)]
pub struct LoginRequest<'a> {
    /// By what.
    pub credentials: Credentials<'a>,
    /// On which device; `None`: a new one.
    pub device_id: Option<&'a DeviceId>,
    /// What to call the device, if it is new.
    pub device_name: Option<&'a str>,
    /// By what kind of tokens.
    pub tokens: TokenStyle,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// There is no such user, or the password is another one. Which of them, nobody is told.
    #[error("wrong user name or password")]
    WrongPassword,
    /// The account has been closed.
    #[error("this account has been deactivated")]
    Deactivated,
    /// Its owner may do nothing now.
    #[error("this account is locked: ask those who run this server")]
    Locked,
    /// The account was asked for, and no admin has decided yet.
    #[error("this account waits for an administrator's approval")]
    AwaitingApproval,
    /// The account was asked for, and refused.
    #[error("an administrator has refused this account: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The password is right, and the account has a second factor.
    #[error("this account has a second factor: its code is needed too")]
    CodeNeeded,
    /// The code of the second factor is not right, or was used.
    #[error("the code of the second factor is wrong, or was used already")]
    WrongCode,
    /// The identifier is of a kind that this server does not know.
    #[error("this server does not know users by `{0}`")]
    Identifier(String),
    /// The device id can't be one.
    #[error("`device_id` is empty or too long")]
    DeviceId,
    /// The login token is not known, has expired, or was used.
    #[error("the login token is not valid")]
    UnknownLoginToken,
    /// The refresh token is not known, or was used.
    #[error("the refresh token is not valid")]
    UnknownRefreshToken,
    /// The refresh token was replaced, and came again after its successor was used: two had it, so the session was ended.
    #[error("the refresh token was used before: the session has been ended")]
    RefreshTokenReused,
    /// Too often.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// Secrets can't be opened.
    #[error("the second factor could not be read")]
    Vault(#[from] VaultError),
    /// Too many passwords wait to be checked.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The store failed.
    #[error("the session could not be opened")]
    Store(#[from] store::Error),
}

impl Refusal for LoginError {
    fn kind(&self) -> Kind {
        match self {
            Self::WrongPassword | Self::Deactivated | Self::UnknownLoginToken => Kind::Forbidden,
            Self::AwaitingApproval | Self::Refused { .. } | Self::CodeNeeded | Self::WrongCode => Kind::Forbidden,
            Self::UnknownRefreshToken | Self::RefreshTokenReused | Self::Locked => Kind::Unauthenticated,
            Self::Vault(_) => Kind::Internal,
            Self::Identifier(_) | Self::DeviceId => Kind::Invalid,
            Self::Limited(limited) => limited.kind(),
            Self::Busy(_) => Kind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::Deactivated => Some("M_USER_DEACTIVATED"),
            Self::Locked => Some("M_USER_LOCKED"),
            Self::Identifier(_) => Some("M_UNKNOWN"),
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::WrongPassword => Some("wrong_credentials"),
            Self::Deactivated => Some("deactivated"),
            Self::Locked => Some("user_locked"),
            Self::AwaitingApproval => Some("awaiting_approval"),
            Self::Refused { .. } => Some("registration_refused"),
            Self::CodeNeeded => Some("code_needed"),
            Self::WrongCode => Some("wrong_code"),
            Self::UnknownRefreshToken => Some("unknown_refresh_token"),
            Self::RefreshTokenReused => Some("refresh_token_reused"),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Limited(limited) => limited.retry_after_ms(),
            _ => None,
        }
    }
}

impl Users {
    /// Opens a session.
    pub async fn login(&self, request: LoginRequest<'_>, address: IpAddr) -> Result<NewSession, LoginError> {
        let opened = self.try_login(request, address).await;
        let outcome = if opened.is_ok() { "opened" } else { "refused" };
        counter!("comity_logins_total", "outcome" => outcome).increment(1);
        opened
    }

    async fn try_login(&self, request: LoginRequest<'_>, address: IpAddr) -> Result<NewSession, LoginError> {
        check_device_id(request.device_id).map_err(|_| LoginError::DeviceId)?;
        let user_id = self.check_person(&request.credentials, address).await?;
        let LoginRequest { device_id, device_name: display_name, tokens, .. } = request;
        let device = NewDevice { device_id, display_name, tokens, application: None };
        let mut write = Write::new();
        let session = self.open_session(&mut write, &user_id, device);
        self.store.commit(write).await?;
        self.opened(&session);
        Ok(session)
    }

    /// Who says what only they can say, slowly for those who guess. Nobody whose account is closed or locked.
    pub(crate) async fn check_person(
        &self,
        credentials: &Credentials<'_>,
        address: IpAddr,
    ) -> Result<OwnedUserId, LoginError> {
        self.limits.check_login_from(address).await?;
        let user_id = match *credentials {
            Credentials::Password { identifier, password, code } => {
                let user_id = self.user_of_identifier(identifier)?;
                self.limits.check_login_to(user_id.as_str()).await?;
                let user_id = self.check_password(&user_id, password).await?;
                self.check_code(&user_id, code).await?;
                user_id
            }
            Credentials::Token(token) => self.use_login_token(token).await?,
        };
        self.check_may_enter(&user_id).await?;
        Ok(user_id)
    }

    /// Refuses who may do nothing now.
    pub(crate) async fn check_may_enter(&self, user_id: &UserId) -> Result<(), LoginError> {
        match self.store.custody().find(user_id).await? {
            Some(account) if account.deactivated_at.is_some() => Err(LoginError::Deactivated),
            Some(account) if account.locked_at.is_some() => Err(LoginError::Locked),
            _ => Ok(()),
        }
    }

    /// Who is meant. A user of another server is nobody who could log in here.
    pub(crate) fn user_of_identifier(&self, identifier: &UserIdentifier) -> Result<OwnedUserId, LoginError> {
        let UserIdentifier::Matrix(named) = identifier else {
            return Err(LoginError::Identifier(identifier.identifier_type().to_owned()));
        };
        let whole = if named.user.starts_with('@') {
            named.user.clone()
        } else {
            format!("@{}:{}", named.user, self.server_name)
        };
        let user_id = UserId::parse(whole).map_err(|_| LoginError::WrongPassword)?;
        if !self.is_ours(&user_id) {
            return Err(LoginError::WrongPassword);
        }
        Ok(user_id)
    }

    /// Checks a password, slowly for those who guess. Answers the user as the account has it: people write their names
    /// with capitals.
    pub(crate) async fn check_password(&self, user_id: &UserId, password: &str) -> Result<OwnedUserId, LoginError> {
        let account = self.account_for_login(user_id).await?;
        let name = account.as_ref().map_or(user_id, |account| &account.user_id).as_str().to_lowercase();
        self.failures.check(&name, self.now()).await?;
        let pending = match (&account, UserId::parse(&*name)) {
            (None, Ok(user_id)) => self.store.pending_accounts().find(&user_id).await?,
            _ => None,
        };
        let stored = match &account {
            Some(account) => account.password_hash.clone(),
            None => pending.as_ref().map(|pending| pending.password_hash.clone()),
        };
        let verdict = self.passwords.verify(stored.clone(), password.to_owned()).await?;
        let Some(account) = account else {
            if let (Some(pending), Verdict::Right) = (pending, verdict) {
                self.failures.forget(&name).await;
                return Err(match pending.refused_at {
                    Some(_) => LoginError::Refused { reason: pending.reason.unwrap_or_default() },
                    None => LoginError::AwaitingApproval,
                });
            }
            self.failures.note(&name, self.now()).await;
            return Err(LoginError::WrongPassword);
        };
        if account.deactivated_at.is_some() {
            return Err(LoginError::Deactivated);
        }
        if verdict == Verdict::Wrong {
            self.failures.note(&name, self.now()).await;
            return Err(LoginError::WrongPassword);
        }
        self.failures.forget(&name).await;
        if let (Verdict::RightButOld, Some(old)) = (verdict, stored) {
            self.renew_hash(&account.user_id, &old, password).await;
        }
        Ok(account.user_id)
    }

    async fn account_for_login(&self, user_id: &UserId) -> Result<Option<AccountRow>, LoginError> {
        if let Some(account) = self.store.accounts().find(user_id).await? {
            return Ok(Some(account));
        }
        match UserId::parse(user_id.as_str().to_lowercase()) {
            Ok(lower) if lower != user_id => Ok(self.store.accounts().find(&lower).await?),
            _ => Ok(None),
        }
    }

    /// Replaces a hash of an older kind. That it fails keeps nobody out.
    async fn renew_hash(&self, user_id: &UserId, old: &str, password: &str) {
        let Ok(new) = self.passwords.hash(password.to_owned()).await else { return };
        let mut write = Write::new();
        replace_password_hash(&mut write, user_id, old, &new);
        if let Err(error) = self.store.commit(write).await {
            warn!(user.id = %user_id, error = &error as &dyn std::error::Error, "failed to renew a password hash");
        }
    }

    // === Login tokens ===

    /// Makes a token by which another device of the user logs in, once.
    pub async fn make_login_token(
        &self,
        session: &Session,
        auth: Option<&AuthData>,
    ) -> Result<(String, std::time::Duration), Refused> {
        self.authorize(&Act::MakeLoginToken, Some(session), auth).await?;
        Ok(self.give_login_token(&session.user_id).await?)
    }

    /// A token by which somebody logs in, once, and how long it is good.
    pub(crate) async fn give_login_token(
        &self,
        user_id: &UserId,
    ) -> Result<(String, std::time::Duration), store::Error> {
        let token = new_token("clt");
        let lifetime = self.config.accounts.login_token_lifetime;
        let now = self.now();
        let mut write = Write::new();
        insert_login_token(&mut write, &hash_of(&token), user_id, now, now + millis(lifetime));
        self.store.commit(write).await?;
        Ok((token, lifetime))
    }

    async fn use_login_token(&self, token: &str) -> Result<OwnedUserId, LoginError> {
        let (hash, claim) = (hash_of(token), random_text());
        let mut write = Write::new();
        claim_login_token(&mut write, &hash, &claim, self.now());
        self.store.commit(write).await?;
        let user_id = self.store.tokens().login_token_of(&hash, &claim).await?.ok_or(LoginError::UnknownLoginToken)?;
        match self.store.accounts().find(&user_id).await? {
            Some(account) if account.deactivated_at.is_none() => Ok(user_id),
            _ => Err(LoginError::Deactivated),
        }
    }

    // === Logging out ===

    /// Ends a session; its device goes with it.
    pub async fn logout(&self, session: &Session) -> Result<(), store::Error> {
        self.remove_devices(&session.user_id, &[&session.device_id]).await
    }

    /// Ends one of the sessions of whoever asks, perhaps this one; its device goes with it.
    pub async fn end_session(&self, session: &Session, device_id: &DeviceId) -> Result<(), DeviceError> {
        self.device_of(&session.user_id, device_id).await?;
        self.remove_devices(&session.user_id, &[device_id]).await?;
        Ok(())
    }

    /// Ends all sessions of the user; all devices go with them.
    pub async fn logout_all(&self, session: &Session) -> Result<(), store::Error> {
        let devices = self.store.devices().list(&session.user_id).await?;
        let ids: Vec<&DeviceId> = devices.iter().map(|device| &*device.device_id).collect();
        self.remove_devices(&session.user_id, &ids).await?;
        let mut write = Write::new();
        remove_browsers_of(&mut write, &session.user_id);
        self.store.commit(write).await.map(drop)
    }

    pub(crate) async fn remove_devices(&self, user_id: &UserId, devices: &[&DeviceId]) -> Result<(), store::Error> {
        let mut write = Write::new();
        for device_id in devices {
            remove_device(&mut write, user_id, device_id);
        }
        self.tell_keys_changed(&mut write, user_id, KeysChanged { devices, signing_keys: false }).await?;
        self.store.commit(write).await?;
        for device_id in devices {
            self.sessions.end(user_id, Some(device_id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use store::accounts::set_password_hash;

    use super::*;
    use crate::testing::{with_users, with_users_of};

    #[tokio::test]
    async fn a_user_logs_in_by_user_id_by_localpart_and_with_capitals() {
        with_users(async |users, _| {
            users.register_for_tests("alice").await;
            for name in ["alice", "@alice:a.test", "Alice", "@ALICE:a.test"] {
                users.try_login_for_tests(name, "a password").await.expect(name);
            }
            for name in ["bob", "@alice:b.test", "", "@", "alice:a.test"] {
                let refused = users.try_login_for_tests(name, "a password").await.err().expect(name);
                assert!(matches!(refused, LoginError::WrongPassword), "{name}: {refused}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_bcrypt_hash_opens_the_account_and_is_renewed() {
        with_users(async |users, _| {
            users.register_for_tests("alice").await;
            let alice = user_id!("@alice:a.test");
            let mut write = Write::new();
            let old = bcrypt::hash("old password", 4).expect("cost 4 is allowed");
            set_password_hash(&mut write, alice, Some(&old));
            users.store.commit(write).await.expect("it is stored");
            users.try_login_for_tests("alice", "old password").await.expect("the old hash opens");
            let account = users.store.accounts().find(alice).await.expect("it reads").expect("alice is there");
            assert!(account.password_hash.expect("there is a hash").starts_with("$argon2id$"));
            users.try_login_for_tests("alice", "old password").await.expect("the new hash opens");
        })
        .await;
    }

    #[tokio::test]
    async fn whoever_guesses_has_to_wait_and_so_does_the_right_password() {
        let mut config = crate::testing::config();
        config.accounts.failed_logins_allowed = 2;
        with_users_of(config, async |users, clock| {
            users.register_for_tests("alice").await;
            for _ in 0..2 {
                let refused = users.try_login_for_tests("alice", "guess").await.err().expect("it is wrong");
                assert!(matches!(refused, LoginError::WrongPassword));
            }
            let refused = users.try_login_for_tests("alice", "a password").await.err().expect("one has to wait");
            assert!(refused.retry_after_ms().is_some_and(|wait| wait <= 1_000), "{refused:?}");
            clock.advance(1_000);
            users.try_login_for_tests("alice", "a password").await.expect("the wait is over");
        })
        .await;
    }

    #[tokio::test]
    async fn logging_out_everywhere_ends_every_session() {
        with_users(async |users, _| {
            let one = users.register_for_tests("alice").await;
            let other = users.login_for_tests("alice", TokenStyle::Refreshed).await;
            let session = users.authenticate(&one.access_token).await.expect("the token is good");
            users.logout_all(&session).await.expect("it works");
            assert!(users.authenticate(&one.access_token).await.is_err());
            assert!(users.authenticate(&other.access_token).await.is_err());
            assert!(users.refresh(&other.refresh_token.expect("there is one"), TokenStyle::Refreshed).await.is_err());
        })
        .await;
    }
}
