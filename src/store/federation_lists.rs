//! Lists of servers that deployments publish: ours, and those that this one goes by.

use std::collections::BTreeSet;

use model::{Millis, peer::TrustLevel};
use ruma::{OwnedServerName, ServerName};

use crate::{Error, Row, Store, Table, Write, args};

static PUBLISHED: Table = Table {
    insert: "INSERT INTO published_lists (version, issued_at, expires_at, entries)",
    columns: 4,
    conflict: "",
    key: 0,
};

static SUBSCRIPTIONS: Table = Table {
    insert: "INSERT INTO list_subscriptions (publisher, highest_level, pins, version, digest, expires_at, taken_at, closed_at,
        revision, changed_by, changed_at, checked_at, next_at)",
    columns: 13,
    conflict: "ON CONFLICT (publisher) DO UPDATE
        SET highest_level = excluded.highest_level, pins = excluded.pins, version = excluded.version,
            digest = excluded.digest, expires_at = excluded.expires_at, taken_at = excluded.taken_at,
            closed_at = excluded.closed_at, revision = excluded.revision, changed_by = excluded.changed_by,
            changed_at = excluded.changed_at",
    key: 1,
};

static DOCUMENTS: Table = Table {
    insert: "INSERT INTO list_documents (publisher, document)",
    columns: 2,
    conflict: "ON CONFLICT (publisher) DO UPDATE SET document = excluded.document",
    key: 1,
};

static ACQUAINTANCES: Table = Table {
    insert: "INSERT INTO list_acquaintances (publisher, server)",
    columns: 2,
    conflict: "ON CONFLICT (publisher, server) DO NOTHING",
    key: 2,
};

static LISTED_KEYS: Table = Table {
    insert: "INSERT INTO listed_keys (server, listed, moved, alarm)",
    columns: 4,
    conflict: "ON CONFLICT (server) DO UPDATE
        SET listed = excluded.listed, moved = excluded.moved, alarm = excluded.alarm",
    key: 1,
};

/// The list that this deployment publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedRow {
    /// Only grows.
    pub version: i64,
    /// When it was made.
    pub issued_at: Millis,
    /// Until when others go by it.
    pub expires_at: Millis,
    /// What is said of which server, JSON.
    pub entries: String,
}

/// A list of another deployment that this one goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// Whose list.
    pub publisher: OwnedServerName,
    /// How far it can make this server trust others.
    pub highest_level: TrustLevel,
    /// The only keys that may sign it, JSON.
    pub pins: String,
    /// The newest version that was taken.
    pub version: i64,
    /// Of what was signed in it.
    pub digest: String,
    /// As it says.
    pub expires_at: Millis,
    /// When it was taken.
    pub taken_at: Millis,
    /// Since when it lifts nobody new.
    pub closed_at: Option<Millis>,
    /// The number of the audit entry of the last change of the above.
    pub revision: i64,
    /// Who made that change.
    pub changed_by: String,
    /// When.
    pub changed_at: Millis,
    /// How asking for it goes.
    pub asked: Asked,
}

/// How asking a publisher for its list goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When it last answered with what was known already, or with something newer that could be taken.
    pub checked_at: Millis,
    /// When it is asked again.
    pub next_at: Millis,
    /// Why what came last was not taken, if it wasn't.
    pub refusal: Option<RefusalRow>,
}

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalRow {
    /// When it came.
    pub at: Millis,
    /// One word.
    pub code: String,
    /// The same in a sentence.
    pub reason: String,
}

/// A listed server that has shown other keys than its list names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKeysRow {
    /// Which.
    pub server: OwnedServerName,
    /// The keys in its list, JSON: as soon as the list has others, the row counts for nothing.
    pub listed: String,
    /// The keys to which one of those has signed over, JSON.
    pub moved: Option<String>,
    /// Which key it shows that none of those has signed.
    pub alarm: Option<String>,
}

