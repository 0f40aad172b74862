//! What lies outside a schema and refers to it: whatever takes the schema's place has to keep it, and whatever deletes the schema
//! must not take it along unseen.
//!
//! It must not change anything itself.

use super::session::PostgresSession;
use crate::error::{Error, ErrorKind, Result};

/// Objects of other schemas that depend on this one's, and would go with it.
const DEPENDENTS: &str = "
WITH members AS (
    SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = {schema}
), own AS (
    SELECT classid, objid FROM members
    UNION ALL
    -- A table is a type as well.
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

/// Where the tables are published, as statements.
const PUBLISHED: &str = "
SELECT format('ALTER PUBLICATION %I ADD TABLE %s%s', p.pubname, c.oid::regclass, {detail}) AS value
FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid JOIN pg_class c ON c.oid = pr.prrelid
WHERE c.relnamespace = {schema}";
/// Which columns and rows of them; since version 15.
const DETAIL: &str =
    "concat(' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum = ANY (pr.prattrs::int2[])) || ')',
    ' WHERE (' || pg_get_expr(pr.prqual, c.oid) || ')')";
/// Whole schemas; since version 15.
const SCHEMAS: &str = "
UNION ALL SELECT format('ALTER PUBLICATION %I ADD TABLES IN SCHEMA %I', p.pubname, n.nspname)
FROM pg_publication_namespace pn JOIN pg_publication p ON p.oid = pn.pnpubid
JOIN pg_namespace n ON n.oid = pn.pnnspid WHERE n.oid = {schema}";

/// The tables of the extension `pg_cron`, where it is.
const JOBS: &str = "SELECT quote_ident(nspname) || '.job' AS value FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid \
    WHERE nspname = 'cron' AND relname = 'job' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')";

impl PostgresSession<'_> {
    /// Nothing of another schema may go with this one.
    pub(super) fn require_alone(&mut self) -> Result<()> {
        let subscribed = self.ask_outside(SUBSCRIBED)?.join(", ");
        if !subscribed.is_empty() {
            return Err(Error::new(ErrorKind::Blocked, format!("a subscription writes into {subscribed}"))
                .with_hint(
                    "drop the subscription first, and make it anew afterwards: it would lose its place",
                ));
        }
        let others = self.ask_outside(DEPENDENTS)?.join(", ");
        if others.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Blocked, format!("{others} depend on it, and would go with it"))
            .with_hint("drop them first, and make them anew afterwards"))
    }

    /// Statements that publish the schema and its tables as they are published now: what replaces a table is in no publication.
    pub(super) fn publications(&mut self) -> Result<Vec<String>> {
        let (read_schema, schemas) =
            if self.pooled.link()?.server.version >= 150_000 { (DETAIL, SCHEMAS) } else { ("''", "") };
        self.ask_outside(&format!("{PUBLISHED}{schemas}").replace("{detail}", read_schema))
    }

    /// What outside of the schema goes on naming it when it is gone, for people.
    pub(super) fn left_behind(&mut self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let published = "SELECT DISTINCT p.pubname::text AS value FROM pg_publication_rel pr \
             JOIN pg_publication p ON p.oid = pr.prpubid JOIN pg_class c ON c.oid = pr.prrelid \
             WHERE c.relnamespace = {schema} ORDER BY 1";
        for publication in self.ask_outside(published)? {
            notes.push(format!("its tables are no longer in the publication {publication}"));
        }
        for table in self.ask_outside(JOBS)? {
            let named = format!(
                "SELECT format('the scheduled job %s names it: %s', jobid, command) AS value FROM {table} \
                 WHERE strpos(command, (SELECT nspname::text FROM pg_namespace WHERE oid = {{schema}})) > 0 ORDER BY 1"
            );
            notes.extend(self.ask_outside(&named)?);
        }
        Ok(notes)
    }

    fn ask_outside(&mut self, sql: &str) -> Result<Vec<String>> {
        let schema = self.number()?;
        self.reader()?;
        self.texts_of(&sql.replace("{schema}", &schema))
    }
}
