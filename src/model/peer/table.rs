//! What the trust levels mean: one row for each capability.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{TrustLevel, WrongGrant};

/// Something that a peer may do here, or this server towards a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Capability {
    /// Looking up the profile of a user by the user's id.
    Profiles,
    /// Looking for people by a part of their names.
    PeopleSearch,
    /// Inviting or writing to somebody who has not been talked with before.
    FirstContact,
    /// Joining, or knocking on, a room here.
    Join,
    /// People of this server joining rooms there.
    JoinThere,
    /// Exchanging the events of shared rooms, and what is missing of them.
    Events,
    /// Reading what was said before the peer's people came into a room.
    History,
    /// Device keys, and messages between devices.
    Devices,
    /// Public read receipts.
    Receipts,
    /// Who types.
    Typing,
    /// Who is online.
    Presence,
    /// Reading the directory of public rooms.
    PublicRooms,
    /// Images and files.
    Media,
    /// Being told that something was delivered.
    DeliveryReceipts,
    /// AMQP as a transport, system broadcasts and events, cascade.
    Broadcasts,
    /// Being asked by this server for the keys of others, or for their policies.
    Notary,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The peer does something here.
    In,
    /// This server does something towards the peer.
    Out,
}

impl Direction {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// How far a capability reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Grant {
    /// Not at all.
    No,
    /// As far as the protocol and the room allow.
    Yes,
    /// Names and avatars, no other fields.
    Names,
    /// Of users who share a room with the other, or have the other as a contact.
    Acquainted,
    /// Whole names, no parts of them.
    Exact,
    /// Yes, marked as a request.
    Request,
    /// From and to contacts of the local user.
    Contacts,
    /// Who was invited.
    Invited,
    /// What an admin has approved.
    Approved,
    /// At a moderate rate.
    Paced,
    /// At a low rate.
    Slow,
    /// The last thirty days.
    Recent,
    /// From the first join on.
    SinceJoin,
    /// Where a room is shared.
    Shared,
    /// What is listed for peers on purpose.
    Listed,
    /// By server, not by device.
    Server,
    /// By device.
    Device,
    /// Where the configuration names the peer for it.
    OptIn,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// What it is about.
    pub capability: Capability,
    /// Its name in the API, the command line and the log.
    pub word: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// By whom it is done.
    pub directions: &'static [Direction],
    /// What it can be, from the least to the most.
    pub grants: &'static [Grant],
    /// What it is for each level, blocked first.
    pub levels: [Grant; 4],
}

use Direction::{In, Out};
use Grant::*;

const BOTH: &[Direction] = &[In, Out];

/// The meaning of the trust levels, in the order of [`Capability`].
#[rustfmt::skip]
pub static TABLE: [Row; 16] = [
    row(Capability::Profiles, "profiles", "profile query, remote-user look-up", BOTH,
        &[No, Acquainted, Names, Yes], [No, Acquainted, Names, Yes]),
    row(Capability::PeopleSearch, "people_search", "people search across domains", BOTH,
        &[No, Exact, Yes], [No, No, Exact, Yes]),
    row(Capability::FirstContact, "first_contact", "invite or message a user first", BOTH,
        &[No, Contacts, Request, Yes], [No, Contacts, Request, Yes]),
    row(Capability::Join, "join", "join or knock on a room here, as its own rules and its ceiling allow", &[In],
        &[No, Invited, Yes], [No, Invited, Yes, Yes]),
    row(Capability::JoinThere, "join_there", "our users join rooms there", &[Out],
        &[No, Approved, Yes], [No, Approved, Yes, Yes]),
    row(Capability::Events, "events", "events in shared rooms, state, missing events", BOTH,
        &[No, Slow, Paced, Yes], [No, Slow, Paced, Yes]),
    row(Capability::History, "history", "history before their join (backfill)", &[In],
        &[No, SinceJoin, Recent, Yes], [No, SinceJoin, Recent, Yes]),
    row(Capability::Devices, "devices", "device keys, messages between devices", BOTH,
        &[No, Shared, Paced, Yes], [No, Shared, Paced, Yes]),
    row(Capability::Receipts, "receipts", "public read receipts", BOTH,
        &[No, Yes], [No, No, Yes, Yes]),
    row(Capability::Typing, "typing", "who types", BOTH,
        &[No, Yes], [No, No, No, Yes]),
    row(Capability::Presence, "presence", "who is online", BOTH,
        &[No, Yes], [No, No, No, Yes]),
    row(Capability::PublicRooms, "public_rooms", "the directory of public rooms", &[In],
        &[No, Listed, Yes], [No, No, Listed, Yes]),
    row(Capability::Media, "media", "images and files", BOTH,
        &[No, Shared, Paced, Yes], [No, Shared, Paced, Yes]),
    row(Capability::DeliveryReceipts, "delivery_receipts", "being told that something was delivered", BOTH,
        &[No, Server, Device], [No, No, Server, Device]),
    row(Capability::Broadcasts, "broadcasts", "AMQP transport, system broadcasts and events, cascade", BOTH,
        &[No, Yes], [No, No, No, Yes]),
    row(Capability::Notary, "notary", "act as notary or policy server for us", &[Out],
        &[No, OptIn], [No, No, No, OptIn]),
];

