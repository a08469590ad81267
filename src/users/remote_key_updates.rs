//! The keys of users of other servers, as far as those servers tell.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use model::{Change, UserStream};
use ruma::{
    UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
};
use store::{
    Write,
    device_keys::insert_device_list_change,
    remote_devices::{doubt, put},
};

use crate::{
    KeyError, Users,
    remote_lists::{News, RemoteList},
};

impl Users {
    /// A server says that a device of one of its users changed. The caller has seen to it that it is one.
    pub async fn receive_device_list_update(&self, update: DeviceListUpdateContent) -> Result<(), KeyError> {
        self.receive_keys(&update.user_id, |list| list.change(&update)).await
    }

    /// A server says that the cross-signing keys of one of its users changed. The caller has seen to it that it is one.
    pub async fn receive_signing_keys(&self, update: SigningKeyUpdateContent) -> Result<(), KeyError> {
        self.receive_keys(&update.user_id, |list| list.change_signing_keys(&update)).await
    }

    /// Changes what is known of the user, or sees to it that it is fetched when somebody asks; and tells those who share a
    /// room with the user.
    async fn receive_keys(
        &self,
        user_id: &UserId,
        change: impl FnOnce(&mut RemoteList) -> News,
    ) -> Result<(), KeyError> {
        let mut write = Write::new();
        let position = write.tell_next(Change::User { user_id: user_id.to_owned(), stream: UserStream::DeviceKeys });
        insert_device_list_change(&mut write, user_id, position.clone());
        let row = self.store.remote_devices().find(user_id).await?;
        let mut is_known = false;
        if let Some(row) = row.filter(|row| row.is_whole)
            && let Some(mut list) = RemoteList::of(&row)?
        {
            match change(&mut list) {
                News::Next => put(&mut write, &list.to_row(row)?, &position),
                News::Known => is_known = true,
                News::Unclear => {}
            }
        }
        if !is_known {
            // Unless it could be put just now. If the list is being fetched, the answer may be older than this.
            doubt(&mut write, user_id, &position);
        }
        self.store.commit(write).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{EventNid, Position, RoomNid};
    use ruma::{events::room::member::MembershipState, user_id};
    use store::{Arg, remote_devices::follow, rooms::put_membership};

    use super::*;
    use crate::{
        remote_lists::tests::{answer, signing_key, update},
        testing::with_users,
    };

    fn bob() -> &'static UserId {
        user_id!("@bob:b.test")
    }

