//! Tags of rooms.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-tagging>

use ruma::api::client::tag::{create_tag, delete_tag, get_tags};
use serde_json::{json, value::to_raw_value};

use crate::{Answer, Ask, Error, Route, endpoint, json_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![json_endpoint(get), endpoint(create), endpoint(delete)]
}

async fn get(ask: Ask<get_tags::v3::Request>) -> Answer<String> {
    super::check_is_self(&ask.session, &ask.request.user_id)?;
    let tags = ask.services.sync.tags(&ask.request.user_id, &ask.request.room_id).await?;
    Ok(json!({ "tags": tags }).to_string())
}

async fn create(ask: Ask<create_tag::v3::Request>) -> Answer<create_tag::v3::Response> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    let info = to_raw_value(&request.tag_info).map_err(|error| Error::bad_json(error.to_string()))?;
    ask.services.sync.set_tag(&request.user_id, &request.room_id, &request.tag, Some(info)).await?;
    Ok(create_tag::v3::Response::new())
}

async fn delete(ask: Ask<delete_tag::v3::Request>) -> Answer<delete_tag::v3::Response> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    ask.services.sync.set_tag(&request.user_id, &request.room_id, &request.tag, None).await?;
    Ok(delete_tag::v3::Response::new())
}
