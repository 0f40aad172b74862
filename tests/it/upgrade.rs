//! Upgrades and downgrades: all or nothing, verified, and refused with every reason.

use crate::world::World;

on_each_store!(
    all_pending_migrations_commit_together,
    a_failing_statement_is_named_with_its_line_and_changes_nothing,
    one_projects_trouble_is_its_own,
    to_stops_at_a_version,
    down_and_up_again_gives_the_same_schema_at_every_version,
    a_downgrade_without_a_down_script_is_refused,
    an_edited_migration_is_refused,
    other_line_ends_are_no_edit,
    trap_6_a_database_ahead_of_the_code_is_refused,
    a_skipped_migration_is_refused,
    drift_is_refused_or_kept,
    a_run_says_of_drift_what_the_dry_run_said,
    a_difference_that_was_passed_over_is_told_ever_after,
    a_version_that_somebody_wrote_by_hand_is_not_believed,
    every_problem_is_told_not_the_first,
    a_lost_row_is_refused_unless_declared,
    a_row_that_a_trigger_deletes_is_missed,
    a_row_lost_behind_a_rename_is_missed,
    a_declaration_speaks_for_its_own_migration_only,
    a_row_lost_outside_a_transaction_leaves_the_project_dirty,
    a_foreign_key_violated_at_the_commit_is_named,
    a_script_that_leaves_a_transaction_open_is_named,
    a_version_that_cannot_be_checked_is_stamped_by_force_only,
    a_reviewed_edit_is_accepted_by_force,
    a_target_on_the_other_side_is_said,
    a_schema_that_depends_on_data_is_not_verified,
    a_migration_outside_a_transaction_stands_alone,
    a_failed_migration_outside_a_transaction_leaves_the_project_dirty,
    only_and_except_choose_projects,
    max_failures_leaves_the_rest_not_started,
    dangling_references_become_null,
);

const ONE: (&str, &str) =
    ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);\n-- down\nDROP TABLE one;");
const TWO: (&str, &str) = ("2_two", "CREATE TABLE two (id INTEGER PRIMARY KEY);\n-- down\nDROP TABLE two;");

