//! Keeping a room's access control list (`m.room.server_acl`) as the trust in other servers has it, where the room asks for that.
//!
//! A room asks by `"server_acl": true` beside the trust that it demands ([`CEILING`]). The list is then kept by the server of whoever
//! said so, in their name, and by no other, so that no two servers undo each other's work. It is looked at behind the back of
//! whatever made that necessary: the room's demand, the list itself, its members or what people may do in it changed; or the trust in
//! some server did.

mod denied;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::{Change, Committed, TimelineEvent, peer::TrustLevel};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, ServerName,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Serialize;
use serde_json::{Map, Value, value::to_raw_value};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{CEILING, RoomError, Rooms, Wish, ceiling::Content, live::SharedRoom};
use denied::{Regarded, recorded, with_denied};

/// What happens together is looked at together.
const SETTLE: Duration = Duration::from_millis(100);
/// How often all rooms are looked at, whatever was heard.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);
/// When a room is looked at again whose list could not be written.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How many rooms are waited for by name; if there are more, all are looked at.
const MOST_MARKED: usize = 10_000;
/// How many rooms are read from the store at once.
const PAGE: i64 = 500;
/// How often the list of one room is written within [`WITHIN`], should somebody else undo it again and again.
const MOST_WRITES: usize = 10;
const WITHIN: Duration = Duration::from_secs(10 * 60);

static KIND: LazyLock<TimelineEventType> = LazyLock::new(|| TimelineEventType::from(CEILING));

/// A room whose access control list this server keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptAcl {
    /// Which.
    pub room_id: OwnedRoomId,
    /// Who asked for it, and in whose name it is written.
    pub keeper: OwnedUserId,
    /// What the room demands.
    pub minimum: TrustLevel,
    /// The servers that are denied for want of trust.
    pub denied: BTreeSet<String>,
    /// Why the list is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Which rooms' lists are kept, and which are to be looked at.
#[derive(Default)]
pub(crate) struct KeptAcls {
    kept: Mutex<BTreeMap<OwnedRoomId, KeptAcl>>,
    marked: Mutex<Marked>,
    work: Notify,
}

#[derive(Default)]
struct Marked {
    rooms: BTreeSet<OwnedRoomId>,
    all: bool,
}

/// When lists were written last.
type Writes = HashMap<OwnedRoomId, VecDeque<Instant>>;

impl KeptAcls {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<OwnedRoomId, KeptAcl>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marked(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, room_id: &RoomId) {
        let mut marked = self.marked();
        if marked.rooms.len() < MOST_MARKED {
            marked.rooms.insert(room_id.to_owned());
        } else {
            marked.all = true;
        }
        drop(marked);
        self.work.notify_one();
    }

    fn mark_all(&self) {
        self.marked().all = true;
        self.work.notify_one();
    }

    fn is_concerned(&self, event: &TimelineEvent) -> bool {
        match event.pdu.kind {
            TimelineEventType::RoomServerAcl | TimelineEventType::RoomPowerLevels | TimelineEventType::RoomMember => {
                self.kept().contains_key(&event.pdu.room_id)
            }
            _ => event.pdu.is_state(&KIND, ""),
        }
    }
}

impl Rooms {
    /// Hears of a commit. Doesn't wait.
    pub fn ingest(&self, committed: &Committed) {
        for (_, change) in committed.changes.iter() {
            if let Change::Event(event) | Change::Redacted(event) = change
                && self.shared.acls.is_concerned(event)
            {
                self.shared.acls.mark(&event.pdu.room_id);
            }
        }
    }

    /// The rooms whose access control lists this server keeps, and how each is.
    pub fn kept_acls(&self) -> Vec<KeptAcl> {
        self.shared.acls.kept().values().cloned().collect()
    }

