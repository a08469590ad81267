//! The fingerprint of a server's keys, in words that two people can compare by phone.

use std::collections::BTreeMap;

use bip39::Language;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};
use sha2::{Digest as _, Sha256};

/// How many words: 88 bits, more than anybody can try out for a key of their own.
const WORDS: u32 = 8;
/// What one word says, in bits.
const BITS: u32 = 11;

/// The fingerprint of the keys that a server signs with, by their ids, base64.
///
/// Eight words of the English list of BIP 39, no two of which begin alike: the first 88 bits of the SHA-256 of the canonical JSON
/// `{"keys": {…}, "server_name": "…"}`.
pub fn words_of(server: &ServerName, keys: &BTreeMap<String, String>) -> Vec<&'static str> {
    let listed: CanonicalJsonObject = keys.iter().map(|(id, key)| (id.clone(), key.as_str().into())).collect();
    let object = CanonicalJsonObject::from([
        ("keys".to_owned(), CanonicalJsonValue::Object(listed)),
        ("server_name".to_owned(), server.as_str().into()),
    ]);
    let hash = Sha256::digest(CanonicalJsonValue::Object(object).to_string());
    let front = hash.iter().take(16).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let list = Language::English.word_list();
    let number = |place: u32| front >> (u128::BITS - BITS * (place + 1)) & ((1 << BITS) - 1);
    (0..WORDS).map(|place| list[number(place) as usize]).collect()
}

/// Whether somebody has said these words: capitals, and what stands between them, don't matter.
pub(crate) fn are_said(words: &[&str], said: &str) -> bool {
    let said = said.split(|letter: char| !letter.is_alphabetic()).filter(|word| !word.is_empty());
    said.map(str::to_lowercase).eq(words.iter().copied())
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn keys(key: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("ed25519:1".to_owned(), key.to_owned())])
    }

    #[test]
    fn words_are_those_of_the_keys_and_of_the_server() {
        let words = words_of(server_name!("a.test"), &keys("one"));
        assert_eq!(words, words_of(server_name!("a.test"), &keys("one")));
        assert_eq!(words.len(), 8);
        assert_ne!(words, words_of(server_name!("b.test"), &keys("one")));
        assert_ne!(words, words_of(server_name!("a.test"), &keys("two")));
        assert_ne!(words, words_of(server_name!("a.test"), &BTreeMap::from([("ed25519:2".into(), "one".into())])));
    }

    /// Whoever compares them has them on paper: they stay as they are.
    #[test]
    fn words_do_not_change_from_one_version_to_the_next() {
        let words = words_of(server_name!("a.example"), &keys("Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"));
        assert_eq!(words.join(" "), "board valley market solar where hedgehog once job");
    }

    #[test]
    fn words_may_be_said_in_any_case_and_with_anything_between() {
        let words = ["abandon", "zoo"];
        for said in ["abandon zoo", " Abandon,  ZOO.", "abandon-zoo", "abandon\nzoo"] {
            assert!(are_said(&words, said), "{said}");
        }
        for said in ["", "abandon", "zoo abandon", "abandon zoo zoo", "abandonzoo"] {
            assert!(!are_said(&words, said), "{said}");
        }
    }
}
