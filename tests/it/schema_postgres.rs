//! The fingerprint of a Postgres schema is semantic: every change in behaviour changes it, and no other change does.

use std::sync::Arc;

use tenantry::ProjectId;
use tenantry::internals::Schema;
use tenantry::internals::{Inspect as _, ReadSchema};
use tenantry::store::{PostgresOptions, PostgresStore};

use crate::world::World;

/// Runs each script in a separate schema. Returns the schemas.
fn read(scripts: &[String]) -> Vec<Arc<Schema>> {
    let world = World::postgres();
    let ids: Vec<ProjectId> = (0..scripts.len()).map(|number| number.to_string().parse().unwrap()).collect();
    for (id, script) in ids.iter().zip(scripts) {
        let sql = format!("CREATE SCHEMA project_{id}; SET search_path = project_{id}; {script}");
        world.database().run(&["-c", &sql]);
    }
    let store = PostgresStore::new(&world.url(), PostgresOptions::default()).unwrap();
    let inspections = store.inspect(&ids, ReadSchema::Always);
    inspections.into_iter().map(|inspection| inspection.unwrap().schema.unwrap()).collect()
}

fn pairs(cases: &[(&str, &str)], base: &str) -> Vec<(Arc<Schema>, Arc<Schema>)> {
    let scripts: Vec<String> =
        cases.iter().flat_map(|(a, b)| [format!("{base}{a}"), format!("{base}{b}")]).collect();
    let mut schemas = read(&scripts).into_iter();
    let mut found = Vec::new();
    while let (Some(a), Some(b)) = (schemas.next(), schemas.next()) {
        found.push((a, b));
    }
    found
}

#[test]
fn spellings_of_one_meaning_have_one_fingerprint() {
    const TRIGGER: &str = "CREATE TABLE t (a int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; ";
    const RARE: &str = "CREATE TYPE kind AS ENUM ('a'); \
        CREATE FUNCTION same(kind, kind) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2::text'; \
        CREATE OPERATOR === (LEFTARG = kind, RIGHTARG = kind, FUNCTION = same); CREATE COLLATION \"c d\" FROM \"C\"; \
        CREATE CONVERSION e FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1; CREATE TEXT SEARCH CONFIGURATION f (COPY = simple); \
        CREATE OPERATOR CLASS g FOR TYPE kind USING hash AS OPERATOR 1 ===";
    let trigger = (
        format!("{TRIGGER} CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"),
        format!("{TRIGGER} create trigger \"g\" before insert on \"t\" for each row execute procedure f()"),
    );
    let cases = [
        (
            "CREATE TABLE t (a int, b varchar(10), c timestamptz)",
            "CREATE TABLE \"t\" (\"a\" integer, b character varying(10), c timestamp with time zone)",
        ),
        // In two schemas.
        (RARE, RARE),
        ("CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE t (a int, PRIMARY KEY (a))"),
        (
            "CREATE TABLE t (a int PRIMARY KEY)",
            "CREATE TABLE x (a int PRIMARY KEY); ALTER TABLE x RENAME TO t",
        ),
        (
            "CREATE TABLE t (a int UNIQUE)",
            "CREATE TABLE x (b int UNIQUE); ALTER TABLE x RENAME COLUMN b TO a; ALTER TABLE x RENAME TO t",
        ),
        ("CREATE TABLE t (a int CHECK (a > 0))", "CREATE TABLE t (a int, CHECK (((a)>(0))))"),
        (
            "CREATE TABLE t (a serial)",
            "CREATE TABLE t (a int NOT NULL); CREATE SEQUENCE t_a_seq AS int OWNED BY t.a; ALTER TABLE t ALTER a SET DEFAULT nextval('t_a_seq')",
        ),
        (
            "CREATE TABLE t (a serial)",
            "CREATE TABLE x (b serial); ALTER TABLE x RENAME TO t; ALTER TABLE t RENAME COLUMN b TO a",
        ),
        (
            "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (a int REFERENCES p)",
            "CREATE TABLE t (a int); CREATE TABLE p (id int PRIMARY KEY); ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES p (id) ON DELETE NO ACTION",
        ),
        (
            "CREATE TABLE t (a int, b int); CREATE INDEX i ON t (b)",
            "CREATE TABLE t (a int, x int, b int); ALTER TABLE t DROP COLUMN x; CREATE INDEX i ON t USING btree (b ASC NULLS LAST)",
        ),
        (
            "CREATE TABLE t (a int); CREATE INDEX ON t (a)",
            "CREATE TABLE x (a int); CREATE INDEX ON x (a); ALTER TABLE x RENAME TO t",
        ),
        (
            "CREATE TYPE m AS ENUM ('a', 'b', 'c')",
            "CREATE TYPE m AS ENUM ('a', 'c'); ALTER TYPE m ADD VALUE 'b' BEFORE 'c'",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); COMMENT ON TABLE t IS 'x'; COMMENT ON COLUMN t.a IS 'y'",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text, checksum bytea)",
        ),
        (
            "CREATE TABLE t (a int CHECK (a > 0))",
            "CREATE TABLE t (a int); ALTER TABLE t ADD CHECK (a > 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT t_a_check",
        ),
        (
            "CREATE TABLE t (a int); CREATE VIEW v AS SELECT a FROM t",
            "CREATE TABLE t (a int); create view v as select t.a from t",
        ),
        ("CREATE TABLE t (a int); CREATE TABLE u (b int)", "CREATE TABLE u (b int); CREATE TABLE t (a int)"),
        ("CREATE TABLE t (a int DEFAULT 1)", "CREATE TABLE t (a int); ALTER TABLE t ALTER a SET DEFAULT 1"),
        (
            "CREATE TABLE \"A b\" (\"C d\" int PRIMARY KEY); CREATE TABLE t (a int REFERENCES \"A b\")",
            "CREATE TABLE \"A b\" (\"C d\" int, PRIMARY KEY (\"C d\")); CREATE TABLE t (a int, FOREIGN KEY (a) REFERENCES \"A b\" (\"C d\"))",
        ),
        (trigger.0.as_str(), trigger.1.as_str()),
    ];
    for ((a, b), (one, two)) in cases.iter().zip(pairs(&cases, "")) {
        let differences: Vec<_> = one.differences(&two).iter().map(ToString::to_string).collect();
        assert_eq!(differences, Vec::<String>::new(), "\n{a}\n{b}");
        assert_eq!(one.fingerprint(), two.fingerprint(), "\n{a}\n{b}");
    }
}

