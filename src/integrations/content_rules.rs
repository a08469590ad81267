//! Words that the people of this server don't get past with: sets of them, and what is done about each.
//!
//! They are looked for in what people are about to send, before any program is asked about it ([`crate::webhooks`]). What is encrypted
//! nobody can look into, and what other servers send is for their people to say: neither is looked at.

mod content;
mod matcher;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::counter;
use model::{
    Kind, Millis, Refusal,
    gate::{Act, Acts, Answer, Gate, GateError, Leave, Proposal},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::to_raw_value};
use store::{
    Store, Write,
    word_sets::{self, WordSetRow},
};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::now;
use content::{Verdict, look_through};
use matcher::{Matcher, has_letters};

/// How many sets, words of one set, and letters of a word there may be.
const MOST_SETS: usize = 50;
const MOST_WORDS: usize = 20_000;
const LONGEST_WORD: usize = 100;
/// How often it is looked whether another node changed them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const REFUSAL: &str = "this has words that are not allowed on this server; say it in others";

/// What is done about a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordAction {
    /// What has it is not sent.
    Reject,
    /// Something else stands in its place; where nothing else can stand, it is as with `reject`.
    Replace,
    /// What has it waits until a moderator has let it through; where it can't wait, it is as with `reject`.
    Hold,
    /// What has it is sent, and comes before moderators as if it had been reported.
    Tag,
}

impl WordAction {
    /// As it is stored.
    fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Replace => "replace",
            Self::Hold => "hold",
            Self::Tag => "tag",
        }
    }

    fn read(text: &str) -> Self {
        let all = [Self::Replace, Self::Hold, Self::Tag];
        // What another version stored is done away with in the strictest way.
        all.into_iter().find(|action| action.as_str() == text).unwrap_or(Self::Reject)
    }
}

/// A set of words.
#[derive(Clone, Debug)]
pub struct WordSet {
    /// What admins call it: 1 to 64 small letters, digits, `-` and `_`.
    pub name: String,
    /// What is done about its words.
    pub action: WordAction,
    /// What stands in the place of a word; `None`: an asterisk for each of its letters.
    pub replacement: Option<String>,
    /// How often it was changed.
    pub version: i64,
    /// Who changed it last.
    pub changed_by: String,
    /// When, milliseconds since 1970.
    pub changed_at: Millis,
    /// The words, where they were asked for.
    pub words: Vec<String>,
}

/// What would become of a text.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Itself, or another; `None`: it is refused.
    pub text: Option<String>,
    /// The sets for which it waits until a moderator lets it through.
    pub held_by: Vec<String>,
    /// The sets for which it comes before moderators.
    pub tagged_by: Vec<String>,
}

/// For which sets moderators look at something, by their places.
#[derive(Default)]
struct Seen {
    held: BTreeSet<usize>,
    tagged: BTreeSet<usize>,
}

/// Why something about them was not done.
#[derive(Debug, thiserror::Error)]
pub enum ContentRuleError {
    /// Something in a set is wrong.
    #[error("`{field}` {wrong}")]
    Field {
        /// What.
        field: &'static str,
        /// Why.
        wrong: String,
    },
    /// There is no such set.
    #[error("there is no such set of words")]
    Unknown,
    /// There are enough.
    #[error("there are {MOST_SETS} sets already; remove one first")]
    TooMany,
    /// The words can't be looked for.
    #[error("these words are too many to be looked for at once")]
    Unsearchable,
    /// The store failed.
    #[error("the words could not be stored or read")]
    Store(#[from] store::Error),
}

impl Refusal for ContentRuleError {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { .. } => Kind::Invalid,
            Self::Unknown => Kind::NotFound,
            Self::TooMany => Kind::Conflict,
            Self::Unsearchable => Kind::TooLarge,
            Self::Store(error) => error.kind(),
        }
    }
}

/// The words, and who is asked after them. Cheap to clone.
#[derive(Clone)]
pub struct ContentRules {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    then: Arc<dyn Gate>,
    are_there: AtomicBool,
    known: RwLock<Arc<Known>>,
}

/// What is looked for now.
#[derive(Default)]
struct Known {
    sets: Vec<WordSetRow>,
    /// By the places of the sets.
    actions: Vec<(WordAction, Option<String>)>,
    matcher: Option<Matcher>,
}

impl ContentRules {
    /// Reads them. `then`: who is asked about what they let through.
    pub async fn open(store: Store, then: Arc<dyn Gate>) -> Result<Self, ContentRuleError> {
        let shared = Shared { store, then, are_there: AtomicBool::new(false), known: RwLock::default() };
        let rules = Self { shared: Arc::new(shared) };
        rules.refresh().await?;
        Ok(rules)
    }

