//! Device codes: what a client without a browser shows, until somebody has decided about it in a browser.

use model::Millis;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args};

/// A client that waits for somebody to decide.
#[derive(Clone, Debug)]
pub struct DeviceCodeRow {
    /// The hash of the device code.
    pub hash: String,
    /// Who asks.
    pub client_id: String,
    /// The device that the session will have.
    pub device_id: OwnedDeviceId,
    /// What is asked for.
    pub scope: String,
    /// Until when it is good.
    pub expires_at: Millis,
    /// When the client last asked what became of it; 0: never.
    pub polled_at: Millis,
    /// Who has decided.
    pub user_id: Option<OwnedUserId>,
    /// What was decided.
    pub allowed: Option<bool>,
    /// The attempt that has used it.
    pub claim: Option<String>,
}

static CODES: Table = Table {
    insert: "INSERT INTO oauth_device_codes (hash, user_code_hash, client_id, device_id, scope, expires_at, polled_at)",
    columns: 7,
    conflict: "",
    key: 0,
};

/// Adds a device code, and forgets those that had expired before `before`. The write fails with [`Error::Duplicate`] where another has the
/// user code.
pub fn insert_device_code(write: &mut Write, code: &DeviceCodeRow, user_code_hash: &str, before: Millis) {
    let DeviceCodeRow { hash, client_id, device_id, scope, expires_at, .. } = code;
    write.run("DELETE FROM oauth_device_codes WHERE expires_at < $1", args![before]);
    let (hash, client_id, scope) = (hash.as_str(), client_id.as_str(), scope.as_str());
    write.insert(&CODES, args![hash, user_code_hash, client_id, device_id.as_str(), scope, *expires_at, 0_i64]);
}

/// Notes that the client has asked.
pub fn note_poll(write: &mut Write, hash: &str, now: Millis) {
    write.run("UPDATE oauth_device_codes SET polled_at = $2 WHERE hash = $1", args![hash, now]);
}

/// Decides, if nobody has: see [`OauthDeviceCodes::by_user_code`].
pub fn decide(write: &mut Write, user_code_hash: &str, user_id: &UserId, allowed: bool, now: Millis) {
    const DECIDE: &str = "
        UPDATE oauth_device_codes
        SET user_id = $2, allowed = $3
        WHERE user_code_hash = $1 AND allowed IS NULL AND expires_at > $4";
    write.run(DECIDE, args![user_code_hash, user_id.as_str(), i64::from(allowed), now]);
}

/// Uses a code that was allowed for the attempt `claim`, if none has: see [`OauthDeviceCodes::find`].
pub fn claim_device_code(write: &mut Write, hash: &str, claim: &str) {
    const CLAIM: &str = "
        UPDATE oauth_device_codes
        SET claim = $2
        WHERE hash = $1 AND allowed = 1 AND claim IS NULL";
    write.run(CLAIM, args![hash, claim]);
}

/// Reads device codes.
pub struct OauthDeviceCodes<'a>(&'a Store);

impl Store {
    /// Reads device codes.
    pub fn oauth_device_codes(&self) -> OauthDeviceCodes<'_> {
        OauthDeviceCodes(self)
    }
}

impl OauthDeviceCodes<'_> {
    /// By the hash of the device code.
    pub async fn find(&self, hash: &str) -> Result<Option<DeviceCodeRow>, Error> {
        const FIND: &str = "
            SELECT hash, client_id, device_id, scope, expires_at, polled_at, user_id, allowed, claim
            FROM oauth_device_codes
            WHERE hash = $1";
        self.0.query(FIND, args![hash]).await?.first().map(device_code).transpose()
    }

    /// By the hash of what somebody types.
    pub async fn by_user_code(&self, hash: &str) -> Result<Option<DeviceCodeRow>, Error> {
        const FIND: &str = "
            SELECT hash, client_id, device_id, scope, expires_at, polled_at, user_id, allowed, claim
            FROM oauth_device_codes
            WHERE user_code_hash = $1";
        self.0.query(FIND, args![hash]).await?.first().map(device_code).transpose()
    }
}

fn device_code(row: &Row) -> Result<DeviceCodeRow, Error> {
    let user_id = row.opt_text(6)?.map(|_| row.parse(6)).transpose()?;
    Ok(DeviceCodeRow {
        hash: row.text(0)?,
        client_id: row.text(1)?,
        device_id: row.text(2)?.into(),
        scope: row.text(3)?,
        expires_at: row.int(4)?,
        polled_at: row.int(5)?,
        user_id,
        allowed: row.opt_int(7)?.map(|allowed| allowed != 0),
        claim: row.opt_text(8)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_device_code_is_decided_once_and_used_once() {
        on_each_engine(async |store| {
            let (alice, mallory) = (user_id!("@alice:a.test"), user_id!("@mallory:a.test"));
            let code = DeviceCodeRow {
                hash: "h".into(),
                client_id: "c".into(),
                device_id: device_id!("TV").to_owned(),
                scope: "s".into(),
                expires_at: 10,
                polled_at: 0,
                user_id: None,
                allowed: None,
                claim: None,
            };
            let mut write = Write::new();
            insert_device_code(&mut write, &code, "u", 0);
            claim_device_code(&mut write, "h", "early");
            decide(&mut write, "u", alice, true, 5);
            decide(&mut write, "u", mallory, true, 6);
            note_poll(&mut write, "h", 7);
            claim_device_code(&mut write, "h", "first");
            claim_device_code(&mut write, "h", "second");
            store.commit(write).await?;
            let found = store.oauth_device_codes().by_user_code("u").await?.expect("it is there");
            assert_eq!((found.user_id.as_deref(), found.allowed), (Some(alice), Some(true)));
            assert_eq!((found.claim.as_deref(), found.polled_at), (Some("first"), 7));

            let mut write = Write::new();
            insert_device_code(&mut write, &DeviceCodeRow { hash: "late".into(), ..code }, "v", 0);
            decide(&mut write, "v", alice, true, 10);
            store.commit(write).await?;
            let found = store.oauth_device_codes().find("late").await?.expect("it is there");
            assert_eq!((found.user_id, found.allowed), (None, None));
            Ok::<_, Error>(())
        })
        .await;
    }
}
