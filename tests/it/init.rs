//! A fleet without migrations begins with the schema of one of its databases.

use crate::world::World;

on_each_store!(
    a_fleet_without_migrations_begins_with_the_schema_of_a_project,
    what_begins_with_nothing_is_refused,
);
on_files!(a_file_outside_of_the_fleet_can_be_the_model);

const SCHEMA: &str = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL DEFAULT 'a.b; c'); \
    CREATE TABLE tags (note INTEGER NOT NULL REFERENCES notes (id), name TEXT NOT NULL, PRIMARY KEY (note, name)); \
    CREATE INDEX tags_name ON tags (name); CREATE VIEW named AS SELECT n.text, t.name FROM notes n JOIN tags t ON t.note = n.id; \
    INSERT INTO notes (id, text) VALUES (1, 'one');";

/// Without a folder of migrations.
fn fleet(world: &mut World) {
    for id in ["a", "b", "c"] {
        world.with_project(id, SCHEMA);
    }
    world.execute("c", "ALTER TABLE notes ADD COLUMN extra TEXT");
}

fn a_fleet_without_migrations_begins_with_the_schema_of_a_project(world: &mut World) {
    fleet(world);
    // Another tool's table is not part of the schema.
    world.execute("a", "CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY)");
    let ran = world.run(&["init", "--from", "a"]);
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("extra column extra"), "{}", ran.stdout);
    assert!(ran.stderr.contains("wrote tenantry.toml"), "{}", ran.stderr);
    let folder =
        std::fs::read_dir(world.folder().join("migrations")).unwrap().next().unwrap().unwrap().path();
    let up = std::fs::read_to_string(folder.join("up.sql")).unwrap();
    assert!(up.contains("notes") && !up.contains("schema_migrations") && !up.contains("project_a"), "{up}");
    world.expect(0, &["stamp", "a", "b"]);
    assert_eq!(world.expect(4, &["stamp", "c"]).outcome("c"), "blocked");
    world.expect(0, &["create", "new"]);
    assert_eq!(world.query("new", "SELECT count(*) FROM notes"), ["0"]);
    assert_eq!(world.expect(0, &["status", "a", "b", "new"]).count("up_to_date"), 3);
    // Nothing is overwritten.
    let again = world.run(&["init", "--from", "b"]);
    assert!(again.code == 2 && again.stderr.contains("exists already"), "{}", again.stderr);
    assert!(world.run(&["init"]).stderr.contains("exists already"));
}

fn what_begins_with_nothing_is_refused(world: &mut World) {
    world.with_project("empty", "CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY)");
    let ran = world.run(&["init", "--from", "empty"]);
    assert!(ran.code != 0 && ran.stderr.contains("has no tables"), "{}{}", ran.stdout, ran.stderr);
    let ran = world.run(&["init", "--from", "nobody"]);
    assert!(ran.code != 0, "{}{}", ran.stdout, ran.stderr);
    assert!(!world.folder().join("tenantry.toml").exists() && !world.folder().join("migrations").exists());
    world.expect(0, &["init"]);
    assert!(world.folder().join("migrations").is_dir());
}

fn a_file_outside_of_the_fleet_can_be_the_model(world: &mut World) {
    fleet(world);
    let model = world.folder().join("model.sqlite3");
    std::fs::copy(world.path("c"), &model).unwrap();
    let ran = world.run(&["init", "--from", model.to_str().unwrap()]);
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(world.expect(0, &["stamp", "c"]).outcome("c"), "stamped");
}

/// An application that has not been split by project yet has its tables in the schema `public`.
#[test]
fn the_schema_public_of_another_database_can_be_the_model() {
    let world = &mut World::postgres();
    fleet(world);
    let model = World::postgres();
    let sql = world.database().dump(&["--schema=project_a", "--schema-only"]);
    model
        .database()
        .run(&["-c", &sql.replace("CREATE SCHEMA project_a;", "").replace("project_a", "public")]);
    let ran = world.run(&["init", "--from", &model.url()]);
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("extra column extra"), "{}", ran.stdout);
    assert_eq!(world.expect(0, &["stamp", "a"]).outcome("a"), "stamped");
    let settings = std::fs::read_to_string(world.folder().join("tenantry.toml")).unwrap();
    assert!(!settings.contains(&model.database().name), "{settings}");
    world.expect(0, &["create", "new"]);
    assert_eq!(world.query("new", "SELECT count(*) FROM notes"), ["0"]);
}
