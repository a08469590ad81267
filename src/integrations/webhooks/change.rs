//! Making, looking at and changing webhooks.

use std::collections::HashMap;

use model::{Millis, Position, gate::Act};
use peers::vault;
use serde::Deserialize;
use store::{
    Write,
    webhooks::{self, DeadLetterRow, WebhookRow},
};
use tracing::info;
use url::Url;

use super::{AnyWebhook, MOST, OnFailure, Progress, SECRET, Webhook, WebhookError, Webhooks, When, follower_of};
use crate::now;

/// The longest URL.
const LONGEST_URL: usize = 2_000;
/// How many patterns one may have.
const MOST_KEYS: usize = 50;
/// With what a routing key begins.
const KINDS: [&str; 5] = ["chat.message", "user.status", "system.notification", "system.event", "system.broadcast"];

/// A webhook that somebody wants.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookWish {
    /// Where to: `https://…`, or `http://…` in a network of one's own.
    pub url: String,
    /// Whether it is told afterwards or asked before.
    #[serde(default)]
    pub when: When,
    /// Afterwards: which routing keys it is told, with `*` for a word and `#` for any number of them.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Before: what it is asked about.
    #[serde(default)]
    pub acts: Vec<Act>,
    /// Before: how long it may take to answer, 50 to 5000 milliseconds; left out: 1000.
    #[serde(default)]
    pub deadline_ms: Option<u32>,
    /// Before: what is done when it does not answer.
    #[serde(default)]
    pub on_failure: Option<OnFailure>,
}

/// A webhook that was made.
#[derive(Clone, Debug)]
pub struct MadeWebhook {
    /// As it is now.
    pub webhook: AnyWebhook,
    /// By which it knows that requests are from here. It is told this once.
    pub secret: String,
}

impl Webhooks {
    /// Makes a webhook, which is told what happens from now on, or asked before. `author`: who wants it.
    pub async fn create(&self, author: &str, wish: WebhookWish) -> Result<MadeWebhook, WebhookError> {
        check_url(&wish.url)?;
        if wish.when == When::Before {
            let (hook, secret) = self.shared.before.create(author, wish).await?;
            info!(webhook.id = hook.id, author, "{author} made the webhook {}, which is asked before acts", hook.id);
            return Ok(MadeWebhook { webhook: AnyWebhook::Before(hook), secret: secret.to_string() });
        }
        check_after(&wish)?;
        if self.shared.store.webhooks().all().await?.len() >= MOST {
            return Err(WebhookError::TooMany(MOST));
        }
        let (id, secret) = (format!("{:016x}", rand::random::<u64>()), vault::password()?);
        let row = WebhookRow {
            secret: self.shared.vault.seal(&id, SECRET, &secret)?,
            id,
            url: wish.url,
            patterns: serde_json::to_string(&wish.keys).expect("texts are JSON"),
            created_by: author.to_owned(),
            created_at: now(),
            stopped: None,
            replay_from: None,
        };
        let from = self.shared.store.visible_position().await?;
        let mut write = Write::new();
        webhooks::insert(&mut write, &row);
        store::followers::begin(&mut write, &follower_of(&row.id), from, now());
        self.shared.store.commit(write).await?;
        self.shared.changed.notify_one();
        info!(webhook.id = row.id, author, "{author} made the webhook {}", row.id);
        let webhook = AnyWebhook::After(self.shown(row, 0).await?);
        Ok(MadeWebhook { webhook, secret: secret.to_string() })
    }

    /// All of them: those that are told what happens by age, and then those that are asked, in the order in which they are.
    pub async fn all(&self) -> Result<Vec<AnyWebhook>, WebhookError> {
        let reads = self.shared.store.webhooks();
        let buried: HashMap<_, _> = reads.buried().await?.into_iter().collect();
        let mut all = Vec::new();
        for row in reads.all().await? {
            let dead = buried.get(&row.id).copied().unwrap_or_default();
            all.push(AnyWebhook::After(self.shown(row, dead).await?));
        }
        all.extend(self.shared.before.all().await?.into_iter().map(AnyWebhook::Before));
        Ok(all)
    }

    /// Tells or asks it nothing any more, and forgets it.
    pub async fn remove(&self, author: &str, id: &str) -> Result<(), WebhookError> {
        if !self.shared.before.remove(id).await? {
            self.row(id).await?;
            let mut write = Write::new();
            webhooks::remove(&mut write, id, &follower_of(id));
            self.shared.store.commit(write).await?;
            self.shared.changed.notify_one();
        }
        info!(webhook.id = id, author, "{author} removed the webhook {id}");
        Ok(())
    }