    fn alice() -> &'static UserId {
        user_id!("@alice:a.test")
    }

    /// As if Bob's devices had been fetched, of whom Alice shares a room.
    async fn known(users: &Users, stream_id: i64, devices: &[&str]) {
        let mut write = Write::new();
        let position = Arg::Position(write.position());
        follow(&mut write, bob(), &position);
        let join = MembershipState::Join;
        for user_id in [alice(), bob()] {
            let (room, event, at) = (RoomNid(1), EventNid(1), position.clone());
            put_membership(&mut write, room, user_id.as_str(), &join, user_id, event, at, None, None);
        }
        users.store.commit(write).await.expect("the store is there");
        let row = users.store.remote_devices().find(bob()).await.expect("the store is there").expect("it is followed");
        let list = RemoteList::fetched(bob(), answer(bob(), stream_id, devices)).expect("it is a list");
        let mut write = Write::new();
        let position = Arg::Position(write.position());
        put(&mut write, &list.to_row(row).expect("it is JSON"), &position);
        users.store.commit(write).await.expect("the store is there");
    }

    /// Bob's devices as Alice is told of them, and whether his server is missed. Nobody can be asked.
    async fn asked(users: &Users) -> (Option<Vec<String>>, bool) {
        let wanted = BTreeMap::from([(bob().to_owned(), Vec::new())]);
        let (found, failures) = users.query_remote_keys(alice(), &wanted, None).await.expect("the store is there");
        let devices = found.device_keys.get(bob()).map(|devices| devices.keys().map(ToString::to_string).collect());
        (devices, failures.contains_key(bob().server_name()))
    }

    fn devices(ids: &[&str]) -> Option<Vec<String>> {
        Some(ids.iter().map(|id| (*id).to_owned()).collect())
    }

    #[tokio::test]
    async fn what_is_followed_is_told_without_asking_until_something_is_missing() {
        with_users(async |users, _| {
            let users = &*users;
            let receive = async |update| users.receive_device_list_update(update).await.expect("the store is there");
            // Of somebody of whom nothing is known there is nothing to change.
            receive(update(bob(), "PHONE", (&[1], 2), Some("first"))).await;
            assert_eq!(asked(users).await, (None, true));

            known(users, 7, &["PHONE"]).await;
            assert_eq!(asked(users).await, (devices(&["PHONE"]), false));
            receive(update(bob(), "TABLET", (&[7], 8), Some("first"))).await;
            assert_eq!(asked(users).await, (devices(&["PHONE", "TABLET"]), false));
            receive(update(bob(), "PHONE", (&[8], 9), None)).await;
            // Told twice.
            receive(update(bob(), "PHONE", (&[8], 9), None)).await;
            assert_eq!(asked(users).await, (devices(&["TABLET"]), false));

            // 10 is missing: what was known is told, and that it may be old.
            receive(update(bob(), "TABLET", (&[10], 11), None)).await;
            assert_eq!(asked(users).await, (devices(&["TABLET"]), true));
            receive(update(bob(), "WATCH", (&[9], 10), Some("first"))).await;
            assert_eq!(asked(users).await, (devices(&["TABLET"]), true));
        })
        .await;
    }

    #[tokio::test]
    async fn the_keys_of_a_user_who_is_followed_change() {
        with_users(async |users, _| {
            known(&users, 7, &["PHONE"]).await;
            let mut update = SigningKeyUpdateContent::new(bob().to_owned());
            update.self_signing_key = Some(signing_key(bob(), "self_signing"));
            users.receive_signing_keys(update.clone()).await.expect("the store is there");
            let wanted = BTreeMap::from([(bob().to_owned(), Vec::new())]);
            let (found, failures) = users.query_remote_keys(alice(), &wanted, None).await.expect("the store is there");
            assert!(found.master_keys.contains_key(bob()) && found.self_signing_keys.contains_key(bob()));
            assert!(failures.is_empty());
            update.self_signing_key = Some(signing_key(alice(), "self_signing"));
            users.receive_signing_keys(update).await.expect("the store is there");
            assert_eq!(asked(&users).await, (devices(&["PHONE"]), true));
        })
        .await;
    }

    #[tokio::test]
    async fn each_change_is_told_once_to_those_who_share_a_room() {
        with_users(async |users, _| {
            known(&users, 7, &["PHONE"]).await;
            let mut since = users.store.visible_position().await.expect("the store is there");
            // One that is applied, one that is not, and one told late.
            for (before, id) in [(7, 8), (20, 21), (7, 8)] {
                users
                    .receive_device_list_update(update(bob(), "TABLET", (&[before], id), Some("first")))
                    .await
                    .expect("the store is there");
                let upto = users.store.visible_position().await.expect("the store is there");
                assert_eq!(upto, Position(since.0 + 1));
                let told = users.store.sync().device_list_changes(alice(), since, upto).await;
                assert_eq!(told.expect("the store is there"), [bob()]);
                since = upto;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_change_told_while_the_list_is_fetched_is_not_lost() {
        with_users(async |users, _| {
            known(&users, 7, &["PHONE"]).await;
            let missing = update(bob(), "TABLET", (&[8], 9), Some("first"));
            users.receive_device_list_update(missing).await.expect("the store is there");
            let begun =
                users.store.remote_devices().find(bob()).await.expect("the store is there").expect("it is there");
            let later = update(bob(), "WATCH", (&[9], 10), Some("first"));
            users.receive_device_list_update(later).await.expect("the store is there");
            // What was asked for before it is answered.
            let list = RemoteList::fetched(bob(), answer(bob(), 9, &["PHONE", "TABLET"])).expect("it is a list");
            let mut write = Write::new();
            let position = Arg::Position(write.position());
            put(&mut write, &list.to_row(begun).expect("it is JSON"), &position);
            users.store.commit(write).await.expect("the store is there");
            assert_eq!(asked(&users).await, (devices(&["PHONE"]), true));
        })
        .await;
    }
}
