//! Routing keys.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::naming::{id_of, word};

/// Under what a message is published. Ids in it are one word each ([`crate::naming::word`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `chat.message.conversation.{id}`: somebody said something in a room.
    Message(OwnedRoomId),
    /// `user.status.online.{id}`.
    Online(OwnedUserId),
    /// `user.status.offline.{id}`.
    Offline(OwnedUserId),
    /// `system.notification.conversation.{id}`: what a room is like changed, such as who is in it.
    Notification(OwnedRoomId),
    /// `system.broadcast`.
    Broadcast,
    /// `system.event`.
    Event,
}

impl Key {
    /// The type of its messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Message(_) => "chat.message",
            Self::Online(_) | Self::Offline(_) => "user.status",
            Self::Notification(_) => "system.notification",
            Self::Broadcast => "system.broadcast",
            Self::Event => "system.event",
        }
    }

    /// As it stands in a message.
    pub fn routing_key(&self) -> String {
        match self {
            Self::Message(room) => format!("chat.message.conversation.{}", word(room.as_str())),
            Self::Online(user) => format!("user.status.online.{}", word(user.as_str())),
            Self::Offline(user) => format!("user.status.offline.{}", word(user.as_str())),
            Self::Notification(room) => format!("system.notification.conversation.{}", word(room.as_str())),
            Self::Broadcast => "system.broadcast".to_owned(),
            Self::Event => "system.event".to_owned(),
        }
    }

    /// The key that is written so. `None`: there is no such key.
    pub fn parse(routing_key: &str) -> Option<Self> {
        let room = |word: &str| RoomId::parse(id_of(word)?).ok();
        let user = |word: &str| UserId::parse(id_of(word)?).ok();
        match routing_key {
            "system.broadcast" => return Some(Self::Broadcast),
            "system.event" => return Some(Self::Event),
            _ => {}
        }
        let (front, id) = routing_key.rsplit_once('.')?;
        match front {
            "chat.message.conversation" => room(id).map(Self::Message),
            "user.status.online" => user(id).map(Self::Online),
            "user.status.offline" => user(id).map(Self::Offline),
            "system.notification.conversation" => room(id).map(Self::Notification),
            _ => None,
        }
    }
}

/// Whether a routing key is one of a topic exchange's pattern: `*` is one word, `#` any number of them.
pub fn matches(pattern: &str, routing_key: &str) -> bool {
    fn go(pattern: &[&str], words: &[&str]) -> bool {
        match (pattern, words) {
            ([], []) => true,
            (["#", rest @ ..], _) => (0..=words.len()).any(|skip| go(rest, &words[skip..])),
            (["*", rest @ ..], [_, words @ ..]) => go(rest, words),
            ([first, rest @ ..], [word, words @ ..]) => first == word && go(rest, words),
            _ => false,
        }
    }
    go(&pattern.split('.').collect::<Vec<_>>(), &routing_key.split('.').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id};

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let keys = [
            (Key::Message(owned_room_id!("!r.x:a.test")), "chat.message.conversation.%21r%2Ex%3Aa%2Etest"),
            (Key::Online(owned_user_id!("@u:a.test")), "user.status.online.%40u%3Aa%2Etest"),
            (Key::Offline(owned_user_id!("@u:a.test")), "user.status.offline.%40u%3Aa%2Etest"),
            (Key::Notification(owned_room_id!("!r:a.test")), "system.notification.conversation.%21r%3Aa%2Etest"),
            (Key::Broadcast, "system.broadcast"),
            (Key::Event, "system.event"),
        ];
        for (key, written) in keys {
            assert_eq!(key.routing_key(), written);
            assert_eq!(Key::parse(written), Some(key));
        }
        for none in
            ["", "chat.message", "chat.message.conversation.!r:a.test", "system.event.x", "chat.message.conversation."]
        {
            assert_eq!(Key::parse(none), None, "{none}");
        }
    }

    #[test]
    fn patterns_match_as_at_a_broker() {
        assert!(matches("chat.message.#", "chat.message.conversation.x") && matches("chat.message.#", "chat.message"));
        assert!(matches("chat.*.conversation.#", "chat.message.conversation.x") && matches("#.x", "a.b.x"));
        assert!(
            !matches("chat.message.*", "chat.message.conversation.x") && !matches("chat.message", "chat.message.x")
        );
        assert!(matches("system.event", "system.event") && !matches("*", "system.event"));
    }
}
