//! How a page is written.

use std::fmt::Write as _;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, StatusCode, header};
use model::Refusal;

use crate::{
    Error, Needs, Route, Services,
    endpoint::{PlainAsk, plain_endpoint},
    error::told,
};

/// The style of all pages.
pub(super) fn routes() -> Vec<Route> {
    vec![plain_endpoint(Method::GET, "/oauth2/style.css", Needs::Nobody, style)]
}

async fn style(_: PlainAsk) -> Result<Response, Error> {
    let headers = [
        (header::CONTENT_TYPE, "text/css"),
        (header::CACHE_CONTROL, "public, max-age=3600"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, include_str!("style.css")).into_response())
}

/// The path before `/oauth2` by which browsers reach this server, without a slash at the end.
pub(super) fn prefix(services: &Services) -> String {
    let url = services.public_baseurl.as_deref().and_then(|base| url::Url::parse(base).ok());
    url.map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default()
}

/// A page.
pub(super) struct Page<'a> {
    /// The status of the answer.
    pub(super) status: StatusCode,
    /// What stands over it; plain text.
    pub(super) title: &'a str,
    /// What stands on it, in HTML.
    pub(super) body: String,
    /// Where else than here a form of it may lead to: the origin or the scheme of a client. A browser holds the policy against the redirect
    /// that answers a form, too.
    pub(super) leads_to: Option<String>,
}

impl Page<'_> {
    pub(super) fn new(title: &str, body: String) -> Page<'_> {
        Page { status: StatusCode::OK, title, body, leads_to: None }
    }

    pub(super) fn render(self, services: &Services) -> Response {
        let Self { status, title, body, leads_to } = self;
        let (title, prefix) = (escape(title), prefix(services));
        let server = escape(services.peers.server_name().as_str());
        let html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"robots\" content=\"noindex\"><title>{title} · {server}</title>\
             <link rel=\"stylesheet\" href=\"{prefix}/oauth2/style.css\"></head>\
             <body><main><p class=\"server\">{server}</p><h1>{title}</h1>\n{body}</main></body></html>"
        );
        let policy = format!(
            "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' {}",
            leads_to.unwrap_or_default()
        );
        let policy = HeaderValue::from_str(policy.trim_end()).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (status, headers, html).into_response()
    }
}

/// A page that says why something was not done.
pub(super) fn refused(services: &Services, refusal: &(dyn Refusal + 'static)) -> Response {
    let message = told(refusal);
    let status = match Error::of(refusal) {
        Error::Matrix { status, .. } => status,
        Error::Uiaa(_) => StatusCode::UNAUTHORIZED,
    };
    let body = format!("<p class=\"error\">{}</p>", escape(&message));
    Page { status, ..Page::new("That did not work", body) }.render(services)
}

/// A page that says that a form is not one of this browser's.
pub(super) fn stale_form(services: &Services) -> Response {
    let body = "<p class=\"error\">This form is too old, or was not made for this browser. Go back, load the page anew, and try \
                again.</p>";
    Page { status: StatusCode::FORBIDDEN, ..Page::new("That did not work", body.to_owned()) }.render(services)
}

/// 303, so that what follows is a GET.
pub(super) fn redirect(to: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(to) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// Text as HTML has it, in content and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Fields that nobody sees.
pub(super) fn hidden(fields: &[(&str, &str)]) -> String {
    let mut html = String::new();
    for (name, value) in fields {
        let _ = write!(html, "<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value));
    }
    html
}

/// Text as an address has it.
pub(super) fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
