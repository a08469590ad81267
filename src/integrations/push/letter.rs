//! Letters about what somebody has not read.

use std::fmt::Write as _;

use fabric::Letter;
use model::Millis;
use ruma::events::TimelineEventType;
use store::pushers::{self, PusherRow};
use sync::Notification;
use tracing::{info, warn};

use super::{PushError, Pushers, follow::millis, payload::Names};
use crate::now;

/// So many things are told in one letter, and no more wait.
const MOST: u32 = 100;
/// How much of a message is told.
const LONGEST: usize = 300;

/// One thing in a letter.
#[derive(Clone, Debug)]
struct Line {
    names: Names,
    said: String,
}

impl Pushers {
    /// Writes of everything that waits, what isn't due by itself too, as far as it isn't read.
    pub(super) async fn write_letter(&self, row: &PusherRow) -> Result<(), PushError> {
        let Some(mailer) = self.shared.users.mailer() else { return self.give_up_all(&row.key).await };
        let user_id = &row.key.user_id;
        let waiting = self.shared.store.pushers().queued(&row.key, Millis::MAX, MOST).await?;
        let mut lines = Vec::new();
        for nid in waiting.iter().filter_map(|queued| queued.event) {
            let judged = self.shared.sync.judge(user_id, nid).await?;
            let Some(notification) = judged.filter(|notification| !notification.is_read) else { continue };
            let names = self.names(user_id, &notification).await?;
            lines.push(Line { names, said: said(&notification, self.shared.config.include_content) });
        }
        let mut write = self.write()?;
        for queued in &waiting {
            pushers::dequeue(&mut write, &row.key, queued.position);
        }
        if !lines.is_empty() {
            let letter = self.letter(row, &lines);
            if let Err(error) = mailer.send(letter) {
                warn!(error = &error as &dyn std::error::Error, "a letter about what {user_id} has not read must wait");
                return self.put_off(&row.key, row.failures + 1).await;
            }
            info!(user.id = %user_id, events = lines.len(), "{user_id} is written of what they have not read");
            pushers::took(&mut write, &row.key, row.badge, now() + millis(self.shared.config.email_every));
        }
        self.shared.store.commit(write).await?;
        Ok(())
    }

    fn letter(&self, row: &PusherRow, lines: &[Line]) -> Letter {
        let us = row.key.user_id.server_name();
        let unsubscribe = self.link_of(row);
        let mut text = format!("You have not read this yet, as {}:\n", row.key.user_id);
        for of_room in lines.chunk_by(|one, other| one.names.room == other.names.room) {
            match &of_room[0].names.room {
                Some(room) => write!(text, "\nIn {}:\n", line(room)).expect("a text can be written to"),
                None => text.push('\n'),
            }
            for Line { names, said } in of_room {
                writeln!(text, "  {}: {said}", line(&names.sender)).expect("a text can be written to");
            }
        }
        match &unsubscribe {
            Some(url) => write!(text, "\nTo get no more letters like this one:\n{url}\n"),
            None => write!(text, "\nTo get no more letters like this one, switch them off in your client.\n"),
        }
        .expect("a text can be written to");
        Letter { to: row.key.pushkey.clone(), subject: subject(lines, us.as_str()), text, unsubscribe }
    }
}

fn subject(lines: &[Line], us: &str) -> String {
    let first = &lines[0].names;
    let is_one_room = lines.iter().all(|line| line.names.room == first.room);
    let is_one_sender = lines.iter().all(|line| line.names.sender == first.sender);
    let count = lines.len();
    let what = if count == 1 { "a message".to_owned() } else { format!("{count} messages") };
    match &first.room {
        Some(room) if is_one_room => format!("You have not read {what} in {}", line(room)),
        None if is_one_room && is_one_sender => format!("You have not read {what} from {}", line(&first.sender)),
        _ => format!("You have not read {what} at {us}"),
    }
}

/// What is told of an event.
fn said(notification: &Notification, include_content: bool) -> String {
    #[derive(serde::Deserialize)]
    struct Content {
        body: String,
    }
    let pdu = &notification.shown.event.pdu;
    match pdu.kind {
        TimelineEventType::RoomEncrypted => "an encrypted message".into(),
        TimelineEventType::RoomMember => "an invitation".into(),
        _ if !include_content => "a message".into(),
        _ => pdu.content_as::<Content>().map_or_else(|| "a message".into(), |content| line(&content.body)),
    }
}

/// A text of others as a part of one line.
fn line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() { format!("{line}…") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(room: Option<&str>, sender: &str) -> Line {
        Line { names: Names { room: room.map(str::to_owned), sender: sender.into() }, said: "hello".into() }
    }

    #[test]
    fn a_subject_says_where_if_it_is_one_place() {
        assert_eq!(
            subject(&[of(Some("Mission\r\nControl"), "Tom")], "a.test"),
            "You have not read a message in Mission  Control"
        );
        let both = [of(None, "Tom"), of(None, "Tom")];
        assert_eq!(subject(&both, "a.test"), "You have not read 2 messages from Tom");
        let mixed = [of(None, "Tom"), of(None, "Tim"), of(Some("Here"), "Tim")];
        assert_eq!(subject(&mixed, "a.test"), "You have not read 3 messages at a.test");
    }

    #[test]
    fn a_line_stays_one() {
        assert_eq!(line("a\nb"), "a b");
        assert_eq!(line(&"x".repeat(301)).chars().count(), 301);
    }
}
