//! The tables of a journal: entries, runs in progress, and the events of runs. Does not know what they mean.
//!
//! A run in progress is a row, and a lock that its process holds over a connection of its own. The server releases the lock
//! when the process ends, however it ends.

mod connection;
mod run;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::{BigInt, Text};

use super::connect::ServerConnection;
use super::connection_url::ConnectionUrl;
use crate::error::{Error, ErrorKind, Result};
use connection::{
    Failed, Line, Number, add_event, connect, failed, is_disconnected, lines, next_event, pauses, try_lock,
    yes,
};

pub(crate) use run::OpenRun;

/// The lock of the chain: nobody else appends while a transaction holds it.
const CHAIN_KEY: &str = "hashtextextended('tenantry journal', 0)";

const ENTRIES: &str = "SELECT line FROM tenantry_journal.entries ORDER BY number";

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
    /// For how long a lost connection is opened again.
    reconnect_timeout: Duration,
    was_reached: AtomicBool,
    /// Whether the tables were seen. Nobody removes them while they are in use.
    was_seen: AtomicBool,
    link: Mutex<Option<ServerConnection>>,
}

/// The lock of a run whose process died.
#[expect(dead_code, reason = "held for the lock that its connection has")]
pub(crate) struct OrphanLock(ServerConnection);

#[derive(QueryableByName)]
struct Entry {
    #[diesel(sql_type = BigInt)]
    number: i64,
    #[diesel(sql_type = Text)]
    line: String,
}

impl JournalTables {
    /// Fails if the URL is invalid. Does not connect.
    pub(crate) fn new(url: &str, reconnect_timeout: Duration) -> Result<Self> {
        Ok(Self {
            target: ConnectionUrl::parse(url)?,
            reconnect_timeout,
            was_reached: AtomicBool::new(false),
            was_seen: AtomicBool::new(false),
            link: Mutex::default(),
        })
    }

    pub(crate) fn location(&self) -> String {
        format!("{}, schema tenantry_journal", self.target.location())
    }

