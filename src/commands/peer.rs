//! `comity peer …`: how far other servers are trusted.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use model::peer::{Capability, Override, PeerPattern, TrustLevel};
use peers::{
    Peers, Trust,
    trust::{Author, Limits, PeerChange, Simulation, Source, Transport, View},
};
use ruma::{OwnedRoomId, OwnedServerName};
use serde_json::json;
use tokio::runtime;

use super::{
    Failure,
    peering::{self, PeeringCommand},
};
use crate::{config::Config, homeserver::Core};

const PEER_HELP: &str = "A server's name, such as chat.example.org, or all below a domain, such as '*.example.org'";

#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// List the peers that are set, one a line: name, level, standing, until when; tabs between
    List,
    /// Print what is set for a peer, or what a list says of it, as JSON
    Show {
        #[arg(help = PEER_HELP)]
        peer: PeerPattern,
    },
    /// Set a peer, or change what is set for it; in force on running servers within a second
    #[command(alias = "add")]
    Set {
        #[arg(help = PEER_HELP)]
        peer: PeerPattern,
        #[command(flatten)]
        change: Change,
    },
    /// Let nothing go to a peer, and take nothing from it
    Block {
        #[arg(help = PEER_HELP)]
        peer: PeerPattern,
        /// Why: for other admins, and for the log
        #[arg(long)]
        reason: String,
    },
    /// Forget what is set for a peer: it is trusted like a server that nobody knows
    Remove {
        #[arg(help = PEER_HELP)]
        peer: PeerPattern,
        /// Why: for other admins, and for the log
        #[arg(long)]
        reason: String,
    },
    /// Try a server at once that could not be reached, as if it had never failed; running servers do so within a second
    Retry {
        /// The server's name, such as chat.example.org
        server: OwnedServerName,
        /// Why: for the log
        #[arg(long, default_value = "it is to be tried at once")]
        reason: String,
    },
    /// Print what a level would have refused of what a peer did in the last days; changes nothing
    Simulate {
        #[arg(help = PEER_HELP)]
        peer: PeerPattern,
        /// full, limited, restricted or blocked
        #[arg(long)]
        level: TrustLevel,
        /// How many days back
        #[arg(long, default_value_t = 7)]
        days: i64,
    },
    /// Print who changed what and why, the latest first, and whether the log is as it was written
    Audit {
        #[arg(help = PEER_HELP)]
        peer: Option<PeerPattern>,
    },
    /// Print what the trust levels mean
    Levels,
    #[command(flatten)]
    Peering(PeeringCommand),
}

/// What is to be changed.
#[derive(Debug, Args)]
pub struct Change {
    /// full, limited, restricted or blocked; a new peer needs it
    #[arg(long)]
    level: Option<TrustLevel>,
    /// Switch the peer on or off, whatever its level
    #[arg(long)]
    active: Option<bool>,
    /// Set a capability apart from the level, such as typing=yes; typing=level undoes it
    #[arg(long = "grant", value_name = "CAPABILITY=GRANT")]
    grants: Vec<String>,
    /// Where the server is, HOST:PORT, whatever its name says; `dns` undoes it
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<String>,
    /// How transactions travel: https, amqp over the brokers of both, or auto: HTTPS while it works, else the brokers
    #[arg(long, value_parser = transport)]
    transport: Option<Transport>,
    /// In how many rooms here its people may be
    #[arg(long, value_name = "ROOMS")]
    max_rooms: Option<u64>,
    /// Let people of this server join a room there, where that needs an admin's approval; may be given more than once
    #[arg(long = "approve-room", value_name = "ROOM_ID")]
    approved_rooms: Vec<OwnedRoomId>,
    /// Only count and log what would be refused
    #[arg(long)]
    shadow: Option<bool>,
    /// For other admins
    #[arg(long)]
    notes: Option<String>,
    /// The peer's new key is known to be right: end the alarm
    #[arg(long)]
    clear_alarm: bool,
    /// Until when it holds, such as 30d
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<humantime::Duration>,
    /// Why: for other admins, and for the log
    #[arg(long)]
    reason: String,
}

/// Does it, and says on standard output what was done.
pub fn run(command: PeerCommand, config: &Config) -> Result<(), Failure> {
    if matches!(command, PeerCommand::Levels) {
        write!(io::stdout(), "{}", model::peer::markdown())?;
        return Ok(());
    }
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let core = Core::open(config).await?;
        let done = execute(command, &core.peers, &mut io::stdout()).await;
        core.store.close().await;
        done
    })
}

