//! How the server is told to end: SIGINT and SIGTERM.

use std::{future::Future, io, process, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What a shell reports for a program that SIGINT ended.
const ENDED_BY_SIGNAL: i32 = 130;

/// The shutdown took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("requests were still going on {} after the signal to end", humantime::format_duration(*.0))]
pub struct Overdue(Duration);

/// Answers a token that the first SIGINT or SIGTERM cancels. The second ends the process at once.
///
/// Must be called inside the runtime, whose end also ends the listening.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        let name = next().await;
        info!("got {name}: finishing what is under way; another one ends at once");
        told.cancel();
        let name = next().await;
        warn!("got {name} again: ending at once");
        process::exit(ENDED_BY_SIGNAL);
    });
    Ok(stop)
}

/// Runs `server`, and gives it up when it goes on for longer than `patience` after `stop`.
pub async fn within<T>(
    patience: Duration,
    stop: &CancellationToken,
    server: impl Future<Output = T>,
) -> Result<T, Overdue> {
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        biased;
        answer = server => Ok(answer),
        () = deadline => Err(Overdue(patience)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_in_time_gives_its_answer() {
        let stop = CancellationToken::new();
        stop.cancel();
        let answer = within(Duration::from_secs(60), &stop, async { 7 }).await;
        assert_eq!(answer.ok(), Some(7));
    }

    #[tokio::test]
    async fn a_server_that_does_not_end_is_given_up() {
        let stop = CancellationToken::new();
        stop.cancel();
        let answer = within(Duration::from_millis(1), &stop, std::future::pending::<()>()).await;
        assert!(answer.is_err());
    }
}
