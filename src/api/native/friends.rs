//! Friends: whom one has, and what one notes about them. `requests` is how they become so.

mod requests;
#[cfg(test)]
mod tests;

use model::{Address, Position};
use rooms::{Friend, Note};
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use users::applications::AppScope;
use users::native_name;
use utoipa::{IntoParams, ToSchema};

use super::{
    Answer, Call, Endpoint, Nothing, delete, get, patch,
    payload::given,
    tag::{Tagged, check_match},
};
use crate::Session;

/// How many friends or requests an answer holds where nothing is said, and at most.
const USUAL: usize = 50;
const MOST: usize = 200;

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    const ONE: &str = "/api/v1/friends/{user_id}";
    const LIST: &str = "\
        Those changed last come at the end. With `since`, which is the `version` of an earlier answer, only those of whom something \
        changed since, names and pictures included, and in `removed` who is no friend any more, or not yet. As long as `has_more` is \
        true, the next page is there already: ask with the new `version`.";
    const CHANGE: &str = "\
        What is left out stays. Nobody else is shown it. With `If-Match`, only what one has read is changed: otherwise 412 \
        `precondition_failed`.";
    const REMOVE: &str = "\
        From one's own list: the other one isn't told, and the conversation stays. With `mutual=true` one leaves the conversation \
        too, which ends the friendship on both sides, also where the other is of another server.";
    let friends = vec![
        get("/api/v1/friends", "One's friends, or what changed among them.", list)
            .explained(LIST)
            .open_to(AppScope::FriendsRead),
        get(ONE, "A friend.", one).open_to(AppScope::FriendsRead),
        patch(ONE, "Changes what one notes about a friend.", change).explained(CHANGE).open_to(AppScope::FriendsWrite),
        delete(ONE, "Removes a friend.", remove).explained(REMOVE).open_to(AppScope::FriendsWrite),
    ];
    [friends, requests::endpoints()].concat()
}

/// Which friends.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FriendsWanted {
    /// `version` of an earlier answer: only what changed since. Left out: all friends.
    #[serde(default)]
    since: Option<i64>,
    /// How many at most, 1 to 200; left out: 50.
    #[serde(default)]
    limit: Option<usize>,
}

/// One's friends, or some of them.
#[derive(Serialize, ToSchema)]
struct Friends {
    /// Those changed last at the end.
    friends: Vec<FriendView>,
    /// With `since`: of whom something changed, and who are no friends any more, or not yet.
    removed: Vec<Stranger>,
    /// What `since` is to be told of what comes later.
    version: i64,
    /// There is more already.
    has_more: bool,
}

/// Somebody who is no friend.
#[derive(Serialize, ToSchema)]
struct Stranger {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    address: Address,
}

/// A friend.
#[derive(Serialize, ToSchema)]
#[schema(as = Friend)]
struct FriendView {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    address: Address,
    /// The direct conversation of the two.
    #[schema(value_type = String)]
    conversation_id: OwnedRoomId,
    /// What the friend goes by, cut to 100 characters; null: nothing.
    display_name: Option<String>,
    /// The picture, an `mxc://` URI; null: none.
    avatar_url: Option<String>,
    /// What one calls the friend oneself; null: nothing else.
    remark: Option<String>,
    /// The groups that one puts the friend into.
    tags: Vec<String>,
    /// One has blocked the friend.
    blocked: bool,
}

impl From<Friend> for FriendView {
    fn from(friend: Friend) -> Self {
        let Friend { user_id, room_id, display_name, avatar_url, remark, tags, is_ignored, noted: _ } = friend;
        Self {
            address: user_id.clone().into(),
            user_id,
            conversation_id: room_id,
            display_name: display_name.map(|name| native_name(&name).to_owned()),
            avatar_url,
            remark,
            tags,
            blocked: is_ignored,
        }
    }
}

/// What one notes about a friend.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FriendNote)]
struct Change {
    /// What one calls the friend oneself, 100 characters at most; null: nothing.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    remark: Option<Option<String>>,
    /// The groups that one puts the friend into, 20 at most of 50 characters each.
    #[serde(default, alias = "groups")]
    tags: Option<Vec<String>>,
}

/// How a friend is removed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Removal {
    /// Leaves the conversation too, and so ends the friendship on both sides.
    #[serde(default)]
    mutual: bool,
}

async fn list(call: Call<Session, FriendsWanted>) -> Answer<Friends> {
    let FriendsWanted { since, limit } = call.query;
    let since = Position(since.unwrap_or_default().max(0));
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let page = call.services.rooms.friends(&call.caller.user_id, since, limit).await?;
    let stranger = |user_id: OwnedUserId| Stranger { address: user_id.clone().into(), user_id };
    Ok(Friends {
        friends: page.friends.into_iter().map(Into::into).collect(),
        removed: page.others.into_iter().map(stranger).collect(),
        version: page.version.0,
        has_more: page.has_more,
    })
}

async fn one(call: Call<Session>) -> Answer<Tagged<FriendView>> {
    let address: Address = call.argument("user_id")?;
    Ok(tagged(call.services.rooms.friend(&call.caller.user_id, address.user_id()).await?))
}

async fn change(call: Call<Session, Nothing, Change>) -> Answer<Tagged<FriendView>> {
    let address: Address = call.argument("user_id")?;
    let (rooms, user_id) = (&call.services.rooms, &call.caller.user_id);
    let known = rooms.friend(user_id, address.user_id()).await?;
    check_match(&call.headers, &tagged(known).tag)?;
    let Change { remark, tags } = call.body;
    Ok(tagged(rooms.note_friend(user_id, address.user_id(), Note { remark, tags }).await?))
}

async fn remove(call: Call<Session, Removal>) -> Answer<Nothing> {
    let address: Address = call.argument("user_id")?;
    call.services.rooms.remove_friend(&call.caller.user_id, address.user_id(), call.query.mutual).await?;
    Ok(Nothing)
}

/// Its tag is that of what can be changed here.
fn tagged(friend: Friend) -> Tagged<FriendView> {
    Tagged { tag: format!("\"{}\"", friend.noted.0), answer: friend.into() }
}
