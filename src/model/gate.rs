//! Acts that somebody is asked about before they are done, and what may be answered.
//!
//! Services propose; whoever stands above them answers through a [`Gate`], which is put into the service's [`GateSlot`].

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use ruma::{EventId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Kind, Refusal};

/// What a user of this server is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Send an event into a room: a message, state, a redaction.
    Send,
    /// Ask others into a room, or into one that is being made.
    Invite,
    /// Come into a room.
    Join,
    /// Make a room.
    CreateRoom,
    /// Make an account for oneself.
    Register,
    /// Store a file.
    Upload,
}

impl Act {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Invite => "invite",
            Self::Join => "join",
            Self::CreateRoom => "create_room",
            Self::Register => "register",
            Self::Upload => "upload",
        }
    }
}

/// A few acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acts(u8);

impl Acts {
    /// Those that are among one, or the other.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether `act` is among them.
    pub fn has(self, act: Act) -> bool {
        self.0 & (1 << act as u8) != 0
    }

    /// As a number, for an atomic.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// What [`Self::bits`] gave.
    pub fn of_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl FromIterator<Act> for Acts {
    fn from_iter<T: IntoIterator<Item = Act>>(acts: T) -> Self {
        Self(acts.into_iter().fold(0, |bits, act| bits | (1 << act as u8)))
    }
}

/// Whether a content can stand where another was proposed; if not, why.
pub type MayBecome<'a> = dyn Fn(&RawValue) -> Result<(), &'static str> + Send + Sync + 'a;

/// An act that is about to be done.
#[derive(Clone, Copy, Serialize)]
pub struct Proposal<'a> {
    /// What.
    pub act: Act,
    /// Who.
    pub sender: &'a UserId,
    /// Where, if the room is there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_id: Option<&'a RoomId>,
    /// For [`Act::Send`]: what kind of event.
    #[serde(flatten)]
    pub event: Option<EventWords<'a>>,
    /// What exactly, by the act.
    pub content: &'a RawValue,
    /// Set: another content may be done instead, if this says so.
    #[serde(skip)]
    pub may_become: Option<&'a MayBecome<'a>>,
    /// A moderator has looked at it and let it through.
    #[serde(skip)]
    pub is_approved: bool,
}

/// What an event says besides its content.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EventWords<'a> {
    /// `m.room.message` …
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Set: a state event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_key: Option<&'a str>,
    /// For a redaction: what it redacts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redacts: Option<&'a EventId>,
}

/// Why an act was not let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Whoever was asked refused it.
    #[error("{0}")]
    Refused(String),
    /// Whoever must be asked gave no answer that counts.
    #[error("a program that this server asks first did not answer, so nothing was done")]
    Silent,
    /// The account may only read, leave, and take back what it said.
    #[error("this account is suspended")]
    Suspended,
    /// A moderator is to look at it first: why, for moderators.
    #[error(
        "this waits until a moderator has looked at it; if it is let through, it is said then, and there is no need to repeat it"
    )]
    Held(String),
}

impl Refusal for GateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Refused(_) | Self::Suspended | Self::Held(_) => Kind::Forbidden,
            Self::Silent => Kind::Unavailable,
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        (*self == Self::Suspended).then_some("M_USER_SUSPENDED")
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Suspended => Some("user_suspended"),
            Self::Held(_) => Some("held_for_moderator"),
            Self::Refused(_) | Self::Silent => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        (*self == Self::Silent).then(|| format!("{self}; try again in a minute, or ask those who run this server"))
    }
}

/// Leave to do something.
#[derive(Clone, Debug, Default)]
pub struct Leave {
    /// Another content, if it is to be done instead.
    pub content: Option<Box<RawValue>>,
    /// Set: moderators are to look at it afterwards, for this reason.
    pub mark: Option<String>,
}

/// What comes of a question.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Leave, GateError>> + Send + 'a>>;

/// Whoever is asked before something is done.
pub trait Gate: Send + Sync {
    /// What it wants to be asked about now. Quick: this is looked at on the way of every message.
    fn asks_about(&self) -> Acts;

    /// Whether `sender` may do nothing now but read, leave, and take back what it said. Quick.
    fn is_suspended(&self, _sender: &UserId) -> bool {
        false
    }

    /// Asks. Nothing may be held meanwhile that others wait for; it may take seconds, and it ends.
    fn ask<'a>(&'a self, proposal: Proposal<'a>) -> Answer<'a>;
}

/// Where a service finds who is to be asked, once there is somebody.
#[derive(Default)]
pub struct GateSlot(OnceLock<Arc<dyn Gate>>);

impl GateSlot {
    /// From now on `gate` is asked. The first one stays.
    pub fn set(&self, gate: Arc<dyn Gate>) {
        let _ = self.0.set(gate);
    }

    /// Refuses whose account is suspended: for acts that nobody else is asked about.
    pub fn check(&self, sender: &UserId) -> Result<(), GateError> {
        match self.0.get() {
            Some(gate) if gate.is_suspended(sender) => Err(GateError::Suspended),
            _ => Ok(()),
        }
    }

    /// Whoever is to be asked before `sender` does `act`. What the server does itself, and guests of bridges, whose names begin
    /// with an underscore, is not asked about.
    pub fn on(&self, act: Act, sender: &UserId) -> Option<&dyn Gate> {
        let gate = self.0.get()?;
        let is_asked = gate.asks_about().has(act) && !sender.localpart().starts_with('_');
        is_asked.then_some(&**gate)
    }
}

impl fmt::Debug for GateSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GateSlot").field(&self.0.get().map(|gate| gate.asks_about())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_told_apart() {
        let all = [Act::Send, Act::Invite, Act::Join, Act::CreateRoom, Act::Register, Act::Upload];
        for act in all {
            let alone: Acts = [act].into_iter().collect();
            for other in all {
                assert_eq!(alone.has(other), act == other, "{act:?} {other:?}");
            }
            assert_eq!(Acts::of_bits(alone.bits()), alone);
            assert_eq!(serde_json::to_value(act).expect("a word"), act.as_str());
        }
        assert!(all.into_iter().collect::<Acts>().has(Act::Upload));
    }
}
