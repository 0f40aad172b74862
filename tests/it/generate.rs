//! `migration new --diff` writes the migration that leads from the newest version to a wanted schema.

use crate::faults::repeated;
use crate::journal::NOTES;
use crate::random_schema::{Model, Random};
use crate::world::{World, portable};

on_each_store!(
    random_schemas_lead_to_each_other_and_back,
    what_cannot_be_expressed_is_refused_and_nothing_is_written,
    a_table_gets_another_name_with_its_rows_and_numbers,
    the_layout_of_the_folder_is_kept,
    what_is_dropped_is_named_and_a_renaming_needs_its_goal,
);

fn random_schemas_lead_to_each_other_and_back(world: &mut World) {
    let is_postgres = world.is_postgres();
    let (count, mut with_down) = (repeated(if is_postgres { 2 } else { 15 }), 0);
    let first = std::env::var("TENANTRY_SEED").map_or(0, |text| text.parse().expect("a number"));
    for seed in first..first + u64::from(count) {
        let mut random = Random::new(seed);
        let before = Model::new(&mut random, is_postgres);
        let mut after = before.clone();
        let mut renames = Vec::new();
        for number in 0..=random.below(6) {
            // What is new has no other name.
            renames.extend(after.change(&mut random, number == 0));
        }
        let (old, new) = (before.sql(), after.sql());
        // What got another name may be gone since.
        renames.retain(|rename: &String| new.contains(&format!("{} ", rename.split_once('=').unwrap().1)));
        let place = || format!("seed {seed}\n{old}\nto\n{new}\n{renames:?}");
        let mut world = if is_postgres { World::postgres() } else { World::sqlite() };
        world.with_migrations(&[("1_before", &old)]).expect(0, &["create", "a"]);
        world.execute("a", &before.rows());
        let wanted = world.folder().join("wanted.sql");
        std::fs::write(&wanted, &new).unwrap();
        let mut arguments = vec!["migration", "new", "change", "--diff", wanted.to_str().unwrap()];
        for rename in &renames {
            arguments.extend(["--rename", rename]);
        }
        let ran = world.run(&arguments);
        assert_eq!(ran.code, 0, "{}\n{}", ran.stderr, place());
        let common = before.common(&after, &renames);
        let values = |new: bool| -> Vec<Vec<String>> {
            common.iter().map(|pair| world.query("a", if new { &pair.1 } else { &pair.0 })).collect()
        };
        let rows = values(false);
        let upgraded = world.run(&["upgrade", "a"]);
        assert_eq!(upgraded.code, 0, "{}\n{}\n{}", upgraded.stdout, ran.stdout, place());
        let differs = world.run(&["schema", "diff", "a", wanted.to_str().unwrap()]);
        assert!(differs.code == 0 || is_order_only(&differs.stdout), "{}\n{}", differs.stdout, place());
        assert_eq!(values(true), rows, "{}", place());
        world.assert_sound("a");
        if ran.stderr.contains("has no down.sql") || ran.stdout.is_empty() {
            continue;
        }
        let reverted = world.run(&["downgrade", "a", "--to", "1"]);
        // A table that was dropped comes back without its rows, and a column with its default in each row.
        let lost = [
            "reference missing rows",
            "violates foreign key",
            "UNIQUE constraint failed",
            "create unique index",
        ];
        if lost.iter().any(|message| reverted.stdout.contains(message)) {
            continue;
        }
        with_down += 1;
        assert_eq!(reverted.code, 0, "{}\n{}", reverted.stdout, place());
        let differs = world.run(&["schema", "diff", "a", "@1"]);
        assert!(differs.code == 0 || is_order_only(&differs.stdout), "{}\n{}", differs.stdout, place());
        assert_eq!(values(false), rows, "{}", place());
    }
    assert!(with_down * 2 > count, "{with_down} of {count} can be reverted");
}

