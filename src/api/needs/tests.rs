//! Every endpoint of every face, asked by those who may not use it.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use ruma::{UserId, server_name};
use serde_json::Value;
use users::Role;

use super::Needs;
use crate::{
    Route, client, federation, native,
    testing::{Server, with_federating_server},
};

/// What anybody may use, and what asks for a proof of its own. Whatever is added here is open to the world.
const OPEN: &[&str] = &[
    "GET /.well-known/matrix/client",
    "GET /.well-known/matrix/server",
    "GET /_matrix/client/r0/directory/list/room/{room_id}",
    "GET /_matrix/client/r0/directory/room/{room_alias}",
    "GET /_matrix/client/r0/login",
    "GET /_matrix/client/r0/login/sso/redirect",
    "GET /_matrix/client/r0/login/sso/redirect/{idp_id}",
    "GET /_matrix/client/r0/profile/{user_id}",
    "GET /_matrix/client/r0/profile/{user_id}/{field}",
    "GET /_matrix/client/r0/publicRooms",
    "GET /_matrix/client/r0/register/available",
    "GET /_matrix/client/unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary",
    "GET /_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
    "GET /_matrix/client/unstable/org.matrix.msc3231/register/org.matrix.msc3231.login.registration_token/validity",
    "GET /_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}",
    "GET /_matrix/client/v1/auth_metadata",
    "GET /_matrix/client/v1/register/m.login.registration_token/validity",
    "GET /_matrix/client/v1/room_summary/{room_id_or_alias}",
    "GET /_matrix/client/v3/directory/list/room/{room_id}",
    "GET /_matrix/client/v3/directory/room/{room_alias}",
    "GET /_matrix/client/v3/login",
    "GET /_matrix/client/v3/login/sso/redirect",
    "GET /_matrix/client/v3/login/sso/redirect/{idp_id}",
    "GET /_matrix/client/v3/profile/{user_id}",
    "GET /_matrix/client/v3/profile/{user_id}/{field}",
    "GET /_matrix/client/v3/publicRooms",
    "GET /_matrix/client/v3/register/available",
    "GET /_matrix/client/versions",
    "GET /_matrix/federation/v1/openid/userinfo",
    "GET /_matrix/federation/v1/version",
    "GET /_matrix/key/v2/query/{server_name}",
    "GET /_matrix/key/v2/query/{server_name}/{key_id}",
    "GET /_matrix/key/v2/server",
    "GET /_matrix/key/v2/server/{key_id}",
    "GET /_matrix/media/r0/download/{server_name}/{media_id}",
    "GET /_matrix/media/r0/download/{server_name}/{media_id}/{filename}",
    "GET /_matrix/media/r0/thumbnail/{server_name}/{media_id}",
    "GET /_matrix/media/v1/download/{server_name}/{media_id}",
    "GET /_matrix/media/v1/download/{server_name}/{media_id}/{filename}",
    "GET /_matrix/media/v1/thumbnail/{server_name}/{media_id}",
    "GET /_matrix/media/v3/download/{server_name}/{media_id}",
    "GET /_matrix/media/v3/download/{server_name}/{media_id}/{filename}",
    "GET /_matrix/media/v3/thumbnail/{server_name}/{media_id}",
    "GET /_synapse/admin/v1/register",
    "GET /_synapse/client/unsubscribe",
    "GET /api/v1/auth/jwks.json",
    "GET /api/v1/openapi.json",
    "GET /oauth2/account",
    "GET /oauth2/authorize",
    "GET /oauth2/link",
    "GET /oauth2/login",
    "GET /oauth2/sso",
    "GET /oauth2/sso/callback",
    "GET /oauth2/sso/with/{idp_id}",
    "GET /oauth2/style.css",
    "POST /_matrix/client/r0/login",
    "POST /_matrix/client/r0/register",
    "POST /_matrix/client/unstable/org.matrix.msc2918/refresh",
    "POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/{action}",
    "POST /_matrix/client/v1/delayed_events/{delay_id}/{action}",
    "POST /_matrix/client/v3/login",
    "POST /_matrix/client/v3/refresh",
    "POST /_matrix/client/v3/register",
    "POST /_matrix/key/v2/query",
    "POST /_synapse/admin/v1/register",
    "POST /_synapse/client/unsubscribe",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/password/reset",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/verification_codes",
    "POST /oauth2/account",
    "POST /oauth2/authorize",
    "POST /oauth2/device",
    "POST /oauth2/link",
    "POST /oauth2/login",
    "POST /oauth2/register",
    "POST /oauth2/revoke",
    "POST /oauth2/token",
];

