//! Reads a project's schema, and reads and writes its ledger.
//!
//! A migration tool's table is read only if it is an ordinary table: a query on a view of that name may never end.

use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row as SqlRow, params_from_iter};

use super::failure::describe;
use crate::catalog::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Action, HistoryRow, Ledger, NewHistoryRow};
use crate::plan::{Access, Inspection};
use crate::schema::Schema;
use crate::schema::bookkeeping::{ALEMBIC, DIESEL, HISTORY};
use crate::schema::sqlite::{Row, schema};
use crate::store::cache::SchemaCache;

/// The initial capacity for a schema's texts, in bytes.
const SCHEMA_TEXT_CAPACITY: usize = 8 * 1024;

/// Which migration tools' tables exist.
#[derive(Default)]
struct MigrationTables {
    diesel: bool,
    history: bool,
    alembic: bool,
}

/// Reads a project's ledger and schema.
pub(super) fn inspect(connection: &Connection, cache: &SchemaCache, access: Access) -> Result<Inspection> {
    let (schema, tables) = read_schema(connection, cache)?;
    let mut ledger = Ledger::default();
    read_ledger(connection, &tables, &mut ledger)?;
    if tables.alembic {
        ledger.revisions =
            query(connection, "SELECT version_num FROM main.alembic_version", |row| row.get(0))?;
    }
    Ok(Inspection {
        ledger: Arc::new(ledger),
        schema: Some(schema),
        recorded_fingerprint: None,
        access,
        other_ledgers: Vec::new(),
    })
}

const APPLIED_ROWS: &str = "SELECT NULL, version, NULL, NULL FROM main.__diesel_schema_migrations";
const HISTORY_ROWS: &str = "SELECT sequence, version, checksum, action FROM main.tenantry_history";
const ALL_ROWS: &str = "SELECT NULL, version, NULL, NULL FROM main.__diesel_schema_migrations
    UNION ALL SELECT sequence, version, checksum, action FROM main.tenantry_history";

/// Reads both tables in one query: preparing a second query would cost more than both reads.
fn read_ledger(connection: &Connection, tables: &MigrationTables, ledger: &mut Ledger) -> Result<()> {
    let sql = match (tables.diesel, tables.history) {
        (true, true) => ALL_ROWS,
        (true, false) => APPLIED_ROWS,
        (false, true) => HISTORY_ROWS,
        (false, false) => return Ok(()),
    };
    let mut history = Vec::new();
    let rows = query(connection, sql, |row| {
        let version = Version::new(row.get_ref(1)?.as_str()?);
        let Some(sequence) = row.get::<_, Option<i64>>(0)? else { return Ok(Some(version)) };
        let action = row.get_ref(3)?.as_str()?;
        let action =
            Action::parse(action).ok_or_else(|| rusqlite::Error::InvalidColumnName(action.to_string()))?;
        let checksum = row.get_ref(2)?.as_str()?.to_string();
        history.push((sequence, HistoryRow { version, checksum, action }));
        Ok(None)
    })?;
    history.sort_by_key(|(sequence, _)| *sequence);
    ledger.applied = rows.into_iter().flatten().collect();
    ledger.history = history.into_iter().map(|(_, row)| row).collect();
    Ok(())
}

fn query<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&SqlRow<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let run = || connection.prepare(sql)?.query_map((), read)?.collect::<rusqlite::Result<Vec<T>>>();
    run().map_err(|error| match describe("cannot read its ledger", error) {
        // SQLite has no error code for a missing column or an unexpected type.
        unspecific if unspecific.kind() == ErrorKind::Database => Error::new(
            ErrorKind::Corrupt,
            "its ledger tables differ from those that diesel and tenantry create",
        )
        .caused_by(unspecific.summary())
        .with_hint(
            "check __diesel_schema_migrations and tenantry_history: another program created or changed them",
        ),
        other => other,
    })
}

