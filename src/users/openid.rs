//! Tokens by which a user proves to a third party who they are.
//!
//! Such a token names its user and is sealed by this server, so that none is kept, and none can be read out of the store.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#openid>

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::{Kind, Refusal};
use ruma::{OwnedUserId, UserId};

use crate::{Users, millis};

/// How long such a token lasts.
pub const OPENID_LIFETIME: Duration = Duration::from_secs(60 * 60);

const PURPOSE: &str = "openid";

/// Why a token says nothing of anybody.
#[derive(Debug, thiserror::Error)]
pub enum OpenIdError {
    /// It isn't of this server, or is too old, or its user is gone.
    #[error("this server did not issue this token, or it has expired")]
    Unknown,
    /// The store failed.
    #[error("the account could not be read")]
    Store(#[from] store::Error),
}

impl Refusal for OpenIdError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown => Kind::Unauthenticated,
            Self::Store(error) => error.kind(),
        }
    }
}

impl Users {
    /// A token by which somebody else can ask this server who brought it. It opens nothing.
    pub fn issue_openid_token(&self, user_id: &UserId) -> String {
        let seal = self.signer.issue(&[PURPOSE, user_id.as_str()], self.now() + millis(OPENID_LIFETIME));
        format!("{}~{seal}", URL_SAFE_NO_PAD.encode(user_id.as_str()))
    }

    /// Whose token this is.
    pub async fn openid_user(&self, token: &str) -> Result<OwnedUserId, OpenIdError> {
        let (name, seal) = token.split_once('~').ok_or(OpenIdError::Unknown)?;
        let name = URL_SAFE_NO_PAD.decode(name).ok().and_then(|name| String::from_utf8(name).ok());
        let user_id = name.and_then(|name| UserId::parse(name).ok()).ok_or(OpenIdError::Unknown)?;
        if !self.signer.is_valid(seal, &[PURPOSE, user_id.as_str()], self.now()) {
            return Err(OpenIdError::Unknown);
        }
        let account = self.store.accounts().find(&user_id).await?;
        if account.is_none_or(|account| account.deactivated_at.is_some()) {
            return Err(OpenIdError::Unknown);
        }
        Ok(user_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_users;

    #[tokio::test]
    async fn a_token_tells_its_user_for_an_hour() {
        with_users(async |users, clock| {
            let alice = users.register_for_tests("alice").await.user_id;
            let bob = users.register_for_tests("bob").await.user_id;
            let token = users.issue_openid_token(&alice);
            assert_eq!(users.openid_user(&token).await.expect("it is new"), alice);
            let seal = token.split_once('~').expect("it has two parts").1;
            let stolen = format!("{}~{seal}", URL_SAFE_NO_PAD.encode(bob.as_str()));
            for wrong in [stolen.as_str(), "", "~", "abc", seal] {
                assert!(matches!(users.openid_user(wrong).await, Err(OpenIdError::Unknown)), "{wrong}");
            }
            clock.advance(millis(OPENID_LIFETIME));
            assert!(matches!(users.openid_user(&token).await, Err(OpenIdError::Unknown)));
        })
        .await;
    }
}
