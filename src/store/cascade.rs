//! What full peers told of their people, their phones and their organisations, and how far each was read.

use std::collections::HashMap;

use model::Millis;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{
    Arg, Error, Row, Store, Table, Write, args,
    directory::{FactsRow, UnitRow, facts_at, unit},
    places,
    sip_phones::PhoneRow,
    user_directory::escaped,
};

static PEOPLE: Table = Table {
    insert: "
        INSERT INTO cascade_people
            (user_id, server, walk, closed_at, display_name, folded_name, avatar_url, title, department, unit_id)",
    columns: 10,
    conflict: "
        ON CONFLICT (user_id) DO UPDATE SET
            walk = excluded.walk,
            closed_at = excluded.closed_at,
            display_name = excluded.display_name,
            folded_name = excluded.folded_name,
            avatar_url = excluded.avatar_url,
            title = excluded.title,
            department = excluded.department,
            unit_id = excluded.unit_id",
    key: 1,
};

static PHONES: Table = Table {
    insert: "INSERT INTO cascade_phones (user_id, number, server, walk, uri, kind, label)",
    columns: 7,
    conflict: "
        ON CONFLICT (user_id, number) DO UPDATE SET
            walk = excluded.walk,
            uri = excluded.uri,
            kind = excluded.kind,
            label = excluded.label",
    key: 2,
};

static UNITS: Table = Table {
    insert: "INSERT INTO cascade_units (server, unit_id, walk, name, parent)",
    columns: 5,
    conflict: "
        ON CONFLICT (server, unit_id) DO UPDATE SET
            walk = excluded.walk,
            name = excluded.name,
            parent = excluded.parent",
    key: 2,
};

/// How far the directory of a peer was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Whose.
    pub server: OwnedServerName,
    /// From where on it is to be read; `None`: from the beginning.
    pub token: Option<String>,
    /// How often it was begun from the beginning.
    pub walk: i64,
    /// The last such walk that came to the end; 0: none did.
    pub whole: i64,
    /// What no walk since told again was removed after this one.
    pub swept: i64,
    /// How many entries came since it last said that there are no more.
    pub walked: i64,
    /// When it was last asked.
    pub asked_at: Option<Millis>,
    /// When it last said that there are no more.
    pub told_at: Option<Millis>,
    /// When it is asked again.
    pub next_at: Millis,
    /// How often it was asked in vain since.
    pub failures: i64,
    /// Why.
    pub trouble: Option<String>,
    /// How many of its entries were not taken.
    pub refused: i64,
}

impl PeerRow {
    /// One that was never asked.
    pub fn new(server: OwnedServerName, next_at: Millis) -> Self {
        Self {
            server,
            token: None,
            walk: 0,
            whole: 0,
            swept: 0,
            walked: 0,
            asked_at: None,
            told_at: None,
            next_at,
            failures: 0,
            trouble: None,
            refused: 0,
        }
    }
}

/// Somebody, as their server told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonRow {
    /// Who.
    pub user_id: OwnedUserId,
    /// When it was heard that the account is closed.
    pub closed_at: Option<Millis>,
    /// The name.
    pub display_name: Option<String>,
    /// The picture, an `mxc://` URI.
    pub avatar_url: Option<String>,
    /// What the person is in the organisation.
    pub facts: FactsRow,
}

// === Writing ===

/// Sets how far the directory of a peer was read, unless somebody wants it to be read from elsewhere than from `read`, which is the
/// token that the row had: then nothing of it is set.
pub fn put_peer(write: &mut Write, row: &PeerRow, read: Option<&str>) {
    const PUT: &str = "
        INSERT INTO cascade_peers
            (server, token, walk, whole, swept, walked, asked_at, told_at, next_at, failures, trouble, refused)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        ON CONFLICT (server) DO UPDATE SET
            token = excluded.token,
            walk = excluded.walk,
            whole = excluded.whole,
            swept = excluded.swept,
            walked = excluded.walked,
            asked_at = excluded.asked_at,
            told_at = excluded.told_at,
            next_at = excluded.next_at,
            failures = excluded.failures,
            trouble = excluded.trouble,
            refused = excluded.refused
        WHERE COALESCE(cascade_peers.token, '') = $13";
    let mut values = args![row.server.as_str(), row.token.as_deref(), row.walk, row.whole, row.swept, row.walked];
    values.extend(args![row.asked_at, row.told_at, row.next_at, row.failures, row.trouble.as_deref(), row.refused]);
    values.push(read.unwrap_or_default().into());
    write.run(PUT, values);
}

