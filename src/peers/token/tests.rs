//! What is believed of a token, and what isn't.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use model::SigningKey;
use proptest::prelude::*;
use ruma::{ServerName, server_name};
use serde_json::{Value, json};
use store::{Store, testing::on_each_engine};

use super::*;
use crate::{
    keys::wall_clock,
    testing::{bearer, body_signature, claims, key_of, knowing, token_head},
};

fn us() -> &'static ServerName {
    server_name!("a.test")
}

fn peers(store: Store) -> Peers {
    knowing(us(), store, &[server_name!("b.test"), server_name!("c.test")])
}

fn them() -> SigningKey {
    key_of(server_name!("b.test"))
}

/// A request without a body that `change` made of an honest one.
fn changed(id: &str, change: impl Fn(&mut Value, &mut Value)) -> HeaderMap {
    let key = them();
    let (mut head, mut claims) = (token_head(&key), claims(&key, us(), id, wall_clock() / 1_000));
    change(&mut head, &mut claims);
    with_token(&bearer(&key, &head, &claims))
}

fn with_token(bearer: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(bearer).expect("it is ASCII"))])
}

async fn verify(peers: &Peers, headers: &HeaderMap, body: &[u8]) -> Result<(Token, Bytes), &'static str> {
    let token = peers.token_of(headers).map_err(|error| error.reason())?;
    let body = peers.verify_token(&token, headers, Bytes::copy_from_slice(body)).await;
    body.map(|body| (token, body)).map_err(|error| error.reason())
}

