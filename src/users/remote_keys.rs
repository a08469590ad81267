//! The keys of users of other servers, and of their devices.
//!
//! Of those who share a room with whoever asks, they are fetched once, and followed from then on; all others' are asked for
//! each time.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption>

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use model::peer::{Capability, Context};
use peers::{Failure, PeerError};
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::keys::{claim_keys::v1 as claim, get_keys::v1 as query},
    encryption::CrossSigningKey,
    serde::Raw,
};
use serde_json::json;
use store::{Arg, Write, device_keys::CrossSigningKeyRow, remote_devices::follow};
use tokio::time::{Instant, timeout_at};

use crate::{
    ClaimedKeys, KeyError, KeyQuery, Users,
    cross_signing::MASTER,
    device_keys::{add_signatures_to, parse, raw},
    remote_lists::RemoteList,
};

/// How long other servers have where the client doesn't say, and at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many servers are asked at once for one request.
const SIDE_BY_SIDE: usize = 32;
/// How many lists of one server are fetched for one request, so that one request to it doesn't become thousands: the next
/// request fetches others.
const MOST_LISTS: usize = 64;
/// And how many of them at once.
const LISTS_SIDE_BY_SIDE: usize = 8;
/// How much of what is known is read for one request, in bytes.
const MOST_BYTES: usize = 64 << 20;

/// The servers that did not answer, and why.
pub type RemoteFailures = BTreeMap<OwnedServerName, PeerError>;

/// Of whom which devices are wanted, or none for all of them.
type Wanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

impl Users {
    /// The keys of users of other servers and of their devices, as `asker` may see them. The servers are asked side by
    /// side; `patience` is for all of them together, 10 s at most. Of those that don't answer is told what is known.
    pub async fn query_remote_keys(
        &self,
        asker: &UserId,
        wanted: &Wanted,
        patience: Option<Duration>,
    ) -> Result<(KeyQuery, RemoteFailures), KeyError> {
        let (mut found, failures) = self.look_up_keys(asker, wanted, patience).await?;
        self.add_own_signatures(asker, &mut found).await?;
        Ok((found, failures))
    }

    /// Refuses to ask `server` of its users' devices, for `asker`, if it isn't trusted so far.
    pub(crate) async fn may_ask_of_devices(&self, asker: &UserId, server: &ServerName) -> Result<(), PeerError> {
        let shares = async |_| Ok::<_, PeerError>(self.store.rooms().shares_a_room_with(asker, server).await?);
        let trust = self.peers.trust();
        trust.allow_knowing(server, Capability::Devices, &Context::outbound(), shares).await.map(drop)
    }

    /// Takes a one-time key of each of these devices from other servers, for `asker`: see [`Self::claim_keys`].
    pub async fn claim_remote_keys(
        &self,
        asker: &UserId,
        wanted: &BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
        patience: Option<Duration>,
    ) -> (ClaimedKeys, RemoteFailures) {
        let by_server = self.by_server(wanted.iter().map(|(user_id, devices)| (&**user_id, devices.clone())));
        let ask = |server: OwnedServerName, wanted| async move {
            self.may_ask_of_devices(asker, &server).await?;
            Ok(self.peers.ask_within(PATIENCE, &server, claim::Request::new(wanted)).await?.one_time_keys)
        };
        let (answers, failures) = each(by_server, patience, ask).await;
        let mut claimed = ClaimedKeys::new();
        for (server, answer) in answers {
            for (user_id, mut devices) in answer {
                let Some(of_user) = wanted.get(&user_id).filter(|_| user_id.server_name() == server) else { continue };
                devices.retain(|device_id, keys| {
                    // One key was asked for; whoever gives more gives too much.
                    keys.retain(|id, _| of_user.get(device_id).is_some_and(|wish| id.algorithm() == *wish));
                    keys.len() == 1
                });
                claimed.insert(user_id, devices);
            }
        }
        (claimed, failures)
    }

    /// The master keys of those among `users` who are of other servers, as far as they can be had.
    pub(crate) async fn remote_master_keys(
        &self,
        asker: &UserId,
        users: impl Iterator<Item = &UserId>,
    ) -> Result<Vec<CrossSigningKeyRow>, KeyError> {
        let wanted: Wanted = users.map(|user_id| (user_id.to_owned(), Vec::new())).collect();
        let (found, _) = self.look_up_keys(asker, &wanted, None).await?;
        let row = |(user_id, key): (OwnedUserId, Raw<CrossSigningKey>)| {
            let public_key = key.deserialize().ok()?.keys.into_values().next()?;
            let json = key.json().get().to_owned();
            Some(CrossSigningKeyRow { user_id, usage: MASTER.to_owned(), public_key, json })
        };
        Ok(found.master_keys.into_iter().filter_map(row).collect())
    }

