//! Retention and checks as a set declares them, `analyze` and `vacuum`.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::world::{Report, World};

on_each_store!(
    old_rows_are_deleted_in_batches_and_a_dry_run_only_counts_them,
    a_batch_that_fails_keeps_the_batches_before_it,
    a_rule_that_names_what_is_not_there_fails_that_project_alone,
    the_ledger_says_whether_rows_may_be_deleted,
    rows_of_a_table_without_row_ids_are_left_and_those_of_partitions_go,
    the_age_can_be_said_and_times_can_be_dates,
    what_must_hold_is_checked_and_the_first_bad_row_named,
    a_long_chain_is_followed_to_its_end,
    rows_that_point_at_nothing_are_found,
    analyze_and_vacuum_leave_a_project_current,
);

const DAY: u64 = 86_400;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn with_rules(world: &World, rules: &str) {
    std::fs::write(world.folder().join("migrations/set.toml"), rules).unwrap();
}

const EVENTS: (&str, &str) = (
    "1_events",
    "CREATE TABLE events (id INTEGER PRIMARY KEY, at BIGINT NOT NULL, kind TEXT NOT NULL DEFAULT 'a');\n\
     CREATE TABLE details (id INTEGER PRIMARY KEY, event_id BIGINT NOT NULL REFERENCES events (id));\n-- down\n\
     DROP TABLE details;\nDROP TABLE events;\n",
);

const RULE: &str = "[[retention]]\ntable = \"events\"\ntime = \"at\"\nunit = \"seconds\"\nage = \"90d\"\n";
const DEPENDENT: &str = "dependents = [{ table = \"details\", column = \"event_id\", references = \"id\" }]\ncondition = \"kind = 'a'\"\n";

/// Inserts `count` rows that are `days` days old, with ids from `first` on.
fn events(world: &World, id: &str, first: usize, count: usize, days: u64, kind: &str) {
    let at = now() - days * DAY;
    let rows: Vec<_> = (first..first + count).map(|number| format!("({number}, {at}, '{kind}')")).collect();
    world.execute(id, &format!("INSERT INTO events (id, at, kind) VALUES {}", rows.join(", ")));
}

fn old_rows_are_deleted_in_batches_and_a_dry_run_only_counts_them(world: &mut World) {
    world.with_migrations(&[EVENTS]);
    let ran = world.run(&["retain", "--all"]);
    assert!(ran.code == 2 && ran.stderr.contains("set.toml"), "{}", ran.stderr);
    with_rules(world, &format!("{RULE}{DEPENDENT}"));
    assert_eq!(world.run(&["retain", "--all"]).code, 6, "an empty fleet was not reported");
    world.expect(0, &["create", "a", "b", "c"]);
    // Old rows for more than two batches, old rows of another kind, and recent rows.
    events(world, "a", 1, 2500, 91, "a");
    events(world, "a", 3001, 7, 91, "b");
    events(world, "a", 4001, 5, 89, "a");
    world.execute("a", "INSERT INTO details (event_id) VALUES (1), (1), (2500), (3001), (4001)");
    events(world, "b", 1, 3, 91, "a");
    let before = world.snapshot();
    let report = world.expect(0, &["retain", "--all", "--dry-run"]);
    assert_eq!(before, world.snapshot(), "a dry run changed something");
    assert_eq!(
        (report.outcome("a"), report.outcome("b"), report.outcome("c")),
        ("planned", "planned", "up_to_date")
    );
    let rows = |report: &Report, id: &str| {
        let of = |table: &str| report.project(id)["rows"][table].as_u64();
        (of("events"), of("details"))
    };
    assert_eq!((rows(&report, "a"), rows(&report, "b")), ((Some(2500), Some(3)), (Some(3), Some(0))));
    let report = world.expect(0, &["retain", "--all"]);
    assert_eq!(
        (report.outcome("a"), report.outcome("b"), report.outcome("c")),
        ("rows_deleted", "rows_deleted", "up_to_date")
    );
    assert_eq!((rows(&report, "a"), rows(&report, "b")), ((Some(2500), Some(3)), (Some(3), Some(0))));
    assert_eq!(world.query("a", "SELECT kind, count(*) FROM events GROUP BY 1 ORDER BY 1"), ["a|5", "b|7"]);
    assert_eq!(world.query("a", "SELECT event_id FROM details ORDER BY 1"), ["3001", "4001"]);
    assert_eq!(world.expect(0, &["retain", "a", "b"]).count("up_to_date"), 2);
    let ran = world.run(&["retain", "--all", "--dry-run", "--older-than", "1d"]);
    assert!(ran.stdout.contains("total of rows to delete: 1 of details, 5 of events"), "{}", ran.stdout);
}

