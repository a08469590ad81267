//! What notifies whom, and how much of it nobody has read. Counted when the reader asks, never when somebody sends.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use model::{EventNid, Position, RoomNid};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, UInt, UserId,
    events::{
        StateEventType,
        receipt::ReceiptThread,
        room::{
            member::MembershipState,
            power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
        },
    },
    push::{Action, AnyPushRuleRef, PushCondition, PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset},
    state_res::events::RoomCreateEvent,
};
use serde::Serialize;
use store::unread::Checkpoint;
use tokio::sync::OnceCell;

use crate::{
    Shown, Sync, SyncError, UnreadCounts,
    answer::Unread,
    cells::{InUse, Membership},
    notifier::Moment,
    request::Look,
};

/// No more events of one room are looked at for one count: nobody reads numbers beyond.
const COUNTED_AT_MOST: usize = 1_000;
/// After so many events, how far they have been counted is written down.
const CHECKPOINT_AFTER: u32 = 50;
/// How many checkpoints are written in one go.
pub(crate) const CHECKPOINTS_AT_ONCE: usize = 200;
/// How many may wait to be written; more are left out, which costs counting again.
const CHECKPOINTS_WAITING: usize = 10_000;
/// Users that a room may be called after, the reader included.
const HEROES: i64 = 6;

/// What of a room decides whom an event notifies, and what it is called.
pub(crate) struct RoomContext {
    pub(crate) joined: u64,
    pub(crate) invited: u64,
    pub(crate) heroes: Vec<OwnedUserId>,
    /// It has a name or an alias, and need not be called after anybody.
    pub(crate) is_named: bool,
    power_levels: OnceCell<Option<PushConditionPowerLevelsCtx>>,
}

/// How far a user has read in a room, in positions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Reads {
    unthreaded: i64,
    main: i64,
    threads: BTreeMap<OwnedEventId, i64>,
}

/// How much of a room a user has not read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    reads: Reads,
    upto: Position,
    main: UnreadCounts,
    threads: BTreeMap<OwnedEventId, UnreadCounts>,
    /// How many events were counted since the last checkpoint.
    fresh: u32,
}

/// Counts that wait to be written down.
#[derive(Default)]
pub(crate) struct Checkpoints(Mutex<HashMap<(OwnedUserId, RoomNid), Arc<Counted>>>);

impl Counted {
    fn read_upto(&self, thread: Option<&OwnedEventId>) -> i64 {
        let own = match thread {
            None => self.reads.main,
            Some(root) => self.reads.threads.get(root).copied().unwrap_or(i64::MIN),
        };
        own.max(self.reads.unthreaded)
    }

    fn add(&mut self, thread: Option<OwnedEventId>, is_highlight: bool) {
        let counts = match thread {
            None => &mut self.main,
            Some(root) => self.threads.entry(root).or_default(),
        };
        counts.notifications += 1;
        counts.highlights += u64::from(is_highlight);
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { read_upto: json(&self.reads), counted_upto: self.upto, counts: json(&(self.main, &self.threads)) }
    }

