//! Stories that people live with the native API.

mod people;
