//! Files on the native API: in one piece, and in many, with whatever happens in between.

use std::{env, fs, process::Command};

use federation_tests::{Bucket, Client, Engine, Server, ServerBuilder, eventually, on_each_engine};
use http::Method;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

pub(crate) const MEBI: usize = 1 << 20;

/// Bytes that don't repeat soon.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 11).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) async fn with_headers(
    client: &Client,
    method: Method,
    path: &str,
    body: &[u8],
    headers: &[(&str, &str)],
) -> (u16, Value) {
    let bearer = format!("Bearer {}", client.token.as_ref().expect("they are logged in"));
    let headers: Vec<_> = [("authorization", bearer.as_str())].into_iter().chain(headers.iter().copied()).collect();
    let kind = headers.iter().find(|(name, _)| *name == "content-type").map_or("", |(_, value)| *value);
    let headers: Vec<_> = headers.iter().copied().filter(|(name, _)| *name != "content-type").collect();
    let answer = client.raw_saying(method, path, kind, body.to_vec(), &headers).await.expect("the server answers");
    (answer.status, answer.body)
}

/// Announces a file, and answers where it goes.
pub(crate) async fn announce(client: &Client, length: usize) -> String {
    let headers = [("tus-resumable", "1.0.0"), ("upload-length", &*length.to_string())];
    let (status, upload) = with_headers(client, Method::POST, "/api/v1/files", b"", &headers).await;
    assert_eq!(status, 201, "{upload}");
    let mxc = upload["mxc_uri"].as_str().expect("it has a name");
    format!("/api/v1/files/uploads/{}", mxc.rsplit('/').next().expect("it has an id"))
}

/// Says that it sends all that is missing, sends `count` bytes of it, and is gone.
pub(crate) async fn break_off(server: &Server, client: &Client, path: &str, bytes: &[u8], offset: usize, count: usize) {
    let mut stream = TcpStream::connect(server.address()).await.expect("the server listens");
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n\
         Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\nContent-Length: {}\r\n\r\n",
        client.token.as_ref().expect("they are logged in"),
        bytes.len() - offset,
    );
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    // A server that refuses closes; that shows in the offset.
    let _ = stream.write_all(&bytes[offset..offset + count]).await;
}

/// Where the file ends, once nobody sends it any more.
pub(crate) async fn settled_offset(client: &Client, path: &str, at_least: usize) -> usize {
    eventually("the piece is there, and nobody sends any more", async || {
        let upload = client.get(path).await.ok();
        let offset = usize::try_from(upload["offset"].as_u64()?).ok()?;
        let at = offset.to_string();
        let headers = [("upload-offset", &*at), ("content-type", "application/offset+octet-stream")];
        let (status, _) = with_headers(client, Method::PATCH, path, b"", &headers).await;
        (status == 204 && offset >= at_least).then_some(offset)
    })
    .await
}

#[tokio::test]
async fn a_file_that_is_interrupted_ten_times_arrives_and_fills_no_memory() {
    on_each_engine(async |engine| interrupted_ten_times(Server::builder(&engine)).await).await;
    let Some(program) = Bucket::program() else { return };
    let bucket = Bucket::start(&program).await;
    on_each_engine(async |engine| interrupted_ten_times(bucket.serve(Server::builder(&engine))).await).await;
}

