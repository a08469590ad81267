//! What every body of the cache does. Run on the one in this process, and on a private Redis where there is one.

use std::time::{Duration, Instant};

use federation_tests::{Authority, Redis as Server};
use ruma::user_id;

use super::*;

const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(60);

/// Waits until `holds`, and says what for if it doesn't within ten seconds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn suite(cache: &Cache) {
    values(cache).await;
    hashes(cache).await;
    counts(cache).await;
    buckets(cache).await;
    locks(cache).await;
    wake_ups(cache).await;
}

async fn values(cache: &Cache) {
    let key = Key::presence(user_id!("@alice:a.test"));
    assert_eq!(cache.get(&key).await.expect("it answers"), None);
    cache.put(&key, "online", LONG).await.expect("it takes it");
    cache.put(&key, "away", LONG).await.expect("it takes another");
    assert_eq!(cache.get(&key).await.expect("it answers").as_deref(), Some("away"));
    cache.remove(&key).await.expect("it forgets");
    assert_eq!(cache.get(&key).await.expect("it answers"), None);

    let began = Instant::now();
    cache.put(&key, "online", SHORT).await.expect("it takes it");
    assert_eq!(cache.get(&key).await.expect("it answers").as_deref(), Some("online"));
    until("a value expires", async || cache.get(&key).await.expect("it answers").is_none()).await;
    assert!(began.elapsed() >= SHORT, "not before its time");
}

