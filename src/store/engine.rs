//! The one file that knows which database it is.
//!
//! Everything above speaks one SQL text with `$1` parameters and a narrow palette of values: text, 64-bit
//! integers and NULL.

use std::{borrow::Cow, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, Row as _,
    postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow},
    query::Query,
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
        SqliteSynchronous,
    },
};

use crate::error::Error;

/// A parameter of a statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Arg {
    /// TEXT.
    Text(Arc<str>),
    /// TEXT, absent.
    NoText,
    /// BIGINT.
    Int(i64),
    /// BIGINT, absent.
    NoInt,
    /// BIGINT: the position born for this [`crate::Write`], plus an offset below [`crate::Write::positions`].
    Position(u32),
    /// BIGINT: minus that position. History that arrives late lies before everything else, latest first.
    BackfilledPosition(u32),
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}
impl From<Option<i64>> for Arg {
    fn from(value: Option<i64>) -> Self {
        value.map_or(Self::NoInt, Self::Int)
    }
}
impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}
impl From<Option<&str>> for Arg {
    fn from(value: Option<&str>) -> Self {
        value.map_or(Self::NoText, Self::from)
    }
}
impl From<String> for Arg {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}
impl From<Option<String>> for Arg {
    fn from(value: Option<String>) -> Self {
        value.map_or(Self::NoText, Self::from)
    }
}
impl From<Arc<str>> for Arg {
    fn from(value: Arc<str>) -> Self {
        Self::Text(value)
    }
}
impl From<model::Position> for Arg {
    fn from(value: model::Position) -> Self {
        Self::Int(value.0)
    }
}

/// Lists the parameters of a statement: `args![user_id.as_str(), now, position]`.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$($crate::Arg::from($arg)),*] };
}

/// A row of an answer; columns are read by their place.
pub enum Row {
    #[doc(hidden)]
    Sqlite(SqliteRow),
    #[doc(hidden)]
    Postgres(PgRow),
}

impl Row {
    /// The TEXT in column `index`; the schema says that it is never NULL.
    pub fn text(&self, index: usize) -> Result<String, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(index)?,
            Self::Postgres(row) => row.try_get(index)?,
        })
    }

    /// The TEXT in column `index`, if it is there.
    pub fn opt_text(&self, index: usize) -> Result<Option<String>, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(index)?,
            Self::Postgres(row) => row.try_get(index)?,
        })
    }

    /// The BIGINT in column `index`; the schema says that it is never NULL.
    pub fn int(&self, index: usize) -> Result<i64, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(index)?,
            Self::Postgres(row) => row.try_get(index)?,
        })
    }

    /// The BIGINT in column `index`, if it is there.
    pub fn opt_int(&self, index: usize) -> Result<Option<i64>, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(index)?,
            Self::Postgres(row) => row.try_get(index)?,
        })
    }

    /// The TEXT in column `index`, parsed, for example into an identifier.
    pub fn parse<T: FromStr>(&self, index: usize) -> Result<T, Error>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(index)?;
        text.parse().map_err(|error: T::Err| Error::Corrupt(format!("column {index}: {error}")))
    }

    /// The TEXT in column `index`, if it is there, parsed.
    pub fn opt_parse<T: FromStr>(&self, index: usize) -> Result<Option<T>, Error>
    where
        T::Err: std::fmt::Display,
    {
        self.opt_text(index)?
            .map(|text| text.parse().map_err(|error: T::Err| Error::Corrupt(format!("column {index}: {error}"))))
            .transpose()
    }
}

/// Where the database is and how to use it.
#[derive(Clone, Debug)]
pub enum Location {
    /// A file, made when it isn't there.
    Sqlite(PathBuf),
    /// `postgres://user:password@host/database`.
    Postgres(String),
}

/// The readers, and the way to open the one writer.
#[derive(Clone)]
pub(crate) enum Pool {
    Sqlite(SqlitePool, SqliteConnectOptions),
    Postgres(PgPool, PgConnectOptions),
}

/// The writer's own connection.
pub(crate) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const STATEMENT_CACHE: usize = 512;

