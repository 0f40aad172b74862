//! The entry point for applications and for the command: combines a store, a catalog, the planner and the workers.
//!
//! Does not print, exit or read the environment.

mod backup;
mod backup_tasks;
mod calls;
mod command;
mod connections;
mod context;
mod creation;
mod execution;
mod gate;
mod generation;
mod history;
#[cfg(feature = "lint")]
mod linting;
mod maintenance;
mod pattern;
mod pool;
mod portion;
mod prediction;
mod preparation;
mod recording;
mod reference;
mod rehearsal;
mod repair;
mod reporting;
mod restore;
mod resume;
mod rollback;
mod rollout;
mod run;
mod run_options;
mod sampling;
mod schemas;
mod selection;
mod shard;
mod sink;
mod squash;
mod survey;
mod transfer;
mod upgrade;
mod verification;
mod waves;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use crate::apply::{DropTables, Durability, Executor, RowOwner};
use crate::backup::Archive;
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;
use crate::plan::{Inspection, Reference, State};
use crate::project::ProjectId;
use crate::rules::Rules;
use crate::schema::alter::Definitions;
use crate::store::{MemoryStore, ReadSchema, Store};
use crate::workers::Workers;

pub use crate::plan::{DownScriptOutcome, DowngradeTarget, IfDrifted, IfNoLedger, Request};
pub use crate::project::Shard;
pub use crate::schema::alter::ExtraCode;
pub use crate::schema::bookkeeping::Tool;
pub use crate::schema::{Fingerprint, Schema};
#[cfg(feature = "lint")]
pub use command::LintOptions;
pub use command::{
    BackupBefore, BackupTask, FinalBackup, MaintenanceTask, Operation, Restore, Rollback, Run, Selection,
    Source,
};
pub use generation::{Generated, Rename, WantedSchema};
#[cfg(feature = "lint")]
pub use linting::Lint;
pub use pattern::IdPattern;
pub use pool::PooledConnection;
pub use portion::Portion;
pub use rehearsal::RehearsalPlace;
pub use rollout::{Order, Rollout};
pub use shard::JobShard;
pub use squash::Squashed;
pub use survey::Status;

use pool::Pools;

/// The default limit of [`Manager::connection`]'s open connections.
const DEFAULT_CONNECTIONS: usize = 16;

/// A fleet: a store, and the catalog that its projects are migrated with.
///
/// ```
/// use tenantry::{Catalog, Dialect, Manager, ProjectId};
///
/// let notes = [("1_notes/up.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);")];
/// let catalog = Catalog::from_files("notes", Dialect::Sqlite, notes)?;
/// let manager = Manager::in_memory(catalog)?;
///
/// let id: ProjectId = "42".parse()?;
/// manager.create(&id)?;
/// assert!(manager.status(&id)?.is_current());
/// # Ok::<(), tenantry::Error>(())
/// ```
pub struct Manager {
    store: Arc<dyn Store>,
    catalog: Arc<Catalog>,
    reference: OnceLock<Reference>,
    /// The reference together with the result of each down.sql. Built only for operations that need these results.
    reference_with_down_results: OnceLock<Reference>,
    /// The schemas that repairs compare with, with the statements that create them.
    definitions: Mutex<BTreeMap<State, Arc<Definitions>>>,
    /// The rules of `set.toml`, read on first use.
    rules: OnceLock<Rules>,
    read_rules: Option<ReadRules>,
    archive: Option<Archive>,
    journal: Option<Journal>,
    jobs: Option<usize>,
    pools: Arc<Pools>,
    interrupted: Arc<AtomicBool>,
    /// Locked shared while a project is worked on, and exclusively to retry a project that needs the server's whole
    /// lock table.
    lock_table_gate: RwLock<()>,
}

/// Reads the rules of a migration set.
pub(crate) type ReadRules = Box<dyn Fn() -> Result<Rules> + Send + Sync>;

impl Manager {
    /// Creates a manager.
    ///
    /// Fails with [`ErrorKind::Configuration`] if the catalog is for another dialect than the store's.
    pub fn new(store: impl Store + 'static, catalog: Catalog) -> Result<Self> {
        Self::with_shared_store(Arc::new(store), catalog)
    }

    /// Creates an empty fleet in memory, for an application's tests. It runs the real migrations once and copies the
    /// result for each project.
    ///
    /// Fails with [`ErrorKind::Configuration`] if the catalog is not for SQLite.
    pub fn in_memory(catalog: Catalog) -> Result<Self> {
        Self::with_shared_store(Arc::new(MemoryStore::new()), catalog)
    }

