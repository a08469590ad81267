//! The server's own figures, as an operator scrapes them.

use federation_tests::Server;

/// Sum and count of a histogram.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    sum: f64,
    count: f64,
}

impl Total {
    /// The mean of what came after `before`; nothing if nothing came, or if the server doesn't tell.
    pub fn mean_since(self, before: Self) -> Option<f64> {
        let count = self.count - before.count;
        (count > 0.0).then(|| (self.sum - before.sum) / count)
    }
}

/// The histogram `name` of the server.
pub async fn histogram(server: &Server, name: &str) -> Total {
    let figure = async |suffix: &str| server.figure(&format!("{name}{suffix}")).await;
    Total { sum: figure("_sum").await, count: figure("_count").await }
}
