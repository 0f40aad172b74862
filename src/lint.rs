//! Finds what is dangerous in migrations: what fails only on rows, what loses data, what blocks applications.
//!
//! The rules for Postgres are those of squawk, with its names. Those for SQLite, and those that compare the schemas before
//! and after a migration, are tenantry's own. A comment in the script allows a finding, with a reason.

mod allow;
#[cfg(feature = "postgres")]
mod postgres;
mod rows;
mod schemas;
#[cfg(feature = "postgres")]
mod server;
mod sqlite;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::catalog::Migration;
use crate::project::ProjectId;
use crate::schema::Schema;
use crate::sql::{Dialect, tokens};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The rule's name, such as `add-column-not-null`.
    pub rule: String,
    /// The migration's label.
    pub migration: String,
    /// The script.
    pub file: PathBuf,
    /// The line, counted from one.
    pub line: u32,
    /// What is wrong.
    pub message: String,
    /// A safer way.
    pub help: String,
    /// The line's text.
    pub text: String,
    /// The tables that existed before and that the statement names.
    pub tables: Vec<String>,
    /// What the statement will touch in the fleet, if that was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub touches: Option<Touches>,
}

/// How many rows and projects a statement will touch: those that the migration was not applied to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Touches {
    /// The number of projects.
    pub projects: usize,
    /// The number of rows in all of them.
    pub rows: u64,
    /// The project with the most rows.
    pub largest: Option<ProjectId>,
    /// Its number of rows.
    pub largest_rows: u64,
}

/// The schemas around a migration, as far as they are known.
#[derive(Clone, Copy, Default)]
pub(crate) struct Surroundings<'a> {
    pub(crate) before: Option<&'a Schema>,
    pub(crate) after: Option<&'a Schema>,
}

/// A finding before it has its place in a file.
struct Raw {
    rule: &'static str,
    line: u32,
    message: String,
    help: &'static str,
}

/// Lints a migration's up.sql. `off` are the rules that are switched off.
pub(crate) fn lint(
    migration: &Migration,
    dialect: Dialect,
    surroundings: Surroundings<'_>,
    off: &BTreeSet<String>,
) -> Vec<Finding> {
    let script = &migration.up;
    let mut findings: Vec<Finding> = Vec::new();
    let finding = |rule: String, line: u32, message: String, help: String| Finding {
        rule,
        migration: migration.label(),
        file: script.path().to_path_buf(),
        line,
        message,
        help,
        text: line_of(script.text(), line),
        tables: tables_of(script, dialect, surroundings, line),
        touches: None,
    };
    match dialect {
        Dialect::Sqlite => {
            let mut raw = sqlite::lint(migration, surroundings);
            raw.extend(rows::lint(migration, surroundings));
            findings.extend(
                raw.into_iter().map(|it| finding(it.rule.into(), it.line, it.message, it.help.into())),
            );
        }
        #[cfg(feature = "postgres")]
        Dialect::Postgres => {
            findings.extend(
                postgres::lint(script, surroundings.after.is_some())
                    .into_iter()
                    .map(|it| finding(it.rule, it.line, it.message, it.help)),
            );
            let raw = server::lint(migration);
            findings.extend(
                raw.into_iter().map(|it| finding(it.rule.into(), it.line, it.message, it.help.into())),
            );
        }
        #[cfg(not(feature = "postgres"))]
        Dialect::Postgres => {}
    }
    let raw = schemas::lint(migration, dialect, surroundings);
    findings.extend(raw.into_iter().map(|it| finding(it.rule.into(), it.line, it.message, it.help.into())));
    let allowed = allow::allowed(script, dialect);
    findings.retain(|it| !allowed.covers(&it.rule, it.line));
    findings.extend(allowed.unknown.iter().map(|(line, rule)| {
        let message = format!("a comment allows {rule:?}, which is no rule");
        finding("allow-unknown-rule".into(), *line, message, "write -- lint: allow RULE: REASON".into())
    }));
    findings.extend(allowed.without_reason.iter().map(|line| {
        let message = "a rule is allowed without a reason".to_string();
        finding(
            "allow-without-reason".into(),
            *line,
            message,
            "write why: -- lint: allow RULE: REASON".into(),
        )
    }));
    findings.retain(|it| !off.contains(&it.rule));
    findings.sort_by(|a, b| (a.line, &a.rule).cmp(&(b.line, &b.rule)));
    findings
}

