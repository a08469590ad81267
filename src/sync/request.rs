//! One `/sync`: what lies between `since` and now, or else waiting for it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use metrics::histogram;
use model::{Position, RoomNid};
use ruma::{
    OwnedUserId, UserId, api::client::sync::sync_events::v3, events::room::member::MembershipState,
    presence::PresenceState,
};
use tokio::time::Instant;

use crate::{
    Answer, Shared, Sync, SyncError, SyncToken,
    cells::{InUse, Membership, Memberships},
    filter::Filter,
    settings::Ignored,
};

/// What a client asks.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Who.
    pub user_id: OwnedUserId,
    /// On which device; empty: on none.
    pub device_id: String,
    /// What the last answer called `next_batch`. `None`: from the beginning.
    pub since: Option<String>,
    /// Which of it.
    pub filter: Option<v3::Filter>,
    /// Whether all state of all rooms is told again.
    pub full_state: bool,
    /// How long to wait if there is nothing.
    pub timeout: Duration,
    /// How the user seems to others while asking.
    pub set_presence: PresenceState,
    /// Whether state is told as of the end of the timeline instead of its start.
    pub use_state_after: bool,
}

/// One look at everything: what is needed to decide what the reader hears of it.
pub(crate) struct Look<'a> {
    pub(crate) sync: &'a Sync,
    pub(crate) user: &'a InUse,
    pub(crate) device_id: &'a str,
    /// `None`: an initial sync.
    pub(crate) since: Option<SyncToken>,
    pub(crate) upto: Position,
    /// For rooms where memory doesn't reach back to `since`: the position of the latest thing that members hear of.
    pub(crate) older_news: HashMap<RoomNid, Position>,
    pub(crate) memberships: Arc<Memberships>,
    pub(crate) filter: Arc<Filter>,
    pub(crate) ignored: Arc<Ignored>,
    pub(crate) full_state: bool,
    pub(crate) use_state_after: bool,
}

impl Look<'_> {
    pub(crate) fn user_id(&self) -> &UserId {
        &self.user.user_id
    }

    /// What is told is what came after this.
    pub(crate) fn since(&self) -> Position {
        self.since.map_or(Position(0), |since| since.position)
    }

    /// The position of the latest thing in a room that members hear of, as far as it came after `since`.
    pub(crate) fn latest_in(&self, nid: RoomNid, membership: &Membership) -> Position {
        let recent = Position(membership.room.latest.load(Ordering::Acquire));
        self.older_news.get(&nid).map_or(recent, |older| recent.max(*older))
    }

    pub(crate) fn joined(&self) -> impl Iterator<Item = (RoomNid, &Membership)> {
        self.memberships
            .iter()
            .filter(|(_, membership)| membership.membership == MembershipState::Join)
            .map(|(nid, membership)| (*nid, membership))
    }
}

impl Sync {
    /// Answers with what the user has not heard of, as soon as there is something, or with nothing when time is up.
    ///
    /// Waits for at most `timeout`, bounded by `max_timeout` of the configuration. May be dropped at any moment.
    pub async fn sync(&self, request: SyncRequest) -> Result<Answer, SyncError> {
        let shared = &self.shared;
        let limit = shared.config.max_timeout;
        let deadline = Instant::now() + request.timeout.min(limit);
        let filter = self.filter_of(&request).await?;
        let mut since = self.since_of(&request).await?;
        let must_answer = since.is_none() || request.full_state;
        if let Some(since) = since {
            shared.arrivals.confirm(&request.user_id, &request.device_id, since.position);
        }

        let mut is_first = true;
        loop {
            let user = shared.notifier.user(&shared.store, &request.user_id).await?;
            if std::mem::take(&mut is_first) {
                self.note_syncing(&user, &request.set_presence).await?;
                if let Some(listener) = shared.on_syncing.get() {
                    listener(&request.user_id);
                }
            }
            let changed = user.changed.notified();
            tokio::pin!(changed);
            // From here on nothing is missed: what comes later wakes `changed`, what came before is in `latest`.
            changed.as_mut().enable();

            let is_due = Instant::now() >= deadline || shared.ending.is_cancelled();
            let may_have_news = since.is_none_or(|since| user.latest() > since.position || since.to_device.is_some());
            if may_have_news || must_answer {
                let began = Instant::now();
                let Some(answer) = Box::pin(self.look(&request, &user, since, filter.clone())).await? else { continue };
                histogram!("comity_sync_look_seconds").record(began.elapsed().as_secs_f64());
                if must_answer || is_due || !answer.is_empty() {
                    let rooms = answer.joined.iter().map(|room| (&room.room_id, &room.timeline.events[..]));
                    let upto = answer.next_batch().position;
                    let us = shared.rooms.server_name();
                    shared.arrivals.note(us, &request.user_id, &request.device_id, upto, rooms);
                    return Ok(answer);
                }
                // What was looked at and found to be of no interest needs no second look.
                since = Some(answer.next_batch());
            } else if is_due {
                match Box::pin(self.look(&request, &user, since, filter.clone())).await? {
                    Some(answer) => return Ok(answer),
                    None => continue,
                }
            }
            if user.is_stale() {
                continue;
            }
            // Whether woken or late: look again.
            tokio::select! {
                _ = tokio::time::timeout_at(deadline, changed) => {}
                () = shared.ending.cancelled() => {}
            }
        }
    }