fn all_pending_migrations_commit_together(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.with_migrations(&[
        ONE,
        TWO,
        ("3_three", "CREATE TABLE three (x INTEGER);\n\nINSERT INTO three\nVALUES (1, 2);"),
    ]);
    let before = world.snapshot();
    // A migration that fails on an empty database is an error of the catalog: no project is opened.
    let ran = world.run(&["upgrade-all"]);
    assert_eq!(ran.code, 2, "{}", ran.stdout);
    let place = world.either("3_three/up.sql:3", "3_three/up.sql:4");
    let cause = world.either("1 columns but 2 values", "more expressions than target columns");
    for part in ["migration 3_three", place, cause, "hint:"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    assert!(before == world.snapshot());
    // A migration that fails on a project's rows also rolls back the migrations before it.
    let fill =
        world.either("INSERT INTO two SELECT x FROM one;", "INSERT INTO two SELECT x::integer FROM one;");
    world.with_migrations(&[ONE, TWO, ("3_three", fill)]);
    world.execute("a", "INSERT INTO one (x) VALUES ('no number')");
    world.expect(3, &["upgrade-all"]);
    assert_eq!(world.versions("a"), ["1"]);
    assert_eq!(world.tables("a"), ["one"]);
    world.execute("a", "DELETE FROM one");
    assert_eq!(world.expect(0, &["upgrade-all"]).project("a")["migrations"], serde_json::json!(["2", "3"]));
}

fn a_failing_statement_is_named_with_its_line_and_changes_nothing(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO one (x) VALUES ('twice'), ('twice')");
    let text = "-- a comment; with a semicolon\n\nCREATE TABLE fine (id INTEGER);\nCREATE UNIQUE INDEX ix\n  ON one (x);";
    world.with_migrations(&[ONE, ("2_unique", text)]);
    let report = world.expect(3, &["upgrade-all"]);
    let error = &report.project("a")["error"];
    let cause = world.either("UNIQUE constraint failed", "could not create unique index");
    assert_eq!(
        (&error["kind"], &error["migration"], &error["line"]),
        (&"migration".into(), &"2_unique".into(), &4.into())
    );
    assert!(error["message"].as_str().unwrap().contains(cause), "{error}");
    assert!(error["hint"].is_string());
    assert_eq!(world.versions("a"), ["1"]);
}

fn one_projects_trouble_is_its_own(world: &mut World) {
    world.with_migrations(&[ONE]);
    let ids: Vec<String> = (1..=100).map(|id| id.to_string()).collect();
    let arguments: Vec<&str> = std::iter::once("create").chain(ids.iter().map(String::as_str)).collect();
    assert_eq!(world.expect(0, &arguments).count("created"), 100);
    world.with_migrations(&[ONE, TWO]);

    // On Postgres no project can be made read-only for the tests' role, a superuser. One project fewer fails there.
    let healthy = world.either(95, 96);
    let hold = "BEGIN; LOCK TABLE __diesel_schema_migrations";
    let locked =
        world.application("10", world.either("BEGIN EXCLUSIVE; INSERT INTO one (x) VALUES ('held')", hold));
    if world.is_postgres() {
        world.execute("20", "ALTER TABLE __diesel_schema_migrations RENAME COLUMN version TO number");
    } else {
        let mut bytes = std::fs::read(world.path("20")).unwrap();
        bytes[100..].fill(0xA5);
        std::fs::write(world.path("20"), bytes).unwrap();
        let mut read_only = world.path("30").metadata().unwrap().permissions();
        read_only.set_readonly(true);
        std::fs::set_permissions(world.path("30"), read_only).unwrap();
    }
    world.execute("40", "ALTER TABLE one ADD COLUMN drifted TEXT");
    world.execute("50", "INSERT INTO __diesel_schema_migrations (version) VALUES ('9')");

    let report = world.expect(3, &["--lock-timeout", "0.3", "upgrade-all"]);
    assert_eq!(
        (report.count("upgraded"), report.count("failed"), report.count("blocked")),
        (healthy, 2, 98 - healthy)
    );
    assert_eq!(report.error("10").0, "locked");
    assert_eq!(report.error("20").0, "corrupt");
    if !world.is_postgres() {
        assert_eq!(report.problem("30").0, "read_only");
    }
    assert_eq!(report.problem("40").0, "drifted");
    assert_eq!(report.problem("50").0, "unknown");
    drop(locked);

    let human = world.run(&["--lock-timeout", "0.3", "upgrade-all"]).stdout;
    let position = |text: &str| human.find(text).unwrap_or_else(|| panic!("no {text:?} in {human}"));
    assert!(position("FAILED corrupt") < position("BLOCKED drifted"), "{human}");
    assert!(human.contains("1 upgraded") && human.contains(&format!("{healthy} up to date")), "{human}");
}

fn to_stops_at_a_version(world: &mut World) {
    world.with_migrations(&[ONE, TWO]).with_project("a", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT)");
    assert_eq!(world.expect(0, &["upgrade-all", "--to", "1"]).outcome("a"), "stamped");
    assert_eq!(world.expect(5, &["status", "--check"]).project("a")["migrations"], serde_json::json!(["2"]));
    assert_eq!(world.expect(0, &["upgrade", "a", "--to", "2_two"]).outcome("a"), "upgraded");
    assert_eq!(world.expect(0, &["upgrade", "a", "--to", "1"]).outcome("a"), "up_to_date");
    let ran = world.run(&["upgrade", "a", "--to", "3"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("its versions are 1, 2"), "{}", ran.stderr);
}

fn down_and_up_again_gives_the_same_schema_at_every_version(world: &mut World) {
    world.expect(0, &["create", "a"]);
    world.with_legacy_as(2, "b").expect(0, &["upgrade", "b"]);
    let rows = world.contents("b");
    // Each step verifies the fingerprint of its target version. The last step would drop the tables with all rows.
    for id in ["a", "b"] {
        for remaining in [2, 1] {
            world.expect(0, &["downgrade", id, "--steps", "1"]);
            assert_eq!(world.versions(id).len(), remaining);
        }
    }
    assert_eq!(rows, world.contents("b"));
    world.assert_sound("b");
    for id in ["a", "b"] {
        assert_eq!(world.expect(0, &["upgrade", id]).outcome(id), "upgraded");
    }
    assert_eq!(rows, world.contents("b"));
    assert_eq!(world.expect(0, &["downgrade", "a", "--to", "0"]).project("a")["to"], "0");
    assert_eq!(world.contents("a").len(), 0);
    assert_eq!(world.expect(0, &["upgrade", "a"]).project("a")["from"], "0");
    let history = world.query("a", "SELECT action, count(*) FROM tenantry_history GROUP BY 1 ORDER BY 1");
    assert_eq!(history, ["apply|8", "revert|5"]);
}

fn a_downgrade_without_a_down_script_is_refused(world: &mut World) {
    world.with_migrations(&[ONE, ("2_two", "CREATE TABLE two (id INTEGER);")]);
    world.expect(0, &["create", "a"]);
    let before = world.snapshot();
    let report = world.expect(4, &["downgrade", "a", "--to", "0"]);
    assert_eq!(report.problem("a"), ("irreversible", "no down.sql that can be run: 2_two"));
    assert!(before == world.snapshot());
}

fn an_edited_migration_is_refused(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT); -- changed"), TWO]);
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!(report.problem("a"), ("edited", "migrations edited after they were applied: 1_one"));
    assert_eq!(world.versions("a"), ["1"]);
}

fn other_line_ends_are_no_edit(world: &mut World) {
    let unix = "CREATE TABLE one (\n    id INTEGER PRIMARY KEY,\n    x TEXT\n);\n";
    world.with_migrations(&[("1_one", unix)]).expect(0, &["create", "a"]);
    world.with_migrations(&[("1_one", &unix.replace('\n', "\r\n")), TWO]);
    let report = world.expect(0, &["upgrade-all"]);
    assert_eq!(
        report.project("a")["notes"],
        serde_json::json!(["1_one has different line endings than when it was applied"])
    );
}

fn trap_6_a_database_ahead_of_the_code_is_refused(world: &mut World) {
    world.with_migrations(&[ONE, TWO]).expect(0, &["create", "a"]);
    world.with_migrations(&[ONE]);
    let before = world.snapshot();
    for arguments in
        [&["upgrade-all"][..], &["stamp", "a", "--to", "1", "--force"], &["downgrade", "a", "--steps", "1"]]
    {
        let report = world.expect(4, arguments);
        assert_eq!(
            report.problem("a"),
            ("unknown", "its ledger has versions that are not in the migration set: 2")
        );
    }
    assert!(before == world.snapshot());
}

fn a_skipped_migration_is_refused(world: &mut World) {
    world
        .with_migrations(&[ONE, ("3_three", "CREATE TABLE three (id INTEGER);")])
        .expect(0, &["create", "a"]);
    world.with_migrations(&[ONE, TWO, ("3_three", "CREATE TABLE three (id INTEGER);")]);
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!(report.problem("a"), ("out_of_order", "not applied, although a later version is: 2_two"));
}

fn drift_is_refused_or_kept(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a", "b"]);
    world.execute("a", "CREATE INDEX by_hand ON one (x)");
    world.execute("b", "CREATE TABLE two (id INTEGER PRIMARY KEY)");
    world.with_migrations(&[ONE, ("2_two", "CREATE TABLE IF NOT EXISTS two (id INTEGER PRIMARY KEY);")]);
    let report = world.expect(4, &["upgrade-all"]);
    assert!(report.problem("a").1.contains("extra index by_hand"), "{:?}", report.problem("a"));
    assert_eq!(report.count("blocked"), 2);
    // The first project keeps its difference. The second's difference would disappear, so its result is not verified.
    let report = world.expect(3, &["upgrade-all", "--allow-drift"]);
    assert_eq!((report.outcome("a"), report.error("b").0), ("upgraded", "schema_mismatch"));
    assert_eq!(
        (world.versions("a"), world.versions("b")),
        (vec!["1".into(), "2".into()], vec!["1".to_string()])
    );
}

/// The ledger is trusted to describe a schema only if that schema matched the catalog when it was recorded.
fn a_difference_that_was_passed_over_is_told_ever_after(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "kept", "forced", "right"]);
    for id in ["kept", "forced"] {
        world.execute(id, "CREATE INDEX by_hand ON one (x)");
    }
    let outside = (
        "3_outside",
        "CREATE TABLE three (id INTEGER PRIMARY KEY);\n-- metadata\nrun_in_transaction = false\n",
    );
    for migrations in [&[ONE, TWO][..], &[ONE, TWO, outside]] {
        world.with_migrations(migrations);
        world.expect(0, &["upgrade", "kept", "right", "--allow-drift"]);
        let report = world.expect(4, &["status", "kept", "right"]);
        assert_eq!((report.problem("kept").0, report.outcome("right")), ("drifted", "up_to_date"));
        let forced = "SELECT max(CASE WHEN forced THEN 1 ELSE 0 END) FROM tenantry_history";
        assert_eq!(
            (world.query("kept", forced), world.query("right", forced)),
            (vec!["1".into()], vec!["0".into()])
        );
    }
    world.execute("forced", "CREATE TABLE two (id INTEGER PRIMARY KEY)");
    world.expect(0, &["stamp", "forced", "--to", "2", "--force"]);
    assert_eq!(world.expect(4, &["status"]).problem("forced").0, "drifted");
    world.execute("kept", "DROP INDEX by_hand");
    assert_eq!(world.expect(4, &["status"]).outcome("kept"), "up_to_date");
}

