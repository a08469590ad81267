//! A room's state: which event holds for each event type and state key.

use ruma::events::StateEventType;

use crate::EventNid;

/// What a state event is about.
pub type StateKey = (StateEventType, String);

/// A whole state. A persistent map: a copy costs nothing, a change copies a few nodes.
pub type StateMap = imbl::OrdMap<StateKey, EventNid>;
