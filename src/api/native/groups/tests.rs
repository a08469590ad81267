//! Groups, through the router, beside a client of the Matrix API.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

const GROUPS: &str = "/api/v1/groups";
const V3: &str = "/_matrix/client/v3";

/// A group of Alice's in which Bob and Carol are.
struct Club<'a> {
    server: &'a Server,
    alice: String,
    bob: String,
    carol: String,
    group: String,
}

impl<'a> Club<'a> {
    async fn found(server: &'a Server) -> Self {
        let [alice, bob, carol] =
            [server.register("alice").await.0, server.register("bob").await.0, server.register("carol").await.0];
        let wish = json!({ "name": "Tea", "announcement": "at five", "members": ["bob@a.test", "carol@a.test"] });
        let (status, made) = server.ask(Method::POST, GROUPS, Some(&alice), wish.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        assert_eq!((&made["role"], &made["announcement"]), (&json!("owner"), &json!("at five")));
        let group = made["group_id"].as_str().expect("it is told").to_owned();
        for token in [&bob, &carol] {
            server.post(&format!("/api/v1/conversations/{group}/join"), Some(token), json!({})).await;
        }
        Self { server, alice, bob, carol, group }
    }

    async fn ask(&self, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) =
            self.server.ask(method, &format!("{GROUPS}/{}{path}", self.group), Some(token), body).await;
        (status.as_u16(), answer)
    }

    async fn say(&self, token: &str, text: &str) -> u16 {
        let body = json!({ "content": text }).to_string();
        let path = format!("/api/im/groups/{}/messages", self.group);
        self.server.ask(Method::POST, &path, Some(token), body).await.0.as_u16()
    }

    async fn roles(&self) -> Vec<(String, String)> {
        let list = self.server.get(&format!("{GROUPS}/{}/members", self.group), Some(&self.alice)).await;
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let members = list["members"].as_array().expect("a list").iter();
        members.map(|one| (text(&one["address"]), text(&one["role"]))).collect()
    }
}

fn roles(of: [(&str, &str); 3]) -> Vec<(String, String)> {
    of.map(|(name, role)| (format!("{name}@a.test"), role.to_owned())).to_vec()
}

#[tokio::test]
async fn a_group_has_an_owner_admins_and_members_and_can_be_handed_over() {
    with_server(async |server| {
        let club = Club::found(&server).await;
        assert_eq!(club.roles().await, roles([("alice", "owner"), ("bob", "member"), ("carol", "member")]));
        let admin = json!({ "role": "admin" });
        let (status, _) = club.ask(&club.bob, Method::PUT, "/members/bob@a.test/role", admin.clone()).await;
        assert_eq!(status, 403, "nobody makes oneself an admin");
        let (status, _) = club.ask(&club.alice, Method::PUT, "/members/bob@a.test/role", admin.clone()).await;
        assert_eq!(status, 204);
        assert_eq!(club.roles().await, roles([("alice", "owner"), ("bob", "admin"), ("carol", "member")]));
        // What Matrix clients see of it.
        let levels = format!("{V3}/rooms/{}/state/m.room.power_levels", club.group);
        assert_eq!(club.server.get(&levels, Some(&club.carol)).await["users"]["@bob:a.test"], 50);

        let (status, _) = club.ask(&club.bob, Method::POST, "/transfer", json!({ "to": "carol@a.test" })).await;
        assert_eq!(status, 403);
        let (status, group) = club.ask(&club.alice, Method::POST, "/transfer", json!({ "to": "@carol:a.test" })).await;
        assert_eq!((status, &group["role"]), (200, &json!("admin")), "{group}");
        assert_eq!(club.roles().await, roles([("alice", "admin"), ("bob", "admin"), ("carol", "owner")]));
        let (status, _) = club.ask(&club.alice, Method::DELETE, "/members/carol@a.test", Value::Null).await;
        assert_eq!(status, 403, "who owns it isn't put out");
        let (status, _) = club.ask(&club.carol, Method::PUT, "/members/nobody@a.test/role", admin).await;
        assert_eq!(status, 404);
    })
    .await;
}

