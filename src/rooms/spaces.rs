//! What a room tells to those who might join it, and the rooms that a space gathers.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#spaces>

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use model::TimelineEvent;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::{JoinRuleKind, RoomType},
};
use serde::Deserialize;

use crate::{Listing, RoomError, Rooms, live::SharedRoom};

/// A tree of spaces is walked no further.
const LARGEST_TREE: usize = 2_000;
/// Another server is told of so many rooms of a space.
const LARGEST_PAGE: usize = 100;
/// And no deeper, whatever the asker allows.
const DEEPEST: usize = 50;

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
    pub children: Vec<Arc<TimelineEvent>>,
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
struct Child {
    room_id: OwnedRoomId,
    order: Option<String>,
    is_suggested: bool,
    moment: MilliSecondsSinceUnixEpoch,
    event: Arc<TimelineEvent>,
}

impl Rooms {
    /// What the room tells to `user_id`, or to anybody: only if they are in it, or may come in or look in.
    pub async fn summary(
        &self,
        room_id: &RoomId,
        user_id: Option<&UserId>,
    ) -> Result<(Listing, Option<MembershipState>), RoomError> {
        let unknown = || RoomError::NotFound("there is no such room, or you may not see it".into());
        let room = match self.get(room_id).await {
            Err(RoomError::UnknownRoom) => return Err(unknown()),
            room => room?,
        };
        let listing = self.describe_now(&room).await?;
        if !self.may_see_summary(&room, &listing, user_id).await? {
            return Err(unknown());
        }
        let membership = match user_id {
            Some(user_id) => Some(self.membership(&room, user_id).await?.unwrap_or(MembershipState::Leave)),
            None => None,
        };
        Ok((listing, membership))
    }

    /// A page of the rooms below a space, as far as `user_id` may see them.
    pub async fn tree(&self, room_id: &RoomId, user_id: &UserId, request: TreeRequest) -> Result<Tree, RoomError> {
        let refused = || RoomError::Forbidden("there is no such space, or you may not see it".into());
        let root = self.get(room_id).await.map_err(|error| match error {
            RoomError::UnknownRoom => refused(),
            error => error,
        })?;
        let deepest = request.max_depth.unwrap_or(DEEPEST).min(DEEPEST);
        let mut tree = Tree { rooms: Vec::new(), has_more: false };
        let mut seen = HashSet::from([root.room_id.clone()]);
        // The next room is the last one here, so that a room's own come before its neighbours.
        let mut waiting = vec![(root, 0)];
        let mut shown = 0;
        while let Some((room, depth)) = waiting.pop() {
            let listing = self.describe_now(&room).await?;
            if !self.may_see_summary(&room, &listing, Some(user_id)).await? {
                if depth == 0 {
                    return Err(refused());
                }
                continue;
            }
            if tree.rooms.len() == request.limit {
                tree.has_more = true;
                break;
            }
            let is_space = listing.room_type == Some(RoomType::Space);
            let mut children = if is_space { self.children(&room).await? } else { Vec::new() };
            children.retain(|child| child.is_suggested || !request.suggested_only);
            if depth < deepest {
                for child in children.iter().rev() {
                    // Rooms that are not known here can't be described by this server.
                    if seen.len() < LARGEST_TREE
                        && seen.insert(child.room_id.clone())
                        && let Ok(room) = self.get(&child.room_id).await
                    {
                        waiting.push((room, depth + 1));
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
        if self.may_see_summary(room, listing, None).await? || self.has_server(room, origin).await? {
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
        let mut children: Vec<_> = events.into_iter().filter_map(Child::read).collect();
        children.sort_by(Child::compare);
        Ok(children)
    }

    /// Whether somebody may know what the room is like: who is in it or invited, or may come in, ask to, or look in.
    async fn may_see_summary(
        &self,
        room: &SharedRoom,
        listing: &Listing,
        user_id: Option<&UserId>,
    ) -> Result<bool, RoomError> {
        let is_open =
            matches!(listing.join_rule, JoinRuleKind::Public | JoinRuleKind::Knock | JoinRuleKind::KnockRestricted);
        if is_open || listing.world_readable {
            return Ok(true);
        }
        let Some(user_id) = user_id else { return Ok(false) };
        let membership = self.membership(room, user_id).await?;
        if matches!(membership, Some(MembershipState::Join | MembershipState::Invite)) {
            return Ok(true);
        }
        if listing.join_rule != JoinRuleKind::Restricted {
            return Ok(false);
        }
        for allowed in &listing.allowed_room_ids {
            let Ok(allowed) = self.get(allowed).await else { continue };
            if self.membership(&allowed, user_id).await? == Some(MembershipState::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Child {
    /// Reads an event; one that names no server by which the room can be reached says that it is no child any more.
    fn read(event: Arc<TimelineEvent>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: Vec<OwnedServerName>,
            order: Option<serde_json::Value>,
            #[serde(default)]
            suggested: bool,
        }
        let content: Content = event.pdu.content_as()?;
        let room_id = OwnedRoomId::try_from(event.pdu.state_key.as_deref()?).ok()?;
        let order = content.order.as_ref().and_then(|order| order.as_str()).filter(|order| is_order(order));
        (!content.via.is_empty()).then(|| Self {
            room_id,
            order: order.map(str::to_owned),
            is_suggested: content.suggested,
            moment: event.pdu.origin_server_ts,
            event,
        })
    }

    /// By `order`, those that have none last; then by age; then by room id.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space>
    fn compare(&self, other: &Self) -> Ordering {
        let by_order = match (&self.order, &other.order) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        by_order.then_with(|| self.moment.cmp(&other.moment)).then_with(|| self.room_id.cmp(&other.room_id))
    }
}

/// At most 50 characters, all of them printable ASCII.
fn is_order(order: &str) -> bool {
    order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}