    /// Goes on from a checkpoint, if it stands on the same receipts.
    fn resume(&mut self, checkpoint: &Checkpoint) {
        let counts = serde_json::from_str(&checkpoint.counts);
        let is_valid = checkpoint.read_upto == json(&self.reads);
        if let (true, Ok((main, threads))) = (is_valid, counts) {
            (self.main, self.threads) = (main, threads);
            self.upto = checkpoint.counted_upto;
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("counts are JSON")
}

impl Look<'_> {
    /// How much of the room the reader has not read. No query when nothing but new events came since the last count.
    pub(crate) async fn unread(&self, nid: RoomNid, membership: &Membership) -> Result<Unread, SyncError> {
        let counted = self.counted(nid, membership).await?;
        let mut unread = Unread { main: counted.main, threads: counted.threads.clone() };
        if !self.filter.has_thread_counts() {
            for thread in std::mem::take(&mut unread.threads).into_values() {
                unread.main.notifications += thread.notifications;
                unread.main.highlights += thread.highlights;
            }
        }
        Ok(unread)
    }

    async fn counted(&self, nid: RoomNid, membership: &Membership) -> Result<Arc<Counted>, SyncError> {
        let (known, epoch) = {
            let inner = self.user.lock();
            (inner.unread.get(&nid).cloned(), inner.unread_epoch)
        };
        match known {
            Some(counted) if counted.upto >= self.upto => Ok(counted),
            known => {
                let mut counted = match known {
                    Some(counted) => (*counted).clone(),
                    None => self.begin_count(nid, membership).await?,
                };
                self.count(nid, membership, &mut counted).await?;
                Ok(self.keep_count(nid, counted, epoch))
            }
        }
    }

    async fn begin_count(&self, nid: RoomNid, membership: &Membership) -> Result<Counted, SyncError> {
        let store = &self.sync.shared.store;
        let mut counted = Counted::default();
        // What was said before the reader came in is not unread.
        counted.reads.unthreaded = membership.joined_by.0;
        counted.reads.main = i64::MIN;
        let has_read = store.receipts().of(nid, self.user_id()).await?;
        if !has_read.is_empty() {
            // A change of name is a new membership event, but no new beginning.
            counted.reads.unthreaded = i64::MIN;
        }
        for (_, receipt) in has_read {
            let upto = match &receipt.thread {
                ReceiptThread::Main => &mut counted.reads.main,
                ReceiptThread::Thread(root) => counted.reads.threads.entry(root.clone()).or_insert(i64::MIN),
                _ => &mut counted.reads.unthreaded,
            };
            *upto = receipt.event_position.0.max(*upto);
        }
        let everything = counted.reads.unthreaded.max(counted.reads.main);
        counted.upto = Position(counted.reads.unthreaded.max(membership.joined_by.0.min(everything)));
        if let Some(checkpoint) = store.unread().checkpoint(self.user_id(), nid).await? {
            counted.resume(&checkpoint);
        }
        Ok(counted)
    }

    async fn count(&self, nid: RoomNid, membership: &Membership, counted: &mut Counted) -> Result<(), SyncError> {
        let recent = {
            let room = membership.room.lock();
            room.events.covers(counted.upto).then(|| {
                room.events.backward(counted.upto, self.upto).map(|(_, shown)| shown.clone()).collect::<Vec<_>>()
            })
        };
        let events = match recent {
            Some(recent) => recent,
            None => {
                let (upto, after) = (self.upto, Some(counted.upto));
                self.sync.shared.events.backward(nid, upto, after, COUNTED_AT_MOST).await?
            }
        };
        if !events.is_empty() {
            let judge = Judge::new(self, nid, membership).await?;
            for shown in events.iter().rev() {
                let thread = shown.thread();
                counted.fresh += 1;
                if shown.event.position.0 <= counted.read_upto(thread.as_ref()) {
                    continue;
                }
                if let Some(rule) = judge.rule_for(shown).await?
                    && rule.triggers_notification()
                {
                    counted.add(thread, rule.triggers_highlight());
                }
            }
        }
        counted.upto = self.upto;
        Ok(())
    }

    fn keep_count(&self, nid: RoomNid, mut counted: Counted, epoch: u64) -> Arc<Counted> {
        let is_due = counted.fresh >= CHECKPOINT_AFTER;
        if is_due {
            counted.fresh = 0;
        }
        let counted = Arc::new(counted);
        if is_due {
            let mut waiting = self.sync.shared.checkpoints.0.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() < CHECKPOINTS_WAITING {
                waiting.insert((self.user_id().to_owned(), nid), counted.clone());
            }
        }
        let mut inner = self.user.lock();
        // The user has read something meanwhile: what was counted stands on old receipts.
        if inner.unread_epoch == epoch {
            inner.unread.insert(nid, counted.clone());
        }
        counted
    }

    /// What of the room decides whom an event notifies.
    pub(crate) async fn room_context(
        &self,
        nid: RoomNid,
        membership: &Membership,
    ) -> Result<Arc<RoomContext>, SyncError> {
        let (known, version) = {
            let room = membership.room.lock();
            (room.push_context.clone(), room.context_version)
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let store = &self.sync.shared.store;
        let (joined, invited) = store.rooms().member_counts(nid).await?;
        let nobody = <&UserId>::try_from("@:x").expect("this is a user id");
        let heroes = store.sync().heroes(nid, nobody, HEROES).await?;
        let is_named = store.sync().is_named(nid).await?;
        let context = Arc::new(RoomContext { joined, invited, heroes, is_named, power_levels: OnceCell::new() });
        let mut room = membership.room.lock();
        if room.context_version == version {
            room.push_context = Some(context.clone());
        }
        Ok(context)
    }
}

/// Applies one user's push rules to the events of one room.
struct Judge<'a> {
    look: &'a Look<'a>,
    nid: RoomNid,
    membership: &'a Membership,
    rules: Arc<Ruleset>,
    room: Arc<RoomContext>,
    context: PushConditionRoomCtx,
    has_own_rules: bool,
}

impl<'a> Judge<'a> {
    async fn new(look: &'a Look<'a>, nid: RoomNid, membership: &'a Membership) -> Result<Self, SyncError> {
        let shared = &look.sync.shared;
        let rules = shared.settings.ruleset(&shared.store, look.user).await?;
        let room = look.room_context(nid, membership).await?;
        let mut conditions = rules.override_.iter().chain(&rules.underride).filter(|rule| !rule.default);
        #[allow(deprecated, reason = "clients still have such rules")]
        let needs_name =
            conditions.any(|rule| rule.conditions.iter().any(|one| matches!(one, PushCondition::ContainsDisplayName)));
        let has_own_rules = rules.override_.iter().chain(&rules.underride).any(|rule| !rule.default);
        let name = if needs_name {
            let row = shared.store.rooms().membership(nid, look.user_id()).await?;
            row.and_then(|row| row.display_name)
        } else {
            None
        };
        let context = PushConditionRoomCtx::new(
            membership.room_id.clone(),
            UInt::new(room.joined).unwrap_or(UInt::MAX),
            look.user_id().to_owned(),
            name.unwrap_or_else(|| look.user_id().localpart().to_owned()),
        );
        Ok(Self { look, nid, membership, rules, room, context, has_own_rules })
    }

