//! Takes snapshots while others write, opens them as scratch databases, and replaces databases by them.
//!
//! No commit can happen between the last snapshot and the replacement. No journal of the old file, which SQLite would
//! apply to the new one, is left beside it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, ffi};

use super::create::{temporary_name, write_file};
use super::environment::Environment;
use super::failure::describe;
use super::file::{COMPANIONS, companion, uri};
use super::{SqliteStore, contents, ledger, session};
use crate::disk::sync_directory;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Access;
use crate::store::{ExclusiveProject, IfInUse, Replaced, Snapshot, SnapshotFile};

/// How many pages are copied in one step.
const PAGES_PER_STEP: i32 = 4_096;

/// Copies the database to a new file, and reads the ledger, schema and contents of the copy.
pub(super) fn take_snapshot(
    connection: &Connection,
    environment: &Environment,
    place: String,
    to: &Path,
) -> Result<Snapshot> {
    copy_pages(connection, to).map_err(|error| describe("cannot copy it", error))?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copy = Connection::open_with_flags(uri(to, "mode=ro&immutable=1"), flags)
        .map_err(|error| describe("cannot open its copy", error))?;
    let copy = environment.prepare(copy)?;
    Ok(Snapshot {
        inspection: ledger::inspect(&copy, &environment.schemas, Access::ReadWrite)?,
        contents: contents::contents(&copy)?,
        database: format!("SQLite {}", rusqlite::version()),
        place,
        needs: Vec::new(),
        access: Vec::new(),
    })
}

/// Copies the database into memory, or into a file.
pub(super) fn private_copy(connection: &Connection, to: Option<&Path>) -> Result<Connection> {
    let failed = |error| describe("cannot copy it", error);
    let Some(to) = to else {
        let mut target = Connection::open_in_memory().map_err(failed)?;
        copy_into(connection, &mut target).map_err(failed)?;
        return Ok(target);
    };
    // A copy of a database that changed meanwhile is repeated.
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", to, error));
        }
        _ => {}
    }
    copy_pages(connection, to).map_err(failed)?;
    open_scratch(to)
}

/// Copies in one read transaction: without it, SQLite restarts the copy after each commit of another process.
fn copy_pages(connection: &Connection, to: &Path) -> rusqlite::Result<()> {
    let needs_transaction = connection.is_autocommit();
    if needs_transaction {
        connection.execute_batch("BEGIN")?;
        connection.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", (), |_| Ok(())).optional()?;
    }
    let copy = || {
        let mut target = Connection::open(to)?;
        // A caller that needs a durable copy syncs it when it is complete.
        target.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
        copy_into(connection, &mut target)
    };
    let copied = copy();
    if needs_transaction {
        connection.execute_batch("ROLLBACK")?;
    }
    copied
}

fn copy_into(connection: &Connection, target: &mut Connection) -> rusqlite::Result<()> {
    let backup = Backup::new(connection, target)?;
    loop {
        match backup.step(PAGES_PER_STEP)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            // The read transaction already holds its lock, so waiting would not help.
            _ => return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
        }
    }
}

/// Opens a private copy as a scratch database.
pub(super) fn open_scratch(file: &Path) -> Result<Connection> {
    let connection = session::connect(&uri(file, "mode=rw"), std::time::Duration::ZERO)?;
    connection
        .execute_batch("PRAGMA synchronous = OFF")
        .map_err(|error| describe("cannot open the private copy", error))?;
    Ok(connection)
}

/// Creates a database from a copy. Returns `AlreadyExists` if the name is in use.
pub(super) fn restore_as(directory: &Path, name: &str, file: &Path) -> Result<()> {
    super::create::create_file(directory, name, |target| {
        std::io::copy(&mut File::open(file)?, target).map(|_| ())
    })
}

/// A database that only this process can write to.
pub(super) struct ExclusiveFile<'a> {
    store: &'a SqliteStore,
    /// `None` if the file is not a readable database.
    connection: Option<Connection>,
    path: PathBuf,
    /// Whether every process was checked for having the file open.
    checked_all: bool,
}

/// The note if the processes of other users could not be checked.
const UNCHECKED_PROCESSES: &str =
    "processes of other users could not be checked: any that has it open keeps using the old file";

impl<'a> ExclusiveFile<'a> {
    fn notes(&self) -> Vec<String> {
        if self.checked_all { Vec::new() } else { vec![UNCHECKED_PROCESSES.to_string()] }
    }

    pub(super) fn new(store: &'a SqliteStore, path: PathBuf, if_in_use: IfInUse) -> Result<Self> {
        let users = if if_in_use == IfInUse::Fail { users_of(&path) } else { Users::default() };
        if let Some(process) = users.process {
            return Err(Error::new(ErrorKind::Locked, format!("process {process} has it open")));
        }
        let open = || session::connect(&uri(&path, "mode=rw"), store.lock_timeout);
        let connection = match open().and_then(|connection| lock(&connection).map(|()| connection)) {
            Ok(connection) => Some(connection),
            Err(error) if if_in_use == IfInUse::Force => match error.kind() {
                ErrorKind::NotADatabase | ErrorKind::Corrupt => None,
                // Other processes read it. With `Force` it is enough that none of them can write.
                ErrorKind::Locked => {
                    let connection = open()?;
                    connection
                        .execute_batch("BEGIN IMMEDIATE")
                        .map_err(|error| describe("cannot lock the database", error))?;
                    Some(connection)
                }
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        Ok(Self { store, connection, path, checked_all: users.checked_all })
    }

    /// Moves the contents of the WAL into the file, as far as SQLite can, and removes the companions.
    fn checkpoint(&self) -> Result<()> {
        if let Some(connection) = self.connection.as_ref().filter(|it| it.is_autocommit()) {
            // Without a journal, this connection deletes no file beside the new database when it is closed.
            let remove_journal = || -> rusqlite::Result<()> {
                for pragma in ["journal_mode = DELETE", "journal_mode = OFF"] {
                    connection.query_row(&format!("PRAGMA {pragma}"), (), |_| Ok(()))?;
                }
                Ok(())
            };
            remove_journal().map_err(|error| describe("cannot remove its journal", error))?;
        } else if self.connection.is_some() {
            // This connection blocks writers, and another one copies the WAL into the file.
            let checkpointer = session::connect(&uri(&self.path, "mode=rw"), self.store.lock_timeout)?;
            checkpointer
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()))
                .map_err(|error| describe("cannot checkpoint its WAL", error))?;
        }
        for suffix in COMPANIONS {
            remove_if_exists(&companion(&self.path, suffix))?;
        }
        Ok(())
    }
}

