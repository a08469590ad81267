//! When and where devices were seen: gathered in memory, written now and then.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::Millis;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use store::{Write, devices::set_last_seen};
use tracing::warn;

use crate::{Users, tokens::Session};

/// A device is noted once in so long.
const COARSENESS: Millis = 60_000;
/// How many devices may wait to be written; more are not noted this time.
const WAITING: usize = 50_000;
/// How many are written in one commit.
const AT_ONCE: usize = 200;
const EVERY: Duration = Duration::from_secs(30);

type Device = (OwnedUserId, OwnedDeviceId);

/// What has not been written yet.
#[derive(Default)]
pub(crate) struct LastSeen(Mutex<HashMap<Device, (Millis, Option<IpAddr>)>>);

impl LastSeen {
    fn note(&self, session: &Session, at: Millis, address: Option<IpAddr>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.insert((session.user_id.clone(), session.device_id.clone()), (at, address));
        }
    }

    pub(crate) fn of(&self, user_id: &UserId, device_id: &DeviceId) -> Option<(Millis, Option<IpAddr>)> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(&(user_id.to_owned(), device_id.to_owned())).copied()
    }

    fn take(&self) -> HashMap<Device, (Millis, Option<IpAddr>)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Users {
    /// A device was seen. Costs nothing when it was seen a moment ago.
    pub fn note_seen(&self, session: &Session, address: Option<IpAddr>) {
        let now = self.now();
        if session.is_seen_again(now, COARSENESS) {
            self.last_seen.note(session, now, address);
        }
    }

    /// Writes when devices were seen: call it before the end.
    pub async fn flush_last_seen(&self) -> Result<(), store::Error> {
        let seen: Vec<_> = self.last_seen.take().into_iter().collect();
        for chunk in seen.chunks(AT_ONCE) {
            let mut write = Write::new();
            for ((user_id, device_id), (at, address)) in chunk {
                let address = address.map(|address| address.to_string());
                set_last_seen(&mut write, user_id, device_id, *at, address.as_deref());
            }
            self.store.commit(write).await?;
        }
        Ok(())
    }

    /// Sees to what time does by itself, until it is dropped.
    pub async fn tend(self: Arc<Self>) {
        tokio::join!(
            self.tend_last_seen(),
            self.tend_timeouts(),
            self.tend_applications(),
            self.tend_suspensions(),
            self.tend_bans(),
            self.remote_users().tend()
        );
    }

    /// Writes when devices were seen, now and then.
    async fn tend_last_seen(&self) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.flush_last_seen().await {
                warn!(error = &error as &dyn std::error::Error, "failed to write when devices were last seen");
            }
        }
    }
}
