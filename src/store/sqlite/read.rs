//! Reads a database without changing a byte of it, of its companions or of its folder.
//!
//! SQLite's read-only mode is not enough: on a database in WAL mode it creates `-wal` and `-shm`, and rewrites the
//! shared memory of a database in use. The files beside the database decide how it is read:
//!
//! - Nothing, or an empty `-wal`: as an immutable file, without locks. That is correct only if nothing is written
//!   meanwhile, so `lstat` is compared before and after, and the result is discarded if it differs. If the last write
//!   is too recent for `lstat` to show another one, a database with a rollback journal is read with locks.
//! - A `-journal`: another process is writing with locks, so the read uses locks. Read-only access is enough unless the
//!   journal belongs to a dead process.
//! - A `-wal` with frames and a `-shm`: through the shared memory, opened read-only.
//! - A `-wal` with frames and no `-shm`, or a dead process's journal: SQLite would have to repair the database first.
//!   It does so on a private copy.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::environment::Environment;
use super::failure;
use super::file::{COMPANIONS, Signature, companion, uri};
use crate::error::{Error, ErrorKind, Result};

/// How many times a read is attempted while the file keeps changing, which takes five seconds.
const ATTEMPTS: u32 = 200;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(25);
/// How many instructions SQLite's virtual machine runs between two checks of the deadline.
const INSTRUCTIONS_PER_CHECK: i32 = 20_000;

/// A query that makes SQLite read the file.
const PROBE: &str = "SELECT 1 FROM sqlite_schema LIMIT 1";

/// Reads databases within time limits.
pub(super) struct Reader<'a> {
    /// How long to wait for a lock.
    pub(super) lock_timeout: Duration,
    /// How long a read may take.
    pub(super) deadline: Duration,
    pub(super) environment: &'a Environment,
}

enum ReadMethod {
    Immutable,
    Locks,
    SharedMemory,
    Copy,
}

