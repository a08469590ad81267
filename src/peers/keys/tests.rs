//! The key ring among servers that answer, lie, and don't answer.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use ruma::{
    CanonicalJsonValue, RoomVersionId,
    api::federation::discovery::{ServerSigningKeys, get_remote_server_keys_batch::v2 as query},
    room_version_rules::RoomVersionRules,
    serde::{Base64, Raw},
    server_name,
    signatures::{KeyPair as _, hash_and_sign_event, sign_json},
};
use serde_json::{json, value::RawValue};
use store::testing::on_each_engine;

use model::peer::{Capability, Context, Standing, TrustLevel};

use super::*;
use crate::{
    Failure, PeerError,
    trust::{Author, PeerChange},
};

const NOW: Millis = 1_700_000_000_000;
const HOUR: Millis = 60 * 60_000;
const DAY: Millis = 24 * HOUR;

fn key(server: &str, version: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(server.try_into().expect("it is a name"), version, &[seed; 32]).expect("any seed will do")
}

/// What a server says: its current key, its old ones with their end, and until when all of it counts.
#[derive(Clone)]
struct Says {
    server: &'static str,
    current: (&'static str, u8),
    old: Vec<(&'static str, u8, Millis)>,
    valid_until: Millis,
}

fn says(server: &'static str, current: (&'static str, u8)) -> Says {
    Says { server, current, old: Vec::new(), valid_until: NOW + DAY }
}

impl Says {
    fn object(&self) -> CanonicalJsonObject {
        let listed = |version: &str, seed| {
            let key = key(self.server, version, seed);
            let public: Base64 = Base64::new(key.public_key().to_vec());
            (key.key_id().to_string(), json!({ "key": public.encode() }))
        };
        let (current, current_key) = listed(self.current.0, self.current.1);
        let old: serde_json::Map<_, _> = self
            .old
            .iter()
            .map(|(version, seed, expired)| {
                let (key_id, mut old) = listed(version, *seed);
                old["expired_ts"] = json!(expired);
                (key_id, old)
            })
            .collect();
        let object = json!({
            "server_name": self.server,
            "verify_keys": { current: current_key },
            "old_verify_keys": old,
            "valid_until_ts": self.valid_until,
        });
        let mut object = serde_json::from_value(object).expect("it is canonical");
        self.sign(&mut object, self.server, &key(self.server, self.current.0, self.current.1));
        object
    }

    fn sign(&self, object: &mut CanonicalJsonObject, by: &str, key: &SigningKey) {
        sign_json(by, key, object).expect("it is an object");
    }
}

fn raw(object: CanonicalJsonObject) -> Raw<ServerSigningKeys> {
    let text = CanonicalJsonValue::Object(object).to_string();
    Raw::from_json(RawValue::from_string(text).expect("it is JSON"))
}

/// The other servers.
#[derive(Default)]
struct Others {
    answers: Mutex<HashMap<String, CanonicalJsonObject>>,
    /// What notaries answer, whoever is asked for.
    vouched: Mutex<HashMap<String, Vec<CanonicalJsonObject>>>,
    asked: AtomicUsize,
    /// How often notaries were.
    queried: AtomicUsize,
}

impl Others {
    fn say(&self, said: &Says) {
        self.say_object(said.server, said.object());
    }

    fn say_object(&self, server: &str, object: CanonicalJsonObject) {
        self.answers.lock().expect("no test panics here").insert(server.to_owned(), object);
    }

    fn silence(&self, server: &str) {
        self.answers.lock().expect("no test panics here").remove(server);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn unreachable(server: &ServerName) -> PeerError {
    PeerError::Unreachable { server: server.to_owned(), failure: Failure::Connect, source: None }
}

impl Fetch for Others {
    fn server_keys<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Raw<ServerSigningKeys>, PeerError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        async move {
            // Time for others to come along.
            tokio::task::yield_now().await;
            let answer = self.answers.lock().expect("no test panics here").get(server.as_str()).cloned();
            answer.map(raw).ok_or_else(|| unreachable(server))
        }
        .boxed()
    }

    fn query<'a>(
        &'a self,
        notary: &'a ServerName,
        _: query::Request,
    ) -> BoxFuture<'a, Result<Vec<Raw<ServerSigningKeys>>, PeerError>> {
        self.queried.fetch_add(1, Ordering::SeqCst);
        let vouched = self.vouched.lock().expect("no test panics here").get(notary.as_str()).cloned();
        async move { Ok(vouched.ok_or_else(|| unreachable(notary))?.into_iter().map(raw).collect()) }.boxed()
    }
}

