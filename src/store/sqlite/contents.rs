//! Counts and hashes the rows of every table. The results are equal exactly when the tables have the same rows.
//!
//! They do not depend on the order of rows or on implicit rowids, which `VACUUM` reassigns.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};

use super::failure::describe;
use crate::error::Result;
use crate::hash::hexadecimal;
use crate::sql::quote_name;
use crate::store::{Contents, TableSummary};

/// The fields of the file header that applications use.
const PROPERTIES: [&str; 2] = ["application_id", "user_version"];

/// Every ordinary table with its stored columns. Excludes the query planner's `sqlite_stat*` tables, which hold no user
/// data, and `VIRTUAL` generated columns, which are computed when they are read.
const COLUMNS: &str = r"SELECT t.name, c.name FROM main.sqlite_schema t JOIN pragma_table_xinfo(t.name, 'main') c
    WHERE t.type = 'table' AND t.rootpage > 0 AND t.name NOT LIKE 'sqlite\_stat%' ESCAPE '\' AND c.hidden IN (0, 3)
    ORDER BY t.name, c.cid";

pub(super) fn contents(connection: &Connection) -> Result<Contents> {
    let read = || -> rusqlite::Result<Contents> {
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut statement = connection.prepare(COLUMNS)?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            columns.entry(row.get(0)?).or_default().push(quote_name(&row.get::<_, String>(1)?));
        }
        let mut tables = BTreeMap::new();
        for (name, columns) in columns {
            let table = hash_table(connection, &name, &columns)?;
            tables.insert(name, table);
        }
        let mut properties = BTreeMap::new();
        for name in PROPERTIES {
            let value =
                connection.query_row(&format!("PRAGMA main.{name}"), (), |row| row.get(0)).optional()?;
            properties.insert(name.to_string(), value.unwrap_or_default());
        }
        Ok(Contents { tables, properties })
    };
    read().map_err(|error| describe("cannot read its rows", error))
}

fn hash_table(connection: &Connection, name: &str, columns: &[String]) -> rusqlite::Result<TableSummary> {
    let mut statement =
        connection.prepare(&format!("SELECT {} FROM main.{}", columns.join(", "), quote_name(name)))?;
    let mut rows = statement.query(())?;
    let mut sum = RowHashSum::default();
    let mut bytes = Vec::new();
    while let Some(row) = rows.next()? {
        bytes.clear();
        for index in 0..columns.len() {
            encode(row.get_ref(index)?, &mut bytes);
        }
        sum.add(&bytes);
    }
    Ok(TableSummary { rows: sum.rows, hash: sum.finish() })
}

/// Appends a value as a type tag, a length and the bytes, so that different values, or sequences of values, never have
/// the same encoding.
fn encode(value: ValueRef<'_>, bytes: &mut Vec<u8>) {
    let mut append = |kind: u8, value: &[u8]| {
        bytes.push(kind);
        bytes.extend((value.len() as u64).to_le_bytes());
        bytes.extend(value);
    };
    match value {
        ValueRef::Null => bytes.push(0),
        ValueRef::Integer(number) => append(1, &number.to_le_bytes()),
        ValueRef::Real(number) => append(2, &number.to_bits().to_le_bytes()),
        ValueRef::Text(text) => append(3, text),
        ValueRef::Blob(blob) => append(4, blob),
    }
}

/// The sum of the rows' hashes. A sum does not depend on the order of the rows and counts a duplicate row twice.
#[derive(Default)]
struct RowHashSum {
    rows: u64,
    lanes: [u64; 4],
}

impl RowHashSum {
    fn add(&mut self, row: &[u8]) {
        let hash = Sha256::digest(row);
        for (lane, part) in self.lanes.iter_mut().zip(hash.chunks_exact(8)) {
            let part = part.try_into().map_or(0, u64::from_le_bytes);
            *lane = lane.wrapping_add(part);
        }
        self.rows += 1;
    }

    fn finish(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(b"tenantry rows 1\0");
        hasher.update(self.rows.to_le_bytes());
        for lane in self.lanes {
            hasher.update(lane.to_le_bytes());
        }
        hexadecimal(&hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents_of(sql: &str) -> Contents {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        contents(&connection).unwrap()
    }

    #[test]
    fn trap_19_row_ids_that_nobody_gave_make_no_difference() {
        let rows = contents_of("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3)");
        assert_eq!(
            rows,
            contents_of(
                "CREATE TABLE t (a); INSERT INTO t VALUES (9), (3), (2), (1); DELETE FROM t WHERE a = 9"
            )
        );
        assert_eq!(rows.tables["t"].rows, 3);
        let explicit =
            contents_of("CREATE TABLE t (a INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)");
        assert_ne!(
            explicit,
            contents_of("CREATE TABLE t (a INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2), (4)")
        );
    }

    #[test]
    fn every_value_and_type_makes_a_difference() {
        let values = ["NULL", "0", "0.0", "'0'", "x'30'", "''", "x''", "1", "-1", "'a'"];
        let all: Vec<_> = values
            .iter()
            .map(|it| contents_of(&format!("CREATE TABLE t (a BLOB); INSERT INTO t VALUES ({it})")))
            .collect();
        for (index, one) in all.iter().enumerate() {
            assert!(all[index + 1..].iter().all(|other| other != one), "{}", values[index]);
        }
        let two = |rows: &str| contents_of(&format!("CREATE TABLE t (a, b); INSERT INTO t VALUES {rows}"));
        assert_ne!(two("('a', 'bc')"), two("('ab', 'c')"));
        assert_ne!(two("(1, 2)"), two("(2, 1)"));
        assert_ne!(two("(1, 2), (1, 2)"), two("(1, 2)"));
        assert_ne!(two("(1, 2), (3, 4)"), two("(1, 4), (3, 2)"));
        assert_ne!(contents_of("PRAGMA user_version = 3"), contents_of("PRAGMA user_version = 4"));
    }
}
