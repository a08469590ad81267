//! What both the server and the command line stand on: the database, the keys, the people, the rooms, and who hears of commits.

use std::sync::{Arc, OnceLock};

use fabric::{Courier, Mailer};
use federation::{Bridge, Sender};
use integrations::{Announcements, Statistics, Stream};
use model::{Committed, SigningKey};
use peers::{Peers, vault::Vault};
use rooms::{Rooms, Search};
use store::Store;
use sync::Notifier;
use users::{RemoteUsers, Shared, Users};

use super::{StartError, make_data_folder, settings};
use crate::{config::Config, nodes::Nodes, signing_key::KeyFile};

/// What both the server and the command line stand on.
pub struct Core {
    pub(super) notifier: Notifier,
    pub store: Store,
    /// What this server signs with.
    pub(super) key: Arc<SigningKey>,
    pub peers: Peers,
    pub users: Arc<Users>,
    pub rooms: Rooms,
    pub(super) audience: Arc<Audience>,
    /// Seals the secrets that lie in the database.
    pub(super) vault: Arc<Vault>,
    /// Takes letters to the mail relay, if there is one.
    pub(super) courier: Option<Courier>,
}

impl Core {
    /// Opens the database, the accounts and the rooms, for a command: nodes find out within a second what it does.
    pub async fn open(config: &Config) -> Result<Self, StartError> {
        Self::of_node(config, &Nodes::none()).await
    }

    /// As [`Self::open`], for a node that tells the others.
    pub(super) async fn of_node(config: &Config, nodes: &Nodes) -> Result<Self, StartError> {
        make_data_folder(config)?;
        let file = KeyFile::load_or_create(&config.keys_dir)?;
        let key = SigningKey::from_seed(config.server_name.clone(), file.version(), file.seed())
            .ok_or_else(|| StartError::KeyId(file.key_id()))?;
        let key = Arc::new(key);
        let notifier = Notifier::new(&settings::sync_config(config));
        let audience = Arc::new(Audience::of(notifier.clone(), nodes.clone()));
        let hearing = audience.clone();
        let on_commit = Arc::new(move |committed: Committed| hearing.ingest(&committed));
        let store = Store::open(&settings::location(config), config.database.max_connections, on_commit).await?;
        let peers = Peers::new(store.clone(), key.clone(), settings::peers_config(config)?)?;
        peers.trust().open().await?;
        peers.trust().share(nodes.cache());
        let rooms = Rooms::new(store.clone(), peers.clone(), key.clone(), settings::rooms_config(config));
        audience.rooms.get_or_init(|| rooms.clone());
        let vault = Arc::new(Vault::open(&config.keys_dir)?);
        let (mailer, courier) = post(config)?.unzip();
        let shared = Shared { cache: nodes.cache().clone(), vault: vault.clone(), mailer };
        let users = Users::open_sharing(settings::users_config(config), store.clone(), peers.clone(), shared).await?;
        audience.remote_users.get_or_init(|| users.remote_users().clone());
        Ok(Self { notifier, store, key, peers, users, rooms, audience, vault, courier })
    }
}

/// Where letters are handed in, and who takes them to the mail relay, if the configuration names one.
fn post(config: &Config) -> Result<Option<(Mailer, Courier)>, StartError> {
    let Some(config) = settings::mail_config(config) else { return Ok(None) };
    let (mailer, letters) = Mailer::channel();
    Ok(Some((mailer, Courier::new(&config, letters)?)))
}

/// Who hears of commits. The store is there before most of them, so each is told from when it is there.
pub(super) struct Audience {
    notifier: Notifier,
    nodes: Nodes,
    rooms: OnceLock<Rooms>,
    remote_users: OnceLock<RemoteUsers>,
    /// Sends what other servers are owed.
    pub(super) sender: OnceLock<Sender>,
    /// Takes what is said in the rooms of the bridge to where it leads.
    pub(super) bridge: OnceLock<Bridge>,
    /// Tells people what they are to be told.
    pub(super) announcements: OnceLock<Announcements>,
    /// Takes note of what other programs are told.
    pub(super) stream: OnceLock<Stream>,
    /// Puts what is said where it can be found.
    pub(super) search: OnceLock<Search>,
    /// Counts what is said.
    pub(super) statistics: OnceLock<Statistics>,
}

impl Audience {
    fn of(notifier: Notifier, nodes: Nodes) -> Self {
        Self {
            notifier,
            nodes,
            rooms: OnceLock::new(),
            remote_users: OnceLock::new(),
            sender: OnceLock::new(),
            bridge: OnceLock::new(),
            announcements: OnceLock::new(),
            stream: OnceLock::new(),
            search: OnceLock::new(),
            statistics: OnceLock::new(),
        }
    }

    /// Rooms first: who is woken looks into them.
    fn ingest(&self, committed: &Committed) {
        // Somebody else wrote to this database, such as `comity user`: what is remembered may be old.
        if let Some(rooms) = self.rooms.get() {
            match (committed.foreign, committed.gap) {
                (true, true) => rooms.forget_all(),
                (true, false) => rooms.forget_changed(committed),
                (false, _) => rooms.ingest(committed),
            }
        }
        self.notifier.ingest(committed);
        self.nodes.ingest(committed);
        if let Some(sender) = self.sender.get() {
            sender.ingest(committed);
        }
        if let Some(bridge) = self.bridge.get() {
            bridge.ingest(committed);
        }
        if let Some(announcements) = self.announcements.get() {
            announcements.ingest(committed);
        }
        if let Some(stream) = self.stream.get() {
            stream.ingest(committed);
        }
        if let Some(search) = self.search.get() {
            search.ingest(committed);
        }
        if let Some(statistics) = self.statistics.get() {
            statistics.ingest(committed);
        }
        if let Some(remote_users) = self.remote_users.get() {
            remote_users.ingest(committed);
        }
    }
}
