//! Rooms that two servers share, without a network between them: what one made is handed to the other.

use std::{collections::BTreeMap, sync::Arc};

use model::{SigningKey, StateKey, TimelineEvent};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, ServerName,
    api::Direction,
    api::client::room::create_room::v3::RoomPreset,
    events::{TimelineEventType, room::member::MembershipState},
    server_name, user_id,
};
use serde_json::{Map, Value, json, value::to_raw_value};
use store::testing::on_each_engine;

use crate::{
    MembershipChange, NewRoom, RoomError, Rooms, RoomsConfig, Target, Wish, join_remote::Welcome, outliers::objects,
    outside::raw, tests::assert_numbered,
};

fn rooms_of(name: &ServerName, store: store::Store) -> Rooms {
    let key = SigningKey::from_seed(name.to_owned(), "test", &[7; 32]).expect("any seed makes a key");
    Rooms::new(
        store.clone(),
        peers::testing::knowing(name, store, &[server_name!("a.test"), server_name!("b.test")]),
        Arc::new(key),
        RoomsConfig::default(),
    )
}

/// A server beside the one that a story is given, on SQLite in memory of its own.
async fn second() -> (tempfile::TempDir, Rooms) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let location = store::Location::Sqlite(folder.path().join("b.db"));
    let store = store::Store::open(&location, 2, Arc::new(|_| ())).await.expect("SQLite opens in an empty folder");
    (folder, rooms_of(server_name!("b.test"), store))
}

fn alice() -> OwnedUserId {
    user_id!("@alice:a.test").to_owned()
}

fn bob() -> OwnedUserId {
    user_id!("@bob:b.test").to_owned()
}

fn carol() -> OwnedUserId {
    user_id!("@carol:b.test").to_owned()
}

async fn create(rooms: &Rooms, version: RoomVersionId) -> Result<OwnedRoomId, RoomError> {
    let new = NewRoom {
        creator: alice(),
        version: Some(version),
        preset: RoomPreset::PublicChat,
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_levels: serde_json::from_value(json!({ "events": { "m.room.topic": 0 }, "users_default": 50 }))
            .expect("an object"),
        name: None,
        topic: None,
        alias: None,
        invite: Vec::new(),
        is_direct: false,
        is_listed: false,
    };
    rooms.create(new).await
}

/// Lets `user_id` of `guest` into a room of `host`, as two servers do over the network.
async fn join(host: &Rooms, guest: &Rooms, room_id: &OwnedRoomId, user_id: &OwnedUserId) -> Result<(), RoomError> {
    let origin = guest.server_name();
    let versions = model::supported_room_versions();
    let template = host.make_membership(origin, room_id, user_id, MembershipState::Join, Some(&versions)).await?;
    let rules = model::rules_of(&template.version).expect("a supported version");
    let wish = json!({ "membership": "join" }).as_object().cloned().expect("an object");
    let event = to_raw_value(&template.event).expect("canonical JSON is JSON");
    let join = guest.complete(room_id, user_id, &event, wish, &rules)?;
    let entrance = host.let_in(origin, room_id, &join.event_id, join.object()).await?;
    let told = |events: &[Arc<TimelineEvent>]| -> Result<Vec<CanonicalJsonObject>, RoomError> {
        let events: Vec<_> = events.iter().map(|event| raw(&event.pdu)).collect::<Result<_, _>>()?;
        Ok(objects(&events))
    };
    let welcome = Welcome {
        version: template.version,
        state: guest.believed(room_id, told(&entrance.state)?, &rules).await,
        chain: guest.believed(room_id, told(&entrance.auth_chain)?, &rules).await,
        rules,
        join,
    };
    guest.move_in(room_id, user_id, welcome).await
}

/// The latest events of a room, oldest first.
async fn timeline(rooms: &Rooms, room_id: &OwnedRoomId) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
    let room = rooms.get(room_id).await?;
    let start = model::Position(i64::MIN + 1);
    Ok(rooms.shared.store.events().timeline(room.nid, start, None, 1000, Direction::Forward).await?)
}

/// The room's state, by event ids.
async fn state(rooms: &Rooms, room_id: &OwnedRoomId) -> Result<BTreeMap<StateKey, OwnedEventId>, RoomError> {
    let room = rooms.get(room_id).await?;
    let events = rooms.whole_state(&room).await?;
    Ok(events.into_iter().filter_map(|event| Some((event.pdu.state()?, event.pdu.event_id.clone()))).collect())
}

/// What a server has said that the other hasn't been told.
#[derive(Default)]
struct Mail(Vec<CanonicalJsonObject>);

impl Mail {
    /// Adds what `rooms` has made since it was last asked.
    async fn collect(&mut self, rooms: &Rooms, room_id: &OwnedRoomId, told: &mut usize) -> Result<(), RoomError> {
        let all = timeline(rooms, room_id).await?;
        let own: Vec<_> = all.iter().filter(|event| event.pdu.sender.server_name() == rooms.server_name()).collect();
        self.0.extend(own[*told..].iter().map(|event| event.pdu.object()));
        *told = own.len();
        Ok(())
    }

