//! Keeping a node's parts, and sharing them out anew when nodes come and go.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use metrics::gauge;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{
    BEAT_EVERY, BELIEVED_FOR, DEAD_AFTER, Duties, Held, PARTS, PartRow, beat, give_back, leave, make_parts, take,
};
use crate::{Error, Store, Write, journal};

/// A node that was dead for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

impl Duties {
    /// Makes this node one of those that share `store`, under a name that no other running node has. A node that was started again
    /// under its old name goes on at once.
    ///
    /// Answers what keeps it one; without that, its parts are taken by others after a few seconds.
    pub async fn join(store: &Store, node: &str) -> Result<Tending, Error> {
        let mut write = Write::new();
        make_parts(&mut write);
        store.commit(write).await?;
        let mut tending =
            Tending { store: store.clone(), node: node.into(), seen: HashMap::new(), leaving: HashSet::new() };
        // What it had before was another process's, which may have a Write under way.
        let parts = store.parts().await?;
        let mut write = Write::new();
        for row in parts.iter().filter(|row| row.node == node) {
            take(&mut write, node, row, 0);
        }
        if !write.is_empty() {
            store.commit(write).await?;
        }
        tending.tend_once(Instant::now()).await?;
        Ok(tending)
    }
}

/// Keeps a node one of several.
pub struct Tending {
    store: Store,
    node: Arc<str>,
    /// The counts of the others, and when each was first seen so.
    seen: HashMap<String, (i64, Instant)>,
    /// Parts that go to others at the next beat: what was begun in them has until then to end.
    leaving: HashSet<i64>,
}

impl Tending {
    /// Goes on until it is dropped.
    pub async fn run(&mut self) {
        let mut beats = tokio::time::interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_well = true;
        loop {
            beats.tick().await;
            match self.tend_once(Instant::now()).await {
                Ok(()) => is_well = true,
                Err(error) if is_well => {
                    is_well = false;
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "could not keep what is this node's to do, and tries again");
                }
                Err(_) => {}
            }
        }
    }

    /// What [`Self::run`] does every two seconds.
    #[cfg(test)]
    pub(crate) async fn beat_now(&mut self) -> Result<(), Error> {
        self.tend_once(Instant::now()).await
    }

    /// Gives everything back, so that others don't have to find out.
    pub async fn leave(self) -> Result<(), Error> {
        self.hold(HashMap::new(), Instant::now());
        let mut write = Write::new();
        leave(&mut write, &self.node);
        self.store.commit(write).await.map(drop)
    }

    /// Counts, looks how the others are, and takes or gives what is due.
    async fn tend_once(&mut self, began: Instant) -> Result<(), Error> {
        let mut write = Write::new();
        beat(&mut write, &self.node);
        journal::forget(&mut write);
        for part in &self.leaving {
            give_back(&mut write, &self.node, *part);
        }
        self.store.commit(write).await?;
        self.leaving.clear();

        let (beats, parts) = (self.store.beats().await?, self.store.parts().await?);
        self.look_at(&beats, began);
        let alive = self.alive(began);
        self.store.duties().0.has_others.store(alive.len() > 1, Ordering::Relaxed);
        let plan = Plan::new(&self.node, &alive, &parts);
        let mut write = Write::new();
        for row in &plan.take {
            take(&mut write, &self.node, row, beats.get(&row.node).copied().unwrap_or_default());
        }
        for node in self.forgotten(began) {
            leave(&mut write, &node);
        }
        let parts = match write.is_empty() {
            true => parts,
            false => {
                self.store.commit(write).await?;
                self.store.parts().await?
            }
        };
        self.leaving = plan.give.into_iter().collect();
        let ours = parts.iter().filter(|row| *row.node == *self.node && !self.leaving.contains(&row.part));
        self.hold(ours.map(|row| (row.part, row.token)).collect(), began);
        Ok(())
    }

    fn hold(&self, tokens: HashMap<i64, i64>, began: Instant) {
        gauge!("comity_node_parts").set(tokens.len() as f64);
        self.store.duties().hold(Held { tokens, until: began + BELIEVED_FOR });
    }

    fn look_at(&mut self, beats: &HashMap<String, i64>, now: Instant) {
        self.seen.retain(|node, _| beats.contains_key(node));
        for (node, beat) in beats.iter().filter(|(node, _)| **node != *self.node) {
            match self.seen.get_mut(node) {
                Some((known, _)) if known == beat => {}
                Some(seen) => *seen = (*beat, now),
                None => {
                    info!(node.id = %node, "there is another node, {node}");
                    self.seen.insert(node.clone(), (*beat, now));
                }
            }
        }
    }

    /// Those who count, this node among them.
    fn alive(&self, now: Instant) -> HashSet<String> {
        let others = self.seen.iter().filter(|(_, (_, at))| now.saturating_duration_since(*at) < DEAD_AFTER);
        others.map(|(node, _)| node.clone()).chain([self.node.to_string()]).collect()
    }

    fn forgotten(&self, now: Instant) -> Vec<String> {
        let dead = self.seen.iter().filter(|(_, (_, at))| now.saturating_duration_since(*at) >= FORGOTTEN_AFTER);
        dead.map(|(node, _)| node.clone()).collect()
    }
}

