//! Who may use an endpoint. Each declares it, whichever face it is of, and a test asks all of them whether it is so.

use users::Role;

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Anybody. Who shows a token may be told more.
    Nobody,
    /// Who knows something that the handler asks for in the request, such as a shared secret.
    Proof,
    /// A user of this server.
    User,
    /// A user of this server with one of these roles.
    Role(&'static [Role]),
    /// An application, by a signed request.
    Application,
    /// Another server.
    Server,
}

impl Needs {
    /// The roles of which one is needed; none: no role is.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Self::Role(roles) => roles,
            Self::Nobody | Self::Proof | Self::User | Self::Application | Self::Server => &[],
        }
    }
}

#[cfg(test)]
mod tests;