#[test]
fn everything_that_changes_behaviour_changes_the_fingerprint_and_is_named() {
    const BASE: &str = "CREATE TABLE p (id int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; ";
    let cases = [
        ("CREATE TABLE t (a int)", "CREATE TABLE u (a int)", "extra table t"),
        (
            "CREATE TABLE t (a int, b int)",
            "CREATE TABLE t (b int, a int)",
            "column order is a, b, expected b, a",
        ),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a bigint)", "column a is integer, expected bigint"),
        ("CREATE TABLE t (a varchar(10))", "CREATE TABLE t (a varchar(20))", "character varying(20)"),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int NOT NULL)", "expected integer NOT NULL"),
        (
            "CREATE TABLE t (a timestamp DEFAULT now())",
            "CREATE TABLE t (a timestamp DEFAULT CURRENT_TIMESTAMP)",
            "DEFAULT CURRENT_TIMESTAMP",
        ),
        ("CREATE TABLE t (a text)", "CREATE TABLE t (a text COLLATE \"C\")", "COLLATE"),
        (
            "CREATE TABLE t (a serial)",
            "CREATE TABLE t (a int NOT NULL GENERATED ALWAYS AS IDENTITY)",
            "GENERATED ALWAYS AS IDENTITY",
        ),
        (
            "CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY)",
            "CREATE TABLE t (a int GENERATED BY DEFAULT AS IDENTITY)",
            "BY DEFAULT",
        ),
        (
            "CREATE TABLE t (a serial)",
            "CREATE TABLE t (a serial); ALTER SEQUENCE t_a_seq INCREMENT 5",
            "increment 5",
        ),
        (
            "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a + 1) STORED)",
            "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a + 2) STORED)",
            "a + 2",
        ),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int PRIMARY KEY)", "missing primary key"),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int CHECK (a > 0))", "missing CHECK (a > 0)"),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int UNIQUE)", "missing UNIQUE (a)"),
        (
            "CREATE TABLE t (a int UNIQUE)",
            "CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
            "DEFERRABLE INITIALLY DEFERRED",
        ),
        ("CREATE TABLE t (a int UNIQUE)", "CREATE TABLE t (a int CONSTRAINT one_a UNIQUE)", "named one_a"),
        (
            "CREATE TABLE t (a int, b int, UNIQUE (a))",
            "CREATE TABLE t (a int, b int, UNIQUE (a) INCLUDE (b))",
            "INCLUDE (b)",
        ),
        (
            "CREATE TABLE t (a int, b int, PRIMARY KEY (a, b))",
            "CREATE TABLE t (a int, b int, PRIMARY KEY (b, a))",
            "(b, a)",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int REFERENCES p)",
            "missing foreign key (a) references p(id)",
        ),
        (
            "CREATE TABLE t (a int REFERENCES p)",
            "CREATE TABLE t (a int REFERENCES p ON DELETE CASCADE)",
            "expected ON DELETE CASCADE",
        ),
        (
            "CREATE TABLE t (a int REFERENCES p)",
            "CREATE TABLE t (a int REFERENCES p ON UPDATE SET NULL)",
            "ON UPDATE SET NULL",
        ),
        (
            "CREATE TABLE t (a int REFERENCES p)",
            "CREATE TABLE t (a int); ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES p NOT VALID",
            "NOT VALID",
        ),
        (
            "CREATE TABLE t (a int REFERENCES p)",
            "CREATE TABLE t (a int REFERENCES p REFERENCES p)",
            "foreign key",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int, EXCLUDE USING btree (a WITH =))",
            "missing EXCLUDE",
        ),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int); CREATE INDEX i ON t (a)", "missing index i"),
        (
            "CREATE TABLE t (a int); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a int); CREATE UNIQUE INDEX i ON t (a)",
            "UNIQUE",
        ),
        (
            "CREATE TABLE t (a int); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a int); CREATE INDEX i ON t (a DESC)",
            "DESC",
        ),
        (
            "CREATE TABLE t (a text); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a text); CREATE INDEX i ON t (lower(a))",
            "lower(a)",
        ),
        (
            "CREATE TABLE t (a text); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a text); CREATE INDEX i ON t (a text_pattern_ops)",
            "text_pattern_ops",
        ),
        (
            "CREATE TABLE t (a int); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a int); CREATE INDEX i ON t (a) WHERE a > 1",
            "WHERE a > 1",
        ),
        (
            "CREATE TABLE t (a jsonb); CREATE INDEX i ON t USING gin (a)",
            "CREATE TABLE t (a jsonb); CREATE INDEX i ON t USING gin (a jsonb_path_ops)",
            "jsonb_path_ops",
        ),
        (
            "CREATE TYPE m AS ENUM ('a', 'b')",
            "CREATE TYPE m AS ENUM ('b', 'a')",
            "ENUM 'a', 'b', expected ENUM 'b', 'a'",
        ),
        ("CREATE TYPE m AS ENUM ('a')", "CREATE TYPE m AS ENUM ('a', 'A')", "'A'"),
        ("CREATE DOMAIN d AS int", "CREATE DOMAIN d AS int CHECK (VALUE > 0)", "CHECK (VALUE > 0)"),
        ("CREATE TYPE c AS (a int)", "CREATE TYPE c AS (a int, b int)", "b integer"),
        (
            "CREATE TYPE r AS RANGE (subtype = int4)",
            "CREATE TYPE r AS RANGE (subtype = int8)",
            "RANGE bigint",
        ),
        ("CREATE SEQUENCE s", "CREATE SEQUENCE s CYCLE", "cycle"),
        ("CREATE VIEW v AS SELECT 1 AS a", "CREATE VIEW v AS SELECT 2 AS a", "view v"),
        (
            "CREATE VIEW v AS SELECT 1 AS a",
            "CREATE VIEW v WITH (security_barrier) AS SELECT 1 AS a",
            "security_barrier",
        ),
        (
            "CREATE VIEW v AS SELECT 1 AS a",
            "CREATE MATERIALIZED VIEW v AS SELECT 1 AS a",
            "missing materialized view v",
        ),
        (
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 2'",
            "function g()",
        ),
        (
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
            "function g()",
        ),
        (
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
            "SECURITY DEFINER",
        ),
        (
            "CREATE FUNCTION g(a int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION g(a int DEFAULT 2) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "DEFAULT 2",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
            "missing trigger g on t",
        ),
        (
            "CREATE TABLE t (a int); CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
            "CREATE TABLE t (a int); CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t DISABLE TRIGGER g",
            "DISABLED",
        ),
        ("CREATE TABLE t (a int)", "CREATE UNLOGGED TABLE t (a int)", "UNLOGGED"),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int) WITH (fillfactor = 50)", "fillfactor=50"),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int) PARTITION BY RANGE (a)", "PARTITION BY RANGE (a)"),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "ROW LEVEL SECURITY",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); CREATE POLICY y ON t USING (a > 1)",
            "missing policy y",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING",
            "missing rule r",
        ),
        ("CREATE TABLE t (a int)", "CREATE TABLE t (a int) INHERITS (p)", "INHERITS p"),
        (
            "CREATE TABLE t (a int, b int)",
            "CREATE TABLE t (a int, b int); CREATE STATISTICS s ON a, b FROM t",
            "statistics s",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); CREATE TABLE schema_migrations (version int, author text)",
            "missing table schema_migrations",
        ),
        (
            "CREATE TABLE t (a int)",
            "CREATE TABLE t (a int); CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
            "object operator",
        ),
        ("CREATE TABLE \"T\" (a int)", "CREATE TABLE t (a int)", "extra table T"),
        (
            "CREATE TABLE t (a int, b int, c int, CHECK (a > 0 AND b = c))",
            "CREATE TABLE t (a int, b int, c int, CHECK (a > 0 AND b IS DISTINCT FROM c))",
            "IS DISTINCT FROM",
        ),
        (
            "CREATE TABLE t (a bool, b bool, c bool, CHECK (coalesce(a, b = c)))",
            "CREATE TABLE t (a bool, b bool, c bool, CHECK (coalesce(a, nullif(b, c))))",
            "NULLIF",
        ),
        (
            "CREATE TABLE t (a int, b int, c int); CREATE VIEW v AS SELECT a FROM t WHERE a > 0 AND b = c",
            "CREATE TABLE t (a int, b int, c int); CREATE VIEW v AS SELECT a FROM t WHERE a > 0 AND b IS DISTINCT FROM c",
            "view v",
        ),
        (
            "CREATE TABLE IF NOT EXISTS public.parts (a int) PARTITION BY LIST (a); CREATE TABLE t PARTITION OF public.parts FOR VALUES IN (1)",
            "CREATE TABLE IF NOT EXISTS public.parts (a int) PARTITION BY LIST (a); CREATE TABLE t PARTITION OF public.parts FOR VALUES IN (2)",
            "IN (2)",
        ),
        (
            "CREATE AGGREGATE g(float8, float8) (SFUNC = float8_regr_accum, STYPE = float8[], INITCOND = '{0,0,0,0,0,0}')",
            "CREATE AGGREGATE g(float8 ORDER BY float8) (SFUNC = float8_accum, STYPE = float8[], INITCOND = '{0,0,0}')",
            "function g(",
        ),
    ];
    let both: Vec<(&str, &str)> = cases.iter().map(|(a, b, _)| (*a, *b)).collect();
    for ((actual, expected, named), (one, two)) in cases.iter().zip(pairs(&both, BASE)) {
        assert_ne!(one.fingerprint(), two.fingerprint(), "\n{actual}\n{expected}");
        let differences: Vec<_> = one.differences(&two).iter().map(ToString::to_string).collect();
        assert!(
            differences.join("; ").contains(named),
            "{differences:?} does not name {named:?}\n{actual}\n{expected}"
        );
    }
}

