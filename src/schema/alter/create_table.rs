//! The parts of a `CREATE TABLE` statement, as it is written.

use super::super::expression::{bracket_length, split_commas};
use crate::sql::{Dialect, Token, TokenKind, quote_name, tokens};

/// A `CREATE TABLE` statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CreateTable {
    /// What stands before the name, such as `CREATE UNLOGGED TABLE`.
    pub(super) head: String,
    /// The name as written.
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// The constraints that are not part of a column.
    pub(super) constraints: Vec<String>,
    /// What stands behind the closing parenthesis.
    pub(super) options: String,
}

/// A column of a `CREATE TABLE` statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name for use in statements.
    pub(super) name: String,
    /// Its name in lower case and without quotes.
    pub(super) key: String,
    /// Its whole definition, which begins with the name.
    pub(super) sql: String,
}

impl CreateTable {
    /// Parses a statement. `None` if it does not list columns.
    pub(super) fn parse(sql: &str, dialect: Dialect) -> Option<Self> {
        let tokens = tokens(sql, dialect).ok()?;
        let open = tokens.iter().position(|token| token.is_symbol("("))?;
        let length = bracket_length(&tokens[open..])?;
        let name = tokens.get(open.checked_sub(1)?)?;
        let text = |tokens: &[Token<'_>]| match (tokens.first(), tokens.last()) {
            (Some(first), Some(last)) => sql[first.start..last.start + last.text.len()].to_string(),
            _ => String::new(),
        };
        let items = split_commas(&tokens[open + 1..open + length - 1]);
        let (mut columns, mut constraints) = (Vec::new(), Vec::new());
        for item in items.into_iter().filter(|item| !item.is_empty()) {
            if starts_constraint(&item[0]) {
                constraints.push(text(item));
            } else {
                let key = item[0].name()?.to_lowercase();
                columns.push(Column { name: spelled(&item[0]), key, sql: text(item) });
            }
        }
        let options = text(&tokens[open + length..]);
        Some(Self { head: text(&tokens[..open - 1]), name: spelled(name), columns, constraints, options })
    }

    /// The column with this name in lower case.
    pub(super) fn column(&self, key: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.key == key)
    }

    /// The statement with another name.
    pub(super) fn sql_as(&self, name: &str) -> String {
        let columns = self.columns.iter().map(|column| &column.sql);
        let items: Vec<String> = columns.chain(&self.constraints).map(|item| format!("    {item}")).collect();
        let options = if self.options.is_empty() { String::new() } else { format!(" {}", self.options) };
        format!("{} {name} (\n{}\n){options}", self.head, items.join(",\n"))
    }
}

fn starts_constraint(token: &Token<'_>) -> bool {
    const WORDS: [&str; 6] = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE"];
    WORDS.iter().any(|word| token.is(word))
}

/// A name as written. One in quotes that are not standard gets those of the standard.
pub(super) fn spelled(token: &Token<'_>) -> String {
    match token.kind {
        TokenKind::Word => token.text.to_string(),
        _ => quote_name(&token.name().unwrap_or_default()),
    }
}
