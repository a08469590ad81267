//! `comity peer offer|offers|accept|withdraw`: becoming peers by agreement.

use std::{
    fs,
    io::{Read as _, Write, stdin},
    path::Path,
};

use clap::{Args, Subcommand};
use model::peer::TrustLevel;
use peers::{
    Peering,
    peering::{Acceptance, OfferWish, PeeringView, Told},
};
use ruma::OwnedServerName;

use super::{Failure, peer::author};

#[derive(Debug, Subcommand)]
pub enum PeeringCommand {
    /// Offer another server to be peers, and print the offer, which may be carried there by hand
    ///
    /// First talk with an admin of the other server by phone, at a number that you know: each says the words of the own server's
    /// keys, as `comity peer words` prints them. The other server is then handed the offer, and its admin accepts it with
    /// `comity peer accept`.
    Offer(OfferArguments),
    /// Print the words of this server's keys, to be said by phone to the admins of other servers
    Words,
    /// List the offers made and received, one a line: id, peer, whose, state, levels, words of the peer's keys; tabs between
    Offers,
    /// Accept another server's offer
    ///
    /// The words of the other server's keys, which an admin of it says by phone, prove that nobody stands between the two servers.
    Accept(AcceptArguments),
    /// Take an offer back, or decline one
    Withdraw {
        /// The offer's id, or the name of the server that made it
        #[arg(value_name = "OFFER")]
        which: String,
        /// Why: for other admins, and for the log
        #[arg(long)]
        reason: String,
    },
}

/// What is offered.
#[derive(Debug, Args)]
pub struct OfferArguments {
    /// To which server
    server: OwnedServerName,
    /// The words of the other server's keys, as an admin of it says them by phone
    #[arg(long)]
    words: String,
    /// How far this server will trust it: full, limited or restricted
    #[arg(long)]
    level: TrustLevel,
    /// How far it is asked to trust this one [default: as far]
    #[arg(long)]
    ask: Option<TrustLevel>,
    /// How long the offer counts
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    expires_in: humantime::Duration,
    #[command(flatten)]
    told: ToldArguments,
    /// Why: for other admins, and for the log
    #[arg(long)]
    reason: String,
}

/// What the other server is told of this one.
#[derive(Debug, Args)]
pub struct ToldArguments {
    /// Where this server is, if its name does not lead there
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<OwnedServerName>,
    /// Whom to ask about this server, such as a phone number
    #[arg(long)]
    contact: Option<String>,
}

impl From<ToldArguments> for Told {
    fn from(told: ToldArguments) -> Self {
        Self { endpoint: told.endpoint, contact: told.contact }
    }
}

/// What is accepted.
#[derive(Debug, Args)]
pub struct AcceptArguments {
    /// The offer's id, the name of the server that made it, or a file with the offer; `-`: standard input
    #[arg(value_name = "OFFER")]
    which: String,
    /// The words of the other server's keys, as an admin of it says them by phone
    #[arg(long)]
    words: String,
    /// How far this server will trust it: full, limited or restricted [default: as it asks]
    #[arg(long)]
    level: Option<TrustLevel>,
    #[command(flatten)]
    told: ToldArguments,
    /// Why: for other admins, and for the log
    #[arg(long)]
    reason: String,
}

/// Does it. `out`: what other programs may read; `aside`: what people are told beside that.
pub async fn execute(
    command: PeeringCommand,
    peering: &Peering,
    out: &mut impl Write,
    aside: &mut impl Write,
) -> Result<(), Failure> {
    match command {
        PeeringCommand::Offer(arguments) => {
            let OfferArguments { server, words, level, ask, expires_in, told, reason } = arguments;
            let wish = OfferWish {
                server,
                words,
                give: level,
                ask: ask.unwrap_or(level),
                lifetime: expires_in.into(),
                told: told.into(),
            };
            let view = peering.offer(&wish, &author(reason)).await?;
            writeln!(out, "{}", serde_json::to_string(&view.document)?)?;
            if let Some(trouble) = &view.trouble {
                writeln!(
                    aside,
                    "{} has not taken the offer yet ({trouble}): a running server tries again, or carry it there by hand",
                    view.peer
                )?;
            }
        }
        PeeringCommand::Words => writeln!(out, "{}", peering.our_words().join(" "))?,
        PeeringCommand::Offers => {
            for view in peering.list().await? {
                writeln!(out, "{}", line(&view))?;
            }
        }
        PeeringCommand::Accept(arguments) => {
            let AcceptArguments { which, words, level, told, reason } = arguments;
            let which = match carried(&which)? {
                Some(offer) => peering.take(&offer, None).await?.id,
                None => which,
            };
            let view = peering.accept(&which, &Acceptance { words, level, told: told.into() }, &author(reason)).await?;
            writeln!(out, "{}", line(&view))?;
            if let Some(trouble) = &view.trouble {
                writeln!(aside, "{} has not signed the agreement ({trouble})", view.peer)?;
            }
        }
        PeeringCommand::Withdraw { which, reason } => {
            writeln!(out, "{}", line(&peering.withdraw(&which, &author(reason)).await?))?;
        }
    }
    Ok(())
}

/// The offer, if it is in a file or comes by standard input.
fn carried(which: &str) -> Result<Option<String>, Failure> {
    let mut offer = String::new();
    match which {
        "-" => stdin().take(1 << 20).read_to_string(&mut offer)?,
        path if Path::new(path).is_file() => fs::File::open(path)?.take(1 << 20).read_to_string(&mut offer)?,
        _ => return Ok(None),
    };
    Ok(Some(offer))
}

fn line(view: &PeeringView) -> String {
    let levels: Vec<String> = view.levels.iter().map(|(server, level)| format!("{server}={level}")).collect();
    let whose = if view.is_ours { "ours" } else { "theirs" };
    format!("{}\t{}\t{whose}\t{}\t{}\t{}", view.id, view.peer, view.state, levels.join(","), view.words.join(" "))
}
