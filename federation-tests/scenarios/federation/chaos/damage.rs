//! What goes wrong.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use federation_tests::{Faults, Link, Network, Server};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::NAMES;

/// The longest time between two misfortunes.
const PAUSE: Duration = Duration::from_millis(600);
/// The longest that a server is dead.
const DEATH: Duration = Duration::from_secs(3);

/// Does damage by dice, and mends it.
pub(super) struct Damage {
    links: Vec<Arc<Link>>,
    dice: StdRng,
    cuts: usize,
    deaths: usize,
}

impl Damage {
    pub(super) fn new(network: &Network, seed: u64) -> Self {
        let mut links = Vec::new();
        for from in NAMES {
            for to in NAMES.into_iter().filter(|to| *to != from) {
                let link = network.link(from, to);
                link.set_dice(seed.wrapping_add(links.len() as u64));
                links.push(link);
            }
        }
        Self { links, dice: StdRng::seed_from_u64(seed), cuts: 0, deaths: 0 }
    }

    /// Has one thing after the other go wrong, and some of them right again, for a time.
    pub(super) async fn go_on(&mut self, servers: &mut [Server], time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            match self.dice.random_range(0..10) {
                0..3 => self.cut(),
                3..5 => self.link().mend(),
                5..8 => self.spoil(),
                _ => self.kill(servers).await,
            }
            tokio::time::sleep(PAUSE.mul_f64(self.dice.random_range(0.1..1.0))).await;
        }
    }

    /// One way, or both ways at once, or everything that leads to a server.
    fn cut(&mut self) {
        self.cuts += 1;
        let at = self.dice.random_range(0..self.links.len());
        match self.dice.random_range(0..3) {
            0 => self.links[at].cut(),
            1 => {
                // The links of each server stand side by side: to the next, to the one after it.
                let from = at / 2 * 2;
                self.links[from].cut();
                self.links[from + 1].cut();
            }
            _ => {
                let others = [(0, 2), (1, 4), (3, 5)];
                let (there, back) = others[at % 3];
                self.links[there].cut();
                self.links[back].cut();
            }
        }
    }

    /// A link does what it should, more or less.
    fn spoil(&mut self) {
        let mut share = |most: f64| self.dice.random_range(0.0..most);
        let faults = Faults {
            delay: Duration::from_millis(600).mul_f64(share(1.0)),
            lost_requests: share(0.3),
            lost_answers: share(0.3),
            doubled: share(0.5),
            belated: share(0.3),
        };
        self.link().set_faults(faults);
    }

    async fn kill(&mut self, servers: &mut [Server]) {
        self.deaths += 1;
        let server = self.dice.random_range(0..servers.len());
        servers[server].kill();
        tokio::time::sleep(DEATH.mul_f64(self.dice.random_range(0.0..1.0))).await;
        servers[server].restart().await;
    }

    /// Nothing is wrong any more. The servers get over another death each, with what is unsent and unread.
    pub(super) async fn repair(&mut self, servers: &mut [Server]) {
        for link in &self.links {
            link.set_faults(Faults::default());
            link.mend();
        }
        let server = self.dice.random_range(0..servers.len());
        servers[server].restart().await;
    }

    fn link(&mut self) -> Arc<Link> {
        self.links.choose(&mut self.dice).expect("there are links").clone()
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} links were cut, and servers died {} times", self.cuts, self.deaths)
    }
}