fn a_rule_that_names_what_is_not_there_fails_that_project_alone(world: &mut World) {
    world.with_migrations(&[EVENTS]);
    world.expect(0, &["create", "a", "b"]);
    world.execute("b", "ALTER TABLE events RENAME TO renamed");
    with_rules(world, RULE);
    events(world, "a", 1, 3, 91, "a");
    let report = world.expect(3, &["retain", "--all"]);
    assert_eq!(report.outcome("a"), "rows_deleted");
    let (kind, message) = report.error("b");
    assert!(kind == "schema_mismatch" && message.contains("no table \"events\""), "{kind}: {message}");
    // A column name is never run as SQL and has to match exactly: none of these columns exist.
    for column in ["at\\\" OR 1=1 --", "AT", "ctid", "rowid"] {
        with_rules(world, &RULE.replace("\"at\"", &format!("\"{column}\"")));
        events(world, "a", 1, 3, 91, "a");
        assert_eq!(world.expect(3, &["retain", "a"]).error("a").0, "schema_mismatch", "{column}");
        world.execute("a", "DELETE FROM events");
    }
    // An unknown column in a condition is an error too. SQLite alone would take the quoted name for a string.
    events(world, "a", 1, 3, 91, "a");
    with_rules(world, &format!("{RULE}condition = '\"knd\" <> 1'\n"));
    for arguments in [&["retain", "a", "--dry-run"][..], &["retain", "a"]] {
        let report = world.expect(3, arguments);
        assert!(report.error("a").1.contains("knd"), "{}", report.error("a").1);
    }
    assert_eq!(world.query("a", "SELECT count(*) FROM events"), ["3"]);
    // Errors in the rules are reported with their line, and nothing is deleted.
    with_rules(world, &format!("{RULE}\nconditon = \"kind = 'a'\"\n"));
    let ran = world.run(&["retain", "--all"]);
    assert!(ran.code == 2 && ran.stderr.contains("set.toml:7"), "{}", ran.stderr);
    assert_eq!(world.run(&["retain", "--all", "--older-than", "90"]).code, 2);
}

fn a_batch_that_fails_keeps_the_batches_before_it(world: &mut World) {
    world.with_migrations(&[EVENTS]).expect(0, &["create", "a"]);
    with_rules(world, RULE);
    events(world, "a", 1, 2600, 91, "a");
    world.execute("a", "INSERT INTO details (event_id) VALUES (2400)");
    let ran = world.run(&["retain", "a"]);
    assert!(
        ran.code == 3 && ran.stdout.contains("hint: the rows in the report are deleted"),
        "{}",
        ran.stdout
    );
    assert_eq!(world.query("a", "SELECT count(*), min(id) FROM events"), ["600|2001"]);
    let report = world.expect(3, &["retain", "a"]);
    assert_eq!(report.project("a")["rows"]["events"].as_u64().unwrap_or(0), 0, "{}", report.project("a"));
    world.execute("a", "DELETE FROM details");
    assert_eq!(world.expect(0, &["retain", "a"]).project("a")["rows"]["events"], 600);
}

