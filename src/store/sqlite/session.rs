//! A project opened for writing. `apply` decides which scripts run and checks the results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};

use super::environment::Environment;
use super::failure::{describe, message};
use super::rows::{self, SqliteRows};
use super::{health, ledger};
use crate::backoff::Backoff;
use crate::catalog::Script;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::NewHistoryRow;
use crate::plan::{Access, Inspection};
use crate::schema::sqlite::{Row, schema};
use crate::schema::{LazySchema, Schema};
use crate::sql::pragma::Pragma;
use crate::sql::quote_name;
use crate::sql::statement::{Control, Statement};
use crate::store::{
    Contents, ForeignKeyViolations, ForeignKeys, Health, Lock, Mode, RowCounts, Rows, ScriptRun, Session,
    Step,
};

/// How long one attempt to take a session lock waits. It may hold a shared lock while it waits.
const LOCK_ATTEMPT: Duration = Duration::from_millis(10);

/// A connection for writing. Closing it rolls back an open transaction.
pub(super) struct SqliteSession<'a> {
    connection: Connection,
    environment: &'a Environment,
    file: Option<DatabaseFile>,
    /// The rows of `sqlite_schema` when they were last read by [`Session::lazy_schema`].
    rows: Vec<Arc<Row>>,
    /// Whether the session holds the lock between transactions.
    has_session_lock: bool,
}

/// How to reopen the database.
struct DatabaseFile {
    uri: String,
    lock_timeout: Duration,
}

/// Opens a database for writing. Does not create a missing file if the URI has `mode=rw`.
pub(super) fn connect(uri: &str, lock_timeout: Duration) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags)
        .and_then(|connection| connection.busy_timeout(lock_timeout).map(|()| connection))
        .map_err(|error| describe("cannot open the database", error))
}

impl<'a> SqliteSession<'a> {
    pub(super) fn new(connection: Connection, environment: &'a Environment) -> Self {
        Self { connection, environment, file: None, rows: Vec::new(), has_session_lock: false }
    }

    /// Sets the database's file, which several sessions may try to lock at the same time.
    pub(super) fn with_file(self, uri: String, lock_timeout: Duration) -> Self {
        Self { file: Some(DatabaseFile { uri, lock_timeout }), ..self }
    }

    /// Changes the settings and starts an exclusive transaction. The settings come first, because SQLite silently
    /// ignores them inside a transaction. The transaction is exclusive so that it waits for readers here, and the
    /// commit cannot fail because of one.
    fn try_begin(&mut self, mode: Mode) -> Result<()> {
        if mode.lock == Lock::Session {
            self.batch("cannot lock the database", "PRAGMA locking_mode = EXCLUSIVE")?;
        }
        for setting in mode.file.statements() {
            self.batch("cannot change the file's settings", &setting)?;
        }
        let enforce = mode.foreign_keys == ForeignKeys::Enforced;
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, enforce)
            .map_err(|error| describe("cannot lock the database", error))?;
        self.batch("cannot lock the database", "BEGIN EXCLUSIVE")
    }

    /// Starts a transaction and keeps the lock after it.
    ///
    /// A connection in exclusive locking mode keeps its shared lock while it waits for the exclusive one, so two of
    /// them would wait for each other forever. Each attempt is therefore short. After a failed one the connection is
    /// reopened, which releases all locks, and the next attempt follows after a pause.
    fn begin_with_session_lock(&mut self, mode: Mode, deadline: Instant) -> Result<()> {
        // The pauses without locks must be longer than the attempts, or the sessions keep blocking each other.
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        self.set_busy_timeout(LOCK_ATTEMPT)?;
        loop {
            match self.try_begin(mode) {
                Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                    self.reopen()?;
                    backoff.sleep();
                    self.set_busy_timeout(LOCK_ATTEMPT)?;
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.has_session_lock = true;
        match &self.file {
            Some(file) => self.set_busy_timeout(file.lock_timeout),
            None => Ok(()),
        }
    }

    fn run(&mut self, step: &Step<'_>) -> Result<ScriptRun> {
        let started = SystemTime::now();
        let was_autocommit = self.connection.is_autocommit();
        // Such pragmas ran before the transaction, or affect only the connection.
        let is_skipped = |statement: &Statement| {
            !was_autocommit && matches!(statement.control, Control::Pragma(Pragma::Before(_) | Pragma::Skip))
        };
        let deletes = self.watch_deletes()?;
        let result = step.script.statements().iter().filter(|it| !is_skipped(it)).try_for_each(|statement| {
            let result = self.connection.execute_batch(&statement.sql);
            result.map_err(|error| statement_failed(&error, step.script, statement))
        });
        self.stop_watching()?;
        result?;
        if was_autocommit && !self.connection.is_autocommit() {
            self.rollback()?;
            return Err(Error::new(ErrorKind::Migration, "it starts a transaction and does not end it")
                .at(step.script.path(), None));
        }
        let deletes = deletes.load(Ordering::Relaxed);
        Ok(ScriptRun { started, took: started.elapsed().unwrap_or_default(), deletes })
    }

    /// Returns a flag that is set when SQLite prepares a statement that deletes rows, itself or through a trigger.
    fn watch_deletes(&self) -> Result<Arc<AtomicBool>> {
        let deletes = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&deletes);
        let authorize = move |context: AuthContext<'_>| {
            // Dropping an index deletes from SQLite's internal tables.
            if let AuthAction::Delete { table_name } = context.action
                && !table_name.starts_with("sqlite_")
            {
                flag.store(true, Ordering::Relaxed);
            }
            Authorization::Allow
        };
        self.connection
            .authorizer(Some(authorize))
            .map_err(|error| describe("cannot detect deleted rows", error))?;
        Ok(deletes)
    }

    fn stop_watching(&self) -> Result<()> {
        let no_authorizer = None::<fn(AuthContext<'_>) -> Authorization>;
        self.connection
            .authorizer(no_authorizer)
            .map_err(|error| describe("cannot detect deleted rows", error))
    }

    fn reopen(&mut self) -> Result<()> {
        if let Some(file) = &self.file {
            self.connection = self.environment.prepare(connect(&file.uri, file.lock_timeout)?)?;
        }
        Ok(())
    }

    fn set_busy_timeout(&self, timeout: Duration) -> Result<()> {
        self.connection.busy_timeout(timeout).map_err(|error| describe("cannot lock the database", error))
    }

    fn batch(&self, what: &str, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(|error| describe(what, error))
    }
}

