//! Resumable uploads.
//!
//! Spec: <https://tus.io/protocols/resumable-upload>, version 1.0.0.

use std::{str::FromStr, time::UNIX_EPOCH};

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use media::{Announced, Described, Progress, Reach};
use model::Millis;
use serde::Serialize;
use utoipa::ToSchema;

use super::{FileInfo, Named, look_at, refuse, uri_of};
use crate::{
    Problem, Session,
    native::{Answer, Call, Nothing, Pieces, Reply, Written},
};

pub(super) const RESUMABLE: &str = "tus-resumable";
const VERSION: &str = "1.0.0";
const EXTENSIONS: &str = "creation,creation-with-upload,checksum,expiration,termination";
const PIECE: &str = "application/offset+octet-stream";

/// What the protocol needs beside the usual headers, of requests and answers.
pub(crate) const HEADERS: [HeaderName; 7] = [
    HeaderName::from_static(RESUMABLE),
    HeaderName::from_static("upload-length"),
    HeaderName::from_static("upload-offset"),
    HeaderName::from_static("upload-metadata"),
    HeaderName::from_static("upload-checksum"),
    HeaderName::from_static("upload-expires"),
    HeaderName::from_static("tus-version"),
];

/// Where pieces go.
const UPLOADS: &str = "/api/v1/files/uploads/";

