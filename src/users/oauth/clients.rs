//! Clients that have registered: anybody may, so what one says of itself proves nothing but where a browser is sent.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#client-registration>

use std::net::IpAddr;

use model::Millis;
use serde::{Deserialize, Serialize};
use store::{Write, oauth::put_client};

use super::{
    AUTHORIZATION_CODE, DEVICE_CODE, OauthError, REFRESH_TOKEN,
    redirect::{Application, check_client_uri, check_on_same_site, check_redirect_uri, is_registered},
};
use crate::{Users, secrets::hash_of};

/// How long a client is kept that nobody uses.
const KEPT_UNUSED: Millis = 30 * 24 * 60 * 60_000;
const MOST_REDIRECT_URIS: usize = 20;
const LONGEST_NAME: usize = 100;
/// What this server's grants are called.
const GRANT_TYPES: [&str; 3] = [AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE];

/// What a client says of itself; fields that mean nothing here are left out. Unknown ones are ignored, as RFC 7591 has it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ClientMetadata {
    /// What people are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// A page that tells of the client, and the base of its other addresses.
    #[serde(default)]
    pub client_uri: String,
    /// Its picture. It is never shown: a browser would tell the client's server who signs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    /// Its terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// What it does with data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// Where a browser may be sent.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// By which grants it gets tokens.
    #[serde(default = "default_grant_types")]
    pub grant_types: Vec<String>,
    /// `code`.
    #[serde(default = "default_response_types")]
    pub response_types: Vec<String>,
    /// How it shows who it is at the token endpoint: not at all.
    #[serde(default = "default_auth_method")]
    pub token_endpoint_auth_method: String,
    /// `web` or `native`.
    #[serde(default = "default_application_type")]
    pub application_type: String,
}

fn default_grant_types() -> Vec<String> {
    vec![AUTHORIZATION_CODE.to_owned()]
}

fn default_response_types() -> Vec<String> {
    vec!["code".to_owned()]
}

fn default_auth_method() -> String {
    "none".to_owned()
}

fn default_application_type() -> String {
    "web".to_owned()
}

/// A client that has registered.
#[derive(Clone, Debug)]
pub struct OauthClient {
    /// Its id, which follows from the metadata.
    pub client_id: String,
    /// What it says of itself, checked.
    pub metadata: ClientMetadata,
}

impl OauthClient {
    /// What people are shown.
    pub fn name(&self) -> &str {
        self.metadata.client_name.as_deref().unwrap_or(&self.metadata.client_uri)
    }

    /// Whether a browser may be sent there.
    pub fn may_redirect_to(&self, uri: &str) -> bool {
        let application = application_of(&self.metadata.application_type);
        application.is_some_and(|application| {
            self.metadata.redirect_uris.iter().any(|registered| is_registered(uri, registered, application))
        })
    }

    /// Whether it has registered for a grant.
    pub fn has_grant(&self, grant_type: &str) -> bool {
        self.metadata.grant_types.iter().any(|known| known == grant_type)
    }
}

impl Users {
    /// Registers a client. One that says the same again is the same client.
    pub async fn register_oauth_client(
        &self,
        metadata: ClientMetadata,
        address: IpAddr,
    ) -> Result<OauthClient, OauthError> {
        self.limits.check_lookup_from(address).await?;
        let metadata = checked(metadata)?;
        let text = serde_json::to_string(&metadata).expect("texts can be written as JSON");
        let client_id = format!("coc_{}", &hash_of(&text)[..32]);
        let now = self.now();
        let mut write = Write::new();
        put_client(&mut write, &client_id, &text, now, now - KEPT_UNUSED);
        self.store.commit(write).await?;
        Ok(OauthClient { client_id, metadata })
    }

    /// The client that has registered by this id.
    pub async fn oauth_client(&self, client_id: &str) -> Result<OauthClient, OauthError> {
        let text = self.store.oauth().client(client_id).await?.ok_or(OauthError::Client)?;
        let metadata = serde_json::from_str(&text)
            .map_err(|_| store::Error::Corrupt("the metadata of a client can't be read".into()))?;
        Ok(OauthClient { client_id: client_id.to_owned(), metadata })
    }
}

