//! Dry runs and commands that only read change nothing: no byte, no file time, no new file.

use std::os::unix::fs::PermissionsExt as _;

use crate::world::World;

/// Dry runs, and commands that only read.
const READ_ONLY: [&[&str]; 8] = [
    &["upgrade-all", "--dry-run"],
    &["upgrade", "1", "--dry-run"],
    &["stamp", "--all", "--dry-run"],
    &["downgrade", "1", "--steps", "1", "--dry-run"],
    &["status"],
    &["status", "--check"],
    &["list"],
    &["doctor"],
];

fn folder_time(world: &World) -> Option<std::time::SystemTime> {
    (!world.is_postgres()).then(|| world.data().metadata().unwrap().modified().unwrap())
}

/// Runs all read-only commands and panics if one changes the store. Returns the last status.
fn assert_unchanged(world: &World) -> crate::world::Report {
    let before = world.snapshot();
    let folder = folder_time(world);
    for arguments in READ_ONLY {
        let ran = world.run(arguments);
        assert!([0, 1, 3, 4, 5].contains(&ran.code), "{arguments:?}: {}", ran.stderr);
        let after = world.snapshot();
        assert!(before == after, "{arguments:?} changed a file");
        assert_eq!(folder, folder_time(world), "{arguments:?} changed the folder");
    }
    let ran = world.run(&["--format", "json", "status"]);
    crate::world::Report(ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

on_each_store!(unstamped_and_stamped_databases_stay_as_they_are, a_dry_run_and_the_run_say_the_same);

fn unstamped_and_stamped_databases_stay_as_they_are(world: &mut World) {
    world.with_legacy();
    assert_eq!(assert_unchanged(world).count("planned"), u64::from(world.legacy_count()));
    world.expect(0, &["stamp", "1"]);
    assert_eq!(assert_unchanged(world).project("1")["from"], "20260112000000");
}

#[test]
fn a_database_in_wal_mode_gets_no_companions() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    world.execute("1", "PRAGMA journal_mode = WAL");
    assert!(!world.data().join("project_1.db-wal").exists());
    assert_eq!(assert_unchanged(&world).outcome("1"), "planned");
}

#[test]
fn odd_times_of_a_file_make_no_companions() {
    let mut world = World::sqlite();
    let now = std::time::SystemTime::now();
    let hour = std::time::Duration::from_hours(1);
    let whole_second = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs());
    for mode in ["WAL", "DELETE"] {
        for time in [now + hour, now - hour, now, whole_second] {
            world.with_legacy_as(1, "1");
            world.execute("1", &format!("PRAGMA journal_mode = {mode}"));
            std::fs::File::options().write(true).open(world.path("1")).unwrap().set_modified(time).unwrap();
            let before = world.snapshot();
            assert_eq!(world.expect(0, &["status"]).outcome("1"), "planned");
            assert!(before == world.snapshot(), "{mode} {time:?}");
        }
    }
}

#[test]
fn a_live_database_in_wal_mode_is_read_as_it_is_committed() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let live =
        "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE in_the_wal (id INTEGER);";
    let application = world.application("1", live);
    let status = assert_unchanged(&world);
    assert!(status.problem("1").1.contains("in_the_wal"), "{:?}", status.problem("1"));
    drop(application);
    // A writer within a transaction does not block readers, and they do not disturb it.
    let live = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE again_in_the_wal (id INTEGER);";
    let application =
        world.application("1", &format!("{live} BEGIN IMMEDIATE; CREATE TABLE open (id INTEGER);"));
    let status = assert_unchanged(&world);
    assert!(!status.problem("1").1.contains("extra table open"), "{:?}", status.problem("1"));
    let ran = world.run(&["--lock-timeout", "0.1", "stamp", "1", "--to", "20260112000000", "--force"]);
    assert!(ran.stdout.contains("locked"), "reading dropped its lock: {}", ran.stdout);
    drop(application);
}

