//! Joining a room through a server that is in it.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::{sync::Arc, time::Instant};

use model::{
    Change, EventNid, Pdu, RoomNid, SnapshotNid, StateMap, TimelineEvent,
    peer::{Capability, Context},
};
use ruma::{
    CanonicalJsonObject, OwnedServerName, RoomId, RoomVersionId, UserId,
    api::federation::membership::{create_join_event, prepare_join_event},
    events::{StateEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use store::{Arg, RoomVersion, Write, events, rooms::RoomRow, state};
use tracing::{info, warn};

use crate::{
    RoomError, Rooms,
    auth::{self, AuthState, Subject},
    live::SharedRoom,
    membership::{MemberProfile, member_content},
    outliers::{Authorised, objects},
    outside::{first_event, raw},
    send::membership_of,
};

/// How often what was joined is written again when somebody else wrote some of it meanwhile.
const ATTEMPTS: usize = 4;

/// What a server that let somebody in tells of its room.
pub(crate) struct Welcome {
    pub(crate) version: RoomVersionId,
    pub(crate) rules: RoomVersionRules,
    pub(crate) join: Pdu,
    /// What held before the join.
    pub(crate) state: Vec<Pdu>,
    /// What allows all that.
    pub(crate) chain: Vec<Pdu>,
}

impl Rooms {
    /// Joins `room_id` through the first of `servers` that lets the user in, and stores its state before returning.
    ///
    /// Holds no database transaction while it waits. Nothing of the room is visible before all of it is.
    /// Errors: what the last server said.
    pub(crate) async fn join_through(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        servers: &[OwnedServerName],
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let mut last = RoomError::NotFound("no server of the room is known: name one with `via`".into());
        for server in servers {
            let began = Instant::now();
            match self.be_welcomed(room_id, user_id, server, reason).await {
                Ok(welcome) => {
                    let members = welcome.state.len();
                    self.move_in(room_id, user_id, welcome).await?;
                    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    info!(room.id = %room_id, user.id = %user_id, server.name = %server, duration_ms, events = members, "{user_id} joined {room_id} through {server}");
                    return Ok(());
                }
                Err(error) => {
                    info!(room.id = %room_id, user.id = %user_id, server.name = %server, error = &error as &dyn std::error::Error, "could not join through {server}");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Asks a server for a place in the room, and takes it.
    async fn be_welcomed(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        server: &OwnedServerName,
        reason: Option<&str>,
    ) -> Result<Welcome, RoomError> {
        let peers = &self.shared.peers;
        let is_approved = async |_| Ok::<_, RoomError>(peers.trust().has_approved(server, room_id));
        peers.trust().allow_knowing(server, Capability::JoinThere, &Context::outbound(), is_approved).await?;
        let mut request = prepare_join_event::v1::Request::new(room_id.to_owned(), user_id.to_owned());
        request.ver = model::supported_room_versions().to_vec();
        let template = peers.ask(server, request).await?;
        let version = template.room_version.unwrap_or(RoomVersionId::V1);
        let rules = model::rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        let profile = self.profile_for_membership(user_id).await?;
        let wish = member_content(&MembershipState::Join, &profile, reason, None);
        let join = self.complete(room_id, user_id, &template.event, wish, &rules)?;

        let request = create_join_event::v2::Request::new(room_id.to_owned(), join.event_id.clone(), raw(&join)?);
        let answer = peers.ask_either_large(server, request).await?.room_state;
        // Whoever let the user in has signed the event besides.
        let join = match &answer.event {
            Some(event) => {
                let signed: CanonicalJsonObject = serde_json::from_str(event.get())
                    .map_err(|error| RoomError::Invalid(format!("the signed join is malformed: {error}")))?;
                let signed = Pdu::from_peer(signed, &rules)?;
                if signed.event_id != join.event_id {
                    return Err(RoomError::Invalid("the other server signed another event than was sent".into()));
                }
                signed
            }
            None => join,
        };
        let (state, chain) = tokio::join!(
            self.believed(room_id, objects(&answer.state), &rules),
            self.believed(room_id, objects(&answer.auth_chain), &rules),
        );
        let join = self.believed(room_id, vec![join.object()], &rules).await.pop();
        let join = join.ok_or_else(|| RoomError::Forbidden("the join lacks a signature that it needs".into()))?;
        Ok(Welcome { version, rules, join, state, chain })
    }

    /// Of these events, those that are well-formed, of the room, and signed.
    pub(crate) async fn believed(
        &self,
        room_id: &RoomId,
        objects: Vec<CanonicalJsonObject>,
        rules: &RoomVersionRules,
    ) -> Vec<Pdu> {
        let mut refused = 0;
        let mut first = None;
        let mut believed = Vec::with_capacity(objects.len());
        for checked in self.shared.peers.keys().check_events(objects, rules).await {
            match checked {
                Ok(object) => {
                    let pdu = Pdu::from_peer(object, rules).ok();
                    believed.extend(pdu.filter(|pdu| pdu.room_id == *room_id));
                }
                Err(error) => {
                    refused += 1;
                    first.get_or_insert(error);
                }
            }
        }
        if let Some(error) = first {
            let error = &error as &dyn std::error::Error;
            warn!(room.id = %room_id, refused, error, "{refused} events of {room_id} prove nothing; if it is for want of keys, federation.trusted_key_servers may name who has them");
        }
        believed
    }

    pub(crate) async fn move_in(&self, room_id: &RoomId, user_id: &UserId, welcome: Welcome) -> Result<(), RoomError> {
        let room = self.get_or_note(room_id, &welcome.version).await?;
        if self.is_resident(&room).await? {
            // Others of this server are in the room: its state is known here, and the join is one more event.
            return self.append_whole(&room, welcome.join).await.map(drop);
        }
        let _permit = room.inbox.acquire().await.map_err(|_| RoomError::Busy)?;
        for _ in 0..ATTEMPTS {
            let mut write = Write::new();
            let known = self.write_welcome(&mut write, &room, user_id, &welcome).await?;
            match self.shared.store.commit(write).await {
                Ok(_) => {
                    self.shared.memory.forget(known);
                    room.forget().await;
                    return Ok(());
                }
                Err(store::Error::Conflict | store::Error::Duplicate) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RoomError::Busy)
    }

    /// Answers the join's number, if the store has it already, outside the timeline.
    async fn write_welcome(
        &self,
        write: &mut Write,
        room: &SharedRoom,
        user_id: &UserId,
        welcome: &Welcome,
    ) -> Result<Option<EventNid>, RoomError> {
        let shared = &self.shared;
        let row = shared.store.rooms().find(&room.room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if row.room_version != welcome.version {
            return Err(RoomError::Invalid("the room is of another version than before".into()));
        }
        let all = welcome.chain.iter().chain(&welcome.state).cloned().collect();
        let named = self.add_outliers(write, room.nid, &welcome.rules, all).await?;
        let (held, events) = held_state(&welcome.state, &named);
        check_join(&welcome.join, user_id, &welcome.rules, &held, &events)?;

        shared.store.ensure_nids(3).await?;
        let known = self.events_by_id(std::slice::from_ref(&welcome.join.event_id)).await?.pop();
        let (before, after) = (SnapshotNid(shared.store.next_nid()), SnapshotNid(shared.store.next_nid()));
        let nid = known.as_ref().map_or_else(|| EventNid(shared.store.next_nid()), |event| event.nid);
        state::insert_snapshot(write, before, room.nid, None, 0, held.values().copied());
        state::insert_snapshot(write, after, room.nid, Some(before), 1, [nid]);

        let offset = write.position();
        // Who was here before goes on counting; if somebody else does meanwhile, the version is no longer what it was.
        let seq = Some(shared.store.events().latest_seq(room.nid).await? + 1);
        let event = first_event(nid, room.nid, Arc::new(welcome.join.clone()), before);
        let event = Arc::new(TimelineEvent { seq, ..event });
        match &known {
            Some(_) => events::settle(write, &event, Arg::Position(offset)),
            None => events::insert(write, &event, Arg::Position(offset)),
        }
        for missing in &welcome.join.prev_events {
            events::insert_backward_extremity(write, room.nid, missing);
        }
        let now = held.update((StateEventType::RoomMember, user_id.to_string()), nid);
        self.write_current(write, room.nid, &row, &now).await?;
        for (key, event_nid) in now.iter().filter(|(key, _)| key.0 == StateEventType::RoomMember) {
            let pdu = if *event_nid == nid { Some(&event.pdu) } else { events.get(key) };
            if let Some(pdu) = pdu {
                put_member(write, room.nid, &key.1, pdu, *event_nid, Arg::Position(offset));
            }
        }
        let version = RoomVersion { count: row.version.count + 1, head: nid };
        write.room_step(room.nid, row.version, version);
        let extremities = vec![(event.pdu.event_id.clone(), event.pdu.depth)];
        store::rooms::put_room(write, &RoomRow { version, extremities, snapshot: after, ..row });
        // Others here may have been in the room before, or be invited: they look it up.
        write.tell_not_all();
        write.tell(offset, Change::Event(event));
        Ok(known.map(|event| event.nid))
    }

    async fn write_current(
        &self,
        write: &mut Write,
        nid: RoomNid,
        row: &RoomRow,
        now: &StateMap,
    ) -> Result<(), RoomError> {
        if row.snapshot != SnapshotNid(0) {
            for (key, _) in self.state_at(row.snapshot).await?.iter().filter(|(key, _)| !now.contains_key(*key)) {
                state::remove_current(write, nid, key);
            }
        }
        for (key, event) in now {
            state::put_current(write, nid, key, *event);
        }
        Ok(())
    }
}

/// The state that the other server tells of, as far as it is allowed.
fn held_state(state: &[Pdu], named: &Authorised) -> (StateMap, AuthState) {
    let (mut held, mut events) = (StateMap::new(), AuthState::new());
    for pdu in state {
        let Some((nid, pdu)) = named.get(&pdu.event_id).filter(|(_, pdu)| !pdu.rejected) else { continue };
        if let Some(key) = pdu.state() {
            held.insert(key.clone(), *nid);
            events.insert(key, pdu.clone());
        }
    }
    (held, events)
}

/// The join is what was asked for, and the state that was told allows it.
fn check_join(
    join: &Pdu,
    user_id: &UserId,
    rules: &RoomVersionRules,
    held: &StateMap,
    events: &AuthState,
) -> Result<(), RoomError> {
    let is_join =
        join.state_key.as_deref() == Some(user_id.as_str()) && membership_of(join) == Some(MembershipState::Join);
    if !is_join || !held.contains_key(&(StateEventType::RoomCreate, String::new())) {
        return Err(RoomError::Invalid(
            "the other server told of no room that could be joined, or of one whose creation can't be verified".into(),
        ));
    }
    let deciding = auth::deciding(&Subject::from(join), rules)?;
    let state = deciding.into_iter().filter_map(|key| Some((key.clone(), events.get(&key)?.clone()))).collect();
    auth::check_by_state(join, rules, &state)
}

fn put_member(write: &mut Write, room: RoomNid, user_id: &str, pdu: &Pdu, nid: EventNid, position: Arg) {
    let Some(membership) = membership_of(pdu) else { return };
    let profile: MemberProfile = pdu.content_as().unwrap_or_default();
    store::rooms::put_membership(
        write,
        room,
        user_id,
        &membership,
        &pdu.sender,
        nid,
        position,
        profile.display_name.as_deref(),
        profile.avatar_url.as_deref(),
    );
}
