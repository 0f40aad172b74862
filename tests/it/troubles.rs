//! A fleet with many seeded troubles: the rehearsal names exactly those projects with the right reasons, and the upgrade then
//! fails for exactly those.

use std::collections::{BTreeMap, BTreeSet};

use crate::faults::{fault_library, repeated};
use crate::world::{Report, World};

/// A project's trouble: its name, what makes it, and the outcome with the migration or the problem's code.
type Trouble = (&'static str, &'static str, &'static str, &'static str);

const TROUBLES: [Trouble; 13] = [
    (
        "duplicate",
        "INSERT INTO notes (id, title, amount, parent, doc) VALUES (7, 'a', '3', 1, '{}')",
        "failed",
        "2_titles",
    ),
    ("null", "INSERT INTO notes (id, title, parent, doc) VALUES (7, 'x', 1, '{}')", "failed", "3_amounts"),
    (
        "dangling",
        "INSERT INTO notes (id, title, amount, parent, doc) VALUES (7, 'x', '3', 99, '{}')",
        "failed",
        "3_amounts",
    ),
    (
        "text",
        "INSERT INTO notes (id, title, amount, parent, doc) VALUES (7, 'x', 'many', 1, '{}')",
        "failed",
        "3_amounts",
    ),
    (
        "negative",
        "INSERT INTO notes (id, title, amount, parent, doc) VALUES (7, 'x', '-3', 1, '{}')",
        "failed",
        "3_amounts",
    ),
    (
        "json",
        "INSERT INTO notes (id, title, amount, parent, doc) VALUES (7, 'x', '3', 1, '{')",
        "failed",
        "4_docs",
    ),
    (
        "lost",
        "INSERT INTO notes (id, title, amount, parent, doc) VALUES (7, 'lost', '3', 1, '{}')",
        "failed",
        "5_lost",
    ),
    ("missing", "DROP TABLE empty", "blocked", "drifted"),
    ("column", "ALTER TABLE notes ADD COLUMN extra TEXT; UPDATE notes SET extra = 'x'", "blocked", "drifted"),
    ("view", "DROP VIEW titles; CREATE VIEW titles AS SELECT amount FROM notes", "blocked", "drifted"),
    ("index", "CREATE INDEX other ON notes (amount)", "blocked", "drifted"),
    ("newer", "INSERT INTO __diesel_schema_migrations (version) VALUES ('9')", "blocked", "unknown"),
    ("edited", "UPDATE tenantry_history SET checksum = 'x'", "blocked", "edited"),
];

fn write(world: &mut World, count: usize) {
    let number = world.either("NUMERIC CHECK (typeof(amount) IN ('integer', 'real'))", "NUMERIC");
    let cast = world.either("amount", "amount::numeric");
    let kind = world.either("json_extract(doc, '$.kind')", "doc::json ->> 'kind'");
    let base = "CREATE TABLE parents (id INTEGER PRIMARY KEY); CREATE TABLE empty (id INTEGER PRIMARY KEY);\n\
        CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT, amount TEXT, parent INTEGER, doc TEXT, size INTEGER);\n\
        CREATE VIEW titles AS SELECT title FROM notes;";
    let amounts = format!(
        "CREATE TABLE amounts (id INTEGER PRIMARY KEY, amount {number} NOT NULL CHECK (amount >= 0), \
         parent INTEGER REFERENCES parents (id));\nINSERT INTO amounts SELECT id, {cast}, parent FROM notes;"
    );
    let docs = format!("ALTER TABLE notes ADD COLUMN kind TEXT;\nUPDATE notes SET kind = {kind};");
    let sums = world.either(
        "UPDATE notes SET size = coalesce(size, 0) + 1;",
        "UPDATE notes SET size = (SELECT count(*) FROM generate_series(1, coalesce(size, 0)));",
    );
    let all = [
        ("1_base", base),
        ("2_titles", "CREATE UNIQUE INDEX notes_title ON notes (title);"),
        ("3_amounts", &amounts),
        ("4_docs", &docs),
        ("5_lost", "DELETE FROM notes WHERE title = 'lost';"),
        ("6_sums", sums),
    ];
    world.with_migrations(&all[..count]);
}

/// The outcome of each project, with its error's kind, migration, line and message, or the codes of its problems.
fn outcomes(report: &Report) -> BTreeMap<String, String> {
    let describe = |it: &&serde_json::Value| {
        let error = &it["error"];
        let codes: Vec<_> =
            it["problems"].as_array().unwrap().iter().map(|it| it["code"].to_string()).collect();
        let outcome = it["outcome"].as_str().unwrap().replace("rehearsed", "upgraded");
        // A lock, a disk and damage are described as they are found.
        let message = if ["locked", "disk_full", "corrupt"].iter().any(|kind| error["kind"] == *kind) {
            String::new()
        } else {
            format!("{} {} {}", error["migration"], error["line"], error["message"])
        };
        let described = format!("{outcome} {} {message} {codes:?}", error["kind"]);
        (it["project"].as_str().unwrap().to_string(), described)
    };
    report.events("project_finished").iter().map(describe).collect()
}

