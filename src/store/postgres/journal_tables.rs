//! The tables of a journal: entries, runs in progress, and the events of runs. Does not know what they mean.
//!
//! A run in progress is a row, and a lock that its process holds over a connection of its own. The server releases the lock
//! when the process ends, however it ends.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::{BigInt, Bool, Text};

use super::connect::{Route, ServerConnection, Timeouts, open};
use super::connection_url::ConnectionUrl;
use super::failure::convert_error;
use crate::error::{Error, ErrorKind, Result};

/// How long an entry waits for those that others append.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// The lock of the chain: nobody else appends while a transaction holds it.
const CHAIN_KEY: &str = "hashtextextended('tenantry journal', 0)";

const CREATE: &str = "\
    CREATE SCHEMA IF NOT EXISTS tenantry_journal;
    CREATE TABLE IF NOT EXISTS tenantry_journal.entries (number bigint PRIMARY KEY, line text NOT NULL);
    CREATE TABLE IF NOT EXISTS tenantry_journal.runs (run text PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS tenantry_journal.events
        (run text NOT NULL, number bigint NOT NULL, line text NOT NULL, PRIMARY KEY (run, number));";

/// Returns the lines to append after the last one.
type AppendNext<'a> = dyn FnMut(Option<&str>) -> Result<Vec<String>> + 'a;
/// Returns how many of the first lines to replace, and by which line.
type ChooseFirst<'a> = dyn FnMut(&[String]) -> Result<Option<(usize, String)>> + 'a;

/// The journal's tables in one database.
pub(crate) struct JournalTables {
    target: ConnectionUrl,
    link: Mutex<Option<ServerConnection>>,
}

/// A run that this process has in progress.
pub(crate) struct OpenRun {
    target: ConnectionUrl,
    link: ServerConnection,
    run: String,
}

/// The lock of a run whose process died.
#[expect(dead_code, reason = "held for the lock that its connection has")]
pub(crate) struct OrphanLock(ServerConnection);

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

#[derive(QueryableByName)]
struct Yes {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn run_key(run: &str) -> String {
    format!("hashtextextended('tenantry run ' || {}, 0)", crate::sql::quote_text(run))
}

fn connect(target: &ConnectionUrl) -> Result<ServerConnection> {
    let link = open(target, Timeouts { lock: LOCK_TIMEOUT, statement: None }).map_err(Error::in_journal)?;
    if link.server.route == Route::ViaPooler {
        return Err(Error::new(
            ErrorKind::Configuration,
            "a journal in a database cannot be reached through a pooler",
        )
        .with_hint(
            "give the server's own address: [journal] url in tenantry.toml; or a folder: [journal] dir",
        ));
    }
    Ok(link)
}

fn lines(connection: &mut PgConnection, sql: &str, run: &str) -> QueryResult<Vec<String>> {
    let lines: Vec<Line> = diesel::sql_query(sql).bind::<Text, _>(run).load(connection)?;
    Ok(lines.into_iter().map(|it| it.line).collect())
}

fn yes(connection: &mut PgConnection, sql: &str, run: &str) -> QueryResult<bool> {
    diesel::sql_query(sql).bind::<Text, _>(run).get_result::<Yes>(connection).map(|it| it.yes)
}

const ADD_EVENT: &str = "INSERT INTO tenantry_journal.events (run, number, line) \
    SELECT $1, 1 + coalesce((SELECT max(number) FROM tenantry_journal.events WHERE run = $1), 0), $2";

fn add_event(connection: &mut PgConnection, run: &str, line: &str) -> QueryResult<()> {
    diesel::sql_query(ADD_EVENT).bind::<Text, _>(run).bind::<Text, _>(line).execute(connection).map(drop)
}

impl JournalTables {
    /// Fails if the URL is invalid. Does not connect.
    pub(crate) fn new(url: &str) -> Result<Self> {
        Ok(Self { target: ConnectionUrl::parse(url)?, link: Mutex::default() })
    }

    pub(crate) fn location(&self) -> String {
        format!("{}, schema tenantry_journal", self.target.location())
    }

    /// Does something over the connection, which is opened if there is none, or if it is lost.
    fn with<T>(&self, mut work: impl FnMut(&mut PgConnection) -> Result<T, Failed>) -> Result<T> {
        let mut slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let mut link = match slot.take() {
            Some(link) => link,
            None => connect(&self.target)?,
        };
        let result = work(&mut link.connection);
        match result {
            Ok(value) => {
                *slot = Some(link);
                Ok(value)
            }
            // The transaction may not have ended, so the connection is not used again.
            Err(Failed::Database(error)) => Err(self.failed(&error)),
            Err(Failed::Other(error)) => Err(error),
        }
    }

    fn failed(&self, error: &DieselError) -> Error {
        failed(&self.target, error)
    }

    /// Whether there is a journal.
    pub(crate) fn exists(&self) -> Result<bool> {
        let sql = "SELECT to_regclass($1) IS NOT NULL AS yes";
        self.with(|connection| Ok(yes(connection, sql, "tenantry_journal.entries")?))
    }

    /// Creates the tables if they are missing.
    pub(crate) fn create(&self) -> Result<()> {
        if self.exists()? {
            return Ok(());
        }
        // Two processes that create the same schema at once would fail.
        let sql = format!("BEGIN; SELECT pg_advisory_xact_lock({CHAIN_KEY}); {CREATE} COMMIT");
        self.with(|connection| Ok(connection.batch_execute(&sql)?)).map_err(|error| {
            error.with_hint(
                "let this role create the schema tenantry_journal, or set [journal] url or dir in tenantry.toml",
            )
        })
    }

    /// Returns the lines of the chain; `None` if there is no journal.
    pub(crate) fn entries(&self) -> Result<Option<Vec<String>>> {
        if !self.exists()? {
            return Ok(None);
        }
        let sql = "SELECT line FROM tenantry_journal.entries WHERE $1 = '' ORDER BY number";
        self.with(|connection| Ok(lines(connection, sql, "")?)).map(Some)
    }

    /// Appends the lines that `next` returns for the last one. Nobody else appends meanwhile.
    pub(crate) fn append(&self, next: &mut AppendNext<'_>) -> Result<()> {
        self.create()?;
        self.in_chain_lock(|connection| {
            let last: Option<Line> =
                diesel::sql_query("SELECT line FROM tenantry_journal.entries ORDER BY number DESC LIMIT 1")
                    .get_result(connection)
                    .optional()?;
            let number: Number =
                diesel::sql_query("SELECT coalesce(max(number), 0) AS number FROM tenantry_journal.entries")
                    .get_result(connection)?;
            let lines = next(last.as_ref().map(|it| it.line.as_str())).map_err(Failed::Other)?;
            for (number, line) in (number.number + 1..).zip(&lines) {
                diesel::sql_query("INSERT INTO tenantry_journal.entries (number, line) VALUES ($1, $2)")
                    .bind::<BigInt, _>(number)
                    .bind::<Text, _>(line)
                    .execute(connection)?;
            }
            Ok(())
        })
    }

    /// Replaces the first lines, as many as `choose` says, by its line. Nobody else appends meanwhile.
    pub(crate) fn replace_first(&self, choose: &mut ChooseFirst<'_>) -> Result<usize> {
        // `choose` reads the journal over a connection of its own, and nobody changes it until this ends.
        let mut link = connect(&self.target)?;
        let connection = &mut link.connection;
        let mut replace = || -> Result<usize, Failed> {
            connection.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({CHAIN_KEY})"))?;
            let sql = "SELECT line FROM tenantry_journal.entries WHERE $1 = '' ORDER BY number";
            let all = lines(connection, sql, "")?;
            let Some((count, checkpoint)) = choose(&all).map_err(Failed::Other)? else { return Ok(0) };
            let limit = i64::try_from(count).unwrap_or(i64::MAX);
            let number: Number = diesel::sql_query(
                "WITH old AS (SELECT number FROM tenantry_journal.entries ORDER BY number LIMIT $1), \
                 gone AS (DELETE FROM tenantry_journal.entries WHERE number IN (SELECT number FROM old)) \
                 SELECT max(number) AS number FROM old",
            )
            .bind::<BigInt, _>(limit)
            .get_result(connection)?;
            diesel::sql_query("INSERT INTO tenantry_journal.entries (number, line) VALUES ($1, $2)")
                .bind::<BigInt, _>(number.number)
                .bind::<Text, _>(checkpoint)
                .execute(connection)?;
            connection.batch_execute("COMMIT")?;
            Ok(count)
        };
        replace().map_err(|error| match error {
            Failed::Database(error) => self.failed(&error),
            Failed::Other(error) => error,
        })
    }

    fn in_chain_lock<T>(&self, mut work: impl FnMut(&mut PgConnection) -> Result<T, Failed>) -> Result<T> {
        self.with(|connection| {
            connection.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({CHAIN_KEY})"))?;
            let value = work(connection)?;
            connection.batch_execute("COMMIT")?;
            Ok(value)
        })
    }

    /// Begins or goes on with a run. Returns `None` if it is in progress, or was killed and its record is not completed.
    pub(crate) fn open_run(&self, run: &str) -> Result<Option<OpenRun>> {
        let mut link = connect(&self.target)?;
        let connection = &mut link.connection;
        let mut begin = || -> QueryResult<bool> {
            // The lock comes first: a row without it means a killed run.
            let lock = format!("SELECT pg_try_advisory_lock({}) AS yes WHERE $1 = ''", run_key(run));
            if !yes(connection, &lock, "")? {
                return Ok(false);
            }
            let insert = "INSERT INTO tenantry_journal.runs (run) VALUES ($1) ON CONFLICT DO NOTHING";
            let inserted = diesel::sql_query(insert).bind::<Text, _>(run).execute(connection)?;
            // A killed client loses no event. A crash of the server may lose the last ones, unless the run's end was
            // committed after them.
            connection.batch_execute("SELECT set_config('synchronous_commit', 'off', false)")?;
            Ok(inserted == 1)
        };
        let is_mine = begin().map_err(|error| self.failed(&error))?;
        Ok(is_mine.then(|| OpenRun { target: self.target.clone(), link, run: run.into() }))
    }

    /// Returns the runs whose process died, sorted, each with its lock.
    pub(crate) fn orphans(&self) -> Result<Vec<(String, OrphanLock)>> {
        let sql = "SELECT run AS line FROM tenantry_journal.runs WHERE $1 = '' ORDER BY run";
        let open = self.with(|connection| Ok(lines(connection, sql, "")?))?;
        let mut orphans = Vec::new();
        for run in open {
            let mut link = connect(&self.target)?;
            let sql = format!("SELECT pg_try_advisory_lock({}) AS yes WHERE $1 = ''", run_key(&run));
            // It may have ended since it was listed.
            let is_killed = yes(&mut link.connection, &sql, "").map_err(|error| self.failed(&error))?
                && self.is_open(&run)?;
            if is_killed {
                orphans.push((run, OrphanLock(link)));
            }
        }
        Ok(orphans)
    }

    pub(crate) fn is_open(&self, run: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM tenantry_journal.runs WHERE run = $1) AS yes";
        self.with(|connection| Ok(yes(connection, sql, run)?))
    }

    pub(crate) fn close(&self, run: &str) -> Result<()> {
        self.change("DELETE FROM tenantry_journal.runs WHERE run = $1", run)
    }

    pub(crate) fn append_event(&self, run: &str, line: &str) -> Result<()> {
        self.with(|connection| Ok(add_event(connection, run, line)?))
    }

    /// Returns the events of a run; `None` if there are none and it is not open.
    pub(crate) fn events(&self, run: &str) -> Result<Option<Vec<String>>> {
        let sql = "SELECT line FROM tenantry_journal.events WHERE run = $1 ORDER BY number";
        let events = self.with(|connection| Ok(lines(connection, sql, run)?))?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }

    /// Replaces the events of a run.
    pub(crate) fn write_events(&self, run: &str, events: &mut dyn Iterator<Item = &str>) -> Result<()> {
        self.in_chain_lock(|connection| {
            let delete = "DELETE FROM tenantry_journal.events WHERE run = $1";
            diesel::sql_query(delete).bind::<Text, _>(run).execute(connection)?;
            for line in &mut *events {
                add_event(connection, run, line)?;
            }
            Ok(())
        })
    }

    pub(crate) fn remove_events(&self, run: &str) -> Result<()> {
        self.change("DELETE FROM tenantry_journal.events WHERE run = $1", run)
    }

    fn change(&self, sql: &str, run: &str) -> Result<()> {
        self.with(|connection| {
            diesel::sql_query(sql).bind::<Text, _>(run).execute(connection)?;
            Ok(())
        })
    }
}

impl OpenRun {
    /// Appends an event.
    pub(crate) fn append_event(&mut self, line: &str) -> Result<()> {
        add_event(&mut self.link.connection, &self.run, line).map_err(|error| failed(&self.target, &error))
    }
}

/// Why something with the journal failed.
enum Failed {
    Database(DieselError),
    Other(Error),
}

impl From<DieselError> for Failed {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

fn failed(target: &ConnectionUrl, error: &DieselError) -> Error {
    convert_error("cannot use the journal", target, error)
}
