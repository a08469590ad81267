//! Conflicts in rooms of version 1, as the specification settles them.

use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::*;

const ALICE: &str = "@alice:a.test";
const BOB: &str = "@bob:b.test";

/// The events of a room, by what they are called.
#[derive(Default)]
struct Story {
    events: HashMap<OwnedEventId, Arc<Pdu>>,
}

impl Story {
    /// A public room of Alice, with Bob in it, in which both may set everything but power levels.
    fn new() -> (Self, StateMap<OwnedEventId>) {
        let mut story = Self::default();
        let levels =
            json!({ "users": { ALICE: 100, BOB: 50 }, "state_default": 50, "events": { "m.room.power_levels": 50 } });
        let mut state = StateMap::new();
        for (name, kind, key, content) in [
            ("$create:a.test", "m.room.create", "", json!({ "creator": ALICE })),
            ("$alice:a.test", "m.room.member", ALICE, json!({ "membership": "join" })),
            ("$levels:a.test", "m.room.power_levels", "", levels),
            ("$public:a.test", "m.room.join_rules", "", json!({ "join_rule": "public" })),
        ] {
            story.happens(&mut state, name, 1, (ALICE, kind, key), content);
        }
        story.happens(&mut state, "$bob:b.test", 2, (BOB, "m.room.member", BOB), json!({ "membership": "join" }));
        (story, state)
    }

    /// `(sender, kind, key)` holds from now on in `state`.
    fn happens(
        &mut self,
        state: &mut StateMap<OwnedEventId>,
        event_id: &str,
        depth: i64,
        (sender, kind, key): (&str, &str, &str),
        content: Value,
    ) {
        let event_id = OwnedEventId::try_from(event_id).expect("it is an id");
        // A create event follows nothing.
        let prev_events = if kind == "m.room.create" { json!([]) } else { json!([["$before:a.test", {}]]) };
        let json = json!({
            "event_id": event_id, "room_id": "!r:a.test", "sender": sender, "type": kind, "state_key": key,
            "content": content, "depth": depth, "origin_server_ts": 1, "prev_events": prev_events, "auth_events": [],
            "hashes": {}, "signatures": {},
        });
        let pdu = Pdu::from_stored(event_id.clone(), json.to_string().into(), false).expect("it is an event");
        state.insert((kind.into(), key.to_owned()), event_id.clone());
        self.events.insert(event_id, Arc::new(pdu));
    }

    /// What holds for a key where the states meet, in whichever order they are named.
    fn outcome(&self, states: &[StateMap<OwnedEventId>], kind: &str, key: &str) -> Option<String> {
        let rules = model::rules_of(&RoomVersionId::V1).expect("it is supported");
        let outcome = |states: &[StateMap<OwnedEventId>]| resolve(states, &rules, |id| self.events.get(id).cloned());
        let resolved = outcome(states);
        let turned: Vec<_> = states.iter().rev().cloned().collect();
        assert_eq!(resolved, outcome(&turned), "the order of branches means nothing");
        resolved.get(&(kind.into(), key.to_owned())).map(ToString::to_string)
    }
}

