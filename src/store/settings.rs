//! What is set while the server runs.

use model::Millis;

use crate::{Error, Row, Store, Table, Write, args};

/// Something that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRow {
    /// As in the configuration: `registration.enabled`.
    pub name: String,
    /// JSON.
    pub value: String,
    /// The entry of the audit log of its last change.
    pub revision: i64,
    /// Who changed it last.
    pub changed_by: String,
    /// When.
    pub changed_at: Millis,
}

static SETTINGS: Table = Table {
    insert: "INSERT INTO settings (name, value, revision, changed_by, changed_at)",
    columns: 5,
    conflict: "ON CONFLICT (name) DO UPDATE SET value = excluded.value, revision = excluded.revision, \
               changed_by = excluded.changed_by, changed_at = excluded.changed_at",
    key: 1,
};

/// Sets something.
pub fn put(write: &mut Write, row: &SettingRow) {
    let SettingRow { name, value, revision, changed_by, changed_at } = row;
    write.insert(&SETTINGS, args![name.as_str(), value.as_str(), *revision, changed_by.as_str(), *changed_at]);
}

/// It is as the configuration says again.
pub fn remove(write: &mut Write, name: &str) {
    write.run("DELETE FROM settings WHERE name = $1", args![name]);
}

/// Reads what is set.
pub struct Settings<'a>(&'a Store);

impl Store {
    /// Reads what is set while the server runs.
    pub fn settings(&self) -> Settings<'_> {
        Settings(self)
    }
}

impl Settings<'_> {
    /// All of it, by name.
    pub async fn all(&self) -> Result<Vec<SettingRow>, Error> {
        const ALL: &str = "SELECT name, value, revision, changed_by, changed_at FROM settings ORDER BY name";
        self.0.query(ALL, Vec::new()).await?.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<SettingRow, Error> {
    Ok(SettingRow {
        name: row.text(0)?,
        value: row.text(1)?,
        revision: row.int(2)?,
        changed_by: row.text(3)?,
        changed_at: row.int(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn what_is_set_stays_until_it_is_taken_away() {
        on_each_engine(async |store| {
            let row = |value: &str, revision| SettingRow {
                name: "registration.enabled".to_owned(),
                value: value.to_owned(),
                revision,
                changed_by: "@root:a.test".to_owned(),
                changed_at: 5,
            };
            for (value, revision) in [("true", 1), ("false", 2)] {
                let mut write = Write::new();
                put(&mut write, &row(value, revision));
                store.commit(write).await?;
            }
            assert_eq!(store.settings().all().await?, [row("false", 2)]);
            let mut write = Write::new();
            remove(&mut write, "registration.enabled");
            store.commit(write).await?;
            assert!(store.settings().all().await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
