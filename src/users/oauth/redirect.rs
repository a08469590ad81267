//! Where a browser may be sent with a code: the only proof that a public client has of who it is.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#redirect-uri-validation>

use url::{Host, Url};

/// The longest address that is taken, in bytes.
const LONGEST: usize = 2_048;

/// What kind of program a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Application {
    /// It runs in a browser.
    Web,
    /// It is installed.
    Native,
}

/// Checks the page that tells of a client, which is the base of its other addresses.
pub(super) fn check_client_uri(text: &str) -> Result<Url, &'static str> {
    let url = parse(text)?;
    check_https(&url)?;
    match url.host() {
        Some(Host::Domain(_)) => Ok(url),
        _ => Err("has no domain as its host"),
    }
}

/// Whether `text` is an address in TLS on the host of `client_uri`, or on one below it.
pub(super) fn check_on_same_site(text: &str, client_uri: &Url) -> Result<Url, &'static str> {
    let url = parse(text)?;
    check_https(&url)?;
    if is_below(&url, client_uri) { Ok(url) } else { Err("is not on the host of `client_uri` or below it") }
}

/// Checks an address to come back to.
pub(super) fn check_redirect_uri(text: &str, client_uri: &Url, application: Application) -> Result<(), &'static str> {
    let url = parse(text)?;
    match (application, url.scheme()) {
        (_, "https") => check_on_same_site(text, client_uri).map(drop),
        (Application::Web, _) => Err("is not https"),
        (Application::Native, "http") => check_loopback(&url, text),
        (Application::Native, scheme) => check_private_scheme(&url, scheme, client_uri),
    }
}

/// Whether a browser may be sent to `asked` by a client that has registered `registered`.
pub(super) fn is_registered(asked: &str, registered: &str, application: Application) -> bool {
    if asked == registered {
        return true;
    }
    let (Ok(asked), Ok(registered)) = (Url::parse(asked), Url::parse(registered)) else { return false };
    // Spec: "The homeserver MUST then accept any port number during the authorisation flow."
    let is_loopback = |url: &Url| url.scheme() == "http" && is_loopback_host(url);
    let mut without_port = asked.clone();
    application == Application::Native
        && is_loopback(&asked)
        && is_loopback(&registered)
        && without_port.set_port(None).is_ok()
        && without_port == registered
}

fn parse(text: &str) -> Result<Url, &'static str> {
    if text.len() > LONGEST {
        return Err("is longer than 2048 bytes");
    }
    // What `Url` would mend in silence is refused: it is compared as it is.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("has spaces or control characters in it");
    }
    let url = Url::parse(text).map_err(|_| "is no URI")?;
    if url.fragment().is_some() {
        return Err("has a fragment");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or a password");
    }
    Ok(url)
}

fn check_https(url: &Url) -> Result<(), &'static str> {
    if url.scheme() == "https" { Ok(()) } else { Err("is not https") }
}

fn is_below(url: &Url, base: &Url) -> bool {
    let (Some(Host::Domain(host)), Some(Host::Domain(base))) = (url.host(), base.host()) else { return false };
    host == base || host.strip_suffix(base).is_some_and(|rest| rest.ends_with('.'))
}

fn is_loopback_host(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

fn check_loopback(url: &Url, text: &str) -> Result<(), &'static str> {
    if !is_loopback_host(url) {
        return Err("is http, and not on the loopback interface");
    }
    // The port of http is left out by `Url`, so the text is looked at too.
    if url.port().is_some() || text.contains(":80/") || text.ends_with(":80") {
        return Err("has a port, which any may be on the loopback interface");
    }
    Ok(())
}

fn check_private_scheme(url: &Url, scheme: &str, client_uri: &Url) -> Result<(), &'static str> {
    let host = client_uri.host_str().unwrap_or_default();
    let mut labels: Vec<&str> = host.split('.').collect();
    labels.reverse();
    let reversed = labels.join(".");
    let is_theirs = scheme == reversed || scheme.strip_prefix(&*reversed).is_some_and(|rest| rest.starts_with('.'));
    if !is_theirs || !reversed.contains('.') {
        return Err("has a scheme that does not begin with the host of `client_uri` read backwards");
    }
    if url.has_authority() { Err("has an authority after its private scheme") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Url {
        check_client_uri("https://example.com/").expect("it is one")
    }

    #[test]
    fn redirect_uris_are_judged_as_the_specification_does_in_its_examples() {
        let (web, native) = (Application::Web, Application::Native);
        for (text, application) in [
            ("https://example.com/callback", web),
            ("https://app.example.com/callback", web),
            ("https://example.com:5173/?query=value", web),
            ("https://example.com/callback", native),
            ("com.example.app:/callback", native),
            ("com.example:/", native),
            ("com.example:callback", native),
            ("http://localhost/callback", native),
            ("http://127.0.0.1/callback", native),
            ("http://[::1]/callback", native),
        ] {
            assert_eq!(check_redirect_uri(text, &site(), application), Ok(()), "{text}");
        }
        for (text, application) in [
            ("https://example.com/callback#fragment", web),
            ("http://example.com/callback", web),
            ("http://localhost/", web),
            ("com.example.app:/callback", web),
            ("https://user@example.com/", web),
            ("https://badexample.com/", web),
            ("https://example.com.evil.test/", web),
            ("https://evil.test/?example.com", web),
            ("javascript:alert(1)", web),
            ("example:/callback", native),
            ("com.example.app://callback", native),
            ("com.examplevil:/callback", native),
            ("https://localhost/callback", native),
            ("http://localhost:1234/callback", native),
            ("http://localhost:80/callback", native),
            ("http://10.0.0.1/callback", native),
            ("javascript:alert(1)", native),
            ("data:text/html,x", native),
            ("https://example.com/\ncallback", web),
            ("", web),
        ] {
            assert!(check_redirect_uri(text, &site(), application).is_err(), "{text}");
        }
    }

    #[test]
    fn a_client_has_a_page_on_a_domain() {
        for wrong in
            ["http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://u:p@example.com/", "example.com"]
        {
            assert!(check_client_uri(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_port_of_the_loopback_interface_may_differ() {
        let native = Application::Native;
        assert!(is_registered("http://localhost:1234/cb", "http://localhost/cb", native));
        assert!(is_registered("http://[::1]:1234/cb", "http://[::1]/cb", native));
        assert!(is_registered("https://example.com/cb", "https://example.com/cb", Application::Web));
        for (asked, registered) in [
            ("http://localhost:1234/other", "http://localhost/cb"),
            ("http://127.0.0.1:1234/cb", "http://localhost/cb"),
            ("https://example.com:1234/cb", "https://example.com/cb"),
            ("https://example.com/cb?x", "https://example.com/cb"),
            ("http://user@localhost:1234/cb", "http://localhost/cb"),
            ("http://localhost:1234/cb#x", "http://localhost/cb"),
        ] {
            assert!(!is_registered(asked, registered, native), "{asked}");
        }
        assert!(!is_registered("http://localhost:1234/cb", "http://localhost/cb", Application::Web));
    }
}
