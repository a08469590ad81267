//! Which providers there are.

use std::fmt;

/// `[sso]`: who else vouches for people.
#[derive(Clone, Debug, Default)]
pub struct SsoConfig {
    /// The providers, in the order in which people are shown them.
    pub providers: Vec<SsoProvider>,
    /// Beginnings of addresses to which a login token is handed without asking.
    pub trusted_redirects: Vec<String>,
}

/// `[[sso.providers]]`: an OpenID Connect provider.
#[derive(Clone)]
pub struct SsoProvider {
    /// What it is called in addresses.
    pub id: String,
    /// What people are shown.
    pub name: String,
    /// By which clients choose a picture, such as `google`.
    pub brand: Option<String>,
    /// What it calls itself, and where its discovery document is.
    pub issuer: String,
    /// What it calls this server.
    pub client_id: String,
    /// By what this server shows itself; `None`: it is a public client.
    pub client_secret: Option<String>,
    /// What is asked for; `openid` is always.
    pub scopes: Vec<String>,
    /// Which claim becomes the user name.
    pub localpart_claim: String,
    /// Which claim becomes the display name.
    pub display_name_claim: String,
    /// Which claim becomes the e-mail address, where the provider says that it is verified.
    pub email_claim: String,
    /// Whether who comes for the first time gets an account.
    pub register: bool,
    /// Whether an account that has the name already is theirs.
    pub link_by_name: bool,
}

/// Secrets stay out of logs.
impl fmt::Debug for SsoProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SsoProvider").field("id", &self.id).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
