//! Backups with concurrent writers, damaged files and killed processes.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use diesel::RunQueryDsl as _;

use crate::backup::{folder, names};
use crate::faults::{Random, fault_library, repeated, run_with_fault};
use crate::world::World;

on_each_store!(
    a_killed_backup_is_none_and_a_killed_prune_leaves_whole_ones,
    a_killed_restore_leaves_the_old_project_or_the_new_one,
);

const NOTES: (&str, &str) = (
    "1_notes",
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\nCREATE INDEX notes_text ON notes (text);\n",
);

/// How many of the newest rows the writer keeps: enough for a copy to take a while, but not longer and longer.
const ROWS: u64 = 5000;

/// Writes rows, one per commit, until `stop` is set, and stores the last committed id. The ids have no gaps.
fn write(world: &World, stop: &AtomicBool, committed: &AtomicU64, mode: Option<&str>) {
    let mut run: Box<dyn FnMut(&str)> = if let Some(mode) = mode {
        let connection = world.connect("1");
        connection.query_row(&format!("PRAGMA journal_mode = {mode}"), (), |_| Ok(())).unwrap();
        Box::new(move |sql| {
            connection.execute(sql, ()).unwrap();
        })
    } else {
        let mut connection = world.own_connection("1");
        Box::new(move |sql| {
            diesel::sql_query(sql).execute(&mut connection).unwrap();
        })
    };
    let text = if mode.is_some() { "hex(randomblob(100))" } else { "repeat(md5(random()::text), 6)" };
    for id in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        run(&format!("INSERT INTO notes (id, text) VALUES ({id}, {text})"));
        committed.store(id, Ordering::SeqCst);
        if id % ROWS == 0 {
            run(&format!("DELETE FROM notes WHERE id <= {}", id - ROWS));
        }
    }
}

/// Stops the writer when dropped, even if the test panics; otherwise the scope would wait for the writer forever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn backups_under_a_writer(world: &mut World, mode: Option<&str>) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let count = repeated(4);
    let world = &*world;
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| write(world, &stop, &committed, mode));
        for number in 0..count {
            let before = committed.load(Ordering::SeqCst);
            world.expect(0, &["--lock-timeout", "20", "backup", "create", "1"]);
            let newest = names(world, "1").pop().unwrap();
            let report = world.expect(0, &["backup", "check", &newest, "--level", "4"]);
            assert_eq!(report.outcome("1"), "verified");
            let copy = format!("copy{number}");
            world.expect(0, &["backup", "restore", "1", "--from", &newest, "--as", &copy]);
            let last =
                world.query(&copy, "SELECT coalesce(max(id), 0) FROM notes")[0].parse::<u64>().unwrap();
            assert!(last >= before, "the last row is {last}, and {before} was committed");
            let gaps = world.query(&copy, "SELECT coalesce(max(id) - min(id) + 1, 0) - count(*) FROM notes");
            assert_eq!(gaps, ["0"]);
            world.assert_sound(&copy);
        }
    });
    assert!(committed.load(Ordering::SeqCst) > 20, "the writer wrote too few rows");
}

#[test]
fn trap_17_backups_under_a_writer_with_a_rollback_journal_are_whole() {
    backups_under_a_writer(&mut World::sqlite(), Some("DELETE"));
}

#[test]
fn trap_17_backups_under_a_writer_with_a_wal_are_whole() {
    backups_under_a_writer(&mut World::sqlite(), Some("WAL"));
}

#[test]
fn trap_30_backups_of_a_schema_under_a_writer_are_whole() {
    backups_under_a_writer(&mut World::postgres(), None);
}

#[test]
fn trap_18_no_flipped_bit_and_no_cut_is_missed() {
    let mut world = World::sqlite();
    world.with_legacy().expect(0, &["upgrade-all"]);
    world.expect(0, &["backup", "create", "--all"]);
    let mut files = Vec::new();
    for id in 1..=world.legacy_count() {
        let stem = folder(&world).join(names(&world, &id.to_string()).pop().unwrap());
        for extension in ["zst", "json"] {
            files.push((
                id.to_string(),
                stem.with_file_name(format!("{}.{extension}", stem.file_name().unwrap().to_str().unwrap())),
            ));
        }
    }
    let mut random = Random::new();
    for number in 0..repeated(100) {
        let (id, file) = &files[usize::try_from(random.below(files.len() as u64)).unwrap()];
        let bytes = std::fs::read(file).unwrap();
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        let mut changed = bytes.clone();
        if number % 10 == 0 {
            changed.truncate(at);
        } else {
            changed[at] ^= 1 << random.below(8);
        }
        std::fs::write(file, &changed).unwrap();
        let ran = world.run(&["--format", "json", "backup", "check", id, "--level", "1"]);
        assert_eq!(ran.code, 3, "{} at byte {at}: {}{}", file.display(), ran.stdout, ran.stderr);
        std::fs::write(file, bytes).unwrap();
    }
    world.expect(0, &["backup", "check", "--all", "--level", "4"]);
}

