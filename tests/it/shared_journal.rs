//! A journal in a Postgres database, which everybody who uses the fleet shares.

use std::process::Stdio;

use crate::cluster::{Database, Server};
use crate::faults::repeated;
use crate::journal::{INDEX, NOTES};
use crate::world::{Ran, World};

fn fleet() -> World {
    let mut world = World::postgres();
    world.with_migrations(&[NOTES]);
    world
}

#[test]
fn six_processes_append_to_one_chain() {
    let world = fleet();
    world.expect(0, &["create", "0"]);
    let each = 17 * repeated(1);
    std::thread::scope(|scope| {
        for process in 1..=6 {
            let world = &world;
            scope.spawn(move || {
                for number in 0..each {
                    world.expect(0, &["create", &format!("p{process}-{number}")]);
                }
            });
        }
    });
    let verified = world.expect(0, &["audit", "verify"]);
    assert_eq!(verified.0[0]["verified"]["anchor"]["count"], 2 + 12 * each);
    assert_eq!(world.expect(0, &["runs", "list"]).events("run").len(), 1 + 6 * each as usize);
}

#[test]
fn a_changed_entry_in_the_database_is_found() {
    let world = fleet();
    for id in ["1", "2", "3"] {
        world.expect(0, &["create", id]);
    }
    let anchor = world.run(&["audit", "anchor"]).stdout.trim().to_string();
    let sql = |sql: &str| drop(world.database().run(&["-c", sql]));
    sql("CREATE TABLE public.kept AS SELECT * FROM tenantry_journal.entries");
    let plain = &["audit", "verify"][..];
    let anchored = &["audit", "verify", "--anchor", &anchor][..];
    for (attack, arguments, found) in [
        (
            "UPDATE tenantry_journal.entries SET line = replace(line, 'create', 'remove') WHERE number = 2",
            plain,
            "entry 2",
        ),
        ("DELETE FROM tenantry_journal.entries WHERE number = 3", plain, "entry 4 follows entry 2"),
        ("DELETE FROM tenantry_journal.entries WHERE number = 1", plain, "begins with entry 2"),
        ("DELETE FROM tenantry_journal.entries WHERE number > 4", anchored, "cut off"),
        (
            "UPDATE tenantry_journal.entries SET number = 100 WHERE number = 2; \
             UPDATE tenantry_journal.entries SET number = 2 WHERE number = 3; \
             UPDATE tenantry_journal.entries SET number = 3 WHERE number = 100",
            plain,
            "entry 3 follows entry 1",
        ),
    ] {
        sql(attack);
        let ran = world.run(arguments);
        assert!(ran.code == 1 && ran.stderr.contains(found), "{attack}: {}", ran.stderr);
        sql(
            "TRUNCATE tenantry_journal.entries; INSERT INTO tenantry_journal.entries SELECT * FROM public.kept",
        );
        world.expect(0, anchored);
    }
    // Old entries are pruned as those of a file are.
    assert!(world.run(&["audit", "prune", "--older-than", "0s"]).stdout.starts_with("5 "));
    world.expect(0, &["create", "4"]);
    world.expect(0, anchored);
}