fn all() -> Vec<Route> {
    [client::routes(), federation::routes(), native::routes()].concat()
}

fn named(route: &Route) -> impl Iterator<Item = String> {
    route.paths.iter().map(move |path| format!("{} {path}", route.method))
}

/// The path with something in the place of each argument.
fn filled(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/")
}

async fn ask(server: &Server, route: &Route, path: &str, token: Option<&str>) -> (StatusCode, Value) {
    let has_body = matches!(route.method, Method::POST | Method::PUT | Method::PATCH);
    server.ask(route.method.clone(), &filled(path), token, if has_body { "{}" } else { "" }).await
}

#[test]
fn what_is_open_to_the_world_is_known_by_name() {
    let is_open = |route: &&Route| matches!(route.needs, Needs::Nobody | Needs::Proof);
    let routes = all();
    let open: BTreeSet<String> = routes.iter().filter(is_open).flat_map(named).collect();
    let known: BTreeSet<String> = OPEN.iter().map(|name| (*name).to_owned()).collect();
    let (more, less): (Vec<_>, Vec<_>) = (open.difference(&known).collect(), known.difference(&open).collect());
    assert!(more.is_empty() && less.is_empty(), "open and not known: {more:#?}\nknown and not open: {less:#?}");
}

#[test]
fn everything_below_admin_needs_a_role() {
    for route in all() {
        for path in route.paths.iter().filter(|path| path.starts_with("/api/v1/admin/")) {
            assert!(matches!(route.needs, Needs::Role(_)), "{} {path} needs {:?}", route.method, route.needs);
        }
    }
}

#[test]
fn the_description_says_the_same_as_the_route() {
    for endpoint in native::endpoints() {
        let told = serde_json::to_value(&endpoint.operation).expect("it is JSON");
        let needs = endpoint.route.needs;
        let has_security = told["security"].as_array().is_some_and(|security| !security.is_empty());
        assert_eq!(has_security, needs != Needs::Nobody, "{told}");
        let roles: Vec<&str> = needs.roles().iter().map(|role| role.as_str()).collect();
        let told: Vec<&str> = told["x-roles"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(told, roles);
    }
}

#[tokio::test]
async fn nobody_gets_past_a_door_that_is_not_open() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        let (plain, _) = server.register("plain").await;
        for route in all() {
            for path in &route.paths {
                let name = format!("{} {path}", route.method);
                if matches!(route.needs, Needs::Nobody | Needs::Proof) {
                    continue;
                }
                let (status, answer) = ask(&server, &route, path, None).await;
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{name} without credentials: {answer}");
                let (status, answer) = ask(&server, &route, path, Some("made up")).await;
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{name} with a token that is none: {answer}");
                match route.needs {
                    Needs::Server | Needs::Application => {
                        let (status, answer) = ask(&server, &route, path, Some(&plain)).await;
                        assert_eq!(status, StatusCode::UNAUTHORIZED, "{name} as a user: {answer}");
                    }
                    Needs::Role(_) => {
                        let (status, answer) = ask(&server, &route, path, Some(&plain)).await;
                        assert_eq!(status, StatusCode::FORBIDDEN, "{name} as a plain user: {answer}");
                    }
                    Needs::Nobody | Needs::Proof | Needs::User => {}
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_role_opens_what_names_it_and_nothing_else() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        for role in [Role::Auditor, Role::Operator, Role::Broadcaster] {
            let name = format!("the_{}", role.as_str());
            server.register(&name).await;
            let user_id = UserId::parse(format!("@{name}:a.test")).expect("it is a user id");
            server.users.set_role(&user_id, role).await.expect("there is the account");
            // A role that was given ends no session, but the token is looked up anew.
            let body = serde_json::json!({ "user": name, "password": "a password" });
            let session = server.post("/api/v1/auth/login", None, body).await;
            let token = session["access_token"].as_str().expect("a token").to_owned();
            for route in all().iter().filter(|route| matches!(route.needs, Needs::Role(_))) {
                let path = route.paths[0];
                let (status, answer) = ask(&server, route, path, Some(&token)).await;
                let is_refused = status == StatusCode::FORBIDDEN && answer["roles"].is_array();
                let is_named = route.needs.roles().contains(&role);
                assert_eq!(is_refused, !is_named, "{} {path} as {}: {status} {answer}", route.method, role.as_str());
            }
        }
    })
    .await;
}
