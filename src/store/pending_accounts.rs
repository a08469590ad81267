//! Accounts that were asked for and wait for an admin. They are no accounts yet: nobody sees them, and nobody can be written to there.

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args};

/// An account that was asked for.
#[derive(Clone)]
pub struct PendingAccountRow {
    /// Whose it is to be.
    pub user_id: OwnedUserId,
    /// argon2id.
    pub password_hash: String,
    /// What the user wants to be called.
    pub display_name: String,
    /// An address that was proved to be the user's.
    pub email: Option<String>,
    /// When it was asked for.
    pub requested_at: Millis,
    /// When an admin refused it; `None`: it waits.
    pub refused_at: Option<Millis>,
    /// Why.
    pub reason: Option<String>,
}

/// Hashes and addresses are nobody's to see.
impl std::fmt::Debug for PendingAccountRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingAccountRow")
            .field("user_id", &self.user_id)
            .field("refused_at", &self.refused_at)
            .finish_non_exhaustive()
    }
}

static PENDING: Table = Table {
    insert: "INSERT INTO pending_accounts (user_id, password_hash, display_name, email, requested_at)",
    columns: 5,
    conflict: "",
    key: 0,
};

/// Adds one that waits, and forgets those of the name that were refused, and all that were refused before `before`. The write fails with
/// [`Error::Duplicate`] where one of the name waits already.
pub fn insert(write: &mut Write, row: &PendingAccountRow, before: Millis) {
    const FORGET: &str =
        "DELETE FROM pending_accounts WHERE refused_at < $1 OR (user_id = $2 AND refused_at IS NOT NULL)";
    write.run(FORGET, args![before, row.user_id.as_str()]);
    let PendingAccountRow { user_id, password_hash, display_name, email, requested_at, .. } = row;
    write.insert(
        &PENDING,
        args![user_id.as_str(), password_hash.as_str(), display_name.as_str(), email.as_deref(), *requested_at],
    );
}

/// An admin refuses it.
pub fn refuse(write: &mut Write, user_id: &UserId, now: Millis, reason: &str) {
    const REFUSE: &str = "
        UPDATE pending_accounts
        SET refused_at = $2, reason = $3
        WHERE user_id = $1 AND refused_at IS NULL";
    write.run(REFUSE, args![user_id.as_str(), now, reason]);
}

/// It has become an account.
pub fn remove(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM pending_accounts WHERE user_id = $1", args![user_id.as_str()]);
}

/// Reads accounts that were asked for.
pub struct PendingAccounts<'a>(&'a Store);

impl Store {
    /// Reads accounts that were asked for.
    pub fn pending_accounts(&self) -> PendingAccounts<'_> {
        PendingAccounts(self)
    }
}

impl PendingAccounts<'_> {
    /// The one of this name, one that was refused too.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<PendingAccountRow>, Error> {
        const FIND: &str = "
            SELECT user_id, password_hash, display_name, email, requested_at, refused_at, reason
            FROM pending_accounts
            WHERE user_id = $1";
        self.0.query(FIND, args![user_id.as_str()]).await?.first().map(read).transpose()
    }

    /// Up to `limit` that wait, the oldest first, those after the one that was asked for at `after`'s time by that user.
    pub async fn waiting(&self, after: Option<(Millis, &UserId)>, limit: u32) -> Result<Vec<PendingAccountRow>, Error> {
        const LIST: &str = "
            SELECT user_id, password_hash, display_name, email, requested_at, refused_at, reason
            FROM pending_accounts
            WHERE refused_at IS NULL AND (requested_at > $1 OR (requested_at = $1 AND user_id > $2))
            ORDER BY requested_at, user_id
            LIMIT $3";
        let (at, user_id) = after.map_or((i64::MIN, ""), |(at, user_id)| (at, user_id.as_str()));
        self.0.query(LIST, args![at, user_id, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// How many wait.
    pub async fn count_waiting(&self) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM pending_accounts WHERE refused_at IS NULL";
        self.0.query(COUNT, Vec::new()).await?.first().map_or(Ok(0), |row| row.int(0))
    }
}

fn read(row: &Row) -> Result<PendingAccountRow, Error> {
    Ok(PendingAccountRow {
        user_id: row.parse(0)?,
        password_hash: row.text(1)?,
        display_name: row.text(2)?,
        email: row.opt_text(3)?,
        requested_at: row.int(4)?,
        refused_at: row.opt_int(5)?,
        reason: row.opt_text(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    fn asked(name: &str, at: Millis) -> PendingAccountRow {
        PendingAccountRow {
            user_id: UserId::parse(format!("@{name}:a.test")).expect("it is a user id"),
            password_hash: "$argon2id$…".into(),
            display_name: name.into(),
            email: None,
            requested_at: at,
            refused_at: None,
            reason: None,
        }
    }

    #[tokio::test]
    async fn a_name_waits_once_and_is_free_again_once_it_was_refused() {
        on_each_engine(async |store| {
            let (alice, bob) = (asked("alice", 1), asked("bob", 1));
            let mut write = Write::new();
            insert(&mut write, &bob, 0);
            insert(&mut write, &alice, 0);
            store.commit(write).await?;
            let mut write = Write::new();
            insert(&mut write, &asked("alice", 2), 0);
            assert!(matches!(store.commit(write).await, Err(Error::Duplicate)));
            let first = store.pending_accounts().waiting(None, 1).await?;
            assert_eq!(first[0].user_id, alice.user_id);
            let second = store.pending_accounts().waiting(Some((1, &alice.user_id)), 5).await?;
            assert_eq!((second.len(), &second[0].user_id), (1, &bob.user_id));

            let mut write = Write::new();
            refuse(&mut write, &alice.user_id, 3, "who?");
            store.commit(write).await?;
            let found = store.pending_accounts().find(&alice.user_id).await?.expect("it is still known");
            assert_eq!((found.refused_at, found.reason.as_deref()), (Some(3), Some("who?")));
            assert_eq!(store.pending_accounts().count_waiting().await?, 1);

            let mut write = Write::new();
            insert(&mut write, &asked("alice", 4), 0);
            store.commit(write).await?;
            assert_eq!(store.pending_accounts().count_waiting().await?, 2);
            Ok::<_, Error>(())
        })
        .await;
    }
}
