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
    let Ok(answer) = server.anonymous().try_get("/metrics").await else { return Total::default() };
    let sum = |suffix: &str| sum(&answer.text, &format!("{name}{suffix}"));
    Total { sum: sum("_sum"), count: sum("_count") }
}

/// The counter or gauge `name` of the server, its labels summed up; 0 if it isn't there.
pub async fn value(server: &Server, name: &str) -> f64 {
    server.anonymous().try_get("/metrics").await.map_or(0.0, |answer| sum(&answer.text, name))
}

fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
