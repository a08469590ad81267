//! Making, looking at and removing them.

use model::{Millis, gate::Act};
use peers::vault;
use serde::Serialize;
use store::{
    Write,
    before_hooks::{self, BeforeHookRow},
};
use zeroize::Zeroizing;

use super::{Before, MOST, OnFailure, WebhookError, hook::Hook};
use crate::{
    now,
    webhooks::{SECRET, WebhookWish, When},
};

/// How long an address may take, milliseconds; left out: [`DEADLINE`].
const DEADLINES: std::ops::RangeInclusive<u32> = 50..=5_000;
const DEADLINE: u32 = 1_000;

/// An address that is asked before something is done, for those who look after it.
#[derive(Clone, Debug, Serialize)]
pub struct BeforeHook {
    /// Given by the server.
    pub id: String,
    /// `before`.
    pub when: When,
    /// Where to.
    pub url: String,
    /// Before what.
    pub acts: Vec<Act>,
    /// How long it may take to answer, milliseconds.
    pub deadline_ms: i64,
    /// What is done when it gives no answer that counts.
    pub on_failure: OnFailure,
    /// Who made it.
    pub created_by: String,
    /// When, milliseconds since 1970.
    pub created_at: Millis,
    /// Since when it gives no answers to this node, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Millis>,
    /// Why it gave none to the last question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// This node doesn't ask it before then: it failed too often. Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resting_until: Option<Millis>,
}

impl Before {
    /// Makes one. It is asked from now on, and by other nodes within a second. Answers it with its secret.
    pub(in crate::webhooks) async fn create(
        &self,
        author: &str,
        wish: WebhookWish,
    ) -> Result<(BeforeHook, Zeroizing<String>), WebhookError> {
        let (id, secret) = (format!("{:016x}", rand::random::<u64>()), vault::password()?);
        let sealed = self.vault.seal(&id, SECRET, &secret)?;
        let row = before_hook(id, author, sealed, wish)?;
        if self.store.before_hooks().all().await?.len() >= MOST {
            return Err(WebhookError::TooMany(MOST));
        }
        let mut write = Write::new();
        before_hooks::insert(&mut write, &row);
        self.store.commit(write).await?;
        self.refresh().await?;
        Ok((shown(&Hook::new(row, &self.vault)), secret))
    }

    /// All of them, in the order in which they are asked.
    pub(in crate::webhooks) async fn all(&self) -> Result<Vec<BeforeHook>, WebhookError> {
        self.refresh().await?;
        Ok(self.hooks().iter().map(|hook| shown(hook)).collect())
    }

    /// Asks it no more, and forgets it. Answers whether there was one.
    pub(in crate::webhooks) async fn remove(&self, id: &str) -> Result<bool, WebhookError> {
        if !self.store.before_hooks().all().await?.iter().any(|row| row.id == id) {
            return Ok(false);
        }
        let mut write = Write::new();
        before_hooks::remove(&mut write, id);
        self.store.commit(write).await?;
        self.refresh().await?;
        Ok(true)
    }
}

fn shown(hook: &Hook) -> BeforeHook {
    let (row, condition) = (&hook.row, hook.condition());
    BeforeHook {
        id: row.id.clone(),
        when: When::Before,
        url: row.url.clone(),
        acts: hook.acts.clone(),
        deadline_ms: row.deadline_ms,
        on_failure: hook.on_failure,
        created_by: row.created_by.clone(),
        created_at: row.created_at,
        failing_since: condition.failing_since,
        last_error: condition.last_error,
        resting_until: condition.resting_until,
    }
}

/// What is stored of one that `author` wants, if it can be. Its URL was looked at.
fn before_hook(id: String, author: &str, secret: String, wish: WebhookWish) -> Result<BeforeHookRow, WebhookError> {
    let wrong = |field, wrong: String| Err(WebhookError::Field { field, wrong });
    if !wish.keys.is_empty() {
        return wrong(
            "keys",
            "are for webhooks that are told afterwards; `acts` says before what this one is asked".into(),
        );
    }
    if wish.acts.is_empty() {
        return wrong(
            "acts",
            "must name what it is asked before: send, invite, join, create_room, register, upload".into(),
        );
    }
    let Some(on_failure) = wish.on_failure else {
        return wrong("on_failure", "must say what is done when it does not answer: allow or refuse".into());
    };
    let deadline_ms = wish.deadline_ms.unwrap_or(DEADLINE);
    if !DEADLINES.contains(&deadline_ms) {
        return wrong("deadline_ms", format!("must be {} to {} milliseconds", DEADLINES.start(), DEADLINES.end()));
    }
    let mut acts = wish.acts;
    acts.sort_unstable_by_key(|act| *act as u8);
    acts.dedup();
    Ok(BeforeHookRow {
        id,
        url: wish.url,
        acts: serde_json::to_string(&acts).expect("words are JSON"),
        deadline_ms: i64::from(deadline_ms),
        on_failure: on_failure.as_str().to_owned(),
        secret,
        created_by: author.to_owned(),
        created_at: now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> WebhookWish {
        WebhookWish {
            url: "https://hook.test/".to_owned(),
            when: When::Before,
            keys: Vec::new(),
            acts: vec![Act::Join, Act::Send, Act::Join],
            deadline_ms: None,
            on_failure: Some(OnFailure::Allow),
        }
    }

    #[test]
    fn what_can_not_be_asked_is_refused_by_its_field() {
        let row = |wish| before_hook("1".to_owned(), "@root:a.test", "sealed".to_owned(), wish);
        let made = row(wish()).expect("it is one");
        assert_eq!((&*made.acts, made.deadline_ms, &*made.on_failure), (r#"["send","join"]"#, 1_000, "allow"));
        for (wrong, wish) in [
            ("keys", WebhookWish { keys: vec!["#".to_owned()], ..wish() }),
            ("acts", WebhookWish { acts: Vec::new(), ..wish() }),
            ("on_failure", WebhookWish { on_failure: None, ..wish() }),
            ("deadline_ms", WebhookWish { deadline_ms: Some(49), ..wish() }),
            ("deadline_ms", WebhookWish { deadline_ms: Some(5_001), ..wish() }),
        ] {
            let error = row(wish).expect_err(wrong);
            assert!(matches!(&error, WebhookError::Field { field, .. } if *field == wrong), "{error}");
        }
    }
}