/// Some scripts stamp databases blindly: they write a version, but change neither the schema nor the history.
fn a_version_that_somebody_wrote_by_hand_is_not_believed(world: &mut World) {
    world.with_migrations(&[ONE, TWO]).expect(0, &["create", "behind", "right"]);
    world.with_migrations(&[ONE]).expect(0, &["create", "ahead"]);
    world.execute("behind", "DELETE FROM __diesel_schema_migrations WHERE version = '2'");
    world.execute("ahead", "INSERT INTO __diesel_schema_migrations (version) VALUES ('2')");
    world.with_migrations(&[ONE, TWO]);
    for arguments in [&["status"][..], &["upgrade-all", "--dry-run"], &["upgrade-all"]] {
        let report = world.expect(4, arguments);
        for id in ["behind", "ahead"] {
            assert_eq!(report.problem(id).0, "drifted", "{arguments:?} {id}");
        }
        assert_eq!(report.outcome("right"), "up_to_date");
    }
}

fn every_problem_is_told_not_the_first(world: &mut World) {
    world.with_migrations(&[ONE, TWO]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO __diesel_schema_migrations (version) VALUES ('9')");
    world.with_migrations(&[
        ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY);"),
        ("15_x", "SELECT 1;"),
        ("20_y", "SELECT 1;"),
    ]);
    world.with_migrations(&[("01_one", "SELECT 1;"), ("02_two", "SELECT 1;")]);
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!(report.problem("a").1, "its ledger has versions that are not in the migration set: 1, 2, 9");
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY);"), TWO]);
    let problems = world.expect(4, &["upgrade-all"]).project("a")["problems"].clone();
    let codes: Vec<_> =
        problems.as_array().unwrap().iter().map(|problem| problem["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["unknown", "edited"]);
}

const PARENT: (&str, &str) = (
    "1_tables",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, x TEXT);\n\
     CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) ON DELETE CASCADE);",
);
const FAMILY: &str =
    "INSERT INTO parent (id) VALUES (1), (2); INSERT INTO child (parent) VALUES (1), (1), (2)";

