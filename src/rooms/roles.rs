//! Who is what in a room: power levels as people speak of them.

use std::sync::Arc;

use model::TimelineEvent;
use ruma::{
    OwnedUserId, UserId,
    events::room::{
        member::MembershipState,
        power_levels::{RoomPowerLevels, UserPowerLevel},
    },
};

use crate::{RoomError, Rooms, live::SharedRoom, membership::MemberProfile, send::membership_of, visibility::Sight};

/// From this level on somebody may do everything.
pub(crate) const OWNER: i64 = 100;
/// From this level on somebody moderates.
pub(crate) const ADMIN: i64 = 50;

/// What a member is in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May say something.
    Member,
    /// May put others out, take back what they say, and change what the room shows of itself: level 50 and above.
    Admin,
    /// May do everything: level 100 and above, and who made a room of version 12 or later.
    Owner,
}

impl Role {
    /// `owner`, `admin` or `member`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }

    /// What `user_id` is where these levels hold.
    pub fn of(power_levels: &RoomPowerLevels, user_id: &UserId) -> Self {
        match power_levels.for_user(user_id) {
            UserPowerLevel::Infinite => Self::Owner,
            UserPowerLevel::Int(level) if i64::from(level) >= OWNER => Self::Owner,
            UserPowerLevel::Int(level) if i64::from(level) >= ADMIN => Self::Admin,
            _ => Self::Member,
        }
    }
}

/// Somebody in a room, or invited to it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub user_id: OwnedUserId,
    /// `join` or `invite`.
    pub membership: MembershipState,
    /// What the member is called there.
    pub display_name: Option<String>,
    /// The member's picture there.
    pub avatar_url: Option<String>,
    /// What the member may do.
    pub role: Role,
    /// Whether the member may say nothing.
    pub is_muted: bool,
}

impl Rooms {
    /// Who is in the room or invited to it, as far as `sight` shows, by user id.
    pub async fn people(&self, room: &SharedRoom, sight: &Sight<'_>) -> Result<Vec<Member>, RoomError> {
        let power_levels = self.power_levels(room).await?;
        let events = self.members(room, sight, None).await?;
        let mut people: Vec<Member> = events.iter().filter_map(|event| member(event, &power_levels)).collect();
        people.sort_unstable_by(|one, other| one.user_id.cmp(&other.user_id));
        Ok(people)
    }

    /// The room in which an event is.
    pub async fn room_of(&self, event_id: &ruma::EventId) -> Result<SharedRoom, RoomError> {
        let event = self.events_by_id(&[event_id.to_owned()]).await?.pop().ok_or(RoomError::UnknownEvent)?;
        self.get(&event.pdu.room_id).await
    }
}

fn member(event: &Arc<TimelineEvent>, power_levels: &RoomPowerLevels) -> Option<Member> {
    let membership = membership_of(&event.pdu)?;
    let is_there = matches!(membership, MembershipState::Join | MembershipState::Invite);
    let user_id = OwnedUserId::try_from(event.pdu.state_key.as_deref().filter(|_| is_there)?).ok()?;
    let profile: MemberProfile = event.pdu.content_as().unwrap_or_default();
    Some(Member {
        role: Role::of(power_levels, &user_id),
        is_muted: !may_speak(power_levels, &user_id),
        user_id,
        membership,
        display_name: profile.display_name,
        avatar_url: profile.avatar_url,
    })
}

/// Whether `user_id` may send messages where these levels hold.
pub(crate) fn may_speak(power_levels: &RoomPowerLevels, user_id: &UserId) -> bool {
    power_levels.user_can_send_message(user_id, ruma::events::MessageLikeEventType::RoomMessage)
}
