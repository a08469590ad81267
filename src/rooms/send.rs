//! A local wish becomes an event.

use model::Draft;
use ruma::{
    OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId,
    events::{AnyStateEventContent, RawExt as _, StateEventType, TimelineEventType, room::member::MembershipState},
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{RoomError, Rooms, Transaction, gate::Asked, live::SharedRoom, now};

/// What a local user wants to say in a room.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Who.
    pub sender: OwnedUserId,
    /// `m.room.message` …
    pub kind: TimelineEventType,
    /// An object.
    pub content: Box<RawValue>,
    /// Set: a state event.
    pub state_key: Option<String>,
    /// For a redaction: what it redacts.
    pub redacts: Option<OwnedEventId>,
    /// What the client calls this request.
    pub transaction: Option<Transaction>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The event, new or of an earlier request with the same transaction id.
    pub event_id: OwnedEventId,
}

impl Rooms {
    /// Sends an event into a room, and answers when it is durable.
    ///
    /// The same transaction id gives the same event again. A state event that says what holds already is not repeated.
    pub async fn send(&self, room: &SharedRoom, wish: Wish) -> Result<Sent, RoomError> {
        self.send_once(room, wish, false).await
    }

    /// As [`Self::send`]. `is_approved`: a moderator has let it through.
    pub(crate) async fn send_once(&self, room: &SharedRoom, wish: Wish, is_approved: bool) -> Result<Sent, RoomError> {
        let transaction = wish.transaction.clone();
        if let Some(transaction) = &transaction
            && let Some(event_id) = self.shared.sent.get(transaction)
        {
            return Ok(Sent { event_id });
        }
        // That a transaction id is new is the rule, so it isn't looked up first: the store refuses to take one twice.
        match (self.send_new(room, wish, is_approved).await, transaction) {
            (Ok(sent), Some(transaction)) => {
                self.shared.sent.insert(transaction, sent.event_id.clone());
                Ok(sent)
            }
            // Whatever is wrong now, what was done before gets the same answer as before.
            (Err(error), Some(transaction)) => self.sent_before(&transaction).await?.ok_or(match error {
                RoomError::Store(store::Error::Duplicate) => RoomError::Busy,
                error => error,
            }),
            (answer, None) => answer,
        }
    }

    async fn send_new(&self, room: &SharedRoom, mut wish: Wish, is_approved: bool) -> Result<Sent, RoomError> {
        self.check_content(room, &wish).await?;
        if let Some(sent) = self.holds_already(room, &wish).await? {
            return Ok(sent);
        }
        let leave = match self.ask_to_send(room, &wish, is_approved).await? {
            Asked::SentBefore(sent) => return Ok(sent),
            Asked::Leave(leave) => leave,
        };
        if let Some(content) = leave.content {
            wish.content = content;
            self.check_content(room, &wish).await?;
            if let Some(sent) = self.holds_already(room, &wish).await? {
                return Ok(sent);
            }
        }
        let sender = leave.mark.is_some().then(|| wish.sender.clone());
        let sent = self.send_asked(room, wish).await?;
        if let (Some(mark), Some(sender)) = (leave.mark, sender) {
            self.report_marked(&room.room_id, &sent.event_id, &sender, mark).await;
        }
        Ok(sent)
    }

    /// Sends what may be sent.
    async fn send_asked(&self, room: &SharedRoom, wish: Wish) -> Result<Sent, RoomError> {
        let invited = self.remote_invited(&wish);
        let draft = Draft {
            sender: wish.sender,
            kind: wish.kind,
            content: wish.content,
            state_key: wish.state_key,
            redacts: wish.redacts,
            origin_server_ts: now(),
        };
        if let Some(user_id) = invited {
            return self.invite_remote(room, draft, &user_id).await.map(|event_id| Sent { event_id });
        }
        if let Some(policy) = self.policy_of(room).await?.filter(|_| draft.kind != TimelineEventType::RoomPolicy) {
            return self.send_approved(room, &policy, draft).await.map(|event_id| Sent { event_id });
        }
        let events = self.append(room, &[draft], wish.transaction.as_ref(), &|_| ()).await?;
        let event = events.last().expect("one draft makes one event");
        Ok(Sent { event_id: event.pdu.event_id.clone() })
    }

    /// The user of another server whom the event invites: that server has to sign it.
    fn remote_invited(&self, wish: &Wish) -> Option<OwnedUserId> {
        #[derive(serde::Deserialize)]
        struct Content {
            membership: MembershipState,
        }
        let user_id = OwnedUserId::try_from(wish.state_key.as_deref()?).ok()?;
        let content: Content = serde_json::from_str(wish.content.get()).ok()?;
        let is_invite = wish.kind == TimelineEventType::RoomMember && content.membership == MembershipState::Invite;
        (is_invite && user_id.server_name() != self.server_name()).then_some(user_id)
    }

    pub(crate) async fn sent_before(&self, transaction: &Transaction) -> Result<Option<Sent>, RoomError> {
        let answer = self.shared.store.events().transaction(&transaction.as_stored()).await?;
        let Some(answer) = answer else { return Ok(None) };
        let event_id = OwnedEventId::try_from(answer)
            .map_err(|error| store::Error::Corrupt(format!("transactions.answer: {error}")))?;
        Ok(Some(Sent { event_id }))
    }

