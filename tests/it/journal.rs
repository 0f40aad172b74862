//! The journal: its entries, how changes to it are detected, and how killed runs are completed.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::world::{Report, World};

on_each_store!(
    whatever_changes_something_is_an_entry,
    a_killed_run_is_completed_from_the_ledgers_by_the_next,
    a_killed_downgrade_is_completed_as_one,
    a_killed_drop_says_what_is_gone,
    a_killed_run_that_changed_no_version_is_told_as_complete,
    a_killed_run_is_completed_under_another_catalog_and_by_another_name_of_the_store,
);

/// The folder of a SQLite store's journal.
pub(crate) fn folder(world: &World) -> PathBuf {
    world.data().join("journal")
}

fn exists(world: &World) -> bool {
    if world.is_postgres() {
        world.database().run(&["-c", "SELECT to_regnamespace('tenantry_journal') IS NOT NULL"]) == ["t"]
    } else {
        folder(world).exists()
    }
}

fn remove(world: &World) {
    if world.is_postgres() {
        world.database().run(&["-c", "DROP SCHEMA tenantry_journal CASCADE"]);
    } else {
        std::fs::remove_dir_all(folder(world)).unwrap();
    }
}

/// The record of a run: its events, a line each.
pub(crate) fn record(world: &World, run: &str) -> String {
    if world.is_postgres() {
        let sql = format!("SELECT line FROM tenantry_journal.events WHERE run = '{run}' ORDER BY number");
        world.database().run(&["-c", &sql]).join("\n") + "\n"
    } else {
        std::fs::read_to_string(folder(world).join(format!("runs/{run}.jsonl"))).unwrap()
    }
}

/// Changes the record of a run.
pub(crate) fn set_record(world: &World, run: &str, text: &str) {
    if !world.is_postgres() {
        return std::fs::write(folder(world).join(format!("runs/{run}.jsonl")), text).unwrap();
    }
    world.database().run(&["-c", &format!("DELETE FROM tenantry_journal.events WHERE run = '{run}'")]);
    for (number, line) in text.lines().enumerate() {
        let line = line.replace('\'', "''");
        let sql = format!("INSERT INTO tenantry_journal.events VALUES ('{run}', {number}, '{line}')");
        world.database().run(&["-c", &sql]);
    }
}

pub(crate) fn run_id(report: &Report) -> String {
    report.events("run_started")[0]["run"].as_str().unwrap().to_string()
}

pub(crate) const NOTES: (&str, &str) =
    ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\n-- down\nDROP TABLE notes;\n");
pub(crate) const INDEX: (&str, &str) =
    ("2_index", "CREATE INDEX notes_text ON notes (text);\n-- down\nDROP INDEX notes_text;\n");
pub(crate) const MORE: (&str, &str) =
    ("3_more", "CREATE TABLE more (id INTEGER PRIMARY KEY);\n-- down\nDROP TABLE more;\n");

