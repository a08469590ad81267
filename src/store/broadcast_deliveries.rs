//! Which other servers are told of a broadcast of this one's, and whether they have taken it.

use model::Millis;
use ruma::{OwnedServerName, ServerName};

use crate::{Error, Row, Store, Table, Write, args};

static DELIVERIES: Table = Table {
    insert: "INSERT INTO broadcast_deliveries (broadcast_id, server, wish, attempts, next_at)",
    columns: 5,
    conflict: "ON CONFLICT (broadcast_id, server) DO NOTHING",
    key: 2,
};

/// One broadcast on its way to one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Which broadcast.
    pub broadcast_id: String,
    /// To whom.
    pub server: OwnedServerName,
    /// Whether it is to be told that the broadcast was called back.
    pub is_cancel: bool,
    /// How often it was tried.
    pub attempts: i64,
    /// When it is tried next.
    pub next_at: Millis,
    /// Which node tries it.
    pub claim: Option<String>,
    /// When the server took it, or it was given up.
    pub done_at: Option<Millis>,
    /// What came of it; of what is owed: why it failed last.
    pub outcome: Option<String>,
}

/// Owes a broadcast to a server, from `now` on.
pub fn insert(write: &mut Write, id: &str, server: &ServerName, now: Millis) {
    write.insert(&DELIVERIES, args![id, server.as_str(), "publish", 0_i64, now]);
}

/// The broadcast was called back: whoever may have heard of it is told so.
pub fn cancel(write: &mut Write, id: &str, now: Millis) {
    const CANCEL: &str = "
        UPDATE broadcast_deliveries
        SET wish = 'cancel', attempts = 0, next_at = $2, claim = NULL, done_at = NULL, outcome = NULL
        WHERE broadcast_id = $1";
    write.run(CANCEL, args![id, now]);
}

/// Begins the next attempt, unless another node was faster: who reads its own claim afterwards makes it.
pub fn claim(write: &mut Write, row: &DeliveryRow, claim: &str, next_at: Millis) {
    const CLAIM: &str = "
        UPDATE broadcast_deliveries
        SET claim = $5, attempts = attempts + 1, next_at = $6
        WHERE broadcast_id = $1 AND server = $2 AND attempts = $3 AND wish = $4 AND done_at IS NULL";
    let values = args![row.broadcast_id.as_str(), row.server.as_str(), row.attempts, wish(row), claim, next_at];
    write.run(CLAIM, values);
}

/// Notes what came of an attempt. `done_at`: nothing more is to be tried; else it is tried again at `next_at`.
pub fn note(write: &mut Write, row: &DeliveryRow, outcome: &str, done_at: Option<Millis>, next_at: Millis) {
    const NOTE: &str = "
        UPDATE broadcast_deliveries
        SET outcome = $4, done_at = $5, next_at = $6
        WHERE broadcast_id = $1 AND server = $2 AND wish = $3 AND done_at IS NULL";
    write.run(NOTE, args![row.broadcast_id.as_str(), row.server.as_str(), wish(row), outcome, done_at, next_at]);
}

/// A server is there again: it is told at once.
pub fn wake(write: &mut Write, server: &ServerName, now: Millis) {
    const WAKE: &str = "
        UPDATE broadcast_deliveries
        SET next_at = $2
        WHERE server = $1 AND done_at IS NULL AND next_at > $2";
    write.run(WAKE, args![server.as_str(), now]);
}

fn wish(row: &DeliveryRow) -> &'static str {
    if row.is_cancel { "cancel" } else { "publish" }
}

/// Reads what is on its way.
pub struct Deliveries<'a>(&'a Store);

impl Store {
    /// Reads which broadcasts other servers are told of.
    pub fn broadcast_deliveries(&self) -> Deliveries<'_> {
        Deliveries(self)
    }
}

const COLUMNS: &str = "
    SELECT broadcast_id, server, wish, attempts, next_at, claim, done_at, outcome
    FROM broadcast_deliveries";

