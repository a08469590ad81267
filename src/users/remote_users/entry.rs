//! What is remembered of one user, and what it is good for at a given time.

use std::sync::Arc;

use model::Millis;
use peers::PeerError;
use ruma::UserId;
use store::{Error, remote_users::RemoteUserRow};

use super::{RemoteProfile, RemoteUsersConfig};
use crate::millis;

/// A server that could not be asked is left alone for so long, unless it names a longer time.
const PAUSE: Millis = 30_000;
/// Longer is left alone no server.
const LONGEST_PAUSE: Millis = 60 * 60_000;
/// By so much the clocks of nodes may differ.
const SKEW: Millis = 60_000;

/// What is remembered of one user.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) outcome: Outcome,
    /// When the user's server said so.
    pub(super) fetched_at: Millis,
    /// From when on it is asked for again in the background.
    pub(super) refresh_at: Millis,
    /// Until when it is taken to be so.
    pub(super) expires_at: Millis,
    /// Since when the server was asked again in vain.
    pub(super) unanswered_since: Option<Millis>,
    /// Before that it isn't asked in the background.
    pub(super) retry_at: Millis,
}

/// What asking came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Found(Arc<RemoteProfile>),
    Missing,
    /// The server doesn't tell, for this reason.
    Refused(Arc<str>),
    /// Nothing was known before, and the server can't be asked, for this reason.
    Away(Arc<str>),
}

/// What an entry is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the answer.
    Fresh,
    /// It is the answer, and the server is asked again for the next one.
    Ageing,
    /// It is the answer if the server has none.
    Stale,
    /// The server has to be asked.
    Useless,
}

/// What a server said of a user, or that it didn't.
#[derive(Clone, Debug)]
pub(super) enum Word {
    Says(RemoteProfile),
    Missing,
    Refuses(Arc<str>),
    /// It may another time; before `pause` is over it need not be asked.
    Silent {
        reason: Arc<str>,
        pause: Millis,
    },
}

impl Word {
    /// What `error` means. Errors: it isn't the server's.
    pub(super) fn of_error(error: PeerError) -> Result<Self, PeerError> {
        let reason = Arc::from(error.to_string());
        match error {
            PeerError::Refused { status, errcode, retry_after, .. } => {
                // Only a Matrix error is a word about the user. Without one it is somebody else's, a proxy's in front; and
                // some say that the server has too much to do, knows no such question, or doesn't know who asks.
                let is_of_matrix = errcode.is_some_and(|code| !matches!(&*code, "M_LIMIT_EXCEEDED" | "M_UNRECOGNIZED"));
                Ok(match status {
                    404 if is_of_matrix => Self::Missing,
                    400 | 403 if is_of_matrix => Self::Refuses(reason),
                    _ => Self::Silent { reason, pause: retry_after.map_or(PAUSE, millis).clamp(PAUSE, LONGEST_PAUSE) },
                })
            }
            PeerError::Unresolved { .. } | PeerError::Unreachable { .. } | PeerError::Malformed { .. } => {
                Ok(Self::Silent { reason, pause: PAUSE })
            }
            error => Err(error),
        }
    }
}

impl Entry {
    /// What is to be remembered after `word`, where `before` was.
    pub(super) fn after(word: Word, before: Option<&Self>, now: Millis, config: &RemoteUsersConfig) -> Self {
        let entry = |outcome, lasts| Self {
            outcome,
            fetched_at: now,
            refresh_at: now + lasts,
            expires_at: now + lasts,
            unanswered_since: None,
            retry_at: now,
        };
        match word {
            Word::Says(profile) => Self::found(Arc::new(profile), now, now.saturating_add(millis(config.fresh))),
            Word::Missing => entry(Outcome::Missing, millis(config.missing)),
            Word::Refuses(reason) => entry(Outcome::Refused(reason), millis(config.missing)),
            Word::Silent { reason, pause } => match before {
                Some(before) if before.is_found() && before.standing(now, config) != Standing::Useless => Self {
                    unanswered_since: before.unanswered_since.or(Some(now)),
                    retry_at: now + pause,
                    ..before.clone()
                },
                _ => entry(Outcome::Away(reason), pause),
            },
        }
    }

    fn found(profile: Arc<RemoteProfile>, fetched_at: Millis, expires_at: Millis) -> Self {
        Self {
            outcome: Outcome::Found(profile),
            fetched_at,
            refresh_at: expires_at - (expires_at - fetched_at) / 4,
            expires_at,
            unanswered_since: None,
            retry_at: fetched_at,
        }
    }

    /// The same with other names: as somebody else said, so that the user's server is asked soon.
    pub(super) fn renamed(&self, names: &RemoteProfile) -> Option<Self> {
        let Outcome::Found(profile) = &self.outcome else { return None };
        let outcome = Outcome::Found(Arc::new(profile.renamed(names)));
        Some(Self { outcome, refresh_at: self.fetched_at, ..self.clone() })
    }

