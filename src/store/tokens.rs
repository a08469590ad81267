//! What opens a session: access tokens, refresh tokens, login tokens; and the stages of an authentication in progress.
//!
//! Only hashes of tokens are stored.

use model::Millis;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args};

/// Who an access token stands for.
#[derive(Clone, Debug)]
pub struct AccessTokenRow {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// When it stops working.
    pub expires_at: Option<Millis>,
    /// The refresh token that was issued with it.
    pub refresh_hash: Option<String>,
    /// The user administrates this server.
    pub is_admin: bool,
    /// The application that has opened the session, instead of the user.
    pub app_key: Option<String>,
    /// The user may do nothing but log out.
    pub is_locked: bool,
}

/// Who a refresh token stands for.
#[derive(Clone, Debug)]
pub struct RefreshTokenRow {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The how-manieth of its family it is; 0: it was given out before there were families.
    pub generation: i64,
    /// When the session ends in any case.
    pub ends_at: Option<Millis>,
}

/// Where a refresh token stands among those of its session.
#[derive(Clone, Copy, Debug)]
pub struct Descent<'a> {
    /// The hash of the family's name.
    pub family: &'a str,
    /// The how-manieth of the family, from 1 on.
    pub generation: i64,
}

/// A refreshed pair: what replaces the refresh token `old`.
#[derive(Debug)]
pub struct Refreshed<'a> {
    /// The hash of the refresh token that was shown.
    pub old: &'a str,
    /// The hash of its successor.
    pub refresh: &'a str,
    /// Where the successor stands.
    pub descent: Descent<'a>,
    /// The hash of the new access token.
    pub access: &'a str,
    /// Now.
    pub now: Millis,
    /// When the new access token stops working.
    pub expires_at: Millis,
}

static ACCESS_TOKENS: Table = Table {
    insert: "INSERT INTO access_tokens (hash, user_id, device_id, created_at, expires_at, refresh_hash)",
    columns: 6,
    conflict: "",
    key: 0,
};

static REFRESH_TOKENS: Table = Table {
    insert: "INSERT INTO refresh_tokens (hash, user_id, device_id, created_at, family, generation)",
    columns: 6,
    conflict: "",
    key: 0,
};

/// Adds an access token.
pub fn insert_access_token(
    write: &mut Write,
    hash: &str,
    user_id: &UserId,
    device_id: &DeviceId,
    now: Millis,
    expires_at: Option<Millis>,
    refresh_hash: Option<&str>,
) {
    write.insert(&ACCESS_TOKENS, args![hash, user_id.as_str(), device_id.as_str(), now, expires_at, refresh_hash]);
}

/// Adds a refresh token.
pub fn insert_refresh_token(
    write: &mut Write,
    hash: &str,
    user_id: &UserId,
    device_id: &DeviceId,
    now: Millis,
    descent: Descent<'_>,
) {
    let Descent { family, generation } = descent;
    write.insert(&REFRESH_TOKENS, args![hash, user_id.as_str(), device_id.as_str(), now, family, generation]);
}

/// Removes the tokens of a device that signs in anew.
pub fn remove_tokens_of_device(write: &mut Write, user_id: &UserId, device_id: &DeviceId) {
    for delete in [
        "DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM oauth_sessions WHERE user_id = $1 AND device_id = $2",
    ] {
        write.run(delete, args![user_id.as_str(), device_id.as_str()]);
    }
}

/// Issues a successor to a refresh token. What was issued for it before, and never used, goes. Does nothing where the
/// old token is gone meanwhile: see whether the new one is there.
pub fn refresh(write: &mut Write, pair: &Refreshed<'_>) {
    const FORGET_ACCESS: &str = "
        DELETE FROM access_tokens
        WHERE refresh_hash = (SELECT next_hash FROM refresh_tokens WHERE hash = $1)";
    const FORGET_REFRESH: &str = "
        DELETE FROM refresh_tokens
        WHERE hash = (SELECT next_hash FROM refresh_tokens WHERE hash = $1)";
    const ACCESS: &str = "
        INSERT INTO access_tokens (hash, user_id, device_id, created_at, expires_at, refresh_hash)
        SELECT $2, user_id, device_id, $3, $4, $5
        FROM refresh_tokens
        WHERE hash = $1";
    const REFRESH: &str = "
        INSERT INTO refresh_tokens (hash, user_id, device_id, created_at, family, generation)
        SELECT $2, user_id, device_id, $3, $4, $5
        FROM refresh_tokens
        WHERE hash = $1";
    const CHAIN: &str = "UPDATE refresh_tokens SET next_hash = $2 WHERE hash = $1";

    write.run(FORGET_ACCESS, args![pair.old]);
    write.run(FORGET_REFRESH, args![pair.old]);
    write.run(ACCESS, args![pair.old, pair.access, pair.now, pair.expires_at, pair.refresh]);
    let Descent { family, generation } = pair.descent;
    write.run(REFRESH, args![pair.old, pair.refresh, pair.now, family, generation]);
    write.run(CHAIN, args![pair.old, pair.refresh]);
}

