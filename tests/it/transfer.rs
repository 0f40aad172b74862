//! Exports and imports of projects as plain SQL, as `sqlite3` and `psql` write and read it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::Server;
use crate::world::World;

on_each_store!(
    a_dump_that_is_cut_off_is_not_taken,
    a_trigger_on_a_ledger_is_not_taken_from_a_file,
    an_export_is_what_the_databases_own_program_reads_and_an_import_the_same,
    an_import_stamps_only_what_it_verified,
    an_import_refuses_what_reaches_beyond_the_project,
);

const NOTES: (&str, &str) = ("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\n");
const MORE: (&str, &str) = ("2_more", "CREATE TABLE more (id INTEGER PRIMARY KEY);\n");

fn file(world: &World, text: &str) -> String {
    let path = world.folder().join(format!("{}.sql", uuid::Uuid::now_v7().simple()));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn exported(world: &World, id: &str) -> String {
    let path = world.folder().join(format!("export-{id}.sql"));
    let ran = world.run(&["export", id, "--output", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(world.run(&["export", id]).stdout.lines().count(), text.lines().count());
    assert!(world.run(&["export", id, "--output", path.to_str().unwrap()]).stderr.contains("cannot write"));
    path.display().to_string()
}

/// Runs a script with the `sqlite3` program.
fn sqlite3(database: &PathBuf, text: &str) {
    let mut child = Command::new("sqlite3").arg("-bail").arg(database).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn an_export_is_what_the_databases_own_program_reads_and_an_import_the_same(world: &mut World) {
    world.with_legacy_as(1, "1").expect(0, &["upgrade", "1"]);
    if !world.is_postgres() {
        // Values and objects that are hard to write as SQL.
        world.execute("1", "CREATE TABLE odd (a, \"b \"\"c\" TEXT, d AS (a || 'x'), e AS (a || 'y') STORED);
            INSERT INTO odd (a, \"b \"\"c\") VALUES (-9223372036854775808, 'it''s'), (9e999, char(10) || ';' || char(0) || 'x'), (-9e999, NULL),
                (x'4100', 'z'), (1.0, ''), (0.1, 'é'), (-0.0, 'a'), (1e300, 'b');
            CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO counted VALUES (41); DELETE FROM counted;
            CREATE VIRTUAL TABLE found USING fts5(text); INSERT INTO found (rowid, text) VALUES (3, 'needle'), (7, 'hay');
            CREATE TRIGGER odd_insert AFTER INSERT ON odd BEGIN UPDATE odd SET a = 'touched'; END;");
    }
    let text = exported(world, "1");
    // The internal tables of a virtual table may differ.
    let contents_of = |world: &World, id: &str| {
        let mut contents = world.contents(id);
        contents.retain(|table, _| !table.starts_with("found_"));
        contents
    };
    let contents = contents_of(world, "1");
    if world.is_postgres() {
        let elsewhere = World::postgres();
        elsewhere.database().run(&["-1", "-q", "-f", &text]);
        assert_eq!(contents, elsewhere.contents("1"));
        let status = elsewhere.expect(0, &["status"]);
        assert_eq!(status.outcome("1"), "up_to_date", "the schema differs");
    } else {
        sqlite3(&world.path("loaded"), &std::fs::read_to_string(&text).unwrap());
        for (table, rows) in contents_of(world, "loaded") {
            assert_eq!(contents[&table], rows, "{table}");
        }
        assert_eq!(world.query("loaded", "SELECT rowid FROM found('needle')"), ["3"]);
        assert_eq!(world.query("loaded", "SELECT seq FROM sqlite_sequence WHERE name = 'counted'"), ["41"]);
        let bytes = "SELECT hex(a), typeof(a), hex(\"b \"\"c\"), typeof(\"b \"\"c\") FROM odd";
        assert_eq!(world.query("1", bytes), world.query("loaded", bytes));
        world.assert_sound("loaded");
        // A dump that `sqlite3` itself writes can be imported as well.
        let dump = Command::new("sqlite3").arg(world.path("plain")).arg("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO notes VALUES (1, 'a' || char(10) || 'b'); CREATE INDEX i ON notes (text);").output().unwrap();
        assert!(dump.status.success());
        let dump = Command::new("sqlite3").arg(world.path("plain")).arg(".dump").output().unwrap();
        let path = file(world, &String::from_utf8(dump.stdout).unwrap());
        world.expect(0, &["import", "dumped", &path]);
        assert_eq!(world.contents("dumped"), world.contents("plain"));
    }
    let report = world.expect(world.either(3, 0), &["import", "new", &text]);
    if world.is_postgres() {
        assert_eq!(
            (report.outcome("new"), report.project("new")["to"].as_str()),
            ("created", Some("20260114000000"))
        );
    } else {
        // The table `odd` is not part of the version that the file's ledger states.
        assert!(report.error("new").1.contains("its ledger is not valid"), "{}", report.error("new").1);
        world.execute("1", "DROP TRIGGER odd_insert; DROP TABLE odd; DROP TABLE counted; DROP TABLE found");
        std::fs::remove_file(&text).unwrap();
        let text = exported(world, "1");
        assert_eq!(world.expect(0, &["import", "new", &text]).outcome("new"), "created");
    }
    assert_eq!(world.contents("1"), world.contents("new"));
    assert_eq!(world.expect(0, &["status", "new"]).outcome("new"), "up_to_date");
    assert_eq!(world.expect(3, &["import", "1", &text_of(world, "new")]).error("1").0, "already_exists");
    assert_eq!(world.run(&["export", "missing"]).code, 2);
}

fn text_of(world: &World, id: &str) -> String {
    exported(world, id)
}

/// A dump of one table, as the database's own program writes it.
fn table(world: &World, columns: &str) -> String {
    world.either(
        format!("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE notes ({columns});\nINSERT INTO notes VALUES(1,'x');\nCOMMIT;\n"),
        format!(
            "CREATE SCHEMA other;\nCREATE TABLE other.notes ({});\nCOPY other.notes (id, text) FROM stdin;\n1\tx\n\\.\n",
            columns.replace("INTEGER PRIMARY KEY", "INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        ),
    )
}

fn an_import_stamps_only_what_it_verified(world: &mut World) {
    world.with_migrations(&[NOTES, MORE]);
    let text = file(world, &table(world, "id INTEGER PRIMARY KEY, text TEXT"));
    let report = world.expect(0, &["import", "1", &text]);
    assert_eq!(
        (report.project("1")["stamped"].as_str(), report.project("1")["to"].as_str()),
        (Some("1"), Some("1"))
    );
    assert_eq!(
        (world.versions("1"), world.query("1", "SELECT text FROM notes")),
        (vec!["1".to_string()], vec!["x".to_string()])
    );
    assert_eq!(world.expect(0, &["upgrade", "1"]).outcome("1"), "upgraded");
    // A schema that matches no version is imported, but not stamped.
    let text = file(
        world,
        &table(world, "id INTEGER PRIMARY KEY, text TEXT, other TEXT").replace("'x'", "'x',NULL"),
    );
    let report = world.expect(0, &["import", "2", &text]);
    assert!(
        report.project("2")["notes"][0].as_str().unwrap().starts_with("no version was recorded"),
        "{}",
        report.project("2")
    );
    assert_eq!(world.expect(4, &["upgrade", "2"]).outcome("2"), "blocked");
    // An invalid file creates no project.
    for (number, text) in
        ["CREATE TABLE notes (id INTEGER", "CREATE TABLE;", "", "INSERT INTO nothing VALUES (1);"]
            .iter()
            .enumerate()
    {
        let id = format!("bad{number}");
        let ran = world.run(&["import", &id, &file(world, text)]);
        assert_eq!(ran.code, 3, "{text}: {}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(world.run(&["list"]).stdout.lines().filter(|line| line.starts_with("bad")).count(), 0);
}

fn an_import_refuses_what_reaches_beyond_the_project(world: &mut World) {
    world.with_migrations(&[NOTES]);
    let good = table(world, "id INTEGER PRIMARY KEY, text TEXT");
    let marker = world.folder().join("marker");
    let marker = marker.to_str().unwrap();
    let attacks: Vec<String> = world.either(
        vec![
            format!("ATTACH '{marker}' AS other;"),
            format!("attach database '{marker}' as other;"),
            "PRAGMA journal_mode=WAL;".into(),
            "PRAGMA writable_schema=ON;".into(),
            "PRAGMA main.user_version = 3;".into(),
            "PRAGMA page_size(512);".into(),
            format!(".shell touch {marker}"),
            format!(".output {marker}"),
            format!("VACUUM INTO '{marker}';"),
            "SELECT load_extension('x');".into(),
            "ROLLBACK;".into(),
        ],
        vec![
            format!("\\! touch {marker}"),
            format!("SELECT 1 \\g {marker}"),
            format!("\\copy other.notes to '{marker}'"),
            format!("COPY other.notes TO PROGRAM 'touch {marker}';"),
            format!("COPY other.notes TO '{marker}';"),
            format!("COPY other.notes FROM '{marker}';"),
            "CREATE ROLE evil;".into(),
            "ALTER SYSTEM SET work_mem = '1MB';".into(),
            "DROP SCHEMA public;".into(),
            "CREATE DATABASE evil;".into(),
            format!("DO $$ BEGIN EXECUTE 'COPY other.notes TO ''{marker}'''; END $$;"),
            format!("SELECT lo_export(1, '{marker}');"),
            "COMMIT;".into(),
            "CREATE --\r ROLE evil SUPERUSER /*\n TABLE other.x (a int) -- */\n LOGIN;".into(),
            by_trigger("CREATE ROLE evil SUPERUSER"),
            by_trigger("RESET ROLE"),
            by_trigger("RESET SESSION AUTHORIZATION"),
            by_trigger("SET LOCAL ROLE postgres"),
            by_trigger(&format!("COPY other.x TO PROGRAM 'touch {marker}'")),
            by_trigger(&format!("COPY other.x TO '{marker}'")),
            by_trigger("ALTER FUNCTION tenantry_import.run(text) SECURITY INVOKER")
                + "COMMENT ON TABLE other.x IS 'x';",
            "GRANT pg_execute_server_program /* ON TABLE */ TO PUBLIC;".into(),
            // Triggers that run at the commit, the second of which defers another one.
            deferred("CREATE ROLE evil SUPERUSER"),
            deferred("SET CONSTRAINTS ALL DEFERRED; INSERT INTO other.x SELECT count(*) FROM other.x HAVING count(*) < 9; RESET ROLE"),
            // Statements that change an owner and do something else as well.
            with_evil("ALTER TABLE other.notes OWNER TO CURRENT_USER, ADD COLUMN evil int DEFAULT other.evil();"),
            with_evil("ALTER TABLE other.notes ADD COLUMN evil int DEFAULT other.evil(), OWNER TO CURRENT_USER;"),
            // An extension in one of the server's own schemas does not allow other objects there.
            "CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog; CREATE FUNCTION pg_catalog.evil() RETURNS int LANGUAGE sql AS 'SELECT 1';".into(),
            "CREATE SCHEMA second; CREATE TABLE second.t (id INTEGER);".into(),
        ],
    );
    for attack in attacks {
        let ran = world.run(&["import", "1", &file(world, &format!("{good}{attack}\n"))]);
        assert_eq!(ran.code, 3, "{attack}: {}{}", ran.stdout, ran.stderr);
        assert!(!std::path::Path::new(marker).exists(), "{attack}");
        if world.is_postgres() {
            let roles = world.database().run(&["-c", "SELECT rolname FROM pg_roles WHERE rolname = 'evil'"]);
            assert_eq!(roles, Vec::<String>::new(), "{attack}");
        }
        assert_eq!(world.run(&["list"]).stdout, "", "{attack}");
    }
    // The error names the line.
    let ran = world.run(&[
        "import",
        "1",
        &file(world, &world.either(format!("{good}\n.shell x\n"), format!("{good}\n\\! x\n"))),
    ]);
    let line = good.lines().count() + 2;
    assert!(ran.stdout.contains(&format!(".sql:{line})")), "{}", ran.stdout);
}

/// A row whose trigger runs a statement that cannot be recognized in the text.
fn by_trigger(sql: &str) -> String {
    let (head, tail) = sql.split_at(2);
    format!(
        "CREATE TABLE other.x (a int); CREATE FUNCTION other.f() RETURNS trigger LANGUAGE plpgsql AS \
         $f$ BEGIN EXECUTE '{head}' || $q${tail}$q$; RETURN NEW; END $f$; \
         CREATE TRIGGER t BEFORE INSERT ON other.x FOR EACH ROW EXECUTE FUNCTION other.f(); INSERT INTO other.x VALUES (1);"
    )
}

/// A statement, preceded by a function that creates a role.
fn with_evil(sql: &str) -> String {
    let body = "BEGIN EXECUTE 'CRE' || 'ATE ROLE evil'; RETURN 1; END";
    format!("CREATE FUNCTION other.evil() RETURNS int LANGUAGE plpgsql AS $f$ {body} $f$; {sql}")
}

/// Like [`by_trigger`], with a trigger that runs at the commit.
fn deferred(sql: &str) -> String {
    by_trigger(sql)
        .replace("CREATE TRIGGER t BEFORE INSERT", "CREATE CONSTRAINT TRIGGER t AFTER INSERT")
        .replace("FOR EACH ROW", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW")
}

/// Operators that the `search_path` puts before the server's own in every query that follows.
fn operator(left: &str, right: &str) -> String {
    let body = "BEGIN EXECUTE 'CRE' || 'ATE ROLE evil'; RETURN true; END";
    let make = |name: &str| {
        format!("CREATE OPERATOR other.{name} (FUNCTION = other.evil, LEFTARG = {left}, RIGHTARG = {right});")
    };
    format!(
        "CREATE FUNCTION other.evil({left}, {right}) RETURNS boolean LANGUAGE plpgsql AS $f$ {body} $f$; {}{}{}\
         SELECT pg_catalog.set_config('search_path', 'other, pg_catalog', false);",
        make("="),
        make("<>"),
        make("!~~")
    )
}

/// A truncated dump is refused.
fn a_dump_that_is_cut_off_is_not_taken(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "1"]);
    world.execute("1", "INSERT INTO notes VALUES (1, 'a'), (2, 'b')");
    let complete = std::fs::read_to_string(exported(world, "1")).unwrap();
    let lines: Vec<&str> = complete.lines().collect();
    for part in 1..8 {
        let count = lines.len() * part / 8;
        let cut = format!("{}\n", lines[..count].join("\n"));
        let ran = world.run(&["import", "cut", &file(world, &cut)]);
        assert_eq!(ran.code, 3, "{count} of {} lines: {}{}", lines.len(), ran.stdout, ran.stderr);
        assert_eq!(
            world.expect(0, &["status"]).events("project_finished").len(),
            1,
            "{count} of {}",
            lines.len()
        );
    }
    assert_eq!(world.run(&["import", "2", &file(world, &complete)]).code, 0);
    // Text after a NUL would not be read, so a file with a NUL is refused.
    let with_nul = complete.replace("'a'", "'\0'").replace("\ta\n", "\t\0\n");
    let ran = world.run(&["import", "3", &file(world, &with_nul)]);
    assert!(ran.code == 3 && ran.stdout.contains("NUL"), "{}{}", ran.stdout, ran.stderr);
}

fn a_trigger_on_a_ledger_is_not_taken_from_a_file(world: &mut World) {
    world.with_migrations(&[("1_notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\n")]);
    world.expect(0, &["create", "1"]);
    let text = exported(world, "1");
    let evil = world.either(
        "CREATE TRIGGER evil AFTER INSERT ON \"tenantry_history\" BEGIN DELETE FROM notes; END;\n",
        "CREATE RULE evil AS ON INSERT TO \"project_1\".\"tenantry_history\" DO ALSO DELETE FROM project_1.notes;\n",
    );
    let original = std::fs::read_to_string(&text).unwrap();
    let at = original.rfind("COMMIT;").unwrap_or(original.len());
    std::fs::write(&text, format!("{}{evil}{}", &original[..at], &original[at..])).unwrap();
    let refused = world.run(&["import", "2", &text]);
    assert!(refused.code != 0, "{}", refused.stdout);
    assert!(
        format!("{}{}", refused.stdout, refused.stderr).contains("a trigger on a ledger"),
        "{}{}",
        refused.stdout,
        refused.stderr
    );
    assert_eq!(world.expect(0, &["status"]).events("project_finished").len(), 1);
}

#[test]
fn search_indexes_find_after_an_import_what_they_found_before() {
    let mut world = World::sqlite();
    world.with_project(
        "1",
        "CREATE TABLE texts (text TEXT); INSERT INTO texts VALUES ('alpha'), ('gone'), ('beta'), ('gamma'); DELETE FROM texts WHERE text = 'gone';
         CREATE VIRTUAL TABLE found USING fts5(text, content = 'texts'); INSERT INTO found(found) VALUES ('rebuild');
         CREATE VIRTUAL TABLE words USING fts5vocab('found', 'row');",
    );
    let search = "SELECT text FROM texts WHERE rowid IN (SELECT rowid FROM found WHERE found MATCH 'beta')";
    assert_eq!(world.query("1", search), ["beta"]);
    let text = exported(&world, "1");
    world.run(&["import", "2", &text]);
    assert_eq!(world.query("2", search), ["beta"]);
    assert_eq!(world.query("2", "SELECT term FROM words"), ["alpha", "beta", "gamma"]);
    // The export fails if the rows of a table cannot be read; it does not omit them silently.
    world.execute("1", "CREATE VIRTUAL TABLE blind USING fts5(text, content = '')");
    let refused = world.run(&["export", "1"]);
    assert!(refused.code != 0 && refused.stderr.contains("blind"), "{}", refused.stderr);
}

/// Operators that a file defines are not used by tenantry's own queries.
#[test]
fn an_imports_operators_are_its_own_business() {
    // Roles belong to the whole server, and other tests check for this one.
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    world.with_migrations(&[NOTES]);
    for (id, [left, right]) in [("1", ["name", "text"]), ("2", ["oid", "oid"]), ("3", ["name", "name"])] {
        let text = format!(
            "CREATE SCHEMA other;\nCREATE TABLE other.notes (id integer);\n{}\nGRANT SELECT ON other.notes TO PUBLIC;\n",
            operator(left, right)
        );
        let ran = world.run(&["import", id, &file(&world, &text)]);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        let roles = world.database().run(&["-c", "SELECT rolname FROM pg_roles WHERE rolname = 'evil'"]);
        assert_eq!(roles, Vec::<String>::new(), "{left} {right}");
    }
}

/// An import stores a file's values byte for byte, as `psql` does.
#[test]
fn an_import_changes_nothing_in_the_rows() {
    let mut world = World::postgres();
    world.with_migrations(&[NOTES]);
    let text = "CREATE SCHEMA other;\nCREATE TABLE other.notes (id integer PRIMARY KEY, text text);\n\
        INSERT INTO other.notes VALUES (1, 'a\rb\r\nc');\n\
        INSERT INTO other.notes VALUES (2, 'x\n\\restrict abc\ny');\n\
        INSERT INTO other.notes VALUES (3, E'a'\n'b\\'c');\n\
        INSERT INTO other.notes VALUES (4, 'COPY it FROM stdin;\nz');\n\
        \\restrict abc\n\
        COPY other.notes (id, text) FROM stdin;\n5\t\\x41\\102\\r\\n\\\\\n6\t\\N\n\\.\n\
        \\unrestrict abc\n";
    world.expect(0, &["import", "1", &file(&world, text)]);
    // The same with `psql` itself, which cannot read a string on two lines.
    let database = &world.database();
    let path = file(&world, &text.replace("other", "by_psql").replace("E'a'\n'b\\'c'", "E'ab\\'c'"));
    database.run(&["-f", &path]);
    let hexadecimal = |schema: &str| {
        database.run(&[
            "-c",
            &format!("SELECT id, encode(convert_to(text, 'UTF8'), 'hex') FROM {schema}.notes ORDER BY id"),
        ])
    };
    assert_eq!(hexadecimal("project_1"), hexadecimal("by_psql"));
    assert_eq!(hexadecimal("project_1").len(), 6);
}

/// Collations and functions that only the application registers are missing here. An import succeeds where it does not
/// need them, and otherwise names what is missing.
#[test]
fn a_file_that_needs_what_only_the_application_has_is_taken_as_far_as_that_goes() {
    let mut world = World::sqlite();
    world.with_migrations(&[NOTES]);
    let notes =
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\nINSERT INTO notes VALUES (1, 'a');\n";
    let application_table = "CREATE TABLE own (a TEXT COLLATE myown, b TEXT CHECK (myfunction(b)));\nINSERT INTO own VALUES ('x', 'y'), ('z', '');\n";
    let imported =
        world.run(&["import", "1", &file(&world, &format!("BEGIN;\n{notes}{application_table}COMMIT;\n"))]);
    assert_eq!(imported.code, 0, "{}{}", imported.stdout, imported.stderr);
    assert!(imported.stdout.contains("not checked"), "{}", imported.stdout);
    assert_eq!(world.query("1", "SELECT count(*) FROM own"), ["2"]);
    let index = "CREATE INDEX own_a ON own (a);\n";
    let refused = world.run(&[
        "import",
        "2",
        &file(&world, &format!("BEGIN;\n{notes}{application_table}{index}COMMIT;\n")),
    ]);
    assert!(refused.code == 3 && refused.stdout.contains("myown"), "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stdout.contains(".sql:6)"), "{}", refused.stdout);
    // A constraint that can be checked is checked.
    let broken = notes.replace("text TEXT", "text TEXT CHECK (text <> 'a')");
    let refused = world.run(&["import", "3", &file(&world, &format!("BEGIN;\n{broken}COMMIT;\n"))]);
    assert_eq!(refused.code, 3, "{}{}", refused.stdout, refused.stderr);
}
