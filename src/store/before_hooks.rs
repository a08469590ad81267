//! Addresses that are asked before something is done here.

use model::Millis;

use crate::{Error, Row, Store, Table, Write, args};

static BEFORE_HOOKS: Table = Table {
    insert: "INSERT INTO before_hooks (id, url, acts, deadline_ms, on_failure, secret, created_by, created_at)",
    columns: 8,
    conflict: "",
    key: 0,
};

/// An address that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeforeHookRow {
    /// Given by the server.
    pub id: String,
    /// Where to.
    pub url: String,
    /// Before what, a JSON array.
    pub acts: String,
    /// How long it may take to answer, milliseconds.
    pub deadline_ms: i64,
    /// What is done without an answer: `allow` or `refuse`.
    pub on_failure: String,
    /// What it knows this server by, sealed.
    pub secret: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Millis,
}

/// Adds an address.
pub fn insert(write: &mut Write, row: &BeforeHookRow) {
    let values = args![
        row.id.as_str(),
        row.url.as_str(),
        row.acts.as_str(),
        row.deadline_ms,
        row.on_failure.as_str(),
        row.secret.as_str(),
        row.created_by.as_str(),
        row.created_at
    ];
    write.insert(&BEFORE_HOOKS, values);
}

/// Takes an address away.
pub fn remove(write: &mut Write, id: &str) {
    write.run("DELETE FROM before_hooks WHERE id = $1", args![id]);
}

/// Reads addresses that are asked.
pub struct BeforeHooks<'a>(&'a Store);

impl Store {
    /// Reads the addresses that are asked before something is done here.
    pub fn before_hooks(&self) -> BeforeHooks<'_> {
        BeforeHooks(self)
    }
}

impl BeforeHooks<'_> {
    /// All of them, the oldest first.
    pub async fn all(&self) -> Result<Vec<BeforeHookRow>, Error> {
        const ALL: &str = "
            SELECT id, url, acts, deadline_ms, on_failure, secret, created_by, created_at
            FROM before_hooks
            ORDER BY created_at, id";
        self.0.query(ALL, Vec::new()).await?.iter().map(before_hook).collect()
    }
}

fn before_hook(row: &Row) -> Result<BeforeHookRow, Error> {
    Ok(BeforeHookRow {
        id: row.text(0)?,
        url: row.text(1)?,
        acts: row.text(2)?,
        deadline_ms: row.int(3)?,
        on_failure: row.text(4)?,
        secret: row.text(5)?,
        created_by: row.text(6)?,
        created_at: row.int(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn addresses_are_asked_by_age_until_they_are_taken_away() {
        on_each_engine(async |store| {
            let row = |id: &str, created_at| BeforeHookRow {
                id: id.to_owned(),
                url: "https://hook.test/".to_owned(),
                acts: r#"["send"]"#.to_owned(),
                deadline_ms: 1_000,
                on_failure: "refuse".to_owned(),
                secret: "sealed".to_owned(),
                created_by: "@admin:a.test".to_owned(),
                created_at,
            };
            let (first, second, third) = (row("z", 5), row("a", 7), row("b", 7));
            let mut write = Write::new();
            for row in [&third, &second, &first] {
                insert(&mut write, row);
            }
            store.commit(write).await?;
            assert_eq!(store.before_hooks().all().await?, [first.clone(), second, third.clone()]);
            let mut write = Write::new();
            remove(&mut write, "a");
            store.commit(write).await?;
            assert_eq!(store.before_hooks().all().await?, [first, third]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
