//! The index of what was said: each engine's own full-text search, over terms that were cut before.
//!
//! The one table group that has a text for each engine. Terms hold letters, digits and what isn't ASCII, so none of them means
//! anything to either engine's language of queries; terms that begin with a private character are ours and say where, by whom
//! and under which key something was said. The room being such a term, a search in few rooms reads what was said there.

use model::{EventNid, Millis, Position, RoomNid, TimelineEvent};
use ruma::UserId;
use serde::Serialize;
use std::sync::Arc;

use crate::{Arg, Error, Store, Write, args, events, places};

/// What the row of a document is called in SQLite's index: `position` and so many, so that it is never negative.
const ROW_OF_POSITION: i64 = 1 << 52;
/// So many rooms are asked for at once.
const ROOMS_AT_ONCE: usize = 400;
/// So many events are asked for at once.
const AT_ONCE: usize = 64;

/// Where in an event a text stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `content.body` of what somebody said.
    Body,
    /// `content.name` of a room's name.
    Name,
    /// `content.topic` of a room's topic.
    Topic,
}

/// A text that can be found.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    /// What is found.
    pub event: &'a TimelineEvent,
    /// Where it stands in its room's timeline.
    pub position: Position,
    /// Whose text it is found by: its own, or that of its latest edit.
    pub text_nid: EventNid,
    /// Where the text stood.
    pub key: Key,
    /// The terms of the text: letters, digits and what isn't ASCII.
    pub terms: Vec<String>,
}

/// A term that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// This one.
    Exact(String),
    /// Any that begins so.
    Prefix(String),
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct HitsWanted<'a> {
    /// Who looks: found is what was said in rooms that the user is in, or was in until then.
    pub user_id: &'a UserId,
    /// All of them.
    pub terms: &'a [Term],
    /// In which rooms. None: nothing is found.
    pub rooms: &'a [RoomNid],
    /// By one of them; none: by anybody.
    pub senders: &'a [&'a UserId],
    /// Under one of them; none: under any.
    pub keys: &'a [Key],
    /// Only before here,
    pub before: Position,
    /// and not before this.
    pub from: Position,
    /// Made at or after this moment,
    pub made_from: Millis,
    /// and before this one.
    pub made_before: Millis,
    /// How many at most.
    pub limit: usize,
}

/// Something that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Where it stands.
    pub position: Position,
    /// What it is.
    pub nid: EventNid,
    /// Whose text it was found by.
    pub text_nid: EventNid,
    /// In which room.
    pub room_nid: RoomNid,
}

#[derive(Serialize)]
struct DocumentRow {
    position: i64,
    nid: i64,
    room_nid: i64,
    text_nid: i64,
    sent_at: i64,
    terms: String,
}

/// Reads and writes the index.
pub struct Search<'a>(&'a Store);

impl Store {
    /// Reads and writes the index of what was said.
    pub fn search(&self) -> Search<'_> {
        Search(self)
    }
}

