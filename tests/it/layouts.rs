//! Folders of migrations as other tools have them.

use std::path::{Path, PathBuf};

use crate::world::World;

on_each_store!(
    every_layout_gives_the_same_migrations,
    what_a_layout_can_not_be_read_for_is_named,
    a_script_without_a_transaction_is_marked_as_its_tool_does,
    each_direction_has_its_own_transaction,
    a_layout_can_be_named,
    what_looks_like_another_tools_mark_is_sql,
    the_folders_of_the_five_systems_are_read_as_they_are,
    flyways_versions_may_have_points,
);

/// The same five migrations in every layout: name, up, down.
pub(crate) const SET: [Migration; 5] = [
    (
        "create_notes",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT NOT NULL);",
        "DROP TABLE notes;",
    ),
    ("create_tags", "CREATE TABLE tags (id INTEGER PRIMARY KEY, name TEXT NOT NULL);", "DROP TABLE tags;"),
    (
        "pin_notes",
        "ALTER TABLE notes ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;\nUPDATE notes SET pinned = 1 WHERE title LIKE 'pin;%';",
        "ALTER TABLE notes DROP COLUMN pinned;",
    ),
    ("index_tags", "CREATE INDEX tags_name ON tags (name);", "DROP INDEX tags_name;"),
    ("pinned_view", "CREATE VIEW pinned AS SELECT id FROM notes WHERE pinned = 1;", "DROP VIEW pinned;"),
];

