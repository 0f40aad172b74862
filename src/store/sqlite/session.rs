//! A project opened for writing.
//!
//! It must not decide anything: which script runs, and whether what came out is right, is `apply`'s business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};

use super::failure::{describe, message};
use super::rows::{self, SqliteRows};
use super::{health, ledger};
use crate::backoff::Backoff;
use crate::catalog::Script;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::Entry;
use crate::plan::{Access, Inspection};
use crate::schema::Schema;
use crate::sql::pragma::Pragma;
use crate::sql::quote_name;
use crate::sql::statement::{Control, Statement};
use crate::store::cache::SchemaCache;
use crate::store::{
    Contents, ForeignKeyViolations, ForeignKeys, Health, Lock, Mode, RowCounts, Rows, ScriptRun, Session,
    Step,
};

/// How long one attempt to hold a lock on may take, with a part of it held already.
const ATTEMPT: Duration = Duration::from_millis(10);

/// A connection. Closing it rolls back what is not committed.
pub(super) struct SqliteSession<'a> {
    connection: Connection,
    schemas: &'a SchemaCache,
    file: Option<DatabaseFile>,
    /// Whether the lock is held on from one transaction to the next.
    holds: bool,
}

/// How to open the database anew.
struct DatabaseFile {
    uri: String,
    lock_timeout: Duration,
}

/// Opens a database for writing. A file that is not there stays so.
pub(super) fn connect(uri: &str, lock_timeout: Duration) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags)
        .and_then(|connection| connection.busy_timeout(lock_timeout).map(|()| connection))
        .map_err(|error| describe("cannot open it", error))
}

impl<'a> SqliteSession<'a> {
    pub(super) fn new(connection: Connection, schemas: &'a SchemaCache) -> Self {
        Self { connection, schemas, file: None, holds: false }
    }

    /// The same for a database in a file, where several sessions may want to hold the lock on.
    pub(super) fn of_file(self, uri: String, lock_timeout: Duration) -> Self {
        Self { file: Some(DatabaseFile { uri, lock_timeout }), ..self }
    }

