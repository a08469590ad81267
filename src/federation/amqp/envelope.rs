//! What goes over a broker: a transaction, or what came of one, signed by the server that says it.
//!
//! An envelope is a JSON object with exactly these fields:
//!
//! | field | is |
//! | --- | --- |
//! | `type` | `org.comity.envelope`; nothing else that servers sign has this field with this text and the others beside it |
//! | `version` | `1` |
//! | `kind` | `transaction` or `response` |
//! | `origin` | the server that says it |
//! | `destination` | the server that it is for |
//! | `transaction_id` | the transaction, or the one that this answers; 1 to 255 bytes |
//! | `sent_at` | when it was put into the envelope, milliseconds since 1970 |
//! | `body` | what it says, see below |
//! | `signatures` | of `origin`: ed25519 over the canonical JSON of all the other fields, base64 by key id, as of any signed JSON |
//!
//! The body of a transaction is that of `PUT /_matrix/federation/v1/send/{txnId}` without `origin`: `origin_server_ts`, `pdus`,
//! `edus`. The body of a response has `status`, an HTTP status; with 200 `pdus`, for each event an object with an `error` if it was
//! refused; with any other `errcode`, `error` and, where the sender shall wait, `retry_after_ms`.
//!
//! It counts for [`OLDEST`], give or take what clocks may be off: links repeat things, and bring them late. Within that time the
//! same transaction in another envelope takes effect once, by the inbox of transactions.
//!
//! Spec: <https://spec.matrix.org/v1.19/appendices/#signing-json>

use std::{collections::BTreeMap, time::Duration};

use fabric::line::LARGEST;
use model::{Millis, SigningKey};
use peers::{KeyError, KeyRing};
use ruma::{CanonicalJsonValue, OwnedServerName, ServerName, serde::Base64, signatures::KeyPair as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::millis;

/// How long something waits at each of the two brokers at most.
pub(super) const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// An envelope that is older counts for nothing: it may have waited at both brokers.
pub(super) const OLDEST: Duration = Duration::from_secs(2 * 5 * 60);
/// How far another server's clock may be off.
const SKEW: Duration = Duration::from_secs(60);
const TYPE: &str = "org.comity.envelope";
const VERSION: u32 = 1;
const LONGEST_ID: usize = 255;
/// No more signatures of a server are looked at.
const MOST_SIGNATURES: usize = 8;

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Transaction,
    Response,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Response => fabric::line::RESPONSE,
        }
    }
}

/// Why an envelope counts for nothing.
#[derive(Debug)]
pub(super) struct Refused {
    /// One word of a few.
    pub(super) reason: &'static str,
    /// For the operator.
    pub(super) detail: String,
    /// The same may count in a moment: keys could not be had, or the store failed.
    pub(super) may_pass: bool,
}

impl Refused {
    pub(super) fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), may_pass: false }
    }
}

impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Self {
        let may_pass = matches!(error, KeyError::Unavailable { may_pass: true, .. } | KeyError::Store(_));
        Self { reason: error.reason(), detail: error.to_string(), may_pass }
    }
}

/// An envelope as it came: nothing of it is believed yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    pub(super) body: Box<RawValue>,
    pub(super) destination: OwnedServerName,
    pub(super) kind: Kind,
    pub(super) origin: OwnedServerName,
    pub(super) sent_at: Millis,
    pub(super) transaction_id: String,
    r#type: String,
    version: u32,
    signatures: BTreeMap<OwnedServerName, BTreeMap<String, String>>,
}

/// What is signed: in the order of canonical JSON.
#[derive(Serialize)]
struct Signed<'a> {
    body: &'a RawValue,
    destination: &'a ServerName,
    kind: Kind,
    origin: &'a ServerName,
    sent_at: Millis,
    transaction_id: &'a str,
    r#type: &'a str,
    version: u32,
}

/// What is sent.
#[derive(Serialize)]
struct Sealed<'a> {
    #[serde(flatten)]
    signed: &'a Signed<'a>,
    signatures: BTreeMap<&'a ServerName, BTreeMap<&'a str, String>>,
}

/// What is to be sent to whom.
pub(super) struct Letter<'a> {
    pub(super) kind: Kind,
    pub(super) destination: &'a ServerName,
    pub(super) transaction_id: &'a str,
}

