//! Up to which of their news other servers were heard, user by user.

use std::collections::HashMap;

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Arg, Error, Store, Table, Write, args, places};

static SEQUENCES: Table = Table {
    insert: "INSERT INTO presence_sequences (user_id, sequence, heard_at)",
    columns: 3,
    conflict: "ON CONFLICT (user_id) DO UPDATE
        SET sequence = excluded.sequence, heard_at = excluded.heard_at
        WHERE excluded.sequence > presence_sequences.sequence",
    key: 0,
};

/// How many users are asked for at once.
const AT_ONCE: usize = 500;

/// News of a user was heard. What is not newer changes nothing.
pub fn put(write: &mut Write, user_id: &UserId, sequence: i64, now: Millis) {
    write.insert(&SEQUENCES, args![user_id.as_str(), sequence, now]);
}

/// Forgets users of whom nothing was heard since `before`.
pub fn forget(write: &mut Write, before: Millis) {
    write.run("DELETE FROM presence_sequences WHERE heard_at < $1", args![before]);
}

impl Store {
    /// Up to which news each of `users` was heard; those are missing of whom nothing was.
    pub async fn presence_sequences(&self, users: &[&UserId]) -> Result<HashMap<OwnedUserId, i64>, Error> {
        let mut found = HashMap::new();
        for users in users.chunks(AT_ONCE) {
            let sql = format!(
                "SELECT user_id, sequence FROM presence_sequences WHERE user_id IN ({})",
                places(1, users.len())
            );
            let rows = self.query(sql, users.iter().map(|user_id| Arg::from(user_id.as_str())).collect()).await?;
            for row in &rows {
                found.insert(row.parse(0)?, row.int(1)?);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_sequence_only_grows_until_it_is_forgotten() {
        on_each_engine(async |store| {
            let (bob, carol) = (user_id!("@bob:b.test"), user_id!("@carol:b.test"));
            for sequence in [5, 7, 6] {
                let mut write = Write::new();
                put(&mut write, bob, sequence, 10);
                store.commit(write).await?;
            }
            assert_eq!(store.presence_sequences(&[bob, carol]).await?, HashMap::from([(bob.to_owned(), 7)]));
            let mut write = Write::new();
            forget(&mut write, 11);
            store.commit(write).await?;
            assert!(store.presence_sequences(&[bob]).await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