/// What this server keeps of the metadata, if it will do.
fn checked(said: ClientMetadata) -> Result<ClientMetadata, OauthError> {
    let wrong = |field: &str, why: &str| OauthError::Metadata(format!("`{field}` {why}"));
    let client_uri = check_client_uri(&said.client_uri).map_err(|why| wrong("client_uri", why))?;
    let application = application_of(&said.application_type)
        .ok_or_else(|| wrong("application_type", "is neither `web` nor `native`"))?;
    if said.client_name.as_ref().is_some_and(|name| name.len() > LONGEST_NAME || name.chars().any(char::is_control)) {
        return Err(wrong("client_name", "is longer than 100 bytes, or has control characters in it"));
    }
    // Spec: "The server MUST ignore values that it does not understand."
    let kept = |said: Vec<String>, known: &[&str]| -> Vec<String> {
        let mut kept: Vec<String> = said.into_iter().filter(|value| known.contains(&value.as_str())).collect();
        kept.sort_unstable();
        kept.dedup();
        kept
    };
    let grant_types = kept(said.grant_types, &GRANT_TYPES);
    if grant_types.iter().all(|grant| grant == REFRESH_TOKEN) {
        return Err(wrong("grant_types", "holds no grant by which this server gives out tokens"));
    }
    let response_types = kept(said.response_types, &["code"]);
    if grant_types.iter().any(|grant| grant == AUTHORIZATION_CODE) {
        if said.redirect_uris.is_empty() {
            return Err(OauthError::RedirectUri("`redirect_uris` is empty".to_owned()));
        }
        if response_types.is_empty() {
            return Err(wrong("response_types", "lacks `code`"));
        }
    }
    if said.redirect_uris.len() > MOST_REDIRECT_URIS {
        return Err(OauthError::RedirectUri("`redirect_uris` holds more than 20".to_owned()));
    }
    for uri in &said.redirect_uris {
        check_redirect_uri(uri, &client_uri, application)
            .map_err(|why| OauthError::RedirectUri(format!("`redirect_uris`: {uri} {why}")))?;
    }
    // These are for people to read, so one that is elsewhere is left out, and nobody is turned away for it.
    let on_site = |uri: Option<String>| uri.filter(|uri| check_on_same_site(uri, &client_uri).is_ok());
    Ok(ClientMetadata {
        client_name: said
            .client_name
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .or_else(|| client_uri.host_str().map(ToOwned::to_owned)),
        client_uri: said.client_uri,
        logo_uri: on_site(said.logo_uri),
        tos_uri: on_site(said.tos_uri),
        policy_uri: on_site(said.policy_uri),
        redirect_uris: said.redirect_uris,
        grant_types,
        response_types,
        token_endpoint_auth_method: default_auth_method(),
        application_type: said.application_type,
    })
}

fn application_of(text: &str) -> Option<Application> {
    match text {
        "web" => Some(Application::Web),
        "native" => Some(Application::Native),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{HOME, with_users};

    fn element_x() -> Value {
        json!({
            "client_name": "Element",
            "client_uri": "https://element.io",
            "logo_uri": "https://element.io/mobile-icon.png",
            "tos_uri": "https://elsewhere.test/terms",
            "redirect_uris": ["io.element.android:/"],
            "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"],
            "token_endpoint_auth_method": "none",
            "application_type": "native",
            "client_name#fr": "L'Élément",
        })
    }

    fn parse(value: Value) -> ClientMetadata {
        serde_json::from_value(value).expect("it has the shape")
    }

    #[tokio::test]
    async fn a_client_that_says_the_same_is_the_same() {
        with_users(async |users, _| {
            let first = users.register_oauth_client(parse(element_x()), HOME).await.expect("it is in order");
            let again = users.register_oauth_client(parse(element_x()), HOME).await.expect("it is in order");
            assert_eq!(first.client_id, again.client_id);
            let found = users.oauth_client(&first.client_id).await.expect("it is there");
            assert_eq!(found.metadata.grant_types, ["authorization_code", "refresh_token"]);
            assert_eq!((found.name(), found.metadata.tos_uri.as_deref()), ("Element", None));
            assert!(found.may_redirect_to("io.element.android:/") && !found.may_redirect_to("io.element.android:/x"));
            let mut other = element_x();
            other["redirect_uris"] = json!(["io.element.ios:/"]);
            let other = users.register_oauth_client(parse(other), HOME).await.expect("it is in order");
            assert_ne!(other.client_id, first.client_id);
            assert!(matches!(users.oauth_client("coc_x").await, Err(OauthError::Client)));
        })
        .await;
    }

    #[test]
    fn what_wont_do_is_refused_by_name() {
        for (field, value) in [
            ("client_uri", json!("http://element.io")),
            ("client_name", json!("x".repeat(101))),
            ("grant_types", json!(["implicit"])),
            ("response_types", json!(["token"])),
            ("application_type", json!("service")),
        ] {
            let mut said = element_x();
            said[field] = value;
            let refused = checked(parse(said)).expect_err(field).to_string();
            assert!(refused.starts_with(&format!("`{field}`")), "{refused}");
        }
        for uris in [json!([]), json!(["https://evil.test/"]), json!(vec!["io.element.x:/"; 21])] {
            let mut said = element_x();
            said["redirect_uris"] = uris;
            assert!(matches!(checked(parse(said)), Err(OauthError::RedirectUri(_))));
        }
    }
}
