//! Two servers become peers by agreement, and whoever stands between them is found out.

use std::net::SocketAddr;

use federation_tests::{
    Answer, Client, Engine, FEDERATION_PORT, FakePeer, Network, Reply, Server, eventually, now, on_each_engine, pdu,
    service_of,
};
use serde_json::{Value, json};

use super::{
    admin::{comity, done},
    trust::patch,
};

const PEERING: &str = "/api/v1/admin/peering";

/// What an admin says by phone.
async fn words_of(admin: &Client) -> String {
    let words = admin.get(PEERING).await.ok()["words"].clone();
    words.as_array().expect("there are some").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

async fn offer(admin: &Client, server: &str, words: &str, level: &str, ask: &str) -> Answer {
    let wish = json!({ "server": server, "words": words, "level": level, "ask": ask, "reason": "we work together" });
    admin.post(PEERING, wish).await
}

/// What became of the offer `id`, as an admin sees it.
async fn seen(admin: &Client, id: &str) -> Value {
    let list = admin.get(PEERING).await.ok();
    let found = list["peerings"].as_array().and_then(|list| list.iter().find(|peering| peering["id"] == id)).cloned();
    found.unwrap_or_default()
}

async fn peer_row(admin: &Client, server: &str) -> Value {
    admin.get(&format!("/api/v1/admin/peers/{server}")).await.ok()
}

fn keys_of(document: &Value) -> &Value {
    &document["from"]["keys"]
}

/// Two servers, and an admin of each; `b.test` trusts nobody whom it doesn't know.
struct Scene {
    network: Network,
    _servers: [Server; 2],
    anna: Client,
    bert: Client,
}

impl Scene {
    async fn set(engine: &Engine) -> Self {
        let network = Network::new();
        let a = network.server(engine, "a.test").await.set("federation", "default_trust", "limited").start().await;
        let b = network.server(engine, "b.test").await.set("federation", "default_trust", "blocked").start().await;
        let (anna, bert) = (a.admin().await, b.admin().await);
        Self { network, _servers: [a, b], anna, bert }
    }

    /// Anna's offer, which Bert has got.
    async fn offered(&self) -> Value {
        let made = offer(&self.anna, "b.test", &words_of(&self.bert).await, "full", "full").await.ok();
        self.bert.post(&format!("{PEERING}/received"), json!({ "offer": made["document"] })).await.ok();
        made
    }

    async fn accept(&self, id: &str, words: &str) -> Answer {
        let yes = json!({ "words": words, "level": "limited", "reason": "we work together" });
        self.bert.post(&format!("{PEERING}/{id}/accept"), yes).await
    }
}

#[tokio::test]
async fn who_agrees_is_trusted_as_agreed_and_told_when_that_changes() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let Scene { anna, bert, .. } = &scene;
        let made = scene.offered().await;
        // A server that trusts nobody it doesn't know takes no offers from the wire; by hand it does.
        assert!(made["trouble"].to_string().contains("refused"), "{made}");
        let id = made["id"].as_str().expect("it has an id").to_owned();
        assert_eq!((&made["state"], &made["is_ours"]), (&json!("offered"), &json!(true)), "{made}");

        let said = words_of(anna).await;
        let misheard = format!("{} zoo", said.rsplit_once(' ').expect("there are some").0);
        scene.accept(&id, &misheard).await.problem(403, "words_differ");
        assert_eq!(seen(bert, &id).await["state"], "offered");
        bert.get("/api/v1/admin/peers/a.test").await.problem(404, "not_found");

        let agreed = scene.accept(&id, &said.to_uppercase()).await.ok();
        assert_eq!(agreed["state"], "agreed", "{agreed}");
        let there = seen(anna, &id).await;
        assert_eq!((&there["state"], &there["document"]), (&json!("agreed"), &agreed["document"]), "{there}");
        assert_eq!(agreed["levels"], json!({ "a.test": "limited", "b.test": "full" }));
        let signatures = agreed["document"]["signatures"].as_object().expect("it is signed");
        assert_eq!(signatures.keys().collect::<Vec<_>>(), ["a.test", "b.test"]);
        let (a, b) = (peer_row(bert, "a.test").await, peer_row(anna, "b.test").await);
        assert_eq!((&a["level"], &b["level"]), (&json!("limited"), &json!("full")));
        assert_eq!(&a["settings"]["pinned_keys"], keys_of(&made["document"]));
        assert_eq!(&b["settings"]["pinned_keys"], keys_of(&agreed["document"]));

        // An offer is good once.
        scene.accept(&id, &said).await.problem(409, "offer_used");
        anna.post(&format!("{PEERING}/{id}/withdraw"), json!({ "reason": "why" }))
            .await
            .problem(409, "agreement_in_force");

        // Whenever one of the two sees the other otherwise, it says so.
        let hears = async |what: &str| {
            eventually(&format!("b.test hears that it is {what}"), async || {
                (seen(bert, &id).await["heard"] == what).then_some(())
            })
            .await;
        };
        patch(anna, "b.test", json!({ "level": "restricted", "reason": "for now" })).await.ok();
        hears("restricted").await;
        scene.network.link("a.test", "b.test").cut();
        patch(anna, "b.test", json!({ "level": "blocked", "reason": "spam" })).await.ok();
        eventually("b.test could not be told", async || seen(anna, &id).await["trouble"].is_string().then_some(()))
            .await;
        scene.network.link("a.test", "b.test").mend();
        hears("blocked").await;
        assert_eq!(seen(anna, &id).await["state"], "agreed");
        // What the other one does is its own to decide.
        assert_eq!(peer_row(bert, "a.test").await["level"], "limited");
        let gone = anna.attempt(reqwest::Method::DELETE, "/api/v1/admin/peers/b.test?reason=over", None).await;
        assert_eq!(gone.expect("it is answered").status, 204);
        for admin in [anna, bert] {
            eventually("it has ended", async || (seen(admin, &id).await["state"] == "ended").then_some(())).await;
            assert_eq!(admin.get("/api/v1/admin/audit/verify").await.ok()["intact"], true);
        }
        let log = bert.get("/api/v1/admin/audit?peer=a.test").await.ok();
        let actions: Vec<_> = log["entries"].as_array().expect("it is a list").iter().map(|it| &it["action"]).collect();
        let notices = actions.iter().filter(|action| **action == "peering.notice").count();
        assert!(notices >= 3 && actions.ends_with(&[&json!("peering.agree"), &json!("peering.accept")]), "{log}");
    })
    .await;
}

