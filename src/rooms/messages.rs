//! What becomes of a message after it was sent: it is edited, or taken back.

use std::sync::Arc;

use model::TimelineEvent;
use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{json, value::to_raw_value};

use crate::{RoomError, Rooms, Sent, Wish, extension::relation, live::SharedRoom, now, visibility::Sight};

/// A message that is to be taken back.
#[derive(Clone, Copy, Debug)]
pub struct Recall<'a> {
    /// Which.
    pub event_id: &'a EventId,
    /// Why.
    pub reason: Option<&'a str>,
}

impl Rooms {
    /// Says something for a client that may not know whether the room is encrypted: there, only what is encrypted is sent.
    ///
    /// Clients of the Matrix API know, and use [`send`](Self::send), which leaves it to them. Errors: `Unencrypted`.
    pub async fn say(&self, room: &SharedRoom, wish: Wish) -> Result<Sent, RoomError> {
        let is_open = wish.kind != TimelineEventType::RoomEncrypted;
        if is_open && self.state_event(room, StateEventType::RoomEncryption, "").await?.is_some() {
            self.check_joined(room, &wish.sender).await?;
            // What was said before the room was encrypted gets the same answer again.
            let before = match &wish.transaction {
                Some(transaction) => self.sent_before(transaction).await?,
                None => None,
            };
            return before.ok_or(RoomError::Unencrypted);
        }
        self.send(room, wish).await
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
            let window = self.shared.config.recall_window;
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
