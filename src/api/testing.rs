//! A server for tests: every face of it, without a socket.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use integrations::{Stream, Webhooks};
use model::peer::{PeerPattern, TrustLevel};
use peers::{
    Peers,
    trust::{Author, PeerChange},
    vault::Vault,
};
use ruma::{ServerName, server_name};
use serde_json::{Value, json};
use store::{Store, testing::on_each_engine_heard};
use tower::ServiceExt as _;
use users::{RateLimitsConfig, RegistrationConfig, Users, UsersConfig};

use crate::{ApiConfig, Services, router};

/// A server whose clients are the test.
pub(crate) struct Server {
    router: axum::Router,
    peers: Peers,
    /// The people of it.
    pub(crate) users: Arc<Users>,
    /// Where its media are.
    pub(crate) folder: tempfile::TempDir,
}

/// Runs `story` against a server on each engine. It federates with nobody.
pub(crate) async fn with_server(story: impl AsyncFn(Server)) {
    with_server_of(|store| peers::testing::alone(server_name!("a.test"), store), story).await;
}

/// As [`with_server`], for a server that `known` servers may ask.
pub(crate) async fn with_federating_server(known: &[&ServerName], story: impl AsyncFn(Server)) {
    with_server_of(|store| peers::testing::knowing(server_name!("a.test"), store, known), story).await;
}

async fn with_server_of(peers: impl Fn(Store) -> Peers, story: impl AsyncFn(Server)) {
    let listener = || {
        let notifier = sync::Notifier::new(&sync::SyncConfig::default());
        let search: Arc<OnceLock<rooms::Search>> = Arc::default();
        let ears = (notifier.clone(), search.clone());
        let on_commit = Arc::new(move |committed| {
            ears.0.ingest(&committed);
            if let Some(search) = ears.1.get() {
                search.ingest(&committed);
            }
        });
        (on_commit as store::OnCommit, (notifier, search))
    };
    on_each_engine_heard(listener, async |store, (notifier, search)| {
        story(Server::new(peers(store.clone()), store, notifier, &search).await).await;
        Ok::<_, store::Error>(())
    })
    .await;
}

impl Server {
    async fn new(peers: Peers, store: Store, notifier: sync::Notifier, heard_by: &OnceLock<rooms::Search>) -> Self {
        let config = UsersConfig {
            registration: RegistrationConfig { enabled: true, ..RegistrationConfig::default() },
            rate_limits: RateLimitsConfig { enabled: false, ..RateLimitsConfig::default() },
            ..UsersConfig::default()
        };
        let users = Users::open(config, store.clone(), peers.clone()).await.expect("the store is fresh");
        let key = model::SigningKey::from_seed(server_name!("a.test").to_owned(), "test", &[7; 32])
            .expect("any seed makes a key");
        let key = Arc::new(key);
        let rooms = rooms::Rooms::new(store.clone(), peers.clone(), key.clone(), rooms::RoomsConfig::default());
        let search = rooms::Search::new(rooms.clone(), &rooms::SearchConfig::default());
        heard_by.get_or_init(|| search.clone());
        let index = search.clone();
        tokio::spawn(async move { index.run(tokio_util::sync::CancellationToken::new()).await });
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = media::MediaConfig { max_upload: 200_000, ..media::MediaConfig::at(folder.path()) };
        let media = media::Media::open(config, store.clone(), peers.clone()).await.expect("the folder is ours");
        let sync = sync::Sync::new(
            store.clone(),
            rooms.clone(),
            notifier,
            sync::SyncConfig::default(),
            tokio_util::sync::CancellationToken::new(),
        );
        let inbound = ::federation::Inbound::new(store.clone(), rooms.clone(), sync.clone(), users.clone());
        let carrier = ::federation::Carrier::new(peers.clone(), inbound.clone(), key, None, None);
        let curves = ::federation::Curves::default();
        let bridge = ::federation::Bridge::new(
            store.clone(),
            rooms.clone(),
            users.clone(),
            peers.clone(),
            inbound.clone(),
            curves,
        );
        let (known, people) = (peers.clone(), users.clone());
        let way = Arc::new(peers.clone());
        let config = ::federation::FederationConfig::default();
        let sender = ::federation::Sender::new(store.clone(), rooms.clone(), users.clone(), way, config);
        let announcements = integrations::Announcements::new(
            store.clone(),
            peers.clone(),
            users.clone(),
            rooms.clone(),
            sync.clone(),
            integrations::AnnouncementsConfig::default(),
            tokio_util::sync::CancellationToken::new(),
        );
        let keys = tempfile::tempdir().expect("a temporary folder can be made");
        let stream = Stream::new(store.clone(), peers.server_name().to_owned());
        let vault = Arc::new(Vault::open(keys.path()).expect("the folder is ours"));
        let client = peers.plain_client().expect("a client needs no more");
        let webhooks = Webhooks::new(store.clone(), stream.clone(), vault.clone(), client);
        let parts = integrations::PushParts {
            store: store.clone(),
            users: users.clone(),
            sync: sync.clone(),
            stream,
            outbound: peers::Outbound::new(&peers::OutboundConfig::default()).expect("a client needs no more"),
            vault,
        };
        let pushers = integrations::Pushers::new(integrations::PushConfig::default(), parts);
        let gate = webhooks.gate().await.expect("the store can be read");
        let content_rules = integrations::ContentRules::open(store.clone(), gate).await.expect("the store can be read");
        let gate = users.suspension_gate(content_rules.gate());
        for slot in [rooms.gate(), users.gate(), media.gate()] {
            slot.set(gate.clone());
        }
        let log_filter: Arc<dyn integrations::runtime_settings::LogFilter> = Arc::new(Unfiltered);
        let rate = integrations::runtime_settings::SetRate { per_second: 1_000.0, burst: 1_000 };
        let as_configured = integrations::runtime_settings::Configured {
            rate_limits: integrations::runtime_settings::SetLimits {
                enabled: false,
                login: rate,
                registration: rate,
                messages: rate,
                joins: rate,
            },
            log_filter: "info".into(),
            registration: true,
            approval: false,
            recall_window: rooms::RoomsConfig::default().recall_window,
        };
        let settings = integrations::RuntimeSettings::open(
            store.clone(),
            users.clone(),
            rooms.clone(),
            log_filter,
            (as_configured.clone(), as_configured),
        );
        let settings = settings.await.expect("the store is fresh");
        let sharing = integrations::CascadeConfig::default();
        let cascade = integrations::Cascade::open(store.clone(), peers.clone(), users.clone(), sharing);
        let cascade = cascade.await.expect("the store is fresh");
        let services = Services {
            announcements,
            settings,
            cascade,
            statistics: integrations::Statistics::new(store.clone(), peers.server_name().to_owned()),
            logs: Arc::default(),
            ledger: sender.ledger(),
            content_rules,
            webhooks,
            pushers,
            config: ApiConfig::default(),
            limits: users.limits(),
            users,
            peers,
            public_baseurl: Some("https://chat.a.test".into()),
            rooms,
            search,
            media,
            sync,
            carrier,
            inbound,
            bridge,
            store,
            links: None,
            dependencies: Vec::new(),
            metrics: None,
        };
        Self { router: router(Arc::new(services)), peers: known, users: people, folder }
    }

