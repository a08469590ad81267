//! Lists of servers: the one that this deployment publishes, and those of others that it goes by.

use std::collections::BTreeMap;

use model::{Millis, peer::TrustLevel};
use peers::{
    ListError,
    lists::{Base, Edition, EntryChange, Listable, PublishedView, SubscriptionView, Wish, remedy_of},
    trust::Author,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::staff::{Admin, Tender, Viewer};
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, Nothing, delete, get, post, put},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/federation-lists", "The list that is published, and those that are subscribed to.", all),
        get("/api/v1/admin/federation-lists/published", "The list that is published.", published),
        post("/api/v1/admin/federation-lists/published", "Publishes a new version of the list.", publish)
            .explained("What isn't named stays as the version before has it. It is served when this answers."),
        delete("/api/v1/admin/federation-lists/published", "Publishes a version that names nobody.", withdraw),
        get(
            "/api/v1/admin/federation-lists/subscriptions/{publisher}",
            "A list that is subscribed to: how it is, what it says of whom, and what follows.",
            show,
        ),
        put(
            "/api/v1/admin/federation-lists/subscriptions/{publisher}",
            "Subscribes to the list of a server, or changes how.",
            subscribe,
        )
        .explained(SUBSCRIBE),
        delete(
            "/api/v1/admin/federation-lists/subscriptions/{publisher}",
            "Ends a subscription: what the list says counts for nothing, at once.",
            unsubscribe,
        ),
        post("/api/v1/admin/federation-lists/subscriptions/{publisher}/refresh", "Asks for a list now.", refresh)
            .explained(
                "Where it can't be taken, what was taken before goes on, and a problem says why: `list_rollback`, …",
            ),
        delete(
            "/api/v1/admin/federation-lists/alarms/{server}",
            "Ends the alarm of a listed server that showed other keys than its list names.",
            clear_alarm,
        ),
    ]
}

const SUBSCRIBE: &str = "A new subscription asks for the list, and there is none if it can't be taken. Compare `words` of the \
    answer with the publisher's admin. With `revision`, which is what the author has looked at, a change that somebody else made \
    meanwhile is not overwritten: 409 `conflict`.";

/// The list that this server publishes.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct PublishedList(PublishedView);

/// A list that this server goes by.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct ListSubscription(SubscriptionView);

/// All lists.
#[derive(Serialize, ToSchema)]
struct FederationLists {
    /// The one that this server publishes, if it does.
    published: Option<PublishedList>,
    /// Those that it goes by, by publisher.
    subscriptions: Vec<ListSubscription>,
}

/// What a new version says.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ListEdition {
    /// Why: for other admins, and for the log.
    reason: String,
    /// What it begins with: `last`, the version before; `peers`, what is set for single servers here; or `nothing`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    from: Base,
    /// Servers of which it says what is set for them here.
    #[serde(default)]
    peers: Vec<String>,
    /// What it says of others: `{"b.example": {"level": "full", "keys": {"ed25519:a": "…"}, "contact": "…"}}`; `null` instead:
    /// nothing any more.
    #[serde(default)]
    #[schema(value_type = Object)]
    entries: BTreeMap<String, Option<EntryChange>>,
    /// How long others go by it, in milliseconds, a year at most; left out: 30 days.
    #[serde(default)]
    lifetime_ms: Option<Millis>,
    /// Its number, larger than that of the version before; left out: the next one. For a server whose database was lost.
    #[serde(default)]
    version: Option<i64>,
}

/// How to go by a list.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ListWish {
    /// Why: for other admins, and for the log.
    reason: String,
    /// The revision that was looked at; 0: there was none. Left out: whatever is there.
    #[serde(default)]
    revision: Option<i64>,
    /// How far the list can make this server trust others: `full`, `limited`, `restricted` or `blocked`. A new subscription
    /// needs it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    highest_level: Option<TrustLevel>,
    /// The only keys that may sign it, by their ids, base64; left out for a new subscription: those that the publisher is pinned
    /// to as a peer, or those that it shows.
    #[serde(default)]
    keys: Option<BTreeMap<String, String>>,
    /// Instead: the words of the keys that it shows, as its admin says them by phone.
    #[serde(default)]
    words: Option<String>,
}

/// Why something is taken back.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Reason {
    /// Why: for other admins, and for the log.
    reason: String,
    /// The revision that was looked at, of what has one.
    #[serde(default)]
    revision: Option<i64>,
}

fn author(caller: &Admin, reason: &str) -> Author {
    Author { actor: caller.session.user_id.to_string(), reason: reason.to_owned() }
}

/// With what to do about it.
fn refused(error: ListError) -> Problem {
    match &error {
        ListError::Fault { fault, .. } => {
            let remedy = remedy_of(fault.code());
            Problem::from(error).with("remedy", remedy)
        }
        _ => error.into(),
    }
}

async fn all(call: Call<Viewer>) -> Answer<FederationLists> {
    let lists = call.services.peers.lists();
    let published = match lists.show_published().await {
        Ok(published) => Some(PublishedList(published)),
        Err(ListError::NotPublished) => None,
        Err(error) => return Err(error.into()),
    };
    let subscriptions = lists.subscriptions().await?;
    Ok(FederationLists { published, subscriptions: subscriptions.into_iter().map(ListSubscription).collect() })
}

async fn published(call: Call<Viewer>) -> Answer<PublishedList> {
    Ok(PublishedList(call.services.peers.lists().show_published().await?))
}

async fn publish(call: Call<Admin, Nothing, ListEdition>) -> Answer<PublishedList> {
    let ListEdition { reason, from, peers, entries, lifetime_ms, version } = call.body;
    let edition = Edition { from, peers, entries, lifetime: lifetime_ms, version };
    let author = author(&call.caller, &reason);
    Ok(PublishedList(call.services.peers.lists().publish(&edition, &author).await?))
}

async fn withdraw(call: Call<Admin, Reason>) -> Answer<PublishedList> {
    let author = author(&call.caller, &call.query.reason);
    Ok(PublishedList(call.services.peers.lists().withdraw(&author).await?))
}

async fn show(call: Call<Viewer>) -> Answer<ListSubscription> {
    let Listable(publisher) = call.argument("publisher")?;
    Ok(ListSubscription(call.services.peers.lists().show(&publisher).await?))
}

async fn subscribe(call: Call<Admin, Nothing, ListWish>) -> Answer<ListSubscription> {
    let Listable(publisher) = call.argument("publisher")?;
    let ListWish { reason, revision, highest_level, keys, words } = call.body;
    let (wish, author) = (Wish { highest_level, keys, words }, author(&call.caller, &reason));
    let lists = call.services.peers.lists();
    Ok(ListSubscription(lists.subscribe(&publisher, &wish, &author, revision).await.map_err(refused)?))
}

async fn unsubscribe(call: Call<Admin, Reason>) -> Answer<Nothing> {
    let Listable(publisher) = call.argument("publisher")?;
    let author = author(&call.caller, &call.query.reason);
    call.services.peers.lists().unsubscribe(&publisher, &author, call.query.revision).await?;
    Ok(Nothing)
}

async fn refresh(call: Call<Tender>) -> Answer<ListSubscription> {
    let Listable(publisher) = call.argument("publisher")?;
    Ok(ListSubscription(call.services.peers.lists().refresh(&publisher).await.map_err(refused)?))
}

async fn clear_alarm(call: Call<Admin, Reason>) -> Answer<Nothing> {
    let Listable(server) = call.argument("server")?;
    let author = author(&call.caller, &call.query.reason);
    call.services.peers.lists().clear_alarm(&server, &author).await?;
    Ok(Nothing)
}
