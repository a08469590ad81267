//! What other servers send into rooms.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use metrics::counter;
use model::{EventNid, Kind, Pdu, PduError, Refusal};
use peers::keys::KeyError;
use ruma::{
    CanonicalJsonObject, OwnedEventId, RoomId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};

use crate::{
    RoomError, Rooms,
    judge::{Judge, Unknown, Verdict},
    live::SharedRoom,
    send::membership_of,
};

/// How often a delivery is judged again when the room moved meanwhile, or when something missing was fetched.
const ATTEMPTS: usize = 8;
/// How long a delivery waits for those before it.
const INBOX_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a peer's event was not taken into a room.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Nobody here is in the room.
    #[error("nobody of this server is in the room")]
    NotInRoom,
    /// The room's access control list names the server.
    #[error("the room's access control list forbids {0}")]
    Acl(ruma::OwnedServerName),
    /// It can't be an event of this room.
    #[error(transparent)]
    Malformed(#[from] PduError),
    /// It isn't signed by whom it is said to be of.
    #[error(transparent)]
    Signature(#[from] KeyError),
    /// The authorisation rules forbid it.
    #[error("{0}")]
    Rejected(String),
    /// It follows, or is allowed by, an event that is not to be had.
    #[error("{0} is missing and could not be fetched")]
    Missing(OwnedEventId),
    /// As `Missing`, because who sent it couldn't be asked.
    #[error("{0} is missing, and who sends what follows it could not be asked for it")]
    Awaited(OwnedEventId),
    /// It could not be judged.
    #[error("{0}")]
    Room(#[from] RoomError),
    /// Nothing could be judged or stored.
    #[error("{0}")]
    Failed(String),
}

impl ReceiveError {
    /// Whether the same event may be taken later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Awaited(_) | Self::Failed(_) => true,
            Self::Signature(KeyError::Unavailable { may_pass, .. }) => *may_pass,
            Self::Room(RoomError::Busy | RoomError::Store(_)) => true,
            Self::Room(RoomError::Peer(error)) => error.may_pass(),
            _ => false,
        }
    }

    /// Whether the event was judged, and found to be none of the room's.
    pub fn is_verdict(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Missing(_))
    }
}

impl Refusal for ReceiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotInRoom => Kind::NotFound,
            Self::Acl(_) | Self::Signature(_) | Self::Rejected(_) | Self::Missing(_) | Self::Awaited(_) => {
                Kind::Forbidden
            }
            Self::Failed(_) => Kind::Unavailable,
            Self::Malformed(_) => Kind::Invalid,
            Self::Room(error) => error.kind(),
        }
    }
}

/// What became of each event of a delivery.
pub type Received = Vec<(OwnedEventId, Result<(), ReceiveError>)>;

/// A checked event on its way to judgement.
pub(crate) struct Checked {
    pub(crate) pdu: Pdu,
    /// The store has it already, outside the timeline.
    pub(crate) known: Option<EventNid>,
}

impl Rooms {
    /// Takes what `origin` sends into a room, in the order in which it happened; what is missing in between is fetched.
    ///
    /// One bad event doesn't harm the others; of what was known already nothing happens again. Events that are too malformed
    /// to have an id are left out of the answer. Deliveries into one room wait for each other, up to a minute.
    pub async fn receive(&self, origin: &ServerName, room_id: &RoomId, pdus: Vec<CanonicalJsonObject>) -> Received {
        let refuse = |pdus: &[CanonicalJsonObject], error: &dyn Fn() -> ReceiveError| {
            pdus.iter().filter_map(|pdu| Some((self.id_of(pdu)?, Err(error())))).collect()
        };
        let room = match self.get(room_id).await {
            Ok(room) => room,
            Err(_) => return refuse(&pdus, &|| ReceiveError::NotInRoom),
        };
        match self.is_resident(&room).await {
            Ok(true) => {}
            Ok(false) => return self.receive_outside(&room, origin, pdus).await,
            Err(_) => return refuse(&pdus, &|| ReceiveError::NotInRoom),
        }
        if !self.acl_allows(&room, origin).await.unwrap_or(false) {
            return refuse(&pdus, &|| ReceiveError::Acl(origin.to_owned()));
        }
        let permit = tokio::time::timeout(INBOX_TIMEOUT, room.inbox.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return refuse(&pdus, &|| RoomError::Busy.into()) };

        let (checked, mut received) = self.check(&room, pdus).await;
        received.extend(self.take(&room, origin, checked).await);
        for (event_id, outcome) in &received {
            let word = match outcome {
                Ok(()) => "accepted",
                Err(error) => {
                    tracing::debug!(%origin, room.id = %room_id, event.id = %event_id, %error, "refused an event");
                    "refused"
                }
            };
            counter!("comity_federation_pdus_received_total", "outcome" => word).increment(1);
        }
        received
    }

