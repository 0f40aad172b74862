//! What the projects of a database share: extensions, and schemas that follow their own on the `search_path`.

use crate::faults::repeated;
use crate::world::World;

const SHARED: &str = "[store]\nshared = [\"public\"]\n";

fn with_settings(text: &str) -> World {
    let world = World::postgres();
    std::fs::write(world.folder().join("tenantry.toml"), text).unwrap();
    world
}

/// Queries a project as an application does, whose `search_path` has the shared schemas.
fn query(world: &World, id: &str, sql: &str) -> Vec<String> {
    world.database().run(&["-q", "-c", &format!("SET search_path = project_{id}, public"), "-c", sql])
}

fn extensions(world: &World) -> Vec<String> {
    world.database().run(&[
        "-c",
        "SELECT extname || ' in ' || n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
         WHERE extname <> 'plpgsql' ORDER BY 1",
    ])
}

const USERS: (&str, &str) = (
    "1_users",
    "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\";\nCREATE EXTENSION citext;\nCOMMENT ON EXTENSION citext IS 'text';\n\
     CREATE TABLE users (id uuid NOT NULL DEFAULT uuid_generate_v4(), email citext NOT NULL UNIQUE);\n-- down\n\
     DROP TABLE users;\nDROP EXTENSION citext;\nDROP EXTENSION IF EXISTS \"uuid-ossp\";",
);

