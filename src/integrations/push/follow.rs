//! Finding out what notifies whom.

use std::{collections::HashMap, time::Duration};

use model::{EventNid, Millis, Position, RoomNid, TimelineEvent};
use ruma::{OwnedUserId, UserId, events::TimelineEventType};
use store::{
    Write, followers,
    pushers::{self, Listener, Queued},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{DUTY, LOOK_EVERY, PushError, Pushers};
use crate::{follow::Happened, now};

/// How many things are looked at together.
const AT_ONCE: usize = 500;
/// How often it is noted at most how far this has come, while nothing notifies.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a failure of ours.
const PAUSE: Duration = Duration::from_secs(1);
/// How many events wait for one pusher at most: of more, the latest.
const MOST_WAITING: u32 = 100;
/// How long somebody who reads has for more of it, before a badge follows.
const BADGE_AFTER: Millis = 500;

impl Pushers {
    pub(super) async fn follow(&self) {
        loop {
            match self.follow_while_wanted().await {
                Ok(()) => {}
                Err(PushError::OffDuty | PushError::Store(store::Error::Superseded)) => {
                    debug!("another node finds out what notifies people");
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "could not find out what notifies people");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Follows while anybody has a pusher. Waits where nobody has.
    async fn follow_while_wanted(&self) -> Result<(), PushError> {
        let (store, stream) = (&self.shared.store, &self.shared.stream);
        let Some(first) = store.pushers().first_since().await? else {
            let _ = timeout(LOOK_EVERY, self.shared.changed.notified()).await;
            return Ok(());
        };
        let mut news = stream.anything();
        stream.begin().await?;
        let noted = store.followers().position(DUTY).await?;
        let mut at = noted.unwrap_or_default().max(first);
        let mut write = self.write()?;
        followers::begin(&mut write, DUTY, at, now());
        store.commit(write).await?;
        let mut noted = (noted.unwrap_or_default(), Instant::now());
        loop {
            news.mark_unchanged();
            let happened = stream.happened(at, AT_ONCE).await?;
            if happened.upto > at {
                let mut write = self.write()?;
                let is_queued = self.queue(&mut write, &happened).await?;
                at = happened.upto;
                if is_queued || noted.1.elapsed() >= NOTE_EVERY {
                    followers::moved(&mut write, DUTY, at, now());
                    store.commit(write).await?;
                    noted = (at, Instant::now());
                }
                if is_queued {
                    self.shared.queued.notify_one();
                }
                continue;
            }
            if timeout(LOOK_EVERY, news.changed()).await.is_ok() {
                continue;
            }
            if at > noted.0 {
                let mut write = self.write()?;
                followers::moved(&mut write, DUTY, at, now());
                store.commit(write).await?;
                noted = (at, Instant::now());
            }
            if store.pushers().first_since().await?.is_none() {
                return Ok(());
            }
        }
    }

    /// Puts into the queue what of a stretch notifies somebody. Answers whether there is anything.
    async fn queue(&self, write: &mut Write, happened: &Happened) -> Result<bool, PushError> {
        let mut rooms: Vec<RoomNid> = happened.events.iter().map(|event| event.room_nid).collect();
        rooms.sort_unstable();
        rooms.dedup();
        let mut in_rooms: HashMap<RoomNid, Vec<Listener>> = HashMap::new();
        for (room, listener) in self.shared.store.pushers().in_rooms(&rooms).await? {
            in_rooms.entry(room).or_default().push(listener);
        }
        let mut is_queued = false;
        let mut readers = happened.readers.clone();
        for event in &happened.events {
            let listeners = in_rooms.get(&event.room_nid).map_or(&[][..], Vec::as_slice);
            is_queued |= self.queue_event(write, event.nid, event.position, listeners).await?;
            is_queued |= self.queue_membership(write, event, event.position, &mut readers).await?;
        }
        for (position, nid) in &happened.outside {
            let Some(event) = self.shared.store.events().by_nids(&[*nid]).await?.pop() else { continue };
            is_queued |= self.queue_membership(write, &event, *position, &mut readers).await?;
        }
        Ok(is_queued | self.queue_badges(write, &readers).await?)
    }

    /// Tells who is invited. Who comes or goes has another badge, like those who have read something.
    async fn queue_membership(
        &self,
        write: &mut Write,
        event: &TimelineEvent,
        position: Position,
        readers: &mut Vec<OwnedUserId>,
    ) -> Result<bool, PushError> {
        let Some((user_id, is_invited)) = member(event).filter(|(user_id, _)| self.shared.users.is_ours(user_id))
        else {
            return Ok(false);
        };
        if !is_invited {
            readers.push(user_id.to_owned());
            return Ok(false);
        }
        let listeners = self.shared.store.pushers().of_users(&[user_id]).await?;
        self.queue_event(write, event.nid, position, &listeners).await
    }

    /// `listeners`: by user.
    async fn queue_event(
        &self,
        write: &mut Write,
        nid: EventNid,
        position: Position,
        listeners: &[Listener],
    ) -> Result<bool, PushError> {
        let now = now();
        let mut is_queued = false;
        for of_user in listeners.chunk_by(|one, other| one.key.user_id == other.key.user_id) {
            let of_user: Vec<&Listener> = of_user.iter().filter(|listener| listener.since < position).collect();
            let Some(first) = of_user.first() else { continue };
            // Who has read it already need not be told of it; what is still unread, the badge tells that follows the receipt.
            let judged = self.shared.sync.judge(&first.key.user_id, nid).await?;
            if judged.is_none_or(|notification| notification.is_read) {
                continue;
            }
            for listener in of_user {
                let due_at = if listener.is_mailbox { now + millis(self.shared.config.email_after) } else { now };
                let queued = Queued { position, event: Some(nid), queued_at: now };
                pushers::queue(write, &listener.key, &queued, due_at);
                if listener.is_mailbox || listener.is_failing {
                    pushers::trim(write, &listener.key, MOST_WAITING);
                }
                is_queued = true;
            }
        }
        Ok(is_queued)
    }

    async fn queue_badges(&self, write: &mut Write, readers: &[OwnedUserId]) -> Result<bool, PushError> {
        let mut readers: Vec<&UserId> = readers.iter().map(|user_id| &**user_id).collect();
        readers.sort_unstable();
        readers.dedup();
        let now = now();
        let listeners = self.shared.store.pushers().of_users(&readers).await?;
        for listener in listeners.iter().filter(|listener| !listener.is_mailbox) {
            let queued = Queued { position: Position(0), event: None, queued_at: now };
            pushers::queue(write, &listener.key, &queued, now + BADGE_AFTER);
        }
        Ok(listeners.iter().any(|listener| !listener.is_mailbox))
    }
}

/// Whose membership an event sets, and whether it invites them.
fn member(event: &TimelineEvent) -> Option<(&UserId, bool)> {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: String,
    }
    let pdu = &event.pdu;
    let target = pdu.state_key.as_deref().filter(|_| pdu.kind == TimelineEventType::RoomMember)?;
    let content: Content = pdu.content_as()?;
    Some((<&UserId>::try_from(target).ok()?, content.membership == "invite"))
}

/// Milliseconds.
pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4)
}
