//! What the client says, and who does it.

use axum::extract::ws::{Message, Utf8Bytes};
use http::StatusCode;
use metrics::counter;
use ruma::OwnedUserId;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    super::{
        close::Closing,
        command::{Act, Command, Heard, Presence, read},
        frame::{Frame, now},
        line::broken,
    },
    ACT, Socket,
};
use crate::Problem;

impl Socket<'_> {
    pub(super) async fn hear(&mut self, heard: Option<Result<Message, axum::Error>>) -> Result<(), Closing> {
        self.is_heard = true;
        let text = match heard {
            None => return Err(Closing::Gone),
            Some(Err(error)) => return Err(broken(error)),
            Some(Ok(Message::Text(text))) => text,
            // Pings are answered by the protocol itself, but only when something is written.
            Some(Ok(Message::Ping(_) | Message::Close(_))) => return self.line.flush().await,
            Some(Ok(Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Binary(_))) => {
                let detail = "frames are text: JSON objects";
                let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", detail);
                return self.answer(Frame::error(&problem, None)).await;
            }
        };
        if let Err(early) = self.pace.take() {
            if self.pace.is_ignored() {
                return Err(Closing::TooMuch);
            }
            let wait = u64::try_from(early.as_millis()).unwrap_or(u64::MAX).max(1);
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many frames");
            return self.answer(Frame::error(&problem.with("retry_after_ms", wait), None)).await;
        }
        self.obey(&text).await
    }

    async fn obey(&mut self, text: &Utf8Bytes) -> Result<(), Closing> {
        let Heard { command, id } = match read(text) {
            Ok(said) => said,
            Err(frame) => return self.answer(frame).await,
        };
        count_in(&command);
        match command {
            Command::Ack(upto) => {
                self.acknowledge(upto.position);
                Ok(())
            }
            Command::Ping => {
                let position = self.feed.position().to_string();
                self.answer(Frame::answer("pong", json!({ "id": id, "position": position, "server_time": now() })))
                    .await
            }
            Command::Presence(presence) => Box::pin(self.follow(presence, id)).await,
            Command::Act(act) => {
                let doing = act.perform(id.clone(), self.session.clone(), self.services.clone());
                self.acting = Some(Box::pin(async move {
                    timeout(ACT, doing).await.unwrap_or_else(|_| {
                        let detail = "it took too long; it may have been done all the same";
                        Some(Frame::error(&Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail), id))
                    })
                }));
                Ok(())
            }
        }
    }

    async fn follow(&mut self, presence: Presence, id: Option<Value>) -> Result<(), Closing> {
        let ids = |addresses: Vec<model::Address>| -> Vec<OwnedUserId> {
            addresses.into_iter().map(model::Address::into_user_id).collect()
        };
        let (wanted, unwanted) = (ids(presence.subscribe), ids(presence.unsubscribe));
        self.feed.unfollow(&unwanted);
        let now = match self.feed.follow(&wanted).await {
            Ok(now) => now,
            Err(error) => return self.answer(Frame::error(&error.into(), id)).await,
        };
        let followed: Vec<&OwnedUserId> = now.iter().map(|presence| &presence.user_id).collect();
        let refused: Vec<&OwnedUserId> = wanted.iter().filter(|user_id| !followed.contains(user_id)).collect();
        let answer = json!({ "id": id, "user_ids": followed, "refused": refused });
        self.line.send(Frame::answer("subscribed", answer)).await?;
        for presence in &now {
            self.line.send(Frame::presence(presence)).await?;
        }
        self.line.flush().await
    }

    async fn answer(&mut self, frame: Frame) -> Result<(), Closing> {
        self.line.send(frame).await?;
        self.line.flush().await
    }
}

fn count_in(command: &Command) {
    let kind = match command {
        Command::Ack(_) => "ack",
        Command::Ping => "ping",
        Command::Presence(_) => "presence",
        Command::Act(Act::Send(_)) => "send",
        Command::Act(Act::Typing(_)) => "typing",
        Command::Act(Act::Read(_)) => "read",
    };
    counter!("comity_realtime_frames_total", "direction" => "in", "type" => kind).increment(1);
}