#[tokio::test]
async fn offers_are_made_and_accepted_by_the_command_line_beside_running_servers() {
    let (_network, [a, b]) = Network::start_mixed(["a.test", "b.test"]).await;
    let words = |said: String| said.lines().next().unwrap_or_default().to_owned();
    let (ours, theirs) = (words(done(&a, &["peer", "words"]).await), words(done(&b, &["peer", "words"]).await));
    let mut make =
        vec!["peer", "offer", "b.test", "--level", "full", "--ask", "limited", "--reason", "we work together"];
    make.extend(["--contact", "+00 1234", "--endpoint", "10.0.0.1:8448", "--words", &theirs]);
    let made: Value = serde_json::from_str(&words(done(&a, &make).await)).expect("it is JSON");
    let id = made["id"].as_str().expect("it has an id");
    let list = done(&b, &["peer", "offers"]).await;
    assert!(list.contains(&format!("{id}\ta.test\ttheirs\toffered\ta.test=limited,b.test=full\t{ours}")), "{list}");

    let accept = ["peer", "accept", "a.test", "--words", &ours, "--reason", "we work together"];
    let said = done(&b, &accept).await;
    assert!(said.contains("\tagreed\t"), "{said}");
    assert!(done(&a, &["peer", "offers"]).await.contains("\tagreed\t"));
    assert!(done(&b, &["peer", "list"]).await.contains("a.test\tlimited\tactive"));
    assert!(done(&a, &["peer", "list"]).await.contains("b.test\tfull\tactive"));

    // Where the other one says to be is told, and no more.
    let bert = b.admin().await;
    let agreed = seen(&bert, id).await;
    assert_eq!((&agreed["endpoint"], &agreed["contact"]), (&json!("10.0.0.1:8448"), &json!("+00 1234")), "{agreed}");
    assert!(peer_row(&bert, "a.test").await["settings"]["endpoint"].is_null());

    // A newer offer is instead of an older one, and can be declined.
    make[4] = "limited";
    done(&a, &make).await;
    make[4] = "restricted";
    done(&a, &make).await;
    let list = done(&b, &["peer", "offers"]).await;
    assert_eq!((list.matches("\toffered\t").count(), list.matches("\twithdrawn\t").count()), (1, 1), "{list}");
    assert!(done(&b, &["peer", "withdraw", "a.test", "--reason", "no"]).await.contains("\trefused\t"));

    for (arguments, remedy) in [
        (&["peer", "offer", "a.test", "--words", "x", "--level", "full", "--reason", "why"][..], "this server"),
        (&["peer", "offer", "nowhere.test", "--words", "x", "--level", "full", "--reason", "why"], "can't be found"),
        (&["peer", "offer", "b.test", "--words", "x", "--level", "full", "--reason", "why"], "by phone"),
        (
            &["peer", "offer", "b.test", "--words", &theirs, "--level", "blocked", "--reason", "why"],
            "restricted at least",
        ),
        (&["peer", "offer", "b.test", "--words", &theirs, "--level", "full", "--reason", " "], "`reason`"),
        (
            &[
                "peer",
                "offer",
                "b.test",
                "--words",
                &theirs,
                "--level",
                "full",
                "--expires-in",
                "90d",
                "--reason",
                "why",
            ],
            "30 days",
        ),
        (&["peer", "accept", "b.test", "--words", "x", "--reason", "why"], "no offer"),
        (&["peer", "accept", id, "--words", "x", "--reason", "why"], "no offer"),
        (&["peer", "withdraw", "nothing", "--reason", "why"], "no offer"),
    ] {
        let (is_done, said) = comity(&a, arguments).await;
        assert!(!is_done && said.contains(remedy) && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}

/// Somebody who answers for `name` in the middle, to `victim`, with keys of their own.
async fn impostor(network: &Network, victim: &str, name: &str) -> FakePeer {
    let address = SocketAddr::new(network.spare_ip(), FEDERATION_PORT);
    let mallory = FakePeer::listen(network, name, address, &[name]).await;
    let alias = format!("mallory.{name}");
    network.names.host(&alias, &[address.ip()]);
    network.names.service_for(victim, &service_of(name), &[(10, 0, FEDERATION_PORT, &alias)]);
    mallory
}

async fn nothing_is_agreed(anna: &Client, bert: &Client) {
    anna.get("/api/v1/admin/peers/b.test").await.problem(404, "not_found");
    bert.get("/api/v1/admin/peers/a.test").await.problem(404, "not_found");
}

#[tokio::test]
async fn who_stands_between_two_servers_and_swaps_their_keys_is_found_out() {
    let (network, [a, b]) = Network::start_mixed(["a.test", "b.test"]).await;
    let posing_as_b = impostor(&network, "a.test", "b.test").await;
    let posing_as_a = impostor(&network, "b.test", "a.test").await;
    let (anna, bert) = (a.admin().await, b.admin().await);
    let (hers, his) = (words_of(&anna).await, words_of(&bert).await);

    // Anna's server is shown the keys of somebody in between, and Bert says other words.
    offer(&anna, "b.test", &his, "full", "full").await.problem(403, "words_differ");
    assert_eq!(anna.get(PEERING).await.ok()["peerings"], json!([]));
    // If Anna is careless, the other server finds that out.
    let careless = offer(&anna, "b.test", &words_in(&posing_as_b), "full", "full").await.ok();
    let carried = json!({ "offer": careless["document"] });
    bert.post(&format!("{PEERING}/received"), carried).await.problem(403, "keys_swapped");

    // Bert's server is offered something by somebody who seems to be Anna's.
    let forged = signed(&posing_as_a, offer_of(&posing_as_a, &b).await);
    posing_as_a.post_native(&b, "/api/v1/federation/peering/offer", forged).await.ok();
    assert_eq!(seen(&bert, AN_ID).await["state"], "offered");
    let yes = json!({ "words": hers, "reason": "we work together" });
    bert.post(&format!("{PEERING}/{AN_ID}/accept"), yes).await.problem(403, "words_differ");
    nothing_is_agreed(&anna, &bert).await;
    for server in [&a, &b] {
        assert!(server.log().contains("the words that were said are not those"), "the operator is told");
    }
}

#[tokio::test]
async fn who_comes_between_two_servers_after_the_offer_was_made_is_found_out() {
    let (network, [a, b]) = Network::start_mixed(["a.test", "b.test"]).await;
    let _posing_as_a = impostor(&network, "b.test", "a.test").await;
    let (anna, bert) = (a.admin().await, b.admin().await);
    let (hers, his) = (words_of(&anna).await, words_of(&bert).await);

    // Anna's own offer comes through, but who answers for her server is not her server.
    let made = offer(&anna, "b.test", &his, "full", "full").await.ok();
    assert!(made["trouble"].is_string(), "b.test takes nothing from her: {made}");
    bert.post(&format!("{PEERING}/received"), json!({ "offer": made["document"] })).await.ok();
    let yes = json!({ "words": hers, "reason": "we work together" });
    let id = made["id"].as_str().expect("it has an id");
    bert.post(&format!("{PEERING}/{id}/accept"), yes).await.problem(403, "keys_swapped");
    nothing_is_agreed(&anna, &bert).await;

    // And nobody accepts it in Bert's place.
    let address = SocketAddr::new(network.spare_ip(), FEDERATION_PORT);
    let mallory = FakePeer::listen(&network, "b.test", address, &["b.test"]).await;
    let agreement = json!({
        "type": "org.comity.peering.agreement", "offer": made["document"],
        "from": { "server": "b.test", "keys": keys_in(&mallory), "transports": ["https"] },
        "levels": { "a.test": "full", "b.test": "full" }, "agreed_at": now(),
    });
    let refused = mallory.post_native(&a, "/api/v1/federation/peering/accept", signed(&mallory, agreement)).await;
    assert!(matches!(refused.status, 401 | 403), "{}", refused.body);
    assert_eq!(seen(&anna, id).await["state"], "offered");
    nothing_is_agreed(&anna, &bert).await;
    assert!(b.log().contains("somebody may stand between"), "the operator is told");
}

const AN_ID: &str = "an-offer-of-a-test";

/// What `peer` may offer to `server`, before it is signed.
async fn offer_of(peer: &FakePeer, server: &Server) -> Value {
    let shown = peer.get(server, "/_matrix/key/v2/server").await.ok();
    let listed = shown["verify_keys"].as_object().expect("they are listed");
    let theirs: serde_json::Map<String, Value> =
        listed.iter().map(|(id, key)| (id.clone(), key["key"].clone())).collect();
    json!({
        "type": "org.comity.peering.offer", "id": AN_ID,
        "from": { "server": peer.name, "keys": keys_in(peer), "transports": ["https"], "contact": "+00 1234" },
        "to": { "server": server.name(), "keys": theirs },
        "levels": { peer.name.clone(): "full", server.name(): "full" },
        "made_at": now(), "expires_at": now() + 600_000,
    })
}

fn keys_in(peer: &FakePeer) -> Value {
    json!({ peer.key_id(): pdu::base64(peer.key().verifying_key().as_bytes()) })
}

fn words_in(peer: &FakePeer) -> String {
    let keys = serde_json::from_value(keys_in(peer)).expect("they are keys");
    let server = peer.name.as_str().try_into().expect("it is a name");
    peers::peering::words_of(server, &keys).join(" ")
}

/// With the signature of `peer`, as canonical JSON has it.
fn signed(peer: &FakePeer, mut document: Value) -> Value {
    use ed25519_dalek::Signer as _;
    let mut signatures = document["signatures"].as_object().cloned().unwrap_or_default();
    document.as_object_mut().expect("it is an object").remove("signatures");
    let signature = pdu::base64(&peer.key().sign(&pdu::canonical(&document)).to_bytes());
    signatures.insert(peer.name.clone(), json!({ peer.key_id(): signature }));
    document["signatures"] = signatures.into();
    document
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let network = Network::new();
    let b = network.server(&Engine::Sqlite, "b.test").await.start().await;
    let peer = FakePeer::start(&network, "a.test").await;
    let bert = b.admin().await;
    let good = offer_of(&peer, &b).await;
    let ours = keys_in(&peer);
    let changed = |path: &str, value: Value| {
        let mut offer = good.clone();
        *offer.pointer_mut(path).expect("it is there") = value;
        signed(&peer, offer)
    };
    let post = async |offer: Value| peer.post_native(&b, "/api/v1/federation/peering/offer", offer).await;
    let day = 86_400_000;
    for (offer, status, code) in [
        (json!({}), 400, "malformed_document"),
        (changed("/type", json!("org.comity.peering.agreement")), 400, "malformed_document"),
        (changed("/id", json!("short")), 400, "malformed_document"),
        (changed("/levels/a.test", json!("best")), 400, "malformed_document"),
        (changed("/levels/a.test", json!("blocked")), 400, "level_not_offered"),
        (changed("/from/server", json!("c.test")), 400, "offer_of_others"),
        (changed("/to/server", json!("c.test")), 400, "offer_of_others"),
        (changed("/expires_at", json!(now() - 1)), 409, "offer_expired"),
        (changed("/expires_at", json!(now() + 31 * day)), 400, "offer_lifetime"),
        (changed("/made_at", json!(now() + day / 2)), 400, "offer_lifetime"),
        (changed("/to/keys", json!({ "ed25519:x": pdu::base64(&[1; 32]) })), 403, "keys_swapped"),
        (changed("/from/keys", json!({ "ed25519:x": pdu::base64(&[1; 32]) })), 403, "bad_signature"),
        (good.clone(), 403, "bad_signature"),
        (changed("/from/contact", json!("x".repeat(40_000))), 400, "malformed_document"),
    ] {
        post(offer).await.problem(status, code);
    }
    assert_eq!(bert.get(PEERING).await.ok()["peerings"], json!([]));

    // The same offer twice is one.
    for _ in 0..2 {
        post(signed(&peer, good.clone())).await.ok();
    }
    let waiting = bert.get(PEERING).await.ok()["peerings"].clone();
    assert_eq!(waiting.as_array().map(Vec::len), Some(1), "{waiting}");
    // A token for something else is not for this, and nobody answers what wasn't offered.
    let path = "/api/v1/federation/peering/offer";
    let mut narrow = peer.native("b.test", reqwest::Method::POST, path, Some(signed(&peer, good.clone())));
    narrow.claims["scope"] = json!(["messaging"]);
    peer.ask_native(&b, &narrow).await.problem(403, "insufficient_scope");
    let notice = json!({ "id": AN_ID, "trusted": "full", "number": 1 });
    peer.post_native(&b, "/api/v1/federation/peering/notice", notice).await.problem(404, "offer_unknown");
    let agreement = signed(
        &peer,
        json!({
            "type": "org.comity.peering.agreement", "offer": signed(&peer, good.clone()),
            "from": { "server": "a.test", "keys": ours, "transports": [] },
            "levels": { "a.test": "full", "b.test": "full" }, "agreed_at": now(),
        }),
    );
    peer.post_native(&b, "/api/v1/federation/peering/accept", agreement).await.problem(404, "offer_unknown");

    // Who made it signs something else than was agreed: nothing is in force, until it signs what was.
    let path = format!("{PEERING}/{AN_ID}/accept");
    peer.answer(|heard| {
        let asked = heard.path.ends_with("/peering/accept");
        asked.then(|| Reply::Json(200, json!({ "type": "org.comity.peering.agreement" })))
    });
    let yes = json!({ "words": words_in(&peer), "reason": "we work together" });
    let accepted = bert.post(&path, yes).await.ok();
    assert_eq!(accepted["state"], "accepted", "{accepted}");
    bert.get("/api/v1/admin/peers/a.test").await.problem(404, "not_found");
    let both = signed(&peer, accepted["document"].clone());
    peer.answer(move |heard| heard.path.ends_with("/peering/accept").then(|| Reply::Json(200, both.clone())));
    eventually("it is said again", async || (seen(&bert, AN_ID).await["state"] == "agreed").then_some(())).await;
    assert_eq!(peer_row(&bert, "a.test").await["settings"]["pinned_keys"], ours);
}
