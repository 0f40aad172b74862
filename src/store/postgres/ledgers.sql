-- Reads the ledgers of many schemas in one loop on the server, and leaves what it found in two settings of the transaction.
-- A setting is the only place that a read-only transaction has for what it wants to give back, and needs no privilege.
--
-- Each schema is read in a subtransaction that is then thrown away: that lets go of its tables' locks, which the server
-- would else run out of, and one schema that can't be read is just that one's trouble.
DO $tenantry$
DECLARE
    project record;
    queries text[] := ARRAY[{queries}];
    ledger text;
    recorded text;
    ledgers text[] := '{}';
    number int;
    lines text[] := '{}';
    odd text;
BEGIN
    FOR project IN
        SELECT name, n.oid,
            max(c.relkind) FILTER (WHERE c.relname = '__diesel_schema_migrations') AS diesel,
            max(c.relkind) FILTER (WHERE c.relname = 'tenantry_history') AS history,
            max(c.relkind) FILTER (WHERE c.relname = 'alembic_version') AS alembic
        FROM unnest({names}::text[]) WITH ORDINALITY AS wanted (name, position)
        LEFT JOIN pg_namespace n ON n.nspname = name
        LEFT JOIN pg_class c ON c.relnamespace = n.oid
            AND c.relname IN ('__diesel_schema_migrations', 'tenantry_history', 'alembic_version')
        GROUP BY position, name, n.oid
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
            INTO ledger, recorded;
            RAISE EXCEPTION USING ERRCODE = 'TN001';
        EXCEPTION
            WHEN SQLSTATE 'TN001' THEN
                number := array_position(ledgers, ledger);
                IF number IS NULL THEN
                    ledgers := array_append(ledgers, ledger);
                    number := cardinality(ledgers);
                END IF;
                lines := array_append(lines, concat_ws(' ', number, recorded));
            WHEN undefined_column THEN
                lines := array_append(lines, '? ' || SQLERRM);
            WHEN OTHERS THEN
                lines := array_append(lines, concat('! ', SQLSTATE, ' ', SQLERRM));
        END;
    END LOOP;
    PERFORM set_config('tenantry.lines', array_to_string(lines, E'\x1d'), true),
        set_config('tenantry.ledgers', array_to_string(ledgers, E'\x1d'), true);
END $tenantry$
