//! What SQLite finds wrong with a database, as far as it can look.
//!
//! A collation, a function or a module that only the application registers keeps SQLite from checking what uses it. That is
//! named; all else is checked.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::sql::{quote_name, quote_text};
use crate::store::{ForeignKeyViolations, Health};

/// How many damages are named.
const NAMED: usize = 20;

/// Everything SQLite can check.
pub(super) fn health(connection: &Connection) -> rusqlite::Result<Health> {
    let mut health = Health::default();
    match integrity(connection, &NAMED.to_string()) {
        Ok(damage) => health.damage = damage,
        Err(error) if is_unknown(&error) => each_table(connection, &mut health)?,
        Err(error) => return Err(error),
    }
    let Dangling { rows, unchecked } = dangling(connection)?;
    health.unchecked.extend(unchecked);
    for ((child, parent), (count, first)) in rows {
        let first = first.map(|first| format!(", the first is row {first}")).unwrap_or_default();
        health.damage.push(format!("{count} row(s) of {child} point at nothing in {parent}{first}"));
    }
    Ok(health)
}

/// How many rows point at nothing, by child and parent.
pub(super) fn violations(connection: &Connection) -> rusqlite::Result<ForeignKeyViolations> {
    Ok(dangling(connection)?.rows.into_iter().map(|(pair, (count, _))| (pair, count)).collect())
}

fn integrity(connection: &Connection, what: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA main.integrity_check({what})"))?;
    let mut damage: Vec<String> =
        statement.query_map((), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    damage.retain(|line| line != "ok");
    Ok(damage)
}

fn each_table(connection: &Connection, health: &mut Health) -> rusqlite::Result<()> {
    for table in tables(connection)? {
        match integrity(connection, &quote_text(&table)) {
            Ok(damage) => health.damage.extend(damage),
            Err(error) if is_unknown(&error) => {
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

/// Rows that point at nothing, with the first one's number, and the tables of which SQLite can't tell.
#[derive(Default)]
struct Dangling {
    rows: BTreeMap<(String, String), (u64, Option<i64>)>,
    unchecked: Vec<String>,
}

fn dangling(connection: &Connection) -> rusqlite::Result<Dangling> {
    let mut found = Dangling::default();
    match dangling_of(connection, "pragma_foreign_key_check", &mut found) {
        Err(error) if is_unknown(&error) => {}
        whole => return whole.map(|()| found),
    }
    found = Dangling::default();
    for table in tables(connection)? {
        let check = format!("pragma_foreign_key_check({})", quote_text(&table));
        match dangling_of(connection, &check, &mut found) {
            Ok(()) => {}
            Err(error) if is_unknown(&error) => {
                let message = super::failure::message(&error);
                found.unchecked.push(format!("the foreign keys of {}: {message}", quote_name(&table)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn dangling_of(connection: &Connection, check: &str, found: &mut Dangling) -> rusqlite::Result<()> {
    let sql = format!(r#"SELECT "table", parent, count(*), min(rowid) FROM {check} GROUP BY 1, 2"#);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        found.rows.insert((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?));
    }
    Ok(())
}

/// Whether SQLite lacks what only an application registers, or is asked to check a key that fits no parent.
fn is_unknown(error: &rusqlite::Error) -> bool {
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
