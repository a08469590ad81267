//! One destination's turn: from its rows to transactions, until there are none or it can't be reached.

use std::{sync::Arc, time::Duration};

use metrics::{counter, histogram};
use model::Position;
use peers::{Failure, PeerError};
use ruma::{
    OwnedServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1::Response},
};
use serde_json::value::RawValue;
use store::{
    Pending, Write, destinations,
    duties::Duty,
    outbox,
    outbox::{Owed, OwedKeys, Stretch},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    backoff::may_have_arrived,
    book::{Ended, Health},
    fresh::Fresh,
    millis, now,
    sender::Shared,
    transaction::{Covers, Kept, MAX_EDUS, MAX_PDUS, Transaction, raw_edu},
};

/// After so many transactions others have their turn.
const TRANSACTIONS_A_TURN: usize = 20;
/// Of the EDUs in a transaction, so many at most are messages to devices, and so many are about keys.
const MAX_TO_DEVICE: usize = 50;
const MAX_KEYS: usize = 20;
/// EDUs fill no more than this, unless it is a single one.
const MAX_EDU_BYTES: usize = 1 << 20;
/// How long a transaction under way is waited for when the server stops.
const GRACE: Duration = Duration::from_secs(3);
/// A turn that broke off by a fault of ours is not taken up at once.
const AFTER_A_FAULT: Duration = Duration::from_secs(60);
/// Refused events are complained of no more often, for one destination.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// After being refused so often by itself, a thing is set aside.
const SET_ASIDE_AFTER: u32 = 8;

/// A destination's turn.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    destination: OwnedServerName,
    stop: CancellationToken,
    /// Leave to send what is in the store. Without it, only what lives in this node's memory is sent, and nothing is written.
    duty: Option<Duty>,
    health: Health,
    /// Up to here everything was sent in this turn; its rows may be on their way out still.
    sent: Covers,
    /// The last removal of rows.
    removal: Option<Pending>,
    ended: Ended,
}

enum Step {
    Nothing,
    /// `is_last`: there was nothing more when it was read.
    Sent {
        is_last: bool,
    },
    Failed(Duration),
    Stopped,
}

impl Turn {
    /// Sends what `destination` is owed.
    pub(crate) async fn take(shared: Arc<Shared>, destination: OwnedServerName, stop: CancellationToken) {
        let health = shared.book().slot(&destination).map(|slot| slot.health.clone()).unwrap_or_default();
        let ended = Ended::Failed(AFTER_A_FAULT);
        let (duty, sent) = (shared.duty(&destination), Covers::default());
        let mut turn = Self { shared, destination, stop, duty, health, sent, removal: None, ended };
        turn.ended = turn.run().await;
    }

    async fn run(&mut self) -> Ended {
        for _ in 0..TRANSACTIONS_A_TURN {
            if self.stop.is_cancelled() {
                return self.finish().await;
            }
            let step = match self.step().await {
                Ok(step) => step,
                Err(store::Error::Superseded) => return self.leave(),
                Err(error) => {
                    let error = PeerError::Store(error);
                    return Ended::Failed(self.note_failure(&error, None).await);
                }
            };
            match step {
                Step::Sent { is_last: true } | Step::Nothing if !self.has_work() => return self.finish().await,
                Step::Sent { .. } | Step::Nothing => {}
                Step::Failed(wait) => return Ended::Failed(wait),
                Step::Stopped => return self.finish().await,
            }
        }
        match self.finish().await {
            Ended::Done => Ended::More,
            ended => ended,
        }
    }

    fn has_work(&self) -> bool {
        self.shared.book().take_work(&self.destination)
    }

    /// The rows are gone, or the same would be sent again at the next turn.
    async fn finish(&mut self) -> Ended {
        match self.settle().await {
            Ok(()) => Ended::Done,
            Err(store::Error::Superseded) => self.leave(),
            Err(error) => Ended::Failed(self.note_failure(&PeerError::Store(error), None).await),
        }
    }

    /// Another node sends to the destination from now on, and knows better how it is.
    fn leave(&mut self) -> Ended {
        info!(destination = %self.destination, "another node sends to {} now", self.destination);
        if let Some(slot) = self.shared.book().slot(&self.destination) {
            slot.health = Health::default();
        }
        Ended::Done
    }

    /// Nothing is written for a destination that is another node's.
    async fn commit(&self, write: Write) -> Result<Position, store::Error> {
        self.enqueue(write).await?.committed().await
    }