async fn interrupted_ten_times(builder: ServerBuilder) {
    let mut server = builder.set("media", "max_upload", "100 MiB").start().await;
    let alice = server.register("alice").await;
    let bytes = noise(44 * MEBI);
    let path = announce(&alice, bytes.len()).await;
    let (mut before, mut offset) = (0, 0);
    for turn in 0..10 {
        break_off(&server, &alice, &path, &bytes, offset, 4 * MEBI).await;
        if turn % 4 == 3 {
            server.restart().await;
        }
        // Of what was on its way when the server was killed, nothing is promised.
        let least = if turn % 4 == 3 { offset } else { offset + 1 };
        offset = settled_offset(&alice, &path, least).await;
        if turn == 0 {
            // A server that has just started takes what it needs with its first work.
            before = server.usage().anonymous_kb;
        }
    }
    // A file in memory would be 44 MiB; a piece of it on its way to a bucket is 8 MiB.
    let grown = server.usage().anonymous_kb.saturating_sub(before);
    assert!(grown < 36 * 1024, "the file went through memory: {grown} KiB more");
    let at = offset.to_string();
    let headers = [("upload-offset", &*at), ("content-type", "application/offset+octet-stream")];
    let (status, answer) = with_headers(&alice, Method::PATCH, &path, &bytes[offset..], &headers).await;
    assert_eq!(status, 204, "{answer}");
    let file = alice.get(&path).await.ok()["file"].clone();
    assert_eq!((&file["sha256"], file["size"].as_u64()), (&Value::from(hash(&bytes)), Some(bytes.len() as u64)));

    // Both faces give the same bytes, also from the middle.
    let native = file["content_url"].as_str().expect("it is somewhere").to_owned();
    let matrix = native.replace("/api/v1/files/", "/_matrix/client/v1/media/download/").replace("/content", "");
    for address in [native, matrix] {
        let range = [("range", "bytes=1048576-1048591")];
        let bearer = format!("Bearer {}", alice.token.as_ref().expect("they are logged in"));
        let answer = reqwest::Client::new()
            .get(format!("{}{address}", server.url()))
            .header("authorization", bearer)
            .header(range[0].0, range[0].1)
            .send()
            .await
            .expect("the server answers");
        assert_eq!(answer.status().as_u16(), 206);
        assert_eq!(answer.bytes().await.expect("they come")[..], bytes[MEBI..MEBI + 16]);
    }
}

#[tokio::test]
async fn a_client_of_others_goes_on_where_it_stopped() {
    let Some(python) = env::var_os("COMITY_TEST_TUS") else {
        return eprintln!("SKIPPED: COMITY_TEST_TUS isn't set; federation-tests/run installs it where there is Python");
    };
    let mut server = Server::start(&Engine::Sqlite).await;
    let alice = server.register("alice").await;
    let (bytes, folder) = (noise(5 * MEBI + 17), tempfile::tempdir().expect("a temporary folder"));
    let file = folder.path().join("a film.bin");
    fs::write(&file, &bytes).expect("it can be written");
    let upload = |url: String, more: &[&str]| {
        let output = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/upload.py"))
            .arg(url)
            .arg(&file)
            .args(more)
            .env("COMITY_TOKEN", alice.token.as_ref().expect("they are logged in"))
            .output()
            .expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("it says how far it is")
    };
    let begun = upload(server.url(), &["--pieces", "2"]);
    assert_eq!(begun["offset"], 2 * MEBI, "{begun}");
    server.restart().await;
    let done = upload(server.url(), &[]);
    assert_eq!((&done["expires_at"], &done["mxc_uri"]), (&Value::Null, &begun["mxc_uri"]));
    assert_eq!((&done["file"]["sha256"], &done["file"]["name"]), (&hash(&bytes).into(), &"a film.bin".into()));
    let listed = alice.get("/api/v1/files").await.ok();
    assert_eq!(listed["files"][0]["mxc_uri"], done["mxc_uri"], "{listed}");
}

#[tokio::test]
async fn nobody_has_more_here_than_the_quota() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("media", "quota", "100 KiB").start().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let take = async |client: &Client, length: usize| {
            let headers = [("content-type", "text/plain")];
            with_headers(client, Method::POST, "/api/v1/files", &vec![b'x'; length], &headers).await
        };
        assert_eq!(take(&alice, 60 << 10).await.0, 201);
        let (status, problem) = take(&alice, 60 << 10).await;
        assert_eq!((status, &problem["code"]), (403, &"quota_exceeded".into()), "{problem}");
        // What is announced counts from then on, and on the Matrix API too.
        let path = announce(&alice, 40 << 10).await;
        assert_eq!(take(&alice, 1).await.0, 403);
        let upload = alice.raw(Method::POST, "/_matrix/media/v3/upload", "text/plain", vec![b'x'; 10]).await;
        upload.expect("the server answers").refused(403, "M_USER_LIMIT_EXCEEDED");
        assert_eq!(take(&bob, 60 << 10).await.0, 201);
        assert_eq!(with_headers(&alice, Method::DELETE, &path, b"", &[]).await.0, 204);
        assert_eq!(take(&alice, 40 << 10).await.0, 201);
    })
    .await;
}
