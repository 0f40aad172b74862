//! Catalogs with many migrations: on Postgres the schemas of their versions are read when they are needed.

use crate::world::World;

on_each_store!(every_version_of_a_long_catalog_is_compared);

/// More than are read at once.
const COUNT: usize = 40;
/// Runs outside a transaction, so a plan that passes it is committed in parts.
const OUTSIDE: usize = 30;

fn write(world: &mut World, count: usize) {
    let names: Vec<String> = (1..=count).map(|number| format!("{number:02}_m")).collect();
    let script = |number: usize| {
        match number {
        1 => "CREATE TABLE notes (id INTEGER PRIMARY KEY);\n-- down\nDROP TABLE notes;".into(),
        OUTSIDE => {
            "CREATE INDEX notes_a ON notes (a2);\n-- down\nDROP INDEX notes_a;\n-- metadata\nrun_in_transaction = false\n".into()
        }
        // Its down.sql forgets something.
        35 => "CREATE INDEX notes_b ON notes (a3); CREATE INDEX notes_c ON notes (a4);\n-- down\nDROP INDEX notes_b;".into(),
        _ => format!(
            "ALTER TABLE notes ADD COLUMN a{number} INTEGER;\n-- down\nALTER TABLE notes DROP COLUMN a{number};"
        ),
    }
    };
    let scripts: Vec<String> = (1..=count).map(script).collect();
    let migrations: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(scripts.iter().map(String::as_str)).collect();
    world.with_migrations(&migrations);
}

fn every_version_of_a_long_catalog_is_compared(world: &mut World) {
    for (id, count) in
        [("a", 3), ("b", 7), ("drifted", 7), ("c", 20), ("d", 34), ("stamped", 12), ("unknown", 12)]
    {
        write(world, count);
        world.expect(0, &["create", id]);
    }
    world.execute("drifted", "ALTER TABLE notes ADD COLUMN other INTEGER");
    for id in ["stamped", "unknown"] {
        world.execute(id, "DROP TABLE tenantry_history");
        world.execute(id, "DROP TABLE __diesel_schema_migrations");
    }
    world.execute("unknown", "CREATE INDEX other ON notes (a2)");
    write(world, COUNT);
    let dry = world.expect(4, &["upgrade-all", "--dry-run"]);
    assert_eq!((dry.count("planned"), dry.count("blocked")), (5, 2));
    let (code, message) = dry.problem("drifted");
    assert!(
        code == "drifted" && message.contains("07_m: table notes: extra column other"),
        "{code}: {message}"
    );
    let (code, message) = dry.problem("unknown");
    assert!(code == "needs_baseline" && message.contains("closest is 12_m: "), "{code}: {message}");
    assert_eq!(world.expect(0, &["stamp", "stamped"]).outcome("stamped"), "stamped");
    assert_eq!(world.versions("stamped").len(), 12);
    // Stops where nothing was compared before.
    let report = world.expect(0, &["upgrade", "a", "b", "--to", "27"]);
    assert_eq!((report.count("upgraded"), world.versions("b").len()), (2, 27));
    let report = world.expect(4, &["upgrade-all"]);
    assert_eq!((report.count("upgraded"), report.count("blocked")), (5, 2));
    assert_eq!(world.versions("c").len(), COUNT);
    world.expect(0, &["downgrade", "a", "--to", "36"]);
    assert_eq!(world.expect(4, &["downgrade", "a", "--to", "10"]).problem("a").0, "leads_elsewhere");
    world.execute("a", "DROP INDEX notes_c");
    assert_eq!(world.expect(4, &["status", "a"]).problem("a").0, "drifted");
}

/// A migration whose result depends on the rows is found where it is the last one, too.
#[test]
fn the_end_of_a_part_is_compared() {
    let mut world = World::postgres();
    write(&mut world, 15);
    world.expect(0, &["create", "a"]);
    world.execute("a", "INSERT INTO notes VALUES (1)");
    write(&mut world, COUNT);
    let up = world.folder().join("migrations/20_m/up.sql");
    let odd =
        "DO $$ BEGIN IF EXISTS (SELECT FROM notes) THEN CREATE INDEX odd ON notes (a3); END IF; END $$;";
    std::fs::write(&up, format!("{}\n{odd}\n", std::fs::read_to_string(&up).unwrap())).unwrap();
    let report = world.expect(3, &["upgrade", "a", "--to", "20"]);
    let (code, message) = report.error("a");
    assert!(code == "schema_mismatch" && message.contains("odd"), "{code}: {message}");
    assert_eq!(world.versions("a").len(), 15);
}
