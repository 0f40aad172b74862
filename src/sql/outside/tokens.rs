//! What the words of a statement say of where it reaches: what lies in no schema, and what is in blocks, which no parser reads.

use super::OutsideReference;
use crate::sql::{Dialect, Token, TokenKind, tokens};

/// The same for the body of a `DO`: what its words say, also those that it executes as text.
pub(super) fn block(found: &[Token<'_>]) -> Option<OutsideReference> {
    // The language may be a text as well.
    found.iter().filter(|token| token.kind == TokenKind::Text).find_map(|token| body_of(token.text))
}

fn body_of(literal: &str) -> Option<OutsideReference> {
    let inner = unquoted(literal);
    let found = tokens(&inner, Dialect::Postgres).ok()?;
    if let Some(catalog) = every_project(&found) {
        return Some(catalog);
    }
    let is_start = |index: usize| {
        index == 0
            || found[index - 1].is_symbol(";")
            || ["BEGIN", "THEN", "ELSE", "LOOP"].iter().any(|word| found[index - 1].is(word))
    };
    for (index, token) in found.iter().enumerate() {
        let rest = &found[index..];
        let end = rest.iter().position(|token| token.is_symbol(";")).unwrap_or(rest.len());
        if is_start(index)
            && let Some(elsewhere) = database(&rest[..end]).or_else(|| qualified(&rest[..end]))
        {
            return Some(elsewhere);
        }
        if token.is("EXECUTE")
            && let Some(text) = rest[1..end].iter().find(|token| token.kind == TokenKind::Text)
        {
            let executed = unquoted(text.text);
            let executed = tokens(&executed, Dialect::Postgres).unwrap_or_default();
            if !executed.is_empty()
                && let Some(elsewhere) = database(&executed).or_else(|| qualified(&executed))
            {
                return Some(elsewhere);
            }
        }
    }
    None
}

/// The text of a string in any of its forms.
fn unquoted(literal: &str) -> String {
    if let Some(rest) = literal.strip_prefix('$')
        && let Some(tag) = rest.find('$')
    {
        return rest[tag + 1..rest.len() - tag - 2].to_string();
    }
    let inner = literal.trim_start_matches(['e', 'E']);
    let inner = inner.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(inner);
    inner.replace("''", "'")
}

/// A statement about something that does not lie in a schema.
pub(super) fn database(found: &[Token<'_>]) -> Option<OutsideReference> {
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
    let word = |index: usize, word: &str| found.get(index).is_some_and(|token| token.is(word));
    let has = |word: &str| found.iter().any(|token| token.is(word));
    let after = |word: &str| found.iter().position(|token| token.is(word)).and_then(|at| found.get(at + 1));
    let of = |what: &'static str| Some(OutsideReference::Database(what));
    let verb = found.first()?;
    // `format('... SCHEMA %I ...', current_schema())`: which one it is, the server says.
    let is_filled_in = after("SCHEMA").is_some_and(|token| token.is_symbol("%"));
    if ["CREATE", "DROP", "ALTER", "COMMENT"].iter().any(|it| verb.is(it)) {
        if verb.is("ALTER") && word(1, "DEFAULT") && word(2, "PRIVILEGES") {
            return if is_filled_in {
                None
            } else if has("SCHEMA") {
                of("a grant on a schema by its name")
            } else {
                of("ALTER DEFAULT PRIVILEGES")
            };
        }
        let moved = found.windows(3).find(|it| verb.is("ALTER") && it[0].is("SET") && it[1].is("SCHEMA"));
        if let Some(moved) = moved {
            return Some(OutsideReference::Schema(moved[2].text.to_string()));
        }
        let skip = if verb.is("COMMENT") { 2 } else { 1 };
        let kind = found.iter().skip(skip).position(|token| !MODIFIERS.iter().any(|it| token.is(it)))? + skip;
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
            let is_placed = verb.is("CREATE") && after("SCHEMA").is_some();
            return if is_placed { None } else { Some(OutsideReference::Extension) };
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
        if is_filled_in {
            return None;
        }
        if found.windows(2).any(|pair| pair[0].is("IN") && pair[1].is("SCHEMA")) {
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
        return of("REINDEX of more than a table");
    }
    None
}

/// What changes the rest of a script's session.
pub(super) fn session(found: &[Token<'_>]) -> Option<OutsideReference> {
    const PLACES: [&str; 5] = ["search_path", "SCHEMA", "ROLE", "AUTHORIZATION", "ALL"];
    let first = &found[0];
    if (first.is("SET") || first.is("RESET")) && !found.get(1).is_some_and(|token| token.is("CONSTRAINTS")) {
        let place = |token: &Token<'_>| PLACES.into_iter().find(|place| token.is(place));
        return found.iter().take(4).find_map(place).map(OutsideReference::Session);
    }
    // A prepared statement outlasts its transaction, and would be in the next project's way.
    ["DISCARD", "COPY", "PREPARE", "EXECUTE", "DEALLOCATE"]
        .into_iter()
        .find(|word| first.is(word))
        .map(OutsideReference::Session)
}

fn is_word(token: Option<&Token<'_>>, words: &[&str]) -> bool {
    token.is_some_and(|token| words.iter().any(|word| token.is(word)))
}

/// A name with a schema's before it, where a statement creates, changes or writes what it names; as far as words tell, for what
/// the parser does not know and for the statements of a block.
pub(super) fn qualified(found: &[Token<'_>]) -> Option<OutsideReference> {
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
    let first = found.first();
    let kind = found.iter().take(6).position(|token| KINDS.iter().any(|kind| token.is(kind)));
    let at = |word: &str| found.iter().position(|token| token.is(word)).map(|at| at + 1);
    let mut places = Vec::new();
    if is_word(first, &["CREATE", "ALTER", "DROP", "COMMENT"]) {
        places.extend(kind.map(|kind| kind + 1));
        if kind.is_some_and(|kind| is_word(found.get(kind), &ON_A_TABLE)) {
            places.extend(at("ON"));
        }
        let references = found.iter().enumerate().filter(|(_, token)| token.is("REFERENCES"));
        places.extend(references.map(|(index, _)| index + 1));
    } else if is_word(first, &["INSERT", "MERGE"]) {
        places.extend(at("INTO"));
    } else if is_word(first, &["DELETE"]) {
        places.extend(at("FROM"));
    } else if is_word(first, &["UPDATE", "TRUNCATE", "LOCK", "REFRESH", "REINDEX", "CLUSTER"]) {
        places.push(1);
    } else if is_word(first, &["GRANT", "REVOKE"]) {
        places.extend(at("ON"));
    }
    places.into_iter().find_map(|place| name_at(&found[place.min(found.len())..]))
}

/// The name that comes next, where it has a schema's before it.
fn name_at(rest: &[Token<'_>]) -> Option<OutsideReference> {
    const BETWEEN: [&str; 9] =
        ["IF", "NOT", "EXISTS", "ONLY", "TABLE", "CONCURRENTLY", "MATERIALIZED", "VIEW", "INDEX"];
    let rest = &rest[rest.iter().take_while(|token| BETWEEN.iter().any(|word| token.is(word))).count()..];
    let is_name = |token: &Token<'_>| matches!(token.kind, TokenKind::Word | TokenKind::Quoted);
    match rest {
        [schema, dot, name, ..] if is_name(schema) && dot.is_symbol(".") && is_name(name) => {
            Some(OutsideReference::Schema(format!("{}.{}", schema.text, name.text)))
        }
        _ => None,
    }
}

/// A catalog that is read without saying of which schema.
pub(super) fn every_project(found: &[Token<'_>]) -> Option<OutsideReference> {
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
    // Each says of which schema something is, or finds it by the search_path.
    const SCHEMAS: [&str; 30] = [
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
    let catalog = found.iter().find(|token| is(token, &CATALOGS))?;
    if found.iter().any(|token| is(token, &SCHEMAS)) {
        return None;
    }
    Some(OutsideReference::EveryProject(catalog.text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_is_told_where_it_is_written_and_not_where_it_is_used() {
        let of = |sql: &str| qualified(&tokens(sql, Dialect::Postgres).unwrap());
        for sql in [
            "CREATE TABLE IF NOT EXISTS public.a (b int)",
            "DROP TABLE IF EXISTS public.a",
            "CREATE UNIQUE INDEX CONCURRENTLY i ON public.t (a)",
            "ALTER TABLE ONLY public.t ADD a int",
            "CREATE TRIGGER t BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION f()",
            "ALTER TABLE t ADD a int REFERENCES public.p",
            "INSERT INTO public.t VALUES (1)",
            "DELETE FROM ONLY public.t",
            "UPDATE ONLY public.t SET a = 1",
            "TRUNCATE TABLE public.t",
        ] {
            assert!(of(sql).is_some(), "{sql}");
        }
        for sql in [
            "ALTER TABLE t ALTER a TYPE public.citext",
            "CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION public.f()",
            "SELECT count(*) INTO found.total FROM t",
            "UPDATE t SET a = u.a FROM public.u WHERE EXISTS (SELECT FROM public.v)",
            "INSERT INTO t SELECT u.a FROM u JOIN v ON u.id = v.id",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }
}
