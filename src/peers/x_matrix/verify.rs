//! Whether a request was signed by whom it says it was.

use bytes::Bytes;
use http::{Method, Uri};
use ruma::{CanonicalJsonValue, ServerName};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{AuthError, Claim};
use crate::Peers;

/// What a server signs of a request: in the order of canonical JSON.
#[derive(Serialize)]
struct Signed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    destination: &'a str,
    method: &'a str,
    origin: &'a str,
    uri: &'a str,
}

impl Peers {
    /// Checks that the request was signed by whom `claim` names, by a key that counts now, for this server.
    ///
    /// Answers the body as it was signed, which is what may be believed: the bytes that came, or, if they are another
    /// spelling of it, its canonical form.
    pub async fn verify_request(
        &self,
        claim: &Claim,
        method: &Method,
        uri: &Uri,
        body: Bytes,
    ) -> Result<Bytes, AuthError> {
        let asked = Asked { claim, destination: self.server_name(), method, uri };
        let mut texts = Vec::with_capacity(2);
        let mut bodies = Vec::with_capacity(2);
        if body.is_empty() {
            texts.push(asked.text(None)?);
            bodies.push(body);
        } else {
            let content: &RawValue = serde_json::from_slice(&body).map_err(not_json)?;
            // Without the white space around it, which nobody signs.
            let as_it_came = body.slice_ref(content.get().as_bytes());
            // Servers send what they signed, so it need not be taken apart; and numbers that canonical JSON lacks, or
            // one event nested too deep, are no reason to refuse everything else in a transaction.
            texts.push(asked.text(Some(content))?);
            // Another spelling is of use only where it can be brought into the canonical one.
            let canonical =
                serde_json::from_str::<CanonicalJsonValue>(content.get()).map(|content| content.to_string());
            // Older room versions let numbers in that canonical JSON lacks; servers sort what has them all the same.
            let sorted =
                canonical.or_else(|_| serde_json::from_str::<Value>(content.get()).map(|value| value.to_string()));
            if let Ok(canonical) = sorted
                && canonical.as_bytes() != &*as_it_came
            {
                let content: &RawValue = serde_json::from_str(&canonical).map_err(not_json)?;
                texts.push(asked.text(Some(content))?);
                bodies.push(Bytes::from(canonical));
            }
            bodies.insert(0, as_it_came);
        }
        let texts = texts.iter().map(Vec::as_slice);
        let signed = self.keys().check_texts(&claim.origin, &claim.signatures, texts).await?;
        Ok(bodies.swap_remove(signed))
    }
}

struct Asked<'a> {
    claim: &'a Claim,
    destination: &'a ServerName,
    method: &'a Method,
    uri: &'a Uri,
}

impl Asked<'_> {
    fn text(&self, content: Option<&RawValue>) -> Result<Vec<u8>, AuthError> {
        let signed = Signed {
            content,
            destination: self.destination.as_str(),
            method: self.method.as_str(),
            origin: self.claim.origin.as_str(),
            // Spec: "the full path and query", as it came.
            uri: self.uri.path_and_query().map_or("/", |uri| uri.as_str()),
        };
        serde_json::to_vec(&signed).map_err(not_json)
    }
}

