//! `schema repair` brings a drifted schema to that of its version where that loses nothing.

use crate::faults::{fault_library, run_with_fault};
use crate::world::World;

on_each_store!(
    each_kind_of_drift_is_mended_and_the_rows_stay,
    what_would_lose_data_is_named_and_stays,
    a_repair_is_rolled_back,
    what_fails_on_the_rows_is_named_and_the_rest_is_repaired,
);

const ROWS: &str = "INSERT INTO owners (id, name) VALUES (1, 'a'), (2, 'b'); \
    INSERT INTO notes (id, owner, text, day, size) VALUES (1, 1, 'one', 'mon', 3), (2, 2, 'two', 'tue', 3)";

fn base(world: &World) -> String {
    let trigger = world.either(
        "CREATE TRIGGER stamp AFTER INSERT ON notes BEGIN UPDATE notes SET day = 'now' WHERE id = new.id AND 0; END;",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';\n\
         CREATE TRIGGER stamp BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION touch();",
    );
    format!(
        "CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT UNIQUE);\n\
         CREATE TABLE notes (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES owners (id), text TEXT NOT NULL CHECK (text <> ''), \
         day TEXT DEFAULT 'mon', size INTEGER NOT NULL DEFAULT 0, CONSTRAINT small CHECK (size < 100));\n\
         CREATE TABLE empty (id INTEGER PRIMARY KEY, more TEXT);\n\
         CREATE INDEX notes_day ON notes (day);\n\
         CREATE UNIQUE INDEX notes_text ON notes (text) WHERE size > 0;\n\
         CREATE VIEW days AS SELECT day FROM notes;\n{trigger}"
    )
}

/// Kinds of drift, each with statements that make it, for SQLite and for Postgres.
const MENDED: [(&str, &str, &str); 14] = [
    ("missing index", "DROP INDEX notes_day", "DROP INDEX notes_day"),
    ("missing unique index", "DROP INDEX notes_text", "DROP INDEX notes_text"),
    (
        "another index",
        "DROP INDEX notes_day; CREATE INDEX notes_day ON notes (day, size)",
        "DROP INDEX notes_day; CREATE INDEX notes_day ON notes (day, size)",
    ),
    ("missing view", "DROP VIEW days", "DROP VIEW days"),
    (
        "another view",
        "DROP VIEW days; CREATE VIEW days AS SELECT day FROM notes WHERE size > 1",
        "DROP VIEW days; CREATE VIEW days AS SELECT day FROM notes WHERE size > 1",
    ),
    ("missing trigger", "DROP TRIGGER stamp", "DROP TRIGGER stamp ON notes"),
    ("missing table", "DROP TABLE empty", "DROP TABLE empty"),
    ("missing column", "ALTER TABLE empty DROP COLUMN more", "ALTER TABLE empty DROP COLUMN more"),
    (
        "missing CHECK",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, ', CONSTRAINT small CHECK (size < 100)', '') \
         WHERE name = 'notes'; PRAGMA writable_schema = RESET",
        "ALTER TABLE notes DROP CONSTRAINT small",
    ),
    (
        "missing UNIQUE",
        "PRAGMA foreign_keys = 0; CREATE TABLE o (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO o SELECT * FROM owners; \
         DROP TABLE owners; PRAGMA legacy_alter_table = 1; ALTER TABLE o RENAME TO owners",
        "ALTER TABLE owners DROP CONSTRAINT owners_name_key",
    ),
    (
        "missing foreign key",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, ' REFERENCES owners (id)', '') \
         WHERE name = 'notes'; PRAGMA writable_schema = RESET",
        "ALTER TABLE notes DROP CONSTRAINT notes_owner_fkey",
    ),
    (
        "missing NOT NULL",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'size INTEGER NOT NULL', 'size INTEGER') \
         WHERE name = 'notes'; PRAGMA writable_schema = RESET",
        "ALTER TABLE notes ALTER size DROP NOT NULL",
    ),
    (
        "another default",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, '''mon''', '''sun''') WHERE name = 'notes'; \
         PRAGMA writable_schema = RESET",
        "ALTER TABLE notes ALTER day SET DEFAULT 'sun'",
    ),
    (
        "several at once",
        "DROP INDEX notes_day; DROP VIEW days; DROP TRIGGER stamp; ALTER TABLE empty DROP COLUMN more",
        "DROP INDEX notes_day; DROP VIEW days; DROP TRIGGER stamp ON notes; DROP FUNCTION touch; ALTER TABLE empty DROP COLUMN more",
    ),
];

fn id(kind: &str) -> String {
    kind.to_lowercase().replace(' ', "-")
}

