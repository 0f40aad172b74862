//! Classifies what a statement may do to existing rows, by its tokens and, on Postgres, with a parser.
//!
//! A statement that is not known to be harmless counts as deleting. Then rows are counted before and after it, which
//! only costs time.

use squawk_syntax::{SourceFile, SyntaxKind};

use super::{Dialect, Token, TokenKind};

/// What a statement may do to existing rows, from harmless to most dangerous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Effect {
    /// It defines something and touches no row.
    Defines,
    /// It writes rows. It deletes none itself, but a trigger or a conflict rule of the schema may.
    Writes,
    /// It may delete rows.
    Deletes,
    /// It drops a table. If foreign keys are enforced, this also deletes the rows of its child tables.
    DropsTable,
}

/// The Postgres functions that are known to delete nothing, whatever their arguments. Any other function may be
/// user-defined or part of an extension.
const HARMLESS: &str = "abs age array_agg array_append array_length array_position array_remove array_to_string avg bool_and \
     bool_or btrim cardinality ceil char_length chr clock_timestamp coalesce concat concat_ws count \
     current_setting currval date_part date_trunc decode dense_rank encode extract first_value floor format \
     gen_random_uuid generate_series greatest initcap json_agg json_build_object jsonb_agg jsonb_array_elements \
     jsonb_array_elements_text jsonb_build_array jsonb_build_object jsonb_set jsonb_typeof lag last_value lead \
     least left length lower lpad ltrim make_interval max md5 min mod nextval now nullif octet_length overlay \
     position power random rank regexp_match regexp_replace regexp_split_to_array repeat replace reverse right \
     round row row_number rpad rtrim setval sha256 split_part statement_timestamp string_agg string_to_array \
     strpos substr substring sum to_char to_jsonb to_timestamp trim";

