//! Lists of servers that one deployment publishes and others go by, on the real binaries.

use federation_tests::{
    Answer, Client, Engine, FakePeer, Network, Reply, Server, enc, eventually, now, on_each_engine, pdu,
};
use serde_json::{Value, json};

use super::{
    admin::{comity, done},
    trust::patch,
};

const PATH: &str = "/api/v1/federation/list";
const HOUR: u64 = 60 * 60 * 1_000;

async fn put(admin: &Client, publisher: &str, wish: Value) -> Answer {
    admin.put(&format!("/api/v1/admin/federation-lists/subscriptions/{}", enc(publisher)), wish).await
}

async fn refresh(admin: &Client, publisher: &str) -> Answer {
    admin.post(&format!("/api/v1/admin/federation-lists/subscriptions/{publisher}/refresh"), json!({})).await
}

async fn subscription(admin: &Client, publisher: &str) -> Value {
    admin.get(&format!("/api/v1/admin/federation-lists/subscriptions/{publisher}")).await.ok()
}

/// How a server is regarded: its level, and why.
async fn regard(admin: &Client, server: &str) -> (String, Value) {
    let regard = admin.get(&format!("/api/v1/admin/servers/{server}/trust")).await.ok();
    (regard["level"].as_str().unwrap_or_default().to_owned(), regard["source"].clone())
}

async fn becomes(admin: &Client, server: &str, level: &str) {
    eventually(&format!("{server} is trusted {level}"), async || {
        (regard(admin, server).await.0 == level).then_some(())
    })
    .await;
}

/// A server that trusts those that nobody has set as far as `limited`, and asks for lists when it is told to.
async fn limited(network: &Network, engine: &Engine, name: &str) -> Server {
    let server = network.server(engine, name).await;
    server.set("federation", "default_trust", "limited").start().await
}

#[tokio::test]
async fn a_server_goes_by_the_list_of_another() {
    on_each_engine(async |engine| {
        let network = Network::new();
        let (a, b) = (limited(&network, &engine, "a.test").await, limited(&network, &engine, "b.test").await);
        let c = FakePeer::start(&network, "c.test").await;
        let (publisher, admin) = (a.admin().await, b.admin().await);
        // There is nothing to subscribe to yet.
        put(&admin, "a.test", json!({ "highest_level": "full", "reason": "a story" }))
            .await
            .problem(502, "list_missing");
        c.get_native(&a, PATH).await.problem(404, "no_list");

        let path = "/api/v1/admin/federation-lists/published";
        let entries =
            json!({ "c.test": { "level": "full", "contact": "mailto:root@c.test" }, "d.test": { "level": "blocked" } });
        let published = publisher.post(path, json!({ "entries": entries, "reason": "our partners" })).await.ok();
        assert_eq!((&published["version"], &published["entries"]), (&json!(1), &entries), "{published}");
        let subscribed =
            put(&admin, "A.Test", json!({ "highest_level": "full", "reason": "our federation" })).await.ok();
        assert_eq!(subscribed["keys"], published["keys"], "both admins see the same key");
        assert_eq!((&subscribed["digest"], &subscribed["state"]), (&published["digest"], &json!("current")));

        // What c.test may do at b.test is what the list gives; it can see so itself.
        let (level, source) = regard(&admin, "c.test").await;
        let by_list = json!({ "by": "list", "publisher": "a.test", "version": 1, "state": "current" });
        assert_eq!((level.as_str(), &source), ("full", &by_list));
        let status = c.get_native(&b, "/api/v1/federation/peer-status").await.ok();
        assert_eq!((&status["level"], &status["listed_by"]), (&json!("full"), &json!("a.test")), "{status}");
        assert_eq!(status["capabilities"]["presence"], "yes", "{status}");
        assert_eq!(regard(&admin, "d.test").await.0, "blocked");
        assert_eq!(regard(&admin, "e.test").await, ("limited".to_owned(), json!({ "by": "default" })));

        // It lifts nobody above what the subscription allows.
        put(&admin, "a.test", json!({ "highest_level": "restricted", "reason": "less" })).await.ok();
        becomes(&admin, "c.test", "restricted").await;
        let profile = format!("/_matrix/federation/v1/query/profile?user_id={}", enc("@root:b.test"));
        c.get(&b, &profile).await.refused(403, "M_FORBIDDEN");
        put(&admin, "a.test", json!({ "highest_level": "full", "reason": "more" })).await.ok();
        c.get(&b, &profile).await.ok();

        // What an admin of b.test has set goes before it.
        patch(&admin, "c.test", json!({ "level": "blocked", "reason": "spam" })).await.ok();
        assert_eq!(regard(&admin, "c.test").await.0, "blocked");
        c.get(&b, &profile).await.refused(403, "M_FORBIDDEN");
        admin.delete("/api/v1/admin/peers/c.test?reason=sorry").await;
        becomes(&admin, "c.test", "full").await;

        // A new version is followed; who isn't in it any more is trusted like anybody.
        let next =
            json!({ "entries": { "c.test": null, "d.test": { "level": "restricted" } }, "reason": "they have left" });
        assert_eq!(publisher.post(path, next).await.ok()["version"], 2);
        assert_eq!(refresh(&admin, "a.test").await.ok()["version"], 2);
        assert_eq!(regard(&admin, "c.test").await.0, "limited");
        assert_eq!(regard(&admin, "d.test").await.0, "restricted");
        let log = admin.get("/api/v1/admin/audit?peer=a.test").await.ok();
        assert_eq!(log["entries"][0]["action"], "list.taken", "{log}");
        assert_eq!(log["entries"][0]["after"]["changes"]["c.test"], Value::Null, "{log}");
        assert_eq!(admin.get("/api/v1/admin/audit/verify").await.ok()["intact"], true);
        // Whoever is blocked is not told the list.
        patch(&publisher, "c.test", json!({ "level": "blocked", "reason": "spam" })).await.ok();
        c.get_native(&a, PATH).await.problem(403, "not_trusted");
    })
    .await;
}

