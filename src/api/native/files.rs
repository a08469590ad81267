//! Files, `/api/v1/files`: the same that Matrix clients call `mxc://`. Small ones come in one request, large ones in pieces.
//!
//! The pieces come as [tus](https://tus.io/protocols/resumable-upload) 1.0.0 has it, with the extensions creation,
//! creation-with-upload, checksum, termination and expiration, so that its clients work.

mod transfers;
mod tus;

use std::time::Duration;

use http::{StatusCode, header};
use media::{Described, Fit, MediaError, Mxc, Reach, Uploaded, Wanted};
use model::Millis;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub(crate) use tus::{HEADERS, options};

use super::{Answer, Call, Created, Endpoint, Pieces, Reply as _, Written, delete, get, patch, post};
use crate::{
    Problem, Session,
    client::media::check_size,
    file_answer::{Cached, answer},
};

/// The endpoints of this file, of `transfers` and of `tus`.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let mut endpoints = transfers::endpoints();
    endpoints.extend([
        post("/api/v1/files", "Uploads a file, or announces one that comes in pieces.", take).explained(
            "Without `Tus-Resumable` the body is the file; `Content-Type` says what it is and `filename` what it is called, and the answer \
             is 201 with the file. With `Tus-Resumable: 1.0.0` the file is announced by `Upload-Length`, and `Upload-Metadata` with \
             `filename`, `filetype` and `sha256` (64 hex digits; a file that hashes to something else is not taken), each in base64. \
             The answer is 201 with `Location`, which is where the pieces go, and the file's `mxc_uri`, which may be used at once: \
             who opens it waits until it is there.",
        ),
        get("/api/v1/files", "The files that the caller has uploaded, the latest first.", list),
        get("/api/v1/files/uploads/{upload_id}", "How far a file has come.", tus::progress)
            .explained("Also answers HEAD, with `Upload-Offset` and `Upload-Length`, and `Upload-Expires` while it is not whole."),
        patch("/api/v1/files/uploads/{upload_id}", "Takes the next piece of a file.", tus::append).explained(
            "`Content-Type: application/offset+octet-stream`; `Upload-Offset`: where the file ends so far, else 409 `wrong_offset`. \
             What came before a connection broke is kept; with `Upload-Checksum: sha256 BASE64`, which is of this piece, it is taken whole or \
             not at all (460 `wrong_checksum`). While another request sends the same file: 423 `locked`. With its last \
             byte the file is there for good.",
        ),
        delete("/api/v1/files/uploads/{upload_id}", "Gives up a file that has not come whole.", tus::abandon),
        get("/api/v1/files/{server_name}/{media_id}", "What is known of a file.", describe),
        get("/api/v1/files/{server_name}/{media_id}/content", "What is in a file.", content).explained(
            "Honours `Range` and `If-None-Match`. A file of another server is fetched as far as that is trusted; one that is still \
             coming is waited for, 20 seconds at most.",
        ),
        get("/api/v1/files/{server_name}/{media_id}/thumbnail", "A small picture of a picture.", thumbnail),
    ]);
    endpoints
}

/// A file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FileInfo)]
pub(super) struct FileInfo {
    /// What messages call it: `mxc://a.example/AbC`.
    mxc_uri: String,
    /// Where its content is on this server.
    content_url: String,
    /// What its uploader called it; null: nothing.
    name: Option<String>,
    /// How many bytes it has.
    size: u64,
    /// What its uploader says it is. It need not be.
    content_type: String,
    /// The hash of its bytes, in hex.
    sha256: String,
    /// When it was uploaded, milliseconds since 1970. Only those who uploaded it are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Millis>,
}

impl FileInfo {
    fn new(mxc: &Mxc, name: Option<String>, size: u64, content_type: String, sha256: String) -> Self {
        let (mxc_uri, content_url) = (uri_of(mxc), format!("/api/v1/files/{}/{}/content", mxc.server, mxc.id));
        Self { mxc_uri, content_url, name, size, content_type, sha256, created_at: None }
    }
}

impl From<Uploaded> for FileInfo {
    fn from(file: Uploaded) -> Self {
        let Uploaded { mxc, created_at, size, content_type, file_name, sha256 } = file;
        Self { created_at: Some(created_at), ..Self::new(&mxc, file_name, size, content_type, sha256) }
    }
}

pub(super) fn uri_of(mxc: &Mxc) -> String {
    format!("mxc://{}/{}", mxc.server, mxc.id)
}

/// What a file is called that comes in one request.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Named {
    /// What it is called.
    filename: Option<String>,
}

