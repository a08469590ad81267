//! Groups: conversations of many, who own and moderate them.

use http::StatusCode;
use model::{Address, Refusal as _};
use rooms::{Door, LiveRoom, MembershipChange, Role, Target};
use ruma::{OwnedRoomId, OwnedUserId, events::TimelineEventType, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use users::applications::AppScope;
use utoipa::ToSchema;

use super::{
    Answer, Call, Created, Endpoint, Nothing,
    conversations::{
        ConversationView, MemberList, MembersPage, check_count, check_known, group, make, members_of, named_by,
        others_of, shown,
    },
    delete, get,
    message::{Message, Person},
    messages::{NewMessage, say},
    patch, post, put,
};
use crate::{Problem, Services, Session};

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let roles_text = "Roles stand for power levels: `owner` 100, `admin` 50, `member` 0; who may say nothing has less.";
    let create_text =
        "Of a room version in which a group can be handed over; groups that Matrix clients make may be of others.";
    let people_text = "Each has a result of its own. Members of this server and of others have to accept.";
    let approve_text = "Who is of this server is in the group then; who is of another is invited.";
    vec![
        post("/api/v1/groups", "Makes a group.", create).explained(create_text).open_to(AppScope::GroupsWrite),
        post("/api/im/groups", "Makes a group.", create)
            .explained("As `/api/v1/groups`.")
            .open_to(AppScope::GroupsWrite),
        get("/api/v1/groups/{group_id}", "A group.", one).explained(roles_text).open_to(AppScope::GroupsRead),
        patch("/api/v1/groups/{group_id}", "Changes a group.", change).open_to(AppScope::GroupsWrite),
        delete("/api/v1/groups/{group_id}", "Dissolves a group.", dissolve)
            .explained("Everybody is put out, and nothing can be said there any more. For its owner.")
            .open_to(AppScope::GroupsWrite),
        get("/api/v1/groups/{group_id}/members", "Who is in a group.", members).open_to(AppScope::GroupsRead),
        post("/api/v1/groups/{group_id}/members", "Invites people.", invite)
            .explained(people_text)
            .open_to(AppScope::GroupsWrite),
        post("/api/im/groups/{group_id}/members", "Invites people.", invite)
            .explained("As `/api/v1/groups/{group_id}/members`.")
            .open_to(AppScope::GroupsWrite),
        post("/api/im/groups/{group_id}/messages", "Says something.", send)
            .explained("As `/api/v1/messages`.")
            .open_to(AppScope::MessagesSend),
        delete("/api/v1/groups/{group_id}/members/{user_id}", "Puts somebody out, or takes an invitation back.", kick)
            .open_to(AppScope::GroupsWrite),
        put("/api/v1/groups/{group_id}/members/{user_id}/role", "Makes somebody an admin, or a member.", role)
            .open_to(AppScope::GroupsWrite),
        put("/api/v1/groups/{group_id}/members/{user_id}/mute", "Lets somebody say nothing, or something again.", mute)
            .open_to(AppScope::GroupsWrite),
        put("/api/v1/groups/{group_id}/mute", "Lets only admins say something, or everybody again.", mute_all)
            .open_to(AppScope::GroupsWrite),
        put("/api/v1/groups/{group_id}/nickname", "What one is called in a group.", nickname)
            .open_to(AppScope::GroupsWrite),
        post("/api/v1/groups/{group_id}/transfer", "Hands a group over.", transfer)
            .explained("To a member, who owns it from then on. For its owner, who is an admin afterwards.")
            .open_to(AppScope::GroupsWrite),
        post("/api/v1/groups/{group_id}/leave", "One leaves a group.", leave).open_to(AppScope::GroupsWrite),
        post("/api/v1/groups/{group_id}/requests", "One asks to be let in.", ask).open_to(AppScope::GroupsWrite),
        get("/api/v1/groups/{group_id}/requests", "Who asks to be let in.", asking).open_to(AppScope::GroupsRead),
        put("/api/v1/groups/{group_id}/requests/{user_id}", "Lets somebody in who asked.", approve)
            .explained(approve_text)
            .open_to(AppScope::GroupsWrite),
        delete("/api/v1/groups/{group_id}/requests/{user_id}", "Refuses somebody who asked.", kick)
            .open_to(AppScope::GroupsWrite),
    ]
}

/// Who may come into a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = GroupJoining)]
enum Joining {
    /// Who is invited.
    Invite,
    /// Who is invited, or asks and is let in.
    Approval,
    /// Everybody.
    Open,
}

