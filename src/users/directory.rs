//! What people are in the organisation, and their SIP phones: those of this server, as its admins set them, and those of full
//! peers, as their servers told.
//!
//! People of this server see all of it. Peers are told of those who let people of other servers find them, see
//! [`Users::set_listed`]; how that goes is no concern of this place.

mod cards;
mod error;
mod facts;
mod phone;
mod phones;

pub use cards::{Card, Organisation};
pub use error::DirectoryError;
pub use facts::{Facts, Unit};
pub use phone::{PhoneKind, SipPhone};
pub use phones::{FoundPhone, FoundPhones, MAX_PHONES, PhoneSearch};

use store::directory::FactsRow;

/// How the directory of this server is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectoryConfig {
    /// Whether people may set their own phones.
    pub own_phones: bool,
}

/// The longest title, department or name of a unit, in characters.
pub const MAX_TEXT: usize = 100;
/// No id of a unit is longer.
const MAX_UNIT_ID: usize = 64;

/// Whether something may be the id of a unit: small letters, digits, `.`, `_` and `-`, 64 at most.
pub fn is_unit_id(text: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    (1..=MAX_UNIT_ID).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Whether something may stand where people read it: a line of a few words.
pub fn is_text(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control)
}

impl From<FactsRow> for Facts {
    fn from(row: FactsRow) -> Self {
        let FactsRow { title, department, unit_id } = row;
        Self { title, department, unit: unit_id }
    }
}
