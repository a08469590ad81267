//! A browser without scripts: it keeps cookies, sends forms with the fields that stand in them, and goes where it is sent when it is told to.

use std::collections::BTreeMap;

use reqwest::{Method, header, redirect::Policy};
use url::{Url, form_urlencoded::Serializer};

/// A browser. Cookies are kept by the host and port that has set them.
pub struct Browser {
    http: reqwest::Client,
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

/// What a browser has been shown.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Where.
    pub url: Url,
    /// The HTTP status.
    pub status: u16,
    /// Where it is sent, if it is.
    pub location: Option<String>,
    /// The Content-Security-Policy.
    pub policy: String,
    /// The page.
    pub html: String,
}

impl Visit {
    /// Where it is sent.
    #[track_caller]
    pub fn sent_to(&self) -> &str {
        let Some(location) = &self.location else {
            panic!("{} sent nobody on, but said {}: {}", self.url, self.status, self.html)
        };
        location
    }

    /// A parameter of the address where it is sent, in the query or in the fragment.
    pub fn sent_with(&self, name: &str) -> Option<String> {
        let to = self.sent_to();
        let (_, fields) = to.split_once(['?', '#'])?;
        let fields = fields.replace('#', "&");
        url::form_urlencoded::parse(fields.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The value of the first hidden field of this name.
    pub fn hidden(&self, name: &str) -> Option<String> {
        let rest = self.html.split(&format!("name=\"{name}\" value=\"")).nth(1)?;
        Some(unescape(rest.split('"').next()?))
    }

    /// The address of the first link whose address has `part` in it.
    pub fn link(&self, part: &str) -> Option<String> {
        self.html
            .split("href=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .map(unescape)
            .find(|to| to.contains(part))
    }
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&")
}

impl Default for Browser {
    fn default() -> Self {
        Self::new()
    }
}

impl Browser {
    /// One that nobody has used.
    pub fn new() -> Self {
        let http = crate::http_client().redirect(Policy::none()).build().expect("a client needs no more than this");
        Self { http, cookies: BTreeMap::new() }
    }

    /// Looks at an address.
    pub async fn get(&mut self, url: &str) -> Visit {
        self.ask(Method::GET, url.parse().expect("an address"), None).await
    }

    /// Goes where the last answer has sent it.
    pub async fn follow(&mut self, visit: &Visit) -> Visit {
        let to = visit.url.join(visit.sent_to()).expect("an address");
        self.ask(Method::GET, to, None).await
    }

    /// Sends the form of a page, with the token that stands in it.
    pub async fn submit(&mut self, page: &Visit, fields: &[(&str, &str)]) -> Visit {
        let token = page.hidden("form_token").unwrap_or_else(|| panic!("no form on {}: {}", page.url, page.html));
        self.post(page.url.as_str(), &[fields, &[("form_token", token.as_str())]].concat()).await
    }

    /// Sends a form.
    pub async fn post(&mut self, url: &str, fields: &[(&str, &str)]) -> Visit {
        let body = Serializer::new(String::new()).extend_pairs(fields).finish();
        self.ask(Method::POST, url.parse().expect("an address"), Some(body)).await
    }

    /// Forgets all cookies.
    pub fn forget(&mut self) {
        self.cookies.clear();
    }

    async fn ask(&mut self, method: Method, url: Url, form: Option<String>) -> Visit {
        let place =
            format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let mut request = self.http.request(method, url.clone());
        if let Some(kept) = self.cookies.get(&place) {
            let pairs: Vec<String> = kept.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, pairs.join("; "));
        }
        if let Some(form) = form {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let text = |name: header::HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().expect("a cookie is text");
            let (pair, flags) = cookie.split_once(';').unwrap_or((cookie, ""));
            assert!(flags.contains("HttpOnly") && flags.contains("SameSite=Lax"), "{cookie}");
            let (name, value) = pair.split_once('=').expect("a cookie has a name");
            self.cookies.entry(place.clone()).or_default().insert(name.to_owned(), value.to_owned());
        }
        let (status, location) = (response.status().as_u16(), text(header::LOCATION));
        let policy = text(header::CONTENT_SECURITY_POLICY).unwrap_or_default();
        let html = response.text().await.expect("a page is text");
        Visit { url, status, location, policy, html }
    }
}
