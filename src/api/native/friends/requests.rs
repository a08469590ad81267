//! Asking for friendship, and answering.

use model::{Address, Millis, Position};
use rooms::{FriendDirection, FriendRequest};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use users::applications::AppScope;
use users::native_name;
use utoipa::{IntoParams, ToSchema};

use super::{MOST, USUAL};
use crate::{
    Problem, Session,
    native::{Answer, Call, Endpoint, Nothing, delete, get, post},
};

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    const REQUESTS: &str = "/api/v1/friends/requests";
    const ONE: &str = "/api/v1/friends/requests/{id}";
    const ASK: &str = "\
        Of this server or another: a request is an invitation to a direct conversation, so whoever is asked can answer with a Matrix \
        client too, by joining or declining. Who was asked by the other says yes by this. Who asks again gets the same request. 409 \
        `already_friends` where they are; 403 and 502 where the other server isn't trusted so far, or can't be reached.";
    const LIST: &str = "\
        Those that wait for an answer, or, with `state=all`, all of them; the latest first. Requests of people whom one has blocked \
        are left out.";
    const CLOSED: &str =
        "409 `request_closed` where it has been answered otherwise, or taken back. Once more does nothing.";
    vec![
        post(REQUESTS, "Asks somebody for friendship.", ask).explained(ASK).open_to(AppScope::FriendsWrite),
        get(REQUESTS, "Friend requests.", list).explained(LIST).open_to(AppScope::FriendsRead),
        get(ONE, "A friend request, and what became of it.", one).open_to(AppScope::FriendsRead),
        delete(ONE, "Takes back a friend request that one has made.", withdraw)
            .explained(CLOSED)
            .open_to(AppScope::FriendsWrite),
        post("/api/v1/friends/requests/{id}/accept", "Says yes to a friend request.", accept)
            .explained(CLOSED)
            .open_to(AppScope::FriendsWrite),
        post("/api/v1/friends/requests/{id}/refuse", "Says no to a friend request.", refuse)
            .explained(CLOSED)
            .open_to(AppScope::FriendsWrite),
    ]
}

/// Whom one asks.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewFriendRequest {
    /// `bob@b.example` or `@bob:b.example`.
    #[schema(value_type = String)]
    to: Address,
    /// What one says with it, 500 characters at most.
    #[serde(default)]
    message: Option<String>,
}

/// Which requests.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RequestsWanted {
    /// `in`: those that one was asked by; `out`: those by which one asked. Left out: both.
    #[serde(default)]
    #[param(inline)]
    direction: Option<Side>,
    /// `pending`: those that wait for an answer; `all`: whatever became of them. Left out: `pending`.
    #[serde(default)]
    #[param(inline)]
    state: StatesWanted,
    /// `next` of the page before.
    #[serde(default)]
    from: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    #[serde(default)]
    limit: Option<usize>,
}

/// Who asked.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FriendRequestDirection)]
enum Side {
    /// The other one.
    In,
    /// Oneself.
    Out,
}

/// Which states.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FriendRequestStates)]
enum StatesWanted {
    /// Those that wait for an answer.
    #[default]
    Pending,
    /// All.
    All,
}

/// Some of the requests.
#[derive(Serialize, ToSchema)]
#[schema(as = FriendRequests)]
struct Requests {
    /// The latest first.
    requests: Vec<RequestView>,
    /// There are more: `from` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A friend request.
#[derive(Serialize, ToSchema)]
#[schema(as = FriendRequest)]
pub(in crate::native) struct RequestView {
    /// What it is called, the same on both sides.
    #[schema(value_type = String)]
    id: OwnedEventId,
    /// Who asked.
    #[schema(inline)]
    direction: Side,
    /// The other one, as Matrix spells it: `@bob:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// The other one, as people spell it: `bob@b.example`.
    #[schema(value_type = String)]
    address: Address,
    /// The name of the other, cut to 100 characters, as far as it is known.
    display_name: Option<String>,
    /// The picture of the other, an `mxc://` URI, as far as it is known.
    avatar_url: Option<String>,
    /// What was said with it, cut to 500 characters.
    message: Option<String>,
    /// `pending`, `accepted`, `refused`, `withdrawn`, or `ended`: it was accepted, and one of the two left the conversation since.
    state: &'static str,
    /// When it was made, as its maker's server says, milliseconds since 1970.
    asked_at: Millis,
    /// The direct conversation that it is an invitation to.
    #[schema(value_type = String)]
    conversation_id: OwnedRoomId,
}

impl From<FriendRequest> for RequestView {
    fn from(request: FriendRequest) -> Self {
        Self {
            direction: if request.is_incoming { Side::In } else { Side::Out },
            address: request.user_id.clone().into(),
            id: request.id,
            user_id: request.user_id,
            display_name: request.display_name.map(|name| native_name(&name).to_owned()),
            avatar_url: request.avatar_url,
            message: request.message,
            state: request.state.as_str(),
            asked_at: request.asked_at,
            conversation_id: request.room_id,
        }
    }
}

/// How one says no.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FriendRefusal)]
struct Refusal {
    /// And blocks who asked.
    #[serde(default)]
    block: bool,
}

async fn ask(call: Call<Session, Nothing, NewFriendRequest>) -> Answer<RequestView> {
    let user_id = &call.caller.user_id;
    call.services.limits.check_join(user_id).await?;
    let NewFriendRequest { to, message } = call.body;
    Ok(call.services.rooms.ask_friend(user_id, to.user_id(), message.as_deref()).await?.into())
}

async fn list(call: Call<Session, RequestsWanted>) -> Answer<Requests> {
    let RequestsWanted { direction, state, from, limit } = call.query;
    let before = match from.as_deref().map(str::parse).transpose() {
        Ok(before) => before.map(Position),
        Err(_) => return Err(Problem::invalid("`from` is the `next` of another page").with("field", "from")),
    };
    let direction = match direction {
        Some(Side::In) => FriendDirection::In,
        Some(Side::Out) => FriendDirection::Out,
        None => FriendDirection::Both,
    };
    let is_open = matches!(state, StatesWanted::Pending);
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let rooms = &call.services.rooms;
    let page = rooms.friend_requests(&call.caller.user_id, direction, is_open, before, limit).await?;
    let requests = page.requests.into_iter().map(Into::into).collect();
    Ok(Requests { requests, next: page.next.map(|position| position.0.to_string()) })
}

async fn one(call: Call<Session>) -> Answer<RequestView> {
    let id: OwnedEventId = call.argument("id")?;
    Ok(call.services.rooms.find_request(&call.caller.user_id, &id).await?.into())
}

async fn withdraw(call: Call<Session>) -> Answer<Nothing> {
    let id: OwnedEventId = call.argument("id")?;
    call.services.rooms.withdraw_friend(&call.caller.user_id, &id).await?;
    Ok(Nothing)
}

async fn accept(call: Call<Session>) -> Answer<RequestView> {
    let id: OwnedEventId = call.argument("id")?;
    let user_id = &call.caller.user_id;
    call.services.limits.check_join(user_id).await?;
    Ok(call.services.rooms.accept_friend(user_id, &id).await?.into())
}

async fn refuse(call: Call<Session, Nothing, Refusal>) -> Answer<Nothing> {
    let id: OwnedEventId = call.argument("id")?;
    let user_id = &call.caller.user_id;
    let asker = call.services.rooms.find_request(user_id, &id).await?.user_id;
    call.services.rooms.refuse_friend(user_id, &id).await?;
    if call.body.block {
        call.services.sync.set_ignored(user_id, &asker, true).await?;
    }
    Ok(Nothing)
}
