-- Owners and privileges of a schema's objects, as far as they differ from what creating the objects gives. Each row has
-- a description, which is compared, and the statement that restores it. In the statement `%1$I` stands for the schema;
-- it runs with the schema as search_path.
--
-- Privileges from a role's default privileges that apply to all schemas are left out: no migration granted them.
WITH place AS MATERIALIZED (
    SELECT n.oid, n.nspowner, n.nspacl, {base_owner} AS base_owner,
        -- The role named like the schema belongs to this project only.
        CASE WHEN {with_own_role} THEN NULL ELSE (SELECT r.oid FROM pg_roles r WHERE r.rolname = n.nspname) END AS own_role
    FROM pg_namespace n WHERE n.oid = {schema}
), members AS MATERIALIZED (
    SELECT m.classid, m.objid FROM pg_depend m
    WHERE m.refclassid = 'pg_namespace'::regclass AND m.refobjid = (SELECT oid FROM place)
        -- Members of an extension belong to the extension.
        AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = m.classid AND x.objid = m.objid AND x.deptype = 'e')
), relations AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, owner.relname AS of_table, owner.relkind AS of_kind
    FROM members m JOIN pg_class c ON c.oid = m.objid
    LEFT JOIN pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    LEFT JOIN pg_class owner ON owner.oid = d.refobjid
    WHERE m.classid = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND c.relname NOT IN ('__diesel_schema_migrations', 'tenantry_history')
), objects (part, kind, object, key, detail, keyword, name, acl_type, default_type, owner, acl) AS (
    SELECT 0, 'schema', '', '', '', 'SCHEMA', '%1$I', 'n'::"char", 'n'::"char", nspowner, nspacl FROM place
    UNION ALL
    SELECT 1, coalesce(of_kind, relkind)::text, coalesce(of_table, relname)::text, '',
        -- A sequence that a column owns is reported with its table.
        CASE WHEN of_table IS NOT NULL THEN concat(' on sequence ', relname) ELSE '' END,
        CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, format('%%1$I.%s', replace(quote_ident(relname), '%', '%%')),
        CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", CASE relkind WHEN 'S' THEN 'S' ELSE 'r' END::"char", relowner, relacl
    FROM relations
    UNION ALL
    SELECT 2, 'function', p.proname::text, pg_get_function_identity_arguments(p.oid), '', 'ROUTINE',
        format('%%1$I.%s(%s)', replace(quote_ident(p.proname), '%', '%%'),
            replace(pg_get_function_identity_arguments(p.oid), '%', '%%')),
        'f', 'f', p.proowner, p.proacl
    FROM members m JOIN pg_proc p ON p.oid = m.objid WHERE m.classid = 'pg_proc'::regclass
    UNION ALL
    SELECT 2, 'type', t.typname::text, '', '', 'TYPE', format('%%1$I.%s', replace(quote_ident(t.typname), '%', '%%')),
        'T', 'T', t.typowner, t.typacl
    -- The multirange type of a range type belongs to it.
    FROM members m JOIN pg_type t ON t.oid = m.objid WHERE m.classid = 'pg_type'::regclass AND t.typtype <> 'm'
), privileges AS (
    SELECT o.*, p.is_revoked, p.grantee, p.privilege_type, p.with_option
    FROM objects o CROSS JOIN place CROSS JOIN LATERAL (
        SELECT false AS is_revoked, added.* FROM (
            SELECT g.grantee, g.privilege_type, option.with_option FROM aclexplode(o.acl) g,
                unnest(CASE WHEN g.is_grantable THEN ARRAY[false, true] ELSE ARRAY[false] END) AS option (with_option)
            EXCEPT SELECT grantee, privilege_type, false FROM aclexplode(acldefault(o.acl_type, o.owner))
            EXCEPT SELECT g.grantee, g.privilege_type, g.is_grantable FROM pg_default_acl d, aclexplode(d.defaclacl) g
                WHERE d.defaclrole IN (o.owner, place.nspowner) AND d.defaclnamespace = 0 AND d.defaclobjtype = o.default_type) added
        UNION ALL
        SELECT true, taken.grantee, taken.privilege_type, false FROM (
            SELECT grantee, privilege_type FROM aclexplode(acldefault(o.acl_type, o.owner))
            EXCEPT SELECT grantee, privilege_type FROM aclexplode(o.acl)) taken
        WHERE NOT EXISTS (SELECT FROM pg_default_acl d WHERE d.defaclrole = o.owner AND d.defaclnamespace = 0
                AND d.defaclobjtype = o.default_type
                AND NOT EXISTS (SELECT FROM aclexplode(d.defaclacl) g
                    WHERE g.grantee = taken.grantee AND g.privilege_type = taken.privilege_type))
    ) p
    WHERE o.acl IS NOT NULL AND p.grantee IS DISTINCT FROM place.own_role
), named AS (
    SELECT p.*, CASE p.grantee WHEN 0 THEN 'PUBLIC' WHEN p.owner THEN 'its owner' ELSE pg_get_userbyid(p.grantee)::text END AS who,
        CASE WHEN p.grantee = 0 THEN 'PUBLIC' WHEN p.grantee = base_owner THEN 'CURRENT_USER'
            ELSE replace(quote_ident(pg_get_userbyid(p.grantee)), '%', '%%') END AS to_whom
    FROM privileges p, place
), columns AS (
    SELECT r.relkind, r.relname, a.attname, g.*
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped, place, aclexplode(a.attacl) g
    WHERE g.grantee IS DISTINCT FROM own_role
), later AS (
    SELECT d.defaclrole, CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END AS made, g.*
    FROM members m JOIN pg_default_acl d ON d.oid = m.objid, place, aclexplode(d.defaclacl) g
    WHERE m.classid = 'pg_default_acl'::regclass AND g.grantee IS DISTINCT FROM own_role
)
SELECT kind, object, key, concat('owner ', pg_get_userbyid(owner)) AS description,
    format('ALTER %s %s OWNER TO %s', keyword, name, replace(quote_ident(pg_get_userbyid(owner)), '%', '%%')) AS statement, part, 0 AS step
