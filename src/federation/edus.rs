//! What other servers say that isn't events: each to whom it concerns, and only of the sender's own users.
//!
//! What is malformed, foreign or of no interest is counted and skipped; it harms nothing else of its transaction.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#edus>

mod presence;

use std::{collections::BTreeMap, sync::Arc};

use metrics::counter;
use model::{
    Position, Refusal, RoomNid,
    peer::{Capability, Context, Grant},
};
use rooms::{LiveRoom, Rooms};
use ruma::{
    EventId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{
        DirectDeviceContent, Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, TypingContent,
    },
    events::{receipt::ReceiptThread, room::member::MembershipState},
    serde::Raw,
};
use store::{Store, Write};
use sync::{PresenceNow, Sync, ToDeviceMessages};
use tracing::debug;
use users::Users;

use crate::{device_receipts::DeviceReceipts, now};

pub use presence::{PresenceNews, PresenceTaken};

/// Who of another server types is taken to have stopped after so long, in milliseconds.
const TYPING_LASTS: model::Millis = 60_000;
/// The most receipts, or users' presences, in one EDU.
const MOST: usize = 1_000;

/// To whom each EDU goes.
pub(crate) struct Edus {
    store: Store,
    rooms: Rooms,
    sync: Sync,
    users: Arc<Users>,
}

