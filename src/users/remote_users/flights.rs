//! Asking other servers: of each user once at a time, for all who want to know.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use metrics::counter;
use model::{Kind, Refusal as _};
use peers::PeerError;
use ruma::{OwnedUserId, UserId};
use store::{Write, remote_users as rows};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::warn;

use super::{
    RemoteUserError, RemoteUsers,
    entry::{Entry, Standing, Word},
    profile::RemoteProfile,
};

/// How many users are asked for at once.
const MOST: usize = 1_024;
/// How many of one server.
const MOST_OF_ONE_SERVER: usize = 128;
/// Rows are removed from the store each time that it has grown by this part of what is kept.
const SWEEP_PART: u32 = 64;

/// What asking came to, for each who waits.
type Landed = Result<Arc<Entry>, RemoteUserError>;
type Wait = watch::Receiver<Option<Landed>>;

/// Who is being asked for.
pub(super) type Flights = HashMap<OwnedUserId, Wait>;

/// One user who is being asked for, until it is dropped.
struct Flight {
    users: RemoteUsers,
    user_id: OwnedUserId,
    /// How often users had been purged when it began.
    begun: u64,
    /// Its place among those in the background.
    _permit: Option<OwnedSemaphorePermit>,
}

impl RemoteUsers {
    /// Asks the user's server, or waits with those who have asked already. Answers what is remembered from then on.
    pub(super) async fn ask(&self, user_id: &UserId) -> Landed {
        let mut wait = self.join(user_id, None)?;
        let landed = wait.wait_for(Option::is_some).await.ok().and_then(|landed| landed.clone());
        landed.unwrap_or_else(|| Err(broken_off()))
    }

    /// Sees to it that the user's server is asked, unless it was in vain a moment ago or there is too much to do.
    pub(super) fn ask_in_background(&self, user_id: &UserId, entry: &Entry) {
        if self.now() < entry.retry_at {
            return;
        }
        let Ok(permit) = self.shared.background.clone().try_acquire_owned() else {
            counter!("comity_remote_user_refreshes_skipped_total").increment(1);
            return;
        };
        // Too much to do: whoever looks the user up next tries again.
        let _ = self.join(user_id, Some(permit));
    }

    fn join(&self, user_id: &UserId, permit: Option<OwnedSemaphorePermit>) -> Result<Wait, RemoteUserError> {
        let mut book = self.book();
        if let Some(wait) = book.flights.get(user_id) {
            return Ok(wait.clone());
        }
        let server = user_id.server_name();
        let of_server = || book.flights.keys().filter(|user_id| user_id.server_name() == server).count();
        if book.flights.len() >= MOST || of_server() >= MOST_OF_ONE_SERVER {
            return Err(RemoteUserError::Busy { server: server.to_owned() });
        }
        let (tell, wait) = watch::channel(None);
        book.flights.insert(user_id.to_owned(), wait.clone());
        let (users, user_id, begun) = (self.clone(), user_id.to_owned(), book.purges);
        let flight = Flight { users, user_id, begun, _permit: permit };
        // It ends by itself: asking has a deadline, and so has the store. Nobody's leaving ends it for the others.
        tokio::spawn(async move {
            let landed = flight.fly().await;
            // Whoever comes from here on finds what is remembered.
            drop(flight);
            tell.send_replace(Some(landed));
        });
        Ok(wait)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.users.book().flights.remove(&self.user_id);
    }
}

impl Flight {
    async fn fly(&self) -> Landed {
        // Somebody else may have asked since it was looked at: here, or on another node.
        let known = self.users.shared.memory.get(&self.user_id);
        let stored = self.users.stored(&self.user_id).await?.map(Arc::new);
        let newest = [known, stored].into_iter().flatten().reduce(|known, stored| {
            // Of two that are as old memory knows more.
            if stored.fetched_at > known.fetched_at { stored } else { known }
        });
        if let Some(entry) = newest.as_ref().filter(|entry| self.users.standing(entry) == Standing::Fresh) {
            self.users.remember(&self.user_id, entry, self.begun);
            return Ok(entry.clone());
        }
        let answer = self.users.shared.source.ask(&self.user_id).await;
        let word = answer.map_or_else(Word::of_error, |answer| Ok(Word::Says(RemoteProfile::of_answer(answer))));
        let outcome = match &word {
            Ok(Word::Says(_)) => "found",
            Ok(Word::Missing) => "missing",
            Ok(Word::Refuses(_)) => "refused",
            Ok(Word::Silent { .. }) => "away",
            Err(_) => "failed",
        };
        counter!("comity_remote_user_fetches_total", "outcome" => outcome).increment(1);
        let before = newest.as_deref();
        let entry = Entry::after(word.map_err(not_the_servers)?, before, self.users.now(), &self.users.shared.config);
        let entry = Arc::new(entry);
        if let Err(error) = self.keep(&entry, before).await {
            // It is as good an answer; but what isn't kept isn't remembered.
            warn!(error = &error as &dyn std::error::Error, "failed to keep what a remote user's server said");
        }
        Ok(entry)
    }

    /// Keeps `entry` in the store and then in memory, unless users were purged since the flight began.
    async fn keep(&self, entry: &Arc<Entry>, before: Option<&Entry>) -> Result<(), store::Error> {
        let write = self.changes(entry, before);
        if !write.is_empty() {
            let slot = self.users.shared.store.reserve().await?;
            let pending = {
                let book = self.users.book();
                if book.purges != self.begun {
                    return Ok(());
                }
                slot.enqueue(write)
            };
            pending.committed().await?;
        }
        self.users.remember(&self.user_id, entry, self.begun);
        Ok(())
    }

    fn changes(&self, entry: &Entry, before: Option<&Entry>) -> Write {
        let mut write = Write::new();
        let was_found = before.is_some_and(Entry::is_found);
        match (entry.to_row(&self.user_id), entry.unanswered_since) {
            (Some(row), None) => {
                rows::put(&mut write, &row);
                let shared = &self.users.shared;
                let count = shared.put.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                if count.is_multiple_of((shared.config.kept / SWEEP_PART).max(1)) {
                    self.users.add_sweep(&mut write);
                }
            }
            // Once for each time that the server is away.
            (Some(_), Some(since)) if before.is_none_or(|before| before.unanswered_since.is_none()) => {
                rows::put_unanswered(&mut write, &self.user_id, since);
            }
            (None, _) if was_found => rows::remove(&mut write, &self.user_id),
            _ => {}
        }
        write
    }
}

fn not_the_servers(error: PeerError) -> RemoteUserError {
    match error {
        PeerError::Disabled => RemoteUserError::Disabled,
        PeerError::Store(error) => error.into(),
        error => RemoteUserError::Ours { kind: error.kind(), reason: error.to_string().into() },
    }
}

/// What is said when a flight ends without a word, as it does only by a fault of ours.
fn broken_off() -> RemoteUserError {
    RemoteUserError::Ours { kind: Kind::Internal, reason: "the look-up broke off".into() }
}
