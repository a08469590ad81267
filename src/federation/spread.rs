//! What people do besides sending events, spread to the servers that share rooms with them: who types, who has read how
//! far, who is there.
//!
//! What a commit tells is gathered first, the last of each, and looked at by one task: finding out which servers it concerns
//! may take a question to the store.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use model::{
    Change, Committed, Millis, Receipt, RoomNid, TimelineEvent, UserStream,
    peer::{Capability, Context, Grant},
};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::{
        TimelineEventType,
        receipt::{ReceiptThread, ReceiptType},
        room::member::{MembershipState, RoomMemberEventContent},
    },
    presence::PresenceState,
};
use sync::Arrival;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    fresh::{Present, Read, drop_one},
    now,
    sender::Shared,
};

/// The most things of each kind that wait to be looked at.
const MOST: usize = 10_000;
/// Who types on is said to do so again after so long: other servers forget typists after a minute.
const TYPING_AGAIN: Millis = 40_000;
/// Who stays online is said to be so again after so long: other servers forget it after half an hour.
const PRESENCE_AGAIN: Duration = Duration::from_secs(25 * 60);
const TICK: Duration = Duration::from_secs(5);
/// What came onto devices is gathered for so long: told at once, each message would be answered by a transaction.
const GATHER: Duration = Duration::from_secs(1);
/// A server of which somebody comes in is told who is there after so long: first it has to know that it is in.
const WELCOME_AFTER: Millis = 2_000;

/// What was heard and not looked at yet.
#[derive(Default)]
pub(crate) struct Heard {
    typing: HashMap<RoomNid, (OwnedRoomId, Arc<[OwnedUserId]>)>,
    receipts: HashMap<(RoomNid, OwnedUserId, ReceiptThread), (OwnedRoomId, Arc<Receipt>)>,
    presence: HashSet<OwnedUserId>,
    newcomers: HashMap<(RoomNid, OwnedServerName), Newcomer>,
    arrivals: HashMap<(OwnedRoomId, OwnedUserId, OwnedServerName), (OwnedEventId, Millis)>,
}

/// A server of which somebody came into a room.
struct Newcomer {
    room_id: OwnedRoomId,
    at: Millis,
}

impl Heard {
    fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty()
    }
}

/// Who of this server types in a room, and when that was last told.
type Typists = HashMap<RoomNid, (OwnedRoomId, HashMap<OwnedUserId, Millis>)>;

impl Shared {
    fn is_ours(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name
    }

    /// Gathers what a commit tells. Doesn't block.
    pub(crate) fn hear(&self, committed: &Committed) {
        let is_of_interest = |change: &Change| match change {
            Change::Typing { .. } => true,
            Change::Receipt { receipt, .. } => receipt.kind == ReceiptType::Read && self.is_ours(&receipt.user_id),
            Change::User { user_id, stream: UserStream::Presence } => self.config.presence && self.is_ours(user_id),
            // On the writer's way: what the event says is read below, once.
            Change::Event(event) => self.config.presence && event.pdu.kind == TimelineEventType::RoomMember,
            _ => false,
        };
        if !committed.changes.iter().any(|(_, change)| is_of_interest(change)) {
            return;
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, change) in committed.changes.iter().filter(|(_, change)| is_of_interest(change)) {
            match change {
                Change::Typing { room_nid, room_id, user_ids } => {
                    put(&mut heard.typing, *room_nid, (room_id.clone(), user_ids.clone()), "typing");
                }
                Change::Receipt { room_nid, room_id, receipt } => {
                    let key = (*room_nid, receipt.user_id.clone(), receipt.thread.clone());
                    put(&mut heard.receipts, key, (room_id.clone(), receipt.clone()), "receipt");
                }
                Change::Event(event) => {
                    let Some(user_id) = comer(event) else { continue };
                    if !self.is_ours(&user_id) {
                        let key = (event.room_nid, user_id.server_name().to_owned());
                        let newcomer = Newcomer { room_id: event.pdu.room_id.clone(), at: now() };
                        put(&mut heard.newcomers, key, newcomer, "presence");
                    } else if heard.presence.len() < MOST {
                        heard.presence.insert(user_id);
                    }
                }
                Change::User { user_id, .. } if heard.presence.len() < MOST => {
                    heard.presence.insert(user_id.clone());
                }
                _ => drop_one("presence"),
            }
        }
        drop(heard);
        self.news.notify_one();
    }

