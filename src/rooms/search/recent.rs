//! The latest events, so that the index follows without reading while it keeps up.

use std::{collections::VecDeque, sync::Arc};

use model::{Change, Committed, EventNid, Position, TimelineEvent};

/// How many are remembered; who is further behind reads the store.
const MOST: usize = 2_000;

/// What bears on what can be found.
#[derive(Clone, Debug)]
pub(super) enum Touched {
    /// An event came, which stands there.
    Came(Position, Arc<TimelineEvent>),
    /// An event lost its content.
    Redacted(EventNid),
}

/// What came lately, as it was told.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Nothing is remembered until somebody follows.
    is_followed: bool,
    touched: VecDeque<(Position, Touched)>,
    /// What isn't remembered did not happen after this,
    floor: Position,
    /// and up to here.
    upto: Position,
}

impl Recent {
    /// From now on it is remembered what comes after `visible`. Answers from where on that is.
    pub(super) fn begin(&mut self, visible: Position) -> Position {
        self.is_followed = true;
        self.upto = self.upto.max(visible);
        self.floor = self.upto;
        self.touched.clear();
        self.upto
    }

    /// Nobody follows any more.
    pub(super) fn end(&mut self) {
        self.is_followed = false;
        self.touched.clear();
    }

    pub(super) fn ingest(&mut self, committed: &Committed) {
        self.upto = self.upto.max(committed.upto);
        if !self.is_followed {
            return;
        }
        if committed.gap {
            self.touched.clear();
            self.floor = self.floor.max(committed.upto);
        }
        for (position, change) in committed.changes.iter() {
            let touched = match change {
                Change::Event(event) => Touched::Came(*position, event.clone()),
                Change::Redacted(event) => Touched::Redacted(event.nid),
                _ => continue,
            };
            self.touched.push_back((*position, touched));
        }
        while self.touched.len() > MOST {
            if let Some((position, _)) = self.touched.pop_front() {
                self.floor = self.floor.max(position);
            }
        }
    }

    /// Everything after `at` and up to `upto`, or, if that isn't remembered, from where on it is.
    pub(super) fn between(&self, at: Position, upto: Position) -> Result<Vec<(Position, Touched)>, Position> {
        if at < self.floor {
            return Err(self.floor);
        }
        let in_stretch = |(position, _): &&(Position, Touched)| *position > at && *position <= upto;
        Ok(self.touched.iter().filter(in_stretch).cloned().collect())
    }

    /// What came up to here is needed no more.
    pub(super) fn taken(&mut self, upto: Position) {
        while self.touched.front().is_some_and(|(position, _)| *position <= upto) {
            self.touched.pop_front();
        }
        self.floor = self.floor.max(upto);
    }

    /// Everything up to here was heard of.
    pub(super) fn upto(&self) -> Position {
        self.upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(positions: &[i64], upto: i64, gap: bool) -> Committed {
        let changes: Vec<_> = positions.iter().map(|at| (Position(*at), Change::Redacted(event()))).collect();
        Committed { upto: Position(upto), changes: changes.into(), gap, foreign: false }
    }

    fn event() -> Arc<TimelineEvent> {
        let json = serde_json::json!({
            "type": "m.room.message", "sender": "@alice:a.test", "room_id": "!room:a.test", "content": {},
            "prev_events": [], "auth_events": [], "depth": 1, "origin_server_ts": 1, "hashes": {}, "signatures": {},
        });
        let event_id = ruma::event_id!("$one").to_owned();
        let pdu = model::Pdu::from_stored(event_id, json.to_string().into(), false).expect("this is an event");
        Arc::new(TimelineEvent {
            nid: EventNid(1),
            room_nid: model::RoomNid(1),
            position: Position(0),
            seq: None,
            state_before: None,
            room_state: None,
            pdu: Arc::new(pdu),
            transaction_id: None,
            redacted_by: None,
            soft_failed: false,
            withheld_below: None,
        })
    }

    fn told(recent: &Recent, at: i64, upto: i64) -> Result<Vec<i64>, i64> {
        let told = recent.between(Position(at), Position(upto));
        told.map(|told| told.iter().map(|(at, _)| at.0).collect()).map_err(|floor| floor.0)
    }

    #[test]
    fn what_is_remembered_is_whole_or_said_not_to_be() {
        let mut recent = Recent::default();
        recent.ingest(&commit(&[1], 1, false));
        assert_eq!(recent.begin(Position(0)), Position(1), "nobody followed when it came");
        assert_eq!(told(&recent, 0, 9), Err(1));
        recent.ingest(&commit(&[2, 4], 5, false));
        recent.ingest(&commit(&[6], 6, false));
        assert_eq!(told(&recent, 1, 5), Ok(vec![2, 4]));
        assert_eq!(told(&recent, 4, 6), Ok(vec![6]));
        recent.taken(Position(4));
        assert_eq!((told(&recent, 2, 6), told(&recent, 4, 6)), (Err(4), Ok(vec![6])));
        recent.ingest(&commit(&[], 9, true));
        assert_eq!((told(&recent, 6, 9), told(&recent, 9, 9)), (Err(9), Ok(vec![])));
        let many: Vec<i64> = (10..10 + MOST as i64 + 1).collect();
        recent.ingest(&commit(&many, 10 + MOST as i64, false));
        assert_eq!(told(&recent, 9, 12), Err(10));
        assert_eq!(told(&recent, 10, 12), Ok(vec![11, 12]));
        recent.end();
        recent.ingest(&commit(&[5_000], 5_000, false));
        assert_eq!(recent.begin(Position(0)), Position(5_000));
    }
}
