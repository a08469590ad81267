//! What of an event can be found.

use model::TimelineEvent;
use ruma::events::TimelineEventType;
use serde::Deserialize;
use serde_json::Value;
use store::search::Key;

use crate::extension::relation;

#[derive(Deserialize)]
struct Content {
    body: Option<Value>,
    name: Option<Value>,
    topic: Option<Value>,
    #[serde(rename = "m.new_content")]
    new_content: Option<Box<Content>>,
}

/// The text by which an event is found, and where it stands. `None`: by none, such as what is encrypted, what was redacted, what
/// says nothing in words, and an edit, whose words are those of what it edits.
pub(super) fn text_of(event: &TimelineEvent) -> Option<(Key, String)> {
    let pdu = &event.pdu;
    if event.redacted_by.is_some() || event.soft_failed || pdu.rejected || is_edit(event) {
        return None;
    }
    let key = match (&pdu.kind, pdu.state_key.as_deref()) {
        (TimelineEventType::RoomName, Some("")) => Key::Name,
        (TimelineEventType::RoomTopic, Some("")) => Key::Topic,
        (_, Some(_)) | (TimelineEventType::RoomEncrypted | TimelineEventType::RoomRedaction, None) => return None,
        (_, None) => Key::Body,
    };
    let content: Content = pdu.content_as()?;
    let text = match key {
        Key::Body => content.body,
        Key::Name => content.name,
        Key::Topic => content.topic,
    };
    Some((key, text?.as_str().filter(|text| !text.trim().is_empty())?.to_owned()))
}

/// What an edit says in the place of what was said.
pub(super) fn text_of_edit(edit: &TimelineEvent) -> Option<String> {
    if edit.redacted_by.is_some() || edit.soft_failed || edit.pdu.rejected {
        return None;
    }
    let content: Content = edit.pdu.content_as()?;
    Some(content.new_content?.body?.as_str()?.to_owned())
}

pub(super) fn is_edit(event: &TimelineEvent) -> bool {
    relation(&event.pdu).is_some_and(|(_, rel_type)| rel_type == "m.replace")
}
