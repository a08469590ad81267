//! Guests of the built-in bridge: how people of chat systems that don't speak Matrix appear among this server's users.
//!
//! A guest is a user here whose name begins with `_bridge_`, which nobody can register, that no password opens, and whose
//! display name says where the person is at home.

use ruma::{OwnedUserId, UserId};
use store::{Write, accounts::insert_account};
use tracing::info;

use model::Address;

use crate::{RegisterError, Users};

/// What the names of guests begin with.
const PREFIX: &str = "_bridge_";

impl Users {
    /// The user id here of the guest that stands for `remote`.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/appendices/#mapping-from-other-character-sets>
    pub fn guest_id(&self, remote: &UserId) -> Result<OwnedUserId, RegisterError> {
        let mut localpart = PREFIX.to_owned();
        for byte in format!("{}@{}", remote.localpart(), remote.server_name()).bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' => localpart.push(char::from(byte)),
                _ => localpart.push_str(&format!("={byte:02x}")),
            }
        }
        UserId::parse(format!("@{localpart}:{}", self.server_name))
            .map_err(|_| RegisterError::Username("is too long for a guest of the bridge"))
    }

    /// Whether `user_id` is a guest of the bridge.
    pub fn is_guest(&self, user_id: &UserId) -> bool {
        self.is_ours(user_id) && user_id.localpart().starts_with(PREFIX)
    }

    /// The guest that stands for `remote`, made if there is none yet.
    pub async fn ensure_guest(&self, remote: &UserId) -> Result<OwnedUserId, RegisterError> {
        let guest = self.guest_id(remote)?;
        if self.store.accounts().find(&guest).await?.is_some() {
            return Ok(guest);
        }
        let name = format!("{} (via bridge)", Address::from(remote));
        let mut write = Write::new();
        insert_account(&mut write, &self.new_row(&guest, None, false));
        crate::accounts::put_name(&mut write, &guest, &name);
        match self.store.commit(write).await {
            Ok(_) => info!(user.id = %guest, "{remote} is a guest of the bridge"),
            // Somebody was faster.
            Err(store::Error::Duplicate) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(guest)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use crate::testing::with_users;

    #[tokio::test]
    async fn a_guest_is_one_user_whom_nobody_else_can_be() {
        with_users(async |users, _| {
            let bob = user_id!("@Bob=x:b.test:8449");
            let guest = users.ensure_guest(bob).await.expect("there is room for him");
            assert_eq!(guest, "@_bridge_=42ob=3dx=40b.test=3a8449:a.test");
            assert_eq!(users.ensure_guest(bob).await.expect("he is there"), guest);
            let name = users.profile_field(None, &guest, "displayname").await.expect("he has a name");
            assert_eq!(name, "Bob=x@b.test:8449 (via bridge)");
            assert!(users.is_guest(&guest) && !users.is_guest(user_id!("@bob:a.test")));
            assert!(users.check_available(guest.localpart()).await.is_err());
            let long = format!("@{}:b.test", "x".repeat(240));
            assert!(users.guest_id(<&ruma::UserId>::try_from(&*long).expect("it is an id")).is_err());
        })
        .await;
    }
}
