//! Addresses that are told what happens here.

use model::{Millis, Position};

use crate::{Error, Row, Store, Table, Write, args};

static WEBHOOKS: Table = Table {
    insert: "INSERT INTO webhooks (id, url, patterns, secret, created_by, created_at)",
    columns: 6,
    conflict: "",
    key: 0,
};

static DEAD_LETTERS: Table = Table {
    insert: "INSERT INTO webhook_dead_letters (webhook_id, message_id, routing_key, envelope, reason, at)",
    columns: 6,
    conflict: "ON CONFLICT (webhook_id, message_id) DO UPDATE SET reason = excluded.reason, at = excluded.at",
    key: 2,
};

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRow {
    /// Given by the server.
    pub id: String,
    /// Where to.
    pub url: String,
    /// Which routing keys it is told, a JSON array.
    pub patterns: String,
    /// What it knows this server by, sealed.
    pub secret: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Millis,
    /// Since when it is told nothing, and why.
    pub stopped: Option<(Millis, String)>,
    /// It is to be told again what came after this.
    pub replay_from: Option<Position>,
}

/// What an address did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// The id in the envelope.
    pub message_id: String,
    /// Under which routing key.
    pub routing_key: String,
    /// As it was told, JSON.
    pub envelope: String,
    /// What came of the last attempt.
    pub reason: String,
    /// When it was given up.
    pub at: Millis,
}

/// Adds an address.
pub fn insert(write: &mut Write, row: &WebhookRow) {
    let values = args![
        row.id.as_str(),
        row.url.as_str(),
        row.patterns.as_str(),
        row.secret.as_str(),
        row.created_by.as_str(),
        row.created_at
    ];
    write.insert(&WEBHOOKS, values);
}

/// Takes an address away, with what it did not take and how far it has come. `follower`: its name among the followers.
pub fn remove(write: &mut Write, id: &str, follower: &str) {
    write.run("DELETE FROM webhooks WHERE id = $1", args![id]);
    write.run("DELETE FROM webhook_dead_letters WHERE webhook_id = $1", args![id]);
    write.run("DELETE FROM followers WHERE name = $1", args![follower]);
}

/// Tells an address nothing any more.
pub fn stop(write: &mut Write, id: &str, why: &str, now: Millis) {
    const STOP: &str = "UPDATE webhooks SET stopped_at = $2, stopped_why = $3 WHERE id = $1 AND stopped_at IS NULL";
    write.run(STOP, args![id, now, why]);
}

/// Tells an address again.
pub fn resume(write: &mut Write, id: &str) {
    write.run("UPDATE webhooks SET stopped_at = NULL, stopped_why = NULL WHERE id = $1", args![id]);
}

/// Tells an address again what came after `position`.
pub fn replay(write: &mut Write, id: &str, position: Position) {
    write.run("UPDATE webhooks SET replay_from = $2 WHERE id = $1", args![id, position]);
}

/// An address begins again where it was asked to. `follower`: its name among the followers.
pub fn begin_replay(write: &mut Write, id: &str, follower: &str, position: Position, now: Millis) {
    const BACK: &str = "UPDATE followers SET position = $2, moved_at = $3 WHERE name = $1";
    write.run(BACK, args![follower, position, now]);
    const TAKEN: &str = "UPDATE webhooks SET replay_from = NULL WHERE id = $1 AND replay_from = $2";
    write.run(TAKEN, args![id, position]);
}

/// Keeps what an address did not take.
pub fn bury(write: &mut Write, id: &str, letter: &DeadLetterRow) {
    let values = args![
        id,
        letter.message_id.as_str(),
        letter.routing_key.as_str(),
        letter.envelope.as_str(),
        letter.reason.as_str(),
        letter.at
    ];
    write.insert(&DEAD_LETTERS, values);
}

/// Forgets what an address did not take up to a moment.
pub fn forget_letters(write: &mut Write, id: &str, upto: Millis) {
    write.run("DELETE FROM webhook_dead_letters WHERE webhook_id = $1 AND at <= $2", args![id, upto]);
}

/// Reads addresses.
pub struct Webhooks<'a>(&'a Store);

