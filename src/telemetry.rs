//! What the operator sees: logs on stderr, the last lines of them for administrators, figures for Prometheus.
//!
//! The subscriber and the recorder are the only process-wide things; [`start`] installs both, once.

mod tail;

use std::{
    env,
    io::{self, IsTerminal as _},
    panic,
    sync::Arc,
    time::Duration,
};

use api::logs::Logs;
use integrations::runtime_settings::LogFilter;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tracing::error;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::{self, LogFormat};
use tail::Tail;

/// What wins over `logging.filter`, first one first.
const FILTER_VARIABLES: [&str; 2] = ["COMITY_LOG", "RUST_LOG"];

/// Libraries that say more at `info` than an operator wants to read. What the operator writes comes after and wins.
const QUIET: &str = "ruma_state_res=error,sqlx=warn,hyper=warn,h2=warn,rustls=warn";

/// Upper bounds of latencies, in seconds: fine where sends and reads lie, and up to a long poll.
const SECONDS: [f64; 16] =
    [0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Upper bounds of everything else that is counted in a histogram: rows of a commit, events of an answer.
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// How often histograms are folded, so that they stay small while nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why logs or figures could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`{variable}` is not a log filter: {value:?}")]
    Filter { variable: &'static str, value: String },
    #[error("the logger could not be installed")]
    Logger(#[from] tracing_subscriber::util::TryInitError),
    #[error("the metrics recorder could not be installed")]
    Recorder(#[source] Box<metrics::SetRecorderError<metrics_exporter_prometheus::PrometheusRecorder>>),
    #[error("the buckets of the histograms are wrong")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
}

/// The figures of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Telemetry {
    metrics: Option<Figures>,
    logs: Arc<Logs>,
    log_filter: Arc<Filter>,
}

#[derive(Clone)]
struct Figures {
    recorder: PrometheusHandle,
    process: Collector,
}

/// Starts logging and, if they are wanted, figures; from here on panics are logged.
pub fn start(logging: &config::Logging, metrics: &config::Metrics) -> Result<Telemetry, TelemetryError> {
    let logs = Arc::<Logs>::default();
    let log_filter = Arc::new(start_logging(logging, logs.clone())?);
    log_panics();
    let metrics = if metrics.enabled { Some(start_metrics()?) } else { None };
    Ok(Telemetry { metrics, logs, log_filter })
}

impl Telemetry {
    /// What `/metrics` answers, in the text format of Prometheus; `None` if figures are off.
    pub fn render(&self) -> Option<String> {
        let Figures { recorder, process } = self.metrics.as_ref()?;
        process.collect();
        Some(recorder.render())
    }

    /// The last lines of the log.
    pub fn logs(&self) -> Arc<Logs> {
        self.logs.clone()
    }

    /// What decides what is logged.
    pub fn log_filter(&self) -> Arc<Filter> {
        self.log_filter.clone()
    }

    /// Keeps the figures small. Runs until dropped.
    pub async fn upkeep(self) {
        let Some(Figures { recorder, .. }) = self.metrics else { return };
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            recorder.run_upkeep();
        }
    }
}

// === logs ===

fn start_logging(logging: &config::Logging, logs: Arc<Logs>) -> Result<Filter, TelemetryError> {
    let lines = match logging.format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours).boxed()
        }
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
    };
    let (configured, filter) = filter(logging, |variable| env::var(variable).ok())?;
    let (filter, handle) = reload::Layer::new(filter);
    Registry::default().with(lines.and_then(Tail::new(logs)).with_filter(filter)).try_init()?;
    Ok(Filter { configured, handle: Some(handle) })
}

/// What decides what is logged: what the configuration or the environment says, until it is changed.
#[derive(Default)]
pub struct Filter {
    configured: String,
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

impl Filter {
    /// What held when the process started.
    pub fn configured(&self) -> &str {
        &self.configured
    }
}

impl LogFilter for Filter {
    fn is_right(&self, directives: &str) -> bool {
        parse(directives).is_ok()
    }

    fn set(&self, directives: &str) {
        if let (Some(handle), Ok(filter)) = (&self.handle, parse(directives))
            && let Err(error) = handle.reload(filter)
        {
            error!(error = &error as &dyn std::error::Error, "what is logged could not be changed");
        }
    }
}

/// The directives that hold at the start, and what they come to.
fn filter(
    logging: &config::Logging,
    variable: impl Fn(&'static str) -> Option<String>,
) -> Result<(String, EnvFilter), TelemetryError> {
    let of = |name| Some((name, variable(name).filter(|value| !value.is_empty())?));
    let said = FILTER_VARIABLES.into_iter().find_map(of);
    let (variable, value) = said.unwrap_or_else(|| ("logging.filter", logging.filter.clone()));
    match parse(&value) {
        Ok(filter) => Ok((value, filter)),
        Err(_) => Err(TelemetryError::Filter { variable, value }),
    }
}

fn parse(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{QUIET},{directives}"))
}

/// A panic is a defect: it is logged with its place, and the thread or task that had it ends.
fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => {
                error!(panic.location = location, %backtrace, "panicked: {message}");
            }
            _ => error!(panic.location = location, "panicked: {message}"),
        }
    }));
}

// === figures ===

fn start_metrics() -> Result<Figures, TelemetryError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| TelemetryError::Recorder(Box::new(error)))?;

    let process = Collector::default();
    process.describe();
    metrics::describe_gauge!("comity_build_info", "Always 1; the label tells the version that runs");
    metrics::gauge!("comity_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Figures { recorder: handle, process })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_configured_filter() {
        let logging = config::Logging::default();
        let shown = |value: Option<&str>| {
            let value = value.map(str::to_owned);
            filter(&logging, move |name| value.clone().filter(|_| name == "RUST_LOG"))
                .map(|(said, filter)| (said, filter.to_string()))
        };
        assert!(shown(None).is_ok_and(|(said, filter)| said == "info" && filter.contains("info")));
        assert!(shown(Some("rooms=trace")).is_ok_and(|(_, filter)| filter.contains("rooms=trace")));
        assert!(matches!(shown(Some("rooms=loudly")), Err(TelemetryError::Filter { variable: "RUST_LOG", .. })));
    }

    #[test]
    fn latencies_have_buckets_and_the_process_is_measured() {
        let telemetry = Telemetry {
            metrics: Some(start_metrics().expect("nothing else installs a recorder")),
            ..Telemetry::default()
        };
        metrics::histogram!("comity_test_seconds").record(0.002);
        let page = telemetry.render().expect("figures are on");
        assert!(page.contains("comity_test_seconds_bucket{le=\"0.003\"} 1"), "{page}");
        assert!(page.contains("process_resident_memory_bytes"), "{page}");
        assert!(page.contains("comity_build_info"), "{page}");
        assert_eq!(Telemetry::default().render(), None);
    }
}
