//! Accounts of this server, and the secrets that its nodes share.

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args, directory, second_factors, sip_phones, verification};

/// An account as it is stored.
#[derive(Clone)]
pub struct AccountRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// argon2id or bcrypt; `None`: no password opens the account.
    pub password_hash: Option<String>,
    /// Since when it exists.
    pub created_at: Millis,
    /// Since when the user administrates this server.
    pub admin_since: Option<Millis>,
    /// When it was closed.
    pub deactivated_at: Option<Millis>,
}

/// Hashes are nobody's to see.
impl std::fmt::Debug for AccountRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountRow")
            .field("user_id", &self.user_id)
            .field("admin_since", &self.admin_since)
            .field("deactivated_at", &self.deactivated_at)
            .finish_non_exhaustive()
    }
}

static ACCOUNTS: Table = Table {
    insert: "INSERT INTO accounts (user_id, password_hash, created_at, admin_since)",
    columns: 4,
    conflict: "",
    key: 0,
};

/// Adds an account. The write fails with [`Error::Duplicate`] where the user id was ever taken.
pub fn insert_account(write: &mut Write, account: &AccountRow) {
    write.insert(
        &ACCOUNTS,
        args![account.user_id.as_str(), account.password_hash.as_deref(), account.created_at, account.admin_since],
    );
    directory::touch(write, &account.user_id);
}

/// Sets the password.
pub fn set_password_hash(write: &mut Write, user_id: &UserId, hash: Option<&str>) {
    write.run("UPDATE accounts SET password_hash = $2 WHERE user_id = $1", args![user_id.as_str(), hash]);
    // Whoever has signed in on this server's pages by the password of before does so again.
    write.run("DELETE FROM browser_sessions WHERE user_id = $1", args![user_id.as_str()]);
}

/// Sets the password to another hash of the same one, unless it was changed meanwhile.
pub fn replace_password_hash(write: &mut Write, user_id: &UserId, old: &str, new: &str) {
    const REPLACE: &str = "UPDATE accounts SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2";
    write.run(REPLACE, args![user_id.as_str(), old, new]);
}

/// Makes the user an administrator, or an ordinary user again.
pub fn set_admin(write: &mut Write, user_id: &UserId, since: Option<Millis>) {
    write.run("UPDATE accounts SET admin_since = $2 WHERE user_id = $1", args![user_id.as_str(), since]);
}

/// Closes an account. Its user id stays taken.
pub fn deactivate_account(write: &mut Write, user_id: &UserId, now: Millis, erased_at: Option<Millis>) {
    const DEACTIVATE: &str = "
        UPDATE accounts
        SET deactivated_at = COALESCE(deactivated_at, $2), erased_at = COALESCE(erased_at, $3), password_hash = NULL,
            admin_since = NULL
        WHERE user_id = $1";
    write.run(DEACTIVATE, args![user_id.as_str(), now, erased_at]);
    directory::remove_facts(write, user_id);
    sip_phones::remove_all(write, user_id);
    verification::remove_emails(write, user_id);
    second_factors::remove(write, user_id);
    // Who wants to be forgotten is not told of as somebody who has left.
    match erased_at {
        Some(_) => directory::hide(write, user_id),
        None => directory::touch(write, user_id),
    }
}

/// Offers a secret; the first one offered under a name stays.
pub fn offer_secret(write: &mut Write, name: &str, value: &str) {
    const OFFER: &str = "INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
    write.run(OFFER, args![name, value]);
}

/// Reads accounts.
pub struct Accounts<'a>(&'a Store);

impl Store {
    /// Reads accounts.
    pub fn accounts(&self) -> Accounts<'_> {
        Accounts(self)
    }
}

impl Accounts<'_> {
    /// The account of `user_id`, a deactivated one too.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<AccountRow>, Error> {
        const FIND: &str = "
            SELECT user_id, password_hash, created_at, admin_since, deactivated_at
            FROM accounts
            WHERE user_id = $1";
        self.0.query(FIND, args![user_id.as_str()]).await?.first().map(account).transpose()
    }

    /// Up to `limit` accounts by user id, those after `after`.
    pub async fn list(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<AccountRow>, Error> {
        const LIST: &str = "
            SELECT user_id, password_hash, created_at, admin_since, deactivated_at
            FROM accounts
            WHERE user_id > $1
            ORDER BY user_id
            LIMIT $2";
        let after = after.map_or("", UserId::as_str);
        self.0.query(LIST, args![after, i64::from(limit)]).await?.iter().map(account).collect()
    }

    /// The secret called `name`.
    pub async fn secret(&self, name: &str) -> Result<Option<String>, Error> {
        let rows = self.0.query("SELECT value FROM secrets WHERE name = $1", args![name]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }
}

fn account(row: &Row) -> Result<AccountRow, Error> {
    Ok(AccountRow {
        user_id: row.parse(0)?,
        password_hash: row.opt_text(1)?,
        created_at: row.int(2)?,
        admin_since: row.opt_int(3)?,
        deactivated_at: row.opt_int(4)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    fn alice() -> AccountRow {
        AccountRow {
            user_id: user_id!("@alice:a.test").to_owned(),
            password_hash: Some("$argon2id$…".into()),
            created_at: 1,
            admin_since: None,
            deactivated_at: None,
        }
    }

    #[tokio::test]
    async fn a_user_id_is_taken_once_and_stays_taken() {
        on_each_engine(async |store| {
            let mut write = Write::new();
            insert_account(&mut write, &alice());
            store.commit(write).await?;

            let mut write = Write::new();
            deactivate_account(&mut write, &alice().user_id, 2, None);
            store.commit(write).await?;

            let mut write = Write::new();
            insert_account(&mut write, &alice());
            assert!(matches!(store.commit(write).await, Err(Error::Duplicate)));
            let found = store.accounts().find(&alice().user_id).await?.expect("alice is there");
            assert_eq!((found.deactivated_at, found.password_hash), (Some(2), None));
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn accounts_are_listed_page_by_page() {
        on_each_engine(async |store| {
            let mut write = Write::new();
            for name in ["@c:a.test", "@a:a.test", "@b:a.test"] {
                let user_id = UserId::parse(name).expect("it is a user id");
                insert_account(&mut write, &AccountRow { user_id, ..alice() });
            }
            store.commit(write).await?;
            let names = |rows: &[AccountRow]| rows.iter().map(|row| row.user_id.to_string()).collect::<Vec<_>>();
            let first = store.accounts().list(None, 2).await?;
            assert_eq!(names(&first), ["@a:a.test", "@b:a.test"]);
            let second = store.accounts().list(Some(&first[1].user_id), 2).await?;
            assert_eq!(names(&second), ["@c:a.test"]);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn the_first_secret_of_a_name_stays() {
        on_each_engine(async |store| {
            for value in ["one", "two"] {
                let mut write = Write::new();
                offer_secret(&mut write, "uia", value);
                store.commit(write).await?;
            }
            assert_eq!(store.accounts().secret("uia").await?.as_deref(), Some("one"));
            Ok::<_, Error>(())
        })
        .await;
    }
}
