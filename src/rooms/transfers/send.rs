//! Sends the files that were accepted, in the name of who offered them.

use std::time::Duration;

use model::{Millis, Refusal as _};
use serde_json::{Value, json};
use store::{
    Write,
    media::ContentRow,
    transfers::{TransferRow, fail, put_off},
};
use tracing::{info, warn};

use super::{OfferedFile, TRANSFER, marker::offered};
use crate::{RoomError, Rooms, Transaction, millis, now, scheduled::is_passing};

/// So many are sent at once.
const AT_ONCE: i64 = 50;
/// The pause after one couldn't be sent, and for how long that is tried.
const PAUSE: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_hours(24);
/// What sends them, in place of a device.
const DEVICE: &str = "org.comity.transfers";

impl Rooms {
    /// Sends what was accepted. Whether there is more.
    pub(crate) async fn send_accepted(&self) -> Result<bool, RoomError> {
        let store = &self.shared.store;
        let due = store.transfers().due(now(), AT_ONCE).await?;
        for row in &due {
            let mut write = Write::new();
            match self.send_file(row).await {
                // That it is sent is noted with the message, after which there is nothing to put off.
                Ok(true) => put_off(&mut write, row.event, now() + millis(PAUSE)),
                Ok(false) => {
                    info!(room.id = %row.room_id, user.id = %row.sender, "a file that was accepted is gone");
                    fail(&mut write, row.event);
                }
                Err(error) if is_passing(error.kind()) && is_fresh(row) => {
                    put_off(&mut write, row.event, now() + millis(PAUSE));
                }
                Err(error) => {
                    warn!(room.id = %row.room_id, user.id = %row.sender, "a file that was accepted could not be sent: {error}");
                    fail(&mut write, row.event);
                }
            }
            store.commit(write).await?;
        }
        Ok(due.len() as i64 == AT_ONCE)
    }

    /// Whether there was something to send: the offer may have been recalled, the file removed.
    async fn send_file(&self, row: &TransferRow) -> Result<bool, RoomError> {
        let event = self.event(row.event).await?;
        let Some(file) = offered(&event.pdu) else { return Ok(false) };
        let media = self.shared.store.media();
        let Some((id, content)) = media.uploaded_as(self.server_name(), &row.sender, &file.sha256).await? else {
            return Ok(false);
        };
        let url = format!("mxc://{}/{id}", self.server_name());
        let offer = &event.pdu.event_id;
        // Sent once, also when this node ends before that is noted, or another takes over.
        let transaction = Transaction {
            user_id: row.sender.clone(),
            device_id: DEVICE.into(),
            scope: format!("transfer {}", row.room_id),
            transaction_id: offer.to_string(),
        };
        let content = message(&url, &file, &content, offer.as_str());
        let room = self.get(&row.room_id).await?;
        self.tell_transfer(&room, &row.sender, "m.room.message", &content, Some(transaction)).await?;
        Ok(true)
    }
}

fn is_fresh(row: &TransferRow) -> bool {
    let accepted_at: Millis = row.answered_at.unwrap_or_default();
    now() < accepted_at.saturating_add(millis(PATIENCE))
}

/// The message with the file, as clients make such ones.
fn message(url: &str, file: &OfferedFile, content: &ContentRow, offer: &str) -> Value {
    let family = content.content_type.split('/').next().unwrap_or_default();
    let msgtype = match family {
        "image" => "m.image",
        "video" => "m.video",
        "audio" => "m.audio",
        _ => "m.file",
    };
    json!({
        "msgtype": msgtype,
        "body": file.name,
        "filename": file.name,
        "url": url,
        "info": { "size": content.size, "mimetype": content.content_type },
        "m.relates_to": { "rel_type": "m.reference", "event_id": offer },
        TRANSFER: offer,
    })
}
