//! A database as SQL text, as `sqlite3 .dump` writes it, and back.
//!
//! It must not let a text reach beyond the database that it is loaded into, nor change how that one is kept.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::failure::describe;
use super::file::uri;
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::bookkeeping::acts_on_a_ledger;
use crate::sql::statement::{Statement, split};
use crate::sql::{Dialect, quote_name, tokens};
use crate::store::Snapshot;

/// Pragmas that dumps begin with, and that change nothing but the connection.
const HARMLESS: [&str; 2] = ["foreign_keys", "defer_foreign_keys"];

/// Writes a database as text, by a private copy of it.
pub(super) fn export(out: &mut dyn Write, copy: impl FnOnce(&Path) -> Result<Snapshot>) -> Result<()> {
    let folder = private_folder()?;
    let file = folder.path().join("copy");
    copy(&file)?;
    dump(&file, out)
}

fn dump(copy: &Path, out: &mut dyn Write) -> Result<()> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(copy, "mode=ro&immutable=1"), flags)
        .map_err(|error| describe("cannot open its copy", error))?;
    write_all(&connection, out).map_err(|failure| match failure {
        Failure::Database(error) => describe("cannot read it", error),
        Failure::Output(error) => Error::new(ErrorKind::Io, "cannot write the export").caused_by(error),
        Failure::Contentless(table) => Error::new(
            ErrorKind::Usage,
            format!("{table} is a search index that does not keep its text"),
        )
        .with_hint(
            "it can't be written as SQL: drop it before, and fill it anew; a backup keeps it as it is",
        ),
    })
}

enum Failure {
    Database(rusqlite::Error),
    Output(io::Error),
    /// A table whose rows nobody can read.
    Contentless(String),
}

/// How the rows of a table are written.
enum Source {
    /// One by one.
    Rows,
    /// It is a view of others.
    Nothing,
    /// It is made of another table's rows, once these are there.
    Rebuilt,
    /// Not at all.
    Unreadable,
}

