//! Second factors: what codes are computed from, and what helps who has lost that.

use model::Millis;
use ruma::UserId;

use crate::{Error, Store, Table, Write, args};

/// What the codes of an account are computed from.
#[derive(Clone)]
pub struct SecondFactorRow {
    /// Sealed.
    pub secret: String,
    /// When it was offered.
    pub created_at: Millis,
    /// Since when logging in needs it; `None`: not yet.
    pub confirmed_at: Option<Millis>,
}

static FACTORS: Table = Table {
    insert: "INSERT INTO second_factors (user_id, secret, created_at, last_step)",
    columns: 4,
    // One that is in force isn't replaced by who only begins to enrol.
    conflict: "ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, created_at = excluded.created_at, \
        last_step = excluded.last_step WHERE second_factors.confirmed_at IS NULL",
    key: 1,
};

static RECOVERY_CODES: Table =
    Table { insert: "INSERT INTO recovery_codes (hash, user_id)", columns: 2, conflict: "", key: 0 };

/// Offers a second factor, to be confirmed; instead of one that wasn't.
pub fn offer(write: &mut Write, user_id: &UserId, secret: &str, now: Millis) {
    write.insert(&FACTORS, args![user_id.as_str(), secret, now, 0_i64]);
}

/// Uses the code of `step` for the attempt `claim`, unless that or a later one was used: see [`SecondFactors::is_claimed`].
pub fn use_step(write: &mut Write, user_id: &UserId, step: i64, claim: &str) {
    const USE: &str = "UPDATE second_factors SET last_step = $2, claim = $3 WHERE user_id = $1 AND last_step < $2";
    write.run(USE, args![user_id.as_str(), step, claim]);
}

/// From now on logging in needs it, or one of the recovery codes with these hashes.
pub fn confirm(write: &mut Write, user_id: &UserId, now: Millis, recovery: &[String]) {
    const CONFIRM: &str = "UPDATE second_factors SET confirmed_at = $2 WHERE user_id = $1 AND confirmed_at IS NULL";
    write.run(CONFIRM, args![user_id.as_str(), now]);
    write.run("DELETE FROM recovery_codes WHERE user_id = $1", args![user_id.as_str()]);
    for hash in recovery {
        write.insert(&RECOVERY_CODES, args![hash.as_str(), user_id.as_str()]);
    }
}

/// Uses a recovery code for the attempt `claim`: see [`SecondFactors::is_recovery_claimed`].
pub fn use_recovery_code(write: &mut Write, hash: &str, claim: &str) {
    write.run("UPDATE recovery_codes SET claim = $2 WHERE hash = $1 AND claim IS NULL", args![hash, claim]);
}

/// Logging in needs none any more.
pub fn remove(write: &mut Write, user_id: &UserId) {
    for delete in ["DELETE FROM recovery_codes WHERE user_id = $1", "DELETE FROM second_factors WHERE user_id = $1"] {
        write.run(delete, args![user_id.as_str()]);
    }
}

/// Reads second factors.
pub struct SecondFactors<'a>(&'a Store);

impl Store {
    /// Reads second factors.
    pub fn second_factors(&self) -> SecondFactors<'_> {
        SecondFactors(self)
    }
}

impl SecondFactors<'_> {
    /// That of a user, confirmed or not.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<SecondFactorRow>, Error> {
        const FIND: &str = "SELECT secret, created_at, confirmed_at FROM second_factors WHERE user_id = $1";
        let rows = self.0.query(FIND, args![user_id.as_str()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (secret, created_at, confirmed_at) = (row.text(0)?, row.int(1)?, row.opt_int(2)?);
        Ok(Some(SecondFactorRow { secret, created_at, confirmed_at }))
    }

    /// Whether the attempt `claim` has used a code.
    pub async fn is_claimed(&self, user_id: &UserId, claim: &str) -> Result<bool, Error> {
        const FIND: &str = "SELECT last_step FROM second_factors WHERE user_id = $1 AND claim = $2";
        Ok(!self.0.query(FIND, args![user_id.as_str(), claim]).await?.is_empty())
    }

    /// Whether the attempt `claim` has used the recovery code with this hash.
    pub async fn is_recovery_claimed(&self, hash: &str, claim: &str) -> Result<bool, Error> {
        const FIND: &str = "SELECT user_id FROM recovery_codes WHERE hash = $1 AND claim = $2";
        Ok(!self.0.query(FIND, args![hash, claim]).await?.is_empty())
    }

    /// How many recovery codes a user has left.
    pub async fn count_recovery_codes(&self, user_id: &UserId) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM recovery_codes WHERE user_id = $1 AND claim IS NULL";
        self.0.query(COUNT, args![user_id.as_str()]).await?.first().map_or(Ok(0), |row| row.int(0))
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_code_is_used_once_and_one_that_is_in_force_is_not_replaced() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let run = async |act: &dyn Fn(&mut Write)| {
                let mut write = Write::new();
                act(&mut write);
                store.commit(write).await.map(drop)
            };
            run(&|write| offer(write, alice, "one", 1)).await?;
            run(&|write| offer(write, alice, "two", 2)).await?;
            run(&|write| use_step(write, alice, 7, "first")).await?;
            run(&|write| use_step(write, alice, 7, "second")).await?;
            assert!(store.second_factors().is_claimed(alice, "first").await?);
            assert!(!store.second_factors().is_claimed(alice, "second").await?);
            run(&|write| confirm(write, alice, 3, &["r1".into(), "r2".into()])).await?;
            run(&|write| offer(write, alice, "three", 4)).await?;
            let found = store.second_factors().find(alice).await?.expect("it is there");
            assert_eq!((found.secret.as_str(), found.confirmed_at), ("two", Some(3)));

            run(&|write| use_recovery_code(write, "r1", "a")).await?;
            run(&|write| use_recovery_code(write, "r1", "b")).await?;
            assert!(store.second_factors().is_recovery_claimed("r1", "a").await?);
            assert!(!store.second_factors().is_recovery_claimed("r1", "b").await?);
            assert_eq!(store.second_factors().count_recovery_codes(alice).await?, 1);
            run(&|write| remove(write, alice)).await?;
            assert!(store.second_factors().find(alice).await?.is_none());
            Ok::<_, Error>(())
        })
        .await;
    }
}
