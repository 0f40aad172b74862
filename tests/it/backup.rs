//! Backups: create, check, restore and prune.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::world::{Report, World};

on_each_store!(
    a_backup_belongs_to_one_fleets_project,
    a_backup_is_restored_and_the_restore_undone,
    a_backup_is_of_a_moment_and_can_be_another_project,
    a_dry_run_of_restore_and_prune_changes_nothing,
    a_backup_is_checked_to_the_level_that_is_said,
    a_change_of_the_backup_is_found_at_its_level,
    a_project_that_is_dropped_can_be_had_back,
    a_fleet_is_checked_and_its_coverage_told,
    backups_that_are_not_kept_are_removed,
    what_failed_its_check_is_no_backup_to_count_on,
    an_upgrade_that_fails_in_part_is_put_back,
    an_upgrade_with_checked_backups_takes_one_of_each_project,
    only_the_owner_can_read_backups,
);

/// The names of a project's backups, oldest first.
pub(crate) fn names(world: &World, id: &str) -> Vec<String> {
    let list = world.expect(0, &["backup", "list", id]);
    list.events("backup").iter().map(|it| it["name"].as_str().unwrap().to_string()).collect()
}

pub(crate) fn folder(world: &World) -> PathBuf {
    if world.is_postgres() { world.own_folder("backups") } else { world.folder().join("data/backups") }
}

fn steps(report: &Report, id: &str) -> Vec<u64> {
    report.project(id)["steps"].as_array().unwrap().iter().map(|it| it["level"].as_u64().unwrap()).collect()
}

const NOTES: (&str, &str) =
    ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\n-- down\nDROP TABLE notes;\n");

/// Adds project 1, with the application's rows, at the newest version.
fn with_rows(world: &mut World) {
    world.with_legacy_as(1, "1").expect(0, &["upgrade", "1"]);
}

fn a_backup_is_restored_and_the_restore_undone(world: &mut World) {
    with_rows(world);
    let before = world.contents("1");
    let report = world.expect(0, &["backup", "create", "1", "--label", "good"]);
    assert_eq!(report.outcome("1"), "backed_up");
    assert_eq!(names(world, "1"), [report.project("1")["backup"].as_str().unwrap()]);
    let report = world.expect(0, &["backup", "check", "1", "--level", "4"]);
    assert_eq!((report.outcome("1"), steps(&report, "1")), ("verified", vec![1, 2, 3, 3, 4]));
    let table = before.iter().find(|(_, rows)| !rows.is_empty()).unwrap().0.clone();
    let disable_keys = world.either("PRAGMA foreign_keys = OFF", "SET session_replication_role = replica");
    world.execute("1", &format!("{disable_keys}; DELETE FROM {table}; CREATE TABLE oops (a INTEGER)"));
    let changed = world.contents("1");
    assert_ne!(before, changed);
    let report = world.expect(0, &["backup", "restore", "1"]);
    assert_eq!((report.outcome("1"), before == world.contents("1")), ("restored", true));
    world.assert_sound("1");
    assert_eq!(world.expect(0, &["status", "1"]).outcome("1"), "up_to_date");
    // The command in the note undoes the restore.
    let undo = report.project("1")["notes"].to_string();
    let undo = undo.split("--from ").nth(1).unwrap().split('"').next().unwrap();
    world.expect(0, &["backup", "restore", "1", "--from", undo]);
    assert_eq!(changed, world.contents("1"));
    world.expect(0, &["backup", "restore", "1", "--from", "good"]);
    assert_eq!(before, world.contents("1"));
    assert_eq!(world.expect(3, &["backup", "restore", "1", "--from", "better"]).error("1").0, "not_found");
    assert_eq!(world.expect(3, &["backup", "restore", "2"]).error("2").0, "not_found");
}

