//! Rules for SQLite.

use super::{Raw, Surroundings};
use crate::catalog::Migration;
use crate::sql::effect::Effect;
use crate::sql::statement::{Statement, TableChange};
use crate::sql::{Dialect, Token, TokenKind, tokens};

pub(super) fn lint(migration: &Migration, surroundings: Surroundings<'_>) -> Vec<Raw> {
    let mut found = Vec::new();
    for statement in migration.up.statements() {
        let Ok(tokens) = tokens(&statement.sql, Dialect::Sqlite) else { continue };
        let mut add =
            |rule, message: String, help| found.push(Raw { rule, line: statement.line, message, help });
        alter_table(&tokens, &mut add);
        tables(statement, migration, &mut add);
        unique_index(&tokens, surroundings, &mut add);
        replace(&tokens, surroundings, &mut add);
        double_quotes(&tokens, surroundings, &mut add);
        // A default of a column is evaluated later, for each row.
        let writes = statement.effect != Effect::Defines;
        if statement.is_volatile && writes && !migration.metadata.same_for_all_projects {
            add(
                "volatile-value",
                "it uses a value that differs each time it runs".into(),
                "set same_for_all_projects = true in metadata.toml if new projects may share it; otherwise each create runs \
                 all migrations",
            );
        }
    }
    found
}

type Add<'a> = dyn FnMut(&'static str, String, &'static str) + 'a;

/// The name that a token stands for, without quotes. Empty if it is no name.
fn name(token: Option<&Token<'_>>) -> String {
    token.and_then(Token::name).unwrap_or_default()
}

fn alter_table(tokens: &[Token<'_>], add: &mut Add<'_>) {
    if !(tokens.first().is_some_and(|it| it.is("ALTER")) && tokens.get(1).is_some_and(|it| it.is("TABLE"))) {
        return;
    }
    let table = name(tokens.get(2));
    let has = |word: &str| tokens.iter().any(|token| token.is(word));
    match tokens.get(3) {
        Some(token) if token.is("RENAME") => add(
            "rename",
            format!("{table}, or a column of it, is renamed"),
            "applications of the old version fail until they are updated: add the new name first, and drop the old one in a \
             later release",
        ),
        Some(token) if token.is("DROP") => add(
            "drop-column",
            format!("a column of {table} is dropped with its data"),
            "stop using it first, and drop it in a later release; --backup keeps the data",
        ),
        Some(token) if token.is("ADD") => {
            let default = tokens.iter().position(|token| token.is("DEFAULT"));
            if has("NOT") && has("NULL") && default.is_none() && !has("GENERATED") && !has("AS") {
                add(
                    "add-column-not-null",
                    format!(
                        "a new column of {table} is NOT NULL and has no default: it fails if {table} has rows"
                    ),
                    "give it a default, or add it without NOT NULL, fill it, and rebuild the table",
                );
            }
            let value = default.and_then(|index| tokens.get(index + 1));
            let is_variable = |token: &Token<'_>| {
                token.is_symbol("(") || token.text.to_ascii_uppercase().starts_with("CURRENT_")
            };
            if value.is_some_and(is_variable) {
                add(
                    "add-column-default",
                    format!(
                        "the default of a new column of {table} is not constant: it fails if {table} has rows"
                    ),
                    "add it without a default and fill it with UPDATE, or rebuild the table",
                );
            }
        }
        _ => {}
    }
}

/// A table that is dropped for good. One that is dropped and made again under its name is a rebuild.
fn tables(statement: &Statement, migration: &Migration, add: &mut Add<'_>) {
    let is_made_again =
        |table: &str| {
            migration.up.statements().iter().flat_map(|it| &it.table_changes).any(
                |change| matches!(change, TableChange::Renamed { to, .. } if to.eq_ignore_ascii_case(table)),
            )
        };
    for change in &statement.table_changes {
        if let TableChange::Dropped(table) = change
            && !is_made_again(table)
        {
            add(
                "drop-table",
                format!("{table} is dropped with its rows"),
                "stop using it first, and drop it in a later release; --backup keeps the rows",
            );
        }
    }
}

fn unique_index(tokens: &[Token<'_>], surroundings: Surroundings<'_>, add: &mut Add<'_>) {
    let is_unique =
        tokens.first().is_some_and(|it| it.is("CREATE")) && tokens.get(1).is_some_and(|it| it.is("UNIQUE"));
    let on = tokens.iter().position(|token| token.is("ON"));
    let table = name(on.and_then(|index| tokens.get(index + 1)));
    let exists =
        surroundings.before.is_some_and(|schema| schema.tables().any(|it| it.eq_ignore_ascii_case(&table)));
    if is_unique && exists {
        add(
            "unique-index",
            format!("it fails for each project whose {table} has duplicates"),
            "remove duplicates first; tenantry rehearse says which projects have some",
        );
    }
}

fn replace(tokens: &[Token<'_>], surroundings: Surroundings<'_>, add: &mut Add<'_>) {
    let is_replace = tokens.first().is_some_and(|it| it.is("REPLACE"))
        || tokens.windows(2).any(|it| it[0].is("OR") && it[1].is("REPLACE"));
    let into = tokens.iter().position(|token| token.is("INTO"));
    let table = name(into.and_then(|index| tokens.get(index + 1)));
    let has_children =
        |schema: Option<&crate::schema::Schema>| schema.is_some_and(|it| it.has_children(&table));
    if is_replace && (has_children(surroundings.before) || has_children(surroundings.after)) {
        add(
            "replace-with-children",
            format!(
                "REPLACE deletes the old row of {table}, and ON DELETE applies to the rows that reference it"
            ),
            "use INSERT ... ON CONFLICT DO UPDATE",
        );
    }
}

/// A name in double quotes that is no name of the schema is taken for a text.
fn double_quotes(tokens: &[Token<'_>], surroundings: Surroundings<'_>, add: &mut Add<'_>) {
    const STATEMENTS: [&str; 5] = ["INSERT", "UPDATE", "DELETE", "SELECT", "WITH"];
    let (Some(before), Some(after)) = (surroundings.before, surroundings.after) else { return };
    if !tokens.first().is_some_and(|first| STATEMENTS.iter().any(|word| first.is(word))) {
        return;
    }
    let mut previous: Option<&Token<'_>> = None;
    for token in tokens {
        let is_double_quoted = token.kind == TokenKind::Quoted && token.text.starts_with('"');
        let is_alias = previous.is_some_and(|it| it.is("AS") || it.is_symbol("."));
        previous = Some(token);
        if is_double_quoted && !is_alias {
            let text = name(Some(token));
            if !before.has_name(&text) && !after.has_name(&text) {
                add(
                    "double-quoted-string",
                    format!("{} is no name here, so SQLite takes it for a text", token.text),
                    "write texts in single quotes",
                );
            }
        }
    }
}
