//! How other servers are, as far as they are not well.

use model::{Millis, Position};
use ruma::{OwnedServerName, ServerName};

use crate::{Error, Store, Table, Write, args};

static DESTINATIONS: Table = Table {
    insert: "INSERT INTO destinations (destination, retry_at, failures, failing_since, last_failure, catch_up_upto)",
    columns: 6,
    conflict: "ON CONFLICT (destination) DO UPDATE
        SET retry_at = excluded.retry_at, failures = excluded.failures, failing_since = excluded.failing_since,
            last_failure = excluded.last_failure, catch_up_upto = excluded.catch_up_upto",
    key: 1,
};

/// A server that could not be reached, or that is catching up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRow {
    /// Which.
    pub destination: OwnedServerName,
    /// Before that it is left alone.
    pub retry_at: Millis,
    /// How often in a row it could not be reached.
    pub failures: i64,
    /// Since when; `None`: it can be reached.
    pub failing_since: Option<Millis>,
    /// Why.
    pub last_failure: Option<String>,
    /// Up to here each room is owed its latest event only.
    pub catch_up_upto: Option<Position>,
}

/// Notes how a server is.
pub fn put(write: &mut Write, row: &DestinationRow) {
    let values = args![
        row.destination.as_str(),
        row.retry_at,
        row.failures,
        row.failing_since,
        row.last_failure.as_deref(),
        row.catch_up_upto.map(|position| position.0)
    ];
    write.insert(&DESTINATIONS, values);
}

/// The server is well.
pub fn remove(write: &mut Write, destination: &ServerName) {
    write.run("DELETE FROM destinations WHERE destination = $1", args![destination.as_str()]);
}

/// The server is to be tried at once, as if it had never failed, by whoever looks next.
pub fn retry(write: &mut Write, destination: &ServerName) {
    const RETRY: &str = "UPDATE destinations SET retry_at = 0, failures = 0 WHERE destination = $1";
    write.run(RETRY, args![destination.as_str()]);
}

/// Reads how other servers are.
pub struct Destinations<'a>(&'a Store);

impl Store {
    /// Reads how other servers are.
    pub fn destinations(&self) -> Destinations<'_> {
        Destinations(self)
    }
}

impl Destinations<'_> {
    /// All that are not well.
    pub async fn list(&self) -> Result<Vec<DestinationRow>, Error> {
        const LIST: &str = "
            SELECT destination, retry_at, failures, failing_since, last_failure, catch_up_upto
            FROM destinations
            ORDER BY destination";
        let rows = self.0.query(LIST, Vec::new()).await?;
        rows.iter()
            .map(|row| {
                Ok(DestinationRow {
                    destination: row.parse(0)?,
                    retry_at: row.int(1)?,
                    failures: row.int(2)?,
                    failing_since: row.opt_int(3)?,
                    last_failure: row.opt_text(4)?,
                    catch_up_upto: row.opt_int(5)?.map(Position),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_server_is_as_was_noted_last_until_it_is_well() {
        on_each_engine(async |store| {
            let mut row = DestinationRow {
                destination: server_name!("b.test").to_owned(),
                retry_at: 10,
                failures: 1,
                failing_since: Some(5),
                last_failure: Some("dns".into()),
                catch_up_upto: None,
            };
            let mut write = Write::new();
            put(&mut write, &row);
            row.failures = 2;
            row.catch_up_upto = Some(Position(7));
            put(&mut write, &row);
            store.commit(write).await?;
            assert_eq!(store.destinations().list().await?, [row.clone()]);

            let mut write = Write::new();
            retry(&mut write, server_name!("b.test"));
            retry(&mut write, server_name!("c.test"));
            store.commit(write).await?;
            let (retry_at, failures) = (0, 0);
            assert_eq!(store.destinations().list().await?, [DestinationRow { retry_at, failures, ..row }]);

            let mut write = Write::new();
            remove(&mut write, server_name!("b.test"));
            store.commit(write).await?;
            assert!(store.destinations().list().await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
