//! What connections of sliding sync have been told, and what of rooms their lists are filtered by.

use std::collections::HashMap;

use model::{Millis, Position, RoomNid};
use ruma::UserId;

use crate::{Arg, Error, Store, Table, Write, args, places};

static CONNECTIONS: Table = Table {
    insert: "INSERT INTO sliding_connections (user_id, device_id, conn_id, version, state, created_at)",
    columns: 6,
    conflict: "",
    key: 0,
};

/// So many rooms are asked for at once.
const AT_ONCE: usize = 64;

/// One of a device's connections.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Whose.
    pub user_id: &'a UserId,
    /// Of which device.
    pub device_id: &'a str,
    /// As the client calls it.
    pub conn_id: &'a str,
}

/// Writes down what a connection has been told; the position of this write is the version of it.
///
/// `base`: the version that the client named, which it may name again. Of others the latest two stay, of the device the ten connections
/// written last.
pub fn insert(write: &mut Write, connection: &Connection<'_>, base: Position, state: &str, now: Millis) {
    const REMOVE_OLD: &str = "
        DELETE FROM sliding_connections
        WHERE user_id = $1 AND device_id = $2 AND conn_id = $3 AND version <> $4 AND version NOT IN (
            SELECT version
            FROM sliding_connections
            WHERE user_id = $1 AND device_id = $2 AND conn_id = $3
            ORDER BY version DESC
            LIMIT 2
        )";
    const REMOVE_MANY: &str = "
        DELETE FROM sliding_connections
        WHERE user_id = $1 AND device_id = $2 AND conn_id NOT IN (
            SELECT conn_id
            FROM sliding_connections
            WHERE user_id = $1 AND device_id = $2
            GROUP BY conn_id
            ORDER BY MAX(version) DESC
            LIMIT 10
        )";
    let Connection { user_id, device_id, conn_id } = *connection;
    let version = write.position();
    let mut row = args![user_id.as_str(), device_id, conn_id];
    row.push(Arg::Position(version));
    row.extend(args![state, now]);
    write.insert(&CONNECTIONS, row);
    write.run(REMOVE_OLD, args![user_id.as_str(), device_id, conn_id, base]);
    write.run(REMOVE_MANY, args![user_id.as_str(), device_id]);
}

/// What of a room decides into which lists it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomKind {
    /// `m.space`; `None`: an ordinary room.
    pub room_type: Option<String>,
    /// Only its members' devices can read what is said.
    pub is_encrypted: bool,
}

/// Reads for sliding sync.
pub struct Sliding<'a>(pub(crate) &'a Store);

impl Store {
    /// Reads for sliding sync.
    pub fn sliding(&self) -> Sliding<'_> {
        Sliding(self)
    }
}

impl Sliding<'_> {
    /// What a connection had been told at `version`. `None`: that was never written, or is no longer kept.
    pub async fn find(&self, connection: &Connection<'_>, version: Position) -> Result<Option<String>, Error> {
        const FIND: &str = "
            SELECT state
            FROM sliding_connections
            WHERE user_id = $1 AND device_id = $2 AND conn_id = $3 AND version = $4";
        let Connection { user_id, device_id, conn_id } = *connection;
        let rows = self.0.query(FIND, args![user_id.as_str(), device_id, conn_id, version]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    /// How many versions of connections are kept for a device.
    pub async fn count(&self, user_id: &UserId, device_id: &str) -> Result<i64, Error> {
        const COUNT: &str = "
            SELECT CAST(COUNT(*) AS BIGINT)
            FROM sliding_connections
            WHERE user_id = $1 AND device_id = $2";
        let rows = self.0.query(COUNT, args![user_id.as_str(), device_id]).await?;
        rows.first().map(|row| row.int(0)).transpose().map(Option::unwrap_or_default)
    }

    /// Of what kind these rooms are.
    pub async fn kinds(&self, rooms: &[RoomNid]) -> Result<HashMap<RoomNid, RoomKind>, Error> {
        #[derive(serde::Deserialize)]
        struct Create {
            content: Content,
        }
        #[derive(serde::Deserialize)]
        struct Content {
            #[serde(rename = "type")]
            room_type: Option<String>,
        }
        let mut kinds: HashMap<RoomNid, RoomKind> = HashMap::new();
        for chunk in rooms.chunks(AT_ONCE) {
            // Statements of few sizes are prepared once.
            let size = chunk.len().next_power_of_two();
            let nids: Vec<Arg> = (0..size).map(|at| Arg::Int(chunk[at.min(chunk.len() - 1)].0)).collect();
            let sql = format!(
                "SELECT c.room_nid, c.type, e.json
                 FROM current_state c
                 JOIN events e ON e.nid = c.event_nid
                 WHERE c.room_nid IN ({}) AND c.state_key = '' AND c.type IN ('m.room.create', 'm.room.encryption')",
                places(1, size)
            );
            for row in self.0.query(sql, nids).await? {
                let kind = kinds.entry(RoomNid(row.int(0)?)).or_default();
                match row.text(1)?.as_str() {
                    "m.room.encryption" => kind.is_encrypted = true,
                    _ => {
                        let create = serde_json::from_str::<Create>(&row.text(2)?).ok();
                        kind.room_type = create.and_then(|create| create.content.room_type);
                    }
                }
            }
        }
        Ok(kinds)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn of_a_device_few_connections_are_kept_each_in_few_versions() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let put = async |conn_id: &str, base, state: &str| {
                let connection = Connection { user_id: alice, device_id: "PHONE", conn_id };
                let mut write = Write::new();
                insert(&mut write, &connection, base, state, 5);
                store.commit(write).await
            };
            let find = async |conn_id: &str, version| {
                let connection = Connection { user_id: alice, device_id: "PHONE", conn_id };
                store.sliding().find(&connection, version).await
            };
            let first = put("list", Position(0), "1").await?;
            let mut versions = Vec::new();
            for number in 2..=5 {
                versions.push(put("list", first, &number.to_string()).await?);
            }
            assert_eq!(find("list", first).await?.as_deref(), Some("1"), "the client may name it again");
            assert_eq!(find("list", versions[0]).await?, None);
            assert_eq!(find("list", versions[2]).await?.as_deref(), Some("4"));
            assert_eq!(find("list", versions[3]).await?.as_deref(), Some("5"));
            assert_eq!(find("other", first).await?, None);

            for number in 0..10 {
                put(&format!("new {number}"), Position(0), "n").await?;
            }
            assert_eq!(find("list", first).await?, None, "ten others were written later");
            assert_eq!(store.sliding().count(alice, "PHONE").await?, 10);
            Ok::<_, Error>(())
        })
        .await;
    }
}
