//! Stories that people live with the native API, `/api/v1`.

mod auth;
mod people;