impl Rows for SqliteSession<'_> {
    fn columns(&mut self, table: &str) -> Result<Vec<String>> {
        SqliteRows(&self.connection).columns(table)
    }

    fn for_each_row(
        &mut self,
        expressions: &[String],
        from: &str,
        visit: &mut dyn FnMut(Vec<Option<String>>) -> Result<bool>,
    ) -> Result<()> {
        SqliteRows(&self.connection).for_each_row(expressions, from, visit)
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
        let _strict = rows::QuotedNames::only(&self.connection)?;
        let changed =
            self.connection.execute(sql, ()).map_err(|error| describe("cannot change its rows", error))?;
        Ok(changed as u64)
    }

    fn begin(&mut self, mode: Mode) -> Result<()> {
        match (&self.file, mode.lock) {
            (Some(file), Lock::Session) if !self.has_session_lock => {
                let deadline = Instant::now() + file.lock_timeout;
                self.begin_with_session_lock(mode, deadline)
            }
            _ => self.try_begin(mode),
        }
    }

    fn inspect(&mut self) -> Result<Inspection> {
        ledger::inspect(&self.connection, &self.environment.schemas, Access::ReadWrite)
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
                // A virtual table whose module is missing cannot be changed here either.
                if let Ok(count) = self.connection.query_row(&sql, (), |row| row.get(0)) {
                    counts.rows.insert(table.to_string(), count);
                }
            }
            let sequence_table = "SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence'";
            if self.connection.prepare(sequence_table)?.exists(())? {
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
            let sql = "UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1 COLLATE NOCASE";
            if self.connection.execute(sql, (name, to))? > 0 {
                return Ok(true);
            }
            // A table that never had rows has no entry yet.
            let sql = "INSERT INTO main.sqlite_sequence (name, seq) SELECT name, ?2 FROM main.sqlite_schema WHERE type = 'table' \
                       AND name = ?1 COLLATE NOCASE AND sql LIKE '%AUTOINCREMENT%'";
            Ok(self.connection.execute(sql, (name, to))? > 0)
        };
        raise().map_err(|error| describe("cannot raise its AUTOINCREMENT sequence", error))
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
        const FAILED: &str = "cannot try out the script";
        self.batch(FAILED, "SAVEPOINT tenantry_trial")?;
        let result = self.execute(&[step]).and_then(|_| self.schema());
        self.batch(FAILED, "ROLLBACK TO tenantry_trial; RELEASE tenantry_trial")?;
        result
    }

    fn run_or_undo(
        &mut self,
        step: Step<'_>,
        check: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<Option<Error>> {
        const FAILED: &str = "cannot undo a failed script";
        self.batch(FAILED, "SAVEPOINT tenantry_step")?;
        let error = match self.execute(&[step]).and_then(|_| check(self)) {
            Ok(()) => None,
            Err(error) if error.is_of_environment() => return Err(error),
            Err(error) => {
                self.batch(FAILED, "ROLLBACK TO tenantry_step")?;
                Some(error)
            }
        };
        self.batch(FAILED, "RELEASE tenantry_step")?;
        Ok(error)
    }

    fn create_ledger(&mut self) -> Result<()> {
        ledger::record(&self.connection, &[], "")
    }

    fn record(&mut self, entries: &[NewHistoryRow], run_id: &str) -> Result<()> {
        ledger::record(&self.connection, entries, run_id)
    }

    fn defers_schemas(&self) -> bool {
        true
    }

    fn lazy_schema(&mut self) -> Result<LazySchema> {
        self.rows = ledger::schema_rows(&self.connection, &self.rows)?;
        let (rows, ignore) = (self.rows.clone(), self.environment.schemas.ignore().clone());
        Ok(LazySchema::new(Box::new(move || Arc::new(schema(&rows, &ignore)))))
    }

    fn schema(&mut self) -> Result<Arc<Schema>> {
        ledger::current_schema(&self.connection, &self.environment.schemas)
    }

    fn begin_if_unchanged(&mut self, _mode: Mode, _inspected: &Inspection) -> Result<bool> {
        Ok(false)
    }

    fn lock_rows(&mut self) -> Result<()> {
        // The transaction is exclusive.
        Ok(())
    }

    fn require_confined(&mut self) -> Result<()> {
        // Scripts that open another file are refused when the catalog is loaded.
        Ok(())
    }

    fn can_commit(&self) -> bool {
        true
    }

    fn commit(&mut self) -> Result<()> {
        self.batch("cannot commit", "COMMIT")
    }

    fn commit_async(&mut self) -> Result<()> {
        self.commit()
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
        // An error without a specific kind is caused by the statement.
        unspecific if unspecific.kind() == ErrorKind::Database => {
            Error::new(ErrorKind::Migration, "a statement failed")
                .caused_by(cause)
                .with_hint("fix the migration or this project's data; this project was not changed")
        }
        specific => specific,
    };
    described.at(script.path(), line)
}

fn code(error: &rusqlite::Error) -> rusqlite::ffi::Error {
    error.sqlite_error().copied().unwrap_or(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR))
}
