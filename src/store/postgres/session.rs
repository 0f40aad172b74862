//! A project opened for writing.
//!
//! It must not decide anything: which script runs, and whether what came out is right, is `apply`'s business. It must
//! not let a migration out of its schema, and must not wait for a lock while it holds a snapshot: a `CREATE INDEX
//! CONCURRENTLY` of another session would wait for it in turn.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use super::catalog::{Exists, LedgerTables, NEUTRAL, Read, Reader, lock_key, search_path};
use super::connect::{PooledConnection, Route};
use super::failure::{describe, described, marked};
use super::ledger::{self, RecordedSchema, StoredLedger};
use super::queries::number_of;
use super::{Isolation, PostgresStore, missing};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::Entry;
use crate::plan::{Access, Inspection};
use crate::schema::Schema;
use crate::sql::{quote_name, quote_text};
use crate::store::{ForeignKeyViolations, Lock, Mode, RowCounts, SchemaSource, ScriptRun, Session, Step};

/// How the session's transactions relate to the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The schema is there: each transaction is one.
    Existing,
    /// The schema is made in a transaction that somebody else ends; everything happens in that one.
    Within,
}

/// One schema over one connection. Dropping it rolls back what is not committed.
pub(super) struct PostgresSession<'a> {
    pub(super) store: &'a PostgresStore,
    pub(super) pooled: PooledConnection<'a>,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Where the schema is, as seen under the lock.
    pub(super) place: Option<LedgerTables>,
    /// Whether the `search_path` is the schema.
    pub(super) is_inside: bool,
    /// The schema as it was last read, as long as nothing was run since.
    pub(super) read: Option<Read>,
    /// What of a restored copy could not be given to whom it was granted.
    pub(super) withheld: Vec<String>,
    /// What goes to the server together with what is sent next.
    unsent: String,
    /// Whether the project is taken to be as it was seen, until what is unsent says otherwise.
    is_as_seen: bool,
    /// The sequence of the ledger's last row, as read under the lock; 0 where there is none.
    sequence: i64,
    /// The last row written into the ledger: run and version.
    recorded: Option<(String, Entry)>,
    holds: bool,
    schema_source: SchemaSource,
}

impl<'a> PostgresSession<'a> {
    pub(super) fn new(store: &'a PostgresStore, pooled: PooledConnection<'a>, name: String) -> Self {
        Self {
            store,
            pooled,
            name,
            kind: Kind::Existing,
            place: None,
            is_inside: false,
            read: None,
            withheld: Vec::new(),
            unsent: String::new(),
            is_as_seen: false,
            sequence: 0,
            recorded: None,
            holds: false,
            schema_source: SchemaSource::Live,
        }
    }

    pub(super) fn failed(&self, what: &str, error: &diesel::result::Error) -> Error {
        describe(what, self.store.target(), error)
    }

    pub(super) fn batch(&mut self, what: &str, sql: &str) -> Result<()> {
        self.send()?;
        let result = self.pooled.link()?.connection.batch_execute(sql);
        result.map_err(|error| self.failed(what, &error))
    }

