//! What users of this server report to those who run it.

use model::Millis;
use ruma::UserId;

use crate::{Error, Row, Store, Write, args};

/// A report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    /// From 1 on, in the order in which they came.
    pub nid: i64,
    /// What is said.
    pub report: NewReport,
    /// What came of it; `None`: it waits.
    pub decision: Option<DecisionRow>,
}

/// What a user reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReport {
    /// Who reports.
    pub reporter: String,
    /// `event`, `room` or `user`.
    pub kind: String,
    /// The room, or that of the event.
    pub room_id: Option<String>,
    /// The event.
    pub event_id: Option<String>,
    /// The user, or who made the event.
    pub user_id: Option<String>,
    /// Why; may be empty.
    pub reason: String,
    /// When.
    pub reported_at: Millis,
}

/// What came of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRow {
    /// `dismissed` or `acted`.
    pub decision: String,
    /// What who decided says.
    pub note: String,
    /// Who decided.
    pub decided_by: String,
    /// When.
    pub decided_at: Millis,
}

/// Adds a report. The write fails with [`Error::Duplicate`] where another took its number: try again.
pub fn insert(write: &mut Write, report: &NewReport) {
    const INSERT: &str = "
        INSERT INTO reports (nid, reporter, kind, room_id, event_id, user_id, reason, reported_at)
        SELECT COALESCE(MAX(nid), 0) + 1, $1, $2, $3, $4, $5, $6, $7
        FROM reports";
    let NewReport { reporter, kind, room_id, event_id, user_id, reason, reported_at } = report;
    let mut values = args![reporter.as_str(), kind.as_str(), room_id.as_deref(), event_id.as_deref()];
    values.extend(args![user_id.as_deref(), reason.as_str(), *reported_at]);
    write.run(INSERT, values);
}

/// Writes down what came of a report that waits.
pub fn decide(write: &mut Write, nid: i64, decision: &DecisionRow) {
    const DECIDE: &str = "
        UPDATE reports
        SET decision = $2, note = $3, decided_by = $4, decided_at = $5
        WHERE nid = $1 AND decided_at IS NULL";
    let DecisionRow { decision, note, decided_by, decided_at } = decision;
    write.run(DECIDE, args![nid, decision.as_str(), note.as_str(), decided_by.as_str(), *decided_at]);
}

/// Reads reports.
pub struct Reports<'a>(&'a Store);

impl Store {
    /// Reads what users report.
    pub fn reports(&self) -> Reports<'_> {
        Reports(self)
    }
}

const COLUMNS: &str = "
    SELECT nid, reporter, kind, room_id, event_id, user_id, reason, reported_at, decision, note, decided_by, decided_at
    FROM reports";

impl Reports<'_> {
    /// One report.
    pub async fn find(&self, nid: i64) -> Result<Option<ReportRow>, Error> {
        let sql = format!("{COLUMNS} WHERE nid = $1");
        self.0.query(sql, args![nid]).await?.first().map(read).transpose()
    }

    /// Up to `limit` that wait, the oldest first; those after number `after`.
    pub async fn waiting(&self, after: i64, limit: u32) -> Result<Vec<ReportRow>, Error> {
        let sql = format!("{COLUMNS} WHERE decided_at IS NULL AND nid > $1 ORDER BY nid LIMIT $2");
        self.0.query(sql, args![after, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// Up to `limit` of which something came, the latest first; those before number `before`.
    pub async fn decided(&self, before: i64, limit: u32) -> Result<Vec<ReportRow>, Error> {
        let sql = format!("{COLUMNS} WHERE decided_at IS NOT NULL AND nid < $1 ORDER BY nid DESC LIMIT $2");
        self.0.query(sql, args![before, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// How many a user has made since.
    pub async fn count_of(&self, reporter: &UserId, since: Millis) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM reports WHERE reporter = $1 AND reported_at >= $2";
        self.0.query(COUNT, args![reporter.as_str(), since]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// How many wait.
    pub async fn count_waiting(&self) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM reports WHERE decided_at IS NULL";
        self.0.query(COUNT, Vec::new()).await?.first().map_or(Ok(0), |row| row.int(0))
    }
}

fn read(row: &Row) -> Result<ReportRow, Error> {
    let decision = match (row.opt_text(8)?, row.opt_int(11)?) {
        (Some(decision), Some(decided_at)) => Some(DecisionRow {
            decision,
            note: row.opt_text(9)?.unwrap_or_default(),
            decided_by: row.opt_text(10)?.unwrap_or_default(),
            decided_at,
        }),
        _ => None,
    };
    let report = NewReport {
        reporter: row.text(1)?,
        kind: row.text(2)?,
        room_id: row.opt_text(3)?,
        event_id: row.opt_text(4)?,
        user_id: row.opt_text(5)?,
        reason: row.text(6)?,
        reported_at: row.int(7)?,
    };
    Ok(ReportRow { nid: row.int(0)?, report, decision })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_report_waits_until_something_comes_of_it_once() {
        on_each_engine(async |store| {
            let report = NewReport {
                reporter: "@alice:a.test".to_owned(),
                kind: "user".to_owned(),
                room_id: None,
                event_id: None,
                user_id: Some("@mallory:b.test".to_owned()),
                reason: "rude".to_owned(),
                reported_at: 5,
            };
            for _ in 0..3 {
                let mut write = Write::new();
                insert(&mut write, &report);
                store.commit(write).await?;
            }
            let decision = |word: &str| DecisionRow {
                decision: word.to_owned(),
                note: "seen".to_owned(),
                decided_by: "@root:a.test".to_owned(),
                decided_at: 7,
            };
            for word in ["dismissed", "acted"] {
                let mut write = Write::new();
                decide(&mut write, 2, &decision(word));
                store.commit(write).await?;
            }
            let numbers = |rows: &[ReportRow]| rows.iter().map(|row| row.nid).collect::<Vec<_>>();
            assert_eq!(numbers(&store.reports().waiting(0, 10).await?), [1, 3]);
            assert_eq!(numbers(&store.reports().waiting(1, 10).await?), [3]);
            assert_eq!(numbers(&store.reports().decided(i64::MAX, 10).await?), [2]);
            let found = store.reports().find(2).await?.expect("it is there");
            assert_eq!((found.report, found.decision), (report, Some(decision("dismissed"))));
            let alice = user_id!("@alice:a.test");
            assert_eq!((store.reports().count_of(alice, 5).await?, store.reports().count_of(alice, 6).await?), (3, 0));
            assert_eq!(store.reports().count_waiting().await?, 2);
            Ok::<_, Error>(())
        })
        .await;
    }
}
