//! `comity list …`: lists of servers that deployments publish for each other.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use model::{Millis, peer::TrustLevel};
use peers::{
    ListError, Lists,
    lists::{Base, Edition, EntryChange, Listable, PublishedView, SubscriptionView, Wish},
};
use tokio::runtime;

use super::{Failure, peer::author};
use crate::{config::Config, homeserver::Core};

const REASON: &str = "Why: for other admins, and for the log";

#[derive(Debug, Subcommand)]
pub enum ListCommand {
    /// List the lists, one a line: publisher, version, highest level, state, servers or last fault, until when; or print one as JSON
    ///
    /// The first line is the list that this server publishes, if it does.
    Show {
        /// Whose list; this server's own name: the one that it publishes
        publisher: Option<Listable>,
    },
    /// Publish a new version of the list of this server
    ///
    /// Without anything else it says what the version before says, and is good for a new time.
    Publish(Publication),
    /// Publish a version that names nobody, so that no one goes by the list any more
    Withdraw {
        #[arg(long, help = REASON)]
        reason: String,
    },
    /// Go by the list of a server, where no admin has set what it says; or change how
    Subscribe {
        /// Whose list
        publisher: Listable,
        /// How far the list can make this server trust others: full, limited, restricted or blocked; a new subscription needs it
        #[arg(long)]
        highest_level: Option<TrustLevel>,
        /// A key that may sign the list, such as ed25519:a_x=BASE64; may be given more than once
        ///
        /// Without any, a new subscription takes those that the publisher is pinned to as a peer, or those that it shows, whose
        /// words are to be compared with its admin.
        #[arg(long = "key", value_name = "ID=BASE64")]
        keys: Vec<String>,
        /// The words of the keys that the publisher shows, as its admin says them by phone (`comity peer words` there)
        #[arg(long, conflicts_with = "keys")]
        words: Option<String>,
        #[arg(long, help = REASON)]
        reason: String,
    },
    /// Go by the list of a server no longer
    Unsubscribe {
        /// Whose list
        publisher: Listable,
        #[arg(long, help = REASON)]
        reason: String,
    },
    /// Ask for a list now, or for all; exit code 1 if what is answered can't be taken
    Refresh {
        /// Whose list
        publisher: Option<Listable>,
    },
    /// End the alarm of a listed server that showed other keys than its list names
    ClearAlarm {
        /// Which server
        server: Listable,
        #[arg(long, help = REASON)]
        reason: String,
    },
}

/// What a new version says.
#[derive(Debug, Args)]
pub struct Publication {
    /// What it begins with: last (the version before), peers (what is set for single servers here) or nothing
    #[arg(long, default_value = "last")]
    from: Base,
    /// Say of a server what is set for it here; may be given more than once
    #[arg(long = "peer", value_name = "SERVER")]
    peers: Vec<String>,
    /// Say how far a server may be trusted at most, such as b.example=full; may be given more than once
    #[arg(long = "set", value_name = "SERVER=LEVEL")]
    levels: Vec<String>,
    /// Say nothing of a server any more; may be given more than once
    #[arg(long = "drop", value_name = "SERVER")]
    dropped: Vec<String>,
    /// Say what stands in a JSON file: {"b.example": {"level": "full", "keys": {"ed25519:a": "…"}, "contact": "…"}}
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long others go by it, such as 30d, which is also the default
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<humantime::Duration>,
    /// Its number, where the database was lost and an older version must not come again
    #[arg(long)]
    version: Option<i64>,
    #[arg(long, help = REASON)]
    reason: String,
}

/// Does it, and says on standard output what was done.
pub fn run(command: ListCommand, config: &Config) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let core = Core::open(config).await?;
        let us = core.peers.server_name().to_owned();
        let done = execute(command, &core.peers.lists(), &Listable(us), &mut io::stdout()).await;
        core.store.close().await;
        done
    })
}

