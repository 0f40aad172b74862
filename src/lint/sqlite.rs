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
        alter_table(&tokens, surroundings, &mut add);
        tables(statement, migration, surroundings, &mut add);
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

/// The name that begins at a token, without quotes and without the schema's name, and how many tokens it takes. Empty if it is
/// no name.
fn name_at(tokens: &[Token<'_>], index: usize) -> (String, usize) {
    let name = |index: usize| tokens.get(index).and_then(Token::name).unwrap_or_default();
    if tokens.get(index + 1).is_some_and(|it| it.is_symbol(".")) {
        (name(index + 2), 3)
    } else {
        (name(index), 1)
    }
}

/// Whether a schema is known to have no such table.
fn is_new(table: &str, surroundings: Surroundings<'_>) -> bool {
    surroundings.before.is_some_and(|schema| !schema.tables().any(|it| it.eq_ignore_ascii_case(table)))
}

fn alter_table(tokens: &[Token<'_>], surroundings: Surroundings<'_>, add: &mut Add<'_>) {
    if !(tokens.first().is_some_and(|it| it.is("ALTER")) && tokens.get(1).is_some_and(|it| it.is("TABLE"))) {
        return;
    }
    let (table, length) = name_at(tokens, 2);
    // What the script makes has no rows, and no application knows it.
    if is_new(&table, surroundings) {
        return;
    }
    match tokens.get(2 + length) {
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
        Some(token) if token.is("ADD") => add_column(&table, &tokens[2 + length..], add),
        _ => {}
    }
}

fn add_column(table: &str, tokens: &[Token<'_>], add: &mut Add<'_>) {
    let tokens = &outside_parentheses(tokens);
    let position = |word: &str| tokens.iter().position(|token| token.is(word));
    let value = position("DEFAULT").and_then(|index| tokens.get(index + 1));
    let has_value = value.is_some_and(|value| !value.is("NULL"));
    let is_not_null = tokens.windows(2).any(|it| it[0].is("NOT") && it[1].is("NULL"));
    if is_not_null && !has_value && position("AS").is_none() {
        add(
            "add-column-not-null",
            format!("a new column of {table} is NOT NULL and has no default: it fails if {table} has rows"),
            "give it a default, or add it without NOT NULL, fill it, and rebuild the table",
        );
    }
    let is_variable =
        |token: &Token<'_>| token.text.to_ascii_uppercase().starts_with("CURRENT_") || token.is_symbol("()");
    if value.is_some_and(is_variable) || (has_value && position("REFERENCES").is_some()) {
        add(
            "add-column-default",
            format!(
                "the default of a new column of {table} is not constant, or the column references another table: it fails if \
                 {table} has rows"
            ),
            "add it without a default and fill it with UPDATE, or rebuild the table",
        );
    }
}

/// The tokens that are in no parentheses. Parentheses that call a function, or contain a name, become one token `()`; those of
/// a constant, its value.
fn outside_parentheses<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let (mut outside, mut depth, mut has_name, mut inner) = (Vec::new(), 0_u32, false, None);
    for token in tokens {
        if token.is_symbol("(") {
            depth += 1;
        } else if token.is_symbol(")") {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                let call =
                    Token { kind: TokenKind::Symbol, text: "()", start: token.start, line: token.line };
                outside.push(if has_name { call } else { inner.take().unwrap_or(call) });
                has_name = false;
            }
        } else if depth > 0 {
            has_name |= matches!(token.kind, TokenKind::Word | TokenKind::Quoted);
            inner = Some(*token);
        } else {
            outside.push(*token);
        }
    }
    outside
}

/// A table that is dropped for good. One that is dropped and made again under its name is a rebuild.
fn tables(statement: &Statement, migration: &Migration, surroundings: Surroundings<'_>, add: &mut Add<'_>) {
    let changes = || migration.up.statements().iter().flat_map(|it| &it.table_changes);
    for change in &statement.table_changes {
        let TableChange::Dropped(table) = change else { continue };
        // The name that it had before the script.
        let renamed = changes().find_map(|it| match it {
            TableChange::Renamed { from, to } if to.eq_ignore_ascii_case(table) => Some(from),
            _ => None,
        });
        let original = renamed.filter(|from| !is_new(from, surroundings)).unwrap_or(table);
        let is_there_afterwards = match surroundings.after {
            Some(after) => after.tables().any(|it| it.eq_ignore_ascii_case(original)),
            None => renamed.is_some(),
        };
        if !is_new(original, surroundings) && !is_there_afterwards {
            add(
                "drop-table",
                format!("{original} is dropped with its rows"),
                "stop using it first, and drop it in a later release; --backup keeps the rows",
            );
        }
        let (Some(before), Some(after)) = (surroundings.before, surroundings.after) else { continue };
        let lost = after.lost_columns(before, original);
        if is_there_afterwards && !lost.is_empty() {
            add(
                "drop-column",
                format!("{original} is rebuilt without {}, whose data is lost", lost.join(", ")),
                "stop using it first, and drop it in a later release; --backup keeps the data",
            );
        }
    }
}

fn unique_index(tokens: &[Token<'_>], surroundings: Surroundings<'_>, add: &mut Add<'_>) {
    let is_unique =
        tokens.first().is_some_and(|it| it.is("CREATE")) && tokens.get(1).is_some_and(|it| it.is("UNIQUE"));
    let on = tokens.iter().position(|token| token.is("ON"));
    let table = on.map(|index| name_at(tokens, index + 1).0).unwrap_or_default();
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
    let table = into.map(|index| name_at(tokens, index + 1).0).unwrap_or_default();
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
    // After these, a name is that of a table, an alias or a column.
    const BEFORE_NAMES: [&str; 9] =
        ["AS", "INTO", "FROM", "JOIN", "UPDATE", "TABLE", "WITH", "INDEXED", "COLLATE"];
    const ROW_IDS: [&str; 3] = ["rowid", "oid", "_rowid_"];
    const STATEMENTS: [&str; 5] = ["INSERT", "UPDATE", "DELETE", "SELECT", "WITH"];
    let (Some(before), Some(after)) = (surroundings.before, surroundings.after) else { return };
    if !tokens.first().is_some_and(|first| STATEMENTS.iter().any(|word| first.is(word))) {
        return;
    }
    // A table expression is named before it is used.
    let is_expression = |name: &str| {
        let named =
            |it: &[Token<'_>]| it[0].name().is_some_and(|it| it.eq_ignore_ascii_case(name)) && it[1].is("AS");
        tokens.windows(2).any(named)
    };
    let mut previous: Option<&Token<'_>> = None;
    for token in tokens {
        let is_double_quoted = token.kind == TokenKind::Quoted && token.text.starts_with('"');
        let is_name =
            previous.is_some_and(|it| it.is_symbol(".") || BEFORE_NAMES.iter().any(|word| it.is(word)));
        previous = Some(token);
        let text = token.name().unwrap_or_default();
        let is_known = || {
            ROW_IDS.iter().any(|it| text.eq_ignore_ascii_case(it))
                || before.has_name(&text)
                || after.has_name(&text)
                || is_expression(&text)
        };
        if is_double_quoted && !is_name && !is_known() {
            add(
                "double-quoted-string",
                format!("{} is no name here, so SQLite takes it for a text", token.text),
                "write texts in single quotes",
            );
        }
    }
}
