//! Events: a draft becomes a PDU by being placed in its room's graph, hashed and signed.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#pdus>

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, RoomId, UInt, UserId,
    events::TimelineEventType,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    serde::{Base64, Raw, base64::UrlSafe},
    signatures, state_res,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    SigningKey,
    references::{self, ReferenceHashes},
};

/// No PDU is larger than this, as canonical JSON with its signatures.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
pub const MAX_PDU_BYTES: usize = 65_536;
const MAX_ID_BYTES: usize = 255;

/// What somebody wishes to happen in a room.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who makes it.
    pub sender: OwnedUserId,
    /// `m.room.message` …
    pub kind: TimelineEventType,
    /// An object.
    pub content: Box<RawValue>,
    /// Set: a state event.
    pub state_key: Option<String>,
    /// For a redaction: what it redacts.
    pub redacts: Option<OwnedEventId>,
    /// When it was made, milliseconds since 1970.
    pub origin_server_ts: i64,
}

/// Where a draft goes in its room's graph.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// `None` for the create event of a room whose id is made of it.
    pub room_id: Option<&'a RoomId>,
    /// The events it follows.
    pub prev_events: Vec<OwnedEventId>,
    /// The state that allows it.
    pub auth_events: Vec<OwnedEventId>,
    /// The hashes of all those, where the room's version wants them told.
    pub hashes: ReferenceHashes,
    /// One more than the greatest depth of `prev_events`.
    pub depth: i64,
}

impl<'a> Place<'a> {
    /// Where an event stands that follows nothing and that nothing allows.
    pub fn first(room_id: Option<&'a RoomId>) -> Self {
        Self { room_id, prev_events: Vec::new(), auth_events: Vec::new(), hashes: ReferenceHashes::new(), depth: 1 }
    }
}

/// A persistent event of a room, as every server of the room has it.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// `$` and the reference hash; up to room version 2 what its maker called it, and the maker's server.
    pub event_id: OwnedEventId,
    /// The room; for the create event of a room version 12 made of its event id.
    pub room_id: OwnedRoomId,
    /// False for the create event of such a room: it can't name what is made of its own hash.
    pub names_room: bool,
    /// Who made it.
    pub sender: OwnedUserId,
    /// When, as its maker says.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// `m.room.message` …
    pub kind: TimelineEventType,
    /// An object.
    pub content: Box<RawValue>,
    /// Set: a state event.
    pub state_key: Option<String>,
    /// The events it follows.
    pub prev_events: Vec<OwnedEventId>,
    /// The state that allows it.
    pub auth_events: Vec<OwnedEventId>,
    /// What it redacts, wherever its room version says so.
    pub redacts: Option<OwnedEventId>,
    /// The longest way to the room's first event.
    pub depth: i64,
    /// Whether the authorisation rules refused it.
    pub rejected: bool,
    /// `unsigned` as stored: never part of what is signed.
    pub unsigned: Option<Box<RawValue>>,
    /// The whole of it, canonical.
    pub json: Arc<str>,
}

/// Why something can't be an event.
#[derive(Debug, thiserror::Error)]
pub enum PduError {
    /// Over 65,536 bytes.
    #[error("the event is larger than 65536 bytes")]
    TooLarge,
    /// One of its ids, its type or its state key is over 255 bytes.
    #[error("{field} is longer than 255 bytes")]
    FieldTooLong {
        /// Which one.
        field: &'static str,
    },
    /// It has numbers or keys that canonical JSON does not know, or lacks what an event must have.
    #[error("the event is malformed: {0}")]
    Malformed(String),
}

impl From<signatures::JsonError> for PduError {
    fn from(error: signatures::JsonError) -> Self {
        match error {
            signatures::JsonError::PduTooLarge => Self::TooLarge,
            error => Self::Malformed(error.to_string()),
        }
    }
}

impl Draft {
    /// Places this draft in its room, hashes and signs it.
    ///
    /// The longest step is the signature: some tens of microseconds.
    pub fn seal(self, place: Place<'_>, rules: &RoomVersionRules, key: &SigningKey) -> Result<Pdu, PduError> {
        Pdu::seal(self.place(place, rules)?, rules, key)
    }