/// The pair around the refresh token `hash` has been used: the one before it goes, with its access token.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>
pub fn retire_predecessor(write: &mut Write, hash: &str) {
    const ACCESS: &str = "
        DELETE FROM access_tokens
        WHERE refresh_hash IN (SELECT hash FROM refresh_tokens WHERE next_hash = $1)";
    write.run(ACCESS, args![hash]);
    write.run("DELETE FROM refresh_tokens WHERE next_hash = $1", args![hash]);
}

/// Adds a login token, and forgets those that have expired.
pub fn insert_login_token(write: &mut Write, hash: &str, user_id: &UserId, now: Millis, expires_at: Millis) {
    const INSERT: &str = "INSERT INTO login_tokens (hash, user_id, expires_at) VALUES ($1, $2, $3)";
    write.run("DELETE FROM login_tokens WHERE expires_at < $1", args![now]);
    write.run(INSERT, args![hash, user_id.as_str(), expires_at]);
}

/// Uses a login token for the attempt `claim`, if nobody has before: see [`Tokens::login_token_of`].
pub fn claim_login_token(write: &mut Write, hash: &str, claim: &str, now: Millis) {
    const CLAIM: &str = "UPDATE login_tokens SET claim = $2 WHERE hash = $1 AND claim IS NULL AND expires_at >= $3";
    write.run(CLAIM, args![hash, claim, now]);
}

/// Notes that a stage of an authentication is done, and forgets what is older than `before`.
pub fn complete_uia_stage(write: &mut Write, session: &str, stage: &str, now: Millis, before: Millis) {
    const COMPLETE: &str = "
        INSERT INTO uia_stages (session, stage, completed_at)
        VALUES ($1, $2, $3)
        ON CONFLICT (session, stage) DO NOTHING";
    write.run("DELETE FROM uia_stages WHERE completed_at < $1", args![before]);
    write.run(COMPLETE, args![session, stage, now]);
}

/// Reads tokens.
pub struct Tokens<'a>(&'a Store);

impl Store {
    /// Reads tokens.
    pub fn tokens(&self) -> Tokens<'_> {
        Tokens(self)
    }
}

impl Tokens<'_> {
    /// Who the access token with this hash stands for.
    pub async fn find_access_token(&self, hash: &str) -> Result<Option<AccessTokenRow>, Error> {
        const FIND: &str = "
            SELECT t.user_id, t.device_id, t.expires_at, t.refresh_hash, a.admin_since, d.app_key, a.locked_at
            FROM access_tokens t
            JOIN accounts a ON a.user_id = t.user_id
            LEFT JOIN devices d ON d.user_id = t.user_id AND d.device_id = t.device_id
            WHERE t.hash = $1 AND a.deactivated_at IS NULL";
        let rows = self.0.query(FIND, args![hash]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(AccessTokenRow {
            user_id: row.parse(0)?,
            device_id: row.text(1)?.into(),
            expires_at: row.opt_int(2)?,
            refresh_hash: row.opt_text(3)?,
            is_admin: row.opt_int(4)?.is_some(),
            app_key: row.opt_text(5)?,
            is_locked: row.opt_int(6)?.is_some(),
        }))
    }

    /// Whether there is an older refresh token that the one with this hash is to replace.
    pub async fn has_predecessor(&self, refresh_hash: &str) -> Result<bool, Error> {
        const FIND: &str = "SELECT hash FROM refresh_tokens WHERE next_hash = $1 LIMIT 1";
        Ok(!self.0.query(FIND, args![refresh_hash]).await?.is_empty())
    }

    /// Who the refresh token with this hash stands for.
    pub async fn find_refresh_token(&self, hash: &str) -> Result<Option<RefreshTokenRow>, Error> {
        const FIND: &str = "
            SELECT r.user_id, r.device_id, COALESCE(r.generation, 0), d.ends_at
            FROM refresh_tokens r
            LEFT JOIN devices d ON d.user_id = r.user_id AND d.device_id = r.device_id
            WHERE r.hash = $1";
        self.0.query(FIND, args![hash]).await?.first().map(refresh_token).transpose()
    }

    /// The youngest refresh token of the family with this hash.
    pub async fn youngest_of(&self, family: &str) -> Result<Option<RefreshTokenRow>, Error> {
        const FIND: &str = "
            SELECT r.user_id, r.device_id, r.generation, d.ends_at
            FROM refresh_tokens r
            LEFT JOIN devices d ON d.user_id = r.user_id AND d.device_id = r.device_id
            WHERE r.family = $1
            ORDER BY r.generation DESC
            LIMIT 1";
        self.0.query(FIND, args![family]).await?.first().map(refresh_token).transpose()
    }

    /// Whose login token the attempt `claim` has used.
    pub async fn login_token_of(&self, hash: &str, claim: &str) -> Result<Option<OwnedUserId>, Error> {
        const FIND: &str = "SELECT user_id FROM login_tokens WHERE hash = $1 AND claim = $2";
        self.0.query(FIND, args![hash, claim]).await?.first().map(|row| row.parse(0)).transpose()
    }

    /// How many access tokens a user has.
    pub async fn count_access_tokens(&self, user_id: &UserId) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM access_tokens WHERE user_id = $1";
        let rows = self.0.query(COUNT, args![user_id.as_str()]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }

    /// The stages of an authentication that are done.
    pub async fn uia_stages(&self, session: &str) -> Result<Vec<String>, Error> {
        const STAGES: &str = "SELECT stage FROM uia_stages WHERE session = $1 ORDER BY completed_at, stage";
        self.0.query(STAGES, args![session]).await?.iter().map(|row| row.text(0)).collect()
    }
}

