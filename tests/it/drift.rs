//! `schema drift` says which projects differ from their version; `schema show`, `diff` and `fingerprint` read one schema.

use crate::journal::NOTES;
use crate::world::World;

on_each_store!(
    projects_are_grouped_by_how_they_differ,
    schemas_of_several_sources_are_compared,
    what_is_no_source_of_a_schema_is_named,
    what_a_backup_differed_in_is_found_after_its_restore,
    forty_kinds_of_change_are_found_and_twenty_five_that_mean_nothing_are_not,
);

const MORE: (&str, &str) = (
    "2_more",
    "ALTER TABLE notes ADD COLUMN day TEXT; CREATE INDEX notes_day ON notes (day); CREATE VIEW days AS SELECT day FROM notes;",
);

fn projects_are_grouped_by_how_they_differ(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "old", "old2"]);
    world.with_migrations(&[NOTES, MORE]);
    world.expect(0, &["create", "a", "b", "c", "d"]);
    assert_eq!(world.expect(0, &["schema", "drift", "--all"]).count("as_expected"), 6);
    for id in ["a", "b"] {
        world.execute(id, "DROP INDEX notes_day");
        world.execute(id, "CREATE TABLE extra (a INTEGER)");
    }
    world.execute("c", "DROP VIEW days");
    world.execute("old", "CREATE INDEX notes_text ON notes (text)");
    world.with_project("none", "CREATE TABLE other (a INTEGER)");
    let before = world.snapshot();
    let report = world.expect(4, &["schema", "drift", "--all"]);
    assert_eq!(before, world.snapshot());
    let counts = ["as_expected", "drifted", "blocked"].map(|outcome| report.count(outcome));
    assert_eq!(counts, [2, 4, 1], "{:?}", report.0);
    assert_eq!(
        report.project("a")["differences"],
        serde_json::json!(["missing index notes_day", "extra table extra"])
    );
    assert_eq!(
        (&report.project("old")["to"], &report.project("old2")["outcome"]),
        (&"1".into(), &"as_expected".into())
    );
    assert_eq!(report.project("old")["differences"][0], "extra index notes_text");
    // Each difference is shown once, with the projects that have it.
    let text = world.run(&["schema", "drift", "--all"]).stdout;
    assert_eq!(text.matches("extra table extra").count(), 1, "{text}");
    assert!(
        text.contains(
            "2  DRIFTED from 2:\n        missing index notes_day\n        extra table extra\n        a, b\n"
        ),
        "{text}"
    );
    assert!(text.contains("7 projects: 2 as expected, 1 blocked, 4 drifted"), "{text}");
    // What is told of one project does not depend on the others.
    assert_eq!(
        world.expect(4, &["schema", "drift", "c"]).project("c")["differences"][0],
        "missing view days"
    );
    assert_eq!(world.expect(0, &["schema", "drift", "d"]).outcome("d"), "as_expected");
    assert!(world.run(&["runs", "list"]).stdout.lines().all(|line| !line.contains("drift")));
}