async fn execute(command: ListCommand, lists: &Lists, us: &Listable, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        ListCommand::Show { publisher: None } => {
            match lists.show_published().await {
                Ok(published) => writeln!(out, "{}", line_of_ours(&published))?,
                Err(ListError::NotPublished) => {}
                Err(error) => return Err(error.into()),
            }
            for view in lists.subscriptions().await? {
                writeln!(out, "{}", line(&view))?;
            }
        }
        ListCommand::Show { publisher: Some(publisher) } if publisher == *us => {
            writeln!(out, "{}", serde_json::to_string_pretty(&lists.show_published().await?)?)?;
        }
        ListCommand::Show { publisher: Some(Listable(publisher)) } => {
            writeln!(out, "{}", serde_json::to_string_pretty(&lists.show(&publisher).await?)?)?;
        }
        ListCommand::Publish(publication) => {
            let published = lists.publish(&publication.read()?, &author(publication.reason)).await?;
            writeln!(out, "{}", line_of_ours(&published))?;
        }
        ListCommand::Withdraw { reason } => {
            let published = lists.withdraw(&author(reason)).await?;
            writeln!(out, "{}", line_of_ours(&published))?;
        }
        ListCommand::Subscribe { publisher: Listable(publisher), highest_level, keys, words, reason } => {
            let keys = keys.iter().map(|key| read_key(key)).collect::<Result<BTreeMap<_, _>, _>>()?;
            let wish = Wish { highest_level, keys: (!keys.is_empty()).then_some(keys), words };
            let view = lists.subscribe(&publisher, &wish, &author(reason), None).await?;
            writeln!(out, "{}", line(&view))?;
            writeln!(out, "words of its keys, to be compared with the admin of {publisher} by phone:")?;
            writeln!(out, "{}", view.words.join(" "))?;
        }
        ListCommand::Unsubscribe { publisher: Listable(publisher), reason } => {
            lists.unsubscribe(&publisher, &author(reason), None).await?;
            writeln!(out, "what {publisher} lists counts for nothing any more")?;
        }
        ListCommand::Refresh { publisher: Some(Listable(publisher)) } => {
            writeln!(out, "{}", line(&lists.refresh(&publisher).await?))?;
        }
        ListCommand::Refresh { publisher: None } => {
            let mut refused = 0;
            for view in lists.subscriptions().await? {
                match lists.refresh(&view.publisher).await {
                    Ok(view) => writeln!(out, "{}", line(&view))?,
                    Err(error) => {
                        refused += 1;
                        writeln!(io::stderr(), "{error}")?;
                    }
                }
            }
            if refused > 0 {
                return Err(format!("{refused} of the lists could not be taken").into());
            }
        }
        ListCommand::ClearAlarm { server: Listable(server), reason } => {
            lists.clear_alarm(&server, &author(reason)).await?;
            writeln!(out, "{server} is known by the keys in its list again")?;
        }
    }
    Ok(())
}

impl Publication {
    fn read(&self) -> Result<Edition, Failure> {
        let mut entries: BTreeMap<String, Option<EntryChange>> = match &self.file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| format!("the file {} could not be read: {error}", file.display()))?;
                serde_json::from_str(&text)
                    .map_err(|error| format!("the file {} has no entries: {error}", file.display()))?
            }
            None => BTreeMap::new(),
        };
        for wish in &self.levels {
            let (server, level) =
                wish.rsplit_once('=').ok_or_else(|| format!("`{wish}` is not of the form b.example=full"))?;
            let entry = entries.entry(server.to_owned()).or_default().get_or_insert_default();
            entry.level = Some(level.parse()?);
        }
        entries.extend(self.dropped.iter().map(|server| (server.clone(), None)));
        let millis = |length: Duration| Millis::try_from(length.as_millis()).unwrap_or(Millis::MAX);
        Ok(Edition {
            from: self.from,
            peers: self.peers.clone(),
            entries,
            lifetime: self.expires_in.map(|length| millis(*length)),
            version: self.version,
        })
    }
}

fn read_key(text: &str) -> Result<(String, String), Failure> {
    let (id, key) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form ed25519:a_x=BASE64"))?;
    Ok((id.to_owned(), key.to_owned()))
}

fn line_of_ours(view: &PublishedView) -> String {
    let state = if view.expired { "expired" } else { "published" };
    let PublishedView { publisher, version, entries, .. } = view;
    format!("{publisher}\t{version}\t-\t{state}\t{} servers\t{}", entries.len(), time(view.expires_at))
}

fn line(view: &SubscriptionView) -> String {
    let SubscriptionView { publisher, version, highest_level, state, .. } = view;
    let last = match (&view.refusal, &view.servers) {
        (Some(refusal), _) => refusal.code.clone(),
        (None, Some(servers)) => format!("{} servers", servers.len()),
        (None, None) => "ok".to_owned(),
    };
    format!("{publisher}\t{version}\t{highest_level}\t{}\t{last}\t{}", state.as_str(), time(view.expires_at))
}

fn time(at: Millis) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(at.unsigned_abs());
    humantime::format_rfc3339_seconds(at).to_string()
}
