//! The one writer: gathers what is pending, commits it in one transaction, and only then answers and tells.
//!
//! Order is kept: Writes take effect in the order in which they were handed over, and so do the statements of one
//! Write. Positions are born here and nowhere else, under the row lock of `positions`, so that on every node the order
//! in which they become visible is their order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{counter, gauge, histogram};
use model::{Committed, EventNid, Position, RoomNid};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};
use tracing::{error, warn};

use crate::{
    account_data,
    duties::{self, Duties},
    engine::{Arg, Connection, Pool},
    error::Error,
    journal,
    write::{RoomVersion, Statement, Table, Write},
};

/// How many Writes may wait; more are refused with [`Error::Overloaded`] after [`ENQUEUE_TIMEOUT`].
const QUEUE: usize = 4096;
/// How many Writes share one commit at most.
const BATCH: usize = 512;
/// How long a whole commit may take before its connection is given up.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether another node committed something, if nobody says so.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a look may take before its connection is given up.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The latest position that was given out; what has it is committed.
pub(crate) const VISIBLE: &str = "SELECT position FROM positions WHERE stream = 'main'";

/// Hears of every commit, in order, before its writers are answered. Must not block.
pub type OnCommit = Arc<dyn Fn(Committed) + Send + Sync>;

type Answer = Result<Position, Error>;

struct Job {
    write: Write,
    answer: oneshot::Sender<Answer>,
}

/// The way to the writer task.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
    others: Arc<Notify>,
}

/// A Write that is on its way. Dropping it doesn't call the Write back.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    /// Waits until the Write is durable. Answers the first of its positions.
    pub async fn committed(self) -> Answer {
        self.0.await.unwrap_or(Err(Error::Overloaded))
    }
}

impl Writer {
    pub(crate) fn start(pool: Pool, visible: Position, on_commit: OnCommit, duties: Duties) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let others = Arc::new(Notify::new());
        let heard = others.clone();
        let mut task =
            Task { pool, connection: None, visible, on_commit, statements: HashMap::new(), broken_since: None, duties };
        tokio::spawn(async move { task.run(jobs, &heard).await });
        Self { queue, others }
    }

    /// Somebody says that another node has committed something: that is told at once. Doesn't block.
    pub(crate) fn look(&self) {
        self.others.notify_one();
    }

    pub(crate) async fn enqueue(&self, write: Write) -> Result<Pending, Error> {
        let (answer, receiver) = oneshot::channel();
        let permit =
            tokio::time::timeout(ENQUEUE_TIMEOUT, self.queue.reserve()).await.map_err(|_| Error::Overloaded)?;
        permit.map_err(|_| Error::Overloaded)?.send(Job { write, answer });
        Ok(Pending(receiver))
    }

    /// Takes a place in the queue, so that what follows can be handed over without waiting.
    pub(crate) async fn reserve(&self) -> Result<Slot<'_>, Error> {
        let permit =
            tokio::time::timeout(ENQUEUE_TIMEOUT, self.queue.reserve()).await.map_err(|_| Error::Overloaded)?;
        Ok(Slot(permit.map_err(|_| Error::Overloaded)?))
    }
}

/// A place in the writer's queue.
pub struct Slot<'a>(mpsc::Permit<'a, Job>);

impl Slot<'_> {
    /// Hands `write` over, in this very moment: what is handed over later takes effect later.
    pub fn enqueue(self, write: Write) -> Pending {
        let (answer, receiver) = oneshot::channel();
        self.0.send(Job { write, answer });
        Pending(receiver)
    }
}

struct Task {
    pool: Pool,
    connection: Option<Connection>,
    /// The highest position this node knows to be visible.
    visible: Position,
    on_commit: OnCommit,
    /// The text of multi-row inserts, by table and number of rows.
    statements: HashMap<(&'static str, usize), &'static str>,
    broken_since: Option<Instant>,
    duties: Duties,
}

/// What one batch came to.
struct Outcome {
    /// Before the batch, the last position given out by anybody.
    base: Position,
    upto: Position,
    /// For each Write of the batch, its first position or why it was left out.
    answers: Vec<Answer>,
}

impl Task {
    async fn run(&mut self, mut jobs: mpsc::Receiver<Job>, others: &Notify) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut looking = self.pool.is_postgres().then(|| {
            let mut every = tokio::time::interval(LOOK_EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        });
        loop {
            tokio::select! {
                count = jobs.recv_many(&mut batch, BATCH) => if count == 0 { return },
                () = others.notified() => self.look().await,
                () = next(&mut looking) => self.look().await,
            }
            if batch.is_empty() {
                continue;
            }
            gauge!("comity_writer_queue").set(jobs.len() as f64);
            let (writes, answers): (Vec<_>, Vec<_>) = batch.drain(..).map(|job| (job.write, job.answer)).unzip();
            for (answer, result) in answers.into_iter().zip(self.commit(writes).await) {
                // Whoever asked may have gone away; the Write is done all the same.
                let _ = answer.send(result);
            }
        }
    }

