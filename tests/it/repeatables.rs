//! Flyway's repeatable migrations: they run after the others, and again when their text has changed.

use std::path::{Path, PathBuf};

use crate::journal::run_id;
use crate::layouts::folder;
use crate::world::World;

on_each_store!(
    a_repeatable_migration_runs_when_its_text_changes,
    it_runs_in_the_transaction_of_the_others,
    what_it_makes_is_compared_once_it_was_run,
    a_schema_that_has_it_is_recorded_with_it,
    many_run_in_one_transaction,
    what_makes_an_index_or_is_gone_can_be_retired,
    a_run_of_it_goes_back_by_its_backup,
    flyways_records_of_it_are_taken_over,
    what_cannot_be_repeated_is_refused,
);

const NOTES: &str = "CREATE TABLE notes (id INT NOT NULL PRIMARY KEY, title TEXT NOT NULL);";
const COUNTS: &str = "DROP VIEW IF EXISTS counts;\nCREATE VIEW counts AS SELECT count(*) AS n FROM notes;\n";
const TITLES: &str = "DROP VIEW IF EXISTS titles;\nCREATE VIEW titles AS SELECT title FROM notes;\n";
const MORE_TITLES: &str = "DROP VIEW IF EXISTS titles;\nCREATE VIEW titles AS SELECT id, title FROM notes;\n";

fn put(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// Two migrations with a version and two repeatable ones.
fn flyway(world: &mut World) -> PathBuf {
    let folder = folder(world, "");
    put(&folder, "V1__notes.sql", NOTES);
    put(&folder, "V2__tags.sql", "CREATE TABLE tags (name TEXT NOT NULL);");
    put(&folder, "U2__tags.sql", "DROP TABLE tags;");
    put(&folder, "R__titles.sql", TITLES);
    put(&folder, "R__counts.sql", COUNTS);
    folder
}

fn repeats(world: &World, id: &str) -> Vec<String> {
    world.query(id, "SELECT version FROM tenantry_history WHERE action = 'repeat' ORDER BY sequence")
}

fn migrations(report: &crate::world::Report, id: &str) -> Vec<String> {
    let list = report.project(id)["migrations"].as_array().unwrap();
    list.iter().map(|it| it.as_str().unwrap().to_string()).collect()
}

fn a_repeatable_migration_runs_when_its_text_changes(world: &mut World) {
    let folder = flyway(world);
    world.expect(0, &["create", "a", "b"]);
    world.execute("a", "INSERT INTO notes VALUES (7, 'one')");
    assert_eq!(
        (world.versions("a"), repeats(world, "a")),
        (vec!["1".into(), "2".into()], vec!["R__counts".into(), "R__titles".into()])
    );
    assert_eq!(world.query("a", "SELECT n FROM counts"), ["1"]);
    assert_eq!(world.expect(0, &["upgrade-all"]).count("up_to_date"), 2);
    // Another line ending is no other text.
    put(&folder, "R__titles.sql", &TITLES.replace('\n', "\r\n"));
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 2);
    put(&folder, "R__titles.sql", MORE_TITLES);
    let before = world.snapshot();
    let dry = world.expect(0, &["upgrade-all", "--dry-run"]);
    assert_eq!((dry.outcome("a"), migrations(&dry, "a")), ("planned", vec!["R__titles".into()]));
    assert_eq!(world.expect(0, &["status", "a"]).outcome("a"), "planned");
    assert!(world.run(&["status"]).stdout.contains("R__titles"), "{}", world.run(&["status"]).stdout);
    assert_eq!(before, world.snapshot());
    // Only what reaches the newest version needs them.
    assert_eq!(world.expect(0, &["upgrade", "a", "--to", "1"]).outcome("a"), "up_to_date");
    let run = world.expect(0, &["upgrade-all"]);
    assert_eq!((run.outcome("a"), migrations(&run, "a")), ("upgraded", vec!["R__titles".into()]));
    assert_eq!(world.query("a", "SELECT id FROM titles"), ["7"]);
    assert_eq!(repeats(world, "a"), ["R__counts", "R__titles", "R__titles"]);
    assert_eq!(world.expect(0, &["upgrade-all"]).count("up_to_date"), 2);
    world.expect(0, &["create", "c"]);
    assert_eq!(world.query("c", "SELECT count(id) FROM titles"), ["0"]);
    let listed = world.expect(0, &["migration", "list"]);
    let list: Vec<_> = listed
        .events("migration")
        .iter()
        .map(|it| (it["version"].clone(), it["repeatable"].clone()))
        .collect();
    assert_eq!(
        list.iter().map(|it| it.1 == true).collect::<Vec<_>>(),
        [false, false, true, true],
        "{list:?}"
    );
    assert!(world.run(&["migration", "new", "more"]).stdout.contains("V3__more.sql"));
}

