//! What administrators do about accounts. Each act is in the audit log, or it wasn't done.

use futures_util::FutureExt as _;
use model::{Kind, Millis, Refusal};
use peers::trust::{Audited, Author, ChangeError};
use ruma::{DeviceId, OwnedUserId, UserId};
use serde_json::json;
use store::{
    Write,
    accounts::{insert_account, set_admin, set_password_hash},
    custody::{self, CustodyRow, CustodySearch},
    devices::remove_device,
    roles,
};
use tracing::info;

use crate::{
    AccountError, Device, DeviceError, NewAccount, RegisterError, Role, Users, accounts::put_name,
    key_updates::KeysChanged,
};

/// How an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountState {
    /// Its owner may do everything.
    Active,
    /// Its owner may read, leave, and take back what they said.
    Suspended,
    /// Its owner may log out. Sessions wait until it isn't so any more.
    Locked,
    /// It is closed, for good.
    Deactivated,
}

impl AccountState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Locked => "locked",
            Self::Deactivated => "deactivated",
        }
    }
}

/// An account, as an administrator sees it.
#[derive(Clone, Debug)]
pub struct UserRecord {
    /// The user.
    pub user_id: OwnedUserId,
    /// What they are called.
    pub display_name: Option<String>,
    /// What they may do besides chatting.
    pub role: Role,
    /// When the account was made.
    pub created_at: Millis,
    /// When it was closed.
    pub deactivated_at: Option<Millis>,
    /// Since when it is suspended.
    pub suspended_at: Option<Millis>,
    /// Since when it is locked.
    pub locked_at: Option<Millis>,
    /// When a device of it was last seen, a few minutes coarse.
    pub last_seen_at: Option<Millis>,
}

impl UserRecord {
    /// How the account is. Of two the one that keeps more from its owner.
    pub fn state(&self) -> AccountState {
        match (self.deactivated_at, self.locked_at, self.suspended_at) {
            (Some(_), ..) => AccountState::Deactivated,
            (None, Some(_), _) => AccountState::Locked,
            (None, None, Some(_)) => AccountState::Suspended,
            (None, None, None) => AccountState::Active,
        }
    }

    fn of(row: CustodyRow) -> Self {
        let granted = row.role.as_deref().and_then(|role| role.parse().ok()).unwrap_or(Role::User);
        Self {
            role: if row.admin_since.is_some() { Role::Admin } else { granted },
            display_name: row.display_name.and_then(|name| serde_json::from_str(&name).ok()),
            user_id: row.user_id,
            created_at: row.created_at,
            deactivated_at: row.deactivated_at,
            suspended_at: row.suspended_at,
            locked_at: row.locked_at,
            last_seen_at: row.last_seen_at,
        }
    }

    /// As the audit log has it: nothing in which somebody could be recognised besides the name.
    fn told(&self) -> String {
        json!({ "state": self.state().as_str(), "role": self.role.as_str() }).to_string()
    }
}

/// What more there is to say of one account.
#[derive(Clone, Debug)]
pub struct UserDetails {
    /// The account.
    pub record: UserRecord,
    /// Its devices, each with its session.
    pub devices: Vec<Device>,
    /// In how many rooms the user is.
    pub rooms: u64,
    /// Whether logging in needs a code besides the password.
    pub has_second_factor: bool,
}

/// What is done about an account that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// Its owner may say nothing, or may again.
    Suspended(bool),
    /// Its owner may do nothing, or may again.
    Locked(bool),
}

/// Why nothing was done about an account.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// There is no such account here, or it is closed.
    #[error("there is no such account, or it has been deactivated")]
    NotFound,
    /// An administrator can't do this to themselves: nobody might be left who can undo it.
    #[error("this is your own account: another administrator has to do this")]
    Yourself,
    /// What was said of the account is wrong.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// No account can be made of this.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// There is no such device.
    #[error("the user has no device of this id")]
    NoDevice,
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("the account could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for CustodyError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound | Self::NoDevice => Kind::NotFound,
            Self::Yourself => Kind::Forbidden,
            Self::Account(error) => error.kind(),
            Self::Register(error) => error.kind(),
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::Account(error) => error.errcode(),
            Self::Register(error) => error.errcode(),
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Yourself => Some("own_account"),
            Self::Account(error) => error.code(),
            Self::Register(error) => error.code(),
            _ => None,
        }
    }
}

impl From<DeviceError> for CustodyError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Store(error) => Self::Store(error),
            _ => Self::NoDevice,
        }
    }
}

// === looking ===

impl Users {
    /// Up to `limit` accounts by user id, those after `after`.
    pub async fn search_accounts(
        &self,
        search: CustodySearch<'_>,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserRecord>, CustodyError> {
        let rows = self.store.custody().search(search, after, limit).await?;
        Ok(rows.into_iter().map(UserRecord::of).collect())
    }

