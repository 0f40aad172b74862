//! Rows that a statement deletes indirectly. Rows are counted unless a statement is known to delete none.

use crate::world::World;

/// Asserts that this migration is refused because it loses rows, and that each table keeps its three rows.
fn keeps_its_rows(world: &mut World, first: &str, tables: &[&str], sql: &str) {
    world.with_migrations(&[("1_one", first)]);
    let id = format!("p{}", uuid::Uuid::now_v7().simple());
    world.expect(0, &["create", &id]);
    for table in tables {
        world.execute(&id, &format!("INSERT INTO {table} (text) VALUES ('a'), ('b'), ('c')"));
    }
    world.with_migrations(&[("1_one", first), ("2_two", sql)]);
    let report = world.expect(3, &["upgrade", &id]);
    assert_eq!(report.error(&id).0, "rows_lost", "{sql}");
    for table in tables {
        assert_eq!(world.query(&id, &format!("SELECT count(*) FROM {table}")), ["3"], "{sql}");
    }
    world.expect(0, &["drop", &id, "--yes", "--no-backup"]);
}

#[test]
fn a_statement_that_is_not_known_to_be_harmless_is_counted() {
    let mut world = World::postgres();
    let first = "CREATE TABLE notes (id serial PRIMARY KEY, text text);\nCREATE TABLE other (id serial PRIMARY KEY, text text);\n\
         CREATE FUNCTION g() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM notes; RETURN 1; END';\n\
         CREATE FUNCTION h(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT g()';\n\
         CREATE VIEW v AS SELECT g();\nCREATE TABLE called (a int DEFAULT g(), text text);";
    for sql in [
        "CREATE TABLE a AS WITH d AS (DELETE FROM notes RETURNING *) SELECT * FROM d",
        "EXPLAIN ANALYZE DELETE FROM notes",
        "VALUES (g())",
        "CREATE TABLE z AS SELECT g()",
        "SELECT g() INTO z",
        "CREATE MATERIALIZED VIEW z AS SELECT * FROM v",
        "INSERT INTO called (text) VALUES ('x')",
        "UPDATE other SET text = g()::text WHERE id = 1",
        "ALTER TABLE other ADD COLUMN b int DEFAULT g()",
        "CREATE INDEX i ON other (h(id))",
        "DO $$ BEGIN EXECUTE 'DEL' || 'ETE FROM notes'; END $$",
        "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC END; DELETE FROM notes",
        "INSERT INTO called (text) VALUES ('x') --\r; DELETE FROM notes",
    ] {
        keeps_its_rows(&mut world, first, &["notes", "other"], sql);
    }
    // A statement can run code that is not part of its text.
    let first = "CREATE TABLE notes (id serial PRIMARY KEY, text text);\nCREATE TABLE other (id serial PRIMARY KEY, text text);\n\
         CREATE FUNCTION g(a int) RETURNS int LANGUAGE plpgsql AS 'BEGIN \
         IF current_setting(''application_name'') = ''tenantry'' THEN DELETE FROM notes; END IF; RETURN 1; END';\n\
         ALTER TABLE other ADD CONSTRAINT checked CHECK (g(id) > 0) NOT VALID;";
    keeps_its_rows(&mut world, first, &["notes", "other"], "ALTER TABLE other VALIDATE CONSTRAINT checked");
    // A prepared statement outlives its transaction, so `PREPARE` is refused.
    world.with_migrations(&[("1_one", first), ("2_two", "PREPARE p AS DELETE FROM notes;\nEXECUTE p;")]);
    let ran = world.run(&["status"]);
    assert!(ran.code == 2 && ran.stderr.contains("PREPARE"), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn the_rows_of_a_virtual_table_are_counted() {
    let mut world = World::sqlite();
    let first = "CREATE TABLE notes (text);\nCREATE VIRTUAL TABLE fts USING fts5(text);\nCREATE VIRTUAL TABLE bare USING fts5(text, content='');";
    for sql in [
        "DELETE FROM fts",
        "INSERT INTO bare(bare) VALUES ('delete-all')",
        "CREATE TRIGGER t AFTER UPDATE ON notes BEGIN DELETE FROM fts; END; UPDATE notes SET text = 'x'",
        "CREATE TABLE z (begin atomic); DELETE FROM notes",
    ] {
        keeps_its_rows(&mut world, first, &["notes", "fts", "bare"], sql);
    }
}

#[test]
fn a_nul_in_a_script_is_refused() {
    for mut world in [World::sqlite(), World::postgres()] {
        world
            .with_migrations(&[("1_one", "CREATE TABLE notes (id INTEGER, text TEXT);")])
            .expect(0, &["create", "a"]);
        world.execute("a", "INSERT INTO notes VALUES (1, 'x'), (2, 'x')");
        let two = ("2_two", "SELECT 1;\nUPDATE notes SET text = 'y' \0 WHERE id = 1;");
        world.with_migrations(&[("1_one", "CREATE TABLE notes (id INTEGER, text TEXT);"), two]);
        let ran = world.run(&["upgrade-all"]);
        assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("NUL") && ran.stderr.contains("up.sql:2"), "{}", ran.stderr);
        assert_eq!(world.query("a", "SELECT DISTINCT text FROM notes"), ["x"]);
    }
}

/// A foreign key that SQLite cannot check does not block migrations of other tables.
#[test]
fn a_foreign_key_that_fits_no_parent_hinders_no_other_table() {
    let mut world = World::sqlite();
    let one = (
        "1_one",
        "CREATE TABLE parent (a);\nCREATE TABLE child (a REFERENCES parent (a));\nCREATE TABLE other (id INTEGER);",
    );
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    world.with_migrations(&[one, ("2_two", "DROP TABLE other;\nCREATE TABLE next (id INTEGER);")]);
    world.expect(0, &["upgrade-all", "--dry-run"]);
    world.expect(0, &["upgrade-all"]);
    assert_eq!(world.versions("a"), ["1", "2"]);
}

#[test]
fn a_column_with_a_sequence_may_be_dropped() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE notes (id serial PRIMARY KEY, number serial, text text)");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO notes (text) VALUES ('x'), ('y')");
    // Rows are counted, and with them the numbers that were given out.
    let two = "UPDATE notes SET text = 'z'; DELETE FROM notes WHERE text = 'w'; ALTER TABLE notes DROP COLUMN number";
    world.with_migrations(&[one, ("2_two", two)]);
    world.expect(0, &["upgrade", "a"]);
    world.execute("a", "INSERT INTO notes (text) VALUES ('x')");
    assert_eq!(world.query("a", "SELECT max(id) FROM notes"), ["3"]);
}
