//! A schema as SQL text, as `pg_dump` writes it and `psql` reads it, and back.
//!
//! It must not let a text run anything but SQL, nor reach beyond the database of its own that it is loaded into.

use std::io::Write;
use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::PostgresStore;
use super::copy::Scratch;
use super::session::PostgresSession;
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::schema::bookkeeping::acts_on_a_ledger;
use crate::sql::statement::split;
use crate::sql::{Dialect, Token, TokenKind, Unclosed, quote_name, quote_text, tokens};
use crate::store::Loaded;

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Schemas with anything in them, but for the server's own; `public` only where it is the only one.
const SCHEMAS: &str = "SELECT nspname::text AS name FROM pg_namespace n WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' \
    AND EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid) ORDER BY nspname = 'public', nspname";

/// What a statement may begin with.
const TAKEN: [&str; 7] = ["ALTER", "COMMENT", "COPY", "CREATE", "INSERT", "REFRESH", "SET"];
/// What a privilege that is taken may be on, where it says: all else is not the schema's.
const GRANTED_ON: [&str; 9] =
    ["TABLE", "SEQUENCE", "FUNCTION", "PROCEDURE", "ROUTINE", "SCHEMA", "TYPE", "DOMAIN", "ALL"];
/// What belongs to the whole server.
const ELSEWHERE: [&str; 10] = [
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

/// Writes a schema as text.
pub(super) fn dump(store: &PostgresStore, id: &ProjectId, out: &mut dyn Write) -> Result<()> {
    let mut session = store.session(id)?;
    session.begin_reading()?;
    let (needs, access) = (session.needs()?, session.access()?);
    session.end_transaction("ROLLBACK")?;
    let name = quote_name(&store.name(id)?);
    let folder = private_folder()?;
    let file = folder.path().join("dump.sql");
    store.dump_as("--format=plain", &store.name(id)?, &file, None)?;
    let write = || -> std::io::Result<()> {
        for need in needs {
            writeln!(out, "{need};")?;
        }
        std::io::copy(&mut std::fs::File::open(&file)?, out)?;
        if !access.is_empty() {
            let path = quote_text(&name);
            writeln!(out, "SELECT pg_catalog.set_config('search_path', {path}, false);")?;
        }
        for statement in access {
            writeln!(out, "{};", statement.replace("%1$I", &name).replace("%%", "%"))?;
        }
        Ok(())
    };
    write().map_err(|error| Error::new(ErrorKind::Io, "cannot write the export").caused_by(error))
}

/// Makes a copy in the store's own form of a text, as a file that is not there yet.
///
/// `psql` is not asked to: whatever tells its commands from SQL a little differently than it does would let one through.
pub(super) fn load(store: &PostgresStore, path: &Path, into: &Path) -> Result<Loaded> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let mut parts = Vec::new();
    let mut rest = Rest { text: &text, line: 1 };
    while !rest.text.is_empty() {
        parts.push(next_part(&mut rest, path)?);
    }
    let scratch = Scratch::new(store)?;
    let own = scratch.store();
    let mut notes = Vec::new();
    {
        let mut kept = own.links.get()?;
        let connection = &mut kept.link()?.connection;
        let mut run = |sql: &str, line: usize| {
            // One at a time by the protocol that takes no second one, however the server reads it.
            diesel::sql_query(sql).execute(connection).map(|_| ()).map_err(|error| {
                super::failure::describe("a statement failed", own.target(), &error)
                    .at(path, line_number(line))
            })
        };
        run("BEGIN", 1)?;
        for part in &parts {
            for (sql, line) in &part.statements {
                if !is_access(sql) {
                    run(sql, *line)?;
                    continue;
                }
                // A role that is not here is no reason to do without the rows.
                run("SAVEPOINT tenantry_access", *line)?;
                match run(sql, *line) {
                    Err(error) if error.kind() == ErrorKind::Database => {
                        notes.push(format!("not given: {}", error.summary()));
                        run("ROLLBACK TO SAVEPOINT tenantry_access", *line)?;
                    }
                    other => other?,
                }
            }
            if let Some(copy) = &part.copy {
                copy.statements().try_for_each(|(sql, line)| run(&sql, line))?;
            }
        }
        run("COMMIT", 1)?;
    }
    let names: Vec<Name> = diesel::sql_query(SCHEMAS)
        .load(&mut own.links.get()?.link()?.connection)
        .map_err(|error| super::failure::describe("cannot see what was loaded", own.target(), &error))?;
    let names: Vec<String> = names.into_iter().map(|it| it.name).collect();
    let name = match names.as_slice() {
        [one] => one,
        [one, public] if public == "public" => one,
        [] => return Err(Error::new(ErrorKind::Usage, "there is no table in it").at(path, None)),
        several => {
            let message = format!("it has more than one schema: {}", several.join(", "));
            return Err(Error::new(ErrorKind::Usage, message)
                .at(path, None)
                .hint("export one project at a time"));
        }
    };
    own.dump(name, into, None)?;
    let mut session = PostgresSession::new(&own, own.links.get()?, name.clone());
    session.begin_reading()?;
    let access = session.access()?;
    Ok(Loaded { place: name.clone(), access, notes })
}

