//! How clients name a moment: `s<position>` between two syncs, `t<position>` between two events of a timeline.

use std::{fmt, str::FromStr};

use model::Position;

use crate::sliding::SlidingToken;

/// `next_batch` and `since`: everything up to here has been told.
///
/// `s17`, or `s17~9` when messages to the device after position 9 are still to be told, because they are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// Everything up to here has been told,
    pub position: Position,
    /// but of the messages to the device, only those up to here.
    pub to_device: Option<Position>,
}

/// `prev_batch` and `from`: between two events of a room's timeline. Events at or before the position lie before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineToken(pub Position);

impl SyncToken {
    /// Up to where messages to the device have been told.
    pub fn to_device(&self) -> Position {
        self.to_device.unwrap_or(self.position)
    }
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_device {
            None => write!(f, "s{}", self.position),
            Some(to_device) => write!(f, "s{}~{to_device}", self.position),
        }
    }
}

impl fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// It is not a token of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this server")]
pub struct NotAToken;

impl FromStr for SyncToken {
    type Err = NotAToken;

    fn from_str(token: &str) -> Result<Self, NotAToken> {
        let numbers = token.strip_prefix('s').ok_or(NotAToken)?;
        let (position, to_device) = match numbers.split_once('~') {
            Some((position, to_device)) => (position, Some(number(to_device)?)),
            None => (numbers, None),
        };
        let position = number(position)?;
        let is_told = position.0 >= 0 && to_device.is_none_or(|to_device| (0..position.0).contains(&to_device.0));
        if is_told { Ok(Self { position, to_device }) } else { Err(NotAToken) }
    }
}

impl FromStr for TimelineToken {
    type Err = NotAToken;

    /// A token of a sync, or of a sliding one, names a place in a timeline, too.
    fn from_str(token: &str) -> Result<Self, NotAToken> {
        match token.as_bytes().first() {
            Some(b't') => number(&token[1..]).map(Self),
            Some(b'p') => token.parse::<SlidingToken>().map(|token| Self(token.position)),
            _ => token.parse::<SyncToken>().map(|token| Self(token.position)),
        }
    }
}

/// Only as we write numbers: no `+`, no leading zeros.
fn number(text: &str) -> Result<Position, NotAToken> {
    let number: i64 = text.parse().map_err(|_| NotAToken)?;
    if number.to_string() == text { Ok(Position(number)) } else { Err(NotAToken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_written() {
        for token in ["s0", "s17", "s17~9"] {
            assert_eq!(token.parse::<SyncToken>().map(|token| token.to_string()).as_deref(), Ok(token));
        }
        for token in ["t17", "t-4"] {
            assert_eq!(token.parse::<TimelineToken>().map(|token| token.to_string()).as_deref(), Ok(token));
        }
        assert_eq!("s5".parse(), Ok(TimelineToken(Position(5))));
        assert_eq!("p5~2".parse(), Ok(TimelineToken(Position(5))));
    }

    #[test]
    fn what_we_never_wrote_is_no_token() {
        for token in ["", "s", "17", "s-1", "s+1", "s01", "s1~", "s1~2", "s5~-1", "sx", "s99999999999999999999", "t1"] {
            assert_eq!(token.parse::<SyncToken>(), Err(NotAToken), "{token}");
        }
        assert_eq!("t".parse::<TimelineToken>(), Err(NotAToken));
    }
}