impl Store {
    /// Reads the addresses that are told what happens here.
    pub fn webhooks(&self) -> Webhooks<'_> {
        Webhooks(self)
    }
}

const COLUMNS: &str =
    "SELECT id, url, patterns, secret, created_by, created_at, stopped_at, stopped_why, replay_from FROM webhooks";

impl Webhooks<'_> {
    /// All of them, by age.
    pub async fn all(&self) -> Result<Vec<WebhookRow>, Error> {
        let sql = format!("{COLUMNS} ORDER BY created_at, id");
        self.0.query(sql, Vec::new()).await?.iter().map(webhook).collect()
    }

    /// One of them.
    pub async fn find(&self, id: &str) -> Result<Option<WebhookRow>, Error> {
        let sql = format!("{COLUMNS} WHERE id = $1");
        self.0.query(sql, args![id]).await?.first().map(webhook).transpose()
    }

    /// How much each did not take, for those where it isn't nothing.
    pub async fn buried(&self) -> Result<Vec<(String, i64)>, Error> {
        const BURIED: &str =
            "SELECT webhook_id, CAST(COUNT(*) AS BIGINT) FROM webhook_dead_letters GROUP BY webhook_id";
        self.0.query(BURIED, Vec::new()).await?.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
    }

    /// The first `limit` that an address did not take, the oldest first.
    pub async fn letters(&self, id: &str, limit: i64) -> Result<Vec<DeadLetterRow>, Error> {
        const LETTERS: &str = "
            SELECT message_id, routing_key, envelope, reason, at
            FROM webhook_dead_letters
            WHERE webhook_id = $1
            ORDER BY at, message_id
            LIMIT $2";
        self.0.query(LETTERS, args![id, limit]).await?.iter().map(letter).collect()
    }
}

fn webhook(row: &Row) -> Result<WebhookRow, Error> {
    Ok(WebhookRow {
        id: row.text(0)?,
        url: row.text(1)?,
        patterns: row.text(2)?,
        secret: row.text(3)?,
        created_by: row.text(4)?,
        created_at: row.int(5)?,
        stopped: row.opt_int(6)?.zip(row.opt_text(7)?),
        replay_from: row.opt_int(8)?.map(Position),
    })
}

fn letter(row: &Row) -> Result<DeadLetterRow, Error> {
    Ok(DeadLetterRow {
        message_id: row.text(0)?,
        routing_key: row.text(1)?,
        envelope: row.text(2)?,
        reason: row.text(3)?,
        at: row.int(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn an_address_is_kept_stopped_and_taken_away() {
        on_each_engine(async |store| {
            let row = WebhookRow {
                id: "one".to_owned(),
                url: "https://hook.test/".to_owned(),
                patterns: r##"["chat.message.#"]"##.to_owned(),
                secret: "sealed".to_owned(),
                created_by: "@admin:a.test".to_owned(),
                created_at: 5,
                stopped: None,
                replay_from: None,
            };
            let dead = DeadLetterRow {
                message_id: "$event".to_owned(),
                routing_key: "chat.message.conversation.x".to_owned(),
                envelope: "{}".to_owned(),
                reason: "status 500".to_owned(),
                at: 7,
            };
            let mut write = Write::new();
            insert(&mut write, &row);
            bury(&mut write, "one", &dead);
            bury(&mut write, "one", &dead);
            stop(&mut write, "one", "gone", 9);
            store.commit(write).await?;
            let stopped = WebhookRow { stopped: Some((9, "gone".to_owned())), ..row.clone() };
            assert_eq!(store.webhooks().all().await?, [stopped]);
            assert_eq!(store.webhooks().buried().await?, [("one".to_owned(), 1)]);
            assert_eq!(store.webhooks().letters("one", 5).await?, [dead]);
            let mut write = Write::new();
            resume(&mut write, "one");
            forget_letters(&mut write, "one", 7);
            store.commit(write).await?;
            assert_eq!(store.webhooks().find("one").await?, Some(row));
            assert!(store.webhooks().buried().await?.is_empty());
            let mut write = Write::new();
            remove(&mut write, "one", "webhook/one");
            store.commit(write).await?;
            assert_eq!(store.webhooks().find("one").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
