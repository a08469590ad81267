//! What a reader of the directory is given to go on from: where the walk is, and when it was begun, sealed.
//!
//! Sealed, since whoever could say when a walk was begun would be told who was taken out of the directory before. A token of
//! another deployment, of another reader, or of a database that is no more counts as none: then the walk begins anew.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::Position;
use ruma::ServerName;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use store::{Store, Write, accounts::offer_secret, directory::Place};

/// What the key is called in the store.
const SECRET: &str = "cascade";
/// No token is longer.
pub(super) const MAX_TOKEN: usize = 1_000;
/// How much of the seal is told.
const SEAL: usize = 16;

/// Where a walk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// The position at which it was begun.
    pub(super) began: Position,
    /// The last entry that was told.
    pub(super) place: Place,
}

#[derive(Serialize, Deserialize)]
struct Written(i64, i64, String);

/// Seals and opens tokens. All nodes have the same key.
pub(super) struct Tokens(Vec<u8>);

impl Tokens {
    pub(super) async fn open(store: &Store) -> Result<Self, store::Error> {
        let mut stored = store.accounts().secret(SECRET).await?;
        if stored.is_none() {
            let mut write = Write::new();
            offer_secret(&mut write, SECRET, &URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
            store.commit(write).await?;
            stored = store.accounts().secret(SECRET).await?;
        }
        let text = stored.ok_or_else(|| store::Error::Corrupt("a secret does not stay".into()))?;
        let key = URL_SAFE_NO_PAD.decode(text).map_err(|_| store::Error::Corrupt("a secret is not base64".into()))?;
        Ok(Self(key))
    }

    /// The token by which `reader` goes on.
    pub(super) fn seal(&self, reader: &ServerName, walk: &Walk) -> String {
        let Place { position, entry } = &walk.place;
        let text = serde_json::to_string(&Written(walk.began.0, position.0, entry.clone())).unwrap_or_default();
        let text = URL_SAFE_NO_PAD.encode(text);
        let seal = self.mac(reader, &text).finalize().into_bytes();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(&seal[..SEAL]))
    }

    /// Where `reader` is, if this server has told it so.
    pub(super) fn unseal(&self, reader: &ServerName, token: &str) -> Option<Walk> {
        let (text, seal) = token.split_once('.').filter(|_| token.len() <= MAX_TOKEN)?;
        let seal = URL_SAFE_NO_PAD.decode(seal).ok().filter(|seal| seal.len() == SEAL)?;
        self.mac(reader, text).verify_truncated_left(&seal).ok()?;
        let Written(began, position, entry) = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        Some(Walk { began: Position(began), place: Place { position: Position(position), entry } })
    }

    fn mac(&self, reader: &ServerName, text: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // There are no spaces in the names of servers.
        mac.update(format!("{reader} {text}").as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_token_is_good_for_its_reader_as_it_was_told() {
        let (tokens, b) = (Tokens(vec![7; 32]), server_name!("b.test"));
        let walk = Walk { began: Position(9), place: Place { position: Position(5), entry: "@alice:a.test".into() } };
        let token = tokens.seal(b, &walk);
        assert_eq!(tokens.unseal(b, &token), Some(walk.clone()));
        assert_eq!(tokens.unseal(server_name!("c.test"), &token), None);
        assert_eq!(Tokens(vec![8; 32]).unseal(b, &token), None);
        let (text, seal) = token.split_once('.').expect("it is sealed");
        let earlier = URL_SAFE_NO_PAD.encode(r#"[0,5,"@alice:a.test"]"#);
        for forged in
            [format!("{earlier}.{seal}"), format!("{text}."), format!("{text}.AAAA"), text.to_owned(), ".".into()]
        {
            assert_eq!(tokens.unseal(b, &forged), None, "{forged}");
        }
    }
}
