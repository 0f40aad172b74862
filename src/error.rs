//! The crate's error type: what happened, to which project and migration, at which line, and what to do next.
//!
//! `Display` is one sentence without the sources; callers print the chain. An error never contains a secret: stores
//! redact their URLs before they create one.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::hint::for_library;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error. Match on this, not on the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is invalid, such as a malformed id or a version that the catalog does not have.
    Usage,
    /// `tenantry.toml`, an environment variable or a store URL is invalid.
    Configuration,
    /// A migration set cannot be loaded, or does not run on an empty database.
    Catalog,
    /// The project does not exist.
    NotFound,
    /// The project already exists.
    AlreadyExists,
    /// The project's path is not a database file, but for example a symbolic link or a folder.
    NotAProject,
    /// The project's file is also another project's file: it has several names.
    SharedFile,
    /// Another process held a lock on the database for longer than the lock timeout.
    Locked,
    /// The database or its folder is not writable.
    ReadOnly,
    /// The file is not a SQLite database.
    NotADatabase,
    /// A database or the record of a run is damaged or was manipulated.
    Corrupt,
    /// The database server cannot be reached, or the connection was lost.
    Disconnected,
    /// The disk is full.
    DiskFull,
    /// A read took longer than its deadline.
    Timeout,
    /// A statement of a migration failed.
    Migration,
    /// A migration left foreign keys that reference missing rows.
    ForeignKeys,
    /// A migration deleted rows of a table that it does not declare.
    RowsLost,
    /// The schema after the migrations differs from the catalog's.
    SchemaMismatch,
    /// A check failed: of a project, a backup or the journal.
    CheckFailed,
    /// The project's version or content is not the expected one.
    VersionMismatch,
    /// The project has problems that prevent the operation.
    Blocked,
    /// Every connection of the fleet's pool is in use.
    PoolExhausted,
    /// The server's lock table is full.
    LocksExhausted,
    /// The run was interrupted.
    Interrupted,
    /// The operating system refused a file operation.
    Io,
    /// The database reported an error that has no other kind here.
    Database,
    /// A bug in tenantry.
    Internal,
}

impl ErrorKind {
    /// Returns the kind's name in JSON: stable, in snake case.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Configuration => "configuration",
            Self::Catalog => "catalog",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::NotAProject => "not_a_project",
            Self::SharedFile => "several_names",
            Self::Locked => "locked",
            Self::ReadOnly => "read_only",
            Self::NotADatabase => "not_a_database",
            Self::Corrupt => "corrupt",
            Self::Disconnected => "disconnected",
            Self::DiskFull => "disk_full",
            Self::Timeout => "timeout",
            Self::Migration => "migration",
            Self::ForeignKeys => "foreign_keys",
            Self::RowsLost => "rows_lost",
            Self::SchemaMismatch => "schema_mismatch",
            Self::CheckFailed => "check_failed",
            Self::VersionMismatch => "version_mismatch",
            Self::Blocked => "blocked",
            Self::PoolExhausted => "pool_exhausted",
            Self::LocksExhausted => "locks_exhausted",
            Self::Interrupted => "interrupted",
            Self::Io => "io",
            Self::Database => "database",
            Self::Internal => "internal",
        }
    }

    /// Returns the exit code of a command that this kind of error prevented from running.
    const fn exit_code(self) -> u8 {
        match self {
            Self::Usage | Self::Configuration | Self::Catalog | Self::NotFound | Self::AlreadyExists => 2,
            Self::Interrupted => 130,
            Self::Blocked => 4,
            _ => 1,
        }
    }
}

/// An error with its location and a hint. One pointer in size.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    project: Option<String>,
    migration: Option<String>,
    file: Option<PathBuf>,
    line: Option<u32>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Inner {
    /// Returns ` (file:line)`, ` (file)` or nothing, depending on what is known.
    fn location(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!(" ({}:{line})", file.display()),
            (Some(file), None) => format!(" ({})", file.display()),
            (None, _) => String::new(),
        }
    }
}

