//! Making accounts, changing them, and closing them.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use model::{
    Kind, Millis, Refusal,
    gate::{self, GateError, Proposal},
};
use rand::RngExt as _;
use ruma::{OwnedDeviceId, OwnedUserId, UserId, api::client::uiaa::AuthData};
use serde_json::{json, value::to_raw_value};
use store::{
    Write,
    accounts::{AccountRow, deactivate_account, insert_account, set_admin, set_password_hash},
    device_keys::remove_cross_signing_keys,
    devices::remove_device,
    profiles::{put_profile_field, remove_profile},
    verification::insert_email,
};
use tracing::info;

use crate::{
    Act, CodePurpose, EmailError, EmailProof, Limited, NewSession, Refused, Session, TokenStyle, Users,
    key_updates::KeysChanged, passwords::Busy, tokens::NewDevice,
};

const MAX_PASSWORD_BYTES: usize = 512;
const MAX_DEVICE_ID_BYTES: usize = 255;
pub(crate) const MAX_DEVICE_NAME_BYTES: usize = 100;

/// What somebody who registers says.
#[derive(Debug, Default)]
pub struct Registration<'a> {
    /// The localpart; `None`: any.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a str>,
    /// The device to log in on at once; `None`: a new one.
    pub device_id: Option<&'a ruma::DeviceId>,
    /// What to call the device.
    pub device_name: Option<&'a str>,
    /// Don't log in.
    pub inhibit_login: bool,
    /// By what kind of tokens the session is opened.
    pub tokens: TokenStyle,
    /// What came of the interactive authentication.
    pub auth: Option<&'a AuthData>,
    /// What others see; `None`: the localpart.
    pub display_name: Option<&'a str>,
    /// An e-mail address, with what proves that it is the user's.
    pub email: Option<EmailProof<'a>>,
}

/// An account to be made by somebody who may.
#[derive(Clone, Debug, Default)]
pub struct NewAccount {
    /// The localpart.
    pub username: String,
    /// The password; `None`: no password opens the account.
    pub password: Option<String>,
    /// What others see.
    pub display_name: Option<String>,
    /// The user administrates this server.
    pub is_admin: bool,
}

/// An account was made.
pub struct Registered {
    /// The user.
    pub user_id: OwnedUserId,
    /// The session that was opened with it.
    pub session: Option<NewSession>,
    /// It is no account yet: an admin has to approve of it.
    pub is_waiting: bool,
}

/// An account, as an administrator sees it.
#[derive(Clone, Debug)]
pub struct Account {
    /// The user.
    pub user_id: OwnedUserId,
    /// When it was made.
    pub created_at: Millis,
    /// The user administrates this server.
    pub is_admin: bool,
    /// When it was closed.
    pub deactivated_at: Option<Millis>,
}

