//! Telling what waits: each pusher one thing after the other, and none waits for another.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use metrics::counter;
use model::Millis;
use store::pushers::{self, PusherKey, PusherRow, Queued};
use sync::Badge;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    PushError, Pushers,
    gateway::{Gateway, NotTaken},
    payload,
};
use crate::now;

/// How many pushers are told something at the same time.
const AT_ONCE: usize = 64;
/// How many of them are looked for at once: as many again as may be busy.
const LOOKED_FOR: u32 = 128;
/// How many things that wait are read at once.
const PAGE: u32 = 20;
/// The first wait after a failure; each in a row doubles it.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// What waited for so long is news no more.
const TOO_OLD: Millis = 24 * 60 * 60 * 1000;
/// How long to sleep at least and at most where nothing was queued meanwhile.
const SHORTEST_SLEEP: Duration = Duration::from_millis(250);
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How often it is tidied up behind pushers that are gone.
const TIDY_EVERY: Duration = Duration::from_secs(10 * 60);

impl Pushers {
    pub(super) async fn deliver(&self) {
        let mut busy: HashSet<PusherKey> = HashSet::new();
        let mut telling = FuturesUnordered::new();
        let mut tidied: Option<Instant> = None;
        loop {
            if tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
                tidied = Some(Instant::now());
                self.tidy().await;
            }
            let due = self.shared.store.pushers().due(now(), LOOKED_FOR).await.unwrap_or_else(|error| {
                warn!(error = &error as &dyn std::error::Error, "could not read what is to be pushed");
                Vec::new()
            });
            for key in due {
                if busy.len() < AT_ONCE && busy.insert(key.clone()) {
                    telling.push(async move {
                        self.serve(&key).await;
                        key
                    });
                }
            }
            let wait = self.wait().await;
            tokio::select! {
                Some(done) = telling.next(), if !telling.is_empty() => {
                    busy.remove(&done);
                }
                () = self.shared.queued.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    async fn wait(&self) -> Duration {
        let next = self.shared.store.pushers().next_due().await.ok().flatten();
        let wait = next.map_or(LONGEST_SLEEP, |at| Duration::from_millis(u64::try_from(at - now()).unwrap_or(0)));
        wait.clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
    }

    async fn tidy(&self) {
        let tidied = async {
            let mut write = self.write()?;
            pushers::tidy(&mut write);
            Ok::<_, PushError>(self.shared.store.commit(write).await?)
        };
        if let Err(error) = tidied.await {
            debug!(error = &error as &dyn std::error::Error, "could not tidy up behind pushers that are gone");
        }
    }

    /// Tells a pusher what waits for it. What goes wrong makes it wait.
    async fn serve(&self, key: &PusherKey) {
        let served = async {
            let Some(row) = self.shared.store.pushers().find(key).await? else { return Ok(()) };
            match row.kind.as_str() {
                "email" => self.write_letter(&row).await,
                _ => self.push(row).await,
            }
        };
        if let Err(error) = served.await {
            warn!(
                user.id = %key.user_id, error = &error as &dyn std::error::Error,
                "could not push what waits for {}", key.user_id
            );
            // What is wrong with one must not keep the others from their turn.
            if self.put_off(key, 5).await.is_err() {
                sleep(FIRST).await;
            }
        }
    }

    async fn push(&self, mut row: PusherRow) -> Result<(), PushError> {
        let Some(gateway) = Gateway::of(&row) else {
            return self.give_up_all(&row.key).await;
        };
        loop {
            let waiting = self.shared.store.pushers().queued(&row.key, now(), PAGE).await?;
            if waiting.is_empty() {
                return Ok(());
            }
            for queued in waiting {
                if !self.push_one(&gateway, &mut row, &queued).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Pushes one thing. False: nothing more can be for now.
    async fn push_one(&self, gateway: &Gateway, row: &mut PusherRow, queued: &Queued) -> Result<bool, PushError> {
        let Some((notification, badge)) = self.notification(gateway, row, queued).await? else {
            let mut write = self.write()?;
            pushers::dequeue(&mut write, &row.key, queued.position);
            self.shared.store.commit(write).await?;
            return Ok(true);
        };
        match gateway.tell(&self.shared.outbound, &notification).await {
            Ok(rejected) if rejected.contains(&row.key.pushkey) => {
                counter!("comity_pushes_total", "outcome" => "rejected").increment(1);
                info!(user.id = %row.key.user_id, "a gateway does not know a pushkey of {} any more", row.key.user_id);
                let mut write = self.write()?;
                pushers::remove(&mut write, &row.key);
                self.shared.store.commit(write).await?;
                Ok(false)
            }
            Ok(_) => {
                counter!("comity_pushes_total", "outcome" => "taken").increment(1);
                if row.failing_since.take().is_some() {
                    info!(user.id = %row.key.user_id, "a gateway takes what is pushed to {} again", row.key.user_id);
                }
                (row.badge, row.failures) = (Some(badge), 0);
                let mut write = self.write()?;
                pushers::dequeue(&mut write, &row.key, queued.position);
                pushers::took(&mut write, &row.key, row.badge, 0);
                self.shared.store.commit(write).await?;
                Ok(true)
            }
            Err(error) => self.not_taken(row, &error).await.map(|()| false),
        }
    }

    /// What a gateway is to be told, and the badge in it. `None`: nothing any more.
    async fn notification(
        &self,
        gateway: &Gateway,
        row: &PusherRow,
        queued: &Queued,
    ) -> Result<Option<(serde_json::Value, i64)>, PushError> {
        let user_id = &row.key.user_id;
        if queued.queued_at < now() - TOO_OLD {
            return Ok(None);
        }
        let Some(nid) = queued.event else {
            let badge = self.badge(user_id).await?;
            // Who was never told anything has no badge that could be wrong.
            let is_known = badge == row.badge.unwrap_or(0);
            return Ok((!is_known).then(|| (gateway.notification(payload::of_badge(badge)), badge)));
        };
        let judged = self.shared.sync.judge(user_id, nid).await?;
        let Some(notification) = judged.filter(|notification| !notification.is_read) else { return Ok(None) };
        let badge = self.badge(user_id).await?;
        let told = if gateway.wants_ids_only {
            payload::of_ids(&notification, badge)
        } else {
            let names = self.names(user_id, &notification).await?;
            payload::of_event(user_id, &notification, &names, badge, self.shared.config.include_content)
        };
        Ok(Some((gateway.notification(told), badge)))
    }

    async fn badge(&self, user_id: &ruma::UserId) -> Result<i64, PushError> {
        let Badge { rooms, notifications } = self.shared.sync.badge(user_id).await?;
        let badge = if self.shared.config.badge_counts_rooms { rooms } else { notifications };
        Ok(i64::try_from(badge).unwrap_or(i64::MAX))
    }

    async fn not_taken(&self, row: &PusherRow, error: &NotTaken) -> Result<(), PushError> {
        counter!("comity_pushes_total", "outcome" => "failed").increment(1);
        if row.failing_since.is_none() {
            warn!(user.id = %row.key.user_id, %error, "a gateway does not take what is pushed to {}", row.key.user_id);
        }
        self.put_off(&row.key, row.failures + 1).await
    }

    /// It is told nothing for a while, longer with each of so many failures in a row.
    pub(super) async fn put_off(&self, key: &PusherKey, failures: i64) -> Result<(), PushError> {
        let doubled = u32::try_from(failures.clamp(1, 16) - 1).unwrap_or_default();
        let wait = FIRST.saturating_mul(1 << doubled).min(LONGEST);
        // Those that failed together must not all come back together.
        let wait = super::follow::millis(wait.mul_f64(0.75 + 0.5 * rand::random::<f64>()));
        let mut write = self.write()?;
        pushers::failed(&mut write, key, now(), failures, now() + wait);
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// Nothing of what waits can ever be told.
    pub(super) async fn give_up_all(&self, key: &PusherKey) -> Result<(), PushError> {
        let mut write = self.write()?;
        pushers::empty_queue(&mut write, key);
        self.shared.store.commit(write).await?;
        Ok(())
    }
}
