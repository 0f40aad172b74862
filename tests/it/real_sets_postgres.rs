//! Problems found with migration sets of real applications, on Postgres only.

use tenantry::Dialect;
use tenantry::internals::split;

use crate::cluster::Server;
use crate::world::World;

#[test]
fn what_belongs_to_the_whole_database_reaches_no_project() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id INTEGER);");
    world.with_migrations(&[one]).expect(0, &["create", "a", "b"]);
    let database = world.database();
    database.run(&["-c", "CREATE TABLE public.w (a int); INSERT INTO public.w VALUES (1); CREATE TABLE public.key (a int PRIMARY KEY)"]);
    database.run(&[
        "-c",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'UPDATE public.w SET a = a + 1 RETURNING 1'",
    ]);
    for (line, hint, sql) in [
        (2, "down.sql may have DROP EXTENSION", "DROP EXTENSION IF EXISTS citext"),
        (2, "by hand", "CREATE ROLE nobody_needs"),
        (2, "by hand", "CREATE PUBLICATION p FOR TABLE one"),
        (
            2,
            "by hand",
            "DO $$ BEGIN CREATE ROLE nobody_needs; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        ),
        (2, "ALTER", "UPDATE pg_class SET relname = relname"),
        (2, "remove the schema name", "CREATE INDEX i ON public.w (a)"),
        (2, "remove the schema name", "INSERT INTO public.w VALUES (2)"),
        (
            2,
            "regnamespace",
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_type WHERE typname = 'mood') THEN CREATE TYPE mood AS ENUM ('a'); END IF; END $$",
        ),
        // Only running these shows what they do, so no line is reported.
        (0, "one project's schema", "SELECT public.f()"),
        (0, "[store] shared", "ALTER TABLE one ADD COLUMN w int REFERENCES public.key (a)"),
        (0, "one project's schema", "DO $$ BEGIN EXECUTE 'INSERT INTO pub' || 'lic.w VALUES (2)'; END $$"),
        (0, "one project's schema", "DO $$ BEGIN EXECUTE 'CREATE RO' || 'LE nobody_needs'; END $$"),
        (0, "one project's schema", "DO $$ BEGIN EXECUTE 'CREATE EXT' || 'ENSION citext'; END $$"),
    ] {
        let text = format!("-- a comment\n{sql};");
        world.with_migrations(&[one, ("2_two", &text)]);
        let before = world.snapshot();
        for command in ["upgrade-all", "status"] {
            let ran = world.run(&[command]);
            if command == "status" && line == 0 {
                continue;
            }
            assert_eq!(ran.code, 2, "{sql}: {}{}", ran.stdout, ran.stderr);
            let place = format!("2_two/up.sql:{line}");
            assert!(line == 0 || ran.stderr.contains(&place), "{sql}: {}", ran.stderr);
            assert!(ran.stderr.contains(hint), "{sql}: {}", ran.stderr);
        }
        assert!(before == world.snapshot(), "{sql}");
    }
    // An extension in a dedicated schema may be used.
    world.database().run(&["-c", "CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions"]);
    world.with_migrations(&[one, ("2_two", "ALTER TABLE one ADD COLUMN b extensions.citext;")]);
    world.expect(0, &["upgrade-all"]);
}

#[test]
fn a_value_added_to_an_enum_is_committed_before_it_is_used() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TYPE mood AS ENUM ('a');\nCREATE TABLE notes (mood mood);");
    let two = ("2_two", "ALTER TYPE mood ADD VALUE 'b';");
    let three = ("3_three", "INSERT INTO notes VALUES ('b');\nALTER TABLE notes ALTER mood SET DEFAULT 'b';");
    world.with_migrations(&[one]).expect(0, &["create", "a", "b"]);
    world.with_migrations(&[one, two, three]);
    world.expect(0, &["create", "new"]);
    world.expect(0, &["upgrade-all"]);
    for id in ["a", "new"] {
        assert_eq!(world.versions(id), ["1", "2", "3"]);
        assert_eq!(world.query(id, "SELECT mood FROM notes"), ["b"]);
    }
    // If a later migration fails, the added value stays and is recorded.
    let four = ("4_four", "ALTER TYPE mood ADD VALUE 'c';");
    let five = ("5_five", "CREATE UNIQUE INDEX one_each ON notes (mood);");
    world.with_migrations(&[one, two, three, four, five]);
    world.execute("a", "INSERT INTO notes VALUES ('b')");
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!((report.outcome("a"), report.outcome("b")), ("failed", "upgraded"));
    assert_eq!(world.versions("a"), ["1", "2", "3", "4"]);
    world.execute("a", "DELETE FROM notes");
    world.expect(0, &["upgrade-all"]);
}

