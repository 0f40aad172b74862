//! Reads rows as text over a SQLite connection.
//!
//! Does not start or end transactions; callers do.

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;

use super::failure::describe;
use super::{contents, health};
use crate::error::Result;
use crate::store::{Contents, DatabaseMaintenance, Health, Rows};

/// Runs `ANALYZE` or `VACUUM` on the database.
pub(super) fn maintain(connection: &Connection, maintenance: DatabaseMaintenance) -> Result<()> {
    let verb = match maintenance {
        DatabaseMaintenance::Analyze => "ANALYZE",
        DatabaseMaintenance::Vacuum => "VACUUM",
    };
    connection.execute_batch(verb).map_err(|error| describe(&format!("{verb} failed"), error))
}

pub(super) struct SqliteRows<'a>(pub(super) &'a Connection);

impl Rows for SqliteRows<'_> {
    fn columns(&mut self, table: &str) -> Result<Vec<String>> {
        let columns = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.0.prepare("SELECT name FROM pragma_table_info(?1, 'main')")?;
            statement.query_map([table], |row| row.get(0))?.collect()
        };
        columns().map_err(|error| describe("cannot read its columns", error))
    }

    fn for_each_row(
        &mut self,
        expressions: &[String],
        from: &str,
        visit: &mut dyn FnMut(Vec<Option<String>>) -> Result<bool>,
    ) -> Result<()> {
        let failed = |error| describe("cannot read its rows", error);
        let _strict = QuotedNames::only(self.0)?;
        let sql = format!("SELECT {} FROM {from}", expressions.join(", "));
        let mut statement = self.0.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query(()).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let texts = (0..expressions.len()).map(|index| Ok(text(row.get_ref(index)?)));
            if !visit(texts.collect::<rusqlite::Result<_>>().map_err(failed)?)? {
                break;
            }
        }
        Ok(())
    }

    fn first(&mut self, query: &str) -> Result<Option<String>> {
        let _strict = QuotedNames::only(self.0)?;
        let first = || -> rusqlite::Result<Option<String>> {
            let mut statement = self.0.prepare(query)?;
            let names: Vec<String> = statement.column_names().into_iter().map(Into::into).collect();
            let mut rows = statement.query(())?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let format_column = |(index, name): (usize, &String)| {
                let value = text(row.get_ref(index)?).unwrap_or_else(|| "NULL".into());
                Ok(format!("{name} = {value}"))
            };
            let columns: Vec<_> =
                names.iter().enumerate().map(format_column).collect::<rusqlite::Result<_>>()?;
            Ok(Some(columns.join(", ")))
        };
        first().map_err(|error| describe("a query failed", error))
    }

    fn contents(&mut self) -> Result<Contents> {
        contents::contents(self.0)
    }

    fn health(&mut self) -> Result<Health> {
        health::health(self.0).map_err(|error| describe("cannot check the database", error))
    }
}

/// While this value exists, SQLite rejects an unknown name in double quotes, which it reads as a string by default. Migrations
/// run with the default.
pub(super) struct QuotedNames<'a> {
    connection: &'a Connection,
    before: bool,
}

impl<'a> QuotedNames<'a> {
    pub(super) fn only(connection: &'a Connection) -> Result<Self> {
        let config = DbConfig::SQLITE_DBCONFIG_DQS_DML;
        let set = || {
            let before = connection.db_config(config)?;
            connection.set_db_config(config, false)?;
            Ok(Self { connection, before })
        };
        set().map_err(|error| describe("cannot read its rows", error))
    }
}

impl Drop for QuotedNames<'_> {
    fn drop(&mut self) {
        // Setting it succeeded before.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, self.before);
    }
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    }
}
