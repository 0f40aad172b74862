//! Rules that compare the schemas before and after a migration, for both databases.

use super::{Raw, Surroundings};
use crate::catalog::Migration;
use crate::sql::statement::{Statement, TableChange};
use crate::sql::{Dialect, Token, tokens};

pub(super) fn lint(migration: &Migration, dialect: Dialect, surroundings: Surroundings<'_>) -> Vec<Raw> {
    let mut found = Vec::new();
    let script = &migration.up;
    let first_line = script.statements().first().map_or(1, |statement| statement.line);
    if script.has_own_transaction() {
        found.push(Raw {
            rule: "own-transaction",
            line: first_line,
            message: "the script has its own BEGIN and COMMIT, which are left out".into(),
            help: "remove them: tenantry runs the script in a transaction",
        });
    }
    let (Some(before), Some(after)) = (surroundings.before, surroundings.after) else { return found };
    for lost in after.lost_code(before) {
        let is_dropped = |statement: &Statement| {
            tokens(&statement.sql, dialect).is_ok_and(|tokens| drops(&tokens, &lost.name))
        };
        if script.statements().iter().any(is_dropped) {
            continue;
        }
        // The table whose rebuild loses it, if one of the statements names it.
        let names_table = |sql: &str| {
            lost.table.as_deref().is_some_and(|table| {
                tokens(sql, dialect).is_ok_and(|tokens| tokens.iter().any(|it| is_name(it, table)))
            })
        };
        let drops_table = |statement: &&Statement| {
            statement.table_changes.iter().any(|change| match (change, &lost.table) {
                (TableChange::Dropped(dropped), Some(table)) => dropped.eq_ignore_ascii_case(table),
                _ => false,
            })
        };
        let statements = script.statements();
        let dropping = statements.iter().find(drops_table);
        let statement = dropping.or_else(|| statements.iter().find(|statement| names_table(&statement.sql)));
        found.push(Raw {
            rule: "object-lost",
            line: statement.map_or(first_line, |statement| statement.line),
            message: format!(
                "{} {} is gone afterwards, and the script does not drop it",
                lost.kind, lost.name
            ),
            help: "create it again after the table is rebuilt, or drop it in the script if that is meant",
        });
    }
    found
}

/// Whether a statement is a `DROP` of an object of this name.
fn drops(tokens: &[Token<'_>], name: &str) -> bool {
    tokens.first().is_some_and(|first| first.is("DROP")) && tokens.iter().any(|token| is_name(token, name))
}

fn is_name(token: &Token<'_>, name: &str) -> bool {
    token.name().is_some_and(|it| it.eq_ignore_ascii_case(name))
}
