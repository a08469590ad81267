//! For tests of this crate and of those above: a fresh store on each engine.

use std::sync::Arc;

use model::{Change, EventNid, Millis, Pdu, Position, RoomNid, TimelineEvent};
use ruma::{CanonicalJsonObject, RoomVersionId, ServerName};

use crate::{Arg, Error, Location, OnCommit, Store, Write, engine::Pool, events, migrations, outbox};

/// Names the PostgreSQL server on which tests make databases of their own.
pub const POSTGRES_URL: &str = "COMITY_TEST_POSTGRES_URL";

/// Runs `story` on a fresh SQLite store, and on a fresh PostgreSQL one where [`POSTGRES_URL`] names a server.
pub async fn on_each_engine<E: std::fmt::Debug>(story: impl AsyncFn(Store) -> Result<(), E>) {
    on_each_engine_with(Arc::new(|_| ()), story).await;
}

/// As [`on_each_engine`], with a listener.
pub async fn on_each_engine_with<E: std::fmt::Debug>(on_commit: OnCommit, story: impl AsyncFn(Store) -> Result<(), E>) {
    on_each_engine_heard(|| (on_commit.clone(), ()), async |store, ()| story(store).await).await;
}

/// As [`on_each_engine`], with a listener of its own for each store, and what the story needs to ask it.
pub async fn on_each_engine_heard<L, E: std::fmt::Debug>(
    listener: impl Fn() -> (OnCommit, L),
    story: impl AsyncFn(Store, L) -> Result<(), E>,
) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (on_commit, heard) = listener();
    let store = Store::open(&Location::Sqlite(folder.path().join("test.db")), 2, on_commit)
        .await
        .expect("SQLite opens in an empty folder");
    story(store, heard).await.expect("the story ends well on SQLite");

    let Ok(server) = std::env::var(POSTGRES_URL) else {
        return;
    };
    let database = fresh_postgres(&server).await;
    let (on_commit, heard) = listener();
    let store = Store::open(&Location::Postgres(database), 2, on_commit).await.expect("a fresh database opens");
    story(store, heard).await.expect("the story ends well on PostgreSQL");
}

/// Runs `story` on two stores of one PostgreSQL database, where [`POSTGRES_URL`] names a server. The second has the listener.
pub async fn on_shared_database<E: std::fmt::Debug>(
    on_commit: OnCommit,
    story: impl AsyncFn(Store, Store) -> Result<(), E>,
) {
    let Ok(server) = std::env::var(POSTGRES_URL) else {
        return;
    };
    let location = Location::Postgres(fresh_postgres(&server).await);
    let one = Store::open(&location, 2, Arc::new(|_| ())).await.expect("a fresh database opens");
    let other = Store::open(&location, 2, on_commit).await.expect("it opens once more");
    story(one, other).await.expect("the story ends well on PostgreSQL");
}

/// As [`on_each_engine`], with a store that was made by the first schema that was ever released, and has been in use since:
/// `testdata/first_schema.sql` says what is in it.
pub async fn on_each_engine_of_old<E: std::fmt::Debug>(story: impl AsyncFn(Store) -> Result<(), E>) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut locations = vec![Location::Sqlite(folder.path().join("test.db"))];
    if let Ok(server) = std::env::var(POSTGRES_URL) {
        locations.push(Location::Postgres(fresh_postgres(&server).await));
    }
    for location in locations {
        make_old(&location).await.expect("the old schema takes what was in it");
        let store = Store::open(&location, 2, Arc::new(|_| ())).await.expect("a database of old opens");
        story(store).await.unwrap_or_else(|error| panic!("the story ends well on {location:?}: {error:?}"));
    }
}

async fn make_old(location: &Location) -> Result<(), Error> {
    const LAST_STEP: i64 = 4;
    let pool = Pool::open(location, 1).await?;
    pool.migrate(&migrations::up_to(LAST_STEP, pool.is_postgres())).await?;
    let mut connection = pool.connect().await?;
    connection.begin().await?;
    for statement in include_str!("testdata/first_schema.sql").lines().filter(|line| !line.starts_with("--")) {
        connection.execute(statement, Vec::new()).await?;
    }
    connection.commit().await?;
    drop(connection);
    pool.close().await;
    Ok(())
}

/// Makes an empty database on `server` and answers its URL.
async fn fresh_postgres(server: &str) -> String {
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
    use std::time::{SystemTime, UNIX_EPOCH};
    let unique = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_nanos();
    let name = format!("t_{}_{unique}", std::process::id());
    let mut connection = sqlx::PgConnection::connect(server).await.expect("the test server takes connections");
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("tests may make databases");
    let (base, query) = server.split_once('?').unwrap_or((server, ""));
    let (host, _) = base.rsplit_once('/').expect("the URL names a database");
    format!("{host}/{name}?{query}")
}

/// Puts a message numbered `nid` into a room, and owes it to `destination`. Answers its position.
pub async fn owe_event(store: &Store, destination: &ServerName, room: RoomNid, nid: i64) -> Result<Position, Error> {
    owe_event_made_at(store, destination, room, nid, 1).await
}

/// As [`owe_event`], made at a moment of the test's choice.
pub async fn owe_event_made_at(
    store: &Store,
    destination: &ServerName,
    room: RoomNid,
    nid: i64,
    made_at: Millis,
) -> Result<Position, Error> {
    let object: CanonicalJsonObject = serde_json::from_value(serde_json::json!({
        "type": "m.room.message", "sender": "@alice:a.test", "room_id": format!("!{room}:a.test"),
        "content": { "n": nid }, "origin_server_ts": made_at, "depth": nid, "prev_events": [], "auth_events": [],
        "hashes": { "sha256": "x" }, "signatures": {}, "unsigned": { "age": 1 },
    }))
    .expect("it is canonical");
    let rules = model::rules_of(&RoomVersionId::V11).expect("it is known");
    let event = TimelineEvent {
        nid: EventNid(nid),
        room_nid: room,
        position: Position(0),
        seq: None,
        state_before: None,
        room_state: None,
        pdu: Arc::new(Pdu::from_canonical(object, &rules).expect("it is an event")),
        transaction_id: None,
        redacted_by: None,
        soft_failed: false,
        withheld_below: None,
    };
    let mut write = Write::new();
    let offset = write.position();
    events::insert(&mut write, &event, Arg::Position(offset));
    outbox::push(&mut write, destination, Arg::Position(offset), event.nid);
    write.tell(offset, Change::Outgoing { destinations: [destination.to_owned()].into() });
    store.commit(write).await
}
