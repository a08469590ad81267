//! Which of it a client wants to hear.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use ruma::{
    RoomId, UserId,
    api::client::filter::{EventFormat, Filter as PlainFilter, FilterDefinition, RoomEventFilter, UrlFilter},
};
use serde_json::value::RawValue;

use crate::{Shown, Sync, SyncError};

/// How many events of a room an answer holds when the client doesn't say.
const DEFAULT_LIMIT: usize = 10;
const MAX_LIMIT: usize = 100;
/// The largest filter that is stored, in bytes.
const MAX_STORED: usize = 64 << 10;

/// A client's filter.
pub(crate) struct Filter(pub(crate) FilterDefinition);

impl Filter {
    pub(crate) fn allows_room(&self, room_id: &RoomId) -> bool {
        let room = &self.0.room;
        !room.not_rooms.iter().any(|other| other == room_id)
            && room.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|other| other == room_id))
    }

    pub(crate) fn timeline_limit(&self) -> usize {
        let limit = self.0.room.timeline.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok());
        limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
    }

    pub(crate) fn is_lazy(&self) -> bool {
        !self.0.room.state.lazy_load_options.is_disabled() || !self.0.room.timeline.lazy_load_options.is_disabled()
    }

    /// Whether members are told again that were told before.
    pub(crate) fn includes_redundant_members(&self) -> bool {
        use ruma::api::client::filter::LazyLoadOptions::Enabled;
        let options = [&self.0.room.state.lazy_load_options, &self.0.room.timeline.lazy_load_options];
        options.iter().any(|options| matches!(options, Enabled { include_redundant_members: true }))
    }

    pub(crate) fn is_for_federation(&self) -> bool {
        self.0.event_format == EventFormat::Federation
    }

    pub(crate) fn has_thread_counts(&self) -> bool {
        self.0.room.timeline.unread_thread_notifications
    }
}

/// Whether `filter` lets an event of a room through.
pub(crate) fn allows_event(filter: &RoomEventFilter, shown: &Shown) -> bool {
    let pdu = &shown.event.pdu;
    allows_type(filter, &shown.kind)
        && allows_sender(filter, &pdu.sender)
        && match filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => has_url(&pdu.content),
            Some(UrlFilter::EventsWithoutUrl) => !has_url(&pdu.content),
        }
}

/// Whether `filter` is about this room at all.
pub(crate) fn allows_room(filter: &RoomEventFilter, room_id: &RoomId) -> bool {
    !filter.not_rooms.iter().any(|other| other == room_id)
        && filter.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|other| other == room_id))
}

/// Whether `filter` lets events of type `kind` through.
pub(crate) fn allows_type(filter: &RoomEventFilter, kind: &str) -> bool {
    allows(filter.types.as_deref(), &filter.not_types, kind)
}

fn allows_sender(filter: &RoomEventFilter, sender: &UserId) -> bool {
    !filter.not_senders.iter().any(|other| other == sender)
        && filter.senders.as_ref().is_none_or(|senders| senders.iter().any(|other| other == sender))
}

/// Whether `filter` lets something outside of rooms through.
pub(crate) fn allows_plain(filter: &PlainFilter, kind: &str, sender: Option<&UserId>) -> bool {
    allows(filter.types.as_deref(), &filter.not_types, kind)
        && sender.is_none_or(|sender| {
            !filter.not_senders.iter().any(|other| other == sender)
                && filter.senders.as_ref().is_none_or(|senders| senders.iter().any(|other| other == sender))
        })
}

fn allows(types: Option<&[String]>, not_types: &[String], kind: &str) -> bool {
    !not_types.iter().any(|pattern| matches(pattern, kind))
        && types.is_none_or(|types| types.iter().any(|pattern| matches(pattern, kind)))
}

/// "A '*' can be used as a wildcard to match any sequence of characters."
fn matches(pattern: &str, text: &str) -> bool {
    let Some((begin, mut rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(begin) else { return false };
    while let Some((middle, later)) = rest.split_once('*') {
        let Some(at) = text.find(middle) else { return false };
        text = &text[at + middle.len()..];
        rest = later;
    }
    text.ends_with(rest)
}

fn has_url(content: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Content {
        url: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_str::<Content>(content.get()).is_ok_and(|content| content.url.is_some())
}

impl Sync {
    /// Stores a filter. Answers what it is called; the same filter again is called the same.
    pub async fn store_filter(&self, user_id: &UserId, filter: &FilterDefinition) -> Result<String, SyncError> {
        let definition = serde_json::to_string(filter).map_err(|error| SyncError::Invalid(error.to_string()))?;
        if definition.len() > MAX_STORED {
            return Err(SyncError::TooLarge(format!("a filter may have {MAX_STORED} bytes")));
        }
        if let Some(filter_id) = self.shared.store.filters().find_same(user_id, &definition).await? {
            return Ok(filter_id.to_string());
        }
        let mut write = store::Write::new();
        store::filters::insert(&mut write, user_id, &definition);
        Ok(self.shared.store.commit(write).await?.to_string())
    }

    /// The filter that the user calls `filter_id`.
    pub async fn stored_filter(&self, user_id: &UserId, filter_id: &str) -> Result<FilterDefinition, SyncError> {
        Ok(self.filter_by_id(user_id, filter_id).await?.0.clone())
    }

    pub(crate) async fn filter_by_id(
        &self,
        user_id: &UserId,
        filter_id: &str,
    ) -> Result<std::sync::Arc<Filter>, SyncError> {
        let unknown = || SyncError::NotFound(format!("there is no filter {filter_id:?}"));
        let number: i64 = filter_id.parse().map_err(|_| unknown())?;
        let key = (user_id.to_owned(), number);
        if let Some(filter) = self.shared.filters.get(&key) {
            return Ok(filter);
        }
        let definition = self.shared.store.filters().find(user_id, number).await?.ok_or_else(unknown)?;
        let definition = serde_json::from_str(&definition)
            .map_err(|error| store::Error::Corrupt(format!("filters.definition: {error}")))?;
        let filter = std::sync::Arc::new(Filter(definition));
        self.shared.filters.insert(key, filter.clone());
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text) in [("m.room.*", "m.room.name"), ("*", ""), ("m.*.a*e", "m.room.aunt.ae"), ("a", "a")] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("m.room.*", "m.typing"), ("a*b", "ac"), ("", "a"), ("ab*ba", "aba")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
