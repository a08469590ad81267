//! The last lines of the log.

use std::time::Duration;

use model::Millis;
use serde::{Deserialize, Serialize};
use tracing::Level;
use utoipa::{IntoParams, ToSchema};

use super::staff::Viewer;
use crate::{
    logs::{LogLine, LogSearch},
    native::{Answer, Call, Endpoint, get},
};

/// How many an answer holds, and how many at most.
const USUAL: usize = 100;
const MOST: usize = 1_000;
/// How long somebody may wait for a line, in milliseconds.
const LONGEST_WAIT: u64 = 30_000;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![get("/api/v1/admin/logs", "The last lines of the log of the node that answers.", tail).explained(
        "2,000 lines are kept in memory; tokens and passwords aren't in them. Ask again with `after` set to `next` and `wait_ms` to \
         follow the log: the answer comes when there is a line that is meant, or when the time is over.",
    )]
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WantedLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<WantedLevel> for Level {
    fn from(level: WantedLevel) -> Self {
        match level {
            WantedLevel::Error => Self::ERROR,
            WantedLevel::Warn => Self::WARN,
            WantedLevel::Info => Self::INFO,
            WantedLevel::Debug => Self::DEBUG,
            WantedLevel::Trace => Self::TRACE,
        }
    }
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LinesWanted {
    /// As bad as this or worse: `error`, `warn`, `info`, `debug` or `trace`; left out: all that is logged.
    #[param(value_type = Option<String>)]
    level: Option<WantedLevel>,
    /// Of parts of the program whose names begin so: `federation`.
    target: Option<String>,
    /// That hold this text, in whichever case.
    text: Option<String>,
    /// Since then, milliseconds since 1970.
    since: Option<Millis>,
    /// After this number: `next` of the answer before.
    after: Option<u64>,
    /// How long to wait for one if there is none, in milliseconds, 30,000 at most; left out: not at all.
    wait_ms: Option<u64>,
    /// How many at most, 1 to 1000; left out: 100.
    limit: Option<u32>,
}

/// Some lines.
#[derive(Serialize, ToSchema)]
struct LogLines {
    /// Whose log it is.
    node: String,
    /// The oldest first.
    lines: Vec<LogLine>,
    /// What `after` is the next time.
    next: u64,
    /// Lines after `after` had to make way before they were told.
    is_torn: bool,
}

async fn tail(call: Call<Viewer, LinesWanted>) -> Answer<LogLines> {
    let wanted = call.query;
    let search = LogSearch {
        after: wanted.after.unwrap_or(0),
        since: wanted.since.unwrap_or(0),
        level: wanted.level.map_or(Level::TRACE, Level::from),
        target: wanted.target.unwrap_or_default(),
        text: wanted.text.unwrap_or_default(),
        limit: wanted.limit.map_or(USUAL, |limit| usize::try_from(limit).unwrap_or(MOST)).clamp(1, MOST),
    };
    let patience = Duration::from_millis(wanted.wait_ms.unwrap_or(0).min(LONGEST_WAIT));
    let page = call.services.logs.wait_for(search, patience).await;
    let node = call.services.sync.connections().node().to_owned();
    Ok(LogLines { node, lines: page.lines, next: page.upto, is_torn: page.is_torn })
}
