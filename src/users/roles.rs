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
            Self::Admin => "admin",
        }
    }
}

/// There is no such role.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no role: it is one of user, auditor, operator, admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, UnknownRole> {
        let all = [Self::User, Self::Auditor, Self::Operator, Self::Admin];
        all.into_iter().find(|role| role.as_str() == word).ok_or_else(|| UnknownRole(word.to_owned()))
    }
}

impl Users {
    /// What the user of a session may do.
    pub async fn role(&self, session: &Session) -> Result<Role, store::Error> {
        if session.is_admin {
            return Ok(Role::Admin);
        }
        let word = self.store.roles().find(&session.user_id).await?;
        Ok(word.and_then(|word| word.parse().ok()).unwrap_or(Role::User))
    }

    /// Gives somebody of this server a role, instead of the one before.
    pub async fn set_role(&self, user_id: &UserId, role: Role) -> Result<(), AccountError> {
        self.set_admin(user_id, role == Role::Admin).await?;
        let mut write = Write::new();
        match role {
            Role::User | Role::Admin => roles::remove(&mut write, user_id),
            Role::Auditor | Role::Operator => roles::put(&mut write, user_id, role.as_str()),
        }
        self.store.commit(write).await?;
        Ok(())
    }
}
