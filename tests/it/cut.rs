//! A connection that is cut at any point of any command: what only reads goes on, what changes a project changes it wholly or not
//! at all, and says so of that project.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::faults::repeated;
use crate::world::World;

/// Stands between a command and the server, and cuts all connections once, after so many messages from the command.
struct Proxy {
    folder: TempDir,
    wire: Arc<Wire>,
}

struct Wire {
    server: PathBuf,
    seen: AtomicI64,
    /// After how many messages it cuts; never, where it is less than one.
    cut_after: AtomicI64,
    open: Mutex<Vec<UnixStream>>,
}

impl Proxy {
    fn new(server: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let server = server.join(".s.PGSQL.5432");
        let wire =
            Wire { server, seen: AtomicI64::new(0), cut_after: AtomicI64::new(-1), open: Mutex::default() };
        let wire = Arc::new(wire);
        let of_listener = Arc::clone(&wire);
        // It ends with the test's process: nothing connects once the folder is gone.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                of_listener.carry(client);
            }
        });
        Self { folder, wire }
    }

    fn seen(&self) -> i64 {
        self.wire.seen.load(Ordering::SeqCst)
    }

    /// Counts anew, and cuts after so many.
    fn cut_after(&self, messages: i64) {
        self.wire.seen.store(0, Ordering::SeqCst);
        self.wire.cut_after.store(messages, Ordering::SeqCst);
    }
}

impl Wire {
    fn carry(self: &Arc<Self>, client: UnixStream) {
        let Ok(server) = UnixStream::connect(&self.server) else { return };
        self.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (mut from_server, mut to_client) = (server, client);
        let wire = Arc::clone(self);
        std::thread::spawn(move || {
            pass(&mut from_client, &mut to_server, || {
                let is_cut =
                    wire.seen.fetch_add(1, Ordering::SeqCst) + 1 == wire.cut_after.load(Ordering::SeqCst);
                if is_cut {
                    for stream in wire.open.lock().unwrap().drain(..) {
                        drop(stream.shutdown(std::net::Shutdown::Both));
                    }
                }
                !is_cut
            });
        });
        std::thread::spawn(move || pass(&mut from_server, &mut to_client, || true));
    }
}

/// Passes on what comes, as long as `may`.
fn pass(from: &mut UnixStream, to: &mut UnixStream, mut may: impl FnMut() -> bool) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !may() || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The other side learns of it.
    drop((from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both)));
}

const ONE: (&str, &str) = ("1_one", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);");
const TWO: (&str, &str) =
    ("2_two", "ALTER TABLE notes ADD COLUMN two TEXT;\n-- down\nALTER TABLE notes DROP COLUMN two;");
const THREE: (&str, &str) = (
    "3_three",
    "CREATE INDEX CONCURRENTLY notes_two ON notes (two);\n-- down\nDROP INDEX CONCURRENTLY notes_two;\n\
     -- metadata\nrun_in_transaction = false\n",
);
const FOUR: (&str, &str) = ("4_four", "CREATE TABLE four (id INTEGER);\n-- down\nDROP TABLE four;");