/// A peer is asked at `at`, if not sooner; `anew`: from the beginning.
pub fn ask_at(write: &mut Write, server: &ServerName, at: Millis, anew: bool) {
    const SOON: &str = "UPDATE cascade_peers SET next_at = $2 WHERE server = $1 AND next_at > $2";
    write.run(SOON, args![server.as_str(), at]);
    if anew {
        write.run("UPDATE cascade_peers SET token = NULL WHERE server = $1", args![server.as_str()]);
    }
}

/// What a peer told is no longer in use, whatever of it is there.
pub fn reset_peer(write: &mut Write, server: &ServerName) {
    const RESET: &str = "
        UPDATE cascade_peers
        SET token = NULL, walk = 0, whole = 0, swept = 0, told_at = NULL
        WHERE server = $1";
    write.run(RESET, args![server.as_str()]);
}

/// Nothing is known of how far a peer was read.
pub fn remove_peer(write: &mut Write, server: &ServerName) {
    write.run("DELETE FROM cascade_peers WHERE server = $1", args![server.as_str()]);
}

/// Sets what is known of somebody; the phones are set by themselves.
pub fn put_person(write: &mut Write, walk: i64, row: &PersonRow) {
    let folded = row.display_name.as_ref().map(|name| name.to_lowercase());
    let mut values = args![row.user_id.as_str(), row.user_id.server_name().as_str(), walk, row.closed_at];
    values.extend(args![row.display_name.as_deref(), folded, row.avatar_url.as_deref()]);
    let FactsRow { title, department, unit_id } = &row.facts;
    values.extend(args![title.as_deref(), department.as_deref(), unit_id.as_deref()]);
    write.insert(&PEOPLE, values);
}

/// Nothing is known of somebody.
pub fn remove_person(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM cascade_people WHERE user_id = $1", args![user_id.as_str()]);
    remove_phones(write, user_id);
}

/// Adds a phone of somebody of a peer.
pub fn put_phone(write: &mut Write, walk: i64, row: &PhoneRow) {
    let mut values = args![row.user_id.as_str(), row.number.as_str(), row.user_id.server_name().as_str(), walk];
    values.extend(args![row.uri.as_deref(), row.kind.as_str(), row.label.as_deref()]);
    write.insert(&PHONES, values);
}

/// Removes the phones of somebody of a peer.
pub fn remove_phones(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM cascade_phones WHERE user_id = $1", args![user_id.as_str()]);
}

/// Sets a unit of a peer.
pub fn put_unit(write: &mut Write, walk: i64, server: &ServerName, row: &UnitRow) {
    let values = args![server.as_str(), row.unit_id.as_str(), walk, row.name.as_str(), row.parent.as_deref()];
    write.insert(&UNITS, values);
}

/// Removes a unit of a peer.
pub fn remove_unit(write: &mut Write, server: &ServerName, unit_id: &str) {
    const REMOVE: &str = "DELETE FROM cascade_units WHERE server = $1 AND unit_id = $2";
    write.run(REMOVE, args![server.as_str(), unit_id]);
}

/// Removes a thousand rows of each table at most that no walk from `walk` on has told of; see [`Cascade::has_older`].
pub fn sweep(write: &mut Write, server: &ServerName, walk: i64) {
    const PEOPLE: &str = "
        DELETE FROM cascade_people
        WHERE user_id IN (SELECT user_id FROM cascade_people WHERE server = $1 AND walk < $2 LIMIT 1000)";
    const PHONES: &str = "
        DELETE FROM cascade_phones
        WHERE (user_id, number) IN (SELECT user_id, number FROM cascade_phones WHERE server = $1 AND walk < $2 LIMIT 1000)";
    const UNITS: &str = "
        DELETE FROM cascade_units
        WHERE server = $1
            AND unit_id IN (SELECT unit_id FROM cascade_units WHERE server = $1 AND walk < $2 LIMIT 1000)";
    for sql in [PEOPLE, PHONES, UNITS] {
        write.run(sql, args![server.as_str(), walk]);
    }
}

// === Reading ===

/// Reads what full peers told.
pub struct Cascade<'a>(&'a Store);

impl Store {
    /// Reads what full peers told.
    pub fn cascade(&self) -> Cascade<'_> {
        Cascade(self)
    }
}

const PEER: &str = "
    SELECT server, token, walk, whole, swept, walked, asked_at, told_at, next_at, failures, trouble, refused
    FROM cascade_peers";
