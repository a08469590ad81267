//! User-interactive authentication: acts that ask once more who is there.
//!
//! A session is a signed text, so that nothing is kept of the many that are begun and never finished; only where a flow
//! has several stages, those that are done are stored.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>

use model::{Kind, Millis, Refusal};
use ruma::{
    OwnedDeviceId,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo},
        error::{ErrorKind, StandardErrorBody},
    },
};
use store::{Write, tokens::complete_uia_stage};
use subtle::ConstantTimeEq as _;

use crate::{LoginError, Session, Users};

/// How long a client may take for all stages.
const SESSION_LIFETIME: Millis = 30 * 60_000;

/// What is to be done once it is clear who asks.
#[derive(Clone, Debug)]
pub enum Act {
    /// Make an account.
    Register,
    /// Set another password.
    ChangePassword,
    /// Close the account.
    Deactivate,
    /// Log out devices.
    DeleteDevices(Vec<OwnedDeviceId>),
    /// Replace the cross-signing keys.
    ReplaceSigningKeys,
    /// Make a token by which another device logs in.
    MakeLoginToken,
}

impl Act {
    /// What a session is bound to: it is good for this act only.
    fn purpose(&self) -> String {
        match self {
            Self::Register => "register".into(),
            Self::ChangePassword => "change password".into(),
            Self::Deactivate => "deactivate".into(),
            Self::DeleteDevices(devices) => {
                format!("delete devices {}", serde_json::json!(devices))
            }
            Self::ReplaceSigningKeys => "replace signing keys".into(),
            Self::MakeLoginToken => "make login token".into(),
        }
    }
}

/// Why an act that needs authentication was not done.
#[derive(Debug)]
pub enum Refused {
    /// These stages are still to be done.
    Challenge(Box<UiaaInfo>),
    /// It was refused for good.
    Refusal(Box<dyn Refusal + Send + Sync>),
}

impl<E: Refusal + Send + Sync + 'static> From<E> for Refused {
    fn from(refusal: E) -> Self {
        Self::Refusal(Box::new(refusal))
    }
}

/// Who proves to be somebody else than the one who asks has no business here.
#[derive(Debug, thiserror::Error)]
#[error("the identifier is not that of the user who asks")]
struct SomebodyElse;

impl Refusal for SomebodyElse {
    fn kind(&self) -> Kind {
        Kind::Forbidden
    }
}