fn each_kind_of_drift_is_mended_and_the_rows_stay(world: &mut World) {
    let base = base(world);
    world.with_migrations(&[("1_base", &base)]);
    let ids: Vec<String> = MENDED.iter().map(|(kind, ..)| id(kind)).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.expect(0, &[&["create"], &ids[..]].concat());
    let mut rows = Vec::new();
    for (kind, sqlite, postgres) in MENDED {
        world.execute(&id(kind), ROWS);
        world.execute(&id(kind), world.either(sqlite, postgres));
        rows.push(world.query(&id(kind), "SELECT * FROM notes JOIN owners ON owners.id = owner ORDER BY 1"));
    }
    assert_eq!(world.expect(4, &["schema", "drift", "--all"]).count("drifted"), MENDED.len() as u64);
    let before = world.snapshot();
    let dry = world.expect(0, &["schema", "repair", "--all", "--dry-run"]);
    assert_eq!(before, world.snapshot());
    let report = world.expect(0, &["schema", "repair", "--all"]);
    assert_eq!((dry.count("planned"), report.count("repaired")), (MENDED.len() as u64, MENDED.len() as u64));
    for ((kind, ..), rows) in MENDED.iter().zip(rows) {
        let id = id(kind);
        assert_eq!(dry.project(&id)["sql"], report.project(&id)["sql"], "{kind}");
        assert!(!report.project(&id)["sql"].as_array().unwrap().is_empty(), "{kind}");
        let same = world.query(&id, "SELECT * FROM notes JOIN owners ON owners.id = owner ORDER BY 1");
        assert_eq!(same, rows, "{kind}");
        assert_eq!(world.run(&["schema", "diff", &id, "@1"]).code, 0, "{kind}");
        world.assert_sound(&id);
        let ledger = world.query(&id, "SELECT action FROM tenantry_history ORDER BY sequence");
        assert_eq!(ledger, ["apply", "repair"], "{kind}");
    }
    let again = world.expect(0, &["schema", "repair", "--all"]);
    assert_eq!(again.count("as_expected"), MENDED.len() as u64);
    let text = world.run(&["runs", "list"]).stdout;
    assert!(text.contains("schema repair"), "{text}");
    // What follows takes it as it was.
    let base = base.clone();
    world.with_migrations(&[("1_base", &base), ("2_more", "CREATE TABLE more (id INTEGER);")]);
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), MENDED.len() as u64);
}

/// Kinds of drift that stay, each with statements that make it and a part of the reason.
const REFUSED: [(&str, &str, &str, &str); 8] = [
    ("extra table", "CREATE TABLE mine (a INTEGER)", "CREATE TABLE mine (a INTEGER)", "table mine stays"),
    (
        "extra column",
        "ALTER TABLE notes ADD COLUMN mine TEXT",
        "ALTER TABLE notes ADD COLUMN mine TEXT",
        "column mine of notes stays",
    ),
    (
        "another type",
        "ALTER TABLE empty DROP COLUMN more; ALTER TABLE empty ADD COLUMN more INTEGER",
        "ALTER TABLE empty ALTER more TYPE integer USING 1",
        "column more of empty keeps its type",
    ),
    (
        "extra index",
        "CREATE INDEX mine ON notes (size)",
        "CREATE INDEX mine ON notes (size)",
        "--drop-extra drops it",
    ),
    (
        "extra view",
        "CREATE VIEW mine AS SELECT 1 AS a",
        "CREATE VIEW mine AS SELECT 1 AS a",
        "view mine stays",
    ),
    (
        "extra trigger",
        "CREATE TRIGGER mine AFTER DELETE ON notes BEGIN SELECT 1; END",
        "CREATE TRIGGER mine AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION touch()",
        "trigger mine",
    ),
    (
        "extra CHECK",
        "DROP TABLE empty; CREATE TABLE empty (id INTEGER PRIMARY KEY, more TEXT CHECK (more <> 'x'))",
        "ALTER TABLE empty ADD CHECK (more <> 'x')",
        "'x'",
    ),
    (
        "no value",
        "DROP VIEW days; DROP INDEX notes_text; DROP TRIGGER stamp; PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = \
         replace(sql, ' text TEXT NOT NULL CHECK (text <> ''''),', '') WHERE name = 'notes'; PRAGMA writable_schema = RESET",
        "DROP TRIGGER stamp ON notes; ALTER TABLE notes DROP COLUMN text",
        "column text of notes is not added",
    ),
];

