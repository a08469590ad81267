//! The certificate that this server shows, read again when its files change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(5);

/// Why a certificate can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file can't be read.
    #[error("{} can't be read: does tls.{key} name the right file, and may Comity read it?", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no {what} in PEM, which tls.{key} must name", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
        /// What should be in it.
        what: &'static str,
    },
    /// The two don't belong together, or are of a kind that isn't supported.
    #[error("the certificate and the key of [tls] are of no use together")]
    Unusable(#[from] rustls::Error),
}

/// A certificate with its key.
pub struct Certificate {
    certificate: PathBuf,
    private_key: PathBuf,
    acceptor: RwLock<TlsAcceptor>,
    seen: Mutex<Seen>,
}

struct Seen {
    at: Instant,
    changed: [Option<SystemTime>; 2],
}

impl Certificate {
    /// Reads both files, PEM.
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, CertificateError> {
        let acceptor = read(certificate, private_key)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            private_key: private_key.to_owned(),
            acceptor: RwLock::new(acceptor),
            seen: Mutex::new(Seen { at: Instant::now(), changed: [changed(certificate), changed(private_key)] }),
        })
    }

    /// What takes a connection now: the files are looked at again every few seconds, and one that can't be read leaves
    /// everything as it was.
    pub fn acceptor(&self) -> TlsAcceptor {
        if self.has_changed() {
            match read(&self.certificate, &self.private_key) {
                Ok(acceptor) => {
                    info!("shows a new certificate, {}", self.certificate.display());
                    *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                }
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the new certificate is of no use; goes on showing the old one"
                    );
                }
            }
        }
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_changed(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.at.elapsed() < LOOK {
            return false;
        }
        seen.at = Instant::now();
        let now = [changed(&self.certificate), changed(&self.private_key)];
        std::mem::replace(&mut seen.changed, now) != now
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

fn read(certificate: &Path, private_key: &Path) -> Result<TlsAcceptor, CertificateError> {
    let malformed = |path: &Path, key, what| CertificateError::Malformed { path: path.to_owned(), key, what };
    let pem = contents(certificate, "certificate")?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| malformed(certificate, "certificate", "certificate"))?;
    if chain.is_empty() {
        return Err(malformed(certificate, "certificate", "certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(&contents(private_key, "private_key")?)
        .map_err(|_| malformed(private_key, "private_key", "private key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn contents(path: &Path, key: &'static str) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|source| CertificateError::Read { path: path.to_owned(), key, source })
}
