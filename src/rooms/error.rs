//! Why an act on a room was refused.

use model::{Kind, PduError, Refusal, gate::GateError};
use peers::PeerError;

/// Why an act on a room was refused.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// This server knows no such room.
    #[error("there is no such room, or you are not in it")]
    UnknownRoom,
    /// This server knows no such event, or not for the asker.
    #[error("there is no such event, or you may not see it")]
    UnknownEvent,
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// What this server has to say to somebody is said there.
    #[error("this is the room of this server's notices: it can't be left")]
    NoticesRoom,
    /// Only members may do this.
    #[error("you are not in this room")]
    NotJoined,
    /// The room lets in members of another room, if somebody lets them in, and nobody of this server may.
    #[error("nobody on this server may let you in")]
    NobodyToAuthorise,
    /// The room's rules, or this server's, forbid it.
    #[error("{0}")]
    Forbidden(String),
    /// The request makes no sense for this room.
    #[error("{0}")]
    Invalid(String),
    /// The content isn't what an event of this type holds.
    #[error("{0}")]
    BadContent(String),
    /// The initial state contradicts itself.
    #[error("the room's initial state is not allowed: {0}")]
    InvalidInitialState(String),
    /// This server neither makes nor joins such rooms.
    #[error("this server does not support room version {0}")]
    UnsupportedVersion(String),
    /// Who wants in does not know the rules that the room obeys.
    #[error("the room is of version {0}, which your server does not support")]
    IncompatibleVersion(String),
    /// Somebody has this alias.
    #[error("the alias {0} is taken")]
    AliasTaken(String),
    /// A room has this alias already.
    #[error("the alias {0} leads to a room already")]
    AliasExists(String),
    /// It was said too long ago to be taken back.
    #[error("what was said more than {} ago can't be taken back", humane(.0))]
    RecallTooLate(std::time::Duration),
    /// The room is encrypted, and this isn't.
    #[error("this conversation is encrypted: what is said in it is encrypted by its sender's client")]
    Unencrypted,
    /// It is happening already.
    #[error("it is too late: it is being sent")]
    TooLate,
    /// The user has not left the room.
    #[error("you are still in this room: leave it first")]
    StillJoined,
    /// The alias isn't one of this room's.
    #[error("the alias {0} does not point to this room")]
    BadAlias(String),
    /// It can't be an event.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// The room changed faster than this server could follow.
    #[error("the room is too busy")]
    Busy,
    /// The trust policy forbids it.
    #[error(transparent)]
    Trust(#[from] peers::TrustError),
    /// Whoever is asked first did not let it through.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// Another server could not be asked, or refused.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The store failed.
    #[error("the room could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for RoomError {
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownRoom | Self::UnknownEvent | Self::NotFound(_) => Kind::NotFound,
            Self::NotJoined
            | Self::NobodyToAuthorise
            | Self::NoticesRoom
            | Self::Forbidden(_)
            | Self::Unencrypted
            | Self::RecallTooLate(_) => Kind::Forbidden,
            Self::Invalid(_) | Self::BadContent(_) | Self::InvalidInitialState(_) => Kind::Invalid,
            Self::UnsupportedVersion(_) | Self::IncompatibleVersion(_) | Self::AliasTaken(_) | Self::BadAlias(_) => {
                Kind::Invalid
            }
            Self::AliasExists(_) | Self::TooLate => Kind::Conflict,
            Self::StillJoined => Kind::Invalid,
            Self::Pdu(PduError::TooLarge | PduError::FieldTooLong { .. }) => Kind::TooLarge,
            Self::Pdu(PduError::Malformed(_)) => Kind::Invalid,
            Self::Busy => Kind::Unavailable,
            Self::Trust(error) => error.kind(),
            Self::Gate(error) => error.kind(),
            Self::Peer(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::InvalidInitialState(_) => Some("M_INVALID_ROOM_STATE"),
            Self::UnsupportedVersion(_) => Some("M_UNSUPPORTED_ROOM_VERSION"),
            Self::IncompatibleVersion(_) => Some("M_INCOMPATIBLE_ROOM_VERSION"),
            Self::StillJoined => Some("M_UNKNOWN"),
            Self::NoticesRoom => Some("M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"),
            Self::NobodyToAuthorise => Some("M_UNABLE_TO_GRANT_JOIN"),
            Self::BadAlias(_) => Some("M_BAD_ALIAS"),
            Self::AliasTaken(_) => Some("M_ROOM_IN_USE"),
            Self::BadContent(_) | Self::Pdu(PduError::Malformed(_)) => Some("M_BAD_JSON"),
            Self::Gate(error) => error.errcode(),
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::RecallTooLate(_) => Some("recall_too_late"),
            Self::Unencrypted => Some("encrypted_conversation"),
            Self::TooLate => Some("too_late"),
            Self::Gate(error) => error.code(),
            _ => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Gate(error) => error.remedy(),
            _ => None,
        }
    }
}

/// A duration in whole minutes, or in seconds where it is short.
fn humane(duration: &std::time::Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 120 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    }
}