struct Rig {
    ring: KeyRing,
    others: Arc<Others>,
    clock: Arc<AtomicI64>,
    store: Store,
    trust: Trust,
}

impl Rig {
    fn new(store: Store, notaries: &[&ServerName]) -> Self {
        let others = Arc::new(Others::default());
        let clock = Arc::new(AtomicI64::new(NOW));
        let us = server_name!("us.test").to_owned();
        let trusting = crate::TrustConfig { default_level: TrustLevel::Full, ..crate::TrustConfig::default() };
        let trust = Trust::new(store.clone(), us, trusting);
        let ring = Self::ring(&store, &others, &clock, notaries, &trust);
        Self { ring, others, clock, store, trust }
    }

    fn ring(
        store: &Store,
        others: &Arc<Others>,
        clock: &Arc<AtomicI64>,
        notaries: &[&ServerName],
        trust: &Trust,
    ) -> KeyRing {
        let time = clock.clone();
        KeyRing::new(Parts {
            store: store.clone(),
            key: Arc::new(key("us.test", "now", 1)),
            retired: vec![RetiredKey {
                key_id: "ed25519:old".into(),
                public_key: key("us.test", "old", 2).public_key(),
                expired_at: NOW - DAY,
            }],
            previous: Some(Arc::new(key("us.test", "old", 2))),
            notaries: notaries.iter().map(|notary| (*notary).to_owned()).collect(),
            fetch: others.clone(),
            trust: trust.clone(),
            clock: Arc::new(move || time.load(Ordering::SeqCst)),
        })
    }

    fn advance(&self, time: Millis) {
        self.clock.fetch_add(time, Ordering::SeqCst);
    }

    /// How a key of `server` is now: until when it counts, or one word for why it can't be had.
    async fn look_up(&self, server: &str, key_id: &str) -> Result<Millis, &'static str> {
        let server = <&ServerName>::try_from(server).expect("it is a name");
        self.ring.keys_of(server, key_id).await.map(|key| key.ends_at()).map_err(|error| error.reason())
    }
}

impl Rig {
    /// An admin pins a.test to the key that it has.
    async fn pin(&self, version: &str, seed: u8) {
        let key = key("a.test", version, seed);
        let public: Base64 = Base64::new(key.public_key().to_vec());
        let change = PeerChange {
            level: Some(TrustLevel::Full),
            pinned_keys: Some([(key.key_id().to_string(), public.encode())].into()),
            clear_alarm: true,
            ..PeerChange::default()
        };
        let author = Author { actor: "@admin:us.test".into(), reason: "we compared it by phone".into() };
        let pattern = "a.test".parse().expect("it is one");
        self.trust.change(&pattern, &change, &author, None).await.expect("it makes sense");
    }

    /// Whether something that a.test signs counts.
    async fn believes(&self, version: &str, seed: u8) -> bool {
        let key = key("a.test", version, seed);
        let (_, signature) = key.sign(b"x").into_parts();
        let signature: [u8; 64] = signature.try_into().expect("it is ed25519");
        let by = [(key.key_id().to_string(), signature)];
        self.ring.check_texts(server_name!("a.test"), &by, std::iter::once(&b"x"[..])).await.is_ok()
    }

    fn standing(&self) -> Standing {
        self.trust.regard(server_name!("a.test")).standing
    }
}

