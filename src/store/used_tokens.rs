//! Which tokens of other servers were used, so that none is used twice.

use model::Millis;
use ruma::ServerName;

use crate::{Table, Write, args};

static TOKENS: Table =
    Table { insert: "INSERT INTO used_tokens (issuer, token_id, expires_at)", columns: 3, conflict: "", key: 0 };

/// Uses a token up. The Write of a second use fails with [`crate::Error::Duplicate`].
pub fn insert(write: &mut Write, issuer: &ServerName, token_id: &str, expires_at: Millis) {
    write.insert(&TOKENS, args![issuer.as_str(), token_id, expires_at]);
}

/// Forgets those that are too old to be used by `now`.
pub fn forget(write: &mut Write, now: Millis) {
    write.run("DELETE FROM used_tokens WHERE expires_at <= $1", args![now]);
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::{Error, testing::on_each_engine};

    #[tokio::test]
    async fn a_token_is_good_once_until_it_is_forgotten() {
        on_each_engine(async |store| {
            let used = async |issuer: &ServerName, now| {
                let mut write = Write::new();
                forget(&mut write, now);
                insert(&mut write, issuer, "1", 10);
                store.commit(write).await
            };
            let (b, c) = (server_name!("b.test"), server_name!("c.test"));
            used(b, 5).await?;
            used(c, 5).await?;
            assert!(matches!(used(b, 9).await, Err(Error::Duplicate)));
            used(b, 10).await?;
            Ok::<_, Error>(())
        })
        .await;
    }
}