    async fn deliver(&mut self, from: &Rooms, to: &Rooms, room_id: &OwnedRoomId, count: usize) {
        let count = count.min(self.0.len());
        let pdus: Vec<_> = self.0.drain(..count).collect();
        for (event_id, outcome) in to.receive(from.server_name(), room_id, pdus).await {
            if let Err(error) = outcome {
                panic!("{event_id} was not taken by {}: {error}", to.server_name());
            }
        }
    }
}

async fn say(rooms: &Rooms, room_id: &OwnedRoomId, sender: OwnedUserId, text: &str) -> Result<OwnedEventId, RoomError> {
    let room = rooms.get(room_id).await?;
    let wish = Wish {
        sender,
        kind: TimelineEventType::RoomMessage,
        content: to_raw_value(&json!({ "msgtype": "m.text", "body": text })).expect("plain JSON"),
        state_key: None,
        redacts: None,
        transaction: None,
    };
    Ok(rooms.send(&room, wish).await?.event_id)
}

async fn set(
    rooms: &Rooms,
    room_id: &OwnedRoomId,
    sender: OwnedUserId,
    kind: &str,
    content: Value,
) -> Result<(), RoomError> {
    let room = rooms.get(room_id).await?;
    let wish = Wish {
        sender,
        kind: kind.into(),
        content: to_raw_value(&content).expect("plain JSON"),
        state_key: Some(String::new()),
        redacts: None,
        transaction: None,
    };
    rooms.send(&room, wish).await.map(drop)
}

#[tokio::test]
async fn who_joins_through_another_server_has_the_same_state_and_both_hear_each_other() {
    for version in model::supported_room_versions() {
        on_each_engine(async |store| {
            let a = rooms_of(server_name!("a.test"), store);
            let (_folder, b) = second().await;
            let room_id = create(&a, version.clone()).await?;
            say(&a, &room_id, alice(), "before").await?;
            join(&a, &b, &room_id, &bob()).await?;
            assert_eq!(state(&a, &room_id).await?, state(&b, &room_id).await?);

            let (mut told_by_a, mut to_b) = (usize::MAX, Mail::default());
            let own = timeline(&a, &room_id).await?;
            told_by_a = told_by_a.min(own.iter().filter(|event| event.pdu.sender == alice()).count());
            let (mut told_by_b, mut to_a) = (1, Mail::default());
            let hello = say(&b, &room_id, bob(), "hello").await?;
            to_a.collect(&b, &room_id, &mut told_by_b).await?;
            to_a.deliver(&b, &a, &room_id, 9).await;
            let answer = say(&a, &room_id, alice(), "hello yourself").await?;
            to_b.collect(&a, &room_id, &mut told_by_a).await?;
            to_b.deliver(&a, &b, &room_id, 9).await;
            for rooms in [&a, &b] {
                let last: Vec<_> = timeline(rooms, &room_id)
                    .await?
                    .iter()
                    .rev()
                    .take(2)
                    .map(|event| event.pdu.event_id.clone())
                    .collect();
                assert_eq!(last, [answer.clone(), hello.clone()]);
            }
            Ok::<(), RoomError>(())
        })
        .await;
    }
}

#[tokio::test]
async fn servers_that_have_exchanged_all_events_agree_on_the_state_whatever_happened_meanwhile() {
    let versions = [RoomVersionId::V12, RoomVersionId::V11, RoomVersionId::V1, RoomVersionId::V2];
    for (seed, version) in (0..16).zip(versions.iter().cycle()) {
        on_each_engine(async |store| {
            let mut dice = StdRng::seed_from_u64(seed);
            let a = rooms_of(server_name!("a.test"), store);
            let (_folder, b) = second().await;
            let room_id = create(&a, version.clone()).await?;
            join(&a, &b, &room_id, &bob()).await?;
            // Carol stays, so that b.test hears of everything whatever becomes of Bob.
            b.join(&room_id, &carol(), &[], None).await?;
            let mut told =
                [timeline(&a, &room_id).await?.iter().filter(|event| event.pdu.sender == alice()).count(), 1];
            let mut mail = [Mail::default(), Mail::default()];

            let mut acts: Vec<u32> = (0..30).collect();
            acts.shuffle(&mut dice);
            for act in acts {
                let (rooms, user) = if act % 2 == 0 { (&a, alice()) } else { (&b, bob()) };
                // Whoever lost the right to act meanwhile is refused, as by any server.
                let _ = match act % 7 {
                    0 | 1 => {
                        set(rooms, &room_id, user, "m.room.topic", json!({ "topic": format!("topic {act}") })).await
                    }
                    2 => set(rooms, &room_id, user, "m.room.name", json!({ "name": format!("name {act}") })).await,
                    3 if act % 2 == 0 => power(rooms, &room_id, dice.random_range(0..=60)).await,
                    4 if act % 2 == 0 => put_out_and_back(rooms, &room_id, &mut dice).await,
                    _ => say(rooms, &room_id, user, "words").await.map(drop),
                };
                mail[0].collect(&a, &room_id, &mut told[0]).await?;
                mail[1].collect(&b, &room_id, &mut told[1]).await?;
                // Now and then something arrives, in order for each sender.
                if dice.random_bool(0.3) {
                    let count = dice.random_range(0..4);
                    mail[0].deliver(&a, &b, &room_id, count).await;
                }
                if dice.random_bool(0.3) {
                    let count = dice.random_range(0..4);
                    mail[1].deliver(&b, &a, &room_id, count).await;
                }
            }
            // What one server refused to build on counts as soon as something follows it.
            for (rooms, user) in [(&a, alice()), (&b, carol())] {
                mail[0].deliver(&a, &b, &room_id, usize::MAX).await;
                mail[1].deliver(&b, &a, &room_id, usize::MAX).await;
                say(rooms, &room_id, user, "the end").await?;
                mail[0].collect(&a, &room_id, &mut told[0]).await?;
                mail[1].collect(&b, &room_id, &mut told[1]).await?;
            }
            mail[0].deliver(&a, &b, &room_id, usize::MAX).await;
            mail[1].deliver(&b, &a, &room_id, usize::MAX).await;
            assert_eq!(state(&a, &room_id).await?, state(&b, &room_id).await?, "seed {seed}");

            // What memory says is what the store says.
            for rooms in [&a, &b] {
                let before = state(rooms, &room_id).await?;
                rooms.forget_all();
                assert_eq!(before, state(rooms, &room_id).await?, "seed {seed}");
                let room = rooms.get(&room_id).await?;
                let current = rooms.shared.store.state().current(room.nid).await?;
                assert_eq!(current, rooms.view(&room).await?.state, "seed {seed}");
                // Each server counts for itself.
                assert_numbered(&timeline(rooms, &room_id).await?);
                assert_eq!(rooms.view(&room).await?.seq, timeline(rooms, &room_id).await?.len() as i64, "seed {seed}");
            }
            Ok::<(), RoomError>(())
        })
        .await;
    }
}