/// Why no account was made.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// This server takes no registrations.
    #[error("registration is not open on this server")]
    Closed,
    /// Guests are not let in.
    #[error("this server has no guests")]
    Guest,
    /// The name is taken, or was.
    #[error("this user name is taken")]
    Taken,
    /// The name can't be one.
    #[error("`username` {0}")]
    Username(&'static str),
    /// The device id can't be one.
    #[error("`device_id` is empty or longer than {MAX_DEVICE_ID_BYTES} bytes")]
    DeviceId,
    /// No password was given.
    #[error("`password` is missing")]
    NoPassword,
    /// An e-mail address has to be shown to be one's own.
    #[error(
        "this server registers people with an e-mail address: ask for a code at /api/v1/auth/verification_codes, and register with it \
        at /api/v1/auth/register"
    )]
    EmailNeeded,
    /// The e-mail address won't do.
    #[error(transparent)]
    Email(#[from] EmailError),
    /// More accounts wait for approval than are kept.
    #[error("too many accounts wait for an administrator's approval; try again later")]
    TooManyWaiting,
    /// The password will not do.
    #[error("the password {0}")]
    Password(&'static str),
    /// The display name will not do.
    #[error(transparent)]
    Profile(#[from] crate::ProfileError),
    /// `/_synapse/admin/v1/register` is not switched on, or its proof is wrong.
    #[error("{0}")]
    Proof(&'static str),
    /// The nonce was never given out, or is too old.
    #[error("`nonce` is not known or has expired")]
    Nonce,
    /// Whoever is asked first did not let it through.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// Too often.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// Too many passwords wait to be hashed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The store failed.
    #[error("the account could not be stored")]
    Store(#[source] store::Error),
}

impl From<store::Error> for RegisterError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Duplicate => Self::Taken,
            error => Self::Store(error),
        }
    }
}

impl Refusal for RegisterError {
    fn kind(&self) -> Kind {
        match self {
            Self::Closed | Self::Guest | Self::Proof(_) | Self::EmailNeeded | Self::TooManyWaiting => Kind::Forbidden,
            Self::Email(error) => error.kind(),
            // The specification has these as 400, a taken name too.
            Self::Taken | Self::Username(_) | Self::DeviceId | Self::NoPassword | Self::Password(_) | Self::Nonce => {
                Kind::Invalid
            }
            Self::Profile(error) => error.kind(),
            Self::Gate(error) => error.kind(),
            Self::Limited(limited) => limited.kind(),
            Self::Busy(_) => Kind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::Guest => Some("M_GUEST_ACCESS_FORBIDDEN"),
            Self::Taken => Some("M_USER_IN_USE"),
            Self::Username(_) => Some("M_INVALID_USERNAME"),
            Self::NoPassword => Some("M_MISSING_PARAM"),
            Self::Password(_) => Some("M_WEAK_PASSWORD"),
            Self::Profile(error) => error.errcode(),
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Closed => Some("registration_closed"),
            Self::Taken => Some("name_taken"),
            Self::Username(_) => Some("invalid_name"),
            Self::Password(_) | Self::NoPassword => Some("weak_password"),
            Self::EmailNeeded => Some("email_needed"),
            Self::Email(error) => error.code(),
            Self::TooManyWaiting => Some("too_many_waiting"),
            _ => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Gate(error) => error.remedy(),
            Self::Email(error) => error.remedy(),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Limited(limited) => limited.retry_after_ms(),
            Self::Email(error) => error.retry_after_ms(),
            _ => None,
        }
    }
}

/// Why an account was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such account, or it has been closed.
    #[error("there is no such account")]
    NotFound,
    /// The password will not do.
    #[error("the password {0}")]
    Password(&'static str),
    /// Too many passwords wait to be hashed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The store failed.
    #[error("the account could not be changed")]
    Store(#[from] store::Error),
}

impl Refusal for AccountError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound => Kind::NotFound,
            Self::Password(_) => Kind::Invalid,
            Self::Busy(_) => Kind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        matches!(self, Self::Password(_)).then_some("M_WEAK_PASSWORD")
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::Password(_)).then_some("weak_password")
    }
}

// === Registration ===

/// Who may make an account now. It is as configured until somebody sets it.
pub(crate) struct Door {
    is_open: AtomicBool,
    needs_approval: AtomicBool,
}

impl Door {
    pub(crate) fn of(config: &crate::RegistrationConfig) -> Self {
        Self { is_open: config.enabled.into(), needs_approval: config.approval.into() }
    }
}

impl Users {
    /// From now on people may make accounts or not, and these wait for approval or not.
    pub fn set_registration(&self, is_open: bool, needs_approval: bool) {
        self.door.is_open.store(is_open, Ordering::Relaxed);
        self.door.needs_approval.store(needs_approval, Ordering::Relaxed);
    }

    /// Whether people may make accounts.
    pub fn is_registration_open(&self) -> bool {
        self.door.is_open.load(Ordering::Relaxed)
    }

    fn needs_approval(&self) -> bool {
        self.door.needs_approval.load(Ordering::Relaxed)
    }

