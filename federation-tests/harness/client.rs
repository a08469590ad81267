//! A client without an opinion: it sends what a test says and shows what came back.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, header};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::PATIENCE;

/// The longest that any single request may take; long-polls of the tests are shorter.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Counts the transaction ids of [`Client::send`].
static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);

/// What the server said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, or null when it is no JSON.
    pub body: Value,
    /// The body as it came.
    pub text: String,
    asked: String,
}

impl Answer {
    /// The body of a 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{} was answered {}: {}", self.asked, self.status, self.text);
        self.body
    }

    /// The body of a refusal with exactly this status and errcode, and a message for people.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        let got = (self.status, self.errcode());
        assert_eq!(got, (status, errcode), "{} was answered {}", self.asked, self.text);
        let message = self.body["error"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "{} was refused without a word: {}", self.asked, self.text);
        self.body
    }

    /// The problem document of a refusal with exactly this status and code, and a message for people.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        let got = (self.status, self.body["code"].as_str().unwrap_or_default());
        assert_eq!(got, (status, code), "{} was answered {}", self.asked, self.text);
        let detail = self.body["detail"].as_str().unwrap_or_default();
        assert!(!detail.is_empty(), "{} was refused without a word: {}", self.asked, self.text);
        self.body
    }

    /// The errcode of a refusal, or nothing.
    pub fn errcode(&self) -> &str {
        self.body["errcode"].as_str().unwrap_or_default()
    }
}

/// One device of one user, or nobody yet.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    pub(crate) base: String,
    /// `@localpart:server`, once logged in.
    pub user_id: String,
    /// The device, once logged in.
    pub device_id: String,
    /// The access token, if any.
    pub token: Option<String>,
}

impl Client {
    /// A client of the server at `base`, without an account.
    pub fn new(base: &str) -> Self {
        let http = crate::http_client().timeout(REQUEST_TIMEOUT).build().expect("a client needs no more than this");
        Self::over(http, base)
    }

    /// A client that makes its connections by `http`.
    pub fn over(http: reqwest::Client, base: &str) -> Self {
        Self { http, base: base.to_owned(), user_id: String::new(), device_id: String::new(), token: None }
    }

    /// The same device on connections of its own.
    pub fn another(&self) -> Self {
        let mut client = Self::new(&self.base);
        client.user_id.clone_from(&self.user_id);
        client.device_id.clone_from(&self.device_id);
        client.token.clone_from(&self.token);
        client
    }

