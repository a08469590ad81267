//! Finding words in what people write, however they write them.
//!
//! Letters count in either case and in full width; what can't be seen between them doesn't count. A word that begins or ends with a
//! Latin letter or a digit is found only where that is where a word begins or ends; those of scripts that put no spaces between
//! words are found anywhere.

use std::ops::Range;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};

/// Finds many words at once.
pub(super) struct Matcher {
    automaton: AhoCorasick,
    /// Whose each word is, in the order of the words.
    owners: Vec<usize>,
}

/// A word that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where, in bytes of the text.
    pub(super) at: Range<usize>,
    /// Whose it is.
    pub(super) owner: usize,
}

impl Matcher {
    /// `words`: with a number that tells whose each of them is.
    pub(super) fn new<'a>(words: impl Iterator<Item = (usize, &'a str)>) -> Result<Self, BuildError> {
        let folded = words.map(|(owner, word)| (owner, Folded::new(word).text)).filter(|(_, word)| !word.is_empty());
        let (owners, words): (Vec<usize>, Vec<String>) = folded.unzip();
        let automaton = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&words)?;
        Ok(Self { automaton, owners })
    }

    /// Every word in `text`, by where it ends; they may overlap.
    pub(super) fn find(&self, text: &str) -> Vec<Found> {
        let folded = Folded::new(text);
        let found = self.automaton.find_overlapping_iter(&folded.text).filter(|found| folded.is_word(found.range()));
        found
            .map(|found| Found { at: folded.original(found.range()), owner: self.owners[found.pattern().as_usize()] })
            .collect()
    }
}

/// Whether anything of a word would be looked for.
pub(super) fn has_letters(word: &str) -> bool {
    !Folded::new(word).text.trim().is_empty()
}

/// A text as it is compared.
struct Folded {
    text: String,
    /// For each of its bytes: where in the original the letter begins that it comes from, and where that ends.
    origins: Vec<(usize, usize)>,
}

impl Folded {
    fn new(original: &str) -> Self {
        let mut folded = Self { text: String::with_capacity(original.len()), origins: Vec::new() };
        for (begin, letter) in original.char_indices() {
            if is_invisible(letter) {
                continue;
            }
            for small in in_half_width(letter).to_lowercase() {
                folded.text.push(small);
                folded.origins.resize(folded.text.len(), (begin, begin + letter.len_utf8()));
            }
        }
        folded
    }

    fn is_word(&self, at: Range<usize>) -> bool {
        let is_latin = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        let (before, word, after) = (&self.text[..at.start], &self.text[at.clone()], &self.text[at.end..]);
        let is_inside = |one: Option<char>, other: Option<char>| is_latin(one) && is_latin(other);
        !is_inside(before.chars().next_back(), word.chars().next())
            && !is_inside(word.chars().next_back(), after.chars().next())
    }

    fn original(&self, at: Range<usize>) -> Range<usize> {
        let begin = self.origins.get(at.start).map_or(0, |(begin, _)| *begin);
        let end = at.end.checked_sub(1).and_then(|last| self.origins.get(last)).map_or(begin, |(_, end)| *end);
        begin..end
    }
}

fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

fn in_half_width(letter: char) -> char {
    match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter),
        '\u{3000}' => ' ',
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[&'static str]) -> Matcher {
        Matcher::new(words.iter().copied().map(|word| (0, word))).expect("few words")
    }

    fn found(matcher: &Matcher, text: &str) -> Vec<String> {
        matcher.find(text).into_iter().map(|found| text[found.at].to_owned()).collect()
    }

    #[test]
    fn a_word_is_found_however_it_is_written() {
        let matcher = words(&["ass", "坏话", "straße"]);
        assert_eq!(found(&matcher, "You ASS!"), ["ASS"]);
        assert_eq!(found(&matcher, "class, assess, bass; a ass"), ["ass"]);
        assert_eq!(found(&matcher, "Ａｓｓ"), ["Ａｓｓ"]);
        assert_eq!(found(&matcher, "a\u{200b}s\u{200d}s"), ["a\u{200b}s\u{200d}s"]);
        assert_eq!(found(&matcher, "他说坏话了"), ["坏话"]);
        assert_eq!(found(&matcher, "STRAßE"), ["STRAßE"]);
        assert_eq!(found(&matcher, "nothing"), [""; 0]);
        // A Latin word between others that put no spaces.
        assert_eq!(found(&matcher, "他ass了"), ["ass"]);
    }

    #[test]
    fn words_within_words_are_found_too() {
        let matcher = words(&["red", "red hat"]);
        assert_eq!(found(&matcher, "a red hat"), ["red", "red hat"]);
        assert!(!has_letters("\u{200b} "));
    }

    proptest! {
        #[test]
        fn whatever_is_found_is_a_part_of_the_text(text in ".{0,60}", word in ".{1,4}") {
            let matcher = Matcher::new(std::iter::once((0, word.as_str()))).expect("one word");
            for found in matcher.find(&text) {
                prop_assert!(text.get(found.at).is_some());
            }
        }
    }
}
