//! Users on a fresh store, and a clock that stands still until it is moved.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use fabric::{Cache, Letter, Mailer};
use peers::vault::Vault;
use ruma::{
    DeviceId,
    api::client::uiaa::{MatrixUserIdentifier, UserIdentifier},
    server_name,
};
use store::testing::on_each_engine;
use tokio::sync::mpsc;

use crate::{
    Clock, Credentials, LoginError, LoginRequest, NewSession, RateLimitsConfig, Registration, RegistrationConfig,
    Shared, TokenStyle, Users, UsersConfig,
};

pub(crate) const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The clock of a test.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    fn reading(&self) -> Clock {
        let time = self.0.clone();
        Arc::new(move || time.load(Ordering::SeqCst))
    }

    pub(crate) fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

pub(crate) fn config() -> UsersConfig {
    UsersConfig {
        registration: RegistrationConfig { enabled: true, ..RegistrationConfig::default() },
        rate_limits: RateLimitsConfig { enabled: false, ..RateLimitsConfig::default() },
        ..UsersConfig::default()
    }
}

pub(crate) async fn with_users(story: impl AsyncFn(Arc<Users>, TestClock)) {
    with_users_of(config(), story).await;
}

pub(crate) async fn with_users_of(config: UsersConfig, story: impl AsyncFn(Arc<Users>, TestClock)) {
    on_each_engine(async |store| {
        let clock = TestClock(Arc::new(AtomicI64::new(1_700_000_000_000)));
        let now = clock.reading();
        let users =
            Users::open_at(config.clone(), store.clone(), peers::testing::alone(server_name!("a.test"), store), now)
                .await?;
        story(users, clock).await;
        Ok::<_, store::Error>(())
    })
    .await;
}

/// As [`with_users_of`], for a server that writes letters, which the story gets.
pub(crate) async fn with_letters(
    config: UsersConfig,
    story: impl AsyncFn(Arc<Users>, TestClock, mpsc::Receiver<Letter>),
) {
    on_each_engine(async |store| {
        let clock = TestClock(Arc::new(AtomicI64::new(1_700_000_000_000)));
        let (mailer, letters) = Mailer::channel();
        let vault = Vault::ephemeral().expect("there is randomness");
        let shared = Shared { cache: Cache::in_process(), vault: Arc::new(vault), mailer: Some(mailer) };
        let peers = peers::testing::alone(server_name!("a.test"), store.clone());
        let users = Users::open_with(config.clone(), store, peers, shared, clock.reading()).await?;
        story(users, clock, letters).await;
        Ok::<_, store::Error>(())
    })
    .await;
}

impl Users {
    pub(crate) async fn register_for_tests(&self, name: &str) -> NewSession {
        let auth = ruma::api::client::uiaa::AuthData::Dummy(ruma::api::client::uiaa::Dummy::new());
        let wish = Registration {
            username: Some(name),
            password: Some("a password"),
            auth: Some(&auth),
            ..Registration::default()
        };
        let made = self.register(wish, HOME).await.expect("the name is free");
        made.session.expect("it logs in")
    }

    async fn login_as(
        &self,
        name: &str,
        password: &str,
        device_id: Option<&DeviceId>,
        tokens: TokenStyle,
    ) -> Result<NewSession, LoginError> {
        let identifier = UserIdentifier::Matrix(MatrixUserIdentifier::new(name.to_owned()));
        let credentials = Credentials::Password { identifier: &identifier, password, code: None };
        self.login(LoginRequest { credentials, device_id, device_name: None, tokens }, HOME).await
    }

    pub(crate) async fn try_login_for_tests(&self, name: &str, password: &str) -> Result<NewSession, LoginError> {
        self.login_as(name, password, None, TokenStyle::Lasting).await
    }

    pub(crate) async fn login_for_tests(&self, name: &str, tokens: TokenStyle) -> NewSession {
        self.login_as(name, "a password", None, tokens).await.expect("the password is right")
    }

    pub(crate) async fn login_on_for_tests(&self, name: &str, device_id: &DeviceId) -> NewSession {
        self.login_as(name, "a password", Some(device_id), TokenStyle::Lasting).await.expect("the password is right")
    }
}
