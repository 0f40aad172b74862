//! The library as an application uses it.

use std::time::Duration;

use diesel::connection::{SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel_migrations::MigrationHarness as _;
use tenantry::event::Event;
use tenantry::store::sqlite::{SqliteOptions, SqliteStore};
use tenantry::{Catalog, Dialect, ErrorKind, Manager, ProjectConnection, ProjectId};

use crate::world::World;

fn catalog() -> Catalog {
    Catalog::embedded("project", Dialect::Sqlite).unwrap()
}

fn manager(world: &World) -> Manager {
    Manager::new(SqliteStore::new(world.data(), SqliteOptions::default()), catalog()).unwrap()
}

fn id(text: &str) -> ProjectId {
    text.parse().unwrap()
}

diesel::table! {
    projects (id) {
        id -> Integer,
        name -> Text,
        current_phase -> Text,
    }
}

fn insert(connection: &mut ProjectConnection, name: &str) -> QueryResult<usize> {
    let values = (projects::name.eq(name), projects::current_phase.eq("CODER"));
    diesel::insert_into(projects::table).values(values).execute(connection)
}

fn names(connection: &mut ProjectConnection) -> Vec<String> {
    projects::table.select(projects::name).order(projects::id).load(connection).unwrap()
}

#[test]
fn diesel_finds_nothing_pending_on_what_tenantry_upgraded_and_the_other_way_round() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1").with_legacy_as(2, "2");
    let manager = manager(&world);
    assert_eq!(manager.upgrade_all(|_| {}).unwrap().exit, 0);
    let url = format!("file:{}?mode=rw", world.path("1").display());
    #[expect(clippy::disallowed_methods, reason = "this is what diesel's own harness says")]
    {
        let mut connection = SqliteConnection::establish(&url).unwrap();
        assert!(!connection.has_pending_migration(catalog()).unwrap());
        assert_eq!(connection.applied_migrations().unwrap().len(), 3);
    }
    // Reverting is diesel's too, where no row makes its enforced foreign keys refuse the rebuild.
    manager.create(&id("4")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "this is what an application that knows only diesel does")]
    SqliteConnection::establish(world.path("4").to_str().unwrap())
        .unwrap()
        .revert_last_migration(catalog())
        .unwrap();
    assert_eq!(manager.status(&id("4")).unwrap().pending.len(), 1);
    assert_eq!(manager.upgrade(&id("4")).unwrap().migrations.len(), 1);
    // A database that diesel made is managed as it stands.
    #[expect(clippy::disallowed_methods, reason = "this is what an application that knows only diesel does")]
    {
        let mut connection = SqliteConnection::establish(world.path("3").to_str().unwrap()).unwrap();
        connection.run_pending_migrations(catalog()).unwrap();
    }
    assert!(manager.status(&id("3")).unwrap().is_current());
}

#[test]
fn a_connection_is_diesels_and_waits_for_the_right_version() {
    let mut world = World::sqlite();
    let manager = manager(&world);
    manager.create(&id("a")).unwrap();
    let mut connection = manager.connection(&id("a")).unwrap();
    insert(&mut connection, "one").unwrap();
    assert_eq!(names(&mut connection), ["one"]);
    assert!(
        connection
            .batch_execute(
                "INSERT INTO tasks (project_id, title, phase, status) VALUES (99, 't', 'CODER', 'PENDING')"
            )
            .is_err()
    );
    drop(connection);

    let kind = |text: &str| manager.connection(&id(text)).err().map(|error| error.kind());
    assert_eq!(kind("absent"), Some(ErrorKind::NotFound));
    world.with_legacy_as(1, "old");
    assert_eq!(kind("old"), Some(ErrorKind::VersionMismatch));
    manager.upgrade(&id("old")).unwrap();
    assert_eq!(kind("old"), None);
    world.execute("a", "INSERT INTO __diesel_schema_migrations (version) VALUES ('99999999999999')");
    manager.upgrade(&id("a")).unwrap_err();
    let fresh = Manager::new(SqliteStore::new(world.data(), SqliteOptions::default()), catalog()).unwrap();
    assert_eq!(fresh.connection(&id("a")).err().map(|error| error.kind()), Some(ErrorKind::VersionMismatch));
    assert!(!world.path("absent").exists());
}

#[test]
fn a_project_that_another_process_moved_is_not_given_out() {
    let world = World::sqlite();
    let manager = manager(&world);
    manager.create(&id("a")).unwrap();
    drop(manager.connection(&id("a")).unwrap());
    world.expect(0, &["downgrade", "a", "--steps", "1"]);
    assert_eq!(
        manager.connection(&id("a")).err().map(|error| error.kind()),
        Some(ErrorKind::VersionMismatch)
    );
    world.expect(0, &["upgrade", "a"]);
    drop(manager.connection(&id("a")).unwrap());
}

