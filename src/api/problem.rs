//! How a refusal reads on the native faces: a problem document.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc9457>

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use model::{Kind, Refusal};
use serde::Serialize;
use serde_json::{Map, Value};
use users::Refused;
use utoipa::ToSchema;

use crate::{Error, error::told};

/// What a caller of the native API gets instead of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    code: String,
    detail: String,
    more: Map<String, Value>,
}

/// A problem document as it goes out.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// The code as a URI: `urn:comity:problem:wrong_audience`.
    #[serde(rename = "type")]
    kind: String,
    /// The code as words: `Wrong audience`.
    title: String,
    /// The status of the answer.
    status: u16,
    /// What programs may rely on: `wrong_audience`.
    code: &'a str,
    /// What is wrong with this very request, for people.
    detail: &'a str,
    /// What else there is to say of this code, such as `retry_after_ms` or `field`.
    #[serde(flatten)]
    #[schema(additional_properties)]
    more: &'a Map<String, Value>,
}

impl Problem {
    /// `code`: small letters and underscores; it stays as it is. `detail`: written for whoever asked.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), detail: detail.into(), more: Map::new() }
    }

    /// The same with one more field in the document.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.more.insert(field.to_owned(), value.into());
        self
    }

    /// The same under another status.
    #[must_use]
    pub fn at(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// What came of an act that may ask for authentication first. `challenge`: what is said where it does.
    pub(crate) fn refused(refused: Refused, challenge: impl FnOnce() -> Self) -> Self {
        match refused {
            Refused::Challenge(_) => challenge(),
            Refused::Refusal(refusal) => Self::of(&*refusal),
        }
    }

    /// 400 `invalid`.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", detail)
    }

    /// 403 `forbidden`.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404 `not_found`.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 500 `internal`: a fault of ours, of which only the log tells.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal server error")
    }

    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What programs may rely on.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What is wrong, for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The document, for where it is a part of something else.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(self.document()).expect("a problem can be written as JSON")
    }

    fn document(&self) -> Document<'_> {
        let mut title = self.code.replace('_', " ");
        title[..1].make_ascii_uppercase();
        Document {
            kind: format!("urn:comity:problem:{}", self.code),
            title,
            status: self.status.as_u16(),
            code: &self.code,
            detail: &self.detail,
            more: &self.more,
        }
    }

    fn of(refusal: &(dyn Refusal + 'static)) -> Self {
        let (status, code) = words_for(refusal.kind());
        let detail = told(refusal);
        let problem = Self::new(status, refusal.code().unwrap_or(code), detail);
        match refusal.retry_after_ms() {
            Some(delay) => problem.with("retry_after_ms", delay),
            None => problem,
        }
    }
}

/// The status and the code of each kind of refusal.
fn words_for(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        Kind::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        Kind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Kind::Conflict => (StatusCode::CONFLICT, "conflict"),
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        Kind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        Kind::Unsupported => (StatusCode::BAD_REQUEST, "unsupported"),
        Kind::Unreachable => (StatusCode::BAD_GATEWAY, "unreachable"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

impl<E: Refusal + 'static> From<E> for Problem {
    fn from(refusal: E) -> Self {
        Self::of(&refusal)
    }
}

/// What the faces share, such as reading a body and knowing a token, is refused in Matrix's words.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let Error::Matrix { status, body: Value::Object(mut body) } = error else {
            let detail = "this needs a login of its own, which only the Matrix API can ask for";
            return Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail);
        };
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        let (errcode, detail) = (text(body.remove("errcode")), text(body.remove("error")));
        let code = match errcode.as_str() {
            "M_UNKNOWN" if status == StatusCode::REQUEST_TIMEOUT => "timeout".to_owned(),
            "M_UNKNOWN" if status.is_client_error() => "invalid".to_owned(),
            "M_UNKNOWN" => "internal".to_owned(),
            "M_LIMIT_EXCEEDED" => "rate_limited".to_owned(),
            "M_BAD_JSON" | "M_INVALID_PARAM" => "invalid".to_owned(),
            errcode => errcode.trim_start_matches("M_").to_ascii_lowercase(),
        };
        Self { status, code, detail, more: body }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self.document()).expect("a problem can be written as JSON");
        let Self { status, more, .. } = self;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(delay) = more.get("retry_after_ms").and_then(Value::as_u64) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.div_ceil(1000)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the request is for b.test")]
    struct WrongAudience;

    impl Refusal for WrongAudience {
        fn kind(&self) -> Kind {
            Kind::Unauthenticated
        }

        fn code(&self) -> Option<&'static str> {
            Some("wrong_audience")
        }
    }

    async fn document(problem: Problem) -> (http::HeaderMap, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let body = body.collect().await.expect("it is in memory").to_bytes();
        (parts.headers, serde_json::from_slice(&body).expect("it is JSON"))
    }

    #[tokio::test]
    async fn a_refusal_reads_as_a_problem_with_a_code_that_stays() {
        let (headers, told) = document(Problem::from(WrongAudience).with("audience", "b.test")).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        let expected = json!({
            "type": "urn:comity:problem:wrong_audience", "title": "Wrong audience", "status": 401,
            "code": "wrong_audience", "detail": "the request is for b.test", "audience": "b.test",
        });
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn what_the_faces_share_is_refused_in_native_words() {
        let limited =
            Error::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "too much").with("retry_after_ms", 1_500);
        let (headers, told) = document(limited.into()).await;
        assert_eq!((&told["code"], &told["retry_after_ms"]), (&json!("rate_limited"), &json!(1_500)));
        assert_eq!(headers[header::RETRY_AFTER], "2");
        assert_eq!(Problem::from(Error::bad_json("x")).code(), "invalid");
        let token = Error::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "who?");
        assert_eq!(Problem::from(token).code(), "unknown_token");
    }
}
