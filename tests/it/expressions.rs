//! A schema's fingerprint stays the same through a dump and restore, for expressions of all kinds.

use std::fmt::Write as _;

use crate::world::World;

/// Conditions on the columns in `COLUMNS`. `#` precedes each column name. Those that an index may contain come first.
const CONDITIONS: &[&str] = &[
    "#v IN ('a', 'b', 'c,d')",
    "#v NOT IN ('a', 'it''s')",
    "#v IN ('a')",
    "#t IN ('a', 'b')",
    "#c IN ('a', 'bcd')",
    "#i IN (1, 2, 3)",
    "#i NOT IN (-1, 2)",
    "#b IN (1, 10000000000)",
    "#n IN (1, 2.5, -3)",
    "#d IN ('2020-01-01', '2021-12-31')",
    "#i BETWEEN 1 AND 5",
    "#i NOT BETWEEN -5 AND -1",
    "#i BETWEEN SYMMETRIC 5 AND 1",
    "#v BETWEEN 'a' AND 'b'",
    "#v LIKE 'a%'",
    "#v NOT ILIKE '%b_'",
    "#v SIMILAR TO 'a|b'",
    "#v ~ '^[a-z]+$'",
    "COALESCE(#v, 'x') = 'x'",
    "COALESCE(#i, 0) > 0",
    "CASE WHEN #v = 'a' THEN #i ELSE #b END > 3",
    "CASE #v WHEN 'a' THEN true WHEN 'b' THEN #i IN (1, 2) ELSE false END",
    "(#i, #b) = (1, 2)",
    "(#i, #t) < (1, 'x')",
    "(#v, #c) IN (('a', 'b'), ('c', 'd'))",
    "#i::text = '1'",
    "#n::int = 1",
    "CAST(#v AS text) <> ''",
    "'a' = ANY (#a)",
    "#v = ANY (ARRAY['a', 'b'])",
    "#v::text = ANY ('{a,b}')",
    "#i = ANY ('{1,2}'::int[])",
    "#i = ANY (ARRAY[1, 2]::bigint[])",
    "#a @> ARRAY['x', 'y']",
    "#va && ARRAY['x', 'y']::varchar[]",
    "#va = ARRAY['x']::varchar(5)[]",
    "#bo IS TRUE",
    "#bo IS NOT NULL",
    "#i IS DISTINCT FROM #b",
    "array_length(#a, 1) > 1",
    "extract(year from #d) > 2000",
    "#j ->> 'a' = 'b'",
    "#j ? 'x'",
    "NULLIF(#v, '') IS NOT NULL",
    "GREATEST(#i, #b) > 1",
    "substring(#v from 1 for 2) = 'ab'",
    "position('a' in #v) > 0",
    "trim(both from #v) = 'x'",
    "#m = 'a'",
    "#m IN ('a', 'b')",
    "#v COLLATE \"C\" > 'a'",
    "length(#v) > 0",
    "#i % 2 = 0 AND -#i < 5",
    "#n * 1.5 >= 2::numeric(5,2)",
    "#bi = B'101'",
    "#ip << '10.0.0.0/8'",
    "#by = '\\x00ff'::bytea",
    "#tm > '10:00' AND #tm < '11:00'",
    // The following ones depend on settings, so an index cannot contain them.
    "#ts BETWEEN '2020-01-01 00:00+00' AND '2021-01-01 00:00+00'",
    "#ts AT TIME ZONE 'UTC' > '2020-01-01'",
    "#d + interval '1 day 02:00' > #ts",
    "#m::text IN ('a', 'b')",
];
/// How many of the conditions an index may contain.
const IMMUTABLE: usize = 58;

const COLUMNS: &str = "i int, b bigint, n numeric(8,2), t text, v varchar(10), c char(3), d date, ts timestamptz, bo boolean, \
    a text[], va varchar(5)[], j jsonb, m mood, bi bit(3), ip inet, by bytea, tm time";

/// A pseudo-random generator with the same sequence for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit as u64).unwrap()
    }

    fn condition(&mut self, depth: usize, condition_count: usize) -> String {
        let next = |random: &mut Self| random.condition(depth - 1, condition_count);
        match if depth == 0 { 9 } else { self.below(10) } {
            0 | 1 => format!("{} AND {}", next(self), next(self)),
            2 => format!("({}) AND ({})", next(self), next(self)),
            3 | 4 => format!("({} OR {})", next(self), next(self)),
            5 => format!("NOT ({})", next(self)),
            6 => format!("CASE WHEN {} THEN {} ELSE {} END", next(self), next(self), next(self)),
            7 => format!("COALESCE({}, false)", next(self)),
            8 => format!("({}) IS NOT FALSE", next(self)),
            _ => format!("({})", CONDITIONS[self.below(condition_count)]),
        }
    }
}