#[test]
fn a_project_that_is_slow_to_open_keeps_nobody_waiting() {
    let world = World::sqlite();
    let manager = manager(&world);
    for name in ["slow", "quick"] {
        manager.create(&id(name)).unwrap();
    }
    // With a journal and an exclusive lock, looking at it waits for the lock.
    let write = "BEGIN EXCLUSIVE; INSERT INTO projects (name, current_phase) VALUES ('held', 'CODER')";
    let application = world.application("slow", write);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| manager.connection(&id("slow")).map(drop));
        std::thread::sleep(Duration::from_millis(300));
        drop(manager.connection(&id("quick")).unwrap());
        assert!(!slow.is_finished(), "the quick one waited for the slow one");
        drop(application);
        slow.join().unwrap().unwrap();
    });
}

/// How many files of the store this process has open.
fn open_databases(world: &World) -> usize {
    let folder = world.data().canonicalize().unwrap();
    let links = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|path| path.starts_with(&folder)).count()
}

#[test]
fn connections_are_bounded_over_the_fleet_and_idle_ones_are_closed() {
    let world = World::sqlite();
    let manager = manager(&world).with_connections(3, Duration::from_millis(100));
    let ids: Vec<ProjectId> = (1..=10).map(|number| id(&number.to_string())).collect();
    for id in &ids {
        manager.create(id).unwrap();
    }
    for id in ids.iter().chain(&ids) {
        drop(manager.connection(id).unwrap());
        assert!(open_databases(&world) <= 3, "{} open", open_databases(&world));
    }
    let held: Vec<_> = ids[..3].iter().map(|id| manager.connection(id).unwrap()).collect();
    // A fourth waits until one is given back.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| manager.connection(&ids[5]).map(drop));
        std::thread::sleep(Duration::from_millis(150));
        assert!(!waiting.is_finished());
        drop(held);
        waiting.join().unwrap().unwrap();
    });
    std::thread::sleep(Duration::from_millis(200));
    drop(manager.connection(&ids[9]).unwrap());
    assert_eq!(open_databases(&world), 1, "idle connections were kept");
}

#[test]
fn trap_13_a_connection_given_back_in_a_transaction_is_not_given_out_again() {
    let world = World::sqlite();
    let manager = manager(&world);
    manager.create(&id("a")).unwrap();
    // Begun by diesel, and behind its back.
    let mut connection = manager.connection(&id("a")).unwrap();
    <ProjectConnection as Connection>::TransactionManager::begin_transaction(&mut *connection).unwrap();
    insert(&mut connection, "never committed").unwrap();
    drop(connection);
    let mut connection = manager.connection(&id("a")).unwrap();
    connection.batch_execute("BEGIN").unwrap();
    insert(&mut connection, "never committed either").unwrap();
    drop(connection);
    let mut connection = manager.connection(&id("a")).unwrap();
    assert_eq!(names(&mut connection), Vec::<String>::new());
    insert(&mut connection, "committed").unwrap();
}

#[test]
fn trap_14_connections_to_a_project_in_memory_share_its_database() {
    let manager = Manager::in_memory(catalog()).unwrap();
    manager.create(&id("a")).unwrap();
    manager.create(&id("b")).unwrap();
    let (mut one, mut two) = (manager.connection(&id("a")).unwrap(), manager.connection(&id("a")).unwrap());
    insert(&mut one, "seen by both").unwrap();
    assert_eq!(names(&mut two), ["seen by both"]);
    assert_eq!(names(&mut manager.connection(&id("b")).unwrap()), Vec::<String>::new());
    drop((one, two));
    assert_eq!(names(&mut manager.connection(&id("a")).unwrap()), ["seen by both"]);
    assert_eq!(manager.create(&id("a")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let other = Manager::in_memory(catalog()).unwrap();
    assert_eq!(other.store().discover().unwrap().projects.len(), 0);
}

#[test]
fn the_observer_sees_every_event_in_order_on_the_callers_thread() {
    let mut world = World::sqlite();
    world.with_legacy();
    let manager = manager(&world);
    let (thread, mut names) = (std::thread::current().id(), Vec::new());
    let summary = manager
        .upgrade_all(|event| {
            assert_eq!(std::thread::current().id(), thread);
            names.push(match event {
                Event::RunStarted(_) => "started",
                Event::LeftOut(_) => "left out",
                Event::ProjectFinished(_) => "project",
                Event::RunFinished(_) => "finished",
            });
        })
        .unwrap();
    assert_eq!((names.len(), names[0], names[12]), (13, "started", "finished"));
    assert_eq!((summary.outcomes.count("upgraded"), summary.exit), (11, 0));
}

#[test]
fn a_catalog_of_another_database_is_refused() {
    let files = [("1_a/up.sql", "SELECT 1")];
    let catalog = Catalog::from_files("test", Dialect::Postgres, files).unwrap();
    assert_eq!(Manager::in_memory(catalog).err().map(|error| error.kind()), Some(ErrorKind::Configuration));
}
