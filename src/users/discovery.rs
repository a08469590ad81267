//! What other servers find of this one's users on the native API, and how they are kept from reading the whole list.

use std::time::Duration;

use model::{Kind, Millis, Refusal, peer::Grant};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use store::{Write, user_directory};

use crate::{Limited, People, ProfileError, Rate, Users, limits::Buckets, millis, search::people_of};

/// A shorter part of a name finds nobody, in letters.
pub(crate) const MIN_TERM: usize = 3;
/// No name is longer.
pub(crate) const MAX_TERM: usize = 255;
/// How many people one search finds at most.
pub(crate) const MAX_FOUND: usize = 20;
/// How long a server finds nobody that seems to read the whole list.
const STOP: Duration = Duration::from_secs(10 * 60);
/// How many such servers are remembered.
const STOPPED: usize = 10_000;

/// How other servers look for people, in bounded memory.
pub(crate) struct Lookups {
    /// Searches.
    searches: Buckets<OwnedServerName>,
    /// People that searches have found: who goes through the alphabet finds ever more.
    found: Buckets<OwnedServerName>,
    /// Looking for somebody who isn't there: who guesses names misses most of the time.
    misses: Buckets<OwnedServerName>,
    /// Searches of this server's users on other servers.
    elsewhere: Buckets<OwnedUserId>,
    /// Servers that seemed to read the whole list, and until when they find nobody.
    stopped: Cache<OwnedServerName, Millis>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            searches: Buckets::new(Rate::per_second(1.0, 30)),
            found: Buckets::new(Rate::per_second(0.1, 200)),
            misses: Buckets::new(Rate::per_second(0.1, 100)),
            elsewhere: Buckets::new(Rate::per_second(1.0, 30)),
            stopped: Cache::new(STOPPED),
        }
    }
}

impl Lookups {
    /// Refuses one who looks for people of other servers too often.
    pub(crate) fn check_asker(&self, asker: &UserId) -> Result<(), Limited> {
        self.elsewhere.take(asker.to_owned())
    }

    fn check(&self, peer: &ServerName, now: Millis) -> Result<(), LookupError> {
        let wait = self.stopped.get(peer).map_or(0, |until| until - now);
        match u64::try_from(wait) {
            Ok(wait) if wait > 0 => Err(LookupError::Walk(Limited { retry_after: Duration::from_millis(wait) })),
            _ => Ok(()),
        }
    }

    /// Takes one from a bucket; whoever finds it empty finds nobody for a while.
    fn note(&self, bucket: &Buckets<OwnedServerName>, peer: &ServerName, now: Millis) {
        if bucket.take(peer.to_owned()).is_err() {
            self.stopped.insert(peer.to_owned(), now + millis(STOP));
        }
    }
}

/// Why another server was told of nobody.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is no such user, or it isn't for that server to know.
    #[error("there is no such user")]
    NotFound,
    /// Too little to look for.
    #[error("one looks for {MIN_TERM} to {MAX_TERM} letters of a name")]
    Term,
    /// Too often.
    #[error("your server looks for people too often")]
    TooOften(Limited),
    /// It goes through names one after the other.
    #[error("your server has looked for so many people that it seems to read the whole list")]
    Walk(Limited),
    /// The profile could not be read.
    #[error(transparent)]
    Profile(ProfileError),
    /// The store failed.
    #[error("users could not be looked for")]
    Store(#[from] store::Error),
}

impl Refusal for LookupError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound => Kind::NotFound,
            Self::Term => Kind::Invalid,
            Self::TooOften(_) | Self::Walk(_) => Kind::RateLimited,
            Self::Profile(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::NotFound => Some("unknown_user"),
            Self::Term => Some("bad_search_term"),
            Self::Walk(_) => Some("enumeration"),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::TooOften(limited) | Self::Walk(limited) => limited.retry_after_ms(),
            _ => None,
        }
    }
}

impl Users {
    /// The profile of a user of this server, for `peer`. Users who don't want to be found are told of only to servers that
    /// they share a room with. `grant`: how much of it, as the trust table has it.
    pub async fn profile_for_peer(
        &self,
        peer: &ServerName,
        user_id: &UserId,
        grant: Grant,
    ) -> Result<crate::Profile, LookupError> {
        self.lookups.check(peer, self.now())?;
        let found = self.find_for_peer(peer, user_id, grant).await;
        if let Err(LookupError::NotFound) = found {
            self.lookups.note(&self.lookups.misses, peer, self.now());
        }
        found
    }

    async fn find_for_peer(
        &self,
        peer: &ServerName,
        user_id: &UserId,
        grant: Grant,
    ) -> Result<crate::Profile, LookupError> {
        if !self.is_ours(user_id) || self.is_guest(user_id) || !self.is_active(user_id).await? {
            return Err(LookupError::NotFound);
        }
        if !self.is_listed(user_id).await? && !self.is_acquainted(peer, user_id).await? {
            return Err(LookupError::NotFound);
        }
        match self.profile_as_granted(user_id, grant).await {
            Ok(profile) => Ok(profile),
            Err(ProfileError::NotFound(_)) => Err(LookupError::NotFound),
            Err(error) => Err(LookupError::Profile(error)),
        }
    }