    /// The same connection with a token of the test's choice.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        let mut client = self.another();
        client.token = token.map(str::to_owned);
        client
    }

    // === requests ===

    /// Sends bytes as they are. `path` counts from `/_matrix/client/v3/` unless it begins with a slash.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Answer, reqwest::Error> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        self.raw_with(method, path, content_type, body, bearer.as_deref()).await
    }

    /// The same with an `Authorization` of the test's choice.
    pub async fn raw_with(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        authorization: Option<&str>,
    ) -> Result<Answer, reqwest::Error> {
        let headers: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        self.raw_saying(method, path, content_type, body, &headers).await
    }

    /// The same with headers of the test's choice.
    pub async fn raw_saying(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, reqwest::Error> {
        let url = match path.strip_prefix('/') {
            Some(absolute) => format!("{}/{absolute}", self.base),
            None => format!("{}/_matrix/client/v3/{path}", self.base),
        };
        let asked = format!("{method} {path}");
        let mut request = self.http.request(method, url);
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type).body(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_default(), text, asked })
    }

    /// Sends JSON, or nothing; a server that can't be reached is an error.
    pub async fn attempt(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, reqwest::Error> {
        match body {
            Some(body) => self.raw(method, path, "application/json", body.to_string().into_bytes()).await,
            None => self.raw(method, path, "", Vec::new()).await,
        }
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.attempt(method, path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, None).await
    }

    /// GET from a server that may not be there.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.attempt(Method::GET, path, None).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, Some(&body)).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.request(Method::PUT, path, Some(&body)).await
    }

    /// DELETE without a body.
    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, None).await
    }

    // === accounts ===

    /// Makes an account through the `m.login.dummy` stage and logs in.
    pub async fn register(&mut self, localpart: &str, password: &str) {
        let mut request = json!({ "username": localpart, "password": password, "initial_device_display_name": "test" });
        let challenge = self.post("register", request.clone()).await;
        assert_eq!(challenge.status, 401, "registration without auth was answered {}", challenge.text);
        request["auth"] = json!({ "type": "m.login.dummy", "session": challenge.body["session"] });
        let session = self.post("register", request).await.ok();
        self.remember(&session);
    }

    /// Makes an account with the shared secret and logs in.
    pub async fn register_with_secret(&mut self, secret: &str, localpart: &str, password: &str, admin: bool) {
        let path = "/_synapse/admin/v1/register";
        let nonce = self.get(path).await.ok()["nonce"].as_str().expect("a nonce").to_owned();
        let mac = shared_secret_mac(secret, &nonce, localpart, password, admin);
        let request =
            json!({ "nonce": nonce, "username": localpart, "password": password, "admin": admin, "mac": mac });
        let session = self.post(path, request).await.ok();
        self.remember(&session);
    }

    /// Logs in with a password.
    pub async fn login(&mut self, localpart: &str, password: &str) {
        let session = self.try_login(localpart, password).await.ok();
        self.remember(&session);
    }

    /// Tries to log in, and stays who it was.
    pub async fn try_login(&self, localpart: &str, password: &str) -> Answer {
        let identifier = json!({ "type": "m.id.user", "user": localpart });
        self.post("login", json!({ "type": "m.login.password", "identifier": identifier, "password": password })).await
    }

    /// Is from now on whom an answer to `register` or `login` names.
    pub fn remember(&mut self, session: &Value) {
        let text = |key: &str| session[key].as_str().unwrap_or_else(|| panic!("no {key} in {session}")).to_owned();
        self.user_id = text("user_id");
        self.device_id = text("device_id");
        self.token = Some(text("access_token"));
    }

    /// The part of the user id between `@` and `:`.
    pub fn localpart(&self) -> &str {
        self.user_id.trim_start_matches('@').split(':').next().unwrap_or_default()
    }

    // === rooms ===

    /// Makes a room and answers its id.
    pub async fn create_room(&self, request: Value) -> String {
        self.post("createRoom", request).await.ok()["room_id"].as_str().expect("a room id").to_owned()
    }

    /// Makes a room that anybody may join.
    pub async fn create_public_room(&self) -> String {
        self.create_room(json!({ "preset": "public_chat" })).await
    }

    /// Invites `other`.
    pub async fn invite(&self, room: &str, other: &Client) {
        self.post(&format!("rooms/{room}/invite"), json!({ "user_id": other.user_id })).await.ok();
    }

    /// Joins by room id.
    pub async fn join(&self, room: &str) {
        self.post(&format!("rooms/{room}/join"), json!({})).await.ok();
    }

    /// Joins by room id or alias, through the servers named.
    pub async fn join_via(&self, room: &str, via: &[&str]) {
        self.try_join_via(room, via).await.ok();
    }

    /// Tries to join by room id or alias, through the servers named.
    pub async fn try_join_via(&self, room: &str, via: &[&str]) -> Answer {
        self.post(&format!("join/{}?{}", enc(room), via_query(via)), json!({})).await
    }

    /// Says something about somebody's membership: `kick`, `ban` or `unban`.
    pub async fn act_on(&self, room: &str, act: &str, user_id: &str) -> Answer {
        self.post(&format!("rooms/{room}/{act}"), json!({ "user_id": user_id })).await
    }

    /// What `user_id` is in a room, or nothing.
    pub async fn membership(&self, room: &str, user_id: &str) -> Option<String> {
        let answer = self.state(room, "m.room.member", user_id).await;
        answer.body["membership"].as_str().map(str::to_owned)
    }

    /// Leaves.
    pub async fn leave(&self, room: &str) {
        self.post(&format!("rooms/{room}/leave"), json!({})).await.ok();
    }

    /// Sends a text and answers its event id.
    pub async fn say(&self, room: &str, text: &str) -> String {
        // Where several write to one room at once it may be too busy, and says so: nothing was sent then.
        for _ in 0..20 {
            let answer = self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": text })).await;
            if answer.status != 503 {
                return answer.ok()["event_id"].as_str().expect("an event id").to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{room} was too busy for {text:?} twenty times")
    }

    /// Sends an event under a transaction id that was never used before.
    pub async fn send(&self, room: &str, event_type: &str, content: Value) -> Answer {
        let count = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
        self.put(&format!("rooms/{room}/send/{event_type}/t{count}"), content).await
    }

    /// Sends a state event.
    pub async fn set_state(&self, room: &str, event_type: &str, state_key: &str, content: Value) -> Answer {
        self.put(&format!("rooms/{room}/state/{event_type}/{}", enc(state_key)), content).await
    }

    /// The content of a piece of state.
    pub async fn state(&self, room: &str, event_type: &str, state_key: &str) -> Answer {
        self.get(&format!("rooms/{room}/state/{event_type}/{}", enc(state_key))).await
    }

    /// Every event of the room that this user may see, oldest first, read page by page from its end.
    pub async fn history(&self, room: &str) -> Vec<Value> {
        let mut events = self.pages(room, "b", None, None).await;
        events.reverse();
        events
    }

    /// What `/messages` shows from `from` to `to`, in the order asked for, all pages.
    pub async fn pages(&self, room: &str, dir: &str, from: Option<&str>, to: Option<&str>) -> Vec<Value> {
        let mut events = Vec::new();
        let mut from = from.map(str::to_owned);
        let mut tokens = HashSet::new();
        loop {
            let mut path = format!("rooms/{room}/messages?dir={dir}&limit=100");
            if let Some(from) = &from {
                path += &format!("&from={}", enc(from));
            }
            if let Some(to) = to {
                path += &format!("&to={}", enc(to));
            }
            let page = self.get(&path).await.ok();
            let chunk = page["chunk"].as_array().unwrap_or_else(|| panic!("no chunk in {page}"));
            events.extend(chunk.iter().cloned());
            let Some(end) = page["end"].as_str() else { return events };
            assert!(tokens.insert(end.to_owned()), "/messages goes in circles at {end}");
            from = Some(end.to_owned());
        }
    }

    // === sync ===

    /// One `/sync`. `query` is what follows `timeout`, beginning with `&`.
    pub async fn sync_with(&self, since: Option<&str>, timeout: Duration, query: &str) -> Answer {
        let mut path = format!("sync?timeout={}{query}", timeout.as_millis());
        if let Some(since) = since {
            path += &format!("&since={}", enc(since));
        }
        self.get(&path).await
    }

    /// Everything that is there now, or that is new after `since`; doesn't wait.
    pub async fn sync(&self, since: Option<&str>) -> Value {
        self.sync_with(since, Duration::ZERO, "").await.ok()
    }

    /// The token of a sync of now.
    pub async fn now(&self) -> String {
        self.sync(None).await["next_batch"].as_str().expect("next_batch is a string").to_owned()
    }

    /// Syncs on from `since` until `found` answers something, and leaves `since` behind the answer in which it was.
    pub async fn sync_until<T>(&self, since: &mut String, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.sync_with(Some(since), Duration::from_secs(2), "").await.ok();
            *since = answer["next_batch"].as_str().expect("next_batch is a string").to_owned();
            if let Some(found) = found(&answer) {
                return found;
            }
            assert!(Instant::now() < deadline, "sync never showed it; the last answer was {answer}");
        }
    }

    /// Syncs until a room's timeline shows event `event_id`, and answers the event.
    pub async fn sync_until_event(&self, since: &mut String, room: &str, event_id: &str) -> Value {
        self.sync_until(since, |answer| {
            let timeline = answer["rooms"]["join"][room]["timeline"]["events"].as_array()?;
            timeline.iter().find(|event| event["event_id"] == event_id).cloned()
        })
        .await
    }
}

/// The proof of the registration secret: HMAC-SHA1 in hex over the fields, parted by NUL.
pub fn shared_secret_mac(secret: &str, nonce: &str, localpart: &str, password: &str, admin: bool) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    let role = if admin { "admin" } else { "notadmin" };
    mac.update([nonce, localpart, password, role].join("\0").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The servers to go through, in the words of old clients and new ones.
pub fn via_query(via: &[&str]) -> String {
    let words = via.iter().flat_map(|server| [("via", server), ("server_name", server)]);
    words.map(|(key, server)| format!("{key}={}", enc(server))).collect::<Vec<_>>().join("&")
}

/// Percent-encodes what must not stand in a path segment or a query value.
pub fn enc(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'@' | b'!' | b'$' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
