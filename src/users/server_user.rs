//! The user by whom the server itself speaks: nobody can register its name, and nothing opens its account.

use ruma::{OwnedUserId, UserId};
use store::{Write, accounts::insert_account};
use tracing::info;

use crate::{RegisterError, Users};

/// Names that begin with an underscore can't be registered.
const LOCALPART: &str = "_notices";

impl Users {
    /// The id of the user by whom the server speaks: `@_notices:a.example`.
    pub fn notices_user(&self) -> OwnedUserId {
        UserId::parse(format!("@{LOCALPART}:{}", self.server_name)).expect("a short name makes a user id")
    }

    /// That user, made if it isn't there yet. `name`: what it is called then.
    pub async fn ensure_notices_user(&self, name: &str) -> Result<OwnedUserId, RegisterError> {
        let user_id = self.notices_user();
        if self.store.accounts().find(&user_id).await?.is_some() {
            return Ok(user_id);
        }
        let mut write = Write::new();
        insert_account(&mut write, &self.new_row(&user_id, None, false));
        crate::accounts::put_name(&mut write, &user_id, name);
        match self.store.commit(write).await {
            Ok(_) => info!(user.id = %user_id, "{user_id} tells people what this server has to say"),
            // Somebody was faster.
            Err(store::Error::Duplicate) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(user_id)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::with_users;

    #[tokio::test]
    async fn the_servers_own_user_is_there_once_and_nobody_elses() {
        with_users(async |users, _| {
            let user_id = users.ensure_notices_user("Notices").await.expect("it can be made");
            assert_eq!(user_id, "@_notices:a.test");
            assert_eq!(users.ensure_notices_user("Other").await.expect("it is there"), user_id);
            assert_eq!(users.profile_field(None, &user_id, "displayname").await.expect("it has a name"), "Notices");
            assert!(users.check_available(user_id.localpart()).await.is_err());
        })
        .await;
    }
}
