//! Whether people of other servers find one by searching.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Answer, Call, Endpoint, Nothing, get, put};
use crate::Session;

const PATH: &str = "/api/v1/users/me/discoverability";

/// Who finds one.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Discoverability {
    /// People of other servers find one by searching for a part of one's name, as far as their server is trusted, and their
    /// server is told of one's profile though one shares no room with it.
    by_other_servers: bool,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get(PATH, "Whether people of other servers find one by searching.", find),
        put(PATH, "Lets people of other servers find one by searching, or not.", set),
    ]
}

async fn find(call: Call<Session>) -> Answer<Discoverability> {
    Ok(Discoverability { by_other_servers: call.services.users.is_listed(&call.caller.user_id).await? })
}

async fn set(call: Call<Session, Nothing, Discoverability>) -> Answer<Nothing> {
    call.services.users.set_listed(&call.caller.user_id, call.body.by_other_servers).await?;
    Ok(Nothing)
}
