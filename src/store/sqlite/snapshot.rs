//! Copies of databases: taken while others write, opened for themselves, and put in a database's place.
//!
//! It must not let a commit fall between a last copy and what takes the database's place, and must not leave beside a new
//! file what SQLite would take for its own.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, ffi};

use super::create::{temporary_name, write_file};
use super::failure::describe;
use super::file::{COMPANIONS, companion, uri};
use super::{SqliteStore, contents, ledger, session};
use crate::disk::sync_directory;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Access;
use crate::store::cache::SchemaCache;
use crate::store::{ExclusiveProject, IfInUse, Replaced, Snapshot, SnapshotFile};

/// How many pages are copied between two looks.
const PAGES: i32 = 4_096;

/// Copies what a connection sees at this moment to a file that is not there yet.
pub(super) fn copy_out(
    connection: &Connection,
    schemas: &SchemaCache,
    place: String,
    to: &Path,
) -> Result<Snapshot> {
    copy_pages(connection, to).map_err(|error| describe("cannot copy it", error))?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copy = Connection::open_with_flags(uri(to, "mode=ro&immutable=1"), flags)
        .map_err(|error| describe("cannot open its copy", error))?;
    Ok(Snapshot {
        inspection: ledger::inspect(&copy, schemas, Access::ReadWrite)?,
        contents: contents::contents(&copy)?,
        database: format!("SQLite {}", rusqlite::version()),
        place,
        needs: Vec::new(),
        access: Vec::new(),
    })
}

/// In one read transaction: without it, each commit of another process would have the copy begin anew.
fn copy_pages(connection: &Connection, to: &Path) -> rusqlite::Result<()> {
    let is_ours = connection.is_autocommit();
    if is_ours {
        connection.execute_batch("BEGIN")?;
        connection.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", (), |_| Ok(())).optional()?;
    }
    let copy = || {
        let mut target = Connection::open(to)?;
        // Whoever wants it durable sees to that once it is whole.
        target.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
        let backup = Backup::new(connection, &mut target)?;
        loop {
            match backup.step(PAGES)? {
                StepResult::Done => return Ok(()),
                StepResult::More => {}
                // The source is being read already, so nobody can keep it from being read on.
                _ => return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
            }
        }
    };
    let copied = copy();
    if is_ours {
        connection.execute_batch("ROLLBACK")?;
    }
    copied
}

/// Opens a private copy for whatever is to be tried on it.
pub(super) fn open_private(file: &Path) -> Result<Connection> {
    let connection = session::connect(&uri(file, "mode=rw"), std::time::Duration::ZERO)?;
    connection
        .execute_batch("PRAGMA synchronous = OFF")
        .map_err(|error| describe("cannot open the copy", error))?;
    Ok(connection)
}

/// Makes a database of a copy, under a name that is free.
pub(super) fn restore_as(directory: &Path, name: &str, file: &Path) -> Result<()> {
    super::create::install(directory, name, |target| {
        std::io::copy(&mut File::open(file)?, target).map(|_| ())
    })
}

/// A database that this process alone may use.
pub(super) struct ExclusiveFile<'a> {
    store: &'a SqliteStore,
    /// None where the file is no database any more.
    connection: Option<Connection>,
    path: PathBuf,
    /// Whether every process that could have it open was looked at.
    are_all_seen: bool,
}

/// What to say where other users' processes could not be looked at.
const UNSEEN: &str =
    "whether processes of other users have it open could not be seen: they would go on with the old file";

impl<'a> ExclusiveFile<'a> {
    fn notes(&self) -> Vec<String> {
        if self.are_all_seen { Vec::new() } else { vec![UNSEEN.to_string()] }
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
                // Others read it; that none of them writes has to do.
                ErrorKind::Locked => {
                    let connection = open()?;
                    connection
                        .execute_batch("BEGIN IMMEDIATE")
                        .map_err(|error| describe("cannot lock it", error))?;
                    Some(connection)
                }
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        Ok(Self { store, connection, path, are_all_seen: users.are_all_seen })
    }

