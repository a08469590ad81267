//! A file of which a part has come, in the folder.

use std::{
    fs::{self, TryLockError},
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, BufWriter},
};

use crate::files::{BUFFER, Draft, Folder, HEAD, Key, Written, blocking, hex, make_shard, sync_folder};

/// A file of which a part has come. Nobody else, on any node that shares the folder, writes to it meanwhile.
pub(crate) struct Partial {
    file: BufWriter<File>,
    path: PathBuf,
    size: u64,
}

impl Partial {
    /// Takes the file that is called `name`, which begins empty. `None`: somebody is writing to it.
    pub(super) async fn open(folder: &Folder, name: &str) -> io::Result<Option<Self>> {
        let path = folder.partial(name);
        let opened = {
            let path = path.clone();
            blocking(move || {
                let file = fs::File::options().create(true).append(true).read(true).open(path)?;
                match file.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(error)) => return Err(error),
                }
                let size = file.metadata()?.len();
                Ok(Some((file, size)))
            })
            .await?
        };
        Ok(opened.map(|(file, size)| {
            let file = BufWriter::with_capacity(BUFFER, File::from_std(file));
            Self { file, path, size }
        }))
    }

    /// How much has come.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Writes on.
    pub(super) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece).await?;
        self.size += piece.len() as u64;
        Ok(())
    }

    /// Writes on with all that is in `draft`.
    pub(super) async fn write_draft(&mut self, draft: Draft) -> io::Result<()> {
        let (path, size) = draft.into_file().await?;
        let mut source = File::open(&path).await?;
        tokio::io::copy(&mut source, &mut self.file).await?;
        self.size += size;
        Ok(())
    }

    /// What was written survives a crash when this returns.
    pub(super) async fn sync(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.get_ref().sync_data().await
    }

    /// What it holds. Reads all of it once.
    pub(super) async fn look(&mut self) -> io::Result<Written> {
        self.file.flush().await?;
        let mut file = self.file.get_ref().try_clone().await?.into_std().await;
        blocking(move || {
            file.rewind()?;
            let (mut hash, mut size, mut head) = (Sha256::new(), 0, Vec::with_capacity(HEAD));
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = file.read(&mut buffer)?;
                let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
                head.extend_from_slice(&read[..HEAD.saturating_sub(head.len()).min(count)]);
                hash.update(read);
                size += count as u64;
            }
            Ok(Written { sha256: hex(&hash.finalize()), size, head })
        })
        .await
    }

    /// What has come, from the beginning.
    pub(super) async fn reader(&mut self) -> io::Result<File> {
        self.file.flush().await?;
        File::open(&self.path).await
    }

    /// Gives it the name of its content too. When this returns, that survives a crash.
    pub(super) async fn keep(&mut self, folder: &Folder, sha256: &str) -> io::Result<()> {
        self.file.flush().await?;
        self.file.get_ref().sync_all().await?;
        let (path, target) = (self.path.clone(), folder.place(&Key::content(sha256)));
        blocking(move || {
            let shard = target.parent().unwrap_or(Path::new("."));
            make_shard(shard)?;
            match fs::hard_link(&path, &target) {
                // An equal file is there already.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
            sync_folder(shard)
        })
        .await
    }

    /// Takes it out of the folder.
    pub(super) async fn remove(self) -> io::Result<()> {
        match tokio::fs::remove_file(&self.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// How much has come of the file that is called `name`.
pub(super) async fn size_of(folder: &Folder, name: &str) -> io::Result<u64> {
    match tokio::fs::metadata(folder.partial(name)).await {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