/// Whether two schemas differ only in the order of columns.
fn is_order_only(diff: &str) -> bool {
    let changed = diff.lines().filter(|line| {
        (line.starts_with('+') || line.starts_with('-'))
            && !line.starts_with("+++")
            && !line.starts_with("---")
    });
    changed.into_iter().all(|line| line.contains("column order"))
}

/// The files of the migrations.
fn files(world: &World) -> Vec<std::path::PathBuf> {
    crate::world::snapshot(&world.folder().join("migrations")).into_keys().collect()
}

/// Writes a SQL file, and returns its path.
fn wanted(world: &World, sql: &str) -> String {
    let path = world.folder().join("wanted.sql");
    std::fs::write(&path, sql).unwrap();
    path.to_str().unwrap().to_string()
}

/// The names of the migrations that were written, without their versions.
fn written(world: &World, target: &str) -> Vec<String> {
    let report = world.expect(0, &["migration", "new", "change", "--diff", target]);
    let name = |event: &&serde_json::Value| {
        let path = event["folder"].as_str().unwrap().to_string();
        path.rsplit('/').next().unwrap().split_once('_').unwrap().1.to_string()
    };
    report.events("migration_made").iter().map(name).collect()
}

fn what_cannot_be_expressed_is_refused_and_nothing_is_written(world: &mut World) {
    world.with_migrations(&[NOTES]);
    for (sql, message) in [
        (
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT, day TEXT NOT NULL);",
            "column day of notes: it is NOT NULL and has no default",
        ),
        ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL;", "wanted.sql"),
    ] {
        let target = wanted(world, &world.either(sql.to_string(), portable(sql)));
        let before = files(world);
        let ran = world.run(&["migration", "new", "change", "--diff", &target]);
        assert!(ran.code != 0 && ran.stderr.contains(message), "{} {}", ran.code, ran.stderr);
        assert_eq!(files(world), before);
    }
    for (rename, message) in [
        ("notes", "is no renaming"),
        ("notes.=a", "is no renaming"),
        ("notes.nothing=text", "a renaming is not possible"),
        ("nothing=notes", "a renaming is not possible"),
    ] {
        let ran = world.run(&["migration", "new", "change", "--diff", "@1", "--rename", rename]);
        assert!(ran.code == 2 && ran.stderr.contains(message), "{rename}: {} {}", ran.code, ran.stderr);
    }
    let ran = world.run(&["migration", "new", "change", "--diff", "@1"]);
    assert!(ran.code == 0 && ran.stderr.contains("nothing was written"), "{}", ran.stderr);
}

fn a_table_gets_another_name_with_its_rows_and_numbers(world: &mut World) {
    world.with_migrations(&[NOTES]).expect(0, &["create", "a"]);
    world.execute(
        "a",
        "INSERT INTO notes (text) VALUES ('one'), ('two'); DELETE FROM notes WHERE text = 'two'",
    );
    let sql = "CREATE TABLE entries (id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX entries_body ON entries (body);";
    let target = wanted(world, &world.either(sql.to_string(), portable(sql)));
    let renames = ["--rename", "notes.text=body", "--rename", "notes=entries"];
    world.expect(0, &[&["migration", "new", "change", "--diff", &target][..], &renames].concat());
    world.expect(0, &["upgrade", "a"]);
    assert_eq!(world.query("a", "SELECT id || body FROM entries"), ["1one"]);
    world.execute("a", "INSERT INTO entries (body) VALUES ('three')");
    assert_eq!(world.query("a", "SELECT id FROM entries ORDER BY id"), world.either(["1", "2"], ["1", "3"]));
    world.expect(0, &["downgrade", "a", "--to", "1"]);
    assert_eq!(world.query("a", "SELECT id || text FROM notes WHERE id = 1"), ["1one"]);
}

