//! Problems found with migration sets of real applications. Each scenario is the smallest set that shows one.

use crate::world::World;

on_each_store!(
    a_downgrade_by_steps_counts_them_once,
    a_row_of_the_migrations_own_may_be_deleted_again,
    a_row_loss_is_allowed_for_a_named_migration,
    a_migration_of_comments_reserves_a_number,
    a_fault_in_a_down_script_hinders_only_the_downgrade,
    a_stray_file_is_told_and_passed_over,
    folders_of_dialects_have_several_names,
    a_violation_that_a_later_migration_mends_is_none,
    what_could_not_be_checked_is_named,
    what_a_script_makes_up_is_no_other_projects,
    a_set_that_leaves_nothing_has_a_ledger_all_the_same,
    a_script_may_name_the_ledger,
    an_export_replaces_nothing_unasked,
    a_table_made_anew_gives_no_number_out_again,
    a_table_made_anew_outside_a_transaction_keeps_its_numbers,
    a_down_script_that_leads_elsewhere_is_told_beforehand,
    the_order_of_columns_is_a_note,
);

on_files!(
    every_pragma_does_in_a_run_what_the_dry_run_said,
    a_file_changes_its_journal_before_the_migrations_run
);

/// Six migrations that create one table each. The fifth runs outside a transaction.
fn with_six(world: &mut World) {
    let tables: Vec<(String, String)> = (1..=6)
        .map(|number| {
            let outside = if number == 5 { "-- metadata\nrun_in_transaction = false\n" } else { "" };
            let sql =
                format!("CREATE TABLE t{number} (id INTEGER);\n-- down\nDROP TABLE t{number};\n{outside}");
            (format!("0{number}_t{number}"), sql)
        })
        .collect();
    let tables: Vec<(&str, &str)> = tables.iter().map(|(name, sql)| (name.as_str(), sql.as_str())).collect();
    world.with_migrations(&tables);
}

fn a_downgrade_by_steps_counts_them_once(world: &mut World) {
    with_six(world);
    world.expect(0, &["create", "a", "b", "c"]);
    for (id, steps, remaining) in [("a", "2", 4), ("b", "3", 3), ("c", "6", 0)] {
        let report = world.expect(0, &["downgrade", id, "--steps", steps]);
        assert_eq!(world.versions(id).len(), remaining, "{steps} steps");
        assert_eq!(world.tables(id).len(), remaining, "{steps} steps");
        let reverted = report.project(id)["migrations"].as_array().unwrap().len();
        assert_eq!(reverted, 6 - remaining);
    }
}

fn a_row_of_the_migrations_own_may_be_deleted_again(world: &mut World) {
    let first = (
        "1_roles",
        "CREATE TABLE roles (id INTEGER PRIMARY KEY, name TEXT);\nINSERT INTO roles (id, name) VALUES (1, 'a'), (2, 'b');",
    );
    let second = ("2_fewer", "DELETE FROM roles WHERE id = 2;");
    world.with_migrations(&[first, second]).expect(0, &["create", "new"]);
    assert_eq!(world.query("new", "SELECT id FROM roles"), ["1"]);
    // A database without tables has no application rows either.
    let nothing = world.either("PRAGMA user_version = 1", "SELECT 1");
    world.with_project("empty", nothing).expect(0, &["upgrade", "empty"]);
    assert_eq!(world.query("empty", "SELECT id FROM roles"), ["1"]);
    // In an existing project the rows may be the application's, so deleting them has to be declared.
    world.with_migrations(&[first]).expect(0, &["create", "old"]);
    world.with_migrations(&[first, second]);
    let report = world.expect(3, &["upgrade", "old"]);
    assert_eq!(report.error("old").0, "rows_lost");
    assert_eq!(world.query("old", "SELECT count(*) FROM roles"), ["2"]);
}