impl From<Joining> for Door {
    fn from(joining: Joining) -> Self {
        match joining {
            Joining::Invite => Self::Invited,
            Joining::Approval => Self::Asking,
            Joining::Open => Self::Everybody,
        }
    }
}

impl From<Door> for Joining {
    fn from(door: Door) -> Self {
        match door {
            Door::Invited => Self::Invite,
            Door::Asking => Self::Approval,
            Door::Everybody => Self::Open,
        }
    }
}

/// A group as the caller has it.
#[derive(Serialize, ToSchema)]
struct Group {
    #[serde(flatten)]
    conversation: ConversationView,
    /// The same as `conversation_id`.
    group_id: String,
    /// What one is in it: `owner`, `admin` or `member`.
    role: &'static str,
    /// Who may come in.
    joining: Joining,
    /// What is announced to its members: the room's topic.
    announcement: Option<String>,
    /// Only admins may say something.
    muted_all: bool,
    /// It is no more.
    dissolved: bool,
}

async fn told(services: &Services, session: &Session, room: &Arc<LiveRoom>) -> Answer<Group> {
    let conversation = shown(services, session, &room.room_id).await?;
    let order = services.rooms.order(room, &session.user_id).await?;
    Ok(Group {
        group_id: room.room_id.to_string(),
        announcement: conversation.topic.clone(),
        conversation,
        role: order.role.as_str(),
        joining: order.door.into(),
        muted_all: order.is_muted,
        dissolved: order.is_dissolved,
    })
}

/// A group to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewGroup {
    /// What it is called.
    name: String,
    /// What is announced to its members.
    #[serde(default)]
    announcement: Option<String>,
    /// Who is invited, in either spelling: 200 at most.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    members: Vec<Address>,
    /// Who may come in; left out: who is invited.
    #[serde(default)]
    joining: Option<Joining>,
    /// One's own name for this request: once more with the same gives the same group.
    #[serde(default, alias = "idempotencyKey")]
    idempotency_key: Option<String>,
}

async fn create(call: Call<Session, Nothing, NewGroup>) -> Answer<Created<Group>> {
    let (services, session, new) = (&*call.services, &call.caller, call.body);
    services.limits.check_send(&session.user_id).await?;
    let invited = others_of(session, new.members)?;
    check_known(services, &invited).await?;
    let mut group = group(services, session, Some(new.name), new.announcement, invited);
    if let Some(joining) = new.joining {
        let rule = json!({ "join_rule": match joining {
            Joining::Invite => "invite",
            Joining::Approval => "knock",
            Joining::Open => "public",
        }});
        let rule = serde_json::value::to_raw_value(&rule).expect("an object is JSON");
        group.initial_state.push(("m.room.join_rules".into(), String::new(), rule));
    }
    let room_id = make(services, session, group, named_by(&call.headers, new.idempotency_key)).await?;
    let room = services.rooms.get(&room_id).await?;
    Ok(Created(told(services, session, &room).await?))
}

/// The group that the path names.
async fn room_of<Q, B>(call: &Call<Session, Q, B>) -> Result<Arc<LiveRoom>, Problem> {
    let room_id: OwnedRoomId = call.argument("group_id")?;
    Ok(call.services.rooms.get(&room_id).await?)
}

async fn one(call: Call<Session>) -> Answer<Group> {
    told(&call.services, &call.caller, &room_of(&call).await?).await
}

/// What is to change; what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GroupChange {
    /// What it is called.
    name: Option<String>,
    /// What is announced to its members; empty: nothing.
    announcement: Option<String>,
    /// Its picture, an `mxc://` URI.
    avatar_url: Option<String>,
    /// Who may come in.
    joining: Option<Joining>,
}

async fn change(call: Call<Session, Nothing, GroupChange>) -> Answer<Group> {
    let room = room_of(&call).await?;
    let (rooms, user_id) = (&call.services.rooms, &call.caller.user_id);
    call.services.limits.check_send(user_id).await?;
    let text = |text: &String| json!({ "topic": text, "m.topic": { "m.text": [{ "body": text }] } });
    let changes: [(TimelineEventType, Option<Value>); 3] = [
        (TimelineEventType::RoomName, call.body.name.as_ref().map(|name| json!({ "name": name }))),
        (TimelineEventType::RoomTopic, call.body.announcement.as_ref().map(text)),
        (TimelineEventType::RoomAvatar, call.body.avatar_url.as_ref().map(|url| json!({ "url": url }))),
    ];
    for (kind, content) in changes {
        if let Some(content) = content {
            rooms.describe_group(&room, user_id, kind, &content).await?;
        }
    }
    if let Some(joining) = call.body.joining {
        rooms.set_door(&room, user_id, joining.into()).await?;
    }
    told(&call.services, &call.caller, &room).await
}

