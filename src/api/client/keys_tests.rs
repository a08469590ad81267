//! Keys, as a client meets them.

use http::Method;
use serde_json::json;

use crate::testing::{refusal, with_server};

const V3: &str = "/_matrix/client/v3";

#[tokio::test]
async fn a_device_uploads_its_keys_and_another_takes_one() {
    with_server(async |server| {
        let (alice, device_id) = server.register("alice").await;
        let (bob, _) = server.register("bob").await;
        let device_keys = json!({ "user_id": "@alice:a.test", "device_id": device_id, "algorithms": [], "keys": {},
            "signatures": {} });
        let one_time_keys = json!({ "signed_curve25519:AA": { "key": "aGVsbG8", "signatures": {} } });
        let upload = json!({ "device_keys": device_keys, "one_time_keys": one_time_keys });
        let counts = server.post(&format!("{V3}/keys/upload"), Some(&alice), upload).await;
        assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 1 } }));

        let wanted = json!({ "device_keys": { "@alice:a.test": [], "@carol:b.test": [] } });
        let found = server.post(&format!("{V3}/keys/query"), Some(&bob), wanted).await;
        assert_eq!(found["device_keys"]["@alice:a.test"][&device_id]["user_id"], "@alice:a.test");
        assert!(found["failures"]["b.test"].is_object());
        let wanted = json!({ "one_time_keys": { "@alice:a.test": { &device_id: "signed_curve25519" } } });
        let claimed = server.post(&format!("{V3}/keys/claim"), Some(&bob), wanted.clone()).await;
        assert_eq!(claimed["one_time_keys"]["@alice:a.test"][&device_id], one_time_keys);
        let claimed = server.post(&format!("{V3}/keys/claim"), Some(&bob), wanted).await;
        assert!(claimed["one_time_keys"]["@alice:a.test"].is_null());
    })
    .await;
}

#[tokio::test]
async fn room_keys_are_kept_and_given_back() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let backup = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
            "auth_data": { "public_key": "aGVsbG8", "signatures": {} } });
        let made = server.post(&format!("{V3}/room_keys/version"), Some(&alice), backup.clone()).await;
        assert_eq!(made, json!({ "version": "1" }));
        let latest = server.get(&format!("{V3}/room_keys/version"), Some(&alice)).await;
        assert_eq!((&latest["auth_data"], &latest["count"]), (&backup["auth_data"], &json!(0)));

        let data = json!({ "ephemeral": "YQ", "ciphertext": "YQ", "mac": "YQ" });
        let key = json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": data });
        let path = format!("{V3}/room_keys/keys/!room:a.test/se%2Fssion?version=1");
        let put = async |path: &str| server.ask(Method::PUT, path, Some(&alice), key.to_string()).await;
        assert_eq!(put(&path).await.1["count"], 1);
        assert_eq!(server.get(&path, Some(&alice)).await, key);
        let all = server.get(&format!("{V3}/room_keys/keys?version=1"), Some(&alice)).await;
        assert_eq!(all["rooms"]["!room:a.test"]["sessions"]["se/ssion"], key);

        server.post(&format!("{V3}/room_keys/version"), Some(&alice), backup).await;
        let (status, refused) = put(&path).await;
        assert_eq!(refused["current_version"], "2");
        assert_eq!(refusal((status, refused)), (403, "M_WRONG_ROOM_KEYS_VERSION".into()));
        let gone = server.ask(Method::GET, &format!("{V3}/room_keys/version/9"), Some(&alice), "").await;
        assert_eq!(refusal(gone), (404, "M_NOT_FOUND".into()));
    })
    .await;
}
