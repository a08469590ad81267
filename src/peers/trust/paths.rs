//! What a request between servers is, as the trust table has it.

use model::peer::{Capability, Direction};

/// What it is to ask for `path` of the Matrix server-server API. Whatever isn't named here takes part in rooms.
pub(crate) fn capability_of(path: &str, direction: Direction) -> Capability {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    // `/_matrix/federation/v1/query/profile`: what comes after the version.
    let Some((_, act)) = path.strip_prefix("/_matrix/federation/").and_then(|rest| rest.split_once('/')) else {
        return Capability::Events;
    };
    let first = act.split('/').next().unwrap_or_default();
    match (first, direction) {
        ("query", _) if act.starts_with("query/profile") => Capability::Profiles,
        ("make_join" | "send_join" | "make_knock" | "send_knock", Direction::In) => Capability::Join,
        ("make_join" | "send_join" | "make_knock" | "send_knock", Direction::Out) => Capability::JoinThere,
        ("invite" | "exchange_third_party_invite", _) => Capability::FirstContact,
        ("user", _) => Capability::Devices,
        ("publicRooms", Direction::In) => Capability::PublicRooms,
        ("media", _) => Capability::Media,
        _ => Capability::Events,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_its_endpoint_does() {
        use Capability::*;
        use Direction::{In, Out};
        for (path, direction, capability) in [
            ("/_matrix/federation/v1/send/1", In, Events),
            ("/_matrix/federation/v1/query/profile?user_id=@a:b", In, Profiles),
            ("/_matrix/federation/v1/query/directory?room_alias=x", Out, Events),
            ("/_matrix/federation/v1/make_join/!r/@a:b?ver=12", In, Join),
            ("/_matrix/federation/v2/send_join/!r/$e", Out, JoinThere),
            ("/_matrix/federation/v1/make_leave/!r/@a:b", Out, Events),
            ("/_matrix/federation/v2/invite/!r/$e", Out, FirstContact),
            ("/_matrix/federation/v1/user/keys/claim", In, Devices),
            ("/_matrix/federation/v1/publicRooms", In, PublicRooms),
            ("/_matrix/federation/v1/media/download/x", Out, Media),
            ("/_matrix/federation/v1/backfill/!r", In, Events),
        ] {
            assert_eq!(capability_of(path, direction), capability, "{path}");
        }
    }
}
