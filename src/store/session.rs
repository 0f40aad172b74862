//! One opened project: reading its rows, running scripts, and committing.
//!
//! Does not decide what a project needs, and hides which database it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Contents;
use crate::catalog::{Migration, Script};
use crate::error::{Error, Result};
use crate::ledger::NewHistoryRow;
use crate::plan::Inspection;
use crate::project::ProjectId;
use crate::schema::{LazySchema, Schema};
use crate::sql::pragma::FileSettings;

/// How [`Session::begin`] starts a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Who enforces foreign keys. A plan that drops a table runs without enforcement, since dropping it would delete the
    /// rows that reference it.
    pub foreign_keys: ForeignKeys,
    /// How long the lock is held: beyond the transaction for migrations that cannot run in one.
    pub lock: Lock,
    /// Where [`Session::inspect`] takes the schema from.
    pub schema: SchemaSource,
    /// Settings of the database file that are applied before the transaction.
    pub file: FileSettings,
}

impl Mode {
    /// An ordinary transaction: foreign keys are enforced and the schema is read.
    pub const PLAIN: Self = Self {
        foreign_keys: ForeignKeys::Enforced,
        lock: Lock::Transaction,
        schema: SchemaSource::Live,
        file: FileSettings::NONE,
    };
}

/// Where the schema of a locked project comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaSource {
    /// From the database.
    Live,
    /// From the fingerprint in the ledger. Enough for a plan that runs migrations: the resulting schema is read and
    /// compared before the commit, and only the expected schema leads to the expected one.
    Ledger,
}

/// Who enforces foreign keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignKeys {
    /// The database, statement by statement.
    Enforced,
    /// tenantry, which compares violations before and after.
    Compared,
}

/// How long a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Until the transaction ends.
    Transaction,
    /// Until the session ends.
    Session,
}

/// A migration's script to run.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The migration.
    pub migration: &'a Migration,
    /// Its up.sql or its down.sql.
    pub script: &'a Script,
}

/// A script that was run.
#[derive(Clone, Copy, Debug)]
pub struct ScriptRun {
    /// When it started.
    pub started: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Whether the database saw that it may delete rows, for example by a trigger. `false` if the database cannot tell.
    pub deletes: bool,
}

/// A project's rows, as text. SQL passed here names the project's own tables without a schema.
pub trait Rows {
    /// The columns of a table or view, in order. Empty if there is no such table.
    fn columns(&mut self, table: &str) -> Result<Vec<String>>;

    /// Evaluates expressions for each row of `from`, the rest of a `SELECT`, and passes them to `visit` until it returns
    /// `false`. NULL is `None`.
    fn for_each_row(
        &mut self,
        expressions: &[String],
        from: &str,
        visit: &mut dyn FnMut(Vec<Option<String>>) -> Result<bool>,
    ) -> Result<()>;

    /// The first row of a query, as `column = value, ...`.
    fn first(&mut self, query: &str) -> Result<Option<String>>;

    /// Summarizes all rows.
    fn contents(&mut self) -> Result<Contents>;

    /// Runs the database's own checks.
    fn health(&mut self) -> Result<Health>;
}

/// The result of a database's own checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Damage: unreadable pages, rows that reference missing rows.
    pub errors: Vec<String>,
    /// Constraints that were never validated. A fault only if the migrations do not leave them so.
    pub unvalidated: Vec<String>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

/// A project opened for writing: the only way to change one. Dropping it rolls back everything that is not committed.
pub trait Session: Rows {
    /// Runs one SQL statement that changes rows. Returns how many.
    fn change(&mut self, sql: &str) -> Result<u64>;

    /// Begins a transaction and locks the project. Fails with [`ErrorKind::Locked`](crate::ErrorKind::Locked) after the
    /// lock timeout.
    fn begin(&mut self, mode: Mode) -> Result<()>;

