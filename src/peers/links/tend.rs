//! Seeing to it that what shall be at the broker is there, and nothing more; as often as it takes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use fabric::{
    management::{LinkFault, LinkThere, Snapshot, Step},
    naming,
};
use futures_util::{StreamExt as _, stream};
use metrics::gauge;
use ruma::{OwnedServerName, ServerName};
use store::{
    Write,
    broker_links::{self, LinkRow},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Links, LinksError, ask::THEIRS, give::OURS, offer::Theirs, peer_of_vhost, plan, user_of};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// No look follows another sooner, whatever happens.
const BREATH: Duration = Duration::from_millis(250);
/// How long one look may take, with all that is done then.
const LOOK: Duration = Duration::from_secs(120);
/// How many links are seen to at once.
const AT_ONCE: usize = 4;
/// Every so many looks it is found out whether the broker can do what it should.
const CHECK_EVERY: u32 = 15;
/// How long a link may be down before that is said.
const PATIENCE: Duration = Duration::from_secs(30);
/// A link that the broker does not know is made anew when it was missed so often …
const MISSED: u32 = 2;
/// … and one that is down otherwise, when it was seen down so often.
const GIVEN_UP: u32 = 30;
/// The peer is asked again how to log in when a link was seen down so often.
const REFUSED: u32 = 2;
/// What says whether a link is up.
const UP: &str = "comity_bus_link_up";

