//! `migration squash` puts one migration in the place of many: new projects run it, existing ones have it.

use crate::world::World;

on_each_store!(
    many_migrations_become_one,
    a_project_that_is_not_past_it_is_named,
    what_would_differ_is_refused,
    a_baseline_is_not_reverted,
    what_a_baseline_replaces_goes_with_it,
);

const FOUR: [(&str, &str); 4] = [
    ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\n-- down\nDROP TABLE notes;"),
    (
        "2_kinds",
        "CREATE TABLE kinds (id INTEGER PRIMARY KEY, name TEXT UNIQUE, parent INTEGER REFERENCES kinds (id));\n\
         INSERT INTO kinds (name, parent) VALUES ('it''s', NULL), ('b;', 1), (NULL, 2);\nDELETE FROM kinds WHERE id = 3;\n\
         -- down\nDROP TABLE kinds;\n-- metadata\nrun_in_transaction = true\ndeletes_rows_from = [\"kinds\"]\n",
    ),
    (
        "3_more",
        "ALTER TABLE notes ADD COLUMN kind INTEGER REFERENCES kinds (id);\nCREATE INDEX notes_kind ON notes (kind);\n\
         CREATE VIEW named AS SELECT text, name FROM notes JOIN kinds ON kinds.id = kind;\n-- down\nDROP VIEW named;\n\
         DROP INDEX notes_kind;\nALTER TABLE notes DROP COLUMN kind;",
    ),
    ("4_day", "ALTER TABLE notes ADD COLUMN day TEXT;\n-- down\nALTER TABLE notes DROP COLUMN day;"),
];

/// The names in the folder of migrations.
fn folders(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.folder().join("migrations")).unwrap();
    let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn many_migrations_become_one(world: &mut World) {
    world.with_migrations(&FOUR[..3]).expect(0, &["create", "at3"]);
    world.with_migrations(&FOUR).expect(0, &["create", "at4"]);
    world.execute("at4", "INSERT INTO notes (text, kind) VALUES ('one', 2)");
    let before = world.snapshot();
    let report = world.expect(0, &["migration", "squash", "--to", "3"]);
    assert_eq!(report.events("migration_made")[0]["replaces"], serde_json::json!(["1", "2", "3"]));
    assert_eq!(before, world.snapshot());
    assert_eq!(folders(world), [".squashed", "3_baseline", "4_day"]);
    let status = world.expect(0, &["status"]);
    assert_eq!((status.outcome("at4"), status.outcome("at3")), ("up_to_date", "planned"));
    assert_eq!(world.expect(0, &["schema", "drift", "--all"]).count("as_expected"), 2);
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 1);
    world.expect(0, &["create", "new"]);
    assert_eq!(world.versions("new").len(), 2);
    for id in ["at3", "at4"] {
        assert_eq!(world.run(&["schema", "diff", id, "new"]).code, 0, "{id}");
        assert_eq!(
            world.query(id, "SELECT id, name, parent FROM kinds ORDER BY id"),
            world.query("new", "SELECT id, name, parent FROM kinds ORDER BY id")
        );
        assert_eq!(world.versions(id).len(), 4, "its ledger is as it was");
    }
    world.execute("new", "INSERT INTO kinds (name) VALUES ('c')");
    world.execute("at3", "INSERT INTO kinds (name) VALUES ('c')");
    let next = |id: &str| world.query(id, "SELECT max(id) FROM kinds");
    assert_eq!(next("new"), world.either(["3"], ["4"]));
    assert_eq!(next("new"), next("at3"));
    assert_eq!(world.expect(0, &["upgrade-all"]).count("up_to_date"), 3);
    // The next one is squashed with it.
    world.expect(0, &["migration", "squash", "--to", "4"]);
    assert_eq!(folders(world), [".squashed", "4_baseline"]);
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 3);
    assert_eq!(world.expect(0, &["adopt", "at3"]).outcome("at3"), "up_to_date");
}

fn a_project_that_is_not_past_it_is_named(world: &mut World) {
    world.with_migrations(&FOUR[..2]).expect(0, &["create", "at2"]);
    world.with_migrations(&FOUR).expect(0, &["create", "at4"]);
    world.with_project("none", "CREATE TABLE other (a INTEGER)");
    let before = folders(world);
    let ran = world.run(&["migration", "squash", "--to", "3"]);
    assert!(ran.code == 4, "{} {}", ran.code, ran.stderr);
    assert!(ran.stderr.contains("at2 (at 2)") && ran.stderr.contains("none ("), "{}", ran.stderr);
    assert_eq!(folders(world), before);
    // Whoever squashes elsewhere does no harm here.
    let one = world.script("1_notes") + &world.script("2_kinds") + &world.script("3_more");
    let metadata = "\n-- metadata\nrun_in_transaction = true\nreplaces = [\"1\", \"2\", \"3\"]\n";
    world.with_migrations(&[("3_baseline", &format!("{one}{metadata}")), FOUR[3]]);
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!(report.problem("at2").0, "before_squash");
    assert_eq!(world.versions("at2").len(), 2);
    assert_eq!(report.outcome("at4"), "up_to_date");
    world.with_migrations(&[FOUR[0], ("3_baseline", &format!("{one}{metadata}"))]);
    let ran = world.run(&["status"]);
    assert!(ran.stderr.contains("3_baseline replaces 1_notes, and both are there"), "{}", ran.stderr);
}

