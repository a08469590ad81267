//! Oneself: what others see of one, and what one may do here.

use std::collections::BTreeMap;

use model::Address;
use ruma::{OwnedUserId, UserId, presence::PresenceState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    Problem, Services, Session,
    native::{
        Answer, Call, Endpoint, Nothing,
        directory::Work,
        get, patch,
        payload::given,
        put,
        tag::{Tagged, check_match, tag_of},
    },
};

const DISPLAY_NAME: &str = "displayname";
const AVATAR_URL: &str = "avatar_url";

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    const CHANGE: &str = "\
        What is left out stays; null takes it away. All of it is changed, or nothing. It is the same profile that Matrix clients \
        show: a new name or picture reaches every room that one is in. With `If-Match`, only what one has read is changed: \
        otherwise 412 `precondition_failed`.";
    const PRESENCE: &str = "\
        The same presence that Matrix clients show. `busy` is another word for `unavailable`. Where the server's \
        configuration keeps presence off, nothing changes.";
    vec![
        get("/api/v1/users/me", "Oneself.", me).explained("With an `ETag`, which changes with the profile."),
        patch("/api/v1/users/me", "Changes what others see of one.", change).explained(CHANGE),
        put("/api/v1/users/me/presence", "Says whether one is there.", set_presence).explained(PRESENCE),
    ]
}

/// Oneself.
#[derive(Serialize, ToSchema)]
struct Me {
    /// As Matrix spells it: `@alice:a.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@a.example`.
    #[schema(value_type = String)]
    address: Address,
    /// The name; null: none.
    display_name: Option<String>,
    /// The picture, an `mxc://` URI; null: none.
    avatar_url: Option<String>,
    /// Whether others see one as there.
    status: OwnStatus,
    /// What one says of that; null: nothing.
    status_msg: Option<String>,
    /// One's e-mail address, which nobody else is told; null: none.
    email: Option<String>,
    /// What one may do here besides chatting: `user`, `auditor`, `operator`, `broadcaster` or `admin`.
    roles: Vec<&'static str>,
    /// What else stands in the profile, by its names there, such as `m.tz`.
    #[schema(value_type = Object)]
    fields: Map<String, Value>,
    /// What one is in the organisation, if something is known of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    work: Option<Work>,
}

/// Whether somebody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OwnStatus {
    /// There.
    Online,
    /// There, and busy or idle.
    #[serde(alias = "busy")]
    Unavailable,
    /// Not there, or not to be seen.
    Offline,
}

/// What is to be changed of one's profile.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProfileChange)]
struct Change {
    /// The name, 256 bytes at most.
    #[serde(default, deserialize_with = "given", alias = "displayName")]
    #[schema(value_type = Option<String>)]
    display_name: Option<Option<String>>,
    /// The picture, an `mxc://` URI.
    #[serde(default, deserialize_with = "given", alias = "avatarUrl")]
    #[schema(value_type = Option<String>)]
    avatar_url: Option<Option<String>>,
    /// What one says of being there, 1,024 bytes at most.
    #[serde(default, deserialize_with = "given", alias = "statusMsg")]
    #[schema(value_type = Option<String>)]
    status_msg: Option<Option<String>>,
    /// What else stands in the profile: names are like `m.tz` or `com.example.pets`, values any JSON; null takes one away.
    #[serde(default)]
    #[schema(value_type = Object)]
    fields: BTreeMap<String, Value>,
}

/// Whether one is there.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnPresence)]
struct Presence {
    /// `online`, `unavailable`, which `busy` means too, or `offline`.
    status: OwnStatus,
    /// What one says of it, 1,024 bytes at most; left out: nothing.
    #[serde(default, alias = "statusMsg")]
    status_msg: Option<String>,
}

async fn me(call: Call<Session>) -> Answer<Tagged<Me>> {
    shown(&call.services, &call.caller).await
}

