//! Broadcasts of full peers, as they are told by their servers.

use model::{Address, Millis, Position};
use ruma::ServerName;
use serde::{Deserialize, Serialize};
use store::{
    Write,
    broadcasts::{self, BroadcastRow},
};
use tracing::info;

use super::{
    Audience, BroadcastError, Broadcasts,
    draft::{Priority, check_texts},
};
use crate::{
    now,
    system_events::{ID_RULE, is_id},
};

/// How many broadcasts of one server are taken in a day.
const A_DAY: i64 = 200;
const DAY: Millis = 24 * 60 * 60_000;

/// A broadcast, as one server tells another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBroadcast {
    /// What the sender's server calls it. The same one takes effect once.
    pub id: String,
    /// Who wrote it.
    pub author: String,
    /// One line.
    pub title: String,
    /// Plain text.
    pub body: String,
    /// The body with formatting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// How much it matters.
    #[serde(default)]
    pub priority: Priority,
    /// Whom of the receiving server it is for.
    pub audience: Audience,
    /// When it was published there, milliseconds since 1970.
    pub published_at: Millis,
    /// From then on nobody is told any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// It was called back.
    #[serde(default)]
    pub cancelled: bool,
}

impl Broadcasts {
    /// Takes a broadcast of `origin`, whose trust was looked at, and answers when it is durable. The same one, by its id, takes
    /// effect once; and once more when it is called back.
    pub async fn receive(&self, origin: &ServerName, told: PeerBroadcast) -> Result<(), BroadcastError> {
        let shared = &self.shared;
        if !shared.config.from_peers {
            return Err(BroadcastError::Declined);
        }
        let is_cancelled = told.cancelled;
        let row = checked(origin, shared.peers.server_name(), told, now())?;
        if let Some(known) = shared.store.broadcasts().find(&row.id).await? {
            return match is_cancelled && known.cancelled_at.is_none() {
                true => self.cancel(&row.id, origin.as_str()).await,
                false => Ok(()),
            };
        }
        if shared.store.broadcasts().count_of(origin, now() - DAY).await? >= A_DAY {
            return Err(BroadcastError::TooMany);
        }
        let mut write = Write::new();
        broadcasts::insert(&mut write, &row);
        match shared.store.commit(write).await {
            Ok(_) => {
                info!(server.name = %origin, broadcast.id = row.id, "{origin} told of a broadcast");
                Ok(())
            }
            // It came twice at once.
            Err(store::Error::Duplicate) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn checked(
    origin: &ServerName,
    us: &ServerName,
    told: PeerBroadcast,
    now: Millis,
) -> Result<BroadcastRow, BroadcastError> {
    let wrong = |field, wrong: &str| Err(BroadcastError::Field { field, wrong: wrong.to_owned() });
    if !is_id(&told.id) {
        return wrong("id", ID_RULE);
    }
    check_texts(&told.title, &told.body, told.html.as_deref())?;
    // A server speaks for its own people, or for itself.
    let author = match told.author.parse::<Address>() {
        Ok(author) if author.server_name() == origin => author.to_string(),
        Ok(_) => return wrong("author", "is of another server than the one that tells"),
        Err(_) => origin.to_string(),
    };
    told.audience.check()?;
    let audience = told.audience.at(us).ok_or(BroadcastError::NobodyHere)?;
    let is_cancelled = told.cancelled;
    Ok(BroadcastRow {
        // A name of this server's own has no @ in it.
        id: format!("{}@{origin}", told.id),
        origin: origin.to_owned(),
        author,
        title: told.title,
        body: told.body,
        html: told.html,
        priority: told.priority.as_str().to_owned(),
        audience: audience.json(),
        across: false,
        created_at: now,
        publish_at: told.published_at,
        expires_at: told.expires_at,
        // What was called back before it came is remembered, so that it isn't shown when it comes late.
        published_at: (!is_cancelled).then_some(now),
        cancelled_at: is_cancelled.then_some(now),
        cancelled_by: is_cancelled.then(|| origin.to_string()),
        created: Position(0),
        position: None,
        changed: None,
    })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::{Value, json};

    use super::*;

    fn told(change: Value) -> Result<BroadcastRow, BroadcastError> {
        let mut told = json!({
            "id": "x", "author": "root@b.test", "title": "Hello", "body": "You", "published_at": 5,
            "audience": { "kind": "users", "users": ["alice@a.test", "carol@c.test"] },
        });
        told.as_object_mut().expect("it is one").extend(change.as_object().expect("it is one").clone());
        checked(server_name!("b.test"), server_name!("a.test"), serde_json::from_value(told).expect("it is one"), 9)
    }

    #[test]
    fn a_server_speaks_for_its_own_people_to_ours() {
        let row = told(json!({})).expect("it is right");
        assert_eq!((row.id.as_str(), row.author.as_str(), row.published_at), ("x@b.test", "root@b.test", Some(9)));
        assert_eq!(row.audience, r#"{"kind":"users","users":["alice@a.test"]}"#);
        assert_eq!(told(json!({ "author": "server" })).expect("it is right").author, "b.test");
        let gone = told(json!({ "cancelled": true })).expect("it is right");
        assert_eq!((gone.published_at, gone.cancelled_at), (None, Some(9)));
        for wrong in [
            json!({ "id": "event:1" }),
            json!({ "author": "root@c.test" }),
            json!({ "title": "" }),
            json!({ "audience": { "kind": "domains", "domains": ["c.test"] } }),
        ] {
            assert!(told(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
