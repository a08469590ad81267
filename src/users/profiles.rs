//! What users say of themselves.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#profiles>

mod change;

use std::collections::BTreeMap;

use model::{Kind, Refusal, peer::Grant};
use ruma::{MxcUri, UserId};
use serde_json::Value;
use store::{
    Write,
    profiles::{put_profile_field, remove_profile_field},
};

use crate::{RemoteUserError, Users};

/// The fields of a profile.
pub type Profile = BTreeMap<String, Value>;

pub(crate) const DISPLAY_NAME: &str = "displayname";
pub(crate) const AVATAR_URL: &str = "avatar_url";
const TIME_ZONE: &str = "m.tz";

/// Spec: "The overall profile must not exceed 64 KiB when encoded as canonical JSON".
pub(crate) const MAX_PROFILE_BYTES: usize = 64 << 10;
/// Spec: "keys must not exceed 255 bytes".
const MAX_FIELD_BYTES: usize = 255;
const MAX_DISPLAY_NAME_BYTES: usize = 256;
pub(crate) const MAX_AVATAR_URL_BYTES: usize = 1_000;

/// Why a profile was not shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is no such user, or no such field.
    #[error("{0}")]
    NotFound(&'static str),
    /// A profile is its owner's to change.
    #[error("you may change only your own profile")]
    NotYours,
    /// This server does not let its users change this.
    #[error("this server does not let its users change this")]
    Fixed,
    /// The account may say nothing now, and be called nothing else.
    #[error("this account is suspended")]
    Suspended,
    /// The field's name can't be one.
    #[error("`{0}` is no name of a profile field: write m.something or com.example.something, in small letters")]
    Field(String),
    /// The field's name is too long.
    #[error("the name of a profile field has at most {MAX_FIELD_BYTES} bytes")]
    FieldTooLong,
    /// The value can't be one.
    #[error("`{field}` {problem}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The value is of another type.
    #[error("`{field}` is not text")]
    NotText {
        /// Which field.
        field: &'static str,
    },
    /// The profile would be too large.
    #[error("a profile has at most 64 KiB")]
    TooLarge,
    /// Nothing can be told of a user of another server.
    #[error(transparent)]
    Remote(#[from] RemoteUserError),
    /// The store failed.
    #[error("the profile could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for ProfileError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::NotYours | Self::Fixed | Self::Suspended => Kind::Forbidden,
            // The specification has the two of size as 400 as well.
            Self::Field(_) | Self::FieldTooLong | Self::Value { .. } | Self::NotText { .. } | Self::TooLarge => {
                Kind::Invalid
            }
            Self::Remote(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::NotText { .. } => Some("M_BAD_JSON"),
            Self::Suspended => Some("M_USER_SUSPENDED"),
            Self::FieldTooLong => Some("M_KEY_TOO_LARGE"),
            Self::TooLarge => Some("M_PROFILE_TOO_LARGE"),
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::Suspended).then_some("user_suspended")
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Remote(error) => error.retry_after_ms(),
            _ => None,
        }
    }
}

impl Users {
    /// The profile of a user. That of a user of another server is what it said a while ago; see
    /// [`RemoteUsers::get`](crate::RemoteUsers::get), whose `asker` this is.
    pub async fn profile(&self, asker: Option<&UserId>, user_id: &UserId) -> Result<Profile, ProfileError> {
        if !self.is_ours(user_id) {
            return Ok(self.remote_users().get(asker, user_id).await?.profile.to_profile());
        }
        let rows = self.store.profiles().get(user_id).await?;
        if rows.is_empty() {
            let account = self.store.accounts().find(user_id).await?;
            if account.is_none_or(|account| account.deactivated_at.is_some()) {
                return Err(ProfileError::NotFound("there is no such user"));
            }
        }
        rows.into_iter()
            .map(|(field, json)| {
                let value = serde_json::from_str(&json)
                    .map_err(|error| store::Error::Corrupt(format!("a profile field: {error}")))?;
                Ok((field, value))
            })
            .collect()
    }

