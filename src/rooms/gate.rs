//! Asking before something is done, where somebody wants to be asked.
//!
//! What a user is refused anyhow nobody is asked about, as far as that is known at once. Everything here is before the room's turn,
//! so however long an answer takes, only whoever acts waits for it.

use model::gate::{Act, EventWords, GateError, Leave, MayBecome, Proposal};
use ruma::{
    CanonicalJsonObject, OwnedUserId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue, value::to_raw_value};

use crate::{NewRoom, RoomError, Rooms, Sent, Wish, live::SharedRoom, membership::Target, send::check_state_content};

/// A content that stands where another was proposed has at most so many bytes: with it, an event is not too large.
const LARGEST_CONTENT: usize = 60 * 1024;

/// What comes of asking about an event.
pub(crate) enum Asked {
    /// It was sent by an earlier request.
    SentBefore(Sent),
    /// It may be sent so.
    Leave(Leave),
}

#[derive(Deserialize)]
struct MemberContent {
    membership: MembershipState,
}

impl Rooms {
    /// Asks before an event is sent. `is_approved`: a moderator has let it through.
    pub(crate) async fn ask_to_send(
        &self,
        room: &SharedRoom,
        wish: &Wish,
        is_approved: bool,
    ) -> Result<Asked, RoomError> {
        let free = Asked::Leave(Leave::default());
        let Some(act) = self.act_of(room, wish).await? else { return Ok(free) };
        let Some(gate) = self.shared.gate.on(act, &wish.sender) else { return Ok(free) };
        if let Some(transaction) = &wish.transaction
            && let Some(sent) = self.sent_before(transaction).await?
        {
            return Ok(Asked::SentBefore(sent));
        }
        if act == Act::Join {
            self.ask_to_join(&room.room_id, Some(room), &wish.sender, None).await?;
            return Ok(free);
        }
        // The room's rules will say the same; but nobody may get past by coming in meanwhile.
        self.check_joined(room, &wish.sender).await?;
        if act == Act::Invite {
            let invited = wish.state_key.as_deref().into_iter().collect::<Vec<_>>();
            self.propose_invitation(Some(&room.room_id), &wish.sender, &invited, None).await?;
            return Ok(free);
        }
        let kind = wish.kind.to_string();
        let event = EventWords { kind: &kind, state_key: wish.state_key.as_deref(), redacts: wish.redacts.as_deref() };
        let check = |content: &RawValue| may_be_sent(wish, content);
        let proposal = Proposal {
            act,
            sender: &wish.sender,
            room_id: Some(&room.room_id),
            event: Some(event),
            content: &wish.content,
            may_become: can_change(&wish.kind).then_some(&check as &MayBecome<'_>),
            is_approved,
        };
        match gate.ask(proposal).await {
            Ok(leave) => Ok(Asked::Leave(leave)),
            Err(GateError::Held(why)) => Err(self.hold(room, wish, why).await?.into()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// What sending an event is: memberships can be written as state, too.
    async fn act_of(&self, room: &SharedRoom, wish: &Wish) -> Result<Option<Act>, RoomError> {
        if wish.kind != TimelineEventType::RoomMember || wish.state_key.is_none() {
            return Ok(Some(Act::Send));
        }
        let content: Option<MemberContent> = serde_json::from_str(wish.content.get()).ok();
        Ok(match content.map(|content| content.membership) {
            Some(MembershipState::Invite) => Some(Act::Invite),
            Some(MembershipState::Join)
                if self.membership(room, &wish.sender).await? == Some(MembershipState::Join) =>
            {
                Some(Act::Send)
            }
            Some(MembershipState::Join) => Some(Act::Join),
            _ => None,
        })
    }

    /// Asks before a user comes into a room. `room`: if it is known here.
    pub(crate) async fn ask_to_join(
        &self,
        room_id: &RoomId,
        room: Option<&SharedRoom>,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let Some(gate) = self.shared.gate.on(Act::Join, user_id) else { return Ok(()) };
        if let Some(room) = room
            && self.is_resident(room).await?
            && self.membership(room, user_id).await? == Some(MembershipState::Join)
        {
            return Ok(());
        }
        // The server itself brings its users into the rooms of its notices.
        if self.shared.store.notices().is_notices_room(room_id).await? {
            return Ok(());
        }
        #[derive(Serialize)]
        struct Content<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }
        let content = written(&Content { reason });
        gate.ask(plain(Act::Join, user_id, Some(room_id), &content)).await?;
        Ok(())
    }

    /// Asks before somebody is asked in.
    pub(crate) async fn ask_to_invite(&self, room: &SharedRoom, target: &Target) -> Result<(), RoomError> {
        if self.shared.gate.on(Act::Invite, &target.sender).is_none() {
            return Ok(());
        }
        self.check_joined(room, &target.sender).await?;
        let invited = [target.user_id.as_str()];
        self.propose_invitation(Some(&room.room_id), &target.sender, &invited, target.reason.as_deref()).await
    }

    /// Asks before a room is made, and then about those who are invited into it, all at once.
    pub(crate) async fn ask_to_create(&self, new: &NewRoom) -> Result<(), RoomError> {
        if let Some(gate) = self.shared.gate.on(Act::CreateRoom, &new.creator) {
            let content = written(&described(new));
            gate.ask(plain(Act::CreateRoom, &new.creator, None, &content)).await?;
        }
        let invited = all_invited(new);
        if invited.is_empty() {
            return Ok(());
        }
        self.propose_invitation(None, &new.creator, &invited, None).await
    }

    async fn propose_invitation(
        &self,
        room_id: Option<&RoomId>,
        sender: &OwnedUserId,
        invited: &[&str],
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        #[derive(Serialize)]
        struct Content<'a> {
            invited: &'a [&'a str],
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }
        let Some(gate) = self.shared.gate.on(Act::Invite, sender) else { return Ok(()) };
        let content = written(&Content { invited, reason });
        gate.ask(plain(Act::Invite, sender, room_id, &content)).await?;
        Ok(())
    }
}

/// What is done as it is proposed, or not at all.
fn plain<'a>(act: Act, sender: &'a UserId, room_id: Option<&'a RoomId>, content: &'a RawValue) -> Proposal<'a> {
    Proposal { act, sender, room_id, event: None, content, may_become: None, is_approved: false }
}

