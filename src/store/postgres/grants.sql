-- What gives a schema, its relations and functions back to their owners and to whom they were granted: as statements that pass
-- over what is not there afterwards.
WITH objects AS (
    SELECT 0 AS part, 'SCHEMA' AS kind, format('%I', nspname) AS name, nspowner AS owner, nspacl AS acl FROM pg_namespace WHERE oid = {schema}
    UNION ALL
    SELECT 1, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass::text, relowner, relacl
    FROM pg_class WHERE relnamespace = {schema} AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT 2, 'ROUTINE', oid::regprocedure::text, proowner, proacl FROM pg_proc WHERE pronamespace = {schema}
), statements AS (
    SELECT part, 0 AS step, name, format('ALTER %s %s OWNER TO %I', kind, name, pg_get_userbyid(owner)) AS sql
    FROM objects WHERE kind <> 'SEQUENCE' AND pg_get_userbyid(owner) <> current_user
    UNION ALL
    SELECT part, 1, name, format('GRANT %s ON %s %s TO %s%s', privilege_type, kind, name,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM objects, aclexplode(acl) WHERE grantee <> owner
    UNION ALL
    SELECT 3, 2, '', format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT %s ON %s TO %s', pg_get_userbyid(defaclrole), nspname, privilege_type,
        CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
    FROM pg_default_acl JOIN pg_namespace n ON n.oid = defaclnamespace, aclexplode(defaclacl) WHERE defaclnamespace = {schema}
)
SELECT format('DO $tenantry$ BEGIN EXECUTE %L; EXCEPTION WHEN undefined_object OR undefined_table OR undefined_function OR invalid_schema_name THEN NULL; END $tenantry$', sql) AS value
FROM statements ORDER BY part, step, name
