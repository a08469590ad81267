use ruma::{CanonicalJsonObject, room_id, server_name, user_id};
use serde_json::json;

use super::*;
use crate::{events, testing::on_each_engine};

/// Puts an event into a room, and owes it to b.test. Answers its position.
async fn owe(store: &Store, room: RoomNid, nid: i64) -> Result<Position, Error> {
    let json = json!({
        "type": "m.room.message", "sender": user_id!("@alice:a.test"), "room_id": room_id!("!r:a.test"),
        "content": { "n": nid }, "origin_server_ts": 1, "depth": nid, "prev_events": [], "auth_events": [],
        "hashes": { "sha256": "x" }, "signatures": {},
    });
    let object: CanonicalJsonObject = serde_json::from_value(json).expect("it is canonical");
    let rules = model::rules_of(&ruma::RoomVersionId::V11).expect("it is known");
    let pdu = model::Pdu::from_canonical(object, &rules).expect("it is an event");
    let event = model::TimelineEvent {
        nid: EventNid(nid),
        room_nid: room,
        position: Position(0),
        state_before: None,
        room_state: None,
        pdu: Arc::new(pdu),
        transaction_id: None,
        redacted_by: None,
        soft_failed: false,
    };
    let mut write = Write::new();
    let offset = write.position();
    events::insert(&mut write, &event, Arg::Position(offset));
    push(&mut write, server_name!("b.test"), Arg::Position(offset), event.nid);
    store.commit(write).await
}

const ALL: Stretch = Stretch { pdus: (Position(0), 50), to_device: (Position(0), 50), keys: (Position(0), 50) };

#[tokio::test]
async fn what_is_owed_comes_in_order_and_stays_until_it_is_delivered() {
    on_each_engine(async |store| {
        let b = server_name!("b.test");
        let first = owe(&store, RoomNid(1), 1).await?;
        let second = owe(&store, RoomNid(2), 2).await?;
        let mut write = Write::new();
        push_to_device(&mut write, b, r#"{"n":1}"#);
        push_to_device(&mut write, b, r#"{"n":2}"#);
        push_to_device(&mut write, server_name!("c.test"), "{}");
        let messages = store.commit(write).await?;
        assert_eq!(store.outbox().destinations().await?, ["b.test", "c.test"]);

        let owed = store.outbox().owed(b, ALL).await?;
        assert_eq!(owed.pdus.iter().map(|pdu| pdu.position).collect::<Vec<_>>(), [first, second]);
        assert_eq!(owed.pdus_upto, second);
        assert_eq!(
            owed.to_device.iter().map(|(_, content)| &**content).collect::<Vec<_>>(),
            [r#"{"n":1}"#, r#"{"n":2}"#]
        );
        let rest = Stretch { pdus: (first, 50), to_device: (messages, 50), ..ALL };
        let owed = store.outbox().owed(b, rest).await?;
        assert_eq!((owed.pdus.len(), owed.to_device.len()), (1, 1));

        let mut write = Write::new();
        delivered(&mut write, b, first);
        delivered_to_device(&mut write, b, messages);
        store.commit(write).await?;
        let owed = store.outbox().owed(b, ALL).await?;
        assert_eq!((owed.pdus.len(), owed.to_device.len()), (1, 1));
        assert_eq!(store.outbox().length().await?, 1);
        assert_eq!(store.outbox().pdus_at(b, &[first, second]).await?.len(), 1);
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn of_many_changes_of_keys_the_last_is_owed() {
    on_each_engine(async |store| {
        let (b, alice) = (server_name!("b.test"), user_id!("@alice:a.test"));
        let mut last = Position(0);
        for device in [Some("PHONE"), None, Some("PHONE")] {
            let mut write = Write::new();
            let offset = write.position();
            push_keys(&mut write, b, alice, device, Arg::Position(offset));
            last = store.commit(write).await?;
        }
        let owed = store.outbox().owed(b, ALL).await?;
        let devices: Vec<_> = owed.keys.iter().map(|keys| keys.device_id.as_deref()).collect();
        assert_eq!(devices, [None, Some("PHONE")]);
        let mut write = Write::new();
        delivered_keys(&mut write, b, Position(last.0 - 1));
        store.commit(write).await?;
        assert_eq!(store.outbox().owed(b, ALL).await?.keys.len(), 1);
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn who_catches_up_is_owed_the_latest_event_of_each_room() {
    on_each_engine(async |store| {
        let b = server_name!("b.test");
        let mut positions = Vec::new();
        for (nid, room) in [1, 2, 1, 2, 1].into_iter().enumerate() {
            positions.push(owe(&store, RoomNid(room), nid as i64 + 1).await?);
        }
        assert_eq!(store.outbox().more_than(b, 5).await?, None);
        let upto = store.outbox().more_than(b, 4).await?;
        assert_eq!(upto, Some(positions[4]));
        let upto = upto.unwrap_or_default();
        let later = owe(&store, RoomNid(2), 6).await?;
        let new_room = owe(&store, RoomNid(3), 7).await?;

        assert_eq!(store.outbox().latest_of_rooms(b, upto, 50).await?, [later, positions[4]]);
        let mut write = Write::new();
        delivered_room(&mut write, b, RoomNid(2), later);
        store.commit(write).await?;
        assert_eq!(store.outbox().latest_of_rooms(b, upto, 50).await?, [positions[4]]);
        let owed = store.outbox().owed(b, ALL).await?;
        let left: Vec<_> = owed.pdus.iter().map(|pdu| pdu.position).collect();
        assert_eq!(left, [positions[0], positions[2], positions[4], new_room]);
        Ok::<_, Error>(())
    })
    .await;
}
