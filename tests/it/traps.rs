//! Pitfalls measured in the crates and databases that tenantry builds on, each with its safeguard.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use tenantry::catalog::FolderOptions;
use tenantry::store::{SqliteOptions, SqliteStore};
use tenantry::{Catalog, Dialect, Manager};

use crate::world::{Ran, World};

// On Postgres, a referenced table cannot be dropped, and foreign keys cannot be switched off.
on_files!(
    trap_1_rebuilding_a_parent_table_keeps_its_children,
    trap_1_a_rebuild_that_orphans_rows_is_refused,
    trap_1_violations_that_were_there_before_are_no_reason_to_refuse,
);
on_each_store!(
    trap_2_reading_makes_no_ledger,
    trap_4_an_ambiguous_order_is_refused_before_anything_is_opened,
    trap_5_metadata_that_would_be_misread_is_refused_before_anything_is_opened,
    trap_8_a_migration_that_ends_the_transaction_is_refused_before_anything_is_opened,
    trap_12_a_view_in_the_ledgers_place_does_not_hang,
);

const FAMILY: (&str, &str) = (
    "1_family",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, x TEXT);\n\
     CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parent (id) ON DELETE CASCADE);",
);
const REBUILD: &str = "CREATE TABLE parent_new (id INTEGER PRIMARY KEY, x TEXT NOT NULL DEFAULT '');\n\
     INSERT INTO parent_new SELECT id, coalesce(x, '') FROM parent;\nDROP TABLE parent;\n\
     ALTER TABLE parent_new RENAME TO parent;";
const ROWS: &str = "INSERT INTO parent (id) VALUES (1), (2); INSERT INTO child (parent) VALUES (1), (1), (2)";

