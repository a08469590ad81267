//! Whose account it is that somebody has at a provider, who has signed in there.

use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};
use store::{Write, accounts::insert_account, sso::insert_link, verification::insert_email};
use tracing::info;

use super::{SsoError, SsoProvider};
use crate::{RegisterError, Users, accounts::put_name};

/// The longest user name that is made of a claim, in bytes.
const LONGEST_NAME: usize = 200;

impl Users {
    /// The account of whom `claims` tell: the one that was theirs the last time, or else a new one.
    pub(super) async fn account_for(
        &self,
        provider: &SsoProvider,
        claims: &Map<String, Value>,
    ) -> Result<OwnedUserId, SsoError> {
        let subject = text(claims, "sub").ok_or(SsoError::NoName)?;
        if let Some(user_id) = self.store.sso().linked(&provider.issuer, subject).await? {
            return Ok(user_id);
        }
        let localpart = text(claims, &provider.localpart_claim).and_then(localpart_of).ok_or(SsoError::NoName)?;
        let made = match self.check_available(&localpart).await {
            Ok(user_id) if provider.register => self.make_sso_account(provider, claims, subject, user_id).await,
            Ok(_) => Err(SsoError::NoAccount),
            Err(RegisterError::Taken) => self.link_by_name(provider, subject, &localpart).await,
            Err(error) => Err(error.into()),
        };
        match made {
            // Somebody was quicker: themselves, at another node, or another who took the name.
            Err(SsoError::Store(store::Error::Duplicate)) => {
                let linked = self.store.sso().linked(&provider.issuer, subject).await?;
                linked.ok_or(SsoError::NameTaken(localpart))
            }
            made => made,
        }
    }

    async fn make_sso_account(
        &self,
        provider: &SsoProvider,
        claims: &Map<String, Value>,
        subject: &str,
        user_id: OwnedUserId,
    ) -> Result<OwnedUserId, SsoError> {
        self.ask_registration(&user_id).await?;
        let name = text(claims, &provider.display_name_claim)
            .filter(|name| crate::profiles::check_display_name(name).is_ok())
            .unwrap_or(user_id.localpart());
        let mut write = Write::new();
        // No password opens it.
        insert_account(&mut write, &self.new_row(&user_id, None, false));
        put_name(&mut write, &user_id, name);
        insert_link(&mut write, &provider.issuer, subject, &user_id, self.now());
        // Only an address that the provider has checked is one by which a password could be reset.
        let is_verified = claims.get("email_verified").and_then(Value::as_bool) == Some(true);
        if let Some(email) = text(claims, &provider.email_claim).filter(|_| is_verified) {
            let email = email.trim().to_lowercase();
            if self.store.verification().owner_of(&email).await?.is_none() {
                insert_email(&mut write, &email, &user_id, self.now());
            }
        }
        self.store.commit(write).await?;
        info!(user.id = %user_id, provider = provider.id, "{user_id} was made for somebody of {}", provider.id);
        Ok(user_id)
    }

    /// Gives somebody the account that has their name already, if that is allowed and nobody else of the provider has it.
    async fn link_by_name(
        &self,
        provider: &SsoProvider,
        subject: &str,
        localpart: &str,
    ) -> Result<OwnedUserId, SsoError> {
        let taken = || SsoError::NameTaken(localpart.to_owned());
        let user_id = UserId::parse(format!("@{localpart}:{}", self.server_name)).map_err(|_| SsoError::NoName)?;
        if !provider.link_by_name || self.store.sso().has_link(&provider.issuer, &user_id).await? {
            return Err(taken());
        }
        // One that waits for approval, or was closed, is nobody's to take.
        let account = self.store.accounts().find(&user_id).await?;
        if account.is_none_or(|account| account.deactivated_at.is_some()) {
            return Err(taken());
        }
        let mut write = Write::new();
        insert_link(&mut write, &provider.issuer, subject, &user_id, self.now());
        self.store.commit(write).await?;
        info!(user.id = %user_id, provider = provider.id, "{user_id} is somebody of {} from now on", provider.id);
        Ok(user_id)
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// What a name becomes as a user name: what none may have is written as `=` and its bytes, as the specification recommends for names from
/// elsewhere.
///
/// Spec: <https://spec.matrix.org/v1.19/appendices/#mapping-from-other-character-sets>
fn localpart_of(name: &str) -> Option<String> {
    let mut localpart = String::new();
    for byte in name.to_lowercase().bytes() {
        match byte {
            // The first may not be an underscore here.
            b'_' if localpart.is_empty() => localpart.push_str("=5f"),
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' | b'+' => localpart.push(char::from(byte)),
            byte => localpart.push_str(&format!("={byte:02x}")),
        }
    }
    (1..=LONGEST_NAME).contains(&localpart.len()).then_some(localpart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_elsewhere_becomes_a_user_name() {
        for (name, localpart) in [
            ("Alice", "alice"),
            ("alice.b-c_d", "alice.b-c_d"),
            ("_bot", "=5fbot"),
            ("alice@example.org", "alice=40example.org"),
            ("a=b", "a=3db"),
            ("zoë", "zo=c3=ab"),
        ] {
            assert_eq!(localpart_of(name).as_deref(), Some(localpart));
        }
        assert_eq!(localpart_of(""), None);
        assert_eq!(localpart_of(&"x".repeat(201)), None);
    }
}