    /// Takes what concerns people who are invited into a room that nobody here is in: that they are no longer.
    async fn receive_outside(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        pdus: Vec<CanonicalJsonObject>,
    ) -> Received {
        let mut received = Received::new();
        for object in pdus {
            let Ok(event_id) = model::event_id_of(&object, &room.rules) else { continue };
            received.push((event_id, self.be_uninvited(room, origin, object).await));
        }
        received
    }

    /// Only who invited somebody is believed to take it back: of the room's state nothing is known here.
    async fn be_uninvited(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        object: CanonicalJsonObject,
    ) -> Result<(), ReceiveError> {
        let pdu = Pdu::from_peer(object.clone(), &room.rules)?;
        let invited = pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
        let is_out = pdu.kind == TimelineEventType::RoomMember
            && pdu.room_id == room.room_id
            && pdu.sender.server_name() == origin
            && matches!(membership_of(&pdu), Some(MembershipState::Leave | MembershipState::Ban));
        let Some(invited) = invited.filter(|user_id| is_out && user_id.server_name() == self.server_name()) else {
            return Err(ReceiveError::NotInRoom);
        };
        let row = self.outside_membership(room, invited).await?;
        if row.is_none_or(|row| row.membership != MembershipState::Invite || row.sender != pdu.sender) {
            return Err(ReceiveError::NotInRoom);
        }
        let verified = self.shared.peers.keys().check_events(vec![object], &room.rules).await.pop();
        let verified = verified.ok_or(ReceiveError::NotInRoom)??;
        Ok(self.note_outside(room, Pdu::from_peer(verified, &room.rules)?).await?)
    }

    /// Format, hash and signatures; what is known already is left out.
    async fn check(&self, room: &SharedRoom, pdus: Vec<CanonicalJsonObject>) -> (Vec<Checked>, Received) {
        let mut received = Received::new();
        let mut fresh: Vec<(Pdu, CanonicalJsonObject)> = Vec::with_capacity(pdus.len());
        for object in pdus {
            let Ok(event_id) = model::event_id_of(&object, &room.rules) else { continue };
            match Pdu::from_peer(object.clone(), &room.rules) {
                Ok(pdu) if pdu.room_id == room.room_id => {
                    if !fresh.iter().any(|(known, _)| known.event_id == pdu.event_id) {
                        fresh.push((pdu, object));
                    }
                }
                Ok(_) => {
                    received.push((event_id, Err(PduError::Malformed("it is of another room".into()).into())));
                }
                Err(error) => received.push((event_id, Err(error.into()))),
            }
        }
        let ids: Vec<OwnedEventId> = fresh.iter().map(|(pdu, _)| pdu.event_id.clone()).collect();
        let known: HashMap<_, _> = match self.events_by_id(&ids).await {
            Ok(events) => events.into_iter().map(|event| (event.pdu.event_id.clone(), event)).collect(),
            Err(error) => {
                received.extend(all_failed(ids, &error));
                return (Vec::new(), received);
            }
        };
        // Where makers choose ids, an event of another room may have the same.
        let is_elsewhere = |pdu: &Pdu| known.get(&pdu.event_id).is_some_and(|event| event.room_nid != room.nid);
        for (pdu, _) in fresh.extract_if(.., |(pdu, _)| is_elsewhere(pdu)) {
            let taken = PduError::Malformed("an event of another room has its id".into());
            received.push((pdu.event_id, Err(taken.into())));
        }
        // What is settled already needs no second look; what is only known from outside does.
        let is_settled = |pdu: &Pdu| known.get(&pdu.event_id).is_some_and(|event| is_settled(event));
        received.extend(fresh.iter().filter(|(pdu, _)| is_settled(pdu)).map(|(pdu, _)| (pdu.event_id.clone(), Ok(()))));
        fresh.retain(|(pdu, _)| !is_settled(pdu));

        let (pdus, objects): (Vec<Pdu>, Vec<CanonicalJsonObject>) = fresh.into_iter().unzip();
        let verified = self.shared.peers.keys().check_events(objects, &room.rules).await;
        let mut checked = Vec::with_capacity(pdus.len());
        for (pdu, verified) in pdus.into_iter().zip(verified) {
            let event_id = pdu.event_id.clone();
            // What was said may have been changed on the way: then only what the hash covers counts.
            match verified.map_err(ReceiveError::from).and_then(|object| Ok(Pdu::from_peer(object, &room.rules)?)) {
                Ok(pdu) => checked.push(Checked { known: known.get(&event_id).map(|event| event.nid), pdu }),
                Err(error) => received.push((event_id, Err(error))),
            }
        }
        (checked, received)
    }

    /// Format, hash, signatures of events that were asked for, whatever this server knows of them. What fails is left out.
    pub(crate) async fn check_fetched(&self, room: &SharedRoom, pdus: Vec<CanonicalJsonObject>) -> Vec<Checked> {
        self.check(room, pdus).await.0
    }

