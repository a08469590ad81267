//! What a room tells to those who might join it, and the rooms that a space gathers.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#spaces>

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    time::Duration,
};

use model::TimelineEvent;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState, space::child::HierarchySpaceChildEvent},
    room::{JoinRuleKind, RoomType},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};
use tokio::time::{Instant, timeout_at};

use crate::{Listing, RoomError, Rooms, live::SharedRoom};

/// A tree of spaces is walked no further.
const LARGEST_TREE: usize = 2_000;
/// Another server is told of so many rooms of a space.
const LARGEST_PAGE: usize = 100;
/// And no deeper, whatever the asker allows.
const DEEPEST: usize = 50;
/// So long other servers are asked for one page.
const PATIENCE: Duration = Duration::from_secs(20);

/// What of a space is asked for.
#[derive(Clone, Copy, Debug)]
pub struct TreeRequest {
    /// How far below the space; `None`: as far as it goes.
    pub max_depth: Option<usize>,
    /// Only rooms that their space suggests.
    pub suggested_only: bool,
    /// How many rooms to leave out at the beginning,
    pub skip: usize,
    /// and how many to answer then.
    pub limit: usize,
}

/// A room in a tree of spaces.
#[derive(Debug)]
pub struct Branch {
    /// The room.
    pub listing: Listing,
    /// Its `m.space.child` events, in the order in which the space wants its rooms shown.
    pub children: Vec<Raw<HierarchySpaceChildEvent>>,
}

/// A page of a tree of spaces.
#[derive(Debug)]
pub struct Tree {
    /// Each room once: the space, then its rooms, each followed by its own.
    pub rooms: Vec<Branch>,
    /// Whether there are more.
    pub has_more: bool,
}

/// An `m.space.child` event that counts.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    order: Option<String>,
    is_suggested: bool,
    moment: MilliSecondsSinceUnixEpoch,
    event: Raw<HierarchySpaceChildEvent>,
}

/// A room on the way through a tree.
struct Ahead {
    room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    depth: usize,
}

impl Rooms {
    /// What the room tells to `user_id`, or to anybody: only if they are in it, or may come in or look in. Servers in `via`
    /// are asked for a room that nobody here is in.
    pub async fn summary(
        &self,
        room_id: &RoomId,
        user_id: Option<&UserId>,
        via: &[OwnedServerName],
    ) -> Result<(Listing, Option<MembershipState>), RoomError> {
        let unknown = || RoomError::NotFound("there is no such room, or you may not see it".into());
        let listing = match self.resident(room_id).await? {
            Some(room) => self.describe_now(&room).await?,
            None => self.elsewhere(room_id, via).await.ok_or_else(unknown)?.listing.clone(),
        };
        if !self.may_see_summary(&listing, user_id).await? {
            return Err(unknown());
        }
        let membership = match user_id {
            Some(user_id) => Some(self.membership_by_id(room_id, user_id).await?.unwrap_or(MembershipState::Leave)),
            None => None,
        };
        Ok((listing, membership))
    }