    /// Makes an account for whoever asks, if this server takes registrations, and logs in.
    pub async fn register(&self, wish: Registration<'_>, address: IpAddr) -> Result<Registered, Refused> {
        if !self.is_registration_open() {
            return Err(RegisterError::Closed.into());
        }
        if wish.auth.is_some() {
            self.limits.check_registration_from(address).await?;
        } else {
            self.limits.check_lookup_from(address).await?;
        }
        // What can't be is said before anybody is asked to prove anything.
        let user_id = match wish.username {
            Some(username) => self.check_available(username).await?,
            None => self.any_user_id(),
        };
        check_device_id(wish.device_id)?;
        if let Some(password) = wish.password {
            self.check_password_rules(password).map_err(RegisterError::Password)?;
        }
        let name = wish.display_name.unwrap_or(user_id.localpart());
        crate::profiles::check_display_name(name).map_err(RegisterError::Profile)?;
        if self.config.registration.require_email && wish.email.is_none() {
            return Err(RegisterError::EmailNeeded.into());
        }
        self.authorize(&Act::Register, None, wish.auth).await?;
        let password = wish.password.ok_or(RegisterError::NoPassword)?;
        self.ask_registration(&user_id).await?;

        let hash = self.passwords.hash(password.to_owned()).await?;
        let email = match wish.email {
            Some(proof) => {
                Some(self.prove_new_email(proof, CodePurpose::Register).await.map_err(RegisterError::Email)?)
            }
            None => None,
        };
        if self.needs_approval() {
            self.put_in_queue(&user_id, hash, name, email).await?;
            return Ok(Registered { user_id, session: None, is_waiting: true });
        }
        let mut write = Write::new();
        insert_account(&mut write, &self.new_row(&user_id, Some(hash), false));
        put_name(&mut write, &user_id, name);
        if let Some(email) = &email {
            insert_email(&mut write, email, &user_id, self.now());
        }
        let Registration { device_id, device_name: display_name, tokens, .. } = wish;
        let device = NewDevice { device_id, display_name, tokens, application: None };
        let session = (!wish.inhibit_login).then(|| self.open_session(&mut write, &user_id, device));
        self.store.commit(write).await.map_err(RegisterError::from)?;
        info!(user.id = %user_id, "{user_id} registered");
        Ok(Registered { user_id, session, is_waiting: false })
    }

    /// Asks whoever is asked before somebody makes an account.
    pub(crate) async fn ask_registration(&self, user_id: &UserId) -> Result<(), RegisterError> {
        let Some(gate) = self.gate.on(gate::Act::Register, user_id) else { return Ok(()) };
        let content = to_raw_value(&json!({ "username": user_id.localpart() })).expect("a text is JSON");
        let proposal = Proposal {
            act: gate::Act::Register,
            sender: user_id,
            room_id: None,
            event: None,
            content: &content,
            may_become: None,
            is_approved: false,
        };
        gate.ask(proposal).await?;
        Ok(())
    }

    /// Makes an account on behalf of an administrator.
    pub async fn create_account(&self, account: NewAccount) -> Result<OwnedUserId, RegisterError> {
        let user_id = self.check_available(&account.username).await?;
        let name = account.display_name.as_deref().unwrap_or(user_id.localpart());
        crate::profiles::check_display_name(name)?;
        let hash = match account.password {
            Some(password) => {
                self.check_password_rules(&password).map_err(RegisterError::Password)?;
                Some(self.passwords.hash(password).await?)
            }
            None => None,
        };
        let mut write = Write::new();
        insert_account(&mut write, &self.new_row(&user_id, hash, account.is_admin));
        put_name(&mut write, &user_id, name);
        self.store.commit(write).await?;
        info!(user.id = %user_id, is_admin = account.is_admin, "an account was made for {user_id}");
        Ok(user_id)
    }

    /// The user id that `username` would get, if it is free.
    pub async fn check_available(&self, username: &str) -> Result<OwnedUserId, RegisterError> {
        let user_id = self.user_id_of_localpart(username)?;
        if self.store.accounts().find(&user_id).await?.is_some() {
            return Err(RegisterError::Taken);
        }
        match self.store.pending_accounts().find(&user_id).await? {
            Some(pending) if pending.refused_at.is_none() => Err(RegisterError::Taken),
            _ => Ok(user_id),
        }
    }

