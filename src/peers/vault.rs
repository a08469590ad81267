//! Keeping secrets sealed: by a key of their own, in a file beside the signing key.
//!
//! The signing key would not do: it changes, and what was sealed by it would be lost with each rotation.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use chacha20poly1305::{
    Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use hmac::{Hmac, Mac as _};
use rand::{TryRng as _, rngs::SysRng};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The name of the file in the keys folder.
pub const FILE_NAME: &str = "sealing.secret";
/// What the key is for, so that the same file can give others for other things.
const PURPOSE: &[u8] = b"comity: secrets in the database, sealed, 1";
/// In bytes.
const NONCE: usize = 24;

/// Seals and opens secrets that lie in the database, and has keys for what needs one.
pub struct Vault {
    cipher: XChaCha20Poly1305,
    secret: Zeroizing<[u8; 32]>,
}

/// Why nothing can be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file can't be written.
    #[error("{} can't be written", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everybody can read the file.
    #[error("{} can be read by everyone on this machine (mode {mode:o}); chmod 600 it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is something else.
    #[error("{} is not 32 bytes in base64", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
    /// There is no randomness.
    #[error("the system has no randomness for a secret")]
    NoRandomness,
    /// It was sealed by another file, or for something else.
    #[error("a sealed secret can't be opened: {FILE_NAME} in the keys folder is another one than it was sealed by")]
    Sealed,
}

impl Vault {
    /// Reads the file in `folder`, or makes one there. Of two processes that make one at once both have the one that stayed.
    pub fn open(folder: &Path) -> Result<Self, VaultError> {
        let path = folder.join(FILE_NAME);
        let secret = match load(&path) {
            Err(VaultError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let secret = random::<32>()?;
                match write(folder, &path, &secret) {
                    Ok(()) => secret,
                    Err(source) if source.kind() == io::ErrorKind::AlreadyExists => load(&path)?,
                    Err(source) => return Err(VaultError::Write { path, source }),
                }
            }
            loaded => loaded?,
        };
        Ok(Self::of(secret))
    }

    /// One whose key nobody keeps: what it seals is lost with it.
    pub fn ephemeral() -> Result<Self, VaultError> {
        Ok(Self::of(random::<32>()?))
    }

    fn of(secret: Zeroizing<[u8; 32]>) -> Self {
        let key = derived(&secret, PURPOSE);
        Self { cipher: XChaCha20Poly1305::new(&Key::from(*key)), secret }
    }

    /// A key for something else: always the same one for the same purpose, as long as the file stays.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        derived(&self.secret, purpose.as_bytes())
    }

    /// Seals a secret. `what`: which kind of secret it is; `whose`: of which peer, or what it is of. It is opened for the same
    /// alone.
    pub fn seal(&self, whose: &str, what: &str, secret: &str) -> Result<String, VaultError> {
        let nonce = *random::<NONCE>()?;
        let about = about(whose, what);
        let payload = Payload { msg: secret.as_bytes(), aad: about.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::Sealed)?;
        Ok(STANDARD_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// Opens what was sealed for the same.
    pub fn unseal(&self, whose: &str, what: &str, sealed: &str) -> Result<Zeroizing<String>, VaultError> {
        let sealed = STANDARD_NO_PAD.decode(sealed).map_err(|_| VaultError::Sealed)?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().ok_or(VaultError::Sealed)?;
        let about = about(whose, what);
        let payload = Payload { msg: sealed, aad: about.as_bytes() };
        let secret = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| VaultError::Sealed)?;
        String::from_utf8(secret).map(Zeroizing::new).map_err(|_| VaultError::Sealed)
    }
}

/// A password that nobody guesses, of letters that stand for themselves in a URL.
pub fn password() -> Result<Zeroizing<String>, VaultError> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*random::<32>()?)))
}

fn derived(secret: &[u8; 32], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(purpose);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn about(whose: &str, what: &str) -> String {
    format!("{what}\n{whose}")
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, VaultError> {
    let mut bytes = Zeroizing::new([0; N]);
    SysRng.try_fill_bytes(&mut *bytes).map_err(|_| VaultError::NoRandomness)?;
    Ok(bytes)
}

fn load(path: &Path) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let unreadable = |source| VaultError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(VaultError::Exposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
    let bytes = STANDARD_NO_PAD.decode(text.trim().trim_end_matches('=')).map(Zeroizing::new);
    let secret = bytes.ok().and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    secret.map(Zeroizing::new).ok_or_else(|| VaultError::Malformed { path: path.to_owned() })
}

/// Writes the file whole or not at all, and never over another.
fn write(folder: &Path, path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let unfinished = folder.join(format!("{FILE_NAME}.{}.new", std::process::id()));
    let line = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD_NO_PAD.encode(secret))));
    let written = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&unfinished, path)
    };
    let linked = written();
    fs::remove_file(&unfinished).ok();
    linked?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_opened_by_the_same_file_for_the_same_owner_and_purpose_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let keys = folder.path().join("keys");
        let (b, c) = ("b.test", "c.test");
        let sealed = Vault::open(&keys).expect("the folder is ours").seal(b, "ours", "secret").expect("it seals");
        assert!(!sealed.contains("secret"));
        let again = Vault::open(&keys).expect("the file is there");
        assert_eq!(*again.unseal(b, "ours", &sealed).expect("it opens"), "secret");
        assert_ne!(again.seal(b, "ours", "secret").expect("it seals"), sealed);
        for (peer, what) in [(c, "ours"), (b, "theirs")] {
            assert!(matches!(again.unseal(peer, what, &sealed), Err(VaultError::Sealed)));
        }
        for nonsense in ["", "AAAA", "?"] {
            assert!(matches!(again.unseal(b, "ours", nonsense), Err(VaultError::Sealed)));
        }
        fs::remove_file(keys.join(FILE_NAME)).expect("it is ours");
        let other = Vault::open(&keys).expect("the folder is ours");
        assert!(matches!(other.unseal(b, "ours", &sealed), Err(VaultError::Sealed)));
    }

    #[test]
    fn each_purpose_has_a_key_of_its_own_that_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let vault = Vault::open(folder.path()).expect("the folder is ours");
        let again = Vault::open(folder.path()).expect("the file is there");
        assert_eq!(*vault.derive("one"), *again.derive("one"));
        assert_ne!(*vault.derive("one"), *vault.derive("two"));
        assert_ne!(*vault.derive("one"), *Vault::ephemeral().expect("there is randomness").derive("one"));
    }

    #[test]
    fn the_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Vault::open(folder.path()).expect("the folder is ours");
        let path = folder.path().join(FILE_NAME);
        let mode = fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        assert!(matches!(Vault::open(folder.path()), Err(VaultError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::write(&path, "short\n").expect("it is ours");
        assert!(matches!(Vault::open(folder.path()), Err(VaultError::Malformed { .. })));
    }
}