FROM objects, place WHERE owner <> base_owner AND detail = ''
UNION ALL
SELECT kind, object, key, concat(CASE WHEN is_revoked THEN 'revoke ' ELSE 'grant ' END, privilege_type, detail,
        CASE WHEN is_revoked THEN ' from ' ELSE ' to ' END, who, CASE WHEN with_option THEN ' with grant option' END),
    CASE WHEN is_revoked THEN format('REVOKE %s ON %s %s FROM %s', privilege_type, keyword, name, to_whom)
        ELSE format('GRANT %s ON %s %s TO %s%s', privilege_type, keyword, name, to_whom, CASE WHEN with_option THEN ' WITH GRANT OPTION' END) END,
    part, 1
FROM named
UNION ALL
SELECT relkind::text, relname::text, '', concat('grant ', privilege_type, ' (', attname, ') to ',
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END, CASE WHEN is_grantable THEN ' with grant option' END),
    format('GRANT %s (%s) ON TABLE %%1$I.%s TO %s%s', privilege_type, replace(quote_ident(attname), '%', '%%'), replace(quote_ident(relname), '%', '%%'),
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE replace(quote_ident(pg_get_userbyid(grantee)), '%', '%%') END,
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END),
    1, 2
FROM columns
UNION ALL
SELECT 'schema', '', '', concat('grant ', privilege_type, ' on later ', lower(made), CASE WHEN defaclrole <> base_owner THEN ' of ' || pg_get_userbyid(defaclrole) END,
        ' to ', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END, CASE WHEN is_grantable THEN ' with grant option' END),
    format('ALTER DEFAULT PRIVILEGES%s IN SCHEMA %%1$I GRANT %s ON %s TO %s%s',
        CASE WHEN defaclrole <> base_owner THEN ' FOR ROLE ' || replace(quote_ident(pg_get_userbyid(defaclrole)), '%', '%%') END, privilege_type, made,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE replace(quote_ident(pg_get_userbyid(grantee)), '%', '%%') END,
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END),
    3, 3
FROM later, place
ORDER BY 6, 7, 5
