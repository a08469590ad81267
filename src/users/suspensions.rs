//! Who may only read, leave, and take back what they said. They are kept in mind, so that nothing is looked up on the way of a message.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-suspension>

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use model::gate::{Act, Acts, Answer, Gate, GateError, Leave, Proposal};
use ruma::{OwnedUserId, UserId};
use store::Store;
use tracing::warn;

use crate::Users;

/// How often it is looked whom another node has suspended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// More of them are not kept in mind.
const MOST: u32 = 100_000;
/// What they are kept from; an account of their own they have.
const KEPT_FROM: [Act; 5] = [Act::Send, Act::Invite, Act::Join, Act::CreateRoom, Act::Upload];

/// Who they are.
#[derive(Default)]
pub(crate) struct Suspensions(RwLock<Arc<HashSet<OwnedUserId>>>);

impl Suspensions {
    fn known(&self) -> Arc<HashSet<OwnedUserId>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Users {
    /// Whether this user may only read, leave, and take back what they said.
    pub fn is_suspended(&self, user_id: &UserId) -> bool {
        self.suspensions.known().contains(user_id)
    }

    /// Keeps those from acting who may not. `then`: who is asked about what the others do.
    pub fn suspension_gate(self: &Arc<Self>, then: Arc<dyn Gate>) -> Arc<dyn Gate> {
        Arc::new(SuspensionGate { users: self.clone(), store: self.store.clone(), then })
    }

    /// Looks who is suspended now.
    pub(crate) async fn look_at_suspensions(&self) -> Result<(), store::Error> {
        let found: HashSet<OwnedUserId> = self.store.custody().suspended(MOST).await?.into_iter().collect();
        if found != *self.suspensions.known() {
            *self.suspensions.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        }
        Ok(())
    }

    /// Keeps up with what other nodes do, until it is dropped.
    pub(crate) async fn tend_suspensions(&self) {
        loop {
            if let Err(error) = self.look_at_suspensions().await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "could not read who is suspended; who was known still is"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

struct SuspensionGate {
    users: Arc<Users>,
    store: Store,
    then: Arc<dyn Gate>,
}

impl SuspensionGate {
    /// Whether it takes back what its sender said: that they may.
    async fn takes_back_own(&self, proposal: &Proposal<'_>) -> Result<bool, GateError> {
        let Some(event_id) = proposal.event.and_then(|event| event.redacts) else { return Ok(false) };
        let event = self.store.events().find(event_id).await.map_err(|_| GateError::Silent)?;
        Ok(event.is_some_and(|event| event.pdu.sender == proposal.sender))
    }
}

impl Gate for SuspensionGate {
    fn asks_about(&self) -> Acts {
        let is_anybody = !self.users.suspensions.known().is_empty();
        let own: Acts = KEPT_FROM.into_iter().filter(|_| is_anybody).collect();
        self.then.asks_about().and(own)
    }

    fn is_suspended(&self, sender: &UserId) -> bool {
        self.users.is_suspended(sender)
    }

    fn ask<'a>(&'a self, proposal: Proposal<'a>) -> Answer<'a> {
        Box::pin(async move {
            let is_kept = KEPT_FROM.contains(&proposal.act) && self.users.is_suspended(proposal.sender);
            if is_kept && !self.takes_back_own(&proposal).await? {
                return Err(GateError::Suspended);
            }
            if self.then.asks_about().has(proposal.act) { self.then.ask(proposal).await } else { Ok(Leave::default()) }
        })
    }
}
