//! Asking a provider: its discovery document, its keys, and tokens for a code.
//!
//! Spec: <https://openid.net/specs/openid-connect-discovery-1_0.html>

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use model::Millis;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use url::form_urlencoded::{Serializer, byte_serialize};

use super::{SsoConfig, SsoError, SsoProvider, id_token::Keys};
use crate::Users;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of one is read.
const LARGEST: usize = 1 << 20;
/// How long a discovery document and keys are taken to be so.
const FRESH_FOR: Millis = 60 * 60_000;
/// How often keys are asked for anew because a token names one that isn't known.
const ASK_AGAIN_AFTER: Millis = 60_000;

/// The providers, and what is known of them.
pub(crate) struct Providers {
    all: Vec<Provider>,
    http: OnceLock<reqwest::Client>,
}

/// A provider, and what is known of it.
pub(crate) struct Provider {
    pub(crate) config: SsoProvider,
    known: RwLock<Option<Arc<Known>>>,
}

/// What a provider says of itself.
pub(crate) struct Known {
    pub(crate) document: Document,
    pub(crate) keys: Keys,
    asked_at: Millis,
}

/// The part of a discovery document that is needed.
#[derive(Deserialize)]
pub(crate) struct Document {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default = "default_auth_methods")]
    token_endpoint_auth_methods_supported: Vec<String>,
}

fn default_auth_methods() -> Vec<String> {
    vec!["client_secret_basic".to_owned()]
}

/// What a provider gives for a code.
#[derive(Deserialize)]
pub(crate) struct Tokens {
    pub(crate) id_token: String,
    pub(crate) access_token: Option<String>,
}

impl Providers {
    pub(crate) fn of(config: &SsoConfig) -> Self {
        let provider = |config: &SsoProvider| Provider { config: config.clone(), known: RwLock::default() };
        Self { all: config.providers.iter().map(provider).collect(), http: OnceLock::new() }
    }

    pub(crate) fn get(&self, id: &str) -> Result<&Provider, SsoError> {
        self.all.iter().find(|provider| provider.config.id == id).ok_or(SsoError::UnknownProvider)
    }
}

impl Provider {
    fn known(&self) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Users {
    /// What a provider says of itself, asked at most once an hour.
    pub(crate) async fn known_of(&self, provider: &Provider) -> Result<Arc<Known>, SsoError> {
        match provider.known() {
            Some(known) if self.now() - known.asked_at < FRESH_FOR => Ok(known),
            _ => self.ask_of(provider).await,
        }
    }

    /// The same, asked anew if that wasn't a moment ago: keys change.
    pub(crate) async fn known_anew(&self, provider: &Provider) -> Result<Arc<Known>, SsoError> {
        match provider.known() {
            Some(known) if self.now() - known.asked_at < ASK_AGAIN_AFTER => Ok(known),
            _ => self.ask_of(provider).await,
        }
    }

    async fn ask_of(&self, provider: &Provider) -> Result<Arc<Known>, SsoError> {
        let issuer = &provider.config.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document: Document = self.fetch_json(self.sso_http()?.get(url)).await?;
        // Discovery, 4.3: "The issuer value returned MUST be identical to the Issuer URL".
        if document.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err(failed("its discovery document names another issuer"));
        }
        let keys = self.fetch_json(self.sso_http()?.get(&document.jwks_uri)).await?;
        let known = Arc::new(Known { document, keys, asked_at: self.now() });
        *provider.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        Ok(known)
    }

    /// Tokens for a code that a browser has brought.
    pub(crate) async fn exchange(
        &self,
        provider: &SsoProvider,
        document: &Document,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
    ) -> Result<Tokens, SsoError> {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let mut request = self.sso_http()?.post(&document.token_endpoint);
        let takes_basic = document.token_endpoint_auth_methods_supported.iter().any(|it| it == "client_secret_basic");
        match &provider.client_secret {
            Some(secret) if takes_basic => {
                // RFC 6749, 2.3.1: both are form-encoded first.
                let part = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let basic = STANDARD.encode(format!("{}:{}", part(&provider.client_id), part(secret)));
                request = request.header("authorization", format!("Basic {basic}"));
            }
            Some(secret) => fields.extend([("client_id", provider.client_id.as_str()), ("client_secret", secret)]),
            None => fields.push(("client_id", &provider.client_id)),
        }
        let body = Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        self.fetch_json(request).await
    }

    /// What the provider says of the user beyond the ID token; nothing, where it has no such endpoint.
    pub(crate) async fn userinfo(
        &self,
        document: &Document,
        access_token: &str,
    ) -> Result<Option<Map<String, Value>>, SsoError> {
        let Some(url) = &document.userinfo_endpoint else { return Ok(None) };
        let request = self.sso_http()?.get(url).header("authorization", format!("Bearer {access_token}"));
        self.fetch_json(request).await.map(Some)
    }

    fn sso_http(&self) -> Result<&reqwest::Client, SsoError> {
        if let Some(http) = self.sso.http.get() {
            return Ok(http);
        }
        let http = self.peers.plain_client().map_err(|error| failed(&error.to_string()))?;
        Ok(self.sso.http.get_or_init(|| http))
    }

    async fn fetch_json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, SsoError> {
        // What reqwest says of a failure names the URL, in which there is nothing secret here.
        let unreachable = |error: reqwest::Error| failed(&error.without_url().to_string());
        let mut response =
            request.header("accept", "application/json").timeout(TIMEOUT).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(failed(&format!("it answered {}", response.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > LARGEST {
                return Err(failed("its answer is larger than 1 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|_| failed("its answer has not the shape that it must have"))
    }
}

pub(super) fn failed(why: &str) -> SsoError {
    SsoError::Provider(why.to_owned())
}
