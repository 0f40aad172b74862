//! Converts SQLite's errors to tenantry's.
//!
//! Messages do not include SQL, because a statement may contain data.

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// Converts an error. `what` is the message: which operation failed.
pub(super) fn describe(what: &str, error: rusqlite::Error) -> Error {
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => (
            ErrorKind::Locked,
            Some("another process holds a lock; run the command again, or raise --lock-timeout"),
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (ErrorKind::ReadOnly, Some("grant this user write permission on the file and its folder"))
        }
        Some(ErrorCode::NotADatabase) => (
            ErrorKind::NotADatabase,
            Some(
                "restore a backup: tenantry backup restore ID --force (keeps this file aside); or move it out of the store's folder",
            ),
        ),
        Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, Some("restore the project from a backup")),
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::DiskFull, Some("free disk space; this project was not changed"))
        }
        Some(ErrorCode::OperationInterrupted) => (
            ErrorKind::Timeout,
            Some("reading a ledger normally takes microseconds; check the database's views and tables"),
        ),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Io, Some("check the disk and the system log")),
        Some(ErrorCode::CannotOpen) => {
            (ErrorKind::Io, Some("check the permissions of the file and its folder"))
        }
        Some(ErrorCode::ConstraintViolation) => (
            ErrorKind::Migration,
            Some("fix the migration or this project's data; this project was not changed"),
        ),
        _ => (ErrorKind::Database, None),
    };
    let described = Error::new(kind, what).caused_by(message(&error));
    match hint {
        Some(hint) => described.with_hint(hint),
        None => described,
    }
}

/// Returns SQLite's message without the statement.
pub(super) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    }
}
