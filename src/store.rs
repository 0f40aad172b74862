//! Where projects are stored: the interface between tenantry's decisions and the databases that carry them out.
//!
//! Code above this interface does not know which database it works with. Code below it does not decide what a project
//! needs. A store implements one trait for each purpose:
//!
//! | trait | purpose |
//! |---|---|
//! | [`Store`] | what the store is, opening projects for writing, maintenance |
//! | `Inspect` | finding projects and reading them without changing a byte |
//! | `Create`, `SpareStore` | new databases, and databases kept ready |
//! | `Snapshots`, `ExclusiveProject` | copies for backups, and putting them back |
//! | `SqlText` | export and import as SQL |
//! | `Session`, `Rows` | one opened project: reading rows, running scripts, committing |
//! | `DeferredCommits` | commits that become durable in batches |

mod cache;
pub(crate) mod combined;
pub(crate) mod connection;
pub(crate) mod create;
pub(crate) mod inspect;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod session;
pub(crate) mod snapshots;
pub(crate) mod sql_text;
pub(crate) mod sqlite;

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::sql::Dialect;

use connection::Connector;

pub use crate::project::NamePattern;
pub use crate::schema::ignore::IgnoreList;
pub use combined::{CombinedStore, CombinedStoreBuilder, Placement};
pub use create::Spares;
pub use inspect::{Discovery, Skipped, Unreachable};
#[cfg(feature = "postgres")]
pub use postgres::{Isolation, PostgresOptions, PostgresStore};
pub use snapshots::IfInUse;
pub use sqlite::{MemoryStore, SqliteOptions, SqliteStore};

pub(crate) use create::{Create, SpareStore, Template};
pub(crate) use inspect::{Footprint, Inspect, ReadSchema};
pub(crate) use session::{
    DeferredCommits, ForeignKeyViolations, ForeignKeys, Health, Lock, Mode, RowCounts, Rows, SchemaSource,
    ScriptRun, Session, Step,
};
pub(crate) use snapshots::{
    Contents, ExclusiveProject, Replaced, Snapshot, SnapshotFile, Snapshots, TableSummary,
};
pub(crate) use sql_text::{LoadedSql, SqlText};

/// A fleet's home: a folder of SQLite files ([`SqliteStore`]), a Postgres database with a schema for each project
/// ([`PostgresStore`]), or several of them ([`CombinedStore`]). Implemented by tenantry only.
pub trait Store: Inspect + Create + Snapshots + SqlText + Send + Sync {
    /// The store's address, without a password.
    fn location(&self) -> String;

    /// The pattern of its files' or schemas' names, with `{id}` for the project's id.
    fn pattern(&self) -> String;

    /// A project's file path or schema name, for messages.
    fn place(&self, id: &ProjectId) -> String;

    /// Fails if an id cannot be a project's name in this store. Looks at the id only.
    fn validate_id(&self, id: &ProjectId) -> Result<()>;

    /// Returns ids as this store's projects are called: with the name of a store where it is needed and was not given.
    /// Opens no project. Fails if one cannot be a project's id in this store.
    fn resolve(&self, ids: &[ProjectId]) -> Result<Vec<ProjectId>> {
        for id in ids {
            if let Some(store) = id.store() {
                return Err(Error::new(ErrorKind::Usage, format!("the fleet has no store {store}"))
                    .in_project(id)
                    .with_hint("it is one store, so its projects are called by their ids alone"));
            }
            self.validate_id(id)?;
        }
        Ok(ids.to_vec())
    }

    /// Returns ids as new projects will be called, like [`Store::resolve`].
    fn place_new(&self, ids: &[ProjectId]) -> Result<Vec<ProjectId>> {
        self.resolve(ids)
    }

    /// The address of the store that a project is in, without a password.
    fn location_of(&self, id: &ProjectId) -> String {
        let _ = id;
        self.location()
    }

    /// Whether the folder or database exists. The first create makes a missing folder.
    fn exists(&self) -> bool;

    /// Checks the store's health without changing it.
    fn diagnose(&self) -> Vec<Finding>;

    /// A hint for an error that a migration raised on an empty database, if something in the store explains it.
    fn explain_failure(&self, message: &str) -> Option<String>;

    /// Removes the private copies and unfinished projects of killed processes. Touches nothing that is in use. Returns
    /// the names of what was removed.
    fn sweep(&self) -> Result<Vec<String>>;

    /// The SQL dialect of its migrations.
    fn dialect(&self) -> Dialect;

    /// Whether `location`, as returned by [`Store::location`], is this store.
    fn is_at(&self, location: &str) -> bool {
        self.location() == location
    }

    /// Whether a location and a pattern, as an earlier run recorded them, are those of this fleet.
    fn is_fleet(&self, location: &str, pattern: Option<&str>) -> bool {
        self.is_at(location) && pattern.is_none_or(|pattern| pattern == self.pattern())
    }

    /// Whether `location` is this store and nothing less: of several stores, all are in it.
    fn is_all_of(&self, location: &str) -> bool {
        self.is_at(location)
    }

    /// Whether a backup is this fleet's. `taken_of`, `place` and `id` come from its manifest; `kept_at` is the archive's
    /// location.
    fn owns(&self, taken_of: &str, place: &str, id: &ProjectId, kept_at: &str) -> bool {
        let _ = kept_at;
        self.is_at(taken_of) && self.place(id) == place
    }

    /// Runs the database's own maintenance on a project while others use it.
    fn maintain(&self, id: &ProjectId, maintenance: DatabaseMaintenance) -> Result<()>;

    /// How many projects to work on at once if nobody says otherwise, for each of its parts that has a limit of its own.
    fn lanes(&self) -> Vec<usize>;

    /// The part of [`Store::lanes`] that a project belongs to.
    fn lane(&self, id: &ProjectId) -> usize {
        let _ = id;
        0
    }

    /// How often to retry a project that another process has locked.
    fn retries(&self) -> u32;

    /// Opens a project for writing. Takes no lock; [`Session::begin`] does.
    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>>;

    /// Whether [`Session::begin_if_unchanged`] works here, so that inspections are worth keeping for it.
    fn supports_begin_if_unchanged(&self) -> bool;

    /// Commits that become durable in batches, if the store has them.
    fn deferred_commits(&self) -> Option<&dyn DeferredCommits>;

    /// Returns a function that opens an application's connections to a project.
    fn connector(&self, id: &ProjectId) -> Result<Connector>;
}

/// One check of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was checked.
    pub name: &'static str,
    /// Whether it is in order.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

impl Finding {
    /// A check that passed.
    #[must_use]
    pub fn passed(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into() }
    }

    /// A check that failed.
    #[must_use]
    pub fn failed(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: false, detail: detail.into() }
    }
}

/// Maintenance that the database does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseMaintenance {
    /// `ANALYZE`: update the query planner's statistics.
    Analyze,
    /// `VACUUM`: return the space of deleted rows.
    Vacuum,
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.location())
    }
}
