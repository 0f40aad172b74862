//! Upgrades that were halted or killed go on, and go back as one run.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::faults::repeated;
use crate::journal::{INDEX, NOTES, run_id};
use crate::rollout::{UNIQUE, break_projects, fleet, mend, upgraded};
use crate::world::World;

on_each_store!(
    a_resume_that_is_not_possible_says_why,
    a_rollout_that_is_killed_again_and_again_is_completed,
    a_resumed_run_is_rolled_back_as_one,
    what_a_killed_resume_did_is_read_from_the_ledgers,
    a_project_that_stopped_half_way_goes_back_to_where_it_began,
    rows_from_between_a_rollback_and_a_resume_are_kept,
    a_wave_that_went_back_begins_again,
    entries_that_are_pruned_under_a_resumed_run_take_no_record_with_them,
);

/// Starts a command and kills it after so many lines of its report. Returns the id of the run, and whether it had ended.
fn killed(world: &World, arguments: &[&str], lines: usize) -> (Option<String>, bool) {
    let arguments = [&["--format", "json", "--jobs", "2"], arguments].concat();
    let mut child = world.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<Value> =
        stdout.take(lines).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    if world.is_postgres() {
        world.wait_until_alone();
    }
    let started = seen.iter().find(|event| event["event"] == "run_started");
    let run = started.map(|event| event["run"].as_str().unwrap().to_string());
    (run, seen.iter().any(|event| event["event"] == "run_finished"))
}

fn a_resume_that_is_not_possible_says_why(world: &mut World) {
    fleet(world, 6, UNIQUE);
    break_projects(world, &["2"]);
    let run = run_id(&world.expect(3, &["--jobs", "1", "upgrade-all", "--max-failures", "1"]));
    let resume = |world: &World, run: &str| world.run(&["runs", "resume", run]);
    let unknown = resume(world, "01a1ffc3-ce06-71cc-b80e-4ddca9db7e7d");
    assert!(unknown.code == 2 && unknown.stderr.contains("does not exist"), "{}", unknown.stderr);
    let create = run_id(&world.expect(0, &["create", "new"]));
    let other = resume(world, &create);
    assert!(other.code == 2 && other.stderr.contains("is a create; only upgrades"), "{}", other.stderr);
    world.with_migrations(&[NOTES, UNIQUE, ("3_more", "CREATE TABLE more (id INTEGER PRIMARY KEY);")]);
    let changed = resume(world, &run);
    assert!(changed.code == 2 && changed.stderr.contains("migrations were changed"), "{}", changed.stderr);
    assert!(changed.stderr.contains("start a new run"), "{}", changed.stderr);
    let shown = world.expect(0, &["runs", "show", &run]);
    assert_eq!(shown.events("run").len(), 1, "a refused resume changed the record");
    // A run in progress is not resumed.
    world.with_migrations(&[NOTES, UNIQUE]);
    mend(world, &["2"]);
    let first = world.command(&["runs", "resume", &run]).stdout(Stdio::null()).spawn().unwrap();
    drop(first.wait_with_output());
    let gate = "read line < go";
    let pipe = world.folder().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    world.expect(0, &["runs", "rollback", &run]);
    let mut child = world
        .command(&["--format", "json", "upgrade-all", "--gate", gate])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let busy = resume(world, started["run"].as_str().unwrap());
    assert!(busy.code != 0 && busy.stderr.contains("is in progress"), "{}", busy.stderr);
    std::fs::write(&pipe, "go\n").unwrap();
    for _ in lines {}
    assert!(child.wait().unwrap().success());
}

/// The fleet: with `TENANTRY_SOAK=10` it has 300 projects on each store, and 60 kills.
fn a_rollout_that_is_killed_again_and_again_is_completed(world: &mut World) {
    let size = repeated(30) as usize;
    let ids = fleet(world, size, UNIQUE);
    let broken = ["3", "11", "12", "17"];
    break_projects(world, &broken);
    let rollout = ["--jobs", "2", "upgrade-all", "--waves", "1,20%,60%", "--max-failures", "3"];
    let report = world.expect(3, &rollout);
    let halted = report.events("halted")[0];
    assert_eq!((&halted["reason"], halted["waves"].as_u64()), (&json!("failures"), Some(4)));
    mend(world, &broken);
    let mut run = run_id(&report);
    world.expect(0, &["runs", "resume", &run]);
    assert_eq!(upgraded(world, &ids).len(), size);
    // The same again, killed at every chance.
    let mut kills = 0;
    let mut random = 12_345_u32;
    while kills < repeated(6) {
        assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), size as u64);
        let (mut current, mut is_complete): (Option<String>, bool) = (None, false);
        while !is_complete && kills < repeated(6) {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let lines = 1 + (random >> 16) as usize % (size / 3);
            let (started, ended) = match &current {
                Some(run) => killed(world, &["runs", "resume", run], lines),
                None => killed(world, &rollout[2..], lines),
            };
            is_complete = ended;
            current = current.or(started);
            kills += 1;
        }
        run = current.expect("every kill comes after the first line");
        let last = world.expect(0, &["runs", "resume", &run]);
        assert_eq!(last.count("upgraded") + last.count("up_to_date"), size as u64);
        assert_eq!(upgraded(world, &ids).len(), size);
    }
    world.expect(0, &["audit", "verify"]);
    for id in &ids {
        world.assert_sound(id);
    }
    // Whatever was changed by which part of the run goes back with it.
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), size as u64);
}