fn a_lost_row_is_refused_unless_declared(world: &mut World) {
    world.with_migrations(&[PARENT]).expect(0, &["create", "a"]);
    world.execute("a", FAMILY);
    world.with_migrations(&[PARENT, ("2_purge", "DELETE FROM parent WHERE id = 1;")]);
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!(report.error("a"), ("rows_lost", "child would lose 2 of its 3 row(s)"));
    assert_eq!(world.query("a", "SELECT count(*) FROM child"), ["3"]);
    let metadata = "-- metadata\nrun_in_transaction = true\ndeletes_rows_from = [\"parent\", \"child\"]\n";
    world.with_migrations(&[PARENT, ("2_purge", &format!("DELETE FROM parent WHERE id = 1;\n{metadata}"))]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
    assert_eq!(
        world.query("a", "SELECT (SELECT count(*) FROM parent) || ' ' || (SELECT count(*) FROM child)"),
        ["1 1"]
    );
}

fn a_row_that_a_trigger_deletes_is_missed(world: &mut World) {
    let trigger = world.either(
        "CREATE TRIGGER t AFTER UPDATE ON parent BEGIN DELETE FROM child WHERE parent = NEW.id; END;",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n  DELETE FROM child WHERE parent = NEW.id;\n  \
         RETURN NULL;\nEND $$;\nCREATE TRIGGER t AFTER UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION f();",
    );
    let tables = ("1_tables", format!("{}\n{trigger}", PARENT.1));
    let tables = (tables.0, tables.1.as_str());
    world.with_migrations(&[tables]).expect(0, &["create", "a"]);
    world.execute("a", FAMILY);
    world.with_migrations(&[tables, ("2_fill", "UPDATE parent SET x = 'filled';")]);
    assert_eq!(
        world.expect(3, &["upgrade-all"]).error("a"),
        ("rows_lost", "child would lose 3 of its 3 row(s)")
    );
    // The same if the migrations themselves create the trigger.
    world.with_migrations(&[PARENT]).expect(0, &["create", "b"]);
    world.execute("b", FAMILY);
    world.with_migrations(&[PARENT, ("2_trigger", trigger), ("3_fill", "UPDATE parent SET x = 'filled';")]);
    assert_eq!(world.expect(3, &["upgrade", "b"]).error("b").0, "rows_lost");
}

fn a_row_lost_behind_a_rename_is_missed(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a", "b"]);
    world.execute("a", "INSERT INTO one (x) VALUES ('y'), ('z')");
    world.with_migrations(&[ONE, ("2_rename", "ALTER TABLE one RENAME TO uno;\nDELETE FROM uno;")]);
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!(
        (report.error("a"), report.outcome("b")),
        (("rows_lost", "one would lose 2 of its 2 row(s)"), "upgraded")
    );
    // A table renamed with its rows is no loss. Dropping a table, also under its new name, is an intended loss.
    for (version, script) in
        [("2_a", "ALTER TABLE one RENAME TO uno;\nDELETE FROM uno WHERE false;"), ("2_b", "DROP TABLE one;")]
    {
        world.with_migrations(&[ONE]).expect(0, &["create", version]);
        world.execute(version, "INSERT INTO one (x) VALUES ('y'), ('z')");
        world.with_migrations(&[ONE, (version, script)]);
        assert_eq!(world.expect(0, &["upgrade", version]).outcome(version), "upgraded");
    }
}

fn a_declaration_speaks_for_its_own_migration_only(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO one (x) VALUES ('y'), ('z')");
    let declared = "DELETE FROM one WHERE x = 'z';\n-- metadata\nrun_in_transaction = true\ndeletes_rows_from = [\"one\"]\n";
    world.with_migrations(&[ONE, ("2_silent", "DELETE FROM one WHERE x = 'y';"), ("3_declared", declared)]);
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!(
        (report.error("a").0, &report.project("a")["error"]["migration"]),
        ("rows_lost", &"2_silent".into())
    );
    world.with_migrations(&[ONE, ("2_declared", declared)]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

fn a_row_lost_outside_a_transaction_leaves_the_project_dirty(world: &mut World) {
    world.with_migrations(&[PARENT]).expect(0, &["create", "a"]);
    world.execute("a", FAMILY);
    let rebuild = "DROP TABLE parent;\nCREATE TABLE parent (id INTEGER PRIMARY KEY, x TEXT);\n";
    // Postgres refuses to drop a referenced table.
    let text = format!("DELETE FROM child WHERE id = 1;\n{}{OUTSIDE}", world.either(rebuild, ""));
    world.with_migrations(&[PARENT, ("2_outside", &text)]);
    let kind = world.either("foreign_keys", "rows_lost");
    assert_eq!(world.expect(3, &["upgrade-all"]).error("a").0, kind);
    assert_eq!(world.expect(4, &["upgrade-all"]).problem("a").0, "dirty");
}

fn a_foreign_key_violated_at_the_commit_is_named(world: &mut World) {
    let tables = "CREATE TABLE parent (id INTEGER PRIMARY KEY);\nCREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO parent VALUES (1);";
    world.with_migrations(&[("1_tables", tables)]).expect(0, &["create", "a"]);
    world.execute("a", "DELETE FROM parent");
    world.with_migrations(&[("1_tables", tables), ("2_child", "INSERT INTO child VALUES (1);")]);
    let report = world.expect(3, &["upgrade-all"]);
    let error = &report.project("a")["error"];
    assert_eq!((&error["kind"], &error["migration"]), (&"migration".into(), &"2_child".into()));
    assert!(
        error["hint"].is_string()
            && error["message"].as_str().unwrap().to_lowercase().contains("foreign key"),
        "{error}"
    );
    assert_eq!(world.versions("a"), ["1"]);
}

fn a_script_that_leaves_a_transaction_open_is_named(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.with_migrations(&[ONE, ("2_open", &format!("BEGIN;\nCREATE TABLE two (id INTEGER);\n{OUTSIDE}"))]);
    let ran = world.run(&["upgrade-all"]);
    // On Postgres the reference is built in one transaction, so only the run on the project detects it.
    let (code, output) = world.either((2, &ran.stderr), (3, &ran.stdout));
    assert!(
        ran.code == code && output.contains("2_open") && output.contains("does not end it"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}

fn a_version_that_cannot_be_checked_is_stamped_by_force_only(world: &mut World) {
    let depends = "CREATE TABLE two (id INTEGER);\n-- metadata\nrun_in_transaction = true\nschema_depends_on_data = true\n";
    world.with_migrations(&[ONE, ("2_depends", depends), ("3_three", "CREATE TABLE three (id INTEGER);")]);
    world.with_project("a", "CREATE TABLE totally_other (x TEXT)");
    assert_eq!(world.expect(4, &["stamp", "a", "--to", "3"]).problem("a").0, "needs_baseline");
    world.expect(0, &["stamp", "a", "--to", "3", "--force"]);
    assert_eq!(
        world.query("a", "SELECT DISTINCT action, CASE WHEN forced THEN 1 END FROM tenantry_history"),
        ["stamp|1"]
    );
}

fn a_reviewed_edit_is_accepted_by_force(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.with_migrations(&[("1_one", &format!("-- a comment more\n{}", ONE.1)), TWO]);
    assert_eq!(world.expect(4, &["upgrade-all"]).problem("a").0, "edited");
    assert_eq!(world.expect(0, &["stamp", "a", "--to", "1", "--force"]).outcome("a"), "stamped");
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

fn a_target_on_the_other_side_is_said(world: &mut World) {
    world.with_migrations(&[ONE, TWO]).expect(0, &["create", "a"]);
    let note = |report: &crate::world::Report| {
        report.project("a")["notes"][0].as_str().unwrap_or_default().to_string()
    };
    assert!(note(&world.expect(0, &["upgrade", "a", "--to", "1"])).contains("already past 1"));
    world.expect(0, &["downgrade", "a", "--to", "1"]);
    assert!(note(&world.expect(0, &["downgrade", "a", "--to", "2"])).contains("not at 2 yet"));
}

fn a_schema_that_depends_on_data_is_not_verified(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO one (x) VALUES ('y')");
    // The table's definition depends on a row. On SQLite, only `writable_schema` makes that possible.
    let text = world.either(
        "PRAGMA writable_schema = ON;\n\
         UPDATE sqlite_schema SET sql = replace(sql, 'x TEXT', 'x TEXT, y') WHERE name = 'one' \
         AND EXISTS (SELECT 1 FROM one);\nPRAGMA writable_schema = OFF;\n",
        "DO $$ BEGIN IF EXISTS (SELECT FROM one) THEN ALTER TABLE one ADD COLUMN y TEXT; END IF; END $$;\n",
    );
    world.with_migrations(&[ONE, ("2_two", text)]);
    assert_eq!(world.expect(3, &["upgrade-all"]).error("a").0, "schema_mismatch");
    let declared = format!("{text}-- metadata\nrun_in_transaction = true\nschema_depends_on_data = true\n");
    world.with_migrations(&[ONE, ("2_two", &declared)]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

const OUTSIDE: &str = "-- metadata\nrun_in_transaction = false\n";

fn a_migration_outside_a_transaction_stands_alone(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    let script = world.either(
        "PRAGMA journal_mode = WAL;\nVACUUM;\n-- down\nPRAGMA journal_mode = DELETE;\n",
        "CREATE INDEX CONCURRENTLY ix ON one (x);\nVACUUM one;\n-- down\nDROP INDEX CONCURRENTLY ix;\n",
    );
    let outside = format!("{script}{OUTSIDE}");
    let is_done = world.either(
        "PRAGMA journal_mode",
        "SELECT CASE WHEN to_regclass('ix') IS NULL THEN 'delete' ELSE 'wal' END",
    );
    world.with_migrations(&[
        ONE,
        TWO,
        ("3_outside", &outside),
        ("4_four", "CREATE TABLE four (id INTEGER);\n-- down\nDROP TABLE four;"),
    ]);
    assert_eq!(
        world.expect(0, &["upgrade-all"]).project("a")["migrations"],
        serde_json::json!(["2", "3", "4"])
    );
    assert_eq!(world.query("a", is_done), ["wal"]);
    let history = world.query("a", "SELECT version, action FROM tenantry_history ORDER BY sequence");
    assert_eq!(history, ["1|apply", "2|apply", "3|start", "3|apply", "4|apply"]);
    assert_eq!(world.expect(0, &["downgrade", "a", "--steps", "2"]).project("a")["to"], "2");
    assert_eq!(world.query("a", is_done), ["delete"]);
    // A new database has the same state, although it is copied from a template.
    world.expect(0, &["create", "b"]);
    assert_eq!(world.query("b", is_done), ["wal"]);
    assert_eq!(world.expect(0, &["status", "b"]).outcome("b"), "up_to_date");
}

fn a_failed_migration_outside_a_transaction_leaves_the_project_dirty(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO one (x) VALUES ('twice'), ('twice')");
    let text = format!("CREATE TABLE half (id INTEGER);\nCREATE UNIQUE INDEX ix ON one (x);\n{OUTSIDE}");
    world.with_migrations(&[ONE, ("2_half", &text)]);
    let report = world.expect(3, &["upgrade-all"]);
    assert!(report.project("a")["error"]["hint"].as_str().unwrap().contains("outside a transaction"));
    assert_eq!(world.expect(4, &["upgrade-all"]).problem("a").0, "dirty");
    world.execute("a", "DROP TABLE half; DELETE FROM one WHERE id = 2");
    assert_eq!(world.expect(4, &["stamp", "a", "--to", "1"]).problem("a").0, "dirty");
    assert_eq!(world.expect(0, &["stamp", "a", "--to", "1", "--force"]).outcome("a"), "stamped");
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

fn only_and_except_choose_projects(world: &mut World) {
    world.with_migrations(&[ONE]).expect(0, &["create", "a1", "a2", "b1"]);
    world.with_migrations(&[ONE, TWO]);
    let report = world.expect(0, &["upgrade-all", "--only", "a*", "--except", "*2"]);
    assert_eq!((report.count("upgraded"), report.outcome("a1")), (1, "upgraded"));
    assert_eq!(world.run(&["upgrade-all", "--only", "c*"]).code, 6);
    assert_eq!(world.run(&["upgrade-all", "--only", "["]).code, 2);
}

fn max_failures_leaves_the_rest_not_started(world: &mut World) {
    let ids: Vec<String> = (1..=20).map(|id| id.to_string()).collect();
    let create: Vec<&str> = std::iter::once("create").chain(ids.iter().map(String::as_str)).collect();
    world.with_migrations(&[ONE]).expect(0, &create);
    world.with_migrations(&[ONE, ("2_fails", "CREATE UNIQUE INDEX ix ON one (x);")]);
    for id in &ids {
        world.execute(id, "INSERT INTO one (x) VALUES ('twice'), ('twice')");
    }
    let report = world.expect(3, &["--jobs", "1", "upgrade-all", "--max-failures", "3"]);
    assert_eq!((report.count("failed"), report.count("not_started")), (3, 17));
}

fn dangling_references_become_null(world: &mut World) {
    world.with_legacy_as(1, "1");
    world.execute(
        "1",
        "UPDATE projects SET spec_artifact_id = 999; UPDATE tasks SET active_version_id = 999 WHERE id <= 3; \
         UPDATE control_state SET current_task_id = 999",
    );
    let counts = |world: &World| -> Vec<usize> { world.contents("1").values().map(Vec::len).collect() };
    let before = counts(world);
    world.expect(0, &["upgrade-all"]);
    assert_eq!(before, counts(world));
    assert_eq!(world.query("1", "SELECT spec_artifact_id FROM projects"), ["NULL"]);
    assert_eq!(world.query("1", "SELECT count(*) FROM tasks WHERE active_version_id IS NULL"), ["3"]);
    assert_eq!(world.query("1", "SELECT current_task_id FROM control_state"), ["NULL"]);
    world.execute("1", world.either("PRAGMA foreign_keys = ON", "SELECT 1"));
    world.execute("1", "UPDATE control_state SET current_task_id = 5");
    world.assert_sound("1");
}

/// This holds if the drift makes a script fail, and if only the resulting schema shows it.
fn a_run_says_of_drift_what_the_dry_run_said(world: &mut World) {
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY);\nINSERT INTO one VALUES (1);");
    world.with_migrations(&[one]).expect(0, &["create", "column", "index", "rows", "right"]);
    world.execute("column", "ALTER TABLE one ADD COLUMN x TEXT");
    world.execute("index", "CREATE INDEX ix ON one (id)");
    world.with_migrations(&[
        one,
        ("2_x", "ALTER TABLE one ADD COLUMN x TEXT;\nINSERT INTO one (id) VALUES (2);"),
    ]);
    // Without drift, a failing script is reported as the script's failure.
    world.execute("rows", "INSERT INTO one VALUES (2)");
    let dry = world.expect(4, &["upgrade-all", "--dry-run"]);
    let run = world.expect(3, &["upgrade-all"]);
    for id in ["column", "index"] {
        assert_eq!((dry.problem(id), dry.outcome(id)), (run.problem(id), run.outcome(id)), "{id}");
        assert_eq!(run.problem(id).0, "drifted", "{id}");
        assert_eq!(world.versions(id), ["1"], "{id}");
    }
    assert_eq!((run.error("rows").0, run.outcome("right")), ("migration", "upgraded"));
}