#[tokio::test]
async fn a_pinned_server_that_shows_another_key_raises_an_alarm_and_is_not_believed() {
    rigged(&[], async |rig| {
        rig.pin("k1", 11).await;
        rig.others.say(&says("a.test", ("k1", 11)));
        assert!(rig.believes("k1", 11).await);
        assert_eq!(rig.standing(), Standing::Active);
        // Somebody in between: another key by another name, or by the same.
        for (version, seed) in [("k2", 66), ("k1", 66)] {
            rig.pin("k1", 11).await;
            rig.advance(HOUR);
            rig.others.say(&says("a.test", (version, seed)));
            rig.ring.ask_origin(server_name!("a.test")).await;
            assert_eq!(rig.standing(), Standing::Alarmed, "{version}");
            assert!(!rig.believes(version, seed).await);
            let refused = rig.trust.allow(server_name!("a.test"), Capability::Events, &Context::inbound());
            assert_eq!(refused.expect_err("nothing is taken").rule().to_string(), "peer.key_alarm");
        }
        // An admin has looked at it: the new key is right.
        rig.pin("k2", 66).await;
        rig.advance(HOUR);
        rig.others.say(&says("a.test", ("k2", 66)));
        assert!(rig.believes("k2", 66).await && !rig.believes("k1", 11).await);
        assert_eq!(rig.standing(), Standing::Active);
        assert!(rig.trust.verify_audit().await.expect("it can be read").is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_pin_moves_to_keys_that_the_pinned_one_has_signed() {
    rigged(&[], async |rig| {
        rig.pin("k1", 11).await;
        let said = says("a.test", ("k2", 12));
        let mut object = said.object();
        said.sign(&mut object, "a.test", &key("a.test", "k1", 11));
        rig.others.say_object("a.test", object);
        assert!(rig.believes("k2", 12).await);
        assert_eq!(rig.standing(), Standing::Active);
        assert!(!rig.believes("k1", 11).await);
        let last = rig.trust.audit(None, None, 1).await.expect("it can be read").remove(0);
        assert_eq!((last.action.as_str(), last.actor.as_str()), ("peer.keys_rotated", "key pinning"));
    })
    .await;
}

async fn rigged(notaries: &[&ServerName], story: impl AsyncFn(Rig)) {
    on_each_engine(async |store| {
        story(Rig::new(store, notaries)).await;
        Ok::<_, store::Error>(())
    })
    .await;
}

fn rules() -> RoomVersionRules {
    RoomVersionId::V11.rules().expect("it is known")
}

fn event(sender: &str, at: Millis, by: &[&SigningKey]) -> CanonicalJsonObject {
    let event = json!({
        "type": "m.room.message", "room_id": "!r:a.test", "sender": sender, "origin_server_ts": at,
        "content": { "body": "hello" }, "depth": 1, "prev_events": [], "auth_events": [],
    });
    let mut event = serde_json::from_value(event).expect("it is canonical");
    for key in by {
        hash_and_sign_event(key.server_name().as_str(), *key, &mut event, &rules().redaction).expect("it is an event");
    }
    event
}

#[tokio::test]
async fn a_server_is_asked_once_and_remembered_over_a_restart() {
    rigged(&[], async |rig| {
        rig.others.say(&says("a.test", ("k1", 7)));
        let both = tokio::join!(rig.look_up("a.test", "ed25519:k1"), rig.look_up("a.test", "ed25519:k1"));
        assert_eq!(both, (Ok(NOW + DAY), Ok(NOW + DAY)));
        assert_eq!(rig.others.asked(), 1);
        rig.others.silence("a.test");
        let again = Rig { ring: Rig::ring(&rig.store, &rig.others, &rig.clock, &[], &rig.trust), ..rig };
        assert_eq!(again.look_up("a.test", "ed25519:k1").await, Ok(NOW + DAY));
        assert_eq!(again.others.asked(), 1);
    })
    .await;
}

#[tokio::test]
async fn our_own_keys_need_no_asking() {
    rigged(&[], async |rig| {
        assert_eq!(rig.look_up("us.test", "ed25519:now").await, Ok(Millis::MAX));
        assert_eq!(rig.look_up("us.test", "ed25519:old").await, Err("expired_key"));
        let old = event("@u:us.test", NOW - 2 * DAY, &[&key("us.test", "old", 2)]);
        let late = event("@u:us.test", NOW, &[&key("us.test", "old", 2)]);
        let checked = rig.ring.check_events(vec![old.clone(), late], &rules()).await;
        assert_eq!(checked[0].as_ref().expect("it counted then"), &old);
        assert_eq!(checked[1].as_ref().expect_err("it was too late").reason(), "expired_key");
        assert_eq!(rig.others.asked(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_key_counts_for_a_week_at_most_and_is_then_asked_for_again() {
    rigged(&[], async |rig| {
        rig.others.say(&Says { valid_until: NOW + 1_000 * DAY, ..says("a.test", ("k1", 7)) });
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Ok(NOW + 7 * DAY));
        rig.advance(8 * DAY);
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Ok(NOW + 15 * DAY));
        assert_eq!(rig.others.asked(), 2);
        rig.others.silence("a.test");
        rig.advance(8 * DAY);
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Err("expired_key"));
    })
    .await;
}

#[tokio::test]
async fn a_retired_key_counts_for_what_it_signed_before() {
    rigged(&[], async |rig| {
        rig.others.say(&Says { old: vec![("k1", 7, NOW - DAY)], ..says("a.test", ("k2", 8)) });
        let (old, new) = (key("a.test", "k1", 7), key("a.test", "k2", 8));
        let events = vec![
            event("@u:a.test", NOW - 2 * DAY, &[&old]),
            event("@u:a.test", NOW - HOUR, &[&old]),
            event("@u:a.test", NOW - HOUR, &[&new]),
            event("@u:a.test", NOW - HOUR, &[&old, &new]),
        ];
        let checked = rig.ring.check_events(events, &rules()).await;
        let words: Vec<_> =
            checked.iter().map(|checked| checked.as_ref().map(drop).map_err(|error| error.reason())).collect();
        assert_eq!(words, [Ok(()), Err("expired_key"), Ok(()), Ok(())]);
        assert_eq!(rig.others.asked(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named() {
    rigged(&[], async |rig| {
        rig.others.say(&Says { valid_until: NOW - 3 * HOUR, ..says("a.test", ("k1", 7)) });
        let error = rig.ring.keys_of(server_name!("a.test"), "ed25519:k1").await.expect_err("it ended");
        let text = error.to_string();
        assert!(text.contains("ended 3 h 0 min before") && text.contains("clock"), "{text}");
        let ahead = event("@u:a.test", NOW + 30 * DAY, &[&key("a.test", "k1", 7)]);
        let error = rig.ring.check_events(vec![ahead], &rules()).await.remove(0).expect_err("it is of the future");
        assert!(error.to_string().contains("30 d 0 h ahead of this server's clock"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_longer_and_longer() {
    rigged(&[], async |rig| {
        for _ in 0..3 {
            assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Err("unknown_key"));
        }
        assert_eq!(rig.others.asked(), 1);
        rig.advance(10_000);
        rig.look_up("a.test", "ed25519:k1").await.expect_err("it is still away");
        rig.advance(10_000);
        rig.look_up("a.test", "ed25519:k1").await.expect_err("it is left alone");
        assert_eq!(rig.others.asked(), 2);
        rig.others.say(&says("a.test", ("k1", 7)));
        rig.advance(2 * 60_000);
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Ok(NOW + DAY));
        // Nor is it asked at once again for a key that it doesn't list.
        assert_eq!(rig.look_up("a.test", "ed25519:k9").await, Err("unknown_key"));
        assert_eq!(rig.others.asked(), 3);
    })
    .await;
}

#[tokio::test]
async fn what_is_not_signed_by_the_keys_it_lists_is_not_believed() {
    rigged(&[], async |rig| {
        let said = says("a.test", ("k1", 7));
        let mut lies = said.object();
        lies.insert("valid_until_ts".into(), CanonicalJsonValue::Integer((NOW + 2 * DAY).try_into().expect("it fits")));
        rig.others.say_object("a.test", lies);
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Err("unknown_key"));
        // Another server's answer, true as it is, says nothing of this one.
        rig.others.say_object("b.test", said.object());
        assert_eq!(rig.look_up("b.test", "ed25519:k1").await, Err("unknown_key"));
        let mut unsigned = says("c.test", ("k1", 7)).object();
        unsigned.remove("signatures");
        rig.others.say_object("c.test", unsigned);
        assert_eq!(rig.look_up("c.test", "ed25519:k1").await, Err("unknown_key"));
    })
    .await;
}

#[tokio::test]
async fn a_notary_is_asked_for_servers_that_are_away_and_believed_if_it_signs() {
    let notary = server_name!("n.test");
    rigged(&[notary], async |rig| {
        let notary_key = key("n.test", "n", 9);
        let vouch = |said: &Says, by: &SigningKey| {
            let mut object = said.object();
            said.sign(&mut object, "n.test", by);
            object
        };
        rig.others.say(&says("n.test", ("n", 9)));
        let (gone, forged) = (says("a.test", ("k1", 7)), says("b.test", ("k1", 7)));
        let vouched = vec![vouch(&gone, &notary_key), vouch(&forged, &key("n.test", "n", 10))];
        rig.others.vouched.lock().expect("no test panics").insert("n.test".into(), vouched);
        // Of two who want it at once, one asks; the other waits for that.
        let both = tokio::join!(rig.look_up("a.test", "ed25519:k1"), rig.look_up("a.test", "ed25519:k1"));
        assert_eq!(both, (Ok(NOW + DAY), Ok(NOW + DAY)));
        assert_eq!(rig.look_up("b.test", "ed25519:k1").await, Err("unknown_key"));
        assert_eq!(rig.look_up("c.test", "ed25519:k1").await, Err("unknown_key"));
    })
    .await;
}

#[tokio::test]
async fn a_notary_that_is_not_trusted_to_be_one_is_not_asked() {
    let notary = server_name!("n.test");
    rigged(&[notary], async |rig| {
        let said = says("a.test", ("k1", 7));
        let mut object = said.object();
        said.sign(&mut object, "n.test", &key("n.test", "n", 9));
        rig.others.say(&says("n.test", ("n", 9)));
        rig.others.vouched.lock().expect("no test panics").insert("n.test".into(), vec![object]);
        let set = async |change: PeerChange| {
            let author = Author { actor: "@admin:us.test".into(), reason: "a story".into() };
            rig.trust
                .change(&"n.test".parse().expect("it is one"), &change, &author, None)
                .await
                .expect("it makes sense");
        };
        let queried = || rig.others.queried.load(Ordering::SeqCst);
        for level in [TrustLevel::Limited, TrustLevel::Restricted, TrustLevel::Blocked] {
            set(PeerChange { level: Some(level), ..PeerChange::default() }).await;
            rig.advance(HOUR);
            assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Err("unknown_key"), "{level}");
            assert_eq!(queried(), 0, "{level}");
        }
        // Its word on keys alone can be taken, whatever else it may.
        let wish = model::peer::Override { grant: model::peer::Grant::OptIn, reason: "they are honest".into() };
        let overrides = [(Capability::Notary, Some(wish))].into();
        set(PeerChange { level: Some(TrustLevel::Limited), overrides, ..PeerChange::default() }).await;
        rig.advance(HOUR);
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Ok(NOW + DAY));
        assert_eq!(queried(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_notary_changes_no_key_that_its_server_told() {
    let notary = server_name!("n.test");
    rigged(&[notary], async |rig| {
        rig.others.say(&says("a.test", ("k1", 7)));
        rig.others.say(&says("n.test", ("n", 9)));
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Ok(NOW + DAY));
        let other = says("a.test", ("k1", 8));
        let mut object = other.object();
        other.sign(&mut object, "n.test", &key("n.test", "n", 9));
        rig.others.vouched.lock().expect("no test panics").insert("n.test".into(), vec![object]);
        rig.others.silence("a.test");
        rig.advance(2 * DAY);
        assert_eq!(rig.look_up("a.test", "ed25519:k1").await, Err("expired_key"));
    })
    .await;
}

#[tokio::test]
async fn events_are_believed_as_far_as_they_are_signed() {
    rigged(&[], async |rig| {
        let (a, b) = (key("a.test", "k1", 7), key("b.test", "k1", 8));
        rig.others.say(&says("a.test", ("k1", 7)));
        rig.others.say(&says("b.test", ("k1", 8)));
        let good = event("@u:a.test", NOW, &[&a]);
        let mut changed = good.clone();
        changed.insert(
            "content".into(),
            CanonicalJsonValue::Object(CanonicalJsonObject::from([("x".into(), true.into())])),
        );
        let mut resigned = good.clone();
        resigned.insert("sender".into(), "@v:a.test".into());
        let forged = event("@u:a.test", NOW, &[&b]);
        let unsigned = event("@u:a.test", NOW, &[]);
        let checked = rig.ring.check_events(vec![good.clone(), changed, resigned, forged, unsigned], &rules()).await;
        assert_eq!(checked[0].as_ref().expect("it is good"), &good);
        let redacted = checked[1].as_ref().expect("its frame is signed");
        assert_eq!(redacted["content"], CanonicalJsonValue::Object(CanonicalJsonObject::new()));
        let words: Vec<_> = checked[2..].iter().map(|it| it.as_ref().expect_err("it is not").reason()).collect();
        assert_eq!(words, ["bad_signature", "bad_signature", "bad_signature"]);
    })
    .await;
}

#[tokio::test]
async fn many_events_are_answered_in_their_order() {
    rigged(&[], async |rig| {
        let a = key("a.test", "k1", 7);
        rig.others.say(&says("a.test", ("k1", 7)));
        let sender = |at: i64| if at % 7 == 0 { "@u:gone.test" } else { "@u:a.test" };
        let events: Vec<_> = (0..100).map(|at| event(sender(at), NOW - at, &[&a])).collect();
        let checked = rig.ring.check_events(events.clone(), &rules()).await;
        for (at, (event, checked)) in events.iter().zip(checked).enumerate() {
            match checked {
                Ok(checked) => assert_eq!(&checked, event),
                Err(error) => assert_eq!((at % 7, error.reason()), (0, "bad_signature")),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn this_server_says_what_its_keys_are_and_vouches_for_others() {
    rigged(&[], async |rig| {
        let json = rig.ring.published().expect("it can be signed");
        let said = Raw::from_json(RawValue::from_string(json.to_string()).expect("it is JSON"));
        let read = answer::KeyAnswer::read(&said, NOW).expect("others believe it");
        assert_eq!((read.server.as_str(), read.valid_until), ("us.test", NOW + DAY));
        assert_eq!(read.keys["ed25519:now"].expired_at, None);
        assert_eq!(read.keys["ed25519:old"].expired_at, Some(NOW - DAY));
        // Both have signed it, each as it should.
        for (version, seed) in [("now", 1), ("old", 2)] {
            let key = key("us.test", version, seed);
            let only = [(key.key_id().to_string(), Base64::new(key.public_key().to_vec()))].into();
            known::check_signatures(&read.object, server_name!("us.test"), &only).expect("it has signed");
        }
        rig.advance(30 * 60_000);
        assert_eq!(rig.ring.published().expect("it is remembered"), json);
        rig.advance(HOUR);
        assert_ne!(rig.ring.published().expect("it is made anew"), json);

        rig.others.say(&says("a.test", ("k1", 7)));
        let wish = |server: &ServerName| NotaryWish { server: server.to_owned(), minimum_valid_until: NOW };
        let wishes = [server_name!("a.test"), server_name!("gone.test"), server_name!("us.test")].map(wish);
        let vouched = rig.ring.vouch(wishes.to_vec()).await.expect("it answers what it has");
        assert_eq!(vouched.len(), 2);
        let object: CanonicalJsonObject = serde_json::from_str(vouched[0].get()).expect("it is an object");
        rig.ring.check_json(server_name!("a.test"), &object).await.expect("its server signed it");
        rig.ring.check_json(server_name!("us.test"), &object).await.expect("so did we");
    })
    .await;
}
