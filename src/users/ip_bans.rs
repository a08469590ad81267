//! Addresses that are kept out, on every face and every node. They are kept in mind, so that the door asks nobody.
//!
//! Who is on this machine is never kept out: whoever runs the server must be able to undo a mistake.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use ipnet::IpNet;
use model::{Kind, Millis, Refusal};
use peers::trust::{Audited, Author, ChangeError};
use serde_json::json;
use store::{
    Write,
    ip_bans::{self, IpBanRow},
};
use tracing::{info, warn};

use crate::Users;

/// How often it is looked what another node has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// More of them there can't be.
const MOST: i64 = 10_000;
/// How many are read at once.
const PAGE: u32 = 1_000;
/// For how long it can still be seen that a ban ran out: 30 days.
const KEPT: Millis = 30 * 24 * 60 * 60_000;

/// Why a network was not kept out, or not let in.
#[derive(Debug, thiserror::Error)]
pub enum IpBanError {
    /// It is not kept out.
    #[error("this network is not banned")]
    Unknown,
    /// It holds addresses of this machine.
    #[error("{0} holds addresses of this machine, which are never banned: name smaller networks")]
    Loopback(IpNet),
    /// It holds the address from which this is asked.
    #[error("{0} holds the address that you come from: you would lock yourself out")]
    Own(IpNet),
    /// It runs out before it begins.
    #[error("`expires_at` is in the past")]
    Past,
    /// There are enough.
    #[error("there are {MOST} bans already: lift some first, or name larger networks")]
    TooMany,
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("the bans could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for IpBanError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown => Kind::NotFound,
            Self::Loopback(_) | Self::Past => Kind::Invalid,
            Self::Own(_) | Self::TooMany => Kind::Conflict,
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Loopback(_) | Self::Own(_) => Some("would_lock_out"),
            Self::TooMany => Some("too_many_bans"),
            _ => None,
        }
    }
}

/// Hears that other addresses are kept out than before. Must not block.
pub type OnBansChanged = Box<dyn Fn() + Send + Sync>;

/// What is kept out.
#[derive(Default)]
pub(crate) struct Bans {
    known: RwLock<Arc<Known>>,
    on_change: OnceLock<OnBansChanged>,
}

#[derive(Default)]
struct Known {
    version: (i64, i64),
    /// The lengths of prefixes that there are, of IPv4 and of IPv6.
    lengths: BTreeSet<(bool, u8)>,
    /// Until when; `None`: until it is lifted.
    networks: HashMap<IpNet, Option<Millis>>,
}

impl Known {
    fn holds(&self, address: IpAddr, now: Millis) -> bool {
        let is_meant = |(is_v4, length): &(bool, u8)| {
            let network = IpNet::new(address, *length).ok().filter(|_| address.is_ipv4() == *is_v4);
            let until = network.and_then(|network| self.networks.get(&network.trunc()));
            until.is_some_and(|until| until.is_none_or(|until| until > now))
        };
        self.lengths.iter().any(is_meant)
    }
}

impl Users {
    /// Whether this address is kept out. Quick: it is asked before everything else.
    pub fn is_banned(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let known = self.bans.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        !known.networks.is_empty() && !address.is_loopback() && known.holds(address, self.now())
    }

    /// Tells `listener` when other addresses are kept out than before. Only the first who wants that is told.
    pub fn on_bans_changed(&self, listener: OnBansChanged) {
        self.bans.on_change.get_or_init(|| listener);
    }

    /// Up to `limit` bans, by network as it is written; those after `after`. Those that ran out are among them for 30 days.
    pub async fn ip_bans(&self, after: &str, limit: u32) -> Result<Vec<IpBanRow>, IpBanError> {
        Ok(self.store.ip_bans().list(after, limit).await?)
    }

    /// Keeps a network out, or changes until when: at once here, on other nodes within a second.
    ///
    /// `from`: where whoever does this comes from.
    pub async fn ban_network(
        &self,
        network: IpNet,
        expires_at: Option<Millis>,
        from: IpAddr,
        author: &Author,
    ) -> Result<IpBanRow, IpBanError> {
        let network = network.trunc();
        if holds_loopback(network) {
            return Err(IpBanError::Loopback(network));
        }
        if network.contains(&from.to_canonical()) {
            return Err(IpBanError::Own(network));
        }
        if expires_at.is_some_and(|expires_at| expires_at <= self.now()) {
            return Err(IpBanError::Past);
        }
        let name = network.to_string();
        let name = &*name;
        let step = |revision| {
            async move {
                let before = self.store.ip_bans().find(name).await?;
                if before.is_none() && self.store.ip_bans().version().await?.1 >= MOST {
                    return Err(IpBanError::TooMany);
                }
                let row = IpBanRow {
                    network: name.to_owned(),
                    reason: author.reason.chars().take(1_000).collect(),
                    banned_by: author.actor.clone(),
                    banned_at: self.now(),
                    expires_at,
                    revision,
                };
                let mut write = Write::new();
                ip_bans::forget(&mut write, self.now() - KEPT);
                ip_bans::put(&mut write, &row);
                let (before, after) = (before.as_ref().map(told), Some(told(&row)));
                Ok::<_, IpBanError>(Audited { write, before, after, outcome: row })
            }
            .boxed()
        };
        let row = self.peers.trust().audited("ip_ban.set", name, author, step).await?;
        info!(actor = author.actor, network = name, "{name} is banned");
        self.look_at_bans().await?;
        Ok(row)
    }

