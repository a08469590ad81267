//! A pusher as a client wants it, and as a client is shown it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>

use ruma::OwnedDeviceId;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use store::pushers::PusherRow;
use url::Url;

use super::PusherError;

/// The path of every gateway.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";
/// "Max length, 512 bytes."
const LONGEST_PUSHKEY: usize = 512;
/// "Max length, 64 chars."
const LONGEST_APP_ID: usize = 64;
/// Of what is for people to read.
const LONGEST_TEXT: usize = 500;
/// Of `data`, as JSON.
const LONGEST_DATA: usize = 16 * 1024;

/// What a client wants to become of a pusher.
#[derive(Clone, Debug, Deserialize)]
pub struct PusherWish {
    /// `http`, `email`; null: it is to be removed.
    #[serde(default, deserialize_with = "given")]
    pub kind: Option<Option<String>>,
    /// Whom the gateway is to tell, or an e-mail address.
    pub pushkey: Option<String>,
    /// The application.
    pub app_id: Option<String>,
    /// For people.
    pub app_display_name: Option<String>,
    /// For people.
    pub device_display_name: Option<String>,
    /// Kept, and shown.
    pub profile_tag: Option<String>,
    /// The user's language.
    pub lang: Option<String>,
    /// `url`, `format`, and what the gateway is told besides.
    pub data: Option<Map<String, Value>>,
    /// Whether others may have the same pushkey for the same application.
    pub append: Option<bool>,
    /// Whether it is told anything.
    ///
    /// Spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/3881>
    #[serde(rename = "org.matrix.msc3881.enabled", alias = "enabled")]
    pub enabled: Option<bool>,
}

/// Tells what is null from what isn't there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What is needed to keep one.
pub(super) struct Complete<'a> {
    pub(super) app_display_name: &'a str,
    pub(super) device_display_name: &'a str,
    pub(super) lang: &'a str,
    pub(super) data: &'a Map<String, Value>,
}

impl PusherWish {
    /// Which pusher it is about, and of which kind that is to be; `None`: it is to be removed.
    pub(super) fn about(&self) -> Result<(&str, &str, Option<&str>), PusherError> {
        let (Some(kind), Some(app_id), Some(pushkey)) = (&self.kind, &self.app_id, &self.pushkey) else {
            let fields =
                [("kind", self.kind.is_none()), ("app_id", self.app_id.is_none()), ("pushkey", self.pushkey.is_none())];
            return Err(missing(&fields));
        };
        Ok((app_id, pushkey, kind.as_deref()))
    }

    /// Everything that it must have to be kept.
    pub(super) fn complete(&self, kind: &str) -> Result<Complete<'_>, PusherError> {
        let (Some(app_display_name), Some(device_display_name), Some(lang), Some(data)) =
            (&self.app_display_name, &self.device_display_name, &self.lang, &self.data)
        else {
            return Err(missing(&[
                ("app_display_name", self.app_display_name.is_none()),
                ("device_display_name", self.device_display_name.is_none()),
                ("lang", self.lang.is_none()),
                ("data", self.data.is_none()),
            ]));
        };
        let (app_id, pushkey, _) = self.about()?;
        let too_long = |field, most| PusherError::Field { field, wrong: format!("has more than {most} characters") };
        if app_id.chars().count() > LONGEST_APP_ID {
            return Err(too_long("app_id", LONGEST_APP_ID));
        }
        if pushkey.len() > LONGEST_PUSHKEY {
            return Err(too_long("pushkey", LONGEST_PUSHKEY));
        }
        let tag = self.profile_tag.as_deref().unwrap_or_default();
        for (field, text) in [
            ("app_display_name", app_display_name.as_str()),
            ("device_display_name", device_display_name),
            ("lang", lang),
            ("profile_tag", tag),
        ] {
            if text.chars().count() > LONGEST_TEXT {
                return Err(too_long(field, LONGEST_TEXT));
            }
        }
        if Value::Object(data.clone()).to_string().len() > LONGEST_DATA {
            return Err(too_long("data", LONGEST_DATA));
        }
        if kind == "http" {
            check_url(data)?;
        }
        Ok(Complete { app_display_name, device_display_name, lang, data })
    }
}