#[test]
fn an_extension_is_created_once_and_its_names_are_found() {
    let mut world = with_settings(SHARED);
    let ids = ["a", "b", "c", "d", "e", "f"];
    world.with_migrations(&[]);
    for id in ids {
        world.with_project(id, "SELECT 1");
    }
    world.with_migrations(&[USERS]);
    let dry = world.expect(0, &["upgrade-all", "--dry-run"]);
    assert_eq!(dry.count("planned"), 6);
    assert_eq!(extensions(&world), [""; 0], "a dry run created an extension");
    let run = world.expect(0, &["--jobs", "4", "upgrade-all"]);
    assert_eq!(run.count("upgraded"), 6);
    let notes: Vec<_> =
        run.events("note").iter().map(|it| it["message"].as_str().unwrap().to_string()).collect();
    assert!(notes.iter().any(|it| it.contains("COMMENT ON EXTENSION citext")), "{notes:?}");
    assert_eq!(extensions(&world), ["citext in public", "uuid-ossp in public"]);
    world.expect(0, &["create", "new"]);
    for id in ["a", "new"] {
        world.execute(id, "INSERT INTO users (email) VALUES ('A@b.org')");
        assert_eq!(query(&world, id, "SELECT count(id) FROM users WHERE email = 'a@B.ORG'"), ["1"]);
    }
    assert_eq!(
        world.database().run(&["-c", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"]),
        ["0"]
    );
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 7);
    world.expect(0, &["check", "--all"]);
    // Backups are restored into a database that has no extension before.
    world.expect(0, &["backup", "create", "a"]);
    let checked = world.expect(0, &["backup", "check", "a", "--level", "4"]);
    assert_eq!(checked.outcome("a"), "verified");
    world.execute("a", "DELETE FROM users");
    world.expect(0, &["backup", "restore", "a"]);
    assert_eq!(query(&world, "a", "SELECT email FROM users"), ["A@b.org"]);
    let file = world.folder().join("a.sql");
    let text = world.run(&["export", "a"]).stdout;
    std::fs::write(&file, text).unwrap();
    world.expect(0, &["import", "copy", file.to_str().unwrap()]);
    assert_eq!(query(&world, "copy", "SELECT email FROM users WHERE email = 'a@b.org'"), ["A@b.org"]);
    // The others still use the extension.
    world.expect(0, &["downgrade", "b", "--to", "0"]);
    assert_eq!(extensions(&world), ["citext in public", "uuid-ossp in public"]);
    world.expect(0, &["upgrade", "b"]);
}

#[test]
fn an_extension_goes_into_the_schema_that_is_set_or_named() {
    let mut world =
        with_settings("[store]\nshared = [\"public\", \"extensions\"]\nextensions = \"extensions\"\n");
    world.with_migrations(&[(
        "1_one",
        "CREATE EXTENSION citext;\nCREATE EXTENSION hstore WITH SCHEMA public;\nCREATE TABLE t (a citext, b hstore);",
    )]);
    world.expect(0, &["create", "a", "b"]);
    assert_eq!(extensions(&world), ["citext in extensions", "hstore in public"]);
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a"]);
}

#[test]
fn what_is_not_found_is_named_with_its_schema() {
    let mut world = with_settings("");
    world.database().run(&["-c", "CREATE EXTENSION citext"]);
    world.with_migrations(&[("1_one", "CREATE TABLE t (a citext);")]);
    let ran = world.run(&["create", "a"]);
    assert!(ran.stderr.contains("shared = [\"public\"]"), "{}", ran.stderr);
    world.with_migrations(&[("1_one", "CREATE EXTENSION nowhere;\nCREATE TABLE t (a int);")]);
    let ran = world.run(&["create", "a"]);
    assert!(ran.code == 3 || ran.code == 2, "{}", ran.code);
    assert!(
        ran.stderr.contains("\"nowhere\" is not available") && ran.stderr.contains("install its package"),
        "{}",
        ran.stderr
    );
    for (statement, wanted) in
        [("DROP EXTENSION citext;", "up.sql:1"), ("ALTER EXTENSION citext UPDATE;", "up.sql:1")]
    {
        world.with_migrations(&[("1_one", statement)]);
        let ran = world.run(&["create", "a"]);
        assert!(ran.code == 2 && ran.stderr.contains(wanted), "{statement}: {}", ran.stderr);
    }
    for settings in ["shared = [\"pg_catalog\"]", "shared = [\"\"]", "extensions = \"tenantry_x\""] {
        std::fs::write(world.folder().join("tenantry.toml"), format!("[store]\n{settings}\n")).unwrap();
        assert_eq!(world.run(&["status"]).code, 2, "{settings}");
    }
}

const COUNTRIES: &str = "CREATE TABLE public.region (id int PRIMARY KEY); INSERT INTO public.region VALUES (1); \
    CREATE TABLE public.country (code text PRIMARY KEY, name text NOT NULL, region int REFERENCES public.region); \
    INSERT INTO public.country VALUES ('ch', 'Switzerland', 1), ('pt', 'Portugal', 1); \
    CREATE TABLE public.big (id int); INSERT INTO public.big SELECT generate_series(1, 1000); \
    CREATE FUNCTION public.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';";

const ADDRESSES: (&str, &str) = (
    "1_addresses",
    "CREATE TABLE addresses (id int PRIMARY KEY, street text NOT NULL, country text NOT NULL REFERENCES country (code));\n\
     CREATE VIEW labels AS SELECT a.id, shout(a.street) || ', ' || c.name AS label FROM addresses a JOIN public.country c ON c.code = a.country;\n\
     -- down\nDROP VIEW labels;\nDROP TABLE addresses;",
);

fn with_countries(settings: &str) -> World {
    let mut world = with_settings(settings);
    world.database().run(&["-c", COUNTRIES]);
    world.with_migrations(&[ADDRESSES]);
    world.expect(0, &["create", "a", "b"]);
    world.database().run_in("a", &["-c", "INSERT INTO addresses VALUES (1, 'Main Street', 'pt')"]);
    world
}

#[test]
fn processes_that_create_an_extension_at_the_same_time_wait_for_each_other() {
    for _ in 0..repeated(3) {
        let mut world = with_settings(SHARED);
        world.with_migrations(&[]);
        for id in ["a", "b", "c", "d", "e", "f"] {
            world.with_project(id, "SELECT 1");
        }
        world.with_migrations(&[USERS]);
        world.upgrade_four_times_at_once(&world.url());
        assert_eq!(extensions(&world), ["citext in public", "uuid-ossp in public"]);
        assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 6);
    }
}

