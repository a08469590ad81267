//! How much of what there is.

use model::Millis;

use crate::{Error, Store, Write, args};

/// What there was on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRow {
    /// Days since 1970, in UTC.
    pub day: i64,
    /// `messages` or `local_messages`.
    pub figure: String,
    /// How many.
    pub count: i64,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Accounts that are open.
    pub accounts: i64,
    /// Those of them that are suspended or locked.
    pub restricted: i64,
    /// Accounts that were closed.
    pub deactivated: i64,
    /// Rooms.
    pub rooms: i64,
    /// Names under which there is a file.
    pub files: i64,
    /// How many bytes these files have together; one that stands under two names counts twice.
    pub file_bytes: i64,
    /// Events that other servers are still owed.
    pub owed: i64,
}

/// There was more on a day.
pub fn add(write: &mut Write, day: i64, figure: &str, count: i64) {
    const ADD: &str = "
        INSERT INTO daily_figures (day, figure, count)
        VALUES ($1, $2, $3)
        ON CONFLICT (day, figure) DO UPDATE SET count = daily_figures.count + excluded.count";
    write.run(ADD, args![day, figure, count]);
}

/// Reads how much there is.
pub struct Figures<'a>(&'a Store);

impl Store {
    /// Reads how much there is.
    pub fn figures(&self) -> Figures<'_> {
        Figures(self)
    }
}

impl Figures<'_> {
    /// What there was each day from `day` on.
    pub async fn days(&self, day: i64) -> Result<Vec<DayRow>, Error> {
        const DAYS: &str = "SELECT day, figure, count FROM daily_figures WHERE day >= $1 ORDER BY day, figure";
        let rows = self.0.query(DAYS, args![day]).await?;
        rows.iter().map(|row| Ok(DayRow { day: row.int(0)?, figure: row.text(1)?, count: row.int(2)? })).collect()
    }

    /// Counts what there is. It reads all accounts, rooms and files: not for each who asks.
    pub async fn census(&self) -> Result<Census, Error> {
        const ACCOUNTS: &str = "
            SELECT COUNT(*), COUNT(deactivated_at),
                COUNT(CASE WHEN deactivated_at IS NULL THEN COALESCE(locked_at, suspended_at) END)
            FROM accounts";
        const FILES: &str =
            "SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM media WHERE sha256 IS NOT NULL";
        let rows = self.0.query(ACCOUNTS, Vec::new()).await?;
        let mut census = Census::default();
        if let Some(row) = rows.first() {
            (census.deactivated, census.restricted) = (row.int(1)?, row.int(2)?);
            census.accounts = row.int(0)? - census.deactivated;
        }
        if let Some(row) = self.0.query(FILES, Vec::new()).await?.first() {
            (census.files, census.file_bytes) = (row.int(0)?, row.int(1)?);
        }
        census.rooms = self.count("SELECT COUNT(*) FROM rooms").await?;
        census.owed = self.count("SELECT COUNT(*) FROM outbox").await?;
        Ok(census)
    }

    /// How many people were seen since.
    pub async fn seen_since(&self, since: Millis) -> Result<i64, Error> {
        const SEEN: &str = "SELECT COUNT(DISTINCT user_id) FROM devices WHERE last_seen_at >= $1";
        self.0.query(SEEN, args![since]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    async fn count(&self, sql: &'static str) -> Result<i64, Error> {
        self.0.query(sql, Vec::new()).await?.first().map_or(Ok(0), |row| row.int(0))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::{
        accounts::{AccountRow, deactivate_account, insert_account},
        custody, devices,
        testing::on_each_engine,
    };

    #[tokio::test]
    async fn what_there_is_is_counted_and_days_add_up() {
        on_each_engine(async |store| {
            assert_eq!(store.figures().census().await?, Census::default());
            let mut write = Write::new();
            let (alice, bob, carol) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"), user_id!("@carol:a.test"));
            for user_id in [alice, bob, carol] {
                let (user_id, password_hash) = (user_id.to_owned(), None);
                let row = AccountRow { user_id, password_hash, created_at: 1, admin_since: None, deactivated_at: None };
                insert_account(&mut write, &row);
            }
            for phone in [device_id!("ONE"), device_id!("TWO")] {
                devices::insert_device(&mut write, alice, phone, None, 1, None);
                devices::set_last_seen(&mut write, alice, phone, 7, None);
            }
            store.commit(write).await?;
            let mut write = Write::new();
            custody::put(&mut write, bob, Some(5), None);
            deactivate_account(&mut write, carol, 6, None);
            add(&mut write, 10, "messages", 3);
            add(&mut write, 10, "messages", 4);
            add(&mut write, 9, "messages", 1);
            store.commit(write).await?;
            let census = store.figures().census().await?;
            assert_eq!((census.accounts, census.restricted, census.deactivated), (2, 1, 1));
            assert_eq!((store.figures().seen_since(7).await?, store.figures().seen_since(8).await?), (1, 0));
            let expected = [DayRow { day: 10, figure: "messages".to_owned(), count: 7 }];
            assert_eq!(store.figures().days(10).await?, expected);
            Ok::<_, Error>(())
        })
        .await;
    }
}
