//! Which files are taken: kinds that are not, and what ClamAV has to say of the rest, whichever way they come.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use federation_tests::{Answer, Clamd, Client, Engine, Mood, Network, Server, eventually, on_each_engine};
use http::Method;
use serde_json::{Value, json};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
const ELF: &[u8] = b"\x7fELF\x02\x01\x01 and so on";

/// A file with a virus in it, which begins like any other.
fn infected() -> Vec<u8> {
    let mut bytes = vec![b'.'; 200_000];
    bytes.extend_from_slice(Clamd::VIRUS.as_bytes());
    bytes
}

async fn matrix(client: &Client, kind: &str, bytes: &[u8]) -> Answer {
    client.raw(Method::POST, "/_matrix/media/v3/upload", kind, bytes.to_vec()).await.expect("the server answers")
}

/// What was made.
fn made(answer: Answer) -> Value {
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body
}

/// Fills a name that was given out before.
async fn later(client: &Client, kind: &str, bytes: &[u8]) -> (Answer, String) {
    let named = client.post("/_matrix/media/v1/create", json!({})).await.ok();
    let name = named["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a name").to_owned();
    let path = format!("/_matrix/media/v3/upload/{name}");
    (client.raw(Method::PUT, &path, kind, bytes.to_vec()).await.expect("the server answers"), name)
}

async fn native(client: &Client, kind: &str, bytes: &[u8]) -> Answer {
    client.raw(Method::POST, "/api/v1/files", kind, bytes.to_vec()).await.expect("the server answers")
}

async fn sent(
    client: &Client,
    method: Method,
    path: &str,
    kind: &str,
    bytes: &[u8],
    headers: &[(&str, &str)],
) -> Answer {
    let bearer = format!("Bearer {}", client.token.as_ref().expect("they are logged in"));
    let own = [("authorization", bearer.as_str()), ("tus-resumable", "1.0.0")];
    let headers: Vec<_> = own.into_iter().chain(headers.iter().copied()).collect();
    client.raw_saying(method, path, kind, bytes.to_vec(), &headers).await.expect("the server answers")
}

async fn announced(client: &Client, kind: &str, length: usize) -> Answer {
    let (length, metadata) = (length.to_string(), format!("filetype {}", STANDARD.encode(kind)));
    let headers = [("upload-length", &*length), ("upload-metadata", &*metadata)];
    sent(client, Method::POST, "/api/v1/files", "", b"", &headers).await
}

async fn piece(client: &Client, path: &str, offset: usize, bytes: &[u8]) -> Answer {
    let at = offset.to_string();
    let kind = "application/offset+octet-stream";
    sent(client, Method::PATCH, path, kind, bytes, &[("upload-offset", &at)]).await
}

/// Sends a file in two pieces.
async fn in_pieces(client: &Client, kind: &str, bytes: &[u8]) -> (Answer, String) {
    let upload = made(announced(client, kind, bytes.len()).await);
    let name = upload["mxc_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a name").to_owned();
    let path = format!("/api/v1/files/uploads/{}", name.rsplit('/').next().expect("it has an id"));
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    assert_eq!(piece(client, &path, 0, first).await.status, 204);
    (piece(client, &path, first.len(), rest).await, path)
}

/// How many files the server has in its folder, whatever became of them.
fn files_in(server: &Server) -> usize {
    let folders = ["files", "tmp", "partial"].map(|name| server.folder().join("data/media").join(name));
    let mut open: Vec<_> = folders.into_iter().filter(|folder| folder.exists()).collect();
    let mut count = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { count += 1 }
        }
    }
    count
}

#[tokio::test]
async fn files_of_kinds_that_are_not_taken_are_refused_whichever_way_they_come() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine)
            .set("media", "allowed_types", vec!["image/*", "text/plain"])
            .set("media", "denied_types", vec!["image/gif", "executable"])
            .start()
            .await;
        let alice = server.register("alice").await;
        matrix(&alice, "image/png", PNG).await.ok();
        made(native(&alice, "text/plain; charset=utf-8", b"hello").await);
        let kept = files_in(&server);
        let told = matrix(&alice, "image/png", ELF).await.refused(403, "M_FORBIDDEN");
        let text = told["error"].as_str().expect("it says why");
        assert!(text.contains("application/x-executable") && text.contains("image/*"), "{text}");
        matrix(&alice, "image/gif", PNG).await.refused(403, "M_FORBIDDEN");
        let (answer, name) = later(&alice, "image/png", ELF).await;
        answer.refused(403, "M_FORBIDDEN");
        alice.get(&format!("/api/v1/files/{name}")).await.problem(504, "not_yet_uploaded");
        native(&alice, "text/plain", ELF).await.problem(403, "file_type_not_allowed");
        native(&alice, "application/octet-stream", b"encrypted").await.problem(403, "file_type_not_allowed");
        announced(&alice, "image/gif", 10).await.problem(403, "file_type_not_allowed");
        let (answer, path) = in_pieces(&alice, "image/png", ELF).await;
        answer.problem(403, "file_type_not_allowed");
        alice.get(&path).await.problem(404, "not_found");
        let (answer, _) = in_pieces(&alice, "application/octet-stream", PNG).await;
        assert_eq!(answer.status, 204, "its bytes tell: {}", answer.body);
        // The same bytes are kept once.
        assert_eq!(files_in(&server), kept, "of what is refused nothing stays");
        assert!(server.figure("comity_media_type_refusals_total").await >= 6.0);
    })
    .await;
}