/// Nobody can say something else in place of what is encrypted; and what an event does to memberships, and to other events, is its
/// sender's to say.
fn can_change(kind: &TimelineEventType) -> bool {
    !matches!(kind, TimelineEventType::RoomEncrypted | TimelineEventType::RoomMember | TimelineEventType::RoomRedaction)
}

/// Whether `content` could be sent in place of that of `wish`.
fn may_be_sent(wish: &Wish, content: &RawValue) -> Result<(), &'static str> {
    if content.get().len() > LARGEST_CONTENT {
        return Err("it is larger than 60 KiB");
    }
    if serde_json::from_str::<CanonicalJsonObject>(content.get()).is_err() {
        return Err("it is no JSON object whose numbers are whole");
    }
    match wish.state_key {
        Some(_) if check_state_content(&wish.kind, content).is_err() => {
            Err("a state event of this type holds other things")
        }
        _ => Ok(()),
    }
}

fn described(new: &NewRoom) -> Value {
    let initial_state = new.initial_state.iter();
    let initial_state: Vec<_> = initial_state
        .map(|(kind, key, content)| {
            let content: Value = serde_json::from_str(content.get()).unwrap_or_default();
            json!({ "type": kind, "state_key": key, "content": content })
        })
        .collect();
    json!({
        "room_version": new.version,
        "preset": new.preset.as_str(),
        "name": new.name,
        "topic": new.topic,
        "alias": new.alias,
        "invited": all_invited(new),
        "is_direct": new.is_direct,
        "is_listed": new.is_listed,
        "creation_content": new.creation_content,
        "initial_state": initial_state,
        "power_levels": new.power_levels,
    })
}

/// Everybody who is invited into a room that is being made, however that is said.
fn all_invited(new: &NewRoom) -> Vec<&str> {
    let is_invitation = |content: &RawValue| {
        serde_json::from_str(content.get())
            .is_ok_and(|content: MemberContent| content.membership == MembershipState::Invite)
    };
    let by_state =
        new.initial_state.iter().filter(|(kind, _, content)| kind == "m.room.member" && is_invitation(content));
    new.invite.iter().map(|user_id| user_id.as_str()).chain(by_state.map(|(_, key, _)| key.as_str())).collect()
}

fn written(content: &impl Serialize) -> Box<RawValue> {
    to_raw_value(content).expect("texts and JSON can be written as JSON")
}
