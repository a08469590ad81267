//! What users say of themselves.

use ruma::UserId;

use crate::{Error, Store, Write, args, directory};

/// The fields that full peers are told.
const TOLD: [&str; 2] = ["displayname", "avatar_url"];

/// Sets a field; `json` is its value.
pub fn put_profile_field(write: &mut Write, user_id: &UserId, field: &str, json: &str) {
    const PUT: &str = "
        INSERT INTO profiles (user_id, field, value)
        VALUES ($1, $2, $3)
        ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value";
    write.run(PUT, args![user_id.as_str(), field, json]);
    touch(write, user_id, field);
}

/// Removes a field.
pub fn remove_profile_field(write: &mut Write, user_id: &UserId, field: &str) {
    write.run("DELETE FROM profiles WHERE user_id = $1 AND field = $2", args![user_id.as_str(), field]);
    touch(write, user_id, field);
}

fn touch(write: &mut Write, user_id: &UserId, field: &str) {
    if TOLD.contains(&field) {
        directory::touch(write, user_id);
    }
}

/// Removes all fields.
pub fn remove_profile(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM profiles WHERE user_id = $1", args![user_id.as_str()]);
    directory::touch(write, user_id);
}

/// Reads profiles.
pub struct Profiles<'a>(&'a Store);

impl Store {
    /// Reads profiles.
    pub fn profiles(&self) -> Profiles<'_> {
        Profiles(self)
    }
}

impl Profiles<'_> {
    /// Every field of a user, with its value as JSON.
    pub async fn get(&self, user_id: &UserId) -> Result<Vec<(String, String)>, Error> {
        const GET: &str = "SELECT field, value FROM profiles WHERE user_id = $1 ORDER BY field";
        let rows = self.0.query(GET, args![user_id.as_str()]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_profile_is_its_fields() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let mut write = Write::new();
            put_profile_field(&mut write, alice, "displayname", r#""Alice""#);
            put_profile_field(&mut write, alice, "displayname", r#""Alice A.""#);
            put_profile_field(&mut write, alice, "m.tz", r#""Europe/Paris""#);
            remove_profile_field(&mut write, alice, "m.tz");
            store.commit(write).await?;
            assert_eq!(store.profiles().get(alice).await?, [("displayname".to_owned(), r#""Alice A.""#.to_owned())]);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_can_t_be_kept_is_refused_and_what_comes_with_it_is_kept() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let (mut odd, mut plain) = (Write::new(), Write::new());
            put_profile_field(&mut odd, alice, "nothing\0", "1");
            put_profile_field(&mut plain, bob, "m.tz", "1");
            let (odd, plain) = tokio::join!(store.commit(odd), store.commit(plain));
            plain?;
            match store.pool.is_postgres() {
                true => assert!(matches!(odd, Err(Error::Unstorable)), "{odd:?}"),
                false => drop(odd?),
            }
            Ok::<_, Error>(())
        })
        .await;
    }
}
