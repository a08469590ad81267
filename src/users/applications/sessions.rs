//! What applications do for users: sessions that they open for them, and acting as one of them without a session.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use metrics::counter;
use model::{Kind, Millis, Refusal};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use store::{
    Write,
    applications::{AppSessionRow, forget_secrets},
    devices::OfApplication,
    used_tokens,
};
use tracing::{info, warn};

use super::Application;
use crate::{
    NewAccount, NewSession, RegisterError, Role, Session, TokenStyle, Users,
    accounts::{MAX_DEVICE_NAME_BYTES, check_device_id},
    millis,
    tokens::NewDevice,
};

/// How often it is looked what is over.
const EVERY: Duration = Duration::from_secs(60);
/// How many sessions are ended in one go.
const AT_ONCE: u32 = 200;
/// The shortest session.
const SHORTEST: Duration = Duration::from_secs(60);
/// How many sessions one application may have open for one user: the one that was opened first ends for another one.
const MOST_FOR_ONE: usize = 20;

/// A session that an application wants to open.
#[derive(Clone, Debug)]
pub struct MintWish<'a> {
    /// For whom.
    pub user_id: &'a UserId,
    /// On which device; `None`: a new one.
    pub device_id: Option<&'a DeviceId>,
    /// What to call the device; `None`: as the application.
    pub device_name: Option<&'a str>,
    /// How long it goes on; `None`: as long as may be.
    pub lifetime: Option<Duration>,
}

/// A session that an application has opened.
pub struct Minted {
    /// What opens it.
    pub session: NewSession,
    /// When it ends in any case.
    pub ends_at: Millis,
}

/// A session that an application has opened, as it is listed.
pub type AppSession = AppSessionRow;

