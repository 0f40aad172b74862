//! Creating databases, all or nothing and already migrated, and dropping them.

use std::process::Stdio;

use crate::world::World;

on_each_store!(
    a_new_database_is_what_replaying_the_migrations_gives,
    a_project_that_exists_is_refused_and_left_as_it_was,
    of_two_creates_of_one_id_one_succeeds,
    drop_keeps_the_rows,
);
on_files!(
    drop_keeps_a_last_copy,
    trap_17_a_last_copy_has_what_is_only_in_the_wal,
    drop_asks_and_waits_for_nobody,
);

fn a_new_database_is_what_replaying_the_migrations_gives(world: &mut World) {
    let tables = world.either(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT DEFAULT 'a');\nINSERT INTO t (x) VALUES ('seed');\n\
         PRAGMA user_version = 7;\nPRAGMA application_id = 42;",
        "CREATE TYPE mood AS ENUM ('glad', 'sad');\nCREATE TABLE t (id SERIAL PRIMARY KEY, x TEXT DEFAULT 'a', m mood);\n\
         INSERT INTO t (x) VALUES ('seed');",
    );
    world.with_migrations(&[("1_tables", tables), ("2_index", "CREATE INDEX ix ON t (x);")]);
    assert_eq!(world.expect(0, &["create", "a", "b"]).count("created"), 2);
    // Upgrading an empty database runs all migrations.
    world.with_project("c", "CREATE TABLE gone (id INTEGER); DROP TABLE gone;");
    assert_eq!(world.expect(0, &["upgrade", "c"]).outcome("c"), "upgraded");
    let queries = [
        "SELECT version, name, checksum, action, forced, tool_version FROM tenantry_history ORDER BY sequence",
        "SELECT version FROM __diesel_schema_migrations ORDER BY version",
        "SELECT * FROM t",
    ];
    let sqlite_queries = [
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name",
        "SELECT * FROM sqlite_sequence",
        "PRAGMA user_version",
        "PRAGMA application_id",
        "PRAGMA page_size",
        "PRAGMA journal_mode",
    ];
    let postgres_queries = [
        "SELECT relname, relkind FROM pg_class WHERE relnamespace = current_schema()::regnamespace ORDER BY relname",
        "SELECT last_value FROM t_id_seq",
        "SELECT enumlabel FROM pg_enum WHERE enumtypid = 'mood'::regtype ORDER BY enumsortorder",
    ];
    for query in queries.iter().chain(world.either(sqlite_queries.as_slice(), postgres_queries.as_slice())) {
        assert_eq!(world.query("a", query), world.query("c", query), "{query}");
        assert_eq!(world.query("a", query), world.query("b", query), "{query}");
    }
    let recent =
        world.either("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-10 seconds')", "now() - interval '10 seconds'");
    let recent = format!("SELECT count(*) FROM tenantry_history WHERE started_at > {recent}");
    assert_eq!(world.query("a", &recent), ["2"]);
    if world.is_postgres() {
        return;
    }
    assert_eq!(world.files().len(), 3, "unexpected files: {:?}", world.files().keys());
}

fn a_project_that_exists_is_refused_and_left_as_it_was(world: &mut World) {
    world.with_legacy_as(1, "1");
    let before = world.contents("1");
    let report = world.expect(3, &["create", "1", "2"]);
    assert_eq!((report.error("1").0, report.outcome("2")), ("already_exists", "created"));
    assert_eq!((before, world.expect(0, &["status", "1"]).outcome("1")), (world.contents("1"), "planned"));
}

fn of_two_creates_of_one_id_one_succeeds(world: &mut World) {
    let ids: Vec<String> = (1..=40).map(|id| id.to_string()).collect();
    let arguments: Vec<&str> =
        ["--format", "json", "create"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let racers: Vec<_> = (0..4)
        .map(|_| world.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    let outputs: Vec<_> = racers
        .into_iter()
        .map(|racer| String::from_utf8(racer.wait_with_output().unwrap().stdout).unwrap())
        .collect();
    for id in &ids {
        let created = outputs.iter().flat_map(|output| output.lines()).filter(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["project"] == **id && event["outcome"] == "created"
        });
        assert_eq!(created.count(), 1, "project {id}");
    }
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 40);
    assert_eq!(world.run(&["list"]).stdout.lines().count(), 40);
}

fn drop_keeps_the_rows(world: &mut World) {
    world.with_legacy_as(1, "1").with_legacy_as(2, "2");
    assert_eq!(world.run(&["drop", "1"]).code, 2, "it was not confirmed with --yes");
    let rows = world.contents("1");
    world.expect(0, &["drop", "1", "--yes"]);
    world.expect(0, &["backup", "restore", "1", "--as", "back"]);
    let restored = world.contents("back");
    assert_eq!(restored, rows);
    assert_eq!(world.expect(0, &["drop", "2", "--yes", "--no-backup"]).outcome("2"), "dropped");
    assert_eq!(world.expect(3, &["upgrade", "2"]).error("2").0, "not_found");
}

fn trap_17_a_last_copy_has_what_is_only_in_the_wal(world: &mut World) {
    world.with_legacy_as(1, "1");
    let application = world.connect("1");
    let write = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; UPDATE tasks SET title = 'only in the wal'";
    application.execute_batch(write).unwrap();
    let rows = world.contents("1");
    // Copies the files as a killed application leaves them.
    for suffix in ["", "-wal"] {
        let file = |id: &str| world.data().join(format!("project_{id}.db{suffix}"));
        std::fs::copy(file("1"), file("2")).unwrap();
    }
    world.expect(0, &["drop", "2", "--yes"]);
    world.expect(0, &["backup", "restore", "2"]);
    assert_eq!(world.contents("2"), rows);
    drop(application);
}

fn drop_keeps_a_last_copy(world: &mut World) {
    world.with_legacy_as(1, "1").with_legacy_as(2, "2");
    // The backup contains a commit that is only in the WAL.
    world.execute("1", "PRAGMA journal_mode = WAL");
    let application = world.connect("1");
    application
        .execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE tasks SET title = 'last words' WHERE id = 1")
        .unwrap();
    let rows = world.contents("1");
    assert_eq!(world.run(&["drop", "1"]).code, 2);
    assert_eq!(world.expect(3, &["--lock-timeout", "0.2", "drop", "1", "--yes"]).error("1").0, "locked");
    drop(application);
    let report = world.expect(0, &["drop", "1", "--yes"]);
    assert_eq!(report.outcome("1"), "dropped");
    assert_eq!(crate::backup::names(world, "1"), [report.project("1")["backup"].as_str().unwrap()]);
    assert_eq!(world.run(&["list"]).stdout.lines().count(), 1);
    world.expect(0, &["backup", "restore", "1"]);
    assert_eq!(world.contents("1"), rows);
}

fn drop_asks_and_waits_for_nobody(world: &mut World) {
    world.with_legacy_as(1, "1");
    let application = world.application("1", "BEGIN IMMEDIATE");
    let before = world.snapshot();
    assert_eq!(
        world.expect(3, &["--lock-timeout", "0.2", "drop", "1", "--yes", "--no-backup"]).error("1").0,
        "locked"
    );
    assert!(before == world.snapshot());
    drop(application);
    assert_eq!(world.expect(0, &["drop", "1", "--yes", "--no-backup"]).outcome("1"), "dropped");
    assert!(world.files().is_empty());
    // Two drops within a second leave two backups.
    for _ in 0..2 {
        world.expect(0, &["create", "1"]);
        world.expect(0, &["drop", "1", "--yes"]);
    }
    assert_eq!(crate::backup::names(world, "1").len(), 2);
}
