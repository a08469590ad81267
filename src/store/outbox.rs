//! What other servers are still owed.

use model::EventNid;
use ruma::ServerName;

use crate::{Arg, Table, Write, args};

static OUTBOX: Table = Table {
    insert: "INSERT INTO outbox (destination, position, event_nid)",
    columns: 3,
    conflict: "ON CONFLICT DO NOTHING",
    key: 2,
};

/// Owes `destination` an event that becomes visible at `position`.
pub fn push(write: &mut Write, destination: &ServerName, position: Arg, event: EventNid) {
    let mut row = args![destination.as_str()];
    row.push(position);
    row.extend(args![event.0]);
    write.insert(&OUTBOX, row);
}
