//! What the content of an event says, by the type of the message.

use serde_json::{Map, Value, json};

use super::{CARD, CUSTOM, MessageType};

/// What the content of an event of the type `kind` is, and says.
pub(crate) fn of(kind: &str, content: &Value) -> (MessageType, Value) {
    match kind {
        "m.room.message" => of_message(content),
        "m.sticker" => (MessageType::Image, with(file(content), "style", "sticker".into())),
        "m.room.encrypted" => (MessageType::Encrypted, content.clone()),
        other => (MessageType::Custom, json!({ "event_type": other, "data": content })),
    }
}

fn of_message(content: &Value) -> (MessageType, Value) {
    match content["msgtype"].as_str().unwrap_or_default() {
        "m.text" => of_text(content),
        style @ ("m.notice" | "m.emote") => {
            let (kind, said) = of_text(content);
            (kind, with(said, "style", style.trim_start_matches("m.").into()))
        }
        "m.image" => (MessageType::Image, file(content)),
        "m.file" => (MessageType::File, file(content)),
        "m.audio" => (MessageType::Voice, file(content)),
        "m.video" => (MessageType::Video, file(content)),
        "m.location" => (MessageType::Location, location(content)),
        CARD => (MessageType::Card, json!({ "text": content["body"], "card": content[CARD] })),
        CUSTOM => (MessageType::Custom, json!({ "text": content["body"], "data": content[CUSTOM] })),
        other => (MessageType::Custom, json!({ "text": content["body"], "msgtype": other, "data": content })),
    }
}

fn of_text(content: &Value) -> (MessageType, Value) {
    let html = content["formatted_body"].as_str().filter(|_| content["format"] == "org.matrix.custom.html");
    match html {
        Some(html) => (MessageType::Markdown, json!({ "text": content["body"], "html": html })),
        None => (MessageType::Text, json!({ "text": content["body"] })),
    }
}

/// What a file is called, where it is and what is in it. Where there is a name, the body is what is said of it.
fn file(content: &Value) -> Value {
    let (body, info) = (&content["body"], &content["info"]);
    let (name, caption) = match content["filename"].as_str() {
        Some(name) => (Some(name), body.as_str().filter(|body| *body != name)),
        None => (body.as_str(), None),
    };
    let fields = [
        ("url", content["url"].clone()),
        ("name", name.into()),
        ("text", caption.into()),
        ("size", info["size"].clone()),
        ("mimetype", info["mimetype"].clone()),
        ("width", info["w"].clone()),
        ("height", info["h"].clone()),
        ("duration_ms", info["duration"].clone()),
        ("thumbnail_url", info["thumbnail_url"].clone()),
        // An encrypted file's place and keys, as Matrix has them.
        ("file", content["file"].clone()),
    ];
    let known = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(known.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

/// Spec: <https://www.rfc-editor.org/rfc/rfc5870>: `geo:LATITUDE,LONGITUDE[,ALTITUDE][;PARAMETERS]`.
fn location(content: &Value) -> Value {
    let mut told = json!({ "geo_uri": content["geo_uri"], "description": content["body"] });
    let place = content["geo_uri"].as_str().and_then(|uri| uri.strip_prefix("geo:"));
    let coordinates = place.and_then(|place| place.split([';', '?']).next()).unwrap_or_default();
    let numbers: Vec<f64> = coordinates.split(',').map_while(|part| part.trim().parse().ok()).collect();
    if let [latitude, longitude, ..] = numbers.as_slice() {
        told = with(told, "latitude", (*latitude).into());
        told = with(told, "longitude", (*longitude).into());
    }
    told
}

fn with(mut value: Value, key: &str, what: Value) -> Value {
    value[key] = what;
    value
}
