//! What other programs may say on the bus.

use std::{fmt, str::FromStr};

use fabric::bus::matches;
use ruma::UserId;
use serde::{Deserialize, Serialize};

/// Lets one user of the broker publish under some routing keys: `crm system.event`, `crm chat.message.# crm-bot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// Who, as the broker knows the program.
    user: String,
    /// Under which keys, with `*` for a word and `#` for any number of them.
    pattern: String,
    /// For messages: as which user of this server; `*`: as any.
    speaker: Option<String>,
}

/// It can't be a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It has too few words, or too many.
    #[error("expected \"USER KEY\" or \"USER KEY LOCALPART\", such as \"crm chat.message.# crm-bot\"")]
    Shape,
    /// Messages are always said by somebody.
    #[error("a rule for chat.message must end with the localpart of the user who speaks, or * for any")]
    NoSpeaker,
    /// Other programs only publish what is taken.
    #[error("the key must begin with chat.message, system.event or system.broadcast")]
    Key,
}

impl Rule {
    /// Whether it lets `user` publish under `routing_key`.
    pub(super) fn allows(&self, user: &str, routing_key: &str) -> bool {
        self.user == user && matches(&self.pattern, routing_key)
    }

    /// Whether it lets a program speak as `sender`.
    pub(super) fn speaks_as(&self, sender: &UserId) -> bool {
        self.speaker.as_deref().is_some_and(|speaker| speaker == "*" || speaker == sender.localpart())
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let words: Vec<_> = text.split_whitespace().collect();
        let (user, pattern, speaker) = match *words {
            [user, pattern] => (user, pattern, None),
            [user, pattern, speaker] => (user, pattern, Some(speaker.trim_start_matches('@'))),
            _ => return Err(RuleError::Shape),
        };
        let about = |key: &str| pattern == key || pattern.starts_with(&format!("{key}."));
        let is_message = about("chat.message");
        if !is_message && !about("system.event") && !about("system.broadcast") {
            return Err(RuleError::Key);
        }
        if is_message && speaker.is_none() {
            return Err(RuleError::NoSpeaker);
        }
        Ok(Self { user: user.to_owned(), pattern: pattern.to_owned(), speaker: speaker.map(str::to_owned) })
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.user, self.pattern)?;
        self.speaker.as_ref().map_or(Ok(()), |speaker| write!(f, " {speaker}"))
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn a_rule_allows_what_it_says_and_no_more() {
        let rule: Rule = "crm chat.message.# crm-bot".parse().expect("a rule");
        assert_eq!(rule.to_string(), "crm chat.message.# crm-bot");
        assert!(rule.allows("crm", "chat.message.conversation.x"));
        assert!(!rule.allows("crm", "system.event"));
        assert!(!rule.allows("CRM", "chat.message.conversation.x"));
        assert!(rule.speaks_as(user_id!("@crm-bot:a.test")));
        assert!(!rule.speaks_as(user_id!("@alice:a.test")));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        assert_eq!("crm".parse::<Rule>(), Err(RuleError::Shape));
        assert_eq!("crm chat.message.#".parse::<Rule>(), Err(RuleError::NoSpeaker));
        assert_eq!("crm user.status.#".parse::<Rule>(), Err(RuleError::Key));
        assert_eq!("crm #".parse::<Rule>(), Err(RuleError::Key));
    }
}