/// Runs a command with a cut at several points, each on a fleet of its own; `may` says with which exit codes it may end, and
/// `finish` brings the fleet to one end whatever happened.
fn cut_at_points(
    original: &World,
    before: &[&[&str]],
    arguments: &[&str],
    may: &[i32],
    finish: &dyn Fn(&World, i32),
) {
    let run = |cut_after: i64| {
        let world = original.copy();
        let proxy = Proxy::new(Path::new(&world.database().socket));
        let socket = proxy.folder.path().display().to_string();
        // All of it at one place: backups belong to that.
        let url = world.url().replace(&world.database().socket, &socket);
        let command = |arguments: &[&str]| {
            let all = [&["--format", "json", "--jobs", "2"], arguments].concat();
            crate::world::Ran::of(&mut world.command_on(&url, &all))
        };
        for arguments in before {
            assert_eq!(command(arguments).code, 0, "{arguments:?}");
        }
        proxy.cut_after(cut_after);
        let ran = command(arguments);
        (proxy.seen(), ran, world)
    };
    let (messages, ran, world) = run(-1);
    assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    finish(&world, 0);
    let points = i64::from(repeated(3)).min(messages);
    for point in 0..points {
        // The same points would be tried in every run of the tests otherwise.
        let cut_after = 1 + (messages * point + i64::from(std::process::id()) % messages) / points;
        let (_, ran, world) = run(cut_after);
        let what = format!("{arguments:?} cut after {cut_after} of {messages}: {}{}", ran.stdout, ran.stderr);
        assert!(may.contains(&ran.code), "{} {what}", ran.code);
        assert!(!ran.stdout.contains("aborted"), "{what}");
        finish(&world, ran.code);
        for id in ["a", "b"] {
            if !(id == "a" && arguments[0] == "drop") {
                assert_eq!(world.query(id, "SELECT text FROM notes"), ["kept"], "{what}");
            }
        }
        world.expect(0, &["status", "--check"]);
        let left = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenantry%'";
        world.expect(0, &["doctor", "--clean"]);
        assert_eq!(world.database().run(&["-c", left]), Vec::<String>::new(), "{what}");
    }
}

/// A fleet at the newest version, or at the first.
fn fleet(is_new: bool) -> World {
    let mut world = World::postgres();
    world.with_migrations(&[ONE]).expect(0, &["create", "a", "b"]);
    for id in ["a", "b"] {
        world.execute(id, "INSERT INTO notes VALUES (1, 'kept')");
    }
    world.with_migrations(&[ONE, TWO, THREE, FOUR]);
    if is_new {
        world.expect(0, &["upgrade-all"]);
    }
    world.wait_until_alone();
    world
}

/// What began outside a transaction may be done in part: its project says so, and the command that it names goes on.
fn upgraded(world: &World, _: i32) {
    for id in ["a", "b"] {
        if world.run(&["upgrade", id]).code != 0 {
            world.execute(id, "DROP INDEX IF EXISTS notes_two");
            world.expect(0, &["stamp", id, "--to", "2", "--force"]);
        }
    }
    world.expect(0, &["upgrade-all"]);
}

#[test]
fn a_cut_connection_costs_no_reader_anything() {
    let world = fleet(true);
    let nothing = |_: &World, _: i32| {};
    for arguments in
        [&["status"][..], &["upgrade-all", "--dry-run"], &["check", "--all"], &["backup", "create", "--all"]]
    {
        cut_at_points(&world, &[], arguments, &[0], &nothing);
    }
    let backup: &[&str] = &["backup", "create", "--all"];
    cut_at_points(&world, &[backup], &["backup", "check", "--all", "--level", "4"], &[0], &nothing);
}

#[test]
fn a_cut_connection_leaves_an_upgrade_done_or_undone() {
    let world = fleet(false);
    cut_at_points(&world, &[], &["upgrade-all"], &[0, 3], &upgraded);
    cut_at_points(&world, &[], &["upgrade-all", "--backup"], &[0, 3], &upgraded);
    cut_at_points(&world, &[], &["upgrade", "a", "--to", "2"], &[0, 3], &upgraded);
}

#[test]
fn a_cut_connection_is_the_trouble_of_the_project_that_is_named() {
    let world = fleet(true);
    let down: &[&str] = &["downgrade", "a", "--to", "3"];
    cut_at_points(&world, &[], down, &[0, 3], &upgraded);
    cut_at_points(&world, &[down], &["stamp", "a", "--to", "3", "--force"], &[0, 3], &upgraded);
    let backup: &[&str] = &["backup", "create", "a"];
    let nothing = |_: &World, _: i32| {};
    cut_at_points(&world, &[backup], &["backup", "restore", "a"], &[0, 3], &nothing);
    cut_at_points(&world, &[backup], &["backup", "restore", "a", "--as", "c"], &[0, 3], &nothing);
    cut_at_points(&world, &[], &["create", "c", "d"], &[0, 3], &nothing);
    cut_at_points(&world, &[], &["drop", "a", "--yes"], &[0, 3], &nothing);
}
