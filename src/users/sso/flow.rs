//! A sign-in at a provider: the browser goes there with a state, and comes back with a code.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::Millis;
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use store::{
    Write,
    sso::{SsoLoginRow, claim_login, insert_login},
};
use tracing::{info, warn};
use url::Url;

use super::{
    SsoError, SsoProvider,
    id_token::{Expected, TokenFault, verify},
    provider::{Provider, failed},
};
use crate::{
    LoginError, Users,
    secrets::{hash_of, random_text},
};

/// How long somebody may take at the provider.
const LIFETIME: Millis = 15 * 60_000;
const SEALED_FOR: &str = "sso verifier";

/// What a sign-in is for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Goal {
    /// A client wants a login token.
    LoginToken {
        /// Where it wants the browser to bring it.
        redirect_url: String,
    },
    /// Somebody wants to see a page of this server.
    Page {
        /// Which: a path with its query.
        then: String,
    },
}

/// Somebody has signed in at a provider.
#[derive(Clone, Debug)]
pub struct SsoFinished {
    /// Whose account it is.
    pub user_id: OwnedUserId,
    /// What it was for.
    pub goal: Goal,
}

impl Users {
    /// The providers that people may sign in by.
    pub fn sso_providers(&self) -> &[SsoProvider] {
        &self.config.sso.providers
    }

    /// Where the provider sends browsers back to.
    fn sso_redirect_uri(&self) -> Result<String, SsoError> {
        let base = self.config.public_baseurl.as_deref().ok_or(SsoError::NoAddress)?;
        Ok(format!("{base}/oauth2/sso/callback"))
    }