fn it_runs_in_the_transaction_of_the_others(world: &mut World) {
    let folder = flyway(world);
    world.expect(0, &["create", "a", "b"]);
    for id in ["a", "b"] {
        world.execute(id, "INSERT INTO notes VALUES (1, 'one')");
    }
    world.execute("b", "INSERT INTO notes VALUES (2, 'one')");
    put(&folder, "V3__more.sql", "ALTER TABLE notes ADD COLUMN more TEXT;");
    put(
        &folder,
        "R__titles.sql",
        &format!("{MORE_TITLES}DROP INDEX IF EXISTS once;\nCREATE UNIQUE INDEX once ON notes (title);\n"),
    );
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!(
        (report.outcome("a"), migrations(&report, "a")),
        ("upgraded", vec!["3".into(), "R__titles".into()])
    );
    let error = &report.project("b")["error"];
    assert_eq!(
        (error["migration"].as_str(), error["line"].as_u64()),
        (Some("R__titles"), Some(4)),
        "{error}"
    );
    assert_eq!((world.versions("b").len(), repeats(world, "b").len()), (2, 2));
    world.execute("b", "DELETE FROM notes WHERE id = 2");
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("b"), "upgraded");
    // A failure on an empty database ends the command.
    put(&folder, "R__titles.sql", "INSERT INTO missing VALUES (1);");
    let failed = world.run(&["upgrade-all"]);
    assert!(failed.code == 2 && failed.stderr.contains("R__titles"), "{}", failed.stderr);
}

fn what_it_makes_is_compared_once_it_was_run(world: &mut World) {
    let folder = flyway(world);
    world.expect(0, &["create", "a", "b"]);
    world.execute("a", "DROP VIEW titles");
    assert!(world.expect(4, &["status", "a"]).problem("a").1.contains("missing view titles"));
    // Once another text is pending, the view of the former text is not compared, but everything else is.
    put(&folder, "R__titles.sql", MORE_TITLES);
    assert_eq!(world.expect(0, &["status", "a"]).outcome("a"), "planned");
    world.execute("b", "CREATE VIEW mine AS SELECT id FROM notes");
    let notes = world.expect(0, &["status", "b"]).project("b")["notes"].to_string();
    assert!(
        notes.contains("not compared until the repeatable migrations are run: extra view mine"),
        "{notes}"
    );
    world.execute("b", "DROP VIEW mine");
    world.execute("b", "CREATE TABLE other (a INTEGER)");
    assert!(world.expect(4, &["status", "b"]).problem("b").1.contains("extra table other"));
    world.execute("b", "DROP TABLE other");
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 2);
    // What a former text made and the present one does not has to be dropped.
    put(&folder, "R__titles.sql", &MORE_TITLES.replace("titles", "names"));
    let (code, message) = {
        let report = world.expect(3, &["upgrade", "a"]);
        let error = report.error("a");
        (error.0.to_string(), error.1.to_string())
    };
    assert!(code == "schema_mismatch" && message.contains("extra view titles"), "{code}: {message}");
    put(
        &folder,
        "R__titles.sql",
        &format!("DROP VIEW IF EXISTS titles;\n{}", MORE_TITLES.replace("titles", "names")),
    );
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 2);
    assert_eq!(world.query("a", "SELECT count(*) FROM names"), ["0"]);
    // A downgrade leaves what they made.
    world.expect(0, &["downgrade", "a", "--steps", "1"]);
    assert_eq!(world.query("a", "SELECT n FROM counts"), ["0"]);
    let report = world.expect(0, &["upgrade", "a"]);
    // What reverted the migration may have removed what they had made.
    assert_eq!(migrations(&report, "a"), ["2", "R__counts", "R__titles"]);
}