const fn row(
    capability: Capability,
    word: &'static str,
    what: &'static str,
    directions: &'static [Direction],
    grants: &'static [Grant],
    levels: [Grant; 4],
) -> Row {
    Row { capability, word, what, directions, grants, levels }
}

impl Capability {
    /// All of them, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.capability)
    }

    /// Its row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.row().word
    }

    /// How far it reaches at `level`.
    pub fn at(self, level: TrustLevel) -> Grant {
        self.row().levels[level as usize]
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = WrongGrant;

    fn from_str(word: &str) -> Result<Self, WrongGrant> {
        let found = TABLE.iter().find(|row| row.word == word);
        found.map(|row| row.capability).ok_or_else(|| WrongGrant::Capability(word.to_owned()))
    }
}

impl Grant {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Names => "names",
            Self::Acquainted => "acquainted",
            Self::Exact => "exact",
            Self::Request => "request",
            Self::Contacts => "contacts",
            Self::Invited => "invited",
            Self::Approved => "approved",
            Self::Paced => "paced",
            Self::Slow => "slow",
            Self::Recent => "recent",
            Self::SinceJoin => "since_join",
            Self::Shared => "shared",
            Self::Listed => "listed",
            Self::Server => "server",
            Self::Device => "device",
            Self::OptIn => "opt_in",
        }
    }

    /// What it means for `capability`, for people.
    fn meaning(self, capability: Capability) -> &'static str {
        match (self, capability) {
            (Self::Yes, Capability::Profiles) => "all fields",
            (Self::Names, _) => "names and avatar",
            (Self::Acquainted, _) => "only users who share a room or are contacts",
            (Self::Yes, Capability::PeopleSearch) => "part of a name",
            (Self::Exact, _) => "exact",
            (Self::Request, _) => "yes, shown as a request",
            (Self::Contacts, _) => "only with the local user's contacts",
            (Self::Invited, _) => "only when invited",
            (Self::Approved, _) => "with an admin's approval",
            (Self::Paced, Capability::Media) => "size and type limits",
            (Self::Paced, _) => "yes, rate-limited",
            (Self::Slow, _) => "yes, rate-limited hard",
            (Self::Yes, Capability::History) => "as the room allows",
            (Self::Recent, _) => "30 days",
            (Self::SinceJoin, _) => "from their join",
            (Self::Shared, Capability::Media) => "of users in shared rooms, smaller",
            (Self::Shared, _) => "shared rooms only",
            (Self::Yes, Capability::PublicRooms) => "full",
            (Self::Listed, _) => "rooms listed for peers",
            (Self::Device, _) => "by device",
            (Self::Server, _) => "by server",
            (Self::OptIn, _) => "if opted in",
            (Self::Yes, _) => "yes",
            (Self::No, _) => "no",
        }
    }
}

/// The table as the documentation has it.
pub fn markdown() -> String {
    let mut text = String::from(
        "| capability | by the peer, or by us towards it | ways | full | limited | restricted | blocked |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in &TABLE {
        let ways: Vec<&str> = row.directions.iter().map(|direction| direction.as_str()).collect();
        let cell = |level| {
            let grant = row.capability.at(level);
            format!("{} (`{}`)", grant.meaning(row.capability), grant.as_str())
        };
        let cells: Vec<String> = TrustLevel::ALL.into_iter().rev().map(cell).collect();
        text.push_str(&format!("| `{}` | {} | {} | {} |\n", row.word, row.what, ways.join(", "), cells.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_very_table() {
        let page = include_str!("../../../docs/trust.md");
        let (_, rest) = page.split_once("<!-- levels -->\n").expect("there is a place for it");
        let (table, _) = rest.split_once("<!-- /levels -->").expect("it ends");
        assert_eq!(table, markdown(), "put what `comity peer levels` prints into docs/trust.md");
    }

    #[test]
    fn the_table_is_in_the_order_of_the_capabilities_and_each_of_its_grants_is_possible() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.capability as usize, at, "{}", row.word);
            assert_eq!(row.word.parse(), Ok(row.capability));
            let rank = |grant| row.grants.iter().position(|one| *one == grant);
            let ranks: Vec<_> = row.levels.iter().map(|grant| rank(*grant).expect("it is possible")).collect();
            assert!(ranks.is_sorted(), "{}: more trust is never less", row.word);
            assert_eq!(row.levels[0], Grant::No, "{}: a blocked peer does nothing", row.word);
        }
    }
}