fn trap_1_rebuilding_a_parent_table_keeps_its_children(world: &mut World) {
    world.with_migrations(&[FAMILY]).expect(0, &["create", "a"]);
    world.execute("a", ROWS);
    let children = world.query("a", "SELECT * FROM child");
    world.with_migrations(&[FAMILY, ("2_rebuild", REBUILD)]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
    assert_eq!(world.query("a", "SELECT * FROM child"), children);
    world.assert_sound("a");
    world.execute("a", "PRAGMA foreign_keys = ON; DELETE FROM parent WHERE id = 1");
    assert_eq!(world.query("a", "SELECT count(*) FROM child"), ["1"], "the foreign key no longer cascades");
}

fn trap_1_a_rebuild_that_orphans_rows_is_refused(world: &mut World) {
    world.with_migrations(&[FAMILY]).expect(0, &["create", "a"]);
    world.execute("a", ROWS);
    let rows = world.contents("a");
    let metadata = "\n-- metadata\nrun_in_transaction = true\ndeletes_rows_from = [\"parent\"]\n";
    let text = REBUILD.replace("FROM parent;", "FROM parent WHERE id <> 1;");
    for (text, kind) in [(text.clone(), "foreign_keys"), (text.clone() + metadata, "foreign_keys")] {
        world.with_migrations(&[FAMILY, ("2_rebuild", &text)]);
        let report = world.expect(3, &["upgrade-all"]);
        assert_eq!(report.error("a"), (kind, "2 row(s) of child would reference missing rows of parent"));
    }
    world.with_migrations(&[FAMILY, ("2_rebuild", &REBUILD.replace("FROM parent;", "FROM parent WHERE 0;"))]);
    world.execute("a", "PRAGMA foreign_keys = OFF; DELETE FROM child");
    assert_eq!(
        world.expect(3, &["upgrade-all"]).error("a"),
        ("rows_lost", "parent would lose 2 of its 2 row(s)")
    );
    assert_eq!(world.contents("a")["parent"], rows["parent"]);
}

fn trap_1_violations_that_were_there_before_are_no_reason_to_refuse(world: &mut World) {
    world.with_migrations(&[FAMILY]).expect(0, &["create", "a"]);
    world.execute("a", &format!("PRAGMA foreign_keys = OFF; {ROWS}; INSERT INTO child (parent) VALUES (99)"));
    world.with_migrations(&[FAMILY, ("2_rebuild", REBUILD)]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
    assert_eq!(world.query("a", "SELECT count(*) FROM child"), ["4"]);
}

fn trap_2_reading_makes_no_ledger(world: &mut World) {
    world.with_legacy_as(1, "1");
    for arguments in [&["status"][..], &["upgrade-all", "--dry-run"], &["stamp", "1", "--dry-run"]] {
        world.expect(0, arguments);
    }
    assert_eq!(world.ledger_tables("1"), "0");
}

/// Asserts that `upgrade-all` refuses the migrations and changes nothing. Returns its standard error.
fn refused(world: &World) -> String {
    let before = world.snapshot();
    let Ran { code, stderr, .. } = world.run(&["upgrade-all"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(before == world.snapshot());
    stderr
}

fn trap_4_an_ambiguous_order_is_refused_before_anything_is_opened(world: &mut World) {
    world.with_legacy_as(1, "1");
    world.with_migrations(&[("9_nine", "SELECT 1;"), ("10_ten", "SELECT 1;")]);
    assert!(refused(world).contains("hint: pad the plain numbers to 2 digits: 09"));
    world.with_migrations(&[("1_a", "SELECT 1;"), ("1_b", "SELECT 1;")]);
    assert!(refused(world).contains("1_a and 1_b"));
}

fn trap_5_metadata_that_would_be_misread_is_refused_before_anything_is_opened(world: &mut World) {
    world.with_legacy_as(1, "1");
    world.with_migrations(&[("1_a", "SELECT 1;\n-- metadata\nrun_in_transacton = false\n")]);
    let stderr = refused(world);
    assert!(stderr.contains("1_a/metadata.toml:1") && stderr.contains("run_in_transacton"), "{stderr}");
}

fn trap_8_a_migration_that_ends_the_transaction_is_refused_before_anything_is_opened(world: &mut World) {
    world.with_legacy_as(1, "1");
    for word in ["COMMIT", "ROLLBACK", "BEGIN", "END"] {
        world
            .with_migrations(&[("1_a", &format!("CREATE TABLE t (a INTEGER);\n/* ; */ {word};\nSELECT 1;"))]);
        let stderr = refused(world);
        assert!(stderr.contains("1_a/up.sql:2") && stderr.contains("break the transaction"), "{stderr}");
    }
}

fn trap_12_a_view_in_the_ledgers_place_does_not_hang(world: &mut World) {
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i AS version, i AS run_on FROM n";
    world
        .with_migrations(&[FAMILY])
        .with_project("a", &format!("CREATE VIEW __diesel_schema_migrations AS {endless}"));
    world
        .with_project("b", &format!("CREATE TABLE t (a INTEGER); CREATE VIEW tenantry_history AS {endless}"));
    let started = Instant::now();
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!((report.error("a").0, report.error("b").0), ("corrupt", "corrupt"));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn trap_15_looking_at_a_database_drops_no_lock_that_this_process_holds() {
    let world = World::sqlite();
    world.expect(0, &["create", "1"]);
    let manager = || {
        let catalog = Catalog::embedded("project", Dialect::Sqlite).unwrap();
        let options = SqliteOptions::default().lock_timeout(Duration::from_millis(200));
        Manager::new(SqliteStore::new(world.data(), options), catalog).unwrap()
    };
    let (manager, id) = (manager(), "1".parse().unwrap());
    let mut connection = manager.connection(&id).unwrap();
    let write = "BEGIN EXCLUSIVE; INSERT INTO projects (name, current_phase) VALUES ('held', 'CODER')";
    connection.batch_execute(write).unwrap();
    // All of these read the file while this process holds its lock.
    manager.store().discover().unwrap();
    manager.store().diagnose();
    let result = manager.status(&id);
    assert!(result.is_err(), "an exclusive lock with a journal keeps readers out");
    let ran = world.run(&["--lock-timeout", "0.2", "downgrade", "1", "--steps", "1"]);
    assert!(ran.stdout.contains("locked"), "another process wrote: the lock was dropped\n{}", ran.stdout);
    connection.batch_execute("COMMIT").unwrap();
    drop(connection);
}

#[test]
fn trap_11_a_template_in_wal_mode_is_copied_like_any_other() {
    let mut world = World::sqlite();
    let wal = "PRAGMA journal_mode = WAL;\n-- metadata\nrun_in_transaction = false\n";
    world.with_migrations(&[FAMILY, ("2_wal", wal)]);
    let catalog = Catalog::from_directory(
        &world.folder().join("migrations"),
        Dialect::Sqlite,
        &FolderOptions::default(),
    )
    .unwrap();
    let manager =
        Manager::new(SqliteStore::new(world.data(), SqliteOptions::default()), catalog.clone()).unwrap();
    let memory = Manager::in_memory(catalog).unwrap();
    // Each second project is a copy of the template. Its new date is written in memory, where there is no WAL.
    for id in ["a", "b"] {
        let id = id.parse().unwrap();
        manager.create(&id).unwrap();
        memory.create(&id).unwrap();
        assert!(manager.status(&id).unwrap().is_current() && memory.status(&id).unwrap().is_current());
    }
    assert_eq!(world.query("b", "PRAGMA journal_mode"), ["wal"]);
}
