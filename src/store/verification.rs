//! E-mail addresses of accounts, and the codes by which somebody proves to have one.

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Store, Table, Write, args, pushers};

/// A code that was sent.
#[derive(Clone, Debug)]
pub struct CodeRow {
    /// When.
    pub sent_at: Millis,
    /// How often one was tried.
    pub attempts: i64,
}

static EMAILS: Table =
    Table { insert: "INSERT INTO emails (email, user_id, verified_at)", columns: 3, conflict: "", key: 0 };

static CODES: Table = Table {
    insert: "INSERT INTO verification_codes (email, purpose, code_hash, sent_at, expires_at, attempts)",
    columns: 6,
    conflict: "ON CONFLICT (email, purpose) DO UPDATE SET code_hash = excluded.code_hash, sent_at = excluded.sent_at, \
        expires_at = excluded.expires_at, attempts = excluded.attempts, claim = NULL",
    key: 2,
};

/// Gives an account an e-mail address. The write fails with [`Error::Duplicate`] where another has it.
pub fn insert_email(write: &mut Write, email: &str, user_id: &UserId, now: Millis) {
    write.insert(&EMAILS, args![email, user_id.as_str(), now]);
}

/// Takes an account's e-mail addresses away, and nobody is told anything there any more.
pub fn remove_emails(write: &mut Write, user_id: &UserId) {
    pushers::remove_mailboxes(write, user_id);
    write.run("DELETE FROM emails WHERE user_id = $1", args![user_id.as_str()]);
}

/// Keeps a code instead of the one before for the same, and forgets those that have expired.
pub fn put_code(write: &mut Write, email: &str, purpose: &str, hash: &str, now: Millis, expires_at: Millis) {
    write.run("DELETE FROM verification_codes WHERE expires_at < $1", args![now]);
    write.insert(&CODES, args![email, purpose, hash, now, expires_at, 0_i64]);
}

/// A code that is tried.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Whose.
    pub email: &'a str,
    /// What for.
    pub purpose: &'a str,
    /// The hash of what was said.
    pub hash: &'a str,
    /// This attempt's own name.
    pub claim: &'a str,
    /// How often one may try.
    pub most: i64,
    /// Now.
    pub now: Millis,
}

/// Counts an attempt, and uses the code up if it is the right one: see [`Verification::is_claimed`].
pub fn try_code(write: &mut Write, attempt: &Attempt<'_>) {
    const TRY: &str = "
        UPDATE verification_codes
        SET attempts = attempts + 1,
            claim = CASE
                WHEN claim IS NULL AND code_hash = $3 AND attempts < $4 AND expires_at > $5 THEN $6
                ELSE claim
            END
        WHERE email = $1 AND purpose = $2";
    let Attempt { email, purpose, hash, claim, most, now } = *attempt;
    write.run(TRY, args![email, purpose, hash, most, now, claim]);
}

/// Reads e-mail addresses and codes.
pub struct Verification<'a>(&'a Store);

impl Store {
    /// Reads e-mail addresses and codes.
    pub fn verification(&self) -> Verification<'_> {
        Verification(self)
    }
}

impl Verification<'_> {
    /// Whose address it is.
    pub async fn owner_of(&self, email: &str) -> Result<Option<OwnedUserId>, Error> {
        const FIND: &str = "SELECT user_id FROM emails WHERE email = $1";
        self.0.query(FIND, args![email]).await?.first().map(|row| row.parse(0)).transpose()
    }

    /// The address of an account; of several the one that was proved last.
    pub async fn email_of(&self, user_id: &UserId) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT email FROM emails WHERE user_id = $1 ORDER BY verified_at DESC, email LIMIT 1";
        self.0.query(FIND, args![user_id.as_str()]).await?.first().map(|row| row.text(0)).transpose()
    }

    /// The addresses of an account, each with when it was proved.
    pub async fn emails_of(&self, user_id: &UserId) -> Result<Vec<(String, Millis)>, Error> {
        const FIND: &str = "SELECT email, verified_at FROM emails WHERE user_id = $1 ORDER BY verified_at, email";
        let rows = self.0.query(FIND, args![user_id.as_str()]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
    }

    /// The code that was sent last.
    pub async fn code(&self, email: &str, purpose: &str) -> Result<Option<CodeRow>, Error> {
        const FIND: &str = "SELECT sent_at, attempts FROM verification_codes WHERE email = $1 AND purpose = $2";
        let rows = self.0.query(FIND, args![email, purpose]).await?;
        rows.first().map(|row| Ok(CodeRow { sent_at: row.int(0)?, attempts: row.int(1)? })).transpose()
    }

    /// Whether the attempt `claim` has used the code.
    pub async fn is_claimed(&self, email: &str, purpose: &str, claim: &str) -> Result<bool, Error> {
        const FIND: &str = "SELECT sent_at FROM verification_codes WHERE email = $1 AND purpose = $2 AND claim = $3";
        Ok(!self.0.query(FIND, args![email, purpose, claim]).await?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    async fn tried(store: &Store, hash: &str, claim: &str, now: Millis) -> Result<bool, Error> {
        let mut write = Write::new();
        try_code(&mut write, &Attempt { email: "a@b.c", purpose: "reset", hash, claim, most: 3, now });
        store.commit(write).await?;
        store.verification().is_claimed("a@b.c", "reset", claim).await
    }

    #[tokio::test]
    async fn a_code_is_good_once_for_a_while_and_after_few_guesses() {
        on_each_engine(async |store| {
            let put = async |now| {
                let mut write = Write::new();
                put_code(&mut write, "a@b.c", "reset", "right", now, now + 10);
                store.commit(write).await
            };
            put(0).await?;
            assert!(!tried(&store, "wrong", "1", 5).await?);
            assert!(tried(&store, "right", "2", 5).await?);
            assert!(!tried(&store, "right", "3", 5).await?);
            put(10).await?;
            for claim in ["4", "5", "6"] {
                assert!(!tried(&store, "wrong", claim, 12).await?);
            }
            assert!(!tried(&store, "right", "7", 12).await?, "it was guessed too often");
            assert_eq!(store.verification().code("a@b.c", "reset").await?.expect("it is there").attempts, 4);
            put(20).await?;
            assert!(!tried(&store, "right", "8", 30).await?, "it has expired");
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn an_address_is_one_accounts() {
        on_each_engine(async |store| {
            let give = async |user_id: &UserId| {
                let mut write = Write::new();
                insert_email(&mut write, "a@b.c", user_id, 1);
                store.commit(write).await
            };
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            give(alice).await?;
            assert!(matches!(give(bob).await, Err(Error::Duplicate)));
            assert_eq!(store.verification().owner_of("a@b.c").await?.as_deref(), Some(alice));
            let mut write = Write::new();
            remove_emails(&mut write, alice);
            store.commit(write).await?;
            assert_eq!(store.verification().owner_of("a@b.c").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
