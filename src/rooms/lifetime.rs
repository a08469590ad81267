//! What doesn't stay: a message that goes at a moment, or soon after somebody has read it.
//!
//! Its event says so under [`LIFETIME`], also when a client of the Matrix API has sent it, so that everybody can show it. The
//! server of its sender takes it back when the time has come, in the sender's name, as the sender could by hand: so it goes
//! everywhere, also for clients and servers that know nothing of this.

use std::time::Duration;

use model::{Millis, Pdu, Refusal as _, TimelineEvent};
use serde::{Deserialize, Serialize};
use store::{
    Arg, Write,
    timed_messages::{self, ExpiringRow},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{RoomError, Rooms, live::SharedRoom, millis, now, scheduled::is_passing};

/// The key of an event's content that says how long it stays.
pub const LIFETIME: &str = "org.comity.lifetime";
/// Who does it.
const DUTY: &str = "timed messages";
/// How often it is looked for what is due: what others schedule isn't told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Nothing stays for longer.
const LONGEST: Duration = Duration::from_hours(366 * 24);
/// The pause after one couldn't be taken back.
const PAUSE: Duration = Duration::from_mins(1);
/// So many are taken back at once.
const AT_ONCE: i64 = 50;

/// How long a message stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Until this moment, milliseconds since 1970.
    ExpiresAt(Millis),
    /// So many milliseconds after somebody other than its sender has read it.
    AfterRead(Millis),
}

impl Lifetime {
    fn of(pdu: &Pdu) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "org.comity.lifetime")]
            lifetime: Lifetime,
        }
        // Few events have it, and this is on the way of all: only those are parsed.
        let may_have = pdu.state_key.is_none() && pdu.json.contains(LIFETIME);
        may_have.then(|| pdu.content_as::<Content>()).flatten().map(|content| content.lifetime)
    }
}

/// Notes that an event of this server doesn't stay, if that is so.
pub(crate) fn note_lifetime(write: &mut Write, event: &TimelineEvent, position: &Arg) {
    let longest = millis(LONGEST);
    let (after_read, expires_at) = match Lifetime::of(&event.pdu) {
        None => return,
        Some(Lifetime::ExpiresAt(at)) => (None, Some(at.min(now().saturating_add(longest)))),
        Some(Lifetime::AfterRead(after)) => (Some(after.clamp(0, longest)), None),
    };
    timed_messages::insert_expiring(write, event, after_read, expires_at, position.clone());
}

impl Rooms {
    /// Refuses a lifetime that makes no sense in a room.
    pub async fn check_lifetime(&self, room: &SharedRoom, lifetime: Lifetime) -> Result<(), RoomError> {
        let longest = millis(LONGEST);
        match lifetime {
            Lifetime::ExpiresAt(at) if at <= now() || at > now().saturating_add(longest) => {
                Err(RoomError::Invalid("what goes at a moment goes within a year".into()))
            }
            Lifetime::AfterRead(after) if !(0..=longest).contains(&after) => {
                Err(RoomError::Invalid("what goes after it was read goes within a year".into()))
            }
            // With more of them it would go before most have read it.
            Lifetime::AfterRead(_) if self.view(room).await?.servers.values().sum::<u32>() > 2 => {
                Err(RoomError::Invalid("only what two people say to each other can go after it was read".into()))
            }
            _ => Ok(()),
        }
    }

    /// Says what is due, and takes back what doesn't stay, until `stop` is cancelled.
    pub async fn tend_timed(&self, stop: CancellationToken) {
        loop {
            let is_more = match self.shared.store.duties().of(DUTY) {
                Some(_) => self.do_due().await.unwrap_or_else(|error| {
                    warn!(error = &error as &dyn std::error::Error, "could not look for messages whose time has come");
                    false
                }),
                None => false,
            };
            let pause = if is_more { Duration::ZERO } else { LOOK_EVERY };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.shared.timed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn do_due(&self) -> Result<bool, RoomError> {
        let is_more = self.say_due().await? | self.send_accepted().await? | self.send_delayed().await?;
        let store = &self.shared.store;
        if store.timed_messages().are_read().await? {
            let mut write = Write::new();
            timed_messages::start_reading(&mut write, now());
            store.commit(write).await?;
        }
        let expired = store.timed_messages().expiring(now(), AT_ONCE).await?;
        for row in &expired {
            let mut write = Write::new();
            match self.expire(row).await {
                Ok(()) => timed_messages::expired(&mut write, row.event),
                Err(error) if is_passing(error.kind()) => {
                    timed_messages::expire_later(&mut write, row.event, now() + millis(PAUSE));
                }
                // Its sender is out of the room, or may not say anything any more.
                Err(error) => {
                    warn!(event = %row.event_id, user = %row.sender, "a message outlives its time: {error}");
                    timed_messages::expired(&mut write, row.event);
                }
            }
            store.commit(write).await?;
        }
        Ok(is_more || expired.len() as i64 == AT_ONCE)
    }

    async fn expire(&self, row: &ExpiringRow) -> Result<(), RoomError> {
        let Some(event) = self.events_by_id(std::slice::from_ref(&row.event_id)).await?.pop() else { return Ok(()) };
        let room = self.get(&event.pdu.room_id).await?;
        self.take_back(&room, &event, &row.sender, Some("its time is over")).await
    }
}
