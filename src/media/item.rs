//! A file that was found, to be read.

use std::{io, io::SeekFrom};

use bytes::Bytes;
use futures_util::Stream;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};
use tokio_util::io::ReaderStream;

use crate::content_type::safe_file_name;

/// How many bytes are read at once.
const PIECE: usize = 64 << 10;

/// A file, open.
#[derive(Debug)]
pub struct Item {
    /// What it is said to be. It may be a lie; [`crate::is_shown_inline`] tells what of it may be acted upon.
    pub content_type: String,
    /// What it is called, without a path.
    pub file_name: Option<String>,
    /// How many bytes it has.
    pub size: u64,
    /// Tells it from every other content.
    pub tag: String,
    pub(crate) file: File,
}

impl Item {
    /// The same by another name, if that is one.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.file_name = safe_file_name(name).or(self.file_name);
        self
    }

    /// `length` bytes from `start` on, piece by piece.
    pub async fn read(
        mut self,
        start: u64,
        length: u64,
    ) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        if start > 0 {
            self.file.seek(SeekFrom::Start(start)).await?;
        }
        Ok(ReaderStream::with_capacity(self.file.take(length), PIECE))
    }
}
