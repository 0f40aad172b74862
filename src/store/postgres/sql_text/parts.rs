//! Splits a SQL text into parts, as `psql` reads it: statements, and the rows between them.
//!
//! Refuses statements by their keywords. This is the second line of defense; the first is the role that runs the text.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::schema::bookkeeping::is_ledger_trigger;
use crate::sql::copy::{copied_into, is_restrict_command, lines_of, row_values, rows_of};
use crate::sql::statement::first_statement_length;
use crate::sql::{Dialect, Token, TokenKind, Unclosed, leading_blank_length, line_number, tokens};

/// The keywords that a statement may begin with.
const ALLOWED: [&str; 7] = ["ALTER", "COMMENT", "COPY", "CREATE", "INSERT", "REFRESH", "SET"];
/// The kinds of objects that a privilege may be on, if it names a kind. Other kinds do not belong to a schema.
const GRANTED_ON: [&str; 9] =
    ["TABLE", "SEQUENCE", "FUNCTION", "PROCEDURE", "ROUTINE", "SCHEMA", "TYPE", "DOMAIN", "ALL"];
/// The kinds of objects that do not belong to a schema.
const NOT_IN_SCHEMA: [&str; 10] = [
    "DATABASE",
    "EVENT",
    "GROUP",
    "PUBLICATION",
    "ROLE",
    "SERVER",
    "SUBSCRIPTION",
    "SYSTEM",
    "TABLESPACE",
    "USER",
];
/// The first and the last comment in the output of `pg_dump`.
const DUMP_BEGINS: &str = "-- PostgreSQL database dump";
const DUMP_ENDS: &str = "-- PostgreSQL database dump complete";

/// Parses a whole text. Fails with `Usage` if it is truncated, or if it contains anything that is not part of a schema.
pub(super) fn parts<'a>(text: &'a str, path: &Path) -> Result<Vec<Part<'a>>> {
    if let Some(at) = text.find('\0') {
        let line = line_number(text[..at].matches('\n').count() + 1);
        return Err(Error::new(ErrorKind::Usage, "it contains a NUL character").at(path, line));
    }
    // Trailing white space is ignored, because a conversion may have changed the line endings.
    let is_line = |wanted: &str| text.lines().any(|line| line.trim_end() == wanted);
    if is_line(DUMP_BEGINS) && !is_line(DUMP_ENDS) {
        return Err(cut_off("pg_dump's last line is missing", text.lines().count(), path));
    }
    let mut parts = Vec::new();
    let mut rest = Remaining { text, line: 1 };
    while !rest.text.is_empty() {
        parts.push(next_part(&mut rest, path)?);
    }
    Ok(parts)
}

/// Whether a statement only sets an owner or changes privileges. Such a statement runs with tenantry's own privileges.
pub(super) fn is_access(sql: &str) -> bool {
    let found = tokens(sql, Dialect::Postgres).unwrap_or_default();
    match found.as_slice() {
        [first, ..] if first.is("GRANT") || first.is("REVOKE") => true,
        [first, second, ..] if first.is("ALTER") && second.is("DEFAULT") => true,
        [first, kind @ .., owner, to, _] if first.is("ALTER") => {
            owner.is("OWNER") && to.is("TO") && has_one_action(kind)
        }
        _ => false,
    }
}

/// Whether these tokens are only a kind and a name. `ALTER TABLE` takes several actions, and some of them run
/// functions.
fn has_one_action(kind_and_name: &[Token<'_>]) -> bool {
    let mut depth = 0_u32;
    kind_and_name.iter().all(|token| {
        if token.is_symbol("(") {
            depth += 1;
        } else if token.is_symbol(")") {
            depth = depth.saturating_sub(1);
        }
        // Commas in parentheses separate a function's arguments.
        !token.is_symbol(",") || depth > 0
    })
}

/// Whether a GRANT or REVOKE is about a schema or an object in it, and not about a role's membership or the server.
fn is_schema_privilege(found: &[Token<'_>]) -> bool {
    let mut after = found.iter().skip_while(|token| !token.is("ON")).skip(1);
    let (first, second) = (after.next(), after.next());
    let is_word = |token: Option<&Token<'_>>, word: &str| token.is_some_and(|token| token.is(word));
    let is_named = second.is_some_and(|it| it.kind == TokenKind::Word || it.kind == TokenKind::Quoted);
    // A table's name needs no keyword before it. It is followed by a dot, a comma, TO or FROM.
    let is_bare_table = !is_named || is_word(second, "TO") || is_word(second, "FROM");
    first.is_some() && (is_bare_table || GRANTED_ON.iter().any(|word| is_word(first, word)))
}

/// Returns the schema of a statement that creates an extension, as written. Creating an extension may need privileges
/// that the unprivileged role does not have.
pub(super) fn extension_schema(sql: &str) -> Option<String> {
    let found = tokens(sql, Dialect::Postgres).ok()?;
    let words = ["CREATE", "EXTENSION", "IF", "NOT", "EXISTS"];
    let is_extension = found.iter().zip(words).filter(|(token, word)| token.is(word)).count() == words.len();
    match found.get(words.len()..)? {
        [_, with, schema, name] if is_extension && with.is("WITH") && schema.is("SCHEMA") => {
            Some(name.text.to_string())
        }
        _ => None,
    }
}

/// The part of a text that was not read yet.
struct Remaining<'a> {
    text: &'a str,
    line: usize,
}

/// A statement, or the rows of a `COPY ... FROM stdin`.
pub(super) struct Part<'a> {
    pub(super) statement: Option<(String, usize)>,
    pub(super) copy: Option<Copy<'a>>,
}