fn schemas_of_several_sources_are_compared(world: &mut World) {
    world.with_migrations(&[NOTES, MORE]).expect(0, &["create", "a", "b"]);
    world.execute("b", "DROP VIEW days");
    let fingerprint = |source: &str| world.run(&["schema", "fingerprint", source]).stdout;
    assert_eq!((fingerprint("a"), fingerprint("@2")), (fingerprint("@head"), fingerprint("@2_more")));
    assert_ne!(fingerprint("a"), fingerprint("b"));
    assert_eq!(world.run(&["schema", "diff", "a", "@head"]).code, 0);
    let ran = world.run(&["schema", "diff", "a", "b"]);
    assert!(ran.code == 4 && ran.stdout.contains("--- a\n+++ b\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("-view days\n") && !ran.stdout.contains("-table"), "{}", ran.stdout);
    let report = world.expect(4, &["schema", "diff", "@1", "@2"]);
    let differences = report.events("schema_diff")[0]["differences"].to_string();
    for wanted in ["extra index notes_day", "extra view days", "extra column day"] {
        assert!(differences.contains(wanted), "{wanted}: {differences}");
    }
    // A script, as somebody would like the schema to be.
    let script = world.folder().join("wanted.sql");
    let up = world.script("1_notes");
    std::fs::write(&script, format!("{up}\nCREATE TABLE tags (name TEXT NOT NULL);\n")).unwrap();
    let report = world.expect(4, &["schema", "diff", "@1", script.to_str().unwrap()]);
    assert_eq!(report.events("schema_diff")[0]["differences"], serde_json::json!(["extra table tags"]));
    let shown = world.run(&["schema", "show", script.to_str().unwrap()]).stdout;
    assert!(shown.contains("table tags\n    column name ") && shown.contains("table notes\n"), "{shown}");
    let report = world.expect(0, &["schema", "show", "a"]);
    let schema = &report.events("schema")[0]["schema"];
    assert_eq!(schema["fingerprint"].as_str().unwrap(), fingerprint("a").trim());
    assert!(
        schema["objects"].as_array().unwrap().iter().any(|it| it["kind"] == "view" && it["name"] == "days")
    );
    // Another database.
    if world.is_postgres() {
        let model = World::postgres();
        model.database().run(&["-c", "CREATE TABLE tags (name text)"]);
        assert!(world.run(&["schema", "show", &model.url()]).stdout.starts_with("table tags\n"));
    } else {
        for name in ["model.db", "my \u{fc} 'copy'.db", "noextension", "-dash.db"] {
            let model = world.folder().join(name);
            std::fs::copy(world.path("a"), &model).unwrap();
            let ran = world.run(&["schema", "diff", model.to_str().unwrap(), "a"]);
            assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        }
    }
}

fn what_is_no_source_of_a_schema_is_named(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "a"]);
    let script = world.folder().join("bad.sql");
    std::fs::write(&script, "CREATE TABLE a (b INTEGER);\nCREATE TABL c (d INTEGER);\n").unwrap();
    for (source, message) in [
        ("nobody", "does not exist"),
        ("@9", "has no version \"9\""),
        (script.to_str().unwrap(), "bad.sql:2"),
        ("missing.sql", "missing.sql"),
        ("missing.db", "neither a project nor a file"),
        ("POSTGRES://user:secret@host/database", "not one of a Postgres database"),
    ] {
        let ran = world.run(&["schema", "show", source]);
        assert!(ran.code != 0 && ran.stderr.contains(message), "{source}: {} {}", ran.code, ran.stderr);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    }
}

fn what_a_backup_differed_in_is_found_after_its_restore(world: &mut World) {
    world.with_migrations(&[NOTES, MORE]).expect(0, &["create", "a"]);
    world.execute("a", "DROP VIEW days");
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "restore", "a"]);
    let report = world.expect(4, &["schema", "drift", "a"]);
    assert_eq!(report.project("a")["differences"], serde_json::json!(["missing view days"]));
    assert_eq!(world.expect(4, &["upgrade", "a", "--dry-run"]).outcome("a"), "blocked");
}

