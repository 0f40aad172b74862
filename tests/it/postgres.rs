//! What only a server has: poolers, certificates, passwords, crashes, limits.

use std::process::Stdio;
use std::time::Duration;

use crate::cluster::{Pooler, Server};
use crate::world::{Ran, World};

/// A command on another URL than the world's own.
fn run_on(world: &World, url: &str, arguments: &[&str]) -> Ran {
    Ran::of(&mut world.command_on(url, arguments))
}

#[test]
fn trap_31_a_pooler_that_gives_each_transaction_another_connection_is_worked_through() {
    let mut world = World::postgres();
    world.with_legacy();
    let pooler = Pooler::new(&world.database().socket, "");
    let url = pooler.url(world.database());
    let before: Vec<_> = (1..=3).map(|id| world.contents(&id.to_string())).collect();
    let status = run_on(&world, &url, &["status"]);
    assert!(status.code == 0 && status.stdout.contains("3 planned"), "{}{}", status.stdout, status.stderr);
    world.upgrade_four_times_at_once(&url);
    assert_eq!(before, (1..=3).map(|id| world.contents(&id.to_string())).collect::<Vec<_>>());
    assert_eq!(run_on(&world, &url, &["create", "7"]).code, 0);
    assert_eq!(run_on(&world, &url, &["downgrade", "7", "--steps", "1"]).code, 0);
    assert!(run_on(&world, &url, &["doctor"]).stdout.contains("through a pooler"));
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 3);
}

