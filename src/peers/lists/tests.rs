//! Lists among publishers that go on, lie, and fall silent, on the store.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use futures_util::{FutureExt as _, future::BoxFuture};
use model::{
    Millis, SigningKey,
    peer::{Capability, Context, Override, PeerPattern, Standing, TrustLevel},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName,
    api::federation::discovery::{ServerSigningKeys, get_remote_server_keys_batch::v2 as query},
    serde::{Base64, Raw},
    server_name,
    signatures::sign_json,
};
use serde_json::{json, value::RawValue};
use store::{Store, testing::on_each_engine};

use super::{document::SignedList, judge::Verdict, subscribe::First, *};
use crate::{
    Failure, PeerError, PeersConfig, TrustConfig,
    keys::{Fetch, wall_clock},
    testing::{key_answer, key_of},
    trust::{Author, PeerChange, Source},
};

const HOUR: Millis = 60 * 60_000;

/// Servers that answer what their keys are, as long as nobody makes them say something else.
#[derive(Default)]
struct Keys(Mutex<HashMap<String, CanonicalJsonObject>>);

impl Fetch for Keys {
    fn server_keys<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Raw<ServerSigningKeys>, PeerError>> {
        let said = self.0.lock().expect("no test panics here").get(server.as_str()).cloned();
        let unreachable = PeerError::Unreachable { server: server.to_owned(), failure: Failure::Connect, source: None };
        async move {
            let text = CanonicalJsonValue::Object(said.ok_or(unreachable)?).to_string();
            Ok(Raw::from_json(RawValue::from_string(text).expect("it is JSON")))
        }
        .boxed()
    }

    fn query<'a>(
        &'a self,
        _: &'a ServerName,
        _: query::Request,
    ) -> BoxFuture<'a, Result<Vec<Raw<ServerSigningKeys>>, PeerError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

impl Keys {
    /// `key` is what its server says that its key is from now on; `others` have signed that too.
    fn say(&self, key: &SigningKey, others: &[&SigningKey]) {
        let answer = key_answer(key, wall_clock() + 10_000 * HOUR);
        let mut object: CanonicalJsonObject = serde_json::from_str(answer.json().get()).expect("it is an object");
        for other in others {
            sign_json(key.server_name().as_str(), *other, &mut object).expect("it is an object");
        }
        self.0.lock().expect("no test panics here").insert(key.server_name().to_string(), object);
    }
}

/// a.test, which goes by the list of p.test.
struct Rig {
    lists: Lists,
    keys: Arc<Keys>,
    clock: Arc<AtomicI64>,
}

impl Rig {
    fn new(store: &Store) -> Self {
        let keys = Arc::new(Keys::default());
        let clock = Arc::new(AtomicI64::new(wall_clock()));
        keys.say(&key_of(p()), &[]);
        let trust = TrustConfig { default_level: TrustLevel::Limited, ..TrustConfig::default() };
        let config = PeersConfig { trust, ..PeersConfig::default() };
        let time = clock.clone();
        let clock_of_keys = Arc::new(move || time.load(Ordering::SeqCst));
        let key = Arc::new(key_of(server_name!("a.test")));
        let peers = Peers::with(store.clone(), key, config, keys.clone(), clock_of_keys);
        let peers = peers.expect("nothing has to be reached");
        Self { lists: peers.lists(), keys, clock }
    }

    async fn subscribe(&self, first: SignedList, highest_level: TrustLevel) -> SubscriptionView {
        let first = Some(First { pins: pins_of(&key_of(p())), signed: first });
        let wish = Wish { highest_level: Some(highest_level), ..Wish::default() };
        self.lists.begin(p(), &wish, first, &author(), Some(0)).await.expect("it makes sense")
    }

