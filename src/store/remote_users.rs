//! What users of other domains last said of themselves.

use model::Millis;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{Error, Store, Table, Write, args};

static REMOTE_USERS: Table = Table {
    insert: "
        INSERT INTO remote_users
            (user_id, server, display_name, avatar_url, fields, fetched_at, expires_at, unanswered_since)",
    columns: 8,
    conflict: "
        ON CONFLICT (user_id) DO UPDATE SET
            display_name = excluded.display_name,
            avatar_url = excluded.avatar_url,
            fields = excluded.fields,
            fetched_at = excluded.fetched_at,
            expires_at = excluded.expires_at,
            unanswered_since = excluded.unanswered_since",
    key: 1,
};

/// What a user of another domain said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUserRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The name.
    pub display_name: Option<String>,
    /// The picture, an `mxc://` URI.
    pub avatar_url: Option<String>,
    /// JSON, an object: the other fields of the profile.
    pub fields: String,
    /// When the user's server said so.
    pub fetched_at: Millis,
    /// Until when that is taken to be so.
    pub expires_at: Millis,
    /// Since when the server was asked again in vain.
    pub unanswered_since: Option<Millis>,
}

// === Writing ===

/// A user's server has answered.
pub fn put(write: &mut Write, row: &RemoteUserRow) {
    let mut values = args![row.user_id.as_str(), row.user_id.server_name().as_str()];
    values.extend(args![row.display_name.as_deref(), row.avatar_url.as_deref(), row.fields.as_str()]);
    values.extend(args![row.fetched_at, row.expires_at, row.unanswered_since]);
    write.insert(&REMOTE_USERS, values);
}

/// A user's server was asked in vain for what was known already, from `since` on.
pub fn put_unanswered(write: &mut Write, user_id: &UserId, since: Millis) {
    const PUT: &str = "
        UPDATE remote_users
        SET unanswered_since = COALESCE(unanswered_since, $1)
        WHERE user_id = $2";
    write.run(PUT, args![since, user_id.as_str()]);
}

/// A user whose profile is known has another name and another picture now.
pub fn rename(write: &mut Write, user_id: &UserId, display_name: Option<&str>, avatar_url: Option<&str>) {
    const RENAME: &str = "
        UPDATE remote_users
        SET display_name = $1, avatar_url = $2
        WHERE user_id = $3";
    write.run(RENAME, args![display_name, avatar_url, user_id.as_str()]);
}

/// There is no such user, or it isn't for us to know.
pub fn remove(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM remote_users WHERE user_id = $1", args![user_id.as_str()]);
}

/// Nothing is known of the users of `server` any longer.
pub fn purge(write: &mut Write, server: &ServerName) {
    write.run("DELETE FROM remote_users WHERE server = $1", args![server.as_str()]);
}

/// What was said before `until` is of no use to anybody; of the rest the newest `most` rows stay, and none that is as old as
/// the first that goes.
pub fn sweep(write: &mut Write, until: Millis, most: u32) {
    const SWEEP: &str = "
        DELETE FROM remote_users
        WHERE fetched_at < $1
            OR fetched_at <= (SELECT fetched_at FROM remote_users ORDER BY fetched_at DESC LIMIT 1 OFFSET $2)";
    write.run(SWEEP, args![until, i64::from(most)]);
}

// === Reading ===

/// Reads what users of other domains said.
pub struct RemoteUsers<'a>(&'a Store);

impl Store {
    /// Reads what users of other domains said.
    pub fn remote_users(&self) -> RemoteUsers<'_> {
        RemoteUsers(self)
    }
}

