//! Why the directory was not changed.

use model::{Kind, Refusal};

use super::MAX_TEXT;

/// Why the directory was not changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is no such account here, or it is closed.
    #[error("there is no such user")]
    NoUser,
    /// The user has no such phone.
    #[error("the user has no phone of this number")]
    NoPhone,
    /// There is no such unit.
    #[error("there is no unit `{0}`")]
    NoUnit(String),
    /// People don't set their phones themselves here.
    #[error("on this server admins set phones")]
    NotYours,
    /// The number can't be one.
    #[error("`{0}` is no number: it has 1 to 32 of the digits, * and #, and perhaps a + before them")]
    Number(String),
    /// The address can't be one.
    #[error("`{0}` is no SIP address: it is of the form sip:1001@sip.a.example or sips:1001@sip.a.example")]
    Uri(String),
    /// The kind is none.
    #[error("`{0}` is no kind of phone: it is one of desk, softphone, mobile, conference, fax, other")]
    Kind(String),
    /// A text is too long, empty, or more than a line.
    #[error("`{0}` is a line of 1 to {MAX_TEXT} characters")]
    Text(&'static str),
    /// The id of a unit can't be one.
    #[error("`{0}` is no id of a unit: it has 1 to 64 small letters, digits, and . _ -")]
    UnitId(String),
    /// The user has as many phones as one may have.
    #[error("a user has {0} phones at most")]
    TooManyPhones(usize),
    /// There are as many units as there may be.
    #[error("there are {0} units at most")]
    TooManyUnits(u32),
    /// A unit would be a part of itself.
    #[error("`{0}` would be a part of itself")]
    Circle(String),
    /// Somebody is in the unit, or another unit is a part of it.
    #[error("people, or other units, are in `{0}`")]
    InUse(String),
    /// The store failed.
    #[error("the directory could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for DirectoryError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoUser | Self::NoPhone | Self::NoUnit(_) => Kind::NotFound,
            Self::NotYours => Kind::Forbidden,
            Self::InUse(_) | Self::TooManyPhones(_) | Self::TooManyUnits(_) => Kind::Conflict,
            Self::Number(_) | Self::Uri(_) | Self::Kind(_) | Self::Text(_) | Self::UnitId(_) | Self::Circle(_) => {
                Kind::Invalid
            }
            Self::Store(error) => error.kind(),
        }
    }
}