#[tokio::test]
async fn lists_are_published_and_subscribed_to_by_the_command_line_and_kept_up_with() {
    on_each_engine(async |engine| {
        let network = Network::new();
        let a = limited(&network, &engine, "a.test").await;
        let b = network.server(&engine, "b.test").await.set("federation", "default_trust", "limited");
        let b = b.set("federation", "list_refresh", "1s").start().await;
        let admin = b.admin().await;
        done(&a, &["peer", "set", "c.test", "--level", "full", "--reason", "we know them"]).await;
        let said =
            done(&a, &["list", "publish", "--from", "peers", "--set", "d.test=restricted", "--reason", "as agreed"]);
        assert!(said.await.contains("a.test\t1\t-\tpublished\t2 servers\t"));
        let said =
            done(&b, &["list", "subscribe", "a.test", "--highest-level", "full", "--reason", "our federation"]).await;
        let shown: Value = serde_json::from_str(&done(&a, &["list", "show", "a.test"]).await).expect("it is JSON");
        let words = done(&a, &["peer", "words"]).await;
        assert_eq!(shown["words"], json!(words.split_whitespace().collect::<Vec<_>>()), "{shown}");
        assert!(said.contains("a.test\t1\tfull\tcurrent\t2 servers\t") && said.contains(words.trim()), "{said}");
        // The running server hears of it, and keeps up with it by itself.
        becomes(&admin, "c.test", "full").await;
        becomes(&admin, "d.test", "restricted").await;
        let shown: Value = serde_json::from_str(&done(&b, &["peer", "show", "c.test"]).await).expect("it is JSON");
        assert_eq!((&shown["level"], &shown["source"]["publisher"]), (&json!("full"), &json!("a.test")), "{shown}");
        done(&a, &["list", "publish", "--set", "c.test=limited", "--drop", "d.test", "--reason", "less"]).await;
        becomes(&admin, "c.test", "limited").await;
        becomes(&admin, "d.test", "limited").await;
        let list = done(&b, &["list", "show"]).await;
        assert!(list.starts_with("a.test\t2\tfull\tcurrent\tok\t20"), "{list}");
        done(&a, &["list", "publish", "--set", "d.test=blocked", "--reason", "spam"]).await;
        becomes(&admin, "d.test", "blocked").await;
        done(&a, &["list", "withdraw", "--reason", "no more"]).await;
        becomes(&admin, "d.test", "limited").await;
        assert!(done(&b, &["list", "refresh"]).await.contains("a.test\t4\tfull"));
        done(&b, &["list", "unsubscribe", "a.test", "--reason", "no more"]).await;
        // Words that were said by phone are those of the keys that are shown, or nothing comes of it.
        let subscribe = ["list", "subscribe", "a.test", "--highest-level", "full", "--reason", "by phone", "--words"];
        let (is_done, said) = comity(&b, &[&subscribe[..], &["abandon ability"]].concat()).await;
        assert!(!is_done && said.contains(words.trim()) && said.contains("somebody is in between"), "{said}");
        done(&b, &[&subscribe[..], &[words.trim()]].concat()).await;
        done(&b, &["list", "unsubscribe", "a.test", "--reason", "no more"]).await;
        for (server, arguments, remedy) in [
            (&b, &["list", "show", "a.test"][..], "not subscribed"),
            (&b, &["list", "withdraw", "--reason", "why"], "publishes no list"),
            (&b, &["list", "subscribe", "b.test", "--highest-level", "full", "--reason", "why"], "is this server"),
            (&b, &["list", "subscribe", "a.test", "--reason", "why"], "`highest_level`"),
            (&b, &["list", "subscribe", "*.test", "--highest-level", "full", "--reason", "why"], "one server"),
            (&b, &["list", "subscribe", "nowhere.test", "--highest-level", "full", "--reason", "why"], "comity doctor"),
            (&a, &["list", "publish", "--set", "c.test=best", "--reason", "why"], "restricted"),
            (&a, &["list", "publish", "--set", "a.test=full", "--reason", "why"], "this server"),
            (&a, &["list", "publish", "--expires-in", "9years", "--reason", "why"], "a year at most"),
            (&b, &["list", "clear-alarm", "c.test", "--reason", "why"], "no key of c.test"),
        ] {
            let (is_done, said) = comity(server, arguments).await;
            assert!(!is_done && said.contains(remedy) && !said.contains("panicked"), "{arguments:?}: {said}");
        }
    })
    .await;
}

