//! How far the directories of peers were read, for admins.

use model::Millis;
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;
use store::{Write, cascade as rows, cascade::PeerRow};
use tracing::info;

use super::{Cascade, CascadeError};
use crate::now;

/// How far the directory of a peer was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// Whose.
    pub server: OwnedServerName,
    /// Whether it is a peer to be read; if not, what it told is about to be forgotten.
    pub shared: bool,
    /// Whether all that it told is here, and in use.
    pub complete: bool,
    /// Whether it is being read from the beginning.
    pub from_start: bool,
    /// How many people of it are known, closed accounts among them.
    pub people: i64,
    /// How many SIP phones.
    pub sip_phones: i64,
    /// How many units.
    pub units: i64,
    /// When it was last asked, milliseconds since 1970.
    pub asked_at: Option<Millis>,
    /// When it last said that there are no more, likewise.
    pub told_at: Option<Millis>,
    /// When it is asked again, likewise.
    pub next_at: Millis,
    /// How often it was asked in vain since it last answered as it should.
    pub failures: i64,
    /// Why.
    pub error: Option<String>,
    /// How many of its entries were not taken: of other domains, or nonsense.
    pub refused: i64,
}

impl Cascade {
    /// Whether directories are shared at all.
    pub fn is_enabled(&self) -> bool {
        self.shared.config.enabled
    }

    /// How far each peer was read, by name; those that are to be read and were not asked yet among them.
    pub async fn status(&self) -> Result<Vec<PeerStatus>, CascadeError> {
        let shared = &self.shared;
        let wanted = if self.is_enabled() { shared.peers.trust().cascade_peers() } else { Vec::new() };
        let mut rows = shared.store.cascade().peers().await?;
        let unasked: Vec<PeerRow> = wanted
            .iter()
            .filter(|server| rows.iter().all(|row| row.server != **server))
            .map(|server| PeerRow::new(server.clone(), now()))
            .collect();
        rows.extend(unasked);
        rows.sort_by(|one, other| one.server.cmp(&other.server));
        let mut status = Vec::new();
        for row in rows {
            let [people, sip_phones, units] = shared.store.cascade().counts(&row.server).await?;
            status.push(PeerStatus {
                shared: wanted.contains(&row.server),
                complete: row.whole > 0,
                from_start: row.walk > row.whole || row.token.is_none(),
                people,
                sip_phones,
                units,
                asked_at: row.asked_at,
                told_at: row.told_at,
                next_at: row.next_at,
                failures: row.failures,
                error: row.trouble,
                refused: row.refused,
                server: row.server,
            });
        }
        Ok(status)
    }

    /// Has `server` asked now, on whichever node does that; `anew`: for everything.
    pub async fn ask_now(&self, author: &str, server: &ServerName, anew: bool) -> Result<(), CascadeError> {
        if !self.is_enabled() {
            return Err(CascadeError::Disabled);
        }
        if !self.shared.peers.trust().is_cascade_peer(server) {
            return Err(CascadeError::NotShared(server.to_owned()));
        }
        let mut write = Write::new();
        rows::ask_at(&mut write, server, now(), anew);
        self.shared.store.commit(write).await?;
        self.shared.news.notify_one();
        info!(server.name = %server, anew, "{author} has {server} asked for its people");
        Ok(())
    }
}
