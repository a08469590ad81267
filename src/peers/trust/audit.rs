//! What admins did to peers: each entry holds the hash of the one before.

use model::peer::PeerPattern;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::audit::AuditRow;

use super::Trust;

/// How many entries are read at once.
const PAGE: u32 = 1_000;

/// Who does something, and why.
#[derive(Clone, Debug)]
pub struct Author {
    /// A user id, `command line`, or a part of the server that acts by itself.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// One entry, for people and tools.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// From 1 on, without a gap.
    pub number: i64,
    /// When, milliseconds since 1970.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// What was done, such as `peer.set`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// How that was.
    pub before: Option<Value>,
    /// How it became.
    pub after: Option<Value>,
    /// Why.
    pub reason: String,
    /// The hash of everything above and of the entry before, SHA-256, base64.
    pub hash: String,
}

/// The chain does not hold: somebody changed the log behind the server's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The first entry that is not as it was written.
    pub number: i64,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        let AuditRow { number, at, actor, action, subject, before, after, reason, hash, .. } = row;
        let read = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
        Self { number, at, actor, action, subject, before: read(before), after: read(after), reason, hash }
    }
}

/// The entry that comes after `last`, with its hash.
pub(super) fn next(last: Option<&AuditRow>, mut row: AuditRow) -> AuditRow {
    row.number = last.map_or(1, |last| last.number + 1);
    row.previous_hash = last.map(|last| last.hash.clone()).unwrap_or_default();
    row.hash = hash_of(&row);
    row
}

fn hash_of(row: &AuditRow) -> String {
    let object = json!({
        "number": row.number, "at": row.at, "actor": row.actor, "action": row.action, "subject": row.subject,
        "before": row.before, "after": row.after, "reason": row.reason, "previous_hash": row.previous_hash,
    });
    let canonical: CanonicalJsonObject = serde_json::from_value(object).expect("it is made of texts and whole numbers");
    let text = CanonicalJsonValue::Object(canonical).to_string();
    ruma::serde::Base64::<ruma::serde::base64::Standard>::new(Sha256::digest(text.as_bytes()).to_vec()).encode()
}

impl Trust {
    /// What admins did, the latest first, from before entry `before` back; to one peer, or to all.
    pub async fn audit(
        &self,
        before: Option<i64>,
        subject: Option<&PeerPattern>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, store::Error> {
        let rows = self.shared.store.audit().list(before.unwrap_or(i64::MAX), subject, limit.clamp(1, PAGE)).await?;
        Ok(rows.into_iter().map(AuditEntry::from).collect())
    }

    /// Looks through the whole log. Answers how many entries it has, or where it was tampered with.
    pub async fn verify_audit(&self) -> Result<Result<i64, Broken>, store::Error> {
        let mut last: Option<AuditRow> = None;
        loop {
            let after = last.as_ref().map_or(0, |row| row.number);
            let rows = self.shared.store.audit().after(after, PAGE).await?;
            if rows.is_empty() {
                return Ok(Ok(after));
            }
            for row in rows {
                if next(last.as_ref(), row.clone()) != row {
                    return Ok(Err(Broken { number: row.number }));
                }
                last = Some(row);
            }
        }
    }
}
