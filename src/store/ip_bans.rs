//! Addresses that are kept out.

use model::Millis;

use crate::{Error, Row, Store, Table, Write, args};

/// A network that is kept out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpBanRow {
    /// `203.0.113.0/24`.
    pub network: String,
    /// For other admins.
    pub reason: String,
    /// Who did it.
    pub banned_by: String,
    /// When.
    pub banned_at: Millis,
    /// From then on it counts for nothing.
    pub expires_at: Option<Millis>,
    /// The entry of the audit log of its last change.
    pub revision: i64,
}

static IP_BANS: Table = Table {
    insert: "INSERT INTO ip_bans (network, reason, banned_by, banned_at, expires_at, revision)",
    columns: 6,
    conflict: "ON CONFLICT (network) DO UPDATE SET reason = excluded.reason, banned_by = excluded.banned_by, \
               banned_at = excluded.banned_at, expires_at = excluded.expires_at, revision = excluded.revision",
    key: 1,
};

/// Keeps a network out, or changes how.
pub fn put(write: &mut Write, row: &IpBanRow) {
    let IpBanRow { network, reason, banned_by, banned_at, expires_at, revision } = row;
    let values = args![network.as_str(), reason.as_str(), banned_by.as_str(), *banned_at, *expires_at, *revision];
    write.insert(&IP_BANS, values);
}

/// Lets a network in again.
pub fn remove(write: &mut Write, network: &str) {
    write.run("DELETE FROM ip_bans WHERE network = $1", args![network]);
}

/// Forgets what has counted for nothing since `before`.
pub fn forget(write: &mut Write, before: Millis) {
    write.run("DELETE FROM ip_bans WHERE expires_at < $1", args![before]);
}

/// Reads which addresses are kept out.
pub struct IpBans<'a>(&'a Store);

impl Store {
    /// Reads which addresses are kept out.
    pub fn ip_bans(&self) -> IpBans<'_> {
        IpBans(self)
    }
}

const COLUMNS: &str = "SELECT network, reason, banned_by, banned_at, expires_at, revision FROM ip_bans";

impl IpBans<'_> {
    /// The ban of this very network.
    pub async fn find(&self, network: &str) -> Result<Option<IpBanRow>, Error> {
        let sql = format!("{COLUMNS} WHERE network = $1");
        self.0.query(sql, args![network]).await?.first().map(read).transpose()
    }

    /// Up to `limit`, by network as it is written; those after `after`.
    pub async fn list(&self, after: &str, limit: u32) -> Result<Vec<IpBanRow>, Error> {
        let sql = format!("{COLUMNS} WHERE network > $1 ORDER BY network LIMIT $2");
        self.0.query(sql, args![after, i64::from(limit)]).await?.iter().map(read).collect()
    }

    /// What differs after each change: the latest revision, and how many there are.
    pub async fn version(&self) -> Result<(i64, i64), Error> {
        const VERSION: &str = "SELECT COALESCE(MAX(revision), 0), COUNT(*) FROM ip_bans";
        let rows = self.0.query(VERSION, Vec::new()).await?;
        rows.first().map_or(Ok((0, 0)), |row| Ok((row.int(0)?, row.int(1)?)))
    }
}

fn read(row: &Row) -> Result<IpBanRow, Error> {
    Ok(IpBanRow {
        network: row.text(0)?,
        reason: row.text(1)?,
        banned_by: row.text(2)?,
        banned_at: row.int(3)?,
        expires_at: row.opt_int(4)?,
        revision: row.int(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn each_change_is_seen_by_the_version() {
        on_each_engine(async |store| {
            let ban = |network: &str, revision, expires_at| IpBanRow {
                network: network.to_owned(),
                reason: "it knocks all night".to_owned(),
                banned_by: "@root:a.test".to_owned(),
                banned_at: 1,
                expires_at,
                revision,
            };
            let mut versions = vec![store.ip_bans().version().await?];
            for row in [ban("10.0.0.0/8", 1, None), ban("192.0.2.1/32", 2, Some(9)), ban("10.0.0.0/8", 3, None)] {
                let mut write = Write::new();
                put(&mut write, &row);
                store.commit(write).await?;
                versions.push(store.ip_bans().version().await?);
            }
            let all = store.ip_bans().list("", 10).await?;
            assert_eq!(all, [ban("10.0.0.0/8", 3, None), ban("192.0.2.1/32", 2, Some(9))]);
            assert_eq!(store.ip_bans().list("10.0.0.0/8", 10).await?.len(), 1);
            let mut write = Write::new();
            forget(&mut write, 10);
            store.commit(write).await?;
            versions.push(store.ip_bans().version().await?);
            let mut write = Write::new();
            remove(&mut write, "10.0.0.0/8");
            store.commit(write).await?;
            versions.push(store.ip_bans().version().await?);
            assert!(versions.windows(2).all(|pair| pair[0] != pair[1]), "{versions:?}");
            assert_eq!(store.ip_bans().find("10.0.0.0/8").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