    /// The profile of a user of this server as another server is told it: all of it, or name and picture, as the trust table grants.
    pub async fn profile_as_granted(&self, user_id: &UserId, grant: Grant) -> Result<Profile, ProfileError> {
        let mut profile = self.profile(None, user_id).await?;
        if grant != Grant::Yes {
            profile.retain(|field, _| matches!(field.as_str(), DISPLAY_NAME | AVATAR_URL));
        }
        Ok(profile)
    }

    /// One field of the profile of a user, as [`Self::profile`] has it.
    pub async fn profile_field(
        &self,
        asker: Option<&UserId>,
        user_id: &UserId,
        field: &str,
    ) -> Result<Value, ProfileError> {
        let mut profile = self.profile(asker, user_id).await?;
        profile.remove(field).ok_or(ProfileError::NotFound("the profile has no such field"))
    }

    /// Sets a field of the profile of `user_id`, which must be who asks. Whoever calls sees to it that the user's
    /// rooms hear of a new name or avatar.
    ///
    /// An empty name or avatar removes the field. Answers whether anything changed.
    pub async fn set_profile_field(
        &self,
        asker: &UserId,
        user_id: &UserId,
        field: &str,
        value: &Value,
    ) -> Result<bool, ProfileError> {
        self.check_may_change(asker, user_id, field)?;
        check_field_name(field)?;
        check_value(field, value)?;
        let mut profile = self.profile(Some(asker), user_id).await?;
        let is_removal = matches!(field, DISPLAY_NAME | AVATAR_URL) && value.as_str().is_none_or(str::is_empty);
        if is_removal {
            return self.remove(&mut profile, user_id, field).await;
        }
        if profile.insert(field.to_owned(), value.clone()).as_ref() == Some(value) {
            return Ok(false);
        }
        let size = serde_json::to_string(&profile).map_or(usize::MAX, |json| json.len());
        if size > MAX_PROFILE_BYTES {
            return Err(ProfileError::TooLarge);
        }
        let mut write = Write::new();
        put_profile_field(&mut write, user_id, field, &value.to_string());
        self.store.commit(write).await?;
        Ok(true)
    }

    /// Removes a field of the profile of `user_id`, which must be who asks. Answers whether anything changed.
    pub async fn remove_profile_field(
        &self,
        asker: &UserId,
        user_id: &UserId,
        field: &str,
    ) -> Result<bool, ProfileError> {
        self.check_may_change(asker, user_id, field)?;
        let mut profile = self.profile(Some(asker), user_id).await?;
        self.remove(&mut profile, user_id, field).await
    }

    async fn remove(&self, profile: &mut Profile, user_id: &UserId, field: &str) -> Result<bool, ProfileError> {
        if profile.remove(field).is_none() {
            return Ok(false);
        }
        let mut write = Write::new();
        remove_profile_field(&mut write, user_id, field);
        self.store.commit(write).await?;
        Ok(true)
    }

    fn check_may_change(&self, asker: &UserId, user_id: &UserId, field: &str) -> Result<(), ProfileError> {
        if asker != user_id {
            return Err(ProfileError::NotYours);
        }
        if self.is_suspended(asker) {
            return Err(ProfileError::Suspended);
        }
        let is_fixed = match field {
            DISPLAY_NAME => !self.config.accounts.change_display_name,
            AVATAR_URL => !self.config.accounts.change_avatar,
            _ => false,
        };
        if is_fixed { Err(ProfileError::Fixed) } else { Ok(()) }
    }
}

/// Spec: the two names without a namespace, or one of the common namespaced identifier grammar.
fn check_field_name(field: &str) -> Result<(), ProfileError> {
    if field.len() > MAX_FIELD_BYTES {
        return Err(ProfileError::FieldTooLong);
    }
    let starts_well = field.starts_with(|c: char| c.is_ascii_lowercase());
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let is_named_well = starts_well && field.chars().all(is_allowed);
    let has_namespace = field.contains('.');
    if is_named_well && (has_namespace || matches!(field, DISPLAY_NAME | AVATAR_URL)) {
        Ok(())
    } else {
        Err(ProfileError::Field(field.to_owned()))
    }
}

