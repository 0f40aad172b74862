//! A schema as SQL text, as `pg_dump` writes it and `psql` reads it, and back.
//!
//! It must not let a text run anything but SQL, nor reach beyond the database of its own that it is loaded into.

mod guard;
mod parts;

use std::io::Write;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::PostgresStore;
use super::session::PostgresSession;
use super::snapshot::Scratch;
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::sql::{quote_name, quote_text};
use crate::store::LoadedSql;

use guard::{Guard, written_elsewhere};
use parts::{Part, extension_schema, is_access, line_number, parts};

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Schemas with anything in them, but for the server's own; `public` only where it is the only one.
const SCHEMAS: &str = "SELECT nspname::text AS name FROM pg_namespace n WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' \
    AND EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid) ORDER BY nspname = 'public', nspname";

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
pub(super) fn load(store: &PostgresStore, path: &Path, into: &Path) -> Result<LoadedSql> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let parts = parts(&text, path)?;
    let scratch = Scratch::new(store)?;
    let own = scratch.store();
    let mut notes = Vec::new();
    run(&own, &parts, path, &mut notes)?;
    let names: Vec<Name> = diesel::sql_query(SCHEMAS)
        .load(&mut own.connections.get()?.link()?.connection)
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
                .with_hint("export one project at a time"));
        }
    };
    own.dump(name, into, None)?;
    let mut session = PostgresSession::new(&own, own.connections.get()?, name.clone());
    session.begin_reading()?;
    let access = session.access()?;
    Ok(LoadedSql { place: name.clone(), access, notes })
}

/// What an import takes, for whoever gave it something else.
const TAKES: &str = "an import takes what pg_dump --schema writes: a schema with what is in it, and its rows";

/// Runs a text, all or nothing, by a role without rights as far as there is one.
fn run(own: &PostgresStore, parts: &[Part<'_>], path: &Path, notes: &mut Vec<String>) -> Result<()> {
    let mut pooled = own.connections.get()?;
    // What the text sets for its session is nobody else's.
    let ran = run_over(own, &mut pooled.link()?.connection, parts, path, notes);
    pooled.give_up();
    ran
}

fn run_over(
    own: &PostgresStore,
    connection: &mut PgConnection,
    parts: &[Part<'_>],
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<()> {
    let failed =
        |error: diesel::result::Error| super::failure::describe("cannot load it", own.target(), &error);
    let at = |error: diesel::result::Error, line: usize| {
        super::failure::describe("a statement failed", own.target(), &error).at(path, line_number(line))
    };
    let statements = || parts.iter().flat_map(|part| &part.statement);
    connection.batch_execute("BEGIN").map_err(failed)?;
    let guard = Guard::new(connection).map_err(failed)?;
    // First, into schemas that have nothing else in them yet.
    for (sql, line) in statements() {
        if let Some(schema) = extension_schema(sql) {
            let made = guard.make_extension(connection, sql, &schema);
            made.map_err(|error| at(error, *line))?;
        }
    }
    for part in parts {
        let statement =
            part.statement.as_ref().filter(|(sql, _)| !is_access(sql) && extension_schema(sql).is_none());
        if let Some((sql, line)) = statement {
            guard.run(connection, sql).map_err(|error| at(error, *line))?;
        }
        if let Some(copy) = &part.copy {
            for (sql, line) in copy.statements() {
                guard.run(connection, &sql).map_err(|error| at(error, line))?;
            }
        }
    }
    if !guard.end(connection).map_err(failed)? {
        return Err(Error::new(ErrorKind::Usage, "a trigger of it puts off again what it was put off to")
            .at(path, None)
            .with_hint("take the deferred trigger out of the file, and make it afterwards"));
    }
    // Whose it is and who may use it is said once all of it is this role's own, by the names that the text means there.
    let is_later =
        |sql: &str| is_access(sql) || sql.starts_with("SELECT pg_catalog.set_config('search_path'");
    for (sql, line) in statements().filter(|(sql, _)| is_later(sql)) {
        // A role that is not here is no reason to do without the rows.
        connection.batch_execute("SAVEPOINT tenantry_access").map_err(failed)?;
        // By the protocol that takes no second statement, however the server reads it.
        if let Err(error) = diesel::sql_query(sql).execute(connection) {
            let error = at(error, *line);
            if !is_of_a_role(&error) {
                return Err(error);
            }
            notes.push(format!("not given: {}", error.summary()));
            connection.batch_execute("ROLLBACK TO SAVEPOINT tenantry_access").map_err(failed)?;
        }
    }
    if let Some(name) = written_elsewhere(connection).map_err(failed)? {
        let message = format!("it changes {name}, which is not the project's");
        return Err(Error::new(ErrorKind::Usage, message).at(path, None).with_hint(TAKES));
    }
    connection.batch_execute("COMMIT").map_err(failed)
}

/// Whether a statement failed for a role that is not here, or that this one may not act for.
fn is_of_a_role(error: &Error) -> bool {
    const SAID: [&str; 4] = ["role \"", "member of role", "SET ROLE", "permission denied"];
    let summary = error.summary();
    SAID.iter().any(|said| summary.contains(said))
}
