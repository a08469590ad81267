//! The table of trust on the wire: every capability, at every level, in every direction, is asked of the real binary, and what
//! comes of it is what the table says, from which the documentation is made too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use federation_tests::{Answer, Client, Engine, FakePeer, FakeRoom, Network, Reply, Server, enc, eventually, pdu};
use futures_util::future::join_all;
use model::peer::{Capability, Context, Decision, Direction, Fact, Grant, Regard, TABLE, TrustLevel, decide};
use reqwest::Method;
use serde_json::{Value, json};

use super::trust::patch;

/// What there is no way to ask for yet: nothing may be done by it at any level.
const NOT_YET: [Capability; 1] = [Capability::Broadcasts];
/// What has a story of its own: notaries are configured before a server starts.
const ELSEWHERE: [Capability; 1] = [Capability::Notary];

/// A server; a peer with a user, Bob; Alice, who is acquainted with Bob in every way; and Stella, who isn't in any.
struct World {
    _network: Network,
    server: Server,
    peer: FakePeer,
    admin: Client,
    alice: Client,
    stella: Client,
    /// Alice's, with Bob in it.
    shared: FakeRoom,
    /// Stella's, public, without Bob.
    open: String,
    /// Stella's, to which Bob is invited.
    inviting: String,
    /// What was said in `shared` before Bob came.
    before: String,
    /// What Alice has uploaded, and what Stella has.
    files: [String; 2],
}

impl World {
    /// Everything is set up while the peer is trusted fully.
    async fn at(level: TrustLevel) -> Self {
        let network = Network::new();
        let server = network.server(&Engine::Sqlite, "a.test").await.start().await;
        let peer = FakePeer::start(&network, "b.test").await;
        let (name, key, key_id) = (peer.name.clone(), peer.key().clone(), peer.key_id());
        peer.answer(move |heard| {
            let is_invitation = heard.path.contains("/v2/invite/");
            is_invitation.then(|| {
                let mut event = heard.body["event"].clone();
                pdu::sign_event(&mut event, "12", &name, key_id, &key);
                Reply::Json(200, json!({ "event": event }))
            })
        });
        let admin = server.admin().await;
        let (alice, stella) = (server.register_with_secret("alice").await, server.register_with_secret("stella").await);
        for (client, name) in [(&alice, "Alice Known"), (&stella, "Stella Strange")] {
            let path = format!("profile/{}/displayname", enc(&client.user_id));
            client.put(&path, json!({ "displayname": name })).await.ok();
        }
        let shared = alice.create_public_room().await;
        let before = alice.say(&shared, "before Bob came").await;
        let shared = peer.join(&server, &shared, "bob").await;
        let contacts = json!({ peer.user("bob"): [shared.id] });
        alice.put(&format!("user/{}/account_data/m.direct", enc(&alice.user_id)), contacts).await.ok();
        let open = stella.create_room(json!({ "preset": "public_chat", "visibility": "public" })).await;
        let invitation = json!({ "preset": "private_chat", "invite": [peer.user("bob")] });
        let inviting = stella.create_room(invitation).await;
        let files = [upload(&alice).await, upload(&stella).await];
        let approved = json!({ "level": level, "approved_rooms": ["!approved:b.test"], "reason": "a story" });
        patch(&admin, "b.test", approved).await.ok();
        Self { _network: network, server, peer, admin, alice, stella, shared, open, inviting, before, files }
    }

    /// Alice, or who is as she but for what is asked about.
    fn user(&self, is_acquainted: bool) -> &Client {
        if is_acquainted { &self.alice } else { &self.stella }
    }

    fn heard(&self, what: &str) -> bool {
        self.peer.heard().iter().any(|heard| heard.path.contains(what))
    }

    // === the peer does something here ===

    async fn asks(&self, path: &str) -> Answer {
        self.peer.get(&self.server, &format!("/_matrix/federation/v1/{path}")).await
    }