fn whatever_changes_something_is_an_entry(world: &mut World) {
    world.with_migrations(&[NOTES]).with_legacy_as(1, "legacy");
    for arguments in [
        &["status"][..],
        &["list"],
        &["doctor"],
        &["upgrade-all", "--dry-run"],
        &["stamp", "--all", "--dry-run"],
        &["analyze", "--all", "--dry-run"],
        &["check", "--all"],
        &["backup", "list"],
        &["backup", "check", "--all"],
        &["backup", "prune", "--all", "--keep-last", "1", "--dry-run"],
        &["audit", "show"],
        &["audit", "verify"],
        &["runs", "list"],
        &["export", "legacy"],
    ] {
        world.run(arguments);
        assert!(!exists(world), "{arguments:?} created a journal");
        assert!(!crate::backup::folder(world).exists(), "{arguments:?} created a folder for backups");
    }
    world.expect(0, &["drop", "legacy", "--yes", "--no-backup"]);
    remove(world);
    world.expect(0, &["create", "1", "2"]);
    world.with_migrations(&[NOTES, INDEX]);
    world.expect(0, &["upgrade-all", "--dry-run"]);
    let upgraded = world.expect(0, &["upgrade-all"]);
    world.expect(0, &["backup", "create", "1"]);
    world.expect(0, &["backup", "check", "1"]);
    world.expect(0, &["backup", "restore", "1"]);
    world.expect(3, &["drop", "9", "--yes"]);
    world.expect(0, &["drop", "2", "--yes"]);
    let shown = world.expect(0, &["audit", "show"]);
    let entries: Vec<String> = shown
        .events("entry")
        .iter()
        .map(|it| {
            format!("{} {}", it["entry"]["kind"].as_str().unwrap(), it["entry"]["command"].as_str().unwrap())
        })
        .collect();
    let commands = ["create", "upgrade-all", "backup create", "backup restore", "drop", "drop"];
    let wanted: Vec<_> =
        commands.iter().flat_map(|it| [format!("run_started {it}"), format!("run_finished {it}")]).collect();
    assert_eq!(entries, wanted);
    let entry = &shown.events("entry")[3]["entry"];
    assert_eq!(
        (&entry["payload"]["outcomes"]["upgraded"], &entry["payload"]["exit"]),
        (&2.into(), &0.into())
    );
    assert!(entry["actor"].as_str().is_some_and(|actor| !actor.is_empty()));
    assert_eq!(world.expect(0, &["audit", "verify"]).0[0]["verified"]["anchor"]["count"], 12);
    // Each run has the outcome of each project.
    let list = world.expect(0, &["runs", "list"]);
    assert_eq!(list.events("run").len(), 6);
    assert!(list.events("run").iter().all(|it| it["state"] == "finished"));
    let shown = world.expect(0, &["runs", "show", &run_id(&upgraded)]);
    assert_eq!((shown.outcome("1"), shown.project("1")["to"].as_str()), ("upgraded", Some("2")));
    assert_eq!(shown.0.last().unwrap(), upgraded.0.last().unwrap());
    assert!(shown.0[0]["options"]["catalog"].as_str().unwrap().len() == 64);
    assert_eq!(world.run(&["runs", "show", "../../etc/passwd"]).code, 2);
    assert_eq!(world.run(&["runs", "show", "01a1ffc3-ce06-71cc-b80e-4ddca9db7e7d"]).code, 2);
    // The journal covers the events of each run: a changed event is detected.
    let text = record(world, &run_id(&upgraded));
    set_record(world, &run_id(&upgraded), &text.replace("upgraded", "failed"));
    assert_eq!(world.run(&["audit", "verify"]).code, 1);
    set_record(world, &run_id(&upgraded), &text);
    world.expect(0, &["audit", "verify"]);
    // If the journal cannot be written, nothing is changed.
    let before = world.snapshot();
    let blocked = world.folder().join("blocked");
    std::fs::write(&blocked, "no folder").unwrap();
    let mut command = world.command(&["drop", "1", "--yes"]);
    let output = command.env("TENANTRY_JOURNAL_DIR", &blocked).output().unwrap();
    assert!(!output.status.success());
    assert_eq!(before, world.snapshot(), "something was changed without a journal");
}

