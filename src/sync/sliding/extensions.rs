//! What a connection wants besides rooms.

use std::collections::HashMap;

use model::{Position, RoomNid};
use ruma::{OwnedRoomId, events::room::member::MembershipState};

use super::{
    View,
    answer::{EndToEnd, SlidingAnswer, ToDevice},
    connection::Known,
    lists::Sight,
    room::Heard,
    wanted::{InRooms, ToDeviceWanted},
};
use crate::{Answer, SyncError, cells::Membership, streams::receipts};

const MESSAGES: usize = 100;

impl View<'_> {
    pub(super) async fn extensions(
        &self,
        sight: &Sight,
        heard: &HashMap<RoomNid, Heard>,
        known: &mut Known,
        answer: &mut SlidingAnswer,
    ) -> Result<(), SyncError> {
        let wanted = &self.request.extensions;
        if let Some(wanted) = &wanted.to_device {
            answer.to_device = Some(self.to_device(wanted).await?);
        }
        if wanted.e2ee {
            let mut lists = Answer::default();
            self.look.device_lists(&mut lists).await?;
            answer.end_to_end = Some(EndToEnd { lists: lists.device_lists, keys: self.look.keys().await? });
        }
        if let Some(rooms) = &wanted.account_data {
            self.account_data(rooms, sight, heard, answer).await?;
            known.account_data |= !known.rooms.is_empty();
        }
        if let Some(rooms) = &wanted.receipts {
            self.receipts(rooms, sight, heard, answer).await?;
            known.receipts |= !known.rooms.is_empty();
        }
        if let Some(rooms) = &wanted.typing {
            self.typing(rooms, sight, heard, answer);
        }
        Ok(())
    }

    /// Messages stay until the device comes with a later `since`: none is lost with an answer.
    async fn to_device(&self, wanted: &ToDeviceWanted) -> Result<ToDevice, SyncError> {
        let limit = wanted.limit.unwrap_or(MESSAGES);
        let since = match &wanted.since {
            None => None,
            Some(since) => {
                let number = since.parse::<i64>().ok().filter(|number| *number >= 0).map(Position);
                let position =
                    number.ok_or_else(|| SyncError::Token { field: "to_device.since", token: since.clone() })?;
                let shared = &self.look.sync.shared;
                // Of a later position nobody was told: what waits is told, and nothing of it is taken for known.
                shared.notifier.reach(&shared.store, position).await?.then_some(position)
            }
        };
        let (events, are_more) = match self.look.device_id.is_empty() {
            true => (Vec::new(), false),
            false => self.look.waiting(since, limit).await?,
        };
        let told = if are_more { events.last().map(|message| message.position) } else { None };
        Ok(ToDevice { events, next_batch: told.unwrap_or(self.look.upto.max(since.unwrap_or_default())) })
    }

    /// The rooms in sight of which something is wanted, with where they are heard of from on.
    fn wanted_rooms<'v>(
        &'v self,
        wanted: &'v InRooms,
        sight: &'v Sight,
        heard: &'v HashMap<RoomNid, Heard>,
    ) -> impl Iterator<Item = (RoomNid, &'v Membership, Heard)> {
        sight.rooms.iter().filter_map(move |(nid, interest)| {
            let membership = self.look.memberships.get(nid)?;
            let includes = wanted.includes(membership.room_id.as_str(), &interest.lists, interest.is_subscribed);
            if includes { Some((*nid, membership, *heard.get(nid)?)) } else { None }
        })
    }

    /// What the user keeps here, global and of rooms. No query when nothing was set.
    async fn account_data(
        &self,
        wanted: &InRooms,
        sight: &Sight,
        heard: &HashMap<RoomNid, Heard>,
        answer: &mut SlidingAnswer,
    ) -> Result<(), SyncError> {
        let is_new = self.since().is_none();
        let since = self.since().unwrap_or_default();
        // Rooms were in sight before account data was wanted.
        let is_late = !self.base.known.account_data && !self.base.known.rooms.is_empty();
        let rooms: HashMap<&OwnedRoomId, Position> = self
            .wanted_rooms(wanted, sight, heard)
            .map(|(_, membership, heard)| (&membership.room_id, heard.from.filter(|_| !is_late).unwrap_or_default()))
            .collect();
        let earliest = rooms.values().copied().chain([since]).min().unwrap_or(since);
        if !is_new && earliest >= self.look.user.lock().account_data {
            return Ok(());
        }
        let mut data = self.look.sync.shared.store.account_data().since(self.look.user_id(), earliest).await?;
        data.retain(|datum| is_new || datum.position <= self.look.upto);
        let mut global = Answer::default();
        let of_account: Vec<_> = data.iter().filter(|datum| datum.position > since || is_new).cloned().collect();
        self.look.global_account_data(&of_account, &mut global).await?;
        answer.account_data = global.account_data;
        for (room_id, from) in rooms {
            let of_room: Vec<_> = data.iter().filter(|datum| datum.position > from).cloned().collect();
            let contents = self.look.room_account_data(room_id, &of_room);
            if !contents.is_empty() {
                answer.room_account_data.push((room_id.clone(), contents));
            }
        }
        Ok(())
    }

    /// Who has read how far. Of a room that comes into sight only what belongs to the events told, and what the user has read.
    async fn receipts(
        &self,
        wanted: &InRooms,
        sight: &Sight,
        heard: &HashMap<RoomNid, Heard>,
        answer: &mut SlidingAnswer,
    ) -> Result<(), SyncError> {
        let is_late = !self.base.known.receipts && !self.base.known.rooms.is_empty();
        for (nid, membership, heard) in self.wanted_rooms(wanted, sight, heard) {
            let is_joined = membership.membership == MembershipState::Join;
            let is_whole = heard.is_whole || is_late;
            let from = heard.from.filter(|_| !is_whole).unwrap_or_default();
            if !is_joined || (!is_whole && self.look.latest_in(nid, membership) <= from && heard.from >= self.since()) {
                continue;
            }
            let mut receipts = self.look.receipts_since(nid, membership, from).await?;
            if is_whole {
                let room = answer.rooms.iter().find(|room| room.room_id == membership.room_id);
                let events = room.map_or(&[][..], |room| room.timeline_events());
                receipts.retain(|receipt| {
                    receipt.user_id == *self.look.user_id()
                        || events.iter().any(|event| event.shown.event.pdu.event_id == receipt.event_id)
                });
            }
            if !receipts.is_empty() {
                answer.receipts.push((membership.room_id.clone(), receipts::render(&receipts)));
            }
        }
        Ok(())
    }

    fn typing(&self, wanted: &InRooms, sight: &Sight, heard: &HashMap<RoomNid, Heard>, answer: &mut SlidingAnswer) {
        for (_, membership, heard) in self.wanted_rooms(wanted, sight, heard) {
            if membership.membership != MembershipState::Join {
                continue;
            }
            let from = heard.from.unwrap_or_default();
            let typing = self.look.typing(&membership.room_id, &membership.room.lock(), from);
            answer.typing.extend(typing.map(|typing| (membership.room_id.clone(), typing)));
        }
    }
}