impl Search<'_> {
    /// Puts documents into the index, each in the place of what was known of the same event. An event is named once at most.
    pub fn put(&self, write: &mut Write, documents: &[Document<'_>]) {
        const SQLITE_DOCUMENTS: &str = "
            INSERT INTO search_documents (position, nid, room_nid, text_nid, sent_at)
            SELECT json_extract(value, '$.position'), json_extract(value, '$.nid'), json_extract(value, '$.room_nid'),
                json_extract(value, '$.text_nid'), json_extract(value, '$.sent_at')
            FROM json_each($1)
            WHERE true
            ON CONFLICT (position) DO UPDATE SET text_nid = excluded.text_nid";
        const SQLITE_INDEX: &str = "
            INSERT OR REPLACE INTO search_index (rowid, terms)
            SELECT json_extract(value, '$.position') + $2, json_extract(value, '$.terms')
            FROM json_each($1)";
        const POSTGRES: &str = "
            INSERT INTO search_documents (position, nid, room_nid, text_nid, sent_at, terms)
            SELECT d.position, d.nid, d.room_nid, d.text_nid, d.sent_at, CAST(d.terms AS tsvector)
            FROM json_to_recordset(CAST($1 AS json)) AS d (
                position BIGINT, nid BIGINT, room_nid BIGINT, text_nid BIGINT, sent_at BIGINT, terms TEXT
            )
            ON CONFLICT (position) DO UPDATE SET text_nid = excluded.text_nid, terms = excluded.terms";
        if documents.is_empty() {
            return;
        }
        let rows: Vec<DocumentRow> = documents.iter().map(row).collect();
        let rows: Arc<str> = serde_json::to_string(&rows).expect("numbers and texts are JSON").into();
        if self.0.pool.is_postgres() {
            write.run(POSTGRES, args![rows]);
            return;
        }
        write.run(SQLITE_DOCUMENTS, args![rows.clone()]);
        write.run(SQLITE_INDEX, args![rows, ROW_OF_POSITION]);
    }

    /// Takes documents out of the index, by position; what isn't there stays away.
    pub fn remove(&self, write: &mut Write, positions: &[Position]) {
        const SQLITE_INDEX: &str = "DELETE FROM search_index WHERE rowid IN (SELECT value + $2 FROM json_each($1))";
        const SQLITE_DOCUMENTS: &str = "
            DELETE FROM search_documents
            WHERE position IN (SELECT value FROM json_each($1))";
        const POSTGRES: &str = "
            DELETE FROM search_documents
            WHERE position IN (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST($1 AS json)))";
        if positions.is_empty() {
            return;
        }
        let positions: Vec<i64> = positions.iter().map(|position| position.0).collect();
        let positions: Arc<str> = serde_json::to_string(&positions).expect("numbers are JSON").into();
        if self.0.pool.is_postgres() {
            write.run(POSTGRES, args![positions]);
            return;
        }
        write.run(SQLITE_INDEX, args![positions.clone(), ROW_OF_POSITION]);
        write.run(SQLITE_DOCUMENTS, args![positions]);
    }

    /// What was found, latest first.
    pub async fn hits(&self, wanted: &HitsWanted<'_>) -> Result<Vec<Hit>, Error> {
        let mut hits = Vec::new();
        for rooms in wanted.rooms.chunks(ROOMS_AT_ONCE) {
            hits.extend(self.hits_in(wanted, rooms).await?);
        }
        hits.sort_by_key(|hit: &Hit| std::cmp::Reverse(hit.position));
        hits.truncate(wanted.limit);
        Ok(hits)
    }

    async fn hits_in(&self, wanted: &HitsWanted<'_>, rooms: &[RoomNid]) -> Result<Vec<Hit>, Error> {
        const SQLITE: &str = "
            SELECT d.position, d.nid, d.text_nid, d.room_nid
            FROM search_index i
            CROSS JOIN search_documents d ON d.position = i.rowid - $8
            JOIN memberships m ON m.room_nid = d.room_nid AND m.user_id = $2
            WHERE i.search_index MATCH $1
                AND i.rowid < $3 + $8 AND i.rowid >= $4 + $8
                AND d.sent_at >= $5 AND d.sent_at < $6
                AND m.forgotten_at IS NULL AND (m.membership = 'join' OR d.position <= m.position)
            ORDER BY i.rowid DESC
            LIMIT $7";
        // The sum keeps the planner from going back through all that was ever said to find a rare word.
        const POSTGRES: &str = "
            SELECT d.position, d.nid, d.text_nid, d.room_nid
            FROM search_documents d
            JOIN memberships m ON m.room_nid = d.room_nid AND m.user_id = $2
            WHERE d.terms @@ CAST($1 AS tsquery)
                AND d.position + 0 < $3 AND d.position + 0 >= $4
                AND d.sent_at >= $5 AND d.sent_at < $6
                AND m.forgotten_at IS NULL AND (m.membership = 'join' OR d.position <= m.position)
            ORDER BY d.position + 0 DESC
            LIMIT $7";
        let is_postgres = self.0.pool.is_postgres();
        let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
        let bounded = |position: Position| position.0.clamp(1 - ROW_OF_POSITION, ROW_OF_POSITION);
        let mut args = args![
            expression(wanted, rooms, is_postgres),
            wanted.user_id.as_str(),
            bounded(wanted.before),
            bounded(wanted.from),
            wanted.made_from,
            wanted.made_before,
            limit,
        ];
        if !is_postgres {
            args.push(Arg::Int(ROW_OF_POSITION));
        }
        let rows = self.0.query(if is_postgres { POSTGRES } else { SQLITE }, args).await?;
        let hit = |row: &crate::Row| {
            Ok(Hit {
                position: Position(row.int(0)?),
                nid: EventNid(row.int(1)?),
                text_nid: EventNid(row.int(2)?),
                room_nid: RoomNid(row.int(3)?),
            })
        };
        rows.iter().map(hit).collect()
    }

    /// Which documents are found by the texts of these events.
    pub async fn found_by(&self, texts: &[EventNid]) -> Result<Vec<EventNid>, Error> {
        self.nids("SELECT nid FROM search_documents WHERE text_nid IN", texts).await
    }

    /// Those of these events that were edited, or seem to be.
    pub async fn edited(&self, among: &[EventNid]) -> Result<Vec<EventNid>, Error> {
        const EDITED: &str = "
            SELECT DISTINCT e.nid
            FROM events e
            JOIN relations r ON r.room_nid = e.room_nid AND r.parent_id = e.event_id AND r.rel_type = 'm.replace'
            WHERE e.nid IN";
        self.nids(EDITED, among).await
    }

    async fn nids(&self, sql: &'static str, among: &[EventNid]) -> Result<Vec<EventNid>, Error> {
        let mut found = Vec::new();
        for chunk in among.chunks(AT_ONCE) {
            // Statements of few sizes are prepared once.
            let size = chunk.len().next_power_of_two();
            let args = (0..size).map(|at| Arg::Int(chunk[at.min(chunk.len() - 1)].0)).collect();
            for row in self.0.query(format!("{sql} ({})", places(1, size)), args).await? {
                found.push(EventNid(row.int(0)?));
            }
        }
        Ok(found)
    }

    /// History that came later, after one position of the stream and up to another, in that order.
    pub async fn backfilled(&self, after: Position, upto: Position) -> Result<Vec<Arc<TimelineEvent>>, Error> {
        // That they are below 0 stands in the text, so that the index over such rows is used.
        const BACKFILLED: &str = "
            WHERE position < 0 AND position < $1 AND position >= $2 AND rejected_at IS NULL AND soft_failed_at IS NULL
            ORDER BY position DESC";
        let sql = format!("{}{BACKFILLED}", events::COLUMNS);
        let args = args![-after.0, upto.0.saturating_neg()];
        self.0.query(sql, args).await?.iter().map(events::event).collect()
    }
}

