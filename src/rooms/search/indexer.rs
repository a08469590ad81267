//! The index follows the stream, behind it: what the entry of an event is follows from what the store has of the event, its edits
//! and their redactions, and it is made anew whenever one of them comes. So doing anything twice changes nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use metrics::{counter, gauge};
use model::{EventNid, Position, TimelineEvent};
use ruma::{OwnedEventId, api::Direction, events::TimelineEventType};
use store::{
    Error, Write,
    duties::Duty,
    events::Relations,
    followers,
    search::{Document, Key},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Search,
    document::{is_edit, text_of, text_of_edit},
    recent::Touched,
    terms::{cut, terms_of},
};
use crate::{extension::relation, now};

/// Its name among those who follow, and among the duties.
pub(super) const NAME: &str = "search";
/// What comes within so long is put into the index together, unless somebody looks for something.
const GATHER: Duration = Duration::from_millis(100);
/// How often it is noted at most how far it has come where nothing was put into the index.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// After a fault.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// So many positions are looked at in one go.
const WINDOW: i64 = 5_000;
/// So much goes into one Write: the writer does nothing else meanwhile.
const AT_ONCE: usize = 200;
/// While others write, it rests after a Write so many times as long as that took, unless somebody looks for something: who sends
/// much has the writer to themselves most of the time, and the index catches up when there is less to do.
const RESTS: u32 = 4;
/// So many of the latest edits are looked at to find one that counts.
const LATEST_EDITS: usize = 20;

/// The text by which something is found, if there is one.
struct Entry {
    event: Arc<TimelineEvent>,
    position: Position,
    /// Whose text, where it stands, and its terms.
    text: Option<(EventNid, Key, Vec<String>)>,
}

/// How far it has come.
struct Progress {
    duty: Duty,
    at: Position,
    noted: Position,
    noted_when: Instant,
}