    /// As [`Self::check_available`], for anybody who asks.
    pub async fn ask_available(&self, username: &str, address: IpAddr) -> Result<OwnedUserId, RegisterError> {
        self.limits.check_lookup_from(address).await?;
        self.check_available(username).await
    }

    /// Whether `token` lets one register, for anybody who asks.
    pub async fn ask_registration_token(&self, token: &str, address: IpAddr) -> Result<bool, RegisterError> {
        if !self.is_registration_open() {
            return Err(RegisterError::Closed);
        }
        self.limits.check_registration_from(address).await?;
        Ok(self.is_registration_token(token))
    }

    /// Spec: <https://spec.matrix.org/v1.19/appendices/#user-identifiers>
    fn user_id_of_localpart(&self, username: &str) -> Result<OwnedUserId, RegisterError> {
        if username.is_empty() {
            return Err(RegisterError::Username("is empty"));
        }
        if username.starts_with('_') {
            return Err(RegisterError::Username("begins with an underscore, as only those of bridges do"));
        }
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+');
        if !username.bytes().all(is_allowed) {
            return Err(RegisterError::Username("may hold only a-z, 0-9, and . _ = - / +"));
        }
        UserId::parse(format!("@{username}:{}", self.server_name))
            .map_err(|_| RegisterError::Username("makes a user id longer than 255 bytes"))
    }

    fn any_user_id(&self) -> OwnedUserId {
        const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut dice = rand::rng();
        let name: String = (0..12).map(|_| char::from(LETTERS[dice.random_range(0..LETTERS.len())])).collect();
        UserId::parse(format!("@{name}:{}", self.server_name)).expect("letters and digits make a user id")
    }

    pub(crate) fn new_row(&self, user_id: &UserId, password_hash: Option<String>, is_admin: bool) -> AccountRow {
        let now = self.now();
        AccountRow {
            user_id: user_id.to_owned(),
            password_hash,
            created_at: now,
            admin_since: is_admin.then_some(now),
            deactivated_at: None,
        }
    }

    pub(crate) fn check_password_rules(&self, password: &str) -> Result<(), &'static str> {
        if password.is_empty() {
            return Err("is empty");
        }
        if password.chars().count() < self.config.accounts.min_password_length {
            return Err("is shorter than this server allows");
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err("is longer than 512 bytes");
        }
        Ok(())
    }
}

pub(crate) fn put_name(write: &mut Write, user_id: &UserId, name: &str) {
    put_profile_field(write, user_id, "displayname", &serde_json::Value::from(name).to_string());
}

pub(crate) fn check_device_id(device_id: Option<&ruma::DeviceId>) -> Result<(), RegisterError> {
    match device_id {
        Some(id) if id.as_str().is_empty() || id.as_str().len() > MAX_DEVICE_ID_BYTES => Err(RegisterError::DeviceId),
        _ => Ok(()),
    }
}

// === Changing and closing ===

impl Users {
    /// Sets another password for whoever asks; `logout_devices` ends the user's other sessions.
    pub async fn change_password(
        &self,
        session: &Session,
        password: &str,
        logout_devices: bool,
        auth: Option<&AuthData>,
    ) -> Result<(), Refused> {
        self.check_password_rules(password).map_err(AccountError::Password)?;
        self.authorize(&Act::ChangePassword, Some(session), auth).await?;
        let keep = Some(&session.device_id);
        self.put_password(&session.user_id, password, logout_devices, keep).await?;
        Ok(())
    }

    /// Sets another password for whoever asks and knows the one before; `logout_devices` ends the user's other sessions.
    pub async fn replace_password(
        &self,
        session: &Session,
        old: &str,
        new: &str,
        logout_devices: bool,
    ) -> Result<(), Refused> {
        self.check_password_rules(new).map_err(AccountError::Password)?;
        self.check_password(&session.user_id, old).await?;
        self.put_password(&session.user_id, new, logout_devices, Some(&session.device_id)).await?;
        Ok(())
    }

