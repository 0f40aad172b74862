//! What must not be lost by restores, by the restore after a failed upgrade, and by `backup prune`.

use crate::backup::{folder, names};
use crate::world::World;

on_each_store!(
    a_restore_without_a_name_passes_over_what_undos_keep,
    a_project_that_was_not_sound_is_had_back_as_it_was,
    a_backup_of_another_project_is_refused,
    a_backup_that_fails_its_check_is_verified_no_more,
    a_put_back_loses_nothing_that_others_wrote,
);

const NOTES: (&str, &str) = (
    "1_notes",
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\nCREATE TABLE others (id INTEGER PRIMARY KEY, note BIGINT REFERENCES notes (id));\n",
);
const UNIQUE: (&str, &str) = (
    "2_unique",
    "CREATE UNIQUE INDEX unique_notes ON notes (text);\n-- metadata\nrun_in_transaction = false\n",
);

fn a_project_that_was_not_sound_is_had_back_as_it_was(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    let disable_keys = world.either("PRAGMA foreign_keys = OFF", "SET session_replication_role = replica");
    world.execute("1", &format!("{disable_keys}; INSERT INTO others (note) VALUES (7)"));
    world.expect(0, &["drop", "1", "--yes"]);
    let ran = world.run(&["backup", "restore", "1"]);
    assert!(ran.code == 3 && ran.stdout.contains("--force"), "{}", ran.stdout);
    if world.is_postgres() {
        // `pg_restore` cannot create the constraint with such a row.
        return;
    }
    world.expect(0, &["backup", "restore", "1", "--force"]);
    assert_eq!(world.query("1", "SELECT note FROM others"), ["7"]);
    assert!(world.expect(0, &["backup", "list"]).events("backup")[0]["verified"].is_null());
}

fn a_backup_of_another_project_is_refused(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1", "2"]);
    world.execute("2", "INSERT INTO notes (text) VALUES ('of 2')");
    world.expect(0, &["backup", "create", "2"]);
    let name = names(world, "2").remove(0);
    let report = world.expect(3, &["backup", "restore", "1", "--from", &name]);
    assert!(report.error("1").1.contains("a backup of 2"), "{}", report.error("1").1);
    assert_eq!(world.query("1", "SELECT count(*) FROM notes"), ["0"]);
}

fn a_backup_that_fails_its_check_is_verified_no_more(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    for _ in 0..2 {
        world.expect(0, &["backup", "create", "1"]);
        world.expect(0, &["backup", "check", "1"]);
    }
    let all = names(world, "1");
    let data = folder(world).join(format!("{}.zst", all[1]));
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&data, bytes).unwrap();
    world.expect(3, &["backup", "check", "1", "--level", "1"]);
    world.expect(0, &["backup", "prune", "1", "--keep-last", "1"]);
    assert_eq!(names(world, "1"), all, "the intact backup was removed");
    let list = world.expect(0, &["backup", "list"]);
    assert_eq!(
        (&list.events("backup")[0]["verified"]["level"], list.events("backup")[1]["verified"].is_null()),
        (&3.into(), true)
    );
}

fn a_put_back_loses_nothing_that_others_wrote(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('same'), ('same')");
    // The name `brothers` ends with `others`, the table that is written to. Only whole names may be compared.
    let first =
        ("2_outside", "CREATE TABLE brothers (id INTEGER);\n-- metadata\nrun_in_transaction = false\n");
    world.with_migrations(&[NOTES, first, UNIQUE_LATER]);
    let trigger = world.either(
        "CREATE TRIGGER meanwhile AFTER INSERT ON tenantry_history BEGIN INSERT INTO others (note) VALUES (1); END",
        "CREATE FUNCTION meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO project_1.others (note) VALUES (1); RETURN NULL; END $$;
         CREATE TRIGGER meanwhile AFTER INSERT ON tenantry_history FOR EACH STATEMENT EXECUTE FUNCTION meanwhile()",
    );
    // A trigger on the ledger stands in for an application that writes between the backup and the failure.
    world.execute("1", trigger);
    let report = world.expect(3, &["upgrade", "1", "--backup", "--allow-drift"]);
    let notes = report.project("1")["notes"].to_string();
    assert!(notes.contains("changed rows of others") && notes.contains("backup restore 1 --from"), "{notes}");
    assert_ne!(world.query("1", "SELECT count(*) FROM others"), ["0"]);
}

/// Fails after an earlier migration was committed.
const UNIQUE_LATER: (&str, &str) = (
    "3_unique",
    "CREATE UNIQUE INDEX unique_notes ON notes (text);\n-- metadata\nrun_in_transaction = false\n",
);