/// Returns what a statement may do to existing rows.
pub(super) fn effect(sql: &str, tokens: &[Token<'_>], dialect: Dialect) -> Effect {
    let first = &tokens[0];
    if first.is("DROP") && tokens.get(1).is_some_and(|token| token.is("TABLE")) {
        return Effect::DropsTable;
    }
    match dialect {
        Dialect::Sqlite => in_sqlite(tokens),
        Dialect::Postgres => in_postgres(sql, tokens),
    }
}

/// Whether a token is one of these words.
fn is_any(token: &Token<'_>, words: &str) -> bool {
    words.split_whitespace().any(|word| token.is(word))
}

/// SQLite's functions delete nothing. The module of a virtual table may do anything.
fn in_sqlite(tokens: &[Token<'_>]) -> Effect {
    const DEFINES: &str =
        "ALTER ANALYZE BEGIN COMMIT CREATE DROP END EXPLAIN REINDEX RELEASE ROLLBACK SAVEPOINT VACUUM";
    let first = &tokens[0];
    if is_any(first, "INSERT UPDATE WITH") {
        // A full-text index takes commands as inserted values: `INSERT INTO fts(fts) VALUES (...)`.
        let is_command = tokens.windows(3).any(|it| {
            it[1].is_symbol("(")
                && it[0]
                    .name()
                    .zip(it[2].name())
                    .is_some_and(|(table, column)| table.eq_ignore_ascii_case(&column))
        });
        return if is_command || deletes_or_replaces(tokens) { Effect::Deletes } else { Effect::Writes };
    }
    if is_any(first, "SELECT VALUES PRAGMA") {
        return Effect::Writes;
    }
    let is_virtual = first.is("CREATE") && tokens.get(1).is_some_and(|token| token.is("VIRTUAL"));
    if is_any(first, DEFINES) && !is_virtual { Effect::Defines } else { Effect::Deletes }
}

fn in_postgres(sql: &str, tokens: &[Token<'_>]) -> Effect {
    /// Creating one of these does not run it.
    const NOT_RUN: &str = "AGGREGATE CAST COLLATION CONSTRAINT CONVERSION DOMAIN EXTENSION FUNCTION OPERATOR POLICY PROCEDURE RULE \
         SCHEMA SEQUENCE STATISTICS TEXT TRANSFORM TRIGGER TYPE VIEW";
    const HARMLESS_VERBS: &str = "ABORT ANALYZE BEGIN CLOSE COMMENT COMMIT DROP END GRANT LISTEN LOCK NOTIFY RELEASE RESET REVOKE \
         ROLLBACK SAVEPOINT SET SHOW START";
    const MODIFIERS: &str =
        "CONCURRENTLY GLOBAL LOCAL ONLY OR RECURSIVE REPLACE TEMP TEMPORARY UNIQUE UNLOGGED";
    let first = &tokens[0];
    let has = |word: &str| tokens.iter().any(|token| token.is(word));
    if is_any(first, HARMLESS_VERBS) {
        return Effect::Defines;
    }
    if first.is("EXPLAIN") {
        // Without ANALYZE, which can be inside parentheses, it runs nothing.
        return if has("ANALYZE") || has("ANALYSE") { Effect::Deletes } else { Effect::Defines };
    }
    if first.is("CREATE") {
        let kind = tokens.iter().skip(1).find(|token| !is_any(token, MODIFIERS));
        let is_table = kind.is_some_and(|kind| kind.is("TABLE"));
        let is_of_query = kind.is_some_and(|kind| kind.is("MATERIALIZED")) || (is_table && has("AS"));
        let is_index = kind.is_some_and(|kind| kind.is("INDEX"));
        return match kind {
            _ if is_of_query => evaluates(sql, tokens, Effect::Writes),
            _ if is_index => evaluates(sql, tokens, Effect::Defines),
            // A default runs only when rows are inserted.
            Some(_) if is_table => Effect::Defines,
            Some(kind) if is_any(kind, NOT_RUN) => Effect::Defines,
            _ => Effect::Deletes,
        };
    }
    // An ALTER can run conditions and defaults that are not in its own text, so it counts at least as a write.
    if first.is("ALTER") {
        return evaluates(sql, tokens, Effect::Writes);
    }
    if is_any(first, "INSERT UPDATE MERGE WITH VALUES TABLE") {
        return evaluates(sql, tokens, Effect::Writes);
    }
    Effect::Deletes
}

/// Returns the effect of a statement that runs expressions: `if_harmless` if none of them can delete rows.
fn evaluates(sql: &str, tokens: &[Token<'_>], if_harmless: Effect) -> Effect {
    if deletes_or_replaces(tokens) {
        return Effect::Deletes;
    }
    if !tokens.iter().any(|token| token.is_symbol("(")) {
        return if_harmless;
    }
    let parsed = SourceFile::parse(sql);
    let is_unknown = |call: squawk_syntax::SyntaxNode| {
        let name = call.children().next().map(|name| name.text().to_string()).unwrap_or_default();
        let name = name.trim().to_ascii_lowercase();
        let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
        !HARMLESS.split_whitespace().any(|it| it == name)
    };
    let calls_unknown = parsed
        .syntax_node()
        .descendants()
        .filter(|node| node.kind() == SyntaxKind::CALL_EXPR)
        .any(is_unknown);
    if !parsed.errors().is_empty() || calls_unknown { Effect::Deletes } else { if_harmless }
}

/// Whether a `CREATE` makes later writes delete rows.
pub(super) fn enables_deletes(tokens: &[Token<'_>], dialect: Dialect) -> bool {
    let kinds = |word: &str| tokens.iter().take(4).any(|token| token.is(word));
    match dialect {
        Dialect::Sqlite => deletes_or_replaces(tokens),
        Dialect::Postgres if kinds("TRIGGER") || kinds("RULE") => true,
        Dialect::Postgres => {
            // The body is a string, or plain SQL in the statement.
            (kinds("FUNCTION") || kinds("PROCEDURE"))
                && tokens.iter().any(|token| token.kind != TokenKind::Symbol && body_may_delete(token.text))
        }
    }
}

/// Whether the body of a function may delete rows, by its words: it deletes rows itself, or runs something that is not
/// visible here.
pub(crate) fn body_may_delete(body: &str) -> bool {
    const WORDS: [&str; 6] = ["delete", "truncate", "execute", "perform", "merge", "call"];
    let words = body.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_'));
    words.into_iter().any(|word| WORDS.iter().any(|harmful| word.eq_ignore_ascii_case(harmful)))
}

/// Whether a statement contains a keyword that deletes rows. `ON DELETE` of a foreign key does not count: it acts only
/// when another statement deletes.
pub(crate) fn deletes_or_replaces(tokens: &[Token<'_>]) -> bool {
    let deletes = |pair: &[Token<'_>]| pair[1].is("DELETE") && !pair[0].is("ON");
    let is_first = tokens.first().is_some_and(|first| first.is("DELETE") || first.is("REPLACE"));
    is_first || tokens.windows(2).any(|pair| deletes(pair) || pair[1].is("REPLACE"))
}

#[cfg(test)]
mod tests {
    use super::super::tokens;
    use super::*;

    fn of(sql: &str, dialect: Dialect) -> Effect {
        effect(sql, &tokens(sql, dialect).unwrap(), dialect)
    }

    #[test]
    fn what_is_not_known_to_be_harmless_deletes() {
        let is = |sql: &str, expected: Effect| {
            assert_eq!(of(sql, Dialect::Postgres), expected, "{sql}");
        };
        for sql in [
            "CREATE TABLE a AS WITH d AS (DELETE FROM notes RETURNING *) SELECT * FROM d",
            "CREATE TABLE z AS SELECT g()",
            "CREATE MATERIALIZED VIEW z AS SELECT g()",
            "EXPLAIN ANALYZE DELETE FROM notes",
            "EXPLAIN (COSTS OFF, ANALYZE) DELETE FROM notes",
            "EXECUTE p",
            "VALUES (g())",
            "INSERT INTO a VALUES (g())",
            "UPDATE a SET b = other.lower(b)",
            "ALTER TABLE a ADD COLUMN b int DEFAULT g()",
            "ALTER TABLE a ALTER b TYPE int USING g(b)",
            "CREATE INDEX i ON a (g(b))",
            "SELECT 1",
            "DO $$ BEGIN END $$",
            "CALL g()",
            "REFRESH MATERIALIZED VIEW v",
            "FROBNICATE a",
            "TRUNCATE a",
        ] {
            is(sql, Effect::Deletes);
        }
        for sql in [
            "CREATE TABLE a (b int DEFAULT g(), CHECK (g(b)))",
            "CREATE UNIQUE INDEX i ON a (lower(b)) WHERE c IN ('x', 'y')",
            "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT g()'",
            "CREATE VIEW v AS SELECT g()",
            "COMMENT ON TABLE a IS 'x'",
            "EXPLAIN SELECT 1",
        ] {
            is(sql, Effect::Defines);
        }
        for sql in [
            "INSERT INTO a (b) VALUES (now(), gen_random_uuid()) ON CONFLICT (b) DO UPDATE SET b = coalesce(a.b, 1)",
            "UPDATE a SET b = pg_catalog.lower(b)",
            "ALTER TABLE a ADD COLUMN b varchar(9) DEFAULT 'x' CHECK (length(b) < 5)",
            "ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d (e) ON DELETE CASCADE",
            "ALTER TABLE a VALIDATE CONSTRAINT c",
            "CREATE TABLE a AS SELECT count(*) FROM b",
            "WITH x AS (SELECT 1) INSERT INTO a SELECT * FROM x",
        ] {
            is(sql, Effect::Writes);
        }
        assert_eq!(of("drop table a", Dialect::Postgres), Effect::DropsTable);
    }

    #[test]
    fn a_search_index_of_sqlite_takes_commands_as_rows() {
        let is = |sql: &str, expected: Effect| assert_eq!(of(sql, Dialect::Sqlite), expected, "{sql}");
        is("INSERT INTO fts(fts) VALUES ('delete-all')", Effect::Deletes);
        is("INSERT INTO fts (fts, rank) VALUES ('x', 1)", Effect::Deletes);
        is("INSERT INTO notes (text) VALUES ('x')", Effect::Writes);
        is("CREATE VIRTUAL TABLE fts USING fts5(text)", Effect::Deletes);
        is("CREATE TABLE a (b)", Effect::Defines);
        is("ALTER TABLE a ADD b", Effect::Defines);
        is("UPDATE a SET b = 1", Effect::Writes);
        is("WITH x AS (SELECT 1) DELETE FROM a", Effect::Deletes);
        is("INSERT OR REPLACE INTO a VALUES (1)", Effect::Deletes);
        is("frobnicate", Effect::Deletes);
        is("drop table a", Effect::DropsTable);
    }
}
