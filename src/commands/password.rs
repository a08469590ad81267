//! Where a new password comes from: a pipe, a person at a terminal, or chance.

use std::io::{self, BufRead, IsTerminal as _};

use rand::RngExt as _;

use crate::config::Secret;

/// A password for an account, and whether it has still to be told to somebody.
#[derive(Debug)]
pub enum Password {
    /// Somebody typed or piped it.
    Given(Secret),
    /// It was made up, and nobody knows it yet.
    Generated(Secret),
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("standard input has no password: its first line is empty")]
    Empty,
    #[error("the two passwords differ")]
    Differ,
    #[error("the password could not be read")]
    Read(#[from] io::Error),
}

impl Password {
    /// Reads the first line of standard input if told so; else asks, if somebody is at the terminal; else makes one up.
    pub fn obtain(from_stdin: bool) -> Result<Self, PasswordError> {
        if from_stdin {
            return read_line(&mut io::stdin().lock()).map(Self::Given);
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Ok(Self::Generated(generate()));
        }
        let first = Secret::from(rpassword::prompt_password("Password (empty: make one up): ")?);
        if first.expose().is_empty() {
            return Ok(Self::Generated(generate()));
        }
        let again = Secret::from(rpassword::prompt_password("Again: ")?);
        if first == again { Ok(Self::Given(first)) } else { Err(PasswordError::Differ) }
    }

    /// The password itself.
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Given(password) | Self::Generated(password) => password,
        }
    }
}

/// The first line of standard input.
pub fn from_stdin() -> Result<Secret, PasswordError> {
    read_line(&mut io::stdin().lock())
}

/// The first line without its end. Blanks belong to the password.
fn read_line(input: &mut impl BufRead) -> Result<Secret, PasswordError> {
    let mut line = zeroize::Zeroizing::new(String::new());
    input.read_line(&mut line)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() { Err(PasswordError::Empty) } else { Ok(line.to_owned().into()) }
}

/// 20 signs that can't be mistaken for one another: 112 bits of chance.
fn generate() -> Secret {
    const SIGNS: &[u8] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut rng = rand::rng();
    (0..20).map(|_| char::from(SIGNS[rng.random_range(..SIGNS.len())])).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piped_password_is_the_first_line_with_its_blanks() {
        let read = |text: &str| read_line(&mut text.as_bytes()).map(|password| password.expose().to_owned()).ok();
        assert_eq!(read("correct horse \nbattery\n").as_deref(), Some("correct horse "));
        assert_eq!(read("no newline").as_deref(), Some("no newline"));
        assert_eq!(read("windows\r\n").as_deref(), Some("windows"));
        assert_eq!(read("\n"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn made_up_passwords_are_long_and_differ() {
        let (one, other) = (generate(), generate());
        assert_eq!(one.expose().len(), 20);
        assert_ne!(one, other);
    }
}
