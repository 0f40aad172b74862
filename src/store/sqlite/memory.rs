//! A fleet in memory, for an application's tests. It runs the real migrations and writes no files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::backup::StepResult;
use rusqlite::{Connection, OpenFlags};

use super::create::{TemplateCache, in_memory};
use super::environment::Environment;
use super::failure::describe;
use super::ledger;
use super::rows::{self, SqliteRows};
use super::session::SqliteSession;
use super::snapshot::{open_scratch, private_copy, take_snapshot};
use super::sql_text;
use crate::catalog::Catalog;
use crate::disk::already_exists;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Access, Inspection};
use crate::project::ProjectId;
use crate::sql::Dialect;

use crate::store::connection::Connector;
use crate::store::{
    Create, DatabaseMaintenance, DeferredCommits, Discovery, ExclusiveProject, Finding, Footprint, IfInUse,
    Inspect, LoadedSql, ReadSchema, Replaced, Rows, Session, Snapshot, SnapshotFile, Snapshots, SpareStore,
    SqlText, Store, Template,
};

/// A fleet in this process's memory. Behaves as [`SqliteStore`](super::SqliteStore) does, except that everything is
/// lost when it is dropped.
pub struct MemoryStore {
    name: String,
    /// One connection per project keeps its database alive. Other connections open it by name.
    projects: Mutex<BTreeMap<ProjectId, Connection>>,
    environment: Environment,
    template: TemplateCache,
}

impl MemoryStore {
    /// Creates an empty fleet. Other stores do not share it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            name: uuid::Uuid::now_v7().simple().to_string(),
            projects: Mutex::default(),
            environment: Environment::default(),
            template: TemplateCache::default(),
        }
    }

    fn projects(&self) -> MutexGuard<'_, BTreeMap<ProjectId, Connection>> {
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uri(&self, id: &ProjectId) -> String {
        format!("file:/tenantry-{}/{id}?vfs=memdb", self.name)
    }

    fn connect(&self, id: &ProjectId) -> Result<Connection> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(self.uri(id), flags)
            .and_then(|connection| connection.busy_timeout(Duration::from_secs(5)).map(|()| connection))
            .map_err(|error| describe("cannot open it", error).in_project(id))
    }

    /// Copies a database into a project. Returns a connection to the project.
    fn copy_into(&self, id: &ProjectId, source: &Connection) -> Result<Connection> {
        let mut connection = self.connect(id)?;
        rusqlite::backup::Backup::new(source, &mut connection)
            .and_then(|backup| backup.step(-1))
            .map_err(|error| describe("cannot copy it", error).in_project(id))
            .and_then(|step| match step {
                StepResult::Done => Ok(()),
                _ => Err(Error::new(ErrorKind::Locked, "other connections are using it").in_project(id)),
            })?;
        Ok(connection)
    }

    /// Opens a project. Fails with [`ErrorKind::NotFound`] if it does not exist.
    fn connect_existing(&self, id: &ProjectId) -> Result<Connection> {
        if !self.projects().contains_key(id) {
            return Err(Error::new(ErrorKind::NotFound, "it does not exist").in_project(id));
        }
        self.connect(id)
    }
}

/// A project of this store that is about to be deleted or replaced.
struct ExclusiveMemory<'a> {
    store: &'a MemoryStore,
    id: ProjectId,
}

impl ExclusiveProject for ExclusiveMemory<'_> {
    fn snapshot_to(&mut self, file: &Path) -> Result<Snapshot> {
        self.store.snapshot_to(&self.id, file)
    }

    fn remove(self: Box<Self>) -> Result<Vec<String>> {
        self.store.projects().remove(&self.id);
        Ok(Vec::new())
    }

    fn replace(self: Box<Self>, snapshot: SnapshotFile<'_>, _old: Replaced) -> Result<Vec<String>> {
        self.store.copy_into(&self.id, &open_scratch(snapshot.file)?).map(|_| Vec::new())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn exists(&self) -> bool {
        true
    }

    fn validate_id(&self, _id: &ProjectId) -> Result<()> {
        Ok(())
    }

    fn explain_failure(&self, _message: &str) -> Option<String> {
        None
    }

    fn retries(&self) -> u32 {
        0
    }

    fn supports_begin_if_unchanged(&self) -> bool {
        false
    }

    fn deferred_commits(&self) -> Option<&dyn DeferredCommits> {
        None
    }

    fn pattern(&self) -> String {
        "{id}".into()
    }

    fn location(&self) -> String {
        "sqlite::memory:".into()
    }

    fn place(&self, id: &ProjectId) -> String {
        self.uri(id)
    }

    fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }

    fn sweep(&self) -> Result<Vec<String>> {
        // The process's memory is released when it ends.
        Ok(Vec::new())
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn maintain(&self, id: &ProjectId, maintenance: DatabaseMaintenance) -> Result<()> {
        rows::maintain(&self.connect_existing(id)?, maintenance).map_err(|error| error.in_project(id))
    }

    fn lanes(&self) -> Vec<usize> {
        vec![super::JOBS]
    }

    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(SqliteSession::new(self.connect_existing(id)?, &self.environment)))
    }

    fn connector(&self, id: &ProjectId) -> Result<Connector> {
        if self.projects().contains_key(id) {
            Ok(super::connector(self.uri(id)))
        } else {
            Err(Error::new(ErrorKind::NotFound, "it does not exist").in_project(id))
        }
    }
}

