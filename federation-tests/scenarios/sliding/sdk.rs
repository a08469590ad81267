//! The Rust SDK of Matrix by sliding sync, as Element X and Fractal have it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use federation_tests::{PATIENCE, Server, on_each_engine};
use futures_util::{StreamExt as _, pin_mut};
use matrix_sdk::{
    Client, RoomState, SlidingSync, SlidingSyncList, SlidingSyncMode,
    ruma::{
        api::client::room::create_room,
        events::{
            StateEventType,
            room::message::{OriginalSyncRoomMessageEvent, RoomMessageEventContent},
        },
    },
    sliding_sync::Version,
};

use crate::sdk::{login, register};

async fn room_list(client: &Client) -> SlidingSync {
    let list = SlidingSyncList::builder("all_rooms")
        .sync_mode(SlidingSyncMode::new_growing(2))
        .timeline_limit(1)
        .required_state(vec![
            (StateEventType::RoomName, String::new()),
            (StateEventType::RoomEncryption, String::new()),
            (StateEventType::RoomMember, "$LAZY".to_owned()),
            (StateEventType::RoomMember, "$ME".to_owned()),
        ]);
    let builder = client.sliding_sync("room-list").expect("a short name").version(Version::Native);
    builder
        .with_all_extensions()
        .poll_timeout(Duration::from_secs(1))
        .add_list(list)
        .build()
        .await
        .expect("it is built")
}

/// Syncs on until `found` answers something.
async fn until<T>(sync: &SlidingSync, what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let stream = sync.sync();
    pin_mut!(stream);
    loop {
        stream.next().await.expect("the stream goes on").expect("the SDK understands what the server says");
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
    }
}

async fn create(client: &Client, name: &str) -> matrix_sdk::Room {
    let mut request = create_room::v3::Request::new();
    request.name = Some(name.to_owned());
    client.create_room(request).await.expect("a room is made")
}

/// What is said in rooms of the client from now on, as its sync tells.
fn listen(client: &Client) -> Arc<Mutex<Vec<String>>> {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let ear = heard.clone();
    client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| {
        ear.lock().expect("nobody panics holding it").push(event.content.body().to_owned());
        std::future::ready(())
    });
    heard
}

#[tokio::test]
async fn the_sdk_fills_its_room_list_and_hears_of_news_invitations_and_leaving() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = register(&server, "alice").await;
        let bob = register(&server, "bob").await;
        let versions = bob.available_sliding_sync_versions().await;
        assert!(versions.iter().any(|version| matches!(version, Version::Native)), "the server says that it speaks it");
        let heard = listen(&bob);

        let mut rooms = Vec::new();
        for number in 0..5 {
            rooms.push(create(&bob, &format!("Room {number}")).await.room_id().to_owned());
        }
        let sync = room_list(&bob).await;
        until(&sync, "all rooms, two at a time", async || (bob.joined_rooms().len() == 5).then_some(())).await;
        let room = bob.get_room(&rooms[3]).expect("it is there");
        assert_eq!(room.name().as_deref(), Some("Room 3"));

        let mine = create(&alice, "Alice's").await;
        mine.invite_user_by_id(bob.user_id().expect("logged in")).await.expect("alice may");
        let invited = until(&sync, "an invitation", async || bob.invited_rooms().pop()).await;
        assert_eq!(invited.name().as_deref(), Some("Alice's"));
        invited.join().await.expect("bob was invited");
        let id = mine.room_id();
        until(&sync, "being in", async || {
            bob.get_room(id)
                .filter(|room| room.state() == RoomState::Joined && room.joined_members_count() == 2)
                .map(drop)
        })
        .await;

        mine.send(RoomMessageEventContent::text_plain("hello")).await.expect("alice may");
        let has_heard = || heard.lock().expect("nobody panics holding it").iter().any(|body| body == "hello");
        until(&sync, "a message", async || has_heard().then_some(())).await;

        // The same session elsewhere in time: another device begins anew, and finds all of it.
        let tablet = login(&server, "bob").await;
        let other = room_list(&tablet).await;
        until(&other, "six rooms", async || (tablet.joined_rooms().len() == 6).then_some(())).await;

        mine.kick_user(bob.user_id().expect("logged in"), None).await.expect("alice may");
        until(&sync, "being out", async || bob.get_room(id).filter(|room| room.state() == RoomState::Left).map(drop))
            .await;
    })
    .await;
}
