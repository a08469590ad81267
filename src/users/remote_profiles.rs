//! What users of other servers say of themselves: asked once, remembered for a while.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile>

use std::{convert::Infallible, sync::Arc, time::Duration};

use model::{Kind, Millis, Refusal as _};
use peers::PeerError;
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId, api::federation::query::get_profile_information::v1 as query};
use serde_json::Value;

use crate::{
    Profile, ProfileError, Users, millis,
    profiles::{AVATAR_URL, DISPLAY_NAME, MAX_PROFILE_BYTES},
};

/// How long another server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long its answer is good for.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// How long it counts that there was none.
const MISSING: Duration = Duration::from_secs(30);
/// How much memory they may take, in bytes.
const CACHED_BYTES: u64 = 16 << 20;
/// About how many that is.
const CACHED_PROFILES: usize = 20_000;

/// The profiles that were asked for.
pub(crate) struct RemoteProfiles(Cache<OwnedUserId, Looked, Size>);

/// What came of asking.
#[derive(Clone)]
struct Looked {
    until: Millis,
    found: Result<Arc<Profile>, Missing>,
    bytes: u64,
}

/// Why there is no profile.
#[derive(Clone)]
struct Missing {
    kind: Kind,
    reason: Arc<str>,
}

#[derive(Clone)]
struct Size;

impl Weighter<OwnedUserId, Looked> for Size {
    fn weight(&self, user_id: &OwnedUserId, looked: &Looked) -> u64 {
        user_id.as_str().len() as u64 + looked.bytes + 200
    }
}

impl Default for RemoteProfiles {
    fn default() -> Self {
        Self(Cache::with_weighter(CACHED_PROFILES, CACHED_BYTES, Size))
    }
}

impl Users {
    /// The profile of a user of another server, which may be some minutes old. Of several who ask at once, one does.
    pub(crate) async fn remote_profile(&self, user_id: &UserId) -> Result<Profile, ProfileError> {
        let now = self.now();
        let cache = &self.remote_profiles.0;
        cache.remove_if(user_id, |looked| looked.until <= now);
        let looked = cache.get_or_insert_async(user_id, async { Ok::<_, Infallible>(self.look_at(user_id).await) });
        let Ok(looked) = looked.await;
        match looked.found {
            Ok(profile) => Ok((*profile).clone()),
            Err(Missing { kind: Kind::NotFound, .. }) => Err(ProfileError::NotFound("there is no such user")),
            Err(Missing { kind, reason }) => Err(ProfileError::Remote { kind, reason: reason.to_string() }),
        }
    }

    async fn look_at(&self, user_id: &UserId) -> Looked {
        let request = query::Request::new(user_id.to_owned());
        let answer = self.peers.ask_within(PATIENCE, user_id.server_name(), request).await;
        let found = answer.map_err(|error| missing(&error)).and_then(|answer| read(answer.into_iter().collect()));
        let now = self.now();
        match found {
            Ok((profile, bytes)) => Looked { until: now + millis(FRESH), found: Ok(Arc::new(profile)), bytes },
            Err(missing) => Looked { until: now + millis(MISSING), found: Err(missing), bytes: 0 },
        }
    }
}

fn missing(error: &PeerError) -> Missing {
    Missing { kind: error.kind(), reason: error.to_string().into() }
}

/// Keeps what may be shown, and says how large it is.
fn read(mut profile: Profile) -> Result<(Profile, u64), Missing> {
    for field in [DISPLAY_NAME, AVATAR_URL] {
        if profile.get(field).is_some_and(|value| !value.is_string()) {
            profile.remove(field);
        }
    }
    // Some servers write null for what isn't there.
    profile.retain(|_, value| *value != Value::Null);
    let bytes = serde_json::to_string(&profile).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_PROFILE_BYTES {
        return Err(Missing { kind: Kind::Unreachable, reason: "the profile is larger than 64 KiB".into() });
    }
    Ok((profile, bytes as u64))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;
    use crate::testing::with_users;

    #[test]
    fn of_another_servers_answer_is_kept_what_can_be_shown() {
        let answer = json!({ "displayname": 7, "avatar_url": null, "m.tz": "Europe/Paris", "org.example.x": [1] });
        let answer: Profile = serde_json::from_value(answer).expect("it is an object");
        let (profile, bytes) = read(answer).ok().expect("it is small");
        assert_eq!(json!(profile), json!({ "m.tz": "Europe/Paris", "org.example.x": [1] }));
        assert!(bytes > 0);
        let large = Profile::from([("x.y".to_owned(), json!("x".repeat(MAX_PROFILE_BYTES)))]);
        assert!(read(large).is_err());
    }

    #[tokio::test]
    async fn a_server_that_federates_with_nobody_knows_nobody_elsewhere() {
        with_users(async |users, _| {
            let refused = users.profile(user_id!("@bob:b.test")).await.expect_err("nobody is asked");
            assert_eq!(refused.kind(), Kind::Forbidden);
        })
        .await;
    }
}
