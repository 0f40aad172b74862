//! Finds rows that a migration lost and foreign keys that it violated, by comparing counts before and after it.

use std::collections::BTreeMap;

use super::DropTables;
use crate::catalog::{Catalog, Migration, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::bookkeeping::{DIESEL, HISTORY};
use crate::sql::statement::TableChange;
use crate::sql::{Dialect, quote_name};
use crate::store::{ForeignKeyViolations, RowCounts, Session, Step, TableSummary};

/// What a migration may do to rows besides what it declares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) drops: DropTables,
    /// Whether it may delete rows of tables that it does not declare.
    pub(super) undeclared: bool,
}

/// Whether a migration lost rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowLoss {
    /// It lost no rows that it does not declare.
    None,
    /// It lost rows that it does not declare, and the run allows that.
    Allowed,
}

/// A project's rows as a run left them, to distinguish its changes from those of others.
#[derive(Clone, Debug)]
pub(crate) struct RowTracker {
    tables: BTreeMap<String, TableSummary>,
    /// A table that others changed.
    changed_table: Option<String>,
}

impl RowTracker {
    /// Starts with the rows of a backup that was taken before the run.
    pub(crate) const fn new(tables: BTreeMap<String, TableSummary>) -> Self {
        Self { tables, changed_table: None }
    }

    /// Compares the rows at the start of a segment. Others must not be able to change them now.
    pub(super) fn observe(&mut self, now: &BTreeMap<String, TableSummary>) {
        if self.changed_table.is_none() {
            self.changed_table = self.changed_by_others(now);
        }
    }

    /// Sets the rows as this run left them.
    pub(super) fn update(&mut self, now: BTreeMap<String, TableSummary>) {
        self.tables = now;
    }

    /// Returns a table whose rows are not those that the run left, if there is one.
    pub(crate) fn changed_by_others(&self, now: &BTreeMap<String, TableSummary>) -> Option<String> {
        let is_ledger = |name: &&String| [DIESEL, HISTORY].contains(&name.as_str());
        let none = TableSummary::default();
        let is_changed = |name: &&String| {
            let (before, after) = (self.tables.get(*name).unwrap_or(&none), now.get(*name).unwrap_or(&none));
            // An empty table is equal to a missing one.
            (before.rows, after.rows) != (0, 0) && before != after
        };
        let names = self.tables.keys().chain(now.keys());
        self.changed_table.clone().or_else(|| names.filter(|it| !is_ledger(it)).find(is_changed).cloned())
    }
}

/// The violated foreign keys before the migrations, and the first migration that added violations.
pub(super) struct Violations {
    before: ForeignKeyViolations,
    first: Option<Error>,
}

impl Violations {
    pub(super) const fn new(before: ForeignKeyViolations) -> Self {
        Self { before, first: None }
    }

    /// Records the migration as the first, if there are more violations after it than before all migrations.
    pub(super) fn record_after(&mut self, after: &ForeignKeyViolations, migration: &Migration) {
        if self.first.is_none() {
            self.first = self.increase(after, migration);
        }
    }

    /// Takes the error of the first recorded migration.
    pub(super) fn take_first(&mut self) -> Option<Error> {
        self.first.take()
    }

    /// Fails if there are more violations than before the migrations.
    pub(super) fn verify(self, after: &ForeignKeyViolations, last: &Migration) -> Result<()> {
        match self.increase(after, last) {
            None => Ok(()),
            Some(error) => Err(self.first.unwrap_or(error)),
        }
    }

    fn increase(&self, after: &ForeignKeyViolations, migration: &Migration) -> Option<Error> {
        after.iter().find_map(|(pair, count)| {
            let added = count.checked_sub(self.before.get(pair).copied().unwrap_or_default())?;
            let (child, parent) = pair;
            let message = format!("{added} row(s) of {child} would reference missing rows of {parent}");
            let hint = "fix these rows in the migration, before it rebuilds the table that they reference";
            let error =
                Error::new(ErrorKind::ForeignKeys, message).in_migration(migration.label()).with_hint(hint);
            (added > 0).then_some(error)
        })
    }
}

