//! The cache against a scripted server, on each engine, with a clock that stands still until it is moved.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use futures_util::future::{BoxFuture, join_all};
use model::{
    Millis, Refusal as _,
    peer::{PeerPattern, TrustLevel},
};
use peers::{
    Failure, PeerError, Trust,
    trust::{Author, PeerChange},
};
use ruma::{UserId, owned_server_name, server_name, user_id};
use serde_json::{Value, json};
use store::{Error, Store, testing::on_each_engine};
use tokio::sync::Semaphore;

use super::{Parts, RemoteUser, RemoteUserError, RemoteUsers, RemoteUsersConfig, Source, entry::Standing};
use crate::Profile;

const HOUR: Millis = 60 * 60_000;

/// What the scripted server says next.
#[derive(Clone)]
enum Says {
    Named(&'static str),
    /// With a time zone.
    Zoned(&'static str),
    NotFound,
    Forbidden,
    Nothing,
}

/// A server that counts how often it is asked, and answers only while its door is open.
struct Script {
    says: Mutex<Says>,
    asked: AtomicUsize,
    door: Semaphore,
}

impl Source for Script {
    fn ask<'a>(&'a self, _: &'a UserId) -> BoxFuture<'a, Result<Profile, PeerError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let refused = |status, errcode: &str| PeerError::Refused {
            server: owned_server_name!("b.test"),
            status,
            errcode: Some(errcode.into()),
            message: "no".into(),
            retry_after: None,
        };
        Box::pin(async move {
            let _open = self.door.acquire().await.expect("nobody takes the door away");
            let says = self.says.lock().expect("nobody panics while holding it").clone();
            match says {
                Says::Named(name) => Ok(Profile::from([("displayname".to_owned(), json!(name))])),
                Says::Zoned(name) => Ok(Profile::from([
                    ("displayname".to_owned(), json!(name)),
                    ("m.tz".to_owned(), json!("Europe/Paris")),
                ])),
                Says::NotFound => Err(refused(404, "M_NOT_FOUND")),
                Says::Forbidden => Err(refused(403, "M_FORBIDDEN")),
                Says::Nothing => Err(PeerError::Unreachable {
                    server: owned_server_name!("b.test"),
                    failure: Failure::Connect,
                    source: None,
                }),
            }
        })
    }
}

/// One node, and the server that it asks.
struct Scene {
    users: RemoteUsers,
    script: Arc<Script>,
    clock: Arc<AtomicI64>,
    store: Store,
    trust: Trust,
}

impl Scene {
    fn new(store: Store) -> Self {
        Self::with(store, RemoteUsersConfig::default())
    }