fn a_resumed_run_is_rolled_back_as_one(world: &mut World) {
    let ids = fleet(world, 8, UNIQUE);
    break_projects(world, &["3"]);
    let run = run_id(&world.expect(3, &["--jobs", "1", "upgrade-all", "--waves", "2,5"]));
    mend(world, &["3"]);
    world.expect(0, &["runs", "resume", &run]);
    assert_eq!(upgraded(world, &ids).len(), 8);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 8);
    assert!(upgraded(world, &ids).is_empty());
}

fn what_a_killed_resume_did_is_read_from_the_ledgers(world: &mut World) {
    let size = world.either(100, 40);
    let ids = fleet(world, size, UNIQUE);
    break_projects(world, &["1"]);
    let report = world.expect(3, &["--jobs", "1", "upgrade-all", "--max-failures", "1"]);
    assert_eq!(report.count("not_started"), size as u64 - 1);
    mend(world, &["1"]);
    let run = run_id(&report);
    killed(world, &["runs", "resume", &run], 8);
    // The record ends where the run was resumed, as after a power cut.
    let text = crate::journal::record(world, &run);
    let resumed = text.find("\"resumed\":true").unwrap();
    let end = resumed + text[resumed..].find('\n').unwrap() + 1;
    crate::journal::set_record(world, &run, &text[..end + 30]);
    let expected = upgraded(world, &ids);
    assert!((2..size).contains(&expected.len()), "the kill came too early or too late");
    let last = world.expect(0, &["runs", "resume", &run]);
    let moved = last.events("killed_run")[0]["moved"].as_object().unwrap();
    assert_eq!(moved.keys().cloned().collect::<BTreeSet<_>>(), expected.into_iter().collect());
    assert_eq!(upgraded(world, &ids).len(), size);
    world.expect(0, &["audit", "verify"]);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), size as u64);
}

fn a_project_that_stopped_half_way_goes_back_to_where_it_began(world: &mut World) {
    let outside = (
        "2_outside",
        "CREATE INDEX notes_id ON notes (id, text);\n-- down\nDROP INDEX notes_id;\n-- metadata\nrun_in_transaction = false\n",
    );
    fleet(world, 2, outside);
    world.with_migrations(&[NOTES, outside, ("3_unique", UNIQUE.1)]);
    break_projects(world, &["1"]);
    let run = run_id(&world.expect(3, &["--jobs", "1", "upgrade-all", "--max-failures", "1"]));
    assert_eq!(world.versions("1"), ["1", "2"]);
    assert_eq!(world.versions("2"), ["1"]);
    mend(world, &["1"]);
    let resumed = world.expect(0, &["runs", "resume", &run]);
    assert_eq!(resumed.project("1")["from"], "2");
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 2);
    assert_eq!(world.versions("1"), ["1"]);
    assert_eq!(world.versions("2"), ["1"]);
}

fn rows_from_between_a_rollback_and_a_resume_are_kept(world: &mut World) {
    // Without a down.sql, a rollback needs the backups.
    let ids = fleet(world, 3, ("2_more", "CREATE INDEX notes_text ON notes (text);\n"));
    let run = run_id(&world.expect(3, &["upgrade-all", "--backup", "--gate", "false"]));
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("restored"), 3);
    for id in &ids {
        world.execute(id, "INSERT INTO notes (id, text) VALUES (5, 'written between')");
    }
    assert_eq!(world.expect(3, &["runs", "resume", &run]).count("upgraded"), 3);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("restored"), 3);
    for id in &ids {
        assert_eq!(world.query(id, "SELECT text FROM notes"), ["written between"], "{id}");
    }
}

fn a_wave_that_went_back_begins_again(world: &mut World) {
    fleet(world, 8, INDEX);
    let gate = "test $TENANTRY_WAVE != 3 || test -e open";
    let run = run_id(&world.expect(3, &["upgrade-all", "--waves", "1,4", "--gate", gate]));
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 8);
    std::fs::write(world.folder().join("open"), "").unwrap();
    let resumed = world.expect(0, &["runs", "resume", &run]);
    let sizes: Vec<u64> =
        resumed.events("wave_started").iter().map(|it| it["projects"].as_u64().unwrap()).collect();
    assert_eq!((sizes, resumed.count("upgraded")), (vec![1, 3, 4], 8));
    // Nothing is left: no gate runs for it.
    std::fs::remove_file(world.folder().join("open")).unwrap();
    assert!(world.expect(0, &["runs", "resume", &run]).events("wave_started").is_empty());
}

fn entries_that_are_pruned_under_a_resumed_run_take_no_record_with_them(world: &mut World) {
    fleet(world, 4, INDEX);
    let gate = "test -e open && read line < go";
    let run = run_id(&world.expect(3, &["upgrade-all", "--waves", "2", "--gate", gate]));
    std::fs::write(world.folder().join("open"), "").unwrap();
    let pipe = world.folder().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let arguments = ["--format", "json", "runs", "resume", &run];
    let mut child = world.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("wave_started")));
    world.expect(0, &["audit", "verify"]);
    // The last entry, which stays, is that of another run.
    world.expect(0, &["create", "x"]);
    world.expect(0, &["audit", "prune", "--older-than", "0s"]);
    std::fs::write(&pipe, "go\n").unwrap();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("wave_finished")));
    std::fs::write(&pipe, "go\n").unwrap();
    for _ in lines {}
    assert!(child.wait().unwrap().success());
    world.expect(0, &["audit", "verify"]);
    assert_eq!(world.expect(0, &["runs", "show", &run]).events("run").len(), 2);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 4);
}
