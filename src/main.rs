//! Comity, a federated homeserver: arguments, configuration, telemetry, the server, a signal, the end.

mod commands;
mod config;
mod homeserver;
mod operator;
mod shutdown;
mod signing_key;
mod telemetry;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    commands::run()
}
