//! `migration lint` names what is dangerous in migrations, at its line, and what is safer.

use crate::world::World;

on_each_store!(
    a_comment_with_a_reason_allows_a_finding,
    findings_are_written_for_machines,
    an_upgrade_shows_what_is_found_and_can_refuse,
    what_a_statement_will_touch_is_counted,
);
on_files!(what_is_dangerous_on_sqlite_is_found, what_is_harmless_on_sqlite_is_not_reported);

const TABLES: (&str, &str) = (
    "1_tables",
    "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT NOT NULL);\n\
     CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (id) ON DELETE CASCADE, \"a b\" TEXT);\n\
     CREATE INDEX children_parent ON children (parent);\n\
     CREATE VIEW named AS SELECT p.name FROM parents p;",
);

/// A rebuild as the documentation of SQLite describes it. `%` stands for what comes after it.
const REBUILD: &str = "CREATE TABLE new (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (id) ON DELETE CASCADE, \"a b\" TEXT, c TEXT);\n\
     INSERT INTO new SELECT id, parent, \"a b\", NULL FROM children;\nDROP TABLE children;\nALTER TABLE new RENAME TO children;\n%";

fn found(world: &World, arguments: &[&str]) -> Vec<(String, u64)> {
    let report = world.expect(0, &[&["migration", "lint"], arguments].concat());
    let finding = |it: &serde_json::Value| {
        let finding = &it["finding"];
        assert!(!finding["message"].as_str().unwrap().is_empty(), "{finding}");
        (finding["rule"].as_str().unwrap().to_string(), finding["line"].as_u64().unwrap())
    };
    report.events("lint").into_iter().map(finding).collect()
}

