//! What was measured, in columns.

use std::{fmt, thread, time::Duration};

use crate::Arguments;

/// The result: figure, reached, limit, ratio, aim.
pub struct Table {
    title: String,
    rows: Vec<[String; 5]>,
}

impl Table {
    pub fn new(arguments: &Arguments) -> Self {
        let title = format!(
            "{:?}, {} rooms, {} senders{}",
            arguments.engine,
            arguments.rooms,
            arguments.senders,
            if arguments.quick { ", quick" } else { "" }
        );
        Self { title, rows: Vec::new() }
    }

    /// A figure with the physical limit beside it.
    pub fn against(&mut self, figure: &str, reached: f64, limit: f64, unit: &str, aim: &str) {
        self.rows.push([
            figure.to_owned(),
            format!("{reached:.0}{unit}"),
            format!("{limit:.0}{unit}"),
            format!("{:.2}", reached / limit),
            aim.to_owned(),
        ]);
    }

    /// A figure that stands alone.
    pub fn alone(&mut self, figure: &str, reached: String, aim: &str) {
        self.rows.push([figure.to_owned(), reached, String::new(), String::new(), aim.to_owned()]);
    }

    /// The middle and the worst hundredth of `times`.
    pub fn percentiles(&mut self, figure: &str, times: &mut [Duration], aims: [&str; 2]) {
        times.sort_unstable();
        for (part, aim) in [50, 99].into_iter().zip(aims) {
            let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
            let time = times.get(index).map(|time| format!("{:.2} ms", time.as_secs_f64() * 1000.0));
            self.alone(&format!("{figure}, p{part}"), time.unwrap_or_else(|| "never".to_owned()), aim);
        }
    }
}

/// What was measured before something went wrong isn't wrong for that.
impl Drop for Table {
    fn drop(&mut self) {
        if thread::panicking() && !self.rows.is_empty() {
            eprintln!("{self}");
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["figure", "reached", "limit", "ratio", "aim"].map(str::to_owned);
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&header]).map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        writeln!(f, "{}\n", self.title)?;
        for row in [&header].into_iter().chain(&self.rows) {
            writeln!(
                f,
                "{:<w0$}  {:>w1$}  {:>w2$}  {:>w3$}  {}",
                row[0],
                row[1],
                row[2],
                row[3],
                row[4],
                w0 = width(0),
                w1 = width(1),
                w2 = width(2),
                w3 = width(3)
            )?;
        }
        Ok(())
    }
}