fn spawn(world: &World, arguments: &[&str]) -> Child {
    world.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Starts a command and kills it after a random time. Returns whether it was still running.
fn killed(world: &World, random: &mut Random, at_most: Duration, arguments: &[&str]) -> bool {
    let mut child = spawn(world, arguments);
    std::thread::sleep(Duration::from_micros(random.below(at_most.as_micros().try_into().unwrap())));
    let was_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    if world.is_postgres() {
        world.wait_until_alone();
    }
    was_running
}

/// How long a command takes.
fn time(world: &World, arguments: &[&str]) -> Duration {
    let started = std::time::Instant::now();
    world.expect(0, arguments);
    started.elapsed()
}

fn a_killed_backup_is_none_and_a_killed_prune_leaves_whole_ones(world: &mut World) {
    let ids: Vec<String> = (1..=world.either(20, 4)).map(|number| number.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.with_migrations(&[NOTES]).expect(0, &[&["create"], &ids[..]].concat());
    let (create, prune) = (["backup", "create", "--all"], ["backup", "prune", "--all", "--keep-last", "1"]);
    let duration = time(world, &create);
    let (mut random, mut interrupted) = (Random::new(), 0);
    for _ in 0..repeated(world.either(8, 2)) {
        interrupted += usize::from(killed(world, &mut random, duration, &create));
        world.expect(0, &create);
        killed(world, &mut random, duration / 4, &prune);
        // Every listed backup is complete.
        for event in world.expect(0, &["backup", "list"]).events("backup") {
            let name = event["name"].as_str().unwrap();
            world.expect(0, &["backup", "check", name, "--level", world.either("3", "1")]);
        }
        world.expect(0, &prune);
        assert_eq!(world.expect(0, &["backup", "check", "--all"]).count("verified"), ids.len() as u64);
    }
    assert!(interrupted > 0, "no kill hit a running command: the test proves nothing");
}

fn a_killed_restore_leaves_the_old_project_or_the_new_one(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('old')");
    world.expect(0, &["backup", "create", "1", "--label", "old"]);
    world.execute("1", "UPDATE notes SET text = 'new'; INSERT INTO notes (text) VALUES ('more')");
    world.expect(0, &["backup", "create", "1", "--label", "new"]);
    let states = BTreeMap::from([("old", vec!["old"]), ("new", vec!["more", "new"])]);
    let duration = time(world, &["backup", "restore", "1", "--from", "old"]);
    let (mut random, mut interrupted) = (Random::new(), 0);
    for number in 0..repeated(world.either(20, 4)) {
        let to = if number % 2 == 0 { "new" } else { "old" };
        if number % 4 >= 2 && !world.is_postgres() {
            world.execute("1", "PRAGMA journal_mode = WAL");
        }
        interrupted +=
            usize::from(killed(world, &mut random, duration, &["backup", "restore", "1", "--from", to]));
        let found = world.query("1", "SELECT text FROM notes ORDER BY text");
        assert!(states.values().any(|state| *state == found), "half restored: {found:?}");
        world.assert_sound("1");
        world.expect(0, &["backup", "restore", "1", "--from", to]);
        assert_eq!(world.query("1", "SELECT text FROM notes ORDER BY text"), states[to]);
        assert_eq!(world.expect(0, &["status", "1"]).outcome("1"), "up_to_date");
    }
    assert!(interrupted > 0, "no kill hit a running command: the test proves nothing");
}

#[test]
fn a_project_that_others_have_open_or_nobody_can_read_is_restored_by_force_only() {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]).expect(0, &["create", "1", "2"]);
    for mode in ["DELETE", "WAL"] {
        world.execute("1", &format!("PRAGMA journal_mode = {mode}; DELETE FROM notes"));
        world.expect(0, &["backup", "create", "1"]);
        world.execute("1", "INSERT INTO notes (text) VALUES ('later')");
        // The application holds no lock, but it has the file open.
        let application = world.application("1", "SELECT count(*) FROM notes");
        let report = world.expect(3, &["--lock-timeout", "0.2", "backup", "restore", "1"]);
        assert_eq!(report.error("1").0, "locked", "{mode}");
        assert_eq!(world.query("1", "SELECT text FROM notes"), ["later"]);
        // A hint names only options that the failed command has.
        let hint = |report: &crate::world::Report| report.project("1")["error"]["hint"].to_string();
        assert!(hint(&report).contains("--force"), "{}", hint(&report));
        let dropped = world.expect(3, &["--lock-timeout", "0.2", "drop", "1", "--yes"]);
        assert!(
            hint(&dropped).contains("stop it first") && !hint(&dropped).contains("--force"),
            "{}",
            hint(&dropped)
        );
        let newest = names(&world, "1").pop().unwrap();
        world.expect(0, &["--lock-timeout", "0.2", "backup", "restore", "1", "--from", &newest, "--force"]);
        assert_eq!(world.query("1", "SELECT text FROM notes"), Vec::<String>::new(), "{mode}");
        drop(application);
        world.assert_sound("1");
    }
    // A file that is no longer a database is renamed, together with the files beside it.
    world.expect(0, &["backup", "create", "2"]);
    std::fs::write(world.path("2"), "no database at all, but long enough to be read as one".repeat(100))
        .unwrap();
    assert_eq!(world.expect(3, &["backup", "restore", "2"]).error("2").0, "not_a_database");
    let report = world.expect(0, &["backup", "restore", "2", "--force"]);
    assert!(report.project("2")["notes"].to_string().contains("damaged"), "{}", report.project("2"));
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 2);
    let aside = world.files().into_keys().filter(|path| path.to_str().unwrap().contains("damaged")).count();
    assert_eq!(aside, 1);
    // A WAL left by a deleted database is not used for the restored one.
    std::fs::remove_file(world.path("2")).unwrap();
    std::fs::write(world.data().join("project_2.db-wal"), "stale").unwrap();
    assert_eq!(world.expect(3, &["backup", "restore", "2"]).error("2").0, "already_exists");
}

