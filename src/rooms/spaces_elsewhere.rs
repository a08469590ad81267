//! What other servers tell of rooms that nobody here is in.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#spaces>

use std::{sync::Arc, time::Duration};

use model::Millis;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId,
    api::federation::space::get_hierarchy::v1 as get_hierarchy,
    room::{JoinRuleSummary, RoomSummary, RoomType},
};
use tracing::debug;

use crate::{Listing, Rooms, now, spaces::Child};

/// How long another server may take to tell of a room.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what it told is good for; and how long, that nobody told anything.
const FRESH: Millis = 5 * 60_000;
const SILENT: Millis = 60_000;
/// How many servers are asked for one room.
const MOST_ASKED: usize = 3;
/// How many rooms one server may tell of at once, and a space may name.
const MOST_CHILDREN: usize = 1_000;

/// What was told of rooms, if anything, and until when it is good.
pub(crate) type Told = quick_cache::sync::Cache<OwnedRoomId, (Millis, Option<Arc<Elsewhere>>)>;

/// A room elsewhere, and the rooms that it names.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(crate) listing: Listing,
    pub(crate) children: Vec<Child>,
    /// What the same server told of those.
    pub(crate) rooms: Vec<Listing>,
}

impl Rooms {
    /// What the first of `servers` that answers tells of a room. It may be some minutes old.
    pub(crate) async fn elsewhere(&self, room_id: &RoomId, servers: &[OwnedServerName]) -> Option<Arc<Elsewhere>> {
        let told = &self.shared.told;
        told.remove_if(room_id, |(until, _)| *until <= now());
        let asked = told.get_or_insert_async(room_id, async {
            let found = self.ask_for(room_id, servers).await.map(Arc::new);
            let lifetime = if found.is_some() { FRESH } else { SILENT };
            Ok::<_, std::convert::Infallible>((now() + lifetime, found))
        });
        let Ok((_, found)) = asked.await;
        found
    }

    async fn ask_for(&self, room_id: &RoomId, servers: &[OwnedServerName]) -> Option<Elsewhere> {
        let others = servers.iter().filter(|server| **server != *self.server_name());
        for server in others.take(MOST_ASKED) {
            let request = get_hierarchy::Request::new(room_id.to_owned());
            match self.shared.peers.ask_within(PATIENCE, server, request).await {
                Ok(answer) if answer.room.summary.room_id == room_id => return Some(read(answer)),
                Ok(_) => {
                    debug!(room.id = %room_id, server.name = %server, "{server} told of another room than was asked for")
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    debug!(room.id = %room_id, server.name = %server, error, "{server} told nothing of {room_id}");
                }
            }
        }
        None
    }
}

fn read(answer: get_hierarchy::Response) -> Elsewhere {
    let children = answer.room.children_state.into_iter().take(MOST_CHILDREN);
    let mut children: Vec<Child> = children.filter_map(Child::read).collect();
    children.sort_by(Child::compare);
    // A space's own rooms it has to be asked for itself.
    let rooms = answer.children.into_iter().take(MOST_CHILDREN).map(listing);
    let rooms = rooms.filter(|listing| listing.room_type != Some(RoomType::Space)).collect();
    Elsewhere { listing: listing(answer.room.summary), children, rooms }
}

fn listing(summary: RoomSummary) -> Listing {
    let join_rule = summary.join_rule.kind();
    let allowed_room_ids = match summary.join_rule {
        JoinRuleSummary::Restricted(allowed) | JoinRuleSummary::KnockRestricted(allowed) => allowed.allowed_room_ids,
        _ => Vec::new(),
    };
    Listing {
        room_id: summary.room_id,
        joined: summary.num_joined_members.into(),
        canonical_alias: summary.canonical_alias,
        name: summary.name,
        topic: summary.topic,
        avatar_url: summary.avatar_url,
        join_rule,
        allowed_room_ids,
        room_type: summary.room_type,
        world_readable: summary.world_readable,
        guest_can_join: summary.guest_can_join,
        encryption: summary.encryption,
        version: summary.room_version,
    }
}