/// Some extensions send the whole text of a message that contains `SET` to other servers, which do not accept several
/// statements in one message.
#[test]
fn no_message_mixes_set_with_other_statements() {
    let server = Server::new("log_statement = 'all'\nlog_line_prefix = '%a|'\n", "");
    let mut world = World::on(&server, 5432);
    let one =
        ("1_one", "CREATE TYPE mood AS ENUM ('a');\nCREATE TABLE one (id INTEGER PRIMARY KEY, mood mood);");
    let two = (
        "2_two",
        "SET LOCAL statement_timeout = '1min';\nCREATE TABLE two (id INTEGER);\nSET work_mem = '1MB';",
    );
    let three = (
        "3_three",
        "CREATE INDEX CONCURRENTLY two_id ON two (id);\n-- down\nDROP INDEX two_id;\n-- metadata\nrun_in_transaction = false\n",
    );
    world.with_migrations(&[one]).expect(0, &["create", "a", "b"]);
    world.with_migrations(&[one, two, three]);
    for arguments in [
        &["upgrade-all", "--dry-run"][..],
        &["upgrade", "a", "--to", "2"],
        &["upgrade-all", "--backup=check"],
        &["status"],
        &["downgrade", "a", "--to", "2"],
        &["stamp", "b", "--to", "3", "--force"],
        &["check", "--all"],
        &["vacuum", "--all"],
        &["backup", "restore", "b"],
        &["backup", "restore", "b", "--as", "c"],
        &["drop", "c", "--yes"],
        &["create", "d"],
        &["doctor"],
    ] {
        let ran = world.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }
    let log = server.log();
    let mut messages: Vec<String> = Vec::new();
    for line in log.lines() {
        let begins = line.split_once("LOG:  statement: ").or_else(|| line.split_once("LOG:  execute "));
        match (begins, messages.last_mut()) {
            (Some((_, text)), _) => messages.push(text.to_string()),
            (None, Some(last)) if line.starts_with('\t') => last.push_str(line),
            _ => messages.push(String::new()),
        }
    }
    assert!(messages.len() > 200, "{} messages", messages.len());
    for message in messages {
        let Ok(statements) = split(&message, Dialect::Postgres) else { continue };
        let is_set =
            |sql: &str| ["SET ", "RESET "].iter().any(|word| sql.to_ascii_uppercase().starts_with(word));
        let sets = statements.iter().filter(|statement| is_set(&statement.sql)).count();
        assert!(sets == 0 || statements.len() == 1, "{message}");
    }
}

#[test]
fn a_foreign_key_is_checked_as_the_server_checks_it() {
    let mut world = World::postgres();
    let sql = "CREATE TABLE parents (id int PRIMARY KEY) PARTITION BY RANGE (id);\n\
               CREATE TABLE p1 PARTITION OF parents FOR VALUES FROM (0) TO (10);\n\
               CREATE TABLE p2 PARTITION OF parents FOR VALUES FROM (10) TO (20);\n\
               CREATE TABLE children (id int REFERENCES parents (id));\n\
               CREATE TABLE c1 (t text COLLATE \"C\" PRIMARY KEY);\nCREATE TABLE c2 (t text COLLATE \"POSIX\" REFERENCES c1 (t));\n\
               CREATE TABLE a (x int);\nCREATE TABLE b (y int) INHERITS (a);\nALTER TABLE a ADD COLUMN n int;";
    world.with_migrations(&[("1_all", sql)]).expect(0, &["create", "a"]);
    world.execute(
        "a",
        "INSERT INTO parents VALUES (1), (11); INSERT INTO children VALUES (1), (11); INSERT INTO c1 VALUES ('x'); \
         INSERT INTO c2 VALUES ('x'); INSERT INTO b VALUES (1, 2, 3)",
    );
    world.expect(0, &["check", "a"]);
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a", "--level", "4"]);
    world.expect(0, &["backup", "restore", "a", "--as", "b"]);
    // A dangling reference is still found.
    let broken = "SET session_replication_role = replica; INSERT INTO children VALUES (5); INSERT INTO c2 VALUES ('y')";
    world.execute("a", broken);
    let report = world.expect(3, &["check", "a"]);
    let (_, message) = report.error("a");
    assert!(message.contains("1 row(s) of children reference missing rows of parents"), "{message}");
    assert!(message.contains("1 row(s) of c2 reference missing rows of c1"), "{message}");
}

