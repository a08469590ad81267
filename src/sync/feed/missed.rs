//! How much a reader has missed who comes back.

use model::Position;
use ruma::UserId;

use crate::{Sync, SyncError};

impl Sync {
    /// Whether more than `most` events have come since, in the rooms that the user is in.
    pub(super) async fn has_missed(&self, user_id: &UserId, since: Position, most: usize) -> Result<bool, SyncError> {
        // Each event takes a position, so that between two positions that are near there are few.
        let behind = self.shared.notifier.visible().0.saturating_sub(since.0);
        if usize::try_from(behind).is_ok_and(|behind| behind <= most) {
            return Ok(false);
        }
        let limit = most.saturating_add(1);
        Ok(self.shared.store.sync().count_since(user_id, since, limit).await? > most)
    }
}