fn what_would_differ_is_refused(world: &mut World) {
    let random = world.either("hex(randomblob(8))", "gen_random_uuid()::text");
    let two = format!("INSERT INTO notes (text) VALUES ({random});");
    world.with_migrations(&[FOUR[0], ("2_random", &two), ("3_more", "CREATE TABLE more (a INTEGER);")]);
    for (version, message) in [
        ("3", "values that differ in each project"),
        ("1", "nothing to squash"),
        ("9", "has no version"),
        ("0", "nothing to squash"),
    ] {
        let ran = world.run(&["migration", "squash", "--to", version]);
        assert!(ran.code == 2 && ran.stderr.contains(message), "{version}: {} {}", ran.code, ran.stderr);
    }
    assert_eq!(folders(world), ["1_notes", "2_random", "3_more"]);
    let folder = world.folder().join("numbered");
    std::fs::create_dir(&folder).unwrap();
    for number in 1..=2 {
        std::fs::write(
            folder.join(format!("{number}_t.sql")),
            format!("CREATE TABLE t{number} (a INTEGER);"),
        )
        .unwrap();
    }
    let other = if world.is_postgres() { World::postgres() } else { World::sqlite() };
    let ran = other.run(&["--migrations", folder.to_str().unwrap(), "migration", "squash", "--to", "2"]);
    assert!(ran.code == 2 && ran.stderr.contains("another tool's layout"), "{}", ran.stderr);
}

fn a_baseline_is_not_reverted(world: &mut World) {
    world.with_migrations(&FOUR).expect(0, &["create", "a"]);
    world.expect(0, &["migration", "squash", "--to", "3"]);
    world.expect(0, &["downgrade", "a", "--to", "3"]);
    // The baseline would take everything with it.
    assert_eq!(world.expect(4, &["downgrade", "a", "--steps", "1"]).problem("a").0, "irreversible");
    assert_eq!(world.query("a", "SELECT count(*) FROM kinds"), ["2"]);
    world.expect(0, &["create", "b"]);
    // An edited baseline is an edit for those that ran it.
    let path = world.folder().join("migrations/3_baseline/up.sql");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\nCREATE TABLE late (a INTEGER);\n")).unwrap();
    assert_eq!(world.expect(4, &["upgrade", "b"]).problem("b").0, "edited");
}

fn what_a_baseline_replaces_goes_with_it(world: &mut World) {
    world.with_migrations(&FOUR).expect(0, &["create", "a", "b"]);
    world.expect(0, &["migration", "squash", "--to", "3"]);
    world.expect(0, &["stamp", "a", "--to", "0", "--force"]);
    assert_eq!(world.versions("a"), Vec::<String>::new());
    world.expect(0, &["stamp", "a", "--to", "4"]);
    assert_eq!(world.versions("a"), ["3", "4"]);
    // Somebody writes a down.sql for it.
    let folder = world.folder().join("migrations/3_baseline");
    std::fs::write(folder.join("down.sql"), "DROP VIEW named; DROP TABLE notes; DROP TABLE kinds;").unwrap();
    let metadata = std::fs::read_to_string(folder.join("metadata.toml")).unwrap();
    std::fs::write(
        folder.join("metadata.toml"),
        format!("deletes_rows_from = [\"kinds\", \"notes\"]\n{metadata}"),
    )
    .unwrap();
    world.expect(0, &["downgrade", "b", "--to", "0"]);
    assert_eq!(world.versions("b"), Vec::<String>::new());
    assert_eq!(world.expect(0, &["upgrade", "b"]).outcome("b"), "upgraded");
    assert_eq!(world.versions("b"), ["3", "4"]);
    assert_eq!(world.query("b", "SELECT count(*) FROM kinds"), ["2"]);
}

#[test]
fn settings_of_the_file_are_squashed_and_search_indexes_with_rows_are_not() {
    let mut world = World::sqlite();
    let settings = ("2_settings", "PRAGMA user_version = 7;\nPRAGMA application_id = 1234;");
    world.with_migrations(&[FOUR[0], settings]).expect(0, &["create", "a"]);
    world.expect(0, &["migration", "squash", "--to", "2"]);
    world.expect(0, &["create", "b"]);
    for id in ["a", "b"] {
        assert_eq!(world.query(id, "PRAGMA user_version"), ["7"]);
        assert_eq!(world.query(id, "PRAGMA application_id"), ["1234"]);
    }
    let search =
        ("2_search", "CREATE VIRTUAL TABLE found USING fts5 (text);\nINSERT INTO notes (text) VALUES ('a');");
    world.expect(0, &["drop", "a", "b", "--yes"]);
    world.with_migrations(&[FOUR[0], search]).expect(0, &["create", "a"]);
    let ran = world.run(&["migration", "squash", "--to", "2"]);
    assert!(ran.code == 2 && ran.stderr.contains("found is a virtual table"), "{}", ran.stderr);
    assert_eq!(folders(&world), ["1_notes", "2_search"]);
}
