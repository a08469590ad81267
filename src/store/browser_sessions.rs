//! Who has signed in on this server's own pages.

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Store, Table, Write, args};

static SESSIONS: Table = Table {
    insert: "INSERT INTO browser_sessions (hash, user_id, created_at, expires_at)",
    columns: 4,
    conflict: "",
    key: 0,
};

/// Adds a browser, and forgets those whose time is over, and of the user's all but the newest `most`.
pub fn insert_browser(write: &mut Write, hash: &str, user_id: &UserId, now: Millis, expires_at: Millis, most: i64) {
    const CROWD: &str = "
        DELETE FROM browser_sessions
        WHERE user_id = $1
            AND hash NOT IN (
                SELECT hash
                FROM browser_sessions
                WHERE user_id = $1
                ORDER BY created_at DESC, hash
                LIMIT $2)";
    write.run("DELETE FROM browser_sessions WHERE expires_at < $1", args![now]);
    write.run(CROWD, args![user_id.as_str(), most - 1]);
    write.insert(&SESSIONS, args![hash, user_id.as_str(), now, expires_at]);
}

/// Removes a browser: it has signed out.
pub fn remove_browser(write: &mut Write, hash: &str) {
    write.run("DELETE FROM browser_sessions WHERE hash = $1", args![hash]);
}

/// Removes all browsers of a user.
pub fn remove_browsers_of(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM browser_sessions WHERE user_id = $1", args![user_id.as_str()]);
}

/// Reads browsers.
pub struct BrowserSessions<'a>(&'a Store);

impl Store {
    /// Reads who has signed in on this server's own pages.
    pub fn browser_sessions(&self) -> BrowserSessions<'_> {
        BrowserSessions(self)
    }
}

impl BrowserSessions<'_> {
    /// Who is at the browser whose cookie has this hash: nobody whose account is closed or locked.
    pub async fn find(&self, hash: &str, now: Millis) -> Result<Option<OwnedUserId>, Error> {
        const FIND: &str = "
            SELECT b.user_id
            FROM browser_sessions b
            JOIN accounts a ON a.user_id = b.user_id
            WHERE b.hash = $1 AND b.expires_at > $2 AND a.deactivated_at IS NULL AND a.locked_at IS NULL";
        self.0.query(FIND, args![hash, now]).await?.first().map(|row| row.parse(0)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{
        accounts::{AccountRow, insert_account, set_password_hash},
        testing::on_each_engine,
    };

    #[tokio::test]
    async fn a_browser_is_known_for_a_while_until_the_password_changes_and_among_so_many() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let mut write = Write::new();
            let account = AccountRow {
                user_id: alice.to_owned(),
                password_hash: None,
                created_at: 1,
                admin_since: None,
                deactivated_at: None,
            };
            insert_account(&mut write, &account);
            store.commit(write).await?;
            for (hash, now) in [("a", 1), ("b", 2), ("c", 3)] {
                let mut write = Write::new();
                insert_browser(&mut write, hash, alice, now, now + 10, 2);
                store.commit(write).await?;
            }
            let sessions = store.browser_sessions();
            assert_eq!(sessions.find("a", 4).await?, None);
            assert_eq!(sessions.find("b", 4).await?.as_deref(), Some(alice));
            assert_eq!(sessions.find("b", 12).await?, None);
            let mut write = Write::new();
            set_password_hash(&mut write, alice, Some("new"));
            store.commit(write).await?;
            assert_eq!(sessions.find("c", 4).await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