/// Two ids, of which the first has the lower hash.
fn by_hash(names: [&'static str; 2]) -> [&'static str; 2] {
    let hash = |name: &str| -> [u8; 20] { Sha1::digest(name.as_bytes()).into() };
    let mut names = names;
    names.sort_by_key(|name| hash(name));
    names
}

fn topic(sender: &'static str) -> (&'static str, &'static str, &'static str) {
    (sender, "m.room.topic", "")
}

#[test]
fn what_only_one_branch_has_is_kept() {
    let (mut story, state) = Story::new();
    let (mut one, mut other) = (state.clone(), state);
    story.happens(&mut one, "$topic:a.test", 3, topic(ALICE), json!({ "topic": "tea" }));
    story.happens(&mut other, "$name:b.test", 3, (BOB, "m.room.name", ""), json!({ "name": "Tea" }));
    let states = [one, other];
    assert_eq!(story.outcome(&states, "m.room.topic", "").as_deref(), Some("$topic:a.test"));
    assert_eq!(story.outcome(&states, "m.room.name", "").as_deref(), Some("$name:b.test"));
}

#[test]
fn of_ordinary_state_the_deepest_holds_and_at_the_same_depth_that_of_the_lower_hash() {
    let (mut story, state) = Story::new();
    let (mut one, mut other) = (state.clone(), state.clone());
    story.happens(&mut one, "$deep:a.test", 9, topic(ALICE), json!({ "topic": "deep" }));
    story.happens(&mut other, "$shallow:b.test", 8, topic(BOB), json!({ "topic": "shallow" }));
    assert_eq!(story.outcome(&[one, other], "m.room.topic", "").as_deref(), Some("$deep:a.test"));

    let [low, high] = by_hash(["$one:a.test", "$two:a.test"]);
    let (mut one, mut other) = (state.clone(), state);
    story.happens(&mut one, high, 9, topic(ALICE), json!({ "topic": "high" }));
    story.happens(&mut other, low, 9, topic(BOB), json!({ "topic": "low" }));
    assert_eq!(story.outcome(&[one, other], "m.room.topic", "").as_deref(), Some(low));
}

#[test]
fn of_power_levels_the_last_counts_that_those_before_it_allow() {
    let (mut story, state) = Story::new();
    let (mut first, mut second, mut third) = (state.clone(), state.clone(), state);
    let levels = |bob: i64| json!({ "users": { ALICE: 100, BOB: bob }, "events": { "m.room.power_levels": 50 } });
    let kind = "m.room.power_levels";
    // Alice takes Bob's power; what Bob does with it on a longer branch comes too late, and what follows isn't looked at.
    story.happens(&mut first, "$p1:a.test", 3, (ALICE, kind, ""), levels(0));
    story.happens(&mut second, "$p2:b.test", 4, (BOB, kind, ""), levels(49));
    story.happens(&mut third, "$p3:a.test", 5, (ALICE, kind, ""), levels(50));
    assert_eq!(story.outcome(&[first.clone(), second, third.clone()], kind, "").as_deref(), Some("$p1:a.test"));
    assert_eq!(story.outcome(&[first, third], kind, "").as_deref(), Some("$p3:a.test"));
}

#[test]
fn power_levels_are_settled_before_what_they_allow() {
    let (mut story, state) = Story::new();
    let (mut one, mut other) = (state.clone(), state);
    let levels = json!({ "users": { ALICE: 100 }, "state_default": 50 });
    story.happens(&mut one, "$t1:a.test", 3, topic(ALICE), json!({ "topic": "alice" }));
    story.happens(&mut one, "$p1:a.test", 4, (ALICE, "m.room.power_levels", ""), levels);
    story.happens(&mut other, "$t2:b.test", 7, topic(BOB), json!({ "topic": "bob" }));
    // Bob's topic is deeper, but Bob may set none any more.
    assert_eq!(story.outcome(&[one, other], "m.room.topic", "").as_deref(), Some("$t1:a.test"));
}

#[test]
fn who_was_put_out_on_one_branch_does_not_come_in_by_another_that_is_longer() {
    let (mut story, state) = Story::new();
    let (mut one, mut other) = (state.clone(), state);
    let member = "m.room.member";
    story.happens(&mut one, "$ban:a.test", 3, (ALICE, member, BOB), json!({ "membership": "ban" }));
    story.happens(
        &mut other,
        "$rename:b.test",
        6,
        (BOB, member, BOB),
        json!({ "membership": "join", "displayname": "B" }),
    );
    assert_eq!(story.outcome(&[one, other], member, BOB).as_deref(), Some("$ban:a.test"));
}

#[test]
fn of_join_rules_the_last_counts_and_decides_over_memberships() {
    let (mut story, state) = Story::new();
    let (mut one, mut other) = (state.clone(), state);
    let carol = "@carol:c.test";
    let join = |name: &str| json!({ "membership": "join", "displayname": name });
    story.happens(&mut one, "$closed:a.test", 3, (ALICE, "m.room.join_rules", ""), json!({ "join_rule": "invite" }));
    story.happens(&mut other, "$open:a.test", 4, (ALICE, "m.room.join_rules", ""), json!({ "join_rule": "public" }));
    story.happens(&mut one, "$c1:c.test", 5, (carol, "m.room.member", carol), join("one"));
    story.happens(&mut other, "$c2:c.test", 6, (carol, "m.room.member", carol), join("two"));
    let states = [one, other];
    assert_eq!(story.outcome(&states, "m.room.join_rules", "").as_deref(), Some("$open:a.test"));
    assert_eq!(story.outcome(&states, "m.room.member", carol).as_deref(), Some("$c2:c.test"));
}
