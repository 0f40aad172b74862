//! Scripts that name a project's schema by a fixed name, such as `public` in every dump of a single database.
//!
//! The name is removed, so that the `search_path` decides. Strings and comments stay as they are, but for strings that are
//! the name of an object: `'public.notes'::regclass`, and the argument of `nextval`, `currval` and `setval`.

use super::{Dialect, Token, TokenKind, Unclosed, tokens};

/// Removes a schema's name where it stands before the name of an object. Lines stay the same.
pub(crate) fn remove(script: &str, schema: &str) -> Result<String, Unclosed> {
    let found = tokens(script, Dialect::Postgres)?;
    let mut text = String::with_capacity(script.len());
    let mut copied = 0;
    for (index, token) in found.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| found.get(index));
        let after = found.get(index + 1);
        if is_schema(token, schema)
            && after.is_some_and(|after| after.is_symbol("."))
            && before.is_none_or(|before| !before.is_symbol("."))
        {
            let end = after.map_or(token.start, |after| after.start + after.text.len());
            text.push_str(&script[copied..token.start]);
            // White space and comments may stand between the name and the dot.
            text.extend(script[token.start..end].matches('\n'));
            copied = end;
        } else if let Some(name) = object_name(token, schema)
            && is_name_of_object(&found, index)
        {
            text.push_str(&script[copied..token.start]);
            text.push_str(&name);
            copied = token.start + token.text.len();
        }
    }
    text.push_str(&script[copied..]);
    Ok(text)
}

/// Whether a statement is part of what `pg_dump` writes about the schema itself, which each project already has: its
/// creation, its owner and comment, and the `search_path`.
pub(crate) fn is_preamble(statement: &str, schema: &str) -> bool {
    let Ok(found) = tokens(statement, Dialect::Postgres) else { return false };
    let is = |index: usize, word: &str| found.get(index).is_some_and(|token| token.is(word));
    let names_schema = |index: usize| found.get(index).is_some_and(|token| is_schema(token, schema));
    let creates = is(0, "CREATE") && is(1, "SCHEMA") && (names_schema(2) || (is(2, "IF") && names_schema(5)));
    let owns = is(0, "ALTER") && is(1, "SCHEMA") && names_schema(2) && is(3, "OWNER");
    let comments = is(0, "COMMENT") && is(1, "ON") && is(2, "SCHEMA") && names_schema(3);
    let sets_path =
        is(0, "SET") && is(1, "search_path") && found.iter().any(|token| is_schema(token, schema));
    let clears_path = is(0, "SELECT")
        && found.iter().any(|token| token.is("set_config"))
        && found.iter().any(|token| token.text == "'search_path'")
        && found.iter().any(|token| token.text == "''");
    creates || owns || comments || sets_path || clears_path
}

fn is_schema(token: &Token<'_>, schema: &str) -> bool {
    match token.kind {
        TokenKind::Word => token.text.to_lowercase() == schema,
        TokenKind::Quoted => token.name().as_deref() == Some(schema),
        _ => false,
    }
}

/// Returns a string without the schema, if it is the name of an object in the schema.
fn object_name(token: &Token<'_>, schema: &str) -> Option<String> {
    let inner = token.text.strip_prefix('\'')?.strip_suffix('\'')?;
    let rest = inner.strip_prefix(schema).or_else(|| inner.strip_prefix(&format!("\"{schema}\"")))?;
    (token.kind == TokenKind::Text).then(|| rest.strip_prefix('.').map(|name| format!("'{name}'")))?
}

/// Whether the string at an index is used as the name of an object.
fn is_name_of_object(found: &[Token<'_>], index: usize) -> bool {
    let at = |index: Option<usize>| index.and_then(|index| found.get(index));
    let is_cast = at(index.checked_add(1)).is_some_and(|token| token.is_symbol("::"))
        && at(index.checked_add(2)).is_some_and(|token| token.is("regclass"));
    let is_argument = at(index.checked_sub(1)).is_some_and(|token| token.is_symbol("("))
        && at(index.checked_sub(2))
            .is_some_and(|token| ["nextval", "currval", "setval"].iter().any(|name| token.is(name)));
    is_cast || is_argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_schema_before_a_name_is_removed() {
        for (script, expected) in [
            ("CREATE TABLE public.notes (id int);", "CREATE TABLE notes (id int);"),
            ("SELECT public . notes.id", "SELECT  notes.id"),
            ("SELECT \"public\".\"Notes\"", "SELECT \"Notes\""),
            ("SELECT PUBLIC.x", "SELECT x"),
            ("SELECT \"PUBLIC\".x", "SELECT \"PUBLIC\".x"),
            ("SELECT shop.public.notes", "SELECT shop.public.notes"),
            ("SELECT t.public, public FROM t", "SELECT t.public, public FROM t"),
            (
                "SELECT 'public.x', $$public.x$$ -- public.x\n",
                "SELECT 'public.x', $$public.x$$ -- public.x\n",
            ),
            ("SELECT nextval('public.s'::regclass)", "SELECT nextval('s'::regclass)"),
            ("SELECT pg_catalog.setval('public.s', 3, true)", "SELECT pg_catalog.setval('s', 3, true)"),
            ("SELECT public\n-- here\n.x", "SELECT \n\nx"),
            ("SELECT publicity.x", "SELECT publicity.x"),
        ] {
            assert_eq!(remove(script, "public").unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn what_a_dump_says_of_the_schema_itself_is_known() {
        for statement in [
            "CREATE SCHEMA public",
            "CREATE SCHEMA IF NOT EXISTS public",
            "ALTER SCHEMA public OWNER TO postgres",
            "COMMENT ON SCHEMA public IS 'standard public schema'",
            "SELECT pg_catalog.set_config('search_path', '', false)",
            "SET search_path = public, pg_catalog",
        ] {
            assert!(is_preamble(statement, "public"), "{statement}");
        }
        for statement in [
            "CREATE SCHEMA other",
            "SELECT pg_catalog.set_config('search_path', 'other', false)",
            "SET search_path = other",
            "GRANT USAGE ON SCHEMA public TO app",
            "CREATE TABLE public (id int)",
        ] {
            assert!(!is_preamble(statement, "public"), "{statement}");
        }
    }
}