/// One object of each kind whose catalog row refers to another object by its OID.
const ENTANGLED: &str = "CREATE TYPE m AS ENUM ('a', 'b'); CREATE SEQUENCE s; CREATE TABLE p (id serial PRIMARY KEY); \
    CREATE TABLE q (id serial PRIMARY KEY); \
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
    CREATE FUNCTION h() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
    CREATE FUNCTION g(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; \
    CREATE FUNCTION g(a text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; \
    CREATE FUNCTION of_m(x m, y m[], z p) RETURNS SETOF p LANGUAGE sql SET search_path FROM CURRENT BEGIN ATOMIC SELECT p.* FROM p; END; \
    CREATE TABLE t (a int DEFAULT nextval('s'), b m DEFAULT 'a', c m[] DEFAULT '{a,b}', d int REFERENCES p, \
        e int DEFAULT g(1), \"f 16400\" text CHECK (g(\"f 16400\") > 0), CHECK (b <> 'b')); \
    CREATE INDEX i ON t (g(a)) WHERE b = 'a'; CREATE INDEX j ON t USING gin (c); \
    CREATE VIEW v AS SELECT a, b, \"f 16400\" FROM t WHERE b = 'b'; \
    CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.b = 'a') EXECUTE FUNCTION f(); \
    CREATE RULE u AS ON DELETE TO q DO ALSO DELETE FROM p";

#[test]
fn schemas_made_alike_are_understood_once() {
    let schemas = read(&[
        ENTANGLED.into(),
        format!("CREATE TABLE x (a int); {ENTANGLED}; DROP TABLE x"),
        ENTANGLED.into(),
    ]);
    assert!(
        schemas.iter().all(|schema| Arc::ptr_eq(schema, &schemas[0])),
        "equal schemas were read separately"
    );
}

#[test]
fn what_has_its_schemas_name_in_it_is_understood_by_itself() {
    // The server qualifies a name that `pg_catalog` has as well with the schema's name.
    let script = "CREATE TYPE path AS ENUM ('a'); DO $$ BEGIN EXECUTE format('CREATE TABLE t (a %I.path)', current_schema()); END $$";
    let schemas = read(&[script.into(), script.into()]);
    // Each project's own schema name has the same meaning.
    assert_eq!(schemas[0].fingerprint(), schemas[1].fingerprint());
    let other = script.replace("current_schema()", "'pg_catalog'");
    assert_ne!(schemas[0].fingerprint(), read(&[other])[0].fingerprint());
}

#[test]
fn what_points_at_another_object_is_another_schema() {
    let changes = [
        "ALTER TABLE t ALTER a SET DEFAULT nextval('p_id_seq')",
        "ALTER TABLE t ALTER b SET DEFAULT 'b'",
        "ALTER TABLE t ALTER c SET DEFAULT '{b,a}'",
        "ALTER TABLE t ALTER e SET DEFAULT g('1'::text)",
        "ALTER TABLE t DROP CONSTRAINT t_d_fkey, ADD FOREIGN KEY (d) REFERENCES q",
        "ALTER TABLE t DROP CONSTRAINT t_b_check, ADD CHECK (b <> 'a')",
        "DROP INDEX i; CREATE INDEX i ON t (g(a::text)) WHERE b = 'a'",
        "DROP INDEX i; CREATE INDEX i ON t (g(a)) WHERE b = 'b'",
        "CREATE OR REPLACE VIEW v AS SELECT a, b, \"f 16400\" FROM t WHERE b = 'a'",
        "CREATE OR REPLACE VIEW v AS SELECT d AS a, b, \"f 16400\" FROM t WHERE b = 'b'",
        "DROP TRIGGER r ON t; CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.b = 'a') EXECUTE FUNCTION h()",
        "DROP TRIGGER r ON t; CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.b = 'b') EXECUTE FUNCTION f()",
        "CREATE OR REPLACE RULE u AS ON DELETE TO q DO ALSO DELETE FROM q WHERE false",
        "DROP FUNCTION of_m; CREATE FUNCTION of_m(x m, y m[], z q) RETURNS SETOF p LANGUAGE sql SET search_path FROM CURRENT \
            BEGIN ATOMIC SELECT p.* FROM p; END",
        "DROP FUNCTION of_m; CREATE FUNCTION of_m(x m, y m[], z p) RETURNS SETOF p LANGUAGE sql SET search_path FROM CURRENT \
            BEGIN ATOMIC SELECT q.* FROM q; END",
        "ALTER FUNCTION of_m SET search_path = public",
        "ALTER SEQUENCE s OWNED BY t.a",
    ];
    let scripts: Vec<String> = std::iter::once(ENTANGLED.to_string())
        .chain(changes.iter().map(|change| format!("{ENTANGLED}; {change}")))
        .collect();
    let schemas = read(&scripts);
    for (change, schema) in changes.iter().zip(&schemas[1..]) {
        assert_ne!(schema.fingerprint(), schemas[0].fingerprint(), "{change}");
    }
}

#[test]
fn whatever_changes_a_schema_changes_its_state_in_the_catalogs() {
    // A project whose state is unchanged is not read again, so each of these changes has to change the state.
    let mut world = World::postgres();
    let tables = "CREATE TYPE m AS ENUM ('a');\nCREATE TYPE c AS (a int);\nCREATE DOMAIN d AS int;\nCREATE SEQUENCE s;\n\
        CREATE TABLE p (id int PRIMARY KEY, x varchar(10) DEFAULT 'a');\nCREATE TABLE t (a int REFERENCES p, b text CHECK (b <> ''));\n\
        CREATE INDEX i ON t (b);\nCREATE VIEW v AS SELECT a FROM t;\n\
        CREATE FUNCTION e() RETURNS int LANGUAGE sql AS 'SELECT 1';\n\
        CREATE TABLE o (a int DEFAULT e(), b int GENERATED ALWAYS AS (1) STORED, c int GENERATED ALWAYS AS IDENTITY, d int NOT NULL);\n\
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';\n\
        CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();";
    world.with_migrations(&[("1_tables", tables)]);
    let changes = [
        "ALTER TABLE p ALTER x SET DEFAULT 'b'",
        "ALTER TABLE p ALTER x DROP DEFAULT",
        "ALTER TABLE p ALTER id SET DEFAULT 1",
        "ALTER TABLE o ALTER a SET DEFAULT e() + 1",
        "DROP FUNCTION e CASCADE",
        "ALTER TABLE o ALTER b DROP EXPRESSION",
        "ALTER TABLE o ALTER c SET GENERATED BY DEFAULT",
        "ALTER TABLE o ALTER c DROP IDENTITY",
        "ALTER TABLE o ALTER d ADD GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE p ALTER x TYPE varchar(20)",
        "ALTER TABLE p ALTER x SET NOT NULL",
        "ALTER TABLE p RENAME x TO y",
        "ALTER TABLE p DROP COLUMN x",
        "ALTER TABLE p ADD z int",
        "ALTER TABLE t DROP CONSTRAINT t_a_fkey",
        "ALTER TABLE t DROP CONSTRAINT t_b_check",
        "ALTER TABLE t RENAME CONSTRAINT t_b_check TO mine",
        "DROP INDEX i",
        "ALTER INDEX i RENAME TO j",
        "CREATE INDEX k ON t (a)",
        "CREATE OR REPLACE VIEW v AS SELECT a + 1 AS a FROM t",
        "DROP VIEW v",
        "ALTER TYPE m ADD VALUE 'b'",
        "ALTER TYPE m RENAME VALUE 'a' TO 'z'",
        "ALTER TYPE c ADD ATTRIBUTE b int",
        "ALTER TYPE c ALTER ATTRIBUTE a TYPE bigint",
        "ALTER DOMAIN d SET NOT NULL",
        "ALTER DOMAIN d ADD CHECK (VALUE > 1)",
        "ALTER SEQUENCE s INCREMENT 3",
        "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        "ALTER FUNCTION f() SECURITY DEFINER",
        "ALTER TABLE t DISABLE TRIGGER g",
        "DROP TRIGGER g ON t",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING",
        "CREATE POLICY y ON t USING (a > 1)",
        "CREATE TABLE n (a int)",
        "ALTER TABLE t SET (fillfactor = 50)",
        "CREATE STATISTICS st ON a, b FROM t",
        "ALTER TABLE t ADD EXCLUDE USING btree (b WITH =)",
    ];
    let ids: Vec<String> = (0..changes.len()).map(|number| number.to_string()).collect();
    world.expect(0, &std::iter::once("create").chain(ids.iter().map(String::as_str)).collect::<Vec<_>>());
    world.expect(0, &["status"]);
    for (id, change) in ids.iter().zip(changes) {
        world.execute(id, change);
    }
    let report = world.expect(4, &["status"]);
    for (id, change) in ids.iter().zip(changes) {
        assert_eq!(report.outcome(id), "blocked", "{change} was not detected");
        assert_eq!(report.problem(id).0, "drifted", "{change}");
    }
    // Statements that change no schema leave the project up to date.
    world.expect(0, &["create", "x"]);
    for harmless in [
        "ANALYZE",
        "VACUUM FULL t",
        "GRANT SELECT ON t TO PUBLIC",
        "COMMENT ON TABLE t IS 'x'",
        "TRUNCATE t",
        "REINDEX TABLE t",
        "CLUSTER p USING p_pkey",
    ] {
        world.execute("x", harmless);
        assert_eq!(world.expect(0, &["status", "x"]).outcome("x"), "up_to_date", "{harmless}");
    }
}
