//! What clients need to call each other: a relay for those who can't reach each other, and where calls of many meet.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ruma::UserId;
use sha1::Sha1;

use crate::Users;

/// `[calls]`.
#[derive(Clone, Default)]
pub struct CallsConfig {
    /// Where the relay is: `turn:…`, `turns:…`, `stun:…`.
    pub turn_uris: Vec<String>,
    /// What the relay and this server know; `None`: clients are told of no relay.
    pub turn_secret: Option<String>,
    /// How long it may be used that a client is told.
    pub turn_lifetime: Duration,
    /// Where clients are let into calls of many, by a service beside a LiveKit server.
    pub livekit_url: Option<String>,
}

impl fmt::Debug for CallsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallsConfig").field("turn_uris", &self.turn_uris).finish_non_exhaustive()
    }
}

/// By what somebody may use the relay.
#[derive(Clone)]
pub struct TurnCredentials {
    /// Until when, in seconds since 1970, and who.
    pub username: String,
    /// What only who knows the secret can make of that.
    pub password: String,
    /// Where it is.
    pub uris: Vec<String>,
    /// For how long.
    pub lifetime: Duration,
}

impl Users {
    /// By what `user_id` may use the relay; `None`: there is none.
    ///
    /// Spec: <https://datatracker.ietf.org/doc/html/draft-uberti-behave-turn-rest-00>, as coturn's `use-auth-secret`
    pub fn turn_credentials(&self, user_id: &UserId) -> Option<TurnCredentials> {
        let config = &self.config.calls;
        let secret = config.turn_secret.as_ref().filter(|_| !config.turn_uris.is_empty())?;
        let lifetime = i64::try_from(config.turn_lifetime.as_secs()).unwrap_or(i64::MAX);
        let username = format!("{}:{user_id}", (self.now() / 1000).saturating_add(lifetime));
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(username.as_bytes());
        Some(TurnCredentials {
            password: STANDARD.encode(mac.finalize().into_bytes()),
            username,
            uris: config.turn_uris.clone(),
            lifetime: config.turn_lifetime,
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::{config, with_users, with_users_of};

    #[tokio::test]
    async fn a_relay_can_check_by_the_secret_who_may_use_it_and_until_when() {
        let mut config = config();
        config.calls = CallsConfig {
            turn_uris: vec!["turn:turn.a.test".into()],
            turn_secret: Some("a secret".into()),
            turn_lifetime: Duration::from_hours(1),
            livekit_url: None,
        };
        with_users_of(config, async |users, _| {
            let told = users.turn_credentials(user_id!("@alice:a.test")).expect("there is a relay");
            let (until, who) = told.username.split_once(':').expect("a moment, and who");
            assert_eq!(who, "@alice:a.test");
            assert_eq!(until.parse(), Ok(users.now() / 1000 + 3600));
            let mut mac = Hmac::<Sha1>::new_from_slice(b"a secret").expect("a key");
            mac.update(told.username.as_bytes());
            mac.verify_slice(&STANDARD.decode(told.password).expect("base64")).expect("it was made by the secret");
        })
        .await;
        with_users(async |users, _| {
            assert!(users.turn_credentials(user_id!("@alice:a.test")).is_none(), "there is none");
        })
        .await;
    }
}
