//! Full peers share their directories: people, units and SIP phones come over, once and whole, and go again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use federation_tests::{Client, Crossing, Engine, FakePeer, Network, Reply, Server, enc, eventually, on_each_engine};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::trust::patch;

const DIRECTORY: &str = "/api/v1/cascade/directory";
const PHONES: &str = "/api/v1/cascade/sip-phones";

async fn trusts(admin: &Client, peer: &str, level: &str) {
    patch(admin, peer, json!({ "level": level, "reason": "a story" })).await.ok();
}

/// What an admin sees of how far a peer was read.
async fn status(admin: &Client, peer: &str) -> Value {
    let all = admin.get("/api/v1/admin/cascade").await.ok();
    let found = all["peers"].as_array().and_then(|peers| peers.iter().find(|one| one["server"] == peer)).cloned();
    found.unwrap_or_default()
}

async fn is_complete(admin: &Client, peer: &str, people: i64) {
    eventually(&format!("all {people} people of {peer} are known"), async || {
        let status = status(admin, peer).await;
        (status["complete"] == true && status["people"] == people).then_some(())
    })
    .await;
}

/// Who is found on another server by a part of a name.
async fn people(client: &Client, server: &str, term: &str) -> Vec<Value> {
    let found = client.get(&format!("/api/v1/users?q={term}&server={server}")).await;
    found.body["users"].as_array().cloned().unwrap_or_default()
}

/// `@alice:a.test 1001` for each phone that is found.
async fn numbers(client: &Client, query: &str) -> Vec<String> {
    let found = client.get(&format!("/api/v1/sip-phones?{query}")).await.ok();
    let phones = found["phones"].as_array().cloned().unwrap_or_default();
    let word = |phone: &Value| Some(format!("{} {}", phone["user_id"].as_str()?, phone["number"].as_str()?));
    phones.iter().filter_map(word).collect()
}

async fn put_phone(admin: &Client, user_id: &str, number: &str, body: Value) -> Value {
    admin.put(&format!("/api/v1/admin/sip-phones/{}/{}", enc(user_id), enc(number)), body).await.ok()
}

/// How often `from` has asked `to` for its directory, and what it was told.
fn pulls(network: &Network, from: &str, to: &str) -> Vec<(String, Value)> {
    let is_pull =
        |crossing: &Crossing| crossing.from == from && crossing.to == to && crossing.path.starts_with(DIRECTORY);
    let answered = |crossing: Crossing| {
        let (_, body) = crossing.answer?;
        Some((crossing.path, serde_json::from_slice(&body).ok()?))
    };
    network.crossings().into_iter().filter(is_pull).filter_map(answered).collect()
}

/// A server that asks every second.
async fn quick(network: &Network, engine: &Engine, name: &str) -> Server {
    network.server(engine, name).await.set("cascade", "interval", "1s").start().await
}

