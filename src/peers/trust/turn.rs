//! Changes of what trust hangs on: each with its entry in the audit log.

use model::Millis;
use store::{
    Write,
    audit::{self as log, AuditRow},
};

use super::{Author, Trust, audit};

/// The place in the log that one has if nobody else writes meanwhile. Taken before one reads what one changes: who writes
/// after that takes the same place.
pub(crate) struct Turn {
    last: Option<AuditRow>,
    /// When it is.
    pub(crate) now: Millis,
}

impl Turn {
    /// The number that the entry will have.
    pub(crate) fn number(&self) -> i64 {
        self.last.as_ref().map_or(1, |last| last.number + 1)
    }
}

/// What is done, for the log.
pub(crate) struct Act<'a> {
    /// Such as `list.subscribed`.
    pub(crate) action: &'a str,
    /// To what.
    pub(crate) subject: &'a str,
    /// By whom, and why.
    pub(crate) author: &'a Author,
    /// How that was, JSON.
    pub(crate) before: Option<String>,
    /// How it becomes, JSON.
    pub(crate) after: Option<String>,
}

impl Trust {
    /// The next place in the log.
    pub(crate) async fn turn(&self) -> Result<Turn, store::Error> {
        let last = self.shared.store.audit().last().await?;
        Ok(Turn { last, now: crate::keys::wall_clock() })
    }

    /// Does `write`, with an entry of the log that says so; it is in force when this returns, here. False: somebody else was
    /// first, so nothing was done, and what there is has to be looked at again.
    pub(crate) async fn record(&self, turn: Turn, mut write: Write, act: Act<'_>) -> Result<bool, store::Error> {
        let Act { action, subject, author, before, after } = act;
        let entry = audit::next(
            turn.last.as_ref(),
            AuditRow {
                number: 0,
                at: turn.now,
                actor: author.actor.clone(),
                action: action.to_owned(),
                subject: subject.to_owned(),
                before,
                after,
                reason: author.reason.chars().take(1_000).collect(),
                previous_hash: String::new(),
                hash: String::new(),
            },
        );
        log::append(&mut write, &entry);
        match self.shared.store.commit(write).await {
            Ok(_) => {
                self.load().await?;
                Ok(true)
            }
            Err(store::Error::Duplicate) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
