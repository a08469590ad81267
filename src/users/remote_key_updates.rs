//! The keys of users of other servers, as far as those servers tell.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use model::{Change, UserStream};
use ruma::{
    UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
};
use store::{Write, device_keys::insert_device_list_change};

use crate::{KeyError, Users};

impl Users {
    /// A server says that a device of one of its users changed. The caller has seen to it that it is one.
    pub async fn receive_device_list_update(&self, update: DeviceListUpdateContent) -> Result<(), KeyError> {
        self.tell_remote_keys_changed(&update.user_id).await
    }

    /// A server says that the cross-signing keys of one of its users changed. The caller has seen to it that it is one.
    pub async fn receive_signing_keys(&self, update: SigningKeyUpdateContent) -> Result<(), KeyError> {
        self.tell_remote_keys_changed(&update.user_id).await
    }

    async fn tell_remote_keys_changed(&self, user_id: &UserId) -> Result<(), KeyError> {
        let mut write = Write::new();
        let position = write.tell_next(Change::User { user_id: user_id.to_owned(), stream: UserStream::DeviceKeys });
        insert_device_list_change(&mut write, user_id, position);
        self.store.commit(write).await?;
        Ok(())
    }
}
