//! Comity, a federated homeserver: arguments, configuration, telemetry, the server, a signal, the end.

mod certificate;
mod commands;
mod config;
mod homeserver;
mod listener;
mod nodes;
mod operator;
mod proxies;
mod shutdown;
mod signing_key;
mod telemetry;

use std::process::ExitCode;

// The allocator is mimalloc. That is not said here, for it is said by rbase64, which `rabbitmq_http_client` needs, and a program
// has one allocator. If it isn't said there any more, it has to be said here again:
// `#[global_allocator] static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;`

fn main() -> ExitCode {
    commands::run()
}
