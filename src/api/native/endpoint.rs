//! An endpoint of the native API: a function, and what is to be said of it, which is the same declaration.

use std::{fmt::Display, future::Future, net::IpAddr, panic::AssertUnwindSafe, str::FromStr, sync::Arc};

use axum::{body::Body, response::IntoResponse as _};
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Request, request::Parts};
use serde::de::DeserializeOwned;
use tracing::error;
use users::applications::AppScope;
use utoipa::{
    IntoParams, PartialSchema as _, ToSchema as _,
    openapi::{
        Content, HttpMethod, Ref, RefOr, Required, Schema, SecurityRequirement,
        extensions::ExtensionsBuilder,
        path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
        response::ResponseBuilder,
        schema::{ObjectBuilder, Type},
    },
};

use super::{
    applications::{OpenTo, SCHEME, acting, is_signed},
    payload::{Nothing, Payload, Reply, Schemas, misread},
};
use crate::{
    Incoming, Needs, Problem, Route, Services, Session, SharedServices,
    endpoint::{address_of, path_arguments, user_of},
    problem::Document,
};

/// A call that has been authenticated and parsed.
///
/// `W`: who may call. `Q`: what the query holds. `B`: what the body holds.
pub struct Call<W, Q = Nothing, B = Nothing> {
    /// Who calls.
    pub caller: W,
    /// What the query says.
    pub query: Q,
    /// What the body says.
    pub body: B,
    /// From where.
    pub address: IpAddr,
    /// The headers.
    pub headers: HeaderMap,
    /// What can be asked.
    pub services: SharedServices,
    arguments: Vec<(String, String)>,
}

impl<W, Q, B> Call<W, Q, B> {
    /// The part of the path that stands at `{name}`.
    pub fn argument<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, Problem> {
        let (_, text) = self.arguments.iter().find(|(known, _)| known == name).ok_or_else(Problem::internal)?;
        text.parse().map_err(|error| {
            Problem::invalid(format!("`{text}`, which stands for `{name}` in the path, is wrong: {error}"))
                .with("field", name)
        })
    }
}

/// What a handler answers.
pub type Answer<T> = Result<T, Problem>;

/// Who may call an endpoint.
pub trait Caller: Sized + Send + 'static {
    /// The names of the security schemes of the description, of which one is needed; none: anybody may call.
    const SCHEMES: &'static [&'static str];

    /// Who may call.
    const NEEDS: Needs;

    /// Finds out who calls, before any of the body is read, unless that is part of the proof.
    fn authenticate(
        parts: &Parts,
        body: &mut Incoming,
        address: IpAddr,
        services: &Services,
    ) -> impl Future<Output = Result<Self, Problem>> + Send;
}

/// Who calls doesn't matter.
#[derive(Clone, Copy, Debug)]
pub struct Anybody;

impl Caller for Anybody {
    const SCHEMES: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nobody;

    async fn authenticate(_: &Parts, _: &mut Incoming, _: IpAddr, _: &Services) -> Result<Self, Problem> {
        Ok(Self)
    }
}

/// A user of this server, by the same access token as on the Matrix client API; or an application that acts as one, where
/// [`Endpoint::open_to`] lets it.
impl Caller for Session {
    const SCHEMES: &'static [&'static str] = &["access_token"];
    const NEEDS: Needs = Needs::User;

    async fn authenticate(
        parts: &Parts,
        body: &mut Incoming,
        address: IpAddr,
        services: &Services,
    ) -> Result<Self, Problem> {
        if is_signed(parts) {
            return acting(parts, body, address, services).await;
        }
        Ok(user_of(parts, address, services).await?)
    }
}

/// An endpoint as it is mounted, and as it is described.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) route: Route,
    pub(super) method: HttpMethod,
    pub(crate) operation: Operation,
    pub(super) schemas: Schemas,
    /// What an application needs to come here; `None`: none may.
    pub(super) scope: Option<AppScope>,
}

impl Endpoint {
    /// Where it is, as it is described.
    pub(super) fn path(&self) -> &'static str {
        self.route.paths.first().copied().unwrap_or_default()
    }

    /// Lets applications with this scope come here, too.
    #[must_use]
    pub fn open_to(mut self, scope: AppScope) -> Self {
        let inner = self.route.handler.clone();
        self.route.handler = Arc::new(move |mut request, services| {
            request.extensions_mut().insert(OpenTo(scope));
            inner(request, services)
        });
        self.scope = Some(scope);
        let security = self.operation.security.get_or_insert_default();
        security.retain(|known| *known != SecurityRequirement::new(SCHEME, [] as [&str; 0]));
        security.push(SecurityRequirement::new(SCHEME, [scope.as_str()]));
        self
    }

    /// Says more of it than its one sentence, in Markdown.
    #[must_use]
    pub fn explained(mut self, text: &str) -> Self {
        self.operation.description = Some(text.to_owned());
        self
    }
}

