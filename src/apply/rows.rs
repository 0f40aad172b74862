//! What a migration did to rows, proven by counts of before and after.
//!
//! It must not count: a session does.

use super::Drops;
use crate::catalog::{Catalog, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::quote_name;
use crate::sql::statement::Moves;
use crate::store::{Census, Session, Step};

/// No new violation of a foreign key, and no table with fewer rows that the migration did not say it deletes from; gives
/// back what was counted afterwards.
pub(super) fn prove_rows(
    before: &Census,
    after: Census,
    Step { migration, script }: Step<'_>,
    drops: Drops,
) -> Result<Census> {
    for ((child, parent), count) in &after.violations {
        let known = before.violations.get(&(child.clone(), parent.clone())).copied().unwrap_or_default();
        if *count > known {
            let more = count - known;
            let message = format!("{more} row(s) of {child} would point at nothing in {parent}");
            return Err(Error::new(ErrorKind::ForeignKeys, message)
                .in_migration(migration.label())
                .hint("mend the rows in the migration, before the table they point at is rebuilt"));
        }
    }
    let declared = |table: &str| {
        migration.metadata.deletes_rows_from.iter().any(|name| name.eq_ignore_ascii_case(table))
    };
    for (table, count) in before.rows.iter().filter(|(table, _)| !declared(table)) {
        let left = match destination(table, &after, script) {
            Destination::Dropped if drops == Drops::Empty && *count > 0 => {
                let message = format!("{table}, which it drops, has {count} row(s)");
                return Err(Error::new(ErrorKind::RowsLost, message)
                    .in_migration(migration.label())
                    .hint("somebody writes into it: stop that, or restore a backup"));
            }
            Destination::Dropped => continue,
            Destination::Named(name) if declared(&name) => continue,
            Destination::Named(name) => after.rows.get(&name).copied().unwrap_or_default(),
        };
        if left < *count {
            let message = format!("{table} would lose {} of its {count} row(s)", count - left);
            return Err(Error::new(ErrorKind::RowsLost, message)
                .in_migration(migration.label())
                .hint(format!("if that is meant, its metadata.toml says deletes_rows_from = [{table:?}]")));
        }
    }
    Ok(after)
}

/// Lets nobody write into the tables that a script drops, from before they are counted.
pub(super) fn keep_still(session: &mut dyn Session, catalog: &Catalog, script: &Script) -> Result<()> {
    for moves in script.statements().iter().flat_map(|statement| &statement.moves) {
        if let Moves::Dropped(table) = moves
            && let Some(lock) = catalog.dialect().keep_still(&quote_name(table))
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
fn destination(table: &str, after: &Census, script: &Script) -> Destination {
    if after.rows.contains_key(table) {
        return Destination::Named(table.into());
    }
    let mut name = table.to_string();
    for moves in script.statements().iter().flat_map(|statement| &statement.moves) {
        match moves {
            Moves::Dropped(dropped) if *dropped == name => return Destination::Dropped,
            Moves::Renamed { from, to } if *from == name => name.clone_from(to),
            _ => {}
        }
    }
    Destination::Named(name)
}