    /// Begins a transaction like [`Session::begin`] on a project that is expected to be as inspected before. The first
    /// scripts are sent together with a check of that, and fail with
    /// [`ErrorKind::VersionMismatch`](crate::ErrorKind::VersionMismatch) if the project changed since. Returns `false`
    /// if this is not possible here; no transaction is started then.
    fn begin_if_unchanged(&mut self, mode: Mode, inspected: &Inspection) -> Result<bool>;

    /// Reads ledger and schema under the lock.
    fn inspect(&mut self) -> Result<Inspection>;

    /// Prevents all others from changing any row until the transaction ends.
    fn lock_rows(&mut self) -> Result<()>;

    /// Counts the rows of every table.
    fn count_rows(&mut self) -> Result<RowCounts>;

    /// Makes a sequence continue after `to`. Returns `false` if there is no sequence of this name.
    fn raise_sequence(&mut self, name: &str, to: i64) -> Result<bool>;

    /// Counts violated foreign keys. Always empty if the database never allows any.
    fn violations(&mut self) -> Result<ForeignKeyViolations>;

    /// Runs scripts in order. A script that cannot run in a transaction is passed alone. Errors name the migration.
    fn execute(&mut self, steps: &[Step<'_>]) -> Result<Vec<ScriptRun>>;

    /// Runs a script, and then `check`. If either fails, undoes the script and returns the error, unless it is one of the
    /// server or the disk.
    fn run_or_undo(
        &mut self,
        step: Step<'_>,
        check: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<Option<Error>>;

    /// Creates the ledger's tables if they are missing, since a script may use them.
    fn create_ledger(&mut self) -> Result<()>;

    /// Runs a script, reads the resulting schema, and undoes the script.
    fn try_script(&mut self, step: Step<'_>) -> Result<Arc<Schema>>;

    /// Writes ledger rows, creating the ledger's tables if they are missing.
    fn record(&mut self, entries: &[NewHistoryRow], run_id: &str) -> Result<()>;

    /// Fails if this transaction changed anything outside of the project, as far as the database can tell.
    fn require_confined(&mut self) -> Result<()>;

    /// Reads the current schema.
    fn schema(&mut self) -> Result<Arc<Schema>>;

    /// Whether [`Session::lazy_schema`] leaves the work for later. If not, reading a large schema takes long.
    fn defers_schemas(&self) -> bool {
        false
    }

    /// Reads the current schema, and parses it when it is first used if the database makes that possible.
    fn lazy_schema(&mut self) -> Result<LazySchema> {
        let schema = self.schema()?;
        Ok(LazySchema::new(Box::new(move || schema)))
    }

    /// Whether [`Session::commit`] commits. If not, somebody else commits everything together, and a plan cannot be
    /// committed in parts.
    fn can_commit(&self) -> bool;

    /// Commits, durably.
    fn commit(&mut self) -> Result<()>;

    /// Commits without waiting for the disk, if the store has [`DeferredCommits`]; like [`Session::commit`] otherwise.
    /// The commit is durable once [`DeferredCommits::flush_commits`] returned.
    fn commit_async(&mut self) -> Result<()>;

    /// Rolls back everything since `begin`.
    fn rollback(&mut self) -> Result<()>;
}

/// Commits that become durable in batches, so that several projects wait for the disk together.
pub trait DeferredCommits {
    /// How many projects to flush together.
    fn commit_batch_size(&self) -> usize;

    /// Makes the commits of [`Session::commit_async`] durable. Returns for each project whether the run's commit is
    /// there: a server that crashed in between may have lost it.
    fn flush_commits(&self, ids: &[ProjectId], run_id: &str) -> Result<Vec<bool>>;
}

/// What is counted before and after a migration, to find lost rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// The highest number given out by each sequence: a table's row ids, or a column's sequence.
    pub sequences: BTreeMap<String, i64>,
    /// For each partition, the partitioned tables it belongs to.
    pub partitions: BTreeMap<String, Vec<String>>,
}

/// How many rows violate a foreign key, by child and parent table.
pub(crate) type ForeignKeyViolations = BTreeMap<(String, String), u64>;
