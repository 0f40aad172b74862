//! Scripts with their own `BEGIN` and `COMMIT`, as sets written for other tools have them.

use crate::world::World;

on_each_store!(
    a_script_with_its_own_transaction_runs_in_the_projects,
    any_other_transaction_control_is_refused,
);

on_files!(the_usual_rebuild_of_a_table_keeps_its_children, diesels_own_harness_runs_such_a_script);

const ONE: (&str, &str) = ("1_one", "CREATE TABLE one (id INTEGER, x INTEGER);");

fn a_script_with_its_own_transaction_runs_in_the_projects(world: &mut World) {
    let special = world.either(("BEGIN IMMEDIATE", "END TRANSACTION"), ("START TRANSACTION", "COMMIT WORK"));
    for (number, (begin, commit)) in
        [("BEGIN", "COMMIT"), ("begin transaction", "commit transaction"), ("BEGIN", "END"), special]
            .into_iter()
            .enumerate()
    {
        let (a, b) = (format!("a{number}"), format!("b{number}"));
        world.with_migrations(&[ONE]).expect(0, &["create", &a, &b]);
        world.execute(&b, "INSERT INTO one VALUES (1, 1), (2, 1)");
        let two = format!(
            "-- a comment\n{begin};\nCREATE TABLE two (id INTEGER);\n{commit};\n-- down\n{begin}; DROP TABLE two; {commit};"
        );
        // Fails for the project with equal rows: nothing of the migration before it may stay.
        let three =
            format!("{begin};\nCREATE UNIQUE INDEX three ON one (x);\n{commit};\n-- down\nDROP INDEX three;");
        world.with_migrations(&[ONE, ("2_two", &two), ("3_three", &three)]);
        let report = world.expect(3, &["upgrade", &a, &b]);
        assert_eq!((report.outcome(&a), report.outcome(&b)), ("upgraded", "failed"), "{begin}");
        assert_eq!(world.versions(&a), ["1", "2", "3"], "{begin}");
        assert_eq!(
            (world.versions(&b), world.tables(&b)),
            (vec!["1".to_string()], vec!["one".to_string()]),
            "{begin}"
        );
        let notes = report.events("note");
        assert!(notes[0]["message"].as_str().unwrap().contains("2_two and 1 other"), "{notes:?}");
        world.expect(0, &["downgrade", &a, "--to", "1"]);
        assert_eq!(world.tables(&a), ["one"]);
        world.expect(0, &["create", &format!("c{number}")]);
        world.execute(&b, "DELETE FROM one");
        world.expect(0, &["upgrade", &a, &b]);
    }
}

fn any_other_transaction_control_is_refused(world: &mut World) {
    let table = "CREATE TABLE two (id INTEGER);";
    let special = world.either("ROLLBACK", "BEGIN ISOLATION LEVEL SERIALIZABLE");
    for (text, line) in [
        (format!("{table}\nCOMMIT;"), 2),
        (format!("BEGIN;\n{table}"), 1),
        (format!("BEGIN;\n{table}\nCOMMIT;\nCREATE TABLE three (id INTEGER);"), 1),
        (format!("CREATE TABLE three (id INTEGER);\nBEGIN;\n{table}\nCOMMIT;"), 2),
        (format!("BEGIN;\n{table}\nCOMMIT;\nBEGIN;\nCREATE TABLE three (id INTEGER);\nCOMMIT;"), 1),
        (format!("BEGIN;\n{table}\nROLLBACK;"), 1),
        (format!("{special};\n{table}\nCOMMIT;"), 1),
    ] {
        world.with_migrations(&[ONE, ("2_two", &text)]);
        let ran = world.run(&["status"]);
        assert_eq!(ran.code, 2, "{text}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(&format!("2_two/up.sql:{line}")), "{text}: {}", ran.stderr);
    }
}

fn the_usual_rebuild_of_a_table_keeps_its_children(world: &mut World) {
    let first = (
        "1_one",
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, x TEXT);\n\
         CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) ON DELETE CASCADE);",
    );
    let rebuild = (
        "2_rebuild",
        "PRAGMA foreign_keys = OFF;\nBEGIN TRANSACTION;\n\
         CREATE TABLE new_parent (id INTEGER PRIMARY KEY, x TEXT NOT NULL DEFAULT '');\n\
         INSERT INTO new_parent SELECT id, coalesce(x, '') FROM parent;\nDROP TABLE parent;\n\
         ALTER TABLE new_parent RENAME TO parent;\nPRAGMA foreign_key_check;\nCOMMIT;\nPRAGMA foreign_keys = ON;",
    );
    world.with_migrations(&[first]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO parent VALUES (1, NULL), (2, 'b')");
    world.execute("a", "INSERT INTO child VALUES (10, 1), (20, 2)");
    world.with_migrations(&[first, rebuild]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
    assert_eq!(world.query("a", "SELECT id, parent FROM child"), ["10|1", "20|2"]);
    assert_eq!(world.query("a", "SELECT id, x FROM parent"), ["1|", "2|b"]);
}

fn diesels_own_harness_runs_such_a_script(_: &mut World) {
    use diesel::Connection as _;
    use diesel_migrations::MigrationHarness as _;
    let up = "BEGIN;\nCREATE TABLE two (id INTEGER);\nCOMMIT;";
    let catalog =
        tenantry::Catalog::from_files("x", tenantry::Dialect::Sqlite, [("1_two/up.sql", up)]).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a database in memory")]
    let mut connection = diesel::SqliteConnection::establish(":memory:").unwrap();
    assert_eq!(connection.run_pending_migrations(catalog).unwrap().len(), 1);
}