    /// Tells what other nodes have committed. Between two commits of ours nothing else moves `visible`, so the order is kept.
    async fn look(&mut self) {
        let Ok(Ok(upto)) = tokio::time::timeout(LOOK_TIMEOUT, self.latest()).await else {
            // The connection is gone with the attempt. Whoever writes next says what is wrong with the database.
            counter!("comity_writer_failed_looks_total").increment(1);
            return;
        };
        if upto > self.visible {
            self.tell_of_others(upto).await;
        }
    }

    /// What became visible up to `upto` without a word of ours: what exactly, if the other node has written that down.
    async fn tell_of_others(&mut self, upto: Position) {
        let written = match self.pool.is_postgres() {
            true => tokio::time::timeout(LOOK_TIMEOUT, journal::read(&self.pool, self.visible, upto)).await,
            false => Ok(Ok(None)),
        };
        let changes = written.ok().and_then(Result::ok).flatten();
        counter!("comity_writer_foreign_commits_total", "known" => if changes.is_some() { "yes" } else { "no" })
            .increment(1);
        self.visible = upto;
        let gap = changes.is_none();
        (self.on_commit)(Committed { upto, changes: changes.unwrap_or_default().into(), gap, foreign: true });
    }

    async fn latest(&mut self) -> Result<Position, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.connect().await?,
        };
        let rows = connection.fetch_all(VISIBLE, Vec::new()).await?;
        self.connection = Some(connection);
        rows.first().ok_or_else(|| Error::Corrupt("no row in positions".into()))?.int(0).map(Position)
    }

    /// Commits the Writes together, or, if one of them is at fault, each by itself.
    async fn commit(&mut self, writes: Vec<Write>) -> Vec<Answer> {
        let size = writes.len();
        let began = Instant::now();
        match self.attempt(&writes).await {
            Ok(outcome) => {
                histogram!("comity_writer_commit_seconds").record(began.elapsed().as_secs_f64());
                histogram!("comity_writer_batch_size").record(size as f64);
                self.finish(writes, outcome).await
            }
            Err(error) if size > 1 && error.is_of_one_write() => {
                counter!("comity_writer_batches_split_total").increment(1);
                let mut answers = Vec::with_capacity(size);
                for write in writes {
                    let alone = vec![write];
                    match self.attempt(&alone).await {
                        Ok(outcome) => answers.extend(self.finish(alone, outcome).await),
                        Err(error) => answers.push(Err(error)),
                    }
                }
                answers
            }
            Err(error) => {
                counter!("comity_writer_failed_writes_total").increment(size as u64);
                if !matches!(error, Error::Duplicate) {
                    error!(writes = size, error = &error as &dyn std::error::Error, "failed to commit {size} writes");
                }
                let mut answers: Vec<Answer> = (1..size).map(|_| Err(Error::Overloaded)).collect();
                if matches!(error, Error::Unavailable(_)) {
                    answers.fill_with(|| Err(Error::Unavailable(sqlx::Error::WorkerCrashed)));
                }
                answers.insert(0, Err(error));
                answers
            }
        }
    }

    /// Tells what has become visible, then hands out the answers.
    async fn finish(&mut self, writes: Vec<Write>, outcome: Outcome) -> Vec<Answer> {
        if outcome.base != self.visible {
            // Another node, or a commit whose answer we never got, was there meanwhile.
            self.tell_of_others(outcome.base).await;
        }
        let mut changes = Vec::new();
        let mut untold = false;
        for (write, answer) in writes.into_iter().zip(&outcome.answers) {
            let Ok(first) = answer else { continue };
            untold |= write.untold;
            changes.extend(
                write.changes.into_iter().map(|(offset, change)| (Position(first.0 + i64::from(offset)), change)),
            );
        }
        self.visible = outcome.upto;
        if outcome.upto > outcome.base {
            (self.on_commit)(Committed { upto: outcome.upto, changes: changes.into(), gap: false, foreign: false });
        }
        if untold {
            (self.on_commit)(Committed { upto: outcome.upto, changes: Arc::new([]), gap: true, foreign: false });
        }
        outcome.answers
    }

    async fn attempt(&mut self, writes: &[Write]) -> Result<Outcome, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.connect().await?,
        };
        let attempt = tokio::time::timeout(COMMIT_TIMEOUT, self.transact(&mut connection, writes)).await;
        match attempt {
            Ok(Ok(outcome)) => {
                if let Some(since) = self.broken_since.take() {
                    warn!(duration_ms = since.elapsed().as_millis() as u64, "the database takes writes again");
                }
                self.connection = Some(connection);
                Ok(outcome)
            }
            Ok(Err(error)) => {
                self.broken_since.get_or_insert_with(Instant::now);
                // A connection that can't even roll back is left to its fate; the next batch opens another one.
                if connection.rollback().await.is_ok() {
                    self.connection = Some(connection);
                }
                if error.is_of_one_write() {
                    self.broken_since = None;
                }
                Err(error)
            }
            Err(_elapsed) => {
                self.broken_since.get_or_insert_with(Instant::now);
                Err(Error::Unavailable(sqlx::Error::PoolTimedOut))
            }
        }
    }

    async fn transact(&mut self, connection: &mut Connection, writes: &[Write]) -> Result<Outcome, Error> {
        const ADVANCE: &str = "UPDATE positions SET position = position + $1 WHERE stream = 'main' RETURNING position";

        connection.begin().await?;
        let wanted: i64 = writes.iter().map(|write| i64::from(write.positions)).sum();
        let answer = connection.fetch_all(ADVANCE, vec![Arg::Int(wanted)]).await?;
        let upto = answer.first().ok_or_else(|| Error::Corrupt("no row in positions".into()))?.int(0)?;
        let base = upto - wanted;

        let mut versions = room_versions(connection, writes).await?;
        let tokens = duties::tokens(connection, writes).await?;
        let mut next = base + 1;
        let mut answers = Vec::with_capacity(writes.len());
        let mut rows = Rows::default();
        for write in writes {
            if write.duty.is_some_and(|duty| !duty.holds(&tokens)) {
                answers.push(Err(Error::Superseded));
                continue;
            }
            if let Some(unchanged) = &write.unchanged {
                // What the Writes before it in this batch have set counts.
                self.flush(connection, &mut rows).await?;
                if !account_data::is_unchanged(connection, unchanged).await? {
                    answers.push(Err(Error::Conflict));
                    continue;
                }
            }
            if let Some(step) = write.room {
                let version = versions.entry(step.room).or_default();
                if *version != step.from {
                    answers.push(Err(Error::Conflict));
                    continue;
                }
                *version = step.to;
            }
            for statement in &write.statements {
                match statement {
                    Statement::Insert { into, row } => rows.push(into, place(row, next)),
                    Statement::Run { sql, args } => {
                        self.flush(connection, &mut rows).await?;
                        connection.execute(*sql, place(args, next)).await?;
                    }
                }
            }
            answers.push(Ok(Position(next)));
            next += i64::from(write.positions);
        }
        self.flush(connection, &mut rows).await?;
        if self.duties.has_others() {
            let done = writes.iter().zip(&answers).filter_map(|(write, answer)| Some((write, *answer.as_ref().ok()?)));
            journal::put(connection, (base, upto), done).await?;
        }
        connection.commit().await?;
        Ok(Outcome { base: Position(base), upto: Position(upto), answers })
    }

    async fn flush(&mut self, connection: &mut Connection, rows: &mut Rows) -> Result<(), Error> {
        /// Few sizes of statements, so that each is prepared once. SQLite takes 32,766 parameters, PostgreSQL 65,535.
        const SIZES: [usize; 5] = [64, 16, 4, 2, 1];

        for (table, mut rows) in rows.0.drain(..) {
            keep_last_of_each_key(table, &mut rows);
            let mut rest = rows.as_mut_slice();
            while !rest.is_empty() {
                let size = SIZES.into_iter().find(|size| *size <= rest.len()).expect("1 is among the sizes");
                let (now, later) = rest.split_at_mut(size);
                let args = now.iter_mut().flat_map(std::mem::take).collect();
                connection.execute(self.insert_text(table, size), args).await?;
                rest = later;
            }
        }
        Ok(())
    }

    /// `INSERT … VALUES ($1, $2), ($3, $4) ON CONFLICT …`, made once for each table and size: tables are few.
    fn insert_text(&mut self, table: &'static Table, rows: usize) -> &'static str {
        self.statements.entry((table.insert, rows)).or_insert_with(|| {
            let values: Vec<String> = (0..rows)
                .map(|row| {
                    let places: Vec<String> =
                        (1..=table.columns).map(|column| format!("${}", row * table.columns + column)).collect();
                    format!("({})", places.join(", "))
                })
                .collect();
            String::leak(format!("{} VALUES {} {}", table.insert, values.join(", "), table.conflict))
        })
    }
}

