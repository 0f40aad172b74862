//! Killed processes, failing disks and crashed servers: afterwards each project is at its old or its new version.
//!
//! The number of repetitions is small; `scripts/soak` raises it with `TENANTRY_SOAK`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::Connection;

use crate::cluster::{Pooler, Server};
use crate::world::{World, assert_sound, contents, legacy, rows};

const ALL: [&str; 3] = ["20260112000000", "20260113000000", "20260114000000"];

/// Returns `times`, multiplied by `TENANTRY_SOAK` if that is set.
pub(crate) fn repeated(times: u32) -> u32 {
    let factor = std::env::var("TENANTRY_SOAK")
        .ok()
        .map_or(1, |text| text.parse().expect("TENANTRY_SOAK is a number"));
    times * factor
}

/// The rows before the test, by project and table.
type Contents = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// The bytes of a database's file, and its rows by table.
type Prepared = (Vec<u8>, BTreeMap<String, Vec<String>>);

/// A legacy database in this journal mode. Prepared once for all tests.
fn legacy_in_mode(number: u32, mode: &str) -> Prepared {
    static PREPARED: Mutex<BTreeMap<String, Prepared>> = Mutex::new(BTreeMap::new());
    let prepare = || {
        let world = World::sqlite();
        std::fs::copy(legacy(number), world.path("1")).unwrap();
        world.execute("1", &format!("PRAGMA journal_mode = {mode}"));
        let contents = world.contents("1");
        (std::fs::read(world.path("1")).unwrap(), contents)
    };
    PREPARED.lock().unwrap().entry(format!("{mode} {number}")).or_insert_with(prepare).clone()
}

/// A fleet of copies of the legacy databases, in this journal mode, and their rows.
fn fleet(count: u32, mode: &str) -> (World, Contents) {
    let world = World::sqlite();
    let mut before = Contents::new();
    for number in 1..=count {
        let id = number.to_string();
        let (file, contents) = legacy_in_mode(number % 11 + 1, mode);
        std::fs::write(world.path(&id), file).unwrap();
        before.insert(id, contents);
    }
    (world, before)
}

/// A fleet of copies of the legacy schemas, and their rows.
fn schemas(count: u32) -> (World, Contents) {
    schemas_in(World::postgres(), count)
}

fn schemas_in(mut world: World, count: u32) -> (World, Contents) {
    let mut before = Contents::new();
    for number in 1..=count {
        let id = number.to_string();
        world.with_legacy_as(number, &id);
        if number <= 3 {
            before.insert(id, world.contents(&number.to_string()));
        } else {
            before.insert(id, before[&((number - 1) % 3 + 1).to_string()].clone());
        }
    }
    // Half of the projects already have a ledger. What is read of those without a lock is compared under the lock, not
    // read again.
    let stamped: Vec<&str> = before.keys().step_by(2).map(String::as_str).collect();
    world.expect(0, &[&["stamp"], &stamped[..]].concat());
    (world, before)
}

/// One row per schema: its name, whether it has a ledger, the number of new indexes, the number of rows in `tasks`.
const SCHEMAS: &str = "SELECT n.nspname, to_regclass(format('%I.__diesel_schema_migrations', n.nspname)) IS NOT NULL AS known,
    (SELECT count(*) FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'i' AND c.relname LIKE 'ix\\_%'),
    (xpath('//count/text()', query_to_xml(format('SELECT count(*) FROM %I.tasks', n.nspname), false, true, '')))[1]
    FROM pg_namespace n WHERE n.nspname LIKE 'project\\_%' ORDER BY 1";

/// Asserts that every schema is exactly old or exactly new. Returns how many are new. Does not compare the rows
/// themselves: that is done once, by [`assert_schemas_converge`].
fn assert_schemas_old_or_new(world: &World) -> usize {
    let lines = world.database().run(&["-c", SCHEMAS]);
    let mut new = 0;
    for line in &lines {
        let fields: Vec<&str> = line.split('|').collect();
        let id = fields[0].strip_prefix("project_").unwrap();
        match (fields[1], fields[2]) {
            ("f", "0") => {}
            ("t", "0") => assert_eq!(world.versions(id), ALL[..1], "{line}"),
            ("t", "6") => {
                assert_eq!(world.versions(id), ALL, "{line}");
                assert_eq!(world.query(id, "SELECT count(*) FROM tenantry_history"), ["3"], "{line}");
                new += 1;
            }
            _ => panic!("half new: {line}"),
        }
        assert_eq!(fields[3], "12", "{line}");
    }
    new
}

