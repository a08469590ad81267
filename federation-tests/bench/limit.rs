//! What the same disk, engine and processor could do if there were nothing else to do.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use ed25519_dalek::{Signer as _, SigningKey, Verifier as _};
use federation_tests::{Client, Database, Engine, FEDERATION_PORT, Network};
use futures_util::future::join_all;
use rand::RngExt as _;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::oneshot;

/// The rows of one message as the server writes them: the event itself, and the memory of its transaction id. The
/// same columns and indexes as in `migrations/`.
const TABLES: [&str; 5] = [
    "CREATE TABLE events (
        nid BIGINT NOT NULL PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, room_nid BIGINT NOT NULL, position BIGINT,
        depth BIGINT NOT NULL, type TEXT NOT NULL, state_key TEXT, sender TEXT NOT NULL, origin_server_ts BIGINT NOT NULL,
        state_before_nid BIGINT, json TEXT NOT NULL, transaction_id TEXT, rejected_at BIGINT, soft_failed_at BIGINT,
        redacted_by TEXT)",
    "CREATE UNIQUE INDEX events_by_position ON events (room_nid, position) WHERE position IS NOT NULL",
    "CREATE TABLE transactions (
        user_id TEXT NOT NULL, device_id TEXT NOT NULL, scope TEXT NOT NULL, transaction_id TEXT NOT NULL,
        answer TEXT NOT NULL, created_at BIGINT NOT NULL, PRIMARY KEY (user_id, device_id, scope, transaction_id))",
    "CREATE TABLE rooms (nid BIGINT NOT NULL PRIMARY KEY, version BIGINT NOT NULL, head TEXT NOT NULL)",
    "CREATE TABLE positions (stream TEXT NOT NULL PRIMARY KEY, position BIGINT NOT NULL)",
];
const EVENT_COLUMNS: usize = 11;
const TRANSACTION_COLUMNS: usize = 6;
/// How many bytes a signed message event has.
const EVENT_BYTES: usize = 750;

/// A value of a row.
enum Value {
    Text(String),
    Int(i64),
}

/// The same for both engines, which have no type in common.
macro_rules! commits {
    ($connection:expr, $rooms:expr, $batch:expr, $duration:expr) => {{
        let connection = &mut $connection;
        for table in TABLES {
            sqlx::raw_sql(table).execute(&mut *connection).await.expect("a new table");
        }
        for room in 0..$rooms as i64 {
            let insert = sqlx::query("INSERT INTO rooms (nid, version, head) VALUES ($1, 0, '')").bind(room);
            insert.execute(&mut *connection).await.expect("a new room");
        }
        sqlx::raw_sql("INSERT INTO positions (stream, position) VALUES ('main', 0)")
            .execute(&mut *connection)
            .await
            .expect("a counter");
        let events = insert_text(
            "events (nid, event_id, room_nid, position, depth, type, sender, origin_server_ts, state_before_nid, json, \
             transaction_id)",
            EVENT_COLUMNS,
            $batch,
        );
        let transactions = insert_text(
            "transactions (user_id, device_id, scope, transaction_id, answer, created_at)",
            TRANSACTION_COLUMNS,
            $batch,
        );
        // Rows are made beforehand: their making is the server's work, not the disk's.
        let began = Instant::now();
        let mut spent = Duration::ZERO;
        let mut written = 0_i64;
        while spent < $duration && began.elapsed() < $duration * 3 {
            let (event_rows, transaction_rows) = rows(written, $batch, $rooms);
            let start = Instant::now();
            let mut transaction = connection.begin().await.expect("a transaction");
            let update =
                sqlx::query("UPDATE positions SET position = position + $1 WHERE stream = 'main' RETURNING position")
                    .bind($batch as i64);
            update.fetch_one(&mut *transaction).await.expect("positions");
            for (text, rows) in [(&events, event_rows), (&transactions, transaction_rows)] {
                let mut insert = sqlx::query(AssertSqlSafe(text.clone()));
                for value in rows {
                    insert = match value {
                        Value::Text(text) => insert.bind(text),
                        Value::Int(number) => insert.bind(number),
                    };
                }
                insert.execute(&mut *transaction).await.expect("new rows");
            }
            for room in 0..$rooms.min($batch) as i64 {
                let update = sqlx::query("UPDATE rooms SET version = version + 1, head = $2 WHERE nid = $1")
                    .bind(room)
                    .bind("{\"extremities\": [[\"$UqRr9vkcM9qFAu9n8gGJVZKYGU8TzRdTVVO3n_rqIj0\", 12345]]}");
                update.execute(&mut *transaction).await.expect("a room");
            }
            transaction.commit().await.expect("a durable commit");
            spent += start.elapsed();
            written += $batch as i64;
        }
        written as f64 / spent.as_secs_f64()
    }};
}