/// The rows of a partition count as rows of its table. Dropping the table drops them as well.
#[test]
fn the_rows_of_a_partition_are_its_tables() {
    let mut world = World::postgres();
    let one = (
        "1_one",
        "CREATE TABLE old (id int) PARTITION BY RANGE (id);\nCREATE TABLE old_1 PARTITION OF old DEFAULT;",
    );
    let two = (
        "2_two",
        "CREATE TABLE fresh (id int);\nINSERT INTO fresh SELECT id FROM old;\nDROP TABLE old;\nALTER TABLE fresh RENAME TO old;",
    );
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO old VALUES (1), (2)");
    world.with_migrations(&[one, two]).expect(0, &["upgrade", "a"]);
    assert_eq!(world.query("a", "SELECT count(*) FROM old"), ["2"]);
    // Rows deleted from a partition count as lost.
    let three = (
        "3_three",
        "CREATE TABLE p (id int) PARTITION BY RANGE (id);\nCREATE TABLE p_1 PARTITION OF p DEFAULT;",
    );
    world.with_migrations(&[one, two, three]).expect(0, &["upgrade", "a"]);
    world.execute("a", "INSERT INTO p VALUES (1)");
    world.with_migrations(&[one, two, three, ("4_four", "DELETE FROM p;")]);
    assert_eq!(world.expect(3, &["upgrade", "a"]).error("a").0, "rows_lost");
}

#[test]
fn a_function_keeps_to_the_schema_that_its_project_has() {
    let mut world = World::postgres();
    let sql = "CREATE TABLE notes (text text);\n\
               CREATE FUNCTION first_note() RETURNS text LANGUAGE sql SET search_path FROM CURRENT AS 'SELECT text FROM notes LIMIT 1';\n\
               CREATE FUNCTION second() RETURNS text LANGUAGE sql AS 'SELECT text FROM notes LIMIT 1';\n\
               DO $$ BEGIN EXECUTE format('ALTER FUNCTION second() SET search_path = %I, pg_temp', current_schema()); END $$;";
    world.with_migrations(&[("1_one", sql)]).expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO notes VALUES ('of a')");
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a"]);
    world.expect(0, &["backup", "restore", "a", "--as", "b"]);
    let exported = world.folder().join("a.sql");
    world.expect(0, &["export", "a", "--output", exported.to_str().unwrap()]);
    world.database().run(&["-c", "DROP SCHEMA project_a CASCADE"]);
    world.expect(0, &["import", "c", exported.to_str().unwrap()]);
    world.expect(0, &["backup", "restore", "a"]);
    world.execute("b", "UPDATE notes SET text = 'of b'");
    world.execute("c", "UPDATE notes SET text = 'of c'");
    let config = world.folder().join("tenantry.toml");
    std::fs::write(&config, "[store]\nspares = 1\n").unwrap();
    world.expect(0, &["spares"]);
    world.expect(0, &["create", "d"]);
    world.execute("d", "INSERT INTO notes VALUES ('of d')");
    for id in ["a", "b", "c", "d"] {
        for function in ["first_note", "second"] {
            // Called with another search_path, as an application may.
            let result = world.database().run(&["-c", &format!("SELECT project_{id}.{function}()")]);
            assert_eq!(result, [format!("of {id}")], "{function}");
        }
        assert_eq!(world.expect(0, &["status", id]).outcome(id), "up_to_date");
    }
    std::fs::remove_file(config).unwrap();
    // A function body that names its schema cannot be adapted. Restoring it as another project is refused. Restoring
    // the project itself works.
    world.execute(
        "a",
        "CREATE FUNCTION stays() RETURNS text LANGUAGE sql AS 'SELECT text FROM project_a.notes LIMIT 1'",
    );
    world.expect(0, &["backup", "create", "a"]);
    let report = world.expect(3, &["backup", "restore", "a", "--as", "e"]);
    assert!(
        report.error("a").1.contains("function stays refers to the schema project_a"),
        "{:?}",
        report.error("a")
    );
    world.expect(0, &["backup", "restore", "a"]);
    // A function that reads another project's rows fails the check.
    world.execute(
        "b",
        "CREATE FUNCTION peeks() RETURNS text LANGUAGE sql AS 'SELECT text FROM project_a.notes LIMIT 1'",
    );
    assert!(world.expect(3, &["check", "b"]).error("b").1.contains("peeks"));
    world.expect(0, &["backup", "create", "b"]);
    assert!(world.expect(3, &["backup", "check", "b"]).error("b").1.contains("peeks"));
}