    /// Lets a network in again.
    pub async fn lift_ban(&self, network: IpNet, author: &Author) -> Result<(), IpBanError> {
        let name = network.trunc().to_string();
        let name = &*name;
        let step = |_| {
            async move {
                let row = self.store.ip_bans().find(name).await?.ok_or(IpBanError::Unknown)?;
                let mut write = Write::new();
                ip_bans::remove(&mut write, name);
                Ok::<_, IpBanError>(Audited { write, before: Some(told(&row)), after: None, outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("ip_ban.lifted", name, author, step).await?;
        info!(actor = author.actor, network = name, "{name} is banned no longer");
        Ok(self.look_at_bans().await?)
    }

    /// Looks what is kept out now.
    pub(crate) async fn look_at_bans(&self) -> Result<(), store::Error> {
        let version = self.store.ip_bans().version().await?;
        if version == self.bans.known.read().unwrap_or_else(PoisonError::into_inner).version {
            return Ok(());
        }
        let mut known = Known { version, ..Known::default() };
        let mut after = String::new();
        loop {
            let rows = self.store.ip_bans().list(&after, PAGE).await?;
            for row in &rows {
                let Ok(network) = row.network.parse::<IpNet>() else { continue };
                known.lengths.insert((network.addr().is_ipv4(), network.prefix_len()));
                known.networks.insert(network, row.expires_at);
            }
            match rows.last() {
                Some(last) if rows.len() == PAGE as usize => after.clone_from(&last.network),
                _ => break,
            }
        }
        *self.bans.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        if let Some(tell) = self.bans.on_change.get() {
            tell();
        }
        Ok(())
    }

    /// Keeps up with what other nodes change, until it is dropped.
    pub(crate) async fn tend_bans(&self) {
        loop {
            if let Err(error) = self.look_at_bans().await {
                warn!(error = &error as &dyn std::error::Error, "could not read which addresses are banned");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn holds_loopback(network: IpNet) -> bool {
    let own = ["127.0.0.0/8", "::1/128", "::ffff:127.0.0.0/104"];
    own.iter().filter_map(|own| own.parse::<IpNet>().ok()).any(|own| network.contains(&own) || own.contains(&network))
}

/// How the audit log has it.
fn told(row: &IpBanRow) -> String {
    json!({ "banned_at": row.banned_at, "expires_at": row.expires_at, "reason": row.reason }).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::testing::with_users;

    fn root() -> Author {
        Author { actor: "@root:a.test".into(), reason: "it knocks all night".into() }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn a_banned_network_stays_out_until_its_time_is_over_or_it_is_lifted() {
        with_users(async |users, clock| {
            let heard = Arc::new(AtomicU32::new(0));
            let ear = heard.clone();
            users.on_bans_changed(Box::new(move || {
                ear.fetch_add(1, Ordering::SeqCst);
            }));
            let from = ip("198.51.100.1");
            let until = users.now() + 1_000;
            users.ban_network(net("203.0.113.77/24"), Some(until), from, &root()).await.expect("it can be");
            users.ban_network(net("2001:db8::/32"), None, from, &root()).await.expect("it can be");
            for address in ["203.0.113.1", "::ffff:203.0.113.255", "2001:db8::1"] {
                assert!(users.is_banned(ip(address)), "{address}");
            }
            for address in ["203.0.112.1", "127.0.0.1", "::1", "2001:db9::1"] {
                assert!(!users.is_banned(ip(address)), "{address}");
            }
            clock.advance(1_000);
            assert!(!users.is_banned(ip("203.0.113.1")), "its time is over");
            users.lift_ban(net("2001:db8::/32"), &root()).await.expect("it is there");
            assert!(!users.is_banned(ip("2001:db8::1")));
            assert!(matches!(users.lift_ban(net("2001:db8::/32"), &root()).await, Err(IpBanError::Unknown)));
            assert_eq!(heard.load(Ordering::SeqCst), 3);
            let audit = users.peers.trust().audit(None, None, 10).await.expect("it reads");
            let did: Vec<_> = audit.iter().map(|entry| (entry.action.as_str(), entry.subject.as_str())).collect();
            let expected =
                [("ip_ban.lifted", "2001:db8::/32"), ("ip_ban.set", "2001:db8::/32"), ("ip_ban.set", "203.0.113.0/24")];
            assert_eq!(did, expected);
        })
        .await;
    }

    #[tokio::test]
    async fn nobody_locks_out_this_machine_or_themselves() {
        with_users(async |users, _| {
            let from = ip("198.51.100.1");
            for network in ["0.0.0.0/0", "127.0.0.1/32", "::/0", "::1/128", "::ffff:127.0.0.1/128"] {
                let refused = users.ban_network(net(network), None, from, &root()).await;
                assert!(matches!(refused, Err(IpBanError::Loopback(_))), "{network}");
            }
            let refused = users.ban_network(net("198.51.100.0/24"), None, from, &root()).await;
            assert!(matches!(refused, Err(IpBanError::Own(_))));
            let refused = users.ban_network(net("203.0.113.0/24"), Some(1), from, &root()).await;
            assert!(matches!(refused, Err(IpBanError::Past)));
            assert!(users.ip_bans("", 10).await.expect("it reads").is_empty());
        })
        .await;
    }
}
