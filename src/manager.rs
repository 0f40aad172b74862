//! The way in for applications and for the command: a store and a catalog, and what can be done with them.
//!
//! It must not print, exit or read the environment, and it does nothing of its own: it composes the fleet's workers,
//! the planner and the store.

mod backup;
mod calls;
mod command;
mod execution;
mod history;
mod maintenance;
mod pool;
mod recording;
mod restore;
mod rollback;
mod run;
mod survey;
mod transfer;
mod verification;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use crate::apply::{DownScripts, DropTables, Durability, Executor, RowOwner, build_reference};
use crate::backup::Archive;
use crate::catalog::{Catalog, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::fleet::Workers;
use crate::journal::Journal;
use crate::plan::{Baseline, Drift, Inspection, Problem, Reference, Request};
use crate::project::ProjectId;
use crate::rules::Rules;
use crate::store::connection::ProjectConnection;
use crate::store::sqlite::MemoryStore;
use crate::store::{ReadSchema, Store};

pub use backup::{BackupTask, Restore, Sample, Source};
pub use command::{FinalBackup, IdPattern, Operation, Run, Safety, Selection};
pub use maintenance::MaintenanceTask;
pub use pool::PooledConnection;
pub use rollback::Rollback;

use pool::Pools;

/// How many connections applications get where they don't say.
const CONNECTIONS: usize = 16;

/// A fleet: a store with the catalog that its projects are to follow.
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
    /// The same, where it was wanted to know what each down.sql comes to.
    reference_with_downs: OnceLock<Reference>,
    /// What the set declares besides its migrations, read when it is first needed.
    rules: OnceLock<Rules>,
    read_rules: Option<ReadRules>,
    archive: Option<Archive>,
    journal: Option<Journal>,
    jobs: usize,
    pools: Arc<Pools>,
    interrupted: Arc<AtomicBool>,
    /// Held by one who has to be the only one at work.
    alone: RwLock<()>,
}

/// Reads what a set declares besides its migrations.
pub(crate) type ReadRules = Box<dyn Fn() -> Result<Rules> + Send + Sync>;

/// Where a project stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The newest version in its ledger; `None` where there is none.
    pub version: Option<Version>,
    /// The versions that it lacks, in order.
    pub pending: Vec<Version>,
    /// What hinders an upgrade.
    pub problems: Vec<Problem>,
}

impl Status {
    /// Whether it is at the catalog's head, and nothing is wrong.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.version.is_some() && self.pending.is_empty() && self.problems.is_empty()
    }
}

impl Manager {
    /// A fleet in a store. The catalog has to be of the store's dialect.
    pub fn new(store: impl Store + 'static, catalog: Catalog) -> Result<Self> {
        Self::of(Arc::new(store), catalog)
    }

    /// An empty fleet in memory, for an application's tests: it runs the real migrations, once, and copies the result
    /// for each project.
    pub fn in_memory(catalog: Catalog) -> Result<Self> {
        Self::of(Arc::new(MemoryStore::new()), catalog)
    }