/// Publishes a version in the place of the one before.
pub fn publish(write: &mut Write, row: &PublishedRow) {
    write.run("DELETE FROM published_lists WHERE version < $1", args![row.version]);
    write.insert(&PUBLISHED, args![row.version, row.issued_at, row.expires_at, row.entries.as_str()]);
}

/// Goes by a list, or changes how. How asking for it goes counts for a new one only; see [`asked`].
pub fn put(write: &mut Write, row: &SubscriptionRow) {
    let values = args![
        row.publisher.as_str(),
        row.highest_level.as_str(),
        row.pins.as_str(),
        row.version,
        row.digest.as_str(),
        row.expires_at,
        row.taken_at,
        row.closed_at,
        row.revision,
        row.changed_by.as_str(),
        row.changed_at,
        row.asked.checked_at,
        row.asked.next_at
    ];
    write.insert(&SUBSCRIPTIONS, values);
}

/// Notes how asking a publisher for its list goes.
pub fn asked(write: &mut Write, publisher: &ServerName, asked: &Asked) {
    const ASKED: &str = "
        UPDATE list_subscriptions
        SET checked_at = $2, next_at = $3, refused_at = $4, refusal = $5, refusal_reason = $6
        WHERE publisher = $1";
    let refusal = asked.refusal.as_ref();
    let values = args![
        publisher.as_str(),
        asked.checked_at,
        asked.next_at,
        refusal.map(|refusal| refusal.at),
        refusal.map(|refusal| refusal.code.as_str()),
        refusal.map(|refusal| refusal.reason.as_str())
    ];
    write.run(ASKED, values);
}

/// Keeps the version that was taken, and opens the list if it was closed.
pub fn put_document(write: &mut Write, publisher: &ServerName, document: &str) {
    write.insert(&DOCUMENTS, args![publisher.as_str(), document]);
    write.run("DELETE FROM list_acquaintances WHERE publisher = $1", args![publisher.as_str()]);
}

/// Goes by a list no longer, and forgets all of it.
pub fn remove(write: &mut Write, publisher: &ServerName) {
    for sql in [
        "DELETE FROM list_subscriptions WHERE publisher = $1",
        "DELETE FROM list_documents WHERE publisher = $1",
        "DELETE FROM list_acquaintances WHERE publisher = $1",
    ] {
        write.run(sql, args![publisher.as_str()]);
    }
}

/// A list is closed to newcomers; with this server there had been dealings before.
pub fn put_acquaintance(write: &mut Write, publisher: &ServerName, server: &str) {
    write.insert(&ACQUAINTANCES, args![publisher.as_str(), server]);
}

/// Notes that a listed server shows other keys than its list names.
pub fn put_listed_keys(write: &mut Write, row: &ListedKeysRow) {
    let values = args![row.server.as_str(), row.listed.as_str(), row.moved.as_deref(), row.alarm.as_deref()];
    write.insert(&LISTED_KEYS, values);
}

/// A server is known by the keys in its list again.
pub fn remove_listed_keys(write: &mut Write, server: &ServerName) {
    write.run("DELETE FROM listed_keys WHERE server = $1", args![server.as_str()]);
}

/// Reads lists of servers.
pub struct FederationLists<'a>(&'a Store);

impl Store {
    /// Reads lists of servers.
    pub fn federation_lists(&self) -> FederationLists<'_> {
        FederationLists(self)
    }
}

const COLUMNS: &str = "
    SELECT publisher, highest_level, pins, version, digest, expires_at, taken_at, closed_at, revision, changed_by,
        changed_at, checked_at, next_at, refused_at, refusal, refusal_reason
    FROM list_subscriptions";

