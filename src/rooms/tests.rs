//! Rooms on a real store, on each engine.

use std::{collections::HashSet, sync::Arc};

use model::{Position, SigningKey};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomVersionId,
    api::{Direction, client::room::create_room::v3::RoomPreset},
    device_id,
    events::{StateEventType, room::member::MembershipState},
    owned_server_name, user_id,
};
use serde_json::{Map, json, value::to_raw_value};
use store::{
    Store,
    testing::{on_each_engine, on_each_engine_of_old},
};

use crate::{MembershipChange, NewRoom, RoomError, Rooms, RoomsConfig, Target, Transaction, Wish};

pub(crate) fn rooms(store: &Store) -> Rooms {
    rooms_with(store, RoomsConfig::default())
}

fn rooms_with(store: &Store, config: RoomsConfig) -> Rooms {
    let key = SigningKey::from_seed(owned_server_name!("a.test"), "1", &[7; 32]).expect("a plain version");
    Rooms::new(store.clone(), peers::testing::alone(ruma::server_name!("a.test"), store.clone()), Arc::new(key), config)
}

pub(crate) fn alice() -> OwnedUserId {
    user_id!("@alice:a.test").to_owned()
}

pub(crate) fn bob() -> OwnedUserId {
    user_id!("@bob:a.test").to_owned()
}

pub(crate) fn new_room(version: RoomVersionId, preset: RoomPreset) -> NewRoom {
    NewRoom {
        creator: alice(),
        version: Some(version),
        preset,
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_levels: Map::new(),
        name: Some("Tea".into()),
        topic: None,
        alias: None,
        invite: Vec::new(),
        is_direct: false,
        is_listed: false,
    }
}

pub(crate) fn text(sender: OwnedUserId, body: &str) -> Wish {
    Wish {
        sender,
        kind: "m.room.message".into(),
        content: to_raw_value(&json!({ "msgtype": "m.text", "body": body })).expect("JSON"),
        state_key: None,
        redacts: None,
        transaction: None,
    }
}

pub(crate) fn own(user_id: OwnedUserId) -> Target {
    Target { sender: user_id.clone(), user_id, reason: None, is_direct: None }
}

