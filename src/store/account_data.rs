//! What users keep here about themselves and their rooms: settings, tags, push rules, whom they ignore.

use model::{Change, Position, UserStream};
use ruma::{RoomId, UserId};

use crate::{Error, Row, Store, Table, Write, args};

static ACCOUNT_DATA: Table = Table {
    insert: "INSERT INTO account_data (user_id, room_id, type, content, position)",
    columns: 5,
    conflict: "ON CONFLICT (user_id, room_id, type) DO UPDATE
        SET content = excluded.content, position = excluded.position",
    key: 3,
};

/// One thing that a user keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDatum {
    /// Of which room, as text; empty: global.
    pub room_id: String,
    /// `m.direct` …
    pub kind: String,
    /// A JSON object.
    pub content: String,
    /// When it was set.
    pub position: Position,
}

/// Sets what `user_id` keeps under `kind`, for a room or, with `None`, for all; and tells it.
pub fn put(write: &mut Write, user_id: &UserId, room_id: Option<&RoomId>, kind: &str, content: &str) {
    let change = Change::User { user_id: user_id.to_owned(), stream: UserStream::AccountData };
    let position = write.tell_next(change);
    let mut row = args![user_id.as_str(), room_id.map_or("", RoomId::as_str), kind, content];
    row.push(position);
    write.insert(&ACCOUNT_DATA, row);
}

/// Reads account data.
pub struct AccountData<'a>(pub(crate) &'a Store);

impl AccountData<'_> {
    /// What `user_id` keeps under `kind`.
    pub async fn find(&self, user_id: &UserId, room_id: Option<&RoomId>, kind: &str) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT content FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3";
        let room_id = room_id.map_or("", RoomId::as_str);
        let rows = self.0.query(FIND, args![user_id.as_str(), room_id, kind]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    /// What `user_id` set after `since`, global and of rooms, in the order in which it was set.
    pub async fn since(&self, user_id: &UserId, since: Position) -> Result<Vec<AccountDatum>, Error> {
        const SINCE: &str = "
            SELECT room_id, type, content, position
            FROM account_data
            WHERE user_id = $1 AND position > $2
            ORDER BY position";
        self.0.query(SINCE, args![user_id.as_str(), since]).await?.iter().map(datum).collect()
    }
}

fn datum(row: &Row) -> Result<AccountDatum, Error> {
    Ok(AccountDatum {
        room_id: row.text(0)?,
        kind: row.text(1)?,
        content: row.text(2)?,
        position: Position(row.int(3)?),
    })
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn what_is_set_later_replaces_what_was_there_and_comes_later() {
        on_each_engine(async |store| {
            let (alice, room) = (user_id!("@alice:a.test"), room_id!("!r:a.test"));
            let set = async |room, kind: &str, content: &str| {
                let mut write = Write::new();
                put(&mut write, alice, room, kind, content);
                store.commit(write).await
            };
            let first = set(None, "m.direct", "{}").await?;
            set(Some(room), "m.tag", "{}").await?;
            set(None, "m.direct", r#"{"@bob:a.test":[]}"#).await?;

            let found = store.account_data().find(alice, None, "m.direct").await?;
            assert_eq!(found.as_deref(), Some(r#"{"@bob:a.test":[]}"#));
            let kinds: Vec<String> =
                store.account_data().since(alice, first).await?.into_iter().map(|datum| datum.kind).collect();
            assert_eq!(kinds, ["m.tag", "m.direct"]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