fn the_ledger_says_whether_rows_may_be_deleted(world: &mut World) {
    const OTHER: (&str, &str) = ("0_other", "CREATE TABLE other (id INTEGER);\n-- down\nDROP TABLE other;\n");
    const LATER: (&str, &str) = ("2_later", "CREATE TABLE later (id INTEGER);\n-- down\nDROP TABLE later;\n");
    world.with_migrations(&[OTHER, EVENTS, LATER]);
    world.expect(0, &["create", "ahead", "behind", "current", "dirty", "drifted", "young"]);
    for id in ["ahead", "behind", "current", "dirty", "drifted"] {
        events(world, id, 1, 3, 91, "a");
    }
    world.expect(0, &["downgrade", "behind", "dirty", "drifted", "--steps", "1"]);
    world.expect(0, &["downgrade", "young", "--steps", "2"]);
    world.with_migrations(&[
        OTHER,
        EVENTS,
        LATER,
        (
            "3_outside",
            "CREATE UNIQUE INDEX kinds ON events (kind);\n-- metadata\nrun_in_transaction = false\n",
        ),
    ]);
    world.expect(3, &["upgrade", "dirty", "--to", "3"]);
    world.with_migrations(&[OTHER, EVENTS]);
    world.execute("drifted", "CREATE TABLE own (id INTEGER)");
    with_rules(world, RULE);
    let before = world.snapshot();
    let report = world.expect(4, &["retain", "--all", "--dry-run"]);
    assert_eq!(before, world.snapshot(), "a dry run changed something");
    let outcomes = |report: &Report| {
        ["ahead", "behind", "current", "dirty", "drifted", "young"].map(|id| report.outcome(id).to_string())
    };
    assert_eq!(outcomes(&report), ["blocked", "planned", "blocked", "blocked", "planned", "up_to_date"]);
    let report = world.expect(4, &["retain", "--all"]);
    assert_eq!(
        outcomes(&report),
        ["blocked", "rows_deleted", "blocked", "blocked", "rows_deleted", "up_to_date"]
    );
    assert_eq!(
        report.project("young")["notes"][0],
        "not at the newest version: table events does not exist yet"
    );
    for (id, count) in [("ahead", "3"), ("behind", "0"), ("current", "3"), ("dirty", "3"), ("drifted", "0")] {
        assert_eq!(world.query(id, "SELECT count(*) FROM events"), [count], "{id}");
    }
}

fn rows_of_a_table_without_row_ids_are_left_and_those_of_partitions_go(world: &mut World) {
    let sql = world.either(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, at BIGINT NOT NULL, kind TEXT) WITHOUT ROWID;",
        "CREATE TABLE events (id INT, at BIGINT NOT NULL, kind TEXT) PARTITION BY LIST (kind);
         CREATE TABLE events_a PARTITION OF events FOR VALUES IN ('a');
         CREATE TABLE events_b PARTITION OF events FOR VALUES IN ('b');",
    );
    world.with_migrations(&[("1_events", sql)]).expect(0, &["create", "a"]);
    with_rules(world, RULE);
    events(world, "a", 1, 1500, 91, "a");
    events(world, "a", 2001, 1500, 91, "b");
    events(world, "a", 4001, 7, 89, "b");
    let (code, outcome, remaining) = world.either((3, "failed", "3007"), (0, "rows_deleted", "7"));
    let report = world.expect(code, &["retain", "a", "--dry-run"]);
    assert_eq!(report.outcome("a"), world.either("failed", "planned"));
    let report = world.expect(code, &["retain", "a"]);
    assert_eq!(report.outcome("a"), outcome);
    if world.is_postgres() {
        assert_eq!(report.project("a")["rows"]["events"], 3000);
    }
    assert_eq!(world.query("a", "SELECT count(*) FROM events"), [remaining]);
}

