//! Whom this server believes to be who they say they are.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tracing::warn;

use crate::{PeerError, PeersConfig};

/// What connections to other servers are made with. `roots`: as [`roots`] has them.
pub(crate) fn client_config(config: &PeersConfig, roots: &Arc<RootCertStore>) -> Result<ClientConfig, PeerError> {
    let unusable = |error: rustls::Error| PeerError::Configuration(error.to_string());
    if !config.verify_tls {
        warn!("federation.verify_tls is off: anybody between this server and others can pass for them");
        return believing_anybody().map_err(unusable);
    }
    believing(roots.clone())
}

/// Connections to whom `roots` vouch for.
pub(crate) fn believing(roots: Arc<RootCertStore>) -> Result<ClientConfig, PeerError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| PeerError::Configuration(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Connections that prove nothing: for tests, and for looking at what somebody shows.
pub(crate) fn believing_anybody() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let anybody = Arc::new(Anybody(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth())
}

/// The authorities that are trusted: the system's, and those in `ca_file`, which the configuration names as `key`.
pub(crate) fn roots(key: &str, ca_file: Option<&Path>) -> Result<RootCertStore, PeerError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        warn!(
            error = error as &dyn std::error::Error,
            "some of the system's certificate authorities could not be read"
        );
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = ca_file {
        let broken = |error: String| PeerError::Configuration(format!("{key} {}: {error}", path.display()));
        let pem = fs::read(path).map_err(|error| broken(error.to_string()))?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| broken(error.to_string()))?;
            roots.add(certificate).map_err(|error| broken(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(broken("there is no certificate in it".into()));
        }
    }
    Ok(roots)
}

/// The authorities by which other servers are known.
pub(crate) fn roots_of_peers(config: &PeersConfig) -> Result<RootCertStore, PeerError> {
    roots("federation.ca_file", config.ca_file.as_deref())
}

/// Believes anybody.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
