//! A member's server that lies: what it sends is refused, event by event, and nothing changes.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use federation_tests::{Client, Engine, FakePeer, FakeRoom, Network, Reply, Server, on_each_engine, pdu};
use serde_json::{Value, json};

use super::{arrives, is_known};

/// Alice in a public room with Mallory, whose server does as the test likes.
struct Scene {
    network: Network,
    a: Server,
    peer: FakePeer,
    alice: Client,
    room: FakeRoom,
}

impl Scene {
    async fn set(engine: &Engine, version: &str) -> Self {
        let (network, [a]) = Network::start(engine, ["a.test"]).await;
        let peer = FakePeer::start(&network, "mallory.test").await;
        let alice = a.register_with_secret("alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
        let room = peer.join(&a, &room, "mallory").await;
        Self { network, a, peer, alice, room }
    }

    /// A message of Mallory's that fits.
    fn good(&mut self, text: &str) -> Value {
        self.room.say(&self.peer, "mallory", text)
    }

    /// A message that fits, for the test to spoil. It is nobody's predecessor.
    fn draft(&self) -> Value {
        let content = json!({ "msgtype": "m.text", "body": "a lie" });
        self.room.draft(&self.peer.user("mallory"), "m.room.message", None, content)
    }

    /// Sends the event among good ones, which must be taken while it is not, and with a reason.
    async fn is_refused_among_good_ones(&mut self, what: &str, bad: &Value) {
        let bad_id = self.room.id_of(bad);
        let results = self.send_among_good_ones(what, bad).await;
        let error = results[&bad_id]["error"].as_str().unwrap_or_default();
        assert!(!error.is_empty(), "{what}: nothing says what is wrong with {bad_id}: {results}");
        self.is_not_taken(what, &bad_id).await;
    }

    /// Sends an event among good ones that is well-formed and signed, and that the room's rules forbid: it was handled, and
    /// who sends it hears of no failure.
    async fn is_rejected_among_good_ones(&mut self, what: &str, bad: &Value) {
        let bad_id = self.room.id_of(bad);
        let results = self.send_among_good_ones(what, bad).await;
        assert_eq!(results[&bad_id], json!({}), "{what}: {results}");
        self.is_not_taken(what, &bad_id).await;
    }

    async fn is_not_taken(&self, what: &str, bad_id: &str) {
        assert!(!is_known(&self.alice, &self.room.id, bad_id).await, "{what}: it was taken");
        let history = self.alice.history(&self.room.id).await;
        assert!(!super::ids_of(&history).iter().any(|id| id == bad_id), "{what}: it is in the history");
    }

    /// Sends the event between two good ones, and answers the results once these have arrived.
    async fn send_among_good_ones(&mut self, what: &str, bad: &Value) -> Value {
        let before = self.good("before");
        let after = self.good("after");
        let results = self.peer.send(&self.a, &[&before, bad, &after]).await;
        for good in [&before, &after] {
            let id = self.room.id_of(good);
            assert!(results[&id].get("error").is_none(), "{what}: a good event was refused: {results}");
            arrives(&self.alice, &self.room.id, &id).await;
        }
        results
    }
}

#[tokio::test]
async fn a_scripted_server_joins_and_is_heard_and_told() {
    on_each_engine(async |engine| {
        for version in ["10", "11", "12"] {
            let mut scene = Scene::set(&engine, version).await;
            let event = scene.good("I am real enough");
            scene.peer.deliver(&scene.a, &event).await;
            let id = scene.room.id_of(&event);
            arrives(&scene.alice, &scene.room.id, &id).await;

            let answer = scene.alice.say(&scene.room.id, "so you are").await;
            let told = scene.peer.hears("Alice's answer", |heard| {
                let pdus = heard.body["pdus"].as_array()?;
                pdus.iter().find(|pdu| pdu["content"]["body"] == "so you are").cloned()
            });
            let told = told.await;
            assert_eq!(scene.room.id_of(&told), answer, "both sides count the same id");
            assert_eq!(told["prev_events"], json!([id]), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn one_bad_event_among_good_ones_is_named_and_the_good_ones_are_taken() {
    on_each_engine(async |engine| {
        let mut scene = Scene::set(&engine, "12").await;
        let mut unsigned = scene.draft();
        pdu::add_hash(&mut unsigned);
        scene.is_refused_among_good_ones("unsigned", &unsigned).await;
    })
    .await;
}

#[tokio::test]
async fn events_with_bad_signatures_are_refused() {
    let mut scene = Scene::set(&Engine::Sqlite, "11").await;
    let other = FakePeer::start(&scene.network, "other.test").await;

    let mut forged = scene.draft();
    pdu::add_hash(&mut forged);
    pdu::sign_event(&mut forged, "11", "mallory.test", scene.peer.key_id(), other.key());
    scene.is_refused_among_good_ones("signed with another's key", &forged).await;

    let mut unknown = scene.draft();
    pdu::add_hash(&mut unknown);
    pdu::sign_event(&mut unknown, "11", "mallory.test", "ed25519:nobody_knows", scene.peer.key());
    scene.is_refused_among_good_ones("signed with a key that is not published", &unknown).await;

    let mut others = scene.draft();
    pdu::add_hash(&mut others);
    pdu::sign_event(&mut others, "11", "other.test", other.key_id(), other.key());
    scene.is_refused_among_good_ones("signed by somebody else alone", &others).await;

    let mut changed = scene.draft();
    scene.peer.sign(&mut changed, "11");
    changed["origin_server_ts"] = json!(1);
    scene.is_refused_among_good_ones("changed where the signature covers it", &changed).await;

    let mut garbled = scene.draft();
    scene.peer.sign(&mut garbled, "11");
    garbled["signatures"]["mallory.test"][scene.peer.key_id()] = json!("no base64!");
    scene.is_refused_among_good_ones("with a signature that is none", &garbled).await;
}

#[tokio::test]
async fn an_event_whose_words_were_changed_is_taken_without_them() {
    for version in ["10", "12"] {
        let mut scene = Scene::set(&Engine::Sqlite, version).await;
        let mut changed = scene.draft();
        scene.peer.sign(&mut changed, version);
        changed["content"]["body"] = json!("something else");
        let id = scene.room.id_of(&changed);
        let results = scene.send_among_good_ones("bad hash", &changed).await;
        assert!(results[&id].get("error").is_none(), "a bad hash alone refuses nothing: {results}");
        let event = arrives(&scene.alice, &scene.room.id, &id).await;
        assert_eq!(event["content"], json!({}), "{event}");
    }
}

#[tokio::test]
async fn nobody_speaks_for_users_of_another_server() {
    let mut scene = Scene::set(&Engine::Sqlite, "12").await;
    let alice = scene.alice.user_id.clone();
    let content = json!({ "msgtype": "m.text", "body": "I, Alice, say" });
    let mut forged = scene.room.draft(&alice, "m.room.message", None, content.clone());
    scene.peer.sign(&mut forged, "12");
    scene.is_refused_among_good_ones("in Alice's name, signed by Mallory's server", &forged).await;
    pdu::sign_event(&mut forged, "12", "a.test", scene.peer.key_id(), scene.peer.key());
    scene.is_refused_among_good_ones("in Alice's name, signed in her server's", &forged).await;

    let mut absent = scene.room.draft(&scene.peer.user("stranger"), "m.room.message", None, content);
    scene.peer.sign(&mut absent, "12");
    scene.is_rejected_among_good_ones("by somebody who is not in the room", &absent).await;
}

#[tokio::test]
async fn what_the_rules_of_the_room_forbid_is_refused() {
    let mut scene = Scene::set(&Engine::Sqlite, "12").await;
    let mallory = scene.peer.user("mallory");
    let alice = scene.alice.user_id.clone();
    let levels = json!({ "users": { &mallory: 100 } });
    let attempts = [
        ("m.room.topic", Some(""), json!({ "topic": "mine now" })),
        ("m.room.power_levels", Some(""), levels),
        ("m.room.member", Some(alice.as_str()), json!({ "membership": "leave" })),
        ("m.room.member", Some(alice.as_str()), json!({ "membership": "ban" })),
        ("m.room.member", Some("@somebody:a.test"), json!({ "membership": "join" })),
        ("m.room.create", Some(""), json!({ "room_version": "12" })),
        ("m.room.member", None, json!({ "membership": "join" })),
    ];
    for (event_type, state_key, content) in attempts {
        let mut event = scene.room.draft(&mallory, event_type, state_key, content);
        scene.peer.sign(&mut event, "12");
        scene.is_rejected_among_good_ones(&format!("{event_type} for {state_key:?}"), &event).await;
    }
    let state = super::state_ids(&scene.alice, &scene.room.id).await;
    assert_eq!(scene.alice.membership(&scene.room.id, &alice).await.as_deref(), Some("join"));
    assert!(!state.contains_key(&("m.room.topic".to_owned(), String::new())));
}

#[tokio::test]
async fn what_builds_on_false_reasons_is_refused() {
    let mut scene = Scene::set(&Engine::Sqlite, "12").await;
    // It lets itself in by a power level that never was.
    let mallory = scene.peer.user("mallory");
    let levels = json!({ "users": { &mallory: 100 }, "state_default": 0 });
    let mut forged = scene.room.draft(&mallory, "m.room.power_levels", Some(""), levels);
    scene.peer.sign(&mut forged, "12");
    let forged_id = scene.room.id_of(&forged);
    scene.is_rejected_among_good_ones("power from nowhere", &forged).await;
    let mut topic = scene.room.draft(&mallory, "m.room.topic", Some(""), json!({ "topic": "mine" }));
    let member = scene.room.state[&("m.room.member".to_owned(), mallory.clone())].clone();
    topic["auth_events"] = json!([forged_id, scene.room.id_of(&member)]);
    scene.peer.sign(&mut topic, "12");
    scene.is_rejected_among_good_ones("on the strength of a refused event", &topic).await;

    let mut nothing = scene.draft();
    nothing["auth_events"] = json!([]);
    scene.peer.sign(&mut nothing, "12");
    scene.is_rejected_among_good_ones("for no reason at all", &nothing).await;

    let mut unknown = scene.draft();
    unknown["auth_events"] = json!([format!("${}", "A".repeat(43)), scene.room.id_of(&member)]);
    scene.peer.sign(&mut unknown, "12");
    scene.is_rejected_among_good_ones("for reasons that nobody can show", &unknown).await;

    let mut irrelevant = scene.draft();
    let history = scene.room.state[&("m.room.history_visibility".to_owned(), String::new())].clone();
    let mut reasons = irrelevant["auth_events"].as_array().expect("a list").clone();
    reasons.push(json!(scene.room.id_of(&history)));
    irrelevant["auth_events"] = json!(reasons);
    scene.peer.sign(&mut irrelevant, "12");
    scene.is_rejected_among_good_ones("for reasons that are beside the point", &irrelevant).await;
}

#[tokio::test]
async fn events_of_impossible_form_are_refused() {
    let mut scene = Scene::set(&Engine::Sqlite, "12").await;
    let draft = scene.draft();
    let with = |field: &str, value: Value| {
        let mut event = draft.clone();
        event[field] = value;
        event
    };
    let without = |field: &str| {
        let mut event = draft.clone();
        event.as_object_mut().expect("an event is an object").remove(field);
        event
    };
    let many: Vec<String> = (0..21).map(|number| format!("${number:A>43}")).collect();
    let attempts = [
        ("too large", with("content", json!({ "body": "x".repeat(70_000) }))),
        ("a type of more than 255 bytes", with("type", json!("t".repeat(256)))),
        ("more predecessors than allowed", with("prev_events", json!(many))),
        ("a number too large for JSON", with("content", json!({ "number": 9_007_199_254_740_992_u64 }))),
        ("a depth that is none", with("depth", json!("deep"))),
        ("a negative depth", with("depth", json!(-1))),
        ("no sender", without("sender")),
        ("no type", without("type")),
        ("no predecessors", without("prev_events")),
        ("content that is no object", with("content", json!("text"))),
        ("a sender that is no user", with("sender", json!("mallory"))),
        ("a state key that is no text", with("state_key", json!(7))),
    ];
    for (what, mut event) in attempts {
        scene.peer.sign(&mut event, "12");
        let id = scene.room.id_of(&event);
        let results = scene.send_among_good_ones(what, &event).await;
        // What has no id that can be told may be passed over in silence, but never taken.
        if let Some(result) = results.get(&id) {
            assert!(result.get("error").is_some(), "{what}: {results}");
        }
        assert!(!is_known(&scene.alice, &scene.room.id, &id).await, "{what}: it was taken");
    }
    // Not even an object.
    for nonsense in [json!("event"), json!([]), Value::Null, json!(5), json!({})] {
        scene.send_among_good_ones("nonsense", &nonsense).await;
    }
}

#[tokio::test]
async fn events_of_rooms_that_do_not_concern_us_are_refused() {
    let mut scene = Scene::set(&Engine::Sqlite, "12").await;
    let elsewhere = scene.peer.create_room("mallory", "12");
    let mut own = elsewhere.clone();
    let foreign = own.say(&scene.peer, "mallory", "you do not know this room");
    scene.is_refused_among_good_ones("a room that this server is not in", &foreign).await;

    // Its own event, in the name of Alice's other room, where Mallory is not.
    let private = scene.alice.create_room(json!({ "preset": "private_chat" })).await;
    let mut intruding = scene.draft();
    intruding["room_id"] = json!(private);
    scene.peer.sign(&mut intruding, "12");
    scene.is_rejected_among_good_ones("a room that its server is not in", &intruding).await;
    let history = scene.alice.history(&private).await;
    assert!(!super::ids_of(&history).contains(&scene.room.id_of(&intruding)));
}

#[tokio::test]
async fn a_replayed_transaction_takes_effect_once() {
    on_each_engine(async |engine| {
        let mut scene = Scene::set(&engine, "12").await;
        let event = scene.good("once");
        let id = scene.room.id_of(&event);
        let first = scene.peer.transaction(&scene.a, "same", &[&event], &[]).await.ok();
        arrives(&scene.alice, &scene.room.id, &id).await;
        let second = scene.peer.transaction(&scene.a, "same", &[&event], &[]).await.ok();
        assert_eq!(first, second, "the answer is the same");
        // Another transaction with the same event is not a second event either.
        scene.peer.transaction(&scene.a, "other", &[&event, &event], &[]).await.ok();
        let last = scene.good("last");
        scene.peer.deliver(&scene.a, &last).await;
        arrives(&scene.alice, &scene.room.id, &scene.room.id_of(&last)).await;
        let ids = super::ids_of(&scene.alice.history(&scene.room.id).await);
        assert_eq!(ids.iter().filter(|known| **known == id).count(), 1);
        // Under a known id nothing new comes in, after a restart neither.
        scene.a.stop().await;
        scene.a.restart().await;
        let smuggled = scene.good("smuggled");
        let third = scene.peer.transaction(&scene.a, "same", &[&smuggled], &[]).await.ok();
        assert_eq!(first, third, "the answer is the same after a restart");
        assert!(!is_known(&scene.alice, &scene.room.id, &scene.room.id_of(&smuggled)).await);
    })
    .await;
}

#[tokio::test]
async fn a_message_to_a_device_that_is_sent_again_arrives_once() {
    let scene = Scene::set(&Engine::Sqlite, "12").await;
    let mut since = scene.alice.now().await;
    let messages = json!({ scene.alice.user_id.clone(): { scene.alice.device_id.clone(): { "number": 1 } } });
    let edu = json!({ "edu_type": "m.direct_to_device", "content": {
        "sender": scene.peer.user("mallory"), "type": "org.example.note", "message_id": "m1", "messages": messages,
    } });
    for id in ["t1", "t1", "t2"] {
        scene.peer.transaction(&scene.a, id, &[], &[&edu]).await.ok();
    }
    let mut last = edu.clone();
    last["content"]["message_id"] = json!("m2");
    last["content"]["type"] = json!("org.example.end");
    scene.peer.send_edus(&scene.a, &[last]).await;
    let mut types = Vec::new();
    scene
        .alice
        .sync_until(&mut since, |answer| {
            for event in answer["to_device"]["events"].as_array().into_iter().flatten() {
                types.extend(event["type"].as_str().map(str::to_owned));
            }
            types.iter().any(|seen| seen == "org.example.end").then_some(())
        })
        .await;
    assert_eq!(types, ["org.example.note", "org.example.end"]);
}

#[tokio::test]
async fn ephemeral_lies_are_passed_over() {
    let scene = Scene::set(&Engine::Sqlite, "12").await;
    let mut since = scene.alice.now().await;
    let alice = &scene.alice.user_id;
    let mallory = scene.peer.user("mallory");
    let receipt = |user: &str| json!({ &scene.room.id: { "m.read": { user: { "event_ids": [scene.room.heads[0]], "data": { "ts": 1 } } } } });
    let typing = |user: &str| json!({ "room_id": scene.room.id, "user_id": user, "typing": true });
    let note = |sender: &str, messages: Value| json!({ "sender": sender, "type": "x", "message_id": "m", "messages": messages });
    let lies = [
        json!({ "edu_type": "m.typing", "content": typing("@bob:a.test") }),
        json!({ "edu_type": "m.typing", "content": typing("@x:other.test") }),
        json!({ "edu_type": "m.receipt", "content": receipt(alice) }),
        json!({ "edu_type": "m.presence", "content": { "push": [{ "user_id": alice, "presence": "offline", "status_msg": "dead" }] } }),
        json!({ "edu_type": "m.direct_to_device", "content": note("@bob:other.test", json!({ alice: { "*": { "lie": true } } })) }),
        json!({ "edu_type": "m.device_list_update", "content": { "user_id": alice, "device_id": "X", "stream_id": 5, "prev_id": [] } }),
        json!({ "edu_type": "m.typing" }),
        json!({ "edu_type": "org.example.unheard_of", "content": {} }),
        json!("no object"),
        json!({ "edu_type": "m.receipt", "content": { "!x:y": [1, 2] } }),
    ];
    scene.peer.send_edus(&scene.a, &lies).await;
    // After all of them one that is true.
    scene.peer.send_edus(&scene.a, &[json!({ "edu_type": "m.typing", "content": typing(&mallory) })]).await;
    scene
        .alice
        .sync_until(&mut since, |answer| {
            assert!(!answer.to_string().contains("dead"), "{answer}");
            assert!(!answer.to_string().contains("lie"), "{answer}");
            assert!(!answer.to_string().contains("other.test"), "{answer}");
            let changed = answer["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
            assert!(!changed.contains(&json!(alice)), "{answer}");
            let events = answer["rooms"]["join"][&scene.room.id]["ephemeral"]["events"].as_array()?;
            assert!(!events.iter().any(|event| event["type"] == "m.receipt"), "{events:?}");
            let typing = events.iter().find(|event| event["type"] == "m.typing")?;
            assert_eq!(typing["content"]["user_ids"], json!([mallory]), "{typing}");
            Some(())
        })
        .await;
}

#[tokio::test]
async fn a_gap_is_filled_by_asking_and_a_gap_that_nobody_fills_stops_nothing() {
    let mut scene = Scene::set(&Engine::Sqlite, "12").await;
    // Three events, of which only the last is sent; the others are there for the asking.
    let missed = [scene.good("one"), scene.good("two")];
    let last = scene.good("three");
    let events = missed.to_vec();
    let path = format!("/_matrix/federation/v1/get_missing_events/{}", scene.room.id);
    scene.peer.answer(move |heard| {
        let path_heard = heard.path.replace("%21", "!").replace("%3A", ":");
        (path_heard == path).then(|| Reply::Json(200, json!({ "events": events })))
    });
    scene.peer.deliver(&scene.a, &last).await;
    for event in missed.iter().chain([&last]) {
        arrives(&scene.alice, &scene.room.id, &scene.room.id_of(event)).await;
    }
    let texts = super::texts_of(&scene.alice.history(&scene.room.id).await);
    assert_eq!(texts, ["one", "two", "three"]);

    // Its predecessor is nowhere to be had, nor any state before it.
    let path = format!("/_matrix/federation/v1/get_missing_events/{}", scene.room.id);
    scene.peer.answer(move |heard| {
        let path_heard = heard.path.replace("%21", "!").replace("%3A", ":");
        (path_heard == path).then(|| Reply::Json(200, json!({ "events": [] })))
    });
    let mut orphan = scene.draft();
    orphan["prev_events"] = json!([format!("${}", "B".repeat(43))]);
    scene.peer.sign(&mut orphan, "12");
    let orphan_id = scene.room.id_of(&orphan);
    scene.peer.send(&scene.a, &[&orphan]).await;
    let good = scene.good("and on");
    scene.peer.deliver(&scene.a, &good).await;
    arrives(&scene.alice, &scene.room.id, &scene.room.id_of(&good)).await;
    assert!(!is_known(&scene.alice, &scene.room.id, &orphan_id).await);
}

#[tokio::test]
async fn what_lacks_something_waits_until_its_server_can_be_asked_even_for_a_restart() {
    on_each_engine(async |engine| {
        let mut scene = Scene::set(&engine, "12").await;
        let missed = scene.good("one");
        let last = scene.good("two");
        let is_there = Arc::new(AtomicBool::new(false));
        let (events, answers) = (json!([missed]), is_there.clone());
        scene.peer.answer(move |heard| {
            if !answers.load(Ordering::Relaxed) {
                return Some(Reply::Json(503, json!({ "errcode": "M_UNKNOWN", "error": "one moment" })));
            }
            heard.path.contains("/get_missing_events/").then(|| Reply::Json(200, json!({ "events": events })))
        });
        // It is acknowledged, so it is this server's business from now on.
        scene.peer.deliver(&scene.a, &last).await;
        let last_id = scene.room.id_of(&last);
        assert!(!is_known(&scene.alice, &scene.room.id, &last_id).await);
        scene.a.restart().await;
        let alice = scene.a.login("alice").await;
        assert!(!is_known(&alice, &scene.room.id, &last_id).await);

        is_there.store(true, Ordering::Relaxed);
        for event in [&missed, &last] {
            arrives(&alice, &scene.room.id, &scene.room.id_of(event)).await;
        }
        let texts = super::texts_of(&alice.history(&scene.room.id).await);
        assert_eq!(texts, ["one", "two"]);
    })
    .await;
}

#[tokio::test]
async fn a_room_that_is_torn_into_many_branches_is_brought_together_again() {
    const BRANCHES: usize = 45;
    const MOST_PREV_EVENTS: usize = 20;
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine, "12").await;
        let mallory = scene.peer.user("mallory");
        let branches: Vec<Value> = (0..BRANCHES)
            .map(|number| {
                let content = json!({ "msgtype": "m.text", "body": format!("branch {number}") });
                let mut event = scene.room.draft(&mallory, "m.room.message", None, content);
                scene.peer.sign(&mut event, "12");
                event
            })
            .collect();
        scene.peer.send(&scene.a, &branches.iter().collect::<Vec<_>>()).await;
        let mut open: HashSet<String> = branches.iter().map(|event| scene.room.id_of(event)).collect();
        for text in ["one", "two", "three"] {
            let said = scene.alice.say(&scene.room.id, text).await;
            let event = scene
                .peer
                .hears(text, |heard| {
                    let pdus = heard.body["pdus"].as_array()?;
                    pdus.iter().find(|pdu| pdu["content"]["body"] == text).cloned()
                })
                .await;
            let joined: Vec<String> = event["prev_events"]
                .as_array()
                .expect("it follows events")
                .iter()
                .map(|id| id.as_str().expect("an event id is a text").to_owned())
                .collect();
            assert!(joined.len() <= MOST_PREV_EVENTS, "{text} follows {} events", joined.len());
            for event_id in joined {
                assert!(open.remove(&event_id), "{text} follows {event_id}, which is no open branch");
            }
            open.insert(said);
        }
        assert_eq!(open.len(), 1, "branches stay open: {open:?}");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_with_more_than_is_allowed_is_refused_whole() {
    let mut scene = Scene::set(&Engine::Sqlite, "12").await;
    let events: Vec<Value> = (0..51).map(|number| scene.good(&format!("number {number}"))).collect();
    let events: Vec<&Value> = events.iter().collect();
    let answer = scene.peer.transaction(&scene.a, "fat", &events, &[]).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(!is_known(&scene.alice, &scene.room.id, &scene.room.id_of(events[0])).await);
    scene.peer.transaction(&scene.a, "full", &events[..50], &[]).await.ok();
    arrives(&scene.alice, &scene.room.id, &scene.room.id_of(events[49])).await;
}