    /// Looks for users of this server, for `peer`, by a part of their name or, if `is_exact`, the whole of it. Found are
    /// those who want to be, 20 at most.
    pub async fn search_for_peer(&self, peer: &ServerName, term: &str, is_exact: bool) -> Result<People, LookupError> {
        let term = term.trim();
        if !(MIN_TERM..=MAX_TERM).contains(&term.chars().count()) {
            return Err(LookupError::Term);
        }
        let lookups = &self.lookups;
        lookups.check(peer, self.now())?;
        lookups.searches.take(peer.to_owned()).map_err(LookupError::TooOften)?;
        let rows = self.store.search_listed_users(&self.server_name, term, is_exact, MAX_FOUND + 1).await?;
        let found = people_of(rows, MAX_FOUND);
        for _ in &found.people {
            lookups.note(&lookups.found, peer, self.now());
        }
        Ok(found)
    }

    /// Whether a user shares a room with somebody of `server`.
    pub async fn is_acquainted(&self, server: &ServerName, user_id: &UserId) -> Result<bool, store::Error> {
        self.store.rooms().shares_a_room_with(user_id, server).await
    }

    /// Whether people of other servers find a user by searching.
    pub async fn is_listed(&self, user_id: &UserId) -> Result<bool, store::Error> {
        self.store.is_listed(user_id).await
    }

    /// Lets people of other servers find a user by searching, or not.
    pub async fn set_listed(&self, user_id: &UserId, is_listed: bool) -> Result<(), store::Error> {
        let mut write = Write::new();
        user_directory::set_listed(&mut write, user_id, is_listed, self.now());
        self.store.commit(write).await.map(drop)
    }

    /// Whether there is such an account here, and it has not been closed.
    pub async fn is_active(&self, user_id: &UserId) -> Result<bool, store::Error> {
        let account = self.store.accounts().find(user_id).await?;
        Ok(account.is_some_and(|account| account.deactivated_at.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::testing::with_users;

    #[tokio::test]
    async fn other_servers_find_those_who_want_to_be_found() {
        with_users(async |users, _| {
            for name in ["alice", "alicia", "bob"] {
                users.register_for_tests(name).await;
            }
            users.ensure_guest(user_id!("@alison:b.test")).await.expect("there is room");
            let b = server_name!("b.test");
            let search = async |term: &str, is_exact| {
                let found = users.search_for_peer(b, term, is_exact).await.expect(term);
                found.people.iter().map(|person| person.user_id.localpart().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(search("ALI", false).await, ["alice", "alicia"]);
            assert_eq!(search("alice", true).await, ["alice"]);
            assert_eq!(search("@alice:a.test", true).await, ["alice"]);
            assert!(search("alic", true).await.is_empty() && search("%li", false).await.is_empty());
            assert!(matches!(users.search_for_peer(b, " al ", false).await, Err(LookupError::Term)));

            let alice = user_id!("@alice:a.test");
            users.profile_for_peer(b, alice, Grant::Yes).await.expect("she is there");
            users.set_listed(alice, false).await.expect("it is stored");
            assert_eq!(search("ali", false).await, ["alicia"]);
            assert!(matches!(users.profile_for_peer(b, alice, Grant::Yes).await, Err(LookupError::NotFound)));
            users.set_listed(alice, true).await.expect("it is stored");
            assert_eq!(search("alice", true).await, ["alice"]);
            let guest = users.guest_id(user_id!("@alison:b.test")).expect("it fits");
            assert!(matches!(users.profile_for_peer(b, &guest, Grant::Yes).await, Err(LookupError::NotFound)));
        })
        .await;
    }

    #[tokio::test]
    async fn who_guesses_names_is_stopped_for_a_while_and_others_are_not() {
        with_users(async |users, clock| {
            users.register_for_tests("alice").await;
            let (b, c) = (server_name!("b.test"), server_name!("c.test"));
            let mut stopped = None;
            for at in 0..200 {
                let nobody = UserId::parse(format!("@user{at}:a.test")).expect("it is an id");
                if let Err(LookupError::Walk(_)) = users.profile_for_peer(b, &nobody, Grant::Yes).await {
                    stopped = Some(at);
                    break;
                }
            }
            assert!(stopped.is_some_and(|at| (100..150).contains(&at)), "{stopped:?}");
            let alice = user_id!("@alice:a.test");
            // Also by those who are there: else the walk went on between two hits.
            assert!(matches!(users.profile_for_peer(b, alice, Grant::Yes).await, Err(LookupError::Walk(_))));
            users.profile_for_peer(c, alice, Grant::Yes).await.expect("it has done nothing");
            clock.advance(millis(STOP));
            users.profile_for_peer(b, alice, Grant::Yes).await.expect("that was long ago");
        })
        .await;
    }
}
