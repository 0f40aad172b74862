//! What a migration did to rows, proven by counts of before and after.
//!
//! It must not count: a session does.

use std::collections::BTreeMap;

use super::DropTables;
use crate::catalog::{Catalog, Migration, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::bookkeeping::{DIESEL, HISTORY};
use crate::sql::quote_name;
use crate::sql::statement::TableChange;
use crate::store::{ForeignKeyViolations, RowCounts, Session, Step, Table};

/// What a migration may do to rows besides what it declares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) drops: DropTables,
    /// Whether it may delete rows of tables that it has not declared.
    pub(super) undeclared: bool,
}

/// What became of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowLoss {
    /// None was lost that the migration has not declared.
    None,
    /// Some were, as whoever made the run allowed.
    Allowed,
}

/// A project's rows as a run has left them, to tell its own changes from those of others.
#[derive(Clone, Debug)]
pub(crate) struct RowTracker {
    tables: BTreeMap<String, Table>,
    /// A table that somebody else wrote into.
    touched: Option<String>,
}

impl RowTracker {
    /// The rows as they were in a backup that was taken before the run began.
    pub(crate) const fn new(tables: BTreeMap<String, Table>) -> Self {
        Self { tables, touched: None }
    }

    /// Looks at the rows while nobody else can change any.
    pub(super) fn observe(&mut self, now: &BTreeMap<String, Table>) {
        if self.touched.is_none() {
            self.touched = self.changed_by_others(now);
        }
    }

    /// The rows are as this run has made them.
    pub(super) fn update(&mut self, now: BTreeMap<String, Table>) {
        self.tables = now;
    }

    /// A table whose rows are not all as the run has left them, where there is one.
    pub(crate) fn changed_by_others(&self, now: &BTreeMap<String, Table>) -> Option<String> {
        let is_ledger = |name: &&String| [DIESEL, HISTORY].contains(&name.as_str());
        let none = Table::default();
        let is_other = |name: &&String| {
            let (was, is) = (self.tables.get(*name).unwrap_or(&none), now.get(*name).unwrap_or(&none));
            // A table without rows is as good as none.
            (was.rows, is.rows) != (0, 0) && was != is
        };
        let names = self.tables.keys().chain(now.keys());
        self.touched.clone().or_else(|| names.filter(|it| !is_ledger(it)).find(is_other).cloned())
    }
}

/// Violated foreign keys at the beginning, and the first migration that added to them.
pub(super) struct Violations {
    before: ForeignKeyViolations,
    first: Option<Error>,
}

impl Violations {
    pub(super) const fn new(before: ForeignKeyViolations) -> Self {
        Self { before, first: None }
    }

    /// Remembers the migration after which there were more.
    pub(super) fn record_after(&mut self, after: &ForeignKeyViolations, migration: &Migration) {
        if self.first.is_none() {
            self.first = self.more(after, migration);
        }
    }

    /// The first that was remembered.
    pub(super) fn first(&mut self) -> Option<Error> {
        self.first.take()
    }

    /// Errors where there are more than at the beginning.
    pub(super) fn verify(self, after: &ForeignKeyViolations, last: &Migration) -> Result<()> {
        match self.more(after, last) {
            None => Ok(()),
            Some(error) => Err(self.first.unwrap_or(error)),
        }
    }

    fn more(&self, after: &ForeignKeyViolations, migration: &Migration) -> Option<Error> {
        after.iter().find_map(|(pair, count)| {
            let more = count.checked_sub(self.before.get(pair).copied().unwrap_or_default())?;
            let (child, parent) = pair;
            let message = format!("{more} row(s) of {child} would point at nothing in {parent}");
            let hint = "mend the rows in the migration, before the table they point at is rebuilt";
            let error =
                Error::new(ErrorKind::ForeignKeys, message).in_migration(migration.label()).with_hint(hint);
            (more > 0).then_some(error)
        })
    }
}

