//! Files of this server's people, for other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, header};
use media::{Item, MediaError, Mxc, Reach};
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};

use crate::{
    Ask, Error, Route,
    client::media::{refuse, wanted},
    endpoint::raw_endpoint,
    file_answer::disposition_of,
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![raw_endpoint(download), raw_endpoint(thumbnail)]
}

async fn download(ask: Ask<get_content::v1::Request>) -> Result<Response, Error> {
    let media = &ask.services.media;
    let mxc = Mxc::new(media.server_name(), ask.request.media_id.as_str());
    let item = media.find(&mxc, Reach::Ours, ask.request.timeout_ms).await.map_err(refuse)?;
    in_parts(item).await
}

async fn thumbnail(ask: Ask<get_content_thumbnail::v1::Request>) -> Result<Response, Error> {
    let get_content_thumbnail::v1::Request { width, height, method, .. } = &ask.request;
    let media = &ask.services.media;
    let mxc = Mxc::new(media.server_name(), ask.request.media_id.as_str());
    let wanted = wanted(*width, *height, method.as_ref())?;
    let item = media.thumbnail(&mxc, wanted, Reach::Ours, ask.request.timeout_ms).await.map_err(refuse)?;
    in_parts(item).await
}

/// An object that says nothing yet, and the file, as ruma's answer has them; but that one has all of the file in memory.
async fn in_parts(item: Item) -> Result<Response, Error> {
    // Random, so that no file can hold it.
    let boundary = format!("{:032x}", rand::random::<u128>());
    let before = format!(
        "\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\nContent-Type: {}\r\n\
         Content-Disposition: {}\r\n\r\n",
        item.content_type,
        disposition_of(&item),
    );
    let after = format!("\r\n--{boundary}--\r\n");
    let size = item.size;
    let length = before.len() as u64 + size + after.len() as u64;
    let whole = async |text: String| Ok(Bytes::from(text));
    let file = item.read(0, size).await.map_err(MediaError::from)?;
    let pieces = stream::once(whole(before)).chain(file).chain(stream::once(whole(after)));

    let mut response = Response::new(Body::from_stream(pieces));
    let content_type = format!("multipart/mixed; boundary={boundary}");
    let content_type = HeaderValue::try_from(content_type).expect("a boundary is of letters and digits");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}
