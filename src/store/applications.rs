//! Applications: back ends of others that may use this server, their secrets, and the sessions that they have opened.

use model::Millis;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args};

/// An application as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationRow {
    /// By which it says who it is.
    pub app_key: String,
    /// What people see.
    pub name: String,
    /// What it may do, a JSON array of words.
    pub scopes: String,
    /// From which networks, a JSON array; empty: from anywhere.
    pub addresses: String,
    /// How many requests a second.
    pub per_second: i64,
    /// How many at once after a rest.
    pub burst: i64,
    /// From then on it may do nothing.
    pub expires_at: Option<Millis>,
    /// Since when it may do nothing.
    pub disabled_at: Option<Millis>,
    /// The entry of the audit log that says what became of it last.
    pub version: i64,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Millis,
    /// When it was changed last.
    pub changed_at: Millis,
}

/// A secret of an application.
#[derive(Clone)]
pub struct SecretRow {
    /// Its own name.
    pub id: String,
    /// Sealed.
    pub secret: String,
    /// When it was made.
    pub created_at: Millis,
    /// From then on it is no good; `None`: it is the one to use.
    pub expires_at: Option<Millis>,
}

/// A session that an application has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSessionRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// What it is called.
    pub display_name: Option<String>,
    /// When it was opened.
    pub opened_at: Millis,
    /// When it ends in any case.
    pub ends_at: Option<Millis>,
    /// When it was last seen.
    pub last_seen_at: Option<Millis>,
}

static APPLICATIONS: Table = Table {
    insert: "INSERT INTO applications (app_key, name, scopes, addresses, per_second, burst, expires_at, disabled_at, version, created_by, \
        created_at, changed_at)",
    columns: 12,
    conflict: "ON CONFLICT (app_key) DO UPDATE SET name = excluded.name, scopes = excluded.scopes, addresses = excluded.addresses, \
        per_second = excluded.per_second, burst = excluded.burst, expires_at = excluded.expires_at, disabled_at = excluded.disabled_at, \
        version = excluded.version, changed_at = excluded.changed_at",
    key: 1,
};

static SECRETS: Table = Table {
    insert: "INSERT INTO application_secrets (id, app_key, secret, created_at)",
    columns: 4,
    conflict: "",
    key: 0,
};

/// Adds an application, or changes it.
pub fn put(write: &mut Write, row: &ApplicationRow) {
    let values = args![
        row.app_key.as_str(),
        row.name.as_str(),
        row.scopes.as_str(),
        row.addresses.as_str(),
        row.per_second,
        row.burst,
        row.expires_at,
        row.disabled_at,
        row.version,
        row.created_by.as_str(),
        row.created_at,
        row.changed_at
    ];
    write.insert(&APPLICATIONS, values);
}

/// Takes an application away, with its secrets.
pub fn remove(write: &mut Write, app_key: &str) {
    write.run("DELETE FROM application_secrets WHERE app_key = $1", args![app_key]);
    write.run("DELETE FROM applications WHERE app_key = $1", args![app_key]);
}

/// Gives an application another secret; those before are good until `until` at most.
pub fn rotate(write: &mut Write, app_key: &str, secret: &SecretRow, until: Millis) {
    const OLD: &str = "
        UPDATE application_secrets
        SET expires_at = $3
        WHERE app_key = $1 AND id <> $2 AND (expires_at IS NULL OR expires_at > $3)";
    write.run(OLD, args![app_key, secret.id.as_str(), until]);
    write.insert(&SECRETS, args![secret.id.as_str(), app_key, secret.secret.as_str(), secret.created_at]);
}

/// Forgets secrets that are no good any more.
pub fn forget_secrets(write: &mut Write, now: Millis) {
    write.run("DELETE FROM application_secrets WHERE expires_at <= $1", args![now]);
}

/// Reads applications.
pub struct Applications<'a>(&'a Store);

impl Store {
    /// Reads applications.
    pub fn applications(&self) -> Applications<'_> {
        Applications(self)
    }
}

const COLUMNS: &str = "
    SELECT app_key, name, scopes, addresses, per_second, burst, expires_at, disabled_at, version, created_by, created_at, changed_at
    FROM applications";

