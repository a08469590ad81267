//! An endpoint: one of ruma's request types and the function that answers it, erased to one type, so that the routing
//! stack is compiled once and not for every handler.

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts as _, MatchedPath, RawPathParams},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use ruma::api::{
    IncomingRequest, IncomingRequestExt as _, OutgoingResponseExt as _,
    auth_scheme::{self, AuthScheme},
    error::{DeserializationError, FromHttpRequestError},
    path_builder::PathBuilder,
};

use users::{Role, Session, TokenError};

use crate::{Error, Needs, Services, SharedServices, json_path::path_at};

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// No honest body is nested deeper, and what reads it must not run out of stack.
const DEEPEST_NESTING: usize = 100;

/// A request that has been authenticated and parsed.
pub struct Ask<R: IncomingRequest>
where
    R::Authentication: Authenticate,
{
    /// What is asked.
    pub request: R,
    /// Who asks, as the endpoint's authentication scheme demands: a session, perhaps a session, or nothing.
    pub session: <R::Authentication as Authenticate>::Session,
    /// From where.
    pub address: IpAddr,
    /// The address, for the few endpoints that look at what ruma's type of the request doesn't have.
    pub uri: http::Uri,
    /// The headers, for the few endpoints that look at them.
    pub headers: HeaderMap,
    /// What can be asked.
    pub services: SharedServices,
}

impl<R: IncomingRequest> Ask<R>
where
    R::Authentication: Authenticate,
{
    /// Whose access token came with a request that needs none for most of what it asks.
    pub(crate) async fn user(&self) -> Result<Session, Error> {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.headers.clone_from(&self.headers);
        parts.uri.clone_from(&self.uri);
        user_of(&parts, self.address, &self.services).await
    }
}

/// What a handler answers.
pub type Answer<R> = Result<R, Error>;

/// How ruma's authentication schemes are met here.
pub trait Authenticate: AuthScheme {
    /// Who asks.
    type Session: Send;

    /// Who may ask.
    const NEEDS: Needs;

    /// Finds out who asks. A scheme that covers the body reads it.
    fn authenticate(
        parts: &Parts,
        body: &mut Incoming,
        address: IpAddr,
        services: &Services,
    ) -> impl Future<Output = Result<Self::Session, Error>> + Send;
}

/// The body of a request on its way to the handler.
pub enum Incoming {
    /// Nobody has read any of it.
    Unread(Body),
    /// It was read to find out who asks, and is as that scheme says it is.
    Read(Bytes),
}

impl Authenticate for auth_scheme::NoAuthentication {
    type Session = ();

    const NEEDS: Needs = Needs::Nobody;

    async fn authenticate(_: &Parts, _: &mut Incoming, _: IpAddr, _: &Services) -> Result<(), Error> {
        Ok(())
    }
}

impl Authenticate for auth_scheme::NoAccessToken {
    type Session = ();

    const NEEDS: Needs = Needs::Nobody;

    async fn authenticate(_: &Parts, _: &mut Incoming, _: IpAddr, _: &Services) -> Result<(), Error> {
        Ok(())
    }
}

impl Authenticate for auth_scheme::AccessToken {
    type Session = Session;

    const NEEDS: Needs = Needs::User;

    async fn authenticate(
        parts: &Parts,
        _: &mut Incoming,
        address: IpAddr,
        services: &Services,
    ) -> Result<Session, Error> {
        user_of(parts, address, services).await
    }
}

impl Authenticate for auth_scheme::AccessTokenOptional {
    type Session = Option<Session>;

    const NEEDS: Needs = Needs::Nobody;