    /// Creates a manager like [`Manager::new`], with a store that is shared with other code.
    pub fn with_shared_store(store: Arc<dyn Store>, catalog: Catalog) -> Result<Self> {
        if store.dialect() != catalog.dialect() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "{} is for {}, but the store is {}",
                    catalog.name(),
                    catalog.dialect().name(),
                    store.location()
                ),
            ));
        }
        Ok(Self {
            jobs: None,
            store,
            catalog: Arc::new(catalog),
            reference: OnceLock::new(),
            reference_with_down_results: OnceLock::new(),
            definitions: Mutex::default(),
            rules: OnceLock::new(),
            read_rules: None,
            archive: None,
            journal: None,
            pools: Arc::new(Pools::new(DEFAULT_CONNECTIONS, Duration::from_mins(1))),
            interrupted: Arc::default(),
            lock_table_gate: RwLock::default(),
        })
    }

    /// Sets how many projects are worked on at once, at least 1; in a fleet of several stores, in each of them. The default
    /// is the value that was measured to be fastest for the store.
    #[must_use]
    pub fn with_jobs(mut self, jobs: usize) -> Self {
        self.jobs = Some(jobs.max(1));
        self
    }

    /// Sets how many connections [`Manager::connection`] opens at most over the whole fleet (default 16), and how long
    /// an idle one stays open (default 60 s).
    #[must_use]
    pub fn with_connections(mut self, connections: usize, idle: Duration) -> Self {
        self.pools = Arc::new(Pools::new(connections.max(1), idle));
        self
    }

    /// Sets the rules of the migration set: retention and checks. The default is no rules.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = OnceLock::from(rules);
        self
    }

    /// Sets a function that reads the rules on first use, so that an error in them affects only operations that need
    /// them.
    #[must_use]
    pub(crate) fn with_lazy_rules(mut self, read: ReadRules) -> Self {
        self.read_rules = Some(read);
        self
    }

    fn rules(&self) -> Result<&Rules> {
        if self.rules.get().is_none() {
            let read = self.read_rules.as_ref().map_or_else(|| Ok(Rules::default()), |read| read())?;
            return Ok(self.rules.get_or_init(|| read));
        }
        Ok(self.rules.get_or_init(Rules::default))
    }

    /// Sets where backups are kept. Without it, everything that needs backups fails with
    /// [`ErrorKind::Configuration`].
    #[must_use]
    pub fn with_archive(mut self, archive: Archive) -> Self {
        self.archive = Some(archive.of_store(Arc::clone(&self.store)));
        self
    }

    fn archive(&self) -> Result<&Archive> {
        self.archive.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "no backup directory is configured")
                .with_hint("set one: [backup] dir in tenantry.toml, or --backup-dir")
        })
    }

    /// Sets the journal that runs are recorded in. Without it, nothing is recorded.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Sets a flag that ends a run early. Once it is true, projects in progress are finished and no other is started.
    #[must_use]
    pub fn with_interruption(mut self, interrupted: Arc<AtomicBool>) -> Self {
        self.interrupted = interrupted;
        self
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Removes the private copies and unfinished projects of killed processes. Touches nothing that is in use. Returns
    /// the names of what was removed.
    ///
    /// Operations that create such copies or projects also remove old ones.
    pub fn sweep(&self) -> Result<Vec<String>> {
        let mut removed = self.store.sweep()?;
        removed.extend(crate::disk::sweep_private_folders()?);
        Ok(removed)
    }

    /// Returns the catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Runs every migration on a private empty database. The first call does so; its result is kept.
    ///
    /// Fails with [`ErrorKind::Catalog`] if a migration fails.
    pub fn verify_migrations(&self) -> Result<()> {
        self.reference().map(drop)
    }

    /// Runs every migration and its `down.sql` on a private empty database. Returns what each `down.sql` does, in the
    /// order of the catalog.
    ///
    /// Fails with [`ErrorKind::Catalog`] if a migration fails.
    pub fn down_script_outcomes(&self) -> Result<Vec<DownScriptOutcome>> {
        let reference = self.reference_with_down_results()?;
        let outcome =
            |index| reference.down_script_outcome(index).cloned().unwrap_or(DownScriptOutcome::Untested);
        Ok((0..self.catalog.head()).map(outcome).collect())
    }

    /// The request of an upgrade to the newest version with default options.
    fn upgrade_request(&self) -> Request {
        Request::Upgrade { to: self.catalog.head(), baseline: IfNoLedger::Stamp, drift: IfDrifted::Refuse }
    }

    /// Returns an executor with the reference that the request needs.
    fn executor_for<'a>(&'a self, request: Request, run_id: &'a str) -> Result<Executor<'a>> {
        let reference = match request {
            Request::Downgrade { .. } => self.reference_with_down_results()?,
            Request::Upgrade { .. } | Request::Stamp { .. } | Request::Adopt { .. } => self.reference()?,
        };
        Ok(self.executor_with(reference, request, run_id))
    }

    fn executor_with<'a>(
        &'a self,
        reference: &'a Reference,
        request: Request,
        run_id: &'a str,
    ) -> Executor<'a> {
        Executor {
            catalog: &self.catalog,
            reference,
            request,
            run_id,
            drops: DropTables::Any,
            rows: RowOwner::Application,
            allow_row_loss: &[],
            durability: Durability::Immediate,
        }
    }

    /// Inspects one project, with its schema.
    fn inspect(&self, id: &ProjectId) -> Result<Inspection> {
        self.inspect_with(id, ReadSchema::Always)
    }

    fn inspect_with(&self, id: &ProjectId, read_schema: ReadSchema) -> Result<Inspection> {
        let mut inspections = self.store.inspect(std::slice::from_ref(id), read_schema);
        inspections
            .pop()
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "the store returned no inspection")))
    }

    /// Returns an id as the store calls the project.
    fn resolve(&self, id: &ProjectId) -> Result<ProjectId> {
        Ok(self.store.resolve(std::slice::from_ref(id))?.pop().unwrap_or_else(|| id.clone()))
    }

    fn workers(&self) -> Result<Workers> {
        Workers::new(Arc::clone(&self.store), self.jobs)
    }
}
