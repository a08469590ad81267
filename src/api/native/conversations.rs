//! Conversations: the rooms that somebody is in, as an instant messenger shows them.

mod view;

use model::{Address, Millis, Position, Refusal as _};
use rooms::{MembershipChange, NewRoom, Role, RoomError, Target, Transaction};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, api::client::room::create_room::v3::RoomPreset,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use sync::{ConversationsWanted, Mark};
use users::applications::AppScope;
use utoipa::{IntoParams, ToSchema};

use super::{Answer, Call, Created, Endpoint, Nothing, delete, get, message::Person, patch, post};
use crate::{Problem, Services, Session};

pub(super) use view::{ConversationView, Kind};

/// How many items a page has that doesn't say,
pub(super) const USUAL: usize = 50;
/// and at most.
pub(super) const MOST: usize = 200;
/// With how many others somebody may begin a conversation at once.
const MOST_INVITED: usize = 200;

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let list_text = "The latest first, by when something was said in them. `state=invited`: those to which one is invited. \
        `unread_count` and `mention_count` are what Matrix clients show: what one's push rules notify of.";
    let create_text = "`direct`: the conversation with one other, in either spelling; there is one, whoever asks for it, and an \
        invitation to it is accepted by this. `group`: a new one. With `idempotency_key`, or the header \
        `Idempotency-Key`, asking again gives the same group. \
        Members of other servers who can't be invited are in `not_invited`.";
    let settings_text = "What is left out stays as it is. They are the user's own, the same for all devices and for Matrix \
        clients: the tag `m.favourite`, a push rule for the room, and account data.";
    let read_text = "Up to a message or a number, everything before it included; what was read never becomes unread.";
    vec![
        get("/api/v1/conversations", "One's conversations.", list)
            .explained(list_text)
            .open_to(AppScope::ConversationsRead),
        post("/api/v1/conversations", "Begins a conversation.", create)
            .explained(create_text)
            .open_to(AppScope::ConversationsWrite),
        get("/api/v1/conversations/{conversation_id}", "One conversation.", one).open_to(AppScope::ConversationsRead),
        get("/api/v1/conversations/{conversation_id}/members", "Who is in a conversation.", members)
            .open_to(AppScope::ConversationsRead),
        patch("/api/v1/conversations/{conversation_id}/settings", "How one wants to have it.", settings)
            .explained(settings_text)
            .open_to(AppScope::ConversationsWrite),
        post("/api/v1/conversations/{conversation_id}/typing", "One types, or no longer does.", typing)
            .open_to(AppScope::ConversationsWrite),
        post("/api/v1/conversations/{conversation_id}/read", "One has read it.", read)
            .explained(read_text)
            .open_to(AppScope::ConversationsWrite),
        post("/api/v1/conversations/{conversation_id}/join", "One accepts an invitation, or joins.", join)
            .open_to(AppScope::ConversationsWrite),
        post("/api/v1/conversations/{conversation_id}/leave", "One leaves, or declines an invitation.", leave)
            .open_to(AppScope::ConversationsWrite),
        delete(
            "/api/v1/conversations/{conversation_id}/history",
            "One wants to see nothing of it that was said so far.",
            clear,
        )
        .explained("For oneself only: what is cleared stays in the conversation, and others see it as before.")
        .open_to(AppScope::ConversationsWrite),
    ]
}

/// Which conversations one asks for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listed {
    /// How many at most: 50 if left out, 200 at most.
    #[serde(default)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
    /// `joined` (if left out) or `invited`.
    #[serde(default)]
    #[param(inline)]
    state: Standing,
    /// Only those that are pinned.
    #[serde(default)]
    pinned: bool,
    /// Only those in which something is unread.
    #[serde(default)]
    unread: bool,
}

/// What one is to a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ConversationStanding)]
pub(super) enum Standing {
    /// One is in it.
    #[default]
    Joined,
    /// One is invited to it.
    Invited,
}

