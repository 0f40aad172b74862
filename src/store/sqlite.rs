//! Projects as SQLite files in one folder.
//!
//! A project's file is opened through SQLite only: closing any other descriptor of a file would drop the locks that this
//! process's connections hold on it.

mod contents;
mod create;
mod diagnose;
mod discover;
mod environment;
mod failure;
mod file;
mod health;
mod ledger;
mod lock;
mod memory;
mod options;
mod read;
mod rows;
mod session;
mod snapshot;
mod sql_text;

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use rusqlite::Connection;

use crate::catalog::Catalog;
use crate::disk::{private_folder, private_folder_in};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Access, Inspection};
use crate::project::{NamePattern, ProjectId};
use crate::sql::Dialect;
use crate::store::cache::SchemaCache;
use crate::store::connection::{Connector, ProjectConnection};
use crate::store::{
    Create, DatabaseMaintenance, DeferredCommits, Discovery, ExclusiveProject, Finding, Footprint, IfInUse,
    Inspect, LoadedSql, ReadSchema, Rows, Session, Snapshot, SnapshotFile, Snapshots, SpareStore, SqlText,
    Store, Template,
};
use rows::SqliteRows;

use create::TemplateCache;
use environment::Environment;
use session::SqliteSession;

pub use memory::MemoryStore;
pub use options::SqliteOptions;

/// The number of projects at once that measured best; see `docs/performance.md`.
const JOBS: usize = 16;

/// A folder of SQLite files, one for each project.
pub struct SqliteStore {
    directory: PathBuf,
    pattern: NamePattern,
    lock_timeout: Duration,
    rehearsal_memory: u64,
    read_timeout: Duration,
    environment: Environment,
    template: TemplateCache,
    aliases: Mutex<Option<Aliases>>,
}

/// The files of the store that have several names, and when they were listed.
struct Aliases {
    listed_at: Instant,
    reasons: HashMap<String, String>,
}

/// The time limit for reading a project's rows.
const ROW_READ_TIMEOUT: Duration = Duration::from_hours(24);

/// For how long a list of aliases is used.
const ALIASES_LIFETIME: Duration = Duration::from_secs(1);

impl SqliteStore {
    /// Creates a store for a folder, which need not exist before the first create.
    pub fn new(directory: impl Into<PathBuf>, options: SqliteOptions) -> Self {
        Self {
            directory: directory.into(),
            pattern: options.pattern,
            lock_timeout: options.lock_timeout,
            rehearsal_memory: options.rehearsal_memory,
            read_timeout: options.read_timeout,
            environment: Environment::new(SchemaCache::new(options.ignore), options.load),
            template: TemplateCache::default(),
            aliases: Mutex::default(),
        }
    }

    /// The folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of a project.
    #[must_use]
    pub fn path(&self, id: &ProjectId) -> PathBuf {
        self.directory.join(self.pattern.name(id))
    }

    fn reader(&self, deadline: Duration) -> read::Reader<'_> {
        read::Reader { lock_timeout: self.lock_timeout, deadline, environment: &self.environment }
    }

    /// The path and metadata of a project's file. Fails for anything else with that name.
    fn require(&self, id: &ProjectId) -> Result<(PathBuf, Metadata)> {
        let path = self.path(id);
        let metadata = file::require_database(&path)?;
        // Files with several hard links are rare; only then the folder is searched for the others.
        match if metadata.nlink() > 1 { self.alias(&self.pattern.name(id))? } else { None } {
            None => Ok((path, metadata)),
            Some(reason) => Err(Error::new(ErrorKind::SharedFile, format!("it is {reason}"))
                .with_hint("remove the names that its application does not use")),
        }
    }

    /// Why a file with several names is skipped; `None` if its other names are outside of the store.
    fn alias(&self, name: &str) -> Result<Option<String>> {
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        let known = if let Some(known) = aliases.take().filter(|it| it.listed_at.elapsed() < ALIASES_LIFETIME)
        {
            known
        } else {
            let reasons = discover::aliases(&self.directory, &self.pattern)?;
            Aliases { listed_at: Instant::now(), reasons }
        };
        let reason = known.reasons.get(name).cloned();
        *aliases = Some(known);
        Ok(reason)
    }

    fn inspect_one(&self, id: &ProjectId) -> Result<Inspection> {
        let reader = self.reader(self.read_timeout);
        let read = || {
            let (path, metadata) = self.require(id)?;
            let access = if metadata.permissions().readonly() { Access::ReadOnly } else { Access::ReadWrite };
            reader.read(&path, |connection| ledger::inspect(connection, &self.environment.schemas, access))
        };
        read().map_err(|error| error.in_project(id))
    }

    fn open_for_writing(&self, id: &ProjectId) -> Result<Connection> {
        let (path, metadata) = self.require(id)?;
        require_writable(&metadata)?;
        self.environment.prepare(session::connect(&file::uri(&path, "mode=rw"), self.lock_timeout)?)
    }
}