impl Pool {
    pub(crate) async fn open(location: &Location, readers: u32) -> Result<Self, Error> {
        match location {
            Location::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(false)
                    .busy_timeout(Duration::from_secs(5))
                    .statement_cache_capacity(STATEMENT_CACHE)
                    .pragma("cache_size", "-8000")
                    .pragma("temp_store", "memory")
                    .pragma("wal_autocheckpoint", "4000")
                    .pragma("journal_size_limit", "67108864");
                let options = quiet(options);
                // The file is made here, by the writer's options, before a read-only connection looks for it.
                SqliteConnection::connect_with(&options).await?.close().await?;
                let pool = SqlitePoolOptions::new()
                    .max_connections(readers)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .test_before_acquire(false)
                    .connect_with(options.clone())
                    .await?;
                Ok(Self::Sqlite(pool, options))
            }
            Location::Postgres(url) => {
                let options =
                    quiet(PgConnectOptions::from_str(url)?.statement_cache_capacity(STATEMENT_CACHE).options([
                        // Half a minute is longer than any statement of ours and shorter than a client's patience.
                        ("statement_timeout", "30000"),
                        ("application_name", "comity"),
                    ]));
                let pool = PgPoolOptions::new()
                    .max_connections(readers)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .test_before_acquire(false)
                    .connect_with(options.clone())
                    .await?;
                Ok(Self::Postgres(pool, options))
            }
        }
    }

    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        Ok(match self {
            Self::Sqlite(_, options) => Connection::Sqlite(SqliteConnection::connect_with(options).await?),
            Self::Postgres(_, options) => Connection::Postgres(PgConnection::connect_with(options).await?),
        })
    }

    pub(crate) async fn fetch_all(&self, sql: Cow<'static, str>, args: Vec<Arg>) -> Result<Vec<Row>, Error> {
        match self {
            Self::Sqlite(pool, _) => Ok(rows(bind_sqlite(sql, args).fetch_all(pool).await?, Row::Sqlite)),
            Self::Postgres(pool, _) => {
                // A connection that died while it was idle is noticed only by using it, and after an outage all of
                // them have: once for each, then a new one tells how things stand.
                for _ in 0..pool.options().get_max_connections() {
                    match bind_postgres(sql.clone(), args.clone()).fetch_all(pool).await {
                        Err(error) if is_dead_connection(&error) => {}
                        answer => return Ok(rows(answer?, Row::Postgres)),
                    }
                }
                Ok(rows(bind_postgres(sql, args).fetch_all(pool).await?, Row::Postgres))
            }
        }
    }

    pub(crate) async fn migrate(&self, migrator: &sqlx::migrate::Migrator) -> Result<(), Error> {
        match self {
            Self::Sqlite(pool, _) => migrator.run(pool).await?,
            Self::Postgres(pool, _) => migrator.run(pool).await?,
        }
        Ok(())
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(..))
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool, _) => pool.close().await,
            Self::Postgres(pool, _) => pool.close().await,
        }
    }
}

impl Connection {
    /// Opens a transaction that will write: SQLite takes its one write lock at once, so that nothing fails later.
    pub(crate) async fn begin(&mut self) -> Result<(), Error> {
        match self {
            Self::Sqlite(connection) => connection.execute("BEGIN IMMEDIATE").await.map(drop)?,
            Self::Postgres(connection) => connection.execute("BEGIN").await.map(drop)?,
        }
        Ok(())
    }

    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        self.simple("COMMIT").await
    }

    pub(crate) async fn rollback(&mut self) -> Result<(), Error> {
        self.simple("ROLLBACK").await
    }

    async fn simple(&mut self, sql: &'static str) -> Result<(), Error> {
        match self {
            Self::Sqlite(connection) => connection.execute(sql).await.map(drop)?,
            Self::Postgres(connection) => connection.execute(sql).await.map(drop)?,
        }
        Ok(())
    }

    pub(crate) async fn execute(&mut self, sql: impl Into<Cow<'static, str>>, args: Vec<Arg>) -> Result<u64, Error> {
        Ok(match self {
            Self::Sqlite(connection) => bind_sqlite(sql.into(), args).execute(connection).await?.rows_affected(),
            Self::Postgres(connection) => bind_postgres(sql.into(), args).execute(connection).await?.rows_affected(),
        })
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, Error> {
        Ok(match self {
            Self::Sqlite(connection) => rows(bind_sqlite(sql.into(), args).fetch_all(connection).await?, Row::Sqlite),
            Self::Postgres(connection) => {
                rows(bind_postgres(sql.into(), args).fetch_all(connection).await?, Row::Postgres)
            }
        })
    }
}

/// No statement is logged: they are many, and their parameters are people's words.
fn quiet<O: sqlx::ConnectOptions>(options: O) -> O {
    options.disable_statement_logging()
}

fn rows<R>(rows: Vec<R>, wrap: fn(R) -> Row) -> Vec<Row> {
    rows.into_iter().map(wrap).collect()
}

/// Whether the connection itself is gone; its pool has dropped it by then.
fn is_dead_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // The server said goodbye: admin_shutdown, crash_shutdown, idle_session_timeout.
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P05")),
        _ => false,
    }
}

type SqliteQuery = Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;
type PostgresQuery = Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind_sqlite(sql: Cow<'static, str>, args: Vec<Arg>) -> SqliteQuery {
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for arg in args {
        query = match arg {
            Arg::Text(text) => query.bind(text),
            Arg::Int(int) => query.bind(int),
            Arg::NoText => query.bind(None::<String>),
            Arg::NoInt => query.bind(None::<i64>),
            Arg::Position(_) | Arg::BackfilledPosition(_) => {
                unreachable!("the writer puts positions in place")
            }
        };
    }
    query
}

fn bind_postgres(sql: Cow<'static, str>, args: Vec<Arg>) -> PostgresQuery {
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for arg in args {
        query = match arg {
            Arg::Text(text) => query.bind(text),
            Arg::Int(int) => query.bind(int),
            Arg::NoText => query.bind(None::<String>),
            Arg::NoInt => query.bind(None::<i64>),
            Arg::Position(_) | Arg::BackfilledPosition(_) => {
                unreachable!("the writer puts positions in place")
            }
        };
    }
    query
}
