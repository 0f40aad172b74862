//! Extensions of SQLite that the application loads: tenantry loads them as well if the settings name them, and otherwise
//! says what it could not check.

use std::path::PathBuf;
use std::process::Command;

use crate::world::World;

on_files!(
    a_loaded_extension_is_known_to_every_command,
    what_stays_unknown_is_named_and_hinders_nothing_else,
    an_extension_that_cannot_be_loaded_is_named,
);

const NOTES: &str = "CREATE TABLE notes (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE backward, \
     twice INTEGER GENERATED ALWAYS AS (doubled(id)) STORED);\nCREATE INDEX notes_name ON notes (name);\n\
     INSERT INTO notes (id, name) VALUES (1, 'a'), (2, 'b');";
const PLAIN: (&str, &str) =
    ("2_plain", "CREATE TABLE plain (id INTEGER PRIMARY KEY);\n-- down\nDROP TABLE plain;");

fn library(world: &World) -> PathBuf {
    let library = world.folder().join("extension.so");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/extension.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let status =
        Command::new(compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(status.expect("the C compiler runs").success());
    library
}

fn settings(world: &World, text: &str) {
    std::fs::write(world.folder().join("tenantry.toml"), text).unwrap();
}

fn a_loaded_extension_is_known_to_every_command(world: &mut World) {
    let library = library(world);
    let load = format!("[sqlite]\nload = [{:?}]\n", library.display().to_string());
    world.with_migrations(&[("1_notes", NOTES)]);
    assert!(world.run(&["create", "a"]).stderr.contains("backward"));
    settings(world, &load);
    world.expect(0, &["create", "a", "b"]);
    world.with_migrations(&[("1_notes", NOTES), PLAIN]);
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 2);
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 2);
    let checked = world.expect(0, &["check", "--all"]);
    assert_eq!((checked.count("checked"), checked.project("a")["notes"].to_string()), (2, "[]".into()));
    world.expect(0, &["backup", "create", "a"]);
    let checked = world.expect(0, &["backup", "check", "a", "--level", "4"]);
    assert_eq!((checked.outcome("a"), checked.project("a")["notes"].to_string()), ("verified", "[]".into()));
    world.expect(0, &["backup", "restore", "a"]);
    let file = world.folder().join("a.sql");
    std::fs::write(&file, world.run(&["export", "a"]).stdout).unwrap();
    world.expect(0, &["import", "copy", file.to_str().unwrap()]);
    assert_eq!(world.query("copy", "SELECT twice FROM notes ORDER BY id"), ["2", "4"]);
    world.expect(0, &["vacuum", "copy"]);
    world.expect(0, &["downgrade", "a", "--steps", "1"]);
}

fn what_stays_unknown_is_named_and_hinders_nothing_else(world: &mut World) {
    let library = library(world);
    settings(world, &format!("[sqlite]\nload = [{:?}]\n", library.display().to_string()));
    world.with_migrations(&[
        ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, name TEXT NOT NULL);"),
        PLAIN,
    ]);
    world.expect(0, &["create", "a"]);
    // The application has an index that only it can read. The migrations do not know it.
    settings(
        world,
        &format!("[sqlite]\nload = [{:?}]\n[schema]\nignore = [\"own_*\"]\n", library.display().to_string()),
    );
    let extra = world.folder().join("extra.sql");
    std::fs::write(&extra, "SELECT 1").unwrap();
    let connection = world.connect("a");
    connection.create_collation("backward", |a: &str, b: &str| b.cmp(a)).unwrap();
    connection.execute_batch("CREATE TABLE own_names (name TEXT COLLATE backward PRIMARY KEY); INSERT INTO own_names VALUES ('x')").unwrap();
    drop(connection);
    settings(world, "[schema]\nignore = [\"own_*\"]\n");
    let checked = world.expect(0, &["check", "a"]);
    assert!(checked.project("a")["notes"].to_string().contains("own_names"), "{}", checked.project("a"));
    world.expect(0, &["backup", "create", "a"]);
    let checked = world.expect(0, &["backup", "check", "a"]);
    assert!(
        checked.outcome("a") == "verified" && checked.project("a").to_string().contains("own_names"),
        "{}",
        checked.project("a")
    );
    // An upgrade that does not touch it goes through.
    world.with_migrations(&[
        ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, name TEXT NOT NULL);"),
        PLAIN,
        (
            "3_more",
            "CREATE TABLE more (id INTEGER PRIMARY KEY);\nUPDATE notes SET name = 'x';\nDELETE FROM plain;",
        ),
    ]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
    let file = world.folder().join("a.sql");
    std::fs::write(&file, world.run(&["export", "a"]).stdout).unwrap();
    settings(
        world,
        &format!("[sqlite]\nload = [{:?}]\n[schema]\nignore = [\"own_*\"]\n", library.display().to_string()),
    );
    world.expect(0, &["import", "copy", file.to_str().unwrap()]);
    assert_eq!(world.query("copy", "SELECT count(*) FROM own_names"), ["1"]);
}

fn an_extension_that_cannot_be_loaded_is_named(world: &mut World) {
    world.with_migrations(&[PLAIN]);
    world.expect(0, &["create", "a"]);
    settings(world, "[sqlite]\nload = [\"no_such_extension\"]\n");
    let ran = world.run(&["upgrade-all"]);
    assert!(ran.code != 0, "{}", ran.stdout);
    let text = ran.stdout + &ran.stderr;
    assert!(
        text.contains("cannot load the extension no_such_extension") && text.contains("[sqlite] load"),
        "{text}"
    );
}
