//! Links between the brokers of full peers: they come about by themselves, come back, and go with the peer; and nobody can do
//! anything by them but what they are for.

use std::{
    fs,
    time::{Duration, Instant},
};

use fabric::{AmqpConfig, naming};
use federation_tests::{Broker, Client, Engine, FakePeer, Network, Server, enc};
use futures_util::future::join;
use lapin::{
    BasicProperties, Channel, Connection,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::FieldTable,
};
use reqwest::Method;
use ruma::ServerName;
use serde_json::{Value, json};

use super::{
    admin::{comity, done},
    trust::patch,
};

/// Two brokers on a busy machine take longer than what else a test waits for.
const PATIENCE: Duration = Duration::from_secs(120);

async fn soon<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A server with a broker of its own.
struct Side {
    broker: Broker,
    server: Server,
    admin: Client,
    name: &'static str,
}

impl Side {
    async fn of(network: &Network, broker: Broker, name: &'static str, kind: &str) -> Self {
        let server = network.server(&Engine::Sqlite, name).await;
        let public_url = format!("amqp://127.0.0.1:{}", broker.port());
        let server = server
            .set("bus", "management_url", broker.management_url())
            .set("bus", "public_url", public_url)
            .set("bus", "link", kind);
        let server = server.start().await;
        let admin = server.admin().await;
        Self { broker, server, admin, name }
    }

    async fn set(&self, peer: &str, change: Value) {
        let mut change = change;
        change["reason"] = "a story".into();
        patch(&self.admin, peer, change).await.ok();
    }

    async fn status(&self) -> Value {
        self.admin.get("/api/v1/admin/bus").await.ok()
    }

    /// Both directions of the one link, as this side sees them.
    async fn is_up(&self) -> bool {
        let status = self.status().await;
        let link = &status["links"][0];
        link["outgoing"]["state"] == "up" && link["incoming"]["state"] == "up"
    }

    async fn comes_up(&self) {
        soon(&format!("{} sees its link up", self.name), async || self.is_up().await.then_some(())).await;
    }

    async fn publish(&self, peer: &str, text: &str) -> bool {
        let peer = <&ServerName>::try_from(peer).expect("a name");
        let path = format!("/exchanges/{}/{}/publish", enc(&naming::vhost(peer)), enc(&naming::outgoing(peer)));
        let message = json!({
            "properties": { "delivery_mode": 2 }, "routing_key": "a.key", "payload": text, "payload_encoding": "string",
        });
        self.broker.api("POST", &path, Some(message)).await.1["routed"] == true
    }

    /// Publishes at this side's exchange for `other` until one is routed, and waits for it in the other's queue, which it empties.
    async fn brings(&self, other: &Side, text: &str) {
        soon(&format!("what {} has for {} is routed", self.name, other.name), async || {
            self.publish(other.name, text).await.then_some(())
        })
        .await;
        let from = <&ServerName>::try_from(self.name).expect("a name");
        let path = format!("/queues/{}/{}/get", enc(&naming::vhost(from)), enc(&naming::incoming(from)));
        let get = json!({ "count": 10, "ackmode": "ack_requeue_false", "encoding": "auto" });
        let key = soon(&format!("{text:?} comes from {} to {}", self.name, other.name), async || {
            let (_, messages) = other.broker.api("POST", &path, Some(get.clone())).await;
            let message = messages.as_array()?.iter().find(|message| message["payload"] == text)?.clone();
            message["routing_key"].as_str().map(str::to_owned)
        })
        .await;
        assert_eq!(key, "a.key", "the routing key comes along");
    }

