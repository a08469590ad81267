//! How a text is cut into what it can be found by: the one place, for what is said and for what is looked for.
//!
//! Letters are folded (NFKC, lower case), so that full width and capitals make no difference. Scripts that put spaces between
//! words are cut into words. Those that don't (Chinese, Japanese, Thai …), and Hangul, whose words grow at their ends, are
//! *dense*: every two letters that stand side by side are a term, and the last letter of a run is one too, so that each letter
//! begins some term and one alone is found by its prefix. Emoji are runs of one; what tells their colour is left out.

use std::collections::HashSet;

use store::search::Term;
use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// A longer word is found by so many of its letters.
const LONGEST_WORD: usize = 64;

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A word.
    Word(String),
    /// Letters of a script without spaces that stand side by side.
    Dense(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Part of a word.
    Letter,
    /// Of a script without spaces.
    Dense,
    /// Stands for itself.
    Symbol,
    /// Goes with what is before it.
    Mark,
    /// As if it weren't there.
    Nothing,
    /// Between words.
    Gap,
}

/// The pieces of a text, in order.
pub(super) fn cut(text: &str) -> Vec<Unit> {
    let mut units = Vec::new();
    let (mut run, mut of) = (String::new(), Class::Gap);
    // What is lower case may have to be composed again.
    for c in text.nfkc().flat_map(char::to_lowercase).nfkc() {
        match class(c) {
            Class::Nothing => {}
            Class::Mark if of != Class::Gap => run.push(c),
            class @ (Class::Letter | Class::Dense) => {
                if class != of {
                    end(&mut units, &mut run, of);
                    of = class;
                }
                run.push(c);
            }
            Class::Symbol => {
                end(&mut units, &mut run, of);
                of = Class::Gap;
                units.push(Unit::Dense(c.to_string()));
            }
            Class::Mark | Class::Gap => {
                end(&mut units, &mut run, of);
                of = Class::Gap;
            }
        }
    }
    end(&mut units, &mut run, of);
    units
}

fn end(units: &mut Vec<Unit>, run: &mut String, of: Class) {
    if run.is_empty() {
        return;
    }
    let run = std::mem::take(run);
    units.push(match of {
        Class::Dense => Unit::Dense(run),
        _ => Unit::Word(run.chars().take(LONGEST_WORD).collect()),
    });
}

/// The terms under which a text is found, once each.
pub(super) fn terms_of(units: &[Unit]) -> Vec<String> {
    let mut terms = HashSet::new();
    for unit in units {
        match unit {
            Unit::Word(word) => {
                terms.insert(word.clone());
            }
            Unit::Dense(run) => {
                terms.extend(pairs(run));
                terms.extend(run.chars().next_back().map(String::from));
            }
        }
    }
    let mut terms: Vec<String> = terms.into_iter().collect();
    terms.sort_unstable();
    terms
}

/// The terms that whatever has these pieces is found under. `is_open`: the last word may go on.
pub(super) fn terms_for(units: &[Unit], is_open: bool) -> Vec<Term> {
    let mut terms = Vec::new();
    for (at, unit) in units.iter().enumerate() {
        let more: Vec<Term> = match unit {
            Unit::Word(word) if is_open && at + 1 == units.len() => vec![Term::Prefix(word.clone())],
            Unit::Word(word) => vec![Term::Exact(word.clone())],
            Unit::Dense(run) if run.chars().nth(1).is_none() => vec![Term::Prefix(run.clone())],
            Unit::Dense(run) => pairs(run).map(Term::Exact).collect(),
        };
        terms.extend(more.into_iter().filter(|term| !terms.contains(term)).collect::<Vec<_>>());
    }
    terms
}

fn pairs(run: &str) -> impl Iterator<Item = String> {
    run.chars().zip(run.chars().skip(1)).map(|(one, next)| String::from_iter([one, next]))
}

fn class(c: char) -> Class {
    match c {
        '0'..='9' | 'a'..='z' => Class::Letter,
        '\0'..='\u{7f}' => Class::Gap,
        // Soft hyphens, joiners, and what only says how a letter looks.
        '\u{ad}' | '\u{200c}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{fe00}'..='\u{fe0f}' => Class::Nothing,
        '\u{20e3}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0000}'..='\u{e0fff}' => Class::Nothing,
        c if is_dense(c) => Class::Dense,
        c if is_symbol(c) => Class::Symbol,
        c if is_combining_mark(c) => Class::Mark,
        c if c.is_alphanumeric() => Class::Letter,
        _ => Class::Gap,
    }
}

/// Han, Kana, Bopomofo and Hangul, and the scripts of South East Asia that are written without spaces.
fn is_dense(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{0f40}'..='\u{0fbc}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17d3}'
        | '\u{1100}'..='\u{11ff}' | '\u{a960}'..='\u{a97f}' | '\u{ac00}'..='\u{d7ff}'
        | '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3031}'..='\u{3035}'
        | '\u{3038}'..='\u{303c}' | '\u{3041}'..='\u{309f}' | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{1aff0}'..='\u{1b16f}'
        | '\u{20000}'..='\u{3ffff}'
    )
}

fn is_symbol(c: char) -> bool {
    matches!(c,
        '\u{2190}'..='\u{23ff}' | '\u{25a0}'..='\u{27bf}' | '\u{2900}'..='\u{297f}' | '\u{2b00}'..='\u{2bff}'
        | '\u{1f000}'..='\u{1faff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<String> {
        let name = |unit| match unit {
            Unit::Word(word) => word,
            Unit::Dense(run) => format!("[{run}]"),
        };
        cut(text).into_iter().map(name).collect()
    }

    #[test]
    fn a_text_is_cut_as_its_scripts_are_written() {
        for (text, expected) in [
            ("Hello, World!", "hello world"),
            ("don't l’homme re-read", "don t l homme re read"),
            ("ＡＢＣ ｱｲｳ １２", "abc [アイウ] 12"),
            ("Straße CAFÉ cafe\u{301}", "straße café café"),
            ("我爱北京天安门。", "[我爱北京天安门]"),
            ("東京タワーに行きました!", "[東京タワーに行きました]"),
            ("안녕하세요 세계", "[안녕하세요] [세계]"),
            ("用iPhone拍的3张照片", "[用] iphone [拍的] 3 [张照片]"),
            ("ok 👍🏽❤\u{fe0f}👨\u{200d}👩", "ok [👍] [❤] [👨] [👩]"),
            ("สวัสดีครับ", "[สวัสดีครับ]"),
            ("हिन्दी में", "हिन्दी में"),
            ("İstanbul", "i\u{307}stanbul"),
            ("https://a.example/x_y?z=1", "https a example x y z 1"),
            (" \u{feff}…!\u{301}", ""),
        ] {
            assert_eq!(pieces(text).join(" "), expected, "{text}");
        }
        assert_eq!(cut(&"x".repeat(1000)), [Unit::Word("x".repeat(LONGEST_WORD))]);
    }

    #[test]
    fn a_run_is_found_by_pairs_and_by_each_of_its_letters() {
        let terms = terms_of(&cut("北京大学 ok ok"));
        assert_eq!(terms, ["ok", "京大", "北京", "大学", "学"]);
        for letter in "北京大学".chars() {
            let [Term::Prefix(prefix)] = &terms_for(&cut(&letter.to_string()), true)[..] else { panic!("{letter}") };
            assert!(terms.iter().any(|term| term.starts_with(prefix)), "{letter}");
        }
        assert_eq!(terms_for(&cut("大学 o"), true), [Term::Exact("大学".into()), Term::Prefix("o".into())]);
    }
}
