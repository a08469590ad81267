//! What there shall be at this server's broker for the link with a peer.
//!
//! Both kinds of link need the same virtual host, exchanges and queues, and the peer's user may use either: publish what its
//! shovel brings to `fed.in.PEER`; and bind what RabbitMQ's federation makes for it, which is called by where it comes from,
//! to `fed.out.PEER`. In a virtual host of its own that is all it can do.
//!
//! Queues are bounded, and refuse what is too much: whoever publishes to them hears of it, and keeps it.

use fabric::{
    management::{
        LinkWay, Parameter, Permission, Policy, Site, SiteUser,
        pattern::{EVERYTHING, either, escaped, exactly, percent_encoded},
    },
    naming,
};
use ruma::ServerName;
use serde_json::{Map, Value, json};

use super::{LinksConfig, LinksError, offer::Theirs, user_of};

/// How much may wait in a queue, in bytes.
const MOST_WAITING: u64 = 256 << 20;
/// How much is kept of what could not be taken.
const MOST_DEAD: u64 = 32 << 20;
/// How many queues there may be in the virtual host: ours, and what federation makes for the peer, which has another name
/// whenever the peer's broker has.
const MOST_QUEUES: i64 = 16;
/// How many connections the peer's user may have: its broker may have several nodes, and the broker notices late that one is gone.
const MOST_CONNECTIONS: i64 = 8;
/// How many channels.
const MOST_CHANNELS: i64 = 32;
/// In seconds: after how long a link that broke is tried again.
const RECONNECT: u64 = 2;
/// How many messages are under way at once by an upstream …
const UPSTREAM_PREFETCH: u64 = 1_000;
/// … and by a shovel.
const SHOVEL_PREFETCH: u64 = 200;

/// What federation's own queues and exchanges at the upstream begin with.
pub(super) fn internal(peer: &ServerName) -> String {
    format!("federation: {} -> ", naming::outgoing(peer))
}

/// All that shall be there. `password`: of the peer's user. `theirs`: how to log in at the peer's broker, if that is known.
/// `administrator`: as whom this server changes things at its broker.
pub(super) fn site(
    us: &ServerName,
    peer: &ServerName,
    password: &str,
    theirs: Option<&Theirs>,
    administrator: &str,
    config: &LinksConfig,
) -> Result<Site, LinksError> {
    let (outgoing, incoming, dead) = (naming::outgoing(peer), naming::incoming(peer), naming::dead(peer));
    let way = theirs.map(|theirs| theirs.way(config.way));
    let mut bindings = vec![(incoming.clone(), incoming.clone())];
    if way == Some(LinkWay::Shovel) {
        bindings.push((outgoing.clone(), outgoing.clone()));
    }
    let (mut parameters, mut policies) = (Vec::new(), bounds(&dead));
    if let (Some(theirs), Some(way)) = (theirs, way) {
        parameters.push(parameter(way, us, peer, theirs, config)?);
        if way == LinkWay::Upstream {
            policies.push(Policy {
                name: "comity-link".to_owned(),
                pattern: exactly(&incoming),
                apply_to: "exchanges",
                priority: 10,
                definition: object(json!({ "federation-upstream": peer })),
            });
        }
    }
    let user = SiteUser {
        name: user_of(peer),
        password: password.to_owned(),
        max_connections: MOST_CONNECTIONS,
        max_channels: MOST_CHANNELS,
    };
    let mut permissions = vec![permission(peer)];
    let mut ourselves: Vec<&str> = vec![administrator];
    ourselves.extend(config.user.as_deref().filter(|user| *user != administrator));
    permissions.extend(ourselves.into_iter().map(|user| Permission {
        user: user.to_owned(),
        configure: EVERYTHING.to_owned(),
        write: EVERYTHING.to_owned(),
        read: EVERYTHING.to_owned(),
    }));
    Ok(Site {
        vhost: naming::vhost(peer),
        description: format!("the link of {us} with {peer}"),
        max_queues: MOST_QUEUES,
        users: vec![user],
        permissions,
        exchanges: vec![incoming.clone(), outgoing.clone()],
        queues: vec![incoming, outgoing, dead],
        bindings,
        policies,
        parameters,
    })
}

/// What the peer's user may do, and nothing else.
fn permission(peer: &ServerName) -> Permission {
    let (outgoing, incoming, internal) = (naming::outgoing(peer), naming::incoming(peer), internal(peer));
    Permission {
        user: user_of(peer),
        configure: format!("^{}.*$", escaped(&internal)),
        write: either(&[&incoming], &[&internal]),
        read: either(&[&outgoing], &[&internal]),
    }
}

fn bounds(dead: &str) -> Vec<Policy> {
    let policy = |name: &str, pattern: String, priority, most: u64, overflow: &str| Policy {
        name: name.to_owned(),
        pattern,
        apply_to: "queues",
        priority,
        definition: object(json!({ "max-length-bytes": most, "overflow": overflow })),
    };
    vec![
        policy("comity-bounds", EVERYTHING.to_owned(), 0, MOST_WAITING, "reject-publish"),
        policy("comity-dead", exactly(dead), 1, MOST_DEAD, "drop-head"),
    ]
}

