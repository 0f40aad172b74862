//! Several stores as one fleet: folders, or databases. Projects are called by their store and their id.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::cluster::{Database, Server};
use crate::journal::{INDEX, NOTES, run_id};
use crate::world::{World, portable};

on_each_store!(
    each_command_works_on_all_stores_or_those_that_are_named,
    a_plain_id_is_enough_where_there_is_only_one,
    new_projects_go_where_it_is_said,
    backups_and_restores_keep_a_projects_store,
    a_run_over_stores_is_resumed_and_rolled_back_as_one,
    a_fleet_that_gets_a_second_store_keeps_its_backups,
    what_does_not_fit_together_is_refused,
    ids_of_several_stores_in_any_order_are_each_their_own_project,
    a_run_from_before_there_were_several_stores_can_be_rolled_back,
    a_store_with_another_pattern_that_is_added_changes_nothing_for_the_others,
);

/// Three stores of the world's kind.
struct Stores {
    urls: Vec<String>,
    databases: Vec<Database>,
}

const NAMES: [&str; 3] = ["eu1", "eu2", "us1"];

impl Stores {
    fn new(world: &World) -> Self {
        if world.is_postgres() {
            let databases: Vec<Database> = NAMES.iter().map(|_| Database::new()).collect();
            let url =
                |it: &Database| format!("postgres://postgres@:{}/{}?host={}", it.port, it.name, it.socket);
            Self { urls: databases.iter().map(url).collect(), databases }
        } else {
            let urls = NAMES.iter().map(|name| format!("sqlite:{}", world.folder().join(name).display()));
            Self { urls: urls.collect(), databases: Vec::new() }
        }
    }

    fn toml(&self, more: &str) -> String {
        self.toml_of(NAMES.len()) + more
    }

    /// The settings of the first so many stores.
    fn toml_of(&self, count: usize) -> String {
        let stores = NAMES.iter().zip(&self.urls).take(count);
        let stores = stores.map(|(name, url)| format!("[[stores]]\nname = \"{name}\"\nurl = \"{url}\"\n"));
        stores.collect::<Vec<_>>().concat()
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.databases.iter().for_each(Database::drop);
        }
    }
}

/// Writes the settings of a fleet of three stores. The world's own store is not used.
fn combined(world: &mut World, more: &str) -> Stores {
    let stores = Stores::new(world);
    std::fs::write(world.folder().join("tenantry.toml"), stores.toml(more)).unwrap();
    world.with_migrations(&[NOTES]);
    world.without_store();
    stores
}

