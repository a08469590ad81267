//! A conversation as the native faces show it.

use model::Millis;
use ruma::{ServerName, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use sync::Conversation;
use utoipa::ToSchema;

use super::{Person, Standing};
use crate::native::message::Message;

/// With whom a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ConversationKind)]
pub(crate) enum Kind {
    /// With one other.
    #[serde(alias = "single", alias = "private")]
    Direct,
    /// With any number.
    Group,
}

/// A conversation as the caller has it.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
pub(crate) struct ConversationView {
    /// Its id, which is the room's.
    pub(crate) conversation_id: String,
    /// With whom it is.
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    /// What one is to it.
    pub(crate) state: Standing,
    /// What it is called: its name, or else after its members.
    pub(crate) name: Option<String>,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
    /// Its picture, an `mxc://` URI; of a direct one the other's.
    pub(crate) avatar_url: Option<String>,
    /// Of a direct one, the other; of an invitation, who invites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) other: Option<Other>,
    /// How many are in it.
    pub(crate) member_count: u64,
    /// How many are invited.
    pub(crate) invited_count: u64,
    /// Only its members' devices can read what is said.
    pub(crate) encrypted: bool,
    /// The last thing that was said.
    pub(crate) last_message: Option<Message>,
    /// When something happened last, milliseconds since 1970.
    pub(crate) active_at: Option<Millis>,
    /// The number of its latest event; 0: none has one.
    pub(crate) last_seq: i64,
    /// The number of the last event that one has read; null: none that has one.
    pub(crate) read_seq: Option<i64>,
    /// What is unread and notifies.
    pub(crate) unread_count: u64,
    /// What of it mentions one.
    pub(crate) mention_count: u64,
    /// It stays at the top.
    pub(crate) pinned: bool,
    /// Nothing in it notifies.
    pub(crate) muted: bool,
    /// What one has begun to write.
    pub(crate) draft: Option<String>,
    /// What has this number or a lower one was cleared by the caller; 0: nothing was.
    pub(crate) cleared_seq: i64,
}

/// The other of a direct conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = ConversationOther)]
pub(crate) struct Other {
    #[serde(flatten)]
    person: Person,
    /// What the other is called.
    display_name: Option<String>,
    /// The other's picture.
    avatar_url: Option<String>,
}

impl ConversationView {
    /// `us`: this server.
    pub(crate) fn of(one: Conversation, us: &ServerName) -> Self {
        let last_message = one.last.and_then(|last| Message::of(&last.event, &one.room_id, last.seq, us));
        Self {
            last_message,
            conversation_id: one.room_id.to_string(),
            kind: if one.is_direct { Kind::Direct } else { Kind::Group },
            state: if one.membership == MembershipState::Invite { Standing::Invited } else { Standing::Joined },
            name: one.name,
            topic: one.topic,
            avatar_url: one.avatar_url,
            other: one.other.map(|other| Other {
                person: Person::from(&*other.user_id),
                display_name: other.display_name,
                avatar_url: other.avatar_url,
            }),
            member_count: one.joined,
            invited_count: one.invited,
            encrypted: one.is_encrypted,
            active_at: one.active_at,
            last_seq: one.last_seq,
            read_seq: one.read_seq,
            unread_count: one.unread.notifications,
            mention_count: one.unread.highlights,
            pinned: one.settings.is_pinned,
            muted: one.settings.is_muted,
            draft: one.settings.draft,
            cleared_seq: one.settings.cleared_upto,
        }
    }
}
