//! What gateways are told.
//!
//! Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>

use ruma::{UserId, events::TimelineEventType, push::Action};
use serde_json::{Map, Value, json};
use sync::Notification;

use super::{PushError, Pushers};

/// What people call what notifies them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// The room. `None`: it is called after the sender alone.
    pub(super) room: Option<String>,
    /// Who has sent it.
    pub(super) sender: String,
}

impl Pushers {
    /// What the user calls the room, and who has sent it.
    pub(super) async fn names(&self, user_id: &UserId, notification: &Notification) -> Result<Names, PushError> {
        let event = &notification.shown.event;
        let sender = &event.pdu.sender;
        let conversation = self.shared.sync.conversation(user_id, "", event.room_nid).await?;
        let other = conversation.as_ref().and_then(|known| known.other.as_ref());
        let mut name = other.filter(|other| other.user_id == *sender).and_then(|other| other.display_name.clone());
        if name.is_none() {
            let named = self.shared.store.conversations().names(event.room_nid, std::slice::from_ref(sender)).await?;
            name = named.into_iter().find_map(|member| member.display_name);
        }
        let room = conversation.and_then(|conversation| conversation.name);
        let is_senders = |room: &String| name.as_ref() == Some(room) || room == sender.localpart();
        let room = room.filter(|room| !is_senders(room));
        Ok(Names { room, sender: name.unwrap_or_else(|| sender.to_string()) })
    }
}

/// What is told with the tweaks of the device, if it has any.
type Told = (Value, Option<Value>);

/// How much is unread, and no more. That it is nothing is said: what isn't said, a gateway can't take off the screen.
pub(super) fn of_badge(badge: i64) -> Told {
    (json!({ "counts": { "unread": badge }, "prio": "low" }), None)
}

/// An event by its id alone: the client fetches it.
pub(super) fn of_ids(notification: &Notification, badge: i64) -> Told {
    let event_id = &notification.shown.event.pdu.event_id;
    let told = json!({
        "event_id": event_id,
        "room_id": notification.room_id,
        "prio": priority(notification),
        "counts": { "unread": badge },
    });
    (told, None)
}

/// An event with what a phone needs to show it.
pub(super) fn of_event(
    user_id: &UserId,
    notification: &Notification,
    names: &Names,
    badge: i64,
    include_content: bool,
) -> Told {
    let pdu = &notification.shown.event.pdu;
    let mut told = json!({
        "event_id": pdu.event_id,
        // What it was called before it was called `event_id`; gateways of that age look there.
        "id": pdu.event_id,
        "room_id": notification.room_id,
        "type": pdu.kind,
        "sender": pdu.sender,
        "sender_display_name": names.sender,
        "prio": priority(notification),
        "counts": { "unread": badge },
    });
    if let Some(room) = &names.room {
        told["room_name"] = room.as_str().into();
    }
    let content: Value = serde_json::from_str(pdu.content.get()).unwrap_or_default();
    if let Some(state_key) = pdu.state_key.as_deref().filter(|_| pdu.kind == TimelineEventType::RoomMember) {
        told["user_is_target"] = (state_key == user_id.as_str()).into();
        told["membership"] = content["membership"].clone();
    }
    if include_content {
        told["content"] = content;
    }
    (told, Some(tweaks(&notification.actions)))
}

/// What the user's rules say of how it is to be shown.
fn tweaks(actions: &[Action]) -> Value {
    let mut tweaks = Map::new();
    for action in actions {
        let Action::SetTweak(tweak) = action else { continue };
        let value: Option<Value> = tweak.value().and_then(|value| serde_json::from_str(value.get()).ok());
        // Of a tweak without a value it is said only that it is there.
        tweaks.insert(tweak.set_tweak().to_owned(), value.unwrap_or(true.into()));
    }
    Value::Object(tweaks)
}

/// High is what makes a sound or is highlighted, and what only the device can tell.
fn priority(notification: &Notification) -> &'static str {
    let is_loud = |action: &Action| action.sound().is_some() || action.is_highlight();
    let is_sealed = notification.shown.event.pdu.kind == TimelineEventType::RoomEncrypted;
    if is_sealed || notification.actions.iter().any(is_loud) { "high" } else { "low" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tweaks_are_told_as_rules_have_them() {
        let actions: Vec<Action> = serde_json::from_value(json!([
            "notify",
            { "set_tweak": "sound", "value": "default" },
            { "set_tweak": "highlight" },
            { "set_tweak": "org.example.colour", "value": "red" },
        ]))
        .expect("they are actions");
        assert_eq!(tweaks(&actions), json!({ "sound": "default", "highlight": true, "org.example.colour": "red" }));
        let quiet: Vec<Action> =
            serde_json::from_value(json!(["notify", { "set_tweak": "highlight", "value": false }])).expect("actions");
        assert_eq!(tweaks(&quiet), json!({ "highlight": false }));
    }
}