    /// Does something over the connection, which is opened if there is none. If the connection is lost, does it again over
    /// a new one. A server that was never reached is not waited for.
    fn with<T>(&self, mut work: impl FnMut(&mut PgConnection) -> Result<T, Failed>) -> Result<T> {
        let mut slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let (started, mut pauses) = (Instant::now(), pauses());
        let may_retry =
            || started.elapsed() < self.reconnect_timeout && self.was_reached.load(Ordering::Relaxed);
        loop {
            let mut link = match slot.take().map_or_else(|| connect(&self.target), Ok) {
                Ok(link) => link,
                Err(error) if error.kind() == ErrorKind::Disconnected && may_retry() => {
                    pauses.sleep();
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.was_reached.store(true, Ordering::Relaxed);
            match work(&mut link.connection) {
                Ok(value) => {
                    *slot = Some(link);
                    return Ok(value);
                }
                // The transaction may not have ended, so the connection is not used again.
                Err(Failed::Database(error)) if is_disconnected(&error) && may_retry() => pauses.sleep(),
                Err(Failed::Database(error)) => return Err(self.failed(&error)),
                Err(Failed::Other(error)) => return Err(error),
            }
        }
    }

    fn failed(&self, error: &DieselError) -> Error {
        failed(&self.target, error)
    }

    /// Whether there is a journal.
    pub(crate) fn exists(&self) -> Result<bool> {
        if self.was_seen.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let sql = "SELECT to_regclass($1) IS NOT NULL AS yes";
        let exists = self.with(|connection| Ok(yes(connection, sql, "tenantry_journal.entries")?))?;
        self.was_seen.store(exists, Ordering::Relaxed);
        Ok(exists)
    }

    /// Creates the tables if they are missing.
    pub(crate) fn create(&self) -> Result<()> {
        if self.exists()? {
            return Ok(());
        }
        // Two processes that create the same schema at once would fail.
        let sql = format!("BEGIN; SELECT pg_advisory_xact_lock({CHAIN_KEY}); {CREATE} COMMIT");
        self.with(|connection| Ok(connection.batch_execute(&sql)?)).map_err(|error| match error.kind() {
            // Its hint says what to do about the server.
            ErrorKind::Disconnected => error,
            _ => error.with_hint(
                "let this role create the schema tenantry_journal, or set [journal] url or dir in tenantry.toml",
            ),
        })
    }

    /// Returns the lines of the chain; `None` if there is no journal.
    pub(crate) fn entries(&self) -> Result<Option<Vec<String>>> {
        if !self.exists()? {
            return Ok(None);
        }
        self.with(|connection| Ok(lines(connection, diesel::sql_query(ENTRIES))?)).map(Some)
    }

    /// Appends the lines that `next` returns for the last one. Nobody else appends meanwhile.
    pub(crate) fn append(&self, next: &mut AppendNext<'_>) -> Result<()> {
        self.create()?;
        // The number and the text of the last line of an earlier attempt, whose commit may have taken effect.
        let mut attempted: Option<(i64, String)> = None;
        self.in_chain_lock(|connection| {
            if let Some((number, text)) = &attempted {
                let sql = "SELECT line FROM tenantry_journal.entries WHERE number = $1";
                let found: Option<Line> =
                    diesel::sql_query(sql).bind::<BigInt, _>(number).get_result(connection).optional()?;
                if found.is_some_and(|found| found.line == *text) {
                    return Ok(());
                }
            }
            let last: Option<Entry> = diesel::sql_query(
                "SELECT number, line FROM tenantry_journal.entries ORDER BY number DESC LIMIT 1",
            )
            .get_result(connection)
            .optional()?;
            let lines = next(last.as_ref().map(|it| it.line.as_str())).map_err(Failed::Other)?;
            let first = last.map_or(1, |it| it.number + 1);
            for (number, line) in (first..).zip(&lines) {
                diesel::sql_query("INSERT INTO tenantry_journal.entries (number, line) VALUES ($1, $2)")
                    .bind::<BigInt, _>(number)
                    .bind::<Text, _>(line)
                    .execute(connection)?;
                attempted = Some((number, line.clone()));
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
            let all = lines(connection, diesel::sql_query(ENTRIES))?;
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
        OpenRun::begin(&self.target, self.reconnect_timeout, run)
    }

    /// Returns the runs whose process died, sorted, each with its lock.
    pub(crate) fn orphans(&self) -> Result<Vec<(String, OrphanLock)>> {
        let open = "SELECT run AS line FROM tenantry_journal.runs ORDER BY run";
        let open = self.with(|connection| Ok(lines(connection, diesel::sql_query(open))?))?;
        let mut orphans = Vec::new();
        for run in open {
            let mut link = connect(&self.target)?;
            // It may have ended since it was listed.
            let is_killed = try_lock(&mut link.connection, &run).map_err(|error| self.failed(&error))?
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
        let mut number = None;
        self.with(|connection| {
            let number = match number {
                Some(number) => number,
                None => *number.insert(next_event(connection, run)?),
            };
            Ok(add_event(connection, run, number, line)?)
        })
    }

    /// Returns the events of a run; `None` if there are none and it is not open.
    pub(crate) fn events(&self, run: &str) -> Result<Option<Vec<String>>> {
        let sql = "SELECT line FROM tenantry_journal.events WHERE run = $1 ORDER BY number";
        let events =
            self.with(|connection| Ok(lines(connection, diesel::sql_query(sql).bind::<Text, _>(run))?))?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }

    /// Replaces the events of a run.
    pub(crate) fn write_events(&self, run: &str, events: &[&str]) -> Result<()> {
        self.in_chain_lock(|connection| {
            let delete = "DELETE FROM tenantry_journal.events WHERE run = $1";
            diesel::sql_query(delete).bind::<Text, _>(run).execute(connection)?;
            for (number, line) in (1..).zip(events) {
                add_event(connection, run, number, line)?;
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
