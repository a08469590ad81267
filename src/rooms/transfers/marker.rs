//! Which events offer files, answer that, or hold the files; written down as they come.

use model::{Millis, Pdu, TimelineEvent};
use ruma::{EventId, OwnedEventId, OwnedUserId, ServerName, events::TimelineEventType};
use serde::Deserialize;
use store::{Arg, Write, transfers as rows};

use super::{OfferedFile, TransferAnswer};

/// In the content of a message: it offers a file. An object: `to`, `name`, `size`, `mimetype`, `sha256` in hex, `expires_at` in
/// milliseconds since 1970, and `message`, which may be left out. In the content of the message that has the file then: the offer's id, a
/// text.
pub const TRANSFER: &str = "org.comity.transfer";
/// The type of an event that answers an offer, to which it is an `m.reference`; `answer` is `accepted`, `refused` or `withdrawn`.
pub const TRANSFER_ANSWER: &str = "org.comity.transfer.answer";
/// What one reacts with to say yes or no, in clients that don't know of this.
pub(super) const YES: &str = "\u{2705}";
pub(super) const NO: &str = "\u{274c}";

/// What is longer is cut.
const LONGEST_NAME: usize = 255;
pub(super) const LONGEST_MESSAGE: usize = 500;

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "org.comity.transfer")]
    transfer: Marker,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Marker {
    Offer(Offer),
    Sent(OwnedEventId),
}

#[derive(Deserialize)]
struct Offer {
    to: OwnedUserId,
    name: String,
    size: u64,
    #[serde(default)]
    mimetype: Option<String>,
    sha256: String,
    expires_at: Millis,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Answering {
    #[serde(default)]
    answer: Option<Answered>,
    #[serde(rename = "m.relates_to")]
    relates_to: RelatesTo,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answered {
    Accepted,
    Refused,
    Withdrawn,
}

#[derive(Deserialize)]
struct RelatesTo {
    rel_type: String,
    event_id: OwnedEventId,
    #[serde(default)]
    key: Option<String>,
}

fn marker_of(pdu: &Pdu) -> Option<Marker> {
    // Few messages have it, and this is on the way of all: only those are parsed.
    let may_have = pdu.kind == TimelineEventType::RoomMessage && pdu.state_key.is_none() && pdu.json.contains(TRANSFER);
    may_have.then(|| pdu.content_as::<Content>()).flatten().map(|content| content.transfer)
}

/// What an event offers.
pub(super) fn offered(pdu: &Pdu) -> Option<OfferedFile> {
    let Some(Marker::Offer(offer)) = marker_of(pdu) else { return None };
    let cut = |text: &str, most: usize| text.chars().filter(|c| !c.is_control()).take(most).collect::<String>();
    Some(OfferedFile {
        name: cut(&offer.name, LONGEST_NAME),
        size: offer.size,
        content_type: cut(offer.mimetype.as_deref().unwrap_or("application/octet-stream"), LONGEST_NAME),
        sha256: cut(&offer.sha256, 64),
        message: offer.message.map(|text| cut(&text, LONGEST_MESSAGE)).filter(|text| !text.is_empty()),
    })
}

/// Which offer an event answers, and how.
fn answered(pdu: &Pdu) -> Option<(OwnedEventId, TransferAnswer)> {
    let is_reaction = pdu.kind == TimelineEventType::Reaction && (pdu.json.contains(YES) || pdu.json.contains(NO));
    let is_answer = pdu.kind == TimelineEventType::from(TRANSFER_ANSWER);
    if pdu.state_key.is_some() || !(is_reaction || is_answer) {
        return None;
    }
    let Answering { answer, relates_to } = pdu.content_as()?;
    let answer = match (answer, relates_to.key.as_deref()) {
        (Some(answer), _) if is_answer && relates_to.rel_type == "m.reference" => match answer {
            Answered::Accepted => TransferAnswer::Accept,
            Answered::Refused => TransferAnswer::Refuse,
            Answered::Withdrawn => TransferAnswer::Withdraw,
        },
        (_, Some(YES)) if is_reaction => TransferAnswer::Accept,
        (_, Some(NO)) if is_reaction => TransferAnswer::Refuse,
        _ => return None,
    };
    Some((relates_to.event_id, answer))
}

/// If the event has to do with the offer of a file, notes that. `position`: of the event.
///
/// What people are not shown for want of trust in its sender offers nobody anything.
pub(crate) fn note_transfer(write: &mut Write, us: &ServerName, event: &TimelineEvent, position: &Arg) {
    if event.withheld_below.is_some() || event.soft_failed {
        return;
    }
    let pdu = &event.pdu;
    match marker_of(pdu) {
        Some(Marker::Offer(offer)) => {
            let is_for_us = [&*offer.to, &*pdu.sender].iter().any(|user_id| user_id.server_name() == us);
            if is_for_us && offer.to != pdu.sender {
                rows::insert(write, us, event, &offer.to, offer.expires_at, position.clone());
            }
        }
        Some(Marker::Sent(offer)) => rows::sent(write, &offer, event),
        None => note_answer(write, event),
    }
}

fn note_answer(write: &mut Write, event: &TimelineEvent) {
    let Some((offer, answer)) = answered(&event.pdu) else { return };
    let offer: &EventId = &offer;
    match answer {
        TransferAnswer::Accept => rows::answer(write, offer, event, true),
        TransferAnswer::Refuse => rows::answer(write, offer, event, false),
        TransferAnswer::Withdraw => rows::withdraw(write, offer, event),
    }
}