#[tokio::test]
async fn people_and_numbers_come_over_and_changes_and_removals_follow_them() {
    on_each_engine(async |engine| {
        let network = Network::new();
        let a = quick(&network, &engine, "a.test").await;
        let b = quick(&network, &engine, "b.test").await;
        let (anna, bert) = (a.admin().await, b.admin().await);
        let (alice, aaron, bob) = (
            a.register_with_secret("alice").await,
            a.register_with_secret("aaron").await,
            b.register_with_secret("bob").await,
        );
        let hidden = a.register_with_secret("hidden").await;
        let discoverability = json!({ "by_other_servers": false });
        hidden.put("/api/v1/users/me/discoverability", discoverability.clone()).await;
        anna.put("/api/v1/admin/directory/units/board", json!({ "name": "The Board" })).await.ok();
        anna.put("/api/v1/admin/directory/units/sales", json!({ "name": "Sales", "parent": "board" })).await.ok();
        let facts = json!({ "title": "Head of Sales", "department": "Sales", "unit": "sales" });
        let person = format!("/api/v1/admin/directory/users/{}", enc(&alice.user_id));
        assert_eq!(anna.put(&person, facts).await.status, 204);
        let desk =
            put_phone(&anna, &alice.user_id, "10-01", json!({ "uri": "sip:1001@sip.a.test", "label": "Desk" })).await;
        assert_eq!(desk, json!({ "number": "1001", "uri": "sip:1001@sip.a.test", "kind": "desk", "label": "Desk" }));
        put_phone(&anna, &hidden.user_id, "1002", json!({})).await;
        put_phone(&bert, &bob.user_id, "2001", json!({ "kind": "softphone" })).await;
        // The default level of the rig is full; that isn't enough.
        assert_eq!(status(&bert, "a.test").await, Value::Null);
        assert!(pulls(&network, "b.test", "a.test").is_empty());

        trusts(&bert, "a.test", "full").await;
        eventually("A does not share with whom its admin hasn't named", async || {
            let error = status(&bert, "a.test").await["error"].as_str().unwrap_or_default().to_owned();
            error.contains("an admin makes it full by its name").then_some(())
        })
        .await;
        trusts(&anna, "b.test", "full").await;
        // B was refused before, and would ask again later only: that A asks it shows that A trusts it now.
        is_complete(&bert, "a.test", 3).await;
        is_complete(&anna, "b.test", 2).await;

        let found = people(&bob, "a.test", "ali").await;
        assert_eq!(
            (found.len(), &found[0]["user_id"], &found[0]["display_name"]),
            (1, &json!("@alice:a.test"), &json!("alice"))
        );
        let work = &found[0]["work"];
        assert_eq!(
            (&work["title"], &work["department"], &work["unit"]),
            (&json!("Head of Sales"), &json!("Sales"), &json!("sales"))
        );
        assert_eq!(work["sip_phones"], json!([desk]));
        assert!(work["told_at"].is_i64(), "{work}");
        let one = bob.get("/api/v1/users/alice@a.test").await.ok();
        assert_eq!(one["work"]["title"], "Head of Sales");
        let units = bob.get("/api/v1/directory/units?server=a.test").await.ok();
        assert_eq!(units["units"][1], json!({ "unit_id": "sales", "name": "Sales", "parent": "board" }));
        // Whoever doesn't want to be found by other servers isn't, by number neither.
        assert!(people(&bob, "a.test", "hidden").await.is_empty());
        assert_eq!(numbers(&bob, "").await, ["@bob:b.test 2001", "@alice:a.test 1001"]);
        assert_eq!(
            numbers(&alice, "number=1%20002").await,
            ["@hidden:a.test 1002"],
            "at home everybody sees everything"
        );
        assert_eq!(numbers(&bob, "number=1001&server=a.test").await, ["@alice:a.test 1001"]);
        assert_eq!(numbers(&bob, "user=bob@b.test").await, ["@bob:b.test 2001"]);
        let said = bob.get("/api/v1/sip-phones?number=1001").await.ok()["phones"][0].clone();
        assert_eq!((&said["server"], said["told_at"].is_i64()), (&json!("a.test"), true), "{said}");
        // It was answered without asking.
        let asked =
            network.crossings().into_iter().filter(|crossing| crossing.path.starts_with("/api/v1/federation/users?"));
        assert_eq!(asked.count(), 0);

        // A change comes alone.
        let before = pulls(&network, "b.test", "a.test").len();
        alice
            .put(&format!("profile/{}/displayname", alice.user_id), json!({ "displayname": "Alice Ätherisch" }))
            .await
            .ok();
        eventually("the new name comes", async || (people(&bob, "a.test", "ÄTHER").await.len() == 1).then_some(()))
            .await;
        put_phone(&anna, &alice.user_id, "1003", json!({ "kind": "mobile" })).await;
        anna.delete(&format!("/api/v1/admin/sip-phones/{}/1001", enc(&alice.user_id))).await;
        eventually("phones follow", async || {
            (numbers(&bob, "server=a.test").await == ["@alice:a.test 1003"]).then_some(())
        })
        .await;
        // Who opts out, or leaves, goes there too.
        aaron.put("/api/v1/users/me/discoverability", discoverability).await;
        eventually("Aaron is gone", async || people(&bob, "a.test", "aaron").await.is_empty().then_some(())).await;
        is_complete(&bert, "a.test", 2).await;
        assert_eq!(anna.put(&person, json!({})).await.status, 204);
        anna.delete("/api/v1/admin/directory/units/sales").await;
        eventually("the unit is gone", async || {
            let units = bob.get("/api/v1/directory/units?server=a.test").await.ok();
            (units["units"].as_array().map(Vec::len) == Some(1)).then_some(())
        })
        .await;
        for (path, page) in &pulls(&network, "b.test", "a.test")[before..] {
            let count = page["users"].as_array().map_or(0, Vec::len);
            assert!(path.contains("since=") && page["from_start"] == false && count <= 1, "{path}: {page}");
        }
        // Nor is anybody told who isn't there, and what B has learnt stays with B.
        let told = pulls(&network, "b.test", "a.test").into_iter().chain(pulls(&network, "a.test", "b.test"));
        for (path, page) in told {
            assert!(!page.to_string().contains("hidden"), "{path}: {page}");
            let server = page["server"].as_str().unwrap_or_default().to_owned();
            assert!(page["users"].as_array().into_iter().flatten().all(|user| {
                user["user_id"].as_str().is_some_and(|user_id| user_id.ends_with(&format!(":{server}")))
            }));
        }

        // Less trust: nothing is shown any more, nothing is told any more, and all of it goes.
        trusts(&bert, "a.test", "limited").await;
        assert_eq!(numbers(&bob, "server=a.test").await, [""; 0]);
        assert!(bob.get("/api/v1/users/alice@a.test").await.body["work"].is_null());
        eventually("it is forgotten", async || {
            let counts = join_all(
                ["cascade_peers", "cascade_people", "cascade_phones", "cascade_units"]
                    .map(async |table| b.database().rows(b.folder(), table).await),
            );
            (counts.await == [0, 0, 0, 0]).then_some(())
        })
        .await;
        eventually("A is refused", async || {
            let error = status(&anna, "b.test").await["error"].as_str().unwrap_or_default().to_owned();
            error.contains("may not do this here").then_some(())
        })
        .await;
        // What it told before stays in use.
        assert_eq!(numbers(&alice, "number=2001").await, ["@bob:b.test 2001"]);
    })
    .await;
}

