//! Upgrades in waves: what stops them, and how they go back. `resume.rs` has how they go on.

use std::collections::BTreeSet;

use serde_json::json;

use crate::journal::{INDEX, NOTES, run_id};
use crate::world::{Report, World};

on_each_store!(
    waves_are_shown_and_then_kept,
    a_spent_budget_stops_in_its_wave_and_a_resume_does_the_rest,
    a_gate_that_fails_stops_after_its_wave,
    a_random_order_has_a_seed,
    a_run_that_is_all_or_nothing_goes_back,
    a_rollout_can_be_set_for_an_environment,
    a_blocked_project_halts_all_or_nothing_before_it_begins,
);

pub(crate) const UNIQUE: (&str, &str) =
    ("2_unique", "CREATE UNIQUE INDEX notes_text ON notes (text);\n-- down\nDROP INDEX notes_text;\n");

/// Creates so many projects at version 1. Returns their ids.
pub(crate) fn fleet(world: &mut World, size: usize, next: (&str, &str)) -> Vec<String> {
    let ids: Vec<String> = (1..=size).map(|number| number.to_string()).collect();
    let command: Vec<&str> = ["create"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    world.with_migrations(&[NOTES]).expect(0, &command);
    world.with_migrations(&[NOTES, next]);
    ids
}

pub(crate) fn break_projects(world: &World, ids: &[&str]) {
    for id in ids {
        world.execute(id, "INSERT INTO notes (id, text) VALUES (1, 'twice'), (2, 'twice')");
    }
}

pub(crate) fn mend(world: &World, ids: &[&str]) {
    for id in ids {
        world.execute(id, "DELETE FROM notes WHERE id = 2");
    }
}

/// The waves of a report, as ids.
fn waves(report: &Report) -> Vec<Vec<String>> {
    serde_json::from_value(report.events("waves")[0]["waves"].clone()).unwrap()
}

pub(crate) fn upgraded(world: &World, ids: &[String]) -> Vec<String> {
    ids.iter().filter(|id| world.versions(id) == ["1", "2"]).cloned().collect()
}

fn waves_are_shown_and_then_kept(world: &mut World) {
    let ids = fleet(world, 20, INDEX);
    let before = world.snapshot();
    let arguments = ["upgrade-all", "--waves", "1,25%,100%", "--canary", "7,9"];
    let dry = world.expect(0, &[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(before, world.snapshot());
    let expected = [&["7", "9"][..], &["1", "2", "3"]];
    assert_eq!(
        waves(&dry)[..2],
        expected.map(|wave| wave.iter().map(ToString::to_string).collect::<Vec<_>>())
    );
    assert_eq!((waves(&dry).len(), waves(&dry)[2].len()), (3, 15));
    let text = world.run(&[&arguments[..], &["--dry-run"]].concat()).stdout;
    assert!(text.contains("wave 1 of 3, 2 projects: 7, 9\n"), "{text}");
    assert!(
        text.contains("wave 3 of 3, 15 projects: 4, 5, 6, 8, 10,") && text.contains("and 3 more"),
        "{text}"
    );
    let run = world.expect(0, &arguments);
    assert_eq!(waves(&run), waves(&dry));
    // The projects of a wave are finished before the next one begins.
    let mut at = 0;
    for event in &run.0 {
        match event["event"].as_str().unwrap() {
            "wave_started" => at = usize::try_from(event["wave"].as_u64().unwrap()).unwrap(),
            "project_finished" => {
                let wave = waves(&run)[at - 1].iter().any(|id| event["project"] == **id);
                assert!(wave, "{event} in wave {at}");
            }
            _ => {}
        }
    }
    assert_eq!(run.events("wave_finished").len(), 3);
    assert_eq!(upgraded(world, &ids).len(), 20);
    // Nothing is left, so there are no waves.
    assert!(world.expect(0, &arguments).events("waves").is_empty());
    assert_eq!(world.run(&["upgrade-all", "--canary", "99"]).code, 2);
    assert_eq!(world.run(&["upgrade-all", "--waves", "5,2"]).code, 2);
    assert_eq!(world.run(&["upgrade-all", "--waves", "0%"]).code, 2);
    // What would have no effect, or another one than it looks like, is refused.
    assert_eq!(world.run(&["upgrade-all", "--bake", "10m"]).code, 2);
    assert_eq!(world.run(&["upgrade-all", "--max-failure-rate", "5"]).code, 2);
}

fn a_spent_budget_stops_in_its_wave_and_a_resume_does_the_rest(world: &mut World) {
    let ids = fleet(world, 20, UNIQUE);
    // Project 4 is blocked, so wave 1 is project 1, and wave 2 has the nine after it.
    break_projects(world, &["2", "3", "5", "15"]);
    world.execute("4", "CREATE TABLE extra (a INTEGER)");
    let arguments = ["--jobs", "1", "upgrade-all", "--waves", "1,50%,100%", "--max-failures", "2"];
    let report = world.expect(3, &arguments);
    // A blocked project, 4, does not count.
    let counts = ["upgraded", "failed", "blocked", "not_started"].map(|outcome| report.count(outcome));
    assert_eq!(counts, [1, 2, 1, 16]);
    let run = run_id(&report);
    let halted = report.events("halted")[0];
    assert_eq!(
        (&halted["wave"], &halted["waves"], &halted["reason"], &halted["failures"], &halted["run"]),
        (&json!(2), &json!(3), &json!("failures"), &json!(2), &json!(run))
    );
    assert_eq!(report.events("wave_started").len(), 2);
    // Projects that are not mended stop it again in the same wave.
    let again = world.run(&["--jobs", "1", "runs", "resume", &run]);
    let expected = "halted in wave 2 of 3: 2 projects failed, and the limit is 2\n        hint: to go on: tenantry --store";
    assert!(again.code == 3 && again.stdout.contains(expected), "{}", again.stdout);
    assert!(again.stdout.contains(&format!("going on with run {run}")), "{}", again.stdout);
    assert!(again.stdout.contains(&format!("runs rollback {run}")), "{}", again.stdout);
    mend(world, &["2", "3", "5", "15"]);
    world.execute("4", "DROP TABLE extra");
    let before = world.snapshot();
    let dry = world.expect(0, &["runs", "resume", &run, "--dry-run"]);
    assert_eq!((before, dry.count("planned"), dry.count("up_to_date")), (world.snapshot(), 19, 1));
    let resumed = world.expect(0, &["runs", "resume", &run]);
    assert_eq!((resumed.count("upgraded"), resumed.count("up_to_date")), (19, 1));
    assert_eq!((run_id(&resumed), &resumed.events("run_started")[0]["resumed"]), (run.clone(), &json!(true)));
    let first = resumed.events("wave_started")[0];
    assert_eq!((&first["wave"], &first["waves"], &first["projects"]), (&json!(2), &json!(3), &json!(9)));
    assert_eq!(upgraded(world, &ids).len(), 20);
    // It is one run in the journal.
    let list = world.expect(0, &["runs", "list"]);
    assert_eq!((list.events("run").len(), &list.events("run")[1]["state"]), (2, &json!("finished")));
    world.expect(0, &["audit", "verify"]);
    let pruned = world.run(&["audit", "prune", "--older-than", "0s"]);
    assert!(pruned.stdout.starts_with("7 "), "{}", pruned.stdout);
    world.expect(0, &["audit", "verify"]);
    world.expect(0, &["runs", "show", &run]);
    // Nothing is left to do.
    assert_eq!(world.expect(0, &["runs", "resume", &run]).count("up_to_date"), 20);
    // A share of the projects that are to be upgraded: 5 % of 20 is 1.
    world.expect(0, &["runs", "rollback", &run]);
    break_projects(world, &["6", "7"]);
    let report = world.expect(3, &["--jobs", "1", "upgrade-all", "--max-failure-rate", "5%"]);
    assert_eq!((report.count("failed"), &report.events("halted")[0]["limit"]), (1, &json!(1)));
}

fn a_gate_that_fails_stops_after_its_wave(world: &mut World) {
    let ids = fleet(world, 10, INDEX);
    let seen = world.folder().join("gates");
    let open = world.folder().join("open");
    let gate = format!(
        "echo $TENANTRY_RUN $TENANTRY_WAVE $TENANTRY_WAVES >> '{}'; echo too slow; test $TENANTRY_WAVE = 1 || test -e '{}'",
        seen.display(),
        open.display()
    );
    let report = world.expect(3, &["upgrade-all", "--waves", "20%,50%", "--gate", &gate, "--bake", "0s"]);
    let run = run_id(&report);
    let halted = report.events("halted")[0];
    assert_eq!(
        (&halted["wave"], &halted["reason"], &halted["gate"]),
        (&json!(2), &json!("gate"), &json!({"code": 1, "output": "too slow"}))
    );
    assert_eq!((report.count("upgraded"), report.count("not_started")), (5, 5));
    assert_eq!(upgraded(world, &ids).len(), 5);
    let lines = || std::fs::read_to_string(&seen).unwrap();
    assert_eq!(lines(), format!("{run} 1 3\n{run} 2 3\n"));
    // The gate has to pass before the run goes on, although all projects of its wave are done.
    let again = world.expect(3, &["runs", "resume", &run]);
    assert_eq!((again.count("upgraded"), &again.events("halted")[0]["wave"]), (0, &json!(2)));
    std::fs::write(&open, "").unwrap();
    let resumed = world.expect(0, &["runs", "resume", &run]);
    assert_eq!((resumed.count("upgraded"), resumed.count("not_started")), (5, 0));
    assert_eq!(lines(), format!("{run} 1 3\n{run} 2 3\n{run} 2 3\n{run} 2 3\n{run} 3 3\n"));
    assert_eq!(upgraded(world, &ids).len(), 10);
    // The last gate counts as well.
    world.expect(0, &["runs", "rollback", &run]);
    let report = world.expect(3, &["upgrade-all", "--gate", "exit 7"]);
    assert_eq!((report.count("upgraded"), &report.events("halted")[0]["gate"]["code"]), (10, &json!(7)));
}

fn a_random_order_has_a_seed(world: &mut World) {
    fleet(world, 10, INDEX);
    let plan = |order: &str| {
        let report = world.expect(0, &["upgrade-all", "--waves", "1,3", "--order", order, "--dry-run"]);
        (waves(&report), report.events("waves")[0]["order"].as_str().unwrap().to_string())
    };
    let (first, order) = plan("random");
    assert!(order.starts_with("random:"), "{order}");
    assert_eq!(plan(&order), (first.clone(), order.clone()));
    let others: BTreeSet<_> = (1..20).map(|seed| plan(&format!("random:{seed}")).0[0].clone()).collect();
    assert!(others.len() > 3, "{others:?}");
    let report = world.expect(0, &["upgrade-all", "--waves", "1,3", "--order", &order]);
    assert_eq!(waves(&report), first);
    // The record has the seed.
    let shown = world.expect(0, &["runs", "show", &run_id(&report)]);
    assert_eq!(shown.0[0]["options"]["rollout"]["order"], order);
}

fn a_run_that_is_all_or_nothing_goes_back(world: &mut World) {
    let ids = fleet(world, 6, ("2_more", "CREATE UNIQUE INDEX notes_text ON notes (text);\n"));
    break_projects(world, &["5"]);
    // The rehearsal finds what it can find.
    let refused = world.expect(3, &["upgrade-all", "--all-or-nothing"]);
    assert_eq!((refused.events("run_started").len(), upgraded(world, &ids).len()), (1, 0));
    mend(world, &["5"]);
    world.execute("2", "INSERT INTO notes (id, text) VALUES (7, 'kept')");
    let before: Vec<_> = ids.iter().map(|id| world.contents(id)).collect();
    // What fails later: the migration has no down.sql, so the backups are needed.
    let gate = "test $TENANTRY_WAVE = 1";
    let arguments = ["upgrade-all", "--all-or-nothing", "--waves", "2,4", "--gate", gate];
    let report = world.expect(3, &arguments);
    let commands: Vec<&str> =
        report.events("run_started").iter().map(|it| it["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["rehearse", "upgrade-all", "runs rollback"]);
    assert_eq!(report.count("restored"), 4, "{:?}", report.0.last());
    assert!(upgraded(world, &ids).is_empty());
    for (id, before) in ids.iter().zip(before) {
        let rows = |tables: &std::collections::BTreeMap<String, Vec<String>>| tables["notes"].clone();
        assert_eq!(rows(&world.contents(id)), rows(&before), "{id}");
    }
    assert_eq!(world.expect(0, &["schema", "drift", "--all"]).count("as_expected"), 6);
    world.expect(0, &["upgrade-all", "--all-or-nothing"]);
    assert_eq!(upgraded(world, &ids).len(), 6);
}

fn a_blocked_project_halts_all_or_nothing_before_it_begins(world: &mut World) {
    use tenantry::config::{Config, Layer, Migrations};
    use tenantry::event::{Event, HaltReason};
    use tenantry::manager::{BackupBefore, Rollout, Run};
    let ids = fleet(world, 4, INDEX);
    world.execute("3", "CREATE TABLE extra (a INTEGER)");
    let layer = Layer {
        store: Some(world.url()),
        migrations: Some(Migrations::Directory(world.folder().join("migrations"))),
        backups: Some(world.folder().join("backups")),
        ..Layer::default()
    };
    let manager = Config::new(layer).unwrap().manager().unwrap();
    let run =
        Run::upgrade_all(2).rollout(Rollout::default().all_or_nothing()).backup_before(BackupBefore::Take);
    let mut reasons = Vec::new();
    let summary = manager.run(&run, |event| {
        if let Event::Halted(halted) = event {
            reasons.push(halted.reason);
        }
    });
    assert_eq!((summary.unwrap().exit, reasons), (3, vec![HaltReason::Unplanned { projects: 1 }]));
    assert!(upgraded(world, &ids).is_empty());
}

fn a_rollout_can_be_set_for_an_environment(world: &mut World) {
    fleet(world, 10, UNIQUE);
    break_projects(world, &["1", "2"]);
    let settings = "[rollout]\nmax_failure_rate = \"90%\"\n\
                    [env.production.rollout]\nwaves = \"1,50%\"\ncanary = [\"4\"]\norder = \"id\"\nbake = \"0s\"\n\
                    gate = \"true\"\nmax_failures = 2\n";
    std::fs::write(world.folder().join("tenantry.toml"), settings).unwrap();
    let dry = |arguments: &[&str]| world.expect(0, &[arguments, &["upgrade-all", "--dry-run"]].concat());
    assert!(dry(&[]).events("waves").is_empty());
    let production = dry(&["--env", "production"]);
    assert_eq!(waves(&production).iter().map(Vec::len).collect::<Vec<_>>(), [1, 4, 5]);
    // A flag replaces the setting.
    let flags = world.expect(0, &["--env", "production", "upgrade-all", "--waves", "100%", "--dry-run"]);
    assert_eq!(waves(&flags).iter().map(Vec::len).collect::<Vec<_>>(), [1, 9]);
    let report = world.expect(3, &["--jobs", "1", "--env", "production", "upgrade-all"]);
    assert_eq!((report.count("failed"), &report.events("halted")[0]["limit"]), (2, &json!(2)));
    let wrong = "[rollout]\nwave = \"1\"\n";
    std::fs::write(world.folder().join("tenantry.toml"), wrong).unwrap();
    assert_eq!(world.run(&["upgrade-all", "--dry-run"]).code, 2);
}

/// A project that fails in the run although its rehearsal passed: the others go back, and it stays as it is.
#[test]
fn a_project_that_fails_after_its_rehearsal_makes_the_others_go_back() {
    let mut world = World::sqlite();
    let ids = fleet(&mut world, 6, UNIQUE);
    break_projects(&world, &["6"]);
    let broken = world.folder().join("broken.db");
    std::fs::rename(world.path("6"), &broken).unwrap();
    std::fs::copy(world.path("5"), world.path("6")).unwrap();
    let gate = format!("cp '{}' '{}'", broken.display(), world.path("6").display());
    let report = world.expect(3, &["upgrade-all", "--all-or-nothing", "--canary", "1", "--gate", &gate]);
    assert_eq!(report.events("run_started").len(), 3);
    assert!(report.count("downgraded") >= 1, "{:?}", report.0.last());
    assert!(upgraded(&world, &ids).is_empty());
}