#[test]
fn what_would_block_applications_gets_a_migration_of_its_own() {
    let mut world = World::postgres();
    world.with_migrations(&[(
        "1_before",
        "CREATE TYPE mood AS ENUM ('good'); CREATE TABLE owners (id INTEGER PRIMARY KEY); \
         CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT, owner INTEGER, mood mood);",
    )]);
    world.expect(0, &["create", "a", "dup"]);
    world.execute("a", "INSERT INTO owners VALUES (1); INSERT INTO notes VALUES (1, 'one', 1, 'good')");
    world.execute("dup", "INSERT INTO notes VALUES (1, 'one', 1, 'good'), (2, NULL, NULL, 'good')");
    let sql = "CREATE TYPE mood AS ENUM ('bad', 'good', 'best'); CREATE TABLE owners (id INTEGER PRIMARY KEY); \
        CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL CHECK (text <> ''), \
        owner INTEGER REFERENCES owners (id), mood mood DEFAULT 'best'); CREATE INDEX notes_text ON notes (text); \
        CREATE UNIQUE INDEX notes_owner ON notes (owner);";
    let target = wanted(&world, &portable(sql));
    assert_eq!(
        written(&world, &target),
        ["change_values", "change", "change_index", "change_index_2", "change_validate"]
    );
    let script = |name: &str| world.script(name);
    assert!(script("2_change_values").contains("ALTER TYPE mood ADD VALUE 'bad' BEFORE 'good';"));
    assert!(script("3_change").contains("FOREIGN KEY (owner) REFERENCES owners(id) NOT VALID;"));
    assert!(script("4_change_index").contains("CREATE UNIQUE INDEX CONCURRENTLY notes_owner"));
    assert!(script("5_change_index_2").contains("CREATE INDEX CONCURRENTLY notes_text"));
    assert!(script("6_change_validate").contains("VALIDATE CONSTRAINT"));
    assert!(
        !world.run(&["migration", "lint", "--since", "1", "--strict"]).stdout.contains("constraint-missing")
    );
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!((report.outcome("a"), report.outcome("dup")), ("upgraded", "failed"));
    assert_eq!(world.run(&["schema", "diff", "a", &target]).code, 0);
    // What was committed before the failed one stays, and says so.
    assert_eq!(world.versions("dup").len(), 5, "{:?}", world.versions("dup"));
    world.execute("dup", "DELETE FROM notes WHERE id = 2; INSERT INTO owners VALUES (1)");
    assert_eq!(world.expect(0, &["upgrade", "dup"]).outcome("dup"), "upgraded");
    world.expect(0, &["downgrade", "a", "--to", "1"]);
    assert_eq!(world.run(&["schema", "diff", "a", "@1"]).code, 0);
    assert_eq!(world.query("a", "SELECT text || owner || mood FROM notes"), ["one1good"]);
}

