//! What people are told by those who run the systems they use: one row for each broadcast, however many it is for.

use std::sync::Arc;

use model::{Change, Millis, Position};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{Arg, Error, Row, Store, Table, Write, args, places};

static BROADCASTS: Table = Table {
    insert: "INSERT INTO broadcasts (id, origin, author, title, body, html, priority, audience, across, created_at,
        publish_at, expires_at, published_at, cancelled_at, cancelled_by, created, position, changed)",
    columns: 18,
    conflict: "",
    key: 0,
};

static READS: Table = Table {
    insert: "INSERT INTO broadcast_reads (broadcast_id, user_id, read_at)",
    columns: 3,
    // Who reads it again has read it before.
    conflict: "ON CONFLICT (broadcast_id, user_id) DO NOTHING",
    key: 0,
};

/// One broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastRow {
    /// As its author calls it.
    pub id: String,
    /// The server that it comes from.
    pub origin: OwnedServerName,
    /// Who wrote it.
    pub author: String,
    /// One line.
    pub title: String,
    /// Plain text.
    pub body: String,
    /// The body with formatting.
    pub html: Option<String>,
    /// `low`, `normal`, `high` or `urgent`.
    pub priority: String,
    /// Whom it is for, JSON.
    pub audience: String,
    /// Whether people of other servers are told too.
    pub across: bool,
    /// When it was written.
    pub created_at: Millis,
    /// When it is to be published.
    pub publish_at: Millis,
    /// From then on nobody is told any more.
    pub expires_at: Option<Millis>,
    /// When it was published.
    pub published_at: Option<Millis>,
    /// When it was called back …
    pub cancelled_at: Option<Millis>,
    /// … and by whom.
    pub cancelled_by: Option<String>,
    /// The position at which it was written. Of one on its way to the store: not yet known, 0.
    pub created: Position,
    /// The position at which it was published.
    pub position: Option<Position>,
    /// The position at which it was published or called back, whichever came last.
    pub changed: Option<Position>,
}

/// Whom a broadcast is for, as far as the store has to know.
#[derive(Clone, Copy, Debug)]
pub enum Recipients<'a> {
    /// Everybody here.
    All,
    /// Nobody here.
    Nobody,
    /// Those with one of these roles.
    Roles(&'a [String]),
    /// These.
    Users(&'a [OwnedUserId]),
}

/// How many people a broadcast is for, and how far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The people of this server that it is for now.
    pub recipients: i64,
    /// How many of them have read it.
    pub read: i64,
}

/// Adds a broadcast: where it has a moment of publication, it is published, and told. The write is refused as
/// [`Error::Duplicate`] where the id is known.
pub fn insert(write: &mut Write, row: &BroadcastRow) {
    let mut values = args![
        row.id.as_str(),
        row.origin.as_str(),
        row.author.as_str(),
        row.title.as_str(),
        row.body.as_str(),
        row.html.as_deref(),
        row.priority.as_str(),
        row.audience.as_str(),
        i64::from(row.across),
        row.created_at,
        row.publish_at,
        row.expires_at,
        row.published_at,
        row.cancelled_at,
        row.cancelled_by.as_deref()
    ];
    let offset = write.position();
    values.push(Arg::Position(offset));
    match row.published_at {
        Some(_) => {
            write.tell(offset, Change::Broadcast { id: Arc::from(&*row.id) });
            values.extend([Arg::Position(offset), Arg::Position(offset)]);
        }
        None => values.extend([Arg::NoInt, Arg::NoInt]),
    }
    write.insert(&BROADCASTS, values);
}

/// Publishes what was scheduled, unless that was done, or it was called back. Whoever is told looks it up.
pub fn publish(write: &mut Write, id: &str, now: Millis) {
    const PUBLISH: &str = "
        UPDATE broadcasts
        SET position = $2, changed = $2, published_at = $3
        WHERE id = $1 AND position IS NULL AND cancelled_at IS NULL";
    let mut values = args![id];
    values.push(write.tell_next(Change::Broadcast { id: id.into() }));
    values.extend(args![now]);
    write.run(PUBLISH, values);
}