    async fn look(
        &self,
        request: &SyncRequest,
        user: &InUse,
        since: Option<SyncToken>,
        filter: Arc<Filter>,
    ) -> Result<Option<Answer>, SyncError> {
        let shared = &self.shared;
        let Some(moment) = shared.notifier.moment(user) else { return Ok(None) };
        let look = Look {
            sync: self,
            user,
            device_id: &request.device_id,
            since,
            upto: moment.visible,
            older_news: match since {
                Some(since) => self.older_news(&request.user_id, since.position, moment.floor).await?,
                None => HashMap::new(),
            },
            memberships: moment.memberships,
            filter,
            ignored: shared.settings.ignored(&shared.store, user).await?,
            full_state: request.full_state,
            use_state_after: request.use_state_after,
        };
        if since.is_none() {
            shared.lazy.forget(look.user_id(), look.device_id);
        }
        let mut answer =
            Answer { position: look.upto, for_federation: look.filter.is_for_federation(), ..Answer::default() };
        let account_data = look.account_data().await?;
        look.rooms(&account_data, &mut answer).await?;
        look.global_account_data(&account_data, &mut answer).await?;
        look.to_device(&mut answer).await?;
        look.device_lists(&mut answer).await?;
        look.presence(&mut answer).await?;
        answer.keys = look.keys().await?;
        Ok(Some(answer))
    }

    /// In which of the user's rooms something happened after `since`, if memory reaches back only to `floor`.
    pub(crate) async fn older_news(
        &self,
        user_id: &UserId,
        since: Position,
        floor: Position,
    ) -> Result<HashMap<RoomNid, Position>, SyncError> {
        let mut news = HashMap::new();
        if since < floor {
            let store = &self.shared.store;
            for (nid, position) in store.sync().rooms_since(user_id, since).await? {
                news.insert(nid, position);
            }
            for (nid, position) in store.receipts().rooms_since(user_id, since).await? {
                let latest = news.entry(nid).or_insert(position);
                *latest = position.max(*latest);
            }
        }
        Ok(news)
    }

    async fn filter_of(&self, request: &SyncRequest) -> Result<Arc<Filter>, SyncError> {
        match &request.filter {
            None => Ok(Arc::new(Filter(Default::default()))),
            Some(v3::Filter::FilterDefinition(definition)) => Ok(Arc::new(Filter(definition.clone()))),
            Some(v3::Filter::FilterId(filter_id)) => {
                // An unknown filter is a wrong parameter here, not a missing thing.
                let filter = self.filter_by_id(&request.user_id, filter_id).await;
                filter.map_err(|error| match error {
                    SyncError::NotFound(message) => SyncError::Invalid(format!("filter: {message}")),
                    error => error,
                })
            }
            Some(_) => Err(SyncError::Invalid("filter: neither a filter's id nor a filter".into())),
        }
    }

    async fn since_of(&self, request: &SyncRequest) -> Result<Option<SyncToken>, SyncError> {
        let Some(token) = request.since.as_deref().filter(|token| !token.is_empty()) else { return Ok(None) };
        let wrong = || SyncError::Token { field: "since", token: token.to_owned() };
        let since: SyncToken = token.parse().map_err(|_| wrong())?;
        // What nobody has told yet, nobody can have heard. Another node may have told what this one is about to hear of.
        let Shared { notifier, store, .. } = &*self.shared;
        if notifier.reach(store, since.position).await? { Ok(Some(since)) } else { Err(wrong()) }
    }
}
