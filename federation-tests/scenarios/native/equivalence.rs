//! Whatever people do, by whichever face, on whichever domain: every face tells the same of it.
//!
//! Rounds of random acts. In each, who is in the conversation does a few things one after the other, all people at the
//! same time, each by a face drawn for it: the Matrix API, REST, the WebSocket. Then it is waited until every member's
//! every face shows what the [plan](plan) says, and members of one server see one order. `COMITY_TEST_SEED` repeats a run,
//! or tries another.

mod faces;
mod plan;
mod sights;

use std::collections::BTreeSet;

use federation_tests::{Network, Server, eventually, on_each_engine};
use futures_util::future::join_all;
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::json;

use super::conversations::done;
use faces::Person;
use plan::{Face, Plan};

/// How often everybody does something, and everything is compared.
const ROUNDS: usize = 12;
/// What is drawn if nobody says otherwise.
const SEED: u64 = 20_261_122;

/// Four people on two domains. Alice has made the group, she and Bob are always in it, the others come and go.
struct World {
    people: Vec<Person>,
    room: String,
}

impl World {
    async fn begin(a: &Server, b: &Server) -> Self {
        let mut people = Vec::new();
        for (server, name) in [(a, "alice"), (b, "bob"), (a, "carol"), (b, "dave")] {
            people.push(Person::new(server.register_with_secret(name).await).await);
        }
        let members: Vec<&str> = people[1..].iter().map(|person| person.client.user_id.as_str()).collect();
        let group = json!({ "name": "Tea", "members": members });
        let group = done(people[0].client.post("/api/v1/groups", group).await);
        let room = group["group_id"].as_str().expect("it is told").to_owned();
        let world = Self { people, room };
        for who in 1..4 {
            world.join(who, Face::Rest).await;
        }
        world
    }

    async fn join(&self, who: usize, face: Face) {
        let (person, room) = (&self.people[who], &self.room);
        eventually("the invitation is there", async || person.is_invited(room).await.then_some(())).await;
        let client = &person.client;
        match face {
            Face::Matrix => client.join(room).await,
            _ => drop(done(client.post(&format!("/api/v1/conversations/{room}/join"), json!({})).await)),
        }
    }

    /// Somebody comes or goes, and every server has heard of it.
    async fn move_one(&mut self, plan: &mut Plan, dice: &mut StdRng) {
        let Some(change) = plan.draw_move(dice) else { return };
        let (who, room) = (change.who, self.room.clone());
        let (alice, other) = (&self.people[0].client, &self.people[who].client);
        let member = format!("/api/v1/groups/{room}/members");
        match (change.comes, change.by_alice, change.face) {
            (true, _, Face::Matrix) => alice.invite(&room, other).await,
            (true, ..) => drop(done(alice.post(&member, json!({ "members": [other.user_id] })).await)),
            (false, true, Face::Matrix) => drop(alice.act_on(&room, "kick", &other.user_id).await.ok()),
            (false, true, _) => drop(done(alice.delete(&format!("{member}/{}", other.user_id)).await)),
            (false, false, Face::Matrix) => other.leave(&room).await,
            (false, false, _) => drop(done(other.post(&format!("/api/v1/groups/{room}/leave"), json!({})).await)),
        }
        if change.comes {
            self.join(who, change.face).await;
        }
        plan.moved(change);
        self.agree_on_members(plan).await;
        if change.comes {
            // As a client does that comes in: what was before it fetches.
            let items = self.people[who].items(&room).await;
            self.people[who].begin_anew(&items);
        }
    }

    async fn agree_on_members(&self, plan: &Plan) {
        let expected: BTreeSet<String> =
            plan.members.iter().map(|&who| self.people[who].client.user_id.clone()).collect();
        for &who in &plan.members {
            self.people[who].agree("members on REST", &expected, async |one| one.members(&self.room).await).await;
            self.people[who]
                .agree("members on Matrix", &expected, async |one| one.members_on_matrix(&self.room).await)
                .await;
        }
    }

    /// Everybody does what is planned, at the same time.
    async fn act(&mut self, plan: &mut Plan, dice: &mut StdRng) {
        let todo = plan.draw_round(dice);
        let (room, settled) = (&self.room, plan.ids());
        let acting = self.people.iter_mut().zip(todo).map(|(person, acts)| person.act(room, acts, &settled));
        let said: Vec<_> = join_all(acting).await.into_iter().flatten().collect();
        plan.note_ids(said);
    }

    /// Every face of every member shows what was planned.
    async fn compare(&mut self, plan: &Plan) {
        let (texts, reactions) = (plan.texts(), plan.reactions());
        let read = plan.read(&self.people);
        let room = self.room.clone();
        for &who in &plan.members {
            let person = &mut self.people[who];
            person.socket_shows(&texts).await;
            person.agree("texts on REST", &texts, async |one| one.texts(&room).await).await;
            person.agree("texts on Matrix", &texts, async |one| one.texts_on_matrix(&room).await).await;
            person.agree("reactions on REST", &reactions, async |one| one.reactions(&room).await).await;
            person
                .agree("reactions on Matrix", &reactions, async |one| one.reactions_on_matrix(&room, &texts).await)
                .await;
            person.agree("the name on REST", &plan.name, async |one| one.name(&room).await).await;
            person.agree("the name on Matrix", &plan.name, async |one| one.name_on_matrix(&room).await).await;
            for (message, read) in &read {
                person.agree("who has read, on REST", &read.so_far, async |one| one.readers(message).await).await;
                person
                    .agree("who has read, on Matrix", &read.just_to, async |one| {
                        one.readers_on_matrix(&room, message).await
                    })
                    .await;
            }
            let unread = person.unread_on_matrix(&room).await;
            person.agree("what is unread", &unread, async |one| one.unread(&room).await).await;
            // One order: that of the server.
            assert_eq!(person.order(&room).await, person.order_on_matrix(&room).await, "the order of {person:?}");
        }
        for (one, other) in [(0, 2), (1, 3)] {
            if plan.members.contains(&one) && plan.members.contains(&other) {
                let (one, other) = (&self.people[one], &self.people[other]);
                assert_eq!(one.order(&room).await, other.order(&room).await, "{one:?} and {other:?}");
            }
        }
    }
}

#[tokio::test]
async fn whatever_people_do_every_face_tells_the_same_of_it() {
    on_each_engine(async |engine| {
        let seed = std::env::var("COMITY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
        eprintln!("COMITY_TEST_SEED={seed}");
        let (_network, [a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
        let (mut dice, mut plan) = (StdRng::seed_from_u64(seed), Plan::new(4, "Tea"));
        let mut world = World::begin(&a, &b).await;
        world.agree_on_members(&plan).await;
        for round in 0..ROUNDS {
            eprintln!("round {round}");
            world.act(&mut plan, &mut dice).await;
            world.compare(&plan).await;
            world.move_one(&mut plan, &mut dice).await;
        }
    })
    .await;
}
