//! The library as an application uses it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel::connection::{SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel_migrations::MigrationHarness as _;
use tenantry::catalog::FolderOptions;
use tenantry::config::{Config, JournalPlace, Layer};
use tenantry::event::Event;
use tenantry::journal::Journal;
use tenantry::{Catalog, Dialect, ErrorKind, Manager, ProjectConnection, ProjectId};

use crate::world::World;

on_each_store!(
    what_an_application_does_with_one_project_is_a_call,
    a_connection_outlives_the_borrow_of_its_manager,
    diesel_finds_nothing_pending_on_what_tenantry_upgraded_and_the_other_way_round,
    a_connection_is_diesels_and_waits_for_the_right_version,
    a_project_that_another_process_moved_is_not_given_out,
    connections_are_bounded_over_the_fleet_and_idle_ones_are_closed,
    trap_13_a_connection_given_back_in_a_transaction_is_not_given_out_again,
    the_observer_sees_every_event_in_order_on_the_callers_thread,
    what_an_application_does_is_in_the_journal,
);

fn catalog(world: &World) -> Catalog {
    Catalog::embedded("project", world.either(Dialect::Sqlite, Dialect::Postgres)).unwrap()
}

fn config(world: &World) -> Config {
    let (journal, backups) = (world.folder().join("journal"), world.folder().join("backups"));
    let layer = Layer {
        store: Some(world.url()),
        journal: Some(JournalPlace::Folder(journal)),
        backups: Some(backups),
        ..Layer::default()
    };
    Config::new(layer).unwrap()
}

fn manager(world: &World) -> Manager {
    config(world).manager().unwrap()
}

fn id(text: &str) -> ProjectId {
    text.parse().unwrap()
}

diesel::table! {
    projects (id) {
        id -> Integer,
        name -> Text,
    }
}

fn insert(connection: &mut ProjectConnection, name: &str) -> QueryResult<()> {
    let sql = format!("INSERT INTO projects (name, current_phase) VALUES ('{name}', 'CODER')");
    connection.batch_execute(&sql)
}

/// Runs `$work` on a plain diesel connection to a project, for either database.
macro_rules! with_diesel {
    ($world:expr, $id:expr, $connection:ident => $work:expr) => {
        match $world.own_connection($id) {
            ProjectConnection::Sqlite(mut $connection) => $work,
            ProjectConnection::Postgres(mut $connection) => $work,
        }
    };
}

fn names(connection: &mut ProjectConnection) -> Vec<String> {
    projects::table.select(projects::name).order(projects::id).load(connection).unwrap()
}

fn diesel_finds_nothing_pending_on_what_tenantry_upgraded_and_the_other_way_round(world: &mut World) {
    world.with_legacy_as(1, "1").with_legacy_as(2, "2");
    let manager = manager(world);
    assert_eq!(manager.upgrade_all(|_| {}).unwrap().exit, 0);
    #[expect(clippy::disallowed_methods, reason = "the test compares with diesel's own harness")]
    {
        with_diesel!(world, "1", connection => {
            assert!(!connection.has_pending_migration(catalog(world)).unwrap());
            assert_eq!(connection.applied_migrations().unwrap().len(), 3);
        });
    }
    // diesel can also revert, in a project without rows: with rows, its enforced foreign keys refuse the rebuild.
    manager.create(&id("4")).unwrap();
    with_diesel!(world, "4", connection => { connection.revert_last_migration(catalog(world)).unwrap(); });
    assert_eq!(manager.status(&id("4")).unwrap().pending.len(), 1);
    assert_eq!(manager.upgrade(&id("4")).unwrap().migrations.len(), 1);
    // tenantry manages a database that diesel migrated, without a takeover.
    world.with_project("3", "SELECT 1");
    with_diesel!(world, "3", connection => { connection.run_pending_migrations(catalog(world)).unwrap(); });
    assert!(manager.status(&id("3")).unwrap().is_current());
}

fn a_connection_is_diesels_and_waits_for_the_right_version(world: &mut World) {
    let manager = manager(world);
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
    let fresh = self::manager(world);
    assert_eq!(fresh.connection(&id("a")).err().map(|error| error.kind()), Some(ErrorKind::VersionMismatch));
    assert_eq!(world.expect(3, &["status", "absent"]).error("absent").0, "not_found");
}

fn a_project_that_another_process_moved_is_not_given_out(world: &mut World) {
    let manager = manager(world);
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
    // With a rollback journal, reading waits for the writer's exclusive lock.
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

/// How many connections to the store this process has open.
fn open_databases(world: &World) -> usize {
    if world.is_postgres() {
        // Excludes the store's own connection and the one that runs this query.
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                   AND application_name = 'tenantry' AND query NOT LIKE '%tenantry%' AND query NOT LIKE 'COMMIT%'";
        return world.database().run(&["-c", sql])[0].parse().unwrap();
    }
    let folder = world.data().canonicalize().unwrap();
    let links = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|path| path.starts_with(&folder)).count()
}

