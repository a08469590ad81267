//! Events as clients see them: rendered once, shared by all who read them.

use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use model::{EventNid, Millis, TimelineEvent};
use quick_cache::sync::Cache;
use ruma::{
    OwnedEventId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    push::FlattenedJson,
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use store::Store;

use crate::{Notifier, states::States};

/// How many events that aren't recent are kept in memory.
const CACHED_EVENTS: usize = 4_000;

/// An event with what follows from it for every reader alike.
pub struct Shown {
    /// The event, with its position.
    pub event: TimelineEvent,
    /// Its type.
    pub kind: Box<str>,
    /// The JSON object without its last brace and without `unsigned`.
    body: OnceLock<Box<str>>,
    flattened: OnceLock<FlattenedJson>,
    /// Members of `unsigned` that are the same for everybody, each with a comma before it.
    common_unsigned: tokio::sync::OnceCell<Box<str>>,
    rendered: OnceLock<Option<Rendered>>,
}

/// An event as the native faces show it to everybody but who sent it.
pub struct Rendered {
    /// What it is there.
    pub kind: &'static str,
    /// A JSON object.
    pub json: Box<str>,
}

/// For whom an event is rendered.
#[derive(Clone, Debug)]
pub struct Reader {
    /// What the reader was to the room when the event was made.
    pub membership: Option<MembershipState>,
    /// Whether the reader's device sent it.
    pub is_sender: bool,
}

impl Shown {
    /// An event that has its position.
    pub fn new(event: TimelineEvent) -> Self {
        let kind = event.pdu.kind.to_string().into();
        Self {
            event,
            kind,
            body: OnceLock::new(),
            flattened: OnceLock::new(),
            common_unsigned: Default::default(),
            rendered: OnceLock::new(),
        }
    }

    /// As push rules look at it.
    pub fn flattened(&self) -> &FlattenedJson {
        self.flattened.get_or_init(|| {
            let json = RawValue::from_string(self.event.pdu.json.to_string()).expect("a stored event is JSON");
            FlattenedJson::from_raw(&Raw::<()>::from_json(json))
        })
    }

    /// As the native faces show it to everybody but who sent it: made once, however many read it. `make`: `None` if it isn't shown
    /// there.
    pub fn rendered(&self, make: impl FnOnce(&Self) -> Option<Rendered>) -> Option<&Rendered> {
        self.rendered.get_or_init(|| make(self)).as_ref()
    }

    /// Whether it is state.
    pub fn is_state(&self) -> bool {
        self.event.pdu.state_key.is_some()
    }

    /// The membership that it gives, if it is an `m.room.member` event.
    pub fn membership(&self) -> Option<MembershipState> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
        }
        let is_member = self.event.pdu.kind == TimelineEventType::RoomMember && self.is_state();
        is_member.then(|| self.event.pdu.content_as::<Content>()).flatten().map(|content| content.membership)
    }

    /// The root of the thread that it is part of.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#threading>
    pub fn thread(&self) -> Option<OwnedEventId> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: RelatesTo,
        }
        #[derive(Deserialize)]
        struct RelatesTo {
            rel_type: String,
            event_id: OwnedEventId,
        }
        // Most events relate to nothing; looking for the word is cheaper than reading the JSON.
        if !self.event.pdu.content.get().contains("m.thread") {
            return None;
        }
        let content: Content = self.event.pdu.content_as()?;
        (content.relates_to.rel_type == "m.thread").then_some(content.relates_to.event_id)
    }

    /// Writes the event as `/sync` has it: without its room id.
    pub fn render(&self, out: &mut String, reader: &Reader, now: Millis) {
        out.push_str(self.body());
        let age = now.saturating_sub(i64::from(self.event.pdu.origin_server_ts.get()));
        let _ = write!(out, ",\"unsigned\":{{\"age\":{age}");
        if let Some(membership) = &reader.membership {
            let _ = write!(out, ",\"membership\":\"{}\"", membership.as_str());
        }
        if let (true, Some((_, transaction_id))) = (reader.is_sender, &self.event.transaction_id) {
            let _ = write!(out, ",\"transaction_id\":{}", quoted(transaction_id));
        }
        if let Some(common) = self.common_unsigned.get() {
            out.push_str(common);
        }
        out.push_str("}}");
    }

    /// Writes the event as an invitation shows it.
    pub fn render_stripped(&self, out: &mut String) {
        let pdu = &self.event.pdu;
        let _ = write!(
            out,
            "{{\"type\":{},\"sender\":{},\"state_key\":{},\"content\":{},\"origin_server_ts\":{},\"event_id\":{}}}",
            quoted(&self.kind),
            quoted(pdu.sender.as_str()),
            quoted(pdu.state_key.as_deref().unwrap_or_default()),
            pdu.content.get(),
            pdu.origin_server_ts.get(),
            quoted(pdu.event_id.as_str()),
        );
    }

    fn body(&self) -> &str {
        self.body.get_or_init(|| {
            let pdu = &self.event.pdu;
            let mut body = String::with_capacity(pdu.content.get().len() + 320);
            let _ = write!(body, "{{\"type\":{},\"sender\":{}", quoted(&self.kind), quoted(pdu.sender.as_str()));
            let _ = write!(body, ",\"content\":{}", pdu.content.get());
            if let Some(state_key) = &pdu.state_key {
                let _ = write!(body, ",\"state_key\":{}", quoted(state_key));
            }
            // Before room version 11 `redacts` is a member of the event, since then of its content; clients of either
            // age find it where they look.
            if let Some(redacts) = pdu.redacts.as_ref().filter(|_| pdu.kind == TimelineEventType::RoomRedaction) {
                let _ = write!(body, ",\"redacts\":{}", quoted(redacts.as_str()));
            }
            let _ = write!(
                body,
                ",\"origin_server_ts\":{},\"event_id\":{}",
                pdu.origin_server_ts.get(),
                quoted(pdu.event_id.as_str())
            );
            body.into()
        })
    }

    /// Whether [`Events::complete`] has anything to look up.
    pub(crate) fn is_complete(&self) -> bool {
        self.common_unsigned.initialized() || (!self.is_state() && self.event.redacted_by.is_none())
    }
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