#[tokio::test]
async fn who_is_muted_says_nothing_and_admins_may_when_all_are() {
    with_server(async |server| {
        let club = Club::found(&server).await;
        let muted = |is: bool| json!({ "muted": is });
        assert_eq!(club.ask(&club.bob, Method::PUT, "/members/carol@a.test/mute", muted(true)).await.0, 403);
        assert_eq!(club.ask(&club.alice, Method::PUT, "/members/carol@a.test/mute", muted(true)).await.0, 204);
        assert_eq!((club.say(&club.carol, "hm").await, club.say(&club.bob, "hm").await), (403, 201));
        let matrix = format!("{V3}/rooms/{}/send/m.room.message/1", club.group);
        let text = json!({ "msgtype": "m.text", "body": "hm" }).to_string();
        assert_eq!(club.server.ask(Method::PUT, &matrix, Some(&club.carol), text).await.0, 403);

        assert_eq!(club.ask(&club.alice, Method::PUT, "/mute", muted(true)).await.0, 204);
        assert_eq!((club.say(&club.alice, "quiet").await, club.say(&club.bob, "hm").await), (201, 403));
        assert_eq!(club.ask(&club.bob, Method::GET, "", Value::Null).await.1["muted_all"], true);
        assert_eq!(club.ask(&club.alice, Method::PUT, "/mute", muted(false)).await.0, 204);
        assert_eq!(
            (club.say(&club.carol, "hm").await, club.say(&club.bob, "hm").await),
            (403, 201),
            "one is muted still"
        );
        assert_eq!(club.ask(&club.alice, Method::PUT, "/members/carol@a.test/mute", muted(false)).await.0, 204);
        assert_eq!(club.say(&club.carol, "at last").await, 201);
    })
    .await;
}

#[tokio::test]
async fn a_group_is_described_entered_on_approval_and_dissolved() {
    with_server(async |server| {
        let club = Club::found(&server).await;
        let wish = json!({ "name": "Cake", "announcement": "at six", "joining": "approval" });
        assert_eq!(club.ask(&club.bob, Method::PATCH, "", wish.clone()).await.0, 403);
        let (status, group) = club.ask(&club.alice, Method::PATCH, "", wish).await;
        assert_eq!((status, &group["name"], &group["announcement"]), (200, &json!("Cake"), &json!("at six")));
        assert_eq!(group["joining"], "approval");
        assert_eq!(club.ask(&club.bob, Method::PUT, "/nickname", json!({ "nickname": "Bobby" })).await.0, 204);
        let member = format!("{V3}/rooms/{}/state/m.room.member/@bob:a.test", club.group);
        assert_eq!(club.server.get(&member, Some(&club.alice)).await["displayname"], "Bobby");

        let dave = club.server.register("dave").await.0;
        assert_eq!(club.ask(&dave, Method::POST, "/requests", json!({ "reason": "I bake" })).await.0, 204);
        let (_, asking) = club.ask(&club.alice, Method::GET, "/requests", Value::Null).await;
        assert_eq!(asking["requests"][0]["address"], "dave@a.test");
        assert_eq!(asking["requests"][0]["reason"], "I bake");
        assert_eq!(club.ask(&club.alice, Method::PUT, "/requests/dave@a.test", Value::Null).await.0, 204);
        assert_eq!(club.say(&dave, "thanks").await, 201);
        assert_eq!(
            club.ask(&club.alice, Method::PUT, "/requests/dave@a.test", Value::Null).await.1["code"],
            "no_such_request"
        );

        let people = json!({ "members": ["bob@a.test", "nobody@a.test"] });
        let (_, invited) = club.ask(&club.alice, Method::POST, "/members", people).await;
        assert_eq!(
            (&invited["results"][0]["invited"], &invited["results"][1]["code"]),
            (&json!(true), &json!("unknown_user"))
        );
        assert_eq!(club.ask(&club.alice, Method::DELETE, "/members/bob@a.test", Value::Null).await.0, 204);
        assert_eq!(club.say(&club.bob, "but").await, 403);

        assert_eq!(club.ask(&club.carol, Method::DELETE, "", Value::Null).await.0, 403);
        assert_eq!(club.ask(&club.alice, Method::DELETE, "", Value::Null).await.0, 204);
        for token in [&club.alice, &club.carol, &dave] {
            let list = club.server.get("/api/v1/conversations", Some(token)).await;
            assert_eq!(list["conversations"], json!([]));
            assert_eq!(club.say(token, "anybody?").await, 403);
        }
    })
    .await;
}
