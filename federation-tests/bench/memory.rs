//! What the server holds while nothing happens.

use std::{cell::Cell, rc::Rc, time::Duration};

use federation_tests::{Client, Server, Usage};
use tokio::task::LocalSet;

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
    let files = server.usage().files;
    let clients = waiting_people(server, count).await;
    federation_tests::eventually("the connections of the preparation are closed", async || {
        (server.usage().files <= files).then_some(())
    })
    .await;
    let before = settled(server).await;
    table.alone("resident after the load", format!("{:.1} MB", before.resident_kb as f64 / 1024.0), "");

    let answered = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    for (client, since) in clients {
        let wire = Wire::connect(&server.address(), &client).await;
        local.spawn_local(wait(wire, since, answered.clone()));
    }
    local
        .run_until(async {
            federation_tests::eventually("the server holds all connections", async || {
                (server.usage().files >= before.files + count).then_some(())
            })
            .await;
            settled(server).await;
            let disturbed = answered.get();
            let after = settled(server).await;
            assert_eq!(answered.get(), disturbed, "the long-polls don't come to rest");
            let each = after.resident_kb.saturating_sub(before.resident_kb) as f64 / count as f64;
            table.alone(&format!("each of {count} idle long-polls"), format!("{each:.1} KB"), "under 20 KB");
        })
        .await;
}

/// People in one room, each with the token that they wait from, and without a connection.
async fn waiting_people(server: &Server, count: usize) -> Vec<(Client, String)> {
    let host = server.register_with_secret("host").await;
    let room = host.create_public_room().await;
    let people = people(server, "waiting", count).await;
    for client in &people {
        client.join(&room).await;
    }
    let mut waiting = Vec::new();
    for client in &people {
        let since = fanout::first_token(client).await;
        waiting.push((client.another(), since));
    }
    waiting
}

/// Waits for ever; counts what comes meanwhile.
async fn wait(mut wire: Wire, mut since: String, answered: Rc<Cell<usize>>) {
    loop {
        let path = fanout::poll_path(&since, Duration::from_secs(120));
        let answer = wire.exchange("GET", &path, None).await;
        assert_eq!(answer.status, 200, "a long-poll was answered {}", answer.body);
        answer.text("next_batch").expect("a next_batch").clone_into(&mut since);
        answered.set(answered.get() + 1);
    }
}

/// Looks at the server until its memory and its processor have come to rest.
pub async fn settled(server: &Server) -> Usage {
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
