//! The two engines, and the one database that belongs to one server.

use std::{
    env,
    panic::Location,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

/// Where a private PostgreSQL for the tests is, as `postgres://user@host:port/postgres`.
const POSTGRES_URL: &str = "COMITY_TEST_POSTGRES_URL";

/// What a server keeps its data in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A file in the server's folder.
    Sqlite,
    /// A fresh database for each server on the PostgreSQL at this URL.
    Postgres(String),
}

impl Engine {
    /// The PostgreSQL that the environment names, if it names one.
    pub fn postgres() -> Option<Self> {
        env::var(POSTGRES_URL).ok().filter(|url| !url.is_empty()).map(Self::Postgres)
    }
}

/// Tells `story` on SQLite, then on PostgreSQL if `COMITY_TEST_POSTGRES_URL` says where one is.
#[track_caller]
pub fn on_each_engine<S>(story: S) -> impl Future<Output = ()>
where
    S: AsyncFn(Engine),
{
    let teller = Location::caller();
    async move {
        eprintln!("{}:{} on SQLite", teller.file(), teller.line());
        story(Engine::Sqlite).await;
        match Engine::postgres() {
            Some(engine) => {
                eprintln!("{}:{} on PostgreSQL", teller.file(), teller.line());
                story(engine).await;
            }
            None => eprintln!("SKIPPED on PostgreSQL: {POSTGRES_URL} isn't set"),
        }
    }
}

/// The database of one server.
#[derive(Clone, Debug)]
pub enum Database {
    /// The file named by the server's own folder.
    Sqlite,
    /// One of many in a cluster, dropped with its server.
    Postgres {
        /// Where it was created from.
        admin_url: String,
        /// Its name in the cluster.
        name: String,
    },
}

impl Database {
    /// Makes an empty database.
    pub async fn create(engine: &Engine) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        match engine {
            Engine::Sqlite => Self::Sqlite,
            Engine::Postgres(admin_url) => {
                let count = COUNT.fetch_add(1, Ordering::Relaxed);
                let name = format!("comity_test_{}_{count}", std::process::id());
                let database = Self::Postgres { admin_url: admin_url.clone(), name: name.clone() };
                database
                    .administer(&[&format!("DROP DATABASE IF EXISTS {name}"), &format!("CREATE DATABASE {name}")])
                    .await;
                database
            }
        }
    }

    /// The URL for `[database] url` of the server that lives in `folder`.
    pub fn url(&self, folder: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite://{}", folder.join("data/comity.db").display()),
            Self::Postgres { admin_url, name } => {
                let mut url = reqwest::Url::parse(admin_url).expect("the PostgreSQL URL of the environment is a URL");
                url.set_path(name);
                url.to_string()
            }
        }
    }

    /// Takes a PostgreSQL database away from the server that uses it: every connection ends, no new one is let in.
    pub async fn go_away(&self) {
        let name = self.postgres_name();
        self.administer(&[
            &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
            &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
        ])
        .await;
    }

    /// Ends every connection of the server to its PostgreSQL database; new ones are let in.
    pub async fn cut_connections(&self) {
        let name = self.postgres_name();
        self.administer(&[&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")])
            .await;
    }

    /// The opposite of [`Self::go_away`].
    pub async fn come_back(&self) {
        let name = self.postgres_name();
        self.administer(&[&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")]).await;
    }

    /// How many rows a table of the server that lives in `folder` has, for what a client can't see: what something costs.
    pub async fn rows(&self, folder: &Path, table: &str) -> i64 {
        let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let url = self.url(folder);
        let counted = match self {
            Self::Sqlite => {
                let mut connection = SqliteConnection::connect(&url).await.expect("the file is there");
                sqlx::query_scalar(count).fetch_one(&mut connection).await
            }
            Self::Postgres { .. } => {
                let mut connection = PgConnection::connect(&url).await.expect("the database is there");
                sqlx::query_scalar(count).fetch_one(&mut connection).await
            }
        };
        counted.unwrap_or_else(|error| panic!("the rows of {table} could not be counted: {error}"))
    }

    /// Drops a PostgreSQL database. A file goes with its folder.
    pub async fn remove(&self) {
        if let Self::Postgres { name, .. } = self {
            self.administer(&[&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")]).await;
        }
    }

    fn postgres_name(&self) -> &str {
        match self {
            Self::Postgres { name, .. } => name,
            Self::Sqlite => panic!("only PostgreSQL can be taken away from outside"),
        }
    }

    async fn administer(&self, statements: &[&str]) {
        let Self::Postgres { admin_url, .. } = self else { return };
        let mut connection = PgConnection::connect(admin_url).await.expect("the PostgreSQL of the environment answers");
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))
                .execute(&mut connection)
                .await
                .unwrap_or_else(|error| panic!("PostgreSQL refused {statement}: {error}"));
        }
        // The session ends with the connection either way; a polite goodbye that fails changes nothing.
        let _ = connection.close().await;
    }
}
