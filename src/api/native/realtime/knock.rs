//! Who wants to open a WebSocket: found out before it is one, so that who may not is answered like any other request.

use std::net::IpAddr;

use axum::extract::{FromRequestParts as _, WebSocketUpgrade};
use http::{StatusCode, header, request::Parts};
use serde::Deserialize;

use crate::{Incoming, Needs, Problem, Services, Session, endpoint::user_of, native::Caller};

/// Somebody who may open a WebSocket, and the connection that is to become one.
pub(super) struct Knock {
    pub(super) session: Session,
    pub(super) upgrade: WebSocketUpgrade,
}

impl Caller for Knock {
    const SCHEMES: &'static [&'static str] = &["access_token", "realtime_ticket"];
    const NEEDS: Needs = Needs::User;

    async fn authenticate(
        parts: &Parts,
        _: &mut Incoming,
        address: IpAddr,
        services: &Services,
    ) -> Result<Self, Problem> {
        let ticket = ticket_in(parts);
        let session = match &ticket {
            None => Some(user_of(parts, address, services).await?),
            Some(_) => None,
        };
        // A ticket is used up by what can become a WebSocket, and by nothing else.
        let upgrade = upgrade_of(parts).await?;
        let session = match (session, ticket) {
            (Some(session), _) => session,
            (None, ticket) => {
                let session = services.users.redeem_ticket(&ticket.unwrap_or_default()).await?;
                services.users.note_seen(&session, Some(address));
                session
            }
        };
        Ok(Self { session, upgrade })
    }
}

fn ticket_in(parts: &Parts) -> Option<String> {
    #[derive(Deserialize)]
    struct Query {
        ticket: Option<String>,
    }
    // Who shows a token needs no ticket.
    let query = parts.uri.query().filter(|_| !parts.headers.contains_key(header::AUTHORIZATION))?;
    serde_html_form::from_str::<Query>(query).ok()?.ticket
}

async fn upgrade_of(parts: &Parts) -> Result<WebSocketUpgrade, Problem> {
    WebSocketUpgrade::from_request_parts(&mut parts.clone(), &()).await.map_err(|rejection| {
        let detail = format!("this endpoint is a WebSocket: {}", rejection.body_text());
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail)
    })
}
