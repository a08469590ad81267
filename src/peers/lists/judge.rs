//! Whether what a publisher answers is taken: a pure function of what is known of its list already.

use std::collections::BTreeMap;

use model::{Millis, peer::normal_name};
use ruma::ServerName;
use store::federation_lists::SubscriptionRow;

use super::{ListFault, document::SignedList};

/// How far a publisher's clock may be ahead.
const SKEW: Millis = 5 * 60_000;

/// What is known of a list.
pub(super) struct Known<'a> {
    /// Whose it is.
    pub(super) publisher: &'a ServerName,
    /// The keys that may sign it.
    pub(super) pins: &'a BTreeMap<String, String>,
    /// The newest version that was taken; 0: none.
    pub(super) version: i64,
    /// Of what that said.
    pub(super) digest: &'a str,
}

impl<'a> Known<'a> {
    pub(super) fn of(row: &'a SubscriptionRow, pins: &'a BTreeMap<String, String>) -> Self {
        Self { publisher: &row.publisher, pins, version: row.version, digest: &row.digest }
    }
}

/// What it is, if it can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What was taken already.
    Same,
    /// A newer version.
    Newer,
}

/// Judges what was answered at `now`. The signature comes first: who can't sign can't say that anything else is wrong.
pub(super) fn judge(known: &Known<'_>, told: &SignedList, now: Millis) -> Result<Verdict, ListFault> {
    let list = &told.list;
    if normal_name(&list.publisher) != known.publisher.as_str() {
        return Err(ListFault::WrongPublisher(list.publisher.clone()));
    }
    told.check_signature(known.pins)?;
    if list.version < known.version {
        return Err(ListFault::Rollback { told: list.version, known: known.version });
    }
    if list.version == known.version && told.digest != known.digest {
        return Err(ListFault::Equivocation(list.version));
    }
    if list.issued_at > now + SKEW {
        return Err(ListFault::FromFuture(list.issued_at - now));
    }
    if list.expires_at <= now {
        return Err(ListFault::Expired(now - list.expires_at));
    }
    Ok(if list.version == known.version { Verdict::Same } else { Verdict::Newer })
}

#[cfg(test)]
mod tests {
    use model::{SigningKey, peer::TrustLevel};
    use proptest::prelude::*;
    use ruma::{serde::Base64, server_name};

    use super::*;
    use crate::lists::{Entries, FederationList, ListEntry};

    const NOW: Millis = 1_700_000_000_000;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(server_name!("p.test").to_owned(), "1", &[seed; 32]).expect("any seed makes a key")
    }

    fn pins(seed: u8) -> BTreeMap<String, String> {
        let public: Base64 = Base64::new(key(seed).public_key().to_vec());
        [("ed25519:1".to_owned(), public.encode())].into()
    }

    fn list(version: i64, level: TrustLevel, issued_at: Millis, expires_at: Millis) -> FederationList {
        let entry = ListEntry { level, keys: BTreeMap::new(), contact: String::new(), expires_at: None };
        let entries = Entries::from([(server_name!("b.test").to_owned(), entry)]);
        FederationList::new(server_name!("p.test").to_owned(), version, issued_at, expires_at, entries)
    }

    fn signed(list: &FederationList, seed: u8) -> SignedList {
        SignedList::of(list.sign(&key(seed)).expect("it can be signed")).expect("it is a list")
    }

    #[test]
    fn each_lie_is_called_by_its_name() {
        let taken = signed(&list(5, TrustLevel::Limited, NOW - 10, NOW + 1_000), 1);
        let pins = pins(1);
        let publisher = server_name!("p.test");
        let known = Known { publisher, pins: &pins, version: 5, digest: &taken.digest };
        let judged = |list: &FederationList, seed| judge(&known, &signed(list, seed), NOW);
        let code = |list: &FederationList, seed| judged(list, seed).map_err(|fault| fault.code());
        assert_eq!(judge(&known, &taken, NOW), Ok(Verdict::Same));
        assert_eq!(judged(&list(6, TrustLevel::Full, NOW, NOW + 1), 1), Ok(Verdict::Newer));
        assert_eq!(code(&list(6, TrustLevel::Full, NOW, NOW + 1), 2), Err("list_wrong_key"));
        assert_eq!(code(&list(4, TrustLevel::Full, NOW, NOW + 1), 1), Err("list_rollback"));
        // Who can't sign is told no version.
        assert_eq!(code(&list(4, TrustLevel::Full, NOW, NOW + 1), 2), Err("list_wrong_key"));
        assert_eq!(code(&list(5, TrustLevel::Full, NOW - 10, NOW + 1_000), 1), Err("list_equivocation"));
        assert_eq!(code(&list(6, TrustLevel::Full, NOW - 2, NOW), 1), Err("list_expired"));
        assert_eq!(code(&list(6, TrustLevel::Full, NOW + SKEW + 1, NOW + 2 * SKEW), 1), Err("list_from_future"));
        let mut other = list(6, TrustLevel::Full, NOW, NOW + 1);
        other.publisher = server_name!("q.test").to_owned();
        assert_eq!(code(&other, 1), Err("list_wrong_publisher"));
        // What was taken once is refused when it is out of date.
        assert_eq!(judge(&known, &taken, NOW + 1_000).map_err(|fault| fault.code()), Err("list_expired"));
    }

    proptest! {
        #[test]
        fn no_sequence_of_answers_ever_goes_back(
            answers in prop::collection::vec((1_i64..6, 0_usize..4, 1_u8..3, -5_i64..50), 1..40),
        ) {
            let pins = pins(1);
            let (mut version, mut digest) = (0, String::new());
            for (at, (told, level, seed, left)) in answers.into_iter().enumerate() {
                let now = NOW + i64::try_from(at).expect("it is small");
                let told = signed(&list(told, TrustLevel::ALL[level], NOW - 10, now + left), seed);
                let known = Known { publisher: server_name!("p.test"), pins: &pins, version, digest: &digest };
                match judge(&known, &told, now) {
                    Ok(Verdict::Newer) => {
                        prop_assert!(told.list.version > version && seed == 1 && left > 0);
                        (version, digest) = (told.list.version, told.digest);
                    }
                    Ok(Verdict::Same) => prop_assert!(told.digest == digest && told.list.version == version),
                    Err(_) => {}
                }
            }
        }
    }
}