    /// What makes the link at this side's broker.
    async fn parameter(&self, kind: &str, peer: &str) -> (String, Value) {
        let component = if kind == "shovel" { "shovel" } else { "federation-upstream" };
        let path = format!("/parameters/{component}/{}/{peer}", enc(&format!("fed.{peer}")));
        let (_, parameter) = self.broker.api("GET", &path, None).await;
        (path, parameter)
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let (_, found) = self.broker.api("GET", path, None).await;
        let named = found.as_array().into_iter().flatten();
        named.filter_map(|found| found["name"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until nothing of the link is at the broker, in the status or in the database.
    async fn forgets(&self, peer: &str) {
        soon(&format!("{} has nothing of its link with {peer} any more", self.name), async || {
            let vhosts = self.names("/vhosts").await;
            let users = self.names("/users").await;
            let parameters = [self.names("/parameters").await, self.names("/policies").await].concat();
            let (_, permissions) = self.broker.api("GET", "/permissions", None).await;
            let is_gone = !vhosts.contains(&format!("fed.{peer}"))
                && !users.contains(&format!("peer.{peer}"))
                && parameters.is_empty()
                && !permissions.to_string().contains(peer);
            is_gone.then_some(())
        })
        .await;
    }

    /// The passwords that are in use at this broker for links from it.
    async fn password(&self, kind: &str, peer: &str) -> String {
        let (_, parameter) = self.parameter(kind, peer).await;
        let uri = parameter["value"]["uri"].as_str().or_else(|| parameter["value"]["dest-uri"].as_str());
        let uri = url::Url::parse(uri.unwrap_or_else(|| panic!("no URI in {parameter}"))).expect("a URI");
        uri.password().expect("a password").to_owned()
    }

    /// No password is anywhere but where it has to be.
    async fn has_told_nobody(&self, passwords: &[String]) {
        let (_, said) = comity(&self.server, &["bus", "status", "--json"]).await;
        let audit = self.admin.get("/api/v1/admin/audit").await.text;
        let metrics = self.admin.get("/metrics").await.text;
        let mut places = vec![
            ("the log", self.server.log()),
            ("the status", self.status().await.to_string()),
            ("the command line", said),
            ("the log of what admins did", audit),
            ("the figures", metrics),
        ];
        for entry in fs::read_dir(self.server.folder().join("data")).expect("the data folder").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let bytes = fs::read(entry.path()).expect("one's own file");
                places.push(("the database", String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        assert!(places.iter().any(|(place, content)| *place == "the database" && content.contains("broker_links")));
        for password in passwords {
            assert!(password.len() > 30, "{password:?} is no password of ours");
            for (place, content) in &places {
                assert!(!content.contains(password), "a password of {} stands in {place}", self.name);
            }
        }
    }
}

/// Two servers whose brokers are linked in one way.
async fn story(kind: &str) {
    let Some(programs) = Broker::programs() else { return };
    let network = Network::new();
    let (a, b) = join(Broker::start(&programs, "a.test"), Broker::start(&programs, "b.test")).await;
    let (a, b) = (Side::of(&network, a, "a.test", kind).await, Side::of(&network, b, "b.test", kind).await);

    // Each is trusted by default, and nothing comes of that; then each gets a row.
    assert_eq!(a.status().await["links"], json!([]));
    a.set("b.test", json!({ "level": "full", "transport": "amqp" })).await;
    b.set("a.test", json!({ "level": "full", "transport": "auto" })).await;
    join(a.comes_up(), b.comes_up()).await;
    assert_eq!(a.status().await["links"][0]["link"], kind);
    a.brings(&b, "hello").await;
    b.brings(&a, "hello yourself").await;
    let said = done(&a.server, &["bus", "status"]).await;
    assert!(said.contains(&format!("link\tb.test\t{kind}")) && said.contains("to b.test\tup"), "{said}");
    let figures = a.admin.get("/metrics").await.text;
    assert!(figures.contains("comity_bus_link_up{peer=\"b.test\"} 1"), "{figures}");
    let mut passwords = vec![a.password(kind, "b.test").await, b.password(kind, "a.test").await];

    // What makes the link is deleted by hand, and so is the peer's user.
    let (path, _) = a.parameter(kind, "b.test").await;
    assert_eq!(a.broker.api("DELETE", &path, None).await.0, 204);
    assert_eq!(a.broker.api("DELETE", "/users/peer.b.test", None).await.0, 204);
    soon("both come back", async || {
        let is_back = a.broker.api("GET", &path, None).await.0 == 200;
        (is_back && a.broker.api("GET", "/users/peer.b.test", None).await.0 == 200).then_some(())
    })
    .await;
    join(a.comes_up(), b.comes_up()).await;
    a.brings(&b, "hello again").await;
    b.brings(&a, "hello to you again").await;

    // The password by which B logs in at A's broker is changed: B finds out by itself.
    done(&a.server, &["bus", "link", "rotate", "b.test", "--reason", "a leak"]).await;
    soon("b.test has the new password", async || {
        let password = b.broker.api("GET", &b.parameter(kind, "a.test").await.0, None).await.1.to_string();
        (password.contains("peer.b.test") && !password.contains(&passwords[1])).then_some(())
    })
    .await;
    passwords.push(b.password(kind, "a.test").await);
    join(a.comes_up(), b.comes_up()).await;
    a.brings(&b, "by the new password").await;
    b.brings(&a, "by the new password too").await;
    join(a.has_told_nobody(&passwords), b.has_told_nobody(&passwords)).await;

    // Lowered by one, and given another transport by the other.
    a.set("b.test", json!({ "level": "limited" })).await;
    a.forgets("b.test").await;
    assert_eq!(a.status().await["links"], json!([]));
    soon("b.test says what is wrong", async || {
        let status = b.status().await;
        (status["links"][0]["outgoing"]["state"] == "down" && status["links"][0]["incoming"]["state"] == "down")
            .then_some(())
    })
    .await;
    let (is_well, said) = comity(&b.server, &["bus", "status"]).await;
    assert!(!is_well && said.contains("down"), "{said}");
    b.set("a.test", json!({ "transport": "https" })).await;
    b.forgets("a.test").await;
}

#[tokio::test]
async fn upstreams_come_up_by_themselves_come_back_and_go_with_the_peer() {
    story("upstream").await;
}

#[tokio::test]
async fn shovels_come_up_by_themselves_come_back_and_go_with_the_peer() {
    story("shovel").await;
}

/// What a peer is told of a broker.
async fn told(peer: &FakePeer, server: &Server) -> Value {
    soon(&format!("{} is told how to log in", peer.name), async || {
        let answer = peer.get_native(server, "/api/v1/cascade/mq-info").await;
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text);
        (answer.status == 200).then_some(answer.body)
    })
    .await
}

async fn connect(offer: &Value, vhost: &str) -> Result<Connection, fabric::BrokerError> {
    let text = |key: &str| offer[key].as_str().unwrap_or_else(|| panic!("no {key} in {offer}")).to_owned();
    let url = text("url").replace("amqp://", &format!("amqp://{}:{}@", text("user"), text("password")));
    let broker = fabric::Broker::new(&AmqpConfig { url: format!("{url}/"), ..AmqpConfig::default() })?;
    broker.at_vhost(vhost).connect("a test").await
}

/// A channel that confirms; each refusal ends one.
async fn channel(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    channel
}

async fn publishes(connection: &Connection, exchange: &str, key: &str) -> bool {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let channel = channel(connection).await;
    let published = channel.basic_publish(exchange.into(), key.into(), options, b"hello", BasicProperties::default());
    match published.await {
        Ok(confirm) => confirm.await.is_ok_and(|confirmation| confirmation.is_ack()),
        Err(_) => false,
    }
}

async fn reads(connection: &Connection, queue: &str) -> bool {
    channel(connection).await.basic_get(queue.into(), BasicGetOptions::default()).await.is_ok()
}

async fn makes(connection: &Connection, queue: &str) -> bool {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel(connection).await.queue_declare(queue.into(), options, FieldTable::default()).await.is_ok()
}

#[tokio::test]
async fn a_peer_is_told_of_its_own_user_alone_which_can_do_nothing_but_the_link() {
    let Some(programs) = Broker::programs() else { return };
    let network = Network::new();
    let broker = Broker::start(&programs, "a.test").await;
    let mut a = Side::of(&network, broker, "a.test", "upstream").await;
    let (b, c) = (FakePeer::start(&network, "b.test").await, FakePeer::start(&network, "c.test").await);
    let mq_info = "/api/v1/cascade/mq-info";

    // Nobody is told who isn't set, isn't trusted so far, or has not signed.
    b.get_native(&a.server, mq_info).await.problem(403, "no_link");
    a.set("b.test", json!({ "level": "limited" })).await;
    b.get_native(&a.server, mq_info).await.problem(403, "not_trusted");
    a.set("b.test", json!({ "level": "full", "transport": "https" })).await;
    b.get_native(&a.server, mq_info).await.problem(403, "no_link");
    a.set("b.test", json!({ "transport": "auto" })).await;
    a.set("c.test", json!({ "level": "full" })).await;
    let unsigned = a.server.federation().raw(Method::GET, mq_info, "", Vec::new()).await.expect("an answer");
    assert_eq!(unsigned.status, 401, "{}", unsigned.text);
    let mut narrow = b.native("a.test", Method::GET, mq_info, None);
    narrow.claims["scope"] = json!(["messaging", "status"]);
    b.ask_native(&a.server, &narrow).await.problem(403, "insufficient_scope");

    let (offer, other) = (told(&b, &a.server).await, told(&c, &a.server).await);
    assert_eq!(b.get(&a.server, mq_info).await.ok(), offer, "by X-Matrix as by a token, and again");
    assert_eq!((&offer["user"], &offer["vhost"]), (&json!("peer.b.test"), &json!("fed.b.test")));
    assert_ne!(offer["password"], other["password"]);
    let audit = a.admin.get("/api/v1/admin/audit").await.text;
    assert_eq!(audit.matches("bus.credentials_given").count(), 2, "once for each: {audit}");

    // Its link.
    let link = connect(&offer, "fed.b.test").await.expect("its own virtual host");
    let internal = "federation: fed.out.b.test -> b.test";
    assert!(publishes(&link, "fed.in.b.test", "any.key").await, "as a shovel does");
    assert!(makes(&link, internal).await, "as federation does");
    let (from, key) = ("fed.out.b.test", "#");
    let binding = channel(&link).await;
    let bound = binding.queue_bind(
        internal.into(),
        from.into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("as federation does");
    assert!(a.publish("b.test", "for b.test").await);
    assert!(reads(&link, internal).await);

    // Nothing else.
    assert!(!reads(&link, "fed.in.b.test").await, "what came from it");
    assert!(!reads(&link, "fed.dead.b.test").await);
    assert!(!publishes(&link, "fed.out.b.test", "any.key").await, "in the name of this server");
    assert!(!publishes(&link, "", "fed.in.b.test").await, "by the exchange that knows all queues");
    assert!(!publishes(&link, "", "fed.dead.b.test").await);
    assert!(!publishes(&link, "amq.topic", "any.key").await);
    assert!(!makes(&link, "mine").await);
    assert!(!makes(&link, "federation: fed.in.b.test -> b.test").await);
    let deleted = channel(&link).await.queue_delete("fed.in.b.test".into(), QueueDeleteOptions::default()).await;
    assert!(deleted.is_err());
    for vhost in ["/", "fed.c.test"] {
        assert!(connect(&offer, vhost).await.is_err(), "{vhost} is open to it");
    }
    let mut wrong = offer.clone();
    wrong["password"] = other["password"].clone();
    assert!(connect(&wrong, "fed.b.test").await.is_err());
    let management = reqwest::Client::new();
    let url = format!("{}/api/vhosts", a.broker.management_url());
    let mut url = url::Url::parse(&url).expect("a URL");
    url.set_username("").ok();
    url.set_password(None).ok();
    let asked =
        management.get(url).basic_auth("peer.b.test", offer["password"].as_str()).send().await.expect("an answer");
    assert_eq!(asked.status(), 401, "the management is not for peers");
    let mut made = 0;
    while makes(&link, &format!("{internal} {made}")).await {
        made += 1;
        assert!(made < 40, "it may make as many queues as it likes");
    }

    // What is taken back while the server is down is gone when it is up again, and whoever was connected is cut off.
    a.server.stop().await;
    done(&a.server, &["peer", "block", "b.test", "--reason", "a quarrel"]).await;
    a.server.restart().await;
    soon("nothing of b.test is left", async || {
        let vhosts = a.names("/vhosts").await;
        (!vhosts.contains(&"fed.b.test".to_owned()) && vhosts.contains(&"fed.c.test".to_owned())).then_some(())
    })
    .await;
    assert!(connect(&offer, "fed.b.test").await.is_err());
    soon("it is cut off", async || (!link.status().connected()).then_some(())).await;
    b.get_native(&a.server, mq_info).await.problem(403, "not_trusted");
}

#[tokio::test]
async fn a_broker_that_lacks_a_plugin_or_a_permission_is_named_plainly() {
    let Some(programs) = Broker::programs() else { return };
    let network = Network::new();
    let broker = Broker::start_without(&programs, "a.test", "rabbitmq_shovel").await;
    broker.make_user("weak", "a weak password").await;
    let set = broker.api("PUT", "/users/weak", Some(json!({ "password": "a weak password", "tags": "management" })));
    assert_eq!(set.await.0, 204);
    let management = broker.management_url();
    let weak = {
        let mut url = url::Url::parse(&management).expect("a URL");
        url.set_username("weak").expect("a URL with a host");
        url.set_password(Some("a weak password")).expect("a URL with a host");
        url.to_string()
    };
    for (name, management, kind, words) in [
        ("a.test", management.clone(), "shovel", "rabbitmq-plugins enable rabbitmq_shovel rabbitmq_shovel_management"),
        ("b.test", weak, "upstream", "the user `weak` may not administrate the broker"),
        ("c.test", "http://admin:nobody@127.0.0.1:9".to_owned(), "upstream", "can't be reached"),
        ("d.test", management, "upstream", ""),
    ] {
        let server = network.server(&Engine::Sqlite, name).await.set("bus", "management_url", management);
        let public_url = format!("amqp://127.0.0.1:{}", broker.port());
        let server = server.set("bus", "public_url", public_url).set("bus", "link", kind).start().await;
        let ready = soon(&format!("{name} says {words:?}"), async || {
            let answer = server.anonymous().get("/health/ready").await;
            assert_eq!(answer.status, 200, "people can chat without links: {}", answer.text);
            answer.text.contains(words).then_some(answer.text)
        })
        .await;
        assert!(ready.starts_with("ready"), "{ready}");
        assert!(server.log().contains(words), "{}", server.log());
        let (is_well, said) = comity(&server, &["bus", "status"]).await;
        assert_eq!((is_well, said.contains(words)), (words.is_empty(), true), "{said}");
        for secret in ["a%20password", "a password that only", "a weak password", "a%20weak", "nobody"] {
            assert!(!ready.contains(secret) && !server.log().contains(secret) && !said.contains(secret), "{secret}");
        }
    }
}

#[tokio::test]
async fn an_admin_can_say_how_to_log_in_at_a_broker_that_does_not_say_so_itself() {
    let Some(programs) = Broker::programs() else { return };
    let network = Network::new();
    let (a, other) = join(Broker::start(&programs, "a.test"), Broker::start(&programs, "other")).await;
    let a = Side::of(&network, a, "a.test", "upstream").await;
    // Another product, which has a broker, and exchanges as it likes.
    other.make_vhost("chat").await;
    let exchange = json!({ "type": "topic", "durable": true });
    for name in ["fed.in.a.test", "fed.out.a.test"] {
        assert_eq!(other.api("PUT", &format!("/exchanges/chat/{name}"), Some(exchange.clone())).await.0, 201);
    }
    other.api("PUT", "/queues/chat/inbox", Some(json!({ "durable": true }))).await;
    other.api("POST", "/bindings/chat/e/fed.in.a.test/q/inbox", Some(json!({ "routing_key": "#" }))).await;
    other.make_user("comity", "told-by-mail-told-by-mail-told-by-mail").await;
    other.permit("comity", "chat", "^$", "^fed\\.in\\.a\\.test$", "^$").await;
    let uri = other.url_of("comity", "told-by-mail-told-by-mail-told-by-mail", "chat");

    let set = ["bus", "link", "set", "b.test", "--uri", &uri, "--link", "shovel", "--reason", "they sent a letter"];
    let (is_done, said) = comity(&a.server, &set).await;
    assert!(!is_done && said.contains("trusted fully"), "{said}");
    a.set("b.test", json!({ "level": "full" })).await;
    done(&a.server, &set).await;
    soon("the shovel is up", async || {
        let status = a.status().await;
        (status["links"][0]["outgoing"]["state"] == "up").then_some(())
    })
    .await;
    let link = &a.status().await["links"][0];
    assert_eq!((&link["link"], &link["credentials"]["by_hand"]), (&json!("shovel"), &json!(true)));
    assert!(a.publish("b.test", "by letter").await);
    soon("it comes to the other product", async || (other.waiting("chat", "inbox").await? == 1).then_some(())).await;
    a.has_told_nobody(&["told-by-mail-told-by-mail-told-by-mail".to_owned()]).await;
    let nonsense = json!({ "uri": "http://us:secret@b", "reason": "a slip" });
    let refused =
        a.admin.attempt(Method::PUT, "/api/v1/admin/bus/links/b.test", Some(&nonsense)).await.expect("an answer");
    assert!(!refused.text.contains("secret"));
    refused.problem(400, "wrong_address");
    let unset = a.admin.delete("/api/v1/admin/bus/links/b.test?reason=another+letter").await;
    assert_eq!(unset.status, 204, "{}", unset.text);
    soon("the peer is asked again", async || {
        let status = a.status().await;
        (status["links"][0]["link"].is_null() && status["links"][0]["trouble"].is_string()).then_some(())
    })
    .await;
}
