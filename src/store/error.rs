//! Why the store could not do what it was asked.

/// Why a read or a write failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A row with this key is there already; nothing of the write took effect.
    #[error("a row with this key exists already")]
    Duplicate,
    /// A precondition of the write no longer held; nothing of it took effect. Try again on fresh state.
    #[error("the room changed meanwhile")]
    Conflict,
    /// Another node has taken over what the write belongs to; nothing of it took effect. Leave it to that node.
    #[error("another node has taken this over")]
    Superseded,
    /// The database can't be reached, is full, or is read-only now; it may come back.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// A text has the character U+0000, which PostgreSQL can't keep.
    #[error("a text has the character U+0000 in it, which can't be stored: leave it out")]
    Unstorable,
    /// The database did not take a statement of ours.
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database schema could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// What is stored can't be read back.
    #[error("a stored value is corrupt: {0}")]
    Corrupt(String),
    /// The writer has too much to do, or has stopped.
    #[error("the writer takes no more work now")]
    Overloaded,
}

impl Error {
    /// Whether the cause is one Write of a batch, so that the others may succeed without it.
    pub(crate) fn is_of_one_write(&self) -> bool {
        matches!(self, Self::Duplicate | Self::Unstorable | Self::Database(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(database) = &error else {
            return match error {
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::TypeNotFound { .. } => {
                    Self::Corrupt(error.to_string())
                }
                _ => Self::Unavailable(error),
            };
        };
        if database.is_unique_violation() {
            return Self::Duplicate;
        }
        let code = database.code().unwrap_or_default();
        // PostgreSQL: as a text, and in JSON.
        if matches!(&*code, "22021" | "22P05") {
            return Self::Unstorable;
        }
        // SQLite: 5 busy, 6 locked, 8 read-only, 10 I/O, 13 full, 14 can't open (extended codes carry the primary one
        // in their low byte). PostgreSQL: classes 08 connection, 53 resources, 55 not in state, 57 operator.
        let is_outage = match code.parse::<u32>() {
            Ok(number) if code.len() != 5 => matches!(number & 0xff, 5 | 6 | 8 | 10 | 13 | 14),
            _ => ["08", "25006", "53", "55", "57", "3D", "28"].iter().any(|class| code.starts_with(class)),
        };
        if is_outage { Self::Unavailable(error) } else { Self::Database(error) }
    }
}

impl model::Refusal for Error {
    fn kind(&self) -> model::Kind {
        match self {
            Self::Duplicate | Self::Conflict | Self::Superseded => model::Kind::Conflict,
            Self::Unstorable => model::Kind::Invalid,
            Self::Unavailable(_) | Self::Overloaded => model::Kind::Unavailable,
            Self::Database(_) | Self::Migrate(_) | Self::Corrupt(_) => model::Kind::Internal,
        }
    }
}
