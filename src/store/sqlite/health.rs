//! Checks a database's integrity and foreign keys.
//!
//! SQLite cannot check tables that use a collation, function or module which only the application registers. They are
//! reported as unchecked; everything else is checked.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::sql::{quote_name, quote_text};
use crate::store::{ForeignKeyViolations, Health};

/// How many integrity errors are reported.
const MAX_ERRORS: usize = 20;

/// Runs all checks that SQLite has.
pub(super) fn health(connection: &Connection) -> rusqlite::Result<Health> {
    let mut health = Health::default();
    match integrity(connection, &MAX_ERRORS.to_string()) {
        Ok(errors) => health.errors = errors,
        Err(error) if prevents_check(&error) => check_each_table(connection, &mut health)?,
        Err(error) => return Err(error),
    }
    let ForeignKeyCheck { violations, unchecked } = check_foreign_keys(connection)?;
    health.unchecked.extend(unchecked);
    for ((child, parent), (count, first)) in violations {
        let first = first.map(|first| format!(", the first is row {first}")).unwrap_or_default();
        health.errors.push(format!("{count} row(s) of {child} reference missing rows of {parent}{first}"));
    }
    Ok(health)
}

/// Counts the rows that violate foreign keys, by child and parent table.
pub(super) fn violations(connection: &Connection) -> rusqlite::Result<ForeignKeyViolations> {
    Ok(check_foreign_keys(connection)?
        .violations
        .into_iter()
        .map(|(pair, (count, _))| (pair, count))
        .collect())
}

/// Runs `PRAGMA integrity_check` with an argument: a table, or the maximum number of errors.
fn integrity(connection: &Connection, argument: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA main.integrity_check({argument})"))?;
    let mut errors: Vec<String> =
        statement.query_map((), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    errors.retain(|line| line != "ok");
    Ok(errors)
}

fn check_each_table(connection: &Connection, health: &mut Health) -> rusqlite::Result<()> {
    for table in tables(connection)? {
        match integrity(connection, &quote_text(&table)) {
            Ok(errors) => health.errors.extend(errors),
            Err(error) if prevents_check(&error) => {
                health.unchecked.push(format!("{table}: {}", super::failure::message(&error)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name";
    connection.prepare(sql)?.query_map((), |row| row.get(0))?.collect()
}

/// The result of a foreign key check.
#[derive(Default)]
struct ForeignKeyCheck {
    /// The number of violating rows and their lowest rowid, by child and parent table.
    violations: BTreeMap<(String, String), (u64, Option<i64>)>,
    /// The tables that SQLite cannot check, with the reasons.
    unchecked: Vec<String>,
}

fn check_foreign_keys(connection: &Connection) -> rusqlite::Result<ForeignKeyCheck> {
    let mut result = ForeignKeyCheck::default();
    match add_violations(connection, "pragma_foreign_key_check", &mut result) {
        Err(error) if prevents_check(&error) => {}
        other => return other.map(|()| result),
    }
    result = ForeignKeyCheck::default();
    for table in tables(connection)? {
        let check = format!("pragma_foreign_key_check({})", quote_text(&table));
        match add_violations(connection, &check, &mut result) {
            Ok(()) => {}
            Err(error) if prevents_check(&error) => {
                let message = super::failure::message(&error);
                result.unchecked.push(format!("the foreign keys of {}: {message}", quote_name(&table)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(result)
}

fn add_violations(
    connection: &Connection,
    check: &str,
    result: &mut ForeignKeyCheck,
) -> rusqlite::Result<()> {
    let sql = format!(r#"SELECT "table", parent, count(*), min(rowid) FROM {check} GROUP BY 1, 2"#);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        result.violations.insert((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?));
    }
    Ok(())
}

/// Whether an error means that SQLite cannot check something: it uses what only the application registers, or a foreign
/// key references columns that are not a key of the parent.
fn prevents_check(error: &rusqlite::Error) -> bool {
    const MESSAGES: [&str; 5] = [
        "no such collation",
        "no such function",
        "unknown function",
        "no such module",
        "foreign key mismatch",
    ];
    let message = super::failure::message(error);
    MESSAGES.iter().any(|text| message.contains(text))
}
