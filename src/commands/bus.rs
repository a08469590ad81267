//! `comity bus …`: the broker, and the links with those of peers.

use std::{
    io::{self, Write},
    sync::Arc,
};

use clap::Subcommand;
use fabric::management::LinkWay;
use peers::{
    Links,
    links::{BusStatus, LinkStatus, WayStatus, way_of},
    vault::Vault,
};
use ruma::OwnedServerName;
use tokio::runtime;

use super::{Failure, password, peer::author};
use crate::{
    config::Config,
    homeserver::{self, Core},
};

const SERVER_HELP: &str = "The peer's name, such as chat.example.org";
const REASON_HELP: &str = "Why: for other admins, and for the log";

#[derive(Debug, Subcommand)]
pub enum BusCommand {
    /// Say how the broker is, and each link, both ways; exit code 1 if something is wrong
    Status {
        /// Print one JSON object, for tools
        #[arg(long)]
        json: bool,
    },
    /// Change the link with the broker of a peer; in force on running servers within seconds
    Link {
        #[command(subcommand)]
        command: LinkCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Say how to log in at the peer's broker, where the peer does not say so by itself
    ///
    /// The peer's broker has an exchange `fed.in.US`, to which a shovel publishes, and `fed.out.US`, from which an upstream
    /// fetches.
    Set {
        #[arg(help = SERVER_HELP)]
        server: OwnedServerName,
        /// amqps://USER:PASSWORD@HOST/VHOST; `-`: the first line of standard input, so that it is not seen in lists of processes
        #[arg(long)]
        uri: String,
        /// upstream or shovel, instead of what is configured
        #[arg(long, value_parser = way)]
        link: Option<LinkWay>,
        #[arg(long, help = REASON_HELP)]
        reason: String,
    },
    /// Ask the peer again how to log in at its broker
    Unset {
        #[arg(help = SERVER_HELP)]
        server: OwnedServerName,
        #[arg(long, help = REASON_HELP)]
        reason: String,
    },
    /// Give the peer another password at this server's broker, and end its connections; it asks for the new one by itself
    Rotate {
        #[arg(help = SERVER_HELP)]
        server: OwnedServerName,
        #[arg(long, help = REASON_HELP)]
        reason: String,
    },
}

fn way(word: &str) -> Result<LinkWay, String> {
    way_of(word).ok_or_else(|| "upstream or shovel is expected".to_owned())
}

/// Does it, and says on standard output what was done.
pub fn run(command: BusCommand, config: &Config) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let core = Core::open(config).await?;
        let done = match homeserver::links(config, &core.peers, &Arc::new(Vault::open(&config.keys_dir)?))? {
            Some(links) => execute(command, &links, &mut io::stdout()).await,
            None => Err("bus.management_url is not set: this server does not manage a broker".into()),
        };
        core.store.close().await;
        done
    })
}

async fn execute(command: BusCommand, links: &Links, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        BusCommand::Status { json } => {
            let status = links.status().await?;
            if json {
                writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
            } else {
                tell(&status, out)?;
            }
            let is_well = |link: &LinkStatus| link.outgoing.state == "up" && link.incoming.state == "up";
            match status.findings.is_empty() && status.links.iter().all(is_well) {
                true => Ok(()),
                false => Err("something is wrong with the broker, or with a link".into()),
            }
        }
        BusCommand::Link { command: LinkCommand::Set { server, uri, link, reason } } => {
            let uri = if uri == "-" { password::from_stdin()?.expose().to_owned() } else { uri };
            links.set_by_hand(&server, &uri, link, &author(reason)).await?;
            Ok(writeln!(out, "the broker of {server} is connected to as you say")?)
        }
        BusCommand::Link { command: LinkCommand::Unset { server, reason } } => {
            links.unset_by_hand(&server, &author(reason)).await?;
            Ok(writeln!(out, "{server} is asked how to log in at its broker")?)
        }
        BusCommand::Link { command: LinkCommand::Rotate { server, reason } } => {
            links.rotate(&server, &author(reason)).await?;
            Ok(writeln!(out, "{server} gets another password")?)
        }
    }
}

fn tell(status: &BusStatus, out: &mut impl Write) -> io::Result<()> {
    let name = status.cluster_name.as_deref().unwrap_or("does not answer");
    writeln!(out, "broker\t{}\t{name}", status.management)?;
    for finding in &status.findings {
        writeln!(out, "wrong\t{finding}")?;
    }
    for link in &status.links {
        let kind = link.link.unwrap_or("not made yet");
        writeln!(out, "link\t{}\t{kind}\tin the virtual host {}", link.peer, link.vhost)?;
        line("to", link, &link.outgoing, out)?;
        line("from", link, &link.incoming, out)?;
        if link.dead > 0 {
            writeln!(out, "  {} messages from {} could not be taken", link.dead, link.peer)?;
        }
        if let Some(trouble) = &link.trouble {
            writeln!(out, "  wrong\t{trouble}")?;
        }
    }
    Ok(())
}

fn line(direction: &str, link: &LinkStatus, way: &WayStatus, out: &mut impl Write) -> io::Result<()> {
    let why = way.error.as_ref().map(|error| format!("\t{error}")).unwrap_or_default();
    writeln!(out, "  {direction} {}\t{}\t{} waiting{why}", link.peer, way.state, way.waiting)
}