    /// Bob does something that passes, and says something afterwards; answers whether Alice has noticed what passed.
    async fn passes(&mut self, edu_type: &str, content: Value, is_noticed: impl Fn(&Value) -> bool) -> bool {
        let edu = json!({ "edu_type": edu_type, "content": content });
        let id = format!("edu-{}", rand::random::<u64>());
        if self.peer.transaction(&self.server, &id, &[], &[&edu]).await.status != 200 {
            return is_noticed(&self.alice.sync(None).await);
        }
        let said = self.says().await.expect("transactions are taken");
        let mut is_there = false;
        eventually("what was said afterwards is there", async || {
            let answer = self.alice.sync(None).await;
            is_there = is_noticed(&answer);
            answer["rooms"]["join"][&self.shared.id]["timeline"].to_string().contains(&said).then_some(())
        })
        .await;
        is_there
    }

    /// Bob says something. Answers its id, if the peer's transaction is taken.
    async fn says(&mut self) -> Option<String> {
        let event = self.shared.say(&self.peer, "bob", "hello");
        let id = format!("pdu-{}", rand::random::<u64>());
        let answer = self.peer.transaction(&self.server, &id, &[&event], &[]).await;
        (answer.status == 200).then(|| self.shared.id_of(&event))
    }

    async fn does(&mut self, capability: Capability, holds: bool) -> bool {
        let bob = self.peer.user("bob");
        let shared = self.shared.id.clone();
        let user = self.user(holds).user_id.clone();
        match capability {
            Capability::Profiles => self.asks(&format!("query/profile?user_id={}", enc(&user))).await.status == 200,
            Capability::PeopleSearch => {
                let found = self.peer.get_native(&self.server, "/api/v1/federation/users?q=stella%20strange").await;
                found.status == 200 && found.body.to_string().contains("stella@a.test")
            }
            Capability::FirstContact => {
                let mut room = self.peer.create_room("bob", "12");
                let event =
                    room.make(&self.peer, "bob", "m.room.member", Some(&user), json!({ "membership": "invite" }));
                let invitation = json!({ "room_version": "12", "event": event, "invite_room_state": room.events });
                let path = format!("/_matrix/federation/v2/invite/{}/{}", enc(&room.id), enc(&room.id_of(&event)));
                self.peer.put(&self.server, &path, invitation).await.status == 200
            }
            Capability::Join => {
                let room = if holds { &self.inviting } else { &self.open };
                self.asks(&format!("make_join/{}/{}?ver=12", enc(room), enc(&bob))).await.status == 200
            }
            Capability::Events => match self.says().await {
                None => false,
                Some(said) => {
                    super::arrives(&self.alice, &shared, &said).await;
                    true
                }
            },
            Capability::History => {
                let latest = self.shared.heads[0].clone();
                let path = format!("backfill/{}?v={}&limit=50", enc(&shared), enc(&latest));
                let answer = self.asks(&path).await;
                let events = answer.body["pdus"].as_array().cloned().unwrap_or_default();
                events
                    .iter()
                    .any(|event| pdu::event_id(event, "12") == self.before && event["content"]["body"].is_string())
            }
            Capability::Devices => self.asks(&format!("user/devices/{}", enc(&user))).await.status == 200,
            Capability::Receipts => {
                let now = federation_tests::now();
                let read = json!({ shared.clone(): { "m.read": { bob.clone(): { "data": { "ts": now }, "event_ids": [self.before] } } } });
                let seen = |answer: &Value| answer["rooms"]["join"][&shared]["ephemeral"].to_string().contains(&bob);
                self.passes("m.receipt", read, seen).await
            }
            Capability::Typing => {
                let types = json!({ "room_id": shared, "user_id": bob, "typing": true });
                let seen = |answer: &Value| {
                    let events = answer["rooms"]["join"][&shared]["ephemeral"]["events"].as_array();
                    events.into_iter().flatten().any(|it| it["type"] == "m.typing" && it.to_string().contains(&bob))
                };
                self.passes("m.typing", types, seen).await
            }
            Capability::Presence => {
                let news = json!({ "push": [{ "user_id": bob, "presence": "online", "status_msg": "at the piano", "last_active_ago": 1 }] });
                let seen = |answer: &Value| answer["presence"].to_string().contains("at the piano");
                self.passes("m.presence", news, seen).await
            }
            Capability::PublicRooms => self.asks("publicRooms").await.status == 200,
            Capability::Media => {
                let file = &self.files[usize::from(!holds)];
                self.asks(&format!("media/download/{file}")).await.status == 200
            }
            Capability::DeliveryReceipts => {
                let said = self.alice.say(&shared, "do you have this?").await;
                let content = json!({ shared.clone(): { bob.clone(): { "event_id": said, "ts": 1 } } });
                self.passes("org.comity.delivered", content, |_| false).await;
                let path = format!("/api/v1/rooms/{}/events/{}/delivery", enc(&shared), enc(&said));
                self.alice.get(&path).await.ok()["on_devices_of"] == json!([bob])
            }
            Capability::JoinThere | Capability::Notary | Capability::Broadcasts => {
                unreachable!("{capability} is nothing that a peer does here")
            }
        }
    }