fn a_backup_is_of_a_moment_and_can_be_another_project(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    let mut moments = Vec::new();
    for text in ["one", "two", "three"] {
        world.execute("1", &format!("INSERT INTO notes (text) VALUES ('{text}')"));
        world.expect(0, &["backup", "create", "1"]);
        std::thread::sleep(std::time::Duration::from_millis(5));
        moments.push(tenantry::time::Timestamp::now().to_string());
    }
    let restored = world.expect(0, &["backup", "restore", "1", "--at", &moments[1], "--as", "copy"]);
    assert!(restored.project("1")["notes"].to_string().contains("restored as copy"), "{:?}", restored.0);
    assert_eq!(world.query("copy", "SELECT text FROM notes ORDER BY id"), ["one", "two"]);
    assert_eq!(world.query("1", "SELECT count(*) FROM notes"), ["3"]);
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 2);
    world.execute("copy", "INSERT INTO notes (text) VALUES ('its own')");
    world.expect(0, &["backup", "restore", "1", "--at", &moments[0]]);
    assert_eq!(world.query("1", "SELECT text FROM notes"), ["one"]);
    let error = world.expect(3, &["backup", "restore", "1", "--at", "2001-01-01"]);
    assert_eq!(error.error("1").0, "not_found");
    let error = world.expect(3, &["backup", "restore", "1", "--as", "copy"]);
    assert_eq!(error.error("1").0, "already_exists");
    assert_eq!(world.query("copy", "SELECT count(*) FROM notes"), ["3"]);
    assert_eq!(world.run(&["backup", "restore", "1", "--at", "yesterday"]).code, 2);
    assert_eq!(world.run(&["backup", "restore", "1", "--as", "../x"]).code, 2);
}

fn a_dry_run_of_restore_and_prune_changes_nothing(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1", "2"]);
    for _ in 0..3 {
        world.expect(0, &["backup", "create", "1"]);
    }
    let (before, archive) = (world.snapshot(), crate::world::snapshot(&folder(world).join("1")));
    for (arguments, outcome) in [
        (&["backup", "restore", "1", "--dry-run"][..], "planned"),
        (&["backup", "restore", "1", "--as", "9", "--dry-run"], "planned"),
        (&["backup", "prune", "1", "--keep-last", "1", "--dry-run"], "planned"),
    ] {
        assert_eq!(world.expect(0, arguments).outcome("1"), outcome);
    }
    world.expect(3, &["backup", "restore", "1", "--as", "2", "--dry-run"]);
    assert_eq!(before, world.snapshot(), "a dry run changed the store");
    assert_eq!(archive, crate::world::snapshot(&folder(world).join("1")), "a dry run changed the backups");
}

fn what_failed_its_check_is_no_backup_to_count_on(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    for _ in 0..3 {
        world.expect(0, &["backup", "create", "1"]);
    }
    let all = names(world, "1");
    let data = folder(world).join(format!("{}.zst", all[2]));
    let bytes = std::fs::read(&data).unwrap();
    std::fs::write(&data, &bytes[1..]).unwrap();
    world.expect(3, &["backup", "check", "1"]);
    let list = world.expect(0, &["backup", "list"]);
    assert!(list.events("backup")[2]["failed"].is_string() && list.events("backup")[1]["failed"].is_null());
    assert!(world.run(&["backup", "list"]).stdout.contains("FAILED its check"));
    let report = world.expect(0, &["backup", "prune", "1", "--keep-last", "1"]);
    assert_eq!(names(world, "1"), all[1..], "the newest intact backup was removed");
    assert!(report.project("1")["notes"].to_string().contains("whose check failed"));
    // Repaired, it counts as a backup again.
    std::fs::write(&data, bytes).unwrap();
    world.expect(0, &["backup", "check", "1", "--level", "3"]);
    // A migration that fails on the restored rows does not mark the backup as failed.
    world.with_migrations(&[NOTES, ("2_broken", "CREATE UNIQUE INDEX one_note ON notes (length(text));\n")]);
    world.execute("1", "INSERT INTO notes (text) VALUES ('a'), ('b')");
    world.expect(0, &["backup", "create", "1", "--label", "twice"]);
    world.expect(0, &["backup", "check", "1", "--level", "3"]);
    world.expect(3, &["backup", "check", "1", "--level", "4"]);
    let newest = world.expect(0, &["backup", "list"]).events("backup").pop().unwrap().clone();
    assert_eq!((&newest["verified"]["level"], newest["failed"].is_null()), (&3.into(), true));
    // Neither does a verification record that cannot be written.
    let record = folder(world).join(format!("{}.verified", names(world, "1").pop().unwrap()));
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir_all(record.join("in the way")).unwrap();
    let report = world.expect(0, &["backup", "check", "1", "--level", "3"]);
    assert!(report.project("1")["notes"].to_string().contains("cannot be recorded"));
    // A sample without projects is no error.
    let parts = [1, 2, 3].map(|part| {
        world
            .expect(0, &["backup", "check", "--all", "--sample", &format!("{part}/3"), "--level", "1"])
            .count("verified")
    });
    assert_eq!(parts.iter().sum::<u64>(), 1);
}

