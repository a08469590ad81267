//! Friend requests between two servers, without a network between them: what one made is handed to the other.

use std::sync::Arc;

use model::{Draft, SigningKey};
use ruma::{
    OwnedUserId, RoomVersionId, ServerName,
    api::client::room::create_room::v3::RoomPreset,
    api::federation::membership::RawStrippedState,
    events::{TimelineEventType, room::member::MembershipState},
    server_name, user_id,
};
use serde_json::{Value, json, value::to_raw_value};
use store::testing::on_each_engine;

use crate::{
    FRIEND_REQUEST, FriendDirection, FriendError, Invitation, RequestState, RoomError, Rooms, RoomsConfig, now,
    tests::{alice, new_room},
};

fn rooms_of(name: &ServerName, store: store::Store) -> Rooms {
    let key = SigningKey::from_seed(name.to_owned(), "test", &[7; 32]).expect("any seed makes a key");
    let known = [server_name!("a.test"), server_name!("b.test")];
    Rooms::new(store.clone(), peers::testing::knowing(name, store, &known), Arc::new(key), RoomsConfig::default())
}

fn bob() -> OwnedUserId {
    user_id!("@bob:b.test").to_owned()
}

/// Alice says something about Bob's membership.
fn member(content: Value) -> Draft {
    Draft {
        sender: alice(),
        kind: TimelineEventType::RoomMember,
        content: to_raw_value(&content).expect("plain JSON"),
        state_key: Some(bob().to_string()),
        redacts: None,
        origin_server_ts: now(),
    }
}

/// What Bob was asked, with what became of it.
async fn asked(rooms: &Rooms, is_open: bool) -> Result<Vec<(Option<String>, RequestState)>, FriendError> {
    let page = rooms.friend_requests(&bob(), FriendDirection::In, is_open, None, 10).await?;
    Ok(page.requests.into_iter().map(|request| (request.message, request.state)).collect())
}

#[tokio::test]
async fn an_invitation_of_another_server_is_a_request_until_it_is_taken_back() {
    on_each_engine(async |store| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let location = store::Location::Sqlite(folder.path().join("a.db"));
        let theirs = store::Store::open(&location, 2, Arc::new(|_| ())).await.expect("SQLite opens in an empty folder");
        let (host, guest) = (rooms_of(server_name!("a.test"), theirs), rooms_of(server_name!("b.test"), store));
        let room_id = host.create(new_room(RoomVersionId::V12, RoomPreset::TrustedPrivateChat)).await?;
        let room = host.get(&room_id).await?;
        let invite = async |content: Value| {
            let events = host.append(&room, &[member(content)], None, &|_| ()).await?;
            let event = &events[0].pdu;
            let shown = host.stripped_state(&room, Some(event)).await?;
            let shown: Vec<_> = shown.into_iter().map(RawStrippedState::Pdu).collect();
            let (event_id, object) = (&event.event_id, event.object());
            let (room_id, version) = (&*room_id, &room.version);
            let invitation = Invitation { room_id, event_id, version, event: &object, shown: &shown };
            guest.be_invited(host.server_name(), invitation).await.map(drop)
        };
        let take_back = async |sender: &str| {
            let out = member(json!({ "membership": "leave" }));
            let events = host.append(&room, &[out], None, &|_| ()).await?;
            let mut object = events[0].pdu.object();
            if !sender.is_empty() {
                object.insert("sender".into(), sender.to_owned().into());
            }
            let received = guest.receive(host.server_name(), &room_id, vec![object]).await;
            Ok::<_, RoomError>(received.into_iter().all(|(_, outcome)| outcome.is_ok()))
        };
        // Only what is marked is a request, and only to a direct room.
        let plain = json!({ "membership": "invite", "is_direct": true });
        invite(plain.clone()).await?;
        assert!(asked(&guest, false).await.expect("the store is there").is_empty());
        assert!(take_back("").await?, "also of what is no request");
        let mut crowd = json!({ "membership": "invite" });
        crowd[FRIEND_REQUEST] = json!({});
        invite(crowd).await?;
        assert!(asked(&guest, false).await.expect("the store is there").is_empty());
        take_back("").await?;

        let mut request = plain;
        request[FRIEND_REQUEST] = json!({ "message": "x".repeat(600) });
        invite(request).await?;
        let message = Some("x".repeat(500));
        assert_eq!(asked(&guest, true).await.expect("the store is there"), [(message.clone(), RequestState::Pending)]);
        // Another than who invited isn't believed, whoever of the same server it is.
        assert!(!take_back("@mallory:a.test").await?);
        assert_eq!(asked(&guest, true).await.expect("the store is there").len(), 1);
        invite(json!({ "membership": "invite", "is_direct": true, FRIEND_REQUEST: { "message": "again" } })).await?;
        assert_eq!(asked(&guest, false).await.expect("the store is there").len(), 1, "it is the same room");
        assert!(take_back("").await?);
        assert!(asked(&guest, true).await.expect("the store is there").is_empty());
        let again = Some("again".to_owned());
        assert_eq!(asked(&guest, false).await.expect("the store is there"), [(again, RequestState::Withdrawn)]);
        let outside = guest.get(&room_id).await?;
        let row = guest.outside_membership(&outside, &bob()).await?.expect("he was invited");
        assert_eq!(row.membership, MembershipState::Leave);
        Ok::<_, RoomError>(())
    })
    .await;
}
