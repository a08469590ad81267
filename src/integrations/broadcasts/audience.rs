//! Whom a broadcast is for.

use model::{Address, Millis};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};
use store::{
    Store,
    broadcasts::{BroadcastRow, Counts, Recipients},
};
use users::Role;

use super::BroadcastError;

/// How many domains, roles or people an audience names at most.
pub(crate) const MOST: usize = 1_000;

/// Whom a broadcast is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Audience {
    /// Everybody of this server, and of the servers that it goes to.
    All {},
    /// Everybody of these domains.
    Domains {
        /// Server names.
        domains: Vec<OwnedServerName>,
    },
    /// Those with one of these roles at their own server.
    Roles {
        /// `user`, `auditor`, `operator`, `broadcaster`, `admin`.
        roles: Vec<String>,
    },
    /// These people.
    Users {
        /// `alice@a.example`.
        users: Vec<Address>,
    },
}

/// Somebody of this server, as far as it matters to whom a broadcast is for.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub user_id: OwnedUserId,
    /// What this one may do.
    pub role: Role,
    /// Since when the account exists.
    pub since: Millis,
}

impl Audience {
    /// Whether it is for somebody.
    pub fn has(&self, person: &Person) -> bool {
        match self {
            Self::All {} => true,
            Self::Domains { domains } => domains.iter().any(|domain| domain == person.user_id.server_name()),
            Self::Roles { roles } => roles.iter().any(|role| role == person.role.as_str()),
            Self::Users { users } => users.iter().any(|user| user.user_id() == person.user_id),
        }
    }

    /// The part of it that is of `server`; `None`: there is nobody.
    pub fn at(&self, server: &ServerName) -> Option<Self> {
        match self {
            Self::All {} | Self::Roles { .. } => Some(self.clone()),
            Self::Domains { domains } => domains
                .iter()
                .any(|domain| domain == server)
                .then(|| Self::Domains { domains: vec![server.to_owned()] }),
            Self::Users { users } => {
                let there: Vec<Address> = users.iter().filter(|user| user.server_name() == server).cloned().collect();
                (!there.is_empty()).then_some(Self::Users { users: there })
            }
        }
    }

    /// The servers that it names; `None`: it names none, so it can be any.
    pub(super) fn servers(&self) -> Option<Vec<OwnedServerName>> {
        let mut servers = match self {
            Self::All {} | Self::Roles { .. } => return None,
            Self::Domains { domains } => domains.clone(),
            Self::Users { users } => users.iter().map(|user| user.server_name().to_owned()).collect(),
        };
        servers.sort();
        servers.dedup();
        Some(servers)
    }

    /// Refuses one that names nobody, too many, or what is no role.
    pub(super) fn check(&self) -> Result<(), BroadcastError> {
        let wrong = |wrong: String| Err(BroadcastError::Field { field: "audience", wrong });
        let named = match self {
            Self::All {} => return Ok(()),
            Self::Domains { domains } => domains.len(),
            Self::Roles { roles } => {
                if let Some(error) = roles.iter().find_map(|role| role.parse::<Role>().err()) {
                    return wrong(format!("names what is no role: {error}"));
                }
                roles.len()
            }
            Self::Users { users } => users.len(),
        };
        match named {
            0 => wrong("names nobody".to_owned()),
            1..=MOST => Ok(()),
            _ => wrong(format!("names more than {MOST}")),
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("it is made of texts")
    }

    /// How many people of `us` it is, and how many have read `row`.
    pub(super) async fn count(
        &self,
        store: &Store,
        row: &BroadcastRow,
        us: &ServerName,
    ) -> Result<Counts, store::Error> {
        let ours: Vec<OwnedUserId>;
        let recipients = match self {
            Self::All {} => Recipients::All,
            Self::Domains { domains } if domains.iter().any(|domain| domain == us) => Recipients::All,
            Self::Domains { .. } => Recipients::Nobody,
            Self::Roles { roles } => Recipients::Roles(roles),
            Self::Users { users } => {
                ours = users.iter().map(|user| user.user_id().to_owned()).collect();
                Recipients::Users(&ours)
            }
        };
        store.broadcasts().counts(row, recipients).await
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn audience(json: Value) -> Audience {
        serde_json::from_value(json).expect("it is one")
    }

    #[test]
    fn an_audience_has_whom_it_names_and_is_told_in_parts() {
        let (alice, a, b) = (user_id!("@alice:a.test"), server_name!("a.test"), server_name!("b.test"));
        let alice = Person { user_id: alice.to_owned(), role: Role::Operator, since: 0 };
        for (json, has, at_a, at_b) in [
            (json!({ "kind": "all" }), true, true, true),
            (json!({ "kind": "domains", "domains": ["a.test"] }), true, true, false),
            (json!({ "kind": "domains", "domains": ["b.test"] }), false, false, true),
            (json!({ "kind": "roles", "roles": ["operator"] }), true, true, true),
            (json!({ "kind": "roles", "roles": ["admin", "user"] }), false, true, true),
            (json!({ "kind": "users", "users": ["alice@a.test", "@bob:b.test"] }), true, true, true),
            (json!({ "kind": "users", "users": ["carol@a.test"] }), false, true, false),
        ] {
            let audience = audience(json.clone());
            assert_eq!(audience.has(&alice), has, "{json}");
            assert_eq!((audience.at(a).is_some(), audience.at(b).is_some()), (at_a, at_b), "{json}");
            assert!(audience.check().is_ok());
            assert_eq!(serde_json::from_str::<Audience>(&audience.json()).expect("it is read back"), audience);
        }
        let both = audience(json!({ "kind": "users", "users": ["alice@a.test", "@bob:b.test"] }));
        assert_eq!(both.at(b), Some(audience(json!({ "kind": "users", "users": ["bob@b.test"] }))));
        assert!(audience(json!({ "kind": "roles", "roles": ["king"] })).check().is_err());
        assert!(audience(json!({ "kind": "users", "users": [] })).check().is_err());
        assert!(serde_json::from_value::<Audience>(json!({ "kind": "all", "but": "bob" })).is_err());
    }
}
