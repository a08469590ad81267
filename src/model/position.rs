//! Numbers that must not be mixed up.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl From<$name> for i64 {
            fn from(number: $name) -> i64 {
                number.0
            }
        }
    };
}

number! {
    /// A place in the one stream of everything that happens on this deployment. Born in the store's writer; what has a
    /// greater one became visible later. Negative: history that arrived after the fact, older the smaller it is.
    Position
}
number! {
    /// A room's number inside this database.
    RoomNid
}
number! {
    /// An event's number inside this database. Says nothing about order.
    EventNid
}
number! {
    /// The number of a stored room state inside this database.
    SnapshotNid
}
