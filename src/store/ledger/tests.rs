use ruma::{event_id, server_name};

use super::{sums::DAY, *};
use crate::{
    outbox,
    testing::{on_each_engine, on_each_engine_of_old, owe_event},
};

const ROOM: RoomNid = RoomNid(1);
const NUMBER: DestinationNid = DestinationNid(7);

/// The rooms that events are put into, so that an export can name them.
async fn make_room(store: &Store, nid: i64) -> Result<(), Error> {
    let mut write = Write::new();
    let room = crate::rooms::RoomRow {
        nid: RoomNid(nid),
        room_id: format!("!{nid}:a.test").try_into().expect("it is one"),
        room_version: ruma::RoomVersionId::V11,
        version: crate::RoomVersion::default(),
        extremities: Vec::new(),
        snapshot: model::SnapshotNid(1),
    };
    crate::rooms::put_room(&mut write, &room);
    store.commit(write).await.map(drop)
}

/// Owes `b.test` messages numbered from 1 on, in a room each of which the list names.
async fn owe(store: &Store, rooms: &[i64]) -> Result<Vec<Position>, Error> {
    let b = server_name!("b.test");
    let mut write = Write::new();
    insert_destination(&mut write, b, NUMBER);
    insert_destination(&mut write, b, DestinationNid(8));
    store.commit(write).await?;
    let mut positions = Vec::new();
    for (nid, room) in (1..).zip(rooms) {
        make_room(store, *room).await?;
        positions.push(owe_event(store, b, RoomNid(*room), nid).await?);
    }
    Ok(positions)
}

fn answer<'a>(write: &mut Write, us: &ServerName) -> Answer<'a> {
    Answer::new(write, (server_name!("b.test"), NUMBER), us, Some(20), 50)
}

