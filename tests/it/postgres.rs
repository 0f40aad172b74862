//! What only a server has: poolers, certificates, passwords, crashes, limits.

use std::process::Stdio;
use std::time::Duration;

use crate::cluster::{Pooler, Server};
use crate::world::{Ran, World};

/// A command on another URL than the world's own.
fn run_on(world: &World, url: &str, arguments: &[&str]) -> Ran {
    Ran::of(&mut world.command_on(url, arguments))
}

/// The world's database through a pooler.
fn pooled(world: &World, pooler: &Pooler) -> String {
    format!("postgres://postgres@/{}?host={}", world.database().name, pooler.socket())
}

#[test]
fn trap_31_a_pooler_that_gives_each_transaction_another_connection_is_worked_through() {
    let mut world = World::postgres();
    world.with_legacy();
    let pooler = Pooler::new(&world.database().socket, "");
    let url = pooled(&world, &pooler);
    let before: Vec<_> = (1..=3).map(|id| world.contents(&id.to_string())).collect();
    let status = run_on(&world, &url, &["status"]);
    assert!(status.code == 0 && status.stdout.contains("3 planned"), "{}{}", status.stdout, status.stderr);
    let run = || {
        let mut command = world.command_on(&url, &["upgrade-all"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<_> = (0..4).map(|_| run()).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
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
        let url = pooled(&world, &pooler);
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

#[test]
fn a_server_that_crashes_in_a_run_leaves_every_schema_old_or_new() {
    let server = Server::new("fsync = on", "");
    let mut original = World::on(&server, 5432);
    for number in 1..=9 {
        original.with_legacy_as(number, &number.to_string());
    }
    let rows: Vec<_> = (1..=9).map(|id| original.contents(&id.to_string())).collect();
    for round in 0..3 {
        let world = original.copy();
        let mut command = world.command(&["--lock-timeout", "0.5", "upgrade-all"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(120 + 70 * round));
        server.crash();
        child.wait().unwrap();
        server.start();
        for id in 1..=9 {
            let id = id.to_string();
            let books = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = 'tenantry_history'";
            let indexes = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'i' AND relname LIKE 'ix%'";
            let seen = (world.query(&id, books), world.query(&id, indexes));
            assert!(
                seen == (vec!["0".into()], vec!["0".into()]) || seen == (vec!["1".into()], vec!["6".into()]),
                "{id}: {seen:?}"
            );
        }
        world.expect(0, &["upgrade-all"]);
        assert_eq!(rows, (1..=9).map(|id| world.contents(&id.to_string())).collect::<Vec<_>>());
        assert_eq!(world.expect(0, &["upgrade-all"]).count("up_to_date"), 9);
    }
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
fn a_role_that_tenantry_did_not_make_is_left_alone() {
    let server = Server::new("", "");
    let world = World::on(&server, 5432);
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nisolation = \"role\"\n").unwrap();
    world.database().run(&["-c", "CREATE ROLE project_admin LOGIN SUPERUSER; CREATE TABLE public.precious (x TEXT); ALTER TABLE public.precious OWNER TO project_admin"]);
    assert_eq!(world.expect(3, &["create", "admin", "7"]).error("admin").0, "already_exists");
    world.database().run(&["-c", "CREATE SCHEMA project_admin"]);
    world.expect(3, &["drop", "admin", "--yes", "--no-backup"]);
    assert_eq!(world.database().run(&["-c", "SELECT count(*) FROM public.precious"]), ["0"]);
    assert_eq!(world.expect(0, &["drop", "7", "--yes"]).outcome("7"), "dropped");
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
    world.database().run(&["-c", &format!("DROP OWNED BY {reader}; DROP ROLE {reader}")]);
}

/// The schemas that are kept ready.
fn spares(world: &World) -> Vec<String> {
    world
        .database()
        .run(&["-c", "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_spare%' ORDER BY 1"])
}

#[test]
fn a_project_is_made_from_a_spare_and_spares_are_no_projects() {
    let mut world = World::postgres();
    let one = (
        "1_one",
        "CREATE TYPE mood AS ENUM ('glad');\nCREATE TABLE one (id SERIAL PRIMARY KEY, x mood DEFAULT 'glad');",
    );
    world.with_migrations(&[one]);
    assert_eq!(world.run(&["spares"]).code, 2, "nobody said how many");
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nspares = 3\n").unwrap();
    assert_eq!(world.run(&["spares"]).stdout, "3 ready, 3 made, 0 removed\n");
    assert_eq!(world.run(&["list"]).code, 6, "a spare was taken for a project");
    let before = spares(&world);
    let report = world.expect(0, &["create", "a", "b"]);
    let (after, run) = (spares(&world), report.0[0]["run"].as_str().unwrap());
    assert_eq!(
        (after.len(), before.iter().filter(|name| after.contains(name)).count()),
        (3, 1),
        "{before:?} {after:?}"
    );
    for id in ["a", "b"] {
        assert_eq!(world.query(id, "SELECT DISTINCT run FROM tenantry_history"), [run]);
        world.execute(id, "INSERT INTO one DEFAULT VALUES");
        assert_eq!(world.query(id, "SELECT * FROM one"), ["1|glad"]);
    }
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 2);
    assert_eq!(world.expect(3, &["create", "a"]).error("a").0, "already_exists");
    // A spare that somebody changed is passed over.
    let changed = spares(&world);
    for name in &changed {
        world.database().run(&["-c", &format!("ALTER TABLE {name}.one ADD COLUMN odd TEXT")]);
    }
    world.expect(0, &["create", "c"]);
    assert_eq!((world.expect(0, &["status", "c"]).outcome("c"), spares(&world)), ("up_to_date", changed));
    // Spares of another catalog are replaced; a dry run leaves them.
    world.with_migrations(&[one, ("2_two", "CREATE TABLE two (id INTEGER);")]);
    let before = spares(&world);
    world.expect(0, &["upgrade-all", "--dry-run"]);
    assert_eq!(before, spares(&world));
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 3);
    let after = spares(&world);
    assert!(after.len() == 3 && before.iter().all(|name| !after.contains(name)), "{before:?} {after:?}");
}

#[test]
fn of_many_creates_at_once_each_gets_a_spare_of_its_own() {
    let world = World::postgres();
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nspares = 6\n").unwrap();
    assert_eq!(world.run(&["spares"]).code, 0);
    let run = |ids: &[&str]| {
        let mut command = world.command(&[&["create"], ids].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<_> = [["1", "2", "3"], ["4", "5", "6"], ["7", "8", "9"], ["10", "11", "12"]]
        .iter()
        .map(|ids| run(ids))
        .collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 12);
}

#[test]
fn with_roles_no_project_reaches_another_and_nothing_goes_through_public() {
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    world
        .database()
        .run(&["-c", "GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE TABLE public.shared (x TEXT)"]);
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nisolation = \"role\"\nspares = 4\n")
        .unwrap();
    // Some taken over, some made from spares, some the long way.
    world.with_legacy().expect(0, &["upgrade-all"]);
    let ids: Vec<String> = (1..=20).map(|id| id.to_string()).collect();
    world
        .expect(0, &std::iter::once("create").chain(ids[3..].iter().map(String::as_str)).collect::<Vec<_>>());
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 20);
    let mut attempts = 0;
    for id in &ids {
        let mut forbidden = vec![
            "CREATE TABLE public.mine (x TEXT)".to_string(),
            "SELECT * FROM public.shared".into(),
            "INSERT INTO __diesel_schema_migrations (version) VALUES ('9')".into(),
            "DELETE FROM tenantry_history".into(),
            "ALTER TABLE tasks ADD COLUMN mine TEXT".into(),
            "CREATE SCHEMA mine".into(),
            "CREATE ROLE mine".into(),
            "SET ROLE postgres".into(),
        ];
        for other in ids.iter().filter(|other| *other != id) {
            forbidden.push(format!("SELECT * FROM project_{other}.tasks"));
            forbidden.push(format!("SET ROLE project_{other}"));
            forbidden.push(format!("SELECT * FROM project_{other}.__diesel_schema_migrations"));
        }
        let mut psql = world.database().psql(None);
        psql.env("PGUSER", format!("project_{id}"));
        // Its own rows it reads and writes, by the search_path that its role brings along.
        psql.args(["-c", "INSERT INTO projects (id, name, current_phase) VALUES (nextval('projects_id_seq') + 1000, 'mine', 'CODER'); SELECT count(*) > 0 FROM projects, __diesel_schema_migrations"]);
        let ran = Ran::of(&mut psql);
        assert_eq!((ran.code, ran.stdout.trim()), (0, "t"), "{id}: {}", ran.stderr);
        let mut psql = world.database().psql(None);
        psql.env("PGUSER", format!("project_{id}")).args(["-v", "ON_ERROR_STOP=0"]);
        for sql in &forbidden {
            psql.args(["-c", sql]);
        }
        let ran = Ran::of(&mut psql);
        let refused = ran
            .stderr
            .lines()
            .filter(|line| line.contains("permission denied") || line.contains("must be owner"))
            .count();
        assert_eq!((refused, ran.stdout.as_str()), (forbidden.len(), ""), "{id}: {}", ran.stderr);
        attempts += refused;
    }
    assert_eq!(attempts, 20 * (8 + 3 * 19));
    // What a later migration makes is the role's to use, and a pool of connections logs in as the role.
    let head = world.expect(0, &["downgrade", "5", "--to", "0"]).project("5")["to"].clone();
    assert_eq!(head, "0");
    world.expect(0, &["upgrade", "5"]);
    let options = tenantry::store::postgres::PostgresOptions {
        isolation: tenantry::store::postgres::Isolation::Role,
        ..tenantry::store::postgres::PostgresOptions::default()
    };
    let catalog = tenantry::Catalog::embedded("project", tenantry::Dialect::Postgres).unwrap();
    let pooler = Pooler::for_users(&server.socket(), &["postgres", "project_5"]);
    for socket in [server.socket(), pooler.socket()] {
        use diesel::prelude::*;
        let url = format!("postgres://postgres@/{}?host={socket}", world.database().name);
        let store = tenantry::store::postgres::PostgresStore::new(&url, options.clone()).unwrap();
        let manager = tenantry::Manager::new(store, catalog.clone()).unwrap();
        let mut connection = manager.connection(&"5".parse().unwrap()).unwrap();
        let user = diesel::select(diesel::dsl::sql::<diesel::sql_types::Text>("current_user::text"));
        assert_eq!(user.get_result::<String>(&mut *connection).unwrap(), "project_5");
    }
    // A role goes with its project, and its rows stay out of reach where they are kept.
    world.expect(0, &["drop", "5", "--yes"]);
    assert_eq!(
        world.database().run(&["-c", "SELECT count(*) FROM pg_roles WHERE rolname = 'project_5'"]),
        ["0"]
    );
}