#[test]
fn a_rehearsal_of_files_predicts_all_troubles() {
    let mut world = World::sqlite();
    let tools = tempfile::tempdir().unwrap();
    let library = fault_library(tools.path());
    std::fs::write(
        world.folder().join("tenantry.toml"),
        "[sqlite]\nrehearsal_memory_mib = 0\n[run]\nlock_timeout = 0.3\n",
    )
    .unwrap();
    let expected =
        fleet(&mut world, 300, &[("damaged", "failed"), ("large", "failed"), ("locked", "failed")]);
    world.execute(
        "large",
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
         INSERT INTO notes (id, title, amount, parent, doc) SELECT i, hex(randomblob(200)) || i, '1', 1, '{}' FROM n",
    );
    let limit = std::fs::metadata(world.path("large")).unwrap().len();
    damage(&world);
    let application = world.application("locked", "BEGIN IMMEDIATE");
    let before = world.snapshot();
    let run = |arguments: &[&str]| {
        let mut command = world.command(&[&["--format", "json"], arguments].concat());
        command.env("LD_PRELOAD", &library).env("FAULT_LIMIT", limit.to_string());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
        Report::of(&output.stdout)
    };
    let predicted = run(&["rehearse", "--all"]);
    assert!(before == world.snapshot(), "the rehearsal changed something");
    assert_as_seeded(&predicted, &expected);
    let upgraded = run(&["upgrade-all"]);
    assert_eq!(outcomes(&predicted), outcomes(&upgraded));
    assert_eq!(predicted.events("prediction").len(), 1);
    drop(application);
}

#[test]
fn a_rehearsal_of_schemas_predicts_all_troubles() {
    let mut world = World::postgres();
    std::fs::write(
        world.folder().join("tenantry.toml"),
        "[run]\nlock_timeout = 0.5\nstatement_timeout = 1\njobs = 4\n",
    )
    .unwrap();
    let count = usize::try_from(repeated(24)).unwrap();
    let expected = fleet(&mut world, count, &[("slow", "failed"), ("locked", "failed")]);
    world.execute("slow", "UPDATE notes SET size = 200000000 WHERE id = 1");
    let before = world.snapshot();
    // The snapshot, too, would wait for this lock.
    let lock = || world.application("locked", "BEGIN; LOCK TABLE notes IN ACCESS EXCLUSIVE MODE");
    let application = lock();
    let run = |arguments: &[&str]| world.expect(3, arguments);
    let copies = run(&["rehearse", "--all"]);
    let in_place = run(&["rehearse", "--all", "--in-place"]);
    drop(application);
    assert!(before == world.snapshot(), "the rehearsal changed something");
    let application = lock();
    assert_as_seeded(&copies, &expected);
    let upgraded = outcomes(&run(&["upgrade-all"]));
    assert_eq!(outcomes(&in_place), upgraded);
    assert_eq!(outcomes(&copies), upgraded);
    drop(application);
}

/// Makes a fleet of this many projects, some with troubles. `others` are troubles that the caller makes, with their outcomes.
/// Returns each trouble's outcome.
fn fleet(
    world: &mut World,
    count: usize,
    others: &[(&'static str, &'static str)],
) -> BTreeMap<String, Trouble> {
    write(world, 1);
    let troubles = TROUBLES.into_iter().chain(others.iter().map(|(id, outcome)| (*id, "", *outcome, "")));
    let expected: BTreeMap<String, Trouble> = troubles.map(|it| (it.0.to_string(), it)).collect();
    let sound: Vec<String> = (expected.len()..count).map(|number| format!("sound{number}")).collect();
    let ids: Vec<&str> = expected.keys().chain(&sound).map(String::as_str).collect();
    world.expect(0, &[&["create"], &ids[..]].concat());
    for id in ids {
        world.execute(id, "INSERT INTO parents VALUES (1)");
        world.execute(
            id,
            "INSERT INTO notes (id, title, amount, parent, doc) VALUES (1, 'a', '1', 1, '{}'), (2, 'b', '2', NULL, '{\"kind\": \"k\"}')",
        );
    }
    for (id, (_, sql, ..)) in expected.iter().filter(|(_, it)| !it.1.is_empty()) {
        world.execute(id, sql);
    }
    write(world, 6);
    expected
}

/// Overwrites the page of a table's rows.
fn damage(world: &World) {
    let path = world.path("damaged");
    let page: usize =
        world.query("damaged", "SELECT rootpage FROM sqlite_schema WHERE name = 'notes'")[0].parse().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[(page - 1) * 4096..page * 4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
}

/// Asserts that exactly the projects with troubles do not pass, each for its own reason.
fn assert_as_seeded(report: &Report, expected: &BTreeMap<String, Trouble>) {
    let finished = report.events("project_finished");
    let failed =
        finished.iter().filter(|it| it["outcome"] != "rehearsed").map(|it| it["project"].as_str().unwrap());
    let seeded: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    assert_eq!(failed.collect::<BTreeSet<_>>(), seeded);
    for (id, (_, _, outcome, reason)) in expected {
        let project = report.project(id);
        assert_eq!(project["outcome"], *outcome, "{id}: {project}");
        let found = if *outcome == "failed" {
            &project["error"]["migration"]
        } else {
            &project["problems"][0]["code"]
        };
        assert!(reason.is_empty() || found == reason, "{id}: {project}");
    }
}
