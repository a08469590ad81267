//! Requests signed by the server that makes them.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

mod error;
mod header;
mod sign;
mod verify;

pub use error::AuthError;
pub use header::Claim;
pub(crate) use header::decode_signature;
pub(crate) use sign::sign;