#[test]
fn objects_of_a_server_are_created_changed_and_dropped() {
    let mut world = World::postgres();
    let before = "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 9); \
        CREATE TYPE pair AS (a integer, b text); CREATE SEQUENCE counter; \
        CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT n * 2'; \
        CREATE FUNCTION gone() RETURNS integer LANGUAGE sql AS 'SELECT 1'; \
        CREATE TABLE notes (id SERIAL PRIMARY KEY, mood mood DEFAULT 'good' CHECK (mood <> 'bad'::mood), short short, pairs pair[], \
            n integer DEFAULT nextval('counter'), double integer GENERATED ALWAYS AS (n * 2) STORED, old text UNIQUE); \
        CREATE VIEW moods AS SELECT mood, n FROM notes; CREATE VIEW more AS SELECT * FROM moods; \
        CREATE MATERIALIZED VIEW sums AS SELECT sum(n) AS n FROM notes; CREATE UNIQUE INDEX sums_n ON sums (n); \
        CREATE RULE quiet AS ON DELETE TO moods DO INSTEAD NOTHING; ALTER TABLE notes ENABLE ROW LEVEL SECURITY; \
        CREATE POLICY own ON notes USING (n > 0); CREATE STATISTICS pairwise ON id, n FROM notes; \
        ALTER TABLE notes SET (fillfactor = 70);";
    let after = "CREATE TYPE mood AS ENUM ('good', 'best'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 19); \
        CREATE TYPE pair AS (a integer, c text); CREATE SEQUENCE counter INCREMENT BY 5; \
        CREATE FUNCTION twice(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT n * 2'; \
        CREATE FUNCTION made() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; \
        CREATE TABLE tags (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, EXCLUDE USING btree (name WITH =)); \
        CREATE UNLOGGED TABLE notes (id SERIAL PRIMARY KEY, mood mood DEFAULT 'best', short short, pairs pair[], \
            n bigint DEFAULT nextval('counter'), double bigint GENERATED ALWAYS AS (n * 3) STORED, \
            number integer GENERATED BY DEFAULT AS IDENTITY, other SERIAL); \
        CREATE VIEW moods AS SELECT n, mood FROM notes; CREATE VIEW more AS SELECT * FROM moods; \
        CREATE MATERIALIZED VIEW sums AS SELECT sum(n) AS n FROM notes; CREATE UNIQUE INDEX sums_n ON sums (n); \
        CREATE TRIGGER watch BEFORE UPDATE OF n ON notes FOR EACH ROW EXECUTE FUNCTION made(); \
        ALTER TABLE notes DISABLE TRIGGER watch; ALTER TABLE notes FORCE ROW LEVEL SECURITY; \
        CREATE POLICY own ON notes USING (n > 1);";
    world.with_migrations(&[("1_before", before)]).expect(0, &["create", "a"]);
    world.execute(
        "a",
        "INSERT INTO notes (short, pairs, old) VALUES ('one', ARRAY[ROW(1, 'x')::pair], 'o'), ('two', NULL, 'p')",
    );
    let target = wanted(&world, after);
    assert_eq!(written(&world, &target), ["change"]);
    world.expect(0, &["upgrade", "a"]);
    let diff = world.run(&["schema", "diff", "a", &target]);
    assert!(diff.code == 0 || is_order_only(&diff.stdout), "{}", diff.stdout);
    let rows = "SELECT id || mood::text || short || coalesce(pairs::text, '') || n || double || number || other FROM notes";
    assert_eq!(world.query("a", rows), ["1goodone{\"(1,x)\"}1311", "2goodtwo2622"]);
    world.execute("a", "UPDATE notes SET short = 'longer than nine' WHERE id = 2");
    let ran = world.run(&["downgrade", "a", "--to", "1"]);
    assert!(ran.code == 3 && ran.stdout.contains("short_check"), "{}", ran.stdout);
    world.execute("a", "UPDATE notes SET short = 'two' WHERE id = 2");
    world.expect(0, &["downgrade", "a", "--to", "1"]);
    let diff = world.run(&["schema", "diff", "a", "@1"]);
    assert!(diff.code == 0 || is_order_only(&diff.stdout), "{}", diff.stdout);
}

