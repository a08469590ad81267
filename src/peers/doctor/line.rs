//! Requests to one address of a server, made as all requests to others are, whose answers are looked at as they came.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use model::SigningKey;
use reqwest::redirect;
use ruma::{CanonicalJsonValue, OwnedServerName, ServerName};
use tokio::time::timeout;

use super::Doctor;
use crate::{
    Failure, PeerError,
    client::{USER_AGENT, collect, failed, unreachable},
    resolver::Place,
    well_known::root_cause,
    x_matrix,
};

/// No answer that is asked for here is longer.
const LONGEST_ANSWER: usize = 1 << 20;

/// The way to one address.
pub(super) struct Line {
    pub(super) address: SocketAddr,
    pub(super) server: OwnedServerName,
    /// What this server signs with.
    pub(super) key: Arc<SigningKey>,
    /// How long one answer may take.
    pub(super) limit: Duration,
    place: Place,
    client: reqwest::Client,
}

impl Line {
    pub(super) fn new(
        doctor: &Doctor,
        server: &ServerName,
        place: &Place,
        address: SocketAddr,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(doctor.tls.clone())
            .resolve_to_addrs(&place.host.to_ascii_lowercase(), &[address])
            .redirect(redirect::Policy::none())
            .connect_timeout(doctor.config.connect_timeout)
            .no_proxy()
            .user_agent(USER_AGENT)
            .build()?;
        Ok(Self {
            address,
            server: server.to_owned(),
            key: doctor.key.clone(),
            limit: doctor.config.request_timeout,
            place: place.clone(),
            client,
        })
    }

    /// Asks what anybody may ask. `uri`: path and query.
    pub(super) async fn ask(
        &self,
        method: Method,
        uri: &str,
        content: Option<&CanonicalJsonValue>,
    ) -> Result<http::Response<Bytes>, PeerError> {
        self.exchange(method, uri, content, HeaderMap::new()).await
    }

    /// Asks as this server. `uri`: path and query.
    pub(super) async fn ask_signed(
        &self,
        method: Method,
        uri: &str,
        content: Option<&CanonicalJsonValue>,
    ) -> Result<http::Response<Bytes>, PeerError> {
        let signature = x_matrix::sign(&self.key, &self.server, &method, uri, content)
            .map_err(|error| PeerError::Configuration(error.to_string()))?;
        self.exchange(method, uri, content, HeaderMap::from_iter([(header::AUTHORIZATION, signature)])).await
    }

    async fn exchange(
        &self,
        method: Method,
        uri: &str,
        content: Option<&CanonicalJsonValue>,
        mut headers: HeaderMap,
    ) -> Result<http::Response<Bytes>, PeerError> {
        let mut body = Bytes::new();
        if let Some(content) = content {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            body = content.to_string().into();
        }
        let asking = async {
            let request = self.place.request(&self.client, method, uri).headers(headers).body(body);
            let response = request.send().await.map_err(|error| failed(&self.server, error))?;
            collect(LONGEST_ANSWER, &self.server, response).await
        };
        let answer = timeout(self.limit, asking).await;
        answer.unwrap_or_else(|_| Err(unreachable(&self.server, Failure::Timeout, None)))
    }

    /// What failed, in words.
    pub(super) fn why(&self, error: &PeerError) -> String {
        match error.failure() {
            Failure::Timeout => format!("there was no answer within {:?}", self.limit),
            // Some libraries end their messages by where to read more of them.
            _ => root_cause(error).split(": https://docs.rs").next().unwrap_or_default().to_owned(),
        }
    }
}