    /// What is known here where no change is missing, and of all others what their servers say now.
    async fn look_up_keys(
        &self,
        asker: &UserId,
        wanted: &Wanted,
        patience: Option<Duration>,
    ) -> Result<(KeyQuery, RemoteFailures), KeyError> {
        let theirs: Vec<&UserId> = wanted.keys().map(|user_id| &**user_id).filter(|id| !self.is_ours(id)).collect();
        let (rows, left) = self.store.remote_devices().of_users(&theirs, MOST_BYTES).await?;
        let (mut found, mut failures) = (KeyQuery::default(), RemoteFailures::new());
        let mut stale = BTreeMap::new();
        for row in &rows {
            let Some(list) = RemoteList::of(row)? else { continue };
            if row.is_whole {
                found.add_list(&row.user_id, list, &wanted[&row.user_id])?;
            } else {
                stale.insert(&*row.user_id, list);
            }
        }
        for user_id in left {
            failures.insert(user_id.server_name().to_owned(), too_much(user_id.server_name()));
        }
        let is_open = |user_id: &UserId| {
            !found.device_keys.contains_key(user_id) && !failures.contains_key(user_id.server_name())
        };
        let open: Vec<&UserId> = theirs.into_iter().filter(|user_id| is_open(user_id)).collect();
        let shared = self.store.rooms().who_shares_a_room(asker, &open).await?;
        let shared: BTreeSet<OwnedUserId> = shared.into_iter().collect();
        let known: BTreeSet<&UserId> = rows.iter().map(|row| &*row.user_id).collect();
        self.follow(shared.iter().filter(|user_id| !known.contains(&***user_id))).await?;
        let open = open.into_iter().map(|user_id| (user_id, wanted[user_id].clone()));
        let deadline = Instant::now() + patience.unwrap_or(PATIENCE).min(PATIENCE);
        let answers = stream::iter(self.by_server(open))
            .map(|(server, wanted)| self.ask_keys(asker, server, wanted, &shared, deadline))
            .buffer_unordered(SIDE_BY_SIDE)
            .collect::<Vec<_>>();
        for (server, answer, failure) in answers.await {
            found.add(answer);
            failures.extend(failure.map(|error| (server, error)));
        }
        for (user_id, list) in stale {
            // Who is not told of by a server that answers is gone.
            let is_silent = failures.contains_key(user_id.server_name());
            if is_silent && !found.device_keys.contains_key(user_id) {
                found.add_list(user_id, list, &wanted[user_id])?;
            }
        }
        Ok((found, failures))
    }

