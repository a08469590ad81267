use ruma::{server_name, user_id};

use super::*;
use crate::testing::{on_each_engine, owe_event};

const ALL: Stretch = Stretch { pdus: (Position(0), 50), to_device: (Position(0), 50), keys: (Position(0), 50) };

#[tokio::test]
async fn what_is_owed_comes_in_order_and_stays_until_it_is_delivered() {
    on_each_engine(async |store| {
        let b = server_name!("b.test");
        let first = owe_event(&store, b, RoomNid(1), 1).await?;
        let second = owe_event(&store, b, RoomNid(2), 2).await?;
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
            positions.push(owe_event(&store, b, RoomNid(room), nid as i64 + 1).await?);
        }
        assert_eq!(store.outbox().more_than(b, Position(0), 5).await?, None);
        assert_eq!(store.outbox().more_than(b, positions[0], 4).await?, None);
        let upto = store.outbox().more_than(b, Position(0), 4).await?;
        assert_eq!(upto, Some(positions[4]));
        let upto = upto.unwrap_or_default();
        let later = owe_event(&store, b, RoomNid(2), 6).await?;
        let new_room = owe_event(&store, b, RoomNid(3), 7).await?;

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
