//! A session: one project opened for writing.
//!
//! A session never waits for the project's lock while it holds a snapshot: a `CREATE INDEX CONCURRENTLY` of another
//! session would in turn wait for that snapshot.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use diesel::connection::SimpleConnection as _;

use super::catalog::{Reader, SchemaInfo, SchemaWithState, lock_key, search_path};
use super::connect::{CATALOG_PATH, ConnectionGuard, Route};
use super::failure::{convert_error, marked, new_error};
use super::ledger::{self, RecordedSchema, StoredLedger};
use super::queries::schema_oid;
use super::{Isolation, PostgresStore, missing};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::NewHistoryRow;
use crate::plan::{Access, Inspection};
use crate::schema::Schema;
use crate::sql::quote_text;
use crate::store::{ForeignKeyViolations, Lock, Mode, RowCounts, SchemaSource, ScriptRun, Session, Step};

/// Who begins and ends the session's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransactionOwner {
    /// The session. The schema exists.
    Session,
    /// The caller. The schema is created in the caller's transaction, and everything runs in that.
    Caller,
}

/// One schema on one connection. Dropping it rolls back what is not committed.
pub(super) struct PostgresSession<'a> {
    pub(super) store: &'a PostgresStore,
    pub(super) pooled: ConnectionGuard<'a>,
    pub(super) name: String,
    pub(super) transaction_owner: TransactionOwner,
    /// Which ledger tables the schema has and whether it is writable; `None` if the schema does not exist.
    pub(super) schema_info: Option<SchemaInfo>,
    /// Whether the `search_path` is set to the schema instead of tenantry's own.
    pub(super) is_in_schema: bool,
    /// The schema as last read; `None` once something that may change it was run.
    pub(super) current: Option<SchemaWithState>,
    /// Notes on the owners and privileges that could not be set on a restored schema.
    pub(super) refused_grants: Vec<String>,
    /// Statements that are sent together with the next ones, to save a round trip.
    unsent: String,
    /// Whether the project is assumed to be as inspected. The first message, in `unsent`, checks that.
    assumes_unchanged: bool,
    /// The sequence number of the ledger's last row; 0 if there is none.
    sequence: i64,
    /// The last row written into the ledger, with its run.
    pub(super) recorded: Option<(String, NewHistoryRow)>,
    /// Whether the project's lock is held until the session ends.
    holds_session_lock: bool,
    schema_source: SchemaSource,
}

impl<'a> PostgresSession<'a> {
    pub(super) fn new(store: &'a PostgresStore, pooled: ConnectionGuard<'a>, name: String) -> Self {
        Self {
            store,
            pooled,
            name,
            transaction_owner: TransactionOwner::Session,
            schema_info: None,
            is_in_schema: false,
            current: None,
            refused_grants: Vec::new(),
            unsent: String::new(),
            assumes_unchanged: false,
            sequence: 0,
            recorded: None,
            holds_session_lock: false,
            schema_source: SchemaSource::Live,
        }
    }

    pub(super) fn failed(&self, what: &str, error: &diesel::result::Error) -> Error {
        convert_error(what, self.store.target(), error)
    }

    pub(super) fn batch(&mut self, what: &str, sql: &str) -> Result<()> {
        self.send()?;
        let result = self.pooled.connection()?.connection.batch_execute(sql);
        result.map_err(|error| self.failed(what, &error))
    }