fn the_age_can_be_said_and_times_can_be_dates(world: &mut World) {
    let time_type = world.either("TEXT", "TIMESTAMPTZ");
    let sql = format!("CREATE TABLE notes (id INTEGER PRIMARY KEY, made {time_type}, seen BIGINT);");
    world.with_migrations(&[("1_notes", &sql)]).expect(0, &["create", "a"]);
    let rule = |time: &str, unit: &str| {
        format!(
            "[[retention]]\ntable = \"notes\"\ntime = \"{time}\"\nunit = \"{unit}\"\nage = \"90d\"\nvariable = \"KEEP_SECONDS\"\n"
        )
    };
    let ago = |days: u64| {
        world.either(format!("datetime('now', '-{days} days')"), format!("now() - interval '{days} days'"))
    };
    let rows = format!(
        "INSERT INTO notes (made, seen) VALUES ({}, {}), ({}, {}), (NULL, NULL)",
        ago(91),
        (now() - 91 * DAY) * 1000,
        ago(9),
        (now() - 9 * DAY) * 1000
    );
    world.execute("a", &rows);
    let counted = |arguments: &[&str], variable: Option<&str>| {
        let mut command =
            world.command(&[&["--format", "json", "retain", "a", "--dry-run"], arguments].concat());
        if let Some(value) = variable {
            command.env("KEEP_SECONDS", value);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Report::of(&output.stdout).project("a")["rows"]["notes"].as_u64().unwrap()
    };
    for (time, unit) in [("made", "timestamp"), ("seen", "milliseconds")] {
        with_rules(world, &rule(time, unit));
        assert_eq!(counted(&[], None), 1, "{unit}");
        assert_eq!(counted(&[], Some("86400")), 2, "{unit}");
        assert_eq!(counted(&["--older-than", "52w"], Some("86400")), 0, "{unit}");
        assert_eq!(counted(&["--older-than", "8d"], None), 2, "{unit}");
    }
    let mut command = world.command(&["retain", "a"]);
    let output = command.env("KEEP_SECONDS", "a while").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.query("a", "SELECT count(*) FROM notes"), ["3"]);
}

fn what_must_hold_is_checked_and_the_first_bad_row_named(world: &mut World) {
    world.with_migrations(&[EVENTS]).expect(0, &["create", "a", "b", "c"]);
    with_rules(
        world,
        "[[check]]\nname = \"an event of an odd kind\"\nquery = \"SELECT id, kind FROM events WHERE kind NOT IN ('a', 'b') ORDER BY id\"\n",
    );
    for id in ["a", "b", "c"] {
        events(world, id, 1, 5, 1, "a");
    }
    let before = world.snapshot();
    assert_eq!(world.expect(0, &["check", "--all"]).count("checked"), 3);
    assert_eq!(before, world.snapshot(), "a check changed something");
    world.execute("b", "UPDATE events SET kind = 'odd' WHERE id IN (3, 4)");
    let report = world.expect(3, &["check", "--all"]);
    assert_eq!((report.outcome("a"), report.outcome("c")), ("checked", "checked"));
    assert_eq!(report.error("b"), ("check_failed", "an event of an odd kind: id = 3, kind = odd"));
    with_rules(world, "[[check]]\nname = \"x\"\nquery = \"SELECT nothing FROM nowhere\"\n");
    assert_eq!(world.expect(3, &["check", "a"]).outcome("a"), "failed");
    assert_eq!(world.run(&["check"]).code, 2);
    assert_eq!(world.expect(3, &["check", "missing"]).error("missing").0, "not_found");
}

fn a_long_chain_is_followed_to_its_end(world: &mut World) {
    const LINKS: (&str, &str) =
        ("1_links", "CREATE TABLE links (seq INTEGER PRIMARY KEY, previous TEXT, said TEXT, hash TEXT);");
    world.with_migrations(&[LINKS]).expect(0, &["create", "a"]);
    with_rules(
        world,
        "[[check]]\nname = \"links\"\nchain = { table = \"links\", order = \"seq\", previous = \"previous\", \
         hash = \"hash\", data = [\"previous\", \"said\"], separator = \":\" }\n",
    );
    let mut previous = String::new();
    let rows: Vec<_> = (1..=3500)
        .map(|seq| {
            let current = hash(&format!("{previous}:said {seq}"));
            format!(
                "({seq}, '{}', 'said {seq}', '{current}')",
                std::mem::replace(&mut previous, current.clone())
            )
        })
        .collect();
    for rows in rows.chunks(500) {
        world.execute("a", &format!("INSERT INTO links VALUES {}", rows.join(", ")));
    }
    world.expect(0, &["check", "a"]);
    // Damages the entries from the last to the first, because a check reports the first damaged one.
    for (sql, message) in [
        ("UPDATE links SET said = 'x' WHERE seq = 3500", "links: seq 3500: the hash does not match the data"),
        ("UPDATE links SET said = NULL WHERE seq = 3001", "links: seq 3001: said is NULL"),
        (
            "DELETE FROM links WHERE seq = 2000",
            "links: seq 2001: the previous hash is not that of the row before",
        ),
        ("UPDATE links SET hash = 'x' WHERE seq = 999", "links: seq 999: the hash does not match the data"),
    ] {
        world.execute("a", sql);
        assert_eq!(world.expect(3, &["check", "a"]).error("a"), ("check_failed", message));
    }
}

