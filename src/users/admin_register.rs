//! Making accounts by a shared secret, as existing tools do.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::{NewAccount, NewSession, RegisterError, Users, tokens::NewDevice};

const NONCE_LIFETIME: model::Millis = 60_000;
const PURPOSE: &[&str] = &["admin register"];

/// What a tool that knows the shared secret says.
#[derive(Clone, Debug)]
pub struct AdminRegistration {
    /// From [`Users::registration_nonce`].
    pub nonce: String,
    /// The account to make.
    pub account: NewAccount,
    /// As the tool wrote it, if it did; part of the proof.
    pub user_type: Option<String>,
    /// HMAC-SHA1 of the above under the shared secret, in hexadecimal.
    pub mac: String,
}

impl Users {
    /// A nonce for one [`Self::register_by_secret`] within the next minute.
    pub fn registration_nonce(&self) -> Result<String, RegisterError> {
        self.shared_secret()?;
        Ok(self.signer.issue(PURPOSE, self.now() + NONCE_LIFETIME))
    }

    /// Makes an account for whoever proves to know the shared secret, and logs in.
    ///
    /// A nonce that is used again makes nothing again: the name is taken by then.
    pub async fn register_by_secret(&self, wish: AdminRegistration) -> Result<NewSession, RegisterError> {
        let secret = self.shared_secret()?;
        if !self.signer.is_valid(&wish.nonce, PURPOSE, self.now()) {
            return Err(RegisterError::Nonce);
        }
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        let account = &wish.account;
        let role = if account.is_admin { "admin" } else { "notadmin" };
        let password = account.password.as_deref().unwrap_or_default();
        let parts = [&wish.nonce, &account.username, password, role];
        mac.update(parts.join("\0").as_bytes());
        if let Some(user_type) = &wish.user_type {
            mac.update(b"\0");
            mac.update(user_type.as_bytes());
        }
        let shown = from_hex(&wish.mac).unwrap_or_default();
        mac.verify_slice(&shown).map_err(|_| RegisterError::Proof("the HMAC is wrong"))?;

        let user_id = self.create_account(wish.account).await?;
        let mut write = store::Write::new();
        let session = self.open_session(&mut write, &user_id, NewDevice::default());
        self.store.commit(write).await?;
        Ok(session)
    }

    fn shared_secret(&self) -> Result<&str, RegisterError> {
        let secret = self.config.registration.shared_secret.as_deref();
        secret
            .filter(|secret| !secret.is_empty())
            .ok_or(RegisterError::Proof("registration by a shared secret is not switched on"))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, with_users, with_users_of};

    fn wish(nonce: String, secret: &str, is_admin: bool) -> AdminRegistration {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        let role = if is_admin { "admin" } else { "notadmin" };
        mac.update(format!("{nonce}\0root\0a password\0{role}").as_bytes());
        let mac = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let account =
            NewAccount { username: "root".into(), password: Some("a password".into()), display_name: None, is_admin };
        AdminRegistration { nonce, account, user_type: None, mac }
    }

    #[tokio::test]
    async fn who_knows_the_secret_makes_an_administrator() {
        let mut config = config();
        config.registration.shared_secret = Some("hush".into());
        with_users_of(config, async |users, clock| {
            let nonce = || users.registration_nonce().expect("it is switched on");
            assert!(users.register_by_secret(wish(nonce(), "guess", true)).await.is_err());
            assert!(users.register_by_secret(wish("made-up.nonce".into(), "hush", true)).await.is_err());
            let old = nonce();
            clock.advance(NONCE_LIFETIME);
            assert!(users.register_by_secret(wish(old, "hush", true)).await.is_err());
            let mut promoted = wish(nonce(), "hush", false);
            promoted.account.is_admin = true;
            assert!(users.register_by_secret(promoted).await.is_err());

            let session = users.register_by_secret(wish(nonce(), "hush", true)).await.expect("the proof is right");
            assert!(users.authenticate(&session.access_token).await.expect("the token is good").is_admin);
        })
        .await;
    }

    #[tokio::test]
    async fn without_a_secret_nobody_does() {
        with_users(async |users, _| {
            assert!(users.registration_nonce().is_err());
        })
        .await;
    }
}
