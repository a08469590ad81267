//! `comity serve`.

use std::time::Duration;

use tokio::runtime;
use tracing::{info, warn};

use super::Failure;
use crate::{config::Loaded, homeserver::Homeserver, shutdown, telemetry};

/// How long blocking work, such as a password being hashed, may hold up the end of the process.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Runs the server until a signal ends it.
pub fn serve(loaded: Loaded) -> Result<(), Failure> {
    spare_memory();
    let telemetry = telemetry::start(&loaded.config.logging, &loaded.config.metrics)?;
    match &loaded.file {
        Some(file) => info!("configured by {}", file.display()),
        None => info!("there is no ./config.toml: running with the defaults"),
    }
    for warning in loaded.warnings() {
        warn!("{warning}");
    }

    let runtime = runtime::Builder::new_multi_thread().enable_all().thread_name("comity").build()?;
    let answer = runtime.block_on(async {
        let stop = shutdown::on_signal()?;
        tokio::spawn(telemetry.clone().upkeep());
        let patience = loaded.config.listen.shutdown_timeout;
        let starting = Homeserver::start(loaded.config, telemetry);
        let homeserver = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            homeserver = starting => homeserver?,
        };
        shutdown::within(patience, &stop, homeserver.wait_for_shutdown(stop.clone())).await?;
        info!("stopped");
        Ok(())
    });
    runtime.shutdown_timeout(LAST_WORK);
    answer
}

/// Memory comes from the kernel page by page. The allocator asks for pages of 2 MiB where it may, of which a server with
/// little to do fills little: it would have 30 MB for nothing.
fn spare_memory() {
    #[cfg(target_os = "linux")]
    // Where the kernel knows no such pages there is nothing to spare.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
