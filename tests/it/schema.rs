//! The fingerprint is semantic: every change in behaviour changes it, and no other change does.

use rusqlite::Connection;
use tenantry::internals::Schema;
use tenantry::internals::sqlite::{Row, schema};

fn read(sql: &str) -> Schema {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut statement = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema").unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        Ok(Row { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    };
    let rows = statement.query_map((), row).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    schema(&rows, &tenantry::store::IgnoreList::default())
}

#[test]
fn spellings_of_one_meaning_have_one_fingerprint() {
    let same = [
        ("CREATE TABLE t (a INTEGER, b TEXT)", "create  table\n\"t\" ( [a] integer , `B` text -- comment\n)"),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY)", "CREATE TABLE t (a INTEGER, PRIMARY KEY (a))"),
        ("CREATE TABLE t (a INT UNIQUE)", "CREATE TABLE t (a INT, UNIQUE (a))"),
        ("CREATE TABLE t (a INT CHECK (a > 1))", "CREATE TABLE t (a INT, CONSTRAINT c CHECK ((a>1)))"),
        (
            "CREATE TABLE t (a INT CHECK (a <> 1 AND a = 2))",
            "CREATE TABLE t (a INT CHECK (a != 1 and A == 2))",
        ),
        (
            "CREATE TABLE t (a TEXT CHECK (a IN ('x','y')))",
            "CREATE TABLE t (a TEXT CHECK (a IN (\"x\", \"y\")))",
        ),
        ("CREATE TABLE t (a VARCHAR(10))", "CREATE TABLE t (a varchar ( 10 ))"),
        ("CREATE TABLE t (a DEFAULT 1, b DEFAULT 'x')", "CREATE TABLE t (a DEFAULT (1), b DEFAULT \"x\")"),
        ("CREATE TABLE t (a DEFAULT CURRENT_TIMESTAMP)", "CREATE TABLE t (a DEFAULT (current_timestamp))"),
        ("CREATE TABLE t (a DEFAULT -1, b DEFAULT TRUE)", "CREATE TABLE t (a DEFAULT (- 1), b DEFAULT 1)"),
        ("CREATE TABLE t (a TEXT)", "CREATE TABLE t (a TEXT NULL DEFAULT NULL COLLATE BINARY)"),
        ("CREATE TABLE t (a INT NOT NULL)", "CREATE TABLE t (a INT CONSTRAINT n NOT NULL ON CONFLICT ABORT)"),
        (
            "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (a REFERENCES p)",
            "CREATE TABLE t (a, CONSTRAINT f FOREIGN KEY (a) REFERENCES p (id) ON DELETE NO ACTION NOT DEFERRABLE); \
             CREATE TABLE p (id INTEGER, PRIMARY KEY (id))",
        ),
        (
            "CREATE TABLE t (a, b); CREATE INDEX i ON t (a, b)",
            "CREATE TABLE t (a, b); CREATE INDEX IF NOT EXISTS \"i\" ON \"t\" (\"a\" ASC, b COLLATE binary)",
        ),
        (
            "CREATE TABLE t (a); CREATE INDEX i ON t (a) WHERE a IS NOT NULL",
            "CREATE TABLE t (a); CREATE INDEX i ON t (a) WHERE (a is not null)",
        ),
        (
            "CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t WHERE a = 'X'",
            "CREATE TABLE t (a); CREATE VIEW \"v\"\nAS select \"a\" /* x */ from t where a='X'",
        ),
        ("CREATE TABLE t (a DEFAULT Draft)", "CREATE TABLE t (a DEFAULT 'Draft')"),
        (
            "CREATE TABLE p (\"my id\" INT PRIMARY KEY); CREATE TABLE t (a REFERENCES p)",
            "CREATE TABLE p (\"my id\" INT, PRIMARY KEY (\"my id\")); CREATE TABLE t (a, FOREIGN KEY ('a') REFERENCES p)",
        ),
        (
            "CREATE TABLE t (a); CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END",
            "CREATE TABLE t (a); CREATE TRIGGER g AFTER INSERT ON \"T\" FOR EACH ROW BEGIN DELETE FROM t; END",
        ),
        ("CREATE TABLE \"ÄB\" (\"Ö\")", "CREATE TABLE \"Äb\" (\"Ö\")"),
        ("CREATE TABLE t (a, b AS (a + 1))", "CREATE TABLE t (a, b GENERATED ALWAYS AS (a+1) VIRTUAL)"),
        ("CREATE TABLE t (a); CREATE TABLE u (b)", "CREATE TABLE u (b); CREATE TABLE t (a)"),
        (
            "CREATE TABLE t (a, b)",
            "CREATE TABLE x (a); ALTER TABLE x ADD COLUMN b; ALTER TABLE x RENAME TO t",
        ),
        (
            "CREATE TABLE t (a)",
            "CREATE TABLE t (a); CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        ),
        (
            "CREATE TABLE t (a)",
            "CREATE TABLE t (a); CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT, \
             installed_on TIMESTAMP, success BOOLEAN, checksum BLOB, execution_time BIGINT)",
        ),
        (
            "CREATE TABLE t (a)",
            "CREATE TABLE t (a); CREATE TABLE schema_migrations (version varchar(128) primary key)",
        ),
    ];
    for (a, b) in same {
        let (a_schema, b_schema) = (read(a), read(b));
        let differences: Vec<_> = a_schema.differences(&b_schema).iter().map(ToString::to_string).collect();
        assert_eq!(differences, Vec::<String>::new(), "\n{a}\n{b}");
        assert_eq!(a_schema.fingerprint(), b_schema.fingerprint(), "\n{a}\n{b}");
    }
}

