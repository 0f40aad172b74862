//! Reports: versions in the order of the catalog, complete reports when the disk is full, and errors instead of panics.

use crate::world::World;

on_each_store!(
    versions_are_told_in_the_order_of_the_catalog,
    what_can_not_be_waited_for_is_refused,
    a_stamp_takes_ids_or_patterns,
    checks_of_a_backup_go_by_the_rules_of_the_set,
);

/// `count` migrations. From ten on, their names sort differently from their numbers.
fn numbered(world: &World, count: usize) -> Vec<(String, String)> {
    // In a dialect folder, migrations are ordered by number.
    let folder = world.either("sqlite", "postgres");
    let one = |number: usize| {
        (
            format!("{folder}/{number}_step"),
            format!("CREATE TABLE t{number} (id INTEGER);\n-- down\nDROP TABLE t{number};"),
        )
    };
    (1..=count).map(one).collect()
}

fn with_numbered(world: &mut World, count: usize) {
    let migrations = numbered(world, count);
    let migrations: Vec<(&str, &str)> = migrations.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    world.with_migrations(&migrations);
}

fn versions_are_told_in_the_order_of_the_catalog(world: &mut World) {
    with_numbered(world, 9);
    world.expect(0, &["create", "a"]);
    with_numbered(world, 10);
    let dry = world.run(&["upgrade-all", "--dry-run"]);
    assert!(dry.stdout.contains("would run 10"), "{}", dry.stdout);
    let run = world.run(&["upgrade-all"]);
    assert!(run.stdout.contains("ran 10") && !run.stdout.contains("reverted"), "{}", run.stdout);
    world.expect(0, &["backup", "create", "a"]);
    let list = world.run(&["backup", "list"]);
    assert!(list.stdout.contains("bytes  10  "), "{}", list.stdout);
    let down = world.run(&["downgrade", "a", "--to", "9"]);
    assert!(down.stdout.contains("reverted 10"), "{}", down.stdout);
}

fn what_can_not_be_waited_for_is_refused(world: &mut World) {
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    for arguments in [
        &["--lock-timeout", "3000000", "create", "a"][..],
        &["--lock-timeout", "1e300", "create", "a"],
        &["--statement-timeout", "1e10", "create", "a"],
        &["--lock-timeout", "-1", "create", "a"],
    ] {
        let ran = world.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    world.expect(0, &["--lock-timeout", "2000000", "create", "a"]);
}

fn a_stamp_takes_ids_or_patterns(world: &mut World) {
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]).expect(0, &["create", "1", "2"]);
    assert_eq!(world.run(&["stamp", "1", "2", "--except", "2"]).code, 2);
}

/// An upgrade verifies its backups by the same rules as `backup check`.
fn checks_of_a_backup_go_by_the_rules_of_the_set(world: &mut World) {
    world.with_migrations(&[("1_one", "CREATE TABLE notes (id INTEGER);")]).expect(0, &["create", "a"]);
    let rule = "[[check]]\nname = \"no negative numbers\"\nquery = \"SELECT id FROM notes WHERE id < 0\"\n";
    world.execute("a", "INSERT INTO notes VALUES (-1)");
    world.with_migrations(&[
        ("1_one", "CREATE TABLE notes (id INTEGER);"),
        ("2_two", "CREATE TABLE two (id INTEGER);"),
    ]);
    std::fs::write(world.folder().join("migrations/set.toml"), rule).unwrap();
    // The backup is taken before the upgrade. The rules apply only at the newest version, so they are not evaluated.
    world.expect(0, &["upgrade-all", "--backup=check"]);
    world.with_migrations(&[
        ("1_one", "CREATE TABLE notes (id INTEGER);"),
        ("2_two", "CREATE TABLE two (id INTEGER);"),
        ("3_three", "CREATE TABLE three (id INTEGER);"),
    ]);
    std::fs::write(world.folder().join("migrations/set.toml"), rule).unwrap();
    world.expect(0, &["backup", "create", "a"]);
    let checked = world.run(&["backup", "check", "a", "--level", "3"]);
    assert_eq!(checked.code, 0, "{}", checked.stdout);
    world.expect(0, &["upgrade-all"]);
    world.expect(0, &["backup", "create", "a"]);
    assert_eq!(world.run(&["backup", "check", "a", "--level", "3"]).code, 3);
}

/// A record that a power failure damaged blocks no command.
#[test]
fn a_torn_record_blocks_no_command() {
    let mut world = World::sqlite();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    let report = world.expect(0, &["create", "a"]);
    let run = crate::journal::run_id(&report);
    let path = world.folder().join(format!("data/journal/runs/{run}.jsonl"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([0xff, 0xfe, 0, 0xff]);
    std::fs::write(&path, bytes).unwrap();
    // A killed process leaves this file.
    std::fs::write(path.with_extension("open"), "").unwrap();
    world.expect(0, &["create", "b"]);
    world.expect(0, &["runs", "show", &run]);
}

/// Once the journal cannot be written, no further project is started. Finished projects are reported.
#[test]
fn a_disk_that_fills_up_under_the_journal_stops_a_run() {
    let mut world = World::sqlite();
    world.with_migrations(&[("1_one", "CREATE TABLE one (id INTEGER);")]);
    let ids: Vec<String> = (1..=200).map(|it| it.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let journal = world.folder().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let config = format!("[journal]\ndir = \"{}\"\n", journal.display());
    std::fs::write(world.folder().join("tenantry.toml"), config).unwrap();
    // Runs a command that cannot write files larger than the limit.
    let script = |limit: &str, arguments: &[&str]| {
        let command = world.command(arguments);
        let program = command.get_program().to_owned();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut shell = std::process::Command::new("sh");
        shell
            .current_dir(world.folder())
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"")]);
        shell.arg(program).args(arguments);
        crate::world::Ran::of(&mut shell)
    };
    // The limit is in blocks of 512 bytes. The databases are smaller, the record would be larger.
    let ran = script("64", &[&["--format", "json", "create"], ids.as_slice()].concat());
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    let existing = std::fs::read_dir(world.data()).map_or(0, |entries| {
        entries
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|it| it == "db"))
            .count()
    });
    let reported = ran.stdout.lines().filter(|line| line.contains("\"outcome\":\"created\"")).count();
    assert_eq!(reported, existing, "{}{}", ran.stdout, ran.stderr);
    assert!(existing < 200, "all projects were created without a record");
    // The stopped run is not treated as a killed run afterwards.
    let next = world.expect(0, &["create", "x"]);
    assert!(next.events("killed_run").is_empty(), "{:?}", next.0);
}
