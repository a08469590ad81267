//! Sliding sync, in the form that clients have spoken since 2024 and in the form in which MSC4186 was merged.
//!
//! Spec: <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>

mod deployed;
mod merged;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::response::{IntoResponse as _, Response};
use http::{Method, header};
use ruma::{UserId, presence::PresenceState};
use serde::Deserialize;
use sync::sliding::{ExtensionsWanted, Form, InRooms, SlidingRequest, ToDeviceWanted};

use crate::{
    Error, Needs, Route,
    endpoint::{PlainAsk, parse_json, plain_endpoint},
};

/// The most lists of one request.
const MAX_LISTS: usize = 100;
/// The most events of one room in an answer.
const MAX_TIMELINE: usize = 100;
/// The most patterns of state that one list or subscription names.
const MAX_PATTERNS: usize = 250;
/// The longest name of a list or a connection, in bytes.
const MAX_NAME: usize = 255;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(
            Method::POST,
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            Needs::User,
            deployed_form,
        ),
        plain_endpoint(Method::POST, "/_matrix/client/v4/sync", Needs::User, merged_form),
    ]
}

async fn deployed_form(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let body: deployed::Body = parse_json(or_empty(&ask.body))?;
    let query = deployed::Query::of(&ask.parts)?;
    let txn_id = body.txn_id.clone();
    let request = body.into_request(query, &session.user_id, session.device_id.as_str())?;
    answer(&ask, &request, Form::Deployed, txn_id.as_deref()).await
}

async fn merged_form(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let body: merged::Body = parse_json(or_empty(&ask.body))?;
    let request = body.into_request(&session.user_id, session.device_id.as_str())?;
    answer(&ask, &request, Form::Merged, None).await
}

async fn answer(ask: &PlainAsk, request: &SlidingRequest, form: Form, txn_id: Option<&str>) -> Result<Response, Error> {
    check(request)?;
    let answer = ask.services.sync.sliding_sync(request).await?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.render(form, txn_id, now)).into_response())
}

/// A client that wants nothing in particular may leave out the body.
fn or_empty(body: &[u8]) -> &[u8] {
    if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body }
}

fn check(request: &SlidingRequest) -> Result<(), Error> {
    if request.lists.len() > MAX_LISTS {
        return Err(Error::invalid_param(format!("lists: there may be {MAX_LISTS} of them")));
    }
    let is_long = |name: &String| name.len() > MAX_NAME;
    if is_long(&request.conn_id) || request.lists.keys().any(is_long) {
        return Err(Error::invalid_param(format!("the name of a list or a connection may have {MAX_NAME} bytes")));
    }
    Ok(())
}

/// `online` unless the client says otherwise.
fn presence(wanted: Option<&str>) -> Result<PresenceState, Error> {
    match wanted {
        None | Some("online") => Ok(PresenceState::Online),
        Some("offline") => Ok(PresenceState::Offline),
        Some("unavailable") => Ok(PresenceState::Unavailable),
        Some(other) => Err(Error::invalid_param(format!("set_presence: `{other}` is no presence"))),
    }
}

fn timeout(milliseconds: Option<u64>) -> Duration {
    Duration::from_millis(milliseconds.unwrap_or_default())
}

/// The extensions, which both forms share. Those that this server doesn't have are passed over, as the MSC wants.
#[derive(Debug, Default, Deserialize)]
struct Extensions {
    #[serde(default)]
    to_device: ToDevice,
    #[serde(default)]
    e2ee: Switch,
    #[serde(default)]
    account_data: OfRooms,
    #[serde(default)]
    receipts: OfRooms,
    #[serde(default)]
    typing: OfRooms,
}

#[derive(Debug, Default, Deserialize)]
struct Switch {
    #[serde(default)]
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct ToDevice {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    since: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct OfRooms {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    lists: Option<Vec<String>>,
    #[serde(default)]
    rooms: Option<Vec<String>>,
}

impl OfRooms {
    fn wanted(self) -> Option<InRooms> {
        self.enabled.unwrap_or_default().then_some(InRooms { lists: self.lists, rooms: self.rooms })
    }
}

impl Extensions {
    fn wanted(self) -> ExtensionsWanted {
        let ToDevice { enabled, limit, since } = self.to_device;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        ExtensionsWanted {
            to_device: enabled.unwrap_or_default().then_some(ToDeviceWanted { limit, since }),
            e2ee: self.e2ee.enabled.unwrap_or_default(),
            account_data: self.account_data.wanted(),
            receipts: self.receipts.wanted(),
            typing: self.typing.wanted(),
        }
    }
}

/// What a request is besides its lists and subscriptions.
struct Envelope<'a> {
    user_id: &'a UserId,
    device_id: &'a str,
    conn_id: Option<String>,
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
}

impl Envelope<'_> {
    fn into_request(self, extensions: Extensions) -> Result<SlidingRequest, Error> {
        Ok(SlidingRequest {
            user_id: self.user_id.to_owned(),
            device_id: self.device_id.to_owned(),
            conn_id: self.conn_id.unwrap_or_default(),
            pos: self.pos,
            timeout: timeout(self.timeout),
            set_presence: presence(self.set_presence.as_deref())?,
            lists: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            extensions: extensions.wanted(),
        })
    }
}
