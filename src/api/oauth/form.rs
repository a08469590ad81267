//! What comes in a query or in the body of a form.

use std::collections::BTreeMap;

use url::form_urlencoded;
use users::oauth::OauthError;

/// No form here has more fields.
const MOST_FIELDS: usize = 50;

/// Fields by their names, each of them once.
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    /// RFC 6749, 3.1: "Request and response parameters MUST NOT be included more than once."
    pub(super) fn parse(text: &[u8]) -> Result<Self, OauthError> {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text) {
            // "Parameters sent without a value MUST be treated as if they were omitted".
            if value.is_empty() {
                continue;
            }
            if fields.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(OauthError::Request("a parameter stands there twice"));
            }
            if fields.len() > MOST_FIELDS {
                return Err(OauthError::Request("there are too many parameters"));
            }
        }
        Ok(Self(fields))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What must be there.
    pub(super) fn need(&self, name: &str, missing: &'static str) -> Result<&str, OauthError> {
        self.get(name).ok_or(OauthError::Request(missing))
    }

    /// What may be missing, as a text.
    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }
}
