//! The sessions of a user, and their end.

use model::Millis;
use ruma::OwnedDeviceId;
use serde::Serialize;
use users::Device;
use utoipa::ToSchema;

use super::super::{Answer, Call, Endpoint, Nothing, delete, get, post};
use crate::Session;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        post("/api/v1/auth/logout", "Ends this session.", logout),
        post("/api/v1/auth/logout_all", "Ends all sessions of the caller, this one too.", logout_all),
        get("/api/v1/auth/sessions", "The sessions of the caller.", list)
            .explained("Those of Matrix clients are among them. The oldest first."),
        delete("/api/v1/auth/sessions/{device_id}", "Ends one of the caller's sessions.", end)
            .explained("Its tokens open nothing any more, at once."),
    ]
}

/// A session, which is one device's.
#[derive(Serialize, ToSchema)]
struct SessionView {
    /// The device.
    #[schema(value_type = String)]
    device_id: OwnedDeviceId,
    /// What its owner calls it.
    device_name: Option<String>,
    /// When it was last seen, a minute coarse, milliseconds since 1970; null: never.
    last_seen_at: Option<Millis>,
    /// Where it was last seen.
    last_seen_ip: Option<String>,
    /// The application whose back end has opened the session; absent: the caller has.
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<String>,
    /// It is the one that asks.
    is_current: bool,
}

/// All sessions of a user.
#[derive(Serialize, ToSchema)]
struct SessionList {
    /// The oldest first.
    sessions: Vec<SessionView>,
}

async fn logout(call: Call<Session>) -> Answer<Nothing> {
    call.services.users.logout(&call.caller).await?;
    Ok(Nothing)
}

async fn logout_all(call: Call<Session>) -> Answer<Nothing> {
    call.services.users.logout_all(&call.caller).await?;
    Ok(Nothing)
}

async fn list(call: Call<Session>) -> Answer<SessionList> {
    let devices = call.services.users.devices(&call.caller.user_id).await?;
    let view = |device: Device| {
        let Device { device_id, display_name, last_seen_at, last_seen_ip, application } = device;
        let is_current = device_id == call.caller.device_id;
        SessionView { device_id, device_name: display_name, last_seen_at, last_seen_ip, application, is_current }
    };
    Ok(SessionList { sessions: devices.into_iter().map(view).collect() })
}

async fn end(call: Call<Session>) -> Answer<Nothing> {
    let device_id: String = call.argument("device_id")?;
    call.services.users.end_session(&call.caller, device_id.as_str().into()).await?;
    Ok(Nothing)
}
