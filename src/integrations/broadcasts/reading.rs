//! What somebody is told: the broadcasts that are for this one, and whether they were read.

use std::time::Duration;

use model::{Millis, Position};
use ruma::UserId;
use store::{Write, broadcasts};
use tokio::time::Instant;

use super::{Broadcast, BroadcastError, Broadcasts, Person, State};
use crate::now;

/// How many rows are looked at together …
const AT_ONCE: u32 = 200;
/// … and how often for one answer, so that one request costs only so much, however few of them are for its user.
const LOOKS: usize = 5;
/// How long a request waits without looking: another node may have published something.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Which of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only what was not read.
    pub unread: bool,
    /// Those published before this position, the latest first.
    pub before: Option<Position>,
    /// Those published, or called back, after this position, in order.
    pub after: Option<Position>,
    /// How many at most.
    pub limit: usize,
    /// With `after`: how long to wait for one.
    pub wait: Duration,
}

/// A broadcast as one of those sees it whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The broadcast.
    pub broadcast: Broadcast,
    /// When this one has read it on the native API.
    pub read_at: Option<Millis>,
    /// Whether this one has read it, there or in the notices room.
    pub is_read: bool,
}

/// Some of the broadcasts that are for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order that was asked for.
    pub broadcasts: Vec<Seen>,
    /// What `before` is on the next page; `None`: there is none.
    pub next: Option<Position>,
    /// What came later comes after this position.
    pub cursor: Position,
}

impl Broadcasts {
    /// The broadcasts that are for a user of this server. What has run out, or was called back, is left out; but who asks for
    /// what comes after a position is told of what was called back.
    pub async fn page(&self, user_id: &UserId, wanted: Wanted) -> Result<Page, BroadcastError> {
        match wanted.after {
            Some(after) => self.follow(user_id, after, wanted).await,
            None => self.look_back(user_id, wanted).await,
        }
    }

    /// The broadcast called `id`, if it is for a user, and is there.
    pub async fn get_for(&self, user_id: &UserId, id: &str) -> Result<Seen, BroadcastError> {
        let broadcast = self.get(id).await?;
        let person = self.person(user_id).await?.ok_or(BroadcastError::Unknown)?;
        if broadcast.row.position.is_none() || !broadcast.audience.has(&person) {
            return Err(BroadcastError::Unknown);
        }
        let Some(position) = broadcast.row.position else { return Err(BroadcastError::Unknown) };
        let before = Position(position.0 + 1);
        let rows = self.shared.store.broadcasts().published(user_id, before, 1).await?;
        let read_at = rows.into_iter().find(|(row, _)| row.id == id).and_then(|(_, read_at)| read_at);
        let read_upto = self.shared.store.notices().marker(user_id).await?.read_upto;
        Ok(Seen { is_read: read_at.is_some() || position <= read_upto, broadcast, read_at })
    }

    /// A user has read a broadcast.
    pub async fn read(&self, user_id: &UserId, id: &str) -> Result<(), BroadcastError> {
        let seen = self.get_for(user_id, id).await?;
        if seen.read_at.is_some() || seen.broadcast.state() == State::Cancelled {
            return Ok(());
        }
        let mut write = Write::new();
        broadcasts::read(&mut write, id, user_id, now());
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// A user of this server who has an account in use.
    pub(crate) async fn person(&self, user_id: &UserId) -> Result<Option<Person>, store::Error> {
        let account = self.shared.store.accounts().find(user_id).await?;
        let Some(account) = account.filter(|account| account.deactivated_at.is_none()) else { return Ok(None) };
        let role = self.shared.users.role_of(user_id).await?;
        Ok(Some(Person { user_id: user_id.to_owned(), role, since: account.created_at }))
    }

    async fn look_back(&self, user_id: &UserId, wanted: Wanted) -> Result<Page, BroadcastError> {
        let store = &self.shared.store;
        // Before the rest is read: what comes in between is told twice rather than not at all.
        let cursor = store.broadcasts().last_change().await?;
        let mut page = Page { broadcasts: Vec::new(), next: None, cursor };
        let Some(person) = self.person(user_id).await? else { return Ok(page) };
        let read_upto = store.notices().marker(user_id).await?.read_upto;
        let mut before = wanted.before.unwrap_or(Position(i64::MAX));
        for _ in 0..LOOKS {
            let rows = store.broadcasts().published(user_id, before, AT_ONCE).await?;
            let is_last = rows.len() < AT_ONCE as usize;
            for (row, read_at) in rows {
                before = row.position.unwrap_or(before);
                let seen = seen(row.into(), read_at, read_upto);
                let holds = seen.broadcast.state() == State::Published;
                if holds && seen.broadcast.audience.has(&person) && !(wanted.unread && seen.is_read) {
                    page.broadcasts.push(seen);
                }
                if page.broadcasts.len() == wanted.limit {
                    page.next = Some(before);
                    return Ok(page);
                }
            }
            if is_last {
                return Ok(page);
            }
        }
        page.next = Some(before);
        Ok(page)
    }

    async fn follow(&self, user_id: &UserId, after: Position, wanted: Wanted) -> Result<Page, BroadcastError> {
        let store = &self.shared.store;
        let mut page = Page { broadcasts: Vec::new(), next: None, cursor: after };
        let Some(person) = self.person(user_id).await? else { return Ok(page) };
        let deadline = Instant::now() + wanted.wait;
        let mut changed = self.shared.changed.subscribe();
        loop {
            // From here on nothing is missed.
            changed.mark_unchanged();
            let rows = store.broadcasts().changed(user_id, page.cursor, AT_ONCE).await?;
            let is_last = rows.len() < AT_ONCE as usize;
            let read_upto =
                if rows.is_empty() { Position(0) } else { store.notices().marker(user_id).await?.read_upto };
            for (row, read_at) in rows {
                page.cursor = row.changed.unwrap_or(page.cursor);
                let seen = seen(row.into(), read_at, read_upto);
                let is_news = matches!(seen.broadcast.state(), State::Published | State::Cancelled);
                if is_news && seen.broadcast.audience.has(&person) && !(wanted.unread && seen.is_read) {
                    page.broadcasts.push(seen);
                }
                if page.broadcasts.len() == wanted.limit {
                    return Ok(page);
                }
            }
            let is_due = Instant::now() >= deadline || self.shared.ending.is_cancelled();
            if is_last && (is_due || !page.broadcasts.is_empty()) {
                return Ok(page);
            }
            if is_last {
                tokio::select! {
                    _ = changed.changed() => {}
                    () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_EVERY)) => {}
                    () = self.shared.ending.cancelled() => {}
                }
            }
        }
    }
}

fn seen(broadcast: Broadcast, read_at: Option<Millis>, read_upto: Position) -> Seen {
    let is_read = read_at.is_some() || broadcast.row.position.is_some_and(|position| position <= read_upto);
    Seen { broadcast, read_at, is_read }
}
