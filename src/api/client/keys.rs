//! The keys by which devices encrypt to each other.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#key-management-api>

use std::collections::BTreeMap;

use peers::PeerError;
use ruma::{
    OneTimeKeyAlgorithm, UInt,
    api::client::keys::{claim_keys, get_keys, upload_keys, upload_signatures, upload_signing_keys},
};
use serde_json::{Value, json};
use users::{CrossSigningUpload, KeyUpload, RemoteFailures};

use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(upload), endpoint(query), endpoint(claim), endpoint(upload_signing_keys), endpoint(upload_signatures)]
}

async fn upload(ask: Ask<upload_keys::v3::Request>) -> Answer<upload_keys::v3::Response> {
    let request = ask.request;
    let upload = KeyUpload {
        device_keys: request.device_keys,
        one_time_keys: request.one_time_keys,
        fallback_keys: request.fallback_keys,
    };
    let counts = ask.services.users.upload_keys(&ask.session, upload).await?;
    let counts = counts
        .into_iter()
        .map(|(algorithm, count)| (OneTimeKeyAlgorithm::from(algorithm), UInt::try_from(count).unwrap_or(UInt::MAX)));
    Ok(upload_keys::v3::Response::new(counts.collect()))
}

async fn query(ask: Ask<get_keys::v3::Request>) -> Answer<get_keys::v3::Response> {
    let get_keys::v3::Request { device_keys: wanted, timeout, .. } = &ask.request;
    let (users, asker) = (&ask.services.users, &ask.session.user_id);
    let (ours, (theirs, failures)) =
        tokio::try_join!(users.query_keys(Some(asker), wanted), users.query_remote_keys(asker, wanted, *timeout))?;
    let mut response = get_keys::v3::Response::new();
    response.failures = explained(failures);
    response.device_keys = ours.device_keys;
    response.device_keys.extend(theirs.device_keys);
    response.master_keys = ours.master_keys;
    response.master_keys.extend(theirs.master_keys);
    response.self_signing_keys = ours.self_signing_keys;
    response.self_signing_keys.extend(theirs.self_signing_keys);
    response.user_signing_keys = ours.user_signing_keys;
    Ok(response)
}

async fn claim(ask: Ask<claim_keys::v3::Request>) -> Answer<claim_keys::v3::Response> {
    let claim_keys::v3::Request { one_time_keys: wanted, timeout, .. } = ask.request;
    let users = &ask.services.users;
    let of_ours = wanted.iter().filter(|(user_id, _)| users.is_ours(user_id)).map(|(user_id, devices)| {
        let devices = devices.iter().map(|(id, algorithm)| (id.clone(), algorithm.to_string()));
        (user_id.clone(), devices.collect())
    });
    let of_ours = of_ours.collect();
    let (ours, (theirs, failures)) =
        tokio::join!(users.claim_keys(&of_ours), users.claim_remote_keys(&ask.session.user_id, &wanted, timeout));
    let mut claimed = ours?;
    claimed.extend(theirs);
    let mut response = claim_keys::v3::Response::new(claimed);
    response.failures = explained(failures);
    Ok(response)
}

/// The servers that could not be asked, as clients are told.
fn explained(failures: RemoteFailures) -> BTreeMap<String, Value> {
    let explain = |error: PeerError| json!({ "errcode": "M_UNKNOWN", "error": error.to_string() });
    failures.into_iter().map(|(server, error)| (server.to_string(), explain(error))).collect()
}

async fn upload_signing_keys(ask: Ask<upload_signing_keys::v3::Request>) -> Answer<upload_signing_keys::v3::Response> {
    let request = ask.request;
    let upload = CrossSigningUpload {
        master_key: request.master_key,
        self_signing_key: request.self_signing_key,
        user_signing_key: request.user_signing_key,
    };
    ask.services
        .users
        .upload_signing_keys(&ask.session, upload, request.auth.as_ref())
        .await
        .map_err(Error::refused)?;
    Ok(upload_signing_keys::v3::Response::new())
}

async fn upload_signatures(ask: Ask<upload_signatures::v3::Request>) -> Answer<upload_signatures::v3::Response> {
    let mut signed = Vec::new();
    for (user_id, keys) in &ask.request.signed_keys {
        signed.extend(keys.iter().map(|(target, json)| (&**user_id, target, json)));
    }
    let failures = ask.services.users.upload_signatures(&ask.session, signed).await?;
    let mut response = upload_signatures::v3::Response::new();
    for (user_id, keys) in failures {
        for (key_id, (errcode, message)) in keys {
            // ruma's type has no other way to be made.
            let failure = serde_json::from_value(json!({ "errcode": errcode, "error": message }));
            if let Ok(failure) = failure {
                response.failures.entry(user_id.clone()).or_default().insert(key_id, failure);
            }
        }
    }
    Ok(response)
}
