//! The bucket: an S3 or what speaks like one, which every node reaches. What it has said that it has is durable.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    path::Path as FilePath,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMultipartOptions,
    PutOptions, PutPayload, path::Path,
};
use tempfile::TempPath;
use tokio::{fs::File, io::AsyncReadExt as _, sync::Semaphore, time::timeout};
use tracing::{error, warn};

use super::{Chain, Piece, folder::ABANDONED_AFTER};

/// Where the pieces are of files that aren't whole.
const PARTIAL: &str = "partial";

/// What goes to the bucket at once, and is in memory meanwhile. S3 takes no less than 5 MiB, the last part excepted.
pub(super) const PART: u64 = 8 << 20;

/// S3 takes 10 000 parts of one file.
const MOST_PARTS: u64 = 9_000;

/// How many parts are in memory at once.
const PARTS_AT_ONCE: usize = 4;

/// How long one waits for one's turn.
const LONGEST_QUEUE: Duration = Duration::from_secs(60);

/// How long one step may take, the attempts to repeat it included.
const STEP: Duration = Duration::from_secs(120);

/// How long the bucket may pause in the middle of a file.
const PAUSE: Duration = Duration::from_secs(30);

/// The clock of the bucket isn't ours, and what was announced in time may take its time to be completed.
const TOLERANCE: Duration = Duration::from_hours(2);

/// Why the bucket did not do what it was asked for. It may later.
#[derive(Debug, thiserror::Error)]
enum Away {
    #[error("the bucket did not answer in time")]
    TooSlow,
    #[error("too much is on its way to the bucket")]
    Busy,
    #[error("the bucket could not be read or written")]
    Failed(#[source] object_store::Error),
}

/// Whether it was the bucket that failed, and may do better later.
pub(crate) fn is_away(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Away>())
}

/// What in the configuration is probably wrong with a bucket that failed from the beginning.
pub(crate) fn setting_of(error: &io::Error) -> &'static str {
    use object_store::Error::{PermissionDenied, Unauthenticated};
    let away = error.get_ref().and_then(|inner| inner.downcast_ref::<Away>());
    match away {
        Some(Away::Failed(PermissionDenied { .. } | Unauthenticated { .. })) => {
            "media.s3.access_key_id and media.s3.secret_access_key, and what they may do there"
        }
        _ if error.kind() == io::ErrorKind::NotFound => "media.s3.bucket",
        _ => "media.s3.endpoint and media.s3.region",
    }
}

impl From<Away> for io::Error {
    fn from(away: Away) -> Self {
        Self::other(away)
    }
}

/// The bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    /// What all names begin with; empty, or with a slash at its end.
    prefix: String,
    parts: Semaphore,
    /// The files to which somebody of this node is writing.
    held: Mutex<HashSet<String>>,
    is_away: AtomicBool,
}

