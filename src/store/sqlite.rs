//! Projects as SQLite files in one folder.
//!
//! It must not open what is not plainly a project's file, and must not open a project's file other than through
//! SQLite: closing a file of one's own drops the locks that this process's connections hold on it.

mod contents;
mod create;
mod diagnose;
mod discover;
mod failure;
mod file;
mod health;
mod ledger;
mod memory;
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
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use rusqlite::Connection;

use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Access, Inspection};
use crate::project::{NamePattern, ProjectId};
use crate::sql::Dialect;
use crate::store::cache::SchemaCache;
use crate::store::connection::{Connector, ProjectConnection};
use crate::store::{
    Discovery, ExclusiveProject, Finding, IfInUse, LoadedSql, Maintenance, ReadSchema, Rows, Session,
    Snapshot, SnapshotFile, Store, Template,
};
use rows::SqliteRows;

use create::TemplateCache;
use session::SqliteSession;

pub use memory::MemoryStore;

/// Which number of projects at once is best was measured: see `docs/design.md`.
const JOBS: usize = 16;

/// A folder of SQLite files, one per project.
pub struct SqliteStore {
    directory: PathBuf,
    pattern: NamePattern,
    lock_timeout: Duration,
    read_timeout: Duration,
    schemas: SchemaCache,
    template: TemplateCache,
    aliases: Mutex<Option<Aliases>>,
}

/// The files with several names in the store, and when that was looked up.
struct Aliases {
    at: Instant,
    reasons: HashMap<String, String>,
}

/// How long reading rows may take.
const UNHURRIED: Duration = Duration::from_hours(24);

/// For how long what was found out about aliases holds.
const ALIASES_HOLD: Duration = Duration::from_secs(1);

/// How a SQLite store behaves; the defaults suit most.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// How ids and file names relate; default `project_{id}.db`.
    pub pattern: NamePattern,
    /// How long to wait for another process's lock; default 5 s.
    pub lock_timeout: Duration,
    /// How long reading one project's ledger and schema may take; default 10 s.
    pub read_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            pattern: NamePattern::default(),
            lock_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(10),
        }
    }
}

