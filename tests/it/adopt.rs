//! The ledgers of other migration tools are taken over: their checksums, their rows and the schema are verified first.

use std::path::Path;

use crate::faults::{fault_library, run_with_fault};
use crate::layouts::{CASES, Case, SET, folder, write_set};
use crate::world::World;

on_each_store!(
    each_tools_ledger_is_taken_over,
    what_is_not_complete_is_not_taken_over,
    an_edited_file_is_named_with_the_tools_checksum,
    a_retired_table_is_renamed_and_is_no_drift,
    the_schema_is_compared_as_well,
    revisions_are_mapped_by_what_migrations_replace,
    a_baseline_counts_as_applied,
    files_with_the_same_text_are_told_apart_by_their_turn,
);
on_files!(
    databases_of_the_real_tools_go_on,
    a_count_in_the_file_is_taken_over,
    a_takeover_is_whole_or_not_at_every_operation,
);

fn hash(kind: openssl::hash::MessageDigest, text: &str) -> String {
    use std::fmt::Write as _;
    let bytes = openssl::hash::hash(kind, text.as_bytes()).unwrap();
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The version, name and text of the n-th migration.
type Applied<'a> = (String, &'static str, &'a str);

/// SQL that makes a tool's table with a row for each of these migrations.
type Ledger = fn(&World, &[Applied<'_>]) -> String;

fn rows(applied: &[Applied<'_>], row: impl Fn(usize, &Applied<'_>) -> String) -> String {
    applied.iter().enumerate().map(|(index, it)| row(index, it)).collect::<Vec<_>>().join(", ")
}

/// Each tool, its layout, and its ledger as the tool makes it.
const TOOLS: [(&str, &str, Ledger); 10] = [
    ("sqlx", "sqlx, reversible", |world, applied| {
        let (kind, open) = world.either(("BLOB", "X'"), ("BYTEA", "'\\x"));
        let row = |_, (version, name, text): &Applied<'_>| {
            let checksum = hash(openssl::hash::MessageDigest::sha384(), text);
            format!("({version}, '{name}', true, {open}{checksum}', 5)")
        };
        format!(
            "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, \
             checksum {kind} NOT NULL, execution_time BIGINT NOT NULL); \
             INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES {};",
            rows(applied, row)
        )
    }),
    ("golang-migrate", "golang-migrate", |_, applied| {
        format!(
            "CREATE TABLE schema_migrations (version BIGINT NOT NULL PRIMARY KEY, dirty BOOLEAN NOT NULL); \
             INSERT INTO schema_migrations VALUES ({}, false);",
            applied.last().unwrap().0
        )
    }),
    ("flyway", "Flyway", |_, applied| {
        let row = |index, (version, name, text): &Applied<'_>| {
            let checksum = crc32fast::hash(text.replace('\n', "").as_bytes()).cast_signed();
            format!(
                "({}, '{version}', '{name}', 'SQL', 'V{version}__{name}.sql', {checksum}, true)",
                index + 1
            )
        };
        format!(
            "CREATE TABLE flyway_schema_history (installed_rank INT NOT NULL PRIMARY KEY, version VARCHAR(50), \
             description VARCHAR(200) NOT NULL, type VARCHAR(20) NOT NULL, script VARCHAR(1000) NOT NULL, checksum INTEGER, \
             success BOOLEAN NOT NULL); INSERT INTO flyway_schema_history VALUES {};",
            rows(applied, row)
        )
    }),
    ("dbmate", "dbmate", |_, applied| {
        format!(
            "CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY); INSERT INTO schema_migrations VALUES {};",
            rows(applied, |_, (version, ..)| format!("('{version}')"))
        )
    }),
    ("rails", "sqlx, simple", |_, applied| {
        format!(
            "CREATE TABLE schema_migrations (version varchar NOT NULL PRIMARY KEY); \
             CREATE TABLE ar_internal_metadata (key varchar NOT NULL PRIMARY KEY, value varchar); \
             INSERT INTO schema_migrations VALUES {};",
            rows(applied, |_, (version, ..)| format!("('{version}')"))
        )
    }),
    ("goose", "goose", |_, applied| {
        format!(
            "CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY, version_id BIGINT NOT NULL, is_applied BOOLEAN NOT NULL); \
             INSERT INTO goose_db_version VALUES (0, 0, true), {};",
            rows(applied, |index, (version, ..)| format!("({}, {version}, true)", index + 1))
        )
    }),
    ("wrangler", "wrangler", |_, applied| {
        format!(
            "CREATE TABLE d1_migrations (id INTEGER PRIMARY KEY, name TEXT UNIQUE, \
             applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL); INSERT INTO d1_migrations (id, name) VALUES {};",
            rows(applied, |index, (version, name, _)| format!("({index}, '{version}_{name}.sql')"))
        )
    }),
    ("drizzle", "drizzle", |_, applied| {
        let row = |index, (_, _, text): &Applied<'_>| {
            format!(
                "({index}, '{}', 175000000000{index})",
                hash(openssl::hash::MessageDigest::sha256(), text)
            )
        };
        format!(
            "CREATE TABLE __drizzle_migrations (id INTEGER PRIMARY KEY, hash TEXT NOT NULL, created_at BIGINT); \
             INSERT INTO __drizzle_migrations VALUES {};",
            rows(applied, row)
        )
    }),
    ("prisma", "Prisma", |_, applied| {
        let row = |index, (version, name, text): &Applied<'_>| {
            let checksum = hash(openssl::hash::MessageDigest::sha256(), text);
            format!(
                "('{index}', '{checksum}', '2025-01-01', '{version}_{name}', NULL, '2025-01-0{}')",
                index + 1
            )
        };
        format!(
            "CREATE TABLE _prisma_migrations (id VARCHAR(36) PRIMARY KEY, checksum VARCHAR(64) NOT NULL, \
             finished_at TIMESTAMP, migration_name VARCHAR(255) NOT NULL, rolled_back_at TIMESTAMP, \
             started_at TIMESTAMP NOT NULL); INSERT INTO _prisma_migrations VALUES {};",
            rows(applied, row)
        )
    }),
    ("atlas", "sqlx, simple", |_, applied| {
        let mut all = String::new();
        let mut hashes = Vec::new();
        for (version, name, text) in applied {
            all.extend([version.as_str(), "_", name, ".sql", text]);
            let bytes = openssl::hash::hash(openssl::hash::MessageDigest::sha256(), all.as_bytes()).unwrap();
            hashes.push(openssl::base64::encode_block(&bytes));
        }
        let row = |index: usize, (version, ..): &Applied<'_>| {
            format!("('{version}', '{}', 1, 1, NULL)", hashes[index])
        };
        format!(
            "CREATE TABLE atlas_schema_revisions (version TEXT PRIMARY KEY, hash TEXT NOT NULL, applied BIGINT NOT NULL, \
             total BIGINT NOT NULL, error TEXT, description TEXT, type BIGINT NOT NULL DEFAULT 2); \
             INSERT INTO atlas_schema_revisions (version, hash, applied, total, error) VALUES {};",
            rows(applied, row)
        )
    }),
];

