//! A schema as SQL text, as `pg_dump` writes it and `psql` reads it, and back.
//!
//! It must not let a text run anything but SQL, nor reach beyond the database of its own that it is loaded into.

use std::io::Write;
use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::copy::Scratch;
use super::{PostgresStore, tools};
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::sql::{Dialect, TokenKind, tokens};

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Schemas with anything in them, but for the server's own; `public` only where it is the only one.
const SCHEMAS: &str = "SELECT nspname::text AS name FROM pg_namespace n WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' \
    AND EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid) ORDER BY nspname = 'public', nspname";

/// What a statement may begin with.
const TAKEN: [&str; 9] = ["ALTER", "COMMENT", "COPY", "CREATE", "DO", "INSERT", "REFRESH", "SELECT", "SET"];
/// What a dump selects, and nothing else does.
const SELECTED: [&str; 1] = ["pg_catalog"];
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
    let needs = session.needs()?;
    session.end_transaction("ROLLBACK")?;
    let folder = tempfile::tempdir()
        .map_err(|error| Error::new(ErrorKind::Io, "cannot make a private folder").caused_by(error))?;
    let file = folder.path().join("dump.sql");
    store.dump_as("--format=plain", &store.name(id)?, &file, None)?;
    let write = || -> std::io::Result<()> {
        for need in needs {
            writeln!(out, "{need};")?;
        }
        std::io::copy(&mut std::fs::File::open(&file)?, out).map(|_| ())
    };
    write().map_err(|error| Error::new(ErrorKind::Io, "cannot write the export").caused_by(error))
}

/// Makes a copy in the store's own form of a text, as a file that is not there yet; gives what its schema is called.
pub(super) fn load(store: &PostgresStore, path: &Path, into: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    permit(&text, path)?;
    let scratch = Scratch::new(store)?;
    let own = scratch.store();
    let file = format!("--file={}", path.display());
    let arguments = [
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
        &file,
    ];
    tools::run(own.tools()?, "psql", own.target(), &arguments)?;
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
    Ok(name.clone())
}

/// Goes through a text as `psql` does: statements, and the rows of `COPY ... FROM stdin`, which end with `\.`.
fn permit(text: &str, path: &Path) -> Result<()> {
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let (sql, rows) = up_to_rows(rest);
        permit_statements(sql, line, path)?;
        let taken = sql.len() + rows;
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    Ok(())
}

/// How far SQL goes, and how many bytes of rows follow it.
fn up_to_rows(text: &str) -> (&str, usize) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        let trimmed = line.trim_end();
        if trimmed.starts_with("COPY ") && trimmed.to_ascii_lowercase().ends_with(" from stdin;") {
            let mut rows = 0;
            for row in text[at..].split_inclusive('\n') {
                rows += row.len();
                if row.trim_end() == "\\." {
                    break;
                }
            }
            return (&text[..at], rows);
        }
    }
    (text, 0)
}

fn permit_statements(sql: &str, first_line: usize, path: &Path) -> Result<()> {
    let refuse = |what: &str, line: u32| {
        let line = u32::try_from(first_line).unwrap_or(u32::MAX).saturating_add(line).saturating_sub(1);
        Err(Error::new(ErrorKind::Usage, format!("{what} is not taken from a file"))
            .at(path, line)
            .hint("an import takes what pg_dump --schema writes: a schema with what is in it, and its rows"))
    };
    // Since its last releases pg_dump has psql refuse other commands in between; that is none of them.
    let is_guard = |line: &str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
    let plain: String =
        sql.lines().map(|line| if is_guard(line) { "\n".into() } else { format!("{line}\n") }).collect();
    let found = tokens(&plain, Dialect::Postgres).map_err(|unclosed| {
        Error::new(ErrorKind::Usage, format!("{} is never closed", unclosed.what)).at(path, unclosed.line)
    })?;
    let mut statement: Vec<&str> = Vec::new();
    for token in &found {
        if token.text.starts_with('\\') {
            return refuse("a command of psql", token.line);
        }
        if token.is_symbol(";") {
            statement.clear();
            continue;
        }
        statement.push(token.text);
        let word = token.text.to_ascii_uppercase();
        let is_word = token.kind == TokenKind::Word;
        match statement.len() {
            1 if !TAKEN.contains(&word.as_str()) => {
                return refuse(&word, token.line);
            }
            2 if statement[0].eq_ignore_ascii_case("SELECT") && !SELECTED.contains(&token.text) => {
                return refuse("a SELECT of its own", token.line);
            }
            // Of blocks only those that an export makes types by.
            2 if statement[0].eq_ignore_ascii_case("DO")
                && !token.text.starts_with("$tenantry$ BEGIN CREATE ") =>
            {
                return refuse("a DO of its own", token.line);
            }
            4 if statement[0].eq_ignore_ascii_case("SELECT")
                && !["set_config", "setval"].contains(&token.text) =>
            {
                return refuse(&format!("a call of {}", token.text), token.line);
            }
            2 if is_word && ELSEWHERE.contains(&word.as_str()) => {
                return refuse(&format!("{} {word}", statement[0].to_ascii_uppercase()), token.line);
            }
            _ => {}
        }
        let is_copy = statement[0].eq_ignore_ascii_case("COPY");
        if is_copy && is_word && word == "PROGRAM" {
            return refuse("COPY of a program", token.line);
        }
        if is_copy && token.kind == TokenKind::Text && statement.len() > 2 {
            return refuse("COPY of a file", token.line);
        }
    }
    Ok(())
}
