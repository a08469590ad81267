//! The page on which somebody types the code that a client without a browser shows.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc8628#section-3.3>

use axum::response::Response;
use http::{Method, StatusCode};
use users::oauth::PendingDevice;

use super::{
    authorize::about,
    base,
    form::Form,
    page::{self, Page, encode, escape, hidden},
    visitor::Visitor,
};
use crate::{
    Error, Needs, Route, Services,
    endpoint::{PlainAsk, plain_endpoint},
};

/// The page of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::GET, "/oauth2/link", Needs::Nobody, show),
        plain_endpoint(Method::POST, "/oauth2/link", Needs::Nobody, decide),
    ]
}

async fn show(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let query = match Form::parse(ask.parts.uri.query().unwrap_or_default().as_bytes()) {
        Ok(query) => query,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    let code = query.get("user_code");
    let Some(user_id) = &visitor.user else {
        let then = code.map_or_else(|| "link".to_owned(), |code| format!("link?user_code={}", encode(code)));
        return Ok(visitor.sign_in(&then, services));
    };
    let Some(code) = code else { return Ok(asking(None).render(services)) };
    match services.users.pending_device(code, user_id, ask.address).await {
        Ok(Some(pending)) => Ok(consent(&pending, code, user_id.as_str(), &visitor, services).render(services)),
        Ok(None) => Ok(asking(Some("This code is not known, has expired, or was used.")).render(services)),
        Err(error) => Ok(page::refused(services, &error)),
    }
}

async fn decide(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let form = match Form::parse(&ask.body) {
        Ok(form) => form,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    let Some(user_id) = &visitor.user else { return Ok(visitor.sign_in("link", services)) };
    if !visitor.has_sent(&form, services) {
        return Ok(page::stale_form(services));
    }
    let is_allowed = form.get("decision") == Some("allow");
    match services.users.decide_device_grant(form.text("user_code"), user_id, is_allowed, ask.address).await {
        Ok(true) if is_allowed => {
            Ok(Page::new("Allowed", "<p>Go back to your device: it is signed in now.</p>".to_owned()).render(services))
        }
        Ok(true) => Ok(Page::new("Refused", "<p>The device was not let in.</p>".to_owned()).render(services)),
        Ok(false) => Ok(asking(Some("This code is not known, has expired, or was used.")).render(services)),
        Err(error) => Ok(page::refused(services, &error)),
    }
}

fn asking(error: Option<&str>) -> Page<'static> {
    let status = if error.is_some() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let error = error.map(|error| format!("<p class=\"error\">{}</p>", escape(error))).unwrap_or_default();
    let body = format!(
        "{error}<form method=\"get\"><label>The code that your device shows\
         <input name=\"user_code\" autocomplete=\"off\" autocapitalize=\"characters\" required></label>\
         <button>Continue</button></form>"
    );
    Page { status, ..Page::new("Sign in a device", body) }
}

fn consent(
    pending: &PendingDevice,
    code: &str,
    user_id: &str,
    visitor: &Visitor,
    services: &Services,
) -> Page<'static> {
    let body = format!(
        "{about}<p>You are signed in as <strong>{user}</strong>. Allow this only if <strong>you</strong> have just begun it, and your \
         device shows the code <code>{code}</code>. Nobody else has a reason to send you here.</p>\
         <form method=\"post\">{token}{fields}\
         <button name=\"decision\" value=\"allow\">Allow</button>\
         <button class=\"second\" name=\"decision\" value=\"deny\">Refuse</button></form>",
        about = about(&pending.client, pending.device_id.as_str()),
        user = escape(user_id),
        code = escape(code),
        token = visitor.form_fields(services),
        fields = hidden(&[("user_code", code)]),
    );
    Page::new("Sign in a device?", body)
}
