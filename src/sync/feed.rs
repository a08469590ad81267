//! A feed: the same streams as `/sync`, pushed one thing after the other to whoever is connected.
//!
//! It knows nothing of how its reader is connected: a WebSocket, STOMP and gRPC are faces of it.
//!
//! **Invariant.** Each thing has the position at which it happened, and they come in the order of positions. So the position of the
//! last thing that somebody has is all that is needed to go on: from there on nothing is lost and nothing comes twice, on any
//! node, whatever the order of commits.
//!
//! **Back-pressure.** A feed keeps nothing for its reader: it reads on from its position when it is asked to, a few things at a time.
//! Who is slow costs no memory.

mod connection;
mod connections;
mod elsewhere;
mod gather;
mod missed;
mod news;

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use model::Position;
use ruma::{OwnedUserId, UserId, presence::PresenceState};

pub use connection::{Connection, Ending, Word};
pub use connections::{Connections, ConnectionsConfig, Crowded, OpenConnection};
pub use elsewhere::{NodeQuestion, NodeReply, OtherNodes, PlaceInList, Replies};
pub use news::{Item, News, Reset, Start};

use crate::{Arrival, PresenceNow, Shared, Sync, SyncError, SyncToken, cells::InUse, filter::Filter, request::Look};

/// Whose presence one feed follows at most.
pub const MOST_FOLLOWED: usize = 200;
/// How many events of other servers are remembered until they are acknowledged.
const MOST_ARRIVING: usize = 1_000;

/// A feed is not filtered by what clients of the Matrix API ask for.
static EVERYTHING: LazyLock<Arc<Filter>> = LazyLock::new(|| Arc::new(Filter(Default::default())));

/// Who wants to be told, and from where on.
#[derive(Clone, Debug)]
pub struct FeedRequest {
    /// Who.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: String,
    /// The position of the last thing that the reader has. `None`: it is told what happens from now on.
    pub resume: Option<String>,
    /// How many events the reader may have missed and be told of one by one.
    pub most_missed: usize,
}

/// What one reader is told.
pub struct Feed {
    sync: Sync,
    device_id: String,
    /// While it is held, the user counts as being there.
    user: InUse,
    /// Everything up to here was read.
    position: Position,
    /// Whose presence the reader wants to hear of.
    followed: BTreeSet<OwnedUserId>,
    /// What people of other servers said that was read and not acknowledged yet.
    arriving: Vec<(Position, Arrival)>,
}

impl Sync {
    /// A feed for a reader who has just connected.
    ///
    /// Reads the store for as much as the reader has missed, and no event of it yet.
    pub async fn feed(&self, request: FeedRequest) -> Result<(Feed, Start), SyncError> {
        let shared = &self.shared;
        let resume = match request.resume.as_deref() {
            None => None,
            Some(token) => Some(self.resumable(token).await?),
        };
        let (user, moment) = shared.notifier.user_now(&shared.store, &request.user_id).await?;
        let mut start = match resume {
            None => Start::Fresh,
            Some(None) => Start::Reset(Reset::Unknown),
            Some(Some(_)) => Start::Resumed,
        };
        let mut position = resume.flatten().unwrap_or(moment.visible);
        if start == Start::Resumed && self.has_missed(&request.user_id, position, request.most_missed).await? {
            start = Start::Reset(Reset::TooOld);
            position = moment.visible;
        }
        self.note_connected(&user, &request).await?;
        let (sync, device_id) = (self.clone(), request.device_id);
        let (followed, arriving) = (BTreeSet::new(), Vec::new());
        Ok((Feed { sync, device_id, user, position, followed, arriving }, start))
    }

    /// Where a reader was. `None`: nobody has told anybody of such a position.
    async fn resumable(&self, token: &str) -> Result<Option<Position>, SyncError> {
        let Shared { notifier, store, .. } = &*self.shared;
        let Ok(SyncToken { position, .. }) = token.parse() else { return Ok(None) };
        Ok(notifier.reach(store, position).await?.then_some(position))
    }

    /// Who is connected is there.
    async fn note_connected(&self, user: &InUse, request: &FeedRequest) -> Result<(), SyncError> {
        self.note_syncing(user, &PresenceState::Online).await?;
        if let Some(listener) = self.shared.on_syncing.get() {
            listener(&request.user_id);
        }
        Ok(())
    }
}

impl Feed {
    /// Everything up to here was read; a reader who has taken all of it may go on from here.
    pub fn position(&self) -> SyncToken {
        SyncToken { position: self.position, to_device: None }
    }