fn row(document: &Document<'_>) -> DocumentRow {
    let event = document.event;
    let ours = [room_term(event.room_nid), sender_term(&event.pdu.sender), key_term(document.key)];
    let terms: Vec<&str> = ours.iter().chain(&document.terms).map(String::as_str).collect();
    debug_assert!(document.terms.iter().all(|term| is_term(term)), "{:?}", document.terms);
    DocumentRow {
        position: document.position.0,
        nid: event.nid.0,
        room_nid: event.room_nid.0,
        text_nid: document.text_nid.0,
        sent_at: event.pdu.origin_server_ts.get().into(),
        terms: terms.join(" "),
    }
}

/// Whether both engines take it for one word, as it is.
fn is_term(term: &str) -> bool {
    let is_letter = |c: char| !c.is_ascii() && !c.is_whitespace() || c.is_ascii_digit() || c.is_ascii_lowercase();
    !term.is_empty() && term.chars().all(is_letter)
}

fn room_term(room: RoomNid) -> String {
    format!("\u{e000}{}", room.0)
}

/// FNV-1a of the user's id: ids have letters that mean something to the engines. Who shares it with another is told apart later.
fn sender_term(user_id: &UserId) -> String {
    let hash = user_id
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("\u{e001}{hash:016x}")
}

fn key_term(key: Key) -> String {
    let name = match key {
        Key::Body => "body",
        Key::Name => "name",
        Key::Topic => "topic",
    };
    format!("\u{e002}{name}")
}

/// What is looked for, in the engine's language.
fn expression(wanted: &HitsWanted<'_>, rooms: &[RoomNid], is_postgres: bool) -> String {
    let (and, or) = if is_postgres { (" & ", " | ") } else { (" AND ", " OR ") };
    let quoted = |term: &str| if is_postgres { format!("'{term}'") } else { format!("\"{term}\"") };
    let any = |terms: Vec<String>| {
        let terms: Vec<String> = terms.iter().map(|term| quoted(term)).collect();
        format!("({})", terms.join(or))
    };
    let mut all: Vec<String> = wanted
        .terms
        .iter()
        .map(|term| match term {
            Term::Exact(term) => quoted(term),
            Term::Prefix(term) if is_postgres => format!("{}:*", quoted(term)),
            Term::Prefix(term) => format!("{} *", quoted(term)),
        })
        .collect();
    debug_assert!(wanted.terms.iter().all(|(Term::Exact(term) | Term::Prefix(term))| is_term(term)));
    all.push(any(rooms.iter().copied().map(room_term).collect()));
    if !wanted.senders.is_empty() {
        all.push(any(wanted.senders.iter().map(|sender| sender_term(sender)).collect()));
    }
    if !wanted.keys.is_empty() {
        all.push(any(wanted.keys.iter().copied().map(key_term).collect()));
    }
    all.join(and)
}

#[cfg(test)]
mod tests;
