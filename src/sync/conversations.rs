//! Somebody's conversations: the rooms that the user is in, the latest first, each with what a list shows of it.
//!
//! What it costs goes with how many rooms the user is in and how many are shown, never with what was said in them.

mod direct;
mod settings;

use std::collections::{HashMap, HashSet};

use model::{Millis, Position, RoomNid};
use rooms::WITHDRAWS;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, UserId, api::client::filter::FilterDefinition,
    events::room::member::MembershipState, push::Ruleset,
};
use serde::Deserialize;
use serde_json::{Value, json};
use store::conversations::{Face, MemberName};

use crate::{
    Sync, SyncError, UnreadCounts, cells::Membership, filter::Filter, now, request::Look, settings::Ignored,
    streams::events::Stretch,
};

use settings::Kept;
pub use settings::{Mark, Settings};

/// So many of a room's latest events are looked at for the last thing that was said.
const LOOKED_AT: u32 = 30;
/// After how many members a nameless conversation is called.
const NAMED_AFTER: usize = 5;

/// Which conversations are wanted.
#[derive(Clone, Debug)]
pub struct ConversationsWanted {
    /// Those that the user is in, or, with `Invite`, those to which the user is invited.
    pub membership: MembershipState,
    /// Those in which something was said last before this; `None`: from the latest on.
    pub before: Option<Position>,
    /// How many at most.
    pub limit: usize,
    /// Only those that are pinned.
    pub only_pinned: bool,
    /// Only those in which something is unread.
    pub only_unread: bool,
}

/// A page of conversations, the latest first.
#[derive(Debug, Default)]
pub struct ConversationPage {
    /// The conversations.
    pub conversations: Vec<Conversation>,
    /// Where the next page begins; `None`: there is nothing more.
    pub next: Option<Position>,
}

/// A conversation as a list shows it.
#[derive(Debug)]
pub struct Conversation {
    /// The room.
    pub room_id: OwnedRoomId,
    /// What the user is to it.
    pub membership: MembershipState,
    /// What it is called: its name, or else after its members.
    pub name: Option<String>,
    /// What it is about.
    pub topic: Option<String>,
    /// Its picture; of a direct one the other's.
    pub avatar_url: Option<String>,
    /// Only its members' devices can read what is said.
    pub is_encrypted: bool,
    /// It is with one other.
    pub is_direct: bool,
    /// Who that is, or, of an invitation, who invites.
    pub other: Option<MemberName>,
    /// How many are in it.
    pub joined: u64,
    /// How many are invited.
    pub invited: u64,
    /// The last thing that was said, as far as the user sees it.
    pub last: Option<LastEvent>,
    /// The number of its latest event; 0: none has one.
    pub last_seq: i64,
    /// The number of the last event that the user has read; `None`: the user has read nothing, or nothing that has a number.
    pub read_seq: Option<i64>,
    /// How much the user hasn't read.
    pub unread: UnreadCounts,
    /// When something happened last, milliseconds since 1970.
    pub active_at: Option<Millis>,
    /// How the user wants to have it.
    pub settings: Settings,
}

/// An event as a client is shown it.
#[derive(Clone, Debug)]
pub struct LastEvent {
    /// The event, without its room id, with its latest edit among `unsigned`'s `m.relations`.
    pub event: Value,
    /// The number it has.
    pub seq: Option<i64>,
}

/// What is the same for each conversation of a page.
struct Common<'a> {
    look: Look<'a>,
    rules: std::sync::Arc<Ruleset>,
    kept: Kept,
    faces: HashMap<RoomNid, Face>,
    read: HashMap<RoomNid, i64>,
    /// The rooms in which the user has hidden something.
    with_hidden: HashSet<RoomNid>,
}

