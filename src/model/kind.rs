//! The ways in which a request can fail, whatever protocol it came by.

/// What kind of refusal an error is. Each face turns it into its own protocol's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was sent is not well-formed or not allowed as it stands; sending it again will not help.
    Invalid,
    /// Nobody has said who they are, or their token is of no use.
    Unauthenticated,
    /// Known, but not allowed.
    Forbidden,
    /// There is no such thing, or it isn't for the asker to know.
    NotFound,
    /// It exists already, or is being changed by somebody else.
    Conflict,
    /// Larger than this server takes.
    TooLarge,
    /// Too often; later is fine.
    RateLimited,
    /// This server does not do that.
    Unsupported,
    /// Another server, which this would need, can't be reached or makes no sense.
    Unreachable,
    /// Something that this server depends on is away; later is fine.
    Unavailable,
    /// A fault of ours.
    Internal,
}

/// An error of a service, as its caller may see it.
pub trait Refusal: std::error::Error {
    /// What kind of refusal it is.
    fn kind(&self) -> Kind;

    /// The Matrix error code, where the specification has one more exact than the kind's own.
    fn errcode(&self) -> Option<&'static str> {
        None
    }

    /// What the native faces call it, where that is more exact than the kind: `wrong_audience`. It stays as it is.
    fn code(&self) -> Option<&'static str> {
        None
    }

    /// What its caller is told where the kind is one of which callers are told nothing exact: what can be done about it.
    fn remedy(&self) -> Option<String> {
        None
    }

    /// How long to wait before asking again, milliseconds.
    fn retry_after_ms(&self) -> Option<u64> {
        None
    }
}
