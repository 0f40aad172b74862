//! A project's ledger and schema, read and written in SQLite.
//!
//! It must not trust names: a table of books is read only if it is a table, since a view of that name may never end.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row as SqlRow, params};
use sha2::{Digest as _, Sha256};

use super::failure::describe;
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, Entry, Ledger, Recorded};
use crate::plan::{Access, Inspection};
use crate::schema::Schema;
use crate::schema::bookkeeping::{ALEMBIC, DIESEL, HISTORY};
use crate::schema::sqlite::{Row, schema};

/// How many different schema texts are remembered; a fleet mostly shares a handful.
const REMEMBERED: usize = 512;

/// Schemas by the hash of their texts: what was understood once need not be understood again.
#[derive(Default)]
pub(super) struct SchemaCache(RwLock<HashMap<[u8; 32], Arc<Schema>>>);

impl SchemaCache {
    fn get(&self, hash: &[u8; 32]) -> Option<Arc<Schema>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    fn insert(&self, hash: [u8; 32], schema: Arc<Schema>) {
        let mut schemas = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if schemas.len() >= REMEMBERED {
            schemas.clear();
        }
        schemas.insert(hash, schema);
    }
}

/// Which tables of books there are.
#[derive(Default)]
struct Books {
    diesel: bool,
    history: bool,
    alembic: bool,
}

/// Reads ledger and schema.
pub(super) fn inspect(connection: &Connection, cache: &SchemaCache, access: Access) -> Result<Inspection> {
    let (schema, books) = read_schema(connection, cache)?;
    let mut ledger = Ledger::default();
    if books.diesel {
        ledger.applied = query(connection, "SELECT version FROM main.__diesel_schema_migrations", |row| {
            Ok(Version::new(row.get_ref(0)?.as_str()?))
        })?;
    }
    if books.history {
        let sql = "SELECT version, checksum, action FROM main.tenantry_history ORDER BY sequence";
        ledger.history = query(connection, sql, |row| {
            let action = row.get_ref(2)?.as_str()?;
            let action = Action::parse(action)
                .ok_or_else(|| rusqlite::Error::InvalidColumnName(action.to_string()))?;
            Ok(Recorded {
                version: Version::new(row.get_ref(0)?.as_str()?),
                checksum: row.get_ref(1)?.as_str()?.to_string(),
                action,
            })
        })?;
    }
    if books.alembic {
        ledger.revisions =
            query(connection, "SELECT version_num FROM main.alembic_version", |row| row.get(0))?;
    }
    Ok(Inspection { ledger, schema, access })
}

fn query<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&SqlRow<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let run = || connection.prepare(sql)?.query_map((), read)?.collect::<rusqlite::Result<Vec<T>>>();
    run().map_err(|error| describe("cannot read its ledger", error))
}

/// The schema as it is now.
pub(super) fn current_schema(connection: &Connection, cache: &SchemaCache) -> Result<Arc<Schema>> {
    read_schema(connection, cache).map(|(schema, _)| schema)
}

fn read_schema(connection: &Connection, cache: &SchemaCache) -> Result<(Arc<Schema>, Books)> {
    let failed = |error| describe("cannot read its schema", error);
    let mut statement =
        connection.prepare("SELECT type, name, tbl_name, sql FROM main.sqlite_schema").map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut books = Books::default();
    let mut rows = statement.query(()).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        for column in 0..4 {
            let bytes = bytes(row.get_ref(column).map_err(failed)?);
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        note_books(row, &mut books)?;
    }
    drop(rows);
    let hash: [u8; 32] = hasher.finalize().into();
    if let Some(known) = cache.get(&hash) {
        return Ok((known, books));
    }
    let read = |row: &SqlRow<'_>| {
        Ok(Row { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    };
    let rows: Vec<Row> = statement.query_map((), read).and_then(Iterator::collect).map_err(failed)?;
    let schema = Arc::new(schema(&rows));
    cache.insert(hash, Arc::clone(&schema));
    Ok((schema, books))
}

fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}

