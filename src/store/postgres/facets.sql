-- A schema as text. It is queried only for schemas that were not seen before: see catalog_rows.rs.
--
-- Names of the schema's own objects are unqualified, since the search_path is the schema.
WITH members AS MATERIALIZED (
    SELECT classid, objid FROM pg_depend
    -- Default privileges and publications are not read here.
    WHERE refclassid = 'pg_namespace'::regclass AND refobjid = {schema}
        AND classid NOT IN ('pg_default_acl'::regclass, {publications})
), relations AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.reloptions, c.relrowsecurity, c.relforcerowsecurity,
        c.relispartition, c.relpartbound, c.relreplident, c.reloftype, c.relhasrules
    FROM members JOIN pg_class c ON c.oid = members.objid
    WHERE members.classid = 'pg_class'::regclass
        AND c.relname NOT IN ('__diesel_schema_migrations', 'tenantry_history')
), indexes AS MATERIALIZED (
    SELECT r.oid AS relation, i.indexrelid, i.indisvalid, i.indkey, i.indnkeyatts, i.indisreplident,
        {nulls_not_distinct} AS nulls_not_distinct
    FROM relations r JOIN pg_index i ON i.indrelid = r.oid
    WHERE r.relkind IN ('r', 'p', 'm')
), constraints AS MATERIALIZED (
    SELECT r.oid AS relation, r.relname, r.relkind, c.oid, c.conname, c.contype, c.condeferrable, c.condeferred, c.convalidated,
        c.conindid, c.conkey, c.confrelid, c.confkey, c.confupdtype, c.confdeltype, c.confmatchtype, c.conbin, c.connoinherit,
        c.conparentid, {delete_columns} AS delete_columns, {not_enforced} AS not_enforced
    FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid
    WHERE r.relkind IN ('r', 'p', 'f')
), attributes AS MATERIALIZED (
    SELECT r.oid AS relation, r.relname, r.relkind, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull,
        a.attidentity, a.attgenerated, a.atthasdef
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0
    WHERE r.relkind IN ('r', 'p', 'f') AND NOT a.attisdropped
), triggers AS MATERIALIZED (
    SELECT r.relname, t.oid, t.tgname, t.tgenabled
    FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
    WHERE r.relkind IN ('r', 'p', 'v', 'f')
), types AS MATERIALIZED (
    SELECT t.oid, t.typname, t.typtype, t.typbasetype, t.typtypmod, t.typnotnull, t.typdefault, t.typrelid
    FROM members m JOIN pg_type t ON t.oid = m.objid
    WHERE m.classid = 'pg_type'::regclass
), sequences AS MATERIALIZED (
    SELECT s.seqrelid, d.refobjid AS relation, d.refobjsubid AS attnum, d.deptype,
        concat_ws(' ', format_type(s.seqtypid, NULL), 'start', s.seqstart, 'increment', s.seqincrement, 'from', s.seqmin, 'to',
            s.seqmax, 'cache', s.seqcache, CASE WHEN s.seqcycle THEN 'cycle' END) AS definition
    FROM relations r
    JOIN pg_sequence s ON s.seqrelid = r.oid
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.objsubid = 0
        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    WHERE r.relkind = 'S'
), extended AS MATERIALIZED (
    -- Members of an extension belong to the extension.
    SELECT d.classid, d.objid FROM members x
    JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.objid AND d.deptype = 'e'
    WHERE x.classid = 'pg_extension'::regclass
), own AS MATERIALIZED (
    SELECT m.classid, m.objid FROM members m
    WHERE NOT EXISTS (SELECT FROM extended x WHERE x.classid = m.classid AND x.objid = m.objid)
), facets (kind, object, facet, key, value) AS (
    SELECT r.relkind::text, r.relname::text, 'object', '', concat_ws(' ',
        CASE WHEN r.relpersistence = 'u' THEN 'UNLOGGED' END,
        CASE WHEN r.reloptions IS NOT NULL THEN 'WITH ' || array_to_string(r.reloptions, ', ') END,
        CASE WHEN r.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
        CASE WHEN r.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
        CASE WHEN r.relreplident NOT IN ('d', 'n') THEN 'REPLICA IDENTITY ' || r.relreplident::text END,
        CASE WHEN r.reloftype <> 0 THEN 'OF ' || format_type(r.reloftype, NULL) END,
        CASE WHEN r.relkind = 'p' THEN 'PARTITION BY ' || pg_get_partkeydef(r.oid) END,
        CASE WHEN r.relispartition THEN 'PARTITION ' || pg_get_expr(r.relpartbound, r.oid) END)
    FROM relations r WHERE r.relkind IN ('r', 'p', 'f')
    UNION ALL
    SELECT r.relkind::text, r.relname, 'object', '', concat_ws(' ',
        CASE WHEN r.reloptions IS NOT NULL THEN 'WITH ' || array_to_string(r.reloptions, ', ') END, pg_get_viewdef(r.oid))
    FROM relations r WHERE r.relkind IN ('v', 'm')
    UNION ALL
    SELECT r.relkind::text, r.relname, 'object', CASE WHEN s.deptype = 'a' THEN concat_ws(' ', s.attnum, s.relation::regclass) ELSE '' END, s.definition
    FROM relations r JOIN sequences s ON s.seqrelid = r.oid
    WHERE r.relkind = 'S' AND s.deptype IS DISTINCT FROM 'i'
    UNION ALL
    SELECT a.relkind::text, a.relname, 'column', concat_ws(' ', a.attnum, a.attname), concat_ws(' ',
        format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END,
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY ' || s.definition
            WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY ' || s.definition END,
        CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text ELSE CASE WHEN a.atthasdef THEN 'DEFAULT' END END,
        CASE WHEN a.atthasdef THEN
            CASE WHEN s.deptype = 'a' AND pg_get_expr(f.adbin, CASE WHEN a.attgenerated = '' THEN 0 ELSE f.adrelid END) = format('nextval(%L::regclass)', s.seqrelid::regclass)
                THEN 'next of ' || s.definition ELSE pg_get_expr(f.adbin, CASE WHEN a.attgenerated = '' THEN 0 ELSE f.adrelid END) END END)
    FROM attributes a
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef f ON f.adrelid = a.relation AND f.adnum = a.attnum AND a.atthasdef
    LEFT JOIN sequences s ON s.relation = a.relation AND s.attnum = a.attnum
    UNION ALL
    SELECT r.relkind::text, r.relname, 'inherits', i.inhseqno::text, i.inhparent::regclass::text
    FROM relations r JOIN pg_inherits i ON i.inhrelid = r.oid
    WHERE r.relkind IN ('r', 'p', 'f')
    UNION ALL
    SELECT c.relkind::text, c.relname, 'constraint ' || c.contype::text, c.conname, concat_ws(' ',
        CASE c.contype
            WHEN 'c' THEN pg_get_expr(c.conbin, c.relation) || CASE WHEN c.connoinherit THEN ' NO INHERIT' ELSE '' END
            WHEN 'f' THEN concat(c.conkey, ' ', c.confrelid::regclass, ' ', c.confkey, ' ', c.confupdtype, c.confdeltype, c.confmatchtype,
                ' ', c.delete_columns)
            WHEN 'p' THEN (SELECT concat(i.indnkeyatts, ' ', i.indkey) FROM indexes i WHERE i.indexrelid = c.conindid)
            WHEN 'u' THEN (SELECT concat(i.indnkeyatts, ' ', i.indkey, CASE WHEN i.nulls_not_distinct THEN ' NULLS NOT DISTINCT' END)
                FROM indexes i WHERE i.indexrelid = c.conindid)
            ELSE pg_get_constraintdef(c.oid) END,
        CASE WHEN c.contype <> 'x' AND c.condeferrable THEN 'DEFERRABLE' END,
        CASE WHEN c.contype <> 'x' AND c.condeferred THEN 'INITIALLY DEFERRED' END,
        CASE WHEN c.contype <> 'x' AND NOT c.convalidated THEN 'NOT VALID' END,
        CASE WHEN c.not_enforced THEN 'NOT ENFORCED' END)
    FROM constraints c
    WHERE c.contype IN ('c', 'f', 'p', 'u', 'x') AND c.conparentid = 0
    UNION ALL
    SELECT 'i', i.indexrelid::regclass::text, 'object', i.relation::regclass::text, pg_get_indexdef(i.indexrelid, 0, true)
        || CASE WHEN i.indisreplident THEN ' REPLICA IDENTITY' ELSE '' END
        || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
    FROM indexes i
    WHERE NOT EXISTS (SELECT FROM constraints c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT 'trigger', t.tgname, 'object', t.relname, concat_ws(' ', pg_get_triggerdef(t.oid, true),
        CASE t.tgenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END)
    FROM triggers t
    UNION ALL
    SELECT r.relkind::text, r.relname, 'rule', w.rulename, pg_get_ruledef(w.oid, true)
    FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'
    WHERE r.relhasrules
    UNION ALL
    SELECT r.relkind::text, r.relname, 'policy', p.polname, concat_ws(' ', p.polpermissive, p.polcmd,
        (SELECT string_agg(CASE role WHEN 0 THEN 'public' ELSE pg_get_userbyid(role)::text END, ', ' ORDER BY role)
            FROM unnest(p.polroles) role),
        pg_get_expr(p.polqual, p.polrelid), 'CHECK ' || pg_get_expr(p.polwithcheck, p.polrelid))
    FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
    WHERE r.relkind IN ('r', 'p')
    UNION ALL
    SELECT 'type', t.typname, 'object', '', concat_ws(' ',
        CASE t.typtype
            WHEN 'e' THEN 'ENUM ' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                FROM pg_enum e WHERE e.enumtypid = t.oid)
            WHEN 'd' THEN 'DOMAIN ' || format_type(t.typbasetype, t.typtypmod)
            WHEN 'r' THEN 'RANGE ' || (SELECT format_type(g.rngsubtype, NULL) FROM pg_range g WHERE g.rngtypid = t.oid)
            WHEN 'c' THEN 'COMPOSITE ' || (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
                FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
            ELSE 'TYPE ' || t.typtype::text END,
        CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || t.typdefault,
        (SELECT string_agg(pg_get_constraintdef(c.oid, true), ' ' ORDER BY pg_get_constraintdef(c.oid, true))
            FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c'))
    FROM own JOIN types t ON t.oid = own.objid
    WHERE own.classid = 'pg_type'::regclass AND t.typtype <> 'm'
    UNION ALL
    SELECT 'function', p.proname, p.prokind::text, pg_get_function_identity_arguments(p.oid), concat_ws(' ',
        pg_get_function_arguments(p.oid), 'RETURNS', pg_get_function_result(p.oid),
        'LANGUAGE', (SELECT l.lanname FROM pg_language l WHERE l.oid = p.prolang), p.provolatile,
        CASE WHEN p.proisstrict THEN 'STRICT' END, CASE WHEN p.prosecdef THEN 'SECURITY DEFINER' END,
        CASE WHEN p.proleakproof THEN 'LEAKPROOF' END, p.proparallel, p.procost, p.prorows,
        -- A function that sets its search_path to its own schema has the schema's name in its settings.
        (SELECT string_agg({setting}, ' ')
            FROM unnest(p.proconfig) c),
        'AS', p.prosrc, {function_body})
    FROM own JOIN pg_proc p ON p.oid = own.objid
    WHERE own.classid = 'pg_proc'::regclass
    UNION ALL
    SELECT 'extension', e.extname, 'object', '', e.extversion
    FROM members m JOIN pg_extension e ON e.oid = m.objid WHERE m.classid = 'pg_extension'::regclass
    UNION ALL
    SELECT 'statistics', s.stxname, 'object', '', substring(pg_get_statisticsobjdef(s.oid) FROM ' (?:\(.*|ON .*)$')
    FROM own JOIN pg_statistic_ext s ON s.oid = own.objid WHERE own.classid = 'pg_statistic_ext'::regclass
    UNION ALL
    -- An identity is qualified with the schema, also that of its arguments.
    SELECT 'other', i.type, 'object', coalesce(i.name, replace(i.identity, i.schema || '.', '')), ''
    FROM own, pg_identify_object(own.classid, own.objid, 0) i
    WHERE own.classid NOT IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_extension'::regclass,
        'pg_statistic_ext'::regclass)
)
SELECT * FROM facets
