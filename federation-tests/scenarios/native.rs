//! Stories of the native API, `/api/v1`.

mod auth;