    /// Sends the unsent statements in a message of their own.
    pub(super) fn send(&mut self) -> Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        if unsent.is_empty() {
            return Ok(());
        }
        let Err(error) = self.pooled.connection()?.connection.batch_execute(&unsent) else { return Ok(()) };
        let what =
            if self.assumes_unchanged { "cannot begin a transaction" } else { "cannot write its ledger" };
        match self.failed(what, &error) {
            error if self.assumes_unchanged && error.kind() != ErrorKind::Disconnected => {
                Err(self.changed_since_inspection())
            }
            error => Err(error),
        }
    }

    /// Whether the project is assumed to be as inspected, which the unsent statements check.
    pub(super) fn assumes_unchanged(&self) -> bool {
        self.assumes_unchanged
    }

    /// Takes the unsent statements; the caller has to send them.
    pub(super) fn take_unsent(&mut self) -> String {
        std::mem::take(&mut self.unsent)
    }

    /// The error for a project that changed since it was inspected.
    pub(super) fn changed_since_inspection(&self) -> Error {
        Error::new(ErrorKind::VersionMismatch, format!("{} changed since it was inspected", self.name))
    }

    /// Begins a transaction with tenantry's settings.
    pub(super) fn begin_transaction(&mut self) -> Result<()> {
        let result = self.pooled.connection()?.begin("");
        self.is_in_schema = false;
        self.assumes_unchanged = false;
        self.unsent.clear();
        self.current = None;
        result.map_err(|error| self.failed("cannot begin a transaction", &error))
    }

    /// Begins a read-only transaction that sees the database as of one moment. Fails with `NotFound` if the schema does
    /// not exist.
    pub(super) fn begin_reading(&mut self) -> Result<()> {
        let result = self.pooled.connection()?.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY");
        result.map_err(|error| self.failed("cannot begin a transaction", &error))?;
        self.find_schema()?;
        self.require_schema().map(|_| ())
    }

    pub(super) fn end_transaction(&mut self, sql: &str) -> Result<()> {
        let result = self.pooled.connection()?.end(sql);
        result.map_err(|error| self.failed("cannot end the transaction", &error))
    }

    pub(super) fn try_lock(&mut self, lock: Lock) -> Result<bool> {
        let name = self.name.clone();
        self.reader()?.try_lock(&name, lock == Lock::Session)
    }

    /// Repeats an attempt to lock the project until the lock timeout. Holds nothing between two attempts.
    fn lock_until_timeout(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + self.store.options.lock_timeout;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
        while !attempt(self)? {
            if Instant::now() >= deadline {
                let message = "another run of tenantry is using it";
                return Err(new_error("cannot lock it", self.store.target(), ErrorKind::Locked, message));
            }
            backoff.sleep();
        }
        Ok(())
    }

    /// Takes the project's lock until the session ends. Fails with `Configuration` behind a pooler.
    fn lock_for_session(&mut self) -> Result<()> {
        if self.pooled.connection()?.server.route == Route::ViaPooler {
            return Err(Error::new(ErrorKind::Configuration, "a migration outside a transaction needs a direct connection to the server")
                .with_hint("a pooler is in between and gives each transaction another connection: name the server itself in --store"));
        }
        self.lock_until_timeout(|session| session.try_lock(Lock::Session))?;
        self.holds_session_lock = true;
        Ok(())
    }

    /// Returns a reader of the system catalogs, after setting the `search_path` that tenantry's own queries always use.
    pub(super) fn reader(&mut self) -> Result<Reader<'_>> {
        if std::mem::take(&mut self.is_in_schema) {
            self.batch("cannot reset the search_path", &search_path(CATALOG_PATH))?;
        }
        self.send()?;
        let link = self.pooled.connection()?;
        Ok(self.store.reader(link))
    }

    pub(super) fn require_schema(&self) -> Result<SchemaInfo> {
        self.schema_info.ok_or_else(|| missing(&self.name))
    }

    /// The schema's OID, as an SQL expression.
    pub(super) fn schema_oid_sql(&self) -> Result<String> {
        self.require_schema()?;
        Ok(schema_oid(&quote_text(&self.name)))
    }

    /// Looks the schema up by its name and sets `schema_info`.
    pub(super) fn find_schema(&mut self) -> Result<()> {
        let name = self.name.clone();
        self.schema_info = self.reader()?.schema_info(&name)?;
        Ok(())
    }

    /// Reads the schema and the state of the system catalogs, unless both are already known.
    fn read_current(&mut self) -> Result<SchemaWithState> {
        if let Some(read) = &self.current {
            return Ok(read.clone());
        }
        self.require_schema()?;
        let name = self.name.clone();
        let read = self.reader()?.schema(&name)?;
        self.current = Some(read.clone());
        Ok(read)
    }

    pub(super) fn read_ledger(&mut self) -> Result<(Arc<crate::ledger::Ledger>, Option<RecordedSchema>)> {
        let tables = self.require_schema()?;
        let result = ledger::read(&mut self.pooled.connection()?.connection, &self.name, tables);
        let StoredLedger { ledger, sequence, known } =
            result.map_err(|error| self.failed("cannot read its ledger", &error))??;
        self.sequence = sequence;
        Ok((Arc::new(ledger), known))
    }
}