impl ExclusiveProject for ExclusiveFile<'_> {
    fn snapshot_to(&mut self, to: &Path) -> Result<Snapshot> {
        let place = self.path.display().to_string();
        match &self.connection {
            Some(connection) if connection.is_autocommit() => {
                take_snapshot(connection, &self.store.environment, place, to)
            }
            // SQLite cannot copy from a connection that has a write transaction, so another connection reads.
            Some(_) => {
                let reader = session::connect(&uri(&self.path, "mode=rw"), self.store.lock_timeout)?;
                take_snapshot(&reader, &self.store.environment, place, to)
            }
            None => {
                Err(Error::new(ErrorKind::NotADatabase, "it is not a database, so it cannot be backed up"))
            }
        }
    }

    fn remove(self: Box<Self>) -> Result<Vec<String>> {
        let notes = self.notes();
        std::fs::remove_file(&self.path).map_err(|error| Error::io("delete", &self.path, error))?;
        drop(self.connection);
        for suffix in COMPANIONS {
            remove_if_exists(&companion(&self.path, suffix))?;
        }
        sync_directory(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(notes)
    }

    fn replace(self: Box<Self>, snapshot: SnapshotFile<'_>, old: Replaced) -> Result<Vec<String>> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = temporary_name(directory, &name);
        let install = || -> Result<Vec<String>> {
            // No other user may read it before it has the permissions of the old file.
            write_file(&temporary, 0o600, |target| {
                std::io::copy(&mut File::open(snapshot.file)?, target).map(|_| ())
            })?;
            let old_file = std::fs::metadata(&self.path)
                .map_err(|error| Error::io("read the metadata of", &self.path, error))?;
            std::fs::set_permissions(&temporary, old_file.permissions())
                .map_err(|error| Error::io("set the permissions of", &temporary, error))?;
            let new_file = std::fs::metadata(&temporary)
                .map_err(|error| Error::io("read the metadata of", &temporary, error))?;
            if (new_file.uid(), new_file.gid()) != (old_file.uid(), old_file.gid()) {
                std::os::unix::fs::chown(&temporary, Some(old_file.uid()), Some(old_file.gid())).map_err(
                    |error| {
                        Error::io("change the owner of", &temporary, error)
                            .with_hint("run the restore as the owner of the project's file, or as root")
                    },
                )?;
            }
            let aside = match (&self.connection, old) {
                (Some(_), Replaced::Delete) => {
                    self.checkpoint()?;
                    None
                }
                (None, _) | (_, Replaced::KeepAside) => Some(set_aside(&self.path)?),
            };
            // The snapshot replaces the old database atomically.
            std::fs::rename(&temporary, &self.path)
                .map_err(|error| Error::io("replace", &self.path, error))?;
            sync_directory(directory)?;
            let aside = aside.iter().map(|path| format!("the old file was renamed to {}", path.display()));
            Ok(aside.chain(self.notes()).collect())
        };
        let result = install();
        if result.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&temporary);
        }
        result
    }
}

/// Waits until no other process reads or writes, and locks them out until the connection is closed.
fn lock(connection: &Connection) -> Result<()> {
    connection
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")
        .map_err(|error| describe("cannot lock the database", error))
}

/// Gives a database and its companions another name. The file also keeps its old name until the new file replaces it,
/// so the name exists at every moment.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let aside = companion(path, &format!(".damaged-{}", uuid::Uuid::now_v7().simple()));
    std::fs::hard_link(path, &aside).map_err(|error| Error::io("set aside", path, error))?;
    for suffix in COMPANIONS {
        let from = companion(path, suffix);
        match std::fs::rename(&from, companion(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("set aside", &from, error));
            }
            _ => {}
        }
    }
    Ok(aside)
}

fn remove_if_exists(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", path, error)),
        _ => Ok(()),
    }
}

/// Which other processes have a file open. Locks do not show this, because idle connections hold none.
struct Users {
    /// The id of one of them.
    process: Option<u32>,
    /// Whether every process could be checked. Only root can check those of other users.
    checked_all: bool,
}

impl Default for Users {
    fn default() -> Self {
        Self { process: None, checked_all: true }
    }
}

fn users_of(path: &Path) -> Users {
    let mut users = Users::default();
    let Ok(wanted) = std::fs::metadata(path) else { return users };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Users { checked_all: false, ..users } };
    let is_same = |file: std::fs::DirEntry| {
        std::fs::metadata(file.path()).is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()))
    };
    for process in processes.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if id == std::process::id() {
            continue;
        }
        match std::fs::read_dir(process.path().join("fd")) {
            Ok(files) => users.process = users.process.or(files.flatten().any(is_same).then_some(id)),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => users.checked_all = false,
            _ => {}
        }
    }
    users
}
