//! Which application has signed a request, and as whom it acts.

use std::net::IpAddr;

use http::{HeaderMap, header, request::Parts};
use model::Address;
use users::{
    Session,
    applications::{ActingError, AppScope, Application, SignatureError, SignedRequest},
};

use crate::{Incoming, Needs, Problem, Services, endpoint::read_body, native::Caller};

/// The name of the security scheme in the description.
pub(crate) const SCHEME: &str = "application";

const KEY: &str = "x-app-key";
const TIMESTAMP: &str = "x-app-timestamp";
const NONCE: &str = "x-app-nonce";
const SIGNATURE: &str = "x-app-signature";
const USER: &str = "x-app-user";

/// That applications with this scope may come to an endpoint. It is a part of the request that the endpoint is handed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenTo(pub(crate) AppScope);

/// An application that has signed its request.
pub(crate) struct Signer {
    /// Which.
    pub(crate) application: Application,
}

impl Caller for Signer {
    const SCHEMES: &'static [&'static str] = &[SCHEME];
    const NEEDS: Needs = Needs::Application;

    async fn authenticate(
        parts: &Parts,
        body: &mut Incoming,
        address: IpAddr,
        services: &Services,
    ) -> Result<Self, Problem> {
        let application = signer(parts, body, address, services).await?;
        if let Some(OpenTo(scope)) = parts.extensions.get() {
            application.check_scope(*scope).map_err(refused)?;
        }
        Ok(Self { application })
    }
}

/// Whether a request says that an application has signed it.
pub(crate) fn is_signed(parts: &Parts) -> bool {
    parts.headers.contains_key(KEY)
}

/// The user as whom an application acts.
pub(crate) async fn acting(
    parts: &Parts,
    body: &mut Incoming,
    address: IpAddr,
    services: &Services,
) -> Result<Session, Problem> {
    // Where no application may come, nothing is looked up and nothing read.
    let Some(OpenTo(scope)) = parts.extensions.get() else { return Err(refused(SignatureError::NotForApplications)) };
    let application = signer(parts, body, address, services).await?;
    application.check_scope(*scope).map_err(refused)?;
    let user: Address = match text(&parts.headers, USER) {
        "" => return Err(ActingError::NobodyNamed.into()),
        user => user.parse().map_err(|_| ActingError::UnknownUser)?,
    };
    Ok(services.users.act_as(&application, user.user_id()).await?)
}

/// Who has signed a request. Its body, which is a part of the proof, is read.
async fn signer(
    parts: &Parts,
    body: &mut Incoming,
    address: IpAddr,
    services: &Services,
) -> Result<Application, Problem> {
    if is_signed(parts) && parts.headers.contains_key(header::AUTHORIZATION) {
        let detail = "a request is of an application or of a user: with `Authorization` it can't be signed";
        return Err(Problem::invalid(detail));
    }
    let needed = |name| match text(&parts.headers, name) {
        "" => Err(refused(SignatureError::Missing(name))),
        text => Ok(text),
    };
    let request = SignedRequest {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        app_key: needed(KEY)?,
        timestamp: needed(TIMESTAMP)?,
        nonce: needed(NONCE)?,
        user: text(&parts.headers, USER),
        signature: needed(SIGNATURE)?,
    };
    let users = &services.users;
    let claimed = users.claimed(&request, address).await.map_err(refused)?;
    let read = match std::mem::replace(body, Incoming::Read(bytes::Bytes::new())) {
        Incoming::Read(body) => body,
        Incoming::Unread(body) => read_body(body, services.config.max_body).await?,
    };
    let application = users.admit(claimed, &request, &read, address).await.map_err(refused)?;
    *body = Incoming::Read(read);
    Ok(application)
}

/// What a header says, if it stands there once; as nothing else than that can be signed.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => one.to_str().unwrap_or_default(),
        _ => "",
    }
}

fn refused(error: SignatureError) -> Problem {
    match error {
        SignatureError::Scope(scope) => Problem::from(error).with("scope", scope.as_str()),
        SignatureError::Stale { now, .. } => Problem::from(error).with("server_time_ms", now),
        SignatureError::Malformed { header, .. } | SignatureError::Missing(header) => {
            Problem::from(error).with("field", header.to_ascii_lowercase())
        }
        error => error.into(),
    }
}
