//! Two people chat on their own domain, with a client that was written elsewhere.

use federation_tests::{Engine, Server, on_each_engine};
use matrix_sdk::{
    Client, Room, RoomMemberships,
    deserialized_responses::TimelineEvent,
    room::MessagesOptions,
    ruma::{
        OwnedEventId, OwnedRoomId,
        api::client::{
            presence::set_presence,
            receipt::create_receipt::v3::ReceiptType,
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
        },
        events::{AnySyncEphemeralRoomEvent, receipt::ReceiptThread, room::message::RoomMessageEventContent},
        presence::PresenceState,
    },
};
use serde_json::Value;

use crate::sdk;

/// Alice and Bob in one private room, both synced.
struct Two {
    server: Server,
    alice: Client,
    bob: Client,
    room: OwnedRoomId,
}

impl Two {
    async fn meet(engine: &Engine) -> Self {
        let server = Server::start(engine).await;
        let alice = sdk::register(&server, "alice").await;
        let bob = sdk::register(&server, "bob").await;

        let mut request = CreateRoom::new();
        request.name = Some("Tea".to_owned());
        request.topic = Some("at five".to_owned());
        request.preset = Some(RoomPreset::PrivateChat);
        request.invite = vec![bob.user_id().expect("logged in").to_owned()];
        let room = alice.create_room(request).await.expect("a room can be made").room_id().to_owned();

        sdk::sync_until(&bob, "the invitation", |response| response.rooms.invited.get(&room).map(|_| ())).await;
        let invited = bob.get_room(&room).expect("an invited room is known");
        assert_eq!(invited.name().as_deref(), Some("Tea"), "an invitation says where to");
        invited.join().await.expect("who is invited can join");
        sdk::sync_until_members(&alice, &room, 2).await;
        sdk::sync_until_members(&bob, &room, 2).await;
        Self { server, alice, bob, room }
    }

    fn room_of(&self, client: &Client) -> Room {
        client.get_room(&self.room).expect("a joined room is known")
    }

    async fn say(&self, client: &Client, text: &str) -> OwnedEventId {
        let sent = self.room_of(client).send(RoomMessageEventContent::text_plain(text)).await;
        sent.expect("a member can send").response.event_id
    }
}

#[tokio::test]
async fn two_people_chat_both_ways() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        assert_eq!(two.room_of(&two.bob).name().as_deref(), Some("Tea"));
        assert_eq!(two.room_of(&two.bob).topic().as_deref(), Some("at five"));

        let question = two.say(&two.alice, "Is there cake?").await;
        let heard = sdk::sync_until_message(&two.bob, &two.room, "Is there cake?").await;
        assert_eq!(heard.event_id(), Some(question));
        assert_eq!(heard.sender().as_deref(), two.alice.user_id());

        two.say(&two.bob, "Two kinds.").await;
        let answer = sdk::sync_until_message(&two.alice, &two.room, "Two kinds.").await;
        assert_eq!(answer.sender().as_deref(), two.bob.user_id());
    })
    .await;
}

#[tokio::test]
async fn a_second_device_sees_the_same_room() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        two.say(&two.alice, "for all my devices").await;
        let other = sdk::login(&two.server, "alice").await;
        sdk::sync_until_message(&other, &two.room, "for all my devices").await;
        assert_ne!(other.device_id(), two.alice.device_id());
        let devices = other.devices().await.expect("devices can be listed").devices;
        assert_eq!(devices.len(), 2, "{devices:?}");
    })
    .await;
}

#[tokio::test]
async fn history_can_be_read_backwards_to_the_first_word() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let said: Vec<String> = (0..45).map(|number| format!("sentence {number}")).collect();
        for sentence in &said {
            two.say(&two.alice, sentence).await;
        }
        let room = two.room_of(&two.bob);
        let mut read = Vec::new();
        let mut from = None;
        loop {
            let mut options = MessagesOptions::backward().from(from.as_deref());
            options.limit = 10_u32.into();
            let page = room.messages(options).await.expect("a member can read the history");
            assert!(page.chunk.len() <= 10, "a page of {} events instead of 10", page.chunk.len());
            read.extend(page.chunk.iter().map(sdk::value));
            let Some(end) = page.end else { break };
            from = Some(end);
        }
        read.reverse();
        assert_eq!(read[0]["type"], "m.room.create", "the history begins with the room");
        let bodies: Vec<&str> = read.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
        assert_eq!(bodies, said);
    })
    .await;
}

#[tokio::test]
async fn a_read_receipt_reaches_the_writer() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let event_id = two.say(&two.alice, "read me").await;
        sdk::sync_until_message(&two.bob, &two.room, "read me").await;
        let bobs_room = two.room_of(&two.bob);
        bobs_room
            .send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, event_id.clone())
            .await
            .expect("a member can mark as read");
        sdk::sync_until(&two.alice, "Bob's receipt", |response| {
            let room = response.rooms.joined.get(&two.room)?;
            room.ephemeral.iter().find_map(|raw| match raw.deserialize() {
                Ok(AnySyncEphemeralRoomEvent::Receipt(receipts)) => receipts
                    .content
                    .user_receipt(two.bob.user_id()?, matrix_sdk::ruma::events::receipt::ReceiptType::Read)
                    .filter(|(read, _)| **read == event_id)
                    .map(|_| ()),
                _ => None,
            })
        })
        .await;
        let readers = two.room_of(&two.alice);
        let receipts = readers
            .load_event_receipts(
                matrix_sdk::ruma::events::receipt::ReceiptType::Read,
                ReceiptThread::Unthreaded,
                &event_id,
            )
            .await
            .expect("the SDK keeps receipts");
        assert!(receipts.iter().any(|(user, _)| Some(user.as_ref()) == two.bob.user_id()), "{receipts:?}");
    })
    .await;
}

