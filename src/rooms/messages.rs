//! What becomes of a message after it was sent: it is edited, or taken back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use model::{Position, TimelineEvent};
use ruma::{
    EventId, OwnedEventId, UserId,
    api::Direction,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Value, json, value::to_raw_value};

use crate::{RoomError, Rooms, Sent, Wish, extension::relation, live::SharedRoom, millis, now, visibility::Sight};

/// The key of a redaction's content that says how what it redacts was related to something, where that is forgotten.
pub const WITHDRAWS: &str = "org.comity.withdraws";
/// Of a message that was edited more often, the oldest edits stay when it is taken back.
const MOST_EDITS: usize = 200;

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
        self.say_once(room, wish, false).await
    }

    /// As [`Self::say`]. `is_approved`: a moderator has let it through.
    pub(crate) async fn say_once(&self, room: &SharedRoom, wish: Wish, is_approved: bool) -> Result<Sent, RoomError> {
        if let Err(error) = self.check_encrypted(room, &wish.kind).await {
            self.check_joined(room, &wish.sender).await?;
            // What was said before the room was encrypted gets the same answer again.
            let before = match &wish.transaction {
                Some(transaction) => self.sent_before(transaction).await?,
                None => None,
            };
            return before.ok_or(error);
        }
        self.send_once(room, wish, is_approved).await
    }

    /// Refuses what isn't encrypted in a room that is.
    pub(crate) async fn check_encrypted(&self, room: &SharedRoom, kind: &TimelineEventType) -> Result<(), RoomError> {
        let is_open = *kind != TimelineEventType::RoomEncrypted;
        match is_open && self.state_event(room, StateEventType::RoomEncryption, "").await?.is_some() {
            true => Err(RoomError::Unencrypted),
            false => Ok(()),
        }
    }

    /// For how long people may take back what they said; zero: for ever.
    pub fn recall_window(&self) -> Duration {
        Duration::from_millis(self.shared.recall_window.load(Ordering::Relaxed).unsigned_abs())
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
        self.take_back(room, &event, &sight.user_id, recall.reason).await
    }

    /// Takes a message back, in the name of `by`, with what its sender has made of it by edits.
    pub(crate) async fn take_back(
        &self,
        room: &SharedRoom,
        event: &TimelineEvent,
        by: &UserId,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let wanted = store::events::Relations {
            room: room.nid,
            parent: &event.pdu.event_id,
            rel_type: Some("m.replace"),
            kind: None,
            from: Position(i64::MAX),
            to: None,
            limit: MOST_EDITS,
            direction: Direction::Backward,
            recurse: false,
        };
        let edits = self.shared.store.events().relations(wanted).await?;
        // Before the message itself: who tries again after a break finds what is left.
        for edit in edits.iter().filter(|edit| edit.pdu.sender == event.pdu.sender) {
            // Of an edit nothing else would tell, when it is empty, that it was one.
            self.send(room, redaction(by, &edit.pdu.event_id, &json!({ WITHDRAWS: "m.replace" }))?).await?;
        }
        if event.redacted_by.is_none() {
            let content = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            self.send(room, redaction(by, &event.pdu.event_id, &content)?).await?;
        }
        Ok(())
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

/// What takes an event back, in the name of `by`.
pub(crate) fn redaction(by: &UserId, event_id: &EventId, content: &Value) -> Result<Wish, RoomError> {
    Ok(Wish {
        sender: by.to_owned(),
        kind: TimelineEventType::RoomRedaction,
        content: to_raw_value(content).map_err(|error| RoomError::BadContent(error.to_string()))?,
        state_key: None,
        redacts: Some(event_id.to_owned()),
        transaction: None,
    })
}