/// Reads the current schema.
pub(super) fn current_schema(connection: &Connection, cache: &SchemaCache) -> Result<Arc<Schema>> {
    read_schema(connection, cache).map(|(schema, _)| schema)
}

/// Reads the rows of `sqlite_schema`. Those that are the same as before are shared with `before`.
pub(super) fn schema_rows(connection: &Connection, before: &[Arc<Row>]) -> Result<Vec<Arc<Row>>> {
    let failed = |error| describe("cannot read its schema", error);
    let mut statement = connection.prepare(SCHEMA_ROWS).map_err(failed)?;
    let mut found = statement.query(()).map_err(failed)?;
    let mut rows = Vec::with_capacity(before.len() + 4);
    while let Some(row) = found.next().map_err(failed)? {
        let same = before.get(rows.len()).filter(|before| {
            let text = |column| row.get_ref(column).map(bytes).unwrap_or_default();
            let sql = before.sql.as_deref().unwrap_or_default();
            text(1) == before.name.as_bytes()
                && text(3) == sql.as_bytes()
                && text(0) == before.kind.as_bytes()
        });
        rows.push(match same {
            Some(same) => Arc::clone(same),
            None => Arc::new(schema_row(row).map_err(failed)?),
        });
    }
    Ok(rows)
}

fn schema_row(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    Ok(Row { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
}

const SCHEMA_ROWS: &str = "SELECT type, name, tbl_name, sql FROM main.sqlite_schema";

fn read_schema(connection: &Connection, cache: &SchemaCache) -> Result<(Arc<Schema>, MigrationTables)> {
    let failed = |error| describe("cannot read its schema", error);
    let mut statement = connection.prepare(SCHEMA_ROWS).map_err(failed)?;
    let mut text = Vec::with_capacity(SCHEMA_TEXT_CAPACITY);
    let mut tables = MigrationTables::default();
    let mut rows = statement.query(()).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        for column in 0..4 {
            let bytes = bytes(row.get_ref(column).map_err(failed)?);
            text.extend_from_slice(&bytes.len().to_le_bytes());
            text.extend_from_slice(bytes);
        }
        detect_migration_table(row, &mut tables)?;
    }
    drop(rows);
    if let Some(cached) = cache.get(&text) {
        return Ok((cached, tables));
    }
    let rows: Vec<Row> = statement.query_map((), schema_row).and_then(Iterator::collect).map_err(failed)?;
    Ok((cache.insert(Some(text), schema(&rows, cache.ignore())), tables))
}

fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}

/// Records whether a row of `sqlite_schema` is a migration tool's table. Returns `Corrupt` if something else has the
/// name of a ledger table.
fn detect_migration_table(row: &SqlRow<'_>, tables: &mut MigrationTables) -> Result<()> {
    let text = |column| row.get_ref(column).map(bytes).unwrap_or_default();
    let (kind, name) = (text(0), text(1));
    if kind == b"index" || kind == b"trigger" {
        return Ok(());
    }
    let is_named = |table: &str| name.eq_ignore_ascii_case(table.as_bytes());
    let exists = if is_named(DIESEL) {
        &mut tables.diesel
    } else if is_named(HISTORY) {
        &mut tables.history
    } else if is_named(ALEMBIC) {
        &mut tables.alembic
    } else {
        return Ok(());
    };
    let sql = text(3).to_ascii_lowercase();
    let is_table = kind == b"table" && !sql.starts_with(b"create virtual");
    // An application may use the name `alembic_version` for its own table; the other names are unambiguous.
    let is_alembic_table = is_named(ALEMBIC) && sql.windows(11).any(|window| window == b"version_num");
    if is_table && (!is_named(ALEMBIC) || is_alembic_table) {
        *exists = true;
    } else if !is_named(ALEMBIC) {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(Error::new(ErrorKind::Corrupt, format!("{name} is not an ordinary table")).with_hint(
            "something else has replaced the ledger table: find the cause, then restore the project from a backup",
        ));
    }
    Ok(())
}

