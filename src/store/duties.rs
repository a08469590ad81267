//! What only one node may do at a time, and which node does it.
//!
//! Whatever it is has a name (`destination/b.test`); names fall into [`PARTS`] parts, and each part is one node's. So a few rows say
//! who does what, however much there is to do, and one small Write every two seconds keeps them.
//!
//! This is kept in the database and not in the cache: what a holder does ends in a Write, and only the transaction that writes can
//! tell whether the writer's token is still the last one. A lock in Redis would be a second opinion, which a restart forgets.
//!
//! No clock of one node is compared with that of another: a node counts, and who sees a count stand still for [`DEAD_AFTER`] takes
//! over. A holder stops before that by itself ([`BELIEVED_FOR`]). A node that was only slow finds that its Writes are refused.
//!
//! Where nobody shares the database, and until a node [joins](Duties::join) the others, everything is this node's, at no cost.

mod tend;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{Error, Store, Write, args, engine::Connection, places};

/// Into so many parts falls what is to be done. More would be more rows; fewer could not be shared out evenly.
pub const PARTS: i64 = 64;
/// How often a node counts.
const BEAT_EVERY: Duration = Duration::from_secs(2);
/// Whose count stands still for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(8);
/// For so long after it last counted, a node may act as if its parts were its own.
const BELIEVED_FOR: Duration = Duration::from_secs(6);

/// What this node does. Cheap to clone.
#[derive(Clone, Default)]
pub struct Duties(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// `None`: everything is this node's.
    held: Mutex<Option<Held>>,
    /// Grows with each change.
    changes: watch::Sender<u64>,
    /// Others remember what this node changes.
    has_others: AtomicBool,
}

/// The parts of this node.
#[derive(Clone)]
struct Held {
    /// The tokens of the parts, by part.
    tokens: HashMap<i64, i64>,
    until: Instant,
}

/// Leave to do something that only one node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty(Option<Fence>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fence {
    part: i64,
    token: i64,
}

impl Duties {
    /// Whether `name` is this node's to do now: then with what its Writes are to be marked, by [`Write::on_duty`].
    pub fn of(&self, name: &str) -> Option<Duty> {
        match &*self.held() {
            None => Some(Duty(None)),
            Some(held) if held.until <= Instant::now() => None,
            Some(held) => {
                let part = part_of(name);
                held.tokens.get(&part).map(|token| Duty(Some(Fence { part, token: *token })))
            }
        }
    }

    /// Whether others may do something.
    pub fn is_shared(&self) -> bool {
        self.held().is_some()
    }

    /// Whether there are other nodes now, as far as this one has noticed.
    pub fn has_others(&self) -> bool {
        self.0.has_others.load(Ordering::Relaxed)
    }

    /// Hears when something became this node's, or is no longer.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, held: Held) {
        let before = self.held().replace(held.clone());
        if before.is_none_or(|before| before.tokens != held.tokens) {
            self.0.changes.send_modify(|changes| *changes += 1);
        }
    }
}

impl fmt::Debug for Duties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.held() {
            None => f.write_str("everything"),
            Some(held) => write!(f, "{} of {PARTS} parts", held.tokens.len()),
        }
    }
}

impl Duty {
    /// `tokens`: the last ones, by part.
    pub(crate) fn holds(self, tokens: &HashMap<i64, i64>) -> bool {
        self.0.is_none_or(|fence| tokens.get(&fence.part) == Some(&fence.token))
    }
}

/// FNV-1a: every node of every version has to find the same part.
fn part_of(name: &str) -> i64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The low bits of the sum differ least between names that differ in their last letter.
    i64::try_from((hash ^ (hash >> 32)) % PARTS.unsigned_abs()).unwrap_or_default()
}

/// The last tokens of the parts that these Writes belong to, read under the lock that `positions` gives.
pub(crate) async fn tokens(connection: &mut Connection, writes: &[Write]) -> Result<HashMap<i64, i64>, Error> {
    let mut parts: Vec<i64> = writes.iter().filter_map(|write| Some(write.duty?.0?.part)).collect();
    if parts.is_empty() {
        return Ok(HashMap::new());
    }
    parts.sort_unstable();
    parts.dedup();
    let sql = format!("SELECT part, token FROM duties WHERE part IN ({})", places(1, parts.len()));
    let rows = connection.fetch_all(sql, args_of(&parts)).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

fn args_of(parts: &[i64]) -> Vec<crate::Arg> {
    parts.iter().copied().map(crate::Arg::Int).collect()
}

/// A part as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PartRow {
    part: i64,
    /// Empty: nobody.
    node: String,
    token: i64,
}

impl Store {
    /// The nodes that use this database, and those that were lost of late without a word; none: nobody shares it.
    pub async fn node_names(&self) -> Result<Vec<String>, Error> {
        let rows = self.query("SELECT node FROM nodes ORDER BY node", Vec::new()).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    async fn beats(&self) -> Result<HashMap<String, i64>, Error> {
        let rows = self.query("SELECT node, beat FROM nodes", Vec::new()).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
    }

    async fn parts(&self) -> Result<Vec<PartRow>, Error> {
        let rows = self.query("SELECT part, node, token FROM duties ORDER BY part", Vec::new()).await?;
        rows.iter().map(|row| Ok(PartRow { part: row.int(0)?, node: row.text(1)?, token: row.int(2)? })).collect()
    }
}

fn beat(write: &mut Write, node: &str) {
    const BEAT: &str = "
        INSERT INTO nodes (node, beat)
        VALUES ($1, 1)
        ON CONFLICT (node) DO UPDATE SET beat = nodes.beat + 1";
    write.run(BEAT, args![node]);
}

fn make_parts(write: &mut Write) {
    const MAKE: &str = "INSERT INTO duties (part, node, token) VALUES ($1, '', 0) ON CONFLICT (part) DO NOTHING";
    for part in 0..PARTS {
        write.run(MAKE, args![part]);
    }
}

/// Takes a part from whoever had it when `row` was read, if that node has not counted on from `beat` since.
fn take(write: &mut Write, node: &str, row: &PartRow, beat: i64) {
    const TAKE: &str = "
        UPDATE duties
        SET node = $1, token = token + 1
        WHERE part = $2
            AND token = $3
            AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = duties.node AND n.node <> $1 AND n.beat <> $4)";
    write.run(TAKE, args![node, row.part, row.token, beat]);
}

fn give_back(write: &mut Write, node: &str, part: i64) {
    const GIVE_BACK: &str = "UPDATE duties SET node = '' WHERE part = $1 AND node = $2";
    write.run(GIVE_BACK, args![part, node]);
}

fn leave(write: &mut Write, node: &str) {
    const GIVE_BACK: &str = "UPDATE duties SET node = '' WHERE node = $1";
    const LEAVE: &str = "DELETE FROM nodes WHERE node = $1";
    write.run(GIVE_BACK, args![node]);
    write.run(LEAVE, args![node]);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_that_are_alike_fall_into_many_parts() {
        let parts: HashSet<i64> = (0..200).map(|number| part_of(&format!("destination/{number}.test"))).collect();
        assert!(parts.len() > 50 && parts.iter().all(|part| (0..PARTS).contains(part)), "{}", parts.len());
    }
}