#[tokio::test]
async fn what_leaves_the_outbox_enters_the_ledger_once() {
    on_each_engine(async |store| {
        let (a, b) = (server_name!("a.test"), server_name!("b.test"));
        let positions = owe(&store, &[1, 1, 1]).await?;
        assert_eq!(store.ledger().number_of(b).await?, Some(NUMBER), "the first to name it has");
        let event = store.ledger().event(event_id!("$1")).await?;
        assert!(event.is_none(), "there is no such event");
        for _ in 0..2 {
            let mut write = Write::new();
            let noted = answer(&mut write, a);
            noted.record(&mut write, (positions[0], positions[1]), Outcome::Refused, Some("no"));
            noted.record(&mut write, (Position(0), positions[0]), Outcome::Accepted, None);
            outbox::delivered(&mut write, b, positions[1]);
            store.commit(write).await?;
        }
        let rows: Vec<_> = [store.ledger().of_event(EventNid(1)).await?, store.ledger().of_event(EventNid(2)).await?]
            .concat()
            .into_iter()
            .map(|row| (row.outcome, row.queued_at, row.sent_at, row.answered_at, row.reason))
            .collect();
        let expected =
            [(Outcome::Accepted, 1, Some(20), 50, None), (Outcome::Refused, 1, Some(20), 50, Some("no".to_owned()))];
        assert_eq!(rows, expected);
        assert!(store.ledger().of_event(EventNid(3)).await?.is_empty());
        assert_eq!(store.ledger().owed_to(positions[2]).await?, [b]);
        assert!(store.ledger().owed_to(positions[1]).await?.is_empty());
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn since_when_events_of_others_were_owed_they_do_not_say_themselves() {
    on_each_engine(async |store| {
        let positions = owe(&store, &[1]).await?;
        let mut write = Write::new();
        // Their sender is of a.test, whose name ends like this one.
        answer(&mut write, server_name!("b.a.test")).record(
            &mut write,
            (Position(0), positions[0]),
            Outcome::Accepted,
            None,
        );
        store.commit(write).await?;
        assert_eq!(store.ledger().of_event(EventNid(1)).await?[0].queued_at, 20);
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn what_was_skipped_can_be_fetched_once() {
    on_each_engine(async |store| {
        let (a, b) = (server_name!("a.test"), server_name!("b.test"));
        let positions = owe(&store, &[1, 2, 1, 1]).await?;
        let mut write = Write::new();
        let noted = answer(&mut write, a);
        noted.record(&mut write, (Position(positions[2].0 - 1), positions[2]), Outcome::Accepted, None);
        noted.record_skipped(&mut write, ROOM, positions[2]);
        outbox::delivered_room(&mut write, b, ROOM, positions[2]);
        let at = store.commit(write).await?;
        assert_eq!(store.ledger().count_skipped(at).await?, 1);
        assert_eq!(store.ledger().who_missed().await?, [b]);

        let events = [1, 2, 3, 4].map(EventNid);
        let missed = store.ledger().missed(NUMBER, &events).await?;
        assert_eq!(missed, [Missed { event: EventNid(1), outcome: Outcome::Skipped, queued_at: 1 }]);
        for _ in 0..2 {
            let mut write = Write::new();
            record_pulled(&mut write, NUMBER, &missed, 90);
            store.commit(write).await?;
        }
        assert!(store.ledger().missed(NUMBER, &events).await?.is_empty());
        let rows = store.ledger().of_event(EventNid(1)).await?;
        let outcomes: Vec<_> = rows.iter().map(|row| (row.outcome, row.sent_at, row.answered_at)).collect();
        assert_eq!(outcomes, [(Outcome::Skipped, None, 50), (Outcome::SkippedThenPulled, None, 90)]);
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn who_exports_in_pages_sees_each_row_once_in_the_order_in_which_they_came() {
    on_each_engine(async |store| {
        let a = server_name!("a.test");
        let positions = owe(&store, &[1, 1, 2, 1]).await?;
        // The last is answered first.
        for stretch in [(positions[2], positions[3]), (Position(0), positions[2])] {
            let mut write = Write::new();
            answer(&mut write, a).record(&mut write, stretch, Outcome::Accepted, None);
            store.commit(write).await?;
        }
        let (mut after, mut seen) = (Cursor::default(), Vec::new());
        loop {
            let page = store.ledger().export(after, 2).await?;
            let Some(last) = page.last() else { break };
            after = last.cursor;
            seen.extend(page.iter().map(|row| (row.cursor.event.0, row.room_id.to_string())));
        }
        let expected = [(4, 1), (1, 1), (2, 1), (3, 2)].map(|(event, room)| (event, format!("!{room}:a.test")));
        assert_eq!(seen, expected);
        Ok::<_, Error>(())
    })
    .await;
}

#[tokio::test]
async fn sums_are_the_same_before_and_after_they_are_summed_up_and_when_the_rows_are_gone() {
    on_each_engine(async |store| {
        let (a, b) = (server_name!("a.test"), server_name!("b.test"));
        let positions = owe(&store, &[1, 1, 1, 1, 1]).await?;
        let mut upto = Position(0);
        for (at, position) in positions.iter().take(4).enumerate() {
            let mut write = Write::new();
            let outcome = if at == 2 { Outcome::Refused } else { Outcome::Accepted };
            answer(&mut write, a).record(&mut write, (upto, *position), outcome, None);
            store.commit(write).await?;
            upto = *position;
        }
        let sums = store.ledger().sums(None, 0).await?;
        let shown: Vec<_> = sums.iter().map(|sum| (sum.outcome, sum.events, sum.lag_sum, sum.lag_max)).collect();
        assert_eq!(shown, [(Outcome::Accepted, 3, 3 * 49, 49), (Outcome::Refused, 1, 49, 49)]);
        assert!(sums.iter().all(|sum| sums::BOUNDS[sum.bucket] == 50));
        assert!(store.ledger().old(i64::MAX, 100).await?.is_none(), "what isn't summed up is kept");

        let mut count = 0;
        while let Some(upto) = store.ledger().not_summed_up(2).await? {
            for _ in 0..2 {
                let mut write = Write::new();
                sums::sum_up(&mut write, upto);
                store.commit(write).await?;
            }
            count += 1;
            assert_eq!(store.ledger().sums(Some(b), 0).await?, sums);
        }
        assert_eq!(count, 2);
        assert!(store.ledger().old(50, 100).await?.is_none(), "it isn't old");
        let old = store.ledger().old(51, 3).await?.expect("it is old");
        let mut write = Write::new();
        prune(&mut write, old);
        store.commit(write).await?;
        assert_eq!(store.ledger().export(Cursor::default(), 9).await?.len(), 1);
        assert_eq!(store.ledger().sums(None, 0).await?, sums);
        assert!(store.ledger().sums(None, 1).await?.is_empty());
        assert!(store.ledger().sums(Some(server_name!("c.test")), 0).await?.is_empty());

        let mut write = Write::new();
        sums::prune_days(&mut write, 1 + 1 / DAY);
        store.commit(write).await?;
        assert!(store.ledger().sums(None, 0).await?.is_empty());
        let queues = store.ledger().queues(None).await?;
        assert_eq!(queues, [sums::Queue { destination: b.to_owned(), events: 5, oldest_at: Some(1) }]);
        assert_eq!(store.ledger().queues(Some(b)).await?, queues);
        Ok::<_, Error>(())
    })
    .await;
}

/// What a database of old owed to others goes on, and is in the ledger from then on.
#[tokio::test]
async fn a_database_of_old_has_an_empty_ledger_that_takes_what_comes() {
    on_each_engine_of_old(async |store| {
        let b = server_name!("b.test");
        assert!(store.ledger().export(Cursor::default(), 9).await?.is_empty());
        assert!(store.ledger().sums(None, 0).await?.is_empty());
        let message = event_id!("$nr0DXpaqjk-DFM2r4W6ovAZs5NCLJ6DRj1MUVHPbpqQ");
        let event = store.ledger().event(message).await?.expect("it was there");
        let mut write = Write::new();
        insert_destination(&mut write, b, NUMBER);
        outbox::push(&mut write, b, Arg::from(event.position), event.nid);
        store.commit(write).await?;
        assert_eq!(store.ledger().owed_to(event.position).await?, [b]);
        let mut write = Write::new();
        let noted = Answer::new(&mut write, (b, NUMBER), server_name!("a.test"), Some(i64::MAX - 1), i64::MAX);
        noted.record(&mut write, (Position(0), event.position), Outcome::Accepted, None);
        outbox::delivered(&mut write, b, event.position);
        store.commit(write).await?;
        let rows = store.ledger().export(Cursor::default(), 9).await?;
        assert_eq!(rows.len(), 1);
        assert_eq!((&*rows[0].event_id, rows[0].row.queued_at), (message, event.made_at));
        Ok::<_, Error>(())
    })
    .await;
}

/// Prints what noting costs the writer: `cargo test -p store what_noting_costs -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "it measures, and decides nothing"]
async fn what_noting_costs() {
    const EVENTS: i64 = 2_000;
    on_each_engine(async |store| {
        let (a, b) = (server_name!("a.test"), server_name!("b.test"));
        for at_once in [1, 50] {
            for is_noted in [false, true, false, true] {
                store.ensure_nids(EVENTS).await?;
                let mut positions = Vec::new();
                for _ in 0..EVENTS {
                    positions.push(owe_event(&store, b, ROOM, store.next_nid()).await?);
                }
                let began = std::time::Instant::now();
                let mut pending = Vec::new();
                for chunk in positions.chunks(at_once) {
                    let stretch = (Position(chunk[0].0 - 1), chunk[chunk.len() - 1]);
                    let mut write = Write::new();
                    if is_noted {
                        answer(&mut write, a).record(&mut write, stretch, Outcome::Accepted, None);
                    }
                    outbox::delivered(&mut write, b, stretch.1);
                    pending.push(store.reserve().await?.enqueue(write));
                }
                for pending in pending {
                    pending.committed().await?;
                }
                let each = began.elapsed().as_micros() as f64 / EVENTS as f64;
                println!("{at_once} at once, noted: {is_noted}: {each:.1} µs an event");
            }
        }
        let began = std::time::Instant::now();
        while let Some(upto) = store.ledger().not_summed_up(5_000).await? {
            let mut write = Write::new();
            sums::sum_up(&mut write, upto);
            store.commit(write).await?;
        }
        println!("summed up: {:.2} µs an event", began.elapsed().as_micros() as f64 / (4 * EVENTS) as f64);
        Ok::<_, Error>(())
    })
    .await;
}
