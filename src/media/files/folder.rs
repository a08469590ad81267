//! The folder: where files are written, and stay where there is no bucket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tempfile::TempPath;
use tokio::{fs::File, task::spawn_blocking};

use super::Key;

/// What nobody has written to for so long was left by a process that died, or by a client that never came back; another node
/// may be at work on the rest.
pub(crate) const ABANDONED_AFTER: Duration = Duration::from_hours(24);

/// Where files are that aren't whole.
const UNFINISHED: [&str; 2] = ["tmp", "partial"];

/// How many bytes go to the disk at once.
pub(crate) const BUFFER: usize = 128 << 10;

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder where it isn't there, and removes what was never completed.
    pub(crate) async fn open(path: PathBuf) -> io::Result<Self> {
        blocking(move || {
            for path in [&path, &path.join("files"), &path.join("thumbnails")] {
                fs::create_dir_all(path)?;
            }
            for unfinished in UNFINISHED {
                fs::create_dir_all(path.join(unfinished))?;
            }
            Ok(Self { path })
        })
        .await
    }

    /// Removes what was never completed and will not be.
    pub(crate) async fn tidy(&self) -> io::Result<()> {
        let folders = UNFINISHED.map(|name| self.path.join(name));
        blocking(move || folders.iter().try_for_each(|folder| remove_abandoned(folder))).await
    }

    /// Where what has come so far of the file that waits under `name` is, if it is there.
    pub(crate) fn partial(&self, name: &str) -> PathBuf {
        self.path.join("partial").join(name)
    }

    /// Where what is called so is, if it is there.
    pub(crate) fn place(&self, key: &Key) -> PathBuf {
        self.path.join(key.as_str())
    }

    /// What is called so, and its size, if it is there.
    pub(crate) async fn find(&self, key: &Key) -> io::Result<Option<(File, u64)>> {
        match File::open(self.place(key)).await {
            Ok(file) => {
                let size = file.metadata().await?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A new file that goes with its path.
    pub(crate) async fn temporary(&self) -> io::Result<(File, TempPath)> {
        let tmp = self.path.join("tmp");
        let (file, path) = blocking(move || tempfile::NamedTempFile::new_in(tmp)).await?.into_parts();
        Ok((File::from_std(file), path))
    }

    /// Gives a file, which is on the disk already, the name `key`. When this returns, that survives a crash.
    pub(crate) async fn keep(&self, file: TempPath, key: &Key) -> io::Result<()> {
        let target = self.place(key);
        blocking(move || {
            let shard = target.parent().unwrap_or(Path::new("."));
            make_shard(shard)?;
            // Where an equal file is already, it makes no difference which of them stays.
            file.persist(&target).map_err(|error| error.error)?;
            sync_folder(shard)
        })
        .await
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
