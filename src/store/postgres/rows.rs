//! Reads the rows of one schema as text, and checks their integrity as far as Postgres can.
//!
//! Does not begin or end transactions; the session's owner does.

use std::collections::BTreeMap;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use sha2::{Digest as _, Sha256};

use super::connect::{Scope, settings};
use super::failure::convert_error;
use super::session::PostgresSession;
use crate::error::{ErrorKind, Result};
use crate::hash::hexadecimal;
use crate::sql::{quote_name, quote_text};
use crate::store::{Contents, DatabaseMaintenance, Health, RowCounts, Rows, TableSummary};

/// The integrity checks of a schema. Each row has two texts, of which the second describes a problem. The first is
/// empty for an invalid index and `?` for a constraint that was never validated; otherwise it is a query that counts
/// the rows that violate a foreign key.
const INTEGRITY_CHECKS: &str = "
SELECT ARRAY['', format('the index %s is invalid', c.relname)] AS texts
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = {schema} AND NOT i.indisvalid
UNION ALL
SELECT ARRAY['?', format('the constraint %s of %s was never validated', k.conname, c.relname)]
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE c.relnamespace = {schema} AND NOT k.convalidated AND k.conparentid = 0
UNION ALL
SELECT ARRAY[
    format('SELECT ARRAY[count(*)::text] AS texts FROM %s%I.%I c WHERE %s AND NOT EXISTS (SELECT FROM %s%I.%I p WHERE %s)',
        CASE c.relkind WHEN 'r' THEN 'ONLY ' END, cn.nspname, c.relname, string_agg(format('c.%I IS NOT NULL', ca.attname), ' AND '),
        CASE p.relkind WHEN 'r' THEN 'ONLY ' END, pn.nspname, p.relname,
        string_agg(format('p.%I OPERATOR(%I.%s) c.%I%s', pa.attname, opn.nspname, o.oprname, ca.attname,
            CASE WHEN pa.attcollation <> ca.attcollation THEN (SELECT format(' COLLATE %I.%I', ln.nspname, l.collname)
                FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = pa.attcollation) END), ' AND ')),
    format('row(s) of %s reference missing rows of %s', c.relname, p.relname)]
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
CROSS JOIN LATERAL unnest(k.conkey, k.confkey, k.conpfeqop) AS pair (child, parent, equal)
JOIN pg_attribute ca ON ca.attrelid = c.oid AND ca.attnum = pair.child
JOIN pg_attribute pa ON pa.attrelid = p.oid AND pa.attnum = pair.parent
JOIN pg_operator o ON o.oid = pair.equal JOIN pg_namespace opn ON opn.oid = o.oprnamespace
WHERE k.contype = 'f' AND k.convalidated AND k.conparentid = 0 AND c.relnamespace = {schema} AND c.relkind IN ('r', 'p')
GROUP BY k.oid, c.relkind, cn.nspname, c.relname, p.relkind, pn.nspname, p.relname";

/// For each table a query that reads all of its rows in full. If the extension amcheck is installed, also for each
/// B-tree a query that checks it.
const FULL_READS: &str = "
SELECT ARRAY[format('SELECT ARRAY[count((t.*)::text)::text] AS texts FROM ONLY %s t', c.oid::regclass), c.relname::text] AS texts
FROM pg_class c WHERE c.relnamespace = {schema} AND c.relkind IN ('r', 'm') AND c.relispopulated
UNION ALL
SELECT ARRAY[format('SELECT ARRAY[%I.bt_index_check(%s)::text] AS texts', n.nspname, c.oid), c.relname::text]
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace, pg_class c
JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree'
JOIN pg_index i ON i.indexrelid = c.oid AND i.indisvalid
WHERE e.extname = 'amcheck'
-- The CASE keeps other extensions out: naming a schema that this role may not use is an error.
AND CASE e.extname WHEN 'amcheck'
    THEN has_function_privilege(to_regprocedure(format('%I.bt_index_check(regclass)', n.nspname)), 'EXECUTE') END
AND c.relnamespace = {schema} AND c.relkind = 'i'";

/// How many rows are fetched at a time.
const PAGE: usize = 1_000;

#[derive(QueryableByName)]
struct Texts {
    #[diesel(sql_type = Array<Nullable<Text>>)]
    texts: Vec<Option<String>>,
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    count: i64,
    #[diesel(sql_type = Nullable<Array<Text>>)]
    ancestors: Option<Vec<String>>,
}