    /// Whom services are to ask.
    pub fn gate(&self) -> Arc<dyn Gate> {
        self.shared.clone()
    }

    /// Keeps up with what other nodes change, until `stop` is cancelled.
    pub async fn tend(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            if let Err(error) = self.refresh().await {
                let error = &error as &dyn std::error::Error;
                warn!(error, "could not read which words are looked for; those known before still are");
            }
        }
    }

    /// All sets, by name, without their words.
    pub async fn all(&self) -> Result<Vec<WordSet>, ContentRuleError> {
        let sets = self.shared.store.word_sets().all().await?;
        Ok(sets.into_iter().map(|row| shown(row, Vec::new())).collect())
    }

    /// One set, with its words.
    pub async fn get(&self, name: &str) -> Result<WordSet, ContentRuleError> {
        let sets = self.shared.store.word_sets().all().await?;
        let row = sets.into_iter().find(|row| row.name == name).ok_or(ContentRuleError::Unknown)?;
        let words = self.words_of(name).await?.ok_or(ContentRuleError::Unknown)?;
        Ok(shown(row, words))
    }

    /// Puts a set in the place of the one of that name, or adds it. From now on its words are looked for, on other nodes within a
    /// second.
    pub async fn put(
        &self,
        author: &str,
        name: &str,
        action: WordAction,
        replacement: Option<String>,
        words: Vec<String>,
    ) -> Result<WordSet, ContentRuleError> {
        check(name, replacement.as_deref(), &words)?;
        let sets = self.shared.store.word_sets().all().await?;
        if sets.len() >= MOST_SETS && !sets.iter().any(|set| set.name == name) {
            return Err(ContentRuleError::TooMany);
        }
        // What can't be looked for isn't stored.
        let words = searchable(words).await?;
        let row = WordSetRow {
            name: name.to_owned(),
            action: action.as_str().to_owned(),
            replacement,
            version: 0,
            changed_by: author.to_owned(),
            changed_at: now(),
        };
        let mut write = Write::new();
        word_sets::put(&mut write, &row, serde_json::to_string(&words).expect("texts are JSON"));
        self.shared.store.commit(write).await?;
        info!(author, word_set = name, words = words.len(), "{author} changed the set of words {name}");
        self.refresh().await?;
        self.get(name).await
    }

    /// Takes a set away.
    pub async fn remove(&self, author: &str, name: &str) -> Result<(), ContentRuleError> {
        if self.shared.store.word_sets().words(name).await?.is_none() {
            return Err(ContentRuleError::Unknown);
        }
        let mut write = Write::new();
        word_sets::remove(&mut write, name);
        self.shared.store.commit(write).await?;
        info!(author, word_set = name, "{author} removed the set of words {name}");
        self.refresh().await
    }

    /// What would become of a text.
    pub fn try_text(&self, text: &str) -> Tried {
        self.shared.known().try_text(text)
    }

    async fn refresh(&self) -> Result<(), ContentRuleError> {
        let sets = self.shared.store.word_sets().all().await?;
        if sets == self.shared.known().sets {
            return Ok(());
        }
        let mut words = Vec::new();
        for set in &sets {
            words.push(self.words_of(&set.name).await?.unwrap_or_default());
        }
        let known = Arc::new(spawn_blocking(move || Known::new(sets, &words)).await.unwrap_or_else(|error| {
            error!(error = &error as &dyn std::error::Error, "the words could not be made ready to be looked for");
            Err(ContentRuleError::Unsearchable)
        })?);
        self.shared.are_there.store(known.matcher.is_some(), Ordering::Release);
        *self.shared.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    async fn words_of(&self, name: &str) -> Result<Option<Vec<String>>, ContentRuleError> {
        let words = self.shared.store.word_sets().words(name).await?;
        Ok(words.map(|words| serde_json::from_str(&words).unwrap_or_default()))
    }
}

async fn searchable(words: Vec<String>) -> Result<Vec<String>, ContentRuleError> {
    let tried =
        spawn_blocking(move || Matcher::new(words.iter().map(|word| (0, word.as_str()))).is_ok().then_some(words));
    tried.await.ok().flatten().ok_or(ContentRuleError::Unsearchable)
}