#[test]
fn a_shared_table_is_referred_to_backed_up_with_and_restored_beside() {
    let world = with_countries(SHARED);
    assert_eq!(query(&world, "a", "SELECT label FROM labels"), ["MAIN STREET, Portugal"]);
    world.expect(0, &["backup", "create", "--all"]);
    let checked = world.expect(0, &["backup", "check", "--all", "--level", "4"]);
    assert_eq!(checked.count("verified"), 2);
    world.execute("a", "DELETE FROM addresses");
    world.expect(0, &["backup", "restore", "a"]);
    assert_eq!(query(&world, "a", "SELECT label FROM labels"), ["MAIN STREET, Portugal"]);
    world.expect(0, &["backup", "restore", "a", "--as", "again"]);
    let file = world.folder().join("a.sql");
    std::fs::write(&file, world.run(&["export", "a"]).stdout).unwrap();
    world.expect(0, &["import", "copy", file.to_str().unwrap()]);
    for id in ["again", "copy"] {
        assert_eq!(query(&world, id, "SELECT label FROM labels"), ["MAIN STREET, Portugal"], "{id}");
        assert_eq!(world.expect(0, &["status", id]).outcome(id), "up_to_date");
    }
    assert_eq!(world.database().run(&["-c", "SELECT count(*) FROM public.country"]), ["2"]);
    // A schema of another name is another schema.
    world
        .database()
        .run(&["-c", "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.country (code text PRIMARY KEY)"]);
    world.database().run_in(
        "b",
        &["-c", "ALTER TABLE addresses DROP CONSTRAINT addresses_country_fkey, \
                 ADD CONSTRAINT addresses_country_fkey FOREIGN KEY (country) REFERENCES elsewhere.country (code)"],
    );
    let report = world.expect(4, &["status", "b"]);
    let (code, message) = report.problem("b");
    assert!(
        code == "drifted" && message.contains("public.country") && message.contains("elsewhere.country"),
        "{message}"
    );
}

#[test]
fn new_objects_never_land_in_a_shared_schema() {
    let mut world = with_countries(SHARED);
    let before = world
        .database()
        .run(&["-c", "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"]);
    for (sql, is_refused) in [
        ("CREATE TABLE public.more (id int);", true),
        ("CREATE TABLE country (id int);", false),
        ("INSERT INTO country VALUES ('xx', 'Nowhere', 1);", true),
        ("DROP TABLE big;", true),
        ("ALTER TABLE country ADD COLUMN x int;", true),
    ] {
        world.with_migrations(&[ADDRESSES, ("2_more", sql)]);
        let ran = world.run(&["upgrade", "b"]);
        assert_eq!(ran.code != 0, is_refused, "{sql}: {}{}", ran.stdout, ran.stderr);
    }
    let after = world
        .database()
        .run(&["-c", "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"]);
    assert_eq!(before, after);
    assert_eq!(world.database().run(&["-c", "SELECT count(*) FROM public.country"]), ["2"]);
    assert!(world.tables("b").contains(&"country".to_string()));
}