impl PostgresSession<'_> {
    /// Sets the `search_path` to the schema, so that names without a schema mean its objects.
    pub(super) fn enter_schema(&mut self) -> Result<()> {
        if !self.is_in_schema {
            // A time without a zone is in UTC.
            let reading =
                [("search_path", self.store.options.search_path(&self.name)), ("TimeZone", "UTC".into())];
            self.batch("cannot read its rows", &settings(Scope::Transaction, reading))?;
            self.is_in_schema = true;
        }
        Ok(())
    }

    fn texts(&mut self, what: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.enter_schema()?;
        let rows: QueryResult<Vec<Texts>> =
            diesel::sql_query(sql).load(&mut self.pooled.connection()?.connection);
        let rows = rows.map_err(|error| self.failed(what, &error))?;
        Ok(rows.into_iter().map(|row| row.texts).collect())
    }

    /// Runs a query whose rows have two texts each. `{schema}` in the query stands for this schema's OID.
    fn pairs(&mut self, sql: &str) -> Result<Vec<(String, String)>> {
        let schema = self.schema_oid_sql()?;
        let rows = self.texts("cannot check it", &sql.replace("{schema}", &schema))?;
        let pair = |row: Vec<Option<String>>| {
            let mut texts = row.into_iter().map(Option::unwrap_or_default);
            (texts.next().unwrap_or_default(), texts.next().unwrap_or_default())
        };
        Ok(rows.into_iter().map(pair).collect())
    }

    /// Runs a statement that changes rows, and returns how many it changed.
    pub(super) fn change_rows(&mut self, sql: &str) -> Result<u64> {
        self.enter_schema()?;
        self.current = None;
        let changed = diesel::sql_query(sql).execute(&mut self.pooled.connection()?.connection);
        let changed = changed.map_err(|error| self.failed("cannot change its rows", &error))?;
        Ok(changed as u64)
    }

    /// Counts the rows of each table.
    pub(super) fn count_rows(&mut self) -> Result<RowCounts> {
        let schema = self.schema_oid_sql()?;
        let sql = format!(
            "SELECT c.relname::text AS name, 0::bigint AS count, \
             CASE WHEN c.relispartition THEN ARRAY(SELECT a.relname::text FROM pg_partition_ancestors(c.oid) p \
             JOIN pg_class a ON a.oid = p.relid WHERE a.oid <> c.oid) END AS ancestors FROM pg_depend d JOIN pg_class c ON c.oid = d.objid \
             WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = {schema} AND d.classid = 'pg_class'::regclass \
             AND c.relkind = 'r' AND c.relname NOT IN ('__diesel_schema_migrations', 'tenantry_history')"
        );
        self.send()?;
        let connection = &mut self.pooled.connection()?.connection;
        let target = self.store.target();
        let count = || -> QueryResult<(Vec<Counted>, Vec<Counted>)> {
            let tables: Vec<Counted> = diesel::sql_query(sql).load(connection)?;
            let counts: Vec<_> = tables
                .iter()
                .map(|table| {
                    let (text, name) = (quote_text(&table.name), quote_name(&table.name));
                    format!(
                        "SELECT {text}::text AS name, count(*) AS count, NULL::text[] AS ancestors FROM {}.{name}",
                        quote_name(&self.name)
                    )
                })
                .collect();
            let counts = if counts.is_empty() {
                Vec::new()
            } else {
                diesel::sql_query(counts.join(" UNION ALL ")).load(connection)?
            };
            Ok((tables, counts))
        };
        let (tables, counts) =
            count().map_err(|error| convert_error("cannot count its rows", target, &error))?;
        let rows =
            counts.into_iter().map(|it| (it.name, u64::try_from(it.count).unwrap_or_default())).collect();
        let partitions = tables.into_iter().filter_map(|it| Some((it.name, it.ancestors?))).collect();
        Ok(RowCounts { rows, partitions, sequences: self.sequences()? })
    }

    /// Returns the last value of each sequence that belongs to a column, by `table.column`.
    fn sequences(&mut self) -> Result<BTreeMap<String, i64>> {
        let schema = self.schema_oid_sql()?;
        let sql = format!(
            // Selects the schema's sequences first: another project's may be dropped before its last value is read.
            "WITH own AS MATERIALIZED (SELECT format('%s.%s', c.relname, a.attname) AS name, s.seqrelid \
             FROM pg_class c JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid > 0 \
             AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') JOIN pg_sequence s ON s.seqrelid = d.objid \
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid WHERE c.relnamespace = {schema}), \
             counted AS MATERIALIZED (SELECT name, pg_sequence_last_value(seqrelid) AS count FROM own) \
             SELECT name, count, NULL::text[] AS ancestors FROM counted WHERE count IS NOT NULL"
        );
        let sequences: QueryResult<Vec<Counted>> =
            diesel::sql_query(sql).load(&mut self.pooled.connection()?.connection);
        let sequences = sequences.map_err(|error| self.failed("cannot read its sequences", &error))?;
        Ok(sequences.into_iter().map(|it| (it.name, it.count)).collect())
    }

    /// Sets the last value of the sequence of a column, `table.column`. Returns whether the column has a sequence.
    pub(super) fn raise_sequence(&mut self, name: &str, to: i64) -> Result<bool> {
        let Some((table, column)) = name.split_once('.') else { return Ok(false) };
        let qualified = format!("{}.{}", quote_name(&self.name), quote_name(table));
        let (table, column) = (quote_text(&qualified), quote_text(column));
        // The function fails if the column does not exist.
        let sql = format!(
            "SELECT ARRAY[(SELECT setval(s, {to})::text FROM (SELECT pg_get_serial_sequence({table}, attname) AS s FROM pg_attribute \
             WHERE attrelid = to_regclass({table}) AND attname = {column} AND NOT attisdropped) owned WHERE s IS NOT NULL)] AS texts"
        );
        self.current = None;
        let raised = self.texts("cannot set its sequence", &sql)?;
        Ok(raised.into_iter().flatten().any(|it| it.is_some()))
    }

    /// Runs `ANALYZE` or `VACUUM` on the schema's tables, outside a transaction because `VACUUM` requires that.
    pub(super) fn maintain(&mut self, maintenance: DatabaseMaintenance) -> Result<()> {
        self.find_schema()?;
        let schema = self.schema_oid_sql()?;
        let sql = format!(
            "SELECT ARRAY[format('%I.%I', {}, relname)] AS texts FROM pg_catalog.pg_class \
             WHERE relnamespace = {schema} AND relkind IN ('r', 'm') ORDER BY relname",
            quote_text(&self.name)
        );
        let tables: QueryResult<Vec<Texts>> =
            diesel::sql_query(sql).load(&mut self.pooled.connection()?.connection);
        let tables = tables.map_err(|error| self.failed("cannot list its tables", &error))?;
        let tables: Vec<String> = tables.into_iter().flat_map(|row| row.texts).flatten().collect();
        if tables.is_empty() {
            return Ok(());
        }
        let verb = match maintenance {
            DatabaseMaintenance::Analyze => "ANALYZE",
            DatabaseMaintenance::Vacuum => "VACUUM",
        };
        let result =
            self.pooled.connection()?.connection.batch_execute(&format!("{verb} {}", tables.join(", ")));
        result.map_err(|error| self.failed(&format!("{verb} failed"), &error))
    }
}

