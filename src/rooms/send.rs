//! A local wish becomes an event.

use model::Draft;
use ruma::{
    OwnedEventId, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use crate::{RoomError, Rooms, Transaction, live::SharedRoom, now};

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
        if let Some(transaction) = &wish.transaction
            && let Some(sent) = self.sent_before(transaction).await?
        {
            return Ok(sent);
        }
        self.check_content(room, &wish).await?;
        let draft = Draft {
            sender: wish.sender,
            kind: wish.kind,
            content: wish.content,
            state_key: wish.state_key,
            redacts: wish.redacts,
            origin_server_ts: now(),
        };
        match self.append(room, &[draft], wish.transaction.as_ref(), &|_| ()).await {
            Ok(events) => {
                let event = events.last().expect("one draft makes one event");
                Ok(Sent { event_id: event.pdu.event_id.clone() })
            }
            // The same request came twice at once, and the other one was first.
            Err(RoomError::Store(store::Error::Duplicate)) if let Some(transaction) = &wish.transaction => {
                self.sent_before(transaction).await?.ok_or(RoomError::Busy)
            }
            Err(error) => Err(error),
        }
    }

    async fn sent_before(&self, transaction: &Transaction) -> Result<Option<Sent>, RoomError> {
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

/// The membership that an `m.room.member` event gives.
pub(crate) fn membership_of(pdu: &model::Pdu) -> Option<MembershipState> {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    pdu.content_as::<Content>().map(|content| content.membership)
}
