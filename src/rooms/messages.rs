//! What becomes of a message after it was sent: it is edited, or taken back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use model::TimelineEvent;
use ruma::{EventId, OwnedEventId, events::TimelineEventType};
use serde_json::{json, value::to_raw_value};

use crate::{RoomError, Rooms, Wish, extension::relation, live::SharedRoom, now, visibility::Sight};

/// A message that is to be taken back.
#[derive(Clone, Copy, Debug)]
pub struct Recall<'a> {
    /// Which.
    pub event_id: &'a EventId,
    /// Why.
    pub reason: Option<&'a str>,
}

/// In milliseconds.
pub(crate) fn millis(window: Duration) -> u64 {
    u64::try_from(window.as_millis()).unwrap_or(u64::MAX)
}

impl Rooms {
    /// For how long people may take back what they said; zero: for ever.
    pub fn recall_window(&self) -> Duration {
        Duration::from_millis(self.shared.recall_window.load(Ordering::Relaxed))
    }

    /// From now on people may take back what they said for so long; zero: for ever.
    pub fn set_recall_window(&self, window: Duration) {
        self.shared.recall_window.store(millis(window), Ordering::Relaxed);
    }

    /// Takes a message back for everybody. Who said it may for a while (`rooms.recall_window`); who may redact what others say,
    /// always. Once more does nothing.
    ///
    /// Errors: `RecallTooLate`. Matrix clients know no such window: what they redact is redacted.
    pub async fn recall(&self, room: &SharedRoom, sight: &mut Sight<'_>, recall: Recall<'_>) -> Result<(), RoomError> {
        let event = self.find_event(sight, recall.event_id).await?;
        if event.redacted_by.is_some() {
            return Ok(());
        }
        if event.pdu.state_key.is_some() || event.pdu.kind == TimelineEventType::RoomRedaction {
            return Err(RoomError::Invalid("only what somebody said can be taken back".into()));
        }
        self.check_joined(room, &sight.user_id).await?;
        let is_moderator = self.power_levels(room).await?.user_can_redact_event_of_other(&sight.user_id);
        if !is_moderator {
            if event.pdu.sender != sight.user_id {
                return Err(RoomError::Forbidden("only who said it, and who moderates, may take it back".into()));
            }
            let window = self.recall_window();
            let age = now().saturating_sub(i64::from(event.pdu.origin_server_ts.get()));
            if !window.is_zero() && u128::from(age.max(0).unsigned_abs()) > window.as_millis() {
                return Err(RoomError::RecallTooLate(window));
            }
        }
        let content = match recall.reason {
            Some(reason) => json!({ "reason": reason }),
            None => json!({}),
        };
        let wish = Wish {
            sender: sight.user_id.clone(),
            kind: TimelineEventType::RoomRedaction,
            content: to_raw_value(&content).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: None,
            redacts: Some(recall.event_id.to_owned()),
            transaction: None,
        };
        self.send(room, wish).await.map(drop)
    }

    /// The message that an edit of `event_id` by this reader changes: only one's own words can be changed, as long as they
    /// aren't taken back. An edit leads to what it edits.
    pub async fn editable(&self, sight: &mut Sight<'_>, event_id: &EventId) -> Result<Arc<TimelineEvent>, RoomError> {
        let mut event = self.find_event(sight, event_id).await?;
        if let Some((parent, rel_type)) = relation(&event.pdu)
            && rel_type == "m.replace"
            && let Ok(parent) = OwnedEventId::try_from(parent)
        {
            event = self.find_event(sight, &parent).await?;
        }
        if event.pdu.sender != sight.user_id {
            return Err(RoomError::Forbidden("only who said it may change it".into()));
        }
        if event.redacted_by.is_some() {
            return Err(RoomError::Invalid("it was taken back".into()));
        }
        let is_said = matches!(event.pdu.kind, TimelineEventType::RoomMessage | TimelineEventType::RoomEncrypted);
        if !is_said || event.pdu.state_key.is_some() {
            return Err(RoomError::Invalid("only messages can be changed".into()));
        }
        Ok(event)
    }
}
