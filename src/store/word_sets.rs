//! Words that people don't get past with.

use model::Millis;

use crate::{Error, Row, Store, Write, args};

/// A set of words, without them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordSetRow {
    /// What admins call it.
    pub name: String,
    /// `reject` or `replace`.
    pub action: String,
    /// What stands in the place of a word.
    pub replacement: Option<String>,
    /// How often it was changed.
    pub version: i64,
    /// Who changed it last.
    pub changed_by: String,
    /// When.
    pub changed_at: Millis,
}

/// Puts a set in the place of the one of that name, or adds it. `words`: a JSON array. Its version is counted here.
pub fn put(write: &mut Write, set: &WordSetRow, words: String) {
    const PUT: &str = "
        INSERT INTO word_sets (name, action, replacement, words, version, changed_by, changed_at)
        VALUES ($1, $2, $3, $4, 1, $5, $6)
        ON CONFLICT (name) DO UPDATE
        SET action = excluded.action, replacement = excluded.replacement, words = excluded.words,
            version = word_sets.version + 1, changed_by = excluded.changed_by, changed_at = excluded.changed_at";
    let mut args = args![set.name.as_str(), set.action.as_str(), set.replacement.as_deref(), words];
    args.extend(args![set.changed_by.as_str(), set.changed_at]);
    write.run(PUT, args);
}

/// Takes a set away.
pub fn remove(write: &mut Write, name: &str) {
    write.run("DELETE FROM word_sets WHERE name = $1", args![name]);
}

/// Reads the sets.
pub struct WordSets<'a>(&'a Store);

impl Store {
    /// Reads the words that people don't get past with.
    pub fn word_sets(&self) -> WordSets<'_> {
        WordSets(self)
    }
}

impl WordSets<'_> {
    /// All sets, by name.
    pub async fn all(&self) -> Result<Vec<WordSetRow>, Error> {
        const ALL: &str = "
            SELECT name, action, replacement, version, changed_by, changed_at
            FROM word_sets
            ORDER BY name";
        self.0.query(ALL, Vec::new()).await?.iter().map(word_set).collect()
    }

    /// The words of a set, a JSON array; `None`: there is no such set.
    pub async fn words(&self, name: &str) -> Result<Option<String>, Error> {
        let rows = self.0.query("SELECT words FROM word_sets WHERE name = $1", args![name]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }
}

fn word_set(row: &Row) -> Result<WordSetRow, Error> {
    Ok(WordSetRow {
        name: row.text(0)?,
        action: row.text(1)?,
        replacement: row.opt_text(2)?,
        version: row.int(3)?,
        changed_by: row.text(4)?,
        changed_at: row.int(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_set_is_changed_as_a_whole_and_counts_its_changes() {
        on_each_engine(async |store| {
            let set = |action: &str, version| WordSetRow {
                name: "rude".to_owned(),
                action: action.to_owned(),
                replacement: None,
                version,
                changed_by: "@root:a.test".to_owned(),
                changed_at: 5,
            };
            for (action, words) in [("reject", "[\"a\"]"), ("replace", "[\"b\"]")] {
                let mut write = Write::new();
                put(&mut write, &set(action, 0), words.to_owned());
                store.commit(write).await?;
            }
            assert_eq!(store.word_sets().all().await?, [set("replace", 2)]);
            assert_eq!(store.word_sets().words("rude").await?.as_deref(), Some("[\"b\"]"));
            let mut write = Write::new();
            remove(&mut write, "rude");
            store.commit(write).await?;
            assert_eq!(store.word_sets().words("rude").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
