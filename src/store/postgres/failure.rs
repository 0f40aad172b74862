//! Converts errors of Postgres to tenantry's.
//!
//! Messages contain no SQL and no values, since a statement may hold data. The server's details quote rows, so they are
//! left out.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::connection_url::ConnectionUrl;
use crate::error::{Error, ErrorKind};

/// The hint if a policy hides rows from the role, so that the server refuses to read the table.
pub(super) const HIDDEN_ROWS: &str = "a policy hides rows of this table from the role, so counts and copies would be \
    incomplete: run as a role with BYPASSRLS, or as the owner without ALTER TABLE ... FORCE ROW LEVEL SECURITY";
/// The hint if the server's lock table is full.
pub(super) const MORE_LOCKS: &str = "the server's lock table is full; it has max_locks_per_transaction entries for each of \
    max_connections, and each table and index of a migration takes one until the commit. Lower --jobs, or raise \
    max_locks_per_transaction and restart the server; this project was not changed";

/// The prefix of the errors that tenantry itself raises on the server.
pub(super) const MARK: &str = "tenantry asserts: ";

/// An SQL expression for a text with [`MARK`]. A statement that casts it to a number fails with this text. The
/// expression calls a function, so that the server evaluates it only when the statement runs.
pub(super) fn marked(what: &str) -> String {
    format!("concat('{MARK}{what} ', current_schema())")
}

/// What is known about a server error.
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    /// Where in the text that was sent, in characters, starting at 1.
    pub(super) position: Option<usize>,
}

impl Failure {
    /// Classifies an error. diesel does not expose the SQLSTATE of many errors, so this matches their English texts.
    /// Each connection requests English messages, which all but the most restricted roles get.
    pub(super) fn of(error: &DieselError) -> Self {
        let DieselError::DatabaseError(kind, information) = error else {
            return Self { kind: ErrorKind::Database, message: error.to_string(), position: None };
        };
        let message = information.message().to_string();
        let has = |text: &str| message.contains(text);
        let kind = match kind {
            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand => {
                ErrorKind::Disconnected
            }
            DatabaseErrorKind::ReadOnlyTransaction => ErrorKind::ReadOnly,
            DatabaseErrorKind::UniqueViolation
            | DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::ExclusionViolation => ErrorKind::Migration,
            _ if has("due to lock timeout") || has("deadlock detected") || has("could not obtain lock") => {
                ErrorKind::Locked
            }
            // Temporary: other transactions release their locks when they end.
            _ if has("out of shared memory") => ErrorKind::LocksExhausted,
            _ if has("due to statement timeout") => ErrorKind::Timeout,
            _ if has("permission denied") || has("must be owner of") => ErrorKind::ReadOnly,
            _ if has("too many connections")
                || has("too many clients")
                || has("connection slots are reserved") =>
            {
                ErrorKind::PoolExhausted
            }
            _ if has("No space left") => ErrorKind::DiskFull,
            _ if has("terminating connection")
                || has("server closed the connection")
                || has("shutting down") =>
            {
                ErrorKind::Disconnected
            }
            _ => ErrorKind::Database,
        };
        let position = information.statement_position().and_then(|position| usize::try_from(position).ok());
        Self { kind, message, position }
    }
}

/// Converts a Postgres error. `what` describes the operation that failed.
pub(super) fn convert_error(what: &str, target: &ConnectionUrl, error: &DieselError) -> Error {
    let failure = Failure::of(error);
    new_error(what, target, failure.kind, &failure.message)
}

/// An error of a kind, with its message and a hint.
pub(super) fn new_error(what: &str, target: &ConnectionUrl, kind: ErrorKind, message: &str) -> Error {
    let hint = match kind {
        _ if message.contains("row-level security") => Some(HIDDEN_ROWS),
        ErrorKind::LocksExhausted => Some(MORE_LOCKS),
        ErrorKind::Locked => {
            Some("another process holds a lock; run the command again, or raise --lock-timeout")
        }
        ErrorKind::Timeout => Some("it ran longer than --statement-timeout allows"),
        ErrorKind::ReadOnly => {
            Some("grant this role the missing privilege, or run as the owner of the schema")
        }
        ErrorKind::PoolExhausted => Some("lower --jobs, or raise the server's max_connections"),
        ErrorKind::DiskFull => Some("free disk space on the server; this project was not changed"),
        ErrorKind::Disconnected => {
            Some("uncommitted changes are rolled back; run the command again to see the state of the project")
        }
        ErrorKind::Migration => Some("fix the migration or this project's data; the project was not changed"),
        _ => None,
    };
    // libpq's own messages end in a line break and may have several lines.
    let lines: Vec<_> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = Error::new(kind, what).caused_by(target.redact(&lines.join("; ")));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