/// The events have the numbers 1, 2, 3 … in their order.
#[track_caller]
pub(crate) fn assert_numbered(timeline: &[Arc<model::TimelineEvent>]) {
    let numbers: Vec<_> = timeline.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=timeline.len() as i64).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_room_of_each_version_takes_members_and_messages() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        for version in model::supported_room_versions() {
            let room_id = rooms.create(new_room(version.clone(), RoomPreset::PublicChat)).await?;
            let room = rooms.get(&room_id).await?;
            rooms.change_membership(&room, MembershipChange::Join, own(bob())).await?;
            let sent = rooms.send(&room, text(bob(), "hello")).await?;
            assert_eq!(rooms.membership(&room, &bob()).await?, Some(MembershipState::Join), "{version}");

            let stored = store.events().find(&sent.event_id).await?.expect("what was sent is stored");
            assert_eq!(stored.pdu.room_id, room_id);
            assert_eq!(stored.pdu.sender, bob());
        }
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn who_is_not_in_a_room_can_say_nothing_there() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let room_id = rooms.create(new_room(RoomVersionId::V12, RoomPreset::PrivateChat)).await?;
        let room = rooms.get(&room_id).await?;
        let before = store.visible_position().await?;
        let refused = rooms.send(&room, text(bob(), "let me in")).await;
        assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
        let refused = rooms.change_membership(&room, MembershipChange::Join, own(bob())).await;
        assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
        assert_eq!(store.visible_position().await?, before, "nothing changed");
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn many_senders_at_once_make_one_chain_without_forks() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let room_id = rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)).await?;
        let room = rooms.get(&room_id).await?;
        let sends = (0..40).map(|number| {
            let (rooms, room) = (rooms.clone(), room.clone());
            tokio::spawn(async move { rooms.send(&room, text(alice(), &number.to_string())).await })
        });
        for send in sends.collect::<Vec<_>>() {
            send.await.expect("no task panics")?;
        }
        let timeline = store.events().timeline(room.nid, Position(0), None, 1000, Direction::Forward).await?;
        for pair in timeline.windows(2) {
            assert_eq!(pair[1].pdu.prev_events, [pair[0].pdu.event_id.clone()]);
            assert!(pair[1].position > pair[0].position);
        }
        assert_numbered(&timeline);
        let ids: HashSet<_> = timeline.iter().map(|event| event.pdu.event_id.clone()).collect();
        assert_eq!(ids.len(), timeline.len());
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn two_nodes_on_one_database_extend_a_room_without_losing_an_event() {
    on_each_engine(async |store| {
        let (one, other) = (rooms(&store), rooms(&store));
        let room_id = one.create(new_room(RoomVersionId::V11, RoomPreset::PublicChat)).await?;
        let mut tasks = Vec::new();
        for number in 0..20 {
            let rooms = if number % 2 == 0 { one.clone() } else { other.clone() };
            let room_id: OwnedRoomId = room_id.clone();
            tasks.push(tokio::spawn(async move {
                let room = rooms.get(&room_id).await?;
                rooms.send(&room, text(alice(), &number.to_string())).await
            }));
        }
        let mut acknowledged = HashSet::new();
        for task in tasks {
            match task.await.expect("no task panics") {
                Ok(sent) => assert!(acknowledged.insert(sent.event_id)),
                // Allowed under such a race, as long as nothing of it is there.
                Err(RoomError::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        let room = one.get(&room_id).await?;
        let timeline = store.events().timeline(room.nid, Position(0), None, 1000, Direction::Forward).await?;
        let messages: HashSet<_> = timeline
            .iter()
            .filter(|event| event.pdu.state_key.is_none())
            .map(|event| event.pdu.event_id.clone())
            .collect();
        assert_eq!(messages, acknowledged);
        assert_numbered(&timeline);
        for pair in timeline.windows(2) {
            assert_eq!(pair[1].pdu.prev_events, [pair[0].pdu.event_id.clone()]);
        }
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn one_transaction_id_sends_once_even_when_it_comes_twice_at_once() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let room_id = rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)).await?;
        let room = rooms.get(&room_id).await?;
        let wish = Wish {
            transaction: Some(Transaction {
                user_id: alice(),
                device_id: device_id!("PHONE").to_owned(),
                scope: "send".into(),
                transaction_id: "1".into(),
            }),
            ..text(alice(), "once")
        };
        let (first, second) = tokio::join!(rooms.send(&room, wish.clone()), rooms.send(&room, wish.clone()));
        let third = rooms.send(&room, wish).await?;
        assert_eq!(first?.event_id, third.event_id);
        assert_eq!(second?.event_id, third.event_id);
        let timeline = store.events().timeline(room.nid, Position(0), None, 100, Direction::Forward).await?;
        assert_eq!(timeline.iter().filter(|event| event.pdu.state_key.is_none()).count(), 1);
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn a_redaction_takes_the_content_out_of_the_store() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let room_id = rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)).await?;
        let room = rooms.get(&room_id).await?;
        let said = rooms.send(&room, text(alice(), "a secret")).await?;
        let redaction = Wish {
            kind: "m.room.redaction".into(),
            content: to_raw_value(&json!({})).expect("JSON"),
            redacts: Some(said.event_id.clone()),
            ..text(alice(), "")
        };
        let by = rooms.send(&room, redaction).await?;
        let left = store.events().find(&said.event_id).await?.expect("the event stays");
        assert!(!left.pdu.json.contains("secret"));
        assert_eq!(left.redacted_by, Some(by.event_id));
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn a_long_history_of_state_is_read_back_whole() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let room_id = rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)).await?;
        let room = rooms.get(&room_id).await?;
        for number in 0..120 {
            let wish = Wish {
                kind: "m.room.topic".into(),
                content: to_raw_value(&json!({ "topic": number.to_string() })).expect("JSON"),
                state_key: Some(String::new()),
                ..text(alice(), "")
            };
            rooms.send(&room, wish).await?;
        }
        let shown = rooms.view(&room).await?;
        assert_eq!(store.state().at(shown.snapshot).await?, shown.state);
        assert_eq!(store.state().current(room.nid).await?, shown.state);
        assert!(store.state().chain(shown.snapshot).await? <= 50);
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn rooms_that_are_alike_and_made_at_once_are_rooms_of_their_own() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let making = (0..10).map(|_| rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)));
        let made = futures_util::future::join_all(making).await.into_iter().collect::<Result<HashSet<_>, _>>()?;
        assert_eq!(made.len(), 10);
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn of_a_room_that_somebody_acts_on_there_is_one_copy_whatever_else_is_read_and_forgotten() {
    on_each_engine(async |store| {
        let rooms = rooms_with(&store, RoomsConfig { cached_rooms: 1, ..RoomsConfig::default() });
        let room_id = rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)).await?;
        let held = rooms.get(&room_id).await?;
        rooms.send(&held, text(alice(), "one")).await?;
        for _ in 0..20 {
            let other = rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)).await?;
            rooms.get(&other).await?;
        }
        assert!(Arc::ptr_eq(&held, &rooms.get(&room_id).await?), "another copy took its place");
        rooms.forget_all();
        assert!(Arc::ptr_eq(&held, &rooms.get(&room_id).await?), "it was forgotten while it was held");

        // What somebody else did is seen through the copy that was held all the while.
        let elsewhere = self::rooms(&store);
        let there = elsewhere.get(&room_id).await?;
        elsewhere.change_membership(&there, MembershipChange::Join, own(bob())).await?;
        rooms.forget_all();
        rooms.send(&held, text(bob(), "two")).await?;
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn rooms_of_the_first_schema_go_on_where_they_were() {
    on_each_engine_of_old(async |store| {
        let rooms = rooms(&store);
        let (room_id, _) = rooms.look_up(ruma::room_alias_id!("#tea:a.test")).await?;
        let room = rooms.get(&room_id).await?;
        let name: Option<serde_json::Value> = rooms.state_content(&room, StateEventType::RoomName).await?;
        assert_eq!(name, Some(json!({ "name": "Tea" })));

        for sender in [alice(), bob()] {
            rooms.send(&room, text(sender, "we go on")).await?;
        }
        let whole = store.events().timeline(room.nid, Position(i64::MIN + 1), None, 100, Direction::Forward).await?;
        let bodies: Vec<_> = whole
            .iter()
            .filter_map(|event| event.pdu.content_as::<serde_json::Value>()?["body"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(
            bodies,
            ["it is ready", "* it's ready", "we go on", "we go on"],
            "one that was redacted says nothing"
        );
        let depths: Vec<i64> = whole.iter().map(|event| event.pdu.depth).collect();
        assert_eq!(depths, (1..=whole.len() as i64).collect::<Vec<_>>(), "each follows the one before");

        let older = rooms.get(ruma::room_id!("!uFf6vsM8lV9fRycDzk:a.test")).await?;
        assert_eq!(older.version, RoomVersionId::V10);
        rooms.send(&older, text(alice(), "by the old rules")).await?;
        let refused = rooms.send(&older, text(bob(), "I was never here")).await;
        assert!(matches!(refused, Err(RoomError::NotJoined | RoomError::Forbidden(_))), "{refused:?}");
        Ok::<(), RoomError>(())
    })
    .await;
}
