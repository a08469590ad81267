//! What this node knows of who is there.
//!
//! The store has what was told last of everybody. Here is what this node has seen itself, of its own users and of those of whom other
//! servers told it, and a copy of the rest. What another node writes is doubted from the moment that this one hears of it, before
//! anybody is woken, until it was read.

use std::collections::HashMap;

use model::{Change, Committed, Millis, UserStream};
use ruma::{OwnedUserId, UserId, presence::PresenceState};
use store::presence::PresenceRow;

use super::IDLE_AFTER;

/// How many users of other servers, and of other nodes, are followed.
const MOST: usize = 100_000;

/// Those who are not offline.
#[derive(Default)]
pub(crate) struct Present {
    /// Of this server, and seen by this node.
    pub(super) users: HashMap<OwnedUserId, Here>,
    /// Of other servers, as they say to this node.
    pub(super) remote: HashMap<OwnedUserId, Here>,
    /// As other nodes have written.
    pub(super) elsewhere: HashMap<OwnedUserId, Here>,
    /// When the remote ones were last looked through.
    pub(super) looked_at: Millis,
    /// Whether those who were there before this process started have been looked up.
    pub(super) is_loaded: bool,
    /// Of whom another node wrote something that was not read yet, each with the number of the doubt.
    doubted: HashMap<OwnedUserId, u64>,
    /// Nobody knows of whom.
    doubts_all: Option<u64>,
    doubts: u64,
    /// Of whom this node is writing something, and how many times over.
    writing: HashMap<OwnedUserId, usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Here {
    pub(super) state: PresenceState,
    pub(super) status_msg: Option<String>,
    pub(super) last_active_at: Millis,
    pub(super) last_sync_at: Millis,
    /// Said by the user, not seen: stays until the user is gone.
    pub(super) is_chosen: bool,
    /// When the other nodes were last told that this one has seen the user.
    pub(super) noted_at: Millis,
}

impl Here {
    /// As it stands in the store, if anybody is there.
    pub(super) fn of(row: &PresenceRow, now: Millis) -> Self {
        Self {
            state: row.state.clone(),
            status_msg: row.status_msg.clone(),
            last_active_at: row.last_active_at,
            last_sync_at: now,
            is_chosen: is_chosen(row, now),
            noted_at: 0,
        }
    }
}

/// Who is away while active says so; who is away for want of doing anything was active a while ago.
fn is_chosen(row: &PresenceRow, now: Millis) -> bool {
    row.state == PresenceState::Unavailable && now - row.last_active_at < IDLE_AFTER
}

impl Present {
    pub(super) fn find(&self, user_id: &UserId) -> Option<&Here> {
        self.users.get(user_id).or_else(|| self.remote.get(user_id)).or_else(|| self.elsewhere.get(user_id))
    }

    /// Whether the user may be there.
    pub(super) fn may_be_there(&self, user_id: &UserId) -> bool {
        self.find(user_id).is_some() || self.doubted.contains_key(user_id)
    }

    // === what other nodes write ===

    /// Takes note of what somebody else has committed.
    pub(crate) fn doubt(&mut self, committed: &Committed) {
        if committed.gap {
            self.doubts += 1;
            self.doubts_all = Some(self.doubts);
        }
        for (_, change) in committed.changes.iter() {
            let (Change::PresenceElsewhere { user_id, .. } | Change::User { user_id, stream: UserStream::Presence }) =
                change
            else {
                continue;
            };
            self.doubts += 1;
            if self.doubted.len() < MOST {
                self.doubted.insert(user_id.clone(), self.doubts);
            } else {
                self.doubts_all = Some(self.doubts);
            }
        }
    }

    /// Whether what is known of the user may be old. What this node is writing itself it knows.
    pub(super) fn doubt_of(&self, user_id: &UserId) -> Option<u64> {
        let doubt = self.doubted.get(user_id).copied().max(self.doubts_all);
        doubt.filter(|_| !self.writing.contains_key(user_id))
    }

    /// Everything may be old, or what is known of these users.
    pub(super) fn doubted(&self) -> (Option<u64>, Vec<OwnedUserId>) {
        (self.doubts_all, self.doubted.keys().cloned().collect())
    }

    /// What the store says of a user, as it was read after `doubt` was asked for.
    pub(super) fn settle(&mut self, user_id: &UserId, row: Option<&PresenceRow>, doubt: Option<u64>, now: Millis) {
        if self.writing.contains_key(user_id) {
            return;
        }
        self.adopt(user_id, row, now);
        if self.doubted.get(user_id).is_some_and(|last| doubt >= Some(*last)) {
            self.doubted.remove(user_id);
        }
    }

    /// What the store says of everybody who isn't offline.
    pub(super) fn settle_all(&mut self, rows: &[PresenceRow], doubt: u64, now: Millis) {
        let found: HashMap<&UserId, &PresenceRow> = rows.iter().map(|row| (&*row.user_id, row)).collect();
        let known = self.users.keys().chain(self.remote.keys()).chain(self.elsewhere.keys());
        let gone: Vec<OwnedUserId> = known.filter(|user_id| !found.contains_key(&***user_id)).cloned().collect();
        for user_id in gone {
            self.settle(&user_id, None, Some(doubt), now);
        }
        for row in rows {
            self.settle(&row.user_id, Some(row), Some(doubt), now);
        }
        self.doubted.retain(|_, last| *last > doubt);
        self.doubts_all = self.doubts_all.filter(|last| *last > doubt);
    }

