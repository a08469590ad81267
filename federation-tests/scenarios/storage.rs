//! Files in a bucket: of nodes that share nothing else but a database, while it is away, and of servers that may not use it.

use std::{fs, process::Command, time::Duration};

use federation_tests::{Bucket, Client, Engine, Server, eventually};
use http::Method;
use reqwest::header::{CONTENT_TYPE, RANGE, RETRY_AFTER};
use serde_json::Value;

use crate::files::{MEBI, announce, break_off, hash, noise, settled_offset, with_headers};

/// A file or a part of it, as the status, its type and its bytes.
async fn read(server: &Server, client: &Client, path: &str, range: Option<&str>) -> (u16, String, Vec<u8>) {
    let mut request = reqwest::Client::new().get(format!("{}{path}", server.url()));
    request = request.bearer_auth(client.token.as_ref().expect("they are logged in"));
    if let Some(range) = range {
        request = request.header(RANGE, range);
    }
    let answer = request.send().await.expect("the server answers");
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    (answer.status().as_u16(), kind, answer.bytes().await.expect("they come").to_vec())
}

/// The same person at another node.
fn at(node: &Server, person: &Client) -> Client {
    let mut client = node.anonymous();
    client.user_id.clone_from(&person.user_id);
    client.device_id.clone_from(&person.device_id);
    client.token.clone_from(&person.token);
    client
}

async fn upload(client: &Client, kind: &str, bytes: &[u8]) -> (u16, Value) {
    with_headers(client, Method::POST, "/api/v1/files", bytes, &[("content-type", kind)]).await
}

