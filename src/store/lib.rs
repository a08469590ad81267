//! The store: the only crate that names sqlx or holds SQL.
//!
//! **Invariant.** What the store has acknowledged is durable, and becomes visible in the order of its positions. One SQL
//! text runs on SQLite and PostgreSQL; only `engine` knows which it is.
//!
//! Reading is a method of a table group (`store.accounts().find(…)`), one file each. Writing is a value: table groups
//! add rows to a [`Write`], and the [writer](writer) commits many of them in one transaction.
//!
//! **To add a table:** a migration, listed in `migrations`; a file here with a view (`pub struct Things<'a>(&'a Store)`),
//! its reads, and functions that add to a `Write`; a test with [`testing::on_each_engine`].

pub mod account_data;
pub mod accounts;
pub mod aliases;
pub mod applications;
pub mod audit;
pub mod before_hooks;
pub mod bridge;
pub mod broadcast_deliveries;
pub mod broadcasts;
pub mod broker_links;
pub mod browser_sessions;
pub mod cascade;
pub mod conversations;
pub mod custody;
pub mod delayed_events;
pub mod destinations;
pub mod device_keys;
pub mod device_receipts;
pub mod devices;
pub mod directory;
pub mod duties;
mod engine;
mod error;
pub mod events;
pub mod federation_lists;
pub mod figures;
pub mod filters;
pub mod followers;
pub mod friends;
mod ids;
pub mod inbox;
pub mod ip_bans;
mod journal;
pub mod key_backups;
pub mod ledger;
pub mod media;
mod migrations;
pub mod notices;
pub mod notifications;
pub mod oauth;
pub mod oauth_device_codes;
pub mod outbox;
pub mod peering;
pub mod peers;
pub mod pending_accounts;
pub mod presence;
pub mod presence_sequences;
pub mod profiles;
pub mod pushers;
pub mod receipts;
pub mod relations;
pub mod remote_devices;
pub mod remote_users;
pub mod reports;
pub mod roles;
pub mod rooms;
pub mod search;
pub mod second_factors;
pub mod server_keys;
pub mod settings;
pub mod sip_phones;
pub mod sliding;
pub mod sso;
pub mod state;
pub mod sync;
pub mod system_events;
pub mod timed_messages;
pub mod to_device;
pub mod tokens;
pub mod transfers;
pub mod unread;
pub mod uploads;
pub mod used_tokens;
pub mod user_directory;
pub mod verification;
pub mod webhooks;
pub mod word_sets;
mod write;
mod writer;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::{borrow::Cow, sync::Arc};

use model::Position;

pub use engine::{Arg, Location, Row};
pub use error::Error;
pub use model::Committed;
pub use write::{RoomVersion, Table, Write};
pub use writer::{OnCommit, Pending, Slot};

/// The database of this deployment. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: engine::Pool,
    writer: writer::Writer,
    ids: Arc<ids::Ids>,
    duties: duties::Duties,
}

impl Store {
    /// Opens the database, brings its schema up to date and starts the writer.
    ///
    /// `readers`: how many connections may read at once. `on_commit` hears of every commit in order.
    pub async fn open(location: &Location, readers: u32, on_commit: OnCommit) -> Result<Self, Error> {
        let pool = engine::Pool::open(location, readers).await?;
        pool.migrate(&migrations::for_engine(pool.is_postgres())).await?;
        let visible = visible_position(&pool).await?;
        let ids = Arc::new(ids::Ids::open(pool.clone()).await?);
        // Whoever listens starts from what was there before.
        on_commit(Committed { upto: visible, changes: Arc::new([]), gap: true, foreign: true });
        let duties = duties::Duties::default();
        let writer = writer::Writer::start(pool.clone(), visible, on_commit, duties.clone());
        Ok(Self { pool, writer, ids, duties })
    }