async fn change(call: Call<Session, Nothing, Change>) -> Answer<Tagged<Me>> {
    let (services, user_id) = (&call.services, &call.caller.user_id);
    check_match(&call.headers, &shown(services, &call.caller).await?.tag)?;
    let Change { display_name, avatar_url, status_msg, mut fields } = call.body;
    for (field, wrong) in [(DISPLAY_NAME, "display_name"), (AVATAR_URL, "avatar_url")] {
        if fields.contains_key(field) {
            return Err(Problem::invalid(format!("`{field}` is set by `{wrong}`")).with("field", "fields"));
        }
    }
    let named = [(DISPLAY_NAME, display_name), (AVATAR_URL, avatar_url)];
    fields.extend(named.into_iter().filter_map(|(field, value)| Some((field.to_owned(), json!(value?)))));
    let changed = services.users.change_profile(user_id, &fields).await?;
    if changed.iter().any(|field| matches!(field.as_str(), DISPLAY_NAME | AVATAR_URL)) {
        services.rooms.update_profile(user_id).await?;
    }
    if let Some(status_msg) = status_msg {
        // Who says something of themselves is there, unless they said not to be.
        let state = services.sync.presence_of(user_id).await?.map_or(PresenceState::Online, |known| known.state);
        services.sync.set_presence(user_id, state, status_msg).await?;
    }
    shown(services, &call.caller).await
}

async fn set_presence(call: Call<Session, Nothing, Presence>) -> Answer<Nothing> {
    let Presence { status, status_msg } = call.body;
    let state = match status {
        OwnStatus::Online => PresenceState::Online,
        OwnStatus::Unavailable => PresenceState::Unavailable,
        OwnStatus::Offline => PresenceState::Offline,
    };
    call.services.sync.set_presence(&call.caller.user_id, state, status_msg).await?;
    Ok(Nothing)
}

