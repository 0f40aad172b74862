//! The Postgres cluster that `scripts/postgres` starts for the tests, and servers private to one test. Tests use the
//! server's own `psql` and `pg_dump`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the tests with scripts/test or scripts/postgres cargo test")
    })
}

/// One of the server's programs, run as a user that may run a server.
fn server_program(name: &str) -> Command {
    let user = variable("TENANTRY_TEST_POSTGRES_AS");
    let mut words = user.split_whitespace().map(str::to_string).chain([name.to_string()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).current_dir("/");
    command
}

fn output(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A database on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Database {
    /// The folder of the server's socket.
    pub(crate) socket: String,
    pub(crate) port: u16,
    pub(crate) name: String,
}

impl Database {
    /// Creates a database on the cluster that all tests share.
    pub(crate) fn new() -> Self {
        Self::on(&variable("TENANTRY_TEST_POSTGRES"), 5432, "template0")
    }

    /// Creates a database on a server, as a copy of `template`.
    pub(crate) fn on(socket: &str, port: u16, template: &str) -> Self {
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        let database = Self { socket: socket.into(), port, name };
        database
            .neighbour("postgres")
            .run(&["-c", &format!("CREATE DATABASE {} TEMPLATE {template}", database.name)]);
        database
    }

    /// Another database on the same server.
    pub(crate) fn neighbour(&self, name: &str) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    pub(crate) fn drop(&self) {
        self.neighbour("postgres").run(&["-c", &format!("DROP DATABASE {} WITH (FORCE)", self.name)]);
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(format!("{}/{name}", variable("TENANTRY_TEST_POSTGRES_BIN")));
        command.env("PGHOST", &self.socket).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", &self.name);
        command
    }

    /// A `psql` command. If a project is given, its schema is the `search_path`.
    pub(crate) fn psql(&self, project: Option<&str>) -> Command {
        let mut command = self.program("psql");
        command.args(["-X", "-q", "-A", "-t", "-F", "|", "-P", "null=NULL", "-v", "ON_ERROR_STOP=1"]);
        let path = project.map_or(String::new(), |id| format!("-c search_path=\"project_{id}\" "));
        command.env("PGOPTIONS", format!("{path}-c client_min_messages=warning"));
        command
    }

    /// Runs `psql` and returns the lines it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = self.psql(None);
        command.args(arguments);
        output(command).lines().map(str::to_string).collect()
    }

    /// Like [`Database::run`], in a project's schema.
    pub(crate) fn run_in(&self, id: &str, arguments: &[&str]) -> Vec<String> {
        let mut command = self.psql(Some(id));
        command.args(arguments);
        output(command).lines().map(str::to_string).collect()
    }

    /// A dump of the database, without the random tokens that `pg_dump` writes.
    pub(crate) fn dump(&self, arguments: &[&str]) -> String {
        let is_random = |line: &&str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
        let mut command = self.program("pg_dump");
        command.args(arguments);
        output(command).lines().filter(|line| !is_random(line)).collect::<Vec<_>>().join("\n")
    }
}

/// A temporary folder in which the server's user can write.
fn server_folder() -> TempDir {
    // A socket's path is limited to about 100 bytes.
    let folder = tempfile::Builder::new().prefix("tenantry-").tempdir_in("/tmp").unwrap();
    let mut open = std::fs::metadata(folder.path()).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o777);
    std::fs::set_permissions(folder.path(), open).unwrap();
    folder
}

/// A server private to one test, which can be stopped and started again.
pub(crate) struct Server {
    folder: TempDir,
}

impl Server {
    /// Starts a server with these lines added to its configuration, and with this `pg_hba.conf` unless it is empty.
    pub(crate) fn new(settings: &str, hba: &str) -> Self {
        let server = Self { folder: server_folder() };
        let mut init = server_program(&format!("{}/initdb", variable("TENANTRY_TEST_POSTGRES_BIN")));
        init.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        init.arg(server.data());
        output(init);
        let socket = server.socket();
        let settings = format!("unix_socket_directories = '{socket}'\nlisten_addresses = ''\n{settings}\n");
        server.append("postgresql.conf", &settings);
        if !hba.is_empty() {
            server.write("pg_hba.conf", hba);
        }
        server.start();
        server
    }

    pub(crate) fn socket(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Appends to a file in the server's data directory.
    pub(crate) fn append(&self, file: &str, text: &str) {
        let path = self.data().join(file);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        self.write(file, &(before + text));
    }

    /// Writes a file in the data directory that only the server's user can read.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let mut command = server_program("sh");
        command.args(["-c", "umask 077; cat > \"$0\""]).arg(self.data().join(file)).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// The server's log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = server_program(&format!("{}/pg_ctl", variable("TENANTRY_TEST_POSTGRES_BIN")));
        command.arg("-D").arg(self.data()).arg("-l").arg(self.folder.path().join("log")).args(arguments);
        // A started server keeps the output of `pg_ctl` open, so reading it would not end before the server does.
        let status =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(status.success(), "pg_ctl {arguments:?}: {log}");
    }

    pub(crate) fn start(&self) {
        self.control(&["-w", "start"]);
    }

    /// Stops the server with mode `immediate`, as a crash would.
    pub(crate) fn crash(&self) {
        self.control(&["-m", "immediate", "stop"]);
    }

    pub(crate) fn restart(&self) {
        self.control(&["-w", "-m", "fast", "restart"]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = server_program(&format!("{}/pg_ctl", variable("TENANTRY_TEST_POSTGRES_BIN")));
        command.arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]);
        // The server may already be stopped.
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let mut remove = server_program("rm");
        let _ = remove.arg("-rf").arg(self.data()).status();
    }
}

/// A `pgbouncer` in front of a server, in transaction mode: each transaction may use another connection.
pub(crate) struct Pooler {
    process: Child,
    folder: TempDir,
}

impl Pooler {
    /// Starts a pooler that connects every client as the user `postgres`.
    pub(crate) fn new(socket: &str, settings: &str) -> Self {
        Self::start(socket, "user=postgres", "any", settings, "")
    }

    /// Starts a pooler through which these users log in under their own names.
    pub(crate) fn for_users(socket: &str, users: &[&str]) -> Self {
        let lines: Vec<_> = users.iter().map(|user| format!("\"{user}\" \"\"")).collect();
        Self::start(socket, "", "trust", "", &lines.join("\n"))
    }

    fn start(socket: &str, user: &str, authentication: &str, settings: &str, users: &str) -> Self {
        let folder = server_folder();
        std::fs::write(folder.path().join("users"), users).unwrap();
        let here = folder.path().display();
        let configuration = format!(
            "[databases]\n* = host={socket} {user}\n[pgbouncer]\nlisten_port = 5432\nunix_socket_dir = {here}\n\
             auth_type = {authentication}\nauth_file = {here}/users\npool_mode = transaction\ndefault_pool_size = 4\nserver_lifetime = 5\nlogfile = {here}/log\n{settings}\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, configuration).unwrap();
        let mut command = server_program(&variable("TENANTRY_TEST_PGBOUNCER"));
        let process = command.arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pooler = Self { process, folder };
        for _ in 0..100 {
            if Path::new(&pooler.socket()).join(".s.PGSQL.5432").exists() {
                return pooler;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{}", std::fs::read_to_string(pooler.folder.path().join("log")).unwrap_or_default());
    }

    pub(crate) fn socket(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// The URL of a database through the pooler.
    pub(crate) fn url(&self, database: &Database) -> String {
        format!("postgres://postgres@/{}?host={}", database.name, self.socket())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // `setpriv` replaces itself with the program, so this kills the pooler.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
