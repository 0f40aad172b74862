//! Rolling back runs: which projects are rolled back, by which means, and what is not lost.

use std::process::Stdio;

use diesel::connection::SimpleConnection as _;

use crate::journal::{INDEX, MORE, NOTES, run_id};
use crate::world::World;

on_each_store!(
    a_run_is_rolled_back_for_just_the_projects_that_it_moved,
    a_run_whose_way_down_loses_rows_goes_back_by_its_backups,
    a_project_that_failed_after_a_part_was_committed_goes_back_as_well,
    a_failed_project_that_cannot_be_read_hinders_no_other,
    a_run_that_another_went_on_from_is_not_undone_over_it,
    a_way_down_that_would_drop_rows_is_not_gone,
);

/// Is committed before a migration after it fails.
const OUTSIDE: (&str, &str) = (
    "2_index",
    "CREATE INDEX notes_text ON notes (text);\n-- down\nDROP INDEX notes_text;\n-- metadata\nrun_in_transaction = false\n",
);
const UNIQUE: (&str, &str) =
    ("3_unique", "CREATE UNIQUE INDEX once ON notes (text);\n-- down\nDROP INDEX once;\n");

fn a_run_is_rolled_back_for_just_the_projects_that_it_moved(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1", "2", "3"]);
    world.with_migrations(&[NOTES, INDEX]).expect(0, &["create", "new"]);
    world.expect(0, &["upgrade", "3"]);
    let run = run_id(&world.expect(0, &["upgrade-all"]));
    world.execute("1", "INSERT INTO notes (text) VALUES ('since')");
    let before = world.snapshot();
    let planned = world.expect(0, &["runs", "rollback", &run, "--dry-run"]);
    assert_eq!((planned.count("planned"), before == world.snapshot()), (2, true));
    assert!(planned.project("1")["notes"][0].as_str().unwrap().starts_with("by down.sql"));
    let report = world.expect(0, &["runs", "rollback", &run]);
    assert_eq!((report.outcome("1"), report.outcome("2")), ("downgraded", "downgraded"));
    let project = report.project("1");
    let moved = (&project["from"], &project["to"], &project["migrations"]);
    assert_eq!(moved, (&"2".into(), &"1".into(), &serde_json::json!(["2"])));
    let rollback = run_id(&report);
    for (id, versions) in [("1", vec!["1"]), ("2", vec!["1"]), ("3", vec!["1", "2"]), ("new", vec!["1", "2"])]
    {
        assert_eq!(world.versions(id), versions, "{id}");
    }
    assert_eq!(world.query("1", "SELECT text FROM notes"), ["since"]);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("up_to_date"), 2);
    // A rollback can be rolled back, by the backups that it took.
    let again = world.expect(0, &["runs", "rollback", &rollback]);
    assert_eq!((again.outcome("1"), world.versions("1")), ("restored", vec!["1".into(), "2".into()]));
    world.expect(0, &["downgrade", "1", "2", "--to", "1"]);
    // A project that a later run migrated is not rolled back.
    let run = run_id(&world.expect(0, &["upgrade", "1", "2"]));
    world.with_migrations(&[NOTES, INDEX, MORE]).expect(0, &["upgrade", "2"]);
    let report = world.expect(3, &["runs", "rollback", &run]);
    assert_eq!((report.outcome("1"), report.error("2").0), ("downgraded", "version_mismatch"));
    assert_eq!(world.versions("2"), ["1", "2", "3"]);
}

fn a_run_whose_way_down_loses_rows_goes_back_by_its_backups(world: &mut World) {
    let fill = (
        "2_fill",
        "CREATE TABLE copies (id INTEGER);\nINSERT INTO copies SELECT id FROM notes;\nUPDATE notes SET text = 'gone';\n-- down\nDROP TABLE copies;\n",
    );
    world.with_migrations(&[NOTES]).expect(0, &["create", "1", "2"]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('kept')");
    world.with_migrations(&[NOTES, fill]);
    // Without a backup, every way back loses data.
    let run = run_id(&world.expect(0, &["upgrade", "1"]));
    assert_eq!(world.expect(3, &["runs", "rollback", &run]).error("1").0, "blocked");
    world.expect(0, &["downgrade", "1", "--steps", "1"]);
    world.execute("1", "UPDATE notes SET text = 'kept'");
    let before = [world.contents("1"), world.contents("2")];
    let run = run_id(&world.expect(0, &["upgrade-all", "--backup"]));
    assert_eq!(world.query("1", "SELECT text FROM notes"), ["gone"]);
    let planned = world.expect(0, &["runs", "rollback", &run, "--dry-run"]);
    assert!(planned.project("1")["notes"][0].as_str().unwrap().contains("changes since then are lost"));
    let report = world.expect(0, &["runs", "rollback", &run]);
    assert_eq!((report.outcome("1"), report.outcome("2")), ("restored", "downgraded"));
    assert_eq!(before, [world.contents("1"), world.contents("2")]);
    assert_eq!((world.versions("1"), world.versions("2")), (vec!["1".to_string()], vec!["1".to_string()]));
}

fn a_project_that_failed_after_a_part_was_committed_goes_back_as_well(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1", "2", "3"]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('twice'), ('twice')");
    let before = [world.contents("1"), world.contents("2")];
    world.with_migrations(&[NOTES, OUTSIDE]).expect(0, &["upgrade", "3"]);
    world.execute("3", "INSERT INTO notes (text) VALUES ('twice'), ('twice')");
    world.with_migrations(&[NOTES, OUTSIDE, UNIQUE]);
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!(["1", "2", "3"].map(|id| report.outcome(id)), ["failed", "upgraded", "failed"]);
    assert_eq!(world.versions("1"), ["1", "2"]);
    let undone = world.expect(0, &["runs", "rollback", &run_id(&report)]);
    assert_eq!(["1", "2"].map(|id| undone.outcome(id)), ["downgraded"; 2]);
    assert_eq!(undone.events("project_finished").len(), 2, "the run did not migrate the third project");
    assert_eq!((world.versions("1"), world.versions("3").len()), (vec!["1".to_string()], 2));
    assert_eq!(before, [world.contents("1"), world.contents("2")]);
    // A drop cannot be rolled back.
    let dropped = run_id(&world.expect(0, &["drop", "3", "--yes"]));
    let refused = world.run(&["runs", "rollback", &dropped]);
    assert!(refused.code == 2 && refused.stderr.contains("runs show"), "{}", refused.stderr);
}

