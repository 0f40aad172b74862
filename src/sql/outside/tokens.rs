//! Finds references outside the project's schema by tokens alone: to things that belong to no schema, in the bodies of
//! `DO` blocks, and in statements that the parser does not know.

use super::OutsideReference;
use crate::sql::{Dialect, Token, TokenKind, tokens};

/// Returns the first reference in the body of a `DO` block, including those in strings that the block executes.
pub(super) fn find_in_block(tokens: &[Token<'_>]) -> Option<OutsideReference> {
    // Every string is checked, since the language can be written as a string, too.
    tokens.iter().filter(|token| token.kind == TokenKind::Text).find_map(|token| in_body(token.text))
}

fn in_body(literal: &str) -> Option<OutsideReference> {
    let body = unquoted(literal);
    let body_tokens = tokens(&body, Dialect::Postgres).ok()?;
    if let Some(catalog) = unfiltered_catalog(&body_tokens) {
        return Some(catalog);
    }
    let is_start = |index: usize| {
        index == 0
            || body_tokens[index - 1].is_symbol(";")
            || ["BEGIN", "THEN", "ELSE", "LOOP"].iter().any(|word| body_tokens[index - 1].is(word))
    };
    for (index, token) in body_tokens.iter().enumerate() {
        let remaining = &body_tokens[index..];
        let end = remaining.iter().position(|token| token.is_symbol(";")).unwrap_or(remaining.len());
        if is_start(index)
            && let Some(outside) =
                find_database_change(&remaining[..end]).or_else(|| find_qualified_name(&remaining[..end]))
        {
            return Some(outside);
        }
        if token.is("EXECUTE")
            && let Some(text) = remaining[1..end].iter().find(|token| token.kind == TokenKind::Text)
        {
            let executed = unquoted(text.text);
            let executed = tokens(&executed, Dialect::Postgres).unwrap_or_default();
            if !executed.is_empty()
                && let Some(outside) =
                    find_database_change(&executed).or_else(|| find_qualified_name(&executed))
            {
                return Some(outside);
            }
        }
    }
    None
}

/// Returns the content of a string literal in any of its forms, without quotes.
fn unquoted(literal: &str) -> String {
    if let Some(after_dollar) = literal.strip_prefix('$')
        && let Some(tag) = after_dollar.find('$')
    {
        return after_dollar[tag + 1..after_dollar.len() - tag - 2].to_string();
    }
    let inner = literal.trim_start_matches(['e', 'E']);
    let inner = inner.strip_prefix('\'').and_then(|inner| inner.strip_suffix('\'')).unwrap_or(inner);
    inner.replace("''", "'")
}

/// Returns a reference if the statement changes something that belongs to no schema, or moves an object to another
/// schema.
pub(super) fn find_database_change(tokens: &[Token<'_>]) -> Option<OutsideReference> {
    const MODIFIERS: [&str; 6] = ["OR", "REPLACE", "TRUSTED", "PROCEDURAL", "DEFAULT", "UNLOGGED"];
    const PLAIN: [(&str, &str); 14] = [
        ("ROLE", "ROLE"),
        ("USER", "USER"),
        ("GROUP", "GROUP"),
        ("PUBLICATION", "PUBLICATION"),
        ("SUBSCRIPTION", "SUBSCRIPTION"),
        ("LANGUAGE", "LANGUAGE"),
        ("SERVER", "SERVER"),
        ("CAST", "CAST"),
        ("TABLESPACE", "TABLESPACE"),
        ("DATABASE", "DATABASE"),
        ("SYSTEM", "ALTER SYSTEM"),
        ("TRANSFORM", "TRANSFORM"),
        ("SCHEMA", "SCHEMA"),
        ("OWNED", "DROP OWNED"),
    ];
    let word = |index: usize, word: &str| tokens.get(index).is_some_and(|token| token.is(word));
    let has = |word: &str| tokens.iter().any(|token| token.is(word));
    let after = |word: &str| tokens.iter().position(|token| token.is(word)).and_then(|at| tokens.get(at + 1));
    let of = |what: &'static str| Some(OutsideReference::Database(what));
    let verb = tokens.first()?;
    // The schema is inserted at run time: `format('... SCHEMA %I ...', current_schema())`. The server checks it.
    let is_formatted = after("SCHEMA").is_some_and(|token| token.is_symbol("%"));
    if ["CREATE", "DROP", "ALTER", "COMMENT"].iter().any(|it| verb.is(it)) {
        if verb.is("ALTER") && word(1, "DEFAULT") && word(2, "PRIVILEGES") {
            return if is_formatted {
                None
            } else if has("SCHEMA") {
                of("a grant on a schema by its name")
            } else {
                of("ALTER DEFAULT PRIVILEGES")
            };
        }
        let moved = tokens.windows(3).find(|it| verb.is("ALTER") && it[0].is("SET") && it[1].is("SCHEMA"));
        if let Some(moved) = moved {
            return Some(OutsideReference::Schema(moved[2].text.to_string()));
        }
        let skip = if verb.is("COMMENT") { 2 } else { 1 };
        let kind =
            tokens.iter().skip(skip).position(|token| !MODIFIERS.iter().any(|it| token.is(it)))? + skip;
        let is = |name: &str| word(kind, name);
        if let Some((_, what)) = PLAIN.iter().find(|(name, _)| is(name)) {
            return of(what);
        }
        if is("EVENT") && word(kind + 1, "TRIGGER") {
            return of("EVENT TRIGGER");
        }
        if is("ACCESS") && word(kind + 1, "METHOD") {
            return of("ACCESS METHOD");
        }
        if is("FOREIGN") && word(kind + 1, "DATA") {
            return of("FOREIGN DATA WRAPPER");
        }
        if is("EXTENSION") {
            let has_schema = verb.is("CREATE") && after("SCHEMA").is_some();
            return if has_schema { None } else { Some(OutsideReference::Extension) };
        }
        return None;
    }
    if verb.is("GRANT") || verb.is("REVOKE") {
        const KINDS: [(&str, &str); 6] = [
            ("DATABASE", "a grant on the database"),
            ("TABLESPACE", "TABLESPACE"),
            ("LANGUAGE", "LANGUAGE"),
            ("FOREIGN", "a grant on a foreign server"),
            ("PARAMETER", "a grant on a setting"),
            ("SCHEMA", "a grant on a schema by its name"),
        ];
        let Some(on) = after("ON") else { return of("a role's membership") };
        if is_formatted {
            return None;
        }
        if tokens.windows(2).any(|pair| pair[0].is("IN") && pair[1].is("SCHEMA")) {
            return of("a grant on a schema by its name");
        }
        return KINDS.iter().find(|(name, _)| on.is(name)).and_then(|(_, what)| of(what));
    }
    if verb.is("REASSIGN") {
        return of("REASSIGN OWNED");
    }
    if verb.is("IMPORT") {
        return of("IMPORT FOREIGN SCHEMA");
    }
    if verb.is("SECURITY") && word(1, "LABEL") {
        return of("SECURITY LABEL");
    }
    if verb.is("LOAD") {
        return of("LOAD");
    }
    if verb.is("REINDEX") && (has("DATABASE") || has("SYSTEM") || has("SCHEMA")) {
        return of("REINDEX of a schema, database or system");
    }
    None
}

/// Returns a reference if the statement changes the session for the rest of the script, or transfers data with `COPY`.
pub(super) fn find_session_change(tokens: &[Token<'_>]) -> Option<OutsideReference> {
    const SETTINGS: [&str; 5] = ["search_path", "SCHEMA", "ROLE", "AUTHORIZATION", "ALL"];
    let first = &tokens[0];
    if (first.is("SET") || first.is("RESET")) && !tokens.get(1).is_some_and(|token| token.is("CONSTRAINTS")) {
        let setting = |token: &Token<'_>| SETTINGS.into_iter().find(|setting| token.is(setting));
        return tokens.iter().take(4).find_map(setting).map(OutsideReference::Session);
    }
    if first.is("COPY") {
        let has = |word: &str| tokens.iter().any(|token| token.is(word));
        return Some(OutsideReference::Session(match () {
            () if has("PROGRAM") => "COPY of a program's data",
            () if has("STDIN") => "COPY FROM stdin without its rows",
            () if has("FROM") => "COPY from a file on the server",
            () => "COPY to a file or to the client",
        }));
    }
    // A prepared statement outlives its transaction, so its name would clash in the next project.
    ["DISCARD", "PREPARE", "EXECUTE", "DEALLOCATE"]
        .into_iter()
        .find(|word| first.is(word))
        .map(OutsideReference::Session)
}

fn is_word(token: Option<&Token<'_>>, words: &[&str]) -> bool {
    token.is_some_and(|token| words.iter().any(|word| token.is(word)))
}

/// Returns the first schema-qualified name of something that the statement creates, changes or writes. Checks only the
/// tokens: for statements that the parser does not know, and for those in a block.
pub(super) fn find_qualified_name(tokens: &[Token<'_>]) -> Option<OutsideReference> {
    const KINDS: [&str; 17] = [
        "TABLE",
        "VIEW",
        "TYPE",
        "DOMAIN",
        "FUNCTION",
        "PROCEDURE",
        "ROUTINE",
        "AGGREGATE",
        "SEQUENCE",
        "INDEX",
        "TRIGGER",
        "RULE",
        "POLICY",
        "STATISTICS",
        "COLLATION",
        "OPERATOR",
        "CONVERSION",
    ];
    const ON_A_TABLE: [&str; 4] = ["INDEX", "TRIGGER", "RULE", "POLICY"];
    let first = tokens.first();
    let kind = tokens.iter().take(6).position(|token| KINDS.iter().any(|kind| token.is(kind)));
    let at = |word: &str| tokens.iter().position(|token| token.is(word)).map(|at| at + 1);
    let mut name_starts = Vec::new();
    if is_word(first, &["CREATE", "ALTER", "DROP", "COMMENT"]) {
        name_starts.extend(kind.map(|kind| kind + 1));
        if kind.is_some_and(|kind| is_word(tokens.get(kind), &ON_A_TABLE)) {
            name_starts.extend(at("ON"));
        }
    } else if is_word(first, &["INSERT", "MERGE"]) {
        name_starts.extend(at("INTO"));
    } else if is_word(first, &["DELETE"]) {
        name_starts.extend(at("FROM"));
    } else if is_word(first, &["UPDATE", "TRUNCATE", "LOCK", "REFRESH", "REINDEX", "CLUSTER"]) {
        name_starts.push(1);
    } else if is_word(first, &["GRANT", "REVOKE"]) {
        name_starts.extend(at("ON"));
    }
    name_starts.into_iter().find_map(|start| name_at_start(&tokens[start.min(tokens.len())..]))
}

/// Returns the name that the tokens start with, if it is qualified with a schema.
fn name_at_start(tokens: &[Token<'_>]) -> Option<OutsideReference> {
    const SKIPPED: [&str; 9] =
        ["IF", "NOT", "EXISTS", "ONLY", "TABLE", "CONCURRENTLY", "MATERIALIZED", "VIEW", "INDEX"];
    let skipped = tokens.iter().take_while(|token| SKIPPED.iter().any(|word| token.is(word))).count();
    let is_name = |token: &Token<'_>| matches!(token.kind, TokenKind::Word | TokenKind::Quoted);
    match &tokens[skipped..] {
        [schema, dot, name, ..] if is_name(schema) && dot.is_symbol(".") && is_name(name) => {
            Some(OutsideReference::Schema(format!("{}.{}", schema.text, name.text)))
        }
        _ => None,
    }
}

/// Returns the first catalog that is read without a condition on the schema.
pub(super) fn unfiltered_catalog(tokens: &[Token<'_>]) -> Option<OutsideReference> {
    const CATALOGS: [&str; 18] = [
        "pg_type",
        "pg_class",
        "pg_tables",
        "pg_views",
        "pg_matviews",
        "pg_indexes",
        "pg_index",
        "pg_proc",
        "pg_constraint",
        "pg_trigger",
        "pg_policies",
        "pg_policy",
        "pg_sequences",
        "pg_enum",
        "pg_attribute",
        "pg_rules",
        "pg_sequence",
        "information_schema",
    ];
    // Each of these restricts a query to a schema, or looks an object up through the search_path.
    const SCHEMA_CONDITIONS: [&str; 30] = [
        "current_schema",
        "current_schemas",
        "typnamespace",
        "relnamespace",
        "connamespace",
        "pronamespace",
        "schemaname",
        "table_schema",
        "constraint_schema",
        "trigger_schema",
        "routine_schema",
        "sequence_schema",
        "event_object_schema",
        "specific_schema",
        "udt_schema",
        "view_schema",
        "domain_schema",
        "nspname",
        "regclass",
        "regtype",
        "regproc",
        "regprocedure",
        "regnamespace",
        "to_regclass",
        "to_regtype",
        "to_regproc",
        "to_regprocedure",
        "pg_table_is_visible",
        "pg_type_is_visible",
        "pg_function_is_visible",
    ];
    let is = |token: &Token<'_>, words: &[&str]| {
        token
            .name()
            .filter(|_| token.kind != TokenKind::Text)
            .is_some_and(|name| words.iter().any(|word| name.eq_ignore_ascii_case(word)))
    };
    let catalog = tokens.iter().find(|token| is(token, &CATALOGS))?;
    if tokens.iter().any(|token| is(token, &SCHEMA_CONDITIONS)) {
        return None;
    }
    Some(OutsideReference::UnfilteredCatalog(catalog.text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_is_told_where_it_is_written_and_not_where_it_is_used() {
        let of = |sql: &str| find_qualified_name(&tokens(sql, Dialect::Postgres).unwrap());
        for sql in [
            "CREATE TABLE IF NOT EXISTS public.a (b int)",
            "DROP TABLE IF EXISTS public.a",
            "CREATE UNIQUE INDEX CONCURRENTLY i ON public.t (a)",
            "ALTER TABLE ONLY public.t ADD a int",
            "CREATE TRIGGER t BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION f()",
            "INSERT INTO public.t VALUES (1)",
            "DELETE FROM ONLY public.t",
            "UPDATE ONLY public.t SET a = 1",
            "TRUNCATE TABLE public.t",
        ] {
            assert!(of(sql).is_some(), "{sql}");
        }
        for sql in [
            "ALTER TABLE t ALTER a TYPE public.citext",
            "ALTER TABLE t ADD a int REFERENCES public.p",
            "CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION public.f()",
            "SELECT count(*) INTO found.total FROM t",
            "UPDATE t SET a = u.a FROM public.u WHERE EXISTS (SELECT FROM public.v)",
            "INSERT INTO t SELECT u.a FROM u JOIN v ON u.id = v.id",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }
}
