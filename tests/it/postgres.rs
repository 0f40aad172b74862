//! Behaviour of Postgres stores only: schemas, settings, locks, roles, restarts.

use std::process::Stdio;
use std::time::Duration;

use crate::cluster::Server;
use crate::connections::run_on;
use crate::world::World;

#[test]
fn trap_27_an_id_that_is_no_schemas_name_is_refused_before_anything_is_connected_to() {
    let world = World::postgres();
    let long = "x".repeat(56);
    for id in ["Abc", "a\"b", "x\"; DROP SCHEMA y", &long, &format!("{long}y")] {
        for arguments in [["create", id], ["upgrade", id], ["status", id]] {
            let ran = run_on(&world, "postgres://nobody@/nothing?host=/nowhere", &arguments);
            assert_eq!(ran.code, 2, "{id}: {}", ran.stderr);
            assert!(ran.stderr.contains("project"), "{}", ran.stderr);
        }
    }
    let longest = "x".repeat(55);
    world.expect(0, &["create", &longest]);
    assert_eq!(world.run(&["list"]).stdout.lines().count(), 1);
}

#[test]
fn trap_9_a_migration_that_changes_the_search_path_is_refused() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER);");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    let before = world.snapshot();
    for text in [
        "SET search_path = public;",
        "SET LOCAL search_path TO public;",
        "RESET search_path;",
        "SET SCHEMA 'public';",
        "SET ROLE postgres;",
        "RESET ALL;",
        "DISCARD ALL;",
        "CREATE TABLE public.two (id INTEGER);",
        "DROP TABLE other.two;",
        "CREATE SCHEMA other;",
        "ALTER TABLE one SET SCHEMA public;",
        "CREATE DATABASE two;",
    ] {
        world.with_migrations(&[one, ("2_two", text)]);
        let ran = world.run(&["upgrade-all"]);
        assert!(
            ran.code == 2 && ran.stderr.contains("2_two/up.sql:1"),
            "{text}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    // A change that is not visible in the text is detected after the script has run.
    for text in ["SELECT set_config('search_path', 'public', true);", "SET \"search_path\" = public;"] {
        world.with_migrations(&[one, ("2_two", text)]);
        let ran = world.run(&["upgrade-all"]);
        assert!(
            ran.code == 2 && ran.stderr.contains("changes the search_path"),
            "{text}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    assert_eq!(before, world.snapshot());
}

#[test]
fn a_setting_that_a_migration_makes_does_not_reach_the_next_project() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);");
    world.with_migrations(&[one]).expect(0, &["create", "1", "2", "3"]);
    let settings =
        "SET lock_timeout = 0;\nSET standard_conforming_strings = off;\nALTER TABLE one ADD COLUMN y TEXT;";
    world.with_migrations(&[one, ("2_odd", settings)]);
    let holder = world.application("2", "BEGIN; SELECT count(*) FROM one");
    // With one worker, the second project uses the same connection after the first.
    let later = [one, ("2_odd", settings), ("3_later", "ALTER TABLE one ADD COLUMN z TEXT DEFAULT 'a\\b';")];
    assert_eq!(world.expect(0, &["--jobs", "1", "upgrade", "1"]).outcome("1"), "upgraded");
    drop(holder);
    world.with_migrations(&later);
    assert_eq!(world.expect(0, &["--jobs", "1", "upgrade-all"]).count("upgraded"), 3);
    world.with_migrations(&[
        one,
        ("2_odd", settings),
        later[2],
        ("4_last", "ALTER TABLE one ADD COLUMN w TEXT;"),
    ]);
    let holder = world.application("2", "BEGIN; SELECT count(*) FROM one");
    let report = world.expect(3, &["--jobs", "1", "--lock-timeout", "0.2", "upgrade-all"]);
    assert_eq!((report.count("upgraded"), report.error("2").0), (2, "locked"));
    drop(holder);
}

#[test]
fn a_statement_that_takes_too_long_is_ended_and_named_and_no_question_of_tenantrys_is() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER);\nINSERT INTO one VALUES (1);");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    // The script is slow only on this row, which the reference does not have.
    world.execute("a", "INSERT INTO one VALUES (2)");
    let slow = "CREATE TABLE two (id INTEGER);\nUPDATE one SET id = id WHERE CASE id WHEN 2 THEN pg_sleep(3) IS NULL END;";
    for metadata in ["", "\n-- metadata\nrun_in_transaction = false\n"] {
        world.with_migrations(&[one, ("2_slow", &format!("{slow}{metadata}"))]);
        let report = world.expect(3, &["--statement-timeout", "0.5", "upgrade-all"]);
        let error = &report.project("a")["error"];
        assert_eq!((&error["kind"], &error["migration"]), (&"timeout".into(), &"2_slow".into()), "{error}");
    }
    // The statement timeout does not apply to tenantry's own queries.
    let holder = world.application("a", "BEGIN; LOCK TABLE __diesel_schema_migrations");
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1200));
        drop(holder);
    });
    assert_eq!(world.expect(4, &["--statement-timeout", "0.3", "status"]).problem("a").0, "dirty");
    releasing.join().unwrap();
}