impl Applications<'_> {
    /// One of them.
    pub async fn find(&self, app_key: &str) -> Result<Option<ApplicationRow>, Error> {
        let sql = format!("{COLUMNS} WHERE app_key = $1");
        self.0.query(sql, args![app_key]).await?.first().map(application).transpose()
    }

    /// Up to `limit` whose keys follow `after`, in the order of their keys.
    pub async fn list(&self, after: &str, limit: u32) -> Result<Vec<ApplicationRow>, Error> {
        let sql = format!("{COLUMNS} WHERE app_key > $1 ORDER BY app_key LIMIT $2");
        self.0.query(sql, args![after, i64::from(limit)]).await?.iter().map(application).collect()
    }

    /// How many there are.
    pub async fn count(&self) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM applications";
        self.0.query(COUNT, Vec::new()).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// The secrets of an application that are good at `now`: the one to use, and those before it, the latest first.
    pub async fn secrets(&self, app_key: &str, now: Millis) -> Result<Vec<SecretRow>, Error> {
        const SECRETS: &str = "
            SELECT id, secret, created_at, expires_at
            FROM application_secrets
            WHERE app_key = $1 AND (expires_at IS NULL OR expires_at > $2)
            ORDER BY CASE WHEN expires_at IS NULL THEN 0 ELSE 1 END, created_at DESC, id";
        self.0.query(SECRETS, args![app_key, now]).await?.iter().map(secret).collect()
    }

    /// Up to `limit` sessions that an application has opened, for one user or for all, those that follow `after`, by user and device.
    pub async fn sessions(
        &self,
        app_key: &str,
        user_id: Option<&UserId>,
        after: (&str, &str),
        limit: u32,
    ) -> Result<Vec<AppSessionRow>, Error> {
        const SESSIONS: &str = "
            SELECT user_id, device_id, display_name, COALESCE(opened_at, created_at), ends_at, last_seen_at
            FROM devices
            WHERE app_key = $1 AND ($2 = '' OR user_id = $2) AND (user_id > $3 OR (user_id = $3 AND device_id > $4))
            ORDER BY user_id, device_id
            LIMIT $5";
        let user_id = user_id.map_or("", UserId::as_str);
        let values = args![app_key, user_id, after.0, after.1, i64::from(limit)];
        self.0.query(SESSIONS, values).await?.iter().map(session).collect()
    }

    /// Up to `limit` sessions whose time is over, or whose application may do nothing any more.
    pub async fn overdue_sessions(&self, now: Millis, limit: u32) -> Result<Vec<(OwnedUserId, OwnedDeviceId)>, Error> {
        const OVERDUE: &str = "
            SELECT d.user_id, d.device_id
            FROM devices d
            LEFT JOIN applications a ON a.app_key = d.app_key
            WHERE d.app_key IS NOT NULL
                AND (a.app_key IS NULL OR a.disabled_at IS NOT NULL OR a.expires_at <= $1 OR d.ends_at <= $1)
            ORDER BY d.user_id, d.device_id
            LIMIT $2";
        let rows = self.0.query(OVERDUE, args![now, i64::from(limit)]).await?;
        rows.iter().map(|row| Ok((row.parse(0)?, row.text(1)?.into()))).collect()
    }
}

fn application(row: &Row) -> Result<ApplicationRow, Error> {
    Ok(ApplicationRow {
        app_key: row.text(0)?,
        name: row.text(1)?,
        scopes: row.text(2)?,
        addresses: row.text(3)?,
        per_second: row.int(4)?,
        burst: row.int(5)?,
        expires_at: row.opt_int(6)?,
        disabled_at: row.opt_int(7)?,
        version: row.int(8)?,
        created_by: row.text(9)?,
        created_at: row.int(10)?,
        changed_at: row.int(11)?,
    })
}

fn secret(row: &Row) -> Result<SecretRow, Error> {
    Ok(SecretRow { id: row.text(0)?, secret: row.text(1)?, created_at: row.int(2)?, expires_at: row.opt_int(3)? })
}

