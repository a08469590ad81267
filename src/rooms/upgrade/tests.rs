use ruma::{
    OwnedEventId, RoomVersionId,
    api::client::room::create_room::v3::RoomPreset,
    events::{StateEventType, room::member::MembershipState},
    room_id,
};
use serde_json::{Value, json, value::to_raw_value};
use store::{Write, testing::on_each_engine};

use crate::{
    MembershipChange, NewRoom, RoomError, Rooms, Target, Wish,
    live::SharedRoom,
    tests::{alice, bob, new_room, own, rooms, text},
};

async fn set(
    rooms: &Rooms,
    room: &SharedRoom,
    kind: &str,
    state_key: &str,
    content: Value,
) -> Result<OwnedEventId, RoomError> {
    let wish = Wish {
        sender: alice(),
        kind: kind.into(),
        content: to_raw_value(&content).expect("JSON"),
        state_key: Some(state_key.to_owned()),
        redacts: None,
        transaction: None,
    };
    Ok(rooms.send(room, wish).await?.event_id)
}

async fn said(rooms: &Rooms, room: &SharedRoom, kind: StateEventType) -> Result<Value, RoomError> {
    Ok(rooms.state_content(room, kind).await?.unwrap_or_default())
}

#[tokio::test]
async fn a_successor_of_any_version_has_what_the_old_room_said_and_the_old_room_is_closed() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let versions = model::supported_room_versions();
        for (number, (from, to)) in versions.iter().zip(versions.iter().skip(1)).enumerate() {
            let alias = ruma::RoomAliasId::parse(format!("#tea{number}:a.test")).expect("an alias");
            let new = NewRoom {
                alias: Some(alias.clone()),
                is_listed: true,
                topic: Some("Leaves".into()),
                ..new_room(from.clone(), RoomPreset::PublicChat)
            };
            let old = rooms.get(&rooms.create(new).await?).await?;
            let banned = json!({ "membership": "ban", "reason": "coffee" });
            set(&rooms, &old, "m.room.member", "@mallory:b.test", banned.clone()).await?;
            set(&rooms, &old, "org.test.private", "", json!({ "of": "another" })).await?;
            rooms.change_membership(&old, MembershipChange::Join, own(bob())).await?;
            let levels = said(&rooms, &old, StateEventType::RoomPowerLevels).await?;

            let new = rooms.get(&rooms.upgrade(&old, &alice(), to, &[]).await?).await?;
            assert_eq!(new.version, *to);
            let create = said(&rooms, &new, StateEventType::RoomCreate).await?;
            assert_eq!(create["predecessor"]["room_id"], old.room_id.as_str());
            let tombstone = rooms.state_event(&old, StateEventType::RoomTombstone, "").await?.expect("a tombstone");
            if *to != RoomVersionId::V12 {
                assert_eq!(create["predecessor"]["event_id"], tombstone.pdu.event_id.as_str(), "{to}");
            }
            let content: Value = tombstone.pdu.content_as().expect("an object");
            assert_eq!(content["replacement_room"], new.room_id.as_str());

            for (kind, field, value) in [
                (StateEventType::RoomName, "name", "Tea"),
                (StateEventType::RoomTopic, "topic", "Leaves"),
                (StateEventType::RoomJoinRules, "join_rule", "public"),
                (StateEventType::RoomCanonicalAlias, "alias", alias.as_str()),
            ] {
                assert_eq!(said(&rooms, &new, kind).await?[field], value, "{to}");
            }
            let ban = rooms.state_event(&new, StateEventType::RoomMember, "@mallory:b.test").await?.expect("a ban");
            assert_eq!(ban.pdu.content_as::<Value>(), Some(banned));
            assert!(rooms.state_event(&new, "org.test.private".into(), "").await?.is_none(), "it is somebody's own");
            assert_eq!(rooms.membership(&new, &bob()).await?, None, "who was in the old room is asked to come");

            let new_levels = said(&rooms, &new, StateEventType::RoomPowerLevels).await?;
            if *to == RoomVersionId::V12 {
                assert_eq!(new_levels["users"], json!({}), "who makes a room stands above all levels");
                assert_eq!(new_levels["events"]["m.room.tombstone"], 150);
            } else {
                assert_eq!(new_levels, levels, "{to}");
            }
            assert_eq!(store.aliases().of_room(new.nid).await?, [alias]);
            assert!(store.aliases().of_room(old.nid).await?.is_empty());
            assert!(rooms.is_listed(&new).await? && !rooms.is_listed(&old).await?);

            assert_eq!(said(&rooms, &old, StateEventType::RoomCanonicalAlias).await?, json!({}));
            let refused = rooms.send(&old, text(bob(), "anybody there?")).await;
            assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
        }
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn a_moderator_who_may_upgrade_is_a_moderator_afterwards() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let old = rooms.get(&rooms.create(new_room(RoomVersionId::V10, RoomPreset::PublicChat)).await?).await?;
        rooms.change_membership(&old, MembershipChange::Join, own(bob())).await?;
        let refused = rooms.upgrade(&old, &bob(), &RoomVersionId::V11, &[]).await;
        assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");

        let mut levels = said(&rooms, &old, StateEventType::RoomPowerLevels).await?;
        levels["users"][bob().as_str()] = 50.into();
        levels["events"]["m.room.tombstone"] = 50.into();
        set(&rooms, &old, "m.room.power_levels", "", levels.clone()).await?;
        let new = rooms.get(&rooms.upgrade(&old, &bob(), &RoomVersionId::V11, &[]).await?).await?;
        assert_eq!(said(&rooms, &new, StateEventType::RoomPowerLevels).await?, levels);
        assert_eq!(said(&rooms, &old, StateEventType::RoomPowerLevels).await?, levels, "he may not change them");

        // Back from a version whose makers stand above all levels.
        let of_alice = rooms.get(&rooms.create(new_room(RoomVersionId::V12, RoomPreset::PublicChat)).await?).await?;
        let new = rooms.get(&rooms.upgrade(&of_alice, &alice(), &RoomVersionId::V11, &[]).await?).await?;
        let levels = said(&rooms, &new, StateEventType::RoomPowerLevels).await?;
        assert!(levels["users"][alice().as_str()].as_i64() >= levels["events"]["m.room.tombstone"].as_i64());
        let unknown = RoomVersionId::try_from("org.test.99").expect("a version");
        let refused = rooms.upgrade(&of_alice, &alice(), &unknown, &[]).await;
        assert!(matches!(refused, Err(RoomError::UnsupportedVersion(_))), "{refused:?}");
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn what_a_member_keeps_about_a_room_goes_with_the_member() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let old = rooms.get(&rooms.create(new_room(RoomVersionId::V10, RoomPreset::PublicChat)).await?).await?;
        rooms.change_membership(&old, MembershipChange::Join, own(bob())).await?;
        let tags = json!({ "tags": { "m.favourite": { "order": 0.5 } } }).to_string();
        let rules = json!({ "global": {
            "override": [{ "rule_id": old.room_id, "default": false, "enabled": true, "actions": [], "conditions": [
                { "kind": "event_match", "key": "room_id", "pattern": old.room_id }
            ] }],
            "room": [{ "rule_id": old.room_id, "default": false, "enabled": true, "actions": ["notify"] }],
            "content": [], "sender": [], "underride": [],
        } });
        let mut write = Write::new();
        store::account_data::put(&mut write, &bob(), Some(&old.room_id), "m.tag", &tags);
        store::account_data::put(&mut write, &bob(), None, "m.push_rules", &rules.to_string());
        store.commit(write).await?;
        rooms.mark_direct(&bob(), &alice(), &old.room_id).await?;

        // A room that only says to be the successor.
        let pretender = NewRoom {
            creation_content: json!({ "predecessor": { "room_id": old.room_id, "event_id": "$none" } })
                .as_object()
                .cloned()
                .unwrap_or_default(),
            ..new_room(RoomVersionId::V10, RoomPreset::PublicChat)
        };
        let pretender = rooms.get(&rooms.create(pretender).await?).await?;
        rooms.change_membership(&pretender, MembershipChange::Join, own(bob())).await?;
        assert_eq!(store.account_data().find(&bob(), Some(&pretender.room_id), "m.tag").await?, None);

        let new = rooms.get(&rooms.upgrade(&old, &alice(), &RoomVersionId::V11, &[]).await?).await?;
        assert_eq!(store.account_data().find(&bob(), Some(&new.room_id), "m.tag").await?, None, "not yet");
        rooms.join(&new.room_id, &bob(), &[], None).await?;
        let kept = async |room, kind: &str| -> Result<Value, RoomError> {
            let content = store.account_data().find(&bob(), room, kind).await?.unwrap_or_default();
            Ok(serde_json::from_str(&content).unwrap_or_default())
        };
        assert_eq!(kept(Some(&*new.room_id), "m.tag").await?["tags"]["m.favourite"]["order"], 0.5);
        assert_eq!(kept(None, "m.direct").await?[alice().as_str()], json!([old.room_id, new.room_id]));
        let rules = kept(None, "m.push_rules").await?;
        let ids = |kind: &str| -> Vec<Value> {
            let rules = rules["global"][kind].as_array().cloned().unwrap_or_default();
            rules.into_iter().map(|rule| rule["rule_id"].clone()).collect()
        };
        for kind in ["room", "override"] {
            assert!(ids(kind).contains(&json!(new.room_id)) && ids(kind).contains(&json!(old.room_id)), "{rules}");
        }

        // Once more changes nothing.
        let before = rules.clone();
        let leave = Target { reason: None, ..own(bob()) };
        rooms.change_membership(&new, MembershipChange::Leave, leave).await?;
        rooms.join(&new.room_id, &bob(), &[], None).await?;
        assert_eq!(kept(None, "m.push_rules").await?, before);
        assert_eq!(rooms.membership(&new, &bob()).await?, Some(MembershipState::Join));
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn a_room_is_not_its_own_successor() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let room = rooms.get(&rooms.create(new_room(RoomVersionId::V11, RoomPreset::PublicChat)).await?).await?;
        let content = json!({ "body": "gone", "replacement_room": room.room_id });
        let refused = set(&rooms, &room, "m.room.tombstone", "", content).await;
        assert!(matches!(refused, Err(RoomError::Invalid(_))), "{refused:?}");
        let elsewhere = json!({ "body": "gone", "replacement_room": room_id!("!other:b.test") });
        set(&rooms, &room, "m.room.tombstone", "", elsewhere).await?;
        Ok::<(), RoomError>(())
    })
    .await;
}
