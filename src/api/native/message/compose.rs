//! What a client of the native API wants to say, as the content of an event.

use model::Address;
use pulldown_cmark::{Event, Parser, html};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{CARD, CUSTOM, MessageType};
use crate::Problem;

/// What is to be said.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MessageSaid)]
pub(crate) struct Said {
    /// `text`, `markdown`, `image`, `file`, `voice`, `video`, `location`, `card`, `custom` or `encrypted`; left out: `text`.
    #[serde(rename = "type", default)]
    pub(crate) kind: MessageType,
    /// What it says, by its type, as in what is read; of text also a string alone. Numbers have no fractions.
    pub(crate) content: Value,
    /// The id of the message that it answers.
    #[serde(default, alias = "replyTo")]
    pub(crate) reply_to: Option<String>,
    /// The id of the message that began the thread that it is part of.
    #[serde(default, alias = "threadId")]
    pub(crate) thread_id: Option<String>,
    /// Whom it mentions.
    #[serde(default)]
    pub(crate) mentions: Option<MentionsSaid>,
}

/// Whom a message is to be noticed by.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MessageMentionsSaid)]
pub(crate) struct MentionsSaid {
    /// These users, in either spelling.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub(crate) users: Vec<Address>,
    /// Everybody in the conversation; takes effect as far as the sender may notify everybody.
    #[serde(default)]
    pub(crate) all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    text: String,
    #[serde(default)]
    html: Option<String>,
    #[serde(default)]
    style: Option<Style>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Style {
    Notice,
    Emote,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSaid {
    url: Option<String>,
    name: Option<String>,
    text: Option<String>,
    size: Option<u64>,
    #[serde(alias = "mime_type")]
    mimetype: Option<String>,
    width: Option<u64>,
    height: Option<u64>,
    #[serde(alias = "durationMs")]
    duration_ms: Option<u64>,
    thumbnail_url: Option<String>,
    file: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Location {
    geo_uri: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    text: Option<String>,
    #[serde(alias = "card")]
    data: Value,
}

impl Said {
    /// The type of the event that says it, and its content.
    pub(crate) fn event(&self) -> Result<(&'static str, Value), Problem> {
        let mut content = self.bare_content()?;
        self.relate(&mut content);
        if let Some(mentions) = &self.mentions {
            let users: Vec<_> = mentions.users.iter().map(Address::user_id).collect();
            let mut named = json!({ "user_ids": users });
            if mentions.all {
                named["room"] = true.into();
            }
            content["m.mentions"] = named;
        }
        let kind = if self.kind == MessageType::Encrypted { "m.room.encrypted" } else { "m.room.message" };
        Ok((kind, content))
    }

    /// The same as the edit of another message.
    pub(crate) fn edit_of(&self, message_id: &str) -> Result<(&'static str, Value), Problem> {
        let (kind, new) = Self { reply_to: None, thread_id: None, ..self.clone() }.event()?;
        let relates_to = json!({ "rel_type": "m.replace", "event_id": message_id });
        if self.kind == MessageType::Encrypted {
            let mut content = new;
            content["m.relates_to"] = relates_to;
            return Ok((kind, content));
        }
        let mut content = new.clone();
        // Clients that know no edits show the body with a star before it.
        let body = content["body"].as_str().map(|body| format!("* {body}"));
        content["body"] = body.into();
        if let Some(html) = content["formatted_body"].as_str() {
            content["formatted_body"] = format!("* {html}").into();
        }
        // Who was noticed by the original isn't noticed again.
        content["m.mentions"] = json!({});
        content["m.new_content"] = new;
        content["m.relates_to"] = relates_to;
        Ok((kind, content))
    }

    fn bare_content(&self) -> Result<Value, Problem> {
        match self.kind {
            MessageType::Text => {
                let Text { text, html, style } = self.text()?;
                Ok(formatted(text, html, style))
            }
            MessageType::Markdown => {
                let Text { text, html, style } = self.text()?;
                let html = html.unwrap_or_else(|| rendered(&text));
                Ok(formatted(text, Some(html), style))
            }
            MessageType::Image => self.file("m.image"),
            MessageType::File => self.file("m.file"),
            MessageType::Voice => self.file("m.audio"),
            MessageType::Video => self.file("m.video"),
            MessageType::Location => self.location(),
            MessageType::Card => self.data(CARD, "card"),
            MessageType::Custom => self.data(CUSTOM, "data"),
            MessageType::Encrypted if self.content["ciphertext"].is_null() => {
                Err(wrong("`content` of what is encrypted is the content of an m.room.encrypted event"))
            }
            MessageType::Encrypted => Ok(self.content.clone()),
            MessageType::Notice | MessageType::Recalled => {
                Err(Problem::invalid("`type` is none that can be sent").with("field", "type"))
            }
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_path_to_error::deserialize(&self.content).map_err(|error| {
            let path = error.path().to_string();
            let at = if path == "." { "content".to_owned() } else { format!("content.{path}") };
            Problem::invalid(format!("`{at}` is wrong: {}", error.into_inner())).with("field", at)
        })
    }

    fn text(&self) -> Result<Text, Problem> {
        let said = match &self.content {
            Value::String(text) => Text { text: text.clone(), html: None, style: None },
            _ => self.read()?,
        };
        if said.text.is_empty() { Err(wrong("`content.text` is empty")) } else { Ok(said) }
    }

    fn file(&self, msgtype: &str) -> Result<Value, Problem> {
        let said: FileSaid = self.read()?;
        let is_ours = said.url.as_deref().is_some_and(|url| <&ruma::MxcUri>::from(url).is_valid());
        if !is_ours && said.file.is_none() {
            return Err(wrong("`content.url` is the mxc:// URI of something that was uploaded"));
        }
        let name = said.name.unwrap_or_else(|| msgtype.trim_start_matches("m.").to_owned());
        let info: [(&str, Value); 6] = [
            ("size", said.size.into()),
            ("mimetype", said.mimetype.into()),
            ("w", said.width.into()),
            ("h", said.height.into()),
            ("duration", said.duration_ms.into()),
            ("thumbnail_url", said.thumbnail_url.into()),
        ];
        let info: serde_json::Map<String, Value> = info
            .into_iter()
            .filter(|(_, value)| !Value::is_null(value))
            .map(|(key, value)| (key.into(), value))
            .collect();
        let mut content =
            json!({ "msgtype": msgtype, "body": said.text.as_ref().unwrap_or(&name), "filename": name, "info": info });
        if let Some(url) = said.url {
            content["url"] = url.into();
        }
        if let Some(file) = said.file {
            content["file"] = file;
        }
        if self.kind == MessageType::Voice {
            content["org.matrix.msc3245.voice"] = json!({});
        }
        Ok(content)
    }

    fn location(&self) -> Result<Value, Problem> {
        let said: Location = self.read()?;
        let uri = match (said.geo_uri, said.latitude, said.longitude) {
            (Some(uri), ..) if uri.starts_with("geo:") => uri,
            (None, Some(latitude), Some(longitude)) if latitude.abs() <= 90.0 && longitude.abs() <= 180.0 => {
                format!("geo:{latitude},{longitude}")
            }
            _ => return Err(wrong("`content` needs a `geo_uri`, or a `latitude` and a `longitude`")),
        };
        let description = said.description.unwrap_or_else(|| uri.clone());
        Ok(json!({ "msgtype": "m.location", "body": description, "geo_uri": uri }))
    }

    fn data(&self, msgtype: &str, what: &str) -> Result<Value, Problem> {
        let Data { text, data } = self.read()?;
        Ok(json!({ "msgtype": msgtype, "body": text.unwrap_or_else(|| format!("[{what}]")), msgtype: data }))
    }

    fn relate(&self, content: &mut Value) {
        let answered = self.reply_to.as_ref().map(|id| json!({ "event_id": id }));
        if let Some(root) = &self.thread_id {
            let is_falling_back = answered.is_none();
            let answered = answered.unwrap_or_else(|| json!({ "event_id": root }));
            content["m.relates_to"] = json!({
                "rel_type": "m.thread", "event_id": root, "m.in_reply_to": answered, "is_falling_back": is_falling_back,
            });
        } else if let Some(answered) = answered {
            content["m.relates_to"] = json!({ "m.in_reply_to": answered });
        }
    }
}

fn formatted(text: String, html: Option<String>, style: Option<Style>) -> Value {
    let msgtype = match style {
        None => "m.text",
        Some(Style::Notice) => "m.notice",
        Some(Style::Emote) => "m.emote",
    };
    let mut content = json!({ "msgtype": msgtype, "body": text });
    if let Some(html) = html {
        content["format"] = "org.matrix.custom.html".into();
        content["formatted_body"] = html.into();
    }
    content
}

/// Markdown as HTML. HTML inside it is text: what people write makes no tags.
fn rendered(markdown: &str) -> String {
    let escaped = Parser::new(markdown).map(|event| match event {
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        other => other,
    });
    let mut out = String::new();
    html::push_html(&mut out, escaped);
    out.trim_end().to_owned()
}

fn wrong(detail: &str) -> Problem {
    Problem::invalid(detail).with("field", "content")
}