    async fn enqueue(&self, mut write: Write) -> Result<Pending, store::Error> {
        write.on_duty(self.duty.ok_or(store::Error::Superseded)?);
        Ok(self.shared.store.reserve().await?.enqueue(write))
    }

    async fn settle(&mut self) -> Result<(), store::Error> {
        match self.removal.take() {
            Some(removal) => removal.committed().await.map(drop),
            None => Ok(()),
        }
    }

    async fn step(&mut self) -> Result<Step, store::Error> {
        if self.duty.is_some() && self.shared.duty(&self.destination) != self.duty {
            self.settle().await?;
            return Err(store::Error::Superseded);
        }
        let (transaction, taken, is_last) = match self.kept_transaction().await? {
            Some(transaction) => (transaction, Fresh::default(), false),
            None => self.next_transaction().await?,
        };
        if transaction.is_empty() {
            return self.skip(transaction.kept.covers, is_last).await;
        }
        let began = Instant::now();
        let request = transaction.request(self.shared.server_name.clone());
        let timeout = self.shared.config.send_timeout;
        let shared = self.shared.clone();
        let sending = shared.way.send(&self.destination, request, timeout);
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let answer = tokio::select! {
            biased;
            answer = sending => answer,
            () = stopped => {
                // It may have arrived: whoever starts next asks again, in the same words.
                if self.duty.is_some() {
                    self.keep(&transaction).await?;
                }
                return Ok(Step::Stopped);
            }
        };
        let duration_ms = began.elapsed().as_millis() as u64;
        match answer {
            Ok(response) => {
                self.note_delivery(&transaction, &response, duration_ms);
                self.arrived(&transaction, &response).await?;
                // Whoever catches up has done so only when its turn has found nothing left, and noted that.
                Ok(Step::Sent { is_last: is_last && self.health.catch_up_upto.is_none() })
            }
            Err(error) => {
                counter!("comity_federation_transactions_total", "outcome" => error.failure().word()).increment(1);
                Ok(Step::Failed(self.did_not_arrive(transaction, taken, error).await?))
            }
        }
    }

    // === what is sent ===

    /// The transaction of which nobody knows whether it arrived.
    async fn kept_transaction(&mut self) -> Result<Option<Transaction>, store::Error> {
        if !self.health.is_unsure || self.duty.is_none() {
            return Ok(None);
        }
        let outbox = self.shared.store.outbox();
        let kept = outbox.transaction(&self.destination).await?;
        let kept: Option<Kept> = kept.and_then(|content| serde_json::from_str(&content).ok());
        let Some(kept) = kept else {
            self.health.is_unsure = false;
            return Ok(None);
        };
        let positions: Vec<Position> = kept.pdus.iter().copied().map(Position).collect();
        let pdus = outbox.pdus_at(&self.destination, &positions).await?;
        Ok(Some(Transaction::again(kept, pdus, now())))
    }

    /// The next transaction, what of it is fresh, and whether there was nothing more when it was read.
    async fn next_transaction(&mut self) -> Result<(Transaction, Fresh, bool), store::Error> {
        if self.duty.is_none() {
            let mut is_last = true;
            let (taken, fresh) = self.take_fresh(MAX_EDUS, &mut is_last);
            let edus = fresh.iter().filter_map(raw_edu).collect();
            return Ok((Transaction::new(Vec::new(), edus, Covers::default(), now()), taken, is_last));
        }
        if let Some(upto) = self.health.catch_up_upto
            && let Some(next) = self.catch_up(upto).await?
        {
            return Ok((next, Fresh::default(), false));
        }
        let most = self.health.at_most;
        let pdus = most.unwrap_or(MAX_PDUS);
        let edus = most.map_or((MAX_TO_DEVICE, MAX_KEYS), |most| (most, most));
        let stretch = Stretch {
            pdus: (Position(self.sent.pdus), pdus as i64),
            to_device: (Position(self.sent.to_device), edus.0 as i64),
            keys: (Position(self.sent.keys), edus.1 as i64),
        };
        let mut owed = self.shared.store.outbox().owed(&self.destination, stretch).await?;
        let mut is_last = owed.pdus.len() < pdus && owed.to_device.len() < edus.0 && owed.keys.len() < edus.1;
        if most.is_some() {
            // One thing at a time, until it is known which one is refused.
            is_last = false;
            if !owed.pdus.is_empty() {
                (owed.to_device, owed.keys) = (Vec::new(), Vec::new());
            } else if !owed.to_device.is_empty() {
                owed.keys = Vec::new();
            }
        }
        let mut covers = Covers { pdus: owed.pdus_upto.0, ..Covers::default() };
        if covers.pdus == self.sent.pdus {
            covers.pdus = 0;
        }
        let mut edus = self.durable_edus(&owed, &mut covers).await?;
        is_last &= covers.to_device == owed.to_device.last().map_or(0, |(position, _)| position.0);
        let limit = if most.is_some() { 0 } else { MAX_EDUS - edus.len() };
        let (taken, fresh) = self.take_fresh(limit, &mut is_last);
        edus.extend(fresh.iter().filter_map(raw_edu));
        Ok((Transaction::new(owed.pdus, edus, covers, now()), taken, is_last))
    }

