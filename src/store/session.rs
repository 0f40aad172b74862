//! A project opened: the seam's half that reads rows and writes.
//!
//! Like the other half it must not know which database it is, nor decide what a project needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Contents;
use crate::catalog::{Migration, Script};
use crate::error::Result;
use crate::ledger::Entry;
use crate::plan::Inspection;
use crate::schema::Schema;
use crate::sql::pragma::FileSettings;

/// How a session's transaction is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Whether foreign keys are enforced. A plan that drops a table runs without: see traps in `docs/design.md`.
    pub foreign_keys: ForeignKeys,
    /// Whether the lock outlives the transaction, for migrations that can't run in one.
    pub lock: Lock,
    /// What [`Session::inspect`] goes by.
    pub schema: SchemaSource,
    /// The settings of the database's file that are made before the transaction.
    pub file: FileSettings,
}

impl Mode {
    /// A transaction as any: foreign keys are enforced, and the schema is read.
    pub const PLAIN: Self = Self {
        foreign_keys: ForeignKeys::Enforced,
        lock: Lock::Transaction,
        schema: SchemaSource::Live,
        file: FileSettings::NONE,
    };
}

/// What a schema under the lock is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaSource {
    /// By reading it.
    Live,
    /// By what the ledger says of it, which is read: enough where the schema that comes out is read anyway before it is
    /// committed, since only from the schema that was expected can the expected one come out.
    Ledger,
}

/// How much of a project [`Store::inspect`](super::Store::inspect) reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadSchema {
    /// All of it.
    Always,
    /// No schema where the ledger says that it was proven to be what its versions lead to, and nothing about it has changed
    /// since.
    IfUnverified,
}

/// Whether foreign keys are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignKeys {
    /// By the database, statement by statement.
    Enforced,
    /// By tenantry, which compares violations before and after.
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

/// One of a migration's scripts, to be run.
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
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Whether the database saw that it may delete rows, by whatever trigger; where it can't tell, it says no.
    pub deletes: bool,
}

/// A project's rows, as text. Names in the SQL given here are those of the project's own tables.
pub trait Rows {
    /// The columns of a table or view, in order; none where there is no such table.
    fn columns(&mut self, table: &str) -> Result<Vec<String>>;

    /// Gives these expressions for each row of `from`, which goes on as in a `SELECT`, to `visit`, one row after the other,
    /// until it says false. NULL is `None`.
    fn each(
        &mut self,
        expressions: &[String],
        from: &str,
        visit: &mut dyn FnMut(Vec<Option<String>>) -> Result<bool>,
    ) -> Result<()>;

    /// The first row that a query gives, spelled `column = value, ...`.
    fn first(&mut self, query: &str) -> Result<Option<String>>;

    /// Sums up all rows.
    fn contents(&mut self) -> Result<Contents>;

    /// What the database itself finds wrong, and what it could not look at.
    fn health(&mut self) -> Result<Health>;
}

/// What a database finds when it looks at itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What is wrong: what can't be read, rows that point at nothing.
    pub damage: Vec<String>,
    /// Constraints that were never validated; wrong only where the migrations don't leave them so.
    pub unvalidated: Vec<String>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

/// A project opened for writing: the only way to change one. Dropping it rolls back what is not committed.
pub trait Session: Rows {
    /// Runs one statement of SQL that changes rows; gives how many.
    fn change(&mut self, sql: &str) -> Result<u64>;

    /// Begins a transaction and takes the project's lock, waiting at most the lock timeout.
    fn begin(&mut self, mode: Mode) -> Result<()>;

    /// Begins a transaction as [`Session::begin`] does, on a project that is taken to be as it was seen without a lock: to be
    /// compared under it, by the database, together with whatever is sent to it first, which errors with
    /// [`ErrorKind::VersionMismatch`](crate::ErrorKind::VersionMismatch) where the project is another one by now. Says
    /// whether it has; where not, nothing is begun.
    fn begin_if_unchanged(&mut self, mode: Mode, seen: &Inspection) -> Result<bool> {
        let _ = (mode, seen);
        Ok(false)
    }

    /// Reads ledger and schema as they are under the lock.
    fn inspect(&mut self) -> Result<Inspection>;

    /// Keeps everybody else from changing any row until the transaction ends, where its beginning does not.
    fn lock_rows(&mut self) -> Result<()> {
        Ok(())
    }

    /// Counts the rows of each table.
    fn count_rows(&mut self) -> Result<RowCounts>;

    /// Has the numbers of new rows go on from this one; says whether anything of this name numbers rows.
    fn raise_sequence(&mut self, name: &str, to: i64) -> Result<bool>;

    /// Counts violated foreign keys: none where the database never lets any be.
    fn violations(&mut self) -> Result<ForeignKeyViolations>;

    /// Runs these scripts, one after the other; says of each when it began and how long it took. One that can't run in a
    /// transaction comes alone. Errors name the migration.
    fn execute(&mut self, steps: &[Step<'_>]) -> Result<Vec<ScriptRun>>;

    /// Makes the ledger's tables where they are missing: a script may name them.
    fn make_ledger(&mut self) -> Result<()>;

    /// Runs a script, reads the schema that comes out, and undoes it.
    fn try_script(&mut self, step: Step<'_>) -> Result<Arc<Schema>>;

    /// Writes ledger rows, making the ledger's tables where they are missing.
    fn record(&mut self, entries: &[Entry], run: &str) -> Result<()>;

    /// Errors where what was run since `begin` changed anything outside of the project, as far as the database can tell.
    fn require_confined(&mut self) -> Result<()> {
        Ok(())
    }

    /// Reads the schema as it is now.
    fn schema(&mut self) -> Result<Arc<Schema>>;

    /// Whether [`Session::commit`] commits, or somebody else does, all of it together.
    fn can_commit(&self) -> bool {
        true
    }

    /// Makes everything since `begin` durable.
    fn commit(&mut self) -> Result<()>;

    /// Commits everything since `begin`, whole or not at all like any commit; durable it is once [`Store::flush_commits`](super::Store::flush_commits) has ended.
    fn commit_async(&mut self) -> Result<()> {
        self.commit()
    }

    /// Undoes everything since `begin`.
    fn rollback(&mut self) -> Result<()>;
}

/// What can be counted before and after a migration, to prove that no row was eaten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// The highest number that was ever given to a row, by whatever numbers rows: a table, or a column of one.
    pub sequences: BTreeMap<String, i64>,
    /// The partitioned tables that a partition belongs to, by its name.
    pub partitions: BTreeMap<String, Vec<String>>,
}

/// Violated foreign keys by child and parent table.
pub type ForeignKeyViolations = BTreeMap<(String, String), u64>;