fn require_writable(metadata: &Metadata) -> Result<()> {
    if metadata.permissions().readonly() {
        return Err(Error::new(ErrorKind::ReadOnly, "it is read-only")
            .with_hint("give this user write permission, or exclude the project with --except"));
    }
    Ok(())
}

impl Store for SqliteStore {
    fn validate_id(&self, _id: &ProjectId) -> Result<()> {
        // Every id is a file name.
        Ok(())
    }

    fn explain_failure(&self, _message: &str) -> Option<String> {
        // Nothing outside a SQLite file takes part in a migration.
        None
    }

    fn retries(&self) -> u32 {
        // SQLite itself waits for a lock until the timeout.
        0
    }

    fn supports_begin_if_unchanged(&self) -> bool {
        false
    }

    fn deferred_commits(&self) -> Option<&dyn DeferredCommits> {
        None
    }

    fn location(&self) -> String {
        format!("sqlite:{}", self.directory.display())
    }

    fn pattern(&self) -> String {
        self.pattern.to_string()
    }

    fn is_at(&self, location: &str) -> bool {
        let is_this =
            |folder: PathBuf| std::fs::canonicalize(&self.directory).is_ok_and(|this| this == folder);
        self.location() == location
            || location.strip_prefix("sqlite:").is_some_and(|it| std::fs::canonicalize(it).is_ok_and(is_this))
    }

    fn place(&self, id: &ProjectId) -> String {
        self.path(id).display().to_string()
    }

    fn owns(&self, taken_of: &str, place: &str, id: &ProjectId, kept_at: &str) -> bool {
        let name = self.pattern.name(id);
        let is_named = Path::new(place).file_name().is_some_and(|place| place == name.as_str());
        // Backups in the fleet's folder move together with it.
        let is_inside = || {
            let (kept, own) = (std::fs::canonicalize(kept_at), std::fs::canonicalize(&self.directory));
            kept.ok().zip(own.ok()).is_some_and(|(kept, own)| kept.starts_with(own))
        };
        is_named && (self.is_at(taken_of) || is_inside())
    }

    fn exists(&self) -> bool {
        self.directory.is_dir()
    }

    fn diagnose(&self) -> Vec<Finding> {
        diagnose::diagnose(&self.directory, &self.pattern)
    }

    fn sweep(&self) -> Result<Vec<String>> {
        if self.directory.is_dir() { create::sweep(&self.directory) } else { Ok(Vec::new()) }
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn maintain(&self, id: &ProjectId, maintenance: DatabaseMaintenance) -> Result<()> {
        let connection = self.open_for_writing(id).map_err(|error| error.in_project(id))?;
        rows::maintain(&connection, maintenance).map_err(|error| error.in_project(id))
    }

    fn lanes(&self) -> Vec<usize> {
        vec![JOBS]
    }

    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>> {
        let connection = self.open_for_writing(id).map_err(|error| error.in_project(id))?;
        let uri = file::uri(&self.path(id), "mode=rw");
        Ok(Box::new(SqliteSession::new(connection, &self.environment).with_file(uri, self.lock_timeout)))
    }

    fn connector(&self, id: &ProjectId) -> Result<Connector> {
        let (path, _) = self.require(id).map_err(|error| error.in_project(id))?;
        Ok(connector(file::uri(&path, "mode=rw")))
    }
}

impl Inspect for SqliteStore {
    fn inspect_batch_size(&self, _projects: usize) -> usize {
        1
    }

    fn ledger_verifies_schemas(&self) -> bool {
        false
    }

    fn footprints(&self, ids: &[ProjectId]) -> Result<Vec<Footprint>> {
        let footprint = |id: &ProjectId| {
            let (_, metadata) = self.require(id).map_err(|error| error.in_project(id))?;
            // Not every file system records when a file was created.
            let created = metadata.created().or_else(|_| metadata.modified()).ok();
            let created = created.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            Ok(Footprint { bytes: metadata.len(), created: created.map_or(0, |since| since.as_secs()) })
        };
        ids.iter().map(footprint).collect()
    }

    fn definitions(&self, id: &ProjectId) -> Result<Vec<String>> {
        sql_text::definitions_of(|work| self.read(id, work))
    }

    fn discover(&self) -> Result<Discovery> {
        discover::discover(&self.directory, &self.pattern)
    }