    fn take_fresh(&self, limit: usize, is_last: &mut bool) -> (Fresh, Vec<Edu>) {
        let mut book = self.shared.book();
        let Some(slot) = book.slot(&self.destination) else { return Default::default() };
        if slot.fresh.is_empty() {
            return Default::default();
        }
        let taken = slot.fresh.take(limit, now());
        *is_last &= slot.fresh.is_empty();
        taken
    }

    /// After a long absence: the latest event of each room, the liveliest rooms first.
    async fn catch_up(&mut self, upto: Position) -> Result<Option<Transaction>, store::Error> {
        // The rooms are counted in the store: what was sent must be out of it.
        self.settle().await?;
        let outbox = self.shared.store.outbox();
        let most = self.health.at_most.unwrap_or(MAX_PDUS);
        let latest = outbox.latest_of_rooms(&self.destination, upto, most as i64).await?;
        if latest.is_empty() {
            self.health.catch_up_upto = None;
            let mut write = Write::new();
            outbox::delivered(&mut write, &self.destination, upto);
            self.put_health(&mut write);
            self.commit(write).await?;
            self.shared.records.has_caught_up(&self.destination);
            info!(destination = %self.destination, "{} has caught up", self.destination);
            return Ok(None);
        }
        let mut pdus = outbox.pdus_at(&self.destination, &latest).await?;
        pdus.sort_unstable_by_key(|pdu| std::cmp::Reverse(pdu.position));
        let rooms = pdus.iter().map(|pdu| (pdu.room.0, pdu.position.0)).collect();
        let covers = Covers { rooms, ..Covers::default() };
        Ok(Some(Transaction::new(pdus, Vec::new(), covers, now())))
    }

