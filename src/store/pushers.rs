//! Push gateways and mailboxes that are told what notifies somebody, and what waits to be told to them.

use model::{EventNid, Millis, Position, RoomNid};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::{Arg, Error, Row, Store, Table, Write, args, places};

/// What tells one pusher from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PusherKey {
    /// Who is notified.
    pub user_id: OwnedUserId,
    /// The application.
    pub app_id: String,
    /// Whom the gateway is to tell, or a mailbox's address.
    pub pushkey: String,
}

/// A pusher as it is stored.
#[derive(Clone, Debug)]
pub struct PusherRow {
    /// Which it is.
    pub key: PusherKey,
    /// `http` or `email`.
    pub kind: String,
    /// For people.
    pub app_display_name: String,
    /// For people.
    pub device_display_name: String,
    /// As the client gave it.
    pub profile_tag: Option<String>,
    /// In which language the user wants to be told.
    pub lang: String,
    /// JSON object, as the client gave it.
    pub data: String,
    /// The device that it goes with; `None`: it is a mailbox.
    pub device_id: Option<OwnedDeviceId>,
    /// Since when it is told nothing.
    pub disabled_at: Option<Millis>,
    /// When the client set it last.
    pub set_at: Millis,
    /// What happened up to here isn't told. Only the first one counts.
    pub since: Position,
    /// By this a link in a letter names it. Only the first one counts.
    pub link: String,
    /// How much it was last told to be unread.
    pub badge: Option<i64>,
    /// Since when it takes nothing.
    pub failing_since: Option<Millis>,
    /// How often in a row it took nothing.
    pub failures: i64,
}

/// A pusher of somebody to whom something may be of interest.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Which.
    pub key: PusherKey,
    /// Whether it is a mailbox.
    pub is_mailbox: bool,
    /// What happened up to here isn't told.
    pub since: Position,
    /// Whether it took nothing lately.
    pub is_failing: bool,
}

/// What waits to be told to a pusher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The event's; 0: how much is unread is to be told, and no more.
    pub position: Position,
    /// The event.
    pub event: Option<EventNid>,
    /// Since when it waits.
    pub queued_at: Millis,
}

static PUSHERS: Table = Table {
    insert: "INSERT INTO pushers (user_id, app_id, pushkey, kind, app_display_name, device_display_name, profile_tag, lang, data, \
        device_id, disabled_at, set_at, since, link, badge, failing_since, failures, retry_at)",
    columns: 18,
    conflict: "ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET kind = excluded.kind, \
        app_display_name = excluded.app_display_name, device_display_name = excluded.device_display_name, \
        profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data, device_id = excluded.device_id, \
        disabled_at = excluded.disabled_at, set_at = excluded.set_at, failing_since = NULL, failures = 0, retry_at = 0",
    key: 3,
};

static QUEUE: Table = Table {
    insert: "INSERT INTO push_queue (user_id, app_id, pushkey, position, event_nid, due_at, queued_at)",
    columns: 7,
    conflict: "ON CONFLICT (user_id, app_id, pushkey, position) DO NOTHING",
    key: 4,
};

/// Adds a pusher, or sets the one that is there anew: it is tried again at once.
pub fn put(write: &mut Write, row: &PusherRow) {
    let PusherKey { user_id, app_id, pushkey } = &row.key;
    write.insert(
        &PUSHERS,
        args![
            user_id.as_str(),
            app_id.as_str(),
            pushkey.as_str(),
            row.kind.as_str(),
            row.app_display_name.as_str(),
            row.device_display_name.as_str(),
            row.profile_tag.as_deref(),
            row.lang.as_str(),
            row.data.as_str(),
            row.device_id.as_ref().map(|device_id| device_id.as_str()),
            row.disabled_at,
            row.set_at,
            row.since,
            row.link.as_str(),
            row.badge,
            None::<i64>,
            0_i64,
            0_i64,
        ],
    );
}

/// Removes a pusher, and what waits for it.
pub fn remove(write: &mut Write, key: &PusherKey) {
    for delete in [
        "DELETE FROM push_queue WHERE user_id = $1 AND app_id = $2 AND pushkey = $3",
        "DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3",
    ] {
        write.run(delete, of(key));
    }
}