/// A list as `publisher` would sign it, of one server.
fn list(publisher: &FakePeer, version: u64, issued_at: u64, expires_at: u64, level: &str) -> Value {
    let mut list = json!({
        "type": "org.comity.federation_list", "publisher": publisher.name, "version": version,
        "issued_at": issued_at, "expires_at": expires_at, "entries": { "c.test": { "level": level } },
    });
    pdu::sign(&mut list, &publisher.name, publisher.key_id(), publisher.key());
    list
}

#[tokio::test]
async fn a_publisher_that_lies_is_refused_by_a_code_of_its_own_and_what_it_said_before_goes_on() {
    on_each_engine(async |engine| {
        let network = Network::new();
        let server = limited(&network, &engine, "b.test").await;
        let admin = server.admin().await;
        let publisher = FakePeer::start(&network, "p.test").await;
        let liar = FakePeer::start(&network, "liar.test").await;
        let answers = |reply: Reply| publisher.reply("GET", PATH, reply);
        let (then, until) = (now() - HOUR, now() + HOUR);
        let good = |version, level| list(&publisher, version, then, until, level);
        answers(Reply::Json(200, good(3, "full")));
        put(&admin, "p.test", json!({ "highest_level": "full", "reason": "a story" })).await.ok();
        let heard = publisher.heard().into_iter().find(|heard| heard.path == PATH).expect("it was asked");
        assert!(heard.authorization.contains("origin=\"b.test\""), "it is told who asks: {}", heard.authorization);

        let mut forged = good(4, "blocked");
        forged["entries"]["c.test"]["level"] = json!("full");
        let mut unsigned = good(4, "blocked");
        unsigned.as_object_mut().expect("it is an object").remove("signatures");
        let mut by_another = good(4, "blocked");
        by_another.as_object_mut().expect("it is an object").remove("signatures");
        pdu::sign(&mut by_another, "p.test", publisher.key_id(), liar.key());
        let mut strange = good(4, "blocked");
        strange["more"] = json!("than there should be");
        pdu::sign(&mut strange, "p.test", publisher.key_id(), publisher.key());
        let mut crowded = good(4, "blocked");
        for at in 0..6_000 {
            crowded["entries"][format!("s{at}.test")] = json!({ "level": "full" });
        }
        pdu::sign(&mut crowded, "p.test", publisher.key_id(), publisher.key());
        let of_another = list(&liar, 4, then, until, "blocked");
        let refused = json!({ "errcode": "M_FORBIDDEN", "error": "not for you" });
        let lies = [
            (Reply::Json(200, good(2, "blocked")), "list_rollback"),
            (Reply::Json(200, good(3, "blocked")), "list_equivocation"),
            (Reply::Json(200, list(&publisher, 4, then, now() - 1, "blocked")), "list_expired"),
            (Reply::Json(200, list(&publisher, 4, until, until + HOUR, "blocked")), "list_from_future"),
            (Reply::Json(200, forged), "list_wrong_key"),
            (Reply::Json(200, unsigned), "list_wrong_key"),
            (Reply::Json(200, by_another), "list_wrong_key"),
            (Reply::Json(200, of_another), "list_wrong_publisher"),
            (Reply::Json(200, strange), "list_malformed"),
            (Reply::Json(200, publisher.published_keys()), "list_malformed"),
            (Reply::Bytes(b"{ not json".to_vec()), "list_malformed"),
            (Reply::Html(200), "list_malformed"),
            (Reply::Json(200, crowded), "list_too_large"),
            (Reply::Endless, "list_too_large"),
            (Reply::Json(404, json!({ "errcode": "M_UNRECOGNIZED", "error": "?" })), "list_missing"),
            (Reply::Json(403, refused), "list_refused"),
            (Reply::Html(502), "list_unreachable"),
            (Reply::Redirect("https://liar.test/".to_owned()), "list_unreachable"),
            (Reply::HangUp, "list_unreachable"),
        ];
        let mut count = 0;
        for (lie, code) in lies {
            let what = format!("{lie:?}").chars().take(200).collect::<String>();
            answers(lie);
            let problem = refresh(&admin, "p.test").await.problem(502, code);
            assert!(problem["remedy"].as_str().is_some_and(|remedy| remedy.len() > 10), "{what}: {problem}");
            let view = subscription(&admin, "p.test").await;
            assert_eq!((&view["refusal"]["code"], &view["version"]), (&json!(code), &json!(3)), "{what}: {view}");
            let (level, source) = regard(&admin, "c.test").await;
            assert_eq!((level.as_str(), &source["version"]), ("full", &json!(3)), "{what}");
            count += 1;
        }
        let metrics = server.anonymous().get("/metrics").await.text;
        let counted: u64 = metrics
            .lines()
            .filter(|line| line.starts_with("comity_federation_list_fetches_total") && !line.contains("outcome=\"ok\""))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        assert_eq!(counted, count, "each is counted: {metrics}");
        assert!(server.log().contains("list_rollback"), "and told in the log");

        // Nothing of it was written down as a change, nor does a restart bring any of it back.
        let log = admin.get("/api/v1/admin/audit?peer=p.test").await.ok();
        assert_eq!(log["entries"].as_array().map(Vec::len), Some(1), "{log}");
        answers(Reply::Json(200, good(4, "restricted")));
        let view = refresh(&admin, "p.test").await.ok();
        assert_eq!((&view["version"], view.get("refusal")), (&json!(4), None), "{view}");
        assert_eq!(regard(&admin, "c.test").await.0, "restricted");
        // A new subscription to a liar is none.
        liar.reply("GET", PATH, Reply::Json(200, good(9, "full")));
        put(&admin, "liar.test", json!({ "highest_level": "full", "reason": "why not" }))
            .await
            .problem(502, "list_wrong_publisher");
        assert_eq!(
            admin.get("/api/v1/admin/federation-lists").await.ok()["subscriptions"].as_array().map(Vec::len),
            Some(1)
        );
    })
    .await;
}