fn check(name: &str, replacement: Option<&str>, words: &[String]) -> Result<(), ContentRuleError> {
    let wrong = |field, wrong: String| Err(ContentRuleError::Field { field, wrong });
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !(1..=64).contains(&name.len()) || !name.bytes().all(is_plain) {
        return wrong("name", "must be 1 to 64 small letters, digits, `-` and `_`".to_owned());
    }
    if replacement.is_some_and(|text| text.chars().count() > LONGEST_WORD) {
        return wrong("replacement", format!("must have at most {LONGEST_WORD} letters"));
    }
    if words.is_empty() || words.len() > MOST_WORDS {
        return wrong("words", format!("must be 1 to {MOST_WORDS} words"));
    }
    match words.iter().find(|word| !has_letters(word) || word.chars().count() > LONGEST_WORD) {
        Some(word) => wrong("words", format!("must each have 1 to {LONGEST_WORD} letters that can be seen: `{word}`")),
        None => Ok(()),
    }
}

fn shown(row: WordSetRow, words: Vec<String>) -> WordSet {
    let action = WordAction::read(&row.action);
    let WordSetRow { name, replacement, version, changed_by, changed_at, .. } = row;
    WordSet { name, action, replacement, version, changed_by, changed_at, words }
}

impl Known {
    fn new(sets: Vec<WordSetRow>, words: &[Vec<String>]) -> Result<Self, ContentRuleError> {
        let all = words.iter().enumerate().flat_map(|(owner, words)| words.iter().map(move |word| (owner, &**word)));
        let matcher = Matcher::new(all).map_err(|_| ContentRuleError::Unsearchable)?;
        let actions = sets.iter().map(|set| (WordAction::read(&set.action), set.replacement.clone())).collect();
        Ok(Self { matcher: (!sets.is_empty()).then_some(matcher), sets, actions })
    }

    /// The names of sets.
    fn names(&self, places: &BTreeSet<usize>) -> Vec<String> {
        places.iter().filter_map(|place| Some(self.sets.get(*place)?.name.clone())).collect()
    }

    fn try_text(&self, text: &str) -> Tried {
        let mut seen = Seen::default();
        let text = match self.judge(text, &mut seen) {
            Verdict::Keep => Some(text.to_owned()),
            Verdict::Become(other) => Some(other),
            Verdict::Refuse => None,
        };
        Tried { text, held_by: self.names(&seen.held), tagged_by: self.names(&seen.tagged) }
    }

    /// What becomes of a text; adds to `seen` who else is to look at it.
    fn judge(&self, text: &str, seen: &mut Seen) -> Verdict {
        let Some(matcher) = &self.matcher else { return Verdict::Keep };
        let mut found = matcher.find(text);
        if found.is_empty() {
            return Verdict::Keep;
        }
        if found.iter().any(|found| self.actions[found.owner].0 == WordAction::Reject) {
            return Verdict::Refuse;
        }
        found.retain(|found| {
            match self.actions[found.owner].0 {
                WordAction::Hold => seen.held.insert(found.owner),
                WordAction::Tag => seen.tagged.insert(found.owner),
                WordAction::Reject | WordAction::Replace => return true,
            };
            false
        });
        if found.is_empty() {
            return Verdict::Keep;
        }
        // Of those that overlap, the one that begins first and is longest.
        found.sort_by_key(|found| (found.at.start, std::cmp::Reverse(found.at.end)));
        let (mut other, mut done) = (String::with_capacity(text.len()), 0);
        for found in found {
            if found.at.start < done {
                continue;
            }
            other.push_str(&text[done..found.at.start]);
            match &self.actions[found.owner].1 {
                Some(replacement) => other.push_str(replacement),
                None => other.extend(text[found.at.clone()].chars().map(|_| '*')),
            }
            done = found.at.end;
        }
        other.push_str(&text[done..]);
        Verdict::Become(other)
    }
}