fn a_backup_is_checked_to_the_level_that_is_said(world: &mut World) {
    let later = ("2_more", "CREATE TABLE more (id INTEGER PRIMARY KEY);\n");
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.expect(0, &["backup", "create", "1"]);
    world.with_migrations(&[NOTES, later]);
    std::fs::write(
        world.folder().join("migrations/set.toml"),
        "[[check]]\nname = \"no long note\"\nquery = \"SELECT id FROM notes WHERE length(text) > 5\"\n",
    )
    .unwrap();
    for (level, wanted) in
        [("1", vec![1]), ("2", vec![1, 2]), ("3", vec![1, 2, 3, 3]), ("4", vec![1, 2, 3, 3, 4])]
    {
        let ran = world.run(&["backup", "check", "1", "--level", level]);
        assert!(ran.stdout.contains(&format!("backup verified at level {level}")), "{}", ran.stdout);
        let report = world.expect(0, &["backup", "check", "1", "--level", level]);
        assert_eq!(steps(&report, "1"), wanted, "{level}");
        let list = world.expect(0, &["backup", "list"]);
        assert_eq!(list.events("backup")[0]["verified"]["level"].to_string(), level);
    }
    // Only the level that evaluates checks finds a violated one, or a migration that fails on these rows.
    world.execute("1", "INSERT INTO notes (text) VALUES ('far too long')");
    world.expect(0, &["backup", "create", "1"]);
    world.expect(0, &["backup", "check", "1", "--level", "3"]);
    let report = world.expect(3, &["backup", "check", "1", "--level", "4"]);
    assert_eq!((report.error("1").0, report.error("1").1.contains("no long note")), ("check_failed", true));
    assert_eq!(steps(&report, "1"), [1, 2, 3, 3]);
    world.with_migrations(&[NOTES, ("2_unique", "INSERT INTO notes (id) SELECT id FROM notes;\n")]);
    assert_eq!(world.expect(3, &["backup", "check", "1", "--level", "4"]).error("1").0, "migration");
    assert_eq!(world.run(&["backup", "check", "1", "--level", "5"]).code, 2);
}

/// The file of a project's newest backup with this extension.
fn newest_file(world: &World, id: &str, extension: &str) -> PathBuf {
    folder(world).join(format!("{}{extension}", names(world, id).pop().unwrap()))
}

fn a_change_of_the_backup_is_found_at_its_level(world: &mut World) {
    with_rows(world);
    world.expect(0, &["backup", "create", "1"]);
    let (data, manifest) = (newest_file(world, "1", ".zst"), newest_file(world, "1", ".json"));
    let (bytes, document) = (std::fs::read(&data).unwrap(), std::fs::read(&manifest).unwrap());
    let assert_found = |what: &str| {
        let report = world.expect(3, &["backup", "check", "1", "--level", "1"]);
        let (kind, message) = report.error("1");
        assert!(kind == "check_failed" && message.contains(what), "{kind}: {message}");
        let ran = world.run(&["backup", "restore", "1"]);
        assert!(ran.code == 3 && ran.stdout.contains(what), "{}", ran.stdout);
    };
    let before = world.contents("1");
    for (file, bytes, what) in [(&data, &bytes, "SHA-256"), (&manifest, &document, "manifest")] {
        for (index, bit) in [(0, 0), (bytes.len() / 2, 3), (bytes.len() - 1, 7)] {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            std::fs::write(file, &flipped).unwrap();
            assert_found(what);
        }
        std::fs::write(file, bytes).unwrap();
    }
    std::fs::write(&data, &bytes[..bytes.len() / 2]).unwrap();
    assert_found("byte(s), expected");
    std::fs::write(&data, [&bytes[..], b"x"].concat()).unwrap();
    assert_found("byte(s), expected");
    std::fs::write(&data, b"").unwrap();
    assert_found("byte(s), expected");
    std::fs::remove_file(&data).unwrap();
    assert_eq!(world.expect(3, &["backup", "check", "1"]).error("1").0, "not_found");
    std::fs::write(&data, &bytes).unwrap();
    // A forged manifest, even with a valid seal, does not match the backup's contents.
    let text = String::from_utf8(document).unwrap();
    let forge = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
        edit(&mut document["manifest"]);
        let manifest: tenantry::backup::Manifest =
            serde_json::from_value(document["manifest"].take()).unwrap();
        manifest.seal().unwrap()
    };
    let table = before.iter().find(|(_, rows)| !rows.is_empty()).unwrap().0.clone();
    for (edit, what) in [
        (
            &(|it: &mut serde_json::Value| it["schema"] = "00".into()) as &dyn Fn(&mut serde_json::Value),
            "schema is",
        ),
        (&|it| it["tables"][&table]["rows"] = 7777.into(), "but had 7777"),
        (&|it| it["tables"][&table]["hash"] = "00".into(), "different rows"),
        (&|it| it["tables"]["extra"] = serde_json::json!({"rows": 0, "hash": ""}), "no table extra"),
        (&|it| drop(it["tables"].as_object_mut().unwrap().remove(&table)), "an unexpected table"),
        (&|it| it["properties"]["user_version"] = 9.into(), "has the properties"),
    ] {
        std::fs::write(&manifest, forge(edit)).unwrap();
        let report = world.expect(3, &["backup", "check", "1"]);
        let (kind, message) = report.error("1");
        assert!(kind == "check_failed" && message.contains(what), "{what}: {message}");
    }
    // A manifest of another project is rejected.
    std::fs::write(&manifest, forge(&|it| it["project"] = "2".into())).unwrap();
    assert!(world.expect(3, &["backup", "check", "1"]).error("1").1.contains("another backup"));
    std::fs::write(&manifest, &text).unwrap();
    assert_eq!(world.expect(0, &["backup", "check", "1", "--level", "4"]).outcome("1"), "verified");
    assert_eq!(before, world.contents("1"));
    // Given by its file, a backup is found in any folder.
    let moved = world.folder().join("elsewhere");
    std::fs::rename(folder(world), &moved).unwrap();
    let file = moved.join("1").join(manifest.file_name().unwrap());
    world.expect(0, &["backup", "check", file.to_str().unwrap()]);
}

