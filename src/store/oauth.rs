//! The OAuth 2.0 API: clients, authorization codes, and the sessions that came of them.

use model::Millis;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args};

/// An authorization code.
#[derive(Clone, Debug)]
pub struct CodeRow {
    /// Whom it was given.
    pub client_id: String,
    /// Who has allowed it.
    pub user_id: OwnedUserId,
    /// The device that the session will have.
    pub device_id: OwnedDeviceId,
    /// Where it was sent.
    pub redirect_uri: String,
    /// What was allowed.
    pub scope: String,
    /// Of PKCE, S256.
    pub challenge: String,
    /// Until when it is good.
    pub expires_at: Millis,
    /// The attempt that has used it.
    pub claim: Option<String>,
    /// When it came once more after that.
    pub replayed_at: Option<Millis>,
}

/// A session that was opened by the OAuth 2.0 API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OauthSessionRow {
    /// Its device.
    pub device_id: OwnedDeviceId,
    /// By which client.
    pub client_id: String,
    /// What it may do.
    pub scope: String,
}

static CLIENTS: Table = Table {
    insert: "INSERT INTO oauth_clients (client_id, metadata, created_at, used_at)",
    columns: 4,
    conflict: "ON CONFLICT (client_id) DO UPDATE SET used_at = excluded.used_at",
    key: 1,
};

static CODES: Table = Table {
    insert: "INSERT INTO oauth_codes (hash, client_id, user_id, device_id, redirect_uri, scope, challenge, expires_at)",
    columns: 8,
    conflict: "",
    key: 0,
};

static SESSIONS: Table = Table {
    insert: "INSERT INTO oauth_sessions (user_id, device_id, client_id, scope, opened_at)",
    columns: 5,
    conflict: "ON CONFLICT (user_id, device_id) DO UPDATE SET client_id = excluded.client_id, scope = excluded.scope, \
        opened_at = excluded.opened_at",
    key: 2,
};

/// Adds a client, or notes that it is there once more; and forgets those of which nobody has heard since `unused_since` and that have no
/// session.
pub fn put_client(write: &mut Write, client_id: &str, metadata: &str, now: Millis, unused_since: Millis) {
    const FORGET: &str = "
        DELETE FROM oauth_clients
        WHERE used_at < $1
            AND NOT EXISTS (SELECT 1 FROM oauth_sessions s WHERE s.client_id = oauth_clients.client_id)";
    write.run(FORGET, args![unused_since]);
    write.insert(&CLIENTS, args![client_id, metadata, now, now]);
}

/// Notes that somebody has allowed a client something.
pub fn touch_client(write: &mut Write, client_id: &str, now: Millis) {
    write.run("UPDATE oauth_clients SET used_at = $2 WHERE client_id = $1", args![client_id, now]);
}

/// Adds an authorization code, and forgets those that had expired before `before`.
pub fn insert_code(write: &mut Write, hash: &str, code: &CodeRow, before: Millis) {
    write.run("DELETE FROM oauth_codes WHERE expires_at < $1", args![before]);
    let (user_id, device_id) = (code.user_id.as_str(), code.device_id.as_str());
    let row = args![
        hash,
        code.client_id.as_str(),
        user_id,
        device_id,
        code.redirect_uri.as_str(),
        code.scope.as_str(),
        code.challenge.as_str(),
        code.expires_at
    ];
    write.insert(&CODES, row);
}

/// Uses a code for the attempt `claim`; if another attempt has, notes that it came again. See [`Oauth::code`].
pub fn claim_code(write: &mut Write, hash: &str, claim: &str, now: Millis) {
    write.run("UPDATE oauth_codes SET replayed_at = $2 WHERE hash = $1 AND claim IS NOT NULL", args![hash, now]);
    write.run("UPDATE oauth_codes SET claim = $2 WHERE hash = $1 AND claim IS NULL", args![hash, claim]);
}

/// Notes by which client a session is opened, after the tokens of the device's session before have gone.
pub fn insert_session(write: &mut Write, user_id: &UserId, session: &OauthSessionRow, now: Millis) {
    let OauthSessionRow { device_id, client_id, scope } = session;
    write.insert(&SESSIONS, args![user_id.as_str(), device_id.as_str(), client_id.as_str(), scope.as_str(), now]);
}

/// Lets the clients of a user replace the cross-signing keys until then.
pub fn allow_key_reset(write: &mut Write, user_id: &UserId, until: Millis, now: Millis) {
    const ALLOW: &str = "
        INSERT INTO signing_key_resets (user_id, until)
        VALUES ($1, $2)
        ON CONFLICT (user_id) DO UPDATE SET until = excluded.until";
    write.run("DELETE FROM signing_key_resets WHERE until < $1", args![now]);
    write.run(ALLOW, args![user_id.as_str(), until]);
}

/// Reads what the OAuth 2.0 API knows.
pub struct Oauth<'a>(&'a Store);

impl Store {
    /// Reads what the OAuth 2.0 API knows.
    pub fn oauth(&self) -> Oauth<'_> {
        Oauth(self)
    }
}

