//! What calls and answers carry: JSON, a file, or nothing; and how that is described.

use std::{fmt::Display, future::Future};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        Content, Ref, RefOr, Required, Schema,
        path::{OperationBuilder, Parameter, ParameterIn},
        request_body::RequestBodyBuilder,
        response::ResponseBuilder,
        schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type},
    },
};

use crate::{
    Incoming, Problem,
    endpoint::{check_json, read_body},
};

/// No query that matters, no body, or no answer but that it was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl<'de> serde::Deserialize<'de> for Nothing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl IntoParams for Nothing {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        Vec::new()
    }
}

/// The schemas that an endpoint refers to, by name.
pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// What a body holds: JSON, bytes, or nothing.
pub trait Payload: Sized + Send + 'static {
    /// Reads it. `limit`: how many bytes of JSON are read.
    fn read(body: Incoming, limit: usize) -> impl Future<Output = Result<Self, Problem>> + Send;

    /// Says what a body looks like.
    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder;
}

impl Payload for Nothing {
    async fn read(_: Incoming, _: usize) -> Result<Self, Problem> {
        Ok(Self)
    }

    fn describe(operation: OperationBuilder, _: &mut Schemas) -> OperationBuilder {
        operation
    }
}

impl<T: DeserializeOwned + ToSchema + Send + 'static> Payload for T {
    async fn read(body: Incoming, limit: usize) -> Result<Self, Problem> {
        let body = or_empty_object(match body {
            Incoming::Read(body) => body,
            Incoming::Unread(body) => read_body(body, limit).await?,
        });
        check_json(&body)?;
        let mut deserializer = serde_json::Deserializer::from_slice(&body);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| misread("body", error))
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        let content = Content::new(Some(reference::<T>(schemas)));
        // What may be empty may be left out.
        let is_needed = serde_json::from_str::<T>("{}").is_err();
        let required = if is_needed { Required::True } else { Required::False };
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(required));
        operation.request_body(Some(body.build()))
    }
}

/// Where every field of a body is optional, it may be left out.
fn or_empty_object(body: Bytes) -> Bytes {
    if body.iter().all(u8::is_ascii_whitespace) { Bytes::from_static(b"{}") } else { body }
}

/// Bytes that the handler takes piece by piece, and sees to their number and their time.
#[derive(Debug)]
pub struct Pieces(pub Body);

impl Payload for Pieces {
    async fn read(body: Incoming, _: usize) -> Result<Self, Problem> {
        Ok(Self(match body {
            Incoming::Unread(body) => body,
            Incoming::Read(bytes) => Body::from(bytes),
        }))
    }

    fn describe(operation: OperationBuilder, _: &mut Schemas) -> OperationBuilder {
        let bytes = ObjectBuilder::new().schema_type(Type::String).format(Some(BINARY)).build();
        let content = Content::new(Some(RefOr::T(Schema::from(bytes))));
        operation.request_body(Some(RequestBodyBuilder::new().content("application/octet-stream", content).build()))
    }
}

const BINARY: SchemaFormat = SchemaFormat::KnownFormat(KnownFormat::Binary);

/// What a handler's answer becomes.
pub trait Reply: Send + 'static {
    /// As it goes out.
    fn into_response(self) -> Response;

    /// Says what it looks like.
    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder;
}

/// 200, with JSON.
impl<T: Serialize + ToSchema + Send + 'static> Reply for T {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self)
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        described::<T>(operation, schemas, "200", "Done.")
    }
}

/// 204.
impl Reply for Nothing {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }

    fn describe(operation: OperationBuilder, _: &mut Schemas) -> OperationBuilder {
        operation.response("204", ResponseBuilder::new().description("Done."))
    }
}

/// 201, with JSON.
#[derive(Debug)]
pub struct Created<T>(pub T);

impl<T: Serialize + ToSchema + Send + 'static> Reply for Created<T> {
    fn into_response(self) -> Response {
        json(StatusCode::CREATED, &self.0)
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        described::<T>(operation, schemas, "201", "Made.")
    }
}

/// 200, with JSON that is for the caller alone, and kept by nobody on the way.
#[derive(Debug)]
pub struct Unkept<T>(pub T);

impl<T: Serialize + ToSchema + Send + 'static> Reply for Unkept<T> {
    fn into_response(self) -> Response {
        let mut response = json(StatusCode::OK, &self.0);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        response
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        described::<T>(operation, schemas, "200", "Done. Not to be kept.")
    }
}

/// 200, with something else than JSON that one may want to keep.
#[derive(Debug)]
pub struct File {
    /// `text/csv; charset=utf-8`.
    pub content_type: &'static str,
    /// What to call it.
    pub name: String,
    /// What is in it.
    pub body: Body,
}

impl Reply for File {
    fn into_response(self) -> Response {
        let mut response = Response::new(self.body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let name: String = self.name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
            headers.insert(header::CONTENT_DISPOSITION, value);
        }
        response
    }

    fn describe(operation: OperationBuilder, _: &mut Schemas) -> OperationBuilder {
        let content = Content::new(Some(RefOr::T(Schema::from(ObjectBuilder::new().schema_type(Type::String)))));
        operation.response("200", ResponseBuilder::new().description("A file.").content("*/*", content))
    }
}

/// An answer that the handler has written, headers and all.
#[derive(Debug)]
pub struct Written(pub Response);

impl Reply for Written {
    fn into_response(self) -> Response {
        self.0
    }

    fn describe(operation: OperationBuilder, _: &mut Schemas) -> OperationBuilder {
        operation.response("2XX", ResponseBuilder::new().description("Done, as the description says."))
    }
}

/// Of a field that may be left out: that it was given, and maybe as null.
pub(crate) fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Some)
}

/// Why something that came could not be read, and where.
pub(super) fn misread<E: Display>(place: &str, error: serde_path_to_error::Error<E>) -> Problem {
    let path = error.path().to_string();
    let error = error.into_inner();
    if path == "." {
        return Problem::invalid(format!("the {place} is not what this endpoint takes: {error}"));
    }
    Problem::invalid(format!("the {place} is not what this endpoint takes: {error} in `{path}`")).with("field", path)
}

/// An answer under any status.
pub(super) fn json(status: StatusCode, answer: &impl Serialize) -> Response {
    match serde_json::to_string(answer) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "failed to render an answer");
            Problem::internal().into_response()
        }
    }
}

// === what is said of it ===

/// Says what the answer under one status looks like.
pub(super) fn described<T: ToSchema>(
    operation: OperationBuilder,
    schemas: &mut Schemas,
    status: &str,
    text: &str,
) -> OperationBuilder {
    let content = Content::new(Some(reference::<T>(schemas)));
    operation.response(status, ResponseBuilder::new().description(text).content("application/json", content))
}

/// Refers to the schema of `T`, which becomes one of `schemas`, with those it refers to.
fn reference<T: ToSchema>(schemas: &mut Schemas) -> RefOr<Schema> {
    T::schemas(schemas);
    schemas.push((T::name().into_owned(), T::schema()));
    RefOr::Ref(Ref::from_schema_name(T::name()))
}
