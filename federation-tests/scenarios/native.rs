//! Stories on the native API.

mod realtime;