fn case(layout: &str) -> &'static Case {
    CASES.iter().find(|case| case.layout == layout).unwrap()
}

/// Makes a project as a tool has it after three of its five migrations, with rows.
fn make(
    world: &mut World,
    folder: &Path,
    id: &str,
    (_, layout, ledger): (&str, &str, Ledger),
) -> Vec<String> {
    let case = case(layout);
    write_set(folder, case, 5);
    let texts: Vec<String> =
        (0..3).map(|index| (case.files)(&(case.version)(index), SET[index])[0].1.clone()).collect();
    let applied: Vec<Applied<'_>> =
        (0..3).map(|index| ((case.version)(index), SET[index].0, texts[index].as_str())).collect();
    let scripts: String = SET[..3].iter().map(|(_, up, _)| *up).collect();
    let sql = format!(
        "{scripts} INSERT INTO notes VALUES (1, 'one', 0), (2, 'two', 1); {}",
        ledger(world, &applied)
    );
    world.with_project(id, "SELECT 1");
    if world.is_postgres() {
        world.database().run_in(id, &["-c", &sql]);
    } else {
        world.execute(id, &sql);
    }
    (0..5).map(case.version).collect()
}

fn each_tools_ledger_is_taken_over(world: &mut World) {
    let folder = folder(world, "");
    for tool in TOOLS {
        let id = tool.0.replace('-', "_");
        let versions = make(world, &folder, &id, tool);
        let blocked = world.expect(4, &["upgrade", &id]);
        assert!(
            blocked.problem(&id).1.contains(&format!("a ledger of {}", tool.0)),
            "{:?}",
            blocked.problem(&id)
        );
        assert_eq!(
            blocked.project(&id)["problems"][0]["hint"],
            "take it over: tenantry adopt --all, or tenantry adopt ID"
        );
        let before = world.snapshot();
        let dry = world.expect(0, &["adopt", &id, "--dry-run"]);
        assert_eq!((dry.outcome(&id), &dry.project(&id)["to"]), ("planned", &versions[2].as_str().into()));
        assert_eq!(before, world.snapshot(), "{}: the dry run changed something", tool.0);
        let adopted = world.expect(0, &["adopt", &id, "--from", tool.0]);
        assert_eq!(
            (adopted.outcome(&id), &adopted.project(&id)["to"]),
            ("adopted", &versions[2].as_str().into())
        );
        let notes = adopted.project(&id)["notes"].to_string();
        let has_checksums = matches!(tool.0, "sqlx" | "drizzle" | "flyway" | "prisma" | "atlas");
        assert_eq!(notes.contains("checksums (3)"), has_checksums, "{notes}");
        assert!(notes.contains("not kept up to date from now on"), "{notes}");
        let sorted = |count: usize| {
            let mut versions = versions[..count].to_vec();
            versions.sort();
            versions
        };
        assert_eq!(world.versions(&id), sorted(3), "{}", tool.0);
        let actions = world.query(&id, "SELECT action FROM tenantry_history");
        assert_eq!(actions, ["adopt", "adopt", "adopt"], "{}", tool.0);
        assert_eq!(world.expect(0, &["adopt", &id]).outcome(&id), "up_to_date");
        assert_eq!(world.expect(0, &["upgrade", &id]).outcome(&id), "upgraded");
        assert_eq!(world.versions(&id), sorted(5), "{}", tool.0);
        assert_eq!(world.query(&id, "SELECT title FROM notes ORDER BY id"), ["one", "two"]);
    }
}

