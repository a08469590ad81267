//! Sign-in by other providers: attempts that are under way, and whose accounts are whose.

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Store, Table, Write, args};

/// A sign-in that is under way at a provider.
#[derive(Clone, Debug)]
pub struct SsoLoginRow {
    /// The id of the provider in the configuration.
    pub provider: String,
    /// What its ID token must repeat.
    pub nonce: String,
    /// Of PKCE towards the provider, sealed.
    pub verifier: String,
    /// The hash of the cookie of the browser that has begun it.
    pub browser_hash: String,
    /// What it is for, in JSON.
    pub goal: String,
    /// Until when it may come back.
    pub expires_at: Millis,
}

static LOGINS: Table = Table {
    insert: "INSERT INTO sso_logins (hash, provider, nonce, verifier, browser_hash, goal, expires_at)",
    columns: 7,
    conflict: "",
    key: 0,
};

static LINKS: Table =
    Table { insert: "INSERT INTO sso_links (issuer, subject, user_id, linked_at)", columns: 4, conflict: "", key: 0 };

/// Adds a sign-in, and forgets those that have expired.
pub fn insert_login(write: &mut Write, hash: &str, login: &SsoLoginRow, now: Millis) {
    let SsoLoginRow { provider, nonce, verifier, browser_hash, goal, expires_at } = login;
    write.run("DELETE FROM sso_logins WHERE expires_at < $1", args![now]);
    let (provider, nonce, verifier) = (provider.as_str(), nonce.as_str(), verifier.as_str());
    write.insert(&LOGINS, args![hash, provider, nonce, verifier, browser_hash.as_str(), goal.as_str(), *expires_at]);
}

/// Uses a sign-in for the attempt `claim`, if none has and the browser is the one: see [`Sso::login_of`].
pub fn claim_login(write: &mut Write, hash: &str, browser_hash: &str, claim: &str, now: Millis) {
    const CLAIM: &str = "
        UPDATE sso_logins
        SET claim = $3
        WHERE hash = $1 AND browser_hash = $2 AND claim IS NULL AND expires_at > $4";
    write.run(CLAIM, args![hash, browser_hash, claim, now]);
}

/// Says whose account is whose. The write fails with [`Error::Duplicate`] where that was said before.
pub fn insert_link(write: &mut Write, issuer: &str, subject: &str, user_id: &UserId, now: Millis) {
    write.insert(&LINKS, args![issuer, subject, user_id.as_str(), now]);
}

/// Reads sign-ins by other providers.
pub struct Sso<'a>(&'a Store);

impl Store {
    /// Reads sign-ins by other providers.
    pub fn sso(&self) -> Sso<'_> {
        Sso(self)
    }
}

impl Sso<'_> {
    /// The sign-in that the attempt `claim` has used.
    pub async fn login_of(&self, hash: &str, claim: &str) -> Result<Option<SsoLoginRow>, Error> {
        const FIND: &str = "
            SELECT provider, nonce, verifier, browser_hash, goal, expires_at
            FROM sso_logins
            WHERE hash = $1 AND claim = $2";
        let rows = self.0.query(FIND, args![hash, claim]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(SsoLoginRow {
            provider: row.text(0)?,
            nonce: row.text(1)?,
            verifier: row.text(2)?,
            browser_hash: row.text(3)?,
            goal: row.text(4)?,
            expires_at: row.int(5)?,
        }))
    }

    /// Whose account is that of somebody whom a provider knows.
    pub async fn linked(&self, issuer: &str, subject: &str) -> Result<Option<OwnedUserId>, Error> {
        const FIND: &str = "SELECT user_id FROM sso_links WHERE issuer = $1 AND subject = $2";
        self.0.query(FIND, args![issuer, subject]).await?.first().map(|row| row.parse(0)).transpose()
    }

    /// Whether somebody of a provider has this account.
    pub async fn has_link(&self, issuer: &str, user_id: &UserId) -> Result<bool, Error> {
        const FIND: &str = "SELECT subject FROM sso_links WHERE issuer = $1 AND user_id = $2 LIMIT 1";
        Ok(!self.0.query(FIND, args![issuer, user_id.as_str()]).await?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_sign_in_comes_back_once_in_time_and_to_its_browser() {
        on_each_engine(async |store| {
            let login = SsoLoginRow {
                provider: "p".into(),
                nonce: "n".into(),
                verifier: "v".into(),
                browser_hash: "b".into(),
                goal: "{}".into(),
                expires_at: 10,
            };
            let mut write = Write::new();
            insert_login(&mut write, "h", &login, 1);
            insert_login(&mut write, "late", &login, 1);
            claim_login(&mut write, "h", "another", "stolen", 5);
            claim_login(&mut write, "h", "b", "first", 5);
            claim_login(&mut write, "h", "b", "second", 5);
            claim_login(&mut write, "late", "b", "late", 10);
            store.commit(write).await?;
            assert!(store.sso().login_of("h", "stolen").await?.is_none());
            assert!(store.sso().login_of("h", "first").await?.is_some());
            assert!(store.sso().login_of("h", "second").await?.is_none());
            assert!(store.sso().login_of("late", "late").await?.is_none());
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn somebody_has_one_account() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let link = async |user_id| {
                let mut write = Write::new();
                insert_link(&mut write, "https://i.test", "s", user_id, 1);
                store.commit(write).await
            };
            link(alice).await?;
            assert!(matches!(link(bob).await, Err(Error::Duplicate)));
            assert_eq!(store.sso().linked("https://i.test", "s").await?.as_deref(), Some(alice));
            assert_eq!(store.sso().linked("https://j.test", "s").await?, None);
            assert!(store.sso().has_link("https://i.test", alice).await?);
            assert!(!store.sso().has_link("https://i.test", bob).await?);
            Ok::<_, Error>(())
        })
        .await;
    }
}