fn a_row_loss_is_allowed_for_a_named_migration(world: &mut World) {
    let first = ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);");
    let second = ("2_fewer", "DELETE FROM notes WHERE text = 'old';");
    let third = ("3_none", "DELETE FROM notes;");
    world.with_migrations(&[first]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO notes (text) VALUES ('old'), ('new')");
    world.with_migrations(&[first, second, third]);
    // Naming another migration does not allow the loss.
    world.expect(3, &["upgrade", "a", "--to", "2", "--allow-row-loss", "3"]);
    world.expect(2, &["upgrade", "a", "--allow-row-loss", "7"]);
    world.expect(0, &["upgrade", "a", "--to", "2", "--allow-row-loss", "2"]);
    assert_eq!(world.query("a", "SELECT text FROM notes"), ["new"]);
    let yes = world.either("1", "t");
    let forced = "SELECT version FROM tenantry_history WHERE CAST(forced AS char(1)) = ";
    assert_eq!(world.query("a", &format!("{forced}'{yes}'")), ["2"]);
    world.expect(3, &["upgrade", "a"]);
}

fn a_migration_of_comments_reserves_a_number(world: &mut World) {
    world.with_migrations(&[
        ("1_one", "CREATE TABLE one (id INTEGER);\n-- down\nDROP TABLE one;"),
        ("2_reserved", "-- number 2 is taken by a branch\n-- down\n-- nothing to revert\n"),
        ("3_three", "CREATE TABLE three (id INTEGER);\n-- down\n"),
    ]);
    world.expect(0, &["create", "a"]);
    assert_eq!(world.versions("a"), ["1", "2", "3"]);
    world.expect(0, &["downgrade", "a", "--to", "3"]);
    world.execute("a", "DROP TABLE three");
    world.expect(0, &["stamp", "a", "--to", "2", "--force"]);
    world.expect(0, &["downgrade", "a", "--steps", "2"]);
    assert_eq!(world.tables("a"), Vec::<String>::new());
}

fn a_fault_in_a_down_script_hinders_only_the_downgrade(world: &mut World) {
    world.with_migrations(&[
        ("1_one", "CREATE TABLE one (id INTEGER);\n-- down\nDROP TABLE one;\nCOMMIT;"),
        ("2_two", "CREATE TABLE two (id INTEGER);\n-- down\nDROP TABLE two;"),
    ]);
    world.expect(0, &["create", "a"]);
    world.expect(0, &["upgrade-all"]);
    world.expect(0, &["downgrade", "a", "--steps", "1"]);
    let report = world.expect(4, &["downgrade", "a", "--steps", "1"]);
    let (code, message) = report.problem("a");
    assert_eq!(code, "irreversible");
    assert!(message.contains("1_one/down.sql:2") && message.contains("COMMIT"), "{message}");
}

fn a_stray_file_is_told_and_passed_over(world: &mut World) {
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    std::fs::write(world.folder().join("migrations/data_x.sql"), "INSERT INTO one VALUES (1);").unwrap();
    let report = world.expect(0, &["create", "a"]);
    let skipped = report.events("left_out");
    assert!(skipped[0]["name"].as_str().unwrap().ends_with("migrations/data_x.sql"), "{skipped:?}");
    assert_eq!(world.query("a", "SELECT count(*) FROM one"), ["0"]);
}

fn folders_of_dialects_have_several_names(world: &mut World) {
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    let root = world.folder().join("migrations");
    for (sqlite, postgres) in [("sqlite3", "pg"), ("sqlite", "postgresql")] {
        let inner = root.join(world.either(sqlite, postgres));
        let other = root.join(world.either(postgres, sqlite));
        std::fs::create_dir_all(other.join("9_other")).unwrap();
        std::fs::write(other.join("9_other/up.sql"), "CREATE TABLE other (id INTEGER);").unwrap();
        std::fs::create_dir(&inner).unwrap();
        let from = if sqlite == "sqlite3" {
            root.join("1_one")
        } else {
            root.join(world.either("sqlite3", "pg")).join("1_one")
        };
        std::fs::rename(from, inner.join("1_one")).unwrap();
        if sqlite == "sqlite3" {
            world.expect(0, &["create", "a"]);
            assert_eq!(world.tables("a"), ["one"]);
        } else {
            // Two folders for the same dialect are an error.
            world.expect(2, &["create", "b"]);
        }
    }
}

