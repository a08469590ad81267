//! What a virtual host of this server's shall hold, and what is to be done for that.

use std::fmt;

use serde_json::{Map, Value};

use super::Snapshot;

/// A virtual host that belongs to this server, and all that is in it. Of exchanges, queues and permissions there may be
/// more, which are left alone; policies, parameters and bindings between what is named here there may not.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name.
    pub vhost: String,
    /// For people who look at the broker.
    pub description: String,
    /// How many queues there may be in it, so that nobody who may make some fills the broker.
    pub max_queues: i64,
    /// Those who have no other permissions anywhere.
    pub users: Vec<SiteUser>,
    /// Who may do what in it.
    pub permissions: Vec<Permission>,
    /// Topic exchanges, durable.
    pub exchanges: Vec<String>,
    /// Quorum queues.
    pub queues: Vec<String>,
    /// Exchange and queue: all that comes to the one goes to the other.
    pub bindings: Vec<(String, String)>,
    /// Its policies.
    pub policies: Vec<Policy>,
    /// Its upstreams and shovels.
    pub parameters: Vec<Parameter>,
}

/// A user that is made for a virtual host.
#[derive(Clone)]
pub struct SiteUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// How many connections it may have at once.
    pub max_connections: i64,
    /// And channels.
    pub max_channels: i64,
}

impl fmt::Debug for SiteUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a user may do in a virtual host: patterns of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Who.
    pub user: String,
    /// What it may make and delete.
    pub configure: String,
    /// What it may publish to.
    pub write: String,
    /// What it may consume and bind.
    pub read: String,
}

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Of the names that it is about.
    pub pattern: String,
    /// `exchanges` or `queues`.
    pub apply_to: &'static str,
    /// Of two that are about the same, the one with the greater number holds.
    pub priority: i32,
    /// What it says.
    pub definition: Map<String, Value>,
}

/// An upstream or a shovel. It holds a password.
#[derive(Clone, PartialEq)]
pub struct Parameter {
    /// `federation-upstream` or `shovel`.
    pub component: &'static str,
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: Map<String, Value>,
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameter")
            .field("component", &self.component)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Something to be done at a broker. Shown without secrets.
#[derive(Clone, PartialEq)]
pub enum Step {
    /// Make a virtual host.
    Vhost {
        /// Its name.
        name: String,
        /// For people.
        description: String,
    },
    /// Set how many queues a virtual host may have.
    MaxQueues {
        /// Which.
        vhost: String,
        /// How many.
        value: i64,
    },
    /// Make a user, which may do nothing yet. Who was there by that name goes, and is cut off.
    User {
        /// Its name.
        name: String,
        /// Its password.
        password: String,
    },
    /// Set how much a user may have at once.
    Limit {
        /// Who.
        user: String,
        /// `max-connections` or `max-channels`.
        kind: &'static str,
        /// How many.
        value: i64,
    },
    /// Set what a user may do.
    Permit {
        /// Where.
        vhost: String,
        /// What.
        permission: Permission,
    },
    /// Make an exchange.
    Exchange {
        /// Where.
        vhost: String,
        /// Its name.
        name: String,
    },
    /// Make a queue.
    Queue {
        /// Where.
        vhost: String,
        /// Its name.
        name: String,
    },
    /// Let all that comes to an exchange go to a queue.
    Bind {
        /// Where.
        vhost: String,
        /// From where.
        exchange: String,
        /// Where to.
        queue: String,
    },
    /// End that.
    Unbind {
        /// Where.
        vhost: String,
        /// From where.
        exchange: String,
        /// Where to.
        queue: String,
    },
    /// Set a parameter.
    Parameter {
        /// Where.
        vhost: String,
        /// Which.
        parameter: Parameter,
    },
    /// Delete a parameter.
    NoParameter {
        /// Where.
        vhost: String,
        /// Of what kind.
        component: &'static str,
        /// Its name.
        name: String,
    },
    /// Set a policy.
    Policy {
        /// Where.
        vhost: String,
        /// Which.
        policy: Policy,
    },
    /// Delete a policy.
    NoPolicy {
        /// Where.
        vhost: String,
        /// Its name.
        name: String,
    },
}

/// What there may be of parameters in a virtual host of ours.
pub(super) const COMPONENTS: [&str; 2] = ["federation-upstream", "shovel"];

impl Site {
    /// What has to be done, in order, so that the broker which was seen as `there` has what shall be there.
    pub fn steps(&self, there: &Snapshot) -> Vec<Step> {
        let vhost = || self.vhost.clone();
        let mut steps = Vec::new();
        if !there.vhosts.contains_key(&self.vhost) {
            steps.push(Step::Vhost { name: vhost(), description: self.description.clone() });
        }
        if there.max_queues.get(&self.vhost) != Some(&self.max_queues) {
            steps.push(Step::MaxQueues { vhost: vhost(), value: self.max_queues });
        }
        for user in &self.users {
            self.of_user(user, there, &mut steps);
        }
        for permission in &self.permissions {
            let is_new = self.users.iter().any(|user| user.name == permission.user && !there.has_user(user));
            if is_new || there.permissions.get(&(self.vhost.clone(), permission.user.clone())) != Some(permission) {
                steps.push(Step::Permit { vhost: vhost(), permission: permission.clone() });
            }
        }
        let missing = |names: &[String], known: &dyn Fn(&str) -> bool| -> Vec<String> {
            names.iter().filter(|name| !known(name)).cloned().collect()
        };
        for name in missing(&self.exchanges, &|name| there.has_exchange(&self.vhost, name)) {
            steps.push(Step::Exchange { vhost: vhost(), name });
        }
        for name in missing(&self.queues, &|name| there.waiting(&self.vhost, name).is_some()) {
            steps.push(Step::Queue { vhost: vhost(), name });
        }
        self.of_bindings(there, &mut steps);
        self.of_parameters(there, &mut steps);
        self.of_policies(there, &mut steps);
        steps
    }