#[tokio::test]
async fn who_comes_back_goes_on_counting_where_it_was() {
    on_each_engine(async |store| {
        let a = rooms_of(server_name!("a.test"), store);
        let (_folder, b) = second().await;
        let room_id = create(&a, RoomVersionId::V12).await?;
        join(&a, &b, &room_id, &bob()).await?;
        let (mut told, mut mail) = (1, Mail::default());
        say(&b, &room_id, bob(), "hello").await?;
        let own = Target { sender: bob(), user_id: bob(), reason: None, is_direct: None };
        b.change_membership(&b.get(&room_id).await?, MembershipChange::Leave, own).await?;
        mail.collect(&b, &room_id, &mut told).await?;
        mail.deliver(&b, &a, &room_id, 9).await;
        say(&a, &room_id, alice(), "he is gone").await?;
        join(&a, &b, &room_id, &bob()).await?;
        say(&b, &room_id, bob(), "again").await?;
        let seen = timeline(&b, &room_id).await?;
        assert_eq!(seen.len(), 5, "joined, said, left, joined, said");
        assert_numbered(&seen);
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn what_arrives_while_somebody_here_speaks_is_taken_whatever_is_on_its_way_to_the_store() {
    on_each_engine(async |store| {
        let a = rooms_of(server_name!("a.test"), store);
        let (_folder, b) = second().await;
        let room_id = create(&a, RoomVersionId::V12).await?;
        join(&a, &b, &room_id, &bob()).await?;
        let mut mail = Mail::default();
        let mut told = 1;
        for number in 0..20 {
            let topic = json!({ "topic": format!("topic {number}") });
            set(&b, &room_id, bob(), "m.room.topic", topic).await?;
        }
        mail.collect(&b, &room_id, &mut told).await?;
        let speaking = async {
            for number in 0..40 {
                say(&a, &room_id, alice(), "words").await?;
                set(&a, &room_id, alice(), "m.room.name", json!({ "name": format!("name {number}") })).await?;
            }
            Ok::<(), RoomError>(())
        };
        let hearing = async {
            while !mail.0.is_empty() {
                mail.deliver(&b, &a, &room_id, 1).await;
            }
        };
        let (spoken, ()) = tokio::join!(speaking, hearing);
        spoken
    })
    .await;
}

async fn power(rooms: &Rooms, room_id: &OwnedRoomId, default: i64) -> Result<(), RoomError> {
    let room = rooms.get(room_id).await?;
    let now: Option<Map<String, Value>> =
        rooms.state_content(&room, ruma::events::StateEventType::RoomPowerLevels).await?;
    let mut content = now.unwrap_or_default();
    content.insert("users_default".into(), default.into());
    set(rooms, room_id, alice(), "m.room.power_levels", Value::Object(content)).await
}

/// Alice puts Bob out of the room, or lets him be invited again.
async fn put_out_and_back(rooms: &Rooms, room_id: &OwnedRoomId, dice: &mut StdRng) -> Result<(), RoomError> {
    let room = rooms.get(room_id).await?;
    let change = if dice.random_bool(0.5) { MembershipChange::Kick } else { MembershipChange::Ban };
    let target = Target { sender: alice(), user_id: bob(), reason: None, is_direct: None };
    rooms.change_membership(&room, change, target).await
}