/// What changes hands.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    take: Vec<PartRow>,
    give: Vec<i64>,
}

impl Plan {
    /// Each node takes what nobody does until it has its share, and gives what is more.
    fn new(node: &str, alive: &HashSet<String>, parts: &[PartRow]) -> Self {
        let share = usize::try_from(PARTS).unwrap_or_default().div_ceil(alive.len().max(1));
        let ours: Vec<i64> = parts.iter().filter(|row| row.node == node).map(|row| row.part).collect();
        let free = parts.iter().filter(|row| row.node != node && !alive.contains(&row.node));
        Self {
            take: free.take(share.saturating_sub(ours.len())).cloned().collect(),
            give: ours.iter().skip(share).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    const BEAT: Duration = Duration::from_secs(2);

    fn tending(store: &Store, node: &str) -> Tending {
        Tending { store: store.clone(), node: node.into(), seen: HashMap::new(), leaving: HashSet::new() }
    }

    async fn parts_of(store: &Store, node: &str) -> usize {
        store.parts().await.expect("the table is there").iter().filter(|row| row.node == node).count()
    }

    #[tokio::test]
    async fn nodes_share_out_what_is_to_be_done_and_take_over_from_the_dead() {
        on_each_engine(async |store| {
            assert_eq!(store.duties().of("x"), Some(super::super::Duty(None)), "alone, everything is ours");
            let mut now = Instant::now();
            let mut one = Duties::join(&store, "one").await?;
            assert_eq!(parts_of(&store, "one").await, 64);

            let mut two = tending(&store, "two");
            for _ in 0..4 {
                two.tend_once(now).await?;
                one.tend_once(now).await?;
                now += BEAT;
            }
            assert_eq!((parts_of(&store, "one").await, parts_of(&store, "two").await), (32, 32));

            // The first counts no more. Not at once, but before long the other does everything.
            for _ in 0..3 {
                two.tend_once(now).await?;
                now += BEAT;
            }
            assert_eq!(parts_of(&store, "two").await, 32, "it may be slow");
            for _ in 0..3 {
                two.tend_once(now).await?;
                now += BEAT;
            }
            assert_eq!(parts_of(&store, "two").await, 64);

            // It was only slow, and sees that nothing is its own any more.
            one.tend_once(now).await?;
            assert_eq!(store.duties().of("x"), None);
            for _ in 0..3 {
                two.tend_once(now).await?;
                one.tend_once(now).await?;
                now += BEAT;
            }
            assert_eq!(parts_of(&store, "one").await, 32);
            two.leave().await?;
            one.tend_once(now).await?;
            assert_eq!(parts_of(&store, "one").await, 64, "who leaves gives everything back");
            Ok::<(), Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_write_of_an_earlier_holder_is_refused() {
        on_each_engine(async |store| {
            let mut one = Duties::join(&store, "one").await?;
            let duty = store.duties().of("destination/b.test").expect("it is ours");
            let write = |duty| {
                let mut write = Write::new();
                write.run("UPDATE nodes SET beat = beat + 1000 WHERE node = $1", crate::args!["one"]).on_duty(duty);
                write
            };
            store.commit(write(duty)).await?;
            let before = store.beats().await?;

            // Another process takes the name, as after a restart.
            drop(Duties::join(&store, "one").await?);
            assert!(matches!(store.commit(write(duty)).await, Err(Error::Superseded)));
            assert_eq!(store.beats().await?["one"], before["one"] + 1, "nothing but the count of the new one");
            let again = store.duties().of("destination/b.test").expect("it is ours again");
            assert_ne!(again, duty);
            store.commit(write(again)).await?;
            one.tend_once(Instant::now()).await?;
            Ok::<(), Error>(())
        })
        .await;
    }
}
