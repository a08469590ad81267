//! Stories that people, clients and operators live with the real binary.

mod accounts;
mod bad_input;
mod before_hooks;
mod broadcasts;
mod bus;
mod chat;
mod content_rules;
mod crash;
mod described;
mod encrypted;
mod federation;
mod figures;
mod file_safety;
mod files;
mod lifecycle;
mod native;
mod nodes;
mod oauth;
mod outages;
mod race;
mod rooms;
mod sdk;
mod sso;
mod storage;
mod sync_stories;
mod webhooks;
