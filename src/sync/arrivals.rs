//! What has come onto devices: an answer has arrived when its device asks for what comes after it.
//!
//! In memory, and a hint: what is forgotten, because the process ended or there are very many devices, is not told of.

use std::{collections::BTreeMap, sync::OnceLock};

use model::Position;
use quick_cache::sync::Cache;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::answer::Event;

/// Of how many devices the last answer is remembered.
const DEVICES: usize = 20_000;
/// Of how many rooms of an answer.
const ROOMS: usize = 50;

/// Everything that people of another server have said in a room, up to an event of theirs, has come onto a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Whose device.
    pub user_id: OwnedUserId,
    /// In which room.
    pub room_id: OwnedRoomId,
    /// Whose people said it.
    pub server: OwnedServerName,
    /// The last of it.
    pub event_id: OwnedEventId,
}

/// Is told what has come onto devices; it must not wait.
pub type OnArrival = Box<dyn Fn(Arrival) + Send + Sync>;

/// The last answers that hold something of other servers.
pub(crate) struct Arrivals {
    answered: Cache<(OwnedUserId, String), Answered>,
    listener: OnceLock<OnArrival>,
}

#[derive(Clone)]
struct Answered {
    upto: Position,
    latest: Vec<(OwnedRoomId, OwnedServerName, OwnedEventId)>,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        Self { answered: Cache::new(DEVICES), listener: OnceLock::new() }
    }

    /// From now on `listener` is told. Only the first who wants that is.
    pub(crate) fn tell(&self, listener: OnArrival) {
        self.listener.set(listener).ok();
    }

    /// Who is told, if anybody is.
    pub(crate) fn listener(&self) -> Option<&OnArrival> {
        self.listener.get()
    }

    /// A device asks for what comes after `since`: it has all before that. `device`: as in [`Self::note`].
    pub(crate) fn confirm(&self, user_id: &UserId, device: &str, since: Position) {
        let (Some(listener), false) = (self.listener.get(), device.is_empty()) else { return };
        let key = (user_id.to_owned(), device.to_owned());
        // Who comes again with an older token didn't get the answer.
        let Some((_, answered)) = self.answered.remove_if(&key, |answered| answered.upto <= since) else {
            return;
        };
        for (room_id, server, event_id) in answered.latest {
            listener(Arrival { user_id: user_id.to_owned(), room_id, server, event_id });
        }
    }

    /// This is what a device is answered, up to `upto`. `device`: its id, or what tells its connection from others.
    pub(crate) fn note<'a>(
        &self,
        us: &ServerName,
        user_id: &UserId,
        device: &str,
        upto: Position,
        rooms: impl Iterator<Item = (&'a OwnedRoomId, &'a [Event])>,
    ) {
        if self.listener.get().is_none() || device.is_empty() {
            return;
        }
        let mut latest = Vec::new();
        for (room_id, events) in rooms.take(ROOMS) {
            let mut by_server = BTreeMap::new();
            for event in events {
                let pdu = &event.shown.event.pdu;
                if pdu.sender.server_name() != us {
                    by_server.insert(pdu.sender.server_name(), &pdu.event_id);
                }
            }
            latest.extend(
                by_server.into_iter().map(|(server, event_id)| (room_id.clone(), server.to_owned(), event_id.clone())),
            );
        }
        if !latest.is_empty() {
            self.answered.insert((user_id.to_owned(), device.to_owned()), Answered { upto, latest });
        }
    }
}