#[tokio::test]
async fn only_full_peers_are_told_and_of_a_servers_own_people() {
    let network = Network::new();
    let a = network.server(&Engine::Sqlite, "a.test").await.start().await;
    let off = network.server(&Engine::Sqlite, "off.test").await.set("cascade", "enabled", false).start().await;
    let (anna, olga) = (a.admin().await, off.admin().await);
    let alice = a.register_with_secret("alice").await;
    put_phone(&anna, &alice.user_id, "1001", json!({})).await;
    let peer = FakePeer::start(&network, "c.test").await;
    for path in [DIRECTORY, PHONES] {
        peer.get_native(&a, path).await.problem(403, "not_shared");
        for level in ["blocked", "restricted", "limited"] {
            trusts(&anna, "c.test", level).await;
            peer.get_native(&a, path).await.problem(403, "not_trusted");
        }
        trusts(&anna, "c.test", "full").await;
        let mut unscoped = peer.native("a.test", Method::GET, path, None);
        unscoped.claims["scope"] = json!(["search"]);
        peer.ask_native(&a, &unscoped).await.problem(403, "insufficient_scope");
        assert_eq!(a.anonymous().get(path).await.status, 401);
        assert_eq!(alice.get(path).await.status, 401, "it isn't for people");
        trusts(&olga, "c.test", "full").await;
        peer.get_native(&off, path).await.problem(404, "cascade_off");
        // The Matrix way of signing is as good.
        peer.get(&a, path).await.ok();
        anna.delete("/api/v1/admin/peers/c.test?reason=x").await;
    }
    trusts(&anna, "c.test", "full").await;

    let first = peer.get_native(&a, &format!("{DIRECTORY}?limit=1")).await.ok();
    assert_eq!((first["from_start"].as_bool(), first["more"].as_bool()), (Some(true), Some(true)), "{first}");
    let next = first["next"].as_str().expect("there is one").to_owned();
    let second = peer.get_native(&a, &format!("{DIRECTORY}?limit=1&since={}", enc(&next))).await.ok();
    assert_eq!((second["from_start"].as_bool(), second["more"].as_bool()), (Some(false), Some(false)), "{second}");
    assert_ne!(first["users"], second["users"]);
    let phone = json!([{ "number": "1001", "kind": "desk" }]);
    assert!([&first, &second].iter().any(|page| page["users"][0]["sip_phones"] == phone), "{first} {second}");
    // What isn't the reader's begins at the beginning.
    let another = FakePeer::start(&network, "d.test").await;
    trusts(&anna, "d.test", "full").await;
    let stolen = another.get_native(&a, &format!("{DIRECTORY}?since={}", enc(&next))).await.ok();
    assert_eq!(stolen["from_start"], true);
    for wrong in ["x", "", "W10.AAAA", &"x".repeat(5_000)] {
        let answer = peer.get_native(&a, &format!("{DIRECTORY}?since={wrong}")).await.ok();
        assert_eq!((&answer["from_start"], answer["users"].as_array().map(Vec::len)), (&json!(true), Some(2)));
    }
    assert_eq!(peer.get_native(&a, &format!("{DIRECTORY}?limit=x")).await.status, 400);
    let phones = peer.get_native(&a, &format!("{PHONES}?number=1001&server=b.test")).await.ok();
    assert_eq!(phones["phones"][0]["user_id"], "@alice:a.test");
    alice.put("/api/v1/users/me/discoverability", json!({ "by_other_servers": false })).await;
    let phones = peer.get_native(&a, PHONES).await.ok();
    assert_eq!(phones, json!({ "phones": [] }));
}

