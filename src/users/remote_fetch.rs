//! Fetching the device lists of users of other servers: of each user once at a time.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid>

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use peers::PeerError;
use ruma::{OwnedUserId, UserId, api::federation::device::get_devices::v1 as devices};
use store::{Write, remote_devices::put};
use tokio::sync::Semaphore;

use crate::{Users, remote_lists::RemoteList};

/// How long another server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose lists are being fetched.
#[derive(Default)]
pub(crate) struct ListFetches(Mutex<HashMap<OwnedUserId, Weak<Semaphore>>>);

impl ListFetches {
    /// Whose turn it is to fetch the user's list. There are no more of them than there are who wait.
    fn turns(&self, user_id: &UserId) -> Arc<Semaphore> {
        let mut fetches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = fetches.get(user_id).and_then(Weak::upgrade) {
            return turns;
        }
        fetches.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(1));
        fetches.insert(user_id.to_owned(), Arc::downgrade(&turns));
        turns
    }
}

impl Users {
    /// The devices and keys of a user of another server, as that server says, unless they are known meanwhile.
    ///
    /// They are kept if `asker` shares a room with the user, whose list is [followed](store::remote_devices::follow).
    pub(crate) async fn fetch_list(&self, asker: &UserId, user_id: &UserId) -> Result<RemoteList, PeerError> {
        let turns = self.list_fetches.turns(user_id);
        // A semaphore that nobody closes.
        let _turn = turns.acquire().await;
        let row = self.store.remote_devices().find(user_id).await?;
        if let Some(row) = row.as_ref().filter(|row| row.is_whole)
            && let Some(list) = RemoteList::of(row)?
        {
            return Ok(list);
        }
        // After the list was read: whoever leaves from now on changes it.
        let is_shared = self.store.rooms().share_a_room(asker, user_id).await?;
        let server = user_id.server_name();
        self.may_ask_of_devices(asker, server).await?;
        let answer = self.peers.ask_within(PATIENCE, server, devices::Request::new(user_id.to_owned())).await?;
        let list = RemoteList::fetched(user_id, answer)
            .map_err(|reason| PeerError::Malformed { server: server.to_owned(), reason: reason.to_owned() })?;
        if let Some(row) = row.filter(|_| is_shared) {
            let mut write = Write::new();
            let position = store::Arg::Position(write.position());
            put(&mut write, &list.to_row(row)?, &position);
            self.store.commit(write).await?;
        }
        Ok(list)
    }
}