    /// The settings come first: inside a transaction SQLite passes over them without a word. The transaction is
    /// exclusive, so that waiting for readers happens here, and the commit at the end can't fail for one.
    fn try_begin(&mut self, mode: Mode) -> Result<()> {
        if mode.lock == Lock::Session {
            self.batch("cannot lock it", "PRAGMA locking_mode = EXCLUSIVE")?;
        }
        for setting in mode.file.statements() {
            self.batch("cannot change the file's settings", &setting)?;
        }
        let enforce = mode.foreign_keys == ForeignKeys::Enforced;
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, enforce)
            .map_err(|error| describe("cannot lock it", error))?;
        self.batch("cannot lock it", "BEGIN EXCLUSIVE")
    }

    /// Who is to hold a lock on never lets go of its shared one while it waits for the exclusive one, so two of them
    /// would wait for each other for ever: each tries for a moment, lets go of everything, and comes again.
    fn begin_and_hold(&mut self, mode: Mode, deadline: Instant) -> Result<()> {
        // Time with nothing held has to be most of the time, or those who try keep each other out.
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        self.wait_at_most(ATTEMPT)?;
        loop {
            match self.try_begin(mode) {
                Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                    self.reopen()?;
                    backoff.sleep();
                    self.wait_at_most(ATTEMPT)?;
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.holds = true;
        match &self.file {
            Some(file) => self.wait_at_most(file.lock_timeout),
            None => Ok(()),
        }
    }

    fn run(&mut self, step: &Step<'_>) -> Result<ScriptRun> {
        let started = SystemTime::now();
        let was_outside = self.connection.is_autocommit();
        // Those are made before the transaction, or last no longer than the connection.
        let is_passed_over = |statement: &Statement| {
            !was_outside && matches!(statement.control, Control::Pragma(Pragma::Before(_) | Pragma::Skip))
        };
        let deletes = self.watch_deletes()?;
        let ran =
            step.script.statements().iter().filter(|it| !is_passed_over(it)).try_for_each(|statement| {
                let ran = self.connection.execute_batch(&statement.sql);
                ran.map_err(|error| statement_failed(&error, step.script, statement))
            });
        self.stop_watching()?;
        ran?;
        if was_outside && !self.connection.is_autocommit() {
            self.rollback()?;
            return Err(Error::new(ErrorKind::Migration, "it begins a transaction and does not end it")
                .at(step.script.path(), None));
        }
        let deletes = deletes.load(Ordering::Relaxed);
        Ok(ScriptRun { started, took: started.elapsed().unwrap_or_default(), deletes })
    }

    /// Has SQLite tell of each statement that it prepares whether it deletes rows, by whatever trigger.
    fn watch_deletes(&self) -> Result<Arc<AtomicBool>> {
        let deletes = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&deletes);
        let look = move |context: AuthContext<'_>| {
            // Dropping an index deletes from SQLite's own tables.
            if let AuthAction::Delete { table_name } = context.action
                && !table_name.starts_with("sqlite_")
            {
                seen.store(true, Ordering::Relaxed);
            }
            Authorization::Allow
        };
        self.connection
            .authorizer(Some(look))
            .map_err(|error| describe("cannot watch what it deletes", error))?;
        Ok(deletes)
    }

    fn stop_watching(&self) -> Result<()> {
        let nobody = None::<fn(AuthContext<'_>) -> Authorization>;
        self.connection.authorizer(nobody).map_err(|error| describe("cannot watch what it deletes", error))
    }

    fn reopen(&mut self) -> Result<()> {
        if let Some(file) = &self.file {
            self.connection = connect(&file.uri, file.lock_timeout)?;
        }
        Ok(())
    }

    fn wait_at_most(&self, time: Duration) -> Result<()> {
        self.connection.busy_timeout(time).map_err(|error| describe("cannot lock it", error))
    }

    fn batch(&self, what: &str, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(|error| describe(what, error))
    }
}

impl Rows for SqliteSession<'_> {
    fn columns(&mut self, table: &str) -> Result<Vec<String>> {
        SqliteRows(&self.connection).columns(table)
    }

    fn each(
        &mut self,
        expressions: &[String],
        from: &str,
        visit: &mut dyn FnMut(Vec<Option<String>>) -> Result<bool>,
    ) -> Result<()> {
        SqliteRows(&self.connection).each(expressions, from, visit)
    }

    fn first(&mut self, query: &str) -> Result<Option<String>> {
        SqliteRows(&self.connection).first(query)
    }

    fn contents(&mut self) -> Result<Contents> {
        SqliteRows(&self.connection).contents()
    }

    fn health(&mut self) -> Result<Health> {
        SqliteRows(&self.connection).health()
    }
}

