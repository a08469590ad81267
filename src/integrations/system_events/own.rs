//! What the server itself reports: that it began and ended, what became of the trust in peers, and that one of them can't be
//! reached. What admins did in every detail stands in the audit log; here is what an operator's tools want to hear of.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use model::Millis;
use peers::{
    Peers,
    trust::{AuditEntry, Source},
};
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Severity, SystemEvents};
use crate::now;

/// How many entries of the audit log are looked at at once.
const ENTRIES: u32 = 100;
/// What ids of events begin with that stand for an entry of the audit log.
const OF_AUDIT: &str = "audit:";
/// How often it is looked which servers can't be reached …
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// … and for how long one has to be away before that is an event.
const AWAY: Millis = 5 * 60_000;

/// Watches what the server itself reports.
pub struct Watch {
    store: Store,
    peers: Peers,
    events: SystemEvents,
    /// The last entry of the audit log that was looked at.
    seen: Option<i64>,
    /// Since when servers are away of which that was reported.
    away: BTreeMap<OwnedServerName, Millis>,
}

impl Watch {
    /// Reports into `events`.
    pub fn new(store: Store, peers: Peers, events: SystemEvents) -> Self {
        Self { store, peers, events, seen: None, away: BTreeMap::new() }
    }

    /// Watches until `stop` is cancelled; the beginning and the end are events too.
    pub async fn run(mut self, stop: CancellationToken) {
        let us = self.peers.server_name().to_owned();
        let version = json!({ "version": env!("CARGO_PKG_VERSION") });
        self.events.record(None, "server.started", us.as_str(), Severity::Info, version).await;
        let mut changes = self.peers.trust().changes();
        let mut looked: Option<Instant> = None;
        loop {
            if let Err(error) = self.look_at_audit().await {
                warn!(error = &error as &dyn std::error::Error, "could not look up what became of the trust in peers");
            }
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                if let Err(error) = self.look_at_links().await {
                    warn!(error = &error as &dyn std::error::Error, "could not look up which servers are away");
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        self.events.record(None, "server.stopped", us.as_str(), Severity::Info, json!({})).await;
    }

    async fn look_at_audit(&mut self) -> Result<(), store::Error> {
        let mut seen = match self.seen {
            Some(seen) => seen,
            // What was done before there were events isn't news.
            None => match self.store.system_events().latest_of(OF_AUDIT).await? {
                Some(event) => event.id.trim_start_matches(OF_AUDIT).parse().unwrap_or(0),
                None => self.store.audit().head().await?,
            },
        };
        loop {
            let rows = self.store.audit().after(seen, ENTRIES).await?;
            for row in &rows {
                self.report_entry(&AuditEntry::from(row.clone())).await;
                seen = row.number;
            }
            self.seen = Some(seen);
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    async fn report_entry(&self, entry: &AuditEntry) {
        let (kind, severity) = match entry.action.as_str() {
            "peer.key_alarm" | "list.key_alarm" => ("peer.key_alarm", Severity::Error),
            "list.closed" => ("list.closed", Severity::Warning),
            "peer.remove" => ("peer.removed", Severity::Notice),
            "peer.set" | "peering.agree" if level_of(&entry.before) != level_of(&entry.after) => {
                ("peer.level_changed", Severity::Notice)
            }
            _ => return,
        };
        let data = json!({
            "audit_entry": entry.number, "by": entry.actor, "before": level_of(&entry.before), "after": level_of(&entry.after),
        });
        self.events.record(Some(format!("{OF_AUDIT}{}", entry.number)), kind, &entry.subject, severity, data).await;
    }

    /// Reports servers that an admin or a list has named, and that can't be reached.
    async fn look_at_links(&mut self) -> Result<(), store::Error> {
        let mut away = BTreeMap::new();
        for row in self.store.destinations().list().await? {
            let Some(since) = row.failing_since.filter(|since| *since + AWAY <= now()) else { continue };
            if self.peers.trust().source(&row.destination) == Source::Default {
                continue;
            }
            if !self.away.contains_key(&row.destination) {
                let id = own_id("away", since, &row.destination);
                let data = json!({ "since": since, "reason": row.last_failure });
                self.events
                    .record(Some(id), "peer.unreachable", row.destination.as_str(), Severity::Warning, data)
                    .await;
            }
            away.insert(row.destination, since);
        }
        for (server, since) in &self.away {
            if !away.contains_key(server) {
                let id = own_id("back", *since, server);
                self.events
                    .record(Some(id), "peer.reachable", server.as_str(), Severity::Info, json!({ "away_since": since }))
                    .await;
            }
        }
        self.away = away;
        Ok(())
    }
}

/// An id that nobody else can give to an event: there is a colon in it.
fn own_id(what: &str, since: Millis, server: &ServerName) -> String {
    let plain: String =
        server.as_str().chars().map(|c| if matches!(c, '[' | ']') { '-' } else { c }).take(80).collect();
    format!("{what}:{since}:{plain}")
}

fn level_of(settings: &Option<Value>) -> Option<&str> {
    settings.as_ref()?["level"].as_str()
}
