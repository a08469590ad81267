//! The devices and keys of users of other servers.
//!
//! A list is *whole* while its server tells this one of each change, and none is missing. Everything that happens to a list
//! moves its version, so that what was made of an older one, or fetched meanwhile, doesn't replace what is newer.

use model::{Position, RoomNid};
use ruma::{OwnedUserId, UserId};

use crate::{Arg, Error, Row, Store, Table, Write, args, places};

/// How many lists are read at once: each may be large.
const AT_ONCE: usize = 32;

/// The devices and keys of a user of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDeviceList {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The list as it was read.
    pub version: Position,
    /// No change is missing.
    pub is_whole: bool,
    /// Up to which change it was whole, as its server counts; `None`: it wasn't fetched yet.
    pub stream_id: Option<i64>,
    /// JSON: for each device id what is known of it.
    pub devices: String,
    /// JSON.
    pub master_key: Option<String>,
    /// JSON.
    pub self_signing_key: Option<String>,
}

// === Writing ===

static LISTS: Table = Table {
    insert: "INSERT INTO remote_device_lists (user_id, changed_at, stale_since, devices)",
    columns: 4,
    conflict: "ON CONFLICT (user_id) DO NOTHING",
    key: 1,
};

/// From now on what happens to the user's list is noted: nothing is known yet.
pub fn follow(write: &mut Write, user_id: &UserId, position: &Arg) {
    let mut row = args![user_id.as_str()];
    row.extend([position.clone(), position.clone(), Arg::from("{}")]);
    write.insert(&LISTS, row);
}

/// The list is whole, and as `list` says, unless something happened to it since `list.version`.
pub fn put(write: &mut Write, list: &RemoteDeviceList, position: &Arg) {
    const PUT: &str = "
        UPDATE remote_device_lists
        SET changed_at = $1, stale_since = NULL, stream_id = $2, devices = $3, master_key = $4, self_signing_key = $5
        WHERE user_id = $6 AND changed_at = $7";
    let mut row = vec![position.clone()];
    row.extend(args![list.stream_id, &*list.devices, list.master_key.as_deref(), list.self_signing_key.as_deref()]);
    row.extend(args![list.user_id.as_str(), list.version]);
    write.run(PUT, row);
}

/// Changes of the user's list may be missing, unless the same Write has [put] it.
pub fn doubt(write: &mut Write, user_id: &UserId, position: &Arg) {
    const DOUBT: &str = "
        UPDATE remote_device_lists
        SET stale_since = COALESCE(stale_since, $1), changed_at = $1
        WHERE user_id = $2 AND changed_at <> $1";
    write.run(DOUBT, vec![position.clone(), Arg::from(user_id.as_str())]);
}

/// As [`doubt`], of everybody in the room.
pub fn doubt_members(write: &mut Write, room: RoomNid, position: &Arg) {
    const DOUBT: &str = "
        UPDATE remote_device_lists
        SET stale_since = COALESCE(stale_since, $1), changed_at = $1
        WHERE user_id IN (SELECT user_id FROM memberships WHERE room_nid = $2 AND membership = 'join')";
    write.run(DOUBT, vec![position.clone(), Arg::from(room.0)]);
}

// === Reading ===

/// Reads what is known of the devices of users of other servers.
pub struct RemoteDevices<'a>(&'a Store);

impl Store {
    /// Reads what is known of the devices of users of other servers.
    pub fn remote_devices(&self) -> RemoteDevices<'_> {
        RemoteDevices(self)
    }
}

impl RemoteDevices<'_> {
    /// The list of one user.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<RemoteDeviceList>, Error> {
        Ok(self.of_users(&[user_id], usize::MAX).await?.0.pop())
    }

    /// The lists of these users, until `most` bytes are read, and those users who were not looked at for that reason.
    pub async fn of_users<'u>(
        &self,
        users: &[&'u UserId],
        most: usize,
    ) -> Result<(Vec<RemoteDeviceList>, Vec<&'u UserId>), Error> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (at, chunk) in users.chunks(AT_ONCE).enumerate() {
            if bytes > most {
                return Ok((found, users[at * AT_ONCE..].to_vec()));
            }
            let sql = format!(
                "
                SELECT user_id, changed_at, stale_since, stream_id, devices, master_key, self_signing_key
                FROM remote_device_lists
                WHERE user_id IN ({})",
                places(1, chunk.len())
            );
            let args = chunk.iter().map(|user_id| Arg::from(user_id.as_str())).collect();
            for row in self.0.query(sql, args).await? {
                let list = list(&row)?;
                bytes += list.devices.len();
                found.push(list);
            }
        }
        Ok((found, Vec::new()))
    }
}