    /// Sets another password on behalf of an administrator, and ends the user's sessions if `logout_devices`.
    pub async fn set_password(
        &self,
        user_id: &UserId,
        password: &str,
        logout_devices: bool,
    ) -> Result<(), AccountError> {
        self.check_password_rules(password).map_err(AccountError::Password)?;
        self.get_account(user_id).await?;
        self.put_password(user_id, password, logout_devices, None).await
    }

    async fn put_password(
        &self,
        user_id: &UserId,
        password: &str,
        logout_devices: bool,
        keep: Option<&OwnedDeviceId>,
    ) -> Result<(), AccountError> {
        let hash = self.passwords.hash(password.to_owned()).await?;
        let mut write = Write::new();
        set_password_hash(&mut write, user_id, Some(&hash));
        if logout_devices {
            self.remove_devices_of(&mut write, user_id, keep).await?;
        }
        self.store.commit(write).await?;
        self.failures.forget(user_id.as_str()).await;
        if logout_devices {
            self.sessions.end(user_id, None);
        }
        info!(user.id = %user_id, "the password of {user_id} was changed");
        Ok(())
    }

    /// Closes the account of whoever asks, for good. The caller sees to it that the user leaves all rooms.
    pub async fn deactivate_own(&self, session: &Session, erase: bool, auth: Option<&AuthData>) -> Result<(), Refused> {
        self.authorize(&Act::Deactivate, Some(session), auth).await?;
        self.deactivate(&session.user_id, erase).await?;
        Ok(())
    }

    /// Closes an account for good. The caller sees to it that the user leaves all rooms.
    ///
    /// `erase`: what the user said shall not be shown to those who come later.
    pub async fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<(), AccountError> {
        self.get_account(user_id).await?;
        let write = self.closing(user_id, erase).await?;
        self.store.commit(write).await?;
        self.sessions.end(user_id, None);
        info!(user.id = %user_id, erase, "the account of {user_id} was deactivated");
        Ok(())
    }

    /// What closes an account.
    pub(crate) async fn closing(&self, user_id: &UserId, erase: bool) -> Result<Write, store::Error> {
        let now = self.now();
        let mut write = Write::new();
        deactivate_account(&mut write, user_id, now, erase.then_some(now));
        remove_profile(&mut write, user_id);
        remove_cross_signing_keys(&mut write, user_id);
        self.remove_devices_of(&mut write, user_id, None).await?;
        Ok(write)
    }

    /// Makes a user an administrator, or an ordinary user again.
    pub async fn set_admin(&self, user_id: &UserId, is_admin: bool) -> Result<(), AccountError> {
        self.get_account(user_id).await?;
        let mut write = Write::new();
        set_admin(&mut write, user_id, is_admin.then(|| self.now()));
        self.store.commit(write).await?;
        self.sessions.end(user_id, None);
        Ok(())
    }

    pub(crate) async fn remove_devices_of(
        &self,
        write: &mut Write,
        user_id: &UserId,
        keep: Option<&OwnedDeviceId>,
    ) -> Result<(), store::Error> {
        let mut devices = self.store.devices().list(user_id).await?;
        devices.retain(|device| keep != Some(&device.device_id));
        let devices: Vec<&ruma::DeviceId> = devices.iter().map(|device| &*device.device_id).collect();
        for device_id in &devices {
            remove_device(write, user_id, device_id);
        }
        self.tell_keys_changed(write, user_id, KeysChanged { devices: &devices, signing_keys: false }).await
    }

    /// An account that is open.
    pub async fn get_account(&self, user_id: &UserId) -> Result<Account, AccountError> {
        match self.store.accounts().find(user_id).await? {
            Some(row) if row.deactivated_at.is_none() => Ok(account(row)),
            _ => Err(AccountError::NotFound),
        }
    }

    /// Up to `limit` accounts by user id, those after `after`, closed ones too.
    pub async fn list_accounts(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<Account>, AccountError> {
        Ok(self.store.accounts().list(after, limit).await?.into_iter().map(account).collect())
    }
}

fn account(row: AccountRow) -> Account {
    Account {
        user_id: row.user_id,
        created_at: row.created_at,
        is_admin: row.admin_since.is_some(),
        deactivated_at: row.deactivated_at,
    }
}

#[cfg(test)]
mod tests {
    use ruma::api::client::uiaa::Dummy;

