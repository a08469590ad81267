//! How one server hands a file to another: an object, and the file, in one `multipart/mixed` answer.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid>

use std::task::Poll;

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use http::{HeaderMap, header};
use mime::Mime;
use multer::{Constraints, Multipart, SizeLimit};
use peers::{PeerError, Streamed};
use ruma::http_headers::ContentDisposition;

use crate::RemoteFailure;

/// What stands around the file: headers, the object, an empty line here and there.
const AROUND: u64 = 64 << 10;

/// The second part of an answer.
pub(crate) enum FilePart {
    /// The file itself.
    Here(RemoteFile),
    /// The address at which it is.
    Elsewhere(String),
}

/// A file on its way. Whoever reads it sees to its size.
pub(crate) struct RemoteFile {
    pub(crate) content_type: Option<String>,
    pub(crate) file_name: Option<String>,
    pub(crate) body: BoxStream<'static, Result<Bytes, RemoteFailure>>,
}

impl RemoteFile {
    /// A file that its headers describe.
    pub(crate) fn new<E>(
        headers: &HeaderMap,
        body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
        failure: impl Fn(E) -> RemoteFailure + Send + 'static,
    ) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let disposition = headers.get(header::CONTENT_DISPOSITION);
        let disposition = disposition.and_then(|value| ContentDisposition::try_from(value.as_bytes()).ok());
        let file_name = disposition.and_then(|disposition| disposition.filename);
        Self { content_type, file_name, body: body.map_err(failure).boxed() }
    }
}

/// Reads up to the file. No answer with a file of at most `limit` bytes is refused for its length.
pub(crate) async fn file_part(answer: Streamed, limit: u64) -> Result<FilePart, RemoteFailure> {
    let boundary = boundary_of(&answer.headers).ok_or(RemoteFailure::Unreachable)?;
    let size_limit = SizeLimit::new().whole_stream(limit.saturating_add(AROUND));
    let constraints = Constraints::new().size_limit(size_limit);
    let mut parts = Multipart::with_constraints(one_by_one(answer.body), boundary, constraints);
    let failure = move |error| failure_of(&error, limit);
    let object = parts.next_field().await.map_err(failure)?;
    drop(object.ok_or(RemoteFailure::Unreachable)?);
    let field = parts.next_field().await.map_err(failure)?.ok_or(RemoteFailure::Unreachable)?;
    if let Some(address) = field.headers().get(header::LOCATION) {
        let address = address.to_str().map_err(|_| RemoteFailure::Unreachable)?;
        return Ok(FilePart::Elsewhere(address.to_owned()));
    }
    let headers = field.headers().clone();
    Ok(FilePart::Here(RemoteFile::new(&headers, field, failure)))
}

fn boundary_of(headers: &HeaderMap) -> Option<String> {
    let content_type: Mime = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.parse().ok()?;
    let is_mixed = content_type.essence_str() == "multipart/mixed";
    let boundary =
        content_type.get_param(mime::BOUNDARY).filter(|boundary| (1..=70).contains(&boundary.as_str().len()));
    boundary.filter(|_| is_mixed).map(|boundary| boundary.as_str().to_owned())
}

fn failure_of(error: &multer::Error, limit: u64) -> RemoteFailure {
    match error {
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            RemoteFailure::TooLarge { limit }
        }
        _ => RemoteFailure::Unreachable,
    }
}

/// Pauses after each piece. The parser takes what it can get without a pause, and would have all of a file in memory.
fn one_by_one(
    mut body: impl Stream<Item = Result<Bytes, PeerError>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<Bytes, PeerError>> + Send + 'static {
    let mut has_given = false;
    stream::poll_fn(move |context| {
        if std::mem::take(&mut has_given) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = body.poll_next_unpin(context);
        has_given = matches!(piece, Poll::Ready(Some(_)));
        piece
    })
}