    /// Trusts `server` so far from now on.
    pub(crate) async fn trust(&self, server: &ServerName, level: TrustLevel) {
        let change = PeerChange { level: Some(level), ..PeerChange::default() };
        let author = Author { actor: "a test".into(), reason: "it needs it".into() };
        let peer = PeerPattern::Exact(server.to_owned());
        self.peers.trust().change(&peer, &change, &author, None).await.expect("nobody else changes it");
    }

    /// One request, with its answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: impl Into<String>,
    ) -> (StatusCode, Value) {
        let bearer = |token| HeaderValue::from_str(&format!("Bearer {token}")).expect("tokens are ASCII");
        self.send(method, path, token.map(bearer), body.into()).await
    }

    /// One request with this `Authorization`, with its answer.
    pub(crate) async fn ask_as(
        &self,
        method: Method,
        path: &str,
        authorization: HeaderValue,
        body: impl Into<String>,
    ) -> (StatusCode, Value) {
        self.send(method, path, Some(authorization), body.into()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        authorization: Option<HeaderValue>,
        body: String,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Body::from(body)).expect("the test asks well");
        let response = self.answer(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("the body is in memory").to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// One request, with its answer as it is.
    pub(crate) async fn answer(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.expect("a router always answers")
    }

    /// A POST that succeeds.
    pub(crate) async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Value {
        let (status, answer) = self.ask(Method::POST, path, token, body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    /// A GET that succeeds.
    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Value {
        let (status, answer) = self.ask(Method::GET, path, token, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    /// Makes an account that administrates the server, and answers its token.
    pub(crate) async fn register_admin(&self, name: &str) -> String {
        let (token, _) = self.register(name).await;
        let user_id = ruma::UserId::parse(format!("@{name}:a.test")).expect("the test names it well");
        self.users.set_role(&user_id, users::Role::Admin).await.expect("it is there");
        self.users.forget_sessions(Some(&user_id));
        token
    }

    /// Makes an account, and answers its token and its device.
    pub(crate) async fn register(&self, name: &str) -> (String, String) {
        let body = json!({ "username": name, "password": "a password", "auth": { "type": "m.login.dummy" } });
        let made = self.post("/_matrix/client/v3/register", None, body).await;
        let text = |field: &str| made[field].as_str().expect("it is told").to_owned();
        (text("access_token"), text("device_id"))
    }
}

/// The status and the error code of an answer.
pub(crate) fn refusal((status, answer): (StatusCode, Value)) -> (u16, String) {
    (status.as_u16(), answer["errcode"].as_str().unwrap_or_default().to_owned())
}

/// What is logged in a test is the test's own.
struct Unfiltered;

impl integrations::runtime_settings::LogFilter for Unfiltered {
    fn is_right(&self, directives: &str) -> bool {
        !directives.is_empty()
    }

    fn set(&self, _: &str) {}
}
