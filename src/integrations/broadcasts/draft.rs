//! What somebody wants to tell people, before it is a broadcast.

use model::{Millis, Position};
use ruma::ServerName;
use serde::{Deserialize, Serialize};
use store::broadcasts::BroadcastRow;

use super::{Audience, Broadcast, BroadcastError};
use crate::system_events::{ID_RULE, is_id, made_up_id};

/// The longest title, in characters.
pub(super) const MAX_TITLE: usize = 200;
// Both together, as they stand in a notice, fit into an event of 64 KiB however they have to be escaped.
const MAX_BODY: usize = 8 << 10;
const MAX_HTML: usize = 16 << 10;
/// What was to be published longer ago than this is probably a mistake, such as seconds for milliseconds.
const LATE: Millis = 24 * 60 * 60_000;
/// How far ahead one can be scheduled.
const AHEAD: Millis = 2 * 366 * 24 * 60 * 60_000;

/// How much it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// For those who are curious.
    Low,
    /// For everybody to read at some time.
    #[default]
    Normal,
    /// To be read soon.
    High,
    /// To be read at once.
    Urgent,
}

impl Priority {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }
}

/// What somebody wants to tell people.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// What its author calls it: the same one is published once. Left out: it is given an id.
    pub id: Option<String>,
    /// One line.
    pub title: String,
    /// Plain text.
    pub body: String,
    /// The body with formatting.
    pub html: Option<String>,
    /// How much it matters.
    #[serde(default)]
    pub priority: Priority,
    /// Whom it is for.
    #[serde(default = "everybody")]
    pub audience: Audience,
    /// Whether people of full peers are told too.
    #[serde(default)]
    pub across: bool,
    /// When it is to be published, milliseconds since 1970. Left out: now.
    pub publish_at: Option<Millis>,
    /// From then on nobody is told any more, milliseconds since 1970.
    pub expires_at: Option<Millis>,
}

/// Whom a broadcast is for that names nobody.
pub(super) fn everybody() -> Audience {
    Audience::All {}
}

impl Draft {
    /// What it becomes, if it can be. What is due already is published.
    pub(super) fn checked(self, author: &str, us: &ServerName, now: Millis) -> Result<Broadcast, BroadcastError> {
        check_texts(&self.title, &self.body, self.html.as_deref())?;
        self.audience.check()?;
        let wrong = |field, wrong: &str| Err(BroadcastError::Field { field, wrong: wrong.to_owned() });
        let id = match self.id {
            Some(id) if !is_id(&id) => return wrong("id", ID_RULE),
            Some(id) => id,
            None => made_up_id(),
        };
        let names_others = self.audience.servers().is_some_and(|servers| servers.iter().any(|server| server != us));
        if names_others && !self.across {
            return wrong("audience", "names other domains, and `across` is not set");
        }
        let publish_at = self.publish_at.unwrap_or(now);
        if publish_at < now - LATE {
            return wrong("publish_at", "lies more than a day in the past: is it in milliseconds since 1970?");
        }
        if publish_at > now + AHEAD {
            return wrong("publish_at", "lies more than two years ahead: is it in milliseconds since 1970?");
        }
        if self.expires_at.is_some_and(|at| at <= publish_at.max(now)) {
            return wrong("expires_at", "lies before anybody could be told");
        }
        let row = BroadcastRow {
            id,
            origin: us.to_owned(),
            author: author.to_owned(),
            title: self.title,
            body: self.body,
            html: self.html,
            priority: self.priority.as_str().to_owned(),
            audience: self.audience.json(),
            across: self.across,
            created_at: now,
            publish_at,
            expires_at: self.expires_at,
            published_at: (publish_at <= now).then_some(now),
            cancelled_at: None,
            cancelled_by: None,
            created: Position(0),
            position: None,
            changed: None,
        };
        Ok(Broadcast { row, audience: self.audience })
    }

    /// The one that `known` is, if it says the same.
    pub(super) fn same_as(&self, known: BroadcastRow, us: &ServerName) -> Result<Broadcast, BroadcastError> {
        let is_same = known.origin == us
            && known.title == self.title
            && known.body == self.body
            && known.html == self.html
            && known.priority == self.priority.as_str()
            && known.audience == self.audience.json()
            && known.across == self.across
            && known.expires_at == self.expires_at
            && self.publish_at.is_none_or(|at| at == known.publish_at);
        if is_same { Ok(known.into()) } else { Err(BroadcastError::IdTaken(known.id)) }
    }
}

/// Refuses texts that nobody could be shown.
pub(super) fn check_texts(title: &str, body: &str, html: Option<&str>) -> Result<(), BroadcastError> {
    let wrong = |field, wrong: String| Err(BroadcastError::Field { field, wrong });
    let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if title.trim().is_empty() || title.chars().count() > MAX_TITLE || title.chars().any(char::is_control) {
        return wrong("title", format!("is one line of 1 to {MAX_TITLE} characters"));
    }
    if body.trim().is_empty() || body.len() > MAX_BODY || body.chars().any(is_odd) {
        return wrong("body", format!("is text of 1 to {MAX_BODY} bytes"));
    }
    if html.is_some_and(|html| html.len() > MAX_HTML || html.chars().any(is_odd)) {
        return wrong("html", format!("is text of {MAX_HTML} bytes at most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::{Value, json};

    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    fn read(document: Value) -> Result<Broadcast, BroadcastError> {
        let draft: Draft = serde_json::from_value(document).expect("it has the fields");
        draft.checked("@root:a.test", server_name!("a.test"), NOW)
    }

    #[test]
    fn a_draft_says_what_is_wrong_with_it() {
        let good = json!({ "id": "x-1", "title": "Hello", "body": "You\nall" });
        let broadcast = read(good.clone()).expect("it is right");
        assert_eq!((broadcast.audience, broadcast.row.published_at), (Audience::All {}, Some(NOW)));
        let mut later = good.clone();
        later["publish_at"] = json!(NOW + 1);
        assert_eq!(read(later).expect("it is right").row.published_at, None);
        for (field, bad) in [
            ("id", json!("a/b")),
            ("title", json!("  ")),
            ("title", json!("two\nlines")),
            ("title", json!("x".repeat(201))),
            ("body", json!("")),
            ("body", json!("x".repeat(MAX_BODY + 1))),
            ("body", json!("bell \u{7}")),
            ("html", json!("x".repeat(MAX_HTML + 1))),
            ("audience", json!({ "kind": "domains", "domains": ["b.test"] })),
            ("audience", json!({ "kind": "users", "users": [] })),
            ("publish_at", json!(NOW / 1_000)),
            ("publish_at", json!(NOW * 2)),
            ("expires_at", json!(NOW)),
        ] {
            let mut wrong = good.clone();
            wrong[field] = bad;
            let error = read(wrong).expect_err("it is wrong").to_string();
            assert!(error.starts_with(&format!("`{field}` ")), "{error}");
        }
        let across = json!({
            "title": "Hello", "body": "You", "across": true, "audience": { "kind": "domains", "domains": ["b.test"] },
        });
        assert!(read(across).is_ok());
    }

    #[test]
    fn the_same_again_is_the_same_and_something_else_is_not() {
        let draft = |body: &str| -> Draft {
            serde_json::from_value(json!({ "id": "x", "title": "Hello", "body": body })).expect("it has the fields")
        };
        let known = draft("You").checked("me", server_name!("a.test"), NOW).expect("it is right").row;
        assert!(draft("You").same_as(known.clone(), server_name!("a.test")).is_ok());
        assert!(matches!(draft("Me").same_as(known, server_name!("a.test")), Err(BroadcastError::IdTaken(_))));
    }
}