#[tokio::test]
async fn a_list_that_runs_out_goes_on_and_is_then_closed_to_newcomers() {
    on_each_engine(async |engine| {
        let network = Network::new();
        let server = network.server(&engine, "b.test").await.set("federation", "default_trust", "limited");
        let server = server.set("federation", "list_refresh", "1s").set("federation", "list_grace", "1h");
        let mut server = server.start().await;
        let (admin, alice) = (server.admin().await, server.register_with_secret("alice").await);
        let publisher = FakePeer::start(&network, "p.test").await;
        let known = FakePeer::start(&network, "c.test").await;
        let stranger = FakePeer::start(&network, "d.test").await;
        let list = |version: u64, expires_at: u64| {
            let mut list = json!({
                "type": "org.comity.federation_list", "publisher": "p.test", "version": version,
                "issued_at": now() - HOUR, "expires_at": expires_at,
                "entries": { "c.test": { "level": "full" }, "d.test": { "level": "full" } },
            });
            pdu::sign(&mut list, "p.test", publisher.key_id(), publisher.key());
            Reply::Json(200, list)
        };
        publisher.reply("GET", PATH, list(1, now() + 8_000));
        put(&admin, "p.test", json!({ "highest_level": "full", "reason": "a story" })).await.ok();
        publisher.reply("GET", PATH, Reply::HangUp);
        // One of them has something to do here while the list is good.
        let profile = format!("/_matrix/federation/v1/query/profile?user_id={}", enc(&alice.user_id));
        known.get(&server, &profile).await.ok();
        let state_becomes = async |state: &str| {
            eventually(&format!("the list is {state}"), async || {
                (regard(&admin, "c.test").await.1["state"] == state).then_some(())
            })
            .await;
        };
        state_becomes("static").await;
        assert_eq!(
            (regard(&admin, "c.test").await.0.as_str(), regard(&admin, "d.test").await.0.as_str()),
            ("full", "full")
        );
        let view = subscription(&admin, "p.test").await;
        assert_eq!(
            (&view["state"], &view["refusal"]["code"]),
            (&json!("static"), &json!("list_unreachable")),
            "{view}"
        );
        // An hour is long for a test: the server starts again, and lets lists go on for no longer than a moment.
        let file = server.folder().join("config.toml");
        let config = std::fs::read_to_string(&file).expect("it is there");
        std::fs::write(&file, config.replace("list_grace = \"1h\"", "list_grace = \"1s\"")).expect("it is ours");
        server.stop().await;
        server.restart().await;
        state_becomes("closed").await;
        becomes(&admin, "d.test", "limited").await;
        assert_eq!(regard(&admin, "c.test").await.0, "full");
        stranger.get(&server, &profile).await.ok();
        let view = subscription(&admin, "p.test").await;
        let levels: Vec<_> = view["servers"].as_array().into_iter().flatten().map(|server| &server["level"]).collect();
        assert_eq!((&view["state"], levels), (&json!("closed"), vec![&json!("full"), &json!("limited")]), "{view}");
        assert!(server.log().contains("no longer lifts the 1 servers"), "it is told in the log");
        // It comes back, and all is as it was.
        publisher.reply("GET", PATH, list(2, now() + HOUR));
        becomes(&admin, "d.test", "full").await;
        assert_eq!(regard(&admin, "c.test").await.1["state"], "current");
    })
    .await;
}