/// Calls a broadcast back, unless that was done.
pub fn cancel(write: &mut Write, id: &str, by: &str, now: Millis) {
    const CANCEL: &str = "
        UPDATE broadcasts
        SET cancelled_at = $2, cancelled_by = $3, changed = $4
        WHERE id = $1 AND cancelled_at IS NULL";
    let mut values = args![id, now, by];
    values.push(write.tell_next(Change::Broadcast { id: id.into() }));
    write.run(CANCEL, values);
}

/// Somebody has read it.
pub fn read(write: &mut Write, id: &str, user_id: &UserId, now: Millis) {
    write.insert(&READS, args![id, user_id.as_str(), now]);
}

/// Forgets broadcasts that were written, and to be published, before a moment, and who has read them.
pub fn prune(write: &mut Write, before: Millis) {
    const READS: &str = "
        DELETE FROM broadcast_reads
        WHERE broadcast_id IN (SELECT id FROM broadcasts WHERE created_at < $1 AND publish_at < $1)";
    const DELIVERIES: &str = "
        DELETE FROM broadcast_deliveries
        WHERE broadcast_id IN (SELECT id FROM broadcasts WHERE created_at < $1 AND publish_at < $1)";
    const BROADCASTS: &str = "DELETE FROM broadcasts WHERE created_at < $1 AND publish_at < $1";
    for sql in [READS, DELIVERIES, BROADCASTS] {
        write.run(sql, args![before]);
    }
}

/// Reads broadcasts.
pub struct Broadcasts<'a>(&'a Store);

impl Store {
    /// Reads broadcasts.
    pub fn broadcasts(&self) -> Broadcasts<'_> {
        Broadcasts(self)
    }
}

const COLUMNS: &str = "
    SELECT b.id, b.origin, b.author, b.title, b.body, b.html, b.priority, b.audience, b.across, b.created_at, b.publish_at,
        b.expires_at, b.published_at, b.cancelled_at, b.cancelled_by, b.created, b.position, b.changed";

