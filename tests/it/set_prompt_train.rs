//! The complete schema of the set `prompt-train`, compared with what its application specifies.

use crate::world::World;

/// Every object of the project's schema, one per line. `tests/fixtures/prompt-train.txt` has the lines that the
/// application's specification requires.
const EVERYTHING: &str = r"
WITH relations AS (SELECT oid, relname, relkind FROM pg_class WHERE relnamespace = 'project_a'::regnamespace
    AND relkind IN ('r', 'm') AND relname NOT IN ('__diesel_schema_migrations', 'tenantry_history'))
SELECT line FROM (
    SELECT relname AS name, 1 AS part, attnum::int AS position, format('%s: %s %s%s', relname, attname, format_type(atttypid, atttypmod),
        CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END || coalesce(' = ' || pg_get_expr(adbin, adrelid), '')) AS line
    FROM relations JOIN pg_attribute a ON attrelid = relations.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    UNION ALL
    SELECT relname, 2, 0, format('%s: %s', relname, pg_get_constraintdef(c.oid)) FROM relations
    JOIN pg_constraint c ON conrelid = relations.oid AND contype IN ('c', 'f', 'p', 'u')
    UNION ALL
    SELECT relname, 3, 0, format('%s: %s', relname, regexp_replace(pg_get_indexdef(indexrelid), '^CREATE ', '')) FROM relations
    JOIN pg_index ON indrelid = relations.oid AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    UNION ALL
    SELECT relname, 4, 0, format('%s: %s', relname, pg_get_triggerdef(t.oid)) FROM relations
    JOIN pg_trigger t ON tgrelid = relations.oid AND NOT tgisinternal
    UNION ALL
    SELECT relname, 5, 0, format('%s: view of %s', relname, regexp_replace(pg_get_viewdef(oid), '\s+', ' ', 'g')) FROM relations WHERE relkind = 'm'
    UNION ALL
    SELECT relname, 6, objsubid, format('%s: comment%s: %s', relname,
        (SELECT ' on ' || attname FROM pg_attribute WHERE attrelid = objoid AND attnum = objsubid AND attnum > 0), description)
    FROM relations JOIN pg_description ON objoid = relations.oid AND classoid = 'pg_class'::regclass
    UNION ALL
    SELECT enumtypid::regtype::text, 0, 0, format('type %s: %s', enumtypid::regtype, string_agg(enumlabel, ', ' ORDER BY enumsortorder))
    FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid AND typnamespace = 'project_a'::regnamespace GROUP BY enumtypid
) lines ORDER BY name, part, position, line";

#[test]
fn prompt_train_has_what_its_system_says() {
    let world = World::postgres().of_set("prompt-train");
    world.expect(0, &["create", "a"]);
    let versions: Vec<_> = (0..=14).map(|number| format!("{number:03}")).collect();
    assert_eq!(world.versions("a"), versions);
    let found = world.query("a", EVERYTHING).join("\n").replace("project_a.", "");
    // Newer servers omit the table's name in a view of one table.
    let found = found.replace("api_requests.", "");
    let wanted = include_str!("../fixtures/prompt-train.txt");
    for (found, wanted) in found.lines().zip(wanted.lines()) {
        assert_eq!(found, wanted);
    }
    assert_eq!(found.lines().count(), wanted.lines().count(), "{found}");
}