fn a_failed_project_that_cannot_be_read_hinders_no_other(world: &mut World) {
    use tenantry::config::{Config, JournalPlace, Layer, Migrations};
    use tenantry::manager::{Operation, Run, Selection};
    world.with_migrations(&[NOTES]).expect(0, &["create", "1", "2"]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('twice'), ('twice')");
    let before = [world.contents("1"), world.contents("2")];
    let run = run_id(&world.with_migrations(&[NOTES, OUTSIDE, UNIQUE]).expect(3, &["upgrade-all"]));
    world.execute("1", "ALTER TABLE tenantry_history RENAME COLUMN run TO renamed");
    let layer = Layer {
        store: Some(world.url()),
        migrations: Some(Migrations::Directory(world.folder().join("migrations"))),
        journal: world.either(Some(JournalPlace::Folder(world.folder().join("data/journal"))), None),
        backups: Some(world.folder().join("backups")),
        ..Layer::default()
    };
    let manager = Config::new(layer).unwrap().manager().unwrap();
    let changes = manager.changes_of_run(&run).unwrap();
    assert_eq!(changes.unreadable, ["1".parse().unwrap()]);
    let undone = world.expect(3, &["runs", "rollback", &run]);
    assert_eq!(["1", "2"].map(|id| undone.outcome(id)), ["failed", "downgraded"]);
    // A project that can be read again by the time of the rollback is rolled back.
    world.execute("1", "ALTER TABLE tenantry_history RENAME COLUMN renamed TO run");
    let run = Run::new(Selection::Ids(changes.unreadable.clone()), Operation::RollBack(changes));
    let summary = manager.run(&run, |_| {}).unwrap();
    assert_eq!((summary.outcomes.count("downgraded"), summary.exit), (1, 0));
    assert_eq!(before, [world.contents("1"), world.contents("2")]);
}

fn a_run_that_another_went_on_from_is_not_undone_over_it(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.with_migrations(&[NOTES, INDEX]);
    let first = run_id(&world.expect(0, &["upgrade", "1", "--backup"]));
    world.expect(0, &["downgrade", "1", "--steps", "1"]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('precious')");
    let second = run_id(&world.expect(0, &["upgrade", "1", "--backup"]));
    assert_eq!(world.expect(3, &["runs", "rollback", &first]).error("1").0, "version_mismatch");
    assert_eq!(world.query("1", "SELECT text FROM notes"), ["precious"]);
    assert_eq!(world.expect(0, &["runs", "rollback", &second]).outcome("1"), "downgraded");
}

/// A row is committed after the rollback found the table empty and before it has the lock.
fn a_way_down_that_would_drop_rows_is_not_gone(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    let more = ("2_more", "CREATE TABLE more (id INTEGER PRIMARY KEY);\n-- down\nDROP TABLE more;\n");
    world.with_migrations(&[NOTES, more]);
    let run = run_id(&world.expect(0, &["upgrade", "1"]));
    let before = world.contents("1");
    // The row is written between the first read and the lock.
    let mut application = world.own_connection("1");
    let begin = world.either("BEGIN IMMEDIATE", "BEGIN");
    application.batch_execute(&format!("{begin}; INSERT INTO more (id) VALUES (42)")).unwrap();
    let mut command = world.command(&["--lock-timeout", "20", "runs", "rollback", &run]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(900));
    application.batch_execute("COMMIT").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut with_row = before;
    with_row.insert("more".into(), world.contents("1")["more"].clone());
    assert_eq!(
        (world.contents("1"), world.query("1", "SELECT id FROM more")),
        (with_row, vec!["42".to_string()])
    );
}
