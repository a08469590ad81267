//! What notifies.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>

use axum::response::{IntoResponse as _, Response};
use http::{Method, header};
use ruma::{
    api::client::push::{
        PushRule, RuleKind, delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled,
        get_pushrules_all, get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::AnyPushRuleRef,
};

use crate::{
    Answer, Ask, Error, Needs, Route, Services, Session, endpoint,
    endpoint::{PlainAsk, plain_endpoint},
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(all),
        endpoint(global),
        plain_endpoint(Method::GET, "/_matrix/client/v3/pushrules/global/{kind}/", Needs::User, of_kind),
        plain_endpoint(Method::PUT, "/_matrix/client/v3/pushrules/", Needs::User, nowhere),
        plain_endpoint(Method::GET, "/_matrix/client/v3/pushrules/{*rest}", Needs::User, nowhere),
        plain_endpoint(Method::PUT, "/_matrix/client/v3/pushrules/{*rest}", Needs::User, nowhere),
        endpoint(get),
        endpoint(put),
        endpoint(delete),
        endpoint(is_enabled),
        endpoint(enable),
        endpoint(actions),
        endpoint(set_actions),
    ]
}

async fn find<T>(
    services: &Services,
    session: &Session,
    kind: RuleKind,
    rule_id: &str,
    read: impl FnOnce(AnyPushRuleRef<'_>) -> T,
) -> Result<T, Error> {
    let rules = services.sync.push_rules(&session.user_id).await?;
    rules.get(kind, rule_id).map(read).ok_or_else(|| Error::not_found(format!("you have no push rule `{rule_id}`")))
}

async fn all(ask: Ask<get_pushrules_all::v3::Request>) -> Answer<get_pushrules_all::v3::Response> {
    Ok(get_pushrules_all::v3::Response::new(ask.services.sync.push_rules(&ask.session.user_id).await?))
}

/// The rules of one kind, as servers have always answered it.
async fn of_kind(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let rules = ask.services.sync.push_rules(&session.user_id).await?;
    let rules = serde_json::to_value(&rules).map_err(|error| Error::bad_json(error.to_string()))?;
    let kind = ask.arguments.first().map(String::as_str).unwrap_or_default();
    let of_kind =
        rules.get(kind).ok_or_else(|| Error::invalid_param(format!("there are no push rules of kind `{kind}`")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], of_kind.to_string()).into_response())
}

/// Below the push rules, but none of them, and nothing of one.
async fn nowhere(ask: PlainAsk) -> Result<Response, Error> {
    ask.session().await?;
    let text = "the path is no push rule's: it is global, then a kind, then the rule's id, then nothing, `actions` or `enabled`";
    Err(Error::invalid_param(text))
}

async fn global(ask: Ask<get_pushrules_global_scope::v3::Request>) -> Answer<get_pushrules_global_scope::v3::Response> {
    Ok(get_pushrules_global_scope::v3::Response::new(ask.services.sync.push_rules(&ask.session.user_id).await?))
}

async fn get(ask: Ask<get_pushrule::v3::Request>) -> Answer<get_pushrule::v3::Response> {
    let request = ask.request;
    let rule =
        find(&ask.services, &ask.session, request.kind, &request.rule_id, |rule| PushRule::from(rule.to_owned()));
    Ok(get_pushrule::v3::Response::new(rule.await?))
}

async fn put(ask: Ask<set_pushrule::v3::Request>) -> Answer<set_pushrule::v3::Response> {
    let request = ask.request;
    let (after, before) = (request.after.as_deref(), request.before.as_deref());
    ask.services.sync.put_push_rule(&ask.session.user_id, request.rule, after, before).await?;
    Ok(set_pushrule::v3::Response::new())
}

async fn delete(ask: Ask<delete_pushrule::v3::Request>) -> Answer<delete_pushrule::v3::Response> {
    ask.services.sync.remove_push_rule(&ask.session.user_id, ask.request.kind, &ask.request.rule_id).await?;
    Ok(delete_pushrule::v3::Response::new())
}

async fn is_enabled(ask: Ask<get_pushrule_enabled::v3::Request>) -> Answer<get_pushrule_enabled::v3::Response> {
    let request = ask.request;
    let enabled = find(&ask.services, &ask.session, request.kind, &request.rule_id, |rule| rule.enabled());
    Ok(get_pushrule_enabled::v3::Response::new(enabled.await?))
}

async fn enable(ask: Ask<set_pushrule_enabled::v3::Request>) -> Answer<set_pushrule_enabled::v3::Response> {
    let request = ask.request;
    let user_id = &ask.session.user_id;
    ask.services.sync.enable_push_rule(user_id, request.kind, &request.rule_id, request.enabled).await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

async fn actions(ask: Ask<get_pushrule_actions::v3::Request>) -> Answer<get_pushrule_actions::v3::Response> {
    let request = ask.request;
    let actions = find(&ask.services, &ask.session, request.kind, &request.rule_id, |rule| rule.actions().to_vec());
    Ok(get_pushrule_actions::v3::Response::new(actions.await?))
}

async fn set_actions(ask: Ask<set_pushrule_actions::v3::Request>) -> Answer<set_pushrule_actions::v3::Response> {
    let request = ask.request;
    let user_id = &ask.session.user_id;
    ask.services.sync.set_push_rule_actions(user_id, request.kind, &request.rule_id, request.actions).await?;
    Ok(set_pushrule_actions::v3::Response::new())
}