#[test]
fn a_rebuild_keeps_what_depends_on_the_table() {
    let mut world = World::sqlite();
    let before = "CREATE TABLE owners (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT COLLATE NOCASE, note TEXT); \
        CREATE TABLE notes (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL REFERENCES owners ON DELETE CASCADE, text TEXT, \
            parent INTEGER REFERENCES notes (id), size AS (length(text))); \
        CREATE INDEX notes_text ON notes (text) WHERE text <> ''; CREATE UNIQUE INDEX owners_name ON owners (name); \
        CREATE VIEW named AS SELECT name, text FROM notes JOIN owners ON owners.id = owner; \
        CREATE VIEW first AS SELECT * FROM named LIMIT 1; CREATE VIEW other AS SELECT 1 AS one; \
        CREATE TRIGGER clean AFTER DELETE ON owners BEGIN INSERT INTO notes (owner, text) SELECT 1, old.name WHERE 0; END; \
        CREATE TRIGGER write INSTEAD OF INSERT ON first BEGIN SELECT 1; END;";
    let after = before
        .replace("note TEXT)", "note TEXT DEFAULT 'x', CHECK (name <> ''))")
        .replace("owner INTEGER NOT NULL", "owner INTEGER")
        .replace("AS (length(text))", "AS (length(text) * 2)");
    world.with_migrations(&[("1_before", before)]).expect(0, &["create", "a"]);
    world.execute(
        "a",
        "INSERT INTO owners (name) VALUES ('a'), ('b'), ('c'); DELETE FROM owners WHERE name = 'c'",
    );
    world.execute(
        "a",
        "INSERT INTO notes (owner, text) VALUES (1, 'one'), (2, 'two'); UPDATE notes SET parent = 1",
    );
    let target = wanted(&world, &after);
    assert_eq!(written(&world, &target), ["change"]);
    world.expect(0, &["upgrade", "a"]);
    assert_eq!(world.run(&["schema", "diff", "a", &target]).code, 0);
    assert_eq!(
        world.query("a", "SELECT id || owner || text || parent || size FROM notes"),
        ["11one16", "22two16"]
    );
    // Numbers of deleted rows are not given out again.
    world.execute("a", "INSERT INTO owners (name) VALUES ('d')");
    assert_eq!(world.query("a", "SELECT id FROM owners ORDER BY id"), ["1", "2", "4"]);
    world.assert_sound("a");
    world.expect(0, &["downgrade", "a", "--to", "1"]);
    assert_eq!(world.run(&["schema", "diff", "a", "@1"]).code, 0);
}

#[test]
fn whole_sets_are_written_anew_from_an_empty_folder() {
    for (set, world) in
        [("project", World::sqlite()), ("orchestrator", World::sqlite()), ("project", World::postgres())]
    {
        let folder = world.folder().join("anew");
        std::fs::create_dir(&folder).unwrap();
        world.expect(0, &["--set", set, "create", "model"]);
        let to = folder.to_str().unwrap();
        let report = world.expect(0, &["--migrations", to, "migration", "new", "all", "--diff", "model"]);
        assert_eq!(report.events("migration_made").len(), 1);
        world.expect(0, &["--migrations", to, "create", "copy"]);
        assert_eq!(world.run(&["--migrations", to, "schema", "diff", "model", "copy"]).code, 0);
        let down = world.expect(0, &["--migrations", to, "migration", "list"]);
        let event = down.events("migration")[0];
        assert!(event["reversible"] == true && event["leads_elsewhere"].is_null(), "{event}");
        world.expect(0, &["--migrations", to, "downgrade", "copy", "--to", "0"]);
    }
}

fn the_layout_of_the_folder_is_kept(world: &mut World) {
    let folder = world.folder().join("dbmate");
    std::fs::create_dir(&folder).unwrap();
    let first = "-- migrate:up\nCREATE TABLE notes (id INTEGER);\n-- migrate:down\nDROP TABLE notes;\n";
    std::fs::write(folder.join("001_notes.sql"), first).unwrap();
    let to = folder.to_str().unwrap();
    world.expect(0, &["--migrations", to, "create", "a"]);
    let target = wanted(world, "CREATE TABLE notes (id INTEGER, text TEXT);");
    world.expect(0, &["--migrations", to, "migration", "new", "change", "--diff", &target]);
    assert!(folder.join("002_change.sql").is_file());
    assert_eq!(world.expect(0, &["--migrations", to, "upgrade", "a"]).outcome("a"), "upgraded");
    let report = world.expect(0, &["--migrations", to, "downgrade", "a", "--to", "001"]);
    assert_eq!(report.outcome("a"), "downgraded");
}