    fn inspect(&self, ids: &[ProjectId], _read_schema: ReadSchema) -> Vec<Result<Inspection>> {
        ids.iter().map(|id| self.inspect_one(id)).collect()
    }

    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()> {
        // A caller may read a whole database.
        let reader = self.reader(ROW_READ_TIMEOUT);
        let read = || reader.read(&self.require(id)?.0, |connection| work(&mut SqliteRows(connection)));
        read().map_err(|error| error.in_project(id))
    }
}

impl Create for SqliteStore {
    fn spares(&self) -> Option<&dyn SpareStore> {
        None
    }

    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()> {
        let image = self.template.image(template, &self.environment)?;
        create::create_file(&self.directory, &self.pattern.name(id), |file| file.write_all(&image))
            .map_err(|error| error.in_project(id))
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
            .map_err(|error| failure::describe("cannot open a private database", error))?;
        let connection = self.environment.prepare(connection)?;
        work(&mut SqliteSession::new(connection, &self.environment))
    }
}

impl Snapshots for SqliteStore {
    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot> {
        let copy = || {
            let (path, metadata) = self.require(id)?;
            let mode = if metadata.permissions().readonly() { "mode=ro" } else { "mode=rw" };
            let connection = session::connect(&file::uri(&path, mode), self.lock_timeout)?;
            snapshot::take_snapshot(&connection, &self.environment, self.place(id), file)
        };
        copy().map_err(|error| error.in_project(id))
    }

    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        let connection = self.environment.prepare(snapshot::open_scratch(snapshot.file)?)?;
        work(&mut SqliteSession::new(connection, &self.environment))
    }

    fn with_copy(&self, id: &ProjectId, work: &mut dyn FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        let mut copy = || {
            let (path, metadata) = self.require(id)?;
            let is_small = metadata.len() <= self.rehearsal_memory;
            let folder = if is_small { None } else { Some(private_folder()?) };
            let file = folder.as_ref().map(|folder| folder.path().join("copy"));
            let connection = self
                .reader(ROW_READ_TIMEOUT)
                .read(&path, |connection| snapshot::private_copy(connection, file.as_deref()))?;
            let connection = self.environment.prepare(connection)?;
            work(&mut SqliteSession::new(connection, &self.environment))
        };
        copy().map_err(|error| error.in_project(id))
    }

    fn with_copies(
        &self,
        ids: &[ProjectId],
        work: &mut dyn FnMut(Arc<dyn Store>) -> Result<()>,
    ) -> Result<()> {
        let folder = private_folder_in(&self.directory)?;
        for id in ids {
            let (path, _) = self.require(id)?;
            let file = folder.path().join(self.pattern.name(id));
            let copy = |connection: &Connection| snapshot::private_copy(connection, Some(&file)).map(drop);
            self.reader(ROW_READ_TIMEOUT).read(&path, copy).map_err(|error| error.in_project(id))?;
        }
        let options = SqliteOptions::default().pattern(self.pattern.clone()).lock_timeout(self.lock_timeout);
        let options = options
            .ignore(self.environment.schemas.ignore().clone())
            .load(self.environment.loaded().iter().cloned());
        work(Arc::new(Self::new(folder.path(), options)))
    }

    fn require_unlocked(&self, id: &ProjectId) -> Result<()> {
        lock::require_unlocked(&self.path(id), self.lock_timeout).map_err(|error| error.in_project(id))
    }

    fn free_bytes(&self, _id: &ProjectId) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.directory).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>> {
        snapshot::restore_as(&self.directory, &self.pattern.name(id), snapshot.file)
            .map(|()| Vec::new())
            .map_err(|error| error.in_project(id))
    }

    fn lock_exclusive(&self, id: &ProjectId, if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>> {
        let hold = || {
            let (path, metadata) = self.require(id)?;
            require_writable(&metadata)?;
            snapshot::ExclusiveFile::new(self, path, if_in_use)
        };
        Ok(Box::new(hold().map_err(|error| error.in_project(id))?))
    }
}

impl SqlText for SqliteStore {
    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        sql_text::export(out, &self.environment, |file| self.snapshot_to(id, file))
            .map_err(|error| error.in_project(id))
    }

    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql> {
        sql_text::load(text, file, &self.environment)
            .map(|()| LoadedSql { place: file.display().to_string(), ..LoadedSql::default() })
    }
}

/// Returns a function that opens an application's connections to an existing file.
fn connector(uri: String) -> Connector {
    /// diesel itself sets no busy timeout.
    const SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON";
    Box::new(move || {
        let failed =
            |cause: String| Error::new(ErrorKind::Database, "cannot open a connection").caused_by(cause);
        #[expect(
            clippy::disallowed_methods,
            reason = "the URI says mode=rw, so a missing file stays missing"
        )]
        let mut connection = SqliteConnection::establish(&uri).map_err(|error| failed(error.to_string()))?;
        connection.batch_execute(SETTINGS).map_err(|error| failed(error.to_string()))?;
        Ok(ProjectConnection::Sqlite(connection))
    })
}
