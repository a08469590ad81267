//! Joining, inviting, leaving, and being made to.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-membership>

use axum::response::Response;
use http::Method;
use rooms::{LiveRoom, MembershipChange, Target};
use ruma::{
    OwnedServerName, OwnedUserId, RoomId,
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room, join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user, leave_room,
            unban_user,
        },
    },
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;

use crate::{
    Answer, Ask, Error, Needs, Route, Services,
    endpoint::{PlainAsk, empty_answer, endpoint, parse_json, plain_endpoint},
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(join_by_id),
        endpoint(join_by_id_or_alias),
        endpoint(knock),
        plain_endpoint(Method::POST, "/_matrix/client/v3/rooms/{room_id}/invite", Needs::User, invite)
            .also_at("/_matrix/client/r0/rooms/{room_id}/invite"),
        endpoint(leave),
        endpoint(kick),
        endpoint(ban),
        endpoint(unban),
        endpoint(forget),
        endpoint(joined),
    ]
}

/// Whose membership of which room changes to what, and why.
struct Step<'a> {
    services: &'a Services,
    room_id: &'a RoomId,
    change: MembershipChange,
    sender: &'a OwnedUserId,
    user_id: &'a OwnedUserId,
    reason: Option<String>,
}

impl Step<'_> {
    async fn take(self) -> Result<(), Error> {
        let room: Arc<LiveRoom> = self.services.rooms.get(self.room_id).await?;
        let target =
            Target { sender: self.sender.clone(), user_id: self.user_id.clone(), reason: self.reason, is_direct: None };
        Ok(self.services.rooms.change_membership(&room, self.change, target).await?)
    }
}

async fn join_by_id(ask: Ask<join_room_by_id::v3::Request>) -> Answer<join_room_by_id::v3::Response> {
    let room_id = ask.request.room_id;
    join(&ask.services, &room_id, &ask.session.user_id, &[], ask.request.reason).await?;
    Ok(join_room_by_id::v3::Response::new(room_id))
}

async fn join_by_id_or_alias(
    ask: Ask<join_room_by_id_or_alias::v3::Request>,
) -> Answer<join_room_by_id_or_alias::v3::Response> {
    let (room_id, servers) = ask.services.rooms.resolve(&ask.request.room_id_or_alias).await?;
    let via = all_of(ask.request.via, servers);
    join(&ask.services, &room_id, &ask.session.user_id, &via, ask.request.reason).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

/// The servers that the client names, and then those that the alias led to.
fn all_of(mut named: Vec<OwnedServerName>, found: Vec<OwnedServerName>) -> Vec<OwnedServerName> {
    for server in found {
        if !named.contains(&server) {
            named.push(server);
        }
    }
    named
}

async fn join(
    services: &Services,
    room_id: &RoomId,
    user_id: &OwnedUserId,
    via: &[OwnedServerName],
    reason: Option<String>,
) -> Result<(), Error> {
    services.limits.check_join(user_id).await?;
    Ok(services.rooms.join(room_id, user_id, via, reason).await?)
}

async fn knock(ask: Ask<knock_room::v3::Request>) -> Answer<knock_room::v3::Response> {
    let (room_id, servers) = ask.services.rooms.resolve(&ask.request.room_id_or_alias).await?;
    let via = all_of(ask.request.via, servers);
    let user_id = &ask.session.user_id;
    ask.services.limits.check_join(user_id).await?;
    ask.services.rooms.knock(&room_id, user_id, &via, ask.request.reason).await?;
    Ok(knock_room::v3::Response::new(room_id))
}

#[derive(Deserialize)]
struct Invitation {
    user_id: OwnedUserId,
    reason: Option<String>,
}

/// Looks at the body itself: ruma's type for the two ways to invite can't say which field is wrong.
async fn invite(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let [room_id] = ask.arguments.as_slice() else { return Err(Error::unrecognized()) };
    let room_id = RoomId::parse(room_id).map_err(|_| Error::invalid_param("the path names no room id"))?;
    let body: Map<String, Value> = parse_json(&ask.body)?;
    if body.contains_key("medium") || body.contains_key("address") {
        let message = "medium: this server invites by user id only";
        return Err(Error::new(http::StatusCode::FORBIDDEN, "M_THREEPID_DENIED", message));
    }
    let invited: Invitation = parse_json(&ask.body)?;
    Step {
        services: &ask.services,
        room_id: &room_id,
        change: MembershipChange::Invite,
        sender: &session.user_id,
        user_id: &invited.user_id,
        reason: invited.reason,
    }
    .take()
    .await?;
    Ok(empty_answer())
}

async fn leave(ask: Ask<leave_room::v3::Request>) -> Answer<leave_room::v3::Response> {
    let user_id = &ask.session.user_id;
    Step {
        services: &ask.services,
        room_id: &ask.request.room_id,
        change: MembershipChange::Leave,
        sender: user_id,
        user_id,
        reason: ask.request.reason,
    }
    .take()
    .await?;
    Ok(leave_room::v3::Response::new())
}

/// The three acts on somebody else have one shape.
macro_rules! act_on_another {
    ($name:ident, $module:ident, $change:ident) => {
        async fn $name(ask: Ask<$module::v3::Request>) -> Answer<$module::v3::Response> {
            Step {
                services: &ask.services,
                room_id: &ask.request.room_id,
                change: MembershipChange::$change,
                sender: &ask.session.user_id,
                user_id: &ask.request.user_id,
                reason: ask.request.reason,
            }
            .take()
            .await?;
            Ok($module::v3::Response::new())
        }
    };
}

act_on_another!(kick, kick_user, Kick);
act_on_another!(ban, ban_user, Ban);
act_on_another!(unban, unban_user, Unban);

async fn forget(ask: Ask<forget_room::v3::Request>) -> Answer<forget_room::v3::Response> {
    let room = ask.services.rooms.get(&ask.request.room_id).await?;
    ask.services.rooms.forget(&room, &ask.session.user_id).await?;
    Ok(forget_room::v3::Response::new())
}

async fn joined(ask: Ask<joined_rooms::v3::Request>) -> Answer<joined_rooms::v3::Response> {
    let room_ids = ask.services.rooms.joined_rooms(&ask.session.user_id).await?;
    Ok(joined_rooms::v3::Response::new(room_ids))
}
