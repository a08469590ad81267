//! Files that somebody offers somebody, `/api/v1/files/transfers`: the other one hears what it is, and gets it after saying yes.

use std::time::Duration;

use http::StatusCode;
use media::{Mxc, Reach};
use model::{Address, Millis, Position};
use rooms::{FriendDirection, NewTransfer, OfferedFile, Transfer, TransferAnswer};
use ruma::{MxcUri, OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::refuse;
use crate::{
    Problem, Session,
    native::{
        Answer, Call, Created, Endpoint, Nothing,
        conversations::{check_known, transaction},
        delete, get,
        message::Person,
        post,
    },
};

/// How many an answer holds where nothing is said, and at most.
const USUAL: usize = 50;
const MOST: usize = 200;
/// How long an offer stands where nothing is said.
const USUAL_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    const TRANSFERS: &str = "/api/v1/files/transfers";
    const ONE: &str = "/api/v1/files/transfers/{id}";
    const OFFER: &str = "\
        A file that the caller has uploaded, to somebody of this server or another with whom the caller shares a direct conversation: 409 \
        `not_joined_yet` before the other one has joined it. The offer is a message there with the file's name, size, type and hash, and \
        without its `mxc_uri`; once it is accepted, the server of who offers says the message with the file. Not where conversations are \
        encrypted: 403 `encrypted_conversation`. The same `msg_id` of the same device gives the same offer again.";
    const LIST: &str = "\
        Those that wait for an answer, or, with `state=all`, all of them; the latest first. What people whom one has blocked offer is left \
        out.";
    const ACCEPT: &str = "\
        The file comes as a message, at once or when the other server is there again: its id is `message_id` then. 409 `transfer_closed` \
        where the offer has been answered otherwise, taken back, or is too old. Once more does nothing.";
    const CLOSED: &str = "409 `transfer_closed` where it has been answered otherwise, or the file is on its way. Once more does nothing.";
    vec![
        post(TRANSFERS, "Offers somebody a file.", offer).explained(OFFER),
        get(TRANSFERS, "Files that one offers, or is offered.", list).explained(LIST),
        get(ONE, "An offer of a file, and what became of it.", one),
        delete(ONE, "Takes back an offer that one has made.", withdraw).explained(CLOSED),
        post("/api/v1/files/transfers/{id}/accept", "Says yes to an offer.", accept).explained(ACCEPT),
        post("/api/v1/files/transfers/{id}/refuse", "Says no to an offer.", decline).explained(CLOSED),
    ]
}

/// What one offers, and to whom.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewFileTransfer {
    /// `bob@b.example` or `@bob:b.example`.
    #[schema(value_type = String)]
    to: Address,
    /// The file, which the caller has uploaded: `mxc://a.example/AbC`.
    #[serde(alias = "mxcUri")]
    mxc_uri: String,
    /// What one says with it, 500 characters at most.
    #[serde(default)]
    message: Option<String>,
    /// How long the offer stands, milliseconds, from a minute to 30 days; left out: 7 days.
    #[serde(default, alias = "expiresInMs")]
    expires_in_ms: Option<u64>,
    /// The client's own id of the offer, unique on its device: 1 to 255 bytes.
    #[serde(default, alias = "msgId")]
    msg_id: Option<String>,
}

/// Which offers.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TransfersWanted {
    /// `in`: those that one got; `out`: those that one made. Left out: both.
    #[serde(default)]
    #[param(inline)]
    direction: Option<Side>,
    /// `pending`: those that wait for an answer; `all`: whatever became of them. Left out: `pending`.
    #[serde(default)]
    #[param(inline)]
    state: StatesWanted,
    /// `next` of the page before.
    #[serde(default)]
    from: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    #[serde(default)]
    limit: Option<usize>,
}

/// Who offers.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FileTransferDirection)]
enum Side {
    /// The other one.
    In,
    /// Oneself.
    Out,
}

/// Which states.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FileTransferStates)]
enum StatesWanted {
    /// Those that wait for an answer.
    #[default]
    Pending,
    /// All.
    All,
}

