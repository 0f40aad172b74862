//! A rehearsal upgrades private copies: it predicts what the upgrade does, and changes nothing.

use std::collections::BTreeMap;

use crate::faults::fault_library;
use crate::world::{Report, World};

on_each_store!(
    a_rehearsal_predicts_each_projects_trouble,
    what_was_measured_is_reported,
    an_upgrade_can_be_rehearsed_first,
    a_sample_has_every_version_the_largest_and_the_oldest,
    a_sample_has_every_kind_of_drift,
    the_run_has_what_was_predicted_in_its_record,
);

const FIRST: (&str, &str) = (
    "1_notes",
    "CREATE TABLE parents (id INTEGER PRIMARY KEY); CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT, amount INTEGER, parent INTEGER);",
);
const SECOND: (&str, &str) =
    ("2_titles", "CREATE UNIQUE INDEX notes_title ON notes (title);\n-- down\nDROP INDEX notes_title;\n");
const THIRD: (&str, &str) = (
    "3_amounts",
    "CREATE TABLE amounts (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL CHECK (amount >= 0), parent INTEGER REFERENCES parents (id));\n\
     INSERT INTO amounts SELECT id, amount, parent FROM notes;",
);

/// What is wrong with a project, and the migration at which its upgrade fails; none if it is blocked.
const TROUBLES: [(&str, &str, Option<&str>); 8] = [
    ("good", "INSERT INTO notes VALUES (2, 'b', 3, 1)", Some("")),
    ("duplicate", "INSERT INTO notes VALUES (2, 'a', 3, 1)", Some("2_titles")),
    ("null", "INSERT INTO notes VALUES (2, 'b', NULL, 1)", Some("3_amounts")),
    ("negative", "INSERT INTO notes VALUES (2, 'b', -1, 1)", Some("3_amounts")),
    ("dangling", "INSERT INTO notes VALUES (2, 'b', 3, 99)", Some("3_amounts")),
    ("missing", "DROP TABLE parents", None),
    ("column", "ALTER TABLE notes ADD COLUMN extra TEXT", None),
    ("index", "CREATE INDEX other ON notes (title)", None),
];

fn fleet(world: &mut World) {
    world.with_migrations(&[FIRST]);
    for (id, sql, _) in TROUBLES {
        world.expect(0, &["create", id]);
        world.execute(id, "INSERT INTO parents VALUES (1)");
        world.execute(id, "INSERT INTO notes VALUES (1, 'a', 1, 1)");
        world.execute(id, sql);
    }
    world.with_migrations(&[FIRST, SECOND, THIRD]);
    world.expect(0, &["create", "current"]);
}

/// The outcome of each project, with its error's migration, line and message, or its first problem.
fn outcomes(report: &Report) -> BTreeMap<String, String> {
    let finished = report.events("project_finished");
    let describe = |it: &&serde_json::Value| {
        let error = &it["error"];
        let what = format!(
            "{} {} {} {}",
            error["migration"], error["line"], error["message"], it["problems"][0]["message"]
        );
        let outcome = it["outcome"].as_str().unwrap().replace("rehearsed", "upgraded");
        (it["project"].as_str().unwrap().to_string(), format!("{outcome} {what}"))
    };
    finished.iter().map(describe).collect()
}

fn a_rehearsal_predicts_each_projects_trouble(world: &mut World) {
    fleet(world);
    let before = world.snapshot();
    let mut places = vec![vec!["rehearse", "--all"]];
    if world.is_postgres() {
        places.push(vec!["rehearse", "--all", "--in-place"]);
    } else {
        let ran = world.run(&["rehearse", "--all", "--in-place"]);
        assert!(ran.code == 2 && ran.stderr.contains("rehearsed on private copies"), "{}", ran.stderr);
    }
    let mut predicted = Vec::new();
    for place in places {
        let report = world.expect(3, &place);
        for (id, _, trouble) in TROUBLES {
            match trouble {
                None => assert_eq!(report.outcome(id), "blocked", "{id}"),
                Some("") => assert_eq!(report.outcome(id), "rehearsed", "{id}"),
                Some(migration) => {
                    assert_eq!(report.outcome(id), "failed", "{id}");
                    assert_eq!(report.project(id)["error"]["migration"], migration, "{id}");
                }
            }
        }
        assert_eq!(report.outcome("current"), "up_to_date");
        predicted.push(outcomes(&report));
        assert!(before == world.snapshot(), "{place:?} changed something");
    }
    let upgraded = outcomes(&world.expect(3, &["upgrade-all"]));
    for predicted in predicted {
        assert_eq!(predicted, upgraded);
    }
    assert!(world.run(&["runs", "list"]).stdout.lines().all(|line| !line.contains("rehearse")));
}

