//! What peers did and what was refused, by day: counted in memory, written down now and then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use metrics::counter;
use model::peer::{Capability, Context, Direction, Fact, Facts, Rule, TrustLevel};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use store::{
    Store, Write,
    peers::{self, ActRow},
};

/// No more kinds of acts are counted between two writings; what is over is missing from the figures, not from the decisions.
const MOST: usize = 20_000;
/// So long acts are remembered, in days.
const KEEP: i64 = 31;
const DAY: i64 = 24 * 60 * 60 * 1_000;

/// An act, and everything that its decision hung on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Act {
    server: OwnedServerName,
    capability: Capability,
    context: Context,
    rule: Option<Rule>,
}

/// How many servers it is remembered of that they have answered.
const ANSWERED: usize = 10_000;

/// What was done since it was last written down.
pub(crate) struct Acts {
    noted: Mutex<HashMap<Act, i64>>,
    /// Servers that have answered this one, or asked it something.
    answered: Cache<OwnedServerName, ()>,
}

impl Default for Acts {
    fn default() -> Self {
        Self { noted: Mutex::default(), answered: Cache::new(ANSWERED) }
    }
}

impl Acts {
    /// `is_set`: an admin has set the server. Of others it counts only what they do themselves, and what is done towards them once
    /// they have answered.
    pub(crate) fn note(
        &self,
        server: &ServerName,
        is_set: bool,
        capability: Capability,
        context: &Context,
        rule: Option<Rule>,
    ) {
        let outcome = if rule.is_none() { "allowed" } else { "refused" };
        let direction = context.direction.as_str();
        counter!("comity_trust_decisions_total",
            "capability" => capability.as_str(), "direction" => direction, "outcome" => outcome)
        .increment(1);
        // Anybody here can have names asked that nobody has, as many as they like.
        if context.direction == Direction::Out && !is_set && self.answered.get(server).is_none() {
            return;
        }
        let act = Act { server: server.to_owned(), capability, context: *context, rule };
        self.add(act, 1);
    }

    /// The server is there: it has answered, or proved who it is.
    pub(crate) fn note_answered(&self, server: &ServerName) {
        if self.answered.get(server).is_none() {
            self.answered.insert(server.to_owned(), ());
        }
    }

    fn add(&self, act: Act, more: i64) {
        let mut acts = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = acts.get_mut(&act) {
            *count += more;
        } else if acts.len() < MOST {
            acts.insert(act, more);
        } else {
            counter!("comity_trust_decisions_uncounted_total").increment(more.unsigned_abs());
        }
    }

    /// Adds what was noted to what the store has of today. What can't be written is kept for the next time.
    pub(crate) async fn write(&self, store: &Store) -> Result<(), store::Error> {
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        if noted.is_empty() {
            return Ok(());
        }
        let day = today();
        let mut rows: BTreeMap<ActRow, i64> = BTreeMap::new();
        for (act, count) in &noted {
            let row = ActRow {
                server: act.server.to_string(),
                day,
                capability: act.capability.to_string(),
                direction: act.context.direction.as_str().to_owned(),
                ceiling: act.context.ceiling.map_or("", TrustLevel::as_str).to_owned(),
                facts: write_facts(act.context.facts),
                rule: act.rule.as_ref().map(Rule::to_string).unwrap_or_default(),
            };
            *rows.entry(row).or_default() += *count;
        }
        let mut write = Write::new();
        for (row, count) in &rows {
            peers::add_acts(&mut write, row, *count);
        }
        peers::prune_acts(&mut write, day - KEEP);
        let written = store.commit(write).await.map(drop);
        if written.is_err() {
            for (act, count) in noted {
                self.add(act, count);
            }
        }
        written
    }
}

/// Days since 1970.
pub(crate) fn today() -> i64 {
    crate::keys::wall_clock() / DAY
}

/// The circumstances of an act that was written down. `None`: a later version did.
pub(crate) fn read_context(row: &ActRow) -> Option<(Capability, Context)> {
    let direction = [Direction::In, Direction::Out].into_iter().find(|one| one.as_str() == row.direction)?;
    let ceiling = match row.ceiling.as_str() {
        "" => None,
        level => Some(level.parse().ok()?),
    };
    let mut facts = Facts::default();
    for word in row.facts.split(',').filter(|word| !word.is_empty()) {
        let (holds, word) = word.strip_prefix('!').map_or((true, word), |word| (false, word));
        facts = facts.with(Fact::ALL.into_iter().find(|fact| fact.as_str() == word)?, holds);
    }
    Some((row.capability.parse().ok()?, Context { direction, ceiling, facts }))
}

fn write_facts(facts: Facts) -> String {
    let known = Fact::ALL.into_iter().filter_map(|fact| Some((fact, facts.get(fact)?)));
    let words = known.map(|(fact, holds)| format!("{}{}", if holds { "" } else { "!" }, fact.as_str()));
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circumstances_are_read_back_as_they_were_written() {
        let context = Context::outbound()
            .in_room(Some(TrustLevel::Full))
            .knowing(Fact::Contact, false)
            .knowing(Fact::Invited, true);
        let row = ActRow {
            server: "b.test".into(),
            day: 1,
            capability: "first_contact".into(),
            direction: "out".into(),
            ceiling: "full".into(),
            facts: write_facts(context.facts),
            rule: String::new(),
        };
        assert_eq!(row.facts, "!contact,invited");
        assert_eq!(read_context(&row), Some((Capability::FirstContact, context)));
    }
}