/// Whether a statement says who owns something or may use it.
fn is_access(sql: &str) -> bool {
    let found = tokens(sql, Dialect::Postgres).unwrap_or_default();
    let is_owner = |pair: &[Token<'_>]| pair[0].is("OWNER") && pair[1].is("TO");
    match found.as_slice() {
        [first, ..] if first.is("GRANT") || first.is("REVOKE") => true,
        [first, second, ..] if first.is("ALTER") => second.is("DEFAULT") || found.windows(2).any(is_owner),
        _ => false,
    }
}

/// Whether a privilege is one on a schema or on what is in it, rather than a role's membership or the server's.
fn is_privilege_inside(found: &[Token<'_>]) -> bool {
    let mut after = found.iter().skip_while(|token| !token.is("ON")).skip(1);
    let (first, second) = (after.next(), after.next());
    let is_word = |token: Option<&Token<'_>>, word: &str| token.is_some_and(|token| token.is(word));
    let is_named = second.is_some_and(|it| it.kind == TokenKind::Word || it.kind == TokenKind::Quoted);
    // A table needs no word before its name: the name is followed by a point, a comma or TO and FROM.
    let is_bare_table = !is_named || is_word(second, "TO") || is_word(second, "FROM");
    first.is_some() && (is_bare_table || GRANTED_ON.iter().any(|word| is_word(first, word)))
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// What is left of a text.
struct Rest<'a> {
    text: &'a str,
    line: usize,
}

/// Statements, and the rows of a `COPY ... FROM stdin` that follow them.
struct Part<'a> {
    statements: Vec<(String, usize)>,
    copy: Option<Copy<'a>>,
}

/// Rows as `COPY` has them.
struct Copy<'a> {
    /// The table with its columns, as written.
    into: String,
    rows: &'a str,
    line: usize,
}

impl Copy<'_> {
    /// Its rows as statements, some at a time.
    fn statements(&self) -> impl Iterator<Item = (String, usize)> {
        let rows: Vec<&str> = self.rows.lines().collect();
        let of = |(number, rows): (usize, &[&str])| {
            let values: Vec<String> = rows.iter().map(|row| format!("({})", row_values(row))).collect();
            (
                format!("INSERT INTO {} OVERRIDING SYSTEM VALUE VALUES {}", self.into, values.join(", ")),
                self.line + number * ROWS,
            )
        };
        rows.chunks(ROWS).enumerate().map(of).collect::<Vec<_>>().into_iter()
    }
}

/// How many rows go at once.
const ROWS: usize = 200;