impl Broadcasts<'_> {
    /// The broadcast called `id`.
    pub async fn find(&self, id: &str) -> Result<Option<BroadcastRow>, Error> {
        let sql = format!("{COLUMNS} FROM broadcasts b WHERE b.id = $1");
        self.0.query(sql, args![id]).await?.first().map(row).transpose()
    }

    /// Up to `limit` of all, whatever became of them, those written last first, written before `before`.
    pub async fn list(&self, before: Position, limit: u32) -> Result<Vec<BroadcastRow>, Error> {
        let sql = format!("{COLUMNS} FROM broadcasts b WHERE b.created < $1 ORDER BY b.created DESC LIMIT $2");
        self.0.query(sql, args![before, i64::from(limit)]).await?.iter().map(row).collect()
    }

    /// The first `limit` that were published after `position`, in order.
    pub async fn after(&self, position: Position, limit: u32) -> Result<Vec<BroadcastRow>, Error> {
        let sql = format!("{COLUMNS} FROM broadcasts b WHERE b.position > $1 ORDER BY b.position LIMIT $2");
        self.0.query(sql, args![position, i64::from(limit)]).await?.iter().map(row).collect()
    }

    /// Up to `limit` that were published before `before`, and not called back, the latest first; each with the moment at
    /// which `user_id` has read it on the native API.
    pub async fn published(
        &self,
        user_id: &UserId,
        before: Position,
        limit: u32,
    ) -> Result<Vec<(BroadcastRow, Option<Millis>)>, Error> {
        let sql = format!(
            "{COLUMNS}, r.read_at
             FROM broadcasts b
             LEFT JOIN broadcast_reads r ON r.broadcast_id = b.id AND r.user_id = $1
             WHERE b.position < $2 AND b.cancelled_at IS NULL
             ORDER BY b.position DESC
             LIMIT $3"
        );
        self.0.query(sql, args![user_id.as_str(), before, i64::from(limit)]).await?.iter().map(row_read).collect()
    }

    /// The first `limit` that were published, or called back after that, after `position`, in order; each with the moment at
    /// which `user_id` has read it on the native API.
    pub async fn changed(
        &self,
        user_id: &UserId,
        position: Position,
        limit: u32,
    ) -> Result<Vec<(BroadcastRow, Option<Millis>)>, Error> {
        let sql = format!(
            "{COLUMNS}, r.read_at
             FROM broadcasts b
             LEFT JOIN broadcast_reads r ON r.broadcast_id = b.id AND r.user_id = $1
             WHERE b.changed > $2 AND b.position IS NOT NULL
             ORDER BY b.changed
             LIMIT $3"
        );
        self.0.query(sql, args![user_id.as_str(), position, i64::from(limit)]).await?.iter().map(row_read).collect()
    }

    /// The position of the last change of any.
    pub async fn last_change(&self) -> Result<Position, Error> {
        const LAST: &str = "SELECT COALESCE(MAX(changed), 0) FROM broadcasts WHERE changed IS NOT NULL";
        self.0.query(LAST, Vec::new()).await?.first().map_or(Ok(Position(0)), |row| row.int(0).map(Position))
    }

    /// The first `limit` that are to be published by `now`, and were neither called back nor have run out.
    pub async fn due(&self, now: Millis, limit: u32) -> Result<Vec<BroadcastRow>, Error> {
        let sql = format!(
            "{COLUMNS} FROM broadcasts b
             WHERE b.position IS NULL AND b.cancelled_at IS NULL AND b.publish_at <= $1
                AND (b.expires_at IS NULL OR b.expires_at > $1)
             ORDER BY b.publish_at
             LIMIT $2"
        );
        self.0.query(sql, args![now, i64::from(limit)]).await?.iter().map(row).collect()
    }

    /// When the first is due that is due after `now`.
    pub async fn next_due(&self, now: Millis) -> Result<Option<Millis>, Error> {
        const NEXT: &str = "
            SELECT MIN(publish_at)
            FROM broadcasts
            WHERE position IS NULL AND cancelled_at IS NULL AND publish_at > $1";
        self.0.query(NEXT, args![now]).await?.first().map_or(Ok(None), |row| row.opt_int(0))
    }

    /// How many a server has sent since `since`.
    pub async fn count_of(&self, origin: &ServerName, since: Millis) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM broadcasts WHERE origin = $1 AND created_at >= $2";
        self.0.query(COUNT, args![origin.as_str(), since]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// How many people here a broadcast is for, and how many of them have read it: counted now. Users whose names begin with
    /// an underscore are nobody's to tell.
    pub async fn counts(&self, broadcast: &BroadcastRow, recipients: Recipients<'_>) -> Result<Counts, Error> {
        let mut values = args![broadcast.id.as_str(), broadcast.position.map_or(i64::MAX, |position| position.0)];
        let whom = match recipients {
            Recipients::Nobody => return Ok(Counts::default()),
            Recipients::Roles([]) | Recipients::Users([]) => return Ok(Counts::default()),
            Recipients::All => String::new(),
            Recipients::Roles(roles) => {
                values.extend(roles.iter().map(|role| Arg::from(role.as_str())));
                let role = "CASE WHEN a.admin_since IS NOT NULL THEN 'admin' ELSE COALESCE(r.role, 'user') END";
                format!("AND {role} IN ({})", places(3, roles.len()))
            }
            Recipients::Users(users) => {
                values.extend(users.iter().map(|user_id| Arg::from(user_id.as_str())));
                format!("AND a.user_id IN ({})", places(3, users.len()))
            }
        };
        let sql = format!(
            "SELECT COUNT(*), COUNT(CASE WHEN d.user_id IS NOT NULL OR m.read_upto >= $2 THEN 1 END)
             FROM accounts a
             LEFT JOIN roles r ON r.user_id = a.user_id
             LEFT JOIN broadcast_reads d ON d.broadcast_id = $1 AND d.user_id = a.user_id
             LEFT JOIN notice_markers m ON m.user_id = a.user_id
             WHERE a.deactivated_at IS NULL AND SUBSTR(a.user_id, 2, 1) <> '_' {whom}"
        );
        let rows = self.0.query(sql, values).await?;
        rows.first().map_or(Ok(Counts::default()), |row| Ok(Counts { recipients: row.int(0)?, read: row.int(1)? }))
    }
}

