//! Cut connections, restarted servers and killed processes: what is lost, and which temporary objects remain.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cluster::Server;
use crate::world::{Ran, Report, World};

const NOTES: (&str, &str) = ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);");

fn ids(count: usize) -> Vec<String> {
    (1..=count).map(|number| number.to_string()).collect()
}

fn fleet(world: &mut World, count: usize) {
    world.with_migrations(&[NOTES]);
    let ids = ids(count);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.expect(0, &[&["create"], ids.as_slice()].concat());
}

/// Runs a command while all connections to the fleet's database are cut at this interval.
fn run_while_cutting(world: &World, arguments: &[&str], every: Duration) -> Ran {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(every);
                world.cut_connections();
            }
        });
        // On a loaded machine a read may need many attempts.
        let ran = world.run(&[&["--format", "json", "--reconnect-timeout", "60"], arguments].concat());
        is_over.store(true, Ordering::Relaxed);
        ran
    })
}

fn left_behind(world: &World) -> Vec<String> {
    let name = &world.database().name;
    let databases = "SELECT datname FROM pg_database WHERE datname LIKE 'tenantry_scratch_%' AND \
                     NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = pg_database.datname)";
    let schemas = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenantry_%' AND nspname NOT LIKE 'tenantry_spare_%' AND nspname <> 'tenantry_journal'";
    let server = world.database().neighbour("postgres").run(&["-c", databases]);
    [server, world.database().neighbour(name).run(&["-c", schemas])].concat()
}