/// Why an EDU, or a part of it, came to nothing.
#[derive(Debug, thiserror::Error)]
enum Skipped {
    #[error("it is of a user of another server")]
    Foreign,
    #[error("nobody here has to do with it")]
    Unconcerned,
    #[error("it holds too much")]
    TooLarge,
    #[error(transparent)]
    Untrusted(#[from] peers::TrustError),
    #[error(transparent)]
    Sync(#[from] sync::SyncError),
    #[error(transparent)]
    Keys(#[from] users::KeyError),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Skipped {
    /// What is no fault of the sender's is an error.
    fn or_failed(self) -> Result<Self, store::Error> {
        match self {
            Self::Store(error)
            | Self::Sync(sync::SyncError::Store(error))
            | Self::Keys(users::KeyError::Store(error)) => Err(error),
            skipped => Ok(skipped),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Unconcerned => "unconcerned",
            Self::TooLarge => "too_large",
            Self::Untrusted(_) => "untrusted",
            Self::Sync(error) if error.kind() != model::Kind::Internal => "refused",
            Self::Keys(error) if error.kind() != model::Kind::Internal => "refused",
            Self::Sync(_) | Self::Keys(_) | Self::Store(_) => "failed",
        }
    }
}

impl Edus {
    pub(crate) fn new(store: Store, rooms: Rooms, sync: Sync, users: Arc<Users>) -> Self {
        Self { store, rooms, sync, users }
    }

    /// Those that are well-formed.
    pub(crate) fn read(edus: &[Raw<Edu>]) -> Vec<Edu> {
        let read = edus.iter().filter_map(|edu| {
            let read = edu.deserialize();
            if read.is_err() {
                count("unknown", "malformed");
            }
            read.ok()
        });
        read.collect()
    }

    /// Whether it is one that its sender repeats until it arrives.
    pub(crate) fn must_arrive(edu: &Edu) -> bool {
        matches!(edu, Edu::DirectToDevice(_) | Edu::DeviceListUpdate(_) | Edu::SigningKeyUpdate(_))
    }

    /// Takes what `origin` says, in order. Errors: one of them could not be stored, so that all have to come again.
    pub(crate) async fn take(&self, origin: &ServerName, edus: Vec<Edu>) -> Result<(), store::Error> {
        for edu in edus {
            if let Err(skipped) = self.check_trust(origin, &edu).await {
                let skipped = skipped.or_failed()?;
                debug!(%origin, reason = %skipped, "skipped an EDU of {origin}");
                count("any", skipped.word());
                continue;
            }
            let (kind, taken) = match edu {
                Edu::Typing(typing) => ("m.typing", self.take_typing(origin, typing).await),
                Edu::Receipt(receipts) => ("m.receipt", self.take_receipts(origin, receipts).await),
                Edu::Presence(presence) => ("m.presence", self.take_presence(origin, presence).await),
                Edu::DirectToDevice(message) => ("m.direct_to_device", self.take_message(origin, message).await),
                Edu::DeviceListUpdate(update) => (
                    "m.device_list_update",
                    self.take_keys(origin, &update.user_id.clone(), KeyNews::Device(update)).await,
                ),
                Edu::SigningKeyUpdate(update) => (
                    "m.signing_key_update",
                    self.take_keys(origin, &update.user_id.clone(), KeyNews::Signing(update)).await,
                ),
                other if DeviceReceipts::is_in(&other) => {
                    ("org.comity.delivered", self.take_device_receipts(origin, &other).await)
                }
                _ => ("unknown", Err(Skipped::Unconcerned)),
            };
            match taken {
                Ok(()) => count(kind, "taken"),
                Err(skipped) => {
                    let skipped = skipped.or_failed()?;
                    debug!(%origin, kind, reason = %skipped, "skipped an EDU of {origin}");
                    count(kind, skipped.word());
                }
            }
        }
        Ok(())
    }

    /// Whether the trust in `origin` is enough for what it says.
    async fn check_trust(&self, origin: &ServerName, edu: &Edu) -> Result<(), Skipped> {
        let (capability, user_id) = match edu {
            Edu::Typing(_) => (Capability::Typing, None),
            Edu::Receipt(_) => (Capability::Receipts, None),
            Edu::Presence(_) => (Capability::Presence, None),
            Edu::DirectToDevice(message) => (Capability::Devices, Some(&message.sender)),
            Edu::DeviceListUpdate(update) => (Capability::Devices, Some(&update.user_id)),
            Edu::SigningKeyUpdate(update) => (Capability::Devices, Some(&update.user_id)),
            other if DeviceReceipts::is_in(other) => (Capability::DeliveryReceipts, None),
            _ => (Capability::Events, None),
        };
        let shares_room = async |_| match user_id {
            Some(user_id) => Ok(self.store.rooms().is_joined_anywhere(user_id).await?),
            None => Ok::<_, Skipped>(false),
        };
        let trust = self.rooms.trust();
        trust.allow_knowing(origin, capability, &Context::inbound(), shares_room).await.map(drop)
    }

    /// The room, if `user_id` is one of the origin's and in it.
    async fn room_of(&self, origin: &ServerName, room_id: &RoomId, user_id: &UserId) -> Result<Arc<LiveRoom>, Skipped> {
        if user_id.server_name() != origin {
            return Err(Skipped::Foreign);
        }
        let room = self.rooms.get(room_id).await.map_err(|_| Skipped::Unconcerned)?;
        let member = self.store.rooms().membership(room.nid, user_id).await?;
        match member.map(|member| member.membership) {
            Some(MembershipState::Join) => Ok(room),
            _ => Err(Skipped::Unconcerned),
        }
    }

    async fn take_typing(&self, origin: &ServerName, typing: TypingContent) -> Result<(), Skipped> {
        let room = self.room_of(origin, &typing.room_id, &typing.user_id).await?;
        let timeout = typing.typing.then_some(TYPING_LASTS);
        Ok(self.sync.set_typing(&room, &typing.user_id, timeout).await?)
    }

    async fn take_receipts(&self, origin: &ServerName, receipts: ReceiptContent) -> Result<(), Skipped> {
        let count = receipts.receipts.values().map(|room| room.read.len()).sum::<usize>();
        if count > MOST {
            return Err(Skipped::TooLarge);
        }
        let mut skipped = None;
        for (room_id, receipts) in receipts.receipts {
            for (user_id, data) in receipts.read {
                // One that can't be taken doesn't harm the others.
                if let Err(error) = self.take_receipt(origin, &room_id, &user_id, data).await {
                    skipped = Some(error);
                }
            }
        }
        skipped.map_or(Ok(()), Err)
    }

    async fn take_receipt(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        read: ReceiptData,
    ) -> Result<(), Skipped> {
        let thread = read.data.thread;
        if !matches!(thread, ReceiptThread::Unthreaded | ReceiptThread::Main | ReceiptThread::Thread(_)) {
            return Err(Skipped::Unconcerned);
        }
        let room = self.room_of(origin, room_id, user_id).await?;
        let at = read.data.ts.map_or_else(now, |at| i64::from(at.get()));
        // The later ones first: one that is known is enough.
        for event_id in read.event_ids.iter().rev().take(8) {
            if self.sync.receive_receipt(&room, user_id, thread.clone(), event_id, at).await? {
                return Ok(());
            }
        }
        Err(Skipped::Unconcerned)
    }

    /// What people of this server have said has come onto devices.
    async fn take_device_receipts(&self, origin: &ServerName, edu: &Edu) -> Result<(), Skipped> {
        let regard = self.rooms.trust().regard(origin);
        let Some(receipts) = DeviceReceipts::read(edu) else { return Err(Skipped::Unconcerned) };
        if regard.grant(Capability::DeliveryReceipts) != Grant::Device {
            return Err(Skipped::Unconcerned);
        }
        if receipts.len() > MOST {
            return Err(Skipped::TooLarge);
        }
        let mut write = Write::new();
        let mut skipped = None;
        for (room_id, user_id, receipt) in receipts.into_each() {
            match self.arrived_at(origin, &room_id, &user_id, &receipt.event_id).await {
                Ok((room, upto)) => store::device_receipts::put(&mut write, room, &user_id, upto, now()),
                Err(error) => skipped = Some(error),
            }
        }
        if !write.is_empty() {
            self.store.commit(write).await?;
        }
        skipped.map_or(Ok(()), Err)
    }

    /// Where in a room an event of this server's people stands that has come onto a device of the origin's user.
    async fn arrived_at(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        event_id: &EventId,
    ) -> Result<(RoomNid, Position), Skipped> {
        let room = self.room_of(origin, room_id, user_id).await?;
        let event = self.store.events().by_ids(&[event_id.to_owned()]).await?.pop();
        let ours = self.rooms.server_name();
        let event = event.filter(|event| event.room_nid == room.nid && event.pdu.sender.server_name() == ours);
        match event {
            Some(event) if event.position.0 != 0 => Ok((room.nid, event.position)),
            _ => Err(Skipped::Unconcerned),
        }
    }

    async fn take_presence(&self, origin: &ServerName, presence: PresenceContent) -> Result<(), Skipped> {
        if presence.push.len() > MOST {
            return Err(Skipped::TooLarge);
        }
        let mut skipped = None;
        for update in presence.push {
            if let Err(error) = self.take_one_presence(origin, update).await {
                skipped = Some(error);
            }
        }
        skipped.map_or(Ok(()), Err)
    }

    async fn take_one_presence(&self, origin: &ServerName, update: PresenceUpdate) -> Result<(), Skipped> {
        if update.user_id.server_name() != origin {
            return Err(Skipped::Foreign);
        }
        if !self.store.rooms().is_joined_anywhere(&update.user_id).await? {
            return Err(Skipped::Unconcerned);
        }
        let ago = i64::from(update.last_active_ago);
        let now_is = PresenceNow {
            user_id: update.user_id,
            state: update.presence,
            status_msg: update.status_msg,
            last_active_at: if update.currently_active { now() } else { now().saturating_sub(ago) },
        };
        Ok(self.sync.receive_presence(now_is).await?)
    }

    async fn take_message(&self, origin: &ServerName, message: DirectDeviceContent) -> Result<(), Skipped> {
        if message.sender.server_name() != origin {
            return Err(Skipped::Foreign);
        }
        if message.message_id.as_str().len() > 255 {
            return Err(Skipped::TooLarge);
        }
        let messages: ToDeviceMessages = message
            .messages
            .into_iter()
            .map(|(user_id, devices)| {
                let devices: BTreeMap<String, String> = devices
                    .into_iter()
                    .map(|(device, content)| (device.to_string(), content.json().get().to_owned()))
                    .collect();
                (user_id, devices)
            })
            .collect();
        let kind = message.ev_type.to_string();
        Ok(self.sync.receive_to_device(&message.sender, message.message_id.as_str(), &kind, &messages).await?)
    }

    async fn take_keys(&self, origin: &ServerName, user_id: &UserId, news: KeyNews) -> Result<(), Skipped> {
        if user_id.server_name() != origin {
            return Err(Skipped::Foreign);
        }
        if !self.store.rooms().is_joined_anywhere(user_id).await? {
            return Err(Skipped::Unconcerned);
        }
        match news {
            KeyNews::Device(update) => self.users.receive_device_list_update(update).await?,
            KeyNews::Signing(update) => self.users.receive_signing_keys(update).await?,
        }
        Ok(())
    }
}

/// Somebody's keys changed.
enum KeyNews {
    Device(ruma::api::federation::transactions::edu::DeviceListUpdateContent),
    Signing(ruma::api::federation::transactions::edu::SigningKeyUpdateContent),
}

fn count(kind: &'static str, outcome: &'static str) {
    counter!("comity_federation_edus_received_total", "kind" => kind, "outcome" => outcome).increment(1);
}