impl FederationLists<'_> {
    /// What this deployment publishes.
    pub async fn published(&self) -> Result<Option<PublishedRow>, Error> {
        const LATEST: &str = "
            SELECT version, issued_at, expires_at, entries
            FROM published_lists
            ORDER BY version DESC
            LIMIT 1";
        let rows = self.0.query(LATEST, Vec::new()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (version, issued_at, expires_at, entries) = (row.int(0)?, row.int(1)?, row.int(2)?, row.text(3)?);
        Ok(Some(PublishedRow { version, issued_at, expires_at, entries }))
    }

    /// Every list that this deployment goes by, by publisher.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionRow>, Error> {
        let sql = format!("{COLUMNS} ORDER BY publisher");
        self.0.query(sql, Vec::new()).await?.iter().map(read).collect()
    }

    /// One of them.
    pub async fn find(&self, publisher: &ServerName) -> Result<Option<SubscriptionRow>, Error> {
        let sql = format!("{COLUMNS} WHERE publisher = $1");
        self.0.query(sql, args![publisher.as_str()]).await?.first().map(read).transpose()
    }

    /// Whose lists are to be asked for by now, those that wait the longest first.
    pub async fn due(&self, now: Millis, limit: u32) -> Result<Vec<OwnedServerName>, Error> {
        const DUE: &str = "SELECT publisher FROM list_subscriptions WHERE next_at <= $1 ORDER BY next_at LIMIT $2";
        self.0.query(DUE, args![now, i64::from(limit)]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// The version of a list that was taken, as it was signed.
    pub async fn document(&self, publisher: &ServerName) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT document FROM list_documents WHERE publisher = $1";
        self.0.query(FIND, args![publisher.as_str()]).await?.first().map(|row| row.text(0)).transpose()
    }

    /// With whom there had been dealings when lists were closed: publishers, and servers in their lists.
    pub async fn acquaintances(&self) -> Result<Vec<(OwnedServerName, String)>, Error> {
        const LIST: &str = "SELECT publisher, server FROM list_acquaintances";
        self.0.query(LIST, Vec::new()).await?.iter().map(|row| Ok((row.parse(0)?, row.text(1)?))).collect()
    }

    /// Listed servers that have shown other keys than their lists name.
    pub async fn listed_keys(&self) -> Result<Vec<ListedKeysRow>, Error> {
        const LIST: &str = "SELECT server, listed, moved, alarm FROM listed_keys ORDER BY server";
        let rows = self.0.query(LIST, Vec::new()).await?;
        rows.iter()
            .map(|row| {
                let (listed, moved, alarm) = (row.text(1)?, row.opt_text(2)?, row.opt_text(3)?);
                Ok(ListedKeysRow { server: row.parse(0)?, listed, moved, alarm })
            })
            .collect()
    }

    /// The servers with which there were dealings: those that events went to, whenever that was, and those that did something
    /// here, or towards which something was done, that was allowed, as long as such acts are remembered.
    pub async fn acquainted_servers(&self) -> Result<BTreeSet<String>, Error> {
        const KNOWN: &str = "
            SELECT destination FROM ledger_destinations
            UNION
            SELECT server FROM peer_acts WHERE rule = ''";
        self.0.query(KNOWN, Vec::new()).await?.iter().map(|row| row.text(0)).collect()
    }
}