    /// Hands `write` to the writer and waits until it is durable. Answers the first of its positions.
    pub async fn commit(&self, write: Write) -> Result<Position, Error> {
        self.writer.enqueue(write).await?.committed().await
    }

    /// Takes a place in the writer's queue: what is then handed over takes effect in the order of handing over.
    pub async fn reserve(&self) -> Result<Slot<'_>, Error> {
        self.writer.reserve().await
    }

    /// Sees to it that `count` calls of [`Self::next_nid`] can follow.
    pub async fn ensure_nids(&self, count: i64) -> Result<(), Error> {
        self.ids.ensure(count).await
    }

    /// A new number for a room, an event or a snapshot.
    pub fn next_nid(&self) -> i64 {
        self.ids.next()
    }

    /// The highest position that can be read now.
    pub async fn visible_position(&self) -> Result<Position, Error> {
        visible_position(&self.pool).await
    }

    /// Another node is said to have committed something: whoever listens hears of it at once, instead of within a second.
    pub fn look(&self) {
        self.writer.look();
    }

    /// Whether several nodes may use this database.
    pub fn is_shared(&self) -> bool {
        self.pool.is_postgres()
    }

    /// What this node does and others don't.
    pub fn duties(&self) -> &duties::Duties {
        &self.duties
    }

    /// Reads rooms and memberships.
    pub fn rooms(&self) -> rooms::Rooms<'_> {
        rooms::Rooms(self)
    }

    /// Reads aliases and the directory.
    pub fn aliases(&self) -> aliases::Aliases<'_> {
        aliases::Aliases(self)
    }

    /// Reads events.
    pub fn events(&self) -> events::Events<'_> {
        events::Events(self)
    }

    /// Reads room states.
    pub fn state(&self) -> state::State<'_> {
        state::State(self)
    }

    /// Reads account data.
    pub fn account_data(&self) -> account_data::AccountData<'_> {
        account_data::AccountData(self)
    }

    /// Reads receipts.
    pub fn receipts(&self) -> receipts::Receipts<'_> {
        receipts::Receipts(self)
    }

    /// Reads messages to devices.
    pub fn to_device(&self) -> to_device::ToDevice<'_> {
        to_device::ToDevice(self)
    }

    /// Reads presence.
    pub fn presence(&self) -> presence::Presence<'_> {
        presence::Presence(self)
    }

    /// Reads stored filters.
    pub fn filters(&self) -> filters::Filters<'_> {
        filters::Filters(self)
    }

    /// Reads for lists of conversations.
    pub fn conversations(&self) -> conversations::Conversations<'_> {
        conversations::Conversations(self)
    }

    /// Reads how far unread events are counted.
    pub fn unread(&self) -> unread::Unread<'_> {
        unread::Unread(self)
    }

    /// Reads what syncs look up.
    pub fn sync(&self) -> sync::SyncReads<'_> {
        sync::SyncReads(self)
    }

    /// Reads what is known of images and files.
    pub fn media(&self) -> media::Media<'_> {
        media::Media(self)
    }

    /// Reads what is known of files that are coming.
    pub fn uploads(&self) -> uploads::Uploads<'_> {
        uploads::Uploads(self)
    }

    /// Runs a query. Its text is made of constants; what comes from outside is in `args`.
    pub(crate) async fn query(&self, sql: impl Into<Cow<'static, str>>, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
        self.pool.fetch_all(sql.into(), args).await
    }

    /// Closes the connections that read; the writer goes on until its queue is empty.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

async fn visible_position(pool: &engine::Pool) -> Result<Position, Error> {
    let rows = pool.fetch_all(writer::VISIBLE.into(), Vec::new()).await?;
    rows.first().ok_or_else(|| Error::Corrupt("no row in positions".into()))?.int(0).map(Position)
}

/// `$1, $2, $3` for a list of `count` values that begins at parameter `first`.
pub(crate) fn places(first: usize, count: usize) -> String {
    (first..first + count).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
}