fn session(row: &Row) -> Result<AppSessionRow, Error> {
    Ok(AppSessionRow {
        user_id: row.parse(0)?,
        device_id: row.text(1)?.into(),
        display_name: row.opt_text(2)?,
        opened_at: row.int(3)?,
        ends_at: row.opt_int(4)?,
        last_seen_at: row.opt_int(5)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::{
        devices::{OfApplication, insert_device},
        testing::on_each_engine,
    };

    fn row(app_key: &str) -> ApplicationRow {
        ApplicationRow {
            app_key: app_key.to_owned(),
            name: "CRM".to_owned(),
            scopes: "[]".to_owned(),
            addresses: "[]".to_owned(),
            per_second: 10,
            burst: 20,
            expires_at: None,
            disabled_at: None,
            version: 1,
            created_by: "@root:a.test".to_owned(),
            created_at: 5,
            changed_at: 5,
        }
    }

    fn secret_made_at(created_at: Millis) -> SecretRow {
        SecretRow { id: format!("s{created_at}"), secret: "sealed".to_owned(), created_at, expires_at: None }
    }

    #[tokio::test]
    async fn an_application_is_made_changed_and_taken_away_with_its_secrets() {
        on_each_engine(async |store| {
            let mut write = Write::new();
            put(&mut write, &row("one"));
            put(&mut write, &row("two"));
            rotate(&mut write, "one", &secret_made_at(5), 5);
            store.commit(write).await?;
            let changed = ApplicationRow { name: "ERP".to_owned(), disabled_at: Some(9), version: 2, ..row("one") };
            let mut write = Write::new();
            put(&mut write, &changed);
            rotate(&mut write, "one", &secret_made_at(6), 100);
            store.commit(write).await?;
            assert_eq!(store.applications().find("one").await?, Some(changed));
            assert_eq!(store.applications().list("one", 5).await?, [row("two")]);
            assert_eq!(store.applications().count().await?, 2);
            let good = async |now| {
                let found = store.applications().secrets("one", now).await?;
                Ok::<_, Error>(found.into_iter().map(|secret| (secret.id, secret.expires_at)).collect::<Vec<_>>())
            };
            assert_eq!(good(99).await?, [("s6".to_owned(), None), ("s5".to_owned(), Some(100))]);
            assert_eq!(good(100).await?, [("s6".to_owned(), None)]);

            let mut write = Write::new();
            forget_secrets(&mut write, 100);
            store.commit(write).await?;
            assert_eq!(good(1).await?, [("s6".to_owned(), None)]);
            let mut write = Write::new();
            remove(&mut write, "one");
            store.commit(write).await?;
            assert!(good(1).await?.is_empty());
            assert_eq!(store.applications().find("one").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn sessions_are_listed_by_application_and_are_over_with_it() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let mut write = Write::new();
            put(&mut write, &row("on"));
            put(&mut write, &ApplicationRow { disabled_at: Some(1), ..row("off") });
            let mut open = |user_id, device: &str, application| {
                insert_device(&mut write, user_id, device.into(), None, 1, application);
            };
            let of = |app_key, ends_at| Some(OfApplication { app_key, ends_at });
            open(alice, "A", of("on", 100));
            open(alice, "B", of("on", 50));
            open(bob, "C", of("on", 100));
            open(bob, "D", of("off", 100));
            open(bob, "E", of("gone", 100));
            open(bob, "F", None);
            store.commit(write).await?;
            let listed = async |user_id, after| {
                let found = store.applications().sessions("on", user_id, after, 10).await?;
                Ok::<_, Error>(found.into_iter().map(|found| found.device_id.to_string()).collect::<Vec<_>>())
            };
            assert_eq!(listed(None, ("", "")).await?, ["A", "B", "C"]);
            assert_eq!(listed(None, ("@alice:a.test", "A")).await?, ["B", "C"]);
            assert_eq!(listed(Some(bob), ("", "")).await?, ["C"]);
            let overdue = store.applications().overdue_sessions(50, 10).await?;
            let overdue: Vec<_> = overdue.iter().map(|(_, device_id)| device_id.as_str()).collect();
            assert_eq!(overdue, ["B", "D", "E"]);
            // Who logs in there is somebody who has logged in, and no application any more.
            let mut write = Write::new();
            insert_device(&mut write, alice, device_id!("A"), None, 2, None);
            store.commit(write).await?;
            assert_eq!(listed(None, ("", "")).await?, ["B", "C"]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
