//! Tickets: what somebody who can't show an access token shows instead, once and soon.
//!
//! Browsers can't set headers on a WebSocket, and an access token in a URL is in every log on the way. A ticket names its session
//! and is sealed by this server, so none is kept until it is used; that it was used is in the database, so that it is good once at
//! whichever node.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::{Kind, Millis, Refusal};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use store::{Write, used_tokens};

use crate::{Session, Users, millis};

/// How long a ticket is good.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);

const PURPOSE: &str = "ticket";
/// How often those that are too old are forgotten.
const FORGET_EVERY: Millis = 60_000;

/// Why a ticket opens nothing. One that was never good and one that is so no more are told apart by nobody.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// It isn't of this server, is too old, was used, or its session has ended.
    #[error("the ticket is not known, has expired, or was used already")]
    Unknown,
    /// The store failed.
    #[error("the ticket could not be looked up")]
    Store(#[from] store::Error),
}

impl Refusal for TicketError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown => Kind::Unauthenticated,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::Unknown).then_some("unknown_ticket")
    }
}

/// When those that were used were last looked through.
#[derive(Default)]
pub(crate) struct Tickets {
    forgot_at: AtomicI64,
}

impl Tickets {
    fn is_time_to_forget(&self, now: Millis) -> bool {
        let forgot_at = self.forgot_at.load(Ordering::Relaxed);
        now - forgot_at >= FORGET_EVERY
            && self.forgot_at.compare_exchange(forgot_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Users {
    /// A ticket for `session`, and until when it is good.
    pub fn issue_ticket(&self, session: &Session) -> (String, Millis) {
        let (user_id, device_id) = (session.user_id.as_str(), session.device_id.as_str());
        let expires_at = self.now() + millis(TICKET_LIFETIME);
        let seal = self.signer.issue(&[PURPOSE, user_id, device_id], expires_at);
        let name = |text: &str| URL_SAFE_NO_PAD.encode(text);
        (format!("{}~{}~{seal}", name(user_id), name(device_id)), expires_at)
    }

    /// Uses a ticket up: the session that it was issued for, if that goes on. Answers when the use is durable.
    pub async fn redeem_ticket(&self, ticket: &str) -> Result<Session, TicketError> {
        let now = self.now();
        let (user_id, device_id, seal) = read(ticket).ok_or(TicketError::Unknown)?;
        if !self.signer.is_valid(seal, &[PURPOSE, user_id.as_str(), device_id.as_str()], now) {
            return Err(TicketError::Unknown);
        }
        let mut write = Write::new();
        if self.tickets.is_time_to_forget(now) {
            used_tokens::forget(&mut write, now);
        }
        // Longer than it can still be good.
        let until = now + millis(TICKET_LIFETIME);
        used_tokens::insert(&mut write, &self.server_name, &format!("{PURPOSE}:{seal}"), until);
        match self.store.commit(write).await {
            Ok(_) => {}
            Err(store::Error::Duplicate) => return Err(TicketError::Unknown),
            Err(error) => return Err(error.into()),
        }
        let account = self.store.custody().find(&user_id).await?;
        let account = account.filter(|account| account.deactivated_at.is_none() && account.locked_at.is_none());
        let device = self.store.devices().find(&user_id, &device_id).await?;
        let (Some(account), Some(device)) = (account, device) else { return Err(TicketError::Unknown) };
        if let Some(app_key) = device.app_key {
            return Ok(Session::of_application(user_id, device_id, app_key, now));
        }
        Ok(Session::new(user_id, device_id, account.admin_since.is_some(), now))
    }

    /// Whether the session goes on: its device is still there, and its user may do something.
    pub async fn goes_on(&self, session: &Session) -> Result<bool, store::Error> {
        if self.store.devices().find(&session.user_id, &session.device_id).await?.is_none() {
            return Ok(false);
        }
        let account = self.store.custody().find(&session.user_id).await?;
        Ok(account.is_some_and(|account| account.locked_at.is_none()))
    }
}

/// Its parts: whose it is, of which device, and the seal.
fn read(ticket: &str) -> Option<(OwnedUserId, OwnedDeviceId, &str)> {
    let mut parts = ticket.splitn(3, '~');
    let mut name = || String::from_utf8(URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok();
    let (user_id, device_id) = (name()?, name()?);
    Some((UserId::parse(user_id).ok()?, device_id.into(), parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_users;

    #[tokio::test]
    async fn a_ticket_opens_its_session_once_and_soon() {
        with_users(async |users, clock| {
            let opened = users.register_for_tests("alice").await;
            let session = users.authenticate(&opened.access_token).await.expect("the token is good");
            let refused = async |ticket: &str| {
                let refused = users.redeem_ticket(ticket).await.expect_err("it opens nothing");
                assert!(matches!(refused, TicketError::Unknown), "{refused}");
            };
            let (ticket, _) = users.issue_ticket(&session);
            let found = users.redeem_ticket(&ticket).await.expect("it is new");
            assert_eq!((&found.user_id, &found.device_id), (&session.user_id, &session.device_id));
            refused(&ticket).await;

            let (late, expires_at) = users.issue_ticket(&session);
            clock.advance(millis(TICKET_LIFETIME));
            refused(&late).await;
            assert!(expires_at > 0);
            // What was used is forgotten in time, and still opens nothing.
            refused(&ticket).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_ticket_of_somebody_else_of_nobody_or_of_a_session_that_ended_opens_nothing() {
        with_users(async |users, _| {
            let session = async |name: &str| {
                let opened = users.register_for_tests(name).await;
                users.authenticate(&opened.access_token).await.expect("the token is good")
            };
            let (alice, bob) = (session("alice").await, session("bob").await);
            let (ticket, _) = users.issue_ticket(&alice);
            let own = |session: &Session| URL_SAFE_NO_PAD.encode(session.user_id.as_str());
            let stolen = ticket.replacen(&own(&alice), &own(&bob), 1);
            for wrong in [stolen.as_str(), "", "~", "~~", "a~b~c", &ticket[..ticket.len() - 1]] {
                assert!(matches!(users.redeem_ticket(wrong).await, Err(TicketError::Unknown)), "{wrong}");
            }
            assert!(users.goes_on(&alice).await.expect("it is looked up"));
            users.logout(&alice).await.expect("logging out works");
            assert!(!users.goes_on(&alice).await.expect("it is looked up"));
            assert!(matches!(users.redeem_ticket(&ticket).await, Err(TicketError::Unknown)));
        })
        .await;
    }
}
