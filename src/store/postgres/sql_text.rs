//! Exports a schema as SQL text, as `pg_dump` writes and `psql` reads it, and imports such a text.
//!
//! An imported text can run nothing but SQL, and has no effect outside of the scratch database that it is loaded into.

mod guard;
mod parts;

use std::io::Write;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::session::PostgresSession;
use super::snapshot::Scratch;
use super::{PostgresStore, pg_dump};
use crate::disk::private_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::project::ProjectId;
use crate::schema::bookkeeping::is_bookkeeping;
use crate::sql::statement::split;
use crate::sql::{Dialect, line_number, own_schema, quote_name, quote_text};
use crate::store::{LoadedSql, Rows as _};

use guard::{Guard, changed_shared_object};
use parts::{Part, extension_schema, is_access, parts};

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// The schemas that contain anything, except the server's own; `public` comes last.
const SCHEMAS: &str = "SELECT nspname::text AS name FROM pg_namespace n WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' \
    AND EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid) ORDER BY nspname = 'public', nspname";

/// Returns the statements that create a schema's objects, without its name and without the tables of migration tools.
pub(super) fn definitions(store: &PostgresStore, name: &str) -> Result<Vec<String>> {
    let mut session = PostgresSession::new(store, store.connections.get()?, name.to_string());
    session.begin_reading()?;
    session.require_schema()?;
    let needs = session.needs()?;
    let mut excluded = Vec::new();
    let tables = session.texts_of(&format!(
        "SELECT relname::text AS value FROM pg_class WHERE relkind = 'r' AND relnamespace = {}",
        session.schema_oid_sql()?
    ))?;
    for table in tables {
        if is_bookkeeping(&table, &session.columns(&table)?) {
            excluded.push(table);
        }
    }
    session.end_transaction("ROLLBACK")?;
    let folder = private_folder()?;
    let file = folder.path().join("dump.sql");
    let schema = format!("--schema={}", quote_name(name));
    let target = format!("--file={}", file.display());
    let mut arguments =
        vec!["--schema-only".to_string(), "--no-owner".into(), "--no-privileges".into(), schema, target];
    arguments.extend(
        excluded.iter().map(|table| format!("--exclude-table={}.{}", quote_name(name), quote_name(table))),
    );
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    pg_dump::run(store.client_folder()?, "pg_dump", store.target(), &arguments)?;
    let text = std::fs::read_to_string(&file).map_err(|error| Error::io("read", &file, error))?;
    // Newer versions of pg_dump begin and end with a command of psql.
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('\\')).collect();
    let text = text.join("\n");
    let unclosed = |_| Error::new(ErrorKind::Internal, "pg_dump wrote what cannot be parsed");
    let text = own_schema::remove(&text, name).map_err(unclosed)?;
    let statements = split(&text, Dialect::Postgres).map_err(unclosed)?;
    let is_setting = |sql: &str| sql.starts_with("SET ") || own_schema::is_preamble(sql, name);
    let extensions = needs.into_iter().filter(|sql| extension_schema(sql).is_some());
    // A dump fills materialized views at its end, and here nobody else does.
    let filled = |sql: String| match sql.strip_suffix("WITH NO DATA") {
        Some(view) if view.starts_with("CREATE MATERIALIZED VIEW ") => view.trim_end().to_string(),
        _ => sql,
    };
    let objects = statements.into_iter().map(|statement| statement.sql).filter(|sql| !is_setting(sql));
    let objects = objects.map(filled);
    Ok(extensions.chain(objects).collect())
}

/// Writes a schema as SQL text.
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