impl Sync {
    /// A page of the user's conversations. `device_id`: whose own words are told with the names it gave them.
    pub async fn conversations(
        &self,
        user_id: &UserId,
        device_id: &str,
        wanted: &ConversationsWanted,
    ) -> Result<ConversationPage, SyncError> {
        let store = &self.shared.store;
        let (user, moment) = self.shared.notifier.user_now(store, user_id).await?;
        let kept = self.kept(user_id).await?;
        let look = self.look_for_list(&user, device_id, moment).await?;
        let mut ordered = look.by_activity(&wanted.membership).await?;
        ordered.retain(|(position, nid)| {
            let room_id = look.memberships.get(nid).map(|membership| &membership.room_id);
            wanted.before.is_none_or(|before| *position < before)
                && (!wanted.only_pinned || room_id.is_some_and(|room_id| kept.is_pinned(room_id)))
        });
        let limit = wanted.limit.max(1);
        let mut page = ConversationPage::default();
        let mut rest = ordered.as_slice();
        let mut common = Common::new(self, look, kept).await?;
        while page.conversations.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(limit - page.conversations.len()));
            rest = later;
            let nids: Vec<RoomNid> = now.iter().map(|(_, nid)| *nid).collect();
            common.read_faces(self, &nids).await?;
            for nid in nids {
                page.conversations.extend(common.conversation(nid, wanted.only_unread).await?);
            }
            page.next = now.last().map(|(position, _)| *position).filter(|_| !rest.is_empty());
        }
        Ok(page)
    }

    /// One conversation of the user's. `None`: the user neither is in it nor invited to it.
    pub async fn conversation(
        &self,
        user_id: &UserId,
        device_id: &str,
        room: RoomNid,
    ) -> Result<Option<Conversation>, SyncError> {
        let (user, moment) = self.shared.notifier.user_now(&self.shared.store, user_id).await?;
        let kept = self.kept(user_id).await?;
        let look = self.look_for_list(&user, device_id, moment).await?;
        let mut common = Common::new(self, look, kept).await?;
        common.read_faces(self, &[room]).await?;
        common.conversation(room, false).await
    }

    async fn look_for_list<'a>(
        &'a self,
        user: &'a crate::cells::InUse,
        device_id: &'a str,
        moment: crate::notifier::Moment,
    ) -> Result<Look<'a>, SyncError> {
        let mut filter = FilterDefinition::default();
        filter.room.timeline.limit = Some(LOOKED_AT.into());
        let ignored: std::sync::Arc<Ignored> = self.shared.settings.ignored(&self.shared.store, user).await?;
        Ok(Look {
            sync: self,
            user,
            device_id,
            since: None,
            upto: moment.visible,
            older_news: HashMap::new(),
            memberships: moment.memberships,
            filter: std::sync::Arc::new(Filter(filter)),
            ignored,
            full_state: false,
            use_state_after: false,
        })
    }
}

impl<'a> Common<'a> {
    async fn new(sync: &Sync, look: Look<'a>, kept: Kept) -> Result<Self, SyncError> {
        let rules = sync.shared.settings.ruleset(&sync.shared.store, look.user).await?;
        let with_hidden = sync.shared.store.conversations().rooms_with_hidden(look.user_id()).await?;
        Ok(Self { look, rules, kept, faces: HashMap::new(), read: HashMap::new(), with_hidden })
    }

    async fn read_faces(&mut self, sync: &Sync, rooms: &[RoomNid]) -> Result<(), SyncError> {
        let store = sync.shared.store.conversations();
        self.faces.extend(store.faces(rooms).await?);
        self.read.extend(store.read_upto(self.look.user_id(), rooms).await?);
        Ok(())
    }

    /// `None`: the user isn't in it, or, with `only_unread`, nothing in it is unread.
    async fn conversation(&self, nid: RoomNid, only_unread: bool) -> Result<Option<Conversation>, SyncError> {
        let Some(membership) = self.look.memberships.get(&nid) else { return Ok(None) };
        match membership.membership {
            MembershipState::Join => {
                let unread = self.look.unread(nid, membership).await?.main;
                if only_unread && unread.notifications == 0 {
                    return Ok(None);
                }
                self.joined(nid, membership, unread).await.map(Some)
            }
            MembershipState::Invite => self.invited(membership).await,
            _ => Ok(None),
        }
    }