    fn of_user(&self, user: &SiteUser, there: &Snapshot, steps: &mut Vec<Step>) {
        let is_new = !there.has_user(user);
        if is_new {
            steps.push(Step::User { name: user.name.clone(), password: user.password.clone() });
        }
        for (kind, value) in [("max-connections", user.max_connections), ("max-channels", user.max_channels)] {
            if is_new || there.limits.get(&(user.name.clone(), kind.to_owned())) != Some(&value) {
                steps.push(Step::Limit { user: user.name.clone(), kind, value });
            }
        }
    }

    fn of_bindings(&self, there: &Snapshot, steps: &mut Vec<Step>) {
        for (exchange, queue) in &self.bindings {
            if !there.is_bound(&self.vhost, exchange, queue) {
                let (vhost, exchange, queue) = (self.vhost.clone(), exchange.clone(), queue.clone());
                steps.push(Step::Bind { vhost, exchange, queue });
            }
        }
        for exchange in &self.exchanges {
            for queue in &self.queues {
                let pair = (exchange.clone(), queue.clone());
                if !self.bindings.contains(&pair) && there.is_bound(&self.vhost, exchange, queue) {
                    let (exchange, queue) = pair;
                    steps.push(Step::Unbind { vhost: self.vhost.clone(), exchange, queue });
                }
            }
        }
    }

    fn of_parameters(&self, there: &Snapshot, steps: &mut Vec<Step>) {
        for parameter in &self.parameters {
            let key = (self.vhost.clone(), parameter.component, parameter.name.clone());
            if there.parameters.get(&key) != Some(&parameter.value) {
                steps.push(Step::Parameter { vhost: self.vhost.clone(), parameter: parameter.clone() });
            }
        }
        for (vhost, component, name) in there.parameters.keys().filter(|(vhost, ..)| *vhost == self.vhost) {
            if !self.parameters.iter().any(|known| known.component == *component && known.name == *name) {
                steps.push(Step::NoParameter { vhost: vhost.clone(), component, name: name.clone() });
            }
        }
    }

