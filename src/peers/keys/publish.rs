//! What this server says of keys: of its own, and, as a notary, of those of others.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#publishing-keys>

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use model::{Millis, SigningKey};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    serde::Base64,
    signatures::{JsonError, sign_json},
};
use serde_json::value::RawValue;
use tracing::error;

use super::{KeyError, KeyRing};

/// How long others may go on without asking again.
const VALIDITY: Millis = 24 * 60 * 60_000;
/// How long the text of it is used.
const RENDERED_FOR: Millis = 60 * 60_000;
/// How many servers are asked at once for one who asks us.
const SIDE_BY_SIDE: usize = 8;

/// What was rendered, and when.
pub(super) struct Published {
    at: Millis,
    json: Arc<str>,
}

/// Whose keys a notary is asked for.
#[derive(Clone, Debug)]
pub struct NotaryWish {
    /// Whose.
    pub server: OwnedServerName,
    /// Until when they should count at least.
    pub minimum_valid_until: Millis,
}

impl KeyRing {
    /// The keys of this server, signed by the one in use and by the one before it: what `GET /_matrix/key/v2/server` answers.
    pub fn published(&self) -> Result<Arc<str>, KeyError> {
        let now = self.now();
        let mut published = self.shared.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(Published { at, json }) = &*published
            && (*at..*at + RENDERED_FOR).contains(&now)
        {
            return Ok(json.clone());
        }
        let json: Arc<str> = self.render(now)?.into();
        *published = Some(Published { at: now, json: json.clone() });
        Ok(json)
    }

    fn render(&self, now: Millis) -> Result<String, KeyError> {
        let key = &self.shared.key;
        let listed = |public_key: [u8; 32]| {
            let text: Base64<ruma::serde::base64::Standard, [u8; 32]> = Base64::new(public_key);
            CanonicalJsonObject::from([("key".to_owned(), text.encode().into())])
        };
        let current = [(key.key_id().to_string(), listed(key.public_key()).into())];
        let old = self.shared.retired.iter().map(|old| {
            let mut listed = listed(old.public_key);
            listed.insert("expired_ts".to_owned(), time(old.expired_at));
            (old.key_id.clone(), CanonicalJsonValue::Object(listed))
        });
        let mut object = CanonicalJsonObject::from([
            ("server_name".to_owned(), key.server_name().as_str().into()),
            ("verify_keys".to_owned(), CanonicalJsonObject::from(current).into()),
            ("old_verify_keys".to_owned(), old.collect::<CanonicalJsonObject>().into()),
            ("valid_until_ts".to_owned(), time(now + VALIDITY)),
        ]);
        self.sign(&mut object)?;
        // Who is pinned to the old key sees by this that it was us who changed it. Others look at the keys in use only.
        if let Some(previous) = &self.shared.previous {
            sign_by(previous, &mut object)?;
        }
        Ok(CanonicalJsonValue::Object(object).to_string())
    }

    /// What those servers say of their keys, as far as it can be had, with our signature beside theirs.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>
    pub async fn vouch(&self, wishes: Vec<NotaryWish>) -> Result<Vec<Box<RawValue>>, KeyError> {
        let answers: Vec<Result<Option<String>, KeyError>> = stream::iter(wishes)
            .map(|wish| async move { self.vouch_for(&wish).await })
            .buffered(SIDE_BY_SIDE)
            .collect()
            .await;
        let mut vouched = Vec::with_capacity(answers.len());
        for answer in answers {
            if let Some(json) = answer? {
                vouched.push(RawValue::from_string(json).map_err(|error| KeyError::Malformed(error.to_string()))?);
            }
        }
        Ok(vouched)
    }

    async fn vouch_for(&self, wish: &NotaryWish) -> Result<Option<String>, KeyError> {
        if wish.server == self.shared.key.server_name() {
            return Ok(Some(self.published()?.to_string()));
        }
        let keys = self.shared.store.server_keys();
        let mut answer = keys.answer(&wish.server).await?;
        if answer.as_ref().is_none_or(|answer| answer.valid_until < wish.minimum_valid_until) {
            self.ask_origin(&wish.server).await;
            answer = keys.answer(&wish.server).await?;
        }
        let Some(answer) = answer else { return Ok(None) };
        let mut object: CanonicalJsonObject =
            serde_json::from_str(&answer.json).map_err(|error| KeyError::Malformed(error.to_string()))?;
        self.sign(&mut object)?;
        Ok(Some(CanonicalJsonValue::Object(object).to_string()))
    }

    fn sign(&self, object: &mut CanonicalJsonObject) -> Result<(), KeyError> {
        sign_by(&self.shared.key, object)
    }
}

fn sign_by(key: &SigningKey, object: &mut CanonicalJsonObject) -> Result<(), KeyError> {
    sign_json(key.server_name().as_str(), key, object).map_err(|error: JsonError| {
        error!(error = &error as &dyn std::error::Error, "keys could not be signed");
        KeyError::Malformed(error.to_string())
    })
}

fn time(at: Millis) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(at.try_into().unwrap_or_default())
}
