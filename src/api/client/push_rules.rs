//! What notifies.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>

use ruma::{
    api::client::push::{
        PushRule, RuleKind, delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled,
        get_pushrules_all, get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::AnyPushRuleRef,
};

use crate::{Answer, Ask, Error, Route, Services, Session, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(all).also_at("/_matrix/client/v3/pushrules"),
        endpoint(global).also_at("/_matrix/client/v3/pushrules/global"),
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