    fn of_policies(&self, there: &Snapshot, steps: &mut Vec<Step>) {
        for policy in &self.policies {
            if !there.policies.get(&(self.vhost.clone(), policy.name.clone())).is_some_and(|known| known.is(policy)) {
                steps.push(Step::Policy { vhost: self.vhost.clone(), policy: policy.clone() });
            }
        }
        for (vhost, name) in there.policies.keys().filter(|(vhost, _)| *vhost == self.vhost) {
            if !self.policies.iter().any(|known| known.name == *name) {
                steps.push(Step::NoPolicy { vhost: vhost.clone(), name: name.clone() });
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vhost { name, .. } => write!(f, "the virtual host {name}"),
            Self::MaxQueues { vhost, .. } => write!(f, "the limit of queues in {vhost}"),
            Self::User { name, .. } => write!(f, "the user {name}"),
            Self::Limit { user, kind, .. } => write!(f, "{kind} of the user {user}"),
            Self::Permit { vhost, permission } => write!(f, "what {} may do in {vhost}", permission.user),
            Self::Exchange { name, .. } => write!(f, "the exchange {name}"),
            Self::Queue { name, .. } => write!(f, "the queue {name}"),
            Self::Bind { exchange, queue, .. } => write!(f, "the binding of the queue {queue} to {exchange}"),
            Self::Unbind { exchange, queue, .. } => write!(f, "no binding of the queue {queue} to {exchange}"),
            Self::Parameter { parameter, .. } => write!(f, "the {} {}", parameter.component, parameter.name),
            Self::NoParameter { component, name, .. } => write!(f, "no {component} {name}"),
            Self::Policy { policy, .. } => write!(f, "the policy {}", policy.name),
            Self::NoPolicy { name, .. } => write!(f, "no policy {name}"),
        }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use rabbitmq_http_client::password_hashing::base64_encoded_salted_password_hash_sha256 as hash;
    use serde_json::json;

    use super::*;
    use crate::management::{UserThere, snapshot::PolicyThere};

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    fn site() -> Site {
        Site {
            vhost: "fed.b.test".into(),
            description: "a link".into(),
            max_queues: 8,
            users: vec![SiteUser {
                name: "peer.b.test".into(),
                password: "secret".into(),
                max_connections: 4,
                max_channels: 8,
            }],
            permissions: vec![Permission {
                user: "peer.b.test".into(),
                configure: "^$".into(),
                write: "^in$".into(),
                read: "^$".into(),
            }],
            exchanges: vec!["in".into(), "out".into()],
            queues: vec!["in".into(), "out".into()],
            bindings: vec![("in".into(), "in".into())],
            policies: vec![Policy {
                name: "link".into(),
                pattern: "^in$".into(),
                apply_to: "exchanges",
                priority: 1,
                definition: object(json!({ "federation-upstream": "b.test" })),
            }],
            parameters: vec![Parameter {
                component: "federation-upstream",
                name: "b.test".into(),
                value: object(json!({ "uri": "amqp://us:secret@b" })),
            }],
        }
    }

    /// A broker at which all of it is as it shall be.
    fn whole(site: &Site) -> Snapshot {
        let mut there = Snapshot::default();
        let vhost = site.vhost.clone();
        there.vhosts.insert(vhost.clone(), true);
        there.max_queues.insert(vhost.clone(), site.max_queues);
        for user in &site.users {
            let user_there = UserThere { hash: hash(b"salt", &user.password), is_sha512: false, is_ours: true };
            there.users.insert(user.name.clone(), user_there);
            there.limits.insert((user.name.clone(), "max-connections".into()), user.max_connections);
            there.limits.insert((user.name.clone(), "max-channels".into()), user.max_channels);
        }
        for permission in &site.permissions {
            there.permissions.insert((vhost.clone(), permission.user.clone()), permission.clone());
        }
        there.exchanges.extend(site.exchanges.iter().map(|name| (vhost.clone(), name.clone())));
        there.queues.extend(site.queues.iter().map(|name| ((vhost.clone(), name.clone()), 0)));
        there.bindings.extend(site.bindings.iter().map(|(from, to)| (vhost.clone(), from.clone(), to.clone())));
        for parameter in &site.parameters {
            let key = (vhost.clone(), parameter.component, parameter.name.clone());
            there.parameters.insert(key, parameter.value.clone());
        }
        for policy in &site.policies {
            there.policies.insert((vhost.clone(), policy.name.clone()), PolicyThere::of(policy));
        }
        there
    }

    fn words(steps: &[Step]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn where_all_is_as_it_shall_be_nothing_is_done() {
        assert_eq!(site().steps(&whole(&site())), []);
    }

    #[test]
    fn an_empty_broker_gets_all_of_it_in_order_and_no_step_shows_a_secret() {
        let steps = site().steps(&Snapshot::default());
        let words = words(&steps);
        assert_eq!(words.first().map(String::as_str), Some("the virtual host fed.b.test"));
        assert_eq!(words.last().map(String::as_str), Some("the policy link"));
        let at = |what: &str| words.iter().position(|word| word == what).unwrap_or_else(|| panic!("{what}: {words:?}"));
        assert!(at("the user peer.b.test") < at("what peer.b.test may do in fed.b.test"));
        assert!(at("the federation-upstream b.test") < at("the policy link"));
        let shown = format!("{steps:?} {:?}", site());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn what_was_changed_by_hand_is_repaired_and_nothing_else_is_touched() {
        let mut there = whole(&site());
        there.bindings.insert(("fed.b.test".into(), "out".into(), "out".into()));
        there
            .users
            .insert("peer.b.test".into(), UserThere { hash: hash(b"salt", "other"), is_sha512: false, is_ours: true });
        there.parameters.insert(("fed.b.test".into(), "shovel", "old".into()), Map::new());
        there.parameters.insert(("elsewhere".into(), "shovel", "theirs".into()), Map::new());
        there.policies.remove(&("fed.b.test".to_owned(), "link".to_owned()));
        let steps = site().steps(&there);
        assert_eq!(
            words(&steps),
            [
                "the user peer.b.test",
                "max-connections of the user peer.b.test",
                "max-channels of the user peer.b.test",
                "what peer.b.test may do in fed.b.test",
                "no binding of the queue out to out",
                "no shovel old",
                "the policy link",
            ]
        );
    }
}
