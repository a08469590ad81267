//! Pages on which one reads, and tries, the native API: Swagger UI at `/docs`, Redoc at `/redoc`.
//!
//! What a browser needs for them is in the binary, so that they work where there is no way to the internet, and no other
//! server is told who reads them.

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderName, header};

/// Only what comes from here is run, and nothing may put the pages into a frame. The two programs write styles into the page; Redoc
/// searches in a worker that it makes of itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The files change with the version of the server only, but their names don't.
const A_DAY: &str = "public, max-age=86400";

/// The pages and what they load.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/docs", get(async || page(include_str!("docs/swagger.html"))))
        .route("/docs/start.js", get(async || plain("text/javascript", include_str!("docs/start.js"))))
        .route(
            "/docs/swagger-ui-bundle.js",
            get(async || packed("text/javascript", include_bytes!("docs/swagger-ui-bundle.js.gz"))),
        )
        .route("/docs/swagger-ui.css", get(async || packed("text/css", include_bytes!("docs/swagger-ui.css.gz"))))
        .route("/redoc", get(async || page(include_str!("docs/redoc.html"))))
        .route(
            "/redoc/redoc.standalone.js",
            get(async || packed("text/javascript", include_bytes!("docs/redoc.standalone.js.gz"))),
        )
}

const NO_SNIFFING: (HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

fn page(html: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        NO_SNIFFING,
    ];
    (headers, html).into_response()
}

fn plain(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, A_DAY), NO_SNIFFING], text).into_response()
}

/// Every browser unpacks gzip, so it isn't kept in two forms.
fn packed(kind: &'static str, bytes: &'static [u8]) -> Response {
    let headers =
        [(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, "gzip"), (header::CACHE_CONTROL, A_DAY), NO_SNIFFING];
    (headers, bytes).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};

    use super::*;
    use crate::testing::{Server, with_server};

    /// What a page loads, by what its tags say.
    fn loaded(html: &str) -> impl Iterator<Item = &str> {
        ["src=\"", "href=\"", "spec-url=\""]
            .into_iter()
            .flat_map(move |name| html.split(name).skip(1))
            .filter_map(|rest| rest.split('"').next())
    }

    async fn fetched(server: &Server, path: &str) -> Response {
        let request = Request::get(path).body(Body::empty()).expect("the test asks well");
        let answer = server.answer(request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer
    }

    #[tokio::test]
    async fn the_pages_load_what_is_served_here_and_nothing_else() {
        with_server(async |server| {
            for (path, html) in
                [("/docs", include_str!("docs/swagger.html")), ("/redoc", include_str!("docs/redoc.html"))]
            {
                let answer = fetched(&server, path).await;
                assert!(answer.headers().contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
                assert!(loaded(html).count() > 0);
                for file in loaded(html) {
                    assert!(file.starts_with('/') && !file.starts_with("//"), "{file} is elsewhere");
                    fetched(&server, file).await;
                }
            }
        })
        .await;
    }

    #[test]
    fn the_pages_hold_no_script_of_their_own() {
        for html in [include_str!("docs/swagger.html"), include_str!("docs/redoc.html")] {
            for script in html.split("<script").skip(1) {
                assert!(
                    script.contains("></script>") && script.starts_with(" src="),
                    "the policy would stop it: {script}"
                );
            }
        }
    }
}
