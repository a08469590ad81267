//! Images and files.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

#![expect(deprecated, reason = "clients of the last years ask without saying who they are")]

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use media::{Described, Fit, Media, MediaError, Mxc, Reach, Wanted};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedMxcUri, OwnedServerName, UInt,
    api::client::{authenticated_media, media as legacy},
    media::Method as Scaling,
};
use url::form_urlencoded;

use crate::{
    Answer, Ask, Error, Needs, Route, Services,
    endpoint::{PlainAsk, empty_answer, endpoint, raw_endpoint, streamed_endpoint, user_of},
    file_answer::{Cached, answer},
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(config),
        endpoint(config_of_old),
        endpoint(create),
        streamed_endpoint(Method::POST, "/_matrix/media/v3/upload", Needs::User, upload)
            .also_at("/_matrix/media/r0/upload"),
        streamed_endpoint(Method::PUT, "/_matrix/media/v3/upload/{server_name}/{media_id}", Needs::User, fill),
        raw_endpoint(download),
        raw_endpoint(download_as),
        raw_endpoint(thumbnail),
        raw_endpoint(download_of_old).also_at("/_matrix/media/v1/download/{server_name}/{media_id}"),
        raw_endpoint(download_as_of_old).also_at("/_matrix/media/v1/download/{server_name}/{media_id}/{filename}"),
        raw_endpoint(thumbnail_of_old).also_at("/_matrix/media/v1/thumbnail/{server_name}/{media_id}"),
    ]
}

// === taking ===

async fn config(
    ask: Ask<authenticated_media::get_media_config::v1::Request>,
) -> Answer<authenticated_media::get_media_config::v1::Response> {
    Ok(authenticated_media::get_media_config::v1::Response::new(largest(&ask.services)))
}

async fn config_of_old(
    ask: Ask<legacy::get_media_config::v3::Request>,
) -> Answer<legacy::get_media_config::v3::Response> {
    Ok(legacy::get_media_config::v3::Response::new(largest(&ask.services)))
}

fn largest(services: &Services) -> UInt {
    UInt::new_saturating(services.media.config().max_upload)
}

async fn create(ask: Ask<legacy::create_mxc_uri::v1::Request>) -> Answer<legacy::create_mxc_uri::v1::Response> {
    ask.services.limits.check_send(&ask.session.user_id).await?;
    let reserved = ask.services.media.reserve(&ask.session.user_id).await.map_err(refuse)?;
    let mut response = legacy::create_mxc_uri::v1::Response::new(uri_of(&reserved.mxc));
    let expires_at = u64::try_from(reserved.expires_at).unwrap_or_default();
    response.unused_expires_at = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(expires_at)));
    Ok(response)
}

async fn upload(ask: PlainAsk<Body>) -> Result<Response, Error> {
    let session = user_of(&ask.parts, ask.address, &ask.services).await?;
    ask.services.limits.check_send(&session.user_id).await?;
    check_size(&ask.parts.headers, &ask.services.media).map_err(refuse)?;
    let described = describe(&ask.parts);
    let pieces = ask.body.into_data_stream();
    let mxc = ask.services.media.upload(&session.user_id, described, pieces).await.map_err(refuse)?;
    let body = serde_json::json!({ "content_uri": uri_of(&mxc) }).to_string();
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn fill(ask: PlainAsk<Body>) -> Result<Response, Error> {
    let session = user_of(&ask.parts, ask.address, &ask.services).await?;
    let [server_name, media_id] = ask.arguments.as_slice() else { return Err(Error::unrecognized()) };
    let server_name: OwnedServerName =
        server_name.as_str().try_into().map_err(|_| Error::invalid_param("the path names no server"))?;
    check_size(&ask.parts.headers, &ask.services.media).map_err(refuse)?;
    let mxc = Mxc::new(server_name, media_id.as_str());
    let described = describe(&ask.parts);
    let pieces = ask.body.into_data_stream();
    ask.services.media.fill(&session.user_id, &mxc, described, pieces).await.map_err(refuse)?;
    Ok(empty_answer())
}

/// What says that it will be too large is not even begun.
pub(crate) fn check_size(headers: &HeaderMap, media: &Media) -> Result<(), MediaError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.map_or(Ok(()), |length| media.check_length(length))
}