/// Fails if a table has fewer rows than before, unless the migration declares this or it is allowed.
pub(super) fn verify_rows(
    before: &RowCounts,
    after: &RowCounts,
    Step { migration, script }: Step<'_>,
    allowance: Allowance,
) -> Result<RowLoss> {
    let declared = |table: &str| {
        migration.metadata.deletes_rows_from.iter().any(|name| name.eq_ignore_ascii_case(table))
    };
    let mut lost = RowLoss::None;
    for (table, count) in before.rows.iter().filter(|(table, _)| !declared(table)) {
        let remaining = match destination(table, before, after, script) {
            Destination::Dropped if allowance.drops == DropTables::OnlyEmpty && *count > 0 => {
                let message = format!("{table}, which it drops, has {count} row(s)");
                return Err(Error::new(ErrorKind::RowsLost, message)
                    .in_migration(migration.label())
                    .with_hint("others write to it: stop them, or restore a backup"));
            }
            Destination::Dropped => continue,
            Destination::Named(name) if declared(&name) => continue,
            Destination::Named(name) => after.rows.get(&name).copied().unwrap_or_default(),
        };
        if remaining < *count && allowance.undeclared {
            lost = RowLoss::Allowed;
        } else if remaining < *count {
            let message = format!("{table} would lose {} of its {count} row(s)", count - remaining);
            return Err(Error::new(ErrorKind::RowsLost, message).in_migration(migration.label()).with_hint(format!(
                "if this is intended, write run_in_transaction = true and deletes_rows_from = [{table:?}] into its metadata.toml; \
                 if you cannot edit it: \
                 --allow-row-loss {}",
                migration.version
            )));
        }
    }
    Ok(lost)
}

/// Prevents a recreated table from reusing the numbers of former rows: raises its sequences to their values before the
/// script, unless the script sets that of the table itself. Returns a note for each raised sequence.
pub(crate) fn preserve_sequences(
    session: &mut dyn Session,
    script: &Script,
    dialect: Dialect,
    before: &RowCounts,
    after: &mut RowCounts,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (name, last) in &before.sequences {
        let table = name.split('.').next().unwrap_or(name);
        let is_lower = after.sequences.get(name).is_none_or(|now| now < last);
        // SQLite keeps the letter case of a name here, and not in the other list.
        let has_table =
            after.rows.contains_key(table) || after.rows.contains_key(&table.to_ascii_lowercase());
        if is_lower
            && has_table
            && !script.sets_sequence_of(table, dialect)
            && session.raise_sequence(name, *last)?
        {
            after.sequences.insert(name.clone(), *last);
            notes.push(format!(
                "{name} continues after {last}: it was recreated, and would have reused numbers"
            ));
        }
    }
    Ok(notes)
}

/// Locks the tables that a script drops, so that others cannot write to them after their rows are counted.
pub(super) fn lock_tables(session: &mut dyn Session, catalog: &Catalog, script: &Script) -> Result<()> {
    for change in script.statements().iter().flat_map(|statement| &statement.table_changes) {
        if let TableChange::Dropped(table) = change
            && let Some(lock) = catalog.dialect().lock_table(&quote_name(table))
        {
            session.change(&lock)?;
        }
    }
    Ok(())
}

/// Where a table's rows are after a script.
enum Destination {
    Dropped,
    Named(String),
}

/// Finds the table that has a table's rows after a script: the one of its name, or of its last new name.
fn destination(table: &str, before: &RowCounts, after: &RowCounts, script: &Script) -> Destination {
    if after.rows.contains_key(table) {
        return Destination::Named(table.into());
    }
    let mut name = table.to_string();
    for change in script.statements().iter().flat_map(|statement| &statement.table_changes) {
        match change {
            TableChange::Dropped(dropped) if *dropped == name => return Destination::Dropped,
            TableChange::Renamed { from, to } if *from == name => name.clone_from(to),
            _ => {}
        }
    }
    // A partition is dropped with its partitioned table.
    match before.partitions.get(table).filter(|_| !after.rows.contains_key(&name)) {
        Some(parents) if parents.iter().any(|parent| is_dropped(parent, script)) => Destination::Dropped,
        _ => Destination::Named(name),
    }
}

fn is_dropped(table: &str, script: &Script) -> bool {
    let mut changes = script.statements().iter().flat_map(|statement| &statement.table_changes);
    changes.any(|change| matches!(change, TableChange::Dropped(dropped) if dropped == table))
}
