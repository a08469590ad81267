//! What happened in a conversation, told as a notice: `content.kind` says what it is.

use rooms::WITHDRAWS;
use serde_json::{Value, json};

use super::{Person, content, text};

/// A change of the conversation itself.
///
/// `kind` is one of `created`, `membership`, `name`, `topic`, `avatar`, `roles`, `pinned`, `encryption`, `replaced`, `dissolved`, and
/// `state` for all others, with the event's own type and content.
pub(super) fn of_state(event_type: &str, state_key: &str, event: &Value) -> Value {
    let said = &event["content"];
    match (event_type, state_key) {
        ("m.room.member", user_id) => membership(user_id, event),
        ("m.room.create", "") => json!({ "kind": "created", "room_version": said["room_version"] }),
        ("m.room.name", "") => json!({ "kind": "name", "name": said["name"] }),
        ("m.room.topic", "") => json!({ "kind": "topic", "topic": said["topic"] }),
        ("m.room.avatar", "") => json!({ "kind": "avatar", "avatar_url": said["url"] }),
        ("m.room.power_levels", "") => json!({ "kind": "roles", "value": said }),
        ("m.room.pinned_events", "") => json!({ "kind": "pinned", "message_ids": said["pinned"] }),
        ("m.room.encryption", "") => json!({ "kind": "encryption", "algorithm": said["algorithm"] }),
        ("org.comity.dissolved", "") => json!({ "kind": "dissolved" }),
        ("m.room.tombstone", "") => {
            json!({ "kind": "replaced", "text": said["body"], "conversation_id": said["replacement_room"] })
        }
        _ => json!({ "kind": "state", "event_type": event_type, "state_key": state_key, "value": said }),
    }
}

/// A change of another message: `edited`, with what it says now, `reaction`, or `recalled`.
pub(super) fn of_change(event_type: &str, event: &Value) -> Option<Value> {
    let said = &event["content"];
    let relates_to = &said["m.relates_to"];
    let parent = text(&relates_to["event_id"]);
    match (event_type, relates_to["rel_type"].as_str()) {
        ("m.room.redaction", _) => {
            let target = text(&event["redacts"]).or_else(|| text(&said["redacts"]));
            Some(json!({ "kind": "recalled", "message_id": target, "reason": said["reason"] }))
        }
        ("m.reaction", Some("m.annotation")) => {
            Some(json!({ "kind": "reaction", "message_id": parent?, "key": relates_to["key"] }))
        }
        (_, Some("m.replace")) => {
            let new = Some(&said["m.new_content"]).filter(|new| new.is_object()).unwrap_or(said);
            let (kind, content) = content::of(event_type, new);
            Some(json!({ "kind": "edited", "message_id": parent?, "type": kind, "content": content }))
        }
        _ => None,
    }
}

/// What is left of a change that was itself taken back: that there was one. It is no message that was recalled.
pub(super) fn of_withdrawn(event_type: &str, redaction: &Value) -> Option<Value> {
    let what = match (event_type, redaction["content"][WITHDRAWS].as_str()) {
        ("m.reaction", _) => "reaction",
        ("m.room.redaction", _) => "recalled",
        (_, Some("m.replace")) => "edited",
        _ => return None,
    };
    Some(json!({ "kind": "withdrawn", "what": what }))
}

fn membership(user_id: &str, event: &Value) -> Value {
    let (said, before) = (&event["content"], &event["unsigned"]["prev_content"]);
    let user = Person::of(&user_id.into());
    let is_own = event["sender"] == user_id;
    let (now, then) = (said["membership"].as_str(), before["membership"].as_str());
    let change = match (now.unwrap_or_default(), then.unwrap_or("leave")) {
        ("join", "join") => "profile_changed",
        ("join", _) => "joined",
        ("invite", _) => "invited",
        ("knock", _) => "asked_to_join",
        ("ban", _) => "banned",
        ("leave", "ban") => "unbanned",
        ("leave", "invite") if is_own => "declined",
        ("leave", "invite") => "uninvited",
        ("leave", "knock") if is_own => "withdrew",
        ("leave", "knock") => "refused",
        ("leave", _) if is_own => "left",
        ("leave", _) => "removed",
        _ => "unknown",
    };
    json!({
        "kind": "membership", "change": change, "user": user, "membership": now, "display_name": said["displayname"],
        "avatar_url": said["avatar_url"], "reason": said["reason"],
    })
}
