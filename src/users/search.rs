//! Looking for people.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-directory>

use ruma::{OwnedUserId, UserId};
use store::user_directory::PersonRow;

use crate::Users;

/// Somebody who was found.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub user_id: OwnedUserId,
    /// As they call themselves.
    pub display_name: Option<String>,
    /// Their picture.
    pub avatar_url: Option<String>,
}

/// Who was found.
#[derive(Clone, Debug)]
pub struct People {
    /// By id.
    pub people: Vec<Person>,
    /// There are more.
    pub is_limited: bool,
}

impl Users {
    /// Looks for users of this server by a part of their name or localpart: those whom `asker` may meet in a room.
    pub async fn search(&self, asker: &UserId, term: &str, limit: usize) -> Result<People, store::Error> {
        let term = term.trim();
        if term.is_empty() {
            return Ok(People { people: Vec::new(), is_limited: false });
        }
        let rows = self.store.search_users(&self.server_name, asker, term, limit + 1).await?;
        Ok(people_of(rows, limit))
    }
}

/// The first `limit` of those who were found.
pub(crate) fn people_of(mut rows: Vec<PersonRow>, limit: usize) -> People {
    let is_limited = rows.len() > limit;
    rows.truncate(limit);
    let text = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
    let people = rows.into_iter().map(|row| Person {
        user_id: row.user_id,
        display_name: text(row.display_name),
        avatar_url: text(row.avatar_url),
    });
    People { people: people.collect(), is_limited }
}