fn what_would_lose_data_is_named_and_stays(world: &mut World) {
    let base = base(world);
    world.with_migrations(&[("1_base", &base)]);
    for (kind, sqlite, postgres, reason) in REFUSED {
        let id = id(kind);
        world.expect(0, &["create", &id]);
        world.execute(&id, world.either(sqlite, postgres));
        let report = world.expect(4, &["schema", "repair", &id]);
        assert_eq!(report.outcome(&id), "drifted", "{kind}");
        let notes = report.project(&id)["notes"].to_string();
        assert!(notes.contains(reason), "{kind}: {notes}");
    }
    let dropped = ["extra-index", "extra-view", "extra-trigger", "extra-check"];
    let report = world.expect(0, &[&["schema", "repair", "--drop-extra"], &dropped[..]].concat());
    assert_eq!(report.count("repaired"), 4);
    let report = world.expect(4, &["schema", "repair", "--drop-extra", "extra-table", "extra-column"]);
    assert_eq!(report.count("drifted"), 2);
    assert!(report.project("extra-table")["backup"].is_null(), "nothing was changed");
    // A project whose version is not known, one that is not there.
    world.with_project("none", "CREATE TABLE other (a INTEGER)");
    assert_eq!(world.expect(4, &["schema", "repair", "none"]).outcome("none"), "blocked");
    assert_eq!(world.run(&["schema", "repair", "nobody"]).code, 3);
}

fn a_repair_is_rolled_back(world: &mut World) {
    let base = base(world);
    let more = ("2_more", "CREATE TABLE more (a INTEGER);");
    world.with_migrations(&[("1_base", &base), more]).expect(0, &["create", "a", "b", "c"]);
    for id in ["a", "b"] {
        world.execute(id, ROWS);
        world.execute(id, "DROP INDEX notes_day; CREATE TABLE mine (a INTEGER)");
    }
    let shown = world.run(&["-v", "schema", "repair", "a", "--dry-run"]).stdout;
    assert!(shown.contains("would repair the rest by:"), "{shown}");
    assert_eq!(shown.matches("CREATE INDEX notes_day").count(), 1, "{shown}");
    let report = world.expect(4, &["schema", "repair", "--all"]);
    assert_eq!((report.count("drifted"), report.count("as_expected")), (2, 1));
    assert!(report.project("a")["backup"].is_string() && report.project("c")["backup"].is_null());
    let run = report.events("run_started")[0]["run"].as_str().unwrap().to_string();
    let text = world.run(&["schema", "drift", "a"]).stdout;
    assert!(text.contains("extra table mine") && !text.contains("notes_day"), "{text}");
    let planned = world.expect(0, &["runs", "rollback", &run, "--dry-run"]);
    assert_eq!(planned.count("planned"), 2);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("restored"), 2);
    assert_eq!(world.query("a", "SELECT count(*) FROM notes"), ["2"]);
    let text = world.run(&["schema", "drift", "a"]).stdout;
    assert!(text.contains("extra table mine") && text.contains("missing index notes_day"), "{text}");
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("up_to_date"), 2);
}

fn what_fails_on_the_rows_is_named_and_the_rest_is_repaired(world: &mut World) {
    let base = base(world);
    world.with_migrations(&[("1_base", &base)]).expect(0, &["create", "a"]);
    world.execute("a", ROWS);
    world.execute("a", "DROP INDEX notes_text; DROP INDEX notes_day");
    world.execute("a", "UPDATE notes SET text = 'same'");
    let text = world.run(&["schema", "repair", "a", "--dry-run"]).stdout;
    assert!(
        text.contains("CREATE INDEX notes_day") && text.contains("index notes_text is not repaired"),
        "{text}"
    );
    let report = world.expect(4, &["schema", "repair", "a"]);
    assert_eq!(report.project("a")["differences"], serde_json::json!(["missing index notes_text"]));
    let notes = report.project("a")["notes"].to_string();
    assert!(
        notes.contains(world.either("UNIQUE constraint failed", "could not create unique index")),
        "{notes}"
    );
    assert_eq!(world.query("a", "SELECT count(*) FROM notes"), ["2"]);
}

#[test]
fn a_rebuilt_table_keeps_its_numbers_children_and_triggers() {
    let mut world = World::sqlite();
    let base = "CREATE TABLE owners (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, CHECK (name <> 'x'));\n\
         CREATE TABLE notes (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL REFERENCES owners ON DELETE CASCADE);\n\
         CREATE TRIGGER gone AFTER DELETE ON owners BEGIN SELECT 1; END;";
    world.with_migrations(&[("1_base", base)]).expect(0, &["create", "a"]);
    world.execute(
        "a",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, ', CHECK (name <> ''x'')', '') \
         WHERE name = 'owners'; PRAGMA writable_schema = RESET",
    );
    world.execute(
        "a",
        "INSERT INTO owners (name) VALUES ('a'), ('b'), ('c'); DELETE FROM owners WHERE name = 'c'",
    );
    world.execute("a", "INSERT INTO notes (owner) VALUES (1), (2)");
    assert_eq!(world.expect(0, &["schema", "repair", "a"]).outcome("a"), "repaired");
    world.execute("a", "INSERT INTO owners (name) VALUES ('d')");
    assert_eq!(world.query("a", "SELECT max(id) FROM owners"), ["4"]);
    assert_eq!(world.query("a", "SELECT count(*) FROM notes"), ["2"]);
    assert_eq!(world.query("a", "SELECT name FROM sqlite_schema WHERE type = 'trigger'"), ["gone"]);
    world.assert_sound("a");
}