    async fn joined(
        &self,
        nid: RoomNid,
        membership: &Membership,
        unread: UnreadCounts,
    ) -> Result<Conversation, SyncError> {
        let room_id = &membership.room_id;
        let settings = self.kept.settings(room_id, &self.rules);
        let face = self.faces.get(&nid).cloned().unwrap_or_default();
        let context = self.look.room_context(nid, membership).await?;
        let direct_with = self.kept.direct_with(room_id);
        let name = of_state(&face, "m.room.name", "name");
        let mut heroes: Vec<OwnedUserId> =
            context.heroes.iter().filter(|hero| *hero != self.look.user_id()).take(NAMED_AFTER).cloned().collect();
        heroes.extend(direct_with.iter().filter(|other| !heroes.contains(other)).cloned().collect::<Vec<_>>());
        let is_named = name.is_some() && direct_with.is_none();
        let names = match is_named {
            true => Vec::new(),
            false => self.look.sync.shared.store.conversations().names(nid, &heroes).await?,
        };
        let other = direct_with.as_ref().map(|user_id| named(&names, user_id));
        let latest = self.look.timeline(nid, membership, Stretch { after: None, upto: self.look.upto }).await?;
        let mut events: Vec<(Value, Option<i64>)> =
            latest.timeline.events.iter().map(|event| (shown(event), event.shown.event.seq)).collect();
        let active_at = events.last().and_then(|(event, _)| event["origin_server_ts"].as_i64());
        self.leave_out_hidden(nid, &mut events).await?;
        Ok(Conversation {
            room_id: room_id.clone(),
            membership: MembershipState::Join,
            name: name.or_else(|| called_after(&heroes, &names)),
            topic: of_state(&face, "m.room.topic", "topic"),
            avatar_url: of_state(&face, "m.room.avatar", "url")
                .or_else(|| other.as_ref().and_then(|other| other.avatar_url.clone())),
            is_encrypted: face.state.contains_key("m.room.encryption"),
            is_direct: other.is_some(),
            other,
            joined: context.joined,
            invited: context.invited,
            active_at,
            last: last_said(&events, settings.cleared_upto),
            last_seq: face.last_seq,
            read_seq: self.read.get(&nid).copied(),
            unread,
            settings,
        })
    }

    /// Leaves out what the user has hidden.
    async fn leave_out_hidden(&self, nid: RoomNid, events: &mut Vec<(Value, Option<i64>)>) -> Result<(), SyncError> {
        if !self.with_hidden.contains(&nid) {
            return Ok(());
        }
        let ids: Vec<OwnedEventId> =
            events.iter().filter_map(|(event, _)| event["event_id"].as_str()?.try_into().ok()).collect();
        let store = self.look.sync.shared.store.conversations();
        let hidden = store.hidden(self.look.user_id(), nid, &ids).await?;
        events.retain(|(event, _)| {
            let id = event["event_id"].as_str().unwrap_or_default();
            !hidden.iter().any(|hidden| hidden == id)
        });
        Ok(())
    }