#[test]
fn what_only_reads_goes_on_over_another_connection() {
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    fleet(&mut world, 12);
    world.expect(0, &["backup", "create", "--all"]);
    for arguments in [
        &["status"][..],
        &["upgrade-all", "--dry-run"],
        &["check", "--all"],
        &["backup", "create", "--all"],
        &["backup", "check", "--all"],
    ] {
        let ran = run_while_cutting(&world, arguments, Duration::from_millis(700));
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(left_behind(&world), Vec::<String>::new());
}

#[test]
fn a_server_that_restarts_costs_only_what_was_in_flight() {
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    fleet(&mut world, 12);
    world.expect(0, &["backup", "create", "--all"]);
    let mut command =
        world.command(&["--format", "json", "--reconnect-timeout", "30", "backup", "check", "--all"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    server.crash();
    server.start();
    let output = child.wait_with_output().unwrap();
    let report = Report::of(&output.stdout);
    assert_eq!((output.status.code(), report.count("verified")), (Some(0), 12), "{:?}", report.0);
    // A server that cannot be reached at the start is not waited for.
    let start = std::time::Instant::now();
    let ran = Ran::of(&mut world.command_on("postgres://postgres@/nothing?host=/nowhere", &["status"]));
    assert!(ran.code == 1 && start.elapsed() < Duration::from_secs(5), "{}", ran.stderr);
}

#[test]
fn a_killed_process_leaves_nothing_that_the_next_does_not_remove() {
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    fleet(&mut world, 4);
    world.expect(0, &["backup", "create", "--all"]);
    let mut child = {
        let mut command = world.command(&["backup", "check", "--all"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    // Killed while there is something to leave behind.
    let scratch = "SELECT datname FROM pg_database WHERE datname LIKE 'tenantry_scratch_%'";
    while world.database().neighbour("postgres").run(&["-c", scratch]).is_empty() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before anything was seen: the test proves nothing"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // `pg_restore` may still be connected to the scratch database for a moment.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!left_behind(&world).is_empty(), "the kill left nothing behind: the test proves nothing");
    assert!(world.run(&["doctor"]).stdout.contains("doctor --clean"));
    world.expect(0, &["backup", "check", "1"]);
    assert_eq!(left_behind(&world), Vec::<String>::new());
    // Objects in use are not removed: a check runs while another process cleans up.
    let mut command = world.command(&["--format", "json", "backup", "check", "--all"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    for _ in 0..5 {
        world.run(&["doctor", "--clean"]);
    }
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    // A scratch schema that was committed, which tenantry itself never does, is found as well.
    world.database().run(&["-c", "CREATE SCHEMA tenantry_scratch_01a21b03577d799587fea2ac1111cabc"]);
    assert!(world.run(&["doctor"]).stdout.contains("tenantry_scratch_01a21b03577d799587fea2ac1111cabc"));
    world.expect(0, &["doctor", "--clean"]);
    assert_eq!(left_behind(&world), Vec::<String>::new());
}

/// Another fleet on the same server takes its advisory locks in its own database, where this fleet cannot see them.
#[test]
fn what_is_private_to_another_fleet_is_left_alone() {
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    fleet(&mut world, 1);
    let number = "SELECT oid FROM pg_database WHERE datname = current_database()";
    let this_fleet = format!(
        "tenantry_scratch_{}_01a21b03577d799587fea2ac1111cabc",
        world.database().run(&["-c", number])[0]
    );
    let other_fleet = "tenantry_scratch_1_01a21b03577d799587fea2ac1111cabc";
    let pooled = this_fleet.replace("_01a2", "_p_01a2");
    for name in [&this_fleet, other_fleet, &pooled] {
        world.database().run(&["-c", &format!("CREATE DATABASE {name}")]);
    }
    assert!(world.run(&["doctor"]).stdout.contains(&this_fleet));
    world.expect(0, &["backup", "create", "1"]);
    world.expect(0, &["backup", "check", "1"]);
    let remaining = "SELECT datname FROM pg_database WHERE datname LIKE 'tenantry%' ORDER BY 1";
    let mut expected = [other_fleet.to_string(), pooled];
    expected.sort();
    assert_eq!(world.database().run(&["-c", remaining]), expected);
}

/// In a set's rules, a time without a zone is UTC, regardless of the database's time zone.
#[test]
fn a_check_reads_times_as_utc_whatever_was_looked_at_before() {
    let mut world = World::postgres();
    let name = world.database().name.clone();
    world.database().run(&["-c", &format!("ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'")]);
    world.with_migrations(&[NOTES]);
    let rule = "[[check]]\nname = \"zone\"\nquery = \"SELECT current_setting('TimeZone') WHERE current_setting('TimeZone') <> 'UTC'\"\n";
    std::fs::write(world.folder().join("migrations/set.toml"), rule).unwrap();
    world.expect(0, &["create", "a"]);
    world.expect(0, &["check", "a"]);
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a"]);
}

#[test]
fn a_file_that_was_never_finished_is_removed_by_the_next_create() {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    let hidden_files = |world: &World| {
        let names =
            std::fs::read_dir(world.data()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).count()
    };
    let dead = ".project_7.db.01a21b03577d799587fea2ac1111cabc.new";
    std::fs::write(world.data().join(dead), "half").unwrap();
    // A user's file: its name does not match the names that tenantry gives.
    std::fs::write(world.data().join(".project_7.db.draft.new"), "mine").unwrap();
    // A file that a running process is writing.
    let alive = std::fs::File::create(world.data().join(dead.replace("project_7", "project_8"))).unwrap();
    alive.lock().unwrap();
    assert!(world.run(&["doctor"]).stdout.contains("doctor --clean"));
    world.expect(0, &["create", "2"]);
    assert_eq!(hidden_files(&world), 2);
    drop(alive);
    assert!(world.run(&["doctor", "--clean"]).stdout.contains("project_8"));
    assert_eq!(hidden_files(&world), 1);
}

/// If row-level security hides rows from the tables' owner, commands refuse to count only the visible rows.
#[test]
fn rows_that_a_policy_hides_are_never_taken_for_none() {
    let mut world = World::postgres();
    let role = format!("hidden_{}", &world.database().name);
    let database = &world.database().name.clone();
    world
        .database()
        .run(&["-c", &format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}")]);
    world.database().run(&["-c", &format!("ALTER ROLE {role} CREATEDB")]);
    let sql = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT, at timestamptz DEFAULT '2001-01-01');\n\
               ALTER TABLE notes ENABLE ROW LEVEL SECURITY;\nALTER TABLE notes FORCE ROW LEVEL SECURITY;\n\
               CREATE POLICY mine ON notes USING (text = current_setting('app.user', true));";
    world.with_migrations(&[("1_notes", sql)]);
    std::fs::write(
        world.folder().join("migrations/set.toml"),
        "[[retention]]\ntable = \"notes\"\ntime = \"at\"\nunit = \"timestamp\"\nage = \"1d\"\n[[check]]\nname = \"few\"\nquery = \"SELECT 1 FROM notes WHERE id > 5\"\n",
    )
    .unwrap();
    let url = world.url().replace("postgres@", &format!("{role}@"));
    let run = |world: &World, arguments: &[&str]| Ran::of(&mut world.command_on(&url, arguments));
    let created = run(&world, &["create", "a"]);
    assert_eq!(created.code, 0, "{}{}", created.stdout, created.stderr);
    world.execute("a", "INSERT INTO notes VALUES (1, 'x'), (9, 'y')");
    for arguments in [
        &["backup", "create", "a"][..],
        &["check", "a"],
        &["retain", "a"],
        &["retain", "a", "--dry-run"],
        &["export", "a"],
        &["drop", "a", "--yes"],
    ] {
        let ran = run(&world, arguments);
        let output = format!("{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code, 3, "{arguments:?}: {output}");
        assert!(
            output.contains("row-level security") && output.contains("BYPASSRLS"),
            "{arguments:?}: {output}"
        );
    }
    world.with_migrations(&[("1_notes", sql), ("2_gone", "DELETE FROM notes;")]);
    let ran = run(&world, &["upgrade", "a"]);
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(world.query("a", "SELECT count(*) FROM notes"), ["2"]);
    // A role that sees all rows gets the number of rows that would be lost.
    assert_eq!(world.expect(3, &["upgrade", "a"]).error("a").0, "rows_lost");
    world.database().run(&[
        "-c",
        &format!("DROP OWNED BY {role} CASCADE"),
        "-c",
        &format!("DROP ROLE {role}"),
    ]);
}

#[test]
fn a_restore_keeps_tables_in_their_publications() {
    let server = Server::new("wal_level = logical\n", "");
    let mut world = World::on(&server, 5432);
    world.with_migrations(&[(
        "1_one",
        "CREATE TABLE one (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER);\nCREATE TABLE two (id INTEGER);",
    )]);
    world.expect(0, &["create", "a"]);
    let publications = "CREATE PUBLICATION p FOR TABLE project_a.two; CREATE PUBLICATION s FOR TABLES IN SCHEMA project_a; \
                        CREATE PUBLICATION c FOR TABLE project_a.one (id, a) WHERE (id > 3)";
    world.database().run(&["-c", publications]);
    let published = "SELECT * FROM pg_publication_tables ORDER BY 1, 2, 3";
    let before = world.database().run(&["-c", published]);
    assert!(before.len() > 3, "{before:?}");
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "restore", "a"]);
    assert_eq!(world.database().run(&["-c", published]), before);
    let dropped = world.run(&["drop", "a", "--yes"]);
    assert_eq!(dropped.code, 0, "{}{}", dropped.stdout, dropped.stderr);
    for publication in ["c", "p"] {
        let note = format!("no longer in the publication {publication}");
        assert!(dropped.stdout.contains(&note), "{}", dropped.stdout);
    }
}

/// Objects of other schemas that depend on a project are never removed silently with it.
#[test]
fn what_depends_on_a_project_is_named_before_it_is_dropped_or_replaced() {
    let mut world = World::postgres();
    let sql = "CREATE TABLE one (id INTEGER PRIMARY KEY, a INTEGER);\nCREATE TYPE mood AS ENUM ('x');\n\
               CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';";
    world.with_migrations(&[("1_one", sql)]).expect(0, &["create", "a"]);
    world.expect(0, &["backup", "create", "a"]);
    let database = &world.database();
    database.run(&["-c", "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t (a int)"]);
    for (make, name) in [
        ("CREATE VIEW elsewhere.v AS SELECT a FROM project_a.one", "view elsewhere.v"),
        (
            "ALTER TABLE elsewhere.t ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES project_a.one (id)",
            "constraint k on table elsewhere.t",
        ),
        ("CREATE STATISTICS elsewhere.s ON id, a FROM project_a.one", "statistics object elsewhere.s"),
        ("ALTER TABLE elsewhere.t ADD COLUMN m project_a.mood", "table elsewhere.t"),
        ("ALTER TABLE elsewhere.t ADD COLUMN r project_a.one[]", "table elsewhere.t"),
        ("ALTER TABLE elsewhere.t ADD COLUMN d int DEFAULT project_a.f(1)", "default value"),
        ("CREATE INDEX i ON elsewhere.t (project_a.f(a))", "index elsewhere.i"),
    ] {
        database.run(&["-c", make]);
        for arguments in [&["drop", "a", "--yes"][..], &["backup", "restore", "a"]] {
            let ran = world.run(arguments);
            assert_eq!(ran.code, 3, "{make}: {}{}", ran.stdout, ran.stderr);
            assert!(ran.stdout.contains(name), "{make}: {}{}", ran.stdout, ran.stderr);
        }
        database.run(&[
            "-c",
            "DROP SCHEMA elsewhere CASCADE; CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t (a int)",
        ]);
    }
    // Dropping a project reports the scheduled jobs that name it.
    database.run(&["-c", "CREATE SCHEMA cron; CREATE TABLE cron.job (jobid int, command text)"]);
    database.run(&["-c", "INSERT INTO cron.job VALUES (7, 'VACUUM project_a.one'), (8, 'SELECT 1')"]);
    let dropped = world.run(&["drop", "a", "--yes"]);
    assert!(dropped.stdout.contains("the scheduled job 7 names it"), "{}{}", dropped.stdout, dropped.stderr);
    assert!(!dropped.stdout.contains("job 8"), "{}", dropped.stdout);
}
