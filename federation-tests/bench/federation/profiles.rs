//! How long it takes to learn the name of somebody on another server.

use std::time::{Duration, Instant};

use federation_tests::{Client, enc};
use serde_json::json;

use super::{Pair, newcomer};
use crate::{Arguments, people, table::Table, wire::Wire};

pub async fn measure(pair: &Pair, arguments: &Arguments, table: &mut Table) {
    let count = if arguments.quick { 50 } else { 300 };
    eprintln!("federation: {count} profiles");
    let people = people(&pair.a, "profiled", count).await;
    for client in &people {
        let name = json!({ "displayname": name_of(client) });
        client.put(&format!("profile/{}/displayname", client.user_id), name).await.ok();
    }
    let (_, mut wire) = newcomer(&pair.b, "asker").await;
    let (mut cold, mut cached, mut native) = (Vec::new(), Vec::new(), Vec::new());
    for client in &people {
        cold.push(look_up(&mut wire, client).await);
        cached.push(look_up(&mut wire, client).await);
        native.push(show(&mut wire, client).await);
    }
    // The first one finds the server and its keys besides.
    let first = cold.remove(0);
    table.alone("first question to a server", format!("{:.2} ms", first.as_secs_f64() * 1000.0), "");
    table.percentiles("remote profile, cold", &mut cold, ["under 20 ms", ""]);
    table.percentiles("remote profile, cached", &mut cached, ["under 1 ms", ""]);
    table.percentiles("remote user on the native API, cached", &mut native, ["", "under 1 ms"]);
}

fn name_of(client: &Client) -> String {
    format!("The name of {}", client.localpart())
}

async fn look_up(wire: &mut Wire, client: &Client) -> Duration {
    let path = format!("/_matrix/client/v3/profile/{}", enc(&client.user_id));
    let began = Instant::now();
    let answer = wire.exchange("GET", &path, None).await;
    let time = began.elapsed();
    assert_eq!(answer.status, 200, "the profile of {} was answered {}", client.user_id, answer.body);
    assert_eq!(answer.text("displayname"), Some(name_of(client).as_str()), "in {}", answer.body);
    time
}

async fn show(wire: &mut Wire, client: &Client) -> Duration {
    let path = format!("/api/v1/users/{}", enc(&client.user_id));
    let began = Instant::now();
    let answer = wire.exchange("GET", &path, None).await;
    let time = began.elapsed();
    assert_eq!(answer.text("display_name"), Some(name_of(client).as_str()), "in {}", answer.body);
    time
}
