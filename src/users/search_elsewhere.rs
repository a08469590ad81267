//! Looking for people of other servers: in what full peers have told of theirs, or on their native API, as far as the two
//! servers trust each other.

use model::{
    Address, Kind, Refusal,
    peer::{Capability, Context},
};
use peers::{PeerError, Scope, TrustError};
use ruma::{OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use url::form_urlencoded;

use crate::{
    Limited, People, Users,
    discovery::{MAX_FOUND, MAX_TERM, MIN_TERM},
    search::Person,
};

/// No name that another server tells is longer, in letters.
const LONGEST_NAME: usize = 255;
/// Nor any address of a picture.
const LONGEST_ADDRESS: usize = 1_000;

/// Why nobody was found on another server.
#[derive(Debug, thiserror::Error)]
pub enum SearchElsewhereError {
    /// Too little to look for.
    #[error("one looks for {MIN_TERM} to {MAX_TERM} letters of a name")]
    Term,
    /// Too often.
    #[error("you look for people of other servers too often")]
    TooOften(#[from] Limited),
    /// This server's trust policy doesn't allow it.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The other server can't be asked, or doesn't want to tell.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl Refusal for SearchElsewhereError {
    fn kind(&self) -> Kind {
        match self {
            Self::Term => Kind::Invalid,
            Self::TooOften(_) => Kind::RateLimited,
            Self::Trust(error) => error.kind(),
            Self::Peer(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Term => Some("bad_search_term"),
            Self::Trust(error) => error.code(),
            Self::TooOften(_) | Self::Peer(_) => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::TooOften(limited) => limited.retry_after_ms(),
            Self::Peer(error) => error.retry_after_ms(),
            Self::Term | Self::Trust(_) => None,
        }
    }
}

/// What another server answers.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    users: Vec<ToldUser>,
    #[serde(default)]
    limited: bool,
}

#[derive(Deserialize)]
struct ToldUser {
    matrix_id: OwnedUserId,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    avatar_url: Option<String>,
}

impl Users {
    /// Looks for users of `server` by a part of their name, or by the whole of it if that server trusts this one no further. A
    /// full peer that has told of all its people isn't asked.
    pub async fn search_at(
        &self,
        asker: &UserId,
        server: &ServerName,
        term: &str,
    ) -> Result<People, SearchElsewhereError> {
        let term = term.trim();
        if !(MIN_TERM..=MAX_TERM).contains(&term.chars().count()) {
            return Err(SearchElsewhereError::Term);
        }
        self.peers.trust().allow(server, Capability::PeopleSearch, &Context::outbound())?;
        if let Some(found) = self.search_synchronised(server, term).await.map_err(PeerError::from)? {
            return Ok(found);
        }
        self.lookups.check_asker(asker)?;
        let query: String = form_urlencoded::byte_serialize(term.as_bytes()).collect();
        let uri = format!("/api/v1/federation/users?q={query}");
        let subject = Address::from(asker.to_owned()).to_string();
        let told: Told = self.peers.get_native(server, uri, &subject, Scope::Search).await?;
        let theirs = told.users.into_iter().filter(|user| user.matrix_id.server_name() == server);
        let short = |text: Option<String>, most: usize| text.filter(|text| text.chars().count() <= most);
        let people = theirs.take(MAX_FOUND).map(|user| Person {
            user_id: user.matrix_id,
            display_name: short(user.display_name, LONGEST_NAME),
            avatar_url: short(user.avatar_url, LONGEST_ADDRESS),
        });
        Ok(People { people: people.collect(), is_limited: told.limited })
    }
}
