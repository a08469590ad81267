//! Other servers as admins have set them, and what they do.

use std::collections::BTreeMap;

use model::{
    Millis,
    peer::{PeerPattern, TrustLevel},
};

use crate::{Error, Row, Store, Table, Write, args};

static PEERS: Table = Table {
    insert: "INSERT INTO peers (pattern, level, inactive_at, alarm, settings, expires_at, revision, changed_by, changed_at)",
    columns: 9,
    conflict: "ON CONFLICT (pattern) DO UPDATE
        SET level = excluded.level, inactive_at = excluded.inactive_at, alarm = excluded.alarm,
            settings = excluded.settings, expires_at = excluded.expires_at, revision = excluded.revision,
            changed_by = excluded.changed_by, changed_at = excluded.changed_at",
    key: 1,
};

/// A peer as an admin has set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Which servers it is about.
    pub pattern: PeerPattern,
    /// How far they are trusted.
    pub level: TrustLevel,
    /// Since when it is switched off.
    pub inactive_at: Option<Millis>,
    /// Which key it signs with instead of a pinned one.
    pub alarm: Option<String>,
    /// Everything else, JSON.
    pub settings: String,
    /// From then on the row counts for nothing.
    pub expires_at: Option<Millis>,
    /// The number of the audit entry of its last change.
    pub revision: i64,
    /// Who made that change.
    pub changed_by: String,
    /// When.
    pub changed_at: Millis,
}

/// Sets a peer.
pub fn put(write: &mut Write, row: &PeerRow) {
    let values = args![
        row.pattern.to_string(),
        row.level.as_str(),
        row.inactive_at,
        row.alarm.as_deref(),
        row.settings.as_str(),
        row.expires_at,
        row.revision,
        row.changed_by.as_str(),
        row.changed_at
    ];
    write.insert(&PEERS, values);
}

/// Forgets what was set for a peer.
pub fn remove(write: &mut Write, pattern: &PeerPattern) {
    write.run("DELETE FROM peers WHERE pattern = $1", args![pattern.to_string()]);
}

/// Something that a peer did, or that was done towards it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActRow {
    /// The peer.
    pub server: String,
    /// Days since 1970.
    pub day: i64,
    /// Of the trust table.
    pub capability: String,
    /// `in` or `out`.
    pub direction: String,
    /// The level that the room demanded, or nothing.
    pub ceiling: String,
    /// What was known then.
    pub facts: String,
    /// By which rule it was refused, or nothing.
    pub rule: String,
}

/// Adds to how often something was done.
pub fn add_acts(write: &mut Write, row: &ActRow, acts: i64) {
    const ADD: &str = "
        INSERT INTO peer_acts (server, day, capability, direction, ceiling, facts, rule, acts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (server, day, capability, direction, ceiling, facts, rule) DO UPDATE
        SET acts = peer_acts.acts + excluded.acts";
    let ActRow { server, day, capability, direction, ceiling, facts, rule } = row;
    write.run(
        ADD,
        args![
            server.as_str(),
            *day,
            capability.as_str(),
            direction.as_str(),
            ceiling.as_str(),
            facts.as_str(),
            rule.as_str(),
            acts
        ],
    );
}

/// Forgets what was done before `day`.
pub fn prune_acts(write: &mut Write, day: i64) {
    write.run("DELETE FROM peer_acts WHERE day < $1", args![day]);
}

/// Reads peers.
pub struct Peers<'a>(&'a Store);

impl Store {
    /// Reads peers as admins have set them.
    pub fn peers(&self) -> Peers<'_> {
        Peers(self)
    }
}

