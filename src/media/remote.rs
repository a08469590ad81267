//! Files of other servers: fetched once for everybody who asks meanwhile, and kept.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture};
use metrics::counter;
use model::{
    Millis,
    peer::{Capability, Context, Fact},
};
use peers::{PeerError, Peers, Streamed, TrustError};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName, api::federation::authenticated_media::get_content};
use store::{Write, media as rows};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{Instrument as _, debug, info_span, warn};

use crate::{
    Media, MediaError, Mxc, RemoteFailure,
    content_type::{believed, normalised},
    parts::{FilePart, RemoteFile, file_part},
    upload::content_row,
};

/// How many files may wait to be fetched; more are refused.
const MOST_UNDER_WAY: usize = 256;

/// How long a failure is believed, and how many are remembered.
const FAILURE_LIFETIME: Millis = 60_000;
const FAILURES: usize = 10_000;

/// The way to the files of other servers.
pub(crate) trait AskServers: Send + Sync {
    /// Whether a server is trusted enough to be asked. `shares`: its people share a room with who wants the file.
    fn check_trust(&self, server: &ServerName, shares: bool) -> Result<(), TrustError>;

    /// Asks a server for one of its files.
    fn file(
        &self,
        server: OwnedServerName,
        request: get_content::v1::Request,
    ) -> BoxFuture<'_, Result<Streamed, PeerError>>;

    /// Gets a file that a server keeps elsewhere.
    fn elsewhere(
        &self,
        server: OwnedServerName,
        address: String,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Streamed, PeerError>>;
}

impl AskServers for Peers {
    fn check_trust(&self, server: &ServerName, shares: bool) -> Result<(), TrustError> {
        let context = Context::outbound().knowing(Fact::SharesRoom, shares);
        self.trust().allow(server, Capability::Media, &context).map(drop)
    }

    fn file(
        &self,
        server: OwnedServerName,
        request: get_content::v1::Request,
    ) -> BoxFuture<'_, Result<Streamed, PeerError>> {
        Box::pin(async move { self.ask_streamed(&server, request).await })
    }

    fn elsewhere(
        &self,
        server: OwnedServerName,
        address: String,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Streamed, PeerError>> {
        Box::pin(async move { self.get_elsewhere(&server, &address, timeout).await })
    }
}

type Outcome = Result<(), RemoteFailure>;

/// What is being fetched, and what lately could not be.
pub(crate) struct Remote {
    ask: Box<dyn AskServers>,
    turns: Semaphore,
    under_way: Mutex<HashMap<Mxc, watch::Receiver<Option<Outcome>>>>,
    failed: Cache<Mxc, (Millis, RemoteFailure)>,
}

impl Remote {
    pub(crate) fn new(ask: Box<dyn AskServers>, concurrent: usize) -> Self {
        let (turns, failed) = (Semaphore::new(concurrent), Cache::new(FAILURES));
        Self { ask, turns, under_way: Mutex::default(), failed }
    }

    /// As [`AskServers::check_trust`].
    pub(crate) fn check_trust(&self, server: &ServerName, shares: bool) -> Result<(), TrustError> {
        self.ask.check_trust(server, shares)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Mxc, watch::Receiver<Option<Outcome>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a file out of what is under way, however its fetching ends.
struct UnderWay(Media, Mxc);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.shared.remote.under_way().remove(&self.1);
    }
}

impl Media {
    /// Fetches a file of another server and keeps it. Whoever asks while it is fetched gets the same outcome, and a
    /// failure is remembered for a minute.
    pub(crate) async fn fetch(&self, mxc: &Mxc) -> Result<(), MediaError> {
        let remote = &self.shared.remote;
        let refuse = |failure| MediaError::Remote { server: mxc.server.clone(), failure };
        if let Some((until, failure)) = remote.failed.get(mxc)
            && self.now() < until
        {
            return Err(refuse(failure));
        }
        let mut outcome = self.join_fetch(mxc)?;
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            // It ended without one: a fault of ours.
            Err(_) => None,
        };
        outcome.unwrap_or(Err(RemoteFailure::Ours)).map_err(refuse)
    }