#[tokio::test]
async fn a_publisher_that_changes_its_key_is_followed_if_the_old_one_has_signed_that() {
    let network = Network::new();
    let server = limited(&network, &Engine::Sqlite, "b.test").await;
    let admin = server.admin().await;
    let publisher = FakePeer::start(&network, "p.test").await;
    let signer = FakePeer::start(&network, "key.test").await;
    publisher.reply("GET", PATH, Reply::Json(200, list(&publisher, 1, now() - HOUR, now() + HOUR, "full")));
    put(&admin, "p.test", json!({ "highest_level": "full", "reason": "a story" })).await.ok();

    // From now on it signs with the key of another, which is as good as any.
    let mut second = list(&publisher, 2, now() - HOUR, now() + HOUR, "restricted");
    second.as_object_mut().expect("it is an object").remove("signatures");
    pdu::sign(&mut second, "p.test", "ed25519:second", signer.key());
    publisher.reply("GET", PATH, Reply::Json(200, second));
    let mut keys = publisher.published_keys();
    let fields = keys.as_object_mut().expect("it is an object");
    fields.remove("signatures");
    let key = pdu::base64(signer.key().verifying_key().as_bytes());
    fields.insert("verify_keys".to_owned(), json!({ "ed25519:second": { "key": key } }));
    pdu::sign(&mut keys, "p.test", "ed25519:second", signer.key());
    publisher.reply("GET", "/_matrix/key/v2/server", Reply::Json(200, keys.clone()));
    refresh(&admin, "p.test").await.problem(502, "list_wrong_key");
    assert_eq!(regard(&admin, "c.test").await.0, "full");
    pdu::sign(&mut keys, "p.test", publisher.key_id(), publisher.key());
    publisher.reply("GET", "/_matrix/key/v2/server", Reply::Json(200, keys));
    let view = refresh(&admin, "p.test").await.ok();
    assert_eq!((&view["version"], &view["keys"]), (&json!(2), &json!({ "ed25519:second": key })), "{view}");
    assert_eq!(regard(&admin, "c.test").await.0, "restricted");

    // An admin who has compared keys by phone says which; that of somebody in between isn't it.
    let wrong = json!({ "keys": { "ed25519:second": pdu::base64(&[1; 32]) }, "reason": "by phone" });
    put(&admin, "p.test", wrong).await.ok();
    refresh(&admin, "p.test").await.problem(502, "list_wrong_key");
    let right = json!({ "keys": { "ed25519:second": key }, "reason": "by phone, again" });
    put(&admin, "p.test", right).await.ok();
    refresh(&admin, "p.test").await.ok();
}

