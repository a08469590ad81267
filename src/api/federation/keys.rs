//! The keys that servers sign with: ours, and those of others, as a notary.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>

use axum::response::{IntoResponse as _, Response};
use http::{Method, header};
use model::Millis;
use peers::NotaryWish;
use ruma::{
    MilliSecondsSinceUnixEpoch,
    api::federation::discovery::{get_remote_server_keys::v2 as query_one, get_remote_server_keys_batch::v2 as query},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::check_is_enabled;
use crate::{
    Answer, Ask, Error, Needs, Route, endpoint,
    endpoint::{PlainAsk, plain_endpoint},
};

/// How many servers one request asks for.
const MOST_SERVERS: usize = 100;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        // With the id of a key, as servers used to ask; the answer was always the same.
        plain_endpoint(Method::GET, "/_matrix/key/v2/server", Needs::Nobody, ours)
            .also_at("/_matrix/key/v2/server/{key_id}"),
        endpoint(query_server).also_at("/_matrix/key/v2/query/{server_name}/{key_id}"),
        endpoint(query_servers),
    ]
}

async fn ours(ask: PlainAsk) -> Result<Response, Error> {
    check_is_enabled(&ask.services)?;
    let json = ask.services.peers.keys().published()?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json.to_string()).into_response())
}

async fn query_server(ask: Ask<query_one::Request>) -> Answer<query_one::Response> {
    check_is_enabled(&ask.services)?;
    let minimum_valid_until = millis(ask.request.minimum_valid_until_ts);
    let wish = NotaryWish { server: ask.request.server_name, minimum_valid_until };
    let vouched = ask.services.peers.keys().vouch(vec![wish]).await?;
    Ok(query_one::Response::new(vouched.into_iter().map(raw).collect()))
}

async fn query_servers(ask: Ask<query::Request>) -> Answer<query::Response> {
    check_is_enabled(&ask.services)?;
    if ask.request.server_keys.len() > MOST_SERVERS {
        return Err(Error::invalid_param(format!("`server_keys` names more than {MOST_SERVERS} servers")));
    }
    let now = MilliSecondsSinceUnixEpoch::now();
    let wishes = ask.request.server_keys.into_iter().map(|(server, keys)| {
        // Keys are answered together, so the most demanding wish counts.
        let minimum = keys.values().filter_map(|criteria| criteria.minimum_valid_until_ts).max().unwrap_or(now);
        NotaryWish { server, minimum_valid_until: millis(minimum) }
    });
    let vouched = ask.services.peers.keys().vouch(wishes.collect()).await?;
    Ok(query::Response::new(vouched.into_iter().map(raw).collect()))
}

fn millis(time: MilliSecondsSinceUnixEpoch) -> Millis {
    time.get().into()
}

fn raw<T>(json: Box<RawValue>) -> Raw<T> {
    Raw::from_json(json)
}
