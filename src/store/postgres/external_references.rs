//! Finds what refers to a schema from outside. A replacement of the schema has to keep it, and deleting the schema must
//! not delete it unnoticed.

use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};

/// Objects of other schemas that depend on this one, and that `DROP SCHEMA ... CASCADE` would delete.
const DEPENDENTS: &str = "
WITH members AS (
    SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = {schema}
), own AS (
    SELECT classid, objid FROM members
    UNION ALL
    -- Each table has a row type.
    SELECT 'pg_type'::regclass, c.reltype FROM members m JOIN pg_class c ON c.oid = m.objid WHERE m.classid = 'pg_class'::regclass
), named AS (
    SELECT classid, objid FROM own
    UNION ALL
    SELECT 'pg_type'::regclass, t.typarray FROM own JOIN pg_type t ON t.oid = own.objid WHERE own.classid = 'pg_type'::regclass
), dependents AS (
    SELECT d.classid, d.objid, r.ev_class AS viewed, coalesce(c.relnamespace, rc.relnamespace, k.connamespace, fc.relnamespace,
        tc.relnamespace, y.typnamespace, p.pronamespace, s.stxnamespace, pc.relnamespace) AS namespace
    FROM named n JOIN pg_depend d ON d.refclassid = n.classid AND d.refobjid = n.objid
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid LEFT JOIN pg_class rc ON rc.oid = r.ev_class
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid LEFT JOIN pg_class fc ON fc.oid = f.adrelid
    LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid LEFT JOIN pg_class tc ON tc.oid = t.tgrelid
    LEFT JOIN pg_type y ON d.classid = 'pg_type'::regclass AND y.oid = d.objid
    LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    LEFT JOIN pg_statistic_ext s ON d.classid = 'pg_statistic_ext'::regclass AND s.oid = d.objid
    LEFT JOIN pg_policy l ON d.classid = 'pg_policy'::regclass AND l.oid = d.objid LEFT JOIN pg_class pc ON pc.oid = l.polrelid
)
SELECT DISTINCT CASE WHEN viewed IS NULL THEN pg_describe_object(classid, objid, 0) ELSE pg_describe_object('pg_class'::regclass, viewed, 0) END AS value
FROM dependents WHERE namespace <> {schema} AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = namespace AND n.nspname LIKE 'pg\\_toast%')
ORDER BY 1";

const SUBSCRIBED: &str = "SELECT c.relname::text AS value FROM pg_subscription_rel s JOIN pg_class c ON c.oid = s.srrelid \
    WHERE c.relnamespace = {schema} ORDER BY 1";

/// Statements that add the tables to their publications again.
const PUBLISHED: &str = "
SELECT format('ALTER PUBLICATION %I ADD TABLE %s%s', p.pubname, c.oid::regclass, {detail}) AS value
FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid JOIN pg_class c ON c.oid = pr.prrelid
WHERE c.relnamespace = {schema}";
/// The columns and rows that are published; since version 15.
const COLUMNS_AND_ROWS: &str =
    "concat(' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum = ANY (pr.prattrs::int2[])) || ')',
    ' WHERE (' || pg_get_expr(pr.prqual, c.oid) || ')')";
/// Publications of the whole schema; since version 15.
const SCHEMAS: &str = "
UNION ALL SELECT format('ALTER PUBLICATION %I ADD TABLES IN SCHEMA %I', p.pubname, n.nspname)
FROM pg_publication_namespace pn JOIN pg_publication p ON p.oid = pn.pnpubid
JOIN pg_namespace n ON n.oid = pn.pnnspid WHERE n.oid = {schema}";

/// The job table of the extension `pg_cron`, if it exists and is readable.
const JOBS: &str = "SELECT quote_ident(nspname) || '.job' AS value FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid \
    WHERE nspname = 'cron' AND relname = 'job' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')";

impl PostgresSession<'_> {
    /// Fails with `Blocked` if a subscription writes into the schema, or if objects of other schemas depend on it.
    pub(super) fn require_no_dependents(&mut self) -> Result<()> {
        let subscribed = self.query_texts(SUBSCRIBED)?.join(", ");
        if !subscribed.is_empty() {
            return Err(Error::new(ErrorKind::Blocked, format!("a subscription writes into {subscribed}"))
                .with_hint(
                    "drop the subscription first, and create it again afterwards; otherwise it would lose its position",
                ));
        }
        let dependents = self.query_texts(DEPENDENTS)?.join(", ");
        if dependents.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Blocked, format!("{dependents} depend on it and would be deleted with it"))
            .with_hint("drop them first, and create them again afterwards"))
    }

    /// Returns the statements that publish the schema and its tables as they are published now. They are needed after a
    /// replacement, because the new tables are in no publication.
    pub(super) fn publications(&mut self) -> Result<Vec<String>> {
        let (columns_and_rows, schemas) = if self.pooled.connection()?.server.version >= 150_000 {
            (COLUMNS_AND_ROWS, SCHEMAS)
        } else {
            ("''", "")
        };
        self.query_texts(&format!("{PUBLISHED}{schemas}").replace("{detail}", columns_and_rows))
    }

    /// Returns notes for the user on the effects of deleting the schema: publications that lose its tables, and
    /// scheduled jobs that still name it.
    pub(super) fn deletion_notes(&mut self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let published = "SELECT DISTINCT p.pubname::text AS value FROM pg_publication_rel pr \
             JOIN pg_publication p ON p.oid = pr.prpubid JOIN pg_class c ON c.oid = pr.prrelid \
             WHERE c.relnamespace = {schema} ORDER BY 1";
        for publication in self.query_texts(published)? {
            notes.push(format!("its tables are no longer in the publication {publication}"));
        }
        for table in self.query_texts(JOBS)? {
            let jobs = format!(
                "SELECT format('the scheduled job %s names it: %s', jobid, command) AS value FROM {table} \
                 WHERE strpos(command, (SELECT nspname::text FROM pg_namespace WHERE oid = {{schema}})) > 0 ORDER BY 1"
            );
            notes.extend(self.query_texts(&jobs)?);
        }
        Ok(notes)
    }

    fn query_texts(&mut self, sql: &str) -> Result<Vec<String>> {
        let schema = self.schema_oid_sql()?;
        self.reader()?;
        self.texts_of(&sql.replace("{schema}", &schema))
    }
}