async fn shown(services: &Services, session: &Session) -> Answer<Tagged<Me>> {
    let user_id: &UserId = &session.user_id;
    let profile = services.users.profile(Some(user_id), user_id).await?;
    let presence = services.sync.presence_of(user_id).await?;
    let status_msg = presence.as_ref().and_then(|known| known.status_msg.clone());
    let tag = tag_of(&json!([profile, status_msg]).to_string());
    let mut fields: Map<String, Value> = profile.into_iter().collect();
    let mut text = |field| fields.remove(field).and_then(|value| value.as_str().map(str::to_owned));
    let (display_name, avatar_url) = (text(DISPLAY_NAME), text(AVATAR_URL));
    let status = presence.map_or(OwnStatus::Offline, |known| match known.state {
        PresenceState::Online => OwnStatus::Online,
        PresenceState::Unavailable => OwnStatus::Unavailable,
        _ => OwnStatus::Offline,
    });
    let answer = Me {
        user_id: user_id.to_owned(),
        address: user_id.into(),
        display_name,
        avatar_url,
        status,
        status_msg,
        email: services.users.own_email(session).await?,
        roles: vec![services.users.role(session).await?.as_str()],
        fields,
        work: services.users.cards(&[user_id]).await?.remove(user_id).map(Work::from),
    };
    Ok(Tagged { tag, answer })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Method, Request, StatusCode, header};

    use super::*;
    use crate::testing::with_server;

    const ME: &str = "/api/v1/users/me";

    #[tokio::test]
    async fn what_is_changed_here_is_what_matrix_clients_and_rooms_show() {
        with_server(async |server| {
            let (token, _) = server.register("alice").await;
            let alice = Some(token.as_str());
            let made = server.post("/_matrix/client/v3/createRoom", alice, json!({})).await;
            let room = made["room_id"].as_str().expect("it is told").to_owned();
            let before = server.get(ME, alice).await;
            let expected = json!({
                "user_id": "@alice:a.test", "address": "alice@a.test", "display_name": "alice", "avatar_url": null,
                "status": "offline", "status_msg": null, "email": null, "roles": ["user"], "fields": {},
            });
            assert_eq!(before, expected);
            let change = json!({
                "display_name": "Alice", "avatarUrl": "mxc://a.test/cat", "status_msg": "at tea",
                "fields": { "m.tz": "Europe/Paris", "com.example.pets": ["cat"] },
            });
            let (status, after) = server.ask(Method::PATCH, ME, alice, change.to_string()).await;
            assert_eq!(status, StatusCode::OK, "{after}");
            assert_eq!((&after["display_name"], &after["status_msg"]), (&json!("Alice"), &json!("at tea")));
            assert_eq!(after["fields"], json!({ "m.tz": "Europe/Paris", "com.example.pets": ["cat"] }));
            assert_eq!(server.get(ME, alice).await, after);
            let matrix = server.get("/_matrix/client/v3/profile/@alice:a.test", None).await;
            assert_eq!((&matrix["displayname"], &matrix["m.tz"]), (&json!("Alice"), &json!("Europe/Paris")));
            let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@alice:a.test");
            assert_eq!(server.get(&path, alice).await["displayname"], "Alice", "her membership has the new name");
            let gone = json!({ "avatar_url": null, "status_msg": null, "fields": { "m.tz": null } });
            let (_, after) = server.ask(Method::PATCH, ME, alice, gone.to_string()).await;
            assert_eq!((&after["avatar_url"], &after["status_msg"]), (&Value::Null, &Value::Null));
            assert_eq!(after["fields"], json!({ "com.example.pets": ["cat"] }));
        })
        .await;
    }

    #[tokio::test]
    async fn what_can_not_be_is_refused_and_changes_nothing() {
        with_server(async |server| {
            let (token, _) = server.register("alice").await;
            let alice = Some(token.as_str());
            for wrong in [
                json!({ "display_name": "x".repeat(257) }),
                json!({ "display_name": "Mallory", "avatar_url": "https://a.test/cat" }),
                json!({ "display_name": "Mallory", "fields": { "Pets": 1 } }),
                json!({ "fields": { "displayname": "Mallory" } }),
                json!({ "display_name": 7 }),
                json!({ "colour": "red" }),
            ] {
                let (status, problem) = server.ask(Method::PATCH, ME, alice, wrong.to_string()).await;
                assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("invalid")), "{wrong}: {problem}");
            }
            assert_eq!(server.get(ME, alice).await["display_name"], "alice");
            assert_eq!(server.ask(Method::GET, ME, None, "").await.0, StatusCode::UNAUTHORIZED);
        })
        .await;
    }

    #[tokio::test]
    async fn of_two_who_change_what_they_have_read_one_is_told_to_read_again() {
        with_server(async |server| {
            let (token, _) = server.register("alice").await;
            let ask = async |method: Method, body: &str, tag: Option<&str>| {
                let mut request = Request::builder().method(method).uri(ME);
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
                if let Some(tag) = tag {
                    request = request.header(header::IF_MATCH, tag);
                }
                let answer = server.answer(request.body(Body::from(body.to_owned())).expect("it is well")).await;
                let tag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
                (answer.status().as_u16(), tag)
            };
            let (_, tag) = ask(Method::GET, "", None).await;
            let tag = tag.expect("a profile has a tag");
            let (status, newer) = ask(Method::PATCH, r#"{"display_name":"One"}"#, Some(&tag)).await;
            assert_eq!(status, 200);
            assert_ne!(newer.as_ref(), Some(&tag));
            assert_eq!(ask(Method::PATCH, r#"{"display_name":"Two"}"#, Some(&tag)).await.0, 412);
            assert_eq!(server.get(ME, Some(&token)).await["display_name"], "One");
            assert_eq!(ask(Method::PATCH, r#"{"display_name":"Two"}"#, newer.as_deref()).await.0, 200);
        })
        .await;
    }

    #[tokio::test]
    async fn presence_is_the_one_that_matrix_clients_see() {
        with_server(async |server| {
            let (token, _) = server.register("alice").await;
            let alice = Some(token.as_str());
            let path = "/api/v1/users/me/presence";
            let (status, _) = server.ask(Method::PUT, path, alice, r#"{"status":"busy","status_msg":"tea"}"#).await;
            assert_eq!(status, StatusCode::NO_CONTENT);
            let matrix = server.get("/_matrix/client/v3/presence/@alice:a.test/status", alice).await;
            assert_eq!((&matrix["presence"], &matrix["status_msg"]), (&json!("unavailable"), &json!("tea")));
            let me = server.get(ME, alice).await;
            assert_eq!((&me["status"], &me["status_msg"]), (&json!("unavailable"), &json!("tea")));
            let (status, problem) = server.ask(Method::PUT, path, alice, r#"{"status":"asleep"}"#).await;
            assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("invalid")));
        })
        .await;
    }
}
