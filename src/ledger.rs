//! What a project's own tables say was applied: the only truth about its version.
//!
//! It must not read or write a database: a store fills a [`Ledger`] and writes [`Entry`] rows; here they are understood.
//!
//! Two tables make it up. `__diesel_schema_migrations(version, run_on)` says what is applied, exactly as diesel keeps it.
//! `tenantry_history` is append-only and says how it came to be: one row for each thing ever done.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::catalog::{Catalog, Migration, Recognition, Version};

/// What was done to a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// A migration was run.
    Apply,
    /// A version was recorded that the schema already had.
    Stamp,
    /// A version was taken over from another tool's books.
    Adopt,
    /// A migration was reverted.
    Revert,
    /// A migration that cannot run in a transaction was begun.
    Start,
}

impl Action {
    /// The action as the ledger has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Stamp => "stamp",
            Self::Adopt => "adopt",
            Self::Revert => "revert",
            Self::Start => "start",
        }
    }

    /// Reads an action from the ledger.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Apply, Self::Stamp, Self::Adopt, Self::Revert, Self::Start]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// A row to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The migration's version.
    pub version: Version,
    /// The migration's name.
    pub name: String,
    /// The SHA-256 of its up.sql.
    pub checksum: String,
    /// What was done.
    pub action: Action,
    /// Whether it was recorded in spite of a difference.
    pub forced: bool,
    /// When it began.
    pub started: SystemTime,
    /// How long it took; zero for what runs nothing.
    pub duration: Duration,
}

impl Entry {
    /// A row about a migration.
    #[must_use]
    pub fn new(migration: &Migration, action: Action) -> Self {
        Self {
            version: migration.version.clone(),
            name: migration.name.clone(),
            checksum: migration.up.checksum().as_str().to_string(),
            action,
            forced: false,
            started: SystemTime::now(),
            duration: Duration::ZERO,
        }
    }
}

/// A row of `tenantry_history` as read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// The migration's version.
    pub version: Version,
    /// The checksum it had then.
    pub checksum: String,
    /// What was done.
    pub action: Action,
}

/// A project's ledger as read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The versions in `__diesel_schema_migrations`, in no order.
    pub applied: Vec<Version>,
    /// The rows of `tenantry_history`, oldest first.
    pub history: Vec<Recorded>,
    /// The revisions in `alembic_version`.
    pub revisions: Vec<String>,
}

impl Ledger {
    /// Whether it says nothing about the project's version.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.history.is_empty()
    }

    /// Whether a version is applied.
    #[must_use]
    pub fn is_applied(&self, version: &Version) -> bool {
        self.applied.contains(version)
    }

    /// The last thing recorded of each version.
    #[must_use]
    pub fn latest(&self) -> HashMap<&Version, &Recorded> {
        self.history.iter().map(|row| (&row.version, row)).collect()
    }

    /// Whether the history accounts for just the versions that are applied: nobody but tenantry wrote either.
    #[must_use]
    pub fn is_accounted_for(&self) -> bool {
        let is_there = |row: &&Recorded| matches!(row.action, Action::Apply | Action::Stamp | Action::Adopt);
        let mut told: Vec<&Version> =
            self.latest().into_values().filter(is_there).map(|row| &row.version).collect();
        let mut applied: Vec<&Version> = self.applied.iter().collect();
        told.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        applied.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        told == applied
    }

    /// The versions whose last row is a start: begun, and never known to have ended.
    #[must_use]
    pub fn dirty(&self) -> Vec<&Version> {
        let mut dirty: Vec<_> =
            self.latest().into_values().filter(|row| row.action == Action::Start).collect();
        dirty.sort_by(|a, b| a.version.as_str().cmp(b.version.as_str()));
        dirty.into_iter().map(|row| &row.version).collect()
    }

    /// The rows that make this ledger say that the project is at a position.
    #[must_use]
    pub fn entries_for_stamp(&self, catalog: &Catalog, position: usize, forced: bool) -> Vec<Entry> {
        let (dirty, latest) = (self.dirty(), self.latest());
        let mut entries = Vec::new();
        for (index, migration) in catalog.migrations().iter().enumerate() {
            let is_edited = |row: &&Recorded| migration.up.recognize(&row.checksum) == Recognition::Edited;
            let edited = forced && latest.get(&migration.version).is_some_and(is_edited);
            let unsettled = edited || dirty.contains(&&migration.version);
            let action = match (index < position, self.is_applied(&migration.version)) {
                (true, false) => Action::Stamp,
                (false, true) => Action::Revert,
                (true, true) if unsettled => Action::Stamp,
                (false, false) if unsettled => Action::Revert,
                (true, true) | (false, false) => continue,
            };
            entries.push(Entry { forced, ..Entry::new(migration, action) });
        }
        entries
    }
}