fn list(row: &Row) -> Result<RemoteDeviceList, Error> {
    Ok(RemoteDeviceList {
        user_id: row.parse(0)?,
        version: Position(row.int(1)?),
        is_whole: row.opt_int(2)?.is_none(),
        stream_id: row.opt_int(3)?,
        devices: row.text(4)?,
        master_key: row.opt_text(5)?,
        self_signing_key: row.opt_text(6)?,
    })
}

#[cfg(test)]
mod tests {
    use model::EventNid;
    use ruma::{events::room::member::MembershipState, user_id};

    use super::*;
    use crate::{rooms::put_membership, testing::on_each_engine};

    async fn write(store: &Store, make: impl Fn(&mut Write, &Arg)) -> Result<Position, Error> {
        let mut write = Write::new();
        let position = Arg::Position(write.position());
        make(&mut write, &position);
        store.commit(write).await
    }

    async fn followed(store: &Store, user_id: &UserId) -> Result<RemoteDeviceList, Error> {
        write(store, |write, position| follow(write, user_id, position)).await?;
        Ok(store.remote_devices().find(user_id).await?.expect("it is followed"))
    }

    fn fetched(list: RemoteDeviceList, stream_id: i64) -> RemoteDeviceList {
        let devices = format!("{{\"D{stream_id}\":{{}}}}");
        RemoteDeviceList { stream_id: Some(stream_id), devices, master_key: Some("{}".into()), ..list }
    }

    #[tokio::test]
    async fn a_list_is_whole_from_when_it_was_put_until_it_is_doubted() {
        on_each_engine(async |store| {
            let bob = user_id!("@bob:b.test");
            assert_eq!(store.remote_devices().find(bob).await?, None);
            let list = followed(&store, bob).await?;
            assert_eq!((list.is_whole, list.stream_id, &*list.devices), (false, None, "{}"));

            let at = write(&store, |write, position| {
                put(write, &fetched(list.clone(), 7), position);
                // What could not be put is doubted; what was, isn't.
                doubt(write, bob, position);
            })
            .await?;
            let whole = store.remote_devices().find(bob).await?.expect("it is there");
            assert_eq!(whole, RemoteDeviceList { is_whole: true, version: at, ..fetched(list, 7) });
            // To follow again changes nothing.
            assert_eq!(followed(&store, bob).await?, whole);

            write(&store, |write, position| doubt(write, bob, position)).await?;
            let stale = store.remote_devices().find(bob).await?.expect("it is there");
            assert_eq!((stale.is_whole, stale.stream_id, stale.devices), (false, Some(7), whole.devices));
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_made_of_an_older_list_does_not_replace_it() {
        on_each_engine(async |store| {
            let bob = user_id!("@bob:b.test");
            let list = followed(&store, bob).await?;
            // A change is told while the list is fetched.
            write(&store, |write, position| doubt(write, bob, position)).await?;
            write(&store, |write, position| put(write, &fetched(list.clone(), 7), position)).await?;
            let found = store.remote_devices().find(bob).await?.expect("it is there");
            assert_eq!((found.is_whole, found.stream_id), (false, None));
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn who_leaves_a_room_with_all_of_us_is_doubted() {
        on_each_engine(async |store| {
            let users = [user_id!("@bob:b.test"), user_id!("@carol:b.test"), user_id!("@dan:b.test")];
            let states = [(1, MembershipState::Join), (1, MembershipState::Leave), (2, MembershipState::Join)];
            for (user_id, (room, membership)) in users.into_iter().zip(&states) {
                let list = followed(&store, user_id).await?;
                write(&store, |write, position| {
                    put(write, &fetched(list.clone(), 1), position);
                    let (room, event) = (RoomNid(*room), EventNid(1));
                    put_membership(
                        write,
                        room,
                        user_id.as_str(),
                        membership,
                        user_id,
                        event,
                        position.clone(),
                        None,
                        None,
                    );
                })
                .await?;
            }
            write(&store, |write, position| doubt_members(write, RoomNid(1), position)).await?;
            let (mut lists, left) = store.remote_devices().of_users(&users, 1 << 20).await?;
            lists.sort_by(|one, other| one.user_id.cmp(&other.user_id));
            assert_eq!(lists.iter().map(|list| list.is_whole).collect::<Vec<_>>(), [false, true, true]);
            assert!(left.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn no_more_is_read_than_was_asked_for() {
        on_each_engine(async |store| {
            let users: Vec<OwnedUserId> = (0..2 * AT_ONCE)
                .map(|at| OwnedUserId::try_from(format!("@u{at}:b.test")).expect("it is one"))
                .collect();
            write(&store, |write, position| users.iter().for_each(|user_id| follow(write, user_id, position))).await?;
            let users: Vec<&UserId> = users.iter().map(|user_id| &**user_id).collect();
            let (lists, left) = store.remote_devices().of_users(&users, 10).await?;
            assert_eq!((lists.len(), left.len()), (AT_ONCE, AT_ONCE));
            Ok::<_, Error>(())
        })
        .await;
    }
}
