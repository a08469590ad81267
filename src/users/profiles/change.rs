//! Several fields of a profile at once.

use std::collections::BTreeMap;

use ruma::UserId;
use serde_json::Value;
use store::{
    Write,
    profiles::{put_profile_field, remove_profile_field},
};

use super::{AVATAR_URL, DISPLAY_NAME, MAX_PROFILE_BYTES, ProfileError, check_field_name, check_value};
use crate::Users;

impl Users {
    /// Changes fields of the profile of a user of this server: all of them, or none. A field whose value is null is removed, and so
    /// is an empty name or avatar. Whoever calls sees to it that the user's rooms hear of a new name or avatar.
    ///
    /// Answers which changed.
    pub async fn change_profile(
        &self,
        user_id: &UserId,
        changes: &BTreeMap<String, Value>,
    ) -> Result<Vec<String>, ProfileError> {
        let mut profile = self.profile(Some(user_id), user_id).await?;
        let (mut write, mut changed) = (Write::new(), Vec::new());
        for (field, value) in changes {
            self.check_may_change(user_id, user_id, field)?;
            check_field_name(field)?;
            let is_cleared = matches!(field.as_str(), DISPLAY_NAME | AVATAR_URL) && value == "";
            if value.is_null() || is_cleared {
                if profile.remove(field).is_some() {
                    remove_profile_field(&mut write, user_id, field);
                    changed.push(field.clone());
                }
                continue;
            }
            check_value(field, value)?;
            if profile.insert(field.clone(), value.clone()).as_ref() != Some(value) {
                put_profile_field(&mut write, user_id, field, &value.to_string());
                changed.push(field.clone());
            }
        }
        let size = serde_json::to_string(&profile).map_or(usize::MAX, |json| json.len());
        if size > MAX_PROFILE_BYTES {
            return Err(ProfileError::TooLarge);
        }
        if !changed.is_empty() {
            self.store.commit(write).await?;
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::with_users;

    #[tokio::test]
    async fn all_fields_are_changed_or_none() {
        with_users(async |users, _| {
            let alice = users.register_for_tests("alice").await.user_id;
            let change = async |changes: Value| {
                let changes = serde_json::from_value(changes).expect("an object");
                users.change_profile(&alice, &changes).await
            };
            let good = json!({ "displayname": "Alice", "com.example.pets": ["cat"], "m.tz": "Europe/Paris" });
            let changed = change(good.clone()).await.expect("it is hers");
            assert_eq!(changed, ["com.example.pets", "displayname", "m.tz"]);
            assert!(change(good.clone()).await.expect("nothing changes").is_empty());
            let bad = json!({ "displayname": "Mallory", "com.example.pets": null, "m.tz": 7 });
            assert!(matches!(change(bad).await, Err(ProfileError::Value { field: "m.tz", .. })));
            assert_eq!(json!(users.profile(None, &alice).await.expect("she is there")), good);
            let gone =
                change(json!({ "m.tz": null, "displayname": "", "avatar_url": null })).await.expect("it is hers");
            assert_eq!(gone, ["displayname", "m.tz"]);
        })
        .await;
    }
}
