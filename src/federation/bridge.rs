//! The built-in bridge, to chat systems that don't speak Matrix: messages from one person to one other, each with an id.
//!
//! In: whoever writes appears here as a guest (`users::guests`), in an ordinary room of two with the one written to, which is
//! marked as a bridge's. Out: what is said in such a room goes to the server of the other one. There is no queue beside the
//! rooms: each room knows up to where its messages were taken, so that none is lost and none needs a row of its own.

mod book;
mod receive;
mod reply;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::{AddressError, Change, Committed, Kind, Refusal};
use peers::{Peers, TrustError};
use rooms::{RoomError, Rooms};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, ServerName, events::TimelineEventType};
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::{sync::Notify, time::Instant};
use users::{RegisterError, Users};

use crate::{Curves, Inbound, InboundError};
use book::Book;
use receive::FirstContacts;

/// How many rooms may wait to be looked at; more are found by looking through the store.
const MOST_ROOMS: usize = 10_000;

/// A message from somebody to somebody, in the simple form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimpleMessage {
    /// What the sender's server calls it.
    pub message_id: String,
    /// `bob@b.example`.
    pub from: String,
    /// `alice@a.example`.
    pub to: String,
    /// The text.
    pub body: String,
    /// When it was written, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<i64>,
}

/// A message was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The event that it has become.
    pub event_id: OwnedEventId,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Its id can't be one.
    #[error("`message_id` is empty or longer than 255 bytes")]
    MessageId,
    /// Its text can't be one.
    #[error("`body` is empty or longer than 32 KiB")]
    Body,
    /// Its sender or its recipient has no address.
    #[error("`{field}`: {source}")]
    Address {
        /// `from` or `to`.
        field: &'static str,
        /// What is wrong with it.
        source: AddressError,
    },
    /// Its sender's name would not look like what it is.
    #[error("`from` has a name with blanks or letters that can't be seen")]
    Name,
    /// A server speaks for its own users only.
    #[error("`from` is no user of {0}, which has signed the request")]
    Foreign(OwnedServerName),
    /// There is no such user here.
    #[error("`to` is no user of this server")]
    UnknownUser,
    /// Too many people were written to for the first time.
    #[error("your users write to too many people here for the first time")]
    TooManyContacts {
        /// When it may be tried again.
        retry_after_ms: u64,
    },
    /// Its server is not trusted so far.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Earlier messages are still being taken.
    #[error(transparent)]
    Busy(#[from] InboundError),
    /// There is no guest for the sender.
    #[error(transparent)]
    Guest(#[from] RegisterError),
    /// The room doesn't take it.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The store failed.
    #[error("the message could not be stored")]
    Store(#[from] store::Error),
}

impl BridgeError {
    /// Whether the same message may be taken later.
    pub fn may_pass(&self) -> bool {
        matches!(self.kind(), Kind::RateLimited | Kind::Unavailable | Kind::Internal | Kind::Conflict)
    }
}

impl Refusal for BridgeError {
    fn kind(&self) -> Kind {
        match self {
            Self::MessageId | Self::Body | Self::Address { .. } | Self::Name => Kind::Invalid,
            Self::Foreign(_) => Kind::Forbidden,
            Self::UnknownUser => Kind::NotFound,
            Self::TooManyContacts { .. } => Kind::RateLimited,
            Self::Trust(error) => error.kind(),
            Self::Busy(error) => error.kind(),
            Self::Guest(error) => error.kind(),
            Self::Room(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Foreign(_) => Some("foreign_user"),
            Self::UnknownUser => Some("unknown_user"),
            Self::Trust(error) => error.code(),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::TooManyContacts { retry_after_ms } => Some(*retry_after_ms),
            Self::Trust(error) => error.retry_after_ms(),
            Self::Busy(error) => error.retry_after_ms(),
            _ => None,
        }
    }
}

/// Between this server's people and those of chat systems that don't speak Matrix. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    rooms: Rooms,
    users: Arc<Users>,
    peers: Peers,
    inbound: Inbound,
    curves: Curves,
    contacts: FirstContacts,
    heard: Mutex<Heard>,
    book: Mutex<Book>,
    /// Something was heard, or a server is there again.
    news: Notify,
}

/// What was said and not looked at yet.
#[derive(Default)]
struct Heard {
    rooms: HashSet<OwnedRoomId>,
    /// More was said than is remembered.
    is_behind: bool,
}

impl Bridge {
    /// `inbound`: by which the bridge keeps one server's requests in order.
    pub fn new(store: Store, rooms: Rooms, users: Arc<Users>, peers: Peers, inbound: Inbound, curves: Curves) -> Self {
        let shared = Shared {
            store,
            rooms,
            users,
            peers,
            inbound,
            curves,
            contacts: FirstContacts::default(),
            heard: Mutex::default(),
            book: Mutex::default(),
            news: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Hears of a commit. Doesn't block.
    pub fn ingest(&self, committed: &Committed) {
        let shared = &self.shared;
        let said = committed.changes.iter().filter_map(|(_, change)| match change {
            Change::Event(event) if event.pdu.kind == TimelineEventType::RoomMessage => Some(&event.pdu),
            _ => None,
        });
        let said = said.filter(|pdu| shared.users.is_ours(&pdu.sender) && !shared.users.is_guest(&pdu.sender));
        let mut heard = shared.heard();
        heard.is_behind |= committed.gap;
        for pdu in said {
            if heard.rooms.len() < MOST_ROOMS {
                heard.rooms.insert(pdu.room_id.clone());
            } else {
                heard.is_behind = true;
            }
        }
        if heard.is_behind || !heard.rooms.is_empty() {
            shared.news.notify_one();
        }
    }

    /// Whether what `server` is to be told is this node's to tell.
    pub fn sends_to(&self, server: &ServerName) -> bool {
        self.shared.duty(server).is_some()
    }

    /// `server` has just sent an authenticated request: it is there.
    pub fn alive(&self, server: &ServerName) {
        if self.shared.book().alive(server, Instant::now()) {
            self.shared.news.notify_one();
        }
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