    /// The rule that decides over an event; none over the user's own, and those of people the user ignores.
    async fn rule_for(&self, shown: &Shown) -> Result<Option<AnyPushRuleRef<'_>>, SyncError> {
        let sender = &shown.event.pdu.sender;
        if sender == self.look.user_id()
            || self.look.ignored.contains(sender)
            || shown.event.soft_failed
            || self.look.is_withheld(shown)
        {
            return Ok(None);
        }
        let flattened = shown.flattened();
        // Who may notify everybody is asked rarely, and costs a look at the room's state.
        let mentions_room = flattened.get("content.m\\.mentions.room").is_some();
        let with_power_levels = if mentions_room || self.has_own_rules {
            let power_levels = self.room.power_levels.get_or_try_init(|| self.power_levels()).await?;
            power_levels.clone().map(|power_levels| self.context.clone().with_power_levels(power_levels))
        } else {
            None
        };
        let context = with_power_levels.as_ref().unwrap_or(&self.context);
        for rule in self.rules.iter() {
            if rule.enabled() && rule.applies(flattened, context).await {
                return Ok(Some(rule));
            }
        }
        Ok(None)
    }

    async fn power_levels(&self) -> Result<Option<PushConditionPowerLevelsCtx>, SyncError> {
        let shared = &self.look.sync.shared;
        let state = self.look.state_at(self.nid, self.membership, self.look.upto).await?;
        let find = async |kind: StateEventType| match state.get(&(kind, String::new())) {
            Some(nid) => shared.events.by_nid(*nid).await,
            None => Ok(None),
        };
        let content: Option<RoomPowerLevelsEventContent> =
            find(StateEventType::RoomPowerLevels).await?.and_then(|shown| shown.event.pdu.content_as());
        let Some(create) = find(StateEventType::RoomCreate).await? else { return Ok(None) };
        let room = shared.rooms.get(&self.membership.room_id).await?;
        let rules = &room.rules.authorization;
        let creators = RoomCreateEvent::new(&*create.event.pdu).creators(rules);
        let creators = creators.map_err(|error| SyncError::Store(store::Error::Corrupt(error)))?;
        Ok(Some(RoomPowerLevels::new(RoomPowerLevelsSource::from(content), rules, creators).into()))
    }
}

/// How much somebody has not read, in all rooms together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Badge {
    /// In how many rooms something notified, and was not read; invitations count as such.
    pub rooms: u64,
    /// How often; an invitation is one.
    pub notifications: u64,
}

/// An event that the user was notified of.
pub struct Notification {
    /// What the rules say to do.
    pub actions: Vec<Action>,
    /// The event.
    pub shown: Arc<Shown>,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// Whether the user has read it.
    pub is_read: bool,
}

