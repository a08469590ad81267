//! The page on which people say who they are.

use axum::response::Response;
use http::{Method, StatusCode};
use ruma::OwnedUserId;
use users::{LoginError, SignIn, oauth::OauthError};

use super::{
    base,
    form::Form,
    page::{self, Page, encode, escape, hidden},
    visitor::{Visitor, remember},
};
use crate::{
    Error, Needs, Route, Services,
    endpoint::{PlainAsk, plain_endpoint},
    error::told,
};

/// The longest `then`, in bytes.
const LONGEST: usize = 8_192;

/// The page of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::GET, "/oauth2/login", Needs::Nobody, show),
        plain_endpoint(Method::POST, "/oauth2/login", Needs::Nobody, sign_in),
    ]
}

/// Where somebody goes who has signed in: another page of this server, and nowhere else.
pub(super) fn checked_then(then: &str) -> Result<&str, OauthError> {
    let page = then.split('?').next().unwrap_or_default();
    let is_one = matches!(page, "authorize" | "link" | "account");
    if !is_one || then.len() > LONGEST || then.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(OauthError::Request("`then` is no page of this server that one signs in for"));
    }
    Ok(then)
}

/// What the page is filled in with.
#[derive(Default)]
struct Filled<'a> {
    name: &'a str,
    /// The password was right, and the code of the second factor is asked for.
    second: Option<(&'a str, &'a str)>,
    error: Option<&'a LoginError>,
}

async fn show(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let then = match then_of(&ask) {
        Ok(then) => then,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    if visitor.user.is_some() {
        return Ok(page::redirect(&format!("{}/oauth2/{then}", page::prefix(services))));
    }
    Ok(form_page(&Filled::default(), &then, &visitor, services))
}

async fn sign_in(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let (then, form) = match then_of(&ask).and_then(|then| Ok((then, Form::parse(&ask.body)?))) {
        Ok(read) => read,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    if !visitor.has_sent(&form, services) {
        return Ok(page::stale_form(services));
    }
    let name = form.text("name");
    let entered = match form.get("proof") {
        Some(proof) => services
            .users
            .sign_in_by_code(name, proof, form.text("code"), &visitor.secret, ask.address)
            .await
            .map(SignIn::Done),
        None => services.users.sign_in(name, form.text("password"), &visitor.secret, ask.address).await,
    };
    match entered {
        Ok(SignIn::Done(user_id)) => let_in(&user_id, &then, services).await,
        Ok(SignIn::CodeNeeded { user_id, proof }) => {
            let filled = Filled { second: Some((user_id.as_str(), &proof)), ..Filled::default() };
            Ok(form_page(&filled, &then, &visitor, services))
        }
        Err(error) => {
            let second = form.get("proof").filter(|_| matches!(error, LoginError::WrongCode));
            let filled = Filled { name, second: second.map(|proof| (name, proof)), error: Some(&error) };
            Ok(form_page(&filled, &then, &visitor, services))
        }
    }
}

/// Somebody has signed in: they go on to the page that they came for.
pub(super) async fn let_in(user_id: &OwnedUserId, then: &str, services: &Services) -> Result<Response, Error> {
    let secret = services.users.open_browser(user_id).await?;
    let to = format!("{}/oauth2/{then}", page::prefix(services));
    Ok(remember(page::redirect(&to), &secret, services))
}

fn then_of(ask: &PlainAsk) -> Result<String, OauthError> {
    let query = Form::parse(ask.parts.uri.query().unwrap_or_default().as_bytes())?;
    checked_then(query.get("then").unwrap_or("account")).map(ToOwned::to_owned)
}

fn form_page(filled: &Filled<'_>, then: &str, visitor: &Visitor, services: &Services) -> Response {
    let error = match filled.error {
        Some(error) => format!("<p class=\"error\">{}</p>", escape(&told(error))),
        None => String::new(),
    };
    let fields = match filled.second {
        Some((user_id, proof)) => format!(
            "{}<p>{}</p><label>Code of your second factor<input name=\"code\" autocomplete=\"one-time-code\" required autofocus></label>",
            hidden(&[("name", user_id), ("proof", proof)]),
            escape(user_id),
        ),
        None => format!(
            "<label>User name<input name=\"name\" value=\"{}\" autocomplete=\"username\" autocapitalize=\"none\" required></label>\
             <label>Password<input name=\"password\" type=\"password\" autocomplete=\"current-password\" required></label>",
            escape(filled.name),
        ),
    };
    let others =
        if filled.second.is_some() { String::new() } else { providers(&format!("then={}", encode(then)), services) };
    let body = format!(
        "{error}<form method=\"post\">{token}{fields}<button>Sign in</button></form>{others}",
        token = visitor.form_fields(services),
    );
    let status = match filled.error {
        Some(LoginError::Limited(_)) => StatusCode::TOO_MANY_REQUESTS,
        Some(LoginError::Store(_) | LoginError::Vault(_) | LoginError::Busy(_)) => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) => StatusCode::FORBIDDEN,
        None => StatusCode::OK,
    };
    visitor.remembered(Page { status, ..Page::new("Sign in", body) }.render(services), services)
}

/// Who else vouches for people, as links with this query.
pub(super) fn providers(query: &str, services: &Services) -> String {
    let prefix = page::prefix(services);
    let link = |provider: &users::sso::SsoProvider| {
        let (id, name) = (encode(&provider.id), escape(&provider.name));
        format!(
            "<a class=\"button second\" href=\"{prefix}/oauth2/sso/with/{id}?{}\">Sign in with {name}</a>",
            escape(query)
        )
    };
    services.users.sso_providers().iter().map(link).collect()
}
