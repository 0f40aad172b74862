//! The contract of the command line: exit codes, JSON, settings, messages.

use crate::world::{Ran, World};

#[test]
fn json_is_one_object_a_line_with_a_version_and_an_event() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let report = world.expect(0, &["upgrade-all"]);
    assert!(report.0.iter().all(|event| event["v"] == 1 && event["event"].is_string()));
    let keys = |index: usize| report.0[index].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(0),
        ["v", "event", "run", "command", "store", "pattern", "projects", "dry_run"]
            .map(String::from)
            .to_vec()
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    let finished = [
        "v",
        "event",
        "project",
        "outcome",
        "from",
        "to",
        "stamped",
        "steps",
        "migrations",
        "rows",
        "problems",
        "notes",
        "error",
        "backup",
        "differences",
        "elapsed_us",
    ];
    let mut finished = finished.map(String::from).to_vec();
    finished.sort();
    assert_eq!(keys(1), finished);
    assert_eq!(report.0[2]["outcomes"], serde_json::json!({"upgraded": 1}));
    assert_eq!((&report.0[2]["exit"], report.0.len()), (&0.into(), 3));
}

#[test]
fn data_goes_to_stdout_and_messages_to_stderr() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let ran = world.run(&["upgrade-all"]);
    assert_eq!(ran.stderr, "");
    assert!(!ran.stdout.contains('\u{1b}'), "colour without a terminal");
    let ran = world.run(&["upgrade", "../1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.starts_with("error: project id") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    let ran = world.run(&["--format", "json", "upgrade", "../1"]);
    let event: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&event["event"], &event["kind"]), (&"error".into(), &"usage".into()));
    let ran = world.run(&["upgrade", "--all"]);
    assert!(ran.code == 2 && ran.stderr.contains(" upgrade-all"), "{}", ran.stderr);
    assert!(!world.run(&["check", "--all"]).stdout.contains("dry run"));
    assert_eq!(world.run(&["--quiet", "upgrade-all"]).stdout, "");
    assert!(
        world.run(&["--verbose", "upgrade-all"]).stdout.contains("1: at 20260114000000, nothing to do (")
    );
}

#[test]
fn what_is_mistyped_or_missing_is_named() {
    let world = World::sqlite();
    let told = |arguments: &[&str], wanted: &str| {
        let ran = world.run(arguments);
        let text = ran.stdout + &ran.stderr;
        assert!(text.contains(wanted), "{arguments:?} does not say {wanted:?}: {text}");
    };
    // A folder of migrations may have the name of a set in the binary.
    std::fs::create_dir_all(world.folder().join("project/1_one")).unwrap();
    std::fs::write(world.folder().join("project/1_one/up.sql"), "CREATE TABLE one (id INTEGER);").unwrap();
    told(&["--migrations", "project", "status"], "migrations in project: newest version 1_one");
    std::fs::write(
        world.folder().join("project/set.toml"),
        "[[check]]\nname = \"ours\"\nquery = \"SELECT * FROM absent\"\n",
    )
    .unwrap();
    told(&["--migrations", "project", "create", "x"], "created at 1");
    told(&["--migrations", "project", "check", "x"], "the check \"ours\" cannot be run: ");
    std::fs::remove_file(world.path("x")).unwrap();
    told(&["restore", "6"], "similar subcommand exists: 'backup restore'");
    told(&["show", "6"], "'runs show'");
    told(&["backup", "list", "77"], "no backups of 77 in ");
    told(&["check"], "<ID|--all>");
    told(&["stamp"], "<ID|--all>");
    told(&["backup", "check"], "<ID|FILE|--all>");
    // A folder without projects is not a folder that does not exist.
    assert!(!world.run(&["status"]).stdout.contains("does not exist"));
    for (arguments, wanted) in [
        (&["--store", "./data", "status"][..], "--store sqlite:./data"),
        (&["--store", "sqlite:", "status"], "names no folder"),
        (&["--migrations", "sets", "status"], "--migrations sets/mine"),
        (&["--migrations", "sets/mine/1_one", "status"], "--migrations sets/mine"),
    ] {
        std::fs::create_dir_all(world.folder().join("sets/mine/1_one")).unwrap();
        std::fs::write(world.folder().join("sets/mine/1_one/up.sql"), "CREATE TABLE one (id INTEGER);")
            .unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        let ran = crate::world::Ran::of(command.current_dir(world.folder()).args(arguments));
        assert!(ran.code == 2 && ran.stderr.contains(wanted), "{arguments:?}: {}", ran.stderr);
    }
    std::fs::write(world.path("empty"), "").unwrap();
    told(&["doctor"], "1 skipped: project_empty.db (");
    std::fs::remove_dir_all(world.data()).unwrap();
    told(&["status"], " does not exist\n        hint: if the projects are elsewhere");
}

