//! The certificate authority of one network: whoever trusts it, trusts its servers and nobody else.

use std::{sync::Arc, time::SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

/// An authority with a key of its own.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a server shows to prove its name, and the key to it.
pub struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// Who connects by TLS, in whichever library, uses this one implementation of it.
fn install_provider() {
    let _ = ring::default_provider().install_default();
}

/// A client that trusts nobody in particular.
pub(crate) fn http_client() -> reqwest::ClientBuilder {
    install_provider();
    reqwest::Client::builder()
}

impl Authority {
    /// An authority that nobody has heard of yet.
    pub fn new() -> Self {
        install_provider();
        let mut params = CertificateParams::new([]).expect("no names are no bad names");
        params.distinguished_name.push(DnType::CommonName, "The authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("one can sign oneself");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate, as a file would hold it.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for `names`, each a DNS name or an IP address.
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.sign(leaf_params(names))
    }

    /// The same for a time of the test's choice.
    pub fn leaf_between(&self, names: &[&str], begin: SystemTime, end: SystemTime) -> Leaf {
        let mut params = leaf_params(names);
        params.not_before = begin.into();
        params.not_after = end.into();
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority can sign");
        Leaf { certificate, key }
    }

    /// A client that trusts this authority alone and answers in HTTP of either version.
    pub fn client(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder().tls_certs_only([self.root()]).no_proxy()
    }

    /// Its own certificate, for clients that trust it.
    pub(crate) fn root(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_der(self.certificate.der()).expect("its own certificate")
    }
}

fn leaf_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names of a test can be certified");
    params.distinguished_name.push(DnType::CommonName, "A server of a test");
    params.use_authority_key_identifier_extension = true;
    params
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Leaf {
    /// A certificate that nobody vouches for but itself.
    pub fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = leaf_params(names).self_signed(&key).expect("one can sign oneself");
        Self { certificate, key }
    }

    /// The certificate, as a file would hold it.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The private key, as a file would hold it.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Takes TLS connections with it, for HTTP/2 and 1.1.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor_for(&["h2", "http/1.1"])
    }

    /// Takes TLS connections with it, for protocols of the test's choice.
    pub fn acceptor_for(&self, protocols: &[&str]) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .expect("the key is the certificate's");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
