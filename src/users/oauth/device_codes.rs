//! The device authorization grant: a client without a browser shows a short code, which somebody types in a browser elsewhere.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc8628>

use std::{net::IpAddr, time::Duration};

use model::Millis;
use rand::RngExt as _;
use ruma::UserId;
use store::{
    Write,
    oauth::touch_client,
    oauth_device_codes::{DeviceCodeRow, claim_device_code, decide, insert_device_code, note_poll},
};

use super::{DEVICE_CODE, Granted, OauthClient, OauthError, Scope, sessions::Opening};
use crate::{
    Users, millis,
    secrets::{hash_of, new_token, random_text},
};

/// How long a device code is good.
pub const DEVICE_CODE_LIFETIME: Duration = Duration::from_mins(15);
/// How often a client may ask what became of it.
const INTERVAL: Millis = 5_000;
/// Networks deliver unevenly.
const LENIENCE: Millis = 500;
/// How long a code is known after it has expired, so that its client is told that.
const REMEMBERED: Millis = 60 * 60_000;
/// RFC 8628, 6.1: no vowels, so no words; none that are taken for another.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const LENGTH: usize = 8;

/// What a client is told that asks for a session without a browser.
pub struct DeviceGrant {
    /// What it shows at the token endpoint.
    pub device_code: String,
    /// What it shows to people.
    pub user_code: String,
    /// How long both are good.
    pub expires_in: Duration,
    /// How often it may ask.
    pub interval: Duration,
}

/// A client that waits for somebody to decide.
pub struct PendingDevice {
    /// Who asks.
    pub client: OauthClient,
    /// The device that the session will have.
    pub device_id: ruma::OwnedDeviceId,
}

impl Users {
    /// Gives a client codes for a session that somebody has yet to allow.
    pub async fn begin_device_grant(
        &self,
        client_id: &str,
        scope: &Scope,
        address: IpAddr,
    ) -> Result<DeviceGrant, OauthError> {
        self.limits.check_lookup_from(address).await?;
        let client = self.oauth_client(client_id).await?;
        if !client.has_grant(DEVICE_CODE) {
            return Err(OauthError::UnauthorizedClient);
        }
        let (device_code, user_code) = (new_token("cod"), new_user_code());
        let now = self.now();
        let row = DeviceCodeRow {
            hash: hash_of(&device_code),
            client_id: client.client_id.clone(),
            device_id: scope.device_id.clone(),
            scope: scope.text.clone(),
            expires_at: now + millis(DEVICE_CODE_LIFETIME),
            polled_at: 0,
            user_id: None,
            allowed: None,
            claim: None,
        };
        let mut write = Write::new();
        insert_device_code(&mut write, &row, &user_code_hash(&user_code), now - REMEMBERED);
        touch_client(&mut write, &client.client_id, now);
        self.store.commit(write).await?;
        let (expires_in, interval) = (DEVICE_CODE_LIFETIME, Duration::from_millis(INTERVAL.unsigned_abs()));
        Ok(DeviceGrant { device_code, user_code, expires_in, interval })
    }

    /// Who waits behind a code that `user_id` has typed, slowly for those who guess. Nobody, if there is no such code, or it was decided.
    pub async fn pending_device(
        &self,
        user_code: &str,
        user_id: &UserId,
        address: IpAddr,
    ) -> Result<Option<PendingDevice>, OauthError> {
        self.limits.check_login_from(address).await?;
        let guesses = format!("device code of {user_id}");
        self.failures.check(&guesses, self.now()).await?;
        let row = self.store.oauth_device_codes().by_user_code(&user_code_hash(user_code)).await?;
        let Some(row) = row.filter(|row| row.allowed.is_none() && row.expires_at > self.now()) else {
            self.failures.note(&guesses, self.now()).await;
            return Ok(None);
        };
        self.failures.forget(&guesses).await;
        let client = self.oauth_client(&row.client_id).await?;
        Ok(Some(PendingDevice { client, device_id: row.device_id }))
    }

    /// Decides about the client that waits behind a code. Answers whether it was this that has decided.
    pub async fn decide_device_grant(
        &self,
        user_code: &str,
        user_id: &UserId,
        allowed: bool,
        address: IpAddr,
    ) -> Result<bool, OauthError> {
        if self.pending_device(user_code, user_id, address).await?.is_none() {
            return Ok(false);
        }
        let hash = user_code_hash(user_code);
        let mut write = Write::new();
        decide(&mut write, &hash, user_id, allowed, self.now());
        self.store.commit(write).await?;
        let row = self.store.oauth_device_codes().by_user_code(&hash).await?;
        Ok(row.is_some_and(|row| row.user_id.as_deref() == Some(user_id) && row.allowed == Some(allowed)))
    }

