//! What is at a broker, as far as the links with peers are concerned.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rabbitmq_http_client::password_hashing::{
    base64_encoded_salted_password_hash_sha256, base64_encoded_salted_password_hash_sha512,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    LinkThere, Management, ManagementError, Permission, Policy, SiteUser, pattern::percent_encoded, site::COMPONENTS,
};

/// What marks virtual hosts and users as this server's own.
pub(super) const TAG: &str = "comity-link";
/// How many virtual hosts are looked at at once.
const AT_ONCE: usize = 4;
/// The letters of base64 that hold the salt before a hash: four bytes.
const SALT: usize = 4;

/// What is at a broker. Times are counted from nowhere: it is what was seen in one look.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every virtual host, and whether it was made for a link.
    pub vhosts: BTreeMap<String, bool>,
    pub(super) max_queues: BTreeMap<String, i64>,
    /// Every user.
    pub users: BTreeMap<String, UserThere>,
    /// By user and kind.
    pub(super) limits: BTreeMap<(String, String), i64>,
    /// By virtual host and user.
    pub(super) permissions: BTreeMap<(String, String), Permission>,
    /// By virtual host, component and name.
    pub(super) parameters: BTreeMap<(String, &'static str, String), Map<String, Value>>,
    /// By virtual host and name.
    pub(super) policies: BTreeMap<(String, String), PolicyThere>,
    /// By virtual host.
    pub(super) exchanges: BTreeSet<(String, String)>,
    /// How many messages wait in each, by virtual host.
    pub(super) queues: BTreeMap<(String, String), u64>,
    /// Virtual host, exchange and queue.
    pub(super) bindings: BTreeSet<(String, String, String)>,
    /// Who is connected: virtual host and user.
    pub(super) connected: BTreeSet<(String, String)>,
    /// How the links are.
    pub links: Vec<LinkThere>,
}

/// A user as the broker has it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserThere {
    pub(super) hash: String,
    pub(super) is_sha512: bool,
    /// Whether it was made for a link.
    pub is_ours: bool,
}

impl std::fmt::Debug for UserThere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserThere").field("is_ours", &self.is_ours).finish_non_exhaustive()
    }
}

/// A policy as the broker has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct PolicyThere {
    vhost: String,
    name: String,
    pattern: String,
    #[serde(rename = "apply-to")]
    apply_to: String,
    priority: i64,
    definition: Map<String, Value>,
}

impl PolicyThere {
    pub(super) fn is(&self, policy: &Policy) -> bool {
        self.pattern == policy.pattern
            && self.apply_to == policy.apply_to
            && self.priority == i64::from(policy.priority)
            && self.definition == policy.definition
    }

    #[cfg(test)]
    pub(super) fn of(policy: &Policy) -> Self {
        Self {
            vhost: String::new(),
            name: policy.name.clone(),
            pattern: policy.pattern.clone(),
            apply_to: policy.apply_to.to_owned(),
            priority: policy.priority.into(),
            definition: policy.definition.clone(),
        }
    }
}

impl UserThere {
    /// Whether this is its password: the salt is the first four bytes of the hash.
    pub(super) fn has_password(&self, password: &str) -> bool {
        let Some(salt) = salt_of(&self.hash) else { return false };
        let hash = match self.is_sha512 {
            true => base64_encoded_salted_password_hash_sha512(&salt, password),
            false => base64_encoded_salted_password_hash_sha256(&salt, password),
        };
        hash == self.hash
    }
}

fn salt_of(hash: &str) -> Option<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(hash).ok()?.get(..SALT).map(<[u8]>::to_vec)
}

impl Snapshot {
    /// Whether the user is there, with its password.
    pub(super) fn has_user(&self, user: &SiteUser) -> bool {
        self.users.get(&user.name).is_some_and(|known| known.has_password(&user.password))
    }

    pub(super) fn has_exchange(&self, vhost: &str, name: &str) -> bool {
        self.exchanges.contains(&(vhost.to_owned(), name.to_owned()))
    }

    pub(super) fn is_bound(&self, vhost: &str, exchange: &str, queue: &str) -> bool {
        self.bindings.contains(&(vhost.to_owned(), exchange.to_owned(), queue.to_owned()))
    }

    /// The upstreams and shovels in a virtual host: of what kind, and by which name.
    pub fn parameters_of(&self, vhost: &str) -> Vec<(&'static str, String)> {
        let here = self.parameters.keys().filter(|(at, ..)| at == vhost);
        here.map(|(_, component, name)| (*component, name.clone())).collect()
    }

    /// How many messages wait in a queue; `None`: there is no such queue.
    pub fn waiting(&self, vhost: &str, queue: &str) -> Option<u64> {
        self.queues.get(&(vhost.to_owned(), queue.to_owned())).copied()
    }

    /// How many messages wait in the queues whose names begin so.
    pub fn waiting_below(&self, vhost: &str, beginning: &str) -> u64 {
        let of = self.queues.iter().filter(|((at, name), _)| at == vhost && name.starts_with(beginning));
        of.map(|(_, messages)| messages).sum()
    }

    /// Whether somebody is connected as `user`.
    pub fn is_connected(&self, vhost: &str, user: &str) -> bool {
        self.connected.contains(&(vhost.to_owned(), user.to_owned()))
    }
}

#[derive(Deserialize)]
struct Vhost {
    name: String,
    #[serde(default)]
    tags: Value,
    #[serde(default)]
    metadata: Value,
}

#[derive(Deserialize)]
struct User {
    name: String,
    #[serde(default)]
    password_hash: String,
    #[serde(default)]
    hashing_algorithm: String,
    #[serde(default)]
    tags: Value,
}