fn a_schema_that_has_it_is_recorded_with_it(world: &mut World) {
    flyway(world);
    let tables = format!("{NOTES} CREATE TABLE tags (name TEXT NOT NULL);");
    world.with_project("with", &format!("{tables} {TITLES} {COUNTS}"));
    world.with_project("half", &format!("{tables} {TITLES}"));
    world.with_project("without", &tables);
    world.with_project("first", NOTES);
    let report = world.expect(0, &["stamp", "with"]);
    assert_eq!((report.outcome("with"), repeats(world, "with").len()), ("stamped", 2));
    assert_eq!(world.expect(0, &["status", "with"]).outcome("with"), "up_to_date");
    let report = world.expect(0, &["upgrade-all"]);
    assert_eq!(migrations(&report, "half"), ["R__counts", "R__titles"]);
    assert_eq!(migrations(&report, "without"), ["R__counts", "R__titles"]);
    assert_eq!(migrations(&report, "first"), ["2", "R__counts", "R__titles"]);
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 4);
}

fn a_run_of_it_goes_back_by_its_backup(world: &mut World) {
    let folder = flyway(world);
    world.expect(0, &["create", "a"]);
    put(&folder, "R__titles.sql", MORE_TITLES);
    let run = run_id(&world.expect(0, &["upgrade", "a"]));
    let (code, message) = {
        let report = world.expect(3, &["runs", "rollback", &run]);
        let error = report.error("a");
        (error.0.to_string(), error.1.to_string())
    };
    assert!(code == "blocked" && message.contains("R__titles"), "{code}: {message}");
    put(&folder, "R__titles.sql", &MORE_TITLES.replace("id, title", "title, id"));
    let run = run_id(&world.expect(0, &["upgrade", "a", "--backup"]));
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).outcome("a"), "restored");
    assert_eq!(repeats(world, "a").len(), 3);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).outcome("a"), "up_to_date");
}

fn flyways_records_of_it_are_taken_over(world: &mut World) {
    let folder = flyway(world);
    let sum = |text: &str| crc32fast::hash(text.replace('\n', "").as_bytes()).cast_signed();
    let tags = "CREATE TABLE tags (name TEXT NOT NULL);";
    let ledger = format!(
        "CREATE TABLE flyway_schema_history (installed_rank INT NOT NULL PRIMARY KEY, version VARCHAR(50), \
         description VARCHAR(200) NOT NULL, type VARCHAR(20) NOT NULL, script VARCHAR(1000) NOT NULL, checksum INTEGER, \
         success BOOLEAN NOT NULL); INSERT INTO flyway_schema_history VALUES \
         (1, '1', 'notes', 'SQL', 'V1__notes.sql', {}, true), (2, '2', 'tags', 'SQL', 'V2__tags.sql', {}, true), \
         (3, NULL, 'counts', 'SQL', 'R__counts.sql', {}, true), (4, NULL, 'titles', 'SQL', 'R__titles.sql', 5, true), \
         (5, NULL, 'titles', 'SQL', 'R__titles.sql', {}, true);",
        sum(NOTES),
        sum(tags),
        sum(COUNTS),
        sum(TITLES)
    );
    for id in ["a", "b", "c"] {
        world.with_project(id, &format!("{NOTES} {tags} {COUNTS} {TITLES} {ledger}"));
    }
    let report = world.expect(0, &["adopt", "a"]);
    assert!(
        report.project("a")["notes"].to_string().contains("2 of 2 repeatable"),
        "{}",
        report.project("a")
    );
    assert_eq!((world.versions("a").len(), repeats(world, "a").len()), (2, 2));
    assert_eq!(world.expect(0, &["upgrade", "a"]).outcome("a"), "up_to_date");
    // A text that Flyway has not run yet.
    put(&folder, "R__titles.sql", MORE_TITLES);
    let report = world.expect(0, &["adopt", "b"]);
    assert!(
        report.project("b")["notes"].to_string().contains("1 of 2 repeatable"),
        "{}",
        report.project("b")
    );
    assert_eq!(migrations(&world.expect(0, &["upgrade", "b"]), "b"), ["R__titles"]);
    std::fs::remove_file(folder.join("R__titles.sql")).unwrap();
    assert!(world.expect(4, &["adopt", "c"]).problem("c").1.contains("does not have: R__titles.sql"));
}

