//! The page on which people look after their account.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-account-management>

use std::fmt::Write as _;

use axum::response::Response;
use http::Method;
use ruma::{DeviceId, UserId};
use serde_json::Value;
use users::Device;

use super::{
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
        plain_endpoint(Method::GET, "/oauth2/account", Needs::Nobody, show),
        plain_endpoint(Method::POST, "/oauth2/account", Needs::Nobody, change),
    ]
}

async fn show(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let query = ask.parts.uri.query().unwrap_or_default();
    let form = match Form::parse(query.as_bytes()) {
        Ok(form) => form,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    let Some(user_id) = &visitor.user else {
        let then = if query.is_empty() { "account".to_owned() } else { format!("account?{query}") };
        return Ok(visitor.sign_in(&then, services));
    };
    let token = visitor.form_fields(services);
    let page = match form.text("action").trim_start_matches("org.matrix.") {
        "devices_list" | "sessions_list" => sessions(user_id, services).await?,
        "device_view" | "session_view" | "device_delete" | "session_end" => {
            let device_id = form.text("device_id").to_owned();
            match services.users.device_of(user_id, <&DeviceId>::from(device_id.as_str())).await {
                Ok(device) => session(&device, client_of(user_id, &device, services).await?, &token),
                Err(error) => return Ok(page::refused(services, &error)),
            }
        }
        "cross_signing_reset" => key_reset(&token),
        _ => profile(user_id, &token, services).await?,
    };
    Ok(page.render(services))
}

async fn change(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let services = &ask.services;
    let form = match Form::parse(&ask.body) {
        Ok(form) => form,
        Err(error) => return Ok(page::refused(services, &error)),
    };
    let visitor = Visitor::of(&ask).await?;
    let Some(user_id) = &visitor.user else { return Ok(visitor.sign_in("account", services)) };
    if !visitor.has_sent(&form, services) {
        return Ok(page::stale_form(services));
    }
    let here = format!("{}/oauth2/account", page::prefix(services));
    match form.text("do") {
        "rename" => {
            let name = Value::from(form.text("display_name").trim());
            match services.users.set_profile_field(user_id, user_id, "displayname", &name).await {
                Ok(true) => services.rooms.update_profile(user_id).await?,
                Ok(false) => {}
                Err(error) => return Ok(page::refused(services, &error)),
            };
            Ok(page::redirect(&here))
        }
        "end" => match services.users.end_own_session(user_id, <&DeviceId>::from(form.text("device_id"))).await {
            Ok(()) => Ok(page::redirect(&format!("{here}?action=org.matrix.devices_list"))),
            Err(error) => Ok(page::refused(services, &error)),
        },
        "reset_keys" => match services.users.allow_signing_key_reset(user_id).await {
            Ok(()) => {
                let body =
                    "<p>Go back to your client within ten minutes: it may replace your cross-signing keys now.</p>";
                Ok(Page::new("Allowed", body.to_owned()).render(services))
            }
            Err(error) => Ok(page::refused(services, &error)),
        },
        _ => {
            services.users.close_browser(&visitor.secret).await?;
            Ok(visitor.sign_in("account", services))
        }
    }
}

async fn profile(user_id: &UserId, token: &str, services: &Services) -> Result<Page<'static>, Error> {
    let profile = services.users.profile(Some(user_id), user_id).await?;
    let name = profile.get("displayname").and_then(Value::as_str).unwrap_or_default().to_owned();
    let body = format!(
        "<p>You are <strong>{user}</strong>.</p>\
         <form method=\"post\">{token}{rename}<label>Display name<input name=\"display_name\" value=\"{name}\"></label>\
         <button>Save</button></form>\
         <a class=\"button second\" href=\"?action=org.matrix.devices_list\">Your sessions</a>\
         <form method=\"post\">{token}{leave}<button class=\"second\">Sign out of this page</button></form>",
        user = escape(user_id.as_str()),
        name = escape(&name),
        rename = hidden(&[("do", "rename")]),
        leave = hidden(&[("do", "sign_out")]),
    );
    Ok(Page::new("Your account", body))
}

async fn sessions(user_id: &UserId, services: &Services) -> Result<Page<'static>, Error> {
    let mut body = "<ul>".to_owned();
    for device in services.users.devices(user_id).await? {
        let (id, name) = (device.device_id.as_str(), device.display_name.as_deref().unwrap_or("(without a name)"));
        let _ = write!(
            body,
            "<li><a href=\"?action=org.matrix.device_view&amp;device_id={}\">{}</a> <code>{}</code>{}</li>",
            encode(id),
            escape(name),
            escape(id),
            seen(&device),
        );
    }
    body.push_str("</ul><a class=\"button second\" href=\"?\">Back</a>");
    Ok(Page::new("Your sessions", body))
}

fn session(device: &Device, client: Option<String>, token: &str) -> Page<'static> {
    let id = device.device_id.as_str();
    let client = client.map(|client| format!("<p>It was let in as <strong>{}</strong>.</p>", escape(&client)));
    let application = device.application.as_ref().map(|name| format!("<p>It was opened by {}.</p>", escape(name)));
    let body = format!(
        "<p><strong>{name}</strong> <code>{id}</code>{seen}</p>{client}{application}\
         <p>If you end it, this device is signed out. What it can't read from a backup it loses.</p>\
         <form method=\"post\">{token}{fields}<button class=\"danger\">End this session</button></form>\
         <a class=\"button second\" href=\"?action=org.matrix.devices_list\">Back</a>",
        name = escape(device.display_name.as_deref().unwrap_or("(without a name)")),
        id = escape(id),
        seen = seen(device),
        client = client.unwrap_or_default(),
        application = application.unwrap_or_default(),
        fields = hidden(&[("do", "end"), ("device_id", id)]),
    );
    Page::new("One of your sessions", body)
}

fn key_reset(token: &str) -> Page<'static> {
    let body = format!(
        "<p>A client wants to replace the keys by which your devices and other people know you. If you have lost access to all of your \
         devices and to your recovery key, that is how you begin anew: everybody whom you have verified must verify you again.</p>\
         <p>If you have not just asked for it in a client, don't allow it.</p>\
         <form method=\"post\">{token}{fields}<button class=\"danger\">Allow it for ten minutes</button></form>\
         <a class=\"button second\" href=\"?\">Don't</a>",
        fields = hidden(&[("do", "reset_keys")]),
    );
    Page::new("Replace your cross-signing keys?", body)
}

async fn client_of(user_id: &UserId, device: &Device, services: &Services) -> Result<Option<String>, Error> {
    let sessions = services.users.oauth_sessions(user_id).await?;
    let found = sessions.into_iter().find(|session| session.device_id == device.device_id);
    Ok(found.map(|session| format!("{} ({})", session.client_name, session.client_uri)))
}

fn seen(device: &Device) -> String {
    let Some(at) = device.last_seen_at.and_then(|at| u64::try_from(at).ok()) else { return String::new() };
    let at = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_millis(at));
    let from = device.last_seen_ip.as_ref().map(|address| format!(", at {}", escape(address))).unwrap_or_default();
    format!("<br>last seen {at}{from}")
}