/// Creates enough projects for a run with one job to take a while. Returns their ids.
fn create_many(world: &mut World, migrations: &[(&str, &str)]) -> Vec<String> {
    let ids: Vec<String> = (1..=world.either(60, 20)).map(|number| number.to_string()).collect();
    let command: Vec<&str> = ["create"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    world.with_migrations(migrations).expect(0, &command);
    ids
}

/// Cuts off a run's record after its first lines, as a power failure would. Returns the remaining text.
fn cut(world: &World, run: &str, lines: usize) -> String {
    let text = record(world, run);
    let remaining = text.lines().take(lines).collect::<Vec<_>>().join("\n") + "\n";
    set_record(world, run, &remaining);
    remaining
}

/// Runs a command and kills it after this many projects. Returns the id of the run.
fn killed(world: &World, arguments: &[&str], after: usize) -> String {
    let arguments = [&["--format", "json", "--jobs", "1"], arguments].concat();
    let mut child = world.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    for _ in lines.take(after) {}
    child.kill().unwrap();
    child.wait().unwrap();
    if world.is_postgres() {
        world.wait_until_alone();
    }
    started["run"].as_str().unwrap().to_string()
}

fn a_killed_run_is_completed_from_the_ledgers_by_the_next(world: &mut World) {
    let ids = create_many(world, &[NOTES]);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.with_migrations(&[NOTES, INDEX]);
    let run = killed(world, &["upgrade-all"], 5);
    assert!(world.run(&["runs", "list"]).stdout.contains("open"));
    let upgraded: Vec<&str> = ids.iter().copied().filter(|id| world.versions(id) == ["1", "2"]).collect();
    assert!(upgraded.len() < ids.len(), "the kill came too late");
    assert_eq!(world.run(&["runs", "rollback", &run]).code, 1, "a run that has not ended was rolled back");
    // The next run reads from the ledgers what the truncated record lacks.
    let remaining = cut(world, &run, 3);
    set_record(world, &run, &format!("{remaining}{{\"v\":1,\"event\":\"proj"));
    let report = world.expect(0, &["upgrade-all"]);
    let completed = report.events("killed_run")[0].clone();
    let mut recorded: Vec<&str> =
        completed["moved"].as_object().unwrap().keys().map(String::as_str).collect();
    let reported: Vec<Value> = remaining.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    recorded.extend(reported.iter().filter_map(|event| event["project"].as_str()));
    recorded.sort_unstable();
    let mut wanted = upgraded;
    wanted.sort_unstable();
    assert_eq!(recorded, wanted, "{completed}");
    assert_eq!(report.events("run_started")[0]["after"], run);
    let list = world.expect(0, &["runs", "list"]);
    let states: Vec<&str> = list.events("run").iter().map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["finished", "killed", "finished"]);
    assert_eq!(list.events("run")[2]["after"], run);
    assert_eq!(world.expect(0, &["runs", "show", &run]).events("killed_run").len(), 1);
    world.expect(0, &["audit", "verify"]);
    // A completed run can be rolled back like any other.
    let undone = world.expect(0, &["runs", "rollback", &run]);
    assert_eq!(undone.count("downgraded"), wanted.len() as u64);
    assert_eq!(world.expect(0, &["status"]).count("planned"), wanted.len() as u64);
}

fn a_killed_downgrade_is_completed_as_one(world: &mut World) {
    let ids = create_many(world, &[NOTES, INDEX, MORE]);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let run = killed(world, &[&["downgrade"], &ids[..], &["--to", "1"]].concat(), 5);
    cut(world, &run, 3);
    let report = world.expect(0, &["upgrade-all"]);
    let moved = report.events("killed_run")[0]["moved"].as_object().unwrap().clone();
    assert!(moved.len() > 1, "the kill came too early");
    for (id, found) in moved {
        assert_eq!((found["from"].as_str(), found["to"].as_str()), (Some("3"), Some("1")), "{id}");
    }
}

fn a_killed_drop_says_what_is_gone(world: &mut World) {
    let ids = create_many(world, &[NOTES]);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let run = killed(world, &[&["drop"], &ids[..], &["--yes", "--no-backup"]].concat(), 5);
    cut(world, &run, 3);
    let remaining = world.expect(0, &["status"]).events("project_finished").len();
    assert!((1..ids.len() - 2).contains(&remaining), "the kill came too early or too late");
    let report = world.expect(0, &["upgrade-all"]);
    let dropped = report.events("killed_run")[0]["gone"].as_array().unwrap().len();
    assert_eq!(dropped, ids.len() - remaining - 1, "one of the drops is in the record");
}

fn a_killed_run_that_changed_no_version_is_told_as_complete(world: &mut World) {
    create_many(world, &[NOTES]);
    let run = killed(world, &["backup", "create", "--all"], 5);
    let stdout = world.run(&["upgrade-all"]).stdout;
    let expected = format!("backup create was killed; its record is complete: tenantry runs show {run}");
    assert!(stdout.contains(&expected), "{stdout}");
}

