//! Invitations that wait for an answer, as their user is told of them.

use model::{Millis, Position, TimelineEvent};
use ruma::{OwnedRoomId, OwnedUserId, UserId, events::StateEventType};
use serde::Deserialize;
use serde_json::Value;

use crate::{RoomError, Rooms};

/// Somebody is invited.
#[derive(Clone, Debug)]
pub struct Invited {
    /// To which room.
    pub room_id: OwnedRoomId,
    /// What it is called, as far as it shows that.
    pub room_name: Option<String>,
    /// By whom.
    pub sender: OwnedUserId,
    /// What that one goes by there.
    pub sender_name: Option<String>,
    /// What was said with it.
    pub reason: Option<String>,
    /// It is a direct chat.
    pub is_direct: bool,
    /// When, as the inviter says.
    pub at: Millis,
    /// When it became visible here.
    pub position: Position,
}

impl Rooms {
    /// Invitations of `user_id` before `before` that ask for no friendship, the latest first; those by people whom the user ignores
    /// are left out. And before what the next page begins, if there may be one.
    pub async fn invitations(
        &self,
        user_id: &UserId,
        before: Position,
        limit: usize,
    ) -> Result<(Vec<Invited>, Option<Position>), RoomError> {
        #[derive(Default, Deserialize)]
        struct Content {
            reason: Option<String>,
            #[serde(default)]
            is_direct: bool,
        }
        let asked_for = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.shared.store.notifications().invitations(user_id, before, asked_for).await?;
        let next = (rows.len() == limit).then(|| rows.last().map(|row| row.position)).flatten();
        let ignored = self.ignored_by(user_id).await?;
        let mut invited = Vec::with_capacity(rows.len());
        for row in rows.into_iter().filter(|row| !ignored.contains(&row.sender)) {
            let event = self.event(row.event).await?;
            let content: Content = event.pdu.content_as().unwrap_or_default();
            let text = |content: Option<Value>, field: &str| content?[field].as_str().map(str::to_owned);
            let name = self.shown_by(&row.room_id, &event, StateEventType::RoomName, "").await?;
            let sender = self.shown_by(&row.room_id, &event, StateEventType::RoomMember, row.sender.as_str()).await?;
            invited.push(Invited {
                room_id: row.room_id,
                room_name: text(name, "name"),
                sender: row.sender,
                sender_name: text(sender, "displayname"),
                reason: content.reason,
                is_direct: content.is_direct,
                at: event.pdu.origin_server_ts.get().into(),
                position: row.position,
            });
        }
        Ok((invited, next))
    }

    /// A piece of the state of a room, for somebody who is invited: of one that this server isn't in what the invitation shows of it.
    async fn shown_by(
        &self,
        room_id: &ruma::RoomId,
        invitation: &TimelineEvent,
        kind: StateEventType,
        state_key: &str,
    ) -> Result<Option<Value>, RoomError> {
        let room = self.get(room_id).await?;
        if self.is_resident(&room).await? {
            let event = self.state_event(&room, kind, state_key).await?;
            return Ok(event.and_then(|event| event.pdu.content_as()));
        }
        Ok(stripped(invitation, &kind.to_string(), state_key))
    }
}

/// The content of an event that an invitation of another server shows beside it.
pub(crate) fn stripped(invitation: &TimelineEvent, kind: &str, state_key: &str) -> Option<Value> {
    #[derive(Deserialize)]
    struct Given {
        unsigned: Shown,
    }
    #[derive(Deserialize)]
    struct Shown {
        invite_room_state: Vec<Stripped>,
    }
    #[derive(Deserialize)]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        content: Value,
    }
    let given: Given = serde_json::from_str(&invitation.pdu.json).ok()?;
    let mut shown = given.unsigned.invite_room_state.into_iter();
    shown.find(|event| event.kind == kind && event.state_key == state_key).map(|event| event.content)
}
