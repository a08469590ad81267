//! The file with the server's signing key: made at the first start, read at every other; and its change for another.
//!
//! Who has this key can speak for the server. It is never logged, its file is for the owner alone, and memory that held
//! it is overwritten.

mod rotation;

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rand::{RngExt as _, TryRng as _, rngs::SysRng};
use tracing::{info, warn};
use zeroize::Zeroizing;

pub use rotation::{Keys, previous, retired, rotate, take_next};

/// The name of the file in the keys folder.
pub const FILE_NAME: &str = "signing.key";

/// Written without padding, as Synapse does. Read with or without, and with stray bits after the last byte: the
/// specification's own test key has some.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An ed25519 key as it lies in its file.
pub struct KeyFile {
    version: String,
    seed: Zeroizing<[u8; 32]>,
}

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the signing key {} could not be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the signing key {} could not be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the signing key {} can be read by everyone on this machine (mode {mode:o}); chmod 600 it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the signing key {} is not one line `ed25519 VERSION SEED`, the seed 32 bytes in base64", path.display())]
    Malformed { path: PathBuf },
    #[error("{} is not lines of a key's id, its public half in base64, and a time in milliseconds", path.display())]
    MalformedLine { path: PathBuf },
    #[error("there is no signing key in {} yet; the server makes one at its first start", folder.display())]
    None { folder: PathBuf },
    #[error("{key_id} is waiting to be used already; start the server again to sign with it")]
    Waiting { key_id: String },
    #[error("the system has no randomness for a new signing key")]
    NoRandomness(#[source] rand::rngs::SysError),
}

impl KeyFile {
    /// Reads the key in `folder`, or makes one there if there is none yet.
    ///
    /// Of two processes that make one at the same time both answer the one that stayed.
    pub fn load_or_create(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(FILE_NAME);
        match Self::load(&path) {
            Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let key = Self::generate()?;
        match key.store(folder, &path) {
            Ok(()) => {
                info!(key.id = key.key_id(), "made a new signing key, {}; keep a copy of it", path.display());
                Ok(key)
            }
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Self::load(&path),
            Err(source) => Err(KeyError::Write { path, source }),
        }
    }

    /// What follows `ed25519:` in the key's id.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `ed25519:VERSION`.
    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.version)
    }

    /// What others check signatures with.
    pub fn public_key(&self) -> [u8; 32] {
        ed25519_dalek::SigningKey::from_bytes(&self.seed).verifying_key().to_bytes()
    }

    /// The private key.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    fn generate() -> Result<Self, KeyError> {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut seed = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(&mut *seed).map_err(KeyError::NoRandomness)?;
        // The version only has to differ from that of any other key this server will ever have.
        let mut rng = rand::rng();
        let suffix: String = (0..4).map(|_| char::from(LETTERS[rng.random_range(..LETTERS.len())])).collect();
        Ok(Self { version: format!("a_{suffix}"), seed })
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Read { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        if mode & 0o070 != 0 {
            warn!("the group of {} may use the signing key (mode {mode:o}); chmod 600 it", path.display());
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
        Self::parse(&text).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let mut words = line.split_whitespace();
        let (Some("ed25519"), Some(version), Some(seed), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return None;
        };
        // The specification's grammar of a key's version: `[a-zA-Z0-9_]`.
        let is_version = version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let bytes = Zeroizing::new(BASE64.decode(seed).ok()?);
        let seed = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
        is_version.then(|| Self { version: version.to_owned(), seed })
    }

    /// Writes the file whole or not at all, and never over another.
    fn store(&self, folder: &Path, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let unfinished = folder.join(format!("{FILE_NAME}.{}.new", std::process::id()));
        let linked = self.write_new(&unfinished).and_then(|()| fs::hard_link(&unfinished, path));
        fs::remove_file(&unfinished).ok();
        linked?;
        fs::File::open(folder)?.sync_all()
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let line = Zeroizing::new(format!("ed25519 {} {}\n", self.version, *Zeroizing::new(BASE64.encode(*self.seed))));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("version", &self.version).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key in the specification's test vectors, as Synapse writes it.
    const VECTOR: &str = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n";

    fn folder_with(text: &str, mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, text).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the file is ours");
        folder
    }

    #[test]
    fn the_first_start_makes_a_key_and_the_next_finds_it() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let keys = folder.path().join("keys");
        let made = KeyFile::load_or_create(&keys).expect("the folder is ours");
        let found = KeyFile::load_or_create(&keys).expect("the key was just made");
        assert_eq!((made.version(), made.seed()), (found.version(), found.seed()));
        assert_ne!(*made.seed(), [0; 32]);

        let names: Vec<_> =
            fs::read_dir(&keys).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, [FILE_NAME]);
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&keys.join(FILE_NAME)), 0o600);
        assert_eq!(mode(&keys), 0o700);
    }

    #[test]
    fn a_new_key_never_takes_the_place_of_another() {
        let folder = folder_with(VECTOR, 0o600);
        let key = KeyFile::generate().expect("there is randomness");
        let stored = key.store(folder.path(), &folder.path().join(FILE_NAME));
        assert_eq!(stored.expect_err("a key is there").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(KeyFile::load_or_create(folder.path()).expect("it is untouched").version(), "1");
    }

    #[test]
    fn the_key_of_the_test_vectors_signs_as_the_specification_says() {
        use ed25519_dalek::{Signer as _, SigningKey};
        let folder = folder_with(VECTOR, 0o600);
        let key = KeyFile::load_or_create(folder.path()).expect("the vector is a key file");
        let signature = SigningKey::from_bytes(key.seed()).sign(b"{}");
        // Spec: appendices, "Cryptographic test vectors", the empty object.
        let expected = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ";
        assert_eq!(BASE64.encode(signature.to_bytes()), expected);
    }

    #[test]
    fn a_key_that_everyone_can_read_is_refused() {
        let folder = folder_with(VECTOR, 0o644);
        let error = KeyFile::load_or_create(folder.path()).expect_err("its mode is 644");
        assert!(matches!(error, KeyError::Exposed { mode: 0o644, .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_kept() {
        for text in [
            "",
            "ed25519 1\n",
            "ed25519 1 AAAA\n",
            "rsa 1 YJDB\n",
            "ed25519 a:b YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1",
        ] {
            let folder = folder_with(text, 0o600);
            let error = KeyFile::load_or_create(folder.path()).expect_err("it is no key");
            assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
            assert_eq!(fs::read_to_string(folder.path().join(FILE_NAME)).expect("it is there"), text);
        }
    }

    #[test]
    fn debug_output_hides_the_seed() {
        let key = KeyFile::parse(VECTOR).expect("the vector is a key file");
        assert_eq!(format!("{key:?}"), "KeyFile { version: \"1\", .. }");
    }
}
