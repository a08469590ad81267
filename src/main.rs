//! Comity, a federated homeserver: arguments, configuration, telemetry, the server, a signal, the end.

mod certificate;
mod commands;
mod config;
mod homeserver;
mod listener;
mod nodes;
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