fn a_killed_run_is_completed_under_another_catalog_and_by_another_name_of_the_store(world: &mut World) {
    create_many(world, &[NOTES]);
    world.with_migrations(&[NOTES, INDEX]);
    let run = killed(world, &["upgrade-all"], 5);
    cut(world, &run, 3);
    world.with_migrations(&[("7_others", "CREATE TABLE others (id INTEGER PRIMARY KEY);\n")]);
    let url = if world.is_postgres() {
        world.url()
    } else {
        format!("sqlite:{}/../{}/", world.data().display(), world.data().file_name().unwrap().display())
    };
    let output = world.command_on(&url, &["--format", "json", "backup", "create", "1"]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let events = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let completed =
        events.into_iter().find(|event| event["event"] == "killed_run").expect("it was completed");
    let moved = completed["moved"].as_object().unwrap();
    assert!(!moved.is_empty(), "the kill came too early");
    for (id, found) in moved {
        assert_eq!((found["from"].as_str(), found["to"].as_str()), (Some("1"), Some("2")), "{id}");
    }
}

/// A fleet whose journal has six entries, with the journal's path and lines.
fn journal() -> (World, PathBuf, Vec<String>) {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]);
    for id in ["1", "2", "3"] {
        world.expect(0, &["create", id]);
    }
    let path = folder(&world).join("journal.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap().lines().map(String::from).collect();
    (world, path, lines)
}

#[test]
fn the_seven_attacks_on_the_journal_are_found() {
    use sha2::{Digest as _, Sha256};
    let (world, path, lines) = journal();
    let anchor = world.run(&["audit", "anchor"]).stdout.trim().to_string();
    let seal = |text: &str| {
        let hash = Sha256::digest(format!("tenantry journal 1\0{text}"));
        format!(
            "{text},\"hash\":\"{}\"}}",
            hash.iter().fold(String::new(), |all, byte| format!("{all}{byte:02x}"))
        )
    };
    let text = |line: &str| line.rsplit_once(",\"hash\":\"").unwrap().0.to_string();
    let hash = |line: &str| line.rsplit_once(",\"hash\":\"").unwrap().1[..64].to_string();
    assert_eq!(seal(&text(&lines[0])), lines[0], "the test seals entries as the journal does");
    // An attacker who can write the file can recompute every hash from some entry on.
    let rewritten = |from: usize, edit: &dyn Fn(&str) -> String| {
        let mut all = lines.clone();
        for index in from..all.len() {
            let before = hash(&lines[index.max(1) - 1]);
            let mut line = text(&all[index]);
            if index == from {
                line = edit(&line);
            } else {
                line = line.replace(&before, &hash(&all[index - 1]));
            }
            all[index] = seal(&line);
        }
        all
    };
    let forged = {
        let last = lines.last().unwrap();
        let entry = text(last).replace("\"seq\":6", "\"seq\":7");
        let entry = entry.replace(&hash(&lines[4]), &hash(last));
        [lines.clone(), vec![seal(&entry)]].concat()
    };
    let mut inserted = lines.clone();
    inserted.insert(3, lines[2].clone());
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    let without = |removed: usize| {
        lines
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != removed)
            .map(|(_, it)| it.clone())
            .collect::<Vec<_>>()
    };
    let edited = {
        let mut all = lines.clone();
        all[1] = all[1].replace("run_finished", "run_finishad");
        all
    };
    let plain = &["audit", "verify"][..];
    let anchored = &["audit", "verify", "--anchor", &anchor][..];
    let exact = &["audit", "verify", "--anchor", &anchor, "--exact"][..];
    for (attack, all, without_anchor, with_anchor, with_exact) in [
        ("edit", edited, Some("entry 2"), Some("entry 2"), Some("entry 2")),
        ("delete", without(2), Some("entry 4 follows entry 2"), Some("entry 4"), Some("entry 4")),
        (
            "delete the first",
            without(0),
            Some("begins with entry 2"),
            Some("begins with"),
            Some("begins with"),
        ),
        ("insert", inserted, Some("entry 3 follows entry 3"), Some("entry 3"), Some("entry 3")),
        ("swap", swapped, Some("entry 4 follows entry 2"), Some("entry 4"), Some("entry 4")),
        ("truncate", lines[..4].to_vec(), None, Some("cut off"), Some("cut off")),
        (
            "rewrite",
            rewritten(2, &|line| line.replace("create", "creata")),
            None,
            Some("rewritten"),
            Some("rewritten"),
        ),
        ("append", forged, None, None, Some("1 entries were appended")),
    ] {
        std::fs::write(&path, all.join("\n") + "\n").unwrap();
        for (arguments, wanted) in [(plain, without_anchor), (anchored, with_anchor), (exact, with_exact)] {
            let ran = world.run(arguments);
            match wanted {
                Some(wanted) => assert!(
                    ran.code == 1 && ran.stderr.contains(wanted),
                    "{attack} {arguments:?}: {}",
                    ran.stderr
                ),
                None => assert_eq!(ran.code, 0, "{attack} {arguments:?}: {}", ran.stderr),
            }
        }
    }
    // A changed bit is detected wherever it is.
    let original = lines.join("\n") + "\n";
    for index in (0..original.len()).step_by(17) {
        let mut bytes = original.clone().into_bytes();
        bytes[index] ^= 1 << (index % 7);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(world.run(plain).code, 1, "byte {index}");
    }
    std::fs::write(&path, original).unwrap();
    world.expect(0, exact);
}