#[test]
fn reports_say_what_is_so_of_stamps_and_restores() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    world.expect(0, &["stamp", "1"]);
    let again = world.run(&["stamp", "1"]).stdout;
    assert!(again.contains("already at 20260112000000") && !again.contains("nothing to do"), "{again}");
    world.expect(0, &["backup", "create", "1"]);
    let dry = world.run(&["backup", "restore", "1", "--dry-run"]).stdout;
    assert!(dry.contains("unless another process has it open"), "{dry}");
    let forced = world.run(&["backup", "restore", "1", "--dry-run", "--force"]).stdout;
    assert!(forced.contains("would replace 1") && !forced.contains("unless"), "{forced}");
}

#[test]
fn a_reader_that_goes_away_stops_no_run() {
    let mut world = World::sqlite();
    world.with_legacy();
    let mut command = world.command(&["--format", "json", "upgrade-all"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 11);
}

#[test]
fn many_projects_are_told_in_groups() {
    let mut world = World::sqlite();
    for number in 1..=40 {
        world.with_legacy_as(1, &number.to_string());
    }
    world.execute("7", "ALTER TABLE runs ADD COLUMN host TEXT");
    let stdout = world.run(&["upgrade-all", "--dry-run"]).stdout;
    let expected = format!(
        "{store}\nmigration set project: newest version 20260114000000_reference_foreign_keys\ndry run: nothing is changed\n\n     \
         1  BLOCKED version unknown: it has no ledger, and its schema matches no version; the closest is \
         20260112000000_complete_initial_schema: table runs: extra column host TEXT\n        7\n        hint: fix the schema, \
         or record a version despite the difference: tenantry --store {store} stamp ID --to VERSION --force\n\n    \
         39  no ledger: would record 20260112000000 and would run 20260113000000, 20260114000000\n        \
         1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, and 27 more\n\n     \
         1  note: lint warns of the migrations that run: constraint-added (3)\n        \
         hint: look at the warnings: tenantry --store {store} migration lint --since 20260112000000\n\n\
         40 projects: 1 blocked, 39 planned (",
        store = world.url()
    );
    assert!(stdout.starts_with(&expected), "{stdout}\n---\n{expected}");
}

#[test]
fn settings_come_from_flags_then_variables_then_the_file() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1").with_legacy_as(2, "2");
    let other = world.folder().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(world.path("1"), other.join("t1.db")).unwrap();
    let file = "[store]\nurl = \"sqlite:data\"\n[env.staging.store]\nurl = \"sqlite:other\"\npattern = \"t{id}.db\"\n";
    std::fs::write(world.folder().join("tenantry.toml"), file).unwrap();
    let list = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        command.current_dir(world.folder()).arg("list").args(arguments).env_remove("TENANTRY_STORE");
        command.envs(variables.iter().copied());
        Ran::of(&mut command)
    };
    assert_eq!(list(&[], &[]).stdout.lines().count(), 2);
    assert!(list(&["--env", "staging"], &[]).stdout.contains("t1.db"));
    assert!(list(&[], &[("TENANTRY_ENV", "staging")]).stdout.contains("t1.db"));
    assert_eq!(list(&["--env", "nowhere"], &[]).code, 2);
    assert_eq!(list(&[], &[("TENANTRY_STORE", "sqlite:nowhere")]).code, 6);
    assert_eq!(list(&["--store", "sqlite:data"], &[("TENANTRY_STORE", "sqlite:nowhere")]).code, 0);
    let ran = list(&["--store", "postgres://user:p@ss@host/db"], &[]);
    assert_eq!(ran.code, 1);
    assert!(!ran.stderr.contains("ss@"), "{}", ran.stderr);
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\n\nurll = 1\n").unwrap();
    let ran = list(&[], &[]);
    assert!(ran.code == 2 && ran.stderr.contains("tenantry.toml:3"), "{}", ran.stderr);
}

