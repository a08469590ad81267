//! What an application may do.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What an application may do, as far as an admin has said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppScope {
    /// Look users up.
    UsersRead,
    /// Make users.
    UsersCreate,
    /// Open sessions for users, list those and end them.
    TokensMint,
    /// See a user's conversations.
    ConversationsRead,
    /// Begin them, join and leave them, say how a user wants to have them.
    ConversationsWrite,
    /// Read what was said.
    MessagesRead,
    /// Say something as a user, change it and take it back.
    MessagesSend,
    /// See a user's groups.
    GroupsRead,
    /// Make groups, and change them as far as the user may.
    GroupsWrite,
    /// See a user's friends, and who asks for friendship.
    FriendsRead,
    /// Ask for friendship as a user, answer, and end it.
    FriendsWrite,
    /// See what a user is notified of.
    NotificationsRead,
    /// Say that a user has read it.
    NotificationsWrite,
}

/// It is no scope.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no scope: there are {list}", list = AppScope::ALL.map(AppScope::as_str).join(", "))]
pub struct UnknownScope(String);

impl AppScope {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::UsersRead,
        Self::UsersCreate,
        Self::TokensMint,
        Self::ConversationsRead,
        Self::ConversationsWrite,
        Self::MessagesRead,
        Self::MessagesSend,
        Self::GroupsRead,
        Self::GroupsWrite,
        Self::FriendsRead,
        Self::FriendsWrite,
        Self::NotificationsRead,
        Self::NotificationsWrite,
    ];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UsersRead => "users:read",
            Self::UsersCreate => "users:create",
            Self::TokensMint => "tokens:mint",
            Self::ConversationsRead => "conversations:read",
            Self::ConversationsWrite => "conversations:write",
            Self::MessagesRead => "messages:read",
            Self::MessagesSend => "messages:send",
            Self::GroupsRead => "groups:read",
            Self::GroupsWrite => "groups:write",
            Self::FriendsRead => "friends:read",
            Self::FriendsWrite => "friends:write",
            Self::NotificationsRead => "notifications:read",
            Self::NotificationsWrite => "notifications:write",
        }
    }
}

impl fmt::Display for AppScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AppScope {
    type Err = UnknownScope;

    fn from_str(word: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word).ok_or_else(|| UnknownScope(word.to_owned()))
    }
}

impl Serialize for AppScope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for AppScope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
