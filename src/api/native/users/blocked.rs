//! Whom one has blocked: the `m.ignored_user_list` of Matrix clients, one user at a time.

use model::Address;
use ruma::OwnedUserId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Session,
    native::{Answer, Call, Endpoint, Nothing, delete, get, put},
};

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    const ONE: &str = "/api/v1/users/me/blocked/{user_id}";
    const BLOCK: &str = "\
        What somebody blocked says is not shown, and neither are their invitations and friend requests. They aren't told. It is the \
        same list that Matrix clients call ignored users. Once more does nothing.";
    vec![
        get("/api/v1/users/me/blocked", "Whom one has blocked.", list),
        get(ONE, "Whether one has blocked somebody.", one).explained("404 `not_found`: no."),
        put(ONE, "Blocks somebody.", block).explained(BLOCK),
        delete(ONE, "Blocks somebody no longer.", unblock).explained("Once more does nothing."),
    ]
}

/// Whom one has blocked.
#[derive(Serialize, ToSchema)]
struct BlockedPeople {
    /// By their ids; all of them.
    blocked: Vec<BlockedPerson>,
}

/// Somebody whom one has blocked.
#[derive(Serialize, ToSchema)]
struct BlockedPerson {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    address: Address,
}

impl From<OwnedUserId> for BlockedPerson {
    fn from(user_id: OwnedUserId) -> Self {
        Self { address: user_id.clone().into(), user_id }
    }
}

async fn list(call: Call<Session>) -> Answer<BlockedPeople> {
    let blocked = call.services.sync.ignored_users(&call.caller.user_id).await?;
    Ok(BlockedPeople { blocked: blocked.into_iter().map(Into::into).collect() })
}

async fn one(call: Call<Session>) -> Answer<BlockedPerson> {
    let address: Address = call.argument("user_id")?;
    let blocked = call.services.sync.ignored_users(&call.caller.user_id).await?;
    let found = blocked.into_iter().find(|blocked| *blocked == address.user_id());
    found.map(Into::into).ok_or_else(|| crate::Problem::not_found(format!("you have not blocked {address}")))
}

async fn block(call: Call<Session>) -> Answer<Nothing> {
    set(&call, true).await
}

async fn unblock(call: Call<Session>) -> Answer<Nothing> {
    set(&call, false).await
}

async fn set(call: &Call<Session>, is_ignored: bool) -> Answer<Nothing> {
    let address: Address = call.argument("user_id")?;
    call.services.sync.set_ignored(&call.caller.user_id, address.user_id(), is_ignored).await?;
    Ok(Nothing)
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use crate::testing::with_server;

    const BLOCKED: &str = "/api/v1/users/me/blocked";
    const IGNORED: &str = "/_matrix/client/v3/user/@alice:a.test/account_data/m.ignored_user_list";

    #[tokio::test]
    async fn who_is_blocked_here_is_ignored_there_and_the_other_way_round() {
        with_server(async |server| {
            let (token, _) = server.register("alice").await;
            let alice = Some(token.as_str());
            let set = async |method, who: &str| server.ask(method, &format!("{BLOCKED}/{who}"), alice, "").await;
            assert_eq!(server.get(BLOCKED, alice).await, json!({ "blocked": [] }));
            assert_eq!(set(Method::GET, "bob@b.test").await.0, StatusCode::NOT_FOUND);
            for who in ["bob@b.test", "@bob:b.test", "carol@a.test"] {
                assert_eq!(set(Method::PUT, who).await.0, StatusCode::NO_CONTENT);
            }
            let list = json!({ "ignored_users": { "@bob:b.test": {}, "@carol:a.test": {} } });
            assert_eq!(server.get(IGNORED, alice).await, list);
            let written = json!({ "ignored_users": { "@dave:a.test": {}, "@bob:b.test": {} }, "x": 1 });
            assert_eq!(server.ask(Method::PUT, IGNORED, alice, written.to_string()).await.0, StatusCode::OK);
            assert_eq!(set(Method::DELETE, "bob@b.test").await.0, StatusCode::NO_CONTENT);
            assert_eq!(set(Method::DELETE, "bob@b.test").await.0, StatusCode::NO_CONTENT);
            let dave = json!({ "user_id": "@dave:a.test", "address": "dave@a.test" });
            assert_eq!(server.get(BLOCKED, alice).await, json!({ "blocked": [dave] }));
            assert_eq!(server.get(IGNORED, alice).await, json!({ "ignored_users": { "@dave:a.test": {} }, "x": 1 }));
            assert_eq!(set(Method::GET, "dave@a.test").await, (StatusCode::OK, dave));
            let (status, problem) = set(Method::PUT, "alice@a.test").await;
            assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("invalid")));
            assert_eq!(set(Method::PUT, "nobody").await.0, StatusCode::BAD_REQUEST);
        })
        .await;
    }
}
