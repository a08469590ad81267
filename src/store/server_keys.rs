//! The keys that other servers sign with.

use model::Millis;
use ruma::{OwnedServerName, ServerName};

use crate::{Arg, Error, Store, Table, Write, args, places};

/// How many servers one query asks for.
const AT_ONCE: usize = 500;

static SERVER_KEYS: Table = Table {
    insert: "INSERT INTO server_keys (server, key_id, public_key, valid_until, expired_at, fetched_at)",
    columns: 6,
    conflict: "
        ON CONFLICT (server, key_id) DO UPDATE SET
            public_key = excluded.public_key,
            valid_until = excluded.valid_until,
            expired_at = excluded.expired_at,
            fetched_at = excluded.fetched_at",
    key: 2,
};

static ANSWERS: Table = Table {
    insert: "INSERT INTO server_key_answers (server, json, valid_until, fetched_at)",
    columns: 4,
    conflict: "
        ON CONFLICT (server) DO UPDATE SET
            json = excluded.json,
            valid_until = excluded.valid_until,
            fetched_at = excluded.fetched_at",
    key: 1,
};

/// A key of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKeyRow {
    /// Whose.
    pub server: OwnedServerName,
    /// `ed25519:version`.
    pub key_id: String,
    /// Base64.
    pub public_key: String,
    /// Until when it counts, if it is in use.
    pub valid_until: Millis,
    /// When its server stopped using it.
    pub expired_at: Option<Millis>,
    /// When it was last heard of.
    pub fetched_at: Millis,
}

/// What a server said of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAnswerRow {
    /// Who.
    pub server: OwnedServerName,
    /// With its signatures.
    pub json: String,
    /// `valid_until_ts` in it.
    pub valid_until: Millis,
    /// When.
    pub fetched_at: Millis,
}

/// Sets a key.
pub fn put(write: &mut Write, row: &ServerKeyRow) {
    let ServerKeyRow { server, key_id, public_key, valid_until, expired_at, fetched_at } = row;
    let row = args![server.as_str(), key_id.as_str(), public_key.as_str(), *valid_until, *expired_at, *fetched_at];
    write.insert(&SERVER_KEYS, row);
}

/// Sets what a server said last.
pub fn put_answer(write: &mut Write, row: &KeyAnswerRow) {
    write.insert(&ANSWERS, args![row.server.as_str(), row.json.as_str(), row.valid_until, row.fetched_at]);
}

/// Reads the keys of servers.
pub struct ServerKeys<'a>(&'a Store);

impl Store {
    /// Reads the keys of servers.
    pub fn server_keys(&self) -> ServerKeys<'_> {
        ServerKeys(self)
    }
}

impl ServerKeys<'_> {
    /// All keys of these servers.
    pub async fn of_servers(&self, servers: &[&ServerName]) -> Result<Vec<ServerKeyRow>, Error> {
        let mut found = Vec::new();
        for chunk in servers.chunks(AT_ONCE) {
            let sql = format!(
                "
                SELECT server, key_id, public_key, valid_until, expired_at, fetched_at
                FROM server_keys
                WHERE server IN ({})",
                places(1, chunk.len())
            );
            for row in self.0.query(sql, chunk.iter().map(|server| Arg::from(server.as_str())).collect()).await? {
                found.push(ServerKeyRow {
                    server: row.parse(0)?,
                    key_id: row.text(1)?,
                    public_key: row.text(2)?,
                    valid_until: row.int(3)?,
                    expired_at: row.opt_int(4)?,
                    fetched_at: row.int(5)?,
                });
            }
        }
        Ok(found)
    }

    /// What a server said last of its keys.
    pub async fn answer(&self, server: &ServerName) -> Result<Option<KeyAnswerRow>, Error> {
        const FIND: &str = "SELECT json, valid_until, fetched_at FROM server_key_answers WHERE server = $1";
        let rows = self.0.query(FIND, args![server.as_str()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (json, valid_until, fetched_at) = (row.text(0)?, row.int(1)?, row.int(2)?);
        Ok(Some(KeyAnswerRow { server: server.to_owned(), json, valid_until, fetched_at }))
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_key_and_an_answer_are_replaced_by_what_is_heard_later() {
        on_each_engine(async |store| {
            let server = server_name!("b.test:8448");
            let key = |key_id: &str, expired_at| ServerKeyRow {
                server: server.to_owned(),
                key_id: key_id.into(),
                public_key: "AAAA".into(),
                valid_until: 10,
                expired_at,
                fetched_at: 1,
            };
            let answer = |json: &str, fetched_at| KeyAnswerRow {
                server: server.to_owned(),
                json: json.into(),
                valid_until: 10,
                fetched_at,
            };
            let mut write = Write::new();
            put(&mut write, &key("ed25519:1", None));
            put(&mut write, &key("ed25519:2", None));
            put_answer(&mut write, &answer("{}", 1));
            store.commit(write).await?;
            let mut write = Write::new();
            put(&mut write, &key("ed25519:1", Some(5)));
            put_answer(&mut write, &answer(r#"{"a":1}"#, 2));
            store.commit(write).await?;

            let mut keys = store.server_keys().of_servers(&[server, server_name!("c.test")]).await?;
            keys.sort_by(|left, right| left.key_id.cmp(&right.key_id));
            assert_eq!(keys, [key("ed25519:1", Some(5)), key("ed25519:2", None)]);
            assert_eq!(store.server_keys().answer(server).await?, Some(answer(r#"{"a":1}"#, 2)));
            assert_eq!(store.server_keys().answer(server_name!("c.test")).await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
