//! Images and files, as a client meets them.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::testing::{Server, refusal, with_server};

const UPLOAD: &str = "/_matrix/media/v3/upload";
const DOWNLOAD: &str = "/_matrix/client/v1/media/download";
const THUMBNAIL: &str = "/_matrix/client/v1/media/thumbnail";

/// A picture of 2 by 1 pixels.
const GIF: &[u8] =
    b"GIF89a\x02\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\x02\x00\x01\x00\x00\x02\
                     \x02\x04\n\x00;";

fn request(method: Method, path: &str, token: Option<&str>) -> http::request::Builder {
    let builder = Request::builder().method(method).uri(path);
    match token {
        Some(token) => builder.header(header::AUTHORIZATION, format!("Bearer {token}")),
        None => builder,
    }
}

async fn read(response: Response) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, body.collect().await.expect("the file is whole").to_bytes())
}

/// Uploads, and answers the path that `mxc://` stands for.
async fn upload(server: &Server, token: &str, query: &str, content_type: &str, bytes: &[u8]) -> String {
    let request = request(Method::POST, &format!("{UPLOAD}{query}"), Some(token));
    let request = request.header(header::CONTENT_TYPE, content_type).body(Body::from(bytes.to_vec()));
    let (status, _, body) = read(server.answer(request.expect("the test asks well")).await).await;
    let answer: Value = serde_json::from_slice(&body).expect("it is JSON");
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("it is told").to_owned()
}

async fn get(server: &Server, path: &str, token: Option<&str>) -> (StatusCode, HeaderMap, Bytes) {
    let request = request(Method::GET, path, token).body(Body::empty());
    read(server.answer(request.expect("the test asks well")).await).await
}

fn errcode(body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).expect("it is JSON");
    answer["errcode"].as_str().unwrap_or_default().to_owned()
}

/// How many files there are in a folder.
fn files_in(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("it is a folder").map(|entry| entry.expect("it is there").path());
    entries.map(|path| if path.is_dir() { files_in(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn a_file_comes_back_with_headers_that_keep_browsers_from_mischief() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let picture = upload(&server, &alice, "?filename=c%C3%A4t.gif", "image/gif", GIF).await;
        assert!(picture.starts_with("a.test/"));
        let (status, headers, body) = get(&server, &format!("{DOWNLOAD}/{picture}"), Some(&alice)).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, GIF));
        let header = |name: &str| headers[name].to_str().expect("it is text");
        assert_eq!(header("content-type"), "image/gif");
        assert_eq!(header("content-disposition"), "inline; filename*=utf-8''c%C3%A4t.gif");
        assert_eq!(header("content-length"), GIF.len().to_string());
        assert_eq!(header("cross-origin-resource-policy"), "cross-origin");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(header("content-security-policy").starts_with("sandbox; default-src 'none'; script-src 'none';"));
        assert!(header("cache-control").starts_with("private, "));

        // What is stored as a page is saved, never shown, whatever it is called.
        let page = upload(&server, &alice, "?filename=x.gif", "text/html", b"<script>alert(1)</script>").await;
        let (_, headers, _) = get(&server, &format!("{DOWNLOAD}/{page}/..%2Fy%22%0D%0A.png"), Some(&alice)).await;
        assert_eq!(headers["content-type"], "text/html");
        assert_eq!(headers["content-disposition"], r#"attachment; filename="y\".png""#);
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_of_themselves_gets_only_what_is_here_and_only_at_the_old_paths() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let (status, _, body) = get(&server, &format!("{DOWNLOAD}/a.test/x"), None).await;
        assert_eq!((status.as_u16(), errcode(&body)), (401, "M_MISSING_TOKEN".into()));
        let request = request(Method::POST, UPLOAD, None).body(Body::from("x")).expect("the test asks well");
        assert_eq!(server.answer(request).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(files_in(server.folder.path()), 0);

        let file = upload(&server, &alice, "", "text/plain", b"hello").await;
        for old in ["v3", "r0", "v1"] {
            let (status, _, body) = get(&server, &format!("/_matrix/media/{old}/download/{file}"), None).await;
            assert_eq!((status, &body[..]), (StatusCode::OK, &b"hello"[..]));
        }
        let (status, headers, _) = get(&server, &format!("/_matrix/media/v3/download/{file}/a.txt"), None).await;
        assert_eq!(
            (status, &headers["content-disposition"]),
            (StatusCode::OK, &"inline; filename=a.txt".parse().unwrap())
        );
        let (status, _, body) = get(&server, "/_matrix/media/v3/download/b.test/x", None).await;
        assert_eq!((status.as_u16(), errcode(&body)), (404, "M_NOT_FOUND".into()));
        let (status, _, body) = get(&server, &format!("{DOWNLOAD}/b.test/x"), Some(&alice)).await;
        assert_eq!((status.as_u16(), errcode(&body)), (404, "M_NOT_FOUND".into()));
    })
    .await;
}

#[tokio::test]
async fn what_is_too_large_or_breaks_off_leaves_nothing() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let limit = server.get("/_matrix/client/v1/media/config", Some(&alice)).await;
        assert_eq!(limit["m.upload.size"], 200_000);
        assert_eq!(server.get("/_matrix/media/v3/config", Some(&alice)).await, limit);

        let announced = request(Method::POST, UPLOAD, Some(&alice)).header(header::CONTENT_LENGTH, "200001");
        let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 9_000]))));
        let cut = [Ok(Bytes::from(vec![0; 9_000])), Err(std::io::Error::other("cut"))];
        let stories = [
            (announced.body(Body::empty()), 413, "M_TOO_LARGE"),
            (request(Method::POST, UPLOAD, Some(&alice)).body(endless), 413, "M_TOO_LARGE"),
            (request(Method::POST, UPLOAD, Some(&alice)).body(Body::from_stream(stream::iter(cut))), 400, "M_UNKNOWN"),
        ];
        for (request, expected, code) in stories {
            let (status, _, body) = read(server.answer(request.expect("the test asks well")).await).await;
            assert_eq!((status.as_u16(), errcode(&body).as_str()), (expected, code));
        }
        assert_eq!(files_in(server.folder.path()), 0);
    })
    .await;
}

