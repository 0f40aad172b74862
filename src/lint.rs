//! Finds what is dangerous in migrations: what fails only on rows, what loses data, what blocks applications.
//!
//! The rules for Postgres are those of squawk, with its names. Those for SQLite, and those that compare the schemas before
//! and after a migration, are tenantry's own. A comment in the script allows a finding, with a reason.

mod allow;
#[cfg(feature = "postgres")]
mod postgres;
mod schemas;
mod sqlite;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::catalog::Migration;
use crate::schema::Schema;
use crate::sql::Dialect;

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
    };
    match dialect {
        Dialect::Sqlite => {
            let raw = sqlite::lint(migration, surroundings);
            findings.extend(
                raw.into_iter().map(|it| finding(it.rule.into(), it.line, it.message, it.help.into())),
            );
        }
        #[cfg(feature = "postgres")]
        Dialect::Postgres => findings.extend(
            postgres::lint(script, surroundings.after.is_some())
                .into_iter()
                .map(|it| finding(it.rule, it.line, it.message, it.help)),
        ),
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
pub const RULES: [(&str, &str); 14] = [
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
        "double-quoted-string",
        "SQLite: a text in double quotes, which names a column where there is one of that name",
    ),
    ("drop-column", "SQLite: a column is dropped with its data"),
    ("drop-table", "SQLite: a table is dropped with its rows"),
    ("object-lost", "an index, trigger or view is gone afterwards that the script does not drop"),
    ("own-transaction", "the script has its own BEGIN and COMMIT, which are left out"),
    ("rename", "SQLite: a table or column is renamed; applications that run meanwhile use the old name"),
    ("replace-with-children", "SQLite: REPLACE deletes a row, and with it the rows that reference it"),
    ("syntax-error", "Postgres: SQL that cannot be parsed, if there is no server to run it on"),
    (
        "unique-index",
        "SQLite: a unique index on a table that may have duplicates; it fails for those projects",
    ),
    (
        "volatile-value",
        "SQLite: a value that differs each time, so that new projects cannot be copied from a template",
    ),
];

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
