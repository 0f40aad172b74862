//! `schema drift` says which projects differ from their version; `schema show`, `diff` and `fingerprint` read one schema.

use crate::journal::NOTES;
use crate::world::World;

on_each_store!(
    projects_are_grouped_by_how_they_differ,
    schemas_of_several_sources_are_compared,
    what_is_no_source_of_a_schema_is_named,
    what_a_backup_differed_in_is_found_after_its_restore,
);

const MORE: (&str, &str) = (
    "2_more",
    "ALTER TABLE notes ADD COLUMN day TEXT; CREATE INDEX notes_day ON notes (day); CREATE VIEW days AS SELECT day FROM notes;",
);

fn projects_are_grouped_by_how_they_differ(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "old", "old2"]);
    world.with_migrations(&[NOTES, MORE]);
    world.expect(0, &["create", "a", "b", "c", "d"]);
    assert_eq!(world.expect(0, &["schema", "drift", "--all"]).count("as_expected"), 6);
    for id in ["a", "b"] {
        world.execute(id, "DROP INDEX notes_day");
        world.execute(id, "CREATE TABLE extra (a INTEGER)");
    }
    world.execute("c", "DROP VIEW days");
    world.execute("old", "CREATE INDEX notes_text ON notes (text)");
    world.with_project("none", "CREATE TABLE other (a INTEGER)");
    let before = world.snapshot();
    let report = world.expect(4, &["schema", "drift", "--all"]);
    assert_eq!(before, world.snapshot());
    let counts = ["as_expected", "drifted", "blocked"].map(|outcome| report.count(outcome));
    assert_eq!(counts, [2, 4, 1], "{:?}", report.0);
    assert_eq!(
        report.project("a")["differences"],
        serde_json::json!(["missing index notes_day", "extra table extra"])
    );
    assert_eq!(
        (&report.project("old")["to"], &report.project("old2")["outcome"]),
        (&"1".into(), &"as_expected".into())
    );
    assert_eq!(report.project("old")["differences"][0], "extra index notes_text");
    // Each difference is shown once, with the projects that have it.
    let text = world.run(&["schema", "drift", "--all"]).stdout;
    assert_eq!(text.matches("extra table extra").count(), 1, "{text}");
    assert!(
        text.contains(
            "2  DRIFTED from 2:\n        missing index notes_day\n        extra table extra\n        a, b\n"
        ),
        "{text}"
    );
    assert!(text.contains("7 projects: 2 as expected, 1 blocked, 4 drifted"), "{text}");
    // What is told of one project does not depend on the others.
    assert_eq!(
        world.expect(4, &["schema", "drift", "c"]).project("c")["differences"][0],
        "missing view days"
    );
    assert_eq!(world.expect(0, &["schema", "drift", "d"]).outcome("d"), "as_expected");
    assert!(world.run(&["runs", "list"]).stdout.lines().all(|line| !line.contains("drift")));
}

fn schemas_of_several_sources_are_compared(world: &mut World) {
    world.with_migrations(&[NOTES, MORE]).expect(0, &["create", "a", "b"]);
    world.execute("b", "DROP VIEW days");
    let fingerprint = |source: &str| world.run(&["schema", "fingerprint", source]).stdout;
    assert_eq!((fingerprint("a"), fingerprint("@2")), (fingerprint("@head"), fingerprint("@2_more")));
    assert_ne!(fingerprint("a"), fingerprint("b"));
    assert_eq!(world.run(&["schema", "diff", "a", "@head"]).code, 0);
    let ran = world.run(&["schema", "diff", "a", "b"]);
    assert!(ran.code == 4 && ran.stdout.contains("--- a\n+++ b\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("-view days\n") && !ran.stdout.contains("-table"), "{}", ran.stdout);
    let report = world.expect(4, &["schema", "diff", "@1", "@2"]);
    let differences = report.events("schema_diff")[0]["differences"].to_string();
    for wanted in ["extra index notes_day", "extra view days", "extra column day"] {
        assert!(differences.contains(wanted), "{wanted}: {differences}");
    }
    // A script, as somebody would like the schema to be.
    let script = world.folder().join("wanted.sql");
    let up = world.script("1_notes");
    std::fs::write(&script, format!("{up}\nCREATE TABLE tags (name TEXT NOT NULL);\n")).unwrap();
    let report = world.expect(4, &["schema", "diff", "@1", script.to_str().unwrap()]);
    assert_eq!(report.events("schema_diff")[0]["differences"], serde_json::json!(["extra table tags"]));
    let shown = world.run(&["schema", "show", script.to_str().unwrap()]).stdout;
    assert!(shown.contains("table tags\n    column name ") && shown.contains("table notes\n"), "{shown}");
    let report = world.expect(0, &["schema", "show", "a"]);
    let schema = &report.events("schema")[0]["schema"];
    assert_eq!(schema["fingerprint"].as_str().unwrap(), fingerprint("a").trim());
    assert!(
        schema["objects"].as_array().unwrap().iter().any(|it| it["kind"] == "view" && it["name"] == "days")
    );
    // Another database.
    if world.is_postgres() {
        let model = World::postgres();
        model.database().run(&["-c", "CREATE TABLE tags (name text)"]);
        assert!(world.run(&["schema", "show", &model.url()]).stdout.starts_with("table tags\n"));
    } else {
        for name in ["model.db", "my \u{fc} 'copy'.db", "noextension", "-dash.db"] {
            let model = world.folder().join(name);
            std::fs::copy(world.path("a"), &model).unwrap();
            let ran = world.run(&["schema", "diff", model.to_str().unwrap(), "a"]);
            assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        }
    }
}

fn what_is_no_source_of_a_schema_is_named(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "a"]);
    let script = world.folder().join("bad.sql");
    std::fs::write(&script, "CREATE TABLE a (b INTEGER);\nCREATE TABL c (d INTEGER);\n").unwrap();
    for (source, message) in [
        ("nobody", "does not exist"),
        ("@9", "has no version \"9\""),
        (script.to_str().unwrap(), "bad.sql:2"),
        ("missing.sql", "missing.sql"),
        ("missing.db", "neither a project nor a file"),
        ("POSTGRES://user:secret@host/database", "not one of a Postgres database"),
    ] {
        let ran = world.run(&["schema", "show", source]);
        assert!(ran.code != 0 && ran.stderr.contains(message), "{source}: {} {}", ran.code, ran.stderr);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    }
}

fn what_a_backup_differed_in_is_found_after_its_restore(world: &mut World) {
    world.with_migrations(&[NOTES, MORE]).expect(0, &["create", "a"]);
    world.execute("a", "DROP VIEW days");
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "restore", "a"]);
    let report = world.expect(4, &["schema", "drift", "a"]);
    assert_eq!(report.project("a")["differences"], serde_json::json!(["missing view days"]));
    assert_eq!(world.expect(4, &["upgrade", "a", "--dry-run"]).outcome("a"), "blocked");
}