/// Removes what waits for a pusher.
pub fn empty_queue(write: &mut Write, key: &PusherKey) {
    write.run("DELETE FROM push_queue WHERE user_id = $1 AND app_id = $2 AND pushkey = $3", of(key));
}

/// Removes the pushers that others than `user_id` have for the same application and pushkey.
pub fn remove_of_others(write: &mut Write, key: &PusherKey) {
    for delete in [
        "DELETE FROM push_queue WHERE user_id <> $1 AND app_id = $2 AND pushkey = $3",
        "DELETE FROM pushers WHERE user_id <> $1 AND app_id = $2 AND pushkey = $3",
    ] {
        write.run(delete, of(key));
    }
}

/// Removes the pushers that go with a device. What waits for them goes with [`tidy`].
pub fn remove_of_device(write: &mut Write, user_id: &UserId, device_id: &DeviceId) {
    const REMOVE: &str = "DELETE FROM pushers WHERE user_id = $1 AND device_id = $2";
    write.run(REMOVE, args![user_id.as_str(), device_id.as_str()]);
}

/// Removes the mailboxes of a user. What waits for them goes with [`tidy`].
pub fn remove_mailboxes(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM pushers WHERE user_id = $1 AND kind = 'email'", args![user_id.as_str()]);
}

/// Removes what waits for pushers that are gone.
pub fn tidy(write: &mut Write) {
    const TIDY: &str = "
        DELETE FROM push_queue
        WHERE NOT EXISTS (
            SELECT 1
            FROM pushers p
            WHERE p.user_id = push_queue.user_id AND p.app_id = push_queue.app_id AND p.pushkey = push_queue.pushkey
        )";
    write.run(TIDY, args![]);
}

/// Puts something into a pusher's queue, unless it is there already.
pub fn queue(write: &mut Write, key: &PusherKey, queued: &Queued, due_at: Millis) {
    let PusherKey { user_id, app_id, pushkey } = key;
    let event = queued.event.map(|nid| nid.0);
    let row =
        args![user_id.as_str(), app_id.as_str(), pushkey.as_str(), queued.position, event, due_at, queued.queued_at];
    write.insert(&QUEUE, row);
}

/// Of the events that wait for a pusher only the latest `most` stay.
pub fn trim(write: &mut Write, key: &PusherKey, most: u32) {
    const TRIM: &str = "
        DELETE FROM push_queue
        WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 AND position > 0 AND position <= (
            SELECT q.position
            FROM push_queue q
            WHERE q.user_id = $1 AND q.app_id = $2 AND q.pushkey = $3
            ORDER BY q.position DESC
            LIMIT 1 OFFSET $4
        )";
    let mut args = of(key);
    args.push(Arg::from(i64::from(most)));
    write.run(TRIM, args);
}

/// Takes something out of a pusher's queue.
pub fn dequeue(write: &mut Write, key: &PusherKey, position: Position) {
    const DEQUEUE: &str =
        "DELETE FROM push_queue WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 AND position = $4";
    let mut args = of(key);
    args.push(Arg::from(position));
    write.run(DEQUEUE, args);
}

/// A pusher took what it was told, `badge` among it. It is told nothing before `next_at`.
pub fn took(write: &mut Write, key: &PusherKey, badge: Option<i64>, next_at: Millis) {
    const TOOK: &str = "
        UPDATE pushers
        SET badge = $4, failing_since = NULL, failures = 0, retry_at = $5
        WHERE user_id = $1 AND app_id = $2 AND pushkey = $3";
    let mut args = of(key);
    args.extend([Arg::from(badge), Arg::from(next_at)]);
    write.run(TOOK, args);
}

/// A pusher did not take what it was told, for the `failures`-th time in a row. It is tried again at `retry_at`.
pub fn failed(write: &mut Write, key: &PusherKey, now: Millis, failures: i64, retry_at: Millis) {
    const FAILED: &str = "
        UPDATE pushers
        SET failing_since = COALESCE(failing_since, $4), failures = $5, retry_at = $6
        WHERE user_id = $1 AND app_id = $2 AND pushkey = $3";
    let mut args = of(key);
    args.extend([Arg::from(now), Arg::from(failures), Arg::from(retry_at)]);
    write.run(FAILED, args);
}