    /// Sends what is unsent by itself.
    pub(super) fn send(&mut self) -> Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        if unsent.is_empty() {
            return Ok(());
        }
        let Err(error) = self.pooled.link()?.connection.batch_execute(&unsent) else { return Ok(()) };
        let what = if self.is_as_seen { "cannot begin" } else { "cannot write its ledger" };
        match self.failed(what, &error) {
            error if self.is_as_seen && error.kind() != ErrorKind::Disconnected => Err(self.moved()),
            error => Err(error),
        }
    }

    /// What is unsent, for whoever sends it with more.
    pub(super) fn take_unsent(&mut self) -> String {
        std::mem::take(&mut self.unsent)
    }

    /// The project is not as it was seen.
    pub(super) fn moved(&self) -> Error {
        Error::new(ErrorKind::VersionMismatch, format!("{} is not what it was a moment ago", self.name))
    }

    /// Begins a transaction with tenantry's settings.
    pub(super) fn begin_transaction(&mut self) -> Result<()> {
        let result = self.pooled.link()?.begin("");
        self.is_inside = false;
        self.is_as_seen = false;
        self.unsent.clear();
        self.read = None;
        result.map_err(|error| self.failed("cannot begin", &error))
    }

    /// Begins one that can't change anything and sees the schema as it is at one moment.
    pub(super) fn begin_reading(&mut self) -> Result<()> {
        let begun = self.pooled.link()?.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY");
        begun.map_err(|error| self.failed("cannot begin", &error))?;
        self.look_for_it()?;
        self.place().map(|_| ())
    }

    pub(super) fn end_transaction(&mut self, sql: &str) -> Result<()> {
        let result = self.pooled.link()?.end(sql);
        result.map_err(|error| self.failed("cannot end the transaction", &error))
    }

    pub(super) fn try_lock(&mut self, lock: Lock) -> Result<bool> {
        let name = self.name.clone();
        self.reader()?.try_lock(&name, lock == Lock::Session)
    }

    /// Tries until the lock timeout, holding nothing in between.
    fn wait(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + self.store.options.lock_timeout;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
        while !attempt(self)? {
            if Instant::now() >= deadline {
                let message = "another run of tenantry works on it";
                return Err(described("cannot lock it", self.store.target(), ErrorKind::Locked, message));
            }
            backoff.sleep();
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<()> {
        if self.pooled.link()?.server.route == Route::Pooled {
            return Err(Error::new(ErrorKind::Configuration, "a migration outside a transaction needs a connection of its own")
                .with_hint("a pooler is in between that gives each transaction another one: name the server itself in --store"));
        }
        self.wait(|session| session.try_lock(Lock::Session))?;
        self.holds = true;
        Ok(())
    }

    /// Asks the catalogs, with the `search_path` that tenantry's own queries always have.
    pub(super) fn reader(&mut self) -> Result<Reader<'_>> {
        if std::mem::take(&mut self.is_inside) {
            self.batch("cannot go on", &search_path(NEUTRAL))?;
        }
        self.send()?;
        let link = self.pooled.link()?;
        Ok(self.store.reader(link))
    }

    pub(super) fn place(&self) -> Result<LedgerTables> {
        self.place.ok_or_else(|| missing(&self.name))
    }

    /// The schema's number, as an expression.
    pub(super) fn number(&self) -> Result<String> {
        self.place()?;
        Ok(number_of(&quote_text(&self.name)))
    }

    /// Looks for the schema by its name, as it is now.
    pub(super) fn look_for_it(&mut self) -> Result<()> {
        let name = self.name.clone();
        self.place = self.reader()?.place(&name)?;
        Ok(())
    }

    /// The schema as it is now, and what the catalogs' state is.
    fn read(&mut self) -> Result<Read> {
        if let Some(read) = &self.read {
            return Ok(read.clone());
        }
        self.place()?;
        let name = self.name.clone();
        let read = self.reader()?.schema(&name)?;
        self.read = Some(read.clone());
        Ok(read)
    }

    pub(super) fn read_ledger(&mut self) -> Result<(Arc<crate::ledger::Ledger>, Option<RecordedSchema>)> {
        let found = self.place()?;
        let told = ledger::read(&mut self.pooled.link()?.connection, &self.name, found);
        let StoredLedger { ledger, sequence, known } =
            told.map_err(|error| self.failed("cannot read its ledger", &error))??;
        self.sequence = sequence;
        Ok((Arc::new(ledger), known))
    }

    /// Commits by these statements.
    fn end(&mut self, sql: &str) -> Result<()> {
        if self.kind == Kind::Within {
            return self.send();
        }
        let unsent = self.take_unsent();
        let result = self.pooled.link()?.end(&format!("{unsent}{sql}"));
        let Err(error) = result else { return Ok(()) };
        let error = self.failed("cannot commit", &error);
        match error.kind() {
            ErrorKind::Disconnected if self.is_committed()? => {
                self.pooled.give_up();
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// A connection that broke in a commit leaves open whether it was done: the ledger knows.
    fn is_committed(&self) -> Result<bool> {
        let Some((run, entry)) = &self.recorded else { return Ok(false) };
        let wait = format!("SELECT pg_advisory_xact_lock({})", lock_key(&quote_text(&self.name)));
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {}.tenantry_history WHERE run = {} AND version = {} AND action = {}) AS exists",
            quote_name(&self.name),
            quote_text(run),
            quote_text(entry.version.as_str()),
            quote_text(entry.action.as_str()),
        );
        // Not one of those that were kept: what broke this one broke them as well.
        let mut link = self.store.connections.fresh()?;
        let looked = link.connection.transaction(|connection| {
            // The old server process may be at it still, and holds the project's lock as long.
            diesel::sql_query(&wait).execute(connection)?;
            diesel::sql_query(&sql).get_result(connection)
        });
        let Exists { exists } =
            looked.map_err(|error| self.failed("cannot see whether it was committed", &error))?;
        Ok(exists)
    }
}

impl Session for PostgresSession<'_> {
    fn change(&mut self, sql: &str) -> Result<u64> {
        self.change_rows(sql)
    }

    fn begin(&mut self, mode: Mode) -> Result<()> {
        if self.kind == Kind::Within {
            return Ok(());
        }
        self.schema_source = mode.schema;
        if mode.lock == Lock::Session && !self.holds {
            self.hold()?;
        }
        self.wait(|session| {
            session.begin_transaction()?;
            let locked = session.try_lock(Lock::Transaction)?;
            if locked {
                session.look_for_it()?;
                session.ensure_role()?;
            } else {
                session.end_transaction("ROLLBACK")?;
            }
            Ok(locked)
        })
    }

    fn begin_if_unchanged(&mut self, mode: Mode, seen: &Inspection) -> Result<bool> {
        let expected = Mode { foreign_keys: mode.foreign_keys, schema: SchemaSource::Ledger, ..Mode::PLAIN };
        let is_plain = self.kind == Kind::Existing && !self.holds && mode == expected;
        let is_walled = self.store.options.isolation == Isolation::Role;
        // The server reads all that is sent at once before it runs any of it: what a pooler's connection has set would hold.
        let is_direct = self.pooled.link()?.server.route == Route::Direct;
        let assertion = ledger::assertion(&self.name, &seen.ledger);
        let Some(assertion) = assertion.filter(|_| is_plain && is_direct && !is_walled) else {
            return Ok(false);
        };
        let begin = self.pooled.link()?.beginning("");
        let key = lock_key(&quote_text(&self.name));
        let lock = format!(
            "SELECT CASE WHEN NOT pg_try_advisory_xact_lock({key}) THEN CAST({} AS int) END",
            marked("locked")
        );
        // Not in the statement that takes the lock, which sees what was there before.
        self.unsent = format!("{begin}; {lock}; {assertion}; ");
        self.is_as_seen = true;
        self.is_inside = false;
        self.read = None;
        self.schema_source = mode.schema;
        self.sequence = i64::try_from(seen.ledger.history.len()).unwrap_or_default();
        let writable = seen.access == Access::ReadWrite;
        self.place = Some(LedgerTables { diesel: true, history: true, alembic: false, writable });
        Ok(true)
    }

    fn inspect(&mut self) -> Result<Inspection> {
        let LedgerTables { writable, .. } = self.place()?;
        let (ledger, known) = self.read_ledger()?;
        let name = self.name.clone();
        let state = match &known {
            Some(known) if self.schema_source == SchemaSource::Ledger => known.state.clone(),
            Some(_) => self.reader()?.state(&name)?,
            None => String::new(),
        };
        let recorded = known.as_ref().map(|known| known.fingerprint);
        let known = known.filter(|known| known.state == state);
        let schema = match known.and_then(|known| self.store.schemas.with_fingerprint(known.fingerprint)) {
            Some(schema) => {
                let read = Read { schema: Arc::clone(&schema), state };
                self.read = Some(read).filter(|_| self.schema_source == SchemaSource::Live);
                schema
            }
            None => self.read()?.schema,
        };
        let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
        Ok(Inspection { ledger, schema: Some(schema), recorded, access })
    }

    fn lock_rows(&mut self) -> Result<()> {
        self.lock_tables()
    }

    fn count_rows(&mut self) -> Result<RowCounts> {
        self.count_rows()
    }

    fn raise_sequence(&mut self, name: &str, to: i64) -> Result<bool> {
        PostgresSession::raise_sequence(self, name, to)
    }

    fn violations(&mut self) -> Result<ForeignKeyViolations> {
        // The server enforces its foreign keys itself, whatever a migration drops.
        Ok(ForeignKeyViolations::new())
    }

    fn execute(&mut self, steps: &[Step<'_>]) -> Result<Vec<ScriptRun>> {
        self.read = None;
        match steps {
            [step] if !step.migration.is_transactional() && self.kind == Kind::Existing => {
                let started = SystemTime::now();
                self.run_outside(step)?;
                let took = started.elapsed().unwrap_or_default();
                Ok(vec![ScriptRun { started, took, deletes: false }])
            }
            _ => self.run_inside(steps),
        }
    }

    fn try_script(&mut self, step: Step<'_>) -> Result<Arc<Schema>> {
        // With tenantry's own search_path, which comes back with the savepoint.
        self.reader()?;
        self.batch("cannot try it out", "SAVEPOINT tenantry_trial")?;
        let tried = self.execute(&[step]).and_then(|_| self.schema());
        self.unsent.clear();
        self.batch(
            "cannot try it out",
            "ROLLBACK TO SAVEPOINT tenantry_trial; RELEASE SAVEPOINT tenantry_trial",
        )?;
        (self.read, self.is_inside) = (None, false);
        tried
    }

    fn make_ledger(&mut self) -> Result<()> {
        // It goes with the scripts.
        self.record(&[], "")
    }

    fn record(&mut self, entries: &[Entry], run: &str) -> Result<()> {
        let place = self.place()?;
        let has = ledger::write::Tables { diesel: place.diesel, history: place.history };
        let read = self.read.as_ref();
        // A trigger that somebody put on the ledger looks for names as any of the project's does.
        let (inside, back) = (search_path(&quote_name(&self.name)), search_path(NEUTRAL));
        let rows = ledger::write::record(&self.name, has, self.sequence, entries, run, read);
        let _ = write!(self.unsent, "{inside}; {rows}{back}; ");
        self.sequence += i64::try_from(entries.len()).unwrap_or_default();
        let pooled = self.protect_new_ledger(place)?;
        self.unsent.push_str(&pooled);
        if let Some(entry) = entries.last() {
            self.recorded = Some((run.to_string(), entry.clone()));
        }
        self.place = Some(LedgerTables { diesel: true, history: true, ..place });
        Ok(())
    }

    fn require_confined(&mut self) -> Result<()> {
        PostgresSession::require_confined(self)
    }

    fn schema(&mut self) -> Result<Arc<Schema>> {
        Ok(self.read()?.schema)
    }

    fn can_commit(&self) -> bool {
        self.kind == Kind::Existing
    }

    fn commit(&mut self) -> Result<()> {
        self.end("COMMIT")
    }

    fn commit_async(&mut self) -> Result<()> {
        self.end("SELECT set_config('synchronous_commit', 'off', true); COMMIT")
    }

    fn rollback(&mut self) -> Result<()> {
        self.unsent.clear();
        if self.kind == Kind::Within { Ok(()) } else { self.end_transaction("ROLLBACK") }
    }
}

impl Drop for PostgresSession<'_> {
    fn drop(&mut self) {
        // The lock of a session that is kept would outlive its owner; a connection that is closed takes it along.
        if self.holds {
            self.pooled.give_up();
        }
    }
}
