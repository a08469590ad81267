//! The page on which somebody allows a client to act for them.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#authorisation-code-flow>

use axum::response::Response;
use http::Method;
use model::Refusal as _;
use ruma::UserId;
use url::{Url, form_urlencoded::Serializer};
use users::oauth::{AUTHORIZATION_CODE, CodeWish, OauthClient, OauthError, Scope};

use super::{
    base,
    form::Form,
    page::{self, Page, escape},
    visitor::Visitor,
};
use crate::{
    Error, Needs, Route, Services,
    endpoint::{PlainAsk, plain_endpoint},
};
/// RFC 7636, 4.2: the length of a SHA-256 in base64url.
const CHALLENGE: usize = 43;

/// The page of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::GET, "/oauth2/authorize", Needs::Nobody, show),
        plain_endpoint(Method::POST, "/oauth2/authorize", Needs::Nobody, decide),
    ]
}

/// Where the browser goes with the answer.
struct Way {
    client: OauthClient,
    redirect_uri: String,
    state: Option<String>,
    in_fragment: bool,
}

/// What is asked for.
struct Wish {
    way: Way,
    scope: Scope,
    challenge: String,
}

/// Why nothing is shown.
enum Refused {
    /// The client isn't known, or the address is none of its own: the browser stays here.
    Here(OauthError),
    /// The client is told.
    There(Box<Way>, OauthError),
}

async fn show(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let wish = match read(&ask).await {
        Ok(wish) => wish,
        Err(refused) => return Ok(answer_refused(refused, services)),
    };
    let visitor = Visitor::of(&ask).await?;
    let Some(user_id) = &visitor.user else {
        return Ok(visitor.sign_in(&format!("authorize?{}", query(&ask)), services));
    };
    let page = consent(&wish, user_id, &visitor, services);
    Ok(visitor.remembered(page.render(services), services))
}

