//! What goes to other servers and comes from them.

use std::sync::Arc;

use fabric::Broker;
use federation::{Bridge, Carrier, FederationConfig, Inbound, Sender};
use integrations::Announcements;
use peers::Links;
use sync::Sync;
use tokio_util::sync::CancellationToken;

use super::{core::Core, tasks::Tasks};
use crate::nodes::Nodes;

/// Who sends to other servers, and takes what comes from them.
pub(super) struct Outward {
    pub(super) sender: Sender,
    pub(super) inbound: Inbound,
    pub(super) bridge: Bridge,
    pub(super) carrier: Carrier,
}

impl Outward {
    /// `node`: this one, where several may share the database.
    pub(super) fn new(
        core: &Core,
        sync: &Sync,
        broker: Option<Broker>,
        node: Option<Arc<str>>,
        config: FederationConfig,
    ) -> Self {
        let Core { store, key, peers, users, rooms, .. } = core;
        let inbound = Inbound::new(store.clone(), rooms.clone(), sync.clone(), users.clone());
        let bridge =
            Bridge::new(store.clone(), rooms.clone(), users.clone(), peers.clone(), inbound.clone(), config.curves);
        let carrier = Carrier::new(peers.clone(), inbound.clone(), key.clone(), broker, node);
        let way = Arc::new(carrier.clone());
        let sender = Sender::new(store.clone(), rooms.clone(), users.clone(), way, config);
        Self { sender, inbound, bridge, carrier }
    }

    /// From now on each hears what the others come to know: that there is something to send, that somebody is there again.
    pub(super) fn connect(&self, core: &Core, sync: &Sync, announcements: &Announcements, nodes: Nodes) {
        let Self { sender, bridge, carrier, .. } = self;
        core.audience.sender.get_or_init(|| sender.clone());
        core.audience.bridge.get_or_init(|| bridge.clone());
        let (sends, bridges, broadcasts) = (sender.clone(), bridge.clone(), announcements.broadcasts.clone());
        core.peers.on_heard(Box::new(move |server| {
            sends.alive(server);
            bridges.alive(server);
            broadcasts.alive(server);
            if !sends.sends_to(server) || !bridges.sends_to(server) {
                nodes.alive(server);
            }
        }));
        let sends = sender.clone();
        carrier.on_up(Box::new(move |server| sends.alive(server)));
        let sends = sender.clone();
        sync.on_arrival(Box::new(move |arrival| sends.arrived(arrival)));
    }

    /// Sends and takes until it is ended; then it waits a few seconds for what is under way.
    pub(super) fn start(&self, core: &Core, links: Option<&Links>) -> Tasks {
        let tasks = Tasks::until(CancellationToken::new());
        let Self { sender, inbound, bridge, carrier } = self;
        let (ledger, peering, lists, rooms) =
            (sender.ledger(), core.peers.peering(), core.peers.lists(), core.rooms.clone());
        let sender = sender.clone();
        tasks.spawn(|stop| async move { sender.run(stop).await });
        let inbound = inbound.clone();
        tasks.spawn(|stop| async move { inbound.run(stop).await });
        let bridge = bridge.clone();
        tasks.spawn(|stop| async move { bridge.run(stop).await });
        let carrier = carrier.clone();
        tasks.spawn(|stop| async move { carrier.run(stop).await });
        if let Some(links) = links.cloned() {
            tasks.spawn(|stop| async move { links.run(stop).await });
        }
        // Offers and agreements are told, lists of others kept up with, deliveries summed up, access control lists kept.
        tasks.spawn(|stop| async move { peering.tend(stop).await });
        tasks.spawn(|stop| async move { lists.tend(stop).await });
        tasks.spawn(|stop| async move { ledger.run(stop).await });
        tasks.spawn(|stop| async move { rooms.keep_acls(stop).await });
        tasks
    }
}
