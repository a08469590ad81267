//! Sessions that came by the OAuth 2.0 API: opened, renewed and ended.

use ruma::{DeviceId, OwnedDeviceId, UserId};
use store::{
    Write,
    oauth::{OauthSessionRow, allow_key_reset, insert_session},
};
use tracing::info;

use super::{OauthClient, OauthError};
use crate::{DeviceError, NewSession, TokenStyle, Users, secrets::hash_of, tokens::NewDevice};

/// How long the clients of somebody may replace the cross-signing keys who has allowed it.
pub(crate) const KEY_RESET_WINDOW: model::Millis = 10 * 60_000;

/// A session, and what it may do.
pub struct Granted {
    /// The session.
    pub session: NewSession,
    /// The words of the scope, with spaces between.
    pub scope: String,
}

/// By which client a session was opened.
#[derive(Clone, Debug)]
pub struct OauthSession {
    /// Its device.
    pub device_id: OwnedDeviceId,
    /// What the client is called.
    pub client_name: String,
    /// A page that tells of it.
    pub client_uri: String,
}

/// A session to be opened.
pub(super) struct Opening<'a> {
    /// By whom.
    pub(super) client: &'a OauthClient,
    /// Whose.
    pub(super) user_id: &'a UserId,
    /// On which device.
    pub(super) device_id: &'a DeviceId,
    /// What it may do.
    pub(super) scope: &'a str,
}

impl Users {
    /// Opens a session that somebody has allowed.
    pub(super) async fn open_oauth_session(&self, opening: Opening<'_>) -> Result<Granted, OauthError> {
        let Opening { client, user_id, device_id, scope } = opening;
        self.check_may_enter(user_id).await?;
        let device = NewDevice {
            device_id: Some(device_id),
            display_name: Some(client.name()),
            tokens: TokenStyle::Refreshed,
            application: None,
        };
        let mut write = Write::new();
        let session = self.open_session(&mut write, user_id, device);
        let row = OauthSessionRow {
            device_id: device_id.to_owned(),
            client_id: client.client_id.clone(),
            scope: scope.to_owned(),
        };
        insert_session(&mut write, user_id, &row, self.now());
        self.store.commit(write).await?;
        self.opened(&session);
        Ok(Granted { session, scope: scope.to_owned() })
    }

    /// As [`Users::refresh`], for the client that the session is of.
    pub async fn refresh_oauth(&self, refresh_token: &str, client_id: &str) -> Result<Granted, OauthError> {
        let client = self.oauth_client(client_id).await?;
        let row = self.store.tokens().find_refresh_token(&hash_of(refresh_token)).await?;
        let scope = match &row {
            Some(row) => {
                let session = self.store.oauth().session(&row.user_id, &row.device_id).await?;
                let session = session.filter(|session| session.client_id == client.client_id);
                session.ok_or(OauthError::Grant("the refresh token is not one of this client"))?.scope
            }
            // One that was replaced, and comes again, is looked into by who renews it.
            None => String::new(),
        };
        let session = self.refresh(refresh_token, TokenStyle::Refreshed).await?;
        Ok(Granted { session, scope })
    }

    /// Ends the session that an access token or a refresh token is of; its device goes with it. Nothing happens where there is none.
    ///
    /// Spec: "If the `client_id` is not provided, or does not match the client associated with the token, the server SHOULD still revoke
    /// the token."
    pub async fn revoke_oauth(&self, token: &str) -> Result<(), OauthError> {
        let hash = hash_of(token);
        let tokens = self.store.tokens();
        let found = match tokens.find_access_token(&hash).await? {
            Some(row) => Some((row.user_id, row.device_id)),
            None => tokens.find_refresh_token(&hash).await?.map(|row| (row.user_id, row.device_id)),
        };
        let Some((user_id, device_id)) = found else { return Ok(()) };
        self.remove_devices(&user_id, &[&device_id]).await?;
        info!(user.id = %user_id, device.id = %device_id, "a session of {user_id} was revoked");
        Ok(())
    }

    /// Ends a session of a user, as they have said on this server's page; its device goes with it.
    pub async fn end_own_session(&self, user_id: &UserId, device_id: &DeviceId) -> Result<(), DeviceError> {
        self.device_of(user_id, device_id).await?;
        self.remove_devices(user_id, &[device_id]).await?;
        Ok(())
    }

    /// The sessions of a user that came by the OAuth 2.0 API.
    pub async fn oauth_sessions(&self, user_id: &UserId) -> Result<Vec<OauthSession>, OauthError> {
        let mut sessions = Vec::new();
        for row in self.store.oauth().sessions(user_id).await? {
            // A client stays as long as its sessions.
            let Ok(client) = self.oauth_client(&row.client_id).await else { continue };
            sessions.push(OauthSession {
                device_id: row.device_id,
                client_name: client.name().to_owned(),
                client_uri: client.metadata.client_uri,
            });
        }
        Ok(sessions)
    }

    /// Lets the clients of a user replace the cross-signing keys for ten minutes, as the user has said on this server's page.
    pub async fn allow_signing_key_reset(&self, user_id: &UserId) -> Result<(), OauthError> {
        let now = self.now();
        let mut write = Write::new();
        allow_key_reset(&mut write, user_id, now + KEY_RESET_WINDOW, now);
        self.store.commit(write).await?;
        info!(user.id = %user_id, "{user_id} lets the cross-signing keys be replaced");
        Ok(())
    }
}
