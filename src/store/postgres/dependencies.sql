-- Statements that create what a schema's objects depend on outside of it: schemas, extensions, enums and domains, in
-- this order.
WITH own AS (
    SELECT 'pg_class'::regclass AS classid, oid FROM pg_class WHERE relnamespace = {schema}
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = {schema}
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = {schema}
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE connamespace = {schema}
    UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid WHERE c.relnamespace = {schema}
    UNION ALL SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE c.relnamespace = {schema}
    UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = {schema}
), needed AS (
    SELECT DISTINCT d.refclassid, d.refobjid FROM own JOIN pg_depend d ON d.classid = own.classid AND d.objid = own.oid
), types AS (
    -- An array type needs its element type.
    SELECT DISTINCT coalesce(nullif(t.typelem, 0), t.oid) AS oid
    FROM needed JOIN pg_type t ON refclassid = 'pg_type'::regclass AND t.oid = refobjid
), outside AS (
    SELECT t.*, n.nspname FROM types JOIN pg_type t ON t.oid = types.oid JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.oid <> {schema} AND n.nspname <> 'pg_catalog' AND t.typtype IN ('e', 'd')
    AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e')
), extensions AS (
    SELECT DISTINCT e.extname, n.nspname FROM needed
    JOIN pg_depend x ON x.classid = needed.refclassid AND x.objid = needed.refobjid AND x.deptype = 'e'
    JOIN pg_extension e ON e.oid = x.refobjid JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE x.refclassid = 'pg_extension'::regclass AND n.oid <> {schema}
), statements AS (
    SELECT 0 AS part, nspname::text AS name, format('CREATE SCHEMA IF NOT EXISTS %I', nspname) AS sql
    FROM (SELECT nspname FROM extensions UNION SELECT nspname FROM outside) schemas WHERE nspname <> 'pg_catalog'
    UNION ALL
    SELECT 1, extname, format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I', extname, nspname) FROM extensions
    UNION ALL
    SELECT 2, typname, format('DO $tenantry$ BEGIN CREATE TYPE %I.%I AS ENUM (%s); EXCEPTION WHEN duplicate_object THEN NULL; END $tenantry$',
        nspname, typname, (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = outside.oid))
    FROM outside WHERE typtype = 'e'
    UNION ALL
    SELECT 3, typname, format('DO $tenantry$ BEGIN CREATE DOMAIN %I.%I AS %s%s%s%s; EXCEPTION WHEN duplicate_object THEN NULL; END $tenantry$',
        nspname, typname, format_type(typbasetype, typtypmod), CASE WHEN typnotnull THEN ' NOT NULL' ELSE '' END,
        coalesce(' DEFAULT ' || typdefault, ''),
        (SELECT string_agg(format(' CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), '') FROM pg_constraint WHERE contypid = outside.oid AND contype = 'c'))
    FROM outside WHERE typtype = 'd'
)
SELECT ARRAY[sql] AS texts FROM statements ORDER BY part, name