impl Bucket {
    /// What is in `store` under `prefix`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (parts, held, is_away) = (Semaphore::new(PARTS_AT_ONCE), Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Inner { store, prefix, parts, held, is_away }))
    }

    /// Whether it failed when it was last asked for something.
    pub(crate) fn is_away(&self) -> bool {
        self.0.is_away.load(Ordering::Relaxed)
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.0.prefix))
    }

    /// Waits for one step.
    async fn step<T>(&self, step: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        let outcome = timeout(STEP, step).await;
        // What isn't there says that the bucket is.
        let is_away = !matches!(outcome, Ok(Ok(_) | Err(object_store::Error::NotFound { .. })));
        if self.0.is_away.swap(is_away, Ordering::Relaxed) != is_away && is_away {
            error!("the bucket of the files is away");
        }
        match outcome {
            Ok(outcome) => outcome.map_err(failed),
            Err(_) => Err(Away::TooSlow.into()),
        }
    }

    /// What is called so, if it is there.
    pub(super) async fn find(&self, key: &str) -> io::Result<Option<Object>> {
        let path = self.path(key);
        match self.step(self.0.store.head(&path)).await {
            Ok(ObjectMeta { size, .. }) => Ok(Some(Object { bucket: self.clone(), path, size })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a file durable as `key`, which names its content. It goes on when who asked has gone, and leaves nothing half done.
    pub(super) async fn keep(&self, file: TempPath, size: u64, key: &str) -> io::Result<()> {
        // An equal file is there already.
        if self.find(key).await?.is_some_and(|there| there.size == size) {
            return Ok(());
        }
        self.put_file(file, size, key.to_owned()).await
    }

    async fn put_file(&self, file: TempPath, size: u64, key: String) -> io::Result<()> {
        let bucket = self.clone();
        let putting = tokio::spawn(async move {
            let path = bucket.path(&key);
            let put = bucket.put(&file, size, &path).await;
            if let Err(error) = &put {
                warn!(
                    error = error as &dyn std::error::Error,
                    size_bytes = size,
                    "failed to put a file into the bucket"
                );
            }
            put
        });
        putting.await.map_err(io::Error::other)?
    }

    async fn put(&self, file: &FilePath, size: u64, path: &Path) -> io::Result<()> {
        let mut file = File::open(file).await?;
        if size <= PART {
            let _turn = self.turn().await?;
            let bytes = read(&mut file, size).await?;
            self.step(self.0.store.put_opts(path, bytes, PutOptions::default())).await?;
            return Ok(());
        }
        let mut upload = self.step(self.0.store.put_multipart_opts(path, PutMultipartOptions::default())).await?;
        let put = self.put_parts(&mut *upload, file, size).await;
        if put.is_err() {
            // A lifecycle rule removes what can't be removed now.
            let _ = self.step(upload.abort()).await;
        }
        put
    }

    async fn put_parts(&self, upload: &mut dyn MultipartUpload, mut file: File, size: u64) -> io::Result<()> {
        let part = PART.max(size.div_ceil(MOST_PARTS));
        let mut at = 0;
        while at < size {
            let _turn = self.turn().await?;
            let length = part.min(size - at);
            let bytes = read(&mut file, length).await?;
            self.step(upload.put_part(bytes)).await?;
            at += length;
        }
        self.step(upload.complete()).await?;
        Ok(())
    }

    async fn turn(&self) -> io::Result<tokio::sync::SemaphorePermit<'_>> {
        let turn = timeout(LONGEST_QUEUE, self.0.parts.acquire()).await;
        turn.map_err(|_| Away::Busy)?.map_err(io::Error::other)
    }

    /// Writes, finds, reads and removes something, as whoever starts would like to know whether it can.
    pub(super) async fn probe(&self, id: &str) -> io::Result<()> {
        let (name, bytes) = (format!("{PARTIAL}/probe-{id}/0"), Bytes::from_static(b"comity"));
        let path = self.path(&name);
        self.step(self.0.store.put_opts(&path, bytes.clone().into(), PutOptions::default())).await?;
        let listed = self.list(&format!("{PARTIAL}/probe-{id}")).await?;
        let object = Object { bucket: self.clone(), path: path.clone(), size: bytes.len() as u64 };
        let read: Vec<Bytes> = object.read(0..bytes.len() as u64).await?.try_collect().await?;
        self.remove(path).await?;
        if listed.len() != 1 || read.concat() != bytes {
            return Err(io::Error::other("what was written was not what was found"));
        }
        Ok(())
    }

    // === files that aren't whole ===

    /// Takes the file that is called `name` for somebody of this node. `None`: somebody has it.
    pub(crate) fn hold(&self, name: &str) -> Option<Held> {
        let is_new = self.held().insert(name.to_owned());
        is_new.then(|| Held(self.clone(), name.to_owned()))
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which pieces there are of a file.
    pub(crate) async fn pieces(&self, name: &str) -> io::Result<Vec<Piece>> {
        let listed = self.list(&format!("{PARTIAL}/{name}")).await?;
        Ok(listed.into_iter().filter_map(|meta| Piece::read(meta.location, meta.size)).collect())
    }

    /// Adds a piece that begins at `offset`. No other piece has its name: what somebody was told is there is never written over.
    pub(crate) async fn put_piece(&self, name: &str, offset: u64, file: TempPath, size: u64) -> io::Result<()> {
        self.put_file(file, size, format!("{PARTIAL}/{name}/{}", Piece::name(offset))).await
    }

    /// All that is there without a gap, from the beginning on. `NotFound`: it was there, and is no more.
    pub(crate) fn read_chain(&self, chain: Chain) -> BoxStream<'static, io::Result<Bytes>> {
        let bucket = self.clone();
        let read = move |(piece, range): (Piece, Range<u64>)| {
            let object = Object { bucket: bucket.clone(), path: piece.path, size: piece.size };
            async move { object.read(range).await }
        };
        stream::iter(chain.into_links()).then(read).try_flatten().boxed()
    }

    /// Removes pieces, which may be gone already.
    pub(crate) async fn remove_pieces(&self, pieces: Vec<Piece>) -> io::Result<()> {
        for piece in pieces {
            self.remove(piece.path).await?;
        }
        Ok(())
    }

    /// Removes the pieces of files that will not be completed any more.
    pub(super) async fn tidy(&self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = now.saturating_sub(ABANDONED_AFTER + TOLERANCE).as_millis();
        for meta in self.list(PARTIAL).await? {
            if u128::try_from(meta.last_modified.timestamp_millis()).is_ok_and(|at| at < before) {
                self.remove(meta.location).await?;
            }
        }
        Ok(())
    }

    async fn list(&self, folder: &str) -> io::Result<Vec<ObjectMeta>> {
        let folder = self.path(folder);
        self.step(self.0.store.list(Some(&folder)).try_collect()).await
    }

    async fn remove(&self, path: Path) -> io::Result<()> {
        match self.step(self.0.store.delete(&path)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// Who is writing to a file that isn't whole.
#[derive(Debug)]
pub(crate) struct Held(Bucket, String);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held().remove(&self.1);
    }
}

/// A file in the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    bucket: Bucket,
    path: Path,
    size: u64,
}

impl Object {
    /// How many bytes it has.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// A part of it that isn't empty, as it comes.
    pub(super) async fn read(self, range: Range<u64>) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = self.bucket.step(self.bucket.0.store.get_opts(&self.path, options)).await?;
        let pieces = stream::unfold(got.into_stream(), |mut pieces| async move {
            let piece = match timeout(PAUSE, pieces.next()).await {
                Ok(piece) => piece?.map_err(failed),
                Err(_) => Err(Away::TooSlow.into()),
            };
            Some((piece, pieces))
        });
        Ok(pieces.boxed())
    }
}