#[test]
fn a_wal_that_a_killed_process_left_is_read_and_kept() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let application = world.connect("1");
    application.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
    application.execute_batch("CREATE TABLE only_in_the_wal (id INTEGER PRIMARY KEY)").unwrap();
    // Project 2 is as a killed process leaves it. Project 3 is a copy without the shared memory.
    for (id, with_shm) in [("2", true), ("3", false)] {
        for suffix in ["", "-wal", "-shm"] {
            if suffix != "-shm" || with_shm {
                let from = world.data().join(format!("project_1.db{suffix}"));
                std::fs::copy(from, world.data().join(format!("project_{id}.db{suffix}"))).unwrap();
            }
        }
    }
    drop(application);
    let status = assert_unchanged(&world);
    for id in ["2", "3"] {
        assert!(status.problem(id).1.contains("only_in_the_wal"), "{id}: {:?}", status.problem(id));
    }
}

#[test]
fn a_hot_journal_is_read_as_after_the_rollback_and_kept() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let application = world.connect("1");
    // With a cache of one page the change spills into the file, which makes the journal hot.
    application
        .execute_batch(
            "PRAGMA cache_size = 1; BEGIN IMMEDIATE; CREATE TABLE torn (id INTEGER PRIMARY KEY, x TEXT);",
        )
        .unwrap();
    application
        .execute_batch(
            "INSERT INTO torn (x) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
             SELECT printf('%0200d', i) FROM n",
        )
        .unwrap();
    for suffix in ["", "-journal"] {
        let from = world.data().join(format!("project_1.db{suffix}"));
        std::fs::copy(from, world.data().join(format!("project_2.db{suffix}"))).unwrap();
    }
    application.execute_batch("ROLLBACK").unwrap();
    drop(application);
    let status = assert_unchanged(&world);
    assert_eq!((status.outcome("1"), status.outcome("2")), ("planned", "planned"));
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 2);
    assert_eq!(world.contents("1"), world.contents("2"));
}

#[test]
fn a_locked_database_stays_as_it_is() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let application = world.application("1", "BEGIN EXCLUSIVE");
    assert_eq!(assert_unchanged(&world).outcome("1"), "planned");
    drop(application);
    // Once the transaction has made a change there is a journal, and nobody can read until the transaction ends. The
    // report says so, and nothing is changed.
    let application = world.application("1", "BEGIN EXCLUSIVE; UPDATE tasks SET title = 'x'");
    let before = world.snapshot();
    let report = world.expect(3, &["--lock-timeout", "0.2", "upgrade-all", "--dry-run"]);
    assert_eq!(report.error("1").0, "locked");
    assert!(before == world.snapshot());
    drop(application);
}

#[test]
fn a_read_only_database_in_a_read_only_folder_stays_as_it_is() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    std::fs::set_permissions(world.path("1"), std::fs::Permissions::from_mode(0o444)).unwrap();
    std::fs::set_permissions(world.data(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let status = assert_unchanged(&world);
    std::fs::set_permissions(world.data(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(status.problem("1").0, "read_only");
}

#[test]
fn an_absent_folder_stays_absent() {
    let world = World::sqlite();
    std::fs::remove_dir(world.data()).unwrap();
    for arguments in [&["upgrade-all", "--dry-run"][..], &["upgrade-all"], &["status"], &["list"]] {
        let ran = world.run(arguments);
        assert_eq!(ran.code, 6, "{arguments:?}: {}", ran.stderr);
        assert!((ran.stdout + &ran.stderr).contains("no project"), "{arguments:?} was silent");
        assert!(!world.data().exists(), "{arguments:?} made the folder");
    }
    assert_eq!(world.run(&["upgrade-all", "--allow-empty"]).code, 0);
    assert_eq!(world.expect(3, &["upgrade", "7"]).error("7").0, "not_found");
    assert!(!world.data().exists());
}

fn a_dry_run_and_the_run_say_the_same(world: &mut World) {
    world.with_legacy();
    world.execute("2", "ALTER TABLE runs ADD COLUMN host TEXT");
    let plan = |report: &crate::world::Report, id: &str| {
        let project = report.project(id);
        (
            project["stamped"].clone(),
            project["migrations"].clone(),
            project["to"].clone(),
            project["problems"].clone(),
        )
    };
    let dry = world.expect(4, &["upgrade-all", "--dry-run"]);
    let real = world.expect(4, &["upgrade-all"]);
    for id in 1..=world.legacy_count() {
        let id = id.to_string();
        assert_eq!(plan(&dry, &id), plan(&real, &id));
    }
}
