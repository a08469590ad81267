//! The Rust SDK of Matrix as a real client: nobody here wrote it, so it believes only the specification.

use std::time::{Duration, Instant};

use federation_tests::{PATIENCE, Server};
use matrix_sdk::{
    Client, RoomMemberships,
    config::SyncSettings,
    deserialized_responses::TimelineEvent,
    ruma::{
        RoomId,
        api::client::{account::register, uiaa},
    },
    sync::SyncResponse,
};
use serde_json::Value;

/// The password of `localpart`.
pub fn password(localpart: &str) -> String {
    format!("{localpart} has a password")
}

/// Makes an account as the SDK does it, through user-interactive authentication, and answers the client logged in.
pub async fn register(server: &Server, localpart: &str) -> Client {
    let client = connect(server).await;
    let mut request = register::v3::Request::new();
    request.username = Some(localpart.to_owned());
    request.password = Some(password(localpart));
    request.initial_device_display_name = Some("sdk".to_owned());
    let challenge = client.matrix_auth().register(request.clone()).await.expect_err("registration asks for a stage");
    let challenge = challenge.as_uiaa_response().expect("registration is refused with its stages").clone();
    let mut dummy = uiaa::Dummy::new();
    dummy.session = challenge.session;
    request.auth = Some(uiaa::AuthData::Dummy(dummy));
    client.matrix_auth().register(request).await.expect("the dummy stage suffices");
    client
}

/// Logs in on another device.
pub async fn login(server: &Server, localpart: &str) -> Client {
    let client = connect(server).await;
    client
        .matrix_auth()
        .login_username(localpart, &password(localpart))
        .initial_device_display_name("sdk, again")
        .await
        .expect("the password is right");
    client
}

async fn connect(server: &Server) -> Client {
    Client::builder().homeserver_url(server.url()).build().await.expect("the SDK accepts the server")
}

/// Syncs on until `found` answers something.
pub async fn sync_until<T>(client: &Client, what: &str, mut found: impl FnMut(&SyncResponse) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let settings = SyncSettings::new().timeout(Duration::from_secs(1));
        let response = client.sync_once(settings).await.expect("the SDK understands what /sync says");
        if let Some(found) = found(&response) {
            return found;
        }
        assert!(Instant::now() < deadline, "{:?} waited in vain: {what}", client.user_id());
    }
}

/// Syncs until the timeline of `room` shows a message with this body, and answers the event.
pub async fn sync_until_message(client: &Client, room: &RoomId, body: &str) -> TimelineEvent {
    sync_until(client, &format!("a message {body:?}"), |response| {
        let timeline = &response.rooms.joined.get(room)?.timeline;
        timeline.events.iter().find(|event| value(event)["content"]["body"] == body).cloned()
    })
    .await
}

/// Syncs until `room` has `count` joined members.
pub async fn sync_until_members(client: &Client, room: &RoomId, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let settings = SyncSettings::new().timeout(Duration::from_millis(200));
        client.sync_once(settings).await.expect("the SDK understands what /sync says");
        if let Some(room) = client.get_room(room) {
            let members = room.members(RoomMemberships::JOIN).await.expect("a member may look around");
            if members.len() == count {
                return;
            }
        }
        assert!(Instant::now() < deadline, "{:?} never saw {count} members", client.user_id());
    }
}

/// The JSON of an event as the SDK holds it, decrypted if it was encrypted.
pub fn value(event: &TimelineEvent) -> Value {
    serde_json::from_str(event.raw().json().get()).expect("an event is JSON")
}
