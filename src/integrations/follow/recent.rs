//! What happened lately, so that following the stream needs no reading while one keeps up with it.

use std::{collections::VecDeque, sync::Arc};

use model::{Change, Committed, Position, TimelineEvent, UserStream};
use ruma::{OwnedUserId, ServerName};

/// How many things are remembered; who is further behind reads the store.
const MOST: usize = 10_000;

/// Something that is told to other programs.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// An event in a room.
    Event(Arc<TimelineEvent>),
    /// Somebody's presence is different.
    Presence(OwnedUserId),
    /// A system event was recorded.
    SystemEvent(Arc<str>),
    /// A broadcast was published, or called back.
    Broadcast(Arc<str>),
    /// Somebody's membership of a room that this server isn't in changed. Other programs are told nothing of it.
    Outside(Arc<TimelineEvent>),
    /// Somebody of this server has read something. Other programs are told nothing of it.
    Read(OwnedUserId),
}

impl News {
    fn is_told(&self) -> bool {
        !matches!(self, Self::Outside(_) | Self::Read(_))
    }
}

/// What was heard of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// There may be something to tell other programs.
    pub(super) is_told: bool,
    /// There may be something.
    pub(super) is_anything: bool,
}

/// The latest news.
#[derive(Debug, Default)]
pub(super) struct Recent {
    news: VecDeque<(Position, News)>,
    /// What isn't in `news` did not happen after this.
    floor: Position,
    /// Everything up to here was heard of.
    upto: Position,
}

/// What comes after a position.
#[derive(Debug)]
pub(super) enum After {
    /// These, and nothing else up to there.
    News(Vec<(Position, News)>, Position),
    /// It is further back than is remembered, which is from there on.
    Forgotten(Position),
}

impl Recent {
    /// Nothing up to `position` was heard of, and everything after it is.
    pub(super) fn begin(&mut self, position: Position) {
        self.floor = self.floor.max(position);
        self.upto = self.upto.max(position);
        self.news.retain(|(at, _)| *at > position);
    }

    /// Takes note of a commit. `us`: this server.
    pub(super) fn ingest(&mut self, committed: &Committed, us: &ServerName) -> Heard {
        let mut heard = Heard { is_told: committed.gap, is_anything: committed.gap };
        if committed.gap {
            self.news.clear();
            self.floor = self.floor.max(committed.upto);
        }
        for (position, change) in committed.changes.iter() {
            let news = match change {
                Change::Event(event) if position.0 > 0 => News::Event(event.clone()),
                Change::User { user_id, stream: UserStream::Presence } | Change::PresenceElsewhere { user_id, .. } => {
                    News::Presence(user_id.clone())
                }
                Change::SystemEvent { id } => News::SystemEvent(id.clone()),
                Change::Broadcast { id } => News::Broadcast(id.clone()),
                Change::OutsideMembership(event) => News::Outside(event.clone()),
                Change::Receipt { receipt, .. } if receipt.user_id.server_name() == us => {
                    News::Read(receipt.user_id.clone())
                }
                _ => continue,
            };
            let is_new = *position > self.upto;
            heard.is_anything |= is_new;
            heard.is_told |= is_new && news.is_told();
            self.news.push_back((*position, news));
        }
        while self.news.len() > MOST {
            if let Some((position, _)) = self.news.pop_front() {
                self.floor = self.floor.max(position);
            }
        }
        self.upto = self.upto.max(committed.upto);
        heard
    }

    /// Up to where everything was heard of.
    pub(super) fn upto(&self) -> Position {
        self.upto
    }

    /// The first `most` news after `position`.
    pub(super) fn after(&self, position: Position, most: usize) -> After {
        if position < self.floor {
            return After::Forgotten(self.floor);
        }
        let from = self.news.partition_point(|(at, _)| *at <= position);
        let news: Vec<_> = self.news.range(from..).take(most).cloned().collect();
        // News of one commit may be cut in two, but each has a position of its own.
        let upto = match news.last() {
            Some((at, _)) if news.len() == most => *at,
            _ => self.upto,
        };
        After::News(news, upto)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    fn commit(positions: &[i64], upto: i64, gap: bool) -> Committed {
        let change = || Change::User { user_id: user_id!("@u:a.test").to_owned(), stream: UserStream::Presence };
        let changes: Vec<_> = positions.iter().map(|at| (Position(*at), change())).collect();
        Committed { upto: Position(upto), changes: changes.into(), gap, foreign: false }
    }

    fn told(recent: &Recent, after: i64, most: usize) -> (Vec<i64>, i64) {
        match recent.after(Position(after), most) {
            After::News(news, upto) => (news.iter().map(|(at, _)| at.0).collect(), upto.0),
            After::Forgotten(floor) => panic!("forgotten up to {floor:?}"),
        }
    }

    #[test]
    fn everything_is_told_once_and_in_order() {
        let mut recent = Recent::default();
        let us = server_name!("a.test");
        assert!(recent.ingest(&commit(&[1, 2], 2, false), us).is_told);
        assert!(!recent.ingest(&commit(&[], 4, false), us).is_anything);
        assert!(recent.ingest(&commit(&[5], 6, false), us).is_told);
        assert_eq!(told(&recent, 0, 2), (vec![1, 2], 2));
        assert_eq!(told(&recent, 2, 2), (vec![5], 6));
        assert_eq!(told(&recent, 6, 2), (vec![], 6));
    }

    #[test]
    fn what_came_before_one_listened_is_not_passed_over() {
        let mut recent = Recent::default();
        recent.ingest(&commit(&[7, 8], 8, false), server_name!("a.test"));
        recent.begin(Position(7));
        assert!(matches!(recent.after(Position(3), 5), After::Forgotten(Position(7))));
        assert_eq!(told(&recent, 7, 5), (vec![8], 8));
    }

    #[test]
    fn what_is_not_remembered_is_said_to_be_forgotten() {
        let mut recent = Recent::default();
        recent.ingest(&commit(&[1], 1, false), server_name!("a.test"));
        recent.ingest(&commit(&[], 9, true), server_name!("a.test"));
        recent.ingest(&commit(&[10], 10, false), server_name!("a.test"));
        assert!(matches!(recent.after(Position(0), 5), After::Forgotten(Position(9))));
        assert_eq!(told(&recent, 9, 5), (vec![10], 10));
        let many: Vec<_> = (11..11 + MOST as i64).collect();
        recent.ingest(&commit(&many, 11 + MOST as i64, false), server_name!("a.test"));
        recent.ingest(&commit(&[50_000], 50_000, false), server_name!("a.test"));
        assert!(matches!(recent.after(Position(10), 5), After::Forgotten(Position(11))));
    }
}
