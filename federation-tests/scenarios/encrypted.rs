//! A room whose words the server can't read.

use federation_tests::{Client as Raw, Engine, Server, on_each_engine};
use matrix_sdk::{
    Client,
    encryption::VerificationState,
    ruma::{
        OwnedRoomId,
        api::client::{
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
            uiaa,
        },
        events::room::message::RoomMessageEventContent,
    },
};

use crate::sdk;

/// Gives the account cross-signing keys, with the password if the server asks for it.
async fn bootstrap_cross_signing(client: &Client) {
    let Err(error) = client.encryption().bootstrap_cross_signing(None).await else { return };
    let challenge = error.as_uiaa_response().unwrap_or_else(|| panic!("cross-signing was refused: {error}"));
    let user_id = client.user_id().expect("logged in");
    let identifier = uiaa::UserIdentifier::Matrix(uiaa::MatrixUserIdentifier::new(user_id.to_string()));
    let mut password = uiaa::Password::new(identifier, sdk::password(user_id.localpart()));
    password.session.clone_from(&challenge.session);
    let auth = Some(uiaa::AuthData::Password(password));
    client.encryption().bootstrap_cross_signing(auth).await.expect("the password suffices");
}

/// Says something that must go out encrypted, and answers its event id.
pub async fn say(client: &Client, room: &OwnedRoomId, text: &str) -> String {
    let room = client.get_room(room).expect("a joined room is known");
    let sent = room.send(RoomMessageEventContent::text_plain(text)).await.expect("a member can send");
    assert!(sent.encryption_info.is_some(), "the SDK sent {text:?} in the clear");
    sent.response.event_id.to_string()
}

/// A private encrypted room of two, both synced.
pub async fn encrypted_room(alice: &Client, bob: &Client) -> OwnedRoomId {
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    request.invite = vec![bob.user_id().expect("logged in").to_owned()];
    let room = alice.create_room(request).await.expect("a room can be made");
    room.enable_encryption().await.expect("its creator can encrypt it");
    let room_id = room.room_id().to_owned();
    sdk::sync_until(bob, "the invitation", |response| response.rooms.invited.get(&room_id).map(|_| ())).await;
    bob.get_room(&room_id).expect("an invited room is known").join().await.expect("who is invited can join");
    sdk::sync_until_members(alice, &room_id, 2).await;
    sdk::sync_until_members(bob, &room_id, 2).await;
    room_id
}

/// What the server holds for `event_id`, read without the SDK.
async fn as_stored(server: &Server, client: &Client, room: &OwnedRoomId, event_id: &str) -> serde_json::Value {
    let raw: Raw = server.anonymous().with_token(client.access_token().as_deref());
    raw.get(&format!("rooms/{room}/event/{event_id}")).await.ok()
}

async fn two_people_whisper(engine: Engine) {
    let server = Server::start(&engine).await;
    let alice = sdk::register(&server, "alice").await;
    let bob = sdk::register(&server, "bob").await;
    bootstrap_cross_signing(&alice).await;
    bootstrap_cross_signing(&bob).await;
    let room = encrypted_room(&alice, &bob).await;

    let event_id = say(&alice, &room, "nobody else can read this").await;
    let heard = sdk::sync_until_message(&bob, &room, "nobody else can read this").await;
    let info = heard.encryption_info().expect("it came encrypted");
    assert_eq!(Some(info.sender.as_ref()), alice.user_id());

    let stored = as_stored(&server, &alice, &room, &event_id).await;
    assert_eq!(stored["type"], "m.room.encrypted");
    assert!(!stored.to_string().contains("nobody else"), "{stored}");

    say(&bob, &room, "nor this").await;
    sdk::sync_until_message(&alice, &room, "nor this").await;
}

#[tokio::test]
async fn two_people_whisper_in_an_encrypted_room() {
    on_each_engine(two_people_whisper).await;
}

#[tokio::test]
async fn cross_signing_keys_are_published_and_the_own_device_is_verified() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = sdk::register(&server, "alice").await;
        let bob = sdk::register(&server, "bob").await;
        bootstrap_cross_signing(&alice).await;
        let status = alice.encryption().cross_signing_status().await.expect("there is an identity");
        assert!(status.is_complete(), "{status:?}");

        let alice_id = alice.user_id().expect("logged in");
        let identity = bob.encryption().request_user_identity(alice_id).await.expect("keys can be asked for");
        let identity = identity.expect("Alice's identity is published");
        assert_eq!(identity.user_id(), alice_id);

        sdk::sync_until(&alice, "her own signature on her own device", |_| {
            (alice.encryption().verification_state().get() == VerificationState::Verified).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_comes_later_reads_what_is_said_later() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = sdk::register(&server, "alice").await;
        let bob = sdk::register(&server, "bob").await;
        let room = encrypted_room(&alice, &bob).await;
        say(&alice, &room, "before").await;
        sdk::sync_until_message(&bob, &room, "before").await;

        let phone = sdk::login(&server, "bob").await;
        sdk::sync_until_members(&phone, &room, 2).await;
        // Alice hears of the new device through the device list changes of her own sync.
        let bob_id = bob.user_id().expect("logged in");
        let phone_id = phone.device_id().expect("logged in");
        federation_tests::eventually("Alice knows Bob's new device", async || {
            alice.sync_once(matrix_sdk::config::SyncSettings::new().timeout(std::time::Duration::ZERO)).await.ok()?;
            alice.encryption().get_device(bob_id, phone_id).await.ok()?
        })
        .await;
        say(&alice, &room, "after").await;
        sdk::sync_until_message(&phone, &room, "after").await;
        sdk::sync_until_message(&bob, &room, "after").await;
    })
    .await;
}