#[test]
fn a_set_whose_functions_name_their_schema_has_no_spares() {
    let mut world = World::postgres();
    let sql = "CREATE TABLE notes (text text);\n\
               DO $$ BEGIN EXECUTE format('CREATE FUNCTION own() RETURNS bigint LANGUAGE sql AS $f$ SELECT count(*) FROM %I.notes $f$', \
               current_schema()); END $$;";
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nspares = 2\n").unwrap();
    world.with_migrations(&[("1_one", sql)]).expect(0, &["spares"]);
    world.expect(0, &["create", "a"]);
    assert_eq!(world.query("a", "SELECT own()"), ["0"]);
    let leftovers =
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenantry%' AND nspname <> 'tenantry_journal'";
    assert_eq!(world.database().run(&["-c", leftovers]), Vec::<String>::new());
}

#[test]
fn what_the_server_has_elsewhere_explains_why_a_set_fails() {
    let mut world = World::postgres();
    world.database().run(&["-c", "CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions; CREATE TABLE public.country (id int)"]);
    for (sql, hint) in [
        ("CREATE TABLE a (b citext)", "the schema extensions has a type citext from the extension citext"),
        (
            "CREATE TABLE a AS SELECT * FROM country",
            "the schema public has a relation country: if all projects share that schema, list it in tenantry.toml",
        ),
        ("CREATE TABLE a (b hstore)", "write CREATE EXTENSION IF NOT EXISTS hstore into the migration"),
        ("CREATE TABLE a (); GRANT SELECT ON a TO nobody_at_all", "the role nobody_at_all does not exist"),
    ] {
        world.with_migrations(&[("1_one", sql)]);
        let ran = world.run(&["create", "a"]);
        assert!(ran.code == 2 && ran.stderr.contains(hint), "{sql}: {}", ran.stderr);
    }
}

