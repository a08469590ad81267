//! Stories of those who use the native API beside those who use Matrix clients: the same rooms, seen from two sides.

mod conversations;
