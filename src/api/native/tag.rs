//! Answers that have a tag, by which two who change one thing don't undo each other's work.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc9110#name-if-match>

use std::hash::{DefaultHasher, Hash, Hasher as _};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::{ToSchema, openapi::path::OperationBuilder};

use super::payload::{Reply, Schemas};
use crate::Problem;

/// 200, with JSON, and an `ETag` for it.
#[derive(Debug)]
pub struct Tagged<T> {
    /// As it stands in the header, with its quotes.
    pub tag: String,
    /// What is answered.
    pub answer: T,
}

impl<T: Serialize + ToSchema + Send + 'static> Reply for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Reply::into_response(self.answer);
        if let Ok(tag) = HeaderValue::from_str(&self.tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response.into_response()
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        T::describe(operation, schemas)
    }
}

/// The tag of something that reads so: the same on every node.
pub(super) fn tag_of(text: &(impl Hash + ?Sized)) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// Refuses who says in `If-Match` to know another state than that of `tag`. Who says nothing is let through.
pub(crate) fn check_match(headers: &HeaderMap, tag: &str) -> Result<(), Problem> {
    let mut named = headers.get_all(header::IF_MATCH).iter().filter_map(|value| value.to_str().ok()).peekable();
    if named.peek().is_none() {
        return Ok(());
    }
    let is_named = named.flat_map(|list| list.split(',')).map(str::trim).any(|one| one == "*" || one == tag);
    if is_named {
        return Ok(());
    }
    let detail = "it was changed since you read it: read it again";
    Err(Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_another_state_is_refused() {
        let says = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, HeaderValue::from_static(value));
            }
            check_match(&headers, "\"a\"").map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(says(&[]), Ok(()));
        assert_eq!(says(&["\"a\""]), Ok(()));
        assert_eq!(says(&["\"b\", \"a\""]), Ok(()));
        assert_eq!(says(&["*"]), Ok(()));
        assert_eq!(says(&["\"b\""]), Err(412));
        assert_eq!(says(&["\"b\"", "W/\"a\""]), Err(412));
        assert_eq!(tag_of("x"), tag_of("x"));
        assert_ne!(tag_of("x"), tag_of("y"));
    }
}