fn of(key: &PusherKey) -> Vec<Arg> {
    args![key.user_id.as_str(), key.app_id.as_str(), key.pushkey.as_str()]
}

/// Reads pushers.
pub struct Pushers<'a>(&'a Store);

impl Store {
    /// Reads pushers.
    pub fn pushers(&self) -> Pushers<'_> {
        Pushers(self)
    }
}

const COLUMNS: &str = "
    SELECT user_id, app_id, pushkey, kind, app_display_name, device_display_name, profile_tag, lang, data, device_id,
        disabled_at, set_at, since, link, badge, failing_since, failures
    FROM pushers";

const LISTENERS: &str = "
    SELECT p.user_id, p.app_id, p.pushkey, p.kind, p.since, p.failing_since";

const OF_OPEN_ACCOUNTS: &str = "
    JOIN accounts a ON a.user_id = p.user_id AND a.deactivated_at IS NULL AND a.locked_at IS NULL";

impl Pushers<'_> {
    /// All pushers of a user.
    pub async fn list(&self, user_id: &UserId) -> Result<Vec<PusherRow>, Error> {
        let sql = format!("{COLUMNS} WHERE user_id = $1 ORDER BY app_id, pushkey");
        self.0.query(sql, args![user_id.as_str()]).await?.iter().map(pusher).collect()
    }

    /// One pusher.
    pub async fn find(&self, key: &PusherKey) -> Result<Option<PusherRow>, Error> {
        let sql = format!("{COLUMNS} WHERE user_id = $1 AND app_id = $2 AND pushkey = $3");
        self.0.query(sql, of(key)).await?.first().map(pusher).transpose()
    }

    /// The pusher that a link names.
    pub async fn by_link(&self, link: &str) -> Result<Option<PusherRow>, Error> {
        let sql = format!("{COLUMNS} WHERE link = $1");
        self.0.query(sql, args![link]).await?.first().map(pusher).transpose()
    }

    /// From where on what happens is told to anybody. `None`: there is no pusher.
    pub async fn first_since(&self) -> Result<Option<Position>, Error> {
        const FIRST: &str = "SELECT since FROM pushers ORDER BY since LIMIT 1";
        self.0.query(FIRST, args![]).await?.first().map(|row| row.int(0).map(Position)).transpose()
    }

    /// The pushers of those who are in any of these rooms, with the room, by room and user.
    pub async fn in_rooms(&self, rooms: &[RoomNid]) -> Result<Vec<(RoomNid, Listener)>, Error> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "{LISTENERS}, m.room_nid
            FROM memberships m
            JOIN pushers p ON p.user_id = m.user_id AND p.disabled_at IS NULL
            {OF_OPEN_ACCOUNTS}
            WHERE m.membership = 'join' AND m.room_nid IN ({})
            ORDER BY m.room_nid, p.user_id",
            places(1, rooms.len())
        );
        let rooms = rooms.iter().map(|room| Arg::from(room.0)).collect();
        self.0.query(sql, rooms).await?.iter().map(|row| Ok((RoomNid(row.int(6)?), listener(row)?))).collect()
    }

    /// The pushers of these users, by user.
    pub async fn of_users(&self, users: &[&UserId]) -> Result<Vec<Listener>, Error> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "{LISTENERS}
            FROM pushers p
            {OF_OPEN_ACCOUNTS}
            WHERE p.disabled_at IS NULL AND p.user_id IN ({})
            ORDER BY p.user_id",
            places(1, users.len())
        );
        let users = users.iter().map(|user_id| Arg::from(user_id.as_str())).collect();
        self.0.query(sql, users).await?.iter().map(listener).collect()
    }

    /// The invitations that people with pushers got after one position and up to another.
    pub async fn invitations(&self, after: Position, upto: Position) -> Result<Vec<(Position, EventNid)>, Error> {
        const INVITATIONS: &str = "
            SELECT DISTINCT m.position, m.event_nid
            FROM pushers p
            JOIN memberships m ON m.user_id = p.user_id AND m.membership = 'invite'
            WHERE m.position > $1 AND m.position <= $2
            ORDER BY m.position";
        let rows = self.0.query(INVITATIONS, args![after, upto]).await?;
        rows.iter().map(|row| Ok((Position(row.int(0)?), EventNid(row.int(1)?)))).collect()
    }

    /// Who of those with pushers has read something after one position and up to another.
    pub async fn readers(&self, after: Position, upto: Position) -> Result<Vec<OwnedUserId>, Error> {
        const READERS: &str = "
            SELECT DISTINCT p.user_id
            FROM pushers p
            JOIN memberships m ON m.user_id = p.user_id AND m.membership = 'join'
            JOIN receipts r ON r.room_nid = m.room_nid AND r.user_id = p.user_id
            WHERE r.position > $1 AND r.position <= $2";
        self.0.query(READERS, args![after, upto]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// Up to `limit` pushers for which something waits that is due.
    pub async fn due(&self, now: Millis, limit: u32) -> Result<Vec<PusherKey>, Error> {
        const DUE: &str = "
            SELECT DISTINCT q.user_id, q.app_id, q.pushkey
            FROM push_queue q
            JOIN pushers p ON p.user_id = q.user_id AND p.app_id = q.app_id AND p.pushkey = q.pushkey
            WHERE q.due_at <= $1 AND p.retry_at <= $1 AND p.disabled_at IS NULL
            LIMIT $2";
        self.0.query(DUE, args![now, i64::from(limit)]).await?.iter().map(key).collect()
    }

    /// When something is due next.
    pub async fn next_due(&self) -> Result<Option<Millis>, Error> {
        const NEXT: &str = "
            SELECT CAST(MIN(CASE WHEN p.retry_at > q.due_at THEN p.retry_at ELSE q.due_at END) AS BIGINT)
            FROM push_queue q
            JOIN pushers p ON p.user_id = q.user_id AND p.app_id = q.app_id AND p.pushkey = q.pushkey
            WHERE p.disabled_at IS NULL";
        self.0.query(NEXT, args![]).await?.first().map_or(Ok(None), |row| row.opt_int(0))
    }

    /// The first `limit` things that wait for a pusher and are due by `due_by`.
    pub async fn queued(&self, key: &PusherKey, due_by: Millis, limit: u32) -> Result<Vec<Queued>, Error> {
        const QUEUED: &str = "
            SELECT position, event_nid, queued_at
            FROM push_queue
            WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 AND due_at <= $4
            ORDER BY position
            LIMIT $5";
        let mut args = of(key);
        args.extend([Arg::from(due_by), Arg::from(i64::from(limit))]);
        let rows = self.0.query(QUEUED, args).await?;
        rows.iter()
            .map(|row| {
                Ok(Queued {
                    position: Position(row.int(0)?),
                    event: row.opt_int(1)?.map(EventNid),
                    queued_at: row.int(2)?,
                })
            })
            .collect()
    }
}

fn key(row: &Row) -> Result<PusherKey, Error> {
    Ok(PusherKey { user_id: row.parse(0)?, app_id: row.text(1)?, pushkey: row.text(2)? })
}

fn listener(row: &Row) -> Result<Listener, Error> {
    Ok(Listener {
        key: key(row)?,
        is_mailbox: row.text(3)? == "email",
        since: Position(row.int(4)?),
        is_failing: row.opt_int(5)?.is_some(),
    })
}

fn pusher(row: &Row) -> Result<PusherRow, Error> {
    Ok(PusherRow {
        key: key(row)?,
        kind: row.text(3)?,
        app_display_name: row.text(4)?,
        device_display_name: row.text(5)?,
        profile_tag: row.opt_text(6)?,
        lang: row.text(7)?,
        data: row.text(8)?,
        device_id: row.opt_text(9)?.map(OwnedDeviceId::from),
        disabled_at: row.opt_int(10)?,
        set_at: row.int(11)?,
        since: Position(row.int(12)?),
        link: row.text(13)?,
        badge: row.opt_int(14)?,
        failing_since: row.opt_int(15)?,
        failures: row.int(16)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::{devices::remove_device, testing::on_each_engine};

    fn row(user_id: &UserId, kind: &str) -> PusherRow {
        let key = PusherKey { user_id: user_id.to_owned(), app_id: "app".into(), pushkey: "key".into() };
        PusherRow {
            key,
            kind: kind.into(),
            app_display_name: "App".into(),
            device_display_name: "Phone".into(),
            profile_tag: None,
            lang: "en".into(),
            data: "{}".into(),
            device_id: (kind == "http").then(|| device_id!("PHONE").to_owned()),
            disabled_at: None,
            set_at: 1,
            since: Position(3),
            link: user_id.to_string(),
            badge: None,
            failing_since: None,
            failures: 0,
        }
    }

    fn event(position: i64) -> Queued {
        Queued { position: Position(position), event: Some(EventNid(position)), queued_at: 0 }
    }

    #[tokio::test]
    async fn what_waits_is_due_when_it_and_its_pusher_are_and_waits_once() {
        on_each_engine(async |store| {
            let row = row(user_id!("@alice:a.test"), "http");
            let mut write = Write::new();
            put(&mut write, &row);
            for position in [5, 4, 5] {
                queue(&mut write, &row.key, &event(position), 10);
            }
            store.commit(write).await?;
            assert_eq!(store.pushers().due(9, 5).await?, []);
            assert_eq!(store.pushers().next_due().await?, Some(10));
            assert_eq!(store.pushers().due(10, 5).await?, std::slice::from_ref(&row.key));
            assert_eq!(store.pushers().queued(&row.key, 10, 5).await?, [event(4), event(5)]);

            let mut write = Write::new();
            failed(&mut write, &row.key, 10, 1, 30);
            store.commit(write).await?;
            assert_eq!(store.pushers().due(29, 5).await?, []);
            assert_eq!(store.pushers().next_due().await?, Some(30));
            let mut write = Write::new();
            trim(&mut write, &row.key, 1);
            took(&mut write, &row.key, Some(2), 0);
            store.commit(write).await?;
            assert_eq!(store.pushers().queued(&row.key, 10, 5).await?, [event(5)]);
            let found = store.pushers().find(&row.key).await?.expect("it is there");
            assert_eq!((found.badge, found.failing_since, found.failures), (Some(2), None, 0));
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_pusher_goes_with_its_device_and_a_mailbox_with_its_address() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let mut write = Write::new();
            put(&mut write, &row(alice, "http"));
            put(&mut write, &row(bob, "email"));
            queue(&mut write, &row(alice, "http").key, &event(4), 10);
            store.commit(write).await?;
            let mut write = Write::new();
            remove_device(&mut write, alice, device_id!("PHONE"));
            remove_device(&mut write, bob, device_id!("PHONE"));
            tidy(&mut write);
            store.commit(write).await?;
            assert!(store.pushers().list(alice).await?.is_empty());
            assert!(store.pushers().queued(&row(alice, "http").key, 99, 5).await?.is_empty());
            assert_eq!(store.pushers().list(bob).await?.len(), 1);
            assert_eq!(store.pushers().first_since().await?, Some(Position(3)));
            let mut write = Write::new();
            crate::verification::remove_emails(&mut write, bob);
            store.commit(write).await?;
            assert_eq!(store.pushers().first_since().await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn one_set_anew_keeps_where_it_began_and_takes_the_place_of_others() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let mut write = Write::new();
            put(&mut write, &row(alice, "http"));
            put(&mut write, &row(bob, "http"));
            store.commit(write).await?;
            let mut write = Write::new();
            put(&mut write, &PusherRow { since: Position(9), link: "other".into(), set_at: 7, ..row(alice, "http") });
            remove_of_others(&mut write, &row(alice, "http").key);
            store.commit(write).await?;
            let found = store.pushers().list(alice).await?;
            assert_eq!((found.len(), found[0].since, found[0].set_at), (1, Position(3), 7));
            assert_eq!(store.pushers().by_link("@alice:a.test").await?.map(|row| row.key), Some(found[0].key.clone()));
            assert!(store.pushers().list(bob).await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