#[tokio::test]
async fn what_clamav_finds_something_in_is_refused_and_what_it_has_not_seen_is_not_kept() {
    on_each_engine(async |engine| {
        let clamd = Clamd::start().await;
        let server = Server::builder(&engine)
            .set("media", "clamd", clamd.address())
            .set("media", "clamd_timeout", "2s")
            .start()
            .await;
        let alice = server.register("alice").await;
        let clean = vec![b'.'; 200_000];
        let uri = matrix(&alice, "text/plain", &clean).await.ok();
        assert_eq!(clamd.looked_at(), [clean.len()]);
        let name = uri["content_uri"].as_str().expect("a name").trim_start_matches("mxc://").to_owned();
        alice.get(&format!("/api/v1/files/{name}")).await.ok();

        let bad = infected();
        matrix(&alice, "text/plain", &bad).await.refused(403, "M_FORBIDDEN");
        let (answer, name) = later(&alice, "text/plain", &bad).await;
        answer.refused(403, "M_FORBIDDEN");
        alice.get(&format!("/api/v1/files/{name}")).await.problem(504, "not_yet_uploaded");
        native(&alice, "text/plain", &bad).await.problem(403, "infected_file");
        let (answer, path) = in_pieces(&alice, "text/plain", &bad).await;
        answer.problem(403, "infected_file");
        alice.get(&path).await.problem(404, "not_found");
        assert!(server.log().contains(Clamd::SIGNATURE), "the operator is told what it is");
        native(&alice, "text/plain", &vec![b'.'; Clamd::MOST + 1]).await.problem(413, "too_large_to_scan");
        assert_eq!(files_in(&server), 1);

        // Whatever is the matter with it, nothing is taken unseen.
        for mood in [Mood::Confused, Mood::Abrupt, Mood::Silent] {
            clamd.be(mood);
            let problem = native(&alice, "text/plain", b"harmless").await.problem(503, "virus_scan_unavailable");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("later")), "{problem}");
            assert_eq!(matrix(&alice, "text/plain", b"harmless").await.status, 503);
        }
        assert_eq!(files_in(&server), 1);
        // What came in pieces waits for it.
        let (answer, path) = in_pieces(&alice, "text/plain", b"harmless").await;
        answer.problem(503, "virus_scan_unavailable");
        clamd.be(Mood::Well);
        let upload = alice.get(&path).await.ok();
        assert_eq!((&upload["expires_at"], &upload["file"]["size"]), (&Value::Null, &json!(8)), "{upload}");
        made(native(&alice, "text/plain", b"harmless too").await);
        drop(clamd);
        eventually("nobody listens there any more", async || {
            (native(&alice, "text/plain", b"more").await.status == 503).then_some(())
        })
        .await;
        assert!(server.figure("comity_media_scans_total").await >= 10.0);
    })
    .await;
}

#[tokio::test]
async fn who_would_rather_have_files_unseen_than_none_gets_them() {
    let clamd = Clamd::start().await;
    let server = Server::builder(&Engine::Sqlite)
        .set("media", "clamd", clamd.address())
        .set("media", "clamd_required", false)
        .start()
        .await;
    let alice = server.register("alice").await;
    clamd.be(Mood::Confused);
    made(native(&alice, "text/plain", b"harmless").await);
    assert!(server.log().contains("clamd_required"), "the log says so");
    clamd.be(Mood::Well);
    native(&alice, "text/plain", &infected()).await.problem(403, "infected_file");
}

#[tokio::test]
async fn files_of_other_servers_are_looked_at_before_they_are_given_out() {
    let network = Network::new();
    let clamd = Clamd::start().await;
    let ours = network.server(&Engine::Sqlite, "a.test").await;
    let ours =
        ours.set("media", "clamd", clamd.address()).set("media", "denied_types", vec!["executable"]).start().await;
    let theirs = network.server(&Engine::Sqlite, "b.test").await.start().await;
    let (alice, bob) = (ours.register("alice").await, theirs.register("bob").await);
    let upload = async |kind: &str, bytes: &[u8]| {
        let uploaded = made(native(&bob, kind, bytes).await);
        let url = uploaded["content_url"].as_str().expect("it is somewhere").to_owned();
        let matrix = url.replace("/api/v1/files/", "/_matrix/client/v1/media/download/").replace("/content", "");
        (url, matrix)
    };
    let (clean, _) = upload("text/plain", b"hello").await;
    assert_eq!(alice.get(&clean).await.text, "hello");
    let (bad, bad_on_matrix) = upload("text/plain", &infected()).await;
    alice.get(&bad).await.problem(403, "infected_file");
    alice.get(&bad_on_matrix).await.refused(403, "M_FORBIDDEN");
    let (program, _) = upload("image/png", ELF).await;
    alice.get(&program).await.problem(403, "file_type_not_allowed");
    clamd.be(Mood::Confused);
    let (unseen, unseen_on_matrix) = upload("text/plain", b"harmless").await;
    alice.get(&unseen).await.problem(502, "virus_scan_unavailable");
    assert_eq!(alice.get(&unseen_on_matrix).await.status, 502);
    assert_eq!(alice.get(&clean).await.text, "hello", "what was looked at before is there");
    assert_eq!(files_in(&ours), 1);
}
