//! What people are notified of: broadcasts, friend requests, invitations, files that are offered to them, and where they are mentioned.
//!
//! Nothing is made for it when something happens: each of these is somewhere already, and has its position in the one stream, so what
//! a user is notified of is merged when it is asked for, the latest first. What is written is only what was read: up to a mark, and
//! one by one after it.

use std::{collections::HashSet, sync::Arc};

use model::{Kind, Millis, Position, Refusal, TimelineEvent};
use rooms::{FriendDirection, FriendError, FriendRequest, Invited, RoomError, Rooms, Transfer, TransferError};
use ruma::{OwnedRoomId, UserId};
use store::{Store, Write, notifications as rows};
use sync::{Sync, SyncError};

use crate::{
    broadcasts::{Broadcast, BroadcastError, Broadcasts, Wanted as BroadcastsWanted},
    now,
};

/// How often the next stretch is looked at for one answer where little of it is unread.
const LOOKS: usize = 5;
/// How many are counted.
const COUNTED_AT_MOST: usize = 100;
/// How many can be marked at once.
const MARKED_AT_ONCE: usize = 200;

/// Of what kind a notification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationKind {
    /// A broadcast.
    System,
    /// Somebody asks for friendship.
    FriendRequest,
    /// Somebody is invited.
    Invitation,
    /// Somebody is mentioned.
    Mention,
    /// Somebody is offered a file.
    FileTransfer,
}

impl NotificationKind {
    /// All.
    pub const ALL: [Self; 5] = [Self::System, Self::FriendRequest, Self::Invitation, Self::Mention, Self::FileTransfer];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::FriendRequest => "friend_request",
            Self::Invitation => "invitation",
            Self::Mention => "mention",
            Self::FileTransfer => "file_transfer",
        }
    }
}

/// Something that a user is notified of.
#[derive(Clone, Debug)]
pub struct Notification {
    /// When it became visible; what it is called.
    pub position: Position,
    /// When it happened.
    pub at: Millis,
    /// The user has read it.
    pub is_read: bool,
    /// What it is about.
    pub about: About,
}

/// What a notification is about.
#[derive(Clone, Debug)]
pub enum About {
    /// What people are told.
    Broadcast(Box<Broadcast>),
    /// Somebody asks for friendship.
    FriendRequest(Box<FriendRequest>),
    /// Somebody is invited.
    Invitation(Box<Invited>),
    /// The user is mentioned.
    Mention {
        /// Where.
        room_id: OwnedRoomId,
        /// By what.
        event: Arc<TimelineEvent>,
    },
    /// Somebody offers the user a file.
    FileTransfer(Box<Transfer>),
}

impl Notification {
    /// Of what kind it is.
    pub fn kind(&self) -> NotificationKind {
        match self.about {
            About::Broadcast(_) => NotificationKind::System,
            About::FriendRequest(_) => NotificationKind::FriendRequest,
            About::Invitation(_) => NotificationKind::Invitation,
            About::Mention { .. } => NotificationKind::Mention,
            About::FileTransfer(_) => NotificationKind::FileTransfer,
        }
    }
}

/// Which notifications.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotificationsWanted {
    /// Of this kind; `None`: of all.
    pub kind: Option<NotificationKind>,
    /// Only what was not read.
    pub is_unread: bool,
    /// Before this.
    pub before: Option<Position>,
    /// How many at most, 1 at least.
    pub limit: usize,
}

/// Some of what a user is notified of.
#[derive(Clone, Debug)]
pub struct NotificationPage {
    /// The latest first.
    pub notifications: Vec<Notification>,
    /// The next page begins before this; `None`: there is none.
    pub next: Option<Position>,
}

/// How much a user has not read.
#[derive(Clone, Debug, Default)]
pub struct UnreadNotifications {
    /// Of each kind.
    pub kinds: Vec<(NotificationKind, usize)>,
    /// There are more than were counted.
    pub is_limited: bool,
}