/// A stage was not passed; the client may try it again.
struct Failed(ErrorKind, &'static str);

impl Users {
    /// Sees to it that whoever asks has passed the stages that `act` demands.
    ///
    /// `session`: who asks, where the act is one of a user's. `auth`: what came with the request.
    pub async fn authorize(
        &self,
        act: &Act,
        session: Option<&Session>,
        auth: Option<&AuthData>,
    ) -> Result<(), Refused> {
        let purpose = act.purpose();
        let who = session.map_or("", |session| session.user_id.as_str());
        let purpose = [purpose.as_str(), who];
        if let (Act::ReplaceSigningKeys, Some(session)) = (act, session)
            && self.store.oauth().session(&session.user_id, &session.device_id).await?.is_some()
        {
            return self.authorize_by_oauth(session, &purpose).await;
        }
        let flows = self.flows(act);
        let Some(auth) = auth else {
            return Err(challenge(flows, self.begin(&purpose), Vec::new(), None));
        };

        let known = match auth.session() {
            Some(text) if self.signer.is_valid(text, &purpose, self.now()) => Some(text.to_owned()),
            Some(_) => {
                let failed = Failed(ErrorKind::Unknown, "the session is not known or has expired");
                return Err(challenge(flows, self.begin(&purpose), Vec::new(), Some(failed)));
            }
            None => None,
        };
        let mut completed = match &known {
            Some(text) => self.completed_stages(text).await?,
            None => Vec::new(),
        };
        let text = known.unwrap_or_else(|| self.begin(&purpose));

        if let Some(stage) = auth.auth_type() {
            let is_asked_for = flows.iter().any(|flow| flow.stages.contains(&stage));
            let passed = if is_asked_for {
                self.pass(auth, session).await?
            } else {
                Err(Failed(ErrorKind::Unrecognized, "this stage is in none of the flows"))
            };
            if let Err(failed) = passed {
                return Err(challenge(flows, text, completed, Some(failed)));
            }
            if !completed.contains(&stage) {
                completed.push(stage.clone());
            }
            if !is_complete(&flows, &completed) {
                self.complete_stage(&text, &stage).await?;
            }
        }
        if is_complete(&flows, &completed) { Ok(()) } else { Err(challenge(flows, text, completed, None)) }
    }

    /// A session that came by the OAuth 2.0 API is never asked for a password: its user says on this server's page that it may. The
    /// client asks again when that is done, with nothing but the name of the session.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#oauth-authentication>
    async fn authorize_by_oauth(&self, session: &Session, purpose: &[&str]) -> Result<(), Refused> {
        if self.store.oauth().may_reset_keys(&session.user_id, self.now()).await? {
            return Ok(());
        }
        let base = self.config.public_baseurl.as_deref().unwrap_or_default();
        let page = serde_json::json!({ "url": format!("{base}/oauth2/account?action=org.matrix.cross_signing_reset") });
        let params = serde_json::json!({ "m.oauth": page });
        let mut info = UiaaInfo::new(vec![AuthFlow::new(vec![AuthType::OAuth])]);
        info.session = Some(self.begin(purpose));
        info.params = serde_json::value::to_raw_value(&params).ok();
        Err(Refused::Challenge(Box::new(info)))
    }

    fn flows(&self, act: &Act) -> Vec<AuthFlow> {
        let stage = match act {
            Act::Register if self.config.registration.all_tokens().next().is_some() => AuthType::RegistrationToken,
            Act::Register => AuthType::Dummy,
            _ => AuthType::Password,
        };
        vec![AuthFlow::new(vec![stage])]
    }

    fn begin(&self, purpose: &[&str]) -> String {
        self.signer.issue(purpose, self.now() + SESSION_LIFETIME)
    }

    async fn completed_stages(&self, text: &str) -> Result<Vec<AuthType>, store::Error> {
        let stages = self.store.tokens().uia_stages(text).await?;
        Ok(stages.into_iter().map(AuthType::from).collect())
    }

    async fn complete_stage(&self, text: &str, stage: &AuthType) -> Result<(), store::Error> {
        let now = self.now();
        let mut write = Write::new();
        complete_uia_stage(&mut write, text, stage.as_str(), now, now - SESSION_LIFETIME);
        self.store.commit(write).await.map(drop)
    }

    /// One stage.
    async fn pass(&self, auth: &AuthData, session: Option<&Session>) -> Result<Result<(), Failed>, Refused> {
        match auth {
            AuthData::Dummy(_) => Ok(Ok(())),
            AuthData::RegistrationToken(shown) if self.is_registration_token(&shown.token) => Ok(Ok(())),
            AuthData::RegistrationToken(_) => {
                Ok(Err(Failed(ErrorKind::Unauthorized, "the registration token is not valid")))
            }
            AuthData::Password(shown) => {
                let Some(session) = session else {
                    return Ok(Err(Failed(ErrorKind::Forbidden, "there is no user yet")));
                };
                let user_id = self.user_of_identifier(&shown.identifier).ok();
                if user_id.as_ref() != Some(&session.user_id) {
                    return Err(SomebodyElse.into());
                }
                match self.check_password(&session.user_id, &shown.password).await {
                    Ok(_) => Ok(Ok(())),
                    Err(LoginError::WrongPassword) => Ok(Err(Failed(ErrorKind::Forbidden, "the password is wrong"))),
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(Err(Failed(ErrorKind::Unrecognized, "this server does not know this stage"))),
        }
    }

    /// Whether `token` lets one register.
    pub(crate) fn is_registration_token(&self, token: &str) -> bool {
        let mut known = subtle::Choice::from(0);
        for valid in self.config.registration.all_tokens() {
            known |= valid.as_bytes().ct_eq(token.as_bytes());
        }
        known.into()
    }
}

fn is_complete(flows: &[AuthFlow], completed: &[AuthType]) -> bool {
    flows.iter().any(|flow| flow.stages.iter().all(|stage| completed.contains(stage)))
}

fn challenge(flows: Vec<AuthFlow>, session: String, completed: Vec<AuthType>, failed: Option<Failed>) -> Refused {
    let mut info = UiaaInfo::new(flows);
    info.session = Some(session);
    info.completed = completed;
    info.params = serde_json::value::to_raw_value(&serde_json::json!({})).ok();
    info.auth_error = failed.map(|Failed(kind, message)| Box::new(StandardErrorBody::new(kind, message.to_owned())));
    Refused::Challenge(Box::new(info))
}

#[cfg(test)]
mod tests {
    use ruma::{
        api::client::uiaa::{Dummy, Password, RegistrationToken},
        device_id,
    };

    use super::*;
    use crate::testing::{with_users, with_users_of};

    fn challenge_of(refused: Refused) -> UiaaInfo {
        match refused {
            Refused::Challenge(info) => *info,
            Refused::Refusal(error) => panic!("not a challenge: {error}"),
        }
    }

    fn password(user: &str, password: &str, session: Option<String>) -> AuthData {
        let user_id = ruma::UserId::parse(user).expect("it is a user id");
        let mut stage = Password::new(user_id.into(), password.to_owned());
        stage.session = session;
        AuthData::Password(stage)
    }

    #[tokio::test]
    async fn a_session_is_good_for_one_act_of_one_user() {
        with_users(async |users, _| {
            let session = users.register_for_tests("alice").await;
            let session = users.authenticate(&session.access_token).await.expect("the token is good");
            let act = Act::DeleteDevices(vec![device_id!("A").to_owned()]);
            let asked = challenge_of(users.authorize(&act, Some(&session), None).await.expect_err("nothing was shown"));
            assert_eq!(asked.flows[0].stages, [AuthType::Password]);

            let right = password("@alice:a.test", "a password", asked.session.clone());
            let other_act = Act::DeleteDevices(vec![device_id!("B").to_owned()]);
            assert!(users.authorize(&other_act, Some(&session), Some(&right)).await.is_err());
            users.authorize(&act, Some(&session), Some(&right)).await.expect("the password is right");

            let wrong = password("@alice:a.test", "another password", asked.session.clone());
            let info = challenge_of(users.authorize(&act, Some(&session), Some(&wrong)).await.expect_err("wrong"));
            assert_eq!(info.auth_error.map(|error| error.kind), Some(ErrorKind::Forbidden));
            let else_one = password("@bob:a.test", "a password", asked.session);
            assert!(users.authorize(&act, Some(&session), Some(&else_one)).await.is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn a_registration_token_is_asked_for_where_one_is_configured() {
        let mut config = crate::testing::config();
        config.registration.tokens = vec!["sesame".into()];
        with_users_of(config, async |users, _| {
            let asked = challenge_of(users.authorize(&Act::Register, None, None).await.expect_err("nothing was shown"));
            assert_eq!(asked.flows[0].stages, [AuthType::RegistrationToken]);
            let token = |text: &str| {
                let mut stage = RegistrationToken::new(text.to_owned());
                stage.session = asked.session.clone();
                AuthData::RegistrationToken(stage)
            };
            assert!(users.authorize(&Act::Register, None, Some(&token("guess"))).await.is_err());
            let dummy = AuthData::Dummy(Dummy::new());
            assert!(users.authorize(&Act::Register, None, Some(&dummy)).await.is_err());
            users.authorize(&Act::Register, None, Some(&token("sesame"))).await.expect("the token is right");
        })
        .await;
    }
}
