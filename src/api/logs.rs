//! The last lines of this process's log, for administrators. What is put in here has been scrubbed, and is bounded.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::Millis;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tracing::Level;
use utoipa::ToSchema;

/// How many lines are kept.
const LINES: usize = 2_000;
/// How many letters of a text are kept.
const LONGEST: usize = 2_000;
/// In the names of fields whose values are nobody's to see.
const SECRET_NAMES: [&str; 8] =
    ["token", "password", "secret", "authorization", "cookie", "credential", "private_key", "ticket"];
/// How what opens something begins: tokens as this server gives them out, and JWTs.
const SECRET_BEGINNINGS: [&str; 4] = ["cat_", "crt_", "clt_", "eyJ"];

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LogLine {
    /// Counts the lines of this process, from 1 on.
    pub number: u64,
    /// When, milliseconds since 1970.
    pub at: Millis,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// The part of the program that says it.
    pub target: String,
    /// What it says.
    pub message: String,
    /// What it says it of.
    #[schema(value_type = Object)]
    pub fields: Map<String, Value>,
}

/// Which lines are wanted. What is empty leaves none out.
#[derive(Clone, Debug)]
pub struct LogSearch {
    /// Only those after this number.
    pub after: u64,
    /// Only those since then, milliseconds since 1970.
    pub since: Millis,
    /// Only those that are as bad as this, or worse.
    pub level: Level,
    /// Only those of parts of the program whose names begin so.
    pub target: String,
    /// Only those that hold this text, in whichever case.
    pub text: String,
    /// How many at most.
    pub limit: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct LogPage {
    /// The oldest first.
    pub lines: Vec<LogLine>,
    /// Up to which number was looked: from there it goes on.
    pub upto: u64,
    /// Lines after the number that was asked for had to make way already.
    pub is_torn: bool,
}

/// The last lines.
#[derive(Debug)]
pub struct Logs {
    lines: Mutex<VecDeque<LogLine>>,
    latest: watch::Sender<u64>,
}

impl Default for Logs {
    fn default() -> Self {
        Self { lines: Mutex::default(), latest: watch::Sender::new(0) }
    }
}

impl Logs {
    /// One more line, whose oldest makes way. `fields` and `message` are scrubbed here.
    pub fn push(&self, at: Millis, level: Level, target: &str, message: &str, fields: Map<String, Value>) {
        let fields = fields.into_iter().map(|(name, value)| {
            let value = if is_secret_name(&name) { "…".into() } else { scrubbed_value(value) };
            (name, value)
        });
        let (fields, message) = (fields.collect(), scrubbed(message));
        let mut lines = self.lines();
        let number = lines.back().map_or(0, |line| line.number) + 1;
        let level = word_of(level);
        lines.push_back(LogLine { number, at, level, target: target.to_owned(), message, fields });
        if lines.len() > LINES {
            lines.pop_front();
        }
        drop(lines);
        self.latest.send_replace(number);
    }

    /// The lines that are wanted and still there.
    pub fn find(&self, search: &LogSearch) -> LogPage {
        let text = search.text.to_lowercase();
        let lines = self.lines();
        let first = lines.front().map_or(0, |line| line.number);
        let mut page = LogPage {
            upto: lines.back().map_or(search.after, |line| line.number.max(search.after)),
            is_torn: search.after > 0 && first > search.after + 1,
            lines: Vec::new(),
        };
        for line in lines.iter().filter(|line| line.number > search.after && line.at >= search.since) {
            let is_meant = is_as_bad(line.level, search.level) && line.target.starts_with(&search.target);
            if !is_meant || !(text.is_empty() || line.has(&text)) {
                continue;
            }
            page.lines.push(line.clone());
            if page.lines.len() == search.limit {
                page.upto = line.number;
                break;
            }
        }
        page
    }