    /// Empties what SQLite keeps beside the file into it, as far as that can be, and then removes it.
    fn checkpoint(&self) -> Result<()> {
        if let Some(connection) = self.connection.as_ref().filter(|it| it.is_autocommit()) {
            // Without a journal nothing of this connection's is left to be removed when it is closed.
            let settle = || -> rusqlite::Result<()> {
                for pragma in ["journal_mode = DELETE", "journal_mode = OFF"] {
                    connection.query_row(&format!("PRAGMA {pragma}"), (), |_| Ok(()))?;
                }
                Ok(())
            };
            settle().map_err(|error| describe("cannot settle its journal", error))?;
        } else if self.connection.is_some() {
            // While this one lets nobody write, another brings what is in the WAL into the file.
            let other = session::connect(&uri(&self.path, "mode=rw"), self.store.lock_timeout)?;
            other
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()))
                .map_err(|error| describe("cannot empty its WAL", error))?;
        }
        for suffix in COMPANIONS {
            remove_if_there(&companion(&self.path, suffix))?;
        }
        Ok(())
    }
}

impl ExclusiveProject for ExclusiveFile<'_> {
    fn snapshot_to(&mut self, to: &Path) -> Result<Snapshot> {
        let place = self.path.display().to_string();
        match &self.connection {
            Some(connection) if connection.is_autocommit() => {
                copy_out(connection, &self.store.schemas, place, to)
            }
            // What is about to be written to can't be copied from; another connection may read beside it.
            Some(_) => {
                let reader = session::connect(&uri(&self.path, "mode=rw"), self.store.lock_timeout)?;
                copy_out(&reader, &self.store.schemas, place, to)
            }
            None => {
                Err(Error::new(ErrorKind::NotADatabase, "it is no database, so no backup can be taken of it"))
            }
        }
    }

    fn remove(self: Box<Self>) -> Result<Vec<String>> {
        let notes = self.notes();
        std::fs::remove_file(&self.path).map_err(|error| Error::io("delete", &self.path, error))?;
        drop(self.connection);
        for suffix in COMPANIONS {
            remove_if_there(&companion(&self.path, suffix))?;
        }
        sync_directory(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(notes)
    }

    fn replace(self: Box<Self>, snapshot: SnapshotFile<'_>, old: Replaced) -> Result<Vec<String>> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = temporary_name(directory, &name);
        let put = || -> Result<Vec<String>> {
            // Nobody may read it before it has the mode of what it replaces.
            write_file(&temporary, 0o600, |target| {
                std::io::copy(&mut File::open(snapshot.file)?, target).map(|_| ())
            })?;
            let like =
                std::fs::metadata(&self.path).map_err(|error| Error::io("look at", &self.path, error))?;
            std::fs::set_permissions(&temporary, like.permissions())
                .map_err(|error| Error::io("set the permissions of", &temporary, error))?;
            let owner =
                std::fs::metadata(&temporary).map_err(|error| Error::io("look at", &temporary, error))?;
            if (owner.uid(), owner.gid()) != (like.uid(), like.gid()) {
                std::os::unix::fs::chown(&temporary, Some(like.uid()), Some(like.gid())).map_err(
                    |error| {
                        Error::io("give away", &temporary, error)
                            .with_hint("restore it as its owner, or as root")
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
            // From here on it is the copy; a moment ago it was what was there before.
            std::fs::rename(&temporary, &self.path)
                .map_err(|error| Error::io("replace", &self.path, error))?;
            sync_directory(directory)?;
            let aside = aside.iter().map(|path| format!("what was there is now {}", path.display()));
            Ok(aside.chain(self.notes()).collect())
        };
        let result = put();
        if result.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&temporary);
        }
        result
    }
}

/// Waits until nobody else reads or writes, and keeps it so.
fn lock(connection: &Connection) -> Result<()> {
    connection
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")
        .map_err(|error| describe("cannot lock it", error))
}

/// Gives what can't be read another name, with what lies beside it. The file itself keeps its first one as well, until what
/// takes its place has that: at no moment is there nothing.
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

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", path, error)),
        _ => Ok(()),
    }
}

/// Who else has a file open. Idle connections hold no lock, so locks don't tell.
struct Users {
    process: Option<u32>,
    /// Whether every process could be looked at: those of other users can't, but by root.
    are_all_seen: bool,
}

impl Default for Users {
    fn default() -> Self {
        Self { process: None, are_all_seen: true }
    }
}

fn users_of(path: &Path) -> Users {
    let mut users = Users::default();
    let Ok(wanted) = std::fs::metadata(path) else { return users };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Users { are_all_seen: false, ..users } };
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
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => users.are_all_seen = false,
            _ => {}
        }
    }
    users
}
