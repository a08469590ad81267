//! What users keep here about themselves and their rooms: settings, tags, push rules, whom they ignore.

use model::{Change, Position, UserStream};
use ruma::{RoomId, UserId};

use crate::{Error, Row, Store, Table, Write, args, engine::Connection, write::Unchanged};

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

/// A change is tried so often when others change the same thing.
const ATTEMPTS: u32 = 20;

/// Whether what somebody keeps is still what it was.
pub(crate) async fn is_unchanged(connection: &mut Connection, unchanged: &Unchanged) -> Result<bool, Error> {
    const SET_AT: &str = "SELECT position FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3";
    let Unchanged { user_id, room_id, kind, seen } = unchanged;
    let rows = connection.fetch_all(SET_AT, args![user_id.as_str(), room_id.as_str(), kind.as_str()]).await?;
    let now = rows.first().map_or(Ok(0), |row| row.int(0))?;
    Ok(now == seen.0)
}

impl Store {
    /// Changes what `user_id` keeps under `kind`, for a room or, with `None`, for all. `edit` makes the new content of the one that is
    /// there; it answers `None` where nothing changes.
    ///
    /// No change gets lost, at whichever node others are made at the same time: who comes too late looks again. But who sets the whole,
    /// as clients do, sets the whole.
    pub async fn edit_account_data<E: From<Error>>(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        mut edit: impl FnMut(Option<&str>) -> Result<Option<String>, E>,
    ) -> Result<(), E> {
        for _ in 0..ATTEMPTS {
            let found = self.account_data().find_datum(user_id, room_id, kind).await?;
            let Some(content) = edit(found.as_ref().map(|datum| datum.content.as_str()))? else { return Ok(()) };
            let mut write = Write::new();
            write.unless_changed(Unchanged {
                user_id: user_id.to_string(),
                room_id: room_id.map_or("", RoomId::as_str).to_owned(),
                kind: kind.to_owned(),
                seen: found.map_or(Position(0), |datum| datum.position),
            });
            put(&mut write, user_id, room_id, kind, &content);
            match self.commit(write).await {
                Err(Error::Conflict) => {}
                answer => return Ok(answer.map(drop)?),
            }
        }
        Err(Error::Conflict.into())
    }
}

/// Reads account data.
pub struct AccountData<'a>(pub(crate) &'a Store);

impl AccountData<'_> {
    /// What `user_id` keeps under `kind`.
    pub async fn find(&self, user_id: &UserId, room_id: Option<&RoomId>, kind: &str) -> Result<Option<String>, Error> {
        Ok(self.find_datum(user_id, room_id, kind).await?.map(|datum| datum.content))
    }

    async fn find_datum(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<Option<AccountDatum>, Error> {
        const FIND: &str = "
            SELECT room_id, type, content, position
            FROM account_data
            WHERE user_id = $1 AND room_id = $2 AND type = $3";
        let rows = self.0.query(FIND, args![user_id.as_str(), room_id.map_or("", RoomId::as_str), kind]).await?;
        rows.first().map(datum).transpose()
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

    #[tokio::test]
    async fn no_edit_of_many_at_once_gets_lost() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let edits = (0..30).map(|number| {
                let store = store.clone();
                async move {
                    let add = |content: Option<&str>| {
                        let mut list: Vec<i32> =
                            content.and_then(|content| serde_json::from_str(content).ok()).unwrap_or_default();
                        list.push(number);
                        Ok::<_, Error>(Some(serde_json::to_string(&list).expect("numbers are JSON")))
                    };
                    // With so many at once, some are asked to come again.
                    while let Err(error) = store.edit_account_data(alice, None, "org.test.list", add).await {
                        assert!(matches!(error, Error::Conflict), "{error}");
                    }
                }
            });
            futures_util::future::join_all(edits).await;
            let list = store.account_data().find(alice, None, "org.test.list").await?.expect("it was set");
            let mut list: Vec<i32> = serde_json::from_str(&list).expect("a list");
            list.sort_unstable();
            assert_eq!(list, (0..30).collect::<Vec<_>>());

            let before = store.visible_position().await?;
            store.edit_account_data(alice, None, "org.test.list", |_| Ok::<_, Error>(None)).await?;
            assert_eq!(store.visible_position().await?, before, "nothing is told where nothing changes");
            Ok::<_, Error>(())
        })
        .await;
    }
}