    /// One account, a closed one too.
    pub async fn account_record(&self, user_id: &UserId) -> Result<UserRecord, CustodyError> {
        let row = self.store.custody().find(user_id).await?.ok_or(CustodyError::NotFound)?;
        Ok(UserRecord::of(row))
    }

    /// One account, with what else there is to know of it.
    pub async fn account_details(&self, user_id: &UserId) -> Result<UserDetails, CustodyError> {
        let mut record = self.account_record(user_id).await?;
        let devices = self.devices(user_id).await?;
        // Those that aren't written yet are newer.
        record.last_seen_at = devices.iter().filter_map(|device| device.last_seen_at).max().or(record.last_seen_at);
        let second_factor = self.store.second_factors().find(user_id).await?;
        Ok(UserDetails {
            record,
            devices,
            rooms: self.store.custody().rooms_of(user_id).await?.unsigned_abs(),
            has_second_factor: second_factor.is_some_and(|row| row.confirmed_at.is_some()),
        })
    }

    async fn open_record(&self, user_id: &UserId) -> Result<UserRecord, CustodyError> {
        let record = self.account_record(user_id).await?;
        if record.deactivated_at.is_some() { Err(CustodyError::NotFound) } else { Ok(record) }
    }
}

// === doing ===

fn not_oneself(user_id: &UserId, author: &Author) -> Result<(), CustodyError> {
    if author.actor == user_id.as_str() { Err(CustodyError::Yourself) } else { Ok(()) }
}

