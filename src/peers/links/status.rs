//! How the links are, for admins.

use fabric::{
    management::{LinkWay, Snapshot},
    naming,
};
use model::Millis;
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;
use store::broker_links::LinkRow;

use super::{Links, LinksError, ask::THEIRS, offer::Theirs, plan::internal, user_of, word_of};
use crate::trust::Transport;

/// The broker, and every link.
#[derive(Clone, Debug, Serialize)]
pub struct BusStatus {
    /// Where the management of this server's broker is.
    pub management: String,
    /// What the broker calls itself to others; `None`: it does not answer.
    pub cluster_name: Option<String>,
    /// Where peers reach the broker.
    pub public_url: Option<String>,
    /// What keeps it from doing what it should, each in a sentence that says what to do.
    pub findings: Vec<String>,
    /// By name: one for each peer with which there is to be a link.
    pub links: Vec<LinkStatus>,
}

/// How a link is.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// With whom.
    pub peer: OwnedServerName,
    /// `auto` or `amqp`, as it is set for the peer.
    pub transport: Transport,
    /// What it is made of at this server's broker: `upstream` or `shovel`; `None`: it isn't made yet.
    pub link: Option<&'static str>,
    /// The virtual host that is for it.
    pub vhost: String,
    /// What goes to the peer.
    pub outgoing: WayStatus,
    /// What comes from it.
    pub incoming: WayStatus,
    /// How many messages came from the peer that could not be taken, and are kept to be looked at.
    pub dead: u64,
    /// Of passwords, when they were made, told and heard.
    pub credentials: Credentials,
    /// Why it can't be made as it should be.
    pub trouble: Option<String>,
}

/// One direction of a link.
#[derive(Clone, Debug, Serialize)]
pub struct WayStatus {
    /// `up`, `down`; `unknown`: this server's broker can't be asked.
    pub state: &'static str,
    /// Who makes it: `us` or `peer`.
    pub made_by: &'static str,
    /// How many messages wait at this server's broker.
    pub waiting: u64,
    /// Why it is down.
    pub error: Option<String>,
}

/// When passwords were made, told and heard, in milliseconds since 1970.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Credentials {
    /// When the password of the peer's user was made.
    pub made_at: Option<Millis>,
    /// When the peer was last told it.
    pub given_at: Option<Millis>,
    /// When it was heard or set how to log in at the peer's broker.
    pub heard_at: Option<Millis>,
    /// Whether an admin set that.
    pub by_hand: bool,
}

impl Links {
    /// How all of it is now: as the broker says, if it says anything.
    pub async fn status(&self) -> Result<BusStatus, LinksError> {
        self.check().await;
        let wanted = self.wanted();
        let rows = self.store().broker_links().list().await?;
        let vhosts: Vec<String> = wanted.keys().map(|peer| naming::vhost(peer)).collect();
        let management = &self.shared.management;
        let there = management.look(&vhosts).await.ok();
        let cluster_name = management.cluster_name().await.ok();
        let links = wanted.iter().map(|(peer, transport)| {
            let row = rows.iter().find(|row| row.peer == *peer);
            self.status_of(peer, *transport, row, there.as_ref())
        });
        Ok(BusStatus {
            management: management.place().to_owned(),
            cluster_name,
            public_url: self.shared.config.public_url.as_ref().map(ToString::to_string),
            findings: self.findings(),
            links: links.collect(),
        })
    }

    fn status_of(
        &self,
        peer: &ServerName,
        transport: Transport,
        row: Option<&LinkRow>,
        there: Option<&Snapshot>,
    ) -> LinkStatus {
        let vhost = naming::vhost(peer);
        let way = row.and_then(|row| self.way_with(row));
        let waiting = |queue: &str| there.and_then(|there| there.waiting(&vhost, queue)).unwrap_or_default();
        let for_upstream = there.map_or(0, |there| there.waiting_below(&vhost, &internal(peer)));
        let (ours, theirs) = match there {
            Some(there) => (self.of_ours(peer, way, there), of_theirs(peer, there)),
            None => {
                let unknown = |made_by| WayStatus { state: "unknown", made_by, waiting: 0, error: None };
                (unknown("us"), unknown("peer"))
            }
        };
        // An upstream fetches, a shovel brings.
        let (outgoing, incoming) = match way {
            Some(LinkWay::Shovel) => (ours, theirs),
            _ => (theirs, ours),
        };
        let waiting_out = waiting(&naming::outgoing(peer)) + for_upstream;
        LinkStatus {
            peer: peer.to_owned(),
            transport,
            link: way.map(word_of),
            outgoing: WayStatus { waiting: waiting_out, ..outgoing },
            incoming: WayStatus { waiting: waiting(&naming::incoming(peer)), ..incoming },
            dead: waiting(&naming::dead(peer)),
            credentials: row.map(credentials).unwrap_or_default(),
            trouble: row.and_then(|row| row.trouble.clone()),
            vhost,
        }
    }

    fn way_with(&self, row: &LinkRow) -> Option<LinkWay> {
        let opened = self.shared.vault.unseal(row.peer.as_str(), THEIRS, row.theirs.as_ref()?).ok()?;
        Some(serde_json::from_str::<Theirs>(&opened).ok()?.way(self.shared.config.way))
    }

    fn of_ours(&self, peer: &ServerName, way: Option<LinkWay>, there: &Snapshot) -> WayStatus {
        let vhost = naming::vhost(peer);
        let link = there.links.iter().find(|link| link.vhost == vhost && link.name == peer.as_str());
        let error = match (way, link) {
            (None, _) => Some("the peer has not said how to log in at its broker"),
            (Some(_), None) => Some("the broker does not know of it"),
            (Some(_), Some(link)) => link.fault.map(|fault| fault.words()),
        };
        let state = if error.is_none() { "up" } else { "down" };
        WayStatus { state, made_by: "us", waiting: 0, error: error.map(str::to_owned) }
    }
}

fn of_theirs(peer: &ServerName, there: &Snapshot) -> WayStatus {
    let is_connected = there.is_connected(&naming::vhost(peer), &user_of(peer));
    let error = (!is_connected).then(|| "the peer's broker is not connected to this server's".to_owned());
    WayStatus { state: if is_connected { "up" } else { "down" }, made_by: "peer", waiting: 0, error }
}

fn credentials(row: &LinkRow) -> Credentials {
    Credentials {
        made_at: Some(row.ours_at),
        given_at: row.given_at,
        heard_at: row.theirs_at.filter(|_| row.theirs.is_some()),
        by_hand: row.by_hand_at.is_some(),
    }
}