    /// A page of the rooms below a space, as far as `user_id` may see them. Other servers are asked for those that nobody
    /// here is in, as long as there is time.
    pub async fn tree(&self, room_id: &RoomId, user_id: &UserId, request: TreeRequest) -> Result<Tree, RoomError> {
        let refused = || RoomError::Forbidden("there is no such space, or you may not see it".into());
        let patience = Instant::now() + PATIENCE;
        let deepest = request.max_depth.unwrap_or(DEEPEST).min(DEEPEST);
        let mut tree = Tree { rooms: Vec::new(), has_more: false };
        let mut seen = HashSet::from([room_id.to_owned()]);
        let mut told: HashMap<OwnedRoomId, Listing> = HashMap::new();
        // The next room is the last one here, so that a room's own come before its neighbours.
        let via = room_id.server_name().map(ToOwned::to_owned).into_iter().collect();
        let mut ahead = vec![Ahead { room_id: room_id.to_owned(), via, depth: 0 }];
        let mut shown = 0;
        while let Some(Ahead { room_id, via, depth }) = ahead.pop() {
            let found = self.look_at(&room_id, &via, &mut told, patience).await?;
            let Some((listing, mut children)) = found else {
                if depth == 0 {
                    return Err(refused());
                }
                continue;
            };
            if !self.may_see_summary(&listing, Some(user_id)).await? {
                if depth == 0 {
                    return Err(refused());
                }
                continue;
            }
            if tree.rooms.len() == request.limit {
                tree.has_more = true;
                break;
            }
            children.retain(|child| child.is_suggested || !request.suggested_only);
            if depth < deepest {
                for child in children.iter().rev() {
                    if seen.len() < LARGEST_TREE && seen.insert(child.room_id.clone()) {
                        let (room_id, via) = (child.room_id.clone(), child.via.clone());
                        ahead.push(Ahead { room_id, via, depth: depth + 1 });
                    }
                }
            }
            if shown >= request.skip {
                tree.rooms.push(Branch { listing, children: children.into_iter().map(|child| child.event).collect() });
            }
            shown += 1;
        }
        Ok(tree)
    }

    /// A room and the rooms that it names if it is a space, as they are here, or as another server tells.
    async fn look_at(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        told: &mut HashMap<OwnedRoomId, Listing>,
        patience: Instant,
    ) -> Result<Option<(Listing, Vec<Child>)>, RoomError> {
        if let Some(room) = self.resident(room_id).await? {
            let listing = self.describe_now(&room).await?;
            let is_space = listing.room_type == Some(RoomType::Space);
            let children = if is_space { self.children(&room).await? } else { Vec::new() };
            return Ok(Some((listing, children)));
        }
        if let Some(listing) = told.remove(room_id) {
            return Ok(Some((listing, Vec::new())));
        }
        let Ok(found) = timeout_at(patience, self.elsewhere(room_id, via)).await else { return Ok(None) };
        Ok(found.map(|found| {
            told.extend(found.rooms.iter().map(|listing| (listing.room_id.clone(), listing.clone())));
            (found.listing.clone(), found.children.clone())
        }))
    }