/// A page of conversations.
#[derive(Serialize, ToSchema)]
struct ConversationList {
    /// The conversations, the latest first.
    conversations: Vec<ConversationView>,
    /// Where the next page begins; left out: there is nothing more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

async fn list(call: Call<Session, Listed>) -> Answer<ConversationList> {
    let Listed { limit, cursor, state, pinned, unread } = call.query;
    let before = cursor.map(|cursor| {
        let position = cursor.strip_prefix('c').and_then(|position| position.parse().ok());
        position
            .map(Position)
            .ok_or_else(|| Problem::invalid("`cursor` is the `next` of a page").with("field", "cursor"))
    });
    let wanted = ConversationsWanted {
        membership: if state == Standing::Joined { MembershipState::Join } else { MembershipState::Invite },
        before: before.transpose()?,
        limit: limit.unwrap_or(USUAL).clamp(1, MOST),
        only_pinned: pinned,
        only_unread: unread,
    };
    let (services, session) = (&call.services, &call.caller);
    let page = services.sync.conversations(&session.user_id, session.device_id.as_str(), &wanted).await?;
    let us = services.rooms.server_name();
    let conversations = page.conversations.into_iter().map(|one| ConversationView::of(one, us)).collect();
    Ok(ConversationList { conversations, next: page.next.map(|position| format!("c{position}")) })
}

/// A conversation to begin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewConversation {
    /// With one other, or with any number.
    #[serde(rename = "type", alias = "kind")]
    kind: Kind,
    /// What a group is called.
    #[serde(default)]
    name: Option<String>,
    /// What a group is about.
    #[serde(default)]
    topic: Option<String>,
    /// Who else is in it, in either spelling: of a direct one just one user, of a group 200 at most.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    members: Vec<Address>,
    /// One's own name for this request: once more with the same gives the same group.
    #[serde(default, alias = "idempotencyKey")]
    idempotency_key: Option<String>,
}

/// A conversation that there is now.
#[derive(Serialize, ToSchema)]
#[schema(as = ConversationBegun)]
struct Begun {
    #[serde(flatten)]
    conversation: ConversationView,
    /// Who could not be invited; they can be invited again.
    not_invited: Vec<Person>,
}

async fn create(call: Call<Session, Nothing, NewConversation>) -> Answer<Created<Begun>> {
    let (services, session, new) = (&*call.services, &call.caller, call.body);
    services.limits.check_send(&session.user_id).await?;
    let invited = others_of(session, new.members)?;
    let room_id = match new.kind {
        Kind::Direct => {
            let [other] = invited.as_slice() else {
                return Err(Problem::invalid("a direct conversation is with one other").with("field", "members"));
            };
            direct_with(services, session, other).await?
        }
        Kind::Group => {
            check_known(services, &invited).await?;
            let group = group(services, session, new.name, new.topic, invited.clone());
            make(services, session, group, named_by(&call.headers, new.idempotency_key)).await?
        }
    };
    let room = services.rooms.get(&room_id).await?;
    let mut not_invited = Vec::new();
    for user_id in &invited {
        if services.rooms.membership(&room, user_id).await?.is_none() {
            not_invited.push(Person::from(&**user_id));
        }
    }
    Ok(Created(Begun { conversation: shown(services, session, &room_id).await?, not_invited }))
}

/// Who is to be invited: each once, and not oneself.
pub(super) fn others_of(session: &Session, members: Vec<Address>) -> Result<Vec<OwnedUserId>, Problem> {
    let mut others: Vec<OwnedUserId> = members.into_iter().map(Address::into_user_id).collect();
    others.retain(|user_id| *user_id != session.user_id);
    others.sort();
    others.dedup();
    check_count(&others)?;
    Ok(others)
}

/// Refuses to invite more than may be at once.
pub(super) fn check_count(people: &[OwnedUserId]) -> Result<(), Problem> {
    match people.len() {
        0..=MOST_INVITED => Ok(()),
        _ => Err(Problem::invalid(format!("{MOST_INVITED} members at most")).with("field", "members")),
    }
}

/// Makes a group; `key`: once for what the caller calls so.
pub(super) async fn make(
    services: &Services,
    session: &Session,
    group: NewRoom,
    key: Option<String>,
) -> Result<OwnedRoomId, Problem> {
    Ok(match key {
        None => services.rooms.create(group).await?,
        Some(key) => services.rooms.create_once(group, &transaction(session, "create", &key)?).await?,
    })
}

/// The conversation with `other`, made if there is none.
pub(super) async fn direct_with(
    services: &Services,
    session: &Session,
    other: &OwnedUserId,
) -> Result<OwnedRoomId, Problem> {
    if *other == session.user_id {
        return Err(Problem::invalid("a direct conversation is with somebody else"));
    }
    check_known(services, std::slice::from_ref(other)).await?;
    Ok(services.sync.direct_room(&session.user_id, other).await?.0)
}

/// Refuses users of this server who aren't there; of others, their servers know.
pub(super) async fn check_known(services: &Services, user_ids: &[OwnedUserId]) -> Result<(), Problem> {
    for user_id in user_ids.iter().filter(|user_id| services.users.is_ours(user_id)) {
        if let Err(error) = services.users.get_account(user_id).await {
            return Err(match error.kind() {
                model::Kind::NotFound => {
                    let text = format!("there is nobody called {} here", Address::from(&**user_id));
                    Problem::new(http::StatusCode::NOT_FOUND, "unknown_user", text).with("user_id", user_id.as_str())
                }
                _ => error.into(),
            });
        }
    }
    Ok(())
}