    /// Opens the session that a device code stands for, once somebody has allowed it.
    pub async fn redeem_device_code(&self, device_code: &str, client_id: &str) -> Result<Granted, OauthError> {
        const UNKNOWN: OauthError = OauthError::Grant("the device code is not known, or was used");
        let client = self.oauth_client(client_id).await?;
        let hash = hash_of(device_code);
        let row = self.store.oauth_device_codes().find(&hash).await?.ok_or(UNKNOWN)?;
        if row.client_id != client.client_id || row.claim.is_some() {
            return Err(UNKNOWN);
        }
        let now = self.now();
        if row.expires_at <= now {
            return Err(OauthError::Expired);
        }
        match row.allowed {
            Some(true) => {}
            Some(false) => return Err(OauthError::Denied),
            None => {
                let mut write = Write::new();
                note_poll(&mut write, &hash, now);
                self.store.commit(write).await?;
                let is_early = now - row.polled_at < INTERVAL - LENIENCE;
                return Err(if is_early { OauthError::SlowDown } else { OauthError::Pending });
            }
        }
        let claim = random_text();
        let mut write = Write::new();
        claim_device_code(&mut write, &hash, &claim);
        self.store.commit(write).await?;
        let row = self.store.oauth_device_codes().find(&hash).await?.ok_or(UNKNOWN)?;
        let (Some(user_id), true) = (&row.user_id, row.claim.as_deref() == Some(&claim)) else { return Err(UNKNOWN) };
        let opening = Opening { client: &client, user_id, device_id: &row.device_id, scope: &row.scope };
        self.open_oauth_session(opening).await
    }
}

/// `BCDF-GHJK`.
fn new_user_code() -> String {
    let mut dice = rand::rng();
    let mut code: String = (0..LENGTH).map(|_| char::from(LETTERS[dice.random_range(0..LETTERS.len())])).collect();
    code.insert(LENGTH / 2, '-');
    code
}

/// However people write it.
fn user_code_hash(code: &str) -> String {
    let letters: String = code.chars().filter(char::is_ascii_alphanumeric).take(2 * LENGTH).collect();
    hash_of(&format!("user code {}", letters.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{
        oauth::ClientMetadata,
        testing::{HOME, with_users},
    };

    #[tokio::test]
    async fn a_device_code_is_asked_about_seldom_and_expires() {
        with_users(async |users, clock| {
            users.register_for_tests("alice").await;
            let alice = user_id!("@alice:a.test");
            let said = serde_json::json!({ "client_uri": "https://c.test/", "grant_types": [DEVICE_CODE] });
            let said: ClientMetadata = serde_json::from_value(said).expect("it has the shape");
            let client = users.register_oauth_client(said, HOME).await.expect("it needs no address");
            let scope = Scope::parse("urn:matrix:client:api:* urn:matrix:client:device:TV12345678").expect("it is one");
            let begin = async || users.begin_device_grant(&client.client_id, &scope, HOME).await.expect("it may");
            let poll =
                async |grant: &DeviceGrant| users.redeem_device_code(&grant.device_code, &client.client_id).await;

            let grant = begin().await;
            assert!(matches!(poll(&grant).await, Err(OauthError::Pending)));
            clock.advance(1_000);
            assert!(matches!(poll(&grant).await, Err(OauthError::SlowDown)));
            clock.advance(INTERVAL);
            assert!(matches!(poll(&grant).await, Err(OauthError::Pending)));
            clock.advance(millis(DEVICE_CODE_LIFETIME));
            assert!(matches!(poll(&grant).await, Err(OauthError::Expired)));
            assert!(!users.decide_device_grant(&grant.user_code, alice, true, HOME).await.expect("it is looked up"));

            let grant = begin().await;
            let pending = users.pending_device(&grant.user_code, alice, HOME).await.expect("it is looked up");
            assert_eq!(pending.expect("it waits").device_id.as_str(), "TV12345678");
            assert!(users.decide_device_grant(&grant.user_code, alice, true, HOME).await.expect("it is decided"));
            assert!(!users.decide_device_grant(&grant.user_code, alice, false, HOME).await.expect("it was decided"));
            let granted = poll(&grant).await.expect("it was allowed");
            assert_eq!(granted.session.user_id, alice);
            assert!(matches!(poll(&grant).await, Err(OauthError::Grant(_))));
        })
        .await;
    }

    #[test]
    fn a_user_code_may_be_written_as_one_likes() {
        let code = new_user_code();
        assert_eq!((code.len(), code.as_bytes()[4]), (9, b'-'));
        let hash = user_code_hash(&code);
        for same in [code.to_lowercase(), code.replace('-', ""), format!(" {} ", code.replace('-', " "))] {
            assert_eq!(user_code_hash(&same), hash, "{same}");
        }
        assert_ne!(user_code_hash(&code[1..]), hash);
    }
}
