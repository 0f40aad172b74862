-- Reads the ledgers of many schemas in one loop on the server, and leaves what it found in a setting of the transaction.
-- A setting is the only place that a read-only transaction has for what it wants to give back, and needs no privilege.
--
-- Each schema is read in a subtransaction that is then thrown away: that lets go of its tables' locks, which the server
-- would else run out of, and one schema that can't be read is just that one's trouble.
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
        -- Each by itself, so that the server goes by an index instead of reading all of the catalog.
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
