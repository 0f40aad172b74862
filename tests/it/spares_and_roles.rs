//! Spare schemas that become projects, and roles that isolate projects.

use std::process::Stdio;

use crate::cluster::{Pooler, Server};
use crate::world::{Ran, World};

/// The names of the spare schemas.
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
    assert_eq!(world.run(&["spares"]).code, 2, "no setting states how many");
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nspares = 3\n").unwrap();
    assert_eq!(world.run(&["spares"]).stdout, "3 ready, 3 created, 0 removed\n");
    assert_eq!(world.run(&["list"]).code, 6, "a spare was listed as a project");
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
    // A spare that was changed is not used, and is replaced.
    let changed = spares(&world);
    for name in &changed {
        world.database().run(&["-c", &format!("ALTER TABLE {name}.one ADD COLUMN odd TEXT")]);
    }
    world.expect(0, &["create", "c"]);
    assert_eq!(world.expect(0, &["status", "c"]).outcome("c"), "up_to_date");
    let after = spares(&world);
    assert!(after.len() == 3 && changed.iter().all(|name| !after.contains(name)), "{changed:?} {after:?}");
    // Spares of another catalog are replaced, but not by a dry run.
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
    // Some projects are taken over, some are created from spares, and some by running the migrations.
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
        // The role reads and writes its own rows, with the search_path that is set for the role.
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
    // The role can use what a later migration creates, and a connection pool logs in as the role.
    let head = world.expect(0, &["downgrade", "5", "--to", "0"]).project("5")["to"].clone();
    assert_eq!(head, "0");
    world.expect(0, &["upgrade", "5"]);
    let options = tenantry::store::PostgresOptions::default().isolation(tenantry::store::Isolation::Role);
    let catalog = tenantry::Catalog::embedded("project", tenantry::Dialect::Postgres).unwrap();
    let pooler = Pooler::for_users(&server.socket(), &["postgres", "project_5"]);
    for socket in [server.socket(), pooler.socket()] {
        use diesel::prelude::*;
        let url = format!("postgres://postgres@/{}?host={socket}", world.database().name);
        let store = tenantry::store::PostgresStore::new(&url, options.clone()).unwrap();
        let manager = tenantry::Manager::new(store, catalog.clone()).unwrap();
        let mut connection = manager.connection(&"5".parse().unwrap()).unwrap();
        let user = diesel::select(diesel::dsl::sql::<diesel::sql_types::Text>("current_user::text"));
        assert_eq!(user.get_result::<String>(&mut *connection).unwrap(), "project_5");
    }
    // Dropping a project drops its role.
    world.expect(0, &["drop", "5", "--yes"]);
    assert_eq!(
        world.database().run(&["-c", "SELECT count(*) FROM pg_roles WHERE rolname = 'project_5'"]),
        ["0"]
    );
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

/// A create succeeds even if the spares cannot be refilled after it.
#[test]
fn a_create_has_succeeded_though_the_spares_can_not_be_refilled() {
    use diesel::connection::SimpleConnection as _;
    let mut world = World::postgres();
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nspares = 2\n").unwrap();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]).expect(0, &["create", "a"]);
    let mut other = world.own_connection("a");
    let lock = "SELECT pg_advisory_lock(hashtextextended('tenantry project ' || nspname, 0)) FROM pg_namespace \
                WHERE nspname LIKE 'tenantry\\_spare\\_%'";
    other.batch_execute(lock).unwrap();
    let ran = world.run(&["--lock-timeout", "0.2", "create", "b"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("cannot create spares"), "{}", ran.stderr);
    drop(other);
    assert_eq!(world.versions("b"), ["1"]);
}
