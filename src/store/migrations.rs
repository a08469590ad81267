//! The schema, step by step. Each step lands once and is never edited afterwards.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

macro_rules! migrations {
    ($($version:literal $name:literal),* $(,)?) => {
        &[$(($version, $name, include_str!(concat!("../../migrations/", $name, ".sql")))),*]
    };
}

type Step = (i64, &'static str, &'static str);

/// One text for both engines.
const SHARED: &[Step] = migrations![
    1 "0001_positions",
    2 "0002_accounts",
    3 "0003_rooms",
    4 "0004_streams",
    5 "0005_outbox",
    6 "0006_server_keys",
    7 "0007_federation",
    8 "0008_shared_rooms",
    9 "0009_media",
    10 "0010_peers",
    11 "0011_ledger",
    12 "0012_remote_users",
    13 "0013_roles",
    14 "0014_native_federation",
    15 "0015_peering",
    16 "0016_federation_lists",
    17 "0017_room_trust",
    18 "0018_device_receipts",
    20 "0020_broker_links",
    21 "0021_duties",
    22 "0022_broadcasts",
    23 "0023_followers",
    24 "0024_webhooks",
    25 "0025_cascade",
    26 "0026_before_hooks",
    27 "0027_auth",
    28 "0028_conversation_seq",
    29 "0029_people",
    31 "0031_uploads",
    32 "0032_word_sets",
    33 "0033_applications",
    34 "0034_admin",
    36 "0036_timed_messages",
    37 "0037_file_transfers",
    40 "0040_held_messages",
    41 "0041_sliding_sync",
    42 "0042_pushers",
    43 "0043_oauth",
    44 "0044_delayed_events",
];

/// What only SQLite knows.
const SQLITE: &[Step] = migrations![35 "0035_search_sqlite"];

/// What only PostgreSQL knows.
const POSTGRES: &[Step] = migrations![35 "0035_search_postgres"];

pub(crate) fn for_engine(is_postgres: bool) -> Migrator {
    up_to(i64::MAX, is_postgres)
}

/// The schema as it was once.
pub(crate) fn up_to(last: i64, is_postgres: bool) -> Migrator {
    let own = if is_postgres { POSTGRES } else { SQLITE };
    let mut steps: Vec<Migration> = SHARED
        .iter()
        .chain(own)
        .filter(|(version, ..)| *version <= last)
        .map(|(version, name, sql)| {
            Migration::new(*version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    steps.sort_by_key(|step| step.version);
    Migrator::with_migrations(steps)
}