#[tokio::test]
async fn what_an_honest_server_signs_is_believed_once() {
    on_each_engine(async |store| {
        let before = peers(store.clone());
        let headers = changed("1", |_, claims| claims["scope"] = json!(["users", "flying"]));
        let (token, _) = verify(&before, &headers, b"").await.expect("it is signed");
        assert_eq!((token.issuer.as_str(), &*token.scopes), ("b.test", &[Scope::Users][..]));
        assert_eq!(verify(&before, &headers, b"").await.err(), Some("token_replayed"));
        // Another process, or another node, remembers nothing but what is stored.
        assert_eq!(verify(&peers(store), &headers, b"").await.err(), Some("token_replayed"));
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn what_no_key_can_make_right_is_refused_with_its_reason() {
    type Change = fn(&mut Value, &mut Value);
    let changes: [(&str, Change); 26] = [
        ("unsupported_algorithm", |head, _| head["alg"] = json!("none")),
        ("unsupported_algorithm", |head, _| head["alg"] = json!("HS256")),
        ("unsupported_algorithm", |head, _| head["alg"] = json!("RS256")),
        ("unsupported_algorithm", |head, _| head["alg"] = json!("ES256")),
        ("unsupported_algorithm", |head, _| head["kid"] = json!("ed448:auto")),
        ("unsupported_algorithm", |head, _| head["kid"] = json!("../../etc/passwd")),
        ("malformed_token", |head, _| head["kid"] = Value::Null),
        ("malformed_token", |head, _| head["crit"] = json!(["exp"])),
        ("malformed_token", |head, _| head["typ"] = json!("at+jwt")),
        ("unknown_key", |head, _| head["kid"] = json!("ed25519:other")),
        ("wrong_audience", |_, claims| claims["aud"] = json!("c.test")),
        ("wrong_audience", |_, claims| claims["aud"] = json!("A.test.evil")),
        // Who may use it in two places could use it in the one as if it came from the other.
        ("malformed_token", |_, claims| claims["aud"] = json!(["a.test", "c.test"])),
        ("wrong_issuer", |_, claims| claims["iss"] = json!("not a server")),
        ("wrong_issuer", |_, claims| claims["iss"] = json!("a.test")),
        ("wrong_subject", |_, claims| claims["sub"] = json!("bob@c.test")),
        ("wrong_subject", |_, claims| claims["sub"] = json!("")),
        ("token_expired", |_, claims| claims["exp"] = json!(wall_clock() / 1_000 - 31)),
        ("token_not_yet_valid", |_, claims| claims["iat"] = json!(wall_clock() / 1_000 + 40)),
        ("token_not_yet_valid", |_, claims| claims["nbf"] = json!(i64::MAX)),
        ("token_lives_too_long", |_, claims| claims["exp"] = json!(wall_clock() / 1_000 + 400)),
        ("token_lives_too_long", |_, claims| claims["exp"] = json!(i64::MAX)),
        ("token_lives_too_long", |_, claims| claims["iat"] = json!(i64::MIN)),
        ("malformed_token", |_, claims| claims["exp"] = Value::Null),
        ("malformed_token", |_, claims| claims["jti"] = json!("")),
        ("malformed_token", |_, claims| claims["jti"] = json!("x".repeat(256))),
    ];
    on_each_engine(async |store| {
        let peers = peers(store);
        for (at, (reason, change)) in changes.into_iter().enumerate() {
            let headers = changed(&format!("{reason}{at}"), change);
            assert_eq!(verify(&peers, &headers, b"").await.err(), Some(reason), "number {at}");
        }
        for nonsense in ["Bearer", "Bearer ", "Bearer x", "Bearer a.b.c", "Bearer ....", "Basic YTpi"] {
            assert!(matches!(
                verify(&peers, &with_token(nonsense), b"").await,
                Err("malformed_token" | "missing_token")
            ));
        }
        let mut two = changed("two", |_, _| ());
        two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(verify(&peers, &two, b"").await.err(), Some("malformed_token"));
        let long = format!("Bearer {}", "x".repeat(10_000));
        assert_eq!(verify(&peers, &with_token(&long), b"").await.err(), Some("malformed_token"));
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn only_the_key_of_the_issuer_makes_a_token() {
    on_each_engine(async |store| {
        let peers = peers(store);
        // All servers of these tests have one key, so that only what is signed tells them apart.
        let stranger = SigningKey::from_seed(server_name!("b.test").to_owned(), "test", &[8; 32]).expect("it is a key");
        let now = wall_clock() / 1_000;
        let forged = bearer(&stranger, &token_head(&stranger), &claims(&stranger, us(), "1", now));
        assert_eq!(verify(&peers, &with_token(&forged), b"").await.err(), Some("bad_signature"));
        let gone = key_of(server_name!("gone.test"));
        let unknown = bearer(&gone, &token_head(&gone), &claims(&gone, us(), "1", now));
        assert_eq!(verify(&peers, &with_token(&unknown), b"").await.err(), Some("unknown_key"));
        // What is signed is what came, byte for byte.
        let honest = bearer(&them(), &token_head(&them()), &claims(&them(), us(), "1", now));
        let other = bearer(&them(), &token_head(&them()), &claims(&them(), us(), "2", now));
        let (text, _) = honest.rsplit_once('.').expect("it has three parts");
        let (_, signature) = other.rsplit_once('.').expect("it has three parts");
        let spliced = format!("{text}.{signature}");
        assert_eq!(verify(&peers, &with_token(&spliced), b"").await.err(), Some("bad_signature"));
        // None of it used the honest one up.
        verify(&peers, &with_token(&honest), b"").await.expect("it is good");
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn a_body_counts_only_with_a_signature_of_its_own() {
    on_each_engine(async |store| {
        let peers = peers(store);
        let body = br#"{"a":1,"b":"x"}"#;
        let signed = |id: &str, signature: Option<String>| {
            let mut headers = changed(id, |_, _| ());
            if let Some(signature) = signature {
                headers.insert(BODY_SIGNATURE, HeaderValue::from_str(&signature).expect("it is ASCII"));
            }
            headers
        };
        let good = body_signature(&them(), body);
        let (_, taken) = verify(&peers, &signed("1", Some(good.clone())), body).await.expect("it is signed");
        assert_eq!(taken, &body[..]);
        let spelled = br#"{ "b": "x", "a": 1 }"#;
        let (_, taken) = verify(&peers, &signed("2", Some(good.clone())), spelled).await.expect("it means the same");
        assert_eq!(taken, &body[..]);
        let other = br#"{"a":2,"b":"x"}"#;
        assert_eq!(verify(&peers, &signed("3", Some(good)), other).await.err(), Some("wrong_body_signature"));
        assert_eq!(verify(&peers, &signed("4", None), body).await.err(), Some("unsigned_body"));
        for nonsense in ["ed25519:test", "ed25519:test AAAA", "hmac:test AAAA", ""] {
            let refused = verify(&peers, &signed("5", Some(nonsense.to_owned())), body).await.err();
            assert_eq!(refused, Some("wrong_body_signature"), "{nonsense}");
        }
        let unknown = body_signature(&them(), body).replace(":test", ":other");
        assert_eq!(verify(&peers, &signed("6", Some(unknown)), body).await.err(), Some("unknown_key"));
        Ok::<_, store::Error>(())
    })
    .await;
}

#[test]
fn a_token_changed_in_any_byte_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let location = store::Location::Sqlite(folder.path().join("test.db"));
    let store = runtime.block_on(Store::open(&location, 1, std::sync::Arc::new(|_| ()))).expect("it opens");
    let peers = peers(store);
    let original = bearer(&them(), &token_head(&them()), &claims(&them(), us(), "1", wall_clock() / 1_000));

    let changes = ("Bearer ".len()..original.len(), 1..=127u8, 0..3u8);
    proptest!(ProptestConfig::with_cases(2_000), |((at, change, kind) in changes)| {
        let mut changed = original.clone().into_bytes();
        match kind {
            0 => changed[at] ^= change,
            1 => { changed.remove(at); }
            _ => changed.insert(at, change),
        }
        let Ok(value) = HeaderValue::from_bytes(&changed) else { return Ok(()) };
        let says_the_same = value.to_str().is_ok_and(|text| text.split_whitespace().eq(original.split(' ')));
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        prop_assert!(says_the_same || runtime.block_on(verify(&peers, &headers, b"")).is_err());
    });
    runtime.block_on(verify(&peers, &with_token(&original), b"")).expect("nothing has used it up");
}