#[derive(Deserialize)]
struct Limits {
    #[serde(alias = "vhost")]
    user: String,
    value: Value,
}

#[derive(Deserialize)]
struct Permitted {
    user: String,
    vhost: String,
    configure: String,
    write: String,
    read: String,
}

#[derive(Deserialize)]
struct Set {
    vhost: String,
    name: String,
    value: Value,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    messages: u64,
}

#[derive(Deserialize)]
struct Binding {
    source: String,
    destination: String,
    destination_type: String,
    routing_key: String,
}

#[derive(Deserialize)]
struct Connection {
    #[serde(default)]
    user: String,
}

/// What is in one virtual host.
struct Inside {
    vhost: String,
    exchanges: Vec<Named>,
    queues: Vec<Named>,
    bindings: Vec<Binding>,
    connections: Vec<Connection>,
}

impl Management {
    /// What is at the broker; of what is inside virtual hosts, only `vhosts` are looked at. A dozen requests, and four for each
    /// virtual host.
    pub async fn look(&self, vhosts: &[String]) -> Result<Snapshot, ManagementError> {
        let mut seen = Snapshot::default();
        for vhost in self.get::<Vec<Vhost>>("/vhosts").await? {
            let is_ours = has_tag(&vhost.tags) || has_tag(&vhost.metadata["tags"]);
            seen.vhosts.insert(vhost.name, is_ours);
        }
        for User { name, password_hash: hash, hashing_algorithm, tags } in self.get::<Vec<User>>("/users").await? {
            let is_sha512 = hashing_algorithm.ends_with("sha512");
            seen.users.insert(name, UserThere { hash, is_sha512, is_ours: has_tag(&tags) });
        }
        for limits in self.get::<Vec<Limits>>("/user-limits").await? {
            let Value::Object(values) = limits.value else { continue };
            let of_user =
                values.into_iter().filter_map(|(kind, value)| Some(((limits.user.clone(), kind), value.as_i64()?)));
            seen.limits.extend(of_user);
        }
        for limits in self.get::<Vec<Limits>>("/vhost-limits").await? {
            if let Some(most) = limits.value["max-queues"].as_i64() {
                seen.max_queues.insert(limits.user, most);
            }
        }
        for Permitted { user, vhost, configure, write, read } in self.get::<Vec<Permitted>>("/permissions").await? {
            seen.permissions.insert((vhost, user.clone()), Permission { user, configure, write, read });
        }
        for component in COMPONENTS {
            let set: Vec<Set> = self.find(&format!("/parameters/{component}")).await?.unwrap_or_default();
            let set = set.into_iter().filter_map(|Set { vhost, name, value }| match value {
                Value::Object(value) => Some(((vhost, component, name), value)),
                _ => None,
            });
            seen.parameters.extend(set);
        }
        for policy in self.get::<Vec<PolicyThere>>("/policies").await? {
            seen.policies.insert((policy.vhost.clone(), policy.name.clone()), policy);
        }
        seen.links = self.links().await?;
        let known: Vec<String> = vhosts.iter().filter(|vhost| seen.vhosts.contains_key(*vhost)).cloned().collect();
        let insides = stream::iter(known).map(|vhost| self.look_inside(vhost)).buffer_unordered(AT_ONCE);
        for inside in insides.try_collect::<Vec<_>>().await? {
            seen.add(inside);
        }
        Ok(seen)
    }

    async fn look_inside(&self, vhost: String) -> Result<Inside, ManagementError> {
        let part = percent_encoded(&vhost);
        // One that has just gone is empty.
        let exchanges = self.find(&format!("/exchanges/{part}")).await?.unwrap_or_default();
        let queues = self.find(&format!("/queues/{part}")).await?.unwrap_or_default();
        let bindings = self.find(&format!("/bindings/{part}")).await?.unwrap_or_default();
        let connections = self.find(&format!("/vhosts/{part}/connections")).await?.unwrap_or_default();
        Ok(Inside { vhost, exchanges, queues, bindings, connections })
    }
}

impl Snapshot {
    fn add(&mut self, inside: Inside) {
        let Inside { vhost, exchanges, queues, bindings, connections } = inside;
        self.exchanges.extend(exchanges.into_iter().map(|exchange| (vhost.clone(), exchange.name)));
        self.queues.extend(queues.into_iter().map(|queue| ((vhost.clone(), queue.name), queue.messages)));
        let whole =
            bindings.into_iter().filter(|binding| binding.destination_type == "queue" && binding.routing_key == "#");
        self.bindings.extend(whole.map(|binding| (vhost.clone(), binding.source, binding.destination)));
        self.connected.extend(connections.into_iter().map(|connection| (vhost.clone(), connection.user)));
    }
}

/// A list of words, or words with commas between.
fn has_tag(tags: &Value) -> bool {
    match tags {
        Value::Array(tags) => tags.iter().any(|tag| tag == TAG),
        Value::String(tags) => tags.split(',').any(|tag| tag.trim() == TAG),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_the_salted_hash_of_either_kind() {
        let sha256 = base64_encoded_salted_password_hash_sha256(b"salt", "secret");
        let user = |hash: String, is_sha512| UserThere { hash, is_sha512, is_ours: true };
        assert!(user(sha256.clone(), false).has_password("secret"));
        assert!(!user(sha256.clone(), false).has_password("other"));
        assert!(!user(sha256, true).has_password("secret"));
        assert!(!user(String::new(), false).has_password(""));
        let sha512 = base64_encoded_salted_password_hash_sha512(b"salt", "secret");
        assert!(user(sha512, true).has_password("secret"));
    }
}
