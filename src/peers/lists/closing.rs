//! What becomes of a list for which no newer version could be had: it goes on for everybody in it, for a while, and is then closed
//! to newcomers.

use std::collections::BTreeSet;

use model::{Millis, peer::normal_name};
use ruma::ServerName;
use serde_json::json;
use store::{
    Write,
    federation_lists::{self as rows, SubscriptionRow},
};
use tracing::warn;

use super::{TRIES, document::SignedList};
use crate::trust::{Act, Author, Trust};

impl Trust {
    /// Closes lists to newcomers that ended longer ago than the configuration lets them go on.
    ///
    /// Who is no newcomer is found out once, when a list is closed, and written down: those that take up dealings with this
    /// server afterwards, as anybody may, don't become known to the list by that.
    pub(crate) async fn close_stale_lists(&self, now: Millis) -> Result<(), store::Error> {
        let grace = self.list_grace();
        if self.first_stale_list().is_none_or(|ended| ended + grace > now) {
            return Ok(());
        }
        // What was done until now is still in memory.
        self.write_acts().await;
        for row in self.store().federation_lists().subscriptions().await? {
            if row.closed_at.is_none() && row.expires_at + grace <= now {
                self.close_list(&row.publisher, now).await?;
            }
        }
        Ok(())
    }

    async fn close_list(&self, publisher: &ServerName, now: Millis) -> Result<(), store::Error> {
        let author = Author {
            actor: "federation lists".to_owned(),
            reason: "it is out of date, and no newer version could be had".to_owned(),
        };
        let lists = self.store().federation_lists();
        for _ in 0..TRIES {
            let turn = self.turn().await?;
            let Some(row) = lists.find(publisher).await?.filter(|row| row.closed_at.is_none()) else { return Ok(()) };
            if row.expires_at + self.list_grace() > now {
                // A newer version has come meanwhile.
                return Ok(());
            }
            let document = lists.document(publisher).await?.unwrap_or_default();
            let listed = SignedList::read(document.as_bytes()).map(|signed| signed.list.entries).unwrap_or_default();
            let dealt_with = lists.acquainted_servers().await?;
            let dealt_with: BTreeSet<_> = dealt_with
                .iter()
                .filter_map(|server| <&ServerName>::try_from(server.as_str()).ok())
                .map(normal_name)
                .collect();
            let mut write = Write::new();
            let mut acquainted = 0_u32;
            for server in listed.keys().filter(|server| dealt_with.contains(server.as_str())) {
                rows::put_acquaintance(&mut write, publisher, server.as_str());
                acquainted += 1;
            }
            let after = SubscriptionRow {
                closed_at: Some(turn.now),
                revision: turn.number(),
                changed_by: author.actor.clone(),
                changed_at: turn.now,
                ..row.clone()
            };
            rows::put(&mut write, &after);
            let newcomers = listed.len() - acquainted as usize;
            let told = json!({ "version": row.version, "expired_at": row.expires_at, "newcomers": newcomers });
            let act = Act {
                action: "list.closed",
                subject: publisher.as_str(),
                author: &author,
                before: None,
                after: Some(told.to_string()),
            };
            if self.record(turn, write, act).await? {
                warn!(server.name = %publisher, version = row.version, newcomers,
                    "the list of {publisher} is out of date for so long that it no longer lifts the {newcomers} servers in it \
                     that this one does not know");
                return Ok(());
            }
        }
        Err(store::Error::Conflict)
    }
}