/// Asserts that another run upgrades the remaining schemas and that no row has changed.
fn assert_schemas_converge(world: &World, before: &Contents) {
    world.expect(0, &["upgrade-all"]);
    assert_eq!(assert_schemas_old_or_new(world), before.len());
    for (id, rows) in before {
        assert_eq!(&world.contents(id), rows, "project {id}");
    }
    assert_eq!(world.expect(0, &["upgrade-all"]).count("up_to_date"), before.len() as u64);
}

/// Asserts that every database is intact, has its rows, and is exactly old or exactly new. Returns how many are new.
fn assert_old_or_new(world: &World, before: &Contents) -> usize {
    let mut new = 0;
    for (id, expected) in before {
        let connection = world.connect(id);
        assert_sound(&connection);
        assert_eq!(&contents(&connection), expected, "project {id}");
        let ledger = rows(
            &connection,
            "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_\\_diesel%' ESCAPE '\\'",
        );
        let indexes =
            rows(&connection, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'ix\\_%' ESCAPE '\\'");
        if ledger == ["0"] {
            assert_eq!(indexes, ["0"], "project {id} is half new");
        } else {
            assert_eq!(
                (world.versions(id), indexes),
                (ALL.map(String::from).to_vec(), vec!["6".into()]),
                "project {id}"
            );
            assert_eq!(rows(&connection, "SELECT count(*) FROM tenantry_history"), ["3"], "project {id}");
            new += 1;
        }
    }
    new
}

fn assert_converges(world: &World, before: &Contents) {
    world.expect(0, &["upgrade-all"]);
    assert_eq!(assert_old_or_new(world, before), before.len());
    assert_eq!(world.expect(0, &["upgrade-all"]).count("up_to_date"), before.len() as u64);
}

/// A simple random number generator. The tests only need different moments in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self(u64::from(now.subsec_nanos()) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Kills a run shortly after a random number of its 40 projects is finished.
fn kill_at_random_instants(mode: &str) {
    let (mut random, mut between) = (Random::new(), 0);
    for _ in 0..repeated(8) {
        let (world, before) = fleet(40, mode);
        let mut command = world.command(&["--format", "json", "upgrade-all"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let events = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let wanted = usize::try_from(random.below(40)).unwrap();
        for _ in events.take(wanted) {}
        std::thread::sleep(Duration::from_micros(random.below(5_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let new = assert_old_or_new(&world, &before);
        between += usize::from(new > 0 && new < 40);
        assert_converges(&world, &before);
    }
    eprintln!("{mode}: {between} of {} kills happened between the first and the last project", repeated(8));
}

#[test]
fn a_kill_at_any_instant_leaves_every_project_old_or_new_with_a_rollback_journal() {
    kill_at_random_instants("DELETE");
}

#[test]
fn a_kill_at_any_instant_leaves_every_project_old_or_new_with_a_wal() {
    kill_at_random_instants("WAL");
}

/// Compiles `fault.c`, which is preloaded to make the n-th file operation fail. Returns the library's path.
pub(crate) fn fault_library(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fault.c");
    let library = folder.join("fault.so");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(command.status().expect("the C compiler runs").success());
    library
}

/// Runs a command whose `at`-th file operation fails. Returns `None` if the command has fewer operations; it then
/// succeeded.
pub(crate) fn run_with_fault(
    world: &World,
    arguments: &[&str],
    library: &Path,
    how: &str,
    at: u32,
) -> Option<ExitStatus> {
    let mark = world.folder().join("mark");
    let mut command = world.command(&[&["--jobs", "1"], arguments].concat());
    command
        .env("LD_PRELOAD", library)
        .env("FAULT_AT", at.to_string())
        .env("FAULT_HOW", how)
        .env("FAULT_MARK", &mark);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    if mark.exists() {
        return Some(status);
    }
    assert!(status.success(), "the command failed without a fault");
    None
}

fn fault_at_every_operation(how: &str, mode: &str) {
    let tools = tempfile::tempdir().unwrap();
    let library = fault_library(tools.path());
    let mut at = 1;
    loop {
        let (world, before) = fleet(2, mode);
        let Some(status) = run_with_fault(&world, &["upgrade-all"], &library, how, at) else { break };
        let new = assert_old_or_new(&world, &before);
        if status.success() {
            assert_eq!(new, 2, "{how} at operation {at}: reported as done, but is not");
        }
        assert_converges(&world, &before);
        at += 1;
    }
    assert!(at > 40, "only {at} operations: the library was not loaded");
    eprintln!("{how}, {mode}: {} operations", at - 1);
}

#[test]
fn trap_22_a_kill_at_every_operation_with_a_rollback_journal() {
    fault_at_every_operation("kill", "DELETE");
}

#[test]
fn trap_22_a_kill_at_every_operation_with_a_wal() {
    fault_at_every_operation("kill", "WAL");
}

#[test]
fn trap_22_an_io_error_at_every_operation_with_a_rollback_journal() {
    fault_at_every_operation("eio", "DELETE");
}

#[test]
fn trap_22_an_io_error_at_every_operation_with_a_wal() {
    fault_at_every_operation("eio", "WAL");
}

#[test]
fn trap_22_a_full_disk_at_every_operation_with_a_rollback_journal() {
    fault_at_every_operation("enospc", "DELETE");
}

#[test]
fn trap_22_a_full_disk_at_every_operation_with_a_wal() {
    fault_at_every_operation("enospc", "WAL");
}

#[test]
fn trap_22_a_create_is_whole_or_not_at_every_operation() {
    let tools = tempfile::tempdir().unwrap();
    let library = fault_library(tools.path());
    for how in ["kill", "eio", "enospc"] {
        let mut at = 1;
        loop {
            let world = World::sqlite();
            if run_with_fault(&world, &["create", "1", "2"], &library, how, at).is_none() {
                break;
            }
            // Existing projects are complete, and missing ones can be created.
            let report = world.expect(0, &["status", "--allow-empty"]);
            let complete = report.count("up_to_date");
            assert_eq!(report.events("project_finished").len() as u64, complete, "{how} at operation {at}");
            for id in ["1", "2"].into_iter().filter(|id| !world.path(id).exists()) {
                world.expect(0, &["create", id]);
            }
            for id in ["1", "2"] {
                assert_sound(&Connection::open(world.path(id)).unwrap());
            }
            at += 1;
        }
        assert!(at > 6, "only {at} operations: the library was not loaded");
    }
}

#[test]
fn trap_7_four_runs_at_once_do_every_migration_once() {
    for _ in 0..repeated(2) {
        let (world, before) = fleet(100, "DELETE");
        world.upgrade_four_times_at_once(&world.url());
        assert_eq!(assert_old_or_new(&world, &before), 100);
    }
}

#[test]
fn trap_7_four_runs_at_once_do_a_migration_outside_a_transaction_once() {
    // Takes long enough for the runs to overlap in it.
    const OUTSIDE: &str = "CREATE TABLE two (id INTEGER);\n\
        INSERT INTO two WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT i FROM n;\n\
        -- metadata\nrun_in_transaction = false\n";
    let migrations = [
        ("1_one", "CREATE TABLE one (id INTEGER);"),
        ("2_two", OUTSIDE),
        ("3_three", "CREATE TABLE three (id INTEGER);"),
    ];
    let ids: Vec<String> = (1..=4).map(|id| id.to_string()).collect();
    for mode in ["DELETE", "WAL"] {
        let mut world = World::sqlite();
        world.with_migrations(&migrations[..1]);
        world.expect(0, &std::iter::once("create").chain(ids.iter().map(String::as_str)).collect::<Vec<_>>());
        for id in &ids {
            world.execute(id, &format!("PRAGMA journal_mode = {mode}"));
        }
        world.with_migrations(&migrations);
        world.upgrade_four_times_at_once(&world.url());
        for id in &ids {
            let history = world.query(id, "SELECT version, action FROM tenantry_history ORDER BY sequence");
            assert_eq!(history, ["1|apply", "2|start", "2|apply", "3|apply"], "{mode} {id}");
            assert_eq!(world.query(id, "SELECT count(*) FROM two"), ["200000"]);
        }
    }
}

#[test]
fn an_interruption_finishes_what_is_begun_and_says_so() {
    let (world, before) = fleet(60, "DELETE");
    let mut command = world.command(&["--format", "json", "--jobs", "1", "upgrade-all"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut printed = Vec::new();
    while !printed.iter().any(|line: &String| line.contains("upgraded")) {
        printed.push(lines.next().unwrap().unwrap());
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    printed.extend(lines.map(Result::unwrap));
    assert_eq!(child.wait().unwrap().code(), Some(130), "{printed:?}");
    let last: serde_json::Value = serde_json::from_str(printed.last().unwrap()).unwrap();
    assert_eq!(last["exit"], 130);
    let upgraded = usize::try_from(last["outcomes"]["upgraded"].as_u64().unwrap()).unwrap();
    assert_eq!(assert_old_or_new(&world, &before), upgraded);
    assert!(last["outcomes"]["not_started"].as_u64().unwrap() > 0);
    assert_converges(&world, &before);
}

/// Starts a command in the background and discards its output.
fn spawn(world: &World, arguments: &[&str]) -> std::process::Child {
    world.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn trap_23_a_kill_of_the_client_at_any_instant_leaves_every_schema_old_or_new() {
    let (mut random, mut between) = (Random::new(), 0);
    let (world, before) = schemas(12);
    for _ in 0..repeated(4) {
        let world = world.copy();
        let mut command = world.command(&["--format", "json", "--jobs", "2", "upgrade-all"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let events = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        for _ in events.take(1 + usize::try_from(random.below(8)).unwrap()) {}
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // The server completes or rolls back the killed client's transaction by itself.
        world.wait_until_alone();
        let new = assert_schemas_old_or_new(&world);
        between += usize::from(new > 0 && new < before.len());
        assert_schemas_converge(&world, &before);
    }
    eprintln!("{between} of {} kills happened between the first and the last project", repeated(4));
    assert!(between > 0, "no kill hit a run in progress: the test proves nothing");
}

#[test]
fn workers_whose_connection_is_cut_fail_alone_and_a_rerun_does_the_rest() {
    let (mut random, mut cut) = (Random::new(), 0);
    let (world, before) = schemas(12);
    for _ in 0..repeated(3) {
        let world = world.copy();
        let mut child = spawn(&world, &["upgrade-all"]);
        while child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(10_000 + random.below(40_000)));
            cut += world.cut_connections();
        }
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 1 | 3)), "{code:?} after {cut} cuts");
        assert_schemas_old_or_new(&world);
        assert_schemas_converge(&world, &before);
    }
    assert!(cut > 0, "no connection was cut: the test proves nothing");
}

#[test]
fn trap_7_four_runs_at_once_do_every_migration_of_a_schema_once() {
    let (world, before) = schemas(if repeated(1) > 1 { 200 } else { 40 });
    for _ in 0..repeated(1) {
        let world = world.copy();
        world.upgrade_four_times_at_once(&world.url());
        assert_eq!(assert_schemas_old_or_new(&world), before.len());
        assert_schemas_converge(&world, &before);
    }
}

#[test]
fn trap_31_four_runs_at_once_through_a_pooler_do_every_migration_once() {
    let (world, before) = schemas(if repeated(1) > 1 { 200 } else { 12 });
    let pooler = Pooler::new(&world.database().socket, "");
    for _ in 0..repeated(1) {
        let world = world.copy();
        world.upgrade_four_times_at_once(&pooler.url(world.database()));
        assert_eq!(assert_schemas_old_or_new(&world), before.len());
        assert_schemas_converge(&world, &before);
    }
}

#[test]
fn trap_24_a_blocked_table_fails_its_project_alone_and_holds_no_reader_up() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);");
    world.with_migrations(&[one]).expect(0, &["create", "1", "2", "3"]);
    world.with_migrations(&[one, ("2_column", "ALTER TABLE one ADD COLUMN y TEXT;")]);
    let holder = world.application("2", "BEGIN; SELECT count(*) FROM one");
    let run = || {
        let mut command = world.command(&["--format", "json", "--lock-timeout", "0.3", "upgrade-all"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = run();
    let mut longest = Duration::ZERO;
    let mut child = child;
    while child.try_wait().unwrap().is_none() {
        let started = std::time::Instant::now();
        world.query("2", "SELECT count(*) FROM one");
        longest = longest.max(started.elapsed());
    }
    let output = child.wait_with_output().unwrap();
    let report = crate::world::Report::of(&output.stdout);
    assert_eq!(report.error("2").0, "locked", "{:?}", report.0);
    assert_eq!((report.outcome("1"), report.outcome("3")), ("upgraded", "upgraded"));
    // The lock timeout of 0.3 seconds, plus the start of a `psql` on a busy machine.
    assert!(longest < Duration::from_secs(2), "a reader waited {longest:?}");
    assert_eq!(world.expect(3, &["--lock-timeout", "0.1", "upgrade-all"]).error("2").0, "locked");
    drop(holder);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("2"), "upgraded");
}

#[test]
fn trap_25_an_index_that_was_left_invalid_is_found_and_named() {
    const OUTSIDE: &str = "\n-- metadata\nrun_in_transaction = false\n";
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO one (x) VALUES ('twice'), ('twice')");
    let index = format!("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS ix ON one (x);{OUTSIDE}");
    world.with_migrations(&[one, ("2_index", &index)]);
    assert_eq!(world.expect(3, &["upgrade-all"]).error("a").0, "migration");
    assert_eq!(world.expect(4, &["upgrade-all"]).problem("a").0, "dirty");
    // Postgres keeps the invalid index, and `IF NOT EXISTS` would treat it as complete.
    world.execute("a", "DELETE FROM one WHERE id = 2");
    let stamped = world.run(&["stamp", "a", "--to", "1", "--force"]);
    assert!(stamped.code == 0 && !stamped.stdout.contains("no ledger"), "{}", stamped.stdout);
    let report = world.expect(4, &["upgrade-all"]);
    assert!(report.problem("a").1.contains("extra index ix"), "{:?}", report.problem("a"));
    assert_eq!(world.expect(4, &["stamp", "a", "--to", "2"]).outcome("a"), "blocked");
    world.execute("a", "DROP INDEX ix");
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

#[test]
fn trap_25_runs_that_wait_for_an_index_built_concurrently_do_not_stop_it() {
    const OUTSIDE: &str = "\n-- metadata\nrun_in_transaction = false\n";
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO one (x) SELECT md5(n::text) FROM generate_series(1, 200000) n");
    let index = format!("CREATE INDEX CONCURRENTLY ix ON one (x);{OUTSIDE}");
    world.with_migrations(&[one, ("2_index", &index), ("3_three", "CREATE TABLE three (id INTEGER);")]);
    world.upgrade_four_times_at_once(&world.url());
    let history = world.query("a", "SELECT version, action FROM tenantry_history ORDER BY sequence");
    assert_eq!(history, ["1|apply", "2|start", "2|apply", "3|apply"]);
    world.assert_sound("a");
}

#[test]
fn a_server_that_crashes_in_a_run_leaves_every_schema_old_or_new() {
    let server = Server::new("fsync = on", "");
    let (world, before) = schemas_in(World::on(&server, 5432), 24);
    let mut between = 0;
    for _ in 0..repeated(2) {
        let world = world.copy();
        let mut command = world.command(&["--format", "json", "--jobs", "2", "upgrade-all"]);
        // The journal is elsewhere: a run that loses it stops.
        command.env("TENANTRY_JOURNAL_DIR", world.folder().join("journal"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut reported = Vec::new();
        let mut crashed = false;
        for line in std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap())) {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if event["outcome"] == "upgraded" {
                reported.push(event["project"].as_str().unwrap().to_string());
                if !std::mem::replace(&mut crashed, true) {
                    server.crash();
                }
            }
        }
        assert!(crashed, "the run ended before the crash");
        assert_eq!(child.wait().unwrap().code(), Some(3));
        server.start();
        // Every project that was reported as upgraded is on disk, whatever else the server had not yet written.
        for id in &reported {
            assert_eq!(world.versions(id), ALL, "{id} was reported as upgraded");
        }
        let new = assert_schemas_old_or_new(&world);
        between += usize::from(new > 0 && new < before.len());
        assert_schemas_converge(&world, &before);
    }
    assert!(between > 0, "no crash hit a run in progress: the test proves nothing");
}