fn what_is_not_complete_is_not_taken_over(world: &mut World) {
    let folder = folder(world, "");
    let tool = |name: &str| TOOLS.into_iter().find(|tool| tool.0 == name).unwrap();
    let cases = [
        (
            "sqlx",
            "UPDATE _sqlx_migrations SET success = false WHERE version = 20250602120000",
            "20250602120000: success is false",
        ),
        (
            "sqlx",
            "DELETE FROM _sqlx_migrations WHERE version = 20250602120000",
            "has a later migration, but not 20250602120000",
        ),
        (
            "sqlx",
            "UPDATE _sqlx_migrations SET version = 20260101000000 WHERE version = 20250603120000",
            "does not have: 20260101000000",
        ),
        ("golang-migrate", "UPDATE schema_migrations SET dirty = true", "10: dirty is true"),
        ("golang-migrate", "UPDATE schema_migrations SET version = 99", "does not have: 99"),
        (
            "flyway",
            "UPDATE flyway_schema_history SET success = false WHERE version = '9'",
            "9: success is false",
        ),
        (
            "flyway",
            "INSERT INTO flyway_schema_history VALUES (9, NULL, 'v', 'SQL', 'R__v.sql', 1, true)",
            "does not have: R__v.sql",
        ),
        (
            "goose",
            "UPDATE goose_db_version SET is_applied = false WHERE version_id = 2",
            "has a later migration, but not 00002",
        ),
        ("prisma", "UPDATE _prisma_migrations SET finished_at = NULL WHERE id = '1'", "it was not finished"),
        (
            "prisma",
            "UPDATE _prisma_migrations SET rolled_back_at = '2025-01-01' WHERE id = '1'",
            "has a later migration, but not 20250602120000",
        ),
        (
            "atlas",
            "UPDATE atlas_schema_revisions SET total = 2 WHERE version = '20250602120000'",
            "1 of 2 statements are applied",
        ),
        ("wrangler", "UPDATE d1_migrations SET name = 'other.sql' WHERE id = 1", "does not have: other.sql"),
        (
            "dbmate",
            "CREATE TABLE goose_db_version (id INTEGER, version_id BIGINT, is_applied BOOLEAN)",
            "the ledgers of dbmate and goose",
        ),
        ("drizzle", "UPDATE __drizzle_migrations SET hash = 'ab12' WHERE id = 1", "does not have: ab12"),
        ("drizzle", "DELETE FROM __drizzle_migrations WHERE id = 1", "has a later migration, but not 0001"),
        ("dbmate", "DROP TABLE schema_migrations", "no ledger of a tool that tenantry knows"),
        ("dbmate", "DELETE FROM schema_migrations", "its schema does not match 0"),
    ];
    for (number, (name, sql, wanted)) in cases.into_iter().enumerate() {
        let id = format!("p{number}");
        make(world, &folder, &id, tool(name));
        world.execute(&id, sql);
        let report = world.expect(4, &["adopt", &id]);
        let (_, message) = report.problem(&id);
        assert!(message.contains(wanted), "{name}, {sql}: {message}");
        assert_eq!(world.ledger_tables(&id), "0", "{name}, {sql}");
    }
    let unknown = world.run(&["adopt", "p0", "--from", "cobol"]).stderr;
    assert!(unknown.contains("golang-migrate"), "{unknown}");
    let diesel = world.run(&["adopt", "p0", "--from", "diesel"]);
    assert!(diesel.code == 2 && diesel.stderr.contains("part of tenantry's ledger"), "{}", diesel.stderr);
    assert!(
        world.expect(4, &["adopt", "p0", "--from", "flyway"]).problem("p0").1.contains("no ledger of flyway")
    );
}

