//! Images and files: taken from the people of this server, fetched from others, made small, given back.
//!
//! **Invariant.** No file is ever whole in memory but one that is being scaled, whose size is bounded. A file is durable
//! before anybody hears its name, equal files are kept once, and one that ends early leaves nothing. Nothing is believed
//! about a file but its bytes. None gets a name before it was looked at (`inspect`), whichever way it came.
//!
//! Files are in a folder, or in a bucket that all nodes reach; what is being written is in the folder either way.
//!
//! **To keep another kind of derived file:** a key beside the others in `files`, named by the hash of what it was derived from.

mod content_type;
mod error;
mod files;
mod find;
mod for_peers;
mod inspect;
mod item;
mod kinds;
mod partial;
mod parts;
mod remote;
mod resumable;
mod scale;
mod scan;
mod sniff;
mod thumbnail;
mod upload;

#[cfg(test)]
mod resumable_tests;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model::{Millis, gate::GateSlot};
use peers::Peers;
use ruma::{OwnedServerName, ServerName};
use store::Store;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use content_type::is_shown_inline;
pub use error::{MediaError, RemoteFailure};
pub use files::S3Config;
pub use find::{Reach, Uploaded};
pub use for_peers::Given;
pub use item::Item;
pub use kinds::{KindPattern, KindPatternError, Kinds};
pub use resumable::{Announced, Progress};
pub use scale::{Fit, Wanted};
pub use scan::{ClamdAddress, ClamdAddressError, ScanConfig};
pub use upload::{Described, Reserved};

/// How often what was left half done is looked for.
const TIDY_EVERY: Duration = Duration::from_hours(1);

/// Tells the time.
type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// `[media]`.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// The folder of the files; where there is a bucket, of those that are being written.
    pub path: PathBuf,
    /// The bucket of the files; `None`: they are in the folder.
    pub bucket: Option<S3Config>,
    /// The largest file that is taken from a client, bytes.
    pub max_upload: u64,
    /// The largest file that is fetched from another server, bytes.
    pub max_remote: u64,
    /// How many files are fetched from other servers at once.
    pub concurrent_fetches: usize,
    /// How long one may take.
    pub fetch_timeout: Duration,
    /// How many pictures are scaled at once; each may need 256 MiB.
    pub concurrent_thumbnails: usize,
    /// How long an upload may pause.
    pub idle_timeout: Duration,
    /// How many bytes one user may have here; `None`: any number.
    pub quota: Option<u64>,
    /// Which kinds of file are taken.
    pub kinds: Kinds,
    /// How files are looked at for viruses; `None`: they aren't.
    pub scan: Option<ScanConfig>,
}

impl MediaConfig {
    /// The defaults, with files in `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            bucket: None,
            max_upload: 50 << 20,
            max_remote: 50 << 20,
            concurrent_fetches: 4,
            fetch_timeout: Duration::from_secs(120),
            concurrent_thumbnails: 2,
            idle_timeout: Duration::from_secs(30),
            quota: None,
            kinds: Kinds::default(),
            scan: None,
        }
    }
}

/// Why there is no place for files.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be made or read.
    #[error("the media folder can't be used")]
    Folder(#[source] io::Error),
    /// The bucket can't be reached, or refuses.
    #[error("the bucket can't be used: look at {setting}")]
    Bucket {
        /// What in the configuration is probably wrong.
        setting: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// There is no way to any bucket.
    #[error("the bucket can't be spoken to")]
    Client(#[source] peers::PeerError),
}

/// What `mxc://server/id` names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mxc {
    /// Whose it is.
    pub server: OwnedServerName,
    /// What it is called there.
    pub id: String,
}

impl Mxc {
    /// `mxc://server/id`. What can't be one is never found.
    pub fn new(server: impl Into<OwnedServerName>, id: impl Into<String>) -> Self {
        Self { server: server.into(), id: id.into() }
    }

    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#security-considerations-5>
    fn is_valid(&self) -> bool {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..=255).contains(&self.id.len()) && self.id.bytes().all(is_allowed)
    }
}

/// Images and files. Cheap to clone.
#[derive(Clone)]
pub struct Media {
    shared: Arc<Shared>,
}

struct Shared {
    config: MediaConfig,
    server_name: OwnedServerName,
    store: Store,
    files: files::Files,
    clock: Clock,
    remote: remote::Remote,
    scaling: Arc<Semaphore>,
    scanner: Option<scan::Scanner>,
    /// Rings when a name got its content.
    filled: Notify,
    gate: GateSlot,
}

impl Media {
    /// Opens the folder, and makes it where it isn't there; and the bucket, if there is one, which must be there and let itself be
    /// written.
    pub async fn open(config: MediaConfig, store: Store, peers: Peers) -> Result<Self, OpenError> {
        let server_name = peers.server_name().to_owned();
        let folder = files::Folder::open(config.path.clone()).await.map_err(OpenError::Folder)?;
        let bucket = match &config.bucket {
            Some(s3) => {
                let http = peers.plain_client().map_err(OpenError::Client)?;
                let opened = files::open_bucket(s3, http).await;
                Some(opened.map_err(|source| OpenError::Bucket { setting: files::setting_of(&source), source })?)
            }
            None => None,
        };
        let files = files::Files::new(folder, bucket);
        Ok(Self::open_with(config, files, server_name, store, Box::new(peers), Arc::new(wall_clock)))
    }

    /// As [`Self::open`], with files that are open, another way to other servers, and a clock.
    fn open_with(
        config: MediaConfig,
        files: files::Files,
        server_name: OwnedServerName,
        store: Store,
        ask: Box<dyn remote::AskServers>,
        clock: Clock,
    ) -> Self {
        let remote = remote::Remote::new(ask, config.concurrent_fetches);
        let scaling = Arc::new(Semaphore::new(config.concurrent_thumbnails));
        let scanner = config.scan.clone().map(scan::Scanner::new);
        let filled = Notify::new();
        let gate = GateSlot::default();
        let shared = Shared { config, server_name, store, files, clock, remote, scaling, scanner, filled, gate };
        Self { shared: Arc::new(shared) }
    }

    /// What is wrong with where the files are, in words for the operator.
    pub fn findings(&self) -> Vec<String> {
        let is_away = self.shared.files.bucket().is_some_and(files::Bucket::is_away);
        let away = "the bucket of media.s3 can't be reached, or refuses: files can neither be sent nor fetched";
        if is_away { vec![away.to_owned()] } else { Vec::new() }
    }

    /// Removes now and then what was never completed and will not be, until `stop`.
    pub async fn tend(&self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.shared.files.tidy().await {
                warn!(error = &error as &dyn std::error::Error, "failed to tidy where files are");
            }
            if stop.run_until_cancelled(tokio::time::sleep(TIDY_EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// How media behave here.
    pub fn config(&self) -> &MediaConfig {
        &self.shared.config
    }

    /// Where to put whoever is to be asked before a file is stored.
    pub fn gate(&self) -> &GateSlot {
        &self.shared.gate
    }

    /// The name of this server.
    pub fn server_name(&self) -> &ServerName {
        &self.shared.server_name
    }

    fn now(&self) -> Millis {
        (self.shared.clock)()
    }
}

fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
