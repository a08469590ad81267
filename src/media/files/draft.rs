//! A file that is being written: in the folder, wherever it goes.

use std::io;

use sha2::{Digest as _, Sha256};
use tempfile::TempPath;
use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, BufWriter},
};

use super::{BUFFER, Files, Folder, HEAD, Key, hex};

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
    pub(super) async fn new(folder: &Folder) -> io::Result<Self> {
        let (file, path) = folder.temporary().await?;
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(Self { file, path, hash: Sha256::new(), size: 0, head: Vec::with_capacity(HEAD) })
    }

    /// How much has been written.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The first bytes of what has been written.
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

    /// Of what has been written.
    pub(crate) fn written(&self) -> Written {
        Written { sha256: self.sha256(), size: self.size, head: self.head.clone() }
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
        let key = Key::content(&self.sha256());
        self.keep_as(files, &key).await
    }

    /// Makes it durable as `key`.
    pub(crate) async fn keep_as(mut self, files: &Files, key: &Key) -> io::Result<Written> {
        let written = self.written();
        self.file.flush().await?;
        match files.bucket() {
            Some(bucket) => bucket.keep(self.path, self.size, key.as_str()).await?,
            None => {
                self.file.get_ref().sync_all().await?;
                files.folder().keep(self.path, key).await?;
            }
        }
        Ok(written)
    }
}
