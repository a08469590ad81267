//! Mounts the routes, and what surrounds every request: limits, CORS, counting, panics kept from taking a connection.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, task, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, MatchedPath, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, on_service},
};
use http::{HeaderName, Method, Request, StatusCode, Uri, header};
use metrics::{counter, gauge, histogram};
use ruma::OwnedServerName;
use tower_http::{catch_panic::CatchPanicLayer, cors};

use crate::{Error, Problem, SharedServices, client, docs, endpoint::Route, federation, native, operator};

/// How the client-server face behaves.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The largest body that is read, in bytes, media excepted.
    pub max_body: usize,
    /// Whether other servers are shown the public rooms.
    pub public_rooms_for_servers: bool,
    /// Where other servers find this one, if it is to say so itself.
    pub well_known_server: Option<OwnedServerName>,
    /// How WebSockets behave.
    pub realtime: native::RealtimeConfig,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            max_body: 4 << 20,
            public_rooms_for_servers: true,
            well_known_server: None,
            realtime: native::RealtimeConfig::default(),
        }
    }
}

/// Everything that is served, on the listener for clients and on that for servers.
pub fn router(services: SharedServices) -> Router {
    let mut router = Router::new();
    for route in client::routes().into_iter().chain(federation::routes()).chain(native::routes()) {
        router = mount(router, route, &services);
    }
    let plain = [
        HeaderName::from_static("x-requested-with"),
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::RANGE,
    ];
    let cors = cors::CorsLayer::new()
        .allow_origin(cors::Any)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS])
        .allow_headers(plain.into_iter().chain(native::files::HEADERS).collect::<Vec<_>>())
        .expose_headers([header::LOCATION, header::ETAG].into_iter().chain(native::files::HEADERS).collect::<Vec<_>>());
    router
        .merge(docs::router())
        .merge(operator::router(services.clone()))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(services, refuse_banned))
        .layer(middleware::from_fn(measure))
        .layer(cors)
        .layer(middleware::from_fn(native::files::options))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            tracing::error!("a handler panicked");
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "internal server error").into_response()
        }))
}

/// Refuses addresses that are kept out, whatever they ask.
async fn refuse_banned(State(services): State<SharedServices>, request: Request<Body>, next: Next) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(asker)| asker.ip());
    if !address.is_some_and(|address| services.users.is_banned(address)) {
        return next.run(request).await;
    }
    let message = "your address is banned from this server: ask those who run it";
    match native::is_native(request.uri().path()) {
        true => Problem::new(StatusCode::FORBIDDEN, "address_banned", message).into_response(),
        false => Error::forbidden(message).into_response(),
    }
}

async fn unknown_path(uri: Uri) -> Response {
    if native::is_native(uri.path()) {
        let problem = Problem::new(StatusCode::NOT_FOUND, "unknown_endpoint", "there is no such endpoint");
        return problem.into_response();
    }
    Error::unrecognized().into_response()
}

async fn wrong_method(uri: Uri) -> Response {
    let message = "this endpoint does not take this method";
    if native::is_native(uri.path()) {
        return Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message).into_response();
    }
    Error::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", message).into_response()
}

fn mount(mut router: Router, route: Route, services: &SharedServices) -> Router {
    let filter = MethodFilter::try_from(route.method.clone()).expect("endpoints use the usual methods");
    let endpoint = Mounted { route: route.clone(), services: services.clone() };
    for path in &route.paths {
        router = router.route(path, on_service(filter, endpoint.clone()));
    }
    router
}

/// One type for every endpoint.
#[derive(Clone)]
struct Mounted {
    route: Route,
    services: SharedServices,
}

impl tower::Service<Request<Body>> for Mounted {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = (self.route.handler)(request, self.services.clone());
        Box::pin(async move { Ok(answer.await) })
    }
}

/// Counts and times each request by its endpoint; what no endpoint takes is counted together.
async fn measure(request: Request<Body>, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().as_str().to_owned();
    let path =
        request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    gauge!("comity_http_requests_in_flight").increment(1.0);
    let response = next.run(request).await;
    gauge!("comity_http_requests_in_flight").decrement(1.0);
    let status = response.status().as_u16().to_string();
    histogram!("comity_http_request_seconds", "endpoint" => path.clone()).record(began.elapsed().as_secs_f64());
    counter!("comity_http_requests_total", "endpoint" => path, "method" => method, "status" => status).increment(1);
    response
}
