//! The ledger: the tables in a project's database that record its migrations. They are the only source of its version.
//!
//! Stores fill a [`Ledger`] and write [`NewHistoryRow`] rows. This module interprets and creates them.
//!
//! There are two tables. `__diesel_schema_migrations(version, run_on)` lists the applied versions, exactly as diesel
//! keeps them. `tenantry_history` is append-only and has one row for each action.

pub(crate) mod other;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::catalog::{Catalog, ChecksumMatch, Migration, Version};

/// An action on a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// A migration was run.
    Apply,
    /// A version that the schema already had was recorded.
    Stamp,
    /// A version was taken over from another tool's records.
    Adopt,
    /// A migration was reverted.
    Revert,
    /// A migration that cannot run in a transaction was started.
    Start,
    /// A repeatable migration was run, or taken over from another tool's records.
    Repeat,
    /// The schema was repaired, so that it is again that of the version.
    Repair,
}

impl Action {
    /// Returns the action's name in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Stamp => "stamp",
            Self::Adopt => "adopt",
            Self::Revert => "revert",
            Self::Start => "start",
            Self::Repeat => "repeat",
            Self::Repair => "repair",
        }
    }

    /// Reads an action's name from the ledger. `None` if there is no such action.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all =
            [Self::Apply, Self::Stamp, Self::Adopt, Self::Revert, Self::Start, Self::Repeat, Self::Repair];
        all.into_iter().find(|it| it.as_str() == text)
    }
}

/// A row of `tenantry_history` to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHistoryRow {
    /// The migration's version.
    pub version: Version,
    /// The migration's name.
    pub name: String,
    /// The SHA-256 of its up.sql.
    pub checksum: String,
    /// The action.
    pub action: Action,
    /// Whether it was recorded despite a difference.
    pub forced: bool,
    /// When the action began.
    pub started: SystemTime,
    /// How long the action took. Zero if nothing was run.
    pub duration: Duration,
}

impl NewHistoryRow {
    /// Creates a row for an action on a migration that starts now. What happens to a repeatable migration is always
    /// [`Action::Repeat`].
    #[must_use]
    pub fn new(migration: &Migration, action: Action) -> Self {
        Self {
            version: migration.version.clone(),
            name: migration.name.clone(),
            checksum: migration.up.checksum().as_str().to_string(),
            action: if migration.is_repeatable { Action::Repeat } else { action },
            forced: false,
            started: SystemTime::now(),
            duration: Duration::ZERO,
        }
    }
}

impl NewHistoryRow {
    /// The row for a repair of a project to which no migration was applied.
    pub(crate) fn repair_of_empty() -> Self {
        Self {
            version: Version::new("0"),
            name: String::new(),
            checksum: String::new(),
            action: Action::Repair,
            forced: false,
            started: SystemTime::now(),
            duration: Duration::ZERO,
        }
    }
}

/// A row of `tenantry_history` as read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HistoryRow {
    /// The migration's version.
    pub version: Version,
    /// The SHA-256 that its up.sql had then.
    pub checksum: String,
    /// The action.
    pub action: Action,
}

/// A project's ledger as read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The versions in `__diesel_schema_migrations`, in no order.
    pub applied: Vec<Version>,
    /// The rows of `tenantry_history`, oldest first.
    pub history: Vec<HistoryRow>,
    /// The revisions in `alembic_version`.
    pub revisions: Vec<String>,
}

