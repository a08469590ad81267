//! The filters that clients have stored.

use ruma::UserId;

use crate::{Error, Store, Table, Write, args};

static FILTERS: Table =
    Table { insert: "INSERT INTO filters (user_id, filter_id, definition)", columns: 3, conflict: "", key: 0 };

/// Stores a filter. It is called by the position of this write.
pub fn insert(write: &mut Write, user_id: &UserId, definition: &str) {
    let offset = write.position();
    let mut row = args![user_id.as_str()];
    row.push(crate::Arg::Position(offset));
    row.extend(args![definition]);
    write.insert(&FILTERS, row);
}

/// Reads filters.
pub struct Filters<'a>(pub(crate) &'a Store);

impl Filters<'_> {
    /// The filter that `user_id` calls `filter_id`.
    pub async fn find(&self, user_id: &UserId, filter_id: i64) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT definition FROM filters WHERE user_id = $1 AND filter_id = $2";
        let rows = self.0.query(FIND, args![user_id.as_str(), filter_id]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    /// What `user_id` calls this very definition, if it is stored already.
    pub async fn find_same(&self, user_id: &UserId, definition: &str) -> Result<Option<i64>, Error> {
        const FIND: &str = "SELECT filter_id FROM filters WHERE user_id = $1 AND definition = $2";
        let rows = self.0.query(FIND, args![user_id.as_str(), definition]).await?;
        rows.first().map(|row| row.int(0)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_filter_is_found_by_its_id_and_only_by_its_owner() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let mut write = Write::new();
            insert(&mut write, alice, "{}");
            let filter_id = store.commit(write).await?.0;
            assert_eq!(store.filters().find(alice, filter_id).await?.as_deref(), Some("{}"));
            assert_eq!(store.filters().find_same(alice, "{}").await?, Some(filter_id));
            assert_eq!(store.filters().find(bob, filter_id).await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
