//! Who has read how far.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use ruma::{
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType as Kind},
    },
    events::receipt::{ReceiptThread, ReceiptType},
};
use sync::Read;

use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(receipt), endpoint(read_markers)]
}

async fn receipt(ask: Ask<create_receipt::v3::Request>) -> Answer<create_receipt::v3::Response> {
    let request = ask.request;
    let room = ask.services.rooms.get(&request.room_id).await?;
    ask.services.rooms.check_joined(&room, &ask.session.user_id).await?;
    let kind = match request.receipt_type {
        Kind::Read => Some(ReceiptType::Read),
        Kind::ReadPrivate => Some(ReceiptType::ReadPrivate),
        Kind::FullyRead if request.thread != ReceiptThread::Unthreaded => {
            return Err(Error::invalid_param("thread_id: m.fully_read has no threads"));
        }
        Kind::FullyRead => None,
        other => return Err(Error::invalid_param(format!("receiptType: {other} is not a type of receipt"))),
    };
    let read = Read { kind, thread: request.thread, event_id: request.event_id };
    ask.services.sync.set_read(&room, &ask.session.user_id, &[read]).await?;
    Ok(create_receipt::v3::Response::new())
}

async fn read_markers(ask: Ask<set_read_marker::v3::Request>) -> Answer<set_read_marker::v3::Response> {
    let request = ask.request;
    let room = ask.services.rooms.get(&request.room_id).await?;
    ask.services.rooms.check_joined(&room, &ask.session.user_id).await?;
    let read: Vec<Read> = [
        (None, request.fully_read),
        (Some(ReceiptType::Read), request.read_receipt),
        (Some(ReceiptType::ReadPrivate), request.private_read_receipt),
    ]
    .into_iter()
    .filter_map(|(kind, event_id)| Some(Read { kind, thread: ReceiptThread::Unthreaded, event_id: event_id? }))
    .collect();
    ask.services.sync.set_read(&room, &ask.session.user_id, &read).await?;
    Ok(set_read_marker::v3::Response::new())
}