impl Peers<'_> {
    /// All of them, by name.
    pub async fn list(&self) -> Result<Vec<PeerRow>, Error> {
        const LIST: &str = "
            SELECT pattern, level, inactive_at, alarm, settings, expires_at, revision, changed_by, changed_at
            FROM peers
            ORDER BY pattern";
        self.0.query(LIST, Vec::new()).await?.iter().map(read).collect()
    }

    /// One of them.
    pub async fn find(&self, pattern: &PeerPattern) -> Result<Option<PeerRow>, Error> {
        const FIND: &str = "
            SELECT pattern, level, inactive_at, alarm, settings, expires_at, revision, changed_by, changed_at
            FROM peers
            WHERE pattern = $1";
        self.0.query(FIND, args![pattern.to_string()]).await?.first().map(read).transpose()
    }

    /// What was done since `day`, and how often: by one peer, or by all.
    pub async fn acts_since(&self, server: Option<&str>, day: i64) -> Result<BTreeMap<ActRow, i64>, Error> {
        const LIST: &str = "
            SELECT server, day, capability, direction, ceiling, facts, rule, acts
            FROM peer_acts
            WHERE day >= $1 AND ($2 = '' OR server = $2)
            ORDER BY day, server
            LIMIT 100000";
        let rows = self.0.query(LIST, args![day, server.unwrap_or_default()]).await?;
        rows.iter()
            .map(|row| {
                let act = ActRow {
                    server: row.text(0)?,
                    day: row.int(1)?,
                    capability: row.text(2)?,
                    direction: row.text(3)?,
                    ceiling: row.text(4)?,
                    facts: row.text(5)?,
                    rule: row.text(6)?,
                };
                Ok((act, row.int(7)?))
            })
            .collect()
    }
}

fn read(row: &Row) -> Result<PeerRow, Error> {
    let corrupt = |what: String| Error::Corrupt(format!("peers: {what}"));
    Ok(PeerRow {
        pattern: row.text(0)?.parse().map_err(|error| corrupt(format!("{error}")))?,
        level: row.text(1)?.parse().map_err(|error| corrupt(format!("{error}")))?,
        inactive_at: row.opt_int(2)?,
        alarm: row.opt_text(3)?,
        settings: row.text(4)?,
        expires_at: row.opt_int(5)?,
        revision: row.int(6)?,
        changed_by: row.text(7)?,
        changed_at: row.int(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_each_engine, on_each_engine_of_old};

    fn row(pattern: &str, level: TrustLevel) -> PeerRow {
        PeerRow {
            pattern: pattern.parse().expect("it is one"),
            level,
            inactive_at: None,
            alarm: None,
            settings: "{}".into(),
            expires_at: Some(9),
            revision: 1,
            changed_by: "@admin:a.test".into(),
            changed_at: 5,
        }
    }

    #[tokio::test]
    async fn a_peer_is_as_it_was_set_last_until_it_is_removed() {
        on_each_engine_of_old(async |store| {
            let mut write = Write::new();
            put(&mut write, &row("b.test", TrustLevel::Full));
            put(&mut write, &row("*.c.test", TrustLevel::Blocked));
            store.commit(write).await?;
            let changed = PeerRow { inactive_at: Some(7), ..row("b.test", TrustLevel::Limited) };
            let mut write = Write::new();
            put(&mut write, &changed);
            store.commit(write).await?;
            assert_eq!(store.peers().list().await?, [row("*.c.test", TrustLevel::Blocked), changed.clone()]);
            assert_eq!(store.peers().find(&changed.pattern).await?, Some(changed.clone()));
            let mut write = Write::new();
            remove(&mut write, &changed.pattern);
            store.commit(write).await?;
            assert_eq!(store.peers().find(&changed.pattern).await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn acts_add_up_by_day_and_are_forgotten() {
        on_each_engine(async |store| {
            let act = |day, rule: &str| ActRow {
                server: "b.test".into(),
                day,
                capability: "typing".into(),
                direction: "in".into(),
                ceiling: String::new(),
                facts: String::new(),
                rule: rule.into(),
            };
            for _ in 0..2 {
                let mut write = Write::new();
                add_acts(&mut write, &act(3, ""), 2);
                add_acts(&mut write, &act(4, "limited.typing.no"), 1);
                store.commit(write).await?;
            }
            let found = store.peers().acts_since(Some("b.test"), 3).await?;
            assert_eq!(found, BTreeMap::from([(act(3, ""), 4), (act(4, "limited.typing.no"), 2)]));
            assert!(store.peers().acts_since(Some("c.test"), 3).await?.is_empty());
            let mut write = Write::new();
            prune_acts(&mut write, 4);
            store.commit(write).await?;
            assert_eq!(store.peers().acts_since(None, 0).await?.len(), 1);
            Ok::<_, Error>(())
        })
        .await;
    }
}
