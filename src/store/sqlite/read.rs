//! Reading a database without changing a byte of it, of its companions or of its folder.
//!
//! It must not take SQLite's read-only mode for harmless: on a database in WAL mode it makes `-wal` and `-shm`, and
//! rewrites the shared memory of a live one. Four ways of reading, by what lies beside the file:
//!
//! - nothing, or an empty `-wal`: as an immutable file, without locks. That is sound only if nobody writes meanwhile,
//!   so `stat` is compared before and after, and the read is thrown away when it differs. Where the last write is so
//!   young that `stat` can't prove anything, a database with a rollback journal is read with locks.
//! - a `-journal`: somebody is writing with locks, so with locks; read-only suffices unless the journal is a dead
//!   process's.
//! - a `-wal` with frames and a `-shm`: through the shared memory, opened read-only.
//! - a `-wal` with frames and no `-shm`, or a dead process's journal: SQLite would have to repair something first.
//!   It does so on a private copy.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::failure;
use super::file::{COMPANIONS, Signature, companion, uri};
use crate::error::{Error, ErrorKind, Result};

/// How often a read is begun anew while somebody writes without locks: for five seconds.
const ATTEMPTS: u32 = 200;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(25);
/// How many steps of SQLite's machine lie between two looks at the clock.
const STEPS_PER_LOOK: i32 = 20_000;

/// A query that has to read the file.
const ANYTHING: &str = "SELECT 1 FROM sqlite_schema LIMIT 1";

/// How long things may take.
pub(super) struct Reader {
    pub(super) lock_timeout: Duration,
    pub(super) deadline: Duration,
}

enum ReadBy {
    Immutable,
    Locks,
    SharedMemory,
    Copy,
}

impl Reader {
    /// Reads with `work`, which may be called more than once.
    pub(super) fn read<T>(&self, path: &Path, work: impl Fn(&Connection) -> Result<T>) -> Result<T> {
        for _ in 0..ATTEMPTS {
            let before = Signature::of(path)?;
            let (result, must_be_still) = match way(&before) {
                // Written just now, by somebody with locks or about to have them: `stat` proves nothing.
                ReadBy::Immutable if !before.is_settled() && self.has_rollback_journal(path) => {
                    (self.locked(path, "mode=ro", &work), false)
                }
                ReadBy::Immutable => (self.still(path, &work), true),
                ReadBy::Locks => (self.locked(path, "mode=ro", &work), false),
                ReadBy::SharedMemory => (self.locked(path, "mode=ro&readonly_shm=1", &work), false),
                ReadBy::Copy => (self.copied(path, &work), true),
            };
            // SQLite asks for a repair that a reader must not make.
            let (result, must_be_still) = match result {
                Err(ReadFailure::NeedsRepair) => (self.copied(path, &work), true),
                other => (other, must_be_still),
            };
            if !must_be_still || (before.is_settled() && Signature::of(path)? == before) {
                return result.map_err(ReadFailure::into_error);
            }
            std::thread::sleep(PAUSE);
        }
        Err(ReadFailure::NeedsRepair.into_error())
    }

    /// Whether the database is in a rollback journal mode, where reading with locks makes no file.
    ///
    /// Without locks SQLite can't use a WAL, and says so before it makes one.
    fn has_rollback_journal(&self, path: &Path) -> bool {
        let probe = || self.open(path, "mode=ro&nolock=1")?.query_row(ANYTHING, (), |_| Ok(())).optional();
        // Whatever else is wrong shows when it is read.
        probe().err().is_none_or(|error| error.sqlite_error_code() != Some(ErrorCode::CannotOpen))
    }

    fn open(&self, path: &Path, query: &str) -> rusqlite::Result<Connection> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(path, query), flags)?;
        self.guard(&connection)?;
        Ok(connection)
    }

    fn guard(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(self.lock_timeout)?;
        let deadline = Instant::now() + self.deadline;
        connection.progress_handler(STEPS_PER_LOOK, Some(move || Instant::now() > deadline))?;
        Ok(())
    }

    /// Without locks: nobody else writes, or the result is thrown away.
    fn still<T>(&self, path: &Path, work: impl Fn(&Connection) -> Result<T>) -> Result<T, ReadFailure> {
        Ok(work(&self.open(path, "mode=ro&immutable=1")?)?)
    }

    /// In one read transaction, so that ledger and schema are of one moment.
    fn locked<T>(
        &self,
        path: &Path,
        query: &str,
        work: impl Fn(&Connection) -> Result<T>,
    ) -> Result<T, ReadFailure> {
        let connection = self.open(path, query)?;
        connection.execute_batch("BEGIN")?;
        connection.query_row(ANYTHING, (), |_| Ok(())).optional()?;
        Ok(work(&connection)?)
    }

    /// On a private copy, made by hand: no connection of this process can hold a lock on a database that nobody has
    /// open, and only such a database needs repair.
    fn copied<T>(&self, path: &Path, work: impl Fn(&Connection) -> Result<T>) -> Result<T, ReadFailure> {
        let scratch = tempfile::tempdir()
            .map_err(|error| Error::new(ErrorKind::Io, "cannot make a private copy").caused_by(error))?;
        let copy = scratch.path().join("copy.db");
        for suffix in ["", COMPANIONS[0], COMPANIONS[2]] {
            let from = companion(path, suffix);
            if from.exists() {
                std::fs::copy(&from, companion(&copy, suffix))
                    .map_err(|error| Error::io("copy", &from, error))?;
            }
        }
        let connection = Connection::open(&copy)?;
        self.guard(&connection)?;
        Ok(work(&connection)?)
    }
}

fn way(signature: &Signature) -> ReadBy {
    match (signature.wal, signature.shm, signature.journal) {
        (Some(size), true, _) if size > 0 => ReadBy::SharedMemory,
        (Some(size), false, _) if size > 0 => ReadBy::Copy,
        (_, _, true) => ReadBy::Locks,
        _ => ReadBy::Immutable,
    }
}

/// Why a read did not work out.
enum ReadFailure {
    /// A dead process left something that has to be repaired before it can be read.
    NeedsRepair,
    Other(Error),
}

impl ReadFailure {
    fn into_error(self) -> Error {
        match self {
            Self::Other(error) => error,
            Self::NeedsRepair => Error::new(ErrorKind::Locked, "it is being written all the time")
                .with_hint("run the command again when the application is quieter"),
        }
    }
}

impl From<rusqlite::Error> for ReadFailure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Self::NeedsRepair,
            _ => Self::Other(failure::describe("cannot read it", error)),
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
        let reader = Reader { lock_timeout: Duration::ZERO, deadline: Duration::from_millis(50) };
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n";
        let read = |connection: &Connection| {
            connection
                .query_row(endless, (), |_| Ok(()))
                .map_err(|error| failure::describe("cannot read it", error))
        };
        assert_eq!(reader.read(&path, read).unwrap_err().kind(), ErrorKind::Timeout);
    }
}
