use model::Pdu;
use ruma::{CanonicalJsonObject, OwnedUserId, RoomVersionId, events::room::member::MembershipState, user_id};

use super::*;
use crate::{
    rooms::put_membership,
    testing::{on_each_engine, on_each_engine_of_old},
};

fn event(nid: i64, room: i64, sender: &str) -> TimelineEvent {
    let object: CanonicalJsonObject = serde_json::from_value(serde_json::json!({
        "type": "m.room.message", "sender": sender, "room_id": format!("!{room}:a.test"), "content": {},
        "origin_server_ts": 1000 + nid, "depth": nid, "prev_events": [], "auth_events": [], "hashes": { "sha256": "x" },
        "signatures": {},
    }))
    .expect("it is canonical");
    let rules = model::rules_of(&RoomVersionId::V11).expect("it is known");
    TimelineEvent {
        nid: EventNid(nid),
        room_nid: RoomNid(room),
        position: Position(0),
        seq: None,
        state_before: None,
        room_state: None,
        pdu: Arc::new(Pdu::from_canonical(object, &rules).expect("it is an event")),
        transaction_id: None,
        redacted_by: None,
        soft_failed: false,
        withheld_below: None,
    }
}

async fn put(store: &Store, documents: &[(&TimelineEvent, i64, &str)]) -> Result<(), Error> {
    let documents: Vec<Document<'_>> = documents
        .iter()
        .map(|(event, position, text)| Document {
            event,
            position: Position(*position),
            text_nid: event.nid,
            key: Key::Body,
            terms: text.split(' ').map(str::to_owned).collect(),
        })
        .collect();
    let mut write = Write::new();
    store.search().put(&mut write, &documents);
    store.commit(write).await.map(drop)
}

async fn join(store: &Store, room: i64, user: &UserId, membership: MembershipState, at: i64) -> Result<(), Error> {
    let mut write = Write::new();
    let nid = EventNid(1000 + room);
    put_membership(&mut write, RoomNid(room), user.as_str(), &membership, user, nid, Arg::Int(at), None, None);
    store.commit(write).await.map(drop)
}

fn wanted<'a>(user_id: &'a UserId, terms: &'a [Term], rooms: &'a [RoomNid]) -> HitsWanted<'a> {
    HitsWanted {
        user_id,
        terms,
        rooms,
        senders: &[],
        keys: &[],
        before: Position(i64::MAX),
        from: Position(i64::MIN),
        made_from: i64::MIN,
        made_before: i64::MAX,
        limit: 10,
    }
}

async fn found(store: &Store, wanted: &HitsWanted<'_>) -> Result<Vec<i64>, Error> {
    Ok(store.search().hits(wanted).await?.iter().map(|hit| hit.position.0).collect())
}

fn terms(text: &str) -> Vec<Term> {
    text.split(' ')
        .map(|term| match term.strip_suffix('*') {
            Some(prefix) => Term::Prefix(prefix.into()),
            None => Term::Exact(term.into()),
        })
        .collect()
}

#[tokio::test]
async fn terms_are_found_in_ones_rooms_latest_first() {
    on_each_engine(async |store| {
        let alice = user_id!("@alice:a.test");
        join(&store, 1, alice, MembershipState::Join, 1).await?;
        join(&store, 2, alice, MembershipState::Leave, 40).await?;
        let bob: OwnedUserId = user_id!("@bob.'\"x/y:a.test").to_owned();
        let [one, two, three, four, late] =
            [(1, 1), (2, 1), (3, 2), (4, 2), (5, 1)].map(|(nid, room)| event(nid, room, bob.as_str()));
        put(&store, &[(&one, 10, "hello 北京 京"), (&two, 20, "hello and or not near"), (&late, -5, "hello 👍")])
            .await?;
        put(&store, &[(&three, 30, "hello हिन्दी"), (&four, 50, "hello")]).await?;
        let rooms = [RoomNid(1), RoomNid(2), RoomNid(3)];
        for (text, expected) in [
            ("hello", vec![30, 20, 10, -5]),
            ("hel*", vec![30, 20, 10, -5]),
            ("hel", vec![]),
            ("hello 北京", vec![10]),
            ("北*", vec![10]),
            ("京*", vec![10]),
            ("👍*", vec![-5]),
            ("हिन्दी", vec![30]),
            ("and or not near", vec![20]),
        ] {
            let terms = terms(text);
            assert_eq!(found(&store, &wanted(alice, &terms, &rooms)).await?, expected, "{text}");
        }
        let hello = terms("hello");
        let all = wanted(alice, &hello, &rooms);
        assert_eq!(found(&store, &HitsWanted { rooms: &rooms[..1], ..all.clone() }).await?, [20, 10, -5]);
        assert_eq!(found(&store, &HitsWanted { rooms: &[], ..all.clone() }).await?, [0; 0]);
        assert_eq!(found(&store, &HitsWanted { limit: 2, before: Position(30), ..all.clone() }).await?, [20, 10]);
        assert_eq!(
            found(&store, &HitsWanted { from: Position(-5), before: Position(20), ..all.clone() }).await?,
            [10, -5]
        );
        assert_eq!(found(&store, &HitsWanted { made_from: 1002, made_before: 1003, ..all.clone() }).await?, [20]);
        assert_eq!(found(&store, &HitsWanted { senders: &[&bob], ..all.clone() }).await?, [30, 20, 10, -5]);
        assert_eq!(found(&store, &HitsWanted { senders: &[alice], ..all.clone() }).await?, [0; 0]);
        assert_eq!(found(&store, &HitsWanted { keys: &[Key::Name, Key::Topic], ..all.clone() }).await?, [0; 0]);
        let many: Vec<RoomNid> = (1..2_000).map(RoomNid).collect();
        assert_eq!(found(&store, &HitsWanted { rooms: &many, ..all.clone() }).await?, [30, 20, 10, -5]);
        let carol = user_id!("@carol:a.test");
        assert_eq!(found(&store, &HitsWanted { user_id: carol, ..all.clone() }).await?, [0; 0], "she is in no room");

        // Another text in the place of the first, and none.
        put(&store, &[(&one, 10, "goodbye")]).await?;
        assert_eq!(found(&store, &wanted(alice, &terms("goodbye"), &rooms)).await?, [10]);
        let mut write = Write::new();
        store.search().remove(&mut write, &[Position(10), Position(20), Position(21)]);
        store.commit(write).await?;
        assert_eq!(found(&store, &all).await?, [30, -5]);
        assert_eq!(found(&store, &wanted(alice, &terms("goodbye"), &rooms)).await?, [0; 0]);
        assert_eq!(store.search().found_by(&[EventNid(3), EventNid(1)]).await?, [EventNid(3)]);
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn a_database_of_old_can_be_searched_too() {
    on_each_engine_of_old(async |store| {
        assert!(store.search().found_by(&[EventNid(1)]).await?.is_empty());
        let late = store.search().backfilled(Position(0), Position(1_000_000)).await?;
        assert!(late.is_sorted_by_key(|event| -event.position.0) && late.iter().all(|event| event.position.0 < 0));
        Ok::<_, Error>(())
    })
    .await;
}
