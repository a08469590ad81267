//! Which rules a room obeys.

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// The room versions this server makes and joins, oldest first, all stable.
pub fn supported_room_versions() -> [RoomVersionId; 12] {
    [
        RoomVersionId::V1,
        RoomVersionId::V2,
        RoomVersionId::V3,
        RoomVersionId::V4,
        RoomVersionId::V5,
        RoomVersionId::V6,
        RoomVersionId::V7,
        RoomVersionId::V8,
        RoomVersionId::V9,
        RoomVersionId::V10,
        RoomVersionId::V11,
        RoomVersionId::V12,
    ]
}

/// Whether this server makes and joins rooms of `version`.
pub fn is_supported(version: &RoomVersionId) -> bool {
    supported_room_versions().contains(version)
}

/// The rules of `version`, if this server supports it.
pub fn rules_of(version: &RoomVersionId) -> Option<RoomVersionRules> {
    is_supported(version).then(|| version.rules()).flatten()
}
