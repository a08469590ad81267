//! The rooms whose access control lists follow the trust in other servers.

use rooms::KeptAcl;
use serde::Serialize;
use utoipa::ToSchema;

use super::staff::Viewer;
use crate::native::{Answer, Call, Endpoint, get};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/room-acls", "The rooms whose server ACL this server keeps, and how each is.", list)
            .explained("A room asks for it by `\"server_acl\": true` in its state event `org.comity.room.trust`."),
    ]
}

/// Rooms.
#[derive(Serialize, ToSchema)]
struct RoomAcls {
    /// By id; one whose list is not as it should be says why as `problem`.
    #[schema(value_type = Vec<Object>)]
    rooms: Vec<KeptAcl>,
}

async fn list(call: Call<Viewer>) -> Answer<RoomAcls> {
    Ok(RoomAcls { rooms: call.services.rooms.kept_acls() })
}