#[test]
fn an_index_built_concurrently_waits_for_others_as_long_as_it_takes() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    let index = "CREATE INDEX CONCURRENTLY ix ON one (x);\n-- metadata\nrun_in_transaction = false\n";
    world.with_migrations(&[one, ("2_index", index)]);
    let holder = world.application("a", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM one");
    let mut command = world.command(&["--lock-timeout", "0.2", "upgrade-all"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    drop(holder);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    world.assert_sound("a");
}

#[test]
fn trap_26_the_locks_of_a_server_do_not_run_out_over_many_schemas() {
    let server = Server::new(
        "max_locks_per_transaction = 20\nmax_connections = 16\nmax_wal_senders = 0\nautovacuum_max_workers = 1\nmax_worker_processes = 1",
        "",
    );
    let mut world = World::on(&server, 5432);
    let tables = |text: &dyn Fn(usize) -> String| (1..=3).map(text).collect::<String>();
    let first = tables(&|number| format!("CREATE TABLE t{number} (id INTEGER PRIMARY KEY, text TEXT);\n"));
    let second = tables(&|number| format!("ALTER TABLE t{number} ADD COLUMN more TEXT;\n"));
    world.with_migrations(&[("1_first", &first)]);
    let ids: Vec<String> = (1..=250).map(|number| number.to_string()).collect();
    world.expect(0, &[&["create"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    // A single transaction over all schemas runs out of locks.
    let all_at_once = "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT oid FROM pg_class WHERE relname ~ '^t[0-9]+$' LOOP \
                       EXECUTE format('SELECT FROM %s WHERE id = 1', t); END LOOP; END $$";
    let refused = world.database().psql(None).args(["-c", all_at_once]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("out of shared memory"),
        "the server's lock table has room for all schemas"
    );
    world.with_migrations(&[("1_first", &first), ("2_second", &second)]);
    assert_eq!(world.expect(0, &["upgrade-all", "--dry-run"]).count("planned"), 250);
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 250);
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 250);
    assert_eq!(world.expect(0, &["backup", "create", "1", "75", "250"]).count("backed_up"), 3);
    assert_eq!(world.expect(0, &["check", "--all"]).count("checked"), 250);
}

#[test]
fn a_manager_goes_on_after_its_server_was_restarted() {
    let server = Server::new("", "");
    let world = World::on(&server, 5432);
    world.expect(0, &["create", "a"]);
    let catalog = tenantry::Catalog::embedded("project", tenantry::Dialect::Postgres).unwrap();
    let options = tenantry::store::PostgresOptions::default();
    let store = tenantry::store::PostgresStore::new(&world.url(), options).unwrap();
    let manager = tenantry::Manager::new(store, catalog).unwrap();
    assert_eq!(manager.upgrade_all(|_| {}).unwrap().exit, 0);
    server.restart();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(manager.upgrade_all(|_| {}).unwrap().exit, 0);
}

#[test]
fn what_is_not_there_is_not_settled() {
    use tenantry::internals::DeferredCommits as _;
    let world = World::postgres();
    world.expect(0, &["create", "a", "b"]);
    let options = tenantry::store::PostgresOptions::default();
    let store = tenantry::store::PostgresStore::new(&world.url(), options).unwrap();
    let ids: Vec<tenantry::ProjectId> = ["a", "b"].map(|id| id.parse().unwrap()).to_vec();
    let run = &world.query("a", "SELECT DISTINCT run FROM tenantry_history")[0];
    assert_eq!(store.flush_commits(&ids, run).unwrap(), [true, true]);
    // The state after a crash that lost what the run did in one of the projects.
    world.execute("b", "DELETE FROM tenantry_history");
    assert_eq!(store.flush_commits(&ids, run).unwrap(), [true, false]);
    world.execute("b", "DROP SCHEMA project_b CASCADE");
    assert!(store.flush_commits(&ids, run).is_err());
    assert_eq!(store.flush_commits(&ids[..1], run).unwrap(), [true]);
    assert_eq!(store.flush_commits(&[], run).unwrap(), [] as [bool; 0]);
}

/// The role may not call `pg_logical_emit_message`, so its commits cannot be flushed.
#[test]
fn what_could_not_be_settled_is_not_told_as_done() {
    let mut world = World::postgres();
    let name = world.database().name.clone();
    let role = format!("owner_{name}");
    let ids: Vec<String> = (1..=40).map(|number| number.to_string()).collect();
    world
        .database()
        .run(&["-c", &format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role}")]);
    let url = world.url().replace("postgres://postgres@", &format!("postgres://{role}@"));
    let run = |world: &World, code: i32, arguments: &[&str]| {
        let output = world
            .command_on(&url, &[&["--format", "json", "--jobs", "2"], arguments].concat())
            .output()
            .unwrap();
        let report = crate::world::Report::of(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{:?}", report.0);
        report
    };
    let one = ("1_one", "CREATE TABLE one (id INTEGER);");
    world.with_migrations(&[one]);
    run(&world, 0, &[&["create"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    let revoke = "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' \
                  LOOP EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$";
    world.database().run(&["-c", revoke]);
    world.with_migrations(&[one, ("2_two", "CREATE TABLE two (id INTEGER);")]);
    let report = run(&world, 3, &["upgrade-all"]);
    assert_eq!(report.count("failed"), 40);
    let (kind, message) = report.error("1");
    assert!(kind == "read_only" && message.contains("permission denied"), "{kind}: {message}");
    // These failures count towards `--max-failures`.
    world.with_migrations(&[
        one,
        ("2_two", "CREATE TABLE two (id INTEGER);"),
        ("3_three", "CREATE TABLE three (id INTEGER);"),
    ]);
    let report = run(&world, 3, &["upgrade-all", "--max-failures", "1"]);
    assert!(report.count("not_started") > 0, "{:?}", report.0);
    world.database().run(&["-c", &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")]);
}

#[test]
fn a_locked_ledger_is_not_called_a_migrations_failure() {
    use tenantry::internals::{Inspect as _, Mode, ReadSchema, SchemaSource, Step, Store as _};
    let mut world = World::postgres();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]).expect(0, &["create", "a"]);
    let lock_timeout = Duration::from_millis(200);
    let options = tenantry::store::PostgresOptions::default().lock_timeout(lock_timeout);
    let store = tenantry::store::PostgresStore::new(&world.url(), options).unwrap();
    let ids: [tenantry::ProjectId; 1] = ["a".parse().unwrap()];
    let inspection = store.inspect(&ids, ReadSchema::Always).pop().unwrap().unwrap();
    let _holder =
        world.application("a", "BEGIN; LOCK TABLE __diesel_schema_migrations IN ACCESS EXCLUSIVE MODE");
    let scripts = [("2_two/up.sql", "CREATE TABLE two (id INTEGER);")];
    let catalog = tenantry::Catalog::from_files("two", tenantry::Dialect::Postgres, scripts).unwrap();
    let migration = &catalog.migrations()[0];
    let mode = Mode { schema: SchemaSource::Ledger, ..Mode::PLAIN };
    let mut session = store.open(&ids[0]).unwrap();
    assert!(session.begin_if_unchanged(mode, &inspection).unwrap());
    let error = session.execute(&[Step { migration, script: &migration.up }]).unwrap_err();
    assert_eq!(error.kind(), tenantry::ErrorKind::VersionMismatch, "{error}");
}

#[test]
fn what_was_seen_without_a_lock_is_compared_under_it() {
    use tenantry::internals::{Inspect as _, Mode, ReadSchema, SchemaSource, Store as _};
    let mode = |schema| Mode { schema, ..Mode::PLAIN };
    let options = tenantry::store::PostgresOptions::default();
    let ids: [tenantry::ProjectId; 1] = ["a".parse().unwrap()];
    let scripts = [
        ("2_two/up.sql", "CREATE TABLE zwö (id INTEGER);"),
        ("3_three/up.sql", "CREATE TABLE three (id INTEGER);"),
    ];
    let catalog = tenantry::Catalog::from_files("two", tenantry::Dialect::Postgres, scripts).unwrap();
    for (name, change) in [
        ("nothing", ""),
        ("an added version", "INSERT INTO __diesel_schema_migrations (version) VALUES ('99')"),
        ("a removed version", "DELETE FROM __diesel_schema_migrations"),
        ("a changed checksum", "UPDATE tenantry_history SET checksum = 'x'"),
        (
            "an added row",
            "INSERT INTO tenantry_history SELECT (jsonb_populate_record(h, '{\"sequence\": 9}')).* FROM tenantry_history h LIMIT 1",
        ),
        ("no ledger", "DROP TABLE tenantry_history"),
        ("no schema", "DROP SCHEMA project_a CASCADE"),
    ] {
        let mut world = World::postgres();
        world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]).expect(0, &["create", "a"]);
        let store = tenantry::store::PostgresStore::new(&world.url(), options.clone()).unwrap();
        let inspection = store.inspect(&ids, ReadSchema::Always).pop().unwrap().unwrap();
        if !change.is_empty() {
            world.execute("a", change);
        }
        let expected = (name != "nothing").then_some(tenantry::ErrorKind::VersionMismatch);
        // One or several scripts are sent to the server together with the comparison.
        for count in [1, 2] {
            let mut session = store.open(&ids[0]).unwrap();
            assert!(session.begin_if_unchanged(mode(SchemaSource::Ledger), &inspection).unwrap(), "{name}");
            let steps: Vec<_> = catalog.migrations()[..count]
                .iter()
                .map(|migration| tenantry::internals::Step { migration, script: &migration.up })
                .collect();
            let ran = session.execute(&steps).map(|ran| ran.len()).map_err(|error| error.kind());
            assert_eq!(ran, expected.map_or(Ok(count), Err), "{name}, {count} scripts");
            session.rollback().unwrap();
        }
        let mut session = store.open(&ids[0]).unwrap();
        assert!(!session.begin_if_unchanged(mode(SchemaSource::Live), &inspection).unwrap(), "{name}");
        assert!(session.begin_if_unchanged(mode(SchemaSource::Ledger), &inspection).unwrap(), "{name}");
        let kind = session.schema().err().map(|error| error.kind());
        assert_eq!(kind, expected, "{name}");
        session.rollback().unwrap();
        if name == "nothing" {
            // Another run holds the project's lock.
            session.begin(mode(SchemaSource::Ledger)).unwrap();
            let mut other = store.open(&ids[0]).unwrap();
            assert!(other.begin_if_unchanged(mode(SchemaSource::Ledger), &inspection).unwrap());
            let kind = other.schema().unwrap_err().kind();
            assert_eq!(kind, tenantry::ErrorKind::VersionMismatch, "while another run holds the lock");
        }
    }
}

#[test]
fn trap_9_a_schema_that_is_missing_is_said_and_nothing_is_made_in_public() {
    let world = World::postgres();
    world.database().run(&["-c", "GRANT CREATE ON SCHEMA public TO PUBLIC"]);
    let before = world.snapshot();
    for arguments in
        [&["upgrade", "missing"][..], &["stamp", "missing"], &["downgrade", "missing", "--steps", "1"]]
    {
        assert_eq!(world.expect(3, arguments).error("missing").0, "not_found");
    }
    assert_eq!(before, world.snapshot());
    world.expect(0, &["create", "a"]);
    let in_public = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(world.database().run(&["-c", in_public]), ["0"]);
}

#[test]
fn trap_33_a_role_that_may_only_read_still_gets_a_status() {
    let mut world = World::postgres();
    world.expect(0, &["create", "a", "b"]);
    world.execute("b", "ALTER TABLE tasks ADD COLUMN extra TEXT");
    let reader = format!("reader_{}", world.database().name);
    let grants = format!(
        "CREATE ROLE {reader} LOGIN; GRANT USAGE ON SCHEMA project_a, project_b TO {reader}; \
         GRANT SELECT ON ALL TABLES IN SCHEMA project_a, project_b TO {reader}"
    );
    world.database().run(&["-c", &grants]);
    world.with_legacy_as(1, "hidden");
    let url = format!("postgres://{reader}@/{}?host={}", world.database().name, world.database().socket);
    let ran = run_on(&world, &url, &["--format", "json", "status"]);
    let report = crate::world::Report::of(ran.stdout.as_bytes());
    assert_eq!((report.outcome("a"), report.problem("b").0), ("up_to_date", "drifted"), "{}", ran.stdout);
    assert_eq!((ran.code, report.outcome("hidden")), (4, "blocked"), "{}", ran.stdout);
    let note = report.project("a")["notes"][0].as_str().unwrap();
    assert!(note.contains("was not compared with the migrations"), "{note}");
    world.database().run(&["-c", &format!("DROP OWNED BY {reader}; DROP ROLE {reader}")]);
}

#[test]
fn a_status_makes_no_schema_where_the_ledgers_prove_theirs() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY);");
    world.with_migrations(&[one]).expect(0, &["create", "a", "b"]);
    // A migration that fails on an empty database is found only when the reference is built: in a dry run, and when a
    // schema has to be compared.
    world.with_migrations(&[one, ("2_two", "INSERT INTO nowhere VALUES (1);")]);
    assert_eq!(world.expect(0, &["status"]).count("planned"), 2);
    assert_eq!(world.run(&["upgrade-all", "--dry-run"]).code, 2);
    world.execute("b", "CREATE INDEX by_hand ON one (id)");
    assert_eq!(world.run(&["status"]).code, 2);
    assert_eq!(world.expect(0, &["status", "a"]).outcome("a"), "planned");
    world.with_migrations(&[one]);
    let report = world.expect(4, &["status"]);
    assert_eq!((report.outcome("a"), report.problem("b").0), ("up_to_date", "drifted"));
    // The same through the library.
    let world = World::postgres();
    world.expect(0, &["create", "a", "b"]);
    world.execute("b", "CREATE INDEX by_hand ON tasks (id)");
    let catalog = tenantry::Catalog::embedded("project", tenantry::Dialect::Postgres).unwrap();
    let options = tenantry::store::PostgresOptions::default();
    let store = tenantry::store::PostgresStore::new(&world.url(), options).unwrap();
    let manager = tenantry::Manager::new(store, catalog).unwrap();
    assert!(manager.status(&"a".parse().unwrap()).unwrap().is_current());
    assert!(!manager.status(&"b".parse().unwrap()).unwrap().is_current());
}

#[test]
fn of_scripts_that_are_sent_as_one_the_one_that_fails_is_named() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY);\nINSERT INTO one VALUES (1);");
    let (two, four) = ("CREATE TABLE two (id INTEGER);", "CREATE TABLE four (id INTEGER);");
    world.with_migrations(&[one]).expect(0, &["create", "1"]);
    world.execute("1", "INSERT INTO one VALUES (5)");
    let before = world.snapshot();
    let mut fails = |three: &str| {
        world.with_migrations(&[one, ("2_two", two), ("3_three", three), ("4_four", four)]);
        let report = world.expect(3, &["--lock-timeout", "0.2", "upgrade", "1"]);
        let error = report.project("1")["error"].clone();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_string();
        let file = text("file");
        assert!(file.ends_with("3_three/up.sql") && text("migration") == "3_three", "{error}");
        assert_eq!(world.snapshot(), before, "{three}");
        (text("kind"), error["line"].as_u64())
    };
    assert_eq!(
        fails(
            "CREATE TABLE x (y INTEGER);\n\nINSERT INTO one SELECT 1 WHERE current_schema() = 'project_1';"
        ),
        ("migration".into(), Some(3))
    );
    // Fails on a row that the project already has.
    let at_once = "ALTER TABLE one ADD x TEXT;\nALTER TABLE one ADD CHECK (1 / (id - 5) < 9);\nCREATE VIEW y AS SELECT 1;";
    assert_eq!(fails(at_once), ("migration".into(), Some(2)));
    let trigger = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN IF current_schema() = 'project_1' THEN PERFORM set_config('search_path', 'public', true); END IF; RETURN NEW; END $$;\n\
        CREATE TRIGGER t BEFORE INSERT ON one FOR EACH ROW EXECUTE FUNCTION f();\nINSERT INTO one VALUES (2);";
    assert_eq!(fails(trigger), ("migration".into(), None));
}

#[test]
fn of_scripts_that_are_sent_as_one_the_one_that_waits_for_a_lock_is_named() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER);");
    let (two, four) = ("CREATE TABLE two (id INTEGER);", "CREATE TABLE four (id INTEGER);");
    world.with_migrations(&[one]).expect(0, &["create", "1"]);
    let three = "CREATE TABLE three (id INTEGER);\nALTER TABLE one ADD COLUMN x TEXT;";
    world.with_migrations(&[one, ("2_two", two), ("3_three", three), ("4_four", four)]);
    let holder = world.application("1", "BEGIN; SELECT count(*) FROM one");
    let report = world.expect(3, &["--lock-timeout", "0.2", "upgrade", "1"]);
    let error = &report.project("1")["error"];
    assert_eq!((error["kind"].as_str(), error["line"].as_u64()), (Some("locked"), Some(2)), "{error}");
    assert_eq!(error["migration"], "3_three");
    drop(holder);
    assert_eq!(world.expect(0, &["upgrade", "1"]).outcome("1"), "upgraded");
}