    /// The room, if somebody of this server is in it.
    async fn resident(&self, room_id: &RoomId) -> Result<Option<SharedRoom>, RoomError> {
        match self.get(room_id).await {
            Ok(room) if self.is_resident(&room).await? => Ok(Some(room)),
            Ok(_) | Err(RoomError::UnknownRoom) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn membership_by_id(&self, room_id: &RoomId, user_id: &UserId) -> Result<Option<MembershipState>, RoomError> {
        match self.get(room_id).await {
            Ok(room) => self.membership(&room, user_id).await,
            Err(RoomError::UnknownRoom) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A space and the rooms that it names, as far as the people of `origin` may know of them; and those that they may not.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#spaces>
    pub async fn branches_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<(Branch, Vec<Branch>, Vec<OwnedRoomId>), RoomError> {
        let unknown = || RoomError::NotFound("there is no such room, or your server may not see it".into());
        let space = self.get(room_id).await.map_err(|_| unknown())?;
        let listing = self.describe_now(&space).await?;
        if !self.is_resident(&space).await? || !self.server_may_see_summary(&space, &listing, origin).await? {
            return Err(unknown());
        }
        let mut children = self.children(&space).await?;
        children.retain(|child| child.is_suggested || !suggested_only);
        let (mut known, mut hidden) = (Vec::new(), Vec::new());
        for child in children.iter().take(LARGEST_PAGE) {
            // Rooms that are not known here the other server has to ask others for.
            let Ok(room) = self.get(&child.room_id).await else { continue };
            if !self.is_resident(&room).await? {
                continue;
            }
            let listing = self.describe_now(&room).await?;
            if self.server_may_see_summary(&room, &listing, origin).await? {
                known.push(Branch { listing, children: Vec::new() });
            } else {
                hidden.push(child.room_id.clone());
            }
        }
        let children = children.into_iter().map(|child| child.event).collect();
        Ok((Branch { listing, children }, known, hidden))
    }

    async fn server_may_see_summary(
        &self,
        room: &SharedRoom,
        listing: &Listing,
        origin: &ServerName,
    ) -> Result<bool, RoomError> {
        if !self.acl_allows(room, origin).await? {
            return Ok(false);
        }
        if self.may_see_summary(listing, None).await? || self.has_server(room, origin).await? {
            return Ok(true);
        }
        let invited = self.shared.store.rooms().members(room.nid, &MembershipState::Invite).await?;
        if invited.iter().any(|member| member.user_id.server_name() == origin) {
            return Ok(true);
        }
        for allowed in &listing.allowed_room_ids {
            let Ok(allowed) = self.get(allowed).await else { continue };
            if self.has_server(&allowed, origin).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rooms that a space names, in its order.
    async fn children(&self, space: &SharedRoom) -> Result<Vec<Child>, RoomError> {
        let view = self.view(space).await?;
        let nids = view.state.iter().filter(|((kind, _), _)| *kind == StateEventType::SpaceChild).map(|(_, nid)| *nid);
        let events = self.events(nids).await?;
        let mut children: Vec<_> = events.iter().filter_map(|event| Child::read(stripped(event))).collect();
        children.sort_by(Child::compare);
        Ok(children)
    }

    /// Whether somebody may know what the room is like: who is in it or invited, or may come in, ask to, or look in.
    async fn may_see_summary(&self, listing: &Listing, user_id: Option<&UserId>) -> Result<bool, RoomError> {
        let is_open =
            matches!(listing.join_rule, JoinRuleKind::Public | JoinRuleKind::Knock | JoinRuleKind::KnockRestricted);
        if is_open || listing.world_readable {
            return Ok(true);
        }
        let Some(user_id) = user_id else { return Ok(false) };
        let membership = self.membership_by_id(&listing.room_id, user_id).await?;
        if matches!(membership, Some(MembershipState::Join | MembershipState::Invite)) {
            return Ok(true);
        }
        if listing.join_rule != JoinRuleKind::Restricted {
            return Ok(false);
        }
        for allowed in &listing.allowed_room_ids {
            if self.membership_by_id(allowed, user_id).await? == Some(MembershipState::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Child {
    /// Reads an event; one that names no server by which the room can be reached says that it is no child any more.
    pub(crate) fn read(event: Raw<HierarchySpaceChildEvent>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            state_key: OwnedRoomId,
            origin_server_ts: MilliSecondsSinceUnixEpoch,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            via: Vec<OwnedServerName>,
            order: Option<serde_json::Value>,
            #[serde(default)]
            suggested: bool,
        }
        let Event { state_key: room_id, origin_server_ts: moment, content } = event.deserialize_as_unchecked().ok()?;
        let order = content.order.as_ref().and_then(|order| order.as_str()).filter(|order| is_order(order));
        let order = order.map(str::to_owned);
        (!content.via.is_empty()).then_some(Self {
            room_id,
            via: content.via,
            order,
            is_suggested: content.suggested,
            moment,
            event,
        })
    }

    /// By `order`, those that have none last; then by age; then by room id.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space>
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let by_order = match (&self.order, &other.order) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        by_order.then_with(|| self.moment.cmp(&other.moment)).then_with(|| self.room_id.cmp(&other.room_id))
    }
}

/// What of an event a tree shows.
fn stripped(event: &TimelineEvent) -> Raw<HierarchySpaceChildEvent> {
    let pdu = &event.pdu;
    let json = to_raw_value(&json!({
        "type": pdu.kind,
        "state_key": pdu.state_key,
        "content": pdu.content,
        "sender": pdu.sender,
        "origin_server_ts": pdu.origin_server_ts,
    }));
    Raw::from_json(json.expect("ids, numbers and JSON can be written as JSON"))
}

/// At most 50 characters, all of them printable ASCII.
fn is_order(order: &str) -> bool {
    order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}
