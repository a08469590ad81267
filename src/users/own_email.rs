//! The e-mail address of one's own account: which it is, another one, none.

use model::Millis;
use store::{
    Write,
    verification::{insert_email, remove_emails},
};
use tracing::info;

use crate::{CodePurpose, EmailError, EmailProof, Session, Users};

impl Users {
    /// The address of whoever asks.
    pub async fn own_email(&self, session: &Session) -> Result<Option<String>, EmailError> {
        Ok(self.store.verification().email_of(&session.user_id).await?)
    }

    /// The addresses of whoever asks, each with when it was proved to be theirs, milliseconds since 1970.
    pub async fn own_emails(&self, session: &Session) -> Result<Vec<(String, Millis)>, EmailError> {
        Ok(self.store.verification().emails_of(&session.user_id).await?)
    }

    /// Sets the address of whoever asks, who shows that it is theirs by a code for [`CodePurpose::Change`], and that they are
    /// themselves by their password. Who reads the address of before is told. Answers the address as it is kept.
    pub async fn set_own_email(
        &self,
        session: &Session,
        proof: EmailProof<'_>,
        password: &str,
    ) -> Result<String, EmailError> {
        let user_id = &session.user_id;
        // A wrong password uses no code up.
        self.check_password(user_id, password).await?;
        let email = self.prove_new_email(proof, CodePurpose::Change).await?;
        let before = self.own_email(session).await?;
        let mut write = Write::new();
        remove_emails(&mut write, user_id);
        insert_email(&mut write, &email, user_id, self.now());
        match self.store.commit(write).await {
            // Another account was faster.
            Err(store::Error::Duplicate) => return Err(EmailError::Taken),
            done => done?,
        };
        info!(user.id = %user_id, "{user_id} has another e-mail address");
        self.tell_of_change(session, before);
        Ok(email)
    }

    /// Takes the address of whoever asks away, who then can't set a forgotten password anew.
    pub async fn remove_own_email(&self, session: &Session, password: &str) -> Result<(), EmailError> {
        let user_id = &session.user_id;
        self.check_password(user_id, password).await?;
        if self.config.registration.require_email {
            return Err(EmailError::Needed);
        }
        let before = self.own_email(session).await?;
        let mut write = Write::new();
        remove_emails(&mut write, user_id);
        self.store.commit(write).await?;
        info!(user.id = %user_id, "{user_id} has no e-mail address any more");
        self.tell_of_change(session, before);
        Ok(())
    }

    fn tell_of_change(&self, session: &Session, before: Option<String>) {
        let Some(before) = before else { return };
        let user_id = &session.user_id;
        let text = format!(
            "This is not the e-mail address of the account {user_id} any more. If that was not you, somebody knows your password: \
             set another one, or ask those who run {}.\n",
            self.server_name
        );
        self.write_to(&before, &format!("Your account {user_id}"), text);
    }
}