#[tokio::test]
async fn a_name_can_be_had_before_its_content() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let (bob, _) = server.register("bob").await;
        let made = server.post("/_matrix/media/v1/create", Some(&alice), serde_json::json!({})).await;
        assert!(made["unused_expires_at"].as_u64().is_some());
        let file = made["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("it is told");
        let early = server.ask(Method::GET, &format!("{DOWNLOAD}/{file}?timeout_ms=0"), Some(&bob), "").await;
        assert_eq!(refusal(early), (504, "M_NOT_YET_UPLOADED".into()));
        let put = async |token: &str| {
            refusal(server.ask(Method::PUT, &format!("{UPLOAD}/{file}"), Some(token), "hello").await)
        };
        assert_eq!(put(&bob).await, (403, "M_FORBIDDEN".into()));
        assert_eq!(put(&alice).await, (200, String::new()));
        assert_eq!(put(&alice).await, (409, "M_CANNOT_OVERWRITE_MEDIA".into()));
        let (status, _, body) = get(&server, &format!("{DOWNLOAD}/{file}"), Some(&bob)).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"hello"[..]));
    })
    .await;
}

#[tokio::test]
async fn a_part_can_be_asked_for_and_what_one_has_is_not_sent_again() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let file = upload(&server, &alice, "", "video/mp4", b"0123456789").await;
        let ask = async |name: header::HeaderName, value: &str| {
            let request = request(Method::GET, &format!("{DOWNLOAD}/{file}"), Some(&alice)).header(name, value);
            read(server.answer(request.body(Body::empty()).expect("the test asks well")).await).await
        };
        for (range, part, expected) in [
            ("bytes=2-4", "bytes 2-4/10", "234"),
            ("bytes=7-", "bytes 7-9/10", "789"),
            ("bytes=-1", "bytes 9-9/10", "9"),
            ("bytes=8-100", "bytes 8-9/10", "89"),
        ] {
            let (status, headers, body) = ask(header::RANGE, range).await;
            assert_eq!(status, StatusCode::PARTIAL_CONTENT, "{range}");
            assert_eq!((headers["content-range"].to_str().unwrap(), &body[..]), (part, expected.as_bytes()));
        }
        assert_eq!(ask(header::RANGE, "bytes=10-").await.0, StatusCode::RANGE_NOT_SATISFIABLE);
        for ignored in ["bytes=0-1,4-5", "lines=1-2", "bytes=x"] {
            assert_eq!(ask(header::RANGE, ignored).await.0, StatusCode::OK, "{ignored}");
        }
        let (_, headers, _) = ask(header::RANGE, "bytes=0-0").await;
        let (status, _, body) = ask(header::IF_NONE_MATCH, headers["etag"].to_str().unwrap()).await;
        assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));
    })
    .await;
}

#[tokio::test]
async fn a_thumbnail_is_a_picture_of_a_picture() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let picture = upload(&server, &alice, "", "application/octet-stream", GIF).await;
        let query = "?width=32&height=32&method=crop";
        for path in [THUMBNAIL, "/_matrix/media/v3/thumbnail", "/_matrix/media/r0/thumbnail"] {
            let (status, headers, body) = get(&server, &format!("{path}/{picture}{query}"), Some(&alice)).await;
            assert_eq!((status, &headers["content-type"]), (StatusCode::OK, &"image/png".parse().unwrap()));
            assert!(body.starts_with(b"\x89PNG"));
        }
        let page = upload(&server, &alice, "", "image/png", b"<script>").await;
        let (status, _, body) = get(&server, &format!("{THUMBNAIL}/{page}{query}"), Some(&alice)).await;
        assert_eq!((status.as_u16(), errcode(&body)), (400, "M_UNKNOWN".into()));
        let (status, ..) = get(&server, &format!("{THUMBNAIL}/{picture}?width=0&height=1"), Some(&alice)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    })
    .await;
}
