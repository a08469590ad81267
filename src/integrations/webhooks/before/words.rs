//! What is asked, and what may be answered. docs/webhooks.md is the contract.

use model::{Millis, gate::Proposal};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version of questions.
const VERSION: u32 = 1;
/// The longest reason that a client is told, in letters.
const LONGEST_REASON: usize = 300;
/// What a client is told where there is none.
const NO_REASON: &str = "this server's policy does not allow it";

/// What is done when no answer comes that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// What was proposed.
    Allow,
    /// Nothing.
    Refuse,
}

impl OnFailure {
    /// As it is stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Refuse => "refuse",
        }
    }

    /// As it was stored. What isn't known here is on the safe side.
    pub(super) fn of(stored: &str) -> Self {
        if stored == "allow" { Self::Allow } else { Self::Refuse }
    }
}

/// The body of a question.
#[derive(Serialize)]
struct Question<'a> {
    version: u32,
    webhook: &'a str,
    id: &'a str,
    time: Millis,
    #[serde(flatten)]
    proposal: &'a Proposal<'a>,
}

/// The question whether `proposal` may be done. `id`: the same for everybody who is asked about it.
pub(super) fn question(webhook: &str, id: &str, time: Millis, proposal: &Proposal<'_>) -> Vec<u8> {
    let question = Question { version: VERSION, webhook, id, time, proposal };
    serde_json::to_vec(&question).expect("texts and JSON can be written as JSON")
}

/// What was answered.
#[derive(Debug)]
pub(super) enum Decision {
    Allow,
    /// With a reason for whoever acts.
    Refuse(String),
    /// This is to be done instead.
    Change(Box<RawValue>),
}

impl Decision {
    /// For figures and logs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Allow => "allowed",
            Self::Refuse(_) => "refused",
            Self::Change(_) => "changed",
        }
    }
}

/// Why there is no answer that counts. Nothing of what was said stands in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("it did not answer within {0} ms")]
    Late(u128),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Unreachable(String),
    #[error("its answer is larger than 256 KiB")]
    TooLarge,
    #[error("its answer is no JSON object with `decision` allow, refuse or change")]
    Garbage,
    #[error("what it would change can't be done: {0}")]
    Change(&'static str),
    #[error("it failed too often in a row, and is not asked for a while")]
    Resting,
    #[error("those that were asked before it took all the time")]
    NoTime,
    #[error("{0}")]
    Broken(String),
}

#[derive(Deserialize)]
struct Said {
    decision: Word,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    content: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Allow,
    Refuse,
    Change,
}

/// Reads an answer to the question about `proposal`.
pub(super) fn decision(body: &[u8], proposal: &Proposal<'_>) -> Result<Decision, Failure> {
    let said: Said = serde_json::from_slice(body).map_err(|_| Failure::Garbage)?;
    match said.decision {
        Word::Allow => Ok(Decision::Allow),
        Word::Refuse => Ok(Decision::Refuse(reason(said.reason.as_deref().unwrap_or_default()))),
        Word::Change => {
            let content = said.content.ok_or(Failure::Change("`content` is missing"))?;
            let may_become = proposal.may_become.ok_or(Failure::Change("this may be allowed or refused only"))?;
            may_become(&content).map_err(Failure::Change)?;
            Ok(Decision::Change(content))
        }
    }
}

/// A reason that can be shown anywhere: one line, not too long, whose letters stand where they are.
fn reason(given: &str) -> String {
    let turns_text =
        |letter: char| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let letters = given.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let kept: String = letters.filter(|letter| !turns_text(*letter)).take(LONGEST_REASON).collect();
    match kept.trim() {
        "" => NO_REASON.to_owned(),
        kept => kept.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use model::gate::{Act, EventWords};
    use ruma::{room_id, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn with_proposal(can_change: bool, test: impl FnOnce(&Proposal<'_>)) {
        let content = to_raw_value(&json!({ "body": "hello" })).expect("JSON");
        let is_short = |content: &RawValue| if content.get().len() < 30 { Ok(()) } else { Err("it is long") };
        test(&Proposal {
            act: Act::Send,
            sender: user_id!("@alice:a.test"),
            room_id: Some(room_id!("!room:a.test")),
            event: Some(EventWords { kind: "m.room.message", state_key: None, redacts: None }),
            content: &content,
            may_become: if can_change { Some(&is_short) } else { None },
            is_approved: false,
        });
    }

    #[test]
    fn a_question_says_what_is_to_be_done() {
        with_proposal(true, |proposal| {
            let question: Value = serde_json::from_slice(&question("hook", "7", 5, proposal)).expect("JSON");
            let expected = json!({
                "version": 1, "webhook": "hook", "id": "7", "time": 5, "act": "send", "sender": "@alice:a.test",
                "room_id": "!room:a.test", "type": "m.room.message", "content": { "body": "hello" },
            });
            assert_eq!(question, expected);
        });
    }

    #[test]
    fn only_what_can_be_done_is_an_answer() {
        with_proposal(true, |proposal| {
            let read = |body: &str| decision(body.as_bytes(), proposal);
            assert!(matches!(read(r#"{"decision":"allow","more":1}"#), Ok(Decision::Allow)));
            let changed = read(r#"{"decision":"change","content":{"body":"bye"}}"#);
            assert!(matches!(changed, Ok(Decision::Change(content)) if content.get() == r#"{"body":"bye"}"#));
            for garbage in ["", "allow", "[]", "{}", r#"{"decision":"maybe"}"#, r#"{"decision":"refuse","reason":7}"#] {
                assert_eq!(read(garbage).expect_err(garbage), Failure::Garbage);
            }
            assert!(matches!(read(r#"{"decision":"change"}"#), Err(Failure::Change(_))));
            let long = r#"{"decision":"change","content":{"body":"much longer than it may be"}}"#;
            assert_eq!(read(long).expect_err("it is long"), Failure::Change("it is long"));
        });
        with_proposal(false, |proposal| {
            let changed = decision(br#"{"decision":"change","content":{}}"#, proposal);
            assert!(matches!(changed, Err(Failure::Change(_))));
        });
    }

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(reason(" no\nsecrets\u{202e}\u{0} here "), "no secrets  here");
        assert_eq!(reason("\u{7}\n"), NO_REASON);
        assert_eq!(reason(&"ü".repeat(1_000)).chars().count(), LONGEST_REASON);
    }
}