async fn read(file: &mut File, length: u64) -> io::Result<PutPayload> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

fn failed(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => Away::Failed(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::files::{Files, Folder, Key};

    #[tokio::test]
    async fn a_large_file_goes_in_parts_and_comes_back_from_anywhere_in_it() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let bucket = Bucket::new(Arc::new(InMemory::new()), "");
        let path = Folder::open(folder.path().join("media")).await.expect("the folder is ours");
        let files = Files::new(path, Some(bucket.clone()));
        let bytes: Vec<u8> = (0..(2 * PART + 5)).map(|at| (at % 251) as u8).collect();
        let mut keys = Vec::new();
        // The second time it is there already.
        for _ in 0..2 {
            let mut draft = files.draft().await.expect("it is made");
            for piece in bytes.chunks(100_000) {
                draft.write(piece).await.expect("it is written");
            }
            let written = draft.keep(&files).await.expect("it is kept");
            assert_eq!(written.size, bytes.len() as u64);
            keys.push(Key::content(&written.sha256));
        }
        assert_eq!(keys[0], keys[1]);
        for (start, length) in [(0, 2 * PART + 5), (PART - 1, 2), (2 * PART, 5), (7, 0)] {
            let source = files.find(&keys[0]).await.expect("it can be asked").expect("it is there");
            let read: Vec<Bytes> =
                source.read(start, length).await.expect("it opens").try_collect().await.expect("it is read");
            let (from, to) = (usize::try_from(start).expect("small"), usize::try_from(start + length).expect("small"));
            assert!(read.concat() == bytes[from..to], "{start}, {length}");
        }
        let gone = files.find(&Key::content("00ff")).await.expect("it can be asked");
        assert!(gone.is_none() && !bucket.is_away());
        bucket.probe("1").await.expect("it can be used");
    }

    #[tokio::test]
    async fn one_of_a_node_holds_a_file_at_a_time() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), "");
        let held = bucket.hold("a");
        assert!(held.is_some() && bucket.hold("a").is_none() && bucket.hold("b").is_some());
        drop(held);
        assert!(bucket.hold("a").is_some());
    }
}