fn refresh_token(row: &Row) -> Result<RefreshTokenRow, Error> {
    Ok(RefreshTokenRow {
        user_id: row.parse(0)?,
        device_id: row.text(1)?.into(),
        generation: row.int(2)?,
        ends_at: row.opt_int(3)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::{
        accounts::{AccountRow, insert_account},
        testing::on_each_engine,
    };

    fn pair<'a>(old: &'a str, refresh: &'a str, access: &'a str) -> Refreshed<'a> {
        let descent = Descent { family: "f", generation: 2 };
        Refreshed { old, refresh, descent, access, now: 2, expires_at: 9 }
    }

    #[tokio::test]
    async fn a_refresh_token_lives_until_what_replaces_it_is_used() {
        on_each_engine(async |store| {
            let (alice, phone) = (user_id!("@alice:a.test"), device_id!("PHONE"));
            let mut write = Write::new();
            let account = AccountRow {
                user_id: alice.to_owned(),
                password_hash: None,
                created_at: 1,
                admin_since: Some(1),
                deactivated_at: None,
            };
            insert_account(&mut write, &account);
            insert_access_token(&mut write, "a1", alice, phone, 1, Some(5), Some("r1"));
            insert_refresh_token(&mut write, "r1", alice, phone, 1, Descent { family: "f", generation: 1 });
            store.commit(write).await?;

            // The answer to the first attempt was lost; the client asks again.
            for (next_refresh, next_access) in [("r2", "a2"), ("r3", "a3")] {
                let mut write = Write::new();
                refresh(&mut write, &pair("r1", next_refresh, next_access));
                store.commit(write).await?;
            }
            assert!(store.tokens().find_access_token("a2").await?.is_none());
            let found = store.tokens().find_access_token("a3").await?.expect("the last one issued works");
            assert!(found.is_admin);
            assert!(store.tokens().find_refresh_token("r1").await?.is_some());
            assert!(store.tokens().has_predecessor("r3").await?);
            let youngest = store.tokens().youngest_of("f").await?.expect("the family is there");
            assert_eq!((youngest.device_id.as_str(), youngest.generation), ("PHONE", 2));
            assert!(store.tokens().youngest_of("g").await?.is_none());

            let mut write = Write::new();
            retire_predecessor(&mut write, "r3");
            store.commit(write).await?;
            assert!(store.tokens().find_refresh_token("r1").await?.is_none());
            assert!(store.tokens().find_access_token("a1").await?.is_none());
            assert!(store.tokens().find_refresh_token("r3").await?.is_some());

            let mut write = Write::new();
            refresh(&mut write, &pair("r1", "r4", "a4"));
            store.commit(write).await?;
            assert!(store.tokens().find_refresh_token("r4").await?.is_none());
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_login_token_is_used_once() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let mut write = Write::new();
            insert_login_token(&mut write, "l1", alice, 1, 10);
            insert_login_token(&mut write, "l2", alice, 1, 3);
            claim_login_token(&mut write, "l1", "first", 5);
            claim_login_token(&mut write, "l1", "second", 5);
            claim_login_token(&mut write, "l2", "late", 5);
            store.commit(write).await?;
            assert_eq!(store.tokens().login_token_of("l1", "first").await?.as_deref(), Some(alice));
            assert_eq!(store.tokens().login_token_of("l1", "second").await?, None);
            assert_eq!(store.tokens().login_token_of("l2", "late").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