/// Why notifications could not be read or marked.
#[derive(Debug, thiserror::Error)]
pub enum NotificationError {
    /// Too much at once.
    #[error("{MARKED_AT_ONCE} notifications can be marked at once")]
    TooMany,
    /// Nothing has happened there yet.
    #[error("there is no such notification")]
    Unknown,
    /// Broadcasts could not be read.
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    /// Requests could not be read.
    #[error(transparent)]
    Friend(#[from] FriendError),
    /// Offers could not be read.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// Rooms could not be read.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// Mentions could not be read.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The store failed.
    #[error("notifications could not be read or marked")]
    Store(#[from] store::Error),
}

impl Refusal for NotificationError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooMany => Kind::Invalid,
            Self::Unknown => Kind::NotFound,
            Self::Broadcast(error) => error.kind(),
            Self::Friend(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Room(error) => error.kind(),
            Self::Sync(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

/// What one of the sources has: notifications, and where it stopped looking; `None`: it has no more.
type Stretch = (Vec<Notification>, Option<Position>);

/// What people are notified of. Cheap to clone.
#[derive(Clone)]
pub struct Notifications {
    store: Store,
    rooms: Rooms,
    sync: Sync,
    broadcasts: Broadcasts,
}

impl Notifications {
    /// `broadcasts`: whose people are notified.
    pub fn new(store: Store, rooms: Rooms, sync: Sync, broadcasts: Broadcasts) -> Self {
        Self { store, rooms, sync, broadcasts }
    }

    /// Some of what a user is notified of, the latest first. Requests, invitations and offers are there while they wait for an answer.
    pub async fn page(
        &self,
        user_id: &UserId,
        wanted: NotificationsWanted,
    ) -> Result<NotificationPage, NotificationError> {
        let mut notifications = Vec::new();
        let mut before = wanted.before.unwrap_or(Position(i64::MAX));
        let read_upto = self.store.notifications().read_upto(user_id).await?;
        for _ in 0..LOOKS {
            let (mut found, floor) = self.stretch(user_id, wanted.kind, before, wanted.limit).await?;
            self.note_read(user_id, read_upto, &mut found).await?;
            let has_more = floor.is_some();
            let end = floor.unwrap_or(Position(0));
            for notification in found {
                before = notification.position;
                if wanted.is_unread && notification.is_read {
                    continue;
                }
                notifications.push(notification);
                if notifications.len() == wanted.limit {
                    return Ok(NotificationPage { notifications, next: Some(before) });
                }
            }
            if !has_more {
                return Ok(NotificationPage { notifications, next: None });
            }
            before = before.min(end);
        }
        Ok(NotificationPage { notifications, next: Some(before) })
    }

    /// How much a user has not read.
    pub async fn unread(&self, user_id: &UserId) -> Result<UnreadNotifications, NotificationError> {
        let wanted = NotificationsWanted { is_unread: true, limit: COUNTED_AT_MOST, ..NotificationsWanted::default() };
        let page = self.page(user_id, wanted).await?;
        let count = |kind| page.notifications.iter().filter(|one| one.kind() == kind).count();
        let kinds = NotificationKind::ALL.into_iter().map(|kind| (kind, count(kind))).collect();
        Ok(UnreadNotifications { kinds, is_limited: page.next.is_some() })
    }

    /// A user has read some notifications: 200 at most.
    pub async fn read(&self, user_id: &UserId, positions: &[Position]) -> Result<(), NotificationError> {
        if positions.len() > MARKED_AT_ONCE {
            return Err(NotificationError::TooMany);
        }
        let visible = self.store.visible_position().await?;
        if positions.iter().any(|position| *position > visible || position.0 <= 0) {
            return Err(NotificationError::Unknown);
        }
        if positions.is_empty() {
            return Ok(());
        }
        for position in positions {
            let next = Position(position.0 + 1);
            let published = self.store.broadcasts().published(user_id, next, 1).await?;
            if let Some((row, _)) = published.into_iter().find(|(row, _)| row.position == Some(*position)) {
                self.read_broadcast(user_id, &row.id).await?;
            }
        }
        let mut write = Write::new();
        rows::read(&mut write, user_id, positions, now());
        self.store.commit(write).await?;
        Ok(())
    }

    /// A user has read everything up to `upto`; `None`: everything that there is now.
    pub async fn read_all(&self, user_id: &UserId, upto: Option<Position>) -> Result<(), NotificationError> {
        let visible = self.store.visible_position().await?;
        let upto = upto.map_or(visible, |upto| upto.min(visible));
        let mut wanted = BroadcastsWanted {
            unread: true,
            before: Some(Position(upto.0 + 1)),
            limit: MARKED_AT_ONCE,
            ..BroadcastsWanted::default()
        };
        loop {
            let page = self.broadcasts.page(user_id, wanted).await?;
            for seen in page.broadcasts {
                self.read_broadcast(user_id, &seen.broadcast.row.id).await?;
            }
            let Some(next) = page.next else { break };
            wanted.before = Some(next);
        }
        let mut write = Write::new();
        rows::read_all(&mut write, user_id, upto);
        self.store.commit(write).await?;
        Ok(())
    }

    /// What is read here is read among the broadcasts too. One that isn't for the user is nobody's business.
    async fn read_broadcast(&self, user_id: &UserId, id: &str) -> Result<(), NotificationError> {
        match self.broadcasts.read(user_id, id).await {
            Ok(()) | Err(BroadcastError::Unknown) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The latest `limit` before `before`, and from where on nothing has been looked at.
    async fn stretch(
        &self,
        user_id: &UserId,
        kind: Option<NotificationKind>,
        before: Position,
        limit: usize,
    ) -> Result<Stretch, NotificationError> {
        let (mut found, mut floor) = (Vec::new(), None);
        for source in NotificationKind::ALL.into_iter().filter(|source| kind.is_none_or(|kind| kind == *source)) {
            let (some, end) = match source {
                NotificationKind::System => self.broadcasts_before(user_id, before, limit).await?,
                NotificationKind::FriendRequest => self.requests_before(user_id, before, limit).await?,
                NotificationKind::Invitation => self.invitations_before(user_id, before, limit).await?,
                NotificationKind::Mention => self.mentions_before(user_id, before, limit).await?,
                NotificationKind::FileTransfer => self.transfers_before(user_id, before, limit).await?,
            };
            found.extend(some);
            floor = floor.max(end);
        }
        // What lies deeper than any source has looked may have others between it.
        found.retain(|one| floor.is_none_or(|floor| one.position >= floor));
        found.sort_unstable_by_key(|one| std::cmp::Reverse(one.position));
        if found.len() > limit {
            found.truncate(limit);
            floor = found.last().map(|one| one.position);
        }
        Ok((found, floor))
    }

    async fn note_read(
        &self,
        user_id: &UserId,
        read_upto: Position,
        found: &mut [Notification],
    ) -> Result<(), NotificationError> {
        let (Some(last), Some(first)) = (found.first(), found.last()) else { return Ok(()) };
        let range = (first.position.max(read_upto), last.position);
        let reads = match range.0 <= range.1 {
            true => self.store.notifications().reads(user_id, range.0, range.1).await?,
            false => HashSet::new(),
        };
        for one in found {
            one.is_read |= one.position <= read_upto || reads.contains(&one.position);
        }
        Ok(())
    }

    // === the sources ===

    async fn broadcasts_before(
        &self,
        user_id: &UserId,
        before: Position,
        limit: usize,
    ) -> Result<Stretch, NotificationError> {
        let wanted = BroadcastsWanted { before: Some(before), limit, ..BroadcastsWanted::default() };
        let page = self.broadcasts.page(user_id, wanted).await?;
        let found = page.broadcasts.into_iter().filter_map(|seen| {
            let (position, at) = (seen.broadcast.row.position?, seen.broadcast.row.published_at?);
            Some(Notification {
                position,
                at,
                is_read: seen.is_read,
                about: About::Broadcast(Box::new(seen.broadcast)),
            })
        });
        Ok((found.collect(), page.next))
    }

    async fn requests_before(
        &self,
        user_id: &UserId,
        before: Position,
        limit: usize,
    ) -> Result<Stretch, NotificationError> {
        let page = self.rooms.friend_requests(user_id, FriendDirection::In, true, Some(before), limit).await?;
        let found = page.requests.into_iter().map(|request| Notification {
            position: request.position,
            at: request.asked_at,
            is_read: false,
            about: About::FriendRequest(Box::new(request)),
        });
        Ok((found.collect(), page.next))
    }

    async fn invitations_before(
        &self,
        user_id: &UserId,
        before: Position,
        limit: usize,
    ) -> Result<Stretch, NotificationError> {
        let (invited, next) = self.rooms.invitations(user_id, before, limit).await?;
        let found = invited.into_iter().map(|invited| Notification {
            position: invited.position,
            at: invited.at,
            is_read: false,
            about: About::Invitation(Box::new(invited)),
        });
        Ok((found.collect(), next))
    }

    async fn transfers_before(
        &self,
        user_id: &UserId,
        before: Position,
        limit: usize,
    ) -> Result<Stretch, NotificationError> {
        let page = self.rooms.transfers(user_id, FriendDirection::In, true, Some(before), limit).await?;
        let found = page.transfers.into_iter().map(|transfer| Notification {
            position: transfer.position,
            at: transfer.offered_at,
            is_read: false,
            about: About::FileTransfer(Box::new(transfer)),
        });
        Ok((found.collect(), page.next))
    }

    async fn mentions_before(
        &self,
        user_id: &UserId,
        before: Position,
        limit: usize,
    ) -> Result<Stretch, NotificationError> {
        let mentions = self.sync.notifications(user_id, Some(before), limit, true).await?;
        let next = (mentions.len() == limit).then(|| mentions.last().map(|one| one.shown.event.position)).flatten();
        let found = mentions.into_iter().map(|mention| Notification {
            position: mention.shown.event.position,
            at: mention.shown.event.pdu.origin_server_ts.get().into(),
            is_read: mention.is_read,
            about: About::Mention { room_id: mention.room_id, event: Arc::new(mention.shown.event.clone()) },
        });
        Ok((found.collect(), next))
    }
}