#[tokio::test]
async fn a_private_receipt_stays_private() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let event_id = two.say(&two.alice, "read me in secret").await;
        sdk::sync_until_message(&two.bob, &two.room, "read me in secret").await;
        let bobs_room = two.room_of(&two.bob);
        bobs_room
            .send_single_receipt(ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, event_id)
            .await
            .expect("a member can mark as read in private");
        // A message after it bounds the wait: whatever reaches Alice before it would have included the receipt.
        two.say(&two.bob, "nothing to see").await;
        let mut ephemeral = Vec::new();
        sdk::sync_until(&two.alice, "the message after the receipt", |response| {
            let room = response.rooms.joined.get(&two.room)?;
            ephemeral.extend(room.ephemeral.iter().map(|raw| raw.json().get().to_owned()));
            room.timeline
                .events
                .iter()
                .any(|event| sdk::value(event)["content"]["body"] == "nothing to see")
                .then_some(())
        })
        .await;
        assert!(!ephemeral.iter().any(|event| event.contains("m.read.private")), "{ephemeral:?}");
    })
    .await;
}

#[tokio::test]
async fn typing_is_seen_while_it_lasts() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        two.room_of(&two.bob).typing_notice(true).await.expect("a member can type");
        wait_for_typing(&two, 1).await;
        two.room_of(&two.bob).typing_notice(false).await.expect("a member can stop typing");
        wait_for_typing(&two, 0).await;
    })
    .await;
}

async fn wait_for_typing(two: &Two, count: usize) {
    sdk::sync_until(&two.alice, &format!("{count} are typing"), |response| {
        let room = response.rooms.joined.get(&two.room)?;
        room.ephemeral.iter().find_map(|raw| match raw.deserialize() {
            Ok(AnySyncEphemeralRoomEvent::Typing(typing)) if typing.content.user_ids.len() == count => {
                typing.content.user_ids.iter().all(|user| Some(user.as_ref()) == two.bob.user_id()).then_some(())
            }
            _ => None,
        })
    })
    .await;
}

#[tokio::test]
async fn presence_reaches_who_shares_a_room() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let bob = two.bob.user_id().expect("logged in").to_owned();
        let mut request = set_presence::v3::Request::new(bob.clone(), PresenceState::Unavailable);
        request.status_msg = Some("in the garden".to_owned());
        two.bob.send(request).await.expect("anybody can say how they are");
        sdk::sync_until(&two.alice, "Bob's presence", |response| {
            let mut events = response.presence.iter().filter_map(|raw| raw.deserialize().ok());
            events
                .find(|event| event.sender == bob && event.content.status_msg.as_deref() == Some("in the garden"))
                .map(|event| assert_eq!(event.content.presence, PresenceState::Unavailable))
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn what_is_redacted_is_gone() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let slip = two.say(&two.alice, "a slip of the tongue").await;
        sdk::sync_until_message(&two.bob, &two.room, "a slip of the tongue").await;
        let redaction =
            two.room_of(&two.alice).redact(&slip, Some("oops"), None).await.expect("a writer can take back");
        sdk::sync_until(&two.bob, "the redaction", |response| {
            let timeline = &response.rooms.joined.get(&two.room)?.timeline;
            let event = timeline.events.iter().find(|event| event.event_id().as_ref() == Some(&redaction.event_id))?;
            let event = sdk::value(event);
            assert_eq!(event["type"], "m.room.redaction");
            assert_eq!(event["content"]["redacts"], slip.as_str(), "room version 12 names it in the content: {event}");
            Some(())
        })
        .await;
        let event: TimelineEvent =
            two.room_of(&two.bob).event(&slip, None).await.expect("a redacted event is still there");
        let event: Value = sdk::value(&event);
        assert!(event["content"].get("body").is_none(), "the words are still there: {event}");
        assert_eq!(event["unsigned"]["redacted_because"]["event_id"], redaction.event_id.as_str(), "{event}");
    })
    .await;
}

#[tokio::test]
async fn a_new_display_name_reaches_profile_and_room() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        two.alice.account().set_display_name(Some("Alice of the Glass")).await.expect("one may name oneself");
        let alice = two.alice.user_id().expect("logged in");
        sdk::sync_until(&two.bob, "the new name", |response| {
            let timeline = &response.rooms.joined.get(&two.room)?.timeline;
            let names = timeline.events.iter().map(sdk::value);
            names.into_iter().find(|event| event["content"]["displayname"] == "Alice of the Glass").map(|_| ())
        })
        .await;
        let members = two.room_of(&two.bob).members(RoomMemberships::JOIN).await.expect("a member may look around");
        let member = members.iter().find(|member| member.user_id() == alice).expect("Alice is a member");
        assert_eq!(member.display_name(), Some("Alice of the Glass"));
        let profile = two.bob.account().fetch_user_profile_of(alice).await.expect("profiles are open");
        assert_eq!(profile.get("displayname").and_then(Value::as_str), Some("Alice of the Glass"));
    })
    .await;
}
