//! What events relate to, counted.

use std::collections::HashMap;

use model::{Position, RoomNid};
use ruma::{OwnedEventId, OwnedUserId, UserId};

use crate::{Arg, Error, args, events::Events, places};

/// How often one user relates to one event in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationCount {
    /// `m.replace`, `m.thread` or `m.reference`.
    pub rel_type: String,
    /// Who.
    pub sender: OwnedUserId,
    /// How often.
    pub count: u64,
}

impl Events<'_> {
    /// For each of `parents` to which something relates: how often who does, in the ways that are told with an event.
    /// Only what became visible by `upto`, and was neither redacted nor refused.
    pub async fn relation_counts(
        &self,
        room: RoomNid,
        parents: &[OwnedEventId],
        upto: Position,
    ) -> Result<HashMap<OwnedEventId, Vec<RelationCount>>, Error> {
        const AT_ONCE: usize = 64;
        let mut counts: HashMap<OwnedEventId, Vec<RelationCount>> = HashMap::new();
        for chunk in parents.chunks(AT_ONCE) {
            // Statements of few sizes are prepared once.
            let size = chunk.len().next_power_of_two();
            let sql = format!(
                "SELECT r.parent_id, r.rel_type, r.sender, COUNT(*)
                 FROM relations r
                 JOIN events e ON e.nid = r.event_nid AND e.redacted_by IS NULL AND e.rejected_at IS NULL
                     AND e.soft_failed_at IS NULL AND e.withheld_below IS NULL
                 WHERE r.room_nid = $1 AND r.position <= $2 AND r.parent_id IN ({})
                     AND r.rel_type IN ('m.replace', 'm.thread', 'm.reference')
                 GROUP BY r.parent_id, r.rel_type, r.sender",
                places(3, size)
            );
            let mut args = args![room.0, upto];
            args.extend((0..size).map(|at| Arg::from(chunk[at.min(chunk.len() - 1)].as_str())));
            for row in self.0.query(sql, args).await? {
                counts.entry(row.parse(0)?).or_default().push(RelationCount {
                    rel_type: row.text(1)?,
                    sender: row.parse(2)?,
                    count: row.int(3)?.unsigned_abs(),
                });
            }
        }
        Ok(counts)
    }

    /// The roots of a room's threads whose latest event became visible by `upto`, the most recently answered first,
    /// with the position of that latest event. `participant`: only threads that this user began or answered.
    pub async fn threads(
        &self,
        room: RoomNid,
        upto: Position,
        participant: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<(OwnedEventId, Position)>, Error> {
        const THREADS: &str = "
            SELECT r.parent_id, MAX(r.position) AS latest
            FROM relations r
            JOIN events e ON e.nid = r.event_nid AND e.redacted_by IS NULL AND e.rejected_at IS NULL
                AND e.soft_failed_at IS NULL AND e.withheld_below IS NULL
            JOIN events root ON root.event_id = r.parent_id AND root.room_nid = r.room_nid
            WHERE r.room_nid = $1 AND r.rel_type = 'm.thread'
                AND ($2 = '' OR root.sender = $2 OR r.parent_id IN (
                    SELECT own.parent_id
                    FROM relations own
                    WHERE own.room_nid = $1 AND own.rel_type = 'm.thread' AND own.sender = $2
                ))
            GROUP BY r.parent_id
            HAVING MAX(r.position) <= $3
            ORDER BY latest DESC
            LIMIT $4";
        let participant = participant.map_or("", UserId::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.0.query(THREADS, args![room.0, participant, upto, limit]).await?;
        rows.iter().map(|row| Ok((row.parse(0)?, Position(row.int(1)?)))).collect()
    }
}