impl Ledger {
    /// Whether it records no version and no action.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.history.is_empty()
    }

    /// Whether a version is applied.
    #[must_use]
    pub fn is_applied(&self, version: &Version) -> bool {
        self.applied.contains(version)
    }

    /// Returns the last row of each version. A repair changes no version.
    #[must_use]
    pub fn latest(&self) -> HashMap<&Version, &HistoryRow> {
        let rows = self.history.iter().filter(|row| row.action != Action::Repair);
        rows.map(|row| (&row.version, row)).collect()
    }

    /// Whether a repeatable migration was run that the catalog does not have any more. What it made may still be there.
    pub(crate) fn has_former_repeatables(&self, catalog: &Catalog) -> bool {
        let is_former = |row: &HistoryRow| !catalog.repeatables().iter().any(|it| it.version == row.version);
        self.history.iter().any(|row| row.action == Action::Repeat && is_former(row))
    }

    /// Returns the indices of the repeatable migrations whose text is not the one that was run last, or that were run before a
    /// migration was reverted: what reverted it may have removed what they made.
    pub(crate) fn pending_repeatables(&self, catalog: &Catalog) -> Vec<usize> {
        let since_revert = self.history.iter().rposition(|row| row.action == Action::Revert);
        let rows = &self.history[since_revert.map_or(0, |index| index + 1)..];
        let is_current = |migration: &Migration| {
            let row = rows.iter().rfind(|row| row.version == migration.version);
            row.is_some_and(|row| migration.up.recognize(&row.checksum) != ChecksumMatch::Edited)
        };
        let repeatables = catalog.repeatables().iter().enumerate();
        repeatables.filter(|(_, migration)| !is_current(migration)).map(|(index, _)| index).collect()
    }

    /// Whether the history accounts for exactly the applied versions. If so, only tenantry has written to both tables.
    #[must_use]
    pub fn is_accounted_for(&self) -> bool {
        let is_applied =
            |row: &&HistoryRow| matches!(row.action, Action::Apply | Action::Stamp | Action::Adopt);
        let mut in_history: Vec<&Version> =
            self.latest().into_values().filter(is_applied).map(|row| &row.version).collect();
        let mut applied: Vec<&Version> = self.applied.iter().collect();
        in_history.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        applied.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        in_history == applied
    }

    /// Returns the versions whose last row is a start: the migration was started and its end was not recorded.
    #[must_use]
    pub fn dirty(&self) -> Vec<&Version> {
        let mut dirty: Vec<_> =
            self.latest().into_values().filter(|row| row.action == Action::Start).collect();
        dirty.sort_by(|a, b| a.version.as_str().cmp(b.version.as_str()));
        dirty.into_iter().map(|row| &row.version).collect()
    }

    /// Returns the rows to add so that this ledger records a position. `forced` is stored in each row.
    #[must_use]
    pub fn entries_for_stamp(&self, catalog: &Catalog, position: usize, forced: bool) -> Vec<NewHistoryRow> {
        self.entries(catalog, position, forced, Action::Stamp)
    }

    /// Returns the rows that record the text of these repeatable migrations, by their indices, as the one that was run.
    pub(crate) fn entries_for_repeatables(catalog: &Catalog, indices: &[usize]) -> Vec<NewHistoryRow> {
        let repeatables = indices.iter().filter_map(|index| catalog.repeatables().get(*index));
        repeatables.map(|migration| NewHistoryRow::new(migration, Action::Repeat)).collect()
    }

    /// Returns the rows to add so that this ledger records a position that another tool's ledger records.
    #[must_use]
    pub(crate) fn entries_for_adoption(&self, catalog: &Catalog, position: usize) -> Vec<NewHistoryRow> {
        self.entries(catalog, position, false, Action::Adopt)
    }

    /// Returns the rows that revert the versions that a squashed migration replaces, except its own.
    pub(crate) fn entries_for_replaced(&self, migration: &Migration) -> Vec<NewHistoryRow> {
        let is_replaced = |version: &&Version| {
            let replaces = &migration.metadata.replaces;
            **version != migration.version && replaces.iter().any(|old| old == version.as_str())
        };
        let replaced = self.applied.iter().filter(|_| migration.is_squashed()).filter(is_replaced);
        let row = |version: &Version| NewHistoryRow {
            version: version.clone(),
            ..NewHistoryRow::new(migration, Action::Revert)
        };
        replaced.map(row).collect()
    }

    /// The rows for a position. `record` is the action of a version that is recorded.
    fn entries(
        &self,
        catalog: &Catalog,
        position: usize,
        forced: bool,
        record: Action,
    ) -> Vec<NewHistoryRow> {
        let (dirty, latest) = (self.dirty(), self.latest());
        let mut entries = Vec::new();
        for (index, migration) in catalog.migrations().iter().enumerate() {
            let is_edited =
                |row: &&HistoryRow| migration.up.recognize(&row.checksum) == ChecksumMatch::Edited;
            let edited = forced && latest.get(&migration.version).is_some_and(is_edited);
            let needs_row = edited || dirty.contains(&&migration.version);
            let action = match (index < position, self.is_applied(&migration.version)) {
                (true, false) => record,
                (false, true) => Action::Revert,
                (true, true) if needs_row => record,
                (false, false) if needs_row => Action::Revert,
                (true, true) | (false, false) => continue,
            };
            entries.push(NewHistoryRow { forced, ..NewHistoryRow::new(migration, action) });
            if action == Action::Revert {
                entries.extend(self.entries_for_replaced(migration));
            }
        }
        entries
    }
}