    // === somebody here does something towards the peer ===

    /// Alice says something, and what she did before has reached the peer by then, if it was to.
    async fn tells(&self) {
        for _ in 0..2 {
            let said = self.alice.say(&self.shared.id, "hello").await;
            let path = format!("/api/v1/rooms/{}/events/{}/delivery", enc(&self.shared.id), enc(&said));
            eventually("the peer has it, or is not owed it", async || {
                let told = self.alice.get(&path).await.ok();
                let destination = &told["destinations"][0];
                (destination["state"] == "accepted" || destination.is_null()).then_some(())
            })
            .await;
        }
    }

    async fn has_passed(&self, edu_type: &str) -> bool {
        self.tells().await;
        self.peer.edus().iter().any(|edu| edu["edu_type"] == edu_type)
    }

    async fn does_there(&self, capability: Capability, holds: bool) -> bool {
        let shared = &self.shared.id;
        let user = self.user(holds);
        // Each is somebody else, so that what is asked about one isn't answered from memory.
        let other = self.peer.user(if holds { "bob" } else { "boris" });
        match capability {
            Capability::Profiles => {
                user.get(&format!("profile/{}", enc(&other))).await;
                let asked = |query: &str| query.replace("%40", "@").replace("%3A", ":").contains(&other);
                self.peer.heard().iter().any(|heard| heard.path.contains("query/profile") && asked(&heard.query))
            }
            Capability::FirstContact => {
                let room = user.create_room(json!({ "preset": "private_chat" })).await;
                user.act_on(&room, "invite", &self.peer.user("bob")).await;
                self.peer
                    .heard()
                    .iter()
                    .any(|heard| heard.path.contains("/v2/invite/") && heard.body.to_string().contains(&room))
            }
            Capability::JoinThere => {
                let room = if holds { "!approved:b.test" } else { "!another:b.test" };
                self.stella.try_join_via(room, &["b.test"]).await;
                self.heard(&format!("make_join/{}", enc(room))) || self.heard(&format!("make_join/{room}"))
            }
            Capability::Events => {
                let said = self.alice.say(shared, "can you hear me?").await;
                self.tells().await;
                self.peer.pdus().iter().any(|event| pdu::event_id(event, "12") == said)
            }
            Capability::Devices => {
                user.post("keys/query", json!({ "device_keys": { other.clone(): [] } })).await.ok();
                let asked = |heard: &federation_tests::Heard| {
                    heard.path.contains("/user/")
                        && (heard.path.contains(&enc(&other)) || heard.body.to_string().contains(&other))
                };
                self.peer.heard().iter().any(asked)
            }
            Capability::Receipts => {
                let said = self.shared.id_of(self.shared.events.last().expect("there is one"));
                self.alice.post(&format!("rooms/{shared}/receipt/m.read/{said}"), json!({})).await;
                self.has_passed("m.receipt").await
            }
            Capability::Typing => {
                let path = format!("rooms/{shared}/typing/{}", self.alice.user_id);
                self.alice.put(&path, json!({ "typing": true, "timeout": 60_000 })).await.ok();
                self.has_passed("m.typing").await
            }
            Capability::Presence => {
                let seen = self.peer.edus().len();
                let path = format!("presence/{}/status", self.alice.user_id);
                self.alice.put(&path, json!({ "presence": "unavailable", "status_msg": "at the piano" })).await.ok();
                self.tells().await;
                self.peer.edus()[seen..].iter().any(|edu| edu.to_string().contains("at the piano"))
            }
            Capability::Media => {
                let file = if holds { "one" } else { "two" };
                user.raw(Method::GET, &format!("/_matrix/client/v1/media/download/b.test/{file}"), "", Vec::new())
                    .await
                    .ok();
                self.heard(&format!("media/download/{file}"))
            }
            Capability::Join | Capability::History | Capability::PublicRooms => {
                unreachable!("{capability} is nothing that is done towards a peer")
            }
            Capability::PeopleSearch => {
                self.alice.get("/api/v1/users?q=boris&server=b.test").await;
                self.heard("/api/v1/federation/users")
            }
            Capability::DeliveryReceipts => {
                // Alice's device has all that was said, when it asks for what comes after it.
                let answer = self.alice.sync(None).await;
                let since = answer["next_batch"].as_str().expect("there is one");
                self.alice.sync_with(Some(since), Duration::ZERO, "").await.ok();
                // It is gathered for a second before it is told.
                for _ in 0..3 {
                    if self.has_passed("org.comity.delivered").await {
                        return true;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                self.has_passed("org.comity.delivered").await
            }
            Capability::Broadcasts | Capability::Notary => unreachable!("{capability} is left out"),
        }
    }
}

async fn upload(client: &Client) -> String {
    let uploaded = client.raw(Method::POST, "/_matrix/media/v3/upload", "text/plain", "hello".into()).await;
    let uploaded = uploaded.expect("it is taken").ok();
    uploaded["content_uri"].as_str().expect("it has a name").rsplit('/').next().unwrap_or_default().to_owned()
}

/// Whether `capability` hangs, at some level, on something that may be so or not.
fn hangs_on_something(capability: Capability) -> bool {
    let hangs = |grant| {
        matches!(
            grant,
            Grant::Acquainted | Grant::Contacts | Grant::Invited | Grant::Approved | Grant::Shared | Grant::OptIn
        )
    };
    TrustLevel::ALL.into_iter().any(|level| hangs(capability.at(level)))
}

/// What the table says, with all that it may hang on so or not so.
fn is_allowed(level: TrustLevel, capability: Capability, direction: Direction, holds: bool) -> bool {
    let context = Context { direction, ..Context::inbound() };
    let context = Fact::ALL.into_iter().fold(context, |context, fact| context.knowing(fact, holds));
    let reaches = match (capability, capability.at(level)) {
        // What was said before a peer's people came is not there for who may read what came later.
        (Capability::History, grant) => grant != Grant::SinceJoin,
        // That its server has something is told by how that answers; what is asked about here are devices.
        (Capability::DeliveryReceipts, grant) => grant == Grant::Device,
        _ => true,
    };
    matches!(decide(&Regard::of_level(level), capability, &context), Decision::Allow(_)) && reaches
}

#[tokio::test]
async fn every_capability_is_at_every_level_and_in_every_direction_as_the_table_says() {
    let left_out: BTreeSet<Capability> = NOT_YET.into_iter().chain(ELSEWHERE).collect();
    let levels = TrustLevel::ALL.into_iter().map(async |level| {
        let mut world = World::at(level).await;
        let (mut expected, mut found) = (BTreeMap::new(), BTreeMap::new());
        for row in TABLE.iter().filter(|row| !left_out.contains(&row.capability)) {
            for direction in row.directions {
                for holds in [true, false] {
                    if !holds && !hangs_on_something(row.capability) {
                        continue;
                    }
                    let is_done = match direction {
                        Direction::In => world.does(row.capability, holds).await,
                        Direction::Out => world.does_there(row.capability, holds).await,
                    };
                    let what = format!("{level}: {} {}, {holds}", row.word, direction.as_str());
                    expected.insert(what.clone(), is_allowed(level, row.capability, *direction, holds));
                    found.insert(what, is_done);
                }
            }
        }
        assert_eq!(world.admin.get("/api/v1/admin/audit/verify").await.ok()["intact"], true);
        (expected, found)
    });
    let mut wrong = Vec::new();
    let mut count = 0;
    for (expected, found) in join_all(levels).await {
        count += found.len();
        for (what, is_done) in found {
            if expected[&what] != is_done {
                wrong.push(format!(
                    "{what}: {}",
                    if is_done { "done, though refused" } else { "not done, though allowed" }
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "of {count}, these are not as the table says:\n{}", wrong.join("\n"));
    eprintln!("{count} things were as the table says");
}