fn parameter(
    way: LinkWay,
    us: &ServerName,
    peer: &ServerName,
    theirs: &Theirs,
    config: &LinksConfig,
) -> Result<Parameter, LinksError> {
    // What an admin says of another product holds the same exchanges, as seen from there.
    let (push_to, pull_from) = match theirs {
        Theirs::Peer { offer } => (offer.push_exchange.clone(), offer.pull_exchange.clone()),
        Theirs::Admin { .. } => (naming::incoming(us), naming::outgoing(us)),
    };
    let uri = theirs.uri(&config.tls)?;
    let (component, value) = match way {
        LinkWay::Upstream => (
            "federation-upstream",
            json!({
                "uri": uri, "exchange": pull_from, "max-hops": 1, "ack-mode": "on-confirm", "trust-user-id": false,
                // Otherwise a downstream that is stopped deletes its queue at the upstream, with all that waits in it.
                "resource-cleanup-mode": "never",
                "prefetch-count": UPSTREAM_PREFETCH, "reconnect-delay": RECONNECT,
            }),
        ),
        LinkWay::Shovel => (
            "shovel",
            json!({
                "src-protocol": "amqp091", "src-uri": format!("amqp:///{}", percent_encoded(&naming::vhost(peer))),
                "src-queue": naming::outgoing(peer), "src-prefetch-count": SHOVEL_PREFETCH,
                "dest-protocol": "amqp091", "dest-uri": uri, "dest-exchange": push_to,
                "ack-mode": "on-confirm", "reconnect-delay": RECONNECT,
            }),
        ),
    };
    Ok(Parameter { component, name: peer.to_string(), value: object(value) })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use fabric::ManagementConfig;
    use ruma::{OwnedServerName, server_name};

    use super::*;
    use crate::links::{LinkTls, Offer};

    fn config(way: LinkWay) -> LinksConfig {
        LinksConfig {
            management: ManagementConfig { url: "http://127.0.0.1:15672".into(), ca_file: None },
            user: Some("us".into()),
            public_url: None,
            way,
            tls: LinkTls { ca_file: "/ca.crt".into(), certificate: None, private_key: None },
        }
    }

    fn theirs(link: &str) -> Theirs {
        let offer = Offer {
            server_name: OwnedServerName::try_from("b.test").expect("a name"),
            url: "amqps://mq.b.test".into(),
            vhost: "fed.a.test".into(),
            user: "peer.a.test".into(),
            password: "secret".into(),
            push_exchange: "fed.in.a.test".into(),
            pull_exchange: "fed.out.a.test".into(),
            link: link.into(),
        };
        Theirs::Peer { offer }
    }

    fn site_of(way: LinkWay, theirs: Option<&Theirs>) -> Site {
        let (us, peer) = (server_name!("a.test"), server_name!("b.test"));
        site(us, peer, "password", theirs, "admin", &config(way)).expect("a plan")
    }

    #[test]
    fn a_peer_may_do_nothing_but_its_link() {
        let permission = permission(server_name!("b.test"));
        assert_eq!(permission.user, "peer.b.test");
        assert_eq!(permission.configure, r"^federation: fed\.out\.b\.test -> .*$");
        assert_eq!(permission.write, r"^(fed\.in\.b\.test|federation: fed\.out\.b\.test -> .*)$");
        assert_eq!(permission.read, r"^(fed\.out\.b\.test|federation: fed\.out\.b\.test -> .*)$");
    }

    #[test]
    fn before_the_peer_has_said_where_its_broker_is_all_but_the_link_is_there() {
        let site = site_of(LinkWay::Upstream, None);
        assert!(site.parameters.is_empty());
        assert_eq!(site.queues, ["fed.in.b.test", "fed.out.b.test", "fed.dead.b.test"]);
        assert_eq!(site.bindings, [("fed.in.b.test".to_owned(), "fed.in.b.test".to_owned())]);
        let users: Vec<_> = site.permissions.iter().map(|permission| permission.user.as_str()).collect();
        assert_eq!(users, ["peer.b.test", "admin", "us"]);
    }

    #[test]
    fn an_upstream_fetches_what_the_peer_has_for_us_and_keeps_its_queue_there() {
        let site = site_of(LinkWay::Upstream, Some(&theirs("upstream")));
        let [upstream] = &site.parameters[..] else { panic!("one upstream") };
        assert_eq!((upstream.component, upstream.name.as_str()), ("federation-upstream", "b.test"));
        assert_eq!(upstream.value["exchange"], "fed.out.a.test");
        assert_eq!(upstream.value["resource-cleanup-mode"], "never");
        assert_eq!(upstream.value["max-hops"], 1);
        assert!(
            site.policies
                .iter()
                .any(|policy| policy.pattern == r"^fed\.in\.b\.test$" && policy.apply_to == "exchanges")
        );
        assert_eq!(site.bindings.len(), 1);
    }

    #[test]
    fn a_shovel_brings_what_is_in_the_queue_of_the_peer_which_is_bound_for_it() {
        let site = site_of(LinkWay::Shovel, Some(&theirs("shovel")));
        let [shovel] = &site.parameters[..] else { panic!("one shovel") };
        assert_eq!(shovel.component, "shovel");
        assert_eq!(
            (&shovel.value["src-uri"], &shovel.value["src-queue"]),
            (&json!("amqp:///fed.b.test"), &json!("fed.out.b.test"))
        );
        assert_eq!(shovel.value["dest-exchange"], "fed.in.a.test");
        assert!(site.bindings.contains(&("fed.out.b.test".to_owned(), "fed.out.b.test".to_owned())));
        assert!(site.policies.iter().all(|policy| policy.apply_to == "queues"));
    }
}