    /// What becomes of an answer of the publisher: what it was, or the code of the fault.
    async fn told(&self, told: SignedList) -> Result<Verdict, &'static str> {
        let taken = self.lists.take(p(), Ok(told)).await.expect("the store does its part");
        taken.map_err(|fault| fault.code())
    }

    fn level(&self, server: &str) -> TrustLevel {
        self.trust().regard(name(server)).level
    }

    fn trust(&self) -> &crate::Trust {
        self.lists.peers.trust()
    }

    async fn set(&self, pattern: &str, level: TrustLevel) {
        let change = PeerChange { level: Some(level), ..PeerChange::default() };
        let pattern: PeerPattern = pattern.parse().expect("it is one");
        self.trust().change(&pattern, &change, &author(), None).await.expect("it makes sense");
    }
}

fn p() -> &'static ServerName {
    server_name!("p.test")
}

fn name(server: &str) -> &ServerName {
    <&ServerName>::try_from(server).expect("it is a name")
}

fn author() -> Author {
    Author { actor: "@admin:a.test".into(), reason: "a story".into() }
}

fn pins_of(key: &SigningKey) -> BTreeMap<String, String> {
    let public: Base64 = Base64::new(key.public_key().to_vec());
    [(key.key_id().to_string(), public.encode())].into()
}

fn entry(level: TrustLevel) -> ListEntry {
    ListEntry { level, keys: BTreeMap::new(), contact: String::new(), expires_at: None }
}

/// The list of p.test, as `key` signs it; it ends `left` milliseconds from now.
fn list_by(key: &SigningKey, version: i64, left: Millis, entries: &[(&str, ListEntry)]) -> SignedList {
    let entries = entries.iter().map(|(server, entry)| (name(server).to_owned(), entry.clone())).collect();
    let now = wall_clock();
    let list = FederationList::new(p().to_owned(), version, now - 2 * HOUR, now + left, entries);
    SignedList::of(list.sign(key).expect("it can be signed")).expect("it is a list")
}

fn list(version: i64, left: Millis, entries: &[(&str, ListEntry)]) -> SignedList {
    list_by(&key_of(p()), version, left, entries)
}

