//! The same two servers over HTTPS and over their brokers, one after the other.

use federation_tests::{Broker, Engine, Network, Server, enc};
use http::Method;
use serde_json::json;

use super::{Pair, latency};
use crate::{Arguments, table::Table};

/// Nothing, if there is no RabbitMQ here.
pub async fn measure(engine: &Engine, arguments: &Arguments, table: &mut Table) {
    let Some(programs) = Broker::programs() else { return };
    eprintln!("federation: starting two RabbitMQs");
    let (of_a, of_b) = tokio::join!(Broker::start(&programs, "a.test"), Broker::start(&programs, "b.test"));
    let (url_of_a, url_of_b) = (of_a.server_url().await, of_b.server_url().await);
    of_a.open_line("b.test").await;
    of_b.open_line("a.test").await;
    let network = Network::direct();
    let a = network.server(engine, "a.test").await.set("bus", "url", url_of_a).start().await;
    let b = network.server(engine, "b.test").await.set("bus", "url", url_of_b).start().await;
    let pair = Pair { a, b, network };
    let admins = [pair.a.admin().await, pair.b.admin().await];
    for transport in ["https", "amqp"] {
        for (admin, peer) in admins.iter().zip(["b.test", "a.test"]) {
            let change = json!({ "level": "full", "transport": transport, "reason": "a measurement" });
            let path = format!("/api/v1/admin/peers/{}", enc(peer));
            admin.attempt(Method::PATCH, &path, Some(&change)).await.expect("the server answers").ok();
        }
        if transport == "amqp" {
            of_a.shovel_to("a.test", "b.test", &of_b).await;
            of_b.shovel_to("b.test", "a.test", &of_a).await;
            warm(&pair.a, &pair.b).await;
        }
        let found = latency::at_pace(&pair, arguments, transport).await;
        found.tell(&format!(" over {transport}, with a bus"), ["", ""], table);
    }
}

/// Waits until something has come over the brokers.
async fn warm(a: &Server, b: &Server) {
    let (speaker, _) = super::newcomer(a, "early").await;
    let (listener, mut wire) = super::newcomer(b, "bird").await;
    let room = speaker.create_public_room().await;
    super::join_through(&mut wire, &room, a.name()).await;
    let mut since = listener.now().await;
    let said = speaker.say(&room, "is it there?").await;
    listener.sync_until(&mut since, |answer| answer["rooms"]["join"].to_string().contains(&said).then_some(())).await;
}
