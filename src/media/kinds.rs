//! Which kinds of file are taken, whichever way they come.
//!
//! A file is what its bytes show it to be; where they show nothing, what it is said to be. What its sender has encrypted shows
//! nothing and is said to be `application/octet-stream`: a list of what is allowed that leaves that out allows no encrypted files.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    MediaError,
    content_type::{UNKNOWN, believed},
    sniff::{EXECUTABLE, sniff},
};

/// Kinds of file: `image/png`, `image/*`, or `executable` for whatever is a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KindPattern(String);

/// It names no kind of file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}; expected a type such as \"image/png\", \"image/*\", or \"executable\"")]
pub struct KindPatternError(String);

const PROGRAMS: &str = "executable";

impl FromStr for KindPattern {
    type Err = KindPatternError;

    fn from_str(text: &str) -> Result<Self, KindPatternError> {
        let pattern = text.trim().to_ascii_lowercase();
        let is_token = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
        };
        let is_type =
            pattern.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && (sub == "*" || is_token(sub)));
        if is_type || pattern == PROGRAMS { Ok(Self(pattern)) } else { Err(KindPatternError(text.to_owned())) }
    }
}

impl TryFrom<String> for KindPattern {
    type Error = KindPatternError;

    fn try_from(text: String) -> Result<Self, KindPatternError> {
        text.parse()
    }
}

impl From<KindPattern> for String {
    fn from(pattern: KindPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for KindPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl KindPattern {
    fn matches(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(family) => kind.starts_with(family),
            None if self.0 == PROGRAMS => EXECUTABLE.contains(&kind),
            None => self.0 == kind,
        }
    }
}

/// Which kinds of file are taken.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// Only these; empty: all that aren't denied.
    pub allowed: Vec<KindPattern>,
    /// Never these.
    pub denied: Vec<KindPattern>,
}

impl Kinds {
    /// Refuses a file by what it is said to be, before any of it has come.
    pub(crate) fn check_declared(&self, declared: &str) -> Result<(), MediaError> {
        self.check_denied(&essence(declared))
    }

    /// Refuses a file by what it is said to be, and by its first bytes.
    pub(crate) fn check(&self, declared: &str, head: &[u8]) -> Result<(), MediaError> {
        let declared = essence(declared);
        self.check_denied(&declared)?;
        let kind = sniff(&declared, head).map_or_else(|| believed(Some(&declared), head), str::to_owned);
        self.check_denied(&kind)?;
        let is_allowed = self.allowed.is_empty() || self.allowed.iter().any(|pattern| pattern.matches(&kind));
        if is_allowed { Ok(()) } else { Err(MediaError::KindNotAllowed { kind, allowed: self.shown_allowed() }) }
    }

    fn check_denied(&self, kind: &str) -> Result<(), MediaError> {
        let is_denied = self.denied.iter().any(|pattern| pattern.matches(kind));
        if is_denied {
            Err(MediaError::KindNotAllowed { kind: kind.to_owned(), allowed: self.shown_allowed() })
        } else {
            Ok(())
        }
    }

    /// What is taken, for whoever was refused.
    fn shown_allowed(&self) -> String {
        let listed = |patterns: &[KindPattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (&self.allowed[..], &self.denied[..]) {
            ([], denied) => format!("it takes all but {}", listed(denied)),
            (allowed, []) => format!("it takes {}", listed(allowed)),
            (allowed, denied) => format!("it takes {}, but not {}", listed(allowed), listed(denied)),
        }
    }
}

/// A type without its parameters, in small letters.
fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.is_empty() { UNKNOWN.to_owned() } else { essence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(allowed: &[&str], denied: &[&str]) -> Kinds {
        let read = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a pattern")).collect();
        Kinds { allowed: read(allowed), denied: read(denied) }
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
    const ELF: &[u8] = b"\x7fELF\x02\x01\x01";

    #[test]
    fn what_is_no_type_is_no_pattern() {
        for pattern in ["image/*", "image/svg+xml", " Application/X-MSDownload ", "executable"] {
            assert!(pattern.parse::<KindPattern>().is_ok(), "{pattern}");
        }
        for nonsense in ["", "image", "*/*", "*", "image/", "/png", "image/p*", "a/b/c", "exe cutable"] {
            assert!(nonsense.parse::<KindPattern>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn what_is_denied_is_denied_by_its_name_and_by_its_bytes() {
        let kinds = kinds(&[], &["executable", "text/html"]);
        assert!(kinds.check("image/png", PNG).is_ok());
        assert!(kinds.check("application/octet-stream", b"anything").is_ok());
        assert!(kinds.check("image/png", ELF).is_err());
        assert!(kinds.check("application/x-dosexec", b"anything").is_err());
        assert!(kinds.check("Text/HTML; charset=utf-8", b"anything").is_err());
        assert!(kinds.check("text/plain", b"<!doctype html>").is_err());
        assert!(kinds.check_declared("text/html;x=y").is_err());
        assert!(kinds.check_declared("text/plain").is_ok());
    }

    #[test]
    fn what_is_allowed_must_be_that_by_its_bytes_where_they_tell() {
        let kinds = kinds(&["image/*", "text/plain"], &["image/gif"]);
        assert!(kinds.check("image/png", PNG).is_ok());
        assert!(kinds.check("application/octet-stream", PNG).is_ok(), "its bytes tell");
        assert!(kinds.check("text/plain; charset=utf-8", b"hello").is_ok());
        let refused = kinds.check("image/png", b"no picture").expect_err("its bytes tell").to_string();
        assert!(
            refused.contains("application/octet-stream") && refused.contains("image/*, text/plain, but not image/gif"),
            "{refused}"
        );
        assert!(kinds.check("text/plain", ELF).is_err());
        assert!(kinds.check("image/png", b"GIF89a").is_err());
        assert!(kinds.check("application/octet-stream", b"encrypted").is_err());
    }
}