impl Error {
    /// Creates an error. The message is a lowercase fragment without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            project: None,
            migration: None,
            file: None,
            line: None,
            hint: None,
            source: None,
        }))
    }

    /// Creates an error for invalid TOML, with its file and line.
    pub(crate) fn in_toml(kind: ErrorKind, path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Self::new(kind, error.message().trim().replace('\n', ", ")).at(path, u32::try_from(line).ok())
    }

    /// Creates an error for a failed file operation: `cannot {what} {path}`. Its kind follows from the kind of
    /// `source`.
    #[must_use]
    pub fn io(what: &str, path: &Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::ReadOnly
            }
            std::io::ErrorKind::StorageFull => ErrorKind::DiskFull,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("cannot {what} {}", path.display())).caused_by(source)
    }

    /// Copies the error, to report it for several projects. The copy keeps only the text of the source.
    pub(crate) fn duplicate(&self) -> Self {
        let Inner { kind, message, project, migration, file, line, hint, source } = &*self.0;
        Self(Box::new(Inner {
            kind: *kind,
            message: message.clone(),
            project: project.clone(),
            migration: migration.clone(),
            file: file.clone(),
            line: *line,
            hint: hint.clone(),
            source: source.as_ref().map(|source| source.to_string().into()),
        }))
    }

    /// Sets the project, unless it is already set.
    #[must_use]
    pub fn in_project(mut self, project: impl fmt::Display) -> Self {
        self.0.project.get_or_insert_with(|| project.to_string());
        self
    }

    /// Sets the project, also if another name of it is set.
    #[must_use]
    pub(crate) fn of_project(mut self, project: impl fmt::Display) -> Self {
        self.0.project = Some(project.to_string());
        self
    }

    /// Says in the message that it is the journal that failed.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub(crate) fn in_journal(mut self) -> Self {
        self.0.message = format!("the journal: {}", self.0.message);
        self
    }

    /// Names the store of a fleet in the message.
    #[must_use]
    pub(crate) fn in_store(mut self, store: &str) -> Self {
        self.0.message = format!("store {store}: {}", self.0.message);
        self
    }

    /// Sets the migration, by version and name, unless it is already set.
    #[must_use]
    pub fn in_migration(mut self, migration: impl Into<String>) -> Self {
        self.0.migration.get_or_insert_with(|| migration.into());
        self
    }

    /// Sets the file, and the line counted from 1.
    #[must_use]
    pub fn at(mut self, file: impl Into<PathBuf>, line: impl Into<Option<u32>>) -> Self {
        self.0.file = Some(file.into());
        self.0.line = line.into();
        self
    }

    /// Sets the hint: what to do next. Hints are written in terms of the command line.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the message, without location and causes.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the server, the disk or another process failed, rather than the statement.
    pub(crate) fn is_of_environment(&self) -> bool {
        const KINDS: [ErrorKind; 7] = [
            ErrorKind::Disconnected,
            ErrorKind::Locked,
            ErrorKind::Timeout,
            ErrorKind::PoolExhausted,
            ErrorKind::LocksExhausted,
            ErrorKind::DiskFull,
            ErrorKind::Io,
        ];
        KINDS.contains(&self.kind())
    }

    /// Returns the project that failed.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.0.project.as_deref()
    }

    /// Returns the migration that failed.
    #[must_use]
    pub fn migration(&self) -> Option<&str> {
        self.0.migration.as_deref()
    }

    /// Returns the file that the error is in.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// Returns the line in that file, counted from 1.
    #[must_use]
    pub fn line(&self) -> Option<u32> {
        self.0.line
    }

    /// Returns what to do next, in terms of this library.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.hint_for_command().map(for_library)
    }

    /// Returns what to do next, in terms of the command line.
    #[must_use]
    pub fn hint_for_command(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Returns the exit code of a command that this error prevented from running: 4 if projects of the fleet are in the way, 3
    /// instead of 1 or 4 if it names a project.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind().exit_code() {
            1 | 4 if self.0.project.is_some() => 3,
            code => code,
        }
    }

    /// Returns the message with its causes and its location, without the project. Reports group projects by it.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.0.message.clone();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text.push_str(&self.0.location());
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(project) = &self.0.project {
            write!(f, "project {project}: ")?;
        }
        if let Some(migration) = &self.0.migration {
            write!(f, "migration {migration}: ")?;
        }
        f.write_str(&self.0.message)?;
        f.write_str(&self.0.location())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.summary())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_sentence_and_the_summary_has_the_causes() {
        let error = Error::new(ErrorKind::Migration, "statement failed")
            .in_migration("2_add")
            .at("m/up.sql", 7)
            .caused_by("no such table: x");
        assert_eq!(error.to_string(), "migration 2_add: statement failed (m/up.sql:7)");
        assert_eq!(error.summary(), "statement failed: no such table: x (m/up.sql:7)");
    }
}
