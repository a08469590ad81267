//! Who is connected to any node, as administrators ask: each node knows its own, and is asked by the one that wants to know.

use std::{cmp::Ordering, future::Future, pin::Pin, sync::Arc};

use model::Millis;
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::connections::{Connections, OpenConnection};

/// What a node is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeQuestion {
    /// Who is connected to it.
    List {
        /// Only this user's connections.
        user_id: Option<OwnedUserId>,
        /// Only those after this place.
        after: Option<PlaceInList>,
        /// How many at most.
        limit: usize,
    },
    /// To end connections.
    Disconnect {
        /// Whose.
        user_id: OwnedUserId,
        /// Only those of this device.
        device_id: Option<String>,
    },
}

/// Where a connection stands in a list of those of all nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlaceInList {
    /// Since when it is open, milliseconds since 1970.
    pub since: Millis,
    /// To which node.
    pub node: String,
    /// The node's own number of it.
    pub number: u64,
}

/// What a node answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReply {
    /// Which node.
    pub node: String,
    /// For a list: some of them, the oldest first.
    pub connections: Vec<OpenConnection>,
    /// How many connections there are at the node, or how many were told to end.
    pub count: usize,
}

/// What the others have answered.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    /// From each that did.
    pub replies: Vec<NodeReply>,
    /// Those that didn't in time.
    pub silent: Vec<String>,
}

/// How the other nodes are asked. It ends within seconds.
pub trait OtherNodes: Send + Sync {
    /// Asks all of them.
    fn ask(&self, question: NodeQuestion) -> Pin<Box<dyn Future<Output = Replies> + Send + '_>>;
}

impl OpenConnection {
    /// Where it stands in a list.
    pub fn place(&self, node: &str) -> PlaceInList {
        PlaceInList { since: self.since, node: node.to_owned(), number: self.number }
    }
}

impl Connections {
    /// From now on the other nodes are asked this way.
    pub fn ask_others_by(&self, others: Arc<dyn OtherNodes>) {
        self.shared.others.get_or_init(|| others);
    }

    /// What this node is called.
    pub fn node(&self) -> &str {
        self.shared.said_in.get().map_or("this", |(_, node)| node)
    }

    /// This node's own answer.
    pub fn answer(&self, question: &NodeQuestion) -> NodeReply {
        let node = self.node().to_owned();
        match question {
            NodeQuestion::List { user_id, after, limit } => {
                let mut connections = self.list(user_id.as_deref(), usize::MAX);
                connections.sort_by(|one, other| by_place(&node, one, &node, other));
                connections.retain(|open| after.as_ref().is_none_or(|after| open.place(&node) > *after));
                connections.truncate(*limit);
                NodeReply { connections, count: self.count(), node }
            }
            NodeQuestion::Disconnect { user_id, device_id } => {
                NodeReply { connections: Vec::new(), count: self.disconnect(user_id, device_id.as_deref()), node }
            }
        }
    }

    /// The answers of all nodes, this one's first.
    pub async fn ask_all(&self, question: NodeQuestion) -> Replies {
        let own = self.answer(&question);
        let mut replies = match self.shared.others.get() {
            Some(others) => others.ask(question).await,
            None => Replies::default(),
        };
        replies.replies.insert(0, own);
        replies
    }
}

fn by_place(node: &str, one: &OpenConnection, other_node: &str, other: &OpenConnection) -> Ordering {
    (one.since, node, one.number).cmp(&(other.since, other_node, other.number))
}

impl Replies {
    /// The connections of all, the oldest first, each with its node; `limit` at most.
    pub fn connections(&self, limit: usize) -> Vec<(&str, &OpenConnection)> {
        let mut all: Vec<(&str, &OpenConnection)> = Vec::new();
        for reply in &self.replies {
            all.extend(reply.connections.iter().map(|open| (reply.node.as_str(), open)));
        }
        all.sort_by(|(node, one), (other_node, other)| by_place(node, one, other_node, other));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use ruma::{UserId, user_id};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::feed::ConnectionsConfig;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A node that answers for itself, and one that never does.
    struct Another(Connections);

    impl OtherNodes for Another {
        fn ask(&self, question: NodeQuestion) -> Pin<Box<dyn Future<Output = Replies> + Send + '_>> {
            let replies = vec![self.0.answer(&question)];
            Box::pin(std::future::ready(Replies { replies, silent: vec!["n3".to_owned()] }))
        }
    }

    fn node() -> Connections {
        Connections::new(ConnectionsConfig::default(), CancellationToken::new())
    }

    #[tokio::test]
    async fn the_connections_of_all_nodes_are_one_list_page_by_page() {
        let (here, there) = (node(), node());
        there.say_in(fabric::Cache::in_process(), "n2".into());
        let alice = user_id!("@alice:a.test");
        let enter = |node: &Connections, user_id: &UserId, device: &str| {
            node.enter(user_id, device, "test", HOME).expect("there is a place")
        };
        let _one = enter(&here, alice, "PHONE");
        let _two = enter(&there, alice, "LAPTOP");
        let _three = enter(&there, user_id!("@bob:a.test"), "PHONE");
        here.ask_others_by(Arc::new(Another(there.clone())));

        let mut seen = Vec::new();
        let mut after = None;
        for _ in 0..4 {
            let replies = here.ask_all(NodeQuestion::List { user_id: None, after, limit: 1 }).await;
            assert_eq!(replies.silent, ["n3"]);
            let page = replies.connections(1);
            let Some((node, open)) = page.first() else { break };
            seen.push((open.user_id.localpart().to_owned(), open.device_id.clone(), (*node).to_owned()));
            after = Some(open.place(node));
            if seen.len() == 3 {
                break;
            }
        }
        seen.sort();
        let expected = [("alice", "LAPTOP", "n2"), ("alice", "PHONE", "this"), ("bob", "PHONE", "n2")];
        let told: Vec<_> = seen.iter().map(|(user, device, node)| (&**user, &**device, &**node)).collect();
        assert_eq!(told, expected);

        let ended = here.ask_all(NodeQuestion::Disconnect { user_id: alice.to_owned(), device_id: None }).await;
        let counts: Vec<usize> = ended.replies.iter().map(|reply| reply.count).collect();
        assert_eq!(counts, [1, 1]);
    }
}
