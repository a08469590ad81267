//! `comity federation …`: other servers, as this one sees them.

use std::io::{self, Write as _};

use clap::Subcommand;
use ruma::OwnedServerName;

use super::Failure;
use crate::{config::Config, homeserver};

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub enum FederationCommand {
    /// Find a server as this one would, and print each step; exit code 1 if it can't be found
    Resolve {
        /// The domain, as in the ids of its users
        #[arg(value_name = "DOMAIN")]
        server: OwnedServerName,
    },
}

/// Does what the command says.
pub fn run(command: FederationCommand, config: Config) -> Result<(), Failure> {
    let FederationCommand::Resolve { server } = command;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(resolve(&server, &config))
}

async fn resolve(server: &OwnedServerName, config: &Config) -> Result<(), Failure> {
    let finder = peers::Finder::new(&homeserver::peers_config(config)?)?;
    let (steps, found) = finder.trace(server).await;
    let mut out = io::stdout().lock();
    for (at, step) in steps.iter().enumerate() {
        writeln!(out, "{}. {step}", at + 1)?;
    }
    let place = found.map_err(|reason| format!("{server} can't be found: {reason}"))?;
    let addresses: Vec<String> = place.addresses.iter().map(ToString::to_string).collect();
    writeln!(out, "{server} is asked as {} at {}", place.host_header(), addresses.join(", "))?;
    Ok(())
}