fn what_was_measured_is_reported(world: &mut World) {
    fleet(world);
    let report = world.expect(0, &["rehearse", "good"]);
    let rehearsal = &report.project("good")["rehearsal"];
    let versions: Vec<_> =
        rehearsal["migrations"].as_array().unwrap().iter().map(|it| it["version"].clone()).collect();
    assert_eq!(versions, ["2", "3"]);
    assert!(rehearsal["migrations"][0]["took_us"].is_u64() && rehearsal["took_us"].as_u64().unwrap() > 0);
    assert_eq!(rehearsal["rows"], serde_json::json!({"amounts": {"before": 0, "after": 2}}));
    let bytes = |name: &str| rehearsal[name].as_u64().unwrap();
    assert!(bytes("bytes_before") > 0 && bytes("bytes_after") > bytes("bytes_before"), "{rehearsal}");
    let text = world.run(&["rehearse", "good", "current"]).stdout;
    for wanted in [
        "rehearsal: nothing is changed",
        "would succeed at 1: would run 2, 3",
        "slowest: good (",
        "1 rehearsed, 1 up to date",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let text = world.run(&["rehearse", "good"]).stdout;
    for wanted in ["  2: ", "  rows of amounts: 0 before, 2 after", "  size: "] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // Not past the version that is asked for.
    let report = world.expect(0, &["rehearse", "null", "--to", "2"]);
    assert_eq!((report.outcome("null"), &report.project("null")["to"]), ("rehearsed", &"2".into()));
}

fn an_upgrade_can_be_rehearsed_first(world: &mut World) {
    fleet(world);
    let before = world.snapshot();
    let ran = world.run(&["upgrade-all", "--rehearse"]);
    assert!(
        ran.code == 3 && ran.stderr.contains("nothing was changed: 7 of 9 projects"),
        "{} {}",
        ran.code,
        ran.stderr
    );
    assert!(before == world.snapshot());
    // Those that pass are upgraded; the others are not touched.
    let report = world.expect(3, &["upgrade-all", "--rehearse", "--max-failures", "1"]);
    assert_eq!(world.versions("good").len(), 3);
    assert_eq!(
        report.events("run_started").iter().map(|it| it["command"].clone()).collect::<Vec<_>>(),
        ["rehearse", "upgrade-all"]
    );
    assert_eq!(world.versions("duplicate"), ["1"]);
    assert_eq!(report.events("run_started")[1]["projects"], 2);
    world.execute("null", "DELETE FROM notes WHERE id = 2");
    let report = world.expect(0, &["upgrade", "null", "--rehearse"]);
    assert_eq!((report.events("project_finished").len(), world.versions("null").len()), (2, 3));
    assert_eq!(world.run(&["upgrade-all", "--rehearse", "--dry-run"]).code, 2);
}

/// Whatever the journal mode, and whatever lies beside the file.
#[test]
fn the_bytes_of_a_file_that_is_rehearsed_stay_the_same() {
    let mut world = World::sqlite();
    world.with_migrations(&[FIRST]);
    for (id, mode) in [("wal", "WAL"), ("delete", "DELETE"), ("open", "WAL")] {
        world.expect(0, &["create", id]);
        world.execute(id, &format!("PRAGMA journal_mode = {mode}"));
        world.execute(id, "INSERT INTO notes VALUES (1, 'a', 1, NULL)");
    }
    world.with_migrations(&[FIRST, SECOND, THIRD]);
    // An application that has committed rows that are only in the WAL.
    let application = world
        .application("open", "PRAGMA wal_autocheckpoint = 0; INSERT INTO notes VALUES (2, 'a', 1, NULL)");
    let before = world.snapshot();
    let report = world.expect(3, &["rehearse", "--all"]);
    assert_eq!(before, world.snapshot());
    assert_eq!((report.outcome("wal"), report.outcome("delete")), ("rehearsed", "rehearsed"));
    assert_eq!(report.project("open")["error"]["migration"], "2_titles");
    drop(application);
}

/// A database that is too large for memory is copied into a file.
#[test]
fn a_large_database_is_rehearsed_in_a_file() {
    let mut world = World::sqlite();
    world.with_migrations(&[FIRST]).expect(0, &["create", "a"]);
    world.execute(
        "a",
        "CREATE TABLE big (b BLOB); INSERT INTO big VALUES (zeroblob(2000000)); DROP TABLE big",
    );
    std::fs::write(world.folder().join("tenantry.toml"), "[sqlite]\nrehearsal_memory_mib = 1\n").unwrap();
    world.with_migrations(&[FIRST, SECOND]);
    let before = world.snapshot();
    assert_eq!(world.expect(0, &["rehearse", "a"]).outcome("a"), "rehearsed");
    assert_eq!(before, world.snapshot());
    // Without a folder for temporary files, only a copy in memory can be made.
    let without_files = || {
        let mut command = world.command(&["rehearse", "a"]);
        crate::world::Ran::of(command.env("TMPDIR", "/nowhere")).code
    };
    assert_eq!(without_files(), 3);
    std::fs::remove_file(world.folder().join("tenantry.toml")).unwrap();
    assert_eq!(without_files(), 0);
}

fn a_sample_has_every_version_the_largest_and_the_oldest(world: &mut World) {
    world.with_migrations(&[FIRST]);
    world.expect(0, &["create", "oldest"]);
    // A file system's times may be as coarse as a second.
    if !world.is_postgres() {
        std::thread::sleep(std::time::Duration::from_millis(1_100));
    }
    let ids: Vec<String> = (10..30).map(|number| format!("p{number}")).collect();
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.expect(0, &[&["create"], &all[..]].concat());
    world.execute(
        "p17",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         INSERT INTO notes (id, title, amount) SELECT i, 'title ' || i, i FROM n",
    );
    world.with_migrations(&[FIRST, SECOND]).expect(0, &["upgrade", "p23"]);
    world.with_migrations(&[FIRST, SECOND, THIRD]);
    // What is noted of each project, such as its own ignored table, makes it no other kind.
    std::fs::write(world.folder().join("tenantry.toml"), "[schema]\nignore = [\"tmp_*\"]\n").unwrap();
    for id in &all {
        world.execute(id, &format!("CREATE TABLE tmp_{id} (a INTEGER)"));
    }
    let report = world.expect(0, &["rehearse", "--all", "--sample", "20%"]);
    assert_eq!((report.count("rehearsed"), report.count("planned")), (5, 16), "{:?}", report.0);
    for id in ["oldest", "p17", "p23"] {
        assert_eq!(report.outcome(id), "rehearsed", "{id}");
    }
    assert_eq!(world.expect(0, &["rehearse", "--all", "--sample", "1"]).count("planned"), 18);
    assert_eq!(world.run(&["rehearse", "--all", "--sample", "none"]).code, 2);
}

/// SQLite takes an unknown name in double quotes for a text, in a rehearsal as in an upgrade.
#[test]
fn a_rehearsal_runs_under_the_settings_of_the_upgrade() {
    let mut world = World::sqlite();
    world.with_migrations(&[FIRST]).expect(0, &["create", "a"]);
    world.with_migrations(&[FIRST, ("2_text", "INSERT INTO notes (title) VALUES (\"hello\");")]);
    assert_eq!(world.expect(0, &["rehearse", "a"]).outcome("a"), "rehearsed");
    assert_eq!(world.expect(0, &["upgrade", "a"]).outcome("a"), "upgraded");
    assert_eq!(world.query("a", "SELECT title FROM notes"), ["hello"]);
}

fn a_sample_has_every_kind_of_drift(world: &mut World) {
    world.with_migrations(&[FIRST]);
    let ids: Vec<String> = (0..12).map(|number| format!("p{number:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.expect(0, &[&["create"], &ids[..]].concat());
    world.execute("p07", "CREATE INDEX other ON notes (amount)");
    world.execute("p09", "CREATE INDEX more ON notes (amount)");
    world.with_migrations(&[FIRST, SECOND]);
    let report = world.expect(0, &["rehearse", "--all", "--sample", "1", "--allow-drift"]);
    let outcomes = ["p00", "p07", "p09"].map(|id| report.outcome(id));
    assert_eq!(outcomes, ["rehearsed"; 3]);
    assert!(report.count("planned") >= 7, "{:?}", report.0);
    assert!(report.project("p07")["notes"].to_string().contains("extra index other"));
}

fn the_run_has_what_was_predicted_in_its_record(world: &mut World) {
    world.with_migrations(&[FIRST]).expect(0, &["create", "a", "b", "c"]);
    world.with_migrations(&[FIRST, SECOND]);
    let before = world.snapshot();
    let report = world.expect(0, &["rehearse", "--all"]);
    assert!(before == world.snapshot());
    let prediction = report.events("prediction")[0];
    assert_eq!((&prediction["projects"], &prediction["copies"]), (&3.into(), &3.into()));
    assert!(prediction["predicted_us"].as_u64().unwrap() > 0);
    let text = world.run(&["rehearse", "--all"]).stdout;
    assert!(text.contains("upgrading 3 will take about ") && text.contains("measured on 3 copies"), "{text}");
    assert!(text.contains("longest lock: ") && text.contains("KiB of disk while it runs"), "{text}");
    let report = world.expect(0, &["upgrade-all", "--rehearse"]);
    let predicted = &report.events("prediction")[0]["predicted_us"];
    let (started, finished) = (report.events("run_started")[1], report.events("run_finished")[1]);
    assert_eq!((&started["predicted_us"], &finished["predicted_us"]), (predicted, predicted));
    let run = started["run"].as_str().unwrap();
    let shown = world.run(&["--format", "json", "runs", "show", run]).stdout;
    assert!(shown.contains("\"predicted_us\":"), "{shown}");
    // Nothing is left of the copies.
    assert_eq!(
        world.expect(0, &["upgrade-all"]).events("run_finished")[0]["predicted_us"],
        serde_json::Value::Null
    );
    if !world.is_postgres() {
        let names = std::fs::read_dir(world.data()).unwrap().map(|it| it.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".tenantry")));
    }
}

/// The copies in memory succeed, and the disk has no space for those that are timed.
#[test]
fn a_rehearsal_counts_without_a_prediction() {
    let tools = tempfile::tempdir().unwrap();
    let library = fault_library(tools.path());
    let mut world = World::sqlite();
    world.with_migrations(&[FIRST]).expect(0, &["create", "a", "b"]);
    world.with_migrations(&[FIRST, SECOND]);
    let before = world.snapshot();
    let mut command = world.command(&["rehearse", "--all"]);
    command.env("LD_PRELOAD", &library).env("FAULT_LIMIT", "4096");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("2 rehearsed"), "{text}");
    assert!(text.contains("could not be predicted: ") && text.contains("full"), "{text}");
    assert!(!text.contains("will take about") && before == world.snapshot(), "{text}");
    let names = std::fs::read_dir(world.data()).unwrap().map(|it| it.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".tenantry")));
}

#[test]
fn copies_can_be_upgraded_on_another_server() {
    let mut world = World::postgres();
    fleet(&mut world);
    let other = World::postgres();
    let before = (world.snapshot(), other.snapshot());
    let here = outcomes(&world.expect(3, &["rehearse", "--all"]));
    let report = world.expect(3, &["rehearse", "--all", "--rehearse-on", &other.url()]);
    assert_eq!(outcomes(&report), here);
    assert_eq!(report.events("prediction").len(), 0);
    assert!(before == (world.snapshot(), other.snapshot()));
    let url = "postgres://user:secret@127.0.0.1:1/nothing";
    let ran = world.run(&["rehearse", "good", "--rehearse-on", url]);
    assert!(
        ran.code == 3 && ran.stdout.contains("127.0.0.1") && !ran.stdout.contains("secret"),
        "{}",
        ran.stdout
    );
    let ran = World::sqlite().run(&["rehearse", "--all", "--rehearse-on", url]);
    assert!(ran.code == 2 && ran.stderr.contains("on this machine"), "{}", ran.stderr);
}
