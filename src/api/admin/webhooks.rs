//! Webhooks: addresses that are told what happens here, or asked before it does.

use integrations::{AnyWebhook, webhooks::WebhookWish};
use model::{Millis, Position};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::staff::{Admin, Tender, Viewer};
use crate::{
    Problem,
    native::{Answer, Call, Created, Endpoint, Nothing, delete, get, post},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/webhooks", "The webhooks: where to, how far each has come, and what went wrong.", all),
        post(
            "/api/v1/admin/webhooks",
            "Makes a webhook, which is told what happens from now on, or asked before.",
            create,
        )
        .explained(
            "With `when` `before` it is asked before the `acts`, and may refuse or change them. `secret` of the answer \
                 is told this once: requests are signed with it, see docs/webhooks.md.",
        ),
        delete("/api/v1/admin/webhooks/{id}", "Removes a webhook, with what it did not take.", remove),
        post("/api/v1/admin/webhooks/{id}/replay", "Tells a webhook again what came after a position.", replay)
            .explained(
                "Also starts one again that answered 410. Positions stand in messages, and in the list of webhooks.",
            ),
        get(
            "/api/v1/admin/webhooks/{id}/dead-letters",
            "Messages that a webhook did not take, the oldest first.",
            letters,
        ),
        delete(
            "/api/v1/admin/webhooks/{id}/dead-letters",
            "Forgets the messages that a webhook did not take, up to a moment.",
            forget,
        ),
    ]
}

/// A webhook that is there.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct WebhookView(AnyWebhook);

/// All webhooks.
#[derive(Serialize, ToSchema)]
struct AllWebhooks {
    /// Those that are told what happens, by age; then those that are asked, in the order in which they are.
    webhooks: Vec<WebhookView>,
}

/// A webhook that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct NewWebhook(WebhookWish);

/// A webhook that was made.
#[derive(Serialize, ToSchema)]
struct MadeWebhook {
    /// As it is now.
    #[serde(flatten)]
    webhook: WebhookView,
    /// What requests are signed with. It is told this once.
    secret: String,
}

/// From where on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Replay {
    /// A position of the stream: what came after it is told again.
    from: i64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// How many at most; left out: 100.
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Upto {
    /// Those that were given up at this moment or before, milliseconds since 1970.
    upto: Millis,
}

/// Messages that were not taken.
#[derive(Serialize, ToSchema)]
struct DeadLetters {
    /// The oldest first.
    dead_letters: Vec<DeadLetter>,
}

/// A message that was not taken.
#[derive(Serialize, ToSchema)]
struct DeadLetter {
    /// Under which routing key.
    routing_key: String,
    /// As it was told.
    #[schema(value_type = Object)]
    envelope: serde_json::Value,
    /// What came of the last attempt.
    reason: String,
    /// When it was given up, milliseconds since 1970.
    at: Millis,
}

async fn all(call: Call<Viewer>) -> Answer<AllWebhooks> {
    let webhooks = call.services.webhooks.all().await?;
    Ok(AllWebhooks { webhooks: webhooks.into_iter().map(WebhookView).collect() })
}

async fn create(call: Call<Admin, Nothing, NewWebhook>) -> Answer<Created<MadeWebhook>> {
    let author = call.caller.session.user_id.as_str();
    let made = call.services.webhooks.create(author, call.body.0).await?;
    Ok(Created(MadeWebhook { webhook: WebhookView(made.webhook), secret: made.secret }))
}

async fn remove(call: Call<Admin>) -> Answer<Nothing> {
    let id: String = call.argument("id")?;
    call.services.webhooks.remove(call.caller.session.user_id.as_str(), &id).await?;
    Ok(Nothing)
}

async fn replay(call: Call<Tender, Nothing, Replay>) -> Answer<Nothing> {
    let id: String = call.argument("id")?;
    call.services.webhooks.replay(&id, Position(call.body.from)).await?;
    Ok(Nothing)
}

async fn letters(call: Call<Viewer, Page>) -> Answer<DeadLetters> {
    let id: String = call.argument("id")?;
    let limit = call.query.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::invalid("`limit` must be 1 to 1000").with("field", "limit"));
    }
    let letters = call.services.webhooks.dead_letters(&id, limit).await?;
    let shown = letters.into_iter().map(|letter| DeadLetter {
        routing_key: letter.routing_key,
        envelope: serde_json::from_str(&letter.envelope).unwrap_or_default(),
        reason: letter.reason,
        at: letter.at,
    });
    Ok(DeadLetters { dead_letters: shown.collect() })
}

async fn forget(call: Call<Admin, Upto>) -> Answer<Nothing> {
    let id: String = call.argument("id")?;
    call.services.webhooks.forget_dead_letters(&id, call.query.upto).await?;
    Ok(Nothing)
}