/// How the rows of a table with this definition are written.
fn source(sql: &str) -> Source {
    let all = tokens(sql, Dialect::Sqlite).unwrap_or_default();
    let using = all.iter().position(|token| token.is("USING"));
    let is_virtual = all.get(1).is_some_and(|token| token.is("VIRTUAL"));
    let Some(using) = using.filter(|_| is_virtual) else { return Source::Rows };
    let module = all.get(using + 1).map(|token| token.text.to_ascii_lowercase()).unwrap_or_default();
    let content = all.windows(3).find(|it| it[0].is("CONTENT") && it[1].text == "=").map(|it| it[2].text);
    match (module.as_str(), content) {
        ("fts5vocab" | "fts4aux" | "fts3tokenize", _) => Source::Nothing,
        ("fts4" | "fts5", Some("''" | "\"\"")) => Source::Unreadable,
        ("fts4" | "fts5", Some(_)) => Source::Rebuilt,
        _ => Source::Rows,
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// An object of the schema: its type, name and definition.
type Object = (String, String, String);

fn write_all(connection: &Connection, out: &mut dyn Write) -> Result<(), Failure> {
    let objects: Vec<Object> = connection
        .prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid")?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    // What a virtual table keeps its rows in comes with it.
    let shadows: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'")?
        .query_map((), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    writeln!(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
    let mut rebuilt = Vec::new();
    let is_shadow = |name: &String| shadows.contains(name);
    for (_, name, sql) in objects.iter().filter(|(kind, name, _)| kind == "table" && !is_shadow(name)) {
        writeln!(out, "{sql}\n;")?;
        match source(sql) {
            Source::Rows => rows(connection, name, out)?,
            Source::Rebuilt => rebuilt.push(quote_name(name)),
            Source::Nothing => {}
            Source::Unreadable => return Err(Failure::Contentless(name.clone())),
        }
    }
    for name in rebuilt {
        writeln!(out, "INSERT INTO {name}({name}) VALUES('rebuild');")?;
    }
    // SQLite keeps its own table of numbers when the last table that needs it is gone, and makes it for the first only.
    let counts = |(kind, _, sql): &Object| {
        let words = tokens(sql, Dialect::Sqlite).unwrap_or_default();
        kind == "table" && words.iter().any(|word| word.is("AUTOINCREMENT"))
    };
    let has_sequences = objects.iter().any(counts);
    if has_sequences {
        writeln!(out, "DELETE FROM sqlite_sequence;")?;
        rows(connection, "sqlite_sequence", out)?;
    }
    // Triggers last: none may fire for the rows above.
    for wanted in ["index", "view", "trigger"] {
        for (_, _, sql) in objects.iter().filter(|(kind, _, _)| kind == wanted) {
            writeln!(out, "{sql}\n;")?;
        }
    }
    writeln!(out, "COMMIT;")?;
    Ok(())
}

fn rows(connection: &Connection, table: &str, out: &mut dyn Write) -> Result<(), Failure> {
    // Neither what is worked out nor what a virtual table only takes as a command.
    let mut columns: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0 ORDER BY cid")?
        .query_map([table], |row| Ok(quote_name(&row.get::<_, String>(0)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let virtual_table =
        "SELECT count(*) > 0 FROM pragma_table_list WHERE schema = 'main' AND name = ?1 AND type = 'virtual'";
    let is_virtual: bool = connection.query_row(virtual_table, [table], |row| row.get(0))?;
    let table = quote_name(table);
    // What a search finds is told by it.
    if is_virtual && connection.prepare(&format!("SELECT rowid FROM main.{table}")).is_ok() {
        columns.insert(0, "rowid".into());
    }
    let columns = columns.join(",");
    let mut statement = connection.prepare(&format!("SELECT {columns} FROM main.{table}"))?;
    let count = statement.column_count();
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        write!(out, "INSERT INTO {table}({columns}) VALUES(")?;
        for index in 0..count {
            if index > 0 {
                write!(out, ",")?;
            }
            value(row.get_ref(index)?, out)?;
        }
        writeln!(out, ");")?;
    }
    Ok(())
}

/// A value so that it is read back as the very same one.
fn value(value: ValueRef<'_>, out: &mut dyn Write) -> io::Result<()> {
    match value {
        ValueRef::Null => write!(out, "NULL"),
        // Written out it would be read as a fraction, without its sign.
        ValueRef::Integer(i64::MIN) => write!(out, "(-9223372036854775807-1)"),
        ValueRef::Integer(number) => write!(out, "{number}"),
        ValueRef::Real(number) if number.is_infinite() => {
            write!(out, "{}1e999", if number < 0.0 { "-" } else { "" })
        }
        ValueRef::Real(number) => write!(out, "{number:?}"),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => write!(out, "'{}'", text.replace('\'', "''")),
            _ => {
                write!(out, "CAST(")?;
                blob(bytes, out)?;
                write!(out, " AS TEXT)")
            }
        },
        ValueRef::Blob(bytes) => blob(bytes, out),
    }
}

fn blob(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    write!(out, "X'")?;
    for byte in bytes {
        write!(out, "{byte:02x}")?;
    }
    write!(out, "'")
}

/// Makes a database of a text, as a file that is not there yet.
pub(super) fn load(path: &Path, into: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let statements = split(&text, Dialect::Sqlite).map_err(|unclosed| {
        Error::new(ErrorKind::Usage, format!("{} is never closed", unclosed.what)).at(path, unclosed.line)
    })?;
    if let Some(at) = text.find('\0') {
        let line = u32::try_from(text[..at].matches('\n').count() + 1).unwrap_or(u32::MAX);
        return Err(Error::new(ErrorKind::Usage, "there is a NUL character in it").at(path, line));
    }
    statements.iter().try_for_each(|statement| permit(statement, path))?;
    let last = |words: &[&str]| statements.iter().rposition(|it| words.contains(&word(it, 0).as_str()));
    if let Some(begun) =
        last(&["BEGIN"]).filter(|begun| last(&["COMMIT", "END"]).is_none_or(|end| end < *begun))
    {
        return Err(Error::new(ErrorKind::Usage, "the file is cut off: what BEGIN begins does not end")
            .at(path, statements[begun].line)
            .with_hint("make the dump anew: what is missing at its end nobody knows"));
    }
    let connection =
        Connection::open(into).map_err(|error| describe("cannot make a private database", error))?;
    let guard = || -> rusqlite::Result<()> {
        // What must hold of the rows is looked at afterwards, as far as it can be here.
        connection.execute_batch(
            "PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON",
        )?;
        connection.collation_needed(stand_in)?;
        REGISTERED.take();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // A second wall behind the look at the text.
        connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
            AuthAction::Attach { .. } | AuthAction::Detach { .. } => Authorization::Deny,
            // A virtual table asks for some settings when it is made.
            AuthAction::Pragma { pragma_name, pragma_value: Some(_) } if !is_harmless(pragma_name) => {
                Authorization::Deny
            }
            AuthAction::Function { function_name }
                if function_name.eq_ignore_ascii_case("load_extension") =>
            {
                Authorization::Deny
            }
            _ => Authorization::Allow,
        }))?;
        connection.execute_batch("BEGIN")
    };
    guard().map_err(|error| describe("cannot make a private database", error))?;
    for statement in statements.iter().filter(|statement| !is_transaction(statement)) {
        ASKED.take();
        run(&connection, &statement.sql)
            .map_err(|error| describe("a statement failed", error).at(path, statement.line))?;
        if let Some(missing) = ASKED.take() {
            let message = format!("it needs {missing}, which only the application has");
            return Err(Error::new(ErrorKind::Usage, message).at(path, statement.line).with_hint(
                "take the index, the UNIQUE or the generated column out of the file, and have the application make it afterwards",
            ));
        }
    }
    let finish = || -> rusqlite::Result<bool> {
        connection.execute_batch("COMMIT")?;
        connection
            .query_row("SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table'", (), |row| row.get(0))
    };
    if finish().map_err(|error| describe("cannot load it", error))? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, "there is no table in it").at(path, None))
}

