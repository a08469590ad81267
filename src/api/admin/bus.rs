//! The broker, and the links with those of peers.

use federation::LineStatus;
use peers::{
    Links, LinksError,
    links::{BusStatus, way_of},
    trust::Author,
};
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::staff::{Admin, Viewer};
use crate::{
    Problem, Services,
    native::{Answer, Call, Endpoint, Nothing, delete, get, post, put},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/bus", "The broker, and how the links with those of peers are, both ways.", bus),
        put("/api/v1/admin/bus/links/{server}", "Says how this server logs in at a peer's broker.", set).explained(
            "For a peer that does not say so by itself. It has an exchange `fed.in.US`, to which a shovel publishes, and \
             `fed.out.US`, from which an upstream fetches. In force on every node within seconds. No answer ever holds it.",
        ),
        delete("/api/v1/admin/bus/links/{server}", "Has the peer asked again how this server logs in there.", unset),
        post("/api/v1/admin/bus/links/{server}/rotate", "Gives a peer another password at this server's broker.", rotate)
            .explained("Its connections end; it asks for the new password by itself."),
    ]
}

/// The broker, and every link.
#[derive(Serialize, ToSchema)]
struct Bus {
    /// Whether this server manages its broker.
    managed: bool,
    /// How it is, if so.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    status: Option<BusStatus>,
    /// The lines over the broker to peers whose transport is `auto` or `amqp`, as this node has them: how each is, and the way
    /// that transactions to the peer go at present.
    #[schema(value_type = Vec<Object>)]
    lines: Vec<LineStatus>,
}

/// How this server logs in at a peer's broker.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// `amqps://USER:PASSWORD@HOST/VHOST`, and whatever else RabbitMQ takes in it.
    uri: String,
    /// `upstream` or `shovel`; left out: as configured.
    #[serde(default)]
    link: Option<String>,
    /// Why: for other admins, and for the log.
    reason: String,
}

/// Why something is done.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Why {
    /// For other admins, and for the log.
    reason: String,
}

/// Why something is done, in a query.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Because {
    /// For other admins, and for the log.
    reason: String,
}

async fn bus(call: Call<Viewer>) -> Answer<Bus> {
    let status = match &call.services.links {
        Some(links) => Some(links.status().await?),
        None => None,
    };
    Ok(Bus { managed: status.is_some(), status, lines: call.services.carrier.status() })
}

async fn set(call: Call<Admin, Nothing, Wish>) -> Answer<Nothing> {
    let server: OwnedServerName = call.argument("server")?;
    let Wish { uri, link, reason } = &call.body;
    let way = match link {
        Some(word) => Some(
            way_of(word).ok_or_else(|| Problem::invalid("`link` is `upstream` or `shovel`").with("field", "link"))?,
        ),
        None => None,
    };
    links(&call.services)?.set_by_hand(&server, uri, way, &author(&call.caller, reason)).await?;
    Ok(Nothing)
}

async fn unset(call: Call<Admin, Because>) -> Answer<Nothing> {
    let server: OwnedServerName = call.argument("server")?;
    links(&call.services)?.unset_by_hand(&server, &author(&call.caller, &call.query.reason)).await?;
    Ok(Nothing)
}

async fn rotate(call: Call<Admin, Nothing, Why>) -> Answer<Nothing> {
    let server: OwnedServerName = call.argument("server")?;
    links(&call.services)?.rotate(&server, &author(&call.caller, &call.body.reason)).await?;
    Ok(Nothing)
}

fn links(services: &Services) -> Result<&Links, LinksError> {
    services.links.as_ref().ok_or(LinksError::NoBroker)
}

fn author(caller: &Admin, reason: &str) -> Author {
    Author { actor: caller.session.user_id.to_string(), reason: reason.to_owned() }
}