fn a_project_that_is_dropped_can_be_had_back(world: &mut World) {
    with_rows(world);
    let before = world.contents("1");
    let report = world.expect(0, &["drop", "1", "--yes"]);
    let name = report.project("1")["backup"].as_str().unwrap();
    assert_eq!(world.expect(3, &["status", "1"]).error("1").0, "not_found");
    world.expect(0, &["backup", "restore", "1", "--from", name]);
    assert_eq!(before, world.contents("1"));
    assert_eq!(world.expect(0, &["status", "1"]).outcome("1"), "up_to_date");
}

fn a_fleet_is_checked_and_its_coverage_told(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "a", "b", "c", "d"]);
    assert_eq!(world.expect(0, &["backup", "create", "--all", "--except", "d"]).count("backed_up"), 3);
    world.expect(0, &["drop", "c", "--yes", "--no-backup"]);
    let report = world.expect(3, &["backup", "check", "--all"]);
    assert_eq!((report.count("verified"), report.count("failed")), (3, 1));
    assert!(report.error("d").1.contains("no backup"));
    let coverage = report.events("backups")[0].clone();
    assert_eq!((coverage["projects"].as_u64(), coverage["verified_in_7_days"].as_u64()), (Some(4), Some(3)));
    assert_eq!(
        (&coverage["without"], &coverage["oldest_unverified"]),
        (&serde_json::json!(["d"]), &serde_json::Value::Null)
    );
    world.expect(0, &["backup", "create", "b", "d"]);
    // A check at level 1 does not restore the backup, so it does not count as a verification.
    for (level, wanted) in [("1", "1 of 2 projects"), ("3", "2 of 2 projects"), ("1", "2 of 2 projects")] {
        let ran = world.run(&["backup", "check", "--all", "--only", "[ad]", "--level", level]);
        assert!(ran.code == 0 && ran.stdout.contains(wanted), "{level}: {}", ran.stdout);
    }
    // All samples together cover the fleet.
    let parts: u64 = (1..=3)
        .map(|part| {
            let sample = format!("{part}/3");
            world
                .expect(0, &["backup", "check", "--all", "--allow-empty", "--sample", &sample])
                .count("verified")
        })
        .sum();
    assert_eq!(parts, 4);
    assert_eq!(world.run(&["backup", "check", "--all", "--sample", "4/3"]).code, 2);
    assert_eq!(world.run(&["backup", "check"]).code, 2);
}