impl Session for SqliteSession<'_> {
    fn change(&mut self, sql: &str) -> Result<u64> {
        rows::be_strict(&self.connection)?;
        let changed =
            self.connection.execute(sql, ()).map_err(|error| describe("cannot change its rows", error))?;
        Ok(changed as u64)
    }

    fn begin(&mut self, mode: Mode) -> Result<()> {
        match (&self.file, mode.lock) {
            (Some(file), Lock::Session) if !self.holds => {
                let deadline = Instant::now() + file.lock_timeout;
                self.begin_and_hold(mode, deadline)
            }
            _ => self.try_begin(mode),
        }
    }

    fn inspect(&mut self) -> Result<Inspection> {
        ledger::inspect(&self.connection, self.schemas, Access::ReadWrite)
    }

    fn count_rows(&mut self) -> Result<RowCounts> {
        let schema = self.schema()?;
        let count = || -> rusqlite::Result<RowCounts> {
            let mut counts = RowCounts::default();
            for table in schema.tables() {
                let sql = format!("SELECT count(*) FROM main.{}", quote_name(table));
                counts.rows.insert(table.to_string(), self.connection.query_row(&sql, (), |row| row.get(0))?);
            }
            for table in schema.virtual_tables() {
                let sql = format!("SELECT count(*) FROM main.{}", quote_name(table));
                // One whose module is not here can't be changed here either.
                if let Ok(count) = self.connection.query_row(&sql, (), |row| row.get(0)) {
                    counts.rows.insert(table.to_string(), count);
                }
            }
            let numbered = "SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence'";
            if self.connection.prepare(numbered)?.exists(())? {
                let mut statement = self.connection.prepare("SELECT name, seq FROM main.sqlite_sequence")?;
                let sequences = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
                counts.sequences = sequences.collect::<rusqlite::Result<_>>()?;
            }
            Ok(counts)
        };
        count().map_err(|error| describe("cannot count its rows", error))
    }

    fn raise_sequence(&mut self, name: &str, to: i64) -> Result<bool> {
        let raise = || -> rusqlite::Result<bool> {
            let sql = "UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1";
            if self.connection.execute(sql, (name, to))? > 0 {
                return Ok(true);
            }
            // A table without rows yet has no mark.
            let sql = "INSERT INTO main.sqlite_sequence (name, seq) SELECT name, ?2 FROM main.sqlite_schema WHERE type = 'table' \
                       AND name = ?1 AND sql LIKE '%AUTOINCREMENT%'";
            Ok(self.connection.execute(sql, (name, to))? > 0)
        };
        raise().map_err(|error| describe("cannot keep its numbers", error))
    }

    fn violations(&mut self) -> Result<ForeignKeyViolations> {
        health::violations(&self.connection).map_err(|error| describe("cannot check its foreign keys", error))
    }

    fn execute(&mut self, steps: &[Step<'_>]) -> Result<Vec<ScriptRun>> {
        steps
            .iter()
            .map(|step| self.run(step).map_err(|error| error.in_migration(step.migration.label())))
            .collect()
    }

    fn try_script(&mut self, step: Step<'_>) -> Result<Arc<Schema>> {
        const WHAT: &str = "cannot try it out";
        self.batch(WHAT, "SAVEPOINT tenantry_trial")?;
        let tried = self.execute(&[step]).and_then(|_| self.schema());
        self.batch(WHAT, "ROLLBACK TO tenantry_trial; RELEASE tenantry_trial")?;
        tried
    }

    fn make_ledger(&mut self) -> Result<()> {
        ledger::record(&self.connection, &[], "")
    }

    fn record(&mut self, entries: &[Entry], run: &str) -> Result<()> {
        ledger::record(&self.connection, entries, run)
    }

    fn schema(&mut self) -> Result<Arc<Schema>> {
        ledger::current_schema(&self.connection, self.schemas)
    }

    fn commit(&mut self) -> Result<()> {
        self.batch("cannot commit", "COMMIT")
    }

    fn rollback(&mut self) -> Result<()> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.batch("cannot roll back", "ROLLBACK")
    }
}

fn statement_failed(error: &rusqlite::Error, script: &Script, statement: &Statement) -> Error {
    let lines_before = match error {
        rusqlite::Error::SqlInputError { sql, offset, .. } => {
            let end = usize::try_from(*offset).unwrap_or(0).min(sql.len());
            sql.as_bytes()[..end].iter().filter(|&&byte| byte == b'\n').count()
        }
        _ => 0,
    };
    let line = statement.line + u32::try_from(lines_before).unwrap_or(0);
    let cause = message(error);
    let described = match describe(
        "a statement failed",
        rusqlite::Error::SqliteFailure(code(error), Some(cause.clone())),
    ) {
        // What has no kind of its own is the statement's fault.
        other if other.kind() == ErrorKind::Database => {
            Error::new(ErrorKind::Migration, "a statement failed")
                .caused_by(cause)
                .with_hint("mend the migration or this project's data; nothing of this project was changed")
        }
        known => known,
    };
    described.at(script.path(), line)
}

fn code(error: &rusqlite::Error) -> rusqlite::ffi::Error {
    error.sqlite_error().copied().unwrap_or(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR))
}
