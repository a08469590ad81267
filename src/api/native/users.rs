//! People: those of this server, and those of others as far as they are known here.

mod blocked;
mod email;
mod me;

use model::{Address, Millis, Refusal as _};
use ruma::{OwnedServerName, OwnedUserId, UserId, presence::PresenceState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use users::{applications::AppScope, native_name};
use utoipa::{IntoParams, ToSchema};

use super::{Answer, Call, Endpoint, directory::Work, get};
use crate::{Problem, Services, Session};

/// The endpoints of this file.
pub(super) fn routes() -> Vec<Endpoint> {
    let people = vec![
        get("/api/v1/users/{user_id}", "Somebody's name, picture and status.", one).explained(
            "`user_id` is written `alice@b.example` or `@alice:b.example`. What a user of another server says of themselves \
             is what that server said a while ago: see `fetched_at`. While the server is away, what it said before is \
             answered, and `stale` is true.",
        ).open_to(AppScope::UsersRead),
        get("/api/v1/users", "Looks for people.", search).explained(
            "Of this server, by a part of their name or localpart; or, with `server`, of that server, as far as the two servers \
             trust each other: by a part of the name, or by the whole of it. Of a full peer that shares its directory it is answered \
             from what that has told, see docs/cascade.md.",
        ).open_to(AppScope::UsersRead),
    ];
    [people, me::endpoints(), email::endpoints(), blocked::endpoints()].concat()
}

/// Whom one looks for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Search {
    /// A part of a name; for another server three letters at least.
    q: String,
    /// On which other server; left out: this one.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    server: Option<OwnedServerName>,
}

/// Who was found.
#[derive(Serialize, ToSchema)]
struct FoundPeople {
    /// 20 at most, by their ids.
    users: Vec<FoundPerson>,
    /// There are more: the name should be longer.
    limited: bool,
}

/// Somebody who was found.
#[derive(Serialize, ToSchema)]
struct FoundPerson {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    address: Address,
    /// The name, cut to 100 characters; null: none.
    display_name: Option<String>,
    /// The picture, an `mxc://` URI; null: none.
    avatar_url: Option<String>,
    /// What the person is in the organisation, if something is known of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    work: Option<Work>,
}

/// How many people one search finds at most.
const MOST_FOUND: usize = 20;

async fn search(call: Call<Session, Search>) -> Answer<FoundPeople> {
    let (users, asker) = (&call.services.users, &call.caller.user_id);
    let found = match call.query.server.as_deref().filter(|server| *server != call.services.peers.server_name()) {
        Some(server) => users.search_at(asker, server, &call.query.q).await?,
        None => users.search(asker, &call.query.q, MOST_FOUND).await?,
    };
    let ids: Vec<&UserId> = found.people.iter().map(|person| &*person.user_id).collect();
    let mut cards = users.cards(&ids).await?;
    let people = found.people.into_iter().map(|person| FoundPerson {
        work: cards.remove(&person.user_id).map(Work::from),
        address: person.user_id.clone().into(),
        user_id: person.user_id,
        display_name: person.display_name.map(|name| native_name(&name).to_owned()),
        avatar_url: person.avatar_url,
    });
    Ok(FoundPeople { users: people.collect(), limited: found.is_limited })
}

/// Somebody, as they are known here.
#[derive(Debug, Serialize, ToSchema)]
struct User {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    address: Address,
    /// The name, cut to 100 characters; null: none.
    display_name: Option<String>,
    /// The picture, an `mxc://` URI; null: none.
    avatar_url: Option<String>,
    /// Whether the user is there; null: that isn't known, or the caller shares no room with the user.
    status: Option<Status>,
    /// The user's server could not be asked when it was time to, and this is what it said before.
    stale: bool,
    /// Since when that is so, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_since: Option<Millis>,
    /// When the user's server said so, milliseconds since 1970; null: this is the user's server.
    fetched_at: Option<Millis>,
    /// Until when it isn't asked again, milliseconds since 1970; null: this is the user's server.
    expires_at: Option<Millis>,
    /// What the user is in the organisation, if something is known of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    work: Option<Work>,
}

/// Whether somebody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// Online, or online and idle.
    Online,
    /// Not there.
    Offline,
}

