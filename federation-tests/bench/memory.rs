//! What the server holds while nothing happens.

use std::time::Duration;

use federation_tests::{Client, Server, Usage};
use tokio::task::JoinSet;

use crate::{Arguments, fanout, people, table::Table, wire::Wire};

/// How often the memory is looked at, and how often it must be the same to count as settled.
const LOOK: Duration = Duration::from_millis(250);
const STEADY_LOOKS: usize = 8;
const MOST_LOOKS: usize = 80;

/// The server as it is after its start.
pub async fn idle(server: &Server, table: &mut Table) {
    let resident = settled(server).await.resident_kb;
    table.alone("resident after the start", format!("{:.1} MB", resident as f64 / 1024.0), "under 60 MB");
}

/// What each of many idle long-polls costs, connection included.
pub async fn long_polls(server: &Server, arguments: &Arguments, table: &mut Table) {
    let count = arguments.polls();
    eprintln!("memory: {count} people log in and wait");
    let speaker = server.register_with_secret("host").await;
    let room = speaker.create_public_room().await;
    let waiting: Vec<Client> = people(server, "waiting", count).await;
    let mut tokens = Vec::new();
    for client in &waiting {
        client.join(&room).await;
    }
    for client in &waiting {
        tokens.push(fanout::first_token(client).await);
    }
    let clients: Vec<(Client, String)> = waiting.iter().map(|client| client.another()).zip(tokens).collect();
    // The connections on which they were registered go first.
    drop(waiting);
    let before = settled(server).await;
    table.alone("resident after the load", format!("{:.1} MB", before.resident_kb as f64 / 1024.0), "");

    let mut polls = JoinSet::new();
    for (client, since) in clients {
        let mut wire = Wire::connect(&server.address(), &client).await;
        polls.spawn(async move {
            let path = fanout::poll_path(&since, Duration::from_secs(120));
            wire.exchange("GET", &path, None).await.status
        });
    }
    federation_tests::eventually("the server holds all connections", async || {
        (server.usage().files >= before.files + count).then_some(())
    })
    .await;
    let after = settled(server).await;
    let ended = count - polls.len() + polls_ended(&mut polls);
    assert_eq!(ended, 0, "{ended} of {count} long-polls didn't wait");
    let each = after.resident_kb.saturating_sub(before.resident_kb) as f64 / count as f64;
    table.alone(&format!("each of {count} idle long-polls"), format!("{each:.1} KB"), "under 20 KB");
    polls.abort_all();
}

fn polls_ended(polls: &mut JoinSet<u16>) -> usize {
    let mut ended = 0;
    while polls.try_join_next().is_some() {
        ended += 1;
    }
    ended
}

/// Looks at the server until its memory and its processor have come to rest.
async fn settled(server: &Server) -> Usage {
    let mut last = server.usage();
    let mut steady = 0;
    for _ in 0..MOST_LOOKS {
        tokio::time::sleep(LOOK).await;
        let now = server.usage();
        steady = if now.resident_kb.abs_diff(last.resident_kb) < 64 { steady + 1 } else { 0 };
        last = now;
        if steady >= STEADY_LOOKS {
            break;
        }
    }
    last
}
