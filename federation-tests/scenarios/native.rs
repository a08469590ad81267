//! Stories that people live with the native API, `/api/v1`.

mod admin;
mod applications;
mod auth;
mod conversations;
mod equivalence;
mod people;
mod realtime;
mod search;
mod timed;
mod transfers;