/// For each table a query that adds up the hashes of its rows. The sum does not depend on the rows' order, and a row
/// that occurs twice counts twice.
const HASH_SUMS: &str = "
SELECT ARRAY[format($$SELECT ARRAY[%L, count(*)::text, concat_ws(',', sum(a), sum(b), sum(c), sum(d))] AS texts FROM
    (SELECT ('x' || substr(h, 1, 16))::bit(64)::bigint AS a, ('x' || substr(h, 17, 16))::bit(64)::bigint AS b,
            ('x' || substr(h, 33, 16))::bit(64)::bigint AS c, ('x' || substr(h, 49, 16))::bit(64)::bigint AS d
     FROM (SELECT encode(sha256(convert_to((%s)::text, 'UTF8')), 'hex') AS h FROM ONLY %I.%I t) hashes) lanes$$,
    relname,
    -- A dump and its restore can change the order of columns in a table that inherits some.
    CASE WHEN NOT relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
        THEN (SELECT format('ROW(%s)', string_agg(format('t.%I', attname), ', ' ORDER BY attname)) FROM pg_attribute a
            WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
        ELSE 't.*' END,
    {name}, relname)] AS texts
FROM pg_class c WHERE relnamespace = {schema} AND relkind = 'r' ORDER BY relname";

/// The settings that decide how the server formats values as text.
const TEXT_FORMAT: [(&str, &str); 6] = [
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("xmlbinary", "base64"),
    ("lc_monetary", "C"),
];

impl PostgresSession<'_> {
    /// Returns the statements that create what the schema depends on outside of itself.
    pub(super) fn needs(&mut self) -> Result<Vec<String>> {
        let schema = self.schema_oid_sql()?;
        let sql = include_str!("dependencies.sql").replace("{schema}", &schema);
        Ok(self.texts("cannot determine what it depends on", &sql)?.into_iter().flatten().flatten().collect())
    }
}