async fn decide(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let wish = match read(&ask).await {
        Ok(wish) => wish,
        Err(refused) => return Ok(answer_refused(refused, services)),
    };
    let form = match Form::parse(&ask.body) {
        Ok(form) => form,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    let then = format!("authorize?{}", query(&ask));
    let Some(user_id) = &visitor.user else { return Ok(visitor.sign_in(&then, services)) };
    if !visitor.has_sent(&form, services) {
        return Ok(page::stale_form(services));
    }
    match form.get("decision") {
        Some("allow") => {
            let Wish { way, scope, challenge } = &wish;
            let wish = CodeWish { client: &way.client, redirect_uri: &way.redirect_uri, scope, challenge };
            let code = services.users.issue_code(user_id, wish).await?;
            Ok(way.back(&[("code", &code)]))
        }
        Some("switch") => {
            services.users.close_browser(&visitor.secret).await?;
            Ok(visitor.sign_in(&then, services))
        }
        _ => Ok(wish.way.refuse(&OauthError::Denied)),
    }
}

fn query(ask: &PlainAsk) -> &str {
    ask.parts.uri.query().unwrap_or_default()
}

fn answer_refused(refused: Refused, services: &Services) -> Response {
    match refused {
        Refused::Here(error) => page::refused(services, &error),
        Refused::There(way, error) => way.refuse(&error),
    }
}

async fn read(ask: &PlainAsk) -> Result<Wish, Refused> {
    let form = Form::parse(query(ask).as_bytes()).map_err(Refused::Here)?;
    let here = Refused::Here;
    let client_id = form.need("client_id", "`client_id` is missing").map_err(here)?;
    let client = ask.services.users.oauth_client(client_id).await.map_err(here)?;
    let redirect_uri = form.need("redirect_uri", "`redirect_uri` is missing").map_err(here)?;
    if !client.may_redirect_to(redirect_uri) {
        return Err(Refused::Here(OauthError::Request("`redirect_uri` is none that the client has registered")));
    }
    let way = Way {
        redirect_uri: redirect_uri.to_owned(),
        state: form.get("state").map(ToOwned::to_owned),
        in_fragment: form.get("response_mode") == Some("fragment"),
        client,
    };
    match check(&form, &way) {
        Ok((scope, challenge)) => Ok(Wish { way, scope, challenge }),
        Err(error) => Err(Refused::There(Box::new(way), error)),
    }
}

fn check(form: &Form, way: &Way) -> Result<(Scope, String), OauthError> {
    if form.get("response_type") != Some("code") {
        return Err(OauthError::Request("`response_type` is not `code`"));
    }
    if !matches!(form.get("response_mode"), None | Some("query" | "fragment")) {
        return Err(OauthError::Request("`response_mode` is neither `query` nor `fragment`"));
    }
    if !way.client.has_grant(AUTHORIZATION_CODE) {
        return Err(OauthError::UnauthorizedClient);
    }
    if form.get("code_challenge_method") != Some("S256") {
        return Err(OauthError::Request("`code_challenge_method` is not `S256`"));
    }
    let challenge = form.need("code_challenge", "`code_challenge` is missing")?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if challenge.len() != CHALLENGE || !challenge.bytes().all(is_allowed) {
        return Err(OauthError::Request("`code_challenge` is no SHA-256 in base64url without padding"));
    }
    Ok((Scope::parse(form.text("scope"))?, challenge.to_owned()))
}

impl Way {
    /// Sends the browser back to the client with these.
    fn back(&self, fields: &[(&str, &str)]) -> Response {
        let mut answer = Serializer::new(String::new());
        answer.extend_pairs(fields);
        if let Some(state) = &self.state {
            answer.append_pair("state", state);
        }
        let between = match (self.in_fragment, self.redirect_uri.contains('?')) {
            (true, _) => '#',
            (false, true) => '&',
            (false, false) => '?',
        };
        page::redirect(&format!("{}{between}{}", self.redirect_uri, answer.finish()))
    }

    fn refuse(&self, error: &OauthError) -> Response {
        let code = error.code().unwrap_or("server_error");
        self.back(&[("error", code), ("error_description", &error.to_string())])
    }

    /// Where it leads, for the policy of a page: an origin, or a private scheme.
    fn origin(&self) -> Option<String> {
        let url = Url::parse(&self.redirect_uri).ok()?;
        Some(match url.origin() {
            origin if origin.is_tuple() => origin.ascii_serialization(),
            _ => format!("{}:", url.scheme()),
        })
    }
}

fn consent(wish: &Wish, user_id: &UserId, visitor: &Visitor, services: &Services) -> Page<'static> {
    let way = &wish.way;
    let place = way.origin().unwrap_or_default();
    let body = format!(
        "{about}\
         <p>You are signed in as <strong>{user}</strong>. You will be sent to <code>{place}</code>.</p>\
         <form method=\"post\">{fields}\
         <button name=\"decision\" value=\"allow\">Allow</button>\
         <button class=\"second\" name=\"decision\" value=\"deny\">Refuse</button>\
         <button class=\"second\" name=\"decision\" value=\"switch\">Use another account</button></form>",
        about = about(&way.client, wish.scope.device_id.as_str()),
        user = escape(user_id.as_str()),
        place = escape(&place),
        fields = visitor.form_fields(services),
    );
    Page { leads_to: Some(place), ..Page::new("Allow access to your account?", body) }
}

/// Who asks, and for what.
pub(super) fn about(client: &OauthClient, device_id: &str) -> String {
    let link = |uri: &Option<String>, name: &str| {
        let to = |uri: &String| format!(" <a href=\"{}\" rel=\"noreferrer\">{name}</a>", escape(uri));
        uri.as_ref().map(to).unwrap_or_default()
    };
    format!(
        "<p><strong>{name}</strong> (<a href=\"{uri}\" rel=\"noreferrer\">{uri}</a>) asks to act for you: to read your messages, to \
         write in your name, and to change your rooms and your profile. It will be the device <code>{device}</code> among your \
         sessions, where you can end it.</p><p>{terms}{policy}</p>",
        name = escape(client.name()),
        uri = escape(&client.metadata.client_uri),
        device = escape(device_id),
        terms = link(&client.metadata.tos_uri, "Terms"),
        policy = link(&client.metadata.policy_uri, "Privacy"),
    )
}
