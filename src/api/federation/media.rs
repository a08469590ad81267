//! Files of this server's people, for other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, header};
use media::{Given, Item, MediaError, Mxc, Reach};
use ruma::{
    OwnedUserId, ServerName,
    api::federation::authenticated_media::{get_content, get_content_thumbnail},
};

use crate::{
    Ask, Error, Route, Services,
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
    let allowed = allow_file(&ask.services, &ask.session.server, &mxc).await?;
    let item = media.find(&mxc, Reach::Ours, ask.request.timeout_ms).await.map_err(refuse)?;
    allowed.check(&item)?;
    in_parts(item).await
}

async fn thumbnail(ask: Ask<get_content_thumbnail::v1::Request>) -> Result<Response, Error> {
    let get_content_thumbnail::v1::Request { width, height, method, .. } = &ask.request;
    let media = &ask.services.media;
    let mxc = Mxc::new(media.server_name(), ask.request.media_id.as_str());
    let wanted = wanted(*width, *height, method.as_ref())?;
    let allowed = allow_file(&ask.services, &ask.session.server, &mxc).await?;
    let item = media.thumbnail(&mxc, wanted, Reach::Ours, ask.request.timeout_ms).await.map_err(refuse)?;
    allowed.check(&item)?;
    in_parts(item).await
}

/// Whether `origin` is given a file of ours, and what it may be like.
async fn allow_file(services: &Services, origin: &ServerName, mxc: &Mxc) -> Result<Given, Error> {
    let shares = async |uploader: OwnedUserId| Ok::<_, Error>(services.rooms.shares_room(&uploader, origin).await?);
    services.media.allow_peer(services.peers.trust(), origin, mxc, shares).await
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Method, Request, StatusCode, header};
    use http_body_util::BodyExt as _;
    use ruma::{
        api::{
            IncomingResponse as _,
            federation::authenticated_media::{FileOrLocation, get_content},
        },
        server_name,
    };

    use crate::testing::{Server, with_federating_server};

    /// Asks as b.test, and answers what ruma reads.
    async fn ask(server: &Server, path: &str) -> Result<FileOrLocation, StatusCode> {
        let key = peers::testing::key_of(server_name!("b.test"));
        let signed = peers::testing::authorization(&key, server_name!("a.test"), &Method::GET, path, None);
        let request = Request::get(path).header(header::AUTHORIZATION, signed).body(Body::empty());
        let (parts, body) = server.answer(request.expect("the test asks well")).await.into_parts();
        let body = body.collect().await.expect("it is whole").to_bytes();
        if parts.status != StatusCode::OK {
            return Err(parts.status);
        }
        assert_eq!(parts.headers["content-length"], body.len().to_string());
        let answer = http::Response::from_parts(parts, &*body);
        Ok(get_content::v1::Response::try_from_http_response_inner(answer).expect("ruma understands it").content)
    }

    #[tokio::test]
    async fn another_server_gets_our_files_and_nobody_elses() {
        with_federating_server(&[server_name!("b.test")], async |server| {
            let (alice, _) = server.register("alice").await;
            // Nothing in a file is taken for the end of it.
            let bytes = "\r\n--x--\r\nbytes ".repeat(20_000 / 16);
            let request = Request::post("/_matrix/media/v3/upload?filename=%C3%BC%22.html")
                .header(header::AUTHORIZATION, format!("Bearer {alice}"))
                .header(header::CONTENT_TYPE, "text/html")
                .body(Body::from(bytes.clone()));
            let answer = server.answer(request.expect("the test asks well")).await;
            let answer = answer.into_body().collect().await.expect("it is whole").to_bytes();
            let answer: serde_json::Value = serde_json::from_slice(&answer).expect("it is JSON");
            let uri = answer["content_uri"].as_str().expect("it is told");
            let id = uri.strip_prefix("mxc://a.test/").expect("it is ours");

            let path = format!("/_matrix/federation/v1/media/download/{id}");
            let Ok(FileOrLocation::File(file)) = ask(&server, &path).await else { panic!("there is a file") };
            assert!(file.file == bytes.as_bytes());
            assert_eq!(file.content_type.as_deref(), Some("text/html"));
            let disposition = file.content_disposition.expect("it has a name");
            assert_eq!(disposition.to_string(), "attachment; filename*=utf-8''%C3%BC%22.html");
            assert_eq!(ask(&server, &format!("{path}x")).await.err(), Some(StatusCode::NOT_FOUND));
            let path = format!("/_matrix/federation/v1/media/thumbnail/{id}?width=32&height=32");
            assert_eq!(ask(&server, &path).await.err(), Some(StatusCode::BAD_REQUEST));
            assert_eq!(server.ask(Method::GET, &path, None, "").await.0, StatusCode::UNAUTHORIZED);
        })
        .await;
    }
}