impl Reader<'_> {
    /// Reads a database with `work`, which may be called more than once.
    pub(super) fn read<T>(&self, path: &Path, work: impl Fn(&Connection) -> Result<T>) -> Result<T> {
        for _ in 0..ATTEMPTS {
            let before = Signature::of(path)?;
            let (result, must_be_unchanged) = match read_method(&before) {
                // The last write is so recent that `lstat` would not show another one, so use locks.
                ReadMethod::Immutable if !before.detects_next_write() && self.has_rollback_journal(path) => {
                    (self.read_locked(path, "mode=ro", &work), false)
                }
                ReadMethod::Immutable => (self.read_immutable(path, &work), true),
                ReadMethod::Locks => (self.read_locked(path, "mode=ro", &work), false),
                ReadMethod::SharedMemory => (self.read_locked(path, "mode=ro&readonly_shm=1", &work), false),
                ReadMethod::Copy => (self.read_copy(path, &work), true),
            };
            // SQLite would have to repair the database, so repair and read a copy.
            let (result, must_be_unchanged) = match result {
                Err(ReadFailure::NeedsRepair) => (self.read_copy(path, &work), true),
                other => (other, must_be_unchanged),
            };
            if !must_be_unchanged || (before.detects_next_write() && Signature::of(path)? == before) {
                return result.map_err(ReadFailure::into_error);
            }
            std::thread::sleep(PAUSE);
        }
        Err(ReadFailure::ChangesTooOften.into_error())
    }

    /// Whether the database uses a rollback journal, so that reading it with locks creates no file.
    ///
    /// SQLite cannot use a WAL without locks, and fails before it creates one.
    fn has_rollback_journal(&self, path: &Path) -> bool {
        let probe = || self.open(path, "mode=ro&nolock=1")?.query_row(PROBE, (), |_| Ok(())).optional();
        // The read itself reports any other error.
        probe().err().is_none_or(|error| error.sqlite_error_code() != Some(ErrorCode::CannotOpen))
    }

    fn open(&self, path: &Path, query: &str) -> rusqlite::Result<Connection> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(path, query), flags)?;
        self.set_limits(&connection)?;
        Ok(connection)
    }

    fn set_limits(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(self.lock_timeout)?;
        let deadline = Instant::now() + self.deadline;
        connection.progress_handler(INSTRUCTIONS_PER_CHECK, Some(move || Instant::now() > deadline))?;
        Ok(())
    }

    /// Reads without locks. The caller discards the result if the file changed meanwhile.
    fn read_immutable<T>(
        &self,
        path: &Path,
        work: impl Fn(&Connection) -> Result<T>,
    ) -> Result<T, ReadFailure> {
        let connection = self.environment.prepare(self.open(path, "mode=ro&immutable=1")?)?;
        Ok(work(&connection)?)
    }

    /// Reads in one transaction, so that ledger and schema are from the same moment.
    fn read_locked<T>(
        &self,
        path: &Path,
        query: &str,
        work: impl Fn(&Connection) -> Result<T>,
    ) -> Result<T, ReadFailure> {
        let connection = self.environment.prepare(self.open(path, query)?)?;
        connection.execute_batch("BEGIN")?;
        connection.query_row(PROBE, (), |_| Ok(())).optional()?;
        Ok(work(&connection)?)
    }

    /// Reads a private copy. Copying opens and closes the files, which drops this process's locks on them, but there
    /// are none: only a database that nobody has open needs repair.
    fn read_copy<T>(&self, path: &Path, work: impl Fn(&Connection) -> Result<T>) -> Result<T, ReadFailure> {
        let scratch = tempfile::tempdir()
            .map_err(|error| Error::new(ErrorKind::Io, "cannot create a private copy").caused_by(error))?;
        let copy = scratch.path().join("copy.db");
        for suffix in ["", COMPANIONS[0], COMPANIONS[2]] {
            let from = companion(path, suffix);
            if from.exists() {
                std::fs::copy(&from, companion(&copy, suffix))
                    .map_err(|error| Error::io("copy", &from, error))?;
            }
        }
        let connection = self.environment.prepare(Connection::open(&copy)?)?;
        self.set_limits(&connection)?;
        Ok(work(&connection)?)
    }
}

fn read_method(signature: &Signature) -> ReadMethod {
    match (signature.wal, signature.shm, signature.journal) {
        (Some(size), true, _) if size > 0 => ReadMethod::SharedMemory,
        (Some(size), false, _) if size > 0 => ReadMethod::Copy,
        (_, _, true) => ReadMethod::Locks,
        _ => ReadMethod::Immutable,
    }
}

/// Why a read failed.
enum ReadFailure {
    /// SQLite must repair the database before it can be read.
    NeedsRepair,
    /// It changed at every attempt while it was read.
    ChangesTooOften,
    Other(Error),
}

impl ReadFailure {
    fn into_error(self) -> Error {
        match self {
            Self::Other(error) => error,
            Self::NeedsRepair => Error::new(ErrorKind::Io, "SQLite can open neither it nor a copy of it")
                .with_hint(
                    "check the permissions of the file and of its folder, and the space for temporary files",
                ),
            Self::ChangesTooOften => Error::new(ErrorKind::Locked, "it changes too often to be read")
                .with_hint("run the command again when the application writes less"),
        }
    }
}

impl From<rusqlite::Error> for ReadFailure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Self::NeedsRepair,
            _ => Self::Other(failure::describe("cannot read the database", error)),
        }
    }
}

impl From<Error> for ReadFailure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn trap_12_a_read_that_never_ends_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let environment = Environment::default();
        let deadline = Duration::from_millis(50);
        let reader = Reader { lock_timeout: Duration::ZERO, deadline, environment: &environment };
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n";
        let read = |connection: &Connection| {
            connection
                .query_row(endless, (), |_| Ok(()))
                .map_err(|error| failure::describe("cannot read it", error))
        };
        assert_eq!(reader.read(&path, read).unwrap_err().kind(), ErrorKind::Timeout);
    }
}