    use super::*;
    use crate::testing::{HOME, config, with_users, with_users_of};

    #[tokio::test]
    async fn registering_asks_for_a_stage_and_then_logs_in() {
        with_users(async |users, _| {
            let wish = |auth| Registration {
                username: Some("alice"),
                password: Some("a password"),
                auth,
                ..Registration::default()
            };
            assert!(matches!(users.register(wish(None), HOME).await, Err(Refused::Challenge(_))));
            let dummy = AuthData::Dummy(Dummy::new());
            let made = users.register(wish(Some(&dummy)), HOME).await.map_err(|_| "refused").expect("it is allowed");
            let session = made.session.expect("it logs in");
            users.authenticate(&session.access_token).await.expect("the token is good");

            let Err(Refused::Refusal(again)) = users.register(wish(Some(&dummy)), HOME).await else {
                panic!("the name is taken");
            };
            assert_eq!(again.errcode(), Some("M_USER_IN_USE"));
        })
        .await;
    }

    #[tokio::test]
    async fn of_two_who_want_one_name_at_once_one_gets_it() {
        with_users(async |users, _| {
            let make = || users.create_account(NewAccount { username: "alice".into(), ..NewAccount::default() });
            let (one, other) = tokio::join!(make(), make());
            assert!(one.is_ok() != other.is_ok());
            assert!(matches!(one.and(other), Err(RegisterError::Taken)));
        })
        .await;
    }

    #[tokio::test]
    async fn only_localparts_of_the_grammar_are_taken() {
        with_users(async |users, _| {
            for name in ["alice", "a.b_c=d-e/f+9"] {
                users.check_available(name).await.expect(name);
            }
            let long = "a".repeat(255);
            for name in ["", "Alice", "al ice", "ælice", "alice:a.test", "@alice", "_bridge", "a\u{0}", &long] {
                let refused = users.check_available(name).await.expect_err(name);
                assert_eq!(refused.errcode(), Some("M_INVALID_USERNAME"), "{name}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_closed_server_takes_nobody() {
        let mut config = config();
        config.registration.enabled = false;
        with_users_of(config, async |users, _| {
            let refused = users.register(Registration::default(), HOME).await;
            assert!(matches!(refused, Err(Refused::Refusal(error)) if error.kind() == Kind::Forbidden));
        })
        .await;
    }

    #[tokio::test]
    async fn a_closed_account_lets_nobody_in_and_its_name_stays_taken() {
        with_users(async |users, _| {
            let session = users.register_for_tests("alice").await;
            users.deactivate(&session.user_id, true).await.expect("it closes");
            assert!(users.authenticate(&session.access_token).await.is_err());
            assert!(users.try_login_for_tests("alice", "a password").await.is_err());
            assert!(matches!(users.check_available("alice").await, Err(RegisterError::Taken)));
            assert!(matches!(users.deactivate(&session.user_id, false).await, Err(AccountError::NotFound)));
            let listed = users.list_accounts(None, 10).await.expect("it lists");
            assert!(listed[0].deactivated_at.is_some());
        })
        .await;
    }

    #[tokio::test]
    async fn another_password_ends_the_other_sessions_and_keeps_this_one() {
        with_users(async |users, _| {
            let other = users.register_for_tests("alice").await;
            let this = users.login_for_tests("alice", TokenStyle::Lasting).await;
            let session = users.authenticate(&this.access_token).await.expect("the token is good");
            users
                .put_password(&session.user_id, "another password", true, Some(&session.device_id))
                .await
                .expect("it is taken");
            assert!(users.authenticate(&other.access_token).await.is_err());
            users.authenticate(&this.access_token).await.expect("this session goes on");
            assert!(users.try_login_for_tests("alice", "a password").await.is_err());
            users.try_login_for_tests("alice", "another password").await.expect("the new password opens");
        })
        .await;
    }
}