#[test]
fn trap_31_what_a_pooler_would_lose_is_refused_with_a_hint() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    let index = "CREATE INDEX CONCURRENTLY ix ON one (x);\n-- metadata\nrun_in_transaction = false\n";
    world.with_migrations(&[one, ("2_index", index)]);
    // One that refuses what it does not know, and one that was told to pass over it.
    for settings in ["", "ignore_startup_parameters = options"] {
        let pooler = Pooler::new(&world.database().socket, settings);
        let url = pooler.url(world.database());
        let ran = run_on(&world, &url, &["upgrade-all"]);
        assert!(
            ran.code == 3 && ran.stdout.contains("name the server itself"),
            "{}{}",
            ran.stdout,
            ran.stderr
        );
        let catalog = tenantry::Catalog::from_files(
            "one",
            tenantry::Dialect::Postgres,
            [("1_one/up.sql", world.script("1_one"))],
        )
        .unwrap();
        let options = tenantry::store::postgres::PostgresOptions::default();
        let store = tenantry::store::postgres::PostgresStore::new(&url, options).unwrap();
        let manager = tenantry::Manager::new(store, catalog).unwrap();
        let error = manager.connection(&"a".parse().unwrap()).err().unwrap();
        assert!(error.summary().contains("pooler"), "{}", error.summary());
    }
    assert_eq!(world.versions("a"), ["1"]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

/// A port that nobody listens on at the moment.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A certificate for a name with its key, both as PEM, signed by itself.
fn certificate(name: &str) -> (String, String) {
    use openssl::{asn1::Asn1Time, bn::BigNum, hash::MessageDigest, pkey::PKey, rsa::Rsa, x509};
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut subject = x509::X509Name::builder().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = x509::X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    let names = x509::extension::SubjectAlternativeName::new()
        .dns(name)
        .build(&builder.x509v3_context(None, None))
        .unwrap();
    builder.append_extension(names).unwrap();
    builder.append_extension(x509::extension::BasicConstraints::new().ca().build().unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(builder.build().to_pem().unwrap()), text(key.private_key_to_pem_pkcs8().unwrap()))
}

const SECRET: &str = "p@s:s/w%o'rd";
const ENCODED: &str = "p%40s%3As%2Fw%25o%27rd";

#[test]
fn an_encrypted_connection_is_checked_and_a_password_works_and_is_never_shown() {
    let port = free_port();
    let settings = format!(
        "listen_addresses = 'localhost'\nport = {port}\nssl = off\npassword_encryption = scram-sha-256"
    );
    let server = Server::new(&settings, "");
    // The socket's name has the port in it.
    let mut world = World::on(&server, port);
    world.with_legacy();
    world
        .database()
        .run(&["-c", &format!("CREATE ROLE ann LOGIN SUPERUSER PASSWORD '{}'", SECRET.replace('\'', "''"))]);
    let (certificate, key) = certificate("localhost");
    server.write("server.crt", &certificate);
    server.write("server.key", &key);
    server.append("postgresql.conf", "ssl = on\n");
    server.write("pg_hba.conf", "local all postgres trust\nhostssl all all all scram-sha-256\n");
    server.restart();
    let root = world.folder().join("root.crt");
    std::fs::write(&root, &certificate).unwrap();
    let name = world.database().name.clone();
    let url = |host: &str, rest: &str| format!("postgres://ann:{ENCODED}@{host}:{port}/{name}?{rest}");

    let ran = run_on(&world, &url("localhost", "sslmode=require"), &["status"]);
    assert!(ran.code == 0 && ran.stdout.contains("3 planned"), "{}{}", ran.stdout, ran.stderr);
    let full = format!("sslmode=verify-full&sslrootcert={}", root.display());
    let ran = run_on(&world, &url("localhost", &full), &["upgrade-all"]);
    assert!(ran.code == 0 && ran.stdout.contains("3 upgraded"), "{}{}", ran.stdout, ran.stderr);
    assert!(run_on(&world, &url("localhost", &full), &["doctor"]).stdout.contains(", encrypted"));
    // The same password in the environment, in a file, in a service, and as nobody encoded it.
    let pass = world.folder().join("pass");
    std::fs::write(&pass, format!("localhost:{port}:*:ann:{}\n", SECRET.replace(':', "\\:"))).unwrap();
    std::fs::set_permissions(&pass, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let services = world.folder().join("services");
    std::fs::write(&services, format!("[fleet]\nhost=localhost\nport={port}\nuser=ann\ndbname={name}\n"))
        .unwrap();
    let port_text = port.to_string();
    let environments: [&[(&str, &str)]; 3] = [
        &[
            ("PGHOST", "localhost"),
            ("PGPORT", &port_text),
            ("PGUSER", "ann"),
            ("PGDATABASE", &name),
            ("PGPASSWORD", SECRET),
        ],
        &[
            ("PGHOST", "localhost"),
            ("PGPORT", &port_text),
            ("PGUSER", "ann"),
            ("PGDATABASE", &name),
            ("PGPASSFILE", pass.to_str().unwrap()),
        ],
        &[
            ("PGSERVICE", "fleet"),
            ("PGSERVICEFILE", services.to_str().unwrap()),
            ("PGPASSFILE", pass.to_str().unwrap()),
        ],
    ];
    for environment in environments {
        let mut command = world.command_on("postgres://", &["status"]);
        command.envs(environment.iter().copied());
        let ran = Ran::of(&mut command);
        assert_eq!(ran.code, 0, "{environment:?}: {}{}", ran.stdout, ran.stderr);
    }
    let written = format!("postgres://ann:{SECRET}@localhost:{port}/{name}");
    assert_eq!(run_on(&world, &written, &["status"]).code, 0);

    // Whatever goes wrong, the password is in no output.
    let other = "sslmode=verify-full&sslrootcert=/nowhere";
    let wrong_host = format!("postgres://ann:{ENCODED}@127.0.0.1:{port}/{name}?{full}");
    let mut failures = 0;
    let urls = [
        url("localhost", other),
        wrong_host,
        url("localhost", "sslmode=nonsense"),
        url("nowhere.invalid", ""),
        format!("postgres://ann:{SECRET}@localhost:1/{name}"),
        format!("postgres://bob:{SECRET}@localhost:{port}/{name}"),
        format!("postgres://ann:{SECRET}x@localhost:{port}/{name}"),
        format!("postgres://ann:{SECRET}@localhost:{port}/nothing"),
        format!("postgres://ann:{SECRET}@localhost:x/{name}"),
        format!("postgresq://ann:{SECRET}@localhost/{name}"),
    ];
    for url in &urls {
        for arguments in
            [&["status"][..], &["upgrade-all"], &["--format", "json", "list"], &["doctor"], &["create", "x"]]
        {
            let ran = run_on(&world, url, arguments);
            assert_ne!(ran.code, 0, "{url} {arguments:?}: {}", ran.stdout);
            for part in [SECRET, ENCODED, "s:s/w", "w%o", "o'rd"] {
                assert!(
                    !(ran.stdout.clone() + &ran.stderr).contains(part),
                    "{url} {arguments:?}: {}{}",
                    ran.stdout,
                    ran.stderr
                );
            }
            failures += 1;
        }
    }
    assert_eq!(failures, 50);
}

#[test]
fn a_server_without_a_free_slot_is_asked_again_and_then_named() {
    let server = Server::new("max_connections = 8\nsuperuser_reserved_connections = 0", "");
    let mut world = World::on(&server, 5432);
    world.with_legacy();
    for number in 4..=30 {
        world.with_legacy_as(number, &number.to_string());
    }
    // Four of the eight are somebody else's: forty workers share what is left.
    let others: Vec<_> = (0..4).map(|_| world.application("1", "SELECT 1")).collect();
    assert_eq!(world.expect(0, &["--jobs", "40", "upgrade-all"]).count("upgraded"), 30);
    let rest: Vec<_> = (0..4).map(|_| world.application("1", "SELECT 1")).collect();
    let ran = world.run(&["status"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("too many clients") && ran.stderr.contains("max_connections"),
        "{}",
        ran.stderr
    );
    drop((others, rest));
}

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
    // What no reading finds, the assertion afterwards does.
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
    let odd =
        "SET lock_timeout = 0;\nSET standard_conforming_strings = off;\nALTER TABLE one ADD COLUMN y TEXT;";
    world.with_migrations(&[one, ("2_odd", odd)]);
    let holder = world.application("2", "BEGIN; SELECT count(*) FROM one");
    // With one worker the second project comes after the first on the same connection.
    let later = [one, ("2_odd", odd), ("3_later", "ALTER TABLE one ADD COLUMN z TEXT DEFAULT 'a\\b';")];
    assert_eq!(world.expect(0, &["--jobs", "1", "upgrade", "1"]).outcome("1"), "upgraded");
    drop(holder);
    world.with_migrations(&later);
    assert_eq!(world.expect(0, &["--jobs", "1", "upgrade-all"]).count("upgraded"), 3);
    world.with_migrations(&[one, ("2_odd", odd), later[2], ("4_last", "ALTER TABLE one ADD COLUMN w TEXT;")]);
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
    // Slow only where there are rows, which the reference's private schema has not after this.
    world.execute("a", "INSERT INTO one VALUES (2)");
    let slow = "CREATE TABLE two (id INTEGER);\nUPDATE one SET id = id WHERE CASE id WHEN 2 THEN pg_sleep(3) IS NULL END;";
    for metadata in ["", "\n-- metadata\nrun_in_transaction = false\n"] {
        world.with_migrations(&[one, ("2_slow", &format!("{slow}{metadata}"))]);
        let report = world.expect(3, &["--statement-timeout", "0.5", "upgrade-all"]);
        let error = &report.project("a")["error"];
        assert_eq!((&error["kind"], &error["migration"]), (&"timeout".into(), &"2_slow".into()), "{error}");
    }
    // How long tenantry's own questions take is not its business.
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
    // What a transaction over all of them would meet.
    let all_at_once = "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT oid FROM pg_class WHERE relname ~ '^t[0-9]+$' LOOP \
                       EXECUTE format('SELECT FROM %s WHERE id = 1', t); END LOOP; END $$";
    let refused = world.database().psql(None).args(["-c", all_at_once]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("out of shared memory"),
        "the server has room for all"
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
    let options = tenantry::store::postgres::PostgresOptions::default();
    let store = tenantry::store::postgres::PostgresStore::new(&world.url(), options).unwrap();
    let manager = tenantry::Manager::new(store, catalog).unwrap();
    assert_eq!(manager.upgrade_all(|_| {}).unwrap().exit, 0);
    server.restart();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(manager.upgrade_all(|_| {}).unwrap().exit, 0);
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