impl Session for PostgresSession<'_> {
    fn change(&mut self, sql: &str) -> Result<u64> {
        self.change_rows(sql)
    }

    fn begin(&mut self, mode: Mode) -> Result<()> {
        if self.transaction_owner == TransactionOwner::Caller {
            return Ok(());
        }
        self.schema_source = mode.schema;
        if mode.lock == Lock::Session && !self.holds_session_lock {
            self.lock_for_session()?;
        }
        self.lock_until_timeout(|session| {
            session.begin_transaction()?;
            let locked = session.try_lock(Lock::Transaction)?;
            if locked {
                session.find_schema()?;
                session.ensure_role()?;
            } else {
                session.end_transaction("ROLLBACK")?;
            }
            Ok(locked)
        })
    }

    fn begin_if_unchanged(&mut self, mode: Mode, inspected: &Inspection) -> Result<bool> {
        let expected = Mode { foreign_keys: mode.foreign_keys, schema: SchemaSource::Ledger, ..Mode::PLAIN };
        let is_plain = self.transaction_owner == TransactionOwner::Session
            && !self.holds_session_lock
            && mode == expected;
        let uses_roles = self.store.options.isolation == Isolation::Role;
        // The server parses a whole message before it runs any of it. Behind a pooler, the settings that another client
        // left on the connection would apply.
        let is_direct = self.pooled.connection()?.server.route == Route::Direct;
        let assertion = ledger::assertion(&self.name, &inspected.ledger);
        let Some(assertion) = assertion.filter(|_| is_plain && is_direct && !uses_roles) else {
            return Ok(false);
        };
        let begin = self.pooled.connection()?.begin_sql("");
        let key = lock_key(&quote_text(&self.name));
        let lock = format!(
            "SELECT CASE WHEN NOT pg_try_advisory_xact_lock({key}) THEN CAST({} AS int) END",
            marked("locked")
        );
        // The assertion is a separate statement: the one that takes the lock sees the ledger as it was before the lock.
        self.unsent = format!("{begin}; {lock}; {assertion}; ");
        self.assumes_unchanged = true;
        self.is_in_schema = false;
        self.current = None;
        self.schema_source = mode.schema;
        self.sequence = i64::try_from(inspected.ledger.history.len()).unwrap_or_default();
        let writable = inspected.access == Access::ReadWrite;
        self.schema_info = Some(SchemaInfo { diesel: true, history: true, alembic: false, writable });
        Ok(true)
    }

    fn inspect(&mut self) -> Result<Inspection> {
        let SchemaInfo { writable, .. } = self.require_schema()?;
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
                let read = SchemaWithState { schema: Arc::clone(&schema), state };
                self.current = Some(read).filter(|_| self.schema_source == SchemaSource::Live);
                schema
            }
            None => self.read_current()?.schema,
        };
        let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
        Ok(Inspection {
            ledger,
            schema: Some(schema),
            recorded_fingerprint: recorded,
            access,
            other_ledgers: Vec::new(),
        })
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
        // The server enforces foreign keys itself, whatever a migration drops.
        Ok(ForeignKeyViolations::new())
    }

    fn execute(&mut self, steps: &[Step<'_>]) -> Result<Vec<ScriptRun>> {
        self.current = None;
        self.ensure_extensions(steps)?;
        match steps {
            [step]
                if !step.script.is_transactional() && self.transaction_owner == TransactionOwner::Session =>
            {
                let started = SystemTime::now();
                self.run_outside_transaction(step)?;
                let took = started.elapsed().unwrap_or_default();
                Ok(vec![ScriptRun { started, took, deletes: false }])
            }
            _ => self.run_in_transaction(steps),
        }
    }

    fn try_script(&mut self, step: Step<'_>) -> Result<Arc<Schema>> {
        // Sets tenantry's own search_path first, so that the rollback to the savepoint restores it.
        self.reader()?;
        self.batch("cannot try out the script", "SAVEPOINT tenantry_trial")?;
        let tried = self.execute(&[step]).and_then(|_| self.schema());
        self.unsent.clear();
        self.batch(
            "cannot try out the script",
            "ROLLBACK TO SAVEPOINT tenantry_trial; RELEASE SAVEPOINT tenantry_trial",
        )?;
        (self.current, self.is_in_schema) = (None, false);
        tried
    }

    fn run_or_undo(
        &mut self,
        step: Step<'_>,
        check: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<Option<Error>> {
        const FAILED: &str = "cannot undo a failed script";
        // Sets tenantry's own search_path first, so that the rollback to the savepoint restores it.
        self.reader()?;
        self.batch(FAILED, "SAVEPOINT tenantry_step")?;
        let result = self.execute(&[step]).and_then(|_| self.schema()).and_then(|_| check(self));
        let error = match result {
            Ok(()) => None,
            Err(error) if error.is_of_environment() => return Err(error),
            Err(error) => {
                self.unsent.clear();
                self.batch(FAILED, "ROLLBACK TO SAVEPOINT tenantry_step")?;
                Some(error)
            }
        };
        self.batch(FAILED, "RELEASE SAVEPOINT tenantry_step")?;
        (self.current, self.is_in_schema) = (None, false);
        Ok(error)
    }

    fn create_ledger(&mut self) -> Result<()> {
        // The statements are sent together with the scripts.
        self.record(&[], "")
    }

    fn record(&mut self, entries: &[NewHistoryRow], run_id: &str) -> Result<()> {
        let info = self.require_schema()?;
        let has = ledger::write::Tables { diesel: info.diesel, history: info.history };
        let read = self.current.as_ref();
        // A trigger on the ledger resolves names with the schema's search_path, like any other trigger of the project.
        let (schema_path, own_path) =
            (search_path(&self.store.options.search_path(&self.name)), search_path(CATALOG_PATH));
        let rows = ledger::write::record(&self.name, has, self.sequence, entries, run_id, read);
        let _ = write!(self.unsent, "{schema_path}; {rows}{own_path}; ");
        self.sequence += i64::try_from(entries.len()).unwrap_or_default();
        let protection = self.protect_new_ledger(info)?;
        self.unsent.push_str(&protection);
        if let Some(entry) = entries.last() {
            self.recorded = Some((run_id.to_string(), entry.clone()));
        }
        self.schema_info = Some(SchemaInfo { diesel: true, history: true, ..info });
        Ok(())
    }

    fn require_confined(&mut self) -> Result<()> {
        PostgresSession::require_confined(self)
    }

    fn schema(&mut self) -> Result<Arc<Schema>> {
        Ok(self.read_current()?.schema)
    }

    fn can_commit(&self) -> bool {
        self.transaction_owner == TransactionOwner::Session
    }

    fn commit(&mut self) -> Result<()> {
        self.commit_with("COMMIT")
    }

    fn commit_async(&mut self) -> Result<()> {
        self.commit_with("SELECT set_config('synchronous_commit', 'off', true); COMMIT")
    }

    fn rollback(&mut self) -> Result<()> {
        self.unsent.clear();
        if self.transaction_owner == TransactionOwner::Caller {
            Ok(())
        } else {
            self.end_transaction("ROLLBACK")
        }
    }
}

impl Drop for PostgresSession<'_> {
    fn drop(&mut self) {
        // A pooled connection would keep the lock. Closing the connection releases it.
        if self.holds_session_lock {
            self.pooled.discard();
        }
    }
}
