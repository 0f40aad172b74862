//! Objects that no migration made can be left out of the comparison. They are still backed up.

use crate::world::World;

on_each_store!(
    what_is_ignored_blocks_no_takeover_and_is_no_drift,
    what_is_ignored_is_backed_up_and_compared_in_backups,
    a_changed_list_counts_at_once,
    repairs_and_generated_migrations_leave_out_what_is_ignored,
    a_pattern_that_is_wrong_is_named,
);

const NOTES: (&str, &str) = (
    "1_notes",
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);\n-- down\nDROP TABLE notes;",
);
const PINS: (&str, &str) = (
    "2_pins",
    "ALTER TABLE notes ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;\n-- down\nALTER TABLE notes DROP COLUMN pinned;",
);
const EXTRA: &str = "CREATE TABLE tmp_import (id INTEGER PRIMARY KEY, x TEXT UNIQUE); CREATE INDEX tmp_index ON tmp_import (x); \
    INSERT INTO tmp_import VALUES (1, 'a'), (2, 'b'); CREATE VIEW report_all AS SELECT text FROM notes;";

fn settings(world: &World, text: &str) {
    std::fs::write(world.folder().join("tenantry.toml"), text).unwrap();
}

const IGNORE: &str = "[schema]\nignore = [\"tmp_*\", \"view:report_*\"]\n";

fn what_is_ignored_blocks_no_takeover_and_is_no_drift(world: &mut World) {
    world.with_migrations(&[NOTES]);
    world.with_project("a", &format!("{} {EXTRA}", NOTES.1.split("\n-- down").next().unwrap()));
    assert_eq!(world.expect(4, &["upgrade-all"]).problem("a").0, "needs_baseline");
    settings(world, IGNORE);
    let report = world.expect(0, &["upgrade-all"]);
    assert_eq!(report.outcome("a"), "stamped");
    let notes = report.project("a")["notes"].to_string();
    assert!(
        notes.contains("ignored as configured")
            && notes.contains("table tmp_import")
            && notes.contains("view report_all"),
        "{notes}"
    );
    world.with_migrations(&[NOTES, PINS]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
    assert_eq!(world.expect(0, &["status"]).outcome("a"), "up_to_date");
    assert_eq!(world.query("a", "SELECT x FROM tmp_import ORDER BY id"), ["a", "b"]);
    // What is not named is drift as before.
    world.execute("a", "CREATE VIEW other AS SELECT 1 AS one");
    let (code, message) = (
        world.expect(4, &["status"]).problem("a").0.to_string(),
        world.expect(4, &["status"]).problem("a").1.to_string(),
    );
    assert!(
        code == "drifted" && message.contains("extra view other") && !message.contains("tmp"),
        "{message}"
    );
    world.execute("a", "DROP VIEW other; ALTER TABLE tmp_import ADD COLUMN y TEXT");
    assert_eq!(world.expect(0, &["status"]).outcome("a"), "up_to_date");
    world.expect(0, &["downgrade", "a", "--steps", "1"]);
}

fn what_is_ignored_is_backed_up_and_compared_in_backups(world: &mut World) {
    world.with_migrations(&[NOTES]);
    settings(world, IGNORE);
    world.expect(0, &["create", "a"]);
    world.execute("a", EXTRA);
    world.expect(0, &["backup", "create", "a"]);
    assert_eq!(world.expect(0, &["backup", "check", "a", "--level", "4"]).outcome("a"), "verified");
    world.execute("a", "DROP TABLE tmp_import");
    world.expect(0, &["backup", "restore", "a"]);
    assert_eq!(world.query("a", "SELECT x FROM tmp_import ORDER BY id"), ["a", "b"]);
    // A backup's fingerprint does not depend on the list.
    settings(world, "");
    assert_eq!(world.expect(0, &["backup", "check", "a"]).outcome("a"), "verified");
}

fn a_changed_list_counts_at_once(world: &mut World) {
    world.with_migrations(&[NOTES]);
    world.expect(0, &["create", "a"]);
    world.execute("a", EXTRA);
    for (text, code) in [("", 4), (IGNORE, 0), ("", 4), ("[schema]\nignore = [\"tmp_*\"]\n", 4), (IGNORE, 0)]
    {
        settings(world, text);
        world.expect(code, &["status"]);
        world.expect(code, &["upgrade-all"]);
    }
    // The set can say it as well.
    settings(world, "[schema]\nignore = [\"tmp_*\"]\n");
    std::fs::write(world.folder().join("migrations/set.toml"), "[schema]\nignore = [\"report_*\"]\n")
        .unwrap();
    world.expect(0, &["status"]);
}

fn repairs_and_generated_migrations_leave_out_what_is_ignored(world: &mut World) {
    world.with_migrations(&[NOTES]);
    settings(world, IGNORE);
    world.expect(0, &["create", "a"]);
    world.execute("a", EXTRA);
    if world.is_postgres() {
        world.execute(
            "a",
            "CREATE TABLE tmp_serial (id bigserial PRIMARY KEY, note integer REFERENCES notes (id)); \
             COMMENT ON TABLE tmp_serial IS 'a'; COMMENT ON VIEW report_all IS 'a'; CREATE SEQUENCE tmp_numbers; \
             CREATE FUNCTION tmp_one(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'; CREATE TYPE tmp_kind AS ENUM ('a')",
        );
    }
    world.execute("a", "CREATE INDEX extra ON notes (text)");
    let report = world.expect(0, &["schema", "repair", "a", "--drop-extra"]);
    assert_eq!(report.outcome("a"), "repaired");
    assert_eq!(report.project("a")["sql"], serde_json::json!(["DROP INDEX extra"]));
    assert_eq!(world.query("a", "SELECT x FROM tmp_import ORDER BY id"), ["a", "b"]);
    assert_eq!(world.query("a", "SELECT count(*) FROM report_all"), ["0"]);
    world.execute("a", "ALTER TABLE notes ADD COLUMN more TEXT");
    world.expect(0, &["migration", "new", "more", "--diff", "a"]);
    let up = std::fs::read_to_string(world.folder().join("migrations/2_more/up.sql")).unwrap();
    assert!(up.contains("more") && !up.contains("tmp_") && !up.contains("report_"), "{up}");
}

fn a_pattern_that_is_wrong_is_named(world: &mut World) {
    world.with_migrations(&[NOTES]);
    for pattern in ["*", "views:a", "a["] {
        settings(world, &format!("[schema]\nignore = [{pattern:?}]\n"));
        let ran = world.run(&["status"]);
        assert!(ran.code == 2 && ran.stderr.contains(pattern), "{pattern}: {}", ran.stderr);
    }
    settings(world, "");
    std::fs::write(world.folder().join("migrations/set.toml"), "[schema]\nignroe = []\n").unwrap();
    let ran = world.run(&["status"]);
    assert!(ran.code == 2 && ran.stderr.contains("set.toml:2"), "{}", ran.stderr);
}
