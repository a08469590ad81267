//! Those who follow everything that happens here, in the order of the one stream.

use std::sync::Arc;

use model::{Millis, Position, TimelineEvent};

use crate::{Error, Store, Write, args, events, presence};

/// Adds a follower who begins after `position`, unless there is such a one.
pub fn begin(write: &mut Write, name: &str, position: Position, now: Millis) {
    const BEGIN: &str = "INSERT INTO followers (name, position, moved_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    write.run(BEGIN, args![name, position, now]);
}

/// `name` has passed on everything up to `position`. It never goes back.
pub fn moved(write: &mut Write, name: &str, position: Position, now: Millis) {
    const MOVED: &str = "UPDATE followers SET position = $2, moved_at = $3 WHERE name = $1 AND position < $2";
    write.run(MOVED, args![name, position, now]);
}

/// Reads what followers need.
pub struct Followers<'a>(&'a Store);

impl Store {
    /// Reads what those need who follow everything.
    pub fn followers(&self) -> Followers<'_> {
        Followers(self)
    }
}

impl Followers<'_> {
    /// How far a follower has come; `None`: there is no such one.
    pub async fn position(&self, name: &str) -> Result<Option<Position>, Error> {
        const FIND: &str = "SELECT position FROM followers WHERE name = $1";
        self.0.query(FIND, args![name]).await?.first().map(|row| row.int(0).map(Position)).transpose()
    }

    /// Every event that became visible after one position and up to another, in order, those that were refused left out.
    ///
    /// It looks into each room, so that events need no further index: meant for making up for what was missed.
    pub async fn events(&self, after: Position, upto: Position) -> Result<Vec<Arc<TimelineEvent>>, Error> {
        const EVENTS: &str = "
            SELECT e.nid, e.event_id, e.room_nid, e.position, e.state_before_nid, e.json, e.transaction_id, e.rejected_at,
                e.soft_failed_at, e.redacted_by, e.room_state_nid, e.withheld_below, e.seq
            FROM rooms r
            JOIN events e ON e.room_nid = r.nid AND e.position > $1 AND e.position <= $2
            WHERE e.rejected_at IS NULL AND e.soft_failed_at IS NULL
            ORDER BY e.position";
        self.0.query(EVENTS, args![after, upto]).await?.iter().map(events::event).collect()
    }

    /// Whose presence changed after one position and up to another, and was not changed again since.
    pub async fn presence(&self, after: Position, upto: Position) -> Result<Vec<presence::PresenceRow>, Error> {
        let sql = format!("{} WHERE p.position > $1 AND p.position <= $2 ORDER BY p.position", presence::COLUMNS);
        self.0.query(sql, args![after, upto]).await?.iter().map(presence::presence).collect()
    }
}

#[cfg(test)]
mod tests {
    use model::RoomNid;
    use ruma::api::Direction;

    use super::*;
    use crate::testing::{on_each_engine, on_each_engine_of_old};

    #[tokio::test]
    async fn what_was_missed_is_read_as_it_stands_in_its_room() {
        on_each_engine_of_old(async |store| {
            let room = RoomNid(1);
            let missed = store.followers().events(Position(0), Position(i64::MAX)).await?;
            assert!(missed.is_sorted_by_key(|event| event.position));
            let missed: Vec<_> = missed.into_iter().filter(|event| event.room_nid == room).collect();
            assert!(missed.len() > 1);
            let before = Position(i64::MIN + 1);
            let timeline = store.events().timeline(room, before, None, 1000, Direction::Forward).await?;
            let known = |event: &Arc<TimelineEvent>| (event.pdu.event_id.clone(), event.position, event.seq);
            let told =
                |event: &&Arc<TimelineEvent>| event.position > Position(0) && !event.pdu.rejected && !event.soft_failed;
            assert_eq!(
                missed.iter().map(known).collect::<Vec<_>>(),
                timeline.iter().filter(told).map(known).collect::<Vec<_>>()
            );
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_follower_begins_once_and_never_goes_back() {
        on_each_engine(async |store| {
            assert_eq!(store.followers().position("bus").await?, None);
            type Step = fn(&mut Write);
            let steps: [(Step, i64); 4] = [
                (|write| begin(write, "bus", Position(5), 1), 5),
                (|write| moved(write, "bus", Position(9), 2), 9),
                (|write| moved(write, "bus", Position(7), 3), 9),
                (|write| begin(write, "bus", Position(1), 4), 9),
            ];
            for (step, expected) in steps {
                let mut write = Write::new();
                step(&mut write);
                store.commit(write).await?;
                assert_eq!(store.followers().position("bus").await?, Some(Position(expected)));
            }
            Ok::<_, Error>(())
        })
        .await;
    }
}
