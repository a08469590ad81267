//! How a refusal reads on the Matrix faces.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#standard-error-response>

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use model::{Kind, Refusal};
use ruma::api::client::uiaa::UiaaInfo;
use serde_json::{Value, json};
use tracing::error;
use users::Refused;

/// What a client gets instead of an answer.
#[derive(Debug)]
pub enum Error {
    /// A status and a JSON object with `errcode` and `error`.
    Matrix {
        /// The HTTP status.
        status: StatusCode,
        /// The object.
        body: Value,
    },
    /// 401 with the stages that are still to be done.
    Uiaa(Box<UiaaInfo>),
}

impl Error {
    /// An error with `errcode` and a message written for the client.
    pub fn new(status: StatusCode, errcode: &str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self::Matrix { status, body: json!({ "errcode": errcode, "error": message }) }
    }

    /// The same with one more field in the object.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        if let Self::Matrix { body, .. } = &mut self {
            body[field] = value.into();
        }
        self
    }

    /// 400 `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", message)
    }

    /// 400, `M_MISSING_PARAM`.
    pub fn missing_param(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", message)
    }

    /// 400 `M_BAD_JSON`.
    pub fn bad_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_BAD_JSON", message)
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// 404 `M_UNRECOGNIZED`.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "unrecognized request")
    }
}

/// What whoever asked is told of a refusal, on whichever face. A fault of ours goes to the log, and nothing of it to them.
pub(crate) fn told(refusal: &(dyn Refusal + 'static)) -> String {
    if let Some(remedy) = refusal.remedy() {
        return remedy;
    }
    match refusal.kind() {
        Kind::Internal => {
            error!(error = refusal as &dyn std::error::Error, "a request failed by a fault of ours");
            "internal server error".to_owned()
        }
        Kind::Unavailable => {
            error!(error = refusal as &dyn std::error::Error, "a request failed for want of the database");
            "the server is temporarily unable to do this; try again".to_owned()
        }
        _ => refusal.to_string(),
    }
}

/// The status and the error code of each kind of refusal.
fn words_for(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Invalid => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        Kind::Unauthenticated => (StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN"),
        Kind::Forbidden => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
        Kind::Conflict => (StatusCode::CONFLICT, "M_UNKNOWN"),
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
        Kind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED"),
        Kind::Unsupported => (StatusCode::BAD_REQUEST, "M_UNRECOGNIZED"),
        Kind::Unreachable => (StatusCode::BAD_GATEWAY, "M_UNKNOWN"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN"),
    }
}

impl<E: Refusal + 'static> From<E> for Error {
    fn from(refusal: E) -> Self {
        Self::of(&refusal)
    }
}

impl Error {
    /// What came of an act that may ask for authentication first.
    pub(crate) fn refused(refused: Refused) -> Self {
        match refused {
            Refused::Challenge(info) => Self::Uiaa(info),
            Refused::Refusal(refusal) => Self::of(&*refusal),
        }
    }

    pub(crate) fn of(refusal: &(dyn Refusal + 'static)) -> Self {
        let (status, errcode) = words_for(refusal.kind());
        let message = told(refusal);
        let error = Self::new(status, refusal.errcode().unwrap_or(errcode), message);
        match refusal.retry_after_ms() {
            Some(delay) => error.with("retry_after_ms", delay),
            None => error,
        }
    }
}

/// What has to be done still; with the list of what is done also where that is empty, as clients expect it.
fn challenge(info: &UiaaInfo) -> Value {
    let mut body = serde_json::to_value(info).expect("what this server asks for can be written as JSON");
    if info.auth_error.is_some() && body.get("completed").is_none() {
        body["completed"] = json!([]);
    }
    body
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, body) = match self {
            Self::Matrix { status, body } => (status, body.to_string()),
            Self::Uiaa(info) => (StatusCode::UNAUTHORIZED, challenge(&info).to_string()),
        };
        let retry_after = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
            .then(|| serde_json::from_str::<Value>(&body).ok()?["retry_after_ms"].as_u64())
            .flatten();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(delay) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(delay.div_ceil(1000)));
        }
        response
    }
}