    fn adopt(&mut self, user_id: &UserId, row: Option<&PresenceRow>, now: Millis) {
        let Some(row) = row.filter(|row| row.state != PresenceState::Offline) else {
            self.remote.remove(user_id);
            self.elsewhere.remove(user_id);
            if let Some(here) = self.users.get_mut(user_id) {
                // Who is seen here is said to be there again, within a second.
                here.state = PresenceState::Offline;
                here.is_chosen = false;
            }
            return;
        };
        let seen_here = self.users.get_mut(user_id).or_else(|| self.remote.get_mut(user_id));
        if let Some(here) = seen_here {
            if here.state != row.state {
                here.is_chosen = is_chosen(row, now);
            }
            here.state = row.state.clone();
            here.status_msg.clone_from(&row.status_msg);
            here.last_active_at = here.last_active_at.max(row.last_active_at);
        } else if self.elsewhere.contains_key(user_id) || self.elsewhere.len() < MOST {
            self.elsewhere.insert(user_id.to_owned(), Here::of(row, now));
        }
    }

    // === what this node writes ===

    /// This node is about to write something of a user.
    pub(super) fn begin_writing(&mut self, user_id: &UserId) {
        *self.writing.entry(user_id.to_owned()).or_default() += 1;
    }

    /// It was written, or not.
    pub(super) fn end_writing(&mut self, user_id: &UserId) {
        if let Some(times) = self.writing.get_mut(user_id) {
            *times -= 1;
            if *times == 0 {
                self.writing.remove(user_id);
            }
        }
    }

    /// A user whom another node has seen is seen here too.
    pub(super) fn comes_here(&mut self, user_id: &UserId, now: Millis) {
        if !self.users.contains_key(user_id)
            && let Some(there) = self.elsewhere.remove(user_id)
        {
            self.users.insert(user_id.to_owned(), Here { last_sync_at: now, noted_at: 0, ..there });
        }
    }

    /// A user is seen by other nodes alone.
    pub(super) fn goes_elsewhere(&mut self, user_id: &UserId) {
        let gone = self.users.remove(user_id).or_else(|| self.remote.remove(user_id));
        if let Some(here) = gone.filter(|here| here.state != PresenceState::Offline) {
            self.elsewhere.insert(user_id.to_owned(), here);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Position;
    use ruma::user_id;

    use super::*;

    fn row(state: PresenceState, last_active_at: Millis) -> PresenceRow {
        let user_id = user_id!("@alice:a.test").to_owned();
        PresenceRow { user_id, state, status_msg: None, last_active_at, position: Position(1) }
    }

    fn told(gap: bool) -> Committed {
        let user_id = user_id!("@alice:a.test").to_owned();
        let change = Change::PresenceElsewhere { user_id, room_nids: [].into() };
        let changes = if gap { Vec::new() } else { vec![(Position(1), change)] };
        Committed { upto: Position(1), changes: changes.into(), gap, foreign: true }
    }

    #[test]
    fn what_another_node_wrote_is_doubted_until_it_was_read_after_it_was_heard() {
        let alice = user_id!("@alice:a.test");
        for gap in [false, true] {
            let mut present = Present::default();
            assert_eq!(present.doubt_of(alice), None);
            present.doubt(&told(gap));
            let before = present.doubt_of(alice);
            assert!(before.is_some());
            present.doubt(&told(gap));
            let online = row(PresenceState::Online, 7);
            let settle = |present: &mut Present, doubt: Option<u64>| match gap {
                true => present.settle_all(std::slice::from_ref(&online), doubt.expect("there is one"), 8),
                false => present.settle(alice, Some(&online), doubt, 8),
            };
            settle(&mut present, before);
            assert!(present.doubt_of(alice).is_some(), "what was read may be older than the second word");
            let doubt = present.doubt_of(alice);
            settle(&mut present, doubt);
            assert_eq!(present.doubt_of(alice), None);
            assert!(present.elsewhere.contains_key(alice));
        }
    }

    #[test]
    fn what_this_node_writes_itself_is_not_overwritten_by_what_was_read_before() {
        let alice = user_id!("@alice:a.test");
        let mut present = Present::default();
        present.users.insert(alice.to_owned(), Here::of(&row(PresenceState::Online, 7), 8));
        present.begin_writing(alice);
        present.doubt(&told(false));
        assert_eq!(present.doubt_of(alice), None, "it is known here");
        present.settle(alice, None, Some(1), 9);
        assert_eq!(present.users[alice].state, PresenceState::Online);
        present.end_writing(alice);
        let doubt = present.doubt_of(alice);
        assert!(doubt.is_some(), "now it is to be read");
        present.settle(alice, None, doubt, 9);
        assert_eq!(present.users[alice].state, PresenceState::Offline, "and said again by who sees the user");
    }

    #[test]
    fn who_is_away_while_active_has_chosen_that() {
        let alice = user_id!("@alice:a.test");
        let mut present = Present::default();
        present.users.insert(alice.to_owned(), Here::of(&row(PresenceState::Online, 0), 0));
        present.settle(alice, Some(&row(PresenceState::Unavailable, 0)), None, IDLE_AFTER + 1);
        assert!(!present.users[alice].is_chosen, "nothing was done for long");
        present.settle(alice, Some(&row(PresenceState::Online, IDLE_AFTER)), None, IDLE_AFTER + 2);
        present.settle(alice, Some(&row(PresenceState::Unavailable, IDLE_AFTER)), None, IDLE_AFTER + 3);
        assert!(present.users[alice].is_chosen);
    }
}
