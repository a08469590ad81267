//! Who is there, as the native API tells it: user by user, each time with a number that only grows.

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use model::Millis;
use ruma::{OwnedUserId, UserId, presence::PresenceState};
use store::{Write, presence_sequences};
use sync::{PresenceNow, SyncError};

use super::Edus;
use crate::now;

/// How many are written at once.
const AT_ONCE: usize = 32;

/// How a user of another server is.
#[derive(Clone, Debug)]
pub struct PresenceNews {
    /// Who.
    pub user_id: OwnedUserId,
    /// online, unavailable, offline.
    pub state: PresenceState,
    /// What the user says of it.
    pub status_msg: Option<String>,
    /// How long ago the user last did something, in milliseconds.
    pub last_active_ago: Millis,
    /// Larger with each news of this user.
    pub sequence: i64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceTaken {
    /// It holds now.
    Taken,
    /// As new, or newer, is known.
    Stale,
    /// Nobody here has to do with the user.
    Unconcerned,
}

impl Edus {
    /// Takes what a server says of its own users; answers for each, in order.
    pub(crate) async fn take_news(&self, news: Vec<PresenceNews>) -> Result<Vec<PresenceTaken>, store::Error> {
        let users: Vec<&UserId> = news.iter().map(|news| &*news.user_id).collect();
        let mut known = self.store.presence_sequences(&users).await?;
        let mut latest: HashMap<OwnedUserId, PresenceNow> = HashMap::new();
        let mut taken = Vec::with_capacity(news.len());
        let mut write = Write::new();
        let now = now();
        for news in news {
            if known.get(&news.user_id).is_some_and(|known| news.sequence <= *known) {
                taken.push(PresenceTaken::Stale);
                continue;
            }
            let Some(shown_as) = self.shown_as(&news.user_id).await? else {
                taken.push(PresenceTaken::Unconcerned);
                continue;
            };
            presence_sequences::put(&mut write, &news.user_id, news.sequence, now);
            known.insert(news.user_id, news.sequence);
            let now_is = PresenceNow {
                user_id: shown_as.clone(),
                state: news.state,
                status_msg: news.status_msg,
                last_active_at: now.saturating_sub(news.last_active_ago),
            };
            latest.insert(shown_as, now_is);
            taken.push(PresenceTaken::Taken);
        }
        let mut telling = stream::iter(latest.into_values())
            .map(|now_is| async {
                match self.sync.receive_presence(now_is).await {
                    Err(SyncError::Store(error)) => Err(error),
                    _ => Ok(()),
                }
            })
            .buffer_unordered(AT_ONCE);
        while telling.try_next().await?.is_some() {}
        if !write.is_empty() {
            self.store.commit(write).await?;
        }
        Ok(taken)
    }

    /// As whom a user of another server is seen here, if anybody sees them: as themselves, or as a guest of the bridge.
    async fn shown_as(&self, user_id: &UserId) -> Result<Option<OwnedUserId>, store::Error> {
        if self.store.rooms().is_joined_anywhere(user_id).await? {
            return Ok(Some(user_id.to_owned()));
        }
        let Ok(guest) = self.users.guest_id(user_id) else { return Ok(None) };
        Ok(self.store.rooms().is_joined_anywhere(&guest).await?.then_some(guest))
    }
}
