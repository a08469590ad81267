//! A file that was found, to be read.

use std::io;

use bytes::Bytes;
use futures_util::Stream;

use crate::{content_type::safe_file_name, files::Source};

/// A file that is there.
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
    pub(crate) source: Source,
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
        self,
        start: u64,
        length: u64,
    ) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        self.source.read(start, length).await
    }
}