fn note_books(row: &SqlRow<'_>, books: &mut Books) -> Result<()> {
    let text = |column| row.get_ref(column).map(bytes).unwrap_or_default();
    let (kind, name) = (text(0), text(1));
    if kind == b"index" || kind == b"trigger" {
        return Ok(());
    }
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    let found = if is(DIESEL) {
        &mut books.diesel
    } else if is(HISTORY) {
        &mut books.history
    } else if is(ALEMBIC) {
        &mut books.alembic
    } else {
        return Ok(());
    };
    let sql = text(3).to_ascii_lowercase();
    let is_table = kind == b"table" && !sql.starts_with(b"create virtual");
    // An application may have an `alembic_version` of its own; nobody has the others by chance.
    let is_alembic = is(ALEMBIC) && sql.windows(11).any(|window| window == b"version_num");
    if is_table && (!is(ALEMBIC) || is_alembic) {
        *found = true;
    } else if !is(ALEMBIC) {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(Error::new(ErrorKind::Corrupt, format!("{name} is not an ordinary table")).hint(
            "somebody put something else in the ledger's place: find out who, and restore the project",
        ));
    }
    Ok(())
}

// Word for word as diesel makes it, so that neither tool finds anything odd about the other's.
const CREATE_DIESEL: &str = "CREATE TABLE IF NOT EXISTS __diesel_schema_migrations (
       version VARCHAR(50) PRIMARY KEY NOT NULL,
       run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);";

const CREATE_HISTORY: &str = "CREATE TABLE IF NOT EXISTS tenantry_history (
    sequence INTEGER PRIMARY KEY,
    version TEXT NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('apply', 'stamp', 'adopt', 'revert', 'start')),
    forced INTEGER NOT NULL CHECK (forced IN (0, 1)),
    run TEXT NOT NULL,
    started_at TEXT NOT NULL,
    duration_us INTEGER NOT NULL,
    tool_version TEXT NOT NULL
);";

const INSERT_HISTORY: &str = "INSERT INTO main.tenantry_history
    (version, name, checksum, action, forced, run, started_at, duration_us, tool_version)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, strftime('%Y-%m-%dT%H:%M:%fZ', ?7, 'unixepoch'), ?8, ?9)";

/// Writes rows into the ledger.
pub(super) fn record(connection: &Connection, entries: &[Entry], run: &str) -> Result<()> {
    let write = || {
        connection.execute_batch(CREATE_DIESEL)?;
        connection.execute_batch(CREATE_HISTORY)?;
        let mut insert = connection
            .prepare("INSERT OR IGNORE INTO main.__diesel_schema_migrations (version) VALUES (?1)")?;
        let mut history = connection.prepare(INSERT_HISTORY)?;
        for entry in entries {
            let version = entry.version.as_str();
            match entry.action {
                Action::Apply | Action::Stamp | Action::Adopt => {
                    insert.execute([version])?;
                }
                Action::Revert => {
                    connection.execute(
                        "DELETE FROM main.__diesel_schema_migrations WHERE version = ?1",
                        [version],
                    )?;
                }
                Action::Start => {}
            }
            let started =
                entry.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let duration = i64::try_from(entry.duration.as_micros()).unwrap_or(i64::MAX);
            history.execute(params![
                version,
                entry.name,
                entry.checksum,
                entry.action.as_str(),
                entry.forced,
                run,
                started,
                duration,
                env!("CARGO_PKG_VERSION"),
            ])?;
        }
        Ok(())
    };
    write().map_err(|error| describe("cannot write its ledger", error))
}

/// Dates the rows of a ledger anew, for a copy of a database that was made a while ago.
pub(super) fn redate(connection: &Connection, run: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE main.__diesel_schema_migrations SET run_on = CURRENT_TIMESTAMP", ())?;
    let sql = "UPDATE main.tenantry_history SET run = ?1, started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    connection.execute(sql, [run])?;
    Ok(())
}
