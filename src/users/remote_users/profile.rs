//! What a user of another domain says of themselves, cut down to what may be kept and shown.

use ruma::MxcUri;
use serde_json::Value;

use crate::{
    Profile,
    profiles::{AVATAR_URL, DISPLAY_NAME, MAX_AVATAR_URL_BYTES, MAX_PROFILE_BYTES},
};

/// Longer names are cut.
const MAX_NAME_CHARS: usize = 256;
/// The longest name of the native faces, as their documents have it.
const MAX_NATIVE_NAME_CHARS: usize = 100;

/// What a user of another domain says of themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RemoteProfile {
    /// The name, of 256 characters at most, none of which is a control character.
    pub display_name: Option<String>,
    /// The picture, an `mxc://` URI.
    pub avatar_url: Option<String>,
    /// The other fields. All of the profile has 64 KiB at most.
    pub fields: Profile,
}

impl RemoteProfile {
    /// What a server answered. What can't be shown is left out: it is of no use to be told that somebody else's server
    /// doesn't keep to the rules.
    pub(crate) fn of_answer(mut answer: Profile) -> Self {
        let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        let (name, avatar) = (text(answer.remove(DISPLAY_NAME)), text(answer.remove(AVATAR_URL)));
        // Some servers write null for what isn't there.
        answer.retain(|_, value| *value != Value::Null);
        let is_large = serde_json::to_string(&answer).map_or(usize::MAX, |json| json.len()) > MAX_PROFILE_BYTES;
        let fields = if is_large { Profile::new() } else { answer };
        Self { fields, ..Self::of_names(name.as_deref(), avatar.as_deref()) }
    }

    /// Name and avatar alone, as memberships have them too.
    pub(crate) fn of_names(display_name: Option<&str>, avatar_url: Option<&str>) -> Self {
        let is_avatar = |url: &&str| url.len() <= MAX_AVATAR_URL_BYTES && <&MxcUri>::from(*url).is_valid();
        Self {
            display_name: display_name.map(cut).filter(|name| !name.is_empty()),
            avatar_url: avatar_url.filter(is_avatar).map(str::to_owned),
            fields: Profile::new(),
        }
    }

    /// The same with another name and another picture.
    pub(crate) fn renamed(&self, names: &Self) -> Self {
        Self { fields: self.fields.clone(), ..names.clone() }
    }

    /// Whether name and picture are the same.
    pub(crate) fn is_named_as(&self, other: &Self) -> bool {
        self.display_name == other.display_name && self.avatar_url == other.avatar_url
    }

    /// As the Matrix faces show it.
    pub fn to_profile(&self) -> Profile {
        let mut profile = self.fields.clone();
        for (field, value) in [(DISPLAY_NAME, &self.display_name), (AVATAR_URL, &self.avatar_url)] {
            if let Some(value) = value {
                profile.insert(field.to_owned(), Value::from(value.as_str()));
            }
        }
        profile
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let fields = if self.fields.is_empty() {
            0
        } else {
            // Values in memory are some times as large as they are written.
            4 * serde_json::to_string(&self.fields).map_or(MAX_PROFILE_BYTES, |json| json.len())
        };
        text(&self.display_name) + text(&self.avatar_url) + fields
    }
}

/// A name as the native faces show it: its first 100 characters.
pub fn native_name(name: &str) -> &str {
    name.char_indices().nth(MAX_NATIVE_NAME_CHARS).map_or(name, |(end, _)| &name[..end])
}

fn cut(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(answer: Value) -> RemoteProfile {
        RemoteProfile::of_answer(serde_json::from_value(answer).expect("it is an object"))
    }

    #[test]
    fn of_an_answer_is_kept_what_can_be_shown() {
        let profile =
            read(json!({ "displayname": 7, "avatar_url": null, "m.tz": "Europe/Paris", "org.example.x": [1] }));
        assert_eq!(json!(profile.to_profile()), json!({ "m.tz": "Europe/Paris", "org.example.x": [1] }));
        let profile = read(json!({ "displayname": "Bo\u{0}b\n", "avatar_url": "https://b.test/face" }));
        assert_eq!(json!(profile.to_profile()), json!({ "displayname": "Bob" }));
        let profile = read(json!({ "displayname": "é".repeat(1_000), "avatar_url": "mxc://b.test/face" }));
        assert_eq!(profile.display_name, Some("é".repeat(256)));
        assert_eq!(profile.avatar_url.as_deref(), Some("mxc://b.test/face"));
        let long = format!("mxc://b.test/{}", "x".repeat(MAX_AVATAR_URL_BYTES));
        assert_eq!(read(json!({ "displayname": "", "avatar_url": long })), RemoteProfile::default());
    }

    #[test]
    fn a_profile_that_is_too_large_is_a_name_and_a_picture() {
        let profile = read(json!({ "displayname": "Bob", "x.y": "x".repeat(MAX_PROFILE_BYTES) }));
        assert_eq!(json!(profile.to_profile()), json!({ "displayname": "Bob" }));
    }

    #[test]
    fn the_native_faces_show_a_hundred_characters_of_a_name() {
        assert_eq!(native_name("Bob"), "Bob");
        assert_eq!(native_name(&"é".repeat(100)), "é".repeat(100));
        assert_eq!(native_name(&"é".repeat(101)), "é".repeat(100));
    }
}