/// A PNG of four pixels that one can see through.
fn picture() -> Vec<u8> {
    const PICTURE: &str = "89504e470d0a1a0a0000000d494844520000000200000002080600000072b60d2400000011\
                           4944415478da63382117d500c20c300600404a07015150e9d40000000049454e44ae426082";
    let digits: Vec<u8> = PICTURE.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("they are digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("they are digits")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_files_and_no_folder() {
    let Some(program) = Bucket::program() else { return };
    let Some(engine) = Engine::postgres() else {
        return eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
    };
    let bucket = Bucket::start(&program).await;
    let mut first = bucket.serve(Server::builder(&engine)).set("media", "max_upload", "100 MiB").start().await;
    let second = first.another_node().await;
    let alice = first.register("alice").await;
    let alice_there = at(&second, &alice);

    // In one piece.
    let bytes = noise(3 * MEBI);
    let (status, file) = upload(&alice, "application/x-film", &bytes).await;
    assert_eq!(status, 201, "{file}");
    let url = file["content_url"].as_str().expect("it is somewhere");
    assert!(read(&second, &alice_there, url, None).await == (200, "application/x-film".to_owned(), bytes.clone()));
    let (status, _, part) = read(&second, &alice_there, url, Some("bytes=1048570-1048585")).await;
    assert_eq!((status, &part[..]), (206, &bytes[MEBI - 6..MEBI + 10]));

    // A small picture, made by either.
    let (status, file) = upload(&alice, "image/png", &picture()).await;
    assert_eq!(status, 201, "{file}");
    let small =
        file["content_url"].as_str().expect("it is somewhere").replace("/content", "/thumbnail?width=96&height=96");
    let there = read(&second, &alice_there, &small, None).await;
    assert_eq!((there.0, there.1.as_str()), (200, "image/png"), "{}", String::from_utf8_lossy(&there.2));
    assert!(read(&first, &alice, &small, None).await == there);

    // In pieces, at one node and the other, of which one dies on the way.
    let bytes = noise(30 * MEBI + 77);
    let path = announce(&alice, bytes.len()).await;
    break_off(&first, &alice, &path, &bytes, 0, 12 * MEBI).await;
    let offset = settled_offset(&alice, &path, 8 * MEBI).await;
    assert_eq!(settled_offset(&alice_there, &path, offset).await, offset);
    break_off(&second, &alice_there, &path, &bytes, offset, 6 * MEBI).await;
    let further = settled_offset(&alice_there, &path, offset + 1).await;
    first.kill();
    let at = further.to_string();
    let headers = [("upload-offset", &*at), ("content-type", "application/offset+octet-stream")];
    let (status, answer) = with_headers(&alice_there, Method::PATCH, &path, &bytes[further..], &headers).await;
    assert_eq!(status, 204, "{answer}");
    first.restart().await;
    let file = alice.get(&path).await.ok()["file"].clone();
    assert_eq!(file["sha256"], hash(&bytes), "{file}");
    let (status, _, whole) = read(&first, &alice, file["content_url"].as_str().expect("a place"), None).await;
    assert!(status == 200 && whole == bytes);

    // What was written on the way is gone from both, and no file stayed.
    for node in [&first, &second] {
        let media = node.folder().join("data/media");
        for folder in ["tmp", "partial", "files", "thumbnails"] {
            let left = fs::read_dir(media.join(folder)).expect("the folder is there").count();
            assert_eq!(left, 0, "{folder} of {}", node.url());
        }
        assert!(node.figure("comity_media_bucket_requests_total").await > 0.0);
        assert!(!node.log().contains(bucket.secret()), "the secret is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_is_away_files_are_refused_and_then_they_are_taken_again() {
    let Some(program) = Bucket::program() else { return };
    let mut bucket = Bucket::start(&program).await;
    let server = bucket.serve(Server::builder(&Engine::Sqlite)).start().await;
    let alice = server.register("alice").await;
    let (status, before) = upload(&alice, "text/plain", b"hello").await;
    assert_eq!(status, 201, "{before}");
    let url = before["content_url"].as_str().expect("it is somewhere").to_owned();
    let path = announce(&alice, 11).await;
    let append = async |offset: &str, bytes: &[u8]| {
        let headers = [("upload-offset", offset), ("content-type", "application/offset+octet-stream")];
        with_headers(&alice, Method::PATCH, &path, bytes, &headers).await
    };
    assert_eq!(append("0", b"hello").await.0, 204);

    bucket.go_away().await;
    let request = reqwest::Client::new().post(format!("{}/api/v1/files", server.url())).body("more");
    let request = request.header(CONTENT_TYPE, "text/plain").bearer_auth(alice.token.as_ref().expect("logged in"));
    let answer = request.timeout(Duration::from_secs(30)).send().await.expect("it is told in time");
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key(RETRY_AFTER)), (503, true), "{answer:?}");
    assert_eq!(read(&server, &alice, &url, None).await.0, 503);
    assert_eq!(append("5", b" world").await.0, 503);
    let matrix = url.replace("/api/v1/files/", "/_matrix/client/v1/media/download/").replace("/content", "");
    assert_eq!(read(&server, &alice, &matrix, None).await.0, 503);
    // Everything else goes on.
    let room = alice.create_public_room().await;
    alice.say(&room, "nothing but words").await;
    let admin = server.admin().await;
    let status = admin.get("/api/v1/admin/status").await.ok();
    let of_media = status["dependencies"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "media"));
    assert!(of_media.is_some_and(|media| media["findings"].as_array().is_some_and(|all| all.len() == 1)), "{status}");

    bucket.come_back().await;
    assert_eq!(append("5", b" world").await.0, 204);
    let done = alice.get(&path).await.ok();
    assert_eq!(done["file"]["sha256"], hash(b"hello world"), "{done}");
    assert_eq!(read(&server, &alice, &url, None).await.2, b"hello");
    assert_eq!(upload(&alice, "text/plain", b"more").await.0, 201);
    eventually("the status says so", async || {
        let status = admin.get("/api/v1/admin/status").await.ok();
        let mut all = status["dependencies"].as_array()?.iter();
        all.any(|one| one["name"] == "media" && one["findings"] == Value::Array(Vec::new())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_not_use_its_bucket_says_so_and_ends() {
    let Some(program) = Bucket::program() else { return };
    let mut bucket = Bucket::start(&program).await;
    let mut server = bucket.serve(Server::builder(&Engine::Sqlite)).start().await;
    server.stop().await;
    let config = server.folder().join("config.toml");
    let written = fs::read_to_string(&config).expect("it is there");
    let said = async |from: &str, to: &str| {
        assert!(written.contains(from), "{written}");
        fs::write(&config, written.replace(from, to)).expect("it can be written");
        let mut command = Command::new(federation_tests::binary());
        command.arg("serve").arg("--config").arg(&config).current_dir(server.folder());
        let run = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it runs");
        assert!(!run.status.success(), "it started");
        String::from_utf8_lossy(&run.stderr).into_owned() + String::from_utf8_lossy(&run.stdout).as_ref()
    };
    let wrong_secret = said(bucket.secret(), "another secret").await;
    assert!(wrong_secret.contains("media.s3.secret_access_key"), "{wrong_secret}");
    assert!(!wrong_secret.contains("another secret"), "{wrong_secret}");
    let wrong_name = said("bucket = \"im-media\"", "bucket = \"im-nothing\"").await;
    assert!(wrong_name.contains("media.s3."), "{wrong_name}");
    bucket.go_away().await;
    let nobody = said("comity", "comity").await;
    assert!(nobody.contains("media.s3.endpoint"), "{nobody}");
    assert!(!nobody.contains("panicked"), "{nobody}");
}
