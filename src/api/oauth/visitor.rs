//! Who looks at a page: a browser, and perhaps somebody who has signed in at it.

use axum::response::Response;
use http::{HeaderValue, header};
use ruma::OwnedUserId;
use users::BROWSER_LIFETIME;

use super::{
    form::Form,
    page::{self, encode, hidden},
};
use crate::{Error, Services, endpoint::PlainAsk};

const COOKIE: &str = "comity_browser";
/// What a form proves itself by.
const FORM_TOKEN: &str = "form_token";

/// A browser.
pub(super) struct Visitor {
    /// What it shows.
    pub(super) secret: String,
    /// It doesn't know that yet.
    is_new: bool,
    /// Who has signed in at it.
    pub(super) user: Option<OwnedUserId>,
}

impl Visitor {
    pub(super) async fn of(ask: &PlainAsk) -> Result<Self, Error> {
        let users = &ask.services.users;
        match shown(ask) {
            Some(secret) => Ok(Self { user: users.at_browser(&secret).await?, secret, is_new: false }),
            None => Ok(Self { secret: users.new_browser_secret(), is_new: true, user: None }),
        }
    }

    /// What every form of a page for this browser has.
    pub(super) fn form_fields(&self, services: &Services) -> String {
        hidden(&[(FORM_TOKEN, &services.users.form_token(&self.secret))])
    }

    /// Whether a form was made for this browser.
    pub(super) fn has_sent(&self, form: &Form, services: &Services) -> bool {
        !self.is_new && services.users.is_form_token(form.text(FORM_TOKEN), &self.secret)
    }

    /// Has the browser remember what it shows, if it doesn't yet.
    pub(super) fn remembered(&self, response: Response, services: &Services) -> Response {
        if self.is_new { remember(response, &self.secret, services) } else { response }
    }

    /// To the page on which one signs in, and then back to `then`.
    pub(super) fn sign_in(&self, then: &str, services: &Services) -> Response {
        let to = format!("{}/oauth2/login?then={}", page::prefix(services), encode(then));
        self.remembered(page::redirect(&to), services)
    }
}

/// Has the browser show `secret` from now on.
pub(super) fn remember(mut response: Response, secret: &str, services: &Services) -> Response {
    let is_tls = services.public_baseurl.as_deref().is_some_and(|base| base.starts_with("https:"));
    let secure = if is_tls { "; Secure" } else { "" };
    let age = BROWSER_LIFETIME.as_secs();
    let cookie = format!("{COOKIE}={secret}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

fn shown(ask: &PlainAsk) -> Option<String> {
    let cookies = ask.parts.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, secret) = pairs.find(|(name, _)| *name == COOKIE)?;
    // Only what this server has made up, so that nobody has a browser show what they have chosen.
    let is_one = secret.strip_prefix("cob_").is_some_and(|rest| {
        rest.len() == 43 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    });
    is_one.then(|| secret.to_owned())
}