fn rows_that_point_at_nothing_are_found(world: &mut World) {
    world.with_migrations(&[EVENTS]).expect(0, &["create", "a", "b"]);
    let off = world.either("PRAGMA foreign_keys = OFF", "SET session_replication_role = replica");
    world.execute("b", &format!("{off}; INSERT INTO details (event_id) VALUES (7), (8)"));
    let report = world.expect(3, &["check", "--all"]);
    assert_eq!(report.outcome("a"), "checked");
    let (kind, message) = report.error("b");
    assert!(
        kind == "check_failed" && message.contains("2 row(s) of details reference missing rows of events"),
        "{message}"
    );
}

fn analyze_and_vacuum_leave_a_project_current(world: &mut World) {
    world.with_migrations(&[
        EVENTS,
        ("2_index", "CREATE INDEX events_kind ON events (kind);\n-- down\nDROP INDEX events_kind;\n"),
    ]);
    world.expect(0, &["create", "a", "b"]);
    events(world, "a", 1, 5000, 1, "a");
    let before = world.snapshot();
    for command in ["analyze", "vacuum"] {
        assert_eq!(world.expect(0, &[command, "--all", "--dry-run"]).count("planned"), 2);
    }
    assert_eq!(before, world.snapshot(), "a dry run changed something");
    assert_eq!(world.expect(0, &["analyze", "--all"]).count("analyzed"), 2);
    let statistics = world.either(
        "SELECT count(*) > 0 FROM sqlite_stat1 WHERE idx = 'events_kind'",
        "SELECT reltuples::int FROM pg_class WHERE oid = 'events'::regclass",
    );
    assert_eq!(world.query("a", statistics), [world.either("1", "5000")]);
    world.execute("a", "DELETE FROM events");
    let size = || std::fs::metadata(world.path("a")).map_or(0, |it| it.len());
    let size_before = if world.is_postgres() { 0 } else { size() };
    assert_eq!(world.expect(0, &["vacuum", "a", "b"]).count("vacuumed"), 2);
    if !world.is_postgres() {
        assert!(size() < size_before / 2, "{} of {size_before}", size());
    }
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 2);
    world.expect(0, &["downgrade", "a", "--steps", "1"]);
}