fn what_cannot_be_repeated_is_refused(world: &mut World) {
    let folder = folder(world, "");
    put(&folder, "V1__notes.sql", NOTES);
    let long = format!("R__{}.sql", "x".repeat(48));
    for (name, text, message) in
        [("R__vacuum.sql", "VACUUM;", "has to run in a transaction"), (&long, COUNTS, "too long")]
    {
        put(&folder, name, text);
        let ran = world.run(&["migration", "list"]);
        assert!(ran.code == 2 && ran.stderr.contains(message) && ran.stderr.contains(name), "{}", ran.stderr);
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    put(&folder, "R__counts.sql", COUNTS);
    let ran = world.run(&["--layout", "refinery", "migration", "list"]);
    assert!(ran.code == 2 && ran.stderr.contains("refinery has no repeatable"), "{}", ran.stderr);
}

/// More of them than migrations.
fn many_run_in_one_transaction(world: &mut World) {
    let folder = folder(world, "");
    put(&folder, "V1__notes.sql", NOTES);
    world.expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO notes VALUES (1, 'one')");
    world.execute("a", "INSERT INTO notes VALUES (2, 'one')");
    put(&folder, "V2__tags.sql", "CREATE TABLE tags (name TEXT NOT NULL);");
    put(&folder, "R__titles.sql", TITLES);
    put(&folder, "R__counts.sql", COUNTS);
    put(&folder, "R__unique.sql", "DROP INDEX IF EXISTS once;\nCREATE UNIQUE INDEX once ON notes (title);");
    assert_eq!(world.expect(3, &["upgrade", "a"]).outcome("a"), "failed");
    assert_eq!((world.versions("a"), world.tables("a")), (vec!["1".into()], vec!["notes".into()]));
    world.execute("a", "DELETE FROM notes WHERE id = 2");
    assert_eq!(
        migrations(&world.expect(0, &["upgrade", "a"]), "a"),
        ["2", "R__counts", "R__titles", "R__unique"]
    );
}

fn what_makes_an_index_or_is_gone_can_be_retired(world: &mut World) {
    let folder = folder(world, "");
    put(&folder, "V1__notes.sql", NOTES);
    put(
        &folder,
        "R__index.sql",
        "DROP INDEX IF EXISTS notes_title;\nCREATE INDEX notes_title ON notes (title);",
    );
    put(&folder, "R__titles.sql", TITLES);
    world.expect(0, &["create", "a"]);
    put(&folder, "R__index.sql", "DROP INDEX IF EXISTS notes_title;");
    assert_eq!(migrations(&world.expect(0, &["upgrade", "a"]), "a"), ["R__index"]);
    std::fs::remove_file(folder.join("R__index.sql")).unwrap();
    std::fs::remove_file(folder.join("R__titles.sql")).unwrap();
    assert_eq!(world.expect(0, &["status", "a"]).outcome("a"), "up_to_date");
    put(&folder, "V2__drop.sql", "DROP VIEW IF EXISTS titles;");
    assert_eq!(world.expect(0, &["upgrade", "a"]).outcome("a"), "upgraded");
    // Everything else is compared as ever.
    world.execute("a", "CREATE TABLE other (a INTEGER)");
    assert!(world.expect(4, &["status", "a"]).problem("a").1.contains("extra table other"));
}
