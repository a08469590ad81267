//! What one is notified of.

use integrations::notifications::{About, Notification, NotificationKind, NotificationsWanted};
use model::{Address, Millis, Position};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use users::applications::AppScope;
use users::native_name;
use utoipa::{IntoParams, ToSchema};

use super::{Answer, Call, Endpoint, Nothing, get, post};
use crate::{Problem, Session};

/// How many an answer holds where nothing is said, and at most.
const USUAL: usize = 50;
const MOST: usize = 200;
/// Of what mentions somebody so many characters are shown.
const PREVIEW: usize = 200;

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    const LIST: &str = "\
        The latest first: broadcasts (`system`), friend requests, invitations and files that one is offered while they wait for an answer, and messages that \
        mention one. They aren't kept: each is what it is about.";
    const READ: &str = "\
        Once more does nothing. A broadcast that is read here is read among the broadcasts too; that a mention was seen here tells \
        nobody how far one has read in its conversation.";
    vec![
        get("/api/v1/notifications", "What one is notified of.", list)
            .explained(LIST)
            .open_to(AppScope::NotificationsRead),
        get("/api/v1/notifications/unread", "How much of it one has not read.", unread)
            .explained("The latest hundred that are unread are counted.")
            .open_to(AppScope::NotificationsRead),
        post("/api/v1/notifications/read", "One has read some of them, or all.", read)
            .explained(READ)
            .open_to(AppScope::NotificationsWrite),
        post("/api/v1/notifications/{id}/read", "One has read one of them.", read_one)
            .explained(READ)
            .open_to(AppScope::NotificationsWrite),
    ]
}

/// Which notifications.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only of this kind.
    #[serde(default)]
    #[param(inline)]
    kind: Option<KindWord>,
    /// Only what one has not read.
    #[serde(default)]
    unread: bool,
    /// `next` of the page before.
    #[serde(default)]
    from: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    #[serde(default)]
    limit: Option<usize>,
}

/// Of what kind a notification is.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NotificationKind)]
enum KindWord {
    /// A broadcast.
    System,
    /// Somebody asks for friendship.
    FriendRequest,
    /// One is invited into a conversation.
    Invitation,
    /// A message mentions one.
    Mention,
    /// One is offered a file.
    FileTransfer,
}

impl From<KindWord> for NotificationKind {
    fn from(word: KindWord) -> Self {
        match word {
            KindWord::System => Self::System,
            KindWord::FriendRequest => Self::FriendRequest,
            KindWord::Invitation => Self::Invitation,
            KindWord::Mention => Self::Mention,
            KindWord::FileTransfer => Self::FileTransfer,
        }
    }
}