fn read(row: &Row) -> Result<SubscriptionRow, Error> {
    let refusal = match (row.opt_int(13)?, row.opt_text(14)?, row.opt_text(15)?) {
        (Some(at), Some(code), Some(reason)) => Some(RefusalRow { at, code, reason }),
        _ => None,
    };
    Ok(SubscriptionRow {
        publisher: row.parse(0)?,
        highest_level: row.parse(1)?,
        pins: row.text(2)?,
        version: row.int(3)?,
        digest: row.text(4)?,
        expires_at: row.int(5)?,
        taken_at: row.int(6)?,
        closed_at: row.opt_int(7)?,
        revision: row.int(8)?,
        changed_by: row.text(9)?,
        changed_at: row.int(10)?,
        asked: Asked { checked_at: row.int(11)?, next_at: row.int(12)?, refusal },
    })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::{
        peers::{ActRow, add_acts},
        testing::{on_each_engine, on_each_engine_of_old},
    };

    fn subscription(publisher: &ServerName, version: i64) -> SubscriptionRow {
        SubscriptionRow {
            publisher: publisher.to_owned(),
            highest_level: TrustLevel::Limited,
            pins: "{}".into(),
            version,
            digest: "d".into(),
            expires_at: 100,
            taken_at: 1,
            closed_at: None,
            revision: version,
            changed_by: "@admin:a.test".into(),
            changed_at: 5,
            asked: Asked { checked_at: 1, next_at: 10, refusal: None },
        }
    }

    #[tokio::test]
    async fn the_latest_version_is_the_one_that_is_published() {
        on_each_engine_of_old(async |store| {
            assert_eq!(store.federation_lists().published().await?, None);
            for version in 1..=2 {
                let row = PublishedRow { version, issued_at: 1, expires_at: 2, entries: "{}".into() };
                let mut write = Write::new();
                publish(&mut write, &row);
                store.commit(write).await?;
                assert_eq!(store.federation_lists().published().await?, Some(row.clone()));
                let mut write = Write::new();
                publish(&mut write, &row);
                assert!(matches!(store.commit(write).await, Err(Error::Duplicate)));
            }
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_change_of_a_subscription_and_what_came_of_asking_do_not_overwrite_each_other() {
        on_each_engine(async |store| {
            let (p, q) = (server_name!("p.test"), server_name!("q.test"));
            let mut write = Write::new();
            put(&mut write, &subscription(p, 1));
            put(&mut write, &subscription(q, 1));
            put_document(&mut write, p, "{}");
            store.commit(write).await?;
            let refusal = RefusalRow { at: 9, code: "list_rollback".into(), reason: "it went back".into() };
            let asking = Asked { checked_at: 8, next_at: 20, refusal: Some(refusal) };
            let mut write = Write::new();
            asked(&mut write, p, &asking);
            store.commit(write).await?;
            let changed = SubscriptionRow { highest_level: TrustLevel::Full, ..subscription(p, 2) };
            let mut write = Write::new();
            put(&mut write, &changed);
            put_document(&mut write, p, r#"{"a":1}"#);
            store.commit(write).await?;
            let expected = SubscriptionRow { asked: asking, ..changed };
            assert_eq!(store.federation_lists().find(p).await?, Some(expected.clone()));
            assert_eq!(store.federation_lists().subscriptions().await?, [expected, subscription(q, 1)]);
            assert_eq!(store.federation_lists().document(p).await?.as_deref(), Some(r#"{"a":1}"#));
            assert_eq!(store.federation_lists().due(15, 9).await?, [q]);
            let mut write = Write::new();
            remove(&mut write, p);
            store.commit(write).await?;
            assert_eq!(store.federation_lists().find(p).await?, None);
            assert_eq!(store.federation_lists().document(p).await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn acquaintances_are_kept_until_a_list_is_open_again() {
        on_each_engine(async |store| {
            let act = |server: &str, rule: &str| ActRow {
                server: server.into(),
                day: 1,
                capability: "events".into(),
                direction: "in".into(),
                ceiling: String::new(),
                facts: String::new(),
                rule: rule.into(),
            };
            let mut write = Write::new();
            add_acts(&mut write, &act("b.test", ""), 1);
            add_acts(&mut write, &act("c.test", "blocked.events.no"), 1);
            let listed = ListedKeysRow {
                server: server_name!("b.test").to_owned(),
                listed: "{}".into(),
                moved: None,
                alarm: Some("another key".into()),
            };
            put_listed_keys(&mut write, &listed);
            put_acquaintance(&mut write, server_name!("p.test"), "b.test");
            store.commit(write).await?;
            let lists = store.federation_lists();
            assert_eq!(lists.acquainted_servers().await?, BTreeSet::from(["b.test".to_owned()]));
            assert_eq!(lists.acquaintances().await?, [(server_name!("p.test").to_owned(), "b.test".to_owned())]);
            assert_eq!(lists.listed_keys().await?, std::slice::from_ref(&listed));
            let mut write = Write::new();
            put_document(&mut write, server_name!("p.test"), "{}");
            remove_listed_keys(&mut write, &listed.server);
            store.commit(write).await?;
            assert!(lists.acquaintances().await?.is_empty() && lists.listed_keys().await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
