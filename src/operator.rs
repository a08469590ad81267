//! What `comity user …` does to the accounts: the accounts without listeners.

use rooms::RoomError;
use ruma::{OwnedUserId, UserId};
use users::{AccountError, NewAccount, RegisterError, Role};

use crate::{
    config::{Config, Secret},
    homeserver::{Core, StartError},
};

/// The services that the command line needs, on the configured database.
pub struct Operator {
    core: Core,
    config: Config,
}

/// Why an act of the operator failed. Sources say more.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("the accounts could not be opened")]
    Open(#[from] StartError),
    #[error("`{name}` is not the name of a user of {server}: write `alice` or `@alice:{server}`")]
    Name { name: String, server: String },
    #[error("no account was made")]
    Register(#[from] RegisterError),
    #[error("the account was left as it was")]
    Account(#[from] AccountError),
    #[error("the account is closed, but it could not be taken out of all its rooms; try again")]
    Rooms(#[from] RoomError),
}

/// One row of `comity user list`.
pub struct AccountLine {
    pub user_id: String,
    pub admin: bool,
    pub deactivated: bool,
    /// Milliseconds since 1970, UTC.
    pub created_at: u64,
}

impl Operator {
    /// Opens the database. Listens nowhere; a server may run on the same database meanwhile.
    pub async fn open(config: &Config) -> Result<Self, OperatorError> {
        Ok(Self { core: Core::open(config).await?, config: config.clone() })
    }

    /// Makes an account and answers its user id.
    ///
    /// `name`: a localpart, or a whole user id of this server.
    pub async fn create_user(&self, name: &str, password: &Secret, admin: bool) -> Result<String, OperatorError> {
        let account = NewAccount {
            username: self.user_id(name)?.localpart().to_owned(),
            password: Some(password.expose().to_owned()),
            display_name: None,
            is_admin: admin,
        };
        Ok(self.core.users.create_account(account).await?.to_string())
    }

    /// Gives an account a role, and answers its user id.
    pub async fn set_role(&self, name: &str, role: Role) -> Result<String, OperatorError> {
        let user_id = self.user_id(name)?;
        self.core.users.get_account(&user_id).await?;
        self.core.users.set_role(&user_id, role).await?;
        Ok(user_id.to_string())
    }

    /// Up to `limit` accounts, by user id, those after `after`.
    pub async fn list_users(&self, after: Option<&str>, limit: u32) -> Result<Vec<AccountLine>, OperatorError> {
        let after = after.map(|name| self.user_id(name)).transpose()?;
        let accounts = self.core.users.list_accounts(after.as_deref(), limit).await?;
        Ok(accounts
            .into_iter()
            .map(|account| AccountLine {
                user_id: account.user_id.to_string(),
                admin: account.is_admin,
                deactivated: account.deactivated_at.is_some(),
                created_at: account.created_at.unsigned_abs(),
            })
            .collect())
    }

    /// Closes an account for good and ends its sessions; with `erase` also forgets its profile. Answers its user id.
    pub async fn deactivate_user(&self, name: &str, erase: bool) -> Result<String, OperatorError> {
        let user_id = self.user_id(name)?;
        self.core.users.deactivate(&user_id, erase).await?;
        self.core.rooms.leave_all(&user_id).await?;
        Ok(user_id.to_string())
    }

    /// Sets a new password; ends all sessions unless `keep_sessions`. Answers the user id.
    pub async fn set_password(
        &self,
        name: &str,
        password: &Secret,
        keep_sessions: bool,
    ) -> Result<String, OperatorError> {
        let user_id = self.user_id(name)?;
        self.core.users.set_password(&user_id, password.expose(), !keep_sessions).await?;
        Ok(user_id.to_string())
    }

    /// Waits until everything is written.
    pub async fn close(self) {
        self.core.store.close().await;
    }

    /// `alice`, or `@alice:here`.
    fn user_id(&self, name: &str) -> Result<OwnedUserId, OperatorError> {
        let server = &self.config.server_name;
        let user_id =
            if name.starts_with('@') { UserId::parse(name) } else { UserId::parse(format!("@{name}:{server}")) };
        let wrong = || OperatorError::Name { name: name.to_owned(), server: server.to_string() };
        user_id.ok().filter(|user_id| user_id.server_name() == server).ok_or_else(wrong)
    }
}
