//! The connection itself: written to with patience, and closed with a word.

use std::{future::Future, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use futures_util::SinkExt as _;
use metrics::counter;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;

use super::{close::Closing, frame::Frame};

/// How long the client has to answer that it was closed.
const GOODBYE: Duration = Duration::from_secs(2);

/// The connection itself. Whoever writes waits until the client has taken what was written before, and not for ever.
pub(super) struct Line {
    pub(super) web: WebSocket,
    pub(super) stall: Duration,
}

impl Line {
    pub(super) async fn send(&mut self, frame: Frame) -> Result<(), Closing> {
        counter!("comity_realtime_frames_total", "direction" => "out", "type" => frame.kind).increment(1);
        self.write(Message::Text(frame.text)).await
    }

    pub(super) async fn write(&mut self, message: Message) -> Result<(), Closing> {
        patiently(self.stall, self.web.feed(message)).await
    }

    pub(super) async fn flush(&mut self) -> Result<(), Closing> {
        patiently(self.stall, self.web.flush()).await
    }

    /// Says why, and waits a little for the client to say that it has heard it: who goes earlier may not be heard.
    pub(super) async fn close(mut self, why: Closing) {
        let goodbye = async {
            if why != Closing::Gone {
                self.web.send(Message::Close(Some(why.frame()))).await.ok()?;
            }
            while let Some(Ok(_)) = self.web.recv().await {}
            if matches!(why, Closing::TooLarge | Closing::Malformed) {
                // What the client sent can't be read to its end, and who hangs up on unread bytes takes back what was said last.
                tokio::time::sleep(GOODBYE).await;
            }
            Some(())
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }
}

async fn patiently(stall: Duration, writing: impl Future<Output = Result<(), axum::Error>>) -> Result<(), Closing> {
    match timeout(stall, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Closing::Gone),
        Err(_) => Err(Closing::Slow),
    }
}

/// Why nothing more can be read.
pub(super) fn broken(error: axum::Error) -> Closing {
    use tungstenite::Error;
    match error.into_inner().downcast_ref::<Error>() {
        Some(Error::Capacity(_)) => Closing::TooLarge,
        Some(Error::Utf8(_)) => Closing::Malformed,
        Some(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => Closing::Gone,
        Some(Error::Protocol(_)) => Closing::Malformed,
        _ => Closing::Gone,
    }
}
