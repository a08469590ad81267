//! What works, but is probably not meant.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use url::Url;

use super::{Config, DatabaseUrl, Loaded, Origin};

impl Loaded {
    /// Sentences for the operator, worst first.
    pub fn warnings(&self) -> Vec<String> {
        [self.open_registration(), self.no_mail(), self.readable_secrets(), self.unused_tokens(), self.plain_http()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn open_registration(&self) -> Option<String> {
        let registration = &self.config.registration;
        let open = registration.enabled && registration.all_tokens().next().is_none();
        open.then(|| {
            "registration is open to everyone who reaches this server; set registration.token to ask for one".to_owned()
        })
    }

    fn no_mail(&self) -> Option<String> {
        let nobody = self.config.registration.require_email && self.config.email.smtp_host.is_none();
        nobody.then(|| "registration.require_email is set, but not email.smtp_host: nobody can register".to_owned())
    }

    fn readable_secrets(&self) -> Option<String> {
        let file = self.file.as_deref()?;
        if !self.secrets_in_file() || !is_readable_by_all(file) {
            return None;
        }
        Some(format!("{} holds secrets and everyone on this machine can read it; chmod 600 it", file.display()))
    }

    fn secrets_in_file(&self) -> bool {
        let registration = &self.config.registration;
        let in_file = |key: &str| matches!(self.origins.get(key), Some(Origin::File(_)));
        // A key that is there and says nothing, as in the file that comes with Comity, gives nothing away.
        [
            ("registration.token", registration.token.is_some()),
            ("registration.tokens", !registration.tokens.is_empty()),
            ("registration.shared_secret", registration.shared_secret.is_some()),
            ("email.password", self.config.email.password.is_some()),
            ("media.s3.secret_access_key", self.config.media.s3.secret_access_key.is_some()),
            ("bus.url", self.config.bus.url.is_some()),
            ("bus.management_url", self.config.bus.management_url.is_some()),
            ("cache.url", self.config.cache.url.is_some()),
            ("database.url", matches!(self.config.database.url, Some(DatabaseUrl::Postgres(_)))),
        ]
        .into_iter()
        .any(|(key, holds_a_secret)| holds_a_secret && in_file(key))
    }

    fn unused_tokens(&self) -> Option<String> {
        let registration = &self.config.registration;
        let unused = !registration.enabled && registration.all_tokens().next().is_some();
        unused.then(|| "registration tokens are set, but registration.enabled is false".to_owned())
    }

    fn plain_http(&self) -> Option<String> {
        let Config { public_baseurl: Some(url), .. } = &self.config else { return None };
        let is_plain = url.scheme() == "http" && !is_loopback(url);
        is_plain
            .then(|| "public_baseurl is plain HTTP: passwords and messages cross the network unencrypted".to_owned())
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_readable_by_all(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}