fn what_is_dangerous_on_sqlite_is_found(world: &mut World) {
    let lost = REBUILD.replace('%', "");
    let forgotten = REBUILD
        .replace('%', "CREATE INDEX children_parent ON children (parent);")
        .replace(" \"a b\" TEXT,", "")
        .replace(" \"a b\",", "");
    let whole = REBUILD.replace('%', "CREATE INDEX children_parent ON children (parent);");
    let retyped = whole.replace("\"a b\" TEXT", "\"a b\" INTEGER");
    let constrained = whole.replace("\"a b\" TEXT", "\"a b\" TEXT CHECK (\"a b\" <> '')");
    for (sql, rule, line) in [
        ("-- a comment\nALTER TABLE parents ADD COLUMN a TEXT NOT NULL;", "add-column-not-null", 2),
        ("ALTER TABLE parents ADD a TEXT DEFAULT CURRENT_TIMESTAMP;", "add-column-default", 1),
        ("SELECT 1;\n\nALTER TABLE parents ADD COLUMN a TEXT DEFAULT (lower('A'));", "add-column-default", 3),
        ("ALTER TABLE children DROP COLUMN \"a b\";", "drop-column", 1),
        ("DROP VIEW named;\nDROP TABLE children;", "drop-table", 2),
        ("ALTER TABLE children RENAME TO kids;", "rename", 1),
        ("CREATE TABLE t (a INTEGER);\nCREATE UNIQUE INDEX u ON parents (name);", "unique-index", 2),
        ("REPLACE INTO parents VALUES (1, 'a');", "replace-with-children", 1),
        ("INSERT OR REPLACE INTO parents VALUES (1, 'a');", "replace-with-children", 1),
        ("UPDATE parents SET name = \"unknown\" WHERE id = 1;", "double-quoted-string", 1),
        ("INSERT INTO parents VALUES (1, hex(randomblob(8)));", "volatile-value", 1),
        ("BEGIN;\nCREATE TABLE t (a INTEGER);\nCOMMIT;", "own-transaction", 2),
        (&lost, "object-lost", 3),
        (&retyped, "type-changed", 3),
        (&constrained, "constraint-added", 3),
        (
            "CREATE TABLE t (a TEXT);\nINSERT INTO t SELECT json_extract(name, '$.a') FROM parents;",
            "fails-on-rows",
            2,
        ),
        ("PRAGMA journal_mode = WAL;\nCREATE TABLE t (a TEXT);", "pragma", 1),
        ("CREATE TABLE t (a TEXT);\nPRAGMA synchronous = OFF;", "pragma", 2),
        (&forgotten, "drop-column", 3),
        ("ALTER TABLE parents RENAME TO old;\nDROP TABLE old;", "drop-table", 2),
        ("ALTER TABLE main.parents ADD COLUMN a TEXT NOT NULL;", "add-column-not-null", 1),
        ("ALTER TABLE parents ADD COLUMN a TEXT NOT NULL DEFAULT NULL;", "add-column-not-null", 1),
        (
            "ALTER TABLE children ADD COLUMN p INTEGER DEFAULT 1 REFERENCES parents (id);",
            "add-column-default",
            1,
        ),
        ("INSERT OR REPLACE INTO main.parents VALUES (1, 'a');", "replace-with-children", 1),
        ("-- lint: allow drop-tabel: a slip\nDROP VIEW named;", "allow-unknown-rule", 1),
    ] {
        world.with_migrations(&[TABLES, ("2_change", sql)]);
        let findings = found(world, &["--since", "1"]);
        assert!(findings.contains(&(rule.to_string(), line)), "{sql}: {findings:?}");
    }
    // The help is a safer way, and the line is shown.
    world.with_migrations(&[TABLES, ("2_change", "ALTER TABLE parents ADD COLUMN a TEXT NOT NULL;")]);
    let text = world.run(&["migration", "lint"]).stdout;
    for wanted in [
        "2_change/up.sql:1: add-column-not-null",
        "    ALTER TABLE parents ADD COLUMN a",
        "help: give it a default",
        "1 finding",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // The rule has a reason: it fails on rows.
    world.with_migrations(&[TABLES]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO parents VALUES (1, 'a')");
    world.with_migrations(&[TABLES, ("2_change", "ALTER TABLE parents ADD COLUMN a TEXT NOT NULL;")]);
    assert_eq!(world.expect(3, &["rehearse", "a"]).outcome("a"), "failed");
}

fn what_is_harmless_on_sqlite_is_not_reported(world: &mut World) {
    let kept = REBUILD.replace('%', "CREATE INDEX children_parent ON children (parent);");
    let prisma = kept.replace(" new", " \"new\"");
    let dropped = REBUILD
        .replace('%', "")
        .replace("DROP TABLE children", "DROP INDEX children_parent;\nDROP TABLE children");
    for sql in [
        "CREATE TABLE t (a TEXT NOT NULL, at TEXT DEFAULT CURRENT_TIMESTAMP);\nCREATE UNIQUE INDEX u ON t (a);",
        "ALTER TABLE parents ADD COLUMN a TEXT NOT NULL DEFAULT 'x';",
        "ALTER TABLE parents ADD COLUMN a INTEGER DEFAULT 1;",
        "CREATE INDEX i ON parents (name);",
        "REPLACE INTO children VALUES (1, NULL, 'a');",
        "UPDATE children SET \"a b\" = 'x' WHERE \"id\" = 1;",
        "SELECT name AS \"shown\" FROM parents;",
        "-- ALTER TABLE parents ADD COLUMN a TEXT NOT NULL;\nSELECT 'DROP TABLE parents';",
        "DROP VIEW named;\nCREATE VIEW named AS SELECT id FROM parents;",
        "ALTER TABLE parents ADD COLUMN a INTEGER NOT NULL DEFAULT (5);",
        "ALTER TABLE parents ADD COLUMN a TEXT CHECK (a IS NOT NULL OR a IS NULL);",
        "CREATE TABLE t (a TEXT);\nDROP TABLE t;",
        "WITH \"w\" AS (SELECT 1 AS one) INSERT INTO parents SELECT one, 'x' FROM \"w\" WHERE \"w\".one = 1;",
        &prisma,
        &kept,
        &dropped,
    ] {
        world.with_migrations(&[TABLES, ("2_change", sql)]);
        let findings = found(world, &["--since", "1"]);
        assert!(findings.is_empty(), "{sql}: {findings:?}");
    }
}

fn a_comment_with_a_reason_allows_a_finding(world: &mut World) {
    let rule = world.either("drop-table", "ban-drop-table");
    let sql = format!(
        "-- lint: allow {rule}: nobody has used it since May\nDROP TABLE a;\nDROP TABLE b;\n\
         -- lint: allow {rule}\nDROP TABLE c;\nSELECT '\n-- lint: allow {rule}: in a text\n';\nDROP TABLE d;\n\
         DROP TABLE e\n-- lint: allow {rule}: before its end\n;\n/*\n-- lint: allow {rule}: in a comment\n*/\nDROP TABLE f;\n"
    );
    let tables = "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY); \
                  CREATE TABLE c (id INTEGER PRIMARY KEY); CREATE TABLE d (id INTEGER PRIMARY KEY); CREATE TABLE e (id INTEGER PRIMARY KEY); \
                  CREATE TABLE f (id INTEGER PRIMARY KEY);";
    world.with_migrations(&[("1_tables", tables), ("2_drop", &sql)]);
    let findings = found(world, &["--since", "1"]);
    let lines = |wanted: &str| -> Vec<u64> {
        findings.iter().filter(|(rule, _)| rule == wanted).map(|(_, line)| *line).collect()
    };
    assert_eq!((lines(rule), lines("allow-without-reason")), (vec![3, 9, 16], vec![4]), "{findings:?}");
    assert_eq!(found(world, &["--since", "1", "--off", rule]).len(), findings.len() - 3);
    // The settings switch rules off, and make findings errors.
    let settings = world.folder().join("tenantry.toml");
    std::fs::write(&settings, format!("[lint]\noff = [\"{rule}\"]\n")).unwrap();
    assert_eq!(found(world, &["--since", "1"]).len(), findings.len() - 3);
    std::fs::write(&settings, "[lint]\nstrict = true\n").unwrap();
    assert_eq!(world.run(&["migration", "lint", "--since", "1"]).code, 1);
    std::fs::write(&settings, "[lint]\noff = [\"nonsense\"]\n").unwrap();
    let ran = world.run(&["migration", "lint"]);
    assert!(ran.code == 2 && ran.stderr.contains("no rule \"nonsense\""), "{}", ran.stderr);
}

fn findings_are_written_for_machines(world: &mut World) {
    world.with_migrations(&[
        ("1_a", "CREATE TABLE a (id INTEGER PRIMARY KEY);"),
        ("2_b", "SELECT 1;\nDROP TABLE a;"),
    ]);
    let rule = world.either("drop-table", "ban-drop-table");
    let sarif = world.run(&["migration", "lint", "--since", "1", "--sarif"]).stdout;
    let sarif: serde_json::Value = serde_json::from_str(&sarif).unwrap();
    let result =
        sarif["runs"][0]["results"].as_array().unwrap().iter().find(|it| it["ruleId"] == rule).unwrap();
    let location = &result["locations"][0]["physicalLocation"];
    assert_eq!(location["region"]["startLine"], 2);
    assert!(location["artifactLocation"]["uri"].as_str().unwrap().ends_with("2_b/up.sql"));
    assert!(
        sarif["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap().iter().any(|it| it["id"] == rule)
    );
    let ran = world.run(&["migration", "lint", "--since", "1", "--github", "--strict"]);
    assert!(
        ran.code == 1 && ran.stdout.lines().all(|line| line.starts_with("::error file=")),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains(&format!("2_b/up.sql,line=2,title={rule}::")), "{}", ran.stdout);
}

/// The rules and their names are squawk's.
#[test]
fn what_is_dangerous_on_postgres_is_found() {
    let mut world = World::postgres();
    let tables = "CREATE TABLE parents (id BIGINT PRIMARY KEY, name TEXT); CREATE VIEW named AS SELECT name FROM parents;";
    for (sql, rule, line) in [
        ("SELECT 1;\nCREATE INDEX i ON parents (name);", "require-concurrent-index-creation", 2),
        ("ALTER TABLE parents ADD COLUMN a TEXT NOT NULL;", "adding-required-field", 1),
        ("ALTER TABLE parents ALTER COLUMN name SET NOT NULL;", "adding-not-nullable-field", 1),
        ("ALTER TABLE parents ADD CONSTRAINT c CHECK (id > 0);", "constraint-missing-not-valid", 1),
        ("ALTER TABLE parents ALTER COLUMN id TYPE numeric;", "changing-column-type", 1),
        ("ALTER TABLE parents RENAME COLUMN name TO title;", "renaming-column", 1),
        ("DROP VIEW named; CREATE TABLE t (a VARCHAR(20));", "prefer-text-field", 1),
        ("DROP TABLE parents CASCADE;", "ban-drop-table", 1),
    ] {
        world.with_migrations(&[("1_tables", tables), ("2_change", sql)]);
        let findings = found(&world, &["--since", "1"]);
        assert!(findings.contains(&(rule.to_string(), line)), "{sql}: {findings:?}");
    }
    // What tenantry does itself is not asked for.
    world.with_migrations(&[("1_tables", tables), ("2_change", "ALTER TABLE parents ADD COLUMN a TEXT;")]);
    assert_eq!(found(&world, &["--since", "1"]), []);
}

#[test]
fn every_rule_is_on_the_page_about_lint() {
    let page = include_str!("../../docs/lint.md");
    for (rule, finds) in tenantry::lint::RULES {
        assert!(page.contains(&format!("| `{rule}` | {finds} |")), "{rule}");
    }
}

/// Lines are those of the file, whatever the layout and whatever stands before a statement.
#[test]
fn lines_are_those_of_the_file() {
    let mut world = World::postgres();
    world.with_migrations(&[("1_a", "CREATE TABLE a (id BIGINT PRIMARY KEY, n TEXT);\nCOPY a (id, n) FROM stdin;\n1\tit's\n\\.\nDROP TABLE a;\n")]);
    assert!(found(&world, &[]).contains(&("ban-drop-table".into(), 5)), "{:?}", found(&world, &[]));
    let mut world = World::sqlite();
    let folder = crate::layouts::folder(&mut world, "");
    let text = "-- a comment\n\n-- migrate:up\nCREATE TABLE a (id INTEGER PRIMARY KEY);\n\n-- migrate:down\nDROP TABLE a;\n";
    std::fs::write(folder.join("1_a.sql"), text).unwrap();
    let text = "-- migrate:up\nSELECT 1;\n\nDROP TABLE a;\n-- migrate:down\nSELECT 1;\n";
    std::fs::write(folder.join("2_b.sql"), text).unwrap();
    assert_eq!(found(&world, &[]), [("drop-table".to_string(), 4)]);
}

/// Without a server the migrations cannot be run. That is said, and with --strict it is an error.
#[test]
fn a_server_that_is_missing_is_told() {
    let mut world = World::sqlite();
    world.with_migrations(&[("1_a", "CREATE TABLE a (id BIGINT PRIMARY KEY);\nCREAT TABEL b;\n")]);
    let lint = |arguments: &[&str]| {
        let mut command =
            world.command_on("postgres://nobody@/nothing?host=/nowhere", &["migration", "lint"]);
        crate::world::Ran::of(command.args(arguments))
    };
    let ran = lint(&[]);
    assert!(ran.code == 0 && ran.stderr.contains("could not be run on an empty database"), "{}", ran.stderr);
    assert!(ran.stdout.contains("up.sql:2: syntax-error"), "{}", ran.stdout);
    assert_eq!(lint(&["--strict"]).code, 1);
}

/// A repeatable migration is compared with what the others leave.
#[test]
fn repeatable_migrations_are_linted() {
    let mut world = World::sqlite();
    let folder = crate::layouts::folder(&mut world, "");
    std::fs::write(folder.join("V1__a.sql"), "CREATE TABLE a (id INTEGER PRIMARY KEY);").unwrap();
    std::fs::write(folder.join("R__b.sql"), "DROP VIEW IF EXISTS b;\nCREATE VIEW b AS SELECT id FROM a;\nALTER TABLE a ADD COLUMN c TEXT NOT NULL;").unwrap();
    assert_eq!(found(&world, &[]), [("add-column-not-null".to_string(), 3)]);
}

const RENAMED: (&str, &str) =
    ("2_renamed", "CREATE TABLE more (a TEXT);\nALTER TABLE parents RENAME COLUMN name TO title;");

fn an_upgrade_shows_what_is_found_and_can_refuse(world: &mut World) {
    world.with_migrations(&[TABLES]).expect(0, &["create", "a", "b"]);
    world.with_migrations(&[TABLES, RENAMED, ("3_more", "CREATE TABLE third (a TEXT);")]);
    let rule = world.either("rename", "renaming-column");
    let notes = |report: &crate::world::Report| -> Vec<String> {
        report.events("note").iter().map(|it| it["message"].as_str().unwrap().to_string()).collect()
    };
    let report = world.expect(0, &["upgrade-all", "--dry-run"]);
    assert_eq!((report.count("planned"), notes(&report).len()), (2, 1), "{:?}", notes(&report));
    assert!(notes(&report)[0].contains(&format!("{rule} (1)")), "{:?}", notes(&report));
    assert!(report.events("note")[0]["hint"].as_str().unwrap().contains("migration lint --since 1"));
    let before = world.snapshot();
    for command in
        [&["upgrade-all", "--strict"][..], &["upgrade", "a", "--strict"], &["rehearse", "--all", "--strict"]]
    {
        let ran = world.run(command);
        assert!(ran.code == 2 && ran.stderr.contains(rule), "{command:?}: {} {}", ran.code, ran.stderr);
        assert!(before == world.snapshot());
    }
    // Only what will run is looked at.
    world.expect(0, &["upgrade-all", "--to", "2"]);
    assert_eq!(notes(&world.expect(0, &["upgrade-all", "--strict"])), Vec::<String>::new());
}

fn what_a_statement_will_touch_is_counted(world: &mut World) {
    world.with_migrations(&[TABLES]).expect(0, &["create", "a", "b"]);
    for number in 1..=5 {
        world.execute("a", &format!("INSERT INTO parents (id, name) VALUES ({number}, 'x')"));
    }
    world.execute("b", "INSERT INTO parents (id, name) VALUES (1, 'x'), (2, 'y')");
    world.with_migrations(&[TABLES, RENAMED]).expect(0, &["create", "c"]);
    world.execute("c", "INSERT INTO parents (id, title) VALUES (1, 'x')");
    let report = world.expect(0, &["migration", "lint", "--since", "1", "--fleet"]);
    let finding = &report.events("lint")[0]["finding"];
    assert_eq!(finding["tables"], serde_json::json!(["parents"]));
    let expected = serde_json::json!({"projects": 2, "rows": 7, "largest": "a", "largest_rows": 5});
    assert_eq!(finding["touches"], expected);
    let text = world.run(&["migration", "lint", "--since", "1", "--fleet"]).stdout;
    assert!(text.contains("touches 7 rows of parents in 2 projects, at most 5 in a"), "{text}");
    assert!(!world.run(&["migration", "lint"]).stdout.contains("touches"));
}

#[test]
fn what_concerns_a_whole_server_is_found() {
    let mut world = World::postgres();
    world.with_migrations(&[
        ("1_first", "CREATE TYPE mood AS ENUM ('good'); CREATE TABLE notes (id integer, mood mood);"),
        ("2_second", "CREATE TABLE other (a integer);\nALTER TYPE mood ADD VALUE 'bad';"),
        (
            "3_third",
            "ALTER TABLE notes ADD CONSTRAINT positive CHECK (id > 0) NOT VALID;\nALTER TABLE notes VALIDATE CONSTRAINT positive;",
        ),
        ("4_fourth", "-- needed\nCREATE EXTENSION IF NOT EXISTS pg_trgm;"),
    ]);
    let found = found(&world, &[]);
    for expected in [("enum-value", 2), ("validate-in-one-migration", 2), ("extension", 2)] {
        assert!(found.contains(&(expected.0.to_string(), expected.1)), "{expected:?}: {found:?}");
    }
}