#[tokio::test]
async fn a_newer_version_is_followed_and_what_cannot_be_taken_changes_nothing() {
    use TrustLevel::{Blocked, Full, Limited, Restricted};
    on_each_engine(async |store| {
        let (rig, elsewhere) = (Rig::new(&store), Rig::new(&store));
        let view = rig.subscribe(list(2, HOUR, &[("b.test", entry(Full)), ("c.test", entry(Blocked))]), Full).await;
        assert_eq!(
            (view.version, view.state, view.servers.map(|servers| servers.len())),
            (2, ListState::Current, Some(2))
        );
        assert_eq!(["b.test", "c.test", "d.test"].map(|server| rig.level(server)), [Full, Blocked, Limited]);
        // Other nodes find it in the store.
        elsewhere.trust().load().await?;
        assert_eq!(elsewhere.level("b.test"), Full);

        let third = list(3, HOUR, &[("b.test", entry(Restricted))]);
        assert_eq!(rig.told(third.clone()).await, Ok(Verdict::Newer));
        assert_eq!(["b.test", "c.test"].map(|server| rig.level(server)), [Restricted, Limited]);
        assert_eq!(rig.told(third).await, Ok(Verdict::Same));
        let revision = rig.trust().revision();
        let everybody = [("b.test", entry(Full)), ("c.test", entry(Full))];
        let liar = SigningKey::from_seed(p().to_owned(), "test", &[66; 32]).expect("any seed makes a key");
        for (told, code) in [
            (list(2, HOUR, &everybody), "list_rollback"),
            (list(3, HOUR, &everybody), "list_equivocation"),
            (list(4, -1, &everybody), "list_expired"),
            (list_by(&liar, 4, HOUR, &everybody), "list_wrong_key"),
        ] {
            assert_eq!(rig.told(told).await, Err(code));
            let view = rig.lists.show(p()).await.expect("it is there");
            let refusal = view.refusal.expect("it is told");
            assert_eq!((refusal.code.as_str(), refusal.remedy), (code, remedy_of(code)));
            assert_eq!((view.version, rig.level("b.test"), rig.trust().revision()), (3, Restricted, revision));
        }
        assert_eq!(rig.told(list(4, HOUR, &everybody)).await, Ok(Verdict::Newer));
        let view = rig.lists.show(p()).await.expect("it is there");
        assert_eq!((view.refusal, rig.level("c.test")), (None, Full));

        rig.lists.unsubscribe(p(), &author(), Some(view.revision)).await.expect("it is there");
        assert_eq!(rig.level("b.test"), Limited);
        assert!(matches!(rig.lists.show(p()).await, Err(ListError::NotSubscribed(_))));
        let log = rig.trust().audit(None, Some(&PeerPattern::Exact(p().to_owned())), 10).await?;
        let actions: Vec<_> = log.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(actions, ["list.unsubscribed", "list.taken", "list.taken", "list.subscribed"]);
        let changes = log[2].after.as_ref().map(|after| after["changes"].clone());
        assert_eq!(changes, Some(json!({ "b.test": { "level": "restricted" }, "c.test": null })));
        assert_eq!(rig.trust().verify_audit().await?, Ok(4));
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn what_an_admin_has_set_goes_before_any_list() {
    use TrustLevel::{Blocked, Full, Limited, Restricted};
    on_each_engine(async |store| {
        let rig = Rig::new(&store);
        rig.set("own.test", Restricted).await;
        rig.set("*.corp.test", Blocked).await;
        let servers = ["own.test", "x.corp.test", "b.test", "b.test:9999", "low.test:9999", "other.test"];
        let entries = [
            ("own.test", entry(Full)),
            ("x.corp.test", entry(Full)),
            ("b.test", entry(Full)),
            ("low.test", entry(Restricted)),
            ("a.test", entry(Blocked)),
            ("p.test", entry(Full)),
        ];
        rig.subscribe(list(1, HOUR, &entries), Full).await;
        let levels = || servers.map(|server| rig.level(server));
        assert_eq!(levels(), [Restricted, Blocked, Full, Limited, Restricted, Limited]);
        assert_eq!((rig.level("a.test"), rig.level("p.test")), (Full, Limited), "of us and of itself it says nothing");
        let source = rig.trust().source(name("b.test"));
        let state = ListState::Current;
        assert_eq!(source, Source::List { publisher: p().to_owned(), version: 1, state });
        assert_eq!(rig.trust().source(name("own.test")), Source::Row { pattern: "own.test".into() });
        // The subscription's limit can be changed; of two who change it at once one is told.
        let revision = rig.lists.show(p()).await.expect("it is there").revision;
        let wish = |level| Wish { highest_level: Some(level), ..Wish::default() };
        let change = async |level| rig.lists.subscribe(p(), &wish(level), &author(), Some(revision)).await;
        change(Limited).await.expect("nobody else has changed it");
        assert_eq!(levels(), [Restricted, Blocked, Limited, Limited, Restricted, Limited]);
        assert!(matches!(change(Full).await, Err(ListError::Outdated { .. })));
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn a_list_that_runs_out_goes_on_for_all_and_then_for_those_that_are_known() {
    use TrustLevel::{Full, Limited};
    on_each_engine(async |store| {
        let rig = Rig::new(&store);
        let entries = [("b.test", entry(Full)), ("c.test", entry(Full))];
        rig.subscribe(list(1, -HOUR, &entries), Full).await;
        let state = async || rig.lists.show(p()).await.expect("it is there").state;
        assert_eq!((state().await, rig.level("b.test"), rig.level("c.test")), (ListState::Static, Full, Full));
        let typing = |server: &str| rig.trust().allow(name(server), Capability::Typing, &Context::inbound());
        typing("b.test").expect("it is trusted");
        let grace = rig.trust().list_grace();
        rig.trust().close_stale_lists(wall_clock() - HOUR + grace - 60_000).await?;
        assert_eq!(state().await, ListState::Static);
        rig.trust().close_stale_lists(wall_clock() + grace).await?;
        assert_eq!((state().await, rig.level("b.test"), rig.level("c.test")), (ListState::Closed, Full, Limited));
        // A newcomer doesn't become known by what anybody may do.
        rig.trust().allow(name("c.test"), Capability::Events, &Context::inbound()).expect("anybody may");
        rig.trust().write_acts().await;
        rig.trust().close_stale_lists(wall_clock() + 2 * grace).await?;
        let elsewhere = Rig::new(&store);
        elsewhere.trust().open().await?;
        for rig in [&rig, &elsewhere] {
            assert_eq!((rig.level("b.test"), rig.level("c.test")), (Full, Limited));
        }
        // What is refused doesn't open it, and a newer version does.
        assert_eq!(rig.told(list(1, -HOUR, &entries)).await, Err("list_equivocation"), "it was made at another time");
        assert_eq!(rig.level("c.test"), Limited);
        assert_eq!(rig.told(list(2, HOUR, &entries)).await, Ok(Verdict::Newer));
        assert_eq!((state().await, rig.level("c.test")), (ListState::Current, Full));
        let log = rig.trust().audit(None, None, 10).await?;
        assert_eq!(log[1].action, "list.closed");
        assert_eq!(log[1].after.as_ref().map(|after| after["newcomers"].clone()), Some(json!(1)));
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn the_pins_of_a_publisher_move_to_keys_that_a_pinned_one_has_signed() {
    on_each_engine(async |store| {
        let rig = Rig::new(&store);
        let entries = [("b.test", entry(TrustLevel::Full))];
        rig.subscribe(list(1, HOUR, &entries), TrustLevel::Full).await;
        let old = key_of(p());
        let new = SigningKey::from_seed(p().to_owned(), "new", &[8; 32]).expect("any seed makes a key");
        // It has another key, which nobody vouches for: nothing more is taken.
        rig.keys.say(&new, &[]);
        assert_eq!(rig.told(list_by(&new, 2, HOUR, &entries)).await, Err("list_wrong_key"));
        assert_eq!(rig.lists.show(p()).await.expect("it is there").keys, pins_of(&old));
        rig.keys.say(&new, &[&old]);
        assert_eq!(rig.told(list_by(&new, 2, HOUR, &entries)).await, Ok(Verdict::Newer));
        let view = rig.lists.show(p()).await.expect("it is there");
        assert_eq!((view.version, view.keys), (2, pins_of(&new)));
        assert_eq!(rig.told(list_by(&old, 3, HOUR, &entries)).await, Err("list_wrong_key"));
        let log = rig.trust().audit(None, None, 2).await?;
        assert_eq!([&log[0].action, &log[1].action], ["list.taken", "list.keys_rotated"]);
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn a_listed_server_with_another_key_than_the_listed_one_raises_an_alarm() {
    on_each_engine(async |store| {
        let rig = Rig::new(&store);
        let key = |seed: u8| {
            let version = format!("k{seed}");
            SigningKey::from_seed(name("b.test").to_owned(), &version, &[seed; 32]).expect("any seed will do")
        };
        let pinned = |seed| ListEntry { keys: pins_of(&key(seed)), ..entry(TrustLevel::Full) };
        rig.subscribe(list(1, HOUR, &[("b.test", pinned(1))]), TrustLevel::Full).await;
        let standing = || rig.trust().regard(name("b.test")).standing;
        // Each time later, so that it is asked again.
        let shows = async |key: &SigningKey, others: &[&SigningKey]| {
            rig.keys.say(key, others);
            rig.clock.fetch_add(300 * HOUR, Ordering::SeqCst);
            let known = rig.lists.peers.keys().keys_of(name("b.test"), key.key_id().as_str()).await;
            (known.is_ok(), standing())
        };
        assert_eq!(shows(&key(1), &[]).await, (true, Standing::Active));
        assert_eq!(shows(&key(2), &[]).await, (false, Standing::Alarmed));
        let refused = rig.trust().allow(name("b.test"), Capability::Events, &Context::inbound());
        assert_eq!(refused.expect_err("nothing is taken").rule().to_string(), "peer.key_alarm");
        rig.lists.clear_alarm(name("b.test"), &author()).await.expect("there is one");
        assert_eq!(shows(&key(1), &[]).await, (true, Standing::Active));
        assert!(matches!(rig.lists.clear_alarm(name("b.test"), &author()).await, Err(ListError::NoAlarm(_))));
        // A rotation that the listed key has signed is followed.
        assert_eq!(shows(&key(3), &[&key(1)]).await, (true, Standing::Active));
        assert_eq!(rig.trust().pinned_keys(name("b.test")), pins_of(&key(3)));
        assert_eq!(shows(&key(4), &[]).await, (false, Standing::Alarmed));
        // A new version that names the key ends the alarm.
        assert_eq!(rig.told(list(2, HOUR, &[("b.test", pinned(4))])).await, Ok(Verdict::Newer));
        assert_eq!(shows(&key(4), &[]).await, (true, Standing::Active));
        assert!(rig.trust().verify_audit().await?.is_ok());
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn an_admin_publishes_what_is_set_and_what_is_said_by_hand() {
    use TrustLevel::{Blocked, Full, Limited};
    on_each_engine(async |store| {
        let rig = Rig::new(&store);
        let lists = &rig.lists;
        assert!(matches!(lists.published().await, Err(ListError::NotPublished)));
        assert!(matches!(lists.withdraw(&author()).await, Err(ListError::NotPublished)));
        rig.set("b.test", Full).await;
        rig.set("c.test", Blocked).await;
        rig.set("*.corp.test", Full).await;
        rig.set("off.test", Full).await;
        let off = PeerChange { active: Some(false), ..PeerChange::default() };
        rig.trust().change(&"off.test".parse().expect("it is one"), &off, &author(), None).await.expect("it is set");
        let change = |level| EntryChange { level, ..EntryChange::default() };
        let by_hand = EntryChange { contact: Some("mailto:root@d.test".into()), ..change(Some(Limited)) };
        let first = Edition {
            from: Base::Peers,
            entries: [("D.test".to_owned(), Some(by_hand)), ("c.test".to_owned(), None)].into(),
            ..Edition::default()
        };
        let view = lists.publish(&first, &author()).await.expect("it makes sense");
        let levels = |view: &PublishedView| {
            view.entries.iter().map(|(server, entry)| (server.to_string(), entry.level)).collect::<Vec<_>>()
        };
        let two = [("b.test".to_owned(), Full), ("d.test".to_owned(), Limited)];
        assert_eq!((view.version, levels(&view)), (1, two.to_vec()));
        // What is served is signed, and read by others as it was meant.
        let served = lists.published().await.expect("it is published").to_string();
        let read = SignedList::read(served.as_bytes()).expect("it is a list");
        assert_eq!(read.check_signature(&view.keys), Ok(()));
        assert_eq!((read.list.entries, read.digest), (view.entries, view.digest));

        let second = Edition {
            peers: vec!["c.test".into()],
            entries: [("d.test".to_owned(), Some(change(Some(Blocked)))), ("b.test".to_owned(), None)].into(),
            lifetime: Some(HOUR),
            ..Edition::default()
        };
        let view = lists.publish(&second, &author()).await.expect("it makes sense");
        assert_eq!((view.version, view.expires_at - view.issued_at), (2, HOUR));
        assert_eq!(levels(&view), [("c.test".to_owned(), Blocked), ("d.test".to_owned(), Blocked)]);
        assert_eq!(view.entries[name("d.test")].contact, "mailto:root@d.test", "what isn't named stays");

        let refused = async |edition: Edition| {
            lists.publish(&edition, &author()).await.expect_err("it makes no sense").to_string()
        };
        let one =
            |server: &str, change| Edition { entries: [(server.to_owned(), change)].into(), ..Edition::default() };
        assert!(refused(one("new.test", Some(change(None)))).await.contains("`level`"));
        assert!(refused(one("*.test", Some(change(Some(Full))))).await.contains("one server"));
        assert!(refused(one("a.test", Some(change(Some(Full))))).await.contains("this server"));
        let keys = Some([("ed25519:1".to_owned(), "short".to_owned())].into());
        assert!(refused(one("b.test", Some(EntryChange { keys, ..change(Some(Full)) }))).await.contains("base64"));
        assert!(refused(Edition { peers: vec!["off.test".into()], ..Edition::default() }).await.contains("in force"));
        assert!(refused(Edition { lifetime: Some(0), ..Edition::default() }).await.contains("a year at most"));
        assert!(refused(Edition { version: Some(2), ..Edition::default() }).await.contains("larger than 2"));
        let silent = Author { reason: " ".into(), ..author() };
        assert!(matches!(lists.publish(&Edition::default(), &silent).await, Err(ListError::NoReason)));

        let late = lists.publish(&Edition { version: Some(9), ..Edition::default() }, &author()).await;
        assert_eq!(late.expect("it makes sense").version, 9);
        let empty = lists.withdraw(&author()).await.expect("there is one");
        assert_eq!((empty.version, empty.entries.len()), (10, 0));
        let log = rig.trust().audit(None, Some(&"a.test".parse().expect("it is one")), 10).await?;
        let actions: Vec<_> = log.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(actions, ["list.withdrawn", "list.published", "list.published", "list.published"]);
        assert!(rig.trust().verify_audit().await?.is_ok());
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn of_admins_who_publish_at_once_each_has_a_version_of_his_own() {
    on_each_engine(async |store| {
        let rig = Rig::new(&store);
        let publishing = (0..6).map(|at| {
            let lists = rig.lists.clone();
            let change = EntryChange { level: Some(TrustLevel::Full), ..EntryChange::default() };
            let entries = [(format!("s{at}.test"), Some(change))].into();
            async move { lists.publish(&Edition { entries, ..Edition::default() }, &author()).await }
        });
        let mut versions = Vec::new();
        for published in futures_util::future::join_all(publishing).await {
            versions.push(published.expect("all come through").version);
        }
        versions.sort_unstable();
        assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
        let last = rig.lists.show_published().await.expect("it is there");
        assert_eq!((last.version, last.entries.len()), (6, 6), "and none overwrites another's");
        Ok::<_, store::Error>(())
    })
    .await;
}

/// An override is of a row: a list grants levels and nothing else.
#[tokio::test]
async fn an_override_of_a_row_is_not_published() {
    on_each_engine(async |store| {
        let rig = Rig::new(&store);
        let over = Override { grant: model::peer::Grant::Yes, reason: "as agreed".into() };
        let change = PeerChange {
            level: Some(TrustLevel::Restricted),
            overrides: [(Capability::Presence, Some(over))].into(),
            notes: Some("between us".into()),
            ..PeerChange::default()
        };
        let pattern = "b.test".parse().expect("it is one");
        rig.trust().change(&pattern, &change, &author(), None).await.expect("it makes sense");
        let edition = Edition { from: Base::Peers, ..Edition::default() };
        rig.lists.publish(&edition, &author()).await.expect("it makes sense");
        let served = rig.lists.published().await.expect("it is published");
        assert_eq!(served["entries"], json!({ "b.test": { "level": "restricted" } }));
        Ok::<_, store::Error>(())
    })
    .await;
}