// Exactly the statement that diesel uses, so that each tool accepts the table that the other created.
const CREATE_DIESEL: &str = "CREATE TABLE IF NOT EXISTS __diesel_schema_migrations (
       version VARCHAR(50) PRIMARY KEY NOT NULL,
       run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);";

const CREATE_HISTORY: &str = "CREATE TABLE IF NOT EXISTS tenantry_history (
    sequence INTEGER PRIMARY KEY,
    version TEXT NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('apply', 'stamp', 'adopt', 'revert', 'start', 'repeat', 'repair')),
    forced INTEGER NOT NULL CHECK (forced IN (0, 1)),
    run TEXT NOT NULL,
    started_at TEXT NOT NULL,
    duration_us INTEGER NOT NULL,
    tool_version TEXT NOT NULL
);";

const INSERT_APPLIED: &str = "INSERT OR IGNORE INTO main.__diesel_schema_migrations (version) VALUES ";
const INSERT_HISTORY: &str = "INSERT INTO main.tenantry_history
    (version, name, checksum, action, forced, run, started_at, duration_us, tool_version) VALUES ";
/// How many rows one statement inserts, well below SQLite's limit of parameters.
const ROWS_PER_INSERT: usize = 100;

/// Appends entries to the ledger. Creates its tables if they do not exist.
pub(super) fn record(connection: &Connection, entries: &[NewHistoryRow], run_id: &str) -> Result<()> {
    let write = || {
        connection.execute_batch(CREATE_DIESEL)?;
        connection.execute_batch(CREATE_HISTORY)?;
        for entries in entries.chunks(ROWS_PER_INSERT) {
            let is_applied = |action| matches!(action, Action::Apply | Action::Stamp | Action::Adopt);
            let applied: Vec<_> =
                entries.iter().filter(|it| is_applied(it.action)).map(|it| it.version.as_str()).collect();
            if !applied.is_empty() {
                let sql = format!("{INSERT_APPLIED}{}", vec!["(?)"; applied.len()].join(","));
                connection.execute(&sql, params_from_iter(applied))?;
            }
            for entry in entries.iter().filter(|it| it.action == Action::Revert) {
                let sql = "DELETE FROM main.__diesel_schema_migrations WHERE version = ?1";
                connection.execute(sql, [entry.version.as_str()])?;
            }
            let sql = format!("{INSERT_HISTORY}{}", vec!["(?,?,?,?,?,?,?,?,?)"; entries.len()].join(","));
            connection.execute(
                &sql,
                params_from_iter(entries.iter().flat_map(|entry| history_row(entry, run_id))),
            )?;
        }
        Ok(())
    };
    write().map_err(|error| describe("cannot write its ledger", error))
}

fn history_row<'a>(entry: &'a NewHistoryRow, run_id: &'a str) -> [ToSqlOutput<'a>; 9] {
    let duration = i64::try_from(entry.duration.as_micros()).unwrap_or(i64::MAX);
    [
        entry.version.as_str().into(),
        entry.name.as_str().into(),
        entry.checksum.as_str().into(),
        entry.action.as_str().into(),
        i64::from(entry.forced).into(),
        run_id.into(),
        timestamp(entry.started).into(),
        duration.into(),
        env!("CARGO_PKG_VERSION").into(),
    ]
}

/// Formats a time in UTC with milliseconds, as `2026-01-12T09:30:00.000Z`.
fn timestamp(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let (date, hour, minute, second, millisecond) =
        (time.date(), time.hour(), time.minute(), time.second(), time.millisecond());
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// Sets the run of all ledger rows, and their times to now. Used for a copy of a template that was built earlier.
pub(super) fn set_run(connection: &Connection, run_id: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE main.__diesel_schema_migrations SET run_on = CURRENT_TIMESTAMP", ())?;
    let sql = "UPDATE main.tenantry_history SET run = ?1, started_at = ?2";
    connection.execute(sql, [run_id, &timestamp(SystemTime::now())])?;
    Ok(())
}