impl<'a> Remaining<'a> {
    /// Skips bytes, and returns them.
    fn skip(&mut self, length: usize) -> &'a str {
        let (skipped, rest) = self.text.split_at(length);
        self.line += skipped.matches('\n').count();
        self.text = rest;
        skipped
    }
}

/// The rows of a `COPY`.
pub(super) struct Copy<'a> {
    /// The table with its columns, as written.
    into: String,
    rows: Vec<&'a str>,
    line: usize,
}

impl Copy<'_> {
    /// Returns the rows as `INSERT` statements, each with its line.
    pub(super) fn statements(&self) -> impl Iterator<Item = (String, usize)> {
        let insert = |(number, rows): (usize, &[&str])| {
            let values: Vec<String> = rows.iter().map(|row| format!("({})", row_values(row))).collect();
            let values = values.join(", ");
            (
                format!("INSERT INTO {} OVERRIDING SYSTEM VALUE VALUES {values}", self.into),
                self.line + number * ROWS_PER_INSERT,
            )
        };
        self.rows.chunks(ROWS_PER_INSERT).enumerate().map(insert).collect::<Vec<_>>().into_iter()
    }
}

/// How many rows one statement inserts.
const ROWS_PER_INSERT: usize = 200;

/// Reads the next statement, and the rows that follow it.
fn next_part<'a>(rest: &mut Remaining<'a>, path: &Path) -> Result<Part<'a>> {
    let started_at = rest.line;
    let failed = |unclosed: Unclosed| {
        Error::new(ErrorKind::Usage, format!("{} is never closed", unclosed.what))
            .at(path, line_number(started_at - 1).saturating_add(unclosed.line))
    };
    rest.skip(leading_blank_length(rest.text, Dialect::Postgres).map_err(failed)?);
    let nothing = Part { statement: None, copy: None };
    if rest.text.is_empty() {
        return Ok(nothing);
    }
    if rest.text.starts_with('\\') {
        let line = rest.text.lines().next().unwrap_or_default();
        if !is_restrict_command(line) {
            return Err(refused("a psql command", rest.line, path));
        }
        rest.skip(line.len());
        return Ok(nothing);
    }
    let line = rest.line;
    let (length, is_ended) = first_statement_length(rest.text, Dialect::Postgres).map_err(failed)?;
    let sql = rest.skip(length).trim_end_matches(';').to_string();
    if sql.is_empty() {
        return Ok(nothing);
    }
    if first_word(&sql) != "COPY" {
        return Ok(Part { statement: Some((permitted(&sql, line, path)?, line)), copy: None });
    }
    let into = copied_into(&sql).filter(|_| is_ended);
    let into = into.ok_or_else(|| refused("COPY from a file or a program", line, path))?;
    let (rows, after) =
        rows_of(rest.text).ok_or_else(|| cut_off("the rows of a COPY do not end", rest.line + 1, path))?;
    let first_row =
        rest.line + rest.text[..rest.text.len() - after.len() - rows.len()].matches('\n').count().min(1);
    let lines = lines_of(rows, line_number(first_row))
        .map_err(|fault| Error::new(ErrorKind::Usage, fault.message).at(path, fault.line))?;
    let copy = Copy { into, rows: lines, line: first_row };
    rest.skip(rest.text.len() - after.len());
    Ok(Part { statement: None, copy: Some(copy) })
}

/// The error for a text that ends too early.
fn cut_off(what: &str, line: usize, path: &Path) -> Error {
    Error::new(ErrorKind::Usage, format!("the file is truncated: {what}"))
        .at(path, line_number(line))
        .with_hint("create the dump again: its end is missing")
}

fn first_word(sql: &str) -> String {
    let end = sql.find(|it: char| !it.is_ascii_alphabetic()).unwrap_or(sql.len());
    sql[..end].to_ascii_uppercase()
}

fn refused(what: &str, line: usize, path: &Path) -> Error {
    Error::new(ErrorKind::Usage, format!("{what} is not allowed in an import"))
        .at(path, line_number(line))
        .with_hint("an import accepts what pg_dump --schema writes: one schema, its objects and their rows")
}

