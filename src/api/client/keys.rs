//! The keys by which devices encrypt to each other.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#key-management-api>

use std::collections::BTreeMap;

use ruma::{
    OneTimeKeyAlgorithm, OwnedUserId, UInt,
    api::client::keys::{claim_keys, get_keys, upload_keys, upload_signatures, upload_signing_keys},
};
use serde_json::{Value, json};
use users::{CrossSigningUpload, KeyUpload};

use crate::{Answer, Ask, Error, Route, Services, endpoint};

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
    let wanted = &ask.request.device_keys;
    let found = ask.services.users.query_keys(Some(&ask.session.user_id), wanted).await?;
    let mut response = get_keys::v3::Response::new();
    response.failures = failures(&ask.services, wanted.keys());
    response.device_keys = found.device_keys;
    response.master_keys = found.master_keys;
    response.self_signing_keys = found.self_signing_keys;
    response.user_signing_keys = found.user_signing_keys;
    Ok(response)
}

async fn claim(ask: Ask<claim_keys::v3::Request>) -> Answer<claim_keys::v3::Response> {
    let wanted = ask.request.one_time_keys;
    let failures = failures(&ask.services, wanted.keys());
    let wanted = wanted
        .into_iter()
        .map(|(user_id, devices)| {
            (user_id, devices.into_iter().map(|(id, algorithm)| (id, algorithm.to_string())).collect())
        })
        .collect();
    let mut response = claim_keys::v3::Response::new(ask.services.users.claim_keys(&wanted).await?);
    response.failures = failures;
    Ok(response)
}

/// The servers that could not be asked: for now, all others.
fn failures<'a>(services: &Services, users: impl Iterator<Item = &'a OwnedUserId>) -> BTreeMap<String, Value> {
    let reason = json!({ "errcode": "M_UNKNOWN", "error": "this server does not talk with other servers yet" });
    users
        .filter(|user_id| !services.users.is_ours(user_id))
        .map(|user_id| (user_id.server_name().to_string(), reason.clone()))
        .collect()
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