    /// Tells it again everything that came after a position, also if it was told nothing any more.
    pub async fn replay(&self, id: &str, from: Position) -> Result<(), WebhookError> {
        self.row(id).await?;
        let visible = self.shared.store.visible_position().await?;
        if from.0 < 0 || from > visible {
            let wrong = format!("is no position of the stream, which goes from 0 to {}", visible.0);
            return Err(WebhookError::Field { field: "from", wrong });
        }
        let mut write = Write::new();
        webhooks::resume(&mut write, id);
        webhooks::replay(&mut write, id, from);
        self.shared.store.commit(write).await?;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The first `limit` messages that it did not take, the oldest first.
    pub async fn dead_letters(&self, id: &str, limit: u32) -> Result<Vec<DeadLetterRow>, WebhookError> {
        self.row(id).await?;
        Ok(self.shared.store.webhooks().letters(id, i64::from(limit)).await?)
    }

    /// Forgets what it did not take up to a moment, milliseconds since 1970.
    pub async fn forget_dead_letters(&self, id: &str, upto: Millis) -> Result<(), WebhookError> {
        self.row(id).await?;
        let mut write = Write::new();
        webhooks::forget_letters(&mut write, id, upto);
        self.shared.store.commit(write).await?;
        Ok(())
    }

    async fn row(&self, id: &str) -> Result<WebhookRow, WebhookError> {
        self.shared.store.webhooks().find(id).await?.ok_or(WebhookError::Unknown)
    }

    async fn shown(&self, row: WebhookRow, dead_letters: i64) -> Result<Webhook, WebhookError> {
        let progress = self.progress().get(&row.id).cloned();
        let Progress { at, failing_since, last_error } = match progress {
            Some(progress) => progress,
            None => {
                let at = self.shared.store.followers().position(&follower_of(&row.id)).await?.unwrap_or_default();
                Progress { at, ..Progress::default() }
            }
        };
        let visible = self.shared.store.visible_position().await?;
        let (stopped_at, stopped_why) = row.stopped.unzip();
        Ok(Webhook {
            id: row.id,
            when: When::After,
            url: row.url,
            keys: serde_json::from_str(&row.patterns).unwrap_or_default(),
            created_by: row.created_by,
            created_at: row.created_at,
            position: at.0,
            lag: (visible.0 - at.0).max(0),
            dead_letters,
            failing_since,
            last_error,
            stopped_at,
            stopped_why,
        })
    }
}

fn check_url(url: &str) -> Result<(), WebhookError> {
    let wrong = |wrong: &str| Err(WebhookError::Field { field: "url", wrong: wrong.to_owned() });
    if url.len() > LONGEST_URL {
        return wrong("is longer than 2000 bytes");
    }
    match Url::parse(url) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
            wrong("must begin with https://, or http:// in a network of your own")
        }
        Ok(url) if url.password().is_some() || !url.username().is_empty() => wrong(
            "holds a password, which would be shown: requests are signed, check `x-comity-webhook-signature` instead",
        ),
        Ok(_) => Ok(()),
        Err(error) => wrong(&format!("is none: {error}")),
    }
}

fn check_after(wish: &WebhookWish) -> Result<(), WebhookError> {
    check_keys(&wish.keys)?;
    let fields = [
        ("acts", !wish.acts.is_empty()),
        ("deadline_ms", wish.deadline_ms.is_some()),
        ("on_failure", wish.on_failure.is_some()),
    ];
    match fields.into_iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => {
            Err(WebhookError::Field { field, wrong: "is for a webhook that is asked: set `when` to `before`".into() })
        }
        None => Ok(()),
    }
}

fn check_keys(keys: &[String]) -> Result<(), WebhookError> {
    let wrong = |wrong: String| Err(WebhookError::Field { field: "keys", wrong });
    if keys.is_empty() || keys.len() > MOST_KEYS {
        return wrong(format!("must name 1 to {MOST_KEYS} routing keys, such as chat.message.#"));
    }
    for key in keys {
        let is_known = |kind: &str| key.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if key != "#" && !KINDS.into_iter().any(is_known) {
            return wrong(format!("names {key:?}; a routing key begins with one of {}, or is #", KINDS.join(", ")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_webhook_is_refused() {
        for url in ["", "hook.test", "ftp://hook.test/", "https://us:secret@hook.test/", "http://"] {
            let error = check_url(url).expect_err(url);
            assert!(
                matches!(&error, WebhookError::Field { field: "url", .. }) && !error.to_string().contains("us:secret")
            );
        }
        check_url("https://hook.test/in?x=1").expect("it is one");
        for keys in [vec![], vec!["chat.messages.#"], vec!["chat.message", ""]] {
            check_keys(&keys.iter().map(ToString::to_string).collect::<Vec<_>>()).expect_err("no keys");
        }
        check_keys(&["#".to_owned(), "chat.message.#".to_owned(), "system.event".to_owned()]).expect("they are keys");
    }
}
