//! A fleet for a test: databases of the application's own or made up, migrations, and the real binary.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::SystemTime;

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// A fleet in a folder of its own, gone when it is dropped.
pub(crate) struct World {
    folder: TempDir,
    migrations: Option<PathBuf>,
}

/// A process that stands in for an application: see [`World::application`].
pub(crate) struct Application {
    process: Child,
    /// Open to its end: a process whose output nobody takes would fail.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

const READY: &str = "the application is ready";

/// No test by itself: what [`World::application`] starts.
#[test]
fn plays_the_application() {
    let Ok(path) = std::env::var("TENANTRY_TEST_DATABASE") else { return };
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(&std::env::var("TENANTRY_TEST_SQL").unwrap()).unwrap();
    println!("\n{READY}");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// An empty fleet of SQLite files.
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        Self { folder, migrations: None }
    }

    /// The folder around the store, for whatever else a test needs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.data().join(format!("project_{id}.db"))
    }

    /// Copies the application's eleven databases into the store.
    pub(crate) fn with_legacy(&mut self) -> &mut Self {
        for number in 1..=11 {
            self.with_legacy_as(number, &number.to_string());
        }
        self
    }

    /// Copies one of the application's databases into the store.
    pub(crate) fn with_legacy_as(&mut self, number: u32, id: &str) -> &mut Self {
        std::fs::copy(legacy(number), self.path(id)).unwrap();
        self
    }

    /// Gives the fleet migrations: folder names with their up.sql. A down.sql follows `-- down`, a metadata.toml `-- metadata`.
    pub(crate) fn with_migrations(&mut self, migrations: &[(&str, &str)]) -> &mut Self {
        let root = self.folder.path().join("migrations");
        if root.exists() {
            std::fs::remove_dir_all(&root).unwrap();
        }
        for (name, text) in migrations {
            let folder = root.join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let (text, metadata) =
                text.split_once("-- metadata\n").map_or((*text, None), |(a, b)| (a, Some(b)));
            let (up, down) = text.split_once("-- down\n").map_or((text, None), |(a, b)| (a, Some(b)));
            std::fs::write(folder.join("up.sql"), up).unwrap();
            for (file, text) in [("down.sql", down), ("metadata.toml", metadata)] {
                if let Some(text) = text {
                    std::fs::write(folder.join(file), text).unwrap();
                }
            }
        }
        self.migrations = Some(root);
        self
    }

    /// Makes a project's database by SQL, without tenantry.
    pub(crate) fn with_project(&mut self, id: &str, sql: &str) -> &mut Self {
        self.execute(id, sql);
        self
    }

    pub(crate) fn execute(&self, id: &str, sql: &str) {
        self.connect(id).execute_batch(sql).unwrap();
    }

    /// An application's connection, foreign keys enforced.
    pub(crate) fn connect(&self, id: &str) -> Connection {
        let connection = Connection::open(self.path(id)).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        connection
    }

    /// The rows of a query, every value as SQL would write it.
    pub(crate) fn query(&self, id: &str, sql: &str) -> Vec<String> {
        rows(&self.connect(id), sql)
    }

    /// Every row of every table that is the application's, by table.
    pub(crate) fn contents(&self, id: &str) -> BTreeMap<String, Vec<String>> {
        contents(&self.connect(id))
    }

    /// An application in another process that has run this SQL and keeps its connection, and its locks, until it is
    /// dropped. In this process they would not last: reading a database's file to compare it drops them (trap 15).
    pub(crate) fn application(&self, id: &str, sql: &str) -> Application {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "world::plays_the_application", "--nocapture"]);
        command.env("TENANTRY_TEST_DATABASE", self.path(id)).env("TENANTRY_TEST_SQL", sql);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(READY)), "the application died: {sql}");
        Application { process, _output: lines }
    }

    /// The versions in diesel's table.
    pub(crate) fn versions(&self, id: &str) -> Vec<String> {
        self.query(id, "SELECT version FROM __diesel_schema_migrations ORDER BY version")
    }

    /// A command on this store and these migrations.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
        command
            .current_dir(self.folder.path())
            .arg("--store")
            .arg(format!("sqlite:{}", self.data().display()));
        if let Some(migrations) = &self.migrations {
            command.arg("--migrations").arg(migrations);
        }
        command.args(arguments);
        for variable in
            ["TENANTRY_STORE", "TENANTRY_SET", "TENANTRY_MIGRATIONS", "TENANTRY_ENV", "TENANTRY_CONFIG"]
        {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Runs with JSON; fails the test unless the exit code is the one expected.
    pub(crate) fn expect(&self, code: i32, arguments: &[&str]) -> Report {
        let ran = self.run(&[&["--format", "json"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        Report(ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Everything that can be seen of the store without opening a database: names, bytes, sizes, times.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime, u32)> {
        snapshot(&self.data())
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A run's events.
pub(crate) struct Report(pub(crate) Vec<Value>);

impl Report {
    /// What became of a project.
    pub(crate) fn project(&self, id: &str) -> &Value {
        let is_it = |event: &&Value| event["event"] == "project_finished" && event["project"] == id;
        self.0.iter().find(is_it).unwrap_or_else(|| panic!("no {id} in {:?}", self.0))
    }

    pub(crate) fn outcome(&self, id: &str) -> &str {
        self.project(id)["outcome"].as_str().unwrap()
    }

    /// The code and the message of a blocked project's first problem.
    pub(crate) fn problem(&self, id: &str) -> (&str, &str) {
        let problem = &self.project(id)["problems"][0];
        (problem["code"].as_str().unwrap_or(""), problem["message"].as_str().unwrap_or(""))
    }

    /// The kind and the message of a failed project's error.
    pub(crate) fn error(&self, id: &str) -> (&str, &str) {
        let error = &self.project(id)["error"];
        (error["kind"].as_str().unwrap_or(""), error["message"].as_str().unwrap_or(""))
    }

    /// How many had an outcome.
    pub(crate) fn count(&self, outcome: &str) -> u64 {
        self.0.last().unwrap()["outcomes"][outcome].as_u64().unwrap_or(0)
    }

    /// The events of a kind.
    pub(crate) fn events(&self, name: &str) -> Vec<&Value> {
        self.0.iter().filter(|event| event["event"] == name).collect()
    }
}

/// One of the application's databases, as its own models made it.
pub(crate) fn legacy(number: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/legacy/project_{number}.db"))
}

pub(crate) fn rows(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(sql).unwrap();
    let count = statement.column_count();
    let read = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
        let values: Result<Vec<_>, _> =
            (0..count).map(|column| row.get::<_, rusqlite::types::Value>(column)).collect();
        let show = |value: &rusqlite::types::Value| match value {
            rusqlite::types::Value::Null => "NULL".to_string(),
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Real(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text.clone(),
            rusqlite::types::Value::Blob(bytes) => format!("{bytes:?}"),
        };
        Ok(values?.iter().map(show).collect::<Vec<_>>().join("|"))
    };
    statement.query_map((), read).unwrap().map(Result::unwrap).collect()
}

pub(crate) fn contents(connection: &Connection) -> BTreeMap<String, Vec<String>> {
    let tables = rows(
        connection,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT IN \
         ('__diesel_schema_migrations', 'tenantry_history')",
    );
    tables
        .into_iter()
        .map(|table| (table.clone(), rows(connection, &format!("SELECT * FROM \"{table}\" ORDER BY 1"))))
        .collect()
}

pub(crate) fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        let bytes = if metadata.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path, (bytes, metadata.modified().unwrap(), metadata.mode()));
    }
    found
}

/// A database is sound: no damage, no violated foreign key.
pub(crate) fn assert_sound(connection: &Connection) {
    assert_eq!(rows(connection, "PRAGMA integrity_check"), ["ok"]);
    assert_eq!(rows(connection, "PRAGMA foreign_key_check"), Vec::<String>::new());
}