    fn with(store: Store, config: RemoteUsersConfig) -> Self {
        let script = Arc::new(Script {
            says: Mutex::new(Says::Named("Bob")),
            asked: AtomicUsize::new(0),
            door: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
        let time = clock.clone();
        let trust = peers::testing::alone(server_name!("a.test"), store.clone()).trust().clone();
        let now = Arc::new(move || time.load(Ordering::SeqCst));
        let parts = Parts { source: script.clone(), trust: trust.clone(), clock: now };
        let users = RemoteUsers::new(config, owned_server_name!("a.test"), store.clone(), parts);
        Self { users, script, clock, store, trust }
    }

    /// Another node on the same database, or the same after a restart.
    fn another(&self) -> Self {
        let other = Self::new(self.store.clone());
        other.clock.store(self.clock.load(Ordering::SeqCst), Ordering::SeqCst);
        other
    }

    fn says(&self, says: Says) {
        *self.script.says.lock().expect("nobody panics while holding it") = says;
    }

    fn later(&self, millis: Millis) {
        self.clock.fetch_add(millis, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.script.asked.load(Ordering::SeqCst)
    }

    async fn bob(&self) -> RemoteUser {
        self.users.get(None, bob()).await.expect("something is known of him")
    }

    async fn name(&self) -> Option<String> {
        self.bob().await.profile.display_name.clone()
    }

    async fn trusts(&self, level: TrustLevel) {
        let author = Author { actor: "@admin:a.test".into(), reason: "a test".into() };
        let change = PeerChange { level: Some(level), ..PeerChange::default() };
        self.trust.change(&pattern(), &change, &author, None).await.expect("nobody else changes it");
    }

    /// Waits until nobody is being asked.
    async fn settles(&self) {
        let settled = async {
            while !self.users.book().flights.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), settled).await.expect("asking comes to an end");
    }
}

fn bob() -> &'static UserId {
    user_id!("@bob:b.test")
}

fn pattern() -> PeerPattern {
    "b.test".parse().expect("it is one")
}

async fn scene(story: impl AsyncFn(Scene) -> Result<(), Error>) {
    on_each_engine(async |store| story(Scene::new(store)).await).await;
}

#[tokio::test]
async fn a_second_look_up_asks_nobody_nor_does_one_after_a_restart_or_on_another_node() {
    scene(async |scene| {
        assert_eq!(scene.name().await.as_deref(), Some("Bob"));
        let bob = scene.bob().await;
        assert_eq!((bob.expires_at - bob.fetched_at, bob.stale_since), (HOUR, None));
        assert_eq!(scene.asked(), 1);
        let other = scene.another();
        assert_eq!(other.name().await.as_deref(), Some("Bob"));
        assert_eq!(other.asked(), 0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn of_a_hundred_who_look_one_asks_and_those_who_leave_take_nothing_from_the_others() {
    scene(async |scene| {
        scene.script.door.forget_permits(Semaphore::MAX_PERMITS);
        let mut looks: Vec<_> = (0..100)
            .map(|_| {
                let users = scene.users.clone();
                tokio::spawn(async move { users.get(None, bob()).await })
            })
            .collect();
        while scene.asked() == 0 {
            tokio::task::yield_now().await;
        }
        // Whoever was the first to look is among those who leave.
        for left in looks.drain(..50) {
            left.abort();
        }
        scene.script.door.add_permits(1_000);
        for look in join_all(looks).await {
            assert_eq!(look.expect("it ends").expect("he is there").profile.display_name.as_deref(), Some("Bob"));
        }
        assert_eq!(scene.asked(), 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn before_it_expires_it_is_asked_for_again_behind_the_back_of_who_looks() {
    scene(async |scene| {
        scene.bob().await;
        scene.says(Says::Named("Bert"));
        scene.later(HOUR * 3 / 4);
        let bob = scene.bob().await;
        assert_eq!((bob.profile.display_name.as_deref(), bob.stale_since), (Some("Bob"), None));
        scene.settles().await;
        assert_eq!((scene.name().await.as_deref(), scene.asked()), (Some("Bert"), 2));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_answer_is_old_takes_that_of_another_node() {
    scene(async |scene| {
        scene.bob().await;
        let other = scene.another();
        other.bob().await;
        scene.later(HOUR);
        other.later(HOUR);
        scene.says(Says::Named("Bert"));
        assert_eq!(scene.name().await.as_deref(), Some("Bert"));
        assert_eq!((other.name().await.as_deref(), other.asked()), (Some("Bert"), 0));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn while_the_server_is_away_the_old_answer_is_given_with_a_mark() {
    scene(async |scene| {
        let first = scene.bob().await;
        scene.says(Says::Nothing);
        scene.later(2 * HOUR);
        let bob = scene.bob().await;
        assert_eq!(bob.profile, first.profile);
        assert_eq!((bob.stale_since, bob.fetched_at), (Some(first.fetched_at + 2 * HOUR), first.fetched_at));
        // It isn't asked again at once, and then behind the back of who looks.
        scene.bob().await;
        assert_eq!(scene.asked(), 2);
        scene.later(30_000);
        scene.bob().await;
        scene.settles().await;
        assert_eq!(scene.asked(), 3);
        // That it is away outlasts a restart.
        let other = scene.another();
        other.says(Says::Named("Bert"));
        assert_eq!(other.bob().await.stale_since, bob.stale_since);
        other.settles().await;
        let bob = other.bob().await;
        assert_eq!((bob.profile.display_name.as_deref(), bob.stale_since), (Some("Bert"), None));
        // Some day it is too old to be shown.
        scene.later(8 * 24 * HOUR);
        scene.says(Says::Nothing);
        let gone = scene.users.get(None, &bob.user_id).await;
        assert!(matches!(gone, Err(RemoteUserError::Away { .. })), "{gone:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn that_there_is_nobody_is_remembered_for_a_while_and_takes_no_room_in_the_store() {
    scene(async |scene| {
        for (says, is_expected) in [
            (Says::NotFound, (|error| matches!(error, RemoteUserError::Missing)) as fn(&RemoteUserError) -> bool),
            (Says::Forbidden, |error| matches!(error, RemoteUserError::Refused { .. })),
        ] {
            let before = scene.asked();
            scene.says(says);
            for _ in 0..3 {
                let error = scene.users.get(None, bob()).await.expect_err("there is nobody");
                assert!(is_expected(&error), "{error:?}");
            }
            assert_eq!((scene.asked() - before, scene.store.remote_users().count().await?), (1, 0));
            scene.later(5 * 60_000);
        }
        // Who has made an account since is found.
        scene.says(Says::Named("Bob"));
        assert_eq!(scene.name().await.as_deref(), Some("Bob"));
        // And who has left is not there after a restart either.
        scene.later(HOUR);
        scene.says(Says::NotFound);
        assert!(scene.users.get(None, bob()).await.is_err());
        assert_eq!(scene.store.remote_users().count().await?, 0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_away_when_nothing_was_known_is_left_alone_for_a_moment() {
    scene(async |scene| {
        scene.says(Says::Nothing);
        for _ in 0..3 {
            let error = scene.users.get(None, bob()).await.expect_err("nothing is known");
            assert!(matches!(error, RemoteUserError::Away { .. }), "{error:?}");
        }
        assert_eq!(scene.asked(), 1);
        scene.later(30_000);
        scene.says(Says::Named("Bob"));
        assert_eq!(scene.name().await.as_deref(), Some("Bob"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_was_on_its_way_when_users_were_purged_does_not_come_back() {
    scene(async |scene| {
        let carol = user_id!("@carol:c.test");
        scene.users.get(None, carol).await.expect("she is there");
        scene.bob().await;
        scene.users.purge(&pattern()).await?;
        assert_eq!(scene.store.remote_users().count().await?, 1);
        assert!(scene.users.shared.memory.get(bob()).is_none());
        assert!(scene.users.shared.memory.get(carol).is_some());

        scene.script.door.forget_permits(Semaphore::MAX_PERMITS);
        let users = scene.users.clone();
        let look = tokio::spawn(async move { users.get(None, bob()).await });
        while scene.asked() < 3 {
            tokio::task::yield_now().await;
        }
        scene.users.purge(&pattern()).await?;
        scene.script.door.add_permits(1_000);
        look.await.expect("it ends").expect("it was asked before");
        assert!(scene.users.shared.memory.get(bob()).is_none());
        assert_eq!(scene.store.remote_users().count().await?, 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn how_far_a_server_is_trusted_decides_what_is_known_of_its_users() {
    scene(async |scene| {
        scene.says(Says::Zoned("Bob"));
        for (level, fields) in [(TrustLevel::Full, 2), (TrustLevel::Limited, 1)] {
            scene.trusts(level).await;
            assert_eq!(scene.bob().await.profile.to_profile().len(), fields, "{level}");
        }
        assert_eq!(scene.asked(), 1);
        // He shares a room with nobody here.
        for level in [TrustLevel::Restricted, TrustLevel::Blocked] {
            scene.trusts(level).await;
            for asker in [None, Some(user_id!("@alice:a.test"))] {
                let error = scene.users.get(asker, bob()).await.expect_err("what is known isn't shown");
                assert!(matches!(error, RemoteUserError::Untrusted(_)), "{error:?}");
                assert_eq!((error.kind(), error.code()), (model::Kind::Forbidden, Some("not_trusted")));
            }
        }
        assert_eq!(scene.asked(), 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_store_keeps_no_more_than_it_may() {
    on_each_engine(async |store| {
        let config = RemoteUsersConfig { kept: 5, ..RemoteUsersConfig::default() };
        let scene = Scene::with(store, config);
        for at in 0..20 {
            let user = UserId::parse(format!("@u{at}:b.test")).expect("it is a user id");
            scene.users.get(None, &user).await.expect("everybody is there");
            scene.later(1);
            assert!(scene.store.remote_users().count().await? <= 5);
        }
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn one_server_cannot_take_all_who_ask() {
    on_each_engine(async |store| {
        let scene = Scene::new(store);
        scene.script.door.forget_permits(Semaphore::MAX_PERMITS);
        let mut looks = tokio::task::JoinSet::new();
        for at in 0..200 {
            let users = scene.users.clone();
            looks.spawn(async move {
                let user = UserId::parse(format!("@u{at}:b.test")).expect("it is a user id");
                users.get(None, &user).await
            });
        }
        let mut busy = 0;
        while busy < 200 - 128 {
            let error = looks.join_next().await.expect("some are refused").expect("it ends").expect_err("so is this");
            assert!(matches!(error, RemoteUserError::Busy { .. }), "{error:?}");
            busy += 1;
        }
        let users = scene.users.clone();
        let elsewhere = tokio::spawn(async move { users.get(None, user_id!("@carol:c.test")).await });
        scene.script.door.add_permits(1_000);
        elsewhere.await.expect("it ends").expect("another server is asked all the same");
        while let Some(look) = looks.join_next().await {
            look.expect("it ends").expect("it was among the first");
        }
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn a_name_that_is_heard_is_shown_at_once_and_asked_about() {
    scene(async |scene| {
        scene.bob().await;
        let names = super::RemoteProfile::of_names(Some("Bert"), None);
        scene.users.take_in((bob().to_owned(), names.clone())).await?;
        assert_eq!(scene.asked(), 1, "it was for free");
        assert_eq!(scene.another().name().await.as_deref(), Some("Bert"));
        let entry = scene.users.shared.memory.get(bob()).expect("it is in memory");
        assert_eq!(scene.users.standing(&entry), Standing::Ageing);
        assert_eq!(scene.name().await.as_deref(), Some("Bert"));
        scene.settles().await;
        assert_eq!((scene.name().await.as_deref(), scene.asked()), (Some("Bob"), 2), "it was a name in one room");
        // Who isn't known isn't made known by it.
        scene.users.take_in((user_id!("@carol:b.test").to_owned(), names)).await?;
        assert_eq!(scene.store.remote_users().count().await?, 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_membership_is_heard_if_it_is_the_users_own() {
    scene(async |scene| {
        scene.bob().await;
        let tending = scene.users.clone();
        let tending = tokio::spawn(async move { tending.tend().await });
        for (sender, state_key, content) in [
            ("@bob:b.test", "@carol:b.test", json!({ "membership": "join", "displayname": "Mallory" })),
            ("@bob:b.test", "@bob:b.test", json!({ "membership": "leave", "displayname": "Mallory" })),
            ("@bob:b.test", "@bob:b.test", json!({ "membership": "join", "displayname": "Bert" })),
        ] {
            scene.users.ingest(&membership(sender, state_key, &content));
        }
        let heard = async {
            while scene.name().await.as_deref() != Some("Bert") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), heard).await.expect("it is heard");
        tending.abort();
        Ok(())
    })
    .await;
}

fn membership(sender: &str, state_key: &str, content: &Value) -> model::Committed {
    let object = serde_json::from_value(json!({
        "type": "m.room.member", "sender": sender, "state_key": state_key, "room_id": "!room:a.test",
        "content": content, "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [],
        "hashes": { "sha256": "x" }, "signatures": {},
    }))
    .expect("it is canonical");
    let rules = model::rules_of(&ruma::RoomVersionId::V11).expect("it is known");
    let event = model::TimelineEvent {
        nid: model::EventNid(1),
        room_nid: model::RoomNid(1),
        position: model::Position(1),
        seq: Some(1),
        state_before: None,
        room_state: None,
        pdu: Arc::new(model::Pdu::from_canonical(object, &rules).expect("it is an event")),
        transaction_id: None,
        redacted_by: None,
        soft_failed: false,
        withheld_below: None,
    };
    let changes = Arc::new([(model::Position(1), model::Change::Event(Arc::new(event)))]);
    model::Committed { upto: model::Position(1), changes, gap: false, foreign: false }
}

/// What a look-up costs in this process when it asks nobody. The figure is for whoever reads it; the bound is loose, since
/// tests run beside each other and unoptimised.
#[tokio::test]
async fn a_look_up_from_memory_takes_no_time_worth_mentioning() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let location = store::Location::Sqlite(folder.path().join("test.db"));
    let store = Store::open(&location, 2, Arc::new(|_| ())).await.expect("SQLite opens in an empty folder");
    let scene = Scene::new(store);
    scene.bob().await;
    let mut took: Vec<_> = Vec::with_capacity(10_000);
    for _ in 0..10_000 {
        let began = std::time::Instant::now();
        scene.bob().await;
        took.push(began.elapsed());
    }
    took.sort();
    let [median, p99] = [took[took.len() / 2], took[took.len() * 99 / 100]];
    eprintln!("a look-up from memory: median {median:?}, p99 {p99:?}");
    assert_eq!(scene.asked(), 1);
    assert!(p99 < std::time::Duration::from_millis(1), "p99 {p99:?}");
}