impl Users {
    /// Makes an account on behalf of an administrator.
    pub async fn create_account_by(
        &self,
        account: NewAccount,
        role: Role,
        author: &Author,
    ) -> Result<UserRecord, CustodyError> {
        let user_id = self.check_available(&account.username).await?;
        let name = account.display_name.as_deref().unwrap_or(user_id.localpart()).to_owned();
        crate::profiles::check_display_name(&name).map_err(RegisterError::Profile)?;
        let hash = match account.password {
            Some(password) => {
                self.check_password_rules(&password).map_err(RegisterError::Password)?;
                Some(self.passwords.hash(password).await.map_err(RegisterError::Busy)?)
            }
            None => None,
        };
        let step = |_| {
            async {
                // Somebody may have taken the name meanwhile.
                self.check_available(&account.username).await?;
                let mut write = Write::new();
                insert_account(&mut write, &self.new_row(&user_id, hash.clone(), role == Role::Admin));
                put_name(&mut write, &user_id, &name);
                grant(&mut write, &user_id, role);
                let after = json!({ "state": "active", "role": role.as_str() }).to_string();
                Ok::<_, CustodyError>(Audited { write, before: None, after: Some(after), outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("account.created", user_id.as_str(), author, step).await?;
        info!(user.id = %user_id, actor = author.actor, "an account was made for {user_id}");
        self.account_record(&user_id).await
    }

    /// Keeps the owner of an account from saying anything, or from doing anything, or no longer does. At once here, on other nodes
    /// within a second.
    pub async fn restrict(
        &self,
        user_id: &UserId,
        restriction: Restriction,
        author: &Author,
    ) -> Result<UserRecord, CustodyError> {
        let (action, is_on) = match restriction {
            Restriction::Suspended(true) => ("account.suspended", true),
            Restriction::Suspended(false) => ("account.unsuspended", false),
            Restriction::Locked(true) => ("account.locked", true),
            Restriction::Locked(false) => ("account.unlocked", false),
        };
        not_oneself(user_id, author)?;
        let step = |_| {
            async move {
                let before = self.open_record(user_id).await?;
                let since = |known: Option<Millis>| is_on.then(|| known.unwrap_or_else(|| self.now()));
                let mut after = before.clone();
                match restriction {
                    Restriction::Suspended(_) => after.suspended_at = since(before.suspended_at),
                    Restriction::Locked(_) => after.locked_at = since(before.locked_at),
                }
                let mut write = Write::new();
                custody::put(&mut write, user_id, after.suspended_at, after.locked_at);
                let (before, told) = (Some(before.told()), Some(after.told()));
                Ok::<_, CustodyError>(Audited { write, before, after: told, outcome: after })
            }
            .boxed()
        };
        let record = self.peers.trust().audited(action, user_id.as_str(), author, step).await?;
        self.look_at_suspensions().await?;
        self.sessions.end(user_id, None);
        info!(user.id = %user_id, actor = author.actor, action, "{user_id} is {} now", record.state().as_str());
        Ok(record)
    }

    /// Closes an account for good, on behalf of an administrator. The caller sees to it that the user leaves all rooms.
    pub async fn deactivate_by(&self, user_id: &UserId, erase: bool, author: &Author) -> Result<(), CustodyError> {
        not_oneself(user_id, author)?;
        let step = |_| {
            async move {
                let before = self.open_record(user_id).await?;
                let write = self.closing(user_id, erase).await?;
                let after = json!({ "state": "deactivated", "erased": erase }).to_string();
                Ok::<_, CustodyError>(Audited { write, before: Some(before.told()), after: Some(after), outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("account.deactivated", user_id.as_str(), author, step).await?;
        self.sessions.end(user_id, None);
        info!(user.id = %user_id, erase, actor = author.actor, "the account of {user_id} was deactivated");
        Ok(())
    }

    /// Sets another password on behalf of an administrator, and ends the user's sessions if `end_sessions`.
    pub async fn set_password_by(
        &self,
        user_id: &UserId,
        password: &str,
        end_sessions: bool,
        author: &Author,
    ) -> Result<(), CustodyError> {
        self.check_password_rules(password).map_err(AccountError::Password)?;
        self.open_record(user_id).await?;
        let hash = self.passwords.hash(password.to_owned()).await.map_err(AccountError::Busy)?;
        let hash = &*hash;
        let step = |_| {
            async move {
                self.open_record(user_id).await?;
                let mut write = Write::new();
                set_password_hash(&mut write, user_id, Some(hash));
                if end_sessions {
                    self.remove_devices_of(&mut write, user_id, None).await?;
                }
                let after = json!({ "sessions_ended": end_sessions }).to_string();
                Ok::<_, CustodyError>(Audited { write, before: None, after: Some(after), outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("account.password_set", user_id.as_str(), author, step).await?;
        self.failures.forget(user_id.as_str()).await;
        if end_sessions {
            self.sessions.end(user_id, None);
        }
        info!(user.id = %user_id, actor = author.actor, "the password of {user_id} was changed");
        Ok(())
    }

    /// Ends the sessions of a user, or that of one device. Answers how many.
    pub async fn end_sessions_by(
        &self,
        user_id: &UserId,
        device_id: Option<&DeviceId>,
        author: &Author,
    ) -> Result<usize, CustodyError> {
        let step = |_| {
            async move {
                self.account_record(user_id).await?;
                let mut devices = self.store.devices().list(user_id).await?;
                devices.retain(|device| device_id.is_none_or(|device_id| device.device_id == device_id));
                if device_id.is_some() && devices.is_empty() {
                    return Err(CustodyError::NoDevice);
                }
                let ids: Vec<&DeviceId> = devices.iter().map(|device| &*device.device_id).collect();
                let mut write = Write::new();
                for device_id in &ids {
                    remove_device(&mut write, user_id, device_id);
                }
                let changed = KeysChanged { devices: &ids, signing_keys: false };
                self.tell_keys_changed(&mut write, user_id, changed).await?;
                let before = json!({ "sessions": ids }).to_string();
                Ok::<_, CustodyError>(Audited { write, before: Some(before), after: None, outcome: ids.len() })
            }
            .boxed()
        };
        let ended = self.peers.trust().audited("account.sessions_ended", user_id.as_str(), author, step).await?;
        self.sessions.end(user_id, device_id);
        info!(user.id = %user_id, actor = author.actor, sessions = ended, "sessions of {user_id} were ended");
        Ok(ended)
    }

    /// Gives somebody of this server a role, instead of the one before.
    pub async fn set_role_by(&self, user_id: &UserId, role: Role, author: &Author) -> Result<UserRecord, CustodyError> {
        not_oneself(user_id, author)?;
        let step = |_| {
            async move {
                let before = self.open_record(user_id).await?;
                let after = UserRecord { role, ..before.clone() };
                let mut write = Write::new();
                if (before.role == Role::Admin) != (role == Role::Admin) {
                    set_admin(&mut write, user_id, (role == Role::Admin).then(|| self.now()));
                }
                grant(&mut write, user_id, role);
                let (before, told) = (Some(before.told()), Some(after.told()));
                Ok::<_, CustodyError>(Audited { write, before, after: told, outcome: after })
            }
            .boxed()
        };
        let record = self.peers.trust().audited("account.role_set", user_id.as_str(), author, step).await?;
        self.sessions.end(user_id, None);
        info!(user.id = %user_id, actor = author.actor, role = role.as_str(), "the role of {user_id} was changed");
        Ok(record)
    }
}

fn grant(write: &mut Write, user_id: &UserId, role: Role) {
    match role {
        Role::User | Role::Admin => roles::remove(write, user_id),
        Role::Auditor | Role::Operator | Role::Broadcaster => roles::put(write, user_id, role.as_str()),
    }
}

#[cfg(test)]
mod tests;