fn an_edited_file_is_named_with_the_tools_checksum(world: &mut World) {
    let folder = folder(world, "");
    for (tool, file, checksum) in [
        ("sqlx", "20250602120000_create_tags.up.sql", "SHA-384"),
        ("flyway", "V9__create_tags.sql", "CRC-32"),
        ("prisma", "20250602120000_create_tags/migration.sql", "SHA-256"),
        ("atlas", "20250602120000_create_tags.sql", "SHA-256"),
    ] {
        make(world, &folder, tool, TOOLS.into_iter().find(|it| it.0 == tool).unwrap());
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        // The schema stays the same.
        std::fs::write(&path, format!("{text} ")).unwrap();
        let report = world.expect(4, &["adopt", tool]);
        let (code, message) = report.problem(tool);
        assert_eq!(code, "not_adoptable");
        assert!(message.contains(checksum) && message.contains(file), "{message}");
        std::fs::write(&path, text.replace(';', ";\r\n")).unwrap();
        let other = folder.join(
            file.replace("02120000_create_tags", "03120000_pin_notes")
                .replace("V9__create_tags", "V10__pin_notes"),
        );
        let text_of_other = std::fs::read_to_string(&other).unwrap();
        std::fs::write(&path, &text).unwrap();
        std::fs::write(&other, text_of_other.replace('\n', "\r\n")).unwrap();
        let report = world.expect(0, &["adopt", tool]);
        let notes = report.project(tool)["notes"].to_string();
        assert_eq!(notes.contains("the line endings differ"), tool != "flyway", "{tool}: {notes}");
    }
}