pub(crate) fn check_display_name(name: &str) -> Result<(), ProfileError> {
    if name.len() > MAX_DISPLAY_NAME_BYTES {
        return Err(ProfileError::Value { field: DISPLAY_NAME, problem: "is longer than 256 bytes" });
    }
    Ok(())
}

fn check_value(field: &str, value: &Value) -> Result<(), ProfileError> {
    let wrong = |field, problem| Err(ProfileError::Value { field, problem });
    match (field, value) {
        (DISPLAY_NAME | AVATAR_URL, Value::Null) => Ok(()),
        (DISPLAY_NAME, Value::String(name)) => check_display_name(name),
        (DISPLAY_NAME, _) => Err(ProfileError::NotText { field: DISPLAY_NAME }),
        (AVATAR_URL, Value::String(url)) if url.len() > MAX_AVATAR_URL_BYTES => {
            wrong(AVATAR_URL, "is longer than 1000 bytes")
        }
        (AVATAR_URL, Value::String(url)) if url.is_empty() || <&MxcUri>::from(url.as_str()).is_valid() => Ok(()),
        (AVATAR_URL, _) => wrong(AVATAR_URL, "is not an mxc:// URI"),
        (TIME_ZONE, Value::String(zone)) if !zone.is_empty() => Ok(()),
        (TIME_ZONE, _) => wrong(TIME_ZONE, "is not the name of a time zone"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;
    use crate::testing::with_users;

    #[tokio::test]
    async fn fields_are_set_changed_and_removed() {
        with_users(async |users, _| {
            let alice = users.register_for_tests("alice").await.user_id;
            assert_eq!(users.profile_field(None, &alice, "displayname").await.expect("new users have a name"), "alice");
            let set = async |field: &str, value: Value| users.set_profile_field(&alice, &alice, field, &value).await;
            assert!(set("displayname", json!("Alice")).await.expect("it is hers"));
            assert!(!set("displayname", json!("Alice")).await.expect("nothing changes"));
            set("avatar_url", json!("mxc://a.test/cat")).await.expect("it is an mxc uri");
            set("m.tz", json!("Europe/Paris")).await.expect("it is a time zone");
            set("com.example.pets", json!(["cat"])).await.expect("any JSON will do");
            set("avatar_url", json!("")).await.expect("nothing is a removal");
            users.remove_profile_field(&alice, &alice, "m.tz").await.expect("it is hers");
            let profile = users.profile(None, &alice).await.expect("she is there");
            assert_eq!(json!(profile), json!({ "displayname": "Alice", "com.example.pets": ["cat"] }));
        })
        .await;
    }

    #[tokio::test]
    async fn what_cannot_be_a_field_is_refused_with_its_reason() {
        with_users(async |users, _| {
            let alice = users.register_for_tests("alice").await.user_id;
            let refused = async |field: &str, value: Value| {
                let refused = users.set_profile_field(&alice, &alice, field, &value).await.expect_err(field);
                (refused.kind(), refused.errcode())
            };
            assert_eq!(refused("displayname", json!(7)).await, (Kind::Invalid, Some("M_BAD_JSON")));
            assert_eq!(refused("displayname", json!("x".repeat(257))).await, (Kind::Invalid, None));
            assert_eq!(refused("avatar_url", json!("https://a.test/cat")).await, (Kind::Invalid, None));
            for field in ["pets", "Com.Example", "com.example.Pets", ".x", "", "com example", "9.pets"] {
                assert_eq!(refused(field, json!(1)).await, (Kind::Invalid, None), "{field}");
            }
            let long = format!("m.{}", "x".repeat(254));
            assert_eq!(refused(&long, json!(1)).await, (Kind::Invalid, Some("M_KEY_TOO_LARGE")));
            let large = json!("x".repeat(MAX_PROFILE_BYTES));
            assert_eq!(refused("m.large", large).await, (Kind::Invalid, Some("M_PROFILE_TOO_LARGE")));
            let mallory = user_id!("@mallory:a.test");
            let refused = users.set_profile_field(mallory, &alice, "displayname", &json!("M")).await;
            assert!(matches!(refused, Err(ProfileError::NotYours)));
            assert!(matches!(users.profile(None, mallory).await, Err(ProfileError::NotFound(_))));
        })
        .await;
    }
}