/// The first migration deletes a parent row, the second fixes the row that referenced it.
fn a_violation_that_a_later_migration_mends_is_none(world: &mut World) {
    let tables = (
        "1_tables",
        "CREATE TABLE parents (id INTEGER PRIMARY KEY);\n\
         CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (id));",
    );
    let rebuild = world.either(
        "CREATE TABLE fresh (id INTEGER PRIMARY KEY);\nINSERT INTO fresh SELECT id FROM parents WHERE id > 1;\n\
         DROP TABLE parents;\nALTER TABLE fresh RENAME TO parents;\n-- metadata\nrun_in_transaction = true\n\
         deletes_rows_from = [\"parents\"]\n",
        "ALTER TABLE children DROP CONSTRAINT children_parent_fkey;\nDELETE FROM parents WHERE id = 1;\n-- metadata\n\
         run_in_transaction = true\ndeletes_rows_from = [\"parents\"]\n",
    );
    let fix = world.either(
        "UPDATE children SET parent = NULL WHERE parent NOT IN (SELECT id FROM parents);",
        "UPDATE children SET parent = NULL WHERE parent NOT IN (SELECT id FROM parents);\n\
         ALTER TABLE children ADD FOREIGN KEY (parent) REFERENCES parents (id);",
    );
    world.with_migrations(&[tables]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO parents VALUES (1), (2); INSERT INTO children VALUES (1, 1), (2, 2)");
    world.with_migrations(&[tables, ("2_rebuild", rebuild), ("3_fix", fix)]);
    if !world.is_postgres() {
        // Without the fix the upgrade is refused, and the error names the migration that caused the violation.
        let report = world.expect(3, &["upgrade", "a", "--to", "2"]);
        assert_eq!(report.error("a").0, "foreign_keys");
        assert_eq!(report.project("a")["error"]["migration"], "2_rebuild");
    }
    world.expect(0, &["upgrade", "a"]);
    world.assert_sound("a");
    assert_eq!(world.query("a", "SELECT coalesce(parent, 0) FROM children ORDER BY id"), ["0", "2"]);
}

/// Every pragma that SQLite documents, with a value if it takes one.
const PRAGMAS: &[&str] = &[
    "analysis_limit = 100",
    "application_id = 7",
    "auto_vacuum = FULL",
    "automatic_index = 0",
    "busy_timeout = 1000",
    "cache_size = 100",
    "cache_spill = 0",
    "case_sensitive_like = 1",
    "cell_size_check = 1",
    "checkpoint_fullfsync = 1",
    "collation_list",
    "compile_options",
    "count_changes = 1",
    "data_version",
    "database_list",
    "default_cache_size = 100",
    "defer_foreign_keys = 1",
    "empty_result_callbacks = 1",
    "encoding = 'UTF-16'",
    "foreign_key_check",
    "foreign_key_list(one)",
    "foreign_keys = OFF",
    "freelist_count",
    "full_column_names = 0",
    "fullfsync = 1",
    "function_list",
    "hard_heap_limit = 100000000",
    "ignore_check_constraints = 1",
    "incremental_vacuum",
    "index_info(x)",
    "index_list(one)",
    "index_xinfo(x)",
    "integrity_check",
    "journal_mode = WAL",
    "journal_mode = DELETE",
    "journal_mode = TRUNCATE",
    "journal_mode = MEMORY",
    "journal_mode = OFF",
    "journal_size_limit = 100000",
    "legacy_alter_table = 0",
    "legacy_file_format",
    "locking_mode = EXCLUSIVE",
    "max_page_count = 100000",
    "mmap_size = 0",
    "module_list",
    "optimize",
    "page_count",
    "page_size = 8192",
    "pragma_list",
    "quick_check",
    "read_uncommitted = 1",
    "recursive_triggers = 1",
    "reverse_unordered_selects = 0",
    "secure_delete = 1",
    "short_column_names = 1",
    "shrink_memory",
    "soft_heap_limit = 100000000",
    "synchronous = NORMAL",
    "table_info(one)",
    "table_list",
    "table_xinfo(one)",
    "temp_store = MEMORY",
    "threads = 1",
    "trusted_schema = 0",
    "user_version = 7",
    "wal_autocheckpoint = 100",
    "wal_checkpoint",
    "wal_checkpoint(TRUNCATE)",
    "schema_version = 3",
    "query_only = 1",
];

fn every_pragma_does_in_a_run_what_the_dry_run_said(world: &mut World) {
    let one = ("1_one", "CREATE TABLE one (id INTEGER);\nCREATE INDEX x ON one (id);");
    for (number, pragma) in PRAGMAS.iter().enumerate() {
        for journal in ["DELETE", "WAL"] {
            let (id, new) = (format!("{journal}{number}"), format!("new{journal}{number}"));
            world.with_migrations(&[one]).expect(0, &["create", &id]);
            world.execute(&id, "INSERT INTO one VALUES (1)");
            let mode = world.query(&id, &format!("PRAGMA journal_mode = {journal}"));
            assert_eq!(mode, [journal.to_ascii_lowercase()]);
            let two =
                format!("CREATE TABLE two (id INTEGER);\nPRAGMA {pragma};\nCREATE TABLE three (id INTEGER);");
            world.with_migrations(&[one, ("2_two", &two)]);
            let dry = world.run(&["upgrade", &id, "--dry-run"]).code;
            let real = world.run(&["upgrade", &id]);
            assert_eq!(dry, real.code, "{pragma} on {journal}: {}{}", real.stdout, real.stderr);
            let refused = ["schema_version", "query_only"].iter().any(|name| pragma.starts_with(name));
            assert_eq!(
                dry,
                if refused { 2 } else { 0 },
                "{pragma} on {journal}: {}{}",
                real.stdout,
                real.stderr
            );
            if dry == 0 {
                assert_eq!(world.versions(&id), ["1", "2"], "{pragma} on {journal}");
                world.assert_sound(&id);
                world.expect(0, &["create", &new]);
            }
        }
    }
}

fn a_file_changes_its_journal_before_the_migrations_run(world: &mut World) {
    let one = ("1_one", "CREATE TABLE one (id INTEGER);");
    let wal =
        ("2_wal", "PRAGMA journal_mode = WAL;\nPRAGMA synchronous = NORMAL;\nCREATE TABLE two (id INTEGER);");
    let full = (
        "1_one",
        "PRAGMA auto_vacuum = INCREMENTAL;\nPRAGMA page_size = 8192;\nCREATE TABLE one (id INTEGER);",
    );
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    world.with_migrations(&[one, wal]).expect(0, &["upgrade", "a"]);
    assert_eq!(world.query("a", "PRAGMA journal_mode"), ["wal"]);
    world.expect(0, &["create", "b"]);
    assert_eq!(world.query("b", "PRAGMA journal_mode"), ["wal"]);
    world.with_migrations(&[full]).expect(0, &["create", "c"]);
    assert_eq!(world.query("c", "PRAGMA auto_vacuum"), ["2"]);
    assert_eq!(world.query("c", "PRAGMA page_size"), ["8192"]);
}

fn what_could_not_be_checked_is_named(world: &mut World) {
    if world.is_postgres() {
        let sql = "CREATE TABLE one (id INTEGER);\nCREATE TABLE two (id INTEGER PRIMARY KEY);\n\
                   ALTER TABLE one ADD CHECK (id > 0) NOT VALID;\n\
                   ALTER TABLE one ADD CONSTRAINT other FOREIGN KEY (id) REFERENCES two (id) NOT VALID;";
        world.with_migrations(&[("1_one", sql)]).expect(0, &["create", "a"]);
        // Constraints that the migrations leave unvalidated are notes.
        let report = world.expect(0, &["check", "a"]);
        assert_eq!(report.project("a")["notes"].as_array().unwrap().len(), 2, "{:?}", report.project("a"));
        world.expect(0, &["backup", "create", "a"]);
        world.expect(0, &["backup", "check", "a", "--level", "4"]);
        world.expect(0, &["backup", "restore", "a", "--as", "b"]);
        // An unvalidated constraint that no migration created fails the check.
        world.execute("a", "ALTER TABLE one ADD CONSTRAINT by_hand CHECK (id < 9) NOT VALID");
        assert!(world.expect(3, &["check", "a"]).error("a").1.contains("by_hand"));
        return;
    }
    let tables = "CREATE TABLE one (id INTEGER PRIMARY KEY, t TEXT);\n\
                  CREATE TABLE two (id INTEGER PRIMARY KEY, p INTEGER REFERENCES one (id));\n\
                  CREATE TABLE three (a TEXT, b TEXT REFERENCES one (t));";
    world.with_migrations(&[("1_one", tables)]).expect(0, &["create", "a", "b"]);
    // The referenced column is not unique, so SQLite cannot check the foreign key.
    let report = world.expect(0, &["check", "a"]);
    let notes = report.project("a")["notes"].to_string();
    assert!(notes.contains("not checked") && notes.contains("three"), "{notes}");
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a"]);
    // A table rebuild, for which rows are counted, succeeds, and a dangling reference is still found.
    let rebuild = "CREATE TABLE fresh (id INTEGER PRIMARY KEY, t TEXT);\nINSERT INTO fresh SELECT * FROM one;\n\
                   DROP TABLE one;\nALTER TABLE fresh RENAME TO one;";
    world.with_migrations(&[("1_one", tables), ("2_two", rebuild)]);
    world.execute(
        "b",
        "PRAGMA foreign_keys = OFF; INSERT INTO one (id) VALUES (1); INSERT INTO two VALUES (1, 7)",
    );
    world.expect(0, &["upgrade-all"]);
    let report = world.expect(3, &["check", "b"]);
    assert!(
        report.error("b").1.contains("1 row(s) of two reference missing rows of one"),
        "{:?}",
        report.error("b")
    );
    // A collation that only the application registers.
    let connection = world.connect("a");
    connection
        .execute_batch(
            "CREATE INDEX by_t ON one (t COLLATE NOCASE); INSERT INTO one (t) VALUES ('x'); PRAGMA writable_schema = ON; \
             UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'LOCAL') WHERE name = 'by_t'",
        )
        .unwrap();
    drop(connection);
    let report = world.expect(0, &["check", "a"]);
    let notes = report.project("a")["notes"].to_string();
    assert!(notes.contains("no such collation sequence: LOCAL"), "{notes}");
    world.expect(0, &["backup", "create", "a"]);
    let report = world.expect(0, &["backup", "check", "a"]);
    let steps = report.project("a")["steps"].to_string();
    assert!(steps.contains("not checked: one: no such collation"), "{steps}");
}

/// Values that a script generates, such as secrets or times, must not be shared by projects.
fn what_a_script_makes_up_is_no_other_projects(world: &mut World) {
    let secret = world.either(
        "CREATE TABLE secrets (secret TEXT);\nINSERT INTO secrets VALUES (hex(randomblob(16)));",
        "CREATE TABLE secrets (secret text);\nINSERT INTO secrets VALUES (gen_random_uuid());",
    );
    std::fs::write(world.folder().join("tenantry.toml"), world.either("", "[store]\nspares = 3\n")).unwrap();
    world.with_migrations(&[("1_secrets", secret)]);
    if world.is_postgres() {
        world.expect(0, &["spares"]);
    }
    let report = world.expect(0, &["create", "a", "b", "c"]);
    let notes = report.events("note");
    assert_eq!(notes.len(), 1);
    assert!(notes[0]["message"].as_str().unwrap().contains("1_secrets/up.sql:2"), "{notes:?}");
    let secret_of = |id: &str| world.query(id, "SELECT secret FROM secrets").join("");
    assert!(
        secret_of("a") != secret_of("b") && secret_of("b") != secret_of("c") && secret_of("a").len() > 30
    );
    // With `same_for_all_projects`, one value is generated for all.
    let shared = format!("{secret}\n-- metadata\nrun_in_transaction = true\nsame_for_all_projects = true\n");
    world.with_migrations(&[("1_secrets", &shared)]);
    assert!(world.expect(0, &["create", "d", "e"]).events("note").is_empty());
    if !world.is_postgres() {
        let secret_of = |id: &str| world.query(id, "SELECT secret FROM secrets").join("");
        assert_eq!(secret_of("d"), secret_of("e"));
    }
    // A default is evaluated only when a row is written, so without a row there is no note.
    let default = world.either("CURRENT_TIMESTAMP", "now()");
    let table = format!("CREATE TABLE notes (made TEXT DEFAULT {default});");
    world.with_migrations(&[("1_notes", &table)]);
    assert!(world.expect(0, &["create", "f"]).events("note").is_empty());
    let row = format!("{table}\nINSERT INTO notes DEFAULT VALUES;");
    world.with_migrations(&[("1_notes", &row)]);
    assert_eq!(world.expect(0, &["create", "g"]).events("note").len(), 1);
}

fn a_set_that_leaves_nothing_has_a_ledger_all_the_same(world: &mut World) {
    let gone = ("2_gone", "DROP TABLE one;");
    for (id, set) in
        [("a", &[("1_one", "SELECT 1;")][..]), ("b", &[("1_one", "CREATE TABLE one (id INTEGER);"), gone])]
    {
        world.with_migrations(set).expect(0, &["create", id]);
        assert_eq!(world.versions(id).len(), set.len());
        assert_eq!(world.expect(0, &["status", id]).outcome(id), "up_to_date");
        world.expect(0, &["backup", "create", id]);
        world.expect(0, &["backup", "check", id]);
    }
    assert_eq!(world.run(&["list"]).stdout.lines().count(), 2);
}

fn a_script_may_name_the_ledger(world: &mut World) {
    let trigger = world.either(
        "CREATE TABLE log (version TEXT);\nCREATE TRIGGER t AFTER INSERT ON __diesel_schema_migrations BEGIN INSERT INTO log VALUES \
         (new.version); END;",
        "CREATE TABLE log (version TEXT);\nCREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES \
         (NEW.version); RETURN NEW; END $$;\nCREATE TRIGGER t AFTER INSERT ON __diesel_schema_migrations FOR EACH ROW EXECUTE \
         FUNCTION f();",
    );
    world.with_migrations(&[("1_log", trigger)]).expect(0, &["create", "a"]);
    assert_eq!(world.query("a", "SELECT version FROM log"), ["1"]);
    world.with_migrations(&[("1_log", trigger), ("2_two", "CREATE TABLE two (id INTEGER);")]);
    world.expect(0, &["upgrade-all"]);
    assert_eq!(world.query("a", "SELECT version FROM log ORDER BY 1"), ["1", "2"]);
}

fn an_export_replaces_nothing_unasked(world: &mut World) {
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]).expect(0, &["create", "a"]);
    let file = world.folder().join("out.sql");
    std::fs::write(&file, "precious").unwrap();
    let ran = world.run(&["export", "a", "--output", file.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("hint:") && ran.stderr.contains("--force"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    world.expect(0, &["export", "a", "--output", file.to_str().unwrap(), "--force"]);
    assert!(std::fs::read_to_string(&file).unwrap().contains("CREATE TABLE"));
    // A failed export leaves no file.
    let other = world.folder().join("none.sql");
    let ran = world.run(&["export", "nobody", "--output", other.to_str().unwrap()]);
    assert_eq!((ran.code, other.exists()), (2, false), "{}", ran.stderr);
}

fn a_table_made_anew_gives_no_number_out_again(world: &mut World) {
    let kind = world
        .either("INTEGER PRIMARY KEY AUTOINCREMENT", "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY");
    let one = format!("CREATE TABLE notes (id {kind}, text TEXT);\nCREATE TABLE others (id {kind});");
    let rebuild = format!(
        "CREATE TABLE notes_new (id {kind}, text TEXT, more TEXT);\nINSERT INTO notes_new (id, text) SELECT id, text FROM notes;\n\
         DROP TABLE notes;\nALTER TABLE notes_new RENAME TO notes;"
    );
    let insert = "INSERT INTO notes (text) VALUES ('a'), ('b'), ('c'); DELETE FROM notes WHERE id = 3";
    for (id, restart, next) in [
        ("a", "", "4"),
        (
            "b",
            world.either(
                "\nUPDATE sqlite_sequence SET seq = 9 WHERE name = 'notes';",
                "\nALTER TABLE notes ALTER id RESTART 10;",
            ),
            "10",
        ),
    ] {
        world.with_migrations(&[("1_one", &one)]).expect(0, &["create", id]);
        world.execute(id, insert);
        world.with_migrations(&[("1_one", &one), ("2_two", &format!("{rebuild}{restart}"))]);
        let report = world.expect(0, &["upgrade", id]);
        let notes = report.project(id)["notes"].to_string();
        assert_eq!(notes.contains("continues after 3"), restart.is_empty(), "{notes}");
        world.execute(id, "INSERT INTO notes (text) VALUES ('d')");
        assert_eq!(world.query(id, "SELECT max(id) FROM notes"), [next]);
    }
}

fn a_down_script_that_leads_elsewhere_is_told_beforehand(world: &mut World) {
    world.with_migrations(&[
        ("1_one", "CREATE TABLE one (a INTEGER, b INTEGER, c INTEGER);\n-- down\nDROP TABLE one;"),
        ("2_two", "CREATE TABLE two (id INTEGER);\nCREATE INDEX two_id ON two (id);\n-- down\nDROP TABLE two;\nCREATE INDEX left_over ON one (a);"),
        ("3_three", "CREATE TABLE three (id INTEGER);\n-- down\nDROP TABLE absent;"),
        ("4_four", "CREATE TABLE four (id INTEGER);\n-- down\nDROP TABLE four;"),
    ]);
    world.expect(0, &["create", "a"]);
    let list = world.run(&["migration", "list"]).stdout;
    let line = |version: &str| list.lines().find(|line| line.starts_with(version)).unwrap().to_string();
    assert!(line("2").contains("extra index left_over"), "{list}");
    assert!(line("3").contains("absent"), "{list}");
    assert!(!line("1").contains("revert") && !line("4").contains("revert"), "{list}");
    // A down script that leads back to the earlier schema is run. Others are refused before anything is changed.
    assert_eq!(world.expect(0, &["downgrade", "a", "--steps", "1"]).outcome("a"), "downgraded");
    let before = world.snapshot();
    for arguments in [&["downgrade", "a", "--to", "1", "--dry-run"][..], &["downgrade", "a", "--to", "1"]] {
        let report = world.expect(4, arguments);
        let (code, message) = report.problem("a");
        assert_eq!(code, "leads_elsewhere");
        assert!(
            message.contains("2_two: extra index left_over") && !message.contains("3_three"),
            "{message}"
        );
        let failing = &report.project("a")["problems"][1];
        assert_eq!(failing["code"], "failing_down");
        assert!(failing["message"].as_str().unwrap().contains("3_three"), "{failing}");
    }
    assert!(before == world.snapshot());
    // With `--allow-drift`, a script that leads elsewhere is run anyway, and the ledger records it as forced.
    world.execute("a", "CREATE TABLE absent (id INTEGER)");
    world.expect(4, &["downgrade", "a", "--steps", "1"]);
    world.execute("a", "DROP TABLE absent; DROP TABLE three");
    world.expect(0, &["stamp", "a", "--to", "2", "--force"]);
    let report = world.expect(0, &["downgrade", "a", "--steps", "1", "--allow-drift"]);
    assert!(report.project("a")["notes"].to_string().contains("left_over"), "{:?}", report.project("a"));
    assert_eq!(world.versions("a"), ["1"]);
    let yes = world.either("1", "t");
    let forced = format!(
        "SELECT version FROM tenantry_history WHERE CAST(forced AS char(1)) = '{yes}' AND action = 'revert'"
    );
    assert_eq!(world.query("a", &forced), ["2"]);
    assert_eq!(world.expect(4, &["upgrade", "a"]).problem("a").0, "drifted");
}

fn the_order_of_columns_is_a_note(world: &mut World) {
    let one = ("1_one", "CREATE TABLE one (a INTEGER, b INTEGER, c INTEGER);");
    let two = ("2_two", "ALTER TABLE one DROP COLUMN b;\n-- down\nALTER TABLE one ADD COLUMN b INTEGER;");
    let three = ("3_three", "CREATE TABLE three (id INTEGER);");
    world.with_migrations(&[one, two]).expect(0, &["create", "a"]);
    let message = "column order is a, c, b, expected a, b, c";
    let notes = |report: &crate::world::Report, id: &str| report.project(id)["notes"].to_string();
    let report = world.expect(0, &["downgrade", "a", "--steps", "1"]);
    assert!(notes(&report, "a").contains(message), "{}", notes(&report, "a"));
    world.with_migrations(&[one, three]);
    // An upgrade from there succeeds, and the note remains.
    let report = world.expect(0, &["upgrade", "a"]);
    assert!(notes(&report, "a").contains(message), "{}", notes(&report, "a"));
    assert_eq!(world.expect(0, &["upgrade", "a", "--dry-run"]).outcome("a"), "up_to_date");
    // A takeover accepts the order as well, with a note.
    world.with_project("b", "CREATE TABLE one (c INTEGER, a INTEGER, b INTEGER)");
    let report = world.expect(0, &["upgrade", "b"]);
    assert_eq!(report.project("b")["stamped"], "1");
    assert!(notes(&report, "b").contains("column order is c, a, b"), "{}", notes(&report, "b"));
    // A different column is not a matter of order.
    world.with_project("c", "CREATE TABLE one (c INTEGER, a INTEGER, d INTEGER)");
    assert_eq!(world.expect(4, &["upgrade", "c"]).problem("c").0, "needs_baseline");
}

/// A rebuild outside a transaction does not reuse numbers either, and the report has the same note.
fn a_table_made_anew_outside_a_transaction_keeps_its_numbers(world: &mut World) {
    let kind = world
        .either("INTEGER PRIMARY KEY AUTOINCREMENT", "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY");
    let one = format!("CREATE TABLE notes (id {kind}, text TEXT);");
    // The words in the script's comment do not set a sequence.
    let rebuild = format!(
        "-- restart, setval, sqlite_sequence\nCREATE TABLE notes_new (id {kind}, text TEXT, more TEXT);\n\
         INSERT INTO notes_new (id, text) SELECT id, text FROM notes;\nDROP TABLE notes;\n\
         ALTER TABLE notes_new RENAME TO notes;\n-- metadata\nrun_in_transaction = false\n"
    );
    world.with_migrations(&[("1_one", &one)]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO notes (text) VALUES ('a'), ('b'), ('c'); DELETE FROM notes WHERE id = 3");
    world.with_migrations(&[("1_one", &one), ("2_two", &rebuild)]);
    let report = world.expect(0, &["upgrade", "a"]);
    assert!(
        report.project("a")["notes"].to_string().contains("continues after 3"),
        "{:?}",
        report.project("a")
    );
    world.execute("a", "INSERT INTO notes (text) VALUES ('d')");
    assert_eq!(world.query("a", "SELECT max(id) FROM notes"), ["4"]);
}