    /// What must arrive, as EDUs; says in `covers` how far they go.
    async fn durable_edus(&self, owed: &Owed, covers: &mut Covers) -> Result<Vec<Box<RawValue>>, store::Error> {
        let mut edus = Vec::new();
        let mut bytes = 0;
        for (position, content) in &owed.to_device {
            if bytes > 0 && bytes + content.len() > MAX_EDU_BYTES {
                break;
            }
            bytes += content.len();
            covers.to_device = position.0;
            edus.extend(
                RawValue::from_string(format!(r#"{{"edu_type":"m.direct_to_device","content":{content}}}"#)).ok(),
            );
        }
        for keys in &owed.keys {
            edus.extend(self.keys_edu(keys).await?.as_ref().and_then(raw_edu));
            covers.keys = keys.position.0;
        }
        Ok(edus)
    }

    async fn keys_edu(&self, keys: &OwedKeys) -> Result<Option<Edu>, store::Error> {
        let users = &self.shared.users;
        match &keys.device_id {
            Some(device_id) => {
                let update = users.device_list_update(&keys.user_id, device_id.as_str().into(), keys.position).await?;
                Ok(Some(Edu::DeviceListUpdate(update)))
            }
            None => Ok(users.signing_key_update(&keys.user_id).await?.map(Edu::SigningKeyUpdate)),
        }
    }

    // === what came of it ===

    /// There is nothing to send: of the rows, if there were any, the events are gone.
    async fn skip(&mut self, covers: Covers, is_last: bool) -> Result<Step, store::Error> {
        let is_kept = self.duty.is_some() && std::mem::take(&mut self.health.is_unsure);
        if covers.is_nothing() && !is_kept {
            return Ok(Step::Nothing);
        }
        self.settle().await?;
        let mut write = Write::new();
        covers.remove(&mut write, &self.destination);
        outbox::remove_transaction(&mut write, &self.destination);
        self.commit(write).await?;
        Ok(Step::Sent { is_last })
    }

    /// Takes what arrived out of the queue and into the ledger. The next transaction doesn't wait for that.
    async fn arrived(&mut self, transaction: &Transaction, response: &Response) -> Result<(), store::Error> {
        self.settle().await?;
        if self.duty.is_none() {
            self.health = Health::default();
            if let Some(slot) = self.shared.book().slot(&self.destination) {
                slot.health = Health::default();
            }
            return Ok(());
        }
        let covers = &transaction.kept.covers;
        let mut write = Write::new();
        self.shared.records.answered(&mut write, &self.destination, transaction, response).await?;
        covers.remove(&mut write, &self.destination);
        if !self.health.is_well() {
            self.note_recovery(&mut write, Position(covers.pdus)).await?;
        }
        self.sent.pdus = self.sent.pdus.max(covers.pdus);
        self.sent.to_device = self.sent.to_device.max(covers.to_device);
        self.sent.keys = self.sent.keys.max(covers.keys);
        if !covers.rooms.is_empty() {
            let position = self.commit(write).await?;
            self.shared.records.skipped(&self.destination, position).await?;
        } else if !write.is_empty() {
            self.removal = Some(self.enqueue(write).await?);
        }
        Ok(())
    }

    /// `upto`: what the destination was owed up to here has arrived, and is about to leave the outbox.
    async fn note_recovery(&mut self, write: &mut Write, upto: Position) -> Result<(), store::Error> {
        let destination = &self.destination;
        if self.health.is_unsure {
            outbox::remove_transaction(write, destination);
        }
        let mut catch_up_upto = self.health.catch_up_upto;
        if let Some(since) = self.health.failing_since {
            let away_ms = now() - since;
            info!(%destination, duration_ms = away_ms, "{destination} takes transactions again");
            let over = i64::from(self.shared.config.catch_up_over);
            if away_ms > millis(self.shared.config.catch_up_after) {
                let outbox = self.shared.store.outbox();
                catch_up_upto = outbox.more_than(destination, upto, over).await?.or(catch_up_upto);
            }
        }
        if catch_up_upto.is_none() {
            self.shared.records.has_caught_up(destination);
        }
        let at_most = self.health.at_most.filter(|most| *most < MAX_PDUS / 2).map(|most| most * 2);
        self.health = Health { catch_up_upto, at_most, ..Health::default() };
        self.put_health(write);
        Ok(())
    }

    /// Notes how the destination is, in memory and in the store.
    fn put_health(&self, write: &mut Write) {
        if let Some(slot) = self.shared.book().slot(&self.destination) {
            slot.health = self.health.clone();
        }
        if self.health.failing_since.is_none() && self.health.catch_up_upto.is_none() {
            destinations::remove(write, &self.destination);
        } else {
            destinations::put(write, &self.row(now()));
        }
    }

    fn row(&self, retry_at: model::Millis) -> destinations::DestinationRow {
        destinations::DestinationRow {
            destination: self.destination.clone(),
            retry_at,
            failures: i64::from(self.health.failures),
            failing_since: self.health.failing_since,
            last_failure: self.health.last_failure.clone(),
            catch_up_upto: self.health.catch_up_upto,
        }
    }

    async fn keep(&mut self, transaction: &Transaction) -> Result<(), store::Error> {
        self.settle().await?;
        self.health.is_unsure = true;
        self.health.failing_since.get_or_insert_with(now);
        let mut write = Write::new();
        self.put_transaction(&mut write, transaction);
        self.put_health(&mut write);
        self.commit(write).await.map(drop)
    }

    fn put_transaction(&self, write: &mut Write, transaction: &Transaction) {
        match serde_json::to_string(&transaction.kept) {
            Ok(content) => outbox::put_transaction(write, &self.destination, &content),
            Err(error) => error!(%error, "a transaction can't be written down"),
        }
    }

    async fn did_not_arrive(
        &mut self,
        transaction: Transaction,
        taken: Fresh,
        error: PeerError,
    ) -> Result<Duration, store::Error> {
        self.settle().await?;
        let is_refused = matches!(&error, PeerError::Refused { status: 400 | 413 | 422, .. });
        if is_refused && self.duty.is_some() {
            self.narrow(&transaction, &error).await?;
        } else if let Some(slot) = self.shared.book().slot(&self.destination) {
            slot.fresh.restore(taken);
        }
        let keeps = self.duty.is_some()
            && may_have_arrived(error.failure())
            && !matches!(error, PeerError::Refused { status: ..500, .. });
        Ok(self.note_failure(&error, keeps.then_some(&transaction)).await)
    }

    /// The destination read the transaction and wants nothing of it: the next one is half as large, until it is known which
    /// thing it can't take. That is set aside in the end, or it would be in the way of all others for ever.
    async fn narrow(&mut self, transaction: &Transaction, error: &PeerError) -> Result<(), store::Error> {
        let size = transaction.pdus.len().max(transaction.kept.edus.len());
        if size > 1 {
            self.health.at_most = Some(size / 2);
            return Ok(());
        }
        self.health.at_most = Some(1);
        if self.health.failures < SET_ASIDE_AFTER {
            return Ok(());
        }
        let event_id = transaction.pdus.first().map(|pdu| pdu.event_id.to_string()).unwrap_or_default();
        let reason = error.to_string();
        error!(reason, destination = %self.destination, event.id = event_id, "set aside what {} refuses", self.destination);
        counter!("comity_federation_set_aside_total").increment(1);
        let mut write = Write::new();
        self.shared.records.set_aside(&mut write, &self.destination, transaction, &reason).await?;
        transaction.kept.covers.remove(&mut write, &self.destination);
        self.commit(write).await.map(drop)
    }

    /// Answers for how long the destination is left alone.
    async fn note_failure(&mut self, error: &PeerError, keep: Option<&Transaction>) -> Duration {
        let failure = error.failure();
        // Its own word may have come while we were waiting for it in vain.
        if let Some(slot) = self.shared.book().slot(&self.destination) {
            self.health.failures = self.health.failures.min(slot.health.failures);
        }
        self.health.failures = self.health.failures.saturating_add(1);
        let told = match error {
            PeerError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        let wait = self.shared.config.curves.delay(failure, self.health.failures, told, rand::random());
        self.log_failure(error, wait);
        self.health.failing_since.get_or_insert_with(now);
        self.health.last_failure = Some(failure.word().to_owned());
        self.health.is_unsure |= keep.is_some();
        let mut write = Write::new();
        if let Some(transaction) = keep {
            self.put_transaction(&mut write, transaction);
        }
        if let Some(slot) = self.shared.book().slot(&self.destination) {
            slot.health = self.health.clone();
        }
        destinations::put(&mut write, &self.row(now() + millis(wait)));
        if failure != Failure::Ours
            && self.duty.is_some()
            && let Err(error) = self.commit(write).await
        {
            let error = &error as &dyn std::error::Error;
            warn!(error, destination = %self.destination, "could not note that {} is away", self.destination);
        }
        wait
    }

    /// Once for each kind of failure; then it is known.
    fn log_failure(&self, error: &PeerError, wait: Duration) {
        let failure = error.failure().word();
        let is_news = self.health.failing_since.is_none() || self.health.last_failure.as_deref() != Some(failure);
        let (destination, retry_ms) = (&self.destination, wait.as_millis() as u64);
        let error = error as &dyn std::error::Error;
        if is_news {
            warn!(error, %destination, failure, retry_ms, "could not send to {destination}");
        } else {
            debug!(error, %destination, failure, retry_ms, "could not send to {destination}");
        }
    }

    fn note_delivery(&self, transaction: &Transaction, response: &Response, duration_ms: u64) {
        let destination = &self.destination;
        let (pdus, edus) = (transaction.pdus.len(), transaction.kept.edus.len());
        let txn_id = &transaction.kept.id;
        debug!(%destination, txn.id = %txn_id, pdus, edus, duration_ms, "delivered {pdus} events to {destination}");
        counter!("comity_federation_transactions_total", "outcome" => "ok").increment(1);
        counter!("comity_federation_pdus_sent_total").increment(pdus as u64);
        counter!("comity_federation_edus_sent_total").increment(edus as u64);
        let now = now();
        for pdu in &transaction.pdus {
            histogram!("comity_federation_delivery_seconds").record((now - pdu.made_at).max(0) as f64 / 1000.0);
        }
        let refused: Vec<_> =
            response.pdus.iter().filter_map(|(event_id, outcome)| Some((event_id, outcome.as_ref().err()?))).collect();
        let Some((event_id, reason)) = refused.first() else { return };
        counter!("comity_federation_pdus_refused_by_peers_total").increment(refused.len() as u64);
        let mut book = self.shared.book();
        let Some(slot) = book.slot(destination) else { return };
        if slot.complained_at.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            slot.complained_at = Some(Instant::now());
            let reason: String = reason.chars().take(200).collect();
            let count = refused.len();
            warn!(%destination, event.id = %event_id, reason, "{destination} refused {count} events, this among them");
        }
    }
}

/// However the turn ended, the destination gets another one.
impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.book().end(&self.destination, self.ended, Instant::now());
        self.shared.wake();
    }
}