    /// Something of another server has come onto a device. Doesn't block.
    pub(crate) fn hear_arrival(&self, arrival: Arrival) {
        let Arrival { user_id, room_id, server, event_id } = arrival;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        put(&mut heard.arrivals, (room_id, user_id, server), (event_id, now()), "arrival");
    }

    /// Spreads what is heard until `stop` is cancelled.
    pub(crate) async fn spread(self: Arc<Self>, stop: CancellationToken) {
        let mut typists = Typists::new();
        let mut newcomers = HashMap::new();
        let mut tick = tokio::time::interval(TICK);
        let mut gathered = tokio::time::interval(GATHER);
        let mut presence_again = tokio::time::interval(PRESENCE_AGAIN);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        gathered.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        presence_again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.news.notified() => {}
                _ = gathered.tick() => self.tell_arrivals(),
                _ = presence_again.tick(), if self.config.presence => self.hear_everybody().await,
                _ = tick.tick() => {
                    self.type_on(&mut typists).await;
                    self.welcome(&mut newcomers).await;
                }
            }
            let mut heard = self.take_heard();
            for (key, newcomer) in heard.newcomers.drain() {
                put(&mut newcomers, key, newcomer, "presence");
            }
            if heard.is_empty() {
                continue;
            }
            for (nid, (room_id, user_ids)) in heard.typing {
                self.spread_typing(&mut typists, nid, &room_id, &user_ids).await;
            }
            for (_, (room_id, receipt)) in heard.receipts {
                self.spread_receipt(&room_id, &receipt).await;
            }
            for user_id in heard.presence {
                self.spread_presence(&user_id).await;
            }
            self.wake();
        }
    }

    /// Everything but what came onto devices.
    fn take_heard(&self) -> Heard {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let arrivals = std::mem::take(&mut heard.arrivals);
        std::mem::replace(&mut *heard, Heard { arrivals, ..Heard::default() })
    }

    /// Tells other servers what of their people's has come onto devices.
    fn tell_arrivals(&self) {
        let arrivals = std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner).arrivals);
        let is_news = !arrivals.is_empty();
        for ((room_id, user_id, server), (event_id, at)) in arrivals {
            self.tell_arrival(&server, room_id, user_id, Read { event_id, at });
        }
        if is_news {
            self.wake();
        }
    }

    /// Whether `server` is trusted enough to be told something of this kind.
    fn may_hear(&self, server: &ServerName, capability: Capability) -> bool {
        self.rooms.trust().allow(server, capability, &Context::outbound()).is_ok()
    }

    /// Tells a server that something of its people's has come onto a device, if it may know of devices.
    fn tell_arrival(&self, server: &ServerName, room_id: OwnedRoomId, user_id: OwnedUserId, upto: Read) {
        let allowed = self.rooms.trust().allow(server, Capability::DeliveryReceipts, &Context::outbound());
        if allowed.is_ok_and(|allowed| allowed.grant == Grant::Device) {
            self.book().mark(server).fresh.arrival(room_id, user_id, upto);
        }
    }

    /// The other servers in a room that may be told something of this kind.
    async fn others_in(&self, room_id: &RoomId, capability: Capability) -> Vec<OwnedServerName> {
        let servers = async { self.rooms.servers_in(&self.rooms.get(room_id).await?).await };
        match servers.await {
            Ok(servers) => {
                let others = servers.iter().filter(|server| **server != self.server_name);
                others.filter(|server| self.may_hear(server, capability)).cloned().collect()
            }
            Err(error) => {
                debug!(%error, room.id = %room_id, "could not find out which servers are in a room");
                Vec::new()
            }
        }
    }

    async fn spread_typing(&self, typists: &mut Typists, nid: RoomNid, room_id: &RoomId, user_ids: &[OwnedUserId]) {
        let before = typists.get(&nid).map(|(_, before)| before.clone()).unwrap_or_default();
        let ours: HashSet<&OwnedUserId> = user_ids.iter().filter(|user_id| self.is_ours(user_id)).collect();
        let begun =
            ours.iter().filter(|user_id| !before.contains_key(**user_id)).map(|user_id| ((*user_id).clone(), true));
        let ended = before.keys().filter(|user_id| !ours.contains(user_id)).map(|user_id| (user_id.clone(), false));
        let changes: Vec<(OwnedUserId, bool)> = begun.chain(ended).collect();
        if changes.is_empty() {
            return;
        }
        let now = now();
        let after: HashMap<_, _> =
            ours.into_iter().map(|user_id| (user_id.clone(), before.get(user_id).copied().unwrap_or(now))).collect();
        if after.is_empty() {
            typists.remove(&nid);
        } else {
            typists.insert(nid, (room_id.to_owned(), after));
        }
        self.tell_typing(room_id, &changes, now).await;
    }

    async fn tell_typing(&self, room_id: &RoomId, changes: &[(OwnedUserId, bool)], now: Millis) {
        let servers = self.others_in(room_id, Capability::Typing).await;
        let mut book = self.book();
        for server in &servers {
            for (user_id, is_typing) in changes {
                book.mark(server).fresh.typing(room_id.to_owned(), user_id.clone(), *is_typing, now);
            }
        }
    }

    async fn type_on(&self, typists: &mut Typists) {
        let now = now();
        for (room_id, users) in typists.values_mut() {
            let due: Vec<_> = users.iter_mut().filter(|(_, told)| now - **told > TYPING_AGAIN).collect();
            let changes: Vec<_> = due
                .into_iter()
                .map(|(user_id, told)| {
                    *told = now;
                    (user_id.clone(), true)
                })
                .collect();
            if !changes.is_empty() {
                self.tell_typing(room_id, &changes, now).await;
                self.wake();
            }
        }
    }

    async fn spread_receipt(&self, room_id: &RoomId, receipt: &Receipt) {
        let servers = self.others_in(room_id, Capability::Receipts).await;
        let mut book = self.book();
        for server in &servers {
            let read = Read { event_id: receipt.event_id.clone(), at: receipt.at };
            book.mark(server).fresh.receipt(room_id.to_owned(), receipt.user_id.clone(), &receipt.thread, read);
        }
    }

    async fn spread_presence(&self, user_id: &UserId) {
        let looked_up = async {
            let Some(row) = self.store.presence().find(user_id).await? else { return Ok(()) };
            let servers = self.store.rooms().servers_sharing_rooms_with(user_id).await?;
            let present = Present::from(row);
            let mut book = self.book();
            for server in servers.iter().filter(|server| self.may_hear(server, Capability::Presence)) {
                book.mark(server).fresh.presence(user_id.to_owned(), present.clone());
            }
            Ok::<_, store::Error>(())
        };
        if let Err(error) = looked_up.await {
            debug!(%error, user.id = %user_id, "could not find out who hears of somebody's presence");
        }
    }

    /// Tells servers that came into a room who of this server is there.
    async fn welcome(&self, newcomers: &mut HashMap<(RoomNid, OwnedServerName), Newcomer>) {
        let now = now();
        let due: Vec<_> = newcomers.extract_if(|_, newcomer| now - newcomer.at >= WELCOME_AFTER).collect();
        if due.is_empty() {
            return;
        }
        let Ok(present) = self.store.presence().not_offline().await else { return };
        for ((room, server), newcomer) in due {
            if !self.may_hear(&server, Capability::Presence) {
                continue;
            }
            let members = match self.store.sync().joined_users(room).await {
                Ok(members) => members.into_iter().collect::<HashSet<_>>(),
                Err(error) => {
                    debug!(%error, room.id = %newcomer.room_id, "could not find out who is in a room");
                    continue;
                }
            };
            let mut book = self.book();
            for row in present.iter().filter(|row| self.is_ours(&row.user_id) && members.contains(&row.user_id)) {
                book.mark(&server).fresh.presence(row.user_id.clone(), row.clone().into());
            }
        }
        self.wake();
    }

    /// As if everybody who is online had just come.
    async fn hear_everybody(&self) {
        let Ok(rows) = self.store.presence().not_offline().await else { return };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = rows.into_iter().filter(|row| self.is_ours(&row.user_id) && row.state != PresenceState::Offline);
        heard.presence.extend(ours.map(|row| row.user_id).take(MOST));
    }
}

/// Who joined, if that is what the membership event says.
fn comer(event: &TimelineEvent) -> Option<OwnedUserId> {
    let member: RoomMemberEventContent = event.pdu.content_as()?;
    let user_id = event.pdu.state_key.as_deref()?.try_into().ok()?;
    (member.membership == MembershipState::Join).then_some(user_id)
}

fn put<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: V, kind: &'static str) {
    if map.len() < MOST || map.contains_key(&key) {
        map.insert(key, value);
    } else {
        drop_one(kind);
    }
}