/// What is said of an upload when nobody has sent anything yet: which parts of the protocol there are.
///
/// A browser asks by the same method whether it may send at all, which is answered further in, so that this only adds to it.
pub(crate) async fn options(request: Request, next: Next) -> Response {
    let is_asked = request.method() == Method::OPTIONS && request.uri().path().starts_with("/api/v1/files");
    let mut response = next.run(request).await;
    if is_asked {
        let fixed = [
            (RESUMABLE, VERSION),
            ("tus-version", VERSION),
            ("tus-extension", EXTENSIONS),
            ("tus-checksum-algorithm", "sha256"),
        ];
        for (name, value) in fixed {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// How far a file has come.
#[derive(Debug, Serialize, ToSchema)]
struct Upload {
    /// What messages call it; it may be used before the file is whole.
    mxc_uri: String,
    /// How many bytes are here for good.
    offset: u64,
    /// How many it has.
    length: u64,
    /// When it is given up, milliseconds since 1970; null: it is whole.
    expires_at: Option<Millis>,
    /// The file, once it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileInfo>,
}

pub(super) async fn announce(call: Call<Session, Named, Pieces>) -> Answer<Written> {
    spoken(announced(call).await)
}

async fn announced(call: Call<Session, Named, Pieces>) -> Answer<Response> {
    let Call { caller, query, body, headers, services, .. } = call;
    check_version(&headers)?;
    services.limits.check_send(&caller.user_id).await?;
    let metadata = Metadata::read(&headers)?;
    let described = Described {
        content_type: metadata.find("filetype")?,
        file_name: metadata.find("filename")?.or(query.filename),
    };
    let sha256 = metadata.find("sha256")?;
    if sha256.as_ref().is_some_and(|hash| hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(Problem::invalid("`sha256` in `Upload-Metadata` is 64 hex digits").with("field", "Upload-Metadata"));
    }
    let length = number(&headers, "upload-length")?;
    let media = &services.media;
    let mut progress =
        media.announce(&caller.user_id, Announced { described, length, sha256 }).await.map_err(refuse)?;
    if is_piece(&headers) && progress.expires_at.is_some() {
        let (id, checksum) = (progress.mxc.id.clone(), checksum(&headers)?);
        let pieces = body.0.into_data_stream();
        progress = media.append(&caller.user_id, &id, 0, checksum.as_deref(), pieces).await.map_err(refuse)?;
    }
    let location = format!("{UPLOADS}{}", progress.mxc.id);
    let mut response = render(&services.media, &progress, StatusCode::CREATED).await?;
    response.headers_mut().insert(header::LOCATION, header_of(&location));
    Ok(response)
}

pub(super) async fn progress(call: Call<Session>) -> Answer<Written> {
    let answered = async {
        let id: String = call.argument("upload_id")?;
        let progress = call.services.media.progress(&call.caller.user_id, &id).await.map_err(refuse)?;
        let mut response = render(&call.services.media, &progress, StatusCode::OK).await?;
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    };
    spoken(answered.await)
}

pub(super) async fn append(call: Call<Session, Nothing, Pieces>) -> Answer<Written> {
    spoken(appended(call).await)
}

async fn appended(call: Call<Session, Nothing, Pieces>) -> Answer<Response> {
    let id: String = call.argument("upload_id")?;
    let Call { caller, body, headers, services, .. } = call;
    check_version(&headers)?;
    if !is_piece(&headers) {
        let detail = format!("`Content-Type` of a piece is `{PIECE}`");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let (offset, checksum) = (number(&headers, "upload-offset")?, checksum(&headers)?);
    let pieces = body.0.into_data_stream();
    let appended = services.media.append(&caller.user_id, &id, offset, checksum.as_deref(), pieces).await;
    let progress = appended.map_err(refuse)?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_headers(&mut response, &progress);
    Ok(response)
}

pub(super) async fn abandon(call: Call<Session>) -> Answer<Written> {
    let answered = async {
        let id: String = call.argument("upload_id")?;
        call.services.media.abandon(&call.caller.user_id, &id).await.map_err(refuse)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    spoken(answered.await)
}

// === what is said ===

/// Every answer names the version, refusals too.
fn spoken(answer: Answer<Response>) -> Answer<Written> {
    let mut response = answer.unwrap_or_else(|problem| problem.into_response());
    response.headers_mut().insert(RESUMABLE, HeaderValue::from_static(VERSION));
    Ok(Written(response))
}

async fn render(media: &media::Media, progress: &Progress, status: StatusCode) -> Answer<Response> {
    let file = match progress.expires_at {
        None => Some(look_at(media, &progress.mxc, Reach::Ours).await?),
        Some(_) => None,
    };
    let Progress { mxc, offset, length, expires_at } = progress;
    let upload = Upload { mxc_uri: uri_of(mxc), offset: *offset, length: *length, expires_at: *expires_at, file };
    let mut response = Reply::into_response(upload);
    *response.status_mut() = status;
    set_headers(&mut response, progress);
    Ok(response)
}

fn set_headers(response: &mut Response, progress: &Progress) {
    let headers = response.headers_mut();
    headers.insert("upload-offset", HeaderValue::from(progress.offset));
    headers.insert("upload-length", HeaderValue::from(progress.length));
    if let Some(at) = progress.expires_at {
        let at = UNIX_EPOCH + std::time::Duration::from_millis(at.unsigned_abs());
        headers.insert("upload-expires", header_of(&httpdate::fmt_http_date(at)));
    }
}

fn header_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

// === what is asked ===

fn check_version(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(RESUMABLE) {
        Some(version) if version != VERSION => {
            let detail = format!("this server speaks tus {VERSION}");
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, "unsupported_version", detail))
        }
        _ => Ok(()),
    }
}

fn is_piece(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value == PIECE)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let unreadable = |_| Problem::invalid(format!("the header `{name}` is no text")).with("field", name);
    headers.get(name).map(|value| value.to_str().map_err(unreadable)).transpose()
}

fn number<T: FromStr>(headers: &HeaderMap, name: &str) -> Result<T, Problem> {
    let read = text(headers, name)?.and_then(|value| value.trim().parse().ok());
    read.ok_or_else(|| Problem::invalid(format!("the header `{name}` must be a number of bytes")).with("field", name))
}

/// The 32 bytes of `Upload-Checksum: sha256 BASE64`.
fn checksum(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let name = "upload-checksum";
    let Some(value) = text(headers, name)? else { return Ok(None) };
    let hash = value.strip_prefix("sha256 ").and_then(|hash| STANDARD.decode(hash.trim()).ok());
    let hash = hash.filter(|hash| hash.len() == 32);
    hash.map(Some)
        .ok_or_else(|| Problem::invalid("the header `Upload-Checksum` is `sha256 BASE64`").with("field", name))
}

/// `Upload-Metadata: filename Y2F0LnBuZw==,filetype aW1hZ2UvcG5n`.
struct Metadata<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Metadata<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, Problem> {
        let pairs = text(headers, "upload-metadata")?.unwrap_or_default().split(',').map(str::trim);
        Ok(Self(pairs.map(|pair| pair.split_once(' ').unwrap_or((pair, ""))).collect()))
    }

    fn find(&self, key: &str) -> Result<Option<String>, Problem> {
        let Some((_, value)) = self.0.iter().find(|(known, _)| *known == key) else { return Ok(None) };
        let read = STANDARD.decode(value.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let wrong = || Problem::invalid(format!("`{key}` in `Upload-Metadata` is no base64 of a text"));
        read.map(Some).ok_or_else(|| wrong().with("field", "Upload-Metadata"))
    }
}
