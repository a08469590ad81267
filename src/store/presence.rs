//! Who is there.

use model::{Change, Millis, Position, UserStream};
use ruma::{OwnedUserId, UserId, presence::PresenceState};

use crate::{Arg, Error, Row, Store, Table, Write, args};

static PRESENCE: Table = Table {
    insert: "INSERT INTO presence (user_id, presence, status_msg, last_active_at, position)",
    columns: 5,
    conflict: "ON CONFLICT (user_id) DO UPDATE
        SET presence = excluded.presence, status_msg = excluded.status_msg,
            last_active_at = excluded.last_active_at, position = excluded.position",
    key: 1,
};

/// Somebody's presence.
#[derive(Clone, Debug, PartialEq)]
pub struct PresenceRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// online, unavailable, offline.
    pub state: PresenceState,
    /// What the user says of it.
    pub status_msg: Option<String>,
    /// When the user last did something.
    pub last_active_at: Millis,
    /// When it changed.
    pub position: Position,
}

/// Sets somebody's presence, and tells it.
pub fn put(
    write: &mut Write,
    user_id: &UserId,
    state: &PresenceState,
    status_msg: Option<&str>,
    last_active_at: Millis,
) {
    let position = write.tell_next(Change::User { user_id: user_id.to_owned(), stream: UserStream::Presence });
    let mut row = args![user_id.as_str(), state.as_str(), status_msg, last_active_at];
    row.push(position);
    write.insert(&PRESENCE, row);
}

/// Reads presence.
pub struct Presence<'a>(pub(crate) &'a Store);

pub(crate) const COLUMNS: &str = "
    SELECT p.user_id, p.presence, p.status_msg, p.last_active_at, p.position
    FROM presence p";

impl Presence<'_> {
    /// Somebody's presence.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<PresenceRow>, Error> {
        let sql = format!("{COLUMNS} WHERE p.user_id = $1");
        self.0.query(sql, args![user_id.as_str()]).await?.first().map(presence).transpose()
    }

    /// Everybody who was not offline when it was last written.
    pub async fn not_offline(&self) -> Result<Vec<PresenceRow>, Error> {
        let sql = format!("{COLUMNS} WHERE p.presence <> 'offline'");
        self.0.query(sql, Vec::new()).await?.iter().map(presence).collect()
    }

    /// The presence, changed after `since`, of those who share a room with `reader`, and the reader's own.
    pub async fn of_those_sharing_rooms(&self, reader: &UserId, since: Position) -> Result<Vec<PresenceRow>, Error> {
        let sql = format!(
            "{COLUMNS}
             WHERE p.position > $2 AND (p.user_id = $1 OR p.user_id IN (
                SELECT b.user_id
                FROM memberships a
                JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join'
                WHERE a.user_id = $1 AND a.membership = 'join'))"
        );
        let args = vec![Arg::from(reader.as_str()), Arg::from(since)];
        self.0.query(sql, args).await?.iter().map(presence).collect()
    }
}

pub(crate) fn presence(row: &Row) -> Result<PresenceRow, Error> {
    Ok(PresenceRow {
        user_id: row.parse(0)?,
        state: row.text(1)?.into(),
        status_msg: row.opt_text(2)?,
        last_active_at: row.int(3)?,
        position: Position(row.int(4)?),
    })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn presence_is_what_was_set_last() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            for (state, message) in [(PresenceState::Online, Some("here")), (PresenceState::Offline, None)] {
                let mut write = Write::new();
                put(&mut write, alice, &state, message, 7);
                store.commit(write).await?;
                let row = store.presence().find(alice).await?.expect("it was set");
                assert_eq!((row.state.clone(), row.status_msg.as_deref()), (state.clone(), message));
                assert_eq!(store.presence().not_offline().await?.is_empty(), state == PresenceState::Offline);
            }
            assert_eq!(store.presence().of_those_sharing_rooms(alice, Position(0)).await?.len(), 1);
            Ok::<_, Error>(())
        })
        .await;
    }
}
