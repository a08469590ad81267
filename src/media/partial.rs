//! A file of which a part has come: what there is of it, for one writer at a time. Nodes that share a folder lock it there;
//! those that share a bucket lose nothing of what either has said that it has.

mod bucket;
mod folder;

use std::io;

use tokio::fs::File;

use crate::files::{Chain, Draft, Files, Written};

/// A file of which a part has come.
pub(crate) enum Partial {
    /// In the folder.
    Folder(folder::Partial),
    /// In the bucket.
    Bucket(Box<bucket::Partial>),
}

impl Partial {
    /// Takes the file that is called `name`, which begins empty. `None`: somebody is writing to it.
    pub(crate) async fn open(files: &Files, name: &str) -> io::Result<Option<Self>> {
        match files.bucket() {
            Some(bucket) => {
                Ok(bucket::Partial::open(files, bucket, name).await?.map(|partial| Self::Bucket(Box::new(partial))))
            }
            None => Ok(folder::Partial::open(files.folder(), name).await?.map(Self::Folder)),
        }
    }

    /// How much has come.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Folder(partial) => partial.size(),
            Self::Bucket(partial) => partial.size(),
        }
    }

    /// Writes on.
    pub(crate) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Folder(partial) => partial.write(piece).await,
            Self::Bucket(partial) => partial.write(piece).await,
        }
    }

    /// Writes on with all that is in `draft`.
    pub(crate) async fn write_draft(&mut self, draft: Draft) -> io::Result<()> {
        match self {
            Self::Folder(partial) => partial.write_draft(draft).await,
            Self::Bucket(partial) => partial.write_draft(draft).await,
        }
    }

    /// What was written survives a crash when this returns.
    pub(crate) async fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::Folder(partial) => partial.sync().await,
            Self::Bucket(partial) => partial.sync().await,
        }
    }

    /// What it holds. Reads all of it once. `NotFound`: another node has made a whole file of it meanwhile.
    pub(crate) async fn look(&mut self) -> io::Result<Written> {
        match self {
            Self::Folder(partial) => partial.look().await,
            Self::Bucket(partial) => partial.look().await,
        }
    }

    /// What has come, from the beginning, after [`Self::look`].
    pub(crate) async fn reader(&mut self) -> io::Result<File> {
        match self {
            Self::Folder(partial) => partial.reader().await,
            Self::Bucket(partial) => partial.reader().await,
        }
    }

    /// Gives it the name of its content too, after [`Self::look`]. When this returns, that survives a crash.
    pub(crate) async fn keep(&mut self, files: &Files, sha256: &str) -> io::Result<()> {
        match self {
            Self::Folder(partial) => partial.keep(files.folder(), sha256).await,
            Self::Bucket(partial) => partial.keep(files).await,
        }
    }

    /// Takes it away.
    pub(crate) async fn remove(self) -> io::Result<()> {
        match self {
            Self::Folder(partial) => partial.remove().await,
            Self::Bucket(partial) => partial.remove().await,
        }
    }
}

/// How much has come of the file that is called `name`.
pub(crate) async fn size_of(files: &Files, name: &str) -> io::Result<u64> {
    match files.bucket() {
        Some(bucket) => Ok(Chain::of(bucket.pieces(name).await?).size()),
        None => folder::size_of(files.folder(), name).await,
    }
}
