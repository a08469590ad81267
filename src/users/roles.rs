//! What somebody may do besides chatting.

use std::str::FromStr;

use ruma::UserId;
use store::{Write, roles};

use crate::{AccountError, Session, Users};

/// What somebody may do besides chatting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    User,
    /// Looks at everything, and exports it.
    Auditor,
    /// Looks at everything, and has what failed tried again.
    Operator,
    /// Reports what happened, and tells people of it: system events and broadcasts.
    Broadcaster,
    /// Everything.
    Admin,
}

impl Role {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
            Self::Broadcaster => "broadcaster",
            Self::Admin => "admin",
        }
    }
}

/// There is no such role.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no role: it is one of user, auditor, operator, broadcaster, admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, UnknownRole> {
        let all = [Self::User, Self::Auditor, Self::Operator, Self::Broadcaster, Self::Admin];
        all.into_iter().find(|role| role.as_str() == word).ok_or_else(|| UnknownRole(word.to_owned()))
    }
}

impl Users {
    /// What the user of a session may do.
    pub async fn role(&self, session: &Session) -> Result<Role, store::Error> {
        if session.app_key.is_some() {
            return Ok(Role::User);
        }
        if session.is_admin {
            return Ok(Role::Admin);
        }
        self.granted(&session.user_id).await
    }

    /// What somebody of this server may do.
    pub async fn role_of(&self, user_id: &UserId) -> Result<Role, store::Error> {
        let account = self.store.accounts().find(user_id).await?;
        match account.is_some_and(|account| account.admin_since.is_some()) {
            true => Ok(Role::Admin),
            false => self.granted(user_id).await,
        }
    }

    async fn granted(&self, user_id: &UserId) -> Result<Role, store::Error> {
        let word = self.store.roles().find(user_id).await?;
        Ok(word.and_then(|word| word.parse().ok()).unwrap_or(Role::User))
    }

    /// Gives somebody of this server a role, instead of the one before.
    pub async fn set_role(&self, user_id: &UserId, role: Role) -> Result<(), AccountError> {
        self.set_admin(user_id, role == Role::Admin).await?;
        let mut write = Write::new();
        match role {
            Role::User | Role::Admin => roles::remove(&mut write, user_id),
            Role::Auditor | Role::Operator | Role::Broadcaster => roles::put(&mut write, user_id, role.as_str()),
        }
        self.store.commit(write).await?;
        Ok(())
    }
}
