//! Connections to a server: through a pooler, with TLS, with a password, and without a free connection slot.

use crate::cluster::{Pooler, Server};
use crate::world::{Ran, World};

/// Runs a command on another store URL than the world's.
pub(crate) fn run_on(world: &World, url: &str, arguments: &[&str]) -> Ran {
    Ran::of(&mut world.command_on(url, arguments))
}

#[test]
fn trap_31_a_pooler_that_gives_each_transaction_another_connection_is_worked_through() {
    let mut world = World::postgres();
    world.with_legacy();
    let pooler = Pooler::new(&world.database().socket, "");
    let url = pooler.url(world.database());
    let before: Vec<_> = (1..=3).map(|id| world.contents(&id.to_string())).collect();
    // What a session holds is lost there, so the journal has to be reached directly.
    let refused = Ran::of(world.command_on(&url, &["upgrade-all"]).env_remove("TENANTRY_JOURNAL_URL"));
    assert!(refused.code == 2 && refused.stderr.contains("[journal] url"), "{}", refused.stderr);
    let status = run_on(&world, &url, &["status"]);
    assert!(status.code == 0 && status.stdout.contains("3 pending"), "{}{}", status.stdout, status.stderr);
    world.upgrade_four_times_at_once(&url);
    assert_eq!(before, (1..=3).map(|id| world.contents(&id.to_string())).collect::<Vec<_>>());
    assert_eq!(run_on(&world, &url, &["create", "7"]).code, 0);
    assert_eq!(run_on(&world, &url, &["downgrade", "7", "--steps", "1"]).code, 0);
    assert!(run_on(&world, &url, &["doctor"]).stdout.contains("through a pooler"));
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 3);
}

#[test]
fn a_locked_ledger_is_waited_for_no_longer_through_a_pooler() {
    let mut world = World::postgres();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]).expect(0, &["create", "1", "2"]);
    let pooler = Pooler::new(&world.database().socket, "");
    for url in [world.url(), pooler.url(world.database())] {
        // The holder's session ends after 5 seconds. A command that waited longer than its lock timeout would get the
        // lock then and report no error.
        let hold = "SET idle_in_transaction_session_timeout = '5s'; BEGIN; LOCK TABLE tenantry_history";
        let holder = world.application("1", hold);
        let ran = run_on(&world, &url, &["--lock-timeout", "0.2", "status"]);
        let output = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            ran.code == 3 && output.contains("lock timeout") && output.contains("1 up to date"),
            "{url}: {output}"
        );
        drop(holder);
    }
}

#[test]
fn trap_31_what_a_pooler_would_lose_is_refused_with_a_hint() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER PRIMARY KEY, x TEXT);");
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    let index = "CREATE INDEX CONCURRENTLY ix ON one (x);\n-- metadata\nrun_in_transaction = false\n";
    world.with_migrations(&[one, ("2_index", index)]);
    // A pooler that rejects unknown startup parameters, and one that is configured to ignore them.
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
        let options = tenantry::store::PostgresOptions::default();
        let store = tenantry::store::PostgresStore::new(&url, options).unwrap();
        let manager = tenantry::Manager::new(store, catalog).unwrap();
        let error = manager.connection(&"a".parse().unwrap()).err().unwrap();
        assert!(error.summary().contains("pooler"), "{}", error.summary());
    }
    assert_eq!(world.versions("a"), ["1"]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

/// A port that is currently unused.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A self-signed certificate for a host name, and its key, both as PEM.
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
    // The socket's file name contains the port.
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
    let url =
        |host: &str, parameters: &str| format!("postgres://ann:{ENCODED}@{host}:{port}/{name}?{parameters}");

    let ran = run_on(&world, &url("localhost", "sslmode=require"), &["status"]);
    assert!(ran.code == 0 && ran.stdout.contains("3 pending"), "{}{}", ran.stdout, ran.stderr);
    let full = format!("sslmode=verify-full&sslrootcert={}", root.display());
    let ran = run_on(&world, &url("localhost", &full), &["upgrade-all"]);
    assert!(ran.code == 0 && ran.stdout.contains("3 upgraded"), "{}{}", ran.stdout, ran.stderr);
    assert!(run_on(&world, &url("localhost", &full), &["doctor"]).stdout.contains(", encrypted"));
    // The same password from the environment, from a password file, with a service file, and unencoded in the URL.
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
    let unencoded = format!("postgres://ann:{SECRET}@localhost:{port}/{name}");
    assert_eq!(run_on(&world, &unencoded, &["status"]).code, 0);

    // No error shows the password.
    let missing_root = "sslmode=verify-full&sslrootcert=/nowhere";
    let wrong_host = format!("postgres://ann:{ENCODED}@127.0.0.1:{port}/{name}?{full}");
    let mut failures = 0;
    let urls = [
        url("localhost", missing_root),
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
    // Other sessions hold four of the eight slots. Forty workers share the remaining four.
    let first_four: Vec<_> = (0..4).map(|_| world.application("1", "SELECT 1")).collect();
    assert_eq!(world.expect(0, &["--jobs", "40", "upgrade-all"]).count("upgraded"), 30);
    let last_four: Vec<_> = (0..4).map(|_| world.application("1", "SELECT 1")).collect();
    let ran = world.run(&["status"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("too many clients") && ran.stderr.contains("max_connections"),
        "{}",
        ran.stderr
    );
    drop((first_four, last_four));
}