async fn next(looking: &mut Option<Interval>) {
    match looking {
        Some(looking) => drop(looking.tick().await),
        None => std::future::pending().await,
    }
}

/// The rows gathered so far, by table, in order.
#[derive(Default)]
struct Rows(Vec<(&'static Table, Vec<Vec<Arg>>)>);

impl Rows {
    fn push(&mut self, table: &'static Table, row: Vec<Arg>) {
        match self.0.iter_mut().find(|(known, _)| known.insert == table.insert) {
            Some((_, rows)) => rows.push(row),
            None => self.0.push((table, vec![row])),
        }
    }
}

/// PostgreSQL refuses one statement that writes one key twice.
fn keep_last_of_each_key(table: &Table, rows: &mut Vec<Vec<Arg>>) {
    if table.key == 0 || rows.len() < 2 {
        return;
    }
    let mut seen = HashSet::with_capacity(rows.len());
    let mut keep: Vec<bool> = rows.iter().rev().map(|row| seen.insert(row[..table.key].to_vec())).collect();
    rows.retain(|_| keep.pop().expect("one flag for each row"));
}

/// Puts the born positions where the Write named them.
fn place(args: &[Arg], first: i64) -> Vec<Arg> {
    args.iter()
        .map(|arg| match arg {
            Arg::Position(offset) => Arg::Int(first + i64::from(*offset)),
            Arg::BackfilledPosition(offset) => Arg::Int(-(first + i64::from(*offset))),
            other => other.clone(),
        })
        .collect()
}

/// The versions of the rooms that these Writes move, read under the lock that `positions` gives.
async fn room_versions(connection: &mut Connection, writes: &[Write]) -> Result<HashMap<RoomNid, RoomVersion>, Error> {
    const VERSIONS: &str = "
        SELECT nid, version, head_nid
        FROM rooms
        WHERE nid IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
    const AT_ONCE: usize = 16;

    let rooms: HashSet<RoomNid> = writes.iter().filter_map(|write| write.room.map(|step| step.room)).collect();
    let rooms: Vec<RoomNid> = rooms.into_iter().collect();
    let mut versions = HashMap::with_capacity(rooms.len());
    for chunk in rooms.chunks(AT_ONCE) {
        // The statement keeps its size: what is left over names a room twice.
        let args = (0..AT_ONCE).map(|at| Arg::Int(chunk[at.min(chunk.len() - 1)].0)).collect();
        for row in connection.fetch_all(VERSIONS, args).await? {
            let version = RoomVersion { count: row.int(1)?, head: EventNid(row.int(2)?) };
            versions.insert(RoomNid(row.int(0)?), version);
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use model::{Change, Position, RoomNid, UserStream};
    use ruma::user_id;

    use crate::{
        Committed, Error, RoomVersion, Store, Table, Write, args,
        testing::{on_each_engine, on_each_engine_with},
    };

    static FILTER: Table =
        Table { insert: "INSERT INTO directory (room_nid, listed_at)", columns: 2, conflict: "", key: 0 };
    static LATEST: Table = Table {
        insert: "INSERT INTO directory (room_nid, listed_at)",
        columns: 2,
        conflict: "ON CONFLICT (room_nid) DO UPDATE SET listed_at = excluded.listed_at",
        key: 1,
    };

    fn row(table: &'static Table, key: i64, value: i64) -> Write {
        let mut write = Write::new();
        write.insert(table, args![key, value]);
        write
    }

    /// Hands all of them over before the writer can take the first.
    async fn commit_together(store: &Store, writes: Vec<Write>) -> Vec<Result<Position, Error>> {
        let mut slots = Vec::new();
        for _ in &writes {
            slots.push(store.reserve().await.expect("there is room in the queue"));
        }
        let pending: Vec<_> = slots.into_iter().zip(writes).map(|(slot, write)| slot.enqueue(write)).collect();
        let mut answers = Vec::new();
        for pending in pending {
            answers.push(pending.committed().await);
        }
        answers
    }

    async fn listed(store: &Store) -> Vec<(i64, i64)> {
        let rows = store.query("SELECT room_nid, listed_at FROM directory ORDER BY room_nid", Vec::new()).await;
        rows.expect("the table is there")
            .iter()
            .map(|row| (row.int(0).expect("a number"), row.int(1).expect("a number")))
            .collect()
    }

    #[tokio::test]
    async fn one_write_at_fault_does_not_harm_the_others_of_its_commit() {
        on_each_engine(async |store| {
            store.commit(row(&FILTER, 1, 1)).await?;
            let answers =
                commit_together(&store, vec![row(&FILTER, 2, 2), row(&FILTER, 1, 9), row(&FILTER, 3, 3)]).await;
            assert!(matches!(answers[..], [Ok(_), Err(Error::Duplicate), Ok(_)]), "{answers:?}");
            assert_eq!(listed(&store).await, [(1, 1), (2, 2), (3, 3)]);
            Ok::<(), Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn of_rows_with_one_key_the_last_is_kept() {
        on_each_engine(async |store| {
            let writes = (1..=50).map(|value| row(&LATEST, value % 5, value)).collect();
            assert!(commit_together(&store, writes).await.iter().all(Result::is_ok));
            assert_eq!(listed(&store).await, [(0, 50), (1, 46), (2, 47), (3, 48), (4, 49)]);
            Ok::<(), Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn statements_keep_the_order_in_which_they_were_handed_over() {
        on_each_engine(async |store| {
            let mut remove = Write::new();
            remove.run("DELETE FROM directory WHERE room_nid = $1", args![1]);
            commit_together(&store, vec![row(&FILTER, 1, 1), remove, row(&FILTER, 1, 2)]).await;
            assert_eq!(listed(&store).await, [(1, 2)]);
            Ok::<(), Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_built_upon_a_refused_write_is_refused_too() {
        on_each_engine(async |store| {
            let version = |count, head| RoomVersion { count, head: model::EventNid(head) };
            let step = |from, to: RoomVersion| {
                let mut write = Write::new();
                let room = crate::rooms::RoomRow {
                    nid: RoomNid(1),
                    room_id: ruma::owned_room_id!("!r:a.test"),
                    room_version: ruma::RoomVersionId::V11,
                    version: to,
                    extremities: Vec::new(),
                    snapshot: model::SnapshotNid(1),
                };
                crate::rooms::put_room(&mut write, &room);
                write.room_step(room.nid, from, to);
                write
            };
            store.commit(step(RoomVersion::default(), version(1, 10))).await?;
            // One node goes on to (2, 20); another, unaware, to (2, 30) and (3, 31).
            let writes = vec![
                step(version(1, 10), version(2, 20)),
                step(version(1, 10), version(2, 30)),
                step(version(2, 30), version(3, 31)),
            ];
            let answers = commit_together(&store, writes).await;
            assert!(matches!(answers[..], [Ok(_), Err(Error::Conflict), Err(Error::Conflict)]), "{answers:?}");
            Ok::<(), Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn positions_are_told_in_order_and_without_a_gap() {
        let told: Arc<Mutex<Vec<Committed>>> = Arc::default();
        let listener = told.clone();
        let on_commit = Arc::new(move |committed| listener.lock().expect("nothing panics").push(committed));
        on_each_engine_with(on_commit, async |store| {
            told.lock().expect("nothing panics").clear();
            let start = store.visible_position().await?;
            let writes = (0..100).map(|_| {
                let mut write = Write::new();
                let user_id = user_id!("@a:a.test").to_owned();
                write.tell_next(Change::User { user_id, stream: UserStream::AccountData });
                write
            });
            let answers = commit_together(&store, writes.collect()).await;
            let positions: Vec<i64> = told
                .lock()
                .expect("nothing panics")
                .iter()
                .flat_map(|c| c.changes.iter().map(|(p, _)| p.0).collect::<Vec<_>>())
                .collect();
            let expected: Vec<i64> = (start.0 + 1..=start.0 + 100).collect();
            assert_eq!(positions, expected);
            let answered: Vec<i64> =
                answers.into_iter().map(|answer| answer.map(|position| position.0)).collect::<Result<_, _>>()?;
            assert_eq!(answered, expected);
            assert!(told.lock().expect("nothing panics").iter().all(|committed| !committed.gap));
            Ok::<(), Error>(())
        })
        .await;
    }
}
