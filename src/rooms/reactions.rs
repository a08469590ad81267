//! Reactions: one of each kind from each member.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#event-annotations-and-reactions>

use std::collections::{BTreeMap, HashMap};

use model::TimelineEvent;
use ruma::{EventId, OwnedEventId, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};

use crate::{RoomError, Rooms, Wish, live::SharedRoom, messages::redaction, visibility::Sight};

/// No more reactions to the events of one page are looked at.
const COUNTED_AT_MOST: i64 = 5_000;
/// The longest key of a reaction, in bytes.
const LONGEST_KEY: usize = 256;

/// How often a member reacted with each key: who.
pub type Reactions = BTreeMap<String, Vec<ruma::OwnedUserId>>;

impl Rooms {
    /// Reacts to an event that the member sees, unless the member has done so already. Answers the reaction.
    pub async fn react(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        event_id: &EventId,
        key: &str,
    ) -> Result<OwnedEventId, RoomError> {
        if key.is_empty() || key.len() > LONGEST_KEY {
            return Err(RoomError::Invalid(format!("a reaction has 1 to {LONGEST_KEY} bytes")));
        }
        let event = self.find_event(sight, event_id).await?;
        if event.redacted_by.is_some() || event.pdu.state_key.is_some() {
            return Err(RoomError::Invalid("to this nobody can react".into()));
        }
        let user_id = sight.user_id.clone();
        if let Some(reaction) = self.reaction_of(room, &event, &user_id, key).await? {
            return Ok(reaction);
        }
        let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event_id, "key": key } });
        let wish = Wish {
            sender: user_id,
            kind: TimelineEventType::Reaction,
            content: to_raw_value(&content).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: None,
            redacts: None,
            transaction: None,
        };
        Ok(self.send(room, wish).await?.event_id)
    }

    /// Takes a reaction back; does nothing where there is none.
    pub async fn unreact(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        event_id: &EventId,
        key: &str,
    ) -> Result<(), RoomError> {
        let event = self.find_event(sight, event_id).await?;
        let user_id = sight.user_id.clone();
        // Clients of other servers may have reacted twice.
        while let Some(reaction) = self.reaction_of(room, &event, &user_id, key).await? {
            let wish = redaction(&user_id, &reaction, &json!({}))?;
            self.send(room, wish).await?;
        }
        Ok(())
    }

    /// Who reacted how to each of these events, of whom the reader wants to hear.
    pub async fn reactions(
        &self,
        room: &SharedRoom,
        sight: &Sight<'_>,
        to: &[OwnedEventId],
    ) -> Result<HashMap<OwnedEventId, Reactions>, RoomError> {
        let mut found: HashMap<OwnedEventId, Reactions> = HashMap::new();
        for row in self.shared.store.conversations().reactions(room.nid, to, COUNTED_AT_MOST).await? {
            let Some(key) = key_of(&row.json).filter(|_| !sight.ignores(&row.sender)) else { continue };
            let who = found.entry(row.parent).or_default().entry(key).or_default();
            if !who.contains(&row.sender) {
                who.push(row.sender);
            }
        }
        Ok(found)
    }

    async fn reaction_of(
        &self,
        room: &SharedRoom,
        to: &TimelineEvent,
        user_id: &UserId,
        key: &str,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let to = std::slice::from_ref(&to.pdu.event_id);
        let rows = self.shared.store.conversations().reactions(room.nid, to, COUNTED_AT_MOST).await?;
        let own = rows.into_iter().find(|row| row.sender == user_id && key_of(&row.json).as_deref() == Some(key));
        Ok(own.map(|row| row.event_id))
    }
}

/// With what an event reacts.
fn key_of(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        key: String,
    }
    serde_json::from_str::<Event>(json).ok().map(|event| event.content.relates_to.key)
}