impl Sync {
    /// The latest `limit` events that notify the user, latest first, of those before `from`.
    ///
    /// Of each room only the latest thousand events are looked at.
    pub async fn notifications(
        &self,
        user_id: &UserId,
        from: Option<Position>,
        limit: usize,
        only_highlights: bool,
    ) -> Result<Vec<Notification>, SyncError> {
        let (user, moment) = self.shared.notifier.user_now(&self.shared.store, user_id).await?;
        let mut look = self.look_of(&user, moment).await?;
        look.upto = from.map_or(look.upto, |from| Position(from.0 - 1).min(look.upto));
        let mut found: Vec<Notification> = Vec::new();
        for (nid, membership) in look.joined() {
            let counted = look.begin_count(nid, membership).await?;
            let judge = Judge::new(&look, nid, membership).await?;
            let after = Some(membership.joined_by);
            let events = self.shared.events.backward(nid, look.upto, after, COUNTED_AT_MOST).await?;
            let mut of_this_room = 0;
            for shown in events {
                let Some(rule) = judge.rule_for(&shown).await? else { continue };
                if !rule.triggers_notification() || (only_highlights && !rule.triggers_highlight()) {
                    continue;
                }
                self.shared.events.complete(&shown, &self.shared.states).await?;
                let is_read = shown.event.position.0 <= counted.read_upto(shown.thread().as_ref());
                let (actions, room_id) = (rule.actions().to_vec(), membership.room_id.clone());
                found.push(Notification { actions, shown, room_id, is_read });
                of_this_room += 1;
                if of_this_room == limit {
                    break;
                }
            }
        }
        found.sort_unstable_by_key(|notification| std::cmp::Reverse(notification.shown.event.position));
        found.truncate(limit);
        Ok(found)
    }

    /// How an event notifies a user who is in its room, or is invited by it. `None`: it doesn't, or is no longer there for the user.
    pub async fn judge(&self, user_id: &UserId, event: EventNid) -> Result<Option<Notification>, SyncError> {
        let Some(shown) = self.shared.events.by_nid(event).await? else { return Ok(None) };
        let (user, moment) = self.shared.notifier.user_now(&self.shared.store, user_id).await?;
        let look = self.look_of(&user, moment).await?;
        let nid = shown.event.room_nid;
        let Some(membership) = look.memberships.get(&nid) else { return Ok(None) };
        let is_joined = match membership.membership {
            MembershipState::Join => true,
            MembershipState::Invite if membership.event_nid == event => false,
            _ => return Ok(None),
        };
        if shown.event.redacted_by.is_some() {
            return Ok(None);
        }
        let judge = Judge::new(&look, nid, membership).await?;
        let rule = judge.rule_for(&shown).await?;
        let Some(rule) = rule.filter(|rule| rule.triggers_notification()) else { return Ok(None) };
        let (actions, room_id) = (rule.actions().to_vec(), membership.room_id.clone());
        let is_read = is_joined && {
            let counted = look.counted(nid, membership).await?;
            shown.event.position.0 <= counted.read_upto(shown.thread().as_ref())
        };
        Ok(Some(Notification { actions, shown, room_id, is_read }))
    }

    /// How much a user has not read, in all rooms together.
    pub async fn badge(&self, user_id: &UserId) -> Result<Badge, SyncError> {
        let (user, moment) = self.shared.notifier.user_now(&self.shared.store, user_id).await?;
        let look = self.look_of(&user, moment).await?;
        let mut badge = Badge::default();
        for (nid, membership) in look.joined() {
            let counted = look.counted(nid, membership).await?;
            let threads: u64 = counted.threads.values().map(|counts| counts.notifications).sum();
            let notifications = counted.main.notifications + threads;
            badge.rooms += u64::from(notifications > 0);
            badge.notifications += notifications;
        }
        let invitations = look.memberships.values().filter(|one| one.membership == MembershipState::Invite);
        for invitation in self.shared.events.by_nids(invitations.map(|one| one.event_nid)).await? {
            let is_heard = u64::from(!look.ignored.contains(&invitation.event.pdu.sender));
            badge.rooms += is_heard;
            badge.notifications += is_heard;
        }
        Ok(badge)
    }

    /// All that a user may see now.
    async fn look_of<'a>(&'a self, user: &'a InUse, moment: Moment) -> Result<Look<'a>, SyncError> {
        Ok(Look {
            sync: self,
            user,
            device_id: "",
            since: None,
            upto: moment.visible,
            older_news: HashMap::new(),
            memberships: moment.memberships,
            filter: Arc::new(crate::filter::Filter(Default::default())),
            ignored: self.shared.settings.ignored(&self.shared.store, user).await?,
            full_state: false,
            use_state_after: false,
        })
    }

    /// Writes down how far unread events were counted.
    pub(crate) async fn write_checkpoints(&self, at_most: usize) -> Result<(), SyncError> {
        let due: Vec<_> = {
            let mut waiting = self.shared.checkpoints.0.lock().unwrap_or_else(PoisonError::into_inner);
            let keys: Vec<_> = waiting.keys().take(at_most).cloned().collect();
            keys.into_iter().filter_map(|key| waiting.remove_entry(&key)).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let mut write = store::Write::new();
        for ((user_id, room), counted) in due {
            store::unread::put(&mut write, &user_id, room, &counted.checkpoint());
        }
        self.shared.store.commit(write).await?;
        Ok(())
    }
}