impl Inspect for MemoryStore {
    fn inspect_batch_size(&self, _projects: usize) -> usize {
        1
    }

    fn ledger_verifies_schemas(&self) -> bool {
        false
    }

    fn footprints(&self, ids: &[ProjectId]) -> Result<Vec<Footprint>> {
        Ok(vec![Footprint::default(); ids.len()])
    }

    fn definitions(&self, id: &ProjectId) -> Result<Vec<String>> {
        sql_text::definitions_of(|work| self.read(id, work))
    }

    fn discover(&self) -> Result<Discovery> {
        Ok(Discovery { projects: self.projects().keys().cloned().collect(), ..Discovery::default() })
    }

    fn inspect(&self, ids: &[ProjectId], _read_schema: ReadSchema) -> Vec<Result<Inspection>> {
        let inspect = |id| {
            ledger::inspect(&self.connect_existing(id)?, &self.environment.schemas, Access::ReadWrite)
                .map_err(|error| error.in_project(id))
        };
        ids.iter().map(inspect).collect()
    }

    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()> {
        let connection = self.connect_existing(id)?;
        work(&mut SqliteRows(&connection)).map_err(|error| error.in_project(id))
    }
}

impl Create for MemoryStore {
    fn spares(&self) -> Option<&dyn SpareStore> {
        None
    }

    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()> {
        let image = self.template.image(template, &self.environment)?;
        let mut projects = self.projects();
        if projects.contains_key(id) {
            return Err(already_exists().in_project(id));
        }
        let source = in_memory(&image).map_err(|error| describe("cannot read the template", error))?;
        let connection = self.copy_into(id, &source)?;
        projects.insert(id.clone(), connection);
        Ok(())
    }

    fn scratch_definitions(
        &self,
        catalog: &Catalog,
        fill: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<Vec<String>> {
        sql_text::definitions_of_scratch(fill, |work| self.scratch(catalog, work))
    }

    fn scratch(
        &self,
        _catalog: &Catalog,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        let connection = Connection::open_in_memory()
            .map_err(|error| describe("cannot open a private database", error))?;
        work(&mut SqliteSession::new(connection, &self.environment))
    }
}

impl Snapshots for MemoryStore {
    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot> {
        take_snapshot(&self.connect_existing(id)?, &self.environment, self.place(id), file)
            .map_err(|error| error.in_project(id))
    }

    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        work(&mut SqliteSession::new(open_scratch(snapshot.file)?, &self.environment))
    }

    fn with_copies(
        &self,
        _ids: &[ProjectId],
        _work: &mut dyn FnMut(Arc<dyn Store>) -> Result<()>,
    ) -> Result<()> {
        Ok(())
    }

    fn with_copy(&self, id: &ProjectId, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        let mut copy = || {
            let connection = private_copy(&self.connect_existing(id)?, None)?;
            work(&mut SqliteSession::new(connection, &self.environment))
        };
        copy().map_err(|error| error.in_project(id))
    }

    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>> {
        let mut projects = self.projects();
        if projects.contains_key(id) {
            return Err(already_exists().in_project(id));
        }
        let connection = self.copy_into(id, &open_scratch(snapshot.file)?)?;
        projects.insert(id.clone(), connection);
        Ok(Vec::new())
    }

    fn lock_exclusive(&self, id: &ProjectId, _if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>> {
        self.connect_existing(id)?;
        Ok(Box::new(ExclusiveMemory { store: self, id: id.clone() }))
    }
}

impl SqlText for MemoryStore {
    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        sql_text::export(out, &self.environment, |file| self.snapshot_to(id, file))
            .map_err(|error| error.in_project(id))
    }

    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql> {
        sql_text::load(text, file, &self.environment)
            .map(|()| LoadedSql { place: file.display().to_string(), ..LoadedSql::default() })
    }
}
