//! The ledger summed up: by the days on which events were queued, by what became of them, and by how long that took.
//!
//! Sending only adds rows to the ledger. They are summed up afterwards, many at once; what isn't yet is counted with the rest
//! when somebody asks, so that the figures are right at any moment.

use std::{fmt::Write as _, sync::LazyLock};

use model::{Millis, Position};
use ruma::{OwnedServerName, ServerName};

use super::{Ledger, Outcome};
use crate::{Arg, Error, Write, args};

/// A day in milliseconds.
pub const DAY: Millis = 24 * 60 * 60 * 1000;

/// The scale of lags, in milliseconds: a lag is in the first bucket whose bound it doesn't exceed, or in the one after the
/// last. Eight decades from 10 ms to eight days, six steps each.
pub static BOUNDS: LazyLock<Vec<Millis>> = LazyLock::new(|| {
    const STEPS: [Millis; 6] = [10, 15, 20, 30, 50, 70];
    (0..8).flat_map(|decade| STEPS.map(|step| step * 10_i64.pow(decade))).collect()
});

/// The bucket of a row of the ledger, in SQL.
static BUCKET: LazyLock<String> = LazyLock::new(|| {
    let mut sql = "CASE".to_owned();
    for (bucket, bound) in BOUNDS.iter().enumerate() {
        let _ = write!(sql, " WHEN answered_at - queued_at <= {bound} THEN {bucket}");
    }
    let _ = write!(sql, " ELSE {} END", BOUNDS.len());
    sql
});

static SUM_UP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "
        INSERT INTO ledger_days (day, destination_nid, outcome, bucket, events, lag_sum, lag_max)
        SELECT queued_at / {DAY}, destination_nid, outcome, {bucket}, COUNT(*),
            CAST(SUM(answered_at - queued_at) AS BIGINT), MAX(answered_at - queued_at)
        FROM ledger
        WHERE position > (SELECT p.position FROM positions p WHERE p.stream = 'ledger') AND position <= $1
        GROUP BY 1, 2, 3, 4
        ON CONFLICT (destination_nid, day, outcome, bucket) DO UPDATE
            SET events = ledger_days.events + excluded.events, lag_sum = ledger_days.lag_sum + excluded.lag_sum,
                lag_max = CASE WHEN excluded.lag_max > ledger_days.lag_max
                    THEN excluded.lag_max ELSE ledger_days.lag_max END",
        bucket = *BUCKET
    )
});

/// Sums up what isn't summed up yet of the rows up to `upto`. Done twice, it takes effect once.
pub fn sum_up(write: &mut Write, upto: Position) {
    const MARK: &str = "UPDATE positions SET position = $1 WHERE stream = 'ledger' AND position < $1";
    write.run(SUM_UP.as_str(), args![upto]);
    write.run(MARK, args![upto]);
}

/// Throws away the sums of days before `day`.
pub fn prune_days(write: &mut Write, day: i64) {
    const PRUNE: &str = "
        DELETE FROM ledger_days
        WHERE destination_nid IN (SELECT d.nid FROM ledger_destinations d) AND day < $1";
    write.run(PRUNE, args![day]);
}

/// So many events of a server came to this, in about this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The server.
    pub destination: OwnedServerName,
    /// What became of them.
    pub outcome: Outcome,
    /// Where on the scale of [`BOUNDS`] they are.
    pub bucket: usize,
    /// How many.
    pub events: u64,
    /// How long they took together.
    pub lag_sum: Millis,
    /// How long the slowest took.
    pub lag_max: Millis,
}

/// What a server is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The server.
    pub destination: OwnedServerName,
    /// How many events.
    pub events: u64,
    /// When the first of them was made.
    pub oldest_at: Option<Millis>,
}

impl Ledger<'_> {
    /// Up to where to sum up next, `limit` rows or what one Write more brought: `None` when all is summed up.
    pub async fn not_summed_up(&self, limit: i64) -> Result<Option<Position>, Error> {
        const NEXT: &str = "
            SELECT MAX(rows.position)
            FROM (
                SELECT l.position
                FROM ledger l
                WHERE l.position > (SELECT p.position FROM positions p WHERE p.stream = 'ledger')
                ORDER BY l.position
                LIMIT $1) rows";
        let rows = self.0.query(NEXT, args![limit]).await?;
        Ok(rows.first().map(|row| row.opt_int(0)).transpose()?.flatten().map(Position))
    }

    /// What became of what was queued from the day `day` on: of one server, or of each.
    pub async fn sums(&self, destination: Option<&ServerName>, day: i64) -> Result<Vec<Sum>, Error> {
        let of_one = match destination {
            Some(_) => "AND destination_nid = (SELECT o.nid FROM ledger_destinations o WHERE o.destination = $2)",
            None => "",
        };
        let bucket = &*BUCKET;
        let sql = format!(
            "
            SELECT d.destination, s.outcome, s.bucket, CAST(SUM(s.events) AS BIGINT), CAST(SUM(s.lag_sum) AS BIGINT),
                MAX(s.lag_max)
            FROM (
                SELECT destination_nid, outcome, bucket, events, lag_sum, lag_max
                FROM ledger_days
                WHERE day >= $1 {of_one}
                UNION ALL
                SELECT destination_nid, outcome, CAST({bucket} AS BIGINT), CAST(1 AS BIGINT), answered_at - queued_at,
                    answered_at - queued_at
                FROM ledger
                WHERE position > (SELECT p.position FROM positions p WHERE p.stream = 'ledger')
                    AND queued_at / {DAY} >= $1 {of_one}) s
            JOIN ledger_destinations d ON d.nid = s.destination_nid
            GROUP BY d.destination, s.outcome, s.bucket
            ORDER BY d.destination, s.outcome, s.bucket"
        );
        let mut args = args![day];
        args.extend(destination.map(|destination| Arg::from(destination.as_str())));
        let rows = self.0.query(sql, args).await?;
        rows.iter()
            .map(|row| {
                Ok(Sum {
                    destination: row.parse(0)?,
                    outcome: Outcome::of_code(row.int(1)?)?,
                    bucket: usize::try_from(row.int(2)?).unwrap_or_default(),
                    events: row.int(3)?.unsigned_abs(),
                    lag_sum: row.int(4)?,
                    lag_max: row.int(5)?,
                })
            })
            .collect()
    }

    /// What servers are owed now: one server, or each that is owed something.
    pub async fn queues(&self, destination: Option<&ServerName>) -> Result<Vec<Queue>, Error> {
        let of_one = if destination.is_some() { "WHERE destination = $1" } else { "" };
        let sql = format!(
            "
            SELECT q.destination, q.events, e.origin_server_ts
            FROM (
                SELECT destination, COUNT(*) AS events, MIN(position) AS first
                FROM outbox {of_one}
                GROUP BY destination) q
            JOIN outbox o ON o.destination = q.destination AND o.position = q.first
            LEFT JOIN events e ON e.nid = o.event_nid
            ORDER BY q.destination"
        );
        let args = destination.map(|destination| Arg::from(destination.as_str())).into_iter().collect();
        let rows = self.0.query(sql, args).await?;
        rows.iter()
            .map(|row| {
                let events = row.int(1)?.unsigned_abs();
                Ok(Queue { destination: row.parse(0)?, events, oldest_at: row.opt_int(2)? })
            })
            .collect()
    }
}