    /// Places this draft in its room: everything of the event but its hash and its signatures, as another server may
    /// complete it.
    pub fn place(self, place: Place<'_>, rules: &RoomVersionRules) -> Result<CanonicalJsonObject, PduError> {
        check_length("type", &self.kind.to_string())?;
        check_length("state_key", self.state_key.as_deref().unwrap_or_default())?;
        check_length("sender", self.sender.as_str())?;
        if self.content.get().len() > MAX_PDU_BYTES {
            return Err(PduError::TooLarge);
        }
        let content: CanonicalJsonValue = serde_json::from_str(self.content.get())
            .map_err(|error| PduError::Malformed(format!("content: {error}")))?;
        let CanonicalJsonValue::Object(mut content) = content else {
            return Err(PduError::Malformed("content must be an object".into()));
        };

        let ids = |ids: &[OwnedEventId]| references::list(ids, &place.hashes, rules);
        let int = |value: i64, field| {
            ruma::Int::new(value)
                .map(CanonicalJsonValue::Integer)
                .ok_or_else(|| PduError::Malformed(format!("{field} is out of range")))
        };
        let mut object = CanonicalJsonObject::new();
        let mut set = |key: &str, value: CanonicalJsonValue| object.insert(key.to_owned(), value);
        set("type", CanonicalJsonValue::String(self.kind.to_string()));
        set("sender", CanonicalJsonValue::String(self.sender.to_string()));
        set("origin_server_ts", int(self.origin_server_ts, "origin_server_ts")?);
        set("depth", int(place.depth, "depth")?);
        set("prev_events", ids(&place.prev_events));
        set("auth_events", ids(&place.auth_events));
        if let Some(room_id) = place.room_id {
            set("room_id", CanonicalJsonValue::String(room_id.to_string()));
        }
        if let Some(state_key) = &self.state_key {
            set("state_key", CanonicalJsonValue::String(state_key.clone()));
        }
        if let Some(redacts) = &self.redacts {
            // Room version 11 moved `redacts` from the event into its content.
            let redacts = CanonicalJsonValue::String(redacts.to_string());
            if rules.redaction.content_field_redacts {
                content.insert("redacts".to_owned(), redacts);
            } else {
                set("redacts", redacts);
            }
        }
        set("content", CanonicalJsonValue::Object(content));
        Ok(object)
    }
}

impl Pdu {
    /// Hashes and signs an event that lacks nothing else. Where ids aren't made of hashes, it is given one.
    pub fn seal(mut object: CanonicalJsonObject, rules: &RoomVersionRules, key: &SigningKey) -> Result<Self, PduError> {
        if rules.event_format.require_event_id && !object.contains_key("event_id") {
            // Any would do that this server gives no other event.
            let name: Base64<UrlSafe, _> = Base64::new(signatures::content_hash(&object)?.into_inner());
            let event_id = format!("${}:{}", name.encode(), key.server_name());
            object.insert("event_id".to_owned(), CanonicalJsonValue::String(event_id));
        }
        signatures::hash_and_sign_event(key.server_name().as_str(), key, &mut object, &rules.redaction)?;
        Self::from_canonical(object, rules)
    }

    /// Adds this server's signature to an event of another.
    pub fn countersign(
        mut object: CanonicalJsonObject,
        rules: &RoomVersionRules,
        key: &SigningKey,
    ) -> Result<Self, PduError> {
        signatures::sign_event(key.server_name().as_str(), key, &mut object, &rules.redaction)?;
        Self::from_canonical(object, rules)
    }

