//! Signing in by another provider, for a client that wants a login token and for this server's own pages.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#sso-client-loginauthentication>

use axum::response::Response;
use http::{Method, StatusCode};
use model::{Kind, Refusal};
use url::Url;
use users::{
    oauth::OauthError,
    sso::{Goal, SsoError},
};

use super::{
    form::Form,
    page::{self, Page, encode, escape},
    sign_in::{checked_then, let_in, providers},
    visitor::Visitor,
};
use crate::{
    Error, Needs, Route, Services,
    endpoint::{PlainAsk, plain_endpoint},
};

/// Schemes by which a browser would run something, or read a file, instead of going to a client.
const NEVER: [&str; 7] = ["javascript", "data", "vbscript", "about", "blob", "file", "view-source"];

/// The endpoints and pages of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::GET, "/_matrix/client/v3/login/sso/redirect", Needs::Nobody, redirect)
            .also_at("/_matrix/client/r0/login/sso/redirect"),
        plain_endpoint(Method::GET, "/_matrix/client/v3/login/sso/redirect/{idp_id}", Needs::Nobody, redirect)
            .also_at("/_matrix/client/r0/login/sso/redirect/{idp_id}"),
        plain_endpoint(Method::GET, "/oauth2/sso", Needs::Nobody, choose),
        plain_endpoint(Method::GET, "/oauth2/sso/with/{idp_id}", Needs::Nobody, begin),
        plain_endpoint(Method::GET, "/oauth2/sso/callback", Needs::Nobody, finish),
    ]
}

/// Whether people may sign in by another provider.
pub(crate) fn has_sso(services: &Services) -> bool {
    services.public_baseurl.is_some() && !services.users.sso_providers().is_empty()
}

/// A client sends a browser here. It goes on to a page under the address that this server's cookies are for.
async fn redirect(ask: PlainAsk) -> Result<Response, Error> {
    let services = &ask.services;
    if !has_sso(services) {
        return Err(Error::unrecognized());
    }
    let query = Form::parse(ask.parts.uri.query().unwrap_or_default().as_bytes())
        .map_err(|error| Error::invalid_param(error.to_string()))?;
    let redirect_url = query.get("redirectUrl").ok_or_else(|| Error::missing_param("`redirectUrl` is missing"))?;
    check_redirect_url(redirect_url).map_err(|error| Error::invalid_param(error.to_string()))?;
    let (known, asked) = (services.users.sso_providers(), ask.arguments.first());
    let provider = match (asked, known) {
        (Some(id), _) => {
            let found = known.iter().find(|provider| provider.id == *id);
            Some(found.ok_or_else(|| Error::not_found("this server knows no such provider"))?)
        }
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let base = services.public_baseurl.as_deref().unwrap_or_default();
    let page = provider.map(|provider| format!("/with/{}", encode(&provider.id))).unwrap_or_default();
    Ok(page::redirect(&format!("{base}/oauth2/sso{page}?redirectUrl={}", encode(redirect_url))))
}

async fn choose(ask: PlainAsk) -> Result<Response, Error> {
    let services = &ask.services;
    let goal = match goal_of(&ask) {
        Ok(goal) => goal,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let query = match &goal {
        Goal::LoginToken { redirect_url } => format!("redirectUrl={}", encode(redirect_url)),
        Goal::Page { then } => format!("then={}", encode(then)),
    };
    Ok(Page::new("Sign in", providers(&query, services)).render(services))
}

async fn begin(ask: PlainAsk) -> Result<Response, Error> {
    let services = &ask.services;
    let id = ask.arguments.first().map(String::as_str).unwrap_or_default();
    let goal = match goal_of(&ask) {
        Ok(goal) => goal,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    match services.users.begin_sso(id, &goal, &visitor.secret).await {
        Ok(there) => Ok(visitor.remembered(page::redirect(&there), services)),
        Err(error) => Ok(page::refused(services, &error)),
    }
}

async fn finish(ask: PlainAsk) -> Result<Response, Error> {
    let services = &ask.services;
    let query = match Form::parse(ask.parts.uri.query().unwrap_or_default().as_bytes()) {
        Ok(query) => query,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    let answer = match (query.get("code"), query.get("error")) {
        (Some(code), None) => Ok(code),
        (_, error) => Err(error.unwrap_or("it sent no code")),
    };
    let finished = match services.users.finish_sso(query.text("state"), answer, &visitor.secret).await {
        Ok(finished) => finished,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    match finished.goal {
        Goal::Page { then } => let_in(&finished.user_id, &then, services).await,
        Goal::LoginToken { redirect_url } => match services.users.login_token_for(&finished.user_id).await {
            Ok(token) => hand_over(&redirect_url, &token, finished.user_id.as_str(), services),
            Err(error) => Ok(page::refused(services, &error)),
        },
    }
}

/// Gives a client the login token that it wants, if its address is trusted; or else if whoever has signed in says so.
fn hand_over(redirect_url: &str, token: &str, user_id: &str, services: &Services) -> Result<Response, Error> {
    let mut url = Url::parse(redirect_url).map_err(|_| Error::invalid_param("`redirectUrl` is no address"))?;
    url.query_pairs_mut().append_pair("loginToken", token);
    if services.users.is_trusted_redirect(redirect_url) {
        return Ok(page::redirect(url.as_str()));
    }
    let place = match url.host_str() {
        Some(host) => format!("{}://{host}", url.scheme()),
        None => format!("{}:", url.scheme()),
    };
    let body = format!(
        "<p>You are signed in as <strong>{user}</strong>. <strong>{place}</strong> will be able to act for you: to read your messages, \
         and to write in your name.</p><p>If you don't know it, close this page.</p>\
         <a class=\"button\" href=\"{href}\" rel=\"noreferrer\">Continue to {place}</a>",
        user = escape(user_id),
        place = escape(&place),
        href = escape(url.as_str()),
    );
    Ok(Page { status: StatusCode::OK, ..Page::new("Let this client in?", body) }.render(services))
}

/// What a sign-in is for, as its address says.
fn goal_of(ask: &PlainAsk) -> Result<Goal, SignInFault> {
    if !has_sso(&ask.services) {
        return Err(SsoError::UnknownProvider.into());
    }
    let query = Form::parse(ask.parts.uri.query().unwrap_or_default().as_bytes())?;
    match query.get("redirectUrl") {
        Some(redirect_url) => {
            check_redirect_url(redirect_url)?;
            Ok(Goal::LoginToken { redirect_url: redirect_url.to_owned() })
        }
        None => Ok(Goal::Page { then: checked_then(query.get("then").unwrap_or("account"))?.to_owned() }),
    }
}

fn check_redirect_url(text: &str) -> Result<(), OauthError> {
    const WRONG: OauthError = OauthError::Request("`redirectUrl` is no address to which a login token could go");
    let url = Url::parse(text).map_err(|_| WRONG)?;
    if text.len() > 4_096 || NEVER.contains(&url.scheme()) { Err(WRONG) } else { Ok(()) }
}

/// Why a sign-in is not begun.
#[derive(Debug, thiserror::Error)]
enum SignInFault {
    #[error(transparent)]
    Sso(#[from] SsoError),
    #[error(transparent)]
    Request(#[from] OauthError),
}

impl Refusal for SignInFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Sso(error) => error.kind(),
            Self::Request(error) => error.kind(),
        }
    }
}