async fn one(call: Call<Session>) -> Answer<User> {
    let address: Address = call.argument("user_id")?;
    let (services, asker) = (&*call.services, &call.caller.user_id);
    let user_id = address.user_id();
    let mut user = if services.users.is_ours(user_id) {
        let profile = services.users.profile(Some(asker), user_id).await?;
        let text = |field: &str| profile.get(field).and_then(Value::as_str).map(str::to_owned);
        User {
            user_id: user_id.to_owned(),
            display_name: text("displayname"),
            avatar_url: text("avatar_url"),
            status: None,
            stale: false,
            stale_since: None,
            fetched_at: None,
            expires_at: None,
            work: None,
            address,
        }
    } else {
        let user = services.users.remote_users().get(Some(asker), user_id).await?;
        User {
            user_id: user_id.to_owned(),
            display_name: user.profile.display_name.clone(),
            avatar_url: user.profile.avatar_url.clone(),
            status: None,
            stale: user.stale_since.is_some(),
            stale_since: user.stale_since,
            fetched_at: Some(user.fetched_at),
            expires_at: Some(user.expires_at),
            work: None,
            address,
        }
    };
    user.display_name = user.display_name.map(|name| native_name(&name).to_owned());
    user.work = services.users.cards(&[&user.user_id]).await?.remove(&user.user_id).map(Work::from);
    user.status = status_of(services, asker, &user.user_id).await?;
    Ok(user)
}

/// What `asker` may know of it.
async fn status_of(services: &Services, asker: &OwnedUserId, user_id: &OwnedUserId) -> Result<Option<Status>, Problem> {
    match services.sync.presence_for(asker, user_id).await {
        Ok(presence) => Ok(Some(Status::of(&presence.state))),
        Err(error) if matches!(error.kind(), model::Kind::Forbidden | model::Kind::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Status {
    /// Who is idle is there.
    fn of(state: &PresenceState) -> Self {
        match state {
            PresenceState::Online | PresenceState::Unavailable => Self::Online,
            _ => Self::Offline,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::testing::with_server;

    #[tokio::test]
    async fn somebody_is_found_by_either_spelling() {
        with_server(async |server| {
            let (alice, _) = server.register("alice").await;
            let alice = Some(alice.as_str());
            let long = "é".repeat(120);
            let name = json!({ "displayname": long }).to_string();
            let path = "/_matrix/client/v3/profile/@alice:a.test/displayname";
            assert_eq!(server.ask(Method::PUT, path, alice, name).await.0, StatusCode::OK);
            server
                .ask(
                    Method::PUT,
                    "/_matrix/client/v3/presence/@alice:a.test/status",
                    alice,
                    r#"{"presence":"unavailable"}"#,
                )
                .await;
            for spelling in ["alice@a.test", "@alice:a.test", "%40alice%3Aa.test", "alice@A.Test"] {
                let user = server.get(&format!("/api/v1/users/{spelling}"), alice).await;
                let expected = json!({
                    "user_id": "@alice:a.test", "address": "alice@a.test", "display_name": "é".repeat(100),
                    "avatar_url": null, "status": "online", "stale": false, "fetched_at": null, "expires_at": null,
                });
                assert_eq!(user, expected, "{spelling}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn who_is_not_there_or_not_for_the_asker_to_know_is_refused_with_a_code() {
        with_server(async |server| {
            let (alice, _) = server.register("alice").await;
            let (bob, _) = server.register("bob").await;
            let refusal = async |path: &str, token: Option<&str>| {
                let (status, problem) = server.ask(Method::GET, path, token, "").await;
                (status.as_u16(), problem["code"].as_str().unwrap_or_default().to_owned())
            };
            let alice = Some(alice.as_str());
            assert_eq!(refusal("/api/v1/users/nobody@a.test", alice).await, (404, "not_found".into()));
            assert_eq!(refusal("/api/v1/users/nobody", alice).await, (400, "invalid".into()));
            assert_eq!(refusal("/api/v1/users/bob@a.test", None).await.0, 401);
            // This server talks with no other.
            assert_eq!(refusal("/api/v1/users/bob@b.test", alice).await, (403, "forbidden".into()));
            // They share no room, so that nothing is told of where Bob is.
            server
                .ask(
                    Method::PUT,
                    "/_matrix/client/v3/presence/@bob:a.test/status",
                    Some(&bob),
                    r#"{"presence":"online"}"#,
                )
                .await;
            assert_eq!(server.get("/api/v1/users/bob@a.test", alice).await["status"], Value::Null);
        })
        .await;
    }
}