#[test]
fn what_a_killed_process_left_of_an_entry_is_cut_off_and_said() {
    let (world, path, lines) = journal();
    std::fs::write(&path, lines.join("\n") + "\n" + &lines[2][..40]).unwrap();
    assert!(world.run(&["audit", "verify"]).stderr.contains("the last entry is incomplete"));
    world.expect(0, &["create", "4"]);
    let shown = world.expect(0, &["audit", "show"]);
    assert_eq!(
        (&shown.0[6]["entry"]["kind"], &shown.0[6]["entry"]["payload"]["bytes"]),
        (&"torn".into(), &40.into())
    );
    world.expect(0, &["audit", "verify"]);
}

#[test]
fn a_killed_run_whose_entry_was_torn_hinders_no_run_after_it() {
    let mut world = World::sqlite();
    create_many(&mut world, &[NOTES]);
    world.with_migrations(&[NOTES, INDEX]);
    killed(&world, &["upgrade-all"], 5);
    let path = folder(&world).join("journal.jsonl");
    let original = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, original.clone() + &original[..40]).unwrap();
    assert_eq!(world.expect(0, &["upgrade-all"]).events("killed_run").len(), 1);
    world.expect(0, &["audit", "verify"]);
    let kinds = |report: &Report| {
        report.events("entry").iter().map(|it| it["entry"]["kind"].to_string()).collect::<Vec<_>>()
    };
    assert!(kinds(&world.expect(0, &["audit", "show"])).contains(&"\"torn\"".to_string()));
}

#[test]
fn old_entries_are_pruned_to_a_checkpoint_that_the_rest_goes_on_from() {
    let (world, path, lines) = journal();
    let anchor = world.run(&["audit", "anchor"]).stdout.trim().to_string();
    assert!(world.run(&["audit", "prune", "--older-than", "1d"]).stdout.starts_with("0 "));
    assert!(world.run(&["audit", "prune", "--older-than", "0s"]).stdout.starts_with("5 "));
    let remaining = std::fs::read_to_string(&path).unwrap();
    assert_eq!((remaining.lines().count(), remaining.lines().last()), (2, lines.last().map(String::as_str)));
    world.expect(0, &["audit", "verify", "--anchor", &anchor, "--exact"]);
    world.expect(0, &["create", "4"]);
    world.expect(0, &["audit", "verify", "--anchor", &anchor]);
    assert!(world.run(&["audit", "prune", "--older-than", "0s"]).stdout.starts_with("3 "));
    world.expect(0, &["audit", "verify"]);
    assert!(world.run(&["audit", "verify", "--anchor", &anchor]).stderr.contains("after the anchor"));
    // A checkpoint is covered like any other entry: changing or removing it is detected.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("checkpoint", "checkpaint", 1)).unwrap();
    assert_eq!(world.run(&["audit", "verify"]).code, 1);
    std::fs::write(&path, text.split_once('\n').unwrap().1).unwrap();
    assert!(world.run(&["audit", "verify"]).stderr.contains("earlier ones are missing"));
}