    async fn authenticate(
        parts: &Parts,
        _: &mut Incoming,
        address: IpAddr,
        services: &Services,
    ) -> Result<Option<Session>, Error> {
        match bearer_token(parts) {
            Some(token) => session_of(&token, address, services).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What serves people and application services alike: who the latter is, their own endpoints find out.
impl Authenticate for auth_scheme::AppserviceTokenOptional {
    type Session = ();

    const NEEDS: Needs = Needs::Nobody;

    async fn authenticate(_: &Parts, _: &mut Incoming, _: IpAddr, _: &Services) -> Result<(), Error> {
        Ok(())
    }
}

/// The user whose access token came with a request.
pub(crate) async fn user_of(parts: &Parts, address: IpAddr, services: &Services) -> Result<Session, Error> {
    let token = bearer_token(parts).ok_or(TokenError::Missing).map_err(refuse_token)?;
    if is_leaving(parts) {
        return services.users.authenticate_to_leave(&token).await.map_err(refuse_token);
    }
    session_of(&token, address, services).await
}

/// Whether somebody wants to log out: that one may whose account is locked, too.
fn is_leaving(parts: &Parts) -> bool {
    let path = parts.extensions.get::<MatchedPath>().map_or("", |path| path.as_str());
    path.ends_with("/logout") || path.ends_with("/logout/all")
}

async fn session_of(token: &str, address: IpAddr, services: &Services) -> Result<Session, Error> {
    let session = services.users.authenticate(token).await.map_err(refuse_token)?;
    services.users.note_seen(&session, Some(address));
    Ok(session)
}

fn refuse_token(error: TokenError) -> Error {
    let soft_logout = error.soft_logout();
    let error = Error::from(error);
    if soft_logout { error.with("soft_logout", true) } else { error }
}

pub(crate) type Handler =
    dyn Fn(Request<Body>, SharedServices) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync;

/// An endpoint as the router mounts it.
#[derive(Clone)]
pub struct Route {
    pub(crate) method: Method,
    pub(crate) paths: Vec<&'static str>,
    pub(crate) needs: Needs,
    pub(crate) handler: Arc<Handler>,
}

impl Route {
    /// Serves the same at one more path. Path arguments that it lacks, from the right, are empty; those that it has more are left out.
    #[must_use]
    pub fn also_at(mut self, path: &'static str) -> Self {
        self.paths.push(path);
        self
    }

    /// Serves the same at another path than the one of its request.
    #[must_use]
    pub(crate) fn only_at(mut self, path: &'static str) -> Self {
        self.paths = vec![path];
        self
    }

    /// Who may use it.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Only users may use it, and if roles are named, only those who have one of them: where ruma's scheme for the request demands less.
    #[must_use]
    pub(crate) fn for_users(self, roles: &'static [Role]) -> Self {
        let needs = if roles.is_empty() { Needs::User } else { Needs::Role(roles) };
        let handler = self.handler;
        let handler: Arc<Handler> = Arc::new(move |request, services| {
            let handler = handler.clone();
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                match check_user(&parts, &services, roles).await {
                    Ok(()) => handler(Request::from_parts(parts, body), services).await,
                    Err(error) => error.into_response(),
                }
            })
        });
        Self { needs, handler, ..self }
    }
}

async fn check_user(parts: &Parts, services: &Services, roles: &'static [Role]) -> Result<(), Error> {
    let session = user_of(parts, address_of(parts), services).await?;
    if roles.is_empty() || roles.contains(&services.users.role(&session).await?) {
        return Ok(());
    }
    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    Err(Error::forbidden(format!("this needs one of the roles {}", names.join(", "))).with("roles", names))
}

/// Makes a route of an async function from [`Ask`] to [`Answer`].
pub fn endpoint<R, F, Fut>(handler: F) -> Route
where
    R: IncomingRequest + Send + 'static,
    R::Authentication: Authenticate,
    R::OutgoingResponse: Send,
    F: Fn(Ask<R>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Answer<R::OutgoingResponse>> + Send + 'static,
{
    mount(move |ask| async move { Ok(render::<R>(handler(ask).await?)) })
}

/// As [`endpoint`], for a handler that answers a JSON object as text: where it is large, or passed on as it was stored.
pub fn json_endpoint<R, F, Fut>(handler: F) -> Route
where
    R: IncomingRequest + Send + 'static,
    R::Authentication: Authenticate,
    F: Fn(Ask<R>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Answer<String>> + Send + 'static,
{
    mount(move |ask| async move {
        let json = header::HeaderValue::from_static("application/json");
        Ok(([(header::CONTENT_TYPE, json)], handler(ask).await?).into_response())
    })
}

/// As [`endpoint`], for a handler that writes the answer itself: where it is no JSON, or goes out piece by piece.
pub(crate) fn raw_endpoint<R, F, Fut>(handler: F) -> Route
where
    R: IncomingRequest + Send + 'static,
    R::Authentication: Authenticate,
    F: Fn(Ask<R>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<Response, Error>> + Send + 'static,
{
    mount(handler)
}

fn mount<R, F, Fut>(handler: F) -> Route
where
    R: IncomingRequest + Send + 'static,
    R::Authentication: Authenticate,
    F: Fn(Ask<R>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<Response, Error>> + Send + 'static,
{
    let paths: Vec<&'static str> = R::PATH_BUILDER.all_paths().collect();
    let arguments = paths.first().map_or(0, |path| path.matches('{').count());
    Route {
        method: R::METHOD,
        paths,
        needs: R::Authentication::NEEDS,
        handler: Arc::new(move |request, services| {
            Box::pin(async move {
                let answer = match read::<R>(request, arguments, services).await {
                    Ok(ask) => handler(ask).await,
                    Err(error) => Err(error),
                };
                answer.unwrap_or_else(Error::into_response)
            })
        }),
    }
}

/// Makes a route of an async function that looks at the request itself: for the few endpoints that ruma doesn't know. `needs`: who may
/// use it, which the handler sees to.
pub(crate) fn plain_endpoint<F, Fut>(method: Method, path: &'static str, needs: Needs, handler: F) -> Route
where
    F: Fn(PlainAsk) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<Response, Error>> + Send + 'static,
{
    streamed_endpoint(method, path, needs, move |ask| async move {
        let PlainAsk { parts, arguments, body, address, services } = ask;
        let body = read_body(body, services.config.max_body).await?;
        handler(PlainAsk { parts, arguments, body, address, services }).await
    })
}

/// As [`plain_endpoint`], for a handler that takes the body piece by piece, and sees to its size and its time.
pub(crate) fn streamed_endpoint<F, Fut>(method: Method, path: &'static str, needs: Needs, handler: F) -> Route
where
    F: Fn(PlainAsk<Body>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<Response, Error>> + Send + 'static,
{
    Route {
        method,
        paths: vec![path],
        needs,
        handler: Arc::new(move |request, services| {
            Box::pin(async move {
                let answer = async {
                    let (mut parts, body) = request.into_parts();
                    let address = address_of(&parts);
                    let arguments = path_arguments(&mut parts).await?;
                    handler(PlainAsk { parts, arguments, body, address, services }).await
                };
                answer.await.unwrap_or_else(Error::into_response)
            })
        }),
    }
}

/// A request as it came.
pub struct PlainAsk<B = Bytes> {
    /// Method, URI and headers.
    pub parts: Parts,
    /// The path's arguments, decoded, in order.
    pub arguments: Vec<String>,
    /// The whole body.
    pub body: B,
    /// From where.
    pub address: IpAddr,
    /// What can be asked.
    pub services: SharedServices,
}

impl PlainAsk {
    /// Whose access token came with it.
    pub(crate) async fn session(&self) -> Result<Session, Error> {
        user_of(&self.parts, self.address, &self.services).await
    }
}

async fn read<R>(request: Request<Body>, arguments: usize, services: SharedServices) -> Result<Ask<R>, Error>
where
    R: IncomingRequest,
    R::Authentication: Authenticate,
{
    let (mut parts, body) = request.into_parts();
    let address = address_of(&parts);
    // Who asks is known before any of the body is read, unless the body is part of the proof.
    let mut body = Incoming::Unread(body);
    let session = R::Authentication::authenticate(&parts, &mut body, address, &services).await?;
    let mut path_args = path_arguments(&mut parts).await?;
    path_args.resize(arguments, String::new());
    let body = match body {
        Incoming::Read(body) => body,
        Incoming::Unread(body) => read_json(&parts.method, body, services.config.max_body).await?,
    };

    let mut request = Request::new(&body[..]);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    let headers = request.headers().clone();
    let path_args: Vec<&str> = path_args.iter().map(String::as_str).collect();
    let request = R::try_from_http_request(request, &path_args).map_err(|error| explain(error, &body))?;
    Ok(Ask { request, session, address, uri: parts.uri, headers, services })
}

fn render<R: IncomingRequest>(answer: R::OutgoingResponse) -> Response {
    match answer.try_into_http_response::<BytesMut>() {
        Ok(response) => response.map(|body| Body::from(body.freeze())),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "failed to render an answer");
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "internal server error").into_response()
        }
    }
}

pub(crate) fn address_of(parts: &Parts) -> IpAddr {
    parts
        .extensions
        .get::<ConnectInfo<std::net::SocketAddr>>()
        .map_or(IpAddr::from([127, 0, 0, 1]), |ConnectInfo(peer)| peer.ip())
}

pub(crate) async fn path_arguments(parts: &mut Parts) -> Result<Vec<String>, Error> {
    let params = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|_| Error::invalid_param("a part of the path is not valid UTF-8"))?;
    Ok(params.iter().map(|(_, value)| value.to_owned()).collect())
}

/// The body of a client's request, if its method has one: JSON.
async fn read_json(method: &Method, body: Body, limit: usize) -> Result<Bytes, Error> {
    let body = read_body(body, limit).await?;
    if matches!(*method, Method::POST | Method::PUT | Method::DELETE) {
        // Many clients leave out the body where every field of it is optional.
        let is_empty = body.iter().all(u8::is_ascii_whitespace);
        if is_empty && *method != Method::PUT {
            return Ok(Bytes::from_static(b"{}"));
        }
        check_json(&body)?;
    }
    Ok(body)
}

pub(crate) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Error> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect())
        .await
        .map_err(|_| Error::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "the body did not arrive in time"))?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "M_TOO_LARGE",
            format!("the body is larger than {limit} bytes"),
        )),
        Err(_) => Err(Error::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", "the body broke off")),
    }
}