impl Search {
    /// Keeps the index while that is this node's to do, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        if self.shared.is_enabled {
            stop.run_until_cancelled(self.keep_index()).await;
        }
    }

    async fn keep_index(&self) {
        let duties = self.store().duties();
        let mut changes = duties.changes();
        loop {
            changes.mark_unchanged();
            let Some(duty) = duties.of(NAME) else {
                self.recent().end();
                gauge!("comity_search_lag_positions").set(0.0);
                // The sender is part of the store, which is here.
                let _ = changes.changed().await;
                continue;
            };
            let mut news = duties.changes();
            let lost = async {
                while duties.of(NAME).is_some() {
                    let _ = news.changed().await;
                }
            };
            let fault = tokio::select! {
                fault = self.follow(duty) => fault,
                () = lost => continue,
            };
            match fault {
                Error::Superseded => debug!("another node keeps the index of what was said"),
                fault => {
                    counter!("comity_search_index_failures_total").increment(1);
                    warn!(error = &fault as &dyn std::error::Error, "the index of what was said could not follow");
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Follows until something fails.
    async fn follow(&self, duty: Duty) -> Error {
        match self.try_to_follow(duty).await {
            Ok(never) => match never {},
            Err(fault) => fault,
        }
    }

    async fn try_to_follow(&self, duty: Duty) -> Result<std::convert::Infallible, Error> {
        let mut heard = self.shared.heard.subscribe();
        let visible = self.store().visible_position().await?;
        let visible = self.recent().begin(visible);
        let at = match self.store().followers().position(NAME).await? {
            Some(at) => at,
            None => {
                // From the first event on.
                let mut write = Write::new();
                followers::begin(&mut write, NAME, Position(0), now());
                write.on_duty(duty);
                self.store().commit(write).await?;
                Position(0)
            }
        };
        let mut progress = Progress { duty, at, noted: at, noted_when: Instant::now() };
        self.shared.indexed.send_replace(at);
        let mut target = visible;
        loop {
            while progress.at < target {
                self.advance(&mut progress, target).await?;
                self.recent().taken(progress.at);
                self.shared.indexed.send_replace(progress.at);
                gauge!("comity_search_lag_positions").set((target.0 - progress.at.0) as f64);
            }
            if progress.noted < progress.at {
                let is_quiet = timeout(NOTE_EVERY, heard.changed()).await.is_err();
                if is_quiet || progress.noted_when.elapsed() >= NOTE_EVERY {
                    self.put(&mut progress, target, &[]).await?;
                }
                if is_quiet {
                    let _ = heard.changed().await;
                }
            } else {
                let _ = heard.changed().await;
            }
            let _ = timeout(GATHER, self.shared.looked_for.notified()).await;
            heard.mark_unchanged();
            target = self.recent().upto();
        }
    }

    /// Goes on by one window at most.
    async fn advance(&self, progress: &mut Progress, target: Position) -> Result<(), Error> {
        let mut upto = target.min(Position(progress.at.0.saturating_add(WINDOW)));
        let between = self.recent().between(progress.at, upto);
        let mut touched = match between {
            Ok(touched) => touched,
            Err(floor) => {
                upto = upto.min(floor);
                let events = self.store().followers().events(progress.at, upto).await?;
                let came = |event: Arc<TimelineEvent>| (event.position, Touched::Came(event.position, event));
                events.into_iter().map(came).collect()
            }
        };
        for event in self.store().search().backfilled(progress.at, upto).await? {
            touched.push((Position(-event.position.0), Touched::Came(event.position, event)));
        }
        touched.sort_by_key(|(at, _)| *at);
        let mut is_waited_for = false;
        for chunk in touched.chunks(AT_ONCE) {
            let (began, heard) = (Instant::now(), *self.shared.heard.borrow());
            let entries = self.entries(chunk).await?;
            // A commit's redactions and its events have positions of their own, so a chunk ends between two of them.
            let reached = chunk.last().map_or(upto, |(at, _)| *at);
            if !entries.is_empty() {
                self.put(progress, reached, &entries).await?;
                // Who waits for the index asks again at the end of each window.
                let is_alone = *self.shared.heard.borrow() == heard;
                let rest = if is_alone || is_waited_for { Duration::ZERO } else { began.elapsed() * RESTS };
                is_waited_for |= timeout(rest, self.shared.looked_for.notified()).await.is_ok();
            }
        }
        progress.at = upto;
        Ok(())
    }

    /// Writes entries and how far that is, in one.
    async fn put(&self, progress: &mut Progress, reached: Position, entries: &[Entry]) -> Result<(), Error> {
        let (mut documents, mut gone) = (Vec::new(), Vec::new());
        for Entry { event, position, text } in entries {
            match text {
                Some((text_nid, key, terms)) => documents.push(Document {
                    event,
                    position: *position,
                    text_nid: *text_nid,
                    key: *key,
                    terms: terms.clone(),
                }),
                None => gone.push(*position),
            }
        }
        let mut write = Write::new();
        self.store().search().put(&mut write, &documents);
        self.store().search().remove(&mut write, &gone);
        followers::moved(&mut write, NAME, reached, now());
        write.on_duty(progress.duty);
        self.store().commit(write).await?;
        counter!("comity_search_indexed_total").increment(documents.len() as u64);
        (progress.noted, progress.noted_when) = (reached, Instant::now());
        Ok(())
    }

    /// What becomes of the entries that this bears on.
    async fn entries(&self, touched: &[(Position, Touched)]) -> Result<Vec<Entry>, Error> {
        let mut found: HashMap<EventNid, (Position, Arc<TimelineEvent>)> = HashMap::new();
        let (mut ids, mut redacted): (Vec<OwnedEventId>, HashSet<EventNid>) = Default::default();
        for (_, touched) in touched {
            match touched {
                Touched::Redacted(nid) => {
                    redacted.insert(*nid);
                }
                Touched::Came(_, event) if event.pdu.kind == TimelineEventType::RoomRedaction => {
                    ids.extend(event.pdu.redacts.clone());
                }
                Touched::Came(_, event) if is_edit(event) => {
                    ids.extend(relation(&event.pdu).and_then(|(parent, _)| parent.parse().ok()));
                }
                Touched::Came(position, event) => {
                    if text_of(event).is_some() {
                        found.insert(event.nid, (*position, event.clone()));
                    }
                }
            }
        }
        let events = self.store().events();
        let mut again = events.by_ids(&ids).await?;
        redacted.extend(again.iter().filter(|event| event.redacted_by.is_some()).map(|event| event.nid));
        let redacted: Vec<EventNid> = redacted.into_iter().collect();
        let mut nids = self.store().search().found_by(&redacted).await?;
        nids.extend(redacted);
        again.extend(events.by_nids(&nids).await?);
        // An outlier is in no timeline.
        again.retain(|event| event.position != Position(0));
        found.extend(again.into_iter().map(|event| (event.nid, (event.position, event))));
        let nids: Vec<EventNid> = found.keys().copied().collect();
        let edited: HashSet<EventNid> = self.store().search().edited(&nids).await?.into_iter().collect();
        let mut entries = Vec::with_capacity(found.len());
        for (nid, (position, event)) in found {
            let mut text = text_of(&event).map(|(key, text)| (nid, key, text));
            if let Some(text) = text.as_mut().filter(|_| edited.contains(&nid))
                && let Some((edit, edited)) = self.latest_text(&event).await?
            {
                (text.0, text.2) = (edit, edited);
            }
            let text = text.map(|(nid, key, text)| (nid, key, terms_of(&cut(&text))));
            entries.push(Entry { event, position, text });
        }
        Ok(entries)
    }

    /// What the edit says that holds, as [`crate::bundles`] finds it, for everybody.
    async fn latest_text(&self, edited: &TimelineEvent) -> Result<Option<(EventNid, String)>, Error> {
        let kind = edited.pdu.kind.to_string();
        let wanted = Relations {
            room: edited.room_nid,
            parent: &edited.pdu.event_id,
            rel_type: Some("m.replace"),
            kind: Some(&kind),
            from: Position(i64::MAX),
            to: None,
            limit: LATEST_EDITS,
            direction: Direction::Backward,
            recurse: false,
        };
        let edits = self.store().events().relations(wanted).await?;
        let latest = edits
            .into_iter()
            .filter(|edit| edit.pdu.sender == edited.pdu.sender && edit.pdu.state_key.is_none())
            .filter_map(|edit| Some((text_of_edit(&edit)?, edit)))
            .max_by_key(|(_, edit)| (edit.pdu.origin_server_ts, edit.pdu.event_id.clone()));
        Ok(latest.map(|(text, edit)| (edit.nid, text)))
    }
}
