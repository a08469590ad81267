//! What memberships say of users of other domains: a new name reaches the rooms, so it need not be asked for.
//!
//! A name in one room may differ from the user's own, so it is shown at once, and asked about at the next look-up.

use std::sync::Arc;

use metrics::counter;
use model::{Change, Committed, TimelineEvent};
use ruma::{
    OwnedUserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use store::{Write, remote_users as rows};
use tokio::sync::{Mutex, mpsc};

use super::{
    RemoteUsers,
    entry::{Entry, Outcome},
    profile::RemoteProfile,
};

/// How much may wait to be taken in. The rest isn't: it is asked for in time.
const WAITING: usize = 1_024;

/// Who calls themselves what.
pub(super) type Heard = (OwnedUserId, RemoteProfile);

/// What was heard, on its way to memory and store.
pub(super) struct Hearsay {
    tell: mpsc::Sender<Heard>,
    told: Mutex<mpsc::Receiver<Heard>>,
}

impl Default for Hearsay {
    fn default() -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        Self { tell, told: Mutex::new(told) }
    }
}

impl RemoteUsers {
    /// Takes note of what a commit says of users of other domains. Quick, never waits; what it says takes effect a moment
    /// later, while [`Self::tend`] runs.
    pub fn ingest(&self, committed: &Committed) {
        for (_, change) in committed.changes.iter() {
            let Change::Event(event) = change else { continue };
            let Some((user_id, names)) = self.names_in(event) else { continue };
            if self.shared.memory.get(&user_id).is_some_and(|entry| is_named(&entry, &names)) {
                continue;
            }
            if self.shared.hearsay.tell.try_send((user_id, names)).is_err() {
                counter!("comity_remote_user_hearsay_dropped_total").increment(1);
            }
        }
    }

    /// What a user of another domain calls themselves in a membership of their own.
    fn names_in(&self, event: &TimelineEvent) -> Option<(OwnedUserId, RemoteProfile)> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
            displayname: Option<String>,
            avatar_url: Option<String>,
        }
        let pdu = &event.pdu;
        let is_theirs = pdu.kind == TimelineEventType::RoomMember
            && pdu.state_key.as_deref() == Some(pdu.sender.as_str())
            && pdu.sender.server_name() != self.shared.our_name
            && !event.soft_failed;
        let content = is_theirs.then(|| pdu.content_as::<Content>()).flatten()?;
        let names = || RemoteProfile::of_names(content.displayname.as_deref(), content.avatar_url.as_deref());
        (content.membership == MembershipState::Join).then(|| (pdu.sender.clone(), names()))
    }

    /// Waits for what is heard next.
    pub(super) async fn hear(&self) -> Heard {
        match self.shared.hearsay.told.lock().await.recv().await {
            Some(heard) => heard,
            // Who tells lives as long as who is told.
            None => std::future::pending().await,
        }
    }

    /// Takes in what was heard.
    pub(super) async fn take_in(&self, (user_id, names): Heard) -> Result<(), store::Error> {
        let names = &names;
        let mut write = Write::new();
        rows::rename(&mut write, &user_id, names.display_name.as_deref(), names.avatar_url.as_deref());
        self.shared.store.commit(write).await?;
        let _book = self.book();
        let Some(entry) = self.shared.memory.get(&user_id) else { return Ok(()) };
        match entry.renamed(names) {
            Some(_) if is_named(&entry, names) => {}
            Some(renamed) => self.shared.memory.insert(user_id, Arc::new(renamed)),
            // Whoever joins a room is there.
            None => drop(self.shared.memory.remove(&user_id)),
        }
        Ok(())
    }
}

fn is_named(entry: &Entry, names: &RemoteProfile) -> bool {
    matches!(&entry.outcome, Outcome::Found(profile) if profile.is_named_as(names))
}
