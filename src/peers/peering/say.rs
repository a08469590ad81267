//! What this server has to say to others of offers and agreements, until they have taken it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use model::peer::Standing;
use serde::{Deserialize, Serialize};
use store::{
    Write,
    peering::{self as table, PeeringRow, PeeringState},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ACCEPT_PATH, NOTICE_PATH, Notice, OFFER_PATH, Peering, PeeringError, body_of, now};
use crate::{NativeRequest, PeerError, Scope, trust::Source, well_known::root_cause};

/// How often it is looked whether there is something to say.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After how long a server that did not take it is told again, at first …
const SOONEST: Duration = Duration::from_secs(2);
/// … and at most.
const LATEST: Duration = Duration::from_secs(60 * 60);

/// When a server may be told again, and how often that has failed.
struct Pause {
    until: Instant,
    failures: u32,
}

/// An answer of which nothing matters but that it came.
#[derive(Deserialize)]
struct Taken {}

impl Peering {
    /// Says what there is to say, until `stop` is cancelled.
    pub async fn tend(&self, stop: CancellationToken) {
        let mut pauses: HashMap<String, Pause> = HashMap::new();
        let mut seen = None;
        loop {
            let revision = self.peers.trust().revision();
            let is_due = pauses.values().any(|pause| pause.until <= Instant::now());
            let is_ours = self.store().duties().of("peering").is_some();
            if !is_ours {
                // When it is ours again, everything is looked at.
                seen = None;
            } else if seen != Some(revision) || is_due {
                match self.say_all(&mut pauses).await {
                    Ok(()) => seen = Some(revision),
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "could not look up what peers are to be told");
                    }
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn say_all(&self, pauses: &mut HashMap<String, Pause>) -> Result<(), store::Error> {
        let open = self.store().peerings().open().await?;
        // What was agreed by another process is in force already: it would seem ended to who doesn't know that yet.
        self.peers.trust().load().await?;
        pauses.retain(|id, _| open.iter().any(|row| row.id == *id));
        for row in open {
            let pause = pauses.get(&row.id);
            if pause.is_some_and(|pause| pause.until > Instant::now()) {
                continue;
            }
            let failures = pause.map_or(0, |pause| pause.failures);
            let is_old = row.state != PeeringState::Agreed && row.expires_at <= now();
            let has_failed = !is_old && self.say(&row).await.is_ok_and(|is_said| !is_said);
            match has_failed {
                true => {
                    let length = SOONEST.saturating_mul(1 << failures.min(16)).min(LATEST);
                    pauses.insert(row.id, Pause { until: Instant::now() + length, failures: failures + 1 });
                }
                false => drop(pauses.remove(&row.id)),
            }
        }
        Ok(())
    }

    /// Says to the other server what there is to say of an offer or an agreement. Answers whether nothing is left to say.
    pub(super) async fn say(&self, row: &PeeringRow) -> Result<bool, PeeringError> {
        let said = match row.state {
            PeeringState::Offered => self.say_offered(row).await,
            PeeringState::Accepted => self.say_accepted(row).await,
            PeeringState::Agreed => self.say_changed(row).await,
            PeeringState::Withdrawn | PeeringState::Refused | PeeringState::Ended => Ok(()),
        };
        let Err(error) = said else { return Ok(true) };
        let mut write = Write::new();
        let is_final = matches!(&error, PeeringError::Peer(PeerError::Refused { status: 400 | 403 | 404 | 409, .. }));
        if is_final && row.state == PeeringState::Accepted {
            table::leave(&mut write, &row.id, PeeringState::Accepted, PeeringState::Refused);
        }
        let (what, cause) = (error.to_string(), root_cause(&error));
        let what = if what == cause { what } else { format!("{what}: {cause}") };
        debug!(server.name = %row.peer, peering.id = row.id, "could not be told: {what}");
        table::trouble(&mut write, &row.id, &what);
        self.store().commit(write).await?;
        Ok(false)
    }

    async fn say_offered(&self, row: &PeeringRow) -> Result<(), PeeringError> {
        let _: Taken = self.post(row, OFFER_PATH, &body_of(&row.document)).await?;
        let mut write = Write::new();
        table::sent(&mut write, &row.id, PeeringState::Offered, now());
        Ok(self.store().commit(write).await.map(drop)?)
    }

    async fn say_accepted(&self, row: &PeeringRow) -> Result<(), PeeringError> {
        let signed: serde_json::Value = self.post(row, ACCEPT_PATH, &body_of(&row.document)).await?;
        self.settle(row, &signed.to_string()).await
    }

    /// Tells a peer by agreement how it is trusted now, unless it knows.
    async fn say_changed(&self, row: &PeeringRow) -> Result<(), PeeringError> {
        let trust = self.peers.trust();
        let regard = trust.regard(&row.peer);
        let trusted = match regard.standing {
            Standing::Active => regard.level.as_str(),
            Standing::Inactive => "inactive",
            // Who signs by its keys is not known now.
            Standing::Alarmed => return Ok(()),
        };
        let ended = !matches!(trust.source(&row.peer), Source::Row { .. });
        if !ended && row.told.as_deref() == Some(trusted) {
            return Ok(());
        }
        let notice = Notice { id: row.id.clone(), trusted: trusted.to_owned(), ended, number: trust.revision() };
        let _: Taken = self.post(row, NOTICE_PATH, &notice).await?;
        let mut write = Write::new();
        table::told(&mut write, &row.id, trusted);
        if ended {
            table::leave(&mut write, &row.id, PeeringState::Agreed, PeeringState::Ended);
        }
        Ok(self.store().commit(write).await.map(drop)?)
    }

    async fn post<B: Serialize, A: for<'de> Deserialize<'de>>(
        &self,
        row: &PeeringRow,
        path: &'static str,
        body: &B,
    ) -> Result<A, PeeringError> {
        let request = NativeRequest { path, subject: self.us().as_str(), scope: Scope::Peering, body };
        Ok(self.peers.post_native(&row.peer, request).await?)
    }
}
