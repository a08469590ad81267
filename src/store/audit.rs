//! What admins did, in a chain of hashes.

use model::{Millis, peer::PeerPattern};

use crate::{Error, Row, Store, Table, Write, args};

static AUDIT_LOG: Table = Table {
    insert: "INSERT INTO audit_log (number, at, actor, action, subject, before_json, after_json, reason, previous_hash, hash)",
    columns: 10,
    // Two who add an entry at once want the same number: one of them is refused, and tries again on what is there then.
    conflict: "",
    key: 0,
};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// From 1 on, without a gap.
    pub number: i64,
    /// When.
    pub at: Millis,
    /// Who.
    pub actor: String,
    /// What was done, such as `peer.set`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// How that was, JSON.
    pub before: Option<String>,
    /// How it became, JSON.
    pub after: Option<String>,
    /// Why.
    pub reason: String,
    /// The hash of the entry before.
    pub previous_hash: String,
    /// The hash of everything above.
    pub hash: String,
}

/// Adds an entry. The write is refused as [`Error::Duplicate`] if another has taken its number.
pub fn append(write: &mut Write, row: &AuditRow) {
    let values = args![
        row.number,
        row.at,
        row.actor.as_str(),
        row.action.as_str(),
        row.subject.as_str(),
        row.before.as_deref(),
        row.after.as_deref(),
        row.reason.as_str(),
        row.previous_hash.as_str(),
        row.hash.as_str()
    ];
    write.insert(&AUDIT_LOG, values);
}

/// Reads what admins did.
pub struct Audit<'a>(&'a Store);

impl Store {
    /// Reads what admins did.
    pub fn audit(&self) -> Audit<'_> {
        Audit(self)
    }
}

const COLUMNS: &str = "
    SELECT number, at, actor, action, subject, before_json, after_json, reason, previous_hash, hash
    FROM audit_log";

impl Audit<'_> {
    /// The last entry.
    pub async fn last(&self) -> Result<Option<AuditRow>, Error> {
        let sql = format!("{COLUMNS} ORDER BY number DESC LIMIT 1");
        self.0.query(sql, Vec::new()).await?.first().map(read).transpose()
    }

    /// The number of the last entry; 0: there is none.
    pub async fn head(&self) -> Result<i64, Error> {
        const HEAD: &str = "SELECT COALESCE(MAX(number), 0) FROM audit_log";
        self.0.query(HEAD, Vec::new()).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// Entries from before `number` back, the latest first; of one subject or of all.
    pub async fn list(&self, before: i64, subject: Option<&PeerPattern>, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let sql = format!("{COLUMNS} WHERE number < $1 AND ($2 = '' OR subject = $2) ORDER BY number DESC LIMIT $3");
        let subject = subject.map(ToString::to_string).unwrap_or_default();
        self.0.query(sql, args![before, subject, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// Entries after `number`, in order.
    pub async fn after(&self, number: i64, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let sql = format!("{COLUMNS} WHERE number > $1 ORDER BY number LIMIT $2");
        self.0.query(sql, args![number, i64::from(limit)]).await?.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<AuditRow, Error> {
    Ok(AuditRow {
        number: row.int(0)?,
        at: row.int(1)?,
        actor: row.text(2)?,
        action: row.text(3)?,
        subject: row.text(4)?,
        before: row.opt_text(5)?,
        after: row.opt_text(6)?,
        reason: row.text(7)?,
        previous_hash: row.text(8)?,
        hash: row.text(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn of_two_entries_with_one_number_one_is_refused() {
        on_each_engine(async |store| {
            let row = |number, actor: &str| AuditRow {
                number,
                at: 1,
                actor: actor.into(),
                action: "peer.set".into(),
                subject: "b.test".into(),
                before: None,
                after: Some("{}".into()),
                reason: "why not".into(),
                previous_hash: String::new(),
                hash: "x".into(),
            };
            for number in 1..=3 {
                let mut write = Write::new();
                append(&mut write, &row(number, "one"));
                store.commit(write).await?;
            }
            let mut write = Write::new();
            append(&mut write, &row(3, "two"));
            assert!(matches!(store.commit(write).await, Err(Error::Duplicate)));
            assert_eq!(store.audit().last().await?, Some(row(3, "one")));
            assert_eq!(store.audit().head().await?, 3);
            assert_eq!(store.audit().list(3, None, 10).await?, [row(2, "one"), row(1, "one")]);
            let other = "c.test".parse().expect("it is one");
            assert!(store.audit().list(9, Some(&other), 10).await?.is_empty());
            assert_eq!(store.audit().after(2, 10).await?, [row(3, "one")]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