fn a_restore_without_a_name_passes_over_what_undos_keep(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.expect(0, &["backup", "create", "1"]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('not wanted')");
    for _ in 0..2 {
        world.expect(0, &["backup", "restore", "1"]);
        assert_eq!(world.query("1", "SELECT text FROM notes"), Vec::<String>::new());
    }
    // A backup file and a backup name cannot be checked in one command.
    let name = names(world, "1").remove(0);
    let here = folder(world).join(format!("{name}.json"));
    let here = here.to_str().unwrap();
    assert_eq!(world.run(&["backup", "check", here, &name]).code, 2);
    world.expect(0, &["backup", "check", here]);
}

#[test]
fn a_run_that_could_not_begin_undoes_nobodys_work() {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.with_migrations(&[NOTES, UNIQUE]);
    let application = world.application("1", "BEGIN IMMEDIATE");
    let report = world.expect(3, &["--lock-timeout", "0.3", "upgrade", "1", "--backup"]);
    assert_eq!(report.error("1").0, "locked");
    assert!(
        !report.project("1")["notes"].to_string().contains("restored to its state"),
        "{}",
        report.project("1")
    );
    drop(application);
    assert_eq!(world.versions("1"), ["1"]);
}

#[test]
fn a_database_with_a_damaged_page_is_set_aside_by_force() {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.execute("1", "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO notes (text) SELECT 'note ' || i FROM n");
    let before = world.contents("1");
    world.expect(0, &["backup", "create", "1"]);
    let mut bytes = std::fs::read(world.path("1")).unwrap();
    let page = bytes.len() - 3 * 4096;
    bytes[page..page + 3 * 4096].fill(0xa5);
    std::fs::write(world.path("1"), bytes).unwrap();
    let ran = world.run(&["backup", "restore", "1"]);
    assert!(ran.code == 3 && ran.stdout.contains("--force"), "{}", ran.stdout);
    world.expect(0, &["backup", "restore", "1", "--force"]);
    assert_eq!(before, world.contents("1"));
    let aside = world.files().into_keys().filter(|path| path.to_str().unwrap().contains("damaged")).count();
    assert_eq!(aside, 1);
}

#[test]
fn a_restored_schema_is_granted_and_owned_as_before() {
    let mut world = World::postgres();
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    let suffix = uuid::Uuid::now_v7().simple().to_string();
    let (reader, owner) = (format!("reader_{suffix}"), format!("owner_{suffix}"));
    world.execute("1", &format!(
        "CREATE ROLE {reader}; CREATE ROLE {owner}; GRANT USAGE ON SCHEMA project_1 TO {reader}; GRANT SELECT ON notes TO {reader}; \
         ALTER TABLE others OWNER TO {owner}; ALTER DEFAULT PRIVILEGES IN SCHEMA project_1 GRANT SELECT ON TABLES TO {reader}"
    ));
    let rights = format!(
        "SELECT has_schema_privilege('{reader}', 'project_1', 'USAGE'), has_table_privilege('{reader}', 'notes', 'SELECT'), \
         has_table_privilege('{reader}', 'notes', 'INSERT'), pg_get_userbyid(relowner) = '{owner}', \
         (SELECT count(*) FROM pg_default_acl) FROM pg_class WHERE oid = 'others'::regclass"
    );
    let before = world.query("1", &rights);
    assert_eq!(before, ["t|t|f|t|1"]);
    world.expect(0, &["backup", "create", "1"]);
    world.expect(0, &["backup", "restore", "1"]);
    assert_eq!(world.query("1", &rights), before);
    // An object of another schema that depends on the project is not dropped with it.
    world.execute("1", "CREATE SCHEMA reporting; CREATE VIEW reporting.all_notes AS SELECT * FROM notes");
    let report = world.expect(3, &["backup", "restore", "1"]);
    assert!(report.error("1").1.contains("reporting.all_notes"), "{}", report.error("1").1);
    world.execute("1", &format!("DROP SCHEMA reporting CASCADE; DROP OWNED BY {reader}, {owner}; DROP ROLE {reader}; DROP ROLE {owner}"));
}

#[test]
fn all_columns_are_compared_whatever_their_names() {
    let mut world = World::postgres();
    world
        .with_migrations(&[("1_odd", "CREATE TABLE odd (t TEXT, other TEXT);\n")])
        .expect(0, &["create", "1"]);
    world.execute("1", "INSERT INTO odd VALUES ('a', 'b')");
    world.expect(0, &["backup", "create", "1"]);
    world.execute("1", "UPDATE odd SET other = 'c'");
    world.expect(0, &["backup", "create", "1"]);
    let list = world.expect(0, &["backup", "list"]);
    let hash = |index: usize| list.events("backup")[index]["manifest"]["tables"]["odd"]["hash"].clone();
    assert_ne!(hash(0), hash(1));
}

#[test]
fn a_run_that_ended_and_was_killed_right_then_is_no_killed_one() {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]);
    let report = world.expect(0, &["create", "1"]);
    let run = report.events("run_started")[0]["run"].as_str().unwrap().to_string();
    let open = world.data().join(format!("journal/runs/{run}.open"));
    assert!(!open.exists());
    std::fs::write(&open, "").unwrap();
    let report = world.expect(0, &["create", "2"]);
    assert_eq!(report.events("killed_run").len(), 0);
    assert!(!open.exists());
    world.expect(0, &["audit", "verify"]);
    // A killed run without events blocks no command.
    let killed = "01a1ffc3-ce06-71cc-b80e-4ddca9db7e7d";
    std::fs::write(world.data().join(format!("journal/runs/{killed}.open")), "").unwrap();
    assert_eq!(world.expect(0, &["create", "3"]).events("killed_run").len(), 1);
    world.expect(0, &["audit", "verify"]);
    // The journal covers the events of a completed run as well.
    let events = world.data().join(format!("journal/runs/{killed}.jsonl"));
    std::fs::write(&events, "{}\n").unwrap();
    assert_eq!(world.run(&["audit", "verify"]).code, 1);
}