fn a_retired_table_is_renamed_and_is_no_drift(world: &mut World) {
    let folder = folder(world, "");
    for (tool, old) in
        [("sqlx", "_sqlx_migrations"), ("dbmate", "schema_migrations"), ("prisma", "_prisma_migrations")]
    {
        make(world, &folder, tool, TOOLS.into_iter().find(|it| it.0 == tool).unwrap());
        let report = world.expect(0, &["adopt", tool, "--retire"]);
        assert!(report.project(tool)["notes"].to_string().contains("gets the name"));
        let tables = world.tables(tool);
        assert!(
            !tables.contains(&old.to_string()) && tables.contains(&format!("{old}_retired")),
            "{tables:?}"
        );
        assert_eq!(world.expect(0, &["upgrade", tool]).outcome(tool), "upgraded");
        assert_eq!(world.expect(0, &["status", tool]).outcome(tool), "up_to_date");
        // It can also be renamed later.
        let later = format!("{tool}2");
        make(world, &folder, &later, TOOLS.into_iter().find(|it| it.0 == tool).unwrap());
        world.expect(0, &["adopt", &later]);
        assert_eq!(world.expect(0, &["adopt", &later, "--retire", "--dry-run"]).outcome(&later), "planned");
        assert_eq!(world.expect(0, &["adopt", &later, "--retire"]).outcome(&later), "adopted");
        assert!(world.tables(&later).contains(&format!("{old}_retired")));
        assert_eq!(world.expect(0, &["adopt", &later, "--retire"]).outcome(&later), "up_to_date");
        assert_eq!(world.expect(0, &["upgrade", &later]).outcome(&later), "upgraded");
    }
}

/// The other tool's table is renamed in the transaction that writes tenantry's ledger.
fn a_takeover_is_whole_or_not_at_every_operation(world: &mut World) {
    let folder = folder(world, "");
    make(world, &folder, "a", TOOLS[0]);
    let file = std::fs::read(world.path("a")).unwrap();
    let tools = tempfile::tempdir().unwrap();
    let library = fault_library(tools.path());
    for how in ["kill", "eio"] {
        let mut at = 1;
        loop {
            for name in ["project_a.db-journal", "project_a.db-wal", "project_a.db-shm"] {
                let _ = std::fs::remove_file(world.data().join(name));
            }
            std::fs::write(world.path("a"), &file).unwrap();
            let _ = std::fs::remove_file(world.folder().join("mark"));
            let ended = run_with_fault(world, &["adopt", "a", "--retire"], &library, how, at);
            let is_old = world.tables("a").contains(&"_sqlx_migrations".into());
            if is_old {
                assert_eq!(world.ledger_tables("a"), "0", "{how} at operation {at}");
                assert!(ended.is_some_and(|it| !it.success()), "{how} at operation {at}");
                assert_eq!(world.expect(0, &["adopt", "a", "--retire"]).outcome("a"), "adopted");
            }
            assert_eq!(
                (world.versions("a").len(), world.tables("a").len()),
                (3, 3),
                "{how} at operation {at}"
            );
            assert_eq!(world.query("a", "SELECT title FROM notes ORDER BY id"), ["one", "two"]);
            if ended.is_none() {
                break;
            }
            at += 1;
        }
        assert!(at > 20, "only {at} operations: the library was not loaded");
    }
}

fn the_schema_is_compared_as_well(world: &mut World) {
    let folder = folder(world, "");
    make(world, &folder, "a", TOOLS[0]);
    make(world, &folder, "b", TOOLS[0]);
    world.execute("b", "ALTER TABLE notes ADD COLUMN extra TEXT");
    let report = world.expect(4, &["adopt", "--all"]);
    assert_eq!((report.outcome("a"), report.outcome("b")), ("adopted", "blocked"));
    assert!(report.problem("b").1.contains("extra column extra"), "{:?}", report.problem("b"));
    // Who knows better can still record a version.
    let stamp = world.expect(0, &["stamp", "b", "--to", "20250603120000", "--force"]);
    let notes = stamp.project("b")["notes"].to_string();
    assert!(notes.contains("sqlx's ledger (_sqlx_migrations) was not verified"), "{notes}");
}

