-- The catalog rows of one schema, as they are stored. The server does not format them as SQL, which would take most of
-- the time of reading a schema. catalog_rows.rs decides when the rows of two schemas mean the same.
--
-- A schema's members are found through pg_depend, which has an index for this. pg_class has none on the schema alone,
-- and reading all of it for each schema would make the work for a fleet grow with the square of its size. For the same
-- reason each catalog is queried by an array of OIDs; an empty array reads nothing.
--
-- `hash` shows whether a row changed: any change gives the row another xmin, except for what autovacuum and ANALYZE
-- write in place. It is null if another row changes whenever this one does.
--
-- `objects` are OIDs, the row's own first if it has one. They remain numbers, because converting them to text takes
-- longer than reading them.
--
-- `what`, `name` and `body` are text. `tree` is an expression as the server stores it. `access` lists the privileges,
-- one on each line, and the owner if it is not the schema's owner.
--
-- A row with `odd` in `what` is of a kind that this query does not convert_error.
--
-- The parts between double braces are removed if only the hashes are needed: after any schema is renamed the server
-- analyzes the query again, which takes time.
WITH place AS MATERIALIZED (
    SELECT oid, nspowner, nspacl FROM pg_namespace WHERE oid = {schema}
), members AS MATERIALIZED (
    SELECT array_agg(objid) FILTER (WHERE classid = 'pg_class'::regclass) AS relations,
        array_agg(objid) FILTER (WHERE classid = 'pg_type'::regclass) AS types,
        array_agg(objid) FILTER (WHERE classid = 'pg_proc'::regclass) AS functions,
        array_agg(objid) FILTER (WHERE classid = 'pg_default_acl'::regclass) AS defaults,
        -- Publications are not part of a schema.
        array_agg(objid) FILTER (WHERE classid NOT IN
            ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_default_acl'::regclass,
            {publications})) AS others
    FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = (SELECT oid FROM place)
), found AS MATERIALIZED (
    SELECT oid, xmin AS written, relkind, relhasindex, relhastriggers, relhasrules{{, relowner, relacl, reltype, reloftype, relpersistence, relrowsecurity,
        relforcerowsecurity, relreplident, relispartition, relname, reloptions}}
    FROM pg_class
    WHERE oid = ANY ((SELECT relations FROM members)::oid[])
        AND relname NOT IN ('__diesel_schema_migrations', 'tenantry_history')
), relations AS MATERIALIZED (
    SELECT array_agg(oid) FILTER (WHERE relkind <> 'S') AS tables,
        array_agg(oid) FILTER (WHERE relkind = 'S') AS sequences,
        array_agg(oid) FILTER (WHERE relhasindex) AS indexed,
        array_agg(oid) FILTER (WHERE relhastriggers) AS triggered,
        array_agg(oid) FILTER (WHERE relhasrules) AS ruled
    FROM found
), indexes AS MATERIALIZED (
    SELECT xmin AS written, indexrelid{{, indrelid, indisunique, indisvalid, indisreplident, {nulls_not_distinct} AS nulls_not_distinct,
        indnkeyatts, indnatts, indkey, indclass, indcollation, indoption, indexprs, indpred}}
    FROM pg_index i WHERE i.indrelid = ANY ((SELECT indexed FROM relations)::oid[])
), types AS MATERIALIZED (
    SELECT oid, xmin AS written, typtype, typrelid{{, typarray, typname, typowner, typacl}}
    FROM pg_type WHERE oid = ANY ((SELECT types FROM members)::oid[])
)
{select} FROM (
    SELECT {hash c.written of c.oid} AS hash{{, ARRAY[c.oid, c.reltype, c.reloftype] AS objects,
        CASE WHEN c.relispartition THEN 'odd' ELSE concat_ws(' ', 'relation', c.relkind, c.relpersistence, c.relrowsecurity,
            c.relforcerowsecurity, c.relreplident, c.relhasrules) END AS what,
        c.relname::text AS name, c.reloptions::text AS body, NULL::text AS tree, {access relowner relacl of c} AS access}}
    FROM found c
    UNION ALL
    SELECT {hash c.xmin of c.oid}{{, ARRAY[c.oid, 0, c.relam], concat_ws(' ', 'relation', c.relkind),
        c.relname::text, c.reloptions::text, NULL, NULL}}
    FROM pg_class c WHERE c.oid = ANY ((SELECT array_agg(indexrelid) FROM indexes)::oid[])
    UNION ALL
    SELECT {hash a.xmin of a.attnum}{{, ARRAY[a.attrelid, a.atttypid, a.attcollation],
        concat_ws(' ', 'column', a.attnum, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated, a.atthasdef, a.attisdropped),
        a.attname::text, NULL, NULL, array_to_string(a.attacl, E'\n')}}
    FROM pg_attribute a
    WHERE a.attnum > 0
        AND a.attrelid = ANY ((SELECT tables || (SELECT array_agg(typrelid) FROM types WHERE typtype = 'c') FROM relations)::oid[])
    UNION ALL
    {{-- The row of its column changes whenever this one does.
    SELECT NULL, ARRAY[d.adrelid], concat('default ', d.adnum), NULL, NULL, d.adbin::text, NULL
    FROM pg_attrdef d WHERE d.adrelid = ANY ((SELECT tables FROM relations)::oid[])
    UNION ALL
    }}SELECT {hash i.written of i.indexrelid}{{, ARRAY[i.indexrelid, i.indrelid],
        concat_ws(' ', 'index', i.indisunique, i.indisvalid, i.indisreplident,
            i.nulls_not_distinct, i.indnkeyatts, i.indnatts, i.indkey, 'opclasses', i.indclass, 'collations', i.indcollation,
            'options', i.indoption),
        -- The built-in operator classes for B-trees have no parameters.
        NULL, (SELECT string_agg(concat(a.attnum, ' ', a.attoptions), ' ' ORDER BY a.attnum) FROM pg_attribute a
            WHERE a.attrelid = i.indexrelid AND a.attoptions IS NOT NULL
                AND (EXISTS (SELECT FROM pg_class c WHERE c.oid = i.indexrelid AND c.relam <> 403)
                    OR EXISTS (SELECT FROM unnest(i.indclass) class WHERE class >= 16384))),
        concat_ws(' ', i.indexprs, 'where', i.indpred), NULL}}
    FROM indexes i
    UNION ALL
    SELECT {hash c.xmin of c.oid}{{, ARRAY[c.oid, c.conrelid, c.conindid, c.confrelid, c.conparentid],
        concat_ws(' ', 'constraint', c.contype, c.condeferrable, c.condeferred, c.convalidated, c.confupdtype, c.confdeltype,
            c.confmatchtype, c.connoinherit, {not_enforced}, c.conkey, 'to', c.confkey, 'delete', {delete_columns}, 'by', c.conexclop),
        c.conname::text, NULL, c.conbin::text, NULL}}
    FROM pg_constraint c WHERE c.conrelid = ANY ((SELECT tables FROM relations)::oid[])
    UNION ALL
    SELECT {hash t.xmin of t.oid}{{, ARRAY[t.tgrelid, t.tgfoid, t.tgconstrrelid, t.tgparentid],
        concat_ws(' ', 'trigger', t.tgtype, t.tgenabled, t.tgdeferrable, t.tginitdeferred, t.tgconstraint <> 0, t.tgattr),
        t.tgname::text, jsonb_build_array(encode(t.tgargs, 'hex'), t.tgoldtable, t.tgnewtable)::text, t.tgqual::text, NULL}}
    FROM pg_trigger t WHERE t.tgrelid = ANY ((SELECT triggered FROM relations)::oid[]) AND NOT t.tgisinternal
    UNION ALL
    SELECT {hash r.xmin of r.oid}{{, ARRAY[r.ev_class],
        concat_ws(' ', 'rule', r.ev_type, r.ev_enabled, r.is_instead), r.rulename::text, NULL,
        concat_ws(' ', r.ev_qual, 'do', r.ev_action), NULL}}
    -- The server may scan a small catalog completely; the first condition avoids this if no relation has rules.
    FROM pg_rewrite r
    WHERE (SELECT ruled FROM relations) IS NOT NULL AND r.ev_class = ANY ((SELECT ruled FROM relations)::oid[])
    UNION ALL
    SELECT {hash s.xmin of s.seqrelid}{{,
        -- The column that the sequence belongs to, and the type of the dependency.
        ARRAY[s.seqrelid, s.seqtypid] || (SELECT ARRAY[d.refobjid, d.refobjsubid, d.deptype::int]::oid[] FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.objsubid = 0
                AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')),
        concat_ws(' ', 'sequence', s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle), NULL, NULL, NULL, NULL}}
    FROM pg_sequence s WHERE s.seqrelid = ANY ((SELECT sequences FROM relations)::oid[])
    UNION ALL
    SELECT {hash h.xmin of h.inhparent}{{, ARRAY[h.inhrelid, h.inhparent], concat('inherits ', h.inhseqno), NULL, NULL, NULL, NULL}}
    FROM pg_inherits h WHERE h.inhrelid = ANY ((SELECT tables FROM relations)::oid[])
    UNION ALL
    SELECT {hash p.xmin of p.oid}{{, '{}', 'odd', NULL, NULL, NULL, NULL}}
    FROM pg_policy p WHERE p.polrelid = ANY ((SELECT tables FROM relations)::oid[])
    UNION ALL
    SELECT CASE WHEN t.typtype = 'd'
            THEN hashtextextended(concat(t.written, (SELECT string_agg(concat(c.oid, ' ', c.xmin), ' ' ORDER BY c.oid)
                FROM pg_constraint c WHERE c.contypid = t.oid)), t.oid::bigint)
            ELSE {hash t.written of t.oid} END{{, ARRAY[t.oid, t.typarray], CASE t.typtype WHEN 'e' THEN 'enum' ELSE 'odd' END, t.typname::text, NULL, NULL,
        {access typowner typacl of t}}}
    FROM types t
    UNION ALL
    SELECT {hash e.xmin of e.oid}{{, ARRAY[e.oid, e.enumtypid], concat('label ', e.enumsortorder),
        e.enumlabel::text, NULL, NULL, NULL}}
    FROM pg_enum e WHERE e.enumtypid = ANY ((SELECT array_agg(oid) FROM types WHERE typtype = 'e')::oid[])
    UNION ALL
    SELECT {hash p.xmin of p.oid}{{,
        ARRAY[p.oid, p.prorettype, p.provariadic] || p.proargtypes::oid[] || p.proallargtypes,
        CASE WHEN p.prokind = 'a' THEN 'odd' ELSE concat_ws(' ', 'function', p.pronargs, p.prokind, p.prolang, p.procost, p.prorows,
            p.prosecdef, p.proleakproof, p.proisstrict, p.proretset, p.provolatile, p.proparallel, p.pronargdefaults) END,
        p.proname::text,
        -- A function that sets its search_path to its own schema has the schema's name in its settings.
        jsonb_build_array(p.proargmodes, p.proargnames, p.probin, p.prosrc,
            (SELECT jsonb_agg({setting}) FROM unnest(p.proconfig) c))::text,
        concat_ws(' ', p.proargdefaults, 'as', {function_tree}), {access proowner proacl of p}}}
    FROM pg_proc p WHERE p.oid = ANY ((SELECT functions FROM members)::oid[])
    UNION ALL
    SELECT coalesce({hash s.xmin of other}, other::bigint){{, '{}', 'odd', NULL, NULL, NULL, NULL}}
    FROM unnest((SELECT others FROM members)::oid[]) other LEFT JOIN pg_statistic_ext s ON s.oid = other
    UNION ALL
    -- The hash is not made from xmin, which changes when the schema is renamed.
    SELECT hashtextextended(n.nspacl::text, n.oid::bigint){{, '{}', 'schema', NULL, NULL, NULL, array_to_string(n.nspacl, E'\n')}}
    FROM place n WHERE n.nspacl IS NOT NULL
    UNION ALL
    SELECT {hash d.xmin of d.oid}{{, '{}', concat_ws(' ', 'later', d.defaclobjtype, CASE WHEN d.defaclrole <> place.nspowner THEN d.defaclrole END),
        NULL, NULL, NULL, array_to_string(d.defaclacl, E'\n')}}
    FROM pg_default_acl d, place WHERE d.oid = ANY ((SELECT defaults FROM members)::oid[])
) members
