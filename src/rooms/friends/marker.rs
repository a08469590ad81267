//! Which invitations ask for friendship, written down as they come.

use model::TimelineEvent;
use ruma::{
    ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use store::{
    Arg, Write,
    friends::{RequestRow, put_request},
};

use super::{LONGEST_MESSAGE, cut};

/// In the content of an invitation to a direct room: it asks for friendship. An object; `message`: what is said with it, which
/// stands as `reason` too, for clients that don't know of this.
pub const FRIEND_REQUEST: &str = "org.comity.friend_request";

#[derive(Deserialize)]
struct Content {
    membership: MembershipState,
    #[serde(default)]
    is_direct: bool,
    #[serde(rename = "org.comity.friend_request")]
    request: Option<Marker>,
}

#[derive(Deserialize)]
struct Marker {
    #[serde(default)]
    message: Option<String>,
}

/// What an invitation that asks for friendship says; `None`: it asks for none.
fn marker_of(event: &TimelineEvent) -> Option<Marker> {
    if event.pdu.kind != TimelineEventType::RoomMember {
        return None;
    }
    let content: Content = event.pdu.content_as()?;
    content.request.filter(|_| content.membership == MembershipState::Invite && content.is_direct)
}

/// The message of an invitation that asks for friendship.
pub(super) fn message_of(event: &TimelineEvent) -> Option<String> {
    let message = marker_of(event)?.message?;
    Some(cut(message.trim(), LONGEST_MESSAGE).to_owned()).filter(|message| !message.is_empty())
}

/// If the event asks for friendship, notes it for those of the two who are of this server. `position`: of the event.
///
/// What people are not shown for want of trust in its sender asks nobody for anything.
pub(crate) fn note_request(write: &mut Write, us: &ServerName, event: &TimelineEvent, position: &Arg) {
    let invited = event.pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
    let Some(invited) = invited.filter(|_| event.withheld_below.is_none() && marker_of(event).is_some()) else {
        return;
    };
    let sides = [(&*event.pdu.sender, invited, false), (invited, &*event.pdu.sender, true)];
    for (user_id, friend_id, is_incoming) in sides.into_iter().filter(|(user_id, ..)| user_id.server_name() == us) {
        let (room, event, asked_at) = (event.room_nid, event.nid, i64::from(event.pdu.origin_server_ts.get()));
        put_request(write, RequestRow { user_id, friend_id, room, event, is_incoming, asked_at }, position.clone());
    }
}