    /// Starts to fetch it, unless somebody has already. It goes on when who asked has gone: others may wait, and a file
    /// that was asked for will be asked for again.
    fn join_fetch(&self, mxc: &Mxc) -> Result<watch::Receiver<Option<Outcome>>, MediaError> {
        let mut under_way = self.shared.remote.under_way();
        let is_full = under_way.len() >= MOST_UNDER_WAY;
        let place = match under_way.entry(mxc.clone()) {
            Entry::Occupied(outcome) => return Ok(outcome.get().clone()),
            Entry::Vacant(_) if is_full => return Err(MediaError::Busy),
            Entry::Vacant(place) => place,
        };
        let (tell, outcome) = watch::channel(None);
        place.insert(outcome.clone());
        let guard = UnderWay(self.clone(), mxc.clone());
        let span = info_span!("media.fetch", server.name = %mxc.server, mxc = %mxc.id);
        let fetching = async move {
            let UnderWay(media, mxc) = &guard;
            let outcome = media.fetch_in_turn(mxc).await;
            if let Err(failure) = &outcome {
                media.shared.remote.failed.insert(mxc.clone(), (media.now() + FAILURE_LIFETIME, failure.clone()));
            }
            let label = if outcome.is_ok() { "fetched" } else { "failed" };
            counter!("comity_media_remote_fetches_total", "outcome" => label).increment(1);
            tell.send_replace(Some(outcome));
        };
        tokio::spawn(fetching.instrument(span));
        Ok(outcome)
    }

    async fn fetch_in_turn(&self, mxc: &Mxc) -> Outcome {
        let Ok(_turn) = self.shared.remote.turns.acquire().await else { return Err(RemoteFailure::Ours) };
        // Who found nothing may have looked just before another's fetching ended.
        if self.open_kept(mxc).await.map_err(ours)?.is_some() {
            return Ok(());
        }
        let fetched = timeout(self.config().fetch_timeout, self.fetch_now(mxc)).await;
        fetched.unwrap_or(Err(RemoteFailure::Unreachable))
    }

    async fn fetch_now(&self, mxc: &Mxc) -> Outcome {
        let request = get_content::v1::Request::new(mxc.id.clone());
        let answer = self.shared.remote.ask.file(mxc.server.clone(), request).await.map_err(|error| failed(&error))?;
        let file = match file_part(answer, self.config().max_remote).await? {
            FilePart::Here(file) => file,
            FilePart::Elsewhere(address) => {
                let timeout = self.config().fetch_timeout;
                let found = self.shared.remote.ask.elsewhere(mxc.server.clone(), address, timeout).await;
                let Streamed { headers, body } = found.map_err(|error| failed(&error))?;
                RemoteFile::new(&headers, body, |error| failed(&error))
            }
        };
        self.keep_copy(mxc, file).await
    }

    async fn keep_copy(&self, mxc: &Mxc, mut file: RemoteFile) -> Outcome {
        let mut draft = self.shared.files.draft().await.map_err(ours)?;
        let limit = self.config().max_remote;
        while let Some(piece) = file.body.next().await {
            let piece = piece?;
            if draft.size() + piece.len() as u64 > limit {
                return Err(RemoteFailure::TooLarge { limit });
            }
            draft.write(&piece).await.map_err(ours)?;
        }
        let declared = normalised(file.content_type.as_deref());
        self.inspect(mxc.server.as_str(), &declared, &mut draft).await.map_err(refused)?;
        let written = draft.keep(&self.shared.files).await.map_err(ours)?;
        let content_type = believed(file.content_type.as_deref(), &written.head);
        let row = content_row(written, content_type, file.file_name.as_deref());
        let mut write = Write::new();
        rows::upsert_copy(&mut write, &mxc.server, &mxc.id, &row, self.now());
        self.shared.store.commit(write).await.map_err(ours)?;
        Ok(())
    }
}

fn ours(error: impl std::error::Error + 'static) -> RemoteFailure {
    warn!(error = &error as &dyn std::error::Error, "failed to keep another server's file");
    RemoteFailure::Ours
}

/// What it means for another server's file that it was looked at.
fn refused(error: MediaError) -> RemoteFailure {
    match error {
        MediaError::KindNotAllowed { kind, .. } => RemoteFailure::KindNotAllowed { kind },
        MediaError::Infected => RemoteFailure::Infected,
        MediaError::NotScanned | MediaError::TooLargeToScan => RemoteFailure::NotScanned,
        error => ours(error),
    }
}

/// What it means for a file that its server, or whoever has it for that server, could not be asked.
fn failed(error: &PeerError) -> RemoteFailure {
    debug!(error = error as &dyn std::error::Error, "failed to fetch a file");
    match error {
        PeerError::Disabled => RemoteFailure::Disabled,
        PeerError::Refused { status: 403 | 404, .. } => RemoteFailure::NotFound,
        PeerError::Store(_) | PeerError::Configuration(_) => RemoteFailure::Ours,
        _ => RemoteFailure::Unreachable,
    }
}