/// A group that the caller makes.
pub(super) fn group(
    services: &Services,
    session: &Session,
    name: Option<String>,
    topic: Option<String>,
    invite: Vec<OwnedUserId>,
) -> NewRoom {
    NewRoom {
        creator: session.user_id.clone(),
        version: Some(services.rooms.version_of_groups()),
        preset: RoomPreset::PrivateChat,
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_levels: Map::new(),
        name,
        topic,
        alias: None,
        invite,
        is_direct: false,
        is_listed: false,
    }
}

/// How the client calls this request: in the body, or in the header `Idempotency-Key`.
pub(super) fn named_by(headers: &http::HeaderMap, in_body: Option<String>) -> Option<String> {
    in_body.or_else(|| Some(headers.get("idempotency-key")?.to_str().ok()?.to_owned()))
}

/// A client's name for one of its requests. `scope`: what it asks for.
pub(super) fn transaction(session: &Session, scope: &str, name: &str) -> Result<Transaction, Problem> {
    if name.is_empty() || name.len() > 255 {
        return Err(Problem::invalid("a client's own id has 1 to 255 bytes"));
    }
    Ok(Transaction {
        user_id: session.user_id.clone(),
        device_id: session.device_id.clone(),
        scope: scope.to_owned(),
        transaction_id: name.to_owned(),
    })
}

/// A conversation as the caller has it.
pub(super) async fn shown(
    services: &Services,
    session: &Session,
    room_id: &RoomId,
) -> Result<ConversationView, Problem> {
    let hidden = || Problem::not_found("there is no such conversation, or you are not in it");
    let room = services.rooms.get(room_id).await.map_err(|_| hidden())?;
    let found = services.sync.conversation(&session.user_id, session.device_id.as_str(), room.nid).await?;
    Ok(ConversationView::of(found.ok_or_else(hidden)?, services.rooms.server_name()))
}

async fn one(call: Call<Session>) -> Answer<ConversationView> {
    shown(&call.services, &call.caller, &call.argument::<OwnedRoomId>("conversation_id")?).await
}

/// Which page of the members.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MembersPage {
    /// How many at most: 50 if left out, 200 at most.
    #[serde(default)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

/// Who is in a conversation, by user id.
#[derive(Serialize, ToSchema)]
#[schema(as = ConversationMembers)]
pub(super) struct MemberList {
    members: Vec<MemberView>,
    /// Where the next page begins; left out: there is nothing more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A member of a conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = ConversationMember)]
struct MemberView {
    #[serde(flatten)]
    person: Person,
    /// What the member is called there.
    display_name: Option<String>,
    /// The member's picture there.
    avatar_url: Option<String>,
    /// Whether the member is in it, or only invited.
    state: Standing,
    /// `owner`, `admin` or `member`.
    role: &'static str,
    /// The member may say nothing.
    muted: bool,
}

async fn members(call: Call<Session, MembersPage>) -> Answer<MemberList> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    members_of(&call.services, &call.caller, &room_id, call.query).await
}

/// Who is in a conversation, as the caller sees it.
pub(super) async fn members_of(
    services: &Services,
    session: &Session,
    room_id: &RoomId,
    page: MembersPage,
) -> Answer<MemberList> {
    let rooms = &services.rooms;
    let room = rooms.get(room_id).await?;
    let sight = rooms.sight(&room, &session.user_id).await?;
    let limit = page.limit.unwrap_or(USUAL).clamp(1, MOST);
    let mut people = rooms.people(&room, &sight).await?;
    if let Some(after) = &page.cursor {
        people.retain(|member| member.user_id.as_str() > after.as_str());
    }
    let is_more = people.len() > limit;
    people.truncate(limit);
    let next = people.last().filter(|_| is_more).map(|last| last.user_id.to_string());
    let members = people.into_iter().map(|member| MemberView {
        person: Person::from(&*member.user_id),
        display_name: member.display_name,
        avatar_url: member.avatar_url,
        state: if member.membership == MembershipState::Join { Standing::Joined } else { Standing::Invited },
        role: Role::as_str(member.role),
        muted: member.is_muted,
    });
    Ok(MemberList { members: members.collect(), next })
}

/// How one wants to have a conversation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationSettings)]
struct NewSettings {
    /// It stays at the top.
    pinned: Option<bool>,
    /// Nothing in it notifies.
    muted: Option<bool>,
    /// What one has begun to write; empty: nothing.
    draft: Option<String>,
}