#[test]
fn a_repair_is_whole_or_not_at_every_operation() {
    let tools = tempfile::tempdir().unwrap();
    let library = fault_library(tools.path());
    let mut world = World::sqlite();
    let base = base(&world);
    world.with_migrations(&[("1_base", &base)]).expect(0, &["create", "a"]);
    world.execute("a", ROWS);
    let (_, drift, _) = MENDED.iter().find(|(kind, ..)| *kind == "missing CHECK").unwrap();
    world.execute("a", &format!("{drift}; DROP INDEX notes_day"));
    let (drifted, rows) = (std::fs::read(world.path("a")).unwrap(), world.contents("a"));
    let mut outcomes = std::collections::BTreeSet::new();
    for how in ["kill", "eio", "enospc"] {
        // Another part of the operations in each run.
        let mut at = 1 + std::process::id() % 6;
        loop {
            std::fs::write(world.path("a"), &drifted).unwrap();
            let _ = std::fs::remove_file(world.folder().join("mark"));
            let Some(status) = run_with_fault(&world, &["schema", "repair", "a"], &library, how, at) else {
                break;
            };
            let report = world.run(&["--format", "json", "schema", "drift", "a"]);
            let is_repaired = report.code == 0;
            assert!(
                is_repaired || report.stdout.contains("missing CHECK"),
                "{how} at {at}: {}",
                report.stdout
            );
            assert!(
                is_repaired || report.stdout.contains("notes_day"),
                "in part: {how} at {at}: {}",
                report.stdout
            );
            assert!(is_repaired || !status.success(), "{how} at {at}: reported as done, but is not");
            let tables = |contents: &std::collections::BTreeMap<String, Vec<String>>| {
                ["notes", "owners"].map(|table| contents[table].clone())
            };
            assert_eq!(tables(&world.contents("a")), tables(&rows), "{how} at {at}");
            world.assert_sound("a");
            outcomes.insert(is_repaired);
            world.expect(0, &["schema", "repair", "a"]);
            assert_eq!(world.run(&["schema", "diff", "a", "@1"]).code, 0, "{how} at {at}");
            at += 6;
        }
        assert!(at > 40, "only {at} operations: the library was not loaded");
    }
    assert!(outcomes.contains(&false), "{outcomes:?}");
}

#[test]
fn what_was_granted_by_hand_is_not_lost() {
    let mut world = World::postgres();
    let base = "CREATE TABLE notes (id integer, day text); CREATE VIEW days AS SELECT day FROM notes;";
    world.with_migrations(&[("1_base", base)]).expect(0, &["create", "a"]);
    world.execute("a", "DROP VIEW days; CREATE VIEW days AS SELECT day FROM notes WHERE id > 1; GRANT SELECT ON days TO PUBLIC");
    let report = world.expect(4, &["schema", "repair", "a"]);
    let notes = report.project("a")["notes"].to_string();
    assert!(notes.contains("GRANT SELECT to PUBLIC on view days would be lost"), "{notes}");
    world.execute("a", "REVOKE SELECT ON days FROM PUBLIC");
    assert_eq!(world.expect(0, &["schema", "repair", "a"]).outcome("a"), "repaired");
}

#[test]
fn a_disabled_trigger_is_enabled() {
    let mut world = World::postgres();
    let base = base(&world);
    let off = (
        "2_off",
        "CREATE TRIGGER off BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION touch();\n\
        ALTER TABLE notes DISABLE TRIGGER off;",
    );
    world.with_migrations(&[("1_base", &base), off]).expect(0, &["create", "a"]);
    world.execute("a", "ALTER TABLE notes DISABLE TRIGGER stamp; ALTER TABLE notes ENABLE TRIGGER off");
    let report = world.expect(0, &["schema", "repair", "a"]);
    assert_eq!(report.outcome("a"), "repaired");
    let mut sql: Vec<String> = serde_json::from_value(report.project("a")["sql"].clone()).unwrap();
    sql.sort();
    assert_eq!(sql, ["ALTER TABLE notes DISABLE TRIGGER off", "ALTER TABLE notes ENABLE TRIGGER stamp"]);
    assert_eq!(world.expect(0, &["schema", "drift", "a"]).outcome("a"), "as_expected");
}