/// Each table that a migration creates holds locks until the commit, in a lock table that all sessions share.
#[test]
fn projects_that_fill_the_servers_table_of_locks_together_go_one_after_the_other() {
    // The smallest lock table that a server can have.
    let settings = "max_locks_per_transaction = 10\nmax_connections = 15\nmax_wal_senders = 0\n\
                    max_worker_processes = 1\nautovacuum_max_workers = 1\n";
    let server = Server::new(settings, "");
    let is_exhausted = || server.log().matches("out of shared memory").count();
    let mut world = World::on(&server, 5432);
    let tables_of = |name: &str, count: usize| {
        let table = |it: usize| format!("CREATE TABLE {name}{it} (id int PRIMARY KEY, t text);");
        (0..count).map(table).collect::<Vec<_>>().join("\n")
    };
    let tables = |count: usize| tables_of("t", count);
    let one = ("1_one", "CREATE TABLE one (id int);");
    let ids = ["a", "b", "c", "d"];
    world.with_migrations(&[one]).expect(0, &[&["create"], &ids[..]].concat());
    world.with_migrations(&[one, ("2_many", &tables(50))]);
    let report = world.expect(0, &["--jobs", "4", "upgrade-all"]);
    assert_eq!(report.count("upgraded"), 4);
    assert!(is_exhausted() > 0, "the projects fit into the lock table together");
    // If one project alone exceeds the lock table, the error names the setting.
    world.with_migrations(&[one, ("2_many", &tables(250))]);
    let ran = world.run(&["create", "z"]);
    assert!(
        ran.code != 0 && ran.stderr.contains("max_locks_per_transaction"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    // Migrations that do not fit into one transaction are run in several.
    let names = ["2_many", "3_u", "4_v"];
    let scripts = names.map(|name| tables_of(if name == "2_many" { "t" } else { &name[2..] }, 50));
    let mut all = vec![one];
    all.extend(names.into_iter().zip(scripts.iter().map(String::as_str)));
    let mut world = World::on(&server, 5432);
    world.with_migrations(&[one]).expect(0, &["create", "a"]);
    let before = is_exhausted();
    world.with_migrations(&all).expect(0, &["create", "z"]);
    world.expect(0, &["upgrade-all"]);
    assert!(is_exhausted() > before, "the migrations fit into one transaction");
    for id in ["a", "z"] {
        assert_eq!(world.versions(id), ["1", "2", "3", "4"]);
    }
}

/// Concurrent creates wait for each other's locks, as upgrades do.
#[test]
fn a_create_waits_for_a_lock_more_than_once() {
    use diesel::connection::SimpleConnection as _;
    let mut world = World::postgres();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id int);")]).expect(0, &["create", "a"]);
    let mut other = world.own_connection("a");
    let key = "hashtextextended('tenantry project project_b', 0)";
    other.batch_execute(&format!("SELECT pg_advisory_lock({key})")).unwrap();
    let mut command = world.command(&["--lock-timeout", "0.2", "create", "b"]);
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    // Longer than one attempt waits, shorter than all attempts together.
    std::thread::sleep(std::time::Duration::from_millis(600));
    other.batch_execute(&format!("SELECT pg_advisory_unlock({key})")).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A ledger that cannot be created fails with the server's reason, although its statements are sent with the scripts.
#[test]
fn a_ledger_that_cannot_be_created_says_why() {
    let mut world = World::postgres();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    world.database().run(&[
        "-c",
        "CREATE SCHEMA project_a",
        "-c",
        "CREATE FUNCTION public.refuse_ledger() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'project_a.%schema_migrations') \
         THEN RAISE 'no ledger here'; END IF; END $$",
        "-c",
        "CREATE EVENT TRIGGER refuse_ledger ON ddl_command_end WHEN TAG IN ('CREATE TABLE') \
         EXECUTE FUNCTION public.refuse_ledger()",
    ]);
    let report = world.expect(3, &["upgrade-all"]);
    assert!(report.error("a").1.contains("no ledger here"), "{:?}", report.error("a"));
    world.database().run(&["-c", "DROP EVENT TRIGGER refuse_ledger"]);
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("a"), "upgraded");
}

/// Rows as `pg_dump` and `psql` scripts have them.
#[test]
fn the_rows_of_a_copy_may_stand_in_a_script() {
    let mut world = World::postgres();
    let one = ("1_one", "CREATE TABLE one (id integer PRIMARY KEY, text text, list text[]);");
    let rows = "COPY one (id, text, list) FROM stdin;\n1\ta\\tb'c\\\\d\t{x,\"y z\"}\n2\t\\N\t\\N\n\\.\n\nINSERT INTO one (id) VALUES (3);\n";
    world.with_migrations(&[one]).expect(0, &["create", "a", "b"]);
    world.execute("b", "INSERT INTO one VALUES (2, 'here', NULL)");
    world.with_migrations(&[one, ("2_rows", rows)]);
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!(report.outcome("a"), "upgraded");
    let read = "SELECT id, coalesce(replace(text, E'\\t', '<tab>'), '<null>'), coalesce(list[2], '<null>') FROM one ORDER BY id";
    assert_eq!(world.query("a", read), ["1|a<tab>b'c\\d|y z", "2|<null>|<null>", "3|<null>|<null>"]);
    // The first row is on line 2.
    let error = &report.project("b")["error"];
    assert!(error["line"] == 2 && error["message"].as_str().unwrap().contains("one_pkey"), "{error}");
    world.execute("b", "DELETE FROM one");
    assert_eq!(world.expect(0, &["upgrade-all"]).outcome("b"), "upgraded");
    world.expect(0, &["create", "c"]);
    assert_eq!(world.query("c", "SELECT count(*) FROM one"), ["3"]);
    for (sql, message) in [
        ("COPY one FROM '/etc/passwd'", "COPY from a file on the server"),
        ("COPY one FROM PROGRAM 'id'", "COPY of a program's data"),
        ("COPY one TO stdout", "COPY to a file or to the client"),
        ("\\connect postgres", "\\connect is a command of psql"),
        ("COPY one (id) FROM stdin;\n9\n", "the rows of a COPY do not end"),
    ] {
        world.with_migrations(&[one, ("2_rows", rows), ("3_three", &format!("SELECT 1;\n{sql};\n\\x"))]);
        if !sql.starts_with('\\') && !sql.contains("stdin") {
            world.with_migrations(&[one, ("2_rows", rows), ("3_three", &format!("SELECT 1;\n{sql};"))]);
        }
        let ran = world.run(&["status"]);
        assert_eq!(ran.code, 2, "{sql}: {}{}", ran.stdout, ran.stderr);
        assert!(
            ran.stderr.contains(message) && ran.stderr.contains("3_three/up.sql:2"),
            "{sql}: {}",
            ran.stderr
        );
    }
}
