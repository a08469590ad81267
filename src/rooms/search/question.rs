//! What is looked for, and how well a text answers it.

use store::search::Term;

use super::{
    SearchError,
    terms::{Unit, cut, terms_for},
};

/// A longer question is refused, in letters.
const LONGEST: usize = 500;
/// And so is one of more pieces.
const MOST_UNITS: usize = 40;
/// The last word may go on if it has so many letters.
const OPEN_FROM: usize = 2;
/// A rank is told in so many parts.
const RANKS: f64 = 1_000_000.0;
/// A text of so many pieces is neither short nor long.
const USUAL_LENGTH: f64 = 20.0;

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Question {
    units: Vec<Unit>,
    /// The last word may go on: whoever asks may still be typing.
    is_open: bool,
}

/// How well a text answers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Match {
    /// Higher is better; 0 to [`RANKS`]. It follows from the text and the question alone, so it is the same on every page.
    pub(super) rank: u32,
    /// The words of the text that were meant, folded.
    pub(super) words: Vec<String>,
}

impl Question {
    pub(super) fn of(text: &str) -> Result<Self, SearchError> {
        if text.chars().count() > LONGEST {
            return Err(SearchError::Invalid(format!("what is looked for may have {LONGEST} letters")));
        }
        let units = cut(text);
        if units.len() > MOST_UNITS {
            return Err(SearchError::Invalid(format!("what is looked for may have {MOST_UNITS} words")));
        }
        let is_open = match units.last() {
            Some(Unit::Word(word)) => word.chars().count() >= OPEN_FROM && text.ends_with(char::is_alphanumeric),
            _ => false,
        };
        Ok(Self { units, is_open })
    }

    /// Nothing can be found by it.
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    pub(super) fn terms(&self) -> Vec<Term> {
        terms_for(&self.units, self.is_open)
    }

    /// Whether a text has all that is looked for: the index knows pairs of letters, and not how they follow each other.
    pub(super) fn answered_by(&self, text: &str) -> Option<Match> {
        let units = cut(text);
        let (mut words, mut frequency) = (Vec::new(), 0.0);
        for (at, wanted) in self.units.iter().enumerate() {
            let is_open = self.is_open && at + 1 == self.units.len();
            let mut found = 0.0;
            for unit in &units {
                match (wanted, unit) {
                    (Unit::Word(wanted), Unit::Word(word)) if word == wanted => {
                        found += 1.0;
                        add(&mut words, word);
                    }
                    (Unit::Word(wanted), Unit::Word(word)) if is_open && word.starts_with(wanted.as_str()) => {
                        found += 0.5;
                        add(&mut words, word);
                    }
                    (Unit::Dense(wanted), Unit::Dense(run)) => {
                        let times = run.matches(wanted.as_str()).count();
                        if times > 0 {
                            found += times as f64;
                            add(&mut words, wanted);
                        }
                    }
                    _ => {}
                }
            }
            if found == 0.0 {
                return None;
            }
            frequency += found;
        }
        // As BM25 weighs a term in a text; how rare it is elsewhere isn't asked.
        let length = 0.25 + 0.75 * units.len() as f64 / USUAL_LENGTH;
        let rank = frequency / (frequency + 1.2 * length * self.units.len() as f64);
        Some(Match { rank: (rank * RANKS) as u32, words })
    }
}

fn add(words: &mut Vec<String>, word: &str) {
    if !words.iter().any(|known| known == word) {
        words.push(word.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::terms::terms_of, *};

    /// Whether the index would give the text for the question, and the text answers it.
    fn finds(question: &str, text: &str) -> bool {
        let question = Question::of(question).expect("it is short");
        let terms = terms_of(&cut(text));
        let is_indexed = question.terms().iter().all(|wanted| match wanted {
            Term::Exact(wanted) => terms.contains(wanted),
            Term::Prefix(wanted) => terms.iter().any(|term| term.starts_with(wanted.as_str())),
        });
        is_indexed && question.answered_by(text).is_some()
    }

    #[test]
    fn questions_find_what_people_mean_by_them() {
        for (question, text) in [
            ("WORLD hello", "Hello, world!"),
            ("wor", "hello world"),
            ("北京", "我爱北京天安门"),
            ("京", "我爱北京"),
            ("东京 热", "东京很热"),
            ("タワー", "東京ﾀﾜｰに"),
            ("세요", "안녕하세요"),
            ("iphone照片", "用iPhone拍的照片"),
            ("👍", "好👍🏿"),
            ("don’t", "I don't"),
            ("homme", "l'homme"),
        ] {
            assert!(finds(question, text), "{question}: {text}");
        }
        for (question, text) in [
            ("world peace", "hello world"),
            ("orld", "hello world"),
            ("wor ", "hello world"),
            ("东京都", "京都在东京旁边"),
            ("京北", "北京"),
            ("h", "hello"),
        ] {
            assert!(!finds(question, text), "{question}: {text}");
        }
        assert!(Question::of("… !").expect("it is short").is_empty());
        assert!(Question::of(&"字".repeat(501)).is_err() && Question::of(&"a ".repeat(41)).is_err());
    }

    #[test]
    fn a_short_text_with_the_very_word_ranks_first() {
        let question = Question::of("tea").expect("it is short");
        let rank = |text: &str| question.answered_by(text).map(|found| found.rank);
        let long = format!("tea {}", "and more ".repeat(50));
        assert!(
            rank("tea") > rank("teapot") && rank("tea tea now") > rank("tea now then") && rank("tea") > rank(&long)
        );
        assert_eq!(question.answered_by("a teapot, TEA").expect("it is there").words, ["teapot", "tea"]);
    }

    proptest! {
        #[test]
        fn two_letters_or_more_of_a_dense_text_find_it(
            text in "[\u{4e00}-\u{9fa5}\u{3041}-\u{3096}\u{30a1}-\u{30f6}\u{ac00}-\u{d7a3} 。a-z]{2,30}",
            (from, length) in (0..30usize, 1..30usize),
        ) {
            let letters: Vec<char> = text.chars().collect();
            let part: String = letters.iter().skip(from % letters.len()).take(length).collect();
            let dense = |c: &char| !c.is_ascii() && *c != '。';
            // Words are found whole, or by their beginning: a part of a text is cut where its dense letters are.
            let part: String = part.split(|c: char| c.is_ascii_lowercase()).max_by_key(|part| part.len()).unwrap_or_default().into();
            prop_assume!(part.chars().filter(dense).count() >= 1);
            prop_assert!(finds(&part, &text), "{part}: {text}");
        }

        #[test]
        fn anything_can_be_cut_and_looked_for(text in any::<String>()) {
            for term in terms_of(&cut(&text)) {
                prop_assert!(!term.is_empty() && !term.contains(|c: char| c.is_whitespace() || c.is_ascii_punctuation() || c == '\0'));
            }
            if let Ok(question) = Question::of(&text) && !question.is_empty() {
                prop_assert!(finds(&text, &text));
            }
        }
    }
}