fn each_command_works_on_all_stores_or_those_that_are_named(world: &mut World) {
    let _stores = combined(world, "");
    world.expect(0, &["create", "eu1/1", "eu1/2", "eu2/1", "us1/3"]);
    let list = world.expect(0, &["list"]);
    let ids: Vec<&str> = list.events("project").iter().map(|it| it["project"].as_str().unwrap()).collect();
    assert_eq!(ids, ["eu1/1", "eu1/2", "eu2/1", "us1/3"]);
    world.with_migrations(&[NOTES, INDEX]);
    let dry = world.expect(0, &["upgrade-all", "--dry-run"]);
    assert_eq!((dry.count("planned"), dry.events("run_started").len()), (4, 1));
    assert_eq!(world.expect(0, &["--store", "eu1", "upgrade-all", "--dry-run"]).count("planned"), 2);
    let two = world.expect(0, &["--store", "eu2", "--store", "us1", "upgrade-all"]);
    assert_eq!(
        (two.outcome("eu2/1"), two.outcome("us1/3"), two.count("upgraded")),
        ("upgraded", "upgraded", 2)
    );
    // There is one journal, whichever stores are meant.
    assert_eq!(world.expect(0, &["runs", "show", &run_id(&two)]).outcome("us1/3"), "upgraded");
    let all = world.expect(0, &["upgrade-all"]);
    assert_eq!((all.count("upgraded"), all.count("up_to_date")), (2, 2));
    let shown = world.expect(0, &["runs", "show", &run_id(&all)]);
    assert_eq!(shown.outcome("eu1/2"), "upgraded");
    for command in
        [&["status"][..], &["check", "--all"], &["analyze", "--all"], &["schema", "drift", "--all"]]
    {
        assert_eq!(world.expect(0, command).events("project_finished").len(), 4, "{command:?}");
    }
    assert_eq!(world.expect(0, &["status", "--only", "eu*"]).events("project_finished").len(), 3);
    assert_eq!(world.expect(0, &["status", "--only", "1"]).events("project_finished").len(), 2);
    assert_eq!(world.expect(0, &["status", "--except", "eu1/*"]).events("project_finished").len(), 2);
    let export = world.run(&["export", "us1/3"]);
    assert!(export.code == 0 && export.stdout.contains("notes"), "{}", export.stderr);
    std::fs::write(world.folder().join("3.sql"), &export.stdout).unwrap();
    assert_eq!(world.expect(0, &["import", "eu2/30", "3.sql"]).outcome("eu2/30"), "created");
    assert_eq!(world.expect(0, &["rehearse", "--all"]).count("up_to_date"), 5);
    let doctor = world.run(&["doctor"]);
    assert!(doctor.code == 0 && NAMES.iter().all(|name| doctor.stdout.contains(name)), "{}", doctor.stdout);
    assert_eq!(world.expect(0, &["drop", "us1/3", "--yes"]).outcome("us1/3"), "dropped");
    assert_eq!(world.run(&["--store", "asia", "status"]).code, 2);
    let missing = world.run(&["export", "eu1/99"]);
    assert!(missing.code != 0 && missing.stderr.contains("eu1/99"), "{}", missing.stderr);
    let unknown = world.run(&["status", "asia/1"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("no store is called asia"), "{}", unknown.stderr);
}

fn a_plain_id_is_enough_where_there_is_only_one(world: &mut World) {
    let _stores = combined(world, "");
    world.expect(0, &["create", "eu1/1", "eu2/1", "us1/3"]);
    world.with_migrations(&[NOTES, INDEX]);
    let report = world.expect(0, &["upgrade", "3"]);
    assert_eq!(report.outcome("us1/3"), "upgraded");
    let both = world.run(&["upgrade", "1"]);
    assert!(both.code == 2 && both.stderr.contains("1 can be eu1/1 or eu2/1"), "{}", both.stderr);
    let none = world.expect(3, &["upgrade", "9"]);
    assert_eq!(none.error("9").0, "not_found");
    assert_eq!(world.expect(0, &["upgrade-all", "--canary", "3", "--dry-run"]).count("up_to_date"), 1);
    assert_eq!(world.expect(0, &["backup", "create", "3"]).outcome("us1/3"), "backed_up");
    assert_eq!(world.expect(0, &["backup", "check", "3"]).outcome("us1/3"), "verified");
}

fn new_projects_go_where_it_is_said(world: &mut World) {
    let stores = combined(world, "");
    let refused = world.run(&["create", "7"]);
    assert!(
        refused.code == 2 && refused.stderr.contains("the stores are eu1, eu2, us1"),
        "{}",
        refused.stderr
    );
    assert_eq!(world.expect(0, &["create", "7", "--in", "eu2"]).outcome("eu2/7"), "created");
    assert_eq!(world.run(&["create", "8", "--in", "asia"]).code, 2);
    std::fs::write(world.folder().join("tenantry.toml"), stores.toml("[create]\nplace = \"fewest\"\n"))
        .unwrap();
    let report = world.expect(0, &["create", "8", "9", "10", "11"]);
    let placed = ["eu1/8", "us1/9", "eu1/10", "eu2/11"];
    assert!(placed.iter().all(|id| report.outcome(id) == "created"), "{:?}", report.0);
    let exists = world.run(&["create", "8"]);
    assert!(exists.code != 0 && exists.stderr.contains("eu1/8 exists"), "{}", exists.stderr);
    assert_eq!(world.expect(0, &["create", "us1/8"]).outcome("us1/8"), "created");
}

fn backups_and_restores_keep_a_projects_store(world: &mut World) {
    let _stores = combined(world, "");
    world.expect(0, &["create", "eu1/1", "eu2/1"]);
    let taken = world.expect(0, &["backup", "create", "--all"]);
    let name = taken.project("eu2/1")["backup"].as_str().unwrap().to_string();
    assert!(name.starts_with("eu2.1/"), "{name}");
    assert_eq!(world.expect(0, &["backup", "check", "--all", "--level", "4"]).count("verified"), 2);
    world.expect(0, &["drop", "eu1/1", "--yes", "--no-backup"]);
    assert_eq!(world.expect(0, &["backup", "restore", "eu1/1"]).outcome("eu1/1"), "restored");
    let copied = world.expect(0, &["backup", "restore", "eu2/1", "--as", "us1/5"]);
    assert_eq!(copied.outcome("eu2/1"), "restored");
    let list = world.expect(0, &["list"]);
    assert_eq!(list.events("project").len(), 3);
    assert_eq!(world.expect(0, &["backup", "list", "eu1/1"]).events("backup").len(), 1);
    let other = world.run(&["backup", "restore", "eu1/1", "--from", &name]);
    assert!(other.code != 0, "a backup of another store's project was restored: {}", other.stdout);
}

fn a_run_over_stores_is_resumed_and_rolled_back_as_one(world: &mut World) {
    let _stores = combined(world, "");
    world.expect(0, &["create", "eu1/1", "eu1/2", "eu2/1", "us1/1"]);
    world.with_migrations(&[NOTES, INDEX]);
    let report = world.expect(3, &["upgrade-all", "--canary", "eu2/1", "--gate", "false"]);
    let run = run_id(&report);
    assert_eq!((report.outcome("eu2/1"), report.count("not_started")), ("upgraded", 3));
    // A run of a part of the fleet is not one of the whole.
    let part =
        run_id(&world.expect(3, &["--store", "eu1", "upgrade-all", "--gate", "false", "--canary", "2"]));
    let whole = world.run(&["runs", "resume", &part]);
    assert!(whole.code == 2 && whole.stderr.contains("one of other stores"), "{}", whole.stderr);
    assert_eq!(world.expect(0, &["--store", "eu1", "runs", "rollback", &part]).count("downgraded"), 1);
    // A part of the fleet is another fleet.
    let part = world.run(&["--store", "eu1", "runs", "resume", &run]);
    assert!(part.code == 2 && part.stderr.contains("belongs to another fleet"), "{}", part.stderr);
    let text = std::fs::read_to_string(world.folder().join("tenantry.toml")).unwrap();
    std::fs::write(world.folder().join("tenantry.toml"), text + "[rollout]\ngate = \"\"\n").unwrap();
    assert_eq!(world.expect(3, &["runs", "resume", &run]).count("upgraded"), 0);
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 3);
    let undone = world.expect(0, &["runs", "rollback", &run]);
    assert_eq!((undone.outcome("eu2/1"), undone.count("downgraded")), ("downgraded", 1));
}