const SQLITE: &str = "\
    CREATE TABLE p (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x', note TEXT, amount INTEGER CHECK (amount > 0));
    CREATE TABLE c (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES p (id) ON DELETE CASCADE, a TEXT COLLATE NOCASE, b TEXT, UNIQUE (a, b));
    CREATE TABLE u (code TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE INDEX c_a ON c (a);
    CREATE INDEX c_b ON c (b) WHERE b IS NOT NULL;
    CREATE VIEW v AS SELECT id, name FROM p;
    CREATE TRIGGER g AFTER INSERT ON p BEGIN DELETE FROM c WHERE parent = 0; END;
    CREATE VIRTUAL TABLE f USING fts5(a);";

/// What somebody does to a project by hand, and what the report says of it.
const SQLITE_CHANGES: [(&str, &str); 40] = [
    ("CREATE TABLE extra (a INT)", "extra table extra"),
    ("DROP TABLE c", "missing table c"),
    ("ALTER TABLE p RENAME TO q", "missing table p"),
    ("ALTER TABLE p ADD COLUMN more TEXT", "extra column more"),
    ("ALTER TABLE p DROP COLUMN note", "missing column note"),
    ("ALTER TABLE p RENAME COLUMN note TO notes", "missing column note"),
    ("p: note TEXT => note INTEGER", "column note is INTEGER, expected TEXT"),
    ("p: note TEXT => note TEXT NOT NULL", "column note is TEXT NOT NULL"),
    ("p: name TEXT NOT NULL => name TEXT", "expected TEXT NOT NULL"),
    ("p: DEFAULT 'x' => DEFAULT 'y'", "DEFAULT 'y'"),
    ("p: DEFAULT 'x' => ", "expected TEXT NOT NULL DEFAULT 'x'"),
    ("p: note TEXT => note TEXT DEFAULT 'none'", "DEFAULT 'none'"),
    ("p: CHECK (amount > 0) => ", "missing CHECK (amount > 0)"),
    ("p: amount > 0 => amount > 1", "CHECK (amount > 1)"),
    ("p: note TEXT => note TEXT CHECK (note <> '')", "extra CHECK (note != '')"),
    ("p: note TEXT => note TEXT COLLATE NOCASE", "NOCASE"),
    ("c: COLLATE NOCASE => ", "expected TEXT COLLATE NOCASE"),
    ("CREATE TRIGGER h INSTEAD OF INSERT ON v BEGIN SELECT 1; END", "extra trigger h"),
    ("p: INTEGER PRIMARY KEY => INTEGER PRIMARY KEY AUTOINCREMENT", "AUTOINCREMENT"),
    ("p: note TEXT => note TEXT GENERATED ALWAYS AS (name) VIRTUAL", "column note"),
    ("c: ON DELETE CASCADE => ", "ON DELETE CASCADE"),
    ("c: ON DELETE CASCADE => ON DELETE SET NULL", "ON DELETE SET NULL"),
    ("c: ON DELETE CASCADE => ON DELETE CASCADE ON UPDATE CASCADE", "ON UPDATE CASCADE"),
    ("c: REFERENCES p (id) ON DELETE CASCADE => ", "missing foreign key"),
    ("c: REFERENCES p (id) => REFERENCES u (code)", "references u"),
    ("c: ON DELETE CASCADE => ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED", "DEFERRED"),
    ("c: UNIQUE (a, b) => UNIQUE (b, a)", "missing UNIQUE (a, b)"),
    ("u: WITHOUT ROWID => WITHOUT ROWID, STRICT", "STRICT"),
    ("CREATE INDEX p_name ON p (name)", "extra index p_name"),
    ("DROP INDEX c_a", "missing index c_a"),
    ("DROP INDEX c_a; CREATE UNIQUE INDEX c_a ON c (a)", "index c_a"),
    ("DROP INDEX c_a; CREATE INDEX c_a ON c (a DESC)", "index c_a"),
    ("DROP INDEX c_a; CREATE INDEX c_a ON c (a, b)", "index c_a"),
    ("DROP INDEX c_b; CREATE INDEX c_b ON c (b)", "index c_b"),
    ("DROP VIEW v", "missing view v"),
    ("DROP VIEW v; CREATE VIEW v AS SELECT id FROM p", "view v"),
    ("CREATE VIEW w AS SELECT 1", "extra view w"),
    ("DROP TRIGGER g", "missing trigger g"),
    (
        "DROP TRIGGER g; CREATE TRIGGER g AFTER UPDATE ON p BEGIN DELETE FROM c WHERE parent = 0; END",
        "trigger g",
    ),
    ("DROP TABLE f; CREATE VIRTUAL TABLE f USING fts5(a, b)", "virtual table f"),
];

const SQLITE_NOTHING: [&str; 25] = [
    "INSERT INTO p (id, name) VALUES (1, 'a')",
    "INSERT INTO p (id) VALUES (1); DELETE FROM p",
    "INSERT INTO f (a) VALUES ('word')",
    "ANALYZE",
    "VACUUM",
    "REINDEX",
    "PRAGMA application_id = 7",
    "PRAGMA user_version = 7",
    "PRAGMA journal_mode = WAL",
    "PRAGMA page_size = 8192; VACUUM",
    "PRAGMA auto_vacuum = FULL; VACUUM",
    "DROP INDEX c_a; CREATE INDEX c_a ON c (a)",
    "DROP INDEX c_a; CREATE INDEX IF NOT EXISTS \"c_a\" ON \"c\" (\"a\" ASC)",
    "DROP INDEX c_b; CREATE INDEX c_b ON c (b) WHERE (b is not null)",
    "DROP VIEW v; CREATE VIEW v AS select \"id\", name /* who */ from p",
    "DROP TRIGGER g; CREATE TRIGGER g AFTER INSERT ON p FOR EACH ROW BEGIN delete from c where parent=0; END",
    "ALTER TABLE p RENAME TO q; ALTER TABLE q RENAME TO p",
    "ALTER TABLE p ADD COLUMN more TEXT; ALTER TABLE p DROP COLUMN more",
    "p: CHECK (amount > 0) => CONSTRAINT positive CHECK ((amount>0))",
    "p: note TEXT => [note] text /* for people */",
    "p: note TEXT => note TEXT NULL DEFAULT NULL COLLATE BINARY",
    "p: DEFAULT 'x' => DEFAULT ('x')",
    "c: REFERENCES p (id) => REFERENCES p",
    "c: ON DELETE CASCADE => ON DELETE CASCADE ON UPDATE NO ACTION NOT DEFERRABLE",
    "u: code TEXT PRIMARY KEY => code TEXT, PRIMARY KEY (code)",
];

const POSTGRES: &str = "\
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE SEQUENCE s;
    CREATE TABLE p (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL DEFAULT 'x', note text, amount int CHECK (amount > 0), m mood);
    CREATE TABLE c (id bigint PRIMARY KEY, parent bigint CONSTRAINT parents REFERENCES p (id) ON DELETE CASCADE, a varchar(20), b text, CONSTRAINT pair UNIQUE (a, b));
    CREATE INDEX c_a ON c (a);
    CREATE INDEX c_b ON c (b) WHERE b IS NOT NULL;
    CREATE VIEW v AS SELECT id, name FROM p;
    CREATE FUNCTION twice(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * a';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER g BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION touch();";

const POSTGRES_CHANGES: [(&str, &str); 40] = [
    ("CREATE TABLE extra (a int)", "extra table extra"),
    ("DROP TABLE c", "missing table c"),
    ("ALTER TABLE p RENAME TO q", "missing table p"),
    ("ALTER TABLE p ADD COLUMN more text", "extra column more"),
    ("ALTER TABLE p DROP COLUMN note", "missing column note"),
    ("ALTER TABLE p RENAME COLUMN note TO notes", "missing column note"),
    ("ALTER TABLE p ALTER COLUMN note TYPE varchar(9)", "column note"),
    ("ALTER TABLE p ALTER COLUMN note SET NOT NULL", "column note"),
    ("ALTER TABLE p ALTER COLUMN name DROP NOT NULL", "column name"),
    ("ALTER TABLE p ALTER COLUMN name SET DEFAULT 'y'", "column name"),
    ("ALTER TABLE p ALTER COLUMN name DROP DEFAULT", "column name"),
    ("ALTER TABLE p ALTER COLUMN note SET DEFAULT 'none'", "column note"),
    ("ALTER TABLE p DROP CONSTRAINT p_amount_check", "missing CHECK"),
    ("ALTER TABLE p DROP CONSTRAINT p_amount_check, ADD CHECK (amount > 1)", "CHECK (amount > 1)"),
    ("ALTER TABLE p ADD CHECK (note <> '')", "extra CHECK"),
    ("ALTER TABLE p ALTER COLUMN note TYPE text COLLATE \"C\"", "column note"),
    ("ALTER TABLE c ALTER COLUMN a TYPE varchar(21)", "column a"),
    ("ALTER TABLE p ALTER COLUMN id SET GENERATED ALWAYS", "column id"),
    ("ALTER TABLE p ALTER COLUMN id DROP IDENTITY", "column id"),
    ("ALTER TABLE c DROP CONSTRAINT parents", "missing foreign key"),
    (
        "ALTER TABLE c DROP CONSTRAINT parents, ADD FOREIGN KEY (parent) REFERENCES p ON DELETE SET NULL",
        "foreign key",
    ),
    ("ALTER TABLE c ALTER CONSTRAINT parents DEFERRABLE INITIALLY DEFERRED", "foreign key"),
    ("ALTER TABLE c DROP CONSTRAINT pair", "missing UNIQUE"),
    ("ALTER TABLE c DROP CONSTRAINT pair, ADD UNIQUE (b, a)", "UNIQUE (b, a)"),
    ("ALTER TABLE c DROP CONSTRAINT c_pkey", "table c"),
    ("CREATE INDEX p_name ON p (name)", "extra index p_name"),
    ("DROP INDEX c_a", "missing index c_a"),
    ("DROP INDEX c_a; CREATE UNIQUE INDEX c_a ON c (a)", "index c_a"),
    ("DROP INDEX c_a; CREATE INDEX c_a ON c (a DESC)", "index c_a"),
    ("DROP INDEX c_a; CREATE INDEX c_a ON c USING hash (a)", "index c_a"),
    ("DROP INDEX c_b; CREATE INDEX c_b ON c (b)", "index c_b"),
    ("DROP VIEW v", "missing view v"),
    ("CREATE OR REPLACE VIEW v AS SELECT id, name FROM p WHERE id > 1", "view v"),
    ("DROP TRIGGER g ON p", "missing trigger g"),
    ("ALTER TABLE p DISABLE TRIGGER g", "trigger g"),
    (
        "CREATE OR REPLACE FUNCTION twice(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 3 * a'",
        "function twice",
    ),
    ("ALTER TYPE mood ADD VALUE 'fair'", "mood"),
    ("ALTER DOMAIN positive ADD CHECK (VALUE < 9)", "positive"),
    ("DROP SEQUENCE s", "missing sequence s"),
    ("ALTER TABLE p ENABLE ROW LEVEL SECURITY", "table p"),
];

const POSTGRES_NOTHING: [&str; 25] = [
    "INSERT INTO p (name) VALUES ('a')",
    "INSERT INTO p (name) VALUES ('a'); DELETE FROM p",
    "SELECT nextval('s')",
    "ANALYZE p",
    "COMMENT ON TABLE p IS 'people'",
    "COMMENT ON COLUMN p.name IS 'who'",
    "TRUNCATE c",
    "INSERT INTO c (id) VALUES (1)",
    "SELECT setval('s', 50)",
    "ALTER TABLE p ALTER COLUMN note SET STATISTICS 500",
    "ALTER TABLE p ALTER COLUMN note SET STORAGE EXTERNAL",
    "REINDEX TABLE c",
    "CLUSTER c USING c_a",
    "GRANT SELECT ON p TO PUBLIC",
    "ALTER TABLE p RENAME TO q; ALTER TABLE q RENAME TO p",
    "ALTER TABLE p ADD COLUMN more text; ALTER TABLE p DROP COLUMN more",
    "ALTER TABLE p ALTER COLUMN note TYPE text",
    "ALTER TABLE c DROP CONSTRAINT pair, ADD CONSTRAINT pair UNIQUE (a, b)",
    "ALTER TABLE p DROP CONSTRAINT p_amount_check, ADD CHECK ((amount > (0)))",
    "DROP INDEX c_a; CREATE INDEX c_a ON c USING btree (a ASC NULLS LAST)",
    "DROP INDEX c_b; CREATE INDEX c_b ON c (b) WHERE (b IS NOT NULL)",
    "CREATE OR REPLACE VIEW v AS select p.id, name from p",
    "DROP TRIGGER g ON p; CREATE TRIGGER g BEFORE INSERT ON p FOR EACH ROW EXECUTE PROCEDURE touch()",
    "ALTER TABLE p DISABLE TRIGGER g; ALTER TABLE p ENABLE TRIGGER g",
    "ALTER TABLE p ALTER COLUMN name SET DEFAULT 'x'::text",
];

fn forty_kinds_of_change_are_found_and_twenty_five_that_mean_nothing_are_not(world: &mut World) {
    let base = world.either(SQLITE, POSTGRES);
    let changes = world.either(SQLITE_CHANGES, POSTGRES_CHANGES);
    let nothing = world.either(SQLITE_NOTHING, POSTGRES_NOTHING);
    world.with_migrations(&[("1_base", base)]);
    let ids: Vec<String> = (0..changes.len()).map(|number| format!("change{number}")).collect();
    let other_ids: Vec<String> = (0..nothing.len()).map(|number| format!("nothing{number}")).collect();
    let create: Vec<&str> =
        ["create"].into_iter().chain(ids.iter().chain(&other_ids).map(String::as_str)).collect();
    world.expect(0, &create);
    for (id, sql) in ids.iter().zip(changes.map(|(sql, _)| sql)).chain(other_ids.iter().zip(nothing)) {
        world.execute(id, &by_hand(sql));
    }
    let report = world.expect(4, &["schema", "drift", "--all"]);
    let mut wrong = Vec::new();
    for (id, (sql, named)) in ids.iter().zip(changes) {
        let differences = report.project(id)["differences"].to_string();
        if report.outcome(id) != "drifted" || !differences.contains(named) {
            wrong.push(format!("{sql}: {differences} does not name {named:?}"));
        }
    }
    for (id, sql) in other_ids.iter().zip(nothing) {
        if report.outcome(id) != "as_expected" {
            wrong.push(format!("{sql}: {}", report.project(id)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// SQL that changes a project by hand. `table: old => new` changes the text of a SQLite table.
fn by_hand(sql: &str) -> String {
    let Some((table, (old, new))) =
        sql.split_once(": ").and_then(|(table, it)| Some((table, it.split_once(" => ")?)))
    else {
        return sql.into();
    };
    let quoted = |text: &str| text.replace('\'', "''");
    format!(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, '{}', '{}') WHERE name = '{table}'; \
         PRAGMA writable_schema = RESET",
        quoted(old),
        quoted(new)
    )
}
