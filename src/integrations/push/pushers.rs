//! Making, looking at and removing pushers.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::{Kind, Refusal};
use ruma::UserId;
use sha2::Sha256;
use store::{
    Write,
    pushers::{self, PusherKey, PusherRow},
};
use tracing::info;
use users::Session;

use super::{PusherWish, Pushers, ShownPusher};
use crate::now;

/// How many pushers one user may have.
const MOST: usize = 100;
/// What the application of a mailbox is called.
const MAILBOX_APP: &str = "m.email";

/// Why something about pushers was not done.
#[derive(Debug, thiserror::Error)]
pub enum PusherError {
    /// Something isn't there that must be.
    #[error("missing parameters: {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// Something in it is wrong.
    #[error("`{field}` {wrong}")]
    Field {
        /// What.
        field: &'static str,
        /// Why.
        wrong: String,
    },
    /// It isn't an address that the user has shown to have.
    #[error("this is no e-mail address of yours: prove that it is first")]
    NotYours,
    /// There is nobody who could take letters.
    #[error("this server sends no e-mail")]
    NoMail,
    /// There are enough of them.
    #[error("you have {0} pushers already: remove one first")]
    TooMany(usize),
    /// A link wasn't made by this server, or what it ends has ended.
    #[error("this link ends nothing (any more)")]
    Link,
    /// The store failed.
    #[error("the pusher could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for PusherError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing(_) | Self::Field { .. } | Self::NotYours | Self::NoMail | Self::TooMany(_) => Kind::Invalid,
            Self::Link => Kind::NotFound,
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::Missing(_) => Some("M_MISSING_PARAM"),
            Self::NotYours => Some("M_THREEPID_NOT_FOUND"),
            Self::NoMail | Self::TooMany(_) => Some("M_UNKNOWN"),
            _ => None,
        }
    }
}

impl Pushers {
    /// The pushers of a user.
    pub async fn list(&self, user_id: &UserId) -> Result<Vec<ShownPusher>, PusherError> {
        Ok(self.shared.store.pushers().list(user_id).await?.into_iter().map(ShownPusher::from).collect())
    }

    /// Makes, changes or removes a pusher of whoever asks, as they wish.
    pub async fn set(&self, session: &Session, wish: &PusherWish) -> Result<(), PusherError> {
        let (app_id, pushkey, kind) = wish.about()?;
        let is_mailbox = kind.map_or(app_id == MAILBOX_APP, |kind| kind == "email");
        // Addresses are kept in small letters.
        let pushkey = if is_mailbox { pushkey.trim().to_lowercase() } else { pushkey.to_owned() };
        let key = PusherKey { user_id: session.user_id.clone(), app_id: app_id.to_owned(), pushkey };
        match kind {
            None => self.remove(&key).await,
            Some("email") => {
                self.check_mailbox(&key).await?;
                self.put(session, key, "email", wish).await
            }
            Some("http") => self.put(session, key, "http", wish).await,
            Some(_) => Err(PusherError::Field { field: "kind", wrong: "is neither http nor email".into() }),
        }
    }

    async fn remove(&self, key: &PusherKey) -> Result<(), PusherError> {
        let mut write = Write::new();
        pushers::remove(&mut write, key);
        self.shared.store.commit(write).await?;
        Ok(())
    }

    async fn check_mailbox(&self, key: &PusherKey) -> Result<(), PusherError> {
        if key.app_id != MAILBOX_APP {
            return Err(PusherError::Field { field: "app_id", wrong: format!("is not {MAILBOX_APP}") });
        }
        if self.shared.users.mailer().is_none() {
            return Err(PusherError::NoMail);
        }
        let owner = self.shared.store.verification().owner_of(&key.pushkey).await?;
        if owner.as_ref() == Some(&key.user_id) { Ok(()) } else { Err(PusherError::NotYours) }
    }

    async fn put(
        &self,
        session: &Session,
        key: PusherKey,
        kind: &'static str,
        wish: &PusherWish,
    ) -> Result<(), PusherError> {
        let complete = wish.complete(kind)?;
        let store = &self.shared.store;
        let all = store.pushers().list(&key.user_id).await?;
        let before = all.iter().find(|row| row.key == key);
        if before.is_none() && all.len() >= MOST {
            return Err(PusherError::TooMany(MOST));
        }
        let is_enabled = wish.enabled.unwrap_or(true);
        // Who switches it on or off may do so from another device; who sets it without is where it pushes to.
        let is_switched = before.is_some_and(|before| before.disabled_at.is_none() != is_enabled);
        let device_id = match before {
            _ if kind == "email" => None,
            Some(before) if is_switched => before.device_id.clone(),
            _ => Some(session.device_id.clone()),
        };
        let row = PusherRow {
            kind: kind.to_owned(),
            app_display_name: complete.app_display_name.to_owned(),
            device_display_name: complete.device_display_name.to_owned(),
            profile_tag: wish.profile_tag.clone(),
            lang: complete.lang.to_owned(),
            data: serde_json::to_string(complete.data).expect("an object is JSON"),
            device_id,
            disabled_at: (!is_enabled).then(now),
            set_at: now(),
            since: store.visible_position().await?,
            link: format!("{:032x}", rand::random::<u128>()),
            badge: None,
            failing_since: None,
            failures: 0,
            key,
        };
        let mut write = Write::new();
        if !wish.append.unwrap_or(false) {
            pushers::remove_of_others(&mut write, &row.key);
        }
        pushers::put(&mut write, &row);
        if !is_enabled {
            pushers::empty_queue(&mut write, &row.key);
        }
        store.commit(write).await?;
        self.shared.changed.notify_one();
        self.shared.queued.notify_one();
        Ok(())
    }

    // === Links ===

    /// Where a letter leads who wants no more of them.
    pub(super) fn link_of(&self, row: &PusherRow) -> Option<String> {
        let base = self.shared.config.public_baseurl.as_deref()?;
        let (link, token) = (&row.link, URL_SAFE_NO_PAD.encode(self.signed(&row.link).finalize().into_bytes()));
        Some(format!("{base}/_synapse/client/unsubscribe?pusher={link}&token={token}"))
    }

    fn signed(&self, link: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.shared.link_key).expect("HMAC takes keys of any length");
        mac.update(link.as_bytes());
        mac
    }

    /// Whether a link of a letter ends anything: the address that gets no more letters then.
    pub async fn check_link(&self, link: &str, token: &str) -> Result<String, PusherError> {
        Ok(self.linked(link, token).await?.key.pushkey)
    }

    /// Removes the mailbox that a link of a letter names.
    pub async fn unsubscribe(&self, link: &str, token: &str) -> Result<(), PusherError> {
        let row = self.linked(link, token).await?;
        self.remove(&row.key).await?;
        info!(user.id = %row.key.user_id, "{} wants no more letters", row.key.user_id);
        Ok(())
    }

    async fn linked(&self, link: &str, token: &str) -> Result<PusherRow, PusherError> {
        let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| PusherError::Link)?;
        self.signed(link).verify_slice(&token).map_err(|_| PusherError::Link)?;
        let row = self.shared.store.pushers().by_link(link).await?;
        row.filter(|row| row.kind == "email").ok_or(PusherError::Link)
    }
}
