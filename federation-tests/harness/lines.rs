//! Links between the brokers of two domains, made by hand as an operator makes them whose server has no management of its broker:
//! a virtual host for each peer, users who may do nothing but what their link needs, and shovels or upstreams.

use serde_json::{Value, json};

use crate::{Broker, enc, eventually};

/// The user that a server is at its own broker.
const SERVER: &str = "comity";
/// The password of users at brokers.
const PASSWORD: &str = "a password of a link";

impl Broker {
    /// Where the broker is for its own server, in the virtual host `im`, which this makes.
    pub async fn server_url(&self) -> String {
        self.make_vhost("im").await;
        self.make_user(SERVER, PASSWORD).await;
        self.permit(SERVER, "im", ".*", ".*", ".*").await;
        self.url_of(SERVER, PASSWORD, "im")
    }

    /// Makes what the line to `peer` needs before there is a link; the queues are the server's business.
    pub async fn open_line(&self, peer: &str) {
        let vhost = format!("fed.{peer}");
        self.make_vhost(&vhost).await;
        self.permit(SERVER, &vhost, r"^fed\.", r"^(fed\..*|amq\.default)$", r"^fed\.").await;
        for way in ["in", "out"] {
            let path = format!("/exchanges/{}/{}", enc(&vhost), enc(&format!("fed.{way}.{peer}")));
            self.done("PUT", &path, json!({ "type": "topic", "durable": true })).await;
        }
    }

    /// Pushes what its server `us` has for `peer` to the peer's broker by a shovel, and waits until it runs.
    pub async fn shovel_to(&self, us: &str, peer: &str, theirs: &Broker) {
        let user = format!("peer.{us}");
        let there = format!("fed.{us}");
        theirs.make_user(&user, PASSWORD).await;
        theirs.permit(&user, &there, "^$", &format!("^{}$", escaped(&format!("fed.in.{us}"))), "^$").await;
        let (vhost, queue) = (format!("fed.{peer}"), format!("fed.out.{peer}"));
        let path = format!("{}/{}", enc(&vhost), enc(&queue));
        let arguments = json!({ "x-queue-type": "quorum" });
        self.done("PUT", &format!("/queues/{path}"), json!({ "durable": true, "arguments": arguments })).await;
        let binding = format!("/bindings/{}/e/{}/q/{}", enc(&vhost), enc(&queue), enc(&queue));
        self.done("POST", &binding, json!({ "routing_key": "#" })).await;
        let shovel = json!({
            "src-protocol": "amqp091", "src-uri": format!("amqp:///{}", enc(&vhost)), "src-queue": queue,
            "src-prefetch-count": 200, "dest-protocol": "amqp091", "dest-uri": theirs.url_of(&user, PASSWORD, &there),
            "dest-exchange": format!("fed.in.{us}"), "ack-mode": "on-confirm", "reconnect-delay": 1,
        });
        self.done("PUT", &format!("/parameters/shovel/{}/to-{peer}", enc(&vhost)), json!({ "value": shovel })).await;
        eventually(&format!("the shovel of {us} to {peer} runs"), async || {
            let (_, shovels) = self.api("GET", &format!("/shovels/{}", enc(&vhost)), None).await;
            shovels.as_array()?.iter().any(|shovel| shovel["state"] == "running").then_some(())
        })
        .await;
    }

    /// Pulls what `peer` has for its server `us` from the peer's broker by an upstream, and waits until it runs.
    pub async fn pull_from(&self, us: &str, peer: &str, theirs: &Broker) {
        let user = format!("peer.{us}");
        let there = format!("fed.{us}");
        let own = format!("federation: {} -> {}", escaped(&format!("fed.out.{us}")), escaped(us));
        let read = format!("^({}|{own}.*)$", escaped(&format!("fed.out.{us}")));
        theirs.make_user(&user, PASSWORD).await;
        theirs.permit(&user, &there, &format!("^{own}.*$"), &format!("^{own}.*$"), &read).await;
        let (vhost, exchange) = (format!("fed.{peer}"), format!("fed.in.{peer}"));
        let upstream = json!({
            "uri": theirs.url_of(&user, PASSWORD, &there), "exchange": format!("fed.out.{us}"), "max-hops": 1,
            "ack-mode": "on-confirm", "reconnect-delay": 1, "prefetch-count": 1000, "trust-user-id": false,
            "resource-cleanup-mode": "never",
        });
        let path = format!("/parameters/federation-upstream/{}/from-{peer}", enc(&vhost));
        self.done("PUT", &path, json!({ "value": upstream })).await;
        let policy = json!({
            "pattern": format!("^{}$", escaped(&exchange)), "apply-to": "exchanges",
            "definition": { "federation-upstream": format!("from-{peer}") },
        });
        self.done("PUT", &format!("/policies/{}/from-{peer}", enc(&vhost)), policy).await;
        eventually(&format!("the upstream of {us} to {peer} runs"), async || {
            let (_, links) = self.api("GET", &format!("/federation-links/{}", enc(&vhost)), None).await;
            links.as_array()?.iter().any(|link| link["status"] == "running").then_some(())
        })
        .await;
    }

    /// Puts a message into what came from `peer`, as whoever may write there.
    pub async fn publish_in(&self, peer: &str, kind: &str, payload: &str) {
        let path = format!("/exchanges/{}/{}/publish", enc(&format!("fed.{peer}")), enc(&format!("fed.in.{peer}")));
        let message = json!({
            "properties": { "type": kind }, "routing_key": kind, "payload": payload, "payload_encoding": "string",
        });
        let answer = self.done("POST", &path, message).await;
        assert_eq!(answer["routed"], true, "{answer}");
    }

    /// Has a queue of the test's own get a copy of everything that goes into an exchange of the line to `peer`.
    pub async fn listen_in(&self, peer: &str, exchange: &str, queue: &str) {
        let vhost = enc(&format!("fed.{peer}"));
        self.done("PUT", &format!("/queues/{vhost}/{}", enc(queue)), json!({ "durable": true })).await;
        let binding = format!("/bindings/{vhost}/e/{}/q/{}", enc(exchange), enc(queue));
        self.done("POST", &binding, json!({ "routing_key": "#" })).await;
    }

    /// The messages in a queue of the line to `peer`, which stay there, or are taken out.
    pub async fn messages(&self, peer: &str, queue: &str, keep: bool) -> Vec<Value> {
        let path = format!("/queues/{}/{}/get", enc(&format!("fed.{peer}")), enc(queue));
        let mode = if keep { "ack_requeue_true" } else { "ack_requeue_false" };
        let answer = self.done("POST", &path, json!({ "count": 1000, "ackmode": mode, "encoding": "auto" })).await;
        answer.as_array().cloned().unwrap_or_default()
    }

    async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.api(method, path, Some(body)).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }
}

/// A name as a pattern of RabbitMQ that matches nothing else.
fn escaped(name: &str) -> String {
    name.replace('.', r"\.")
}
