//! Connections cut at any point of a command. Commands that only read continue. Commands that change a project change
//! it completely or not at all, and report the failure for that project.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::faults::repeated;
use crate::world::World;

/// A proxy between a command and the server. Cuts all connections once, after a number of messages from the command.
struct Proxy {
    folder: TempDir,
    wire: Arc<Wire>,
}

struct Wire {
    server: PathBuf,
    /// The number of messages from the command so far.
    message_count: AtomicI64,
    /// The number of messages after which all connections are cut. Never, if less than one.
    cut_after: AtomicI64,
    open: Mutex<Vec<UnixStream>>,
}

impl Proxy {
    fn new(server: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let server = server.join(".s.PGSQL.5432");
        let wire = Wire {
            server,
            message_count: AtomicI64::new(0),
            cut_after: AtomicI64::new(-1),
            open: Mutex::default(),
        };
        let wire = Arc::new(wire);
        let listener_wire = Arc::clone(&wire);
        // The thread ends with the test's process. Nothing connects once the folder is deleted.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                listener_wire.forward(client);
            }
        });
        Self { folder, wire }
    }

    fn message_count(&self) -> i64 {
        self.wire.message_count.load(Ordering::SeqCst)
    }

    /// Resets the count and cuts after this many messages.
    fn cut_after(&self, messages: i64) {
        self.wire.message_count.store(0, Ordering::SeqCst);
        self.wire.cut_after.store(messages, Ordering::SeqCst);
    }
}

impl Wire {
    fn forward(self: &Arc<Self>, client: UnixStream) {
        let Ok(server) = UnixStream::connect(&self.server) else { return };
        self.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (mut from_server, mut to_client) = (server, client);
        let wire = Arc::clone(self);
        std::thread::spawn(move || {
            copy_stream(&mut from_client, &mut to_server, || {
                let is_cut = wire.message_count.fetch_add(1, Ordering::SeqCst) + 1
                    == wire.cut_after.load(Ordering::SeqCst);
                if is_cut {
                    for stream in wire.open.lock().unwrap().drain(..) {
                        drop(stream.shutdown(std::net::Shutdown::Both));
                    }
                }
                !is_cut
            });
        });
        std::thread::spawn(move || copy_stream(&mut from_server, &mut to_client, || true));
    }
}

/// Copies bytes from one stream to the other while `may_forward` returns true.
fn copy_stream(from: &mut UnixStream, to: &mut UnixStream, mut may_forward: impl FnMut() -> bool) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !may_forward() || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // Close both streams, so that both peers notice.
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

/// Runs a command with a cut at several points, each on its own copy of the fleet. The command may end with any of
/// `exit_codes`. `finish` then brings the fleet to the same final state in every case.
fn cut_at_points(
    original: &World,
    before: &[&[&str]],
    arguments: &[&str],
    exit_codes: &[i32],
    finish: &dyn Fn(&World, i32),
) {
    let run = |cut_after: i64| {
        let world = original.copy();
        let proxy = Proxy::new(Path::new(&world.database().socket));
        let socket = proxy.folder.path().display().to_string();
        // All commands use the proxy's URL: a backup belongs to the store that it was taken from.
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
        (proxy.message_count(), ran, world)
    };
    let (messages, ran, world) = run(-1);
    assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    finish(&world, 0);
    let points = i64::from(repeated(3)).min(messages);
    for point in 0..points {
        // Includes the process id, so that each test run cuts at other points.
        let cut_after = 1 + (messages * point + i64::from(std::process::id()) % messages) / points;
        let (_, ran, world) = run(cut_after);
        let what = format!("{arguments:?} cut after {cut_after} of {messages}: {}{}", ran.stdout, ran.stderr);
        assert!(exit_codes.contains(&ran.code), "{} {what}", ran.code);
        assert!(!ran.stdout.contains("aborted"), "{what}");
        finish(&world, ran.code);
        for id in ["a", "b"] {
            if !(id == "a" && arguments[0] == "drop") {
                assert_eq!(world.query(id, "SELECT text FROM notes"), ["kept"], "{what}");
            }
        }
        world.expect(0, &["status", "--check"]);
        let leftovers = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenantry%' AND nspname <> 'tenantry_journal'";
        world.expect(0, &["doctor", "--clean"]);
        assert_eq!(world.database().run(&["-c", leftovers]), Vec::<String>::new(), "{what}");
    }
}

/// A fleet at the newest version if `is_new`, otherwise at the first.
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

/// Completes an upgrade. If a migration outside a transaction was interrupted, the project is dirty: first its index is
/// dropped and the version before it is stamped.
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