impl Deliveries<'_> {
    /// Up to `limit` that are to be tried by `now`, those first that are due longest.
    pub async fn due(&self, now: Millis, limit: u32) -> Result<Vec<DeliveryRow>, Error> {
        let sql = format!("{COLUMNS} WHERE done_at IS NULL AND next_at <= $1 ORDER BY next_at LIMIT $2");
        self.0.query(sql, args![now, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// One of them.
    pub async fn find(&self, id: &str, server: &ServerName) -> Result<Option<DeliveryRow>, Error> {
        let sql = format!("{COLUMNS} WHERE broadcast_id = $1 AND server = $2");
        self.0.query(sql, args![id, server.as_str()]).await?.first().map(read).transpose()
    }

    /// The first `limit` of a broadcast, by server.
    pub async fn of(&self, id: &str, limit: u32) -> Result<Vec<DeliveryRow>, Error> {
        let sql = format!("{COLUMNS} WHERE broadcast_id = $1 ORDER BY server LIMIT $2");
        self.0.query(sql, args![id, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// Up to `limit` servers that are owed something.
    pub async fn owed_servers(&self, limit: u32) -> Result<Vec<OwnedServerName>, Error> {
        const OWED: &str = "
            SELECT DISTINCT server
            FROM broadcast_deliveries
            WHERE done_at IS NULL
            ORDER BY server
            LIMIT $1";
        self.0.query(OWED, args![i64::from(limit)]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// Up to `limit` servers that were ever heard of: by a row that an admin has set, or because their keys are known.
    pub async fn known_servers(&self, limit: u32) -> Result<Vec<String>, Error> {
        const KNOWN: &str = "
            SELECT server FROM server_keys
            UNION
            SELECT pattern FROM peers
            UNION
            SELECT server FROM list_acquaintances
            ORDER BY 1
            LIMIT $1";
        self.0.query(KNOWN, args![i64::from(limit)]).await?.iter().map(|row| row.text(0)).collect()
    }
}

fn read(row: &Row) -> Result<DeliveryRow, Error> {
    Ok(DeliveryRow {
        broadcast_id: row.text(0)?,
        server: row.parse(1)?,
        is_cancel: row.text(2)? == "cancel",
        attempts: row.int(3)?,
        next_at: row.int(4)?,
        claim: row.opt_text(5)?,
        done_at: row.opt_int(6)?,
        outcome: row.opt_text(7)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn what_is_owed_is_tried_by_one_until_it_is_taken_and_again_when_it_was_called_back() {
        on_each_engine(async |store| {
            let b = server_name!("b.test");
            let act = async |act: &dyn Fn(&mut Write)| {
                let mut write = Write::new();
                act(&mut write);
                store.commit(write).await?;
                store.broadcast_deliveries().find("x", b).await
            };
            let owed = act(&|write| insert(write, "x", b, 10)).await?.expect("it is owed");
            assert!(store.broadcast_deliveries().due(9, 5).await?.is_empty());
            assert_eq!(store.broadcast_deliveries().due(10, 5).await?, std::slice::from_ref(&owed));
            assert_eq!(store.broadcast_deliveries().owed_servers(5).await?, [b]);
            for node in ["one", "two"] {
                let claimed = act(&|write| claim(write, &owed, node, 100)).await?.expect("it is owed");
                assert_eq!((claimed.claim.as_deref(), claimed.attempts), (Some("one"), 1));
            }
            assert!(store.broadcast_deliveries().due(99, 5).await?.is_empty());
            act(&|write| wake(write, b, 50)).await?;
            assert_eq!(store.broadcast_deliveries().due(50, 5).await?.len(), 1);
            let done = act(&|write| note(write, &owed, "taken", Some(60), 60)).await?.expect("it is there");
            assert_eq!((done.done_at, done.outcome.as_deref()), (Some(60), Some("taken")));
            assert!(store.broadcast_deliveries().due(999, 5).await?.is_empty());
            act(&|write| cancel(write, "x", 70)).await?;
            let due = store.broadcast_deliveries().due(70, 5).await?;
            assert!(due[0].is_cancel && due[0].attempts == 0);
            assert_eq!(store.broadcast_deliveries().of("x", 5).await?, due);
            Ok::<_, Error>(())
        })
        .await;
    }
}