impl Shared {
    fn known(&self) -> Arc<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What comes of a content: another one, that it is not to be, or that moderators look at it.
    fn look_at(&self, proposal: &Proposal<'_>) -> Result<Leave, GateError> {
        let is_looked_at = self.asks_itself().has(proposal.act);
        if !is_looked_at || proposal.event.is_some_and(|event| event.kind == "m.room.encrypted") {
            return Ok(Leave::default());
        }
        let refused = || {
            counter!("comity_content_rules_total", "action" => WordAction::Reject.as_str()).increment(1);
            let room = proposal.room_id.map(tracing::field::display);
            info!(user.id = %proposal.sender, room.id = room, "something was refused for its words");
            GateError::Refused(REFUSAL.to_owned())
        };
        let Ok(mut content) = serde_json::from_str::<Value>(proposal.content.get()) else {
            return Ok(Leave::default());
        };
        let (known, mut seen) = (self.known(), Seen::default());
        let done =
            |action: WordAction| counter!("comity_content_rules_total", "action" => action.as_str()).increment(1);
        let is_changed =
            look_through(&mut content, &mut |text| known.judge(text, &mut seen)).map_err(|()| refused())?;
        if !seen.held.is_empty() && !proposal.is_approved {
            if proposal.act != Act::Send {
                return Err(refused());
            }
            done(WordAction::Hold);
            return Err(GateError::Held(known.names(&seen.held).join(", ")));
        }
        let mut leave = Leave::default();
        if is_changed {
            let changed = to_raw_value(&content).expect("JSON can be written as JSON");
            if proposal.may_become.is_none_or(|may_become| may_become(&changed).is_err()) {
                return Err(refused());
            }
            done(WordAction::Replace);
            leave.content = Some(changed);
        }
        if !seen.tagged.is_empty() {
            done(WordAction::Tag);
            leave.mark = Some(format!("it has words of {}", known.names(&seen.tagged).join(", ")));
        }
        Ok(leave)
    }

    fn asks_itself(&self) -> Acts {
        let are_there = self.are_there.load(Ordering::Acquire);
        [Act::Send, Act::CreateRoom].into_iter().filter(|_| are_there).collect()
    }

    async fn ask_both(&self, proposal: Proposal<'_>) -> Result<Leave, GateError> {
        let leave = self.look_at(&proposal)?;
        if !self.then.asks_about().has(proposal.act) {
            return Ok(leave);
        }
        let content = leave.content.as_deref().unwrap_or(proposal.content);
        let then = self.then.ask(Proposal { content, ..proposal }).await?;
        Ok(Leave { content: then.content.or(leave.content), mark: leave.mark.or(then.mark) })
    }
}

impl Gate for Shared {
    fn asks_about(&self) -> Acts {
        Acts::of_bits(self.asks_itself().bits() | self.then.asks_about().bits())
    }

    fn ask<'a>(&'a self, proposal: Proposal<'a>) -> Answer<'a> {
        Box::pin(self.ask_both(proposal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(sets: &[(WordAction, Option<&str>, &[&str])]) -> Known {
        let row = |(number, (action, replacement, _)): (usize, &(WordAction, Option<&str>, &[&str]))| WordSetRow {
            name: number.to_string(),
            action: action.as_str().to_owned(),
            replacement: replacement.map(str::to_owned),
            version: 1,
            changed_by: String::new(),
            changed_at: 0,
        };
        let words: Vec<Vec<String>> =
            sets.iter().map(|(_, _, words)| words.iter().map(|word| (*word).to_owned()).collect()).collect();
        Known::new(sets.iter().enumerate().map(row).collect(), &words).expect("few words")
    }

    fn becomes(known: &Known, text: &str) -> Option<String> {
        known.try_text(text).text
    }

    #[test]
    fn words_are_replaced_or_refused_by_their_set() {
        let known = known(&[
            (WordAction::Replace, None, &["damn", "坏话", "damn it"]),
            (WordAction::Replace, Some("[gone]"), &["hell"]),
            (WordAction::Reject, None, &["secret"]),
        ]);
        assert_eq!(becomes(&known, "Damn it, go to HELL. damnation"), Some("*******, go to [gone]. damnation".into()));
        assert_eq!(becomes(&known, "不要说坏话！"), Some("不要说**！".into()));
        assert_eq!(becomes(&known, "damn, a secret"), None);
        assert_eq!(becomes(&known, "hello"), Some("hello".into()));
        assert_eq!(becomes(&Known::default(), "secret"), Some("secret".into()));
    }

    #[test]
    fn moderators_look_at_what_is_held_and_at_what_is_tagged() {
        let known = known(&[
            (WordAction::Hold, None, &["sell"]),
            (WordAction::Tag, None, &["buy", "sell"]),
            (WordAction::Replace, None, &["damn"]),
            (WordAction::Reject, None, &["secret"]),
        ]);
        let of = |text: &str| {
            let Tried { text, held_by, tagged_by } = known.try_text(text);
            (text, held_by, tagged_by)
        };
        let sets = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(of("buy it, damn"), (Some("buy it, ****".into()), sets(&[]), sets(&["1"])));
        assert_eq!(of("sell it"), (Some("sell it".into()), sets(&["0"]), sets(&["1"])));
        assert_eq!(of("sell a secret").0, None);
    }
}
