//! Places, and who is told to leave them.

use ruma::user_id;

use super::{
    super::connection::{Ending, Word},
    *,
};

const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn connections(most: usize, most_of_user: usize) -> Connections {
    Connections::new(ConnectionsConfig { most, most_of_user }, CancellationToken::new())
}

async fn word_to(connection: &Connection) -> Option<Word> {
    tokio::time::timeout(Duration::from_millis(20), connection.told()).await.ok()
}

#[tokio::test]
async fn there_are_so_many_places_for_all_and_for_each() {
    let connections = connections(3, 2);
    let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
    let enter = |user_id: &UserId, device: &str| connections.enter(user_id, device, "test", HOME);
    let _phone = enter(alice, "PHONE").expect("there is a place");
    let laptop = enter(alice, "LAPTOP").expect("there is a place");
    assert_eq!(enter(alice, "TABLET").err(), Some(Crowded::User(2)));
    let _bob = enter(bob, "PHONE").expect("there is a place");
    assert_eq!(enter(user_id!("@carol:a.test"), "PHONE").err(), Some(Crowded::Server));

    // The same device connects again: its old connection, which may be dead, makes way.
    let again = enter(alice, "LAPTOP").expect("it is the same device");
    assert_eq!(word_to(&laptop).await, Some(Word::End(Ending::Superseded)));
    assert_eq!(connections.count(), 3);
    drop(laptop);
    assert_eq!(connections.count(), 3, "its place was given on already");
    drop(again);
    assert_eq!(connections.count(), 2);
    enter(alice, "TABLET").expect("there is a place again");
}

#[tokio::test]
async fn who_is_to_end_or_to_check_is_told_and_nobody_else_is() {
    let connections = connections(9, 9);
    let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
    let enter =
        |user_id: &UserId, device: &str| connections.enter(user_id, device, "test", HOME).expect("there is a place");
    let (phone, laptop, other) = (enter(alice, "PHONE"), enter(alice, "LAPTOP"), enter(bob, "PHONE"));
    connections.check(Some(alice));
    assert_eq!(word_to(&phone).await, Some(Word::Check));
    assert_eq!(word_to(&laptop).await, Some(Word::Check));
    assert_eq!(word_to(&other).await, None);
    assert_eq!(word_to(&phone).await, None, "it is told once");
    assert_eq!(connections.disconnect(alice, Some("PHONE")), 1);
    assert_eq!(word_to(&phone).await, Some(Word::End(Ending::Forced)));
    assert_eq!(word_to(&laptop).await, None);
    connections.shared.ending.cancel();
    assert_eq!(word_to(&laptop).await, Some(Word::End(Ending::GoingAway)));
    drop((phone, laptop, other));
    tokio::time::timeout(Duration::from_secs(5), connections.ended(Duration::from_secs(9))).await.expect("all left");
}

#[tokio::test]
async fn it_stands_in_the_cache_which_device_is_connected_where() {
    let connections = connections(9, 9);
    let cache = Cache::in_process();
    connections.say_in(cache.clone(), "n1".into());
    let alice = user_id!("@alice:a.test");
    let enter = |device: &str| connections.enter(alice, device, "test", HOME).expect("there is a place");
    let (phone, again, laptop) = (enter("PHONE"), enter("PHONE"), enter("LAPTOP"));
    for connection in [&phone, &again, &laptop] {
        connection.say().await;
    }
    let said = async || cache.fields(&Key::sessions(alice)).await.expect("it is in memory");
    let pair = |device: &str| (device.to_owned(), "n1".to_owned());
    assert_eq!(said().await, [pair("LAPTOP"), pair("PHONE")]);
    phone.leave().await;
    assert_eq!(said().await, [pair("LAPTOP"), pair("PHONE")], "it has another");
    again.leave().await;
    assert_eq!(said().await, [pair("LAPTOP")]);
}
