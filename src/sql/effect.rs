//! What a statement may do to rows that exist, by its words and, on Postgres, by a parse.
//!
//! What is not known to be harmless is taken to delete: then rows are counted before and after, which costs time and nothing else.

use squawk_syntax::{SourceFile, SyntaxKind};

use super::{Dialect, Token, TokenKind};

/// What a statement may do to rows that exist, from harmless to most dangerous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Effect {
    /// Defines something; no row is touched.
    Defines,
    /// Writes rows; it deletes none itself, but a trigger or a conflict rule of the schema may.
    Writes,
    /// May delete rows.
    Deletes,
    /// Drops a table: with foreign keys enforced, this deletes the rows of its children.
    DropsTable,
}

/// The functions of Postgres that are known to delete nothing, whatever they are given. Any other may be somebody's own, those of
/// extensions among them.
const HARMLESS: &str = "abs age array_agg array_append array_length array_position array_remove array_to_string avg bool_and \
     bool_or btrim cardinality ceil char_length chr clock_timestamp coalesce concat concat_ws count \
     current_setting currval date_part date_trunc decode dense_rank encode extract first_value floor format \
     gen_random_uuid generate_series greatest initcap json_agg json_build_object jsonb_agg jsonb_array_elements \
     jsonb_array_elements_text jsonb_build_array jsonb_build_object jsonb_set jsonb_typeof lag last_value lead \
     least left length lower lpad ltrim make_interval max md5 min mod nextval now nullif octet_length overlay \
     position power random rank regexp_match regexp_replace regexp_split_to_array repeat replace reverse right \
     round row row_number rpad rtrim setval sha256 split_part statement_timestamp string_agg string_to_array \
     strpos substr substring sum to_char to_jsonb to_timestamp trim";