impl Letter<'_> {
    /// Puts `body` into an envelope, signed by `key`. Errors: what canonical JSON can't say.
    pub(super) fn seal(&self, body: &impl Serialize, key: &SigningKey, now: Millis) -> Result<Vec<u8>, String> {
        let body = serde_json::to_string(body).map_err(|error| error.to_string())?;
        let body: CanonicalJsonValue = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let body = RawValue::from_string(body.to_string()).map_err(|error| error.to_string())?;
        let signed = Signed {
            body: &body,
            destination: self.destination,
            kind: self.kind,
            origin: key.server_name(),
            sent_at: now,
            transaction_id: self.transaction_id,
            r#type: TYPE,
            version: VERSION,
        };
        let text = serde_json::to_vec(&signed).map_err(|error| error.to_string())?;
        let (_, signature) = key.sign(&text).into_parts();
        let signature: Base64 = Base64::new(signature);
        let signatures = [(key.server_name(), [(key.key_id().as_str(), signature.encode())].into())].into();
        serde_json::to_vec(&Sealed { signed: &signed, signatures }).map_err(|error| error.to_string())
    }
}

impl Envelope {
    /// Reads one. Whose it is is not checked.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > LARGEST {
            return Err(Refused::new("too_large", format!("it is larger than {LARGEST} bytes")));
        }
        let envelope: Self =
            serde_json::from_slice(bytes).map_err(|error| Refused::new("malformed", error.to_string()))?;
        if envelope.r#type != TYPE || envelope.version != VERSION {
            let Self { r#type, version, .. } = &envelope;
            return Err(Refused::new("malformed", format!("it is a {type:?} of version {version}")));
        }
        if !(1..=LONGEST_ID).contains(&envelope.transaction_id.len()) {
            return Err(Refused::new("malformed", "its `transaction_id` is not 1 to 255 bytes long"));
        }
        Ok(envelope)
    }

    /// Refuses what is not from `peer` to `us`, and what is too old or from the future.
    pub(super) fn check(&self, peer: &ServerName, us: &ServerName, now: Millis) -> Result<(), Refused> {
        let Self { origin, destination, sent_at, .. } = self;
        if origin != peer {
            return Err(Refused::new("wrong_origin", format!("it says to be of {origin}, in the queue of {peer}")));
        }
        if destination != us {
            return Err(Refused::new("wrong_destination", format!("it is for {destination}, and this is {us}")));
        }
        if *sent_at > now.saturating_add(millis(SKEW)) {
            return Err(Refused::new("from_the_future", "it was sent later than now: is a clock wrong?"));
        }
        if *sent_at < now.saturating_sub(millis(OLDEST + SKEW)) {
            return Err(Refused::new("expired", "it was sent too long ago, or a clock is wrong"));
        }
        Ok(())
    }

    /// Checks that its origin has signed it, by a key that counts now. The body is then as it was signed: as it came, or, if it
    /// came in another spelling, in the canonical one.
    pub(super) async fn verify(mut self, keys: &KeyRing) -> Result<Self, Refused> {
        let by = self.signed_by()?;
        let mut texts = vec![self.text(&self.body)?];
        let mut canonical = None;
        if let Ok(body) = serde_json::from_str::<CanonicalJsonValue>(self.body.get())
            && let body = body.to_string()
            && body != self.body.get()
        {
            let body = RawValue::from_string(body).map_err(|error| Refused::new("malformed", error.to_string()))?;
            texts.push(self.text(&body)?);
            canonical = Some(body);
        }
        let which = keys.check_texts(&self.origin, &by, texts.iter().map(Vec::as_slice)).await?;
        if which > 0
            && let Some(canonical) = canonical
        {
            self.body = canonical;
        }
        Ok(self)
    }

    /// Reads its body.
    pub(super) fn content<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        serde_json::from_str(self.body.get()).map_err(|error| Refused::new("malformed", format!("its body: {error}")))
    }

    fn text(&self, body: &RawValue) -> Result<Vec<u8>, Refused> {
        let Self { destination, kind, origin, sent_at, transaction_id, .. } = self;
        let (kind, sent_at) = (*kind, *sent_at);
        let signed =
            Signed { body, destination, kind, origin, sent_at, transaction_id, r#type: TYPE, version: VERSION };
        serde_json::to_vec(&signed).map_err(|error| Refused::new("malformed", error.to_string()))
    }

    /// The signatures that there are of its origin; it has none of anybody else.
    fn signed_by(&self) -> Result<Vec<(String, [u8; 64])>, Refused> {
        let unsigned = |detail: &str| Refused::new("unsigned", detail);
        if self.signatures.keys().any(|server| *server != self.origin) {
            return Err(unsigned("it is signed by somebody else"));
        }
        let signatures = self.signatures.get(&self.origin).ok_or_else(|| unsigned("it is not signed"))?;
        let known = signatures.iter().filter(|(key_id, _)| key_id.starts_with("ed25519:")).take(MOST_SIGNATURES);
        let read = known.filter_map(|(key_id, signature)| {
            let signature: Base64 = Base64::parse(signature).ok()?;
            Some((key_id.clone(), signature.as_bytes().try_into().ok()?))
        });
        let read: Vec<_> = read.collect();
        if read.is_empty() { Err(unsigned("it has no signature of ed25519")) } else { Ok(read) }
    }
}

