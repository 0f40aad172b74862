-- What the rows of each schema in `input(schema, path)` come to in the system catalogs: `states`. What a schema is made of,
-- up to there, is what facets.sql spells out.
--
-- A schema's members are found by pg_depend, which has an index for it; pg_class has none by schema alone, and reading all
-- of it once a schema would make the work of a fleet grow with the square of its size.
--
-- The names of the schema's own objects come out bare because `path` is made the search_path before anything is spelled:
-- everything else here depends on `members`, and that on `entered`. Whoever asks with one search_path always, as
-- tenantry's sessions do, lets Postgres keep the plan.
entered AS MATERIALIZED (
    SELECT schema, CASE WHEN path IS NULL THEN '' ELSE set_config('search_path', path, true) END AS path FROM input
), members AS MATERIALIZED (
    SELECT d.refobjid AS schema, d.classid, d.objid
    FROM entered JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = entered.schema
    -- What is granted is no part of a schema.
    WHERE d.classid <> 'pg_default_acl'::regclass
), relations AS MATERIALIZED (
    SELECT members.schema, c.oid, c.xmin, c.relname, c.relkind, c.relpersistence, c.reloptions, c.relrowsecurity,
        c.relforcerowsecurity, c.relispartition, c.relpartbound, c.relreplident, c.reloftype, c.relhasrules
    FROM members JOIN pg_class c ON c.oid = members.objid
    WHERE members.classid = 'pg_class'::regclass
        AND c.relname NOT IN ('__diesel_schema_migrations', 'tenantry_history')
), indexes AS MATERIALIZED (
    SELECT r.schema, r.oid AS relation, i.xmin, i.indexrelid, i.indisunique, i.indisvalid, i.indkey, i.indnkeyatts, i.indnatts,
        i.indisreplident, {nulls_not_distinct} AS nulls_not_distinct
    FROM relations r JOIN pg_index i ON i.indrelid = r.oid
    WHERE r.relkind IN ('r', 'p', 'm')
), constraints AS MATERIALIZED (
    SELECT r.schema, r.oid AS relation, r.relname, r.relkind, c.oid, c.xmin, c.conname, c.contype, c.condeferrable,
        c.condeferred, c.convalidated, c.conindid, c.conkey, c.confrelid, c.confkey, c.confupdtype, c.confdeltype,
        c.confmatchtype, c.conbin, c.connoinherit, c.conparentid,
        {delete_columns} AS delete_columns, {not_enforced} AS not_enforced
    FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid
    WHERE r.relkind IN ('r', 'p', 'f')
), attributes AS MATERIALIZED (
    SELECT r.schema, r.oid AS relation, r.relname, r.relkind, a.xmin, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation,
        a.attnotnull, a.attidentity, a.attgenerated, a.atthasdef, a.attisdropped
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0
    WHERE r.relkind <> 'S'
), triggers AS MATERIALIZED (
    SELECT r.schema, r.relname, t.oid, t.xmin, t.tgname, t.tgenabled
    FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
    WHERE r.relkind IN ('r', 'p', 'v', 'f')
), types AS MATERIALIZED (
    SELECT m.schema, t.oid, t.xmin, t.typname, t.typtype, t.typbasetype, t.typtypmod, t.typnotnull, t.typdefault, t.typrelid
    FROM members m JOIN pg_type t ON t.oid = m.objid
    WHERE m.classid = 'pg_type'::regclass
), enums AS MATERIALIZED (
    SELECT t.schema, t.oid AS type, e.oid, e.xmin, e.enumlabel, e.enumsortorder
    FROM types t JOIN pg_enum e ON e.enumtypid = t.oid
    WHERE t.typtype = 'e'
), rows (schema, oid, xmin) AS (
    -- Any change of an object gives its row in a catalog another xmin; what autovacuum and ANALYZE write in place does not.
    SELECT schema, oid, xmin FROM relations
    UNION ALL
    SELECT schema, attnum::int::oid, xmin FROM attributes
    UNION ALL
    SELECT i.schema, i.indexrelid, i.xmin FROM indexes i
    UNION ALL
    SELECT i.schema, c.oid, c.xmin FROM indexes i JOIN pg_class c ON c.oid = i.indexrelid
    UNION ALL
    SELECT schema, oid, xmin FROM constraints
    UNION ALL
    SELECT schema, oid, xmin FROM triggers
    UNION ALL
    SELECT r.schema, w.oid, w.xmin FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE r.relkind IN ('v', 'm') OR r.relhasrules
    UNION ALL
    SELECT r.schema, s.seqrelid, s.xmin FROM relations r JOIN pg_sequence s ON s.seqrelid = r.oid WHERE r.relkind = 'S'
    UNION ALL
    SELECT r.schema, p.oid, p.xmin FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
    WHERE r.relkind IN ('r', 'p')
    UNION ALL
    SELECT schema, oid, xmin FROM types
    UNION ALL
    SELECT t.schema, a.attnum::int::oid, a.xmin FROM types t JOIN pg_attribute a ON a.attrelid = t.typrelid
    WHERE t.typtype = 'c'
    UNION ALL
    SELECT schema, oid, xmin FROM enums
    UNION ALL
    SELECT t.schema, c.oid, c.xmin FROM types t JOIN pg_constraint c ON c.contypid = t.oid
    WHERE t.typtype = 'd'
    UNION ALL
    SELECT m.schema, p.oid, p.xmin FROM members m JOIN pg_proc p ON p.oid = m.objid WHERE m.classid = 'pg_proc'::regclass
    UNION ALL
    SELECT m.schema, s.oid, s.xmin FROM members m JOIN pg_statistic_ext s ON s.oid = m.objid
    WHERE m.classid = 'pg_statistic_ext'::regclass
    UNION ALL
    SELECT m.schema, m.objid, '0'::xid FROM members m
    WHERE m.classid NOT IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_statistic_ext'::regclass)
), states AS (
    SELECT schema, concat_ws('.', count(*), sum(hashtextextended(xmin::text, oid::bigint))) AS state
    FROM rows GROUP BY schema
)
