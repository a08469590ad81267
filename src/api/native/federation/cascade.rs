//! What full peers are told of this server's people.

use integrations::cascade;
use model::peer::Capability;
use peers::Scope;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Peer;
use crate::native::{
    Answer, Call, Endpoint, Unkept,
    directory::{PhonePage, PhoneQuery},
    get,
};

/// From where on, and how much.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DirectoryQuery {
    /// `next` of the last answer; left out: from the beginning.
    #[serde(default)]
    since: Option<String>,
    /// How many entries at most, 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
}

/// A page of this server's directory, see docs/cascade.md.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct DirectoryPage(cascade::Page);

pub(super) fn endpoints() -> Vec<Endpoint> {
    const WHO: &str = "Only for a server that an admin here has made full by its name: 403 `not_trusted` or `not_shared` otherwise. A \
        token needs the scope `cascade`. 404 `cascade_off` where nothing is shared. Told are people who let people of other servers \
        find them, and nobody of other servers. ";
    vec![
        get(cascade::PATH, "People and units of this server, or what has changed of them.", directory).explained(&format!(
            "{WHO}`next` is good for as long as this server's database is the same; with one that isn't this server's, or was another \
             reader's, the answer begins at the beginning, and `from_start` says so."
        )),
        get("/api/v1/cascade/sip-phones", "Looks for SIP phones of people of this server.", phones).explained(WHO),
    ]
}

async fn directory(call: Call<Peer, DirectoryQuery>) -> Answer<Unkept<DirectoryPage>> {
    let peers = &call.services.peers;
    call.caller.check(peers, Scope::Cascade, Capability::Broadcasts, async |_| Ok(false)).await?;
    let DirectoryQuery { since, limit } = &call.query;
    let page = call.services.cascade.page_for(&call.caller.server, since.as_deref(), *limit).await;
    page.map(|page| Unkept(DirectoryPage(page))).map_err(|error| call.caller.refuse(peers, error))
}

async fn phones(call: Call<Peer, PhoneQuery>) -> Answer<Unkept<PhonePage>> {
    let peers = &call.services.peers;
    call.caller.check(peers, Scope::Cascade, Capability::Broadcasts, async |_| Ok(false)).await?;
    let search = call.query.search(Some(peers.server_name().to_owned()))?;
    let found = call.services.cascade.phones_for(&call.caller.server, search).await;
    found.map(|found| Unkept(found.into())).map_err(|error| call.caller.refuse(peers, error))
}