#[test]
fn a_forced_restore_killed_at_any_operation_loses_nothing_that_is_only_in_a_wal() {
    let tools = tempfile::tempdir().unwrap();
    let library = fault_library(tools.path());
    let (mut at, mut swapped) = (1, 0);
    loop {
        let mut world = World::sqlite();
        world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
        world.expect(0, &["backup", "create", "1"]);
        world.execute("1", "PRAGMA journal_mode = WAL");
        let application = world.application("1", "INSERT INTO notes (text) VALUES ('only there')");
        let arguments = ["--lock-timeout", "0.2", "backup", "restore", "1", "--force"];
        let ended = run_with_fault(&world, &arguments, &library, "kill", at);
        application.kill();
        let found = world.query("1", "SELECT text FROM notes");
        world.assert_sound("1");
        if ended.is_none() {
            assert_eq!(found, Vec::<String>::new());
            break;
        }
        assert!(found == ["only there"] || found.is_empty(), "{found:?}");
        swapped += usize::from(found.is_empty());
        // As long as the new file has its temporary name, the old database has lost no data.
        let has_new_file =
            world.files().into_keys().any(|path| path.extension().is_some_and(|it| it == "new"));
        assert!(
            !has_new_file || !found.is_empty(),
            "operation {at}: the row is lost, and the new file is not in place"
        );
        at += 1;
    }
    assert!(
        at > 20 && swapped > 0,
        "{at} operations, {swapped} of them after the swap: the test proves nothing"
    );
}

#[test]
fn what_killed_processes_were_making_is_swept_by_prune_after_a_day() {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.expect(0, &["backup", "create", "1"]);
    let days_ago = std::time::SystemTime::now() - Duration::from_hours(48);
    let age = |path: &std::path::Path| std::fs::File::open(path).unwrap().set_modified(days_ago).unwrap();
    let make = |name: &str, is_old: bool| {
        let path = folder(&world).join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("copy"), "half of it").unwrap();
        if is_old {
            age(&path.join("copy"));
        }
        age(&path);
        path
    };
    // The folder that is still written to is old, but the file in it is new.
    let (abandoned, written) = (make(".new-abandoned", true), make(".new-written", false));
    let unrelated = make("not-ours", true);
    let note = folder(&world).join("1/.new-note");
    std::fs::write(&note, "half").unwrap();
    age(&note);
    let data = folder(&world).join("1/20200101T000000.000Z-00000000.zst");
    std::fs::write(&data, "a copy without a manifest").unwrap();
    let prune = ["backup", "prune", "--all", "--keep-last", "1"];
    world.expect(0, &[&prune[..], &["--dry-run"]].concat());
    assert!([&abandoned, &written, &unrelated, &note, &data].iter().all(|path| path.exists()));
    world.expect(0, &prune);
    assert_eq!(
        [&abandoned, &written, &unrelated, &note, &data].map(|path| path.exists()),
        [false, true, true, false, false]
    );
    assert_eq!(names(&world, "1").len(), 1);
}