    /// As [`Self::find`]; waits until there is such a line, for `patience` at most.
    pub async fn wait_for(&self, mut search: LogSearch, patience: Duration) -> LogPage {
        let mut latest = self.latest.subscribe();
        let until = tokio::time::Instant::now() + patience;
        let mut is_torn = false;
        loop {
            latest.mark_unchanged();
            let mut page = self.find(&search);
            is_torn |= page.is_torn;
            page.is_torn = is_torn;
            if !page.lines.is_empty() {
                return page;
            }
            search.after = page.upto;
            match tokio::time::timeout_at(until, latest.changed()).await {
                Ok(Ok(())) => {}
                _ => return page,
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<LogLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogLine {
    fn has(&self, text: &str) -> bool {
        let holds = |value: &str| value.to_lowercase().contains(text);
        holds(&self.message) || self.fields.iter().any(|(name, value)| holds(name) || holds(&value.to_string()))
    }
}

fn word_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn is_as_bad(word: &str, least: Level) -> bool {
    word.parse::<Level>().is_ok_and(|level| level <= least)
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

fn scrubbed_value(value: Value) -> Value {
    match value {
        Value::String(text) => scrubbed(&text).into(),
        value => value,
    }
}

/// Without what opens something, and not too long.
fn scrubbed(text: &str) -> String {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | '~' | '+' | '/');
    let mut clean = String::with_capacity(text.len().min(LONGEST));
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|letter| is_part(letter) != is_part(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let is_secret = SECRET_BEGINNINGS.iter().any(|beginning| word.starts_with(beginning));
        clean.push_str(if is_secret { "…" } else { word });
        rest = after;
    }
    match clean.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn all() -> LogSearch {
        let (target, text) = (String::new(), String::new());
        LogSearch { after: 0, since: 0, level: Level::TRACE, target, text, limit: 10_000 }
    }

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn lines_are_found_by_level_part_text_and_time() {
        let logs = Logs::default();
        logs.push(1, Level::INFO, "api::router", "a door was opened", fields(json!({ "user.id": "@alice:a.test" })));
        logs.push(2, Level::ERROR, "store", "the disk is full", Map::new());
        logs.push(3, Level::DEBUG, "api", "why", Map::new());
        let found = |search: LogSearch| logs.find(&search).lines.iter().map(|line| line.number).collect::<Vec<_>>();
        assert_eq!(found(all()), [1, 2, 3]);
        assert_eq!(found(LogSearch { level: Level::INFO, ..all() }), [1, 2]);
        assert_eq!(found(LogSearch { target: "api".into(), ..all() }), [1, 3]);
        assert_eq!(found(LogSearch { text: "ALICE".into(), ..all() }), [1]);
        assert_eq!(found(LogSearch { since: 2, ..all() }), [2, 3]);
        assert_eq!(found(LogSearch { after: 1, limit: 1, ..all() }), [2]);
        assert_eq!(logs.find(&LogSearch { limit: 1, ..all() }).upto, 1, "it goes on behind what was told");
    }

    #[test]
    fn secrets_do_not_come_in_and_old_lines_make_way() {
        let logs = Logs::default();
        let said = fields(json!({ "access_token": "x", "Password": "y", "header": "Bearer cat_abc.def", "count": 3 }));
        logs.push(1, Level::WARN, "api", "refused crt_family.3.own, and \"eyJhbGciOi.x\" too", said);
        let line = &logs.find(&all()).lines[0];
        assert_eq!(line.message, "refused …, and \"…\" too");
        let expected = json!({ "access_token": "…", "Password": "…", "header": "Bearer …", "count": 3 });
        assert_eq!(Value::from(line.fields.clone()), expected);
        for _ in 0..LINES {
            logs.push(2, Level::INFO, "api", &"x".repeat(2 * LONGEST), Map::new());
        }
        let page = logs.find(&LogSearch { after: 0, ..all() });
        assert_eq!((page.lines.len(), page.lines[0].number), (LINES, 2));
        assert!(page.lines[0].message.chars().count() == LONGEST + 1);
        logs.push(3, Level::INFO, "api", "one more", Map::new());
        assert!(logs.find(&LogSearch { after: 1, ..all() }).is_torn);
        assert!(!logs.find(&LogSearch { after: 2, ..all() }).is_torn);
    }

    #[tokio::test]
    async fn who_waits_is_told_of_the_next_line_that_is_meant() {
        let logs = Arc::new(Logs::default());
        let search = LogSearch { level: Level::ERROR, ..all() };
        let nothing = logs.wait_for(search.clone(), Duration::from_millis(10)).await;
        assert!(nothing.lines.is_empty());
        let waiting = tokio::spawn({
            let logs = logs.clone();
            async move { logs.wait_for(search, Duration::from_secs(30)).await }
        });
        logs.push(1, Level::INFO, "api", "not this", Map::new());
        logs.push(2, Level::ERROR, "api", "this", Map::new());
        let page = waiting.await.expect("nobody panics");
        assert_eq!((page.lines.len(), page.lines[0].message.as_str()), (1, "this"));
    }
}