/// Why an application can't do something for a user.
#[derive(Debug, thiserror::Error)]
pub enum ActingError {
    /// It isn't said for whom.
    #[error("the header X-App-User has to say as which user")]
    NobodyNamed,
    /// There is no such user here.
    #[error("there is no such user on this server, or the account has been deactivated")]
    UnknownUser,
    /// The user administrates this server, or does what only some may.
    #[error("applications do nothing for people who have a role on this server")]
    Staff,
    /// An admin has locked the account.
    #[error("an administrator has locked this account")]
    Locked,
    /// Somebody else has opened that device.
    #[error("this device is not of this application: leave `device_id` out, or choose another")]
    DeviceTaken,
    /// The device can't be so.
    #[error("`{0}` is empty, too long or no plain text")]
    Device(&'static str),
    /// It can't go on for so long, or so short.
    #[error("`lifetime_ms` is 60000 to {0}")]
    Lifetime(Millis),
    /// The application was switched off meanwhile.
    #[error("this application has been disabled")]
    Disabled,
    /// The store failed.
    #[error("the session could not be opened or ended")]
    Store(#[from] store::Error),
}

impl Refusal for ActingError {
    fn kind(&self) -> Kind {
        match self {
            Self::NobodyNamed | Self::Device(_) | Self::Lifetime(_) => Kind::Invalid,
            Self::UnknownUser => Kind::NotFound,
            Self::Staff | Self::Locked | Self::Disabled => Kind::Forbidden,
            Self::DeviceTaken => Kind::Conflict,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::NobodyNamed => Some("user_needed"),
            Self::UnknownUser => Some("unknown_user"),
            Self::Staff => Some("staff_account"),
            Self::Locked => Some("user_locked"),
            Self::DeviceTaken => Some("device_taken"),
            Self::Disabled => Some("application_disabled"),
            _ => None,
        }
    }
}

impl Users {
    /// The session in which an application acts as `user_id`. It is none that could be listed or ended: it lasts for a request.
    pub async fn act_as(&self, application: &Application, user_id: &UserId) -> Result<Session, ActingError> {
        self.check_served(user_id).await?;
        // What is sent twice is known by who sends it and on which device: the application is one.
        let device_id: OwnedDeviceId = application.app_key.as_str().into();
        Ok(Session::of_application(user_id.to_owned(), device_id, application.app_key.clone(), self.now()))
    }

    /// Opens a session for a user.
    pub async fn mint(&self, application: &Application, wish: MintWish<'_>) -> Result<Minted, ActingError> {
        let MintWish { user_id, device_id, device_name, lifetime } = wish;
        let longest = self.config.applications.session_lifetime;
        let lifetime = lifetime.unwrap_or(longest);
        if !(SHORTEST..=longest.max(SHORTEST)).contains(&lifetime) {
            return Err(ActingError::Lifetime(millis(longest)));
        }
        let is_odd = |text: &str| text.chars().any(char::is_control);
        if check_device_id(device_id).is_err() || device_id.is_some_and(|device_id| is_odd(device_id.as_str())) {
            return Err(ActingError::Device("device_id"));
        }
        if device_name.is_some_and(|name| name.is_empty() || name.len() > MAX_DEVICE_NAME_BYTES || is_odd(name)) {
            return Err(ActingError::Device("device_name"));
        }
        self.check_served(user_id).await?;
        let app_key = application.app_key.as_str();
        if let Some(device_id) = device_id {
            let there = self.store.devices().find(user_id, device_id).await?;
            if there.is_some_and(|device| device.app_key.as_deref() != Some(app_key)) {
                return Err(ActingError::DeviceTaken);
            }
        }
        self.make_room(app_key, user_id, device_id).await?;

        let ends_at = self.now() + millis(lifetime);
        let device = NewDevice {
            device_id,
            display_name: Some(device_name.unwrap_or(&application.name)),
            tokens: TokenStyle::Signed,
            application: Some(OfApplication { app_key, ends_at }),
        };
        let mut write = Write::new();
        let session = self.open_session(&mut write, user_id, device);
        self.store.commit(write).await?;
        self.opened(&session);
        // Whoever switched it off meanwhile has ended the sessions that there were then.
        let row = self.store.applications().find(app_key).await?;
        if !row.map(Application::try_from).transpose()?.is_some_and(|application| application.is_on(self.now())) {
            self.remove_devices(user_id, &[&session.device_id]).await?;
            return Err(ActingError::Disabled);
        }
        counter!("comity_application_sessions_total").increment(1);
        info!(app_key, user.id = %user_id, device.id = %session.device_id, "{app_key} has opened a session for {user_id}");
        Ok(Minted { session, ends_at })
    }

    /// Ends what was opened first, if there is no room for another session.
    async fn make_room(&self, app_key: &str, user_id: &UserId, other: Option<&DeviceId>) -> Result<(), ActingError> {
        let most = u32::try_from(MOST_FOR_ONE).unwrap_or(u32::MAX);
        let mut open = self.store.applications().sessions(app_key, Some(user_id), ("", ""), most + AT_ONCE).await?;
        open.retain(|open| Some(&*open.device_id) != other);
        open.sort_by(|one, other| (one.opened_at, &one.device_id).cmp(&(other.opened_at, &other.device_id)));
        let mut open: VecDeque<_> = open.into();
        let mut over = Vec::new();
        while open.len() >= MOST_FOR_ONE {
            over.extend(open.pop_front());
        }
        let over: Vec<&DeviceId> = over.iter().map(|over| &*over.device_id).collect();
        if !over.is_empty() {
            self.remove_devices(user_id, &over).await?;
        }
        Ok(())
    }

    /// Up to `limit` sessions that an application has opened, for one user or for all, those that follow `after`, by user and device.
    pub async fn sessions_of(
        &self,
        app_key: &str,
        user_id: Option<&UserId>,
        after: (&str, &str),
        limit: u32,
    ) -> Result<Vec<AppSession>, ActingError> {
        Ok(self.store.applications().sessions(app_key, user_id, after, limit).await?)
    }

    /// Ends the sessions that an application has opened, for one user or for all. Answers how many.
    pub async fn end_sessions_of(&self, app_key: &str, user_id: Option<&UserId>) -> Result<usize, store::Error> {
        let mut ended = 0;
        loop {
            let open = self.store.applications().sessions(app_key, user_id, ("", ""), AT_ONCE).await?;
            let is_last = open.len() < AT_ONCE as usize;
            ended += self.end_all(open.into_iter().map(|open| (open.user_id, open.device_id))).await?;
            if is_last {
                return Ok(ended);
            }
        }
    }

    /// Ends one of the sessions that an application has opened. Answers whether there was one.
    pub async fn end_session_of(
        &self,
        app_key: &str,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<bool, store::Error> {
        // PostgreSQL takes no text with a NUL.
        if device_id.as_str().contains('\0') {
            return Ok(false);
        }
        let there = self.store.devices().find(user_id, device_id).await?;
        if there.is_none_or(|device| device.app_key.as_deref() != Some(app_key)) {
            return Ok(false);
        }
        self.remove_devices(user_id, &[device_id]).await?;
        Ok(true)
    }

    /// Makes a user on behalf of an application.
    pub async fn provision(
        &self,
        application: &Application,
        account: NewAccount,
    ) -> Result<OwnedUserId, RegisterError> {
        let app_key = application.app_key.as_str();
        let user_id = self.create_account(NewAccount { is_admin: false, ..account }).await?;
        counter!("comity_application_users_total").increment(1);
        info!(app_key, user.id = %user_id, "{app_key} has made {user_id}");
        Ok(user_id)
    }

    /// Forgets what is over of applications: sessions, secrets and used requests. Until it is dropped.
    pub(crate) async fn tend_applications(&self) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.forget_what_is_over().await {
                warn!(error = &error as &dyn std::error::Error, "failed to forget what is over of applications");
            }
        }
    }

    pub(super) async fn forget_what_is_over(&self) -> Result<(), store::Error> {
        let now = self.now();
        let mut write = Write::new();
        forget_secrets(&mut write, now);
        used_tokens::forget(&mut write, now);
        self.store.commit(write).await?;
        loop {
            let over = self.store.applications().overdue_sessions(now, AT_ONCE).await?;
            let is_last = over.len() < AT_ONCE as usize;
            let ended = self.end_all(over.into_iter()).await?;
            if ended > 0 {
                info!(sessions = ended, "{ended} sessions that applications had opened are over, and were ended");
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn end_all(
        &self,
        sessions: impl Iterator<Item = (OwnedUserId, OwnedDeviceId)>,
    ) -> Result<usize, store::Error> {
        let mut by_user: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>> = BTreeMap::new();
        for (user_id, device_id) in sessions {
            by_user.entry(user_id).or_default().push(device_id);
        }
        let mut ended = 0;
        for (user_id, devices) in by_user {
            let ids: Vec<&DeviceId> = devices.iter().map(|device_id| &**device_id).collect();
            self.remove_devices(&user_id, &ids).await?;
            ended += ids.len();
        }
        Ok(ended)
    }

    /// Refuses those for whom no application does anything.
    async fn check_served(&self, user_id: &UserId) -> Result<(), ActingError> {
        let account = match self.is_ours(user_id) {
            true => self.store.custody().find(user_id).await?,
            false => None,
        };
        let Some(account) = account.filter(|account| account.deactivated_at.is_none()) else {
            return Err(ActingError::UnknownUser);
        };
        if account.locked_at.is_some() {
            return Err(ActingError::Locked);
        }
        if self.role_of(user_id).await? != Role::User {
            return Err(ActingError::Staff);
        }
        Ok(())
    }
}