/// Events by their numbers: recent ones from the notifier's memory, others from a cache or the store.
pub(crate) struct Events {
    store: Store,
    cache: Arc<Cache<EventNid, Arc<Shown>>>,
    /// Counts redactions, so that nobody puts back what was read before one.
    redactions: Arc<AtomicU64>,
}

impl Events {
    pub(crate) fn new(store: Store, notifier: &Notifier) -> Self {
        let cache = Arc::new(Cache::<EventNid, Arc<Shown>>::new(CACHED_EVENTS));
        let redactions = Arc::new(AtomicU64::new(0));
        let (forget, count) = (cache.clone(), redactions.clone());
        notifier.on_redaction(Box::new(move |nid| {
            count.fetch_add(1, Ordering::AcqRel);
            match nid {
                Some(nid) => drop(forget.remove(&nid)),
                None => forget.clear(),
            }
        }));
        Self { store, cache, redactions }
    }

    /// These events, in no particular order; those that aren't there are left out.
    pub(crate) async fn by_nids(
        &self,
        nids: impl IntoIterator<Item = EventNid>,
    ) -> Result<Vec<Arc<Shown>>, store::Error> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for nid in nids {
            match self.cache.get(&nid) {
                Some(shown) => found.push(shown),
                None => missing.push(nid),
            }
        }
        if !missing.is_empty() {
            let before = self.redactions.load(Ordering::Acquire);
            let events = self.store.events().by_nids(&missing).await?;
            found.extend(self.keep(events, before));
        }
        Ok(found)
    }

    pub(crate) async fn by_nid(&self, nid: EventNid) -> Result<Option<Arc<Shown>>, store::Error> {
        Ok(self.by_nids([nid]).await?.pop())
    }

    /// The latest `limit` events of a room up to `from` and after `to`, latest first.
    pub(crate) async fn backward(
        &self,
        room: model::RoomNid,
        from: model::Position,
        to: Option<model::Position>,
        limit: usize,
    ) -> Result<Vec<Arc<Shown>>, store::Error> {
        let before = self.redactions.load(Ordering::Acquire);
        let events = self.store.events().timeline(room, from, to, limit, ruma::api::Direction::Backward).await?;
        Ok(self.keep(events, before))
    }

    /// The first `limit` events of a room after `from` and up to `to`, oldest first.
    pub(crate) async fn forward(
        &self,
        room: model::RoomNid,
        from: model::Position,
        to: model::Position,
        limit: usize,
    ) -> Result<Vec<Arc<Shown>>, store::Error> {
        let before = self.redactions.load(Ordering::Acquire);
        let events = self.store.events().timeline(room, from, Some(to), limit, ruma::api::Direction::Forward).await?;
        Ok(self.keep(events, before))
    }

    fn keep(&self, events: Vec<Arc<TimelineEvent>>, before: u64) -> Vec<Arc<Shown>> {
        let is_current = self.redactions.load(Ordering::Acquire) == before;
        events
            .into_iter()
            .map(|event| {
                if let Some(shown) = self.cache.get(&event.nid).filter(|_| is_current) {
                    return shown;
                }
                let shown = Arc::new(Shown::new((*event).clone()));
                if is_current {
                    self.cache.insert(event.nid, shown.clone());
                }
                shown
            })
            .collect()
    }

    /// Looks up what `unsigned` tells of other events: what a state event replaced, and what redacted it.
    pub(crate) async fn complete(&self, shown: &Shown, states: &States) -> Result<(), store::Error> {
        if shown.is_complete() {
            return Ok(());
        }
        let common = async {
            let mut common = String::new();
            if let (Some(state_key), Some(before)) = (&shown.event.pdu.state_key, shown.event.state_before) {
                let key = (StateEventType::from(&*shown.kind), state_key.clone());
                let replaced = states.at(before).await?.get(&key).copied();
                if let Some(nid) = replaced
                    && let Some(replaced) = self.by_nid(nid).await?
                {
                    let pdu = &replaced.event.pdu;
                    let _ = write!(
                        common,
                        ",\"prev_content\":{},\"replaces_state\":{},\"prev_sender\":{}",
                        pdu.content.get(),
                        quoted(pdu.event_id.as_str()),
                        quoted(pdu.sender.as_str())
                    );
                }
            }
            if let Some(redaction) = &shown.event.redacted_by
                && let Some(redaction) = self.store.events().find(redaction).await?
            {
                // The id alone is not in the specification; clients have it from other servers.
                let _ = write!(common, ",\"redacted_by\":{}", quoted(redaction.pdu.event_id.as_str()));
                common.push_str(",\"redacted_because\":");
                common.push_str(Shown::new((*redaction).clone()).body());
                common.push('}');
            }
            Ok::<Box<str>, store::Error>(common.into())
        };
        shown.common_unsigned.get_or_try_init(|| common).await?;
        Ok(())
    }
}
