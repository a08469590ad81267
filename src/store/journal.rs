//! What a commit changed, written down for the other nodes, so that they can tell it as if it were their own and need not forget what
//! they remember.
//!
//! Pointers only: an event is a number, and is read when it is told. There is a row for each commit while there are other nodes. A
//! commit that changed too much has none, and neither has one that tells not all: then others forget, as after a gap.

use std::{collections::HashMap, sync::Arc};

use model::{Change, EventNid, Position, Receipt, RoomNid, TimelineEvent, UserStream};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, events::receipt::ReceiptThread};
use serde::{Deserialize, Serialize};

use crate::{
    Arg, Error, Write, args,
    engine::{Connection, Pool},
    events, places,
};

/// A commit that changed more is not written down.
const MOST_CHANGES: usize = 1_000;
/// Who is further behind forgets.
const MOST_COMMITS: i64 = 200;
/// Of so many users it is asked at once in which rooms they are.
const AT_ONCE: usize = 500;
/// For how many positions commits are kept.
const KEPT: i64 = 5_000;

/// What a [`Change`] is about.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Pointer {
    Event(i64),
    Redacted(i64),
    OutsideMembership(i64),
    Typing { room_nid: i64, room_id: OwnedRoomId, user_ids: Vec<OwnedUserId> },
    Receipt { room_nid: i64, room_id: OwnedRoomId, receipt: ReceiptRow },
    Outgoing(Vec<OwnedServerName>),
    User(OwnedUserId, Stream),
    SystemEvent(String),
    Broadcast(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct ReceiptRow {
    user_id: OwnedUserId,
    kind: String,
    thread: Option<String>,
    event_id: OwnedEventId,
    event_position: i64,
    at: i64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stream {
    AccountData,
    ToDevice,
    DeviceKeys,
    OneTimeKeys,
    Presence,
}

/// Writes down what those of `writes` change that take effect, each from its first position on. Part of their transaction.
pub(crate) async fn put(
    connection: &mut Connection,
    (base, upto): (i64, i64),
    writes: impl Iterator<Item = (&Write, Position)> + Clone,
) -> Result<(), Error> {
    const PUT: &str = "INSERT INTO journal (upto, base, changes) VALUES ($1, $2, $3)";
    let count: usize = writes.clone().map(|(write, _)| write.changes.len()).sum();
    if upto == base || count > MOST_CHANGES || writes.clone().any(|(write, _)| write.untold) {
        return Ok(());
    }
    let pointers: Vec<(i64, Pointer)> = writes
        .flat_map(|(write, first)| {
            write.changes.iter().map(move |(offset, change)| (first.0 + i64::from(*offset), Pointer::of(change)))
        })
        .collect();
    let changes = serde_json::to_string(&pointers).map_err(|error| Error::Corrupt(error.to_string()))?;
    connection.execute(PUT, args![upto, base, changes]).await.map(drop)
}

/// What was changed after `since` and up to `upto`, if all of it was written down.
pub(crate) async fn read(
    pool: &Pool,
    since: Position,
    upto: Position,
) -> Result<Option<Vec<(Position, Change)>>, Error> {
    const READ: &str = "
        SELECT base, upto, changes
        FROM journal
        WHERE upto > $1 AND upto <= $2
        ORDER BY upto
        LIMIT $3";
    let mut reached = since.0;
    let mut pointers: Vec<(i64, Pointer)> = Vec::new();
    for row in pool.fetch_all(READ.into(), args![since, upto, MOST_COMMITS]).await? {
        if row.int(0)? != reached {
            return Ok(None);
        }
        reached = row.int(1)?;
        let Ok(more) = serde_json::from_str::<Vec<(i64, Pointer)>>(&row.text(2)?) else { return Ok(None) };
        pointers.extend(more);
    }
    if reached != upto.0 {
        return Ok(None);
    }
    let nids: Vec<EventNid> = pointers.iter().filter_map(|(_, pointer)| pointer.event()).collect();
    let found = events::by_nids(pool, &nids).await?;
    let found: HashMap<EventNid, Arc<TimelineEvent>> = found.into_iter().map(|event| (event.nid, event)).collect();
    let joined = joined_rooms(pool, &pointers).await?;
    let changes =
        pointers.into_iter().map(|(position, pointer)| Some((Position(position), pointer.change(&found, &joined)?)));
    Ok(changes.collect())
}

/// The rooms in which it is heard that somebody's presence changed.
async fn joined_rooms(pool: &Pool, pointers: &[(i64, Pointer)]) -> Result<HashMap<OwnedUserId, Vec<RoomNid>>, Error> {
    let mut joined: HashMap<OwnedUserId, Vec<RoomNid>> = HashMap::new();
    for (_, pointer) in pointers {
        if let Pointer::User(user_id, Stream::Presence) = pointer {
            joined.entry(user_id.clone()).or_default();
        }
    }
    let users: Vec<OwnedUserId> = joined.keys().cloned().collect();
    for users in users.chunks(AT_ONCE) {
        let sql = format!(
            "SELECT user_id, room_nid FROM memberships WHERE membership = 'join' AND user_id IN ({})",
            places(1, users.len())
        );
        let args = users.iter().map(|user_id| Arg::from(user_id.as_str())).collect();
        for row in &pool.fetch_all(sql.into(), args).await? {
            joined.entry(row.parse(0)?).or_default().push(RoomNid(row.int(1)?));
        }
    }
    Ok(joined)
}

/// Forgets what all nodes have heard of by now.
pub(crate) fn forget(write: &mut Write) {
    const FORGET: &str = "
        DELETE FROM journal
        WHERE upto < (SELECT p.position FROM positions p WHERE p.stream = 'main') - $1";
    write.run(FORGET, args![KEPT]);
}

impl Pointer {
    fn of(change: &Change) -> Self {
        match change {
            Change::Event(event) => Self::Event(event.nid.0),
            Change::Redacted(event) => Self::Redacted(event.nid.0),
            Change::OutsideMembership(event) => Self::OutsideMembership(event.nid.0),
            Change::Typing { room_nid, room_id, user_ids } => {
                Self::Typing { room_nid: room_nid.0, room_id: room_id.clone(), user_ids: user_ids.to_vec() }
            }
            Change::Receipt { room_nid, room_id, receipt } => Self::Receipt {
                room_nid: room_nid.0,
                room_id: room_id.clone(),
                receipt: ReceiptRow {
                    user_id: receipt.user_id.clone(),
                    kind: receipt.kind.to_string(),
                    thread: receipt.thread.as_str().map(ToOwned::to_owned),
                    event_id: receipt.event_id.clone(),
                    event_position: receipt.event_position.0,
                    at: receipt.at,
                },
            },
            Change::Outgoing { destinations } => Self::Outgoing(destinations.to_vec()),
            Change::User { user_id, stream } => Self::User(user_id.clone(), (*stream).into()),
            Change::PresenceElsewhere { user_id, .. } => Self::User(user_id.clone(), Stream::Presence),
            Change::SystemEvent { id } => Self::SystemEvent(id.to_string()),
            Change::Broadcast { id } => Self::Broadcast(id.to_string()),
        }
    }

    fn event(&self) -> Option<EventNid> {
        match self {
            Self::Event(nid) | Self::Redacted(nid) | Self::OutsideMembership(nid) => Some(EventNid(*nid)),
            _ => None,
        }
    }

    /// `None`: it points to nothing.
    fn change(
        self,
        events: &HashMap<EventNid, Arc<TimelineEvent>>,
        joined: &HashMap<OwnedUserId, Vec<RoomNid>>,
    ) -> Option<Change> {
        let event = |nid| events.get(&EventNid(nid)).cloned();
        Some(match self {
            Self::Event(nid) => Change::Event(event(nid)?),
            Self::Redacted(nid) => Change::Redacted(event(nid)?),
            Self::OutsideMembership(nid) => Change::OutsideMembership(event(nid)?),
            Self::Typing { room_nid, room_id, user_ids } => {
                Change::Typing { room_nid: RoomNid(room_nid), room_id, user_ids: user_ids.into() }
            }
            Self::Receipt { room_nid, room_id, receipt } => {
                let thread = ReceiptThread::try_from(receipt.thread).ok()?;
                let receipt = Receipt {
                    user_id: receipt.user_id,
                    kind: receipt.kind.as_str().into(),
                    thread,
                    event_id: receipt.event_id,
                    event_position: Position(receipt.event_position),
                    at: receipt.at,
                };
                Change::Receipt { room_nid: RoomNid(room_nid), room_id, receipt: Arc::new(receipt) }
            }
            Self::Outgoing(destinations) => Change::Outgoing { destinations: destinations.into() },
            Self::User(user_id, Stream::Presence) => {
                let room_nids = joined.get(&user_id).map(|nids| nids.as_slice().into()).unwrap_or_default();
                Change::PresenceElsewhere { user_id, room_nids }
            }
            Self::User(user_id, stream) => Change::User { user_id, stream: stream.into() },
            Self::SystemEvent(id) => Change::SystemEvent { id: id.into() },
            Self::Broadcast(id) => Change::Broadcast { id: id.into() },
        })
    }
}

impl From<UserStream> for Stream {
    fn from(stream: UserStream) -> Self {
        match stream {
            UserStream::AccountData => Self::AccountData,
            UserStream::ToDevice => Self::ToDevice,
            UserStream::DeviceKeys => Self::DeviceKeys,
            UserStream::OneTimeKeys => Self::OneTimeKeys,
            UserStream::Presence => Self::Presence,
        }
    }
}

impl From<Stream> for UserStream {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::AccountData => Self::AccountData,
            Stream::ToDevice => Self::ToDevice,
            Stream::DeviceKeys => Self::DeviceKeys,
            Stream::OneTimeKeys => Self::OneTimeKeys,
            Stream::Presence => Self::Presence,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use model::Committed;
    use ruma::{server_name, user_id};

    use super::*;
    use crate::{
        duties::Duties,
        testing::{on_shared_database, owe_event},
    };

    #[tokio::test]
    async fn a_node_hears_what_another_one_changed_and_forgets_only_if_it_was_not_written_down() {
        let heard: Arc<Mutex<Vec<Committed>>> = Arc::default();
        let ear = heard.clone();
        let listener = Arc::new(move |committed| ear.lock().expect("nothing panics").push(committed));
        on_shared_database(listener, async |one, other| {
            let mut nodes = [Duties::join(&one, "one").await?, Duties::join(&other, "other").await?];
            nodes[0].beat_now().await?;
            heard.lock().expect("nothing panics").clear();

            let at = owe_event(&one, server_name!("b.test"), RoomNid(1), 7).await?;
            let mut write = Write::new();
            let user_id = user_id!("@a:a.test").to_owned();
            write.tell_next(Change::User { user_id, stream: UserStream::Presence });
            let upto = one.commit(write).await?;
            // Its own commit comes after what the other node did, in the order of positions.
            let mut write = Write::new();
            write.position();
            let own = other.commit(write).await?;
            let told = std::mem::take(&mut *heard.lock().expect("nothing panics"));
            assert!(told.iter().all(|committed| !committed.gap), "{told:?}");
            let changes: Vec<_> = told.iter().flat_map(|committed| committed.changes.iter()).collect();
            assert!(
                matches!(
                    &changes[..],
                    [(first, Change::Outgoing { .. }), (last, Change::PresenceElsewhere { .. })]
                        if *first == at && *last == upto
                ),
                "{changes:?}"
            );
            assert!(own > upto);

            let mut write = Write::new();
            write.position();
            write.tell_not_all();
            let upto = one.commit(write).await?;
            other.look();
            let gap = async {
                loop {
                    if heard
                        .lock()
                        .expect("nothing panics")
                        .iter()
                        .any(|committed| committed.gap && committed.upto == upto)
                    {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(10), gap)
                .await
                .expect("it is told that something is missing");
            Ok::<(), Error>(())
        })
        .await;
    }
}