async fn dissolve(call: Call<Session>) -> Answer<Nothing> {
    let room = room_of(&call).await?;
    call.services.rooms.dissolve(&room, &call.caller.user_id).await?;
    Ok(Nothing)
}

async fn members(call: Call<Session, MembersPage>) -> Answer<MemberList> {
    let room_id: OwnedRoomId = call.argument("group_id")?;
    members_of(&call.services, &call.caller, &room_id, call.query).await
}

/// Whom to invite.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GroupInvitations)]
struct People {
    /// In either spelling: 200 at most.
    #[schema(value_type = Vec<String>)]
    members: Vec<Address>,
}

/// What became of each.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupInvited)]
struct Invited {
    /// In the order of the request.
    results: Vec<InvitedOne>,
}

/// What became of one.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupInvitedOne)]
struct InvitedOne {
    #[serde(flatten)]
    person: Person,
    /// Invited, now or before, or in the group.
    invited: bool,
    /// What programs may rely on, if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

async fn invite(call: Call<Session, Nothing, People>) -> Answer<Invited> {
    let room = room_of(&call).await?;
    let people: Vec<OwnedUserId> = call.body.members.iter().map(|member| member.user_id().to_owned()).collect();
    check_count(&people)?;
    call.services.rooms.check_joined(&room, &call.caller.user_id).await?;
    let mut results = Vec::with_capacity(people.len());
    for user_id in people {
        call.services.limits.check_send(&call.caller.user_id).await?;
        let problem = invite_one(&call.services, &call.caller, &room, &user_id).await.err();
        results.push(InvitedOne {
            person: Person::from(&*user_id),
            invited: problem.is_none(),
            code: problem.as_ref().map(|problem| problem.code().to_owned()),
            detail: problem.as_ref().map(|problem| problem.detail().to_owned()),
        });
    }
    Ok(Invited { results })
}

async fn invite_one(
    services: &Services,
    session: &Session,
    room: &Arc<LiveRoom>,
    user_id: &OwnedUserId,
) -> Result<(), Problem> {
    let known = services.rooms.membership(room, user_id).await?;
    if matches!(known, Some(MembershipState::Join | MembershipState::Invite)) {
        return Ok(());
    }
    check_known(services, std::slice::from_ref(user_id)).await?;
    let target = Target { sender: session.user_id.clone(), user_id: user_id.clone(), reason: None, is_direct: None };
    Ok(services.rooms.change_membership(room, MembershipChange::Invite, target).await?)
}

async fn send(call: Call<Session, Nothing, NewMessage>) -> Answer<Created<Message>> {
    let room_id: OwnedRoomId = call.argument("group_id")?;
    say(&call.services, &call.caller, call.body.into_conversation(room_id)).await.map(Created)
}

/// The user that the path names.
fn user_of<Q, B>(call: &Call<Session, Q, B>) -> Result<OwnedUserId, Problem> {
    Ok(call.argument::<Address>("user_id")?.into_user_id())
}

async fn kick(call: Call<Session>) -> Answer<Nothing> {
    let (room, user_id) = (room_of(&call).await?, user_of(&call)?);
    let target = Target { sender: call.caller.user_id.clone(), user_id, reason: None, is_direct: None };
    call.services.rooms.change_membership(&room, MembershipChange::Kick, target).await?;
    Ok(Nothing)
}

/// What somebody is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GroupNewRole)]
struct NewRole {
    role: RoleName,
}

/// What somebody can be made.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = GroupRole)]
enum RoleName {
    /// Moderates the group.
    Admin,
    /// Is in it.
    Member,
}

async fn role(call: Call<Session, Nothing, NewRole>) -> Answer<Nothing> {
    let (room, user_id) = (room_of(&call).await?, user_of(&call)?);
    let role = match call.body.role {
        RoleName::Admin => Role::Admin,
        RoleName::Member => Role::Member,
    };
    call.services.rooms.set_role(&room, &call.caller.user_id, &user_id, role).await?;
    Ok(Nothing)
}

/// Whether nothing may be said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GroupMuting)]
struct Muted {
    muted: bool,
}

async fn mute(call: Call<Session, Nothing, Muted>) -> Answer<Nothing> {
    let (room, user_id) = (room_of(&call).await?, user_of(&call)?);
    call.services.rooms.mute_member(&room, &call.caller.user_id, &user_id, call.body.muted).await?;
    Ok(Nothing)
}

async fn mute_all(call: Call<Session, Nothing, Muted>) -> Answer<Nothing> {
    let room = room_of(&call).await?;
    call.services.rooms.mute_all(&room, &call.caller.user_id, call.body.muted).await?;
    Ok(Nothing)
}

/// What one is to be called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GroupNickname)]
struct Nickname {
    /// In this group alone; null: as everywhere.
    nickname: Option<String>,
}

async fn nickname(call: Call<Session, Nothing, Nickname>) -> Answer<Nothing> {
    let room = room_of(&call).await?;
    call.services.rooms.set_nickname(&room, &call.caller.user_id, call.body.nickname.as_deref()).await?;
    Ok(Nothing)
}

/// Whose a group is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GroupTransfer)]
struct Transfer {
    /// In either spelling.
    #[schema(value_type = String)]
    to: Address,
}

async fn transfer(call: Call<Session, Nothing, Transfer>) -> Answer<Group> {
    let room = room_of(&call).await?;
    call.services.rooms.hand_over(&room, &call.caller.user_id, call.body.to.user_id()).await?;
    told(&call.services, &call.caller, &room).await
}

async fn leave(call: Call<Session>) -> Answer<Nothing> {
    let room = room_of(&call).await?;
    let user_id = call.caller.user_id.clone();
    let target = Target { sender: user_id.clone(), user_id, reason: None, is_direct: None };
    call.services.rooms.change_membership(&room, MembershipChange::Leave, target).await?;
    Ok(Nothing)
}

/// Why one wants in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GroupJoinWish)]
struct Asked {
    /// Who may let one in reads it.
    #[serde(default)]
    reason: Option<String>,
}

async fn ask(call: Call<Session, Nothing, Asked>) -> Answer<Nothing> {
    let room_id: OwnedRoomId = call.argument("group_id")?;
    call.services.limits.check_join(&call.caller.user_id).await?;
    call.services.rooms.knock(&room_id, &call.caller.user_id, &[], call.body.reason).await?;
    Ok(Nothing)
}

/// Who asks to be let in.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupJoinRequests)]
struct Requests {
    /// By user id.
    requests: Vec<JoinRequest>,
}

/// Somebody who asks to be let in.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupJoinRequest)]
struct JoinRequest {
    #[serde(flatten)]
    person: Person,
    /// What the person is called.
    display_name: Option<String>,
    /// Why.
    reason: Option<String>,
    /// When, milliseconds since 1970.
    asked_at: i64,
}

async fn asking(call: Call<Session>) -> Answer<Requests> {
    let room = room_of(&call).await?;
    call.services.rooms.check_joined(&room, &call.caller.user_id).await?;
    let sight = call.services.rooms.sight(&room, &call.caller.user_id).await?;
    let mut requests: Vec<JoinRequest> = Vec::new();
    for event in call.services.rooms.members(&room, &sight, None).await? {
        let content: Value = event.pdu.content_as().unwrap_or_default();
        let Some(Ok(user_id)) = event.pdu.state_key.as_deref().map(ruma::UserId::parse) else { continue };
        if content["membership"] == "knock" {
            requests.push(JoinRequest {
                person: Person::from(&*user_id),
                display_name: content["displayname"].as_str().map(str::to_owned),
                reason: content["reason"].as_str().map(str::to_owned),
                asked_at: event.pdu.origin_server_ts.get().into(),
            });
        }
    }
    requests.sort_by(|one, other| one.person.user_id.cmp(&other.person.user_id));
    Ok(Requests { requests })
}

async fn approve(call: Call<Session>) -> Answer<Nothing> {
    let (room, user_id) = (room_of(&call).await?, user_of(&call)?);
    let rooms = &call.services.rooms;
    if rooms.membership(&room, &user_id).await? != Some(MembershipState::Knock) {
        let text = format!("{} has not asked to be let in", Address::from(&*user_id));
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_such_request", text));
    }
    let target =
        Target { sender: call.caller.user_id.clone(), user_id: user_id.clone(), reason: None, is_direct: None };
    rooms.change_membership(&room, MembershipChange::Invite, target).await?;
    if call.services.users.is_ours(&user_id) {
        match rooms.join(&room.room_id, &user_id, &[], None).await {
            // Gone elsewhere meanwhile, or kept out: the invitation stands.
            Err(error) if error.kind() != model::Kind::Forbidden => return Err(error.into()),
            _ => {}
        }
    }
    Ok(Nothing)
}

#[cfg(test)]
mod tests;