impl Oauth<'_> {
    /// The metadata of a client, in JSON.
    pub async fn client(&self, client_id: &str) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT metadata FROM oauth_clients WHERE client_id = $1";
        self.0.query(FIND, args![client_id]).await?.first().map(|row| row.text(0)).transpose()
    }

    /// An authorization code, also one that is good no more.
    pub async fn code(&self, hash: &str) -> Result<Option<CodeRow>, Error> {
        const FIND: &str = "
            SELECT client_id, user_id, device_id, redirect_uri, scope, challenge, expires_at, claim, replayed_at
            FROM oauth_codes
            WHERE hash = $1";
        self.0.query(FIND, args![hash]).await?.first().map(code).transpose()
    }

    /// By which client a session was opened, if by one.
    pub async fn session(&self, user_id: &UserId, device_id: &DeviceId) -> Result<Option<OauthSessionRow>, Error> {
        const FIND: &str = "
            SELECT device_id, client_id, scope
            FROM oauth_sessions
            WHERE user_id = $1 AND device_id = $2";
        self.0.query(FIND, args![user_id.as_str(), device_id.as_str()]).await?.first().map(session).transpose()
    }

    /// All sessions of a user that were opened by the OAuth 2.0 API.
    pub async fn sessions(&self, user_id: &UserId) -> Result<Vec<OauthSessionRow>, Error> {
        const LIST: &str = "
            SELECT device_id, client_id, scope
            FROM oauth_sessions
            WHERE user_id = $1
            ORDER BY device_id";
        self.0.query(LIST, args![user_id.as_str()]).await?.iter().map(session).collect()
    }

    /// Whether the clients of a user may replace the cross-signing keys now.
    pub async fn may_reset_keys(&self, user_id: &UserId, now: Millis) -> Result<bool, Error> {
        const FIND: &str = "SELECT until FROM signing_key_resets WHERE user_id = $1 AND until > $2";
        Ok(!self.0.query(FIND, args![user_id.as_str(), now]).await?.is_empty())
    }
}

fn code(row: &Row) -> Result<CodeRow, Error> {
    Ok(CodeRow {
        client_id: row.text(0)?,
        user_id: row.parse(1)?,
        device_id: row.text(2)?.into(),
        redirect_uri: row.text(3)?,
        scope: row.text(4)?,
        challenge: row.text(5)?,
        expires_at: row.int(6)?,
        claim: row.opt_text(7)?,
        replayed_at: row.opt_int(8)?,
    })
}

fn session(row: &Row) -> Result<OauthSessionRow, Error> {
    Ok(OauthSessionRow { device_id: row.text(0)?.into(), client_id: row.text(1)?, scope: row.text(2)? })
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::{devices::remove_device, testing::on_each_engine};

    #[tokio::test]
    async fn a_code_is_claimed_once_and_remembers_that_it_came_again() {
        on_each_engine(async |store| {
            let code = CodeRow {
                client_id: "c".into(),
                user_id: user_id!("@alice:a.test").to_owned(),
                device_id: device_id!("PHONE").to_owned(),
                redirect_uri: "https://c.test/".into(),
                scope: "s".into(),
                challenge: "x".into(),
                expires_at: 10,
                claim: None,
                replayed_at: None,
            };
            let mut write = Write::new();
            insert_code(&mut write, "h", &code, 0);
            claim_code(&mut write, "h", "first", 5);
            store.commit(write).await?;
            let found = store.oauth().code("h").await?.expect("it is there");
            assert_eq!((found.claim.as_deref(), found.replayed_at), (Some("first"), None));

            let mut write = Write::new();
            claim_code(&mut write, "h", "second", 6);
            store.commit(write).await?;
            let found = store.oauth().code("h").await?.expect("it is there");
            assert_eq!((found.claim.as_deref(), found.replayed_at), (Some("first"), Some(6)));

            let mut write = Write::new();
            insert_code(&mut write, "other", &CodeRow { expires_at: 40, ..code }, 11);
            store.commit(write).await?;
            assert!(store.oauth().code("h").await?.is_none(), "it had expired long before");
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_client_stays_while_it_has_a_session() {
        on_each_engine(async |store| {
            let (alice, phone) = (user_id!("@alice:a.test"), device_id!("PHONE"));
            let mut write = Write::new();
            put_client(&mut write, "used", "{}", 1, 0);
            put_client(&mut write, "unused", "{}", 1, 0);
            let opened = OauthSessionRow { device_id: phone.to_owned(), client_id: "used".into(), scope: "s".into() };
            insert_session(&mut write, alice, &opened, 1);
            store.commit(write).await?;
            let forget = async |now| {
                let mut write = Write::new();
                put_client(&mut write, "new", "{}", now, now);
                store.commit(write).await
            };
            forget(5).await?;
            assert!(store.oauth().client("used").await?.is_some());
            assert!(store.oauth().client("unused").await?.is_none());
            assert_eq!(store.oauth().session(alice, phone).await?, Some(opened.clone()));
            assert_eq!(store.oauth().sessions(alice).await?, [opened]);

            let mut write = Write::new();
            remove_device(&mut write, alice, phone);
            store.commit(write).await?;
            assert_eq!(store.oauth().session(alice, phone).await?, None);
            forget(6).await?;
            assert!(store.oauth().client("used").await?.is_none());
            Ok::<_, Error>(())
        })
        .await;
    }
}