/// The page of a directory of `server` that has `size` people in it, of which it tells those after `since`.
fn page(server: &str, size: usize, since: usize, limit: usize) -> Value {
    let upto = (since + limit).min(size);
    let user = |number| {
        json!({ "user_id": format!("@user{number:05}:{server}"), "active": true, "display_name": format!("User {number}"),
            "sip_phones": [{ "number": format!("{number}"), "kind": "desk" }] })
    };
    let users: Vec<Value> = (since..upto).map(user).collect();
    json!({ "server": server, "from_start": since == 0, "users": users, "next": format!("at-{upto}"), "more": upto < size })
}

fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

#[tokio::test]
async fn who_is_killed_while_it_reads_goes_on_where_it_was() {
    const SIZE: usize = 400;
    on_each_engine(async |engine| {
        let network = Network::new();
        let builder =
            network.server(&engine, "a.test").await.set("cascade", "page", 20).set("cascade", "interval", "1s");
        let mut a = builder.start().await;
        let anna = a.admin().await;
        let peer = FakePeer::start(&network, "b.test").await;
        // It tells half of its people, and then nothing, until the story goes on.
        let stop_at = Arc::new(AtomicUsize::new(SIZE / 2));
        let stopping = stop_at.clone();
        peer.answer(move |heard| {
            if heard.path != DIRECTORY {
                return None;
            }
            assert_eq!(parameter(&heard.query, "limit").as_deref(), Some("20"));
            let since = parameter(&heard.query, "since").map_or(0, |token| token[3..].parse().expect("its own token"));
            Some(match since >= stopping.load(Ordering::SeqCst) {
                true => Reply::Never,
                false => Reply::Json(200, page("b.test", SIZE, since, 20)),
            })
        });
        trusts(&anna, "b.test", "full").await;
        let half = format!("since=at-{}", SIZE / 2);
        peer.hears("the question at which it falls silent", |heard| heard.query.contains(&half).then_some(())).await;
        let so_far = status(&anna, "b.test").await;
        assert_eq!((&so_far["complete"], &so_far["people"]), (&json!(false), &json!(SIZE / 2)), "{so_far}");
        // What is not whole is not in use.
        assert!(numbers(&anna, "number=5").await.is_empty());
        a.kill();
        let before = peer.heard().len();
        stop_at.store(usize::MAX, Ordering::SeqCst);
        a.restart().await;
        is_complete(&anna, "b.test", SIZE as i64).await;
        let asked: Vec<String> = peer.heard()[before..]
            .iter()
            .filter(|heard| heard.path == DIRECTORY)
            .map(|heard| heard.query.clone())
            .collect();
        assert!(asked[0].contains(&half), "it begins where it was: {asked:?}");
        let pages = asked.iter().filter(|query| !query.contains(&format!("since=at-{SIZE}"))).count();
        assert_eq!(pages, SIZE / 2 / 20, "nothing is read twice: {asked:?}");
        assert_eq!(numbers(&anna, "number=5").await, ["@user00005:b.test 5"]);
        assert_eq!(people(&anna, "b.test", "user0039").await.len(), 10);

        // Another directory in its place: what it doesn't tell of is gone when all of it was read, and not before.
        let anew = anna.post("/api/v1/admin/cascade/b.test/ask", json!({ "anew": true })).await;
        assert_eq!(anew.status, 204);
        peer.answer(|heard| {
            let page = page("b.test", 30, if heard.query.contains("since=at-20") { 20 } else { 0 }, 20);
            (heard.path == DIRECTORY && !heard.query.contains("since=at-30")).then_some(Reply::Json(200, page))
        });
        peer.answer(|heard| {
            let nothing = json!({ "server": "b.test", "from_start": false, "next": "at-30", "more": false });
            (heard.path == DIRECTORY && heard.query.contains("since=at-30")).then_some(Reply::Json(200, nothing))
        });
        is_complete(&anna, "b.test", 30).await;
        assert_eq!(numbers(&anna, "number=29").await, ["@user00029:b.test 29"]);
        assert!(numbers(&anna, "number=31").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_lies_or_never_ends_harms_nobody() {
    let network = Network::new();
    let builder = network.server(&Engine::Sqlite, "a.test").await;
    let builder = builder.set("cascade", "page", 10).set("cascade", "max_entries", 50).set("cascade", "interval", "1s");
    let a = builder.set("federation", "request_timeout", "2s").start().await;
    let anna = a.admin().await;
    let alice = a.register_with_secret("alice").await;
    put_phone(&anna, &alice.user_id, "1001", json!({})).await;
    let told = |reply: Value| Reply::Json(200, reply);
    let with = |name: &str, change: Value| {
        let mut page = json!({ "server": name, "from_start": true, "users": [], "next": "n", "more": false });
        page.as_object_mut().expect("it is one").extend(change.as_object().expect("it is one").clone());
        page
    };
    let many: Vec<Value> =
        (0..11).map(|number| json!({ "user_id": format!("@{number}:many.test"), "active": true })).collect();
    let stuck = json!({ "more": true, "users": [{ "user_id": "@bob:stuck.test", "active": true }] });
    let bad = [
        ("silent.test", Reply::Never, "can't be reached"),
        ("gone.test", Reply::HangUp, "can't be reached"),
        ("drip.test", Reply::Drip, "can't be reached"),
        ("endless.test", Reply::Endless, "longer than"),
        ("html.test", Reply::Html(200), "something else"),
        ("error.test", Reply::Html(500), "refused"),
        ("garbage.test", Reply::Bytes(b"{\"server\": [[[".to_vec()), "something else"),
        ("deep.test", Reply::Bytes("[".repeat(1 << 20).into_bytes()), "something else"),
        ("another.test", told(with("a.test", json!({}))), "of another server"),
        ("many.test", told(with("many.test", json!({ "users": many }))), "more than it was asked for"),
        ("stuck.test", told(with("stuck.test", stuck)), "doesn't get on"),
        ("empty.test", told(with("empty.test", json!({ "more": true }))), "doesn't get on"),
        ("token.test", told(with("token.test", json!({ "next": "x".repeat(2_000) }))), "to go on from"),
    ];
    let mut peers = Vec::new();
    for (name, reply, _) in &bad {
        let peer = FakePeer::start(&network, name).await;
        peer.reply("GET", DIRECTORY, reply.clone());
        trusts(&anna, name, "full").await;
        peers.push(peer);
    }
    // One whose people never end, and one that tells the same again and again.
    for name in ["crowd.test", "circle.test"] {
        let peer = FakePeer::start(&network, name).await;
        let count = AtomicUsize::new(0);
        peer.answer(move |heard| {
            let turn = count.load(Ordering::SeqCst);
            let since = if name == "crowd.test" { turn * 10 } else { 0 };
            let mut page = page(name, usize::MAX, since, 10);
            page["from_start"] = json!(turn == 0);
            page["next"] = json!(format!("turn-{turn}"));
            (heard.path == DIRECTORY).then(|| {
                count.fetch_add(1, Ordering::SeqCst);
                Reply::Json(200, page)
            })
        });
        trusts(&anna, name, "full").await;
        peers.push(peer);
    }
    // One that speaks of others' people among its own.
    let liar = FakePeer::start(&network, "liar.test").await;
    let users = json!([
        { "user_id": "@lia:liar.test", "active": true, "display_name": "Lia", "sip_phones": [{ "number": "7" }, { "number": "x" }] },
        { "user_id": "@alice:a.test", "active": true, "display_name": "Mallory", "sip_phones": [{ "number": "1001" }] },
        { "user_id": "@bob:many.test", "active": true }, 7,
    ]);
    let removed = json!({ "users": ["@alice:a.test", "@bob:many.test"] });
    liar.reply("GET", DIRECTORY, told(with("liar.test", json!({ "users": users, "removed": removed }))));
    trusts(&anna, "liar.test", "full").await;

    is_complete(&anna, "liar.test", 1).await;
    let expected = bad.iter().map(|(name, _, error)| (*name, *error));
    for (name, error) in
        expected.chain([("crowd.test", "as many as are kept"), ("circle.test", "does not come to an end")])
    {
        eventually(&format!("{name}: {error}"), async || {
            let status = status(&anna, name).await;
            (status["complete"] == false && status["error"].as_str().is_some_and(|told| told.contains(error)))
                .then_some(())
        })
        .await;
    }
    assert!(status(&anna, "crowd.test").await["people"].as_i64().is_some_and(|people| (50..=60).contains(&people)));
    assert!(status(&anna, "liar.test").await["refused"].as_i64().is_some_and(|refused| refused >= 6));
    assert_eq!(numbers(&alice, "").await, ["@alice:a.test 1001", "@lia:liar.test 7"]);
    let profile = alice.get("/api/v1/users/alice@a.test").await.ok();
    assert_eq!(profile["display_name"], "alice");
    // It is answered while some of them still keep it waiting, and none of them is asked all the time.
    for peer in &peers {
        let asked = peer.heard().iter().filter(|heard| heard.path == DIRECTORY).count();
        assert!(asked < 25, "{} was asked {asked} times", peer.name);
    }
    let metrics = a.anonymous().raw(Method::GET, "/metrics", "", Vec::new()).await.expect("it answers").text;
    for line in ["comity_cascade_refused_entries_total", r#"comity_cascade_pulls_total{outcome="endless"}"#] {
        assert!(metrics.contains(line), "there is no {line}");
    }
}

#[tokio::test]
async fn people_set_their_own_phones_where_they_may() {
    let server = Server::builder(&Engine::Sqlite).set("cascade", "own_phones", true).start().await;
    let (admin, alice) = (server.admin().await, server.register_with_secret("alice").await);
    let own = |number: &str| format!("/api/v1/users/me/sip-phones/{}", enc(number));
    alice.put(&own("+49 30 1234"), json!({ "kind": "mobile" })).await.ok();
    assert_eq!(numbers(&alice, "user=alice@a.test").await, ["@alice:a.test +49301234"]);
    for (number, body) in [
        ("x", json!({})),
        ("1", json!({ "uri": "http://a.test" })),
        ("1", json!({ "kind": "hologram" })),
        ("1", json!({ "label": "\n" })),
        ("1", json!({ "colour": "red" })),
    ] {
        alice.put(&own(number), body).await.problem(400, "invalid");
    }
    let path = format!("/api/v1/admin/sip-phones/{}/1", enc("@nobody:a.test"));
    admin.put(&path, json!({})).await.problem(404, "not_found");
    let unit = json!({ "name": "X", "parent": "nowhere" });
    admin.put("/api/v1/admin/directory/units/x", unit).await.problem(404, "not_found");
    assert_eq!(alice.delete(&own("+49301234")).await.status, 204);
    assert_eq!(alice.delete(&own("+49301234")).await.status, 404);
}
