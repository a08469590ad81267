//! A message of a chat system that doesn't speak Matrix becomes an event in a room of two.

use std::{convert::Infallible, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use model::{
    Address, Position,
    peer::{Capability, Context, Fact, Grant},
};
use quick_cache::sync::Cache;
use rooms::{LiveRoom, MembershipChange, NewRoom, Target, Transaction, Wish};
use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::{Map, Value, json, value::to_raw_value};
use store::{
    Write,
    bridge::{self, BridgeRoomRow},
    events,
};
use tracing::info;

use super::{Bridge, BridgeError, Delivered, Shared, SimpleMessage};
use crate::now;

const MAX_ID_BYTES: usize = 255;
const MAX_BODY_BYTES: usize = 32 << 10;
/// How the room says that it is a bridge's, as other bridges do.
///
/// Spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/2346>
const BRIDGE_STATE: &str = "uk.half-shot.bridge";
/// Where an event or a room says what it is on the other side.
pub(super) const MARK: &str = "io.comity.bridge";
/// What the messages of the bridge are remembered under.
const SCOPE: &str = "bridge";

/// How often the users of one server write to somebody for the first time: so many at once, then one in so long.
const CONTACTS: NonZeroU32 = NonZeroU32::new(50).expect("it is not zero");
const CONTACT_EVERY: Duration = Duration::from_secs(10);
/// For how many servers that is remembered.
const SERVERS: usize = 10_000;

/// How fast the users of each server write to new people.
pub(super) struct FirstContacts(Cache<OwnedServerName, Arc<DefaultDirectRateLimiter>>, DefaultClock);

impl Default for FirstContacts {
    fn default() -> Self {
        Self(Cache::new(SERVERS), DefaultClock::default())
    }
}

impl FirstContacts {
    fn take(&self, server: &ServerName) -> Result<(), BridgeError> {
        let quota = Quota::with_period(CONTACT_EVERY).expect("it is longer than nothing").allow_burst(CONTACTS);
        let made = self.0.get_or_insert_with(server, || Ok::<_, Infallible>(Arc::new(RateLimiter::direct(quota))));
        let Ok(bucket) = made;
        bucket.check().map_err(|until| {
            let wait = until.wait_time_from(self.1.now());
            BridgeError::TooManyContacts { retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1) }
        })
    }
}

/// A message whose sender and recipient were understood.
struct Understood {
    from: OwnedUserId,
    to: OwnedUserId,
    message: SimpleMessage,
}

impl Bridge {
    /// Takes a message of `origin`, and answers when it is durable. The same one, by its id, takes effect once.
    ///
    /// Messages of one server wait for each other.
    pub async fn receive(&self, origin: &ServerName, message: SimpleMessage) -> Result<Delivered, BridgeError> {
        let understood = understand(origin, message)?;
        let turn = self.shared.inbound.turn_of(origin).await?;
        let shared = self.shared.clone();
        // A task of its own: a server that hangs up leaves nothing half done.
        let taking = tokio::spawn(async move {
            let taken = shared.take(understood).await;
            drop(turn);
            taken
        });
        taking.await.map_err(|_| crate::InboundError::Busy)?
    }
}

fn understand(origin: &ServerName, message: SimpleMessage) -> Result<Understood, BridgeError> {
    if message.message_id.is_empty() || message.message_id.len() > MAX_ID_BYTES {
        return Err(BridgeError::MessageId);
    }
    if message.body.trim().is_empty() || message.body.len() > MAX_BODY_BYTES {
        return Err(BridgeError::Body);
    }
    let address = |field, text: &str| {
        text.parse::<Address>().map(Address::into_user_id).map_err(|source| BridgeError::Address { field, source })
    };
    let from = address("from", &message.from)?;
    let to = address("to", &message.to)?;
    if from.server_name() != origin {
        return Err(BridgeError::Foreign(origin.to_owned()));
    }
    if !from.localpart().chars().all(is_seen) {
        return Err(BridgeError::Name);
    }
    Ok(Understood { from, to, message })
}

/// Whether a letter of a name shows, and doesn't turn those around it: the name stands before the eyes of people.
fn is_seen(letter: char) -> bool {
    let turns =
        matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    !(letter.is_control() || letter.is_whitespace() || turns || letter == '\u{feff}')
}

impl Shared {
    async fn take(&self, understood: Understood) -> Result<Delivered, BridgeError> {
        let Understood { from, to, message } = understood;
        let transaction = self.transaction(&from, &message.message_id)?;
        if let Some(event_id) = self.taken_before(&transaction).await? {
            return Ok(Delivered { event_id });
        }
        // Guests are nobody's to write to.
        if !self.users.is_ours(&to) || self.users.is_guest(&to) || !self.users.is_active(&to).await? {
            return Err(BridgeError::UnknownUser);
        }
        let guest = self.users.guest_id(&from)?;
        let room = match self.room_of(&guest, &from, &to).await? {
            Some(room) => {
                self.peers.trust().allow(from.server_name(), Capability::Events, &Context::inbound())?;
                room
            }
            None => {
                let is_request = self.may_write_first(&from, &to).await?;
                self.contacts.take(from.server_name())?;
                self.make_room(&from, &to, is_request).await?
            }
        };
        let mut mark = json!({ "message_id": message.message_id, "from": message.from });
        if let Some(sent_at) = message.sent_at {
            mark["sent_at"] = sent_at.into();
        }
        let content = json!({ "msgtype": "m.text", "body": message.body, MARK: mark });
        let wish = Wish {
            sender: guest,
            kind: TimelineEventType::RoomMessage,
            content: to_raw_value(&content).expect("JSON can be written as JSON"),
            state_key: None,
            redacts: None,
            transaction: Some(transaction),
        };
        let sent = self.rooms.send(&room, wish).await?;
        Ok(Delivered { event_id: sent.event_id })
    }

