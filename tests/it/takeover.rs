//! Existing databases are taken over at a baseline that is verified.

use crate::world::{World, legacy};

on_each_store!(
    the_legacy_fleet_is_at_head_with_every_row,
    a_schema_of_no_version_is_blocked_with_its_difference,
    alembics_revision_is_used_and_still_checked,
    a_revision_that_stands_for_nothing_is_blocked,
    a_ledger_of_diesels_own_is_managed_as_it_stands,
    a_ledger_of_diesels_own_that_lies_is_blocked,
    two_versions_of_one_schema_have_to_be_told_apart,
    force_stamps_in_spite_of_a_difference_and_the_ledger_says_so,
    no_stamp_leaves_a_project_without_a_ledger_alone,
    stamp_records_and_runs_nothing,
);

const BASELINE: &str = "20260112000000";
const HEAD: &str = "20260114000000";

fn the_legacy_fleet_is_at_head_with_every_row(world: &mut World) {
    world.with_legacy();
    let before: Vec<_> = (1..=world.legacy_count()).map(|id| world.contents(&id.to_string())).collect();
    let report = world.expect(0, &["upgrade-all"]);
    assert_eq!(report.count("upgraded"), u64::from(world.legacy_count()));
    for id in 1..=world.legacy_count() {
        let id = id.to_string();
        assert_eq!(
            (&report.project(&id)["stamped"], &report.project(&id)["to"]),
            (&BASELINE.into(), &HEAD.into())
        );
        world.assert_sound(&id);
        assert_eq!(world.versions(&id), [BASELINE, "20260113000000", HEAD]);
        let actions =
            world.query(&id, "SELECT version, action, CASE WHEN forced THEN 1 ELSE 0 END FROM tenantry_history ORDER BY sequence");
        assert_eq!(actions, ["20260112000000|stamp|0", "20260113000000|apply|0", "20260114000000|apply|0"]);
    }
    let after: Vec<_> = (1..=world.legacy_count()).map(|id| world.contents(&id.to_string())).collect();
    assert_eq!(before, after, "a row was changed");

    let bytes = world.snapshot();
    let report = world.expect(0, &["upgrade-all"]);
    assert_eq!(
        (report.count("up_to_date"), bytes == world.snapshot()),
        (u64::from(world.legacy_count()), true)
    );
}

fn a_schema_of_no_version_is_blocked_with_its_difference(world: &mut World) {
    world.with_legacy_as(1, "1");
    world.execute(
        "1",
        "ALTER TABLE tasks ADD COLUMN extra TEXT; DROP TABLE approvals; CREATE VIEW v AS SELECT 1;",
    );
    let report = world.expect(4, &["upgrade-all"]);
    let (code, message) = report.problem("1");
    assert_eq!(code, "needs_baseline");
    for part in [BASELINE, "missing table approvals", "table tasks: extra column extra TEXT", "extra view v"]
    {
        assert!(message.to_lowercase().contains(&part.to_lowercase()), "{message}");
    }
    assert_eq!(world.expect(4, &["stamp", "1"]).outcome("1"), "blocked");
}

fn alembics_revision_is_used_and_still_checked(world: &mut World) {
    world.with_legacy_as(3, "3").with_legacy_as(6, "6");
    world.execute("6", "ALTER TABLE runs ADD COLUMN host TEXT;");
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!((report.outcome("3"), &report.project("3")["stamped"]), ("upgraded", &BASELINE.into()));
    assert_eq!(report.problem("6").0, "needs_baseline");
    assert!(
        report.problem("6").1.to_lowercase().contains("extra column host text"),
        "{:?}",
        report.problem("6")
    );
}

fn a_revision_that_stands_for_nothing_is_blocked(world: &mut World) {
    world.with_legacy_as(3, "3");
    world.execute("3", "UPDATE alembic_version SET version_num = 'ffffffffffff'");
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!(
        report.problem("3"),
        ("unknown_revision", "no migration replaces the alembic revision: ffffffffffff")
    );
}

