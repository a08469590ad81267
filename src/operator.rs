//! What `comity user …` does to the accounts: the services without listeners. A placeholder until they are wired.

use crate::config::{Config, Secret};

/// The services that the command line needs, on the configured database.
pub struct Operator;

/// Why an act of the operator failed. Sources say more.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("accounts are not wired to the command line yet")]
    NotWired,
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
    pub async fn open(_config: &Config) -> Result<Self, OperatorError> {
        Err(OperatorError::NotWired)
    }

    /// Makes an account and answers its user id.
    ///
    /// `name`: a localpart, or a whole user id of this server.
    pub async fn create_user(&self, _name: &str, _password: &Secret, _admin: bool) -> Result<String, OperatorError> {
        Err(OperatorError::NotWired)
    }

    /// Up to `limit` accounts, by user id, those after `after`.
    pub async fn list_users(&self, _after: Option<&str>, _limit: u32) -> Result<Vec<AccountLine>, OperatorError> {
        Err(OperatorError::NotWired)
    }

    /// Closes an account for good and ends its sessions; with `erase` also forgets its profile. Answers its user id.
    pub async fn deactivate_user(&self, _name: &str, _erase: bool) -> Result<String, OperatorError> {
        Err(OperatorError::NotWired)
    }

    /// Sets a new password; ends all sessions unless `keep_sessions`. Answers the user id.
    pub async fn set_password(
        &self,
        _name: &str,
        _password: &Secret,
        _keep_sessions: bool,
    ) -> Result<String, OperatorError> {
        Err(OperatorError::NotWired)
    }

    /// Waits until everything is written.
    pub async fn close(self) {}
}