const PERSON: &str = "
    SELECT user_id, closed_at, display_name, avatar_url, title, department, unit_id
    FROM cascade_people";

impl Cascade<'_> {
    /// How far each peer was read, by name.
    pub async fn peers(&self) -> Result<Vec<PeerRow>, Error> {
        let rows = self.0.query(format!("{PEER} ORDER BY server"), Vec::new()).await?;
        rows.iter().map(peer).collect()
    }

    /// How far one peer was read.
    pub async fn peer(&self, server: &ServerName) -> Result<Option<PeerRow>, Error> {
        let rows = self.0.query(format!("{PEER} WHERE server = $1"), args![server.as_str()]).await?;
        rows.first().map(peer).transpose()
    }

    /// How many people, phones and units are known of a peer.
    pub async fn counts(&self, server: &ServerName) -> Result<[i64; 3], Error> {
        const COUNT: &str = "
            SELECT (SELECT COUNT(*) FROM cascade_people WHERE server = $1),
                (SELECT COUNT(*) FROM cascade_phones WHERE server = $1),
                (SELECT COUNT(*) FROM cascade_units WHERE server = $1)";
        let rows = self.0.query(COUNT, args![server.as_str()]).await?;
        let row = rows.first().ok_or_else(|| Error::Corrupt("a count has no row".into()))?;
        Ok([row.int(0)?, row.int(1)?, row.int(2)?])
    }

    /// Whether anything of a peer is left that no walk from `walk` on has told of.
    pub async fn has_older(&self, server: &ServerName, walk: i64) -> Result<bool, Error> {
        const OLDER: &str = "
            SELECT 1
            WHERE EXISTS (SELECT 1 FROM cascade_people WHERE server = $1 AND walk < $2)
                OR EXISTS (SELECT 1 FROM cascade_phones WHERE server = $1 AND walk < $2)
                OR EXISTS (SELECT 1 FROM cascade_units WHERE server = $1 AND walk < $2)";
        Ok(!self.0.query(OLDER, args![server.as_str(), walk]).await?.is_empty())
    }

    /// Up to `limit` open accounts of `server` whose name or localpart has `term` in it, by id; upper and lower case are the same.
    pub async fn search(&self, server: &ServerName, term: &str, limit: usize) -> Result<Vec<PersonRow>, Error> {
        let sql = format!(
            r"{PERSON}
            WHERE server = $1 AND closed_at IS NULL
                AND (user_id = $2 OR user_id LIKE $3 ESCAPE '\' OR folded_name LIKE $4 ESCAPE '\')
            ORDER BY user_id
            LIMIT $5"
        );
        let lower = term.to_lowercase();
        // The server's own name is in every id: only what stands before it counts.
        let localpart = format!("@%{}%:{}", escaped(lower.trim_start_matches('@')), escaped(server.as_str()));
        let name = format!("%{}%", escaped(&lower));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.0.query(sql, args![server.as_str(), lower, localpart, name, limit]).await?;
        rows.iter().map(person).collect()
    }

    /// What is known of some people; of whom nothing is known is left out.
    pub async fn people(&self, user_ids: &[&UserId]) -> Result<HashMap<OwnedUserId, PersonRow>, Error> {
        if user_ids.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!("{PERSON} WHERE user_id IN ({})", places(1, user_ids.len()));
        let args = user_ids.iter().map(|user_id| Arg::from(user_id.as_str())).collect();
        let rows = self.0.query(sql, args).await?;
        rows.iter().map(|row| person(row).map(|person| (person.user_id.clone(), person))).collect()
    }

    /// Up to `limit` units of a peer, by id.
    pub async fn units(&self, server: &ServerName, limit: u32) -> Result<Vec<UnitRow>, Error> {
        const UNITS: &str =
            "SELECT unit_id, name, parent FROM cascade_units WHERE server = $1 ORDER BY unit_id LIMIT $2";
        self.0.query(UNITS, args![server.as_str(), i64::from(limit)]).await?.iter().map(unit).collect()
    }
}

fn peer(row: &Row) -> Result<PeerRow, Error> {
    Ok(PeerRow {
        server: row.parse(0)?,
        token: row.opt_text(1)?,
        walk: row.int(2)?,
        whole: row.int(3)?,
        swept: row.int(4)?,
        walked: row.int(5)?,
        asked_at: row.opt_int(6)?,
        told_at: row.opt_int(7)?,
        next_at: row.int(8)?,
        failures: row.int(9)?,
        trouble: row.opt_text(10)?,
        refused: row.int(11)?,
    })
}