#[test]
fn a_projects_role_reads_what_is_shared_and_does_not_change_it() {
    let settings = "[store]\nshared = [\"public\"]\nisolation = \"role\"\n";
    let world = with_countries(settings);
    let as_role = |id: &str, sql: &str| {
        let mut psql = world.database().psql(None);
        psql.args(["-v", "ON_ERROR_STOP=1", "-c", &format!("SET SESSION AUTHORIZATION project_{id}; {sql}")]);
        psql.output().unwrap()
    };
    let path = "SET search_path = project_a, public; ";
    for (sql, may) in [
        ("SELECT * FROM country", true),
        ("SELECT label FROM labels", true),
        ("INSERT INTO addresses VALUES (2, 'x', 'ch')", true),
        ("INSERT INTO addresses VALUES (3, 'x', 'nowhere')", false),
        ("INSERT INTO country VALUES ('x', 'x', 1)", false),
        ("DELETE FROM country", false),
        ("CREATE TABLE public.mine (id int)", false),
        ("SELECT * FROM project_b.addresses", false),
    ] {
        let output = as_role("a", &format!("{path}{sql}"));
        assert_eq!(output.status.success(), may, "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let setting = "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole \
                   JOIN pg_database d ON d.oid = s.setdatabase WHERE rolname = 'project_a' AND datname = current_database()";
    assert_eq!(world.database().run(&["-c", setting]), ["search_path=project_a, public"]);
    // A table that is added later is readable after the next command that changes something.
    world.database().run(&["-c", "CREATE TABLE public.later (id int)"]);
    assert!(!as_role("a", &format!("{path}SELECT * FROM later")).status.success());
    world.expect(0, &["downgrade", "b", "--to", "0"]);
    assert!(as_role("a", &format!("{path}SELECT * FROM later")).status.success());
    world.database().run(&["-c", "DROP OWNED BY project_a, project_b CASCADE"]);
}

/// A baseline that `pg_dump` made of an application's single database.
#[test]
fn a_dump_of_a_single_database_is_a_baseline() {
    let mut world = World::postgres();
    let single = crate::cluster::Database::new();
    single.run(&[
        "-c",
        "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('a', 'b'); \
         CREATE TABLE notes (id serial PRIMARY KEY, text citext NOT NULL DEFAULT 'public.x', mood mood, \
             at timestamptz NOT NULL DEFAULT now()); \
         CREATE TABLE tags (note int NOT NULL REFERENCES notes ON DELETE CASCADE, name text NOT NULL, PRIMARY KEY (note, name)); \
         CREATE INDEX ON tags (lower(name)); CREATE VIEW named AS SELECT n.text, t.name FROM notes n JOIN tags t ON t.note = n.id; \
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := now(); RETURN NEW; END $$; \
         CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION touch(); \
         INSERT INTO notes (text) VALUES ('one'), ('it''s \\ two'); INSERT INTO tags VALUES (1, 'public.tag'), (2, 'b')",
    ]);
    let dump = single.dump(&["--no-owner", "--no-privileges"]);
    single.drop();
    assert!(dump.contains("public.notes") && dump.contains("COPY public.notes"), "{dump}");
    world.with_migrations(&[]);
    let folder = world.folder().join("migrations/1_baseline");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("up.sql"), &dump).unwrap();
    let refused = world.run(&["create", "a"]);
    assert!(refused.code == 2 && refused.stderr.contains("--own-schema public"), "{}", refused.stderr);
    std::fs::write(
        world.folder().join("tenantry.toml"),
        "[store]\nshared = [\"public\"]\n[migrations]\nown_schema = \"public\"\n",
    )
    .unwrap();
    world.expect(0, &["create", "a", "b"]);
    assert_eq!(extensions(&world), ["citext in public"]);
    assert_eq!(query(&world, "a", "SELECT id, text FROM notes ORDER BY id"), ["1|one", "2|it's \\ two"]);
    assert_eq!(query(&world, "a", "SELECT name FROM named ORDER BY 1"), ["b", "public.tag"]);
    // The sequence goes on where the dump left it, and is the project's own.
    assert_eq!(query(&world, "a", "INSERT INTO notes DEFAULT VALUES RETURNING id, text"), ["3|public.x"]);
    assert_eq!(query(&world, "b", "SELECT count(*) FROM notes"), ["2"]);
    assert_eq!(
        world
            .database()
            .run(&["-c", "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"]),
        ["0"]
    );
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a", "--level", "4"]);
    // Databases that were made from the same dump are taken over.
    let mut made = format!("CREATE SCHEMA project_c; {}", dump.replace("public.", "project_c."));
    for name in ["citext", "x'", "tag\n"] {
        made = made.replace(&format!("project_c.{name}"), &format!("public.{name}"));
    }
    let file = world.folder().join("made.sql");
    std::fs::write(&file, made).unwrap();
    world.database().run(&["-f", file.to_str().unwrap()]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("c"), "stamped");
}