fn connections_are_bounded_over_the_fleet_and_idle_ones_are_closed(world: &mut World) {
    let manager = manager(world).with_connections(3, Duration::from_millis(100));
    let ids: Vec<ProjectId> = (1..=10).map(|number| id(&number.to_string())).collect();
    for id in &ids {
        manager.create(id).unwrap();
    }
    for id in ids.iter().chain(&ids) {
        drop(manager.connection(id).unwrap());
        assert!(open_databases(world) <= 3, "{} open", open_databases(world));
    }
    let held: Vec<_> = ids[..3].iter().map(|id| manager.connection(id).unwrap()).collect();
    // A fourth connection waits until one is returned.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| manager.connection(&ids[5]).map(drop));
        std::thread::sleep(Duration::from_millis(150));
        assert!(!waiting.is_finished());
        drop(held);
        waiting.join().unwrap().unwrap();
    });
    std::thread::sleep(Duration::from_millis(200));
    drop(manager.connection(&ids[9]).unwrap());
    assert_eq!(open_databases(world), 1, "idle connections were kept");
}

fn trap_13_a_connection_given_back_in_a_transaction_is_not_given_out_again(world: &mut World) {
    let manager = manager(world);
    manager.create(&id("a")).unwrap();
    // The first transaction is begun by diesel, the second by SQL that diesel does not see.
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
    let manager = Manager::in_memory(Catalog::embedded("project", Dialect::Sqlite).unwrap()).unwrap();
    manager.create(&id("a")).unwrap();
    manager.create(&id("b")).unwrap();
    let (mut one, mut two) = (manager.connection(&id("a")).unwrap(), manager.connection(&id("a")).unwrap());
    insert(&mut one, "seen by both").unwrap();
    assert_eq!(names(&mut two), ["seen by both"]);
    assert_eq!(names(&mut manager.connection(&id("b")).unwrap()), Vec::<String>::new());
    drop((one, two));
    assert_eq!(names(&mut manager.connection(&id("a")).unwrap()), ["seen by both"]);
    assert_eq!(manager.create(&id("a")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let other = Manager::in_memory(Catalog::embedded("project", Dialect::Sqlite).unwrap()).unwrap();
    assert_eq!(other.store().discover().unwrap().projects.len(), 0);
}

fn the_observer_sees_every_event_in_order_on_the_callers_thread(world: &mut World) {
    world.with_legacy();
    let manager = manager(world);
    let (thread, mut names) = (std::thread::current().id(), Vec::new());
    let summary = manager
        .upgrade_all(|event| {
            assert_eq!(std::thread::current().id(), thread);
            names.push(match event {
                Event::RunStarted(_) => "started",
                Event::Skipped(_) => "left out",
                Event::ProjectFinished(_) => "project",
                Event::KilledRun(_) => "completed",
                Event::Backups(_) => "backups",
                Event::Note(_) => "note",
                Event::RunFinished(_) => "finished",
                _ => "another",
            });
        })
        .unwrap();
    let count = usize::try_from(world.legacy_count()).unwrap();
    assert_eq!((names.len(), names[0], names[count + 1]), (count + 2, "started", "finished"));
    assert_eq!((summary.outcomes.count("upgraded"), summary.exit), (count, 0));
}

fn what_an_application_does_is_in_the_journal(world: &mut World) {
    let folder = world.folder().join("its journal");
    let manager = manager(world).with_journal(Journal::new(&folder, "the application"));
    manager.create(&id("a")).unwrap();
    assert_eq!(manager.create(&id("a")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let mut entries = Vec::new();
    Journal::new(&folder, "")
        .for_each_entry(|entry| entries.push((entry.actor, entry.kind, entry.command)))
        .unwrap();
    let entry = |kind: &str| ("the application".to_string(), kind.to_string(), "create".to_string());
    let run = [entry("run_started"), entry("run_finished")];
    assert_eq!(entries, [run.clone(), run].concat());
}

#[test]
fn a_catalog_of_another_database_is_refused() {
    let files = [("1_a/up.sql", "SELECT 1")];
    let catalog = Catalog::from_files("test", Dialect::Postgres, files).unwrap();
    assert_eq!(Manager::in_memory(catalog).err().map(|error| error.kind()), Some(ErrorKind::Configuration));
}

/// A cached reference that was built without the down scripts is not used for a downgrade.
#[test]
fn a_downgrade_looks_at_the_down_scripts_whatever_was_asked_before() {
    use tenantry::manager::{DowngradeTarget, IfDrifted, Request};
    use tenantry::manager::{Operation, Run, Selection};
    let files = [
        ("1_one/up.sql", "CREATE TABLE one (a INTEGER);"),
        ("2_two/up.sql", "CREATE TABLE two (a INTEGER);"),
        ("2_two/down.sql", "DROP TABLE two; CREATE INDEX left_over ON one (a);"),
    ];
    let manager = Manager::in_memory(Catalog::from_files("notes", Dialect::Sqlite, files).unwrap()).unwrap();
    manager.create(&id("a")).unwrap();
    assert!(manager.status(&id("a")).unwrap().is_current());
    let request = Request::Downgrade { target: DowngradeTarget::Steps(1), drift: IfDrifted::Refuse };
    let run = Run::new(Selection::Ids(vec![id("a")]), Operation::Migrate(request));
    let summary = manager.run(&run, |_| {}).unwrap();
    assert_eq!((summary.outcomes.count("blocked"), summary.exit), (1, 4));
}

fn what_an_application_does_with_one_project_is_a_call(world: &mut World) {
    use tenantry::manager::{FinalBackup, Source};
    let manager = manager(world);
    let (a, b) = (id("a"), id("b"));
    manager.create(&a).unwrap();
    assert_eq!(manager.list().unwrap(), std::slice::from_ref(&a));
    insert(&mut manager.connection(&a).unwrap(), "kept").unwrap();
    let name = manager.backup(&a, Some("mine")).unwrap().backup.unwrap();
    assert_eq!(manager.backups(&a).unwrap()[0].name, name);
    insert(&mut manager.connection(&a).unwrap(), "lost").unwrap();
    manager.check(&a).unwrap();
    manager.restore(&a, Source::Named("mine".into())).unwrap();
    manager.restore_as(&a, Source::Named(name), &b).unwrap();
    for id in [&a, &b] {
        assert_eq!(names(&mut manager.connection(id).unwrap()), ["kept"]);
    }
    manager.stamp(&a).unwrap();
    manager.drop(&b, FinalBackup::Skip).unwrap();
    assert_eq!(manager.list().unwrap(), std::slice::from_ref(&a));
    // Hints name methods of the library, not commands.
    let exists = manager.create(&a).unwrap_err();
    assert!(exists.hint().unwrap().contains("Manager::status"), "{exists:?}");
    let missing = manager.upgrade(&id("missing")).unwrap_err();
    assert!(!missing.hint().unwrap_or_default().contains("tenantry "), "{missing:?}");
    // The journal records these runs like those of the command.
    let mut commands = Vec::new();
    config(world)
        .journal()
        .unwrap()
        .for_each_entry(|entry| {
            if entry.kind == "run_started" {
                commands.push(entry.command);
            }
        })
        .unwrap();
    assert!(
        ["create", "backup create", "backup restore", "stamp", "drop"]
            .iter()
            .all(|it| commands.iter().any(|found| found == it)),
        "{commands:?}"
    );
}

fn a_connection_outlives_the_borrow_of_its_manager(world: &mut World) {
    let manager = std::sync::Arc::new(manager(world));
    manager.create(&id("a")).unwrap();
    let connection = manager.connection(&id("a")).unwrap();
    // The connection moves to another thread, as in a task of an asynchronous runtime.
    let task = std::thread::spawn(move || {
        let mut connection = connection;
        insert(&mut connection, "from a task").unwrap();
        names(&mut connection)
    });
    drop(manager);
    assert_eq!(task.join().unwrap(), ["from a task"]);
}

/// The limit on open connections holds when many threads request one at the same time, also if none are kept idle.
#[test]
fn threads_at_once_never_exceed_the_bound() {
    let mut world = World::sqlite();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    for idle in [Duration::ZERO, Duration::from_mins(1)] {
        let catalog = Catalog::from_directory(
            &world.folder().join("migrations"),
            Dialect::Sqlite,
            &FolderOptions::default(),
        )
        .unwrap();
        let store =
            tenantry::store::SqliteStore::new(world.data(), tenantry::store::SqliteOptions::default());
        let manager = Manager::new(store, catalog).unwrap().with_connections(2, idle);
        let (a, b) = (id(&format!("a{}", idle.as_secs())), id(&format!("b{}", idle.as_secs())));
        manager.create(&a).unwrap();
        manager.create(&b).unwrap();
        let (open, most_open) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // One connection is in use, so that a thread that finds the idle one taken has to wait.
        let held = manager.connection(&b).unwrap();
        for _ in 0..60 {
            drop(manager.connection(&a).unwrap());
            let barrier = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        barrier.wait();
                        let connection = manager.connection(&a).unwrap();
                        most_open.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 2, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(1));
                        open.fetch_sub(1, Ordering::SeqCst);
                        drop(connection);
                    });
                }
            });
        }
        drop(held);
        assert_eq!(most_open.into_inner(), 2);
    }
}