#[test]
fn of_scripts_that_are_sent_as_one_each_has_its_own_time() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER);");
    world.with_migrations(&[one]).expect(0, &["create", "1"]);
    let slow = "CREATE TABLE three AS SELECT 1 AS id, pg_sleep(0.3)::text AS x;";
    let (two, four) = ("CREATE TABLE two (id INTEGER);", "CREATE TABLE four (id INTEGER);");
    world.with_migrations(&[one, ("2_two", two), ("3_three", slow), ("4_four", four)]);
    world.expect(0, &["upgrade", "1"]);
    let history =
        |what: &str| world.query("1", &format!("SELECT {what} FROM tenantry_history WHERE version <> '1'"));
    assert_eq!(
        history(
            "string_agg(version, ' ' ORDER BY started_at), string_agg((duration_us >= 300000)::text, ' ' ORDER BY sequence)"
        ),
        ["2 3 4|false true false"]
    );
    let gap = "SELECT b.started_at - a.started_at >= interval '0.3 s' FROM tenantry_history a, tenantry_history b \
        WHERE a.version = '3' AND b.version = '4'";
    assert_eq!(world.query("1", gap), ["t"]);
}

/// Citus itself is not there: only its row among the extensions, and its setting.
#[test]
fn doctor_names_citus_and_says_whether_it_distributes_schemas() {
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    world.database().run(&["-c", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"]);
    assert!(!world.run(&["doctor"]).stdout.contains("citus"));
    let install = |version: &str| {
        world.database().run(&[
            "-c",
            "SET allow_system_table_mods = on",
            "-c",
            &format!(
                "DELETE FROM pg_extension WHERE extname = 'citus'; INSERT INTO pg_extension (oid, extname, extowner, \
                 extnamespace, extrelocatable, extversion) VALUES (99999, 'citus', 10, 11, false, '{version}')"
            ),
        ]);
        world.run(&["doctor"])
    };
    let old = install("11.3-1");
    assert!(
        old.code == 1 && old.stdout.contains("version 11.3-1: it cannot distribute schemas"),
        "{}",
        old.stdout
    );
    let off = install("13.2-1");
    assert!(
        off.code == 1 && off.stdout.contains("SET citus.enable_schema_based_sharding = on"),
        "{}",
        off.stdout
    );
    let set = format!("ALTER DATABASE {} SET citus.enable_schema_based_sharding = on", world.database().name);
    world.database().run(&["-c", &set]);
    let on = install("13.2-1");
    assert!(
        on.code == 0 && on.stdout.contains("each new project's schema is on one worker"),
        "{}",
        on.stdout
    );
}
