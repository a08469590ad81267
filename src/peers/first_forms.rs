//! Asking servers that know joining, leaving and inviting only as the first version of their API has it.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_joinroomideventid>

use bytes::Bytes;
use http::Response;
use ruma::{
    ServerName,
    api::{OutgoingRequest, federation::authentication::ServerSignatures, path_builder::PathBuilder},
};
use serde_json::value::RawValue;

use crate::{
    PeerError, Peers,
    client::{Asked, Bounds, asked, read},
};

impl Peers {
    /// As [`Self::ask`], and once more in the first form, with the same body, where the other server doesn't know this one.
    pub async fn ask_either<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_either_within::<R>(self.ordinary(), destination, request, None).await
    }

    /// As [`Self::ask_either`], for answers that may be large.
    pub async fn ask_either_large<R>(
        &self,
        destination: &ServerName,
        request: R,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_either_within::<R>(self.large(), destination, request, None).await
    }

    /// As [`Self::ask_either`], with another body in the first form.
    pub async fn ask_either_with<R>(
        &self,
        destination: &ServerName,
        request: R,
        first_form: Box<RawValue>,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_either_within::<R>(self.ordinary(), destination, request, Some(first_form)).await
    }

    async fn ask_either_within<R>(
        &self,
        bounds: Bounds,
        destination: &ServerName,
        request: R,
        first_form: Option<Box<RawValue>>,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let later = asked(destination, request)?;
        let first = Asked {
            method: later.method.clone(),
            uri: later.uri.replacen("/federation/v2/", "/federation/v1/", 1),
            headers: later.headers.clone(),
            body: first_form
                .map_or_else(|| later.body.clone(), |body| Bytes::from(String::from(Box::<str>::from(body)))),
        };
        let answer = self.exchange(bounds, destination, self.sign(destination, later)?).await?;
        let answer = read::<R>(destination, answer);
        if !answer.as_ref().is_err_and(is_unknown_endpoint) {
            return answer;
        }
        let answer = self.exchange(bounds, destination, self.sign(destination, first)?).await?;
        read::<R>(destination, unlisted(destination, answer)?)
    }
}

/// Whether a server says that it knows no such endpoint. Some that say so have never heard of the error code.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#unsupported-endpoints>
fn is_unknown_endpoint(error: &PeerError) -> bool {
    let PeerError::Refused { status, errcode, .. } = error else { return false };
    match errcode.as_deref() {
        Some("M_UNRECOGNIZED") => matches!(status, 400 | 404 | 405),
        Some(_) => false,
        None => matches!(status, 404 | 405),
    }
}

/// The answer of the first form without the status beside it.
fn unlisted(destination: &ServerName, answer: Response<Bytes>) -> Result<Response<Bytes>, PeerError> {
    if !answer.status().is_success() {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let listed: Result<(u16, &RawValue), _> = serde_json::from_slice(&body);
    let (_, answer) =
        listed.map_err(|error| PeerError::Malformed { server: destination.to_owned(), reason: error.to_string() })?;
    Ok(Response::from_parts(parts, body.slice_ref(answer.get().as_bytes())))
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;

    fn refused(status: u16, errcode: Option<&str>) -> PeerError {
        let server = owned_server_name!("b.test");
        let errcode = errcode.map(ToOwned::to_owned);
        PeerError::Refused { server, status, errcode, message: String::new(), retry_after: None }
    }

    #[test]
    fn only_who_does_not_know_the_later_form_is_asked_in_the_first() {
        for (status, errcode) in
            [(404, Some("M_UNRECOGNIZED")), (400, Some("M_UNRECOGNIZED")), (404, None), (405, None)]
        {
            assert!(is_unknown_endpoint(&refused(status, errcode)), "{status} {errcode:?}");
        }
        for (status, errcode) in [(404, Some("M_NOT_FOUND")), (403, Some("M_FORBIDDEN")), (400, None), (500, None)] {
            assert!(!is_unknown_endpoint(&refused(status, errcode)), "{status} {errcode:?}");
        }
    }

    #[test]
    fn the_first_form_answers_a_list() {
        let server = owned_server_name!("b.test");
        let read = |body: &'static str| unlisted(&server, Response::new(Bytes::from_static(body.as_bytes())));
        assert_eq!(read(r#"[200, {"state": []}]"#).expect("it is a list").into_body(), r#"{"state": []}"#);
        for body in ["{}", "[]", "[200]", r#"["200", {}]"#, r#"[200, {}, 1]"#] {
            assert!(matches!(read(body), Err(PeerError::Malformed { .. })), "{body}");
        }
    }
}
