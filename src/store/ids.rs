//! Numbers for rooms, events and state snapshots: unique in the database, given out in memory.
//!
//! A node takes a block of them by one commit and hands them out without waiting, so that an event can name the
//! snapshot of one that isn't durable yet.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Mutex;

use crate::{engine::Pool, error::Error};

const BLOCK: i64 = 100_000;

pub(crate) struct Ids {
    pool: Pool,
    next: AtomicI64,
    end: AtomicI64,
    refill: Mutex<()>,
}

impl Ids {
    pub(crate) async fn open(pool: Pool) -> Result<Self, Error> {
        let ids = Self { pool, next: AtomicI64::new(0), end: AtomicI64::new(0), refill: Mutex::new(()) };
        ids.ensure(1).await?;
        Ok(ids)
    }

    /// Sees to it that a good many numbers are at hand, so that [`Self::next`] doesn't run dry: call it before taking
    /// any, where waiting is allowed.
    pub(crate) async fn ensure(&self, count: i64) -> Result<(), Error> {
        const TAKE: &str = "UPDATE positions SET position = position + $1 WHERE stream = 'nid' RETURNING position";
        let low_water = count + BLOCK / 10;
        if self.end.load(Ordering::Acquire) - self.next.load(Ordering::Acquire) >= low_water {
            return Ok(());
        }
        // The lock is held across the database on purpose: one refill at a time, and only those wait who ran low.
        let _one_at_a_time = self.refill.lock().await;
        if self.end.load(Ordering::Acquire) - self.next.load(Ordering::Acquire) >= low_water {
            return Ok(());
        }
        let size = BLOCK.max(count * 2);
        let mut connection = self.pool.connect().await?;
        let rows = connection.fetch_all(TAKE, vec![size.into()]).await?;
        let end = rows.first().ok_or_else(|| Error::Corrupt("no row in positions".into()))?.int(0)? + 1;
        // What is left of the old block is forgotten: numbers are plenty. `next` moves first, so that nobody who reads
        // the two in between hands out numbers that aren't ours.
        self.next.store(end - size, Ordering::Release);
        self.end.store(end, Ordering::Release);
        Ok(())
    }

    pub(crate) fn next(&self) -> i64 {
        self.next.fetch_add(1, Ordering::AcqRel)
    }
}
