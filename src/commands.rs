//! The command line.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 ended by a second signal.

mod bus;
mod config_check;
mod doctor;
mod federation;
mod health;
mod keys;
mod list;
mod password;
mod peer;
mod peering;
mod serve;
mod user;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Loaded};

const EXAMPLES: &str = "\
Examples:
  comity                                    serve with ./config.toml, or with the defaults
  comity serve --config /etc/comity.toml    serve with that file
  comity config check                       say what is wrong with the configuration, or what is in effect
  comity federation resolve matrix.org      how another server is found, step by step
  comity health                             ask the running server whether it is ready
  comity doctor matrix.org                  examine the way to another server, and say what is wrong with it
  comity user create alice --admin          make an account; asks for the password
  pwgen 20 1 | comity user set-password alice --password-stdin

Configuration:
  Every key of the file is described in the config.toml that comes with Comity. Each can be set from the
  environment too: COMITY__LISTEN__CLIENT=127.0.0.1:9000 sets `client` in [listen], and wins over the file.
  Relative paths start at the folder of the file. COMITY_LOG or RUST_LOG set what is logged.

Exit codes: 0 done, 1 failed, 2 wrong arguments.";

/// A federated homeserver: chat on your own domain, with Matrix clients and servers.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    /// The configuration file [default: ./config.toml if there is one]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server in the foreground until SIGINT or SIGTERM (also what `comity` alone does)
    Serve,
    /// Look at the broker and at the links with those of peers, and change them
    Bus {
        #[command(subcommand)]
        command: bus::BusCommand,
    },
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Examine another server: every step of reaching it, each fault with its remedy; exit code 1 if there is a fault
    ///
    /// Uses this server's configuration and signing key, and works while the server runs, and while it does not. What is
    /// seen from here changes nothing there. Takes a minute at most.
    Doctor(doctor::DoctorArguments),
    /// Look at other servers
    Federation {
        #[command(subcommand)]
        command: federation::FederationCommand,
    },
    /// Ask the server that is configured here whether it is ready; exit code 1 if it isn't
    ///
    /// For containers and supervisors that have no HTTP client: what `GET /health/ready` says, at `listen.client`.
    Health,
    /// List, change and print the keys that this server signs with
    Keys {
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Publish a signed list of servers for others to go by, and go by the lists of others
    List {
        #[command(subcommand)]
        command: list::ListCommand,
    },
    /// Set how far other servers are trusted, and look at what they do
    Peer {
        #[command(subcommand)]
        command: peer::PeerCommand,
    },
    /// Make, list and change accounts; works while the server runs, and while it does not
    User {
        #[command(subcommand)]
        command: user::UserCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every effective value and where it was set, or everything that is wrong; secrets stay hidden
    Check,
}

type Failure = Box<dyn Error + Send + Sync>;

/// Does what the arguments say.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when stderr is closed.
            io::stderr().write_all(report(&*failure).as_bytes()).ok();
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let file = arguments.config.or_else(|| Some(PathBuf::from("config.toml")).filter(|file| file.exists()));
    let load = || load(file.as_deref(), std::env::vars_os());
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::serve(load()?),
        Command::Bus { command } => bus::run(command, &load()?.config),
        Command::Config { command: ConfigCommand::Check } => config_check::check(&load()?, &mut io::stdout().lock()),
        Command::Doctor(arguments) => doctor::run(&arguments, &load()?.config, &mut io::stdout().lock()),
        Command::Federation { command } => federation::run(command, load()?.config),
        Command::Health => health::run(&load()?.config, &mut io::stdout().lock()),
        Command::Keys { command } => keys::run(command, &load()?.config),
        Command::List { command } => list::run(command, &load()?.config),
        Command::Peer { command } => peer::run(command, &load()?.config),
        Command::User { command } => user::run(command, &load()?.config),
    }
}

fn load(file: Option<&Path>, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Loaded, ConfigError> {
    Config::load(file, variables)
}

/// The error and its causes, each on a line of its own.
fn report(error: &dyn Error) -> String {
    let mut lines = String::new();
    for line in error.to_string().lines() {
        lines.push_str(&format!("comity: {line}\n"));
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        lines.push_str(&format!("  because: {}\n", error.to_string().replace('\n', " ")));
        cause = error.source();
    }
    lines
}

#[cfg(test)]
mod tests;
