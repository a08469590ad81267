//! What runs beside the requests.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Some of what runs until the server ends, and ends together.
pub(super) struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Those that are to end when `stop` is cancelled.
    pub(super) fn until(stop: CancellationToken) -> Self {
        Self { stop, tracker: TaskTracker::new() }
    }

    /// Runs what `run` makes of the token by which it learns that it is to end.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, run: impl FnOnce(CancellationToken) -> F) {
        self.tracker.spawn(run(self.stop.clone()));
    }

    /// Has them end, and waits until they have.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
