//! What happened to the server and to the systems around it, as it was reported.

use std::sync::Arc;

use model::{Change, Millis, Position};

use crate::{Error, Row, Store, Table, Write, args};

static EVENTS: Table = Table {
    insert: "INSERT INTO system_events (id, type, subject, severity, data, at, recorded_at, author, position)",
    columns: 9,
    conflict: "",
    key: 0,
};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemEventRow {
    /// As whoever reported it calls it.
    pub id: String,
    /// When it became visible. Of one on its way to the store: not yet known, 0.
    pub position: Position,
    /// `server.started` …
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// 0 to 4: info, notice, warning, error, critical.
    pub severity: i64,
    /// A JSON object.
    pub data: String,
    /// When it happened.
    pub at: Millis,
    /// When it was written down.
    pub recorded_at: Millis,
    /// Who reported it.
    pub author: String,
}

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this type only.
    pub kind: Option<String>,
    /// Of this severity at least.
    pub severity: i64,
    /// Those that happened from then on …
    pub since: Option<Millis>,
    /// … and before then.
    pub until: Option<Millis>,
    /// Those before this position.
    pub before: Option<Position>,
}

/// Adds an event, and tells it. The write is refused as [`Error::Duplicate`] where the id is known.
pub fn insert(write: &mut Write, row: &SystemEventRow) {
    let position = write.tell_next(Change::SystemEvent { id: Arc::from(&*row.id) });
    let mut values = args![
        row.id.as_str(),
        row.kind.as_str(),
        row.subject.as_str(),
        row.severity,
        row.data.as_str(),
        row.at,
        row.recorded_at,
        row.author.as_str()
    ];
    values.push(position);
    write.insert(&EVENTS, values);
}

/// Forgets what was recorded before a moment.
pub fn prune(write: &mut Write, before: Millis) {
    write.run("DELETE FROM system_events WHERE recorded_at < $1", args![before]);
}

/// Reads system events.
pub struct SystemEvents<'a>(&'a Store);

impl Store {
    /// Reads system events.
    pub fn system_events(&self) -> SystemEvents<'_> {
        SystemEvents(self)
    }
}

const COLUMNS: &str = "
    SELECT id, position, type, subject, severity, data, at, recorded_at, author
    FROM system_events";

impl SystemEvents<'_> {
    /// The event called `id`.
    pub async fn find(&self, id: &str) -> Result<Option<SystemEventRow>, Error> {
        self.0.query(format!("{COLUMNS} WHERE id = $1"), args![id]).await?.first().map(read).transpose()
    }

    /// Up to `limit` events, the latest first.
    pub async fn list(&self, wanted: &Wanted, limit: u32) -> Result<Vec<SystemEventRow>, Error> {
        let sql = format!(
            "{COLUMNS}
             WHERE position < $1 AND severity >= $2 AND at >= $3 AND at < $4 AND ($5 = '' OR type = $5)
             ORDER BY position DESC
             LIMIT $6"
        );
        let values = args![
            wanted.before.map_or(i64::MAX, |position| position.0),
            wanted.severity,
            wanted.since.unwrap_or(i64::MIN),
            wanted.until.unwrap_or(i64::MAX),
            wanted.kind.as_deref().unwrap_or_default(),
            i64::from(limit)
        ];
        self.0.query(sql, values).await?.iter().map(read).collect()
    }

    /// The first `limit` events after `position`, in order.
    pub async fn after(&self, position: Position, limit: u32) -> Result<Vec<SystemEventRow>, Error> {
        let sql = format!("{COLUMNS} WHERE position > $1 ORDER BY position LIMIT $2");
        self.0.query(sql, args![position, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// The latest event whose id begins with `prefix`, which has no wildcards in it.
    pub async fn latest_of(&self, prefix: &str) -> Result<Option<SystemEventRow>, Error> {
        let sql = format!("{COLUMNS} WHERE id LIKE $1 ORDER BY position DESC LIMIT 1");
        self.0.query(sql, args![format!("{prefix}%")]).await?.first().map(read).transpose()
    }
}

fn read(row: &Row) -> Result<SystemEventRow, Error> {
    Ok(SystemEventRow {
        id: row.text(0)?,
        position: Position(row.int(1)?),
        kind: row.text(2)?,
        subject: row.text(3)?,
        severity: row.int(4)?,
        data: row.text(5)?,
        at: row.int(6)?,
        recorded_at: row.int(7)?,
        author: row.text(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    fn event(id: &str, kind: &str, severity: i64, at: Millis) -> SystemEventRow {
        SystemEventRow {
            id: id.into(),
            position: Position(0),
            kind: kind.into(),
            subject: "b.test".into(),
            severity,
            data: "{}".into(),
            at,
            recorded_at: at,
            author: "server".into(),
        }
    }

    #[tokio::test]
    async fn an_event_is_there_once_and_found_by_what_it_is() {
        on_each_engine(async |store| {
            for (number, (kind, severity)) in [("disk.full", 3), ("link.down", 2), ("link.up", 0)].iter().enumerate() {
                let mut write = Write::new();
                insert(&mut write, &event(&format!("e{number}"), kind, *severity, number as i64 * 10));
                store.commit(write).await?;
            }
            let mut write = Write::new();
            insert(&mut write, &event("e1", "link.down", 2, 10));
            assert!(matches!(store.commit(write).await, Err(Error::Duplicate)));
            let ids = async |wanted: Wanted, limit| {
                let rows = store.system_events().list(&wanted, limit).await?;
                Ok::<_, Error>(rows.into_iter().map(|row| row.id).collect::<Vec<_>>())
            };
            assert_eq!(ids(Wanted::default(), 2).await?, ["e2", "e1"]);
            assert_eq!(ids(Wanted { severity: 2, ..Wanted::default() }, 9).await?, ["e1", "e0"]);
            assert_eq!(ids(Wanted { kind: Some("link.up".into()), ..Wanted::default() }, 9).await?, ["e2"]);
            let then = Wanted { since: Some(10), until: Some(20), ..Wanted::default() };
            assert_eq!(ids(then, 9).await?, ["e1"]);
            let first = store.system_events().after(Position(0), 1).await?;
            assert_eq!(first[0].id, "e0");
            let before = Some(store.system_events().find("e1").await?.expect("it is there").position);
            assert_eq!(ids(Wanted { before, ..Wanted::default() }, 9).await?, ["e0"]);
            let mut write = Write::new();
            prune(&mut write, 15);
            store.commit(write).await?;
            assert_eq!(ids(Wanted::default(), 9).await?, ["e2"]);
            assert_eq!(store.system_events().latest_of("e").await?.map(|row| row.id).as_deref(), Some("e2"));
            Ok::<_, Error>(())
        })
        .await;
    }
}
