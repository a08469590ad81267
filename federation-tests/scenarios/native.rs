//! Stories that people live with the native API, `/api/v1`.

mod admin;
mod auth;
mod conversations;
mod people;
mod realtime;