/// Some of the offers.
#[derive(Serialize, ToSchema)]
#[schema(as = FileTransfers)]
struct TransferList {
    /// The latest first.
    transfers: Vec<TransferView>,
    /// There are more: `from` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A file that somebody offers somebody.
#[derive(Serialize, ToSchema)]
#[schema(as = FileTransfer)]
struct TransferView {
    /// What it is called, the same on both sides: the id of the message that offers it.
    #[schema(value_type = String)]
    id: OwnedEventId,
    /// The conversation of the two.
    #[schema(value_type = String)]
    conversation_id: OwnedRoomId,
    /// Who offers, as the caller sees it.
    #[schema(inline)]
    direction: Side,
    /// Who offers.
    sender: Person,
    /// To whom.
    receiver: Person,
    /// What the file is called; null, as the rest of what is known of it: the offer was recalled.
    name: Option<String>,
    /// How many bytes it has.
    size: Option<u64>,
    /// What it is said to be.
    content_type: Option<String>,
    /// The hash of its bytes, in hex.
    sha256: Option<String>,
    /// What was said with it.
    message: Option<String>,
    /// `pending`, `accepted`, `refused`, `withdrawn`, `expired`, or `failed`: it was accepted, and the file was gone.
    state: &'static str,
    /// When it was offered, milliseconds since 1970.
    offered_at: Millis,
    /// Until when it can be accepted.
    expires_at: Millis,
    /// When it was answered or taken back; null: it was not.
    answered_at: Option<Millis>,
    /// The message that has the file; null: there is none yet.
    #[schema(value_type = Option<String>)]
    message_id: Option<OwnedEventId>,
}

impl TransferView {
    fn of(transfer: Transfer, session: &Session) -> Self {
        let is_own = transfer.sender == session.user_id;
        let (sender, receiver) = (Person::from(&*transfer.sender), Person::from(&*transfer.receiver));
        let (name, size, content_type, sha256, message) = match transfer.file {
            Some(file) => (Some(file.name), Some(file.size), Some(file.content_type), Some(file.sha256), file.message),
            None => (None, None, None, None, None),
        };
        Self {
            id: transfer.id,
            conversation_id: transfer.room_id,
            direction: if is_own { Side::Out } else { Side::In },
            sender,
            receiver,
            name,
            size,
            content_type,
            sha256,
            message,
            state: transfer.state.as_str(),
            offered_at: transfer.offered_at,
            expires_at: transfer.expires_at,
            answered_at: transfer.answered_at,
            message_id: transfer.message_id,
        }
    }
}

async fn offer(call: Call<Session, Nothing, NewFileTransfer>) -> Answer<Created<TransferView>> {
    let Call { caller, body, services, .. } = call;
    services.limits.check_send(&caller.user_id).await?;
    let NewFileTransfer { to, mxc_uri, message, expires_in_ms, msg_id } = body;
    let file = own_file(&services.media, &caller, &mxc_uri, message).await?;
    let receiver = to.into_user_id();
    check_known(&services, std::slice::from_ref(&receiver)).await?;
    let room_id = services.sync.common_direct_room(&caller.user_id, &receiver).await?;
    let room_id = room_id.ok_or_else(|| rooms::TransferError::NotJoined(receiver.clone()))?;
    let room = services.rooms.get(&room_id).await?;
    let scope = format!("send {room_id}");
    let new = NewTransfer {
        sender: caller.user_id.clone(),
        receiver,
        file,
        lifetime: expires_in_ms.map_or(USUAL_LIFETIME, Duration::from_millis),
        transaction: msg_id.map(|id| transaction(&caller, &scope, &id)).transpose()?,
    };
    let transfer = services.rooms.offer_file(&room, new).await?;
    Ok(Created(TransferView::of(transfer, &caller)))
}

/// What is known of a file that the caller has uploaded.
async fn own_file(
    media: &media::Media,
    session: &Session,
    mxc_uri: &str,
    message: Option<String>,
) -> Result<OfferedFile, Problem> {
    let wrong = || Problem::invalid("`mxc_uri` is no mxc:// URI").with("field", "mxc_uri");
    let (server, id) = <&MxcUri>::from(mxc_uri).parts().map_err(|_| wrong())?;
    let mxc = Mxc::new(server.to_owned(), id);
    let is_own = server == media.server_name()
        && media.uploader(&mxc).await.map_err(refuse)?.is_some_and(|uploader| uploader == session.user_id);
    if !is_own {
        let detail = "only files that you have uploaded here can be offered";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", detail).with("field", "mxc_uri"));
    }
    let item = media.find(&mxc, Reach::Ours, Duration::ZERO).await.map_err(refuse)?;
    let name = item.file_name.unwrap_or_else(|| "file".to_owned());
    Ok(OfferedFile { name, size: item.size, content_type: item.content_type, sha256: item.tag, message })
}

async fn list(call: Call<Session, TransfersWanted>) -> Answer<TransferList> {
    let TransfersWanted { direction, state, from, limit } = call.query;
    let before = match from.as_deref().map(str::parse).transpose() {
        Ok(before) => before.map(Position),
        Err(_) => return Err(Problem::invalid("`from` is the `next` of another page").with("field", "from")),
    };
    let direction = match direction {
        Some(Side::In) => FriendDirection::In,
        Some(Side::Out) => FriendDirection::Out,
        None => FriendDirection::Both,
    };
    let is_open = matches!(state, StatesWanted::Pending);
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let page = call.services.rooms.transfers(&call.caller.user_id, direction, is_open, before, limit).await?;
    let transfers = page.transfers.into_iter().map(|transfer| TransferView::of(transfer, &call.caller)).collect();
    Ok(TransferList { transfers, next: page.next.map(|position| position.0.to_string()) })
}

async fn one(call: Call<Session>) -> Answer<TransferView> {
    let id: OwnedEventId = call.argument("id")?;
    let transfer = call.services.rooms.find_transfer(&call.caller.user_id, &id).await?;
    Ok(TransferView::of(transfer, &call.caller))
}

async fn withdraw(call: Call<Session>) -> Answer<TransferView> {
    answered(call, TransferAnswer::Withdraw).await
}

async fn accept(call: Call<Session>) -> Answer<TransferView> {
    answered(call, TransferAnswer::Accept).await
}

async fn decline(call: Call<Session>) -> Answer<TransferView> {
    answered(call, TransferAnswer::Refuse).await
}

async fn answered(call: Call<Session>, answer: TransferAnswer) -> Answer<TransferView> {
    let id: OwnedEventId = call.argument("id")?;
    call.services.limits.check_send(&call.caller.user_id).await?;
    let transfer = call.services.rooms.answer_transfer(&call.caller.user_id, &id, answer).await?;
    Ok(TransferView::of(transfer, &call.caller))
}