    /// Reads an event that another server made. Of what isn't signed, nothing is kept.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>, the first check.
    pub fn from_peer(mut object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, PduError> {
        object.remove("unsigned");
        state_res::check_pdu_format(&object, &rules.event_format).map_err(PduError::Malformed)?;
        references::check(&object, rules)?;
        Self::from_canonical(object, rules)
    }

    /// The event as a canonical JSON object, as it is signed and sent to other servers.
    pub fn object(&self) -> CanonicalJsonObject {
        let mut object: CanonicalJsonObject =
            serde_json::from_str(&self.json).expect("an event was made of canonical JSON");
        object.remove("unsigned");
        object
    }

    /// Reads a whole event, computing its id.
    pub fn from_canonical(object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, PduError> {
        let event_id = event_id_of(&object, rules)?;
        let json = serde_json::to_string(&object).map_err(|error| PduError::Malformed(error.to_string()))?;
        if json.len() > MAX_PDU_BYTES {
            return Err(PduError::TooLarge);
        }
        Self::from_stored(event_id, json.into(), false)
    }

    /// Reads an event that was stored under `event_id`.
    pub fn from_stored(event_id: OwnedEventId, json: Arc<str>, rejected: bool) -> Result<Self, PduError> {
        #[derive(Deserialize)]
        struct Fields {
            room_id: Option<OwnedRoomId>,
            sender: OwnedUserId,
            origin_server_ts: UInt,
            #[serde(rename = "type")]
            kind: TimelineEventType,
            content: Box<RawValue>,
            state_key: Option<String>,
            #[serde(deserialize_with = "references::deserialize")]
            prev_events: Vec<OwnedEventId>,
            #[serde(deserialize_with = "references::deserialize")]
            auth_events: Vec<OwnedEventId>,
            redacts: Option<OwnedEventId>,
            depth: i64,
            unsigned: Option<Box<RawValue>>,
        }
        #[derive(Deserialize)]
        struct Redacts {
            redacts: Option<OwnedEventId>,
        }

        let fields: Fields = serde_json::from_str(&json).map_err(|error| PduError::Malformed(error.to_string()))?;
        let names_room = fields.room_id.is_some();
        let room_id = match fields.room_id {
            Some(room_id) => room_id,
            None => RoomId::parse(format!("!{}", event_id.as_str().trim_start_matches('$')))
                .map_err(|error| PduError::Malformed(error.to_string()))?,
        };
        check_length("room_id", room_id.as_str())?;
        let redacts = fields.redacts.or_else(|| {
            let is_redaction = fields.kind == TimelineEventType::RoomRedaction;
            is_redaction.then(|| serde_json::from_str::<Redacts>(fields.content.get()).ok()?.redacts).flatten()
        });
        Ok(Self {
            event_id,
            room_id,
            names_room,
            sender: fields.sender,
            origin_server_ts: MilliSecondsSinceUnixEpoch(fields.origin_server_ts),
            kind: fields.kind,
            content: fields.content,
            state_key: fields.state_key,
            prev_events: fields.prev_events,
            auth_events: fields.auth_events,
            redacts,
            depth: fields.depth,
            rejected,
            unsigned: fields.unsigned,
            json,
        })
    }

    /// The content, read as `T`; `None` if it isn't one.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.content.get()).ok()
    }

    /// What this state event is about.
    pub fn state(&self) -> Option<crate::StateKey> {
        Some((self.kind.to_string().into(), self.state_key.clone()?))
    }

    /// Whether this event is state of `kind` for `state_key`.
    pub fn is_state(&self, kind: &TimelineEventType, state_key: &str) -> bool {
        self.kind == *kind && self.state_key.as_deref() == Some(state_key)
    }

    /// Reads the event as one of ruma's types.
    pub fn raw<T>(&self) -> Raw<T> {
        Raw::from_json(RawValue::from_string(self.json.to_string()).expect("a stored event is JSON"))
    }
}

fn check_length(field: &'static str, value: &str) -> Result<(), PduError> {
    if value.len() > MAX_ID_BYTES { Err(PduError::FieldTooLong { field }) } else { Ok(()) }
}

impl state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        self.names_room.then_some(&*self.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        self.rejected
    }
}

impl AsRef<EventId> for Pdu {
    fn as_ref(&self) -> &EventId {
        &self.event_id
    }
}

/// The id of an event: its reference hash, whether or not it is an event otherwise. Up to room version 2 it is what the
/// event says, which names a server.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v4/#event-ids>
pub fn event_id_of(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId, PduError> {
    if matches!(rules.event_id_format, EventIdFormatVersion::V1) {
        return given_id(object).ok_or_else(|| PduError::Malformed("`event_id` names no server".into()));
    }
    let hash = signatures::reference_hash(object, rules)?;
    OwnedEventId::try_from(format!("${hash}")).map_err(|error| PduError::Malformed(error.to_string()))
}

/// What an event may be called of which not even the room's version is known: as `rules` would have it, or what it says of
/// itself.
pub fn guessed_event_id(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    given_id(object).or_else(|| event_id_of(object, rules).ok())
}

/// An id as makers of events choose it.
fn given_id(object: &CanonicalJsonObject) -> Option<OwnedEventId> {
    let event_id = OwnedEventId::try_from(object.get("event_id")?.as_str()?).ok()?;
    event_id.server_name().is_some().then_some(event_id)
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
