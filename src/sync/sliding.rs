//! Sliding sync: windows of the user's room list, and what is new in the rooms that stand in them.
//!
//! **Invariant.** As of [`Sync::sync`](crate::Sync::sync), a connection skips and repeats nothing: of each room in sight it has heard all
//! up to the position of its `pos`; a room that went out of sight while something happened there goes on from where it went. The same
//! `pos` gives the same or more.
//!
//! **What it costs.** An answer in which rooms in sight have news writes nothing: the position is in `pos`. Only when rooms come into
//! sight or go, or more is wanted of one, what the connection knows is [written](connection) down. What a list is ordered and filtered
//! by is in memory ([`room_list`](crate::room_list)).
//!
//! Spec: <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>

mod answer;
mod connection;
mod extensions;
mod lists;
mod room;
mod state;
mod wanted;

use std::{collections::HashMap, sync::Arc};

use metrics::histogram;
use model::Position;
use tokio::time::Instant;

use crate::{Sync, SyncError, SyncToken, cells::InUse, filter::Filter, request::Look, settings::Places};

pub use answer::{Form, SlidingAnswer};
pub(crate) use connection::Connections;
pub use connection::SlidingToken;
pub use wanted::{
    ExtensionsWanted, InRooms, ListFilters, RoomWanted, SlidingList, SlidingRequest, StatePattern, StateWanted,
    ToDeviceWanted,
};

use connection::{Base, Known};

/// One look at everything on behalf of one connection.
struct View<'a> {
    look: Look<'a>,
    request: &'a SlidingRequest,
    base: &'a Base,
    places: Arc<Places>,
    /// What tells the connection from others of the user.
    device: String,
}

impl View<'_> {
    /// Up to where everything in sight was told; `None`: nothing was.
    fn since(&self) -> Option<Position> {
        self.base.token.map(|token| token.position)
    }
}

/// An answer that isn't given yet.
struct Draft {
    answer: SlidingAnswer,
    known: Known,
}

impl Sync {
    /// Answers with what the connection has not heard of, as soon as there is something, or with nothing when time is up.
    ///
    /// Waits for at most `timeout`, bounded by `max_timeout` of the configuration, and not at all when the connection begins. May be
    /// dropped at any moment. Errors: [`SyncError::UnknownPos`].
    pub async fn sliding_sync(&self, request: &SlidingRequest) -> Result<SlidingAnswer, SyncError> {
        let shared = &self.shared;
        let deadline = Instant::now() + request.timeout.min(shared.config.max_timeout);
        let base = self.base_of(request).await?;
        let device = format!("{}\0{}", request.device_id, request.conn_id);
        if let Some(token) = base.token {
            shared.arrivals.confirm(&request.user_id, &device, token.position);
        }
        let mut seen: Option<Position> = None;
        loop {
            let user = shared.notifier.user(&shared.store, &request.user_id).await?;
            if seen.is_none() {
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
            if is_due || seen.is_none_or(|seen| user.latest() > seen) {
                let began = Instant::now();
                let Some(draft) = Box::pin(self.draft(request, &user, &base, &device)).await? else { continue };
                histogram!("comity_sync_look_seconds").record(began.elapsed().as_secs_f64());
                if base.token.is_none() || is_due || !draft.answer.is_empty() {
                    return self.give(request, &base, draft, &device).await;
                }
                seen = Some(draft.answer.token.position);
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

    /// Names what the connection knows after this answer, and writes it down if that isn't what it knew before.
    async fn give(
        &self,
        request: &SlidingRequest,
        base: &Base,
        draft: Draft,
        device: &str,
    ) -> Result<SlidingAnswer, SyncError> {
        let Draft { mut answer, known } = draft;
        let is_same = known == *base.known;
        match base.token {
            Some(token) if is_same => answer.token.version = token.version,
            // Only rooms out of sight have news: as long as there is nothing to tell, that is found again from the same place.
            Some(token) if answer.is_empty() => answer.token = token,
            None if is_same => {}
            _ => answer.token.version = self.keep_known(request, base, known).await?,
        }
        let rooms = answer.rooms.iter().map(|room| (&room.room_id, room.timeline_events()));
        let us = self.shared.rooms.server_name();
        self.shared.arrivals.note(us, &request.user_id, device, answer.token.position, rooms);
        Ok(answer)
    }

    /// `None`: the user was forgotten meanwhile; ask for the user again.
    async fn draft(
        &self,
        request: &SlidingRequest,
        user: &InUse,
        base: &Base,
        device: &str,
    ) -> Result<Option<Draft>, SyncError> {
        let shared = &self.shared;
        let Some(moment) = shared.notifier.moment(user) else { return Ok(None) };
        let since = base.token.map(|token| token.position);
        let look = Look {
            sync: self,
            user,
            device_id: &request.device_id,
            since: since.map(|position| SyncToken { position, to_device: None }),
            upto: moment.visible,
            older_news: match since {
                Some(since) => self.older_news(&request.user_id, since, moment.floor).await?,
                None => HashMap::new(),
            },
            memberships: moment.memberships,
            filter: Arc::new(Filter(Default::default())),
            ignored: shared.settings.ignored(&shared.store, user).await?,
            full_state: false,
            use_state_after: false,
        };
        let places = shared.settings.places(&shared.store, user).await?;
        let view = View { look, request, base, places, device: device.to_owned() };
        if since.is_none() {
            shared.lazy.forget(&request.user_id, &view.device);
        }
        let mut known = (*base.known).clone();
        let mut answer = SlidingAnswer::upto(view.look.upto);
        let sight = view.sight(&mut answer).await?;
        let told = view.rooms(&sight, &mut known, &mut answer).await?;
        view.extensions(&sight, &told, &mut known, &mut answer).await?;
        view.note_out_of_sight(&sight, &mut known);
        Ok(Some(Draft { answer, known }))
    }
}