fn hash(data: &str) -> String {
    Sha256::digest(data).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Appends entries, each (age in seconds, event), to a chain as the application does.
fn chain(world: &World, id: &str, entries: &[(u64, &str)]) {
    let last = world.query(id, "SELECT hash FROM audit_chain ORDER BY seq DESC LIMIT 1");
    let mut previous = last.first().cloned().unwrap_or_else(|| "0".repeat(64));
    let mut sql = String::from("BEGIN;");
    for (ago, event) in entries {
        let (at, payload) = (now() - ago, format!(r#"{{"of":"{id}"}}"#));
        let current = hash(&format!("{previous}:{event}:{payload}:{at}"));
        let insert = format!(
            "INSERT INTO audit_chain (tenant_id, event_type, payload, previous_hash, hash, created_at) \
             VALUES ('t', '{event}', '{payload}', '{previous}', '{current}', {at});"
        );
        sql.push_str(&insert);
        previous = current;
    }
    world.execute(id, &(sql + "COMMIT"));
}

#[test]
fn a_fleet_of_200_keeps_90_days_and_tampered_chains_are_found() {
    let world = World::sqlite().of_set("foundation");
    let ids: Vec<String> = (1..=200).map(|number| number.to_string()).collect();
    world.expect(0, &[vec!["create"], ids.iter().map(String::as_str).collect()].concat());
    let old: Vec<_> = (0..30).map(|_| (91 * DAY, "login")).chain((0..20).map(|_| (DAY, "logout"))).collect();
    for id in &ids {
        chain(&world, id, &old);
        let (expired, recent) = (now() - 91 * DAY, now() - DAY);
        world.execute(id, &format!(
            "INSERT INTO notifications (id, tenant_id, type, read, created_at) VALUES ('a', 't', 'x', 1, {expired}), ('b', 't', 'x', 0, {expired}), ('c', 't', 'x', 1, {recent});
             INSERT INTO planning_runs (id, idea, status, created_at, updated_at) VALUES ('a', 'x', 'deleted', {expired}, {expired}), ('b', 'x', 'completed', {expired}, {expired}), ('c', 'x', 'deleted', {expired}, {recent});
             INSERT INTO planning_artifacts (id, run_id, phase, content, created_at) VALUES ('1', 'a', 'p', 'x', {expired}), ('2', 'a', 'q', 'x', {expired}), ('3', 'b', 'p', 'x', {expired});
             INSERT INTO planning_parked_ideas (id, idea, run_id, created_at) VALUES ('i', 'x', 'a', {expired});"));
    }
    let before = world.snapshot();
    let report = world.expect(0, &["retain", "--all", "--dry-run"]);
    assert_eq!((report.count("planned"), before == world.snapshot()), (200, true));
    let wanted = serde_json::json!({"audit_chain": 30, "notifications": 1, "planning_artifacts": 2, "planning_runs": 1});
    assert!(
        report.events("project_finished").iter().all(|it| it["rows"] == wanted),
        "{}",
        report.project("1")
    );
    let report = world.expect(0, &["retain", "--all"]);
    assert!(
        report
            .events("project_finished")
            .iter()
            .all(|it| it["rows"] == wanted && it["outcome"] == "rows_deleted")
    );
    for id in ["1", "200"] {
        assert_eq!(world.query(id, "SELECT count(*), min(seq) FROM audit_chain"), ["20|31"]);
        assert_eq!(world.query(id, "SELECT id FROM notifications ORDER BY 1"), ["b", "c"]);
        assert_eq!(world.query(id, "SELECT id FROM planning_runs ORDER BY 1"), ["b", "c"]);
        assert_eq!(world.query(id, "SELECT id FROM planning_artifacts"), ["3"]);
        assert_eq!(world.query(id, "SELECT count(*) FROM planning_parked_ideas"), ["1"]);
    }
    // The remaining entries verify from the first one on, also after the application appends another.
    assert_eq!(world.expect(0, &["check", "--all"]).count("checked"), 200);
    chain(&world, "1", &[(0, "login")]);
    world.expect(0, &["check", "1"]);
    world.execute("17", "UPDATE audit_chain SET payload = '{\"of\":\"18\"}' WHERE seq = 40");
    world.execute("60", "DELETE FROM audit_chain WHERE seq = 35");
    world.execute("61", "DELETE FROM audit_chain WHERE seq > 45");
    let forged = hash("x:y:z:1");
    world.execute("133", &format!("UPDATE audit_chain SET previous_hash = 'x', event_type = 'y', payload = 'z', created_at = 1, hash = '{forged}' WHERE seq = 44"));
    let report = world.expect(3, &["check", "--all"]);
    assert_eq!((report.count("checked"), report.count("failed")), (196, 4));
    for (id, message) in [
        ("17", "the audit chain: seq 40: the hash does not match the data"),
        ("60", "the audit chain: seq 36: the previous hash is not that of the row before"),
        ("61", "the audit chain has lost its newest entries: last_written = 50"),
        ("133", "the audit chain: seq 44: the previous hash is not that of the row before"),
    ] {
        assert_eq!(report.error(id), ("check_failed", message));
    }
}

#[test]
fn a_chain_loses_entries_from_its_front_only_and_never_the_newest() {
    let world = World::sqlite().of_set("foundation");
    world.expect(0, &["create", "a", "b"]);
    // The clock went back: the third entry is older than the second.
    chain(&world, "a", &[(100 * DAY, "a"), (10 * DAY, "b"), (100 * DAY, "c"), (DAY, "d")]);
    chain(&world, "b", &[(100 * DAY, "a"), (99 * DAY, "b"), (98 * DAY, "c")]);
    world.expect(0, &["retain", "--all"]);
    assert_eq!(world.query("a", "SELECT seq FROM audit_chain ORDER BY 1"), ["2", "3", "4"]);
    assert_eq!(world.query("b", "SELECT seq FROM audit_chain"), ["3"]);
    chain(&world, "b", &[(0, "d")]);
    assert_eq!(world.expect(0, &["check", "--all"]).count("checked"), 2);
}