fn missing(fields: &[(&'static str, bool)]) -> PusherError {
    PusherError::Missing(fields.iter().filter(|(_, is_missing)| *is_missing).map(|(field, _)| *field).collect())
}

/// Whether a gateway can be told at what `data` says of it. HTTP without TLS is up to who runs the gateway.
fn check_url(data: &Map<String, Value>) -> Result<(), PusherError> {
    let wrong = |wrong: &str| PusherError::Field { field: "data.url", wrong: wrong.to_owned() };
    let Some(url) = data.get("url") else { return Err(PusherError::Missing(vec!["data.url"])) };
    let url = url.as_str().and_then(|url| Url::parse(url).ok()).ok_or_else(|| wrong("is no URL"))?;
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
        return Err(wrong("does not begin with https://"));
    }
    if url.path() != GATEWAY_PATH {
        return Err(wrong("has another path than /_matrix/push/v1/notify"));
    }
    Ok(())
}

/// A pusher as its user is shown it.
#[derive(Clone, Debug, Serialize)]
pub struct ShownPusher {
    /// Whom the gateway tells, or an e-mail address.
    pub pushkey: String,
    /// `http` or `email`.
    pub kind: String,
    /// The application.
    pub app_id: String,
    /// For people.
    pub app_display_name: String,
    /// For people.
    pub device_display_name: String,
    /// As it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_tag: Option<String>,
    /// The user's language.
    pub lang: String,
    /// As it was given.
    pub data: Value,
    /// Whether it is told anything.
    #[serde(rename = "org.matrix.msc3881.enabled")]
    pub enabled: bool,
    /// The device that it goes with.
    #[serde(rename = "org.matrix.msc3881.device_id", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<OwnedDeviceId>,
}

impl From<PusherRow> for ShownPusher {
    fn from(row: PusherRow) -> Self {
        Self {
            pushkey: row.key.pushkey,
            kind: row.kind,
            app_id: row.key.app_id,
            app_display_name: row.app_display_name,
            device_display_name: row.device_display_name,
            profile_tag: row.profile_tag,
            lang: row.lang,
            data: serde_json::from_str(&row.data).unwrap_or_default(),
            enabled: row.disabled_at.is_none(),
            device_id: row.device_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(wish: Value) -> Result<(), String> {
        let wish: PusherWish = serde_json::from_value(wish).expect("it has the shape");
        let kind = wish.about().map_err(|error| error.to_string())?.2;
        kind.map_or(Ok(()), |kind| wish.complete(kind).map(drop).map_err(|error| error.to_string()))
    }

    #[test]
    fn what_is_missing_is_said_by_name_and_what_is_wrong_too() {
        let good = json!({
            "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone",
            "lang": "en", "data": { "url": "https://push.example/_matrix/push/v1/notify" },
        });
        assert_eq!(check(good.clone()), Ok(()));
        assert_eq!(check(json!({ "kind": null, "app_id": "app", "pushkey": "key" })), Ok(()));
        assert_eq!(check(json!({ "app_id": "app" })), Err("missing parameters: kind, pushkey".into()));
        let with = |field: &str, value: Value| {
            let mut wish = good.clone();
            wish[field] = value;
            check(wish).expect_err("it is wrong")
        };
        assert_eq!(with("lang", Value::Null), "missing parameters: lang");
        assert!(with("pushkey", "k".repeat(513).into()).contains("pushkey"));
        assert!(with("app_id", "a".repeat(65).into()).contains("app_id"));
        assert!(with("data", json!({})).contains("data.url"));
        for url in ["https://push.example/", "ftp://push.example/_matrix/push/v1/notify", "nothing"] {
            assert!(with("data", json!({ "url": url })).contains("data.url"), "{url}");
        }
    }
}