    /// The same in a store that others use as well.
    pub fn of(store: Arc<dyn Store>, catalog: Catalog) -> Result<Self> {
        if store.dialect() != catalog.dialect() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "{} is for {}, the store is {}",
                    catalog.name(),
                    catalog.dialect().name(),
                    store.location()
                ),
            ));
        }
        Ok(Self {
            jobs: store.default_jobs(),
            store,
            catalog: Arc::new(catalog),
            reference: OnceLock::new(),
            reference_with_downs: OnceLock::new(),
            rules: OnceLock::new(),
            read_rules: None,
            archive: None,
            journal: None,
            pools: Arc::new(Pools::new(CONNECTIONS, Duration::from_mins(1))),
            interrupted: Arc::default(),
            alone: RwLock::default(),
        })
    }

    /// How many projects are worked on at once; the default is what was measured to be best for the store.
    #[must_use]
    pub fn with_jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs.max(1);
        self
    }

    /// How many connections [`Manager::connection`] keeps open over the whole fleet (default 16), and how long an idle
    /// one stays open (default 60 s).
    #[must_use]
    pub fn with_connections(mut self, connections: usize, idle: Duration) -> Self {
        self.pools = Arc::new(Pools::new(connections.max(1), idle));
        self
    }

    /// What the set declares besides its migrations; none by default.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = OnceLock::from(rules);
        self
    }

    /// The same, read when they are first needed: a fault in them hinders only what needs them.
    #[must_use]
    pub(crate) fn with_rules_read_by(mut self, read: ReadRules) -> Self {
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

    /// Where backups are kept; nowhere by default, and then whatever takes one is refused.
    #[must_use]
    pub fn with_archive(mut self, archive: Archive) -> Self {
        self.archive = Some(archive.of_store(Arc::clone(&self.store)));
        self
    }

    /// Where it is recorded what was done; nowhere by default.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// A flag that ends a run early once it is set: projects begun are finished, the others not started.
    #[must_use]
    pub fn with_interruption(mut self, interrupted: Arc<AtomicBool>) -> Self {
        self.interrupted = interrupted;
        self
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Removes what processes left that were killed: private copies and half-made projects. Touches nothing that anybody uses;
    /// gives the names of what is gone. Commands that make such things do so by themselves.
    pub fn sweep(&self) -> Result<Vec<String>> {
        let mut gone = self.store.sweep()?;
        gone.extend(crate::disk::sweep_private_folders()?);
        Ok(gone)
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The schemas that the catalog leads to, made once on a private empty database. Errors when a migration does not
    /// run there.
    pub fn reference(&self) -> Result<&Reference> {
        let cell = if self.reference_with_downs.get().is_some() {
            &self.reference_with_downs
        } else {
            &self.reference
        };
        self.build_once(cell, DownScripts::Untested)
    }

    /// The same, with what each migration's down.sql comes to.
    pub fn reference_with_downs(&self) -> Result<&Reference> {
        self.build_once(&self.reference_with_downs, DownScripts::Tested)
    }

    fn build_once<'a>(&'a self, cell: &'a OnceLock<Reference>, downs: DownScripts) -> Result<&'a Reference> {
        if let Some(reference) = cell.get() {
            return Ok(reference);
        }
        let mut built = None;
        let made = self.store.scratch(&self.catalog, &mut |scratch| {
            match build_reference(scratch, &self.catalog, downs) {
                // The store may have another way.
                Err(error) if matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::LocksExhausted) => {
                    Err(error)
                }
                // What its migrations lack is another matter than a place to run them in.
                other => {
                    built = Some(other);
                    Ok(())
                }
            }
        });
        let built = match (made, built) {
            (_, Some(built)) => built.map_err(|error| match self.store.explain_failure(error.message()) {
                Some(hint) => error.with_hint(hint),
                None => error,
            })?,
            // Where nothing can be made, nothing can be changed either: what the ledgers say has to do.
            (Err(error), None) if error.kind() == ErrorKind::ReadOnly => Reference::unknown(),
            (made, None) => made.map(|()| Reference::unknown())?,
        };
        Ok(cell.get_or_init(|| built))
    }

    /// All that is pending, as a run without options does it.
    fn to_head(&self) -> Request {
        Request::Upgrade { to: self.catalog.head(), baseline: Baseline::Stamp, drift: Drift::Refuse }
    }

    /// What projects are brought to.
    fn executor<'a>(&'a self, request: Request, run: &'a str) -> Result<Executor<'a>> {
        let reference = match request {
            Request::Downgrade { .. } => self.reference_with_downs()?,
            Request::Upgrade { .. } | Request::Stamp { .. } => self.reference()?,
        };
        Ok(self.executor_with(reference, request, run))
    }

    fn executor_with<'a>(&'a self, reference: &'a Reference, request: Request, run: &'a str) -> Executor<'a> {
        Executor {
            catalog: &self.catalog,
            reference,
            request,
            run,
            drops: DropTables::Any,
            rows: RowOwner::Application,
            allow_row_loss: &[],
            durability: Durability::Immediate,
        }
    }

    /// One project, read.
    fn inspect(&self, id: &ProjectId) -> Result<Inspection> {
        self.inspect_one(id, ReadSchema::Always)
    }

    fn inspect_one(&self, id: &ProjectId, read_schema: ReadSchema) -> Result<Inspection> {
        let mut inspections = self.store.inspect(std::slice::from_ref(id), read_schema);
        inspections.pop().unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "it was not read")))
    }

    /// Where a project stands. Changes nothing.
    pub fn status(&self, id: &ProjectId) -> Result<Status> {
        let seen = [self.inspect_one(id, ReadSchema::IfUnverified)];
        let executor = self.status_executor(&seen)?;
        let [seen] = seen;
        let inspection = seen?;
        let versions =
            |range| self.catalog.between(range).iter().map(|migration| migration.version.clone()).collect();
        let version = self
            .catalog
            .migrations()
            .iter()
            .rev()
            .map(|it| &it.version)
            .find(|it| inspection.ledger.is_applied(it));
        let (pending, problems) = match executor.plan(&inspection) {
            Ok(plan) => (versions(plan.from..plan.to), Vec::new()),
            Err(problems) => (Vec::new(), problems),
        };
        Ok(Status { version: version.cloned(), pending, problems })
    }

    /// A connection to a project, from pools that are bounded over the whole fleet. Give it back by dropping it.
    ///
    /// Errors with [`ErrorKind::VersionMismatch`] when the project is not at the catalog's head, which is what this
    /// code was written for, and with [`ErrorKind::PoolExhausted`] when none gets free in time.
    pub fn connection(&self, id: &ProjectId) -> Result<PooledConnection> {
        let get = || {
            self.pools.get(id, || {
                self.require_current(id)?;
                self.store.connector(id)
            })
        };
        let mut connection = get()?;
        if self.has_versions(&mut connection) {
            return Ok(connection);
        }
        // Another process moved it since the pool was opened.
        drop(connection);
        self.pools.forget(id);
        self.require_current(id)?;
        get()
    }

    /// Whether the ledger that a connection sees has just the catalog's versions.
    fn has_versions(&self, connection: &mut ProjectConnection) -> bool {
        use diesel::prelude::*;
        diesel::table! {
            __diesel_schema_migrations (version) {
                version -> Text,
            }
        }
        let versions = __diesel_schema_migrations::table
            .select(__diesel_schema_migrations::version)
            .load::<String>(connection)
            .unwrap_or_default();
        versions.len() == self.catalog.head() && versions.iter().all(|it| self.catalog.position(it).is_some())
    }

    fn require_current(&self, id: &ProjectId) -> Result<()> {
        let status = self.status(id)?;
        if status.is_current() {
            return Ok(());
        }
        let mismatch = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::VersionMismatch, message).in_project(id).with_hint(hint))
        };
        let unknown = status.problems.iter().find(|problem| matches!(problem, Problem::Unknown { .. }));
        match unknown {
            Some(problem) => mismatch(problem.message(), "run the newer code"),
            None if !status.problems.is_empty() => Err(blocked(id, &status.problems)),
            None if status.pending.is_empty() => {
                mismatch("it has no ledger".into(), "take it over: tenantry stamp ID")
            }
            None => mismatch(
                format!("it lacks {} migration(s)", status.pending.len()),
                "upgrade it: tenantry upgrade ID, or Manager::upgrade",
            ),
        }
    }

    fn workers(&self) -> Result<Workers> {
        Workers::new(self.jobs)
    }
}

fn blocked(id: &ProjectId, problems: &[Problem]) -> Error {
    let messages: Vec<_> = problems.iter().map(Problem::message).collect();
    let error = Error::new(ErrorKind::Blocked, messages.join("; ")).in_project(id);
    match problems.first() {
        Some(problem) => error.with_hint(problem.hint_for_command()),
        None => error,
    }
}