    /// Begins a sign-in for the browser that shows `secret`. Answers where at the provider it is to go.
    pub async fn begin_sso(&self, provider: &str, goal: &Goal, secret: &str) -> Result<String, SsoError> {
        let provider = self.sso.get(provider)?;
        let redirect_uri = self.sso_redirect_uri()?;
        let known = self.known_of(provider).await?;
        let (state, nonce, verifier) = (random_text(), random_text(), random_text());
        let state_hash = hash_of(&state);
        let now = self.now();
        let row = SsoLoginRow {
            provider: provider.config.id.clone(),
            nonce: nonce.clone(),
            verifier: self.vault.seal(&state_hash, SEALED_FOR, &verifier).map_err(LoginError::from)?,
            browser_hash: hash_of(secret),
            goal: serde_json::to_string(goal).expect("texts can be written as JSON"),
            expires_at: now + LIFETIME,
        };
        let mut write = Write::new();
        insert_login(&mut write, &state_hash, &row, now);
        self.store.commit(write).await?;

        let mut url = Url::parse(&known.document.authorization_endpoint)
            .map_err(|_| failed("its discovery document names no address to sign in at"))?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &provider.config.client_id)
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("scope", &scopes_of(&provider.config))
            .append_pair("state", &state)
            .append_pair("nonce", &nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// A browser has come back from a provider.
    ///
    /// `answer`: the code, or why there is none. `secret`: what the browser shows.
    pub async fn finish_sso(
        &self,
        state: &str,
        answer: Result<&str, &str>,
        secret: &str,
    ) -> Result<SsoFinished, SsoError> {
        let (hash, claim) = (hash_of(state), random_text());
        let mut write = Write::new();
        claim_login(&mut write, &hash, &hash_of(secret), &claim, self.now());
        self.store.commit(write).await?;
        let row = self.store.sso().login_of(&hash, &claim).await?.ok_or(SsoError::UnknownState)?;
        let code = answer.map_err(|error| SsoError::RefusedThere(error.chars().take(200).collect()))?;
        let goal = serde_json::from_str(&row.goal).map_err(|_| SsoError::UnknownState)?;
        let provider = self.sso.get(&row.provider)?;
        let verifier = self.vault.unseal(&hash, SEALED_FOR, &row.verifier).map_err(LoginError::from)?;
        let claims = match self.claims_for(provider, code, &verifier, &row.nonce).await {
            Ok(claims) => claims,
            Err(error) => {
                warn!(
                    provider = provider.config.id,
                    error = &error as &dyn std::error::Error,
                    "a sign-in by a provider failed"
                );
                return Err(error);
            }
        };
        let user_id = self.account_for(&provider.config, &claims).await?;
        self.check_may_enter(&user_id).await?;
        info!(user.id = %user_id, provider = provider.config.id, "{user_id} has signed in by {}", provider.config.id);
        Ok(SsoFinished { user_id, goal })
    }

    /// What the provider says of who has signed in, verified.
    async fn claims_for(
        &self,
        provider: &Provider,
        code: &str,
        verifier: &str,
        nonce: &str,
    ) -> Result<Map<String, Value>, SsoError> {
        let known = self.known_of(provider).await?;
        let redirect_uri = self.sso_redirect_uri()?;
        let tokens = self.exchange(&provider.config, &known.document, code, verifier, &redirect_uri).await?;
        let expected = Expected {
            issuer: &known.document.issuer,
            client_id: &provider.config.client_id,
            nonce,
            now: self.now() / 1_000,
        };
        let verified = match verify(&tokens.id_token, &known.keys, &expected) {
            Err(TokenFault::UnknownKey) => {
                let known = self.known_anew(provider).await?;
                verify(&tokens.id_token, &known.keys, &expected)
            }
            verified => verified,
        };
        let mut claims = verified.map_err(|fault| failed(&fault.to_string()))?;
        if claims.contains_key(&provider.config.localpart_claim) {
            return Ok(claims);
        }
        let Some(access_token) = &tokens.access_token else { return Ok(claims) };
        let Some(more) = self.userinfo(&known.document, access_token).await? else { return Ok(claims) };
        // 5.3.2: "if they do not match, the UserInfo Response values MUST NOT be used".
        if more.get("sub") != claims.get("sub") {
            return Err(failed("it tells of somebody else than its ID token"));
        }
        for (name, value) in more {
            claims.entry(name).or_insert(value);
        }
        Ok(claims)
    }

    /// A login token for somebody who has signed in at a provider.
    pub async fn login_token_for(&self, user_id: &UserId) -> Result<String, SsoError> {
        Ok(self.give_login_token(user_id).await?.0)
    }

    /// Whether a login token is handed to `url` without asking.
    pub fn is_trusted_redirect(&self, url: &str) -> bool {
        let trusted = &self.config.sso.trusted_redirects;
        trusted.iter().any(|prefix| is_under(url, prefix))
    }
}

/// Whether an address lies under another: the same site, and a path that begins with all of its parts.
fn is_under(url: &str, prefix: &str) -> bool {
    let (Ok(url), Ok(prefix)) = (Url::parse(url), Url::parse(prefix)) else { return false };
    let site = |url: &Url| {
        let port = url.port_or_known_default();
        (url.scheme().to_owned(), url.host_str().map(ToOwned::to_owned), port, url.username().to_owned())
    };
    let base = prefix.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(base);
    site(&url) == site(&prefix) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `openid` and what is configured.
fn scopes_of(provider: &SsoProvider) -> String {
    let mut scopes = vec!["openid"];
    scopes.extend(provider.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid"));
    scopes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_address_covers_what_lies_under_it_and_nothing_that_looks_like_it() {
        for url in ["https://app.test", "https://app.test/", "https://app.test/a?b#c", "https://app.test:443/x"] {
            assert!(is_under(url, "https://app.test/"), "{url}");
        }
        assert!(
            is_under("https://app.test/in/x", "https://app.test/in")
                && is_under("https://app.test/in", "https://app.test/in/")
        );
        for (url, prefix) in [
            ("https://app.test.evil.test/", "https://app.test"),
            ("https://app.test@evil.test/", "https://app.test"),
            ("http://app.test/", "https://app.test"),
            ("https://app.test:8443/", "https://app.test"),
            ("https://app.test/inside", "https://app.test/in"),
            ("https://app.test/in/../out", "https://app.test/in"),
            ("not an address", "https://app.test"),
        ] {
            assert!(!is_under(url, prefix), "{url}");
        }
    }
}
