//! What is wrong with the way to another server.

use peers::Examination;
use serde::Serialize;
use utoipa::ToSchema;

use super::staff::Tender;
use crate::native::{Answer, Call, Endpoint, post};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let summary = "Takes every step of reaching a server, and names each fault with its remedy.";
    vec![post("/api/v1/admin/servers/{server}/examine", summary, examine).explained("Takes up to a minute.")]
}

/// What was found.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct Found(Examination);

async fn examine(call: Call<Tender>) -> Answer<Found> {
    let server: String = call.argument("server")?;
    Ok(Found(call.services.peers.examine(&server).await?))
}