fn person(row: &Row) -> Result<PersonRow, Error> {
    Ok(PersonRow {
        user_id: row.parse(0)?,
        closed_at: row.opt_int(1)?,
        display_name: row.opt_text(2)?,
        avatar_url: row.opt_text(3)?,
        facts: facts_at(row, 4)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::{
        sip_phones::{PhoneRow, Wanted},
        testing::on_each_engine,
    };

    fn row(user_id: &UserId, name: &str) -> PersonRow {
        let facts = FactsRow { title: Some("CEO".into()), department: None, unit_id: None };
        let display_name = Some(name.to_owned());
        PersonRow { user_id: user_id.to_owned(), closed_at: None, display_name, avatar_url: None, facts }
    }

    #[tokio::test]
    async fn what_a_peer_told_is_found_until_it_is_swept_away() {
        on_each_engine(async |store| {
            let (b, c) = (server_name!("b.test"), server_name!("c.test"));
            let (bob, ute, cat) = (user_id!("@bob:b.test"), user_id!("@ute:b.test"), user_id!("@cat:c.test"));
            let phone = |user_id: &UserId| PhoneRow {
                user_id: user_id.to_owned(),
                number: "1001".into(),
                uri: None,
                kind: "desk".into(),
                label: None,
            };
            let unit = UnitRow { unit_id: "x".into(), name: "X".into(), parent: None };
            let mut write = Write::new();
            for (server, user_id, name) in [(b, bob, "Bob"), (b, ute, "ÜTE 100%"), (c, cat, "Cat")] {
                put_person(&mut write, 1, &row(user_id, name));
                put_phone(&mut write, 1, &phone(user_id));
                put_unit(&mut write, 1, server, &unit);
            }
            let mut peer = PeerRow::new(b.to_owned(), 7);
            (peer.told_at, peer.whole) = (Some(5), 1);
            put_peer(&mut write, &peer, None);
            store.commit(write).await?;
            let cascade = store.cascade();
            assert_eq!(cascade.peer(b).await?, Some(peer.clone()));
            assert_eq!(cascade.counts(b).await?, [2, 2, 1]);
            let found = async |term: &str| cascade.search(b, term, 9).await;
            assert_eq!(found("üte").await?, [row(ute, "ÜTE 100%")]);
            assert_eq!(found("0%").await?.len(), 1);
            assert_eq!(found("@BOB:b.test").await?, [row(bob, "Bob")]);
            assert!(found("b.test").await?.is_empty() && found("cat").await?.is_empty());
            let wanted = Wanted { number: Some("1001".into()), limit: 9, ..Wanted::default() };
            let phones = store.sip_phones().find_elsewhere(&wanted, &[b.to_owned(), c.to_owned()]).await?;
            assert_eq!(phones.len(), 2, "of C it isn't known how far it was read");
            assert_eq!((phones[1].display_name.as_deref(), phones[1].told_at), (Some("ÜTE 100%"), Some(5)));

            // Bob is told of again, Ute is not.
            let mut write = Write::new();
            put_person(&mut write, 2, &PersonRow { closed_at: Some(9), ..row(bob, "Robert") });
            remove_phones(&mut write, bob);
            put_peer(&mut write, &PeerRow { token: Some("t".into()), ..peer.clone() }, None);
            ask_at(&mut write, b, 3, true);
            put_peer(&mut write, &PeerRow { token: Some("u".into()), ..peer.clone() }, Some("t"));
            sweep(&mut write, b, 2);
            store.commit(write).await?;
            assert_eq!(cascade.peers().await?, [PeerRow { next_at: 3, ..peer }]);
            assert!(!cascade.has_older(b, 2).await? && cascade.has_older(c, 2).await?);
            assert_eq!(cascade.counts(b).await?, [1, 0, 0]);
            assert!(found("rob").await?.is_empty(), "the account is closed");
            let known = cascade.people(&[bob, ute]).await?;
            assert_eq!(known.get(bob).and_then(|bob| bob.closed_at), Some(9));
            assert_eq!((known.len(), cascade.units(c, 9).await?), (1, vec![unit]));
            let mut write = Write::new();
            remove_person(&mut write, bob);
            remove_unit(&mut write, c, "x");
            remove_peer(&mut write, b);
            store.commit(write).await?;
            assert!(cascade.peers().await?.is_empty() && cascade.people(&[bob]).await?.is_empty());
            assert!(cascade.units(c, 9).await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