impl Links {
    /// Keeps the links, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changes = self.shared.peers.trust().changes();
        let mut looks = 0_u32;
        let mut is_away = false;
        loop {
            if looks.is_multiple_of(CHECK_EVERY) || !self.findings().is_empty() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.check() => {}
                }
            }
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = timeout(LOOK, self.look()) => looked,
            };
            match looked {
                Ok(Ok(())) => is_away = false,
                Ok(Err(error)) if !is_away => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "could not see to the links with the brokers of peers"
                    );
                    is_away = true;
                }
                Ok(Err(error)) => debug!(error = &error as &dyn std::error::Error, "still can't see to the links"),
                Err(_) => warn!("seeing to the links with the brokers of peers takes too long"),
            }
            looks = looks.wrapping_add(1);
            sleep(BREATH).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.shared.wake.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Finds out whether the broker can do what it should, and says what is new of that.
    pub async fn check(&self) {
        let mut found = self.shared.management.findings(self.shared.config.way).await;
        if self.shared.config.public_url.is_none() {
            found.push("bus.public_url is not set: peers can't be told where this server's broker is".to_owned());
        }
        let before = {
            let mut findings = self.shared.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::replace(&mut *findings, found.clone())
        };
        for finding in found.iter().filter(|finding| !before.contains(finding)) {
            warn!("{finding}");
        }
        if found.is_empty() && !before.is_empty() {
            info!("the broker has all that links with peers need");
        }
    }

    async fn look(&self) -> Result<(), LinksError> {
        let wanted: BTreeSet<OwnedServerName> = self.wanted().into_keys().collect();
        let mut rows = self.store().broker_links().list().await?;
        let new: Vec<_> = wanted.iter().filter(|peer| !rows.iter().any(|row| row.peer == **peer)).collect();
        for peer in &new {
            self.begin(peer).await?;
        }
        if !new.is_empty() {
            rows = self.store().broker_links().list().await?;
        }
        let vhosts: Vec<String> = wanted.iter().map(|peer| naming::vhost(peer)).collect();
        let there = self.shared.management.look(&vhosts).await?;
        let name = self.shared.management.cluster_name().await?;
        if name.contains('@') {
            // What it is called by default is the name of a machine, which others have too.
            self.shared.management.set_cluster_name(self.us().as_str()).await?;
        }
        self.remove_unwanted(&wanted, &rows, &there).await?;
        let linked = rows.into_iter().filter(|row| wanted.contains(&row.peer)).collect::<Vec<_>>();
        let there = &there;
        let seen_to = stream::iter(linked).map(|row| async move { self.see_to(&row, there).await });
        let seen_to = seen_to.buffer_unordered(AT_ONCE);
        for done in seen_to.collect::<Vec<_>>().await {
            done?;
        }
        Ok(())
    }

    /// One link. What is wrong with it is kept with it; the error is the store's.
    async fn see_to(&self, row: &LinkRow, there: &Snapshot) -> Result<(), LinksError> {
        let peer = &row.peer;
        let made = self.make(row, there).await;
        let (theirs, changed) = match made {
            Ok(made) => made,
            Err(error) => return self.note_trouble(row, Some(error.to_string())).await,
        };
        self.with_watched(peer, |watched| watched.is_made = true);
        let link = there.links.iter().find(|link| link.vhost == naming::vhost(peer) && link.name == peer.as_str());
        // A shovel that is refused says nothing of it; it just never starts.
        let is_long_down = self.with_watched(peer, |watched| watched.looks_down >= REFUSED);
        let is_refused = is_long_down || link.is_some_and(|link| link.fault == Some(LinkFault::Login));
        let mut trouble = None;
        if row.by_hand_at.is_none() && (theirs.is_none() || is_refused) {
            // While it isn't its turn to be asked, what was wrong stays wrong.
            trouble =
                self.ask(peer, theirs.as_ref()).await.or_else(|| row.trouble.clone().filter(|_| theirs.is_none()));
        }
        self.note_trouble(row, trouble).await?;
        if !changed {
            self.judge(peer, theirs.is_some(), link, there).await;
        }
        Ok(())
    }

    /// Makes and repairs what shall be there. Answers how to log in at the peer's broker, and whether anything was done.
    async fn make(&self, row: &LinkRow, there: &Snapshot) -> Result<(Option<Theirs>, bool), LinksError> {
        let (peer, vault) = (&row.peer, &self.shared.vault);
        let password = vault.unseal(peer.as_str(), OURS, &row.ours)?;
        let theirs = match &row.theirs {
            // What the peer said can be asked for again, if it can't be opened; what an admin said can't.
            Some(sealed) => match vault.unseal(peer.as_str(), THEIRS, sealed) {
                Err(error) if row.by_hand_at.is_some() => return Err(error.into()),
                opened => opened.ok().and_then(|opened| serde_json::from_str::<Theirs>(opened.as_str()).ok()),
            },
            None => None,
        };
        let Self { shared } = self;
        let user = shared.management.user();
        let site = plan::site(self.us(), peer, &password, theirs.as_ref(), user, &shared.config)?;
        let steps = site.steps(there);
        for step in &steps {
            debug!(server.name = %peer, %step, "sees to the link with {peer}");
            shared.management.apply(step).await?;
        }
        if !steps.is_empty() {
            info!(server.name = %peer, steps = steps.len(), "put in order at the broker what the link with {peer} needs");
        }
        Ok((theirs, !steps.is_empty()))
    }

    /// Whether the link is up; says so when that changes, and makes it anew when the broker has lost it or given it up.
    async fn judge(&self, peer: &ServerName, is_known: bool, link: Option<&LinkThere>, there: &Snapshot) {
        let is_up = link.is_some_and(|link| link.fault.is_none());
        gauge!(UP, "peer" => peer.to_string()).set(if is_up { 1.0 } else { 0.0 });
        if is_up {
            let was_alarmed = self.with_watched(peer, |watched| {
                watched.down_since = None;
                watched.looks_down = 0;
                watched.failures = 0;
                std::mem::take(&mut watched.is_alarmed)
            });
            if was_alarmed {
                info!(server.name = %peer, "the link with the broker of {peer} is up again");
            }
            return;
        }
        let (looks, is_news) = self.with_watched(peer, |watched| {
            watched.looks_down = watched.looks_down.saturating_add(1);
            let since = *watched.down_since.get_or_insert_with(Instant::now);
            let is_news = since.elapsed() >= PATIENCE && !watched.is_alarmed;
            watched.is_alarmed |= is_news;
            (watched.looks_down, is_news)
        });
        if is_news {
            let why = match (is_known, link.and_then(|link| link.fault)) {
                (false, _) => "the peer does not say how to log in at its broker",
                (true, Some(fault)) => fault.words(),
                (true, None) => "this server's broker does not know of it",
            };
            warn!(server.name = %peer, why, "the link with the broker of {peer} is down: {why}");
        }
        let is_lost = is_known && link.is_none() && looks.is_multiple_of(MISSED);
        if is_lost || (link.is_some() && looks.is_multiple_of(GIVEN_UP)) {
            self.make_anew(peer, there).await;
        }
    }

    /// Takes the upstream or the shovel away: the next look finds it missing, and makes it.
    async fn make_anew(&self, peer: &ServerName, there: &Snapshot) {
        let vhost = naming::vhost(peer);
        for (component, name) in there.parameters_of(&vhost) {
            let step = Step::NoParameter { vhost: vhost.clone(), component, name };
            if let Err(error) = self.shared.management.apply(&step).await {
                debug!(server.name = %peer, error = &error as &dyn std::error::Error, "could not make a link anew");
            }
        }
        self.shared.wake.notify_one();
    }

    /// Takes away what belongs to links that are not wanted: those that were begun, and those of which only the broker knows.
    async fn remove_unwanted(
        &self,
        wanted: &BTreeSet<OwnedServerName>,
        rows: &[LinkRow],
        there: &Snapshot,
    ) -> Result<(), LinksError> {
        let begun = rows.iter().map(|row| row.peer.clone());
        let marked = there.vhosts.iter().filter(|(_, is_ours)| **is_ours).filter_map(|(vhost, _)| peer_of_vhost(vhost));
        let users = there.users.iter().filter(|(_, user)| user.is_ours);
        let users = users.filter_map(|(user, _)| OwnedServerName::try_from(user.strip_prefix("peer.")?).ok());
        let all: BTreeSet<OwnedServerName> = begun.chain(marked).chain(users).collect();
        if all.is_subset(wanted) {
            return Ok(());
        }
        // Another node may have heard of a peer before this one.
        self.shared.peers.trust().load().await?;
        let wanted = self.wanted();
        for peer in all.iter().filter(|peer| !wanted.contains_key(*peer)) {
            self.remove(peer, there).await?;
        }
        Ok(())
    }

    async fn remove(&self, peer: &ServerName, there: &Snapshot) -> Result<(), LinksError> {
        let (user, vhost) = (user_of(peer), naming::vhost(peer));
        // The user first: from then on nobody gets in.
        if there.users.contains_key(&user) {
            self.shared.management.remove_user(&user).await?;
        }
        if there.vhosts.contains_key(&vhost) {
            self.shared.management.remove_vhost(&vhost).await?;
        }
        let mut write = Write::new();
        broker_links::remove(&mut write, peer);
        self.store().commit(write).await?;
        self.forget_watched(peer);
        // Nobody is to be alarmed by a link that is not wanted.
        gauge!(UP, "peer" => peer.to_string()).set(f64::NAN);
        info!(server.name = %peer, "there is no link with the broker of {peer} any more: all of it was taken away");
        Ok(())
    }

    async fn note_trouble(&self, row: &LinkRow, trouble: Option<String>) -> Result<(), LinksError> {
        if row.trouble == trouble {
            return Ok(());
        }
        if let Some(trouble) = &trouble {
            warn!(server.name = %row.peer, "the link with {}: {trouble}", row.peer);
        }
        let mut write = Write::new();
        broker_links::set_trouble(&mut write, &row.peer, trouble.as_deref());
        self.store().commit(write).await?;
        Ok(())
    }
}
