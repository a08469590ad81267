//! The rooms that this server shows to everybody.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#published-room-directory>

use std::collections::BTreeSet;

use model::{
    RoomNid,
    peer::{Capability, Context, Grant},
};
use ruma::{
    EventEncryptionAlgorithm, OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, RoomId, RoomVersionId, ServerName, UserId,
    directory::{Filter, RoomTypeFilter},
    events::StateEventType,
    room::{JoinRuleKind, RoomType},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use store::Write;

use crate::{RoomError, Rooms, live::SharedRoom, now};

/// What a room says of itself to those who aren't in it.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The room.
    pub room_id: OwnedRoomId,
    /// How many are joined.
    pub joined: u64,
    /// Its main alias.
    pub canonical_alias: Option<OwnedRoomAliasId>,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Its picture.
    pub avatar_url: Option<OwnedMxcUri>,
    /// Who may join.
    pub join_rule: JoinRuleKind,
    /// For a join rule that has them: the rooms whose members may join.
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// A space, or a kind of room that other software knows.
    pub room_type: Option<RoomType>,
    /// Whether everybody may read along.
    pub world_readable: bool,
    /// Whether guests may join.
    pub guest_can_join: bool,
    /// How its messages are encrypted, if they are.
    pub encryption: Option<EventEncryptionAlgorithm>,
    /// Which rules it obeys; of rooms elsewhere it may not have been told.
    pub version: Option<RoomVersionId>,
}

impl Rooms {
    /// Shows the room in the directory, or no more. Members whose power names the room may.
    pub async fn set_listed(&self, room: &SharedRoom, user_id: &UserId, is_listed: bool) -> Result<(), RoomError> {
        self.check_joined(room, user_id).await?;
        let power_levels = self.power_levels(room).await?;
        if !power_levels.user_can_send_state(user_id, StateEventType::RoomCanonicalAlias) {
            return Err(RoomError::Forbidden("your power level does not let you publish this room".into()));
        }
        let mut write = Write::new();
        store::aliases::set_listed(&mut write, room.nid, is_listed, now());
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// Whether the directory shows the room.
    pub async fn is_listed(&self, room: &SharedRoom) -> Result<bool, RoomError> {
        Ok(self.shared.store.aliases().is_listed(room.nid).await?)
    }

    /// The directory from place `skip` on: those with the most members first. Also how many there are in all.
    pub async fn directory(
        &self,
        filter: &Filter,
        skip: usize,
        limit: usize,
    ) -> Result<(Vec<Listing>, usize), RoomError> {
        let listed = self.shared.store.aliases().directory().await?;
        let is_whole = filter.generic_search_term.is_none() && filter.room_types.is_empty();
        if is_whole {
            // Only the page that is asked for is looked at.
            let mut page = Vec::with_capacity(limit.min(listed.len()));
            for (nid, joined) in listed.iter().skip(skip).take(limit) {
                page.push(self.listing(*nid, *joined).await?);
            }
            return Ok((page, listed.len()));
        }
        let mut found = Vec::new();
        for (nid, joined) in listed {
            let listing = self.listing(nid, joined).await?;
            if listing.matches(filter) {
                found.push(listing);
            }
        }
        let total = found.len();
        Ok((found.into_iter().skip(skip).take(limit).collect(), total))
    }

    /// Those of these rooms of the directory that another server is shown; `None`: all of them. Refused where it is shown none.
    ///
    /// Whom only some are shown gets those that say how far a server must be trusted for them, if it is.
    pub async fn listed_for(
        &self,
        server: &ServerName,
        room_ids: impl Iterator<Item = &RoomId>,
    ) -> Result<Option<BTreeSet<OwnedRoomId>>, RoomError> {
        let trust = self.trust();
        if trust.allow(server, Capability::PublicRooms, &Context::inbound())?.grant != Grant::Listed {
            return Ok(None);
        }
        let level = trust.regard(server).level;
        let mut listed = BTreeSet::new();
        for room_id in room_ids {
            let room = self.get(room_id).await?;
            if self.ceiling(&room).await?.is_some_and(|least| least <= level) {
                listed.insert(room_id.to_owned());
            }
        }
        Ok(Some(listed))
    }

    async fn listing(&self, nid: RoomNid, joined: u64) -> Result<Listing, RoomError> {
        let row = self.shared.store.rooms().find_by_nid(nid).await?.ok_or(RoomError::UnknownRoom)?;
        let room = self.get(&row.room_id).await?;
        self.describe(&room, joined).await
    }

    /// What the room says of itself now.
    pub(crate) async fn describe_now(&self, room: &SharedRoom) -> Result<Listing, RoomError> {
        let (joined, _) = self.shared.store.rooms().member_counts(room.nid).await?;
        self.describe(room, joined).await
    }

    async fn describe(&self, room: &SharedRoom, joined: u64) -> Result<Listing, RoomError> {
        Ok(Listing {
            room_id: room.room_id.clone(),
            joined,
            canonical_alias: self.said(room, StateEventType::RoomCanonicalAlias, "alias").await?,
            name: self.said(room, StateEventType::RoomName, "name").await?,
            topic: self.said(room, StateEventType::RoomTopic, "topic").await?,
            avatar_url: self.said(room, StateEventType::RoomAvatar, "url").await?,
            join_rule: self
                .said(room, StateEventType::RoomJoinRules, "join_rule")
                .await?
                .unwrap_or(JoinRuleKind::Invite),
            allowed_room_ids: self
                .said::<Vec<Allowed>>(room, StateEventType::RoomJoinRules, "allow")
                .await?
                .map(|allowed| allowed.into_iter().filter_map(|allowed| allowed.room_id).collect())
                .unwrap_or_default(),
            room_type: self.said(room, StateEventType::RoomCreate, "type").await?,
            world_readable: self
                .says(room, StateEventType::RoomHistoryVisibility, "history_visibility", "world_readable")
                .await?,
            guest_can_join: self.says(room, StateEventType::RoomGuestAccess, "guest_access", "can_join").await?,
            encryption: self.said(room, StateEventType::RoomEncryption, "algorithm").await?,
            version: Some(room.version.clone()),
        })
    }

    /// One field of a state event's content, if it is there and reads as `T`.
    async fn said<T: for<'a> Deserialize<'a>>(
        &self,
        room: &SharedRoom,
        kind: StateEventType,
        field: &str,
    ) -> Result<Option<T>, RoomError> {
        let content: Option<Map<String, Value>> = self.state_content(room, kind).await?;
        Ok(content.and_then(|mut content| serde_json::from_value(content.remove(field)?).ok()))
    }

    async fn says(&self, room: &SharedRoom, kind: StateEventType, field: &str, value: &str) -> Result<bool, RoomError> {
        Ok(self.said::<String>(room, kind, field).await?.is_some_and(|said| said == value))
    }
}

/// A condition of a restricted join rule, of those that this server knows.
#[derive(Deserialize)]
struct Allowed {
    room_id: Option<OwnedRoomId>,
}

impl Listing {
    fn matches(&self, filter: &Filter) -> bool {
        let is_of_type = filter.room_types.is_empty()
            || filter.room_types.iter().any(|wanted| *wanted == RoomTypeFilter::from(self.room_type.clone()));
        let term = filter.generic_search_term.as_deref().unwrap_or_default().to_lowercase();
        let alias = self.canonical_alias.as_ref().map(|alias| alias.as_str());
        let texts = [self.name.as_deref(), self.topic.as_deref(), alias];
        is_of_type && (term.is_empty() || texts.iter().flatten().any(|text| text.to_lowercase().contains(&term)))
    }
}
