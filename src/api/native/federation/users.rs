//! Users of this server, as other servers may see them.

use model::{
    Address,
    peer::{Capability, Fact, Grant},
};
use peers::Scope;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use users::Profile;
use utoipa::{IntoParams, ToSchema};

use super::Peer;
use crate::native::{Answer, Call, Endpoint, get};

/// Whom one looks for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Search {
    /// A part of a name, three letters at least; the whole of it where the calling server is trusted for no more.
    q: String,
}

/// Who was found.
#[derive(Serialize, ToSchema)]
struct FoundUsers {
    /// 20 at most, by their ids.
    users: Vec<FoundUser>,
    /// There are more: the name should be longer.
    limited: bool,
}

/// A user of this server.
#[derive(Serialize, ToSchema)]
struct FoundUser {
    /// `alice@a.example`.
    #[schema(value_type = String)]
    user_id: Address,
    /// The same as Matrix spells it: `@alice:a.example`.
    matrix_id: String,
    /// As the user wants to be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    /// A picture, as an `mxc://` URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    /// What else the user says of themselves, where the calling server is trusted so far.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    fields: Map<String, Value>,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/federation/users/{user_id}", "One user of this server.", look_up)
            .explained("`user_id` in either spelling, `alice@a.example` or `@alice:a.example`."),
        get("/api/v1/federation/users", "Looks for users of this server.", search).explained(
            "FoundUsers are users who have not opted out. A server that seems to read the whole list, by what it finds or by \
             what it misses, is told `enumeration` for a while.",
        ),
    ]
}

async fn look_up(call: Call<Peer>) -> Answer<FoundUser> {
    let user_id = call.argument::<Address>("user_id")?;
    let (peers, users) = (&call.services.peers, &call.services.users);
    let (server, rooms) = (&call.caller.server, &call.services.rooms);
    let is_acquainted = async |fact| match fact {
        Fact::Acquainted => {
            let user_id = user_id.user_id();
            Ok(rooms.shares_room(user_id, server).await? || rooms.is_contact(user_id, server, None).await?)
        }
        _ => Ok(false),
    };
    let grant = call.caller.check(peers, Scope::Users, Capability::Profiles, is_acquainted).await?;
    let profile = users.profile_for_peer(server, user_id.user_id(), grant).await;
    Ok(shown(user_id, profile.map_err(|error| call.caller.refuse(peers, error))?))
}

async fn search(call: Call<Peer, Search>) -> Answer<FoundUsers> {
    let (peers, users) = (&call.services.peers, &call.services.users);
    let grant = call.caller.check(peers, Scope::Search, Capability::PeopleSearch, async |_| Ok(false)).await?;
    let found = users.search_for_peer(&call.caller.server, &call.query.q, grant == Grant::Exact).await;
    let found = found.map_err(|error| call.caller.refuse(peers, error))?;
    let people = found.people.into_iter().map(|person| FoundUser {
        matrix_id: person.user_id.to_string(),
        user_id: person.user_id.into(),
        display_name: person.display_name,
        avatar_url: person.avatar_url,
        fields: Map::new(),
    });
    Ok(FoundUsers { users: people.collect(), limited: found.is_limited })
}

fn shown(user_id: Address, profile: Profile) -> FoundUser {
    let mut fields: Map<String, Value> = profile.into_iter().collect();
    let mut text = |field| fields.remove(field).and_then(|value| value.as_str().map(str::to_owned));
    let (display_name, avatar_url) = (text("displayname"), text("avatar_url"));
    FoundUser { matrix_id: user_id.user_id().to_string(), user_id, display_name, avatar_url, fields }
}
