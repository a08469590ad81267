//! The faces: every protocol an outsider speaks.
//!
//! **Invariant.** A face authenticates, parses, calls one service and renders. It holds no SQL and decides nothing.
//!
//! **To add a Matrix endpoint:** an async function in the file of its group under `client/` or `federation/`, and
//! its name in that file's `routes`. **To add one of `/api/v1`:** see [`native`].

mod admin;
pub mod client;
mod docs;
mod endpoint;
mod error;
pub mod federation;
mod file_answer;
mod json_path;
pub mod logs;
pub mod native;
mod needs;
mod oauth;
mod operator;
mod problem;
mod router;
#[cfg(test)]
mod testing;

pub use endpoint::{Answer, Ask, Authenticate, Incoming, Route, endpoint, json_endpoint};
pub use error::Error;
pub use needs::Needs;
pub use operator::Dependency;
pub use problem::Problem;
pub use router::{ApiConfig, router};
pub use users::Session;

use std::sync::Arc;

/// What the faces stand on.
pub struct Services {
    /// How this face behaves.
    pub config: ApiConfig,
    /// For the operator's questions only; what people ask goes through a service.
    pub store: store::Store,
    /// The people of this server.
    pub users: Arc<users::Users>,
    /// Other servers.
    pub peers: peers::Peers,
    /// Where clients reach this server, if that is known.
    pub public_baseurl: Option<String>,
    /// How often they may ask.
    pub limits: Arc<users::Limits>,
    /// Rooms.
    pub rooms: rooms::Rooms,
    /// What was said in them, by its words.
    pub search: rooms::Search,
    /// Images and files.
    pub media: media::Media,
    /// What is new for somebody.
    pub sync: sync::Sync,
    /// The ways by which transactions go to other servers.
    pub carrier: ::federation::Carrier,
    /// What other servers send.
    pub inbound: ::federation::Inbound,
    /// Chat systems that don't speak Matrix.
    pub bridge: ::federation::Bridge,
    /// Addresses that are told what happens here.
    pub webhooks: integrations::Webhooks,
    /// Who is told, outside of people's clients, of what notifies them.
    pub pushers: integrations::Pushers,
    /// Words that people don't get past with.
    pub content_rules: integrations::ContentRules,
    /// The directories that full peers share.
    pub cascade: integrations::Cascade,
    /// What became of what other servers were sent.
    pub ledger: ::federation::Ledger,
    /// System events, and broadcasts.
    pub announcements: integrations::Announcements,
    /// The links with the brokers of peers, if this server manages its broker.
    pub links: Option<peers::Links>,
    /// What is set while the server runs.
    pub settings: integrations::RuntimeSettings,
    /// How much there is.
    pub statistics: integrations::Statistics,
    /// The last lines of the log.
    pub logs: Arc<logs::Logs>,
    /// What the operator is told of besides the database.
    pub dependencies: Vec<Dependency>,
    /// Writes the metrics out, if they are on.
    pub metrics: Option<Box<dyn Fn() -> String + Send + Sync>>,
}

/// The services, shared by every request.
pub type SharedServices = Arc<Services>;