/// Some of what one is notified of.
#[derive(Serialize, ToSchema)]
#[schema(as = Notifications)]
struct Page {
    /// The latest first.
    notifications: Vec<View>,
    /// There are more: `from` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Something that one is notified of.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = Notification)]
struct View {
    /// What it is called.
    id: String,
    /// `system`, `friend_request`, `invitation`, `mention` or `file_transfer`; others may come.
    kind: &'static str,
    /// One has read it.
    read: bool,
    /// When it happened, milliseconds since 1970.
    at: Millis,
    /// One line: a broadcast's title, the name of the conversation that one is invited into, or of the file that one is offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// What is said: a broadcast's text, what was said with a request or an invitation, the beginning of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Who asks, invites, or mentions one.
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<Sender>,
    /// The conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    conversation_id: Option<OwnedRoomId>,
    /// Of a mention: the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    message_id: Option<OwnedEventId>,
    /// Of a friend request: what it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<OwnedEventId>,
    /// Of a file that one is offered: what the offer is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    transfer_id: Option<OwnedEventId>,
    /// Of a broadcast: what it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    broadcast_id: Option<String>,
}

/// Who made a notification.
#[derive(Serialize, ToSchema)]
#[schema(as = NotificationSender)]
struct Sender {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    address: Address,
    /// The name, cut to 100 characters, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
}

impl Sender {
    fn new(user_id: OwnedUserId, name: Option<String>) -> Option<Self> {
        let display_name = name.map(|name| native_name(&name).to_owned());
        Some(Self { address: user_id.clone().into(), user_id, display_name })
    }
}

impl From<Notification> for View {
    fn from(notification: Notification) -> Self {
        let view = Self {
            id: notification.position.0.to_string(),
            kind: notification.kind().as_str(),
            read: notification.is_read,
            at: notification.at,
            ..Self::default()
        };
        match notification.about {
            About::Broadcast(broadcast) => {
                let row = broadcast.row;
                Self { title: Some(row.title), text: Some(row.body), broadcast_id: Some(row.id), ..view }
            }
            About::FriendRequest(request) => Self {
                text: request.message,
                sender: Sender::new(request.user_id, request.display_name),
                conversation_id: Some(request.room_id),
                request_id: Some(request.id),
                ..view
            },
            About::Invitation(invited) => Self {
                title: invited.room_name,
                text: invited.reason,
                sender: Sender::new(invited.sender, invited.sender_name),
                conversation_id: Some(invited.room_id),
                ..view
            },
            About::FileTransfer(transfer) => {
                let (title, text) = transfer.file.map(|file| (file.name, file.message)).unzip();
                Self {
                    title,
                    text: text.flatten(),
                    sender: Sender::new(transfer.sender, None),
                    conversation_id: Some(transfer.room_id),
                    transfer_id: Some(transfer.id),
                    ..view
                }
            }
            About::Mention { room_id, event } => {
                let body = event.pdu.content_as::<Value>().and_then(|content| content["body"].as_str().map(cut));
                Self {
                    text: body,
                    sender: Sender::new(event.pdu.sender.clone(), None),
                    conversation_id: Some(room_id),
                    message_id: Some(event.pdu.event_id.clone()),
                    ..view
                }
            }
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(PREVIEW).collect()
}

/// How much one has not read.
#[derive(Serialize, ToSchema)]
struct UnreadNotifications {
    /// All of it.
    total: usize,
    /// Broadcasts.
    system: usize,
    /// Friend requests.
    friend_request: usize,
    /// Invitations.
    invitation: usize,
    /// Messages that mention one.
    mention: usize,
    /// Files that one is offered.
    file_transfer: usize,
    /// There are more than were counted.
    limited: bool,
}

/// What one has read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NotificationsRead)]
struct Read {
    /// Those called so, 200 at most.
    #[serde(default)]
    ids: Vec<String>,
    /// Everything.
    #[serde(default)]
    all: bool,
    /// With `all`: everything up to the one called so.
    #[serde(default)]
    upto: Option<String>,
}

async fn list(call: Call<Session, Wanted>) -> Answer<Page> {
    let Wanted { kind, unread, from, limit } = call.query;
    let before = from.as_deref().map(|from| position(from, "from")).transpose()?;
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let wanted = NotificationsWanted { kind: kind.map(Into::into), is_unread: unread, before, limit };
    let page = call.services.announcements.notifications.page(&call.caller.user_id, wanted).await?;
    let notifications = page.notifications.into_iter().map(Into::into).collect();
    Ok(Page { notifications, next: page.next.map(|next| next.0.to_string()) })
}

async fn unread(call: Call<Session>) -> Answer<UnreadNotifications> {
    let unread = call.services.announcements.notifications.unread(&call.caller.user_id).await?;
    let of = |kind| unread.kinds.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count);
    Ok(UnreadNotifications {
        total: unread.kinds.iter().map(|(_, count)| count).sum(),
        system: of(NotificationKind::System),
        friend_request: of(NotificationKind::FriendRequest),
        invitation: of(NotificationKind::Invitation),
        mention: of(NotificationKind::Mention),
        file_transfer: of(NotificationKind::FileTransfer),
        limited: unread.is_limited,
    })
}

async fn read(call: Call<Session, Nothing, Read>) -> Answer<Nothing> {
    let Read { ids, all, upto } = call.body;
    let notifications = &call.services.announcements.notifications;
    if all != ids.is_empty() || (upto.is_some() && !all) {
        let detail = "name either some `ids`, or `all`, with or without `upto`";
        return Err(Problem::invalid(detail).with("field", "ids"));
    }
    if all {
        let upto = upto.as_deref().map(|upto| position(upto, "upto")).transpose()?;
        notifications.read_all(&call.caller.user_id, upto).await?;
        return Ok(Nothing);
    }
    let ids = ids.iter().map(|id| position(id, "ids")).collect::<Result<Vec<_>, _>>()?;
    notifications.read(&call.caller.user_id, &ids).await?;
    Ok(Nothing)
}

async fn read_one(call: Call<Session>) -> Answer<Nothing> {
    let id: String = call.argument("id")?;
    call.services.announcements.notifications.read(&call.caller.user_id, &[position(&id, "id")?]).await?;
    Ok(Nothing)
}

fn position(text: &str, field: &str) -> Result<Position, Problem> {
    let wrong = |_| Problem::invalid(format!("`{field}`: no notification is called `{text}`")).with("field", field);
    text.parse().map(Position).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::testing::with_server;

    const NOTIFICATIONS: &str = "/api/v1/notifications";

    #[tokio::test]
    async fn everything_that_waits_is_listed_counted_and_marked() {
        with_server(async |server| {
            let (alice, _) = server.register("alice").await;
            let (bob, _) = server.register("bob").await;
            let (alice, bob) = (Some(alice.as_str()), Some(bob.as_str()));
            let say = async |room: &str, id: &str, mentioned: &[&str]| {
                let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{id}");
                let content = json!({ "msgtype": "m.text", "body": id, "m.mentions": { "user_ids": mentioned } });
                assert_eq!(server.ask(Method::PUT, &path, bob, content.to_string()).await.0, StatusCode::OK);
            };
            let public = json!({ "preset": "public_chat" });
            let room = server.post("/_matrix/client/v3/createRoom", bob, public).await["room_id"].clone();
            let room = room.as_str().expect("it is told");
            server.post(&format!("/_matrix/client/v3/rooms/{room}/join"), alice, json!({})).await;
            say(room, "one", &["@alice:a.test"]).await;
            say(room, "two", &[]).await;
            let invite = json!({ "name": "Tea", "invite": ["@alice:a.test"] });
            server.post("/_matrix/client/v3/createRoom", bob, invite).await;
            server.post("/api/v1/friends/requests", bob, json!({ "to": "alice@a.test", "message": "hello" })).await;
            say(room, "three", &["@alice:a.test"]).await;

            let list = async |query: &str| {
                let page = server.get(&format!("{NOTIFICATIONS}?{query}"), alice).await;
                let list = page["notifications"].as_array().cloned().unwrap_or_default();
                let next = page["next"].as_str().map(str::to_owned);
                (list, next)
            };
            let words = |list: &[Value]| -> Vec<String> {
                let word = |one: &Value| format!("{}:{}", one["kind"].as_str().unwrap_or(""), one["text"]);
                list.iter().map(word).collect()
            };
            let all = [r#"mention:"three""#, r#"friend_request:"hello""#, "invitation:null", r#"mention:"one""#];
            let (found, next) = list("").await;
            assert_eq!((words(&found), next), (all.map(str::to_owned).to_vec(), None), "{found:?}");
            assert_eq!((&found[2]["title"], &found[2]["sender"]["display_name"]), (&json!("Tea"), &json!("bob")));
            assert!(found.iter().all(|one| one["read"] == false && one["sender"]["address"] == "bob@a.test"));
            let (mut paged, mut next) = list("limit=1").await;
            while let Some(from) = next {
                let (more, then) = list(&format!("limit=1&from={from}")).await;
                paged.extend(more);
                next = then;
            }
            assert_eq!(paged, found);
            assert_eq!(words(&list("kind=mention").await.0), [all[0], all[3]]);

            let mark = async |body: Value| {
                server.ask(Method::POST, &format!("{NOTIFICATIONS}/read"), alice, body.to_string()).await.0.as_u16()
            };
            let unread = async || server.get(&format!("{NOTIFICATIONS}/unread"), alice).await;
            let expected = json!({ "total": 4, "system": 0, "friend_request": 1, "invitation": 1, "mention": 2, "file_transfer": 0, "limited": false });
            assert_eq!(unread().await, expected);
            let path = format!("{NOTIFICATIONS}/{}/read", found[1]["id"].as_str().expect("an id"));
            assert_eq!(server.ask(Method::POST, &path, alice, "").await.0, StatusCode::NO_CONTENT);
            assert_eq!(mark(json!({ "ids": [found[0]["id"], found[1]["id"]] })).await, 204);
            assert_eq!(unread().await["total"], 2);
            assert_eq!(words(&list("unread=true").await.0), [all[2], all[3]]);
            assert_eq!(mark(json!({ "all": true, "upto": found[3]["id"] })).await, 204);
            assert_eq!(words(&list("unread=true&limit=1").await.0), [all[2]]);
            assert_eq!(mark(json!({ "all": true })).await, 204);
            assert_eq!(unread().await["total"], 0);
            assert_eq!(list("unread=true").await, (Vec::new(), None));
            for wrong in [json!({}), json!({ "all": true, "ids": ["1"] }), json!({ "ids": ["x"] }), json!({ "upto": "1" })] {
                assert_eq!(mark(wrong.clone()).await, 400, "{wrong}");
            }
            assert_eq!(mark(json!({ "ids": ["999999999"] })).await, 404);
            // What has been answered is no news any more.
            let id = found[1]["request_id"].as_str().expect("an id");
            server.post(&format!("/api/v1/friends/requests/{id}/accept"), alice, json!({})).await;
            assert!(!words(&list("").await.0).contains(&all[1].to_owned()));
        })
        .await;
    }
}