    /// What the authorisation rules leave to the server: contents of well-known types, and who may redact what.
    async fn check_content(&self, room: &SharedRoom, wish: &Wish) -> Result<(), RoomError> {
        let is_object = wish.content.get().trim_start().starts_with('{');
        if !is_object {
            return Err(RoomError::BadContent("content must be an object".into()));
        }
        if wish.kind == TimelineEventType::RoomCreate {
            return Err(RoomError::Forbidden("a room has one m.room.create event, and this room has it".into()));
        }
        if wish.state_key.is_some() {
            check_state_content(&wish.kind, &wish.content).map_err(RoomError::BadContent)?;
        }
        if wish.kind == TimelineEventType::RoomTombstone
            && replacement_of(&wish.content).is_some_and(|other| other == room.room_id)
        {
            return Err(RoomError::Invalid("replacement_room: a room can't be replaced by itself".into()));
        }
        if wish.kind == TimelineEventType::RoomCanonicalAlias {
            self.check_canonical_alias(room, &wish.content).await?;
        }
        let Some(target) = wish.redacts.as_ref().filter(|_| wish.kind == TimelineEventType::RoomRedaction) else {
            return Ok(());
        };
        let target = self.shared.store.events().find(target).await?.filter(|event| event.room_nid == room.nid);
        let target = target.ok_or(RoomError::UnknownEvent)?;
        if target.pdu.sender == wish.sender {
            return Ok(());
        }
        let power_levels = self.power_levels(room).await?;
        if !power_levels.user_can_redact_event_of_other(&wish.sender) {
            return Err(RoomError::Forbidden("your power level does not let you redact other people's events".into()));
        }
        Ok(())
    }

    /// A state event of the same sender that says just what `wish` says.
    async fn holds_already(&self, room: &SharedRoom, wish: &Wish) -> Result<Option<Sent>, RoomError> {
        let Some(state_key) = &wish.state_key else { return Ok(None) };
        let Some(event) = self.state_event(room, wish.kind.to_string().into(), state_key).await? else {
            return Ok(None);
        };
        let says_the_same = event.pdu.sender == wish.sender
            && event.pdu.content_as::<serde_json::Value>() == serde_json::from_str(wish.content.get()).ok();
        Ok(says_the_same.then(|| Sent { event_id: event.pdu.event_id.clone() }))
    }

    /// A room says only of its own aliases that they are its names.
    async fn check_canonical_alias(&self, room: &SharedRoom, content: &RawValue) -> Result<(), RoomError> {
        #[derive(serde::Deserialize, Default)]
        struct Content {
            alias: Option<OwnedRoomAliasId>,
            #[serde(default)]
            alt_aliases: Vec<OwnedRoomAliasId>,
        }
        let wanted: Content =
            serde_json::from_str(content.get()).map_err(|error| RoomError::Invalid(error.to_string()))?;
        let held: Content = self.state_content(room, StateEventType::RoomCanonicalAlias).await?.unwrap_or_default();
        let is_held = |alias: &OwnedRoomAliasId| held.alias.as_ref() == Some(alias) || held.alt_aliases.contains(alias);
        for alias in wanted.alias.iter().chain(&wanted.alt_aliases).filter(|alias| !is_held(alias)) {
            let found = self.shared.store.aliases().find(alias).await?;
            if found.is_none_or(|(nid, _)| nid != room.nid) {
                return Err(RoomError::BadAlias(alias.to_string()));
            }
        }
        Ok(())
    }

    /// Refuses who isn't joined to the room.
    pub async fn check_joined(&self, room: &SharedRoom, user_id: &ruma::UserId) -> Result<(), RoomError> {
        match self.membership(room, user_id).await? {
            Some(MembershipState::Join) => Ok(()),
            _ => Err(RoomError::NotJoined),
        }
    }

    /// What `user_id` is to the room now.
    pub async fn membership(
        &self,
        room: &SharedRoom,
        user_id: &ruma::UserId,
    ) -> Result<Option<MembershipState>, RoomError> {
        let event = self.state_event(room, StateEventType::RoomMember, user_id.as_str()).await?;
        Ok(event.and_then(|event| membership_of(&event.pdu)))
    }
}

/// Whether `content` is what a state event of this type holds; if not, why.
pub(crate) fn check_state_content(kind: &TimelineEventType, content: &RawValue) -> Result<(), String> {
    if is_taken_back(kind, content) {
        return Ok(());
    }
    // ruma's types know what the specification demands of each state event it names.
    let raw = Raw::<AnyStateEventContent>::from_json(content.to_owned());
    raw.deserialize_with_type(&kind.to_string()).map(drop).map_err(|error| format!("content of {kind}: {error}"))
}

/// The room by which a tombstone says that its own is replaced.
fn replacement_of(content: &RawValue) -> Option<OwnedRoomId> {
    #[derive(serde::Deserialize)]
    struct Content {
        replacement_room: OwnedRoomId,
    }
    serde_json::from_str::<Content>(content.get()).ok().map(|content| content.replacement_room)
}

/// Whether an empty content says that what was said before holds no more: which room is in a space, whom a policy is
/// about.
fn is_taken_back(kind: &TimelineEventType, content: &RawValue) -> bool {
    let kind = kind.to_string();
    let can_be = ["m.space.", "m.policy.rule."].iter().any(|prefix| kind.starts_with(prefix));
    can_be && serde_json::from_str(content.get()).is_ok_and(|content: serde_json::Map<_, _>| content.is_empty())
}

/// The membership that an `m.room.member` event gives.
pub(crate) fn membership_of(pdu: &model::Pdu) -> Option<MembershipState> {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    pdu.content_as::<Content>().map(|content| content.membership)
}
