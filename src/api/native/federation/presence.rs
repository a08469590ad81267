//! Who is there, as other servers say.

use federation::{PresenceNews, PresenceTaken};
use http::StatusCode;
use model::{Address, peer::Capability};
use peers::Scope;
use ruma::{ServerName, presence::PresenceState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Peer;
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, Nothing, post},
};

/// How many users one request tells of at most.
const MAX_USERS: usize = 1_000;

/// Who is there.
#[derive(Deserialize, ToSchema)]
struct PresenceSync {
    /// 1000 at most.
    presence: Vec<UserPresence>,
}

/// How one user is.
#[derive(Deserialize, ToSchema)]
struct UserPresence {
    /// `bob@b.example`: a user of the calling server.
    #[schema(value_type = String)]
    user_id: Address,
    #[schema(inline)]
    presence: PresenceWord,
    /// What the user says of it.
    status_msg: Option<String>,
    /// How long ago the user last did something, in milliseconds.
    #[serde(default)]
    last_active_ago: u64,
    /// Larger with each news of this user, such as the moment in milliseconds since 1970: what is not larger than what was
    /// heard before is dropped.
    #[schema(minimum = 0)]
    sequence: i64,
}

/// How one is.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PresenceWord {
    Online,
    Unavailable,
    Offline,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
struct PresenceOutcome {
    /// How many were taken.
    taken: usize,
    /// How many were dropped, because as much or more was known.
    stale: usize,
    /// How many concern nobody here.
    unconcerned: usize,
    /// Those that were refused, with the reason.
    refused: Vec<RefusedPresence>,
}

/// What was refused.
#[derive(Serialize, ToSchema)]
struct RefusedPresence {
    /// Of whom it was.
    user_id: String,
    /// What programs may rely on.
    code: &'static str,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![post("/api/v1/federation/presence/sync", "Takes who is there of another server's users.", sync)]
}

async fn sync(call: Call<Peer, Nothing, PresenceSync>) -> Answer<PresenceOutcome> {
    call.caller.check(&call.services.peers, Scope::Presence, Capability::Presence, async |_| Ok(false)).await?;
    if call.body.presence.len() > MAX_USERS {
        let detail = format!("a request tells of {MAX_USERS} users at most");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many", detail).with("limit", MAX_USERS));
    }
    let mut outcome = PresenceOutcome { taken: 0, stale: 0, unconcerned: 0, refused: Vec::new() };
    let mut news = Vec::with_capacity(call.body.presence.len());
    for user in call.body.presence {
        match user.check(&call.caller.server) {
            Ok(user) => news.push(user),
            Err(refused) => outcome.refused.push(refused),
        }
    }
    if let Some(refused) = outcome.refused.first() {
        call.services.peers.note_refusal(Some(&call.caller.server), refused.code, &"some of the presence it told");
    }
    for taken in call.services.inbound.receive_presence(&call.caller.server, news).await? {
        match taken {
            PresenceTaken::Taken => outcome.taken += 1,
            PresenceTaken::Stale => outcome.stale += 1,
            PresenceTaken::Unconcerned => outcome.unconcerned += 1,
        }
    }
    Ok(outcome)
}

impl UserPresence {
    /// Only a server's own users are for it to tell of.
    fn check(self, caller: &ServerName) -> Result<PresenceNews, RefusedPresence> {
        let refused = |code| Err(RefusedPresence { user_id: self.user_id.to_string(), code });
        if self.user_id.server_name() != caller {
            return refused("foreign_user");
        }
        if self.sequence < 0 {
            return refused("invalid");
        }
        Ok(PresenceNews {
            state: match self.presence {
                PresenceWord::Online => PresenceState::Online,
                PresenceWord::Unavailable => PresenceState::Unavailable,
                PresenceWord::Offline => PresenceState::Offline,
            },
            user_id: self.user_id.into_user_id(),
            status_msg: self.status_msg,
            last_active_ago: i64::try_from(self.last_active_ago).unwrap_or(i64::MAX),
            sequence: self.sequence,
        })
    }
}