    /// Judges checked events, fetches what they lack, and appends them.
    async fn take(&self, room: &SharedRoom, origin: &ServerName, checked: Vec<Checked>) -> Received {
        let mut received = Received::new();
        let wanted: HashSet<OwnedEventId> = checked.iter().map(|checked| checked.pdu.event_id.clone()).collect();
        let (events, could_ask) = match self.with_missing(room, origin, checked).await {
            Ok(whole) => whole,
            Err(error) => return all_failed(wanted, &error),
        };
        match self.settle(room, events, false).await {
            Ok(verdicts) => {
                for (event_id, outcome) in verdicts {
                    let outcome = match outcome {
                        Ok(Verdict::Accepted) => Ok(()),
                        Ok(Verdict::SoftFailed(reason)) => {
                            tracing::debug!(%origin, room.id = %room.room_id, event.id = %event_id, %reason, "an event comes too late to be shown");
                            Ok(())
                        }
                        Ok(Verdict::Rejected(reason)) => Err(ReceiveError::Rejected(reason)),
                        Err(ReceiveError::Missing(event_id)) if !could_ask => Err(ReceiveError::Awaited(event_id)),
                        Err(error) => Err(error),
                    };
                    if wanted.contains(&event_id) {
                        received.push((event_id, outcome));
                    }
                }
            }
            Err(error) => received.extend(all_failed(wanted, &error)),
        }
        received
    }

    /// Judges events, in the order in which they follow each other, and appends them; again, when the room moved.
    pub(crate) async fn settle(
        &self,
        room: &SharedRoom,
        events: Vec<Checked>,
        relay: bool,
    ) -> Result<Vec<(OwnedEventId, Result<Verdict, ReceiveError>)>, RoomError> {
        let ids: Vec<OwnedEventId> = events.iter().map(|checked| checked.pdu.event_id.clone()).collect();
        for _ in 0..ATTEMPTS {
            let mut outcomes = Vec::new();
            let mut judge = Judge::new(self, room, &ids).await?;
            for checked in &events {
                let event_id = checked.pdu.event_id.clone();
                match judge.add(checked.pdu.clone(), checked.known).await {
                    Ok(()) => {}
                    Err(Unknown::Prev(missing) | Unknown::Auth(missing)) => {
                        outcomes.push((event_id, Err(ReceiveError::Missing(missing))));
                    }
                    Err(Unknown::Failed(error @ RoomError::Store(_))) => return Err(error),
                    Err(Unknown::Failed(error)) => outcomes.push((event_id, Err(error.into()))),
                }
            }
            if judge.judged.is_empty() {
                return Ok(outcomes);
            }
            let ids = judge.judged.iter().map(|judged| judged.pdu.event_id.clone());
            match self.append_judged(room, &judge.judged, relay).await {
                Ok(verdicts) => {
                    outcomes.extend(ids.zip(verdicts.into_iter().map(Ok)));
                    return Ok(outcomes);
                }
                // Somebody else was faster, with this room or with these very events.
                Err(RoomError::Store(store::Error::Conflict | store::Error::Duplicate)) => room.forget().await,
                Err(error) => return Err(error),
            }
        }
        Err(RoomError::Busy)
    }

    /// Appends one event that is complete, with the signatures it needs besides ours.
    pub(crate) async fn append_whole(&self, room: &SharedRoom, pdu: Pdu) -> Result<OwnedEventId, RoomError> {
        let _permit = room.inbox.acquire().await.map_err(|_| RoomError::Busy)?;
        let checked = Checked { pdu, known: None };
        match self.settle(room, vec![checked], false).await?.pop() {
            Some((event_id, Ok(Verdict::Accepted))) => Ok(event_id),
            Some((_, Ok(Verdict::Rejected(reason) | Verdict::SoftFailed(reason)))) => Err(RoomError::Forbidden(reason)),
            Some((_, Err(error))) => Err(RoomError::Invalid(error.to_string())),
            None => Err(RoomError::Busy),
        }
    }

    /// The event's id by the rules of its room. `None`: it is too malformed to have one, or the room isn't known.
    pub async fn event_id_in(&self, room_id: &RoomId, object: &CanonicalJsonObject) -> Option<OwnedEventId> {
        let room = self.get(room_id).await.ok()?;
        model::event_id_of(object, &room.rules).ok()
    }

    /// The id that an event would have in most rooms. They differ in what their ids cover, but an event of an unknown room
    /// has to be called something.
    fn id_of(&self, object: &CanonicalJsonObject) -> Option<OwnedEventId> {
        model::guessed_event_id(object, &model::rules_of(self.default_version())?)
    }
}

fn all_failed(ids: impl IntoIterator<Item = OwnedEventId>, error: &RoomError) -> Received {
    let reason = error.to_string();
    ids.into_iter().map(|event_id| (event_id, Err(ReceiveError::Failed(reason.clone())))).collect()
}

/// Whether what is to be thought of an event is settled: it is in the timeline, or was refused.
pub(crate) fn is_settled(event: &model::TimelineEvent) -> bool {
    event.position.0 != 0 || event.pdu.rejected || event.soft_failed
}
