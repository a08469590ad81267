//! Policy servers: a room may want each event approved by a server that it names.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>

use model::{Draft, Pdu};
use ruma::{
    CanonicalJsonValue, OwnedEventId,
    api::federation::policy::sign_event,
    events::{
        StateEventType, TimelineEventType,
        room::policy::{POLICY_SERVER_ED25519_SIGNING_KEY_ID, RoomPolicyEventContent},
    },
    signatures,
};

use crate::{RoomError, Rooms, live::SharedRoom, outside::raw};

impl Rooms {
    /// What the room demands, if the server it names is in the room.
    pub(crate) async fn policy_of(&self, room: &SharedRoom) -> Result<Option<RoomPolicyEventContent>, RoomError> {
        let policy: Option<RoomPolicyEventContent> = self.state_content(room, StateEventType::RoomPolicy).await?;
        match policy {
            Some(policy) if self.has_server(room, &policy.via).await? => Ok(Some(policy)),
            _ => Ok(None),
        }
    }

    /// Sends an event that the room's policy server approves of. Refused when it doesn't.
    pub(crate) async fn send_approved(
        &self,
        room: &SharedRoom,
        policy: &RoomPolicyEventContent,
        draft: Draft,
    ) -> Result<OwnedEventId, RoomError> {
        let approved = self.approved(room, policy, draft).await?;
        self.append_whole(room, approved).await
    }

    /// Makes an event that the room's policy server approves of, without appending it.
    pub(crate) async fn approved(
        &self,
        room: &SharedRoom,
        policy: &RoomPolicyEventContent,
        draft: Draft,
    ) -> Result<Pdu, RoomError> {
        let pdu = self.seal(room, draft).await?;
        let answer = self.shared.peers.ask(&policy.via, sign_event::v1::Request::new(raw(&pdu)?)).await;
        let answer = answer.map_err(|error| match error {
            peers::PeerError::Refused { status: 400..500, message, .. } => {
                RoomError::Forbidden(format!("the room's policy server refuses it: {message}"))
            }
            error => error.into(),
        })?;
        let signature = answer.ed25519_signature(&policy.via);
        let signature =
            signature.ok_or_else(|| RoomError::Forbidden("the room's policy server did not sign the event".into()))?;
        let mut object = pdu.object();
        if let Some(CanonicalJsonValue::Object(all)) = object.get_mut("signatures") {
            let of_server =
                all.entry(policy.via.to_string()).or_insert_with(|| CanonicalJsonValue::Object(Default::default()));
            if let CanonicalJsonValue::Object(of_server) = of_server {
                let signature = CanonicalJsonValue::String(signature.to_owned());
                of_server.insert(POLICY_SERVER_ED25519_SIGNING_KEY_ID.to_owned(), signature);
            }
        }
        let signed = Pdu::from_peer(object, &room.rules)?;
        if !approves(policy, &signed, room) {
            return Err(RoomError::Forbidden("the signature of the room's policy server is wrong".into()));
        }
        Ok(signed)
    }
}

/// Whether the policy server has approved of the event. What says which server that is needs no approval.
pub(crate) fn approves(policy: &RoomPolicyEventContent, pdu: &Pdu, room: &SharedRoom) -> bool {
    pdu.is_state(&TimelineEventType::RoomPolicy, "")
        || signatures::verify_policy_server_signature(policy, &pdu.object(), &room.rules).is_ok()
}