/// Messages a second that group commits of `batch` messages write durably into `rooms` rooms.
pub async fn inserts(engine: &Engine, rooms: usize, batch: usize, duration: Duration) -> f64 {
    match engine {
        Engine::Sqlite => {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let options = SqliteConnectOptions::new()
                .filename(folder.path().join("limit.db"))
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full);
            let mut connection = SqliteConnection::connect_with(&options).await.expect("a database file");
            commits!(connection, rooms, batch, duration)
        }
        Engine::Postgres(_) => {
            let database = Database::create(engine).await;
            let url = database.url(&std::env::temp_dir());
            let mut connection = PgConnection::connect(&url).await.expect("PostgreSQL answers");
            let rate = commits!(connection, rooms, batch, duration);
            drop(connection);
            database.remove().await;
            rate
        }
    }
}

fn insert_text(into: &str, columns: usize, rows: usize) -> String {
    let row = |row: usize| {
        let parameters: Vec<String> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", parameters.join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("INSERT INTO {into} VALUES {}", rows.join(", "))
}

fn rows(first: i64, batch: usize, rooms: usize) -> (Vec<Value>, Vec<Value>) {
    let mut dice = rand::rng();
    let (mut events, mut transactions) = (Vec::new(), Vec::new());
    for offset in 0..batch as i64 {
        let number = first + offset;
        let room = number % rooms as i64;
        let random: [u64; 4] = dice.random();
        let event_id = format!("${:043x}", u128::from(random[0]) << 64 | u128::from(random[1]));
        let user_id = format!("@sender{room}:a.test");
        let json = format!(
            "{{\"noise\":\"{:016x}{:016x}\",\"text\":\"{}\"}}",
            random[2],
            random[3],
            "x".repeat(EVENT_BYTES - 60)
        );
        events.extend([
            Value::Int(number),
            Value::Text(event_id.clone()),
            Value::Int(room),
            Value::Int(number),
            Value::Int(number / rooms as i64),
            Value::Text("m.room.message".to_owned()),
            Value::Text(user_id.clone()),
            Value::Int(1_700_000_000_000 + number),
            Value::Int(room),
            Value::Text(json),
            Value::Text(format!("[\"ABCDEFGHIJ\",\"s{number}\"]")),
        ]);
        transactions.extend([
            Value::Text(user_id),
            Value::Text("ABCDEFGHIJ".to_owned()),
            Value::Text(format!("send !{room:043}")),
            Value::Text(format!("s{number}")),
            Value::Text(event_id),
            Value::Int(1_700_000_000_000 + number),
        ]);
    }
    (events, transactions)
}

/// Ed25519 signatures of an event that one core makes in a second.
pub fn signatures(duration: Duration) -> f64 {
    let key = SigningKey::from_bytes(&rand::rng().random());
    let event = vec![b'x'; EVENT_BYTES];
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < duration {
        black_box(key.sign(black_box(&event)));
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// Ed25519 signatures of an event that one core checks in a second.
pub fn checks(duration: Duration) -> f64 {
    let key = SigningKey::from_bytes(&rand::rng().random());
    let event = vec![b'x'; EVENT_BYTES];
    let signature = key.sign(&event);
    let verifier = key.verifying_key();
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < duration {
        verifier.verify(black_box(&event), black_box(&signature)).expect("its own signature");
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// Requests by TLS that one client and one server, with a core each, exchange in a second, `at_once` on their way at a time.
pub async fn requests(at_once: usize, duration: Duration) -> f64 {
    let (told, client) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let server = std::thread::spawn(move || answer_requests(told, stopped));
    let client = client.await.expect("the server starts");
    let ask = async || client.get(WELL_KNOWN).await.ok();
    ask().await;

    let began = Instant::now();
    let asking = async || {
        let mut count = 0_usize;
        while began.elapsed() < duration {
            ask().await;
            count += 1;
        }
        count
    };
    let counts = join_all((0..at_once).map(|_| asking())).await;
    let rate = counts.iter().sum::<usize>() as f64 / began.elapsed().as_secs_f64();
    drop(stop);
    server.join().expect("the server ends as it is told");
    rate
}

const WELL_KNOWN: &str = "/.well-known/matrix/server";

/// The server of [`requests`], with the smallest answer that there is between servers. Tells of a client for it.
fn answer_requests(told: oneshot::Sender<Client>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let network = Network::direct();
        let address = network.delegate("limit.test", "a.test", FEDERATION_PORT).await;
        let http = network.authority.client().resolve("limit.test", address).build().expect("a client of the rig");
        let _ = told.send(Client::over(http, &format!("https://limit.test:{FEDERATION_PORT}")));
        // Its sender is dropped when the measurement is over.
        let _ = stopped.await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_engine_takes_group_commits() {
        federation_tests::on_each_engine(async |engine| {
            for batch in [1, 50] {
                let rate = inserts(&engine, 20, batch, Duration::from_millis(200)).await;
                assert!(rate > 1.0, "{rate} messages a second in commits of {batch}");
                eprintln!("{rate:.0} messages a second in commits of {batch}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn requests_and_signatures_are_counted() {
        let moment = Duration::from_millis(100);
        let rates = [requests(1, moment).await, requests(8, moment).await, checks(moment), signatures(moment)];
        assert!(rates.iter().all(|rate| *rate > 1.0), "{rates:?} a second");
    }
}
