//! From a send on one server until a syncing client of the other has it, at the pace of a lively room.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::LocalSet;

use super::{Pair, join_through, newcomer};
use crate::{
    Arguments,
    fanout::{first_token, poll_path},
    table::Table,
    wire::Wire,
};

/// Messages in a second.
const RATE: u32 = 50;
/// Sent before the clock counts: connections open, caches fill.
const WARM_UP: usize = 25;
/// How long after the last send everything must have come.
const DEADLINE: Duration = Duration::from_secs(30);
/// What each message begins with, before its number and a full stop.
const MARK: &str = "latency number ";

/// When each message came, by its number.
type Arrivals = Rc<RefCell<Vec<Option<Instant>>>>;

/// As the two are, over HTTPS.
pub async fn measure(pair: &Pair, arguments: &Arguments, table: &mut Table) {
    let found = at_pace(pair, arguments, "").await;
    found.tell("", ["under 10 ms", "under 50 ms"], table);
}

/// What was found out about one way between two servers.
pub struct Latency {
    times: Vec<Duration>,
    delivered: f64,
    cpu: f64,
}

impl Latency {
    /// `way`: how the messages travelled, as a part of a sentence.
    pub fn tell(mut self, way: &str, aims: [&str; 2], table: &mut Table) {
        table.percentiles(&format!("A to B{way} at {RATE}/s"), &mut self.times, aims);
        table.alone(&format!("delivered to a syncing client{way}"), format!("{:.2} %", self.delivered), "100 %");
        table.alone(
            &format!("CPU of both servers for 1000 messages{way} at {RATE}/s"),
            format!("{:.3} s", self.cpu),
            "at most 0.8 s",
        );
    }
}

/// Somebody speaks at `a`, and somebody listens at `b`; `ends` tells their names from those of others.
pub async fn at_pace(pair: &Pair, arguments: &Arguments, ends: &str) -> Latency {
    let seconds = if arguments.quick { 5 } else { 20 };
    let count = WARM_UP + RATE as usize * seconds;
    eprintln!("federation: {RATE} messages a second for {seconds} s");
    let (speaker, mut speaking) = newcomer(&pair.a, &format!("speaker{ends}")).await;
    let room = speaker.create_public_room().await;
    let (listener, mut listening) = newcomer(&pair.b, &format!("listener{ends}")).await;
    join_through(&mut listening, &room, pair.a.name()).await;

    let arrivals: Arrivals = Rc::new(RefCell::new(vec![None; count]));
    let since = first_token(&listener).await;
    let local = LocalSet::new();
    local.spawn_local(listen(listening, since, arrivals.clone()));
    let (starts, cpu) = local
        .run_until(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = pair.cpu_seconds();
            let starts = speak(&mut speaking, &room, count).await;
            all_arrived(&arrivals).await;
            (starts, pair.cpu_seconds() - before)
        })
        .await;

    let arrivals = arrivals.borrow();
    let pairs = starts.iter().zip(arrivals.iter()).skip(WARM_UP);
    Latency {
        times: pairs.filter_map(|(start, arrival)| Some((*arrival)? - *start)).collect(),
        delivered: arrivals.iter().flatten().count() as f64 * 100.0 / count as f64,
        cpu: cpu * 1000.0 / count as f64,
    }
}

/// Sends `count` messages at the rate, and answers when each began; one that began late because the one before was slow
/// counts from the moment in which it should have begun.
async fn speak(wire: &mut Wire, room: &str, count: usize) -> Vec<Instant> {
    let began = Instant::now();
    let mut starts = Vec::with_capacity(count);
    for number in 0..count {
        let due = began + Duration::from_secs(1) / RATE * number as u32;
        tokio::time::sleep_until(due.into()).await;
        let woken = Instant::now();
        // The timer's own grain, a millisecond, is not the server's fault; a late predecessor is.
        starts.push(if woken.duration_since(due) < Duration::from_millis(2) { woken } else { due });
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/l{number}");
        let body = format!(r#"{{"msgtype":"m.text","body":"{MARK}{number}."}}"#);
        let answer = wire.exchange("PUT", &path, Some(&body)).await;
        assert_eq!(answer.status, 200, "a send was answered {}", answer.body);
    }
    starts
}

/// Notes what comes and when, for as long as it is run.
async fn listen(mut wire: Wire, mut since: String, arrivals: Arrivals) {
    loop {
        let path = poll_path(&since, Duration::from_secs(30));
        let answer = wire.exchange("GET", &path, None).await;
        let now = Instant::now();
        assert_eq!(answer.status, 200, "a long-poll was answered {}", answer.body);
        for number in numbers(answer.body) {
            arrivals.borrow_mut()[number].get_or_insert(now);
        }
        answer.text("next_batch").expect("a next_batch").clone_into(&mut since);
    }
}

/// The numbers of the messages in an answer to `/sync`.
fn numbers(answer: &str) -> impl Iterator<Item = usize> {
    answer.split(MARK).skip(1).filter_map(|rest| rest.split('.').next()?.parse().ok())
}

/// Waits until everything is there, or until nothing more can be hoped for.
async fn all_arrived(arrivals: &Arrivals) {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline && arrivals.borrow().iter().any(Option::is_none) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_recognised_by_their_numbers() {
        let answer = r#"{"body":"latency number 7."},{"body":"latency number 12."},{"body":"another"}"#;
        assert_eq!(numbers(answer).collect::<Vec<_>>(), [7, 12]);
    }
}
