//! What users keep here.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#client-config>

use http::StatusCode;
use ruma::api::client::config::{
    get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
};

use sync::SyncError;

use crate::{Answer, Ask, Error, Route, endpoint, json_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(set_global), json_endpoint(get_global), endpoint(set_of_room), json_endpoint(get_of_room)]
}

fn check_object(json: &str) -> Result<(), Error> {
    if json.trim_start().starts_with('{') { Ok(()) } else { Err(Error::bad_json("account data is an object")) }
}

/// "A status code of 405 and an errcode of M_BAD_JSON" for the types that the server keeps by itself.
fn refused(error: SyncError) -> Error {
    match error {
        SyncError::NotByThisEndpoint(_) => Error::new(StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON", error.to_string()),
        error => error.into(),
    }
}

async fn set_global(ask: Ask<set_global_account_data::v3::Request>) -> Answer<set_global_account_data::v3::Response> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    let content = request.data.json().get();
    check_object(content)?;
    let kind = request.event_type.to_string();
    ask.services.sync.set_account_data(&request.user_id, None, &kind, content).await.map_err(refused)?;
    Ok(set_global_account_data::v3::Response::new())
}

async fn get_global(ask: Ask<get_global_account_data::v3::Request>) -> Answer<String> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    Ok(ask.services.sync.account_data(&request.user_id, None, &request.event_type.to_string()).await?)
}

async fn set_of_room(ask: Ask<set_room_account_data::v3::Request>) -> Answer<set_room_account_data::v3::Response> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    let content = request.data.json().get();
    check_object(content)?;
    let kind = request.event_type.to_string();
    ask.services
        .sync
        .set_account_data(&request.user_id, Some(&request.room_id), &kind, content)
        .await
        .map_err(refused)?;
    Ok(set_room_account_data::v3::Response::new())
}

async fn get_of_room(ask: Ask<get_room_account_data::v3::Request>) -> Answer<String> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    let kind = request.event_type.to_string();
    Ok(ask.services.sync.account_data(&request.user_id, Some(&request.room_id), &kind).await?)
}