fn backups_that_are_not_kept_are_removed(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    for index in 0..6 {
        world.expect(0, &["backup", "create", "1"]);
        if index == 1 {
            world.expect(0, &["backup", "check", "1"]);
        }
    }
    let all = names(world, "1");
    assert_eq!(world.run(&["backup", "prune", "--all"]).code, 2, "no option states what to keep");
    let report = world.expect(0, &["backup", "prune", "--all", "--keep-last", "2"]);
    assert_eq!(report.outcome("1"), "pruned");
    // The last two and the verified one remain.
    assert_eq!(names(world, "1"), [all[1].clone(), all[4].clone(), all[5].clone()]);
    let file_count = crate::world::snapshot(&folder(world).join("1")).len();
    assert_eq!(file_count, 7, "files of removed backups remain");
    assert_eq!(world.expect(0, &["backup", "prune", "1", "--keep-within", "1d"]).outcome("1"), "up_to_date");
    world.expect(0, &["backup", "check", "1"]);
}

/// A migration outside a transaction. Its second statement fails if two notes have the same text.
const OUTSIDE: (&str, &str) = (
    "2_outside",
    "CREATE TABLE steps (id INTEGER);\nCREATE UNIQUE INDEX steps_unique ON notes (text);\n-- metadata\nrun_in_transaction = false\n",
);

/// The projects on which it fails.
const FAILING: [&str; 5] = ["3", "7", "20", "41", "50"];