    /// What it is good for at `now`.
    pub(super) fn standing(&self, now: Millis, config: &RemoteUsersConfig) -> Standing {
        let is_of_the_future = self.fetched_at > now + SKEW;
        let until = if self.is_found() {
            self.fetched_at.saturating_add(millis(config.stale)).max(self.expires_at)
        } else {
            self.expires_at
        };
        match now {
            _ if is_of_the_future || now >= until => Standing::Useless,
            _ if now >= self.expires_at => Standing::Stale,
            _ if now >= self.refresh_at => Standing::Ageing,
            _ => Standing::Fresh,
        }
    }

    pub(super) fn is_found(&self) -> bool {
        matches!(self.outcome, Outcome::Found(_))
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match &self.outcome {
            Outcome::Found(profile) => profile.bytes(),
            Outcome::Missing => 0,
            Outcome::Refused(reason) | Outcome::Away(reason) => reason.len(),
        };
        bytes as u64
    }

    // === in the store ===

    /// As it was stored. Nothing is fresh for longer than is configured now.
    pub(super) fn of_row(row: RemoteUserRow, config: &RemoteUsersConfig) -> Result<Self, Error> {
        let fields = serde_json::from_str(&row.fields)
            .map_err(|error| Error::Corrupt(format!("the profile of a remote user: {error}")))?;
        let profile = RemoteProfile { display_name: row.display_name, avatar_url: row.avatar_url, fields };
        let expires_at = row.expires_at.min(row.fetched_at.saturating_add(millis(config.fresh)));
        Ok(Self {
            unanswered_since: row.unanswered_since,
            ..Self::found(Arc::new(profile), row.fetched_at, expires_at)
        })
    }