macro_rules! methods {
    ($($name:ident, $method:ident, $described:ident;)*) => {$(
        #[doc = concat!("An endpoint for ", stringify!($method), ". `path` as the router takes it; `summary`: one sentence.")]
        pub fn $name<W, Q, B, T, F, Fut>(path: &'static str, summary: &str, handler: F) -> Endpoint
        where
            W: Caller,
            Q: DeserializeOwned + IntoParams + Send + 'static,
            B: Payload,
            T: Reply,
            F: Fn(Call<W, Q, B>) -> Fut + Copy + Send + Sync + 'static,
            Fut: Future<Output = Answer<T>> + Send + 'static,
        {
            declare(Method::$method, HttpMethod::$described, path, summary, handler)
        }
    )*};
}

methods! {
    get, GET, Get;
    post, POST, Post;
    put, PUT, Put;
    patch, PATCH, Patch;
    delete, DELETE, Delete;
}

fn declare<W, Q, B, T, F, Fut>(
    method: Method,
    described: HttpMethod,
    path: &'static str,
    summary: &str,
    handler: F,
) -> Endpoint
where
    W: Caller,
    Q: DeserializeOwned + IntoParams + Send + 'static,
    B: Payload,
    T: Reply,
    F: Fn(Call<W, Q, B>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Answer<T>> + Send + 'static,
{
    let (operation, schemas) = describe::<W, Q, B, T>(&method, path, summary);
    let names: Arc<[String]> = arguments_of(path).map(str::to_owned).collect();
    let route = Route {
        method,
        paths: vec![path],
        needs: W::NEEDS,
        handler: Arc::new(move |request, services| {
            let names = names.clone();
            let answer = async move {
                let answer = match read(request, &names, services).await {
                    Ok(call) => handler(call).await,
                    Err(problem) => Err(problem),
                };
                answer.map_or_else(Problem::into_response, T::into_response)
            };
            Box::pin(async move {
                // Nothing is shared with what panicked but the services, which hold no locks across anything that could.
                AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
                    error!(http.route = path, "a handler panicked");
                    Problem::internal().into_response()
                })
            })
        }),
    };
    Endpoint { route, method: described, operation, schemas, scope: None }
}

/// The names in `/users/{user_id}`.
pub(super) fn arguments_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

async fn read<W, Q, B>(
    request: Request<Body>,
    names: &[String],
    services: SharedServices,
) -> Result<Call<W, Q, B>, Problem>
where
    W: Caller,
    Q: DeserializeOwned,
    B: Payload,
{
    let (mut parts, body) = request.into_parts();
    let address = address_of(&parts);
    let mut body = Incoming::Unread(body);
    let caller = W::authenticate(&parts, &mut body, address, &services).await?;
    let arguments = names.iter().cloned().zip(path_arguments(&mut parts).await?).collect();
    let query = read_query(parts.uri.query().unwrap_or_default())?;
    let body = B::read(body, services.config.max_body).await?;
    Ok(Call { caller, query, body, address, headers: parts.headers, services, arguments })
}

fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let deserializer = serde_html_form::Deserializer::from_bytes(query.as_bytes());
    serde_path_to_error::deserialize(deserializer).map_err(|error| misread("query", error))
}

// === what is said of it ===

fn describe<W: Caller, Q: IntoParams, B: Payload, T: Reply>(
    method: &Method,
    path: &'static str,
    summary: &str,
) -> (Operation, Schemas) {
    let mut schemas = Schemas::new();
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "api" | "v1")).collect();
    let words = parts.iter().map(|part| part.trim_matches(['{', '}']).replace(['-', '.'], "_"));
    let id = std::iter::once(method.as_str().to_ascii_lowercase()).chain(words).collect::<Vec<_>>().join("_");
    let mut operation = OperationBuilder::new().operation_id(Some(id)).summary(Some(summary));
    if let Some(tag) = parts.first() {
        operation = operation.tag(tag.trim_end_matches(".json"));
    }
    for name in arguments_of(path) {
        let text = RefOr::T(Schema::from(ObjectBuilder::new().schema_type(Type::String)));
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
        operation = operation.parameter(parameter.schema(Some(text)));
    }
    for parameter in Q::into_params(|| Some(ParameterIn::Query)) {
        operation = operation.parameter(parameter);
    }
    for scheme in W::SCHEMES {
        operation = operation.security(SecurityRequirement::new(*scheme, [] as [&str; 0]));
    }
    let roles: Vec<&str> = W::NEEDS.roles().iter().map(|role| role.as_str()).collect();
    if !roles.is_empty() {
        operation = operation.extensions(Some(ExtensionsBuilder::new().add("x-roles", roles).build()));
    }
    operation = T::describe(B::describe(operation, &mut schemas), &mut schemas);
    schemas.push((Document::name().into_owned(), Document::schema()));
    let refused = Content::new(Some(Ref::from_schema_name(Document::name())));
    let refused = ResponseBuilder::new().description("Refused.").content("application/problem+json", refused);
    (operation.response("default", refused).build(), schemas)
}
