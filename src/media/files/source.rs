//! A file that was found, wherever it is.

use std::io::{self, SeekFrom};

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};
use tokio_util::io::ReaderStream;

use super::{Files, HEAD, bucket::Object};

/// How many bytes are read at once.
const PIECE: usize = 64 << 10;

/// A file that was found.
#[derive(Debug)]
pub(crate) enum Source {
    /// In the folder, open; and how many bytes it has.
    File(File, u64),
    /// In the bucket.
    Object(Object),
}

impl Source {
    /// How many bytes it has.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(_, size) => *size,
            Self::Object(object) => object.size(),
        }
    }

    /// `length` bytes from `start` on, piece by piece. With a bucket, each is waited for a while and no longer.
    pub(crate) async fn read(self, start: u64, length: u64) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        match self {
            Self::File(mut file, _) => {
                if start > 0 {
                    file.seek(SeekFrom::Start(start)).await?;
                }
                Ok(ReaderStream::with_capacity(file.take(length), PIECE).boxed())
            }
            Self::Object(_) if length == 0 => Ok(stream::empty().boxed()),
            Self::Object(object) => object.read(start..start.saturating_add(length)).await,
        }
    }

    /// The same as a file of this machine, which is gone when it is closed. `None`: its first bytes aren't wanted.
    pub(crate) async fn local(self, files: &Files, is_wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<File>> {
        if let Self::File(file, _) = self {
            return Ok(Some(file));
        }
        let (size, mut draft) = (self.size(), files.draft().await?);
        let mut pieces = self.read(0, size).await?;
        let mut is_known = false;
        while let Some(piece) = pieces.try_next().await? {
            draft.write(&piece).await?;
            if !is_known && draft.head().len() == HEAD {
                if !is_wanted(draft.head()) {
                    return Ok(None);
                }
                is_known = true;
            }
        }
        let (path, _) = draft.into_file().await?;
        // It has no name from here on, and goes with its last reader.
        Ok(Some(File::open(&path).await?))
    }
}
