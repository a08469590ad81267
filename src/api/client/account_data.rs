//! What users keep here.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#client-config>

use ruma::api::client::config::{
    get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
};

use crate::{Answer, Ask, Error, Route, endpoint, json_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(set_global), json_endpoint(get_global), endpoint(set_of_room), json_endpoint(get_of_room)]
}

fn check_object(json: &str) -> Result<(), Error> {
    if json.trim_start().starts_with('{') { Ok(()) } else { Err(Error::bad_json("account data is an object")) }
}

async fn set_global(ask: Ask<set_global_account_data::v3::Request>) -> Answer<set_global_account_data::v3::Response> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    let content = request.data.json().get();
    check_object(content)?;
    ask.services.sync.set_account_data(&request.user_id, None, &request.event_type.to_string(), content).await?;
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
    ask.services.sync.set_account_data(&request.user_id, Some(&request.room_id), &kind, content).await?;
    Ok(set_room_account_data::v3::Response::new())
}

async fn get_of_room(ask: Ask<get_room_account_data::v3::Request>) -> Answer<String> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    let kind = request.event_type.to_string();
    Ok(ask.services.sync.account_data(&request.user_id, Some(&request.room_id), &kind).await?)
}