    /// Keeps the access control lists of rooms that ask for it, until `stop` is cancelled.
    pub async fn keep_acls(&self, stop: CancellationToken) {
        let acls = &self.shared.acls;
        let mut trust = self.trust().changes();
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writes = Writes::new();
        let mut again_at: Option<Instant> = None;
        loop {
            let again = async {
                match again_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = acls.work.notified() => {}
                Ok(()) = trust.changed() => acls.mark_all(),
                _ = sweep.tick() => acls.mark_all(),
                () = again => {
                    again_at = None;
                    acls.mark_all();
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(SETTLE) => {}
            }
            if !self.tend_marked_acls(&mut writes, &stop).await {
                again_at = Some(again_at.unwrap_or(Instant::now() + AGAIN_AFTER));
            }
        }
    }

    /// Whether all went well.
    async fn tend_marked_acls(&self, writes: &mut Writes, stop: &CancellationToken) -> bool {
        let Marked { mut rooms, all } = std::mem::take(&mut *self.shared.acls.marked());
        let mut is_well = true;
        if all {
            match self.rooms_that_may_ask().await {
                Ok(found) => rooms.extend(found),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "could not look up which rooms demand trust");
                    is_well = false;
                }
            }
        }
        writes.retain(|_, at| at.back().is_some_and(|at| at.elapsed() < WITHIN));
        for room_id in &rooms {
            if stop.is_cancelled() {
                break;
            }
            is_well &= self.tend_acl(room_id, writes).await;
        }
        is_well
    }

    async fn rooms_that_may_ask(&self) -> Result<BTreeSet<OwnedRoomId>, store::Error> {
        let mut found: BTreeSet<OwnedRoomId> = self.shared.acls.kept().keys().cloned().collect();
        let mut after = model::RoomNid(0);
        loop {
            let page = self.shared.store.rooms().with_ceiling_of(self.server_name(), after, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            after = *last;
            found.extend(page.into_iter().map(|(_, room_id)| room_id));
        }
    }

    async fn tend_acl(&self, room_id: &RoomId, writes: &mut Writes) -> bool {
        let looked = self.keep_acl(room_id, writes).await;
        let is_well = !matches!(&looked, Ok(Some(KeptAcl { problem: Some(_), .. })) | Err(_));
        let mut kept = self.shared.acls.kept();
        match looked {
            Ok(Some(now)) => {
                let before = kept.insert(room_id.to_owned(), now.clone());
                if let Some(problem) = now.problem
                    && before.is_none_or(|before| before.problem.as_ref() != Some(&problem))
                {
                    warn!(room.id = %room_id, user.id = %now.keeper, "could not keep a room's server ACL: {problem}");
                }
            }
            Ok(None) => drop(kept.remove(room_id)),
            Err(error) => {
                drop(kept);
                warn!(room.id = %room_id, error = &error as &dyn std::error::Error, "could not look at a room's server ACL");
            }
        }
        is_well
    }

    /// Brings a room's list up to date. Answers `None` where it is not for this server to keep.
    async fn keep_acl(&self, room_id: &RoomId, writes: &mut Writes) -> Result<Option<KeptAcl>, RoomError> {
        let room = match self.get(room_id).await {
            Err(RoomError::UnknownRoom) => return Ok(None),
            room => room?,
        };
        let Some(demand) = self.state_event(&room, CEILING.into(), "").await? else { return Ok(None) };
        let keeper = demand.pdu.sender.clone();
        if keeper.server_name() != self.server_name() {
            return Ok(None);
        }
        let list: Option<Map<String, Value>> = self.state_content(&room, StateEventType::RoomServerAcl).await?;
        let content = demand.pdu.content_as::<Content>();
        let wish = content.as_ref().filter(|content| content.wants_acl());
        let before = recorded(list.as_ref());
        let (denied, is_all) = match wish {
            Some(wish) => self.denied_in(&room, wish.minimum, before).await?,
            // Nobody asks any more: what was put there goes, and then the list is left to people.
            None if before.is_empty() => return Ok(None),
            None => (BTreeSet::new(), true),
        };
        let mut problem = (!is_all).then(|| "more servers are not trusted than fit into the list".to_owned());
        if let Some(content) = with_denied(list.as_ref(), &denied) {
            problem = self.write_acl(&room, &keeper, &content, writes).await.err().or(problem);
        }
        let minimum = content.as_ref().map_or(TrustLevel::Blocked, |content| content.minimum);
        let kept = KeptAcl { room_id: room_id.to_owned(), keeper, minimum, denied, problem };
        Ok((wish.is_some() || kept.problem.is_some()).then_some(kept))
    }

    async fn denied_in(
        &self,
        room: &SharedRoom,
        minimum: TrustLevel,
        before: BTreeSet<String>,
    ) -> Result<(BTreeSet<String>, bool), RoomError> {
        let view = self.view(room).await?;
        let trust = self.trust();
        let regarded = Regarded {
            us: self.server_name(),
            members: view.servers.keys().map(|server| &**server).collect(),
            rows: trust.rows_shown(minimum),
            before,
            is_enough: &|server: &ServerName| trust.shows(server, minimum),
        };
        Ok(regarded.entries())
    }

    /// Says why not, if not.
    async fn write_acl(
        &self,
        room: &SharedRoom,
        keeper: &OwnedUserId,
        content: &Map<String, Value>,
        writes: &mut Writes,
    ) -> Result<(), String> {
        let failed = |error: RoomError| format!("{keeper} could not send it: {error}");
        if self.membership(room, keeper).await.map_err(failed)? != Some(MembershipState::Join) {
            return Err(format!("{keeper}, who asked for it, is not in the room any more"));
        }
        let power_levels = self.power_levels(room).await.map_err(failed)?;
        if !power_levels.user_can_send_state(keeper, StateEventType::RoomServerAcl) {
            return Err(format!("{keeper}, who asked for it, may not change the list"));
        }
        let times = writes.entry(room.room_id.clone()).or_default();
        if times.len() >= MOST_WRITES && times.front().is_some_and(|at| at.elapsed() < WITHIN) {
            return Err("somebody else changes it again and again; it waits".to_owned());
        }
        times.push_back(Instant::now());
        if times.len() > MOST_WRITES {
            times.pop_front();
        }
        let content = to_raw_value(content).map_err(|error| error.to_string())?;
        let wish = Wish {
            sender: keeper.clone(),
            kind: TimelineEventType::RoomServerAcl,
            content,
            state_key: Some(String::new()),
            redacts: None,
            transaction: None,
        };
        self.send(room, wish).await.map_err(failed)?;
        info!(room.id = %room.room_id, user.id = %keeper, "brought the server ACL of {} up to date", room.room_id);
        Ok(())
    }
}