fn databases_of_the_real_tools_go_on(world: &mut World) {
    for (tool, third, last) in [
        ("sqlx", "20250603120000", "20250605120000"),
        ("refinery", "3", "5"),
        ("dbmate", "20250603120000", "20250605120000"),
        ("wrangler", "0002", "0004"),
        ("diesel", "20250603120000", "20250605120000"),
    ] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adopt").join(tool);
        let copy = world.folder().join(format!("{tool}_migrations"));
        copy_folder(&fixture.join("migrations"), &copy);
        std::fs::copy(fixture.join("project_1.db"), world.path(tool)).unwrap();
        let before = world.contents(tool);
        let migrations = copy.to_str().unwrap();
        let adopt = world.expect(0, &["--migrations", migrations, "adopt", tool]);
        let outcome = if tool == "diesel" { "up_to_date" } else { "adopted" };
        assert_eq!((adopt.outcome(tool), &adopt.project(tool)["to"]), (outcome, &third.into()));
        let upgrade = world.expect(0, &["--migrations", migrations, "upgrade", tool]);
        assert_eq!((upgrade.outcome(tool), &upgrade.project(tool)["to"]), ("upgraded", &last.into()));
        let after = world.contents(tool);
        assert_eq!(before["tags"], after["tags"], "{tool}");
        assert_eq!(
            (before["note_tags"].len(), after["note_tags"].len(), after["notes"].len()),
            (3, 3, 3),
            "{tool}"
        );
        if matches!(tool, "sqlx" | "refinery") {
            std::fs::copy(fixture.join("project_1.db"), world.path(&format!("{tool}2"))).unwrap();
            let file = std::fs::read_dir(&copy).unwrap().map(|it| it.unwrap().path());
            let file = file.filter(|it| it.to_str().unwrap().contains("create_tags")).max().unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replacen("CREATE", "create", 1)).unwrap();
            let report = world.expect(4, &["--migrations", migrations, "adopt", &format!("{tool}2")]);
            let (_, message) = report.problem(&format!("{tool}2"));
            assert!(
                message.contains(&format!("{tool}'s checksum")) && message.contains("create_tags"),
                "{message}"
            );
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|it| it.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy_folder(&entry, &target);
        } else {
            std::fs::copy(&entry, target).unwrap();
        }
    }
}

/// `rusqlite_migration` keeps the number of its migrations in the file. Applications use that number, too.
fn a_count_in_the_file_is_taken_over(world: &mut World) {
    let folder = folder(world, "");
    write_set(&folder, case("wrangler"), 5);
    let scripts: String = SET[..3].iter().map(|(_, up, _)| *up).collect();
    world.with_project("1", &format!("{scripts} PRAGMA user_version = 3"));
    assert!(world.expect(4, &["adopt", "1"]).problem("1").1.contains("no ledger"));
    assert_eq!(world.expect(0, &["adopt", "1", "--from", "rusqlite_migration"]).outcome("1"), "adopted");
    assert_eq!(world.versions("1"), ["0000", "0001", "0002"]);
    world.with_project("2", &format!("{scripts} PRAGMA user_version = 30"));
    let report = world.expect(4, &["adopt", "2", "--from", "rusqlite_migration"]);
    assert!(report.problem("2").1.contains("does not have: 30"), "{:?}", report.problem("2"));
}