/// A name, up and down.
pub(crate) type Migration = (&'static str, &'static str, &'static str);
/// Names and texts.
pub(crate) type Files = Vec<(String, String)>;

pub(crate) struct Case {
    pub(crate) layout: &'static str,
    /// The version of the n-th migration.
    pub(crate) version: fn(usize) -> String,
    /// The files of a migration, by its version.
    pub(crate) files: fn(&str, Migration) -> Files,
    has_down: bool,
}

fn date(index: usize) -> String {
    format!("2025060{}120000", index + 1)
}

pub(crate) const CASES: [Case; 11] = [
    Case {
        layout: "sqlx, simple",
        version: date,
        files: |version, (name, up, _)| vec![(format!("{version}_{name}.sql"), up.into())],
        has_down: false,
    },
    Case {
        layout: "sqlx, reversible",
        version: date,
        files: |version, (name, up, down)| {
            vec![
                (format!("{version}_{name}.up.sql"), up.into()),
                (format!("{version}_{name}.down.sql"), down.into()),
            ]
        },
        has_down: true,
    },
    Case {
        layout: "golang-migrate",
        version: |index| (index + 8).to_string(),
        files: |version, (name, up, down)| {
            let framed = |sql: &str| format!("BEGIN;\n{sql}\nCOMMIT;\n");
            vec![
                (format!("{version}_{name}.up.sql"), framed(up)),
                (format!("{version}_{name}.down.sql"), framed(down)),
            ]
        },
        has_down: true,
    },
    Case {
        // Atlas' own commands also write a name, as sqlx does.
        layout: "Atlas, without names",
        version: date,
        files: |version, (_, up, _)| vec![(format!("{version}.sql"), up.into())],
        has_down: false,
    },
    Case {
        layout: "refinery",
        version: |index| (index + 8).to_string(),
        files: |version, (name, up, _)| vec![(format!("V{version}__{name}.sql"), up.into())],
        has_down: false,
    },
    Case {
        layout: "Flyway",
        version: |index| (index + 8).to_string(),
        files: |version, (name, up, down)| {
            vec![
                (format!("V{version}__{name}.sql"), up.into()),
                (format!("U{version}__{name}.sql"), down.into()),
            ]
        },
        has_down: true,
    },
    Case {
        layout: "dbmate",
        version: date,
        files: |version, (name, up, down)| {
            vec![(
                format!("{version}_{name}.sql"),
                format!("-- migrate:up\n{up}\n\n-- migrate:down\n{down}\n"),
            )]
        },
        has_down: true,
    },
    Case {
        layout: "goose",
        version: |index| format!("{:05}", index + 1),
        files: |version, (name, up, down)| {
            let sql = format!(
                "-- +goose Up\n-- +goose StatementBegin\n{up}\n-- +goose StatementEnd\n\n-- +goose Down\n{down}\n"
            );
            vec![(format!("{version}_{name}.sql"), sql)]
        },
        has_down: true,
    },
    Case {
        layout: "wrangler",
        version: |index| format!("{index:04}"),
        files: |version, (name, up, _)| vec![(format!("{version}_{name}.sql"), up.into())],
        has_down: false,
    },
    Case {
        layout: "drizzle",
        version: |index| format!("{index:04}"),
        files: |version, (name, up, _)| {
            let sql = up.replace(";\nUPDATE", ";\n--> statement-breakpoint\nUPDATE");
            vec![(format!("{version}_{name}.sql"), sql)]
        },
        has_down: false,
    },
    Case {
        layout: "Prisma",
        version: date,
        files: |version, (name, up, _)| vec![(format!("{version}_{name}/migration.sql"), up.into())],
        has_down: false,
    },
];

fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Makes a folder the world's migrations.
pub(crate) fn folder(world: &mut World, name: &str) -> PathBuf {
    world.with_migrations(&[]);
    let folder = world.folder().join("migrations");
    std::fs::create_dir_all(folder.join(name)).unwrap();
    folder.join(name)
}

pub(crate) fn write_set(folder: &Path, case: &Case, count: usize) {
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::create_dir(folder).unwrap();
    let mut tags = Vec::new();
    for (index, migration) in SET.into_iter().enumerate().take(count) {
        let version = (case.version)(index);
        for (file, text) in (case.files)(&version, migration) {
            write(folder, &file, &text);
        }
        tags.push(format!("{{\"idx\":{index},\"tag\":\"{version}_{}\"}}", migration.0));
    }
    match case.layout {
        "drizzle" => write(folder, "meta/_journal.json", &format!("{{\"entries\":[{}]}}", tags.join(","))),
        "Prisma" => write(folder, "migration_lock.toml", "provider = \"sqlite\"\n"),
        _ => {}
    }
}

fn sorted(versions: &[String]) -> Vec<String> {
    let mut versions = versions.to_vec();
    versions.sort();
    versions
}

fn every_layout_gives_the_same_migrations(world: &mut World) {
    let folder = folder(world, "");
    for (number, case) in CASES.iter().enumerate() {
        let layout = case.layout;
        let versions: Vec<String> = (0..SET.len()).map(case.version).collect();
        let (old, new) = (format!("old{number}"), format!("new{number}"));
        write_set(&folder, case, 2);
        world.expect(0, &["create", &old]);
        world.execute(&old, "INSERT INTO notes VALUES (1, 'pin; this'), (2, 'other')");
        write_set(&folder, case, 5);
        for position in 3..=5 {
            let report = world.expect(0, &["upgrade", &old, "--to", &versions[position - 1]]);
            assert_eq!(report.outcome(&old), "upgraded", "{layout}");
            assert_eq!(world.versions(&old), sorted(&versions[..position]), "{layout}");
        }
        assert_eq!(world.query(&old, "SELECT id FROM pinned"), ["1"], "{layout}");
        world.expect(0, &["create", &new]);
        assert_eq!(world.versions(&new), sorted(&versions), "{layout}");
        let listed = world.expect(0, &["migration", "list"]);
        let order: Vec<_> =
            listed.events("migration").iter().map(|it| it["version"].as_str().unwrap().to_string()).collect();
        assert_eq!(order, versions, "{layout}");
        if case.has_down {
            world.expect(0, &["downgrade", &old, "--steps", "3"]);
            assert_eq!((world.versions(&old).len(), world.tables(&old).len()), (2, 2), "{layout}");
            assert_eq!(
                world.query(&old, "SELECT title FROM notes ORDER BY id"),
                ["pin; this", "other"],
                "{layout}"
            );
        } else {
            assert_eq!(
                world.expect(4, &["downgrade", &old, "--steps", "3"]).problem(&old).0,
                "irreversible",
                "{layout}"
            );
        }
        // A new migration is written in the same layout; until it is written, it is refused.
        let made = world.run(&["migration", "new", "one more"]);
        if layout == "drizzle" {
            assert!(made.code == 2 && made.stderr.contains("drizzle-kit"), "{}", made.stderr);
            continue;
        }
        assert_eq!(made.code, 0, "{layout}: {}", made.stderr);
        let file = PathBuf::from(made.stdout.trim());
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(world.run(&["migration", "list"]).code, 2, "{layout}");
        std::fs::write(&file, text.replace("-- Write SQL", "CREATE TABLE more (id INTEGER);\n-- Write SQL"))
            .unwrap();
        world.expect(0, &["upgrade", &new]);
        assert_eq!(
            (world.versions(&new).len(), world.tables(&new).contains(&"more".to_string())),
            (6, true),
            "{layout}"
        );
    }
}

fn what_a_layout_can_not_be_read_for_is_named(world: &mut World) {
    let folder = folder(world, "");
    let one = "CREATE TABLE one (id INTEGER);";
    for (files, place, message) in [
        (&[("20250115_001_a.sql", one), ("20250115_002_b.sql", one)][..], "20250115_", "the same version"),
        (&[("V1__a.sql", one), ("R1.5__b.sql", one)], "R1.5__b.sql", "has no version"),
        (&[("V1.x__a.sql", one)], "V1.x__a.sql", "not a version"),
        (&[("V1.1__a.sql", one), ("V1_01_0__b.sql", one)], "V1_01_0__b.sql", "the same version"),
        (&[("1_a.sql", "-- migrate:up sometimes\nSELECT 1;")], "1_a.sql:1", "unknown option"),
        (&[("1_a.sql", "SELECT 1;\n-- migrate:up\nSELECT 1;")], "1_a.sql:1", "in no section"),
        (&[("1_a.sql", "-- +goose Up\nSELECT 1;\n-- +goose ENVSUB ON")], "1_a.sql:3", "unknown annotation"),
        (&[("1_a.sql", "-- +goose Down\nSELECT 1;")], "1_a.sql", "no section for up"),
        (&[("1_a.sql", one), ("2_b.up.sql", one)], "2_b.up.sql", "another layout"),
        (&[("1_a.up.sql", one), ("2_b.down.sql", one)], "2_b.down.sql", "no .up.sql of the same version"),
        (&[("1_a/up.sql", one), ("2_b.sql", one)], "2_b.sql", "two layouts"),
        (&[("1_a/up.sql", one), ("2_b/migration.sql", one)], "2_b/migration.sql", "two layouts"),
        (&[("notes.sql", one)], "notes.sql", "does not start with a version"),
        (
            &[("0000_a.sql", one), ("meta/_journal.json", "{\"entries\":[]}")],
            "meta/_journal.json",
            "lists other files",
        ),
        (&[("V1__a.sql", "SELECT '${user}';")], "V1__a.sql:1", "placeholders"),
        (
            &[("V1__a.sql", one), ("V1__a.sql.conf", "executeInTransaction=false")],
            "V1__a.sql.conf",
            "only SQL files",
        ),
        (&[("1_a.sql", "-- +goose Up\nSELECT 1;"), ("2_b.go", "package main")], "2_b.go", "only SQL files"),
        (&[("1_a/migration.sql", one), ("1_a/seed.sql", one)], "1_a/seed.sql", "unexpected file"),
        (&[("1_a/migration.sql", one), ("down.sql", one)], "down.sql", "no migration.sql beside it"),
        (&[("1_a/migration.sql", one), ("2_b/down.sql", one)], "1_a/migration.sql", "two layouts"),
        (&[("V1__a.sql", one), ("V2__b.rs", "pub fn migration() {}")], "V2__b.rs", "only SQL files"),
        (&[("V1__a.sql", one), ("V2__b.SQL", one)], "V2__b.SQL", "only SQL files"),
        (
            &[("V1__a.sql", one), ("U2__b.sql", "DROP TABLE one;")],
            "U2__b.sql",
            "no V file of the same version",
        ),
        (
            &[("1_a.sql", "SELECT 1;\n---- create above / drop below ----\nSELECT 2;")],
            "1_a.sql:2",
            "tool that is not known",
        ),
        (
            &[("1_a.sql", "-- atlas:checkpoint\n\nSELECT 1;")],
            "1_a.sql:1",
            "atlas:checkpoint is not supported",
        ),
        (&[("1_a.sql", "-- atlas:txtar\n\n-- migration.sql --\nSELECT 1;")], "1_a.sql:1", "not supported"),
        (
            &[("1_a/up.sql", one), ("meta/_journal.json", "{\"entries\":[]}")],
            "meta/_journal.json",
            "two layouts",
        ),
        // What undoes a migration would run together with it.
        (
            &[("1_a.sql", "-- +migrate Up\nSELECT 1;\n-- +migrate Down\nSELECT 2;")],
            "1_a.sql:3",
            "tool that is not known",
        ),
        (&[("1_a.sql", "SELECT 1;\n-- @UNDO\nSELECT 2;")], "1_a.sql:2", "tool that is not known"),
        // Lines are those of the file.
        (&[("1_a.sql", "-- migrate:up\nSELECT 1;\nVACUUM;\n")], "1_a.sql:3", "cannot run in a transaction"),
        (
            &[("1_a.sql", "-- a\n\n--  migrate:up\nSELECT 1;\nVACUUM;\n")],
            "1_a.sql:5",
            "cannot run in a transaction",
        ),
        (&[("1_a.sql", "--migrate:up\nSELECT 1;\n--migrate:up\nSELECT 2;")], "1_a.sql:3", "occurs twice"),
        (
            &[("1_a.sql", "-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\nVACUUM;\n")],
            "1_a.sql:4",
            "cannot run in a transaction",
        ),
    ] {
        std::fs::remove_dir_all(&folder).unwrap();
        for (file, text) in files {
            write(&folder, file, text);
        }
        let ran = world.run(&["migration", "list"]);
        assert_eq!(ran.code, 2, "{files:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(place) && ran.stderr.contains(message), "{files:?}: {}", ran.stderr);
    }
}

fn a_script_without_a_transaction_is_marked_as_its_tool_does(world: &mut World) {
    let folder = folder(world, "");
    let outside = world.either("VACUUM;", "CREATE INDEX CONCURRENTLY i ON one (id);");
    for (number, (file, text)) in [
        ("2_b.sql", format!("-- no-transaction\n{outside}")),
        ("2_b.sql", format!("-- migrate:up transaction:false\n{outside}\n-- migrate:down\nSELECT 1;")),
        ("2_b.sql", format!("-- +goose NO TRANSACTION\n-- +goose Up\n{outside}")),
    ]
    .into_iter()
    .enumerate()
    {
        let id = number.to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        let marker = ["", "-- migrate:up\n", "-- +goose Up\n"][number];
        write(&folder, "1_a.sql", &format!("{marker}CREATE TABLE one (id INTEGER);"));
        world.expect(0, &["create", &id]);
        write(&folder, file, &text);
        assert_eq!(world.expect(0, &["upgrade", &id]).outcome(&id), "upgraded", "{text}");
        let history = world.query(&id, "SELECT version, action FROM tenantry_history ORDER BY sequence");
        assert_eq!(history, ["1|apply", "2|start", "2|apply"], "{text}");
    }
}

/// The tools mark scripts or sections, not migrations. Scripts that are alone need no mark.
fn each_direction_has_its_own_transaction(world: &mut World) {
    let folder = folder(world, "");
    let outside = world.either("VACUUM;", "CREATE INDEX CONCURRENTLY i ON one (id);");
    let up = "CREATE TABLE two (id INTEGER);\nINSERT INTO two VALUES (1);";
    for (number, files) in [
        vec![("1_a.up.sql", up.to_string()), ("1_a.down.sql", format!("-- no-transaction\n{outside}"))],
        vec![("1_a.sql", format!("-- migrate:up\n{up}\n-- migrate:down transaction:false\n{outside}"))],
        // golang-migrate compares versions alone.
        vec![("1_create.up.sql", up.to_string()), ("1_drop.down.sql", "DROP TABLE two;".into())],
        vec![("1_a/migration.sql", up.to_string()), ("1_a/down.sql", "DROP TABLE two;".into())],
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::remove_dir_all(&folder).unwrap();
        for (file, text) in &files {
            write(&folder, file, text);
        }
        let id = format!("a{number}");
        world.expect(0, &["create", &id]);
        assert_eq!(world.query(&id, "SELECT action FROM tenantry_history"), ["apply"], "{files:?}");
        if number > 1 {
            world.expect(0, &["downgrade", &id, "--to", "0"]);
            assert_eq!(world.tables(&id).iter().filter(|it| *it == "two").count(), 0, "{files:?}");
        }
    }
    for files in [
        vec![("1_a/migration.sql", "CREATE TABLE one (id INTEGER);"), ("2_b/migration.sql", outside)],
        vec![("V1__a.sql", "CREATE TABLE one (id INTEGER);"), ("V2__b.sql", outside)],
        vec![("1_a.up.sql", "CREATE TABLE one (id INTEGER);"), ("2_b.up.sql", outside)],
        vec![
            ("1_a.sql", "CREATE TABLE one (id INTEGER);"),
            ("2.sql", &format!("-- atlas:txmode none\n\n{outside}")),
        ],
    ] {
        std::fs::remove_dir_all(&folder).unwrap();
        for (file, text) in &files {
            write(&folder, file, text);
        }
        let id = format!("b{}", files[0].0.len());
        world.expect(0, &["create", &id]);
        let history = world.query(&id, "SELECT action FROM tenantry_history ORDER BY sequence");
        assert_eq!(history, ["apply", "start", "apply"], "{files:?}");
        world.expect(0, &["drop", &id, "--yes"]);
    }
}

fn a_layout_can_be_named(world: &mut World) {
    let folder = folder(world, "");
    write(&folder, "V1__a.sql", "CREATE TABLE one (name TEXT);\nINSERT INTO one VALUES ('${name}');");
    write(&folder, "U2__b.sql", "CREATE TABLE two (id INTEGER);");
    assert_eq!(world.run(&["create", "a"]).code, 2);
    world.expect(0, &["--layout", "refinery", "create", "a"]);
    assert_eq!(
        (world.versions("a"), world.query("a", "SELECT name FROM one")),
        (vec!["1".into(), "2".into()], vec!["${name}".to_string()])
    );
    // The settings file names it for every command.
    std::fs::write(world.folder().join("tenantry.toml"), "[migrations]\nlayout = \"refinery\"\n").unwrap();
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 1);
    assert!(world.run(&["--layout", "sqlx", "status"]).stderr.contains("does not have the layout of sqlx"));
    let unknown = world.run(&["--layout", "cobol", "status"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("golang-migrate"), "{}", unknown.stderr);
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    assert!(world.run(&["status"]).stderr.contains("does not have the layout of refinery"));
    assert_eq!(world.run(&["--layout", "diesel", "migration", "list"]).code, 0);
}

fn what_looks_like_another_tools_mark_is_sql(world: &mut World) {
    let folder = folder(world, "");
    write(
        &folder,
        "1_a.sql",
        "-- DOWN\n-- DROP TABLE one;\n-- @see markdown\nCREATE TABLE one (up INTEGER, down INTEGER);\n\
         CREATE VIEW sums AS SELECT up\n    + down AS total FROM one;",
    );
    world.expect(0, &["create", "a"]);
    assert_eq!(world.expect(4, &["downgrade", "a", "--to", "0"]).problem("a").0, "irreversible");
}

/// The files of the systems whose sets are in the binary, under the names that their documents give them.
fn the_folders_of_the_five_systems_are_read_as_they_are(world: &mut World) {
    let folder = folder(world, "");
    let tables = |names: &[&str]| {
        let create = |name: &&str| format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY);");
        names.iter().map(create).collect::<Vec<_>>().join("\n")
    };
    let down = |name: &str| format!("\n\n-- DOWN\n-- DROP TABLE {name};\n");
    for (number, files) in [
        vec![("0000_init_architecture.sql", tables(&["components", "decisions"]))],
        vec![
            ("0000_initial.sql", tables(&["events"])),
            ("0001_webhook_destinations.sql", tables(&["destinations"])),
        ],
        vec![
            ("20250115001_create_tasks.sql", tables(&["tasks"]) + &down("tasks")),
            ("20250115002_create_workflows.sql", tables(&["workflows"]) + &down("workflows")),
        ],
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::remove_dir_all(&folder).unwrap();
        for (file, text) in &files {
            write(&folder, file, text);
        }
        let id = number.to_string();
        world.expect(0, &["create", &id]);
        assert_eq!(world.versions(&id).len(), files.len());
    }
    // sqlx would read one version, and say so only when it runs them.
    std::fs::remove_dir_all(&folder).unwrap();
    write(&folder, "20250115_001_create_tasks.sql", &tables(&["tasks"]));
    write(&folder, "20250115_002_create_workflows.sql", &tables(&["workflows"]));
    let refused = world.run(&["create", "x"]);
    assert!(refused.code == 2 && refused.stderr.contains("20250115001_notes.sql"), "{}", refused.stderr);
}

/// Each part is a number, `_` separates parts as `.` does, and zeros at the end do not count.
fn flyways_versions_may_have_points(world: &mut World) {
    let folder = folder(world, "");
    let names = ["V1.0__one.sql", "V1.2__two.sql", "V1_10__three.sql", "V2__four.sql", "U2.0__four.sql"];
    for (number, name) in names.iter().enumerate() {
        let table = number + 1;
        let sql = if number == 4 {
            "DROP TABLE t4;".into()
        } else {
            format!("CREATE TABLE t{table} (id INTEGER);")
        };
        write(&folder, name, &sql);
    }
    let listed = world.expect(0, &["migration", "list"]);
    let order: Vec<_> =
        listed.events("migration").iter().map(|it| it["version"].as_str().unwrap().to_string()).collect();
    assert_eq!(order, ["1.0", "1.2", "1.10", "2"]);
    world.expect(0, &["create", "a"]);
    assert_eq!(world.versions("a"), ["1.0", "1.10", "1.2", "2"]);
    for version in ["1_10", "1.10", "V1_10__three", "1.10.0"] {
        let report = world.expect(0, &["downgrade", "a", "--to", version, "--dry-run"]);
        assert_eq!(report.project("a")["migrations"], serde_json::json!(["2"]), "{version}");
    }
    world.expect(0, &["downgrade", "a", "--steps", "1"]);
    world.expect(0, &["upgrade", "a", "--to", "2"]);
    world.with_project(
        "b",
        "CREATE TABLE t1 (id INTEGER); CREATE TABLE t2 (id INTEGER); CREATE TABLE t3 (id INTEGER); \
         CREATE TABLE flyway_schema_history (installed_rank INT, version VARCHAR(50), description VARCHAR(200), \
         type VARCHAR(20), script VARCHAR(1000), checksum INTEGER, success BOOLEAN); \
         INSERT INTO flyway_schema_history VALUES (1, '1.2', '<< Flyway Baseline >>', 'BASELINE', '', NULL, true)",
    );
    let ledger = "INSERT INTO flyway_schema_history VALUES (2, '1.10', 'three', 'SQL', 'V1_10__three.sql', ";
    let sum = crc32fast::hash(b"CREATE TABLE t3 (id INTEGER);").cast_signed();
    world.execute("b", &format!("{ledger}{sum}, true)"));
    world.expect(0, &["adopt", "b"]);
    assert_eq!(world.versions("b"), ["1.0", "1.10", "1.2"]);
    let made = world.run(&["migration", "new", "more"]);
    assert!(made.stdout.contains("V3__more.sql"), "{}", made.stdout);
}