    /// What an invitation shows of its room. `None`: somebody ignored invites.
    async fn invited(&self, membership: &Membership) -> Result<Option<Conversation>, SyncError> {
        let Some(pending) = self.look.pending_room(membership).await? else { return Ok(None) };
        let mut events: Vec<Value> = pending.given.iter().filter_map(|one| serde_json::from_str(one).ok()).collect();
        let mut invitation = Value::Null;
        for one in &pending.events {
            let mut json = String::new();
            one.render_stripped(&mut json);
            invitation = serde_json::from_str(&json).unwrap_or_default();
            events.push(invitation.clone());
        }
        let content =
            |kind: &str| events.iter().rev().find(|event| event["type"] == kind).map(|event| &event["content"]);
        let text =
            |kind: &str, field: &str| content(kind).and_then(|content| Some(content[field].as_str()?.to_owned()));
        let inviter = invitation["sender"].as_str().unwrap_or_default();
        let by = events.iter().find(|event| event["type"] == "m.room.member" && event["state_key"] == inviter);
        let of_inviter = |field: &str| by.and_then(|event| Some(event["content"][field].as_str()?.to_owned()));
        let other = OwnedUserId::try_from(inviter).ok().map(|user_id| MemberName {
            user_id,
            membership: MembershipState::Join,
            display_name: of_inviter("displayname"),
            avatar_url: of_inviter("avatar_url"),
        });
        Ok(Some(Conversation {
            room_id: membership.room_id.clone(),
            membership: MembershipState::Invite,
            name: text("m.room.name", "name").or_else(|| other.as_ref().map(name_of)),
            topic: text("m.room.topic", "topic"),
            avatar_url: text("m.room.avatar", "url"),
            is_encrypted: content("m.room.encryption").is_some(),
            is_direct: invitation["content"]["is_direct"] == true,
            other,
            joined: 0,
            invited: 0,
            active_at: invitation["origin_server_ts"].as_i64(),
            last: None,
            last_seq: 0,
            read_seq: None,
            unread: UnreadCounts::default(),
            settings: self.kept.settings(&membership.room_id, &self.rules),
        }))
    }
}

fn shown(event: &crate::answer::Event) -> Value {
    let mut json = String::new();
    event.shown.render(&mut json, &event.reader, now());
    serde_json::from_str(&json).unwrap_or_default()
}

/// Of a room's latest events, oldest first, the last that says something, as it was edited last.
fn last_said(events: &[(Value, Option<i64>)], cleared_upto: i64) -> Option<LastEvent> {
    let relation = |event: &Value| event["content"]["m.relates_to"]["rel_type"].as_str().unwrap_or_default().to_owned();
    let is_said = |(event, seq): &&(Value, Option<i64>)| {
        event["state_key"].is_null()
            && event["type"] != "m.room.redaction"
            && !matches!(relation(event).as_str(), "m.replace" | "m.annotation")
            && event["type"] != "m.reaction"
            && event["unsigned"]["redacted_because"]["content"][WITHDRAWS].is_null()
            && (cleared_upto == 0 || seq.is_some_and(|seq| seq > cleared_upto))
    };
    let (event, seq) = events.iter().rev().find(is_said)?;
    let mut event = event.clone();
    let edits = events.iter().filter(|(edit, _)| {
        relation(edit) == "m.replace"
            && edit["content"]["m.relates_to"]["event_id"] == event["event_id"]
            && edit["sender"] == event["sender"]
            && edit["unsigned"]["redacted_because"].is_null()
    });
    if let Some((edit, _)) = edits.max_by_key(|(edit, _)| edit["origin_server_ts"].as_i64()) {
        event["unsigned"]["m.relations"] = json!({ "m.replace": edit });
    }
    Some(LastEvent { event, seq: *seq })
}

/// A text in the content of one of a room's state events.
pub(crate) fn of_state(face: &Face, kind: &str, field: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        content: Value,
    }
    let event: Event = serde_json::from_str(face.state.get(kind)?).ok()?;
    event.content[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn named(names: &[MemberName], user_id: &OwnedUserId) -> MemberName {
    let known = names.iter().find(|member| member.user_id == *user_id);
    known.cloned().unwrap_or_else(|| MemberName {
        user_id: user_id.clone(),
        membership: MembershipState::Leave,
        display_name: None,
        avatar_url: None,
    })
}

fn name_of(member: &MemberName) -> String {
    member.display_name.clone().unwrap_or_else(|| member.user_id.localpart().to_owned())
}

/// The name of a conversation that has none.
fn called_after(heroes: &[OwnedUserId], names: &[MemberName]) -> Option<String> {
    let names: Vec<String> = heroes.iter().take(NAMED_AFTER).map(|hero| name_of(&named(names, hero))).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