impl SqliteStore {
    /// The store in a folder, which need not exist before the first `create`.
    pub fn new(directory: impl Into<PathBuf>, options: SqliteOptions) -> Self {
        Self {
            directory: directory.into(),
            pattern: options.pattern,
            lock_timeout: options.lock_timeout,
            read_timeout: options.read_timeout,
            schemas: SchemaCache::default(),
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

    /// A project's file, told from what only looks like one.
    fn require(&self, id: &ProjectId) -> Result<(PathBuf, Metadata)> {
        let path = self.path(id);
        let metadata = file::require_database(&path)?;
        // More than one name is rare, and only then is it worth looking whether another is in the fleet too.
        match if metadata.nlink() > 1 { self.alias(&self.pattern.name(id))? } else { None } {
            None => Ok((path, metadata)),
            Some(reason) => Err(Error::new(ErrorKind::SeveralNames, format!("it is {reason}"))
                .with_hint("remove the names that its application does not use")),
        }
    }

    /// Why a file with several names is left alone; `None` where the others are outside the store.
    fn alias(&self, name: &str) -> Result<Option<String>> {
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        let known = if let Some(known) = aliases.take().filter(|it| it.at.elapsed() < ALIASES_HOLD) {
            known
        } else {
            let reasons = discover::aliases(&self.directory, &self.pattern)?;
            Aliases { at: Instant::now(), reasons }
        };
        let reason = known.reasons.get(name).cloned();
        *aliases = Some(known);
        Ok(reason)
    }

    fn inspect_one(&self, id: &ProjectId) -> Result<Inspection> {
        let reader = read::Reader { lock_timeout: self.lock_timeout, deadline: self.read_timeout };
        let read = || {
            let (path, metadata) = self.require(id)?;
            let access = if metadata.permissions().readonly() { Access::ReadOnly } else { Access::ReadWrite };
            reader.read(&path, |connection| ledger::inspect(connection, &self.schemas, access))
        };
        read().map_err(|error| error.in_project(id))
    }

    fn open_for_writing(&self, id: &ProjectId) -> Result<Connection> {
        let (path, metadata) = self.require(id)?;
        require_writable(&metadata)?;
        session::connect(&file::uri(&path, "mode=rw"), self.lock_timeout)
    }
}

fn require_writable(metadata: &Metadata) -> Result<()> {
    if metadata.permissions().readonly() {
        return Err(Error::new(ErrorKind::ReadOnly, "it is marked read-only").with_hint(
            "give write permission to whoever runs this, or leave the project out with --except",
        ));
    }
    Ok(())
}

impl Store for SqliteStore {
    fn location(&self) -> String {
        format!("sqlite:{}", self.directory.display())
    }

    /// A folder has many names.
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
        // What is kept in the fleet's own folder moves with it.
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

    fn discover(&self) -> Result<Discovery> {
        discover::discover(&self.directory, &self.pattern)
    }

    fn inspect(&self, ids: &[ProjectId], _detail: ReadSchema) -> Vec<Result<Inspection>> {
        ids.iter().map(|id| self.inspect_one(id)).collect()
    }

    fn read(&self, id: &ProjectId, work: &dyn Fn(&mut dyn Rows) -> Result<()>) -> Result<()> {
        // How long depends on what is read: a whole database, if need be.
        let reader = read::Reader { lock_timeout: self.lock_timeout, deadline: UNHURRIED };
        let read = || reader.read(&self.require(id)?.0, |connection| work(&mut SqliteRows(connection)));
        read().map_err(|error| error.in_project(id))
    }

    fn maintain(&self, id: &ProjectId, maintenance: Maintenance) -> Result<()> {
        let connection = self.open_for_writing(id).map_err(|error| error.in_project(id))?;
        rows::maintain(&connection, maintenance).map_err(|error| error.in_project(id))
    }

    fn default_jobs(&self) -> usize {
        JOBS
    }

    fn open(&self, id: &ProjectId) -> Result<Box<dyn Session + '_>> {
        let connection = self.open_for_writing(id).map_err(|error| error.in_project(id))?;
        let uri = file::uri(&self.path(id), "mode=rw");
        Ok(Box::new(SqliteSession::new(connection, &self.schemas).of_file(uri, self.lock_timeout)))
    }

    fn create(&self, id: &ProjectId, template: Template<'_>) -> Result<()> {
        let image = self.template.image(template)?;
        create::install(&self.directory, &self.pattern.name(id), |file| file.write_all(&image))
            .map_err(|error| error.in_project(id))
    }

    fn snapshot_to(&self, id: &ProjectId, file: &Path) -> Result<Snapshot> {
        let copy = || {
            let (path, metadata) = self.require(id)?;
            let mode = if metadata.permissions().readonly() { "mode=ro" } else { "mode=rw" };
            let connection = session::connect(&file::uri(&path, mode), self.lock_timeout)?;
            snapshot::copy_out(&connection, &self.schemas, self.place(id), file)
        };
        copy().map_err(|error| error.in_project(id))
    }

    fn restore_scratch(
        &self,
        snapshot: SnapshotFile<'_>,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        work(&mut SqliteSession::new(snapshot::open_private(snapshot.file)?, &self.schemas))
    }

    fn restore_as(&self, id: &ProjectId, snapshot: SnapshotFile<'_>) -> Result<Vec<String>> {
        snapshot::restore_as(&self.directory, &self.pattern.name(id), snapshot.file)
            .map(|()| Vec::new())
            .map_err(|error| error.in_project(id))
    }

    fn export(&self, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
        sql_text::export(out, |file| self.snapshot_to(id, file)).map_err(|error| error.in_project(id))
    }

    fn load_sql(&self, text: &Path, file: &Path) -> Result<LoadedSql> {
        sql_text::load(text, file)
            .map(|()| LoadedSql { place: file.display().to_string(), ..LoadedSql::default() })
    }

    fn lock_exclusive(&self, id: &ProjectId, if_in_use: IfInUse) -> Result<Box<dyn ExclusiveProject + '_>> {
        let hold = || {
            let (path, metadata) = self.require(id)?;
            require_writable(&metadata)?;
            snapshot::ExclusiveFile::new(self, path, if_in_use)
        };
        Ok(Box::new(hold().map_err(|error| error.in_project(id))?))
    }

    fn scratch(
        &self,
        _catalog: &Catalog,
        work: &mut dyn FnMut(&mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        let connection = Connection::open_in_memory()
            .map_err(|error| failure::describe("cannot open a private database", error))?;
        work(&mut SqliteSession::new(connection, &self.schemas))
    }

    fn connector(&self, id: &ProjectId) -> Result<Connector> {
        let (path, _) = self.require(id).map_err(|error| error.in_project(id))?;
        Ok(connector(file::uri(&path, "mode=rw")))
    }
}

/// What opens an application's connections to a file that is there.
fn connector(uri: String) -> Connector {
    /// diesel would wait for no lock at all.
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