    /// As it is stored, if it is.
    pub(super) fn to_row(&self, user_id: &UserId) -> Option<RemoteUserRow> {
        let Outcome::Found(profile) = &self.outcome else { return None };
        Some(RemoteUserRow {
            user_id: user_id.to_owned(),
            display_name: profile.display_name.clone(),
            avatar_url: profile.avatar_url.clone(),
            fields: serde_json::to_string(&profile.fields).expect("a map of JSON values can be written as JSON"),
            fetched_at: self.fetched_at,
            expires_at: self.expires_at,
            unanswered_since: self.unanswered_since,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{owned_server_name, user_id};

    use super::*;

    const HOUR: Millis = 60 * 60_000;

    fn config() -> RemoteUsersConfig {
        RemoteUsersConfig::default()
    }

    fn bob() -> RemoteProfile {
        RemoteProfile::of_names(Some("Bob"), Some("mxc://b.test/face"))
    }

    fn silent() -> Word {
        Word::Silent { reason: "b.test can't be reached".into(), pause: PAUSE }
    }

    fn refused(status: u16, errcode: Option<&str>) -> PeerError {
        PeerError::Refused {
            server: owned_server_name!("b.test"),
            status,
            errcode: errcode.map(str::to_owned),
            message: "no".into(),
            retry_after: None,
        }
    }

    #[test]
    fn an_answer_is_fresh_then_ageing_then_stale_then_useless() {
        let entry = Entry::after(Word::Says(bob()), None, 1_000, &config());
        let standing = |after: Millis| entry.standing(1_000 + after, &config());
        assert_eq!([standing(0), standing(HOUR * 3 / 4 - 1)], [Standing::Fresh; 2]);
        assert_eq!([standing(HOUR * 3 / 4), standing(HOUR - 1)], [Standing::Ageing; 2]);
        assert_eq!([standing(HOUR), standing(7 * 24 * HOUR - 1)], [Standing::Stale; 2]);
        assert_eq!(standing(7 * 24 * HOUR), Standing::Useless);
        assert_eq!(standing(-2 * SKEW), Standing::Useless, "it was fetched before the clock was put back");
    }

    #[test]
    fn a_server_that_is_away_changes_nothing_but_the_mark() {
        let config = config();
        let entry = Entry::after(Word::Says(bob()), None, 0, &config);
        let away = Entry::after(silent(), Some(&entry), HOUR, &config);
        assert_eq!((away.unanswered_since, away.retry_at), (Some(HOUR), HOUR + PAUSE));
        assert_eq!((&away.outcome, away.expires_at), (&entry.outcome, entry.expires_at));
        let longer = Entry::after(silent(), Some(&away), 2 * HOUR, &config);
        assert_eq!(longer.unanswered_since, Some(HOUR), "since the first time");
        let too_long = Entry::after(silent(), Some(&longer), 7 * 24 * HOUR, &config);
        assert!(matches!(too_long.outcome, Outcome::Away(_)), "{too_long:?}");
        assert_eq!(too_long.standing(7 * 24 * HOUR + PAUSE, &config), Standing::Useless);
        let back = Entry::after(Word::Says(bob()), Some(&longer), 3 * HOUR, &config);
        assert_eq!((back.unanswered_since, back.fetched_at), (None, 3 * HOUR));
    }

    #[test]
    fn that_there_is_nobody_counts_shorter_and_replaces_what_was_known() {
        let config = config();
        let found = Entry::after(Word::Says(bob()), None, 0, &config);
        for word in [Word::Missing, Word::Refuses("no".into())] {
            let gone = Entry::after(word, Some(&found), 10, &config);
            assert!(!gone.is_found());
            assert_eq!(gone.standing(10 + 5 * 60_000 - 1, &config), Standing::Fresh);
            assert_eq!(gone.standing(10 + 5 * 60_000, &config), Standing::Useless);
            let away = Entry::after(silent(), Some(&gone), HOUR, &config);
            assert!(matches!(away.outcome, Outcome::Away(_)), "{away:?}");
        }
    }

    #[test]
    fn only_matrix_errors_are_words_about_a_user() {
        let word = |error| Word::of_error(error).expect("it is the server's");
        assert!(matches!(word(refused(404, Some("M_NOT_FOUND"))), Word::Missing));
        assert!(matches!(word(refused(403, Some("M_FORBIDDEN"))), Word::Refuses(_)));
        assert!(matches!(word(refused(400, Some("M_INVALID_PARAM"))), Word::Refuses(_)));
        for error in [
            refused(404, None),
            refused(404, Some("M_UNRECOGNIZED")),
            refused(403, None),
            refused(401, Some("M_UNAUTHORIZED")),
            refused(429, Some("M_LIMIT_EXCEEDED")),
            refused(502, Some("M_UNKNOWN")),
            PeerError::Unresolved { server: owned_server_name!("b.test"), reason: "no such host".into() },
            PeerError::Malformed { server: owned_server_name!("b.test"), reason: "a list".into() },
        ] {
            let text = error.to_string();
            assert!(matches!(word(error), Word::Silent { pause: PAUSE, .. }), "{text}");
        }
        assert!(Word::of_error(PeerError::Disabled).is_err());
    }

    #[test]
    fn what_is_stored_is_read_again_and_is_fresh_no_longer_than_configured_now() {
        let user_id = user_id!("@bob:b.test");
        let mut entry = Entry::after(Word::Says(bob()), None, 7, &config());
        entry.unanswered_since = Some(9);
        let row = entry.to_row(user_id).expect("it was found");
        assert_eq!(Entry::of_row(row.clone(), &config()).expect("it is well-formed"), entry);
        let shorter = RemoteUsersConfig { fresh: std::time::Duration::from_secs(1), ..config() };
        assert_eq!(Entry::of_row(row, &shorter).expect("it is well-formed").expires_at, 1_007);
        assert!(Entry::after(Word::Missing, None, 7, &config()).to_row(user_id).is_none());
    }

    #[test]
    fn other_names_are_shown_at_once_and_asked_about() {
        let entry = Entry::after(Word::Says(bob()), None, 7, &config());
        let renamed = entry.renamed(&RemoteProfile::of_names(Some("Bert"), None)).expect("it was found");
        assert_eq!(renamed.standing(7, &config()), Standing::Ageing);
        assert_eq!(renamed.expires_at, entry.expires_at);
        let Outcome::Found(profile) = renamed.outcome else { panic!("it was found") };
        assert_eq!(profile.display_name.as_deref(), Some("Bert"));
    }

    proptest! {
        /// Whatever servers say and when: a standing only gets worse with time, and a mark means that nothing newer is known.
        #[test]
        fn time_only_makes_it_worse(words in prop::collection::vec((0u8..4, 0i64..3 * HOUR), 1..20)) {
            let config = config();
            let (mut entry, mut now): (Option<Entry>, Millis) = (None, 0);
            for (word, later) in words {
                now += later;
                let word = match word {
                    0 => Word::Says(bob()),
                    1 => Word::Missing,
                    2 => Word::Refuses("no".into()),
                    _ => silent(),
                };
                let after = Entry::after(word, entry.as_ref(), now, &config);
                prop_assert!(after.fetched_at <= now && after.fetched_at <= after.refresh_at);
                prop_assert!(after.refresh_at <= after.expires_at);
                prop_assert!(after.unanswered_since.is_none_or(|since| after.fetched_at <= since && since <= now));
                prop_assert_ne!(after.standing(now, &config), Standing::Useless);
                let rank = |standing| match standing {
                    Standing::Fresh => 0,
                    Standing::Ageing => 1,
                    Standing::Stale => 2,
                    Standing::Useless => 3,
                };
                let ranks: Vec<_> = (0..40).map(|at| rank(after.standing(now + at * 6 * HOUR, &config))).collect();
                prop_assert!(ranks.is_sorted(), "{ranks:?}");
                entry = Some(after);
            }
        }
    }
}
