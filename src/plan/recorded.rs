//! What a project's ledger records: its position, and the texts of the repeatable migrations that it has run.

use super::{Planner, Problem, State};
use crate::catalog::{ChecksumMatch, Migration, Version};

impl Planner<'_> {
    /// Returns the repeatable migrations to run once a project is at a position.
    pub(super) fn repeatables_at(&self, position: usize) -> Vec<usize> {
        if position == self.catalog.head() {
            self.inspection.ledger.pending_repeatables(self.catalog)
        } else {
            Vec::new()
        }
    }

    /// Returns the repeatable migrations that are not recorded, but were run according to the schema.
    pub(super) fn run_repeatables(&self, state: State) -> Vec<usize> {
        if state.is_complete { self.repeatables_at(state.position) } else { Vec::new() }
    }

    /// Returns the state of a project that is at a position, according to its ledger.
    pub(super) fn state(&self, position: usize) -> State {
        let is_complete = position == self.catalog.head() && self.repeatables_at(position).is_empty();
        State { position, is_complete }
    }

    /// Returns the position in the ledger, and notes. Fails with all problems of the ledger.
    pub(super) fn position(&self) -> Result<(usize, Vec<String>), Vec<Problem>> {
        let ledger = &self.inspection.ledger;
        let mut problems = Vec::new();
        // Of what a squashed migration replaces, its own version is the last.
        let squashed = |version: &Version| {
            let replaces = |it: &&Migration| {
                it.is_squashed() && it.metadata.replaces.iter().any(|old| old == version.as_str())
            };
            self.catalog.migrations().iter().find(replaces)
        };
        let is_unknown = |version: &&Version| {
            self.catalog.position(version.as_str()).is_none() && squashed(version).is_none()
        };
        let partly = ledger.applied.iter().filter_map(squashed).find(|it| !ledger.is_applied(&it.version));
        if let Some(migration) = partly {
            problems.push(Problem::BeforeSquash { migration: migration.label() });
        }
        let mut unknown: Vec<_> = ledger.applied.iter().filter(is_unknown).map(ToString::to_string).collect();
        unknown.sort();
        if !unknown.is_empty() {
            problems.push(Problem::Unknown { versions: unknown });
        }
        let dirty = ledger.dirty();
        if !dirty.is_empty() {
            problems.push(Problem::Dirty { versions: dirty.into_iter().map(ToString::to_string).collect() });
        }
        let (edited, notes) = self.edited();
        if !edited.is_empty() {
            let version = self.catalog.version_at(self.last_applied()).to_string();
            problems.push(Problem::Edited { migrations: edited, version });
        }
        let is_applied = |migration: &&Migration| ledger.is_applied(&migration.version);
        let count = self.catalog.migrations().iter().filter(is_applied).count();
        let skipped: Vec<_> =
            self.catalog.between(0..self.last_applied()).iter().filter(|it| !is_applied(it)).collect();
        if !skipped.is_empty() {
            problems.push(Problem::OutOfOrder {
                migrations: skipped.into_iter().map(Migration::label).collect(),
            });
        }
        if problems.is_empty() { Ok((count, notes)) } else { Err(problems) }
    }

    pub(super) fn last_applied(&self) -> usize {
        let ledger = &self.inspection.ledger;
        self.catalog
            .migrations()
            .iter()
            .rposition(|it| ledger.is_applied(&it.version))
            .map_or(0, |index| index + 1)
    }

    /// Returns the applied migrations whose script was edited, and notes on those where only the line endings changed.
    pub(super) fn edited(&self) -> (Vec<String>, Vec<String>) {
        let ledger = &self.inspection.ledger;
        let (mut edited, mut notes) = (Vec::new(), Vec::new());
        let latest = ledger.latest();
        for migration in self.catalog.migrations().iter().filter(|it| ledger.is_applied(&it.version)) {
            let Some(row) = latest.get(&migration.version) else { continue };
            // The row is of the last migration that it replaces.
            let is_former = |version: &Version| {
                *version != migration.version
                    && migration.metadata.replaces.iter().any(|old| old == version.as_str())
            };
            if migration.is_squashed() && ledger.applied.iter().any(is_former) {
                continue;
            }
            match migration.up.recognize(&row.checksum) {
                ChecksumMatch::Same => {}
                ChecksumMatch::LineEndings => {
                    notes.push(format!(
                        "{} has different line endings than when it was applied",
                        migration.label()
                    ));
                }
                ChecksumMatch::Edited => edited.push(migration.label()),
            }
        }
        (edited, notes)
    }
}