impl Rows for PostgresSession<'_> {
    fn columns(&mut self, table: &str) -> Result<Vec<String>> {
        let schema = self.schema_oid_sql()?;
        let sql = format!(
            "SELECT ARRAY[a.attname::text] AS texts FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE c.relnamespace = {schema} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            quote_text(table)
        );
        Ok(self.texts("cannot read its columns", &sql)?.into_iter().flatten().flatten().collect())
    }

    fn for_each_row(
        &mut self,
        expressions: &[String],
        from: &str,
        visit: &mut dyn FnMut(Vec<Option<String>>) -> Result<bool>,
    ) -> Result<()> {
        const WHAT: &str = "cannot read its rows";
        let expressions: Vec<_> =
            expressions.iter().map(|expression| format!("({expression})::text")).collect();
        self.enter_schema()?;
        let select = format!("SELECT ARRAY[{}] AS texts FROM {from}", expressions.join(", "));
        self.batch(WHAT, &format!("DECLARE tenantry_rows NO SCROLL CURSOR FOR {select}"))?;
        'pages: loop {
            let page = self.texts(WHAT, &format!("FETCH {PAGE} FROM tenantry_rows"))?;
            let is_last = page.len() < PAGE;
            for row in page {
                if !visit(row)? {
                    break 'pages;
                }
            }
            if is_last {
                break;
            }
        }
        self.batch(WHAT, "CLOSE tenantry_rows")
    }

    fn first(&mut self, query: &str) -> Result<Option<String>> {
        let sql = format!(
            "SELECT ARRAY[key, value] AS texts FROM (SELECT * FROM ({query}\n) AS found LIMIT 1) AS one, \
             json_each_text(row_to_json(one))"
        );
        let fields = self.texts("a query failed", &sql)?;
        let format_field = |field: Vec<Option<String>>| {
            let mut texts = field.into_iter();
            let mut next = || texts.next().flatten().unwrap_or_else(|| "NULL".into());
            format!("{} = {}", next(), next())
        };
        let formatted: Vec<_> = fields.into_iter().map(format_field).collect();
        Ok(if formatted.is_empty() { None } else { Some(formatted.join(", ")) })
    }

    fn contents(&mut self) -> Result<Contents> {
        const WHAT: &str = "cannot read its rows";
        let schema = self.schema_oid_sql()?;
        let sql = HASH_SUMS.replace("{schema}", &schema).replace("{name}", &quote_text(&self.name));
        let queries: Vec<String> = self.texts(WHAT, &sql)?.into_iter().flatten().flatten().collect();
        let text_format = TEXT_FORMAT.map(|(name, value)| (name, value.to_string()));
        self.batch(WHAT, &settings(Scope::Transaction, text_format))?;
        let sums =
            if queries.is_empty() { Vec::new() } else { self.texts(WHAT, &queries.join(" UNION ALL "))? };
        let mut contents = Contents::default();
        for row in sums {
            let mut texts = row.into_iter().map(Option::unwrap_or_default);
            let [name, rows, sum] = std::array::from_fn(|_| texts.next().unwrap_or_default());
            let hash = hexadecimal(&Sha256::digest(format!("{rows} {sum}")));
            contents.tables.insert(name, TableSummary { rows: rows.parse().unwrap_or_default(), hash });
        }
        Ok(contents)
    }

    fn health(&mut self) -> Result<Health> {
        let Health { mut errors, mut unvalidated, mut unchecked } = Health::default();
        errors.extend(self.reference_to_other_schema("")?);
        for (query, what) in self.pairs(INTEGRITY_CHECKS)? {
            match query.as_str() {
                "" => {
                    errors.push(what);
                    continue;
                }
                "?" => {
                    unvalidated.push(what);
                    continue;
                }
                _ => {}
            }
            let counted = self.texts("cannot check it", &query)?;
            let count = counted.into_iter().flatten().next().flatten().unwrap_or_default();
            if count != "0" {
                errors.push(format!("{count} {what}"));
            }
        }
        let reads = self.pairs(FULL_READS)?;
        self.batch("cannot check it", "SAVEPOINT tenantry_check")?;
        for (query, relation) in reads {
            match self.texts("cannot read all of it", &query) {
                Ok(_) => {}
                Err(error) if error.hint_for_command().is_some() => return Err(error),
                Err(error) if matches!(error.kind(), ErrorKind::Database | ErrorKind::Corrupt) => {
                    errors.push(format!("{relation}: {}", error.summary()));
                    // The error aborted the transaction. The rollback lets the next query run.
                    self.batch("cannot check it", "ROLLBACK TO SAVEPOINT tenantry_check")?;
                    self.is_in_schema = false;
                }
                Err(error) => return Err(error),
            }
        }
        unchecked.extend(self.refused_grants.iter().cloned());
        Ok(Health { errors, unvalidated, unchecked })
    }
}
