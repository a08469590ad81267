//! `/api/v1/realtime`: one WebSocket on which a client hears of everything as it happens, and says what it has to say.
//!
//! What is pushed is a [`sync::feed`]; here it becomes frames. Each frame is a JSON object with a `type`. What happened also has a
//! `position`: a client that lost its connection comes back with `?resume=` the last one it has, and is told the rest, each thing
//! once. docs/realtime.md has all frames and all codes by which a connection is closed.

mod close;
mod command;
mod frame;
mod knock;
mod line;
mod pace;
mod socket;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use model::Millis;
use serde::{Deserialize, Serialize};
use users::TICKET_LIFETIME;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{path::OperationBuilder, response::ResponseBuilder},
};

use super::{Answer, Call, Endpoint, Reply, Unkept, get, payload::Schemas, post};
use crate::Session;
use knock::Knock;
use socket::Opened;

/// What is read from a connection at once, and written to it; a frame that is longer needs as much for as long as it is on its way.
const READ_BUFFER: usize = 2 << 10;
const WRITE_BUFFER: usize = 4 << 10;

/// How connections behave.
#[derive(Clone, Debug)]
pub struct RealtimeConfig {
    /// How often the client has to show that it is there.
    pub heartbeat: Duration,
    /// How long a client may take nothing, or acknowledge nothing when it has as much as it gets unacknowledged.
    pub stall: Duration,
    /// How many frames it gets unacknowledged.
    pub window: usize,
    /// The largest frame that is taken from it, in bytes.
    pub max_frame: usize,
    /// Between two frames that it sends, in the long run.
    pub frame_period: Duration,
    /// How many frames it may send at once after a rest.
    pub frames_at_once: u32,
    /// How many events it may have missed and be told of one by one.
    pub most_missed: usize,
}

impl Default for RealtimeConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            window: 256,
            max_frame: 96 << 10,
            frame_period: Duration::from_millis(50),
            frames_at_once: 100,
            most_missed: 1_000,
        }
    }
}

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        post("/api/v1/realtime/tickets", "A ticket that opens one WebSocket.", ticket).explained(
            "For clients that can't send an `Authorization` header with a WebSocket, as in browsers. It is good once, for 30 \
             seconds, at any node.",
        ),
        get("/api/v1/realtime", "A WebSocket on which everything is told as it happens.", open).explained(
            "The frames are described in docs/realtime.md. Who may not open one is answered before the upgrade.",
        ),
    ]
}

/// What opens one WebSocket.
#[derive(Serialize, ToSchema)]
#[schema(as = RealtimeTicket)]
struct Ticket {
    /// For `?ticket=`.
    ticket: String,
    /// Until when it is good, milliseconds since 1970.
    expires_at: Millis,
    /// For how long that is.
    expires_in_ms: u64,
}

async fn ticket(call: Call<Session>) -> Answer<Unkept<Ticket>> {
    let (ticket, expires_at) = call.services.users.issue_ticket(&call.caller);
    let expires_in_ms = u64::try_from(TICKET_LIFETIME.as_millis()).unwrap_or(u64::MAX);
    Ok(Unkept(Ticket { ticket, expires_at, expires_in_ms }))
}

/// How a WebSocket is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Opening {
    /// A ticket, instead of an access token in the header.
    #[serde(default, rename = "ticket")]
    _ticket: Option<String>,
    /// The position of the last frame that the client has. Left out: it is told what happens from now on.
    #[serde(default)]
    resume: Option<String>,
}

async fn open(call: Call<Knock, Opening>) -> Answer<Upgrading> {
    let (Knock { session, upgrade }, services) = (call.caller, call.services);
    let connections = services.sync.connections();
    let connection = connections.enter(&session.user_id, session.device_id.as_str(), "websocket", call.address)?;
    let most = services.config.realtime.max_frame;
    let opened = Opened { session, connection, services, address: call.address, resume: call.query.resume };
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(most)
        .max_frame_size(most);
    Ok(Upgrading(upgrade.on_upgrade(move |web| socket::serve(web, opened))))
}

/// 101.
struct Upgrading(Response);

impl Reply for Upgrading {
    fn into_response(self) -> Response {
        self.0
    }

    fn describe(operation: OperationBuilder, _: &mut Schemas) -> OperationBuilder {
        let status = StatusCode::SWITCHING_PROTOCOLS.as_str();
        operation.response(status, ResponseBuilder::new().description("From here on it is a WebSocket."))
    }
}
