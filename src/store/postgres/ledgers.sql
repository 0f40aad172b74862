-- Reads the ledgers of many schemas in one loop on the server, and returns the result in a setting of the transaction.
-- A setting is the only place where a read-only transaction can leave a result, and it needs no privilege.
--
-- Each schema is read in a subtransaction that is rolled back. This releases the locks on its tables, of which the
-- server would otherwise run out, and a schema that cannot be read does not affect the others.
DO $tenantry$
DECLARE
    project record;
    queries text[] := ARRAY[{queries}];
    applied text[];
    history text[];
    revisions text[];
    lines text[] := '{}';
    odd text;
BEGIN
    FOR project IN
        -- One subquery for each table, so that the server uses an index instead of scanning the catalog.
        SELECT name, n.oid,
            (SELECT relkind FROM pg_class WHERE relname = '__diesel_schema_migrations' AND relnamespace = n.oid) AS diesel,
            (SELECT relkind FROM pg_class WHERE relname = 'tenantry_history' AND relnamespace = n.oid) AS history,
            (SELECT relkind FROM pg_class WHERE relname = 'alembic_version' AND relnamespace = n.oid) AS alembic
        FROM unnest({names}::text[]) WITH ORDINALITY AS wanted (name, position)
        LEFT JOIN pg_namespace n ON n.nspname = name
        ORDER BY position
    LOOP
        IF project.oid IS NULL THEN
            lines := array_append(lines, '-');
            CONTINUE;
        END IF;
        odd := CASE WHEN project.diesel <> 'r' THEN '__diesel_schema_migrations' WHEN project.history <> 'r' THEN 'tenantry_history'
            WHEN project.alembic <> 'r' THEN 'alembic_version' END;
        IF odd IS NOT NULL THEN
            lines := array_append(lines, '? ' || odd || ' is no table');
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format(queries[1 + (project.diesel IS NOT NULL)::int + 2 * (project.history IS NOT NULL)::int
                + 4 * (project.alembic IS NOT NULL)::int], project.name)
            INTO applied, history, revisions;
            RAISE EXCEPTION USING ERRCODE = 'TN001';
        EXCEPTION
            WHEN SQLSTATE 'TN001' THEN
                lines := array_append(lines, concat('= ', array_to_string(applied, E'\x1e'),
                    E'\x1d', array_to_string(history, E'\x1e'), E'\x1d', array_to_string(revisions, E'\x1e')));
            WHEN undefined_column THEN
                lines := array_append(lines, '? ' || SQLERRM);
            WHEN OTHERS THEN
                lines := array_append(lines, concat('! ', SQLSTATE, ' ', SQLERRM));
        END;
    END LOOP;
    PERFORM set_config('tenantry.ledgers', array_to_string(lines, E'\x1c'), true);
END $tenantry$
