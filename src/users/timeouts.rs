//! Sessions that have lasted long enough: those in which nobody was seen for long, and those that somebody opened long ago.
//!
//! It is one rule for the sessions of all faces, with tokens that are refreshed or without. It is looked now and then, so that nothing is
//! added to the way of a request.

use std::{collections::BTreeMap, time::Duration};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};
use tracing::{info, warn};

use crate::{Users, millis};

const EVERY: Duration = Duration::from_secs(60);
/// How many are ended in one go.
const AT_ONCE: u32 = 200;
/// When a device was seen is written a minute late, so less can't be told.
const LEAST_IDLE: Duration = Duration::from_secs(300);

impl Users {
    /// Ends sessions that have lasted long enough, until it is dropped.
    pub(crate) async fn tend_timeouts(&self) {
        let accounts = &self.config.accounts;
        if accounts.session_idle.is_none() && accounts.session_lifetime.is_none() {
            return;
        }
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.end_overdue_sessions().await {
                warn!(error = &error as &dyn std::error::Error, "failed to end sessions that have lasted long enough");
            }
        }
    }

    /// Ends what is to be ended now. Answers how many.
    pub(crate) async fn end_overdue_sessions(&self) -> Result<usize, store::Error> {
        let accounts = &self.config.accounts;
        let now = self.now();
        let unseen = accounts.session_idle.map(|idle| now - millis(idle.max(LEAST_IDLE)));
        let opened = accounts.session_lifetime.map(|lifetime| now - millis(lifetime));
        let mut ended = 0;
        loop {
            let overdue = self.store.devices().overdue(unseen, opened, AT_ONCE).await?;
            let is_last = overdue.len() < AT_ONCE as usize;
            let mut by_user: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>> = BTreeMap::new();
            for (user_id, device_id) in overdue {
                by_user.entry(user_id).or_default().push(device_id);
            }
            for (user_id, devices) in by_user {
                let ids: Vec<&DeviceId> = devices.iter().map(|device_id| &**device_id).collect();
                self.remove_devices(&user_id, &ids).await?;
                ended += ids.len();
                info!(user.id = %user_id, sessions = ids.len(), "sessions of {user_id} have lasted long enough, and were ended");
            }
            if is_last {
                return Ok(ended);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        TokenStyle,
        testing::{HOME, config, with_users_of},
    };

    #[tokio::test]
    async fn a_session_ends_when_nobody_is_there_or_it_is_old() {
        let mut config = config();
        config.accounts.session_idle = Some(Duration::from_secs(600));
        config.accounts.session_lifetime = Some(Duration::from_secs(1_000));
        with_users_of(config, async |users, clock| {
            let idle = users.register_for_tests("alice").await;
            let busy = users.login_for_tests("alice", TokenStyle::Refreshed).await;
            clock.advance(600_000);
            let session = users.authenticate(&idle.access_token).await.expect("it goes on");
            assert_eq!(users.end_overdue_sessions().await.expect("it looks"), 0, "it isn't over yet");
            // The other device of the two comes back.
            let busy = users.refresh(&busy.refresh_token.expect("there is one"), TokenStyle::Refreshed).await;
            let busy = busy.expect("it goes on");
            users.note_seen(&users.authenticate(&busy.access_token).await.expect("it is good"), Some(HOME));
            users.flush_last_seen().await.expect("it is written");
            clock.advance(1);
            assert_eq!(users.end_overdue_sessions().await.expect("it looks"), 1);
            assert!(users.authenticate(&idle.access_token).await.is_err());
            users.authenticate(&busy.access_token).await.expect("it goes on");

            // Who logs in on a device anew has a new session.
            let again = users.login_on_for_tests("alice", &session.device_id).await;
            clock.advance(400_000);
            assert_eq!(users.end_overdue_sessions().await.expect("it looks"), 1);
            assert!(users.refresh(&busy.refresh_token.expect("there is one"), TokenStyle::Refreshed).await.is_err());
            users.authenticate(&again.access_token).await.expect("it goes on");
        })
        .await;
    }
}