fn a_fleet_that_gets_a_second_store_keeps_its_backups(world: &mut World) {
    let stores = Stores::new(world);
    world.with_migrations(&[NOTES]);
    world.without_store();
    let one = format!("[store]\nurl = \"{}\"\n[backup]\ndir = \"kept\"\n", stores.urls[0]);
    std::fs::write(world.folder().join("tenantry.toml"), one).unwrap();
    world.expect(0, &["create", "1"]);
    world.expect(0, &["backup", "create", "1"]);
    std::fs::write(world.folder().join("tenantry.toml"), stores.toml("[backup]\ndir = \"kept\"\n")).unwrap();
    world.expect(0, &["create", "eu2/1"]);
    assert_eq!(world.expect(0, &["backup", "list", "eu1/1"]).events("backup").len(), 1);
    assert!(world.run(&["backup", "list", "eu2/1"]).stderr.contains("no backups of eu2/1"));
    assert_eq!(world.expect(0, &["backup", "check", "eu1/1"]).outcome("eu1/1"), "verified");
    world.expect(0, &["backup", "create", "eu1/1"]);
    assert_eq!(world.expect(0, &["backup", "list", "eu1/1"]).events("backup").len(), 2);
}

fn ids_of_several_stores_in_any_order_are_each_their_own_project(world: &mut World) {
    let _stores = combined(world, "");
    world.expect(0, &["create", "eu1/1", "eu2/1", "eu1/2"]);
    world.with_migrations(&[NOTES, INDEX]);
    world.expect(0, &["upgrade", "eu2/1"]);
    for command in [&["status"][..], &["upgrade", "--dry-run"], &["upgrade"]] {
        let report = world.expect(0, &[command, &["eu1/1", "eu2/1", "eu1/2"]].concat());
        let outcomes = ["eu1/1", "eu2/1", "eu1/2"].map(|id| report.outcome(id));
        let changed = if command == ["upgrade"] { "upgraded" } else { "planned" };
        assert_eq!(outcomes, [changed, "up_to_date", changed], "{command:?}");
    }
}

