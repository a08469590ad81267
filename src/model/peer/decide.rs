//! What a peer may do, and what may be done towards it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Capability, Direction, Grant, Regard, Standing, TrustLevel};

/// Something that a decision may hang on, and that has to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Fact {
    /// The local user shares a room with somebody of the peer, or has the other user as a contact.
    Acquainted,
    /// The local user has talked with the other one before.
    Contact,
    /// The peer's user was invited.
    Invited,
    /// An admin has approved of it.
    Approved,
    /// Somebody of the peer is in a room with the local user.
    SharesRoom,
    /// The configuration names the peer for it.
    OptedIn,
}

impl Fact {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Acquainted, Self::Contact, Self::Invited, Self::Approved, Self::SharesRoom, Self::OptedIn];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquainted => "acquainted",
            Self::Contact => "contact",
            Self::Invited => "invited",
            Self::Approved => "approved",
            Self::SharesRoom => "shares_room",
            Self::OptedIn => "opted_in",
        }
    }
}

/// What was looked up so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts([Option<bool>; Fact::ALL.len()]);

impl Facts {
    /// The same, and `fact` is so or isn't.
    #[must_use]
    pub fn with(mut self, fact: Fact, holds: bool) -> Self {
        self.0[fact as usize] = Some(holds);
        self
    }

    /// Whether it is so, if that is known.
    pub fn get(self, fact: Fact) -> Option<bool> {
        self.0[fact as usize]
    }
}

/// In what circumstances something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// By whom.
    pub direction: Direction,
    /// The level that the room demands, if it is about a room that demands one.
    pub ceiling: Option<TrustLevel>,
    /// What was looked up.
    pub facts: Facts,
}

impl Context {
    /// The peer does something here.
    pub fn inbound() -> Self {
        Self { direction: Direction::In, ceiling: None, facts: Facts::default() }
    }

    /// This server does something towards the peer.
    pub fn outbound() -> Self {
        Self { direction: Direction::Out, ..Self::inbound() }
    }

    /// In a room that demands this level.
    #[must_use]
    pub fn in_room(mut self, ceiling: Option<TrustLevel>) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// Where `fact` holds, or doesn't.
    #[must_use]
    pub fn knowing(mut self, fact: Fact, holds: bool) -> Self {
        self.facts = self.facts.with(fact, holds);
        self
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be done, as far as the grant reaches.
    Allow(Allowed),
    /// It may not.
    Deny(Denied),
    /// It hangs on something that is not known yet: look it up, and ask again.
    Ask(Fact),
}

/// It may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// How far: what is limited, the caller keeps to.
    pub grant: Grant,
}

/// It may not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not allowed by the trust policy ({rule})")]
pub struct Denied {
    /// By which rule.
    pub rule: Rule,
}

/// By which rule something was refused. Its text is stable: peers' admins and tools may rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// An admin has switched the peer off.
    Inactive,
    /// The peer's keys are not those it was pinned to.
    Alarmed,
    /// The room demands more trust.
    Ceiling(TrustLevel),
    /// The level of the peer, and what it has of the capability.
    Level(TrustLevel, Capability, Grant),
    /// What was set for the peer apart from its level.
    Override(Capability, Grant),
    /// More than its rate.
    Rate(Capability),
    /// Its people are in as many rooms here as they may be.
    Rooms,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inactive => write!(formatter, "peer.inactive"),
            Self::Alarmed => write!(formatter, "peer.key_alarm"),
            Self::Ceiling(level) => write!(formatter, "ceiling.{level}"),
            Self::Level(level, capability, grant) => write!(formatter, "{level}.{capability}.{}", grant.as_str()),
            Self::Override(capability, grant) => write!(formatter, "override.{capability}.{}", grant.as_str()),
            Self::Rate(capability) => write!(formatter, "rate.{capability}"),
            Self::Rooms => write!(formatter, "limit.rooms"),
        }
    }
}

/// Decides whether something may be done: the one place where trust becomes yes or no.
///
/// Pure, and quick enough to be asked for every event. A decision that hangs on a fact that `context` doesn't know says which;
/// most need none.
pub fn decide(regard: &Regard, capability: Capability, context: &Context) -> Decision {
    let deny = |rule| Decision::Deny(Denied { rule });
    match regard.standing {
        Standing::Active => {}
        Standing::Inactive => return deny(Rule::Inactive),
        Standing::Alarmed => return deny(Rule::Alarmed),
    }
    let grant = regard.grant(capability);
    let by_grant = || {
        deny(match regard.is_overridden(capability) {
            true => Rule::Override(capability, grant),
            false => Rule::Level(regard.level, capability, grant),
        })
    };
    if grant == Grant::No {
        return by_grant();
    }
    if let Some(ceiling) = context.ceiling
        && regard.level < ceiling
    {
        return deny(Rule::Ceiling(ceiling));
    }
    let condition = match grant {
        Grant::Acquainted => Fact::Acquainted,
        Grant::Contacts => Fact::Contact,
        Grant::Invited => Fact::Invited,
        Grant::Approved => Fact::Approved,
        Grant::Shared => Fact::SharesRoom,
        Grant::OptIn => Fact::OptedIn,
        _ => return Decision::Allow(Allowed { grant }),
    };
    match context.facts.get(condition) {
        Some(true) => Decision::Allow(Allowed { grant }),
        Some(false) => by_grant(),
        None => Decision::Ask(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Overrides, TABLE};

    #[test]
    fn nothing_is_allowed_to_or_towards_a_peer_that_is_blocked_or_switched_off() {
        let mut facts = Context::inbound();
        for fact in Fact::ALL {
            facts = facts.knowing(fact, true);
        }
        for row in &TABLE {
            for direction in [Direction::In, Direction::Out] {
                let context = Context { direction, ..facts };
                let decision = decide(&Regard::of_level(TrustLevel::Blocked), row.capability, &context);
                assert!(matches!(decision, Decision::Deny(_)), "{}", row.word);
                for standing in [Standing::Inactive, Standing::Alarmed] {
                    let off = Regard::new(TrustLevel::Full, standing, &Overrides::new());
                    assert!(matches!(decide(&off, row.capability, &context), Decision::Deny(_)), "{}", row.word);
                }
            }
        }
    }

    #[test]
    fn a_decision_asks_for_one_fact_at_most_and_then_hangs_on_it() {
        for row in &TABLE {
            for level in TrustLevel::ALL {
                let regard = Regard::of_level(level);
                let Decision::Ask(fact) = decide(&regard, row.capability, &Context::inbound()) else { continue };
                let given = |holds| decide(&regard, row.capability, &Context::inbound().knowing(fact, holds));
                assert!(matches!(given(true), Decision::Allow(_)), "{}", row.word);
                assert!(matches!(given(false), Decision::Deny(_)), "{}", row.word);
            }
        }
    }

    #[test]
    fn a_rule_says_what_an_admin_would_have_to_change() {
        let limited = Regard::of_level(TrustLevel::Limited);
        let rule = |decision| match decision {
            Decision::Deny(denied) => denied.rule.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(rule(decide(&limited, Capability::Typing, &Context::inbound())), "limited.typing.no");
        let ceiling = Context::inbound().in_room(Some(TrustLevel::Full));
        assert_eq!(rule(decide(&limited, Capability::Join, &ceiling)), "ceiling.full");
    }
}