#[cfg(test)]
mod tests {
    use peers::testing::{key_of, knowing};
    use ruma::server_name;
    use serde_json::{Value, json};
    use store::testing::on_each_engine;

    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    fn sealed(body: &Value) -> Value {
        let letter =
            Letter { kind: Kind::Transaction, destination: server_name!("b.test"), transaction_id: "a transaction" };
        let bytes = letter.seal(body, &key_of(server_name!("a.test")), NOW).expect("it is canonical");
        serde_json::from_slice(&bytes).expect("it is JSON")
    }

    /// Whether it is believed as something of `a.test`, and what it says then.
    async fn believed(keys: &KeyRing, envelope: &Value) -> Result<Value, &'static str> {
        let believed = async {
            let envelope = Envelope::read(envelope.to_string().as_bytes())?;
            envelope.check(server_name!("a.test"), server_name!("b.test"), NOW)?;
            envelope.verify(keys).await?.content()
        };
        believed.await.map_err(|refused: Refused| refused.reason)
    }

    #[tokio::test]
    async fn an_envelope_is_believed_as_it_was_signed_and_not_otherwise() {
        on_each_engine(async |store| {
            let peers = knowing(server_name!("b.test"), store, &[server_name!("a.test"), server_name!("c.test")]);
            let keys = peers.keys();
            let body = json!({ "pdus": [{ "depth": 12, "type": "x" }], "origin_server_ts": 1 });
            let envelope = sealed(&body);
            assert_eq!(believed(keys, &envelope).await, Ok(body));
            let changes = [
                ("body", json!({ "pdus": [] }), "bad_signature"),
                ("kind", json!("response"), "bad_signature"),
                ("transaction_id", json!("another"), "bad_signature"),
                ("transaction_id", json!(""), "malformed"),
                ("sent_at", json!(NOW + 1), "bad_signature"),
                ("sent_at", json!(NOW + 60_001), "from_the_future"),
                ("sent_at", json!(NOW - 11 * 60_000 - 1), "expired"),
                ("origin", json!("c.test"), "wrong_origin"),
                ("destination", json!("c.test"), "wrong_destination"),
                ("type", json!("m.room.message"), "malformed"),
                ("version", json!(2), "malformed"),
                ("more", json!(1), "malformed"),
                ("signatures", json!({}), "unsigned"),
                ("signatures", json!({ "a.test": {} }), "unsigned"),
                ("signatures", json!({ "a.test": { "ed25519:test": "AAAA" } }), "unsigned"),
                ("signatures", json!({ "c.test": envelope["signatures"]["a.test"].clone() }), "unsigned"),
            ];
            for (field, value, reason) in changes {
                let mut changed = envelope.clone();
                changed[field] = value.clone();
                assert_eq!(believed(keys, &changed).await, Err(reason), "{field} as {value}");
            }
            Ok::<_, store::Error>(())
        })
        .await;
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let large = vec![b' '; LARGEST + 1];
        for (bytes, reason) in
            [(&b""[..], "malformed"), (b"{}", "malformed"), (b"\xff\x00", "malformed"), (&large, "too_large")]
        {
            let refused = Envelope::read(bytes).expect_err("it is none");
            assert_eq!(refused.reason, reason);
        }
    }
}
