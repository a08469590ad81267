//! An OpenID Connect provider of the tests' own: whoever comes is who the test says, and its ID tokens are signed by a key that it has just made.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    response::Response,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use toml::Table;
use url::form_urlencoded;

use crate::web::{Door, NoAnswer, serve};

const CLIENT_ID: &str = "comity";
const CLIENT_SECRET: &str = "a secret: of the provider's";

/// A provider. Dropped, it is gone.
pub struct OidcProvider {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

struct Shared {
    issuer: String,
    key: EcdsaKeyPair,
    /// What is said of whoever comes.
    claims: Map<String, Value>,
    /// What is said instead of what is right.
    lies: Map<String, Value>,
    /// What each code stands for: the parameters of the authorization request.
    codes: HashMap<String, HashMap<String, String>>,
    count: u32,
}

impl OidcProvider {
    /// Starts one.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Mutex::new(Shared {
            issuer: format!("http://{address}"),
            key: new_key(),
            claims: Map::new(),
            lies: Map::new(),
            codes: HashMap::new(),
            count: 0,
        }));
        let asked = shared.clone();
        let handler = move |request: Request| {
            let asked = asked.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, 1 << 20).await.map_err(|_| NoAnswer)?;
                let authorization = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
                let mut shared = lock(&asked);
                Ok(match parts.uri.path() {
                    "/.well-known/openid-configuration" => json_answer(&shared.discovery()),
                    "/jwks" => json_answer(&shared.keys()),
                    "/authorize" => shared.authorize(parts.uri.query().unwrap_or_default()),
                    "/token" => shared.token(&fields(&body), authorization.unwrap_or_default()),
                    _ => status(404),
                })
            }
        };
        let alive = async || Some(CancellationToken::new());
        let task =
            tokio::spawn(async move { serve(listener, Door::plain(), handler, move || Box::pin(alive())).await });
        Self { address, shared, task }
    }

    /// A section `[[sso.providers]]` for it, called `id`.
    pub fn section(&self, id: &str) -> Table {
        let mut section = Table::new();
        for (key, value) in [
            ("id", id.to_owned()),
            ("name", format!("The provider {id}")),
            ("issuer", format!("http://{}", self.address)),
            ("client_id", CLIENT_ID.to_owned()),
            ("client_secret", CLIENT_SECRET.to_owned()),
        ] {
            section.insert(key.to_owned(), value.into());
        }
        section
    }

    /// From now on whoever comes is the one of whom `claims` tell.
    pub fn is_visited_by(&self, claims: Value) {
        lock(&self.shared).claims = claims.as_object().expect("claims are an object").clone();
    }

    /// From now on its ID tokens say these instead of what is right.
    pub fn lies(&self, lies: Value) {
        lock(&self.shared).lies = lies.as_object().expect("claims are an object").clone();
    }
}

impl Shared {
    fn discovery(&self) -> Value {
        let at = |path: &str| format!("{}/{path}", self.issuer);
        json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("authorize"),
            "token_endpoint": at("token"),
            "jwks_uri": at("jwks"),
        })
    }

    /// Its name changes with the key.
    fn kid(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.key.public_key().as_ref()[1..9])
    }

    fn keys(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid(), "x": x, "y": y }] })
    }

    fn authorize(&mut self, query: &str) -> Response {
        let asked = fields(query.as_bytes());
        let is_right = asked.get("client_id").is_some_and(|id| id == CLIENT_ID)
            && asked.get("code_challenge_method").is_some_and(|method| method == "S256")
            && asked.get("scope").is_some_and(|scope| scope.split(' ').any(|word| word == "openid"));
        let (Some(to), Some(state), true) = (asked.get("redirect_uri"), asked.get("state"), is_right) else {
            return status(400);
        };
        self.count += 1;
        let code = format!("code-{}", self.count);
        let to = format!("{to}?code={code}&state={state}");
        self.codes.insert(code, asked);
        Response::builder().status(302).header("location", to).body(Body::empty()).expect("it is an address")
    }

    fn token(&mut self, shown: &HashMap<String, String>, authorization: &str) -> Response {
        let part = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let right = format!("Basic {}", STANDARD.encode(format!("{}:{}", part(CLIENT_ID), part(CLIENT_SECRET))));
        let text = |fields: &HashMap<String, String>, name: &str| fields.get(name).cloned().unwrap_or_default();
        let Some(asked) = self.codes.remove(&text(shown, "code")) else { return status(400) };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(text(shown, "code_verifier")));
        if authorization != right
            || challenge != text(&asked, "code_challenge")
            || text(shown, "redirect_uri") != text(&asked, "redirect_uri")
        {
            return status(401);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
        let mut claims = self.claims.clone();
        for (name, value) in [
            ("iss", json!(self.issuer)),
            ("aud", json!(CLIENT_ID)),
            ("nonce", json!(text(&asked, "nonce"))),
            ("iat", json!(now)),
            ("exp", json!(now + 300)),
        ] {
            claims.insert(name.to_owned(), value);
        }
        claims.extend(self.lies.clone());
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({ "alg": "ES256", "kid": self.kid() })), part(claims.into()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("it can sign");
        let id_token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        json_answer(&json!({ "access_token": "x", "token_type": "Bearer", "id_token": id_token }))
    }
}

fn new_key() -> EcdsaKeyPair {
    let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("there is randomness");
    EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("it was just made")
}

fn fields(text: &[u8]) -> HashMap<String, String> {
    form_urlencoded::parse(text).into_owned().collect()
}

fn json_answer(value: &Value) -> Response {
    let builder = Response::builder().header("content-type", "application/json");
    builder.body(Body::from(value.to_string())).expect("it is well formed")
}

fn status(status: u16) -> Response {
    Response::builder().status(status).body(Body::empty()).expect("a status is a number")
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}