#[test]
fn everything_that_changes_behaviour_changes_the_fingerprint_and_is_named() {
    let base = "CREATE TABLE p (id INTEGER PRIMARY KEY); ";
    let different = [
        ("CREATE TABLE t (a)", "CREATE TABLE u (a)", "extra table t"),
        ("CREATE TABLE t (a, b)", "CREATE TABLE t (a)", "table t: extra column b"),
        ("CREATE TABLE t (a)", "CREATE TABLE t (a, b INT)", "table t: missing column b INT"),
        ("CREATE TABLE t (a, b)", "CREATE TABLE t (b, a)", "table t: column order is a, b, expected b, a"),
        (
            "CREATE TABLE t (a TEXT)",
            "CREATE TABLE t (a INTEGER)",
            "table t: column a is TEXT, expected INTEGER",
        ),
        (
            "CREATE TABLE t (a INT)",
            "CREATE TABLE t (a INT NOT NULL)",
            "table t: column a is INT, expected INT NOT NULL",
        ),
        (
            "CREATE TABLE t (a INT DEFAULT 1)",
            "CREATE TABLE t (a INT DEFAULT '1')",
            "expected INT DEFAULT '1'",
        ),
        ("CREATE TABLE t (a INT)", "CREATE TABLE t (a INT CHECK (a > 0))", "table t: missing CHECK (a > 0)"),
        (
            "CREATE TABLE t (a CHECK (a = 'x'))",
            "CREATE TABLE t (a CHECK (a = 'X'))",
            "table t: extra CHECK (a = 'x')",
        ),
        ("CREATE TABLE t (a INT)", "CREATE TABLE t (a INT UNIQUE)", "table t: missing UNIQUE (a)"),
        (
            "CREATE TABLE t (a UNIQUE)",
            "CREATE TABLE t (a UNIQUE ON CONFLICT REPLACE)",
            "expected ON CONFLICT REPLACE",
        ),
        (
            "CREATE TABLE t (a)",
            "CREATE TABLE t (a REFERENCES p)",
            "table t: missing foreign key (a) references p(id)",
        ),
        (
            "CREATE TABLE t (a REFERENCES p)",
            "CREATE TABLE t (a REFERENCES p ON DELETE CASCADE)",
            "expected ON DELETE CASCADE",
        ),
        (
            "CREATE TABLE t (a REFERENCES p)",
            "CREATE TABLE t (a REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
            "expected DEFERRABLE INITIALLY DEFERRED",
        ),
        ("CREATE TABLE t (a TEXT)", "CREATE TABLE t (a TEXT COLLATE NOCASE)", "expected TEXT COLLATE NOCASE"),
        (
            "CREATE TABLE t (a INTEGER PRIMARY KEY)",
            "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT)",
            "AUTOINCREMENT",
        ),
        (
            "CREATE TABLE t (a INTEGER PRIMARY KEY)",
            "CREATE TABLE t (a INTEGER PRIMARY KEY DESC)",
            "DESC at the column",
        ),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY)", "CREATE TABLE t (a INT PRIMARY KEY)", "expected INT"),
        (
            "CREATE TABLE t (a PRIMARY KEY)",
            "CREATE TABLE t (a PRIMARY KEY) WITHOUT ROWID",
            "missing option WITHOUT ROWID",
        ),
        ("CREATE TABLE t (a TEXT)", "CREATE TABLE t (a TEXT) STRICT", "missing option STRICT"),
        ("CREATE TABLE t (a, b AS (a + 1))", "CREATE TABLE t (a, b AS (a + 1) STORED)", "STORED"),
        ("CREATE TABLE t (a, b AS (a + 1))", "CREATE TABLE t (a, b AS (a + 2))", "a + 2"),
        ("CREATE TABLE t (a)", "CREATE TABLE t (a); CREATE INDEX i ON t (a)", "missing index i"),
        (
            "CREATE TABLE t (a); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a); CREATE UNIQUE INDEX i ON t (a)",
            "expected unique",
        ),
        (
            "CREATE TABLE t (a); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a); CREATE INDEX i ON t (a DESC)",
            "DESC",
        ),
        (
            "CREATE TABLE t (a); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a); CREATE INDEX i ON t (lower(a))",
            "lower",
        ),
        (
            "CREATE TABLE t (a); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a); CREATE INDEX i ON t (a) WHERE a > 1",
            "WHERE a > 1",
        ),
        (
            "CREATE TABLE t (a); CREATE VIEW v AS SELECT 1",
            "CREATE TABLE t (a); CREATE VIEW v AS SELECT 2",
            "view v",
        ),
        (
            "CREATE TABLE t (a)",
            "CREATE TABLE t (a); CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END",
            "missing trigger g",
        ),
        (
            "CREATE TABLE t (a); CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END",
            "CREATE TABLE t (a); CREATE TRIGGER g BEFORE INSERT ON t BEGIN DELETE FROM t; END",
            "trigger g",
        ),
        (
            "CREATE TABLE t (a)",
            "CREATE TABLE t (a); CREATE TABLE schema_migrations (version INT, author TEXT)",
            "missing table schema_migrations",
        ),
        (
            "CREATE VIRTUAL TABLE f USING fts5(a)",
            "CREATE VIRTUAL TABLE f USING fts5(a, b)",
            "virtual table f",
        ),
        ("CREATE TABLE t (a DEFAULT 'a - b')", "CREATE TABLE t (a DEFAULT 'a -b')", "'a -b'"),
        ("CREATE TABLE t (a DEFAULT Draft)", "CREATE TABLE t (a DEFAULT draft)", "DEFAULT 'draft'"),
        (
            "CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t WHERE a = \"Draft\"",
            "CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t WHERE a = \"dRAFT\"",
            "'draft'",
        ),
        (
            "CREATE TABLE t (a REFERENCES p ON DELETE CASCADE REFERENCES p)",
            "CREATE TABLE t (a REFERENCES p)",
            "foreign key (a) references p(id) is ON DELETE CASCADE",
        ),
        (
            "CREATE VIRTUAL TABLE f USING fts5(a); CREATE TABLE f_node (x)",
            "CREATE VIRTUAL TABLE f USING fts5(a)",
            "extra table f_node",
        ),
        ("CREATE TABLE \"Ä\" (a)", "CREATE TABLE \"ä\" (a)", "table ä"),
        ("CREATE TABLE t (\"order\" INT)", "CREATE TABLE t (\"Order2\" INT)", "missing column order2 INT"),
    ];
    for (actual, expected, named) in different {
        let (actual_schema, expected_schema) =
            (read(&format!("{base}{actual}")), read(&format!("{base}{expected}")));
        assert_ne!(actual_schema.fingerprint(), expected_schema.fingerprint(), "\n{actual}\n{expected}");
        let differences: Vec<_> =
            actual_schema.differences(&expected_schema).iter().map(ToString::to_string).collect();
        let found = differences.join("; ").to_lowercase().contains(&named.to_lowercase());
        assert!(found, "{differences:?} does not name {named:?}");
    }
}