fn a_run_from_before_there_were_several_stores_can_be_rolled_back(world: &mut World) {
    let stores = Stores::new(world);
    world.with_migrations(&[NOTES]);
    world.without_store();
    let more = "[journal]\ndir = \"trail\"\n";
    let one = format!("[store]\nurl = \"{}\"\n{more}", stores.urls[0]);
    std::fs::write(world.folder().join("tenantry.toml"), one).unwrap();
    world.expect(0, &["create", "1", "2"]);
    world.with_migrations(&[NOTES, INDEX]);
    let run = run_id(&world.expect(0, &["upgrade-all"]));
    std::fs::write(world.folder().join("tenantry.toml"), stores.toml(more)).unwrap();
    let undone = world.expect(0, &["runs", "rollback", &run]);
    assert_eq!((undone.outcome("eu1/1"), undone.count("downgraded")), ("downgraded", 2));
}

fn a_store_with_another_pattern_that_is_added_changes_nothing_for_the_others(world: &mut World) {
    let stores = Stores::new(world);
    world.with_migrations(&[NOTES]);
    world.without_store();
    let two = stores.toml_of(2);
    std::fs::write(world.folder().join("tenantry.toml"), &two).unwrap();
    world.expect(0, &["create", "eu1/1", "eu2/1"]);
    world.with_migrations(&[NOTES, INDEX]);
    let run = run_id(&world.expect(0, &["upgrade-all"]));
    let pattern = world.either("app_{id}.sqlite", "app_{id}");
    let third =
        format!("[[stores]]\nname = \"us1\"\nurl = \"{}\"\npattern = \"{pattern}\"\n", stores.urls[2]);
    std::fs::write(world.folder().join("tenantry.toml"), two + &third).unwrap();
    world.expect(0, &["create", "us1/1"]);
    assert_eq!(world.expect(0, &["runs", "rollback", &run]).count("downgraded"), 2);
    let list = world.run(&["list"]).stdout;
    assert!(list.contains(&pattern.replace("{id}", "1")), "{list}");
}

