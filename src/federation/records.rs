//! What sending and being asked add to the delivery ledger.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use metrics::counter;
use model::{EventNid, Position};
use ruma::{OwnedServerName, ServerName, api::federation::transactions::send_transaction_message::v1::Response};
use store::{
    Store, Write,
    ledger::{self, Answer, DestinationNid, Outcome},
};
use tracing::debug;

use crate::{now, transaction::Transaction};

/// The most of a peer's reason that is kept, in characters.
const MOST_REASON: usize = 300;
/// How many numbers of servers are in memory at most.
const MOST_NUMBERS: usize = 20_000;
/// How many events are remembered that one server fetched while it was away or catching up, and of how many servers. What is
/// beyond counts as not fetched.
const MOST_FETCHED: usize = 5_000;
const MOST_FETCHING: usize = 200;

/// Writes the ledger.
pub(crate) struct Records {
    store: Store,
    us: OwnedServerName,
    numbers: Mutex<HashMap<OwnedServerName, DestinationNid>>,
    fetching: Mutex<Fetching>,
    /// There is something to sum up.
    is_fresh: AtomicBool,
}

/// Whose fetching is worth a look.
#[derive(Default)]
struct Fetching {
    /// They were refusing or skipped.
    missed: HashSet<OwnedServerName>,
    /// They are away or catching up: what they fetch meanwhile may be skipped later, at the latest when the transaction is
    /// answered from which they learned what to fetch.
    early: HashMap<OwnedServerName, BTreeSet<EventNid>>,
}

impl Records {
    pub(crate) fn new(store: Store, us: OwnedServerName) -> Self {
        let (numbers, fetching) = Default::default();
        Self { store, us, numbers, fetching, is_fresh: AtomicBool::new(true) }
    }

    fn fetching(&self) -> MutexGuard<'_, Fetching> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something was written since this was asked last.
    pub(crate) fn take_fresh(&self) -> bool {
        self.is_fresh.swap(false, Ordering::AcqRel)
    }

    /// There is something to sum up.
    pub(crate) fn mark_fresh(&self) {
        self.is_fresh.store(true, Ordering::Release);
    }

    /// Looks up again who missed something.
    pub(crate) async fn load(&self) -> Result<(), store::Error> {
        let missed = self.store.ledger().who_missed().await?.into_iter().collect();
        self.fetching().missed = missed;
        Ok(())
    }

    /// The number by which the ledger names `destination`, which is given one the first time.
    async fn number_of(&self, destination: &ServerName) -> Result<DestinationNid, store::Error> {
        let numbers = || self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers().get(destination) {
            return Ok(*number);
        }
        let number = match self.store.ledger().number_of(destination).await? {
            Some(number) => number,
            None => {
                self.store.ensure_nids(1).await?;
                let mut write = Write::new();
                ledger::insert_destination(&mut write, destination, DestinationNid(self.store.next_nid()));
                self.store.commit(write).await?;
                // Another node may have been first.
                let number = self.store.ledger().number_of(destination).await?;
                number.ok_or_else(|| store::Error::Corrupt(format!("{destination} has no number in the ledger")))?
            }
        };
        let mut numbers = numbers();
        if numbers.len() >= MOST_NUMBERS {
            numbers.clear();
        }
        numbers.insert(destination.to_owned(), number);
        Ok(number)
    }

    // === what is answered ===

    /// `destination` answered to `transaction`: to be written before what it covers leaves the outbox.
    pub(crate) async fn answered(
        &self,
        write: &mut Write,
        destination: &ServerName,
        transaction: &Transaction,
        response: &Response,
    ) -> Result<(), store::Error> {
        let covers = &transaction.kept.covers;
        if transaction.pdus.is_empty() && covers.rooms.is_empty() {
            return Ok(());
        }
        let number = self.number_of(destination).await?;
        let sent_at = Some(transaction.kept.made_at);
        let answer = Answer::new(write, (destination, number), &self.us, sent_at, now());
        let runs = runs_of(transaction, response);
        for run in &runs {
            let outcome = if run.reason.is_some() { Outcome::Refused } else { Outcome::Accepted };
            answer.record(write, run.stretch, outcome, run.reason.as_deref());
            counter!("comity_federation_delivered_total", "outcome" => word(outcome)).increment(run.events);
        }
        for (room, upto) in &covers.rooms {
            answer.record_skipped(write, model::RoomNid(*room), Position(*upto));
        }
        if !covers.rooms.is_empty() || runs.iter().any(|run| run.reason.is_some()) {
            self.fetching().missed.insert(destination.to_owned());
        }
        self.mark_fresh();
        Ok(())
    }

    /// `destination` refuses `transaction` as a whole, again and again: what is in it is set aside.
    pub(crate) async fn set_aside(
        &self,
        write: &mut Write,
        destination: &ServerName,
        transaction: &Transaction,
        reason: &str,
    ) -> Result<(), store::Error> {
        let refused = transaction.pdus.iter().map(|pdu| (pdu.event_id.clone(), Err(reason.to_owned())));
        self.answered(write, destination, transaction, &Response::new(refused.collect())).await
    }

    // === what is fetched ===

