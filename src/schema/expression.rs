//! The canonical spelling of SQL fragments: one text for all spellings of the same expression.
//!
//! Removes only white space, comments, quotes around plain names, letter case and redundant outer brackets. Does not
//! reorder or compute: `a = 1 AND b = 2` and `b = 2 AND a = 1` stay different.

use crate::sql::{Token, TokenKind};

/// The words that SQLite accepts as a name only in quotes, so that `"order"` and `order` stay different.
const RESERVED: [&str; 50] = [
    "add",
    "all",
    "alter",
    "and",
    "as",
    "autoincrement",
    "between",
    "case",
    "check",
    "collate",
    "commit",
    "constraint",
    "create",
    "default",
    "deferrable",
    "delete",
    "distinct",
    "drop",
    "else",
    "escape",
    "exists",
    "foreign",
    "from",
    "group",
    "having",
    "in",
    "index",
    "insert",
    "into",
    "is",
    "isnull",
    "join",
    "limit",
    "not",
    "notnull",
    "null",
    "on",
    "or",
    "order",
    "primary",
    "references",
    "select",
    "set",
    "table",
    "then",
    "to",
    "union",
    "unique",
    "values",
    "where",
];

/// Returns a name in canonical spelling: lower case, quoted only if necessary.
pub(super) fn name(token: &Token<'_>) -> String {
    spell_name(&token.name().unwrap_or_else(|| token.text.to_string()), token.kind == TokenKind::Word)
}

/// Returns the canonical spelling of a name that is given without quotes.
pub(super) fn canonical_name(name: &str) -> String {
    spell_name(name, false)
}

fn spell_name(name: &str, bare: bool) -> String {
    let lower = name.to_ascii_lowercase();
    let plain = !lower.is_empty()
        && !lower.as_bytes()[0].is_ascii_digit()
        && lower.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80)
        && !RESERVED.contains(&lower.as_str());
    if bare || plain { lower } else { crate::sql::quote_name(&lower) }
}

/// Returns an expression in canonical spelling, without outer brackets.
///
/// SQLite reads a double-quoted word as a string if it is not a column. Pass `columns` to decide which it is.
pub(super) fn expression(tokens: &[Token<'_>], columns: Option<&[String]>) -> String {
    let mut text = String::new();
    for token in strip_brackets(tokens) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&spell(token, columns));
    }
    text
}

fn spell(token: &Token<'_>, columns: Option<&[String]>) -> String {
    match token.kind {
        TokenKind::Word | TokenKind::Blob | TokenKind::Number => token.text.to_ascii_lowercase(),
        TokenKind::Quoted => {
            let inner = token.name().unwrap_or_default();
            let is_string = token.text.starts_with('"')
                && columns.is_some_and(|columns| !columns.contains(&spell_name(&inner, false)));
            if is_string { format!("'{}'", inner.replace('\'', "''")) } else { spell_name(&inner, false) }
        }
        TokenKind::Symbol if token.text == "==" => "=".into(),
        TokenKind::Symbol if token.text == "<>" => "!=".into(),
        TokenKind::Text | TokenKind::Parameter | TokenKind::Symbol => token.text.to_string(),
    }
}

/// Removes outer brackets: `((a))` becomes `a`; `(a) + (b)` is unchanged.
fn strip_brackets<'a, 'b>(mut tokens: &'a [Token<'b>]) -> &'a [Token<'b>] {
    while tokens.first().is_some_and(|token| token.is_symbol("("))
        && bracket_length(tokens) == Some(tokens.len())
    {
        tokens = &tokens[1..tokens.len() - 1];
    }
    tokens
}

/// Returns the number of tokens from an opening bracket to its closing one, inclusive.
pub(super) fn bracket_length(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        if token.is_symbol("(") {
            depth += 1;
        } else if token.is_symbol(")") {
            depth = depth.checked_sub(1)?;
        }
        if depth == 0 {
            return (index > 0).then_some(index + 1);
        }
    }
    None
}

/// Splits at the commas outside brackets.
pub(super) fn split_commas<'a, 'b>(tokens: &'a [Token<'b>]) -> Vec<&'a [Token<'b>]> {
    let mut depth = 0_i32;
    tokens
        .split(|token| {
            depth += i32::from(token.is_symbol("(")) - i32::from(token.is_symbol(")"));
            depth == 0 && token.is_symbol(",")
        })
        .collect()
}
