//! A file of which a part has come, in the bucket: pieces that are called by where they begin. There is no lock between nodes:
//! no piece is ever written over, and of those that overlap the ones that lead farthest count.

use std::{io, mem};

use futures_util::TryStreamExt as _;
use tokio::{fs::File, runtime::Handle};
use tracing::warn;

use crate::files::{Bucket, Chain, Draft, Files, Held, Written};

/// How much is gathered in the folder before it goes to the bucket. What wasn't yet, nobody was told of.
const PIECE: u64 = 8 << 20;

/// With more pieces than these a file is put together before it goes on.
const MOST_PIECES: usize = 1_000;

/// A file of which a part has come. Nobody else of this node writes to it meanwhile.
pub(crate) struct Partial {
    files: Files,
    bucket: Bucket,
    name: String,
    /// How much is in the bucket.
    durable: u64,
    /// What follows that, and is on its way.
    next: Option<Draft>,
    /// All of it, once it was looked at.
    whole: Option<Draft>,
    held: Option<Held>,
}

impl Partial {
    pub(super) async fn open(files: &Files, bucket: &Bucket, name: &str) -> io::Result<Option<Self>> {
        let Some(held) = bucket.hold(name) else { return Ok(None) };
        let pieces = bucket.pieces(name).await?;
        let is_scattered = pieces.len() > MOST_PIECES;
        let (files, bucket, name, durable) = (files.clone(), bucket.clone(), name.to_owned(), Chain::of(pieces).size());
        let mut partial = Self { files, bucket, name, durable, next: None, whole: None, held: Some(held) };
        if is_scattered && let Err(error) = partial.gather().await {
            warn!(error = &error as &dyn std::error::Error, "failed to put the pieces of a file together");
        }
        Ok(Some(partial))
    }

    pub(super) fn size(&self) -> u64 {
        self.durable + self.next.as_ref().map_or(0, Draft::size)
    }

    pub(super) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let next = match &mut self.next {
            Some(next) => next,
            none => none.insert(self.files.draft().await?),
        };
        next.write(piece).await?;
        if next.size() >= PIECE { self.sync().await } else { Ok(()) }
    }

    /// One piece, which is there as a whole or not at all.
    pub(super) async fn write_draft(&mut self, draft: Draft) -> io::Result<()> {
        self.sync().await?;
        self.next = Some(draft);
        self.sync().await
    }

    /// What can't be put there now is forgotten, and nobody was told of it.
    pub(super) async fn sync(&mut self) -> io::Result<()> {
        let Some(next) = self.next.take().filter(|next| next.size() > 0) else { return Ok(()) };
        self.durable += put(&self.bucket, &self.name, self.durable, next).await?;
        Ok(())
    }

    pub(super) async fn look(&mut self) -> io::Result<Written> {
        let draft = self.copy().await?;
        let written = draft.written();
        self.whole = Some(draft);
        Ok(written)
    }

    pub(super) async fn reader(&mut self) -> io::Result<File> {
        let whole = match self.whole.take() {
            Some(whole) => whole,
            None => self.copy().await?,
        };
        self.whole.insert(whole).reader().await
    }

    pub(super) async fn keep(&mut self, files: &Files) -> io::Result<()> {
        let whole = match self.whole.take() {
            Some(whole) => whole,
            None => self.copy().await?,
        };
        whole.keep(files).await.map(drop)
    }

    pub(super) async fn remove(mut self) -> io::Result<()> {
        self.next = None;
        self.bucket.remove_pieces(self.bucket.pieces(&self.name).await?).await
    }

    /// All that is there, in the folder.
    async fn copy(&self) -> io::Result<Draft> {
        let mut draft = self.files.draft().await?;
        let mut bytes = self.bucket.read_chain(Chain::of(self.bucket.pieces(&self.name).await?));
        while let Some(piece) = bytes.try_next().await? {
            draft.write(&piece).await?;
        }
        // Another node has made a whole file of it, or given it up.
        if draft.size() < self.durable { Err(io::ErrorKind::NotFound.into()) } else { Ok(draft) }
    }

    /// Makes one piece of many.
    async fn gather(&mut self) -> io::Result<()> {
        let pieces = self.bucket.pieces(&self.name).await?;
        let draft = self.copy().await?;
        self.durable = put(&self.bucket, &self.name, 0, draft).await?;
        self.bucket.remove_pieces(pieces).await
    }
}

impl Drop for Partial {
    /// Who was writing has gone, and what came before that counts.
    fn drop(&mut self) {
        let (Some(next), Ok(runtime)) = (self.next.take(), Handle::try_current()) else { return };
        let (bucket, name, durable, held) =
            (self.bucket.clone(), mem::take(&mut self.name), self.durable, self.held.take());
        runtime.spawn(async move {
            if next.size() > 0
                && let Err(error) = put(&bucket, &name, durable, next).await
            {
                warn!(error = &error as &dyn std::error::Error, "failed to keep what had come of a file");
            }
            drop(held);
        });
    }
}

/// Answers how many bytes are in the bucket now that weren't.
async fn put(bucket: &Bucket, name: &str, offset: u64, draft: Draft) -> io::Result<u64> {
    let (file, size) = draft.into_file().await?;
    bucket.put_piece(name, offset, file, size).await?;
    Ok(size)
}