/// Loads a text into a scratch database, and dumps it to a new file in the form of a snapshot.
///
/// Does not use `psql`: if this code recognized psql commands a little differently than psql does, it would let one
/// run.
pub(super) fn load(store: &PostgresStore, path: &Path, into: &Path) -> Result<LoadedSql> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let parts = parts(&text, path)?;
    let scratch = Scratch::new(store)?;
    let scratch_store = scratch.store();
    let mut notes = Vec::new();
    run(&scratch_store, &parts, path, &mut notes)?;
    let names: Vec<Name> = diesel::sql_query(SCHEMAS)
        .load(&mut scratch_store.connections.get()?.connection()?.connection)
        .map_err(|error| {
            super::failure::convert_error("cannot list the loaded schemas", scratch_store.target(), &error)
        })?;
    let names: Vec<String> = names.into_iter().map(|it| it.name).collect();
    let name = match names.as_slice() {
        [one] => one,
        [one, public] if public == "public" => one,
        [] => return Err(Error::new(ErrorKind::Usage, "it contains no table").at(path, None)),
        several => {
            let message = format!("it contains more than one schema: {}", several.join(", "));
            return Err(Error::new(ErrorKind::Usage, message)
                .at(path, None)
                .with_hint("export one project at a time"));
        }
    };
    scratch_store.dump(name, into, None)?;
    let mut session = PostgresSession::new(&scratch_store, scratch_store.connections.get()?, name.clone());
    session.begin_reading()?;
    let access = session.access()?;
    Ok(LoadedSql { place: name.clone(), access, notes })
}

/// The hint for a text that an import refuses.
const IMPORT_HINT: &str =
    "an import accepts what pg_dump --schema writes: one schema, its objects and their rows";

/// Runs a text, all or nothing, as a role without privileges if one can be created.
fn run(
    scratch_store: &PostgresStore,
    parts: &[Part<'_>],
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut pooled = scratch_store.connections.get()?;
    // The connection is not used again, because the text may have changed its settings.
    let result = run_on(scratch_store, &mut pooled.connection()?.connection, parts, path, notes);
    pooled.discard();
    result
}

fn run_on(
    scratch_store: &PostgresStore,
    connection: &mut PgConnection,
    parts: &[Part<'_>],
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<()> {
    let failed = |error: diesel::result::Error| {
        super::failure::convert_error("cannot load it", scratch_store.target(), &error)
    };
    let at = |error: diesel::result::Error, line: usize| {
        super::failure::convert_error("a statement failed", scratch_store.target(), &error)
            .at(path, line_number(line))
    };
    let statements = || parts.iter().flat_map(|part| &part.statement);
    connection.batch_execute("BEGIN").map_err(failed)?;
    let guard = Guard::new(connection).map_err(failed)?;
    guard.grant_shared(connection, &scratch_store.options.shared).map_err(failed)?;
    // Extensions come first, while their schemas contain nothing else.
    for (sql, line) in statements() {
        if let Some(schema) = extension_schema(sql) {
            let created = guard.create_extension(connection, sql, &schema);
            created.map_err(|error| at(error, *line))?;
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
        return Err(Error::new(ErrorKind::Usage, "one of its deferred triggers defers another one")
            .at(path, None)
            .with_hint("remove the deferred trigger from the file, and create it after the import"));
    }
    // Owners and privileges come last, when this role owns everything. The text's search_path settings run again,
    // because they decide what the names mean.
    let is_later =
        |sql: &str| is_access(sql) || sql.starts_with("SELECT pg_catalog.set_config('search_path'");
    for (sql, line) in statements().filter(|(sql, _)| is_later(sql)) {
        // A role that does not exist is no reason to refuse the rows.
        connection.batch_execute("SAVEPOINT tenantry_access").map_err(failed)?;
        // The extended protocol accepts only one statement, however the server parses the text.
        if let Err(error) = diesel::sql_query(sql).execute(connection) {
            let error = at(error, *line);
            if !is_role_error(&error) {
                return Err(error);
            }
            notes.push(format!("not applied: {}", error.summary()));
            connection.batch_execute("ROLLBACK TO SAVEPOINT tenantry_access").map_err(failed)?;
        }
    }
    if let Some(name) = changed_shared_object(connection).map_err(failed)? {
        let message = format!("it changes {name}, which does not belong to the project");
        return Err(Error::new(ErrorKind::Usage, message).at(path, None).with_hint(IMPORT_HINT));
    }
    connection.batch_execute("COMMIT").map_err(failed)
}

/// Whether a statement failed because a role does not exist, or because this role may not act for it.
fn is_role_error(error: &Error) -> bool {
    const MESSAGES: [&str; 4] = ["role \"", "member of role", "SET ROLE", "permission denied"];
    let summary = error.summary();
    MESSAGES.iter().any(|message| summary.contains(message))
}
