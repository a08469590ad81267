//! Trying a server again at once, for whoever runs the command beside a server that runs: it goes into the log of what admins did,
//! by which every node hears of it.

use futures_util::{FutureExt as _, future};
use model::peer::PeerPattern;
use ruma::{OwnedServerName, ServerName};
use store::{Write, destinations};

use super::{Author, ChangeError, Trust, change::Audited};

/// What the log calls it.
const RETRY: &str = "peer.retry";
/// How many entries of the log are read at once.
const PAGE: u32 = 500;

impl Trust {
    /// Has `server` tried at once by every node, as if it had never failed: those that run hear of it within a second, those that
    /// don't find it so when they start. Answers whether anything is waiting for it; if not, nothing is done.
    pub async fn retry(&self, server: &ServerName, author: &Author) -> Result<bool, ChangeError> {
        if !self.shared.store.outbox().destinations().await?.iter().any(|owed| owed == server) {
            return Ok(false);
        }
        let subject = PeerPattern::Exact(server.to_owned()).to_string();
        let retried = |_| {
            let mut write = Write::new();
            destinations::retry(&mut write, server);
            future::ready(Ok(Audited { write, before: None, after: None, outcome: true })).boxed()
        };
        self.audited(RETRY, &subject, author, retried).await
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
