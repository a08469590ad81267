//! What is said in a room of the bridge goes to the server of the other one.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use model::{
    Address, TimelineEvent,
    peer::{Capability, Context},
};
use peers::{NativeRequest, PeerError, Scope};
use quick_cache::sync::Cache;
use rooms::{Transaction, Wish};
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedServerName, ServerName, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};
use store::{
    Write,
    bridge::{self, BridgeRoomRow},
    duties::Duty,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Bridge, Shared, SimpleMessage, book::Ended, receive::MARK};

const PATH: &str = "/api/v1/federation/messages/deliver";
/// How many servers are sent to at a time.
const WORKERS: usize = 16;
/// How many messages are looked up at once.
const AT_ONCE: i64 = 20;
/// For how many rooms it is remembered whether they are the bridge's.
const REMEMBERED: usize = 20_000;
/// With nothing to wait for, it is looked again after so long.
const IDLE: Duration = Duration::from_secs(60);
/// After a fault of the store.
const AFTER_A_FAULT: Duration = Duration::from_secs(2);

/// What the other server made of a message.
enum Told {
    Taken,
    /// And won't take it later.
    Refused(String),
    /// Later, perhaps.
    Failed(PeerError),
}

/// The answer of a server that says more than its status.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    messages: Vec<OutcomeOfOne>,
}

#[derive(Deserialize)]
struct OutcomeOfOne {
    status: String,
    detail: Option<String>,
    retry_after_ms: Option<u64>,
}

impl Bridge {
    /// Sends what is said in the bridge's rooms until `stop` is cancelled. What is not taken by then is sent again.
    pub async fn run(&self, stop: CancellationToken) {
        let shared = &self.shared;
        // Whether each room is the bridge's. One becomes it before anything is said there by somebody who could be heard.
        let rooms: Cache<OwnedRoomId, Option<OwnedServerName>> = Cache::new(REMEMBERED);
        shared.heard().is_behind = true;
        let mut duties = shared.store.duties().changes();
        let mut turns = JoinSet::new();
        loop {
            let mut wake_at = Instant::now() + IDLE;
            if let Err(error) = shared.look(&rooms).await {
                let error = &error as &dyn std::error::Error;
                warn!(error, "could not look up what the bridge owes, and tries again");
                shared.heard().is_behind = true;
                wake_at = Instant::now() + AFTER_A_FAULT;
            }
            loop {
                let Some(server) = shared.book().begin(Instant::now(), WORKERS) else { break };
                let (shared, stop) = (shared.clone(), stop.clone());
                turns.spawn(async move {
                    let ended = shared.turn(&server, &stop).await;
                    shared.book().end(&server, ended, Instant::now());
                });
            }
            let due = if turns.len() < WORKERS { shared.book().wake_at() } else { None };
            let wake_at = due.map_or(wake_at, |due| due.min(wake_at));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = shared.news.notified() => {}
                Ok(()) = duties.changed() => shared.heard().is_behind = true,
                Some(_) = turns.join_next() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
        // Each of them has heard of the end too.
        while turns.join_next().await.is_some() {}
    }
}

impl Shared {
    /// Finds out to whom goes what was heard.
    async fn look(&self, rooms: &Cache<OwnedRoomId, Option<OwnedServerName>>) -> Result<(), store::Error> {
        let heard = std::mem::take(&mut *self.heard());
        if heard.is_behind {
            let owed = self.store.bridge().owed().await?;
            for server in owed.into_iter().filter(|server| self.duty(server).is_some()) {
                self.book().mark(&server, Instant::now());
            }
            return Ok(());
        }
        for room_id in heard.rooms {
            let server = match rooms.get(&room_id) {
                Some(known) => known,
                None => {
                    let server = self.store.bridge().server_of(&room_id).await?;
                    rooms.insert(room_id, server.clone());
                    server
                }
            };
            if let Some(server) = server.filter(|server| self.duty(server).is_some()) {
                self.book().mark(&server, Instant::now());
            }
        }
        Ok(())
    }

    /// Leave to send to a server; `None`: another node does.
    pub(super) fn duty(&self, server: &ServerName) -> Option<Duty> {
        self.store.duties().of(&format!("bridge/{server}"))
    }

    /// Sends a server what it is owed, in order.
    async fn turn(&self, server: &ServerName, stop: &CancellationToken) -> Ended {
        loop {
            let Some(duty) = self.duty(server) else { return Ended::Done };
            let owed = match self.store.bridge().owed_to(server, AT_ONCE).await {
                Ok(owed) => owed,
                Err(error) => return self.failed(server, &PeerError::Store(error)),
            };
            if owed.is_empty() {
                return Ended::Done;
            }
            for (room, event) in owed {
                let told = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ended::Done,
                    told = self.tell(server, &room, &event) => told,
                };
                match self.note(&room, &event, told, duty).await {
                    Ok(()) => self.book().answered(server),
                    Err(PeerError::Store(store::Error::Superseded)) => return Ended::Done,
                    Err(error) => return self.failed(server, &error),
                }
            }
        }
    }

