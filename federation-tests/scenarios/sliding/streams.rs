//! What is told besides rooms: messages to devices, keys, account data, receipts, who types.

use std::time::Duration;

use federation_tests::{Client, on_each_engine};
use serde_json::{Value, json};

use super::{Connection, people, window};

fn to_device(since: Option<&str>) -> Value {
    let mut body =
        json!({ "extensions": { "to_device": { "enabled": true, "limit": 3 }, "e2ee": { "enabled": true } } });
    if let Some(since) = since {
        body["extensions"]["to_device"]["since"] = since.into();
    }
    body
}

fn contents(answer: &Value) -> Vec<u64> {
    let events = answer["extensions"]["to_device"]["events"].as_array().map_or(&[][..], Vec::as_slice);
    events.iter().filter_map(|event| event["content"]["n"].as_u64()).collect()
}

fn next(answer: &Value) -> String {
    answer["extensions"]["to_device"]["next_batch"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn send(from: &Client, to: &Client, number: u64) {
    let body = json!({ "messages": { &to.user_id: { &to.device_id: { "n": number } } } });
    from.put(&format!("/_matrix/client/v3/sendToDevice/test/{number}"), body).await.ok();
}

#[tokio::test]
async fn messages_to_a_device_come_once_in_order_across_a_restart_and_a_lost_answer() {
    on_each_engine(async |engine| {
        let (mut server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        // A device of an application has two connections: one for the list, one for what is encrypted.
        let mut list = Connection::new(&bob, "room-list");
        list.now(&window(9, 1)).await;
        let mut encryption = Connection::new(&bob, "encryption");
        let first = encryption.now(&to_device(None)).await;
        assert!(first["extensions"]["e2ee"]["device_one_time_keys_count"].is_object(), "{first}");
        let waiting = to_device(Some(&next(&first)));
        let (told, ()) = tokio::join!(encryption.wait(Duration::from_secs(20), &waiting), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            send(&alice, &bob, 1).await;
        });
        assert_eq!(contents(&told), [1]);
        let since = next(&told);
        for number in 2..=6 {
            send(&alice, &bob, number).await;
        }
        assert!(list.now(&window(9, 1)).await["extensions"]["to_device"].is_null(), "it didn't ask");
        let three = encryption.now(&to_device(Some(&since))).await;
        assert_eq!(contents(&three), [2, 3, 4], "as many as it wants");
        // The answer is lost: the same again, with the same position, before and after a restart.
        let lost = encryption.now(&to_device(Some(&since))).await;
        assert_eq!(contents(&lost), [2, 3, 4]);
        server.restart().await;
        let bob = bob.another();
        let mut encryption = Connection { client: &bob, conn_id: "encryption".into(), pos: encryption.pos };
        let again = encryption.now(&to_device(Some(&since))).await;
        assert_eq!(contents(&again), [2, 3, 4]);
        let rest = encryption.now(&to_device(Some(&next(&again)))).await;
        assert_eq!(contents(&rest), [5, 6]);
        let none = encryption.now(&to_device(Some(&next(&rest)))).await;
        assert!(contents(&none).is_empty());
        assert_eq!(server.database().rows(server.folder(), "to_device").await, 0, "what has come is kept no longer");
        // A connection that begins anew goes on from the messages that it has.
        let anew = Connection::new(&bob, "encryption").now(&to_device(Some(&next(&none)))).await;
        assert!(contents(&anew).is_empty());
        encryption.ask(Duration::ZERO, &to_device(Some("x"))).await.refused(400, "M_INVALID_PARAM");
        let later = encryption.now(&to_device(Some("99999999999"))).await;
        assert!(contents(&later).is_empty());
        send(&alice, &bob, 7).await;
        let later = encryption.now(&to_device(Some("99999999999"))).await;
        assert_eq!(contents(&later), [7], "a position that nobody was told loses nothing");
    })
    .await;
}

#[tokio::test]
async fn account_data_receipts_and_typing_are_told_of_rooms_in_sight() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let one = alice.say(&room, "one").await;
        let data = |path: &str| format!("/_matrix/client/v3/user/{}/{path}", bob.user_id);
        bob.put(&data("account_data/org.test"), json!({ "n": 1 })).await.ok();
        bob.put(&data(&format!("rooms/{room}/tags/u.work")), json!({})).await.ok();
        bob.post(&format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{one}"), json!({})).await.ok();

        let mut body = window(9, 5);
        let on = json!({ "enabled": true });
        body["extensions"] = json!({ "account_data": on, "receipts": on, "typing": on, "e2ee": on });
        let mut list = Connection::new(&bob, "list");
        let first = list.now(&body).await;
        let extensions = &first["extensions"];
        let kinds: Vec<&str> = extensions["account_data"]["global"]
            .as_array()
            .expect("there is some")
            .iter()
            .filter_map(|one| one["type"].as_str())
            .collect();
        assert!(kinds.contains(&"org.test") && kinds.contains(&"m.push_rules"), "{kinds:?}");
        assert_eq!(extensions["account_data"]["rooms"][&room][0]["content"]["tags"]["u.work"], json!({}));
        assert!(
            extensions["receipts"]["rooms"][&room]["content"][&one]["m.read"][&bob.user_id].is_object(),
            "{extensions}"
        );
        assert!(extensions["typing"].is_null());
        let quiet = list.now(&body).await;
        assert_eq!(quiet["extensions"]["account_data"], json!(null), "{quiet}");
        assert_eq!(quiet["extensions"]["receipts"], json!(null), "{quiet}");

        alice.post(&format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{one}"), json!({})).await.ok();
        let told = list.now(&body).await["extensions"]["receipts"]["rooms"][&room].clone();
        assert!(told["content"][&one]["m.read"][&alice.user_id].is_object(), "{told}");
        assert!(told["content"][&one]["m.read"][&bob.user_id].is_null(), "only what is new: {told}");
        let waiting = body.clone();
        let typing = format!("/_matrix/client/v3/rooms/{room}/typing/{}", alice.user_id);
        let (told, _) = tokio::join!(list.wait(Duration::from_secs(20), &waiting), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            alice.put(&typing, json!({ "typing": true, "timeout": 30_000 })).await.ok()
        });
        let told = &told["extensions"]["typing"]["rooms"][&room];
        assert_eq!(told["content"]["user_ids"], json!([alice.user_id]), "{told}");

        bob.put(&data(&format!("rooms/{room}/tags/u.play")), json!({})).await.ok();
        let told = list.now(&body).await["extensions"]["account_data"].clone();
        assert!(told["rooms"][&room][0]["content"]["tags"]["u.play"].is_object(), "{told}");
        assert_eq!(told["global"], json!([]));
        carol.join(&room).await;
        let told = list.now(&body).await["extensions"]["e2ee"]["device_lists"]["changed"].clone();
        assert_eq!(told, json!([carol.user_id]), "they share a room now");
    })
    .await;
}
