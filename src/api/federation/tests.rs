//! What other servers get, and what those get who aren't.

use http::{Method, StatusCode};
use ruma::{CanonicalJsonObject, RoomVersionId, ServerName, server_name};
use serde_json::{Value, json};

use crate::testing::{Server, refusal, with_federating_server};

fn us() -> &'static ServerName {
    server_name!("a.test")
}

fn them() -> &'static ServerName {
    server_name!("b.test")
}

#[tokio::test]
async fn whoever_cannot_prove_to_be_a_server_is_refused_with_the_reason() {
    with_federating_server(&[them()], async |server| {
        let path = "/_matrix/federation/v1/query/profile?user_id=@alice:a.test";
        let unsigned = server.ask(Method::GET, path, None, "").await;
        assert_eq!(refusal(unsigned), (401, "M_UNAUTHORIZED".to_owned()));
        let by_a_user = server.ask(Method::GET, path, Some("a_token"), "").await;
        assert_eq!(refusal(by_a_user), (401, "M_UNAUTHORIZED".to_owned()));

        let signed = |origin, destination| {
            let key = peers::testing::key_of(origin);
            peers::testing::authorization(&key, destination, &Method::GET, path, None)
        };
        let ask = async |header| server.ask_as(Method::GET, path, header, "").await;
        let (status, answer) = ask(signed(them(), server_name!("c.test"))).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer["error"], "the request is for another server; this one is a.test");
        let (status, answer) = ask(signed(server_name!("gone.test"), us())).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(answer["error"].as_str().is_some_and(|text| text.contains("gone.test can't be reached")), "{answer}");
        assert_eq!(refusal(ask(signed(us(), us())).await), (401, "M_UNAUTHORIZED".to_owned()));
        let (status, _) = server.ask_as(Method::GET, &path.replace("alice", "bob"), signed(them(), us()), "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    })
    .await;
}

#[tokio::test]
async fn everybody_may_ask_for_the_version_and_for_keys() {
    with_federating_server(&[them()], async |server| {
        let version = server.get("/_matrix/federation/v1/version", None).await;
        assert_eq!(version["server"]["name"], "Comity");
        let ours = server.get("/_matrix/key/v2/server", None).await;
        assert_eq!(ours["server_name"], "a.test");
        assert!(ours["verify_keys"]["ed25519:test"]["key"].is_string());
        assert!(ours["signatures"]["a.test"]["ed25519:test"].is_string());
        assert_eq!(ours, server.get("/_matrix/key/v2/server/ed25519:test", None).await);

        let vouched = server.get("/_matrix/key/v2/query/b.test", None).await;
        assert_both_signed(&vouched["server_keys"][0]);
        let by_key = server.get("/_matrix/key/v2/query/b.test/ed25519:1", None).await;
        assert_eq!(by_key, vouched, "as servers used to ask");
        let wish = json!({ "server_keys": { "b.test": {}, "gone.test": {} } });
        let vouched = server.post("/_matrix/key/v2/query", None, wish).await;
        assert_eq!(vouched["server_keys"].as_array().map(Vec::len), Some(1));
        assert_both_signed(&vouched["server_keys"][0]);
        let servers: serde_json::Map<String, Value> = (0..101).map(|at| (format!("{at}.test"), json!({}))).collect();
        let too_many = json!({ "server_keys": servers }).to_string();
        let refused = server.ask(Method::POST, "/_matrix/key/v2/query", None, too_many).await;
        assert_eq!(refusal(refused), (400, "M_INVALID_PARAM".to_owned()));
    })
    .await;
}

fn assert_both_signed(answer: &Value) {
    assert_eq!(answer["server_name"], "b.test");
    for server in [us(), them()] {
        assert!(answer["signatures"][server.as_str()]["ed25519:test"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn a_server_that_federates_with_nobody_says_so() {
    crate::testing::with_server(async |server: Server| {
        let header = peers::testing::authorization(
            &peers::testing::key_of(them()),
            us(),
            &Method::GET,
            "/_matrix/federation/v1/query/profile?user_id=@x:a.test",
            None,
        );
        let refused =
            server.ask_as(Method::GET, "/_matrix/federation/v1/query/profile?user_id=@x:a.test", header, "").await;
        assert_eq!(refusal(refused), (403, "M_FORBIDDEN".to_owned()));
        for path in ["/_matrix/key/v2/server", "/_matrix/federation/v1/version", "/_matrix/key/v2/query/b.test"] {
            assert_eq!(refusal(server.ask(Method::GET, path, None, "").await), (403, "M_FORBIDDEN".to_owned()));
        }
    })
    .await;
}

/// What b.test asks.
async fn asked_by_them(server: &Server, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let content = body.clone().map(|body| body.try_into().expect("it is canonical"));
    let key = peers::testing::key_of(them());
    let header = peers::testing::authorization(&key, us(), &method, path, content.as_ref());
    server.ask_as(method, path, header, body.map_or_else(String::new, |body| body.to_string())).await
}

#[tokio::test]
async fn a_server_is_told_of_our_users_only() {
    with_federating_server(&[them()], async |server| {
        let (alice, device) = server.register("alice").await;
        let get = async |path: &str| asked_by_them(&server, Method::GET, path, None).await;
        let profile = "/_matrix/federation/v1/query/profile?user_id=";
        assert_eq!(get(&format!("{profile}@alice:a.test")).await, (StatusCode::OK, json!({ "displayname": "alice" })));
        assert_eq!(get(&format!("{profile}%40alice:a.test&field=avatar_url")).await, (StatusCode::OK, json!({})));
        for nobody in ["@bob:a.test", "@alice:b.test"] {
            assert_eq!(refusal(get(&format!("{profile}{nobody}")).await), (404, "M_NOT_FOUND".to_owned()));
        }

        let keys = json!({ "device_keys": {
            "user_id": "@alice:a.test", "device_id": device, "algorithms": [], "keys": {}, "signatures": {},
        }, "one_time_keys": { "signed_curve25519:AA": { "key": "aGVsbG8", "signatures": {} } } });
        server.post("/_matrix/client/v3/keys/upload", Some(&alice), keys).await;
        let (_, list) = get("/_matrix/federation/v1/user/devices/@alice:a.test").await;
        assert_eq!(list["devices"][0]["device_id"], json!(device));
        assert!(list["stream_id"].as_u64().is_some_and(|id| id > 0), "{list}");
        assert_eq!(refusal(get("/_matrix/federation/v1/user/devices/@x:b.test").await).0, 404);

        let post = async |path: &str, body| asked_by_them(&server, Method::POST, path, Some(body)).await;
        let wanted = json!({ "device_keys": { "@alice:a.test": [] } });
        let (_, found) = post("/_matrix/federation/v1/user/keys/query", wanted).await;
        assert_eq!(found["device_keys"]["@alice:a.test"][&device]["user_id"], "@alice:a.test");
        let wanted = json!({ "one_time_keys": { "@alice:a.test": { &device: "signed_curve25519" } } });
        let (_, claimed) = post("/_matrix/federation/v1/user/keys/claim", wanted).await;
        assert_eq!(claimed["one_time_keys"]["@alice:a.test"][&device]["signed_curve25519:AA"]["key"], "aGVsbG8");
    })
    .await;
}

#[tokio::test]
async fn a_server_sees_public_rooms_and_where_an_alias_leads() {
    with_federating_server(&[them()], async |server| {
        let (alice, _) = server.register("alice").await;
        let wish = json!({ "name": "Tea", "room_alias_name": "tea", "visibility": "public", "preset": "public_chat" });
        let room = server.post("/_matrix/client/v3/createRoom", Some(&alice), wish).await["room_id"].clone();
        let directory = "/_matrix/federation/v1/query/directory?room_alias=%23";
        let (_, found) = asked_by_them(&server, Method::GET, &format!("{directory}tea:a.test"), None).await;
        assert_eq!(found, json!({ "room_id": room, "servers": ["a.test"] }));
        for nothing in ["coffee:a.test", "tea:b.test"] {
            let refused = asked_by_them(&server, Method::GET, &format!("{directory}{nothing}"), None).await;
            assert_eq!(refusal(refused), (404, "M_NOT_FOUND".to_owned()));
        }
        let path = "/_matrix/federation/v1/publicRooms";
        let (_, listed) = asked_by_them(&server, Method::GET, &format!("{path}?limit=10"), None).await;
        assert_eq!(listed["chunk"][0]["name"], "Tea");
        let filter = json!({ "filter": { "generic_search_term": "coffee" } });
        let (_, listed) = asked_by_them(&server, Method::POST, path, Some(filter)).await;
        assert_eq!(listed["chunk"], json!([]));
        let elsewhere = server.ask(Method::GET, "/_matrix/client/v3/publicRooms?server=b.test", None, "").await;
        assert_eq!(refusal(elsewhere), (401, "M_MISSING_TOKEN".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_third_party_learns_who_brought_a_token() {
    with_federating_server(&[], async |server| {
        let (alice, _) = server.register("alice").await;
        let path = "/_matrix/client/v3/user/@alice:a.test/openid/request_token";
        let issued = server.post(path, Some(&alice), json!({})).await;
        assert_eq!((&issued["matrix_server_name"], &issued["expires_in"]), (&json!("a.test"), &json!(3600)));
        let token = issued["access_token"].as_str().expect("there is one");
        let path = format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
        assert_eq!(server.get(&path, None).await, json!({ "sub": "@alice:a.test" }));
        let wrong = server.ask(Method::GET, &path.replace("token=", "token=x"), None, "").await;
        assert_eq!(refusal(wrong), (401, "M_UNKNOWN_TOKEN".to_owned()));
        let of_another = "/_matrix/client/v3/user/@bob:a.test/openid/request_token";
        assert_eq!(refusal(server.ask(Method::POST, of_another, Some(&alice), "{}").await).0, 403);
    })
    .await;
}

/// An event of b.test, with its id.
fn sealed(event: &Value, version: &str) -> (String, Value) {
    let version = RoomVersionId::try_from(version).expect("it is a version");
    let rules = model::rules_of(&version).expect("it is supported");
    let object: CanonicalJsonObject = serde_json::from_value(event.clone()).expect("it is canonical");
    let pdu = model::Pdu::seal(object, &rules, &peers::testing::key_of(them())).expect("it is an event");
    (pdu.event_id.to_string(), serde_json::from_str(&pdu.json).expect("it is JSON"))
}

#[tokio::test]
async fn who_joins_and_leaves_in_the_first_form_is_answered_in_it() {
    with_federating_server(&[them()], async |server| {
        let (alice, _) = server.register("alice").await;
        for version in ["1", "2", "3", "5", "10"] {
            let wish = json!({ "preset": "public_chat", "room_version": version });
            let room = server.post("/_matrix/client/v3/createRoom", Some(&alice), wish).await;
            let room = room["room_id"].as_str().expect("there is a room");
            for membership in ["join", "leave"] {
                let make = format!("/_matrix/federation/v1/make_{membership}/{room}/@bob:b.test?ver={version}");
                let (_, template) = asked_by_them(&server, Method::GET, &make, None).await;
                assert_eq!(template["room_version"], version, "{template}");
                let (event_id, event) = sealed(&template["event"], version);
                let event_id = event_id.replace('/', "%2F").replace('+', "%2B");
                let send = format!("/_matrix/federation/v1/send_{membership}/{room}/{event_id}");
                let (status, answer) = asked_by_them(&server, Method::PUT, &send, Some(event)).await;
                assert_eq!((status, &answer[0]), (StatusCode::OK, &json!(200)), "{version} {membership}: {answer}");
                let told = answer[1]["state"].as_array().map_or(0, Vec::len);
                assert_eq!(told > 0, membership == "join", "{version} {membership}: {answer}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_invitation_in_the_first_form_is_signed_and_answered_in_it() {
    with_federating_server(&[them()], async |server| {
        let (alice, _) = server.register("alice").await;
        let (event_id, mut event) = sealed(
            &json!({
                "type": "m.room.member", "sender": "@bob:b.test", "state_key": "@alice:a.test", "room_id": "!r:b.test",
                "content": { "membership": "invite" }, "depth": 5, "origin_server_ts": 1, "auth_events": [],
                "prev_events": [["$before:b.test", { "sha256": "aGFzaA" }]],
            }),
            "1",
        );
        let create = json!({ "type": "m.room.create", "state_key": "", "sender": "@bob:b.test", "content": { "room_version": "2" } });
        event["unsigned"] = json!({ "invite_room_state": [create] });
        let path = format!("/_matrix/federation/v1/invite/!r:b.test/{event_id}");
        let (status, answer) = asked_by_them(&server, Method::PUT, &path, Some(event)).await;
        assert_eq!((status, &answer[0]), (StatusCode::OK, &json!(200)), "{answer}");
        let signed = &answer[1]["event"];
        assert_eq!(signed["event_id"], json!(event_id));
        for name in [us(), them()] {
            assert!(signed["signatures"][name.as_str()]["ed25519:test"].is_string(), "{signed}");
        }
        let shown = server.get("/_matrix/client/v3/sync", Some(&alice)).await;
        let shown = &shown["rooms"]["invite"]["!r:b.test"]["invite_state"]["events"];
        assert!(shown.as_array().is_some_and(|shown| shown.iter().any(|event| event["type"] == "m.room.create")), "{shown}");
    })
    .await;
}
