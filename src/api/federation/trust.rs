//! What a server may ask about somebody here, where that hangs on whom.

use model::peer::{Allowed, Capability, Context, Fact};
use ruma::{ServerName, UserId};

use crate::{Error, Services};

/// Whether `origin` may do this with regard to `user_id` of this server, and how far.
pub(super) async fn allow_about(
    services: &Services,
    origin: &ServerName,
    capability: Capability,
    user_id: &UserId,
) -> Result<Allowed, Error> {
    let rooms = &services.rooms;
    let look_up = async |fact| match fact {
        Fact::SharesRoom => rooms.shares_room(user_id, origin).await,
        Fact::Contact => rooms.is_contact(user_id, origin, None).await,
        Fact::Acquainted => {
            Ok(rooms.shares_room(user_id, origin).await? || rooms.is_contact(user_id, origin, None).await?)
        }
        Fact::Invited | Fact::Approved | Fact::OptedIn => Ok(false),
    };
    let allowed = services.peers.trust().allow_knowing(origin, capability, &Context::inbound(), look_up).await;
    allowed.map_err(Error::from)
}
