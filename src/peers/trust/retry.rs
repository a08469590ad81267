//! Trying a server again at once, for whoever runs the command beside a server that runs: it goes into the log of what admins did,
//! by which every node hears of it.

use model::peer::PeerPattern;
use ruma::{OwnedServerName, ServerName};
use store::{
    Write,
    audit::{self as log, AuditRow},
    destinations,
};

use super::{Author, ChangeError, Trust, audit};

/// What the log calls it.
const RETRY: &str = "peer.retry";
/// How often it is tried again because somebody else wrote to the log meanwhile.
const TRIES: u32 = 16;
/// How many entries of the log are read at once.
const PAGE: u32 = 500;

impl Trust {
    /// Has `server` tried at once by every node, as if it had never failed: those that run hear of it within a second, those that
    /// don't find it so when they start. Answers whether anything is waiting for it; if not, nothing is done.
    pub async fn retry(&self, server: &ServerName, author: &Author) -> Result<bool, ChangeError> {
        if author.reason.trim().is_empty() {
            return Err(ChangeError::NoReason);
        }
        let store = &self.shared.store;
        if !store.outbox().destinations().await?.iter().any(|owed| owed == server) {
            return Ok(false);
        }
        for _ in 0..TRIES {
            let last = store.audit().last().await?;
            let entry = AuditRow {
                number: 0,
                at: crate::keys::wall_clock(),
                actor: author.actor.clone(),
                action: RETRY.to_owned(),
                subject: PeerPattern::Exact(server.to_owned()).to_string(),
                before: None,
                after: None,
                reason: author.reason.chars().take(1_000).collect(),
                previous_hash: String::new(),
                hash: String::new(),
            };
            let mut write = Write::new();
            log::append(&mut write, &audit::next(last.as_ref(), entry));
            destinations::retry(&mut write, server);
            match store.commit(write).await {
                Ok(_) => return self.load().await.map(|()| true).map_err(ChangeError::from),
                // Somebody else was first.
                Err(store::Error::Duplicate) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(store::Error::Conflict.into())
    }

    /// Which servers are to be tried again by entries of the log after `number`, and up to which entry that is.
    pub async fn retries_after(&self, number: i64) -> Result<(i64, Vec<OwnedServerName>), store::Error> {
        let (mut upto, mut servers) = (number, Vec::new());
        loop {
            let rows = self.shared.store.audit().after(upto, PAGE).await?;
            let Some(last) = rows.last() else { return Ok((upto, servers)) };
            upto = last.number;
            let retried = rows.iter().filter(|row| row.action == RETRY);
            servers.extend(retried.filter_map(|row| OwnedServerName::try_from(row.subject.as_str()).ok()));
        }
    }
}