/// A row's values, each as a text that the column's type reads.
fn row_values(row: &str) -> String {
    let value = |field: &str| if field == "\\N" { "NULL".to_string() } else { literal(&unescape(field)) };
    row.split('\t').map(value).collect::<Vec<_>>().join(", ")
}

/// A text that means the same whatever the settings of the session are.
fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// What `COPY` writes with a backslash.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        text.push(match characters.next() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(other) => other,
            None => '\\',
        });
    }
    text
}

/// Takes statements up to the next rows.
fn next_part<'a>(rest: &mut Rest<'a>, path: &Path) -> Result<Part<'a>> {
    let sql_length = up_to_rows(rest.text);
    let (sql, after) = rest.text.split_at(sql_length);
    let first_line = rest.line;
    rest.line += sql.matches('\n').count();
    rest.text = after;
    let plain: String =
        sql.lines().map(|line| if is_guard(line) { "\n".into() } else { format!("{line}\n") }).collect();
    let failed = |unclosed: Unclosed| {
        Error::new(ErrorKind::Usage, format!("{} is never closed", unclosed.what))
            .at(path, line_number(first_line - 1).saturating_add(unclosed.line))
    };
    let mut statements = Vec::new();
    for statement in split(&plain, Dialect::Postgres).map_err(failed)? {
        let line = first_line - 1 + statement.line as usize;
        statements.push((permitted(&statement.sql, line, path)?, line));
    }
    let last_is_copy = statements.last().is_some_and(|(sql, _)| first_word(sql) == "COPY");
    if statements.iter().rev().skip(usize::from(last_is_copy)).any(|(sql, _)| first_word(sql) == "COPY") {
        return Err(refused("COPY of a file or a program", first_line, path));
    }
    let copy = match statements.pop_if(|_| last_is_copy) {
        None => None,
        Some((sql, line)) => {
            let into = copied_into(&sql).ok_or_else(|| refused("COPY of a file or a program", line, path))?;
            let end = rest.text.find("\n\\.").map_or(rest.text.len(), |at| at + 1);
            let end = if rest.text.starts_with("\\.") { 0 } else { end };
            let (rows, after) = rest.text.split_at(end);
            let copy = Copy { into, rows, line: rest.line };
            rest.line += rows.matches('\n').count() + 1;
            rest.text = after.split_once('\n').map_or("", |(_, after)| after);
            Some(copy)
        }
    };
    Ok(Part { statements, copy })
}

/// How far SQL goes before rows do.
fn up_to_rows(text: &str) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        let trimmed = line.trim_end();
        if trimmed.starts_with("COPY ") && trimmed.ends_with(" FROM stdin;") {
            return at;
        }
    }
    text.len()
}