/// alembic and Liquibase name migrations by ids of their own, which the catalog's migrations list.
fn revisions_are_mapped_by_what_migrations_replace(world: &mut World) {
    let replaced = |name: &'static str, sql: &str, old: &str| {
        (name, format!("{sql}\n-- metadata\nrun_in_transaction = true\nreplaces = [{old:?}]\n"))
    };
    let make = |world: &mut World, id: &str, ledger: &str| {
        world.with_project(id, "SELECT 1");
        let sql = format!("CREATE TABLE one (id INTEGER); CREATE TABLE two (id INTEGER); {ledger}");
        if world.is_postgres() {
            world.database().run_in(id, &["-c", &sql]);
        } else {
            world.execute(id, &sql);
        }
    };
    let with = |world: &mut World, ids: [&str; 3]| {
        let all = [
            replaced("1_one", "CREATE TABLE one (id INTEGER);", ids[0]),
            replaced("2_two", "CREATE TABLE two (id INTEGER);", ids[1]),
            replaced("3_three", "CREATE TABLE three (id INTEGER);", ids[2]),
        ];
        let all: Vec<(&str, &str)> = all.iter().map(|(name, text)| (*name, text.as_str())).collect();
        world.with_migrations(&all);
    };
    with(world, ["e1", "e2", "e3"]);
    make(
        world,
        "a",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY); INSERT INTO alembic_version VALUES ('e2');",
    );
    assert_eq!(world.expect(0, &["adopt", "a"]).outcome("a"), "adopted");
    assert_eq!(world.versions("a"), ["1", "2"]);
    make(
        world,
        "b",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY); INSERT INTO alembic_version VALUES ('ffff');",
    );
    let report = world.expect(4, &["adopt", "b"]);
    assert!(report.problem("b").1.contains("does not have: ffff"), "{:?}", report.problem("b"));
    assert!(report.project("b")["problems"][0]["hint"].as_str().unwrap().contains("replaces"));
    // Two files may have a changeset with one id.
    with(world, ["one.xml::1::ann", "two.xml::1::ann", "three.xml::1::ann"]);
    let liquibase = |rows: &str| {
        format!(
            "CREATE TABLE databasechangelog (id VARCHAR(255) NOT NULL, author VARCHAR(255) NOT NULL, filename VARCHAR(255) NOT NULL, \
             orderexecuted INT NOT NULL, exectype VARCHAR(10) NOT NULL); INSERT INTO databasechangelog VALUES {rows};"
        )
    };
    make(
        world,
        "c",
        &liquibase("('1', 'ann', 'one.xml', 1, 'EXECUTED'), ('1', 'ann', 'two.xml', 2, 'MARK_RAN')"),
    );
    assert_eq!(world.expect(0, &["adopt", "c"]).outcome("c"), "adopted");
    assert_eq!(world.versions("c"), ["1", "2"]);
    make(world, "d", &liquibase("('1', 'ann', 'two.xml', 1, 'EXECUTED')"));
    assert!(world.expect(4, &["adopt", "d"]).problem("d").1.contains("but not 1"));
    make(
        world,
        "e",
        &liquibase("('1', 'ann', 'one.xml', 1, 'EXECUTED'), ('1', 'ann', 'two.xml', 2, 'FAILED')"),
    );
    assert!(world.expect(4, &["adopt", "e"]).problem("e").1.contains("it failed"));
}

/// Flyway and Atlas record a baseline for databases that were there before them.
fn a_baseline_counts_as_applied(world: &mut World) {
    let folder = folder(world, "");
    for (tool, sql) in [
        (
            "flyway",
            "DELETE FROM flyway_schema_history WHERE installed_rank < 3; UPDATE flyway_schema_history SET type = 'BASELINE', checksum = NULL",
        ),
        (
            "atlas",
            "DELETE FROM atlas_schema_revisions WHERE version < '20250603120000'; UPDATE atlas_schema_revisions SET type = 1, applied = 0, total = 0",
        ),
        (
            "atlas",
            "UPDATE atlas_schema_revisions SET type = 6, applied = 0, error = 'x' WHERE version = '20250602120000'",
        ),
    ] {
        let id = format!("p{}", sql.len());
        make(world, &folder, &id, TOOLS.into_iter().find(|it| it.0 == tool).unwrap());
        world.execute(&id, sql);
        assert_eq!(world.expect(0, &["adopt", &id]).outcome(&id), "adopted", "{sql}");
        assert_eq!(world.versions(&id).len(), 3);
        assert_eq!(world.expect(0, &["upgrade", &id]).outcome(&id), "upgraded");
    }
}

/// drizzle records only the hash of a file, and two empty custom migrations have the same.
fn files_with_the_same_text_are_told_apart_by_their_turn(world: &mut World) {
    let folder = folder(world, "");
    let empty = "-- Custom migration\nSELECT 1;\n";
    let texts = ["CREATE TABLE a (id INTEGER);", empty, "CREATE TABLE b (id INTEGER);", empty];
    let mut values = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        std::fs::write(folder.join(format!("000{number}_m.sql")), text).unwrap();
        values
            .push(format!("({number}, '{}', {number})", hash(openssl::hash::MessageDigest::sha256(), text)));
    }
    let ledger = "CREATE TABLE __drizzle_migrations (id INTEGER, hash TEXT NOT NULL, created_at BIGINT)";
    for (id, rows) in [("all", &values[..]), ("three", &values[..3])] {
        world.with_project(id, &format!("{} {} {ledger};", texts[0], texts[2]));
        world.execute(id, &format!("INSERT INTO __drizzle_migrations VALUES {}", rows.join(", ")));
        world.expect(0, &["adopt", id]);
        assert_eq!(world.versions(id).len(), rows.len(), "{id}");
    }
}
