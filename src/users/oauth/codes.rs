//! Authorization codes: what a browser brings to a client, which gets tokens for it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#authorisation-code-flow>, <https://www.rfc-editor.org/rfc/rfc7636>

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::Millis;
use ruma::UserId;
use sha2::{Digest as _, Sha256};
use store::{
    Write,
    oauth::{CodeRow, claim_code, insert_code, touch_client},
};
use subtle::ConstantTimeEq as _;
use tracing::warn;

use super::{Granted, OauthClient, OauthError, Scope, sessions::Opening};
use crate::{
    Users,
    secrets::{hash_of, new_token, random_text},
};

/// How long a code is good.
const LIFETIME: Millis = 60_000;
/// How long one is known after that, so that who brings it again ends what came of it.
const REMEMBERED: Millis = 24 * 60 * 60_000;

/// What somebody has allowed.
#[derive(Clone, Copy, Debug)]
pub struct CodeWish<'a> {
    /// Whom.
    pub client: &'a OauthClient,
    /// Where the browser will be sent.
    pub redirect_uri: &'a str,
    /// What.
    pub scope: &'a Scope,
    /// Of PKCE, S256.
    pub challenge: &'a str,
}

/// What a client shows for tokens.
#[derive(Clone, Copy, Debug)]
pub struct Redemption<'a> {
    /// The code.
    pub code: &'a str,
    /// Who it is.
    pub client_id: &'a str,
    /// Where the browser was sent.
    pub redirect_uri: &'a str,
    /// What the challenge was made of.
    pub verifier: &'a str,
}

impl Users {
    /// A code by which a client gets a session of `user_id`, who has allowed that.
    pub async fn issue_code(&self, user_id: &UserId, wish: CodeWish<'_>) -> Result<String, OauthError> {
        let code = new_token("coa");
        let now = self.now();
        let row = CodeRow {
            client_id: wish.client.client_id.clone(),
            user_id: user_id.to_owned(),
            device_id: wish.scope.device_id.clone(),
            redirect_uri: wish.redirect_uri.to_owned(),
            scope: wish.scope.text.clone(),
            challenge: wish.challenge.to_owned(),
            expires_at: now + LIFETIME,
            claim: None,
            replayed_at: None,
        };
        let mut write = Write::new();
        insert_code(&mut write, &hash_of(&code), &row, now - REMEMBERED);
        touch_client(&mut write, &wish.client.client_id, now);
        self.store.commit(write).await?;
        Ok(code)
    }

    /// Opens the session that a code stands for. However it ends, the code is used up. One that comes again is in two hands: what came of
    /// it ends.
    pub async fn redeem_code(&self, shown: Redemption<'_>) -> Result<Granted, OauthError> {
        const UNKNOWN: OauthError = OauthError::Grant("the code is not known, has expired, or was used");
        let client = self.oauth_client(shown.client_id).await?;
        let (hash, claim) = (hash_of(shown.code), random_text());
        let mut write = Write::new();
        claim_code(&mut write, &hash, &claim, self.now());
        self.store.commit(write).await?;
        let row = self.store.oauth().code(&hash).await?.ok_or(UNKNOWN)?;
        if row.claim.as_deref() != Some(&claim) {
            self.end_what_came_of(&row).await?;
            return Err(UNKNOWN);
        }
        if row.expires_at <= self.now() || row.client_id != client.client_id {
            return Err(UNKNOWN);
        }
        if row.redirect_uri != shown.redirect_uri {
            return Err(OauthError::Grant("`redirect_uri` is not the one of the authorization request"));
        }
        if !is_made_of(&row.challenge, shown.verifier) {
            return Err(OauthError::Grant("`code_verifier` is not what `code_challenge` was made of"));
        }
        let opening = Opening { client: &client, user_id: &row.user_id, device_id: &row.device_id, scope: &row.scope };
        let granted = self.open_oauth_session(opening).await?;
        // Who brought it again while the session was being opened has found nothing to end.
        if self.store.oauth().code(&hash).await?.is_none_or(|row| row.replayed_at.is_some()) {
            self.end_what_came_of(&row).await?;
            return Err(UNKNOWN);
        }
        Ok(granted)
    }

    async fn end_what_came_of(&self, code: &CodeRow) -> Result<(), store::Error> {
        let session = self.store.oauth().session(&code.user_id, &code.device_id).await?;
        if session.is_some_and(|session| session.client_id == code.client_id) {
            warn!(user.id = %code.user_id, device.id = %code.device_id, "an authorization code came twice: its session is ended");
            self.remove_devices(&code.user_id, &[&code.device_id]).await?;
        }
        Ok(())
    }
}

/// RFC 7636, 4.6: BASE64URL-ENCODE(SHA256(ASCII(code_verifier))) == code_challenge.
fn is_made_of(challenge: &str, verifier: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_one = (43..=128).contains(&verifier.len()) && verifier.bytes().all(is_allowed);
    let made = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    is_one && bool::from(made.as_bytes().ct_eq(challenge.as_bytes()))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{
        oauth::ClientMetadata,
        testing::{HOME, with_users},
    };

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    const CALLBACK: &str = "https://c.test/cb";

    async fn client(users: &Users) -> OauthClient {
        let said = serde_json::json!({ "client_uri": "https://c.test/", "redirect_uris": [CALLBACK] });
        let said: ClientMetadata = serde_json::from_value(said).expect("it has the shape");
        users.register_oauth_client(said, HOME).await.expect("it is in order")
    }

    async fn code(users: &Users, client: &OauthClient) -> String {
        let scope = Scope::parse("urn:matrix:client:api:* urn:matrix:client:device:PHONE12345").expect("it is one");
        let wish = CodeWish { client, redirect_uri: CALLBACK, scope: &scope, challenge: CHALLENGE };
        users.issue_code(user_id!("@alice:a.test"), wish).await.expect("it is stored")
    }

    #[tokio::test]
    async fn a_code_is_good_for_a_minute_and_known_for_a_day() {
        with_users(async |users, clock| {
            users.register_for_tests("alice").await;
            let client = client(&users).await;
            let redeem = async |code: &str| {
                let shown =
                    Redemption { code, client_id: &client.client_id, redirect_uri: CALLBACK, verifier: VERIFIER };
                users.redeem_code(shown).await
            };
            let late = code(&users, &client).await;
            clock.advance(LIFETIME);
            assert!(matches!(redeem(&late).await, Err(OauthError::Grant(_))));

            let good = code(&users, &client).await;
            clock.advance(LIFETIME - 1);
            let granted = redeem(&good).await.expect("it is in time");
            assert_eq!(granted.session.device_id.as_str(), "PHONE12345");
            users.authenticate(&granted.session.access_token).await.expect("it is a session");
            // Hours later it comes again, and ends what came of it.
            clock.advance(REMEMBERED / 2);
            assert!(matches!(redeem(&good).await, Err(OauthError::Grant(_))));
            assert!(users.authenticate(&granted.session.access_token).await.is_err());
            assert!(users.oauth_sessions(user_id!("@alice:a.test")).await.expect("they are read").is_empty());
        })
        .await;
    }

    #[test]
    fn a_challenge_is_made_as_in_rfc_7636() {
        let (challenge, verifier) =
            ("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert!(is_made_of(challenge, verifier));
        assert!(!is_made_of(challenge, challenge));
        assert!(!is_made_of(verifier, verifier), "that would be `plain`");
        assert!(!is_made_of(&URL_SAFE_NO_PAD.encode(Sha256::digest(b"short")), "short"));
    }
}