/// Keys in a list are pinned: who is in between of a listed server and this one is noticed.
#[tokio::test]
async fn a_listed_server_that_shows_another_key_is_not_believed() {
    let network = Network::new();
    let server = limited(&network, &Engine::Sqlite, "b.test").await;
    let (admin, alice) = (server.admin().await, server.register_with_secret("alice").await);
    let publisher = FakePeer::start(&network, "p.test").await;
    let honest = FakePeer::start(&network, "c.test").await;
    let other = FakePeer::start(&network, "d.test").await;
    let key = |peer: &FakePeer| json!({ peer.key_id(): pdu::base64(peer.key().verifying_key().as_bytes()) });
    let mut list = json!({
        "type": "org.comity.federation_list", "publisher": "p.test", "version": 1,
        "issued_at": now() - HOUR, "expires_at": now() + HOUR,
        "entries": {
            "c.test": { "level": "full", "keys": key(&honest) },
            // Whoever answers as d.test has another key than this.
            "d.test": { "level": "full", "keys": key(&honest) },
        },
    });
    pdu::sign(&mut list, "p.test", publisher.key_id(), publisher.key());
    publisher.reply("GET", PATH, Reply::Json(200, list));
    put(&admin, "p.test", json!({ "highest_level": "full", "reason": "a story" })).await.ok();
    let profile = format!("/_matrix/federation/v1/query/profile?user_id={}", enc(&alice.user_id));
    honest.get(&server, &profile).await.ok();
    let refused = other.get(&server, &profile).await;
    assert!([401, 403].contains(&refused.status), "{}", refused.text);
    let servers = subscription(&admin, "p.test").await["servers"].clone();
    let standings: Vec<_> = servers.as_array().into_iter().flatten().map(|server| &server["standing"]).collect();
    assert_eq!(standings, ["active", "alarmed"], "{servers}");
    assert!(servers[1]["alarm"].as_str().is_some_and(|alarm| alarm.contains(other.key_id())), "{servers}");
    // An admin who knows better sets it.
    patch(&admin, "d.test", json!({ "level": "limited", "pinned_keys": key(&other), "reason": "by phone" })).await.ok();
    let answers = async || {
        let answer = other.get(&server, &profile).await;
        (answer.status == 200).then_some(())
    };
    eventually("it is believed", answers).await;
}
