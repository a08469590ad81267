//! Whoever wants to be asked is asked, whichever way something is done, and once.

use std::sync::{Arc, Mutex, PoisonError};

use model::gate::{Act, Acts, Answer, Gate, GateError, Leave, Proposal};
use ruma::{
    RoomVersionId,
    api::client::room::create_room::v3::RoomPreset,
    device_id,
    events::{TimelineEventType, room::member::MembershipState},
    user_id,
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use store::testing::on_each_engine;

use crate::{
    MembershipChange, RoomError, Rooms, Target, Transaction, Wish,
    tests::{alice, bob, new_room, own, rooms, text},
};

/// Remembers what it is asked, and answers it all with one answer.
struct Asked {
    answer: Result<Option<Value>, GateError>,
    questions: Mutex<Vec<(Act, Value)>>,
}

impl Asked {
    fn by(rooms: &Rooms, answer: Result<Option<Value>, GateError>) -> Arc<Self> {
        let asked = Arc::new(Self { answer, questions: Mutex::default() });
        rooms.gate().set(asked.clone());
        asked
    }

    fn questions(&self) -> Vec<(Act, Value)> {
        std::mem::take(&mut self.questions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gate for Asked {
    fn asks_about(&self) -> Acts {
        [Act::Send, Act::Invite, Act::Join, Act::CreateRoom].into_iter().collect()
    }

    fn ask<'a>(&'a self, proposal: Proposal<'a>) -> Answer<'a> {
        let content: Value = serde_json::from_str(proposal.content.get()).expect("it is JSON");
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).push((proposal.act, content));
        let other = self.answer.clone().map(|content| content.map(|content| to_raw_value(&content).expect("JSON")));
        let answer = match other {
            Ok(content) => {
                let fits = |content: &RawValue| proposal.may_become.is_some_and(|check| check(content).is_ok());
                Ok(Leave { content: content.filter(|content| fits(content)), mark: None })
            }
            Err(error) => Err(error),
        };
        Box::pin(async move { answer })
    }
}

fn member(sender: &ruma::UserId, user_id: &ruma::UserId, membership: &MembershipState) -> Wish {
    Wish {
        kind: TimelineEventType::RoomMember,
        content: to_raw_value(&json!({ "membership": membership })).expect("JSON"),
        state_key: Some(user_id.to_string()),
        ..text(sender.to_owned(), "")
    }
}

#[tokio::test]
async fn memberships_are_asked_about_whichever_way_they_change() {
    on_each_engine(async |store| {
        let rooms = rooms(&store);
        let asked = Asked::by(&rooms, Ok(None));
        let carol = user_id!("@carol:a.test").to_owned();
        let mut new = new_room(RoomVersionId::V12, RoomPreset::PrivateChat);
        new.invite = vec![bob()];
        let invited = to_raw_value(&json!({ "membership": "invite" })).expect("JSON");
        new.initial_state = vec![("m.room.member".into(), carol.to_string(), invited)];
        let room = rooms.get(&rooms.create(new).await?).await?;
        let questions = asked.questions();
        assert_eq!(questions.iter().map(|(act, _)| *act).collect::<Vec<_>>(), [Act::CreateRoom, Act::Invite]);
        assert_eq!((&questions[0].1["name"], &questions[1].1["invited"]), (&json!("Tea"), &json!([bob(), carol])));

        rooms.join(&room.room_id, &bob(), &[], Some("tea".into())).await?;
        assert_eq!(asked.questions(), [(Act::Join, json!({ "reason": "tea" }))]);
        rooms.join(&room.room_id, &bob(), &[], None).await?;
        assert_eq!(asked.questions(), [], "nothing happened");
        rooms.send(&room, member(&carol, &carol, &MembershipState::Join)).await?;
        assert_eq!(asked.questions(), [(Act::Join, json!({}))]);
        rooms.change_membership(&room, MembershipChange::Leave, own(carol.clone())).await?;
        rooms.send(&room, member(&bob(), &bob(), &MembershipState::Leave)).await?;
        assert_eq!(asked.questions(), [], "nobody needs leave to leave");

        let target = Target { sender: alice(), user_id: bob(), reason: Some("more tea".into()), is_direct: None };
        rooms.change_membership(&room, MembershipChange::Invite, target).await?;
        rooms.send(&room, member(&alice(), &carol, &MembershipState::Invite)).await?;
        let expected = [json!({ "invited": [bob()], "reason": "more tea" }), json!({ "invited": [carol] })];
        assert_eq!(asked.questions(), expected.map(|content| (Act::Invite, content)));
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn what_was_sent_or_can_not_be_is_not_asked_about() {
    on_each_engine(async |store| {
        let before = rooms(&store);
        let room_id = before.create(new_room(RoomVersionId::V12, RoomPreset::PrivateChat)).await?;
        let transaction = Transaction {
            user_id: alice(),
            device_id: device_id!("PHONE").to_owned(),
            scope: "send".into(),
            transaction_id: "1".into(),
        };
        let wish = || Wish { transaction: Some(transaction.clone()), ..text(alice(), "hello") };
        let sent = before.send(&before.get(&room_id).await?, wish()).await?;

        // After a restart.
        let rooms = rooms(&store);
        let asked = Asked::by(&rooms, Ok(None));
        let room = rooms.get(&room_id).await?;
        assert_eq!(rooms.send(&room, wish()).await?.event_id, sent.event_id);
        let stranger = rooms.send(&room, text(bob(), "let me in")).await;
        assert!(matches!(stranger, Err(RoomError::NotJoined)), "{stranger:?}");
        let guest = rooms.send(&room, text(user_id!("@_bridge_x:a.test").to_owned(), "from elsewhere")).await;
        assert!(matches!(guest, Err(RoomError::Forbidden(_))), "{guest:?}");
        let name = |name: &str| Wish {
            kind: TimelineEventType::RoomName,
            content: to_raw_value(&json!({ "name": name })).expect("JSON"),
            state_key: Some(String::new()),
            ..text(alice(), "")
        };
        rooms.send(&room, name("Tea")).await?;
        assert_eq!(asked.questions(), []);
        rooms.send(&room, name("Coffee")).await?;
        assert_eq!(asked.questions(), [(Act::Send, json!({ "name": "Coffee" }))]);
        Ok::<(), RoomError>(())
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_and_what_is_changed_is_sent() {
    on_each_engine(async |store| {
        let before = rooms(&store);
        let room_id = before.create(new_room(RoomVersionId::V12, RoomPreset::PrivateChat)).await?;

        let strict = rooms(&store);
        Asked::by(&strict, Err(GateError::Refused("no".into())));
        let position = store.visible_position().await?;
        let room = strict.get(&room_id).await?;
        let refused = strict.send(&room, text(alice(), "hello")).await;
        assert!(matches!(refused, Err(RoomError::Gate(GateError::Refused(_)))), "{refused:?}");
        assert!(strict.create(new_room(RoomVersionId::V12, RoomPreset::PrivateChat)).await.is_err());
        assert_eq!(store.visible_position().await?, position);

        let other = rooms(&store);
        Asked::by(&other, Ok(Some(json!({ "body": "bye", "msgtype": "m.text" }))));
        let room = other.get(&room_id).await?;
        let sent = other.send(&room, text(alice(), "hello")).await?;
        let event = store.events().find(&sent.event_id).await?.expect("it was sent");
        assert_eq!(event.pdu.content_as::<Value>(), Some(json!({ "body": "bye", "msgtype": "m.text" })));
        for kind in ["m.room.encrypted", "m.room.name"] {
            let is_state = kind == "m.room.name";
            let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "name": "Coffee" });
            let wish = Wish {
                kind: kind.into(),
                content: to_raw_value(&content).expect("JSON"),
                state_key: is_state.then(String::new),
                ..text(alice(), "")
            };
            let sent = other.send(&room, wish).await?;
            let event = store.events().find(&sent.event_id).await?.expect("it was sent");
            assert_eq!(event.pdu.content_as::<Value>(), Some(content), "{kind} holds other things");
        }
        Ok::<(), RoomError>(())
    })
    .await;
}