fn describe(parts: &Parts) -> Described {
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let file_name = query.find(|(key, _)| key == "filename").map(|(_, value)| value.into_owned());
    Described { content_type: content_type.map(str::to_owned), file_name }
}

fn uri_of(mxc: &Mxc) -> OwnedMxcUri {
    format!("mxc://{}/{}", mxc.server, mxc.id).into()
}

// === giving ===

async fn download(ask: Ask<authenticated_media::get_content::v1::Request>) -> Result<Response, Error> {
    let request = &ask.request;
    let mxc = Mxc::new(request.server_name.clone(), request.media_id.as_str());
    let item = ask
        .services
        .media
        .find(&mxc, Reach::Everywhere(&ask.session.user_id), request.timeout_ms)
        .await
        .map_err(refuse)?;
    answer(item, &ask.headers, Cached::Privately).await
}

async fn download_as(ask: Ask<authenticated_media::get_content_as_filename::v1::Request>) -> Result<Response, Error> {
    let request = &ask.request;
    let mxc = Mxc::new(request.server_name.clone(), request.media_id.as_str());
    let item = ask
        .services
        .media
        .find(&mxc, Reach::Everywhere(&ask.session.user_id), request.timeout_ms)
        .await
        .map_err(refuse)?;
    answer(item.named(&request.filename), &ask.headers, Cached::Privately).await
}

async fn thumbnail(ask: Ask<authenticated_media::get_content_thumbnail::v1::Request>) -> Result<Response, Error> {
    let request = &ask.request;
    let mxc = Mxc::new(request.server_name.clone(), request.media_id.as_str());
    let wanted = wanted(request.width, request.height, request.method.as_ref())?;
    let media = &ask.services.media;
    let item = media
        .thumbnail(&mxc, wanted, Reach::Everywhere(&ask.session.user_id), request.timeout_ms)
        .await
        .map_err(refuse)?;
    answer(item, &ask.headers, Cached::Privately).await
}

/// Without saying who asks one gets what is here; nothing is fetched for strangers.
async fn download_of_old(ask: Ask<legacy::get_content::v3::Request>) -> Result<Response, Error> {
    let request = &ask.request;
    let mxc = Mxc::new(request.server_name.clone(), request.media_id.as_str());
    let item = ask.services.media.find(&mxc, Reach::Kept, request.timeout_ms).await.map_err(refuse)?;
    answer(item, &ask.headers, Cached::Publicly).await
}

async fn download_as_of_old(ask: Ask<legacy::get_content_as_filename::v3::Request>) -> Result<Response, Error> {
    let request = &ask.request;
    let mxc = Mxc::new(request.server_name.clone(), request.media_id.as_str());
    let item = ask.services.media.find(&mxc, Reach::Kept, request.timeout_ms).await.map_err(refuse)?;
    answer(item.named(&request.filename), &ask.headers, Cached::Publicly).await
}

async fn thumbnail_of_old(ask: Ask<legacy::get_content_thumbnail::v3::Request>) -> Result<Response, Error> {
    let request = &ask.request;
    let mxc = Mxc::new(request.server_name.clone(), request.media_id.as_str());
    let wanted = wanted(request.width, request.height, request.method.as_ref())?;
    let item = ask.services.media.thumbnail(&mxc, wanted, Reach::Kept, request.timeout_ms).await.map_err(refuse)?;
    answer(item, &ask.headers, Cached::Publicly).await
}

/// The picture that a request asks for. All of it is shown unless the request says otherwise.
pub(crate) fn wanted(width: UInt, height: UInt, method: Option<&Scaling>) -> Result<Wanted, Error> {
    let side = |length: UInt| u32::try_from(u64::from(length)).unwrap_or(u32::MAX);
    let (width, height) = (side(width), side(height));
    if width == 0 || height == 0 {
        return Err(Error::invalid_param("`width` and `height` must be above 0"));
    }
    let fit = match method {
        Some(Scaling::Crop) => Fit::Crop,
        _ => Fit::Scale,
    };
    Ok(Wanted { width, height, fit })
}

/// Two of the refusals have a status of their own.
pub(crate) fn refuse(error: MediaError) -> Error {
    match &error {
        MediaError::NotYetUploaded => Error::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", error.to_string()),
        MediaError::TooSlow => Error::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", error.to_string()),
        _ => error.into(),
    }
}