async fn take(call: Call<Session, Named, Pieces>) -> Answer<Written> {
    if call.headers.contains_key(tus::RESUMABLE) {
        return tus::announce(call).await;
    }
    let Call { caller, query, body, headers, services, .. } = call;
    services.limits.check_send(&caller.user_id).await?;
    check_size(&headers, &services.media).map_err(refuse)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let described = Described { content_type, file_name: query.filename };
    let uploaded = services.media.upload(&caller.user_id, described, body.0.into_data_stream()).await;
    let mxc = uploaded.map_err(refuse)?;
    let file = look_at(&services.media, &mxc, Reach::Ours).await?;
    Ok(Written(Created(file).into_response()))
}

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// How many at most: 1 to 200; left out: 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Files.
#[derive(Serialize, ToSchema)]
struct FileList {
    /// The latest first.
    files: Vec<FileInfo>,
    /// What `cursor` is on the next page; left out: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

async fn list(call: Call<Session, Page>) -> Answer<FileList> {
    let limit = call.query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(Problem::invalid("`limit` is from 1 to 200").with("field", "limit"));
    }
    let wrong = || Problem::invalid("`cursor` is not `next` of a page before").with("field", "cursor");
    let before = match &call.query.cursor {
        Some(cursor) => {
            let (at, id) = cursor.split_once('.').ok_or_else(wrong)?;
            Some((at.parse::<Millis>().map_err(|_| wrong())?, id))
        }
        None => None,
    };
    let files = call.services.media.uploaded(&call.caller.user_id, before, limit).await.map_err(refuse)?;
    let is_full = files.len() == limit as usize;
    let next = files.last().filter(|_| is_full).map(|last| format!("{}.{}", last.created_at, last.mxc.id));
    Ok(FileList { files: files.into_iter().map(Into::into).collect(), next })
}

/// How long somebody waits for a file that is still coming.
const WAIT: Duration = Duration::from_secs(20);

fn named_by<Q, B>(call: &Call<Session, Q, B>) -> Result<Mxc, Problem> {
    let server: OwnedServerName = call.argument("server_name")?;
    Ok(Mxc::new(server, call.argument::<String>("media_id")?))
}

async fn look_at(media: &media::Media, mxc: &Mxc, reach: Reach<'_>) -> Result<FileInfo, Problem> {
    let item = media.find(mxc, reach, Duration::ZERO).await.map_err(refuse)?;
    Ok(FileInfo::new(mxc, item.file_name, item.size, item.content_type, item.tag))
}

async fn describe(call: Call<Session>) -> Answer<FileInfo> {
    let mxc = named_by(&call)?;
    look_at(&call.services.media, &mxc, Reach::Everywhere(&call.caller.user_id)).await
}

async fn content(call: Call<Session>) -> Answer<Written> {
    let mxc = named_by(&call)?;
    let reach = Reach::Everywhere(&call.caller.user_id);
    let item = call.services.media.find(&mxc, reach, WAIT).await.map_err(refuse)?;
    Ok(Written(answer(item, &call.headers, Cached::Privately).await?))
}

/// How large it should be.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Size {
    /// Points.
    width: u32,
    /// Points.
    height: u32,
    /// Whether it fills that, and what sticks out is cut off; left out: no, all of the picture is in it.
    #[serde(default)]
    crop: bool,
}

async fn thumbnail(call: Call<Session, Size>) -> Answer<Written> {
    let mxc = named_by(&call)?;
    let Size { width, height, crop } = call.query;
    if width == 0 || height == 0 {
        return Err(Problem::invalid("`width` and `height` must be above 0"));
    }
    let wanted = Wanted { width, height, fit: if crop { Fit::Crop } else { Fit::Scale } };
    let reach = Reach::Everywhere(&call.caller.user_id);
    let item = call.services.media.thumbnail(&mxc, wanted, reach, WAIT).await.map_err(refuse)?;
    Ok(Written(answer(item, &call.headers, Cached::Privately).await?))
}

/// Some refusals have a status, or a code, of their own here.
pub(super) fn refuse(error: MediaError) -> Problem {
    let detail = error.to_string();
    let problem =
        |status: u16, code| Problem::new(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), code, detail);
    match error {
        MediaError::NotYetUploaded => problem(504, "not_yet_uploaded"),
        MediaError::TooSlow => problem(408, "timeout"),
        MediaError::WrongOffset { offset } => problem(409, "wrong_offset").with("offset", offset),
        MediaError::Filled => problem(409, "already_whole"),
        MediaError::Locked => problem(423, "locked"),
        MediaError::WrongHash => problem(460, "wrong_checksum"),
        MediaError::QuotaExceeded { quota, used } => {
            problem(403, "quota_exceeded").with("quota", quota).with("used", used)
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod transfer_tests;
