//! Events of the room versions in which ids and references differ.

use ruma::{RoomVersionId, owned_room_id, owned_server_name, user_id};
use serde_json::{json, value::to_raw_value};

use super::*;

fn key() -> SigningKey {
    SigningKey::from_seed(owned_server_name!("a.test"), "1", &[7; 32]).expect("a plain version")
}

fn rules(version: &RoomVersionId) -> RoomVersionRules {
    crate::rules_of(version).expect("it is supported")
}

fn draft() -> Draft {
    Draft {
        sender: user_id!("@alice:a.test").to_owned(),
        kind: TimelineEventType::RoomMessage,
        content: to_raw_value(&json!({ "msgtype": "m.text", "body": "hello" })).expect("plain JSON"),
        state_key: None,
        redacts: None,
        origin_server_ts: 1_000,
    }
}

/// An event that follows `prev`.
fn made(version: &RoomVersionId, prev: Option<&Pdu>) -> Pdu {
    let room_id = owned_room_id!("!r:a.test");
    let rules = rules(version);
    let hashes = prev.map(|prev| {
        let hash = references::reference_hash(&prev.object(), &rules).expect("it has a hash");
        (prev.event_id.clone(), hash)
    });
    let place = Place {
        room_id: Some(&room_id),
        prev_events: prev.map(|prev| prev.event_id.clone()).into_iter().collect(),
        auth_events: Vec::new(),
        hashes: hashes.into_iter().collect(),
        depth: 1,
    };
    draft().seal(place, &rules, &key()).expect("it is an event")
}

#[test]
fn up_to_room_version_2_an_event_is_called_what_its_maker_says_and_names_others_with_their_hashes() {
    for version in [RoomVersionId::V1, RoomVersionId::V2] {
        let first = made(&version, None);
        assert_eq!(first.event_id.server_name().map(|server| server.as_str()), Some("a.test"));
        let second = made(&version, Some(&first));
        assert_ne!(first.event_id, second.event_id);
        assert_eq!(second.prev_events, std::slice::from_ref(&first.event_id));

        let hash = signatures::reference_hash(&first.object(), &rules(&version)).expect("it has a hash");
        let written: serde_json::Value = serde_json::from_str(&second.json).expect("it is JSON");
        assert_eq!(written["prev_events"], json!([[first.event_id, { "sha256": hash }]]));
        let read = Pdu::from_peer(second.object(), &rules(&version)).expect("it reads what it wrote");
        assert_eq!((read.event_id, read.prev_events), (second.event_id, second.prev_events));
    }
}

#[test]
fn an_event_without_an_id_that_names_a_server_is_none_up_to_room_version_2() {
    let rules = rules(&RoomVersionId::V1);
    for id in [json!("$hash"), json!("nothing"), json!(7), json!(null)] {
        let mut object = made(&RoomVersionId::V1, None).object();
        object.insert("event_id".into(), id.clone().try_into().expect("canonical"));
        assert!(matches!(Pdu::from_peer(object, &rules), Err(PduError::Malformed(_))), "{id}");
    }
}

#[test]
fn from_room_version_3_on_ids_are_hashes_in_the_alphabet_of_the_version() {
    for version in crate::supported_room_versions().into_iter().skip(2) {
        let mut is_plain = false;
        let mut is_url_safe = false;
        for number in 0..64 {
            let mut object = made(&version, None).object();
            object.insert("depth".into(), CanonicalJsonValue::Integer(number.into()));
            let event_id = event_id_of(&object, &rules(&version)).expect("it has an id");
            assert_eq!(event_id.server_name(), None);
            is_plain |= event_id.as_str().contains(['+', '/']);
            is_url_safe |= event_id.as_str().contains(['-', '_']);
        }
        let wanted = if version == RoomVersionId::V3 { (true, false) } else { (false, true) };
        assert_eq!((is_plain, is_url_safe), wanted, "{version}");
    }
}

#[test]
fn an_event_that_names_others_as_another_room_version_does_is_malformed() {
    let (old, new) = (RoomVersionId::V1, RoomVersionId::V3);
    for (written, read) in [(&old, &new), (&new, &old)] {
        let mut object = made(written, Some(&made(written, None))).object();
        object.insert("event_id".into(), CanonicalJsonValue::String("$1:a.test".into()));
        let refused = Pdu::from_peer(object, &rules(read));
        assert!(matches!(refused, Err(PduError::Malformed(_))), "{written} as {read}: {refused:?}");
    }
}