thread_local! {
    /// What of an application's SQLite asked for since this was last looked at.
    static ASKED: Cell<Option<String>> = const { Cell::new(None) };
    /// The functions that were stood in for in this file.
    static REGISTERED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Stands in for a collation that only an application registers: a column may have it, and nothing may be sorted by it.
fn stand_in(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    let asked = format!("the order of the collation {name}");
    connection.create_collation(name, move |a: &str, b: &str| {
        ASKED.set(Some(asked.clone()));
        a.cmp(b)
    })
}

/// Runs a statement. A function that only an application registers may stand in a condition, and nothing may come out of it.
fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    loop {
        let Err(error) = connection.execute_batch(sql) else { return Ok(()) };
        let message = super::failure::message(&error);
        let Some((_, name)) = message.split_once("no such function: ") else { return Err(error) };
        // Each is registered once: what is still missing then is another error.
        if !REGISTERED.with_borrow_mut(|known| known.insert(name.to_string())) {
            return Err(error);
        }
        let asked = format!("the function {name}");
        connection.create_scalar_function(name, -1, FunctionFlags::SQLITE_DETERMINISTIC, move |_| {
            ASKED.set(Some(asked.clone()));
            Ok(None::<i64>)
        })?;
    }
}

fn is_harmless(pragma: &str) -> bool {
    HARMLESS.iter().any(|name| name.eq_ignore_ascii_case(pragma))
}

fn word(statement: &Statement, index: usize) -> String {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '.';
    let words = statement.sql.split(|it: char| !is_part(it)).filter(|word| !word.is_empty());
    words.map(str::to_ascii_uppercase).nth(index).unwrap_or_default()
}

/// All of a text is one transaction anyway.
fn is_transaction(statement: &Statement) -> bool {
    ["BEGIN", "COMMIT", "END"].contains(&word(statement, 0).as_str())
}

fn permit(statement: &Statement, path: &Path) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::new(ErrorKind::Usage, format!("{what} is not taken from a file"))
            .at(path, statement.line)
            .with_hint(
                "an import takes what a dump has: tables with their rows, indexes, views and triggers",
            ))
    };
    if statement.sql.starts_with('.') {
        return refuse(format!("the shell's command {}", word(statement, 0).to_ascii_lowercase()));
    }
    match word(statement, 0).as_str() {
        first @ ("ATTACH" | "DETACH" | "VACUUM" | "ROLLBACK" | "SAVEPOINT" | "RELEASE") => {
            refuse(first.to_string())
        }
        "PRAGMA" => {
            let name = word(statement, 1).to_ascii_lowercase();
            let name = name.rsplit('.').next().unwrap_or_default();
            if is_harmless(name) { Ok(()) } else { refuse(format!("PRAGMA {name}")) }
        }
        "CREATE" if acts_on_a_ledger(&tokens(&statement.sql, Dialect::Sqlite).unwrap_or_default()) => {
            refuse("a trigger on a ledger".into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read_back_as_it_was() {
        for (found, written) in [
            (ValueRef::Null, "NULL"),
            (ValueRef::Integer(i64::MIN), "(-9223372036854775807-1)"),
            (ValueRef::Real(f64::NEG_INFINITY), "-1e999"),
            (ValueRef::Real(1.0), "1.0"),
            (ValueRef::Real(-0.0), "-0.0"),
            (ValueRef::Real(1e300), "1e300"),
            (ValueRef::Text(b"it's"), "'it''s'"),
            (ValueRef::Text(b"a\0b"), "CAST(X'610062' AS TEXT)"),
            (ValueRef::Text(b"\xffA"), "CAST(X'ff41' AS TEXT)"),
            (ValueRef::Blob(b"\x00\xff"), "X'00ff'"),
        ] {
            let mut out = Vec::new();
            value(found, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), written);
        }
    }
}
