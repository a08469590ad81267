//! The description of the native API, made of the endpoints that are mounted.

use std::{collections::BTreeMap, sync::Arc};

use axum::response::{IntoResponse as _, Response};
use http::header;
use serde_json::Value;
use utoipa::openapi::{
    Components, Info, OpenApi, PathItem, Paths,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{Answer, Anybody, Call, Endpoint, get};

const PATH: &str = "/api/v1/openapi.json";

/// The endpoints, and one more that describes them all, itself too.
pub(super) fn with_document(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut own = get(PATH, "This description.", placeholder);
    endpoints.push(own.clone());
    let text: Arc<str> = written(&document(&endpoints)).into();
    own.route.handler = Arc::new(move |_, _| {
        let answer: Response = ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response();
        Box::pin(std::future::ready(answer))
    });
    endpoints.pop();
    endpoints.push(own);
    endpoints
}

/// As JSON. `int32` is taken out: it promises less than the 32 bits without a sign that are meant.
fn written(document: &OpenApi) -> String {
    let mut document = serde_json::to_value(document).expect("the description can be written as JSON");
    without_int32(&mut document);
    document.to_string()
}

fn without_int32(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").is_some_and(|format| format == "int32") {
                fields.remove("format");
            }
            fields.values_mut().for_each(without_int32);
        }
        Value::Array(items) => items.iter_mut().for_each(without_int32),
        _ => {}
    }
}

/// Declares what [`with_document`] answers.
async fn placeholder(_: Call<Anybody>) -> Answer<serde_json::Value> {
    Ok(serde_json::Value::Null)
}

fn document(endpoints: &[Endpoint]) -> OpenApi {
    let mut paths = Paths::new();
    let mut schemas = BTreeMap::new();
    for endpoint in endpoints {
        let item = PathItem::new(endpoint.method.clone(), endpoint.operation.clone());
        match paths.paths.get_mut(endpoint.path()) {
            Some(known) => known.merge_operations(item),
            None => drop(paths.paths.insert(endpoint.path().to_owned(), item)),
        }
        schemas.extend(endpoint.schemas.iter().cloned());
    }
    let mut components = Components::new();
    components.schemas = schemas.into_iter().collect();
    for (name, scheme) in schemes() {
        components.add_security_scheme(name, scheme);
    }
    let mut info = Info::new("Comity", env!("CARGO_PKG_VERSION"));
    info.description =
        Some("The native API of a Comity server. What is refused is answered by a problem document.".to_owned());
    let mut document = OpenApi::new(info, paths);
    document.components = Some(components);
    document
}

/// The ways to show who one is.
fn schemes() -> [(&'static str, SecurityScheme); 5] {
    let bearer =
        |text| SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build());
    [
        ("access_token", bearer("An access token of a user, as the Matrix client API gives it out.")),
        (
            "application",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("X-App-Key", APPLICATION))),
        ),
        ("realtime_ticket", SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::with_description("ticket", TICKET)))),
        ("server_token", bearer(SERVER_TOKEN)),
        ("x_matrix", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("Authorization", X_MATRIX)))),
    ]
}

const APPLICATION: &str = "\
    The key of an application, in a request that is signed with its secret: with `X-App-Timestamp`, `X-App-Nonce`, `X-App-Signature` and, \
    where the application acts as a user, `X-App-User`. See docs/applications.md. The words are the scopes that it needs.";
const TICKET: &str = "What `POST /api/v1/realtime/tickets` answers: good once, for 30 seconds.";
const SERVER_TOKEN: &str = "\
    A JWT of another server, signed by its ed25519 key (`alg` EdDSA, `kid` the key's id as published at \
    `/_matrix/key/v2/server`): `iss` its name, `aud` the name of this server, `sub` its name or a user of it, `scope` a list \
    of `messaging`, `presence`, `users`, `search`, `status`, `iat` and `exp` at most 5 minutes apart, `jti` new for each \
    request. A request with a body also needs `X-Comity-Signature: ed25519:KEY BASE64`, the same key's signature over the \
    canonical JSON of the body, in unpadded base64.";
const X_MATRIX: &str = "`X-Matrix origin=…,destination=…,key=…,sig=…`, as on the Matrix server-server API.";

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::{
        native::{endpoint::arguments_of, endpoints},
        testing::with_server,
    };

    #[test]
    fn what_is_mounted_is_described_and_nothing_else_is() {
        let all = with_document(endpoints());
        let mounted: BTreeSet<(String, String)> = all
            .iter()
            .flat_map(|endpoint| {
                let method = endpoint.route.method.as_str().to_ascii_lowercase();
                endpoint.route.paths.iter().map(move |path| (method.clone(), (*path).to_owned()))
            })
            .collect();
        assert_eq!(mounted.len(), all.len(), "an endpoint is mounted twice");
        let described = json!(document(&all));
        let paths = described["paths"].as_object().expect("there are paths");
        let told: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().into_iter().flatten().map(|(method, _)| (method.clone(), path.clone()))
            })
            .collect();
        assert_eq!(mounted, told);
        for endpoint in &all {
            let method = endpoint.route.method.as_str().to_ascii_lowercase();
            let operation = &described["paths"][endpoint.path()][&method];
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for name in arguments_of(endpoint.path()) {
                assert!(parameters.iter().any(|known| known["name"] == name && known["in"] == "path"), "{operation}");
            }
            assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{operation}");
        }
    }

    #[test]
    fn a_name_means_one_thing_and_each_reference_leads_somewhere() {
        let all = with_document(endpoints());
        let mut known: BTreeMap<String, Value> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for endpoint in &all {
            for (name, schema) in &endpoint.schemas {
                let schema = json!(schema);
                let other = known.entry(name.clone()).or_insert_with(|| schema.clone());
                assert_eq!(*other, schema, "two types are called {name}: give one `#[schema(as = …)]`");
            }
            let id = endpoint.operation.operation_id.clone();
            assert!(ids.insert(id.clone()), "two operations are called {id:?}");
        }
        let text = document(&all).to_json().expect("it is JSON");
        for reference in text.split(r##""$ref":"#/components/schemas/"##).skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(known.contains_key(name), "{name} is nowhere");
        }
        for endpoint in &all {
            for requirement in json!(endpoint.operation)["security"].as_array().into_iter().flatten() {
                for name in requirement.as_object().expect("it is an object").keys() {
                    assert!(schemes().iter().any(|(known, _)| known == name), "the scheme {name} is not described");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_description_is_served_and_what_is_not_there_is_a_problem() {
        with_server(async |server| {
            let told = server.get(PATH, None).await;
            assert!(told["paths"][PATH]["get"].is_object(), "{told}");
            for (method, path, status, code) in [
                (Method::GET, "/api/v1/nothing", 404, "unknown_endpoint"),
                (Method::GET, "/api/v2", 404, "unknown_endpoint"),
                (Method::DELETE, PATH, 405, "wrong_method"),
            ] {
                let (answered, problem) = server.ask(method, path, None, "").await;
                assert_eq!((answered.as_u16(), &problem["code"]), (status, &json!(code)), "{path}");
            }
            let (status, error) = server.ask(Method::GET, "/_matrix/nothing", None, "").await;
            assert_eq!((status, &error["errcode"]), (StatusCode::NOT_FOUND, &json!("M_UNRECOGNIZED")));
        })
        .await;
    }
}