/// Since its last releases `pg_dump` has `psql` refuse other commands in between; that is nothing to a reader of SQL.
fn is_guard(line: &str) -> bool {
    let word = line.strip_prefix("\\restrict ").or_else(|| line.strip_prefix("\\unrestrict "));
    word.is_some_and(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The table and columns of `COPY table (columns) FROM stdin`.
fn copied_into(sql: &str) -> Option<String> {
    let found = tokens(sql, Dialect::Postgres).ok()?;
    let [first, into @ .., from, stdin] = found.as_slice() else { return None };
    let is_name = |token: &Token<'_>| {
        token.kind == TokenKind::Quoted
            || (token.kind == TokenKind::Word && !token.is("FROM") && !token.is("PROGRAM"))
            || [".", ",", "(", ")"].iter().any(|symbol| token.is_symbol(symbol))
    };
    let is_plain = first.is("COPY") && from.is("FROM") && stdin.is("STDIN") && into.iter().all(is_name);
    let (start, end) = (into.first()?.start, from.start);
    is_plain.then(|| sql[start..end].trim().to_string())
}

fn first_word(sql: &str) -> String {
    let end = sql.find(|it: char| !it.is_ascii_alphabetic()).unwrap_or(sql.len());
    sql[..end].to_ascii_uppercase()
}

fn refused(what: &str, line: usize, path: &Path) -> Error {
    Error::new(ErrorKind::Usage, format!("{what} is not taken from a file"))
        .at(path, line_number(line))
        .hint("an import takes what pg_dump --schema writes: a schema with what is in it, and its rows")
}

/// What to run for a statement: itself, or what a block that an export wrote has in it.
fn permitted(sql: &str, line: usize, path: &Path) -> Result<String> {
    let found = tokens(sql, Dialect::Postgres).map_err(|_| refused("what is never closed", line, path))?;
    let refuse = |what: &str| Err(refused(what, line, path));
    let words: Vec<String> = found.iter().take(4).map(|token| token.text.to_ascii_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [first, ..] if first.starts_with('\\') => refuse("a command of psql"),
        ["DO", _] => {
            let inner =
                block_of_an_export(found[1].text).ok_or_else(|| refused("a DO of its own", line, path))?;
            let is_type = ["CREATE TYPE ", "CREATE DOMAIN "].iter().any(|start| inner.starts_with(start));
            if is_type { permitted(inner, line, path) } else { refuse("a DO of its own") }
        }
        ["SELECT", "PG_CATALOG", ".", "SET_CONFIG" | "SETVAL", ..] => {
            let is_plain = |token: &Token<'_>| {
                matches!(token.kind, TokenKind::Text | TokenKind::Number)
                    || ["true", "false", "NULL"].iter().any(|word| token.is(word))
                    || ["(", ")", ",", "-"].iter().any(|symbol| token.is_symbol(symbol))
            };
            if found[4..].iter().all(is_plain) { Ok(sql.into()) } else { refuse("a SELECT of its own") }
        }
        [first, second, ..] if ELSEWHERE.contains(second) && *first != "COPY" => {
            refuse(&format!("{first} {second}"))
        }
        ["CREATE", ..] if acts_on_a_ledger(&found) => refuse("a trigger on a ledger"),
        ["GRANT" | "REVOKE", ..] if is_privilege_inside(&found) => Ok(sql.into()),
        [first, ..] if TAKEN.contains(first) => Ok(sql.into()),
        [first, ..] => refuse(first),
        [] => Ok(sql.into()),
    }
}

/// The one statement in a block by which an export makes a type that a schema needs.
fn block_of_an_export(block: &str) -> Option<&str> {
    let inner = block.strip_prefix("$tenantry$ BEGIN ")?;
    inner.strip_suffix("; EXCEPTION WHEN duplicate_object THEN NULL; END $tenantry$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_copy_are_read_back_as_they_were() {
        assert_eq!(row_values("1\t\\N\ta\\tb\\\\N\t"), " E'1', NULL,  E'a\tb\\\\N',  E''");
        assert_eq!(row_values("it's\\nso"), " E'it\\'s\nso'");
        assert_eq!(copied_into("COPY a.\"B c\" (x, y) FROM stdin").as_deref(), Some("a.\"B c\" (x, y)"));
        for sql in [
            "COPY a FROM '/x'",
            "COPY a FROM PROGRAM 'x'",
            "COPY a TO stdout",
            "COPY (SELECT f('x')) FROM stdin",
        ] {
            assert_eq!(copied_into(sql), None, "{sql}");
        }
    }

    #[test]
    fn what_psql_would_run_is_refused_or_is_no_command_here() {
        let path = Path::new("x.sql");
        let statements = |text: &str| {
            let mut rest = Rest { text, line: 1 };
            let mut all = Vec::new();
            while !rest.text.is_empty() {
                all.extend(next_part(&mut rest, path)?.statements.into_iter().map(|(sql, _)| sql));
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
        assert_eq!(statements("-- x\r\\! x\nSET a = 1;").unwrap(), ["SET a = 1"]);
        let need = "DO $tenantry$ BEGIN CREATE TYPE a.b AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END $tenantry$;";
        assert_eq!(statements(need).unwrap(), ["CREATE TYPE a.b AS ENUM ('x')"]);
    }
}
