//! Where files are: a folder, or a bucket that every node reaches. They are called by the hash of what they hold, and are
//! complete or not there at all.
//!
//! `files/ab/abcd…` is what was uploaded or fetched, `thumbnails/ab/abcd…-96x96-crop.png` what was made of it, `partial` what
//! comes over more than one request. What is being written is in `tmp` of the folder, also where files go to a bucket.

mod bucket;
mod draft;
mod folder;
mod http;
mod pieces;
mod s3;
mod source;

use std::{fmt::Write as _, io};

pub(crate) use bucket::{Bucket, Held, is_away, setting_of};
pub(crate) use draft::{Draft, Written};
pub(crate) use folder::{BUFFER, Folder, blocking, make_shard, sync_folder};
pub(crate) use pieces::{Chain, Piece};
pub use s3::S3Config;
pub(crate) use s3::open as open_bucket;
pub(crate) use source::Source;

/// How much of a file's beginning is remembered, to see what it is.
pub(crate) const HEAD: usize = 64;

/// The folder, and the bucket, if files go there.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: Folder,
    bucket: Option<Bucket>,
}

impl Files {
    /// Files in `bucket`, written in `folder` until they are whole; in `folder` alone where there is no bucket.
    pub(crate) fn new(folder: Folder, bucket: Option<Bucket>) -> Self {
        Self { folder, bucket }
    }

    /// Removes what was never completed and will not be.
    pub(crate) async fn tidy(&self) -> io::Result<()> {
        self.folder.tidy().await?;
        match &self.bucket {
            Some(bucket) => bucket.tidy().await,
            None => Ok(()),
        }
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The bucket, if files go there.
    pub(crate) fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// What is called so, if it is there.
    pub(crate) async fn find(&self, key: &Key) -> io::Result<Option<Source>> {
        match &self.bucket {
            Some(bucket) => Ok(bucket.find(key.as_str()).await?.map(Source::Object)),
            None => Ok(self.folder.find(key).await?.map(|(file, size)| Source::File(file, size))),
        }
    }

    /// A new file, which is gone when it is dropped before it was kept.
    pub(crate) async fn draft(&self) -> io::Result<Draft> {
        Draft::new(&self.folder).await
    }
}

/// What a file is called, in the folder as in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// The content of this hash.
    pub(crate) fn content(sha256: &str) -> Self {
        Self::sharded("files", sha256, "")
    }

    /// What was made of that content.
    pub(crate) fn thumbnail(sha256: &str, suffix: &str) -> Self {
        Self::sharded("thumbnails", sha256, suffix)
    }

    fn sharded(kind: &str, sha256: &str, suffix: &str) -> Self {
        let shard = sha256.get(..2).unwrap_or("00");
        Self(format!("{kind}/{shard}/{sha256}{suffix}"))
    }

    /// With slashes between its parts.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// As hashes are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
