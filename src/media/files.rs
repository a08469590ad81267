//! The folder: files that are called by the hash of what they hold, complete or not there at all.
//!
//! `files/ab/abcd…` is what was uploaded or fetched, `thumbnails/ab/abcd…-96x96-crop.png` what was made of it, `tmp` what
//! is being written, `partial` what comes over more than one request.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use tempfile::TempPath;
use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, BufWriter},
    task::spawn_blocking,
};

/// What nobody has written to for so long was left by a process that died, or by a client that never came back; another node
/// may be at work on the rest.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);

/// Where files are that aren't whole.
const UNFINISHED: [&str; 2] = ["tmp", "partial"];

/// How many bytes go to the disk at once.
pub(crate) const BUFFER: usize = 128 << 10;

/// How much of a file's beginning is remembered, to see what it is.
pub(crate) const HEAD: usize = 64;

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Makes the folder where it isn't there, and removes what was never completed.
    pub(crate) async fn open(folder: PathBuf) -> io::Result<Self> {
        blocking(move || {
            for path in [&folder, &folder.join("files"), &folder.join("thumbnails")] {
                fs::create_dir_all(path)?;
            }
            for unfinished in UNFINISHED {
                fs::create_dir_all(folder.join(unfinished))?;
            }
            Ok(Self { folder })
        })
        .await
    }

    /// Removes what was never completed and will not be.
    pub(crate) async fn tidy(&self) -> io::Result<()> {
        let folders = UNFINISHED.map(|name| self.folder.join(name));
        blocking(move || folders.iter().try_for_each(|folder| remove_abandoned(folder))).await
    }

    /// Where what has come so far of the file that waits under `name` is, if it is there.
    pub(crate) fn partial(&self, name: &str) -> PathBuf {
        self.folder.join("partial").join(name)
    }

    /// Where the content of this hash is, if it is there.
    pub(crate) fn content(&self, sha256: &str) -> PathBuf {
        self.sharded("files", sha256, "")
    }

    /// Where what was made of that content is, if it is there.
    pub(crate) fn thumbnail(&self, sha256: &str, suffix: &str) -> PathBuf {
        self.sharded("thumbnails", sha256, suffix)
    }

    fn sharded(&self, kind: &str, sha256: &str, suffix: &str) -> PathBuf {
        let shard = sha256.get(..2).unwrap_or("00");
        self.folder.join(kind).join(shard).join(format!("{sha256}{suffix}"))
    }

    /// A new file, which is gone when it is dropped before it was kept.
    pub(crate) async fn draft(&self) -> io::Result<Draft> {
        let tmp = self.folder.join("tmp");
        let (file, path) = blocking(move || tempfile::NamedTempFile::new_in(tmp)).await?.into_parts();
        let file = BufWriter::with_capacity(BUFFER, File::from_std(file));
        Ok(Draft { file, path, hash: Sha256::new(), size: 0, head: Vec::with_capacity(HEAD) })
    }
}

/// A file at `path`, and its size, if it is there.
pub(crate) async fn find(path: &Path) -> io::Result<Option<(File, u64)>> {
    match File::open(path).await {
        Ok(file) => {
            let size = file.metadata().await?.len();
            Ok(Some((file, size)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that is being written.
pub(crate) struct Draft {
    file: BufWriter<File>,
    path: TempPath,
    hash: Sha256,
    size: u64,
    head: Vec<u8>,
}

/// What was written.
pub(crate) struct Written {
    /// In hex.
    pub(crate) sha256: String,
    pub(crate) size: u64,
    /// The first bytes.
    pub(crate) head: Vec<u8>,
}

impl Draft {
    /// How much has been written.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The first bytes.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// What has been written, from the beginning.
    pub(crate) async fn reader(&mut self) -> io::Result<File> {
        self.file.flush().await?;
        File::open(&self.path).await
    }

    /// Of what has been written, in hex.
    pub(crate) fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Leaves the hash, and gives up the file, which goes with its path.
    pub(crate) async fn into_file(mut self) -> io::Result<(TempPath, u64)> {
        self.file.flush().await?;
        Ok((self.path, self.size))
    }

    /// Writes on. The hash is taken here and now: a piece is as large as what came from the network at once.
    pub(crate) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hash.update(piece);
        self.size += piece.len() as u64;
        let wanted = HEAD.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend_from_slice(&piece[..wanted]);
        self.file.write_all(piece).await
    }

    /// Makes it durable under the name of its content. When it answers, the file survives a crash.
    pub(crate) async fn keep(self, files: &Files) -> io::Result<Written> {
        let sha256 = self.sha256();
        let target = files.content(&sha256);
        self.keep_as(target, sha256).await
    }

    /// Makes it durable as `target`.
    pub(crate) async fn keep_as(mut self, target: PathBuf, sha256: String) -> io::Result<Written> {
        self.file.flush().await?;
        self.file.get_ref().sync_all().await?;
        let (path, size, head) = (self.path, self.size, self.head);
        blocking(move || {
            let shard = target.parent().unwrap_or(Path::new("."));
            make_shard(shard)?;
            // Where an equal file is already, it makes no difference which of them stays.
            path.persist(&target).map_err(|error| error.error)?;
            sync_folder(shard)
        })
        .await?;
        Ok(Written { sha256, size, head })
    }
}

/// Makes the folder of those whose hashes begin alike.
pub(crate) fn make_shard(shard: &Path) -> io::Result<()> {
    if !shard.exists() {
        fs::create_dir_all(shard)?;
        sync_folder(shard.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// As hashes are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A name is durable when its folder is.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn remove_abandoned(tmp: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    for entry in fs::read_dir(tmp)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified()?;
        if now.duration_since(age).is_ok_and(|age| age > ABANDONED_AFTER) {
            match fs::remove_file(entry.path()) {
                // Another node was first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