fn what_does_not_fit_together_is_refused(world: &mut World) {
    let stores = combined(world, "");
    let refused = |text: &str, reason: &str| {
        std::fs::write(world.folder().join("tenantry.toml"), text).unwrap();
        let ran = world.run(&["status"]);
        assert!(ran.code == 2 && ran.stderr.contains(reason), "{text}: {}", ran.stderr);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    };
    let store = |name: &str, url: &str| format!("[[stores]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    let url = &stores.urls[0];
    refused(&(store("eu1", url) + &store("eu1", &stores.urls[1])), "two stores are called eu1");
    refused(&(store("eu1", url) + &store("eu2", url)), "are the same store");
    refused(&(store("eu/1", url)), "a character other than");
    refused(&(store("eu1", url) + "[store]\nurl = \"sqlite:data\"\n"), "exclude each other");
    refused(&(store("a", "sqlite:a") + &store("b", "postgres://u:secret@host/b")), "have different dialects");
    refused("stores = []\n", "no store");
    refused(&(store("eu1", url) + "[create]\nplace = \"any\"\n"), "unknown place");
}

/// With `jobs = 1`, the projects of a store are worked on one after the other, and a store that waits holds up no other.
#[test]
fn each_store_has_a_limit_of_its_own() {
    let mut world = World::sqlite();
    let stores = combined(&mut world, "");
    let text = stores.toml("[run]\nlock_timeout = 0.5\n").replace("url =", "jobs = 1\nurl =");
    std::fs::write(world.folder().join("tenantry.toml"), text).unwrap();
    let ids: Vec<String> =
        NAMES.iter().flat_map(|name| (1..=4).map(move |id| format!("{name}/{id}"))).collect();
    world.expect(0, &[&["create"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    world.with_migrations(&[NOTES, INDEX]);
    let locked = rusqlite::Connection::open(world.folder().join("eu1/project_1.db")).unwrap();
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    let report = world.expect(3, &["upgrade-all"]);
    assert_eq!((report.count("upgraded"), report.error("eu1/1").0), (11, "locked"));
    let events = report.events("project_finished");
    let order: Vec<&str> = events.iter().map(|event| event["project"].as_str().unwrap()).collect();
    let (others, last) = order.split_at(8);
    assert_eq!(last, ["eu1/1", "eu1/2", "eu1/3", "eu1/4"]);
    for name in ["eu2", "us1"] {
        let of_store: Vec<&str> = others.iter().copied().filter(|id| id.starts_with(name)).collect();
        assert_eq!(of_store, [1, 2, 3, 4].map(|id| format!("{name}/{id}")));
    }
}

/// Four servers as one fleet. One of them is stopped while a run is in progress, and comes back later.
#[test]
fn a_server_that_stops_fails_its_projects_and_a_resume_does_them() {
    let projects = 3 * crate::faults::repeated(1) as usize;
    let mut world = World::sqlite();
    let servers: Vec<Server> = (0..4).map(|_| Server::new("", "")).collect();
    let stores = servers.iter().zip(1..).map(|(server, number)| {
        let database = Database::on(&server.socket(), 5432, "template0");
        let socket = server.socket();
        format!(
            "[[stores]]\nname = \"pg{number}\"\nurl = \"postgres://postgres@/{}?host={socket}\"\n",
            database.name
        )
    });
    let settings = stores.collect::<String>() + "[run]\nreconnect_timeout = 1\n";
    std::fs::write(world.folder().join("tenantry.toml"), settings).unwrap();
    world.with_migrations(&[(NOTES.0, &portable(NOTES.1))]);
    world.without_store();
    let ids: Vec<String> =
        (1..=4).flat_map(|server| (1..=projects).map(move |id| format!("pg{server}/{id}"))).collect();
    world.expect(0, &[&["create"], &ids.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    world.with_migrations(&[(NOTES.0, &portable(NOTES.1)), INDEX]);
    // The first wave is one project of each server. Its gate waits until the second server is stopped.
    let pipe = world.folder().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let gate = "test $TENANTRY_WAVE != 1 || read line < go";
    let arguments = [
        "--format",
        "json",
        "upgrade-all",
        "--canary",
        "pg1/1,pg2/1,pg3/1,pg4/1",
        "--gate",
        gate,
        "--max-failures",
        "1000000",
    ];
    let mut child = world.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let mut finished = 0;
    while finished < 4 {
        let event: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        finished += usize::from(event["event"] == "project_finished");
    }
    servers[1].crash();
    std::fs::write(&pipe, "go\n").unwrap();
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let outcomes = &events.last().unwrap()["outcomes"];
    assert_eq!(
        (&outcomes["upgraded"], &outcomes["failed"]),
        (&json!(3 * projects + 1), &json!(projects - 1)),
        "{outcomes}"
    );
    let failed: Vec<&Value> = events.iter().filter(|event| event["outcome"] == "failed").collect();
    assert!(failed.iter().all(|event| event["project"].as_str().unwrap().starts_with("pg2/")), "{failed:?}");
    let run =
        world.run(&["runs", "list"]).stdout.lines().last().unwrap().split(' ').next().unwrap().to_string();
    // While the server is down, its projects are known from the run, and the store is a failure of its own.
    let down = world.expect(3, &["runs", "resume", &run]);
    assert_eq!((down.count("up_to_date"), down.count("failed")), (3 * projects as u64, projects as u64));
    assert_eq!(down.events("store_failed")[0]["store"], "pg2");
    let status = world.expect(3, &["status"]);
    assert_eq!((status.count("up_to_date"), status.events("store_failed").len()), (3 * projects as u64, 1));
    assert_eq!(world.run(&["list"]).code, 3);
    servers[1].start();
    let resumed = world.expect(0, &["runs", "resume", &run]);
    assert_eq!(resumed.count("upgraded"), projects as u64 - 1);
    assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 4 * projects as u64);
}