/// What a statement may do to rows.
pub(super) fn effect(sql: &str, found: &[Token<'_>], dialect: Dialect) -> Effect {
    let first = &found[0];
    if first.is("DROP") && found.get(1).is_some_and(|token| token.is("TABLE")) {
        return Effect::DropsTable;
    }
    match dialect {
        Dialect::Sqlite => in_sqlite(found),
        Dialect::Postgres => in_postgres(sql, found),
    }
}

/// Whether a token is one of these words.
fn is_any(token: &Token<'_>, words: &str) -> bool {
    words.split_whitespace().any(|word| token.is(word))
}

/// A function of SQLite deletes nothing; a module of a virtual table may do anything.
fn in_sqlite(found: &[Token<'_>]) -> Effect {
    const DEFINES: &str =
        "ALTER ANALYZE BEGIN COMMIT CREATE DROP END EXPLAIN REINDEX RELEASE ROLLBACK SAVEPOINT VACUUM";
    let first = &found[0];
    if is_any(first, "INSERT UPDATE WITH") {
        // A search index takes its commands as a row's values.
        let is_command = found.windows(3).any(|it| {
            it[1].is_symbol("(")
                && it[0]
                    .name()
                    .zip(it[2].name())
                    .is_some_and(|(table, column)| table.eq_ignore_ascii_case(&column))
        });
        return if is_command || deletes_or_replaces(found) { Effect::Deletes } else { Effect::Writes };
    }
    if is_any(first, "SELECT VALUES PRAGMA") {
        return Effect::Writes;
    }
    let is_virtual = first.is("CREATE") && found.get(1).is_some_and(|token| token.is("VIRTUAL"));
    if is_any(first, DEFINES) && !is_virtual { Effect::Defines } else { Effect::Deletes }
}

fn in_postgres(sql: &str, found: &[Token<'_>]) -> Effect {
    /// What these make is not run by making it.
    const MADE: &str = "AGGREGATE CAST COLLATION CONSTRAINT CONVERSION DOMAIN EXTENSION FUNCTION OPERATOR POLICY PROCEDURE RULE \
         SCHEMA SEQUENCE STATISTICS TEXT TRANSFORM TRIGGER TYPE VIEW";
    const HARMLESS_VERBS: &str = "ABORT ANALYZE BEGIN CLOSE COMMENT COMMIT DROP END GRANT LISTEN LOCK NOTIFY RELEASE RESET REVOKE \
         ROLLBACK SAVEPOINT SET SHOW START";
    const MODIFIERS: &str =
        "CONCURRENTLY GLOBAL LOCAL ONLY OR RECURSIVE REPLACE TEMP TEMPORARY UNIQUE UNLOGGED";
    let first = &found[0];
    let has = |word: &str| found.iter().any(|token| token.is(word));
    if is_any(first, HARMLESS_VERBS) {
        return Effect::Defines;
    }
    if first.is("EXPLAIN") {
        // Without ANALYZE, which may stand in brackets, it runs nothing.
        return if has("ANALYZE") || has("ANALYSE") { Effect::Deletes } else { Effect::Defines };
    }
    if first.is("CREATE") {
        let kind = found.iter().skip(1).find(|token| !is_any(token, MODIFIERS));
        let is_table = kind.is_some_and(|kind| kind.is("TABLE"));
        let is_of_query = kind.is_some_and(|kind| kind.is("MATERIALIZED")) || (is_table && has("AS"));
        let is_index = kind.is_some_and(|kind| kind.is("INDEX"));
        return match kind {
            _ if is_of_query => evaluates(sql, found, Effect::Writes),
            _ if is_index => evaluates(sql, found, Effect::Defines),
            // A default is run once there are rows.
            Some(_) if is_table => Effect::Defines,
            Some(kind) if is_any(kind, MADE) => Effect::Defines,
            _ => Effect::Deletes,
        };
    }
    // What an ALTER runs of conditions and defaults need not stand in it.
    if first.is("ALTER") {
        return evaluates(sql, found, Effect::Writes);
    }
    if is_any(first, "INSERT UPDATE MERGE WITH VALUES TABLE") {
        return evaluates(sql, found, Effect::Writes);
    }
    Effect::Deletes
}

/// The effect of a statement that runs expressions: what it is where they are harmless.
fn evaluates(sql: &str, found: &[Token<'_>], otherwise: Effect) -> Effect {
    if deletes_or_replaces(found) {
        return Effect::Deletes;
    }
    if !found.iter().any(|token| token.is_symbol("(")) {
        return otherwise;
    }
    let parsed = SourceFile::parse(sql);
    let is_own = |call: squawk_syntax::SyntaxNode| {
        let name = call.children().next().map(|name| name.text().to_string()).unwrap_or_default();
        let name = name.trim().to_ascii_lowercase();
        let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
        !HARMLESS.split_whitespace().any(|it| it == name)
    };
    let calls_own =
        parsed.syntax_node().descendants().filter(|node| node.kind() == SyntaxKind::CALL_EXPR).any(is_own);
    if !parsed.errors().is_empty() || calls_own { Effect::Deletes } else { otherwise }
}

/// Whether a `CREATE` makes writes that come after it delete rows.
pub(super) fn arms(tokens: &[Token<'_>], dialect: Dialect) -> bool {
    let kinds = |word: &str| tokens.iter().take(4).any(|token| token.is(word));
    match dialect {
        Dialect::Sqlite => deletes_or_replaces(tokens),
        Dialect::Postgres if kinds("TRIGGER") || kinds("RULE") => true,
        Dialect::Postgres => {
            // Its body is a text, or stands there as it is.
            (kinds("FUNCTION") || kinds("PROCEDURE"))
                && tokens
                    .iter()
                    .any(|token| token.kind != TokenKind::Symbol && may_delete_in_a_body(token.text))
        }
    }
}

/// Whether the text of a function may delete rows, by its words: it may say so itself, or run what nobody sees here.
pub(crate) fn may_delete_in_a_body(body: &str) -> bool {
    const WORDS: [&str; 6] = ["delete", "truncate", "execute", "perform", "merge", "call"];
    let words = body.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_'));
    words.into_iter().any(|word| WORDS.iter().any(|harmful| word.eq_ignore_ascii_case(harmful)))
}

/// Whether a statement has a word by which rows are deleted: `ON DELETE` of a foreign key is none, it acts only where
/// something else deletes.
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
