//! Friends: somebody asks, somebody else says yes, and from then on each has the other in a list.
//!
//! There is nothing to this but rooms. A request is an invitation to a direct room whose content has [`FRIEND_REQUEST`]; who joins
//! has said yes, and who declines no, with whatever client. Two are friends while both are in such a room. So both servers know it,
//! whichever of the two is away, and a server that knows nothing of friends has invitations and rooms all the same. What is
//! written down (`marker.rs`) is only which invitations were such, in the Write by which each came.
//!
//! On one's own side one may note something about a friend, or want the other for no friend any more: that the other isn't told.

mod answer;
mod ask;
mod list;
mod marker;

use model::{Kind, Millis, Position, Refusal};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use store::friends::{Part, TieRow};

use crate::{RoomError, Rooms, send::membership_of};

pub use list::{FriendPage, RequestPage};
pub use marker::FRIEND_REQUEST;
pub(crate) use marker::note_request;
pub use store::friends::Direction as FriendDirection;

/// The longest message of a request, and the longest that is shown, in characters.
const LONGEST_MESSAGE: usize = 500;
/// So many memberships of one user are looked back at to find out what became of a request.
const STEPS: usize = 20;
/// The longest remark, in characters.
const LONGEST_REMARK: usize = 100;
/// How many groups one may put a friend into, and how long their names may be, in characters.
const MOST_TAGS: usize = 20;
const LONGEST_TAG: usize = 50;

/// Somebody was asked for friendship.
#[derive(Clone, Debug)]
pub struct FriendRequest {
    /// The invitation.
    pub id: OwnedEventId,
    /// The direct room.
    pub room_id: OwnedRoomId,
    /// The other one.
    pub user_id: OwnedUserId,
    /// The other one asked.
    pub is_incoming: bool,
    /// What was said, cut to 500 characters.
    pub message: Option<String>,
    /// When, as the one says who asked.
    pub asked_at: Millis,
    /// What became of it.
    pub state: RequestState,
    /// The name of the other, as far as it is known.
    pub display_name: Option<String>,
    /// The picture of the other, as far as it is known.
    pub avatar_url: Option<String>,
    /// When it became visible here.
    pub position: Position,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// It waits for an answer.
    Pending,
    /// Both are in the room.
    Accepted,
    /// Who was asked said no.
    Refused,
    /// Who asked took it back.
    Withdrawn,
    /// It was accepted once, and one of the two has left the room since.
    Ended,
}

impl RequestState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
            Self::Ended => "ended",
        }
    }
}

/// Somebody's friend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Friend {
    /// Who.
    pub user_id: OwnedUserId,
    /// The direct room of the two; of several the latest.
    pub room_id: OwnedRoomId,
    /// What the friend is called there.
    pub display_name: Option<String>,
    /// The friend's picture there.
    pub avatar_url: Option<String>,
    /// What the user calls the friend.
    pub remark: Option<String>,
    /// The groups that the user puts the friend into.
    pub tags: Vec<String>,
    /// The user ignores the friend.
    pub is_ignored: bool,
    /// When what the user notes was last changed; 0: never.
    pub noted: Position,
}

/// What a user notes about a friend; `None`: as it was.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// What the user calls the friend; of `Some(None)`: nothing.
    pub remark: Option<Option<String>>,
    /// The groups that the user puts the friend into.
    pub tags: Option<Vec<String>>,
}

/// Why something between friends was refused.
#[derive(Debug, thiserror::Error)]
pub enum FriendError {
    /// There is nobody of that name.
    #[error("there is no user {0}")]
    NoUser(OwnedUserId),
    /// Nobody is their own friend.
    #[error("one can't be one's own friend")]
    Yourself,
    /// They are friends.
    #[error("you are friends already")]
    Already,
    /// There is no such request of this user, or to this user.
    #[error("there is no such friend request")]
    UnknownRequest,
    /// It is the other's to do.
    #[error("{0}")]
    NotYours(&'static str),
    /// It has been answered, or taken back.
    #[error("the friend request waits for no answer: it is {}", .0.as_str())]
    Closed(RequestState),
    /// The two are not friends.
    #[error("{0} is not your friend")]
    NotFriends(OwnedUserId),
    /// A text is too long, or empty.
    #[error("`{field}` {problem}")]
    Text {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The room, its rules, the trust between servers, or another server forbids it.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The store failed.
    #[error("friends could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for FriendError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoUser(_) | Self::UnknownRequest | Self::NotFriends(_) => Kind::NotFound,
            Self::Yourself | Self::Text { .. } => Kind::Invalid,
            Self::NotYours(_) => Kind::Forbidden,
            Self::Already | Self::Closed(_) => Kind::Conflict,
            Self::Room(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Already => Some("already_friends"),
            Self::Closed(_) => Some("request_closed"),
            Self::NotFriends(_) => Some("not_friends"),
            Self::Room(error) => error.code(),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Room(error) => error.retry_after_ms(),
            _ => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Room(error) => error.remedy(),
            _ => None,
        }
    }
}

/// How a request stands, as far as the memberships alone tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    Accepted,
    Closed,
}

fn standing(tie: &TieRow) -> Standing {
    let (asker, asked) = if tie.is_incoming { (&tie.theirs, &tie.mine) } else { (&tie.mine, &tie.theirs) };
    let is = |part: &Option<Part>| part.as_ref().map(|part| part.membership.clone());
    match (is(asker), is(asked)) {
        (Some(MembershipState::Join), Some(MembershipState::Join)) => Standing::Accepted,
        // Of a room of another server only one's own invitation is known.
        (None | Some(MembershipState::Join), Some(MembershipState::Invite)) => Standing::Open,
        _ => Standing::Closed,
    }
}

impl Rooms {
    /// What became of a request.
    async fn state_of(&self, tie: &TieRow) -> Result<RequestState, RoomError> {
        match standing(tie) {
            Standing::Open => return Ok(RequestState::Pending),
            Standing::Accepted => return Ok(RequestState::Accepted),
            Standing::Closed => {}
        }
        let asked = if tie.is_incoming { &tie.mine } else { &tie.theirs };
        let asked_id = |user_id: &UserId| (user_id == tie.friend_id) != tie.is_incoming;
        Ok(match asked {
            Some(part) if part.membership == MembershipState::Join => RequestState::Ended,
            Some(part) if part.membership == MembershipState::Invite => RequestState::Withdrawn,
            Some(part) if self.has_joined(tie, part).await? => RequestState::Ended,
            Some(part) if asked_id(&part.sender) => RequestState::Refused,
            _ => RequestState::Withdrawn,
        })
    }

    /// Whether who was asked came in between the request and what they are to the room now.
    async fn has_joined(&self, tie: &TieRow, part: &Part) -> Result<bool, RoomError> {
        let mut event = self.event(part.event).await?;
        let key = (StateEventType::RoomMember, event.pdu.state_key.clone().unwrap_or_default());
        for _ in 0..STEPS {
            let Some(snapshot) = event.state_before.filter(|_| event.nid != tie.event) else { break };
            let Some(nid) = self.state_at(snapshot).await?.get(&key).copied() else { break };
            event = self.event(nid).await?;
            if membership_of(&event.pdu) == Some(MembershipState::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Cuts a text to so many characters.
fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(at, _)| &text[..at])
}

/// A text without what is around it, if there is one; refused if it is longer than so many characters.
fn checked(field: &'static str, text: Option<&str>, longest: usize) -> Result<Option<String>, FriendError> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.chars().count() > longest {
        return Err(FriendError::Text { field, problem: format!("is longer than {longest} characters") });
    }
    Ok(Some(text.to_owned()))
}