const NOTES: [(&str, &str); 2] = [
    (
        "1_notes",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);\n-- down\nDROP TABLE notes;",
    ),
    (
        "2_pins",
        "ALTER TABLE notes ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;\n-- down\nALTER TABLE notes DROP COLUMN pinned;",
    ),
];
const DIESEL: &str = "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL, \
                      run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP); \
                      INSERT INTO __diesel_schema_migrations (version) VALUES ('1');";

fn a_ledger_of_diesels_own_is_managed_as_it_stands(world: &mut World) {
    world.with_migrations(&NOTES);
    world.with_project(
        "1",
        &format!("{DIESEL} CREATE TABLE \"notes\"(id INTEGER PRIMARY KEY,\n text TEXT NOT NULL)"),
    );
    let report = world.expect(0, &["upgrade-all"]);
    let project = report.project("1");
    assert_eq!(
        (&project["from"], &project["stamped"], &project["to"]),
        (&"1".into(), &serde_json::Value::Null, &"2".into())
    );
    assert_eq!(world.versions("1"), ["1", "2"]);
}

fn a_ledger_of_diesels_own_that_lies_is_blocked(world: &mut World) {
    world.with_migrations(&NOTES);
    world.with_project("1", &format!("{DIESEL} CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)"));
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!(report.problem("1").0, "drifted");
    assert!(
        report.problem("1").1.to_lowercase().contains("column text is text, expected text not null"),
        "{:?}",
        report.problem("1")
    );
}

fn two_versions_of_one_schema_have_to_be_told_apart(world: &mut World) {
    world.with_migrations(&[NOTES[0], ("2_fill", "INSERT INTO notes (text) VALUES ('hello');")]);
    world.with_project("1", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)");
    let report = world.expect(4, &["upgrade-all"]);
    assert!(report.problem("1").1.contains("1_notes, 2_fill"), "{:?}", report.problem("1"));
    assert_eq!(world.expect(0, &["stamp", "1", "--to", "1"]).outcome("1"), "stamped");
    assert_eq!(world.expect(0, &["upgrade", "1"]).outcome("1"), "upgraded");
    assert_eq!(world.query("1", "SELECT text FROM notes"), ["hello"]);
}

fn force_stamps_in_spite_of_a_difference_and_the_ledger_says_so(world: &mut World) {
    world.with_migrations(&NOTES);
    world.with_project("1", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)");
    world.expect(4, &["stamp", "1", "--to", "1"]);
    world.expect(0, &["stamp", "1", "--to", "1", "--force", "--dry-run"]);
    assert_eq!(world.tables("1"), ["notes"]);
    assert_eq!(world.expect(0, &["stamp", "1", "--to", "1", "--force"]).outcome("1"), "stamped");
    assert_eq!(
        world.query("1", "SELECT version, action, CASE WHEN forced THEN 1 END FROM tenantry_history"),
        ["1|stamp|1"]
    );
    assert_eq!(world.expect(4, &["upgrade-all"]).problem("1").0, "drifted");
}

fn no_stamp_leaves_a_project_without_a_ledger_alone(world: &mut World) {
    world.with_legacy_as(1, "1");
    let before = world.snapshot();
    assert_eq!(world.expect(4, &["upgrade-all", "--no-stamp"]).problem("1").0, "needs_baseline");
    assert!(before == world.snapshot());
}

fn stamp_records_and_runs_nothing(world: &mut World) {
    world.with_legacy_as(1, "1");
    let report = world.expect(0, &["stamp", "--all"]);
    assert_eq!(
        (report.outcome("1"), &report.project("1")["migrations"]),
        ("stamped", &serde_json::json!([]))
    );
    assert_eq!(world.versions("1"), [BASELINE]);
    assert_eq!(std::fs::read(legacy(1)).unwrap().len(), 40_960, "the fixture itself was changed");
    assert_eq!(world.expect(0, &["stamp", "--all"]).outcome("1"), "up_to_date");
}
