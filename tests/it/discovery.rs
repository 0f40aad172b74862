//! Discovery: which files in a store's folder are projects, and which are skipped (traps 15 and 16).

use crate::world::{Ran, World};

fn skipped(world: &World) -> Vec<(String, String)> {
    let report = world.expect(0, &["status", "--allow-empty"]);
    let text = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap().to_string();
    report.events("left_out").into_iter().map(|event| (text(event, "name"), text(event, "reason"))).collect()
}

#[test]
fn trap_16_what_is_no_database_is_told_before_opening_and_never_touched() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1").expect(0, &["upgrade", "1"]);
    let data = world.data();
    std::os::unix::fs::symlink(world.path("1"), data.join("project_link.db")).unwrap();
    std::os::unix::fs::symlink("/nowhere", data.join("project_dangling.db")).unwrap();
    std::fs::create_dir(data.join("project_folder.db")).unwrap();
    std::fs::write(data.join("project_empty.db"), "").unwrap();
    std::fs::write(data.join("project_1.bak.db"), "x").unwrap();
    std::fs::write(data.join("project_9.db-wal"), "x").unwrap();
    std::fs::write(data.join("notes.txt"), "x").unwrap();
    assert!(Ran::of(std::process::Command::new("mkfifo").arg(data.join("project_pipe.db"))).code == 0);
    let before = world.snapshot();
    let found = skipped(&world);
    let reasons: Vec<_> = found.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    assert_eq!(
        reasons,
        [
            "project_1.bak.db: project id \"1.bak\" has a character other than A-Z a-z 0-9 _ -",
            "project_9.db-wal: left over from project_9.db, which does not exist",
            "project_dangling.db: a symbolic link",
            "project_empty.db: an empty file",
            "project_folder.db: a folder",
            "project_link.db: a symbolic link",
            "project_pipe.db: a named pipe",
        ]
    );
    let human = world.run(&["upgrade-all"]);
    assert!(human.stdout.contains("skipped project_pipe.db: a named pipe"), "{}", human.stdout);
    // Requested by id, each is refused.
    for (id, kind) in
        [("link", "not_a_project"), ("pipe", "not_a_project"), ("empty", "not_a_project"), ("9", "not_found")]
    {
        assert_eq!(world.expect(3, &["upgrade", id]).error(id).0, kind);
    }
    assert_eq!(world.expect(3, &["create", "9"]).error("9").0, "already_exists");
    assert_eq!(world.expect(3, &["create", "link"]).error("link").0, "already_exists");
    assert!(before == world.snapshot());
}

#[test]
fn trap_16_one_database_under_two_names_is_left_alone() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1").with_legacy_as(2, "2");
    std::fs::hard_link(world.path("1"), world.path("alias")).unwrap();
    let before = world.files();
    let report = world.expect(4, &["upgrade-all"]);
    for id in ["1", "alias"] {
        let message = "it is a hard link: one file under the names project_1.db, project_alias.db";
        assert_eq!(report.problem(id), ("several_names", message));
    }
    assert_eq!(report.outcome("2"), "upgraded");
    assert_eq!(before[&world.path("1")], world.files()[&world.path("1")]);
    // A hard link outside the store, such as in a file system snapshot, is not another project.
    std::fs::remove_file(world.path("alias")).unwrap();
    std::fs::hard_link(world.path("1"), world.folder().join("snapshot.db")).unwrap();
    assert_eq!(world.expect(0, &["upgrade", "1"]).outcome("1"), "upgraded");
}

#[test]
fn a_name_that_is_not_utf_8_is_told() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let name = std::ffi::OsStr::from_bytes(b"project_\xff.db");
    std::fs::copy(world.path("1"), world.data().join(name)).unwrap();
    assert_eq!(
        skipped(&world),
        [("project_\u{fffd}.db".to_string(), "a name that is not UTF-8".to_string())]
    );
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 1);
}

#[test]
fn a_file_that_is_no_database_is_a_failed_project() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    std::fs::write(
        world.path("2"),
        "this is a letter to my aunt, and longer than a header of a hundred bytes ".repeat(20),
    )
    .unwrap();
    let before = std::fs::read(world.path("2")).unwrap();
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!((report.outcome("1"), report.error("2").0), ("upgraded", "not_a_database"));
    assert_eq!(before, std::fs::read(world.path("2")).unwrap());
}

#[test]
fn ids_are_listed_as_people_count_and_by_any_pattern() {
    let mut world = World::sqlite();
    for id in ["10", "9", "b", "1"] {
        world.with_legacy_as(1, id);
    }
    let listed = |world: &World, arguments: &[&str]| -> Vec<String> {
        let stdout = world.run(arguments).stdout;
        stdout.lines().map(|line| line.split('\t').next().unwrap().to_string()).collect()
    };
    assert_eq!(listed(&world, &["list"]), ["1", "9", "10", "b"]);
    std::fs::rename(world.path("b"), world.data().join("tenant[b].sqlite3")).unwrap();
    assert_eq!(listed(&world, &["list", "--pattern", "tenant[{id}].sqlite3"]), ["b"]);
    assert_eq!(world.run(&["list", "--pattern", "tenant.sqlite3"]).code, 2);
}

#[test]
fn a_folder_with_odd_characters_is_a_folder_like_any_other() {
    let mut world = World::sqlite();
    world.with_legacy_as(1, "1");
    let renamed = world.folder().join("a [b]?c#d%20 é");
    std::fs::rename(world.data(), &renamed).unwrap();
    let mut command = world.command(&["upgrade-all", "--store"]);
    let ran = Ran::of(command.arg(format!("sqlite:{}", renamed.display())));
    assert_eq!((ran.code, ran.stdout.contains("1 upgraded")), (0, true), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn trap_3_a_mistyped_id_makes_no_file() {
    let world = World::sqlite();
    for arguments in
        [&["upgrade", "7"][..], &["status", "7"], &["stamp", "7"], &["downgrade", "7", "--steps", "1"]]
    {
        assert_eq!(world.expect(3, arguments).error("7").0, "not_found");
    }
    assert_eq!(world.expect(3, &["drop", "7", "--yes"]).error("7").0, "not_found");
    for id in ["../7", "a/b", "", "a b", "x\";DROP TABLE y"] {
        assert_eq!(world.run(&["upgrade", id]).code, 2, "{id:?}");
    }
    assert!(world.files().is_empty());
}