async fn execute(command: PeerCommand, peers: &Peers, out: &mut impl Write) -> Result<(), Failure> {
    let trust = peers.trust();
    match command {
        PeerCommand::List => {
            for view in trust.list().await? {
                writeln!(out, "{}", line(&view))?;
            }
        }
        PeerCommand::Show { peer } => {
            let shown = match trust.get(&peer).await? {
                Some(view) => serde_json::to_string_pretty(&view)?,
                None => shown_without_row(&peer, trust)?,
            };
            writeln!(out, "{shown}")?;
        }
        PeerCommand::Set { peer, change } => {
            let author = author(change.reason.clone());
            let mut wish = change.read()?;
            if let Some(rooms) = change.max_rooms {
                let known = trust.get(&peer).await?.map(|view| view.settings.limits).unwrap_or_default();
                wish.limits = Some(Limits { rooms: Some(rooms), ..known });
            }
            if !change.approved_rooms.is_empty() {
                let known = trust.get(&peer).await?.map(|view| view.settings.approved_rooms).unwrap_or_default();
                wish.approved_rooms = Some(known.into_iter().chain(change.approved_rooms).collect());
            }
            let view = trust.change(&peer, &wish, &author, None).await?;
            writeln!(out, "{}", line(&view))?;
        }
        PeerCommand::Block { peer, reason } => {
            let change = PeerChange { level: Some(TrustLevel::Blocked), ..PeerChange::default() };
            let view = trust.change(&peer, &change, &author(reason), None).await?;
            writeln!(out, "{}", line(&view))?;
        }
        PeerCommand::Remove { peer, reason } => {
            trust.remove(&peer, &author(reason), None).await?;
            writeln!(out, "nothing is set for {peer} any more")?;
        }
        PeerCommand::Retry { server, reason } => match trust.retry(&server, &author(reason)).await? {
            true => writeln!(out, "{server} is tried at once")?,
            false => writeln!(out, "nothing is waiting for {server}")?,
        },
        PeerCommand::Simulate { peer, level, days } => {
            let change = PeerChange { level: Some(level), ..PeerChange::default() };
            tell(&trust.simulate(&peer, &change, days).await?, level, out)?;
        }
        PeerCommand::Audit { peer } => {
            for entry in trust.audit(None, peer.as_ref(), 1_000).await? {
                writeln!(out, "{}", serde_json::to_string(&entry)?)?;
            }
            match trust.verify_audit().await? {
                Ok(entries) => writeln!(io::stderr(), "the log of {entries} entries is as it was written")?,
                Err(broken) => return Err(format!("entry {} of the log was tampered with", broken.number).into()),
            }
        }
        PeerCommand::Levels => {}
        PeerCommand::Peering(command) => {
            peering::execute(command, &peers.peering(), out, &mut io::stderr()).await?;
        }
    }
    Ok(())
}

impl Change {
    fn read(&self) -> Result<PeerChange, Failure> {
        let mut change = PeerChange {
            level: self.level,
            active: self.active,
            transport: self.transport,
            shadow: self.shadow,
            notes: self.notes.clone(),
            clear_alarm: self.clear_alarm,
            ..PeerChange::default()
        };
        if let Some(length) = self.expires_in {
            let at = std::time::SystemTime::now() + *length;
            let since = at.duration_since(std::time::UNIX_EPOCH)?;
            change.expires_at = Some(Some(i64::try_from(since.as_millis())?));
        }
        if let Some(endpoint) = &self.endpoint {
            let read = || -> Result<OwnedServerName, Failure> {
                OwnedServerName::try_from(endpoint.as_str())
                    .map_err(|_| format!("`{endpoint}` is not of the form HOST:PORT").into())
            };
            change.endpoint = Some(if endpoint == "dns" { None } else { Some(read()?) });
        }
        for wish in &self.grants {
            let (capability, grant) =
                wish.split_once('=').ok_or_else(|| format!("`{wish}` is not of the form typing=yes"))?;
            let capability: Capability = capability.parse()?;
            let grant = match grant {
                "level" => None,
                grant => Some(Override { grant: capability.grant_of(grant)?, reason: self.reason.clone() }),
            };
            change.overrides.insert(capability, grant);
        }
        Ok(change)
    }
}

fn transport(word: &str) -> Result<Transport, String> {
    serde_json::from_value(word.into()).map_err(|_| "https, amqp or auto is expected".to_owned())
}

pub(super) fn author(reason: String) -> Author {
    Author { actor: "command line".to_owned(), reason }
}

/// A server of which a wildcard, or a list, says how far it is trusted.
fn shown_without_row(peer: &PeerPattern, trust: &Trust) -> Result<String, Failure> {
    let nothing = || format!("nothing is set for {peer}");
    let PeerPattern::Exact(server) = peer else { return Err(nothing().into()) };
    let (regard, source) = (trust.regard(server), trust.source(server));
    if source == Source::Default {
        return Err(nothing().into());
    }
    let shown = json!({
        "server": server, "level": regard.level, "standing": regard.standing, "source": source,
        "capabilities": regard.grants(),
    });
    Ok(serde_json::to_string_pretty(&shown)?)
}

fn line(view: &View) -> String {
    let standing = serde_json::to_value(view.standing).ok();
    let standing = standing.as_ref().and_then(|word| word.as_str()).unwrap_or_default().to_owned();
    let until = match view.expires_at {
        _ if view.expired => "expired".to_owned(),
        Some(at) => {
            let at = std::time::Duration::from_millis(at.unsigned_abs());
            humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + at).to_string()
        }
        None => "-".to_owned(),
    };
    format!("{}\t{}\t{standing}\t{until}", view.pattern, view.level)
}

fn tell(simulation: &Simulation, level: TrustLevel, out: &mut impl Write) -> io::Result<()> {
    let days = simulation.days;
    if simulation.acts.is_empty() {
        return writeln!(out, "nothing is known of the peer in the last {days} days");
    }
    writeln!(out, "capability\tway\tallowed then\trefused then\tallowed by {level}\trefused by {level}\tundecided")?;
    for act in &simulation.acts {
        writeln!(
            out,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}",
            act.capability,
            act.direction.as_str(),
            act.allowed_then,
            act.refused_then,
            act.allowed,
            act.refused,
            act.undecided
        )?;
    }
    Ok(())
}