    /// What `destination` has skipped is in the ledger, since `position`: what it fetched of it before is noted.
    pub(crate) async fn skipped(&self, destination: &ServerName, position: Position) -> Result<(), store::Error> {
        let skipped = self.store.ledger().count_skipped(position).await?;
        counter!("comity_federation_delivered_total", "outcome" => word(Outcome::Skipped)).increment(skipped);
        let early: Vec<EventNid> = self.fetching().early.get(destination).into_iter().flatten().copied().collect();
        self.note_fetched(destination, &early).await
    }

    /// `destination` skips nothing any more.
    pub(crate) fn has_caught_up(&self, destination: &ServerName) {
        self.fetching().early.remove(destination);
    }

    /// `server` is being answered these events, for which it asked by itself. Costs next to nothing unless it has missed some.
    /// `is_away`: transactions don't reach it, or it catches up.
    pub(crate) async fn fetched(&self, server: &ServerName, events: &[EventNid], is_away: bool) {
        {
            let mut fetching = self.fetching();
            let may_remember = fetching.early.len() < MOST_FETCHING || fetching.early.contains_key(server);
            if is_away && may_remember {
                let early = fetching.early.entry(server.to_owned()).or_default();
                let room = MOST_FETCHED.saturating_sub(early.len());
                early.extend(events.iter().take(room));
            }
            if !fetching.missed.contains(server) {
                return;
            }
        }
        if let Err(error) = self.note_fetched(server, events).await {
            debug!(%error, server.name = %server, "could not note what {server} has fetched");
        }
    }

    async fn note_fetched(&self, server: &ServerName, events: &[EventNid]) -> Result<(), store::Error> {
        if events.is_empty() {
            return Ok(());
        }
        let number = self.number_of(server).await?;
        let missed = self.store.ledger().missed(number, events).await?;
        if missed.is_empty() {
            return Ok(());
        }
        let mut write = Write::new();
        ledger::record_pulled(&mut write, number, &missed, now());
        // Nobody waits for it to be durable: what is lost in a crash counts as not fetched.
        drop(self.store.reserve().await?.enqueue(write));
        counter!("comity_federation_delivered_total", "outcome" => "pulled").increment(missed.len() as u64);
        self.mark_fresh();
        Ok(())
    }
}

/// What became of an event, as metrics call it.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Refused => "refused",
        Outcome::Skipped => "skipped",
        Outcome::RefusedThenPulled | Outcome::SkippedThenPulled => "pulled",
    }
}

/// Events that follow each other in the queue and were answered alike.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    /// After which position, and up to which.
    stretch: (Position, Position),
    /// Why they were refused; `None`: they weren't.
    reason: Option<String>,
    events: u64,
}

/// The events of a transaction as they were answered. What the answer doesn't tell of was taken.
fn runs_of(transaction: &Transaction, response: &Response) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    // Of rooms that catch up one event each is sent, and what lies between them isn't.
    let is_gapless = transaction.kept.covers.rooms.is_empty();
    for pdu in &transaction.pdus {
        let refusal = response.pdus.get(&pdu.event_id).and_then(|outcome| outcome.as_ref().err());
        let reason = refusal.map(|reason| reason.chars().take(MOST_REASON).collect::<String>());
        match runs.last_mut() {
            Some(last) if is_gapless && last.reason == reason => {
                last.stretch.1 = pdu.position;
                last.events += 1;
            }
            _ => runs.push(Run { stretch: (Position(pdu.position.0 - 1), pdu.position), reason, events: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use ruma::OwnedEventId;
    use store::outbox::OwedPdu;

    use super::*;
    use crate::transaction::Covers;

    fn transaction(positions: &[i64], covers: Covers) -> Transaction {
        let pdus = positions.iter().map(|position| OwedPdu {
            position: Position(*position),
            nid: EventNid(*position),
            room: model::RoomNid(1),
            event_id: event_id(*position),
            made_at: 1,
            json: "{}".into(),
        });
        Transaction::new(pdus.collect(), Vec::new(), covers, 1)
    }

    fn event_id(number: i64) -> OwnedEventId {
        format!("${number}").try_into().expect("it is one")
    }

    #[test]
    fn events_that_are_answered_alike_are_noted_together() {
        let covers = Covers { pdus: 9, ..Covers::default() };
        let refused = [4, 5].map(|number| (event_id(number), Err("no".to_owned())));
        let runs = runs_of(&transaction(&[2, 3, 4, 5, 9], covers), &Response::new(refused.into()));
        let shown: Vec<_> =
            runs.iter().map(|run| (run.stretch.0.0, run.stretch.1.0, run.reason.as_deref(), run.events)).collect();
        assert_eq!(shown, [(1, 3, None, 2), (3, 5, Some("no"), 2), (8, 9, None, 1)]);
    }

    #[test]
    fn what_lies_between_the_latest_events_of_rooms_was_not_sent() {
        let covers = Covers { rooms: vec![(1, 9), (2, 3)], ..Covers::default() };
        let runs = runs_of(&transaction(&[9, 3], covers), &Response::new(Default::default()));
        assert_eq!(runs.iter().map(|run| run.stretch.0.0).collect::<Vec<_>>(), [8, 2]);
    }
}
