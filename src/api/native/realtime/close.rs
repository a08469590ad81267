//! Why a connection ends, and what its client is told of it.

use axum::extract::ws::{CloseFrame, Utf8Bytes};
use sync::feed::Ending;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// The client has closed it, or it broke.
    Gone,
    /// The server ends. The client comes back, to another node perhaps, and goes on from where it was.
    GoingAway,
    /// The client sent what is no WebSocket.
    Malformed,
    /// The client sent a frame that is larger than is taken.
    TooLarge,
    /// The client sent far more frames than it may.
    TooMuch,
    /// The server can't do its work now. The client comes back a little later and goes on from where it was.
    Unavailable,
    /// The session has ended: the client logs in again.
    SessionEnded,
    /// An administrator has ended the connection.
    Disconnected,
    /// The same device has connected again, and one may not have more connections.
    Superseded,
    /// The client didn't show that it is there.
    NoHeartbeat,
    /// The client took too little. It comes back and goes on from where it was.
    Slow,
}

impl Closing {
    /// The code of the close frame.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Gone => 1000,
            Self::GoingAway => 1001,
            Self::Malformed => 1002,
            Self::TooLarge => 1009,
            Self::TooMuch => 1008,
            Self::Unavailable => 1013,
            Self::SessionEnded => 4001,
            Self::Disconnected => 4003,
            Self::Superseded => 4009,
            Self::NoHeartbeat => 4408,
            Self::Slow => 4429,
        }
    }

    /// What programs may rely on besides the code, and what it is counted as.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Gone => "closed_by_client",
            Self::GoingAway => "going_away_resume",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::TooMuch => "too_many_frames",
            Self::Unavailable => "unavailable_resume",
            Self::SessionEnded => "session_ended",
            Self::Disconnected => "disconnected",
            Self::Superseded => "superseded",
            Self::NoHeartbeat => "no_heartbeat_resume",
            Self::Slow => "too_slow_resume",
        }
    }

    pub(super) fn frame(self) -> CloseFrame {
        CloseFrame { code: self.code(), reason: Utf8Bytes::from_static(self.reason()) }
    }
}

impl From<Ending> for Closing {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::GoingAway => Self::GoingAway,
            Ending::Forced => Self::Disconnected,
            Ending::Superseded => Self::Superseded,
        }
    }
}