    /// From now on what happens to the lists of these users is noted.
    async fn follow<'u>(&self, users: impl Iterator<Item = &'u OwnedUserId>) -> Result<(), KeyError> {
        let mut write = Write::new();
        let position = Arg::Position(write.position());
        let mut is_anybody_new = false;
        for user_id in users {
            follow(&mut write, user_id, &position);
            is_anybody_new = true;
        }
        if is_anybody_new {
            self.store.commit(write).await?;
        }
        Ok(())
    }

    /// What `server` says of the keys of its users, and why it says no more.
    async fn ask_keys(
        &self,
        asker: &UserId,
        server: OwnedServerName,
        wanted: Wanted,
        shared: &BTreeSet<OwnedUserId>,
        deadline: Instant,
    ) -> (OwnedServerName, KeyQuery, Option<PeerError>) {
        let mut found = KeyQuery::default();
        let failure = self.ask_keys_into(&mut found, asker, &server, wanted, shared, deadline).await.err();
        (server, found, failure)
    }

    async fn ask_keys_into(
        &self,
        found: &mut KeyQuery,
        asker: &UserId,
        server: &ServerName,
        mut wanted: Wanted,
        shared: &BTreeSet<OwnedUserId>,
        deadline: Instant,
    ) -> Result<(), PeerError> {
        let lists: Vec<OwnedUserId> =
            wanted.keys().filter(|id| shared.contains(*id)).take(MOST_LISTS).cloned().collect();
        let mut lists = stream::iter(lists)
            .map(async |user_id| {
                let list = in_time(deadline, server, self.fetch_list(asker, &user_id)).await;
                (user_id, list)
            })
            .buffer_unordered(LISTS_SIDE_BY_SIDE);
        while let Some((user_id, list)) = lists.next().await {
            match list {
                Ok(list) => {
                    let devices = wanted.remove(&user_id).unwrap_or_default();
                    found.add_list(&user_id, list, &devices)?;
                }
                // It doesn't know the user, or has no such list: it is asked as for those who aren't followed.
                Err(PeerError::Refused { .. } | PeerError::Malformed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        drop(lists);
        if wanted.is_empty() {
            return Ok(());
        }
        self.may_ask_of_devices(asker, server).await?;
        let answer = self.peers.ask_within(PATIENCE, server, query::Request::new(wanted.clone()));
        let answer = in_time(deadline, server, answer).await?;
        found.add_remote(server, &wanted, answer);
        Ok(())
    }

    /// What the asker has signed of others stays here, and is shown to the asker with the keys.
    async fn add_own_signatures(&self, asker: &UserId, found: &mut KeyQuery) -> Result<(), KeyError> {
        let users: Vec<&UserId> = found.master_keys.keys().map(|user_id| &**user_id).collect();
        let signatures = self.store.device_keys().signatures(&users, Some(asker)).await?;
        for (user_id, key) in &mut found.master_keys {
            add_signatures_to(key, &signatures, user_id)?;
        }
        Ok(())
    }

    fn by_server<'a, W>(
        &self,
        wanted: impl Iterator<Item = (&'a UserId, W)>,
    ) -> BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, W>> {
        let mut by_server: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, W>> = BTreeMap::new();
        for (user_id, wish) in wanted.filter(|(user_id, _)| !self.is_ours(user_id)) {
            let of_server = by_server.entry(user_id.server_name().to_owned()).or_default();
            of_server.insert(user_id.to_owned(), wish);
        }
        by_server
    }
}

/// Asks each server, side by side, until time is up for all.
async fn each<W, A, Fut: Future<Output = Result<A, PeerError>>>(
    by_server: BTreeMap<OwnedServerName, W>,
    patience: Option<Duration>,
    ask: impl Fn(OwnedServerName, W) -> Fut,
) -> (Vec<(OwnedServerName, A)>, RemoteFailures) {
    let deadline = Instant::now() + patience.unwrap_or(PATIENCE).min(PATIENCE);
    let answers = stream::iter(by_server).map(|(server, wanted)| {
        let asked = ask(server.clone(), wanted);
        async move {
            let answer = in_time(deadline, &server, asked).await;
            (server, answer)
        }
    });
    let answers: Vec<_> = answers.buffer_unordered(SIDE_BY_SIDE).collect().await;
    let mut found = Vec::with_capacity(answers.len());
    let mut failures = RemoteFailures::new();
    for (server, answer) in answers {
        match answer {
            Ok(answer) => found.push((server, answer)),
            Err(error) => {
                failures.insert(server, error);
            }
        }
    }
    (found, failures)
}

async fn in_time<A>(
    deadline: Instant,
    server: &ServerName,
    asked: impl Future<Output = Result<A, PeerError>>,
) -> Result<A, PeerError> {
    timeout_at(deadline, asked).await.unwrap_or_else(|_| {
        Err(PeerError::Unreachable { server: server.to_owned(), failure: Failure::Timeout, source: None })
    })
}

fn too_much(server: &ServerName) -> PeerError {
    let reason = "the keys of its users are more than is told at once".to_owned();
    PeerError::Malformed { server: server.to_owned(), reason }
}

impl KeyQuery {
    /// Takes what is known of a user of another server: of the devices that are wanted, none for all of them.
    fn add_list(&mut self, user_id: &UserId, list: RemoteList, wanted: &[OwnedDeviceId]) -> Result<(), store::Error> {
        let mut devices = BTreeMap::new();
        for (device_id, device) in list.devices {
            if !wanted.is_empty() && !wanted.contains(&device_id) {
                continue;
            }
            let mut keys = device.keys;
            if let Some(name) = device.display_name {
                let mut json = parse(keys.json().get())?;
                json["unsigned"] = json!({ "device_display_name": name });
                keys = raw(&json)?;
            }
            devices.insert(device_id, keys);
        }
        self.device_keys.insert(user_id.to_owned(), devices);
        self.master_keys.extend(list.master_key.map(|key| (user_id.to_owned(), key)));
        self.self_signing_keys.extend(list.self_signing_key.map(|key| (user_id.to_owned(), key)));
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.device_keys.extend(other.device_keys);
        self.master_keys.extend(other.master_keys);
        self.self_signing_keys.extend(other.self_signing_keys);
    }

    /// Takes of an answer what its server may say: of its own users, and of those that it was asked for.
    fn add_remote(&mut self, server: &ServerName, wanted: &Wanted, answer: query::Response) {
        let is_asked = |user_id: &UserId| user_id.server_name() == server && wanted.contains_key(user_id);
        for (user_id, mut devices) in answer.device_keys {
            if !is_asked(&user_id) {
                continue;
            }
            let devices_wanted = &wanted[&user_id];
            devices.retain(|device_id, keys| {
                let is_wanted = devices_wanted.is_empty() || devices_wanted.contains(device_id);
                let is_of_it =
                    |keys: &ruma::encryption::DeviceKeys| keys.user_id == user_id && keys.device_id == *device_id;
                is_wanted && keys.deserialize().is_ok_and(|keys| is_of_it(&keys))
            });
            self.device_keys.insert(user_id, devices);
        }
        let own_keys =
            [(&mut self.master_keys, answer.master_keys), (&mut self.self_signing_keys, answer.self_signing_keys)];
        for (known, told) in own_keys {
            known.extend(told.into_iter().filter(|(user_id, key)| {
                is_asked(user_id) && key.deserialize().is_ok_and(|key| key.user_id == *user_id)
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};
    use serde_json::json;

    use super::*;
    use crate::testing::with_users;

    fn answer() -> query::Response {
        let device = |user: &str, device: &str| json!({ "user_id": user, "device_id": device, "algorithms": [], "keys": {}, "signatures": {} });
        let key = |user: &str| json!({ "user_id": user, "usage": ["master"], "keys": {}, "signatures": {} });
        let answer = json!({
            "device_keys": {
                "@bob:b.test": {
                    "PHONE": device("@bob:b.test", "PHONE"),
                    "TABLET": device("@bob:b.test", "TABLET"),
                    "FORGED": device("@carol:b.test", "FORGED"),
                },
                "@alice:a.test": { "PHONE": device("@alice:a.test", "PHONE") },
                "@carol:b.test": { "PHONE": device("@carol:b.test", "PHONE") },
            },
            "master_keys": { "@bob:b.test": key("@bob:b.test"), "@alice:a.test": key("@alice:a.test") },
            "self_signing_keys": { "@bob:b.test": key("@mallory:b.test") },
        });
        let json = http_answer(&answer);
        ruma::api::IncomingResponseExt::try_from_http_response(json).expect("it is an answer")
    }

    fn http_answer(json: &serde_json::Value) -> http::Response<&'static [u8]> {
        http::Response::new(Box::leak(json.to_string().into_bytes().into_boxed_slice()))
    }

    #[test]
    fn a_server_tells_of_its_own_users_and_of_those_it_was_asked_for() {
        let bob = user_id!("@bob:b.test").to_owned();
        let wanted = Wanted::from([(bob.clone(), Vec::new()), (user_id!("@alice:a.test").to_owned(), Vec::new())]);
        let mut found = KeyQuery::default();
        found.add_remote(server_name!("b.test"), &wanted, answer());
        assert_eq!(found.device_keys.keys().collect::<Vec<_>>(), [&bob]);
        assert_eq!(found.device_keys[&bob].keys().map(|id| id.as_str()).collect::<Vec<_>>(), ["PHONE", "TABLET"]);
        assert_eq!(found.master_keys.keys().collect::<Vec<_>>(), [&bob]);
        assert!(found.self_signing_keys.is_empty());

        let wanted = Wanted::from([(bob.clone(), vec!["TABLET".into()])]);
        let mut found = KeyQuery::default();
        found.add_remote(server_name!("b.test"), &wanted, answer());
        assert_eq!(found.device_keys[&bob].keys().map(|id| id.as_str()).collect::<Vec<_>>(), ["TABLET"]);
    }

    #[tokio::test]
    async fn servers_that_do_not_answer_are_named() {
        with_users(async |users, _| {
            let wanted = Wanted::from([
                (user_id!("@bob:b.test").to_owned(), Vec::new()),
                (user_id!("@alice:a.test").to_owned(), Vec::new()),
            ]);
            let asked = users.query_remote_keys(user_id!("@alice:a.test"), &wanted, None).await;
            let (found, failures) = asked.expect("the store is there");
            assert!(found.device_keys.is_empty());
            assert_eq!(failures.keys().collect::<Vec<_>>(), [server_name!("b.test")]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_up_for_all_servers_together() {
        let slow = BTreeMap::from([(server_name!("b.test").to_owned(), ()), (server_name!("c.test").to_owned(), ())]);
        let began = Instant::now();
        let (answers, failures) = each(slow, Some(Duration::from_secs(60)), |server, ()| async move {
            let delay = if server == "b.test" { 1 } else { 100 };
            tokio::time::sleep(Duration::from_secs(delay)).await;
            Ok(delay)
        })
        .await;
        assert_eq!(answers, [(server_name!("b.test").to_owned(), 1)]);
        assert_eq!(failures[server_name!("c.test")].failure(), Failure::Timeout);
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
