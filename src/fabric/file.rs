//! Files of certificates and keys that the configuration names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A file that the configuration names can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{path} can't be read")]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

/// What stands in the file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError { path: path.to_owned(), source })
}