async fn hashes(cache: &Cache) {
    let key = Key::sessions(user_id!("@alice:a.test"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    cache.put_field(&key, "PHONE", "n1", LONG).await.expect("it takes it");
    cache.put_field(&key, "LAPTOP", "n2", LONG).await.expect("it takes it");
    cache.put_field(&key, "PHONE", "n3", LONG).await.expect("it takes it");
    assert_eq!(cache.fields(&key).await.expect("it answers"), [pair("LAPTOP", "n2"), pair("PHONE", "n3")]);
    cache.remove_field(&key, "LAPTOP").await.expect("it forgets");
    assert_eq!(cache.fields(&key).await.expect("it answers"), [pair("PHONE", "n3")]);
    cache.put_field(&key, "WATCH", "n1", SHORT).await.expect("it takes it");
    until("a hash expires as a whole", async || cache.fields(&key).await.expect("it answers").is_empty()).await;
}

async fn counts(cache: &Cache) {
    let key = Key::failed("@alice:a.test");
    assert_eq!(cache.counted(&key, LONG).await.expect("it answers"), None);
    for expected in 1..=3 {
        assert_eq!(cache.count(&key, LONG).await.expect("it counts"), expected);
    }
    let counted = cache.counted(&key, LONG).await.expect("it answers").expect("it was counted");
    assert!(counted.count == 3 && counted.ago < Duration::from_secs(10), "{counted:?}");
    tokio::time::sleep(SHORT).await;
    let later = cache.counted(&key, LONG).await.expect("it answers").expect("it was counted");
    assert!(later.ago >= counted.ago + SHORT / 2, "{counted:?} {later:?}");
    cache.remove(&key).await.expect("it forgets");
    assert_eq!(cache.count(&key, SHORT).await.expect("it counts"), 1);
    until("a count is forgotten", async || cache.counted(&key, SHORT).await.expect("it answers").is_none()).await;
}

async fn buckets(cache: &Cache) {
    let bucket = Bucket { period: Duration::from_secs(2), burst: 3 };
    let (alice, bob) = (Key::rate("messages", "@alice:a.test"), Key::rate("messages", "@bob:a.test"));
    for _ in 0..3 {
        assert_eq!(cache.take(&alice, bucket).await.expect("it answers"), None);
    }
    let wait = cache.take(&alice, bucket).await.expect("it answers").expect("it is empty");
    assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
    assert_eq!(cache.take(&bob, bucket).await.expect("it answers"), None, "a bucket for each");

    // What was spent before it was counted is owed.
    let carol = Key::rate("messages", "@carol:a.test");
    assert_eq!(cache.spend(&carol, bucket, 2).await.expect("it answers"), None, "there is one left");
    let wait = cache.spend(&carol, bucket, 2).await.expect("it answers").expect("it is overdrawn");
    assert!(wait > Duration::from_secs(3) && wait <= Duration::from_secs(4), "{wait:?}");
    assert!(cache.take(&carol, bucket).await.expect("it answers").is_some());

    // Whoever waits for as long as was said gets one, and asking in vain costs nothing.
    let quick = Bucket { period: Duration::from_millis(50), burst: 1 };
    let key = Key::rate("quick", "@alice:a.test");
    assert_eq!(cache.take(&key, quick).await.expect("it answers"), None);
    let began = Instant::now();
    let mut taken = 0;
    while began.elapsed() < Duration::from_millis(500) {
        match cache.take(&key, quick).await.expect("it answers") {
            None => taken += 1,
            Some(wait) => tokio::time::sleep(wait.min(Duration::from_millis(10))).await,
        }
    }
    let most = began.elapsed().as_millis() / 50 + 1;
    assert!(taken >= 2 && taken <= most, "{taken} of {most}");
}

async fn locks(cache: &Cache) {
    let key = Key::lock("list refresh");
    let first = cache.acquire(&key, "n1", LONG).await.expect("it answers").expect("it is free");
    assert_eq!(cache.acquire(&key, "n2", LONG).await.expect("it answers"), None, "one at a time");
    assert!(cache.renew(&key, first, LONG).await.expect("it answers"));
    assert!(!cache.release(&key, Token(first.0 + 1)).await.expect("it answers"), "only with its token");
    assert!(cache.release(&key, first).await.expect("it answers"));

    let second = cache.acquire(&key, "n2", SHORT).await.expect("it answers").expect("it is free again");
    assert!(second > first, "{first:?} {second:?}");
    assert!(!cache.renew(&key, first, LONG).await.expect("it answers"), "an old holder's token is refused");
    assert!(!cache.release(&key, first).await.expect("it answers"), "an old holder's token is refused");
    let mut third = None;
    until("who doesn't renew loses the lock", async || {
        third = cache.acquire(&key, "n1", LONG).await.expect("it answers");
        third.is_some()
    })
    .await;
    assert!(third > Some(second));
    assert!(!cache.renew(&key, second, LONG).await.expect("it answers"), "it came too late");
    let again = cache.acquire(&key, "n1", LONG).await.expect("it answers");
    assert!(again > third, "who takes it again has another token");
    assert!(!cache.renew(&key, third.expect("it was taken"), LONG).await.expect("it answers"));
    cache.remove(&key).await.expect("it forgets");
}

async fn wake_ups(cache: &Cache) {
    let mut one = cache.subscribe("im:test");
    let mut other = cache.subscribe("im:test");
    let mut elsewhere = cache.subscribe("im:elsewhere");
    for listener in [&mut one, &mut other] {
        listens(cache, listener).await;
    }
    for word in ["1", "2", "3"] {
        cache.publish("im:test", word).await.expect("it says it");
    }
    for listener in [&mut one, &mut other] {
        for word in ["1", "2", "3"] {
            assert_eq!(hear(listener, word).await, News::Said(word.into()));
        }
    }
    let silence = tokio::time::timeout(SHORT, async { while elsewhere.next().await == Some(News::Missed) {} });
    assert!(silence.await.is_err(), "what is said on another channel isn't heard");
}

/// Waits until what is said is heard.
async fn listens(cache: &Cache, listener: &mut Subscription) {
    until("a listener hears", async || {
        let _ = cache.publish("im:test", "?").await;
        let heard = tokio::time::timeout(Duration::from_millis(50), listener.next());
        matches!(heard.await, Ok(Some(News::Said(_))))
    })
    .await;
}

/// The next word that isn't one of [`listens`].
async fn hear(listener: &mut Subscription, what: &str) -> News {
    let next = async {
        loop {
            match listener.next().await.expect("the cache is there") {
                News::Said(word) if &*word == "?" => {}
                news => return news,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), next).await.unwrap_or_else(|_| panic!("{what} was not heard"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_in_this_process_does_all_of_it() {
    suite(&Cache::in_process()).await;
}

async fn open(server: &Server) -> Cache {
    let cache = Cache::open(&CacheConfig { url: server.url(), ca_file: None }).expect("a URL");
    until("Redis is reached", async || cache.is_up()).await;
    cache
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_in_redis_does_all_of_it() {
    let Some(program) = Server::program() else { return };
    let server = Server::start(&program).await;
    suite(&open(&server).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_does_all_of_it() {
    let Some(program) = Server::program() else { return };
    let server = Server::start_cluster(&program).await;
    suite(&open(&server).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_that_sentinels_name_does_all_of_it() {
    let Some(program) = Server::program() else { return };
    let mut master = Server::start(&program).await;
    let sentinel = Server::start_sentinel(&program, &master).await;
    let cache = open(&sentinel).await;
    suite(&cache).await;
    master.restart().await;
    let key = Key::presence(user_id!("@alice:a.test"));
    until("it answers again", async || cache.put(&key, "online", LONG).await.is_ok()).await;
    assert!(master.say("EXISTS presence:{@alice:a.test}").await.contains(":1"), "it is the master that has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_spoken_to_in_tls_and_only_if_its_authority_is_known() {
    let Some(program) = Server::program() else { return };
    let authority = Authority::new();
    let server = Server::start_tls(&program, &authority).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, authority: &Authority| {
        let path = folder.path().join(name);
        std::fs::write(&path, authority.pem()).expect("one's own folder can be written to");
        Some(path)
    };
    let with = |ca_file| Cache::open(&CacheConfig { url: server.url(), ca_file }).expect("a URL");
    let stranger = with(file("other.pem", &Authority::new()));
    let cache = with(file("authority.pem", &authority));
    until("Redis is reached", async || cache.is_up()).await;
    suite(&cache).await;
    assert!(!stranger.is_up(), "another authority doesn't vouch for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_what_is_in_redis() {
    let Some(program) = Server::program() else { return };
    let server = Server::start(&program).await;
    let (here, there) = (open(&server).await, open(&server).await);
    let key = Key::lock("one");
    let token = here.acquire(&key, "n1", LONG).await.expect("it answers").expect("it is free");
    assert_eq!(there.acquire(&key, "n2", LONG).await.expect("it answers"), None);
    assert!(there.release(&key, token).await.expect("it answers"), "the token is what counts");
    let bucket = Bucket { period: LONG, burst: 2 };
    let key = Key::rate("logins", "10.0.0.1");
    assert_eq!(here.take(&key, bucket).await.expect("it answers"), None);
    assert_eq!(there.take(&key, bucket).await.expect("it answers"), None);
    assert!(here.take(&key, bucket).await.expect("it answers").is_some());
    let mut listener = there.subscribe("im:test");
    listens(&here, &mut listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_restarted_and_flushed_redis_is_not_waited_for_and_comes_back_by_itself() {
    let Some(program) = Server::program() else { return };
    let mut server = Server::start(&program).await;
    let cache = open(&server).await;
    let key = Key::lock("one");
    let before = cache.acquire(&key, "n1", LONG).await.expect("it answers").expect("it is free");
    let mut listener = cache.subscribe("im:test");
    listens(&cache, &mut listener).await;

    server.kill();
    until("it is noticed", async || matches!(cache.get(&key).await, Err(CacheError::Away))).await;
    let began = Instant::now();
    for _ in 0..1_000 {
        assert!(matches!(cache.count(&key, LONG).await, Err(CacheError::Away)));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for it: {:?}", began.elapsed());

    server.restart().await;
    until("it is reached again", async || cache.is_up()).await;
    until("it answers again", async || cache.get(&Key::presence(user_id!("@a:a.test"))).await.is_ok()).await;
    listens(&cache, &mut listener).await;
    assert!(!cache.renew(&key, before, LONG).await.expect("it answers"), "it has forgotten the lock");
    let after = cache.acquire(&key, "n2", LONG).await.expect("it answers").expect("it is free");
    assert!(after > before, "tokens grow across a loss of everything: {before:?} {after:?}");

    server.say("FLUSHALL").await;
    server.say("SCRIPT FLUSH").await;
    let later = cache.acquire(&key, "n1", LONG).await.expect("it answers").expect("it is free");
    assert!(later > after, "{after:?} {later:?}");
    suite(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_costs_one_wait_and_not_one_for_each_call() {
    let Some(program) = Server::program() else { return };
    let server = Server::start(&program).await;
    let cache = open(&server).await;
    let key = Key::lock("one");
    // For three seconds it takes connections, and answers nobody.
    server.say("CLIENT PAUSE 3000").await;
    until("it is noticed", async || matches!(cache.get(&key).await, Err(CacheError::Away))).await;
    let began = Instant::now();
    assert!(matches!(cache.get(&key).await, Err(CacheError::Away)));
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    until("it answers again", async || cache.get(&key).await.is_ok()).await;
}