#[test]
fn a_role_that_may_only_read_can_verify_and_change_nothing() {
    let world = fleet();
    world.expect(0, &["create", "1"]);
    let role = format!("auditor_{}", uuid::Uuid::now_v7().simple());
    let sql = |sql: &str| drop(world.database().run(&["-c", sql]));
    sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA tenantry_journal TO {role}; \
         GRANT SELECT ON ALL TABLES IN SCHEMA tenantry_journal TO {role}"
    ));
    let url = world.url().replace("postgres://postgres@", &format!("postgres://{role}@"));
    let run =
        |arguments: &[&str]| Ran::of(world.command_on(&url, arguments).env_remove("TENANTRY_JOURNAL_URL"));
    for arguments in [&["audit", "verify"][..], &["audit", "show"], &["runs", "list"]] {
        let ran = run(arguments);
        assert!(ran.code == 0 && !ran.stdout.is_empty(), "{arguments:?}: {}", ran.stderr);
    }
    let before = world.snapshot();
    let refused = run(&["create", "2"]);
    assert!(refused.code != 0, "{}", refused.stdout);
    assert_eq!(before, world.snapshot());
    assert_eq!(world.expect(0, &["audit", "verify"]).0[0]["verified"]["anchor"]["count"], 2);
    sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn the_journal_of_a_folder_is_copied_and_its_chain_goes_on() {
    let mut world = fleet();
    let folder = world.folder().join("old");
    let with_folder = |world: &World, arguments: &[&str]| {
        let ran = Ran::of(world.command(arguments).env("TENANTRY_JOURNAL_DIR", &folder));
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        ran.stdout
    };
    with_folder(&world, &["create", "1", "2"]);
    world.with_migrations(&[NOTES, INDEX]);
    let report = with_folder(&world, &["--format", "json", "upgrade-all"]);
    let anchor = with_folder(&world, &["audit", "anchor"]).trim().to_string();
    assert_eq!(
        world.run(&["audit", "import", &folder.display().to_string()]).stdout,
        "4 entries copied and verified\n"
    );
    world.expect(0, &["audit", "verify", "--anchor", &anchor, "--exact"]);
    // Its runs can be shown and rolled back.
    let run = serde_json::from_str::<serde_json::Value>(report.lines().next().unwrap()).unwrap();
    let run = run["run"].as_str().unwrap();
    assert_eq!(world.expect(0, &["runs", "show", run]).outcome("1"), "upgraded");
    assert_eq!(world.expect(0, &["runs", "rollback", run]).count("downgraded"), 2);
    world.expect(0, &["audit", "verify", "--anchor", &anchor]);
    let again = world.run(&["audit", "import", &folder.display().to_string()]);
    assert!(again.code != 0 && again.stderr.contains("has entries"), "{}", again.stderr);
    world.expect(0, &["audit", "verify", "--anchor", &anchor]);
    let missing = fleet().run(&["audit", "import", "nowhere"]);
    assert!(missing.code != 0 && missing.stderr.contains("there is no journal"), "{}", missing.stderr);
    // A damaged one is not copied.
    let file = folder.join("journal.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("create", "remove", 1)).unwrap();
    let other = fleet();
    let damaged = other.run(&["audit", "import", &folder.display().to_string()]);
    assert!(damaged.code == 1 && damaged.stderr.contains("damaged"), "{}", damaged.stderr);
}

/// A journal elsewhere: nothing is changed while it cannot be reached, and SQLite stores can have one in a database.
#[test]
fn a_journal_can_be_in_another_database() {
    let server = Server::new("", "");
    let database = Database::on(&server.socket(), 5432, "template0");
    let url = format!("postgres://postgres:secret@/{}?host={}", database.name, server.socket());
    for mut world in [World::sqlite(), World::postgres()] {
        world.with_migrations(&[NOTES]);
        std::fs::write(world.folder().join("tenantry.toml"), format!("[journal]\nurl = \"{url}\"\n"))
            .unwrap();
        world.expect(0, &["create", "1"]);
        let list = world.run(&["runs", "list"]);
        assert!(list.stdout.contains("create"), "{}", list.stdout);
        database.run(&["-c", "DROP SCHEMA tenantry_journal CASCADE"]);
    }
    server.crash();
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]);
    std::fs::write(world.folder().join("tenantry.toml"), format!("[journal]\nurl = \"{url}\"\n")).unwrap();
    let refused = world.run(&["create", "1"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("the journal: cannot connect"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    assert!(world.files().is_empty(), "{:?}", world.files().keys());
    let both = format!("[journal]\nurl = \"{url}\"\ndir = \"x\"\n");
    std::fs::write(world.folder().join("tenantry.toml"), both).unwrap();
    assert_eq!(world.run(&["status"]).code, 2);
}

/// A run whose connection to the journal is cut opens another one, and records everything.
#[test]
fn a_run_whose_journal_is_cut_off_for_a_moment_records_everything() {
    let (mut world, journal) = (World::sqlite(), Database::new());
    let url = format!("postgres://postgres@:{}/{}?host={}", journal.port, journal.name, journal.socket);
    std::fs::write(world.folder().join("tenantry.toml"), format!("[journal]\nurl = \"{url}\"\n")).unwrap();
    world.with_migrations(&[NOTES]);
    let ids: Vec<String> = (1..=12).map(|id| id.to_string()).collect();
    world.expect(0, &[&["create"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    world.with_migrations(&[NOTES, INDEX]);
    let (output, run) = with_a_gate(&world, |_| {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        assert_ne!(journal.run(&["-c", cut]), ["0"]);
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = world.expect(0, &["runs", "show", &run]);
    for id in &ids {
        assert_eq!(
            shown.events("project_finished").iter().filter(|it| it["project"] == **id).count(),
            1,
            "{id}"
        );
    }
    world.expect(0, &["audit", "verify"]);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 12);
    journal.drop();
}

/// A server that crashes may lose the last events, which were committed asynchronously. They are sent again.
#[test]
fn events_that_the_server_lost_are_sent_again() {
    let (mut world, journal) = (World::sqlite(), Database::new());
    let url = format!("postgres://postgres@:{}/{}?host={}", journal.port, journal.name, journal.socket);
    std::fs::write(world.folder().join("tenantry.toml"), format!("[journal]\nurl = \"{url}\"\n")).unwrap();
    world.with_migrations(&[NOTES]);
    world.expect(0, &["create", "1", "2", "3"]);
    world.with_migrations(&[NOTES, INDEX]);
    let (output, run) = with_a_gate(&world, |run| {
        // What a crash leaves: a part of the events, and no connection.
        let lose = format!("DELETE FROM tenantry_journal.events WHERE run = '{run}' AND number > 2");
        journal.run(&["-c", &lose]);
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        journal.run(&["-c", cut]);
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.expect(0, &["runs", "show", &run]).events("project_finished").len(), 3);
    world.expect(0, &["audit", "verify"]);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 3);
    journal.drop();
}

/// A run whose journal is gone for longer stops, and says so. What it did is read from the ledgers later.
#[test]
fn a_run_that_loses_its_journal_stops_and_is_completed_later() {
    let server = Server::new("", "");
    let database = Database::on(&server.socket(), 5432, "template0");
    let mut world = World::sqlite();
    let settings = format!(
        "[run]\nreconnect_timeout = 0.5\njobs = 1\n[journal]\nurl = \"postgres://postgres@/{}?host={}\"\n",
        database.name,
        server.socket()
    );
    std::fs::write(world.folder().join("tenantry.toml"), settings).unwrap();
    world.with_migrations(&[NOTES]);
    let ids: Vec<String> = (1..=12).map(|id| id.to_string()).collect();
    world.expect(0, &[&["create"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    world.with_migrations(&[NOTES, INDEX]);
    let (output, run) = with_a_gate(&world, |_| server.crash());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("journal"), "{stderr}");
    let upgraded = ids.iter().filter(|id| world.versions(id).len() == 2).count();
    assert!((1..4).contains(&upgraded), "{upgraded}");
    server.start();
    // The gate of the first wave runs again, and does not wait this time.
    std::fs::remove_file(world.folder().join("go")).unwrap();
    std::fs::write(world.folder().join("go"), "go\n").unwrap();
    let resumed = world.expect(0, &["runs", "resume", &run]);
    assert_eq!(resumed.events("killed_run").len(), 1);
    assert_eq!(resumed.count("upgraded"), 12 - upgraded as u64);
    world.expect(0, &["audit", "verify"]);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 12);
}

/// A process that lost its run to another one records nothing more.
#[test]
fn a_run_that_another_process_has_taken_over_is_left_to_it() {
    let (mut world, journal) = (World::sqlite(), Database::new());
    let url = format!("postgres://postgres@:{}/{}?host={}", journal.port, journal.name, journal.socket);
    let settings = format!("[run]\nreconnect_timeout = 0.5\n[journal]\nurl = \"{url}\"\n");
    std::fs::write(world.folder().join("tenantry.toml"), settings).unwrap();
    world.with_migrations(&[NOTES]);
    world.expect(0, &["create", "1", "2", "3"]);
    world.with_migrations(&[NOTES, INDEX]);
    let mut other = None;
    let (output, run) = with_a_gate(&world, |run| {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        journal.run(&["-c", cut]);
        let hold = format!(
            "SELECT pg_advisory_lock(hashtextextended('tenantry run ' || '{run}', 0)); SELECT pg_sleep(60)"
        );
        other = Some(journal.psql(None).args(["-c", &hold]).stdout(Stdio::null()).spawn().unwrap());
        let is_held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
        while journal.run(&["-c", is_held]) == ["0"] {}
    });
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let open = format!("SELECT count(*) FROM tenantry_journal.runs WHERE run = '{run}'");
    assert_eq!(journal.run(&["-c", &open]), ["1"]);
    let ended = "SELECT count(*) FROM tenantry_journal.entries WHERE line LIKE '%upgrade-all%run_finished%' \
                 OR line LIKE '%run_finished%upgrade-all%'";
    assert_eq!(journal.run(&["-c", ended]), ["0"]);
    let mut other = other.unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    journal.drop();
}

/// Upgrades with one canary, and does something while the gate after it waits.
fn with_a_gate(world: &World, at_the_gate: impl FnOnce(&str)) -> (std::process::Output, String) {
    use std::io::{BufRead as _, BufReader, Read as _};
    assert!(std::process::Command::new("mkfifo").arg(world.folder().join("go")).status().unwrap().success());
    let gate = "test $TENANTRY_WAVE != 1 || read line < go";
    let arguments = ["--format", "json", "--jobs", "1", "upgrade-all", "--canary", "1", "--gate", gate];
    let mut child = world.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut events =
        lines.by_ref().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let run = events.next().unwrap()["run"].as_str().unwrap().to_string();
    assert!(events.any(|event| event["event"] == "project_finished"));
    at_the_gate(&run);
    std::fs::write(world.folder().join("go"), "go\n").unwrap();
    for _ in lines {}
    let mut stderr = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    (std::process::Output { status: child.wait().unwrap(), stdout: Vec::new(), stderr }, run)
}