fn row(row: &Row) -> Result<BroadcastRow, Error> {
    Ok(BroadcastRow {
        id: row.text(0)?,
        origin: row.parse(1)?,
        author: row.text(2)?,
        title: row.text(3)?,
        body: row.text(4)?,
        html: row.opt_text(5)?,
        priority: row.text(6)?,
        audience: row.text(7)?,
        across: row.int(8)? != 0,
        created_at: row.int(9)?,
        publish_at: row.int(10)?,
        expires_at: row.opt_int(11)?,
        published_at: row.opt_int(12)?,
        cancelled_at: row.opt_int(13)?,
        cancelled_by: row.opt_text(14)?,
        created: Position(row.int(15)?),
        position: row.opt_int(16)?.map(Position),
        changed: row.opt_int(17)?.map(Position),
    })
}

fn row_read(found: &Row) -> Result<(BroadcastRow, Option<Millis>), Error> {
    Ok((row(found)?, found.opt_int(18)?))
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    fn broadcast(id: &str, publish_at: Millis, published_at: Option<Millis>) -> BroadcastRow {
        BroadcastRow {
            id: id.into(),
            origin: server_name!("a.test").to_owned(),
            author: "@root:a.test".into(),
            title: "Hello".into(),
            body: "You all".into(),
            html: None,
            priority: "normal".into(),
            audience: r#"{"kind":"all"}"#.into(),
            across: false,
            created_at: 1,
            publish_at,
            expires_at: None,
            published_at,
            cancelled_at: None,
            cancelled_by: None,
            created: Position(0),
            position: None,
            changed: None,
        }
    }

    #[tokio::test]
    async fn a_broadcast_is_published_once_and_told_again_when_it_is_called_back() {
        on_each_engine(async |store| {
            let mut write = Write::new();
            insert(&mut write, &broadcast("now", 1, Some(1)));
            store.commit(write).await?;
            let mut write = Write::new();
            insert(&mut write, &broadcast("later", 50, None));
            store.commit(write).await?;
            let mut write = Write::new();
            insert(&mut write, &broadcast("later", 50, None));
            assert!(matches!(store.commit(write).await, Err(Error::Duplicate)));

            let ids = |rows: Vec<BroadcastRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
            assert_eq!(ids(store.broadcasts().after(Position(0), 9).await?), ["now"]);
            assert!(store.broadcasts().due(49, 9).await?.is_empty());
            assert_eq!(store.broadcasts().next_due(0).await?, Some(50));
            assert_eq!(ids(store.broadcasts().due(50, 9).await?), ["later"]);
            // Two nodes find it due at once.
            for now in [50, 60] {
                let mut write = Write::new();
                publish(&mut write, "later", now);
                store.commit(write).await?;
            }
            let later = store.broadcasts().find("later").await?.expect("it is there");
            assert_eq!((later.published_at, later.position), (Some(50), later.changed));
            assert_eq!(ids(store.broadcasts().after(Position(0), 9).await?), ["now", "later"]);

            let alice = user_id!("@alice:a.test");
            let last = store.broadcasts().last_change().await?;
            assert_eq!(Some(last), later.changed);
            let mut write = Write::new();
            cancel(&mut write, "now", "@root:a.test", 70);
            read(&mut write, "later", alice, 71);
            read(&mut write, "later", alice, 72);
            store.commit(write).await?;
            let changed = store.broadcasts().changed(alice, last, 9).await?;
            assert_eq!((changed[0].0.id.as_str(), changed[0].0.cancelled_at, changed.len()), ("now", Some(70), 1));
            let published = store.broadcasts().published(alice, Position(i64::MAX), 9).await?;
            assert_eq!((published[0].0.id.as_str(), published[0].1, published.len()), ("later", Some(71), 1));
            assert_eq!(ids(store.broadcasts().list(Position(i64::MAX), 1).await?), ["later"]);
            assert_eq!(store.broadcasts().count_of(server_name!("a.test"), 1).await?, 2);

            let mut write = Write::new();
            prune(&mut write, 40);
            store.commit(write).await?;
            assert_eq!(ids(store.broadcasts().list(Position(i64::MAX), 9).await?), ["later"]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
