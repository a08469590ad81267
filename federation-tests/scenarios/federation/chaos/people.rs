//! Those who go on writing whatever happens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use federation_tests::{Answer, Client, enc};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long one's own server may be away.
const OUTAGE: Duration = Duration::from_secs(90);
/// The longest pause between two acts.
const PAUSE: Duration = Duration::from_millis(500);
/// So many requests are repeated at the end.
const REPEATED: usize = 5;

/// An event that was acknowledged.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) path: String,
    pub(super) content: Value,
    pub(super) event_id: String,
}

/// What somebody was told to be part of a room from now on.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) client: Client,
    pub(super) room: String,
    /// Nobody ever takes from them the right to do what they did.
    pub(super) is_firm: bool,
    pub(super) sent: Vec<Sent>,
    requests: usize,
}

impl Ledger {
    fn new(client: Client, room: String, is_firm: bool) -> Self {
        Self { client, room, is_firm, sent: Vec::new(), requests: 0 }
    }

    /// A transaction id that was never used before.
    fn transaction(&mut self) -> String {
        self.requests += 1;
        format!("chaos{}", self.requests)
    }

    /// Asks, in the same words, until there is an answer that is no excuse.
    async fn ask(&self, method: Method, path: &str, content: &Value) -> Answer {
        let path = format!("rooms/{}/{path}", self.room);
        let body = (method != Method::GET).then_some(content);
        let deadline = Instant::now() + OUTAGE;
        loop {
            match self.client.attempt(method.clone(), &path, body).await {
                Ok(answer) if answer.status < 500 => return answer,
                answer => assert!(Instant::now() < deadline, "{path} wasn't answered for {OUTAGE:?}: {answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Does what leads to an event, and notes the event once it is acknowledged. Answers whether it was.
    async fn put(&mut self, path: String, content: Value) -> bool {
        let answer = self.ask(Method::PUT, &path, &content).await;
        if answer.status == 403 && !self.is_firm {
            return false;
        }
        let event_id = answer.ok()["event_id"].as_str().expect("an event id").to_owned();
        self.sent.push(Sent { path, content, event_id });
        true
    }

    async fn say(&mut self) -> bool {
        let number = self.transaction();
        let content = json!({ "msgtype": "m.text", "body": format!("{number} of {}", self.client.user_id) });
        self.put(format!("send/m.room.message/{number}"), content).await
    }

    /// What is under a transaction id is not done again.
    pub(super) async fn repeated_requests_get_the_same_answer(&self) {
        for sent in self.sent.iter().rev().filter(|sent| !sent.path.starts_with("state/")).take(REPEATED) {
            let answer = self.ask(Method::PUT, &sent.path, &sent.content).await;
            if answer.status == 403 && !self.is_firm {
                continue;
            }
            assert_eq!(answer.ok()["event_id"], sent.event_id.as_str(), "{} {}", self.client.user_id, sent.path);
        }
    }
}

/// Somebody with all powers, who uses them.
#[derive(Debug)]
pub(super) struct Writer {
    ledger: Ledger,
    troublemakers: Arc<[String]>,
    dice: StdRng,
}

impl Writer {
    pub(super) fn new(client: Client, room: String, troublemakers: Arc<[String]>, seed: u64) -> Self {
        Self { ledger: Ledger::new(client, room, true), troublemakers, dice: StdRng::seed_from_u64(seed) }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Ledger {
        while pause(&mut self.dice, &stop).await {
            match self.dice.random_range(0..100) {
                0..55 => drop(self.ledger.say().await),
                55..65 => self.state("m.room.topic", "topic").await,
                65..72 => self.state("m.room.name", "name").await,
                72..80 => self.levels().await,
                80..92 => self.membership().await,
                _ => self.redact().await,
            }
        }
        self.ledger
    }

    async fn state(&mut self, event_type: &str, key: &str) {
        let word = format!("{} of {}", self.dice.random_range(0..1000), self.ledger.client.user_id);
        self.ledger.put(format!("state/{event_type}/"), json!({ key: word })).await;
    }

    /// Gives a troublemaker other powers.
    async fn levels(&mut self) {
        let path = "state/m.room.power_levels/";
        let mut levels = self.ledger.ask(Method::GET, path, &Value::Null).await.ok();
        let user = self.somebody();
        levels["users"][&user] = self.dice.random_range(0..50).into();
        self.ledger.put(path.to_owned(), levels).await;
    }

    async fn membership(&mut self) {
        let user = json!({ "user_id": self.somebody() });
        let act = *["kick", "ban", "unban", "unban", "invite"].choose(&mut self.dice).expect("there are some");
        if act == "invite" {
            // Where the way to the invited is cut, the answer is an excuse each time.
            let path = format!("rooms/{}/invite", self.ledger.room);
            let _ = self.ledger.client.attempt(Method::POST, &path, Some(&user)).await;
            return;
        }
        let answer = self.ledger.ask(Method::POST, act, &user).await;
        // Who is not there can't be thrown out.
        assert!([200, 403].contains(&answer.status), "{act} {user} was answered {}", answer.text);
    }

    async fn redact(&mut self) {
        let messages: Vec<&Sent> =
            self.ledger.sent.iter().filter(|sent| sent.path.starts_with("send/m.room.message")).collect();
        let Some(message) = messages.choose(&mut self.dice) else { return };
        let target = enc(&message.event_id);
        let number = self.ledger.transaction();
        self.ledger.put(format!("redact/{target}/{number}"), json!({ "reason": "on second thoughts" })).await;
    }

    fn somebody(&mut self) -> String {
        self.troublemakers.choose(&mut self.dice).expect("there are some").clone()
    }
}

/// Somebody who talks when allowed to and comes back when thrown out.
#[derive(Debug)]
pub(super) struct Troublemaker {
    ledger: Ledger,
    dice: StdRng,
}

impl Troublemaker {
    pub(super) fn new(client: Client, room: String, seed: u64) -> Self {
        Self { ledger: Ledger::new(client, room, false), dice: StdRng::seed_from_u64(seed) }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Ledger {
        while pause(&mut self.dice, &stop).await {
            if !self.ledger.say().await {
                // Who is banned stays outside.
                let answer = self.ledger.ask(Method::POST, "join", &json!({})).await;
                assert!([200, 403].contains(&answer.status), "a join was answered {}", answer.text);
            }
        }
        self.ledger
    }
}

/// Answers whether it goes on afterwards.
async fn pause(dice: &mut StdRng, stop: &CancellationToken) -> bool {
    let pause = PAUSE.mul_f64(dice.random_range(0.1..1.0));
    stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
}