/// A table with conditions in every place that allows one.
fn table(number: usize, random: &mut Random) -> String {
    let plain = |text: String| text.replace('#', "");
    let mut any = || random.condition(2, CONDITIONS.len());
    let (first, second, third, view, policy) = (any(), any(), any(), any(), any());
    let (when, select) = (any().replace('#', "NEW."), any());
    let index = random.condition(2, IMMUTABLE);
    let generated = random.condition(1, IMMUTABLE);
    let expression = random.condition(1, IMMUTABLE);
    let mut sql = format!(
        "CREATE TABLE t{number} (id int PRIMARY KEY, {COLUMNS},\n g boolean GENERATED ALWAYS AS ({}) STORED,\n CHECK ({}),\n \
         CHECK ({}), CONSTRAINT named_{number} CHECK ({}),\n EXCLUDE USING btree (id WITH =) WHERE ({}));\n",
        plain(generated),
        plain(first),
        plain(second),
        plain(third),
        plain(index.clone()),
    );
    let _ = write!(
        sql,
        "CREATE INDEX ix_{number} ON t{number} (id, ({})) WHERE {};\nCREATE VIEW v_{number} AS SELECT id, ({}) AS said \
         FROM t{number} JOIN t{number} u USING (id) WHERE u.id > 0;\nCREATE VIEW w_{number} AS SELECT * FROM t{number} WHERE {};\n\
         CREATE POLICY p_{number} ON t{number} USING ({});\nCREATE TRIGGER tr_{number} BEFORE INSERT ON t{number} FOR EACH ROW \
         WHEN ({when}) EXECUTE FUNCTION nothing();\n",
        plain(expression),
        plain(index),
        select.replace('#', &format!("t{number}.")),
        plain(view),
        plain(policy),
    );
    sql
}

fn set(tables: usize, seed: u64) -> String {
    let mut random = Random(seed);
    let mut sql = "CREATE TYPE mood AS ENUM ('a', 'b');\nCREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS \
                   $$ BEGIN RETURN NEW; END $$;\nCREATE DOMAIN code AS varchar(5) CHECK (VALUE IN ('a', 'b') AND (length(VALUE) \
                   BETWEEN 1 AND 5));\n"
        .to_string();
    for number in 0..tables {
        sql.push_str(&table(number, &mut random));
    }
    // Each condition once by itself, so that all are covered for any seed.
    for (number, condition) in CONDITIONS.iter().enumerate() {
        let _ = writeln!(sql, "CREATE TABLE s{number} ({COLUMNS}, CHECK ({}));", condition.replace('#', ""));
    }
    sql
}

/// `TENANTRY_TEST_SEED` and `TENANTRY_TEST_TABLES` set the seed and the number of tables.
#[test]
fn a_fingerprint_outlives_a_dump_and_its_restore() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (tables, seed) = (number("TENANTRY_TEST_TABLES", 12), number("TENANTRY_TEST_SEED", 7));
    let mut world = World::postgres();
    let sql = set(usize::try_from(tables).unwrap(), seed);
    world.with_migrations(&[("1_all", &sql)]).expect(0, &["create", "a"]);
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a", "--level", "3"]);
    let exported = world.folder().join("a.sql");
    world.expect(0, &["export", "a", "--output", exported.to_str().unwrap()]);
    world.expect(0, &["import", "b", exported.to_str().unwrap()]);
    world.expect(0, &["backup", "restore", "a", "--as", "c"]);
    for id in ["b", "c"] {
        assert_eq!(world.expect(0, &["upgrade", id, "--dry-run"]).outcome(id), "up_to_date", "{id}");
    }
    // Without its ledger, the imported schema is still recognized as a version of the set.
    world
        .database()
        .run(&["-c", "DROP TABLE project_b.tenantry_history, project_b.__diesel_schema_migrations"]);
    assert_eq!(world.expect(0, &["upgrade", "b"]).outcome("b"), "stamped");
}