    /// Whose feed it is.
    pub fn user_id(&self) -> &UserId {
        &self.user.user_id
    }

    /// Waits until there may be something to read. May be dropped at any moment.
    pub async fn changed(&self) {
        let changed = self.user.changed.notified();
        tokio::pin!(changed);
        // From here on nothing is missed: what comes later wakes `changed`, what came before is in `latest`.
        changed.as_mut().enable();
        if self.user.is_stale() || self.user.latest() > self.position {
            return;
        }
        changed.await;
    }

    /// What there is to tell, oldest first, about `most` things at most. May be dropped at any moment: then nothing was read.
    ///
    /// Nothing may be answered although more is there: what was looked at is not for this reader.
    pub async fn read(&mut self, most: usize) -> Result<Vec<Item>, SyncError> {
        let shared = &self.sync.shared;
        let moment = loop {
            match shared.notifier.moment(&self.user) {
                Some(moment) => break moment,
                None => self.user = shared.notifier.user(&shared.store, &self.user.user_id.clone()).await?,
            }
        };
        if moment.visible <= self.position {
            return Ok(Vec::new());
        }
        if self.user.latest() <= self.position {
            // Nothing of what has happened since concerns this user.
            self.position = moment.visible;
            return Ok(Vec::new());
        }
        let since = SyncToken { position: self.position, to_device: None };
        let look = Look {
            sync: &self.sync,
            user: &self.user,
            device_id: &self.device_id,
            since: Some(since),
            upto: moment.visible,
            older_news: self.sync.older_news(&self.user.user_id, self.position, moment.floor).await?,
            memberships: moment.memberships,
            filter: EVERYTHING.clone(),
            ignored: shared.settings.ignored(&shared.store, &self.user).await?,
            full_state: false,
            use_state_after: false,
        };
        let (items, upto) = look.gather(most.max(1), &self.followed).await?;
        self.position = upto;
        self.note_arriving(&items);
        Ok(items)
    }

    /// The reader's device has everything up to `position`.
    pub fn acknowledge(&mut self, position: Position) {
        let Some(listener) = self.sync.shared.arrivals.listener() else { return };
        let arrived = self.arriving.partition_point(|(at, _)| *at <= position);
        let mut latest: Vec<Arrival> = Vec::new();
        for (_, arrival) in self.arriving.drain(..arrived).rev() {
            let is_same = |known: &Arrival| known.room_id == arrival.room_id && known.server == arrival.server;
            if !latest.iter().any(is_same) {
                latest.push(arrival);
            }
        }
        latest.into_iter().for_each(listener);
    }

    /// Who said it on another server may be told when it has come onto the device.
    fn note_arriving(&mut self, items: &[Item]) {
        if self.sync.shared.arrivals.listener().is_none() {
            return;
        }
        for item in items {
            let News::Event { shown, .. } = &item.news else { continue };
            let pdu = &shown.event.pdu;
            // A reader that acknowledges nothing isn't remembered for ever.
            if !self.sync.is_local(&pdu.sender) && self.arriving.len() < MOST_ARRIVING {
                let arrival = Arrival {
                    user_id: self.user.user_id.clone(),
                    room_id: pdu.room_id.clone(),
                    server: pdu.sender.server_name().to_owned(),
                    event_id: pdu.event_id.clone(),
                };
                self.arriving.push((item.position, arrival));
            }
        }
    }

    /// From now on the reader hears of these users' presence, as far as the reader may know of it, and is answered how it is now.
    /// Those whom it may not know of, or who are too many, are left out.
    pub async fn follow(&mut self, user_ids: &[OwnedUserId]) -> Result<Vec<PresenceNow>, SyncError> {
        let mut now = Vec::new();
        for user_id in user_ids {
            if self.followed.len() >= MOST_FOLLOWED && !self.followed.contains(user_id) {
                break;
            }
            let reader = self.user.user_id.clone();
            match self.sync.presence_for(&reader, user_id).await {
                Ok(presence) => now.push(presence),
                Err(SyncError::Forbidden(_)) => continue,
                Err(SyncError::NotFound(_)) => now.push(PresenceNow {
                    user_id: user_id.clone(),
                    state: PresenceState::Offline,
                    status_msg: None,
                    last_active_at: 0,
                }),
                Err(error) => return Err(error),
            }
            self.followed.insert(user_id.clone());
        }
        Ok(now)
    }

    /// From now on the reader doesn't hear of these users' presence.
    pub fn unfollow(&mut self, user_ids: &[OwnedUserId]) {
        for user_id in user_ids {
            self.followed.remove(user_id);
        }
    }
}
