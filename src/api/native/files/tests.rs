//! Resumable uploads as the protocol has them, through the router.

use axum::{body::Body, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::testing::{Server, with_server};

const FILES: &str = "/api/v1/files";
const PIECE: (&str, &str) = ("content-type", "application/offset+octet-stream");

async fn ask(
    server: &Server,
    token: &str,
    (method, path): (Method, &str),
    headers: &[(&str, &str)],
    body: &'static str,
) -> (u16, Response) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers.iter().chain([&("authorization", token), &("tus-resumable", "1.0.0")]) {
        request = request.header(*name, *value);
    }
    let response = server.answer(request.body(Body::from(body)).expect("the test asks well")).await;
    (response.status().as_u16(), response)
}

async fn code_of(response: Response) -> String {
    let body = response.into_body().collect().await.expect("the body is in memory").to_bytes();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn what_is_offered_is_said() {
    with_server(async |server| {
        let (status, response) = ask(&server, "", (Method::OPTIONS, FILES), &[], "").await;
        assert_eq!((status, header(&response, "tus-version")), (200, "1.0.0"));
        for extension in ["creation", "creation-with-upload", "checksum", "expiration", "termination"] {
            assert!(header(&response, "tus-extension").split(',').any(|offered| offered == extension), "{extension}");
        }
        assert_eq!(header(&response, "tus-checksum-algorithm"), "sha256");
        let (_, response) = ask(&server, "", (Method::OPTIONS, "/api/v1/users"), &[], "").await;
        assert_eq!(header(&response, "tus-version"), "");
    })
    .await;
}

#[tokio::test]
async fn a_file_begins_with_its_announcement_and_goes_on_piece_by_piece() {
    with_server(async |server| {
        let token = format!("Bearer {}", server.register("alice").await.0);
        let metadata = format!("filename {},filetype {}", STANDARD.encode("y.txt"), STANDARD.encode("text/plain"));
        let announcement = [("upload-length", "11"), ("upload-metadata", &*metadata), PIECE];
        let (status, response) = ask(&server, &token, (Method::POST, FILES), &announcement, "hello").await;
        assert_eq!((status, header(&response, "upload-offset")), (201, "5"));
        assert_eq!(header(&response, "tus-resumable"), "1.0.0");
        assert!(header(&response, "upload-expires").ends_with("GMT"));
        let at = header(&response, "location").to_owned();

        let (status, response) = ask(&server, &token, (Method::HEAD, &at), &[], "").await;
        assert_eq!((status, header(&response, "upload-offset"), header(&response, "upload-length")), (200, "5", "11"));
        assert_eq!(header(&response, "cache-control"), "no-store");
        let wrong = format!("sha256 {}", STANDARD.encode([0; 32]));
        for (headers, status, code) in [
            (vec![PIECE, ("upload-offset", "4")], 409, "wrong_offset"),
            (vec![PIECE, ("upload-offset", "5"), ("upload-checksum", &*wrong)], 460, "wrong_checksum"),
            (vec![PIECE, ("upload-offset", "5"), ("upload-checksum", "md5 eA==")], 400, "invalid"),
            (vec![PIECE, ("upload-offset", "many")], 400, "invalid"),
            (vec![("content-type", "text/plain"), ("upload-offset", "5")], 415, "unsupported_media_type"),
        ] {
            let (answered, response) = ask(&server, &token, (Method::PATCH, &at), &headers, " world").await;
            // Refusals name the version too.
            assert_eq!((answered, header(&response, "tus-resumable")), (status, "1.0.0"), "{headers:?}");
            assert_eq!(code_of(response).await, code, "{headers:?}");
        }
        let rest = [PIECE, ("upload-offset", "5")];
        let (status, response) = ask(&server, &token, (Method::PATCH, &at), &rest, " world").await;
        assert_eq!((status, header(&response, "upload-offset")), (204, "11"));
        let token_alone = token.strip_prefix("Bearer ");
        let file = server.get(&at, token_alone).await["file"].clone();
        assert_eq!(
            (&file["name"], &file["content_type"], &file["size"]),
            (&"y.txt".into(), &"text/plain".into(), &11.into())
        );
        let (status, response) = ask(&server, &token, (Method::DELETE, &at), &[], "").await;
        assert_eq!((status, code_of(response).await.as_str()), (409, "already_whole"));
    })
    .await;
}

#[tokio::test]
async fn another_version_and_a_file_without_a_length_are_refused() {
    with_server(async |server| {
        let token = format!("Bearer {}", server.register("alice").await.0);
        let (status, response) = ask(&server, &token, (Method::POST, FILES), &[("upload-defer-length", "1")], "").await;
        assert_eq!((status, code_of(response).await.as_str()), (400, "invalid"));
        let request = Request::post(FILES)
            .header("authorization", &token)
            .header("tus-resumable", "0.2.2")
            .header("upload-length", "1")
            .body(Body::empty())
            .expect("the test asks well");
        assert_eq!(server.answer(request).await.status().as_u16(), 412);
    })
    .await;
}
