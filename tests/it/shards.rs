//! Parts of a fleet for the tasks of a scheduler's job, and one report of all of them.

use std::process::Command;

use serde_json::{Value, json};

use crate::faults::repeated;
use crate::journal::{INDEX, NOTES};
use crate::world::{Report, World};

on_each_store!(
    the_parts_of_a_job_do_each_project_once,
    a_part_that_never_reported_is_named,
    outputs_are_merged_where_there_is_no_common_journal,
    every_command_on_all_projects_takes_a_part,
    a_part_without_projects_reports_as_well,
);

fn fleet(world: &mut World, size: usize) -> Vec<String> {
    let ids: Vec<String> = (1..=size).map(|number| number.to_string()).collect();
    let command: Vec<&str> = ["create"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    world.with_migrations(&[NOTES]).expect(0, &command);
    world.with_migrations(&[NOTES, INDEX]);
    ids
}

/// Runs a part of a job, as Slurm would, and returns its output.
fn task(world: &World, part: usize, of: usize, arguments: &[&str]) -> std::process::Output {
    let mut command = world.command(&[&["--format", "json"], arguments, &["--shard", "auto"]].concat());
    command.env("SLURM_ARRAY_TASK_ID", part.to_string()).env("SLURM_ARRAY_TASK_MIN", "1");
    command.env("SLURM_ARRAY_TASK_COUNT", of.to_string()).env("SLURM_ARRAY_JOB_ID", "4711");
    command.output().unwrap()
}

fn merged(report: &Report) -> &Value {
    &report.events("merged")[0]["merged"]
}

fn the_parts_of_a_job_do_each_project_once(world: &mut World) {
    let size = world.either(60, 20);
    let ids = fleet(world, size);
    std::thread::scope(|scope| {
        let world = &*world;
        for part in 1..=8 {
            scope.spawn(move || {
                let output = task(world, part, 8, &["upgrade-all", "--allow-empty"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            });
        }
    });
    let report = world.expect(0, &["runs", "show", "--group", "4711"]);
    assert_eq!(merged(&report)["outcomes"], json!({"upgraded": size}));
    assert_eq!(merged(&report)["shards"].as_array().unwrap().len(), 8);
    for id in &ids {
        assert_eq!((world.versions(id), report.outcome(id)), (vec!["1".into(), "2".into()], "upgraded"));
    }
    let list = world.run(&["runs", "list"]).stdout;
    assert!(list.contains("  shard 3/8 of group 4711"), "{list}");
    // Started again, a part has nothing left to do, and the report stays as it is.
    assert!(task(world, 3, 8, &["upgrade-all", "--allow-empty"]).status.success());
    let again = world.expect(0, &["runs", "show", "--group", "4711"]);
    assert_eq!(merged(&again)["outcomes"], json!({"upgraded": size}));
    assert_eq!(merged(&again)["shards"][2]["runs"], 2);
    assert_eq!(world.run(&["runs", "show", "--group", "12"]).code, 2);
    let lonely = world.run(&["upgrade-all", "--shard", "auto"]);
    assert!(lonely.code == 2 && lonely.stderr.contains("no scheduler says"), "{}", lonely.stderr);
}

fn a_part_that_never_reported_is_named(world: &mut World) {
    fleet(world, 12);
    world.execute("5", "DROP TABLE notes");
    for part in [1, 2, 4] {
        task(world, part, 4, &["upgrade-all", "--allow-empty"]);
    }
    let ran = world.run(&["runs", "show", "--group", "4711"]);
    assert_eq!(ran.code, 3, "{}", ran.stdout);
    assert!(ran.stdout.contains("never reported: 3/4"), "{}", ran.stdout);
    task(world, 3, 4, &["upgrade-all", "--allow-empty"]);
    let report = world.expect(4, &["runs", "show", "--group", "4711"]);
    assert_eq!(merged(&report)["outcomes"], json!({"upgraded": 11, "blocked": 1}));
    let text = world.run(&["runs", "show", "--group", "4711"]).stdout;
    assert!(text.contains("5: blocked") && text.contains("missing table notes"), "{text}");
}

fn outputs_are_merged_where_there_is_no_common_journal(world: &mut World) {
    fleet(world, 12);
    let mut files = Vec::new();
    for part in 1..=3 {
        let file = world.folder().join(format!("part-{part}.jsonl"));
        let mut command =
            world.command(&["--format", "json", "upgrade-all", "--shard", &format!("{part}/3")]);
        let output = command
            .env("TENANTRY_JOURNAL_DIR", world.folder().join(format!("journal-{part}")))
            .output()
            .unwrap();
        std::fs::write(&file, output.stdout).unwrap();
        files.push(file.display().to_string());
    }
    let merge = |files: &[String]| {
        [&["runs", "merge"][..], &files.iter().map(String::as_str).collect::<Vec<_>>()[..]]
            .concat()
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let all = merge(&files);
    let report = world.expect(0, &all.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(merged(&report)["outcomes"], json!({"upgraded": 12}));
    let two = merge(&files[1..]);
    let report = world.expect(3, &two.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(merged(&report)["missing"], json!(["1/3"]));
    // An output that was cut off is that of a part which did not end.
    let text = std::fs::read_to_string(&files[0]).unwrap();
    std::fs::write(&files[0], &text[..text.len() - 20]).unwrap();
    let report = world.expect(3, &all.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(merged(&report)["shards"][0]["state"], "open");
    std::fs::write(&files[0], "").unwrap();
    assert_eq!(world.run(&["runs", "merge", &files[0]]).code, 2, "nothing was merged");
    std::fs::write(&files[0], "no JSON\n").unwrap();
    let wrong = world.run(&all.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(wrong.code == 2 && wrong.stderr.contains("part-1.jsonl:1"), "{}", wrong.stderr);
}

fn a_part_without_projects_reports_as_well(world: &mut World) {
    fleet(world, 2);
    for part in 1..=5 {
        assert!(task(world, part, 5, &["upgrade-all", "--allow-empty"]).status.success());
    }
    let report = world.expect(0, &["runs", "show", "--group", "4711"]);
    assert_eq!(
        (&merged(&report)["outcomes"], &merged(&report)["missing"]),
        (&json!({"upgraded": 2}), &json!([]))
    );
}

fn every_command_on_all_projects_takes_a_part(world: &mut World) {
    fleet(world, 12);
    for command in [
        &["status"][..],
        &["upgrade-all", "--dry-run"],
        &["check", "--all"],
        &["rehearse", "--all"],
        &["backup", "create", "--all"],
        &["schema", "drift", "--all"],
    ] {
        let parts = (1..=3).map(|part| {
            let shard = format!("{part}/3");
            let ran =
                world.run(&[&["--format", "json"], command, &["--shard", &shard, "--allow-empty"]].concat());
            Report::of(ran.stdout.as_bytes()).events("project_finished").len()
        });
        let parts: Vec<usize> = parts.collect();
        assert_eq!(parts.iter().sum::<usize>(), 12, "{command:?}: {parts:?}");
        assert!(parts.iter().all(|part| *part < 12), "{command:?}: {parts:?}");
    }
    assert_eq!(world.run(&["status", "1", "--shard", "1/3"]).code, 2);
    assert_eq!(world.run(&["status", "--shard", "4/3"]).code, 2);
    assert_eq!(world.run(&["status", "--group", "nightly"]).code, 2);
}

/// An array job of Slurm on two nodes. One of them fails while it works, and its tasks are started again on the other.
#[test]
fn a_slurm_array_upgrades_each_database_once_although_a_node_fails() {
    let size = 100 * repeated(1) as usize;
    let mut world = World::sqlite();
    let ids = fleet(&mut world, size);
    let slow = (
        "2_slow",
        "CREATE INDEX notes_text ON notes (text);\nWITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) INSERT INTO notes (text) SELECT i FROM n WHERE i = 0;\n",
    );
    world.with_migrations(&[NOTES, slow]);
    let root = env!("CARGO_MANIFEST_DIR");
    let script = format!(
        "set -eu\n\
         job=$(sbatch --parsable --array=1-8 '{root}/deploy/slurm/upgrade-all.sbatch' --jobs 1)\n\
         other=$(sbatch --parsable --array=0-1 '{root}/deploy/slurm/upgrade-all.sbatch' --jobs 1)\n\
         while ! squeue --noheader --states=RUNNING --nodelist=n1 | grep -q .; do sleep 0.02; done\n\
         while ! ls data/journal/runs/*.open >/dev/null 2>&1; do sleep 0.02; done\n\
         sleep 0.3\n\
         fail_node n1\n\
         while squeue --noheader --job $job,$other | grep -q .; do sleep 0.1; done\n\
         echo $job $other\n"
    );
    let output = Command::new(format!("{root}/scripts/slurm"))
        .args(["bash", "-c", &script])
        .current_dir(world.folder())
        .env("TENANTRY", env!("CARGO_BIN_EXE_tenantry"))
        .env("TENANTRY_STORE", world.url())
        .env("TENANTRY_MIGRATIONS", world.folder().join("migrations"))
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let jobs: Vec<&str> = stdout.split_whitespace().collect();
    // Two arrays at once: whoever comes first upgrades a project, and the other finds it up to date.
    let reports: Vec<Report> =
        jobs.iter().map(|job| world.expect(0, &["runs", "show", "--group", job])).collect();
    for id in &ids {
        assert_eq!(world.versions(id), ["1", "2"], "{id}");
        assert_eq!(
            world.query(id, "SELECT count(*) FROM tenantry_history WHERE version = '2'"),
            ["1"],
            "{id}"
        );
    }
    let count = |report: &Report, outcome: &str| merged(report)["outcomes"][outcome].as_u64().unwrap_or(0);
    assert_eq!(reports.iter().map(|report| count(report, "upgraded")).sum::<u64>(), size as u64);
    assert!(reports.iter().all(|report| merged(report)["missing"] == json!([])));
    let shards = reports.iter().flat_map(|report| merged(report)["shards"].as_array().unwrap());
    assert!(shards.into_iter().any(|shard| shard["runs"].as_u64() > Some(1)), "no task was started again");
    let logs: Vec<_> =
        std::fs::read_dir(world.folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let logs: String = logs
        .iter()
        .filter(|path| path.extension().is_some_and(|it| it == "out"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert!(!logs.contains("error") && !logs.contains("FAILED"), "{logs}");
}