/// All rules of tenantry's own, with what each finds.
pub const RULES: [(&str, &str); 21] = [
    (
        "add-column-default",
        "SQLite: a new column with a default that is not constant; it fails on a table with rows",
    ),
    (
        "add-column-not-null",
        "SQLite: a new column that is NOT NULL without a default; it fails on a table with rows",
    ),
    ("allow-unknown-rule", "a comment allows a rule that there is none of"),
    ("allow-without-reason", "a rule is allowed without a reason"),
    (
        "constraint-added",
        "SQLite: a constraint on a table that exists; it fails for projects whose rows violate it",
    ),
    (
        "double-quoted-string",
        "SQLite: a text in double quotes, which names a column where there is one of that name",
    ),
    ("drop-column", "SQLite: a column is dropped with its data"),
    ("drop-table", "SQLite: a table is dropped with its rows"),
    ("enum-value", "Postgres: a value that is added to an enum is committed at once, and stays"),
    ("extension", "Postgres: an extension is created for the whole database"),
    ("fails-on-rows", "SQLite: a JSON function on values that may be no JSON"),
    ("object-lost", "an index, trigger or view is gone afterwards that the script does not drop"),
    ("own-transaction", "the script has its own BEGIN and COMMIT, which are left out"),
    ("pragma", "SQLite: a setting of the connection, or the journal mode, which applications set"),
    ("rename", "SQLite: a table or column is renamed; applications that run meanwhile use the old name"),
    ("replace-with-children", "SQLite: REPLACE deletes a row, and with it the rows that reference it"),
    ("syntax-error", "Postgres: SQL that cannot be parsed, if there is no server to run it on"),
    ("type-changed", "SQLite: a column gets another type; values may be converted"),
    (
        "unique-index",
        "SQLite: a unique index on a table that may have duplicates; it fails for those projects",
    ),
    ("validate-in-one-migration", "Postgres: NOT VALID and VALIDATE CONSTRAINT in one transaction"),
    (
        "volatile-value",
        "SQLite: a value that differs each time, so that new projects cannot be copied from a template",
    ),
];

/// The tables of the schema before a migration that the statement at a line names.
fn tables_of(
    script: &crate::catalog::Script,
    dialect: Dialect,
    surroundings: Surroundings<'_>,
    line: u32,
) -> Vec<String> {
    let Some(before) = surroundings.before else { return Vec::new() };
    let statement = script.statements().iter().take_while(|it| it.line <= line).last();
    let tokens = statement.map(|it| tokens(&it.sql, dialect).unwrap_or_default()).unwrap_or_default();
    let is_named = |table: &&str| {
        tokens.iter().any(|token| token.name().is_some_and(|name| name.eq_ignore_ascii_case(table)))
    };
    before.tables().filter(is_named).map(ToString::to_string).collect()
}

fn line_of(text: &str, line: u32) -> String {
    text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default().trim_end().to_string()
}

/// Whether there is a rule of this name.
pub(crate) fn is_rule(name: &str) -> bool {
    RULES.iter().any(|(rule, _)| *rule == name) || is_postgres_rule(name)
}

#[cfg(feature = "postgres")]
fn is_postgres_rule(name: &str) -> bool {
    postgres::is_rule(name)
}

#[cfg(not(feature = "postgres"))]
fn is_postgres_rule(_name: &str) -> bool {
    false
}