impl RemoteUsers<'_> {
    /// What one user said.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<RemoteUserRow>, Error> {
        const FIND: &str = "
            SELECT display_name, avatar_url, fields, fetched_at, expires_at, unanswered_since
            FROM remote_users
            WHERE user_id = $1";
        let rows = self.0.query(FIND, args![user_id.as_str()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(RemoteUserRow {
            user_id: user_id.to_owned(),
            display_name: row.opt_text(0)?,
            avatar_url: row.opt_text(1)?,
            fields: row.text(2)?,
            fetched_at: row.int(3)?,
            expires_at: row.int(4)?,
            unanswered_since: row.opt_int(5)?,
        }))
    }

    /// Of which servers there are users.
    pub async fn servers(&self) -> Result<Vec<OwnedServerName>, Error> {
        let rows = self.0.query("SELECT DISTINCT server FROM remote_users", Vec::new()).await?;
        rows.iter().map(|row| row.parse(0)).collect()
    }

    /// Of how many users something is known.
    pub async fn count(&self) -> Result<i64, Error> {
        let rows = self.0.query("SELECT COUNT(*) FROM remote_users", Vec::new()).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    fn row(user_id: &UserId, fetched_at: Millis) -> RemoteUserRow {
        RemoteUserRow {
            user_id: user_id.to_owned(),
            display_name: Some("Bob".into()),
            avatar_url: None,
            fields: r#"{"m.tz":"Europe/Paris"}"#.into(),
            fetched_at,
            expires_at: fetched_at + 10,
            unanswered_since: None,
        }
    }

    #[tokio::test]
    async fn what_was_said_last_is_kept_until_it_is_removed() {
        on_each_engine(async |store| {
            let (bob, carol) = (user_id!("@bob:b.test"), user_id!("@carol:b.test"));
            let dave = user_id!("@dave:b.test.c.test");
            let mut write = Write::new();
            for user_id in [bob, carol, dave] {
                put(&mut write, &row(user_id, 1));
            }
            put(&mut write, &row(bob, 2));
            store.commit(write).await?;
            assert_eq!(store.remote_users().find(bob).await?, Some(row(bob, 2)));

            let mut write = Write::new();
            put_unanswered(&mut write, bob, 5);
            put_unanswered(&mut write, bob, 7);
            rename(&mut write, bob, None, Some("mxc://b.test/face"));
            remove(&mut write, carol);
            store.commit(write).await?;
            let changed = RemoteUserRow {
                display_name: None,
                avatar_url: Some("mxc://b.test/face".into()),
                unanswered_since: Some(5),
                ..row(bob, 2)
            };
            assert_eq!(store.remote_users().find(bob).await?, Some(changed));
            assert_eq!(store.remote_users().find(carol).await?, None);

            let mut write = Write::new();
            put(&mut write, &row(bob, 8));
            store.commit(write).await?;
            assert_eq!(store.remote_users().find(bob).await?, Some(row(bob, 8)), "it has answered");
            let servers = store.remote_users().servers().await?;
            assert!(servers.len() == 2 && servers.iter().any(|server| server == "b.test"), "{servers:?}");
            let mut write = Write::new();
            purge(&mut write, server_name!("b.test"));
            store.commit(write).await?;
            assert_eq!(store.remote_users().find(bob).await?, None);
            assert_eq!(store.remote_users().count().await?, 1, "another server's stay");
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn the_oldest_go_when_there_are_too_many() {
        on_each_engine(async |store| {
            let user = |at: i64| UserId::parse(format!("@u{at}:b.test")).expect("it is a user id");
            let mut write = Write::new();
            for at in 0..10 {
                put(&mut write, &row(&user(at), at));
            }
            sweep(&mut write, 0, 10);
            store.commit(write).await?;
            assert_eq!(store.remote_users().count().await?, 10);
            let mut write = Write::new();
            sweep(&mut write, 2, 5);
            store.commit(write).await?;
            assert_eq!(store.remote_users().count().await?, 5);
            assert!(store.remote_users().find(&user(4)).await?.is_none());
            assert!(store.remote_users().find(&user(5)).await?.is_some());
            let mut write = Write::new();
            sweep(&mut write, 8, 5);
            store.commit(write).await?;
            assert_eq!(store.remote_users().count().await?, 2);
            Ok::<_, Error>(())
        })
        .await;
    }
}
