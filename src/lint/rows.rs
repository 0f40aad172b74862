//! Rules for SQLite about what changes or refuses values that are there: other types, new constraints, functions that raise
//! errors.

use super::{Raw, Surroundings};
use crate::catalog::Migration;
use crate::sql::statement::Statement;
use crate::sql::{Dialect, Token, tokens};

pub(super) fn lint(migration: &Migration, surroundings: Surroundings<'_>) -> Vec<Raw> {
    let mut found = Vec::new();
    let statements = migration.up.statements();
    let line = |table: &str| statement_of(statements, table).map_or(1, |statement| statement.line);
    if let (Some(before), Some(after)) = (surroundings.before, surroundings.after) {
        for (table, column, old, new) in after.retyped_columns(before) {
            found.push(Raw {
                rule: "type-changed",
                line: line(&table),
                message: format!("{column} of {table} becomes {new} from {old}: values may be converted, such as '007' to 7"),
                help: "compare the values on copies of the projects: tenantry rehearse --all; --backup keeps them",
            });
        }
        for (table, constraint) in after.added_constraints(before) {
            found.push(Raw {
                rule: "constraint-added",
                line: line(&table),
                message: format!(
                    "{table} gets {constraint}: it fails for each project with a row that violates it"
                ),
                help: "mend such rows first; tenantry rehearse says which projects have some",
            });
        }
    }
    for statement in statements {
        let Ok(tokens) = tokens(&statement.sql, Dialect::Sqlite) else { continue };
        if let Some(function) = raising_function(&tokens) {
            found.push(Raw {
                rule: "fails-on-rows",
                line: statement.line,
                message: format!(
                    "{function} raises an error for a value that is no JSON, and the whole migration fails"
                ),
                help: "leave such rows out: WHERE json_valid(...)",
            });
        }
        if let Some(pragma) = pragma(&tokens) {
            let (message, help) = match pragma.as_str() {
                "journal_mode" => (
                    "the journal mode is changed in the file, for every application that opens it"
                        .to_string(),
                    "let the application set it when it creates or opens the database",
                ),
                _ => (
                    format!("{pragma} is a setting of the connection, which ends with the migration"),
                    "remove it: tenantry sets what a migration needs",
                ),
            };
            found.push(Raw { rule: "pragma", line: statement.line, message, help });
        }
    }
    found
}

/// The statement that makes a table anew, or the first that names it.
fn statement_of<'a>(statements: &'a [Statement], table: &str) -> Option<&'a Statement> {
    let names = |statement: &&Statement| {
        let tokens = tokens(&statement.sql, Dialect::Sqlite).unwrap_or_default();
        tokens.iter().any(|token| token.name().is_some_and(|name| name.eq_ignore_ascii_case(table)))
    };
    let mut naming = statements.iter().filter(names);
    let drops = |statement: &&Statement| !statement.table_changes.is_empty();
    naming.clone().find(drops).or_else(|| naming.next())
}

/// A JSON function in a statement that reads rows and does not ask whether they are valid.
fn raising_function(tokens: &[Token<'_>]) -> Option<String> {
    const READS: [&str; 4] = ["UPDATE", "INSERT", "REPLACE", "WITH"];
    if !tokens.first().is_some_and(|first| READS.iter().any(|word| first.is(word))) {
        return None;
    }
    if tokens.iter().any(|token| token.is("json_valid")) {
        return None;
    }
    let is_json = |pair: &&[Token<'_>]| {
        pair[0].text.to_ascii_lowercase().starts_with("json") && pair[1].is_symbol("(")
            || pair[0].text == "->>"
    };
    tokens.windows(2).find(is_json).map(|pair| pair[0].text.to_string())
}

/// The name of a pragma that does not belong in a migration.
fn pragma(tokens: &[Token<'_>]) -> Option<String> {
    const SETTINGS: [&str; 8] = [
        "journal_mode",
        "synchronous",
        "locking_mode",
        "cache_size",
        "temp_store",
        "busy_timeout",
        "mmap_size",
        "wal_autocheckpoint",
    ];
    let mut names =
        tokens.iter().skip(1).take(3).filter_map(Token::name).map(|name| name.to_ascii_lowercase());
    let is_pragma = tokens.first().is_some_and(|first| first.is("PRAGMA"));
    names.find(|name| is_pragma && SETTINGS.contains(&name.as_str()))
}
