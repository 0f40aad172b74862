//! Rules for Postgres about what concerns more than one project or more than one transaction.

use super::Raw;
use crate::catalog::Migration;
use crate::sql::line_number;

pub(super) fn lint(migration: &Migration) -> Vec<Raw> {
    let mut found = Vec::new();
    let script = &migration.up;
    for extension in script.extensions() {
        found.push(Raw {
            rule: "extension",
            line: line_of(script.text(), &extension.name),
            message: format!(
                "the extension {} is created once for the whole database, for all projects",
                extension.name
            ),
            help: "create it before the rollout, with the role that may",
        });
    }
    for statement in script.statements() {
        if statement.adds_enum_value {
            found.push(Raw {
                rule: "enum-value",
                line: statement.line,
                message: "what came before is committed with the value, and no down.sql can drop it without a new type".into(),
                help: "put it into a migration of its own, before those that use the value",
            });
        }
        if statement.validates_constraint() && migration.up.statements().len() > 1 {
            let adds =
                |it: &&crate::sql::statement::Statement| it.sql.to_ascii_uppercase().contains("NOT VALID");
            if script.statements().iter().any(|it| adds(&it)) {
                found.push(Raw {
                    rule: "validate-in-one-migration",
                    line: statement.line,
                    message: "the lock of NOT VALID is held while all rows are read".into(),
                    help: "validate in a migration of its own: it begins a new transaction",
                });
            }
        }
    }
    found
}

/// The line that creates an extension.
fn line_of(text: &str, extension: &str) -> u32 {
    let creates = |line: &str| line.to_ascii_uppercase().contains("EXTENSION") && line.contains(extension);
    text.lines().position(creates).map_or(1, |index| line_number(index + 1))
}