    fn failed(&self, server: &ServerName, error: &PeerError) -> Ended {
        let failures = self.book().failed(server);
        let retry_after = match error {
            PeerError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        let wait = self.curves.delay(error.failure(), failures, retry_after, rand::random());
        counter!("comity_bridge_messages_sent_total", "outcome" => error.failure().word()).increment(1);
        if failures == 1 {
            info!(destination = %server, "a message of the bridge does not get to {server}, and waits: {error}");
        } else {
            debug!(destination = %server, failures, "a message of the bridge does not get to {server}: {error}");
        }
        Ended::Failed(wait)
    }

    async fn tell(&self, server: &ServerName, room: &BridgeRoomRow, event: &TimelineEvent) -> Told {
        #[derive(Deserialize)]
        struct Content {
            body: String,
        }
        if let Err(error) = self.peers.trust().allow(server, Capability::Events, &Context::outbound()) {
            return Told::Refused(error.to_string());
        }
        // What was redacted meanwhile says nothing any more.
        let Some(Content { body }) = event.pdu.content_as::<Content>() else { return Told::Taken };
        let message = SimpleMessage {
            message_id: event.pdu.event_id.to_string(),
            from: Address::from(&*room.user_id).to_string(),
            to: Address::from(&*room.remote).to_string(),
            body,
            sent_at: Some(i64::from(event.pdu.origin_server_ts.get())),
        };
        let request = NativeRequest { path: PATH, subject: &message.from, scope: Scope::Messaging, body: &message };
        match self.peers.post_native::<_, Answer>(server, request).await {
            Ok(answer) => match answer.messages.into_iter().next() {
                Some(one) if one.status == "refused" => Told::Refused(one.detail.unwrap_or(one.status)),
                Some(one) if one.status == "failed" => Told::Failed(PeerError::Refused {
                    server: server.to_owned(),
                    status: 503,
                    errcode: None,
                    message: one.detail.unwrap_or(one.status),
                    retry_after: one.retry_after_ms.map(Duration::from_millis),
                }),
                _ => Told::Taken,
            },
            // It said yes, if in words of its own.
            Err(PeerError::Malformed { .. }) => Told::Taken,
            Err(PeerError::Refused { status: 400 | 402..=407 | 409..=428 | 430..=499, message, .. }) => {
                Told::Refused(message)
            }
            Err(error) => Told::Failed(error),
        }
    }

    /// Remembers what became of a message; who wrote one that was refused is told.
    async fn note(
        &self,
        room: &BridgeRoomRow,
        event: &Arc<TimelineEvent>,
        told: Told,
        duty: Duty,
    ) -> Result<(), PeerError> {
        let outcome = match told {
            Told::Failed(error) => return Err(error),
            Told::Taken => "taken",
            Told::Refused(reason) => {
                self.tell_refused(room, event, &reason).await?;
                "refused"
            }
        };
        counter!("comity_bridge_messages_sent_total", "outcome" => outcome).increment(1);
        let mut write = Write::new();
        bridge::sent(&mut write, &room.room_id, event.position);
        write.on_duty(duty);
        self.store.commit(write).await?;
        Ok(())
    }

    async fn tell_refused(&self, room: &BridgeRoomRow, event: &TimelineEvent, reason: &str) -> Result<(), PeerError> {
        let (Ok(guest), Ok(live)) = (self.users.guest_id(&room.remote), self.rooms.get(&room.room_id).await) else {
            return Ok(());
        };
        let reason: String = reason.chars().filter(|letter| !letter.is_control()).take(300).collect();
        let content = json!({
            "msgtype": "m.notice",
            "body": format!("Not delivered to {}: {reason}", Address::from(&*room.remote)),
            MARK: { "undelivered": event.pdu.event_id },
        });
        let wish = Wish {
            sender: guest.clone(),
            kind: TimelineEventType::RoomMessage,
            content: to_raw_value(&content).expect("JSON can be written as JSON"),
            state_key: None,
            redacts: None,
            transaction: Some(Transaction {
                user_id: guest,
                device_id: OwnedDeviceId::from("bridge"),
                scope: "bridge refused".to_owned(),
                transaction_id: event.pdu.event_id.to_string(),
            }),
        };
        match self.rooms.send(&live, wish).await {
            Err(rooms::RoomError::Store(error)) => Err(error.into()),
            // Who has left doesn't hear of it.
            _ => Ok(()),
        }
    }
}
