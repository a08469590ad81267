//! Stories on the native API.

mod conversations;
mod realtime;