async fn settings(call: Call<Session, Nothing, NewSettings>) -> Answer<ConversationView> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    let (services, user_id) = (&call.services, &call.caller.user_id);
    let room = services.rooms.get(&room_id).await?;
    services.rooms.check_joined(&room, user_id).await?;
    if let Some(is_pinned) = call.body.pinned {
        services.sync.pin(user_id, &room_id, is_pinned).await?;
    }
    if let Some(is_muted) = call.body.muted {
        services.sync.mute(user_id, &room_id, is_muted).await?;
    }
    if let Some(draft) = &call.body.draft {
        services.sync.keep_draft(user_id, &room_id, draft).await?;
    }
    shown(services, &call.caller, &room_id).await
}

/// Whether one types.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationTyping)]
struct Typing {
    /// One does; left out: true.
    #[serde(default = "yes")]
    typing: bool,
    /// For how long, milliseconds: 30000 if left out, 120000 at most.
    #[serde(default)]
    timeout_ms: Option<u32>,
}

fn yes() -> bool {
    true
}

async fn typing(call: Call<Session, Nothing, Typing>) -> Answer<Nothing> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    let (services, user_id) = (&call.services, &call.caller.user_id);
    let room = services.rooms.get(&room_id).await?;
    services.rooms.check_joined(&room, user_id).await?;
    // Zero stands for the usual time.
    let timeout = call.body.typing.then(|| call.body.timeout_ms.map_or(0, Millis::from));
    services.sync.set_typing(&room, user_id, timeout).await?;
    Ok(Nothing)
}

/// How far one has read.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationRead)]
pub(super) struct ReadUpTo {
    /// Up to this message,
    #[serde(default, alias = "upTo", alias = "message_id", alias = "messageId")]
    pub(super) up_to: Option<String>,
    /// or up to this number; with neither, everything.
    #[serde(default)]
    pub(super) seq: Option<u32>,
    /// The others aren't told.
    #[serde(default)]
    pub(super) private: bool,
}

/// How it stands with what one has read.
#[derive(Serialize, ToSchema)]
#[schema(as = ConversationReadState)]
pub(super) struct ReadState {
    /// Which conversation.
    conversation_id: String,
    /// The number of the last message that one has read; null: none that has one.
    read_seq: Option<i64>,
    /// The number of the latest one.
    last_seq: i64,
    /// What of it would have been notified of.
    unread_count: u64,
    /// What of it mentions one.
    mention_count: u64,
}

async fn read(call: Call<Session, Nothing, ReadUpTo>) -> Answer<ReadState> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    let mark = if call.body.private { Mark::Private } else { Mark::Public };
    mark_read(&call.services, &call.caller, &room_id, &call.body, mark).await
}

/// Notes that the caller has read a conversation.
pub(super) async fn mark_read(
    services: &Services,
    session: &Session,
    room_id: &RoomId,
    upto: &ReadUpTo,
    mark: Mark,
) -> Result<ReadState, Problem> {
    let (rooms, user_id) = (&services.rooms, &session.user_id);
    let room = rooms.get(room_id).await?;
    rooms.check_joined(&room, user_id).await?;
    let event = match (&upto.up_to, upto.seq) {
        (Some(id), _) => {
            let mut sight = rooms.sight(&room, user_id).await?;
            Some(rooms.find_event(&mut sight, &super::messages::event_id(id)?).await?)
        }
        (None, seq) => rooms.numbered(&room, seq.map_or(i64::MAX, i64::from)).await?,
    };
    if let Some(event) = event {
        services.sync.mark_read(&room, user_id, &event, mark).await?;
    }
    let now = shown(services, session, room_id).await?;
    Ok(ReadState {
        conversation_id: room_id.to_string(),
        read_seq: now.read_seq,
        last_seq: now.last_seq,
        unread_count: now.unread_count,
        mention_count: now.mention_count,
    })
}

async fn join(call: Call<Session>) -> Answer<ConversationView> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    call.services.limits.check_join(&call.caller.user_id).await?;
    call.services.sync.accept(&call.caller.user_id, &room_id).await?;
    shown(&call.services, &call.caller, &room_id).await
}

async fn leave(call: Call<Session>) -> Answer<Nothing> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    let user_id = call.caller.user_id.clone();
    let room = call.services.rooms.get(&room_id).await?;
    let target = Target { sender: user_id.clone(), user_id, reason: None, is_direct: None };
    match call.services.rooms.change_membership(&room, MembershipChange::Leave, target).await {
        Ok(()) | Err(RoomError::NotJoined) => Ok(Nothing),
        Err(error) => Err(error.into()),
    }
}

async fn clear(call: Call<Session>) -> Answer<Nothing> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    let (services, user_id) = (&call.services, &call.caller.user_id);
    let room = services.rooms.get(&room_id).await?;
    services.rooms.check_joined(&room, user_id).await?;
    let upto = services.rooms.view(&room).await?.seq;
    services.sync.clear(user_id, &room_id, upto).await?;
    Ok(Nothing)
}

#[cfg(test)]
mod tests;
