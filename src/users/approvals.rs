//! Accounts that wait until an admin approves of them. Until then they are no accounts: nobody finds them, and what is sent there goes
//! nowhere.

use futures_util::FutureExt as _;
use model::{Kind, Millis, Refusal};
use peers::trust::{Audited, Author, ChangeError};
use ruma::{OwnedUserId, UserId};
use serde_json::json;
use store::{
    Write,
    accounts::insert_account,
    pending_accounts::{self, PendingAccountRow},
    verification::insert_email,
};
use tracing::info;

use crate::{RegisterError, Users, accounts::put_name};

/// No more wait at once.
const MOST_WAITING: i64 = 10_000;
/// How long it is remembered, for who asks, that an account was refused: 30 days.
const REFUSALS_KEPT: Millis = 30 * 24 * 60 * 60_000;

/// An account that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingAccount {
    /// Whose it is to be.
    pub user_id: OwnedUserId,
    /// What the user wants to be called.
    pub display_name: String,
    /// An address that was proved to be the user's.
    pub email: Option<String>,
    /// When it was asked for.
    pub requested_at: Millis,
}

/// Why nothing was decided of an account.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// No such account waits.
    #[error("no account of this name waits for approval")]
    Unknown,
    /// Meanwhile somebody else made an account of this name.
    #[error("there is an account of this name already: it can only be refused")]
    Taken,
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("the accounts that wait could not be read")]
    Store(#[from] store::Error),
}

impl Refusal for ApprovalError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown => Kind::NotFound,
            Self::Taken => Kind::Conflict,
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::Taken).then_some("name_taken")
    }
}

impl Users {
    /// Has an account wait for approval, instead of making it.
    pub(crate) async fn put_in_queue(
        &self,
        user_id: &UserId,
        password_hash: String,
        display_name: &str,
        email: Option<String>,
    ) -> Result<(), RegisterError> {
        if self.store.pending_accounts().count_waiting().await? >= MOST_WAITING {
            return Err(RegisterError::TooManyWaiting);
        }
        let now = self.now();
        let row = PendingAccountRow {
            user_id: user_id.to_owned(),
            password_hash,
            display_name: display_name.to_owned(),
            email,
            requested_at: now,
            refused_at: None,
            reason: None,
        };
        let mut write = Write::new();
        pending_accounts::insert(&mut write, &row, now - REFUSALS_KEPT);
        self.store.commit(write).await?;
        info!(user.id = %user_id, "{user_id} has asked for an account, and waits for approval");
        Ok(())
    }

    /// Up to `limit` accounts that wait, the oldest first; those after the one that was asked for then and by that user.
    pub async fn waiting_accounts(
        &self,
        after: Option<(Millis, &UserId)>,
        limit: u32,
    ) -> Result<Vec<PendingAccount>, ApprovalError> {
        let rows = self.store.pending_accounts().waiting(after, limit).await?;
        Ok(rows.into_iter().map(PendingAccount::from).collect())
    }

    /// Makes an account of one that waits. It is in the audit log.
    pub async fn approve(&self, user_id: &UserId, author: &Author) -> Result<PendingAccount, ApprovalError> {
        let step = |_| {
            async move {
                let row = self.waiting(user_id).await?;
                if self.store.accounts().find(user_id).await?.is_some() {
                    return Err(ApprovalError::Taken);
                }
                let mut write = Write::new();
                insert_account(&mut write, &self.new_row(user_id, Some(row.password_hash.clone()), false));
                put_name(&mut write, user_id, &row.display_name);
                // Of two who had shown to have one address, the one who was approved of first has it.
                if let Some(email) = &row.email
                    && self.store.verification().owner_of(email).await?.is_none()
                {
                    insert_email(&mut write, email, user_id, self.now());
                }
                pending_accounts::remove(&mut write, user_id);
                let (before, after) = (Some(told(&row, "waiting")), Some(told(&row, "approved")));
                Ok(Audited { write, before, after, outcome: row })
            }
            .boxed()
        };
        let row = self.peers.trust().audited("account.approved", user_id.as_str(), author, step).await?;
        info!(user.id = %user_id, actor = author.actor, "the account of {user_id} was approved");
        if let Some(email) = &row.email {
            let text = format!("Your account {user_id} has been approved: you can log in now.\n");
            self.write_to(email, "Your account has been approved", text);
        }
        Ok(row.into())
    }

    /// Refuses an account that waits; its name is free again. Who asked for it is told the reason. It is in the audit log.
    pub async fn refuse_account(&self, user_id: &UserId, author: &Author) -> Result<(), ApprovalError> {
        let step = |_| {
            async move {
                let row = self.waiting(user_id).await?;
                let mut write = Write::new();
                pending_accounts::refuse(&mut write, user_id, self.now(), &author.reason);
                let (before, after) = (Some(told(&row, "waiting")), Some(told(&row, "refused")));
                Ok::<_, ApprovalError>(Audited { write, before, after, outcome: row })
            }
            .boxed()
        };
        let row = self.peers.trust().audited("account.refused", user_id.as_str(), author, step).await?;
        info!(user.id = %user_id, actor = author.actor, "the account of {user_id} was refused");
        if let Some(email) = &row.email {
            let text = format!("The account {user_id} that you asked for has been refused: {}\n", author.reason);
            self.write_to(email, "Your account has been refused", text);
        }
        Ok(())
    }