#[test]
fn row_ids_and_numbers_outlast_a_rebuild() {
    let mut world = World::sqlite();
    let before = "CREATE TABLE notes (uuid TEXT PRIMARY KEY, body TEXT, n INTEGER); \
        CREATE VIRTUAL TABLE found USING fts5(body, content='notes'); \
        CREATE TRIGGER added AFTER INSERT ON notes BEGIN INSERT INTO found (rowid, body) VALUES (new.rowid, new.body); END; \
        CREATE TABLE \"Users\" (\"Id\" INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT);";
    world.with_migrations(&[("1_before", before)]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO notes VALUES ('a', 'alpha', 1), ('b', 'beta', 1), ('c', 'gamma', 1)");
    world.execute("a", "INSERT INTO found (found, rowid, body) VALUES ('delete', 1, 'alpha'); DELETE FROM notes WHERE uuid = 'a'");
    world.execute("a", "INSERT INTO \"Users\" (\"Id\") VALUES (10); DELETE FROM \"Users\"");
    let after =
        before.replace("n INTEGER", "n INTEGER CHECK (n > 0)").replace("x TEXT", "x TEXT CHECK (x <> '')");
    let target = wanted(&world, &after);
    written(&world, &target);
    world.expect(0, &["upgrade", "a"]);
    assert_eq!(world.query("a", "SELECT body FROM found WHERE found MATCH 'beta'"), ["beta"]);
    assert_eq!(world.query("a", "SELECT seq FROM sqlite_sequence"), ["10"]);
}

#[test]
fn values_are_not_cut_views_are_filled_and_sequences_go_on() {
    let mut world = World::postgres();
    let before = "CREATE TABLE notes (id integer PRIMARY KEY, text varchar(50), v integer); \
        CREATE TABLE other (id serial PRIMARY KEY); CREATE TABLE third (id serial PRIMARY KEY, code text); \
        CREATE MATERIALIZED VIEW sums AS SELECT id, v FROM notes;";
    world.with_migrations(&[("1_before", before)]).expect(0, &["create", "a", "long"]);
    for id in ["a", "long"] {
        world.execute(
            id,
            "INSERT INTO notes VALUES (1, 'short', 1), (7, 'x', 2); INSERT INTO other DEFAULT VALUES",
        );
    }
    world.execute("long", "UPDATE notes SET text = 'much longer than five'");
    let after = "CREATE TABLE notes (id serial PRIMARY KEY, text varchar(5), v bigint); \
        CREATE TABLE other (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY); \
        CREATE TABLE third (id bigserial PRIMARY KEY, code text UNIQUE); \
        CREATE MATERIALIZED VIEW sums AS SELECT id, v FROM notes;";
    let target = wanted(&world, after);
    assert_eq!(written(&world, &target), ["change", "change_index", "change_validate"]);
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!((report.outcome("a"), report.outcome("long")), ("upgraded", "failed"));
    assert!(report.error("long").1.contains("too long"), "{:?}", report.error("long"));
    assert_eq!(world.run(&["schema", "diff", "a", &target]).code, 0);
    world.execute("a", "INSERT INTO notes (text) VALUES ('next'); INSERT INTO other DEFAULT VALUES");
    assert_eq!(world.query("a", "SELECT max(id) FROM notes"), ["8"]);
    assert_eq!(world.query("a", "SELECT max(id) FROM other"), ["2"]);
    assert_eq!(world.query("a", "SELECT count(*) FROM sums"), ["2"]);
}

fn what_is_dropped_is_named_and_a_renaming_needs_its_goal(world: &mut World) {
    world.with_migrations(&[NOTES]);
    let target = wanted(world, "CREATE TABLE other (body TEXT);");
    let ran = world.run(&["migration", "new", "change", "--diff", &target, "--rename", "notes.text=boddy"]);
    assert!(ran.code == 2 && ran.stderr.contains("the wanted schema has no boddy"), "{}", ran.stderr);
    let ran = world.run(&["migration", "new", "change", "--diff", &target]);
    assert!(ran.code == 0 && ran.stderr.contains("drops table notes with its data"), "{}", ran.stderr);
}
