//! How long it takes to join a room that only the other server knows.

use std::time::{Duration, Instant};

use federation_tests::{Client, FakePeer, FakeRoom, Reply, Server, enc};
use serde_json::json;

use super::{Limits, Pair, join_through, newcomer};
use crate::{Arguments, people, table::Table, wire::Wire};

/// Of the room of middle size.
const EVENTS: usize = 1000;
const MEMBERS: usize = 100;
/// Of the large room.
const CROWD: usize = 10_000;
/// The newest version, that of new rooms.
const VERSION: &str = "12";

/// Rooms of A with a history, joined from B one after the other.
pub async fn of_middle_rooms(pair: &Pair, arguments: &Arguments, table: &mut Table) {
    let count = if arguments.quick { 1 } else { 5 };
    eprintln!("federation: {count} rooms of {EVENTS} events and {MEMBERS} members");
    let members = people(&pair.a, "member", MEMBERS).await;
    let mut times = Vec::new();
    for number in 0..count {
        let room = middle_room(&pair.a, &members).await;
        let (_, mut wire) = newcomer(&pair.b, &format!("joiner{number}")).await;
        times.push(join(&mut wire, &room, pair.a.name(), MEMBERS + 1).await);
    }
    times.sort_unstable();
    let figure = format!("join of {EVENTS} events and {MEMBERS} members, median of {count}");
    table.alone(&figure, milliseconds(times[count / 2]), "");
}

/// A public room of `members` that the first of them has made, and in which they have talked.
async fn middle_room(server: &Server, members: &[Client]) -> String {
    let owner = &members[0];
    let room = owner.create_public_room().await;
    for member in &members[1..] {
        member.join(&room).await;
    }
    // Creation, levels, join rules, visibility and guest access are events too, and so is each member.
    let made = 5 + members.len();
    let mut wires = Vec::new();
    for member in members.iter().take(8) {
        wires.push(Wire::connect(&server.address(), member).await);
    }
    for number in made..EVENTS {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/h{number}", enc(&room));
        let body = format!(r#"{{"msgtype":"m.text","body":"History, sentence {number}."}}"#);
        let speaker = number % wires.len();
        let answer = wires[speaker].exchange("PUT", &path, Some(&body)).await;
        assert_eq!(answer.status, 200, "a send was answered {}", answer.body);
    }
    room
}

/// A room of a fake peer, which has its answer ready: all the time is B's.
pub async fn of_a_large_room(pair: &Pair, limits: &Limits, arguments: &Arguments, table: &mut Table) {
    let count = if arguments.quick { 1 } else { 3 };
    eprintln!("federation: {count} rooms of {CROWD} members");
    let mut results = Vec::new();
    for number in 0..count {
        // A server of its own each time, so that nothing is known about it.
        let peer = FakePeer::start(&pair.network, &format!("crowd{number}.test")).await;
        let room = crowded_room(&peer);
        let (_, mut wire) = newcomer(&pair.b, &format!("visitor{number}")).await;
        let before = pair.b.usage().cpu_seconds;
        let time = join(&mut wire, &room, &peer.name, CROWD + 1).await;
        results.push((time, pair.b.usage().cpu_seconds - before));
    }
    results.sort_unstable_by_key(|(time, _)| *time);
    let (time, cpu) = results[count / 2];
    table.alone(&format!("join of {CROWD} members, median of {count}"), milliseconds(time), "");
    table.alone("CPU of B for it, with a list of the members", format!("{cpu:.2} s"), "");
    let checked = CROWD as f64 / time.as_secs_f64();
    table.against("members a second, against signature checks of one core", checked, limits.checks, "/s", "");
    let resident = pair.b.usage().resident_kb as f64 / 1024.0;
    table.alone("resident on B after it", format!("{resident:.1} MB"), "");
}

/// Makes a room of [`CROWD`] members and lets others join it; answers its id.
fn crowded_room(peer: &FakePeer) -> String {
    let mut room = peer.create_room("member0", VERSION);
    // What was there before the crowd is all that a member's event refers to.
    let chain = room.events.clone();
    for number in 1..CROWD {
        let user = format!("member{number}");
        let content = json!({ "membership": "join", "displayname": format!("Member {number}") });
        room.make(peer, &user, "m.room.member", Some(&peer.user(&user)), content);
    }
    let state: Vec<_> = room.state.values().collect();
    let answer = json!({ "origin": peer.name, "members_omitted": false, "state": state, "auth_chain": chain });
    let id = room.id.clone();
    answer_joins(peer, room, answer.to_string().into_bytes());
    id
}

fn answer_joins(peer: &FakePeer, room: FakeRoom, state: Vec<u8>) {
    peer.answer(move |heard| {
        let path = heard.path.replace("%40", "@").replace("%3A", ":");
        if path.starts_with("/_matrix/federation/v2/send_join/") {
            return Some(Reply::Bytes(state.clone()));
        }
        let (_, user) = path.strip_prefix("/_matrix/federation/v1/make_join/")?.split_once('/')?;
        let event = room.draft(user, "m.room.member", Some(user), json!({ "membership": "join" }));
        Some(Reply::Json(200, json!({ "room_version": room.version, "event": event })))
    });
}

/// Joins, makes sure that all members are there, and answers how long the joining took.
async fn join(wire: &mut Wire, room: &str, via: &str, members: usize) -> Duration {
    let began = Instant::now();
    join_through(wire, room, via).await;
    let time = began.elapsed();
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", enc(room));
    let answer = wire.exchange("GET", &path, None).await;
    let found = answer.body.matches("\"@").count();
    assert_eq!((answer.status, found), (200, members), "the members of {room} as B sees them");
    time
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