/// No table has fewer rows that the migration did not say it deletes from, unless that is allowed.
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
        let left = match destination(table, before, after, script) {
            Destination::Dropped if allowance.drops == DropTables::OnlyEmpty && *count > 0 => {
                let message = format!("{table}, which it drops, has {count} row(s)");
                return Err(Error::new(ErrorKind::RowsLost, message)
                    .in_migration(migration.label())
                    .with_hint("somebody writes into it: stop that, or restore a backup"));
            }
            Destination::Dropped => continue,
            Destination::Named(name) if declared(&name) => continue,
            Destination::Named(name) => after.rows.get(&name).copied().unwrap_or_default(),
        };
        if left < *count && allowance.undeclared {
            lost = RowLoss::Allowed;
        } else if left < *count {
            let message = format!("{table} would lose {} of its {count} row(s)", count - left);
            return Err(Error::new(ErrorKind::RowsLost, message).in_migration(migration.label()).with_hint(format!(
                "if that is meant, its metadata.toml says deletes_rows_from = [{table:?}]; for a file that can't be edited: \
                 --allow-row-loss {}",
                migration.version
            )));
        }
    }
    Ok(lost)
}

/// No number that a row once had is given to another: a table that was made anew under its name goes on from where the old one
/// was, unless the script says itself how far to count. Says so.
pub(super) fn preserve_sequences(
    session: &mut dyn Session,
    words: Vec<String>,
    before: &RowCounts,
    after: &mut RowCounts,
) -> Result<Vec<String>> {
    const SAYS: [&str; 3] = ["SQLITE_SEQUENCE", "SETVAL", "RESTART"];
    if words.iter().any(|word| SAYS.contains(&word.as_str())) {
        return Ok(Vec::new());
    }
    let mut notes = Vec::new();
    for (name, last) in &before.sequences {
        let table = name.split('.').next().unwrap_or(name);
        let is_lower = after.sequences.get(name).is_none_or(|now| now < last);
        if is_lower && after.rows.contains_key(table) && session.raise_sequence(name, *last)? {
            after.sequences.insert(name.clone(), *last);
            notes.push(format!(
                "{name} goes on after {last}: it was made anew, and would have given numbers out again"
            ));
        }
    }
    Ok(notes)
}

/// Lets nobody write into the tables that a script drops, from before they are counted.
pub(super) fn lock_tables(session: &mut dyn Session, catalog: &Catalog, script: &Script) -> Result<()> {
    for moves in script.statements().iter().flat_map(|statement| &statement.table_changes) {
        if let TableChange::Dropped(table) = moves
            && let Some(lock) = catalog.dialect().lock_table(&quote_name(table))
        {
            session.change(&lock)?;
        }
    }
    Ok(())
}

enum Destination {
    Dropped,
    Named(String),
}

/// What a table's rows are in afterwards: a table of its name, or of the last name that it was given.
fn destination(table: &str, before: &RowCounts, after: &RowCounts, script: &Script) -> Destination {
    if after.rows.contains_key(table) {
        return Destination::Named(table.into());
    }
    let mut name = table.to_string();
    for moves in script.statements().iter().flat_map(|statement| &statement.table_changes) {
        match moves {
            TableChange::Dropped(dropped) if *dropped == name => return Destination::Dropped,
            TableChange::Renamed { from, to } if *from == name => name.clone_from(to),
            _ => {}
        }
    }
    // A partition goes with the table that it is a part of.
    match before.partitions.get(table).filter(|_| !after.rows.contains_key(&name)) {
        Some(wholes) if wholes.iter().any(|whole| is_dropped(whole, script)) => Destination::Dropped,
        _ => Destination::Named(name),
    }
}

fn is_dropped(table: &str, script: &Script) -> bool {
    let mut moves = script.statements().iter().flat_map(|statement| &statement.table_changes);
    moves.any(|moves| matches!(moves, TableChange::Dropped(dropped) if dropped == table))
}