/// Returns what to run for a statement: the statement itself, or the one in a block that an export wrote. Fails if it
/// is not allowed.
fn permitted(sql: &str, line: usize, path: &Path) -> Result<String> {
    let found = tokens(sql, Dialect::Postgres)
        .map_err(|_| refused("a quote or comment that is never closed", line, path))?;
    let refuse = |what: &str| Err(refused(what, line, path));
    let words: Vec<String> = found.iter().take(4).map(|token| token.text.to_ascii_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [first, ..] if first.starts_with('\\') => refuse("a psql command"),
        ["DO", _] => {
            let inner = block_of_an_export(found[1].text).ok_or_else(|| refused("a DO block", line, path))?;
            let is_type = ["CREATE TYPE ", "CREATE DOMAIN "].iter().any(|start| inner.starts_with(start));
            if is_type { permitted(inner, line, path) } else { refuse("a DO block") }
        }
        ["SELECT", "PG_CATALOG", ".", "SET_CONFIG" | "SETVAL", ..] => {
            let is_plain = |token: &Token<'_>| {
                matches!(token.kind, TokenKind::Text | TokenKind::Number)
                    || ["true", "false", "NULL"].iter().any(|word| token.is(word))
                    || ["(", ")", ",", "-"].iter().any(|symbol| token.is_symbol(symbol))
            };
            if found[4..].iter().all(is_plain) { Ok(sql.into()) } else { refuse("a SELECT") }
        }
        [first, second, ..] if NOT_IN_SCHEMA.contains(second) && *first != "COPY" => {
            refuse(&format!("{first} {second}"))
        }
        ["CREATE", ..] if is_ledger_trigger(&found) => refuse("a trigger on a ledger"),
        ["GRANT" | "REVOKE", ..] if is_schema_privilege(&found) => Ok(sql.into()),
        [first, ..] if ALLOWED.contains(first) => Ok(sql.into()),
        [first, ..] => refuse(first),
        [] => Ok(sql.into()),
    }
}

/// Returns the statement in a block with which an export creates a type that the schema depends on.
fn block_of_an_export(block: &str) -> Option<&str> {
    let inner = block.strip_prefix("$tenantry$ BEGIN ")?;
    inner.strip_suffix("; EXCEPTION WHEN duplicate_object THEN NULL; END $tenantry$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_psql_would_run_is_refused_or_is_no_command_here() {
        let path = Path::new("x.sql");
        let statements = |text: &str| {
            let mut rest = Remaining { text, line: 1 };
            let mut all = Vec::new();
            while !rest.text.is_empty() {
                all.extend(next_part(&mut rest, path)?.statement.into_iter().map(|(sql, _)| sql));
            }
            Ok::<_, Error>(all)
        };
        for text in [
            "\\! x",
            "SELECT 1 \\g x",
            "DO $$ BEGIN END $$",
            "DO $tenantry$ BEGIN CREATE ROLE x; EXCEPTION WHEN duplicate_object THEN NULL; END $tenantry$",
            "SELECT pg_catalog.setval(lo_export(1, 'x'), 1)",
            "SELECT pg_catalog.lo_export(1, 'x')",
            "\\restrict a\n\\unrestrict a \\! x\n",
            "COPY a FROM '/etc/passwd';",
            "DROP SCHEMA a",
            "GRANT admin TO somebody",
            "REVOKE admin FROM somebody",
            "GRANT ALL ON DATABASE d TO somebody",
            "GRANT SET ON PARAMETER p TO somebody",
            "GRANT USAGE ON FOREIGN SERVER s TO somebody",
            "GRANT USAGE ON LANGUAGE l TO somebody",
            "GRANT CREATE ON TABLESPACE t TO somebody",
        ] {
            assert!(statements(text).is_err(), "{text}: {:?}", statements(text));
        }
        for text in [
            "GRANT SELECT ON t TO somebody",
            "GRANT SELECT (a, b) ON TABLE s.t TO somebody",
            "REVOKE ALL ON FUNCTION s.f(int) FROM PUBLIC",
            "GRANT SELECT ON ALL TABLES IN SCHEMA s TO somebody",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT SELECT ON TABLES TO somebody",
            "ALTER TABLE s.t OWNER TO somebody",
        ] {
            assert!(statements(text).is_ok() && is_access(text), "{text}: {:?}", statements(text));
        }
        assert!(
            statements("-- x\r\\! x\nSET a = 1;").is_err(),
            "to psql the comment ends at the carriage return"
        );
        assert!(statements("CREATE --\r ROLE evil SUPERUSER /*\n TABLE x (a int) -- */\n LOGIN;").is_err());
        assert_eq!(
            statements("\\restrict a\nSET a = '\n\\restrict b\r\n';\n\\unrestrict a\n").unwrap(),
            ["SET a = '\n\\restrict b\r\n'"]
        );
        assert_eq!(statements("SET a = E'a'\n'b\\'c';").unwrap(), ["SET a = E'a'\n'b\\'c'"]);
        let need = "DO $tenantry$ BEGIN CREATE TYPE a.b AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END $tenantry$;";
        assert_eq!(statements(need).unwrap(), ["CREATE TYPE a.b AS ENUM ('x')"]);
    }
}