#[test]
fn a_new_folder_becomes_a_fleet_in_four_commands() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        Ran::of(command.current_dir(folder.path()).args(arguments).env_remove("TENANTRY_STORE"))
    };
    assert_eq!(run(&["init"]).code, 0);
    let second = run(&["init"]);
    assert!(second.code != 0 && second.stderr.contains("nothing was changed"), "{}", second.stderr);
    assert_eq!(run(&["create", "1"]).code, 2, "there is no migration yet");
    let created = run(&["migration", "new", "Add notes!"]);
    let up = folder.path().join(created.stdout.trim()).join("up.sql");
    assert!(created.stdout.trim().ends_with("_add_notes"), "{}", created.stdout);
    let empty = run(&["create", "1"]);
    assert!(
        empty.code == 2 && empty.stderr.contains("up.sql"),
        "an empty migration was run: {}",
        empty.stderr
    );
    std::fs::write(up, "CREATE TABLE notes (id INTEGER PRIMARY KEY);\n").unwrap();
    assert_ne!(run(&["migration", "new", "more"]).stdout, created.stdout);
    std::fs::remove_dir_all(folder.path().join("migrations").join("x")).ok();
    for entry in std::fs::read_dir(folder.path().join("migrations")).unwrap() {
        let path = entry.unwrap().path();
        if path.display().to_string().ends_with("_more") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    assert_eq!(run(&["create", "1"]).code, 0);
    assert!(run(&["migration", "list"]).stdout.contains("  add_notes"));
    assert_eq!(run(&["doctor"]).code, 0);
    assert_eq!(run(&["--set", "project", "migration", "new", "x"]).code, 2);
    // `migration new` refuses a number that would sort before the others as text.
    std::fs::create_dir_all(folder.path().join("short/9_last")).unwrap();
    let refused = run(&["--migrations", "short", "migration", "new", "more"]);
    assert!(
        refused.code == 2 && refused.stderr.contains("10 would sort before 9_last"),
        "{}",
        refused.stderr
    );
    std::fs::create_dir_all(folder.path().join("short/sqlite/9_last")).unwrap();
    assert!(run(&["--migrations", "short", "migration", "new", "more"]).stdout.contains("10_more"));
    // For a set in the source tree, numbering continues in that set's style.
    for (set, folder_of, next) in [
        ("foundation", "sqlite/0003_planning", "0004_more"),
        ("prompt-train", "postgres/014_members", "015_more"),
        ("architect", "sqlite/0000_init", "0001_more"),
    ] {
        let root = folder.path().join("migrations").join(set);
        std::fs::create_dir_all(root.join(folder_of)).unwrap();
        let store = if set == "prompt-train" { "postgres:///x" } else { "sqlite:data" };
        let created = run(&["--store", store, "--set", set, "migration", "new", "more"]);
        assert!(
            created.code == 0 && created.stdout.trim().ends_with(next),
            "{}{}",
            created.stdout,
            created.stderr
        );
        for script in ["up.sql", "down.sql"] {
            let text =
                std::fs::read_to_string(folder.path().join(created.stdout.trim()).join(script)).unwrap();
            assert!(text.lines().all(|line| line.is_empty() || line.starts_with("--")), "{text}");
        }
    }
}

#[test]
fn completions_and_manual_pages_are_made_from_the_commands_themselves() {
    let world = World::sqlite();
    for shell in ["bash", "zsh", "fish"] {
        let ran = world.run(&["completions", shell]);
        assert!(ran.code == 0 && ran.stdout.contains("upgrade-all"), "{shell}");
    }
    assert!(world.run(&["man"]).stdout.contains(".TH tenantry"));
    let pages = world.folder().join("man");
    assert_eq!(world.run(&["man", pages.to_str().unwrap()]).code, 0);
    assert!(pages.join("tenantry-upgrade-all.1").exists());
    assert_eq!(world.run(&["--help"]).code, 0);
    assert_eq!(world.run(&[]).code, 2);
}

#[test]
fn a_broken_store_or_set_is_named() {
    let world = World::sqlite();
    let ran = world.run(&["--set", "nothing", "status"]);
    assert!(ran.code == 2 && ran.stderr.contains("the sets are"), "{}", ran.stderr);
    assert_eq!(world.run(&["--migrations", "/nowhere", "status"]).code, 2);
    std::fs::write(world.folder().join("file"), "x").unwrap();
    for store in ["sqlite:file", "sqlite:///tmp/x", "sqlite:", "data"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        let ran = Ran::of(command.current_dir(world.folder()).args(["--store", store, "status"]));
        assert_eq!(ran.code, 2, "{store}: {}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(world.run(&["--jobs", "0", "status"]).code, 2);
    assert_eq!(world.run(&["--lock-timeout", "-1", "status"]).code, 2);
}

/// Replaces elapsed times, such as `33 ms`, by `TIME`.
fn without_times(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(" (") {
        Some((before, _)) if line.contains(" projects: ") => format!("{before} (TIME)"),
        _ => line.to_string(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_readme_shows_what_the_demo_prints() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let demo = std::fs::read_to_string(root.join("scripts/demo")).unwrap();
    let commands = demo.lines().find_map(|line| line.strip_prefix("for command in ")).unwrap();
    let mut world = World::sqlite();
    world.with_legacy();
    let mut printed = String::new();
    for command in commands.trim_end_matches("; do").split('"').map(str::trim).filter(|part| !part.is_empty())
    {
        let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        let ran =
            Ran::of(run.current_dir(world.folder()).args(command.split(' ')).env_remove("TENANTRY_STORE"));
        printed.extend(["$ tenantry ", command, "\n", &ran.stdout, "\n"]);
    }
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let shown = readme.split("<!-- demo -->\n```text\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(without_times(shown.trim_end()), without_times(printed.trim_end()));
}

#[test]
fn open_files_do_not_grow_with_the_fleet() {
    let mut world = World::sqlite();
    for number in 1..=150 {
        world.with_legacy_as(number % 11 + 1, &number.to_string());
        if number % 2 == 0 {
            world.execute(&number.to_string(), "PRAGMA journal_mode = WAL");
        }
    }
    // The limit is four files per worker plus 32, for any number of projects.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tenantry")]);
    command.current_dir(world.folder()).args(["--store", "sqlite:data", "--jobs", "8", "upgrade-all"]);
    let ran = Ran::of(&mut command);
    assert_eq!((ran.code, ran.stdout.contains("150 upgraded")), (0, true), "{}{}", ran.stdout, ran.stderr);
}
