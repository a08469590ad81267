//! What a change would have meant for what has happened.

use std::collections::BTreeMap;

use model::peer::{Capability, Decision, Direction, PeerPattern, Regard, Standing, decide};
use serde::Serialize;

use super::{PeerChange, Trust, acts};

/// What would have become of what a peer did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Simulation {
    /// Of how many days the figures are.
    pub days: i64,
    /// For each capability and direction that there was.
    pub acts: Vec<Simulated>,
}

/// What would have become of one kind of act.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulated {
    /// What was done.
    pub capability: Capability,
    /// By whom.
    pub direction: Direction,
    /// How often it was allowed then.
    pub allowed_then: i64,
    /// How often it was refused then.
    pub refused_then: i64,
    /// How often it would have been allowed.
    pub allowed: i64,
    /// How often it would have been refused.
    pub refused: i64,
    /// How often that hangs on something that nobody looked up then, because it didn't matter.
    pub undecided: i64,
    /// By which rules it would have been refused, and how often.
    pub rules: BTreeMap<String, i64>,
}

impl Trust {
    /// What a change of a peer would have refused in the last `days`, as far as is remembered. Changes nothing.
    pub async fn simulate(
        &self,
        pattern: &PeerPattern,
        change: &PeerChange,
        days: i64,
    ) -> Result<Simulation, super::ChangeError> {
        let days = days.clamp(1, 31);
        let regard = self.supposed(pattern, change).await?;
        let since = acts::today() - days + 1;
        let server = match pattern {
            PeerPattern::Exact(name) => Some(name.as_str()),
            PeerPattern::Below(_) => None,
        };
        let mut found: BTreeMap<(Capability, Direction), Simulated> = BTreeMap::new();
        for (row, count) in self.shared.store.peers().acts_since(server, since).await? {
            let is_meant = <&ruma::ServerName>::try_from(row.server.as_str()).is_ok_and(|name| pattern.matches(name));
            let Some((capability, context)) = acts::read_context(&row).filter(|_| is_meant) else { continue };
            let simulated = found.entry((capability, context.direction)).or_insert_with(|| Simulated {
                capability,
                direction: context.direction,
                allowed_then: 0,
                refused_then: 0,
                allowed: 0,
                refused: 0,
                undecided: 0,
                rules: BTreeMap::new(),
            });
            match row.rule.is_empty() {
                true => simulated.allowed_then += count,
                false => simulated.refused_then += count,
            }
            match decide(&regard, capability, &context) {
                Decision::Allow(_) => simulated.allowed += count,
                Decision::Ask(_) => simulated.undecided += count,
                Decision::Deny(denied) => {
                    simulated.refused += count;
                    *simulated.rules.entry(denied.rule.to_string()).or_default() += count;
                }
            }
        }
        Ok(Simulation { days, acts: found.into_values().collect() })
    }

    /// How the peer would be regarded.
    async fn supposed(&self, pattern: &PeerPattern, change: &PeerChange) -> Result<Regard, super::ChangeError> {
        let before = self.get(pattern).await?;
        let level = change.level.or(before.as_ref().map(|view| view.level)).unwrap_or(self.shared.config.default_level);
        let mut overrides = before.as_ref().map(|view| view.settings.overrides.clone()).unwrap_or_default();
        for (capability, wish) in &change.overrides {
            match wish {
                Some(wish) => {
                    capability.check(wish.grant)?;
                    overrides.insert(*capability, wish.clone());
                }
                None => drop(overrides.remove(capability)),
            }
        }
        let is_active = change.active.unwrap_or(before.is_none_or(|view| view.standing != Standing::Inactive));
        let standing = if is_active { Standing::Active } else { Standing::Inactive };
        Ok(Regard::new(level, standing, &overrides))
    }
}
