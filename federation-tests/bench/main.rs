//! Measures the release binary over its sockets, next to what the disk and the processor could do at most.
//!
//! `cargo run --release -p bench -- --help` tells what can be chosen. It ends by itself within a few minutes.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod bus;
mod fanout;
mod federation;
mod limit;
mod load;
mod memory;
mod metrics;
mod realtime;
mod table;
mod trust;
mod wire;

use std::{
    env,
    process::{Command, ExitCode},
    time::Duration,
};

use clap::{Parser, ValueEnum};
use federation_tests::{Client, Engine, Server};

use crate::table::Table;

/// Measures Comity, next to the physical limits of this machine.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// Where the server keeps its data; PostgreSQL is found through COMITY_TEST_POSTGRES_URL.
    #[arg(long, value_enum, default_value_t = Kind::Sqlite)]
    engine: Kind,
    /// Smaller numbers: a minute instead of several, and less certainty.
    #[arg(long)]
    quick: bool,
    /// How many rooms the senders write to.
    #[arg(long, default_value_t = 20)]
    rooms: usize,
    /// How many senders there are, each with a connection of its own and one request on its way at a time.
    #[arg(long, default_value_t = 100)]
    senders: usize,
    /// How many members of one room wait for each message.
    #[arg(long, default_value_t = 200)]
    members: usize,
    /// Measures only this; may be given again.
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Sends,
    Fanout,
    Memory,
    /// WebSockets: memory, fan-out, and all of them coming back at once.
    Realtime,
    /// Between two servers.
    Federation,
    /// Deciding how far another server is trusted.
    Trust,
    /// Publishing at RabbitMQ, if COMITY_TEST_RABBITMQ says where its programs are.
    Bus,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// How long each measurement under load lasts.
    fn duration(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 10 })
    }

    /// How many messages are fanned out.
    fn messages(&self) -> usize {
        if self.quick { 20 } else { 100 }
    }

    /// How many WebSockets are open at once.
    fn sockets(&self) -> usize {
        if self.quick { 300 } else { 2000 }
    }

    /// How many long-polls are held while memory is measured.
    fn polls(&self) -> usize {
        if self.quick { 200 } else { 1000 }
    }
}

/// One thread: the generator must leave the machine to the server.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let engine = match arguments.engine {
        Kind::Sqlite => Engine::Sqlite,
        Kind::Postgres => match Engine::postgres() {
            Some(engine) => engine,
            None => {
                eprintln!("COMITY_TEST_POSTGRES_URL says where the PostgreSQL is, and it isn't set");
                return ExitCode::FAILURE;
            }
        },
    };
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build: its figures mean nothing. Use cargo run --release -p bench");
    }
    build_the_server();
    allow_many_files();

    let mut table = Table::new(&arguments);
    if arguments.wants(Part::Realtime) {
        realtime::measure(&engine, &arguments, &mut table).await;
    }
    if [Part::Sends, Part::Fanout, Part::Memory].into_iter().any(|part| arguments.wants(part)) {
        alone(&engine, &arguments, &mut table).await;
    }
    if arguments.wants(Part::Federation) {
        federation::measure(&engine, &arguments, &mut table).await;
    }
    if arguments.wants(Part::Trust) {
        trust::measure(&mut table).await;
    }
    if arguments.wants(Part::Bus) {
        bus::measure(&engine, &arguments, &mut table).await;
    }
    println!("{table}");
    ExitCode::SUCCESS
}

/// One server and its clients.
async fn alone(engine: &Engine, arguments: &Arguments, table: &mut Table) {
    let server = Server::start(engine).await;
    memory::idle(&server, table).await;
    if arguments.wants(Part::Sends) {
        load::measure(&server, engine, arguments, table).await;
    }
    if arguments.wants(Part::Fanout) {
        fanout::measure(&server, arguments, table).await;
    }
    if arguments.wants(Part::Memory) {
        memory::long_polls(&server, arguments, table).await;
    }
}

/// `cargo run -p bench` builds only this program; an old server would be measured without anybody noticing.
fn build_the_server() {
    let Some(cargo) = env::var_os("CARGO").filter(|_| env::var_os("COMITY_BIN").is_none()) else { return };
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let status = Command::new(cargo).args(["build", "--quiet", "--package", "comity", "--profile", profile]).status();
    assert!(status.is_ok_and(|status| status.success()), "the server can't be built");
}

/// A thousand long-polls are two thousand sockets, half of them here; the server inherits the limit.
fn allow_many_files() {
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--nofile=16384:"]).status();
    if !raised.is_ok_and(|status| status.success()) {
        eprintln!("the limit of open files couldn't be raised; long-polls may run into it");
    }
}

/// Accounts `<prefix>0`, `<prefix>1` …, a few at a time.
async fn people(server: &Server, prefix: &str, count: usize) -> Vec<Client> {
    use futures_util::stream::{self, StreamExt as _};
    stream::iter(0..count)
        .map(async |number| server.register_with_secret(&format!("{prefix}{number}")).await)
        .buffered(8)
        .collect()
        .await
}
