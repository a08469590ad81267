//! Files that somebody offers somebody: the other one is told what it is, and gets it after saying yes.
//!
//! There is nothing to this but events in the conversation of the two. An offer is a message whose content has [`TRANSFER`]: to whom,
//! and the file's name, size, type and hash, but not where it is. Who is offered it answers by an event that refers to it, or by a
//! reaction, with whatever client. Then the server of who offers says the message with the file, in their name. So it goes between
//! servers too, whichever of the two is away. What is written down (`marker.rs`) is only which events were such and what became of
//! them, in the Write by which each came.

mod act;
mod marker;
mod send;

use model::{Kind, Millis, Position, Refusal};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};

use crate::RoomError;

pub use act::{NewTransfer, TransferPage};
pub(crate) use marker::note_transfer;
pub use marker::{TRANSFER, TRANSFER_ANSWER};

/// How a file is offered to somebody.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The offer.
    pub id: OwnedEventId,
    /// The conversation.
    pub room_id: OwnedRoomId,
    /// Who offers.
    pub sender: OwnedUserId,
    /// To whom.
    pub receiver: OwnedUserId,
    /// What; `None`: the offer was taken back, and nothing of it is left.
    pub file: Option<OfferedFile>,
    /// When it was offered, as the sender's server says.
    pub offered_at: Millis,
    /// When it can't be accepted any more.
    pub expires_at: Millis,
    /// What became of it.
    pub state: TransferState,
    /// When that was; `None`: it waits.
    pub answered_at: Option<Millis>,
    /// The message that has the file.
    pub message_id: Option<OwnedEventId>,
    /// When the offer became visible here.
    pub position: Position,
}

/// What is said of a file that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedFile {
    /// What it is called.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// What it is said to be.
    pub content_type: String,
    /// The hash of its bytes, in hex.
    pub sha256: String,
    /// What is said with it.
    pub message: Option<String>,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferState {
    /// It waits for an answer.
    Pending,
    /// The file is sent, or on its way.
    Accepted,
    /// Who was offered it doesn't want it.
    Refused,
    /// Who offered it took that back.
    Withdrawn,
    /// Nobody answered in time.
    Expired,
    /// It was accepted, but the file was gone, or could not be sent.
    Failed,
}

impl TransferState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }
}

/// An answer to an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferAnswer {
    /// Yes.
    Accept,
    /// No.
    Refuse,
    /// Who offers takes it back.
    Withdraw,
}

/// Why something about an offer was refused.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is no such offer of this user, or to this user.
    #[error("there is no such file transfer")]
    Unknown,
    /// It is the other's to do.
    #[error("{0}")]
    NotYours(&'static str),
    /// It has been answered, taken back, or is too old.
    #[error("the file transfer waits for no answer: it is {}", .0.as_str())]
    Closed(TransferState),
    /// Whoever isn't in the conversation can't be offered anything.
    #[error("{0} is not in the conversation of the two of you yet: offer it once they have joined")]
    NotJoined(OwnedUserId),
    /// Nobody is spoken to by offers alone.
    #[error("{0} of your offers wait for an answer; take some of them back first")]
    TooMany(i64),
    /// Something said about it makes no sense.
    #[error("`{field}` {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The room, or the trust between servers, forbids it.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The store failed.
    #[error("file transfers could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for TransferError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown => Kind::NotFound,
            Self::NotYours(_) => Kind::Forbidden,
            Self::Closed(_) | Self::NotJoined(_) => Kind::Conflict,
            Self::TooMany(_) => Kind::RateLimited,
            Self::Invalid { .. } => Kind::Invalid,
            Self::Room(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Closed(_) => Some("transfer_closed"),
            Self::NotJoined(_) => Some("not_joined_yet"),
            Self::Room(error) => error.code(),
            _ => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Room(error) => error.remedy(),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Room(error) => error.retry_after_ms(),
            _ => None,
        }
    }
}
