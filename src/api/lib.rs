//! The faces: every protocol an outsider speaks.
//!
//! **Invariant.** A face authenticates, parses, calls one service and renders. It holds no SQL and decides nothing.
//!
//! **To add a Matrix endpoint:** an async function in the file of its group under `client/`, and its name in that
//! file's `routes`.

pub mod client;
mod endpoint;
mod error;
mod json_path;
mod router;

pub use endpoint::{Answer, Ask, Authenticate, Route, endpoint};
pub use error::Error;
pub use router::{ApiConfig, router};

use std::sync::Arc;

/// What the faces stand on.
pub struct Services {
    /// How this face behaves.
    pub config: ApiConfig,
}

/// The services, shared by every request.
pub type SharedServices = Arc<Services>;
