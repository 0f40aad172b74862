//! SQLite's errors as tenantry's.
//!
//! It must not repeat SQL in a message: a statement may hold data.

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// An error of SQLite, with what was being done.
pub(super) fn describe(what: &str, error: rusqlite::Error) -> Error {
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => (
            ErrorKind::Locked,
            Some("another process holds it; run the command again, or raise --lock-timeout"),
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            ErrorKind::ReadOnly,
            Some("give write permission for the file and its folder to whoever runs this"),
        ),
        Some(ErrorCode::NotADatabase) => (
            ErrorKind::NotADatabase,
            Some("restore the file from a backup, or move it out of the store's folder"),
        ),
        Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, Some("restore the project from a backup")),
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::DiskFull, Some("make room; nothing of this project was changed"))
        }
        Some(ErrorCode::OperationInterrupted) => (
            ErrorKind::Timeout,
            Some("reading a ledger takes microseconds; look at the database's views and tables"),
        ),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Io, Some("look at the disk and the system's log")),
        Some(ErrorCode::CannotOpen) => {
            (ErrorKind::Io, Some("look at the permissions of the file and its folder"))
        }
        Some(ErrorCode::ConstraintViolation) => (
            ErrorKind::Migration,
            Some("mend the migration or this project's data; nothing of it was changed"),
        ),
        _ => (ErrorKind::Database, None),
    };
    let described = Error::new(kind, what).caused_by(message(&error));
    match hint {
        Some(hint) => described.with_hint(hint),
        None => described,
    }
}

/// What SQLite says, without the statement.
pub(super) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    }
}
