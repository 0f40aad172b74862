//! Postgres' errors as tenantry's.
//!
//! It must not repeat SQL or values in a message: a statement may hold data. The server's details, which quote rows, are
//! left out.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::connection_url::ConnectionUrl;
use crate::error::{Error, ErrorKind};

/// What to do where a policy hides rows from the role, and the server therefore refuses to read the table.
pub(super) const HIDDEN_ROWS: &str = "a policy hides rows of this table from the role, so nothing that is counted or copied would be \
    all of it: run as a role with BYPASSRLS, or as the owner without ALTER TABLE ... FORCE ROW LEVEL SECURITY";
/// What to do where the server's table of locks is full.
pub(super) const MORE_LOCKS: &str = "the server's table of locks is full, of max_locks_per_transaction for each of its max_connections: each \
    migration's tables and indexes take one until the commit. Lower --jobs, or raise max_locks_per_transaction and restart the \
    server; nothing of this project was changed";

/// What begins the text of errors that tenantry raises itself on the server.
pub(super) const MARK: &str = "tenantry asserts: ";

/// A text that a statement which casts it to a number fails with, and which the server does not know before it runs it.
pub(super) fn marked(what: &str) -> String {
    format!("concat('{MARK}{what} ', current_schema())")
}

/// What is known of an error beyond its kind.
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    /// Where in what was sent, in characters from one.
    pub(super) position: Option<usize>,
}

impl Failure {
    /// Looks at an error. diesel keeps the SQLSTATE of many errors to itself, so their English texts have to do: each
    /// connection asks the server for those, which all but the most restricted roles get.
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
            // Others let go of theirs when they are done.
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

/// An error of Postgres, with what was being done.
pub(super) fn describe(what: &str, target: &ConnectionUrl, error: &DieselError) -> Error {
    let failure = Failure::of(error);
    described(what, target, failure.kind, &failure.message)
}

/// A kind of trouble with its text and what to do about it.
pub(super) fn described(what: &str, target: &ConnectionUrl, kind: ErrorKind, message: &str) -> Error {
    let hint = match kind {
        _ if message.contains("row-level security") => Some(HIDDEN_ROWS),
        ErrorKind::LocksExhausted => Some(MORE_LOCKS),
        ErrorKind::Locked => {
            Some("another process holds a lock; run the command again, or raise --lock-timeout")
        }
        ErrorKind::Timeout => Some("it ran longer than --statement-timeout allows"),
        ErrorKind::ReadOnly => Some("grant this role what it lacks, or run as the owner of the schema"),
        ErrorKind::PoolExhausted => Some("lower --jobs, or raise the server's max_connections"),
        ErrorKind::DiskFull => Some("make room on the server; nothing of this project was changed"),
        ErrorKind::Disconnected => Some(
            "what the server had not committed is undone; run the command again to see where the project stands",
        ),
        ErrorKind::Migration => Some("mend the migration or this project's data; nothing of it was changed"),
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