fn not_json(error: serde_json::Error) -> AuthError {
    AuthError::Body(error.to_string())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};
    use proptest::prelude::*;
    use ruma::server_name;
    use serde_json::json;
    use store::{Store, testing::on_each_engine};

    use super::*;
    use crate::testing::{authorization, key_of, knowing};

    const URI: &str = "/_matrix/federation/v1/send/42?a=%2F&b";

    fn peers(store: Store) -> Peers {
        knowing(server_name!("b.test"), store, &[server_name!("a.test"), server_name!("c.test")])
    }

    /// A request as it goes over the wire.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Wire {
        method: String,
        uri: String,
        header: String,
        body: Vec<u8>,
    }

    fn signed(body: &serde_json::Value) -> Wire {
        let content: CanonicalJsonValue = body.clone().try_into().expect("it is canonical");
        let key = key_of(server_name!("a.test"));
        let header = authorization(&key, server_name!("b.test"), &Method::PUT, URI, Some(&content));
        let header = header.to_str().expect("it is ASCII").to_owned();
        Wire { method: "PUT".into(), uri: URI.into(), header, body: content.to_string().into_bytes() }
    }

    /// Whether it is believed, and as what.
    async fn verify(peers: &Peers, wire: &Wire) -> Result<Bytes, &'static str> {
        let (Ok(method), Ok(uri)) = (Method::from_bytes(wire.method.as_bytes()), wire.uri.parse::<Uri>()) else {
            return Err("not even a request");
        };
        let Ok(value) = http::HeaderValue::from_bytes(wire.header.as_bytes()) else { return Err("not even a header") };
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        let claim = peers.claim_of(&headers).map_err(|error| error.reason())?;
        let body = Bytes::from(wire.body.clone());
        peers.verify_request(&claim, &method, &uri, body).await.map_err(|error| error.reason())
    }

    #[tokio::test]
    async fn what_is_said_in_several_lines_is_signed_as_it_is_sent() {
        on_each_engine(async |store| {
            let wire = signed(&json!({ "body": "one\ntwo\r\n\t\"three\" \\ / \u{1}\u{7f}é\u{2705}" }));
            assert_eq!(verify(&peers(store), &wire).await, Ok(wire.body.clone().into()));
            Ok::<_, store::Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_request_is_believed_as_it_was_signed() {
        on_each_engine(async |store| {
            let peers = peers(store);
            let wire = signed(&json!({ "b": [1, "é"], "a": {} }));
            assert_eq!(verify(&peers, &wire).await.expect("it is signed"), wire.body);
            // Spelt otherwise on the way: what counts is what was signed.
            let spaced = Wire { body: br#" {"b" : [1, "\u00e9"], "a":{"x":0}, "a":{}}"#.to_vec(), ..wire.clone() };
            assert_eq!(verify(&peers, &spaced).await.expect("it means the same"), wire.body);
            let around = Wire { body: [b"\t".as_slice(), &wire.body, b"\r\n "].concat(), ..wire.clone() };
            assert_eq!(verify(&peers, &around).await.expect("nobody signs what is around it"), wire.body);
            let other = Wire { header: wire.header.replace("a.test", "c.test"), ..wire.clone() };
            let with_name = verify(&peers, &other).await;
            assert_eq!(with_name, Err("bad_signature"));
            let gone = Wire { header: wire.header.replace("a.test", "gone.test"), ..wire.clone() };
            assert_eq!(verify(&peers, &gone).await, Err("unknown_key"));
            let another_key = Wire { header: wire.header.replace(":test", ":tset"), ..wire.clone() };
            assert_eq!(verify(&peers, &another_key).await, Err("unknown_key"));
            let garbage = Wire { body: b"{".to_vec(), ..wire.clone() };
            assert_eq!(verify(&peers, &garbage).await, Err("not_json"));
            let empty = Wire { body: Vec::new(), ..wire };
            assert_eq!(verify(&peers, &empty).await, Err("bad_signature"));
            Ok::<_, store::Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_canonical_json_lacks_is_no_reason_to_refuse_what_was_signed_as_it_came() {
        on_each_engine(async |store| {
            let peers = peers(store);
            let body = format!(r#"{{"deep":{}1{},"float":1.5}}"#, "[".repeat(200), "]".repeat(200));
            let content: &RawValue = serde_json::from_str(&body).expect("it is JSON");
            let claim = Claim { origin: server_name!("a.test").to_owned(), signatures: Vec::new() };
            let uri = Uri::from_static(URI);
            let asked = Asked { claim: &claim, destination: server_name!("b.test"), method: &Method::PUT, uri: &uri };
            let text = asked.text(Some(content)).expect("it is JSON");
            let (key_id, signature) =
                ruma::signatures::KeyPair::sign(&key_of(server_name!("a.test")), &text).into_parts();
            let signature = signature.try_into().expect("it is as long as one");
            let claim = Claim { signatures: vec![(key_id.to_string(), signature)], ..claim.clone() };
            let body = Bytes::from(body);
            let believed = peers.verify_request(&claim, &Method::PUT, &uri, body.clone()).await;
            assert_eq!(believed.expect("it was signed like this"), body);
            Ok::<_, store::Error>(())
        })
        .await;
    }

    #[test]
    fn a_request_changed_in_any_byte_is_refused_or_believed_as_it_was_signed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let location = store::Location::Sqlite(folder.path().join("test.db"));
        let store = runtime.block_on(Store::open(&location, 1, std::sync::Arc::new(|_| ()))).expect("it opens");
        let peers = peers(store);
        let original = signed(&json!({ "pdus": [{ "type": "x", "depth": 12 }], "origin": "a.test", "t": "\u{b}é" }));
        let lengths = [original.method.len(), original.uri.len(), original.header.len(), original.body.len()];
        let total = lengths.iter().sum::<usize>();

        proptest!(ProptestConfig::with_cases(3_000), |(at in 0..total, change in 1..=255u8, kind in 0..3u8)| {
            let mut parts = [
                original.method.clone().into_bytes(),
                original.uri.clone().into_bytes(),
                original.header.clone().into_bytes(),
                original.body.clone(),
            ];
            let (mut part, mut at) = (0, at);
            while at >= lengths[part] {
                at -= lengths[part];
                part += 1;
            }
            match kind {
                0 => parts[part][at] ^= change,
                1 => { parts[part].remove(at); }
                _ => parts[part].insert(at, change & 0x7f),
            }
            let [method, uri, header, body] = parts;
            let text = |bytes| String::from_utf8(bytes).ok();
            if let (Some(method), Some(uri), Some(header)) = (text(method), text(uri), text(header)) {
                let changed = Wire { method, uri, header, body };
                // What is before the parameters, their order, case and quotes are not what is signed; what they say is.
                let is_same = |wire: &Wire| {
                    let value = http::HeaderValue::from_bytes(wire.header.as_bytes()).ok()?;
                    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
                    let uri = wire.uri.parse::<Uri>().ok()?.path_and_query()?.to_string();
                    Some((wire.method.clone(), uri, peers.claim_of(&headers).ok()?))
                };
                match runtime.block_on(verify(&peers, &changed)) {
                    Err(_) => {}
                    Ok(believed) => {
                        prop_assert_eq!(&believed, &original.body);
                        prop_assert_eq!(is_same(&changed), is_same(&original));
                    }
                }
            }
        });
    }
}