/// Tells what is no JSON at all from JSON of the wrong shape, which the request's own type finds.
pub(crate) fn check_json(body: &[u8]) -> Result<(), Error> {
    let not_json = |message: String| Error::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", message);
    let text = std::str::from_utf8(body).map_err(|error| not_json(format!("the body is not UTF-8: {error}")))?;
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map_err(|error| not_json(format!("the body is not JSON: {error}")))?;
    if nesting_of(body) > DEEPEST_NESTING {
        return Err(Error::bad_json(format!("the body is nested deeper than {DEEPEST_NESTING} levels")));
    }
    Ok(())
}

/// How deep the arrays and objects of a JSON text lie in each other.
fn nesting_of(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut is_escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// `{}`.
pub(crate) fn empty_answer() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from("{}")).into_response()
}

/// Reads a body that is looked at by hand.
pub(crate) fn parse_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    check_json(body)?;
    serde_json::from_slice(body).map_err(|error| explain(DeserializationError::Json(error).into(), body))
}

fn explain(error: FromHttpRequestError, body: &[u8]) -> Error {
    let FromHttpRequestError::Deserialization(error) = error else {
        return Error::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", error.to_string());
    };
    match error {
        DeserializationError::Json(error) => {
            let place = std::str::from_utf8(body)
                .ok()
                .and_then(|body| path_at(body, error.line(), error.column()))
                .map(|path| format!(" in `{path}`"))
                .unwrap_or_default();
            Error::bad_json(format!("the body is not what this endpoint takes: {error}{place}"))
        }
        DeserializationError::Query(error) if error.to_string().contains("missing field") => {
            Error::missing_param(format!("the query is not complete: {error}"))
        }
        DeserializationError::Query(error) => Error::invalid_param(format!("the query is wrong: {error}")),
        DeserializationError::Ident(error) => Error::invalid_param(format!("a part of the path is wrong: {error}")),
        error => Error::invalid_param(error.to_string()),
    }
}

/// The token that the client sent, in its header or, as old clients do, in the query.
pub(crate) fn bearer_token(parts: &Parts) -> Option<String> {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) =
        header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
    {
        return Some(token.1.trim().to_owned());
    }
    auth_scheme::AccessTokenOptional::extract_authentication(&Request::from_parts(parts.clone(), ())).ok().flatten()
}
