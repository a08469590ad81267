//! Which server calls, and what for.

use std::net::IpAddr;

use http::{StatusCode, header, request::Parts};
use model::{
    Refusal,
    peer::{Capability, Context, Fact, Grant},
};
use peers::{Peers, Scope, TokenError, TrustError};
use ruma::{OwnedServerName, ServerName};

use crate::{
    Incoming, Needs, Problem, Services,
    federation::{read_once, signed_by},
    native::Caller,
};

/// Another server, as it has proved by a token of its own or, as on the Matrix API, by a signature over the request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub server: OwnedServerName,
    /// What it may do at most. How far it is trusted may be less.
    scopes: Vec<Scope>,
}

impl Caller for Peer {
    const SCHEMES: &'static [&'static str] = &["server_token", "x_matrix"];
    const NEEDS: Needs = Needs::Server;

    async fn authenticate(parts: &Parts, body: &mut Incoming, _: IpAddr, services: &Services) -> Result<Self, Problem> {
        let peers = &services.peers;
        if is_x_matrix(parts) {
            let server = signed_by::<Problem>(parts, body, peers).await?.server;
            peers.trust().pace(&server)?;
            peers.note_heard(&server);
            return Ok(Self { server, scopes: Scope::ALL.to_vec() });
        }
        // What no key can make right is refused before anything of the body is read, and before anybody is asked.
        let token = peers.token_of(&parts.headers).map_err(|error| refuse(peers, None, error))?;
        let read = read_once(body, &token.issuer, peers).await?;
        let signed = peers.verify_token(&token, &parts.headers, read).await;
        *body = Incoming::Read(signed.map_err(|error| refuse(peers, Some(&token.issuer), error))?);
        peers.note_heard(&token.issuer);
        Ok(Self { server: token.issuer, scopes: token.scopes })
    }
}

impl Peer {
    /// Refuses what the token was not made for.
    pub(super) fn check_scope(&self, scope: Scope, peers: &Peers) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        let word = scope.word();
        peers.note_refusal(Some(&self.server), "insufficient_scope", &format!("its token is not for {word}"));
        let detail = format!("the token's `scope` does not have `{word}`");
        Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", detail).with("scope", word))
    }
}

/// Why something is not to be done.
enum Refused {
    Trust(TrustError),
    Problem(Problem),
}

impl From<TrustError> for Refused {
    fn from(error: TrustError) -> Self {
        Self::Trust(error)
    }
}

impl Peer {
    /// Refuses what the token was not made for, and what its server is not trusted with; `look_up`: what the decision may
    /// hang on.
    pub(super) async fn check(
        &self,
        peers: &Peers,
        scope: Scope,
        capability: Capability,
        look_up: impl AsyncFnOnce(Fact) -> Result<bool, Problem>,
    ) -> Result<Grant, Problem> {
        self.check_scope(scope, peers)?;
        let context = Context::inbound();
        let look_up = async |fact| look_up(fact).await.map_err(Refused::Problem);
        match peers.trust().allow_knowing(&self.server, capability, &context, look_up).await {
            Ok(allowed) => Ok(allowed.grant),
            Err(Refused::Trust(error)) => {
                let rule = error.rule().to_string();
                Err(self.refuse(peers, error).with("rule", rule))
            }
            Err(Refused::Problem(problem)) => Err(problem),
        }
    }

    /// Counts a refusal, and words it.
    pub(super) fn refuse<E: Refusal + 'static>(&self, peers: &Peers, refusal: E) -> Problem {
        if let Some(code) = refusal.code() {
            peers.note_refusal(Some(&self.server), code, &refusal);
        }
        refusal.into()
    }
}

fn is_x_matrix(parts: &Parts) -> bool {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header
        .is_some_and(|value| value.trim_start().get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("x-matrix")))
}

fn refuse(peers: &Peers, issuer: Option<&ServerName>, error: TokenError) -> Problem {
    peers.note_refusal(issuer, error.reason(), &error);
    error.into()
}
