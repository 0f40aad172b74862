//! Every row of a database, counted and hashed: equal exactly when the tables have the same rows.
//!
//! It must not depend on the order of rows or on row ids that nobody gave: VACUUM makes new ones.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};

use super::failure::describe;
use crate::error::Result;
use crate::hash::hexadecimal;
use crate::sql::quote_name;
use crate::store::{Contents, Table};

/// What a database's file says of itself, and means something to applications.
const MARKS: [&str; 2] = ["application_id", "user_version"];

/// Every table with its columns: not the figures of the planner, which are nobody's rows, nor a column that is worked out when it
/// is read, which has nothing of its own.
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
            let table = table(connection, &name, &columns)?;
            tables.insert(name, table);
        }
        let mut properties = BTreeMap::new();
        for name in MARKS {
            let mark =
                connection.query_row(&format!("PRAGMA main.{name}"), (), |row| row.get(0)).optional()?;
            properties.insert(name.to_string(), mark.unwrap_or_default());
        }
        Ok(Contents { tables, properties })
    };
    read().map_err(|error| describe("cannot read its rows", error))
}

fn table(connection: &Connection, name: &str, columns: &[String]) -> rusqlite::Result<Table> {
    let mut statement =
        connection.prepare(&format!("SELECT {} FROM main.{}", columns.join(", "), quote_name(name)))?;
    let mut rows = statement.query(())?;
    let mut sum = Sum::default();
    let mut bytes = Vec::new();
    while let Some(row) = rows.next()? {
        bytes.clear();
        for index in 0..columns.len() {
            spell(row.get_ref(index)?, &mut bytes);
        }
        sum.add(&bytes);
    }
    Ok(Table { rows: sum.rows, hash: sum.finish() })
}

/// A value so that no two different ones, or sequences of them, are spelled alike.
fn spell(value: ValueRef<'_>, bytes: &mut Vec<u8>) {
    let mut sized = |kind: u8, text: &[u8]| {
        bytes.push(kind);
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
    };
    match value {
        ValueRef::Null => bytes.push(0),
        ValueRef::Integer(number) => sized(1, &number.to_le_bytes()),
        ValueRef::Real(number) => sized(2, &number.to_bits().to_le_bytes()),
        ValueRef::Text(text) => sized(3, text),
        ValueRef::Blob(blob) => sized(4, blob),
    }
}

/// The sum of rows' hashes, so that their order makes no difference, and one that is there twice counts twice.
#[derive(Default)]
struct Sum {
    rows: u64,
    lanes: [u64; 4],
}

impl Sum {
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

    fn of(sql: &str) -> Contents {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        contents(&connection).unwrap()
    }

    #[test]
    fn trap_19_row_ids_that_nobody_gave_make_no_difference() {
        let rows = of("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3)");
        assert_eq!(
            rows,
            of("CREATE TABLE t (a); INSERT INTO t VALUES (9), (3), (2), (1); DELETE FROM t WHERE a = 9")
        );
        assert_eq!(rows.tables["t"].rows, 3);
        let own = of("CREATE TABLE t (a INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)");
        assert_ne!(own, of("CREATE TABLE t (a INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2), (4)"));
    }

    #[test]
    fn every_value_and_type_makes_a_difference() {
        let values = ["NULL", "0", "0.0", "'0'", "x'30'", "''", "x''", "1", "-1", "'a'"];
        let all: Vec<_> = values
            .iter()
            .map(|it| of(&format!("CREATE TABLE t (a BLOB); INSERT INTO t VALUES ({it})")))
            .collect();
        for (index, one) in all.iter().enumerate() {
            assert!(all[index + 1..].iter().all(|other| other != one), "{}", values[index]);
        }
        let two = |rows: &str| of(&format!("CREATE TABLE t (a, b); INSERT INTO t VALUES {rows}"));
        assert_ne!(two("('a', 'bc')"), two("('ab', 'c')"));
        assert_ne!(two("(1, 2)"), two("(2, 1)"));
        assert_ne!(two("(1, 2), (1, 2)"), two("(1, 2)"));
        assert_ne!(two("(1, 2), (3, 4)"), two("(1, 4), (3, 2)"));
        assert_ne!(of("PRAGMA user_version = 3"), of("PRAGMA user_version = 4"));
    }
}