fn an_upgrade_that_fails_in_part_is_put_back(world: &mut World) {
    let ids: Vec<String> = (1..=50).map(|number| number.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.with_migrations(&[NOTES]).expect(0, &[&["create"], &ids[..]].concat());
    for id in &ids {
        let second = if FAILING.contains(id) { "same" } else { "other" };
        world.execute(id, &format!("INSERT INTO notes (text) VALUES ('same'), ('{second}')"));
    }
    world.with_migrations(&[NOTES, OUTSIDE, ("3_last", "CREATE TABLE last (id INTEGER);\n")]);
    let report = world.expect(3, &["upgrade-all", "--backup"]);
    assert_eq!((report.count("upgraded"), report.count("failed")), (45, 5));
    for id in FAILING {
        assert!(
            report.project(id)["notes"].to_string().contains("restored to its state before this run"),
            "{}",
            report.project(id)
        );
        let hint = report.project(id)["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("the project was restored"), "{hint}");
        assert_eq!(world.versions(id), ["1"]);
        assert_eq!(world.tables(id), ["notes"]);
        assert_eq!(world.query(id, "SELECT text FROM notes"), ["same", "same"]);
    }
    assert_eq!(world.expect(0, &["status"]).count("planned"), 5, "some project is dirty");
}

/// Rows that an application wrote while a migration ran outside a transaction are never discarded unless requested.
#[test]
fn rows_that_somebody_committed_meanwhile_are_not_put_back() {
    const SLOW: (&str, &str) = (
        "3_slow",
        "SELECT pg_sleep(0.7);\nCREATE UNIQUE INDEX CONCURRENTLY notes_text ON notes (text);\n-- metadata\nrun_in_transaction = false\n",
    );
    for writes in [true, false] {
        let mut world = World::postgres();
        world.with_migrations(&[NOTES]).expect(0, &["create", "a"]);
        world.execute("a", "INSERT INTO notes (text) VALUES ('same'), ('same')");
        world.with_migrations(&[
            NOTES,
            ("2_more", "ALTER TABLE notes ADD COLUMN more text;\nUPDATE notes SET more = 'x';"),
            SLOW,
        ]);
        let mut command = world.command(&["--format", "json", "upgrade-all", "--backup"]);
        let running = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // Once the ledger has the migration's `start` row, the run has released its locks.
        while world.query("a", "SELECT count(*) FROM tenantry_history WHERE version = '3'") == ["0"] {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if writes {
            world.execute("a", "INSERT INTO notes (text) VALUES ('new'), ('newer')");
        }
        let output = running.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let printed = String::from_utf8(output.stdout).unwrap();
        let texts = world.query("a", "SELECT text FROM notes ORDER BY id");
        if writes {
            assert_eq!(texts, ["same", "same", "new", "newer"], "{printed}");
            assert!(
                printed.contains("not restored automatically")
                    && printed.contains("tenantry backup restore a --from"),
                "{printed}"
            );
            assert!(printed.contains("changed rows of notes"), "{printed}");
        } else {
            assert_eq!(texts, ["same", "same"], "{printed}");
            assert!(printed.contains("restored to its state before this run"), "{printed}");
            assert_eq!(world.versions("a"), ["1"]);
        }
    }
}

/// Two fleets in one store share no backups and no runs.
fn a_backup_belongs_to_one_fleets_project(world: &mut World) {
    let pattern = |name: &str| world.either(format!("{name}_{{id}}.db"), format!("{name}_{{id}}"));
    let (shop, crm) = (pattern("shop"), pattern("crm"));
    world.with_migrations(&[NOTES]);
    let run_in = |pattern: &str, arguments: &[&str]| {
        world.run(&[&["--pattern", pattern, "--format", "json"], arguments].concat())
    };
    let names = |pattern: &str| {
        let list = run_in(pattern, &["backup", "list"]);
        Report::of(list.stdout.as_bytes())
            .events("backup")
            .iter()
            .map(|it| it["name"].as_str().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    for (pattern, ids) in [(&shop, &["1", "2"][..]), (&crm, &["1"])] {
        assert_eq!(run_in(pattern, &[&["create"], ids].concat()).code, 0);
    }
    assert_eq!(run_in(&shop, &["backup", "create", "1"]).code, 0);
    assert_eq!(run_in(&crm, &["backup", "restore", "1"]).code, 3, "another fleet's backup was restored");
    let [shop_backup] = names(&shop).try_into().unwrap();
    assert_eq!(names(&crm), Vec::<String>::new());
    let refused = run_in(&crm, &["backup", "restore", "1", "--from", &shop_backup]);
    assert!(
        refused.code == 3 && refused.stdout.contains("another project") && refused.stdout.contains("--as"),
        "{}",
        refused.stdout
    );
    // With `--as`, another fleet's backup can be restored.
    assert_eq!(run_in(&crm, &["backup", "restore", "1", "--from", &shop_backup, "--as", "9"]).code, 0);
    for _ in 0..2 {
        assert_eq!(run_in(&crm, &["backup", "create", "1"]).code, 0);
    }
    assert_eq!(run_in(&crm, &["backup", "prune", "--all", "--keep-last", "1"]).code, 0);
    assert_eq!((names(&shop).len(), names(&crm).len()), (1, 1));
    assert_eq!(run_in(&shop, &["backup", "restore", "1"]).code, 0);
    // A run can only be rolled back on its own fleet.
    let ran = run_in(&shop, &["stamp", "2", "--to", "0", "--force"]);
    let run = Report::of(ran.stdout.as_bytes()).events("run_started")[0]["run"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    let undone = run_in(&crm, &["runs", "rollback", &run]);
    assert!(
        undone.code == 2 && undone.stderr.contains("another fleet"),
        "{}{}",
        undone.stdout,
        undone.stderr
    );
}

fn an_upgrade_with_checked_backups_takes_one_of_each_project(world: &mut World) {
    world.with_legacy();
    let count = u64::from(world.legacy_count());
    let report = world.expect(0, &["upgrade-all", "--backup=check"]);
    assert_eq!(report.count("upgraded"), count);
    for event in report.events("project_finished") {
        assert_eq!(event["steps"].as_array().unwrap().last().unwrap()["level"], 3, "{event}");
    }
    let list = world.expect(0, &["backup", "list"]);
    assert_eq!(list.events("backup").len() as u64, count);
    assert!(list.events("backup").iter().all(|it| it["verified"]["level"] == 3));
    // Without pending migrations, no backup is made.
    world.expect(0, &["upgrade-all", "--backup"]);
    assert_eq!(world.expect(0, &["backup", "list"]).events("backup").len() as u64, count);
    assert_eq!(world.expect(0, &["backup", "check", "--all", "--level", "4"]).count("verified"), count);
    assert_eq!(world.run(&["upgrade-all", "--backup=maybe"]).code, 2);
}

fn only_the_owner_can_read_backups(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    let arguments = ["--store", &world.url(), "--migrations", "migrations", "backup", "create", "1"];
    let script = format!("umask 0; exec \"$0\" {}", arguments.map(|it| format!("'{it}'")).join(" "));
    let status = std::process::Command::new("sh")
        .current_dir(world.folder())
        .args(["-c", &script, env!("CARGO_BIN_EXE_tenantry")])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    let root = folder(world);
    assert_eq!((mode(&root), mode(&root.join("1"))), (0o700, 0o700));
    let files: Vec<_> = std::fs::read_dir(root.join("1")).unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1, "temporary files remain");
}
