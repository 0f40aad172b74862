//! The one error type: what happened, to which project and migration, at which line, and what to do next.
//!
//! It must not render itself with its sources (`Display` is one sentence; the command prints the chain),
//! and it must never carry a secret: stores redact their locations before they build one.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::hint::for_library;
use crate::project::ProjectId;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of trouble it is; match on this, not on texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument that makes no sense (an id that is not one, a version the catalog does not have).
    Usage,
    /// `tenantry.toml`, an environment variable or a store URL is wrong.
    Configuration,
    /// A migration set can't be loaded, or does not run on an empty database.
    Catalog,
    /// The project does not exist.
    NotFound,
    /// The project exists already.
    AlreadyExists,
    /// Something stands where the project's database should be (a symlink, a folder, an alias).
    NotAProject,
    /// The project's file is another project's, too, under another name.
    SeveralNames,
    /// Another process holds the database longer than the lock timeout.
    Locked,
    /// The database or its folder can't be written.
    ReadOnly,
    /// The file is not a SQLite database.
    NotADatabase,
    /// The database is damaged, or made to mislead.
    Corrupt,
    /// The database's server can't be reached, or went away.
    Disconnected,
    /// The disk is full.
    DiskFull,
    /// A read took longer than its deadline.
    Timeout,
    /// A statement of a migration failed.
    Migration,
    /// A migration left foreign keys that point at nothing.
    ForeignKeys,
    /// A migration lost rows that it did not say it deletes.
    RowsLost,
    /// After the migrations the schema is not the catalog's.
    SchemaMismatch,
    /// Something that must hold in a project does not.
    CheckFailed,
    /// The project is not at the version that the code expects.
    VersionMismatch,
    /// The project has problems that forbid what was asked.
    Blocked,
    /// Every connection of the fleet's pool is in use.
    PoolExhausted,
    /// The server's table of locks is full.
    LocksExhausted,
    /// The run was interrupted.
    Interrupted,
    /// The operating system refused a file operation.
    Io,
    /// The database refused something for a reason that has no kind of its own.
    Database,
    /// A defect of tenantry.
    Internal,
}

impl ErrorKind {
    /// The kind's name in JSON: snake case, stable.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Configuration => "configuration",
            Self::Catalog => "catalog",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::NotAProject => "not_a_project",
            Self::SeveralNames => "several_names",
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

    /// The exit code of a command that could not run because of this.
    const fn exit_code(self) -> u8 {
        match self {
            Self::Usage | Self::Configuration | Self::Catalog | Self::NotFound | Self::AlreadyExists => 2,
            Self::Interrupted => 130,
            _ => 1,
        }
    }
}

/// An error with its place and its way out. One pointer in size.
pub struct Error(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    message: String,
    project: Option<ProjectId>,
    migration: Option<String>,
    file: Option<PathBuf>,
    line: Option<u32>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Parts {
    /// ` (file:line)`, as far as it is known.
    fn place(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!(" ({}:{line})", file.display()),
            (Some(file), None) => format!(" ({})", file.display()),
            (None, _) => String::new(),
        }
    }
}

impl Error {
    /// An error with a message: a lowercase fragment without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
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

    /// A mistake in a TOML file, at its line.
    pub(crate) fn in_toml(kind: ErrorKind, path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Self::new(kind, error.message().trim().replace('\n', ", ")).at(path, u32::try_from(line).ok())
    }

    /// An operating system error while doing something to a path.
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

    /// The same error once more: what many projects have to be told.
    pub(crate) fn again(&self) -> Self {
        let Parts { kind, message, project, migration, file, line, hint, source } = &*self.0;
        Self(Box::new(Parts {
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

    /// Names the project it happened to.
    #[must_use]
    pub fn in_project(mut self, project: &ProjectId) -> Self {
        self.0.project.get_or_insert_with(|| project.clone());
        self
    }

    /// Names the migration it happened in, by its version and name.
    #[must_use]
    pub fn in_migration(mut self, migration: impl Into<String>) -> Self {
        self.0.migration.get_or_insert_with(|| migration.into());
        self
    }

    /// Names the file, and the line counted from one.
    #[must_use]
    pub fn at(mut self, file: impl Into<PathBuf>, line: impl Into<Option<u32>>) -> Self {
        self.0.file = Some(file.into());
        self.0.line = line.into();
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The sort of trouble.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without its place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The project it happened to.
    #[must_use]
    pub fn project(&self) -> Option<&ProjectId> {
        self.0.project.as_ref()
    }

    /// The migration it happened in.
    #[must_use]
    pub fn migration(&self) -> Option<&str> {
        self.0.migration.as_deref()
    }

    /// The file it happened in.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The line in that file, counted from one.
    #[must_use]
    pub fn line(&self) -> Option<u32> {
        self.0.line
    }

    /// What to do next, in terms of this library.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.hint_for_command().map(for_library)
    }

    /// What to do next, in terms of the command line.
    #[must_use]
    pub fn hint_for_command(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The exit code of a command that could not run because of this: 3 where it is one project's trouble.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind().exit_code() {
            1 if self.0.project.is_some() => 3,
            code => code,
        }
    }

    /// The message with its causes and its place, but without the project: what a report groups by.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.0.message.clone();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text.push_str(&self.0.place());
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
        f.write_str(&self.0.place())
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