    /// Refuses who may not write to somebody first. Answers whether it is to be shown as a request.
    async fn may_write_first(&self, from: &UserId, to: &UserId) -> Result<bool, BridgeError> {
        let guest = self.users.guest_id(from)?;
        let look_up = async |fact| match fact {
            // As themselves, or as the guest that they were before.
            Fact::Contact => Ok::<_, BridgeError>(
                self.rooms.is_contact(to, from.server_name(), Some(from)).await?
                    || self.rooms.is_contact(to, self.rooms.server_name(), Some(&guest)).await?,
            ),
            _ => Ok(false),
        };
        let (server, context) = (from.server_name(), Context::inbound());
        let allowed = self.peers.trust().allow_knowing(server, Capability::FirstContact, &context, look_up).await?;
        Ok(allowed.grant == Grant::Request)
    }

    /// What a message is remembered under: its server, and its id there.
    fn transaction(&self, from: &UserId, message_id: &str) -> Result<Transaction, BridgeError> {
        let server = from.server_name();
        let too_long = |_| users::RegisterError::Username("is too long for a guest of the bridge");
        Ok(Transaction {
            user_id: UserId::parse(format!("@_bridge:{server}")).map_err(too_long)?,
            device_id: OwnedDeviceId::from(SCOPE),
            scope: SCOPE.to_owned(),
            transaction_id: message_id.to_owned(),
        })
    }

    async fn taken_before(&self, transaction: &Transaction) -> Result<Option<OwnedEventId>, BridgeError> {
        let known = events::Transaction {
            user_id: &transaction.user_id,
            device_id: transaction.device_id.as_str(),
            scope: &transaction.scope,
            transaction_id: &transaction.transaction_id,
        };
        let answer = self.store.events().transaction(&known).await?;
        Ok(answer.and_then(|event_id| event_id.try_into().ok()))
    }

    /// The room that the two talk in, unless the one here has left it.
    async fn room_of(&self, guest: &UserId, from: &UserId, to: &UserId) -> Result<Option<Arc<LiveRoom>>, BridgeError> {
        if let Some(row) = self.store.bridge().room_of(from, to).await? {
            let room = self.rooms.get(&row.room_id).await?;
            if self.is_in(&room, to).await? {
                return Ok(Some(room));
            }
            let mut write = Write::new();
            bridge::close(&mut write, &row.room_id, now());
            self.store.commit(write).await?;
            let target = Target { sender: guest.to_owned(), user_id: guest.to_owned(), reason: None, is_direct: None };
            // Nobody is left in it, or it doesn't matter.
            self.rooms.change_membership(&room, MembershipChange::Leave, target).await.ok();
            return Ok(None);
        }
        // One that was made just before the server stopped.
        for room_id in self.rooms.joined_rooms(guest).await? {
            let room = self.rooms.get(&room_id).await?;
            if self.is_in(&room, to).await? {
                self.note_room(&room, from, to).await?;
                return Ok(Some(room));
            }
        }
        Ok(None)
    }

    async fn is_in(&self, room: &Arc<LiveRoom>, user_id: &UserId) -> Result<bool, BridgeError> {
        let membership = self.rooms.membership(room, user_id).await?;
        Ok(matches!(membership, Some(MembershipState::Join | MembershipState::Invite)))
    }

    async fn note_room(&self, room: &LiveRoom, from: &UserId, to: &UserId) -> Result<(), BridgeError> {
        let row = BridgeRoomRow {
            room_id: room.room_id.clone(),
            remote: from.to_owned(),
            user_id: to.to_owned(),
            created_at: now(),
            sent_upto: Position(0),
        };
        let mut write = Write::new();
        bridge::insert(&mut write, &row);
        self.store.commit(write).await?;
        Ok(())
    }

    async fn make_room(&self, from: &UserId, to: &UserId, is_request: bool) -> Result<Arc<LiveRoom>, BridgeError> {
        let guest = self.users.ensure_guest(from).await?;
        let (address, server) = (Address::from(from).to_string(), from.server_name());
        let bridge = json!({
            "bridgebot": guest,
            "protocol": { "id": "comity", "displayname": "Comity's simple form" },
            "network": { "id": server, "displayname": server },
            "channel": { "id": address, "displayname": address },
        });
        let new = NewRoom {
            creator: guest,
            version: None,
            preset: RoomPreset::PrivateChat,
            creation_content: Map::from_iter([(MARK.to_owned(), json!({ "remote": address, "request": is_request }))]),
            initial_state: vec![(
                BRIDGE_STATE.to_owned(),
                format!("io.comity://{server}"),
                to_raw_value(&bridge).expect("JSON can be written as JSON"),
            )],
            // It is for two: what others said would go nowhere.
            power_levels: Map::from_iter([("invite".to_owned(), Value::from(100))]),
            name: None,
            topic: None,
            alias: None,
            invite: vec![to.to_owned()],
            is_direct: true,
            is_listed: false,
        };
        let room = self.rooms.get(&self.rooms.create(new).await?).await?;
        self.note_room(&room, from, to).await?;
        info!(room.id = %room.room_id, user.id = %to, "{address} wrote to {to} for the first time, over the bridge");
        Ok(room)
    }
}
