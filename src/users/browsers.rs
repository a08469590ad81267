//! Browsers on this server's own pages: who has signed in there, and that a form was sent by the page that it stands on.
//!
//! A browser shows a cookie, of which the hash is stored. What it sends by a form is believed only with a text that this server has put
//! into the form for this very cookie, so that no other site sends forms in somebody's name.

use std::{net::IpAddr, time::Duration};

use metrics::counter;
use model::Millis;
use ruma::{
    OwnedUserId, UserId,
    api::client::uiaa::{MatrixUserIdentifier, UserIdentifier},
};
use store::{
    Write,
    browser_sessions::{insert_browser, remove_browser},
};

use crate::{
    Credentials, LoginError, Users, millis,
    secrets::{hash_of, new_token},
};

/// How long somebody stays signed in at a browser.
pub const BROWSER_LIFETIME: Duration = Duration::from_hours(24);
/// At how many browsers one is signed in; the oldest goes.
const MOST_BROWSERS: i64 = 20;
/// How long a form may be filled in.
const FORM_LIFETIME: Millis = 60 * 60_000;
/// How long a password that was right is believed while its owner looks for the code of the second factor.
const PASSWORD_BELIEVED_FOR: Millis = 5 * 60_000;

/// What came of a name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// It is them.
    Done(OwnedUserId),
    /// The password is right, and the code of the second factor is needed too.
    CodeNeeded {
        /// Who it would be.
        user_id: OwnedUserId,
        /// What shows that the password was right, in this browser and for five minutes.
        proof: String,
    },
}

impl Users {
    /// A secret for a browser that nobody has signed in at.
    pub fn new_browser_secret(&self) -> String {
        new_token("cob")
    }

    /// What goes into a form of the browser that shows `secret`.
    pub fn form_token(&self, secret: &str) -> String {
        self.signer.issue(&["form", &hash_of(secret)], self.now() + FORM_LIFETIME)
    }

    /// Whether a form was made for the browser that shows `secret`.
    pub fn is_form_token(&self, token: &str, secret: &str) -> bool {
        self.signer.is_valid(token, &["form", &hash_of(secret)], self.now())
    }

    /// Somebody tells their name and their password to a page that the browser with `secret` shows.
    pub async fn sign_in(
        &self,
        name: &str,
        password: &str,
        secret: &str,
        address: IpAddr,
    ) -> Result<SignIn, LoginError> {
        let identifier = UserIdentifier::Matrix(MatrixUserIdentifier::new(name.trim().to_owned()));
        let credentials = Credentials::Password { identifier: &identifier, password, code: None };
        match self.check_person(&credentials, address).await {
            Ok(user_id) => Ok(SignIn::Done(counted(Ok(user_id))?)),
            Err(LoginError::CodeNeeded) => {
                let user_id = self.user_of_identifier(&identifier)?;
                let expires_at = self.now() + PASSWORD_BELIEVED_FOR;
                let proof = self.signer.issue(&["second factor", user_id.as_str(), &hash_of(secret)], expires_at);
                Ok(SignIn::CodeNeeded { user_id, proof })
            }
            Err(error) => counted(Err(error)).map(SignIn::Done),
        }
    }

    /// Somebody tells the code of their second factor, after [`SignIn::CodeNeeded`].
    pub async fn sign_in_by_code(
        &self,
        user_id: &str,
        proof: &str,
        code: &str,
        secret: &str,
        address: IpAddr,
    ) -> Result<OwnedUserId, LoginError> {
        let checked = async {
            self.limits.check_login_from(address).await?;
            let user_id = UserId::parse(user_id).map_err(|_| LoginError::WrongPassword)?;
            let purpose = ["second factor", user_id.as_str(), &hash_of(secret)];
            if !self.signer.is_valid(proof, &purpose, self.now()) {
                return Err(LoginError::WrongPassword);
            }
            let lower = UserId::parse(user_id.as_str().to_lowercase()).map_err(|_| LoginError::WrongPassword)?;
            let is_there = self.store.accounts().find(&user_id).await?.is_some();
            let user_id = if is_there { user_id } else { lower };
            self.check_code(&user_id, Some(code)).await?;
            self.check_may_enter(&user_id).await?;
            Ok(user_id)
        };
        counted(checked.await)
    }

    /// Lets a browser in. Answers what it shows from now on: never what it has shown before.
    pub async fn open_browser(&self, user_id: &UserId) -> Result<String, store::Error> {
        let secret = self.new_browser_secret();
        let now = self.now();
        let mut write = Write::new();
        insert_browser(&mut write, &hash_of(&secret), user_id, now, now + millis(BROWSER_LIFETIME), MOST_BROWSERS);
        self.store.commit(write).await?;
        Ok(secret)
    }

    /// Who is at the browser that shows `secret`.
    pub async fn at_browser(&self, secret: &str) -> Result<Option<OwnedUserId>, store::Error> {
        self.store.browser_sessions().find(&hash_of(secret), self.now()).await
    }

    /// Whoever was at the browser has gone.
    pub async fn close_browser(&self, secret: &str) -> Result<(), store::Error> {
        let mut write = Write::new();
        remove_browser(&mut write, &hash_of(secret));
        self.store.commit(write).await.map(drop)
    }
}

fn counted(opened: Result<OwnedUserId, LoginError>) -> Result<OwnedUserId, LoginError> {
    let outcome = if opened.is_ok() { "opened" } else { "refused" };
    counter!("comity_logins_total", "outcome" => outcome).increment(1);
    opened
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HOME, with_users};

    #[tokio::test]
    async fn a_form_is_good_in_its_own_browser_for_an_hour() {
        with_users(async |users, clock| {
            let (mine, other) = (users.new_browser_secret(), users.new_browser_secret());
            let token = users.form_token(&mine);
            assert!(users.is_form_token(&token, &mine));
            assert!(!users.is_form_token(&token, &other) && !users.is_form_token("", &mine));
            clock.advance(FORM_LIFETIME);
            assert!(!users.is_form_token(&token, &mine));
        })
        .await;
    }

    #[tokio::test]
    async fn somebody_is_at_a_browser_until_they_go_or_a_day_is_over() {
        with_users(async |users, clock| {
            users.register_for_tests("alice").await;
            let before = users.new_browser_secret();
            let SignIn::Done(alice) = users.sign_in(" Alice ", "a password", &before, HOME).await.expect("it is she")
            else {
                panic!("she has no second factor")
            };
            let secret = users.open_browser(&alice).await.expect("it is stored");
            assert_ne!(secret, before);
            assert_eq!(users.at_browser(&secret).await.expect("it is read").as_deref(), Some(&*alice));
            assert_eq!(users.at_browser(&before).await.expect("it is read"), None);
            users.close_browser(&secret).await.expect("it is removed");
            assert_eq!(users.at_browser(&secret).await.expect("it is read"), None);
            let secret = users.open_browser(&alice).await.expect("it is stored");
            clock.advance(millis(BROWSER_LIFETIME));
            assert_eq!(users.at_browser(&secret).await.expect("it is read"), None);
            let refused = users.sign_in("alice", "a guess", &secret, HOME).await.expect_err("it is wrong");
            assert!(matches!(refused, LoginError::WrongPassword));
        })
        .await;
    }
}