    async fn waiting(&self, user_id: &UserId) -> Result<PendingAccountRow, ApprovalError> {
        let row = self.store.pending_accounts().find(user_id).await?;
        row.filter(|row| row.refused_at.is_none()).ok_or(ApprovalError::Unknown)
    }
}

impl From<PendingAccountRow> for PendingAccount {
    fn from(row: PendingAccountRow) -> Self {
        let PendingAccountRow { user_id, display_name, email, requested_at, .. } = row;
        Self { user_id, display_name, email, requested_at }
    }
}

/// How the audit log has it: addresses aren't in it.
fn told(row: &PendingAccountRow, state: &str) -> String {
    json!({ "state": state, "display_name": row.display_name, "requested_at": row.requested_at }).to_string()
}

#[cfg(test)]
mod tests {
    use ruma::{
        api::client::uiaa::{AuthData, Dummy},
        user_id,
    };

    use super::*;
    use crate::{
        LoginError, Registration,
        testing::{HOME, config, with_users_of},
    };

    async fn ask_for(users: &Users, name: &str, password: &str) -> bool {
        let auth = AuthData::Dummy(Dummy::new());
        let wish = Registration {
            username: Some(name),
            password: Some(password),
            auth: Some(&auth),
            display_name: Some("Somebody"),
            ..Registration::default()
        };
        let made = users.register(wish, HOME).await;
        made.is_ok_and(|made| made.is_waiting && made.session.is_none())
    }

    #[tokio::test]
    async fn who_waits_is_let_in_once_an_admin_has_approved_and_not_before() {
        let mut config = config();
        config.registration.approval = true;
        with_users_of(config, async |users, _| {
            let alice = user_id!("@alice:a.test");
            assert!(ask_for(&users, "alice", "a password").await);
            assert!(!ask_for(&users, "alice", "another one").await, "the name waits");
            let waits = users.try_login_for_tests("alice", "a password").await;
            assert!(matches!(waits, Err(LoginError::AwaitingApproval)));
            let wrong = users.try_login_for_tests("alice", "a guess").await;
            assert!(matches!(wrong, Err(LoginError::WrongPassword)), "only who asked for it learns that it waits");
            assert!(users.get_account(alice).await.is_err(), "it is no account");

            let listed = users.waiting_accounts(None, 10).await.expect("they list");
            assert_eq!((listed.len(), listed[0].display_name.as_str()), (1, "Somebody"));
            let author = Author { actor: "@root:a.test".into(), reason: "known to me".into() };
            users.approve(alice, &author).await.expect("it waits");
            assert!(matches!(users.approve(alice, &author).await, Err(ApprovalError::Unknown)));
            users.try_login_for_tests("alice", "a password").await.expect("she is let in");
            let name = users.profile_field(None, alice, "displayname").await.expect("she has one");
            assert_eq!(name, "Somebody");
            let audit = users.peers.trust().audit(None, None, 10).await.expect("it reads");
            let entry = (audit[0].action.as_str(), audit[0].subject.as_str(), audit[0].actor.as_str());
            assert_eq!(entry, ("account.approved", "@alice:a.test", "@root:a.test"));
        })
        .await;
    }

    #[tokio::test]
    async fn who_is_refused_is_told_why_and_the_name_is_free() {
        let mut config = config();
        config.registration.approval = true;
        with_users_of(config, async |users, _| {
            let bob = user_id!("@bob:a.test");
            assert!(ask_for(&users, "bob", "a password").await);
            let unsaid = Author { actor: "@root:a.test".into(), reason: " ".into() };
            assert!(matches!(
                users.refuse_account(bob, &unsaid).await,
                Err(ApprovalError::Change(ChangeError::NoReason))
            ));
            let author = Author { reason: "nobody knows you".into(), ..unsaid };
            users.refuse_account(bob, &author).await.expect("it waits");
            let refused = users.try_login_for_tests("bob", "a password").await.err().expect("he is not let in");
            assert!(refused.to_string().contains("nobody knows you"), "{refused}");
            assert!(users.waiting_accounts(None, 10).await.expect("they list").is_empty());
            assert!(ask_for(&users, "bob", "a second try").await);
            let waits = users.try_login_for_tests("bob", "a second try").await;
            assert!(matches!(waits, Err(LoginError::AwaitingApproval)));
        })
        .await;
    }

    #[tokio::test]
    async fn an_account_that_was_made_meanwhile_stays_whose_it_is() {
        let mut config = config();
        config.registration.approval = true;
        with_users_of(config, async |users, _| {
            let carol = user_id!("@carol:a.test");
            assert!(ask_for(&users, "carol", "a password").await);
            let mut write = Write::new();
            insert_account(&mut write, &users.new_row(carol, None, false));
            users.store.commit(write).await.expect("it is stored");
            let author = Author { actor: "@root:a.test".into(), reason: "known to me".into() };
            assert!(matches!(users.approve(carol, &author).await, Err(ApprovalError::Taken)));
            users.refuse_account(carol, &author).await.expect("it can be");
        })
        .await;
    }
}
