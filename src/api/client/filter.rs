//! Stored filters.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use ruma::api::client::filter::{create_filter, get_filter};

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(create), endpoint(get)]
}

async fn create(ask: Ask<create_filter::v3::Request>) -> Answer<create_filter::v3::Response> {
    super::check_is_self(&ask.session, &ask.request.user_id)?;
    let filter_id = ask.services.sync.store_filter(&ask.request.user_id, &ask.request.filter).await?;
    Ok(create_filter::v3::Response::new(filter_id))
}

async fn get(ask: Ask<get_filter::v3::Request>) -> Answer<get_filter::v3::Response> {
    super::check_is_self(&ask.session, &ask.request.user_id)?;
    let filter = ask.services.sync.stored_filter(&ask.request.user_id, &ask.request.filter_id).await?;
    Ok(get_filter::v3::Response::new(filter))
}
